"""Convolution on the GPU: im2col into a block of columns, cuBLAS, then bias and ReLU on the way to the maps.

A block is some output rows of one group: its columns are written, read by the products and overwritten, so
that memory does not grow with the picture.  Rows of columns are in the order c, p, q, as the weights lie.
"""

from tinyalex.memory import empty, zeros
from tinyalex.ops.activation import relu
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.bias import bias, relu_backward
from tinyalex.ops.cuda.launch import launch, matmul

BLOCK_BYTES = 1 << 27  # of columns: not yet tuned on hardware


def conv2d_forward(y, b, cache):
    """Fill y (F,OH,OW,N) with activation(w ∗ x + b); the arguments have been checked."""
    w, groups, activation = cache.w, cache.groups, cache.activation
    xp = xp_of(y, b, w)
    weights = xp.ascontiguousarray(w).reshape(groups, len(w) // groups, -1)
    for g, fs, start, columns, *_ in _blocks(cache, y.shape):
        bias(matmul(weights[g], columns), b[fs], y[fs], start, activation)
    if activation and activation is not relu:
        activation.forward(y, out=y)


def conv2d_backward(dy, cache, need_dx):
    """Return (dx, dw, db), dx None unless needed; the arguments have been checked."""
    x, w, y, stride, pads, groups, activation = cache
    xp = xp_of(dy, x, w)
    F, CG, KH, KW = w.shape
    _, H, W, N = x.shape
    OW = dy.shape[2]
    through_relu = activation is relu
    g_maps = dy if not activation or through_relu else activation.backward(dy, y)
    g_maps = xp.ascontiguousarray(g_maps)
    outputs = y if through_relu else g_maps  # whose sign ReLU's backward looks at
    weights = xp.ascontiguousarray(w).reshape(groups, F // groups, -1)
    dweights, db = zeros(xp, weights.shape, w.dtype), zeros(xp, (F,), w.dtype)
    dx = empty(xp, x.shape, x.dtype) if need_dx else None
    for g, fs, start, columns, rows, new in _blocks(cache, dy.shape):
        width = columns.shape[1]
        block = empty(xp, (F // groups, width), dy.dtype)
        relu_backward(g_maps[fs], outputs[fs], block, start, activation)
        for total, more in ((db[fs], block.sum(axis=1)), (dweights[g], matmul(block, columns.T))):
            total += more
        if not need_dx:
            continue
        matmul(weights[g].T, block, out=columns)  # they have been read: their memory is free
        first = min(new.start, max(0, rows.start * stride - pads[0]))  # this block adds from here, then sets
        launch(
            "conv.col2im", (W * N, new.stop - first, CG), columns, dx[g * CG : (g + 1) * CG],
            H, W, N, KH, KW, OW, stride, pads[0], pads[2], rows.start, len(rows), first, new.start,
            nbytes=columns.nbytes + CG * len(new) * W * N * x.itemsize,
        )  # fmt: skip
    return dx, dweights.reshape(w.shape), db


def _blocks(cache, shape):
    """Yield each block's (group, its filters, first column of y's rows, columns, output rows, new rows of x).

    shape: y's, (F,OH,OW,N).  New are the rows of pixels that no earlier block of the group has reached, up to
    the last that this one's windows cover.  The columns' buffer is used again for the next block.
    """
    x, w, _, stride, pads, groups, _ = cache
    xp = xp_of(x)
    x = xp.ascontiguousarray(x)
    _, H, W, N = x.shape
    F, CG, KH, KW = w.shape
    _, OH, OW, _ = shape
    height, width = CG * KH * KW, OW * N
    step = min(OH, max(1, BLOCK_BYTES // max(1, height * width * x.itemsize)))
    buffer = empty(xp, (height * step * width,), x.dtype)
    for g in range(groups):
        reached = 0
        for first in range(0, OH, step):
            rows = range(first, min(first + step, OH))
            end = H if rows.stop == OH else min(H, max(0, (rows.stop - 1) * stride + KH - pads[0]))
            new = range(reached, end)
            reached = end
            columns = buffer[: height * len(rows) * width].reshape(height, len(rows) * width)
            launch(
                "conv.im2col", (width, len(rows), height), x[g * CG : (g + 1) * CG], columns,
                H, W, N, KH, KW, OW, stride, pads[0], pads[2], first, len(rows),
                nbytes=columns.nbytes + CG * len(new) * W * N * x.itemsize,
            )  # fmt: skip
            yield g, slice(g * F // groups, (g + 1) * F // groups), first * width, columns, rows, new
