"""Max and average pooling over z×z windows placed every s pixels, on (C,H,W,N) arrays.

z and s may be two numbers each, (vertical, horizontal).

With s < z neighbouring windows overlap (paper, section 3.4: z = 3, s = 2).  The output size is
floor or ceil((size + pads − z)/s) + 1.  With ceil, as in 2012 (layer.py:1164), the last windows may
hang over the bottom and right edge and see only real pixels; one that would start beyond the picture
and its top or left padding is dropped (as Caffe and PyTorch do).

A window is a row of columns, so both poolings are done one axis at a time: first over the z columns
of every row, then over the z rows of that: 2z passes over the data in place of z².

    t[c,u,j,n] = op_q x[c, u, j·s+q, n]           y[c,i,j,n] = op_p t[c, i·s+p, j, n]

Backward runs the two passes in the reverse order.  In each, pixel u = o·s + p gets something from every
window o that covers it, so with overlap the contributions add up (`+=`, never `=`).
"""

import math
from typing import NamedTuple

import numpy as np

from tinyalex.fields import of_kind
from tinyalex.memory import empty, zeros
from tinyalex.ops.checks import check_axes, check_dy, same_dtype
from tinyalex.ops.cuda import pool as cuda
from tinyalex.ops.windows import four_pads, pooled_size, real_windows, two_of

__all__ = ["avg_pool_backward", "avg_pool_forward", "max_pool_backward", "max_pool_forward"]

BLOCK_BYTES = 1 << 21  # of input handled at a time, whole channels: smaller, and the ranks wait for the GIL


def _covered(size, z, s, before, out):
    """For each offset p in the window: (windows o, pixels o·s + p − before) that are real, as slices."""
    for p in range(z):
        windows, pixels = real_windows(size, out, p - before, s)
        if windows.start < windows.stop:
            yield windows, pixels


def _along(axis, index):
    """The index of an array that takes `index` of this axis, and all of the others."""
    return (slice(None),) * axis + (index,)


class MaxPoolCache(NamedTuple):
    """What backward needs: the input, the output, and the geometry."""

    x: object  # (C, H, W, N)
    y: object  # (C, OH, OW, N)
    z: tuple  # (vertical, horizontal), as s
    s: tuple
    pads: tuple


class AvgPoolCache(NamedTuple):
    """What backward needs: no pixels, only what they were."""

    x_shape: tuple
    y_shape: tuple
    dtype: object  # of x
    z: tuple
    s: tuple
    pads: tuple


def pool_geometry(what, x, z, s, pad, ceil):
    """Check the arguments of a pooling; return x's module, z, s, the four pads, and y's shape."""
    xp = same_dtype(what, x=x)
    check_axes(what, "x", x, "C,H,W,N")
    z, s, pads = two_of(z, f"{what}: window z"), two_of(s, f"{what}: stride s"), four_pads(pad)
    C, H, W, N = x.shape
    OH = pooled_size(H, z[0], s[0], *pads[:2], ceil, what)
    return xp, z, s, pads, (C, OH, pooled_size(W, z[1], s[1], *pads[2:], ceil, what), N)


def _channel_blocks(x):
    step = max(1, BLOCK_BYTES // max(1, math.prod(x.shape[1:]) * x.itemsize))
    return [slice(c, c + step) for c in range(0, x.shape[0], step)]


def max_pool_forward(x, z, s, pad=0, ceil=True):
    """y = the largest pixel of each window; padding counts as −∞.

    x: (C,H,W,N).  Returns (y, cache), y (C,OH,OW,N).  Raises ValueError for impossible windows.
    """
    xp, z, s, pads, y_shape = pool_geometry("max_pool", x, z, s, pad, ceil)
    if xp is not np:
        return cuda.max_pool_forward(x, y_shape[1:3], z, s, pads)
    y = empty(xp, y_shape, x.dtype)
    for cs in _channel_blocks(x):
        # Down first, then across: a maximum may be taken in either order, and down the runs are longer.
        t = _max_along(1, x[cs], z[0], s[0], pads[0], y_shape[1])
        _max_along(2, t, z[1], s[1], pads[2], y_shape[2], out=y[cs])
    return y, MaxPoolCache(x, y, z, s, pads)


def _max_along(axis, x, z, s, before, size, out=None):
    out = empty(np, (*x.shape[:axis], size, *x.shape[axis + 1 :]), x.dtype) if out is None else out
    covered = sorted(_covered(x.shape[axis], z, s, before, size), key=lambda c: c[0].start - c[0].stop)
    if covered[0][0] == slice(0, size):  # an offset that is real in every window starts the maximum
        out[...] = x[_along(axis, covered.pop(0)[1])]
    else:
        out.fill(-math.inf)
    for windows, pixels in covered:
        part = out[_along(axis, windows)]
        np.maximum(part, x[_along(axis, pixels)], out=part)
    return out


def max_pool_backward(dy, cache):
    """dx[u] = Σ of dy[o] over the windows o whose winner is u.

    The winner of a window is its largest pixel, the first in reading order among equals (PyTorch's
    rule; 2012's kernel gives each of them the whole gradient).  Taking the first column within each row
    and then the first row is that order.  NaN is larger than any number: the first of several wins (in
    PyTorch the last).  On the CPU an infinite dy leaves NaN (0·∞) in its whole window.
    """
    if isinstance(cache, cuda.MaxPoolCache):
        return cuda.max_pool_backward(dy, cache)
    x, y, z, s, pads = of_kind(MaxPoolCache, cache, "max_pool backward: cache")
    xp = check_dy("max_pool backward", dy, y.shape, x.dtype, x)
    dx = empty(xp, x.shape, x.dtype)
    for cs in _channel_blocks(x):
        t = _max_along(2, x[cs], z[1], s[1], pads[2], y.shape[2])
        nan = math.isnan(y[cs].max(initial=0))
        dt = _first_winner(1, dy[cs], y[cs], t, z[0], s[0], pads[0], empty(xp, t.shape, t.dtype), nan)
        _first_winner(2, dt, t, x[cs], z[1], s[1], pads[2], dx[cs], nan)
    return dx


def _first_winner(axis, dy, y, x, z, s, before, dx, nan):
    """Write into dx, along one axis, each window's dy where its first largest pixel is.  nan: y holds some.

    Offsets 0 … s−1 cover each pixel exactly once, so there dx is written, not added to; only the pixels
    that none of them covers are set to 0 before.
    """
    left, share = (empty(np, dy.shape, dy.dtype) for _ in range(2))
    left[...] = dy  # the gradient of the windows whose winner is not yet found
    size, count = x.shape[axis], y.shape[axis]
    dx[_along(axis, slice(0 if z < s else max(0, count * s - before), None))] = 0
    covered = list(_covered(size, z, s, before, count))
    for windows, pixels in covered:
        o, u = _along(axis, windows), _along(axis, pixels)
        won = left[o]  # what is left at the end is the last pixel's
        if pixels is not covered[-1][1]:
            won = share[o]
            np.equal(x[u], y[o], out=won)  # 1 or 0, as a float: bool times float is slower
            if nan:
                won[np.isnan(x[u])] = 1
            won *= left[o]
            left[o] -= won
        if pixels.start + before - windows.start * s < s:  # the place in the window
            dx[u] = won
        else:
            dx[u] += won
    return dx


def avg_pool_forward(x, z, s, pad=0, ceil=True):
    """y = the sum of each window's real pixels / how many they are (2012: kLocalAvgUndo spreads it so).

    x: (C,H,W,N).  Returns (y, cache), y (C,OH,OW,N).  Raises ValueError for impossible windows.
    """
    xp, z, s, pads, y_shape = pool_geometry("avg_pool", x, z, s, pad, ceil)
    cache = AvgPoolCache(x.shape, y_shape, x.dtype, z, s, pads)
    if xp is not np:
        return cuda.avg_pool_forward(x, y_shape[1:3], z, s, pads), cache
    y = empty(xp, y_shape, x.dtype)
    share = _shares(cache)
    for cs in _channel_blocks(x):
        y[cs], t = 0, zeros(xp, (*x[cs].shape[:2], *y_shape[2:]), x.dtype)
        _sum_along(2, x[cs], z[1], s[1], pads[2], t)
        _sum_along(1, t, z[0], s[0], pads[0], y[cs])
        y[cs] *= share
    return y, cache


def _sum_along(axis, x, z, s, before, y):
    for windows, pixels in _covered(x.shape[axis], z, s, before, y.shape[axis]):
        y[_along(axis, windows)] += x[_along(axis, pixels)]


def _shares(cache):
    """1 / the number of real pixels in each window, (OH, OW, 1)."""
    (_, H, W, _), (_, OH, OW, _), dtype, z, s, pads = cache
    rows, columns = np.arange(OH) * s[0] - pads[0], np.arange(OW) * s[1] - pads[2]  # of their first pixels
    high = np.minimum(rows + z[0], H) - np.maximum(rows, 0)
    wide = np.minimum(columns + z[1], W) - np.maximum(columns, 0)
    return (1 / high.astype(dtype))[:, None, None] * (1 / wide.astype(dtype))[:, None]


def avg_pool_backward(dy, cache):
    """dx[u] = Σ of dy[o] / (real pixels in o) over the windows o that cover u."""
    x_shape, y_shape, dtype, z, s, pads = of_kind(AvgPoolCache, cache, "avg_pool backward: cache")
    xp = check_dy("avg_pool backward", dy, y_shape, dtype)
    if xp is not np:
        return cuda.avg_pool_backward(dy, x_shape, z, s, pads)
    dx = zeros(xp, x_shape, dtype)
    share = _shares(cache)
    for cs in _channel_blocks(dx):
        dt = zeros(xp, (*dx[cs].shape[:2], *y_shape[2:]), dtype)
        _spread_along(1, dy[cs] * share, z[0], s[0], pads[0], dt)
        _spread_along(2, dt, z[1], s[1], pads[2], dx[cs])
    return dx


def _spread_along(axis, dy, z, s, before, dx):
    for windows, pixels in _covered(dx.shape[axis], z, s, before, dy.shape[axis]):
        dx[_along(axis, pixels)] += dy[_along(axis, windows)]
