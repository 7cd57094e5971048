"""Convolution by matrix products whose columns are hardly copied: strips of im2col, on the CPU.

The columns of im2col are KH·KW times the size of x, and most of them are repetition: the windows of output
row i and of row i+1 have KH−s input rows in common.  So only the repetition along a row is written out:

    strips[h, c, q, j, n] = x̂[c, h, j·s+q, n]                 each input row once, KW copies of it

and the columns of output row i are the strips i·s … i·s+KH−1, which lie one after the other: as a matrix
(KH·C·KW, OW·N) they are a view, nothing is copied, with the rows in the order p, c, q in place of
c, p, q.  One product for each output row, in one call for a block of rows.  The
images are innermost, so strips are copied in runs of N (stride 1: OW·N) contiguous numbers, and W cols
is already the next layer's layout.  Strips are made for a block of output rows and columns at a time, so that
memory does not grow with the picture, and the products read them from a core's cache.

Backward needs the same strips for dW = g colsᵀ, and adds dcols = Wᵀ g into strips and those into x.
"""

import itertools

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinyalex.memory import empty, zeros
from tinyalex.ops.products import product, product_of_transposed
from tinyalex.ops.windows import in_parts, real_windows

BLOCK_BYTES = 3 << 20  # strips of one block


def convolve(x, w, stride, pads, y, finish):
    """Write x ∗ w into y.

    x: (C,H,W,N).  w: (F,C,KH,KW).  stride: (vertical, horizontal).  pads: (top, bottom, left, right).  y:
    (F,OH,OW,N).  finish(filters, part) is called with each part of y (some filters, rows and columns) while
    it is in cache.
    """
    F, C, KH, KW = w.shape
    weights = w.transpose(0, 2, 1, 3).reshape(F, KH * C * KW)
    for rows, columns, _, strips in _blocks(x, KH, KW, stride, pads, y):
        product(weights, _columns(strips, KH, stride[0]), _by_row(y, rows, columns))
        finish(slice(None), y[:, rows, columns])


def convolve_backward(g, x, w, stride, pads, dx):
    """Write dx, unless it is None, and return dw, of y = x ∗ w.  g: y's gradient, C-contiguous."""
    F, C, KH, KW = w.shape
    weights = w.transpose(0, 2, 1, 3).reshape(F, KH * C * KW)
    dwT = zeros(np, weights.T.shape, w.dtype)  # dWᵀ = cols gᵀ: BLAS likes many rows
    if dx is not None:
        dx.fill(0)
    for rows, columns, begin, strips in _blocks(x, KH, KW, stride, pads, g):
        g_part = _by_row(g, rows, columns)
        dwT += product_of_transposed(_columns(strips, KH, stride[0]), g_part).sum(axis=0)
        if dx is not None:
            dcols = np.matmul(weights.T, g_part).reshape(len(g_part), KH, *strips.shape[1:])
            dstrips = zeros(np, strips.shape, strips.dtype)
            for p in range(KH):
                dstrips[p : len(strips) - KH + p + 1 : stride[0]] += dcols[:, p]
            for pixels, strip in _overlap(dx, dstrips, *begin):
                pixels += strip
    return dwT.T.reshape(F, KH, C, KW).transpose(0, 2, 1, 3)


def _blocks(x, kh, kw, stride, pads, y):
    """Yield (rows of y, columns of y, where their strips begin, the strips, in a buffer that is used again).

    Of the kh input rows that an output row reads, the block below makes some again.  So a block is at least
    three times as high as that, and as wide as there is room for.  Where it begins: its first row of x, the
    stride along it, and the padding at its left.
    """
    (C, _, _, N), (_, OH, OW, _), (down, across) = x.shape, y.shape, stride
    room = BLOCK_BYTES // max(1, C * kw * N * x.itemsize)  # for strips of so many rows times columns
    wide = in_parts(OW, room // (3 * kh))
    high = in_parts(OH, (room // wide[0].stop - kh) // down + 1)
    buffer = empty(np, ((high[0].stop - 1) * down + kh, C, kw, wide[0].stop, N), x.dtype)
    for rows, columns in itertools.product(high, wide):
        strips = buffer[: (rows.stop - rows.start - 1) * down + kh, :, :, : columns.stop - columns.start]
        begin = rows.start * down - pads[0], across, pads[2] - columns.start * across
        _zero_outside(strips, x, *begin)
        for pixels, strip in _overlap(x, strips, *begin):
            strip[...] = pixels
        yield rows, columns, begin, strips


def _by_row(maps, rows, columns):
    """View some rows and columns of maps (F,OH,OW,N) as matrices, one for each row: (rows, F, columns·N)."""
    F, OH, OW, N = maps.shape
    return maps.reshape(F, OH, OW * N).swapaxes(0, 1)[rows, :, columns.start * N : columns.stop * N]


def _columns(strips, kh, stride):
    """Return the columns of the block's output rows, a view: (rows, KH·C·KW, OW·N).

    Of these rows alone: with all windows it would have more numbers than NumPy's 32 bits in a browser count.
    """
    h, C, kw, ow, N = strips.shape
    row, _, element, _, number = strips.strides
    shape = (h - kh) // stride + 1, kh * C * kw, ow * N
    return as_strided(strips, shape, (stride * row, element, number))


def _overlap(maps, strips, first, stride, left):
    """Yield (pixels, strip): views of the real pixels and of where they stand in the strips.

    maps (C,H,W,N).  strips (rows, C, KW, OW, N), whose row 0 is row `first` of the maps (which may be
    padding: negative).  left: padding at the left (negative: columns of the maps that are to the left).
    """
    H, W = maps.shape[1:3]
    start = max(0, first)
    rows = slice(start, max(start, min(H, first + len(strips))))
    by_row = maps.swapaxes(0, 1)[rows]  # (rows, C, W, N)
    for q in range(strips.shape[2]):
        js, pixels = real_windows(W, strips.shape[3], q - left, stride)
        if js.start < js.stop:
            yield by_row[:, :, pixels], strips[rows.start - first : rows.stop - first, :, q, js]


def _zero_outside(strips, x, first, stride, left):
    """Write the zeros of the padding into the strips: all that `_overlap` does not cover."""
    H, W = x.shape[1:3]
    strips[: max(0, -first)] = 0
    strips[max(0, H - first) :] = 0
    for q in range(strips.shape[2]):
        js, _ = real_windows(W, strips.shape[3], q - left, stride)
        strips[:, :, q, : js.start] = 0
        strips[:, :, q, js.stop :] = 0
