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
from itertools import pairwise
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from tinyalex.comm import Comm
from tinyalex.devices import Device
from tinyalex.errors import ArgumentError, DataError
from tinyalex.exchange import Imported
from tinyalex.models import sequential as seq
from tinyalex.models.alexnet import PRESETS, alexnet
from tinyalex.nn import BlankWeights

RELU = ("relu",)


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
        names, make, size = {f"conv{i}": f"conv{i}" for i in range(1, 6)}, _caffe, 227
        names |= {f"fc{i}": f"fc{i}" for i in range(6, 9)}
    elif features == [0, 3, 6, 8, 10] and head == ["classifier.1", "classifier.4", "classifier.6"]:
        names, make, size = _numbered(features, head), _torchvision_alexnet, 224
    elif features[:1] == [0] and head == ["classifier.0", "classifier.3", "classifier.6"]:
        names, make, size = _numbered(features, head), lambda shapes: _vgg(shapes, features), 224
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
    layers = make({name: ours[f"{name}.w"].shape for name in names.values()})
    shape = (3, size, size)
    return Imported(seq.from_json(seq.to_json(layers), shape), ours, shape, {})


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
        layers.append(seq.Conv(name, shapes[name], stride, (pad,) * 4, 1, RELU))
        if name in ("conv1", "conv2", "conv5"):
            layers.append(seq.MaxPool(name.replace("conv", "pool"), 3, 2))
    return [
        *layers,
        seq.Dropout("dropout5"),
        seq.Linear("fc6", shapes["fc6"], RELU),
        seq.Dropout("dropout6"),
        seq.Linear("fc7", shapes["fc7"], RELU),
        seq.Linear("fc8", shapes["fc8"]),
    ]


def _vgg(shapes, features):
    layers = []
    for k, (i, following) in enumerate(pairwise([*features, features[-1] + 3]), 1):
        if following - i not in (2, 3):
            raise DataError(f"features.{following}: expected a convolution 2 or 3 after features.{i}")
        layers.append(seq.Conv(f"conv{k}", shapes[f"conv{k}"], 1, (1,) * 4, 1, RELU))
        if following - i == 3:
            layers.append(seq.MaxPool(f"pool{k}", 2, 2))
    for k in (len(features) + 1, len(features) + 2):
        layers += [seq.Linear(f"fc{k}", shapes[f"fc{k}"], RELU), seq.Dropout(f"dropout{k}")]
    return [*layers, seq.Linear(f"fc{k + 1}", shapes[f"fc{k + 1}"])]


def _caffe(shapes):
    net = alexnet(PRESETS["caffe"], Comm(Device("cpu:0")), BlankWeights())
    layers = seq.layers_of(net)
    return [x._replace(shape=shapes[x.name]) if isinstance(x, (seq.Conv, seq.Linear)) else x for x in layers]
