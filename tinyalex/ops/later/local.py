"""Unshared convolution, 2011's `local` layers: a convolution with filters of their own at each place.

    y[f,i,j,n] = b[f,i,j] + Σ_c Σ_p Σ_q  w[f,i,j,c,p,q] · x̂[c, i·s+p, j·s+q, n]      x̂ = x padded with zeros

(cuda-convnet, layer.py, LocalUnsharedLayerParser; LayerParams.md: one bias for each filter and place.)

With the windows as columns (`plain.im2col`) this is a product at each place ij, all in one batched product:

    y[ij] = W[ij] cols[ij] + b[ij]          W[ij] (F, C·KH·KW), cols[ij] (C·KH·KW, N), y[ij] (F, N)

Backward, with g = dL/dy (through the activation, if one is fused).  A weight is used at one place alone: its
gradient is a sum over the images, not over places.

    db[ij] = Σ_n g[ij]        dW[ij] = g[ij] cols[ij]ᵀ        dcols[ij] = W[ij]ᵀ g[ij], then dx by col2im

This is the plain form and the fast one: a batched product runs at the speed of large ones.
"""

import math
from typing import NamedTuple

from tinyalex.errors import ArgumentError
from tinyalex.fields import of_kind
from tinyalex.ops.activation import Activation
from tinyalex.ops.checks import check_dy, check_weighted
from tinyalex.ops.plain import col2im, im2col
from tinyalex.ops.windows import four_pads, output_size, two_of

__all__ = ["local2d_backward", "local2d_forward"]


class LocalCache(NamedTuple):
    """What backward needs; y is None without activation."""

    x: object  # (C, H, W, N)
    w: object  # (F, OH, OW, C, KH, KW)
    y: object  # (F, OH, OW, N)
    stride: tuple
    pads: tuple
    activation: Activation | None


def local2d_forward(x, w, b, stride=1, pad=0, activation=None):
    """y = activation(w ∗ x + b) with weights for each place: see the module's docstring.

    x: (C,H,W,N).  w: (F,OH,OW,C,KH,KW).  b: (F,OH,OW).  stride, pad: as of `conv2d_forward`.  Returns
    (y, cache), y (F,OH,OW,N).  Raises ValueError where shapes do not fit, TypeError for mixed dtypes or
    array kinds.
    """
    xp = check_weighted("local2d", x, w, b, activation)
    stride, pads = two_of(stride, "local2d: stride"), four_pads(pad)
    if x.ndim != 4 or w.ndim != 6 or len(x) != w.shape[3] or b.shape != w.shape[:3]:
        raise ArgumentError(
            "local2d: expected x (C,H,W,N), w (F,OH,OW,C,KH,KW), b (F,OH,OW), "
            f"found {x.shape}, {w.shape}, {b.shape}"
        )
    sides = x.shape[1:3], w.shape[4:], stride, pads[::2], pads[1::2]
    places = tuple(output_size(*side, "local2d") for side in zip(*sides, strict=True))
    if places != w.shape[1:3]:
        raise ArgumentError(f"local2d: x has {places} places, w weights for {w.shape[1:3]}")
    y = _by_place(w) @ _columns(x, w, stride, pads)
    y = xp.ascontiguousarray(y.swapaxes(0, 1)).reshape(*b.shape, x.shape[3])
    y += b[..., None]
    if activation:
        activation.forward(y, out=y)
    return y, LocalCache(x, w, y if activation else None, stride, pads, activation)


def local2d_backward(dy, cache, need_dx=True):
    """Return (dx, dw, db) of local2d_forward, each shaped like its variable; dx None without need_dx."""
    x, w, y, stride, pads, activation = of_kind(LocalCache, cache, "local2d backward: cache")
    xp = check_dy("local2d backward", dy, (*w.shape[:3], x.shape[3]), x.dtype, x)
    dy = activation.backward(dy, y) if activation else dy
    g, W = _by_place(dy), _by_place(w)
    dw = g @ _columns(x, w, stride, pads).swapaxes(1, 2)
    dw = xp.ascontiguousarray(dw.swapaxes(0, 1)).reshape(w.shape)
    dx = None
    if need_dx:
        dcols = (W.swapaxes(1, 2) @ g).swapaxes(0, 1)
        dx = col2im(dcols.reshape(W.shape[2], len(W) * x.shape[3]), x.shape, *w.shape[4:], stride, pads)
    return dx, dw, dy.sum(axis=3)


def _by_place(a):
    """View (F, OH, OW, …) as a matrix for each place, (OH·OW, F, …)."""
    return a.reshape(len(a), math.prod(a.shape[1:3]), math.prod(a.shape[3:])).swapaxes(0, 1)


def _columns(x, w, stride, pads):
    """Return the columns of each place, (OH·OW, C·KH·KW, N)."""
    cols = im2col(x, *w.shape[4:], stride, pads)
    return cols.reshape(len(cols), math.prod(w.shape[1:3]), x.shape[3]).swapaxes(0, 1)
