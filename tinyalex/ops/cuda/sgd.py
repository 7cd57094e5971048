"""The update of all weights and velocities on the GPU, by one launch."""

import functools

import numpy as np

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda import graph
from tinyalex.ops.cuda.launch import BLOCK, launch

CHUNK = 16 * BLOCK  # numbers that a block of threads updates


class Update:
    """Where the arrays are and at which rates they change, in the device's memory: kept from step to step."""

    def __init__(self, weights):
        self.xp = xp_of(*weights)
        self.sizes = [w.size for w in weights]
        chunks = [(i, k) for i, size in enumerate(self.sizes) for k in range(-(-size // CHUNK))]
        self.chunks = self.xp.asarray(np.array(chunks, np.int32))
        self.rates = empty(self.xp, (len(weights), 3), weights[0].dtype)
        self.sent = self.places = self.table = None

    def __call__(self, arrays, rates, loss=None):
        """Update each (w, v, g) of arrays, all contiguous and of one dtype, unless the loss is not finite.

        rates(): a list of (momentum, rate, decay · rate) for each parameter, asked in each step.  loss: an
        array of one number, or None.
        """

        def send():
            now = rates()
            if now != self.sent:
                graph.upload(self.rates, now)
                self.sent = now

        graph.host(send)
        launch(
            "sgd.sgd", (len(self.chunks) * BLOCK,), self.rates, self.chunks, self._table(arrays),
            self.rates if loss is None else loss, CHUNK, nbytes=5 * sum(self.sizes) * self.rates.itemsize,
        )  # fmt: skip

    def _table(self, arrays):
        """The addresses and sizes, on the device: sent when an array has moved."""
        now = [(*(a.data.ptr for a in three), size) for three, size in zip(arrays, self.sizes, strict=True)]
        if graph.recording():
            table = graph.own(self.xp, (len(now), 4), "uint64")
            graph.host(functools.cache(lambda: graph.upload(table, now)))  # one time is enough
            return table
        if now != self.places:
            self.table = empty(self.xp, (len(now), 4), "uint64")
            graph.upload(self.table, now)
            self.places = now
        return self.table
