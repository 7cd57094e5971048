"""Seconds an epoch (391 steps of 128) of cuda-convnet's networks, beside PyTorch, on one thread.

    python measured/ladder_speed.py [NETWORK …] [--rounds 5]

Rounds alternate; seconds are the processor's, of one thread each, so that what else runs on the machine does
not count.  Each step is forward, loss, backward and update on one batch; PyTorch's unshared layers are
`unfold` and a product at each place, its normalization within a map is by `avg_pool2d`.  Medians of the
rounds, and their range.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from tinyalex.comm import launch
from tinyalex.measure.bench_torch import twin
from tinyalex.models import make
from tinyalex.optim import SGD
from tinyalex.runs.recipe import LADDER
from tinyalex.train import Step

STEPS = 391


def main():
    """Print a line a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("networks", nargs="*", default=list(LADDER))
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"PyTorch {torch.__version__}, NumPy {np.__version__}; CPU seconds an epoch, medians")
    for name in args.networks:
        [(ours, theirs)] = launch(lambda comm, name=name: timed(make(name), args.rounds), "cpu:0")
        ratio = statistics.median(theirs) / statistics.median(ours)
        print(f"{name}: tinyalex {shown(ours)}, PyTorch {shown(theirs)}: {ratio:.2f} times", flush=True)


def timed(network, rounds):
    """Return the seconds of an epoch of each round: ours, PyTorch's."""
    rng = np.random.default_rng(0)
    net = network.build(rng=rng)
    x, labels = rng.standard_normal((*network.input, 128), np.float32), rng.integers(0, 10, 128)
    step = Step(net, SGD(net, 1e-4))
    both = (lambda: step(x, labels)), twin(network, 128, False, False, 1)
    found = [], []
    for work in both:
        work()
    for _ in range(rounds):
        for work, seconds in zip(both, found, strict=True):
            start = time.process_time()
            work()
            work()
            seconds.append(STEPS * (time.process_time() - start) / 2)
    return found


def shown(seconds):
    """Median and range, in words."""
    return f"{statistics.median(seconds):.1f} ({min(seconds):.1f} to {max(seconds):.1f})"


if __name__ == "__main__":
    main()
