"""Convolution on the GPU: by `winograd`'s fewer products where that is faster, else by `implicit_gemm`."""

import math

from tinyalex.memory import empty, zeros
from tinyalex.ops.activation import relu
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda import implicit_gemm, winograd
from tinyalex.ops.cuda.sums import backward_and_sum


def conv2d_forward(y, b, cache):
    """Fill y (F,OH,OW,N) with activation(w ∗ x + b); the arguments have been checked."""
    x, w, _, strides, pads, groups, activation = cache
    stride, shape, of_y = _one_stride(strides, y.shape)
    out = y if shape == y.shape else empty(xp_of(x), shape, y.dtype)
    if winograd.pays(w.shape, shape, stride, groups):
        winograd.forward(x, w, b, out, pads, groups, activation is relu)
    else:
        implicit_gemm.forward(x, w, b, out, stride, pads, groups, activation is relu)
    if out is not y:
        y[...] = out[of_y]
    if activation and activation is not relu:
        activation.forward(y, out=y)


def conv2d_backward(dy, cache, need_dx):
    """Return (dx, dw, db), dx None unless needed; the arguments have been checked."""
    x, w, y, strides, pads, groups, activation = cache
    stride, shape, of_y = _one_stride(strides, dy.shape)
    by_winograd = need_dx and winograd.pays(w.shape, shape, stride, groups)
    if by_winograd:
        g, db = backward_and_sum(activation, dy, y)
    else:  # whose kernel sums g's rows
        g = activation.backward(dy, y) if activation else dy
    if shape != g.shape:
        g, own = zeros(xp_of(g), shape, g.dtype), g
        g[of_y] = own
    if by_winograd:
        return *winograd.backward(g, x, w, pads, groups), db
    dw, db = implicit_gemm.backward_w(g, x, w.shape, stride, pads, groups)
    return implicit_gemm.backward_x(g, w, x.shape, stride, pads, groups) if need_dx else None, dw, db


def _one_stride(strides, shape):
    """Return a stride, the output's shape with it, and where in that the output of these strides lies.

    The kernels take the same stride down and across.  Where the two differ it is their greatest common
    divisor, and y is some rows and columns of what that gives.
    """
    (F, OH, OW, N), stride = shape, math.gcd(*strides)
    down, across = (s // stride for s in strides)
    whole = F, (OH - 1) * down + 1, (OW - 1) * across + 1, N
    return stride, whole, (slice(None), slice(None, None, down), slice(None, None, across))
