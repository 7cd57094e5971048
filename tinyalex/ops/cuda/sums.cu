// Sums of rows, and which images are wrong: a block of TEAM for each row or image.

#include "images.cuh"
#include "sum_of_all.cuh"

// sums[f] = sum of x[f, 0 ... V*columns-1] / divisor: threads take V neighbours each (images.cuh).
//
// reads   x
// writes  sums
// least   4 * (rows*V*columns + rows) bytes
// grid    rows
extern "C" __global__ void __launch_bounds__(TEAM) sum_rows(const REAL *x, REAL *sums, int columns, REAL divisor)
{
    __shared__ REAL shown[TEAM];
    const Images *row = (const Images *)x + (long long)blockIdx.x * columns;
    REAL sum = 0;
    for (int n = threadIdx.x; n < columns; n += TEAM)
        for (int k = 0; k < V; k++)
            sum += row[n].of[k];
    sum = sum_of_all(shown, sum);
    if (!threadIdx.x)
        sums[blockIdx.x] = sum / divisor;
}

// dx = dy where y > 0, else 0, and sums[f] = sum of dx[f, 0 ... V*columns-1]: ReLU' of a layer and the gradient of
// its biases, for which dx would else be read once more.  dy and dx may be one array.
//
// reads   dy, y
// writes  dx, sums
// least   4 * (3*rows*V*columns + rows) bytes
// grid    rows
extern "C" __global__ void __launch_bounds__(TEAM) relu_backward_and_sum(
    const REAL *dy, const REAL *y, REAL *dx, REAL *sums, int columns)
{
    __shared__ REAL shown[TEAM];
    long long row = (long long)blockIdx.x * columns;
    REAL sum = 0;
    for (int n = threadIdx.x; n < columns; n += TEAM) {
        Images gradient = ((const Images *)dy)[row + n], out = ((const Images *)y)[row + n];
        for (int k = 0; k < V; k++)
            sum += gradient.of[k] *= (REAL)(out.of[k] > 0);
        ((Images *)dx)[row + n] = gradient;
    }
    sum = sum_of_all(shown, sum);
    if (!threadIdx.x)
        sums[blockIdx.x] = sum;
}

// error[n] = how wrong the k best of image n's scores are, 0 ... 1: tinyalex.ops.topk_error.  1 where the label
// is no class.
//
// reads   scores (K,N), labels
// writes  error
// least   4*K*N + (8+8)*N bytes
// grid    N
extern "C" __global__ void topk_error(const REAL *scores, const long long *labels, double *error, int K, int N,
                                      int k)
{
    __shared__ int higher[TEAM], same[TEAM];
    int n = blockIdx.x;
    long long label = labels[n];
    bool known = label >= 0 && label < K;
    REAL own = scores[(known ? label : 0) * N + n];
    int above = 0, equal = 0;
    for (int c = threadIdx.x; c < K; c += TEAM) {
        REAL score = scores[(long long)c * N + n];
        above += score > own;
        equal += score == own;
    }
    above = sum_of_all(higher, above);
    equal = sum_of_all(same, equal);
    if (threadIdx.x)
        return;
    double right = known && equal ? (double)(k - above) / equal : 0;  // a NaN is equal to nothing
    error[n] = 1 - (right < 0 ? 0 : right > 1 ? 1 : right);
}
