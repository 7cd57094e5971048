"""Model, data, hybrid parallelism and towers × data: k ranks make the step that one rank makes.

What computes runs on NumPy, on the stand-in for CuPy and on GPUs.
"""

import math

import backends
import numpy as np
import pytest
import test_run

from tinyalex import runs
from tinyalex.comm import launch
from tinyalex.data import augment, shapes
from tinyalex.data.loader import Loader
from tinyalex.devices import parse
from tinyalex.errors import ArgumentError, DataError
from tinyalex.evaluate import probabilities
from tinyalex.measure.describe import FLOPS, LATENCIES, LINKS, describe, parse_rate, predict
from tinyalex.models import Network, figure1
from tinyalex.models.alexnet import AlexNet, alexnet, narrow
from tinyalex.nn import BatchNorm, Conv2d, Dropout, Linear, MaxPool
from tinyalex.optim import SGD
from tinyalex.parallel import keeps_ranks, most_ranks, updated_in_turn, usual
from tinyalex.runs import checkpoint, run
from tinyalex.runs.recipe import Schedule, recipe_of
from tinyalex.train import train_step

ALEXNET = alexnet(narrow(AlexNet(size=67, classes=12), 0.05))  # two towers, dropout
SMALL = Network(
    [
        Conv2d(4, 5, stride=4, groups=1, activation="relu", std=0.1, name="conv1"),
        Conv2d(8, 3, groups=2, activation="relu", std=0.1, name="conv2"),
        MaxPool(3, 2, name="pool"),
        Dropout(0.7, name="dropout_maps"),
        Linear(8, "relu", std=0.1, name="fc1"),
        Dropout(0.5, name="dropout"),
        Linear(4, std=0.1, name="fc2"),
    ],
    (3, 32, 32),
)
LAYOUTS = [("model", 2), ("model", 4), ("data", 2), ("data", 4), ("hybrid", 4), ("hybrid:b", 4)]
BATCH = 8
PICTURES = augment.Augmentation(crop=32, noise=0.0)


def on(size, fn):
    return launch(fn, parse(backends.names(size)))


def a_batch(network):
    rng = np.random.default_rng(3)
    return rng.standard_normal((*network.input, BATCH)) * 50, rng.integers(0, *network.outputs, BATCH)


def trained(network, parallel, size, steps):
    """Return each rank's (first gradients, state after all steps, results, what the first step's exchanges
    were: ledger and number of collectives), whole arrays."""

    def rank(comm):
        net = network.build(comm, np.random.default_rng(0), np.float64, parallel)
        optimizer, (images, labels) = SGD(net, 0.01, decay=0.0005), a_batch(network)
        part, results = net.data.part(BATCH), []
        x, own = (backends.put(np.ascontiguousarray(a[..., part])) for a in (images, labels))
        for step in range(steps):
            results.append(train_step(net, optimizer, x, own, step))
            if not step:
                crossed = dict(comm.ledger), sum(comm.calls.values())
                grads = {
                    name: backends.get(layer.comm.all_gather(layer.grads[key]))
                    for name, layer, key in net.learned()
                }
        return grads, checkpoint.state(net, optimizer), results, crossed

    return on(size, rank)


def agree(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-10 * abs(array).max(), err_msg=name)


@pytest.fixture(scope="module")
def one_rank(backend):
    network, steps = (SMALL, 2) if backend == "standin" else (ALEXNET, 10)
    return network, steps, trained(network, "model", 1, steps)[0]


@pytest.mark.parametrize(("parallel", "size"), LAYOUTS)
def test_ranks_make_the_steps_of_one(parallel, size, one_rank):
    """Gradients, and weights and velocities after ten steps; masks of the whole batch; the same bits."""
    network, steps, (gradients, state, results, _) = one_rank
    ranks = trained(network, parallel, size, steps)
    for found_gradients, found_state, found_results, _ in ranks:
        agree(found_gradients, gradients)
        agree(found_state, state)
        np.testing.assert_allclose(found_results, results, rtol=1e-10)
        assert {n: a.tobytes() for n, a in found_state.items()} == {
            n: a.tobytes() for n, a in ranks[0][1].items()
        }


def test_variable_updates_the_fully_connected_layers_after_each_part(backend):
    """Against the same by hand: the product's weights move between the two parts, conv1's at the end."""
    layers = [Conv2d(4, 5, stride=4, activation="relu", std=0.1), Linear(4, std=0.1)]
    network, rate = Network(layers, (3, 32, 32)), 0.01
    images, labels = a_batch(network)

    def by_hand(comm):
        net = network.build(comm, np.random.default_rng(0), np.float64)
        conv, fc = net.layers.values()
        maps, slopes = conv.forward(backends.put(images)), []
        for part in (slice(0, 4), slice(4, 8)):
            p = np.exp(backends.get(fc.forward(backends.put(backends.get(maps)[..., part]))))
            p /= p.sum(axis=0)
            p[labels[part], np.arange(4)] -= 1
            slopes.append(backends.get(fc.backward(backends.put(p / 4))) / 2)
            for key, gradient in fc.grads.items():
                fc.params[key] -= rate * gradient
        conv.backward(backends.put(np.concatenate(slopes, axis=-1)))
        for key, gradient in conv.grads.items():
            conv.params[key] -= rate * gradient
        return {name: backends.get(layer.params[key]).copy() for name, layer, key in net.parameters()}

    def variable(comm):
        net = network.build(comm, np.random.default_rng(0), np.float64, "hybrid:variable")
        part = net.data.part(BATCH)
        x, own = (backends.put(np.ascontiguousarray(a[..., part])) for a in (images, labels))
        train_step(net, SGD(net, rate, momentum=0.0), x, own)
        return checkpoint.state(net, None)

    agree(on(2, variable)[1], on(1, by_hand)[0])


def test_probabilities_of_a_part_each(backend):
    """Seven pictures on two ranks: the eighth is there twice, and left out in the end."""
    pictures = shapes.make(7, np.random.default_rng(0))
    mean = pictures.images.mean(axis=3)

    def tested(parallel):
        def rank(comm):
            network = Network([Conv2d(4, 5, stride=4), Linear(10)], (3, 32, 32))
            net = network.build(comm, np.random.default_rng(0), parallel=parallel)
            part = net.data.rank, net.data.size
            others = {"mean": mean, "part": part, "threads": 0, "device": comm.device}
            with Loader(pictures, 4, PICTURES, train=False, **others) as loader:
                return probabilities(net, loader)

        return rank

    [(expected, labels)] = on(1, tested("model"))
    assert labels.tolist() == pictures.labels.tolist()
    for parallel in ("data", "hybrid"):
        for p, found in on(2, tested(parallel)):
            assert found.tolist() == labels.tolist()
            np.testing.assert_allclose(p, expected, rtol=1e-5)


# ---- what crosses, and when ----------------------------------------------------------------------------


@pytest.mark.parametrize(("parallel", "size"), [*LAYOUTS, ("hybrid:variable", 2)])
def test_bytes_are_those_predicted(parallel, size, monkeypatch):
    """Layer by layer, of all ranks together (float64: twice those of float32), in several messages."""
    monkeypatch.setattr("tinyalex.parallel.BUCKET", 200)
    described = describe(SMALL, size, BATCH, parallel)
    rows, found = {row.layer: row for row in described.rows}, {}
    for *_, (ledger, collectives) in trained(SMALL, parallel, size, 1):
        assert collectives == predict(described, math.inf, math.inf, latency=1).receiving
        for (label, _), nbytes in ledger.items():
            found[label] = found.get(label, 0) + nbytes
    gradients = [label for label in found if label.endswith("gradients")]
    assert len(gradients) == (0 if (parallel, size) == ("model", 2) else 1 if "hybrid" in parallel else 2)
    summed = {layer: label for label in gradients for layer in label.split()[:-1]}
    for name, row in rows.items():
        if name == "loss":
            continue
        assert found.get(f"{name} forward", 0) == 2 * size * row.received_forward
        assert found.get(f"{name} backward", 0) == 2 * size * row.received_backward
        assert (name in summed) == bool(row.received_gradients)
    for label in gradients:
        assert found[label] == 2 * size * sum(rows[n].received_gradients for n in label.split()[:-1])
    if "labels" in found:
        assert found["labels"] == size * rows["loss"].received_forward
    elif "loss" in rows:
        assert found["loss"] == 2 * size * rows["loss"].received_gradients


def test_a_step_is_predicted_from_rates_and_latency():
    """By hand: a convolution of 100 filters of 1 weight on 10×10 pixels, a product of 10 × 100·100."""
    network = Network([Conv2d(100, 1, name="conv"), Linear(10, name="fc")], (1, 10, 10))
    conv, fc = 2 * 100 * 100 * 8, 2 * 10 * 10_000 * 8  # FLOP in forward; twice in backward, conv once
    alone = (2 * conv + 3 * fc) / 1e6
    assert predict(describe(network, 1, 8), 1e6, 1e6) == pytest.approx((alone, 0, alone))
    data = predict(describe(network, 2, 8, "data"), 1e6, 1e6)
    received = 4 * (100 + 100 + 100_000 + 10) + 8  # of two ranks each receives half of the sums, twice
    assert data.computing == pytest.approx(alone / 2)
    assert data.receiving == pytest.approx(received / 1e6)
    # fc's gradients travel while conv goes backward, conv's in the same message: both wait for conv
    assert data.step == pytest.approx(data.computing + (received - 8) / 1e6)
    late = predict(describe(network, 2, 8, "data"), 1e6, 1e6, 0.25)  # the loss travels before
    assert late == pytest.approx((data.computing, data.receiving + 0.5, data.step + 0.25))


@pytest.mark.parametrize(
    ("text", "value"), [("12GB/s", 12e9), ("1Gbit/s", 125e6), ("100 Mbit/s", 12.5e6), ("1.5MB/s", 1.5e6)]
)
def test_rates_are_read(text, value):
    assert parse_rate(text, "--link", LINKS) == value
    for wrong in ("12GB", "GB/s", "0GB/s", "-1GB/s", "1e3"):
        with pytest.raises(DataError, match="--link: expected a number and Mbit/s, Gbit/s, MB/s, GB/s"):
            parse_rate(wrong, "--link", LINKS)
    assert parse_rate("100GF", "--flops", FLOPS) == 1e11
    assert parse_rate("50us", "--latency", LATENCIES) == pytest.approx(50e-6)


# ---- which layout, and what cannot be shared -----------------------------------------------------------


def test_the_usual_layout():
    normalized = Network([Conv2d(4, 3), BatchNorm(), Linear(4)], (3, 8, 8))
    assert [usual(n) for n in (ALEXNET, figure1(), normalized)] == ["model", "data", "model"]
    assert most_ranks(ALEXNET, "model", 128) == 2
    assert most_ranks(ALEXNET, "data", 128) == 128
    assert most_ranks(ALEXNET, "hybrid", 128) == 4  # of 12 classes
    assert keeps_ranks(ALEXNET, "hybrid:variable")
    assert keeps_ranks(normalized, "data")
    assert not keeps_ranks(ALEXNET, "data")


@pytest.mark.parametrize(
    ("network", "ranks", "parallel", "message"),
    [
        (ALEXNET, 3, "model", "3 ranks cannot share 2 towers evenly: 1, or a multiple of 2"),
        (ALEXNET, 8, "hybrid", "fc8: 12 filters or features cannot be shared evenly by 8 ranks"),
        (ALEXNET, 2, "pipeline", "parallel: expected one of model, data, hybrid, .*found 'pipeline'"),
        (Network([Conv2d(4, 3)], (3, 8, 8)), 2, "hybrid", "wants convolutions and then fully connected"),
        (Network([Linear(4)], (3, 8, 8)), 2, "hybrid", "wants convolutions and then fully connected"),
    ],
)
def test_what_ranks_cannot_share_is_said(network, ranks, parallel, message):
    with pytest.raises(ArgumentError, match=message):
        network.plan(ranks, parallel)


def test_a_batch_that_ranks_cannot_share_is_said():
    with pytest.raises(ArgumentError, match="batch: 10 images cannot be shared evenly by 4 ranks"):
        describe(ALEXNET, 4, 10, "data")


# ---- a run ---------------------------------------------------------------------------------------------


def begun(out, devices, parallel, batch=8):
    """Train in the new folder for one epoch of four steps, with a validation of a batch and a half."""
    made = test_run.settings(epochs=1, batch=batch)._replace(parallel=parallel)
    launch(run.job(out, made, test_run.DATA, new=True), parse(devices))
    return out


def test_a_run_learns_on_any_number_of_ranks_what_one_learns(tmp_path):
    """Each rank loads its part of the batches, and tests its part of the pictures."""
    one = begun(tmp_path / "one", "cpu:0", "model")
    arrays, metadata = checkpoint.load(run.checkpoints(one)[-1])
    for parallel, ranks in (("data", 4), ("model", 4), ("hybrid:b", 2)):
        out = begun(
            tmp_path / f"{parallel[:6]}-{ranks}", ",".join(f"cpu:{k}" for k in range(ranks)), parallel
        )
        found, of_run = checkpoint.load(run.checkpoints(out)[-1])
        assert of_run["settings"]["parallel"] == parallel
        assert of_run["generator"] == metadata["generator"]
        for name, array in arrays.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4 * abs(array).max() + 1e-9)
        for here, there in zip(run.metrics(out), run.metrics(one), strict=True):
            assert here["kind"] == there["kind"]
            assert here.get("loss", 0) == pytest.approx(there.get("loss", 0), rel=1e-4)


def test_rates_grow_with_the_batch():
    """As in the configurations of 2014: 512 images on four ranks, 128 in the fully connected layers."""
    recipe = recipe_of("paper", batch=512, rate_by="k")

    def rank(comm, recipe):
        net = ALEXNET.build(comm, np.random.default_rng(0), parallel="hybrid:variable")
        smaller = recipe.growth(recipe.batch / comm.size) / recipe.growth(recipe.batch)
        schedule = Schedule(recipe, dict.fromkeys(updated_in_turn(net), smaller))
        optimizer = SGD(net, recipe.rate)
        schedule.begin_epoch(0, optimizer)
        return [optimizer.rate_of(name) for name in ("conv1.w", "fc6.w", "fc8.b")]

    devices = parse("cpu:0,cpu:1,cpu:2,cpu:3")
    assert launch(lambda comm: rank(comm, recipe), devices)[0] == pytest.approx([0.04, 0.01, 0.01])
    root = recipe._replace(rate_by="sqrt-k")
    assert launch(lambda comm: rank(comm, root), devices)[0] == pytest.approx([0.02, 0.01, 0.01])
    assert recipe._replace(rate_by=None).growth(512) == 1
    with pytest.raises(ArgumentError, match="rate_by: expected k or sqrt-k, found 'log'"):
        recipe_of("paper", rate_by="log")


def test_a_run_keeps_its_layout(tmp_path):
    out = begun(tmp_path / "run", "cpu:0,cpu:1", "hybrid:variable")
    made = run.settings_of(out)
    assert (made.parallel, made.ranks) == ("hybrid:variable", 2)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ArgumentError, match="was begun with hybrid:variable, found data: a run keeps"):
        runs.reopen(out, parallel="data")
    with pytest.raises(ArgumentError, match="the run was begun on 2, found 4"):
        launch(run.job(out, made, test_run.DATA), parse("cpu:0,cpu:1,cpu:2,cpu:3"))
    with pytest.raises(ArgumentError, match="batch: 6 images cannot be shared evenly by 4 ranks"):
        begun(tmp_path / "other", "cpu:0,cpu:1,cpu:2,cpu:3", "data", batch=6)
    assert not (tmp_path / "other").exists()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with pytest.raises(DataError, match="parallel: expected one of model, data"):
        run.Settings.from_json(made.to_json() | {"parallel": "pipeline"})
