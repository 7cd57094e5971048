"""Dropout (paper, section 4.2): in training each neuron's output is set to 0 with probability 1 − keep.

    2012 (src/layer.cu:1121):   training y = m x          test y = keep · x
    inverted (later practice):  training y = m x / keep   test y = x

In both, the expected output in training is the output at test.  Backward: dx = dy times the same factor.
"""

from typing import NamedTuple

from tinyalex.devices import check_dy, same_dtype, xp_of
from tinyalex.errors import ArgumentError


def dropout_mask(rng, shape, keep=0.5):
    """Draw a boolean mask, True with probability keep, from a NumPy generator (so: on the host)."""
    return rng.random(shape, dtype="float32") < keep


class DropoutCache(NamedTuple):
    """What backward needs: the mask (None at test), the factor that scales what is kept, and x's shape."""

    mask: object
    scale: float
    shape: tuple


def dropout_forward(x, mask, keep=0.5, train=True, inverted=False):
    """y = x · mask · scale; without training, mask is None and y = x · scale.

    x: any shape.  mask: boolean, shaped like x, True = kept.  Returns (y, cache), y shaped like x.
    Raises ValueError for keep outside (0, 1], or a mask of another shape.
    """
    same_dtype("dropout", x=x)
    if not 0 < keep <= 1:
        raise ArgumentError(f"dropout: expected 0 < keep ≤ 1, found {keep}")
    if train and (mask is None or mask.shape != x.shape):
        raise ArgumentError(
            f"dropout: expected a mask of shape {x.shape}, found {None if mask is None else mask.shape}"
        )
    scale = (1 / keep if inverted else 1.0) if train else (1.0 if inverted else keep)
    cache = DropoutCache(mask if train else None, scale, x.shape)
    return dropout_backward(x, cache), cache


def dropout_backward(dy, cache):
    """dx = dy · mask · scale: the operation is linear and diagonal, so its own backward."""
    mask, scale, shape = cache
    check_dy("dropout backward", dy, shape, dy)
    factor = dy.dtype.type(scale)
    return dy * factor if mask is None else xp_of(dy, mask).multiply(dy, mask) * factor
