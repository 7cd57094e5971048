"""Layers: the contracts that each of them keeps, and the same numbers on any number of ranks.

All run on NumPy, on the stand-in for CuPy and on GPUs.
"""

import copy
import json
import math
import pickle
import re
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import backends
import numpy as np
import pytest

from tinyalex.comm import Comm, launch
from tinyalex.devices import parse
from tinyalex.errors import ArgumentError, DataError
from tinyalex.gradcheck import check_layer
from tinyalex.models import Network
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
    Layer,
    Linear,
    Local2d,
    MaxPool,
    Part,
    SameMapNorm,
    Sequential,
    ZeroPad,
    plan,
)
from tinyalex.nn.layers import KINDS as BY_NAME
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward
from tinyalex.optim import SGD

pytestmark = pytest.mark.usefixtures("backend")

MAPS = (4, 7, 6, 3)  # C, H, W, N


class Kind(NamedTuple):
    """A layer, or a list of layers, as it is declared for the contracts."""

    layer: object
    shape: tuple = MAPS
    linear: str = ""  # names of the variables in which y is linear

    def build(self, comm, rng, dtype):
        """Return the layer, or the list as a Sequential, with arrays."""
        if isinstance(self.layer, list):
            return Sequential(self.layer, self.shape[:-1], comm, rng, dtype)
        return copy.copy(self.layer).build(self.shape[:-1], comm, rng, dtype)


def conv(kernel=(3, 2), need_dx=True, **settings):
    layer = Conv2d(6, kernel, std=0.5, bias=0.1, **settings)
    layer.need_dx = need_dx
    return layer


def linear(**settings):
    return Linear(5, std=0.5, bias=0.1, **settings)


KINDS = {
    "conv": Kind(conv(), linear="xwb"),
    "conv, pad (1,0,2,1)": Kind(conv(pad=(1, 0, 2, 1)), linear="xwb"),
    "conv, relu": Kind(conv(activation="relu")),
    "conv, tanh": Kind(conv(activation=("tanh", 1.7, 0.6))),
    "conv, stride 2": Kind(conv(stride=2, pad=1), linear="xwb"),
    "conv, groups 2": Kind(conv(groups=2), linear="xwb"),
    "conv, groups 2, stride 3, relu": Kind(conv(groups=2, stride=3, activation="relu")),
    "conv, no dx": Kind(conv(need_dx=False), linear="wb"),
    "conv, no dx, stride 4, relu": Kind(conv(need_dx=False, stride=4, activation="relu")),
    "local, stride 2, pad": Kind(Local2d(6, (3, 2), stride=2, pad=1, std=0.5, bias=0.1), linear="xwb"),
    "local, relu": Kind(Local2d(6, 3, activation="relu", std=0.5, bias=0.1)),
    "linear on maps": Kind(linear(), linear="xwb"),
    "linear on features": Kind(linear(), (8, 3), linear="xwb"),
    "linear, relu": Kind(linear(activation="relu"), (8, 3)),
    "max pool": Kind(MaxPool(3, 2)),
    "max pool, pad": Kind(MaxPool(3, 2, pad=(1, 0, 1, 1))),
    "avg pool": Kind(AvgPool(3, 2), linear="x"),
    "global avg pool": Kind(GlobalAvgPool(), linear="x"),
    "lrn": Kind(LRN(alpha=1.0), (7, 4, 3, 2)),
    "lrn, groups 2, n 4": Kind(LRN(4, alpha=1.0, groups=2)),
    "same-map norm": Kind(SameMapNorm(alpha=1.0)),
    "batch norm": Kind(BatchNorm(), linear="xwb"),
    "batch norm of features": Kind(BatchNorm(eps=0.1), (8, 3), linear="xwb"),
    "relu": Kind(Activate("relu")),
    "tanh": Kind(Activate(("tanh", 1.7, 0.6))),
    "logistic": Kind(Activate("logistic")),
    "dropout": Kind(Dropout(keep=0.7), linear="x"),
    "dropout, inverted": Kind(Dropout(keep=0.7, inverted=True), linear="x"),
    "all-gather": Kind(AllGather(), linear="x"),
    "all-gather, replicated": Kind(AllGather(replicated=True), linear="x"),
    "flatten": Kind(Flatten(), linear="x"),
    "zero pad": Kind(ZeroPad((1, 0, 2, 3)), linear="x"),
    "part": Kind(Part(), linear="x"),
    "sequential": Kind(
        [
            MaxPool(2, 1, name="first"),  # a convolution that is first gives no dx
            conv((2, 2), activation="relu", pad=1, name="conv"),
            MaxPool(3, 2),
            linear(name="fc"),
        ]
    ),
}

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def make(kind, dtype=np.float64, seed=0):
    """Return the layer, an x and a dy that fits, drawn from the seed; x and dy are read-only."""
    rng = np.random.default_rng(seed)
    layer = backends.Hosted(kind.build(Comm(backends.device()), rng, dtype))
    x = rng.standard_normal(kind.shape).astype(dtype)
    dy = rng.standard_normal(layer.forward(x).shape).astype(dtype)
    x.flags.writeable = dy.flags.writeable = False
    return layer, x, dy


def arrays_of(layer, what):
    """The layer's params (without statistics) or grads by name, also of a Sequential's layers, of NumPy's."""
    return backends.get(on_device(layer, what))


def on_device(layer, what):
    """The same as the device's own arrays."""
    if hasattr(layer, "learned"):
        return {name: getattr(part, what)[key] for name, part, key in layer.learned()}
    return {key: a for key, a in getattr(layer, what).items() if key not in layer.statistics}


def gradients(layer, dy):
    """Copies of dx (unless it is None) and of the parameters' gradients."""
    dx = layer.backward(dy)
    grads = arrays_of(layer, "grads")
    if dx is not None:
        grads["x"] = dx
    return {name: g.copy() for name, g in grads.items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].tobytes() == b[name].tobytes() for name in a
    )


# ---- contracts -----------------------------------------------------------------------------------------


@both_dtypes
@every_kind
def test_zero_dy_gives_zero_gradients(kind, dtype):
    layer, x, dy = make(kind, dtype)
    layer.forward(x, train=True)
    assert not any(g.any() for g in gradients(layer, np.zeros_like(dy)).values())


@every_kind
def test_a_batch_may_be_empty(kind):
    layer, x, dy = make(kind)
    if isinstance(kind.layer, BatchNorm):  # an average over none
        with pytest.raises(ValueError, match="at least 1 image"):
            layer.forward(x[..., :0], train=True)
        return
    assert layer.forward(x[..., :0], train=True).shape == (*dy.shape[:-1], 0)
    grads = gradients(layer, dy[..., :0])
    assert not any(g.any() for g in grads.values())
    assert grads.get("x", x[..., :0]).shape == (*x.shape[:-1], 0)


@both_dtypes
@every_kind
def test_backward_again_gives_the_same_bits(kind, dtype):
    layer, x, dy = make(kind, dtype)
    layer.forward(x, train=True)
    first = gradients(layer, dy)
    assert same_bits(gradients(layer, dy), first)
    other = gradients(layer, dy[..., ::-1])
    assert not same_bits(other, first)
    assert same_bits(gradients(layer, dy), first)


@both_dtypes
@every_kind
def test_nothing_that_is_passed_in_or_out_is_written_to(kind, dtype):
    layer, x, dy = make(kind, dtype)
    for array in on_device(layer, "params").values():
        backends.freeze(array)
    y = layer.forward(x, train=True)
    before = [a.tobytes() for a in (x, dy, y, *arrays_of(layer, "params").values())]
    layer.backward(dy)
    layer.backward(dy)
    assert [a.tobytes() for a in (x, dy, y, *arrays_of(layer, "params").values())] == before


@both_dtypes
@every_kind
def test_gradient_has_the_shape_and_dtype_of_its_variable(kind, dtype):
    layer, x, dy = make(kind, dtype)
    assert layer.forward(x, train=True).dtype == dtype
    variables = {"x": x, **arrays_of(layer, "params")}
    grads = gradients(layer, dy)
    assert variables.keys() - grads.keys() <= ({"x"} if not getattr(layer, "need_dx", True) else set())
    for name, g in grads.items():
        assert (g.shape, g.dtype) == (variables[name].shape, dtype)


@every_kind
def test_gradients_agree_with_the_slope(kind):
    layer, x, _ = make(kind)
    report = check_layer(layer.layer, backends.put(x), np.random.default_rng(1), linear=kind.linear)
    expected = {"x", *arrays_of(layer, "params")} - ({"x"} if not getattr(layer, "need_dx", True) else set())
    assert report.errors.keys() == expected


@every_kind
def test_views_in_any_order_are_as_good_as_contiguous_arrays(kind):
    layer, x, dy = make(kind)
    y = layer.forward(x)
    grads = gradients(layer, dy)
    for view in (
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],  # every second image
        lambda a: np.repeat(a, 2, axis=0)[::2],  # every second channel
        lambda a: np.concatenate([a, a])[len(a) :][..., ::-1].copy()[..., ::-1],  # images backwards
        np.asfortranarray,
    ):
        np.testing.assert_allclose(layer.forward(view(x)), y, rtol=1e-12, atol=1e-12)
        layer.forward(x)
        for given in (lambda: layer.forward(x), lambda view=view: layer.forward(view(x))):
            given()
            for name, g in gradients(layer, view(dy)).items():
                np.testing.assert_allclose(g, grads[name], rtol=1e-12, atol=1e-12)


@every_kind
def test_results_are_the_callers_own(kind):
    """Large enough for the host's buffer pool: a later call must not write into an earlier result."""
    small, _, _ = make(kind)
    rng = np.random.default_rng(3)
    layer = backends.Hosted(kind.build(Comm(backends.device()), rng, np.float64))
    images = 64 if backends.name == "standin" else 1000  # a GPU's pool takes arrays of any size
    x = rng.standard_normal((*kind.shape[:-1], images))
    y = layer.layer.forward(backends.put(x), train=True)
    dy = rng.standard_normal(y.shape)
    grads = gradients(layer, dy)
    dx = layer.layer.backward(backends.put(dy))
    kept = [y, *([] if dx is None else [dx]), *on_device(layer, "grads").values()]
    before = [backends.get(a).tobytes() for a in kept]
    for _ in range(2):
        layer.forward(2 * x, train=True)
        layer.backward(-dy)
    assert [backends.get(a).tobytes() for a in kept] == before
    assert grads.keys() >= arrays_of(small, "params").keys()


# ---- training and test ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [k for name, k in KINDS.items() if "dropout" not in name and "batch" not in name],
    ids=[n for n in KINDS if "drop" not in n and "batch" not in n],
)
def test_only_dropout_and_batch_normalization_know_training_from_test(kind):
    layer, x, _ = make(kind)
    assert layer.forward(x, train=True).tobytes() == layer.forward(x, train=False).tobytes()


@both_dtypes
@pytest.mark.parametrize(("inverted", "kept", "test"), [(False, 1.0, 0.7), (True, 1 / 0.7, 1.0)])
def test_dropout_in_training_and_test(inverted, kept, test, dtype):
    rng = np.random.default_rng(5)
    layer = Dropout(keep=0.7, inverted=inverted).build((200,), Comm(backends.device()), rng)
    layer, x = backends.Hosted(layer), np.ones((200, 50), dtype)

    state = rng.bit_generator.state
    np.testing.assert_allclose(layer.forward(x), dtype(test) * x, rtol=1e-6)
    np.testing.assert_allclose(layer.backward(2 * x), dtype(2 * test) * x, rtol=1e-6)
    assert rng.bit_generator.state == state  # nothing drawn

    y = layer.forward(x, train=True)
    np.testing.assert_allclose(np.unique(y), [0, kept], rtol=1e-6)
    assert abs((y > 0).mean() - 0.7) < 0.03  # 6 standard deviations
    assert (layer.backward(x) == y).all()  # the same units and factor
    assert (layer.forward(x, train=True) != y).any()  # a fresh mask
    assert abs((layer.forward(x).mean() - y.mean()) / y.mean()) < 0.05


@both_dtypes
@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 6)], ids=["maps", "features"])
def test_batch_normalization_in_training_and_test(shape, dtype):
    rng = np.random.default_rng(5)
    layer = BatchNorm(momentum=0.25).build(shape[:-1], Comm(backends.device()), rng, dtype)
    hosted, x = backends.Hosted(layer), (5 + 3 * rng.standard_normal(shape)).astype(dtype)
    arrays = dict(layer.params)
    np.testing.assert_allclose(hosted.forward(x), x, rtol=1e-4)  # at first: mean 0, variance 1
    assert {name: backends.get(a).tolist() for name, a in layer.params.items()} == {
        "w": [1] * 4, "b": [0] * 4, "mean": [0] * 4, "var": [1] * 4,
    }  # fmt: skip

    y = hosted.forward(x, train=True)
    rows, n = y.reshape(4, -1), x.size // 4
    np.testing.assert_allclose(rows.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(rows.var(axis=1), 1, rtol=1e-4)
    of_batch = x.reshape(4, -1).astype(np.float64)
    mean, var = 0.25 * of_batch.mean(axis=1), 0.75 + 0.25 * of_batch.var(axis=1) * n / (n - 1)
    np.testing.assert_allclose(backends.get(layer.params["mean"]), mean, rtol=1e-5)
    np.testing.assert_allclose(backends.get(layer.params["var"]), var, rtol=1e-5)
    assert all(layer.params[key] is array for key, array in arrays.items())  # a recorded step writes there

    for _ in range(40):
        hosted.forward(x, train=True)
    learned = backends.get(dict(layer.params))
    np.testing.assert_allclose(hosted.forward(x), y * np.sqrt(1 - 1 / n), rtol=0, atol=1e-3)
    assert all((backends.get(layer.params[key]) == a).all() for key, a in learned.items())  # not at test


def test_training_on_one_number_a_channel_is_refused():
    layer = backends.Hosted(
        BatchNorm(name="bn").build((3,), Comm(backends.device()), np.random.default_rng(0))
    )
    with pytest.raises(ArgumentError, match="bn: training wants more than one number for each channel"):
        layer.forward(np.ones((3, 1), np.float32), train=True)
    assert layer.forward(np.ones((3, 1), np.float32)).shape == (3, 1)
    for wrong in (BatchNorm(eps=0.0), BatchNorm(momentum=1.5)):
        with pytest.raises(ArgumentError, match="bn1: expected eps > 0 and 0 ≤ momentum ≤ 1"):
            plan([wrong], (3,))


@pytest.mark.parametrize(
    "activation",
    [
        "Relu", ("tanh", 0, 1), ("tanh", math.inf, 1), ("tanh", 1e200, 1e200), ("tanh", 1), ("leaky", 0),
        ("leaky", -0.1), ("leaky", math.inf), (),
    ],
)  # fmt: skip
def test_what_is_no_activation_is_refused_by_the_layer_s_name(activation):
    with pytest.raises(ArgumentError, match=r"^fc7: activation: expected"):
        Linear(3, activation=activation, name="fc7")


def test_a_kind_of_ones_own_does_not_take_the_place_of_one_of_ours():
    with pytest.raises(ArgumentError, match=r"^Conv2d: tinyalex has a kind of layer of this name"):
        type("Conv2d", (Layer,), {})
    assert BY_NAME["Conv2d"] is Conv2d


def test_the_weights_are_drawn_as_told():
    layer = Conv2d(64, 5, std=0.03, bias=1)
    single, double = (
        arrays_of(
            copy.copy(layer).build((8, 9, 9), Comm(backends.device()), np.random.default_rng(0), dtype),
            "params",
        )
        for dtype in (np.float32, np.float64)
    )
    assert abs(single["w"].std() / 0.03 - 1) < 0.05
    assert abs(single["w"].mean()) < 0.002
    assert (single["b"] == 1).all()
    for key in "wb":
        assert single[key].dtype == np.float32
        assert double[key].dtype == np.float64
        assert (double[key] == single[key]).all()  # the same network in either precision


@pytest.mark.parametrize(
    ("x", "dtype", "dy", "message"),
    [
        ((3, 8, 8, 1), np.float32, (3, 1), r"^fc1: linear backward: expected dy of shape \(2, 1\), found"),
        ((3, 8, 8, 1), np.float64, (2, 1), r"^conv1: conv2d: expected arguments all float32 or all float64"),
        ((3, 9, 8, 1), np.float32, (2, 1), r"^conv1: expected an input \(3, 8, 8, N\), found \(3, 9, 8, 1\)"),
    ],
)
def test_what_does_not_fit_is_told_with_the_layer_s_name(x, dtype, dy, message):
    net = Sequential([Conv2d(4, 3), Linear(2)], (3, 8, 8), Comm(backends.device()), np.random.default_rng(0))

    def there_and_back():
        net.forward(backends.put(np.zeros(x, dtype)))
        net.backward(backends.put(np.zeros(dy, np.float32)))

    with pytest.raises((ArgumentError, TypeError), match=message):
        there_and_back()


def test_sequential_names_its_parameters():
    net = KINDS["sequential"].build(Comm(backends.device()), np.random.default_rng(0), np.float32)
    assert [(name, layer, key) for name, layer, key in net.parameters()] == [
        ("conv.w", net.layers["conv"], "w"),
        ("conv.b", net.layers["conv"], "b"),
        ("fc.w", net.layers["fc"], "w"),
        ("fc.b", net.layers["fc"], "b"),
    ]


def test_sequential_can_stop_after_a_named_layer():
    kind = KINDS["sequential"]
    net = backends.Hosted(kind.build(Comm(backends.device()), np.random.default_rng(0), np.float64))
    x = np.random.default_rng(1).standard_normal(MAPS)
    y = net.forward(x, last="conv")
    pooled = net.forward(x, last="first")
    assert y.tobytes() == backends.Hosted(net.layers["conv"]).forward(pooled).tobytes()
    assert net.forward(x, last="fc").tobytes() == net.forward(x).tobytes()


def test_a_network_can_be_copied_and_pickled():
    """The copy computes the same, and is trained alone; a rank among others cannot be copied."""
    layers = [Conv2d(4, 3, activation="relu"), BatchNorm(), MaxPool(2, 2), Dropout(), Linear(3)]
    x = np.random.default_rng(1).standard_normal((3, 8, 8, 2)).astype(np.float32)
    net = Sequential(layers, x.shape[:-1], rng=np.random.default_rng(0))
    net.forward(x, train=True)
    before = net.forward(x)
    for made in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert made.forward(x).tobytes() == before.tobytes()
        made.backward(np.ones_like(before))
        SGD(made, rate=1.0).step()
        assert made.forward(x).tobytes() != before.tobytes()
        assert net.forward(x).tobytes() == before.tobytes()

    def rank(comm):
        layers = [Conv2d(4, 3), AllGather(), Linear(2), AllGather(replicated=True)]
        net = Sequential(layers, (3, 4, 4), comm, np.random.default_rng(0))
        for how in (copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))):
            with pytest.raises(TypeError):
                how(net)

    launch(rank, parse("cpu:0,cpu:1"))


def test_numpy_s_numbers_and_arrays_are_fields_and_sizes_too():
    """And go into JSON, as a checkpoint has them."""
    numpy_s = Network(
        [
            Conv2d(np.int64(4), np.int32(3), np.array([2, 1]), name="c"),
            MaxPool(2, 2, ceil=np.True_, name="p"),
            Linear(3),
        ],
        np.array([3, 9, 8]),
    )
    python_s = Network(
        [Conv2d(4, 3, (2, 1), name="c"), MaxPool(2, 2, ceil=True, name="p"), Linear(3)],
        (3, 9, 8),
    )
    assert json.dumps(numpy_s.to_json()) == json.dumps(python_s.to_json())
    assert numpy_s.build().input_shape == (3, 9, 8)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("conv", "layers: expected a list of layers, found str"),
        (3, "layers: expected a list of layers, found int"),
        ([], r"layers: expected at least one, found \[\]"),
        ([Linear(3), 3], r"layer 2: expected one such as MaxPool\(3, 2\), found 3"),
        ([Linear(3, name="a"), Linear(2, name="a")], "layer 2: the name 'a' stands twice"),
        ([Linear(0)], "fc1: features: expected at least 1, found 0"),
        ([LRN(groups=2)], "lrn1: 2 groups do not fit 3 channels"),
    ],
)
def test_lists_that_are_no_network_are_refused(layers, message):
    with pytest.raises(ArgumentError, match=message):
        Sequential(layers, (3, 8, 8))


@pytest.mark.parametrize("kind", [LRN, SameMapNorm])
@pytest.mark.parametrize(
    ("field", "value", "least"),
    [("k", -1.0, 0), ("alpha", -1e-9, 0), ("beta", float("nan"), 0), ("beta", float("inf"), 0), ("n", 0, 1)],
)
def test_numbers_with_which_nothing_can_be_normalized_are_refused(kind, field, value, least):
    """When the layer is made: a network read from JSON with them would fail in its first step."""
    message = rf"{kind.__name__}: {field}: expected a finite number( ≥ {least})?, found {value}"
    with pytest.raises(ArgumentError, match=message):
        kind(**{field: value})
    entry = {"kind": kind.__name__, "name": "norm", field: value}
    with pytest.raises(DataError, match=rf"norm: {field}: expected a finite number( ≥ {least})?, found"):
        Network.from_json({"input": [4, 3, 3], "layers": [entry]})


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ([], "layers: expected a list of layers, found an empty one"),
        ([{"kind": "Linear", "name": "fc1"}], "fc1: expected a Linear's fields, .*, found features missing"),
        (
            [{"kind": "Linear", "name": "fc1", "features": 3, "bais": 1.0}],
            "fc1: expected .*, bias, found bais",
        ),
    ],
)
def test_fields_of_a_layer_in_json_are_told_by_their_names(layers, said):
    """Not as Python has it: __init__() missing 1 required positional argument."""
    with pytest.raises(DataError, match=said):
        Network.from_json({"input": [3, 8, 8], "layers": layers})


def test_what_ranks_hold_parts_of_at_the_end_must_be_joined():
    with pytest.raises(
        ArgumentError, match=r"fc2: ends in parts, on 2 ranks: AllGather\(replicated=True\) joins"
    ):
        plan([Linear(4), AllGather(), Linear(2)], (8,), ranks=2)


def test_what_every_rank_holds_whole_is_not_joined():
    with pytest.raises(
        ArgumentError, match=r"gather1: reads part of the channels, .* holds them all: put Part"
    ):
        plan([AllGather(), Linear(2), AllGather(replicated=True)], (8,), ranks=2)


def test_parameters_that_a_kind_of_ones_own_does_not_tell_of_are_refused():
    @dataclass(repr=False)
    class Own(Layer, is_kind=False):
        weights = ("w",)

        def sizes(self, shape):
            return {"w": shape, "v": shape}

    said = (
        "layer1: sizes: expected those of weights and statistics, (D,) or more, found {'w': (3,), 'v': (3,)}"
    )
    with pytest.raises(ArgumentError, match=re.escape(said)):
        plan([Own()], (3,))


@dataclass(repr=False)
class Own(Layer, is_kind=False):
    """A layer of one's own as one writes it at first: with a parameter g, and a pair that is given."""

    given: ClassVar = None
    size: ClassVar = (1,)
    weights = ("g",)
    pair = property(lambda self: self.given)

    def sizes(self, shape):
        return {"g": self.size}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "own: expected a method draw(key, size, rng), which makes its g, found none"),
        ({"size": ()}, "own: sizes: expected those of weights and statistics, (D,) or more, found {'g': ()}"),
        (
            {"weights": ()},
            "own: sizes: expected those of weights and statistics, (D,) or more, found {'g': (1,)}",
        ),
        (
            {"draw": lambda self, key, size, rng: np.ones(size)},
            "own: pair: expected (forward, backward), found None",
        ),
        ({"ahead": lambda x, g: x}, "own: forward: expected (y, cache), found float32 (2, 3, 3, 2)"),
        (
            {"ahead": lambda x, g: (x[:, 1:], None)},
            "own: forward: expected as `out` says, an output (2, 3, 3, N), found (2, 2, 3, 2)",
        ),
        (
            {"ahead": lambda x, g: (None, None)},
            "own: forward: expected as `out` says, an output (2, 3, 3, N)",
        ),
        ({"back": lambda dy, cache: dy}, "own: backward: expected (dx, dg), found float32 (2, 3, 3, 2)"),
        ({"back": lambda dy, cache: (dy, 1, 2)}, "own: backward: expected (dx, dg), found ("),
    ],
    ids=lambda value: str([*value]) if isinstance(value, dict) else "",
)
def test_what_is_wrong_with_a_kind_of_ones_own_is_told_by_its_name(changes, said):
    """Not as Python has it (too many values to unpack), nor by the name of the layer after it."""
    changes = dict(changes)
    ahead, back = (changes.pop(name, None) for name in ("ahead", "back"))
    if ahead or back:
        pair = ahead or (lambda x, g: (x, None)), back
        changes |= {"given": pair, "draw": lambda self, key, size, rng: np.ones(size)}
    own = type("Own", (Own,), changes, is_kind=False)(name="own")
    x = np.ones((2, 3, 3, 2), np.float32)

    def run():
        net = Sequential([own, Linear(3)], (2, 3, 3), rng=0)
        net.forward(x)
        net.backward(np.ones((3, 2), np.float32))

    with pytest.raises(ArgumentError, match=f"^{re.escape(said)}"):
        run()


def test_a_pair_needs_no_cache():
    """Its None was taken for no forward pass before backward."""
    own = type("Own", (Own,), {"weights": (), "sizes": Layer.sizes}, is_kind=False)(name="own")
    own.given = lambda x: (2 * x, None), lambda dy, cache: 2 * dy
    net, x = Sequential([own], (3,)), np.ones((3, 2))
    assert (net.backward(net.forward(x)) == 4).all()
    with pytest.raises(ArgumentError, match="own: backward wants a forward pass before it, found none"):
        Sequential([own], (3,)).backward(x)


def test_a_network_is_shown_as_the_calls_that_make_it_with_shapes_and_parameters():
    """The smallest of each that there is: one feature, a window of one, nothing dropped."""
    net = Sequential([SameMapNorm(n=1), Conv2d(4, 3), Dropout(1.0), Linear(1, name="last")], (3, 8, 8))
    assert repr(net).splitlines() == [
        "          input              3×8×8",
        "cnorm1    SameMapNorm(n=1)   3×8×8",
        "conv1     Conv2d(4, 3)       4×6×6  112",
        "dropout1  Dropout(keep=1.0)  4×6×6",
        "last      Linear(1)          1      145",
        "                                    257 parameters",
    ]


@pytest.mark.parametrize("shape", [(3, 0, 8), (3, -1, 8), (3.0, 9, 8), ("3", 9, 8), (), 3, None], ids=repr)
def test_sizes_that_no_image_has_are_named(shape):
    with pytest.raises(ArgumentError, match=r"input: expected sizes ≥ 1, \(C, H, W\) or \(D,\), found"):
        Network([Linear(3)], shape).build()
    with pytest.raises(ArgumentError, match=r"^fc1: input: expected sizes ≥ 1"):
        Sequential([Linear(3)], shape)
    with pytest.raises(ArgumentError, match=r"^Linear: input: expected sizes ≥ 1"):
        Linear(3).build(shape)


ONE_LAYER = Network([Linear(3)], (4,))


@pytest.mark.parametrize(
    ("says", "call"),
    [
        ("comm: expected a Comm, found 'cpu:0'", lambda: Sequential([Linear(3)], (4,), "cpu:0")),
        ("comm: expected a Comm, found 2", lambda: Linear(3).build((4,), 2)),
        ("comm: expected a Comm, found 2", lambda: ONE_LAYER.build(2)),
        ("rng: expected a generator of NumPy's or a seed, found 'x'", lambda: ONE_LAYER.build(rng="x")),
        ("rng: expected a generator of NumPy's or a seed, found -1", lambda: ONE_LAYER.build(rng=-1)),
        ("rng: expected a generator of NumPy's or a seed, found 1.5", lambda: Linear(3).build((4,), rng=1.5)),
        ("ranks: expected a whole number ≥ 1, found 0", lambda: plan([Linear(3)], (4,), 0)),
        ("parts: expected a whole number ≥ 1, found 1.5", lambda: plan([Linear(3)], (4,), 1, 1.5)),
        ("ranks: expected a whole number ≥ 1, found '2'", lambda: ONE_LAYER.plan("2")),
        ("ranks: expected a whole number ≥ 1, found -2", lambda: ONE_LAYER.plan(-2, "data")),
        (
            "last: expected a layer, one of fc1, found 'fc2'",
            lambda: ONE_LAYER.build().forward(None, last="fc2"),
        ),
        ("last: expected a layer, one of fc1, found []", lambda: ONE_LAYER.build().forward(None, last=[])),
        ("fc: expected x, an array, found list", lambda: Linear(3, name="fc").build((4,)).forward([1])),
        ("flat: expected x, an array, found None", lambda: Flatten().build(MAPS[:-1]).forward(None)),
        ("pad: expected x, an array, found None", lambda: ZeroPad(1).build(MAPS[:-1]).forward(None)),
        ("pad: expected x (C,H,W,N), found (2,)", lambda: ZeroPad(1).build(MAPS[:-1]).forward(np.ones(2))),
        ("part: expected x, an array, found None", lambda: Part().build(MAPS[:-1]).forward(None)),
    ],
)
def test_what_a_network_and_its_layers_are_given_is_named(says, call):
    with pytest.raises(ArgumentError, match=f"^{re.escape(says)}"):
        call()


def test_a_layer_takes_a_seed_for_its_generator_as_a_network_does():
    one, other = (Linear(3).build((4,), rng=rng) for rng in (7, np.random.default_rng(7)))
    assert (one.params["w"] == other.params["w"]).all()


@pytest.mark.parametrize("layer", [Flatten(name="own"), ZeroPad(1, name="own"), Part(name="own")], ids=repr)
def test_a_dy_that_is_no_output_of_the_layer_is_refused(layer):
    """Part's would be copied to every image, ZeroPad's cut, and Flatten's read in another order."""
    comm = Comm(backends.device())
    y = layer.build(MAPS[:-1], comm).forward(backends.put(np.ones(MAPS)))
    assert layer.backward(y).shape == MAPS
    for wrong in (y[..., :1], y[:1], y.T, None):
        says = rf"^own backward: expected dy of shape {re.escape(str(y.shape))}, found"
        with pytest.raises(ArgumentError, match=says):
            layer.backward(wrong)


# ---- any number of ranks -------------------------------------------------------------------------------


def run_on(ranks, layers, x, dy, steps=0, labels=None):
    """Build the same network on so many ranks; return y, dx and each gradient, put together again.

    x is whole on every rank, and so is the network's output.  The network begins with Part: each rank has
    its own channels of dx, and 0 elsewhere.  With steps, train that long on the labels first.
    """

    def rank(comm):
        net = Sequential(layers, x.shape[:-1], comm, np.random.default_rng(7), np.float64)
        net = backends.Hosted(net)
        optimizer = SGD(net, rate=0.05, momentum=0.9, decay=0.01, bias_rate=0.1)
        for _ in range(steps):
            logits = net.layer.forward(backends.put(x), train=True)
            _, cache = softmax_loss_forward(logits, backends.put(labels))
            net.layer.backward(softmax_loss_backward(cache))
            optimizer.step()
        y = net.forward(x, train=True)
        dx = net.backward(dy)
        assert not np.delete(dx, range(len(x))[comm.part(len(x))], axis=0).any()  # the other ranks' channels
        params = {name: backends.get(layer.params[key]) for name, layer, key in net.parameters()}
        return y, {"x": dx[comm.part(len(x))], **arrays_of(net, "grads")}, params, comm.ledger, comm.calls

    results = launch(rank, parse(backends.names(ranks)))
    ys = [y for y, *_ in results]
    assert all(y.tobytes() == ys[0].tobytes() for y in ys)
    joined = [{name: np.concatenate([r[i][name] for r in results]) for name in results[0][i]} for i in (1, 2)]
    return ys[0], *joined, results


def assert_same(found, expected, rtol=1e-12):
    assert found.keys() == expected.keys()
    for name in expected:
        scale = abs(expected[name]).max()
        assert scale > 0, f"{name} is 0: nothing was compared"
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=rtol * scale, err_msg=name)


LARGE = {"std": 0.3, "bias": 0.1}


def towers(groups):
    return [Part(), Conv2d(12, (3, 2), groups=groups, activation="relu", **LARGE), AllGather(replicated=True)]


FILTERS = [
    Part(), AllGather(), Conv2d(12, (3, 2), pad=1, activation="tanh", **LARGE), AllGather(replicated=True),
]  # fmt: skip
ROWS = [Part(), AllGather(), Linear(6, "relu", **LARGE), AllGather(replicated=True)]
DROPPED = [Part(), Dropout(), AllGather(replicated=True)]
NORMED = [Part(), BatchNorm(), AllGather(replicated=True)]


@pytest.mark.parametrize(
    ("layers", "out", "ranks"),
    [
        (towers(2), (12, 3, 5), 2),
        (towers(4), (12, 3, 5), 2),
        (towers(3), (12, 3, 5), 3),
        (FILTERS, (12, 5, 7), 2),
        (FILTERS, (12, 5, 7), 3),
        (ROWS, (6,), 2),
        (ROWS, (6,), 3),
        (DROPPED, (12, 5, 6), 2),
        (DROPPED, (12, 5, 6), 3),
        (NORMED, (12, 5, 6), 2),
        (NORMED, (12, 5, 6), 3),
    ],
    ids=[
        "towers",
        "4_groups",
        "3_towers",
        "filters",
        "filters_3",
        "rows",
        "rows_3",
        "dropout",
        "dropout_3",
        "batch_norm",
        "batch_norm_3",
    ],
)
def test_a_layer_gives_the_same_on_any_number_of_ranks(layers, out, ranks):
    rng = np.random.default_rng(11)
    x, dy = rng.standard_normal((12, 5, 6, 4)), rng.standard_normal((*out, 4))
    y, grads, params, _ = run_on(1, layers, x, dy)
    y_split, grads_split, params_split, _ = run_on(ranks, layers, x, dy)
    assert same_bits(params_split, params)  # drawn whole, then cut
    assert_same({"y": y_split}, {"y": y})
    assert_same(grads_split, grads)


def test_dropout_drops_the_same_units_bit_for_bit():
    x = np.ones((12, 5))
    y, *_ = run_on(1, DROPPED, x, x)
    for ranks in (2, 3):
        assert run_on(ranks, DROPPED, x, x)[0].tobytes() == y.tobytes()


@pytest.mark.parametrize("layer", [Conv2d(5, 3, name="rows"), Linear(5, name="rows")], ids=["conv", "fc"])
def test_rows_that_cannot_be_shared_are_refused(layer):
    message = "rows: .*5 .*cannot be shared evenly by 2 ranks"
    with pytest.raises(ArgumentError, match=message):
        launch(
            lambda comm: copy.copy(layer).build((2, 5, 5), comm, np.random.default_rng(0)),
            parse("cpu:0,cpu:1"),
        )
    with pytest.raises(ArgumentError, match=message):
        plan([layer], (2, 5, 5), ranks=2)


def test_batch_normalization_is_shared_by_the_channels():
    """It stands before the ranks meet; before any convolution, they part for it."""
    after = plan([Conv2d(4, 3), BatchNorm(), Linear(6), BatchNorm(), Linear(2)], (2, 5, 5), ranks=2)
    kinds = [type(place.layer).__name__ for place in after]
    assert kinds == [
        "Conv2d",
        "BatchNorm",
        "AllGather",
        "Linear",
        "BatchNorm",
        "AllGather",
        "Linear",
        "AllGather",
    ]
    first = [type(place.layer).__name__ for place in plan([BatchNorm(), Conv2d(4, 3)], (2, 5, 5), ranks=2)]
    assert first == ["Part", "BatchNorm", "AllGather", "Conv2d", "AllGather"]
    with pytest.raises(ArgumentError, match=r"bn1: reads part of the channels, .* put Part\(\) before it"):
        plan([BatchNorm(), AllGather()], (2, 5, 5), ranks=2)


# The paper's network in small: two towers that meet at three places.
TWO_RANKS = [
    Part(name="pictures"),
    AllGather(name="gather0"),
    Conv2d(8, 3, stride=2, pad=1, activation="relu", **LARGE),
    LRN(n=3, alpha=1.0, groups=2),
    MaxPool(3, 2),
    Conv2d(12, (3, 2), pad=1, groups=2, activation="relu", **LARGE),
    AllGather(name="gather2"),
    Conv2d(6, 3, pad=1, activation="relu", **LARGE),
    Conv2d(6, 3, pad=1, groups=2, activation="tanh", **LARGE),
    AllGather(name="gather4"),
    Linear(10, "relu", **LARGE),
    Dropout(),
    AllGather(name="gather5"),
    Linear(4, **LARGE),
    AllGather(replicated=True, name="join"),
]


@pytest.mark.parametrize("steps", [0, 10])
def test_two_rank_network_equals_one_rank(steps):
    """Forward, all gradients, and after ten steps of training the weights."""
    rng = np.random.default_rng(13)
    x, dy, labels = rng.standard_normal((4, 11, 13, 6)), rng.standard_normal((4, 6)), rng.integers(0, 4, 6)
    one = run_on(1, TWO_RANKS, x, dy, steps, labels)
    two = run_on(2, TWO_RANKS, x, dy, steps, labels)
    rtol = 1e-12 if steps == 0 else 1e-10  # ten steps amplify rounding
    assert_same({"y": two[0]}, {"y": one[0]}, rtol)
    assert_same(two[1], one[1], rtol)
    assert_same(two[2], one[2], 1e-12)
    if steps:
        assert not same_bits(two[2], run_on(2, TWO_RANKS, x, dy)[2])  # it did move


def test_ranks_meet_only_in_the_gather_layers():
    rng = np.random.default_rng(13)
    x, dy = rng.standard_normal((4, 11, 13, 6)), rng.standard_normal((4, 6))
    number = 8  # bytes
    *_, results = run_on(2, TWO_RANKS, x, dy)
    maps2, maps4 = 12 * 3 * 4 * 6 // 2, 6 * 3 * 4 * 6 // 2  # numbers that one rank holds before it gathers
    for _, _, _, ledger, calls in results:
        assert ledger == {
            ("gather0 forward", "all_gather"): x.size // 2 * number,
            ("gather2 forward", "all_gather"): maps2 * number,
            ("gather4 forward", "all_gather"): maps4 * number,
            ("gather5 forward", "all_gather"): 5 * 6 * number,
            ("join forward", "all_gather"): 2 * 6 * number,
            ("gather5 backward", "reduce_scatter"): 5 * 6 * number,
            ("gather4 backward", "reduce_scatter"): maps4 * number,
            ("gather2 backward", "reduce_scatter"): maps2 * number,
            ("gather0 backward", "reduce_scatter"): x.size // 2 * number,
        }
        assert set(calls.values()) == {1}
    *_, [(_, _, _, ledger, _)] = run_on(1, TWO_RANKS, x, dy)
    assert not ledger


def test_a_seed_is_as_good_as_its_generator():
    """As NumPy's default_rng takes them: a generator is used itself, and goes on from where it is."""
    rng, layers, x = np.random.default_rng(5), [Linear(30), Dropout()], np.ones((4, 2), np.float32)
    by_seed, by_generator = (Sequential(layers, (4,), rng=given) for given in (5, rng))
    expected = by_generator.forward(x, train=True)
    np.testing.assert_array_equal(by_seed.forward(x, train=True), expected)
    assert by_generator.rng is rng
    assert (Sequential(layers, (4,), rng=rng).forward(x) != by_generator.forward(x)).all()


def test_a_field_of_ones_own_may_have_a_name_of_another_kinds():
    """Dropout's keep is a probability; that of a kind of one's own is whatever it says."""

    @dataclass(repr=False)
    class Own(Layer, is_kind=False):
        keep: int = 3

    assert Own().keep == 3
    with pytest.raises(ArgumentError, match=r"Dropout: keep: expected a probability, .* found 3"):
        Dropout(keep=3)
