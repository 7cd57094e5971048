"""Lesson 3: checking a gradient."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _bumps(x):
    return float((np.sin(x) * np.arange(1, x.size + 1).reshape(x.shape)).sum() + x.prod())


def _slope_cases(rng):
    shapes = sizes(rng, (2, 4), (2, 4)), sizes(rng, (3, 5)), (1, *sizes(rng, (2, 3), (2, 3)))
    steps = 0.1, 0.01, 0.2  # coarse: what is one-sided differs by far more than rounding
    return [(_bumps, rng.standard_normal(shape), h) for shape, h in zip(shapes, steps, strict=True)]


@hole(
    cases=_slope_cases,
    hints=[
        """`step` is an array that is h at one element and 0 elsewhere: x + step has only that element
        moved.  Which two values of f do you need?""",
        """f(x + step) and f(x - step).  How far apart are these two points?""",
        """slope[index] = (f(x + step) - f(x - step)) / (2 * h)""",
    ],
    wrong=[
        (
            "(f(x + step) - f(x - step)) / (2 * h)",
            "(f(x + step) - f(x)) / h",
            """that is the one-sided slope, whose error shrinks only with h.  Move to both sides and divide
            by 2h.""",
        ),
        (
            "/ (2 * h)",
            "/ h",
            """everything is twice as large as it should be: the two points x + step and x − step are 2h
            apart, not h.""",
        ),
        (
            "(f(x + step) - f(x - step)) / (2 * h)",
            "(f(x + h) - f(x - h)) / (2 * h)",
            """x + h moves *all* elements at once, so every slope is the sum of all of them.  Move the one at
            index: x + step.""",
        ),
        (
            "(f(x + step) - f(x - step))",
            "(f(x - step) - f(x + step))",
            """the sign is the other way round: the value further to the right comes first.""",
        ),
    ],
)
def numeric_gradient(f, x, h):
    """Slope of f, array → number, in each element of x, by central differences."""
    slope = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        slope[index] = (f(x + step) - f(x - step)) / (2 * h)
    return slope


def _square(x):
    return x[:2] * x[1:]


def _square_backward(dy, x):
    dx = np.zeros_like(x)
    dx[:2] += dy * x[1:]
    dx[1:] += dy * x[:2]
    return dx


def _exp(x):
    return np.exp(x)


def _exp_backward(dy, x):
    return dy * np.exp(x)


def _slopes_cases(rng):
    rows, columns = sizes(rng, (2, 5), (2, 5))
    x, dy, u = rng.standard_normal((3, rows, columns))
    y, du = rng.standard_normal((2, 3, 4))
    return [
        (_exp, _exp_backward, x, dy, u, 0.1),
        (_square, _square_backward, y, rng.standard_normal((2, 4)), du, 0.01),
    ]


@hole(
    cases=_slopes_cases,
    hints=[
        """L(x) is the sum of dy times forward(x), element by element.  You need it at two points.""",
        """The points are x + h·u and x − h·u.  The other side is ⟨g, u⟩ with g = backward(dy, x): also a sum
        of products.""",
        """measured = (dy * (forward(x + h * u) - forward(x - h * u))).sum() / (2 * h), and
        claimed = (backward(dy, x) * u).sum().""",
    ],
    wrong=[
        (
            "(dy * (forward(x + h * u) - forward(x - h * u)))",
            "(forward(x + h * u) - forward(x - h * u))",
            """measured leaves dy out: it is the slope of the plain sum of y, as if dy were 1 everywhere.
            L is the sum of dy · y.""",
        ),
        (
            "/ (2 * h)",
            "/ h",
            """measured is twice as large as it should be: the two points are 2h apart.""",
        ),
        (
            "(backward(dy, x) * u).sum()",
            "backward(dy, x).sum()",
            """claimed is the sum of the gradient: the slope in the direction (1, 1, …), not along u.
            Multiply by u before the sum.""",
        ),
        (
            "(backward(dy, x) * u).sum()",
            "(backward(np.ones_like(dy), x) * u).sum()",
            """claimed gives backward a gradient of ones.  It has to get the same dy that is in L.""",
        ),
        (
            "(dy * (forward(x + h * u) - forward(x - h * u))).sum() / (2 * h)",
            "(dy * (forward(x + h * u) - forward(x))).sum() / h",
            """measured is one-sided: go from x − h·u to x + h·u, and divide by 2h.""",
        ),
    ],
)
def slopes(forward, backward, x, dy, u, h):
    """Slope of L = <dy, forward(x)> along u, measured, and as backward(dy, x) claims."""
    measured = (dy * (forward(x + h * u) - forward(x - h * u))).sum() / (2 * h)
    claimed = (backward(dy, x) * u).sum()
    return measured, claimed
