"""A layer of your own: a declaration, a pair of functions, and the proof that its gradient is right."""

from dataclasses import dataclass

import numpy as np

from tinyalex.gradcheck import GradientError, check_layer
from tinyalex.nn import Layer


def leaky_forward(x, slope):
    """y = x where x > 0, else slope·x."""
    return np.where(x > 0, x, slope * x), (x > 0, slope)


def leaky_backward(dy, cache):
    """dx = dy where x > 0, else slope·dy."""
    positive, slope = cache
    return np.where(positive, dy, slope * dy)


@dataclass(repr=False)
class LeakyReLU(Layer):
    """y = max(x, slope·x)."""

    slope: float = 0.01

    prefix = "leaky"
    pair = leaky_forward, leaky_backward


rng = np.random.default_rng(0)
layer = LeakyReLU(0.1).build((4, 5, 6))
x = rng.standard_normal((4, 5, 6, 3))
report = check_layer(layer, x, rng)
print(layer, report.errors)
assert report.errors["x"] < 1e-6

wrong = LeakyReLU(0.1).build((4, 5, 6))
wrong.pair = leaky_forward, lambda dy, cache: np.where(cache[0], dy, dy)  # forgets the slope
try:
    check_layer(wrong, x, rng)
except GradientError as error:
    print("rejected:", error)
else:
    raise AssertionError("a wrong backward passed")
