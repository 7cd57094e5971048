"""Memory that is used again: a pool of large host buffers, as CuPy has one on the GPU."""

import ctypes
import itertools
import math
import sys
import threading

import numpy as np

# Bytes that a buffer has to spare, at most; none where memory counts before it is touched
SPARE = 1 << 28 if sys.platform in ("linux", "darwin") else 0
SLAB = SPARE >> 3  # bytes that small buffers are cut from: of 4 MB or more NumPy asks Linux for pages of 2 MB


class _HostPool(threading.local):
    """Reuse large host buffers, as CuPy's memory pool does on the GPU.

    A fresh 100 MB array costs more in page faults than the arithmetic that fills it, and the C
    library gives large blocks back to the system as soon as they are freed.  So buffers are kept:
    one is free again when nobody but this pool refers to it.  Buffers idle for many requests are dropped.

    A buffer is longer than what is first asked for, up to twice, so that a larger request can have it too:
    the system gives memory to the pages that are written to, and the rest costs nothing.

    NumPy views refer to what owns the memory, so its reference count tells.  Such counts are
    CPython's own affair: which one a buffer has when only the pool refers to it is tried (`_idle_count`).
    """

    SMALL = 1 << 15  # bytes: below this the C library's own cache serves as well
    KEEP = 20_000  # requests that an idle buffer is kept for: many training steps' worth

    def __init__(self):
        self.buffers, self.served = [], {}  # all of them; bytes → those that have served such a request
        self.slab = np.empty(0, np.uint8)  # what is left of the last
        self.requests = itertools.count()

    def empty(self, shape, dtype):
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if nbytes < self.SMALL:
            return np.empty(shape, dtype)
        now, served = next(self.requests), self.served.setdefault(nbytes, [])
        # Training asks for the same sizes in each step: here most searches end, at an early one
        if not (buffer := next((b for b in served if b.free()), None)):
            buffer = self._other(nbytes, now - self.KEEP)
            self.served.setdefault(nbytes, []).append(buffer)
        buffer.last, buffer.used = now, max(buffer.used, nbytes)
        return np.ndarray(shape, dtype, buffer.memory)

    def _other(self, nbytes, oldest):
        fits = [b for b in self.buffers if b.used / 1.3 <= nbytes <= len(b.memory) and b.free()]
        if fits:
            return min(fits, key=lambda b: abs(b.used - nbytes))
        kept = [b for b in self.buffers if b.last >= oldest or not b.free()]
        if len(kept) < len(self.buffers):
            left = {n: [b for b in found if b in kept] for n, found in self.served.items()}
            self.served = {n: found for n, found in left.items() if found}
        self.buffers = [*kept, _Buffer(self._room(nbytes))]
        return self.buffers[-1]

    def _room(self, nbytes):
        """Return memory for so many bytes, and for as many to spare."""
        room = nbytes + min(nbytes, SPARE)
        if room > SLAB // 4:
            return _aligned(np.empty(room + 64, np.uint8), room)
        if room + 64 > len(self.slab):
            self.slab = np.empty(SLAB, np.uint8)
        whole, self.slab = self.slab, self.slab[room + 64 :]
        return _aligned(whole, room)


def _aligned(memory, room):
    """Return so many bytes of it, from a multiple of 64 on: of the widest vector and of the cache line.

    Not as an array, which NumPy's views would pass over: they refer to what an array is cut from.
    """
    return (ctypes.c_ubyte * room).from_buffer(memory, -memory.ctypes.data % 64)


class _Buffer:
    """Memory of a pool: how much of it was ever used, and the number of the last request that it served."""

    def __init__(self, memory):
        self.memory, self.used = memory, 0

    def free(self):
        return sys.getrefcount(self.memory) == _IDLE


def _idle_count():
    """Return the reference count of memory that only its buffer refers to."""
    buffer = _Buffer(bytearray())
    return sys.getrefcount(buffer.memory)


_IDLE = _idle_count()  # 2 in CPython 3.10 to 3.14: the buffer's reference and the call's
_host_pool = _HostPool()


def empty(xp, shape, dtype):
    """Return an uninitialised array from the memory pool of ``xp`` (numpy: ours, cupy: its own)."""
    return _host_pool.empty(shape, dtype) if xp is np else xp.empty(shape, dtype)


def zeros(xp, shape, dtype):
    """Like `empty`, filled with 0."""
    array = empty(xp, shape, dtype)
    array.fill(0)
    return array
