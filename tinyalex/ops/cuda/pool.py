"""Pooling on the GPU.  The forward pass of the maximum keeps which pixel won, in place of x and y."""

from typing import NamedTuple

from tinyalex.errors import ArgumentError
from tinyalex.memory import empty
from tinyalex.ops.checks import check_dy, xp_of
from tinyalex.ops.cuda.launch import images, launch


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
    OH, OW = size
    y, winner = (empty(xp, (C, *size, N), dtype) for dtype in (x.dtype, "uint16"))
    x = xp.ascontiguousarray(x)
    v = images(N, x, y, winner)
    launch(
        "pool.max_pool_forward", (OW * N // v, OH, C), x, y, winner,
        H, W, N // v, OW, *z, *s, pads[0], pads[2], V=v,
    )  # fmt: skip
    return y, MaxPoolCache(winner, x.shape, x.dtype, z, s, pads)


def max_pool_backward(dy, cache):
    """Return dx."""
    winner, x_shape, dtype, z, s, pads = cache
    xp = check_dy("max_pool backward", dy, winner.shape, dtype, winner)
    dy, dx = xp.ascontiguousarray(dy), empty(xp, x_shape, dtype)
    C, H, W, N = x_shape
    _, OH, OW, _ = winner.shape
    v = images(N, dy, winner, dx)
    launch(
        "pool.max_pool_backward", (W * N // v, H, C), dy, winner, dx,
        W, N // v, OH, OW, *z, *s, pads[0], pads[2], V=v,
    )  # fmt: skip
    return dx


def avg_pool_forward(x, size, z, s, pads):
    """Return y; size: (OH, OW).  The arguments have been checked."""
    xp = xp_of(x)
    C, H, W, N = x.shape
    OH, OW = size
    x, y = xp.ascontiguousarray(x), empty(xp, (C, OH, OW, N), x.dtype)
    v = images(N, x, y)
    launch(
        "pool.avg_pool_forward", (OW * N // v, OH, C), x, y, H, W, N // v, OW, *z, *s, pads[0], pads[2], V=v
    )  # fmt: skip
    return y


def avg_pool_backward(dy, x_shape, z, s, pads):
    """Return dx; the arguments have been checked."""
    xp = xp_of(dy)
    C, H, W, N = x_shape
    _, OH, OW, _ = dy.shape
    dy, dx = xp.ascontiguousarray(dy), empty(xp, x_shape, dy.dtype)
    v = images(N, dy, dx)
    launch(
        "pool.avg_pool_backward", (W * N // v, H, C), dy, dx, W, N // v, OH, OW, *z, *s, pads[0], pads[2], V=v
    )  # fmt: skip
    return dx
