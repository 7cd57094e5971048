// Bias and ReLU, between a matrix product's block (F, columns) and its place in the maps (F, pitch).
// Columns are (i,j,n) in the maps' own order, so that a block's row is a contiguous run of a map's.
// A thread takes V columns (images.cuh): columns, pitch and start count groups of V.

#include "images.cuh"

// maps[f, start+t] = block[f,t] + b[f], or 0 where that is negative and relu is set.  A NaN stays a NaN.
// block and maps may be one array (pitch = columns, start = 0).
//
// reads   block, b
// writes  columns columns of every map
// least   4 * (2*F*columns + F) bytes
// grid    (ceil(columns / block), F)
extern "C" __global__ void bias_relu(const REAL *block, const REAL *b, REAL *maps, int columns, int pitch,
                                     int start, int relu)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= columns)
        return;
    int f = blockIdx.y;
    Images value = ((const Images *)block)[(long long)f * columns + t];
    for (int k = 0; k < V; k++) {
        value.of[k] += b[f];
        value.of[k] = relu && value.of[k] < 0 ? (REAL)0 : value.of[k];
    }
    ((Images *)maps)[(long long)f * pitch + start + t] = value;
}
