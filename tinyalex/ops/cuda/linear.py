"""The fully connected layer on the GPU: cuBLAS, then bias and ReLU in place."""

from tinyalex.memory import empty
from tinyalex.ops.activation import relu
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.bias import bias
from tinyalex.ops.cuda.launch import matmul
from tinyalex.ops.cuda.sums import backward_and_sum


def linear_forward(x, w, b, activation):
    """Return activation(W x + b); the arguments have been checked."""
    xp = xp_of(x, w, b)
    y = matmul(w, x, out=empty(xp, (len(w), x.shape[1]), x.dtype))
    bias(y, b, activation)
    if activation and activation is not relu:
        activation.forward(y, out=y)
    return y


def linear_backward(dy, cache):
    """Return (dx, dw, db); the arguments have been checked."""
    x, w, y, activation = cache
    g, db = backward_and_sum(activation, dy, y)
    return matmul(w.T, g), matmul(g, x.T), db
