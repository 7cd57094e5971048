"""How the cases of a hole are drawn: what they must have is fixed, all else comes from the generator.

Two sizes that are equal hide an exchange of their axes, and a batch of one hides what mixes its pictures; so
sizes are all different, and a batch of one is a case beside others, never the only one.
"""

import numpy as np


def sizes(rng, *ranges):
    """Whole numbers, all different, one from each range (low, high), both ends included."""
    while True:
        drawn = [int(rng.integers(low, high + 1)) for low, high in ranges]
        if len(set(drawn)) == len(drawn):
            return drawn


def mask(rng, shape, keep):
    """True where a unit is kept: some are, some are not, in the first row as in the last."""
    while True:
        drawn = rng.random(shape) < keep
        if all(row.any() and not row.all() for row in (drawn[0], drawn[-1])):
            return drawn


def columns_far_apart(rng, K, N):
    """Logits (K, N) of which exp overflows or vanishes.

    A column stands high, one low, one has both, and one its smallest number on top.
    """
    z = rng.standard_normal((K, N))
    z[:, 0] += 1000
    z[:, 1] -= 1000
    z[:, 2] += 1000 * rng.permutation(np.linspace(-1, 1, K))
    z[:, 3] = np.sort(z[:, 3])
    z[-1, 3] += 1000
    z[0, 3] -= 1000
    return z
