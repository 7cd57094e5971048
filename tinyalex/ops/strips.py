"""Convolution by matrix products whose columns are hardly copied: strips of im2col, on the CPU.

The columns of im2col are KH·KW times the size of x, and most of them are repetition: the windows of output
row i and of row i+1 have KH−s input rows in common.  So only the repetition along a row is written out:

    strips[h, c, q, j, n] = x̂[c, h, j·s+q, n]                 each input row once, KW copies of it

and the columns of output row i are the strips i·s … i·s+KH−1, which lie one after the other: as a matrix
(KH·C·KW, OW·N) they are a view, nothing is copied, with the rows in the order p, c, q in place of
c, p, q.  One product for each output row, in one call for a block of rows.  The
images are innermost, so strips are copied in runs of N (stride 1: OW·N) contiguous numbers, and W cols
is already the next layer's layout.  Strips are made for a block of output rows at a time, so that memory
does not grow with the picture.

Backward needs the same strips for dW = g colsᵀ, and adds dcols = Wᵀ g into strips and those into x.

With stride 1 the sum for dx has one term for each (p,q): dx is itself a convolution, of g padded with
KH−1−pt zeros (and so on), with the kernel flipped and its C and F exchanged.  And dw reads the same
columns of g: dw[f,c,p,q] = Σ x[c,u,v,n] · ĝ[f, u+KH−1−p, v+KW−1−q, n].  So the strips of g serve both
products, and nothing is scattered; that is `_backward_stride_1`.  It pays where there are no more filters
than channels; else the strips of x are the fewer.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinyalex.memory import empty, zeros
from tinyalex.ops.windows import real_windows

BLOCK_BYTES = 1 << 24  # strips of one block of output rows


def convolve(x, w, stride, pads, y, finish):
    """Write x ∗ w into y.

    x: (C,H,W,N).  w: (F,C,KH,KW).  stride: (vertical, horizontal).  pads: (top, bottom, left, right).  y:
    (F,OH,OW,N).  finish(filters, part) is called with each part of y (some filters, rows and columns) while
    it is in cache.
    """
    F, _, KH, KW = w.shape
    _, OH, OW, N = y.shape
    y_rows = y.reshape(F, OH, OW * N).swapaxes(0, 1)
    weights = _by_rows(w)
    for rows, strips in _blocks_of_rows(x, KH, KW, stride, pads, OH, OW):
        np.matmul(weights, _columns(strips, KH, stride[0]), out=y_rows[rows])
        finish(slice(None), y[:, rows])


def convolve_backward(g, x, w, stride, pads, dx):
    """Write dx, unless it is None, and return dw, of y = x ∗ w.  g: y's gradient, C-contiguous."""
    F, C, KH, KW = w.shape
    _, OH, OW, N = g.shape
    if dx is not None and stride == (1, 1) and C >= F:
        return _backward_stride_1(g, x, w, pads, dx)
    g_rows = g.reshape(F, OH, OW * N).swapaxes(0, 1)
    weights = _by_rows(w)
    dwT = zeros(np, weights.T.shape, w.dtype)  # dWᵀ = cols gᵀ: BLAS likes many rows
    if dx is not None:
        dx.fill(0)
    for rows, strips in _blocks_of_rows(x, KH, KW, stride, pads, OH, OW):
        dwT += np.matmul(_columns(strips, KH, stride[0]), g_rows[rows].swapaxes(1, 2)).sum(axis=0)
        if dx is not None:
            dcols = np.matmul(weights.T, g_rows[rows]).reshape(rows.stop - rows.start, KH, C, KW, OW, N)
            dstrips = zeros(np, strips.shape, strips.dtype)
            for p in range(KH):
                dstrips[p : len(strips) - KH + p + 1 : stride[0]] += dcols[:, p]
            for pixels, strip in _overlap(dx, dstrips, rows.start * stride[0] - pads[0], stride[1], pads[2]):
                pixels += strip
    return _by_filters(dwT.T, w)


def _backward_stride_1(g, x, w, pads, dx):
    """dx and dw for stride 1: both products read the strips of g (module docstring)."""
    _, _, KH, KW = w.shape
    C, H, W, N = x.shape
    turned = w.swapaxes(0, 1)[..., ::-1, ::-1]
    weights = _by_rows(turned)
    dwT = zeros(np, weights.T.shape, w.dtype)
    x_rows, dx_rows = (v.reshape(C, H, W * N).swapaxes(0, 1) for v in (x, dx))
    (pt, pb, pl, pr), (p, q) = pads, (KH - 1, KW - 1)
    for rows, strips in _blocks_of_rows(g, KH, KW, (1, 1), (p - pt, p - pb, q - pl, q - pr), H, W):
        cols = _columns(strips, KH, 1)
        np.matmul(weights, cols, out=dx_rows[rows])
        dwT += np.matmul(cols, x_rows[rows].swapaxes(1, 2)).sum(axis=0)
    return _by_filters(dwT.T, turned).swapaxes(0, 1)[..., ::-1, ::-1]


def _by_rows(w):
    """Weights (F,C,KH,KW) as the matrix that fits the strips: (F, KH·C·KW)."""
    return w.transpose(0, 2, 1, 3).reshape(len(w), -1)


def _by_filters(matrix, w):
    """Undo `_by_rows`: a matrix of that form, shaped like w."""
    F, C, KH, KW = w.shape
    return np.ascontiguousarray(matrix.reshape(F, KH, C, KW).transpose(0, 2, 1, 3))


def _blocks_of_rows(x, kh, kw, stride, pads, oh, ow):
    """Yield (output rows, their strips); the strips' buffer is used again for the next block."""
    (C, _, _, N), (down, across) = x.shape, stride
    step = BLOCK_BYTES // max(1, C * kw * ow * N * x.itemsize)  # input rows whose strips fill a block
    step = min(oh, max(1, (step - kh) // down + 1))
    buffer = empty(np, ((step - 1) * down + kh, C, kw, ow, N), x.dtype)
    for start in range(0, oh, step):
        rows = slice(start, min(start + step, oh))
        strips = buffer[: (rows.stop - start - 1) * down + kh]
        first = start * down - pads[0]
        _zero_outside(strips, x, first, across, pads[2])
        for pixels, strip in _overlap(x, strips, first, across, pads[2]):
            strip[...] = pixels
        yield rows, strips


def _columns(strips, kh, stride):
    """Return the columns of the block's output rows, a view: (rows, KH·C·KW, OW·N)."""
    h, C, kw, ow, N = strips.shape
    flat = strips.reshape(h * C * kw, ow * N)
    windows = sliding_window_view(flat, kh * C * kw, axis=0)[:: stride * C * kw]
    return windows.swapaxes(1, 2)


def _overlap(maps, strips, first, stride, left):
    """Yield (pixels, strip): views of the real pixels and of where they stand in the strips.

    maps (C,H,W,N).  strips (rows, C, KW, OW, N), whose row 0 is row `first` of the maps (which may be
    padding: negative).  left: padding at the left.
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
