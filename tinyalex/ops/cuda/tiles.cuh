// A block's part of a matrix product: sum[f,n] += sum over k of a[k,f] * b[k,n], by tiles in shared memory.
//
// A block makes TF x TN sums.  It takes TK of the terms k at a time: its threads copy them from the device's
// memory to shared memory (a stage), and then each number that lies there is used TF or TN times.  While the
// threads multiply one stage, the copies of the next are on their way.
//
// A warp has 4 x 8 threads and makes WARP_F x WARP_N sums; thread (ty,tx) holds 4*PF x 4*PN of them in its
// registers, in patches of 4 x 4: for two loads of 16 bytes from shared memory there are then 16 products.
//
// What can be set: TF, TN, TK, STAGES, PF, PN, and V, how many numbers are copied at once.

#ifndef TILES
#define TILES

struct __align__(sizeof(REAL) * V) Run {
    REAL of[V];
};

struct __align__(16) Four {
    REAL of[4];
};

#ifndef TF32
#define TF32 0
#endif

#define WARP_F (16 * PF)
#define WARP_N ((int)(32 * PN))
#define THREADS (TF / WARP_F * (TN / WARP_N) * 32)

// ---- copies to shared memory that the thread does not wait for -----------------------------------------
// On sm_80 and later a thread can ask for a copy and go on.  Copies asked for between two calls of commit
// make a group; wait_for<n> returns when no more than the last n groups are still on their way.  They are
// then seen by the thread that asked; a barrier shows them to the block.

#ifndef STAND_IN
typedef unsigned int Shared; // a place in shared memory

static __device__ __forceinline__ Shared shared_place(void *place)
{
    return (Shared)__cvta_generic_to_shared(place);
}

// BYTES bytes, or zeros if they are not `there`: then `from`, which may be any address, is not read.
template <int BYTES>
static __device__ __forceinline__ void copy_later(Shared to, const void *from, bool there)
{
    int count = there ? BYTES : 0;
#if __CUDA_ARCH__ >= 800
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(count) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(BYTES), "r"(count)
                     : "memory");
#else
    for (int k = 0; k < BYTES; k += 4) {
        int word = k < count ? ((const int *)from)[k / 4] : 0;
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(to + k), "r"(word) : "memory");
    }
#endif
}

static __device__ __forceinline__ void commit()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int GROUPS>
static __device__ __forceinline__ void wait_for()
{
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
#endif
}
#endif

// ---- a number counted on by a fixed step, in three digits ----------------------------------------------
// value = (a * B + b) * C + c.  The three divisions are made once; then counting takes additions only.

struct Digits {
    int a, b, c;
};

static __device__ __forceinline__ Digits digits(int value, int B, int C)
{
    return {value / C / B, value / C % B, value % C};
}

static __device__ __forceinline__ void count(Digits *at, Digits step, int B, int C)
{
    at->c += step.c;
    at->b += step.b;
    at->a += step.a;
    if (at->c >= C) {
        at->c -= C;
        at->b++;
    }
    if (at->b >= B) {
        at->b -= B;
        at->a++;
    }
}

// ---- the products --------------------------------------------------------------------------------------

#if TF32
#define ROWS_HELD (2 * PF)
#define COLUMNS_HELD (8 * PN)
#else
#define ROWS_HELD (4 * PF)
#define COLUMNS_HELD ((int)(4 * PN))
#endif

struct Sums {
    REAL of[ROWS_HELD][COLUMNS_HELD];
};

// Where the warp's tile begins, and which of its threads this one is.
struct Place {
    int f, n, lane;
};

static __device__ __forceinline__ Place place_in_block()
{
    int warp = threadIdx.x / 32;
    return {warp % (TF / WARP_F) * WARP_F, warp / (TF / WARP_F) * WARP_N, (int)threadIdx.x % 32};
}

#if TF32
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#error "TF32: there are no such tensor cores before sm_80"
#endif
// The tensor cores multiply 16 x 8 by 8 x 8 numbers at once, with 10 bits of each number's mantissa; sums are
// float32.  The matrices are spread over the warp's registers: with g = lane / 4 and t = lane % 4 a thread has
//
//   a: [g][t], [g+8][t], [g][t+4], [g+8][t+4]      b: [t][g], [t+4][g]
//   sums: [g][2t], [g][2t+1], [g+8][2t], [g+8][2t+1]
#ifndef STAND_IN
// The nearest number of 10 bits, as bits.
static __device__ __forceinline__ unsigned int to_tf32(float value)
{
    unsigned int nearest;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(nearest) : "f"(value));
    return nearest;
}

static __device__ __forceinline__ void multiply_16x8x8(float *d0, float *d1, const unsigned int *a,
                                                       const unsigned int *b)
{
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d0[0]), "+f"(d0[1]), "+f"(d1[0]), "+f"(d1[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// sum->of[2r + h][2c + e] is [g + 8h][2t + e] of the product of u[r] and v[c].
static __device__ __forceinline__ void multiply_8_terms(const unsigned int (*u)[4], const unsigned int (*v)[2],
                                                        Sums *sum)
{
#pragma unroll
    for (int r = 0; r < PF; r++)
#pragma unroll
        for (int c = 0; c < 4 * PN; c++)
            multiply_16x8x8(&sum->of[2 * r][2 * c], &sum->of[2 * r + 1][2 * c], u[r], v[c]);
}
#endif

#endif
