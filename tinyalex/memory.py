"""Memory that is used again: a pool of large host buffers, as CuPy has one on the GPU."""

import itertools
import math
import sys
import threading

import numpy as np


class _HostPool(threading.local):
    """Reuse large host buffers, as CuPy's memory pool does on the GPU.

    A fresh 100 MB array costs more in page faults than the arithmetic that fills it, and the C
    library gives large blocks back to the system as soon as they are freed.  So buffers are kept:
    one is free again when nobody but this pool refers to it.  Buffers idle for many requests are dropped.

    NumPy views refer to the array that owns the memory, so its reference count tells.  Such counts are
    CPython's own affair: which one a buffer has when only the pool refers to it is tried (`_idle_count`).
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
        return sys.getrefcount(self.buffers[serial]) == _IDLE


def _idle_count():
    """Return the reference count of a buffer that only a pool's dictionary refers to."""
    buffers = {0: np.empty(1, np.uint8)}
    return sys.getrefcount(buffers[0])


_IDLE = _idle_count()  # 2 in CPython 3.10 to 3.14: the dictionary's reference and the call's
_host_pool = _HostPool()


def empty(xp, shape, dtype):
    """Return an uninitialised array from the memory pool of ``xp`` (numpy: ours, cupy: its own)."""
    return _host_pool.empty(shape, dtype) if xp is np else xp.empty(shape, dtype)


def zeros(xp, shape, dtype):
    """Like `empty`, filled with 0."""
    array = empty(xp, shape, dtype)
    array.fill(0)
    return array
