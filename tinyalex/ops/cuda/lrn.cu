// Response normalization over n channels (lrn) and over n x n pixels of one map (same_map_norm).
//
//   s = k + a * sum of x^2 over the window      y = x * s^-beta
//   dx_i = dy_i s_i^-beta - 2 a beta x_i * sum of dy_j x_j s_j^(-beta-1) over the j whose window holds i
//
// A window starts n/2 before its element and is cut off at the ends (lrn: of each group of `size` channels).
// All arrays: (C,H,W,N).  Threads run along the innermost axes; a window's other elements come from the cache.

// s^-beta; for the usual beta = 3/4 by two square roots, many times as fast as a power.
static __device__ REAL power(REAL s, REAL beta)
{
    if (beta == (REAL)0.75) {
        REAL root = sqrt(s);
        return 1 / (root * sqrt(root));
    }
    return pow(s, -beta);
}

// reads   x, once
// writes  y, s
// least   4 * 3*C*H*W*N bytes
// grid    (ceil(H*W*N / block), C)
extern "C" __global__ void lrn_forward(const REAL *x, REAL *y, REAL *s, int pixels, int size, int n, REAL k,
                                       REAL a, REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (h,w,n)
    if (t >= pixels)
        return;
    int c = blockIdx.y, start = c / size * size, stop = start + size;  // of the channel's group
    int first = c - n / 2, last = first + n;
    first = first > start ? first : start;
    last = last < stop ? last : stop;
    REAL sum = 0;
    for (int j = first; j < last; j++) {
        REAL value = x[(long long)j * pixels + t];
        sum += value * value;
    }
    long long place = (long long)c * pixels + t;
    REAL bracket = k + a * sum;
    s[place] = bracket;
    y[place] = x[place] * power(bracket, beta);
}

// reads   dy, x, s, once each
// writes  dx
// least   4 * 4*C*H*W*N bytes
// grid    (ceil(H*W*N / block), C)
extern "C" __global__ void lrn_backward(const REAL *dy, const REAL *x, const REAL *s, REAL *dx, int pixels,
                                        int size, int n, REAL a, REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= pixels)
        return;
    int c = blockIdx.y, start = c / size * size, stop = start + size;
    int first = c - (n - 1 - n / 2), last = first + n;  // the channels whose windows hold c
    first = first > start ? first : start;
    last = last < stop ? last : stop;
    REAL sum = 0;
    for (int j = first; j < last; j++) {
        long long place = (long long)j * pixels + t;
        sum += dy[place] * x[place] * power(s[place], beta) / s[place];
    }
    long long place = (long long)c * pixels + t;
    dx[place] = dy[place] * power(s[place], beta) - 2 * a * beta * x[place] * sum;
}

// Sum over the n x n window that starts `before` up and left of (u,v) in a map (H,W,N), of squares if asked.
static __device__ REAL box(const REAL *map, int square, int u, int t, int H, int W, int N, int n, int before)
{
    int u0 = u - before, v0 = t / N - before;
    REAL sum = 0;
    for (int p = u0 < 0 ? 0 : u0; p < u0 + n && p < H; p++)
        for (int q = v0 < 0 ? 0 : v0; q < v0 + n && q < W; q++) {
            REAL value = map[((long long)p * W + q) * N + t % N];
            sum += square ? value * value : value;
        }
    return sum;
}

// reads   x, once
// writes  y, s
// least   4 * 3*C*H*W*N bytes
// grid    (ceil(W*N / block), H, C)
extern "C" __global__ void same_map_forward(const REAL *x, REAL *y, REAL *s, int W, int N, int n, REAL k,
                                            REAL a, REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (w,n)
    if (t >= W * N)
        return;
    int H = gridDim.y, u = blockIdx.y;
    long long map = (long long)blockIdx.z * H * W * N, place = map + (long long)u * W * N + t;
    REAL bracket = k + a * box(x + map, 1, u, t, H, W, N, n, n / 2);
    s[place] = bracket;
    y[place] = x[place] * power(bracket, beta);
}

// ratio = dy x s^(-beta-1): what same_map_backward sums, computed once an element and not n*n times.
//
// reads   dy, x, s
// writes  ratio
// least   4 * 4*C*H*W*N bytes
// grid    (ceil(H*W*N / block), C)
extern "C" __global__ void same_map_ratio(const REAL *dy, const REAL *x, const REAL *s, REAL *ratio,
                                          int pixels, REAL beta)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= pixels)
        return;
    long long place = (long long)blockIdx.y * pixels + t;
    ratio[place] = dy[place] * x[place] * power(s[place], beta) / s[place];
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
    REAL sum = box(ratio + map, 0, u, t, H, W, N, n, n - 1 - n / 2);
    dx[place] = dy[place] * power(s[place], beta) - 2 * a * beta * x[place] * sum;
}
