// Batch normalization: y = (x - mean) w / s + b with s = sqrt(var + eps), of each channel.
//
//   dw = sum of dy xhat      db = sum of dy      dx = w / s (dy - db / n - xhat dw / n)      xhat = (x - mean) / s
//
// All arrays of pixels are read as (C, n): a channel's n numbers, H*W*N or N, lie side by side.  A sum over a
// channel takes two kernels: blocks of TEAM sum a chunk of CHUNK numbers each, and then a block for each
// channel adds up the chunks, always in the same order.  Threads take V neighbours each (images.cuh).

#include "images.cuh"
#include "sum_of_all.cuh"
#define CHUNK (16 * TEAM)
#define OWN (16 / V)  // groups of V that a thread takes of a chunk

// means[c,k] = the mean of chunk k of channel c, squares[c,k] = the sum of the squared distances from it.
// A thread keeps its numbers in registers in between: so x is read once, and what is squared is small even
// where the mean is large.
//
// reads   x
// writes  means, squares: (C,chunks)
// least   4 * (C*n + 2*C*chunks) bytes
// grid    (chunks, C)
extern "C" __global__ void batch_norm_chunks(const REAL *x, REAL *means, REAL *squares, int n)
{
    __shared__ REAL sums[TEAM], distances[TEAM];
    const Images *in = (const Images *)x + (long long)blockIdx.y * n;
    int begin = blockIdx.x * (CHUNK / V), count = n - begin < CHUNK / V ? n - begin : CHUNK / V;
    const Images zero = {};
    Images own[OWN];
    REAL sum = 0, square = 0;
    for (int i = 0; i < OWN; i++) {
        int t = threadIdx.x + i * TEAM;
        own[i] = t < count ? in[begin + t] : zero;
        for (int m = 0; m < V; m++)
            sum += own[i].of[m];
    }
    sum_of_all(sums, sum);
    __syncthreads();
    REAL mean = sums[0] / (count * V);
    for (int i = 0; i < OWN; i++)
        for (int m = 0; m < V; m++) {
            REAL distance = (int)threadIdx.x + i * TEAM < count ? own[i].of[m] - mean : 0;
            square += distance * distance;
        }
    square = sum_of_all(distances, square);
    if (threadIdx.x)
        return;
    long long place = (long long)blockIdx.y * gridDim.x + blockIdx.x;
    means[place] = mean;
    squares[place] = square;
}

// The mean and variance of a channel from its chunks': the squared distances from the chunk's own mean, and of
// that from the channel's for each of its numbers  (T. Chan, G. Golub and R. LeVeque, 1979).
//
// reads   means (the second time from the cache), squares
// writes  mean, var
// least   4 * (2*C*chunks + 2*C) bytes
// grid    (1, C)
extern "C" __global__ void batch_norm_join(const REAL *means, const REAL *squares, REAL *mean, REAL *var,
                                           int chunks, int n)
{
    __shared__ REAL sums[TEAM], distances[TEAM];
    long long row = (long long)blockIdx.y * chunks;
    REAL sum = 0, square = 0;
    for (int k = threadIdx.x; k < chunks; k += TEAM)
        sum += means[row + k] * (k + 1 < chunks ? CHUNK : n - k * CHUNK);
    sum_of_all(sums, sum);
    __syncthreads();
    REAL middle = sums[0] / n;
    for (int k = threadIdx.x; k < chunks; k += TEAM) {
        REAL distance = means[row + k] - middle;
        square += squares[row + k] + distance * distance * (k + 1 < chunks ? CHUNK : n - k * CHUNK);
    }
    square = sum_of_all(distances, square);
    if (threadIdx.x)
        return;
    mean[blockIdx.y] = middle;
    var[blockIdx.y] = square / n;
}

// reads   x, w, b, mean, var
// writes  y
// least   4 * (2*C*n + 4*C) bytes
// grid    (ceil(n / block), C)
extern "C" __global__ void batch_norm_forward(const REAL *x, const REAL *w, const REAL *b, const REAL *mean,
                                              const REAL *var, REAL *y, int n, REAL eps)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n)
        return;
    int c = blockIdx.y;
    long long place = (long long)c * n + t;
    REAL scale = w[c] / sqrt(var[c] + eps), middle = mean[c], shift = b[c];
    Images value = ((const Images *)x)[place];
    for (int m = 0; m < V; m++)
        value.of[m] = (value.of[m] - middle) * scale + shift;
    ((Images *)y)[place] = value;
}

// sums[0,c,k] = sum of dy xhat over chunk k of channel c, sums[1,c,k] = sum of dy.
//
// reads   dy, x, mean, var
// writes  sums: (2,C,chunks)
// least   4 * (2*C*n + 2*C + 2*C*chunks) bytes
// grid    (chunks, C)
extern "C" __global__ void batch_norm_sums(const REAL *dy, const REAL *x, const REAL *mean, const REAL *var,
                                           REAL *sums, int n, REAL eps)
{
    __shared__ REAL products[TEAM], gradients[TEAM];
    int c = blockIdx.y;
    const Images *in = (const Images *)x + (long long)c * n, *above = (const Images *)dy + (long long)c * n;
    REAL middle = mean[c], product = 0, gradient = 0;
    for (int i = 0; i < OWN; i++) {
        int t = blockIdx.x * (CHUNK / V) + i * TEAM + threadIdx.x;
        if (t >= n)
            break;
        Images value = in[t], g = above[t];
        for (int m = 0; m < V; m++) {
            product += g.of[m] * (value.of[m] - middle);
            gradient += g.of[m];
        }
    }
    product = sum_of_all(products, product);
    gradient = sum_of_all(gradients, gradient);
    if (threadIdx.x)
        return;
    long long place = (long long)c * gridDim.x + blockIdx.x;
    sums[place] = product / sqrt(var[c] + eps);
    sums[(long long)gridDim.y * gridDim.x + place] = gradient;
}

// dx.  grads: dw, then db.  over_n: 1/n, or 0 where mean and var were given and do not depend on x.
//
// reads   dy, x, w, mean, var, grads
// writes  dx
// least   4 * (3*C*n + 5*C) bytes
// grid    (ceil(n / block), C)
extern "C" __global__ void batch_norm_backward(const REAL *dy, const REAL *x, const REAL *w, const REAL *mean,
                                               const REAL *var, const REAL *grads, REAL *dx, int n, REAL over_n,
                                               REAL eps)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= n)
        return;
    int c = blockIdx.y;
    long long place = (long long)c * n + t;
    REAL over_s = 1 / sqrt(var[c] + eps), scale = w[c] * over_s, middle = mean[c];
    REAL slope = grads[c] * over_n * over_s, shift = grads[gridDim.y + c] * over_n;
    Images value = ((const Images *)x)[place], g = ((const Images *)dy)[place];
    for (int m = 0; m < V; m++)
        g.of[m] = scale * (g.of[m] - shift - (value.of[m] - middle) * slope);
    ((Images *)dx)[place] = g;
}
