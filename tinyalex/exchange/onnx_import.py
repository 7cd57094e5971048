"""Sequential convolutional classifiers in from ONNX files, as a `tinyalex.models.Network`.

The file is read from its input to its output, one node after the other: Conv, Gemm, MatMul + Add, MaxPool,
AveragePool, GlobalAveragePool, BatchNormalization, LRN, Relu, Tanh, Sigmoid, Dropout, Flatten, Reshape, Pad,
Identity, Mul by a constant (2012's dropout, tanh[a,b]) and a last Softmax, which is left out: `predict` takes
it itself.  Three spellings of several nodes are read as one layer: Split, LRN …, Concat (towers), and the
normalizations across channels (as PyTorch writes it) and within a map that are made of Mul, AveragePool, Mul,
Add, Pow, Div.  Anything else is refused by name, with its node.

The file is not trusted, see `tinyalex.exchange.onnx_graph`.  Memory stays below five times the size of the
model's files, plus 1.5 GiB.
"""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyalex.errors import ArgumentError, DataError
from tinyalex.exchange import Imported, onnx_module, onnx_norm
from tinyalex.exchange.onnx_graph import CONSTANT_OPS, Graph, called, meant
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
        raise DataError(f"{path}: not a whole ONNX file ({len(data):,} bytes): {error}") from error
    del data
    try:
        return _Reader(onnx, path, model.graph).read({p.key: p.value for p in model.metadata_props})
    except (DataError, ArgumentError) as error:
        raise DataError(f"{path}: {error}") from error


class _Reader(Graph):
    def __init__(self, onnx, path, graph):
        super().__init__(onnx, path, graph)
        self.layers, self.arrays, self.weighted = [], {}, 0
        self.read_nodes = set()

    def read(self, properties):
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
        if inputs[0].type.tensor_type.elem_type != self.onnx.TensorProto.FLOAT:
            raise DataError(f"input {inputs[0].name!r}: expected float32")
        self.batch = dims[0].dim_value  # 0: free
        value, end = inputs[0].name, g.output[0].name
        self.sizes[value] = self.size = shape
        while value != end:
            value = self._next(value)
        if len(self.sizes[value]) != 1:
            raise DataError(f"expected an output (batch, classes), found (batch, {self.sizes[value]})")
        for node in g.node:
            if id(node) not in self.read_nodes and node.op_type not in CONSTANT_OPS:
                raise DataError(f"{called(node)}: is not between input and output: not a sequential network")
        if not self.layers:
            raise DataError("expected a network with layers, found none")
        network = Network(self.layers, shape)
        network.plan()
        return Imported(network, self.arrays, properties)

    # ---- one node after the other --------------------------------------------------------------------

    def _next(self, value):
        """Read what follows a value; return the value that this makes."""
        users = self.users.get(value, [])
        if len(users) == 2:
            last = onnx_norm.norm(self, value, users)
        else:
            node = self.only(value)
            if node.op_type not in _READERS:
                raise DataError(f"{called(node)}: expected one of {', '.join(_READERS)}")
            self.take(node)
            last = _READERS[node.op_type](self, node, value) or node
        self.sizes[last.output[0]] = self.size
        return last.output[0]

    def push(self, layer):
        self.size = layer.out(self.size)
        self.layers.append(layer)

    def only(self, value):
        """The one node that reads a value."""
        users = self.users.get(value, [])
        if len(users) != 1:
            names = ", ".join(called(user) for user in users) or "nothing"
            raise DataError(f"value {value!r} is read by {names}: not a sequential network")
        return users[0]

    def take(self, node):
        if id(node) in self.read_nodes or not node.output or node.domain not in ("", "ai.onnx"):
            domain = f", of {node.domain}" if node.domain else ""
            raise DataError(f"{called(node)}: expected a node of ONNX that is read once{domain}")
        self.read_nodes.add(id(node))

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

    def _geometry(self, node, value, window):
        """(stride, (top, bottom, left, right)) of a convolution or pooling."""
        strides = self.attribute(node, "strides", "INTS", (1, 1))
        if len(strides) != 2 or strides[0] != strides[1] or strides[0] < 1:
            raise DataError(f"{called(node)}: expected the same stride along both axes, found {strides}")
        self.allowed(node, dilations=(1, 1))
        stride, auto = strides[0], self.attribute(node, "auto_pad", "STRING", b"NOTSET")
        pads = self.attribute(node, "pads", "INTS", (0, 0, 0, 0))
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            pad = ()
            for size, z in zip(self.maps(node, value)[1:], window, strict=True):
                total = max(0, (math.ceil(size / stride) - 1) * stride + z - size)
                less = total // 2
                pad += (less, total - less) if auto == b"SAME_UPPER" else (total - less, less)
            return stride, pad
        if auto not in (b"NOTSET", b"VALID") or len(pads) != 4 or min(pads) < 0:
            raise DataError(f"{called(node)}: expected four paddings ≥ 0, found {pads}, auto_pad {auto!r}")
        top, left, bottom, right = (0, 0, 0, 0) if auto == b"VALID" else pads
        return stride, (top, bottom, left, right)

    def maps(self, node, value):
        if len(self.sizes[value]) != 3:
            raise DataError(f"{called(node)}: expected maps (C, H, W), found {self.sizes[value]}")
        return self.sizes[value]

    # ---- the operations ------------------------------------------------------------------------------

    def _conv(self, node, value):
        if not 2 <= len(node.input) <= 3 or node.input[0] != value:
            raise DataError(f"{called(node)}: expected an input, weights and at most a bias")
        w = self.constant(node, node.input[1])
        if w.ndim != 4 or w.dtype != np.float32:
            raise DataError(f"{called(node)}: expected weights (F, C, KH, KW), found {w.shape}")
        self.allowed(node, kernel_shape=w.shape[2:])
        stride, pad = self._geometry(node, value, w.shape[2:])
        groups = self.attribute(node, "group", "INT", 1)
        layer = Conv2d(w.shape[0], w.shape[2:], stride, pad, groups, name=self.name("conv"))
        layer.out(self.maps(node, value))
        if layer.sizes(self.size)["w"] != w.shape:
            raise DataError(
                f"{called(node)}: weights {w.shape} in {groups} groups do not fit {self.size[0]} channels"
            )
        self._weights(node, layer.name, w, self.constant(node, node.input[2]) if node.input[2:] else None)
        self.push(layer)

    def _weights(self, node, name, w, b):
        w = np.ascontiguousarray(w)
        b = np.zeros(len(w), np.float32) if b is None else b
        if b.dtype != np.float32 or b.size not in (1, len(w)) or max(b.shape, default=1) != b.size:
            raise DataError(f"{called(node)}: expected a bias for each of {len(w)}, found {b.shape}")
        self.arrays[f"{name}.w"] = w
        self.arrays[f"{name}.b"] = np.ascontiguousarray(np.broadcast_to(b.reshape(-1), len(w)))

    def _gemm(self, node, value):
        if not 2 <= len(node.input) <= 3 or node.input[0] != value or len(self.sizes[value]) != 1:
            raise DataError(f"{called(node)}: expected a row of features, weights and at most a bias")
        self.allowed(node, alpha=1.0, beta=1.0, transA=0)
        transposed = self.attribute(node, "transB", "INT", 0)
        bias = self.constant(node, node.input[2]) if node.input[2:] else None
        self._product(node, bias, transposed)

    def _matmul(self, node, value):
        if len(node.input) != 2 or node.input[0] != value or len(self.sizes[value]) != 1:
            raise DataError(f"{called(node)}: expected a row of features times weights")
        self._product(node, None, False)

    def _product(self, node, bias, transposed):
        w = self.constant(node, node.input[1])
        if w.ndim != 2 or w.dtype != np.float32:
            raise DataError(f"{called(node)}: expected weights of two axes, found {w.shape}")
        w = w if transposed else w.T
        layer = Linear(w.shape[0], name=self.name("fc"))
        if layer.sizes(self.size)["w"] != w.shape:
            raise DataError(f"{called(node)}: weights {w.shape} do not fit an input {self.size}")
        self._weights(node, layer.name, w, bias)
        self.push(layer)

    def _add(self, node, value):
        """The bias after a MatMul."""
        made = self.makers.get(value)
        others = [i for i in node.input if i != value]
        if made is None or made.op_type != "MatMul" or len(node.input) != 2 or len(others) != 1:
            raise DataError(f"{called(node)}: expected the bias of a MatMul just before")
        name = self.layers[-1].name
        self._weights(node, name, self.arrays[f"{name}.w"], self.constant(node, others[0]))

    def _relu(self, node, value):
        self._activation("relu")

    def _sigmoid(self, node, value):
        self._activation("logistic")

    def _tanh(self, node, value):
        self._activation("tanh")

    def _activation(self, activation):
        """An activation: within the convolution or product before it, if there is one."""
        last = self.layers[-1] if self.layers else None
        if isinstance(last, Weighted) and last.activation is None:
            self.layers[-1] = replace(last, activation=activation)
        else:
            self.push(Activate(activation, name=self.name("neuron")))

    def _mul(self, node, value):
        """By a constant: a and b of a tanh(b x), or what dropout keeps."""
        factor = self.scalar(node, value)
        if factor is None:
            raise DataError(f"{called(node)}: expected a value times one constant number")
        made, last = self.makers.get(value), self.layers[-1] if self.layers else None
        if (
            made is not None
            and made.op_type == "Tanh"
            and (last.activation == "tanh" or last.activation[1] == 1)
        ):
            b = 1.0 if last.activation == "tanh" else last.activation[2]
            self.layers[-1] = replace(last, activation=("tanh", factor, b))
            return node
        after = self.users.get(node.output[0], [])
        if len(after) == 1 and after[0].op_type == "Tanh":
            self.take(after[0])
            self._activation(("tanh", 1.0, factor))
            return after[0]
        if not 0 < factor <= 1:
            raise DataError(f"{called(node)}: expected a factor as of dropout, in (0, 1], found {factor}")
        self.push(Dropout(factor, name=self.name("dropout")))
        return node

    def _max_pool(self, node, value):
        self.allowed(node, storage_order=0)
        self._pool(MaxPool, node, value)

    def _average_pool(self, node, value):
        self._pool(AvgPool, node, value)

    def _pool(self, kind, node, value):
        window = self.attribute(node, "kernel_shape", "INTS")
        if len(window) != 2 or window[0] != window[1] or list(node.input) != [value]:
            raise DataError(f"{called(node)}: expected a square window, found {window}")
        stride, pad = self._geometry(node, value, window)
        ceil = bool(self.attribute(node, "ceil_mode", "INT", 0))
        if window == (1, 1) and stride == 1 and not any(pad):
            return
        if kind is AvgPool and any(pad) and self.attribute(node, "count_include_pad", "INT", 0):
            self.push(ZeroPad(pad, name=self.name("pad")))  # the padding counts: real zeros
            pad = (0, 0, 0, 0)
        z, size = window[0], self.size[1:]
        self.push(kind(z, stride, pad, ceil, name=self.name("pool")))
        for axis in (0, 1):
            windows = 1 - (z - size[axis] - sum(pad[2 * axis : 2 * axis + 2])) // stride
            if ceil and self.size[1:][axis] != windows:  # onnx counts it, PyTorch does not
                raise DataError(f"{called(node)}: its last window would start in the padding: not read alike")

    def _global_average_pool(self, node, value):
        if list(node.input) != [value]:
            raise DataError(f"{called(node)}: expected one input")
        self.maps(node, value)
        self.push(GlobalAvgPool(name=self.name("pool")))

    def _batch_norm(self, node, value):
        """In its inference form: with the file's means and variances."""
        if len(node.input) != 5 or node.input[0] != value:
            raise DataError(f"{called(node)}: expected an input, scale, bias, mean and variance")
        self.allowed(node, spatial=1, training_mode=0)
        arrays = [self.constant(node, name) for name in node.input[1:]]
        C = self.sizes[value][0]
        if any(a.shape != (C,) or a.dtype != np.float32 for a in arrays) or not (arrays[3] >= 0).all():
            raise DataError(f"{called(node)}: expected four numbers for each of {C} channels, variances ≥ 0")
        eps, kept = (
            self.attribute(node, *one) for one in (("epsilon", "FLOAT", 1e-5), ("momentum", "FLOAT", 0.9))
        )
        layer = BatchNorm(eps, meant(1 - kept), name=self.name("bn"))
        self.arrays |= {f"{layer.name}.{key}": a for key, a in zip(layer.sizes((C,)), arrays, strict=True)}
        self.push(layer)

    def _lrn(self, node, value):
        if list(node.input) != [value]:
            raise DataError(f"{called(node)}: expected one input")
        self.push(LRN(*self.lrn_constants(node), alpha_over_n=True, name=self.name("lrn")))

    def lrn_constants(self, node):
        defaults = ("bias", 1.0), ("alpha", 1e-4), ("beta", 0.75)
        k, alpha, beta = (self.attribute(node, name, "FLOAT", value) for name, value in defaults)
        n = self.attribute(node, "size", "INT")
        if n % 2 == 0:  # ONNX's even window reaches further to the right, ours to the left
            raise DataError(f"{called(node)}: size: expected an odd window, found {n}")
        return n, k, alpha, beta

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
        self.push(Dropout(meant(1 - ratio), inverted=True, name=self.name("dropout")))

    def number(self, node, name):
        array = self.constant(node, name)
        if array.size != 1:
            raise DataError(f"{called(node)}: expected one number, found {array.shape}")
        return array.item()

    def _flatten(self, node, value):
        size = self.sizes[value]
        axis = self.attribute(node, "axis", "INT", 1)
        if list(node.input) != [value] or axis not in (1, 1 - len(size) - 1):
            raise DataError(f"{called(node)}: axis: expected 1, found {axis}")
        if len(size) > 1:
            self.push(Flatten(name=self.name("flat")))

    def _reshape(self, node, value):
        """Only as Flatten: to (batch, all the rest)."""
        if len(node.input) == 2 and node.input[0] == value:
            target = self.constant(node, node.input[1])
        else:
            target = np.array(self.attribute(node, "shape", "INTS", ()), np.int64)  # before opset 5
        size = self.sizes[value]
        if self.reshaped(node, size, target) != (math.prod(size),):
            raise DataError(f"{called(node)}: expected (batch, {math.prod(size)}), found {target.tolist()}")
        if len(size) > 1:
            self.push(Flatten(name=self.name("flat")))

    def reshaped(self, node, size, target):
        """The shape without batch that Reshape makes of `size`; DataError where it moves the batch."""
        if target.dtype != np.int64 or target.ndim != 1 or not 1 <= target.size <= 8:
            raise DataError(f"{called(node)}: expected a shape, found {target.dtype} {target.shape}")
        batch, *rest = target.tolist()
        unknown = rest.count(-1) + (batch == -1)
        if unknown > 1 or min(rest, default=1) < -1 or 0 in rest or batch not in {0, -1, self.batch}:
            raise DataError(f"{called(node)}: expected the batch left as it is, found {target.tolist()}")
        if -1 in rest:
            others = -math.prod(rest)
            rest[rest.index(-1)] = math.prod(size) // others
        if math.prod(rest) != math.prod(size):
            raise DataError(f"{called(node)}: {target.tolist()} does not fit {size}")
        return tuple(rest)

    def _pad(self, node, value):
        pads = self.pads(node, value, 4)
        if pads[:2] != (0, 0) or pads[4:6] != (0, 0):
            raise DataError(f"{called(node)}: expected padding along H and W alone, found {pads}")
        top, left, bottom, right = *pads[2:4], *pads[6:]
        if any(pads):
            self.push(ZeroPad((top, bottom, left, right), name=self.name("pad")))

    def pads(self, node, value, rank):
        """What a Pad adds, of zeros: all the befores, then all the afters."""
        self.allowed(node, mode=b"constant", value=0.0)
        extra = [i for i in node.input[2:] if i]
        if not node.input or node.input[0] != value or len(node.input) > 3:
            raise DataError(f"{called(node)}: expected a value, paddings and a constant")
        if extra and self.number(node, extra[0]) != 0:
            raise DataError(f"{called(node)}: expected padding of zeros")
        if len(node.input) > 1:
            array = self.constant(node, node.input[1])
            pads = tuple(array.tolist()) if array.ndim == 1 and array.dtype == np.int64 else ()
        else:
            pads = self.attribute(node, "pads", "INTS")  # before opset 11
        if len(pads) != 2 * rank or min(pads) < 0:
            raise DataError(f"{called(node)}: expected {2 * rank} paddings ≥ 0, found {pads}")
        return pads

    def _identity(self, node, value):
        pass

    def _softmax(self, node, value):
        if self.graph.output[0].name != node.output[0] or len(self.sizes[value]) != 1:
            raise DataError(f"{called(node)}: expected at the end only, on (batch, classes)")
        if self.attribute(node, "axis", "INT", -1) not in (1, -1):
            raise DataError(f"{called(node)}: axis: expected that of the classes")


_READERS = {
    "Conv": _Reader._conv,
    "Gemm": _Reader._gemm,
    "MatMul": _Reader._matmul,
    "Add": _Reader._add,
    "Relu": _Reader._relu,
    "Tanh": _Reader._tanh,
    "Sigmoid": _Reader._sigmoid,
    "BatchNormalization": _Reader._batch_norm,
    "LRN": _Reader._lrn,
    "MaxPool": _Reader._max_pool,
    "AveragePool": _Reader._average_pool,
    "GlobalAveragePool": _Reader._global_average_pool,
    "Dropout": _Reader._dropout,
    "Flatten": _Reader._flatten,
    "Reshape": _Reader._reshape,
    "Pad": _Reader._pad,
    "Mul": _Reader._mul,
    "Split": onnx_norm.towers,
    "Identity": _Reader._identity,
    "Softmax": _Reader._softmax,
}
