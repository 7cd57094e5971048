"""Lesson 7: overlapping pooling."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _max_pool_cases(rng):
    cases = []
    for z, s, N in ((3, 2, 2), (2, 3, 1), (2, 1, 3)):  # overlapping, with gaps, and one apart
        C, OH, OW = sizes(rng, *[(2, 4)] * 3)
        H, W = z + (OH - 1) * s + int(rng.integers(s)), z + (OW - 1) * s + int(rng.integers(s))
        cases.append((rng.standard_normal((C, H, W, N)) - (z == 3), z, s))  # a window may be all negative
    return cases


@hole(
    cases=_max_pool_cases,
    hints=[
        """Window (i, j) is rows i·s … i·s + z − 1 and columns j·s … j·s + z − 1, of all channels and
        pictures: a slice of four axes.""",
        """Of x[:, i * s : i * s + z, j * s : j * s + z], which is (C, z, z, N), take the maximum over the two
        middle axes.""",
        """y[:, i, j] = x[:, i * s : i * s + z, j * s : j * s + z].max(axis=(1, 2))""",
    ],
    wrong=[
        (
            ".max(axis=(1, 2))",
            ".mean(axis=(1, 2))",
            """that is average pooling.  Here the largest number of the window is wanted.""",
        ),
        (
            "x[:, i * s : i * s + z, j * s : j * s + z]",
            "x[:, i * s : i * s + s, j * s : j * s + s]",
            """your windows are s wide: they touch, but do not overlap.  A window is z wide, and the next one
            starts s further on.""",
        ),
        (
            "x[:, i * s : i * s + z, j * s : j * s + z]",
            "x[:, i : i + z, j : j + z]",
            """your windows are 1 apart instead of s: window i starts at row i·s.""",
        ),
        (
            ".max(axis=(1, 2))",
            ".max(axis=(0, 1, 2))",
            """the maximum goes over the channels too.  Each channel is pooled for itself.""",
        ),
        (
            "x[:, i * s : i * s + z, j * s : j * s + z].max(",
            "np.abs(x[:, i * s : i * s + z, j * s : j * s + z]).max(",
            """you take the largest in absolute value; what is wanted is the largest number, −1 rather than
            −5.""",
        ),
    ],
)
def max_pool(x, z, s):
    """Largest number of each z×z window, s apart.  x (C,H,W,N) → y (C,OH,OW,N)."""
    C, H, W, N = x.shape
    OH, OW = (H - z) // s + 1, (W - z) // s + 1
    y = np.empty((C, OH, OW, N))
    for i in range(OH):
        for j in range(OW):
            y[:, i, j] = x[:, i * s : i * s + z, j * s : j * s + z].max(axis=(1, 2))
    return y


def _every_winner(dy, x, z, s):
    dx = np.zeros(len(x))
    for o in range(len(dy)):
        window = x[o * s : o * s + z]
        dx[o * s : o * s + z] += dy[o] * (window == window.max())
    return dx


def _shared_among_winners(dy, x, z, s):
    dx = np.zeros(len(x))
    for o in range(len(dy)):
        window = x[o * s : o * s + z]
        dx[o * s : o * s + z] += dy[o] * (window == window.max()) / (window == window.max()).sum()
    return dx


def _last_winner(dy, x, z, s):
    dx = np.zeros(len(x))
    for o in range(len(dy)):
        dx[o * s + z - 1 - x[o * s : o * s + z][::-1].argmax()] += dy[o]
    return dx


def _whole_window(dy, x, z, s):
    dx = np.zeros(len(x))
    for o in range(len(dy)):
        dx[o * s : o * s + z] += dy[o]
    return dx


def _row_cases(rng):
    gaps = rng.standard_normal(12)
    gaps[2::3] += 9  # the largest numbers lie between the windows
    return [
        (rng.standard_normal(4), _ROW, 3, 2),
        (rng.standard_normal(4), np.zeros(7), 4, 1),
        (rng.standard_normal(4), gaps, 2, 3),
    ]


_ROW = np.array([1.0, 3, 9, 2, 5, 4, 7, 7, 6])  # 9 wins two windows, and 7 stands twice in the last


@hole(
    cases=_row_cases,
    hints=[
        """x[o * s : o * s + z].argmax() says where in the *window* the largest is.  Where is that in x?""",
        """Add the place where the window starts: o·s.  And think of a pixel that wins two windows.""",
        """winner = o * s + x[o * s : o * s + z].argmax(), and dx[winner] += dy[o].""",
    ],
    wrong=[
        (
            "+= dy[o]",
            "= dy[o]",
            """a pixel that wins two windows keeps only the gradient of the last: `=` throws away the first.
            Both go through it: `+=`.""",
        ),
        (
            "o * s + x[o * s : o * s + z].argmax()",
            "x[o * s : o * s + z].argmax()",
            """argmax counts from the start of the window; in x the window starts at o·s.""",
        ),
        (
            _every_winner,
            """where two pixels tie, both get the whole gradient.  (So it was in 2012.)  Here the first of
            them wins, alone.""",
        ),
        (
            _shared_among_winners,
            """where two pixels tie, they share the gradient.  Here the first of them gets all of it.""",
        ),
        (_last_winner, """where two pixels tie, the last wins; here it is the first."""),
        (
            _whole_window,
            """every pixel of a window gets its gradient.  Only the winner moved the output, so only it gets
            something.""",
        ),
    ],
)
def give_to_winners(dy, x, z, s):
    """Backward of max pooling along a row.  dy (OW,), x (W,) → dx (W,)."""
    dx = np.zeros(len(x))
    for o in range(len(dy)):
        winner = o * s + x[o * s : o * s + z].argmax()
        dx[winner] += dy[o]
    return dx


def _every_pixel_that_ties(dy, x, z, s):
    dx = np.zeros(x.shape)
    for c, i, j, n in np.ndindex(dy.shape):
        rows, columns = slice(i * s, i * s + z), slice(j * s, j * s + z)
        window = x[c, rows, columns, n]
        dx[c, rows, columns, n] += dy[c, i, j, n] * (window == window.max())
    return dx


def _pictures(rng):
    cases = []
    for z, s, N in ((3, 2, 3), (3, 1, 2), (2, 3, 1)):
        C, OH, OW = sizes(rng, *[(2, 4)] * 3)
        x = rng.standard_normal((C, z + (OH - 1) * s, z + (OW - 1) * s + s - 1, N))
        if s == 1:
            x = np.maximum(x - 1, 0)  # as behind a ReLU: many windows are all 0, and all their pixels tie
            x[0, :2, :2, 0] = [[0, 5], [5, 0]]  # the first row that holds the largest, the first column: a 0
        cases.append((rng.standard_normal((C, OH, OW, N)), x, z, s))
    return cases


@hole(
    cases=_pictures,
    hints=[
        """window.argmax() is a number k from 0 to z² − 1, in reading order: k = p·z + q.""",
        """divmod(k, z) gives (p, q) at once.  In x the window's corner is (i·s, j·s).""",
        """p, q = divmod(window.argmax(), z), and dx[c, i * s + p, j * s + q, n] += dy[c, i, j, n].""",
    ],
    wrong=[
        (
            "+= dy[c, i, j, n]",
            "= dy[c, i, j, n]",
            """a pixel that wins several windows keeps only the gradient of the last one: add, `+=`.""",
        ),
        (
            "p, q = divmod",
            "q, p = divmod",
            """row and column are exchanged: in reading order k = p·z + q, so divmod gives the row first.""",
        ),
        (
            "dx[c, i * s + p, j * s + q, n]",
            "dx[c, p, q, n]",
            """everything lands in the upper left corner: p and q count from the window's corner, which is at
            (i·s, j·s) in x.""",
        ),
        (
            "dx[c, i * s + p, j * s + q, n]",
            "dx[c, i + p, j + q, n]",
            """the corner of window (i, j) is at (i·s, j·s), not at (i, j).""",
        ),
        (
            _every_pixel_that_ties,
            """where pixels tie, as in a window of zeros, each of them gets the whole gradient.  Here the
            first in reading order wins, alone.""",
        ),
    ],
)
def max_pool_backward(dy, x, z, s):
    """Backward of max_pool.  dy (C,OH,OW,N), x (C,H,W,N) → dx, shaped like x."""
    dx = np.zeros(x.shape)
    for c, i, j, n in np.ndindex(dy.shape):
        window = x[c, i * s : i * s + z, j * s : j * s + z, n]
        p, q = divmod(window.argmax(), z)
        dx[c, i * s + p, j * s + q, n] += dy[c, i, j, n]
    return dx
