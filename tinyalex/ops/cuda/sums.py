"""Sums of rows on the GPU, after ReLU' where that comes first, and which images are wrong."""

from tinyalex.memory import empty
from tinyalex.ops.activation import relu
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import images, launch

WARP, TEAM, MOST = 32, 128, 1024  # threads of a block, a row's: the least, the usual number, the most
LONG = 64 * TEAM  # numbers of a row for which a block has the most


def sum_rows(x, out, divisor=1.0):
    """out[f] = Σ x[f] / divisor; x (F, …), out of F numbers, contiguous."""
    x = xp_of(x).ascontiguousarray(x)
    columns, how = _by_rows(out, x)
    launch("sums.sum_rows", (how["TEAM"] * out.size,), x, out, columns, float(divisor), **how)
    return out


def backward_and_sum(activation, dy, y):
    """Return (g, db): the gradient before the activation, if there is one, and db[f] = Σ g[f]; dy (F, …).

    With ReLU in one pass: else the gradient is written, and read once more.
    """
    xp = xp_of(dy)
    if activation is not relu:
        g = activation.backward(dy, y) if activation else dy
        return g, sum_rows(g, empty(xp, (len(g),), g.dtype))
    dy, y = map(xp.ascontiguousarray, (dy, y))
    dx, db = empty(xp, y.shape, y.dtype), empty(xp, (len(y),), y.dtype)
    columns, how = _by_rows(db, dy, y, dx)
    launch("sums.relu_backward_and_sum", (how["TEAM"] * len(y),), dy, y, dx, db, columns, **how)
    return dx, db


def _by_rows(sums, x, *others):
    """Return how many groups of images a row has, and how a block sums one."""
    columns = x.size // max(1, sums.size)
    v = images(columns, x, *others)
    team = WARP if columns <= WARP * v else TEAM if columns < LONG else MOST
    return columns // v, {"block": team, "TEAM": team, "V": v}


def topk_error(scores, labels, k):
    """Return float64 (N,)."""
    xp = xp_of(scores, labels)
    K, N = scores.shape
    scores, labels = xp.ascontiguousarray(scores), xp.ascontiguousarray(labels, "int64")
    error = empty(xp, (N,), "float64")
    launch("sums.topk_error", (TEAM * N,), scores, labels, error, K, N, k, block=TEAM, TEAM=TEAM)
    return error
