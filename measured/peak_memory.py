"""Peak memory and seconds of AlexNet's training step at batch 128: tinyalex on two CPU ranks beside PyTorch.

    python measured/peak_memory.py [batch]

Each runs three steps of the paper's network (groups, LRN, dropout, momentum, decay) in a process of
its own, whose largest resident set is read at the end.  Needs the `oracle` extra.
"""

import multiprocessing
import resource
import sys
from time import perf_counter

import numpy as np

STEPS = 3


def tinyalex_steps(batch):
    """Train a few steps, both towers on a CPU core each; return the seconds of the last."""
    from tinyalex.comm import launch
    from tinyalex.devices import parse
    from tinyalex.models import alexnet
    from tinyalex.optim import SGD
    from tinyalex.train import train_step

    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 224, 224, batch), np.float32) * 60
    labels = rng.integers(0, 1000, batch)

    def rank(comm):
        net = alexnet().build(comm, np.random.default_rng(0))
        optimizer = SGD(net, 0.01, decay=0.0005)
        for step in range(STEPS):
            start = perf_counter()
            train_step(net, optimizer, images, labels, step)
        return perf_counter() - start

    return max(launch(rank, parse("cpu:0,cpu:1")))


def torch_steps(batch):
    """Train as many steps in PyTorch, written as people write it; return the seconds of the last."""
    from tinyalex.measure.bench_torch import twin
    from tinyalex.models import alexnet

    step = twin(alexnet(), batch, forward=False, tuned=False, threads=2)  # two steps done
    start = perf_counter()
    step()
    return perf_counter() - start


def measure(steps, batch, result):
    """Run in a process of its own; answer (seconds, peak resident bytes)."""
    seconds = steps(batch)
    result.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def main():
    """Print both and the ratio."""
    batch = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name, steps in (("tinyalex", tinyalex_steps), ("PyTorch", torch_steps)):
        result = context.Queue()
        process = context.Process(target=measure, args=(steps, batch, result))
        process.start()
        seconds, peaks[name] = result.get()
        process.join()
        print(f"{name:9} {peaks[name] / 1e9:.2f} GB at the peak, {seconds:.2f} s in the last step")
    print(f"tinyalex takes {peaks['tinyalex'] / peaks['PyTorch']:.2f} of PyTorch's memory at batch {batch}")


if __name__ == "__main__":
    main()
