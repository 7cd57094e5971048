// Neurons: y = f(x), and dx = dy f'(x) from y alone.  The formulas are those of tinyalex/ops/activation.py.
// A thread takes V numbers (images.cuh); size counts groups of V.

#include "images.cuh"

enum { RELU, TANH, LOGISTIC };

// x and y may be one array.
//
// reads   x
// writes  y
// least   4 * 2*size bytes
// grid    (ceil(size / block))
extern "C" __global__ void activate(const REAL *x, REAL *y, int size, int which, REAL a, REAL b)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= size)
        return;
    Images value = ((const Images *)x)[t];
    for (int k = 0; k < V; k++) {
        REAL v = value.of[k];
        if (which == RELU)
            v = v < 0 ? (REAL)0 : v;  // a NaN stays a NaN
        else if (which == TANH)
            v = a * tanh(b * v);
        else
            v = (REAL)0.5 * tanh((REAL)0.5 * v) + (REAL)0.5;
        value.of[k] = v;
    }
    ((Images *)y)[t] = value;
}

// dy and dx may be one array.
//
// reads   dy, y
// writes  dx
// least   4 * 3*size bytes
// grid    (ceil(size / block))
extern "C" __global__ void activate_backward(const REAL *dy, const REAL *y, REAL *dx, int size, int which, REAL a,
                                             REAL b)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= size)
        return;
    Images gradient = ((const Images *)dy)[t], out = ((const Images *)y)[t];
    for (int k = 0; k < V; k++) {
        REAL v = out.of[k];
        REAL slope = which == RELU ? (REAL)(v > 0) : which == TANH ? b * (a - v * v / a) : v - v * v;
        gradient.of[k] *= slope;
    }
    ((Images *)dx)[t] = gradient;
}
