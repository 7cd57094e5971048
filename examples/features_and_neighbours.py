"""Features of a trained network, and the pictures whose features are nearest (paper, section 6.1)."""

import numpy as np

from tinyalex.data import shapes
from tinyalex.data.loader import InMemory
from tinyalex.look.retrieval import nearest
from tinyalex.nn import Conv2d, Linear, MaxPool, Sequential
from tinyalex.optim import SGD
from tinyalex.train import fit

rng = np.random.default_rng(1)
layers = [
    Conv2d(16, 5, stride=2, pad=2, activation="relu", std=0.004),
    MaxPool(3, 2),
    Conv2d(32, 3, pad=1, activation="relu", std=0.1),
    MaxPool(3, 2),
    Linear(48, activation="relu", std=0.06, name="hidden"),
    Linear(10, std=0.05),
]
net = Sequential(layers, (3, 32, 32), rng=rng)
train, test = shapes.make(1200, np.random.default_rng(0)), shapes.make(200, np.random.default_rng(2))
batches = InMemory(train, batch=20)
fit(net, SGD(net, 0.001, 0.9, 0.0005), lambda epoch, start: batches.epoch(rng), batches.steps, epochs=8)


def hidden(pictures):
    """The hidden layer's outputs (48, N)."""
    return net.forward((pictures.images - batches.mean).astype(np.float32), last="hidden")


indices, distances = nearest(hidden(test), hidden(train), k=6)  # both (6, 200), the nearest first
by_features = (train.labels[indices] == test.labels).mean()
pixels = [x.images.reshape(-1, len(x.labels)).astype(float) for x in (test, train)]
by_pixels = (train.labels[nearest(*pixels, k=6)[0]] == test.labels).mean()
print(f"neighbours of the same class: {by_features:.0%} by features, {by_pixels:.0%} by pixels")
assert by_features > 1.5 * by_pixels
