// Softmax with the log loss on logits (K,N): tinyalex/ops/softmax.py.

#define WIDTH 32 // of a block: a warp reads neighbouring images
#define SLICES 32 // threads of an image: each takes every 32nd class

// p = exp(logit - m) / sum over all classes, m the largest of all;  loss[n] = -log p[label of n, n].
// The threads of an image show each other what they have found of their classes, and each puts it together, in
// the same order.  A label that is no class makes its image's loss NaN: the values of labels cannot be looked
// at from the host without stopping the device, and the loss is looked at anyway.
//
// reads   logits (the second and third time from the cache), labels
// writes  p, loss
// least   4 * (2*K*N + N) + 8*N bytes
// grid    (ceil(N / WIDTH)), blocks of WIDTH*SLICES
extern "C" __global__ void __launch_bounds__(WIDTH * SLICES) softmax_loss(
    const REAL *logits, const long long *labels, REAL *p, REAL *loss, int K, int N)
{
    __shared__ REAL shown[SLICES][WIDTH];
    int image = threadIdx.x % WIDTH, slice = threadIdx.x / WIDTH, n = blockIdx.x * WIDTH + image;
    bool there = n < N;
    const REAL *z = logits + (there ? n : 0);
    REAL m = z[0], total = 0;
    for (int k = slice; k < K; k += SLICES) {
        REAL value = z[(long long)k * N];
        m = value > m || value != value ? value : m; // a NaN stays
    }
    shown[slice][image] = m;
    __syncthreads();
    for (int i = 0; i < SLICES; i++) {
        REAL value = shown[i][image];
        m = value > m || value != value ? value : m;
    }
    for (int k = slice; k < K; k += SLICES)
        total += exp(z[(long long)k * N] - m);
    __syncthreads(); // nobody reads the largest any more
    shown[slice][image] = total;
    __syncthreads();
    total = 0;
    for (int i = 0; i < SLICES; i++)
        total += shown[i][image];
    if (!there)
        return;
    REAL log_total = log(total);
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
