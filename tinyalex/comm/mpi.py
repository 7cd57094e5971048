"""Ranks that are processes, on one machine or many, through MPI (mpi4py).

    mpiexec -n 4 tinyalex … --devices mpi

starts the program four times; `launch` makes each process one rank and calls ``fn(comm)`` with an `MPIComm`,
whose collectives give the same bits and enter the same bytes in the ledger as those of threads.  MPI carries
the arrays, but it does not add them: MPI_Allreduce may add in any order, so that ranks would differ in the
last bits.  Here the parts arrive and are added in the order of the ranks.

A rank that waits asks again and again, and sleeps in between, so that what it computes meanwhile, and the
other ranks of its core, go on.

A rank whose machine has gone away would be waited for, for ever.  So each process says once a second, in a
thread, that it is there, and ends, naming the rank and its machine, when it has not heard of one for `LOST`
seconds.  A slow machine is waited for: its thread still speaks.

Arrays may be of any size where the MPI follows version 4 of the standard; an older one (Open MPI 5) raises
mpi4py's Exception beyond 2³¹ elements.
"""

import hashlib
import json
import math
import os
import pickle
import re
import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np

from tinyalex.comm import Comm
from tinyalex.comm.nccl import through
from tinyalex.devices import Device, blas_limits, count
from tinyalex.errors import DeviceError, TinyalexError
from tinyalex.memory import empty

POLLS, PAUSE = 100, 5e-5  # questions before a rank that waits sleeps for so many seconds
LOST = 6  # seconds


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
        self._move(self._mpi.Ialltoallv, [self._xp.ascontiguousarray(x), (counts, starts)], [parts, from_all])
        return [mine if r == self.rank else part for r, part in enumerate(parts)]

    def _gather(self, part, out):
        whole = out if out.flags.c_contiguous else empty(self._xp, out.shape, out.dtype)
        self._move(self._mpi.Iallgatherv, self._xp.ascontiguousarray(part), [whole, self._cut(out)])
        if whole is not out:
            out[...] = whole

    def _spread(self, x, root):
        kind = np.zeros(256, np.uint8)
        if self.rank == root:
            kind[:] = bytearray(json.dumps([x.shape, x.dtype.str]).encode().ljust(256))
        _wait(self._mpi.Ibcast(kind, root))
        if self.rank == root:
            there = self.device.get(x) if self._staged else x
            self._move(self._mpi.Ibcast, self._xp.ascontiguousarray(there), root)
            return x
        out = empty(self._xp, *json.loads(kind.tobytes()))
        self._move(self._mpi.Ibcast, out, root)
        return self._end(out)

    def _end(self, out):
        return self.device.put(out) if self._staged else out

    def share(self, obj):
        """Return rank 0's Python object on every rank (there, the object itself); the others pass None.

        It travels as a pickle between the processes of this one job, the data of NumPy arrays beside it.
        """
        from mpi4py.util import pkl5

        _wait(self._mpi.Ibarrier())
        shared = pkl5.Intracomm(self._mpi).bcast(obj, 0)
        return obj if self.rank == 0 else shared

    def _tell(self, thing):
        digest = hashlib.sha256(pickle.dumps(thing)).digest()
        mine, digests = np.frombuffer(digest, np.int64), np.empty((self.size, 4), np.int64)
        _wait(self._mpi.Iallgather(mine, digests))
        if (digests == digests[0]).all():  # as a rule; MPI's own would hold the core while it waits
            return [thing] * self.size
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
        _wait(collective(*buffers))


def _wait(request):
    until(request.Test)


def until(ask):
    """Ask again and again, and sleep in between, until the answer is not false; return it.

    A process that waited asleep for another's message would be woken on the other's core.
    """
    while True:
        for _ in range(POLLS):
            if answer := ask():
                return answer
        time.sleep(PAUSE)


class _Watch:
    """The thread of this process that speaks to the others of the job, and hears of them."""

    def __init__(self, world):
        from mpi4py import MPI

        self.mpi, self.done = world.Dup(), threading.Event()
        self.hosts = world.allgather(MPI.Get_processor_name())
        self.thread = threading.Thread(target=self._run, name="tinyalex-watch", daemon=True)
        self.thread.start()

    def _run(self):
        others = [rank for rank in range(self.mpi.Get_size()) if rank != self.mpi.Get_rank()]
        word = {rank: np.zeros(1, np.uint8) for rank in others}  # 1: it is there, 2: it has come to its end
        heard = {rank: self.mpi.Irecv(word[rank], rank) for rank in others}
        silent, said, ended = dict.fromkeys(others, 0), [], False
        while silent or not ended:  # to the last word of all: its memory must wait for it
            pause = 0.01 if ended else 1
            if ended:
                time.sleep(pause)
            else:
                ended = self.done.wait(pause)
                said = [request for request in said if not request.Test()]
                if ended or len(said) < LOST * len(others):
                    now = np.full(1, 1 + ended, np.uint8)
                    said += [self.mpi.Isend(now, rank) for rank in others]
            for rank in list(silent):
                silent[rank] += pause  # seconds, of which those are none in which this process stood still
                while heard[rank].Test():
                    silent[rank] = 0
                    if word[rank][0] == 2:
                        del silent[rank]
                        break
                    heard[rank] = self.mpi.Irecv(word[rank], rank)
                if silent.get(rank, 0) > LOST:
                    self._lost(rank)
        for request in said:
            _wait(request)

    def _lost(self, rank):
        error = DeviceError(f"rank {rank} on {self.hosts[rank]} has not been heard of for {LOST} seconds")
        _report(error, self.mpi.Get_rank(), self.mpi.Get_size())
        time.sleep(1.5)  # other ranks of this machine have the same to say: mpiexec will end them
        os._exit(1)  # Abort would wait for the machine that has gone away

    def stop(self):
        """Tell the others that this process has come to its end, and wait for theirs."""
        self.done.set()
        self.thread.join()


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
    library = mpi.Get_library_version().splitlines()[0]
    counts = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
    started = max(int(os.environ.get(name, 1)) for name in counts)
    if world.Get_size() == 1 < started:
        raise DeviceError(
            f"mpiexec started {started} processes, but each finds itself alone: this mpiexec (or srun --mpi) "
            f"is not that of the MPI library mpi4py has loaded ({library})"
        )
    if world.Get_size() > 1 and mpi.Query_thread() < mpi.THREAD_MULTIPLE:
        raise DeviceError(f"MPI: expected one that several threads may call at once, found {library}")
    try:
        [kind] = devices
        here = world.Split_type(mpi.COMM_TYPE_SHARED)
        _unlink_shared_memory(here)
        local = here.Get_rank()
        device = Device(f"{kind}:{local % count('cuda') if kind == 'cuda' else local}")
        with blas_limits().limit(limits=1 if kind == "cpu" else None), device.context():
            if world.Get_size() == 1:
                return [fn(Comm(device))]
            watch = _Watch(world)
            done = [fn(through(MPIComm(device, world)))]
            watch.stop()
            return done
    except BaseException as error:
        if world.Get_size() == 1:
            raise
        if isinstance(error, mpi.Exception):  # by a rank that is lost, it may be: let the watch name it
            time.sleep(LOST + 2)
        _report(error, world.Get_rank(), world.Get_size())
        time.sleep(0.2)  # Abort can overtake what was just printed: let mpiexec read it first
        world.Abort(1)  # the others may be waiting for this rank, for ever
        os._exit(1)  # MPICH's Abort may return before the process is ended


def _unlink_shared_memory(here):
    """Take the name from the memory that MPICH's processes of a machine share, and all have mapped (Linux).

    MPICH unlinks it at the end only: processes that are killed would leave it behind.
    """
    here.Barrier()
    maps = Path("/proc/self/maps")
    if here.Get_rank() == 0 and maps.exists():
        for name in set(re.findall(r"/dev/shm/mpich_shm_\w+", maps.read_text())):
            Path(name).unlink(missing_ok=True)


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
