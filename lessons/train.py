"""Train the network of lesson 0 and write its weights into the package.

python lessons/train.py     about two minutes

Each epoch draws 6,000 shapes of its own; half of them are turned into their negatives, for a thick pen on
paper is darker than what is around it.  The same command gives the same weights, but for what another
machine rounds otherwise.
"""

import numpy as np

from tinyalex.data import shapes
from tinyalex.files import replacing
from tinyalex.lessons import zero
from tinyalex.optim import SGD
from tinyalex.train import train_step

EPOCHS, PICTURES, BATCH = 40, 6000, 50
DROPS = (26, 36)  # the rate is divided by 5 from these epochs on


def drawn(n, rng):
    """What the network is given, (3, 32, 32, n), and the labels."""
    images, labels, _ = shapes.make(n, rng)
    negative = rng.random(n) < 0.5
    return zero.seen(np.where(negative, 255 - images, images)), labels


def main():
    """Train, report each epoch, write the weights."""
    net, rng = zero.NETWORK.build(rng=np.random.default_rng(1)), np.random.default_rng(2)
    test, answers = drawn(2000, np.random.default_rng(3))
    optimizer = SGD(net, rate=0.01, momentum=0.9, decay=0.0005)
    for epoch in range(EPOCHS):
        if epoch in DROPS:
            optimizer.rate /= 5
        x, labels = drawn(PICTURES, rng)
        steps = [
            train_step(net, optimizer, x[..., i : i + BATCH], labels[i : i + BATCH])
            for i in range(0, PICTURES, BATCH)
        ]
        loss, wrong = np.mean(steps, axis=0)
        error = (net.forward(test).argmax(axis=0) != answers).mean()
        print(
            f"epoch {epoch + 1} of {EPOCHS}: loss {loss:.3f}, errors {wrong:.3f}, of new pictures {error:.3f}"
        )
    weights = {
        name: layer.params[key].astype(np.float16)
        for name, layer, key in net.parameters()
    }
    with replacing(zero.WEIGHTS) as file:
        np.savez(file, **weights)


if __name__ == "__main__":
    main()
