"""Lesson 13: AlexNet."""

import numpy as np

from tinyalex.lessons.cases import columns_far_apart, sizes
from tinyalex.lessons.checks import hole


def _count_cases(rng):
    cases = [(96, 3, 11, 55, 1), (10, 20, 1, 1, 1)]
    for groups in (2, 3):
        f, c, K, side = sizes(rng, (2, 9), (2, 9), (3, 9), (3, 9))
        cases.append((groups * f, groups * c, K, side, groups))
    return cases


def _view_cases(rng):
    views, K, N = sizes(rng, (3, 10), (3, 5), (2, 6))
    far = np.stack([columns_far_apart(rng, 4, 5) for _ in range(3)])
    return [(3 * rng.standard_normal((views, K, N)),), (rng.standard_normal((K, views, 1)),), (far,)]


@hole(
    cases=_count_cases,
    hints=[
        """A kernel reads C/groups maps, and in each of them K×K pixels. There are F kernels.""",
        """Every weight is used once at every place of the output, and there are side × side of them; but it
        is one parameter, however often it is used.""",
        """weights = F * C // groups * K * K, parameters = weights + F, neurons = F * side**2, multiply_adds
        = weights * side**2.""",
    ],
    wrong=[
        (
            "F * (C // groups) * K * K",
            "F * C * K * K",
            """a kernel reads the maps of its own group only: C // groups of them.""",
        ),
        (
            "weights + F",
            "weights",
            """the biases are missing: one for each kernel.""",
        ),
        (
            "weights + F",
            "weights * side**2 + F",
            """you count each weight again at every place of the output: those are connections. A convolution
            uses the same weights everywhere; conv1 has 34,944 parameters, not 105 million.""",
        ),
        (
            "weights * side**2",
            "weights",
            """multiply_adds counts one place only; the weights are used at all side × side places.""",
        ),
        (
            "F * side**2",
            "side**2",
            """neurons counts one map; each of the F kernels makes one.""",
        ),
        (
            "F * side**2",
            "C * side**2",
            """neurons counts the maps that are read, C; the output has F.""",
        ),
    ],
)
def count(F, C, K, side, groups):
    """A convolution, side×side outputs → (parameters, neurons, multiply_adds)."""
    weights = F * (C // groups) * K * K
    parameters = weights + F
    neurons = F * side**2
    multiply_adds = weights * side**2
    return parameters, neurons, multiply_adds


def _mean_logits(logits):
    z = logits.mean(axis=0)
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


def _geometric(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    p = np.exp(np.log(e / e.sum(axis=1, keepdims=True)).mean(axis=0))
    return p


@hole(
    cases=_view_cases,
    hints=[
        """Two steps: a softmax within each view, then a mean over the views. Which axis is which?""",
        """Axis 0 are the views, axis 1 the classes, axis 2 the pictures. keepdims=True keeps the axis that
        was summed, so that the division fits.""",
        """e = e / e.sum(axis=1, keepdims=True), and p = e.mean(axis=0).""",
    ],
    wrong=[
        (
            "e.mean(axis=0)",
            "e.sum(axis=0)",
            """the views are added, so the probabilities of a picture sum to the number of views: take the
            mean.""",
        ),
        (
            "e.sum(axis=1, keepdims=True)",
            "e.sum(axis=0, keepdims=True)",
            """you divide by the sum over the views; the probabilities of the *classes*, axis 1, sum to
            1.""",
        ),
        (
            _mean_logits,
            """you average the logits and take one softmax; averaged are the softmax outputs.""",
        ),
        (
            _geometric,
            """that is the geometric mean of the probabilities; the paper's is the plain one.""",
        ),
        (
            "e / e.sum(axis=1, keepdims=True)",
            "e",
            """the views are averaged before each is made to sum to 1, so a view with large e counts
            more.""",
        ),
    ],
)
def ten_view_prediction(logits):
    """Mean of the softmax outputs.  logits (views, K, N) → probabilities (K, N)."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    e = e / e.sum(axis=1, keepdims=True)
    p = e.mean(axis=0)
    return p
