"""Convolution by matrix products whose columns are hardly copied: strips of im2col, on the CPU.

The columns of im2col are KH·KW times the size of x, and most of them are repetition: the windows of output
row i and of row i+1 have KH−s input rows in common.  So only the repetition along a row is written out:

    strips[h, c, q, j, n] = x̂[c, h, j·s+q, n]                 each input row once, KW copies of it

and the columns of output row i are the strips i·s … i·s+KH−1, which lie one after the other: as a matrix
(KH·C·KW, OW·N) they are a view, nothing is copied, with the rows in the order p, c, q in place of
c, p, q.  One product for each output row, in one call for a block of rows.  The images are innermost, so
strips are copied in runs of N (stride 1: OW·N) contiguous numbers, and W cols is already the next layer's
layout.  Strips are made for a block of output rows and columns at a time, so that memory does not grow with
the picture, and the products read them from cache.

Backward needs the same strips for dW = g colsᵀ, and adds dcols = Wᵀ g into strips and those into x.
"""

import itertools

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinyalex.memory import empty, zeros
from tinyalex.ops.products import product, product_of_transposed
from tinyalex.ops.windows import in_parts, real_windows

BLOCK_BYTES = 3 << 20  # strips of one block
GAP = 16  # numbers after a strip: if they began a power of 2 apart, a cache would hold few at a time


def convolve(x, w, stride, pads, y, finish):
    """Write x ∗ w into y.

    x: (C,H,W,N).  w: (F,C,KH,KW).  stride: (vertical, horizontal).  pads: (top, bottom, left, right).  y:
    (F,OH,OW,N).  finish(filters, part) is called with each part of y (some filters, rows and columns) while
    it is in cache.
    """
    F, C, KH, KW = w.shape
    weights = w.transpose(0, 2, 1, 3).reshape(F, KH * C * KW)
    for rows, columns, *_, strips in _blocks(x, KH, KW, stride, pads, y):
        product(weights, _columns(strips, KH, stride[0]), _by_row(y, rows, columns))
        finish(slice(None), y[:, rows, columns])


def convolve_backward(g, x, w, stride, pads, dx):
    """Write dx, unless it is None, and return dw, of y = x ∗ w.  g: y's gradient, C-contiguous."""
    F, C, KH, KW = w.shape
    weights = w.transpose(0, 2, 1, 3).reshape(F, KH * C * KW)
    dwT = zeros(np, weights.T.shape, w.dtype)  # dWᵀ = cols gᵀ: BLAS likes many rows
    if dx is not None:
        dx.fill(0)
    for rows, columns, there, inside, strips in _blocks(x, KH, KW, stride, pads, g):
        g_part = _by_row(g, rows, columns)
        dwT += product_of_transposed(_columns(strips, KH, stride[0]), g_part).sum(axis=0)
        if dx is not None:
            dcols = np.matmul(weights.T, g_part).reshape(len(g_part), KH, *strips.shape[1:])
            dstrips = zeros(np, strips.shape, strips.dtype)
            for p in range(KH):
                dstrips[p : len(strips) - KH + p + 1 : stride[0]] += dcols[:, p]
            last = (strips.shape[3] - 1) * stride[1]  # the last window's first column
            dpatch = zeros(np, (len(strips), C, last + KW, x.shape[3]), x.dtype)
            for q in range(KW):
                dpatch[:, :, q : q + last + 1 : stride[1]] += dstrips[:, :, q]
            dx.swapaxes(0, 1)[there] += dpatch[inside]
    return dwT.T.reshape(F, KH, C, KW).transpose(0, 2, 1, 3)


def _blocks(x, kh, kw, stride, pads, y):
    """Yield (rows, columns, there, inside, strips): a block of y, and the strips that it is made of.

    They are made of a patch of padded x, (rows, C, columns, N), whose real pixels, patch[inside], are
    x.swapaxes(0, 1)[there].  Of the kh rows that an output row reads, the block below makes some again: so a
    block is at least three times as high, and as wide as there is room for.  All blocks use the same memory.
    """
    (C, H, W, N), (_, OH, OW, _), (down, across) = x.shape, y.shape, stride
    room = BLOCK_BYTES // max(1, C * kw * N * x.itemsize)  # for strips of so many rows times columns
    wide = in_parts(OW, room // (3 * kh))
    high = in_parts(OH, (room // wide[0].stop - kh) // down + 1)
    largest, m = (high[0].stop - 1) * down + kh, wide[0].stop
    patches = empty(np, (largest, C, (m - 1) * across + kw, N), x.dtype)
    buffer = empty(np, (largest, C, kw, m * N + GAP), x.dtype)
    for rows, columns in itertools.product(high, wide):
        h, m = (rows.stop - rows.start - 1) * down + kh, columns.stop - columns.start
        patch = patches[:h, :, : (m - 1) * across + kw]
        inside_rows, there_rows = real_windows(H, h, rows.start * down - pads[0], 1)
        inside_columns, there_columns = real_windows(W, patch.shape[2], columns.start * across - pads[2], 1)
        there, inside = (there_rows, slice(None), there_columns), (inside_rows, slice(None), inside_columns)
        if patch[inside].shape != patch.shape:
            patch.fill(0)  # around the picture
        patch[inside] = x.swapaxes(0, 1)[there]
        strips = buffer[:h, ..., : m * N].reshape(h, C, kw, m, N)
        row, channel, pixel, number = patch.strides
        strips[...] = as_strided(patch, strips.shape, (row, channel, pixel, across * pixel, number))
        yield rows, columns, there, inside, strips


def _by_row(maps, rows, columns):
    """View some rows and columns of maps (F,OH,OW,N) as matrices, one for each row: (rows, F, columns·N)."""
    F, OH, OW, N = maps.shape
    return maps.reshape(F, OH, OW * N).swapaxes(0, 1)[rows, :, columns.start * N : columns.stop * N]


def _columns(strips, kh, stride):
    """Return the columns of the block's output rows, a view: (rows, KH·C·KW, columns·N).

    Of these rows alone: with all windows it would have more numbers than NumPy's 32 bits in a browser count.
    """
    h, C, kw, m, N = strips.shape
    row, *_, number = strips.strides
    shape = (h - kh) // stride + 1, kh * C * kw, m * N
    return as_strided(strips, shape, (stride * row, row // (C * kw), number))
