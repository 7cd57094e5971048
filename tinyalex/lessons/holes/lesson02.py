"""Lesson 2: a linear classifier."""

import numpy as np

from tinyalex.lessons.cases import columns_far_apart, sizes
from tinyalex.lessons.checks import hole


def _softmax_cases(rng):
    K, N = sizes(rng, (3, 6), (3, 6))
    far = columns_far_apart(rng, *sizes(rng, (3, 4), (5, 6)))
    return [(3 * rng.standard_normal((K, N)),), (far,), (rng.standard_normal((K, 1)),)]


def _loss_cases(rng):
    K, N = sizes(rng, (3, 6), (3, 6))
    far = columns_far_apart(rng, *sizes(rng, (3, 4), (5, 6)))
    return [
        (rng.standard_normal((K, N)), rng.integers(0, K, N)),
        (rng.standard_normal((N, 1)), rng.integers(0, N, 1)),
        (far, far.argmax(axis=0)),  # where a label's probability is 0 in float64, no loss can be told
    ]


def _linear_cases(rng):
    cases = []
    for K, D, N in (sizes(rng, *[(2, 6)] * 3), sizes(rng, *[(2, 6)] * 3), (*sizes(rng, (2, 5), (2, 5)), 1)):
        dz, x, w = (rng.standard_normal(shape) for shape in ((K, N), (D, N), (K, D)))
        cases.append((dz, x, w))
    return cases


def _along_the_rows(z):
    return softmax(z.T).T


@hole(
    cases=_softmax_cases,
    hints=[
        """Adding the same number to all logits of a picture changes nothing.  Which number makes sure that
        exp gets nothing large, and that at least one exponential is not 0?""",
        """Subtract each column's largest logit.  The classes are axis 0.""",
        """e = np.exp(z - z.max(axis=0)), and then each column is divided by its sum: e.sum(axis=0).""",
    ],
    wrong=[
        (
            "np.exp(z - z.max(axis=0))",
            "np.exp(z)",
            """right for small logits, but exp(1000) is infinite, exp(−1000) is 0, and inf/inf and 0/0 are
            nan.  Subtract each picture's largest logit before exp: it cancels.""",
        ),
        (
            "z.max(axis=0)",
            "z.max()",
            """you subtract the largest logit of the whole batch.  Where a picture's own logits are all far
            below it, all its exponentials are 0, and 0/0 is nan: subtract each column's own maximum.""",
        ),
        (
            _along_the_rows,
            """the rows add up to 1: you share out each class among the pictures.  Each *picture's*
            probabilities, a column, have to add up to 1: maximum and sum over axis 0.""",
        ),
        (
            "e.sum(axis=0)",
            "e.sum(axis=1, keepdims=True)",
            """the rows add up to 1: you share out each class among the pictures.  Each *picture's*
            probabilities, a column, have to add up to 1: sum over axis 0.""",
        ),
        (
            "np.exp(z - z.max(axis=0))",
            "z - z.min(axis=0)",
            """no exp: shares of the scores themselves are positive and add up to 1, too, but one logit more
            has to be a factor e in the odds.""",
        ),
    ],
)
def softmax(z):
    """Probabilities over the classes, axis 0.  z (K,N) → p (K,N)."""
    e = np.exp(z - z.max(axis=0))
    p = e / e.sum(axis=0)
    return p


@hole(
    cases=_loss_cases,
    hints=[
        """Multiplying by onehot and summing picks, from each column, the number at the label.  And the
        gradient stands above, at the end of the derivation.""",
        """loss: the mean over the pictures of −log p at the label.  dz: p less onehot,
        over N.""",
        """loss = -(onehot * log_p).sum() / N, and dz = (p - onehot) / N.""",
    ],
    wrong=[
        (
            "(p - onehot) / N",
            "p - onehot",
            """dz is N times too large: the loss is a mean over N pictures, and each of them has a share of
            1/N in it.""",
        ),
        (
            "(p - onehot) / N",
            "(onehot - p) / N",
            """dz has the other sign.  It is the gradient of the log-probability, which the paper maximizes;
            of the loss, its negative, it is p − onehot.""",
        ),
        (
            "(p - onehot) / N",
            "p / N",
            """dz lacks the label: p comes from the log of the sum, and −z at the label gives −1 there.""",
        ),
        (
            "-(onehot * log_p).sum() / N",
            "-log_p.sum() / N",
            """your loss adds up −log p of all classes.  Only the label's counts.""",
        ),
        (
            "(onehot * log_p)",
            "(onehot * np.log(p))",
            """where p is 0 its log is −∞, and 0 · ∞ is nan: take log_p, which was made without dividing.""",
        ),
        (
            "-(onehot * log_p).sum() / N",
            "-(onehot * log_p).sum()",
            """your loss is the sum over the pictures; it has to be their mean, as dz says too.""",
        ),
        (
            "-(onehot * log_p).sum() / N",
            "1 - (onehot * p).sum() / N",
            """your loss is one minus the mean probability of the label: without the log, p − onehot is not
            its gradient, and a picture that is quite wrong has almost no slope.""",
        ),
    ],
)
def loss_and_gradient(z, labels):
    """Mean loss, and dz = dL/dz shaped like z.  z (K,N), labels (N,) integers."""
    N = len(labels)
    p = softmax(z)
    shifted = z - z.max(axis=0)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=0))
    onehot = np.eye(len(z))[:, labels]
    loss = -(onehot * log_p).sum() / N
    dz = (p - onehot) / N
    return loss, dz


@hole(
    cases=_linear_cases,
    hints=[
        """Write down the three shapes that must come out: (K, D), (K,), (D, N).  You have (K, N), (D, N) and
        (K, D); of two matrices, turn round the one that has to be.""",
        """The axis over which is summed must be the inner one of the product: for dw the pictures N, for dx
        the classes K.  For db sum over the pictures, axis 1.""",
        """dw = dz @ x.T, db = dz.sum(axis=1), dx = w.T @ dz.""",
    ],
    wrong=[
        (
            "dz @ x.T",
            "dz @ x.T / dz.shape[1]",
            """dw is divided by N once more.  The 1/N of the mean loss is in dz already.""",
        ),
        (
            "dz.sum(axis=1)",
            "dz.mean(axis=1)",
            """db is a mean: b[c] is added to logit c of every picture, and the contributions add up.  (The
            1/N is in dz already.)""",
        ),
        (
            "dz.sum(axis=1)",
            "dz.sum(axis=0)",
            """db has one number a picture; it has to have one a class, like b: sum over the pictures, axis
            1.""",
        ),
        (
            "w.T @ dz",
            "w.T @ np.sign(dz)",
            """dx looks only at the signs of dz, not at its numbers.""",
        ),
        (
            "dz @ x.T",
            "x @ dz.T",
            """dw is transposed: a weight's gradient lies where the weight lies, so dw is (K, D) like w.""",
        ),
    ],
)
def linear_gradients(dz, x, w):
    """Gradients of z = w x + b.  dz (K,N), x (D,N), w (K,D) → dw (K,D), db (K,), dx (D,N)."""
    dw = dz @ x.T
    db = dz.sum(axis=1)
    dx = w.T @ dz
    return dw, db, dx
