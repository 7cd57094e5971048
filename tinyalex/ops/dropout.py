"""Dropout (paper, section 4.2): in training each neuron's output is set to 0 with probability 1 − keep.

    2012 (src/layer.cu:1121):   training y = m x          test y = keep · x
    inverted (later practice):  training y = m x / keep   test y = x

In both, the expected output in training is the output at test.  Backward: dx = dy times the same factor.
"""

import math
from typing import NamedTuple

import numpy as np

from tinyalex.fields import check_rng, expect, fits, of_kind, plain_data
from tinyalex.ops.checks import check_dy, same_dtype
from tinyalex.ops.cuda import dropout as cuda

__all__ = ["dropout_backward", "dropout_forward", "dropout_mask"]


def check_keep(keep):
    """Raise unless it is a probability, and not 0."""
    expect(fits(plain_data(keep), float) and 0 < keep <= 1, "keep", "a probability, 0 < keep ≤ 1", keep)


def dropout_mask(rng, shape, keep=0.5, xp=np, first=0):
    """Draw a boolean mask, True with probability keep: the same bits on the host and on a GPU.

    The generator rng gives a key; the mask is numbers first, first + 1, … of the key's stream of 32-bit
    words (`np.random.Philox`, a counter-based generator), so that each rank makes its own part of one mask,
    on its own device, and nothing is copied.  keep is rounded to a multiple of 2⁻³².
    Raises ArgumentError unless 0 < keep ≤ 1.
    """
    check_keep(keep)
    check_rng(rng)

    def draw():
        return int(rng.integers(2**64, dtype=np.uint64))

    most = max(0, round(keep * 2**32) - 1)  # the words up to this one are kept
    if xp is not np:
        return cuda.dropout_mask(xp, draw, first, shape, most)
    stream = np.random.Philox(key=draw()).advance(first // 8)  # eight words come from each of its counter
    skipped, size = first % 8, math.prod(shape)
    words = stream.random_raw((skipped + size + 1) // 2).astype("<u8", copy=False).view("<u4")
    return (words[skipped : skipped + size] <= most).reshape(shape)


class DropoutCache(NamedTuple):
    """What backward needs: the mask (None at test), the factor of what is kept, x's shape and dtype."""

    mask: object
    scale: float  # of x's dtype
    shape: tuple
    dtype: object


def dropout_cache(x, mask, keep, train, inverted):
    """Check the arguments of dropout; return what backward needs, and forward as well."""
    same_dtype("dropout", x=x)
    check_keep(keep)
    right = not train or (getattr(mask, "dtype", None) == np.bool_ and mask.shape == x.shape)
    expect(right, "dropout", f"a mask, bool {x.shape}", mask if hasattr(mask, "dtype") else type(mask))
    scale = (1 / keep if inverted else 1.0) if train else (1.0 if inverted else keep)
    return DropoutCache(mask if train else None, x.dtype.type(scale), x.shape, x.dtype)


def dropout_forward(x, mask, keep=0.5, train=True, inverted=False):
    """y = x · mask · scale; without training, mask is None and y = x · scale.

    x: any shape.  mask: boolean, shaped like x, True = kept.  Returns (y, cache), y shaped like x.
    Raises ValueError for keep outside (0, 1], or a mask of another shape or dtype.
    """
    cache = dropout_cache(x, mask, keep, train, inverted)
    return dropout_backward(x, cache), cache


def dropout_backward(dy, cache):
    """dx = dy · mask · scale: the operation is linear and diagonal, so its own backward."""
    mask, scale, shape, dtype = of_kind(DropoutCache, cache, "dropout backward: cache")
    xp = check_dy("dropout backward", dy, shape, dtype, mask)
    if mask is None:
        return dy * scale
    if xp is not np:
        return cuda.dropout_apply(dy, mask, scale)
    return np.multiply(dy, mask) * scale
