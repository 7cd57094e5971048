"""Lesson 4: convolution."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _sizes(rng, stride, N):
    """C, F, (KH, KW), (H, W) of a convolution, all different, as OH and OW are.

    The last window ends before the edge as often as at it.
    """
    while True:
        KH, KW, OH, OW = (int(rng.integers(2, end)) for end in (6, 6, 5, 5))
        H = KH + (OH - 1) * stride + int(rng.integers(stride))
        W = KW + (OW - 1) * stride + int(rng.integers(stride))
        used = {KH, KW, H, W, N}
        if len(used) == 5 and OH != OW:
            break
    C, F = rng.permutation([size for size in range(2, 9) if size not in used][:2]).tolist()
    return C, F, (KH, KW), (H, W)


def _conv_cases(rng):
    cases = []
    for stride, N in ((2, 2), (1, 1), (3, 2)):
        C, F, (KH, KW), (H, W) = _sizes(rng, stride, N)
        x, w = rng.standard_normal((C, H, W, N)), rng.standard_normal((F, C, KH, KW))
        cases.append((x, w, rng.standard_normal(F), stride))
    return cases


def _output_size_cases(rng):
    cases = [(7, 7, 3, 0)]  # one window
    for pad in (0, 1, 2, 3, 6):
        kernel, stride = sizes(rng, (2, 7), (2, 5))
        cases.append((kernel + int(rng.integers(1, 15)), kernel, stride, pad))
    return [*cases, (20, 7, 4, 6), (8, 3, 1, 1)]


def _im2col_cases(rng):
    cases = []
    for stride, N in ((2, 2), (1, 3), (3, 1)):
        C, _F, (KH, KW), (H, W) = _sizes(rng, stride, N)
        cases.append((rng.standard_normal((C, H, W, N)), KH, KW, stride))
    return cases


@hole(
    cases=_conv_cases,
    hints=[
        """The window at place (i, j) begins at row i·stride and column j·stride.  It has all channels, KH
        rows and KW columns, and belongs to picture n.""",
        """window = x[:, rows, columns, n] with two slices; the slice of the rows is
        i * stride : i * stride + KH.  The output is the sum of w[f] times the window, plus filter f's
        bias.""",
        """window = x[:, i * stride : i * stride + KH, j * stride : j * stride + KW, n], and
        y[f, i, j, n] = b[f] + (w[f] * window).sum()""",
    ],
    wrong=[
        (
            "x[:, i * stride : i * stride + KH, j * stride : j * stride + KW, n]",
            "x[:, i : i + KH, j : j + KW, n]",
            """your windows are one pixel apart; they have to be `stride` apart: window i starts at row
            i·stride.""",
        ),
        (
            "b[f] + (w[f] * window).sum()",
            "(w[f] * window).sum()",
            """the bias b[f] is missing.""",
        ),
        (
            "b[f] + (w[f] * window).sum()",
            "(w[f] * window + b[f]).sum()",
            """the bias is added to every product, so it comes in once for each weight.  An output has it
            once: outside the sum.""",
        ),
        (
            "(w[f] * window)",
            "(w[f, :, ::-1, ::-1] * window)",
            """your kernel is turned by 180°: the mathematician's convolution.  Here w[f, c, p, q] meets the
            pixel p rows and q columns from the window's corner.""",
        ),
        (
            "(w[f] * window).sum()",
            "(w[f, 0] * window[0]).sum()",
            """only channel 0 is looked at: a filter has weights for every channel, and sums over all of
            them.""",
        ),
        (
            "(w[f] * window).sum()",
            "(w[f] * window).mean()",
            """you take the mean of the products; a convolution is their sum.""",
        ),
    ],
)
def conv_loops(x, w, b, stride):
    """Convolution, one output at a time.  x (C,H,W,N), w (F,C,KH,KW), b (F,) → y (F,OH,OW,N)."""
    (_C, H, W, N), (F, _C, KH, KW) = x.shape, w.shape
    OH, OW = (H - KH) // stride + 1, (W - KW) // stride + 1
    y = np.zeros((F, OH, OW, N))
    for f, i, j, n in np.ndindex(y.shape):
        window = x[:, i * stride : i * stride + KH, j * stride : j * stride + KW, n]
        y[f, i, j, n] = b[f] + (w[f] * window).sum()
    return y


@hole(
    cases=_output_size_cases,
    hints=[
        """How many pixels are there with the padding?  At which of them does the last window start, at
        most?""",
        """The first window starts at 0, the last at size + 2·pad − kernel or a little before.  How many
        steps of `stride` are that, and how many windows?  Fence posts, not gaps.""",
        """(size + 2 * pad - kernel) // stride + 1""",
    ],
    wrong=[
        (
            "// stride + 1",
            "// stride",
            """one too few: that is the number of steps *between* windows, and there is one window more than
            steps.""",
        ),
        (
            "2 * pad",
            "pad",
            """the padding is on both sides: 2·pad.""",
        ),
        (
            "(size + 2 * pad - kernel) // stride + 1",
            "-((size + 2 * pad - kernel) // -stride) + 1",
            """you round up; then the last window hangs over the edge.  (Keep it in mind: below it is the
            answer to the riddle.)  The formula rounds down.""",
        ),
        (
            "size + 2 * pad - kernel",
            "size + 2 * pad",
            """the last window has to fit in whole: it starts `kernel` pixels before the end.""",
        ),
        (
            "// stride + 1",
            "/ stride + 1",
            """that is not a whole number where the division leaves a remainder: round down, with //.""",
        ),
    ],
)
def output_size(size, kernel, stride, pad):
    """Windows along one axis of `size` pixels, with `pad` zeros on each side."""
    windows = (size + 2 * pad - kernel) // stride + 1
    return windows


_SLICES = "x[:, p : p + OH * stride : stride, q : q + OW * stride : stride]"


@hole(
    cases=_im2col_cases,
    hints=[
        """Pixel (p, q) of window (i, j) is in row i·stride + p and column j·stride + q.  Let i run over all
        its OH values: which rows are these?""",
        """Rows p, p + stride, p + 2·stride, …: OH of them.  As a slice: p : p + OH * stride : stride.  The
        columns likewise, from q.""",
        """cols[:, p, q] = x[:, p : p + OH * stride : stride, q : q + OW * stride : stride]""",
    ],
    wrong=[
        (
            _SLICES,
            "x[:, p : p + OH, q : q + OW]",
            """neighbouring windows are `stride` pixels apart, yours are 1 apart: the slices need a step.""",
        ),
        (
            _SLICES,
            "x[:, : OH * stride : stride, : OW * stride : stride]",
            """every row of cols is the same: p and q do not occur.  The slices start at row p and column
            q.""",
        ),
        (
            "cols[:, p, q] =",
            "cols[:, KH - 1 - p, KW - 1 - q] =",
            """each column holds its window turned by 180°: pixel (p, q) belongs into row (c, p, q).""",
        ),
        (
            "cols.reshape(C * KH * KW, OH * OW * N)",
            "cols.transpose(0, 1, 2, 5, 3, 4).reshape(C * KH * KW, OH * OW * N)",
            """the columns are in the order n, i, j.  They have to be in the order i, j, n, pictures
            innermost.""",
        ),
    ],
)
def im2col(x, KH, KW, stride):
    """Every window as a column.  x (C,H,W,N) → (C·KH·KW, OH·OW·N)."""
    C, H, W, N = x.shape
    OH, OW = (H - KH) // stride + 1, (W - KW) // stride + 1
    cols = np.zeros((C, KH, KW, OH, OW, N))
    for p in range(KH):
        for q in range(KW):
            cols[:, p, q] = x[:, p : p + OH * stride : stride, q : q + OW * stride : stride]
    cols = cols.reshape(C * KH * KW, OH * OW * N)
    return cols
