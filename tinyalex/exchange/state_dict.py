"""PyTorch state dicts in safetensors files: weights (F, C, KH, KW) and (F, D) map one to one.

A state dict has names and arrays but no network; which one it is shows from its names and shapes:

    network         names                                               what it is
    alexnet         features.{0,3,6,8,10}, classifier.{1,4,6}           torchvision's (one tower, no LRN)
    vgg             features.{0,2,5,…}, classifier.{0,3,6}              torchvision's vgg11, 13, 16, 19, with
                                                                        batch normalization or without
    vgg_released    conv1_1 … conv5_3, fc6, fc7, fc8                    the VGG authors', of any configuration
    bvlc_alexnet    conv1 … conv5, fc6, fc7, fc8                        Caffe's AlexNet: preset "caffe"
    caffenet        the same                                            Caffe's reference network: pooling
                                                                        before LRN

each with ".weight" and ".bias".  Both of VGG become this program's vgg-a … vgg-e.  The last two cannot be
told apart, so one must be asked for.  Prefixes that wrappers leave (module., _orig_mod., model., net.) are
taken off, features.module.0 too.  A batch
normalization is multiplied into the convolution before it.  Widths are the arrays' own; floats of 16 and 64
bits become float32.

Pickles (.pt, .pth) are not read; `safetensors.torch.save_file(model.state_dict(), path)` makes the file.
"""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors

from tinyalex.errors import ArgumentError, DataError, few
from tinyalex.exchange import Imported, other_kind
from tinyalex.fields import finite
from tinyalex.models import Network, make
from tinyalex.models.vgg import layers_of
from tinyalex.nn import LRN, AllGather, Conv2d, Dropout, Linear, MaxPool

DTYPES = {"F32": "<f4", "F64": "<f8", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}
WRAPPERS = {"module", "_orig_mod"}  # DataParallel and torch.compile, anywhere in a name
OUTER = {"model", "net", "network", "state_dict"}  # before all names
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
EPSILON = 1e-5  # of torch.nn.BatchNorm2d


class Kind(NamedTuple):
    """A network that a state dict can be of."""

    what: str  # for people
    modules: object  # (the modules of the file) → (conv or fc, module) in order, or None
    layers: object  # (shapes of the weights, modules, with batch normalization?) → list of layers
    side: int  # of the input


def read(path, network=None):
    """Read a state dict.

    network: which of the table it is, where its names fit two.  Raises DataError, naming the file and the
    array, for one that is not in the table, fits two networks, or is not the one asked for.
    """
    path = Path(path)
    if network not in (None, *KINDS):
        raise ArgumentError(f"--network: expected one of {', '.join(KINDS)}, found {network!r}")
    try:
        return _network(_arrays(path), network)
    except (DataError, ArgumentError) as error:
        raise DataError(f"{path}: {error}") from error


# ---- the file's arrays -----------------------------------------------------------------------------------


class Array(NamedTuple):
    """An array of the file."""

    name: str  # as it stands there
    dtype: str
    array: np.ndarray  # float32


def _arrays(path):
    """Return the weights of the file by their names without prefixes."""
    try:
        data = path.read_bytes()
        entries = safetensors.deserialize(data)
    except OSError as error:
        raise DataError(f"expected a state dict (.safetensors): {error.strerror}") from error
    except Exception as error:  # SafetensorError
        found = other_kind(path, data) or f"no whole safetensors file ({len(data):,} bytes): {error}"
        raise DataError(found) from error
    entries = sorted(entries)
    bare = _without_prefixes([name for name, _ in entries])
    found = {}
    for (name, entry), short in zip(entries, bare, strict=True):
        if short.endswith("num_batches_tracked"):
            continue
        if short in found:
            raise DataError(f"{found[short].name} and {name}: expected names that differ")
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        if DTYPES.get(dtype, "<i8") == "<i8" or len(shape) not in (1, 2, 4):
            raise DataError(f"{name}: expected weights or biases of floats, found {dtype} {shape}")
        raw = np.frombuffer(entry["data"], DTYPES[dtype]).reshape(shape)
        with np.errstate(over="ignore"):  # a float64 beyond float32's range is found not to be finite
            array = (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw.astype(np.float32)
        finite({name: array})
        found[short] = Array(name, dtype, array)
    return found


def _without_prefixes(names):
    parts = [[part for part in name.split(".") if part not in WRAPPERS] for name in names]
    while parts and len({tuple(p[:1]) for p in parts}) == 1 and parts[0][:1] and parts[0][0] in OUTER:
        parts = [p[1:] for p in parts]
    return [".".join(p) for p in parts]


# ---- which network it is ---------------------------------------------------------------------------------


def _network(arrays, asked):
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in sorted(arrays, key=_by_number)))
    fitting = {name: kind for name, kind in KINDS.items() if kind.modules(modules, arrays)}
    if asked is not None and asked not in fitting:
        raise DataError(f"expected the names of {asked}, found {few(modules)}")
    if not fitting:
        raise DataError(f"expected the names of a network that is known, found {few(modules)}")
    if asked is None and len(fitting) > 1:
        each = " or ".join(f"{name} ({kind.what})" for name, kind in fitting.items())
        raise DataError(f"its names fit more than one network: choose with --network {each}")
    name = asked or next(iter(fitting))
    return _read_as(name, KINDS[name], arrays, modules)


def _read_as(name, kind, arrays, modules):
    named = kind.modules(modules, arrays)  # conv1 → features.0
    wanted = {f"{module}.{key}" for module in named.values() for key in ("weight", "bias")}
    norms = {ours: norm for ours, module in named.items() if (norm := _norm_after(module, arrays))}
    wanted |= {f"{norm}.{key}" for norm in norms.values() for key in BATCH_NORM}
    if wanted != arrays.keys():
        missing = [f"{n} is missing" for n in sorted(wanted - arrays.keys(), key=_by_number)]
        unknown = [f"{arrays[n].name} is not of it" for n in sorted(arrays.keys() - wanted, key=_by_number)]
        raise DataError(f"expected the arrays of {name} ({kind.what}); {few(missing + unknown)}")
    weights = {ours: arrays[f"{module}.weight"] for ours, module in named.items()}
    biases = {ours: arrays[f"{module}.bias"] for ours, module in named.items()}
    for ours, w in weights.items():
        dims, b = 4 if ours.startswith("conv") else 2, biases[ours]
        if w.array.ndim != dims or not w.array.size or b.array.shape != w.array.shape[:1]:
            found = f"{w.array.shape} and {b.array.shape}"
            raise DataError(
                f"{w.name}: expected weights of {dims} axes and a bias for each row, found {found}"
            )
    if norms and len(norms) < sum(ours.startswith("conv") for ours in named):
        raise DataError(
            f"expected a batch normalization after every convolution, or none, found {len(norms)}"
        )
    layers = kind.layers({ours: w.array.shape for ours, w in weights.items()}, named, bool(norms))
    network = Network(layers, (3, kind.side, kind.side))
    for placed in _placed(network, weights):
        size, w = placed.layer.sizes(placed.x).get("w"), weights.get(placed.layer.name)
        if w is not None and w.array.shape != size:
            raise DataError(f"{w.name}: expected {size} in {name}, found {w.array.shape}")
    found = {}
    for ours in named:
        w, b = weights[ours].array, biases[ours].array
        if ours in norms:
            w, b = _folded(norms[ours], w, b, arrays)
        found |= {f"{ours}.w": w, f"{ours}.b": b}
    notes = [f"read as {name}: {kind.what}"]
    kinds = sorted({a.dtype for a in arrays.values()} - {"F32"})
    if kinds:
        notes.append(f"weights of {', '.join(kinds)} are float32 from here on")
    if norms:
        notes.append(f"{len(norms)} batch normalizations are multiplied into the convolutions before them")
    return Imported(network, finite(found), {}, notes=tuple(notes))


def _placed(network, weights):
    """The network's layers in their places; an error names the file's array."""
    try:
        return network.plan()
    except ArgumentError as error:
        layer, _, rest = str(error).partition(": ")
        if layer in weights:
            raise DataError(f"{weights[layer].name}: {rest}") from error
        raise


def _by_number(name):
    """Sort key: numbers in a name by their value."""
    return [(not part.isdecimal(), int(part) if part.isdecimal() and len(part) < 9 else 0, part)
            for part in name.split(".")]  # fmt: skip


def _norm_after(module, arrays):
    """The batch normalization that follows a module, features.1 after features.0, if there is one."""
    head, _, number = module.rpartition(".")
    norm = f"{head}.{int(number) + 1}" if head and number.isdecimal() else None
    return norm if f"{norm}.running_mean" in arrays else None


def _folded(norm, w, b, arrays):
    """(w, b) of a convolution and the batch normalization after it in one."""
    gamma, beta, mean, var = (arrays[f"{norm}.{key}"].array.astype(np.float64) for key in BATCH_NORM)
    if any(a.shape != b.shape for a in (gamma, beta, mean, var)) or var.min() < 0:
        name = arrays[f"{norm}.running_var"].name
        raise DataError(f"{name}: expected four numbers for each of {len(b)} filters, variances ≥ 0")
    scale = gamma / np.sqrt(var + EPSILON)
    w = (w * scale[:, None, None, None]).astype(np.float32)
    return w, ((b - mean) * scale + beta).astype(np.float32)


# ---- the networks ----------------------------------------------------------------------------------------


def _features(modules, arrays):
    """The numbers of features.N that are convolutions, or None where there are other names beside."""
    inner = [m for m in modules if m.startswith("features.")]
    if not all(re.fullmatch(r"features\.\d{1,3}", m) for m in inner):
        return None
    return [int(m.partition(".")[2]) for m in inner if f"{m}.running_mean" not in arrays]


def _torchvision(features, classifier):
    """A function that names the modules of a network of torchvision's, if they are its."""

    def modules(found, arrays):
        numbers = _features(found, arrays)
        head = [m for m in found if not m.startswith("features.")]
        if not numbers or not features(numbers) or head != [f"classifier.{n}" for n in classifier]:
            return None
        names = {f"conv{k}": f"features.{n}" for k, n in enumerate(numbers, 1)}
        return names | {f"fc{k}": module for k, module in enumerate(head, len(numbers) + 1)}

    return modules


def _vgg_modules(found, arrays):
    """Name torchvision's modules as in the released weights: a pooling, without weights, ends a column."""
    modules = _torchvision(lambda n: n[0] == 0 and len(n) > 1, (0, 3, 6))(found, arrays)
    if modules is None:
        return None
    numbers = [int(m.rpartition(".")[2]) for m in modules.values() if m.startswith("features.")]
    apart = 3 if f"features.{numbers[0] + 1}.running_mean" in arrays else 2
    names, column, row = {}, 1, 0
    for number, following in pairwise([*numbers, numbers[-1]]):
        row += 1
        names[f"conv{column}_{row}"] = f"features.{number}"
        if following - number > apart:
            column, row = column + 1, 0
    return names | {f"fc{k}": f"classifier.{n}" for k, n in ((6, 0), (7, 3), (8, 6))}


def _released(modules, arrays):
    convs = [m for m in modules if re.fullmatch(r"conv[1-5]_[1-4]", m)]
    return {m: m for m in modules} if convs and modules == [*sorted(convs), "fc6", "fc7", "fc8"] else None


def _caffe_modules(modules, arrays):
    names = [f"conv{i}" for i in range(1, 6)] + [f"fc{i}" for i in range(6, 9)]
    return {name: name for name in names} if modules == names else None


def _alexnet(shapes, modules, normed):
    geometry = {"conv1": (11, 4, 2), "conv2": (5, 1, 2)} | {f"conv{k}": (3, 1, 1) for k in (3, 4, 5)}
    layers = []
    for name, (kernel, stride, pad) in geometry.items():
        layers.append(Conv2d(shapes[name][0], kernel, stride, pad, activation="relu", name=name))
        if name in ("conv1", "conv2", "conv5"):
            layers.append(MaxPool(3, 2, ceil=False, name=name.replace("conv", "pool")))
    return [
        *layers,
        Dropout(inverted=True, name="dropout5"),
        Linear(shapes["fc6"][0], "relu", name="fc6"),
        Dropout(inverted=True, name="dropout6"),
        Linear(shapes["fc7"][0], "relu", name="fc7"),
        Linear(shapes["fc8"][0], name="fc8"),
    ]


def _vgg(shapes, modules, normed):
    convs = [int(m.rpartition(".")[2]) for m in modules.values() if m.startswith("features.")]
    apart = 3 if normed else 2
    for before, number in pairwise(convs):
        if number - before not in (apart, apart + 1):
            raise DataError(f"features.{number}: expected it {apart} or {apart + 1} after the one before")
    words, column = [], "1"
    for name in shapes:
        if name.startswith("conv"):
            if name[4] != column:
                words, column = [*words, "M"], name[4]
            words.append(f"{shapes[name][0]}" + ("/1" if shapes[name][2:] == (1, 1) else ""))
    return layers_of([*words, "M"], (shapes["fc6"][0], shapes["fc7"][0]), shapes["fc8"][0])


def _bvlc_alexnet(shapes, modules, normed):
    layers = []
    for layer in make("caffe").layers:
        if isinstance(layer, AllGather):
            continue  # its normalizations cross the towers: see `tinyalex.nn.on_towers`
        if isinstance(layer, Conv2d):
            layer = replace(layer, filters=shapes[layer.name][0])
        elif isinstance(layer, Linear):
            layer = replace(layer, features=shapes[layer.name][0])
        layers.append(layer)
    return layers


def _caffenet(shapes, modules, normed):
    layers = _bvlc_alexnet(shapes, modules, normed)
    for i in [i for i, layer in enumerate(layers) if isinstance(layer, LRN)]:
        layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return layers


KINDS = {
    "alexnet": Kind(
        "torchvision's, conv1 of stride 4 and padding 2, no LRN",
        _torchvision([0, 3, 6, 8, 10].__eq__, (1, 4, 6)), _alexnet, 224,
    ),
    "vgg": Kind("torchvision's", _vgg_modules, _vgg, 224),
    "vgg_released": Kind("the VGG authors' names", _released, _vgg, 224),
    "bvlc_alexnet": Kind("Caffe's AlexNet, LRN before pooling", _caffe_modules, _bvlc_alexnet, 227),
    "caffenet": Kind("Caffe's reference network, pooling before LRN", _caffe_modules, _caffenet, 227),
}  # fmt: skip
