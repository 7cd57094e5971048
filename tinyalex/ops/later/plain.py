"""The operations of later networks as their formulas read: see `tinyalex.ops.plain`."""

from tinyalex.ops.checks import check_dy
from tinyalex.ops.later.batch_norm import BatchNormCache, check_batch_norm


def _of_channels(a, like):
    """A number per channel, to be broadcast over maps or features."""
    return a.reshape(-1, *(1,) * (like.ndim - 1))


def batch_norm_forward(x, w, b, mean=None, var=None, eps=1e-5):
    """y = w x̂ + b,  x̂ = (x − mean) / √(var + eps)."""
    check_batch_norm(x, w, b, mean, var, eps)
    of_batch, axes = mean is None, tuple(range(1, x.ndim))
    if of_batch:
        mean = x.mean(axis=axes)
        var = ((x - _of_channels(mean, x)) ** 2).mean(axis=axes)
    cache = BatchNormCache(x, w, mean, var, eps, of_batch)
    return _of_channels(w, x) * _normalized(cache)[0] + _of_channels(b, x), cache


def batch_norm_backward(dy, cache):
    """db = Σ g,  dw = Σ g x̂,  dx = w/s (g − db/n − x̂ dw/n); with given statistics dx = w/s g."""
    x, w, axes = cache.x, cache.w, tuple(range(1, cache.x.ndim))
    check_dy("batch_norm backward", dy, x.shape, x.dtype)
    xhat, s = _normalized(cache)
    dw, db, n = (dy * xhat).sum(axis=axes), dy.sum(axis=axes), x.size // len(x)
    g = dy - _of_channels(db, x) / n - xhat * _of_channels(dw, x) / n if cache.of_batch else dy
    return _of_channels(w, x) / s * g, dw, db


def _normalized(cache):
    """Return (x̂, s)."""
    mean, var = _of_channels(cache.mean, cache.x), _of_channels(cache.var, cache.x)
    s = (var + cache.eps) ** 0.5
    return (cache.x - mean) / s, s
