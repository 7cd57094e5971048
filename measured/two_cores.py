"""How much faster two ranks are than one, and how much faster two cores of this machine can be.

    python measured/two_cores.py NETWORK [rounds] [batch]       such as paper 5, or cifar4 6

Each row is the same work by one core and by two at once, in processes that take turns.  "apart": the two
halves of a training step, each in a process of its own, pinned to a core, which never meet: what the other
rank would give, each takes from itself.  They wait for nothing, neither for each other nor for Python's lock:
two ranks cannot be faster than that.  Linux.
"""

import multiprocessing
import os
import sys
from time import perf_counter

import numpy as np

from tinyalex.comm import Comm, launch
from tinyalex.measure.machine import blas, cpu
from tinyalex.models import make
from tinyalex.optim import SGD
from tinyalex.parallel import usual
from tinyalex.train import Step


class Apart(Comm):
    """One of two ranks, that takes what the other would give it from itself."""

    size = 2

    def __init__(self, device, rank):
        super().__init__(device)
        self.rank = rank

    def grid(self, ranks):
        """Both in a row, or both in a column."""
        return (self, self.alone()) if ranks == 2 else (self.alone(), self)

    def _begin(self, x):
        return x

    def _end(self, out):
        return out

    def _swap(self, x):
        return [x[self._rows(len(x), self.rank)]] * 2

    def _gather(self, part, out):
        for rank in range(2):
            out[self._rows(len(out), rank)] = part

    def _tell(self, thing):
        return [thing] * 2

    def _group(self, ranks):
        return Apart(self.device, self.rank)


def serve(comm, pipe, do):
    """Do it as often as the pipe says, and answer how long it takes; at first, twice, to warm up."""
    times = 2
    while times:
        comm.share(None)
        start = perf_counter()
        for _ in range(times):
            do()
        comm.share(None)
        if pipe:
            pipe.send((perf_counter() - start) / times)
        times = comm.share(pipe.recv() if pipe else None)


def products():
    """Return a function of half a second of matrix products that stay in cache."""
    a, b = np.ones((512, 512), np.float32), np.ones((512, 2048), np.float32)
    out = np.matmul(a, b)
    return lambda: [np.matmul(a, b, out=out) for _ in range(50)]


def copies():
    """Return a function that copies 80 MB ten times."""
    a = np.ones(20_000_000, np.float32)
    out = np.empty_like(a)
    return lambda: [np.copyto(out, a) for _ in range(10)]


def step(comm, network, batch):
    """Return a function that trains a step."""
    net = network.build(comm, np.random.default_rng(0), parallel=usual(network))
    rng = np.random.default_rng(0)
    images = batch // net.data.size
    x = rng.standard_normal((*network.input, images), np.float32)
    labels = rng.integers(0, *network.outputs, images)
    train = Step(net, SGD(net, 1e-4, decay=0.0005))
    return lambda: train(x, labels)


def worker(pipe, what, rank, name, batch):
    """Serve one row's work, or this rank's half of it."""
    both = what in ("threads", "processes")
    if not both:
        os.sched_setaffinity(0, {rank})

    def work(comm):
        alone = {"products": products, "copies": copies}
        comm = Apart(comm.device, rank) if what == "apart" else comm
        do = alone[what]() if what in alone else step(comm, make(name), batch)
        serve(comm, pipe if comm.rank == 0 or what == "apart" else None, do)

    launch(work, "cpu:0,cpu:1" if both else "cpu:0", processes=what == "processes")


def main():
    """Print each row's seconds, and how many times as fast two cores are."""
    name = sys.argv[1]
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    batch = int(sys.argv[3]) if len(sys.argv) > 3 else 128
    context = multiprocessing.get_context("spawn")
    # who works at the same time: what they do, and on which core
    rows = {
        "products": [("products", 0)], "products at once": [("products", 0), ("products", 1)],
        "copies": [("copies", 0)], "copies at once": [("copies", 0), ("copies", 1)],
        "one rank": [("one", 0)], "apart": [("apart", 0), ("apart", 1)],
        "ranks, threads": [("threads", 0)], "ranks, processes": [("processes", 0)],
    }  # fmt: skip
    pipes, seconds = {row: [] for row in rows}, {row: [] for row in rows}
    for row, workers in rows.items():
        for what, core in workers:
            ours, theirs = context.Pipe()
            context.Process(target=worker, args=(theirs, what, core, name, batch)).start()
            pipes[row].append(ours)
    warm = {row: max(end.recv() for end in ends) for row, ends in pipes.items()}
    times = max(1, int(0.5 / warm["one rank"]))
    for _ in range(rounds):
        for row, ends in pipes.items():
            for end in ends:
                end.send(1 if "rank" not in row and row != "apart" else times)
            seconds[row].append(max(end.recv() for end in ends))
    print(f"{name}, batch {batch}; {cpu()}; NumPy {blas()}; medians of {rounds} rounds")
    for row, one, work in (
        ("products at once", "products", 2), ("copies at once", "copies", 2), ("apart", "one rank", 1),
        ("ranks, threads", "one rank", 1), ("ranks, processes", "one rank", 1),
    ):  # fmt: skip
        ratios = sorted(work * a / b for a, b in zip(seconds[one], seconds[row], strict=True))
        a, b = np.median(seconds[one]), np.median(seconds[row])
        print(
            f"{row:17} {1e3 * work * a:7.1f} ms by one core, {1e3 * b:7.1f} by two: "
            f"{work * a / b:.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    for ends in pipes.values():
        for end in ends:
            end.send(0)


if __name__ == "__main__":
    main()
