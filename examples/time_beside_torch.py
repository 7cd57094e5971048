"""Seconds an epoch of the Figure 1 network, tinyalex beside PyTorch, rounds alternating in one process.

    python examples/time_beside_torch.py [relu|tanh] [rounds]

The same network, batch, optimizer and number of cores; random pictures; a round is 20 training steps of 128,
scaled to the 390 steps of CIFAR-10's 50,000 pictures.  PyTorch is written as people write it.  Needs the
`oracle` extra.
"""

import sys
from time import perf_counter

import numpy as np
import torch
from torch import nn

from tinyalex.comm import launch
from tinyalex.devices import cpu_count, parse
from tinyalex.models.cifar import figure1_net
from tinyalex.optim import SGD
from tinyalex.train import data_parallel_step

BATCH, STEPS, EPOCH = 128, 20, 390


def torch_round(neuron):
    """Return a function that trains for a round and returns its seconds."""
    torch.set_num_threads(cpu_count())
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[neuron]
    net = nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2), nn.MaxPool2d(3, 2, ceil_mode=True), act(),
        nn.Conv2d(32, 32, 5, padding=2), act(), nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(32, 64, 5, padding=2), act(), nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(net.parameters(), 0.001, momentum=0.9)
    x, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def run():
        start = perf_counter()
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), labels)
            loss.backward()
            optimizer.step()
            loss.item()
        return perf_counter() - start

    return run


def tinyalex_round(neuron, devices):
    """As `torch_round`; a round builds its ranks anew, which is not counted."""

    def rank(comm):
        rng = np.random.default_rng(0)
        net = figure1_net(neuron, comm, rng)
        optimizer = SGD(net, 0.001)
        share = BATCH // comm.size
        x, labels = rng.standard_normal((3, 32, 32, share), np.float32), rng.integers(0, 10, share)
        data_parallel_step(net, optimizer, comm, x, labels)  # buffers are made in the first step
        start = perf_counter()
        for step in range(STEPS):
            data_parallel_step(net, optimizer, comm, x, labels, step)
        return perf_counter() - start

    return lambda: max(launch(rank, devices))


def main():
    """Print the medians, their spread and the ratio."""
    neuron = sys.argv[1] if len(sys.argv) > 1 else "relu"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    runs = {"tinyalex": tinyalex_round(neuron, parse("cpu", BATCH)), "PyTorch": torch_round(neuron)}
    seconds = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            seconds[name].append(run() * EPOCH / STEPS)
    for name, found in seconds.items():
        found = found[1:]  # the first round warms up
        spread = f"{min(found):.1f} to {max(found):.1f}"
        print(f"{name:9} {neuron}: {np.median(found):5.1f} s an epoch, median of {rounds} rounds ({spread})")
    ratio = np.median(seconds["PyTorch"][1:]) / np.median(seconds["tinyalex"][1:])
    print(f"tinyalex is {ratio:.2f} times as fast as PyTorch {torch.__version__} on {cpu_count()} cores")


if __name__ == "__main__":
    main()
