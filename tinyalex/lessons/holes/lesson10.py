"""Lesson 10: momentum, weight decay, initialisation."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _sgd_cases(rng):
    cases = []
    for shape, dtype in ((sizes(rng, (2, 6), (2, 6)), float), ((1,), float), ((2, 3, 4), np.float32)):
        rate, momentum, decay = (float(rng.uniform(*ends)) for ends in ((0.1, 0.3), (0.7, 0.9), (0.4, 0.6)))
        cases.append((*rng.standard_normal((3, *shape)).astype(dtype), rate, momentum, decay))
    return cases


@hole(
    cases=_sgd_cases,
    hints=[
        """Copy the paper's two lines: v has three terms, and w then takes the *new* v.""",
        """The rate stands in two of the three terms: with the gradient and with the decay.""",
        """v = momentum * v - decay * rate * w - rate * grad, then w = w + v.""",
    ],
    wrong=[
        (
            "- decay * rate * w",
            "- decay * w",
            """the decay is not multiplied by the rate: in the paper it is 0.0005·ε·w. Without ε it would go
            on at full strength when the rate is lowered.""",
        ),
        (
            "- decay * rate * w",
            "+ decay * rate * w",
            """the decay has the wrong sign: it pulls w towards 0.""",
        ),
        (
            "momentum * v - decay * rate * w - rate * grad",
            "momentum * v - (1 - momentum) * (decay * rate * w + rate * grad)",
            """you average: (1 − momentum) times the new push. The paper adds the whole push, so that a
            steady gradient moves the weight 1/(1 − momentum) times as far.""",
        ),
        (
            "momentum * v - decay * rate * w - rate * grad\n    w = w + v",
            "momentum * v + decay * w + grad\n    w = w - rate * v",
            """that is PyTorch's form, which multiplies v by the rate at the end. In the paper the rate is
            in v already: when it drops, the old velocity stays as it was.""",
        ),
        (
            "w + v",
            "w - v",
            """the velocity already points downhill: −ε·gradient is in it. So it is added.""",
        ),
        (
            "- rate * grad",
            "- grad",
            """the gradient is not multiplied by the rate.""",
        ),
        (
            "- decay * rate * w",
            "",
            """the decay is missing.""",
        ),
        (
            "momentum * v - decay",
            "v - decay",
            """the old velocity is not multiplied by the momentum: it would never fade.""",
        ),
    ],
)
def sgd_step(w, v, grad, rate, momentum, decay):
    """The paper's rule for one array.  → (w, v), both new.  float32 stays float32."""
    v = momentum * v - decay * rate * w - rate * grad
    w = w + v
    return w, v


@hole(
    cases=lambda rng: [(int(rng.integers(20, 80)), 0.3), (2304, float(rng.uniform(0.005, 0.02))), (9, 2.5)],
    hints=[
        """The formula above is about squares: mean y² = ½ D σ² mean x². The rms is its square root.""",
        """Gain 1 means ½ D σ² = 1; solve for σ.""",
        """gain = np.sqrt(D / 2) * std, std_for_one = np.sqrt(2 / D).""",
    ],
    wrong=[
        (
            "np.sqrt(D / 2) * std",
            "D / 2 * std**2",
            """that is the factor of the squares; asked is the factor of the size, its square root.""",
        ),
        (
            "np.sqrt(D / 2) * std",
            "np.sqrt(D) * std",
            """the ½ is missing in the gain: ReLU lets half of the squares through.""",
        ),
        (
            "np.sqrt(2 / D)",
            "np.sqrt(1 / D)",
            """the 2 is missing in the σ: for a layer without ReLU it would be √(1/D).""",
        ),
        (
            "np.sqrt(2 / D)",
            "2 / D",
            """that is σ², the variance; the standard deviation is its root.""",
        ),
    ],
)
def relu_gain(D, std):
    """How a ReLU layer of D inputs, w ~ N(0, std²), b = 0, scales the rms.  → (gain, std for 1)."""
    gain = np.sqrt(D / 2) * std
    std_for_one = np.sqrt(2 / D)
    return gain, std_for_one
