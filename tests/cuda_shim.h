// What CUDA C has and C++ has not, so that g++ compiles the kernels: the stand-in for CuPy runs them with it,
// one thread after the other.  It cannot show races between threads, coalescing, or speed.
#include <cmath>
using std::exp;
using std::log;
using std::nan;
using std::pow;
using std::sqrt;

#define __global__
#define __device__

static inline float rsqrt(float x) { return 1 / sqrt(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }

struct Index {
    unsigned int x, y, z;
};
static Index gridDim, blockDim, blockIdx, threadIdx;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return (unsigned __int128)a * b >> 64;
}

// Calls fn once for every thread of the grid, in order or from the last to the first.
template <typename F>
static void run_grid(Index grid, Index block, bool backwards, F fn)
{
    gridDim = grid;
    blockDim = block;
    unsigned int blocks = grid.x * grid.y * grid.z;
    for (unsigned int k = 0; k < blocks; k++) {
        unsigned int b = backwards ? blocks - 1 - k : k;
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / (grid.x * grid.y)};
        for (unsigned int t = 0; t < block.x; t++) {
            threadIdx = {backwards ? block.x - 1 - t : t, 0, 0};
            fn();
        }
    }
}
