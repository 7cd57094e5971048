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

from tinyalex.exchange import onnx_export, onnx_import, state_dict  # noqa: E402


def fuzzer():
    """The command measured/fuzz_onnx.py, as a module."""
    path = Path(__file__).parent.parent / "measured" / "fuzz_onnx.py"
    spec = importlib.util.spec_from_file_location("fuzz_onnx", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FUZZ = fuzzer()


def agrees(path, shift=0.0, batch=3):
    """Read a file; what it computes of `batch` random pictures is what onnxruntime computes of them."""
    found = onnx_import.read(path)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((batch, *found.network.input)).astype(np.float32) + np.float32(shift)
    wanted = FUZZ.runtime(str(path)).run(None, {"data": x})[0]
    y = FUZZ.ours(found.network, found.arrays, x)
    assert y.shape == wanted.shape
    np.testing.assert_allclose(y, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    return found


def rows(path):
    """How many rows the value "pooled" of a file has, by onnxruntime."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("pooled", 1, None))
    x = np.zeros([1, *(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:])], np.float32)
    return FUZZ.runtime(model.SerializeToString()).run(None, {"data": x})[0].shape[2]


# ---- pooling -----------------------------------------------------------------------------------------------


def pooled(window, stride, pad, side, after, path, opset=13, **more):
    """AveragePool with ceil_mode, then a layer that swallows a row too many, then Gemm."""
    g = Graph((3, side, side))
    g.node(
        "AveragePool", "data", "pooled", kernel_shape=[window] * 2, strides=[stride] * 2, pads=[pad] * 4,
        ceil_mode=1, **more,
    )  # fmt: skip
    maps = 3
    if after == "Sigmoid":
        g.node("Sigmoid", "pooled", "s")
        g.weight("w", 4, 3, 3, 3)
        g.node("Conv", "s w", "c", pads=[1] * 4, strides=[2, 2])
        maps = 4
    else:
        g.node("MaxPool", "pooled", "c", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    side = (rows(g.write(path, opset=opset)) - 1) // 2 + 1
    g.node("Flatten", "c", "flat")
    g.weight("fw", 5, maps * side**2)
    g.node("Gemm", "flat fw", "logits", transB=1)
    return g.write(path, opset=opset)


@pytest.mark.parametrize(("after", "shift"), [("Sigmoid", 1.0), ("MaxPool", -5.0)])
@pytest.mark.parametrize("counted", [{"count_include_pad": 1}, {"count_include_pad": 0}, {}])
@pytest.mark.parametrize(
    ("window", "stride", "pad", "side"), [(2, 2, 1, 13), (2, 2, 1, 9), (4, 4, 2, 9), (3, 2, 1, 16)]
)
def test_average_pool_with_ceil_and_padding(window, stride, pad, side, counted, after, shift, tmp_path):
    agrees(pooled(window, stride, pad, side, after, tmp_path / "net.onnx", **counted), shift)


@pytest.mark.parametrize("counted", [0, 1])
def test_a_last_window_that_would_begin_in_the_padding_is_none(counted, tmp_path):
    g = Graph((3, 5, 5))  # 2 × 2 windows, not 3 × 3
    pool = {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1] * 4, "ceil_mode": 1}
    g.node("AveragePool", "data", "pooled", count_include_pad=counted, **pool)
    g.node("Flatten", "pooled", "flat")
    assert agrees(g.write(tmp_path / "net.onnx"), 2.0).network.outputs == (12,)


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


# ---- the fuzzer --------------------------------------------------------------------------------------------


def test_some_hundred_random_graphs(tmp_path):
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
