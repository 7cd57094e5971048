"""Local response normalization across channels (paper, section 3.3) and 2012's within one map.

    y_i = x_i / s_i^β         s_i = k + a Σ_{j ∈ win(i)} x_j²

The window of channel i is the n channels i − ⌊n/2⌋ … i − ⌊n/2⌋ + n − 1, cut off at the ends of the
maps, and at the ends of each group: a window never crosses a tower (2012: kFCNorm, and each GPU had
only its own maps).  For odd n that is the paper's sum from i − n/2 to i + n/2.  The paper's text has
a = α; the 2012 code (layer.py:1183), Caffe, PyTorch and ONNX have a = α/n.

Backward, with g = dL/dy.  x_i stands in y_i's numerator, and in s_j for every j whose window holds i:

    ∂y_j/∂x_i = [i = j] s_i^−β  −  x_j β s_j^(−β−1) · 2 a x_i    for i ∈ win(j)
    dx_i      = g_i s_i^−β  −  2 a β x_i  Σ_{j: i ∈ win(j)}  g_j x_j s_j^(−β−1)

The second sum runs over the transposed window (for odd n the same one).  At α = 1e-4 and inputs near 1 it is
about 2e-4 of the whole: a check in float32 does not see it, one in float64 does.  Check with α near 1.
"""

from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.fields import check_numbers, expect, of_kind
from tinyalex.memory import empty
from tinyalex.ops.checks import check_axes, check_dy, same_dtype
from tinyalex.ops.cuda import lrn as cuda
from tinyalex.ops.windows import whole_numbers

__all__ = ["lrn_backward", "lrn_forward", "same_map_norm_backward", "same_map_norm_forward"]

# Of x handled at a time, all channels of some pixels: long runs, to be fetched ahead, and still in cache.
BLOCK_BYTES = 1 << 21


class NormCache(NamedTuple):
    """What backward needs: the input and the bracket s, and the constants."""

    x: object  # (C, H, W, N)
    s: object  # (C, H, W, N): k + a Σ x²
    n: int
    a: float
    beta: float
    groups: int


def check_norm(what, x, n, k, alpha, beta, groups=1):
    """Return x's module; raise unless maps x can be normalized with these numbers, in so many groups."""
    xp = same_dtype(what, x=x)
    check_axes(what, "x", x, "C,H,W,N")
    check_numbers(f"{what}: ", 0, k=k, alpha=alpha, beta=beta)
    expect(whole_numbers(n), what, "a window n ≥ 1", n)
    if not whole_numbers(groups) or not len(x) or len(x) % groups:
        raise ArgumentError(f"{what}: {len(x)} channels cannot be cut into {groups} equal groups")
    return xp


def _over_power(x, s, beta, out, work):
    """x / s^β; for the usual β = 3/4 by two square roots, many times as fast as a power."""
    if beta == 0.75:
        np.sqrt(s, out=out)  # s^½
        out *= np.sqrt(out, out=work)  # · s^¼
    else:
        np.power(s, s.dtype.type(beta), out=out)
    return np.divide(x, out, out=out)


def _window_sum(p, n, before, out, work):
    """out[i] = Σ p[j] for j from i − before to i − before + n − 1, cut off at the ends; axis 0.

    For n = 5 the inner channels need three additions: pairs, pairs of pairs, and one more.  A running
    sum needs two, but would subtract large numbers again: in float32 what is left is their rounding.
    """
    C = len(p)
    after = n - 1 - before
    if n == 5 and before == 2 and C >= 5:
        pairs = np.add(p[1:], p[:-1], out=work[: C - 1])  # p_i + p_i+1
        np.add(pairs[:-3], pairs[2:-1], out=out[2:-2])
        out[2:-2] += p[4:]
        out[0] = pairs[0] + p[2]
        out[1] = pairs[0] + pairs[2]
        out[-2] = pairs[-1] + pairs[-3]
        out[-1] = pairs[-1] + p[-3]
        return out
    out[...] = p
    for d in range(1, min(before, C - 1) + 1):
        out[d:] += p[:-d]
    for d in range(1, min(after, C - 1) + 1):
        out[:-d] += p[d:]
    return out


def _blocks_of_pixels(x, groups, buffers):
    """Yield ((channels, columns), room): cache-sized pieces of x as a (C, H·W·N) matrix, and some like them.

    The room is the same for every piece: fresh arrays of megabytes would cost more than the arithmetic.
    """
    C, columns = x.shape[0], x[0].size
    size = C // groups
    step = max(1, min(columns, BLOCK_BYTES // (size * x.itemsize)))
    room = empty(np, (buffers, size, step), x.dtype)
    for g in range(groups):
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            yield (slice(g * size, (g + 1) * size), slice(start, stop)), room[:, :, : stop - start]


def lrn_forward(x, n=5, k=2.0, alpha=1e-4, beta=0.75, alpha_over_n=False, groups=1):
    """y_i = x_i / (k + a Σ_{j ∈ win(i)} x_j²)^β, a = alpha, or alpha/n with alpha_over_n.

    x: (C,H,W,N).  groups: towers that the windows do not cross.  The defaults are the paper's.
    Returns (y, cache), y shaped like x.  Raises ValueError where groups does not divide C.
    """
    xp = check_norm("lrn", x, n, k, alpha, beta, groups)
    a = alpha / n if alpha_over_n else alpha
    if xp is not np:
        return cuda.lrn_forward(x, n, k, a, beta, groups)
    y, s = empty(xp, x.shape, x.dtype), empty(xp, x.shape, x.dtype)
    xm, ym, sm = (v.reshape(len(x), -1) for v in (x, y, s))
    for block, (work1, work2) in _blocks_of_pixels(x, groups, 2):
        xb, yb, sb = xm[block], ym[block], sm[block]
        _window_sum(xp.square(xb, out=work1), n, n // 2, sb, work2)
        sb *= x.dtype.type(a)
        sb += x.dtype.type(k)
        _over_power(xb, sb, beta, yb, work1)
    return y, NormCache(x, s, n, a, beta, groups)


def lrn_backward(dy, cache):
    """dx_i = g_i s_i^−β − 2 a β x_i Σ_{j: i ∈ win(j)} g_j x_j s_j^(−β−1)."""
    if isinstance(cache, cuda.LRNCache):
        return cuda.lrn_backward(dy, cache)
    x, s, n, a, beta, groups = of_kind(NormCache, cache, "lrn backward: cache")
    xp = check_dy("lrn backward", dy, x.shape, x.dtype, x)
    dx = empty(xp, x.shape, x.dtype)
    dym, xm, sm, dxm = (v.reshape(len(x), -1) for v in (dy, x, s, dx))
    for block, (direct, ratio, work) in _blocks_of_pixels(x, groups, 3):
        g, xb, sb, out = dym[block], xm[block], sm[block], dxm[block]
        _over_power(g, sb, beta, direct, work)
        xp.multiply(direct, xb, out=ratio)
        ratio /= sb
        _window_sum(ratio, n, n - 1 - n // 2, out, work)
        out *= xb
        out *= x.dtype.type(-2 * a * beta)
        out += direct
    return dx


def same_map_norm_forward(x, n=5, k=1.0, alpha=1e-3, beta=0.75):
    """y = x / (k + α/n² Σ x²)^β over the n×n pixels around each pixel of the same map.

    2012's `rnorm` (layer.py:1183 divides by size²), which stands between LRN and pooling after conv2
    in config 145 and is not in the paper.  The window starts n//2 pixels up and left and is cut off at
    the borders.  x: (C,H,W,N).  Returns (y, cache), y shaped like x.
    """
    xp = check_norm("same_map_norm", x, n, k, alpha, beta)
    a = alpha / n**2
    if xp is not np:
        y, s = cuda.same_map_norm_forward(x, n, k, a, beta)
        return y, NormCache(x, s, n, a, beta, 1)
    y, s = empty(xp, x.shape, x.dtype), empty(xp, x.shape, x.dtype)
    work1, work2 = empty(xp, (2, *x.shape[1:]), x.dtype)
    for c in range(len(x)):
        _box_sum(xp.square(x[c], out=work1), n, n // 2, s[c], y[c], work2)
        s[c] *= x.dtype.type(a)
        s[c] += x.dtype.type(k)
        _over_power(x[c], s[c], beta, y[c], work1)
    return y, NormCache(x, s, n, a, beta, 1)


def same_map_norm_backward(dy, cache):
    """As lrn_backward, with the n×n window in place of the channels'."""
    x, s, n, a, beta, _ = of_kind(NormCache, cache, "same_map_norm backward: cache")
    xp = check_dy("same_map_norm backward", dy, x.shape, x.dtype, x)
    if xp is not np:
        return cuda.same_map_norm_backward(dy, cache)
    dx = empty(xp, x.shape, x.dtype)
    direct, ratio, rows, work = empty(xp, (4, *x.shape[1:]), x.dtype)
    for c in range(len(x)):
        _over_power(dy[c], s[c], beta, direct, work)
        xp.multiply(direct, x[c], out=ratio)
        ratio /= s[c]
        _box_sum(ratio, n, n - 1 - n // 2, dx[c], rows, work)
        dx[c] *= x[c]
        dx[c] *= x.dtype.type(-2 * a * beta)
        dx[c] += direct
    return dx


def _box_sum(p, n, before, out, rows, work):
    """Sum of p (H,W,N) over n×n windows: along the rows' axis, then along the columns'."""
    _window_sum(p, n, before, rows, work)
    H, W, N = p.shape
    _window_sum(rows.swapaxes(0, 1), n, before, out.swapaxes(0, 1), work.reshape(W, H, N))
