// Softmax with the log loss on logits (K,N).  Threads run along n: neighbours read neighbouring images.
//
// The classes are cut into slices of `height`, so that there is a thread for each image and slice.

// largest[i,n] = the largest logit of slice i, sum[i,n] = sum of exp(logit - largest) over the slice.
//
// reads   logits (the second time from the cache)
// writes  largest, sum: (slices,N)
// least   4 * (K*N + 2*slices*N) bytes
// grid    (ceil(N / block), slices)
extern "C" __global__ void softmax_slices(const REAL *logits, REAL *largest, REAL *sum, int K, int N, int height)
{
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N)
        return;
    int i = blockIdx.y, start = i * height, stop = start + height < K ? start + height : K;
    REAL m = logits[(long long)start * N + n], total = 0;
    for (int k = start + 1; k < stop; k++) {
        REAL value = logits[(long long)k * N + n];
        m = value > m || value != value ? value : m;
    }
    for (int k = start; k < stop; k++)
        total += exp(logits[(long long)k * N + n] - m);
    largest[(long long)i * N + n] = m;
    sum[(long long)i * N + n] = total;
}

// p = exp(logit - m) / sum over all classes, m the largest of all;  loss[n] = -log p[label of n, n].
// A label that is no class makes its image's loss NaN: the values of labels cannot be looked at from the host
// without stopping the device, and the loss is looked at anyway.
//
// reads   logits, largest, sum, labels
// writes  p, loss
// least   4 * (2*K*N + 2*slices*N + N) + 8*N bytes
// grid    (ceil(N / block), slices)
extern "C" __global__ void softmax_loss(const REAL *logits, const REAL *largest, const REAL *sum,
                                        const long long *labels, REAL *p, REAL *loss, int K, int N, int height,
                                        int slices)
{
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N)
        return;
    REAL m = largest[n], total = 0;
    for (int i = 1; i < slices; i++) {
        REAL value = largest[(long long)i * N + n];
        m = value > m || value != value ? value : m;
    }
    for (int i = 0; i < slices; i++)
        total += sum[(long long)i * N + n] * exp(largest[(long long)i * N + n] - m);
    REAL log_total = log(total);
    int start = blockIdx.y * height, stop = start + height < K ? start + height : K;
    for (int k = start; k < stop; k++)
        p[(long long)k * N + n] = exp(logits[(long long)k * N + n] - m - log_total);
    if (blockIdx.y)
        return;
    long long label = labels[n];
    bool known = label >= 0 && label < K;
    loss[n] = known ? log_total + (m - logits[label * N + n]) : (REAL)nan("");
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
