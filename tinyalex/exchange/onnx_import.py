"""Sequential convolutional classifiers in from ONNX files, as a `tinyalex.models.Network`.

The file is read from its input to its output, one node after the other, as layers:

    Conv, Gemm, MatMul                          Conv2d and Linear
    BatchNormalization, and a constant in       a scale and a shift of each channel: multiplied into a
    Mul, Div, Add or Sub                        Conv2d or Linear just before, else BatchNorm
    MaxPool, AveragePool, LRN, Dropout, Pad     the layers of these names
    GlobalAveragePool, ReduceMean over H, W     GlobalAvgPool; GlobalMaxPool and ReduceMax over H, W are a
                                                MaxPool over the whole map
    Relu, Clip (0 … 6), Max and Min with 0 and  activations; Mul before and after Tanh are b and a of
    6, LeakyRelu, PRelu (one slope), Tanh,      a tanh(b x)
    Sigmoid
    Flatten, Reshape, Squeeze                   Flatten, where they make (batch, features)
    Mul by a number in (0, 1)                   elsewhere: Dropout as 2012 had it
    Split or Slice, the same layers in each     the two towers: one layer in groups
    part, Concat
    Softmax, LogSoftmax at the end              left out: `predict` takes it itself
    Cast, Identity                              nothing: all is computed in float32

and the normalizations of several nodes (across channels, as PyTorch writes it, and within a map) that are
made of Mul, AveragePool, Mul, Add, Pow, Div.  Anything else is refused by name, with its node.

The file is not trusted, see `tinyalex.exchange.onnx_graph`.  Memory stays below five times the size of the
model's files, plus 1.5 GiB.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyalex.errors import ArgumentError, DataError
from tinyalex.exchange import Imported, onnx_export, onnx_module, onnx_norm, onnx_towers, other_kind
from tinyalex.exchange.onnx_graph import ANY_BATCH, CONSTANT_OPS, FLOATS, Graph, all_text, called, meant
from tinyalex.fields import finite
from tinyalex.models.network import MOST_NUMBERS, Network
from tinyalex.nn import (
    LRN,
    Activate,
    AvgPool,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Weighted,
    ZeroPad,
)
from tinyalex.ops import pooled_size


def read(path):
    """Read an ONNX file.

    Raises DataError, naming the file and the node, for a file that is no whole model, and for a network that
    is not sequential or has a part that tinyalex does not; ArgumentError without the package onnx.
    """
    onnx = onnx_module()
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected an ONNX model: {error.strerror}") from error
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, whichever of its implementations is installed
        found = other_kind(path, data) or f"no whole ONNX file ({len(data):,} bytes): {error}"
        raise DataError(f"{path}: {found}") from error
    if not model.graph.node and (found := other_kind(path, data)):
        raise DataError(f"{path}: {found}")
    del data
    try:
        all_text(model)
        return _Reader(onnx, path, model).read({p.key: p.value for p in model.metadata_props})
    except (DataError, ArgumentError) as error:
        raise DataError(f"{path}: {error}") from error


class _Reader(Graph):
    def __init__(self, onnx, path, model):
        super().__init__(onnx, path, model)
        self.layers, self.arrays, self.weighted = [], {}, 0
        self.first = 0  # of the layers that what follows may still change
        self.scales = set()  # names of the layers that Mul, Add and such made
        self.read_nodes, self.ended = {}, False

    def read(self, properties):
        value, shape = self._input()
        own = onnx_export.own(self, properties)
        if own:
            return Imported(own[0], finite(own[1]), properties)
        self.sizes[value] = self.size = shape
        while value != self.graph.output[0].name:
            value = self.next(value)
        if len(self.sizes[value]) != 1:
            raise DataError(f"expected an output (batch, classes), found (batch, {self.sizes[value]})")
        for node in self.graph.node:
            if id(node) not in self.read_nodes and node.op_type not in CONSTANT_OPS:
                raise DataError(f"{called(node)}: is not between input and output: not a sequential network")
        if not self.layers:
            raise DataError("expected a network with layers, found none")
        self.all_understood(self.read_nodes.values())
        network = Network(self.layers, shape)
        network.plan()
        first = self.layers[0].name
        return Imported(network, finite(self.arrays), properties, first if first in self.scales else None)

    def _input(self):
        g = self.graph
        if not g.node or g.sparse_initializer:
            raise DataError("expected a graph of nodes with dense weights, found none")
        inputs = [i for i in g.input if i.name not in self.initializers]
        if len(inputs) != 1 or len(g.output) != 1:
            raise DataError(f"expected one input and one output, found {len(inputs)} and {len(g.output)}")
        dims = inputs[0].type.tensor_type.shape.dim
        shape = tuple(d.dim_value for d in dims[1:])
        if len(dims) != 4 or min(shape) < 1:
            found = [d.dim_param or d.dim_value for d in dims]
            raise DataError(
                f"input {inputs[0].name!r}: expected (batch, C, H, W) of fixed sizes, found {found}"
            )
        if math.prod(shape) > MOST_NUMBERS:
            raise DataError(f"input: {shape} is larger than {MOST_NUMBERS:,} numbers")
        if inputs[0].type.tensor_type.elem_type not in (*FLOATS, self.onnx.TensorProto.UINT8):
            raise DataError(f"input {inputs[0].name!r}: expected {', '.join(FLOATS.values())} or uint8")
        self.batch = dims[0].dim_value
        return inputs[0].name, shape

    # ---- one node after the other --------------------------------------------------------------------

    def next(self, value):
        """Read what follows a value; return the value that this makes."""
        users = self.users.get(value, [])
        if len(users) > 1 and all(user.op_type == "Slice" for user in users):
            last = onnx_towers.sliced(self, users, value)
        elif len(users) == 2:
            last = onnx_norm.norm(self, value, users)
        else:
            node = self.only(value)
            if node.op_type not in _READERS:
                raise DataError(f"{called(node)}: expected one of {', '.join(_READERS)}")
            if self.ended and node.op_type not in _AFTER_SOFTMAX:
                raise DataError(f"{called(node)}: expected nothing after the softmax")
            self.take(node)
            last = _READERS[node.op_type](self, node, value) or node
        self.sizes[last.output[0]] = self.size
        return last.output[0]

    def push(self, node, kind, *fields, **named):
        """Append a layer, which this node of the file says."""
        name = named["name"]
        try:
            layer = kind(*fields, **named)
            self.size = layer.out(self.size)
        except ArgumentError as error:
            raise DataError(f"{called(node)}: {str(error).removeprefix(f'{name}: ')}") from error
        self.layers.append(layer)
        return layer

    @property
    def last(self):
        """The layer before, where what follows may go into it; else None."""
        return self.layers[-1] if len(self.layers) > self.first else None

    def only(self, value):
        """The one node that reads a value."""
        users = self.users.get(value, [])
        if len(users) != 1:
            names = ", ".join(called(user) for user in users) or "nothing"
            raise DataError(f"value {value!r} is read by {names}: not a sequential network")
        return users[0]

    def take(self, node):
        if id(node) in self.read_nodes or not node.output or not self.is_onnx(node):
            domain = f", of {node.domain}" if node.domain else ""
            raise DataError(
                f"{called(node)}: expected a node of ONNX, opset {self.opset}, that is read once{domain}"
            )
        self.read_nodes[id(node)] = node

    def name(self, kind):
        """conv1, pool1, …, fc6: after the weighted layer, as AlexNet's are named."""
        if kind in ("conv", "fc"):
            self.weighted += 1
        name = base = f"{kind}{self.weighted}"
        taken = {layer.name for layer in self.layers}
        for letter in range(ord("b"), ord("z") + 1):
            if name not in taken:
                return name
            name = base + chr(letter)
        raise DataError(f"more than 25 layers {base}")

    def maps(self, node, value):
        if len(self.sizes[value]) != 3:
            raise DataError(f"{called(node)}: expected maps (C, H, W), found {self.sizes[value]}")
        return self.sizes[value]

    # ---- convolutions and products -------------------------------------------------------------------

    def _geometry(self, node, value, window):
        """(stride, (top, bottom, left, right)) of a convolution or pooling."""
        strides = self.attribute(node, "strides", "INTS", (1, 1))
        if len(strides) != 2 or min(strides) < 1:
            raise DataError(f"{called(node)}: strides: expected two numbers ≥ 1, found {strides}")
        self.allowed(node, dilations=(1, 1))
        auto = self.attribute(node, "auto_pad", "STRING", b"NOTSET")
        pads = self.attribute(node, "pads", "INTS", (0, 0, 0, 0))
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            pad = ()
            for size, z, s in zip(self.maps(node, value)[1:], window, strides, strict=True):
                total = (math.ceil(size / s) - 1) * s + z - size
                if total < -1:  # by ONNX's formula the first window begins inside the map
                    raise DataError(f"{called(node)}: auto_pad: expected a padding ≥ 0, found {total}")
                less = max(0, total) // 2
                more = max(0, total) - less
                pad += (less, more) if auto == b"SAME_UPPER" else (more, less)
            return strides, pad
        if auto not in (b"NOTSET", b"VALID") or len(pads) != 4 or min(pads) < 0:
            raise DataError(f"{called(node)}: expected four paddings ≥ 0, found {pads}, auto_pad {auto!r}")
        top, left, bottom, right = (0, 0, 0, 0) if auto == b"VALID" else pads
        return strides, (top, bottom, left, right)

    def _conv(self, node, value):
        if not 2 <= len(node.input) <= 3 or node.input[0] != value:
            raise DataError(f"{called(node)}: expected an input, weights and at most a bias")
        w = self.weights(node, node.input[1], 4)
        self.allowed(node, kernel_shape=w.shape[2:])
        stride, pad = self._geometry(node, value, w.shape[2:])
        groups = self.attribute(node, "group", "INT", 1)
        C, _, _ = self.maps(node, value)
        if groups < 1 or w.shape[1] * groups != C or not len(w) or len(w) % groups:
            raise DataError(f"{called(node)}: weights {w.shape} in {groups} groups do not fit {C} channels")
        b = self.weights(node, node.input[2], 1) if node.input[2:] and node.input[2] else None
        layer = self.push(
            node, Conv2d, len(w), w.shape[2:], one_or_two(stride), pad, groups, name=self.name("conv")
        )
        self._keep(node, layer, w, b)

    def _keep(self, node, layer, w, b):
        b = np.zeros(len(w), np.float32) if b is None else b
        if b.shape != (len(w),):
            raise DataError(f"{called(node)}: expected a bias for each of {len(w)}, found {b.shape}")
        self.arrays[f"{layer.name}.w"] = np.ascontiguousarray(w)
        self.arrays[f"{layer.name}.b"] = np.ascontiguousarray(b)

    def _gemm(self, node, value):
        if not 2 <= len(node.input) <= 3 or node.input[0] != value:
            raise DataError(f"{called(node)}: expected a row of features, weights and at most a bias")
        self.allowed(node, transA=0)
        w = self._product(node, self.attribute(node, "transB", "INT", 0))
        alpha, beta = (self.attribute(node, name, "FLOAT", 1.0) for name in ("alpha", "beta"))
        b = None
        if node.input[2:] and node.input[2]:
            b = np.float32(beta) * self._row(node, self.constant(node, node.input[2]), len(w))
        layer = self.push(node, Linear, len(w), name=self.name("fc"))
        self._keep(node, layer, w if alpha == 1 else np.float32(alpha) * w, b)

    def _row(self, node, constant, F):
        """A bias as ONNX broadcasts it over (batch, F features), float32 (F,)."""
        if constant.dtype.kind != "f" or constant.shape not in ((), (1,), (F,), (1, 1), (1, F)):
            raise DataError(
                f"{called(node)}: expected a bias for each of {F}, found {constant.dtype} {constant.shape}"
            )
        return np.broadcast_to(constant.astype(np.float32).reshape(-1), F)

    def _matmul(self, node, value):
        if len(node.input) != 2 or node.input[0] != value or len(self.sizes[value]) != 1:
            raise DataError(f"{called(node)}: expected a row of features times weights")
        w = self._product(node, False)
        self._keep(node, self.push(node, Linear, len(w), name=self.name("fc")), w, None)

    def _product(self, node, transposed):
        """The weights (features, inputs) of a product; maps are read as Flatten would."""
        w = self.weights(node, node.input[1], 2)
        w = w if transposed else w.T
        if w.shape[1] != math.prod(self.size) or not len(w):
            raise DataError(f"{called(node)}: weights {w.shape} do not fit an input {self.size}")
        return w

    # ---- a scale and a shift of each channel ---------------------------------------------------------

    def _arithmetic(self, node, value):
        """Add, Sub, Mul or Div with a constant."""
        others = [i for i in node.input if i != value]
        if len(node.input) != 2 or len(others) != 1:
            raise DataError(f"{called(node)}: expected a value and a constant")
        constant = self._per_channel(node, self.constant(node, others[0]), value)
        is_first = node.input[0] == value
        match node.op_type:
            case "Mul" if constant.size == 1 and (last := self._of_tanh(node, value, constant.item())):
                return last
            case "Mul" if constant.size == 1 and 0 < constant.item() < 1 and not self._is_scale():
                self.push(node, Dropout, meant(constant.item()), name=self.name("dropout"))
            case "Mul" if (constant == 1).all():
                pass
            case "Mul":
                self._scale_and_shift(node, constant, 0.0)
            case "Div" if is_first and constant.all():
                self._scale_and_shift(node, 1 / constant, 0.0)
            case "Add":
                self._scale_and_shift(node, 1.0, constant)
            case "Sub":
                self._scale_and_shift(node, *((1.0, -constant) if is_first else (-1.0, constant)))
            case _:
                raise DataError(f"{called(node)}: expected a value divided by a constant that is not 0")
        return node

    def _per_channel(self, node, constant, value):
        """A constant as float64 (1,) or (channels,); DataError if it is not the same all over a map."""
        size = self.sizes[value]
        rank = len(size) + 1
        shape = constant.shape
        if self.opset < 7 and shape:  # the axes of the constant began where `axis` said
            axis = self.attribute(node, "axis", "INT", rank - len(shape))
            shape = (1,) * axis + shape + (1,) * (rank - axis - len(shape))
        whole = (1,) * (rank - len(shape)) + shape
        if constant.dtype.kind != "f" or len(whole) > rank or whole not in (
            (1,) * rank, (1, size[0], *(1,) * (rank - 2)),
        ):  # fmt: skip
            raise DataError(
                f"{called(node)}: expected one number, or one for each of {size[0]} channels, "
                f"found {constant.dtype} {constant.shape}"
            )
        return constant.astype(np.float64).reshape(-1)

    def _of_tanh(self, node, value, factor):
        """Mul by a number before or after Tanh: a and b of a tanh(b x); return the last node of it."""
        made, last = self.makers.get(value), self.last
        if made is not None and made.op_type == "Tanh" and last is not None:
            if last.activation != "tanh" and last.activation[1] != 1:
                return None
            b = 1.0 if last.activation == "tanh" else last.activation[2]
            if not np.isfinite(factor * b) or not factor * b:
                raise DataError(f"{called(node)}: expected a finite number that is not 0, found {factor}")
            self.layers[-1] = replace(last, activation=("tanh", meant(factor), b))
            return node
        after = self.users.get(node.output[0], [])
        if len(after) != 1 or after[0].op_type != "Tanh" or not np.isfinite(factor) or not factor:
            return None
        self.take(after[0])
        self._activation(after[0], ("tanh", 1.0, meant(factor)))
        return after[0]

    def _is_scale(self):
        """Whether a factor belongs to the weights before it, or to the input: else it is dropout's."""
        return not self.layers or self._takes_scale()

    def _takes_scale(self):
        """Whether the layer before is one into whose parameters a scale and a shift can go."""
        is_bare = isinstance(self.last, Weighted) and self.last.activation is None
        return is_bare or isinstance(self.last, BatchNorm)

    def _scale_and_shift(self, node, scale, shift):
        """y = scale · x + shift for each channel, float64."""
        if not self._takes_scale():
            layer = self.push(node, BatchNorm, name=self.name("scale"))
            self.scales.add(layer.name)
            one, zero = np.ones(self.size[0], np.float32), np.zeros(self.size[0], np.float32)
            w = np.full(self.size[0], math.sqrt(1 + layer.eps), np.float32)
            self._keep_norm(layer, w, zero, zero, one)
        name = self.last.name
        w, b = (self.arrays[f"{name}.{key}"] for key in "wb")
        scale, shift = np.broadcast_to(scale, b.shape), np.broadcast_to(shift, b.shape)
        if not (scale == 1).all():
            w = (w * scale.reshape(-1, *(1,) * (w.ndim - 1))).astype(np.float32)
        self.arrays[f"{name}.w"] = w
        self.arrays[f"{name}.b"] = (b * scale + shift).astype(np.float32)

    def _batch_normalization(self, node, value):
        """y = γ (x − μ) / √(σ² + ε) + β, with the file's μ and σ²."""
        if len(node.input) != 5 or node.input[0] != value:
            raise DataError(f"{called(node)}: expected an input, scale, bias, mean and variance")
        self.allowed(node, **{name: 1 for name in ("spatial",) if self.opset < 9})
        self.allowed(node, **{name: 0 for name in ("training_mode",) if self.opset >= 14})
        epsilon = self.attribute(node, "epsilon", "FLOAT", 1e-5)
        gamma, beta, mean, variance = (
            self.constant(node, name).astype(np.float64) for name in node.input[1:]
        )
        momentum = self.attribute(node, "momentum", "FLOAT", 0.9)
        C = self.sizes[value][0]
        if any(a.shape != (C,) for a in (gamma, beta, mean, variance)) or not (variance + epsilon > 0).all():
            raise DataError(f"{called(node)}: expected four numbers for each of {C} channels, variances ≥ 0")
        if self._takes_scale():
            scale = gamma / np.sqrt(variance + epsilon)
            self._scale_and_shift(node, scale, beta - mean * scale)
        else:
            layer = self.push(node, BatchNorm, epsilon, meant(1 - momentum), name=self.name("bn"))
            self._keep_norm(layer, gamma, beta, mean, variance)

    def _keep_norm(self, layer, *arrays):
        for key, array in zip(("w", "b", "mean", "var"), arrays, strict=True):
            self.arrays[f"{layer.name}.{key}"] = array.astype(np.float32)

    # ---- activations ---------------------------------------------------------------------------------

    def _relu(self, node, value):
        self._activation(node, "relu")

    def _sigmoid(self, node, value):
        self._activation(node, "logistic")

    def _tanh(self, node, value):
        self._activation(node, "tanh")

    def _clip(self, node, value):
        """To 0 … 6, or at 0 alone."""
        if node.input[0] != value or len(node.input) > 3:
            raise DataError(f"{called(node)}: expected a value, a minimum and a maximum")
        if self.opset < 11:
            least, most = (self.attribute(node, name, "FLOAT", None) for name in ("min", "max"))
        else:
            least, most = (i and self.number(node, i) for i in [*node.input[1:], "", ""][:2])
        least, most = (None if n in (None, "") or abs(n) > 1e38 else n for n in (least, most))
        if (least, most) == (0, 6):
            self._activation(node, "relu6")
        elif (least, most) == (0, None):
            self._activation(node, "relu")
        elif (least, most) == (None, 6) and self._is_relu():
            self.layers[-1] = replace(self.last, activation="relu6")
        elif (least, most) != (None, None):
            raise DataError(f"{called(node)}: expected a clip to 0 … 6, or at 0, found {least} … {most}")

    def _max(self, node, value):
        """Of a value and 0."""
        if self._bound(node, value) != 0:
            raise DataError(f"{called(node)}: expected the larger of a value and 0")
        self._activation(node, "relu")

    def _min(self, node, value):
        """Of a value that is not negative, and 6."""
        if self._bound(node, value) != 6 or not self._is_relu():
            raise DataError(f"{called(node)}: expected the smaller of a value ≥ 0 and 6")
        self.layers[-1] = replace(self.last, activation="relu6")

    def _is_relu(self):
        return getattr(self.last, "activation", None) in ("relu", "relu6")

    def _bound(self, node, value):
        """The one number with which Max or Min compares a value."""
        others = [i for i in node.input if i != value]
        if len(node.input) != 2 or len(others) != 1:
            raise DataError(f"{called(node)}: expected a value and a number")
        array = self._per_channel(node, self.constant(node, others[0]), value)
        return array[0] if (array == array[0]).all() else None

    def _leaky_relu(self, node, value):
        self._slope(node, self.attribute(node, "alpha", "FLOAT", 0.01))

    def _p_relu(self, node, value):
        """With the same slope for all channels."""
        slopes = self.constant(node, node.input[1]) if len(node.input) == 2 else np.zeros(0)
        if node.input[0] != value or not slopes.size or (slopes != slopes.flat[0]).any():
            raise DataError(f"{called(node)}: expected one slope for all channels")
        self._slope(node, meant(slopes.flat[0]))

    def _slope(self, node, slope):
        if slope < 0 or not math.isfinite(slope):
            raise DataError(f"{called(node)}: expected a slope ≥ 0, found {slope}")
        self._activation(node, ("leaky", slope) if slope else "relu")

    def _activation(self, node, activation):
        """An activation: within the convolution or product before it, if there is one."""
        last = self.last
        if isinstance(last, Weighted) and last.activation is None:
            self.layers[-1] = replace(last, activation=activation)
        else:
            self.push(node, Activate, activation, name=self.name("act"))

    # ---- pooling -------------------------------------------------------------------------------------

    def _max_pool(self, node, value):
        self.allowed(node, storage_order=0)
        self._pool(MaxPool, node, value)

    def _average_pool(self, node, value):
        self._pool(AvgPool, node, value)

    def _pool(self, kind, node, value):
        window = self.attribute(node, "kernel_shape", "INTS")
        if len(window) != 2 or min(window) < 1 or node.input[0] != value or len(node.input) != 1:
            raise DataError(f"{called(node)}: expected a window of two numbers ≥ 1, found {window}")
        if any(node.output[1:]):
            raise DataError(f"{called(node)}: expected no indices of the winners")
        stride, pad = self._geometry(node, value, window)
        ceil = bool(self.attribute(node, "ceil_mode", "INT", 0))
        counted = kind is AvgPool and self.attribute(node, "count_include_pad", "INT", 0)
        if window == (1, 1) and stride == (1, 1) and not any(pad):
            return
        if counted and any(pad):
            self._pad_for_average(node, window, stride, pad, ceil)
            pad = (0, 0, 0, 0)
        if ceil and not any(pad):  # a window larger than the map is the map
            window = tuple(map(min, window, self.size[1:]))
        self.push(node, kind, one_or_two(window), one_or_two(stride), pad, ceil, name=self.name("pool"))

    def _pad_for_average(self, node, window, stride, pad, ceil):
        """Padding that counts becomes real zeros: as far as the windows of the unpadded map reach."""
        around = list(pad)
        for axis, (size, z, s) in enumerate(
            zip(self.maps(node, node.input[0])[1:], window, stride, strict=True)
        ):
            before, after = pad[2 * axis : 2 * axis + 2]
            try:
                count = pooled_size(size, z, s, before, after, ceil, "its padding")
            except ArgumentError as error:
                raise DataError(f"{called(node)}: {error}") from error
            last = (count - 1) * s + z - size - before  # how far the last window reaches beyond the map
            around[2 * axis + 1] = max(0, min(after, last))
        self.push(node, ZeroPad, tuple(around), name=self.name("pad"))

    def _global_average_pool(self, node, value):
        self.maps(node, value)
        self.push(node, GlobalAvgPool, name=self.name("pool"))

    def _global_max_pool(self, node, value):
        _, *window = self.maps(node, value)
        self.push(node, MaxPool, one_or_two(tuple(window)), 1, name=self.name("pool"))

    def _reduce_mean(self, node, value):
        return self._reduce(node, value, self._global_average_pool)

    def _reduce_max(self, node, value):
        return self._reduce(node, value, self._global_max_pool)

    def _reduce(self, node, value, pool):
        """Over H and W alone, at once or one after the other, as a global pooling; return the last node."""
        kind, at, left, rank = node.op_type, value, (2, 3), 4
        kept = self.attribute(node, "keepdims", "INT", 1)
        self.maps(node, value)
        while True:
            axes = self.axes(node, rank)
            if node.op_type != kind or node.input[0] != at or not axes or not set(axes) <= set(left):
                raise DataError(f"{called(node)}: expected {kind} over axes 2 and 3, found {axes}")
            self.allowed(node, keepdims=kept)
            left = tuple(a for a in left if a not in axes)
            if not left:
                break
            if not kept:
                left, rank = (2,), 3
            at = node.output[0]
            node = self.only(at)
            self.take(node)
        pool(node, value)
        if not kept:
            self.push(node, Flatten, name=self.name("flat"))
        return node

    # ---- normalization, dropout ----------------------------------------------------------------------

    def _lrn(self, node, value):
        if list(node.input) != [value]:
            raise DataError(f"{called(node)}: expected one input")
        self.maps(node, value)
        defaults = ("bias", 1.0), ("alpha", 1e-4), ("beta", 0.75)
        k, alpha, beta = (self.attribute(node, name, "FLOAT", value) for name, value in defaults)
        n = self.attribute(node, "size", "INT")
        if n % 2 == 0:  # ONNX's even window reaches further to the right, ours to the left
            raise DataError(f"{called(node)}: size: expected an odd window, found {n}")
        self.push(node, LRN, n, k, alpha, beta, alpha_over_n=True, name=self.name("lrn"))

    def _dropout(self, node, value):
        if not node.input or node.input[0] != value:
            raise DataError(f"{called(node)}: expected the value before it")
        ratio = self.attribute(node, "ratio", "FLOAT", 0.5)
        if len(node.input) > 1 and node.input[1]:
            ratio = meant(self.number(node, node.input[1]))
        if len(node.input) > 2 and node.input[2] and self.number(node, node.input[2]):
            raise DataError(f"{called(node)}: is in training mode")
        if not 0 <= ratio < 1:
            raise DataError(f"{called(node)}: ratio: expected 0 ≤ ratio < 1, found {ratio}")
        self.push(node, Dropout, meant(1 - ratio), inverted=True, name=self.name("dropout"))

    # ---- shapes --------------------------------------------------------------------------------------

    def _flatten(self, node, value):
        rank = len(self.sizes[value]) + 1
        axis = self.axis(node, rank, 1)
        if list(node.input) != [value] or axis != 1:
            raise DataError(f"{called(node)}: axis: expected 1, found {axis}")
        self._to_features(node)

    def _to_features(self, node):
        if len(self.size) > 1:
            self.push(node, Flatten, name=self.name("flat"))

    def _reshape(self, node, value):
        """Only as Flatten, to (batch, all the rest), or to what it is."""
        size = self.sizes[value]
        after = self.reshaped(node, value, size)
        if after == (math.prod(size),):
            self._to_features(node)
        elif after != size:
            raise DataError(f"{called(node)}: expected (batch, {math.prod(size)}), found (batch, {after})")

    def reshaped(self, node, value, size):
        """The shape without batch that Reshape makes of `size`; DataError where it moves the batch."""
        if len(node.input) == 2 and node.input[0] == value:
            target = self.constant(node, node.input[1])
        else:
            target = np.array(self.attribute(node, "shape", "INTS", ()), np.int64)  # before opset 5
        if target.dtype != np.int64 or target.ndim != 1 or not 1 <= target.size <= 8:
            raise DataError(f"{called(node)}: expected a shape, found {target.dtype} {target.shape}")
        shape = target.tolist()
        if self.attribute(node, "allowzero", "INT", 0) and 0 in shape:  # else 0 is the input's size there
            raise DataError(f"{called(node)}: expected sizes that are not 0, found {shape}")
        batch, *rest = shape
        rest = [size[i] if n == 0 and i < len(size) else n for i, n in enumerate(rest)]
        unknown = rest.count(-1) + (batch == -1)
        is_batch = batch in {0, -1, self.batch or ANY_BATCH}
        if unknown > 1 or min(rest, default=1) < -1 or 0 in rest or not is_batch:
            raise DataError(f"{called(node)}: expected the batch left as it is, found {shape}")
        if -1 in rest:
            others = -math.prod(rest)
            rest[rest.index(-1)] = math.prod(size) // others
        if math.prod(rest) != math.prod(size):
            raise DataError(f"{called(node)}: {shape} does not fit {size}")
        return tuple(rest)

    def _squeeze(self, node, value):
        """(batch, C, 1, 1) → (batch, C), both axes at once or one after the other; return the last node."""
        size, at = self.sizes[value], value
        while True:
            axes = self.axes(node, len(size) + 1) if node.op_type == "Squeeze" else ()
            ones = {i for i, n in enumerate(size, 1) if n == 1} - {1}
            if node.input[0] != at or not axes or not set(axes) <= ones:
                raise DataError(f"{called(node)}: expected axes 2 and 3 of maps of one pixel, found {axes}")
            size = tuple(n for i, n in enumerate(size, 1) if i not in axes)
            if len(size) == 1:
                self._to_features(node)
                return node
            at = node.output[0]
            node = self.only(at)
            self.take(node)

    def _pad(self, node, value):
        pads = self.pads(node, value, 4)
        if any(pads[:2]) or any(pads[4:6]):
            raise DataError(f"{called(node)}: expected padding along H and W alone, found {pads}")
        top, left, bottom, right = *pads[2:4], *pads[6:]
        if any(pads):
            self.maps(node, value)
            self.push(node, ZeroPad, (top, bottom, left, right), name=self.name("pad"))

    def pads(self, node, value, rank):
        """What a Pad adds, of zeros: all the befores, then all the afters."""
        self.allowed(node, mode=b"constant", value=0.0)
        extra = [*node.input[2:], "", ""]
        if not node.input or node.input[0] != value or len(node.input) > 4:
            raise DataError(f"{called(node)}: expected a value, paddings, a constant and axes")
        if extra[0] and self.number(node, extra[0]) != 0:
            raise DataError(f"{called(node)}: expected padding of zeros")
        if len(node.input) > 1:
            array = self.constant(node, node.input[1])
            pads = tuple(array.tolist()) if array.ndim == 1 and array.dtype == np.int64 else ()
        else:
            pads = self.attribute(node, "pads", "INTS", None)  # before opset 11
            pads = self.attribute(node, "paddings", "INTS") if pads is None else pads
        axes = range(rank)
        if extra[1]:
            axes = [a % rank for a in self.constant(node, extra[1]).reshape(-1).tolist()]
        if len(pads) != 2 * len(axes) or min(pads, default=0) < 0 or len(set(axes)) != len(axes):
            raise DataError(f"{called(node)}: expected {2 * len(axes)} paddings ≥ 0, found {pads}")
        around = [0] * 2 * rank
        for place, axis in enumerate(axes):
            around[axis], around[rank + axis] = pads[place], pads[len(axes) + place]
        return tuple(around)

    def _cast(self, node, value):
        to = self.attribute(node, "to", "INT")
        if to not in FLOATS:
            raise DataError(f"{called(node)}: expected {', '.join(FLOATS.values())}, found ONNX's type {to}")

    def _identity(self, node, value):
        pass

    def _softmax(self, node, value):
        axis = self.axis(node, 2, -1 if self.opset >= 13 else 1)
        if self.ended or len(self.sizes[value]) != 1 or axis != 1:
            raise DataError(f"{called(node)}: expected at the end only, over the classes of (batch, classes)")
        self.ended = True


def one_or_two(pair):
    """A stride or window as a layer has it: one number where both are the same."""
    return pair[0] if pair[0] == pair[1] else pair


_AFTER_SOFTMAX = {"Cast", "Flatten", "Identity", "Reshape"}
_READERS = {
    "Conv": _Reader._conv,
    "Gemm": _Reader._gemm,
    "MatMul": _Reader._matmul,
    "Add": _Reader._arithmetic,
    "Sub": _Reader._arithmetic,
    "Mul": _Reader._arithmetic,
    "Div": _Reader._arithmetic,
    "BatchNormalization": _Reader._batch_normalization,
    "Relu": _Reader._relu,
    "Clip": _Reader._clip,
    "Max": _Reader._max,
    "Min": _Reader._min,
    "LeakyRelu": _Reader._leaky_relu,
    "PRelu": _Reader._p_relu,
    "Tanh": _Reader._tanh,
    "Sigmoid": _Reader._sigmoid,
    "LRN": _Reader._lrn,
    "MaxPool": _Reader._max_pool,
    "AveragePool": _Reader._average_pool,
    "GlobalAveragePool": _Reader._global_average_pool,
    "GlobalMaxPool": _Reader._global_max_pool,
    "ReduceMean": _Reader._reduce_mean,
    "ReduceMax": _Reader._reduce_max,
    "Dropout": _Reader._dropout,
    "Flatten": _Reader._flatten,
    "Reshape": _Reader._reshape,
    "Squeeze": _Reader._squeeze,
    "Pad": _Reader._pad,
    "Split": onnx_towers.towers,
    "Cast": _Reader._cast,
    "Identity": _Reader._identity,
    "Softmax": _Reader._softmax,
    "LogSoftmax": _Reader._softmax,
}
