"""Devices: their names, the checks on arrays, and the host's memory pool, which must never lie."""

import gc
import os
import subprocess
import sys
import threading
import weakref
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinyalex
from tinyalex import devices, memory
from tinyalex.devices import Device, cpu_count, parse, read, sharing
from tinyalex.errors import ArgumentError, DeviceError, TinyalexError
from tinyalex.memory import SPARE, empty, zeros
from tinyalex.ops.checks import same_dtype, xp_of

# ---- names ---------------------------------------------------------------------------------------------


def test_parse_reads_names_in_their_order():
    found = parse("cpu:1, cpu:0,cpu:12")
    assert [(d.name, d.kind, d.index, d.xp) for d in found] == [
        ("cpu:1", "cpu", 1, np),
        ("cpu:0", "cpu", 0, np),
        ("cpu:12", "cpu", 12, np),
    ]
    assert repr(found[0]) == "Device('cpu:1')"


def test_cpu_alone_is_a_worker_on_every_core():
    assert [d.name for d in parse("cpu")] == [f"cpu:{k}" for k in range(cpu_count())]
    assert cpu_count() >= 1


@pytest.mark.parametrize(
    ("cores", "parts", "ranks"),
    [(8, None, 8), (8, 128, 8), (3, 128, 2), (7, 30, 6), (8, 2, 2), (8, 1, 1), (1, 2, 1), (8, 7, 7)],
)
def test_cpu_is_as_many_cores_as_can_share_the_work_evenly(cores, parts, ranks, monkeypatch):
    monkeypatch.setattr(devices, "cpu_count", lambda: cores)
    assert [d.name for d in parse("cpu", parts)] == [f"cpu:{k}" for k in range(ranks)]


def test_processes_are_not_ranks_of_this_one():
    assert read("mpi") == ("mpi", ["cpu"])
    assert read("mpi:cuda") == ("mpi", ["cuda"])
    assert read("cpu:3,cpu:1") == ("threads", ["cpu:3", "cpu:1"])
    assert read("cuda:0, cuda:0") == ("threads", ["cuda:0", "cuda:0"])  # whether or not the machine has it
    for text in ("mpi", "mpi:cuda"):
        with pytest.raises(DeviceError, match=f"devices '{text}': expected ranks of one process, such as"):
            parse(text)


def test_ranks_that_share_a_device_are_named():
    assert sharing(["cuda:0", "cuda:1"]) == ""
    assert sharing(["cuda:0", "cuda:1", "cuda:0"]) == " (2 ranks on cuda:0)"


@pytest.mark.parametrize(
    "name",
    ["", "gpu:0", "cpu:", "cpu:x", "cpu:-1", "CPU:0", "cpu:0;cpu:1", "cuda:", "cpu:0,", "cpu,cpu:1", None, 0],
)
def test_a_bad_name_is_told_what_is_expected(name):
    with pytest.raises(DeviceError, match="expected 'cpu:K' or 'cuda:K'"):
        parse(name)


def test_cuda_without_cupy_says_what_to_install():
    try:
        import cupy  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("CuPy is installed")
    with pytest.raises(
        DeviceError, match=r"device cuda:3: CuPy is not installed.*pip install.*tinyalex\[cuda12\]"
    ):
        parse("cuda:3")
    assert issubclass(DeviceError, TinyalexError)


def test_the_host_is_its_own_device():
    device = Device("cpu:0")
    x = np.ones(3)
    assert device.put(x) is x
    assert device.get(x) is x
    with device.context():
        assert type(device.xp.ones(1)) is np.ndarray


# ---- imports -------------------------------------------------------------------------------------------


def test_the_source_is_enough_to_import_it(tmp_path):
    """From a bare checkout: no metadata, and no pooch, which only a download needs."""
    root = Path(tinyalex.__file__).parents[1]
    program = (
        f"import sys; sys.path[:0] = [{str(root)!r}]; sys.modules['pooch'] = None\n"
        "from importlib import metadata\n"
        "def version(name): raise metadata.PackageNotFoundError(name)\n"
        "metadata.version = version\n"
        "import tinyalex, tinyalex.cli.train, tinyalex.cli.look, tinyalex.runs.settings\n"
        "from tinyalex.data import cifar10\n"
        "print(tinyalex.__version__, cifar10.find())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"HOME": str(tmp_path), "TINYALEX_DATA": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.split() == ["0+checkout", "None"], done.stderr


# ---- checks --------------------------------------------------------------------------------------------


class Foreign:
    __module__ = "cupy._core"


def test_xp_of_knows_the_module_of_arrays():
    assert xp_of(np.ones(1)) is np
    assert xp_of(None, np.ones(1), None, np.float32(1)) is np


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ([np.ones(1), Foreign()], r"\['cupy', 'numpy'\]"),
        ([np.ones(1), [1.0]], r"\['builtins', 'numpy'\]"),
        ([[1.0]], r"\['builtins'\]"),
        ([None], r"\[\]"),
        ([], r"\[\]"),
    ],
)
def test_xp_of_refuses_what_does_not_go_together(arrays, found):
    with pytest.raises(TypeError, match=f"numpy or of cupy, all of one kind, found {found}"):
        xp_of(*arrays)


def test_same_dtype_names_every_argument():
    single, double = np.ones(1, np.float32), np.ones(1)
    same_dtype("conv2d", x=single, w=single)
    same_dtype("conv2d", x=double, w=double)
    with pytest.raises(
        TypeError, match=r"conv2d: expected .*float32 or .*float64, found: x is float64, w is float32"
    ):
        same_dtype("conv2d", x=double, w=single)
    with pytest.raises(ArgumentError, match="conv2d: expected b, an array, found NoneType"):
        same_dtype("conv2d", x=single, w=single, b=None)
    for wrong in (np.int64, np.float16, np.uint8, bool):
        with pytest.raises(TypeError, match=f"lrn: .*x is {np.dtype(wrong).name}"):
            same_dtype("lrn", x=np.ones(1, wrong))


# ---- the host's memory pool ----------------------------------------------------------------------------

LARGE = memory._HostPool.SMALL
SHAPE = (LARGE // 8, 4)  # four times as large in float64


def address(array):
    return array.__array_interface__["data"][0]


def span(array):
    return address(array), address(array) + array.nbytes


@pytest.fixture
def pool(monkeypatch):
    """A pool of the test's own in place of this thread's."""
    fresh = memory._HostPool()
    monkeypatch.setattr(memory, "_host_pool", fresh)
    return fresh


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, bool])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (5, 0, 3), (3, 4, 5), SHAPE, (LARGE + 1,), (LARGE - 1,)])
def test_empty_and_zeros_make_what_was_asked_for(pool, shape, dtype):
    for _ in range(2):  # fresh, and perhaps used before
        for make in (empty, zeros):
            array = make(np, shape, dtype)
            assert (array.shape, array.dtype) == (shape, dtype)
            assert array.flags.c_contiguous
            assert array.flags.writeable
            if array.nbytes >= LARGE:
                assert address(array) % 64 == 0
            if make is zeros:
                assert not array.any()
            array.fill(1)


def test_a_freed_buffer_is_used_again(pool):
    a = empty(np, SHAPE, np.float64)
    start = address(a)
    del a
    b = empty(np, SHAPE[::-1], np.float64)  # the same bytes in another shape
    assert address(b) == start
    del b
    c = empty(np, (2 * SHAPE[0] * SHAPE[1],), np.float32)  # or dtype
    assert address(c) == start
    del c
    slightly_less = empty(np, (SHAPE[0] * SHAPE[1] * 9 // 10,), np.float64)
    assert address(slightly_less) == start
    assert len(pool.buffers) == 1


@pytest.mark.parametrize("more", [-1, 0, 3])
def test_the_pool_knows_a_free_buffer_however_the_interpreter_counts(pool, more, monkeypatch):
    """Counts have differed by one between versions of CPython, and may again."""
    real = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda x: real(x) + more)
    monkeypatch.setattr(memory, "_IDLE", memory._idle_count())
    a = empty(np, SHAPE, np.float64)
    start = address(a)
    part = a[5:]
    del a
    other = empty(np, SHAPE, np.float64)
    assert address(other) != start
    del part
    assert address(empty(np, SHAPE, np.float64)) == start


def test_a_much_larger_or_smaller_buffer_is_not_taken(pool):
    a = empty(np, SHAPE, np.float64)
    start = address(a)
    del a
    for size in (SHAPE[0] * SHAPE[1] // 2, 2 * SHAPE[0] * SHAPE[1] + 1):
        assert address(empty(np, (size,), np.float64)) != start


def test_a_large_buffer_has_little_room(pool):
    """Linux refuses a single request for more than the machine has, touched or not."""
    assert len(pool._room(1 << 30)) <= (1 << 30) + (1 << 28)


@pytest.mark.skipif(not SPARE, reason="here memory counts before it is touched: nothing is cut")
def test_small_buffers_are_cut_from_pages_that_they_share(pool):
    arrays = [empty(np, (150_000,), np.float32) for _ in range(60)]
    steps = np.diff(sorted(map(address, arrays)))
    assert (steps >= 2 * arrays[0].nbytes).all()  # each with its room
    assert (steps < 2 * arrays[0].nbytes + 128).sum() >= 57  # one after the other, but where a slab ends


@pytest.mark.skipif(not SPARE, reason="here memory counts before it is touched: buffers have no room")
def test_a_buffer_grows_into_its_room_and_the_nearest_in_size_is_taken(pool):
    size = SHAPE[0] * SHAPE[1]
    a, b = empty(np, (size,), np.float64), empty(np, (3 * size,), np.float64)
    starts = address(a), address(b)
    del a, b
    larger = empty(np, (2 * size,), np.float64)
    assert address(larger) == starts[0]
    del larger
    assert address(empty(np, (2 * size - 1,), np.float64)) == starts[0]  # as long as that from here on
    assert address(empty(np, (5 * size // 2,), np.float64)) == starts[1]
    assert address(empty(np, (size,), np.float64)) == starts[0]  # as it once did
    assert len(pool.buffers) == 2


@pytest.mark.parametrize(
    "keep",
    [
        lambda a: a,
        lambda a: a[1:],
        lambda a: a[10:][5:, 1:][::2],
        lambda a: a.reshape(-1),
        lambda a: a.reshape(4, -1).T[3:, 1],
        lambda a: a.view(np.float32)[..., :1],
        lambda a: a[7, 2:3],
        lambda a: np.lib.stride_tricks.as_strided(a, (3, 3), (8, 8)),
        lambda a: np.lib.stride_tricks.sliding_window_view(a, 2, 0)[:2],
        lambda a: np.broadcast_to(a[:1, 0], (3,)),
        lambda a: memoryview(a)[3:],
        lambda a: np.frombuffer(a, np.uint8)[5:],
        lambda a: [(a[0],)],
        lambda a: lambda: a,
    ],
    ids=[
        "itself",
        "slice",
        "slices",
        "flat",
        "transposed",
        "dtype",
        "row",
        "strided",
        "windows",
        "broadcast",
        "memory",
        "buffer",
        "tuple",
        "closure",
    ],
)
def test_a_buffer_that_anybody_can_still_see_is_never_given_away(pool, keep):
    a = empty(np, SHAPE, np.float64)
    start, stop = span(a)
    kept = keep(a)
    del a
    others = [empty(np, SHAPE, np.float64) for _ in range(3)]
    for other in others:
        assert span(other)[1] <= start or span(other)[0] >= stop
    del kept, other
    gc.collect()
    assert address(empty(np, SHAPE, np.float64)) == start  # and once nobody does, it is


def test_idle_buffers_are_dropped(pool):
    pool.KEEP = 10
    idle = empty(np, SHAPE, np.float64)
    alive = empty(np, SHAPE, np.float64)
    idle_memory, alive_memory = weakref.ref(idle.base), weakref.ref(alive.base)
    del idle
    for _ in range(7):
        empty(np, (LARGE,), np.uint8)
    empty(np, (2 * LARGE,), np.uint8)
    assert idle_memory() is not None  # still within KEEP
    for _ in range(10):
        empty(np, (LARGE,), np.uint8)
    empty(np, (3 * LARGE,), np.uint8)  # asks for a fresh one: time to look for the idle
    assert idle_memory() is None
    assert alive_memory() is alive.base
    del alive
    assert len(pool.buffers) < 5


def test_each_thread_has_its_own_pool():
    """What one thread frees, another is not given; and what a thread made outlives it."""
    mine = empty(np, SHAPE, np.float64)
    start = address(mine)
    made = []

    def work():
        for _ in range(3):
            array = empty(np, SHAPE, np.float64)
            array.fill(7)
            made.append(array)

    del mine
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    del thread
    assert start not in [address(a) for a in made]
    more = [zeros(np, SHAPE, np.float64) for _ in range(5)]
    assert all((a == 7).all() for a in made)
    spans = sorted(span(a) for a in made + more)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))


def test_threads_that_pass_arrays_on_do_not_disturb_each_other():
    """Each of two threads fills arrays, hands them over, and checks and frees what it was handed."""
    handed, wrong, meet = [[], []], [], threading.Barrier(2)

    def work(me):
        for round_ in range(40):
            for k in range(5):
                array = empty(np, (LARGE + 100 * k,), np.uint8)
                array.fill((7 * round_ + 3 * k + me) % 251)
                handed[1 - me].append((array, (7 * round_ + 3 * k + me) % 251))
            meet.wait()
            got, handed[me] = handed[me], []
            meet.wait()
            wrong.extend(value for array, value in got if not (array == value).all())

    threads = [threading.Thread(target=work, args=(me,)) for me in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


MOVES = ["new", "new", "new", "free", "free", "view", "copy"]  # as often as they stand here


@settings(max_examples=60, deadline=None)
@given(
    keep=st.integers(0, 6),
    moves=st.lists(
        st.tuples(st.sampled_from(MOVES), st.integers(0, 7), st.integers(0, 30)),
        max_size=60,
    ),
)
def test_memory_in_use_is_never_handed_out(keep, moves):
    """Random requests, releases, and arrays of which only a view of a view is kept."""
    pool = memory._HostPool()
    pool.KEEP = keep
    alive = []  # (array, the value that it is full of)
    for number, (move, size, which) in enumerate(moves):
        place = which % len(alive) if alive else None
        if move == "new":
            array = pool.empty((LARGE + 1000 * size,), np.uint8)
            for other, _ in alive:
                assert not np.may_share_memory(array, other)
            assert address(array) % 64 == 0
            array.fill(number)
            alive.append((array, number))
            del array
        elif place is not None and move == "free":
            del alive[place]
        elif place is not None and move == "view":
            array, value = alive[place]
            alive[place] = array[len(array) // 3 :][: len(array) // 3 + 1][::-1], value
            del array
        elif place is not None:
            alive.append(alive[place])
        other = None
        for array, value in alive:
            assert (array == value).all()
        array = None
