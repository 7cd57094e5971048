"""Ranks whose GPUs exchange arrays by NCCL, through CuPy, on top of how they were started: threads or MPI.

NCCL carries the arrays, from each rank to each; as under MPI they are added in the order of the ranks, so
that the bits are those of any other transport.  A call only queues work on the rank's stream.
"""

import platform
from importlib import import_module

from tinyalex.comm import Comm
from tinyalex.memory import empty


class NcclComm(Comm):
    """A rank of `base`, a communicator of ranks on GPUs that all differ."""

    def __init__(self, base):
        super().__init__(base.device)
        self.rank, self.size, self._base = base.rank, base.size, base
        self._lib = _nccl()
        job = base.share(self._lib.get_unique_id() if base.rank == 0 else None)
        self._nccl = self._lib.NcclCommunicator(base.size, job, base.rank)

    def _begin(self, x):
        self._agree(self._tell((x.shape, x.dtype.name)))
        return x

    def _swap(self, x):
        x, mine = self._xp.ascontiguousarray(x), self._rows(len(x), self.rank)
        parts = empty(self._xp, (self.size, mine.stop - mine.start, *x.shape[1:]), x.dtype)
        self._exchange([x[self._rows(len(x), rank)] for rank in range(self.size)], list(parts))
        return list(parts)

    def _gather(self, part, out):
        whole = out if out.flags.c_contiguous else empty(self._xp, out.shape, out.dtype)
        part = self._xp.ascontiguousarray(part)
        rows = [whole[self._rows(len(whole), rank)] for rank in range(self.size)]
        self._exchange([part] * self.size, rows)
        if whole is not out:
            out[...] = whole

    def _spread(self, x, root):
        shape, dtype = self._tell((x.shape, x.dtype.str) if self.rank == root else None)[root]
        there = self._xp.ascontiguousarray(x) if self.rank == root else empty(self._xp, shape, dtype)
        sent = [None if rank == root else there for rank in range(self.size)] if self.rank == root else []
        self._exchange(sent, [there if rank == root != self.rank else None for rank in range(self.size)])
        return x if self.rank == root else there

    def _end(self, out):
        return out

    def _exchange(self, sent, received):
        """Send each rank its array and receive one from each (None: none), in one group of calls."""
        stream = self._xp.cuda.get_current_stream().ptr
        self._lib.groupStart()
        for call, arrays in ((self._nccl.send, sent), (self._nccl.recv, received)):
            for rank, a in enumerate(arrays):
                if a is not None and a.nbytes:
                    call(a.data.ptr, a.nbytes, self._lib.NCCL_UINT8, rank, stream)
        self._lib.groupEnd()

    def share(self, obj):
        """Return rank 0's Python object on every rank."""
        return self._base.share(obj)

    def _tell(self, thing):
        return self._base._tell(thing)

    def _group(self, ranks):
        return through(self._base._group(ranks))


def through(comm):
    """Return a communicator by NCCL of the same ranks, or comm where NCCL is not there or cannot be.

    NCCL wants GPUs that differ.
    """
    if comm.device.kind != "cuda" or comm.size == 1:
        return comm
    places = comm._tell((platform.node(), comm.device.index))
    if len(set(places)) < len(places) or not all(comm._tell(_nccl().available)):
        return comm
    return NcclComm(comm)


def _nccl():
    """Return CuPy's module; where NCCL is missing, a warning of CuPy's says how to install it."""
    return import_module("cupy.cuda.nccl")  # CuPy does not import it by itself
