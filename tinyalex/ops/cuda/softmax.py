"""Softmax and its loss on the GPU."""

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import launch
from tinyalex.ops.cuda.sums import sum_rows

WIDTH, TEAM = 8, 1024  # images of a block, and its threads: as softmax.cu has them


def softmax_loss_forward(logits, labels, total):
    """Return (loss, p): a scalar array and the probabilities.  The loss is NaN if a label is no class."""
    xp = xp_of(logits, labels)
    K, N = logits.shape
    logits = xp.ascontiguousarray(logits)
    p, loss = empty(xp, (K, N), logits.dtype), empty(xp, (N,), logits.dtype)
    threads = -(-N // WIDTH) * TEAM
    launch("softmax.softmax_loss", (threads,), logits, _int64(labels), p, loss, K, N, block=TEAM)
    return sum_rows(loss, empty(xp, (), logits.dtype), total), p


def softmax_loss_backward(p, labels, total):
    """Return dlogits."""
    xp = xp_of(p, labels)
    K, N = p.shape
    dz = empty(xp, p.shape, p.dtype)
    launch("softmax.softmax_backward", (N, K), p, _int64(labels), dz, N, float(total))
    return dz


def _int64(labels):
    return xp_of(labels).ascontiguousarray(labels, "int64")
