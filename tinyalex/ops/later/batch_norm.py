"""Batch normalization  (S. Ioffe and C. Szegedy, *Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift*, 2015).

A channel has n numbers x_i: H·W·N of maps, N of features.  Over these

    μ = Σ x_i / n       σ² = Σ (x_i − μ)² / n       x̂_i = (x_i − μ) / √(σ² + ε)       y_i = w x̂_i + b

(the paper's γ and β are w and b).  Backward, with g = dL/dy and s = √(σ² + ε):

    db = Σ g_i          dw = Σ g_i x̂_i

x_j stands in y_j itself, and through μ and s in every y_i of its channel.  ∂μ/∂x_j = 1/n; and
∂s/∂x_j = (x_j − μ) / (n s) = x̂_j / n, as Σ (x_i − μ) = 0 lets the way through μ drop out.  So

    ∂x̂_i/∂x_j = ([i = j] − 1/n) / s − (x_i − μ) / s² · x̂_j / n = ([i = j] − 1/n − x̂_i x̂_j / n) / s
    dx_j      = w Σ_i g_i ∂x̂_i/∂x_j = w/s (g_j − db/n − x̂_j dw/n)

Where μ and σ² are given, as at test, they do not depend on x, and dx_j = w/s g_j.
"""

from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.fields import check_numbers, of_kind
from tinyalex.memory import empty
from tinyalex.ops.checks import check_dy, same_dtype
from tinyalex.ops.cuda import batch_norm as cuda

__all__ = ["batch_norm_backward", "batch_norm_forward"]

BLOCK_BYTES = 1 << 21  # of x handled at a time, some whole channels: they stay in cache


class BatchNormCache(NamedTuple):
    """What backward needs."""

    x: object  # (C, H, W, N) or (D, N)
    w: object  # (C,)
    mean: object  # (C,), that y was computed with
    var: object  # (C,)
    eps: float
    of_batch: bool  # whether mean and var are those of x


def check_batch_norm(x, w, b, mean, var, eps):
    """Return the arrays' module; raise unless they fit together, or eps is no finite number."""
    given = {name: a for name, a in {"mean": mean, "var": var}.items() if a is not None}
    xp = same_dtype("batch_norm", x=x, w=w, b=b, **given)
    check_numbers("batch_norm: ", 0, eps=eps)
    if x.ndim not in (2, 4) or not x.size:
        raise ArgumentError(
            f"batch_norm: expected x (C,H,W,N) or (D,N) of at least 1 image, found shape {x.shape}"
        )
    if len(given) == 1:
        raise ArgumentError("batch_norm: expected mean and var, or neither")
    for name, a in {"w": w, "b": b, **given}.items():
        if a.shape != x.shape[:1]:
            raise ArgumentError(f"batch_norm: {name}: expected shape {x.shape[:1]}, found {a.shape}")
    return xp


def batch_norm_forward(x, w, b, mean=None, var=None, eps=1e-5):
    """y = w (x − mean) / √(var + eps) + b.

    x: (C,H,W,N) or (D,N).  w, b: (C,) or (D,).  mean, var: the same, by default those of the batch, over all
    axes but the first; given ones are constants, which get no gradient.
    Returns (y, cache), y shaped like x; cache.mean and cache.var are what it was computed with, the variance
    divided by n.  Raises ValueError for arrays that do not fit together.
    """
    xp = check_batch_norm(x, w, b, mean, var, eps)
    if xp is not np:
        x, w, b = map(xp.ascontiguousarray, (x, w, b))
        of_batch = mean is None
        mean, var = cuda.moments(x) if of_batch else map(xp.ascontiguousarray, (mean, var))
        return cuda.batch_norm_forward(x, w, b, mean, var, eps), BatchNormCache(
            x, w, mean, var, eps, of_batch
        )
    cache = BatchNormCache(x, w, mean, var, eps, mean is None)
    if cache.of_batch:
        cache = cache._replace(mean=np.empty_like(w), var=np.empty_like(w))
    y = empty(np, x.shape, x.dtype)
    for c, (xc, yc), work in _blocks_of_channels(x, y):
        if cache.of_batch:
            cache.mean[c] = xc.mean(axis=1)
        np.subtract(xc, cache.mean[c, None], out=yc)
        if cache.of_batch:
            cache.var[c] = np.square(yc, out=work).mean(axis=1)
        yc *= (w[c] / _deviation(cache, c))[:, None]
        yc += b[c, None]
    return y, cache


def batch_norm_backward(dy, cache):
    """db = Σ g,  dw = Σ g x̂,  dx = w/s (g − db/n − x̂ dw/n); with given statistics dx = w/s g.

    Returns (dx, dw, db).
    """
    x, w, mean, var, eps, of_batch = of_kind(BatchNormCache, cache, "batch_norm backward: cache")
    xp = check_dy("batch_norm backward", dy, x.shape, x.dtype, x)
    if xp is not np:
        return cuda.batch_norm_backward(dy, x, w, mean, var, eps, of_batch)
    dx, dw, db = empty(np, x.shape, x.dtype), np.empty_like(w), np.empty_like(w)
    n = x.size // len(x)
    for c, (xc, gc, out), xhat in _blocks_of_channels(x, dy, dx):
        s = _deviation(cache, c)
        np.subtract(xc, mean[c, None], out=xhat)
        xhat /= s[:, None]
        db[c] = gc.sum(axis=1)
        dw[c] = np.multiply(gc, xhat, out=out).sum(axis=1)
        if of_batch:
            xhat *= dw[c, None] / n
            xhat += db[c, None] / n
            np.subtract(gc, xhat, out=out)
        else:
            out[...] = gc
        out *= (w[c] / s)[:, None]
    return dx, dw, db


def _deviation(cache, channels):
    return np.sqrt(cache.var[channels] + cache.var.dtype.type(cache.eps))


def _blocks_of_channels(*arrays):
    """Yield (channels, what the arrays have of them as (channels, n), room for as much), to fit in cache."""
    C, first = len(arrays[0]), arrays[0]
    matrices = [a.reshape(C, -1) for a in arrays]
    step = min(C, max(1, BLOCK_BYTES // (first.nbytes // C)))
    room = empty(np, (step, first.size // C), first.dtype)
    for start in range(0, C, step):
        block = slice(start, min(start + step, C))
        yield block, [m[block] for m in matrices], room[: block.stop - start]
