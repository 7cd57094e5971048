"""Response normalization on the GPU, across channels and within a map.  All arguments have been checked."""

from typing import NamedTuple

from tinyalex.memory import empty
from tinyalex.ops.checks import check_dy, xp_of
from tinyalex.ops.cuda.launch import images, launch

IMAGES_BACKWARD = 2  # a thread takes no more: it keeps two windows of channels in registers for each of them


class LRNCache(NamedTuple):
    """What backward needs: the input, and the constants.  The bracket s is computed again."""

    x: object  # (C, H, W, N)
    n: int
    k: float
    a: float
    beta: float
    groups: int


THREADS = 80_000  # about so many keep a large card busy: if there are fewer, several share a pixel's channels
LEAST_WALK = 32  # channels of a thread: it also reads up to 10 around its own


def _split(pixels, size):
    """(channels that one thread walks through, how many threads share a group's)."""
    parts = max(1, min(size // LEAST_WALK, round(THREADS / max(1, pixels))))
    walk = -(-size // parts)
    return walk, -(-size // walk)


def _half(n):
    """How far the kernel's registers reach to either side: 2, 4, 8, …, so that there are few kernels."""
    return max(2, 1 << (n // 2 - 1).bit_length())


def lrn_forward(x, n, k, a, beta, groups):
    """Return (y, cache)."""
    xp = xp_of(x)
    x = xp.ascontiguousarray(x)
    y = empty(xp, x.shape, x.dtype)
    v = images(x.shape[-1], x, y)
    pixels, size = x[0].size // v, len(x) // groups
    walk, parts = _split(pixels, size)
    launch(
        "lrn.lrn_forward", (pixels, parts, groups), x, y,
        pixels, size, walk, n, float(k), float(a), float(beta), V=v, HALF=_half(n),
    )  # fmt: skip
    return y, LRNCache(x, n, k, a, beta, groups)


def lrn_backward(dy, cache):
    """Return dx."""
    x, n, k, a, beta, groups = cache
    xp = check_dy("lrn backward", dy, x.shape, x.dtype, x)
    dy, dx = xp.ascontiguousarray(dy), empty(xp, x.shape, x.dtype)
    v = min(IMAGES_BACKWARD, images(x.shape[-1], x, dy, dx))
    pixels, size = x[0].size // v, len(x) // groups
    walk, parts = _split(pixels, size)
    launch(
        "lrn.lrn_backward", (pixels, parts, groups), dy, x, dx,
        pixels, size, walk, n, float(k), float(a), float(beta), V=v, HALF=_half(n),
    )  # fmt: skip
    return dx


def same_map_norm_forward(x, n, k, a, beta):
    """Return (y, s)."""
    xp = xp_of(x)
    C, H, W, N = x.shape
    x = xp.ascontiguousarray(x)
    y, s = empty(xp, x.shape, x.dtype), empty(xp, x.shape, x.dtype)
    v = images(N, x, y, s)
    launch(
        "lrn.same_map_forward", (W * N // v, H, C), x, y, s,
        W, N // v, n, float(k), float(a), float(beta), V=v,
    )  # fmt: skip
    return y, s


def same_map_norm_backward(dy, cache):
    """Return dx."""
    x, s, n, a, beta, _ = cache
    xp = xp_of(dy, x, s)
    C, H, W, N = x.shape
    dy, x = xp.ascontiguousarray(dy), xp.ascontiguousarray(x)
    ratio, dx = empty(xp, x.shape, x.dtype), empty(xp, x.shape, x.dtype)
    v = images(N, x, dy, s)
    pixels = H * W * N // v
    launch("lrn.same_map_ratio", (pixels, C), dy, x, s, ratio, pixels, float(beta), V=v)
    launch(
        "lrn.same_map_backward", (W * N // v, H, C), ratio, dy, x, s, dx,
        W, N // v, n, float(a), float(beta), V=v,
    )  # fmt: skip
    return dx
