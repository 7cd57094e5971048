"""PyTorch state dicts in safetensors files: weights (F, C, KH, KW) and (F, D) map one to one.

A state dict has names and arrays but no network; which one it is shows from its names:

    names                                                     network
    features.{0,3,6,8,10}, classifier.{1,4,6}                 torchvision's alexnet (one tower, no LRN)
    features.{0,2,5,…}, classifier.{0,3,6}                    torchvision's vgg11, 13, 16 or 19: a gap of 3
                                                              between two numbers is a pooling
    conv1 … conv5, fc6, fc7, fc8                              bvlc_alexnet: this program's preset "caffe"

each with ".weight" and ".bias": features.0.weight → conv1.w, features.3.bias → conv2.b, …  Widths are the
arrays' own.  Pickles (.pt, .pth) are not read; `safetensors.torch.save_file(model.state_dict(), path)` makes
the file.
"""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from tinyalex.errors import ArgumentError, DataError
from tinyalex.exchange import Imported
from tinyalex.models import Network, make
from tinyalex.nn import AllGather, Conv2d, Dropout, Linear, MaxPool


def read(path):
    """Read a state dict; DataError, naming the file and the array, for one that is not in the table."""
    path = Path(path)
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: expected a state dict (.safetensors): {error.strerror}") from error
    except Exception as error:  # SafetensorError; for a dtype that NumPy does not have, KeyError
        raise DataError(f"{path}: not a safetensors file of NumPy's dtypes: {error!r}") from error
    try:
        return _network(arrays)
    except (DataError, ArgumentError) as error:
        raise DataError(f"{path}: {error}") from error


def _network(arrays):
    for name, array in arrays.items():
        if (
            array.dtype != np.float32
            or not name.endswith((".weight", ".bias"))
            or array.ndim not in (1, 2, 4)
        ):
            raise DataError(f"{name}: expected float32 weights or biases, found {array.dtype} {array.shape}")
    modules = sorted({name.rpartition(".")[0] for name in arrays}, key=_by_number)
    features = [int(m.partition(".")[2]) for m in modules if re.fullmatch(r"features\.\d{1,3}", m)]
    head = [m for m in modules if not m.startswith("features.")]
    if "conv1" in modules:
        names, layers_of, size = {f"conv{i}": f"conv{i}" for i in range(1, 6)}, _caffe, 227
        names |= {f"fc{i}": f"fc{i}" for i in range(6, 9)}
    elif features == [0, 3, 6, 8, 10] and head == ["classifier.1", "classifier.4", "classifier.6"]:
        names, layers_of, size = _numbered(features, head), _torchvision_alexnet, 224
    elif features[:1] == [0] and head == ["classifier.0", "classifier.3", "classifier.6"]:
        names, layers_of, size = _numbered(features, head), lambda shapes: _vgg(shapes, features), 224
    else:
        raise DataError(f"expected the names of a network that is known, found {', '.join(modules[:12])}")
    wanted = {f"{module}.{key}" for module in names for key in ("weight", "bias")}
    if wanted != arrays.keys():
        differ = ", ".join(sorted(wanted ^ arrays.keys())[:6])
        raise DataError(f"expected weight and bias of {', '.join(names)}; missing or unknown: {differ}")
    ours = {}
    for module, name in names.items():
        w, b = arrays[f"{module}.weight"], arrays[f"{module}.bias"]
        if w.ndim != (4 if name.startswith("conv") else 2) or b.shape != w.shape[:1]:
            raise DataError(
                f"{module}: expected weights and a bias for each filter, found {w.shape}, {b.shape}"
            )
        ours |= {f"{name}.w": w, f"{name}.b": b}
    network = Network(layers_of({name: ours[f"{name}.w"].shape for name in names.values()}), (3, size, size))
    for name, wanted in network.sizes().items():
        if ours[name].shape != wanted:
            raise DataError(f"{name}: weights {ours[name].shape}, this network has {wanted} there")
    return Imported(network, ours, {})


def _by_number(module):
    head, _, number = module.partition(".")
    return head, int(number) if number.isdecimal() and len(number) < 9 else 0, module


def _numbered(features, head):
    names = {f"features.{i}": f"conv{k}" for k, i in enumerate(features, 1)}
    return names | {module: f"fc{k}" for k, module in enumerate(head, len(features) + 1)}


def _torchvision_alexnet(shapes):
    geometry = {"conv1": (4, 2), "conv2": (1, 2), "conv3": (1, 1), "conv4": (1, 1), "conv5": (1, 1)}
    layers = []
    for name, (stride, pad) in geometry.items():
        layers.append(_conv(name, shapes, stride, pad))
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


def _vgg(shapes, features):
    layers = []
    for k, (i, following) in enumerate(pairwise([*features, features[-1] + 3]), 1):
        if following - i not in (2, 3):
            raise DataError(f"features.{following}: expected a convolution 2 or 3 after features.{i}")
        layers.append(_conv(f"conv{k}", shapes, 1, 1))
        if following - i == 3:
            layers.append(MaxPool(2, 2, ceil=False, name=f"pool{k}"))
    for k in (len(features) + 1, len(features) + 2):
        layers += [
            Linear(shapes[f"fc{k}"][0], "relu", name=f"fc{k}"),
            Dropout(inverted=True, name=f"dropout{k}"),
        ]
    return [*layers, Linear(shapes[f"fc{k + 1}"][0], name=f"fc{k + 1}")]


def _conv(name, shapes, stride, pad):
    filters, _, *kernel = shapes[name]
    return Conv2d(filters, kernel, stride, pad, activation="relu", name=name)


def _caffe(shapes):
    layers = []
    for layer in make("caffe").layers:
        if isinstance(layer, AllGather):
            continue  # its normalizations cross the towers: see `tinyalex.nn.on_towers`
        if isinstance(layer, Conv2d):
            layer = replace(layer, filters=shapes[layer.name][0], kernel=shapes[layer.name][2:])
        elif isinstance(layer, Linear):
            layer = replace(layer, features=shapes[layer.name][0])
        layers.append(layer)
    return layers
