"""Where arrays live: "cpu:0", "cuda:1", their array module, memory, and copies in and out.

A device string is a kind and a number.  ``cpu:k`` is the k-th worker of the host: one thread with
one BLAS thread; all of them share the host's memory.  ``cuda:k`` is the k-th GPU, through CuPy,
which is imported only when such a device is asked for.
"""

import contextlib
import functools
import itertools
import math
import os
import re
import sys
import threading

import numpy as np

from tinyalex.errors import ArgumentError, DeviceError


def xp_of(*arrays):
    """Return the module, numpy or cupy, whose arrays these are; mixing the two raises TypeError."""
    modules = {type(a).__module__.partition(".")[0] for a in arrays if a is not None}
    if modules == {"numpy"}:
        return np
    if modules == {"cupy"}:
        return sys.modules["cupy"]
    raise TypeError(f"expected arrays of numpy or of cupy, all of one kind, found {sorted(modules)}")


def same_dtype(operation, **arrays):
    """Raise TypeError, naming each argument, unless all arrays (None apart) are of one float dtype."""
    dtypes = {name: a.dtype.name for name, a in arrays.items() if a is not None}
    if len(set(dtypes.values())) > 1 or not set(dtypes.values()) <= {"float32", "float64"}:
        found = ", ".join(f"{name} is {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"{operation}: expected arguments all float32 or all float64, found: {found}")


def check_dy(operation, dy, shape, like):
    """Raise unless the gradient dy that comes back has the shape and dtype of the output that went out."""
    if dy.shape != tuple(shape):
        raise ArgumentError(f"{operation}: expected dy of shape {tuple(shape)}, found {dy.shape}")
    same_dtype(operation, dy=dy, x=like)


class Device:
    """One device: ``name``, array module ``xp``, ``put`` (host → here) and ``get`` (here → host)."""

    def __init__(self, name):
        match = re.fullmatch(r"(cpu|cuda):(\d+)", name)
        if not match:
            raise DeviceError(f"device {name!r}: expected 'cpu:K' or 'cuda:K' with K = 0, 1, 2, …")
        self.name, self.kind, self.index = name, match[1], int(match[2])
        self.xp = np if self.kind == "cpu" else _cupy(self)

    def __repr__(self):
        return f"Device({self.name!r})"

    def context(self):
        """Return a context manager that makes this the device that new arrays are made on."""
        return contextlib.nullcontext() if self.kind == "cpu" else self.xp.cuda.Device(self.index)

    def put(self, array):
        """Copy a host array to this device (on the CPU: the array itself)."""
        return self.xp.asarray(array)

    def get(self, array):
        """Copy an array of this device to the host (on the CPU: the array itself)."""
        return array if self.kind == "cpu" else self.xp.asnumpy(array)


def _cupy(device):
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"device {device.name}: CuPy is not installed ({error}); "
            "pip install 'tinyalex[cuda12]' or 'tinyalex[cuda13]', whichever the driver supports"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(f"device {device.name}: the CUDA driver answered: {error}") from error
    if device.index >= count:
        raise DeviceError(f"device {device.name}: this machine has {count} GPUs (cuda:0 … cuda:{count - 1})")
    return cupy


def cpu_count():
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse(devices, batch=None):
    """Turn "cpu:0,cpu:1" into a list of Device.

    "cpu" is a worker on every core, or on as many as can share a batch of that many images evenly.
    """
    if devices == "cpu":
        count = cpu_count()
        while batch and batch % count:
            count -= 1
        devices = ",".join(f"cpu:{k}" for k in range(count))
    return [Device(name.strip()) for name in devices.split(",")]


# ---- memory ------------------------------------------------------------------------------------------


class _HostPool(threading.local):
    """Reuse large host buffers, as CuPy's memory pool does on the GPU.

    A fresh 100 MB array costs more in page faults than the arithmetic that fills it, and the C
    library gives large blocks back to the system as soon as they are freed.  So buffers are kept:
    one is free again when nobody but this pool refers to it.  (NumPy views refer to the array that
    owns the memory, so its reference count tells.)  Buffers idle for many requests are dropped.
    """

    SMALL = 1 << 15  # bytes: below this the C library's own cache serves as well
    KEEP = 20_000  # requests that an idle buffer is kept for: many training steps' worth

    def __init__(self):
        self.buffers = {}  # serial number of the last request served → buffer
        self.requests = itertools.count()

    def empty(self, shape, dtype):
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes < self.SMALL:
            return np.empty(shape, dtype)
        now = next(self.requests)
        for serial in reversed(self.buffers):  # the last used first: it may still be in cache
            if nbytes <= self.buffers[serial].size - 64 <= 1.125 * nbytes and self._free(serial):
                buffer = self.buffers.pop(serial)
                break
        else:
            for serial in [s for s in self.buffers if s < now - self.KEEP and self._free(s)]:
                del self.buffers[serial]
            buffer = np.empty(nbytes + 64, np.uint8)
        self.buffers[now] = buffer
        start = -buffer.ctypes.data % 64  # aligned to the widest vector and the cache line
        return buffer[start : start + nbytes].view(dtype).reshape(shape)

    def _free(self, serial):
        return sys.getrefcount(self.buffers[serial]) == 2  # the dictionary's and getrefcount's own


_host_pool = _HostPool()


def empty(xp, shape, dtype):
    """Return an uninitialised array from the memory pool of ``xp`` (numpy: ours, cupy: its own)."""
    return _host_pool.empty(shape, dtype) if xp is np else xp.empty(shape, dtype)


def zeros(xp, shape, dtype):
    """Like `empty`, filled with 0."""
    array = empty(xp, shape, dtype)
    array.fill(0)
    return array


@functools.cache
def blas_limits():
    """Return threadpoolctl's controller of the BLAS libraries that are loaded (found once)."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
