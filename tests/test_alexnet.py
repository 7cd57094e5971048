"""AlexNet: the paper's numbers, and one network whatever the number of ranks.

The paper's own sizes are checked in full.  What concerns the mathematics (ranks, gradients, PyTorch) is
checked on a small AlexNet: pictures of 64 pixels, which like 224 leave conv1 three pixels short, a tenth
of the filters, and every layer of the large one.
"""

import re

import backends
import numpy as np
import pytest

from tinyalex import gradcheck
from tinyalex.comm import launch
from tinyalex.devices import parse
from tinyalex.errors import ArgumentError
from tinyalex.gradcheck import GradientError, check
from tinyalex.measure.describe import describe
from tinyalex.models import make
from tinyalex.models.alexnet import PRESETS, alexnet, narrow
from tinyalex.nn import AllGather, Conv2d, Linear, plan
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward
from tinyalex.optim import SGD

PAPER, CODE2012, HALF, CAFFE = (PRESETS[name] for name in ("paper", "code2012", "half", "caffe"))


def small(network, **changes):
    """The network with 16-32-48-48-32 filters, 24 hidden units and 10 classes."""
    return narrow(network._replace(size=64, classes=10), 1 / 8)._replace(hidden=24, **changes)


def on(ranks, job):
    """Run job(comm) on so many ranks; return what each returned."""
    return launch(job, parse(backends.names(ranks)))


def build(network, seed=0, dtype=np.float32):
    """The whole network on one rank."""
    return on(1, lambda comm: alexnet(network).build(comm, np.random.default_rng(seed), dtype))[0]


def shapes(model, x):
    """The shape that each layer makes of x, by name."""
    found = {}
    for name, layer in model.layers.items():
        x = layer.forward(x)
        found[name] = x.shape
    return found


def whole(parts):
    """What the ranks hold, put together: parameters and gradients are shared out by rows."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_close(found, expected, tolerance):
    """Equal to the tolerance, relative to the largest number."""
    assert found.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


# ---- the paper's sizes -------------------------------------------------------------------------------

LAYERS = {  # weights, biases, output of one image, multiply-adds
    "conv1": (34_848, 96, (96, 55, 55), 105_415_200),
    "conv2": (307_200, 256, (256, 27, 27), 223_948_800),
    "conv3": (884_736, 384, (384, 13, 13), 149_520_384),
    "conv4": (663_552, 384, (384, 13, 13), 112_140_288),
    "conv5": (442_368, 256, (256, 13, 13), 74_760_192),
    "fc6": (37_748_736, 4096, (4096,), 37_748_736),
    "fc7": (16_777_216, 4096, (4096,), 16_777_216),
    "fc8": (4_096_000, 1000, (1000,), 4_096_000),
}


@pytest.fixture(scope="module")
def paper():
    """The paper's network at full width, and the shapes that it makes of one picture."""
    model = build(PAPER)
    return model, shapes(model, np.zeros((3, 224, 224, 1), np.float32))


@pytest.mark.parametrize("name", LAYERS)
def test_paper_layer(paper, name):
    weights, biases, output, multiply_adds = LAYERS[name]
    model, found = paper
    params = model.layers[name].params
    assert params["w"].size == weights
    assert params["b"].size == biases
    assert found[name] == (*output, 1)
    assert params["w"].size * np.prod(output[1:], dtype=int) == multiply_adds


def test_paper_totals(paper):
    model, found = paper
    arrays = [layer.params[key] for _, layer, key in model.parameters()]
    assert sum(a.size for a in arrays) == 60_965_224
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    assert sum(np.prod(found[name]) for name in LAYERS) == 659_272
    assert sum(row[-1] for row in LAYERS.values()) == 724_406_816
    pools = [found[name][1:3] for name in ("pool1", "pool2", "pool5")]
    assert pools == [(27, 27), (13, 13), (6, 6)]


UNGROUPED = PAPER._replace(towers=1)
TOTALS = [
    (PAPER, 1, 60_965_224, 724_406_816),
    (PAPER, 2, 60_965_224, 724_406_816),
    (CODE2012, 2, 60_965_224, 724_406_816),
    (CAFFE, 1, 60_965_224, 724_406_816),
    (HALF, 1, 59_798_312, 391_514_384),
    (UNGROUPED, 1, 62_378_344, 1_135_256_096),
]


@pytest.mark.parametrize(("network", "ranks", "parameters", "multiply_adds"), TOTALS)
def test_totals(network, ranks, parameters, multiply_adds):
    total = describe(alexnet(network), ranks).total
    assert (total.parameters, total.multiply_adds) == (parameters, multiply_adds)
    if network is not HALF:
        assert total.neurons == 659_272


def test_ungrouped_convolutions_see_every_map():
    convolutions = build(small(UNGROUPED)).layers
    assert [convolutions[f"conv{i}"].params["w"].shape[1] for i in range(1, 6)] == [3, 12, 32, 48, 48]


def test_224_with_2012s_padding_is_227_with_zeros_around():
    """The last window of 224 hangs over the edge by three pixels: zeros at the bottom and the right."""
    network = narrow(PAPER._replace(hidden=64, classes=10), 1 / 12)
    picture = np.random.default_rng(1).standard_normal((3, 224, 224, 2), np.float32)
    padded = np.pad(picture, ((0, 0), (0, 3), (0, 3), (0, 0)))
    outcomes = []
    for size, x in ((224, picture), (227, padded)):
        model = build(network._replace(size=size))
        logits = model.forward(x)
        model.backward(np.ones_like(logits))
        grads = [layer.grads[key] for _, layer, key in model.parameters()]
        outcomes.append((shapes(model, x), [logits, *grads]))
    (shapes_224, arrays_224), (shapes_227, arrays_227) = outcomes
    assert shapes_224 == shapes_227
    assert shapes_224["conv1"][1:3] == (55, 55)
    for a, b in zip(arrays_224, arrays_227, strict=True):
        np.testing.assert_array_equal(a, b)
    assert shapes(build(network._replace(conv1_ceil=False)), picture)["conv1"][1:3] == (54, 54)


def test_pooling_without_overlap_keeps_the_last_maps_6_wide():
    """Config 147: 55 → 28 → 26 → 13 → 13 → 13 → 11 → 6, with one pixel less padding at conv2 and conv5."""
    network = narrow(PAPER._replace(pool=2, hidden=64), 1 / 12)
    found = shapes(build(network), np.zeros((3, 224, 224, 1), np.float32))
    names = ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    assert [found[name][1] for name in names] == [55, 28, 26, 13, 13, 13, 11, 6]


# ---- the layers and their starting weights -----------------------------------------------------------


def test_order_of_the_layers():
    gathers = {"gather3", "gather6", "gather7", "gather8", "gather"}

    def order(network):
        return " ".join(name for name in build(small(network)).layers if name not in gathers)

    head = "fc6 dropout6 fc7 dropout7 fc8"
    assert order(PAPER) == f"conv1 lrn1 pool1 conv2 lrn2 pool2 conv3 conv4 conv5 pool5 {head}"
    assert order(CODE2012) == (
        f"conv1 lrn1 pool1 relu1 conv2 lrn2 cnorm2 pool2 conv3 conv4 conv5 pool5 {head}"
    )
    assert order(PAPER._replace(lrn=False, dropout=False)) == (
        "conv1 pool1 conv2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8"
    )


def test_relu_follows_every_convolution_and_hidden_layer():
    for network in (PAPER, CODE2012):
        model = build(small(network))
        activations = {
            name: layer.activation
            for name, layer in model.layers.items()
            if isinstance(layer, Conv2d | Linear)
        }
        assert len(activations) == 8
        assert activations.pop("fc8") is None
        if network is CODE2012:  # it stands at pool1
            assert activations.pop("conv1") is None
            assert model.layers["relu1"].activation == "relu"
        assert set(activations.values()) == {"relu"}


SPREADS = {  # conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8
    "paper": (0.01,) * 8,
    "code2012": (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
    "half": (0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01),
    "caffe": (0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01),
    "small": (0.03, 0.03, 0.05, 0.05, 0.05, 0.03, 0.03, 0.01),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_starting_weights(preset):
    """N(0, std²), to five standard errors; biases 1 (Caffe 0.1) in conv2, 4, 5, fc6 and fc7, else 0."""
    options = PRESETS[preset]._replace(hidden=256)
    model = build(options if preset == "small" else narrow(options, 1 / 4))
    for name, std in zip(LAYERS, SPREADS[preset], strict=True):
        w, b = model.layers[name].params["w"], model.layers[name].params["b"]
        assert abs(w.mean()) < 5 * std / w.size**0.5
        assert w.std() == pytest.approx(std, rel=5 / (2 * w.size) ** 0.5)
        lifted = name in ("conv2", "conv4", "conv5", "fc6", "fc7")
        np.testing.assert_array_equal(
            b, np.float32((0.1 if preset in ("caffe", "small") else 1) if lifted else 0)
        )


def parameters(model):
    return {name: backends.get(layer.params[key]).copy() for name, layer, key in model.parameters()}


def gradients(model):
    return {name: backends.get(layer.grads[key]).copy() for name, layer, key in model.parameters()}


def test_the_seed_gives_the_same_weights_on_one_rank_and_on_two():
    def weights(comm):
        return parameters(alexnet(small(PAPER)).build(comm, np.random.default_rng(3)))

    alone, shared = whole(on(1, weights)), whole(on(2, weights))
    assert alone.keys() == shared.keys()
    for name in alone:
        np.testing.assert_array_equal(alone[name], shared[name])
    other = parameters(build(small(PAPER), seed=4))
    assert not any((alone[name] == other[name]).all() for name in alone if name.endswith("w"))


@pytest.mark.parametrize("network", [PAPER, CODE2012], ids=["paper", "code2012"])
def test_where_the_towers_meet_is_what_the_rule_finds(network):
    """The list tells the paper's meetings; without them `plan` puts the meetings in the same places."""
    declared = alexnet(network)
    told = declared.plan(2)
    bare = [layer for layer in declared.layers if not isinstance(layer, AllGather)]
    found = plan(bare, declared.input, 2)
    assert len(bare) == len(found) - 5

    def places(placed):
        return [
            (type(p.layer), p.layer.data(), "" if isinstance(p.layer, AllGather) else p.layer.name, *p[1:])
            for p in placed
        ]

    assert places(found) == places(told)
    assert [p.layer.name for p in found if isinstance(p.layer, AllGather)] == [
        "gather_conv3", "gather_fc6", "gather_fc7", "gather_fc8", "gather",
    ]  # fmt: skip
    assert plan(bare, declared.input, 1)[-1].y == (1000,)  # on one rank nothing is added
    assert len(plan(bare, declared.input, 1)) == len(bare)


# ---- one rank is two ranks ---------------------------------------------------------------------------


# Where every layer matters: signals of order 1 all the way, and LRN that is far from linear.
LIVELY = {"conv_std": 0.1, "conv345_std": 0.1, "fc_std": 0.2, "bias": 0.1, "lrn_alpha": 1.0}
WEIGHTS = pytest.mark.parametrize("changes", [{}, LIVELY], ids=["starting", "lively"])
BOTH = pytest.mark.parametrize("network", [PAPER, CODE2012], ids=["paper", "code2012"])


def a_batch(network, images=5):
    """Pictures and labels; pixels −128 … 128, for the lively network −1 … 1."""
    rng = np.random.default_rng(1)
    largest = 1 if network.lrn_alpha == 1 else 128
    pictures = rng.uniform(-largest, largest, (3, network.size, network.size, images))
    return pictures, rng.integers(0, network.classes, images)


def train(network, comm, steps):
    """Return the first step's logits and gradients, the weights after the last, and the losses."""
    model = alexnet(network).build(comm, np.random.default_rng(3), np.float64)
    optimizer = SGD(model, rate=0.01, momentum=0.9, decay=5e-4)
    pictures, labels = map(comm.device.put, a_batch(network))
    losses, first = [], None
    for _ in range(steps):
        logits = model.forward(pictures, train=True)
        loss, cache = softmax_loss_forward(logits, labels)
        model.backward(softmax_loss_backward(cache))
        first = first or (backends.get(logits).copy(), gradients(model))
        optimizer.step()
        losses.append(float(loss))
    return *first, parameters(model), losses


@pytest.mark.usefixtures("each_backend")  # NumPy, the stand-in for CuPy, GPUs
@BOTH
@WEIGHTS
def test_two_ranks_train_as_one(network, changes):
    """Logits, every gradient, and the weights after ten steps (on the stand-in, three), dropout included.

    Both as one rank of NumPy's, whose gradients are compared with their difference quotients below.
    """
    if backends.name == "standin" and changes is not LIVELY:
        pytest.skip("slow: on the stand-in, the lively weights alone")
    network, steps = small(network, **changes), 3 if backends.name == "standin" else 10

    def job(comm):
        return train(network, comm, steps)

    ((logits, grads, weights, losses),) = launch(job, parse("cpu:0"))
    for ranks in (on(1, job), on(2, job)):
        for rank in ranks:
            assert_close(rank[0], logits, 1e-10)
            np.testing.assert_allclose(rank[3], losses, rtol=1e-10)
            np.testing.assert_array_equal(rank[0], ranks[0][0])
        for one, found in ((grads, whole([r[1] for r in ranks])), (weights, whole([r[2] for r in ranks]))):
            assert one.keys() == found.keys()
            for name in one:
                assert_close(found[name], one[name], 1e-10)
    start = parameters(build(network, seed=3, dtype=np.float64))
    assert all((weights[name] != start[name]).any() for name in weights)


# ---- the whole network's gradient --------------------------------------------------------------------


def check_gradients(network, ranks, spoil=lambda model: None):
    """Check every parameter through the whole network in training, whose masks the seed fixes.

    On several ranks the network is still one function of whole parameters: each evaluation launches the
    ranks, hands each its rows, and puts their gradients together.  spoil(model) may break a backward.
    """
    network = small(network, **LIVELY)
    pictures, _ = a_batch(network, images=2)

    def run(dy, values):
        def job(comm):
            model = alexnet(network).build(comm, np.random.default_rng(3), np.float64)
            for name, layer, key in model.parameters():
                layer.params[key] = values[name][comm.part(len(values[name]))]
            logits = model.forward(pictures, train=True)
            if dy is None:
                return logits
            spoil(model)
            model.backward(dy)
            return gradients(model)

        return on(ranks, job)

    return check(
        lambda **values: (run(None, values)[0], values),
        lambda dy, values: whole(run(dy, values)),
        parameters(build(network, seed=3, dtype=np.float64)),
        rng=np.random.default_rng(0),
        directions=2,
    )


@pytest.mark.parametrize(
    ("network", "ranks"), [(PAPER, 1), (PAPER, 2), (CODE2012, 1)], ids=["paper-1", "paper-2", "code2012-1"]
)
def test_whole_network_gradient(network, ranks):
    """On two ranks the code's network, and every network on GPUs, has these gradients: see above."""
    report = check_gradients(network, ranks)
    assert report.errors.keys() == {f"{name}.{key}" for name in LAYERS for key in "wb"}
    assert max(report.errors.values()) < 1e-6


def lrn_without_its_sum(model):
    layer = model.layers["lrn2"]
    layer.backward = lambda dy: dy * layer.cache.s**-layer.cache.beta


def gather_without_the_other_ranks_gradient(model):
    model.layers["gather3"].replicated = True


def dropout_without_its_mask(model):
    model.layers["dropout6"].backward = lambda dy: dy


@pytest.mark.parametrize(
    ("spoil", "ranks"),
    [
        (lrn_without_its_sum, 1),
        (dropout_without_its_mask, 1),
        (gather_without_the_other_ranks_gradient, 2),
    ],
)
def test_whole_network_gradient_check_sees_a_wrong_backward(spoil, ranks, monkeypatch):
    monkeypatch.setattr(gradcheck, "SAMPLE", 5)  # elements tried in order to name the worst
    with pytest.raises(GradientError, match=r"conv1\.w: relative error"):
        check_gradients(PAPER, ranks, spoil)


# ---- PyTorch's grouped network -----------------------------------------------------------------------


def torch_network(torch, network, params, masks, x):
    """The same network out of PyTorch's parts, one device, (N,C,H,W); returns logits (N, classes)."""
    F = torch.nn.functional

    def conv(name, x, groups=1, **where):
        return F.conv2d(x, params[f"{name}.w"], params[f"{name}.b"], groups=groups, **where)

    def lrn(x):
        alpha = network.lrn_alpha / (5 if network.lrn_alpha_over_n else 1)
        towers = x.chunk(network.towers if network.lrn_within_towers else 1, dim=1)
        return torch.cat([
            t * (network.lrn_k + alpha * F.pad(t**2, (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)) ** -0.75
            for t in towers
        ], dim=1)  # fmt: skip

    def pool(x):
        return F.max_pool2d(x, network.pool, 2, ceil_mode=True)

    def dropout(x, name):
        if masks:
            return x * masks[name] * (2 if network.inverted_dropout else 1)
        return x if network.inverted_dropout else x / 2

    g = network.towers
    more = -(network.size - 11) % 4
    x = conv("conv1", F.pad(x, (0, more, 0, more)), stride=4)
    x = F.relu(pool(lrn(x))) if network.lrn1_before_relu else pool(lrn(F.relu(x)))
    x = lrn(F.relu(conv("conv2", x, g, padding=2)))
    if network.same_map_norm:
        x = x * (1 + 1e-3 * F.avg_pool2d(x**2, 5, stride=1, padding=2)) ** -0.75  # padded zeros count
    x = F.relu(conv("conv3", pool(x), padding=1))
    x = F.relu(conv("conv4", x, g, padding=1))
    x = pool(F.relu(conv("conv5", x, g, padding=1))).flatten(1)
    x = dropout(F.relu(F.linear(x, params["fc6.w"], params["fc6.b"])), "dropout6")
    x = dropout(F.relu(F.linear(x, params["fc7.w"], params["fc7.b"])), "dropout7")
    return F.linear(x, params["fc8.w"], params["fc8.b"])


@pytest.mark.parametrize("training", [False, True], ids=["test", "train"])
@WEIGHTS
@pytest.mark.parametrize("preset", PRESETS)
def test_pytorch_agrees(preset, changes, training):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install 'tinyalex[oracle]'")
    network = small(PRESETS[preset], **changes)
    pictures, labels = a_batch(network)
    model = build(network, dtype=np.float64)
    logits = model.forward(pictures, train=training)
    loss, cache = softmax_loss_forward(logits, labels)
    model.backward(softmax_loss_backward(cache))

    masks = {
        name: torch.tensor(model.layers[name].cache.mask.T.copy())
        for name in ("dropout6", "dropout7")
        if training
    }
    params = {name: torch.tensor(w, requires_grad=True) for name, w in parameters(model).items()}
    x = torch.tensor(np.ascontiguousarray(pictures.transpose(3, 0, 1, 2)))
    torch_logits = torch_network(torch, network, params, masks, x)
    torch_loss = torch.nn.functional.cross_entropy(torch_logits, torch.tensor(labels))
    torch_loss.backward()
    assert_close(logits.T, torch_logits.detach().numpy(), 1e-8)
    assert float(loss) == pytest.approx(torch_loss.item(), rel=1e-8)
    for name, grad in gradients(model).items():
        assert_close(grad, params[name].grad.numpy(), 1e-8)


# ---- what cannot be built ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "ranks", "message"),
    [
        (PAPER, 3, "3 ranks cannot share 2 towers evenly"),
        (PAPER._replace(lrn=False), 3, "3 ranks cannot share 2 towers evenly"),
        (HALF, 2, "lrn1: reads all of the channels, and each of 2 ranks holds its part of them"),
        (HALF._replace(lrn=False, same_map_norm=False), 2, "conv2: reads all .* of 2 ranks"),
        (CAFFE, 2, "lrn1: reads all of the channels, and each of 2 ranks holds its part of them"),
        (PAPER._replace(size=7), 1, "conv1: window of 11 is larger than the map"),
        (PAPER._replace(size=20), 1, "pool2: window of 3 is larger than the map: 2"),
        (None, 1, "^alexnet: expected an AlexNet, found None"),
        (PAPER._replace(classes="10"), 1, "^alexnet: classes: expected a whole number, found '10'"),
        (PAPER._replace(lrn_k=float("nan")), 1, "^alexnet: lrn_k: expected a finite number, found nan"),
        (PAPER._replace(dropout=1), 1, "^alexnet: dropout: expected true or false, found 1"),
        (
            PAPER._replace(filters=(8, 8)),
            1,
            r"^alexnet: filters: expected those of conv1 … conv5, found \(8,",
        ),
        (PAPER._replace(filters="96"), 1, "^alexnet: filters: expected a list, each of it a whole number"),
    ],
)
def test_networks_that_cannot_be_built(network, ranks, message):
    with pytest.raises(ValueError, match=message):
        on(ranks, lambda comm: alexnet(network).build(comm, np.random.default_rng(0)))


@pytest.mark.parametrize("width", [0, -1, "0.1", float("nan"), True, [1]], ids=repr)
@pytest.mark.parametrize("name", ["paper", "vgg-a"])
def test_a_width_that_is_no_factor_is_named(name, width):
    with pytest.raises(ArgumentError, match=f"^width: expected a factor > 0, found {re.escape(repr(width))}"):
        make(name, width=width)


@pytest.mark.parametrize("name", ["alexnet", None, ["paper"], {}], ids=repr)
def test_a_network_that_is_not_known_is_named(name):
    says = f"^network: expected one of paper, .*, found {re.escape(repr(name))}$"
    with pytest.raises(ArgumentError, match=says):
        make(name)


def test_numpy_s_options_make_the_same_network():
    numpy_s = PAPER._replace(
        filters=np.array(PAPER.filters), classes=np.int64(1000), bias=np.float32(1), dropout=np.True_
    )
    assert repr(alexnet(numpy_s)) == repr(alexnet(PAPER))


def test_lrn_across_towers_may_be_left_out_on_two_ranks():
    network = small(CAFFE._replace(lrn=False))
    logits = on(2, lambda comm: alexnet(network).build(comm, np.random.default_rng(0)).forward(
        a_batch(network)[0].astype(np.float32)
    ))  # fmt: skip
    assert logits[0].shape == (10, 5)


def test_pictures_of_another_size_are_refused():
    model = build(small(PAPER))
    with pytest.raises(
        ValueError, match=r"conv1: expected an input \(3, 64, 64, N\), found \(3, 131, 131, 1\)"
    ):
        model.forward(np.zeros((3, 131, 131, 1), np.float32))
