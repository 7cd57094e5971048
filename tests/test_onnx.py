"""ONNX both ways: other programs compute what we compute, and what they write is read as they mean it."""

import io
import warnings

import numpy as np
import pytest

from tinyalex.comm import launch
from tinyalex.devices import parse
from tinyalex.errors import ArgumentError, DataError
from tinyalex.models import Network, figure1
from tinyalex.models.alexnet import PRESETS, alexnet, narrow
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
    Local2d,
    MaxPool,
    Part,
    SameMapNorm,
    ZeroPad,
)
from tinyalex.ops import conv2d_forward
from tinyalex.optim import SGD
from tinyalex.runs import checkpoint
from tinyalex.train import train_step

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


from onnx_graphs import bvlc, towers_2012, within_a_map  # noqa: E402

from tinyalex.exchange import onnx_export, onnx_import  # noqa: E402


def arrays_of(net):
    return {name: layer.params[key] for name, layer, key in net.parameters()}


def theirs(path, x):
    """What onnxruntime computes of pictures (N, C, H, W)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def ours(net, x):
    """What a network computes of the same pictures, (N, classes)."""
    return net.forward(np.ascontiguousarray(x.transpose(1, 2, 3, 0))).T


def built(found, devices="cpu:0"):
    """Forward passes of an imported network on some devices: a function of pictures (N, C, H, W)."""

    def forward(x):
        def rank(comm):
            net = found.network.build(comm, np.random.default_rng(0))
            for name, layer, key in net.parameters():
                layer.params[key] = found.arrays[name][comm.part(len(found.arrays[name]))]
            return ours(net, x)

        results = launch(rank, parse(devices))
        for other in results[1:]:
            np.testing.assert_array_equal(other, results[0])
        return results[0]

    return forward


def close(found, wanted, tolerance):
    """Equal within `tolerance` times the largest value."""
    assert found.shape == wanted.shape
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


# ---- out -----------------------------------------------------------------------------------------------


def learned(network, seed=1):
    """A network with weights as large as learned ones, so that every layer matters to its output."""
    net, rng = network.build(rng=np.random.default_rng(0)), np.random.default_rng(seed)
    for _, layer, key in net.parameters():
        w = layer.params[key]
        scale = np.sqrt(2 / (w.size // len(w))) if key == "w" else 0.1
        drawn = scale * rng.standard_normal(w.shape)
        layer.params[key] = (abs(drawn) if key == "var" else drawn).astype(np.float32)
    return net


VARIANTS = {name: narrow(network, 0.05)._replace(classes=10) for name, network in PRESETS.items()}
VARIANTS["paper, sizes that hang over"] = VARIANTS["paper"]._replace(size=94, pool=2)
VARIANTS["LRN across towers, not over n"] = VARIANTS["paper"]._replace(
    lrn_within_towers=False, lrn_alpha=0.01
)


@pytest.mark.parametrize("name", VARIANTS)
def test_alexnet_in_onnxruntime_is_alexnet_here_and_comes_back_bit_for_bit(name, tmp_path):
    network = alexnet(VARIANTS[name]._replace(size=min(VARIANTS[name].size, 99)))
    x = np.random.default_rng(2).uniform(-120, 120, (3, *network.input)).astype(np.float32)
    there_and_back(network, x, tmp_path / "net.onnx")


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_the_cifar_network_in_onnxruntime(activation, tmp_path):
    x = np.random.default_rng(2).uniform(-1, 1, (3, 3, 32, 32)).astype(np.float32)
    there_and_back(figure1(activation), x, tmp_path / "net.onnx")


def there_and_back(network, x, path):
    """Write a network and read it back; return what was read, a Network."""
    net = learned(network)
    onnx_export.write(path, network, arrays_of(net), {})
    wanted = ours(net, x)
    close(theirs(path, x), wanted, 1e-5)
    close(theirs(path, x[:1]), wanted[:1], 1e-5)  # the batch is free
    found = onnx_import.read(path)
    np.testing.assert_array_equal(built(found)(x), wanted)
    return found.network


def test_every_layer_goes_out_and_comes_back(tmp_path):
    layers = [
        ZeroPad((1, 0, 2, 3)),
        Conv2d(8, (3, 2), 2, (0, 1, 2, 1), activation=("tanh", 1.7159, 2 / 3)),
        SameMapNorm(3, 2.0, 0.5, 0.75),
        LRN(3, 1.5, 0.5, 0.6, False, 2),
        AvgPool(3, 2, (1, 0, 0, 1), True),
        Activate(("tanh", 0.9, 1.3)),
        Conv2d(6, 2, 1, (0, 0, 1, 1), 2, "logistic"),
        MaxPool(2, 3, (0, 1, 1, 0), True),
        BatchNorm(),
        GlobalAvgPool(),
        Dropout(0.7, False),
        Flatten(),
        BatchNorm(0.01, 0.3),
        Dropout(0.7, True),
        Linear(5),
    ]
    network = Network(layers, (3, 17, 19))
    x = np.random.default_rng(2).standard_normal((2, *network.input)).astype(np.float32)
    found = there_and_back(network, x, tmp_path / "net.onnx")
    assert list(map(type, found.layers)) == list(map(type, layers))
    assert [place.y for place in found.plan()] == [place.y for place in network.plan()]
    assert [x.data() for x in found.layers if isinstance(x, BatchNorm)] == [
        {"eps": 1e-5, "momentum": 0.1},
        {"eps": 0.01, "momentum": 0.3},
    ]


def test_what_does_nothing_on_one_device_goes_out_as_nothing(tmp_path):
    network = Network([Conv2d(4, 3), Part(), AllGather(), Linear(5)], (3, 7, 6))
    x = np.random.default_rng(2).standard_normal((2, *network.input)).astype(np.float32)
    found = there_and_back(network, x, tmp_path / "net.onnx")  # the file says our layers beside its nodes
    assert len(onnx.load(tmp_path / "net.onnx").graph.node) == 3
    assert list(map(type, found.layers)) == [Conv2d, Part, AllGather, Linear]


def test_an_unshared_convolution_is_refused_with_its_name(tmp_path):
    network = Network([Local2d(2, 3, name="local3"), Linear(4)], (3, 5, 6))
    arrays = {name: np.zeros(size, np.float32) for name, size in network.sizes().items()}
    with pytest.raises(ArgumentError, match=r"^local3: ONNX has no word for a Local2d$"):
        onnx_export.write(tmp_path / "net.onnx", network, arrays, {})
    assert not list(tmp_path.iterdir())


def test_what_is_derived_from_a_kind_of_ours_does_not_go_out_as_that(tmp_path):
    """Its pair may compute something else."""

    class Twice(Conv2d, is_kind=False):
        pair = lambda x, w, b, **how: conv2d_forward(2 * x, w, b, **how), None

    network = Network([Twice(2, 3, name="twice"), Linear(4)], (3, 5, 6))
    net = network.build(rng=np.random.default_rng(0))
    with pytest.raises(
        ArgumentError, match=r"^twice: ONNX has no word for a Twice, a kind of layer of your own"
    ):
        onnx_export.write(tmp_path / "net.onnx", network, arrays_of(net), {})
    assert not list(tmp_path.iterdir())


def test_what_only_draws_its_weights_goes_out_as_the_kind_it_is_derived_from(tmp_path):
    class Uniform(Conv2d, is_kind=False):
        prefix = "uniform"

        def draw(self, key, size, rng):
            return rng.uniform(-1, 1, size)

    network = Network([Uniform(2, 3, name="conv"), Linear(4)], (3, 5, 6))
    arrays = arrays_of(network.build(rng=0))
    onnx_export.write(tmp_path / "net.onnx", network, arrays, {})
    read, weights, *_ = onnx_import.read(tmp_path / "net.onnx")
    assert type(read.layers[0]) is Conv2d
    np.testing.assert_array_equal(weights["conv1.w"], arrays["conv.w"])


def test_an_lrn_that_onnx_cannot_say_is_refused(tmp_path):
    network = Network([LRN(4, 1.0, 1.0, 0.75), Flatten()], (6, 2, 2))
    with pytest.raises(ArgumentError, match="lrn1: a window of 4"):
        onnx_export.write(tmp_path / "net.onnx", network, {}, {})
    assert not list(tmp_path.iterdir())


# ---- in: graphs by PyTorch -----------------------------------------------------------------------------


def torch_networks():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn

    class Pad(nn.Module):
        def __init__(self, *pad):
            super().__init__()
            self.pad = pad

        def forward(self, x):
            return nn.functional.pad(x, self.pad)

    class View(nn.Module):
        def forward(self, x):
            return x.view(x.size(0), -1)

    def conv(*args, **kwargs):
        return nn.Conv2d(*args, **kwargs), nn.ReLU()

    def head(hidden=32, classes=10):
        return (
            nn.LazyLinear(hidden), nn.ReLU(), nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Dropout(), nn.Linear(hidden, classes),
        )  # fmt: skip

    return {
        "AlexNet, two towers": (
            (3, 99, 99),
            nn.Sequential(
                *conv(3, 16, 11, stride=4), nn.LocalResponseNorm(5, 0.1, 0.75, 2.0), nn.MaxPool2d(3, 2),
                *conv(16, 32, 5, padding=2, groups=2), nn.LocalResponseNorm(5, 0.1), nn.MaxPool2d(3, 2),
                *conv(32, 24, 3, padding=1), *conv(24, 24, 3, padding=1, groups=2),
                *conv(24, 16, 3, padding=1, groups=2), nn.MaxPool2d(3, 2), nn.Flatten(), *head(),
            ),
        ),
        "AlexNet, one tower": (
            (3, 95, 95),
            nn.Sequential(
                *conv(3, 16, 11, stride=4, padding=2), nn.MaxPool2d(3, 2), *conv(16, 24, 5, padding=2),
                nn.MaxPool2d(3, 2), *conv(24, 32, 3, padding=1), *conv(32, 24, 3, padding=1),
                nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d((2, 2)), nn.Flatten(), nn.Dropout(), *head(),
            ),
        ),
        "VGG": (
            (3, 32, 32),
            nn.Sequential(
                *conv(3, 8, 3, padding=1), *conv(8, 8, 3, padding=1), nn.MaxPool2d(2, 2),
                *conv(8, 16, 3, padding=1), *conv(16, 16, 1), nn.MaxPool2d(2, 2), View(), *head(),
            ),
        ),
        "a head of global averages": (
            (3, 17, 14),
            nn.Sequential(*conv(3, 8, 3, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), *head()),
        ),
        "batch normalization": (
            (3, 14, 15),
            nn.Sequential(
                nn.MaxPool2d(2, 1), nn.BatchNorm2d(3), *conv(3, 8, 3), nn.BatchNorm2d(8, 0.01, 0.2),
                nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 4),
            ),
        ),
        "LRN, even window": (
            (3, 14, 14),
            nn.Sequential(*conv(3, 9, 3), nn.LocalResponseNorm(4, 2.0, 0.6, 1.5), View(), *head()),
        ),
        "ceil pooling": (
            (3, 21, 24),
            nn.Sequential(
                *conv(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(8, 8, 3), nn.Tanh(),
                nn.AvgPool2d(2, 2, ceil_mode=True), nn.MaxPool2d(3, 2, padding=1, ceil_mode=True),
                nn.Flatten(), *head(),
            ),
        ),
        "asymmetric pads": (
            (3, 30, 28),
            nn.Sequential(
                Pad(0, 3, 0, 3), *conv(3, 8, 5, stride=3), Pad(1, 0, 2, 0), nn.AvgPool2d(3, 2, padding=1),
                nn.Sigmoid(), nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), View(),
                *head(), nn.Softmax(dim=1),
            ),
        ),
    }  # fmt: skip


NAMES = (
    "AlexNet, two towers", "AlexNet, one tower", "VGG", "a head of global averages", "batch normalization",
    "LRN, even window", "ceil pooling", "asymmetric pads"
)  # fmt: skip


def torch_export(module, x, path, fixed=False):
    """Write a module by PyTorch's own exporter, the one that needs nothing but onnx."""
    import torch

    axes = None if fixed else {"input": {0: "batch"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = io.BytesIO()
        torch.onnx.export(
            module.eval(), torch.from_numpy(x), made, dynamo=False, input_names=["input"], dynamic_axes=axes
        )
    path.write_bytes(made.getvalue())


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("fixed", [False, True], ids=["free batch", "fixed batch"])
@pytest.mark.parametrize("name", NAMES)
def test_what_pytorch_exports(name, fixed, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    shape, module = torch_networks()[name]
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    module(torch.from_numpy(x))  # the lazy layer learns its size
    torch_export(module, x, tmp_path / "net.onnx", fixed)
    found = onnx_import.read(tmp_path / "net.onnx")
    wanted = theirs(tmp_path / "net.onnx", x)
    last = softmax if name == "asymmetric pads" else lambda y: y
    close(last(built(found)(x)), wanted, 1e-4)
    with torch.no_grad():
        close(wanted, module(torch.from_numpy(x)).numpy(), 1e-4)
    if name == "AlexNet, two towers":
        assert found.network.most_ranks == 2
        close(built(found, "cpu:0,cpu:1")(x), wanted, 1e-4)
    else:
        assert found.network.most_ranks == 1


def test_what_pytorch_s_newer_exporter_writes(tmp_path):
    """torch.export's graphs spell LRN in another way, and put the weights into a second file."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript, which this exporter needs, is not installed")
    shape, module = torch_networks()["AlexNet, two towers"]
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    module(torch.from_numpy(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(), (torch.from_numpy(x),), dynamo=True, verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )  # fmt: skip
    program.save(str(tmp_path / "net.onnx"), external_data=True)
    assert (tmp_path / "net.onnx.data").exists()
    found = onnx_import.read(tmp_path / "net.onnx")
    wanted = theirs(tmp_path / "net.onnx", x)
    for devices in ("cpu:0", "cpu:0,cpu:1"):
        close(built(found, devices)(x), wanted, 1e-4)


# ---- in: graphs by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "ranks"),
    [
        (bvlc, {"opset": 8, "ir": 3, "listed": True}, 2),
        (bvlc, {"opset": 9, "ir": 4, "batch": 3}, 2),
        (towers_2012, {}, 2),
        (within_a_map, {}, 1),
    ],
    ids=["bvlc_alexnet", "bvlc_alexnet, fixed batch", "towers of 2012", "within a map"],
)
def test_graphs_written_by_hand(make, options, ranks, tmp_path):
    g = make()
    path = g.write(tmp_path / "net.onnx", **options)
    x = np.random.default_rng(3).standard_normal((3, *g.shape)).astype(np.float32)
    found = onnx_import.read(path)
    last = softmax if make is bvlc else lambda y: y
    wanted = theirs(path, x)
    assert found.network.most_ranks == ranks
    close(last(built(found)(x)), wanted, 1e-4)
    if ranks == 2:
        close(last(built(found, "cpu:0,cpu:1")(x)), wanted, 1e-4)


@pytest.mark.parametrize(("opset", "old"), [(3, {"broadcast": 1}), (6, {"broadcast": 1}), (9, {}), (13, {})])
def test_gemm_on_maps_reads_them_as_flatten_would(opset, old, tmp_path):
    """fc6 at once behind pool5, as in bvlc_alexnet of opset 3; onnxruntime wants rows: it has a Reshape."""
    x = np.random.default_rng(3).standard_normal((3, 3, 99, 99)).astype(np.float32)
    wanted = theirs(bvlc().write(tmp_path / "rows.onnx", opset=9), x)

    def on_maps(g):
        (reshape,) = (n for n in g.nodes if n.op_type == "Reshape")
        g.nodes.remove(reshape)
        for n in g.nodes:
            n.input[:] = [reshape.input[0] if name == reshape.output[0] else name for name in n.input]
            if n.op_type == "Gemm":
                n.attribute.extend(onnx.helper.make_attribute(*item) for item in old.items())

    found = onnx_import.read(changed(tmp_path / "maps.onnx", on_maps, bvlc, opset=opset))
    assert found.network.most_ranks == 2
    for devices in ("cpu:0", "cpu:0,cpu:1"):
        close(softmax(built(found, devices)(x)), wanted, 1e-4)


def test_an_imported_network_s_gradients_are_the_same_on_two_ranks(tmp_path):
    """LRN across the towers is the hard case: the ranks meet, and part again."""
    path = bvlc().write(tmp_path / "net.onnx", opset=8, ir=3)
    found = onnx_import.read(path)
    x = np.random.default_rng(3).standard_normal((*found.network.input, 2))
    dy = np.random.default_rng(4).standard_normal((32, 2))

    def rank(comm):
        net = found.network.build(comm, np.random.default_rng(0), np.float64)
        for name, layer, key in net.parameters():
            whole = found.arrays[name].astype(np.float64)
            layer.params[key] = whole[comm.part(len(whole))]
        net.forward(x)
        net.backward(dy)
        return {name: comm.all_gather(layer.grads[key]) for name, layer, key in net.parameters()}

    (wanted,), (grads, _) = (launch(rank, parse(devices)) for devices in ("cpu:0", "cpu:0,cpu:1"))
    assert len(wanted) == 16
    for name, gradient in wanted.items():
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(grads[name], gradient, rtol=1e-9, atol=1e-9 * np.abs(gradient).max())


def test_an_imported_network_can_be_trained(tmp_path):
    """Although the arrays of the file that it came from may be read-only, and stay as they were."""
    path = bvlc().write(tmp_path / "net.onnx", opset=8, ir=3)
    found = onnx_import.read(path)
    kept = {name: array.copy() for name, array in found.arrays.items()}
    for array in found.arrays.values():
        array.flags.writeable = False
    net = found.network.build(rng=np.random.default_rng(0))
    checkpoint.adopt(net, found.arrays, path)
    x = np.random.default_rng(3).standard_normal((*found.network.input, 2), np.float32)
    train_step(net, SGD(net, rate=0.01), x, np.array([1, 2]))
    for name, array in arrays_of(net).items():
        assert (array != kept[name]).any()
        np.testing.assert_array_equal(found.arrays[name], kept[name])


# ---- refused by name -----------------------------------------------------------------------------------


def changed(path, change, make=towers_2012, **options):
    """Write a graph by hand, changed."""
    g = make()
    change(g)
    return g.write(path, **options)


def append(op, **attributes):
    return lambda g: g.node(op, g.nodes[-1].output[0], "last", **attributes)


def alter(index, name, value):
    """Give a node another attribute."""

    def change(g):
        node = g.nodes[index]
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])

    return change


def residual(g):
    g.node("Add", "conv2 tanh2", "sum")
    g.nodes[:] = [*g.nodes[:9], g.nodes[-1], *g.nodes[9:-1]]
    g.nodes[10].input[0] = "sum"  # what was pooled


def swapped(g):
    g.nodes[4].input[:] = ["right.norm", "left.norm"]


def unequal(g):
    g.array("parts", [3, 5], np.int64)
    g.nodes[1].input.append("parts")


REFUSED = {
    "another operation": (append("Elu"), r"node 'n_last' \(Elu\)"),
    "another's operation": (append("Relu", domain="com.x"), r"node 'n_last' \(Relu\).*com\.x"),
    "dilation": (alter(0, "dilations", [2, 2]), r"node 'n_conv1' \(Conv\): dilations: expected \(1, 1\)"),
    "an even LRN": (
        alter(2, "size", 4),
        r"node 'n_left.norm' \(LRN\): size: expected an odd window, found 4",
    ),
    "towers that differ": (alter(2, "alpha", 0.25), r"node 'n_left right' .*same layers in all towers"),
    "towers swapped": (swapped, r"node 'n_norm' \(Concat\).*order"),
    "unequal towers": (unequal, r"node 'n_left right' \(Split\).*equal parts of 8 channels"),
    "a residual": (residual, r"'conv2' is read by node 'n_tanh2' .* node 'n_sum' .*not a sequential"),
    "a softmax in the middle": (append("Softmax"), None),
    "an unused node": (lambda g: g.nodes.insert(0, onnx.helper.make_node("Abs", ["data"], ["x"])), "read by"),
    "no groups": (alter(0, "group", 0), r"node 'n_conv1' \(Conv\): weights .* in 0 groups do not fit 3"),
    "groups that do not fit": (
        alter(0, "group", 2),
        r"node 'n_conv1' \(Conv\): weights .* in 2 groups do not fit 3 channels",
    ),
    "weights that do not fit": (
        lambda g: g.nodes[0].input.__setitem__(1, g.weight("wide", 8, 4, 5, 5)),
        r"conv1.*\(Conv\): weights .* 3 ch",
    ),
    "weights of too few axes": (
        lambda g: g.nodes[0].input.__setitem__(1, g.weight("wide", 8, 3, 25)),
        r"conv1.*\(Conv\): 'wide': expected weights of 4 axes, found float32 \(8, 3, 25\)",
    ),
    "weights of whole numbers": (
        lambda g: g.nodes[0].input.__setitem__(1, g.array("whole", np.ones((8, 3, 5, 5)), np.int64)),
        r"conv1.*\(Conv\): 'whole': expected weights of 4 axes, found int64 \(8, 3, 5, 5\)",
    ),
    "a tensor twice": (lambda g: g.weight("w1", 8, 3, 5, 5), "expected one tensor 'w1', found two"),
    "a tensor named as an output": (
        lambda g: g.weight("conv1", 8),
        r"node 'n_conv1' \(Conv\): its output 'conv1' is another's too",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_not_a_sequential_classifier_is_refused_with_its_node(what, tmp_path):
    change, message = REFUSED[what]
    path = changed(tmp_path / "net.onnx", change)
    if message is None:
        onnx_import.read(path)  # at the end it is no fault
        path = changed(path, lambda g: (append("Softmax")(g), g.node("Relu", "last", "more")))
        message = r"node 'n_more' \(Relu\): expected nothing after the softmax"
    with pytest.raises(DataError, match=r"net\.onnx: .*" + message):
        onnx_import.read(path)


@pytest.mark.parametrize(
    ("opsets", "message"),
    [
        ([99], r"expected an opset up to \d+, found 99: pip install --upgrade onnx"),
        ([13, 9], "expected one opset of at least 1, found 13, 9"),
        ([0], "expected one opset of at least 1, found 0"),
    ],
)
def test_an_opset_that_is_not_known_is_refused(opsets, message, tmp_path):
    path = towers_2012().write(tmp_path / "net.onnx")
    model = onnx.load(path)
    del model.opset_import[:]
    domains = "", "ai.onnx"  # two names of the same
    model.opset_import.extend(map(onnx.helper.make_opsetid, domains, opsets))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DataError, match=message):
        onnx_import.read(path)


def test_sizes_that_are_not_fixed_are_refused(tmp_path):
    g = towers_2012()
    g.shape = (3, "height", 35)
    with pytest.raises(DataError, match=r"input 'data': expected \(batch, C, H, W\) of fixed sizes.*height"):
        onnx_import.read(g.write(tmp_path / "net.onnx"))


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("weights.bin", None),
        ("../secret.bin", "outside the model's folder"),
        ("link.bin", "outside the model's folder"),
        ("/etc/passwd", "outside the model's folder"),
        ("nothing.bin", "cannot be read"),
        ("short.bin", "expected 2,400 bytes"),
    ],
)
def test_weights_in_another_file_must_lie_in_the_model_s_folder(location, message, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    g = towers_2012()
    w1 = g.weights[0]
    for name in ("secret.bin", "model/weights.bin"):
        (tmp_path / name).write_bytes(w1.raw_data)
    (folder / "short.bin").write_bytes(w1.raw_data[:-1])
    (folder / "link.bin").symlink_to("../secret.bin")
    wanted = onnx.numpy_helper.to_array(w1)
    w1.ClearField("raw_data")
    w1.data_location = onnx.TensorProto.EXTERNAL
    w1.external_data.add(key="location", value=location)
    path = folder / "net.onnx"
    g.write(path)
    if message is None:
        np.testing.assert_array_equal(onnx_import.read(path).arrays["conv1.w"], wanted)
    else:
        with pytest.raises(DataError, match=rf"net\.onnx: tensor 'w1': .*{message}"):
            onnx_import.read(path)


@pytest.mark.parametrize("kind", ["FLOAT16", "BFLOAT16"])
@pytest.mark.parametrize("held", ["raw_data", "int32_data", "in a file"])
def test_weights_of_16_bits_are_read_as_float32(kind, held, tmp_path):
    g = towers_2012()
    w1 = g.weights[0]
    single = onnx.numpy_helper.to_array(w1)
    if kind == "FLOAT16":
        bits, wanted = single.astype("<f2").view("<u2"), single.astype(np.float16).astype(np.float32)
    else:  # the upper half
        bits = (single.view(np.uint32) >> 16).astype("<u2")
        wanted = (bits.astype(np.uint32) << 16).view(np.float32)
    w1.ClearField("raw_data")
    w1.data_type = onnx.TensorProto.DataType.Value(kind)
    if held == "raw_data":
        w1.raw_data = bits.tobytes()
    elif held == "int32_data":
        w1.int32_data.extend(bits.ravel().tolist())
    else:
        w1.data_location = onnx.TensorProto.EXTERNAL
        w1.external_data.add(key="location", value="weights.bin")
        (tmp_path / "weights.bin").write_bytes(bits.tobytes())
    found = onnx_import.read(g.write(tmp_path / "net.onnx")).arrays["conv1.w"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("beside", ["link", "file"])
def test_a_model_that_is_a_link_has_its_weights_beside_the_link_or_the_file(beside, tmp_path):
    for name in ("link", "file", "elsewhere"):
        (tmp_path / name).mkdir()
    g = towers_2012()
    w1 = g.weights[0]
    raw, wanted = w1.raw_data, onnx.numpy_helper.to_array(w1)
    w1.ClearField("raw_data")
    w1.data_location = onnx.TensorProto.EXTERNAL
    w1.external_data.add(key="location", value="weights.bin")
    g.write(tmp_path / "file" / "net.onnx")
    path = tmp_path / "link" / "net.onnx"
    path.symlink_to("../file/net.onnx")
    (tmp_path / beside / "weights.bin").write_bytes(raw)
    np.testing.assert_array_equal(onnx_import.read(path).arrays["conv1.w"], wanted)
    (tmp_path / beside / "weights.bin").rename(tmp_path / "elsewhere" / "weights.bin")
    (tmp_path / beside / "weights.bin").symlink_to("../elsewhere/weights.bin")
    with pytest.raises(DataError, match=r"its data lie outside the model's folder"):
        onnx_import.read(path)


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ("NodeProto.name", lambda m: m.graph.node[0].__setattr__("name", "TEXT")),
        ("NodeProto.op_type", lambda m: m.graph.node[1].__setattr__("op_type", "TEXT")),
        ("NodeProto.domain", lambda m: m.graph.node[1].__setattr__("domain", "TEXT")),
        ("NodeProto.input", lambda m: m.graph.node[2].input.append("TEXT")),
        ("NodeProto.output", lambda m: m.graph.node[2].output.append("TEXT")),
        ("AttributeProto.name", lambda m: m.graph.node[0].attribute[0].__setattr__("name", "TEXT")),
        ("TensorProto.name", lambda m: m.graph.initializer[0].__setattr__("name", "TEXT")),
        ("StringStringEntryProto.key", lambda m: m.metadata_props.add(key="TEXT", value="")),
        ("StringStringEntryProto.value", lambda m: m.metadata_props.add(key="", value="TEXT")),
        ("StringStringEntryProto.value", lambda m: m.graph.initializer[0].external_data.add(value="TEXT")),
        ("ValueInfoProto.name", lambda m: m.graph.output[0].__setattr__("name", "TEXT")),
        ("Dimension.dim_param", lambda m: m.graph.input[0].type.tensor_type.shape.dim.add(dim_param="TEXT")),
        ("OperatorSetIdProto.domain", lambda m: m.opset_import.add(domain="TEXT")),
        (None, lambda m: m.graph.node[0].__setattr__("doc_string", "TEXT")),
    ],
)
def test_text_that_is_not_utf_8_is_refused_but_in_descriptions(place, change, tmp_path):
    path = towers_2012().write(tmp_path / "net.onnx")
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString().replace(b"TEXT", b"\xff\xfe\xfd\xfc"))
    if place is None:
        assert onnx_import.read(path).network.layers
    else:
        with pytest.raises(DataError, match=rf"net\.onnx: {place}: expected text in UTF-8, found b'.xff"):
            onnx_import.read(path)


def test_a_constant_that_would_fill_the_memory_is_refused(tmp_path):
    def change(g):
        g.weights[1].CopyFrom(onnx.numpy_helper.from_array(np.array([1 << 40], np.int64), "six"))

    with pytest.raises(DataError, match=r"node 'n_b1' \(ConstantOfShape\): expected at most"):
        onnx_import.read(changed(tmp_path / "net.onnx", change, within_a_map))
