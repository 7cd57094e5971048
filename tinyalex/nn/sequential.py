"""A list of layers as one network: named, laid out on ranks, run forward and backward."""

import copy
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tinyalex.comm import Comm
from tinyalex.errors import ArgumentError
from tinyalex.nn.layers import AllGather, Conv2d, Layer, Part

__all__ = ["Placed", "Sequential", "on_towers", "plan"]


class Placed(NamedTuple):
    """A layer's place in a network, before there are arrays; shapes are of all ranks together."""

    layer: Layer
    x: tuple  # shape of its input
    y: tuple  # shape of its output
    split_x: bool  # each rank holds only its part of the channels
    split_y: bool

    def own(self, shape, split, ranks):
        """Return a shape as one rank holds it."""
        return (shape[0] // ranks, *shape[1:]) if split else tuple(shape)


def named(layers):
    """Return copies of the layers, each with a name: its own, or its kind and number, as conv2.

    Raises ArgumentError for what is no list of layers, or a name that stands twice.
    """
    if isinstance(layers, (str, dict)) or not hasattr(layers, "__iter__"):
        raise ArgumentError(f"layers: expected a list of layers, found {type(layers).__name__}")
    copies, counts, names = [], Counter(), set()
    for place, layer in enumerate(layers, 1):
        if not isinstance(layer, Layer):
            raise ArgumentError(f"layer {place}: expected one such as MaxPool(3, 2), found {layer!r:.80}")
        layer = copy.copy(layer)
        counts[layer.prefix] += 1
        layer.name = layer.name or f"{layer.prefix}{counts[layer.prefix]}"
        if layer.name in names:
            raise ArgumentError(f"layer {place}: the name {layer.name!r} stands twice")
        copies.append(layer)
        names.add(layer.name)
    if not copies:
        raise ArgumentError("layers: expected at least one, found none")
    return copies


def plan(layers: list[Layer], shape: tuple[int, ...], ranks: int = 1) -> list[Placed]:
    """Lay a list of layers out on so many ranks: return a list of `Placed`.

    shape: (C, H, W) or (D,) of the input, which every rank holds whole.  Where the list has no `AllGather`,
    the places at which the ranks meet are found, see `on_towers`.  Raises ArgumentError, naming the layer,
    where a layer cannot follow the one before, or cannot be shared by so many ranks.
    """
    layers = named(layers)
    if ranks > 1 and not any(isinstance(layer, AllGather) for layer in layers):
        layers = on_towers(layers, ranks)
    placed, split = [], False
    for layer in layers:
        if isinstance(layer, Conv2d):
            layer.need_dx = layer is not layers[0]
        y, after = layer.place(shape, split, ranks), _splits(layer, split, ranks)
        placed.append(Placed(layer, tuple(shape), y, split, after))
        shape, split = y, after
    if split:
        raise layer.error(
            f"is the last, and {ranks} ranks hold parts of it: AllGather(replicated=True) joins them"
        )
    return placed


def _splits(layer, split, ranks):
    """Whether each rank holds only its part of the channels after a layer, if so before it."""
    return ranks > 1 and (split if layer.leaves is None else layer.leaves == "part")


def on_towers(layers: list[Layer], ranks: int) -> list[Layer]:
    """Return the list with the layers by which towers, convolutions in groups, run a tower a rank.

    The ranks meet (AllGather) before each layer that reads all channels, and part again (Part) before a layer
    that reads its part of them.  A normalization whose windows cross the towers sees all channels, between
    the two.
    """
    found, split = [], False
    for layer in layers:
        meet, part = AllGather(name=f"gather_{layer.name}"), Part(name=f"part_{layer.name}")
        wanted = layer.reads(ranks)
        meets = wanted == "all" and split
        found += [meet] * meets + [part] * (wanted == "part" and not split) + [layer]
        if meets and layer.leaves is None:
            found.append(part)
        split = _splits(layer, split or wanted == "part", ranks)
    return [*found, AllGather(True, name="gather")] if split else found


class Sequential:
    """Layers, one after the other, on this rank; backward is the same list reversed.

    layers: a list of layers, which are copied.  input_shape: (C, H, W) or (D,) of one image.  comm: the ranks
    that share the network, by default one CPU core.  rng: draws the starting weights, and in training the
    dropout masks; without it there are no weights until a checkpoint's are loaded.
    Raises ArgumentError, naming the layer, for a list that does not fit together.

    ``layers``: the built layers by name.  ``placed``: the `Placed` of each.
    """

    def __init__(
        self,
        layers: list[Layer],
        input_shape: tuple[int, ...],
        comm: Comm | None = None,
        rng: np.random.Generator | None = None,
        dtype=np.float32,
    ):
        self.comm = comm or Comm("cpu:0")
        self.input_shape, self.rng = tuple(input_shape), rng
        placed = plan(layers, self.input_shape, self.comm.size)
        self.placed = {place.layer.name: place for place in placed}
        self.layers = {name: place.layer for name, place in self.placed.items()}
        for layer, shape, _, split, _ in placed:
            layer.build(shape, self.comm, rng, dtype, split)

    def forward(self, x, train=False, last=None):
        """x → the output of the last layer, or of the one named `last`."""
        if last is not None and last not in self.layers:
            raise ArgumentError(f"expected a layer, one of {', '.join(self.layers)}; found {last!r}")
        if x.shape[:-1] != self.input_shape:
            wanted = ", ".join(map(str, (*self.input_shape, "N")))
            raise ArgumentError(f"{next(iter(self.layers))}: expected an input ({wanted}), found {x.shape}")
        for layer in self.layers.values():
            layer.cache = None  # the last step's memory is free for this one
        for name, layer in self.layers.items():
            with self.comm.on_behalf_of(f"{name} forward"):
                x = layer.forward(x, train)
            if name == last:
                break
        return x

    def backward(self, dy):
        """dy → dx (None where the first layer is a convolution); every layer's ``grads`` are filled."""
        for name, layer in reversed(self.layers.items()):
            with self.comm.on_behalf_of(f"{name} backward"):
                dy = layer.backward(dy)
        return dy

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
        """A line a layer: its name, the call that makes it, what comes out, and its parameters."""
        rows, total = [("", "input", "×".join(map(str, self.input_shape)), "")], 0
        for name, (layer, x, y, _, _) in self.placed.items():
            count = layer.count(x)
            total += count
            call, makes = repr(replace(layer, name="")), "×".join(map(str, y))
            rows.append((name, call, makes, f"{count:,}" if count else ""))
        rows.append(("", "", "", f"{total:,} parameters"))
        a, b, c, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(
            f"{name:{a}}  {call:{b}}  {y:{c}}  {count}".rstrip() for name, call, y, count in rows
        )


def sizes(placed):
    """Return the shape of every parameter by name, "conv1.w", …, of all ranks together."""
    return {f"{layer.name}.{key}": size for layer, x, *_ in placed for key, size in layer.sizes(x).items()}
