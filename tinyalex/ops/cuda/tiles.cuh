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

struct __align__(sizeof(REAL) * V) Run {
    REAL of[V];
};

struct __align__(16) Four {
    REAL of[4];
};

#define WARP_F (16 * PF)
#define WARP_N (32 * PN)
#define THREADS (TF / WARP_F * (TN / WARP_N) * 32)

// ---- copies to shared memory that the thread does not wait for -----------------------------------------
// On sm_80 and later a thread can ask for a copy and go on.  Copies asked for between two calls of commit
// make a group; wait_for<n> returns when no more than the last n groups are still on their way.  They are
// then seen by the thread that asked; a barrier shows them to the block.

#ifndef STAND_IN
template <int BYTES>
static __device__ __forceinline__ void copy_later(void *to, const void *from, bool there)
{
#if __CUDA_ARCH__ >= 800
    unsigned int place = (unsigned int)__cvta_generic_to_shared(to);
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from),
                     "r"(there ? 16 : 0) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(place), "l"(from), "n"(BYTES),
                     "r"(there ? BYTES : 0) : "memory");
#else
    for (int k = 0; k < BYTES / 4; k++)
        ((int *)to)[k] = there ? ((const int *)from)[k] : 0;
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

// V numbers, or zeros where there is nothing to copy.
static __device__ __forceinline__ void copy_run(REAL *to, const REAL *from, bool there)
{
    copy_later<(int)sizeof(Run)>(to, from, there);
}

// ReLU's backward in place: 0 where the output was not positive.
static __device__ __forceinline__ void through_relu(REAL *g, const REAL *y)
{
    Run gradient = *(Run *)g, output = *(const Run *)y;
#pragma unroll
    for (int k = 0; k < V; k++)
        gradient.of[k] = output.of[k] > 0 ? gradient.of[k] : (REAL)0;
    *(Run *)g = gradient;
}

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

struct Sums {
    REAL of[4 * PF][4 * PN];
};

// Where the warp's tile begins, and which of its threads this one is.
struct Place {
    int f, n, ty, tx;
};

static __device__ __forceinline__ Place place_in_block()
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    return {warp % (TF / WARP_F) * WARP_F, warp / (TF / WARP_F) * WARP_N, lane / 8, lane % 8};
}

// a stage with the terms one below the other: a[k][f], b[k][n]; thread (ty,tx) has the patches of 4 filters
// from 4*ty + 16*h and of 4 columns from 4*tx + 32*h.
static __device__ __forceinline__ void multiply_columns(const REAL (*a)[TF], const REAL (*b)[TN], Place at,
                                                        Sums *sum)
{
#pragma unroll
    for (int k = 0; k < TK; k++) {
        Four u[PF], v[PN];
#pragma unroll
        for (int h = 0; h < PF; h++)
            u[h] = *(const Four *)&a[k][at.f + 4 * at.ty + 16 * h];
#pragma unroll
        for (int h = 0; h < PN; h++)
            v[h] = *(const Four *)&b[k][at.n + 4 * at.tx + 32 * h];
#pragma unroll
        for (int r = 0; r < 4 * PF; r++)
#pragma unroll
            for (int c = 0; c < 4 * PN; c++)
                sum->of[r][c] += u[r / 4].of[r % 4] * v[c / 4].of[c % 4];
    }
}
