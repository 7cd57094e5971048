"""Ranks and the four collectives in which they meet, with a ledger of what crossed.

`launch(fn, devices)` runs ``fn(comm)`` once for each device, every rank in a thread of its own, all
running the same code on their own arrays (SPMD).  A rank learns of the others only through ``comm``:

    all_gather(x, axis)       the ranks' arrays joined along an axis, the same on every rank
    reduce_scatter(x, axis)   the sum of the ranks' arrays, each rank keeping its part of the axis
    all_reduce(x)             the sum of the ranks' arrays, the same on every rank
    broadcast(x, root)        the root's array, on every rank

Every sum runs over the ranks in the order of their numbers, so all ranks hold the same bits and a run
repeats exactly.  all_gather and reduce_scatter are each other's backward: what one copies to every rank,
the other sums back from them.
"""

import threading
from collections import Counter
from contextlib import contextmanager

from tinyalex.devices import blas_limits
from tinyalex.errors import ArgumentError, DeviceError
from tinyalex.memory import empty


class Comm:
    """One rank alone: the collectives have nothing to do.  Also the interface of the others."""

    rank = 0
    size = 1

    def __init__(self, device):
        self.device = device
        self.label = ""  # the layer and direction on whose behalf the ranks meet: see `on_behalf_of`
        self.ledger = Counter()  # (label, collective) → bytes this rank received from others
        self.calls = Counter()  # (label, collective) → how often

    @contextmanager
    def on_behalf_of(self, label):
        """Enter what crosses inside the with block under this label of the ledger."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def alone(self):
        """Return a communicator of this rank alone, for a network that every rank holds whole."""
        return Comm(self.device)

    def all_gather(self, x, axis=0):
        """Join the ranks' arrays along the axis, in the order of the ranks."""
        return x

    def reduce_scatter(self, x, axis=0):
        """Sum the ranks' arrays; return this rank's part (of `size` equal ones) of the axis."""
        return x

    def all_reduce(self, x):
        """Sum the ranks' arrays."""
        return x

    def broadcast(self, x, root=0):
        """Return the root's array on every rank."""
        return x

    def share(self, obj):
        """Return rank 0's Python object on every rank (the others pass None).  It must not be written to."""
        return obj

    def part(self, length):
        """Return this rank's slice of `length` things; ValueError unless they divide evenly."""
        if length % self.size:
            raise ArgumentError(f"{length} cannot be shared evenly by {self.size} ranks")
        share = length // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def _enter(self, collective, nbytes):
        self.calls[self.label, collective] += 1
        self.ledger[self.label, collective] += nbytes


class _Stopped(Exception):
    """Raised in a rank that waits for one that has failed."""


class ThreadComm(Comm):
    """A rank that is a thread of this process; the arrays are read straight from the others' memory.

    On GPUs a collective only queues work: events keep a rank's stream from reading what another has not yet
    written, and from writing what another has not yet read.
    """

    def __init__(self, device, rank, shared):
        super().__init__(device)
        self.rank, self.size, self._shared = rank, len(shared.slots), shared

    def _exchange(self, x, cut=None):
        """Show x (or x `cut` to be read) to the other ranks; return all ranks' arrays, C-contiguous."""
        array = self.device.xp.ascontiguousarray(x if cut is None else cut)
        arrays, kinds = zip(*self._show((array, (x.shape, x.dtype.name)), self._shared.slots), strict=True)
        if len(set(kinds)) > 1:
            raise ArgumentError(
                f"{self.label or 'collective'}: the ranks' arrays differ: {sorted(set(kinds))}"
            )
        return arrays

    def _show(self, thing, slots):
        slots[self.rank] = thing, self.device.record()
        self._wait()
        for _, event in slots:
            self.device.wait(event)
        return [shown for shown, _ in slots]

    def _leave(self):
        """Wait until everybody has read what was shown: only then may its owner write to it, or free it."""
        self._show(None, self._shared.left)
        self._shared.slots[self.rank] = self._shared.parts[self.rank] = None

    def _wait(self):
        try:
            self._shared.barrier.wait()
        except threading.BrokenBarrierError:
            raise _Stopped from None

    def all_gather(self, x, axis=0):
        """Join the ranks' arrays along the axis, in the order of the ranks."""
        arrays = self._exchange(x)
        xp = self.device.xp
        shape = list(x.shape)
        shape[axis] *= self.size
        out = xp.concatenate(self._fetch(arrays), axis=axis, out=empty(xp, shape, x.dtype))
        self._enter("all_gather", (self.size - 1) * x.nbytes)
        self._leave()
        return out

    def reduce_scatter(self, x, axis=0):
        """Sum the ranks' arrays; return this rank's part (of `size` equal ones) of the axis."""
        axis %= x.ndim
        mine = self.part(x.shape[axis])
        split = x.reshape(*x.shape[:axis], self.size, mine.stop - mine.start, *x.shape[axis + 1 :])
        arrays = self._exchange(x, self.device.xp.moveaxis(split, axis, 0))  # (ranks, …): a part for each
        out = self._sum([a[self.rank] for a in arrays])
        self._enter("reduce_scatter", (self.size - 1) * out.nbytes)
        self._leave()
        return out

    def all_reduce(self, x):
        """Sum the ranks' arrays.

        Each rank sums a part and then fetches the others' sums: two steps, in which every rank reads
        2 (size − 1)/size of the array and adds only its share.
        """
        arrays = self._exchange(x)
        bounds = [x.size * r // self.size for r in range(self.size + 1)]
        mine = slice(bounds[self.rank], bounds[self.rank + 1])
        part = self._sum([a.reshape(-1)[mine] for a in arrays])
        xp = self.device.xp
        parts = self._fetch(self._show(part, self._shared.parts))
        out = xp.concatenate(parts, out=empty(xp, (x.size,), x.dtype)).reshape(x.shape)
        self._enter("all_reduce", (self.size - 1) * part.nbytes + x.nbytes - part.nbytes)
        self._leave()
        return out

    def _fetch(self, arrays):
        return [self.device.fetch(a) for a in arrays]

    def _sum(self, arrays):
        xp = self.device.xp
        arrays = self._fetch(arrays)
        out = xp.add(arrays[0], arrays[1], out=empty(xp, arrays[0].shape, arrays[0].dtype))
        for a in arrays[2:]:
            out += a
        return out

    def broadcast(self, x, root=0):
        """Return the root's array on every rank (there, the array itself)."""
        xp = self.device.xp
        shown = self._show(xp.ascontiguousarray(x) if self.rank == root else None, self._shared.slots)[root]
        if self.rank != root:
            x = empty(xp, shown.shape, shown.dtype)
            x[...] = self.device.fetch(shown)
            self._enter("broadcast", x.nbytes)
        self._leave()
        return x

    def share(self, obj):
        """Return rank 0's Python object on every rank: threads just read it."""
        out = self._show(obj, self._shared.slots)[0]
        self._wait()
        return out


class _Shared:
    def __init__(self, size):
        self.slots, self.parts, self.left = ([None] * size for _ in range(3))  # (thing, event) of each rank
        self.barrier = threading.Barrier(size)


def launch(fn, devices):
    """Run fn(comm) on every device at once; return the list of what each rank returned.

    devices: a list of `Device`.  Each CPU rank has one BLAS thread.  If a rank raises, the others are
    stopped where they next meet, and the first error is raised here.  Interrupting stops all ranks
    likewise.  Raises DeviceError for devices of different kinds, or one named twice.
    """
    names = [d.name for d in devices]
    if not names or len({d.kind for d in devices}) > 1 or len(set(names)) < len(names):
        raise DeviceError(f"devices: expected different ones of one kind, found {', '.join(names) or 'none'}")
    with blas_limits().limit(limits=1 if devices[0].kind == "cpu" else None):
        if len(devices) == 1:
            with devices[0].context():
                return [fn(Comm(devices[0]))]
        return _run_threads(fn, devices)


def _run_threads(fn, devices):
    shared = _Shared(len(devices))
    results, errors = [None] * len(devices), []

    def run(rank):
        try:
            with devices[rank].context():
                results[rank] = fn(ThreadComm(devices[rank], rank, shared))
        except _Stopped:
            pass
        except BaseException as error:
            errors.append(error)
            shared.barrier.abort()

    threads = [threading.Thread(target=run, args=(r,), name=d.name) for r, d in enumerate(devices)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # so that an interrupt is heard at once
    except BaseException:
        shared.barrier.abort()
        for thread in threads:
            if thread.ident:  # it was started
                thread.join()
        raise
    if errors:
        raise errors[0]
    return results
