// Convolution and its gradient, as matrix products whose columns are never written.
//
//   y[f,i,j,n] = b[f] + sum over c,p,q of w[f,c,p,q] * x[c, i*s+p-top, j*s+q-left, n],  x = 0 outside
//
// is (weights) (columns) with the terms k = (c,p,q) and the columns m = (i,j,n).  A block makes a tile of y,
// TF filters x TN columns.  Which number of x stands at [k,m] of the matrix of columns is a matter of
// indices, so the block copies each piece of it straight from x when it comes to it (implicit GEMM).
//
// Images are innermost: a tile's row is runs of neighbouring images of one pixel, contiguous in x.  A thread
// copies V images of one column m all the way through, so that i, j, n are found once, and the term (c,p,q)
// is counted on by additions.
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
//   out[g, tile, k, r] = w[first + g*by_group + f*by_filter + c*by_channel + p*by_row + q*by_column]
//                        with f = tile*TF + r and k = (c*KH + p)*KW + q; 0 where f >= F or c >= C
//
// reads   w
// writes  out (groups, tiles, terms, TF), terms: C*KH*KW, up to a multiple of TK
// least   4 * (groups*F*C*KH*KW + groups*tiles*terms*TF) bytes
// grid    (ceil(terms*TF / block), tiles, groups)
extern "C" __global__ void lay_out_weights(const REAL *w, REAL *out, int F, int C, int KH, int KW, int terms,
                                           int first, int by_group, int by_filter, int by_channel,
                                           int by_row, int by_column)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= terms * TF)
        return;
    int f = blockIdx.y * TF + t % TF;
    Digits k = digits(t / TF, KH, KW);
    long long from = first + (long long)blockIdx.z * by_group + (long long)f * by_filter +
                     (long long)k.a * by_channel + k.b * by_row + k.c * by_column;
    out[((long long)blockIdx.z * gridDim.y + blockIdx.y) * terms * TF + t] =
        f < F && k.a < C ? w[from] : (REAL)0;
}

// A tile of the convolution.  With BACKWARD x is a gradient that goes through ReLU's backward on its way
// (gated: by the signs of `gate`, which is shaped like x), and there is no bias.  Pixel (i,j) of the result
// is pixel (y0 + i*apart, x0 + j*apart) of y, whose maps are YH x YW.
template <bool BACKWARD>
static __device__ __forceinline__ void tile(const REAL *x, const REAL *gate, const REAL *w, const REAL *b,
                                            REAL *y, int C, int H, int W, int N, int F, int KH, int KW,
                                            int OH, int OW, int s, int top, int left, int relu, int YH,
                                            int YW, int apart, int y0, int x0)
{
    __shared__ __align__(16) REAL ws[STAGES][TK][TF + PAD], xs[STAGES][TK][TN + PAD];
    __shared__ __align__(16) REAL ys[BACKWARD ? STAGES : 1][BACKWARD ? TK : 1][TN];
    const int ROWS = THREADS / (TN / V) < TK ? THREADS / (TN / V) : TK; // terms that the block copies at once
    const int WIDE = 16 / sizeof(REAL);  // weights that a thread copies at once
    int g = blockIdx.z, tid = threadIdx.x;
    int terms = (C * KH * KW + TK - 1) / TK * TK;

    // what this thread copies: V images of column m; terms row, row + ROWS, ...
    int row = tid / (TN / V), col = tid % (TN / V) * V;
    int m = blockIdx.x * TN + col;
    Digits pixel = digits(m, OW, N); // i, j, n
    int u0 = m < OH * OW * N ? pixel.a * s - top : -FAR, v0 = pixel.b * s - left;
    long long group = (long long)g * C * H * W * N + pixel.c;
    Digits k = digits(row, KH, KW); // c, p, q
    const Digits on = digits(ROWS, KH, KW);
    w += ((long long)g * gridDim.y + blockIdx.y) * terms * TF;

    auto copy_stage = [&](int stage) {
#pragma unroll
        for (int e = 0; e < TK * TF; e += THREADS * WIDE)
            if (TK * TF % (THREADS * WIDE) == 0 || e + tid * WIDE < TK * TF) {
                int place = e + tid * WIDE;
                copy_later<16>(&ws[stage][place / TF][place % TF], w + place, true);
            }
        w += TK * TF;
        if (row >= TK)
            return;
#pragma unroll
        for (int r = 0; r < TK; r += ROWS) {
            int u = u0 + k.b, v = v0 + k.c;
            bool there = k.a < C && (unsigned int)u < (unsigned int)H && (unsigned int)v < (unsigned int)W;
            long long from = there ? group + (long long)((k.a * H + u) * W + v) * N : 0;
            copy_run(&xs[stage][row + r][col], x + from, there);
            if (BACKWARD && relu)
                copy_run(&ys[stage][row + r][col], gate + from, there);
            count(&k, on, KH, KW);
        }
    };

    Sums sum = {};
    Place at = place_in_block();
    int steps = terms / TK, next = 0; // next: the stage that is filled next
#pragma unroll
    for (int step = 0; step < STAGES - 1; step++) {
        if (step < steps)
            copy_stage(step);
        commit();
    }
    next = STAGES - 1;
    for (int step = 0, stage = 0; step < steps; step++) {
        wait_for<STAGES - 2>(); // this thread's copies for this step are there
        if (BACKWARD && relu && row < TK)
#pragma unroll
            for (int r = 0; r < TK; r += ROWS)
                through_relu(&xs[stage][row + r][col], &ys[stage][row + r][col]);
        __syncthreads(); // all threads' are, and nobody reads the stage before any more
        if (step + STAGES - 1 < steps)
            copy_stage(next);
        commit();
        multiply_columns(ws[stage], xs[stage], at, &sum);
        next = next + 1 < STAGES ? next + 1 : 0;
        stage = stage + 1 < STAGES ? stage + 1 : 0;
    }

    const int PIECE = V < SIDE_BY_SIDE ? V : SIDE_BY_SIDE; // sums that are written at once
    struct __align__(sizeof(REAL) * PIECE) Piece {
        REAL of[PIECE];
    };
#pragma unroll
    for (int c = 0; c < COLUMNS_HELD; c += PIECE) {
        int column = blockIdx.x * TN + column_by_columns(at, c);
        if (column >= OH * OW * N)
            continue;
        Digits to = digits(column, OW, N);
        REAL *maps = y + ((long long)(y0 + to.a * apart) * YW + x0 + to.b * apart) * N + to.c;
#pragma unroll
        for (int r = 0; r < ROWS_HELD; r++) {
            int f = blockIdx.y * TF + filter_by_columns(at, r);
            if (f >= F)
                continue;
            f += g * F;
            Piece out;
#pragma unroll
            for (int e = 0; e < PIECE; e++) {
                REAL value = sum.of[r][c + e];
                if (!BACKWARD) {
                    value += b[f];
                    value = relu && value < 0 ? (REAL)0 : value;
                }
                out.of[e] = value;
            }
            *(Piece *)(maps + (long long)f * YH * YW * N) = out;
        }
    }
}

// y = w * x + b, through ReLU if relu is set.  A NaN stays a NaN.
//
// reads   x, w (as laid out), b
// writes  y
// least   4 * (groups*C*H*W*N + groups*F*C*KH*KW + groups*F + groups*F*OH*OW*N) bytes
// grid    (ceil(OH*OW*N / TN), ceil(F / TF), groups)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_forward(
    const REAL *x, const REAL *w, const REAL *b, REAL *y, int C, int H, int W, int N, int F, int KH, int KW,
    int OH, int OW, int s, int top, int left, int relu)
{
    tile<false>(x, x, w, b, y, C, H, W, N, F, KH, KW, OH, OW, s, top, left, relu, OH, OW, 1, 0, 0);
}

// The gradient with respect to the input is a convolution of the gradient g = dy through ReLU:
//
//   dx[c,u,v,n] = sum of w[f,c,p,q] * g[f,i,j,n] over all i*s+p-top = u, j*s+q-left = v
//
// With stride 1, i = u + top - p: the kernel turned, C and F exchanged.  With stride s the pixels u with the
// same remainder of u + top meet the same taps p, p + s, ..., and neighbours among them meet neighbouring i:
// a convolution of stride 1 again for each of the s*s remainders, which makes every s-th pixel of dx.
//
// reads   dy, y (if relu is set), w (as laid out: turned)
// writes  OH x OW pixels of every map of dx (C,YH,YW,N): all, with stride 1
// least   4 * (2*groups*F*H*W*N + groups*F*C*KH*KW + groups*C*OH*OW*N) bytes, dy and y being (F,H,W,N)
// grid    (ceil(OH*OW*N / TN), ceil(C / TF), groups)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) conv_backward_x(
    const REAL *dy, const REAL *y, const REAL *w, REAL *dx, int F, int H, int W, int N, int C, int KH, int KW,
    int OH, int OW, int top, int left, int relu, int YH, int YW, int apart, int y0, int x0)
{
    tile<true>(dy, y, w, w, dx, F, H, W, N, C, KH, KW, OH, OW, 1, top, left, relu, YH, YW, apart, y0, x0);
}
