"""Dropout on the GPU: the mask is made there from its seed; of the host comes a number of 8 bytes."""

import math

import numpy as np

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda import graph
from tinyalex.ops.cuda.launch import images, launch


def dropout_mask(xp, draw, first, shape, most):
    """Return the mask of numbers first … of the stream of the key draw(): those up to ``most`` are kept."""
    mask, key = empty(xp, shape, bool), graph.own(xp, (1,), "uint64")
    size = math.prod(shape)
    blocks = (first + size - 1) // 8 - first // 8 + 1  # eight numbers come from each value of the counter
    graph.host(lambda: graph.upload(key, draw()))
    launch("dropout.dropout_mask", (blocks,), mask, key, np.uint64(first), blocks, size, np.uint32(most))
    return mask


def dropout_apply(x, mask, scale):
    """Return x · mask · scale."""
    xp = xp_of(x, mask)
    x, mask, y = xp.ascontiguousarray(x), xp.ascontiguousarray(mask), empty(xp, x.shape, x.dtype)
    v = images(x.size, x, mask, y)
    launch("dropout.dropout_apply", (x.size // v,), x, mask, y, x.size // v, float(scale), V=v)
    return y
