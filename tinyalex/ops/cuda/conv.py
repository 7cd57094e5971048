"""Convolution on the GPU: by `winograd`'s fewer products where that is faster, else by `implicit_gemm`."""

from tinyalex.ops.activation import relu
from tinyalex.ops.cuda import implicit_gemm, winograd

SCRATCH_BYTES = implicit_gemm.SCRATCH_BYTES + winograd.SCRATCH_BYTES  # of what lives within one call


def conv2d_forward(y, b, cache):
    """Fill y (F,OH,OW,N) with activation(w ∗ x + b); the arguments have been checked."""
    x, w, _, stride, pads, groups, activation = cache
    if winograd.pays(w.shape, y.shape, stride, groups):
        winograd.forward(x, w, b, y, pads, groups, activation is relu)
    else:
        implicit_gemm.forward(x, w, b, y, stride, pads, groups, activation is relu)
    if activation and activation is not relu:
        activation.forward(y, out=y)


def conv2d_backward(dy, cache, need_dx):
    """Return (dx, dw, db), dx None unless needed; the arguments have been checked."""
    x, w, y, stride, pads, groups, activation = cache
    g = activation.backward(dy, y) if activation else dy
    if need_dx and winograd.pays(w.shape, g.shape, stride, groups):
        return winograd.backward(g, x, w, pads, groups)
    dw, db = implicit_gemm.backward_w(g, x, w.shape, stride, pads, groups)
    return implicit_gemm.backward_x(g, w, x.shape, stride, pads, groups) if need_dx else None, dw, db
