"""VGG: the sizes of the paper's Table 1 and 2, layer by layer, and PyTorch's numbers."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import safetensors.numpy

from tinyalex.comm import Comm, launch
from tinyalex.devices import Device
from tinyalex.errors import ArgumentError
from tinyalex.exchange import state_dict
from tinyalex.gradcheck import check
from tinyalex.measure.describe import describe
from tinyalex.models import make
from tinyalex.models.vgg import inherited, vgg
from tinyalex.nn import Conv2d
from tinyalex.optim import SGD
from tinyalex.train import Step

TOTALS = {  # parameters, multiply-adds of one picture of 224 pixels
    "a": (132_863_336, 7_609_090_048),
    "a-lrn": (132_863_336, 7_609_090_048),
    "b": (133_047_848, 11_308_466_176),
    "c": (133_638_952, 11_770_888_192),
    "d": (138_357_544, 15_470_264_320),
    "e": (143_667_240, 19_632_062_464),
}
LAYERS = {  # (channels, filters, kernel, side): parameters, multiply-adds
    (3, 64, 3, 224): (1_792, 86_704_128),
    (64, 64, 3, 224): (36_928, 1_849_688_064),
    (64, 128, 3, 112): (73_856, 924_844_032),
    (128, 128, 3, 112): (147_584, 1_849_688_064),
    (128, 256, 3, 56): (295_168, 924_844_032),
    (256, 256, 3, 56): (590_080, 1_849_688_064),
    (256, 256, 1, 56): (65_792, 205_520_896),
    (256, 512, 3, 28): (1_180_160, 924_844_032),
    (512, 512, 3, 28): (2_359_808, 1_849_688_064),
    (512, 512, 1, 28): (262_656, 205_520_896),
    (512, 512, 3, 14): (2_359_808, 462_422_016),
    (512, 512, 1, 14): (262_656, 51_380_224),
}


@pytest.mark.parametrize("name", TOTALS)
def test_the_sizes_are_the_papers(name):
    network = make(f"vgg-{name}")
    total = describe(network, 1, 1).total
    assert (total.parameters, total.multiply_adds) == TOTALS[name]
    for place in network.plan():
        if isinstance(place.layer, Conv2d):
            key = (place.x[0], place.y[0], place.layer.kernel, place.y[1])
            parameters = sum(map(math.prod, place.layer.sizes(place.x).values()))
            assert (parameters, place.layer.multiply_adds(place.x)) == LAYERS[key]
    assert network.sizes()[network.plan()[-1].layer.name + ".w"] == (1000, 4096)


@pytest.mark.parametrize("name", ["a", "d"])
def test_pytorch_agrees(name):
    torch = pytest.importorskip("torch")
    from torch.nn import functional as F

    network = make(f"vgg-{name}", width=1 / 32, size=64, classes=5)
    net = network.build(rng=np.random.default_rng(0), dtype=np.float64)
    x = np.random.default_rng(1).standard_normal((3, 64, 64, 2))
    y = net.forward(x)  # without dropout
    dy = np.random.default_rng(2).standard_normal(y.shape)
    net.backward(dy)
    theirs = {
        name: torch.tensor(layer.params[key], requires_grad=True) for name, layer, key in net.parameters()
    }
    t = torch.tensor(x.transpose(3, 0, 1, 2).copy())
    for place in network.plan():
        kind, name = type(place.layer).__name__, place.layer.name
        if kind == "Conv2d":
            t = F.relu(F.conv2d(t, theirs[f"{name}.w"], theirs[f"{name}.b"], padding=place.layer.pad))
        elif kind == "MaxPool":
            t = F.max_pool2d(t, 2, 2)
        elif kind == "Linear":
            t = F.linear(t.flatten(1), theirs[f"{name}.w"], theirs[f"{name}.b"])
            t = F.relu(t) if place.layer.activation else t
    t.backward(torch.tensor(dy.T.copy()))
    np.testing.assert_allclose(y, t.detach().numpy().T, rtol=1e-8, atol=1e-8 * np.abs(y).max())
    for name, layer, key in net.parameters():
        wanted = theirs[name].grad.numpy()
        np.testing.assert_allclose(layer.grads[key], wanted, rtol=1e-8, atol=1e-8 * np.abs(wanted).max())


def test_the_whole_networks_gradient():
    network = make("vgg-a", width=1 / 32, size=32, classes=4)
    net = network.build(Comm(Device("cpu:0")), np.random.default_rng(0), np.float64)
    x = np.random.default_rng(1).standard_normal((3, 32, 32, 2))

    def forward(**parameters):
        for name, layer, key in net.parameters():
            layer.params[key] = parameters[name]
        return net.forward(x), None

    def backward(dy, _):
        net.backward(dy)
        return {name: layer.grads[key].copy() for name, layer, key in net.parameters()}

    variables = {name: layer.params[key] for name, layer, key in net.parameters()}
    report = check(forward, backward, variables, rng=np.random.default_rng(2))
    assert max(report.errors.values()) < 1e-6


def test_layers_are_named_and_pooled_as_in_the_released_weights():
    names = " ".join(layer.name for layer in make("vgg-c", width=1 / 64, size=32).layers)
    assert names == (
        "conv1_1 conv1_2 pool1 conv2_1 conv2_2 pool2 conv3_1 conv3_2 conv3_3 pool3 conv4_1 conv4_2 conv4_3 "
        "pool4 conv5_1 conv5_2 conv5_3 pool5 fc6 dropout6 fc7 dropout7 fc8"
    )


@pytest.mark.parametrize(("weights", "conv3_1"), [("variance", 0.1), ("deviation", 0.01), ("glorot", None)])
def test_the_readings_of_the_starting_weights(weights, conv3_1):
    net = make("vgg-a", width=0.5, size=32, weights=weights).build(rng=np.random.default_rng(0))
    wanted = conv3_1 or math.sqrt(2 / (9 * (64 + 128)))
    assert net.layers["conv3_1"].params["w"].std() == pytest.approx(wanted, rel=0.02)
    wanted = conv3_1 or math.sqrt(2 / (256 + 2048))
    assert net.layers["fc6"].params["w"].std() == pytest.approx(wanted, rel=0.02)
    assert net.layers["conv1_1"].std == pytest.approx(conv3_1 or math.sqrt(2 / (9 * (3 + 32))))
    assert not any(layer.params["b"].any() for layer in net.layers.values() if "b" in layer.params)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"configuration": "F"}, "configuration: expected one of A, B, C, D, E, found 'F'"),
        ({"configuration": None}, "configuration: expected one of A, B, C, D, E, found None"),
        ({"configuration": ["A"]}, r"configuration: expected one of A, B, C, D, E, found \['A'\]"),
        ({"lrn": "no"}, "lrn: expected true or false, found 'no'"),
        ({"weights": []}, r"weights: expected one of variance, deviation, glorot, found \[\]"),
    ],
    ids=str,
)
def test_what_can_not_be_chosen_is_named(change, says):
    with pytest.raises(ArgumentError, match=f"^{says}"):
        vgg(**{"configuration": "A", "size": 32, "width": 1 / 64} | change)
    assert repr(vgg("A", lrn=np.False_)) == repr(vgg("A"))


def test_unknown_starting_weights():
    with pytest.raises(
        ArgumentError, match="weights: expected one of variance, deviation, glorot, found 'he'"
    ):
        make("vgg-a", weights="he")


def test_a_deeper_network_inherits_seven_layers_of_a():
    a, d = (make(f"vgg-{c}", width=1 / 64, size=32).sizes() for c in "ad")
    seven = {"conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"}
    assert inherited(a, d) == seven
    assert inherited(d, d) == {key.partition(".")[0] for key in d}


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (make("vgg-b", width=1 / 64, size=32), "expected the weights of this network, or of vgg-a"),
        (make("vgg-e", width=1 / 64, size=32), "expected the weights of this network, or of vgg-a"),
        (make("small", width=1 / 8, size=64), "expected the weights of this network, or of vgg-a"),
        (
            make("vgg-a", width=1 / 32, size=32),
            r"conv1_1.w: this network has \(1, 3, 3, 3\), the trained one",
        ),
        (make("vgg-a", width=1 / 64, size=64), "fc6.w: this network has"),
    ],
)
def test_weights_of_another_configuration(theirs, message):
    with pytest.raises(ArgumentError, match=message):
        inherited(theirs.sizes(), make("vgg-d", width=1 / 64, size=32).sizes())


@pytest.mark.parametrize(("parts", "ranks"), [(2, 1), (4, 1), (2, 2)])
def test_a_batch_in_parts_is_the_batch_in_one_piece(parts, ranks):
    """Dropout masks included, for three steps: gradients and weights are the same; on two ranks too."""

    def rank(comm, parts):
        net = make("vgg-a", width=1 / 32, size=32, classes=4).build(
            comm, np.random.default_rng(0), np.float64, parallel="data"
        )
        forward, seen = net.forward, []
        net.forward = lambda x, **kwargs: seen.append(x.shape[-1]) or forward(x, **kwargs)
        step = Step(net, SGD(net, 1e-2, decay=5e-4), parts=parts)
        rng, mine, results = np.random.default_rng(1), comm.part(8), []
        for _ in range(3):
            images, labels = rng.standard_normal((3, 32, 32, 8)), rng.integers(0, 4, 8)
            results.append(step(images[..., mine], labels[mine]))
        assert seen == [8 // comm.size // parts] * parts * 3
        grads = {name: layer.grads[key] for name, layer, key in net.learned()}
        return results, grads, {name: layer.params[key] for name, layer, key in net.learned()}

    def after(parts, ranks):
        devices = ",".join(f"cpu:{r}" for r in range(ranks))
        return launch(partial(rank, parts=parts), devices)[-1]

    one, some = after(1, 1), after(parts, ranks)
    np.testing.assert_allclose(some[0], one[0], rtol=1e-12)
    for found, wanted in zip(some[1:], one[1:], strict=True):
        for name in wanted:
            scale = np.abs(wanted[name]).max()
            np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-11 * scale)


def _state_dict(network, name_of):
    """Arrays of a VGG under other names: name_of(layer's name, number of its module in torchvision's)."""
    arrays, number, rng = {}, 0, np.random.default_rng(0)
    for layer in network.layers:
        sizes = {key[-1]: size for key, size in network.sizes().items() if key.startswith(layer.name + ".")}
        for key, size in sizes.items():
            word = {"w": "weight", "b": "bias"}[key]
            arrays[f"{name_of(layer.name, number)}.{word}"] = rng.standard_normal(size, np.float32)
        number += 2 if isinstance(layer, Conv2d) else 1  # its relu is a module there
    return arrays


def _in_torchvision(name, number):
    return f"classifier.{3 * (int(name[2]) - 6)}" if name.startswith("fc") else f"features.{number}"


@pytest.mark.parametrize(
    ("letter", "names"), [*((x, "released") for x in "abcde"), *((x, "torchvision") for x in "abde")]
)
def test_weights_of_others_become_the_network(letter, names, tmp_path):
    network = make(f"vgg-{letter}", width=1 / 64, classes=7)
    arrays = _state_dict(network, _in_torchvision if names == "torchvision" else lambda name, _: name)
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors")
    found = state_dict.read(tmp_path / "theirs.safetensors")
    spread_apart = [replace(x, std=0.0) if hasattr(x, "std") else x for x in network.layers]
    assert [replace(x, std=0.0) if hasattr(x, "std") else x for x in found.network.layers] == spread_apart
    assert found.network.input == network.input
    assert found.network.sizes() == network.sizes()
    assert all(np.array_equal(a, b) for a, b in zip(found.arrays.values(), arrays.values(), strict=True))
