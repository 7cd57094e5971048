"""Lesson 9: dropout."""

import numpy as np

from tinyalex.lessons.cases import mask, sizes
from tinyalex.lessons.checks import hole


def _dropout_cases(rng):
    cases = []
    for keep, train, inverted in (
        (0.8, True, False),
        (0.8, False, False),
        (0.7, True, True),
        (0.7, False, True),
    ):
        shape = sizes(rng, (3, 6), (3, 6))
        cases.append(
            (rng.standard_normal(shape), mask(rng, shape, keep) if train else None, keep, train, inverted)
        )
    x = rng.standard_normal((3, 5, 4)).astype(np.float32)  # has to stay float32
    return [*cases, (x, mask(rng, x.shape, 0.6), 0.6, True, True), (x, None, 0.6, False, False)]


def _dropout_backward_cases(rng):
    cases = []
    for keep, inverted, dtype in ((0.7, True, float), (0.6, False, float), (0.8, True, np.float32)):
        shape = sizes(rng, (4, 7), (4, 7))
        cases.append((rng.standard_normal(shape).astype(dtype), mask(rng, shape, keep), keep, inverted))
    return cases


def _exchanged(x, mask, keep, train, inverted):
    return dropout(x, mask, keep, train, not inverted)


@hole(
    cases=_dropout_cases,
    hints=[
        """Take the four entries of the table one by one; `a if inverted else b` chooses between two.""",
        """In training both multiply by the mask, and only the inverted scaling divides as well. At test only
        2012's does anything.""",
        """train: x * mask / keep if inverted else x * mask.  Test: x if inverted else x * keep.""",
    ],
    wrong=[
        (
            _exchanged,
            """the two scalings are exchanged: the inverted one is that which divides, in training.""",
        ),
        (
            "x * mask / keep if inverted else x * mask",
            "x / keep if inverted else x",
            """the mask is missing: nothing is dropped in training.""",
        ),
        (
            "x if inverted else x * keep",
            "x",
            """2012's scaling is missing at test: without it the layer above hears 1/keep times as much as it
            did in training.""",
        ),
        (
            "x if inverted else x * keep",
            "x if inverted else x * (1 - keep)",
            """at test you multiply by the probability to be dropped; `keep` is the probability to be *kept*,
            and the mean of the mask.""",
        ),
        (
            "x * mask / keep if inverted else x * mask",
            "x * mask",
            """the inverted scaling divides by keep in training: that is what makes its test pass plain.""",
        ),
        (
            "x * mask / keep if inverted else x * mask",
            "x * mask * keep if inverted else x * mask",
            """inverted, you multiply by keep: the mask has made the mean smaller already. Divide, to bring
            it back up.""",
        ),
        (
            "x * mask / keep if inverted else x * mask",
            "x * mask / keep",
            """you scale in training in both conventions; 2012 leaves the kept units as they are and scales
            at test.""",
        ),
        (
            "x if inverted else x * keep",
            "x * keep",
            """inverted, nothing is done at test: the scale was set right in training. Yours is applied
            twice.""",
        ),
        (
            "x * mask / keep if inverted else x * mask",
            "x * ~mask",
            """you drop what should be kept: True in the mask is a kept unit.""",
        ),
    ],
)
def dropout(x, mask, keep, train, inverted):
    """Both scalings.  x any shape, float32 stays so; mask like x (None at test); keep: P(kept) → y."""
    if train:
        return x * mask / keep if inverted else x * mask
    return x if inverted else x * keep


@hole(
    cases=_dropout_backward_cases,
    hints=[
        """y is x times a constant, for each number one. What is the derivative of a constant times x?""",
        """The constant is mask / keep in the inverted scaling and mask in 2012's, as in forward.""",
        """dx = dy * mask / keep if inverted else dy * mask.""",
    ],
    wrong=[
        (
            "dy * mask / keep if inverted else dy * mask",
            "dy / keep if inverted else dy",
            """the mask is missing: a unit that was silenced had no part in the loss and gets no
            gradient.""",
        ),
        (
            "dy * mask / keep if inverted else dy * mask",
            "dy * mask",
            """inverted, forward divided by keep, so the gradient is divided by keep too.""",
        ),
        (
            "dy * mask / keep if inverted else dy * mask",
            "dy * mask / keep",
            """2012's forward did not divide by keep in training, so its backward does not either.""",
        ),
        (
            "dy * mask / keep if inverted else dy * mask",
            "dy * mask * keep if inverted else dy * mask",
            """you undo the forward scaling. Backward multiplies by the *same* factor: y = a x has the
            derivative a, not 1/a.""",
        ),
    ],
)
def dropout_backward(dy, mask, keep, inverted):
    """dx of dropout in training.  dy and mask (the one of forward): one shape.  float32 stays float32."""
    dx = dy * mask / keep if inverted else dy * mask
    return dx
