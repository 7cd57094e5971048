"""An untrusted ONNX graph: who makes and who reads its values, its constants, its nodes' attributes.

Nothing in the file is run; weights in other files are read only from the model's own folder; no array is made
larger than the file's own bytes say, except by ConstantOfShape, up to MOST_FILLED numbers in all.
"""

import math
from pathlib import Path

import numpy as np

from tinyalex.errors import DataError

MOST_FILLED = 1 << 28  # numbers that ConstantOfShape may make, in all
SMALL = 64  # numbers in an array that sizes are computed with
DEPTH = 50  # nodes between a constant and the constants that it is computed from
# what sizes are computed with, by onnx's own reference implementation
SIZE_OPS = {"Cast", "Concat", "Equal", "Gather", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
CONSTANT_OPS = SIZE_OPS | {"Constant", "ConstantOfShape", "Identity", "Shape"}


class Graph:
    """The graph of a model in the file `path`, with what a reader needs to know of it."""

    def __init__(self, onnx, path, graph):
        self.onnx, self.path, self.graph = onnx, path, graph
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        self.makers, self.users = {}, {}  # of a value: the node; the list of nodes
        for node in graph.node:
            for name in node.output:
                if name in self.makers:
                    raise DataError(f"{called(node)}: its output {name!r} is another node's too")
                if name:
                    self.makers[name] = node
            inner = [n for a in node.attribute for n in a.g.node] if node.op_type == "If" else []
            read = {name for n in (node, *inner) for name in n.input}
            for name in read if node.op_type != "Shape" else ():
                self.users.setdefault(name, []).append(node)
        self.constants, self.filled = {}, 0
        self.sizes = {}  # of a value: its shape without the batch, as far as the reader has come

    def constant(self, node, name, depth=0):
        """Return the constant array that a node reads, by the name of the value."""
        if name in self.constants:
            return self.constants[name]
        if name in self.initializers:
            array = self._tensor(self.initializers[name])
        else:
            array = self._computed(node, name, depth)
        self.constants[name] = array
        return array

    def _computed(self, reader, name, depth):
        node = self.makers.get(name)
        if node is None or depth > DEPTH or node.op_type not in CONSTANT_OPS:
            what = "no node makes" if node is None else f"{called(node)} makes"
            raise DataError(f"{called(reader)}: expected a constant, found {name!r}, which {what}")
        if node.op_type == "Shape":
            return np.array(
                [0, *self._sizes_of(node)], np.int64
            )  # in Reshape, 0 is the batch, whatever it is
        inputs = [self.constant(node, i, depth + 1) for i in node.input if i]
        if node.op_type == "Constant":
            return self._tensor(self.attribute(node, "value", "TENSOR"))
        if node.op_type == "Identity" and inputs:
            return inputs[0]
        if node.op_type == "ConstantOfShape" and inputs:
            return self._filled(node, inputs[0])
        if sum(array.size for array in inputs) > SMALL:
            raise DataError(f"{called(node)}: expected at most {SMALL} numbers to compute sizes with")
        try:
            from onnx.reference import ReferenceEvaluator

            feeds = dict(zip([i for i in node.input if i], inputs, strict=True))
            return np.asarray(ReferenceEvaluator(node).run(None, feeds)[0])
        except Exception as error:  # onnx's own, of many kinds, for what the node should not say
            raise DataError(f"{called(node)}: cannot be computed: {error}") from error

    def _sizes_of(self, node):
        if len(node.input) != 1 or node.attribute or node.input[0] not in self.sizes:
            raise DataError(f"{called(node)}: expected the shape of a value that was read before")
        return self.sizes[node.input[0]]

    def _filled(self, node, shape):
        if shape.dtype != np.int64 or shape.ndim != 1 or shape.size > 8 or (shape < 0).any():
            raise DataError(f"{called(node)}: expected a shape, found {shape.dtype} {shape.shape}")
        self.filled += math.prod(shape.tolist())
        if self.filled > MOST_FILLED:
            raise DataError(
                f"{called(node)}: expected at most {MOST_FILLED:,} numbers, found {self.filled:,}"
            )
        value = self.attribute(node, "value", "TENSOR", None)
        value = np.zeros(1, np.float32) if value is None else self._tensor(value)
        if value.size != 1:
            raise DataError(f"{called(node)}: expected a value of one number, found {value.size}")
        return np.full(shape.tolist(), value.item(), value.dtype)

    def _tensor(self, tensor):
        """The array of a TensorProto, float32, int64 or bool, wherever its bytes are."""
        dims, shown = tuple(tensor.dims), f"tensor {tensor.name!r}"
        known = {1: np.float32, 7: np.int64, 9: np.bool_}
        dtype = known.get(tensor.data_type)
        if dtype is None or min(dims, default=0) < 0:
            raise DataError(
                f"{shown}: expected float32 (or int64 sizes), found ONNX type {tensor.data_type} {dims}"
            )
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            data = self._external(tensor, math.prod(dims) * np.dtype(dtype).itemsize)
            return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(dims).astype(dtype)
        try:
            array = np.asarray(self.onnx.numpy_helper.to_array(tensor))
        except Exception as error:
            raise DataError(f"{shown}: expected {dims}: {error}") from error
        if array.shape != dims or array.dtype != dtype:
            raise DataError(f"{shown}: expected {dims}, found {array.dtype} {array.shape}")
        return array

    def _external(self, tensor, nbytes):
        """The bytes of a tensor that lie in another file: only in the model's own folder, or below it."""
        where = {entry.key: entry.value for entry in tensor.external_data}
        folder, shown = self.path.resolve().parent, f"tensor {tensor.name!r}"
        try:
            file = (folder / where.get("location", "")).resolve()
            start, length = int(where.get("offset", 0)), int(where.get("length", nbytes))
            if folder not in file.parents or Path(where.get("location", "")).is_absolute():
                raise DataError(
                    f"{shown}: its data lie outside the model's folder, in {where.get('location')!r}"
                )
            if start < 0 or length != nbytes or start + length > file.stat().st_size:
                raise DataError(
                    f"{shown}: expected {nbytes:,} bytes from {start:,} of {file.name}, found other"
                )
            with file.open("rb") as stream:
                stream.seek(start)
                data = stream.read(nbytes)
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{shown}: its data cannot be read: {error}") from error
        if len(data) != nbytes:
            raise DataError(f"{shown}: expected {nbytes:,} bytes of {file.name}, found {len(data):,}")
        return data

    def attribute(self, node, name, kind, *default):
        found = [a for a in node.attribute if a.name == name]
        if not found and default:
            return default[0]
        wanted = self.onnx.AttributeProto.AttributeType.Value(kind)
        if len(found) != 1 or found[0].type != wanted:
            raise DataError(f"{called(node)}: expected an attribute {name} of kind {kind}")
        fields = {"INT": "i", "INTS": "ints", "FLOAT": "f", "STRING": "s", "TENSOR": "t", "GRAPH": "g"}
        value = getattr(found[0], fields[kind])
        return tuple(value) if kind == "INTS" else meant(value) if kind == "FLOAT" else value

    def allowed(self, node, **attributes):
        """Refuse a node whose attributes differ from the only ones that are understood."""
        for name, wanted in attributes.items():
            kind = {int: "INT", tuple: "INTS", float: "FLOAT", bytes: "STRING"}[type(wanted)]
            if (found := self.attribute(node, name, kind, wanted)) != wanted:
                raise DataError(f"{called(node)}: {name}: expected {wanted}, found {found}")

    def scalar(self, node, value):
        """The one number of a node's other input, where `value` is the first; None if it is no constant."""
        others = [i for i in node.input if i != value]
        if len(node.input) != 2 or len(others) != 1:
            return None
        array = self.constant(node, others[0])
        return meant(array.item()) if array.size == 1 and array.dtype == np.float32 else None


def called(node):
    """A node in words: its operation and its name, or what it makes."""
    return f"node {(node.name or ', '.join(node.output) or '?')[:80]!r} ({node.op_type[:40]})"


def meant(number):
    """The decimal that a float32 stands for: 0.0001, not 9.999999747378752e-05."""
    return float(str(np.float32(number)))
