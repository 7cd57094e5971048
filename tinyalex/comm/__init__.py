"""Ranks and the four collectives in which they meet, with a ledger of what crossed.

`launch(fn, devices)` runs ``fn(comm)`` once for each device, all ranks running the same code on their own
arrays (SPMD).  A rank learns of the others only through ``comm``:

    all_gather(x, axis)       the ranks' arrays joined along an axis, the same on every rank
    reduce_scatter(x, axis)   the sum of the ranks' arrays, each rank keeping its part of the axis
    all_reduce(x)             the sum of the ranks' arrays, the same on every rank
    broadcast(x, root)        the root's array, on every rank

Every sum runs over the ranks in the order of their numbers, so all ranks hold the same bits and a run
repeats exactly.  all_gather and reduce_scatter are each other's backward: what one copies to every rank,
the other sums back from them.

How arrays get from one rank to another is a transport's affair: `threads` of one process, which read each
other's memory, `processes` of one machine, or processes of any under `mpi`.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module

from tinyalex.devices import Device, read
from tinyalex.errors import ArgumentError
from tinyalex.fields import check_functions, expect
from tinyalex.memory import empty

TRANSPORTS = {name: f"tinyalex.comm.{name}" for name in ("threads", "processes", "mpi")}


class Comm:
    """One rank among `size`; a Comm itself is a rank alone, for which the collectives have nothing to do.

    A transport is a subclass with these moves.  The rows of an array (its first axis) are cut into a part for
    each rank by `_rows`.

        _begin(x)            before the first move of a collective of arrays like x; returns x, to be moved
        _swap(x)             give each rank its rows of x; return a list of what each rank gave this one
        _gather(part, out)   fill out: each rank's rows are its part
        _spread(x, root)     return the root's x
        _end(out)            after the last move; returns out, to be handed to the caller
        _tell(thing)         return a list of every rank's thing, a small Python object
        _group(ranks)        return a communicator of these ranks, of which this is one
    """

    rank = 0
    size = 1

    def __init__(self, device: Device | str):
        self.device = device if hasattr(device, "xp") else Device(device)
        self._xp = self.device.xp  # the module of the arrays that are moved
        # by (label, collective): the bytes that this rank received from others, and how often
        self.ledger, self.calls, self._labels = Counter(), Counter(), [""]

    def __reduce__(self):
        """Copied and pickled by its device's name: a rank alone; one among others (TypeError) cannot be."""
        return type(self), (self.device.name,)

    @property
    def label(self):
        """On whose behalf the ranks meet, a layer and a direction: see `on_behalf_of`."""
        return self._labels[-1]

    @contextmanager
    def on_behalf_of(self, label):
        """Enter what crosses inside the with block under this label of the ledger."""
        self._labels.append(label)
        try:
            yield
        finally:
            self._labels.pop()

    def alone(self):
        """Return a communicator of this rank alone, for a network that every rank holds whole."""
        return Comm(self.device)

    def split(self, colour):
        """Return a communicator of the ranks that gave the same colour, in their order here.

        All ranks call it together.  colour: anything that can be compared and pickled.  What crosses in the
        parts enters the same ledger, under the same labels, as what crosses here.
        """
        colours = self._tell(colour)
        part = self._group([rank for rank in range(self.size) if colours[rank] == colour])
        part.ledger, part.calls, part._labels = self.ledger, self.calls, self._labels
        return part

    def grid(self, ranks):
        """Lay the ranks out in rows of so many; return this rank's row and its column, two communicators."""
        return self.split(self.rank // ranks), self.split(self.rank % ranks)

    def all_gather(self, x, axis=0):
        """Join the ranks' arrays along the axis, in the order of the ranks."""
        if self.size == 1:
            return x
        x = self._begin(self._array(x))
        shape = list(x.shape)
        shape[axis] *= self.size
        out = empty(self._xp, shape, x.dtype)
        self._gather(x[None], self._by_rank(out, axis))
        self._enter("all_gather", (self.size - 1) * x.nbytes)
        return self._end(out)

    def reduce_scatter(self, x, axis=0):
        """Sum the ranks' arrays; return this rank's part (of `size` equal ones) of the axis."""
        if self.size == 1:
            return x
        x = self._begin(self._array(x))
        out = self._sum(self._swap(self._by_rank(x, axis)))[0]
        self._enter("reduce_scatter", (self.size - 1) * out.nbytes)
        return self._end(out)

    def all_reduce(self, x):
        """Sum the ranks' arrays.

        Each rank sums a part and then fetches the others' sums: two moves, in which every rank reads
        2 (size − 1)/size of the array and adds only its share.
        """
        if self.size == 1:
            return x
        x = self._begin(self._array(x))
        part = self._sum(self._swap(x.reshape(-1)))
        out = empty(self._xp, (x.size,), x.dtype)
        self._gather(part, out)
        self._enter("all_reduce", (self.size - 1) * part.nbytes + x.nbytes - part.nbytes)
        return self._end(out.reshape(x.shape))

    def broadcast(self, x, root=0):
        """Return the root's array on every rank (there, the array itself; the others' x is not looked at)."""
        if self.size == 1:
            return x
        out = self._spread(self._array(x) if self.rank == root else x, root)
        self._enter("broadcast", out.nbytes * (self.rank != root))
        return out

    def share(self, obj):
        """Return rank 0's Python object on every rank (the others pass None).  It must not be written to."""
        return self._tell(obj)[0]

    def part(self, length):
        """Return this rank's slice of `length` things; ArgumentError unless they divide evenly."""
        if length % self.size:
            raise ArgumentError(f"{length} cannot be shared evenly by {self.size} ranks")
        return self._rows(length, self.rank)

    def _array(self, x):
        """Return x; ArgumentError unless it is an array."""
        expect(hasattr(x, "nbytes"), self.label or "collective", "an array", x)
        return x

    def _tell(self, thing):
        return [thing]

    def _group(self, ranks):
        return Comm(self.device)

    def _rows(self, length, rank):
        """A rank's slice of `length` things, which need not divide evenly."""
        return slice(length * rank // self.size, length * (rank + 1) // self.size)

    def _by_rank(self, x, axis):
        """View x with a row for each rank: its part of the axis."""
        axis = range(x.ndim)[axis]  # -1 is the last
        mine = self.part(x.shape[axis])
        cut = x.reshape(*x.shape[:axis], self.size, mine.stop - mine.start, *x.shape[axis + 1 :])
        return self._xp.moveaxis(cut, axis, 0)

    def _sum(self, arrays):
        out = self._xp.add(arrays[0], arrays[1], out=empty(self._xp, arrays[0].shape, arrays[0].dtype))
        for a in arrays[2:]:
            out += a
        return out

    def _agree(self, kinds):
        """Raise unless the arrays of all ranks have one shape and dtype."""
        if len(kinds := sorted(set(kinds))) > 1:
            raise ArgumentError(f"{self.label or 'collective'}: the ranks' arrays differ: {kinds}")

    def _enter(self, collective, nbytes):
        self.calls[self.label, collective] += 1
        self.ledger[self.label, collective] += nbytes


def launch(fn: Callable, devices: str | list[Device], parts: int | None = None, processes=False) -> list:
    """Run fn(comm) on every device at once; return the list of what this process's ranks returned.

    devices: a list of `Device`, or a text as `tinyalex.devices` describes it ("cpu:0,cpu:1", "cpu", "cuda:0",
    "mpi" …); parts: into how many equal parts the work can be cut, for "cpu" and "cuda".

    Threads: each device is a rank of this process.  processes: rank 0 is this process, each other CPU one of
    its own, where the system can (`tinyalex.comm.processes`); that is faster, for threads take turns in
    Python, but what fn changes there is not seen here.  mpi: this process is one rank of those that mpiexec
    started.  Each CPU rank has one BLAS thread.  If a rank raises, the others are stopped; see the transport.
    Raises DeviceError for devices of different kinds, a CPU core named twice, or a device that is not here.
    """
    check_functions("launch: ", fn=fn)
    transport, devices = read(devices, parts) if isinstance(devices, str) else ("threads", devices)
    transport = "processes" if processes and transport == "threads" else transport
    return import_module(TRANSPORTS[transport]).launch(fn, devices)
