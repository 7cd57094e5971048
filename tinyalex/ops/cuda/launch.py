"""Compile a kernel for the current device once, and launch it on the current stream."""

import contextlib
import functools
import re
import threading
from pathlib import Path

import numpy as np

from tinyalex.errors import DeviceError
from tinyalex.ops.checks import xp_of

BLOCK = 256  # threads in a block
FOLDER = Path(__file__).parent
SOURCES = sorted(FOLDER.glob("*.cu"))


def launch(kernel, threads, *args, nbytes=None, flop=0, block=BLOCK, **defines):
    """Run the kernel "file.function" with a thread for each of ``threads``: (x,), (x, y) or (x, y, z).

    args: what the kernel takes, an array first.  Arrays must be C-contiguous.  Python ints are passed as int,
    floats as REAL, which is the first array's dtype (float for one that is not of floats); NumPy scalars as
    they are.  nbytes: the least that this launch must move, for `timed`; by default what the arrays hold.
    flop: its arithmetic, where that is the bound.  block: threads in a block.  defines: constants of the
    source, V=4 for ``-DV=4``.
    Returns at once: the device is not waited for.  Raises DeviceError for an array that is not on the current
    device, which CuPy would not notice.
    """
    xp, dtype = xp_of(args[0]), args[0].dtype
    real = dtype.type if dtype.kind == "f" else np.float32
    x, y, z = (*threads, 1, 1)[:3]
    if not x * y * z:
        return
    device = xp.cuda.runtime.getDevice()
    arrays = [a for a in args if isinstance(a, xp.ndarray)]
    elsewhere = {a.device.id for a in arrays} - {device}
    if elsewhere:
        raise DeviceError(f"{kernel}: expected arrays on cuda:{device}, found some on cuda:{min(elsewhere)}")
    function = _function(xp, device, kernel, real, tuple(defines.items()))
    types = {int: np.int32, bool: np.int32, float: real}
    args = tuple(types[type(a)](a) if type(a) in types else a for a in args)
    block = min(block, -(-x // 32) * 32)
    with _clocked(xp, kernel, sum(a.nbytes for a in arrays) if nbytes is None else nbytes, flop):
        function((-(-x // block), y, z), (block,), args)


def images(N, *arrays):
    """How many neighbouring images a thread takes: as many as 16 bytes hold, or one where they do not fit.

    arrays: those that the kernel reads or writes by so many, (…, N); the first is of the kernel's REAL.
    """
    v = 16 // arrays[0].itemsize
    return v if not N % v and not any(a.data.ptr % (v * a.itemsize) for a in arrays) else 1


def matmul(a, b, out=None):
    """The product of two matrices, by cuBLAS.  out: C-contiguous."""
    xp = xp_of(a, b)
    with _clocked(xp, "matmul", flop=2 * a.shape[0] * a.shape[1] * b.shape[1]):
        return xp.matmul(a, b, out=out)


_clock = threading.local()


@contextlib.contextmanager
def timed():
    """Yield a list that gets (kernel, bytes, FLOP, event before, event after) of each launch of this thread.

    The bytes are the least that the launch must move, counted as `traffic` does; 0 for a matrix product.
    """
    _clock.events = []
    try:
        yield _clock.events
    finally:
        del _clock.events


@contextlib.contextmanager
def _clocked(xp, kernel, nbytes=0, flop=0):
    if not hasattr(_clock, "events"):
        yield
        return
    start, end = xp.cuda.Event(), xp.cuda.Event()
    start.record()
    yield
    end.record()
    _clock.events.append((kernel, nbytes, flop, start, end))


@functools.cache
def _function(xp, device, kernel, real, defines):
    file, name = kernel.split(".")
    return _module(xp, device, file, real, defines).get_function(name)


@functools.cache
def _module(xp, device, file, real, defines):
    options = [f"-DREAL={'float' if real == np.float32 else 'double'}"]
    options += [f"-D{name}={value}" for name, value in defines]
    return xp.RawModule(code=source(file), options=tuple(options))


def source(file):
    """Return the text of a .cu file of this folder, named without its ending, with what it includes in it.

    (CuPy keeps compiled kernels by their source's text, and would not notice a change in a file beside it.)
    """
    text = (FOLDER / f"{file}.cu").read_text()
    return re.sub(r'#include "(.*)"', lambda include: (FOLDER / include[1]).read_text(), text)
