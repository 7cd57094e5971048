"""What each lever of the CPU gains: AlexNet's training step without it, beside the step with all of them.

    python measured/levers.py [rounds]

Two towers on two cores, batch 128.  Each row takes one lever away and leaves the others; the rows take turns,
a step each, on the same two processes (Linux); the figure is the median of the rounds.  Where a lever is the
design itself (layout, fused bias and activation, no gradient to the pixels) there is nothing to switch: those
are not here.
"""

import contextlib
import sys
from time import perf_counter
from unittest import mock

import numpy as np

from tinyalex import memory, optim
from tinyalex.comm import launch
from tinyalex.measure.machine import blas, cpu
from tinyalex.models import alexnet
from tinyalex.ops import lrn, pool, products, strips, winograd
from tinyalex.train import train_step

WHOLE = 1 << 40  # bytes: no blocks


def _power(x, s, beta, out, work):
    np.power(s, s.dtype.type(beta), out=out)
    return np.divide(x, out, out=out)


def _fresh(self, shape, dtype):
    return np.empty(shape, dtype)


WITHOUT = {
    "nothing: all levers": (),
    "fewer multiplications (winograd)": (mock.patch.object(winograd, "LEAST", WHOLE),),
    "long products of few rows cut into small ones": (
        mock.patch.object(products, "_most", return_value=(WHOLE, 0)),
    ),
    "long products: a row of tiles of all images": (mock.patch.object(winograd, "PRODUCTS_BYTES", 4 << 20),),
    "tiles transformed in cache, not all at once": (mock.patch.object(winograd, "TRANSFORM_BYTES", WHOLE),),
    "im2col's strips in blocks": (mock.patch.object(strips, "BLOCK_BYTES", WHOLE),),
    "gaps between the strips": (mock.patch.object(strips, "GAP", 0),),
    "buffers that are used again": (mock.patch.object(memory._HostPool, "empty", _fresh),),
    "small buffers cut from slabs, with pages of 2 MB": (
        mock.patch.object(memory, "SLAB", 0),
        mock.patch.object(memory, "_host_pool", memory._HostPool()),
    ),
    "LRN's power by square roots": (mock.patch.object(lrn, "_over_power", _power),),
    "LRN in blocks": (mock.patch.object(lrn, "BLOCK_BYTES", WHOLE),),
    "pooling in blocks": (mock.patch.object(pool, "BLOCK_BYTES", WHOLE),),
    "update in blocks": (mock.patch.object(optim, "BLOCK", WHOLE),),
}


def main():
    """Print a row for each lever: the median step without it, and how many times the full step that is."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    rng = np.random.default_rng(0)
    images = rng.standard_normal((3, 224, 224, 128), np.float32) * 60
    labels = rng.integers(0, 1000, 128)

    def rank(comm):
        net = alexnet().build(comm, np.random.default_rng(0))
        optimizer = optim.SGD(net, 1e-4, decay=0.0005)
        seconds = {name: [] for name in WITHOUT}
        for number in range(rounds + 1):  # the first is for warming up
            for name, patches in WITHOUT.items():
                with contextlib.ExitStack() as stack:
                    comm.share(None)
                    for patch in patches:
                        stack.enter_context(patch)
                    comm.share(None)
                    start = perf_counter()
                    train_step(net, optimizer, images, labels)
                    comm.share(None)
                    if number:
                        seconds[name].append(perf_counter() - start)
                    if comm.rank == 0:
                        print(f"\r{number}/{rounds} {name:50}", end="", file=sys.stderr, flush=True)
        return seconds

    seconds = launch(rank, "cpu:0,cpu:1", processes=True)[0]
    full = np.median(seconds["nothing: all levers"])
    print(f"\n{cpu()}; NumPy {blas()}\n{'without':50} {'a step':>8} {'range':>14} {'times':>6}")
    for name, found in seconds.items():
        low, middle, high = min(found), np.median(found), max(found)
        print(f"{name:50} {middle:6.2f} s {low:6.2f} – {high:5.2f} {middle / full:6.2f}")


if __name__ == "__main__":
    main()
