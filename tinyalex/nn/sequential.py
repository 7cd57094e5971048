"""A list of layers as one network: named, laid out on ranks, run forward and backward."""

import copy
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tinyalex.comm import Comm
from tinyalex.errors import ArgumentError
from tinyalex.fields import batch_of, check_numbers, expect, generator, of_kind, plain_data
from tinyalex.nn.later import on_towers
from tinyalex.nn.layers import AllGather, Conv2d, Layer

__all__ = ["Placed", "Sequential", "plan"]


class Placed(NamedTuple):
    """A layer's place in a network, before there are arrays; shapes are of all ranks together."""

    layer: Layer
    x: tuple  # shape of its input
    y: tuple  # shape of its output
    split_x: bool  # each rank holds only its part of the channels
    split_y: bool
    ranks: int = 1  # that share the layer
    parts: int = 1  # of the batch, each for other such ranks

    def own(self, shape, split):
        """Return a shape as one rank holds it."""
        return (shape[0] // self.ranks, *shape[1:]) if split else tuple(shape)


def named(layers):
    """Return copies of the layers, each with a name: its own, or its kind and number, as conv2.

    Raises ArgumentError for what is no list of layers, or a name that stands twice.
    """
    if isinstance(layers, (str, dict)) or not hasattr(layers, "__iter__"):
        raise ArgumentError(f"layers: expected a list of layers, found {type(layers).__name__}")
    found, counts = {}, Counter()
    for place, layer in enumerate(layers, 1):
        expect(isinstance(layer, Layer), f"layer {place}", "one such as MaxPool(3, 2)", layer)
        layer = copy.copy(layer)
        counts[layer.prefix] += 1
        layer.name = layer.name or f"{layer.prefix}{counts[layer.prefix]}"
        if layer.name in found:
            raise ArgumentError(f"layer {place}: the name {layer.name!r} stands twice")
        found[layer.name] = layer
    expect(found, "layers", "at least one", layers)
    return list(found.values())


def plan(layers: list[Layer], shape: tuple[int, ...], ranks: int = 1, parts: int = 1) -> list[Placed]:
    """Lay a list of layers out on so many ranks: return a list of `Placed`.

    shape: (C, H, W) or (D,) of the input, which every rank holds whole.  parts: of the batch, each for other
    such ranks, see `tinyalex.parallel`.  Where the list has no `AllGather`,
    the places at which the ranks meet are found, see `on_towers`.  Raises ArgumentError, naming the layer,
    where a layer cannot follow the one before, or cannot be shared by so many ranks.
    """
    check_numbers("", 1, int, ranks=ranks, parts=parts)
    layers, shape = named(layers), plain_data(shape)
    if ranks > 1 and not any(isinstance(layer, AllGather) for layer in layers):
        layers = on_towers(layers, ranks)
    placed, split = [], False
    for layer in layers:
        if isinstance(layer, Conv2d):
            layer.need_dx = layer is not layers[0]
        y, after = layer.place(shape, split, ranks), layer.splits(split, ranks)
        placed.append(Placed(layer, shape, y, split, after, ranks, parts))
        shape, split = y, after
    if split:
        raise layer.error(f"ends in parts, on {ranks} ranks: AllGather(replicated=True) joins them")
    return placed


class Sequential:
    """Layers, one after the other, on this rank; backward is the same list reversed.

    layers: a list of layers, which are copied, or of `Placed`, for a layout of `tinyalex.parallel`.
    input_shape: (C, H, W) or (D,) of one image.  comm: all ranks, by default one CPU core.  rng: a
    generator, or the seed of one, which draws the starting weights, and in training the dropout masks;
    without it there are no weights until a checkpoint's are loaded.  Raises ArgumentError, naming the layer,
    for a list that does not fit together.

    ``layers``: the built layers by name.  ``placed``: the `Placed` of each.  ``row``: the ranks that are
    given the same images.  ``data``: those that are given the other parts of a batch.
    """

    def __init__(
        self,
        layers: list[Layer] | list[Placed],
        input_shape: tuple[int, ...],
        comm: Comm | None = None,
        rng: np.random.Generator | int | None = None,
        dtype=np.float32,
    ):
        self.comm = of_kind(Comm, comm or Comm("cpu:0"), "comm")
        self.rng, self.input_shape = generator(rng), plain_data(input_shape)
        known = isinstance(layers, list) and layers and isinstance(layers[0], Placed)
        placed = layers if known else plan(layers, self.input_shape, self.comm.size)
        self.placed = {place.layer.name: place for place in placed}
        self.layers = {name: place.layer for name, place in self.placed.items()}
        grids = {ranks: self.comm.grid(ranks) for ranks in dict.fromkeys(place.ranks for place in placed)}
        (self.row, self.data), self.behind = grids[placed[0].ranks], None
        for place in placed:
            comm, data = grids[place.ranks]
            place.layer.images = data.rank, data.size
            place.layer.build(place.x, comm, self.rng, dtype, place.split_x)

    def forward(self, x, train=False, last=None):
        """x → the output of the last layer, or of the one named `last`."""
        expect(last in [None, *self.layers], "last", f"a layer, one of {', '.join(self.layers)}", last)
        batch_of(self.input_shape, x, next(iter(self.layers)), "an input")
        for layer in self.layers.values():
            layer.cache = ...  # the last step's memory is free for this one
        for name, layer in self.layers.items():
            with self._at(name, "forward"):
                y, place = layer.forward(x, train), self.placed[name]
                x = batch_of(place.own(place.y, place.split_y), y, "forward", "as `out` says, an output")
            if name == last:
                break
        return x

    def backward(self, dy, after=lambda layer: None):
        """dy → dx (None where the first layer is a convolution); every layer's ``grads`` are filled.

        after(layer) is called when those of a layer are.
        """
        for name, layer in reversed(self.layers.items()):
            with self._at(name, "backward"):
                dy = layer.backward(dy)
                after(layer)
        return dy

    @contextmanager
    def _at(self, name, direction):
        """Within the block the ledger's entries are of this layer, and errors name it."""
        try:
            with self.comm.on_behalf_of(f"{name} {direction}"):
                yield
        except (ArgumentError, TypeError) as error:
            if not str(error).startswith(name):
                error.args = (f"{name}: {error}",)
            raise

    def parameters(self):
        """Yield (name, layer, key) of every parameter array: ("conv1.w", layer, "w"), …"""
        for name, layer in self.layers.items():
            for key in layer.sizes(self.placed[name].x):
                yield f"{name}.{key}", layer, key

    def learned(self):
        """Yield those of `parameters` that have a gradient: all but the layers' statistics."""
        return (found for found in self.parameters() if found[2] in found[1].weights)

    def sizes(self):
        """Return the shape of every parameter by name, of all ranks together."""
        return sizes(self.placed.values())

    def __repr__(self):
        """A line per layer: its name, the call that makes it, what comes out, and its parameters."""
        rows, total = [("", "input", "×".join(map(str, self.input_shape)), "")], 0
        for name, (layer, x, y, *_) in self.placed.items():
            total += (n := layer.count(x))
            call, makes = repr(replace(layer, name="")), "×".join(map(str, y))
            rows.append((name, call, makes, f"{n:,}" if n else ""))
        rows.append(("", "", "", f"{total:,} parameters"))
        a, b, c, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(f"{name:{a}}  {call:{b}}  {y:{c}}  {n}".rstrip() for name, call, y, n in rows)


def sizes(placed):
    """Return the shape of every parameter by name, "conv1.w", …, of all ranks together."""
    return {f"{layer.name}.{key}": size for layer, x, *_ in placed for key, size in layer.sizes(x).items()}
