// Convolution and its gradient, as matrix products whose columns are never written.
//
//   y[f,i,j,n] = b[f] + sum over c,p,q of w[f,c,p,q] * x[c, i*s+p-top, j*s+q-left, n],  x = 0 outside
//
// is (weights) (columns) with the terms k = (p,q,c) and the columns m = (i,j,n).  A block makes a tile of y,
// TF filters x TN columns.  Which number of x stands at [k,m] of the matrix of columns is a matter of
// indices, so the block copies each piece of it straight from x when it comes to it (implicit GEMM).
//
// Images are innermost: a tile's row is runs of neighbouring images of one pixel, contiguous in x.  A thread
// copies V images of one column m all the way through, so that i, j, n are found once.  Of the terms the
// channel runs fastest: as long as the tap (p,q) is the same, the next number is so many maps further on.
//
// x (C,H,W,N), y (F,OH,OW,N), for each group; groups lie one after the other.

#ifndef V
#define V 1 // images that are copied at once: N is a multiple of it
#endif
#ifndef TF
#define TF 64
#define TN 64
#define TK 8
#define STAGES 2
#define PF 1
#define PN 1
#define BLOCKS 1 // that a multiprocessor should hold
#endif

#include "tiles.cuh"

#define FAR (1 << 20) // no picture is so large: it marks what lies outside

// The weights as the products read them: for each tile of TF filters, the terms one below the other.
//
//   out[g, tile, k, r] = w[first + g*by_group + f*by_filter + p*by_row + q*by_column + c*by_channel]
//                        with f = tile*TF + r and k = (p*KW + q)*C + c; 0 where f >= F or p >= KH
//
// For the tensor cores they are rounded and in another order.
//
// reads   w
// writes  out (groups, tiles, terms, TF), terms: C*KH*KW, up to a multiple of TK
// least   4 * (groups*F*C*KH*KW + groups*tiles*terms*TF) bytes
// grid    (ceil(terms*TF / block), tiles, groups)
extern "C" __global__ void lay_out_weights(const REAL *w, REAL *out, int F, int C, int KH, int KW, int terms,
                                           int first, int by_group, int by_filter, int by_row,
                                           int by_column, int by_channel)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= terms * TF)
        return;
    int r = t % TF, row = t / TF;
#if TF32 // of 8 terms and 16 filters the order in which a warp's threads hold them: tiles.cuh
    int lane = t % 128 / 4, e = t % 4;
    row = t / (8 * TF) * 8 + lane % 4 + e / 2 * 4;
    r = t % (8 * TF) / 128 * 16 + lane / 4 + e % 2 * 8;
#endif
    int f = blockIdx.y * TF + r;
    Digits k = digits(row, KW, C); // p, q, c
    long long from = first + (long long)blockIdx.z * by_group + (long long)f * by_filter + k.a * by_row +
                     k.b * by_column + (long long)k.c * by_channel;
    REAL value = f < F && k.a < KH ? w[from] : (REAL)0;
#if TF32
    value = __uint_as_float(to_tf32(value));
#endif
    out[((long long)blockIdx.z * gridDim.y + blockIdx.y) * terms * TF + t] = value;
}

#define PAD (TF32 ? 8 : 0) // numbers after each row, so that a warp's 4 x 8 loads lie in different banks

// A stage with the terms one below the other: a[k][f], b[k][n].  Thread (ty,tx) of 4 x 8 has the patches of 4
// filters from 4*ty + 16*h and of 4 columns from 4*tx + 32*h.
static __device__ __forceinline__ void multiply_columns(const REAL (*a)[TF], const REAL (*b)[TN + PAD],
                                                        Place at, Sums *sum)
{
#if TF32
    int g = at.lane / 4, t = at.lane % 4;
#pragma unroll
    for (int k = 0; k < TK; k += 8) {
        unsigned int u[PF][4], v[4 * PN][2];
#pragma unroll
        for (int r = 0; r < PF; r++) {
            Four four = *(const Four *)&a[k][(at.f / 16 + r) * 128 + at.lane * 4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                u[r][e] = __float_as_uint(four.of[e]); // they are rounded already
        }
#pragma unroll
        for (int c = 0; c < 4 * PN; c++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                v[c][e] = to_tf32(b[k + t + 4 * e][at.n + 8 * c + g]);
        multiply_8_terms(u, v, sum);
    }
#else
    int ty = at.lane / 8, tx = at.lane % 8;
#pragma unroll
    for (int k = 0; k < TK; k++) {
        Four u[PF], v[PN];
#pragma unroll
        for (int h = 0; h < PF; h++)
            u[h] = *(const Four *)&a[k][at.f + 4 * ty + 16 * h];
#pragma unroll
        for (int h = 0; h < PN; h++)
            v[h] = *(const Four *)&b[k][at.n + 4 * tx + 32 * h];
#pragma unroll
        for (int r = 0; r < 4 * PF; r++)
#pragma unroll
            for (int c = 0; c < 4 * PN; c++)
                sum->of[r][c] += u[r / 4].of[r % 4] * v[c / 4].of[c % 4];
    }
#endif
}

// Where sum->of[r][c] belongs in the block's tile; SIDE_BY_SIDE columns c, c+1, ... are neighbours.
#define SIDE_BY_SIDE (TF32 ? 2 : 4)

static __device__ __forceinline__ int filter_held(Place at, int r)
{
    return TF32 ? at.f + 8 * r + at.lane / 4 : at.f + at.lane / 8 * 4 + r / 4 * 16 + r % 4;
}

static __device__ __forceinline__ int column_held(Place at, int c)
{
    return at.n + (TF32 ? c / 2 * 8 + at.lane % 4 * 2 + c % 2 : c / 4 * 32 + at.lane % 8 * 4 + c % 4);
}

struct Stage {
    REAL w[TK][TF], x[TK][TN + PAD];
};

// Pixel (i,j) of the result is pixel (y0 + i*apart, x0 + j*apart) of y, whose maps are YH x YW.
struct Picture {
    REAL *y;
    int OW, N, YH, YW, apart, y0, x0;

    __device__ __forceinline__ REAL *place(int f, int column) const
    {
        Digits at = digits(column, OW, N); // i, j, n
        return y + (((long long)f * YH + y0 + at.a * apart) * YW + x0 + at.b * apart) * N + at.c;
    }
};

// What is left to do with a sum; `bias` may be null.
static __device__ __forceinline__ REAL finished(REAL sum, const REAL *bias, int f, int relu)
{
    if (bias)
        sum += bias[f];
    return relu && sum < 0 ? (REAL)0 : sum;
}

// A block makes one tile, and tiles of equal size come in waves: as many at once as the multiprocessors hold.
// If the last wave does not fill them, they are idle for most of it.  So its tiles, those from number `whole`
// on, are cut: a block for each of `chunks` parts of the terms, whose sums go to `part`; add_chunks_of_terms
// adds them.
struct Work {
    int f, column, group, first, last, piece; // where the tile begins, its steps, its number in `part` or -1
};

static __device__ __forceinline__ Work work_of_block(int steps, int columns, int filters, int whole, int chunks)
{
    int b = blockIdx.x, cut = b - whole, across = (columns + TN - 1) / TN, down = (filters + TF - 1) / TF;
    Digits tile = digits(cut < 0 ? b : whole + cut / chunks, down, across);
    Work work = {tile.b * TF, tile.c * TN, tile.a, 0, steps, -1};
    if (cut >= 0) {
        work.first = (int)((long long)steps * (cut % chunks) / chunks);
        work.last = (int)((long long)steps * (cut % chunks + 1) / chunks);
        work.piece = cut;
    }
    return work;
}

static __device__ __forceinline__ void tile(const REAL *x, const REAL *w, const REAL *bias, Picture out,
                                            REAL *part, int C, int H, int W, int N, int F, int KH, int KW,
                                            int OH, int OW, int s, int top, int left, int relu, int whole,
                                            int chunks)
{
    __shared__ __align__(16) Stage stages[STAGES];
    const int AT_ONCE = THREADS / (TN / V);       // terms for which all threads copy a run
    static_assert(AT_ONCE > 0, "the threads do not reach all columns of a stage");
    const int ROWS = AT_ONCE < TK ? AT_ONCE : TK; // the same, but not more than there are
    const int SIZE = (int)sizeof(Stage), WIDE = 16 / (int)sizeof(REAL);
    int tid = threadIdx.x, columns = OH * OW * N;
    int terms = (C * KH * KW + TK - 1) / TK * TK;
    const Work work = work_of_block(terms / TK, columns, F, whole, chunks);

    // This thread copies V images of column m = (i,j,n), of the terms k = row, row + ROWS, ... of each step
    int row = tid / (TN / V), col = tid % (TN / V) * V;
    int m = work.column + col;
    Digits pixel = digits(m, OW, N);
    int u0 = m < columns ? pixel.a * s - top : -FAR, v0 = pixel.b * s - left;
    Digits k = digits(work.first * TK + row, KW, C); // p, q, c
    const Digits on = digits(ROWS, KW, C);
    const long long map = (long long)H * W * N, group = work.group * C * map + pixel.c;
    long long from;
    bool there;
    auto find = [&] { // where term k of the column is
        int u = u0 + k.a, v = v0 + k.b;
        there = k.a < KH && (unsigned int)u < (unsigned int)H && (unsigned int)v < (unsigned int)W;
        from = group + k.c * map + (long long)(u * W + v) * N;
    };
    find();

    Shared to_w = shared_place(stages[0].w), to_x = shared_place(&stages[0].x[row % TK][col]);
    long long tiles_before = (long long)work.group * ((F + TF - 1) / TF) + work.f / TF;
    w += (tiles_before * terms + work.first * TK) * TF + tid * WIDE;

    auto copy_stage = [&](int stage) {
#pragma unroll
        for (int e = 0; e < TK * TF; e += THREADS * WIDE) {
            int place = e + tid * WIDE;
            if (TK * TF % (THREADS * WIDE) == 0 || place < TK * TF)
                copy_later<16>(to_w + stage * SIZE + place * (int)sizeof(REAL), w + e, true);
        }
        w += TK * TF;
        if (AT_ONCE > TK && row >= TK)
            return;
#pragma unroll
        for (int r = 0; r < TK; r += ROWS) {
            const int below = r * (TN + PAD) * (int)sizeof(REAL);
            copy_later<(int)sizeof(Run)>(to_x + stage * SIZE + below, x + from, there);
            if (k.c + ROWS < C) { // the same tap of a later channel
                k.c += ROWS;
                from += ROWS * map;
            } else {
                count(&k, on, KW, C);
                find();
            }
        }
    };

    Sums sum = {};
    const int steps = work.last - work.first;
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
        __syncthreads();        // all threads' are, and nobody reads the stage before any more
        if (step + STAGES - 1 < steps)
            copy_stage(next);
        commit();
        multiply_columns(stages[stage].w, stages[stage].x, at, &sum);
        next = stage;
        stage = stage + 1 < STAGES ? stage + 1 : 0;
    }

    const int PIECE = V < SIDE_BY_SIDE ? V : SIDE_BY_SIDE; // sums that are written at once
    struct __align__(sizeof(REAL) * PIECE) Piece {
        REAL of[PIECE];
    };
#pragma unroll
    for (int c = 0; c < COLUMNS_HELD; c += PIECE) {
        int column = column_held(at, c);
        if (work.column + column >= columns)
            continue;
        REAL *maps = out.place(work.group * F + work.f, work.column + column);
#pragma unroll
        for (int r = 0; r < ROWS_HELD; r++) {
            int f = filter_held(at, r);
            if (work.f + f >= F)
                continue;
            Piece sums;
#pragma unroll
            for (int e = 0; e < PIECE; e++)
                sums.of[e] = sum.of[r][c + e];
            if (work.piece >= 0) {
                *(Piece *)(part + ((long long)work.piece * TF + f) * TN + column) = sums;
                continue;
            }
#pragma unroll
            for (int e = 0; e < PIECE; e++)
                sums.of[e] = finished(sums.of[e], bias, work.group * F + work.f + f, relu);
            *(Piece *)(maps + (long long)f * out.YH * out.YW * N) = sums;
        }
    }
}

// y = w * x + b, through ReLU if relu is set.  A NaN stays a NaN.
//
// reads   x, w (as laid out), b
// writes  y, but of the tiles from number `whole` on: part (tiles, chunks, TF, TN)
// least   4 * (groups*C*H*W*N + groups*F*C*KH*KW + groups*F + groups*F*OH*OW*N) bytes
// grid    (whole + chunks * the other tiles)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_forward(
    const REAL *x, const REAL *w, const REAL *b, REAL *y, REAL *part, int C, int H, int W, int N, int F, int KH,
    int KW, int OH, int OW, int s, int top, int left, int relu, int whole, int chunks)
{
    tile(x, w, b, {y, OW, N, OH, OW, 1, 0, 0}, part, C, H, W, N, F, KH, KW, OH, OW, s, top, left, relu, whole,
         chunks);
}

// The gradient with respect to the input is a convolution of the gradient g of the sums:
//
//   dx[c,u,v,n] = sum of w[f,c,p,q] * g[f,i,j,n] over all i*s+p-top = u, j*s+q-left = v
//
// With stride 1, i = u + top - p: the kernel turned, C and F exchanged.  With stride s the pixels u with the
// same remainder of u + top meet the same taps p, p + s, ..., and neighbours among them meet neighbouring i:
// a convolution of stride 1 again for each of the s*s remainders, which makes every s-th pixel of dx.
//
// reads   g (F,H,W,N), w (as laid out: turned)
// writes  OH x OW pixels of every map of dx (C,YH,YW,N): all, with stride 1; part as conv_forward
// least   4 * (groups*F*H*W*N + groups*F*C*KH*KW + groups*C*OH*OW*N) bytes
// grid    (whole + chunks * the other tiles)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_backward_x(
    const REAL *g, const REAL *w, REAL *dx, REAL *part, int F, int H, int W, int N, int C, int KH, int KW,
    int OH, int OW, int top, int left, int YH, int YW, int apart, int y0, int x0, int whole, int chunks)
{
    tile(g, w, 0, {dx, OW, N, YH, YW, apart, y0, x0}, part, F, H, W, N, C, KH, KW, OH, OW, 1, top, left, 0, whole,
         chunks);
}

// The products of minimal filtering (winograd.cu): m = u * v for each group, a matrix product without taps.  There
// are so many tiles that none is cut.
//
// reads   v (groups, C, columns), u (as laid out)
// writes  m (groups, F, columns)
// least   4 * groups*(C*columns + F*C + F*columns) bytes
// grid    (the tiles)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) winograd_products(
    const REAL *v, const REAL *u, REAL *m, int C, int F, int columns)
{
    tile(v, u, 0, {m, 1, columns, 1, 1, 1, 0, 0}, m, C, 1, 1, columns, F, 1, 1, 1, 1, 1, 0, 0, 0, gridDim.x, 1);
}

// The tiles that were cut, from their parts: always added in the same order, so that every run has the same
// bits.  F filters a group, M columns; forward: with b and relu, else b is not read.
//
// reads   part, b
// writes  the tiles of y from number `whole` on
// least   4 * (tiles*chunks + tiles)*TF*TN bytes
// grid    (ceil(TF*TN / block), tiles)
extern "C" __global__ void add_chunks_of_terms(const REAL *part, const REAL *b, REAL *y, int M, int N, int F,
                                               int OW, int YH, int YW, int apart, int y0, int x0, int forward,
                                               int relu, int whole, int chunks)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= TF * TN)
        return;
    Digits at = digits(whole + blockIdx.y, (F + TF - 1) / TF, (M + TN - 1) / TN); // group, filters, columns
    int f = at.b * TF + t / TN, column = at.c * TN + t % TN;
    if (f >= F || column >= M)
        return;
    REAL sum = 0;
    for (int chunk = 0; chunk < chunks; chunk++)
        sum += part[((long long)blockIdx.y * chunks + chunk) * TF * TN + t];
    Picture out = {y, OW, N, YH, YW, apart, y0, x0};
    *out.place(at.a * F + f, column) = finished(sum, forward ? b : 0, at.a * F + f, relu);
}
