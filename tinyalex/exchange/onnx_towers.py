"""Split or Slice, the same layers in each part, Concat: the paper's towers, as layers in groups."""

from dataclasses import replace

import numpy as np

from tinyalex.errors import DataError
from tinyalex.exchange.onnx_graph import called
from tinyalex.nn import LRN, Conv2d, Linear


def towers(reader, node, value):
    """Read on from a Split to its Concat; reader: the `_Reader`, which has come to the value before."""
    C, _, _ = reader.maps(node, value)
    _check_split(reader, node, value, C)
    return _join(reader, node, list(node.output), reader.sizes[value])


def sliced(reader, nodes, value):
    """Read on from Slices of all channels, one for each tower, to their Concat."""
    C, _, _ = reader.maps(nodes[0], value)
    ends = [_slice(reader, node, value, C) for node in nodes]
    nodes, ends = zip(*sorted(zip(nodes, ends, strict=True), key=lambda pair: pair[1]), strict=True)
    n = len(nodes)
    if C % n or list(ends) != [(i * C // n, (i + 1) * C // n) for i in range(n)]:
        raise DataError(f"{called(nodes[0])}: expected equal parts of {C} channels, found {ends}")
    for node in nodes:
        reader.take(node)
    return _join(reader, nodes[0], [node.output[0] for node in nodes], reader.sizes[value])


def _slice(reader, node, value, C):
    """The first channel that a Slice takes, and the one after its last."""
    places = {"starts": 1, "ends": 2, "axes": 3, "steps": 4}
    found = {}
    for name, place in places.items():
        if node.input[place:] and node.input[place]:
            found[name] = reader.constant(node, node.input[place]).reshape(-1).tolist()
        else:
            found[name] = list(reader.attribute(node, name, "INTS", None) or ())
    ends = [n for name in ("starts", "ends") for n in found[name] if type(n) is int]
    if node.input[0] != value or found["axes"] not in ([1], [-3]) or found["steps"] not in ([], [1]):
        raise DataError(f"{called(node)}: expected a part of the channels, found {found}")
    if len(ends) != 2 or len(found["starts"]) != 1:
        raise DataError(f"{called(node)}: expected a first channel and an end, found {found}")
    return slice(*ends).indices(C)[:2]


def _join(reader, node, parts, size):
    C, H, W = size
    before, weighted, first = list(reader.layers), reader.weighted, reader.first
    reader.first = len(before)
    found = []
    for part in parts:
        reader.layers, reader.weighted = list(before), weighted
        reader.sizes[part] = reader.size = (C // len(parts), H, W)
        end = part
        while reader.only(end).op_type != "Concat":
            end = reader.next(end)
        layers = reader.layers[len(before) :]
        own = {layer.name for layer in layers}
        names = [name for name in reader.arrays if name.rpartition(".")[0] in own]
        arrays = {name: reader.arrays.pop(name) for name in names}
        found.append((end, layers, arrays, reader.size))
    ends, layers, arrays, sizes = zip(*found, strict=True)
    join = reader.only(ends[0])
    if list(join.input) != list(ends):
        raise DataError(f"{called(join)}: expected the towers' Concat in their order")
    if reader.axis(join, len(sizes[0]) + 1) != 1:
        raise DataError(f"{called(join)}: axis: expected 1, that of the channels")
    reader.take(join)
    reader.layers = before + [_one(node, of_each) for of_each in _in_step(node, layers)]
    reader.arrays |= {name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]}
    reader.size = (sizes[0][0] * len(parts), *sizes[0][1:])
    reader.first = first if reader.layers == before else len(before)
    return join


def _check_split(reader, node, value, C):
    towers = len(node.output)
    sizes = reader.attribute(node, "split", "INTS", None)
    if node.input[1:] and node.input[1]:
        sizes = tuple(reader.constant(node, node.input[1]).reshape(-1).tolist())
    if reader.opset >= 18:
        reader.allowed(node, num_outputs=towers)
    if reader.axis(node, 4, 0) != 1:
        raise DataError(f"{called(node)}: axis: expected 1, that of the channels")
    if node.input[0] != value or towers < 2 or (sizes or (C // towers,) * towers) != (C / towers,) * towers:
        raise DataError(f"{called(node)}: expected equal parts of {C} channels, found {sizes or towers}")


def _in_step(node, towers):
    """The layers of all towers, place by place; DataError unless they are the same ones."""
    lengths = sorted({len(layers) for layers in towers})
    if len(lengths) > 1:
        raise DataError(f"{called(node)}: expected the same layers in all towers, found {lengths} of them")
    for of_each in zip(*towers, strict=True):
        if any(type(x) is not type(of_each[0]) or x.data() != of_each[0].data() for x in of_each):
            shown = ", ".join(map(repr, of_each))
            raise DataError(f"{called(node)}: expected the same layers in all towers, found {shown:.120}")
        yield of_each


def _one(node, of_each):
    """The layer that does to all towers what each of these does to its own."""
    layer, count = of_each[0], len(of_each)
    if isinstance(layer, Linear):
        raise DataError(f"{called(node)}: expected no product within a tower, found {layer!r:.80}")
    if isinstance(layer, Conv2d):
        return replace(layer, groups=layer.groups * count, filters=layer.filters * count)
    return replace(layer, groups=layer.groups * count) if isinstance(layer, LRN) else layer
