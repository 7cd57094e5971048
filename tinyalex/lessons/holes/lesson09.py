"""Lesson 9: dropout."""

from tinyalex.lessons.checks import hole


def _case(rng, shape, keep, train, inverted):
    return rng.standard_normal(shape), rng.random(shape) < keep if train else None, keep, train, inverted


@hole(
    cases=lambda rng: [
        _case(rng, (4, 3), 0.8, True, False),
        _case(rng, (5, 2), 0.8, False, False),
        _case(rng, (3, 6), 0.7, True, True),
        _case(rng, (2, 5), 0.7, False, True),
    ],
    hints=[
        """Take the four entries of the table one by one; `a if inverted else b` chooses between two.""",
        """In training both multiply by the mask, and only the inverted scaling divides as well. At test only
        2012's does anything.""",
        """train: x * mask / keep if inverted else x * mask.  Test: x if inverted else x * keep.""",
    ],
    wrong=[
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
    """Both scalings.  x any shape, mask shaped like x (None at test), keep: P(kept) → y."""
    if train:
        return x * mask / keep if inverted else x * mask
    return x if inverted else x * keep


@hole(
    cases=lambda rng: [
        (rng.standard_normal((5, 6)), rng.random((5, 6)) < 0.7, 0.7, True),
        (rng.standard_normal((4, 7)), rng.random((4, 7)) < 0.6, 0.6, False),
    ],
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
    """dx of dropout in training.  dy and mask (the one of forward): one shape."""
    dx = dy * mask / keep if inverted else dy * mask
    return dx
