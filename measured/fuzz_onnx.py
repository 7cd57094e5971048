"""Random ONNX graphs: does every one that is read compute what onnxruntime computes?

    python measured/fuzz_onnx.py [--minutes 10] [--seed 0] [--graph NUMBER]

A graph is a random sequence of the operations that are read, and of some that are nearly so, with random
attributes, many of them left at ONNX's defaults, at opsets 7 to 23, with constants in every form and place.
One that onnxruntime itself refuses, or whose outputs are not finite, does not count.  One that tinyalex reads
must give onnxruntime's numbers within 1e-4 of the largest.  Every tenth is a random network of ours instead,
which goes out, must give the same there, and come back as the same network with the same bits.

Prints how many were tried, accepted, refused (and why) and wrong; exits with 1 if one was wrong, or raised
what is not an error of tinyalex.  --graph: this one alone, printed.  Needs onnx and onnxruntime from 1.29 on
(before, its own AveragePool with ceil_mode and padding is wrong).
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from rich.console import Console
from rich.table import Table

from tinyalex.errors import ArgumentError, TinyalexError
from tinyalex.exchange import onnx_export, onnx_import
from tinyalex.models import Network
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
    SameMapNorm,
    ZeroPad,
)
from tinyalex.ops import softmax

TOLERANCE = 1e-4
FLOATS = {np.float16: 10, np.float64: 11}


class Unusable(Exception):
    """onnxruntime does not run this graph."""


def runtime(model):
    """A session of onnxruntime that computes the nodes as they stand."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own, of many kinds
        raise Unusable(str(error)) from error


class Graph:
    """A random graph, a node after the other; the shape of the newest value is asked of onnxruntime."""

    def __init__(self, rng):
        self.rng = rng
        self.opset = int(rng.integers(7, 24))
        self.batch = int(rng.integers(1, 4))
        self.free = bool(rng.random() < 0.5)
        self.shape = tuple(int(n) for n in (rng.integers(1, 7), rng.integers(3, 15), rng.integers(3, 15)))
        self.x = rng.standard_normal((self.batch, *self.shape)).astype(np.float32) + np.float32(
            rng.choice([0, 0, -4, 2])
        )
        self.nodes, self.weights, self.value, self.count = [], [], "data", 0
        self.now, self.first = self.x.shape, self.shape

    def chance(self, p):
        return self.rng.random() < p

    def pick(self, *values):
        return values[int(self.rng.integers(len(values)))]

    def fresh(self):
        self.count += 1
        return f"v{self.count}"

    def node(self, op, *inputs, outputs=1, **attributes):
        """Append a node; its attributes that are None are left out."""
        made = [self.fresh() for _ in range(outputs)]
        given = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, list(inputs), made, name=f"n{self.count}", **given))
        return made if outputs > 1 else made[0]

    def constant(self, array, dtype=np.float32):
        """A constant in one of the forms that people's files have."""
        array = np.asarray(array, dtype)
        name = self.fresh()
        form = self.rng.random()
        if array.dtype == np.float32 and form < 0.06:
            kind = self.pick(np.float16, np.float64)
            self.weights.append(numpy_helper.from_array(array.astype(kind), name))
            return self.node("Cast", name, to=1)
        if array.dtype == np.float32 and form < 0.1 and array.ndim > 1:
            axes = self.rng.permutation(array.ndim).tolist()
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array.transpose(axes)), name))
            return self.node("Transpose", name, perm=np.argsort(axes).tolist())
        if form < 0.15 and array.ndim:
            self.weights.append(numpy_helper.from_array(array.reshape(-1), name))
            sizes = self.constant(array.shape, np.int64)
            return self.node("Reshape", name, sizes)
        if form < 0.3:
            if self.opset >= 12 and array.ndim < 2 and self.chance(0.5):
                kind = "int" if array.dtype == np.int64 else "float"
                many = {f"value_{kind}s": array.tolist()} if array.ndim else {f"value_{kind}": array.item()}
                return self.node("Constant", **many)
            return self.node("Constant", value=numpy_helper.from_array(array))
        if form < 0.34:
            self.weights.append(numpy_helper.from_array(array, name))
            return self.node("Identity", name)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *shape, scale=None):
        scale = np.sqrt(2 / max(1, np.prod(shape[1:], initial=1))) if scale is None else scale
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)

    def model(self, value=None):
        sizes = ["N" if self.free else self.batch, *self.first]
        data = helper.make_tensor_value_info("data", 1, sizes)
        out = helper.make_tensor_value_info(value or self.value, 1, None)
        graph = helper.make_graph(self.nodes, "fuzz", [data], [out], self.weights)
        ir = 8 if self.opset < 19 else 10
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir)

    def settle(self, value):
        """Take a value as the newest; learn its shape."""
        session = runtime(self.model(value).SerializeToString())
        try:
            self.now = session.run(None, {"data": self.x})[0].shape
        except Exception as error:
            raise Unusable(str(error)) from error
        if not all(self.now) or np.prod(self.now) > 1 << 14:
            raise Unusable("no numbers, or too many")
        self.value = value

    # ---- operations ------------------------------------------------------------------------------------

    def window(self, most=4):
        one = int(self.rng.integers(1, most + 1))
        return (one, one) if self.chance(0.7) else (one, int(self.rng.integers(1, most + 1)))

    def geometry(self, window):
        """Attributes strides, pads or auto_pad, and rarely dilations; often left out."""
        found = {}
        if self.chance(0.6):
            found["strides"] = [self.pick(1, 2, 2, 3)] * 2
            if self.chance(0.15):
                found["strides"][1] = self.pick(1, 2, 3)
        if self.chance(0.12):
            found["auto_pad"] = self.pick("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
        if self.chance(0.5) and found.get("auto_pad", "NOTSET") == "NOTSET":
            pad = int(self.rng.integers(0, max(window)))
            found["pads"] = [pad] * 4 if self.chance(0.6) else self.rng.integers(0, max(window), 4).tolist()
        if self.chance(0.03):
            found["dilations"] = [self.pick(1, 2)] * 2
        return found

    def conv(self):
        C, groups, window = self.now[1], 1, self.window()
        if self.chance(0.3):
            groups = self.pick(*[g for g in range(1, C + 1) if C % g == 0])
        F = groups * int(self.rng.integers(1, 4))
        w = self.constant(self.random(F, C // groups, *window))
        bias = [self.constant(self.random(F))] if self.chance(0.6) else []
        attributes = self.geometry(window)
        if self.chance(0.7):
            attributes["kernel_shape"] = window
        if groups > 1 or self.chance(0.4):
            attributes["group"] = groups
        return self.node("Conv", self.value, w, *bias, **attributes)

    def pool(self):
        window = self.window()
        attributes = {"kernel_shape": window, **self.geometry(window)}
        op = self.pick("MaxPool", "AveragePool", "AveragePool")
        since = {"MaxPool": 10, "AveragePool": 19}[op]
        if self.opset < since:
            attributes.pop("dilations", None)
        if self.chance(0.5) and self.opset >= 10:
            attributes["ceil_mode"] = self.pick(0, 1, 1)
        if op == "AveragePool" and self.chance(0.5):
            attributes["count_include_pad"] = self.pick(0, 1, 1)
        return self.node(op, self.value, **attributes)

    def over_the_map(self):
        if self.chance(0.4):
            return self.node(self.pick("GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"), self.value)
        op, keep = self.pick("ReduceMean", "ReduceMean", "ReduceMax"), self.pick(None, 0, 1)
        value, each = (
            self.value,
            self.pick([[2, 3]], [[-2, -1]], [[3, 2]], [[3], [2]], [[-1], [2]], [[2]], [[1, 2, 3]]),
        )
        for axes in each:
            keep = keep if self.chance(0.95) else 0
            if self.opset < 18:
                value = self.node(
                    op, value, axes=axes if self.opset >= 11 else [a % 4 for a in axes], keepdims=keep
                )
            else:
                value = self.node(op, value, self.constant(axes, np.int64), keepdims=keep)
        return value

    def lrn(self):
        given = {
            "alpha": self.pick(0.5, 1e-4, 2.0),
            "beta": self.pick(0.75, 0.6),
            "bias": self.pick(1.0, 2.0),
        }
        given = {name: value for name, value in given.items() if self.chance(0.7)}
        return self.node("LRN", self.value, size=self.pick(1, 3, 3, 5, 5, 7, 2, 4), **given)

    def batch_norm(self):
        C = self.now[1]
        var = np.abs(self.random(C, scale=1)) + np.float32(0.1)
        arrays = [self.constant(a) for a in (self.random(C, scale=1), self.random(C), self.random(C), var)]
        epsilon = self.pick(None, 1e-3, 1e-5)
        return self.node("BatchNormalization", self.value, *arrays, epsilon=epsilon)

    def activation(self):
        usual = "Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "PRelu", "Max"
        op = self.pick(*usual, *usual, *usual, *usual, "Elu", "Softplus")
        if op == "LeakyRelu":
            return self.node(op, self.value, alpha=self.pick(None, 0.2, 1.5, 0.0))
        if op == "Max":
            zero = self.constant(self.pick(0.0, 0.0, 0.0, 0.0, 1.0))
            value = self.node("Max", *self.pick((self.value, zero), (zero, self.value)))
            return (
                self.node("Min", value, self.constant(self.pick(6.0, 6.0, 1.0)))
                if self.chance(0.4)
                else value
            )
        if op == "PRelu":
            shape = self.pick((1,), (self.now[1], *(1,) * (len(self.now) - 2)))
            return self.node(op, self.value, self.constant(np.full(shape, self.pick(0.1, 0.3))))
        if op == "Clip":
            least, most = self.pick(
                (0.0, 6.0), (0.0, 6.0), (0.0, None), (-1.0, 1.0), (None, None), (0.0, 1.0)
            )
            if self.opset < 11:
                return self.node(op, self.value, min=least, max=most)
            ends = ["" if end is None else self.constant(end) for end in (least, most)]
            while ends and not ends[-1]:
                ends.pop()
            return self.node(op, self.value, *ends)
        return self.node(op, self.value)

    def arithmetic(self):
        op = self.pick("Mul", "Mul", "Add", "Add", "Sub", "Div")
        C, rest = self.now[1], (1,) * (len(self.now) - 2)
        shapes = [(), (1,), (C, *rest), (1, C, *rest), (1, 1, *rest)] * 3
        shapes += [(C,), (self.batch, 1, *rest), (C, 1), self.now[1:], self.now[-1:]]
        array = self.random(*self.pick(*shapes), scale=1)
        if self.chance(0.3):
            array = np.abs(array) * np.float32(0.3)
        if op == "Div":
            array = np.where(np.abs(array) < 0.1, np.float32(0.5), array)
        inputs = [self.value, self.constant(array)]
        if self.chance(0.3):
            inputs.reverse()
        return self.node(op, *inputs)

    def scaled_tanh(self):
        value = self.value
        if self.chance(0.6):
            value = self.node("Mul", value, self.constant(self.pick(0.66, 0.5, 2.0, -1.0)))
        value = self.node("Tanh", value)
        for _ in range(self.pick(0, 1, 1, 2)):
            value = self.node("Mul", value, self.constant(self.pick(1.7159, 0.5, 0.8)))
        return value

    def dropout(self):
        if self.opset < 12:
            return self.node("Dropout", self.value, ratio=self.pick(None, 0.3))
        more = [self.constant(self.pick(0.3, 0.5))] if self.chance(0.5) else []
        return self.node("Dropout", self.value, *more)

    def pad(self):
        pads = [0] * 8
        for axis in self.pick((2, 3, 6, 7), (2, 3, 6, 7), (3,), (1, 5), (0,)):
            pads[axis] = int(self.rng.integers(0, 3))
        if self.opset < 11:
            return self.node("Pad", self.value, pads=pads, mode=self.pick(None, "constant", "reflect"))
        value = self.pick(None, 0.0, 0.0, 1.0)
        if self.opset >= 18 and self.chance(0.4):
            inputs = [self.constant([pads[2], pads[3], pads[6], pads[7]], np.int64), ""]
            inputs.append(self.constant(self.pick([2, 3], [-2, -1]), np.int64))
        else:
            inputs = [self.constant(pads, np.int64)] + ([] if value is None else [self.constant(value)])
        return self.node("Pad", self.value, *inputs)

    def norm(self):
        """2012's within a map, or PyTorch's across channels, sometimes not quite."""
        x, n = self.value, self.pick(3, 5, 2, 4)
        square = self.node("Mul", x, x) if self.chance(0.7) else self.node("Pow", x, self.constant(2.0))
        before, after = n // 2, n - 1 - n // 2
        counted = self.pick(None, 1, 1, 1)
        if self.chance(0.5):
            pads = [before, before, after, after]
            mean = self.node("AveragePool", square, kernel_shape=[n, n], pads=pads, count_include_pad=counted)
        else:
            C, H, W = self.now[1:]
            lifted = self.unsqueeze(square, 1)
            around = [0, 0, before, 0, 0, 0, 0, after, 0, 0]
            if self.chance(0.5):
                more = {"pads": around} if self.opset < 11 else {}
                inputs = [] if self.opset < 11 else [self.constant(around, np.int64)]
                lifted, pads = self.node("Pad", lifted, *inputs, **more), None
                if self.opset < 11 and self.chance(0.5):  # PyTorch's exporter, once more
                    lifted = self.node("Pad", lifted, pads=self.pick([0] * 10, [0] * 10, around))
            else:
                pads = [before, 0, 0, after, 0, 0]
            mean = self.node(
                "AveragePool", lifted, kernel_shape=[n, 1, 1], pads=pads, count_include_pad=counted
            )
            mean = self.node("Reshape", mean, self.constant([0, C, H, W], np.int64))
        bracket = self.node("Mul", mean, self.constant(self.pick(0.5, 1.0)))
        bracket = self.node("Add", bracket, self.constant(self.pick(1.0, 2.0)))
        power = self.node("Pow", bracket, self.constant(self.pick(0.75, 0.5)))
        return self.node("Div", x, power)

    def unsqueeze(self, value, axis):
        if self.opset < 13:
            return self.node("Unsqueeze", value, axes=[axis])
        return self.node("Unsqueeze", value, self.constant([axis], np.int64))

    def towers(self):
        C = self.now[1]
        count = self.pick(*[g for g in (2, 3) if C % g == 0] or [2])
        axis = self.pick(1, 1, 1, 1, -3, None)
        if self.chance(0.3):
            parts = [self.slice(i * C // count, (i + 1) * C // count, C) for i in range(count)]
        elif self.opset >= 18:
            parts = self.node("Split", self.value, outputs=count, axis=axis, num_outputs=count)
        else:
            parts = self.node("Split", self.value, outputs=count, axis=axis)
        ends, outer, length = list(parts), (self.value, self.now), self.pick(0, 1, 2, 3)
        for _ in range(length):
            make = self.pick(self.conv, self.conv, self.lrn, self.pool, self.activation, self.batch_norm)
            state = self.rng.bit_generator.state
            for i, part in enumerate(ends):
                if self.chance(0.98):  # the same in every tower
                    self.rng.bit_generator.state = state
                    if make in (self.conv, self.batch_norm):
                        self.rng.bit_generator.state = state
                self.settle(part)
                ends[i] = make()
                self.settle(ends[i])
        self.value, self.now = outer
        return self.node("Concat", *ends, axis=self.pick(1, 1, 1, -3))

    def slice(self, start, end, C):
        """Channels start … end − 1, sometimes not quite, in any of the forms that Slice has."""
        start = self.pick(start, start, start, start - C, start + int(self.chance(0.1)))
        end = self.pick(end, end, end, end - C if end < C else (1 << 62), end - int(self.chance(0.1)))
        axis = self.pick(1, 1, 1, -3 if self.opset >= 10 else 1, 2 if self.chance(0.1) else 1)
        if self.opset < 10:
            return self.node("Slice", self.value, starts=[start], ends=[end], axes=[axis])
        inputs = [self.constant([n], np.int64) for n in (start, end, axis)]
        steps = [self.constant([self.pick(1, 1, 2)], np.int64)] if self.chance(0.3) else []
        return self.node("Slice", self.value, *inputs, *steps)

    def flatten(self):
        size = int(np.prod(self.now[1:]))
        form = self.rng.random()
        if self.now[2:] == (1, 1) and self.chance(0.5):
            value = self.value
            for axes in self.pick([[2, 3]], [[3], [2]], [[2], [2]], [[2]]):
                more = [self.constant(axes, np.int64)] if self.opset >= 13 else []
                value = self.node("Squeeze", value, *more, axes=None if more else axes)
            return value
        if form < 0.4:
            return self.node("Flatten", self.value, axis=self.pick(None, 1, 1, 1 - len(self.now), 2))
        if form < 0.7:
            batch = self.batch if not self.free else 0
            targets = [[0, -1], [-1, size], [0, size], [batch, -1]] * 2
            target = self.pick(*targets, [1, -1], [-1, self.now[-1]], [0, 0, -1])
            return self.node("Reshape", self.value, self.constant(target, np.int64))
        shape = self.node("Shape", self.value)
        first = self.node("Gather", shape, self.constant(0, np.int64), axis=self.pick(None, 0))
        rest = self.constant([-1], np.int64)
        if self.chance(0.3):
            first = self.node("Mul", first, self.node("Gather", shape, self.constant(1, np.int64)))
        target = self.node("Concat", self.unsqueeze(first, 0), rest, axis=0)
        return self.node("Reshape", self.value, target)

    def gemm(self):
        D, F = int(self.now[1]), int(self.rng.integers(1, 9))
        if self.chance(0.3):
            value = self.node("MatMul", self.value, self.constant(self.random(D, F)))
            if self.chance(0.7):
                shape = self.pick((F,), (F,), (1, F), (F, 1), (self.batch, 1), (1,), ())
                inputs = [value, self.constant(self.random(*shape, scale=1))]
                value = self.node("Add", *(inputs[::-1] if self.chance(0.3) else inputs))
            return value
        turned = self.pick(None, 0, 1, 1, 1)
        w = self.constant(self.random(*((F, D) if turned else (D, F))))
        shape = self.pick((F,), (F,), (F,), (1, F), (F, 1), (self.batch, 1), (1,), ())
        bias = [self.constant(self.random(*shape, scale=1))] if self.opset < 11 or self.chance(0.8) else []
        alpha, beta = (self.pick(None, None, None, 1.0, 0.5) for _ in "ab")
        return self.node("Gemm", self.value, w, *bias, transB=turned, alpha=alpha, beta=beta)

    def other(self):
        op = self.pick("Identity", "Identity", "Cast", "Transpose", "Exp", "Softmax")
        return self.node(op, self.value, **({"to": 1} if op == "Cast" else {}))

    def build(self):
        """Fill it."""
        maps = (
            [self.conv] * 6 + [self.pool] * 6 + [self.activation] * 4 + [self.arithmetic] * 3
            + [self.lrn, self.batch_norm, self.norm, self.towers, self.scaled_tanh, self.dropout, self.pad]
        )  # fmt: skip
        features = (
            [self.gemm] * 3 + [self.activation] * 2 + [self.arithmetic, self.scaled_tanh, self.batch_norm]
        )
        features += [self.dropout]
        for _ in range(int(self.rng.integers(1, 7))):
            self.settle((self.other if self.chance(0.02) else self.pick(*maps))())
            if len(self.now) != 4:
                break
        if self.chance(0.2) and len(self.now) == 4:
            self.settle(self.over_the_map())
        if len(self.now) != 2:
            self.settle(self.flatten())
        for _ in range(int(self.rng.integers(0, 5))):
            if len(self.now) == 2:
                self.settle((self.other if self.chance(0.02) else self.pick(*features))())
        if self.chance(0.3):
            axis = self.pick(None, 1, -1, 1, -1, 0)
            self.settle(self.node(self.pick("Softmax", "LogSoftmax"), self.value, axis=axis))
            if self.chance(0.2):
                self.settle(self.node("Identity", self.value))
        return self


# ---- both sides ------------------------------------------------------------------------------------------


def ours(network, arrays, x):
    """What a network computes of pictures (N, C, H, W): (N, classes)."""
    net = network.build()
    for name, layer, key in net.parameters():
        layer.params[key] = arrays[name]
    return net.forward(np.ascontiguousarray(x.transpose(1, 2, 3, 0))).T


def try_graph(rng, path):
    """Return (outcome, text) of one random graph."""
    graph = Graph(rng).build()
    model = graph.model()
    path.write_bytes(model.SerializeToString())
    wanted = runtime(str(path)).run(None, {"data": graph.x})[0]
    if not np.isfinite(wanted).all() or not np.abs(wanted).max() > 0:
        raise Unusable("not finite, or 0 everywhere")
    try:
        found = onnx_import.read(path)
    except TinyalexError as error:
        return "refused", str(error).removeprefix(f"{path}: ")
    y = ours(found.network, found.arrays, graph.x)
    ends = {node.op_type for node in model.graph.node} & {"Softmax", "LogSoftmax"}
    if ends:
        y = softmax(y.T).T if "Softmax" in ends else y - y.max(1, keepdims=True)
        y = y - np.log(np.exp(y).sum(1, keepdims=True)) if "LogSoftmax" in ends else y
    return _judged(y, wanted)


def _judged(y, wanted):
    if not np.abs(wanted).max() > 0:
        raise Unusable("0 everywhere")
    if y.shape != wanted.shape:
        return "wrong", f"shape {y.shape}, onnxruntime's {wanted.shape}"
    error = np.abs(y - wanted).max() / np.abs(wanted).max()
    return ("accepted", "") if error <= TOLERANCE else ("wrong", f"{error:.1e} of the largest number")


def random_network(rng):
    """A network of ours, of any layers."""

    def pick(*values):
        return values[int(rng.integers(len(values)))]

    def activation():
        return pick(None, "relu", "relu6", "tanh", "logistic", ("tanh", 1.7159, 2 / 3), ("leaky", 0.1))

    def keep():
        return Dropout(pick(0.5, 0.7, 1.0), pick(False, True))

    def number(low, high):
        return float(rng.uniform(low, high))

    makers = [
        lambda: Conv2d(pick(2, 4, 6), pick(1, 2, 3, (3, 2)), pick(1, 2, (1, 2)), pick(0, 1, (0, 1, 1, 0)),
                       activation=activation()),
        lambda: MaxPool(pick(2, 3, (2, 3)), pick(1, 2, (2, 1)), pick(0, 1), pick(False, True)),
        lambda: AvgPool(pick(2, 3, (2, 3)), pick(1, 2, (2, 1)), pick(0, 1), pick(False, True)),
        lambda: LRN(pick(1, 3, 5), number(1, 2), number(1e-4, 1), number(0.3, 1), pick(False, True)),
        lambda: SameMapNorm(pick(2, 3, 5), number(1, 2), number(1e-4, 1), number(0.3, 1)),
        lambda: Activate(activation() or "relu"),
        lambda: ZeroPad(pick(1, (0, 1, 2, 0))),
        BatchNorm,
        keep,
    ]  # fmt: skip
    layers = [pick(*makers)() for _ in range(int(rng.integers(1, 6)))]
    layers += [GlobalAvgPool()] * pick(0, 0, 1) + [Flatten()] * pick(0, 1)
    layers += [layer for _ in range(pick(0, 1, 2)) for layer in (Linear(5, activation()), keep())]
    return Network([*layers, Linear(4, activation())], (pick(1, 3), pick(7, 10), pick(8, 11)))


def try_network(rng, path):
    """Return (outcome, text) of a random network's way out and back."""
    network = random_network(rng).named()
    try:
        arrays = {
            name: (np.abs if name.endswith(".var") else np.asarray)(
                (np.sqrt(2 / max(1, np.prod(size[1:]))) * rng.standard_normal(size)).astype(np.float32)
            )
            for name, size in network.sizes().items()
        }
    except ArgumentError as error:
        raise Unusable(str(error)) from error
    x = rng.standard_normal((2, *network.input)).astype(np.float32)
    onnx_export.write(path, network, arrays, {})
    y = ours(network, arrays, x)
    outcome, text = _judged(y, runtime(str(path)).run(None, {"input": x})[0])
    if outcome == "wrong":
        return outcome, text
    found = onnx_import.read(path)
    if found.network != network:
        return "wrong", f"came back as {found.network}, not {network}"
    if not np.array_equal(ours(found.network, found.arrays, x), y):
        return "wrong", "came back with other bits"
    found = _without_metadata(path)
    return _judged(ours(found.network, found.arrays, x), y)


def _without_metadata(path):
    """Read a file of ours as any other's."""
    model = onnx.load(path)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    return onnx_import.read(path)


def try_one(seed, number, path):
    """Return (kind, outcome, text) of the case of this number."""
    rng = np.random.default_rng([seed, number])
    kind, attempt = ("network", try_network) if number % 10 == 9 else ("graph", try_graph)
    try:
        return kind, *attempt(rng, path)
    except Unusable as error:
        return kind, "unusable", str(error)
    except TinyalexError as error:
        return kind, "wrong", f"our own network: {error}"
    except Exception as error:
        return kind, "wrong", f"{type(error).__name__}: {error}"


def in_words(model):
    """A model's nodes and the kinds of its weights, a line each."""
    graph, types = model.graph, onnx.TensorProto.DataType.Name
    sizes = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    lines = [f"opset {model.opset_import[0].version}, input {sizes}"]
    lines += [f"{t.name}: {types(t.data_type)} {list(t.dims)}" for t in graph.initializer]
    for node in graph.node:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        given = {
            k: f"{types(v.data_type)} {list(v.dims)}" if hasattr(v, "dims") else f"{v!s:.40}"
            for k, v in values.items()
        }
        lines.append(f"{node.output} = {node.op_type}({', '.join(node.input)}) {given or ''}")
    return "\n".join(lines)


def why(text):
    """A refusal without its names and numbers."""
    text = re.sub(r"^node '[^']*' (\(\w+\))", r"\1", text)
    return re.sub(r"'[^']*'|\(?-?\d[\d.e+, ()-]*", "…", text)[:90]


def fuzz(seed, more, path):
    """Try cases while more(number): ({kind: counts of outcomes}, counts of refusals, texts of the wrong)."""
    counts, refusals, wrong, number = {"graph": Counter(), "network": Counter()}, Counter(), [], 0
    while more(number):
        kind, outcome, text = try_one(seed, number, path)
        counts[kind][outcome] += 1
        if outcome == "refused":
            refusals[why(text)] += 1
        if outcome == "wrong":
            wrong.append(f"{number}: {text}")
        number += 1
    return counts, refusals, wrong


def main(minutes, seed, only):
    """Print what was found; return whether nothing was wrong."""
    console = Console(width=110, markup=False, highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        if only is not None:
            kind, outcome, text = try_one(seed, only, path)
            if path.exists():
                console.print(in_words(onnx.load(path)))
            console.print(f"{kind} {only}: {outcome} {text}")
            return outcome != "wrong"
        end = time.monotonic() + 60 * minutes
        counts, refusals, wrong = fuzz(seed, lambda _: time.monotonic() < end, path)
    table = Table("", "tried", "accepted", "refused", "wrong", "unusable")
    for kind, found in counts.items():
        columns = [found[name] for name in ("accepted", "refused", "wrong", "unusable")]
        table.add_row(f"{kind}s", *(f"{n:,}" for n in (sum(columns[:3]), *columns)))
    console.print(table)
    for reason, count in refusals.most_common():
        console.print(f"{count:7,}  {reason}")
    for text in wrong[:20]:
        console.print(f"wrong: {text}")
    return not wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--graph", type=int, help="a number: this one alone")
    options = parser.parse_args()
    sys.exit(not main(options.minutes, options.seed, options.graph))
