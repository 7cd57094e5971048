"""Lesson 15: fast."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _by_list(strips, i, KH, stride):
    _, C, KW, OW, N = strips.shape
    cols = strips[[i * stride + p for p in range(KH)]].reshape(KH * C * KW, OW * N)
    copied = not np.shares_memory(cols, strips)
    return cols, copied


def _strip_cases(rng):
    cases = []
    for stride, i, N in ((2, 2, 3), (1, 3, 2), (3, 1, 1)):
        C, KW, OW, KH = sizes(rng, *[(2, 5)] * 4)
        cases.append((rng.standard_normal((i * stride + KH + 1, C, KW, OW, N)), i, KH, stride))
    return cases


@hole(
    cases=_strip_cases,
    view=True,
    hints=[
        """Output row i looks at KH input rows.  Which is the first?  strips[h] is all that input row h can
        contribute, and the rows lie one after the other in memory.""",
        """Take those KH rows as one slice of the first axis, and then `.reshape` to a matrix of KH·C·KW rows
        and OW·N columns: neighbouring axes are joined, nothing has to move.""",
        """The first row is i·stride: strips[i * stride : i * stride + KH], reshaped to (KH * C * KW,
        OW * N).""",
    ],
    wrong=[
        (
            "strips[i * stride : i * stride + KH]",
            "strips[i : i + KH]",
            """the rows are not those that output row i looks at: the stride goes down as well as across, so
            window row i begins at input row i·stride.""",
        ),
        (
            "strips[i * stride : i * stride + KH].reshape",
            "strips[i * stride : i * stride + KH].swapaxes(0, 1).reshape",
            """your rows are in im2col's order c, p, q; in the strips p comes before c.  To exchange them the
            numbers must be copied.  Leave p, c, q, and put the weights into that order once.""",
        ),
        (
            "strips[i * stride : i * stride + KH].reshape(KH * C * KW, OW * N)",
            "strips[i * stride : i * stride + KH].reshape(OW * N, KH * C * KW).T",
            """the shape is right, the numbers are scrambled: the strips have the window's axes first and the
            images last, so reshape to (KH·C·KW, OW·N) at once; there is nothing to transpose.""",
        ),
        (
            _by_list,
            """the right numbers, but copied: what is taken by a list of indices is always a copy, and so is
            `.copy()`.  A slice, start : stop, is a view.""",
        ),
        (
            "strips[i * stride : i * stride + KH]",
            "strips[i * stride : i * stride + KH][::-1]",
            """the window is upside down: input row i·stride + p belongs to weight row p.  Nothing is flipped
            here.""",
        ),
    ],
)
def row_columns(strips, i, KH, stride):
    """Columns of output row i, a view.  strips (H,C,KW,OW,N) → (KH·C·KW, OW·N)."""
    _, C, KW, OW, N = strips.shape
    cols = strips[i * stride : i * stride + KH].reshape(KH * C * KW, OW * N)
    copied = not np.shares_memory(cols, strips)
    return cols, copied


@hole(
    cases=lambda rng: [
        (rng.standard_normal((4, N)), rng.standard_normal(3)) for N in (*sizes(rng, (2, 6), (2, 6)), 1)
    ],
    hints=[
        """All multiplications of w and d are done: what is left is Aᵀ, with entries 0, 1 and −1 only.""",
        """A's columns are how y0 and y1 entered the four values: y0 as 1, 1, 1, 0, and y1 as 0, 1, −1, 1.
        The rows of Aᵀ are these columns.""",
        """y0 is m0 + m1 + m2; y1 is made of m1, m2 and m3 with the signs 1, −1, 1.  Stack the two with
        np.stack.""",
    ],
    wrong=[
        (
            "m1 - m2 + m3",
            "m1 - m2 - m3",
            """y1: the sign of m3.  Some books have d1 − d3 in the last product and subtract it; ours has
            d3 − d1, so it is added.""",
        ),
        (
            "m1 - m2 + m3",
            "m1 - m2",
            """y1 lacks the product at ∞: w2·d3 occurs in y1, and m3 is the only product with d3 in it.""",
        ),
        (
            "m1 - m2 + m3",
            "m1 + m2 + m3",
            """y1: at the point −1 the polynomial y0 + y1·x is y0 − y1, so m2 comes back with a minus
            in y1.""",
        ),
        (
            "m0 + m1 + m2",
            "m1 + m2",
            """y0 lacks the product at 0: w0·d0 occurs in y0, and m0 is the only product with d0 in it.""",
        ),
        (
            "[m0 + m1 + m2, m1 - m2 + m3]",
            "[m0 + (m1 + m2) / 2, (m1 - m2) / 2 + m3]",
            """m1 and m2 are halved twice: the halves of V⁻¹ have been moved into G, and are in m1 and m2
            already.""",
        ),
    ],
)
def four_products(d, w):
    """F(2,3): y_i = Σ_p w_p d_{i+p} for i = 0, 1.  d (4,N), w (3,) → y (2,N)."""
    m0 = w[0] * (d[0] - d[2])
    m1 = (w[0] + w[1] + w[2]) / 2 * (d[1] + d[2])
    m2 = (w[0] - w[1] + w[2]) / 2 * (d[2] - d[1])
    m3 = w[2] * (d[3] - d[1])
    y = np.stack([m0 + m1 + m2, m1 - m2 + m3])
    return y
