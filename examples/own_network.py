"""A network of your own: declared, trained, described.  `tinyalex train --network` takes this file, too."""

import numpy as np

from tinyalex.data import shapes
from tinyalex.data.loader import InMemory
from tinyalex.measure.describe import describe
from tinyalex.models import Network
from tinyalex.nn import Conv2d, Linear, MaxPool
from tinyalex.optim import SGD
from tinyalex.train import fit

network = Network(
    [
        Conv2d(16, 5, stride=2, pad=2, activation="relu", std=0.004),
        MaxPool(3, 2),
        Conv2d(32, 3, pad=1, activation="relu", std=0.12),
        MaxPool(3, 2),
        Linear(10, std=0.05),
    ],
    input=(3, 32, 32),
)


def main():
    """Train it on shapes for four epochs."""
    rng = np.random.default_rng(0)
    net = network.build(rng=rng)
    print(net)

    batches = InMemory(shapes.make(1000, rng), batch=20)
    errors = []
    fit(
        net, SGD(net, rate=0.0003), lambda epoch, start: batches.epoch(rng), batches.steps, epochs=4,
        end_epoch=lambda place: errors.append(place.means().error),
    )  # fmt: skip
    print("training error of each epoch:", np.round(errors, 2))
    assert errors[-1] < 0.8 < 0.85 < errors[0]

    print(f"{describe(network).total.multiply_adds:,} multiply-adds for a picture")
    assert describe(network).total.parameters == sum(w.params[k].size for _, w, k in net.parameters())


if __name__ == "__main__":
    main()
