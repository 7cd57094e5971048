"""Every operation as its formula reads, whole arrays at a time: what to step through, and what to check with.

The names, arguments, errors and caches are those of the fast operations beside it (`conv`, `pool`, `lrn`, …),
where the formulas are derived; the results differ by rounding.  For arrays of NumPy and of CuPy, without
blocks and without kernels of ours.  `tinyalex.ops.plain_ops` has a network run on these.
"""

import math

import numpy as np

from tinyalex.fields import expect
from tinyalex.ops import dropout
from tinyalex.ops.checks import check_arrays, check_dy, xp_of
from tinyalex.ops.conv import ConvCache, check_conv2d, conv2d_shape
from tinyalex.ops.dropout import dropout_cache
from tinyalex.ops.later.plain import batch_norm_backward, batch_norm_forward  # noqa: F401
from tinyalex.ops.linear import LinearCache, check_linear
from tinyalex.ops.lrn import NormCache, check_norm
from tinyalex.ops.pool import AvgPoolCache, MaxPoolCache, pool_geometry
from tinyalex.ops.softmax import LossCache, check_loss
from tinyalex.ops.windows import four_pads, output_size, two_of

__all__ = ["col2im", "im2col"]


def im2col(x, kh, kw, stride=1, pad=0, fill=0):
    """Lay every window of x (C,H,W,N), padded with `fill`, out as a column.

    Returns (C·KH·KW, OH·OW·N): rows in the order c, p, q, columns in the order i, j, n.
    """
    check_arrays("im2col", x=x)
    return _im2col(x, *_geometry("im2col", x.shape, kh, kw, stride, pad), fill)


def col2im(cols, x_shape, kh, kw, stride=1, pad=0):
    """Add every column back where im2col copied it from: im2col's transpose.

    cols: (C·KH·KW, OH·OW·N).  Returns (C,H,W,N) = x_shape.  Raises ValueError for columns of other shapes.
    """
    check_arrays("col2im", cols=cols)
    geometry = _geometry("col2im", x_shape, kh, kw, stride, pad)
    wanted = x_shape[0] * kh * kw, math.prod(geometry[3]) * x_shape[3]
    expect(cols.shape == wanted, "col2im", f"cols of shape {wanted}", cols.shape)
    return _col2im(cols, x_shape, *geometry)


def _geometry(what, x_shape, kh, kw, stride, pad):
    """Check the arguments; return the window (KH, KW), the strides, the four pads and (OH, OW)."""
    expect(np.shape(x_shape) == (4,), what, "x (C,H,W,N)", x_shape)
    (_, H, W, _), (down, across), pads = x_shape, two_of(stride, f"{what}: stride"), four_pads(pad)
    kh, kw = two_of((kh, kw), f"{what}: window")
    OH = output_size(H, kh, down, *pads[:2], what)
    return (kh, kw), (down, across), pads, (OH, output_size(W, kw, across, *pads[2:], what))


def _im2col(x, window, stride, pads, size, fill=0):
    """im2col of arguments that are checked: those that `_geometry` returns."""
    (KH, KW), (down, across), (pt, pb, pl, pr), (OH, OW) = window, stride, pads, size
    xp, (C, _, _, N) = xp_of(x), x.shape
    padded = xp.pad(x, ((0, 0), (pt, pb), (pl, pr), (0, 0)), constant_values=fill)
    cols = xp.empty((C, KH, KW, OH, OW, N), x.dtype)
    for p in range(KH):
        for q in range(KW):
            cols[:, p, q] = padded[:, p : p + OH * down : down, q : q + OW * across : across]
    return cols.reshape(C * KH * KW, OH * OW * N)


def _col2im(cols, x_shape, window, stride, pads, size):
    """col2im of arguments that are checked: those that `_geometry` returns."""
    (KH, KW), (down, across), (pt, pb, pl, pr), (OH, OW) = window, stride, pads, size
    C, H, W, N = x_shape
    cols = cols.reshape(C, KH, KW, OH, OW, N)
    padded = xp_of(cols).zeros((C, H + pt + pb, W + pl + pr, N), cols.dtype)
    for p in range(KH):  # within one (p,q) no two windows touch the same pixel, so += is a sum over windows
        for q in range(KW):
            padded[:, p : p + OH * down : down, q : q + OW * across : across] += cols[:, p, q]
    return padded[:, pt : pt + H, pl : pl + W]


def conv2d_forward(x, w, b, stride=1, pad=0, groups=1, activation=None):
    """y = activation(W cols + b), with a W and columns of its own for each group."""
    _, stride, pads, y_shape = check_conv2d(x, w, b, stride, pad, groups, activation)
    W = w.reshape(groups, len(w) // groups, -1)  # (g, F/g, C/g·KH·KW)
    cols = _im2col(x, w.shape[2:], stride, pads, y_shape[1:3])  # (C·KH·KW, OH·OW·N)
    y = W @ cols.reshape(groups, W.shape[2], -1)  # (g, F/g, OH·OW·N)
    y = y.reshape(y_shape) + b[:, None, None, None]
    if activation:
        y, _ = activation.forward(y)
    return y, ConvCache(x, w, y if activation else None, stride, pads, groups, activation)


def conv2d_backward(dy, cache, need_dx=True):
    """db = Σ g,  dW = g colsᵀ,  dx = col2im(Wᵀ g).  The columns are made again: to keep them takes memory."""
    x, w, y, stride, pads, groups, activation = cache
    check_dy("conv2d backward", dy, conv2d_shape(x, w, stride, pads), x.dtype)
    g = activation.backward(dy, y) if activation else dy
    W, G = w.reshape(groups, len(w) // groups, -1), g.reshape(groups, len(w) // groups, -1)
    geometry = w.shape[2:], stride, pads, dy.shape[1:3]
    cols = _im2col(x, *geometry).reshape(groups, W.shape[2], -1)
    dw, db = (G @ cols.swapaxes(1, 2)).reshape(w.shape), g.sum(axis=(1, 2, 3))
    if not need_dx:
        return None, dw, db
    dcols = (W.swapaxes(1, 2) @ G).reshape(groups * W.shape[2], -1)  # (C·KH·KW, OH·OW·N)
    return _col2im(dcols, x.shape, *geometry), dw, db


def linear_forward(x, w, b, activation=None):
    """y = activation(W x + b)."""
    check_linear(x, w, b, activation)
    y = w @ x + b[:, None]
    if activation:
        y, _ = activation.forward(y)
    return y, LinearCache(x, w, y if activation else None, activation)


def linear_backward(dy, cache):
    """dx = Wᵀ g,  dW = g xᵀ,  db = Σ g."""
    x, w, y, activation = cache
    check_dy("linear backward", dy, (len(w), x.shape[1]), x.dtype)
    g = activation.backward(dy, y) if activation else dy
    return w.T @ g, g @ x.T, g.sum(axis=1)


def _pooling(what, x, z, s, pad, ceil):
    """Return z, s, the pads with which im2col's windows are the pooling's, and (OH, OW)."""
    _, z, s, (pt, _, pl, _), (_, OH, OW, _) = pool_geometry(what, x, z, s, pad, ceil)
    bottom, right = (OH - 1) * s[0] + z[0] - x.shape[1] - pt, (OW - 1) * s[1] + z[1] - x.shape[2] - pl
    return z, s, (pt, max(0, bottom), pl, max(0, right)), (OH, OW)


def _pixels(x, z, s, pads, size, fill):
    """Return the pixels of each window, in reading order: (C, ZH·ZW, OH, OW, N)."""
    return _im2col(x, z, s, pads, size, fill).reshape(len(x), math.prod(z), *size, x.shape[3])


def max_pool_forward(x, z, s, pad=0, ceil=True):
    """y = the largest pixel of each window; padding counts as −∞."""
    z, s, pads, size = _pooling("max_pool", x, z, s, pad, ceil)
    y = _pixels(x, z, s, pads, size, fill=-math.inf).max(axis=1)
    return y, MaxPoolCache(x, y, z, s, pads)


def max_pool_backward(dy, cache):
    """dy goes to the largest pixel of its window: among equals, or NaNs, to the first, in reading order."""
    x, y, z, s, pads = cache
    xp = check_dy("max_pool backward", dy, y.shape, x.dtype, x)
    winner = _pixels(x, z, s, pads, y.shape[1:3], fill=-math.inf).argmax(axis=1)
    won = xp.arange(math.prod(z))[:, None, None, None] == winner[:, None]  # (C, ZH·ZW, OH, OW, N)
    return _col2im(xp.where(won, dy[:, None], dy.dtype.type(0)), x.shape, z, s, pads, y.shape[1:3])


def _count(xp, cache):
    """Return how many real pixels each window has: (1, OH, OW, 1)."""
    (_, H, W, _), (_, *size, _), dtype, z, s, pads = cache
    return _pixels(xp.ones((1, H, W, 1), dtype), z, s, pads, size, fill=0).sum(axis=1)


def avg_pool_forward(x, z, s, pad=0, ceil=True):
    """y = the sum of each window's real pixels / how many they are."""
    z, s, pads, size = _pooling("avg_pool", x, z, s, pad, ceil)
    total = _pixels(x, z, s, pads, size, fill=0).sum(axis=1)
    cache = AvgPoolCache(x.shape, total.shape, x.dtype, z, s, pads)
    return total / _count(xp_of(x), cache), cache


def avg_pool_backward(dy, cache):
    """dy goes in equal shares to the real pixels of its window."""
    x_shape, y_shape, dtype, z, s, pads = cache
    xp = check_dy("avg_pool backward", dy, y_shape, dtype)
    shares = xp.stack([dy / _count(xp, cache)] * math.prod(z), axis=1)
    return _col2im(shares, x_shape, z, s, pads, y_shape[1:3])


def _window_sum(p, n, before, axis):
    """out[i] = Σ p[j] for j from i − before to i − before + n − 1 along an axis, cut off at the ends."""
    pads = [(before, n - 1 - before) if i == axis else (0, 0) for i in range(p.ndim)]
    padded = xp_of(p).pad(p, pads).swapaxes(0, axis)
    return sum(padded[d : d + p.shape[axis]] for d in range(n)).swapaxes(0, axis)


def _across_maps(p, n, before, groups):
    return _window_sum(p.reshape(groups, len(p) // groups, *p.shape[1:]), n, before, 1).reshape(p.shape)


def _within_map(p, n, before, groups):
    return _window_sum(_window_sum(p, n, before, 1), n, before, 2)


def _norm_forward(x, n, k, a, beta, groups, window_sum):
    s = k + a * window_sum(x * x, n, n // 2, groups)
    return x / s**beta, NormCache(x, s, n, a, beta, groups)


def _norm_backward(what, dy, cache, window_sum):
    x, s, n, a, beta, groups = cache
    check_dy(f"{what} backward", dy, x.shape, x.dtype)
    crossed = window_sum(dy * x / s ** (beta + 1), n, n - 1 - n // 2, groups)  # the transposed window
    return dy / s**beta - 2 * a * beta * x * crossed


def lrn_forward(x, n=5, k=2.0, alpha=1e-4, beta=0.75, alpha_over_n=False, groups=1):
    """y = x / s^β,  s = k + a Σ x²  over n maps."""
    check_norm("lrn", x, n, k, alpha, beta, groups)
    return _norm_forward(x, n, k, alpha / n if alpha_over_n else alpha, beta, groups, _across_maps)


def lrn_backward(dy, cache):
    """dx_i = g_i s_i^−β − 2 a β x_i Σ_{j: i ∈ win(j)} g_j x_j s_j^(−β−1)."""
    return _norm_backward("lrn", dy, cache, _across_maps)


def same_map_norm_forward(x, n=5, k=1.0, alpha=1e-3, beta=0.75):
    """y = x / s^β,  s = k + α/n² Σ x²  over n×n pixels of the same map."""
    check_norm("same_map_norm", x, n, k, alpha, beta)
    return _norm_forward(x, n, k, alpha / n**2, beta, 1, _within_map)


def same_map_norm_backward(dy, cache):
    """As lrn_backward, over n×n pixels."""
    return _norm_backward("same_map_norm", dy, cache, _within_map)


def dropout_mask(rng, shape, keep=0.5, xp=np, first=0):
    """The host's mask, copied to where xp's arrays are."""
    return xp.asarray(dropout.dropout_mask(rng, shape, keep, np, first))


def dropout_forward(x, mask, keep=0.5, train=True, inverted=False):
    """y = x · mask · scale; without training y = x · scale."""
    cache = dropout_cache(x, mask, keep, train, inverted)
    return dropout_backward(x, cache), cache


def dropout_backward(dy, cache):
    """dx = dy · mask · scale."""
    mask, scale, shape, dtype = cache
    check_dy("dropout backward", dy, shape, dtype)
    return dy * scale if mask is None else dy * mask * scale


def softmax_loss_forward(logits, labels, total=None):
    """Loss = −Σ_n log p[label_n, n] / total,  log p = z − log Σ exp z."""
    xp, total = check_loss(logits, labels, total, values=True)
    z = logits - logits.max(axis=0)
    log_p = z - xp.log(xp.exp(z).sum(axis=0))
    loss = -xp.where(_onehot(logits, labels), log_p, logits.dtype.type(0)).sum() / logits.dtype.type(total)
    return loss, LossCache(xp.exp(log_p), labels, total)


def softmax_loss_backward(cache):
    """dlogits = (p − onehot) / total."""
    p, labels, total = cache
    return (p - _onehot(p, labels)) / total


def _onehot(scores, labels):
    return xp_of(scores, labels).arange(len(scores))[:, None] == labels
