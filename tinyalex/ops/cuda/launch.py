"""Compile a kernel for the current device once, and launch it on the current stream."""

import contextlib
import functools
import threading
from pathlib import Path

import numpy as np

from tinyalex.errors import DeviceError
from tinyalex.ops.checks import xp_of

BLOCK = 256  # threads in a block
SOURCES = sorted(Path(__file__).parent.glob("*.cu"))


def launch(kernel, threads, *args, nbytes=None):
    """Run the kernel "file.function" with a thread for each of ``threads``: (x,), (x, y) or (x, y, z).

    args: what the kernel takes, an array first.  Arrays must be C-contiguous.  Python ints are passed as int,
    floats as REAL, which is the first array's dtype (float for one that is not of floats); NumPy scalars as
    they are.  nbytes: the least that this launch must move, for `timed`; by default what the arrays hold.
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
    function = _function(xp, device, kernel, real)
    types = {int: np.int32, bool: np.int32, float: real}
    args = tuple(types[type(a)](a) if type(a) in types else a for a in args)
    block = min(BLOCK, -(-x // 32) * 32)
    with _clocked(xp, kernel, nbytes=sum(a.nbytes for a in arrays) if nbytes is None else nbytes):
        function((-(-x // block), y, z), (block,), args)


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
def _function(xp, device, kernel, real):
    file, name = kernel.split(".")
    return _module(xp, device, file, real).get_function(name)


@functools.cache
def _module(xp, device, file, real):
    options = (f"-DREAL={'float' if real == np.float32 else 'double'}",)
    return xp.RawModule(code=source(file), options=options)


def source(file):
    """Return the text of a .cu file of this folder, named without its ending."""
    return Path(__file__).with_name(f"{file}.cu").read_text()
