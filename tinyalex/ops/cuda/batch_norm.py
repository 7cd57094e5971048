"""Batch normalization on the GPU.  All arguments have been checked, and are contiguous."""

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import images, launch
from tinyalex.ops.cuda.sums import TEAM, sum_rows

CHUNK = 16 * TEAM  # numbers of a channel that a block sums


def _sizes(x):
    """Return (C, n, chunks): channels, the numbers of one, and the blocks that sum these."""
    n = x.size // len(x)
    return len(x), n, -(-n // CHUNK)


def moments(x):
    """Return the mean and the variance of each channel."""
    xp = xp_of(x)
    C, n, chunks = _sizes(x)
    means, squares = (empty(xp, (C, chunks), x.dtype) for _ in range(2))
    mean, var = (empty(xp, (C,), x.dtype) for _ in range(2))
    v = images(n, x)
    launch(
        "batch_norm.batch_norm_chunks", (chunks * TEAM, C), x, means, squares, n // v,
        block=TEAM, V=v, TEAM=TEAM,
    )  # fmt: skip
    launch(
        "batch_norm.batch_norm_join", (TEAM, C), means, squares, mean, var, chunks, n,
        block=TEAM, TEAM=TEAM,
    )  # fmt: skip
    return mean, var


def batch_norm_forward(x, w, b, mean, var, eps):
    """Return y."""
    C, n, _ = _sizes(x)
    y = empty(xp_of(x), x.shape, x.dtype)
    v = images(n, x, y)
    launch("batch_norm.batch_norm_forward", (n // v, C), x, w, b, mean, var, y, n // v, float(eps), V=v)
    return y


def batch_norm_backward(dy, x, w, mean, var, eps, of_batch):
    """Return (dx, dw, db)."""
    xp = xp_of(dy, x)
    C, n, chunks = _sizes(x)
    dy, dx = xp.ascontiguousarray(dy), empty(xp, x.shape, x.dtype)
    v = images(n, x, dy, dx)
    sums = empty(xp, (2, C, chunks), x.dtype)
    launch(
        "batch_norm.batch_norm_sums", (chunks * TEAM, C), dy, x, mean, var, sums, n // v, float(eps),
        block=TEAM, V=v, TEAM=TEAM,
    )  # fmt: skip
    grads = sum_rows(sums, empty(xp, (2, C), x.dtype))
    launch(
        "batch_norm.batch_norm_backward", (n // v, C), dy, x, w, mean, var, grads, dx,
        n // v, 1 / n if of_batch else 0.0, float(eps), V=v,
    )  # fmt: skip
    return dx, grads[0], grads[1]
