"""Response normalization on the GPU, across channels and within a map.  All arguments have been checked."""

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import launch


def lrn_forward(x, n, k, a, beta, groups):
    """Return (y, s)."""
    xp = xp_of(x)
    C, pixels = len(x), x[0].size
    y, s = empty(xp, x.shape, x.dtype), empty(xp, x.shape, x.dtype)
    launch(
        "lrn.lrn_forward", (pixels, C), xp.ascontiguousarray(x), y, s,
        pixels, C // groups, n, float(k), float(a), float(beta),
    )  # fmt: skip
    return y, s


def lrn_backward(dy, cache):
    """Return dx."""
    x, s, n, a, beta, groups = cache
    xp = xp_of(dy, x, s)
    C, pixels = len(x), x[0].size
    dx = empty(xp, x.shape, x.dtype)
    launch(
        "lrn.lrn_backward", (pixels, C), xp.ascontiguousarray(dy), xp.ascontiguousarray(x), s, dx,
        pixels, C // groups, n, float(a), float(beta),
    )  # fmt: skip
    return dx


def same_map_norm_forward(x, n, k, a, beta):
    """Return (y, s)."""
    xp = xp_of(x)
    C, H, W, N = x.shape
    y, s = empty(xp, x.shape, x.dtype), empty(xp, x.shape, x.dtype)
    launch(
        "lrn.same_map_forward", (W * N, H, C), xp.ascontiguousarray(x), y, s,
        W, N, n, float(k), float(a), float(beta),
    )  # fmt: skip
    return y, s


def same_map_norm_backward(dy, cache):
    """Return dx."""
    x, s, n, a, beta, _ = cache
    xp = xp_of(dy, x, s)
    C, H, W, N = x.shape
    dy, x = xp.ascontiguousarray(dy), xp.ascontiguousarray(x)
    ratio, dx = empty(xp, x.shape, x.dtype), empty(xp, x.shape, x.dtype)
    pixels = H * W * N
    launch("lrn.same_map_ratio", (pixels, C), dy, x, s, ratio, pixels, float(beta))
    launch("lrn.same_map_backward", (W * N, H, C), ratio, dy, x, s, dx, W, N, n, float(a), float(beta))
    return dx
