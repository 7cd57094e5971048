"""Mistakes that an ONNX reader makes without a word: each graph is read as ONNX means it, or refused by name.

Most are a default that is not ONNX's, or numbers that broadcast over the batch.  The last tests let the
project's own fuzzer try some hundred graphs, and show that it finds a mistake that is put in.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tinyalex.errors import ArgumentError, DataError
from tinyalex.models import Network
from tinyalex.models.alexnet import PRESETS, alexnet, narrow
from tinyalex.nn import LRN, Dropout, Linear, MaxPool

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from onnx_graphs import Graph  # noqa: E402

from tinyalex.exchange import onnx_export, onnx_graph, onnx_import, state_dict  # noqa: E402


def fuzzer():
    """The command measured/fuzz_onnx.py, as a module."""
    path = Path(__file__).parent.parent / "measured" / "fuzz_onnx.py"
    spec = importlib.util.spec_from_file_location("fuzz_onnx", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FUZZ = fuzzer()


def agrees(path, shift=0.0, batch=3, first=None):
    """Read a file; what it computes of `batch` random pictures is what onnxruntime computes of them.

    first: does the first node's work for onnxruntime.
    """
    found = onnx_import.read(path)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, *found.network.input)).astype(np.float32) + np.float32(shift)
    model, given = onnx.load(path), {"data": x}
    if first:
        (name,) = model.graph.node.pop(0).output
        given = {name: first(x)}
        model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info(name, 1, given[name].shape))
    wanted = FUZZ.runtime(model.SerializeToString()).run(None, given)[0]
    y = FUZZ.ours(found.network, found.arrays, x)
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    return found


# ---- pooling -----------------------------------------------------------------------------------------------


def averages(window, stride, pad, counted):
    """AveragePool with ceil_mode of maps (N,C,H,W), by its definition: onnxruntime has it right from 1.29 on.

    A window begins in the map or in the padding before it.  counted: it is divided by how many pixels of the
    map and its padding lie in it, else by how many of the map alone.
    """

    def along_the_last_axis(x):
        side, means = x.shape[-1], []
        for start in range(-pad, side, stride):
            first, last = (start, side + pad) if counted else (max(start, 0), side)
            pixels = slice(max(start, 0), start + window)
            means.append(x[..., pixels].sum(-1) / np.float32(min(start + window, last) - first))
        return np.stack(means, -1)

    return lambda x: along_the_last_axis(along_the_last_axis(x).swapaxes(2, 3)).swapaxes(2, 3)


def pool(g, window, stride, pad, **more):
    more = {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": 1, **more}
    g.node("AveragePool", "data", "pooled", **more)


@pytest.mark.parametrize(("after", "shift"), [("Sigmoid", 1.0), ("MaxPool", -5.0)])
@pytest.mark.parametrize("counted", [{"count_include_pad": 1}, {"count_include_pad": 0}, {}])
@pytest.mark.parametrize(
    ("window", "stride", "pad", "side"), [(2, 2, 1, 13), (2, 2, 1, 9), (4, 4, 2, 9), (3, 2, 1, 16)]
)
def test_average_pool_with_ceil_and_padding(window, stride, pad, side, counted, after, shift, tmp_path):
    """Before a layer that would swallow a row too many."""
    g, maps = Graph((3, side, side)), 3
    pool(g, window, stride, pad, **counted)
    if after == "Sigmoid":
        g.node("Sigmoid", "pooled", "s")
        g.weight("w", 4, 3, 3, 3)
        g.node("Conv", "s w", "c", pads=[1] * 4, strides=[2, 2])
        maps = 4
    else:
        g.node("MaxPool", "pooled", "c", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    first = averages(window, stride, pad, counted.get("count_include_pad", 0))
    side = (first(np.zeros((1, 1, side, side))).shape[2] - 1) // 2 + 1
    g.node("Flatten", "c", "flat")
    g.weight("fw", 5, maps * side**2)
    g.node("Gemm", "flat fw", "logits", transB=1)
    agrees(g.write(tmp_path / "net.onnx"), shift, first=first)


@pytest.mark.parametrize("counted", [0, 1])
def test_a_last_window_that_would_begin_in_the_padding_is_none(counted, tmp_path):
    g = Graph((3, 5, 5))  # 2 × 2 windows, not 3 × 3
    pool(g, 3, 3, 1, count_include_pad=counted)
    g.node("Flatten", "pooled", "flat")
    found = agrees(g.write(tmp_path / "net.onnx"), 2.0, first=averages(3, 3, 1, counted))
    assert found.network.outputs == (12,)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_that_onnx_s_formula_makes_negative_is_refused(auto_pad, tmp_path):
    g = Graph((2, 9, 9))  # 3 windows reach over 7 pixels: −2
    g.node("MaxPool", "data", "pooled", kernel_shape=[1, 1], strides=[3, 3], auto_pad=auto_pad)
    g.node("Flatten", "pooled", "flat")
    with pytest.raises(DataError, match=r"node 'n_pooled' \(MaxPool\).*auto_pad"):
        onnx_import.read(g.write(tmp_path / "net.onnx"))


# ---- defaults that are not what one would think ------------------------------------------------------------


def normalization_in_nodes(kind, path, **counted):
    """x / (1 + a · mean of squares)^b, spelled out; its AveragePool has count_include_pad or has not."""
    g = Graph((4, 7, 7))
    g.node("Mul", "data data", "square")
    if kind == "within a map":
        g.node("AveragePool", "square", "mean", kernel_shape=[3, 3], pads=[1] * 4, **counted)
    else:
        g.array("one", [1], np.int64), g.array("back", [0, 4, 7, 7], np.int64)
        g.node("Unsqueeze", "square one", "lifted")
        pool = {"kernel_shape": [3, 1, 1], "pads": [1, 0, 0, 1, 0, 0]}
        g.node("AveragePool", "lifted", "means", **pool, **counted)
        g.node("Reshape", "means back", "mean")
    g.array("a", 0.5), g.array("k", 1.0), g.array("b", 0.75)
    g.node("Mul", "mean a", "scaled")
    g.node("Add", "scaled k", "bracket")
    g.node("Pow", "bracket b", "power")
    g.node("Div", "data power", "norm")
    g.node("Flatten", "norm", "flat")
    g.weight("w", 5, 4 * 49)
    g.node("Gemm", "flat w", "logits", transB=1)
    return g.write(path)


@pytest.mark.parametrize("kind", ["within a map", "across channels"])
def test_a_normalization_whose_average_leaves_out_the_padding_is_refused(kind, tmp_path):
    agrees(normalization_in_nodes(kind, tmp_path / "right.onnx", count_include_pad=1))
    for counted in ({}, {"count_include_pad": 0}):  # 0 is ONNX's default
        path = normalization_in_nodes(kind, tmp_path / "net.onnx", **counted)
        with pytest.raises(DataError, match=r"count_include_pad"):
            onnx_import.read(path)


def test_split_without_an_axis_cuts_the_batch(tmp_path):
    g = Graph((4, 6, 6))
    g.node("Split", "data", "left right")  # ONNX's default is axis 0
    for side in ("left", "right"):
        g.node("LRN", side, f"{side}.norm", size=3, alpha=0.5)
    g.node("Concat", "left.norm right.norm", "norm", axis=1)
    g.node("Flatten", "norm", "flat")
    with pytest.raises(DataError, match=r"\(Split\).*axis"):
        onnx_import.read(g.write(tmp_path / "net.onnx"))


@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
@pytest.mark.parametrize("shape", [(3, 1), (3,), (1, 3), (1,), (), (1, 1)])
def test_a_bias_that_broadcasts_over_the_batch_is_none(op, shape, tmp_path):
    g = Graph((2, 3, 3))
    g.node("Flatten", "data", "flat")
    g.weight("w", 18, 3), g.array("b", np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape))
    if op == "Gemm":
        g.node("Gemm", "flat w b", "logits")
    else:
        g.node("MatMul", "flat w", "product")
        g.node("Add", "product b", "logits")
    path = g.write(tmp_path / "net.onnx")
    if shape == (3, 1):  # one number for each picture of a batch of three
        with pytest.raises(DataError, match=r"\(3, 1\)"):
            onnx_import.read(path)
    else:
        agrees(path)


# ---- what exporters write ----------------------------------------------------------------------------------


def view(g, opset):
    """x.view(x.size(0), -1): Unsqueeze has its axes as an attribute before opset 13."""
    g.array("zero", 0, np.int64), g.array("minus", [-1], np.int64)
    g.node("Shape", "maps", "shape"), g.node("Gather", "shape zero", "N", axis=0)
    if opset < 13:
        g.node("Unsqueeze", "N", "first", axes=[0])
    else:
        g.array("axes", [0], np.int64), g.node("Unsqueeze", "N axes", "first")
    g.node("Concat", "first minus", "target", axis=0)


def view_of_a_product(g, opset):
    """x.view(-1, x.size(1) * x.size(2) * x.size(3)), as many tutorials count their features."""
    g.array("minus", [-1], np.int64)
    g.node("Shape", "maps", "shape")
    for k in (1, 2, 3):
        g.array(f"i{k}", [k], np.int64), g.node("Gather", f"shape i{k}", f"d{k}", axis=0)
    g.node("Mul", "d1 d2", "area"), g.node("Mul", "area d3", "features")
    g.node("Concat", "minus features", "target", axis=0)


def start_and_end(g, opset):
    """torch.flatten(x, 1), as today's exporter writes it without optimization."""
    g.node("Shape", "maps", "first", start=0, end=1)
    g.node("Constant", "", "minus", value_ints=[-1])
    g.node("Concat", "first minus", "target", axis=0)


@pytest.mark.parametrize(
    ("sizes", "opset"),
    [
        (view, 7),
        (view, 9),
        (view, 12),
        (view, 13),
        (view_of_a_product, 8),
        (view_of_a_product, 17),
        (start_and_end, 18),
    ],
)
def test_sizes_that_are_computed_from_sizes(sizes, opset, tmp_path):
    g = Graph((2, 4, 3))
    g.node("Relu", "data", "maps")
    sizes(g, opset)
    g.node("Reshape", "maps target", "flat")
    g.weight("w", 5, 24), g.array("b", np.zeros(5))
    g.node("Gemm", "flat w b", "logits", transB=1)
    agrees(g.write(tmp_path / "net.onnx", opset=opset))


def test_pytorch_s_normalization_of_opset_9_pads_twice(tmp_path):
    for n, twice in enumerate(([0] * 10, [0, 0, 1, 0, 0, 0, 0, 1, 0, 0])):
        g = Graph((6, 5, 4))
        g.array("lift", [0, 1, 6, 5, 4], np.int64), g.array("back", [0, 6, 5, 4], np.int64)
        g.node("Mul", "data data", "square"), g.node("Reshape", "square lift", "lifted")
        g.node("Pad", "lifted", "padded", pads=[0, 0, 1, 0, 0, 0, 0, 1, 0, 0])
        g.node("Pad", "padded", "again", pads=twice)
        g.node("AveragePool", "again", "means", kernel_shape=[3 + 2 * n, 1, 1], pads=[0] * 6)
        g.node("Reshape", "means back", "mean")
        g.array("a", 0.5), g.array("k", 1.0), g.array("beta", 0.75)
        g.node("Mul", "mean a", "scaled"), g.node("Add", "scaled k", "bracket")
        g.node("Pow", "bracket beta", "power"), g.node("Div", "data power", "norm")
        g.node("Flatten", "norm", "flat")
        found = agrees(g.write(tmp_path / "net.onnx", opset=9))
        assert found.network.layers[0].n == 3 + 2 * n


def reduced(kind, steps, path, opset=13, **more):
    """A network that ends in a mean or maximum over these axes, a node a step."""
    g, at = Graph((4, 6, 5)), "data"
    for i, axes in enumerate(steps):
        g.node(kind, at, f"r{i}", axes=axes, **more)
        at = f"r{i}"
    if more.get("keepdims", 1):
        g.node("Flatten", at, "flat")
    return g.write(path, opset=opset)


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("kept", [{}, {"keepdims": 1}, {"keepdims": 0}])
def test_means_and_maxima_over_maps_at_once_and_axis_by_axis(kind, kept, tmp_path):
    second = [2]
    first_of = [[3], second], [[2], [3] if kept.get("keepdims", 1) else second], [[2, 3]]
    for steps in first_of:
        found = agrees(reduced(kind, steps, tmp_path / "net.onnx", **kept), shift=-5.0)
        assert found.network.layers[0].prefix == "pool"
    for steps in ([[1, 2, 3]], [[3], [1]], [[1]]):
        with pytest.raises(DataError, match=rf"\({kind}\).*axes 2 and 3"):
            onnx_import.read(reduced(kind, steps, tmp_path / "net.onnx", **kept))


def test_maps_of_one_pixel_lose_their_axes_one_after_the_other(tmp_path):
    for steps in ([[3], [2]], [[2], [2]], [[-1], [-1]], [[2, 3]]):
        g, at = Graph((4, 3, 3)), "mean"
        g.node("GlobalAveragePool", "data", "mean")
        for i, axes in enumerate(steps):
            g.node("Squeeze", at, f"s{i}", axes=axes)
            at = f"s{i}"
        agrees(g.write(tmp_path / "net.onnx", opset=11))
    g = Graph((1, 3, 3))  # of one channel: that is not what goes
    g.node("GlobalAveragePool", "data", "mean"), g.node("Squeeze", "mean", "s", axes=[1, 2])
    with pytest.raises(DataError, match=r"\(Squeeze\): expected axes 2 and 3"):
        onnx_import.read(g.write(tmp_path / "net.onnx", opset=11))


@pytest.mark.parametrize(
    ("nodes", "activation"),
    [
        ([("Max", "zero")], "relu"),
        ([("Max", "zero"), ("Min", "six")], "relu6"),
        ([("Relu", ""), ("Min", "six")], "relu6"),
        ([("Max", "six")], None),
        ([("Min", "six")], None),
        ([("Tanh", ""), ("Min", "six")], None),
        ([("Max", "rows")], None),
    ],
)
def test_max_and_min_with_a_number_are_activations(nodes, activation, tmp_path):
    g, at = Graph((2, 3, 3)), "product"
    g.array("zero", 0.0), g.array("six", [6.0]), g.array("rows", np.zeros((3, 1)))
    g.node("Flatten", "data", "flat"), g.array("w", np.random.default_rng(0).normal(size=(18, 5)) * 5)
    g.node("MatMul", "flat w", "product")
    for i, (op, other) in enumerate(nodes):
        g.node(op, f"{at} {other}".strip(), f"v{i}")
        at = f"v{i}"
    path = g.write(tmp_path / "net.onnx")
    if activation is None:
        with pytest.raises(DataError, match=rf"\({nodes[-1][0]}\)"):
            onnx_import.read(path)
    else:
        assert agrees(path).network.layers[-1].activation == activation


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(0, 3), (3, 6)], None),
        ([(0, -3), (-3, 1 << 62)], None),
        ([(3, 6), (0, 3)], None),  # read in another order, but joined in that of the channels
        ([(0, 2), (2, 4), (4, 6)], None),
        ([(0, 2), (2, 6)], "expected equal parts of 6 channels"),
        ([(0, 2), (2, 4)], "expected equal parts of 6 channels"),
    ],
)
@pytest.mark.parametrize("opset", [9, 13])
def test_towers_that_are_slices_of_the_channels(parts, message, opset, tmp_path):
    def write(axis=1, step=1):
        g, ends = Graph((6, 5, 5)), []
        for start, end in parts:
            name = f"p{start % 6}"
            if opset < 10:
                g.node("Slice", "data", name, starts=[start], ends=[end], axes=[axis])
            else:
                for key, n in (("s", start), ("e", end), ("a", axis), ("t", step)):
                    g.array(f"{name}.{key}", [n], np.int64)
                g.node("Slice", f"data {name}.s {name}.e {name}.a {name}.t", name)
            g.weight(f"{name}.w", 2, 6 // len(parts), 3, 3)
            g.node("Conv", f"{name} {name}.w", f"{name}.y")
            ends.append(f"{name}.y")
        g.node("Concat", " ".join(sorted(ends)), "joined", axis=1)
        g.node("Flatten", "joined", "flat")
        return g.write(tmp_path / "net.onnx", opset=opset)

    if message is None:
        assert agrees(write()).network.layers[0].groups == len(parts)
        with pytest.raises(DataError, match=r"\(Slice\): expected a part of the channels"):
            onnx_import.read(write(axis=2))
        if opset > 9:
            with pytest.raises(DataError, match=r"\(Slice\): expected a part of the channels"):
                onnx_import.read(write(step=2))
    else:
        with pytest.raises(DataError, match=message):
            onnx_import.read(write())


# ---- there and back ----------------------------------------------------------------------------------------


def there_and_back(layers, shape, path):
    """What a network is after it went out and came back: the network, and that its bits are the same."""
    network, rng = Network(layers, shape).named(), np.random.default_rng(0)
    arrays = {name: rng.standard_normal(size).astype(np.float32) for name, size in network.sizes().items()}
    onnx_export.write(path, network, arrays, {})
    found = onnx_import.read(path)
    x = rng.standard_normal((2, *shape)).astype(np.float32)
    np.testing.assert_array_equal(
        FUZZ.ours(found.network, found.arrays, x), FUZZ.ours(network, arrays, x), strict=True
    )
    assert found.network == network


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("activation", ["tanh", ("tanh", 1.7159, 2 / 3)])
def test_dropout_after_tanh_survives_the_way_out_and_back(activation, inverted, tmp_path):
    layers = [Linear(6, activation), Dropout(0.5, inverted), Linear(4)]
    there_and_back(layers, (2, 3, 3), tmp_path / "net.onnx")


def test_an_alpha_of_full_precision_keeps_its_bits(tmp_path):
    rng = np.random.default_rng(0)
    for n, alpha in zip((3, 5, 7, 3, 5), rng.random(5), strict=True):
        there_and_back([LRN(n, 1.0, float(alpha), 0.75), Linear(3)], (8, 3, 3), tmp_path / "net.onnx")


# ---- state dicts -------------------------------------------------------------------------------------------


def small(**changes):
    """The arrays of a narrow network with bvlc_alexnet's names."""
    network = alexnet(narrow(PRESETS["caffe"], 0.05)._replace(classes=6))
    rng = np.random.default_rng(0)
    arrays = {}
    for name, size in network.sizes().items():
        key = {"w": "weight", "b": "bias"}[name.rpartition(".")[2]]
        arrays[f"{name.rpartition('.')[0]}.{key}"] = rng.standard_normal(size).astype(np.float32)
    return arrays | changes


def test_names_that_fit_two_networks_are_asked_for(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(small(), path)
    with pytest.raises(DataError, match=r"choose with --network bvlc_alexnet .* or caffenet"):
        state_dict.read(path)
    layers = {}
    for name in ("bvlc_alexnet", "caffenet"):
        found = state_dict.read(path, name)
        layers[name] = [layer.name for layer in found.network.layers if isinstance(layer, LRN | MaxPool)]
        assert found.notes[0].startswith(f"read as {name}")
    assert layers["bvlc_alexnet"][:2] == ["lrn1", "pool1"]
    assert layers["caffenet"][:2] == ["pool1", "lrn1"]


def test_kernels_of_another_size_are_refused(tmp_path):
    arrays = small()
    w = arrays["conv1.weight"]
    arrays["conv1.weight"] = np.ascontiguousarray(w[:, :, 1:-1, 1:-1])  # 9 × 9
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(arrays, path)
    for network in ("bvlc_alexnet", "caffenet"):
        with pytest.raises(DataError, match=r"conv1.weight: expected .*11, 11.*found .*9, 9"):
            state_dict.read(path, network)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(value, tmp_path):
    arrays = small()
    arrays["fc7.bias"] = arrays["fc7.bias"].copy()
    arrays["fc7.bias"][3] = value
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(DataError, match=r"fc7.bias: expected finite numbers, found 1 of 208"):
        state_dict.read(path, "caffenet")

    g = Graph((2, 3, 3))
    g.node("Flatten", "data", "flat")
    g.array("weights", np.full((18, 3), value))
    g.node("Gemm", "flat weights", "logits")
    with pytest.raises(DataError, match=r"expected finite numbers"):
        onnx_import.read(g.write(tmp_path / "net.onnx"))

    network = Network([Linear(3)], (2, 3, 3)).named()
    arrays = {name: np.full(size, value, np.float32) for name, size in network.sizes().items()}
    with pytest.raises((DataError, ArgumentError), match=r"expected finite numbers"):
        onnx_export.write(tmp_path / "out.onnx", network, arrays, {})
    assert not (tmp_path / "out.onnx").exists()


# ---- constants ---------------------------------------------------------------------------------------------


def opened(g, tmp_path, opset=13):
    """The reader's graph of what was written by hand, and its last node."""
    path = g.write(tmp_path / "net.onnx", opset)
    graph = onnx_graph.Graph(onnx, path, onnx.load(path, load_external_data=False))
    return graph, graph.graph.node[-1]


def chain(g, length):
    for k in range(length):
        g.node("Identity", f"i{k - 1}" if k else g.array("few", [2, 3], np.int64), f"i{k}")


def computed(op, *inputs, **attributes):
    """Add a node to a graph, and its inputs, arrays, as constants."""

    def add(g):
        names = [g.array(f"a{k}", value, np.asarray(value).dtype) for k, value in enumerate(inputs)]
        g.node(op, " ".join(names), "made", **attributes)

    return add


def filled(value):
    return {"value": onnx.numpy_helper.from_array(np.asarray(value))}


RAMP = np.arange(65, dtype=np.float32)


@pytest.mark.parametrize(
    ("add", "found"),
    [
        (lambda g: chain(g, onnx_graph.DEPTH + 1), np.array([2, 3])),
        (lambda g: chain(g, onnx_graph.DEPTH + 2), "expected a constant"),
        (computed("Shape", np.ones((4, 5, 6), np.float32)), np.array([4, 5, 6])),
        (computed("ConstantOfShape", np.array([2, 3])), np.zeros((2, 3), np.float32)),
        (computed("ConstantOfShape", np.array([2]), **filled([7])), np.array([7, 7])),
        (computed("ConstantOfShape", np.array([2]), **filled([7, 8])), "expected a value of one number"),
        (computed("ConstantOfShape", np.array([-2])), "expected a shape, found int64"),
        (computed("ConstantOfShape", np.array([2], np.int32)), "expected a shape, found int32"),
        (computed("ConstantOfShape", np.array([[2]])), r"expected a shape, found int64 \(1, 1\)"),
        (computed("ConstantOfShape", np.ones(9, int)), r"expected a shape, found int64 \(9,\)"),
        (
            computed("ConstantOfShape", np.array([251])),
            "at most 1,000 bytes of computed constants, found 1,004",
        ),
        (computed("ConstantOfShape", np.array([250])), np.zeros(250, np.float32)),
        (computed("Mul", RAMP, RAMP), RAMP * RAMP),
        (computed("Mul", RAMP, RAMP[:2, None]), "expected a result no larger than the larger input"),
        (computed("ReduceMax", RAMP), "expected at most 64 numbers to compute sizes with"),
        (computed("ReduceMax", RAMP[:64], keepdims=0), np.float32(63)),
        (computed("Neg", np.zeros(251, np.float32)), "computed constants, found 1,004"),
        (computed("Neg", np.zeros(250, np.float32)), np.zeros(250, np.float32)),
        (computed("Constant", value_int=3), np.array(3)),
        (computed("Constant", value_ints=[3, 4]), np.array([3, 4])),
        (computed("Constant", value_floats=[0.5, 4]), np.array([0.5, 4], np.float32)),
        (computed("Constant", **filled(np.float16(0.5))), np.float32(0.5)),
        (computed("Neg", RAMP[:1], domain="com.x"), "expected a constant"),
        (computed("Exp", RAMP[:1]), "expected a constant"),
    ],
)
def test_what_constants_are_and_which_are_refused(add, found, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_graph, "MOST_MADE", 1000)
    g = Graph((2,))
    add(g)
    graph, node = opened(g, tmp_path)
    if isinstance(found, str):
        with pytest.raises(DataError, match=found):
            graph.constant(node, node.output[0])
    else:
        array = graph.constant(node, node.output[0])
        assert (array.dtype, array.shape) == (found.dtype, found.shape)
        np.testing.assert_array_equal(array, found)


@pytest.mark.parametrize("kind", ["<f4", "<f8", "<f2", "<i4", "<i8", "?"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"offset": "4"}, None),
        ({"offset": "-4"}, "bytes from -4 of data.bin, found other"),
        ({"length": "1"}, "bytes from 0 of data.bin, found other"),
        ({"offset": "1000"}, "bytes from 1,000 of data.bin, found other"),
        ({"location": "below/../data.bin"}, "outside the model's folder"),
        ({"location": "/"}, "outside the model's folder"),  # its whole path
    ],
)
def test_numbers_of_each_kind_in_another_file(kind, changes, message, tmp_path):
    values = np.array([[0, 1, 0], [1, 1, 0]], kind)
    (tmp_path / "below").mkdir()
    (tmp_path / "data.bin").write_bytes(b"\1" * int(changes.get("offset", 0)) + values.tobytes())
    if message:
        (tmp_path / "data.bin").write_bytes(values.tobytes())
    if changes.get("location") == "/":
        changes = {"location": str(tmp_path / "data.bin")}
    g = Graph((2,))
    g.array("w", values, kind)
    g.node("Identity", "w", "made")
    g.weights[0].ClearField("raw_data")
    g.weights[0].data_location = onnx.TensorProto.EXTERNAL
    for key, value in ({"location": "data.bin"} | changes).items():
        g.weights[0].external_data.add(key=key, value=value)
    graph, node = opened(g, tmp_path)
    if message:
        with pytest.raises(DataError, match=rf"^tensor 'w': .*{message}"):
            graph.constant(node, "w")
    else:
        np.testing.assert_array_equal(graph.constant(node, "w"), values)
        assert graph.constant(node, "w").dtype == ("f4" if kind == "<f2" else kind)


def test_attributes_are_read_by_their_kind_once_and_axes_from_the_first(tmp_path):
    g = Graph((2,))
    g.array("axes", [-1, 0], np.int64)
    g.node("ReduceSum", "data axes", "sum")
    g.node("Softmax", "sum", "soft", axis=-2)
    graph, soft = opened(g, tmp_path)
    assert graph.axes(graph.graph.node[0], 3) == (0, 2)
    assert graph.axis(soft, 4) == 2
    with pytest.raises(DataError, match=r"\(Softmax\): expected an attribute axis of kind FLOAT"):
        graph.attribute(soft, "axis", "FLOAT")
    with pytest.raises(DataError, match=r"\(ReduceSum\): 'axes': expected one number, found \(2,\)"):
        graph.number(graph.graph.node[0], "axes")
    graph.all_understood([soft])
    soft.attribute.append(onnx.helper.make_attribute("seed", 1))  # says nothing
    graph.all_understood([soft])
    soft.attribute.append(onnx.helper.make_attribute("other", 1))
    with pytest.raises(DataError, match=r"\(Softmax\): expected no attribute 'other'"):
        graph.all_understood([soft])
    soft.attribute.append(soft.attribute[0])
    with pytest.raises(DataError, match=r"\(Softmax\): expected an attribute axis of kind INT"):
        graph.axis(soft, 4)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([-2], r"expected weights of float32, .*, found \(-2,\)"),
        ([3], r"expected \(3,\): "),
        ([], r"expected \(\)"),
    ],
)
def test_sizes_that_are_not_those_of_the_numbers(dims, message, tmp_path):
    g = Graph((2,))
    g.node("Add", f"data {g.array('w', [1, 2])}", "made")
    del g.weights[0].dims[:]
    g.weights[0].dims.extend(dims)
    graph, node = opened(g, tmp_path)
    with pytest.raises(DataError, match=f"^tensor 'w': {message}"):
        graph.constant(node, "w")


def test_one_node_makes_a_value(tmp_path):
    g = Graph((2,))
    g.node("Relu", "data", "made")
    g.node("Sigmoid", "data", "made")
    with pytest.raises(DataError, match=r"\(Sigmoid\): its output 'made' is another's too"):
        opened(g, tmp_path)


# ---- the fuzzer --------------------------------------------------------------------------------------------


def test_some_hundred_random_graphs(tmp_path):
    g, x = Graph((1, 16, 16)), np.ones((1, 1, 16, 16), np.float32)
    pool(g, 3, 2, 1, count_include_pad=1)
    theirs = FUZZ.runtime(str(g.write(tmp_path / "pool.onnx"))).run(None, {"data": x})[0]
    if theirs.shape != (1, 1, 9, 9) or abs(theirs - averages(3, 2, 1, True)(x)).max() > 1e-6:
        pytest.skip(f"AveragePool of onnxruntime {ort.__version__} is wrong: 1.29 is right")
    counts, _, wrong = FUZZ.fuzz(0, lambda number: number < 250, tmp_path / "net.onnx")
    assert wrong == []
    assert counts["graph"]["accepted"] >= 50
    assert counts["graph"]["refused"] >= 10
    assert counts["network"]["accepted"] >= 15


def test_the_fuzzer_finds_a_mistake_that_is_put_in(tmp_path, monkeypatch):
    right = onnx_import._Reader._geometry

    def mistaken(*arguments):  # ONNX's order of the paddings, taken for ours
        stride, (top, bottom, left, last) = right(*arguments)
        return stride, (top, left, bottom, last)

    monkeypatch.setattr(onnx_import._Reader, "_geometry", mistaken)
    _, _, wrong = FUZZ.fuzz(0, lambda number: number < 60, tmp_path / "net.onnx")
    assert len(wrong) >= 2
