// im2col and its transpose, for the output rows first ... first+rows-1 of a convolution.
//
//   cols[(c,p,q), (i,j,n)] = x[c, i*s+p-top, j*s+q-left, n], 0 outside the picture
//   dx[c,u,v,n]            = sum of dcols[(c,p,q), (i,j,n)] over all i*s+p-top = u, j*s+q-left = v
//
// x, dx: (C,H,W,N).  cols, dcols: (C*KH*KW, rows*OW*N).  Threads run along (j,n) or (v,n): neighbours
// read and write neighbouring images.

// reads   the rows of x under these windows, once each (again from the cache: KH*KW/s^2 times)
// writes  cols
// least   4 * (C*((rows-1)*s+KH)*W*N + C*KH*KW*rows*OW*N) bytes, padding not counted
// grid    (ceil(OW*N / block), rows, C*KH*KW)
extern "C" __global__ void im2col(const REAL *x, REAL *cols, int H, int W, int N, int KH, int KW, int OW,
                                  int s, int top, int left, int first, int rows)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (j,n)
    if (t >= OW * N)
        return;
    int i = blockIdx.y, row = blockIdx.z;  // row of cols: (c,p,q)
    int q = row % KW, p = row / KW % KH, c = row / (KW * KH);
    int u = (first + i) * s + p - top;
    int v = t / N * s + q - left;
    bool inside = u >= 0 && u < H && v >= 0 && v < W;
    cols[((long long)row * rows + i) * OW * N + t] =
        inside ? x[(((long long)c * H + u) * W + v) * N + t % N] : (REAL)0;
}

// Each pixel sums its windows: no two threads write to one place.  Pixels in rows from `begun` on are set;
// those above already hold the sums over the windows of earlier rows, and are added to.
//
// reads   dcols
// writes  the rows u0 ... of dx (as many as the grid is high)
// least   4 * (C*KH*KW*rows*OW*N + C*height*W*N) bytes
// grid    (ceil(W*N / block), height, C)
extern "C" __global__ void col2im(const REAL *dcols, REAL *dx, int H, int W, int N, int KH, int KW, int OW,
                                  int s, int top, int left, int first, int rows, int u0, int begun)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;  // (v,n)
    if (t >= W * N)
        return;
    int u = u0 + blockIdx.y, c = blockIdx.z;
    int v = t / N, n = t % N;
    REAL sum = 0;
    for (int p = (u + top) % s, i = (u + top) / s - first; p < KH; p += s, i--) {
        if (i < 0 || i >= rows)
            continue;
        for (int q = (v + left) % s, j = (v + left) / s; q < KW; q += s, j--) {
            if (j >= 0 && j < OW)
                sum += dcols[((((long long)c * KH + p) * KW + q) * rows + i) * OW * N + j * N + n];
        }
    }
    long long pixel = ((long long)c * H + u) * W * N + t;
    dx[pixel] = u < begun ? dx[pixel] + sum : sum;
}
