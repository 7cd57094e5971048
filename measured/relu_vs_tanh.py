"""Figure 1 of the paper in forty lines: the same four-layer network with ReLU and with tanh.

    python measured/relu_vs_tanh.py

trains both on the `shapes` set that is drawn by code, one rate for each, and prints the training error after
every epoch.  `tinyalex relu-vs-tanh` does the whole experiment: it searches the rates and draws the figure.
"""

import numpy as np

from tinyalex.comm import launch
from tinyalex.data import shapes
from tinyalex.devices import parse
from tinyalex.models.cifar import figure1_net
from tinyalex.optim import SGD
from tinyalex.train import InMemory, data_parallel_step

BATCH, EPOCHS, RATES = 128, 6, {"relu": 0.01, "tanh": 0.01}


def train(comm, neuron, pictures):
    """Every rank runs this on its part of each batch; returns the training error of every epoch."""
    net = figure1_net(neuron, comm, np.random.default_rng(0))  # the same weights on every rank
    optimizer = SGD(net, RATES[neuron], momentum=0.9)
    batches = InMemory(pictures, comm, BATCH)
    errors = []
    for epoch in range(EPOCHS):
        results = [
            data_parallel_step(net, optimizer, comm, images, labels)
            for images, labels in batches.epoch(np.random.default_rng(epoch))
        ]
        errors.append(np.mean([result.error for result in results]))
        if comm.rank == 0:
            print(f"{neuron}  epoch {epoch + 1}  training error {errors[-1]:.1%}", flush=True)
    return errors


if __name__ == "__main__":
    pictures = shapes.make(4_000, np.random.default_rng(0))
    curves = {
        neuron: launch(lambda comm, n=neuron: train(comm, n, pictures), parse("cpu:0"))[0] for neuron in RATES
    }
    assert curves["relu"][-1] < 0.5, "ReLU should have learned most of the shapes by now"
