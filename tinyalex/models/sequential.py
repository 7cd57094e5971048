"""A network as data: a list of layers that JSON can hold.

That is how an imported network lies in a checkpoint, and the form in which networks go out and come in as
ONNX (`tinyalex.exchange`).  Each kind of layer is a NamedTuple here; in JSON it is
{"kind": "Conv", "name": "conv1", "shape": [96, 3, 11, 11], "stride": 4, …}.

`build` lays such a list out on any number of ranks.  Two towers, convolutions in two groups, run a tower a
rank, as in `tinyalex.models.alexnet`: the ranks meet (AllGather) before each layer that reads all channels,
and part again (Part) before a layer in groups.
"""

import math
from functools import singledispatch
from typing import NamedTuple

import numpy as np

from tinyalex import nn
from tinyalex.errors import ArgumentError, DataError
from tinyalex.fields import checked
from tinyalex.ops import activation
from tinyalex.ops.conv import four_pads, output_size
from tinyalex.ops.pool import pooled_size


class Conv(NamedTuple):
    """shape: (F, C/groups, KH, KW).  activation: ("relu",), ("logistic",), ("tanh", a, b) or ()."""

    name: str
    shape: tuple[int, ...]
    stride: int = 1
    pad: tuple[int, ...] = (0, 0, 0, 0)  # top, bottom, left, right
    groups: int = 1
    activation: tuple = ()


class Linear(NamedTuple):
    """shape: (F, D)."""

    name: str
    shape: tuple[int, ...]
    activation: tuple = ()


class MaxPool(NamedTuple):
    """The largest pixel of each window."""

    name: str
    window: int
    stride: int
    pad: tuple[int, ...] = (0, 0, 0, 0)
    ceil: bool = False


class AvgPool(NamedTuple):
    """The average of each window's real pixels."""

    name: str
    window: int
    stride: int
    pad: tuple[int, ...] = (0, 0, 0, 0)
    ceil: bool = False


class LRN(NamedTuple):
    """Normalization across channels; the fields are those of `lrn_forward`."""

    name: str
    n: int
    k: float
    alpha: float
    beta: float
    alpha_over_n: bool = True
    groups: int = 1


class SameMapNorm(NamedTuple):
    """Normalization within a map; the fields are those of `same_map_norm_forward`."""

    name: str
    n: int
    k: float
    alpha: float
    beta: float


class Activate(NamedTuple):
    """A neuron that does not follow a convolution or product directly."""

    name: str
    activation: tuple


class Dropout(NamedTuple):
    """The fields are those of `dropout_forward`."""

    name: str
    keep: float = 0.5
    inverted: bool = True


class Flatten(NamedTuple):
    """Maps to features, in the order C, H, W."""

    name: str


class ZeroPad(NamedTuple):
    """Zeros around the maps."""

    name: str
    pad: tuple[int, ...]


MOST_NUMBERS = 1 << 28  # in a layer's output for one image, 1 GiB: larger ones are refused
MOST_PADDING = 1 << 12
KINDS = {
    kind.__name__: kind
    for kind in (Conv, Linear, MaxPool, AvgPool, LRN, SameMapNorm, Activate, Dropout, Flatten, ZeroPad)
}


# ---- JSON --------------------------------------------------------------------------------------------


def to_json(layers):
    """Return the layers as a list of dicts of JSON's own types."""
    return [{"kind": type(layer).__name__, **layer._asdict()} for layer in layers]


def from_json(entries, shape):
    """Undo `to_json`, for inputs (C, H, W); DataError for what is no network that can be built."""
    if not isinstance(entries, list) or not entries:
        raise DataError(f"layers: expected a list of layers, found {type(entries).__name__}")
    layers = [_layer(entry) for entry in entries]
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names):
        raise DataError("layers: expected a name of its own for each, found one twice")
    try:
        shapes(layers, shape)
    except ArgumentError as error:
        raise DataError(str(error)) from error
    return layers


def _layer(entry):
    kind = KINDS.get(str(entry.get("kind"))) if isinstance(entry, dict) else None
    if kind is None:
        raise DataError(f"layers: expected one of the kinds {', '.join(KINDS)}, found {str(entry)[:80]}")
    fields = {key: value for key, value in entry.items() if key != "kind"}
    layer = checked(kind, fields, f"layers: {str(entry.get('name'))[:40]}")
    for field in ("shape", "pad"):
        if not all(0 <= v < 1 << 31 for v in fields.get(field, ())):
            raise DataError(f"layers: {layer.name}: {field}: expected whole numbers ≥ 0")
    if "activation" in fields and (_neuron(layer) is None) and kind is Activate:
        raise DataError(f"layers: {layer.name}: expected a neuron, found none")
    return layer


# ---- shapes ------------------------------------------------------------------------------------------


def shapes(layers, shape):
    """Return the shape after each layer, (C, H, W) or (D,), for an input (C, H, W).

    Raises ArgumentError, naming the layer, where a layer cannot follow the one before.
    """
    found = []
    for layer in layers:
        if max(getattr(layer, "pad", (0,)), default=0) > MOST_PADDING:
            raise ArgumentError(f"{layer.name}: expected padding ≤ {MOST_PADDING}, found {layer.pad}")
        shape = shape_after(layer, shape)
        if math.prod(shape) > MOST_NUMBERS:
            raise ArgumentError(f"{layer.name}: its output {shape} is larger than {MOST_NUMBERS:,} numbers")
        found.append(shape)
    return found


@singledispatch
def shape_after(layer, shape):
    """Return the shape that comes out of a layer, given the one that goes in."""
    return shape


@shape_after.register
def _(layer: Conv, shape):
    F, CG, KH, KW = _of(layer, layer.shape, 4)
    C, H, W = _of(layer, shape, 3)
    g = layer.groups
    if g < 1 or F < 1 or F % g or CG * g != C:
        raise ArgumentError(f"{layer.name}: filters {layer.shape} in {g} groups do not fit {C} channels")
    top, bottom, left, right = _of(layer, layer.pad, 4)
    H = output_size(H, KH, layer.stride, top, bottom, layer.name)
    return F, H, output_size(W, KW, layer.stride, left, right, layer.name)


@shape_after.register
def _(layer: Linear, shape):
    F, D = _of(layer, layer.shape, 2)
    if F < 1 or math.prod(shape) != D:
        raise ArgumentError(f"{layer.name}: weights {layer.shape} do not fit an input {tuple(shape)}")
    return (F,)


@shape_after.register(MaxPool)
@shape_after.register(AvgPool)
def _(layer, shape):
    C, H, W = _of(layer, shape, 3)
    top, bottom, left, right = _of(layer, layer.pad, 4)
    H = pooled_size(H, layer.window, layer.stride, top, bottom, layer.ceil, layer.name)
    return C, H, pooled_size(W, layer.window, layer.stride, left, right, layer.ceil, layer.name)


@shape_after.register(LRN)
@shape_after.register(SameMapNorm)
def _(layer, shape):
    C, _, _ = _of(layer, shape, 3)
    g = getattr(layer, "groups", 1)
    if layer.n < 1 or g < 1 or C % g:
        raise ArgumentError(f"{layer.name}: a window of {layer.n} in {g} groups does not fit {C} channels")
    return shape


@shape_after.register
def _(layer: Dropout, shape):
    if not 0 < layer.keep <= 1:
        raise ArgumentError(f"{layer.name}: expected 0 < keep ≤ 1, found {layer.keep}")
    return shape


@shape_after.register
def _(layer: Flatten, shape):
    return (math.prod(shape),)


@shape_after.register
def _(layer: ZeroPad, shape):
    C, H, W = _of(layer, shape, 3)
    top, bottom, left, right = _of(layer, layer.pad, 4)
    return C, top + H + bottom, left + W + right


def _of(layer, shape, length):
    if len(shape) != length:
        raise ArgumentError(f"{layer.name}: expected {length} sizes, found {tuple(shape)}")
    return shape


# ---- from the list to layers and back ----------------------------------------------------------------


def most_ranks(layers):
    """Return how many ranks can share the network, one a tower: as many as every group divides into."""
    groups = [layer.groups for layer in layers if isinstance(layer, Conv) and layer.groups > 1]
    rows = [layer.shape[0] for layer in layers if isinstance(layer, (Conv, Linear))]
    return math.gcd(*groups, *rows) if groups else 1


def build(layers, comm, rng, dtype=np.float32):
    """Build the network on this rank of comm; rng draws starting weights and dropout masks.

    Input: (C, H, W, N), the same on every rank; output: as the last layer's, the same on every rank.
    Raises ArgumentError for a number of filters or features that the ranks cannot share evenly.
    """
    net, split = {}, False  # split: each rank holds its part of the channels

    def meet(name):
        net[f"gather_{name}"] = nn.AllGather(comm)

    def part(name):
        net[f"part_{name}"] = nn.Part(comm)

    for layer in layers:
        name, groups = layer.name, getattr(layer, "groups", 1)
        if isinstance(layer, (Conv, Linear)) and comm.size > 1:
            in_groups = groups % comm.size == 0
            if in_groups != split:
                part(name) if in_groups else meet(name)
            split = True
        spans = split and isinstance(layer, LRN) and groups % comm.size != 0
        if spans:  # its windows cross the towers
            meet(name)
        net[name] = _nn_layer(layer, comm, comm if split and not spans else comm.alone(), rng, dtype)
        if spans:
            part(name)
    if split:
        net["gather"] = nn.AllGather(comm, replicated=True)
    first = next(iter(net.values()))
    if isinstance(first, nn.Conv2d):
        first.need_dx = False
    return nn.Sequential(net, comm)


def _nn_layer(layer, comm, sharing, rng, dtype):
    """sharing: the comm of the ranks among which the layer's channels are split."""
    common = {"comm": comm, "rng": rng, "dtype": dtype}
    match layer:
        case Conv(_, shape, stride, pad, groups):
            neuron = _neuron(layer)
            return nn.Conv2d(shape, stride=stride, pad=pad, groups=groups, activation=neuron, **common)
        case Linear(_, shape):
            return nn.Linear(shape, activation=_neuron(layer), **common)
        case MaxPool(_, window, stride, pad, ceil):
            return nn.MaxPool(window, stride, pad, ceil)
        case AvgPool(_, window, stride, pad, ceil):
            return nn.AvgPool(window, stride, pad, ceil)
        case LRN(_, n, k, alpha, beta, over_n, groups):
            return nn.LRN(n, k, alpha, beta, over_n, groups // sharing.size)
        case SameMapNorm(_, n, k, alpha, beta):
            return nn.SameMapNorm(n, k, alpha, beta)
        case Activate():
            return nn.Activate(_neuron(layer))
        case Dropout(_, keep, inverted):
            return nn.Dropout(sharing, rng, keep, inverted)
        case Flatten():
            return nn.Flatten()
        case ZeroPad(_, pad):
            return nn.ZeroPad(pad)


def _neuron(layer):
    """The neuron of ("relu",), ("logistic",) or ("tanh", a, b); None of ()."""
    match layer.activation:
        case ():
            return None
        case ("relu" | "logistic" as name,):
            return activation.ACTIVATIONS[name]
        case ("tanh", int() | float() as a, int() | float() as b) if math.isfinite(a * b) and a * b:
            return activation.tanh(a, b)
    raise DataError(f"layers: {layer.name}: expected a neuron, found {layer.activation}")


def layers_of(net):
    """Return the list of a Sequential that was built for one rank."""
    found = [_entry(layer, name) for name, layer in net.layers.items()]
    return [layer for layer in found if layer]


@singledispatch
def _entry(layer, name):
    raise TypeError(f"{name}: expected a layer of tinyalex.nn, found {type(layer).__name__}")


@_entry.register
def _(layer: nn.Conv2d, name):
    stride, pad, groups, neuron = layer.geometry
    return Conv(name, layer.params["w"].shape, stride, four_pads(pad), groups, _described(neuron))


@_entry.register
def _(layer: nn.Linear, name):
    return Linear(name, layer.params["w"].shape, _described(layer.activation))


@_entry.register(nn.MaxPool)
@_entry.register(nn.AvgPool)
def _(layer, name):
    def geometry(z, s, pad=0, ceil=True):
        return z, s, four_pads(pad), ceil

    kind = MaxPool if isinstance(layer, nn.MaxPool) else AvgPool
    return kind(name, *geometry(*layer.args, **layer.kwargs))


@_entry.register
def _(layer: nn.LRN, name):
    def constants(n=5, k=2.0, alpha=1e-4, beta=0.75, alpha_over_n=False, groups=1):
        return n, k, alpha, beta, alpha_over_n, groups

    return LRN(name, *constants(*layer.args, **layer.kwargs))


@_entry.register
def _(layer: nn.SameMapNorm, name):
    def constants(n=5, k=1.0, alpha=1e-3, beta=0.75):
        return n, k, alpha, beta

    return SameMapNorm(name, *constants(*layer.args, **layer.kwargs))


@_entry.register
def _(layer: nn.Activate, name):
    return Activate(name, _described(layer.activation))


@_entry.register
def _(layer: nn.Dropout, name):
    return Dropout(name, layer.keep, layer.inverted)


@_entry.register
def _(layer: nn.Flatten, name):
    return Flatten(name)


@_entry.register
def _(layer: nn.ZeroPad, name):
    return ZeroPad(name, layer.pad)


@_entry.register(nn.AllGather)
@_entry.register(nn.Part)
def _(layer, name):
    return None  # on one rank they do nothing


def _described(neuron):
    if neuron is None:
        return ()
    if neuron.name.startswith("tanh"):
        keywords = neuron.forward.keywords
        return "tanh", keywords["a"], keywords["b"]
    return (neuron.name,)
