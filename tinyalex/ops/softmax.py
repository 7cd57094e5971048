"""Softmax with multinomial logistic loss, and the top-k error.

    p[c,n] = exp(z[c,n]) / Σ_k exp(z[k,n])          loss = −1/N Σ_n log p[label_n, n]

Subtracting each image's largest logit first changes nothing in p and keeps exp from overflowing.
Backward: log p[l] = z[l] − log Σ_k exp(z[k]), so d(−log p[l])/dz[c] = p[c] − [c = l], and

    dz = (p − onehot(labels)) / N
"""

from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.ops.checks import check_arrays, check_axes, same_dtype, xp_of
from tinyalex.ops.cuda import softmax as cuda
from tinyalex.ops.cuda import sums
from tinyalex.ops.windows import whole_numbers

__all__ = ["softmax", "softmax_loss_backward", "softmax_loss_forward", "topk_error"]


def softmax(logits):
    """Probabilities over axis 0 of logits (K, …), stable for logits of any size."""
    xp = same_dtype("softmax", logits=logits)
    if logits.ndim == 0 or len(logits) == 0:
        raise ArgumentError(f"softmax: expected logits (K, …) of a class or more, found shape {logits.shape}")
    p = xp.exp(logits - logits.max(axis=0))
    p /= p.sum(axis=0)
    return p


def check_labels(what, scores, labels, values=False):
    """Return the arrays' module; raise unless each of N columns of scores (K,N) has an integer label.

    In a GPU's memory their values, 0 … K−1, are looked at only where asked for: that would wait for the GPU
    at every step.  There a bad label gives NaN.
    """
    xp, (K, N) = check_arrays(what, scores=scores, labels=labels), scores.shape
    if labels.shape != (N,) or labels.dtype.kind not in "iu":
        raise ArgumentError(f"{what}: expected {N} integer labels, found {labels.dtype} {labels.shape}")
    if N and (values or xp is np):
        least, most = int(labels.min()), int(labels.max())
        if not 0 <= least <= most < K:
            raise ArgumentError(f"{what}: expected labels 0 … {K - 1}, found {least} … {most}")
    return xp


def check_loss(logits, labels, total, values=False):
    """Check the arguments of the loss as `check_labels`; return the module, and what it is divided by."""
    same_dtype("softmax_loss", logits=logits)
    check_axes("softmax_loss", "logits", logits, "K,N")
    total = logits.shape[1] if total is None else total
    if not whole_numbers(total):
        raise ArgumentError(f"softmax_loss: expected a total of at least 1 image, found {total!r}")
    return check_labels("softmax_loss", logits, labels, values), total


class LossCache(NamedTuple):
    """What backward needs."""

    p: object  # (K, N) probabilities
    labels: object  # (N,)
    total: int


def softmax_loss_forward(logits, labels, total=None):
    """Loss = −Σ_n log p[label_n, n] / total, in nats per image.

    logits: (K,N).  labels: integers (N,) in 0 … K−1.  total: images that the sum is divided by, N unless
    told (a rank that holds a part of the batch passes the whole batch's size).  Returns (loss, cache), loss a
    scalar array of the logits' dtype.  Raises ValueError for shapes or labels that do not fit.
    """
    xp, total = check_loss(logits, labels, total)
    if xp is not np:
        loss, p = cuda.softmax_loss_forward(logits, labels, total)
        return loss, LossCache(p, labels, total)
    shifted = logits - logits.max(axis=0)
    log_sum = xp.log(xp.exp(shifted).sum(axis=0))
    log_p = shifted[labels, xp.arange(len(labels))] - log_sum
    return -log_p.sum() / logits.dtype.type(total), LossCache(xp.exp(shifted - log_sum), labels, total)


def softmax_loss_backward(cache):
    """dlogits = (p − onehot) / total, (K,N)."""
    p, labels, total = cache
    if xp_of(p, labels) is not np:
        return cuda.softmax_loss_backward(p, labels, total)
    dz = p.copy()
    dz[labels, np.arange(p.shape[1])] -= 1
    dz /= p.dtype.type(total)
    return dz


def topk_error(scores, labels, k=1):
    """How wrong each image's k best classes are: 0 label among them, 1 not, between for a tie.

    With m scores above the label's and e equal to it (itself included), e equal candidates share the
    k − m slots that are left, so the credit is (k − m)/e cut to [0, 1]: the expected value when
    ties are broken at random (2012: src/layer_kernels.cu, kMultiSoftmaxCost).
    scores: (K,N), logits or probabilities, float32 or float64.  labels: (N,).  Returns float64 (N,).
    """
    same_dtype("topk_error", scores=scores)
    check_axes("topk_error", "scores", scores, "K,N")
    if not whole_numbers(k) or k > len(scores):
        raise ArgumentError(f"topk_error: expected 1 ≤ k ≤ {len(scores)} classes, found k = {k!r}")
    if check_labels("topk_error", scores, labels) is not np:
        return sums.topk_error(scores, labels, k)
    own = scores[labels, np.arange(len(labels))]
    above = (scores > own).sum(axis=0)
    equal = (scores == own).sum(axis=0)
    # A NaN is equal to nothing, itself included: such an image is wrong.
    return 1 - np.where(equal > 0, np.clip((k - above) / np.maximum(equal, 1), 0, 1), 0)
