// Bias and ReLU after a matrix product, in place, on maps (F, columns).  A thread takes V columns (images.cuh);
// columns counts groups of V.

#include "images.cuh"

// maps[f,t] += b[f], then 0 where that is negative and relu is set.  A NaN stays a NaN.
//
// reads   maps, b
// writes  maps
// least   4 * (2*F*columns + F) bytes
// grid    (ceil(columns / block), F)
extern "C" __global__ void bias_relu(REAL *maps, const REAL *b, int columns, int relu)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= columns)
        return;
    int f = blockIdx.y;
    Images *place = (Images *)maps + (long long)f * columns + t, value = *place;
    for (int k = 0; k < V; k++) {
        value.of[k] += b[f];
        value.of[k] = relu && value.of[k] < 0 ? (REAL)0 : value.of[k];
    }
    *place = value;
}
