"""Ranks and collectives: what they return, what they count, and how they fail.

All run on NumPy, on the stand-in for CuPy and on GPUs.
"""

import _thread
import re
import threading
import time

import backends
import nccl_standin
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tinyalex.comm import Comm, launch
from tinyalex.devices import Device, parse
from tinyalex.errors import ArgumentError, DeviceError
from tinyalex.parallel import Background

pytestmark = pytest.mark.usefixtures("backend")
SIZES = pytest.mark.parametrize("size", [1, 2, 3])
MANY = pytest.mark.parametrize("size", [2, 3])
SHAPE = (6, 12, 3)


def on(size, fn):
    """Run fn on so many ranks, and be sure that no thread is left."""
    before = threading.active_count()
    try:
        return launch(lambda comm: fn(OnHost(comm)), parse(backends.names(size)))
    finally:
        late = time.monotonic() + 2
        while threading.active_count() > before and time.monotonic() < late:
            time.sleep(0.001)  # a pool's thread ends soon after the pool is let go
        assert threading.active_count() == before


class OnHost:
    """A communicator whose collectives are given arrays of NumPy's, and give such."""

    def __init__(self, comm):
        self.comm = comm

    def __getattr__(self, name):
        value = getattr(self.comm, name)
        if name not in ("all_gather", "reduce_scatter", "all_reduce", "broadcast"):
            return (lambda *args: OnHost(value(*args))) if name in ("alone", "split") else value
        return lambda x, *args, **kwargs: backends.get(value(backends.put(x), *args, **kwargs))


def drawn(rank, dtype=np.float64, shape=SHAPE):
    """The array of one rank: sums of such depend on their order in the last bits."""
    rng = np.random.default_rng([17, rank])
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)


def total(size, dtype=np.float64):
    """The sum in the order of the ranks."""
    out = drawn(0, dtype)
    for rank in range(1, size):
        out = out + drawn(rank, dtype)
    return out


def same(a, b):
    return (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


# ---- what they return ----------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_all_gather_joins_in_the_order_of_the_ranks(size, axis, dtype):
    expected = np.concatenate([drawn(r, dtype) for r in range(size)], axis)
    for y in on(size, lambda comm: comm.all_gather(drawn(comm.rank, dtype), axis)):
        assert same(y, expected)


@SIZES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_reduce_scatter_sums_and_cuts(size, axis, dtype):
    shape = (6, 12, 6)
    found = on(size, lambda comm: comm.reduce_scatter(drawn(comm.rank, dtype, shape), axis))
    expected = drawn(0, dtype, shape)
    for rank in range(1, size):
        expected = expected + drawn(rank, dtype, shape)
    for y, part in zip(found, np.split(expected, size, axis), strict=True):
        assert same(y, part)


@SIZES
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_reduce_gives_every_rank_the_same_bits(size, dtype):
    for y in on(size, lambda comm: comm.all_reduce(drawn(comm.rank, dtype))):
        assert same(y, total(size, dtype))


@SIZES
@pytest.mark.parametrize("shape", [(), (1,), (2,), (5, 1), (0,), (100_003,)])
def test_all_reduce_takes_any_size(size, shape):
    """Also fewer numbers than ranks, and numbers that do not divide evenly."""
    for y in on(size, lambda comm: comm.all_reduce(np.full(shape, 1.0 + comm.rank))):
        assert same(np.asarray(y), np.full(shape, size * (size + 1) / 2))


@SIZES
def test_broadcast_gives_the_roots_array(size):
    for root in range(size):
        found = on(size, lambda comm, root=root: comm.broadcast(drawn(comm.rank), root))
        assert all(same(y, drawn(root)) for y in found)
        assert len({id(y) for y in found}) == size  # each has its own


@SIZES
def test_share_gives_rank_0s_object(size):
    found = on(size, lambda comm: comm.share({"rate": [0.1]} if comm.rank == 0 else None))
    assert found == [{"rate": [0.1]}] * size


@MANY
def test_views_and_arguments_untouched(size):
    def rank(comm):
        x = np.asfortranarray(drawn(comm.rank))
        x.flags.writeable = False
        y = np.repeat(drawn(comm.rank), 2, axis=1)[:, ::2]
        return (
            same(np.ascontiguousarray(comm.all_reduce(x)), total(size)),
            same(comm.all_reduce(y), total(size)),
            same(comm.reduce_scatter(x, 1), np.ascontiguousarray(total(size)[:, comm.part(12)])),
            same(comm.all_gather(y, -1), np.concatenate([drawn(r) for r in range(size)], -1)),
            same(x, drawn(comm.rank)),
        )

    assert on(size, rank) == [(True,) * 5] * size


@MANY
def test_an_array_may_be_changed_as_soon_as_the_call_returns(size):
    """Everybody overwrites argument and result at once, out of step."""
    ranks = np.arange(size)
    meetings = [
        (lambda comm, x: comm.all_reduce(x), lambda value: (value + ranks).sum()),
        (lambda comm, x: comm.reduce_scatter(x, 1), lambda value: (value + ranks).sum()),
        (lambda comm, x: comm.all_gather(x)[:: len(x), 0], lambda value: backends.put(value + ranks)),
        (lambda comm, x: comm.broadcast(x, size - 1).copy(), lambda value: value + size - 1),
    ]

    def rank(host):
        comm = host.comm
        x = backends.put(np.empty((50, 400 * size)))  # long enough to be caught reading
        wrong = 0
        for value in range(200):
            if (value // 4 + comm.rank) % 7 == 0:
                time.sleep(1e-4)
            meet, expected = meetings[value % 4]
            x[...] = value + comm.rank
            y = meet(comm, x)
            x.fill(np.nan)
            wrong += not (y == expected(value)).all()
            y[...] = np.nan
        return wrong

    assert on(size, rank) == [0] * size


@SIZES
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_all_gather_and_reduce_scatter_are_adjoint(size, axis):
    """<gather(x), y> summed over the ranks = <x, reduce_scatter(y)> summed over the ranks."""
    whole = list(SHAPE)
    whole[axis] *= size

    def rank(comm):
        x, y = drawn(comm.rank), drawn(10 + comm.rank, shape=whole)
        return np.vdot(comm.all_gather(x, axis), y), np.vdot(x, comm.reduce_scatter(y, axis))

    left, right = np.sum(on(size, rank), axis=0)
    np.testing.assert_allclose(left, right, rtol=1e-12)


def test_a_rank_alone_may_be_given_its_device_by_name():
    assert Comm("cpu:0").device.name == "cpu:0"
    with pytest.raises(DeviceError, match="device 'gpu:0': expected"):
        Comm("gpu:0")


def test_launch_returns_what_each_rank_returned():
    names = backends.names(3).split(",")
    expected = [(rank, 3, name) for rank, name in enumerate(names)]
    assert on(3, lambda comm: (comm.rank, comm.size, comm.device.name)) == expected
    devices = [Device(name) for name in names[:0:-1]]  # a rank is a place, not the device's number
    assert launch(lambda comm: comm.device, devices) == devices


def test_launch_reads_the_grammar_of_devices(monkeypatch):
    """As a text: names, or as many cores as can share the work."""
    monkeypatch.setattr("tinyalex.devices.cpu_count", lambda: 3)

    def rank(comm):
        return comm.all_gather(np.full(1, comm.rank)).tolist(), comm.device.name

    assert launch(rank, "cpu:1, cpu:0") == [([0, 1], "cpu:1"), ([0, 1], "cpu:0")]
    assert launch(rank, "cpu") == [([0, 1, 2], f"cpu:{k}") for k in range(3)]
    assert launch(rank, "cpu", 128) == [([0, 1], f"cpu:{k}") for k in range(2)]
    assert launch(rank, "cpu", 1) == [([0], "cpu:0")]


# ---- the ledger ----------------------------------------------------------------------------------------


@SIZES
def test_ledger_counts_the_bytes_that_came_from_others(size):
    def rank(comm):
        x = drawn(comm.rank, np.float32)  # 216 numbers
        comm.all_gather(x)
        comm.all_gather(x, 2)
        comm.reduce_scatter(x, 1)
        comm.all_reduce(x)
        comm.broadcast(x, root=1 % size)
        return comm.ledger, comm.calls

    nbytes = 4 * 216
    for number, (ledger, calls) in enumerate(on(size, rank)):
        if size == 1:
            assert not ledger
            continue
        root = number == 1
        assert ledger["", "all_gather"] == 2 * (size - 1) * nbytes
        assert ledger["", "reduce_scatter"] == (size - 1) * nbytes // size
        assert ledger["", "all_reduce"] == 2 * (size - 1) * nbytes // size
        assert ledger["", "broadcast"] == (0 if root else nbytes)
        assert calls["", "all_gather"] == 2
        assert calls["", "reduce_scatter"] == calls["", "all_reduce"] == 1
        assert calls["", "broadcast"] == 1


def test_all_reduce_receives_nearly_twice_its_array_however_it_is_cut():
    def rank(comm):
        comm.all_reduce(np.ones(100))
        return comm.ledger["", "all_reduce"]

    assert sum(on(3, rank)) == 2 * 2 * 800  # over all ranks: 2 (size − 1) arrays


@MANY
def test_what_was_shown_is_let_go(size):
    """Once the collective is over, the ranks hold no array for each other."""

    def rank(comm):
        for collective in (comm.all_gather, comm.reduce_scatter, comm.all_reduce, comm.broadcast):
            collective(drawn(comm.rank))
            comm._wait()
            assert comm._shared.slots == comm._shared.parts == [None] * size
            comm._wait()

    on(size, rank)


def test_on_behalf_of_labels_what_crosses():
    def rank(comm):
        with comm.on_behalf_of("conv1 forward"):
            comm.all_gather(np.ones(4))
            with comm.on_behalf_of("inner"):
                comm.all_gather(np.ones(2))
            comm.all_gather(np.ones(4))
        with pytest.raises(KeyError), comm.on_behalf_of("fails"):
            raise KeyError
        comm.all_reduce(np.ones(2))
        return dict(comm.ledger), dict(comm.calls)

    for ledger, calls in on(2, rank):
        first, inner, last = ("conv1 forward", "all_gather"), ("inner", "all_gather"), ("", "all_reduce")
        assert ledger == {first: 64, inner: 16, last: 16}
        assert calls == {first: 2, inner: 1, last: 1}


def test_alone_is_a_rank_by_itself():
    def rank(comm):
        alone = comm.alone()
        x = drawn(comm.rank)
        assert (alone.rank, alone.size, alone.device) == (0, 1, comm.device)
        assert alone.part(5) == slice(0, 5)
        assert same(alone.all_reduce(x), x)
        assert same(alone.reduce_scatter(alone.all_gather(x)), x)
        return not alone.ledger and not comm.ledger

    assert on(2, rank) == [True, True]


# ---- parts of the ranks --------------------------------------------------------------------------------


def test_split_makes_communicators_of_their_own():
    """Rows and columns of ranks: in each the sum in their order, under one ledger and its labels."""

    def rank(comm):
        row, column = comm.split("abc"[comm.rank // 2]), comm.split(comm.rank % 2)
        with comm.on_behalf_of("fc6"):
            in_row = row.all_reduce(drawn(comm.rank))
            with row.on_behalf_of("fc7"):
                in_column = column.all_gather(drawn(comm.rank)[:1])
        everywhere = comm.all_reduce(np.full(2, 1.0))
        shared = column.share({"rank": comm.rank} if column.rank == 0 else None)
        cut = column.reduce_scatter(np.arange(6.0))
        places = (row.rank, row.size, column.rank, column.size, column.device is comm.device)
        return (
            in_row,
            in_column,
            everywhere,
            shared,
            cut,
            places,
            dict(comm.ledger),
            row.ledger is comm.ledger,
        )

    for number, found in enumerate(on(6, rank)):
        in_row, in_column, everywhere, shared, cut, places, ledger, one_ledger = found
        first = number // 2 * 2
        assert same(in_row, drawn(first) + drawn(first + 1))
        assert same(in_column, np.concatenate([drawn(r)[:1] for r in range(number % 2, 6, 2)]))
        assert same(everywhere, np.full(2, 6.0))
        assert shared == {"rank": number % 2}
        assert same(cut, np.arange(6.0)[number // 2 * 2 :][:2] * 3)
        assert places == (number % 2, 2, number // 2, 3, True)
        assert one_ledger
        assert ledger["fc6", "all_reduce"] == 216 * 8
        assert ledger["fc7", "all_gather"] == 2 * 36 * 8
        assert ledger["", "reduce_scatter"] == 2 * 2 * 8


@SIZES
def test_split_into_one_and_into_all(size):
    def rank(comm):
        x = drawn(comm.rank)
        single, whole = comm.split(comm.rank), comm.split("all").split(None)
        assert (single.rank, single.size, whole.rank, whole.size) == (0, 1, comm.rank, size)
        assert same(single.all_reduce(x), x)
        assert single.share(x) is x
        return whole.all_reduce(x)

    for y in on(size, rank):
        assert same(y, total(size))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_rank_that_raises_stops_those_that_wait_in_a_part(depth):
    def rank(comm):
        part = comm.split(comm.rank < 3)
        if depth == 2 and comm.rank < 3:
            part = part.split(comm.rank < 2)
        if comm.rank == 3:
            time.sleep(0.05)
            raise ZeroDivisionError("outside of the part")
        while True:
            part.all_reduce(np.ones(3))
            if part.size == 1:
                comm.all_reduce(np.ones(3))

    start = time.perf_counter()
    with pytest.raises(ZeroDivisionError, match="outside of the part"):
        on(4, rank)
    assert time.perf_counter() - start < 5


# ---- failing -------------------------------------------------------------------------------------------


def test_part_cuts_evenly_or_not_at_all():
    assert on(3, lambda comm: comm.part(12)) == [slice(0, 4), slice(4, 8), slice(8, 12)]
    assert on(3, lambda comm: comm.part(0)) == [slice(0, 0)] * 3
    with pytest.raises(ValueError, match="7 cannot be shared evenly by 3 ranks"):
        on(3, lambda comm: comm.part(7))
    with pytest.raises(ValueError, match="6 cannot be shared evenly by 4 ranks"):
        on(4, lambda comm: comm.reduce_scatter(np.ones((4, 6)), axis=1))
    assert Comm(Device("cpu:0")).part(7) == slice(0, 7)


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("early", [True, False])
@MANY
def test_a_rank_that_raises_stops_the_others(size, early, error):
    """early: before the others come to the meeting; otherwise while they wait there."""
    raised = threading.Event()

    def rank(comm):
        comm.all_reduce(np.ones(3))
        if comm.rank == size - 1:
            if not early:
                time.sleep(0.1)
            raised.set()
            raise error
        if early:
            raised.wait(10)
        while True:
            comm.all_reduce(np.ones(3))

    start = time.perf_counter()
    with pytest.raises(type(error)) as caught:
        on(size, rank)
    assert caught.value is error
    assert time.perf_counter() - start < 5
    assert (
        on(size, lambda comm: comm.all_reduce(1.0 * np.ones(1)).item()) == [size] * size
    )  # all is well again


def test_the_first_of_several_errors_is_raised():
    first = threading.Event()

    def rank(comm):
        if comm.rank == 1:
            first.set()
            raise KeyError("first")
        first.wait(10)
        time.sleep(0.05)
        raise ValueError("second")

    with pytest.raises(KeyError, match="first"):
        on(2, rank)


def test_one_rank_raises_too():
    with pytest.raises(ZeroDivisionError):
        on(1, lambda comm: 1 / 0)


@MANY
def test_an_interrupt_stops_all_ranks(size):
    def rank(comm):
        comm.all_reduce(np.ones(3))
        if comm.rank == 0:
            time.sleep(0.1)
            _thread.interrupt_main()
        while True:
            comm.all_reduce(np.ones(3))

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        launch(rank, parse(",".join(f"cpu:{k}" for k in range(size))))
    start = time.perf_counter()
    while threading.active_count() > before:  # until Python 3.13 an interrupted join may return too early
        assert time.perf_counter() - start < 5
        time.sleep(0.01)


def test_an_interrupt_while_the_ranks_are_started_leaves_none_behind(monkeypatch):
    before, start, comms = threading.active_count(), threading.Thread.start, []

    def start_but_the_last(thread):
        if thread.name == "cpu:2":
            raise KeyboardInterrupt
        start(thread)

    def rank(comm):
        comms.append(comm)
        comm.all_reduce(np.ones(3))

    monkeypatch.setattr(threading.Thread, "start", start_but_the_last)
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(rank, parse("cpu:0,cpu:1,cpu:2"))
        assert threading.active_count() == before
    finally:  # or the ranks wait for ever, and the interpreter for them
        for comm in comms:
            comm._shared.barrier.abort()
        while threading.active_count() > before:
            time.sleep(0.01)


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce"])
def test_arrays_that_differ_are_refused(collective):
    def shapes(comm):
        with comm.on_behalf_of("conv2 forward"):
            getattr(comm, collective)(np.ones((4, 2 * comm.size + 2 * comm.rank)))

    def dtypes(comm):
        getattr(comm, collective)(np.ones(4, np.float32 if comm.rank else np.float64))

    with pytest.raises(ValueError, match=r"conv2 forward.*differ.*\(4, 4\).*\(4, 6\)"):
        on(2, shapes)
    with pytest.raises(ValueError, match=r"collective.*differ.*float32.*float64"):
        on(2, dtypes)


@pytest.mark.parametrize("collective", ["all_gather", "reduce_scatter", "all_reduce", "broadcast"])
@pytest.mark.parametrize("wrong", [None, [1.0, 2.0], 3.0, "array"], ids=repr)
def test_what_is_no_array_is_refused(collective, wrong):
    def rank(comm):
        with comm.on_behalf_of("conv2 forward"):
            getattr(comm, collective)(wrong)

    says = f"^conv2 forward: expected an array, found {re.escape(repr(wrong))}$"
    with pytest.raises(ArgumentError, match=says):
        on(2, rank)
    assert on(2, lambda comm: comm.broadcast(np.ones(2) if comm.rank else None, root=1).sum()) == [2, 2]


def test_launch_wants_a_function_and_a_rank_its_device():
    with pytest.raises(ArgumentError, match=r"^launch: fn: expected a function, found 3"):
        launch(3, "cpu:0")
    for wrong in (None, 0, ["cpu:0"]):
        for call in (Comm, Device, lambda name: launch(print, [name])):
            with pytest.raises(DeviceError, match=rf"^device {re.escape(repr(wrong))}: expected 'cpu:K'"):
                call(wrong)


def test_launch_wants_different_devices_of_one_kind():
    class Cuda:
        name, kind = "cuda:0", "cuda"  # two ranks may share it: see test_cuda

    for devices, found in (
        ([], "none"),
        (parse("cpu:0,cpu:0"), "cpu:0, cpu:0"),
        (parse("cpu:1,cpu:0,cpu:1"), "cpu:1, cpu:0, cpu:1"),
        ([Device("cpu:0"), Cuda()], "cpu:0, cuda:0"),
    ):
        with pytest.raises(DeviceError, match=f"devices: .*found {found}"):
            launch(lambda comm: pytest.fail("was run"), devices)


# ---- one BLAS thread a rank ----------------------------------------------------------------------------


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_an_axis_that_an_array_has_not_is_refused():
    def rank(comm):
        for axis in (2, -3):
            with pytest.raises(IndexError):
                comm.all_gather(np.ones((2, 2)), axis)
            with pytest.raises(IndexError):
                comm.reduce_scatter(np.ones((2, 2)), axis)
        return comm.reduce_scatter(np.ones((2, 4)), -1).shape

    assert launch(rank, parse("cpu:0,cpu:1")) == [(2, 2)] * 2


@SIZES
def test_each_rank_has_one_blas_thread(size):
    cpus = parse(",".join(f"cpu:{k}" for k in range(size)))
    with threadpool_limits(2, "blas"):  # more than one, wherever the tests run
        assert set(blas_threads()) == {2}
        for inside in launch(lambda comm: blas_threads(), cpus):
            assert set(inside) == {1}
        assert set(blas_threads()) == {2}
        with pytest.raises(ZeroDivisionError):
            launch(lambda comm: 1 / 0, cpus)
        assert set(blas_threads()) == {2}


# ---- NCCL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3])
def test_nccl_gives_the_bits_and_the_ledger_of_copies(size, monkeypatch):
    """On the stand-in, whose GPUs differ; parts of the ranks, uneven parts and other streams too."""
    if backends.name != "standin":
        pytest.skip("wants as many GPUs as ranks")

    def rank(comm):
        with comm.comm.on_behalf_of("fc6"):
            x = drawn(comm.rank, shape=(6, 12, 6))
            results = [
                comm.all_reduce(x), comm.all_reduce(x[:1, :1, :5]), comm.all_gather(x, -1),
                comm.all_gather(x), comm.reduce_scatter(x, 1), comm.reduce_scatter(x),
                comm.broadcast(x, size - 1),
            ]  # fmt: skip
            part = comm.split(comm.rank == 0)
            results.append(part.all_reduce(x))
        later = Background(comm.comm.split(None)).start("all_reduce", backends.put(x), label="behind")
        return [*results, backends.get(later())], dict(comm.ledger), comm.share(comm.rank)

    copies = on(size, rank)
    monkeypatch.setattr(nccl_standin, "available", True)
    kinds = on(size, lambda comm: type(comm.comm).__name__)
    assert kinds == ["NcclComm"] * size
    for (found, ledger, shared), (expected, books, _) in zip(on(size, rank), copies, strict=True):
        assert all(same(a, b) for a, b in zip(found, expected, strict=True))
        assert (ledger, shared) == (books, 0)
    assert launch(lambda comm: type(comm).__name__, parse("cuda:0,cuda:0"))[0] == "ThreadComm"
