// The gradients of a convolution with respect to its weights and biases.
//
//   dw[f,c,p,q] = sum over i,j,n of g[f,i,j,n] * x[c, i*s+p-top, j*s+q-left, n]       g: of y without the activation
//   db[f]       = sum over i,j,n of g[f,i,j,n]
//
// is g (columns)^T: filters f by taps k = (c,p,q), and the terms are the columns m = (i,j,n).  A block makes a
// tile of TF filters x TN taps.  There are few tiles and very many terms, so the terms are cut into chunks, a
// block for each; a second kernel adds the chunks' sums, always in the same order: the same bits in every run.
//
// In g and in x the terms lie side by side, so the tiles keep them so: a row of a stage is TK terms of one
// filter or one tap.  A thread copies V terms of the same rows all the way through, so that its taps are
// found once, and the column (i,j,n) is counted on by additions.

#ifndef V
#define V 1
#endif
#ifndef TF
#define TF 64
#define TN 64
#define TK 8
#define STAGES 2
#define PF 1
#define PN 1
#define BLOCKS 1
#endif
#ifndef UNROLL
#define UNROLL 1
#endif

#include "tiles.cuh"

#if TF32 && !defined(STAND_IN)
// Four matrices of 8 x 4 numbers: out[m] is [g][t] of matrix m, whose row r stands where thread 8m + r says.
static __device__ __forceinline__ void load_matrices(float *out, const float *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=f"(out[0]), "=f"(out[1]), "=f"(out[2]), "=f"(out[3])
                 : "r"(shared_place((void *)row))
                 : "memory");
}
#endif

// A stage with the terms side by side: a[f][k], b[n][k].  Thread (ty,tx) has the filters ty + 4*r and the
// columns tx + 8*c of the warp's tile, and takes four terms at a time.
#define PITCH (TK + 16 / (int)sizeof(REAL)) // of a row, so that 8 rows' runs lie in different banks

static __device__ __forceinline__ void multiply_rows(const REAL (*a)[PITCH], const REAL (*b)[PITCH], Place at,
                                                     Sums *sum)
{
#if TF32
    // of the matrices of 8 x 4: a's are rows 0 ... 7 and 8 ... 15 of the first four terms, then of the next; b's
    // are both fours of terms of one 8 rows, then of the next 8
    a += at.f + at.lane % 16, b += at.n + at.lane / 16 * 8 + at.lane % 8;
    int terms_a = at.lane / 16 * 4, terms_b = at.lane / 8 % 2 * 4;
#pragma unroll
    for (int k = 0; k < TK; k += 8) {
        float p[4];
        unsigned int u[PF][4], v[4 * PN][2];
#pragma unroll
        for (int r = 0; r < PF; r++) {
            load_matrices(p, &a[16 * r][k + terms_a]);
#pragma unroll
            for (int e = 0; e < 4; e++)
                u[r][e] = to_tf32(p[e]);
        }
#pragma unroll
        for (int c = 0; c < 4 * PN; c += 2) {
            load_matrices(p, &b[8 * c][k + terms_b]);
#pragma unroll
            for (int e = 0; e < 4; e++)
                v[c + e / 2][e % 2] = to_tf32(p[e]);
        }
        multiply_8_terms(u, v, sum);
    }
#else
    int ty = at.lane / 8, tx = at.lane % 8;
    const int AT_ONCE = UNROLL;
#pragma unroll AT_ONCE
    for (int k = 0; k < TK; k += 4) {
        Four v[COLUMNS_HELD];
#pragma unroll
        for (int c = 0; c < COLUMNS_HELD; c++)
            v[c] = *(const Four *)&b[at.n + tx + 8 * c][k];
#pragma unroll
        for (int r = 0; r < ROWS_HELD; r++) {
            Four u = *(const Four *)&a[at.f + ty + 4 * r][k];
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int c = 0; c < COLUMNS_HELD; c++)
                    sum->of[r][c] += u.of[e] * v[c].of[e];
        }
    }
#endif
}

// Where sum->of[r][c] belongs in the block's tile.
static __device__ __forceinline__ int filter_held_w(Place at, int r)
{
    return TF32 ? at.f + 8 * r + at.lane / 4 : at.f + 4 * r + at.lane / 8;
}

static __device__ __forceinline__ int tap_held(Place at, int c)
{
    return at.n + (TF32 ? c / 2 * 8 + at.lane % 4 * 2 + c % 2 : 8 * c + at.lane % 8);
}

struct StageW {
    REAL g[TF][PITCH], x[TN][PITCH];
};

// The sums over chunk number blockIdx.z / groups: `per` columns, a multiple of TK.  The last place of a row of
// part is for db, with `biases`; without, it keeps the rows that are read together from the same banks of memory.
static __device__ __forceinline__ void tile_w(const REAL *g, const REAL *x, REAL *part, int C, int H, int W, int N,
                                              int F, int KH, int KW, int OH, int OW, int s, int top, int left,
                                              int groups, int per, bool biases)
{
    __shared__ __align__(16) StageW stages[STAGES];
    const int ROWS = THREADS / (TK / V); // rows that the block copies at once
    const int FS = (TF + ROWS - 1) / ROWS, NS = (TN + ROWS - 1) / ROWS, SIZE = (int)sizeof(StageW);
    const int BELOW = ROWS * PITCH * (int)sizeof(REAL);
    int tid = threadIdx.x, group = blockIdx.z % groups, chunk = blockIdx.z / groups;
    int M = OH * OW * N, K = C * KH * KW;

    // This thread copies V terms of the filters and taps row, row + ROWS, ..., at the columns m, m + TK, ...
    int row = tid / (TK / V), col = tid % (TK / V) * V;
    int m = chunk * per + col, end = chunk * per + per < M ? chunk * per + per : M;
    int steps = (end - chunk * per + TK - 1) / TK;
    Digits pixel = digits(m, OW, N); // i, j, n
    const Digits on = digits(TK, OW, N);
    int f0 = blockIdx.y * TF + row;
    g += (long long)(group * F + f0) * M + m;
    x += (long long)group * C * H * W * N;
    const REAL *pixel_at;  // a tap's number of this pixel stands so many behind it:
    long long tap_at[NS];
    int tap[NS];         // and the tap's row and column, in one number
    unsigned int inside; // bit r: it is not padding
#pragma unroll
    for (int r = 0; r < NS; r++) {
        int k = blockIdx.x * TN + row + r * ROWS;
        Digits at = digits(k, KH, KW); // c, p, q
        int p = k < K ? at.b - top : 0x7FFF, q = at.c - left; // a row that no picture has
        tap_at[r] = k < K ? (((long long)at.a * H + p) * W + q) * N : 0;
        tap[r] = p << 16 | (q & 0xFFFF);
    }
    auto find = [&] { // where the pixel's numbers are
        pixel_at = x + (long long)(pixel.a * W + pixel.b) * s * N + pixel.c;
        inside = 0;
#pragma unroll
        for (int r = 0; r < NS; r++) {
            int u = pixel.a * s + (tap[r] >> 16), v = pixel.b * s + (short)tap[r];
            if ((unsigned int)u < (unsigned int)H && (unsigned int)v < (unsigned int)W)
                inside |= 1u << r;
        }
    };
    find();

    Shared to_g = shared_place(&stages[0].g[row % TF][col]), to_x = shared_place(&stages[0].x[row % TN][col]);

    auto copy_stage = [&](int stage) {
#pragma unroll
        for (int r = 0; r < FS; r++)
            if (TF % ROWS == 0 || row + r * ROWS < TF)
                copy_later<(int)sizeof(Run)>(to_g + stage * SIZE + r * BELOW, g + (long long)(r * ROWS) * M,
                                             f0 + r * ROWS < F && m < end);
#pragma unroll
        for (int r = 0; r < NS; r++)
            if (TN % ROWS == 0 || row + r * ROWS < TN)
                copy_later<(int)sizeof(Run)>(to_x + stage * SIZE + r * BELOW, pixel_at + tap_at[r],
                                             (inside >> r & 1) && m < end);
        m += TK;
        g += TK;
        if (pixel.c + TK < N) { // the same pixel of later images
            pixel.c += TK;
            pixel_at += TK;
        } else {
            count(&pixel, on, OW, N);
            find();
        }
    };

    Sums sum = {};
    REAL db[FS] = {};
    Place at = place_in_block();
    int stage = 0, next = STAGES - 1; // that is multiplied, and that is filled
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps)
            copy_stage(step);
        commit();
    }
    for (int step = 0; step < steps; step++) {
        wait_for<STAGES - 2>(); // this thread's copies for this step are there
        if (biases && blockIdx.x == 0) // of the blocks with the same filters, one sums db
#pragma unroll
            for (int r = 0; r < FS; r++)
                if (TF % ROWS == 0 || row + r * ROWS < TF) {
                    Run run = *(const Run *)&stages[stage].g[row + r * ROWS][col];
#pragma unroll
                    for (int e = 0; e < V; e++)
                        db[r] += run.of[e];
                }
        __syncthreads(); // all threads' are, and nobody reads the stage before any more
        if (step + STAGES - 1 < steps)
            copy_stage(next);
        commit();
        multiply_rows(stages[stage].g, stages[stage].x, at, &sum);
        next = stage;
        stage = stage + 1 < STAGES ? stage + 1 : 0;
    }

    part += ((long long)chunk * groups + group) * F * (K + 1);
#pragma unroll
    for (int r = 0; r < ROWS_HELD; r++) {
        int f = blockIdx.y * TF + filter_held_w(at, r);
#pragma unroll
        for (int c = 0; c < COLUMNS_HELD; c++) {
            int k = blockIdx.x * TN + tap_held(at, c);
            if (f < F && k < K)
                part[(long long)f * (K + 1) + k] = sum.of[r][c];
        }
    }
    if (!biases || blockIdx.x)
        return;
    __syncthreads(); // nobody reads the stages any more
#pragma unroll
    for (int r = 0; r < FS; r++)
        if (TF % ROWS == 0 || row + r * ROWS < TF)
            stages[0].g[row + r * ROWS][col / V] = db[r];
    __syncthreads(); // what each thread has of db is there
    for (int r = tid, f = blockIdx.y * TF + r; r < TF && f < F; r += THREADS, f += THREADS) {
        REAL total = 0;
        for (int k = 0; k < TK / V; k++)
            total += stages[0].g[r][k];
        part[(long long)f * (K + 1) + K] = total;
    }
}

// reads   g, x
// writes  part (chunks, groups*F, C*KH*KW + 1): dw, and db in the last place
// least   4 * (groups*F*OH*OW*N + groups*C*H*W*N + chunks*groups*F*(C*KH*KW + 1)) bytes
// grid    (ceil(C*KH*KW / TN), ceil(F / TF), groups*chunks)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_backward_w(
    const REAL *g, const REAL *x, REAL *part, int C, int H, int W, int N, int F, int KH, int KW, int OH, int OW,
    int s, int top, int left, int groups, int per)
{
    tile_w(g, x, part, C, H, W, N, F, KH, KW, OH, OW, s, top, left, groups, per, true);
}

// The products of minimal filtering (winograd.cu) backward: part = g x^T for each group, over each chunk.
//
// reads   g (groups, F, columns), x (groups, C, columns)
// writes  part (chunks, groups*F, C + 1), but for the last places
// least   4 * (groups*F*columns + groups*C*columns + chunks*groups*F*C) bytes
// grid    (ceil(C / TN), ceil(F / TF), groups*chunks)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) winograd_products_back(
    const REAL *g, const REAL *x, REAL *part, int C, int F, int columns, int groups, int per)
{
    tile_w(g, x, part, C, 1, 1, columns, F, 1, 1, 1, 1, 1, 0, 0, groups, per, false);
}

// dw and db: the chunks' sums added, from the first chunk to the last.
//
// reads   part
// writes  dw (F, K), db (F)
// least   4 * (chunks*F*(K + 1) + F*(K + 1)) bytes
// grid    (ceil((K + 1) / block), F)
extern "C" __global__ void add_chunks(const REAL *part, REAL *dw, REAL *db, int F, int K, int chunks)
{
    int k = blockIdx.x * blockDim.x + threadIdx.x, f = blockIdx.y;
    if (k > K)
        return;
    REAL total = 0;
    for (int chunk = 0; chunk < chunks; chunk++)
        total += part[((long long)chunk * F + f) * (K + 1) + k];
    if (k < K)
        dw[(long long)f * K + k] = total;
    else
        db[f] = total;
}
