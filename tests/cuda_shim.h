// What CUDA C has and C++ has not, so that g++ compiles the kernels: the stand-in for CuPy runs them with it.
//
// A kernel without barriers runs one thread after the other.  One that has them runs its threads as fibers,
// each with a stack of its own: a thread goes on until __syncthreads(), where the next one does, and past the
// barrier only when all have come to it.  Threads and blocks run in order, backwards or shuffled.
//
// So that faults show: shared memory is full of NaNs when a block begins; a copy that a thread asked for is
// made when it is waited for and not before, and what lies at its place is NaN until then; a barrier that not
// all threads come to ends the launch.  What cannot be shown: coalescing, bank conflicts, speed.
#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

// <cmath> takes longer to read than many a kernel to compile
extern "C" double exp(double), log(double), nan(const char *), pow(double, double), sqrt(double), tanh(double);
static inline float exp(float x) { return __builtin_expf(x); }
static inline float log(float x) { return __builtin_logf(x); }
static inline float pow(float x, float y) { return __builtin_powf(x, y); }
static inline float sqrt(float x) { return __builtin_sqrtf(x); }
static inline float tanh(float x) { return __builtin_tanhf(x); }

#define STAND_IN
#define __global__
#define __device__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((section("block_memory")))  // the linker names its beginning and end

#define rsqrt shim_rsqrt // C23's math.h has one, of double alone
static inline float rsqrt(float x) { return 1 / sqrt(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float __fmul_rn(float a, float b) { return a * b; } // g++ fuses only with -mfma
static inline double __dmul_rn(double a, double b) { return a * b; }

struct Index {
    unsigned int x, y, z;
};
static Index gridDim, blockDim, blockIdx, threadIdx;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned __int128)a * b >> 64;
}

const int MOST = 1024; // threads in a block

enum Order { FORWARDS, BACKWARDS, SHUFFLED };

// The numbers 0 ... n-1 in some order; seed: of the shuffle, which goes on with it.
static void arrange(unsigned int *numbers, unsigned int n, int order, unsigned int &seed)
{
    for (unsigned int k = 0; k < n; k++)
        numbers[k] = order == BACKWARDS ? n - 1 - k : k;
    for (unsigned int k = n; order == SHUFFLED && k > 1; k--) {
        seed = seed * 1664525 + 1013904223;
        unsigned int *other = numbers + (seed >> 8) % k, last = numbers[k - 1];
        numbers[k - 1] = *other;
        *other = last;
    }
}

// Calls fn once for every block, with blockIdx set.
template <typename F>
static void for_blocks(Index grid, Index block, int order, unsigned int &seed, F fn)
{
    gridDim = grid;
    blockDim = block;
    unsigned int count = grid.x * grid.y * grid.z, *blocks = new unsigned int[count];
    arrange(blocks, count, order, seed);
    for (unsigned int k = 0; k < count; k++) {
        unsigned int b = blocks[k];
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        fn();
    }
    delete[] blocks;
}

#ifndef BARRIERS

// Calls fn once for every thread of the grid.
template <typename F>
static int run_grid(Index grid, Index block, int order, F fn)
{
    unsigned int seed = 1, threads[MOST];
    arrange(threads, block.x, order, seed);
    for_blocks(grid, block, order, seed, [&] {
        for (unsigned int k = 0; k < block.x; k++) {
            threadIdx = {threads[k], 0, 0};
            fn();
        }
    });
    return 0;
}

#else

struct Copy {
    char *to;
    const char *from; // null: zeros
    int bytes, group;
};

struct Fiber {
    jmp_buf at;
    char *stack;
    Copy copies[256];
    int waiting, groups, state; // copies that wait, groups that have been committed
};
enum State { AT_BARRIER, DONE };

extern char __start_block_memory[] __attribute__((weak)), __stop_block_memory[] __attribute__((weak));
static Fiber *fibers[MOST];
static Fiber *running;
static jmp_buf scheduler;
static void (*thread_work)(void *);
static void *thread_data;

// A fiber lives as long as the library: it does one thread's work after the other.
static void fiber_main()
{
    for (;;) {
        thread_work(thread_data);
        running->state = DONE;
        if (!_setjmp(running->at))
            _longjmp(scheduler, 1);
    }
}

static __attribute__((noinline)) void resume(Fiber &fiber)
{
    running = &fiber;
    if (_setjmp(scheduler))
        return;
    if (fiber.stack)
        _longjmp(fiber.at, 1);
    const size_t size = 1 << 16;
    static ucontext_t begin;
    getcontext(&begin);
    begin.uc_stack.ss_sp = fiber.stack = (char *)malloc(size);
    begin.uc_stack.ss_size = size;
    makecontext(&begin, fiber_main, 0);
    setcontext(&begin);
}

static __attribute__((noinline)) void __syncthreads()
{
    Index mine = threadIdx;
    running->state = AT_BARRIER;
    if (!_setjmp(running->at))
        _longjmp(scheduler, 1);
    threadIdx = mine;
}

typedef char *Shared;
static Shared shared_place(void *place) { return (Shared)place; }

template <int BYTES>
static void copy_later(Shared to, const void *from, bool there)
{
    memset(to, 0xFF, BYTES);
    if (running->waiting == sizeof running->copies / sizeof(Copy))
        abort();
    running->copies[running->waiting++] = {to, there ? (const char *)from : nullptr, BYTES, running->groups};
}

static void commit() { running->groups++; }

template <int GROUPS>
static void wait_for()
{
    int kept = 0;
    for (int k = 0; k < running->waiting; k++) {
        Copy copy = running->copies[k];
        if (copy.group >= running->groups - GROUPS)
            running->copies[kept++] = copy;
        else if (copy.from)
            memcpy(copy.to, copy.from, copy.bytes);
        else
            memset(copy.to, 0, copy.bytes);
    }
    running->waiting = kept;
}

#if TF32
static unsigned int __float_as_uint(float value)
{
    unsigned int bits;
    memcpy(&bits, &value, 4);
    return bits;
}

static unsigned int to_tf32(float value)
{
    unsigned int bits = __float_as_uint(value);
    return __builtin_isfinite(value) ? (bits + 0x1000) & ~0x1FFFu : bits;
}

static float __uint_as_float(unsigned int bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// What a warp's threads do together: every thread shows the others its share.  All warps of the block do it.
static void load_matrices(float *out, const float *row)
{
    static const float *rows[1024];
    int thread = threadIdx.x, warp = thread / 32 * 32, g = thread % 32 / 4, t = thread % 4;
    rows[thread] = row;
    __syncthreads();
    for (int m = 0; m < 4; m++)
        out[m] = rows[warp + 8 * m + g][t];
    __syncthreads();
}

// d += a b
static void multiply_16x8x8(float *d0, float *d1, const unsigned int *a, const unsigned int *b)
{
    static float left[1024][4], right[1024][2];
    int thread = threadIdx.x, warp = thread / 32 * 32, g = thread % 32 / 4, t = thread % 4;
    memcpy(left[thread], a, sizeof left[0]);
    memcpy(right[thread], b, sizeof right[0]);
    __syncthreads();
    for (int k = 0; k < 8; k++)
        for (int c = 0; c < 2; c++) {
            float v = right[warp + (2 * t + c) * 4 + k % 4][k / 4];
            d0[c] += left[warp + g * 4 + k % 4][k / 4 * 2] * v;
            d1[c] += left[warp + g * 4 + k % 4][k / 4 * 2 + 1] * v;
        }
    __syncthreads();
}
#endif

// Calls fn once for every thread of the grid; returns 1 if some threads of a block end while others wait.
template <typename F>
static int run_grid(Index grid, Index block, int order, F fn)
{
    thread_work = [](void *data) { (*(F *)data)(); };
    thread_data = &fn;
    unsigned int seed = 1, waiting = 0, threads[MOST];
    for_blocks(grid, block, order, seed, [&] {
        if (waiting)
            return;
        memset(__start_block_memory, 0xFF, __stop_block_memory - __start_block_memory);
        for (unsigned int t = 0; t < block.x; t++) {
            if (!fibers[t])
                fibers[t] = (Fiber *)calloc(1, sizeof(Fiber));
            fibers[t]->waiting = fibers[t]->groups = 0;
        }
        do {
            waiting = 0;
            arrange(threads, block.x, order, seed);
            for (unsigned int k = 0; k < block.x; k++) {
                threadIdx = {threads[k], 0, 0};
                resume(*fibers[threads[k]]);
                waiting += fibers[threads[k]]->state == AT_BARRIER;
            }
        } while (waiting == block.x);
    });
    if (waiting) // some are in the middle of their work for ever
        memset(fibers, 0, sizeof fibers);
    return waiting != 0;
}

#endif
