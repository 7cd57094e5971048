"""Lesson 6: ReLU or tanh."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _neuron_cases(rng, neuron):
    """dy and y: two shapes, one number alone, and float32, which has to stay float32."""
    cases = []
    for shape in (sizes(rng, (2, 5), (2, 5)), sizes(rng, *[(2, 5)] * 3), (1,)):
        dy, x = rng.standard_normal((2, *shape))
        cases.append((dy, neuron(2 * x)))
    dy, x = rng.standard_normal((2, *sizes(rng, (3, 5), (3, 5)))).astype(np.float32)
    return [*cases, (dy, neuron(x))]


@hole(
    cases=lambda rng: _neuron_cases(rng, np.tanh),
    hints=[
        """The slope of tanh is 1 − tanh².  And what is y?""",
        """y is tanh(x) already: the slope is 1 − y², number by number.  The chain rule does the rest.""",
        """dx = dy * (1 - y**2)""",
    ],
    wrong=[
        (
            "1 - y**2",
            "1 - np.tanh(y) ** 2",
            """you take tanh once more: y is the output, tanh(x), already.  The slope is 1 − y².""",
        ),
        (
            "dy * (1 - y**2)",
            "1 - y**2",
            """dy is missing: that is the slope alone.  By the chain rule it multiplies what comes from
            above.""",
        ),
        (
            "1 - y**2",
            "1 - y",
            """the slope is 1 − y², not 1 − y: at y = −1 tanh is as flat as at y = 1.""",
        ),
        (
            "1 - y**2",
            "y * (1 - y)",
            """y·(1 − y) is the slope of the logistic function.  tanh has 1 − y².""",
        ),
    ],
)
def tanh_backward(dy, y):
    """dx of y = tanh(x), from the output y alone.  dy, y: one shape and dtype → dx, the same."""
    dx = dy * (1 - y**2)
    return dx


@hole(
    cases=lambda rng: _neuron_cases(rng, lambda x: np.maximum(x, 0)),
    hints=[
        """Each number is a gate that is open or closed.  Which array says where it was open?""",
        """y > 0 is an array of True and False, and multiplies like 1 and 0.""",
        """dx = dy * (y > 0)""",
    ],
    wrong=[
        (
            "dy * (y > 0)",
            "dy * (y >= 0)",
            """all gates are open: the output of a ReLU is never negative, so y >= 0 is True everywhere.
            Closed are those with y = 0.""",
        ),
        (
            "dy * (y > 0)",
            "dy * y",
            """you multiply by the output itself.  An open gate lets the gradient through unchanged: its
            slope is 1, however large y is.""",
        ),
        (
            "dy * (y > 0)",
            "np.maximum(dy, 0)",
            """that is ReLU applied to the gradient.  What decides is whether the *forward* number was
            positive; the gradient may have any sign.""",
        ),
        (
            "dy * (y > 0)",
            "1.0 * (y > 0)",
            """dy is missing: those are the gates alone.""",
        ),
        (
            "dy * (y > 0)",
            "dy * (y > 0) * (dy > 0)",
            """negative gradients are held back too.  Only the forward pass decides which gates are open.""",
        ),
    ],
)
def relu_backward(dy, y):
    """dx of y = max(0, x), from the output y alone.  dy, y: one shape and dtype → dx, the same."""
    dx = dy * (y > 0)
    return dx
