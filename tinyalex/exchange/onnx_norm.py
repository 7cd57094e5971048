"""Normalizations that an ONNX graph spells in several nodes, each read as one layer.

reader: the `_Reader` of `tinyalex.exchange.onnx_import`, which has come to the value that is normalized.
"""

from tinyalex.errors import DataError
from tinyalex.exchange.onnx_graph import called, meant
from tinyalex.nn import LRN, SameMapNorm


def norm(reader, value, users):
    """x / (k + alpha · mean(x²))^beta, the mean over windows of channels or of a map."""
    square = [u for u in users if _is_square(reader, u, value)]
    divide = [u for u in users if u.op_type == "Div" and u.input[0] == value and len(u.input) == 2]
    if len(square) != 1 or len(divide) != 1:
        names = ", ".join(called(user) for user in users)
        raise DataError(f"value {value!r} is read by {names}: not a sequential network")
    square, divide = square[0], divide[0]
    size = reader.maps(square, value)
    reader.take(square)
    node, at, window = _mean(reader, square, size)
    constants = [_factor(reader, node, at, "Mul")]
    for op in ("Add", "Pow"):
        at = node.output[0]
        node = reader.only(at)
        reader.take(node)
        constants.append(_factor(reader, node, at, op))
    if list(divide.input) != [value, node.output[0]]:
        raise DataError(f"{called(divide)}: expected a value divided by its norm")
    reader.take(divide)
    alpha, k, beta = constants
    kind, n = window
    if kind is LRN:
        reader.push(divide, LRN, n, k, alpha, beta, alpha_over_n=True, name=reader.name("lrn"))
    else:
        reader.push(divide, SameMapNorm, n, k, alpha, beta, name=reader.name("cnorm"))
    return divide


def _is_square(reader, node, value):
    """Whether a node is value · value, or value²."""
    if node.op_type == "Pow" and len(node.input) == 2 and node.input[0] == value != node.input[1]:
        return reader.number(node, node.input[1]) == 2
    return node.op_type == "Mul" and list(node.input) == [value, value]


def _factor(reader, node, at, op):
    """The one constant number of a Mul, Add or Pow."""
    others = [i for i in node.input if i != at]
    if (
        node.op_type == op
        and len(node.input) == 2
        and len(others) == 1
        and (op != "Pow" or node.input[0] == at)
    ):
        array = reader.constant(node, others[0])
        if array.size == 1 and array.ndim <= 4 and array.dtype.kind == "f":
            return meant(array.item())
    raise DataError(f"{called(node)}: expected {op} with one constant number, as in a normalization")


def _mean(reader, node, size):
    """Follow the mean of a normalization; return the node after it, what that reads, and (layer, n)."""
    around, window, now = (), None, size  # now: its shape without the batch
    while True:
        at = node.output[0]
        reader.sizes[at] = now
        node = reader.only(at)
        reader.take(node)
        if node.op_type == "Mul":
            if window is None or now != size:
                raise DataError(f"{called(node)}: expected it after the mean of a normalization")
            return node, at, window
        if node.op_type == "AveragePool" and window is None:
            window, now = _mean_window(reader, node, now, size, around)
        elif node.op_type == "Pad" and window is None and len(around) in (0, 2 * len(now) + 2):
            more = reader.pads(node, at, len(now) + 1)
            around = tuple(map(sum, zip(around, more, strict=True))) if around else more
            befores, afters = more[1 : len(now) + 1], more[len(now) + 2 :]
            now = tuple(sum(sides) for sides in zip(now, befores, afters, strict=True))
        else:
            now = _squeezed(reader, node, at, now)


def _mean_window(reader, node, now, size, around):
    """(layer, n), and the shape after the mean."""
    kernel = reader.attribute(node, "kernel_shape", "INTS")
    rank = len(kernel)
    pads = reader.attribute(node, "pads", "INTS", (0,) * 2 * rank)
    reader.allowed(node, strides=(1,) * rank, dilations=(1,) * rank, ceil_mode=0, auto_pad=b"NOTSET")
    if not reader.attribute(node, "count_include_pad", "INT", 0) and any(pads):
        raise DataError(f"{called(node)}: count_include_pad: expected 1 in a normalization, found 0")
    if rank not in (2, 3) or len(now) != rank + 1 or len(pads) != 2 * rank:
        raise DataError(f"{called(node)}: expected the mean of a normalization, found windows {kernel}")
    d = rank + 2
    around = around or (0,) * 2 * d
    if len(around) != 2 * d or any(around[:2]) or any(around[d : d + 2]):
        raise DataError(f"{called(node)}: expected padding around maps or channels, found {around}")
    before, after = around[2:d], around[d + 2 :]
    before = tuple(a + b for a, b in zip(before, pads[:rank], strict=True))
    after = tuple(a + b for a, b in zip(after, pads[rank:], strict=True))
    n, kind = kernel[0], LRN if rank == 3 else SameMapNorm
    along = (1, 0, 0) if rank == 3 else (1, 1)
    wanted = tuple((n if a else 1, n // 2 * a, (n - 1 - n // 2) * a) for a in along)
    if n < 1 or tuple(zip(kernel, before, after, strict=True)) != wanted:
        raise DataError(f"{called(node)}: expected windows around each channel or pixel, found {kernel}")
    return (kind, n), ((1, *size) if rank == 3 else size)


def _squeezed(reader, node, at, now):
    """The shape after a node that adds or removes an axis of length 1, or decides (If) about one."""
    if node.op_type == "If":
        holds = reader.number(node, node.input[0])
        graph, other = (reader.attribute(node, f"{name}_branch", "GRAPH") for name in ("then", "else"))
        graph = graph if holds else other
        inner = [n for n in graph.node if n.op_type != "Constant"]
        reader.makers |= {n.output[0]: n for n in graph.node if n.op_type == "Constant" and n.output}
        if len(inner) != 1 or len(graph.output) != 1 or list(inner[0].output) != [graph.output[0].name]:
            raise DataError(f"{called(node)}: expected one node in its branch")
        return _squeezed(reader, inner[0], at, now) if inner[0].op_type != "If" else _refuse(inner[0])
    if not node.input or node.input[0] != at:
        return _refuse(node)
    if node.op_type == "Identity":
        return now
    if node.op_type == "Reshape" and len(node.input) == 2:
        after = reader.reshaped(node, at, now)
    elif node.op_type in ("Squeeze", "Unsqueeze"):
        rank = len(now) + (1 if node.op_type == "Squeeze" else 2)
        if reader.axes(node, rank) != (1,) or (node.op_type == "Squeeze" and now[0] != 1):
            return _refuse(node)
        after = now[1:] if node.op_type == "Squeeze" else (1, *now)
    else:
        return _refuse(node)
    if after not in ((1, *now), now, now[1:] if now[0] == 1 else now):
        return _refuse(node)
    return after


def _refuse(node):
    raise DataError(f"{called(node)}: expected the mean of a normalization, which it is no part of")
