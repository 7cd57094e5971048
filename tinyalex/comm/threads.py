"""Ranks that are threads of one process, each with a device; they read each other's memory."""

import threading

from tinyalex.comm import Comm
from tinyalex.comm.nccl import through
from tinyalex.devices import Device, blas_limits
from tinyalex.errors import DeviceError
from tinyalex.memory import empty


class Stopped(Exception):
    """Raised in a rank that waits for one that has failed."""


class ThreadComm(Comm):
    """A rank that is a thread of this process; the arrays are read straight from the others' memory.

    On GPUs a collective only queues work: events keep a rank's stream from reading what another has not yet
    written, and from writing what another has not yet read.
    """

    def __init__(self, device, rank, shared):
        super().__init__(device)
        self.rank, self.size, self._shared = rank, len(shared.slots), shared

    def _begin(self, x):
        self._kind = x.shape, x.dtype.name
        return x

    def _swap(self, x):
        mine = self._rows(len(x), self.rank)
        return [self.device.fetch(theirs[mine]) for theirs in self._read(x, self._shared.slots)]

    def _gather(self, part, out):
        for rank, theirs in enumerate(self._read(part, self._shared.parts)):
            out[self._rows(len(out), rank)] = self.device.fetch(theirs)

    def _spread(self, x, root):
        mine = self._xp.ascontiguousarray(x) if self.rank == root else None
        shown = self._show(mine, self._shared.slots)[root]
        if self.rank != root:
            x = empty(self._xp, shown.shape, shown.dtype)
            x[...] = self.device.fetch(shown)
        return self._end(x)

    def _end(self, out):
        """Wait until everybody has read what was shown: only then may its owner write to it, or free it."""
        self._show(None, self._shared.left)
        self._shared.slots[self.rank] = self._shared.parts[self.rank] = None
        return out

    def _tell(self, thing):
        things = self._show(thing, self._shared.slots)
        self._wait()
        return things

    def _group(self, ranks):
        first = self.rank == ranks[0]
        shared = self._tell(self._shared.child(len(ranks)) if first else None)[ranks[0]]
        return ThreadComm(self.device, ranks.index(self.rank), shared)

    def _read(self, x, slots):
        """Show x to the other ranks; return all ranks' arrays, C-contiguous."""
        shown = self._show((self._xp.ascontiguousarray(x), self._kind), slots)
        self._agree(kind for _, kind in shown)
        return [array for array, _ in shown]

    def _show(self, thing, slots):
        """Put the thing where the others see it; return all ranks' things, in the order of the ranks."""
        slots[self.rank] = thing, self.device.record()
        self._wait()
        for _, event in slots:
            self.device.wait(event)
        return [shown for shown, _ in slots]

    def _wait(self):
        try:
            self._shared.barrier.wait()
        except threading.BrokenBarrierError:
            raise Stopped from None


class _Shared:
    """What the ranks of a communicator have in common."""

    def __init__(self, size):
        self.slots, self.parts, self.left = ([None] * size for _ in range(3))  # (thing, event) of each rank
        self.barrier, self.children = threading.Barrier(size), []

    def child(self, size):
        """Return one for some of the ranks, who are stopped together with the others."""
        child = _Shared(size)
        self.children.append(child)
        return child

    def stop(self):
        """Stop the ranks where they next meet; nobody can meet in a child that is made after this."""
        self.barrier.abort()
        for child in self.children:
            child.stop()


def launch(fn, devices, start=None):
    """Run fn(comm) in a thread for every device; return the list of what each rank returned.

    devices: `Device`s or their names.  If a rank raises, the others are stopped where they next meet, and the
    first error is raised here.  Interrupting stops all ranks likewise.  GPUs may be named more than once (two
    ranks on one card share its memory and its time), CPU cores may not.  start: what runs several (`run`).
    """
    devices = [d if hasattr(d, "kind") else Device(d) for d in devices]
    names = [d.name for d in devices]
    repeated = len(set(names)) < len(names) and devices[0].kind == "cpu"
    if not names or len({d.kind for d in devices}) > 1 or repeated:
        raise DeviceError(f"devices: expected different ones of one kind, found {', '.join(names) or 'none'}")
    with blas_limits().limit(limits=1 if devices[0].kind == "cpu" else None):
        if len(devices) == 1:
            with devices[0].context():
                return [fn(Comm(devices[0]))]
        return (start or run)(fn, devices)


def run(fn, devices):
    """Run fn in a thread for every device: what `launch` does where there are several."""
    shared = _Shared(len(devices))
    results, errors = [None] * len(devices), []

    def be(rank):
        try:
            with devices[rank].context():
                results[rank] = fn(through(ThreadComm(devices[rank], rank, shared)))
        except Stopped:
            pass
        except BaseException as error:
            errors.append(error)
            shared.stop()

    threads = [threading.Thread(target=be, args=(r,), name=d.name) for r, d in enumerate(devices)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # so that an interrupt is heard at once
    except BaseException:
        shared.stop()
        for thread in threads:
            if thread.ident:  # it was started
                thread.join()
        raise
    if errors:
        raise errors[0]
    return results
