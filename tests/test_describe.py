"""What is predicted of a network is what a real run of it shows: shapes, memory, and bytes that cross."""

import io
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from rich.console import Console

from tinyalex import memory
from tinyalex.comm import launch
from tinyalex.devices import Device
from tinyalex.errors import DataError
from tinyalex.measure.describe import describe, parse_memory, print_description, tiles_bytes
from tinyalex.models import Network, figure1
from tinyalex.models.alexnet import PRESETS, AlexNet, alexnet, narrow
from tinyalex.nn import (
    LRN,
    Activate,
    AvgPool,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    Local2d,
    MaxPool,
    SameMapNorm,
    ZeroPad,
)
from tinyalex.ops import lrn, pool, strips, winograd
from tinyalex.ops.cuda import winograd as cuda_winograd
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward
from tinyalex.optim import SGD

BATCH = 3
OPTIONS = {name: narrow(n._replace(size=67, classes=10), 1 / 12) for name, n in PRESETS.items()}
SMALL = {name: alexnet(options) for name, options in OPTIONS.items()}
PAPER = alexnet()
RUNS = [(name, ranks) for name in PRESETS for ranks in (1, 2) if ranks == 1 or name in ("paper", "code2012")]


def on(ranks, job):
    return launch(job, [Device(f"cpu:{r}") for r in range(ranks)])


def a_batch(network, size=BATCH):
    rng = np.random.default_rng(1)
    pictures = rng.standard_normal((*network.input, size), np.float32)
    return pictures, rng.integers(0, *network.outputs, size)


def train(network, comm, batch=BATCH):
    """One step of real training; return the model."""
    model = network.build(comm, np.random.default_rng(0))
    optimizer = SGD(model, rate=0.001)
    pictures, labels = a_batch(network, batch)
    _, cache = softmax_loss_forward(model.forward(pictures, train=True), labels)
    model.backward(softmax_loss_backward(cache))
    optimizer.step()
    return model


# ---- shapes and kept arrays --------------------------------------------------------------------------


def kept_by(layer):
    """The arrays in a layer's cache that are not its parameters, by where their memory starts.

    Without those of a number a channel.
    """
    parts = layer.cache if isinstance(layer.cache, tuple) else (layer.cache,)
    weights = [id(p) for p in layer.params.values()]
    arrays = [a for a in parts if isinstance(a, np.ndarray) and id(a) not in weights and a.ndim > 1]
    return {a.__array_interface__["data"][0]: a.nbytes for a in arrays}


@pytest.mark.parametrize(("preset", "ranks"), RUNS)
def test_shapes_parameters_and_kept_bytes_are_those_of_a_real_step(preset, ranks):
    network = SMALL[preset]

    def job(comm):
        model = network.build(comm, np.random.default_rng(0))
        x, _ = a_batch(network)
        rows, seen = [], set()
        for name, layer in model.layers.items():
            x = layer.forward(x, train=True)
            kept = kept_by(layer)
            new = sum(nbytes for start, nbytes in kept.items() if start not in seen)
            seen |= kept.keys()
            rows.append((name, x.shape, sum(p.nbytes for p in layer.params.values()), new))
        return rows

    description = describe(network, ranks, BATCH)
    predicted = [(r.layer, r.output, r.parameter_bytes // 3, r.kept_bytes) for r in description.rows]
    for real in on(ranks, job):
        assert predicted == real


KINDS = [
    ZeroPad((1, 0, 2, 0)), Conv2d(6, 3, activation="relu"), Conv2d(6, 3), Activate("logistic"), LRN(3),
    SameMapNorm(3), BatchNorm(), AvgPool(3, 2, pad=1), MaxPool(3, 1), Local2d(5, 2, activation="tanh"),
    Local2d(4, 2), GlobalAvgPool(), Flatten(),
    Dropout(inverted=True), Linear(5, "tanh"), BatchNorm(),
]  # fmt: skip


@pytest.mark.parametrize("network", [figure1(), Network(KINDS, (3, 16, 17))], ids=["figure1", "kinds"])
def test_what_a_layer_is_said_to_keep_is_in_its_cache(network):
    """An average pooling, for one, needs no pixels."""
    x = np.random.default_rng(0).standard_normal((*network.input, BATCH), np.float32)
    net = network.build(rng=np.random.default_rng(0))
    for place in net.placed.values():
        y = place.layer.forward(x, train=True)
        said = [{"x": x.nbytes, "y": y.nbytes}.get(k) or k * x.size for k in place.layer.keeps]
        assert sorted(said) == sorted(kept_by(place.layer).values())
        assert not (said and isinstance(place.layer, (AvgPool, GlobalAvgPool)))
        assert np.shares_memory(x, y) == place.layer.is_view(1)
        assert (y.shape[:-1], place.layer.out(x.shape[:-1])) == (place.y, place.y)
        x = y


def test_statistics_are_memory_but_are_not_learned():
    row = describe(Network([BatchNorm()], (6, 5, 4))).rows[0]
    assert (row.parameters, row.parameter_bytes) == (2 * 6, 4 * (4 * 6 + 2 * 2 * 6))
    assert "12 parameters" in repr(Network([BatchNorm()], (6, 5, 4)).build())


@pytest.mark.parametrize("network", [AlexNet(pool=2), AlexNet(lrn=False, dropout=False), AlexNet(size=227)])
def test_shapes_of_other_networks_are_those_of_a_real_forward(network):
    network = alexnet(narrow(network._replace(hidden=16), 1 / 24))

    def job(comm):
        x, shapes = a_batch(network, 1)[0], []
        for layer in network.build(comm, np.random.default_rng(0)).layers.values():
            x = layer.forward(x)
            shapes.append(x.shape)
        return shapes

    assert [row.output for row in describe(network, 1, 1).rows] == on(1, job)[0]


# ---- memory ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
def test_counted_memory_is_what_is_alive_in_training(ranks, monkeypatch):
    """With buffers freed at once and small blocks, the peak of a step is within a tenth of the count."""
    monkeypatch.setattr(memory._HostPool, "empty", lambda self, shape, dtype: np.empty(shape, dtype))
    for module in (strips, lrn, pool):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1 << 14)
    for size in ("PRODUCTS_BYTES", "TRANSFORM_BYTES"):
        monkeypatch.setattr(winograd, size, 1 << 14)
    network = alexnet(narrow(AlexNet(hidden=128, classes=10), 1 / 4))
    tracemalloc.start()
    try:
        on(ranks, lambda comm: train(network, comm, batch=8))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak == pytest.approx(ranks * describe(network, ranks, 8).total.memory, rel=0.1)


@pytest.mark.parametrize("ranks", [1, 2])
def test_counted_tiles_are_those_of_a_real_step(ranks, monkeypatch):
    """On the CPU; all images of a row of tiles, or as many as there is room for."""
    network, real = alexnet(narrow(AlexNet(size=67, hidden=128, classes=10), 1 / 4)), winograd.empty
    for room in (winograd.PRODUCTS_BYTES, 1 << 16):
        monkeypatch.setattr(winograd, "PRODUCTS_BYTES", room)
        rooms = [0]

        def empty(xp, shape, dtype, rooms=rooms):
            made = real(xp, shape, dtype)
            rooms.append(made.nbytes if made.ndim == 1 else 0)
            return made

        monkeypatch.setattr(winograd, "empty", empty)
        on(ranks, lambda comm: train(network, comm, batch=8))
        assert tiles_bytes(describe(network, ranks, 8)) == (max(rooms), 0)
        assert max(rooms) > 1 << 15


@pytest.mark.parametrize("room", [cuda_winograd.SCRATCH_BYTES, 1 << 20, 1])
def test_counted_tiles_are_those_of_a_gpu(room, standin, monkeypatch):
    import cupy

    monkeypatch.setattr(cuda_winograd, "SCRATCH_BYTES", room)
    monkeypatch.setattr(cuda_winograd, "pays", lambda w, y, stride, groups: stride == 1)
    network, most = Network([Conv2d(6, 5, groups=2), Conv2d(4, 3, pad=1)], (4, 30, 19)), 0
    description = describe(network, 1, 8)
    for place in description.placed:
        x, y = (cupy.empty((*shape, 8), np.float32) for shape in (place.x, place.y))
        sides = [(x, y), (y, x)][: 1 + place.layer.need_dx]
        blocks = [next(cuda_winograd._blocks(*side, place.layer.kernel)) for side in sides]
        most = max([most, *(V.nbytes + M.nbytes for V, M, _ in blocks)])
    assert tiles_bytes(description)[1] == most


def test_three_gigabytes():
    """Counted as the docstring says, a card of 3 GiB holds a batch of 128; 256 need the paper's two cards."""
    card = parse_memory("3GiB")
    total = {(r, batch): describe(PAPER, r, batch).total for r in (1, 2) for batch in (128, 256)}
    assert total[1, 128].parameter_bytes == 12 * 60_965_224
    assert total[2, 128].parameter_bytes == 6 * 60_965_224
    assert total[1, 128].memory == 1_999_474_912 < card
    assert total[2, 128].memory == 1_067_239_536 < card
    assert total[1, 256].memory > card > total[2, 256].memory


def test_three_gigabytes_as_the_2012_code_allocated():
    """A card holds the half network, which was trained on one, and a tower; not a network without towers.

    The two towers of config 145 on one card leave 2% of 3 GB for the driver.
    """
    whole = PRESETS["code2012"]
    two = describe(alexnet(whole), 2, 128).total.bytes_2012
    one = describe(alexnet(whole), 1, 128).total.bytes_2012
    half = describe(alexnet(PRESETS["half"]), 1, 128).total.bytes_2012
    joined = describe(alexnet(whole._replace(towers=1)), 1, 128).total.bytes_2012
    assert two < half < 2e9
    assert 2.94e9 < one < 3e9
    assert joined > 3 * 2**30  # more than the card's own 3 GB

    # By hand: an image has 1,454,576 outputs, as many gradients, 663,648 brackets, 8,192 masks, two pictures.
    numbers = 2 * 1_454_576 + 663_648 + 8192 + 2 * 150_528
    sums = 605 * 34_848 + 243 * 307_200 + 13 * (884_736 // 2 + 663_552 + 442_368)
    weights = 2 * 60_965_224 + 2_334_080 + 4096 + 4096 + 1000
    assert one == 4 * (128 * numbers + weights + sums)


def test_kept_memory_grows_with_the_batch_and_parameters_do_not():
    one, ten = (describe(PAPER, 2, batch).total for batch in (1, 10))
    assert ten.kept_bytes == 10 * one.kept_bytes
    assert ten.received_forward == 10 * one.received_forward
    assert (ten.parameter_bytes, ten.multiply_adds) == (one.parameter_bytes, one.multiply_adds)


def test_describing_takes_no_memory():
    tracemalloc.start()
    try:
        describe(PAPER, 1, 128)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# ---- bytes that cross --------------------------------------------------------------------------------


def predicted_ledger(network, ranks, batch):
    ledger = Counter()
    for row in describe(network, ranks, batch).rows:
        if row.received_forward:
            ledger[f"{row.layer} forward", "all_gather"] = row.received_forward
        if row.received_backward:
            ledger[f"{row.layer} backward", "reduce_scatter"] = row.received_backward
    return ledger


@pytest.mark.parametrize(("preset", "ranks"), RUNS)
def test_bytes_that_cross_are_the_ledgers(preset, ranks):
    network = SMALL[preset]
    for ledger in on(ranks, lambda comm: train(network, comm).comm.ledger):
        assert ledger == predicted_ledger(network, ranks, BATCH)
        assert bool(ledger) == (ranks > 1)


def test_bytes_that_cross_in_the_full_network_are_the_ledgers():
    """The paper's network in full width, one image, forward and backward on two ranks."""

    def job(comm):
        model = PAPER.build(comm, np.random.default_rng(0))
        pictures, labels = a_batch(PAPER, 1)
        _, cache = softmax_loss_forward(model.forward(pictures, train=True), labels)
        model.backward(softmax_loss_backward(cache))
        return comm.ledger

    expected = {  # half of each layer's numbers, 4 bytes each, come from the other rank
        ("gather3 forward", "all_gather"): 4 * 128 * 13 * 13,
        ("gather6 forward", "all_gather"): 4 * 128 * 6 * 6,
        ("gather7 forward", "all_gather"): 4 * 2048,
        ("gather8 forward", "all_gather"): 4 * 2048,
        ("gather forward", "all_gather"): 4 * 500,
        ("gather8 backward", "reduce_scatter"): 4 * 2048,
        ("gather7 backward", "reduce_scatter"): 4 * 2048,
        ("gather6 backward", "reduce_scatter"): 4 * 128 * 6 * 6,
        ("gather3 backward", "reduce_scatter"): 4 * 128 * 13 * 13,
    }
    assert predicted_ledger(PAPER, 2, 1) == expected
    for ledger in on(2, job):
        assert ledger == expected


# ---- printing, and what cannot be described ----------------------------------------------------------


def printed(*args, width=80, **kwargs):
    console = Console(file=io.StringIO(), width=width)
    print_description(*args, console=console, **kwargs)
    return console.file.getvalue()


def test_printed_table_shows_every_layer_and_the_totals_in_80_columns():
    text = printed(describe(PAPER, 2, 128))
    for row in describe(PAPER, 2, 128).rows:
        assert f"\n{row.layer} " in text
    table = text[: text.index("\nDevices")]
    assert printed(describe(PAPER, 2, 128), width=40).startswith(table)  # no digit is cut
    (total,) = [line for line in text.splitlines() if line.startswith("total")]
    assert " ".join(total.split()) == "total 60,965,224 659,272 724,406,816 365.8 552.8 15.8 15.5"
    assert "…" not in text
    assert "1067.2 MB  in all" in text
    assert "fit" not in text


@pytest.mark.parametrize(
    ("ranks", "batch", "verdict"),
    [
        (1, 256, "this does not fit, what the 2012 code allocates does not fit"),
        (2, 256, "this fits, what the 2012 code allocates fits"),
        (1, 192, "this fits, what the 2012 code allocates does not fit"),
    ],
)
def test_printed_verdict(ranks, batch, verdict):
    text = printed(describe(PAPER, ranks, batch), memory=parse_memory("3GiB"))
    assert f"In 3221.2 MB (3.00 GiB) {verdict}." in text


def test_memory_strings():
    assert parse_memory("3GB") == 3 * 10**9
    assert parse_memory("3GiB") == 3 * 2**30
    assert parse_memory("1.5 GiB") == 3 * 2**29
    assert parse_memory("800MB") == 8 * 10**8
    assert parse_memory("800MiB") == 800 * 2**20


@pytest.mark.parametrize("text", ["", "3", "GB", "3gb", "-3GB", "3TB", "3,5GB", "three GB"])
def test_memory_strings_that_mean_nothing(text):
    with pytest.raises(DataError, match=r"--memory: expected a number and MB, MiB, GB or GiB.*found '"):
        parse_memory(text)


def test_what_cannot_be_described():
    with pytest.raises(ValueError, match="batch: expected at least 1 image, found 0"):
        describe(PAPER, 1, 0)
    with pytest.raises(ValueError, match="3 ranks cannot share 2 towers evenly"):
        describe(PAPER, 3, 1)
    with pytest.raises(ValueError, match="conv1: window of 11 is larger"):
        describe(Network(PAPER.layers, (3, 7, 7)), 1, 1)
