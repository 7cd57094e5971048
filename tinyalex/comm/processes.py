"""Ranks that are processes of one machine, with memory that they share (Linux; elsewhere they are threads).

Threads of one process take turns in Python; processes do not.  `launch` goes on as rank 0 and forks the other
ranks, so each finds all that was there before, and fn may be any function; but what another rank changes is
seen by itself alone.  What it returns, or raises, comes back as a pickle.

The ranks tell each other pickles over sockets, and show arrays in memory that has no name: all of it is gone
with the last process, however that ends.  A rank that has ended has left its sockets shut, which the others
find where they next meet.
"""

import math
import mmap
import os
import pickle
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from itertools import combinations
from multiprocessing import Pipe
from multiprocessing.pool import ExceptionWithTraceback
from typing import NamedTuple

import numpy as np

from tinyalex.comm import Comm, threads
from tinyalex.comm.mpi import until
from tinyalex.comm.threads import Stopped
from tinyalex.errors import DeviceError
from tinyalex.memory import empty

PATIENCE = 4  # seconds that the other ranks have to end where one has failed


class ProcessComm(Comm):
    """A rank that is a process; ``peers`` are its sockets to the others, None to itself.

    opened: a list of the sockets of all communicators of this process.
    """

    def __init__(self, device, rank, peers, opened):
        super().__init__(device)
        self.rank, self.size, self._peers, self._opened = rank, len(peers), peers, opened
        opened += filter(None, peers)
        self._mine = {"swap": np.empty(0, np.uint8), "gather": np.empty(0, np.uint8)}  # what this rank shows
        self._theirs = {"swap": {}, "gather": {}}  # what the others do, by their ranks
        self._new = {}  # file descriptors of memory that the others have not mapped yet

    def _begin(self, x):
        self._agree(self._tell((x.shape, x.dtype.name)))
        return x

    def _swap(self, x):
        shown, mine = self._room("swap", x), self._rows(len(x), self.rank)
        for rank in range(self.size):
            if rank != self.rank:  # nobody reads this rank's own
                rows = self._rows(len(x), rank)
                shown[rows] = x[rows]
        return [theirs[mine] for theirs in self._show("swap", x)]

    def _gather(self, part, out):
        self._room("gather", part)[...] = part
        for rank, theirs in enumerate(self._show("gather", part)):
            out[self._rows(len(out), rank)] = theirs

    def _spread(self, x, root):
        if self.rank == root:
            self._room("swap", x)[...] = x
        shown = self._show("swap", x if self.rank == root else None)[root]
        if self.rank != root:
            x = empty(np, shown.shape, shown.dtype)
            x[...] = shown
        return self._end(x)

    def _end(self, out):
        """Wait until everybody has read what was shown: only then may it be written over."""
        self._tell(None)
        return out

    def share(self, obj):
        """Return rank 0's Python object on every rank (there, the object itself); it travels as a pickle."""
        self._tell(None)  # they meet
        if self.rank:
            return _receive(self._peers[0])[0]
        for peer in self._peers[1:]:
            _send(peer, obj)
        return obj

    def _tell(self, thing):
        return [told for told, _ in self._exchange(thing)]

    def _group(self, ranks):
        peers = []
        for rank in ranks:
            if rank < self.rank:
                _, [descriptor] = _receive(self._peers[rank])
                peers.append(socket.socket(fileno=descriptor))
            elif rank > self.rank:
                here, there = socket.socketpair()
                _send(self._peers[rank], None, [there.fileno()])
                there.close()
                peers.append(here)
            else:
                peers.append(None)
        return ProcessComm(self.device, ranks.index(self.rank), peers, self._opened)

    def _exchange(self, thing, descriptors=()):
        """Tell the others a thing; return all ranks' (thing, file descriptors), in the order of the ranks."""
        for peer in filter(None, self._peers):
            _send(peer, thing, descriptors)
        return [_receive(peer) if peer else (thing, ()) for peer in self._peers]

    def _room(self, move, x):
        """Return memory of this rank that the others can see, as an array like x."""
        if x.nbytes > self._mine[move].size:
            descriptor = os.memfd_create("tinyalex")
            os.ftruncate(descriptor, x.nbytes)
            self._mine[move], self._new[move] = _map(descriptor), descriptor
        return _array(self._mine[move], x.shape, x.dtype)

    def _show(self, move, x):
        """Tell the others what is in this rank's memory, if anything; return all ranks' arrays."""
        new = [self._new.pop(move)] if move in self._new else []
        told = self._exchange(x is not None and (x.shape, x.dtype.str), new)
        for descriptor in new:
            os.close(descriptor)
        arrays = []
        for rank, (kind, descriptors) in enumerate(told):
            for descriptor in descriptors:
                self._theirs[move][rank] = _map(descriptor)
                os.close(descriptor)
            arrays.append(x if rank == self.rank else kind and _array(self._theirs[move][rank], *kind))
        return arrays


def _map(descriptor):
    return np.frombuffer(mmap.mmap(descriptor, 0), np.uint8)


def _array(memory, shape, dtype):
    return np.ndarray(shape, dtype, memory)


def _send(peer, thing, descriptors=()):
    """Send a pickle, its length before it, and file descriptors."""
    data = pickle.dumps(thing)
    try:
        socket.send_fds(peer, [len(data).to_bytes(8, "little")], descriptors)
        peer.sendall(data)
    except OSError:
        raise Stopped from None


def _receive(peer):
    """Return (the thing, the file descriptors) that a peer has sent."""
    try:
        length, descriptors = until(lambda: _arrived(peer))
        if not length:
            raise Stopped
        left, data = int.from_bytes(length, "little"), []
        while left:
            data.append(peer.recv(left))
            if not data[-1]:
                raise Stopped
            left -= len(data[-1])
    except OSError:
        raise Stopped from None
    return pickle.loads(b"".join(data)), descriptors


def _arrived(peer):
    """Return a thing's length, and the file descriptors that come with it; None if it is not here yet."""
    with suppress(BlockingIOError):
        return socket.recv_fds(peer, 8, 1, socket.MSG_DONTWAIT)[:2]


def launch(fn, devices):
    """Run fn(comm) on every device, rank 0 in this process; return the list of what each rank returned.

    If a rank raises, or its process is ended (DeviceError), the others are stopped where they next meet, or
    a few seconds later, and the first error is raised here.  Interrupting stops all ranks likewise.  On other
    systems, and on GPUs, the ranks are threads.
    """
    return threads.launch(fn, devices, _run)


def _run(fn, devices):
    if sys.platform != "linux" or devices[0].kind != "cpu":
        return threads.run(fn, devices)
    ends, children = [[None] * len(devices) for _ in devices], []
    for low, high in combinations(range(len(devices)), 2):
        ends[low][high], ends[high][low] = socket.socketpair()
    try:
        for rank in range(1, len(devices)):
            children.append(_Child(fn, devices[rank], rank, ends))
        _close(ends[1:])  # so that an end is shut when its process ends
        outcomes = [_do(fn, devices[0], 0, ends)]
        late = time.monotonic() + PATIENCE if outcomes[0].failed else math.inf
        outcomes += [child.outcome(late) for child in children]
    finally:
        _close(ends)
        for child in children:
            child.end()
    failed = [outcome for outcome in outcomes if outcome.failed]
    if failed:
        first = min(failed, key=lambda outcome: (outcome.failed, outcome.error is None))
        raise first.error or DeviceError("a rank waited for another, which had come to its end")
    return [outcome.result for outcome in outcomes]


class _Outcome(NamedTuple):
    """What became of a rank.  failed: when it raised the error, infinity where it was stopped or killed."""

    result: object = None
    failed: float | None = None
    error: BaseException | None = None


def _do(fn, device, rank, ends):
    """Be a rank; leave its sockets shut."""
    opened = []
    try:
        with device.context():
            return _Outcome(fn(ProcessComm(device, rank, ends[rank], opened)))
    except Stopped:
        return _Outcome(failed=math.inf)
    except BaseException as error:
        return _Outcome(failed=time.monotonic(), error=error)
    finally:
        for end in opened:
            with suppress(OSError):  # it is closed, or the other's end is
                end.shutdown(socket.SHUT_RDWR)  # a thread may wait there
            end.close()


class _Child:
    """The process of another rank than 0."""

    def __init__(self, fn, device, rank, ends):
        self._rank, (self._report, report) = rank, Pipe(duplex=False)
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()  # or the child would write it again
        with report, warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads are not there: it needs none
            self._pid = os.fork()
            if not self._pid:
                _be(fn, device, rank, ends, report)

    def outcome(self, late):
        """Wait for what becomes of it; from a time of `time.monotonic` on, no longer."""
        while not self._report.poll(min(1, max(0, late - time.monotonic()))):
            if time.monotonic() >= late:
                os.kill(self._pid, signal.SIGKILL)
        try:
            return pickle.loads(self._report.recv_bytes())
        except EOFError:
            code = self.end()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            error = DeviceError(f"rank {self._rank}: its process has ended with {how}")
            return _Outcome(failed=math.inf, error=error)

    def end(self):
        """Wait for its end, and help; return its exit code, or minus the signal that ended it."""
        late = time.monotonic() + PATIENCE
        while self._pid:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._pid, self._code = None, os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= late:
                os.kill(self._pid, signal.SIGKILL)
            else:
                time.sleep(0.001)
        self._report.close()
        return self._code


def _be(fn, device, rank, ends, report):
    """Be another rank than 0, in a process of its own; report what became of it, and end."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # rank 0 answers them
            signal.signal(number, signal.SIG_IGN)
        _close(row for other, row in enumerate(ends) if other != rank)
        report.send_bytes(_pickled(_do(fn, device, rank, ends), rank))
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    finally:
        os._exit(0)


def _pickled(outcome, rank):
    """Return an outcome's pickle; an error that cannot be pickled and read is told by its words."""
    if outcome.error:
        outcome = outcome._replace(error=ExceptionWithTraceback(outcome.error, outcome.error.__traceback__))
    try:
        data = pickle.dumps(outcome)
        if outcome.error:
            pickle.loads(data)
        return data
    except Exception as error:
        cause = outcome.error.exc if outcome.error else error
        named = DeviceError(f"rank {rank}: {type(cause).__name__}: {cause}")
        return pickle.dumps(_Outcome(failed=outcome.failed or time.monotonic(), error=named))


def _close(rows):
    for row in rows:
        for end in filter(None, row):
            end.close()
