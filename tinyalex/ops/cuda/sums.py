"""Sums of rows on the GPU, and which images are wrong."""

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import launch

TEAM = 128  # threads of a block: a row's


def sum_rows(x, out, divisor=1.0):
    """out[f] = Σ x[f] / divisor; x (F, …), out of F numbers, contiguous."""
    x = xp_of(x).ascontiguousarray(x)
    launch(
        "sums.sum_rows", (TEAM, out.size), x, out, x.size // max(1, out.size), float(divisor),
        block=TEAM, TEAM=TEAM,
    )  # fmt: skip
    return out


def topk_error(scores, labels, k):
    """Return float64 (N,)."""
    xp = xp_of(scores, labels)
    K, N = scores.shape
    scores, labels = xp.ascontiguousarray(scores), xp.ascontiguousarray(labels, "int64")
    error = empty(xp, (N,), "float64")
    launch("sums.topk_error", (TEAM, N), scores, labels, error, K, N, k, block=TEAM, TEAM=TEAM)
    return error
