// Max and average pooling over ZH x ZW windows, one every SH rows and SW columns, cut off at the picture's edges.
//
// x, dx: (C,H,W,N).  y, dy, winner: (C,OH,OW,N).  Threads run along (j,n) or (v,n): neighbours read and write
// neighbouring images.

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
    int i = blockIdx.y, c = blockIdx.z, n = t % N;
    int u0 = i * SH - top, v0 = t / N * SW - left;
    REAL largest = 0;
    int where = -1;
    for (int p = u0 < 0 ? -u0 : 0; p < ZH && u0 + p < H; p++)
        for (int q = v0 < 0 ? -v0 : 0; q < ZW && v0 + q < W; q++) {
            REAL value = x[(((long long)c * H + u0 + p) * W + v0 + q) * N + n];
            if (where < 0 || value > largest || (value != value && largest == largest)) {
                largest = value;
                where = p * ZW + q;
            }
        }
    long long place = ((long long)c * gridDim.y + i) * OW * N + t;
    y[place] = largest;
    winner[place] = where;
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
    int u = blockIdx.y + top, v = t / N + left, c = blockIdx.z, n = t % N;  // u, v: in the padded picture
    REAL sum = 0;
    for (int p = u % SH, i = u / SH; p < ZH && i >= 0; p += SH, i--) {
        if (i >= OH)
            continue;
        for (int q = v % SW, j = v / SW; q < ZW && j >= 0; q += SW, j--) {
            if (j >= OW)
                continue;
            long long place = (((long long)c * OH + i) * OW + j) * N + n;
            if (winner[place] == p * ZW + q)
                sum += dy[place];
        }
    }
    dx[((long long)c * gridDim.y + blockIdx.y) * W * N + t] = sum;
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
    int i = blockIdx.y, j = t / N, c = blockIdx.z, n = t % N;
    int u0 = i * SH - top, v0 = j * SW - left;
    REAL sum = 0;
    for (int u = u0 < 0 ? 0 : u0; u < u0 + ZH && u < H; u++)
        for (int v = v0 < 0 ? 0 : v0; v < v0 + ZW && v < W; v++)
            sum += x[(((long long)c * H + u) * W + v) * N + n];
    int count = real_pixels(i, ZH, SH, top, H) * real_pixels(j, ZW, SW, left, W);
    y[((long long)c * gridDim.y + i) * OW * N + t] = sum / count;
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
    int H = gridDim.y, u = blockIdx.y + top, v = t / N + left, c = blockIdx.z, n = t % N;
    REAL sum = 0;
    for (int p = u % SH, i = u / SH; p < ZH && i >= 0; p += SH, i--) {
        if (i >= OH)
            continue;
        for (int q = v % SW, j = v / SW; q < ZW && j >= 0; q += SW, j--) {
            if (j >= OW)
                continue;
            int count = real_pixels(i, ZH, SH, top, H) * real_pixels(j, ZW, SW, left, W);
            sum += dy[(((long long)c * OH + i) * OW + j) * N + n] / count;
        }
    }
    dx[((long long)c * H + blockIdx.y) * W * N + t] = sum;
}
