// Dropout: the mask, drawn by a counter-based generator, and the product with it.

#include "images.cuh"

typedef unsigned long long u64;

struct alignas(V) Kept {
    bool of[V];
};

// mask[i] = word first+i of the stream <= most, i = 0 ... size-1.
//
// The stream is that of numpy.random.Philox(key=key): Philox 4x64 with 10 rounds (Salmon, Moraes, Dror and
// Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011), read as 32-bit words, low halves first.
// Four 64-bit words, eight of the stream, come from each value of the counter, which NumPy starts at 1.
//
// reads   key, one number: where a recorded step is replayed, the host writes it anew each time
// writes  mask
// least   1*size bytes
// grid    (ceil(blocks / block)), blocks = values of the counter from first/8 on: a thread each
extern "C" __global__ void dropout_mask(bool *mask, const u64 *key, u64 first, int blocks, int size,
                                        unsigned int most)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= blocks)
        return;
    u64 block = first / 8 + t;
    u64 c0 = block + 1, c1 = 0, c2 = 0, c3 = 0, k0 = *key, k1 = 0;
    for (int round = 0; round < 10; round++) {
        const u64 m0 = 0xD2E7470EE14C6C93ULL, m1 = 0xCA5A826395121157ULL;
        u64 high0 = __umul64hi(m0, c0), low0 = m0 * c0, high1 = __umul64hi(m1, c2), low1 = m1 * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B97F4A7C15ULL;
        k1 += 0xBB67AE8584CAA73BULL;
    }
    u64 words[4] = {c0, c1, c2, c3};
    for (int w = 0; w < 8; w++) {
        long long i = (long long)(block * 8 + w - first);
        if (i >= 0 && i < size)
            mask[i] = (unsigned int)(words[w / 2] >> (w % 2 * 32)) <= most;
    }
}

// y = x * scale where mask, else 0.
//
// reads   x, mask
// writes  y
// least   (4+1+4)*size bytes
// grid    (ceil(size / block))
extern "C" __global__ void dropout_apply(const REAL *x, const bool *mask, REAL *y, int size, REAL scale)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= size)
        return;
    Images value = ((const Images *)x)[t];
    Kept kept = ((const Kept *)mask)[t];
    for (int k = 0; k < V; k++)
        value.of[k] *= kept.of[k] ? scale : (REAL)0;
    ((Images *)y)[t] = value;
}
