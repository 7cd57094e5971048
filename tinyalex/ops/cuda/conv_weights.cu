// The gradients of a convolution with respect to its weights and biases.
//
//   dw[f,c,p,q] = sum over i,j,n of g[f,i,j,n] * x[c, i*s+p-top, j*s+q-left, n]       g: dy through ReLU
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

#include "tiles.cuh"

#define FAR (1 << 20)

// The sums over chunk number blockIdx.z / groups: `per` columns, a multiple of TK.
//
// reads   dy, y (if relu is set), x
// writes  part (chunks, groups*F, C*KH*KW + 1): dw, and db in the last place
// least   4 * (2*groups*F*OH*OW*N + groups*C*H*W*N + chunks*groups*F*(C*KH*KW + 1)) bytes
// grid    (ceil(C*KH*KW / TN), ceil(F / TF), groups*chunks)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_backward_w(
    const REAL *dy, const REAL *y, const REAL *x, REAL *part, int C, int H, int W, int N, int F, int KH,
    int KW, int OH, int OW, int s, int top, int left, int relu, int groups, int per)
{
    __shared__ __align__(16) REAL gs[STAGES][TF][PITCH], xs[STAGES][TN][PITCH], ys[STAGES][TF][TK];
    const int ROWS = THREADS / (TK / V); // rows that the block copies at once
    const int FS = (TF + ROWS - 1) / ROWS, NS = (TN + ROWS - 1) / ROWS;
    int tid = threadIdx.x, g = blockIdx.z % groups, chunk = blockIdx.z / groups;
    int M = OH * OW * N, K = C * KH * KW;

    // what this thread copies: V terms from column m, of rows row, row + ROWS, ...
    int row = tid / (TK / V), col = tid % (TK / V) * V;
    int m = chunk * per + col, end = chunk * per + per < M ? chunk * per + per : M;
    Digits pixel = digits(m, OW, N); // i, j, n
    const Digits on = digits(TK, OW, N);
    int f0 = blockIdx.y * TF + row;
    int du[NS], dv[NS], tap[NS];
#pragma unroll
    for (int r = 0; r < NS; r++) {
        int k = blockIdx.x * TN + row + r * ROWS;
        Digits at = digits(k, KH, KW); // c, p, q
        du[r] = k < K ? at.b - top : -FAR;
        dv[r] = at.c - left;
        tap[r] = ((g * C + at.a) * H + at.b - top) * W + at.c - left;
    }

    auto copy_stage = [&](int stage) {
#pragma unroll
        for (int r = 0; r < FS; r++) {
            bool there = f0 + r * ROWS < F && m < end;
            long long from = there ? (long long)(g * F + f0 + r * ROWS) * M + m : 0;
            if (TF % ROWS == 0 || row + r * ROWS < TF) {
                copy_run(&gs[stage][row + r * ROWS][col], dy + from, there);
                if (relu)
                    copy_run(&ys[stage][row + r * ROWS][col], y + from, there);
            }
        }
#pragma unroll
        for (int r = 0; r < NS; r++) {
            int u = pixel.a * s + du[r], v = pixel.b * s + dv[r];
            bool there = m < end && (unsigned int)u < (unsigned int)H && (unsigned int)v < (unsigned int)W;
            long long from = there ? (long long)(tap[r] + (pixel.a * W + pixel.b) * s) * N + pixel.c : 0;
            if (TN % ROWS == 0 || row + r * ROWS < TN)
                copy_run(&xs[stage][row + r * ROWS][col], x + from, there);
        }
        m += TK;
        count(&pixel, on, OW, N);
    };

    Sums sum = {};
    REAL db[FS] = {};
    Place at = place_in_block();
    int steps = (end - chunk * per + TK - 1) / TK, next = STAGES - 1;
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps)
            copy_stage(step);
        commit();
    }
    for (int step = 0, stage = 0; step < steps; step++) {
        wait_for<STAGES - 2>(); // this thread's copies for this step are there
#pragma unroll
        for (int r = 0; r < FS; r++)
            if (TF % ROWS == 0 || row + r * ROWS < TF) {
                REAL *run = &gs[stage][row + r * ROWS][col];
                if (relu)
                    through_relu(run, &ys[stage][row + r * ROWS][col]);
                if (blockIdx.x == 0)
                    for (int e = 0; e < V; e++)
                        db[r] += run[e];
            }
        __syncthreads(); // all threads' are, and nobody reads the stage before any more
        if (step + STAGES - 1 < steps)
            copy_stage(next);
        commit();
        multiply_rows(gs[stage], xs[stage], at, &sum);
        next = next + 1 < STAGES ? next + 1 : 0;
        stage = stage + 1 < STAGES ? stage + 1 : 0;
    }

    part += ((long long)chunk * groups + g) * F * (K + 1);
#pragma unroll
    for (int r = 0; r < ROWS_HELD; r++) {
        int f = blockIdx.y * TF + filter_by_rows(at, r);
#pragma unroll
        for (int c = 0; c < COLUMNS_HELD; c++) {
            int k = blockIdx.x * TN + column_by_rows(at, c);
            if (f < F && k < K)
                part[(long long)f * (K + 1) + k] = sum.of[r][c];
        }
    }
    if (blockIdx.x)
        return;
    __syncthreads(); // the stages have been read: what each thread has of db goes there
#pragma unroll
    for (int r = 0; r < FS; r++)
        if (TF % ROWS == 0 || row + r * ROWS < TF)
            ys[0][row + r * ROWS][col / V] = db[r];
    __syncthreads();
    for (int r = tid, f = blockIdx.y * TF + r; r < TF && f < F; r += THREADS, f += THREADS) {
        REAL total = 0;
        for (int k = 0; k < TK / V; k++)
            total += ys[0][r][k];
        part[(long long)f * (K + 1) + K] = total;
    }
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
