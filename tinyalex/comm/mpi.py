"""Ranks that are processes, on one machine or many, through MPI (mpi4py).

    mpiexec -n 4 tinyalex … --devices mpi

starts the program four times; `launch` makes each process one rank and calls ``fn(comm)`` with an `MPIComm`,
whose collectives give the same bits and enter the same bytes in the ledger as those of threads.  MPI carries
the arrays, but it does not add them: MPI_Allreduce may add in any order, so that ranks would differ in the
last bits.  Here the parts arrive and are added in the order of the ranks.

Arrays may be of any size where the MPI follows version 4 of the standard; an older one (Open MPI 5) raises
mpi4py's Exception beyond 2³¹ elements.
"""

import math
import os
import sys
import time
import traceback

import numpy as np

from tinyalex.comm import Comm
from tinyalex.devices import Device, blas_limits, count
from tinyalex.errors import DeviceError, TinyalexError
from tinyalex.memory import empty


class MPIComm(Comm):
    """A rank that is a process; ``mpi`` is mpi4py's communicator of the ranks.

    A GPU's arrays are handed to an MPI that says it can read them (the info key mpi_memory_alloc_kinds of
    MPI 4.1), else they are copied to the host, added there, and the result is copied back.
    """

    def __init__(self, device, mpi):
        super().__init__(device)
        self.rank, self.size, self._mpi = mpi.Get_rank(), mpi.Get_size(), mpi
        readable = mpi.Get_info().get("mpi_memory_alloc_kinds", "").split(",")
        self._staged = device.kind == "cuda" and not {"cuda", "cuda:device"} & set(readable)
        if self._staged:
            self._xp = np

    def _begin(self, x):
        self._agree(self._tell((x.shape, x.dtype.name)))
        return self.device.get(x) if self._staged else x

    def _swap(self, x):
        counts, starts = self._cut(x)
        mine, n = x[self._rows(len(x), self.rank)], counts[self.rank]
        parts = empty(self._xp, (self.size, *mine.shape), x.dtype)
        counts[self.rank] = 0  # it need not travel
        from_all = [n * (r != self.rank) for r in range(self.size)], [n * r for r in range(self.size)]
        self._move(self._mpi.Alltoallv, [self._xp.ascontiguousarray(x), (counts, starts)], [parts, from_all])
        return [mine if r == self.rank else part for r, part in enumerate(parts)]

    def _gather(self, part, out):
        whole = out if out.flags.c_contiguous else empty(self._xp, out.shape, out.dtype)
        self._move(self._mpi.Allgatherv, self._xp.ascontiguousarray(part), [whole, self._cut(out)])
        if whole is not out:
            out[...] = whole

    def _spread(self, x, root):
        kind = self._mpi.bcast((x.shape, x.dtype.str) if self.rank == root else None, root)
        if self.rank == root:
            there = self.device.get(x) if self._staged else x
            self._move(self._mpi.Bcast, self._xp.ascontiguousarray(there), root)
            return x
        out = empty(self._xp, *kind)
        self._move(self._mpi.Bcast, out, root)
        return self._end(out)

    def _end(self, out):
        return self.device.put(out) if self._staged else out

    def share(self, obj):
        """Return rank 0's Python object on every rank (there, the object itself); the others pass None.

        It travels as a pickle between the processes of this one job, the data of NumPy arrays beside it.
        """
        from mpi4py.util import pkl5

        shared = pkl5.Intracomm(self._mpi).bcast(obj, 0)
        return obj if self.rank == 0 else shared

    def _tell(self, thing):
        return self._mpi.allgather(thing)

    def _group(self, ranks):
        return MPIComm(self.device, self._mpi.Create_group(self._mpi.Get_group().Incl(ranks)))

    def _cut(self, x):
        """How many numbers each rank's rows of x have, and where they start."""
        rows, row = [self._rows(len(x), r) for r in range(self.size)], math.prod(x.shape[1:])
        return [(r.stop - r.start) * row for r in rows], [r.start * row for r in rows]

    def _move(self, collective, *buffers):
        """Call MPI when the device has finished its work on the buffers: MPI knows of no streams."""
        if self._xp is not np:
            self._xp.cuda.get_current_stream().synchronize()
        collective(*buffers)


def launch(fn, devices):
    """Run fn(comm) with this process as one rank of those that mpiexec started; return [what fn returned].

    devices: ["cpu"], each rank a CPU core (cpu:K for the K-th process of its machine), or ["cuda"], each the
    GPU cuda:K, from the first one again where there are more processes than GPUs.  Started without mpiexec,
    the process is one rank alone.
    If fn raises on any rank, or is interrupted, the error is printed with that rank's number and the
    whole job ends at once, with exit code 1.  Raises DeviceError if MPI is missing or is not mpiexec's.
    """
    mpi = _mpi4py()
    world = mpi.COMM_WORLD
    started = max(int(os.environ.get(name, 1)) for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
    if world.Get_size() == 1 < started:
        raise DeviceError(
            f"mpiexec started {started} processes, but each finds itself alone: this mpiexec is not that of "
            f"the MPI library mpi4py has loaded ({mpi.Get_library_version().splitlines()[0]})"
        )
    try:
        [kind] = devices
        local = world.Split_type(mpi.COMM_TYPE_SHARED).Get_rank()
        device = Device(f"{kind}:{local % count('cuda') if kind == 'cuda' else local}")
        with blas_limits().limit(limits=1 if kind == "cpu" else None), device.context():
            return [fn(MPIComm(device, world) if world.Get_size() > 1 else Comm(device))]
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
