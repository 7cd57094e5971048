"""Dropout on the GPU: the mask is made there from its seed, nothing is copied from the host."""

import math

import numpy as np

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import launch


def dropout_mask(xp, key, first, shape, most):
    """Return the mask of numbers first … of the stream of ``key``: those up to ``most`` are kept."""
    mask = empty(xp, shape, bool)
    size = math.prod(shape)
    blocks = (first + size - 1) // 8 - first // 8 + 1  # eight numbers come from each value of the counter
    key, first, most = np.uint64(key), np.uint64(first), np.uint32(most)
    launch("dropout.dropout_mask", (blocks,), mask, key, first, blocks, size, most)
    return mask


def dropout_apply(x, mask, scale):
    """Return x · mask · scale."""
    xp = xp_of(x, mask)
    y = empty(xp, x.shape, x.dtype)
    x, mask = xp.ascontiguousarray(x), xp.ascontiguousarray(mask)
    launch("dropout.dropout_apply", (x.size,), x, mask, y, x.size, float(scale))
    return y
