// Convolution with stride 1 in fewer multiplications: minimal filtering.  tinyalex/ops/winograd.py has the
// formulas, their sources, and what A, B and G are.  A tile of 4 x 4 outputs Y is made of P x P inputs D and
// the K x K filter w, P = K + 3:
//
//   Y = A^T [(G w G^T) . (B D B^T)] A            P*P products in place of 16 K*K
//
// The channels are summed before A^T [] A is made.  So "." is a matrix product M = U V for each of the P*P
// places, which conv.cu's winograd_products makes.  The kernels here lead into these products and out of them:
//
//   winograd_filters   U = G w G^T                   winograd_tiles     V = B D B^T
//   winograd_outputs   Y = A^T M A
//
// and backward, where U and V are those of the gradient's convolution with the turned filter, and dU = X V^T:
//
//   winograd_filters_back   dw = G^T dU G, turned    winograd_tiles_back   X = A D A^T, D: the tile's own 4 x 4
//
// Each is m D m^T with one of the small matrices.  A thread makes it for one tile of one image and map, in its
// registers.  Tile (i,j) has the outputs from (4i, 4j) on; a launch takes the rows of tiles from `first` on.
//
// x (C,H,W,N), y (F,OH,OW,N).  V, M, X: (P*P, maps, rows of tiles, tiles across, N).

#define POINTS (TAPS + 3) // TAPS, MATRIX_A, MATRIX_B, MATRIX_G: K and the matrices, from winograd.py's `axis`

struct A {
    static __device__ __forceinline__ REAL at(int row, int column)
    {
        const REAL m[POINTS][4] = MATRIX_A;
        return m[row][column];
    }
};

struct B {
    static __device__ __forceinline__ REAL at(int row, int column)
    {
        const REAL m[POINTS][POINTS] = MATRIX_B;
        return m[row][column];
    }
};

struct G {
    static __device__ __forceinline__ REAL at(int row, int column)
    {
        const REAL m[POINTS][TAPS] = MATRIX_G;
        return m[row][column];
    }
};

template <typename M> struct Turned { // M^T
    static __device__ __forceinline__ REAL at(int row, int column)
    {
        return M::at(column, row);
    }
};

// out = m D m^T.  The compiler knows m: it leaves out what is multiplied by 0.
template <typename M, int TO, int FROM>
static __device__ __forceinline__ void transform(const REAL (&d)[FROM][FROM], REAL (&out)[TO][TO])
{
    REAL half[TO][FROM]; // m D
#pragma unroll
    for (int r = 0; r < TO; r++)
#pragma unroll
        for (int c = 0; c < FROM; c++) {
            half[r][c] = 0;
#pragma unroll
            for (int k = 0; k < FROM; k++)
                if (M::at(r, k) != 0)
                    half[r][c] += M::at(r, k) * d[k][c];
        }
#pragma unroll
    for (int r = 0; r < TO; r++)
#pragma unroll
        for (int c = 0; c < TO; c++) {
            out[r][c] = 0;
#pragma unroll
            for (int k = 0; k < FROM; k++)
                if (M::at(c, k) != 0)
                    out[r][c] += M::at(c, k) * half[r][k];
        }
}

// out = m D m^T for this thread's tile; D: FROM x FROM pixels, `top` and `left` of them before the tile's own.
template <typename M, int FROM>
static __device__ __forceinline__ void into_products(const REAL *x, REAL *out, int H, int W, int N, int across,
                                                     int first, int top, int left)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x; // (j,n)
    if (t >= across * N)
        return;
    int c = blockIdx.z, u = (first + blockIdx.y) * 4 - top, v = t / N * 4 - left;
    x += (long long)c * H * W * N + t % N;
    REAL d[FROM][FROM], made[POINTS][POINTS];
#pragma unroll
    for (int p = 0; p < FROM; p++)
#pragma unroll
        for (int q = 0; q < FROM; q++) {
            bool there = (unsigned int)(u + p) < (unsigned int)H && (unsigned int)(v + q) < (unsigned int)W;
            d[p][q] = there ? x[(long long)((u + p) * W + v + q) * N] : (REAL)0;
        }
    transform<M>(d, made);
    long long place = (long long)gridDim.z * gridDim.y * across * N; // as many numbers has each of the P*P
    out += ((long long)c * gridDim.y + blockIdx.y) * across * N + t;
#pragma unroll
    for (int p = 0; p < POINTS; p++)
#pragma unroll
        for (int q = 0; q < POINTS; q++)
            out[(p * POINTS + q) * place] = made[p][q];
}

// V = B D B^T, of x padded by top and left (and as far as the tiles reach).
//
// reads   x, once (overlap comes again from the cache)
// writes  v
// least   4 * (C*H*W*N + P*P*C*tiles*N) bytes
// grid    (ceil(across*N / block), rows of tiles, C)
extern "C" __global__ void winograd_tiles(const REAL *x, REAL *v, int H, int W, int N, int across, int first,
                                          int top, int left)
{
    into_products<B, POINTS>(x, v, H, W, N, across, first, top, left);
}

// X = A D A^T.
//
// reads   x
// writes  out
// least   4 * (C*H*W*N + P*P*C*tiles*N) bytes
// grid    (ceil(across*N / block), rows of tiles, C)
extern "C" __global__ void winograd_tiles_back(const REAL *x, REAL *out, int H, int W, int N, int across,
                                               int first)
{
    into_products<A, 4>(x, out, H, W, N, across, first, 0, 0);
}

// y = A^T M A, + b[f] if `forward`, and through ReLU if `relu`.  A NaN stays a NaN.
//
// reads   m, b
// writes  y
// least   4 * (P*P*F*tiles*N + F + F*OH*OW*N) bytes
// grid    (ceil(across*N / block), rows of tiles, F)
extern "C" __global__ void winograd_outputs(const REAL *m, const REAL *b, REAL *y, int OH, int OW, int N,
                                            int across, int first, int forward, int relu)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x; // (j,n)
    if (t >= across * N)
        return;
    int f = blockIdx.z, i = (first + blockIdx.y) * 4, j = t / N * 4;
    long long place = (long long)gridDim.z * gridDim.y * across * N;
    m += ((long long)f * gridDim.y + blockIdx.y) * across * N + t;
    REAL d[POINTS][POINTS], made[4][4], bias = forward ? b[f] : (REAL)0;
#pragma unroll
    for (int p = 0; p < POINTS; p++)
#pragma unroll
        for (int q = 0; q < POINTS; q++)
            d[p][q] = m[(p * POINTS + q) * place];
    transform<Turned<A>>(d, made);
    y += (((long long)f * OH + i) * OW + j) * N + t % N;
#pragma unroll
    for (int p = 0; p < 4; p++)
#pragma unroll
        for (int q = 0; q < 4; q++) {
            REAL value = made[p][q] + bias;
            if (i + p < OH && j + q < OW)
                y[(long long)(p * OW + q) * N] = relu && value < 0 ? (REAL)0 : value;
        }
}

// U = G w G^T, as the products read it (conv.cu, lay_out_weights): for each tile of `wide` filters the channels
// one below the other; 0 where f >= F or c >= C.  The weights of filter f and channel c of a group stand at
// w[start + group*by_group + f*by_filter + p*by_row + q*by_column + c*by_channel].
//
// reads   w
// writes  u (P*P, groups, tiles, terms, wide), terms: C, up to a multiple of the products' stages
// least   4 * groups*(F*C*K*K + P*P*tiles*terms*wide) bytes
// grid    (ceil(terms*wide / block), tiles, groups)
extern "C" __global__ void winograd_filters(const REAL *w, REAL *u, int F, int C, int terms, int wide, int start,
                                            int by_group, int by_filter, int by_row, int by_column,
                                            int by_channel)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x; // (c, f of the tile)
    if (t >= terms * wide)
        return;
    int c = t / wide, f = blockIdx.y * wide + t % wide;
    bool there = f < F && c < C;
    w += start + (long long)blockIdx.z * by_group + (long long)f * by_filter + (long long)c * by_channel;
    REAL d[TAPS][TAPS], made[POINTS][POINTS];
#pragma unroll
    for (int p = 0; p < TAPS; p++)
#pragma unroll
        for (int q = 0; q < TAPS; q++)
            d[p][q] = there ? w[p * by_row + q * by_column] : (REAL)0;
    transform<G>(d, made);
    long long place = (long long)gridDim.z * gridDim.y * terms * wide;
    u += ((long long)blockIdx.z * gridDim.y + blockIdx.y) * terms * wide + t;
#pragma unroll
    for (int p = 0; p < POINTS; p++)
#pragma unroll
        for (int q = 0; q < POINTS; q++)
            u[(p * POINTS + q) * place] = made[p][q];
}

// dw = G^T dU G, turned; dU is the sum of its chunks (conv_weights.cu), always added in the same order.  With
// `more` the tiles of the launches before have had their part, and dw += .
//
// reads   part (chunks, P*P, F, C + 1), and dw with `more`
// writes  dw (F,C,K,K)
// least   4 * (P*P*F*C + F*C*K*K) bytes
// grid    (ceil(C / block), F)
extern "C" __global__ void winograd_filters_back(const REAL *part, REAL *dw, int C, int chunks, int more)
{
    int c = blockIdx.x * blockDim.x + threadIdx.x, F = gridDim.y, f = blockIdx.y;
    if (c >= C)
        return;
    long long place = (long long)F * (C + 1);
    part += (long long)f * (C + 1) + c;
    REAL d[POINTS][POINTS] = {}, made[TAPS][TAPS];
    for (int chunk = 0; chunk < chunks; chunk++)
#pragma unroll
        for (int p = 0; p < POINTS; p++)
#pragma unroll
            for (int q = 0; q < POINTS; q++)
                d[p][q] += part[(chunk * POINTS * POINTS + p * POINTS + q) * place];
    transform<Turned<G>>(d, made);
    dw += ((long long)f * C + c) * TAPS * TAPS;
#pragma unroll
    for (int p = 0; p < TAPS; p++)
#pragma unroll
        for (int q = 0; q < TAPS; q++) {
            REAL *turned = dw + TAPS * TAPS - 1 - p * TAPS - q;
            *turned = made[p][q] + (more ? *turned : (REAL)0);
        }
}
