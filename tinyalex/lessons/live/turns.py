"""Ranks that take turns, for want of threads: the transport of `tinyalex.comm` in a browser.

A rank runs until it needs what another has not given yet.  Then it is ended, and begins again later, when its
collectives answer at once what they answered before, up to the place where it waited.  So a program is run as
often as it has collectives, and must do the same each time: what it changes, it must have made itself.
"""

import contextlib
import copy

from tinyalex.comm import Comm
from tinyalex.errors import ArgumentError


class _Waits(BaseException):
    """Raised in a rank that needs what another has not given yet; no `except Exception` catches it."""


class TurnsComm(Comm):
    """A rank that takes turns with the others.

    meetings: for each, {rank: what it gave}; news: a list that grows when something is given.
    """

    def __init__(self, device, rank, size, meetings, news):
        super().__init__(device)
        self.rank, self.size, self._meetings, self._news, self._next = rank, size, meetings, news, 0

    def _begin(self, x):
        self._agree(self._tell((x.shape, x.dtype.name)))
        return x

    def _swap(self, x):
        mine = self._rows(len(x), self.rank)
        return [theirs[mine] for theirs in self._tell(x)]

    def _gather(self, part, out):
        for rank, theirs in enumerate(self._tell(part)):
            out[self._rows(len(out), rank)] = theirs

    def _spread(self, x, root):
        found = self._tell(x if self.rank == root else None)[root]
        return x if self.rank == root else found.copy()

    def _end(self, out):
        return out

    def _tell(self, thing):
        if self._next == len(self._meetings):
            self._meetings.append({})
        given = self._meetings[self._next]
        self._next += 1
        if self.rank not in given:
            given[self.rank] = copy.deepcopy(thing)  # as it is now: its owner goes on
            self._news.append(self.rank)
        if len(given) < self.size:
            raise _Waits
        return [given[rank] for rank in range(self.size)]

    def _group(self, ranks):
        meetings = self._tell([] if self.rank == ranks[0] else None)[ranks[0]]
        return TurnsComm(self.device, ranks.index(self.rank), len(ranks), meetings, self._news)


def launch(fn, devices):
    """Run fn(comm) for every device in turns; return the list of what each rank returned.

    ArgumentError if each waits for another: not all call the same collectives.
    """
    size, meetings, news, results = len(devices), [], [None], {}
    while len(results) < size:
        if not news:
            raise ArgumentError("ranks: each waits for another; all must call the same collectives")
        news.clear()
        for rank in range(size):
            if rank not in results:
                with contextlib.suppress(_Waits):
                    results[rank] = fn(TurnsComm(devices[rank], rank, size, meetings, news))
                    news.append(rank)
    return [results[rank] for rank in range(size)]
