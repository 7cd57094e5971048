"""`tinyalex bench`: what it counts is what the network does, and its twin in PyTorch is the same network."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from test_cli import done, refused

from tinyalex.devices import Device
from tinyalex.errors import ArgumentError, DeviceError
from tinyalex.measure import bench
from tinyalex.measure.alone import alone
from tinyalex.measure.describe import describe
from tinyalex.models import Network, figure1
from tinyalex.models.alexnet import PRESETS, alexnet, narrow
from tinyalex.nn import BatchNorm, Conv2d, Local2d, SameMapNorm, plan

OPTIONS = narrow(PRESETS["paper"], 0.05)._replace(size=67, classes=10)
SMALL = alexnet(OPTIONS)


@pytest.mark.parametrize("ranks", [1, 2])
def test_products_are_the_networks_multiply_adds(ranks):
    """Three products a layer, two for conv1: what `describe` counts for one image and all ranks."""
    rows = describe(alexnet(), ranks, 3).rows
    for place, row in zip(alexnet().plan(ranks), rows, strict=True):
        products = bench.products(place, 3)
        found = {d: sum(n * m * k * j for n, m, k, j in products[d]) for d in products}
        whole = 3 * row.multiply_adds // ranks
        assert found == {"forward": whole, "backward": whole * (1 if row.layer == "conv1" else 2)}


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_layer_alone_is_a_rank_s_share_of_it(ranks):
    """Its products and what it keeps are those that it has within the network."""
    network = alexnet()
    for place in network.plan(ranks):
        name = place.layer.name
        if place.layer.leaves == "all":
            continue  # a gather has nothing to meet when it is alone
        only, parts = alone(network, name, ranks)
        assert parts == 1
        (own,) = only.plan()
        own.layer.need_dx = getattr(place.layer, "need_dx", True)
        assert bench.products(own, 3) == bench.products(place, 3), name
        assert own.y == place.own(place.y, place.split_y), name


@pytest.mark.parametrize(
    ("parallel", "ranks", "parts"), [("data", 2, (2, 2)), ("hybrid", 2, (2, 1)), ("model", 4, (2, 2))]
)
def test_a_layer_alone_is_given_a_rank_s_part_of_the_batch(parallel, ranks, parts):
    """Each of two ranks was given the whole batch, and half as many images a second were said."""
    network = alexnet()
    placed = {place.layer.name: place for place in network.plan(ranks, parallel)}
    for name, wanted in zip(("conv5", "fc8"), parts, strict=True):
        only, found = alone(network, name, ranks, parallel)
        assert found == wanted == placed[name].parts
        (own,) = only.plan()
        own.layer.need_dx = True  # as in the network, where neither is the first
        assert bench.products(own, 6 // found) == bench.products(placed[name], 6)


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    """Of 3 images each of two ranks was given 1, and 3 were counted."""
    for layer in ((), ("--layer", "conv1")):
        said = refused("bench", "cifar4", *layer, "--batch", 3, "--devices", "cpu:0,cpu:1")
        assert "batch: 3 images cannot be shared evenly by 2 ranks" in said


def test_a_layer_from_the_command_line():
    found = json.loads(
        done(*["bench", "--layer", "conv5", "--batch", "2", "--rounds", "2", "--json", "--devices", "cpu:0"])
    )
    assert found["what"] == "conv5"
    assert len(found["seconds"]) == len(found["faults"]) == found["rounds"] == 2
    assert all(s > 0 for s in found["seconds"])
    assert 0 < found["limit"] < 100 * min(found["seconds"])
    (forward, backward) = (r for r in found["layers"] if r["layer"] == "conv5")
    # GFLOP/s and milliseconds are of one thing: their product is the layer's arithmetic, there and back.
    flop = 2 * 2 * 74_760_192
    assert forward["ms"] * forward["gflops"] * 1e6 == pytest.approx(flop)
    assert backward["ms"] * backward["gflops"] * 1e6 == pytest.approx(2 * flop)


@pytest.mark.parametrize("options", [("cifar4-tanh",), ("--layer", "pool5", "--forward")], ids=str)
def test_table(options):
    printed = done("bench", *options, "--batch", 4, "--rounds", 1, "--layers")
    assert "images/s" in printed
    assert ("of the limit is reached" in printed) == ("--forward" not in options)
    assert "pool1" in printed or "pool5" in printed


def test_rounds_measure_the_whole_network():
    found = bench.measure(SMALL, [Device("cpu:0"), Device("cpu:1")], 4, 2, what="alexnet")
    assert found["what"] == "alexnet"
    names = {row["layer"] for row in found["layers"]}
    assert {"conv1", "lrn1", "gather3", "fc8", "update"} <= names
    inside = sum(row["ms"] for row in found["layers"]) / 1e3
    assert inside < 1.5 * np.mean(found["seconds"])


def test_networks_without_towers_share_the_batch():
    """Each device trains the whole network on its part; the gradients meet."""
    found = bench.measure(figure1(), [Device("cpu:0"), Device("cpu:1")], 4, 1)
    assert found["batch"] == 4
    assert {"conv1", "fc10", "update"} <= {row["layer"] for row in found["layers"]}


def test_bad_names():
    assert "conv9: expected a network: alexnet, paper, code2012" in refused("bench", "conv9")
    assert "bench: expected one of conv1, lrn1" in refused("bench", "--layer", "conv9")
    assert "expected torch or torch-tuned" in refused("bench", "--vs", "tensorflow")


def test_an_activation_that_is_none():
    with pytest.raises(ArgumentError, match=r"act1: activation: expected None, 'relu', .* found 'foo'"):
        figure1("foo")


def test_warming_up_ends_when_the_device_is_done(monkeypatch):
    """Else a GPU's step would be timed as long as it takes to queue it."""
    calls = []
    monkeypatch.setattr(bench._Work, "__call__", lambda self: calls.append("work"))
    monkeypatch.setattr(Device, "finish", lambda self: calls.append("finish"))
    monkeypatch.setattr(bench, "ROUND", 0)
    bench.measure(SMALL, [Device("cpu:0")], 2, 1, layer="pool5")
    assert calls == ["work", "finish"] * 3  # and a round of one step


class TestTwin:
    """Against PyTorch, where it is installed."""

    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch", reason="PyTorch (the oracle extra) is not installed")

    def test_has_the_networks_parameters(self, torch):
        from tinyalex.measure.bench_torch import module

        with torch.device("meta"):
            modules = [m for place in alexnet().plan() for m in module(place.layer, place, tuned=False)]
        assert sum(p.numel() for m in modules for p in m.parameters()) == 60_965_224

    def test_makes_shapes_and_values_of_our_layers(self, torch):
        """Same weights, same input: the logits are ours, normalization over all maps, in both forms."""
        from tinyalex.measure.bench_torch import module

        network = alexnet(OPTIONS._replace(lrn_within_towers=False, dropout=False))
        net = network.build(rng=np.random.default_rng(0), dtype=np.float64)
        x = np.random.default_rng(1).standard_normal((3, 67, 67, 2)) * 60
        for tuned in (False, True):
            twin = torch.nn.Sequential(
                *(m for place in net.placed.values() for m in module(place.layer, place, tuned))
            )
            twin.double()
            with torch.no_grad():
                for parameter, (_, layer, key) in zip(twin.parameters(), net.parameters(), strict=True):
                    parameter.set_(torch.from_numpy(layer.params[key].copy()))
                found = twin(torch.from_numpy(x).movedim(-1, 0)).numpy().T
            np.testing.assert_allclose(found, net.forward(x), rtol=1e-9, atol=1e-12)

    def test_batch_normalization_has_a_twin_with_its_constants(self, torch):
        from tinyalex.measure.bench_torch import module

        for shape, kind in (((5, 3, 4), torch.nn.BatchNorm2d), ((5,), torch.nn.BatchNorm1d)):
            [place] = plan([BatchNorm(0.01, 0.3)], shape)
            [twin] = module(place.layer, place, tuned=False)
            assert (type(twin), twin.num_features, twin.eps, twin.momentum) == (kind, 5, 0.01, 0.3)

    def test_tuned_normalization_has_the_right_gradient(self, torch):
        from tinyalex.measure.bench_torch import TunedLRN

        x = torch.randn(2, 7, 4, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(TunedLRN(5, 1.3, 0.75, 2.0), x)

    @pytest.mark.parametrize(("vs", "devices"), [("torch", "cpu:0"), ("torch-tuned", "cpu:0,cpu:1")])
    def test_rounds_against_pytorch_in_a_process_of_its_own(self, vs, devices, monkeypatch):
        """It has as many threads as tinyalex has ranks, and is asked for as many rounds."""
        monkeypatch.setattr(bench, "ROUND", 0)  # of one step
        options = ("--batch", 2, "--rounds", 2, "--devices", devices, "--vs", vs, "--json")
        found = json.loads(done("bench", "--layer", "fc8", *options))
        assert found["other_threads"] == [devices.count("cpu")] * 2
        assert len(found["other_seconds"]) == 2
        assert min(found["other_seconds"]) > 0

    def test_a_rival_that_ends_is_an_error(self, monkeypatch):
        monkeypatch.setattr(bench.sys, "executable", "false")
        with pytest.raises(DeviceError, match="PyTorch's process ended with exit code 1"):
            bench.measure(SMALL, [Device("cpu:0")], 2, 1, layer="pool5", against="torch")

    def test_the_ratio_is_printed(self):
        """Twice the time of ours is twice as fast."""
        found = bench.measure(SMALL, [Device("cpu:0")], 2, 1, layer="pool5")
        rival = {"seconds": [2 * s for s in found["seconds"]], "faults": [7], "peak_bytes": [3e9]}
        found |= {"against": "torch"} | {f"other_{key}": value for key, value in rival.items()}
        console = Console(file=io.StringIO(), width=200)
        bench.print_result(found, console)
        assert "tinyalex is 2.00 times as fast" in console.file.getvalue()
        assert "its peak memory 3.00 GB; 7 page faults" in console.file.getvalue()

    @pytest.mark.parametrize("pad", [(1, 1, 2, 0), (1, 2, 1, 1), (2, 1, 2, 1), (1, 1, 2, 2), (0, 3, 0, 3)])
    def test_convolution_with_any_padding(self, torch, pad):
        from tinyalex.measure.bench_torch import module

        rng = np.random.default_rng(0)
        net = Network([Conv2d(4, 3, pad=pad)], (3, 7, 8)).build(rng=rng, dtype=np.float64)
        place = net.placed["conv1"]
        layer = place.layer
        *before, conv = module(layer, place, tuned=False)
        x = rng.standard_normal((3, 7, 8, 2))
        with torch.no_grad():
            conv.weight, conv.bias = (torch.nn.Parameter(torch.from_numpy(layer.params[key])) for key in "wb")
            found = torch.nn.Sequential(*before, conv)(torch.from_numpy(x).movedim(-1, 0))
        np.testing.assert_allclose(found.movedim(0, -1).numpy(), layer.forward(x), atol=1e-12)

    def test_layers_that_pytorch_has_not_are_written_with_what_it_has(self, torch):
        """Unshared convolution, and the normalization within a map, on which an even window bears too."""
        from tinyalex.measure.bench_torch import module

        rng = np.random.default_rng(0)
        layers = [Local2d(5, (3, 2), stride=2, pad=1, activation="relu", std=1.0), SameMapNorm(4, alpha=1.0)]
        net = Network(layers, (4, 7, 9)).build(rng=rng, dtype=np.float64)
        twin = torch.nn.Sequential(
            *(m for place in net.placed.values() for m in module(place.layer, place, False))
        ).double()
        x, params = rng.standard_normal((4, 7, 9, 2)), net.layers["local1"].params
        params["b"][...] = rng.standard_normal(params["b"].shape)
        with torch.no_grad():
            for parameter, key in zip(twin.parameters(), "wb", strict=True):
                parameter.set_(torch.from_numpy(params[key].copy()))
            found = twin(torch.from_numpy(x).movedim(-1, 0))
        np.testing.assert_allclose(found.movedim(0, -1).numpy(), net.forward(x), atol=1e-12)
