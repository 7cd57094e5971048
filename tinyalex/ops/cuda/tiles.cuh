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

#ifndef TF32
#define TF32 0
#endif

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

#if TF32
#define PAD 8 // numbers after each row of a stage, so that a warp's 4 x 8 loads lie in different banks
#define ROWS_HELD (2 * PF)
#define COLUMNS_HELD (8 * PN)
#else
#define PAD 0
#define ROWS_HELD (4 * PF)
#define COLUMNS_HELD (4 * PN)
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
// The tensor cores multiply 16 x 8 by 8 x 8 numbers at once, with 10 bits of each number's mantissa; sums are
// float32.  The matrices are spread over the warp's registers: with g = lane / 4 and t = lane % 4 a thread has
//
//   a: [g][t], [g+8][t], [g][t+4], [g+8][t+4]      b: [t][g], [t+4][g]
//   sums: [g][2t], [g][2t+1], [g+8][2t], [g+8][2t+1]
#ifndef STAND_IN
static __device__ __forceinline__ unsigned int to_tf32(float value)
{
    unsigned int rounded = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(value));
#endif
    return rounded;
}

static __device__ __forceinline__ void multiply_16x8x8(float *d0, float *d1, const unsigned int *a,
                                                       const unsigned int *b)
{
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d0[0]), "+f"(d0[1]), "+f"(d1[0]), "+f"(d1[1])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
#endif

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

// A stage with the terms one below the other: a[k][f], b[k][n].  Thread (ty,tx) of 4 x 8 has the patches of 4
// filters from 4*ty + 16*h and of 4 columns from 4*tx + 32*h.
static __device__ __forceinline__ void multiply_columns(const REAL (*a)[TF + PAD], const REAL (*b)[TN + PAD],
                                                        Place at, Sums *sum)
{
#if TF32
    int g = at.lane / 4, t = at.lane % 4;
#pragma unroll
    for (int k = t; k < TK + t; k += 8) {
        unsigned int u[PF][4], v[4 * PN][2];
#pragma unroll
        for (int r = 0; r < PF; r++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                u[r][e] = to_tf32(a[k + e / 2 * 4][at.f + 16 * r + e % 2 * 8 + g]);
#pragma unroll
        for (int c = 0; c < 4 * PN; c++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                v[c][e] = to_tf32(b[k + 4 * e][at.n + 8 * c + g]);
        multiply_8_terms(u, v, sum);
    }
#else
    int ty = at.lane / 8, tx = at.lane % 8;
#pragma unroll
    for (int k = 0; k < TK; k++) {
        Four u[PF], v[PN];
#pragma unroll
        for (int h = 0; h < PF; h++)
            u[h] = *(const Four *)&a[k][at.f + 4 * ty + 16 * h];
#pragma unroll
        for (int h = 0; h < PN; h++)
            v[h] = *(const Four *)&b[k][at.n + 4 * tx + 32 * h];
#pragma unroll
        for (int r = 0; r < 4 * PF; r++)
#pragma unroll
            for (int c = 0; c < 4 * PN; c++)
                sum->of[r][c] += u[r / 4].of[r % 4] * v[c / 4].of[c % 4];
    }
#endif
}

// A stage with the terms side by side: a[f][k], b[n][k].  Thread (ty,tx) has the filters ty + 4*r and the
// columns tx + 8*c of the warp's tile, and takes four terms at a time.
#define PITCH (TK + 16 / (int)sizeof(REAL)) // of a row, so that 8 rows' runs lie in different banks

static __device__ __forceinline__ void multiply_rows(const REAL (*a)[PITCH], const REAL (*b)[PITCH], Place at,
                                                     Sums *sum)
{
#if TF32
    int g = at.lane / 4, t = at.lane % 4;
#pragma unroll
    for (int k = t; k < TK + t; k += 8) {
        unsigned int u[PF][4], v[4 * PN][2];
#pragma unroll
        for (int r = 0; r < PF; r++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                u[r][e] = to_tf32(a[at.f + 16 * r + e % 2 * 8 + g][k + e / 2 * 4]);
#pragma unroll
        for (int c = 0; c < 4 * PN; c++)
#pragma unroll
            for (int e = 0; e < 2; e++)
                v[c][e] = to_tf32(b[at.n + 8 * c + g][k + 4 * e]);
        multiply_8_terms(u, v, sum);
    }
#else
    int ty = at.lane / 8, tx = at.lane % 8;
#pragma unroll
    for (int k = 0; k < TK; k += 4) {
        Four u[4 * PF];
#pragma unroll
        for (int r = 0; r < 4 * PF; r++)
            u[r] = *(const Four *)&a[at.f + ty + 4 * r][k];
#pragma unroll
        for (int c = 0; c < 4 * PN; c++) {
            Four v = *(const Four *)&b[at.n + tx + 8 * c][k];
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int r = 0; r < 4 * PF; r++)
                    sum->of[r][c] += u[r].of[e] * v.of[e];
        }
    }
#endif
}

// The tile's filter and column of sum->of[r][c].  By columns: SIDE_BY_SIDE columns c, c+1, ... are neighbours.
#if TF32
#define SIDE_BY_SIDE 2
static __device__ __forceinline__ int filter_by_columns(Place at, int r) { return at.f + 8 * r + at.lane / 4; }
static __device__ __forceinline__ int column_by_columns(Place at, int c)
{
    return at.n + 8 * (c / 2) + at.lane % 4 * 2 + c % 2;
}
static __device__ __forceinline__ int filter_by_rows(Place at, int r) { return filter_by_columns(at, r); }
static __device__ __forceinline__ int column_by_rows(Place at, int c) { return column_by_columns(at, c); }
#else
#define SIDE_BY_SIDE 4
static __device__ __forceinline__ int filter_by_columns(Place at, int r)
{
    return at.f + at.lane / 8 * 4 + 16 * (r / 4) + r % 4;
}
static __device__ __forceinline__ int column_by_columns(Place at, int c)
{
    return at.n + at.lane % 8 * 4 + 32 * (c / 4) + c % 4;
}
static __device__ __forceinline__ int filter_by_rows(Place at, int r) { return at.f + at.lane / 8 + 4 * r; }
static __device__ __forceinline__ int column_by_rows(Place at, int c) { return at.n + at.lane % 8 + 8 * c; }
#endif
