"""A network as data: the size of its input and a list of layers, which JSON can hold.

That is how a network lies in a checkpoint, and the form in which networks go out and come in as ONNX
(`tinyalex.exchange`).  In JSON:

    {"input": [3, 224, 224],
     "layers": [{"kind": "Conv2d", "name": "conv1", "filters": 96, "kernel": 11, "stride": 4, …}, …]}

JSON is read, never run.  Sizes beyond what a layer can reasonably have are refused.
"""

import math
from typing import NamedTuple

import numpy as np

from tinyalex.comm import Comm
from tinyalex.errors import ArgumentError, DataError
from tinyalex.fields import each_of_a_kind, exactly, fits, of_kind, plain_data
from tinyalex.nn import Conv2d, Layer, Placed, Sequential, plan
from tinyalex.nn.layers import KINDS
from tinyalex.nn.sequential import named, sizes
from tinyalex.parallel import lay_out

MOST_NUMBERS = 1 << 28  # in a layer's output for one image, 1 GiB: larger ones are refused
MOST_PADDING = 1 << 12


class Network(NamedTuple):
    """layers: a list of `tinyalex.nn`'s, one after the other.  input: the shape of one image, (C, H, W).

    parallel: how ranks share it, see `tinyalex.parallel`; by default each is given the same images, and what
    comes out is the same on every rank.
    """

    layers: list[Layer]
    input: tuple[int, ...]

    def build(
        self,
        comm: Comm | None = None,
        rng: np.random.Generator | int | None = None,
        dtype=np.float32,
        parallel: str = "model",
    ) -> Sequential:
        """Return the `Sequential` on this rank of comm; see there for rng."""
        placed = lay_out(self, of_kind(Comm, comm or Comm("cpu:0"), "comm").size, parallel)
        return Sequential(placed, self.input, comm, rng, dtype)

    def plan(self, ranks: int = 1, parallel: str = "model") -> list[Placed]:
        """Return its layers laid out on so many ranks, a list of `tinyalex.nn.Placed`.

        Raises ArgumentError, naming the layer, where the list does not fit together, or sizes are beyond
        reason.
        """
        placed = lay_out(self, ranks, parallel)
        for layer, _, y, *_ in placed:
            if max(np.ravel(getattr(layer, "pad", 0))) > MOST_PADDING:
                raise layer.error(f"expected padding ≤ {MOST_PADDING}, found {layer.pad}")
            if math.prod(y) > MOST_NUMBERS:
                raise layer.error(f"its output {y} is larger than {MOST_NUMBERS:,} numbers")
        return placed

    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name: "conv1.w", …"""
        return sizes(self.plan())

    @property
    def outputs(self) -> tuple[int, ...]:
        """The shape that comes out; (classes,) of a classifier."""
        return self.plan()[-1].y

    @property
    def most_ranks(self) -> int:
        """How many ranks can share it, one a tower: as many as every group divides into; 1 without towers."""
        groups = [x.groups for x in self.layers if isinstance(x, Conv2d) and x.groups > 1]
        most = math.gcd(*groups) if groups else 1
        small = [n for n in range(1, math.isqrt(most) + 1) if most % n == 0]
        for ranks in sorted({*small, *(most // n for n in small)}, reverse=True):
            try:
                plan(self.layers, self.input, ranks)
                return ranks
            except ArgumentError:
                continue
        return 1

    def named(self) -> "Network":
        """Return the network with a name for each layer."""
        return self._replace(layers=named(self.layers))

    def to_json(self) -> dict:
        """Return a dict of JSON's own types."""
        entries = [{"kind": type(x).__name__, "name": x.name, **x.data()} for x in named(self.layers)]
        return {"input": list(plain_data(self.input)), "layers": entries}

    @classmethod
    def from_json(cls, entry: dict) -> "Network":
        """Undo `to_json`; DataError, naming the layer, for what is no network that can be built."""
        entries, shape = exactly(cls._fields, entry, "network")
        shape = plain_data(shape)
        sizes = fits(shape, tuple[int, ...]) and len(shape) == 3 and min(shape) >= 1
        if not sizes or math.prod(shape) > MOST_NUMBERS:
            raise DataError(f"input: expected three sizes (C, H, W), found {str(shape)[:80]}")
        try:
            network = cls(each_of_a_kind(KINDS, entries, "layers"), shape)
            network.plan()
        except ArgumentError as error:
            raise DataError(str(error)) from error
        return network
