"""Softmax and its loss on the GPU."""

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import launch
from tinyalex.ops.cuda.sums import sum_rows

HEIGHT = 32  # classes that one thread goes through


def softmax_loss_forward(logits, labels, total):
    """Return (loss, p): a scalar array and the probabilities.  The loss is NaN if a label is no class."""
    xp = xp_of(logits, labels)
    K, N = logits.shape
    slices = -(-K // HEIGHT)
    logits, labels = xp.ascontiguousarray(logits), _int64(labels)
    largest, sums = (empty(xp, (slices, N), logits.dtype) for _ in range(2))
    p, loss = empty(xp, (K, N), logits.dtype), empty(xp, (N,), logits.dtype)
    launch("softmax.softmax_slices", (N, slices), logits, largest, sums, K, N, HEIGHT)
    launch(
        "softmax.softmax_loss", (N, slices), logits, largest, sums, labels, p, loss, K, N, HEIGHT, slices
    )  # fmt: skip
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
