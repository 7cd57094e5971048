"""Lesson 5: backward through convolution."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _mean(dcols, W, stride):
    return add_back(dcols, W, stride) / np.maximum(1, add_back(np.ones_like(dcols), W, stride))


def _fancy(dcols, W, stride):
    K, OW = dcols.shape
    dx = np.zeros(W)
    index = np.arange(OW) * stride + np.arange(K)[:, None]
    dx[index] += dcols
    return dx


def _add_back_cases(rng):
    cases = []
    for stride in (2, 1, 3):  # windows that overlap by some pixels, by all but one, and not at all
        K, OW = {2: (3, 4), 1: sizes(rng, (3, 5), (4, 6)), 3: (2, int(rng.integers(3, 5)))}[stride]
        cases.append((rng.standard_normal((K, OW)), K + (OW - 1) * stride + (stride > 1), stride))
    return cases


@hole(
    cases=_add_back_cases,
    hints=[
        """Forward, window o was read from x[o·stride : o·stride + K].  Backward goes the same way, in the
        other direction: where does column o of dcols have to go?""",
        """A loop over the windows is enough: `for o in range(OW):`, one line in it, for K pixels at once.""",
        """The line begins with `dx[o * stride : o * stride + K]`.  What stands there already came from
        the window before and must not be lost.""",
    ],
    wrong=[
        (
            "+=",
            "=",
            """where windows overlap only the last one is left: `=` throws away what an earlier window put
            there.  A pixel that was copied twice gets a gradient twice: `+=`.""",
        ),
        (
            "dx[o * stride : o * stride + K] += dcols[:, o]",
            "dx[o : o + K] += dcols[:, o]",
            """window o starts at pixel o·stride; yours start at pixel o, as if the stride were 1.""",
        ),
        (
            "dcols[:, o]",
            "dcols[::-1, o]",
            """each column is put back upside down: row p of dcols belongs to pixel o·stride + p, not to
            o·stride + K − 1 − p.  Nothing is flipped here.""",
        ),
        (
            _mean,
            """you take the mean over the windows; the chain rule sums over all paths from x to the loss.""",
        ),
        (
            _fancy,
            """where windows overlap only one of them is left.  Either `=` throws away what was there, or
            `dx[index] += …` without a loop does: it reads all of dx[index] first, adds, and writes back,
            and of an index that occurs twice only the last remains.  Use a loop with `+=`, or
            np.add.at(dx, index, dcols).""",
        ),
    ],
)
def add_back(dcols, W, stride):
    """Transpose of im2col in one dimension.  dcols (K, OW) → dx (W,)."""
    K, OW = dcols.shape
    dx = np.zeros(W)
    for o in range(OW):
        dx[o * stride : o * stride + K] += dcols[:, o]
    return dx


def _three_products(rng):
    cases = []
    for N in (int(rng.integers(2, 6)), 1):
        F, C, KH, KW, OH, OW = sizes(rng, *[(2, 7)] * 6)
        w = rng.standard_normal((F, C, KH, KW))
        cols = rng.standard_normal((C * KH * KW, OH * OW * N))
        cases.append((rng.standard_normal((F, OH, OW, N)), cols, w))
    return cases


@hole(
    cases=_three_products,
    hints=[
        """Write dy as a matrix g with one row a filter, as W is: then y = W cols + b is lesson 2's linear
        layer, and its three gradients are the ones you know.""",
        """Look at the shapes.  g is (F, OH·OW·N) and cols is (C·KH·KW, OH·OW·N); which product of the two
        is (F, C·KH·KW)?  And which product of W and g is shaped like cols?""",
        """dw = g @ cols.T, to be given w's shape; dcols = W.T @ g, with W = w.reshape(F, -1); db sums g
        over everything but the filters.""",
    ],
    wrong=[
        (
            "(g @ cols.T).reshape(w.shape)",
            "(cols @ g.T).reshape(w.shape)",
            """dw is transposed: `cols @ g.T` is (C·KH·KW, F), and reshape does not transpose, it deals
            the numbers out in another order.  The shape is right, the numbers are scrambled.""",
        ),
        (
            "(g @ cols.T).reshape(w.shape)",
            "(g @ cols.T).reshape(w.shape) / dy.shape[-1]",
            """dw is divided by N.  The 1/N of the mean over the batch is in the loss already, so it is in
            dy; here it would be counted twice.""",
        ),
        (
            "w.reshape(len(w), -1).T @ g",
            "w.reshape(len(w), -1).T @ np.ones_like(g)",
            """dcols does not look at dy: it is what comes back when every dy is 1.""",
        ),
        (
            "(g @ cols.T).reshape(w.shape)",
            "(np.ones_like(g) @ cols.T).reshape(w.shape)",
            """dw does not look at dy: it is what comes back when every dy is 1.  A test with a dy of ones
            sees no difference.""",
        ),
        (
            "g.sum(axis=1)",
            "g.mean(axis=1)",
            """db is a mean: but y[f] contains b[f] at every position of every picture, and the
            contributions add up.""",
        ),
        (
            "g.sum(axis=1)",
            "dy.sum(axis=(1, 2))",
            """db has one number for each filter and picture: b[f] is the same for all N pictures, so sum
            over them too.""",
        ),
    ],
)
def three_products(dy, cols, w):
    """Gradients of y = W cols + b.  dy (F,OH,OW,N), cols (C·KH·KW, OH·OW·N), w (F,C,KH,KW)."""
    g = dy.reshape(len(w), -1)
    dw = (g @ cols.T).reshape(w.shape)
    db = g.sum(axis=1)
    dcols = w.reshape(len(w), -1).T @ g
    return dw, db, dcols


def _col2im_cases(rng):
    cases = []
    for stride, pad, N in ((1, 0, 2), (2, 1, 3), (1, 1, 2), (2, 3, 1), (3, 0, 2)):
        OH = OW = 0
        while OH == OW:
            C, KH, KW, H, W = sizes(rng, (2, 3), *[(max(pad + 1, 2), 5)] * 2, *[(6, 9)] * 2)
            OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
        cols = rng.standard_normal((C * KH * KW, OH * OW * N))
        cases.append((cols, (C, H, W, N), KH, KW, stride, pad))
    return cases


_LINE = "dx[:, p : p + OH * stride : stride, q : q + OW * stride : stride] += dcols[:, p, q]"


@hole(
    cases=_col2im_cases,
    hints=[
        """im2col had, in the same two loops, `cols[:, p, q] = x[:, p : …, q : …]`.  Exchange the two
        sides.""",
        """Element (p, q) of all windows at once lies in rows p, p + stride, p + 2·stride, …: OH of them.
        As a slice: p : p + OH * stride : stride.""",
        """dx[:, rows, columns] += dcols[:, p, q], with such a slice for the rows (from p) and for the
        columns (from q).""",
    ],
    wrong=[
        (
            "] += ",
            "] = ",
            """each (p, q) overwrites what other elements of other windows have put there: `=` keeps only
            the last (p, q).  Add: `+=`.""",
        ),
        (
            _LINE,
            "dx[:, p : p + OH, q : q + OW] += dcols[:, p, q]",
            """neighbouring windows are `stride` pixels apart, yours are 1 apart: the slices need a step.""",
        ),
        (
            "dcols[:, p, q]",
            "dcols[:, KH - 1 - p, KW - 1 - q]",
            """your windows are put back turned by 180°: element (p, q) came from p rows below and q
            columns right of the window's corner and goes back there.""",
        ),
        (
            "dx[:, pad : pad + H, pad : pad + W]",
            "dx[:, :H, :W]",
            """the padding lies on all four sides; you cut it off at the bottom and right only, and the
            gradient is shifted by `pad` pixels.""",
        ),
        (
            "dx[:, pad : pad + H, pad : pad + W]",
            "dx[:, pad:-pad, pad:-pad]",
            """right with padding, but without any nothing is left: -0 is 0, and dx[:, 0:0] is empty.  Count
            from the front: pad : pad + H.""",
        ),
        (
            "dx[:, pad : pad + H, pad : pad + W]",
            "dx",
            """that is the gradient of the padded picture.  The zeros around it are constants and need no
            gradient: cut them off.""",
        ),
    ],
)
def col2im(dcols, x_shape, KH, KW, stride, pad):
    """Transpose of im2col.  dcols (C·KH·KW, OH·OW·N) → dx, shaped (C,H,W,N) = x_shape."""
    C, H, W, N = x_shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    dcols = dcols.reshape(C, KH, KW, OH, OW, N)
    dx = np.zeros((C, H + 2 * pad, W + 2 * pad, N))  # of the padded picture
    for p in range(KH):
        for q in range(KW):
            dx[:, p : p + OH * stride : stride, q : q + OW * stride : stride] += dcols[:, p, q]
    dx = dx[:, pad : pad + H, pad : pad + W]
    return dx
