// Max and average pooling over ZH x ZW windows, one every SH rows and SW columns, cut off at the edges.
//
// x, dx: (C,H,W,N).  y, dy, winner: (C,OH,OW,N).  Threads run along (j,n) or (v,n): neighbours read and write
// neighbouring images, V of them each (images.cuh).

#include "images.cuh"

struct alignas(sizeof(short) * V) Winners {
    unsigned short of[V];
};

#define AT_ONCE 3 // pixels of a window's row that are asked for together, and waited for once

// y = the window's largest pixel (NaN if it holds one), winner = p*ZW+q of the first such in reading order.
//
// reads   x, once (overlap comes again from the cache)
// writes  y, winner
// least   4*C*H*W*N + (4+2)*C*OH*OW*N bytes
// grid    (ceil(OW*N / block), OH, C)
extern "C" __global__ void max_pool_forward(const REAL *x, REAL *y, unsigned short *winner, int H, int W,
                                            int N, int OW, int ZH, int ZW, int SH, int SW, int top, int left)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (j,n)
    if (t >= OW * N)
        return;
    int i = blockIdx.y, c = blockIdx.z, j = t / N, n = t - j * N;
    int u0 = i * SH - top, v0 = j * SW - left;
    const Images *map = (const Images *)x + (long long)c * H * W * N + n;
    Images largest = {};
    int where[V], end = ZW < W - v0 ? ZW : W - v0;
    for (int k = 0; k < V; k++)
        where[k] = -1;
    for (int p = u0 < 0 ? -u0 : 0; p < ZH && u0 + p < H; p++)
        for (int q = v0 < 0 ? -v0 : 0; q < end; q += AT_ONCE) {
            Images pixel[AT_ONCE] = {};
#pragma unroll
            for (int e = 0; e < AT_ONCE; e++)
                if (q + e < end)
                    pixel[e] = map[((long long)(u0 + p) * W + v0 + q + e) * N];
#pragma unroll
            for (int e = 0; e < AT_ONCE; e++)
                for (int k = 0; k < V; k++) {
                    REAL value = pixel[e].of[k], best = largest.of[k];
                    bool first = where[k] < 0, nan = (value != value) & (best == best);
                    if ((q + e < end) & (first | (value > best) | nan)) {
                        largest.of[k] = value;
                        where[k] = p * ZW + q + e;
                    }
                }
        }
    Winners winners;
    for (int k = 0; k < V; k++)
        winners.of[k] = where[k];
    long long place = ((long long)c * gridDim.y + i) * OW * N + t;
    ((Images *)y)[place] = largest;
    ((Winners *)winner)[place] = winners;
}

// dx[u,v] = sum of dy over the windows whose winner is (u,v): each pixel looks at the windows that cover it,
// so that no two threads write to one place.
//
// reads   dy, winner
// writes  dx
// least   (4+2)*C*OH*OW*N + 4*C*H*W*N bytes
// grid    (ceil(W*N / block), H, C)
extern "C" __global__ void max_pool_backward(const REAL *dy, const unsigned short *winner, REAL *dx, int W,
                                             int N, int OH, int OW, int ZH, int ZW, int SH, int SW, int top,
                                             int left)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (v,n)
    if (t >= W * N)
        return;
    int c = blockIdx.z, v = t / N, n = t - v * N;
    int u = blockIdx.y + top;  // from here on u, v are in the padded picture
    v += left;
    int q0 = v % SW, j0 = v / SW;
    Images sum = {};
    for (int p = u % SH, i = u / SH; p < ZH && i >= 0; p += SH, i--) {
        if (i >= OH)
            continue;
        for (int q = q0, j = j0; q < ZW && j >= 0; q += 2 * SW, j -= 2) {
            Winners won[2] = {};
            Images gradient[2] = {};
#pragma unroll
            for (int e = 0; e < 2; e++)
                if (q + e * SW < ZW && j - e >= 0 && j - e < OW) {
                    long long place = (((long long)c * OH + i) * OW + j - e) * N + n;
                    won[e] = ((const Winners *)winner)[place];
                    gradient[e] = ((const Images *)dy)[place];
                }
#pragma unroll
            for (int e = 0; e < 2; e++)
                for (int k = 0; k < V; k++)
                    if (won[e].of[k] == p * ZW + q + e * SW)
                        sum.of[k] += gradient[e].of[k];
        }
    }
    ((Images *)dx)[((long long)c * gridDim.y + blockIdx.y) * W * N + t] = sum;
}

// How many of the window's pixels o*s-before ... +z-1 are in 0 ... size-1.
static __device__ int real_pixels(int o, int z, int s, int before, int size)
{
    int first = o * s - before, last = first + z;
    return (last < size ? last : size) - (first > 0 ? first : 0);
}

// y = the mean of the window's real pixels.
//
// reads   x, once
// writes  y
// least   4*C*H*W*N + 4*C*OH*OW*N bytes
// grid    (ceil(OW*N / block), OH, C)
extern "C" __global__ void avg_pool_forward(const REAL *x, REAL *y, int H, int W, int N, int OW, int ZH, int ZW,
                                            int SH, int SW, int top, int left)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (j,n)
    if (t >= OW * N)
        return;
    int i = blockIdx.y, c = blockIdx.z, j = t / N, n = t - j * N;
    int u0 = i * SH - top, v0 = j * SW - left;
    const Images *map = (const Images *)x + (long long)c * H * W * N + n;
    Images sum = {};
    for (int u = u0 < 0 ? 0 : u0; u < u0 + ZH && u < H; u++)
        for (int v = v0 < 0 ? 0 : v0; v < v0 + ZW && v < W; v++) {
            Images pixel = map[((long long)u * W + v) * N];
            for (int k = 0; k < V; k++)
                sum.of[k] += pixel.of[k];
        }
    int count = real_pixels(i, ZH, SH, top, H) * real_pixels(j, ZW, SW, left, W);
    for (int k = 0; k < V; k++)
        sum.of[k] /= count;
    ((Images *)y)[((long long)c * gridDim.y + i) * OW * N + t] = sum;
}

// dx[u,v] = sum of dy / (real pixels) over the windows that cover (u,v).
//
// reads   dy
// writes  dx
// least   4*C*OH*OW*N + 4*C*H*W*N bytes
// grid    (ceil(W*N / block), H, C)
extern "C" __global__ void avg_pool_backward(const REAL *dy, REAL *dx, int W, int N, int OH, int OW, int ZH,
                                             int ZW, int SH, int SW, int top, int left)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (v,n)
    if (t >= W * N)
        return;
    int H = gridDim.y, c = blockIdx.z, v = t / N, n = t - v * N;
    int u = blockIdx.y + top;
    v += left;
    int q0 = v % SW, j0 = v / SW;
    Images sum = {};
    for (int p = u % SH, i = u / SH; p < ZH && i >= 0; p += SH, i--) {
        if (i >= OH)
            continue;
        for (int q = q0, j = j0; q < ZW && j >= 0; q += SW, j--) {
            if (j >= OW)
                continue;
            REAL count = real_pixels(i, ZH, SH, top, H) * real_pixels(j, ZW, SW, left, W);
            Images gradient = ((const Images *)dy)[(((long long)c * OH + i) * OW + j) * N + n];
            for (int k = 0; k < V; k++)
                sum.of[k] += gradient.of[k] / count;
        }
    }
    ((Images *)dx)[((long long)c * H + blockIdx.y) * W * N + t] = sum;
}
