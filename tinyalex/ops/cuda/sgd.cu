// The paper's update rule (section 5), in place, for all parameters at once:
//
//   v = momentum * v - decay_rate * w - rate * g      w = w + v        decay_rate = decay * rate
//
// A block of threads updates a chunk of `size` numbers: chunks[block] = (parameter, number of the chunk in it).
// table[parameter] = (address of w, of v, of g, how many numbers), rates[parameter] = (momentum, rate,
// decay_rate).  A parameter whose rate is 0 is not updated; where guard, the loss, is not finite, none is.
// Each product is rounded before it is subtracted, as NumPy does it, so that the bits are those of the CPU: a
// compiler makes one fused operation of `a * b - c`, but not of these.
//
// reads   w, v, g
// writes  w, v
// least   4 * 5 bytes per number
// grid    (chunks)

typedef unsigned long long u64;

struct alignas(16) Many {  // numbers of one load
    REAL of[16 / sizeof(REAL)];
};

static __device__ REAL product(REAL a, REAL b)
{
    return sizeof(REAL) == 4 ? __fmul_rn(a, b) : __dmul_rn(a, b);
}

static __device__ void update(REAL *w, REAL *v, REAL g, const REAL *rates)
{
    REAL velocity = product(rates[0], *v);
    if (rates[2] != 0)
        velocity -= product(rates[2], *w);
    velocity -= product(rates[1], g);
    *v = velocity;
    *w += velocity;
}

extern "C" __global__ void sgd(const REAL *rates, const int *chunks, const u64 *table, const REAL *guard, int size)
{
    const u64 *mine = table + 4 * chunks[2 * blockIdx.x];
    const REAL *rate = rates + 3 * chunks[2 * blockIdx.x];
    if (rate[1] == 0 || !(*guard - *guard == 0))
        return;
    long long start = (long long)chunks[2 * blockIdx.x + 1] * size;
    REAL *w = (REAL *)mine[0] + start, *v = (REAL *)mine[1] + start;
    const REAL *g = (const REAL *)mine[2] + start;
    long long left = (long long)mine[3] - start;
    int count = left < size ? left : size, t = threadIdx.x;
    REAL rates3[3] = {rate[0], rate[1], rate[2]};
    const int many = sizeof(Many) / sizeof(REAL);
    if ((((u64)w | (u64)v | (u64)g) & 15) == 0) {
        for (; t < count / many; t += blockDim.x) {
            Many w4 = ((Many *)w)[t], v4 = ((Many *)v)[t], g4 = ((const Many *)g)[t];
            for (int k = 0; k < many; k++)
                update(&w4.of[k], &v4.of[k], g4.of[k], rates3);
            ((Many *)w)[t] = w4;
            ((Many *)v)[t] = v4;
        }
        t = count / many * many + threadIdx.x;
    }
    for (; t < count; t += blockDim.x)
        update(w + t, v + t, g[t], rates3);
}
