"""Data parallelism: two ranks, half of each batch each, make the step that one rank makes."""

import numpy as np

from tinyalex.comm import launch
from tinyalex.data import shapes
from tinyalex.data.loader import InMemory
from tinyalex.models import make
from tinyalex.optim import SGD
from tinyalex.train import train_step

pictures = shapes.make(96, np.random.default_rng(0))


def rank(comm):
    """What every rank runs: the whole network, its part of each batch."""
    net = make("cifar4").build(comm, np.random.default_rng(1), np.float64, parallel="data")
    optimizer = SGD(net, rate=0.001, momentum=0.9)
    batches = InMemory(pictures, comm, batch=32, dtype=np.float64)
    for images, labels in batches.epoch(np.random.default_rng(2)):
        train_step(net, optimizer, images, labels)
    received = sum(comm.ledger.values())
    return {name: layer.params[key] for name, layer, key in net.parameters()}, received


((one, _),) = launch(rank, "cpu:0")
(first, received), (second, _) = launch(rank, "cpu:0,cpu:1")
for name, w in one.items():
    np.testing.assert_allclose(first[name], w, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(first[name], second[name])
print(f"one rank and two agree; each of two received {received / 3:,.0f} bytes per step")
