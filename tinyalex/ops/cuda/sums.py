"""Sums of rows on the GPU, and which images are wrong."""

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import images, launch

TEAM = 128  # threads of a block: a row's
LONG = 64 * TEAM  # rows from which on a block has as many threads as there can be


def sum_rows(x, out, divisor=1.0):
    """out[f] = Σ x[f] / divisor; x (F, …), out of F numbers, contiguous."""
    x = xp_of(x).ascontiguousarray(x)
    columns = x.size // max(1, out.size)
    v, team = images(columns, x), TEAM if columns < LONG else 1024
    launch(
        "sums.sum_rows", (team, out.size), x, out, columns // v, float(divisor), block=team, TEAM=team, V=v
    )
    return out


def topk_error(scores, labels, k):
    """Return float64 (N,)."""
    xp = xp_of(scores, labels)
    K, N = scores.shape
    scores, labels = xp.ascontiguousarray(scores), xp.ascontiguousarray(labels, "int64")
    error = empty(xp, (N,), "float64")
    launch("sums.topk_error", (TEAM, N), scores, labels, error, K, N, k, block=TEAM, TEAM=TEAM)
    return error
