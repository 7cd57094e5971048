"""Global average pooling: one window, as large as the map  (Lin, Chen and Yan, 2013)."""

from typing import NamedTuple

from tinyalex.errors import ArgumentError
from tinyalex.fields import of_kind
from tinyalex.memory import empty
from tinyalex.ops.checks import check_axes, check_dy, same_dtype

__all__ = ["global_avg_pool_backward", "global_avg_pool_forward"]


class GlobalAvgPoolCache(NamedTuple):
    """What backward needs: no pixels, only what they were."""

    x_shape: tuple
    dtype: object


def global_avg_pool_forward(x):
    """y = the mean of each map  (M. Lin, Q. Chen and S. Yan, *Network In Network*, 2013, section 3.2).

    x: (C,H,W,N).  Returns (y, cache), y (C,1,1,N).  Raises ValueError for anything but maps.
    """
    same_dtype("global_avg_pool", x=x)
    check_axes("global_avg_pool", "x", x, "C,H,W,N")
    if not x.shape[1] * x.shape[2]:
        raise ArgumentError(f"global_avg_pool: expected maps of at least 1 pixel, found shape {x.shape}")
    return x.mean(axis=(1, 2), keepdims=True), GlobalAvgPoolCache(x.shape, x.dtype)


def global_avg_pool_backward(dy, cache):
    """dx = dy / (H·W) for every pixel of the map."""
    C, H, W, N = of_kind(GlobalAvgPoolCache, cache, "global_avg_pool backward: cache").x_shape
    xp = check_dy("global_avg_pool backward", dy, (C, 1, 1, N), cache.dtype)
    dx = empty(xp, cache.x_shape, cache.dtype)
    dx[...] = dy / (H * W)
    return dx
