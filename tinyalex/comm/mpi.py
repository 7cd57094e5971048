"""Ranks that are processes, on one machine or many, through MPI (mpi4py).

    mpiexec -n 4 tinyalex … --devices mpi

starts the program four times; `launch_mpi(fn)` makes each process one rank and calls ``fn(comm)`` with an
`MPIComm`, whose collectives give the same bits and enter the same bytes in the ledger as those of threads
(`tinyalex.comm`).  MPI carries the arrays, but it does not add them: MPI_Allreduce may add in any order,
so that ranks would differ in the last bits.  Here the parts arrive and are added in the order of the ranks.

Arrays may be of any size where the MPI follows version 4 of the standard; an older one (Open MPI 5) raises
mpi4py's Exception beyond 2³¹ elements.
"""

import os
import sys
import time
import traceback
from itertools import pairwise

import numpy as np

from tinyalex.comm import Comm
from tinyalex.devices import Device, blas_limits
from tinyalex.errors import ArgumentError, DeviceError, TinyalexError
from tinyalex.memory import empty


class MPIComm(Comm):
    """A rank that is a process; ``mpi`` is mpi4py's communicator of all ranks (two or more).

    A GPU's arrays are handed to an MPI that says it can read them (the info key mpi_memory_alloc_kinds of
    MPI 4.1), else they are copied to the host, added there, and the result is copied back.
    """

    def __init__(self, device, mpi):
        super().__init__(device)
        self.rank, self.size, self._mpi = mpi.Get_rank(), mpi.Get_size(), mpi
        readable = mpi.Get_info().get("mpi_memory_alloc_kinds", "").split(",")
        self._staged = device.kind == "cuda" and not {"cuda", "cuda:device"} & set(readable)
        self._xp = np if self._staged else device.xp  # whose arrays MPI reads and writes

    def all_gather(self, x, axis=0):
        """Join the ranks' arrays along the axis, in the order of the ranks."""
        self._agree(x)
        shape = list(x.shape)
        shape[axis] *= self.size
        parts = self._empty((self.size, *x.shape), x.dtype)
        self._move(self._mpi.Allgather, self._ours(x), parts)
        self._enter("all_gather", (self.size - 1) * x.nbytes)
        return self._theirs(self._xp.moveaxis(parts, 0, axis % x.ndim).reshape(shape))

    def reduce_scatter(self, x, axis=0):
        """Sum the ranks' arrays; return this rank's part (of `size` equal ones) of the axis."""
        self._agree(x)
        axis %= x.ndim
        mine = self.part(x.shape[axis])
        split = x.reshape(*x.shape[:axis], self.size, mine.stop - mine.start, *x.shape[axis + 1 :])
        outgoing = self._ours(self.device.xp.moveaxis(split, axis, 0))  # (ranks, …): one part for each
        incoming = self._empty(outgoing.shape, x.dtype)
        self._move(self._mpi.Alltoall, outgoing, incoming)
        out = self._sum(incoming, self._empty(incoming.shape[1:], x.dtype))
        self._enter("reduce_scatter", (self.size - 1) * out.nbytes)
        return self._theirs(out)

    def all_reduce(self, x):
        """Sum the ranks' arrays: each rank sums one part, then fetches the others' sums."""
        self._agree(x)
        bounds = [x.size * r // self.size for r in range(self.size + 1)]
        counts = [stop - start for start, stop in pairwise(bounds)]
        n, starts = counts[self.rank], bounds[:-1]
        parts = self._empty((self.size, n), x.dtype)
        everywhere = [n] * self.size, [n * r for r in range(self.size)]
        self._move(self._mpi.Alltoallv, [self._ours(x), (counts, starts)], [parts, everywhere])
        out = self._empty((x.size,), x.dtype)
        part = self._sum(parts, out[bounds[self.rank] : bounds[self.rank + 1]])
        self._move(self._mpi.Allgatherv, _mpi4py().IN_PLACE, [out, (counts, starts)])
        self._enter("all_reduce", (self.size - 1) * part.nbytes + x.nbytes - part.nbytes)
        return self._theirs(out.reshape(x.shape))

    def broadcast(self, x, root=0):
        """Return the root's array on every rank (there, the array itself)."""
        kind = self._mpi.bcast((x.shape, x.dtype.str) if self.rank == root else None, root)
        if self.rank == root:
            self._move(self._mpi.Bcast, self._ours(x), root)
            return x
        out = self._empty(*kind)
        self._move(self._mpi.Bcast, out, root)
        self._enter("broadcast", out.nbytes)
        return self._theirs(out)

    def share(self, obj):
        """Return rank 0's Python object on every rank (there, the object itself); the others pass None.

        It travels as a pickle between the processes of this one job, the data of NumPy arrays beside it.
        """
        from mpi4py.util import pkl5

        shared = pkl5.Intracomm(self._mpi).bcast(obj, 0)
        return obj if self.rank == 0 else shared

    def _agree(self, x):
        """Raise the same ValueError on all ranks unless their arrays are alike."""
        kinds = set(self._mpi.allgather((x.shape, x.dtype.name)))
        if len(kinds) > 1:
            raise ArgumentError(f"{self.label or 'collective'}: the ranks' arrays differ: {sorted(kinds)}")

    def _sum(self, parts, out):
        self._xp.add(parts[0], parts[1], out=out)
        for part in parts[2:]:
            out += part
        return out

    def _empty(self, shape, dtype):
        return empty(self._xp, shape, dtype)

    def _ours(self, x):
        """Return the device's array x as MPI can read it: contiguous, on the host if staged."""
        return self._xp.ascontiguousarray(self.device.get(x) if self._staged else x)

    def _theirs(self, array):
        """Return an array that MPI has written as one of the device's."""
        return self.device.put(array) if self._staged else array

    def _move(self, collective, *buffers):
        """Call MPI when the device has finished its work on the buffers: MPI knows of no streams."""
        if self._xp is not np:
            self._xp.cuda.get_current_stream().synchronize()
        collective(*buffers)


def launch_mpi(fn, devices="mpi"):
    """Run fn(comm) with this process as one rank of those that mpiexec started; return what fn returns.

    devices: "mpi", each rank a CPU core (cpu:K for the K-th process of its machine) with one BLAS thread,
    or "mpi:cuda", each the GPU cuda:K.  Started without mpiexec, the process is one rank alone.
    If fn raises on any rank, or is interrupted, the error is printed with that rank's number and the
    whole job ends at once, with exit code 1.  Raises DeviceError if MPI is missing or is not mpiexec's.
    """
    kinds = {"mpi": "cpu", "mpi:cuda": "cuda"}
    if devices not in kinds:
        raise DeviceError(f"devices {devices!r}: expected 'mpi' or 'mpi:cuda'")
    mpi = _mpi4py()
    world = mpi.COMM_WORLD
    started = max(int(os.environ.get(name, 1)) for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
    if world.Get_size() == 1 < started:
        raise DeviceError(
            f"mpiexec started {started} processes, but each finds itself alone: this mpiexec is not that of "
            f"the MPI library mpi4py has loaded ({mpi.Get_library_version().splitlines()[0]})"
        )
    try:
        local = world.Split_type(mpi.COMM_TYPE_SHARED).Get_rank()
        device = Device(f"{kinds[devices]}:{local}")
        with blas_limits().limit(limits=1 if device.kind == "cpu" else None), device.context():
            return fn(MPIComm(device, world) if world.Get_size() > 1 else Comm(device))
    except BaseException as error:
        if world.Get_size() == 1:
            raise
        _report(error, world.Get_rank(), world.Get_size())
        time.sleep(0.2)  # Abort can overtake what was just printed: let mpiexec read it first
        world.Abort(1)  # the others may be waiting for this rank, for ever
        os._exit(1)  # MPICH's Abort may return before the process is ended


def _report(error, rank, size):
    """Print the error with its rank; with a traceback unless it is one that a user can mend."""
    lines = []
    if not isinstance(error, (TinyalexError, OSError, KeyboardInterrupt)):
        lines = traceback.format_exception(error)
    name = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
    lines.append(f"rank {rank} of {size}: {name}\n")
    sys.stderr.write("".join(lines))  # in one piece: other ranks may be writing too
    sys.stderr.flush()


def _mpi4py():
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, the MPI library is not
        raise DeviceError(
            f"devices mpi: MPI cannot be loaded ({error}); pip install 'tinyalex[mpi]', and an MPI: "
            "the system's, or pip install mpich"
        ) from error
    return MPI
