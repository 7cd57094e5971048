"""The fully connected layer: y = activation(W x + b) on (features, N) arrays.

Backward, with g = dL/dy (through the activation, if one is fused):

    dx = Wᵀ g        dW = g xᵀ        db[f] = Σ_n g[f,n]
"""

from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.memory import empty
from tinyalex.ops.activation import Activation
from tinyalex.ops.checks import check_dy, check_weighted
from tinyalex.ops.cuda import linear as cuda

__all__ = ["linear_backward", "linear_forward"]


class LinearCache(NamedTuple):
    """What backward needs; y is None without activation."""

    x: object  # (D, N)
    w: object  # (F, D)
    y: object  # (F, N)
    activation: Activation | None


def check_linear(x, w, b, activation):
    """Return the arrays' module; raise unless x (D,N), w (F,D) and b (F,) fit together."""
    xp = check_weighted("linear", x, w, b, activation)
    if x.ndim != 2 or w.ndim != 2 or x.shape[0] != w.shape[1] or b.shape != w.shape[:1]:
        raise ArgumentError(f"linear: expected x (D,N), w (F,D), b (F,), found {x.shape, w.shape, b.shape}")
    return xp


def linear_forward(x, w, b, activation=None):
    """y = activation(W x + b).

    x: (D,N).  w: (F,D).  b: (F,).  Returns (y, cache), y (F,N).  Raises ValueError where shapes do not
    fit, TypeError for mixed dtypes or array kinds.
    """
    xp = check_linear(x, w, b, activation)
    if xp is not np:
        y = cuda.linear_forward(x, w, b, activation)
        return y, LinearCache(x, w, y if activation else None, activation)
    y = xp.matmul(w, x, out=empty(xp, (len(w), x.shape[1]), x.dtype))
    y += b[:, None]
    if activation:
        activation.forward(y, out=y)
    return y, LinearCache(x, w, y if activation else None, activation)


def linear_backward(dy, cache):
    """Return (dx, dw, db) of linear_forward, each shaped like its variable."""
    x, w, y, activation = cache
    xp = check_dy("linear backward", dy, (len(w), x.shape[1]), x.dtype, x)
    if xp is not np:
        return cuda.linear_backward(dy, cache)
    g = activation.backward(dy, y) if activation else dy
    dx = xp.matmul(w.T, g, out=empty(xp, x.shape, x.dtype))
    return dx, xp.matmul(g, x.T, out=empty(xp, w.shape, w.dtype)), g.sum(axis=1)
