"""Two-dimensional convolution by im2col and matrix products, on (C,H,W,N) arrays.

Sizes: N images, C channels in, F filters out, H, W in, OH, OW out, KH, KW kernel, s stride,
pt, pb, pl, pr zeros padded at the top, bottom, left and right.

    y[f,i,j,n] = b[f] + Σ_c Σ_p Σ_q  w[f,c,p,q] · x̂[c, i·s+p, j·s+q, n]        x̂ = x padded with zeros
    OH = floor((H + pt + pb − KH)/s) + 1,  OW likewise

(As in the paper and in every framework this is correlation: the kernel is not flipped.)

im2col lays each window out as a column, so that the triple sum becomes one matrix product:

    cols[(c,p,q), (i,j,n)] = x̂[c, i·s+p, j·s+q, n]           y = W cols + b,  W = w as (F, C·KH·KW)

The columns are KH·KW times the size of x, and most of them are repetition: the windows of output row i
and of row i+1 have KH−s input rows in common.  So only the repetition along a row is written out:

    strips[h, c, q, j, n] = x̂[c, h, j·s+q, n]                 each input row once, KW copies of it

and the columns of output row i are the strips i·s … i·s+KH−1, which lie one after the other: as a matrix
(KH·C·KW, OW·N) they are a view, nothing is copied, with the rows in the order p, c, q in place of
c, p, q.  One product for each output row; bias and neuron are applied while its result is in cache.  The
images are innermost, so strips are copied in runs of N (stride 1: OW·N) contiguous numbers, and W cols
is already the next layer's layout.  Strips are made for a block of output rows at a time, so that memory
does not grow with the picture.

Backward, with g = dL/dy (through the neuron, if one is fused):

    db[f]       = Σ_{i,j,n} g[f,i,j,n]
    dw[f,c,p,q] = Σ_{i,j,n} g[f,i,j,n] · x̂[c, i·s+p, j·s+q, n]            dW = g colsᵀ
    dx̂[c,u,v,n] = Σ of w[f,c,p,q] · g[f,i,j,n] over all i·s+p = u, j·s+q = v     dcols = Wᵀ g, then col2im

col2im is im2col's transpose: a pixel was copied into every window that covers it, so its gradient is
the sum over those windows.

With stride 1 the last sum has one term for each (p,q): dx is itself a convolution, of g padded with
KH−1−pt zeros (and so on), with the kernel flipped and its C and F exchanged.  And dw reads the same
columns of g: dw[f,c,p,q] = Σ x[c,u,v,n] · ĝ[f, u+KH−1−p, v+KW−1−q, n].  So the strips of g serve both
products, and nothing is scattered; that is `_backward_stride_1`.  It pays where there are no more filters
than channels; else the strips of x are the fewer.

On the CPU, convolutions with many channels take fewer multiplications still, for the same sums: `winograd`.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.memory import empty, zeros
from tinyalex.ops import winograd
from tinyalex.ops.activation import Activation
from tinyalex.ops.checks import check_dy, same_dtype, xp_of
from tinyalex.ops.cuda import conv as cuda
from tinyalex.ops.windows import real_windows

BLOCK_BYTES = 1 << 24  # strips of one block of output rows
MAPS_BYTES = 1 << 20  # of the gradient, on its way through the neuron


def four_pads(pad):
    """Return (top, bottom, left, right) for a pad given as one number or as all four."""
    pads = (pad,) * 4 if isinstance(pad, int) else tuple(pad)
    if len(pads) != 4 or min(pads) < 0:
        raise ArgumentError(f"pad: expected a number ≥ 0 or (top, bottom, left, right), found {pad!r}")
    return pads


def output_size(size, window, stride, before, after, what="conv2d"):
    """floor((size + before + after − window)/stride) + 1: windows that fit into the padded length."""
    if stride < 1 or window < 1:
        raise ArgumentError(f"{what}: expected window and stride ≥ 1, found window {window}, stride {stride}")
    if window > size + before + after:
        raise ArgumentError(
            f"{what}: window of {window} is larger than the map: {size} with {before}+{after} of padding"
        )
    return (size + before + after - window) // stride + 1


def im2col(x, kh, kw, stride=1, pad=0):
    """Lay every window of x (C,H,W,N) out as a column: the simple form, for reading and for checks.

    Returns (C·KH·KW, OH·OW·N): rows in the order c, p, q, columns in the order i, j, n.
    """
    pt, pb, pl, pr = four_pads(pad)
    C, H, W, N = x.shape
    oh = output_size(H, kh, stride, pt, pb, "im2col")
    ow = output_size(W, kw, stride, pl, pr, "im2col")
    padded = xp_of(x).pad(x, ((0, 0), (pt, pb), (pl, pr), (0, 0)))
    cols = xp_of(x).empty((C, kh, kw, oh, ow, N), x.dtype)
    for p in range(kh):
        for q in range(kw):
            cols[:, p, q] = padded[:, p : p + oh * stride : stride, q : q + ow * stride : stride]
    return cols.reshape(C * kh * kw, oh * ow * N)


def col2im(cols, x_shape, kh, kw, stride=1, pad=0):
    """Add every column back where im2col copied it from: im2col's transpose.

    cols: (C·KH·KW, OH·OW·N).  Returns (C,H,W,N) = x_shape.
    """
    pt, pb, pl, pr = four_pads(pad)
    C, H, W, N = x_shape
    oh = output_size(H, kh, stride, pt, pb, "col2im")
    ow = output_size(W, kw, stride, pl, pr, "col2im")
    cols = cols.reshape(C, kh, kw, oh, ow, N)
    padded = xp_of(cols).zeros((C, H + pt + pb, W + pl + pr, N), cols.dtype)
    for p in range(kh):  # within one (p,q) no two windows touch the same pixel, so += is a sum over windows
        for q in range(kw):
            padded[:, p : p + oh * stride : stride, q : q + ow * stride : stride] += cols[:, p, q]
    return padded[:, pt : pt + H, pl : pl + W]


class ConvCache(NamedTuple):
    """What backward needs: the input (unpadded), the weights, the output if it went through a neuron."""

    x: object  # (C, H, W, N)
    w: object  # (F, C/groups, KH, KW)
    y: object  # (F, OH, OW, N), None without activation
    stride: int
    pads: tuple
    groups: int
    activation: Activation | None


def conv2d_forward(x, w, b, stride=1, pad=0, groups=1, activation=None):
    """y = activation(w ∗ x + b): see the module's docstring.

    x: (C,H,W,N).  w: (F, C/groups, KH, KW).  b: (F,).  pad: zeros around the picture, one number or
    (top, bottom, left, right).  groups: the channels and the filters are each cut into so many equal
    parts, and a filter sees only its own part (the paper's two towers: section 3.5, conv2, 4, 5).
    Returns (y, cache), y (F,OH,OW,N).  Raises ValueError for a geometry that cannot be, TypeError for
    mixed dtypes or array kinds.
    """
    xp = xp_of(x, w, b)
    same_dtype("conv2d", x=x, w=w, b=b)
    if x.ndim != 4 or w.ndim != 4:
        raise ArgumentError(f"conv2d: expected x (C,H,W,N) and w (F,C,KH,KW), found {x.shape} and {w.shape}")
    C, H, W, N = x.shape
    F, CG, KH, KW = w.shape
    if groups < 1 or C % groups or F % groups:
        raise ArgumentError(f"conv2d: {C} channels and {F} filters cannot be cut into {groups} equal groups")
    if CG * groups != C:
        raise ArgumentError(
            f"conv2d: filters of {CG} channels × {groups} groups want {CG * groups} channels, x has {C}"
        )
    if b.shape != (F,):
        raise ArgumentError(f"conv2d: expected a bias for each of {F} filters, found shape {b.shape}")
    pads = four_pads(pad)
    OH = output_size(H, KH, stride, *pads[:2])
    OW = output_size(W, KW, stride, *pads[2:])

    y = empty(xp, (F, OH, OW, N), x.dtype)
    cache = ConvCache(x, w, y if activation else None, stride, pads, groups, activation)
    if xp is not np:
        cuda.conv2d_forward(y, b, cache)
        return y, cache
    if winograd.pays(w, stride, groups):
        for cs, fs in _groups(C, F, groups):
            finish = partial(_bias_and_neuron, b[fs], activation)
            winograd.convolve(x[cs], w[fs], pads, y[fs], finish)
        return y, cache
    y_rows = y.reshape(F, OH, OW * N)
    weights = _by_rows(w, groups)
    for g, rows, strips in _blocks(x, groups, KH, KW, stride, pads, OH, OW):
        fs = slice(g * F // groups, (g + 1) * F // groups)
        for i, cols in _columns(strips, rows, KH, stride):
            out = xp.matmul(weights[g], cols, out=y_rows[fs, i])
            out += b[fs, None]  # while the row is hot
            if activation:
                activation.forward(out, out=out)
    return y, cache


def _before_neuron(dy, y, activation):
    """Return g, the gradient before the neuron, and its sum over each map, taken while the map is hot."""
    xp = xp_of(dy)
    g = empty(xp, dy.shape, dy.dtype) if activation else xp.ascontiguousarray(dy)
    db = empty(xp, dy.shape[:1], dy.dtype)
    step = max(1, MAPS_BYTES // dy[0].nbytes)
    for start in range(0, len(dy), step):
        fs = slice(start, start + step)
        if activation:
            activation.backward(dy[fs], y[fs], out=g[fs])
        g[fs].sum(axis=(1, 2, 3), out=db[fs])
    return g, db


def _groups(C, F, groups):
    """Yield each group's channels and filters."""
    for g in range(groups):
        yield slice(g * C // groups, (g + 1) * C // groups), slice(g * F // groups, (g + 1) * F // groups)


def _bias_and_neuron(b, activation, filters, part):
    part += b[filters, None, None, None]
    if activation:
        activation.forward(part, out=part)


def conv2d_backward(dy, cache, need_dx=True):
    """Return (dx, dw, db) of conv2d_forward, each shaped like its variable.

    dy: (F,OH,OW,N).  need_dx=False: the input is the picture itself; dx is None and its work is saved.
    """
    x, w, y, stride, pads, groups, activation = cache
    xp = xp_of(dy, x)
    F, CG, KH, KW = w.shape
    _, H, W, N = x.shape
    OH = output_size(H, KH, stride, *pads[:2])
    OW = output_size(W, KW, stride, *pads[2:])
    check_dy("conv2d backward", dy, (F, OH, OW, N), x.dtype)
    if xp is not np:
        return cuda.conv2d_backward(dy, cache, need_dx)
    g_maps, db = _before_neuron(dy, y, activation)
    if need_dx and winograd.pays(w, stride, groups):
        dx, dw = empty(xp, x.shape, x.dtype), empty(xp, w.shape, w.dtype)
        for cs, fs in _groups(len(x), F, groups):
            dw[fs] = winograd.convolve_backward(g_maps[fs], x[cs], w[fs], pads, dx[cs])
        return dx, dw, db
    if need_dx and stride == 1 and CG * groups >= F:
        return *_backward_stride_1(g_maps, cache), db

    g_rows = g_maps.reshape(F, OH, OW * N)
    weights = _by_rows(w, groups)
    dwT = zeros(xp, weights.swapaxes(1, 2).shape, w.dtype)  # dWᵀ = cols gᵀ: BLAS likes many rows
    dx = zeros(xp, x.shape, x.dtype) if need_dx else None
    for g, rows, strips in _blocks(x, groups, KH, KW, stride, pads, OH, OW):
        fs = slice(g * F // groups, (g + 1) * F // groups)
        dstrips = zeros(xp, strips.shape, strips.dtype) if need_dx else None
        dcols = empty(xp, (KH, CG, KW, OW, N), x.dtype) if need_dx else None
        for i, cols in _columns(strips, rows, KH, stride):
            dwT[g] += cols @ g_rows[fs, i].T
            if need_dx:
                start = (i - rows.start) * stride
                xp.matmul(weights[g].T, g_rows[fs, i], out=dcols.reshape(-1, OW * N))
                dstrips[start : start + KH] += dcols
        if need_dx:
            maps = dx[g * CG : (g + 1) * CG]
            for pixels, strip in _overlap(maps, dstrips, rows.start * stride - pads[0], stride, pads[2]):
                pixels += strip
    return dx, _by_filters(dwT.swapaxes(1, 2), w), db


def _backward_stride_1(g_maps, cache):
    """dx and dw for stride 1: both products read the strips of g (module docstring)."""
    x, w, _, _, (pt, pb, pl, pr), groups, _ = cache
    xp = xp_of(g_maps, x)
    F, CG, KH, KW = w.shape
    C, H, W, N = x.shape
    FG = F // groups

    pads = KH - 1 - pt, KH - 1 - pb, KW - 1 - pl, KW - 1 - pr
    turned = w.reshape(groups, FG, CG, KH, KW).swapaxes(1, 2)[..., ::-1, ::-1].reshape(C, FG, KH, KW)
    weights = _by_rows(turned, groups)
    dwT = zeros(xp, weights.swapaxes(1, 2).shape, w.dtype)
    dx = empty(xp, x.shape, x.dtype)
    x_rows, dx_rows = x.reshape(C, H, W * N), dx.reshape(C, H, W * N)
    for g, rows, strips in _blocks(g_maps, groups, KH, KW, 1, pads, H, W):
        cs = slice(g * CG, (g + 1) * CG)
        for u, cols in _columns(strips, rows, KH, 1):
            xp.matmul(weights[g], cols, out=dx_rows[cs, u])
            dwT[g] += cols @ x_rows[cs, u].T
    dturned = _by_filters(dwT.swapaxes(1, 2), turned).reshape(groups, CG, FG, KH, KW)
    dw = dturned.swapaxes(1, 2)[..., ::-1, ::-1].reshape(w.shape)
    return dx, dw


def _by_rows(w, groups):
    """Weights (F, C/groups, KH, KW) as matrices that fit the strips: (groups, F/groups, KH·C/groups·KW)."""
    return w.transpose(0, 2, 1, 3).reshape(groups, len(w) // groups, -1)


def _by_filters(matrices, w):
    """Undo `_by_rows`: matrices of that form, shaped like w."""
    F, CG, KH, KW = w.shape
    return xp_of(w).ascontiguousarray(matrices.reshape(F, KH, CG, KW).transpose(0, 2, 1, 3))


def _blocks(x, groups, kh, kw, stride, pads, oh, ow):
    """Yield (group, output rows, their strips); the strips' buffer is used again for the next block."""
    xp = xp_of(x)
    C, _, _, N = x.shape
    CG = C // groups
    step = BLOCK_BYTES // (CG * kw * ow * N * x.itemsize)  # input rows whose strips fill a block
    step = min(oh, max(1, (step - kh) // stride + 1))
    buffer = empty(xp, ((step - 1) * stride + kh, CG, kw, ow, N), x.dtype)
    for g in range(groups):
        for start in range(0, oh, step):
            rows = range(start, min(start + step, oh))
            strips = buffer[: (len(rows) - 1) * stride + kh]
            first = start * stride - pads[0]
            _zero_outside(strips, x, first, stride, pads[2])
            for pixels, strip in _overlap(x[g * CG : (g + 1) * CG], strips, first, stride, pads[2]):
                strip[...] = pixels
            yield g, rows, strips


def _columns(strips, rows, kh, stride):
    """Yield (i, columns): each output row's matrix (KH·C·KW, OW·N), a view of its strips."""
    h, CG, kw, ow, N = strips.shape
    flat = strips.reshape(h * CG * kw, ow * N)
    for i in rows:
        start = (i - rows.start) * stride
        yield i, flat[start * CG * kw : (start + kh) * CG * kw]


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
