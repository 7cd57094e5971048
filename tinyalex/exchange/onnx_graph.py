"""An untrusted ONNX graph: who makes and who reads its values, its constants, its nodes' attributes.

What a node means is read from ONNX's own schemas, at the opset of the file: which attributes an operation
has, and their defaults.  Constants that are computed from constants (and from the sizes of what was read
before) are computed by onnx's reference implementation, at that opset too.

Nothing in the file is run; weights in other files are read only from the model's own folder; no array is made
larger than the file's own bytes say, but for computed constants, up to MOST_MADE bytes in all.
"""

import math
from pathlib import Path

import numpy as np

from tinyalex.errors import DataError, reason

MOST_MADE = 1 << 30  # bytes of constants that nodes may compute, in all
SMALL = 64  # numbers in an array that sizes are computed with
DEPTH = 50  # nodes between a constant and the constants that it is computed from
ANY_BATCH = (1 << 31) - 1  # the batch's size where it is free: a prime, so that no product is taken for it
# what keeps the numbers and moves them, and what computes each number of its result from one of each input
MOVES = {"Cast", "Concat", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
ELEMENTWISE = {"Add", "Div", "Mul", "Neg", "Pow", "Reciprocal", "Sqrt", "Sub"}
# what sizes are computed with besides
SIZE_OPS = {
    "And", "Equal", "Floor", "Gather", "Greater", "Less", "Max", "Min", "Mod", "Not", "Or", "ReduceMax",
    "ReduceMin", "ReduceProd", "ReduceSum", "Where",
}  # fmt: skip
CONSTANT_OPS = MOVES | ELEMENTWISE | SIZE_OPS | {"Constant", "ConstantOfShape", "Shape"}
FLOATS = {1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"}
DTYPES = {1: "<f4", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8", 16: "<u2"}  # of raw bytes
UNREAD = {
    "consumed_inputs",
    "momentum",
    "saturate",
    "seed",
    "broadcast",
    "is_test",
}  # say nothing of a result


class Graph:
    """The graph of a model in the file `path`, with what a reader needs to know of it."""

    def __init__(self, onnx, path, model):
        self.onnx, self.path, self.graph = onnx, path, model.graph
        opsets = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")] or [1]
        self.opset = opsets[0]
        if len(opsets) > 1 or self.opset < 1:
            raise DataError(f"expected one opset of at least 1, found {', '.join(map(str, opsets))}")
        if self.opset > (known := onnx.defs.onnx_opset_version()):
            raise DataError(
                f"expected an opset up to {known}, found {self.opset}: pip install --upgrade onnx"
            )
        self.initializers = {}
        for tensor in self.graph.initializer:
            if tensor.name in self.initializers:
                raise DataError(f"expected one tensor {tensor.name!r}, found two")
            self.initializers[tensor.name] = tensor
        self.makers, self.users = {}, {}  # of a value: the node; the list of nodes
        for node in self.graph.node:
            for name in node.output:
                if name in self.makers or name in self.initializers:
                    raise DataError(f"{called(node)}: its output {name!r} is another's too")
                if name:
                    self.makers[name] = node
            inner = [n for a in node.attribute for n in a.g.node] if node.op_type == "If" else []
            read = dict.fromkeys(name for n in (node, *inner) for name in n.input)
            for name in read if node.op_type != "Shape" else ():
                self.users.setdefault(name, []).append(node)
        self.constants, self.made, self.asked = {}, 0, set()
        self.batch = 0  # 0: free
        self.sizes = {}  # of a value: its shape without the batch, as far as the reader has come

    # ---- constants -----------------------------------------------------------------------------------

    def constant(self, node, name, depth=0):
        """Return the constant array that a node reads, by the name of the value."""
        if name in self.constants:
            return self.constants[name]
        if name in self.initializers:
            array = self._tensor(self.initializers[name], name)
        else:
            array = self._computed(node, name, depth)
        self.constants[name] = array
        return array

    def weights(self, node, name, dims):
        """Return the constant of so many axes that a node computes with, as float32."""
        array = self.constant(node, name)
        if array.ndim != dims or array.dtype.kind != "f":
            found = f"{array.dtype} {array.shape}"
            raise DataError(f"{called(node)}: {name!r}: expected weights of {dims} axes, found {found}")
        return array.astype(np.float32, copy=False)

    def number(self, node, name):
        """Return the one number that a constant is."""
        array = self.constant(node, name)
        if array.size != 1:
            raise DataError(f"{called(node)}: {name!r}: expected one number, found {array.shape}")
        return array.item()

    def _computed(self, reader, name, depth):
        node = self.makers.get(name)
        if node is None or depth > DEPTH or node.op_type not in CONSTANT_OPS or not self.is_onnx(node):
            what = "no node makes" if node is None else f"{called(node)} makes"
            raise DataError(f"{called(reader)}: expected a constant, found {name!r}, which {what}")
        if node.op_type == "Shape":
            return self._shape(node)
        if node.op_type == "Constant":
            return self._given(node)
        inputs = [self.constant(node, i, depth + 1) for i in node.input if i]
        if node.op_type == "ConstantOfShape" and inputs:
            return self._filled(node, inputs[0])
        try:
            self._make_room(node, inputs)
            from onnx.reference import ReferenceEvaluator

            feeds = dict(zip([i for i in node.input if i], inputs, strict=True))
            with np.errstate(all="ignore"):
                made = ReferenceEvaluator(self._alone(node, feeds)).run(None, feeds)[0]
            return _usual(np.asarray(made))
        except DataError:
            raise
        except Exception as error:  # onnx's own, of many kinds, for what the node should not say
            raise DataError(f"{called(node)}: cannot be computed: {error}") from error

    def _alone(self, node, feeds):
        """A model of one node, at the file's opset."""
        helper = self.onnx.helper
        inputs = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(node.output[0])]
        graph = helper.make_graph([node], "constant", inputs, outputs)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])

    def _make_room(self, node, inputs):
        """Count what a node computes; refuse what sizes and weights are not computed with."""
        sizes = [array.size for array in inputs]
        if sum(sizes) > SMALL:
            if node.op_type in ELEMENTWISE:
                sizes = [math.prod(np.broadcast_shapes(*(array.shape for array in inputs)))]
                if sizes[0] > max(array.size for array in inputs):
                    raise DataError(f"{called(node)}: expected a result no larger than the larger input")
            elif node.op_type not in MOVES:
                raise DataError(f"{called(node)}: expected at most {SMALL} numbers to compute sizes with")
        self._count(node, 8 * sum(sizes) if sum(sizes) <= SMALL else 4 * sum(sizes))

    def _count(self, node, nbytes):
        self.made += nbytes
        if self.made > MOST_MADE:
            raise DataError(
                f"{called(node)}: expected at most {MOST_MADE:,} bytes of computed constants, "
                f"found {self.made:,}"
            )

    def _shape(self, node):
        """The sizes of a value that was read before, or of a constant."""
        name = node.input[0] if len(node.input) == 1 else None
        if name in self.sizes:
            sizes = (self.batch or ANY_BATCH, *self.sizes[name])
        elif name in self.initializers:
            sizes = tuple(self.initializers[name].dims)
        else:
            raise DataError(f"{called(node)}: expected the shape of a value that was read before")
        start, end = self.attribute(node, "start", "INT", 0), self.attribute(node, "end", "INT", None)
        return np.array(sizes[start:end], np.int64)

    def _given(self, node):
        """What a Constant holds, in whichever of its attributes."""
        forms = {"value_int": "INT", "value_ints": "INTS", "value_float": "FLOAT", "value_floats": "FLOATS"}
        for name, kind in forms.items():
            value = self.attribute(node, name, kind, None)
            if value is not None:
                return np.array(value, np.int64 if "INT" in kind else np.float32)
        return self._tensor(self.attribute(node, "value", "TENSOR"), node.output[0])

    def _filled(self, node, shape):
        if shape.dtype != np.int64 or shape.ndim != 1 or shape.size > 8 or (shape < 0).any():
            raise DataError(f"{called(node)}: expected a shape, found {shape.dtype} {shape.shape}")
        value = self.attribute(node, "value", "TENSOR", None)
        value = np.zeros(1, np.float32) if value is None else self._tensor(value, node.output[0])
        if value.size != 1:
            raise DataError(f"{called(node)}: expected a value of one number, found {value.size}")
        self._count(node, math.prod(shape.tolist()) * value.itemsize)
        return np.full(shape.tolist(), value.item(), value.dtype)

    def _tensor(self, tensor, name):
        """The array of a TensorProto, wherever its bytes are: floats of 16 bits as float32."""
        dims, shown = tuple(tensor.dims), f"tensor {tensor.name or name!r}"
        dtype = DTYPES.get(tensor.data_type)
        if dtype is None or min(dims, default=0) < 0:
            found = f"ONNX's type {tensor.data_type}" if dtype is None else dims
            raise DataError(f"{shown}: expected weights of {', '.join(FLOATS.values())}, found {found}")
        if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
            data = self._external(tensor, shown, math.prod(dims) * np.dtype(dtype).itemsize)
            return _native(np.frombuffer(data, dtype), tensor.data_type).reshape(dims)
        try:
            if tensor.data_type == 16:  # which NumPy does not have
                bits = np.frombuffer(tensor.raw_data, "<u2") if tensor.raw_data else tensor.int32_data
                array = _native(np.array(bits, np.uint16), 16).reshape(dims)
            else:
                array = _usual(np.asarray(self.onnx.numpy_helper.to_array(tensor)))
        except Exception as error:
            raise DataError(f"{shown}: expected {dims}: {error}") from error
        if array.shape != dims:
            raise DataError(f"{shown}: expected {dims}, found {array.dtype} {array.shape}")
        return array

    def _external(self, tensor, shown, nbytes):
        """The bytes of a tensor that lie in another file: beside the model, or below its folder.

        The model may be a link: its data lie beside the link, or beside what it leads to, and so must they
        when all links are followed.
        """
        where = {entry.key: entry.value for entry in tensor.external_data}
        location = where.get("location", "")
        folders = self.path.absolute().parent, self.path.resolve().parent
        try:
            files = [folder / location for folder in folders]
            file = next((file for file in files if file.exists()), files[0]).resolve()
            start, length = int(where.get("offset", 0)), int(where.get("length", nbytes))
            inside = any(folder.resolve() in file.parents for folder in folders)
            if not inside or Path(location).is_absolute() or ".." in Path(location).parts:
                raise DataError(f"{shown}: its data lie outside the model's folder, in {location!r}")
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
            raise DataError(f"{shown}: its data cannot be read: {reason(error)}") from error
        if len(data) != nbytes:
            raise DataError(f"{shown}: expected {nbytes:,} bytes of {file.name}, found {len(data):,}")
        return data

    # ---- attributes ----------------------------------------------------------------------------------

    def is_onnx(self, node):
        """Whether its operation is one of ONNX's own at the file's opset."""
        return node.domain in ("", "ai.onnx") and self.schema(node) is not None

    def schema(self, node):
        """Return what ONNX says about the node's operation at the file's opset; None if nothing."""
        try:
            return self.onnx.defs.get_schema(node.op_type, self.opset, "")
        except Exception:  # onnx's SchemaError
            return None

    def attribute(self, node, name, kind, *default):
        """Return a node's attribute: as it stands there, else by ONNX's schema, else the default given."""
        self.asked.add((id(node), name))
        found = [a for a in node.attribute if a.name == name]
        if not found:
            schema = self.schema(node)
            in_schema = schema and schema.attributes.get(name)
            if in_schema and in_schema.default_value.type:
                found = [in_schema.default_value]
            elif default:
                return default[0]
        wanted = self.onnx.AttributeProto.AttributeType.Value(kind)
        if len(found) != 1 or found[0].type != wanted:
            raise DataError(f"{called(node)}: expected an attribute {name} of kind {kind}")
        fields = {"INT": "i", "FLOAT": "f", "STRING": "s", "TENSOR": "t", "GRAPH": "g"}
        fields |= {"INTS": "ints", "FLOATS": "floats"}
        value = getattr(found[0], fields[kind])
        return tuple(value) if kind in ("INTS", "FLOATS") else meant(value) if kind == "FLOAT" else value

    def allowed(self, node, **attributes):
        """Refuse a node whose attributes differ from the only values that are understood."""
        for name, wanted in attributes.items():
            kind = {int: "INT", tuple: "INTS", float: "FLOAT", bytes: "STRING"}[type(wanted)]
            if (found := self.attribute(node, name, kind, wanted)) != wanted:
                raise DataError(f"{called(node)}: {name}: expected {wanted}, found {found}")

    def axis(self, node, rank, *default):
        """Return a node's attribute axis, counted from the first."""
        axis = self.attribute(node, "axis", "INT", *default)
        return axis + rank if axis < 0 else axis

    def axes(self, node, rank, place=1):
        """Return the axes of a reduction or squeeze, an attribute or an input, sorted; None for all."""
        self.attribute(node, "noop_with_empty_axes", "INT", 0)  # says nothing where there are axes
        axes = self.attribute(node, "axes", "INTS", None)
        if axes is None and node.input[place:] and node.input[place]:
            axes = self.constant(node, node.input[place]).reshape(-1).tolist()
        return axes and tuple(sorted(a + rank if a < 0 else a for a in axes))

    def all_understood(self, nodes):
        """Refuse an attribute that nobody asked for: what it means is not in what was read."""
        for node in nodes:
            for a in node.attribute:
                if (id(node), a.name) not in self.asked and a.name not in UNREAD:
                    raise DataError(f"{called(node)}: expected no attribute {a.name[:40]!r}")


def all_text(message):
    """Refuse text that is not UTF-8, but in descriptions: protobuf hands it out as bytes."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.type == field.TYPE_STRING and field.name != "doc_string":
            for text in [value] if isinstance(value, str | bytes) else value:
                if isinstance(text, bytes):
                    where = f"{message.DESCRIPTOR.name}.{field.name}"
                    raise DataError(f"{where}: expected text in UTF-8, found {text[:40]!r}")
        elif field.type == field.TYPE_MESSAGE:
            is_one = hasattr(value, "DESCRIPTOR")
            for part in [value] if is_one and message.HasField(field.name) else () if is_one else value:
                all_text(part)


def called(node):
    """A node in words: its operation and its name, or what it makes."""
    return f"node {(node.name or ', '.join(node.output) or '?')[:80]!r} ({node.op_type[:40]})"


def meant(number):
    """The decimal that a float32 stands for: 0.0001, not 9.999999747378752e-05."""
    return float(str(np.float32(number)))


def _native(array, data_type):
    """Raw bytes as this machine's numbers; bfloat16 is the upper half of a float32."""
    if data_type == 16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return _usual(array.astype(array.dtype.newbyteorder("=")))


def _usual(array):
    """Floats of 16 bits as float32."""
    is_half = array.dtype.kind not in "fiub" or array.dtype == np.float16
    return array.astype(np.float32) if is_half else array
