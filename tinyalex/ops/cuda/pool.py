"""Pooling on the GPU.  The forward pass of the maximum keeps which pixel won, in place of x and y."""

from typing import NamedTuple

from tinyalex.errors import ArgumentError
from tinyalex.memory import empty
from tinyalex.ops.checks import check_dy, xp_of
from tinyalex.ops.cuda.launch import launch


class MaxPoolCache(NamedTuple):
    """What backward needs."""

    winner: object  # (C, OH, OW, N) uint16: p·ZW + q of each window's largest pixel
    x_shape: tuple
    dtype: object  # of x
    z: tuple  # (vertical, horizontal), as s
    s: tuple
    pads: tuple


def max_pool_forward(x, size, z, s, pads):
    """Return (y, cache); size: (OH, OW).  The arguments have been checked."""
    xp = xp_of(x)
    if z[0] * z[1] > 1 << 16:
        raise ArgumentError(f"max_pool: expected a window of at most 65,536 pixels on a GPU, found {z}")
    C, H, W, N = x.shape
    y, winner = (empty(xp, (C, *size, N), dtype) for dtype in (x.dtype, "uint16"))
    x = xp.ascontiguousarray(x)
    OH, OW = size
    launch(
        "pool.max_pool_forward", (OW * N, OH, C), x, y, winner, H, W, N, OW, *z, *s, pads[0], pads[2]
    )
    return y, MaxPoolCache(winner, x.shape, x.dtype, z, s, pads)


def max_pool_backward(dy, cache):
    """Return dx."""
    winner, x_shape, dtype, z, s, pads = cache
    xp = xp_of(dy, winner)
    check_dy("max_pool backward", dy, winner.shape, dtype)
    dx = empty(xp, x_shape, dtype)
    C, H, W, N = x_shape
    _, OH, OW, _ = winner.shape
    launch(
        "pool.max_pool_backward", (W * N, H, C), xp.ascontiguousarray(dy), winner, dx,
        W, N, OH, OW, *z, *s, pads[0], pads[2],
    )  # fmt: skip
    return dx


def avg_pool_forward(x, size, z, s, pads):
    """Return y; size: (OH, OW).  The arguments have been checked."""
    xp = xp_of(x)
    C, H, W, N = x.shape
    OH, OW = size
    y = empty(xp, (C, OH, OW, N), x.dtype)
    x = xp.ascontiguousarray(x)
    launch("pool.avg_pool_forward", (OW * N, OH, C), x, y, H, W, N, OW, *z, *s, pads[0], pads[2])
    return y


def avg_pool_backward(dy, x_shape, z, s, pads):
    """Return dx; the arguments have been checked."""
    xp = xp_of(dy)
    C, H, W, N = x_shape
    _, OH, OW, _ = dy.shape
    dx = empty(xp, x_shape, dy.dtype)
    dy = xp.ascontiguousarray(dy)
    launch("pool.avg_pool_backward", (W * N, H, C), dy, dx, W, N, OH, OW, *z, *s, pads[0], pads[2])
    return dx
