"""The GPU path: kernels against NumPy, what the host waits for, and what goes wrong on a GPU.

The stand-in runs the kernels' own source, one thread after the other.  So it cannot show a race between the
threads of one kernel (the kernels write each place from one thread, which is what the sources say), whether
loads are coalesced, how fast anything is, or the last bits of cuBLAS and of fused multiply-adds.
"""

import gc
import itertools
import re
import sys
from collections import Counter
from unittest import mock

import backends
import cuda_machine
import numpy as np
import pytest

from tinyalex.comm import Comm, launch
from tinyalex.devices import Device, parse
from tinyalex.errors import ArgumentError, DeviceError, DeviceMemoryError
from tinyalex.measure import traffic
from tinyalex.nn import LRN, AllGather, BatchNorm, Conv2d, Dropout, Linear, MaxPool, Sequential
from tinyalex.ops.activation import logistic, relu, tanh
from tinyalex.ops.conv import conv2d_backward, conv2d_forward
from tinyalex.ops.cuda import launch as cuda_launch
from tinyalex.ops.cuda import lrn as cuda_lrn
from tinyalex.ops.cuda import sums
from tinyalex.ops.cuda.launch import MOST, timed
from tinyalex.ops.dropout import dropout_backward, dropout_forward, dropout_mask
from tinyalex.ops.later.batch_norm import batch_norm_backward, batch_norm_forward
from tinyalex.ops.linear import linear_backward, linear_forward
from tinyalex.ops.lrn import lrn_backward, lrn_forward, same_map_norm_backward, same_map_norm_forward
from tinyalex.ops.pool import avg_pool_backward, avg_pool_forward, max_pool_backward, max_pool_forward
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward, topk_error
from tinyalex.optim import SGD
from tinyalex.train import train_step


@pytest.mark.parametrize("name", ["standin", "cupy"])
def test_backend_is_here(name):
    """One place that says what did not run."""
    if backends.MISSING[name]:
        pytest.skip(backends.MISSING[name])


# ---- kernels against NumPy -----------------------------------------------------------------------------
# Each check compares a family of kernels with NumPy's operations, on shapes that reach every branch.


def compare(forward, backward, *arrays):
    """The operation on the device gives NumPy's y and gradients, in float64 to 1e-12, in float32 to 1e-5."""
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        args = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]
        y, cache = forward(*args)
        there, cache_there = forward(*map(backends.put, args))
        dy = np.random.default_rng(5).standard_normal(y.shape).astype(dtype)
        expected, found = backward(dy, cache), backward(backends.put(dy), cache_there)
        if not isinstance(expected, tuple):
            expected, found = (expected,), (found,)
        for wanted, got in zip((y, *expected), (there, *found), strict=True):
            if wanted is None:
                assert got is None
                continue
            got = backends.get(got)
            assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * max(1, abs(wanted).max()))


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def check_conv():
    for stride, pad in ((1, (1, 0, 2, 1)), (2, 1), (3, (0, 2, 1, 0)), (4, 0)):
        for need_dx in (True, False):
            compare(
                lambda x, w, b, how=(stride, pad): conv2d_forward(x, w, b, *how, 2, relu),
                lambda dy, cache, need_dx=need_dx: conv2d_backward(dy, cache, need_dx),
                drawn(4, 11, 9, 3), drawn(6, 2, 3, 2), drawn(6),
            )  # fmt: skip


def check_neuron():
    """What a neuron does, not its name, says whether a kernel may do it."""
    neuron = logistic._replace(name="relu")
    compare(lambda x, w, b: conv2d_forward(x, w, b, activation=neuron), conv2d_backward,
            drawn(4, 5, 6, 3), drawn(2, 4, 3, 2), drawn(2))  # fmt: skip
    compare(lambda x, w, b: linear_forward(x, w, b, neuron), linear_backward,
            drawn(4, 3), drawn(2, 4), drawn(2))  # fmt: skip


def check_activations():
    for neuron in (relu, logistic, tanh(), tanh(1.7159, 2 / 3)):
        compare(neuron.forward, neuron.backward, drawn(5, 7))
        compare(neuron.forward, neuron.backward, drawn(6, 8))
        for x, out in ((drawn(6, 8), None), (drawn(6, 8), drawn(8, 6).T)):  # onto itself; not contiguous
            there = backends.put(x)
            found, _ = neuron.forward(there, out=there if out is None else backends.put(out))
            np.testing.assert_allclose(backends.get(found), neuron.forward(x)[0], rtol=1e-12)


def check_topk():
    scores, labels = np.round(2 * drawn(300, 7)), np.arange(7) * 40
    scores[80, 2], scores[:, 3] = np.nan, 1.0
    for k in (1, 5, 300):
        found = topk_error(backends.put(scores), backends.put(labels), k)
        np.testing.assert_allclose(backends.get(found), topk_error(scores, labels, k), rtol=1e-15)


def check_pool():
    for z, s, pad, images in ((3, 2, 0, 3), (3, 2, (1, 0, 2, 1), 8), (2, 3, 1, 4), (4, 1, 0, 5)):
        maps = -np.random.default_rng(1).integers(1, 4, (2, 9, 8, images)).astype(float)  # with ties, no 0
        compare(lambda x, how=(z, s, pad): max_pool_forward(x, *how), max_pool_backward, maps)
        compare(lambda x, how=(z, s, pad): avg_pool_forward(x, *how), avg_pool_backward, maps)


def check_lrn():
    for n, beta, images in ((5, 0.75, 8), (4, 0.5, 5), (9, 1.0, 4), (1, 0.75, 3)):
        for least in (3, 32):  # channels of a thread: of some of the seven, and of all
            with mock.patch.object(cuda_lrn, "LEAST_WALK", least):
                compare(
                    lambda x, n=n, b=beta: lrn_forward(x, n, 2.0, 1.0, b, groups=2), lrn_backward,
                    drawn(14, 3, 2, images),
                )  # fmt: skip
        compare(
            lambda x, n=n, b=beta: same_map_norm_forward(x, n, 1.0, 9.0, b), same_map_norm_backward,
            drawn(2, 6, 5, images),
        )  # fmt: skip


def check_batch_norm():
    """Channels of one chunk and of more, one number a thread and several; statistics given and not."""
    for shape in ((3, 29, 28, 8), (2, 31, 11, 7), (4, 2048), (5, 2049), (6, 3)):
        rows = [drawn(shape[0], seed=seed) for seed in (1, 2, 3)]
        rows.append(drawn(shape[0], seed=4) ** 2)
        for arrays in (rows[:2], rows):
            compare(
                lambda *args: batch_norm_forward(*args, eps=0.1),
                batch_norm_backward,
                3 + drawn(*shape),
                *arrays,
            )


def check_softmax():
    for classes, images in ((7, 5), (300, 33)):  # fewer than threads of an image, and more
        labels = np.random.default_rng(2).integers(0, classes, images)
        logits = 3 * drawn(classes, images)
        logits[-1, 0] = 100  # whose exp is no float32
        compare(
            lambda z, labels: softmax_loss_forward(z, labels, 11),
            lambda dy, cache: softmax_loss_backward(cache),
            logits, labels,
        )  # fmt: skip


def check_dropout():
    for shape, first, keep in (
        ((40, 7), 0, 0.5),
        ((3, 5, 7), 15, 0.8),
        ((1,), 1007, 0.5),
        ((64, 8), 64 * 8, 1.0),
    ):
        masks = [
            backends.get(dropout_mask(np.random.default_rng(3), shape, keep, xp, first))
            for xp in (np, backends.device().xp)
        ]
        assert masks[1].dtype == bool
        assert (masks[0] == masks[1]).all()
    mask = masks[0]
    compare(lambda x, m: dropout_forward(x, m, 0.3, inverted=True), dropout_backward, drawn(64, 8), mask)


def check_sgd():
    for dtype, decay in itertools.product((np.float32, np.float64), (0.0, 0.05)):
        runs = []
        for device in (Device("cpu:0"), backends.device()):
            rng = np.random.default_rng(4)
            net = Sequential([Linear(71, std=1.0, name="fc")], (73,), Comm(device), rng, dtype)
            optimizer = SGD(net, 0.1, momentum=0.9, decay=decay, bias_rate=0.3)
            for _ in range(3):
                for _, layer, key in net.parameters():
                    layer.grads[key] = device.put(rng.standard_normal(layer.params[key].shape).astype(dtype))
                optimizer.step()
            runs.append([device.get(layer.params[key]) for _, layer, key in net.parameters()])
        for found, expected in zip(*runs, strict=True):
            np.testing.assert_array_equal(found, expected)


def towers(comm, dtype=np.float64):
    """Two towers that meet, with every kind of layer that a GPU has a kernel for."""
    layers = [
        Conv2d(8, 3, stride=2, activation="relu", std=0.3, name="conv1"),
        LRN(alpha=1.0, groups=2, name="lrn1"),
        MaxPool(3, 2, name="pool1"),
        Conv2d(12, 3, pad=1, groups=2, activation="relu", std=0.3, name="conv2"),
        BatchNorm(name="bn2"),
        AllGather(name="gather3"),
        Linear(10, activation="relu", std=0.3, name="fc3"),
        Dropout(0.5, name="drop3"),
        AllGather(name="gather4"),
        Linear(6, std=0.3, name="fc4"),
        AllGather(replicated=True, name="gather"),
    ]
    return Sequential(layers, (3, 17, 17), comm, np.random.default_rng(6), dtype)


def trained(names, steps=3):
    """Train the towers; return each rank's results and weights, and what the ledger counted."""

    def rank(comm):
        net = towers(comm)
        optimizer = SGD(net, 0.05, 0.9, 5e-4)
        put = comm.device.put
        x, labels = put(drawn(3, 17, 17, 4)), put(np.array([0, 3, 5, 2]))
        results = [train_step(net, optimizer, x, labels, step) for step in range(steps)]
        if comm.device.kind == "cuda":
            arrays = [layer.params["w"] for _, layer, key in net.parameters() if key == "w"]
            assert {a.device.id for a in (*arrays, *optimizer.velocity.values())} == {comm.device.index}
        whole = [comm.device.get(comm.all_gather(layer.params[key])) for _, layer, key in net.parameters()]
        return results, whole, dict(comm.ledger)

    return launch(rank, parse(names))


def check_towers():
    [(losses, weights, _)] = trained("cpu:0")
    ledger = trained("cpu:0,cpu:1")[0][2]
    for names in ("cuda:0", "cuda:0,cuda:1", "cuda:1,cuda:2", "cuda:0,cuda:0"):
        if int(names[-1]) >= backends.count():
            continue
        for found_losses, found, found_ledger in trained(names):
            np.testing.assert_allclose(found_losses, losses, rtol=1e-10)
            for w, expected in zip(found, weights, strict=True):
                np.testing.assert_allclose(w, expected, rtol=0, atol=1e-10 * abs(expected).max())
            assert found_ledger == ({} if names == "cuda:0" else ledger)


def check_exchange(names=None):
    """Whoever shows an array writes to it right after the collective, and so does who was given one."""
    devices = parse(names or backends.names(3))
    size = len(devices)

    def rank(comm):
        x = comm.device.put(np.full((6, 5), 1.0 + comm.rank))
        found = []
        for collective in ("all_gather", "reduce_scatter", "all_reduce", "broadcast"):
            y = getattr(comm, collective)(x)
            found.append(y.mean())
            y.fill(0)
            x.fill(1 + comm.rank)  # to the root of the broadcast, x is y
        return [float(mean) for mean in found]  # the host waits only here: the events alone must do

    total = size * (size + 1) / 2
    assert launch(rank, devices) == [[total / size, total, total, 1]] * size


def check_exchange_on_one_card():
    check_exchange("cuda:0,cuda:0")


CHECKS = [
    check_conv, check_neuron, check_activations, check_topk, check_pool, check_lrn, check_batch_norm,
    check_softmax, check_dropout, check_sgd, check_exchange, check_exchange_on_one_card, check_towers,
]  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.__name__)
def test_the_same_numbers_as_numpy(check, gpu):
    check()


# ---- what the host waits for ---------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_waits_for_the_device_once(ranks, standin):
    """Where the loss is read: in data-parallel steps too, and nothing else crosses to the host."""
    steps = []

    def rank(comm):
        net = towers(comm, np.float32)
        optimizer = SGD(net, 0.05)
        x, labels = comm.device.put(drawn(3, 17, 17, 4).astype("f4")), comm.device.put(np.array([0, 3, 5, 2]))
        for _ in range(3):
            before = cuda_machine.waits[comm.device.index], cuda_machine.transfers["to host"]
            train_step(net, optimizer, x, labels)
            comm.share(None)  # the other rank has counted its own
            after = cuda_machine.waits[comm.device.index], cuda_machine.transfers["to host"]
            steps.append((after[0] - before[0], (after[1] - before[1]) / ranks))
            comm.share(None)

    launch(rank, parse(backends.names(ranks)))
    assert len(steps) == 3 * ranks
    assert {waits for waits, _ in steps} == {1}
    assert min(nbytes for _, nbytes in steps) <= 16  # the loss and the error


def test_the_bytes_of_the_forecast_are_those_of_the_launches(standin):
    """What `traffic` counts from shapes is what the launches of a step count."""
    net = towers(Comm(Device("cuda:0")), np.float32)
    x, labels = backends.put(drawn(3, 17, 17, 4).astype("f4")), backends.put(np.array([0, 3, 5, 2]))
    moved = Counter()
    with timed() as events:
        train_step(net, SGD(net, 0.05), x, labels)
    for one in events:
        moved[one.kernel] += one.bytes
    assert moved.pop("matmul") == 0

    parameters = sum(layer.params[key].size for _, layer, key in net.learned())
    launches, expected = [*traffic.of_loss(6, 4), traffic.of_update(parameters)], Counter()
    for place in net.placed.values():
        launches += traffic.of_layer(place, x.shape[-1])
    for found in launches:
        expected[found.kernel] += found.bytes
    assert moved == expected


@pytest.mark.parametrize(("names", "way"), [("cuda:0,cuda:1", "peer"), ("cuda:1,cuda:2", "staged")])
def test_pairs_that_cannot_read_each_other_go_through_the_host(names, way, standin):
    """Which is the driver's work: the stand-in only tells the pairs apart."""
    before = cuda_machine.transfers.copy()
    trained(names, steps=1)
    crossed = {kind: cuda_machine.transfers[kind] - before[kind] for kind in ("peer", "staged")}
    assert crossed.pop(way) > 0
    assert not any(crossed.values())


def test_gpu_memory_is_given_back(standin):
    import cupy

    gc.collect()  # of other tests, whose errors hold on to arrays
    trained("cuda:0,cuda:1", steps=2)
    free, total = cupy.cuda.runtime.memGetInfo()
    assert total - free < 1e6


# ---- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [6, -1, 2**40])
def test_a_label_that_is_no_class_makes_the_loss_nan(label, gpu):
    """Its value is not looked at, for that would stop the device; the loss is, in every step."""
    logits, labels = backends.put(drawn(6, 3)), backends.put(np.array([0, label, 5]))
    assert np.isnan(float(softmax_loss_forward(logits, labels)[0]))


def test_a_grid_that_no_card_launches_is_refused(standin):
    """By the stand-in as by a card, and by `launch`, in words; along x a card takes 2³¹ − 1 blocks."""
    x = backends.put(np.zeros((MOST + 1, 1, 1, 1)))
    kernel = cuda_launch._function(sys.modules["cupy"], 0, "softmax.softmax_backward", np.float64, ())
    with pytest.raises(ValueError, match="softmax_backward: CUDA_ERROR_INVALID_VALUE for grid"):
        kernel((1, MOST + 1, 1), (32,), [x, backends.put(np.zeros(1, np.int64)), x, np.int32(1), 1.0])
    wanted = "pool.max_pool_forward: expected at most 65,535 maps, rows or groups, found 65,536"
    with pytest.raises(ArgumentError, match=wanted):
        max_pool_forward(x, 1, 1)


def test_more_rows_and_images_than_a_grids_side(standin, monkeypatch):
    """One class for each of 65,537 images, and as many rows: the last is counted too."""
    N = MOST + 2
    scores, labels = np.zeros((1, N), np.float32), np.zeros(N, np.int64)
    scores[0, -1] = np.nan
    monkeypatch.setattr(sums, "TEAM", 1)
    monkeypatch.setattr(sums, "WARP", 1)
    found = backends.get(topk_error(backends.put(scores), backends.put(labels)))
    assert (found[:-1].any(), found[-1]) == (False, 1)
    rows = np.arange(N, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(
        backends.get(sums.sum_rows(backends.put(rows), backends.put(rows[:, 0] * 0))), rows[:, 0]
    )


def test_a_gpu_that_is_not_there(standin):
    with pytest.raises(DeviceError, match=r"device cuda:3: this machine has 3 GPUs \(cuda:0 … cuda:2\)"):
        parse("cuda:0,cuda:3")


def test_one_gpu_where_two_are_asked(standin, monkeypatch):
    monkeypatch.setattr(cuda_machine.machine, "devices", 1)
    with pytest.raises(DeviceError, match=r"device cuda:1: this machine has 1 GPU \(cuda:0\)"):
        parse("cuda:0,cuda:1")
    monkeypatch.setattr(cuda_machine.machine, "devices", 0)
    with pytest.raises(DeviceError, match=r"device cuda:0: this machine has no GPU"):
        parse("cuda:0")


def test_no_driver(standin, monkeypatch):
    import cupy

    def no_driver():
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is …")

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", no_driver)
    with pytest.raises(DeviceError, match=r"device cuda:0: .*InsufficientDriver.*tinyalex doctor"):
        parse("cuda:0")


def test_no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(DeviceError, match=r"cuda:0: CuPy is not installed.*pip install 'tinyalex\[cuda12\]'"):
        parse("cuda:0")


def test_a_full_gpu_says_what_was_asked_and_what_is_free(standin, monkeypatch):
    monkeypatch.setattr(cuda_machine.machine, "memory", 10**6)

    def rank(comm):
        kept = comm.device.put(np.zeros(50_000))
        return kept, conv2d_forward(*map(comm.device.put, (drawn(4, 60, 60, 8), drawn(8, 4, 3, 3), drawn(8))))

    with pytest.raises(DeviceMemoryError) as caught:
        launch(rank, parse("cuda:1"))
    assert re.search(r"^cuda:1: .* [0-9,]+ bytes .*; [0-9.]+ of 0.00 GB are free$", str(caught.value))
    assert caught.value.available <= 10**6


@pytest.mark.parametrize(
    ("free", "text", "is_full"),
    [
        (2**32, "CUBLAS_STATUS_ALLOC_FAILED", True),
        (2**32, "CUDA_ERROR_OUT_OF_MEMORY: out of memory", True),
        (2**32, "cudaErrorMemoryAllocation: out of memory", True),
        (2**20, "CUBLAS_STATUS_NOT_INITIALIZED", True),
        (2**32, "CUBLAS_STATUS_NOT_INITIALIZED", False),  # not for want of memory
        (2**20, "cudaErrorIllegalAddress: an illegal memory access was encountered", False),
    ],
)
def test_memory_that_cublas_and_the_driver_want(free, text, is_full, standin, monkeypatch):
    """As CuPy words their errors, which are not its OutOfMemoryError."""
    import cupy

    monkeypatch.setattr(cuda_machine.machine, "memory", free)

    def rank(comm):
        raise cupy.cuda.runtime.CUDARuntimeError(text)

    with pytest.raises(RuntimeError) as caught:
        launch(rank, "cuda:0")
    assert isinstance(caught.value, DeviceMemoryError) is is_full
    assert text in str(caught.value)


def test_an_error_on_the_host_s_side_is_no_full_gpu(standin):
    def rank(comm):
        raise MemoryError("the host's")

    with pytest.raises(MemoryError, match="the host's"):
        launch(rank, "cuda:0")


@pytest.mark.parametrize("names", ["cuda:0", "cuda:0,cuda:0"])
def test_an_error_leaves_no_work_behind(names, standin):
    """Else memory that a stream still works on could be given to a later one."""
    import cupy

    cupy.cuda.Stream.null()
    before = list(cuda_machine.streams[0])

    def rank(comm):
        comm.device.put(drawn(5, 5)).fill(1)
        raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        launch(rank, names)
    assert cuda_machine.streams[0] == before  # the others were left when all of their work was done


def test_as_many_gpus_as_can_share_the_work(standin, monkeypatch):
    assert [d.name for d in parse("cuda")] == ["cuda:0", "cuda:1", "cuda:2"]
    assert [d.name for d in parse("cuda", 2)] == ["cuda:0", "cuda:1"]
    assert launch(lambda comm: comm.device.name, "cuda", 2) == ["cuda:0", "cuda:1"]
    monkeypatch.setattr(cuda_machine.machine, "devices", 0)
    with pytest.raises(DeviceError, match=r"device cuda:0: this machine has no GPU"):
        parse("cuda")


def test_arrays_on_another_device_are_refused(standin):
    import cupy

    with cupy.cuda.Device(1):
        x = cupy.asarray(drawn(2, 5, 5, 3))
    with pytest.raises(
        DeviceError, match="max_pool_forward: expected arrays on cuda:0, found some on cuda:1"
    ):
        max_pool_forward(x, 3, 2)
    with pytest.raises(TypeError, match=r"all of one kind, found.*cupy.*numpy"):
        conv2d_forward(cupy.asarray(drawn(2, 5, 5, 3)), drawn(2, 2, 3, 3), drawn(2))
