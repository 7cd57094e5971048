"""Two-dimensional convolution by matrix products, on (C,H,W,N) arrays.

Sizes: N images, C channels in, F filters out, H, W in, OH, OW out, KH, KW kernel, s stride (along both axes
here, for short), pt, pb, pl, pr zeros padded at the top, bottom, left and right.

    y[f,i,j,n] = b[f] + Σ_c Σ_p Σ_q  w[f,c,p,q] · x̂[c, i·s+p, j·s+q, n]        x̂ = x padded with zeros
    OH = floor((H + pt + pb − KH)/s) + 1,  OW likewise

(As in the paper and in every framework this is correlation: the kernel is not flipped.)

im2col lays each window out as a column, so that the triple sum becomes one matrix product:

    cols[(c,p,q), (i,j,n)] = x̂[c, i·s+p, j·s+q, n]           y = W cols + b,  W = w as (F, C·KH·KW)

Backward, with g = dL/dy (through the activation, if one is fused):

    db[f]       = Σ_{i,j,n} g[f,i,j,n]
    dw[f,c,p,q] = Σ_{i,j,n} g[f,i,j,n] · x̂[c, i·s+p, j·s+q, n]            dW = g colsᵀ
    dx̂[c,u,v,n] = Σ of w[f,c,p,q] · g[f,i,j,n] over all i·s+p = u, j·s+q = v     dcols = Wᵀ g, then col2im

col2im is im2col's transpose: a pixel was copied into every window that covers it, so its gradient is
the sum over those windows.

`plain` computes it so, as it stands here.  The functions below give the same sums in the fastest of three
ways: `strips` on the CPU, `winograd` where many channels allow fewer multiplications, `cuda.conv` on a GPU.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.fields import expect, of_kind
from tinyalex.memory import empty
from tinyalex.ops import strips, winograd
from tinyalex.ops.activation import Activation
from tinyalex.ops.checks import check_dy, check_weighted
from tinyalex.ops.cuda import conv as cuda
from tinyalex.ops.windows import four_pads, output_size, two_of, whole_numbers

__all__ = ["conv2d_backward", "conv2d_forward"]


class ConvCache(NamedTuple):
    """What backward needs: the input (unpadded), the weights, the output if an activation is fused."""

    x: object  # (C, H, W, N)
    w: object  # (F, C/groups, KH, KW)
    y: object  # (F, OH, OW, N), None without activation
    stride: tuple  # (vertical, horizontal)
    pads: tuple
    groups: int
    activation: Activation | None


def check_conv2d(x, w, b, stride, pad, groups, activation):
    """Raise unless these are a convolution; return x's module, (SH, SW), the four pads, and y's shape."""
    xp = check_weighted("conv2d", x, w, b, activation)
    expect(x.ndim == w.ndim == 4, "conv2d", "x (C,H,W,N), w (F,C,KH,KW)", (x.shape, w.shape))
    C, F, CG = len(x), *w.shape[:2]
    if not whole_numbers(groups) or not C * F or C % groups or F % groups:
        raise ArgumentError(f"conv2d: {C} channels and {F} filters cannot be cut into {groups} equal groups")
    expect(CG * groups == C, "conv2d: x", f"{CG * groups} channels, for {groups} groups of {CG}", C)
    expect(b.shape == (F,), "conv2d: b", f"a bias for each of {F} filters", b)
    stride, pads = two_of(stride, "conv2d: stride"), four_pads(pad)
    return xp, stride, pads, conv2d_shape(x, w, stride, pads)


def conv2d_shape(x, w, stride, pads):
    """Return y's shape, (F, OH, OW, N)."""
    (_, H, W, N), (F, _, KH, KW), (SH, SW) = x.shape, w.shape, stride
    return F, output_size(H, KH, SH, *pads[:2]), output_size(W, KW, SW, *pads[2:]), N


def conv2d_forward(x, w, b, stride=1, pad=0, groups=1, activation=None):
    """y = activation(w ∗ x + b): see the module's docstring.

    x: (C,H,W,N).  w: (F, C/groups, KH, KW).  b: (F,).  stride: one number or (vertical, horizontal).  pad:
    zeros around the picture, one number or (top, bottom, left, right).  groups: the channels and the filters
    are each cut into so many equal parts, and a filter sees only its own part (the paper's two towers:
    section 3.5, conv2, 4, 5).  Returns (y, cache), y (F,OH,OW,N).  Raises ValueError for an impossible
    geometry, TypeError for mixed dtypes or array kinds.
    """
    xp, stride, pads, shape = check_conv2d(x, w, b, stride, pad, groups, activation)
    y = empty(xp, shape, x.dtype)
    cache = ConvCache(x, w, y if activation else None, stride, pads, groups, activation)
    if xp is not np:
        cuda.conv2d_forward(y, b, cache)
        return y, cache
    for cs, fs in _groups(cache):
        finish = partial(_add_bias_and_activate, b[fs], activation)
        if winograd.pays(w, stride, groups):
            winograd.convolve(x[cs], w[fs], pads, y[fs], finish)
        else:
            strips.convolve(x[cs], w[fs], stride, pads, y[fs], finish)
    return y, cache


def conv2d_backward(dy, cache, need_dx=True):
    """Return (dx, dw, db) of conv2d_forward, each shaped like its variable.

    dy: (F,OH,OW,N).  need_dx=False: the input is the picture itself; dx is None and its work is saved.
    """
    x, w, y, stride, pads, groups, activation = of_kind(ConvCache, cache, "conv2d backward: cache")
    xp = check_dy("conv2d backward", dy, conv2d_shape(x, w, stride, pads), x.dtype, x)
    if xp is not np:
        return cuda.conv2d_backward(dy, cache, need_dx)
    g = activation.backward(dy, y) if activation else xp.ascontiguousarray(dy)
    dw = empty(xp, w.shape, w.dtype)
    dx = empty(xp, x.shape, x.dtype) if need_dx else None
    for cs, fs in _groups(cache):
        dx_part = dx[cs] if need_dx else None
        if need_dx and winograd.pays(w, stride, groups):
            dw[fs] = winograd.convolve_backward(g[fs], x[cs], w[fs], pads, dx_part)
        else:
            dw[fs] = strips.convolve_backward(g[fs], x[cs], w[fs], stride, pads, dx_part)
    return dx, dw, g.sum(axis=(1, 2, 3))


def _groups(cache):
    """Yield each group's channels and filters, as slices."""
    C, F, groups = len(cache.x), len(cache.w), cache.groups
    for g in range(groups):
        yield slice(g * C // groups, (g + 1) * C // groups), slice(g * F // groups, (g + 1) * F // groups)


def _add_bias_and_activate(b, activation, filters, part):
    """What is left to do to a part of y while it is in cache."""
    part += b[filters, None, None, None]
    if activation:
        activation.forward(part, out=part)
