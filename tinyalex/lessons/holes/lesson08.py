"""Lesson 8: local response normalization."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _from_i(x, n, k, alpha, beta):
    s = np.full_like(x, k)
    for i in range(len(x)):
        s[i] += alpha * (x[i : i + n] ** 2).sum(axis=0)
    return x / s**beta, s


def _lrn_cases(rng):
    """Windows narrower and wider than there are channels; α so large that the sum counts; a batch of one."""
    H, W = sizes(rng, (2, 4), (2, 4))
    return [
        (rng.standard_normal((6, H, W, 5)), 3, 9.0, 0.9, 0.75),
        (rng.standard_normal((4, W, 1, 2)), 7, 8.0, 0.6, 0.5),
        (rng.standard_normal((7, 2, H, 1)), 5, 2.0, 0.7, 0.75),
        (rng.standard_normal((5, 2, 3, 4)).astype(np.float32), 5, 2.0, 0.7, 0.75),
    ]


@hole(
    cases=_lrn_cases,
    hints=[
        """The window of channel i reaches n // 2 channels to each side, and is n channels long. What if
        there are not as many?""",
        """first is at least 0: max(0, …). last is one beyond the last channel, as in every slice, and at
        most C.""",
        """first = max(0, i - n // 2), last = min(C, i + n // 2 + 1), y = x / s**beta.""",
    ],
    wrong=[
        (
            "max(0, i - n // 2)",
            "i - n // 2",
            """the first window begins at a negative index, and that counts from the end in Python: the slice
            is empty or wrong. Cut the window off at 0.""",
        ),
        (
            "min(C, i + n // 2 + 1)",
            "min(C, i + n // 2)",
            """the window is one channel short: a slice ends *before* its second number, so last is i + n //
            2 + 1.""",
        ),
        (
            _from_i,
            """your window begins at channel i; channel i stands in its middle: i − n // 2 is the first.""",
        ),
        (
            "(x[first:last] ** 2).sum(axis=0)",
            "x[first:last].sum(axis=0)",
            """the sum is over squares; plain activities would cancel each other.""",
        ),
        (
            "(x[first:last] ** 2).sum(axis=0)",
            "(last - first) * x[i] ** 2",
            """the sum runs over the neighbours' activities x_j, and yours adds up x_i itself again and
            again: then nobody competes with anybody.""",
        ),
        (
            "alpha * (",
            "alpha / n * (",
            """that is the 2012 code's α/n. The formula here is the paper's, with α; the next section is
            about the two.""",
        ),
        (
            "x / s**beta",
            "x * s**beta",
            """y is multiplied by s^β: loud neighbours would make it louder.  It is divided.""",
        ),
        (
            "x / s**beta",
            "(x / s) ** beta",
            """x is raised to the power as well, and that is NaN where x is negative: x / s**beta.""",
        ),
        (
            "x / s**beta",
            "x / s",
            """the power β is missing: y = x / s^β.""",
        ),
    ],
)
def lrn(x, n, k, alpha, beta):
    """y = x / s^β, s = k + α Σ x² over n channels (n odd).  x (C,H,W,N) → y, s."""
    C = len(x)
    s = np.full_like(x, k)
    for i in range(C):
        first = max(0, i - n // 2)
        last = min(C, i + n // 2 + 1)
        s[i] += alpha * (x[first:last] ** 2).sum(axis=0)
    y = x / s**beta
    return y, s


def _lrn_backward_cases(rng):
    cases = []
    for x, n, k, alpha, beta in _lrn_cases(rng):
        _, s = lrn(x, n, k, alpha, beta)
        cases.append((rng.standard_normal(x.shape).astype(x.dtype), x, s, n, alpha, beta))
    return cases


@hole(
    cases=_lrn_backward_cases,
    hints=[
        """Read the formula for dx_i from left to right: its first term is `direct[i]`, what stands under the
        sum is `ratio`, and the sum runs over the windows that hold i.""",
        """direct = dy / s**beta.  ratio = dy · x / s^(β+1), for all channels at once.""",
        """dx[i] = direct[i] - 2 * alpha * beta * x[i] * ratio[windows].sum(axis=0).""",
    ],
    wrong=[
        (
            "direct[i] - 2 * alpha * beta * x[i] * ratio[windows].sum(axis=0)",
            "direct[i]",
            """only the way through the numerator is there, as if s were a constant. x_i stands in the sums
            s_j of its neighbours too.""",
        ),
        (
            "2 * alpha",
            "alpha",
            """in the second term the 2 is missing: the derivative of x_i² is 2 x_i.""",
        ),
        (
            "* x[i] * ratio[windows].sum(axis=0)",
            "* (x[windows] * ratio[windows]).sum(axis=0)",
            """in the second term stands x_j under the sum where x_i belongs before it: ∂s_j/∂x_i is 2α x_i,
            the same for all windows j.""",
        ),
        (
            "ratio[windows].sum(axis=0)",
            "ratio[i]",
            """you look at channel i's own window only. It is heard in the windows of its neighbours as well:
            sum over all of them.""",
        ),
        (
            "dy * x / s ** (beta + 1)",
            "dy * x / s**beta",
            """in the second term the power of s has not become one less: the derivative of s^−β is −β
            s^(−β−1).""",
        ),
        (
            "direct[i] - 2",
            "direct[i] + 2",
            """the second term has the wrong sign: louder neighbours make y smaller.""",
        ),
        (
            "alpha * beta",
            "alpha",
            """in the second term β is missing: the derivative of s^−β is −β s^(−β−1).""",
        ),
    ],
)
def lrn_backward(dy, x, s, n, alpha, beta):
    """dx of y = x / s^β, s = k + α Σ x² over n channels (n odd).  All arrays (C,H,W,N)."""
    direct = dy / s**beta
    ratio = dy * x / s ** (beta + 1)
    dx = np.empty_like(x)
    for i in range(len(x)):
        windows = slice(max(0, i - n // 2), i + n // 2 + 1)  # those that hold channel i
        dx[i] = direct[i] - 2 * alpha * beta * x[i] * ratio[windows].sum(axis=0)
    return dx
