// Softmax with the log loss on logits (K,N): tinyalex/ops/softmax.py.

#define WIDTH 8    // images of a block: 32 bytes of each class, the least that memory gives
#define SLICES 128 // threads of an image: each takes every 128th class

// Of two numbers the larger, or the one that is no number: a NaN stays.
static __device__ __forceinline__ REAL larger(REAL a, REAL b)
{
    return b > a || b != b ? b : a;
}

// The threads of an image show each other what they have found of their classes.  Half of them join the other
// half's to their own, half of these again, and so on, always in the same order; all return what came out.
template <typename Join> static __device__ REAL joined(REAL (*shown)[WIDTH], REAL mine, Join join)
{
    int image = threadIdx.x % WIDTH, slice = threadIdx.x / WIDTH;
    __syncthreads(); // nobody reads any more what was shown before
    shown[slice][image] = mine;
    for (int half = SLICES / 2; half; half /= 2) {
        __syncthreads();
        if (slice < half)
            shown[slice][image] = join(shown[slice][image], shown[slice + half][image]);
    }
    __syncthreads();
    return shown[0][image];
}

// p = exp(logit - m) / sum over all classes, m the largest of all;  loss[n] = -log p[label of n, n].
// A label that is no class makes its image's loss NaN: the values of labels cannot be looked at from the host
// without stopping the device, and the loss is looked at anyway.
//
// reads   logits (the second and third time from the cache), labels
// writes  p, loss
// least   4 * (2*K*N + N) + 8*N bytes
// grid    (ceil(N / WIDTH)), blocks of WIDTH*SLICES
extern "C" __global__ void __launch_bounds__(WIDTH * SLICES) softmax_loss(
    const REAL *logits, const long long *labels, REAL *p, REAL *loss, int K, int N)
{
    __shared__ REAL shown[SLICES][WIDTH];
    int slice = threadIdx.x / WIDTH, n = blockIdx.x * WIDTH + threadIdx.x % WIDTH;
    bool there = n < N;
    const REAL *z = logits + (there ? n : 0);
    REAL m = z[0], total = 0;
    for (int k = slice; k < K; k += SLICES)
        m = larger(m, z[(long long)k * N]);
    m = joined(shown, m, [](REAL a, REAL b) { return larger(a, b); });
    for (int k = slice; k < K; k += SLICES)
        total += exp(z[(long long)k * N] - m);
    REAL log_total = log(joined(shown, total, [](REAL a, REAL b) { return a + b; }));
    if (!there)
        return;
    for (int k = slice; k < K; k += SLICES)
        p[(long long)k * N + n] = exp(z[(long long)k * N] - m - log_total);
    if (slice)
        return;
    long long label = labels[n];
    bool known = label >= 0 && label < K;
    loss[n] = known ? log_total + (m - z[label * N]) : (REAL)nan("");
}

// dz[k,n] = (p[k,n] - [k = label of n]) / total.
//
// reads   p, labels
// writes  dz
// least   4 * 2*K*N + 8*N bytes
// grid    (ceil(N / block), K)
extern "C" __global__ void softmax_backward(const REAL *p, const long long *labels, REAL *dz, int N, REAL total)
{
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N)
        return;
    int k = blockIdx.y;
    long long place = (long long)k * N + n;
    dz[place] = (p[place] - (k == labels[n] ? 1 : 0)) / total;
}
