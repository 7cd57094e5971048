"""Ranks that are processes: the bits of threads, and how they end."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mpi_ranks
import numpy as np
import pytest

from tinyalex.comm import launch, processes, threads
from tinyalex.errors import DeviceError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="on Linux only; elsewhere ranks are threads")


def on(size, fn):
    """Run fn on so many processes, and be sure that none is left."""
    before = children()
    try:
        return launch(fn, ",".join(f"cpu:{k}" for k in range(size)), processes=True)
    finally:
        assert children() <= before


def children():
    """The processes that are children of this one."""
    found = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found |= set(path.read_text().split())
    return found


def descriptors():
    """How many files, sockets and pieces of shared memory this process has open."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def same(a, b):
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return np.array_equal(a, b)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("program", [mpi_ranks.collectives, mpi_ranks.parts, mpi_ranks.train])
def test_every_rank_has_the_bits_and_the_ledger_of_a_thread(program, size):
    before = descriptors()
    found = on(size, lambda comm: (program(comm), os.getpid()))
    assert descriptors() == before
    assert [pid for _, pid in found].index(os.getpid()) == 0
    assert len({pid for _, pid in found}) == size
    expected = launch(program, ",".join(f"cpu:{k}" for k in range(size)))
    assert same([result for result, _ in found], expected)


def test_arrays_of_any_size_layout_and_number_cross():
    """Also those that are larger than what was shown before, and objects larger than a socket holds."""

    def rank(comm):
        results = []
        for n in (5, 70_001, 3, 1_000_003, 0):
            x = np.arange(n, dtype=np.float64)[::-1] * (comm.rank + 1)
            results.append(np.array_equal(comm.all_reduce(x), np.arange(n)[::-1] * 3.0))
            results.append(np.array_equal(comm.broadcast(x, 1), np.arange(n)[::-1] * 2.0))
        results.append(len(comm.share(bytes(5_000_000) if comm.rank == 0 else None)))
        return results

    for found in on(2, rank):
        assert found == [True] * 10 + [5_000_000]


class Own(ValueError):
    """An error that is not made of its message: a pickle of it cannot be read."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


@pytest.mark.parametrize(
    "error", [KeyError("planted"), Own(1, 2), ValueError(lambda: 0), KeyboardInterrupt()]
)
@pytest.mark.parametrize("who", [0, 1, 2])
def test_the_first_error_stops_all_and_is_raised(who, error):
    def rank(comm):
        comm.share(None)
        if comm.rank == who:
            raise error
        while True:
            comm.split(None).share(None)

    start = time.monotonic()
    with pytest.raises((type(error), DeviceError)) as caught:
        on(3, rank)
    assert time.monotonic() - start < 5
    if who and type(error) in (Own, ValueError):
        assert isinstance(caught.value, DeviceError)
        assert f"rank {who}: {type(error).__name__}: {error}" == str(caught.value)
    else:
        assert (type(caught.value), str(caught.value)) == (type(error), str(error))
    if who and type(error) is KeyError:
        assert "raise error" in str(caught.value.__cause__)


def test_the_error_of_a_rank_that_computes_on_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(processes, "PATIENCE", 0.3)

    def rank(comm):
        if comm.rank == 0:
            raise KeyError("planted")
        time.sleep(60)

    start = time.monotonic()
    with pytest.raises(KeyError):
        on(2, rank)
    assert time.monotonic() - start < 3


def test_ranks_in_the_background_are_stopped_too():
    """A thread of a rank that waits in a communicator of its own does not keep the process from its end."""
    from tinyalex.parallel import Background

    def rank(comm):
        behind = Background(comm.split(None))
        if comm.rank == 1:
            raise KeyError("planted")
        behind.start("all_reduce", np.ones(3), label="")()

    with pytest.raises(KeyError):
        on(2, rank)


def test_what_cannot_be_pickled_is_named():
    with pytest.raises(DeviceError, match=r"rank 1: .*pickle"):
        on(2, lambda comm: lambda: 0)


def test_a_rank_that_meets_nobody_is_not_waited_for_for_ever():
    def rank(comm):
        comm.share(None)
        return comm.rank or comm.all_reduce(np.ones(3))

    with pytest.raises(DeviceError, match="had come to its end"):
        on(2, rank)


def test_a_rank_whose_process_is_killed_is_named():
    before = descriptors()

    def rank(comm):
        comm.all_reduce(np.ones(100_000))
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            comm.all_reduce(np.ones(3))

    start = time.monotonic()
    with pytest.raises(DeviceError, match="rank 1: its process has ended with signal 9"):
        on(3, rank)
    assert time.monotonic() - start < 5
    assert descriptors() == before


PROGRAM = """
import os, sys
import numpy as np
from tinyalex.comm import launch
def rank(comm):
    os.write(1, b"%d\\n" % os.getpid())
    while True:
        comm.all_reduce(np.ones(100_000))
launch(rank, "cpu:0,cpu:1,cpu:2", processes=True)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_the_first(number):
    """Killed, or interrupted by Ctrl-C, which every process of the terminal gets."""
    command = [sys.executable, "-c", PROGRAM]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as job:
        try:
            assert len({job.stdout.readline() for _ in range(3)}) == 3
            if number == signal.SIGKILL:
                job.kill()
            else:
                os.killpg(job.pid, number)
            _, printed = job.communicate(timeout=5)  # its pipes are closed when the last one has ended
        except BaseException:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    assert job.returncode == -number
    assert printed.count("Traceback") == (number == signal.SIGINT)


def test_the_ranks_are_threads_where_processes_cannot_be(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    found = on(2, lambda comm: (type(comm), threading.current_thread()))
    assert {kind for kind, _ in found} == {threads.ThreadComm}
