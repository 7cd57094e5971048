"""A network out as ONNX, opset 13: readable by every runtime since 2020.

The graph takes "input" float32 (batch, C, H, W), the batch free: pixels as the network wants them (metadata
"pictures" of the file says which), and gives "logits" (batch, classes), before the softmax.  Weights go out
as they are.  What ONNX says in another way, exactly:

    LRN, α·Σ          ONNX means α/n·Σ: its alpha is α n
    LRN, two towers   Split, an LRN each, Concat
    same-map norm     x / (k + α avg(x²))^β; avg is AveragePool with the padding counted, Σ/n² everywhere
    a tanh(b x)       Mul, Tanh, Mul
    2012's dropout    Mul by keep; inverted dropout is Dropout, which does nothing outside training
    ceil pooling      padding at bottom and right, as far as the last window hangs over
"""

import json
from functools import singledispatchmethod

import numpy as np

from tinyalex.errors import ArgumentError, DataError
from tinyalex.exchange import onnx_module
from tinyalex.fields import finite
from tinyalex.files import write_bytes
from tinyalex.models.network import Network
from tinyalex.nn import (
    LRN,
    Activate,
    AllGather,
    AvgPool,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Part,
    SameMapNorm,
    ZeroPad,
)
from tinyalex.nn.later import computes_as
from tinyalex.ops import four_pads, two_of

OPSET, IR_VERSION = 13, 8
MOST_BYTES = (1 << 31) - (1 << 20)  # bytes that a protobuf file can hold, with room for its nodes


def write(path, network, arrays, metadata):
    """Write a `tinyalex.models.Network` and its arrays to an ONNX file.

    metadata: JSON kept in the file under the key "tinyalex", beside the network as data: so a file of ours
    comes back as the very network, and not only as one that computes the same (see `own`).
    Raises ArgumentError without the package onnx, or for weights beyond the 2 GiB that one file can hold;
    DataError for weights that are not finite; OSError, naming the file, where it cannot be written: then
    nothing is left of it.
    """
    onnx = onnx_module()
    arrays = finite({name: arrays[name] for name in network.sizes()})
    properties = {"tinyalex": json.dumps({**metadata, "network": network.to_json()})}
    nbytes = sum(array.nbytes for array in arrays.values()) + len(properties["tinyalex"])
    if nbytes > MOST_BYTES:
        raise ArgumentError(f"{path}: {nbytes:,} bytes of weights; an ONNX file holds at most {MOST_BYTES:,}")
    graph = _Graph(onnx, network)
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    made = helper.make_graph(
        graph.nodes,
        "tinyalex",
        [helper.make_tensor_value_info("input", float32, ["batch", *network.input])],
        [helper.make_tensor_value_info("logits", float32, ["batch", *network.outputs])],
        [onnx.numpy_helper.from_array(a, name) for name, a in (graph.constants | arrays).items()],
    )
    model = helper.make_model(
        made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="tinyalex"
    )
    helper.set_model_props(model, properties)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:  # two layers' names that make one
        raise ArgumentError(f"{path}: {error}") from error
    write_bytes(path, model.SerializeToString())


def own(graph, properties):
    """Return (network, arrays) of a file that `write` wrote and nobody has changed since, else None.

    graph: a `tinyalex.exchange.onnx_graph.Graph`.  properties: of the file.  The network that the metadata
    claim is believed where writing it would give the very nodes of the file.
    """
    try:
        network = Network.from_json(json.loads(properties["tinyalex"])["network"])
        made = _Graph(graph.onnx, network)
        sizes = network.sizes()
        if made.nodes != list(graph.graph.node) or graph.initializers.keys() != {*made.constants, *sizes}:
            return None
        reader = made.nodes[0]
        if any(not np.array_equal(graph.constant(reader, name), a) for name, a in made.constants.items()):
            return None
        arrays = {name: graph.constant(reader, name) for name in sizes}
        fits = all((a.shape, a.dtype) == (sizes[name], np.float32) for name, a in arrays.items())
        return (network, arrays) if fits else None
    except (ArgumentError, DataError, KeyError, TypeError, ValueError, RecursionError):
        return None


class _Graph:
    """Nodes one after the other; a layer's make a value of shape `after` from one of `shape`."""

    def __init__(self, onnx, network):
        self.onnx, self.value = onnx, "input"
        self.nodes, self.constants = [], {}
        for place in network.plan():
            self.shape, self.after, layer = place.x, place.y, place.layer
            if computes_as(layer) not in vars(_Graph)["add"].dispatcher.registry:
                raise layer.error(f"ONNX has no word for a {type(layer).__name__}{_instead(layer)}")
            self.add(layer)
        if len(self.after) != 1:
            raise ArgumentError(f"expected a network that ends in a row of logits, found {self.after}")
        if not self.nodes:
            raise ArgumentError("expected a network with layers that do something, found none")
        self.nodes[-1].output[0] = "logits"

    def node(self, op, name, *others, value=None, outputs=None, **attributes):
        """Append a node that reads `value` (the newest by default) and the others."""
        inputs = [value or self.value, *others]
        made = self.onnx.helper.make_node(op, inputs, outputs or [name], name=name, **attributes)
        self.nodes.append(made)
        self.value = made.output[0]
        return self.value

    def constant(self, name, value, dtype=np.float32):
        """Add a constant array; return its name."""
        self.constants[name] = np.asarray(value, dtype)
        return name

    def activation(self, name, activation):
        match ("tanh", 1, 1) if activation == "tanh" else activation:
            case "relu":
                self.node("Relu", name)
            case "relu6":
                self.node("Clip", name, self.constant(f"{name}.least", 0), self.constant(f"{name}.most", 6))
            case ("leaky", slope):
                self.node("LeakyRelu", name, alpha=slope)
            case "logistic":
                self.node("Sigmoid", name)
            case ("tanh", a, b):
                if b != 1:
                    self.node("Mul", f"{name}.in", self.constant(f"{name}.b", b))
                self.node("Tanh", name)
                if a != 1:
                    self.node("Mul", f"{name}.out", self.constant(f"{name}.a", a))

    @singledispatchmethod
    def add(self, layer):
        """Append a layer's nodes."""

    @add.register
    def _(self, layer: Conv2d):
        self.node(
            "Conv", layer.name, *_weights(layer), kernel_shape=two_of(layer.kernel, "kernel"),
            strides=two_of(layer.stride, "stride"), pads=_pads(four_pads(layer.pad)), group=layer.groups,
        )  # fmt: skip
        self.activation(f"{layer.name}.activation", layer.activation)

    @add.register
    def _(self, layer: Linear):
        if len(self.shape) > 1:
            self.node("Flatten", f"{layer.name}.flat", axis=1)
        self.node("Gemm", layer.name, *_weights(layer), transB=1)
        self.activation(f"{layer.name}.activation", layer.activation)

    @add.register
    def _(self, layer: MaxPool):
        self.node("MaxPool", layer.name, **self._pool(layer))

    @add.register
    def _(self, layer: AvgPool):
        self.node("AveragePool", layer.name, **self._pool(layer))

    @add.register
    def _(self, layer: GlobalAvgPool):
        self.node("GlobalAveragePool", layer.name)

    def _pool(self, layer):
        around = list(four_pads(layer.pad))
        window, stride = two_of(layer.window, "window"), two_of(layer.stride, "stride")
        for i, z, s, size, out in zip((0, 2), window, stride, self.shape[1:], self.after[1:], strict=True):
            around[i + 1] = max(around[i + 1], (out - 1) * s + z - size - around[i])
        return {"kernel_shape": window, "strides": stride, "pads": _pads(around)}

    @add.register
    def _(self, layer: LRN):
        if layer.n % 2 == 0:
            raise ArgumentError(
                f"{layer.name}: a window of {layer.n}: ONNX's LRN is ours for odd windows only"
            )
        alpha = layer.alpha if layer.alpha_over_n else layer.alpha * layer.n
        constants = {"size": layer.n, "bias": layer.k, "alpha": alpha, "beta": layer.beta}
        if layer.groups == 1:
            self.node("LRN", layer.name, **constants)
            return
        towers = [f"{layer.name}.tower{g}" for g in range(layer.groups)]
        self.node("Split", f"{layer.name}.split", axis=1, outputs=towers)
        for tower in towers:
            self.node("LRN", f"{tower}.lrn", value=tower, **constants)
        first, *others = (f"{tower}.lrn" for tower in towers)
        self.node("Concat", layer.name, *others, value=first, axis=1)

    @add.register
    def _(self, layer: SameMapNorm):
        name, x, n = layer.name, self.value, layer.n
        before, after = n // 2, n - 1 - n // 2
        self.node("Mul", f"{name}.square", x)
        self.node(
            "AveragePool", f"{name}.mean", kernel_shape=[n, n], strides=[1, 1],
            pads=[before, before, after, after], count_include_pad=1,
        )  # fmt: skip
        for op, key in (("Mul", "alpha"), ("Add", "k"), ("Pow", "beta")):
            self.node(op, f"{name}.{op.lower()}", self.constant(f"{name}.{key}", getattr(layer, key)))
        self.node("Div", name, self.value, value=x)

    @add.register
    def _(self, layer: BatchNorm):
        arrays = _weights(layer, "w", "b", "mean", "var")
        self.node("BatchNormalization", layer.name, *arrays, epsilon=layer.eps, momentum=1 - layer.momentum)

    @add.register
    def _(self, layer: Activate):
        self.activation(layer.name, layer.activation)

    @add.register
    def _(self, layer: Dropout):
        if layer.inverted:
            self.node("Dropout", layer.name, self.constant(f"{layer.name}.ratio", 1 - layer.keep))
        else:
            self.node("Mul", layer.name, self.constant(f"{layer.name}.keep", layer.keep))

    @add.register
    def _(self, layer: Flatten):
        self.node("Flatten", layer.name, axis=1)

    @add.register
    def _(self, layer: ZeroPad):
        top, bottom, left, right = four_pads(layer.pad)
        around = self.constant(f"{layer.name}.pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
        self.node("Pad", layer.name, around)

    @add.register(AllGather)
    @add.register(Part)
    def _(self, layer):
        """On one device it does nothing."""


def _instead(layer):
    """What to do where there is no word for a layer: something can be done for one of the user's own."""
    if type(layer).__module__.startswith("tinyalex."):
        return ""
    return (
        ", a kind of layer of your own: put kinds of tinyalex.nn in its place, or write its nodes into "
        "tinyalex/exchange/onnx_export.py"
    )


def _weights(layer, *keys):
    return [f"{layer.name}.{key}" for key in keys or ("w", "b")]


def _pads(pad):
    """(top, bottom, left, right) in ONNX's order."""
    top, bottom, left, right = pad
    return [top, left, bottom, right]
