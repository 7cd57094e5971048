// Response normalization over n channels (lrn) and over n x n pixels of one map (same_map_norm).
//
//   s = k + a * sum of x^2 over the window      y = x * s^-beta
//   dx_i = dy_i s_i^-beta - 2 a beta x_i * sum of dy_j x_j s_j^(-beta-1) over the j whose window holds i
//
// A window starts n/2 before its element and is cut off at the ends (lrn: of each group of `size` channels).
// All arrays: (C,H,W,N).  Threads run along the innermost axes, and take V images each (images.cuh).

#include "images.cuh"
#ifndef HALF
#define HALF 2  // lrn's windows reach at most so many channels to either side: they lie in registers
#endif
#define WINDOW (2 * HALF + 1)
const int AT_ONCE = HALF == 2 ? WINDOW : 1; // steps of a walk that are unrolled

#define AHEAD 2 // channels that a walk reads before it needs them

// s^-beta.  For the usual beta = 3/4 that is s^-1/2 s^-1/2 s^1/4, by the reciprocal square root, which is one
// instruction.
static __device__ REAL power(REAL s, REAL beta)
{
    if (beta == (REAL)0.75) {
        REAL root = rsqrt(s);
        return root * root * rsqrt(root);
    }
    return pow(s, -beta);
}

// 1/s, without a division where beta = 3/4: the compiler keeps the root that `power` has made.
static __device__ REAL inverse(REAL s, REAL beta)
{
    return beta == (REAL)0.75 ? rsqrt(s) * rsqrt(s) : 1 / s;
}

// Channel c of a group of `size`, 0 beyond its ends.
static __device__ __forceinline__ Images channel(const Images *group, int c, int size, int pixels)
{
    const Images zero = {};
    return c >= 0 && c < size ? group[(long long)c * pixels] : zero;
}

// The window's other channels are the thread's own: it walks through `walk` channels of a group, and reads each
// number once, AHEAD channels early, with those around its own.  w = x of the channels c-HALF ... c+HALF.  The
// usual window's loop is unrolled, so that a number keeps its register while the window moves over it.
//
// reads   x, once (what several walks read, from the cache)
// writes  y
// least   4 * 2*C*H*W*N bytes
// grid    (ceil(H*W*N / block), ceil(size / walk), groups)
extern "C" __global__ void lrn_forward(const REAL *x, REAL *y, int pixels, int size, int walk, int n, REAL k,
                                       REAL a, REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (h,w,n)
    if (t >= pixels)
        return;
    int begin = blockIdx.y * walk, end = begin + walk < size ? begin + walk : size;
    long long group = (long long)blockIdx.z * size * pixels + t;
    const Images *in = (const Images *)x + group;
    Images *out = (Images *)y + group;
    Images w[WINDOW] = {};
    for (int j = 1; j < WINDOW; j++)
        w[j] = channel(in, begin - HALF + j - 1, size, pixels);
    Images next[AHEAD];
    for (int j = 0; j < AHEAD; j++)
        next[j] = channel(in, begin + HALF + j, size, pixels);
    int first = HALF - n / 2;  // of the window of channel c, in w
#pragma unroll AT_ONCE
    for (int c = begin; c < end; c++) {
        for (int j = 0; j + 1 < WINDOW; j++)
            w[j] = w[j + 1];
        w[WINDOW - 1] = next[0];
        for (int j = 0; j + 1 < AHEAD; j++)
            next[j] = next[j + 1];
        next[AHEAD - 1] = channel(in, c + HALF + AHEAD, size, pixels);
        Images result;
        for (int m = 0; m < V; m++) {
            REAL sum = 0;
            for (int j = 0; j < WINDOW; j++)
                if (j >= first && j < first + n)
                    sum += w[j].of[m] * w[j].of[m];
            result.of[m] = w[HALF].of[m] * power(k + a * sum, beta);
        }
        out[(long long)c * pixels] = result;
    }
}

// The same walk.  Channel c gets the sum of the ratios dy x s^(-beta-1) of the channels whose windows hold it.
// The ratio of channel c+HALF has just come in: its s is computed from w = x of the channels c ... c+2 HALF.
// So a walk starts with the ratio of HALF channels before its own, or with the group's first.
//
// reads   dy, x, once each (what several walks read, from the cache)
// writes  dx
// least   4 * 3*C*H*W*N bytes
// grid    (ceil(H*W*N / block), ceil(size / walk), groups)
extern "C" __global__ void lrn_backward(const REAL *dy, const REAL *x, REAL *dx, int pixels, int size, int walk,
                                        int n, REAL k, REAL a, REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= pixels)
        return;
    int begin = blockIdx.y * walk, end = begin + walk < size ? begin + walk : size;
    int start = begin < HALF ? -HALF : begin - 2 * HALF;
    long long group = (long long)blockIdx.z * size * pixels + t;
    const Images *in = (const Images *)x + group, *above = (const Images *)dy + group;
    Images *out = (Images *)dx + group;
    Images w[WINDOW] = {}, ratio[WINDOW] = {};  // ratio: of the channels c-HALF ... c+HALF
    Images direct[HALF + 1] = {};  // dy s^-beta of the channels c ... c+HALF
    for (int j = 1; j < WINDOW; j++)
        w[j] = channel(in, start + j - 1, size, pixels);
    Images next[AHEAD], next_dy[AHEAD];
    for (int j = 0; j < AHEAD; j++) {
        next[j] = channel(in, start + 2 * HALF + j, size, pixels);
        next_dy[j] = channel(above, start + HALF + j, size, pixels);
    }
    int first = HALF - n / 2, first_ratio = HALF - (n - 1 - n / 2);
#pragma unroll AT_ONCE
    for (int c = start; c < end; c++) {
        for (int j = 0; j + 1 < WINDOW; j++) {
            w[j] = w[j + 1];
            ratio[j] = ratio[j + 1];
        }
        for (int j = 0; j < HALF; j++)
            direct[j] = direct[j + 1];
        int last = c + HALF;  // the channel that comes in
        w[WINDOW - 1] = next[0];
        Images gradient = next_dy[0];  // 0 beyond the group
        for (int j = 0; j + 1 < AHEAD; j++) {
            next[j] = next[j + 1];
            next_dy[j] = next_dy[j + 1];
        }
        next[AHEAD - 1] = channel(in, last + HALF + AHEAD, size, pixels);
        next_dy[AHEAD - 1] = channel(above, last + AHEAD, size, pixels);
        Images result;
        for (int m = 0; m < V; m++) {
            REAL squares = 0, sum = 0;
            for (int j = 0; j < WINDOW; j++)
                if (j >= first && j < first + n)
                    squares += w[j].of[m] * w[j].of[m];
            REAL s = k + a * squares, through = gradient.of[m] * power(s, beta);
            direct[HALF].of[m] = through;
            ratio[WINDOW - 1].of[m] = through * w[HALF].of[m] * inverse(s, beta);
            for (int j = 0; j < WINDOW; j++)
                if (j >= first_ratio && j < first_ratio + n)
                    sum += ratio[j].of[m];
            result.of[m] = direct[0].of[m] - 2 * a * beta * w[0].of[m] * sum;
        }
        if (c >= begin)
            out[(long long)c * pixels] = result;
    }
}

// Sum over the n x n window that starts `before` up and left of (u,v) in a map (H,W,N), of squares if asked.
static __device__ Images box(const Images *map, bool square, int u, int t, int H, int W, int N, int n,
                             int before)
{
    int v = t / N, u0 = u - before, v0 = v - before;
    map += t - v * N;
    Images sum = {};
    for (int p = u0 < 0 ? 0 : u0; p < u0 + n && p < H; p++)
        for (int q = v0 < 0 ? 0 : v0; q < v0 + n && q < W; q++) {
            Images pixel = map[((long long)p * W + q) * N];
            for (int m = 0; m < V; m++)
                sum.of[m] += square ? pixel.of[m] * pixel.of[m] : pixel.of[m];
        }
    return sum;
}

// reads   x, once
// writes  y, s
// least   4 * 3*C*H*W*N bytes
// grid    (ceil(W*N / block), H, C)
extern "C" __global__ void same_map_forward(const REAL *x, REAL *y, REAL *s, int W, int N, int n, REAL k, REAL a,
                                            REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (w,n)
    if (t >= W * N)
        return;
    int H = gridDim.y, u = blockIdx.y;
    long long map = (long long)blockIdx.z * H * W * N, place = map + (long long)u * W * N + t;
    Images bracket = box((const Images *)x + map, true, u, t, H, W, N, n, n / 2);
    Images result = ((const Images *)x)[place];
    for (int m = 0; m < V; m++) {
        bracket.of[m] = k + a * bracket.of[m];
        result.of[m] *= power(bracket.of[m], beta);
    }
    ((Images *)s)[place] = bracket;
    ((Images *)y)[place] = result;
}

// ratio = dy x s^(-beta-1): what same_map_backward sums, computed once an element and not n*n times.
//
// reads   dy, x, s
// writes  ratio
// least   4 * 4*C*H*W*N bytes
// grid    (ceil(H*W*N / block), C)
extern "C" __global__ void same_map_ratio(const REAL *dy, const REAL *x, const REAL *s, REAL *ratio, int pixels,
                                          REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= pixels)
        return;
    long long place = (long long)blockIdx.y * pixels + t;
    Images above = ((const Images *)dy)[place], in = ((const Images *)x)[place], at = ((const Images *)s)[place];
    for (int m = 0; m < V; m++)
        above.of[m] *= in.of[m] * power(at.of[m], beta) / at.of[m];
    ((Images *)ratio)[place] = above;
}

// reads   ratio, dy, x, s, once each
// writes  dx
// least   4 * 5*C*H*W*N bytes
// grid    (ceil(W*N / block), H, C)
extern "C" __global__ void same_map_backward(const REAL *ratio, const REAL *dy, const REAL *x, const REAL *s,
                                             REAL *dx, int W, int N, int n, REAL a, REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= W * N)
        return;
    int H = gridDim.y, u = blockIdx.y;
    long long map = (long long)blockIdx.z * H * W * N, place = map + (long long)u * W * N + t;
    Images sum = box((const Images *)ratio + map, false, u, t, H, W, N, n, n - 1 - n / 2);
    Images above = ((const Images *)dy)[place], in = ((const Images *)x)[place], at = ((const Images *)s)[place];
    for (int m = 0; m < V; m++)
        above.of[m] = above.of[m] * power(at.of[m], beta) - 2 * a * beta * in.of[m] * sum.of[m];
    ((Images *)dx)[place] = above;
}
