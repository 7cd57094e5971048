"""Compile a kernel for the current device once, and launch it on the current stream."""

import contextlib
import functools
import re
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError, DeviceError
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda import graph

BLOCK = 256  # threads in a block
MOST = (1 << 16) - 1  # blocks along a grid's y and z, on every card; along x 2³¹ − 1
FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("*.cu"))
REALS = {np.dtype(real): real for real in (np.float32, np.float64)}
_int32 = functools.lru_cache(4096)(np.int32)  # making one takes five times as long as finding it


def launch(kernel, threads, *args, nbytes=None, flop=0, block=BLOCK, **defines):
    """Run the kernel "file.function" with a thread for each of ``threads``: (x,), (x, y) or (x, y, z).

    args: what the kernel takes, an array first.  Arrays must be C-contiguous.  Python ints are passed as int,
    floats as REAL, which is the first array's dtype (float for one that is not of floats); NumPy scalars as
    they are.  nbytes: the least that this launch must move, for `timed`; by default what the arrays hold.
    flop: its arithmetic, where that is the bound.  block: threads in a block.  defines: constants of the
    source, V=4 for ``-DV=4``.
    Returns at once: the device is not waited for.  Raises DeviceError for an array that is not on the current
    device, which CuPy would not notice; ArgumentError for more than `MOST` along y or z.
    """
    xp = sys.modules.get("cupy") or xp_of(args[0])
    x, y, z = threads if len(threads) == 3 else (*threads, 1, 1)[:3]
    if not x * y * z:
        return
    if max(y, z) > MOST:
        raise ArgumentError(f"{kernel}: expected at most {MOST:,} maps, rows or groups, found {max(y, z):,}")
    real = REALS.get(args[0].dtype, np.float32)
    device, ndarray, passed = xp.cuda.runtime.getDevice(), xp.ndarray, []
    for a in args:
        kind = type(a)
        if kind is ndarray and a.data.device_id != device:
            raise DeviceError(
                f"{kernel}: expected arrays on cuda:{device}, found some on cuda:{a.data.device_id}"
            )
        if kind is int or kind is bool:
            a = _int32(a)
        elif kind is float:
            a = real(a)
        passed.append(a)
    function = _function(xp, device, kernel, real, tuple(defines.items()))
    block = min(block, -(-x // 32) * 32)
    if _clock.events is None:
        function((-(-x // block), y, z), (block,), passed)
        return
    if nbytes is None:
        nbytes = sum(a.nbytes for a in args if isinstance(a, ndarray))
    with _clocked(xp, kernel.rpartition(".")[2], nbytes, flop):
        function((-(-x // block), y, z), (block,), passed)


def images(N, *arrays):
    """How many neighbouring images a thread takes: as many as 16 bytes hold, or one where they do not fit.

    arrays: those that the kernel reads or writes by so many, (…, N); the first is of the kernel's REAL.
    """
    v = 16 // arrays[0].itemsize
    return v if not N % v and not any(a.data.ptr % (v * a.itemsize) for a in arrays) else 1


def matmul(a, b, out=None):
    """The product of two matrices, by cuBLAS.  out: C-contiguous."""
    xp = xp_of(a, b)
    if out is None:
        out = xp.empty((a.shape[0], b.shape[1]), a.dtype)
    with _clocked(xp, "matmul", flop=2 * a.shape[0] * a.shape[1] * b.shape[1]):
        graph.outside(lambda: xp.matmul(a, b, out=out))
    return out


class Launched(NamedTuple):
    """A launch as `timed` saw it."""

    place: str  # what it was done on behalf of: "conv2 backward"
    kernel: str
    bytes: int  # the least that it must move, counted as `traffic` does; 0 for a product
    flop: int
    start: object  # events before and after
    end: object


class _Clock(threading.local):
    events = place = None


_clock = _Clock()


@contextlib.contextmanager
def timed(place=str):
    """Yield a list that gets a `Launched` for each launch of this thread; place(): whose it is."""
    _clock.events, _clock.place = [], place
    try:
        yield _clock.events
    finally:
        _clock.events = _clock.place = None


@contextlib.contextmanager
def _clocked(xp, kernel, nbytes=0, flop=0):
    if _clock.events is None:
        yield
        return
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    yield
    end.record()
    _clock.events.append(Launched(_clock.place(), kernel, nbytes, flop, start, end))


@functools.cache
def _function(xp, device, kernel, real, defines):
    file, name = kernel.split(".")
    return _module(xp, device, file, real, defines).get_function(name)


@functools.cache
def _module(xp, device, file, real, defines):
    options = [f"-DREAL={'float' if real is np.float32 else 'double'}"]
    options += [f"-D{name}={value}" for name, value in defines]
    return xp.RawModule(code=source(file), options=tuple(options))


def source(file):
    """Return the text of a .cu file of this folder, named without its ending, with what it includes in it.

    (CuPy keeps compiled kernels by their source's text, and would not notice a change in a file beside it.)
    """
    text = (FOLDER / f"{file}.cu").read_text()
    return re.sub(r'#include "(.*)"', lambda include: (FOLDER / include[1]).read_text(), text)
