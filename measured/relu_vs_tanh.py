"""Figure 1 of the paper in forty lines: the same four-layer network with ReLU and with tanh.

    python measured/relu_vs_tanh.py

trains both on the `shapes` set that is drawn by code, one rate for each, and prints the training error after
every epoch.  `tinyalex relu-vs-tanh` does the whole experiment: it searches the rates and draws the figure.
"""

import numpy as np

from tinyalex.data import shapes
from tinyalex.data.loader import InMemory
from tinyalex.models import figure1
from tinyalex.optim import SGD
from tinyalex.train import fit

BATCH, EPOCHS, RATES = 128, 6, {"relu": 0.01, "tanh": 0.01}


def train(activation, pictures):
    """Return the training error of every epoch."""
    net = figure1(activation).build(rng=np.random.default_rng(0))
    batches, errors = InMemory(pictures, batch=BATCH), []

    def ended(place):
        errors.append(place.means().error)
        print(f"{activation}  epoch {place.epoch + 1}  training error {errors[-1]:.1%}", flush=True)

    fit(
        net, SGD(net, RATES[activation]), lambda epoch, start: batches.epoch(np.random.default_rng(epoch)),
        batches.steps, EPOCHS, end_epoch=ended,
    )  # fmt: skip
    return errors


if __name__ == "__main__":
    pictures = shapes.make(4_000, np.random.default_rng(0))
    curves = {activation: train(activation, pictures) for activation in RATES}
    assert curves["relu"][-1] < 0.5, "ReLU should have learned most of the shapes by now"
