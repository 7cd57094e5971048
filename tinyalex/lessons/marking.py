"""Answers marked by the course's checks, each computed in a locked process (`apart`).

The checks run in processes of this module, one a core: they have the solutions, and are never where an answer
is.  What an answer sends may still be hard to work with, a case for `kill` that takes hours, say; so they
have limits too, and one that does not come back is ended, and another takes its place.
"""

import contextlib
import math
import multiprocessing
import os
import re
import signal
import time
import types
import warnings
from multiprocessing.connection import wait
from typing import NamedTuple

import numpy as np

from tinyalex.errors import TinyalexError
from tinyalex.files import printable
from tinyalex.lessons import apart, sandbox
from tinyalex.lessons.checks import PASSED, WRONG, Hole, Verdict, examine, holes_of
from tinyalex.lessons.notebook import asked

MEMORY = 4 << 30  # bytes of a process that marks
LONGEST = 3 * apart.PATIENCE * apart.SECONDS + apart.STARTING  # seconds that one answer may take it
MOST_MESSAGE = 1500  # characters


class Answer(NamedTuple):
    """What a student wrote for one function."""

    lesson: int
    name: str
    text: str  # of the cell
    before: tuple = ()  # of the cells above it


def mark(answer, seed):
    """Return the Verdict on an answer: by the cases that all have seen, then by those of the seed."""
    hole = asked(answer.lesson)[answer.name]
    try:
        with apart.Apart(
            answer.text, answer.name, answer.before, lent(hole, answer), again=not isinstance(hole, Hole)
        ) as function:
            verdict = examine(hole, function)
            if verdict.state == PASSED and isinstance(hole, Hole):
                drawn = hole.cases(np.random.default_rng(seed))
                verdict = examine(hole._replace(cases=lambda rng: drawn), function)
    except Exception as error:
        verdict = Verdict(WRONG, f"{type(error).__name__}: {error}", "bare error")
    message = verdict.message[:MOST_MESSAGE].encode("utf-8", "replace").decode()
    return verdict._replace(message="\n".join(map(printable, message.split("\n"))))


def lent(hole, answer):
    """{name: value}: what an answer finds that the lesson's earlier cells make.

    An earlier hole's function is the book's, and stays here: it can be called.
    """
    words = set(re.findall(r"\w+", " ".join((answer.text, *answer.before))))
    home = hole.solution.__globals__
    earlier = _earlier(hole)
    found = {}
    for name in sorted(words & home.keys()):
        value = home[name]
        module = getattr(value, "__module__", None) or ""
        if name.startswith("_"):
            continue
        if isinstance(value, types.FunctionType) and module.startswith("tinyalex.lessons"):
            if value in earlier:
                found[name] = value
        elif isinstance(value, types.ModuleType):
            if value in (np, math):
                found[name] = value
        elif not isinstance(value, type) and (not callable(value) or module.startswith("tinyalex.comm")):
            found[name] = value
    return found


def _earlier(hole):
    """The solutions of what comes before a hole, and the functions that an exercise is about."""
    if not isinstance(hole, Hole):
        return [*hole.right, *hole.broken, *(other.solution for other in holes_of(hole.lesson).values())]
    here = [v for v in hole.solution.__globals__.values() if hasattr(v, "hole")]
    return here[: here.index(hole.solution)]


# ---- several at a time


class _Marker:
    """A process that marks."""

    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self.line, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.until = math.inf

    def give(self, answer, seed):
        """Let it mark an answer."""
        self.line.send((answer, seed))
        self.until = time.monotonic() + LONGEST

    def taken(self):
        """Return the Verdict, or why there can be none; None where the process has ended, or has to."""
        with contextlib.suppress(EOFError, OSError):
            if self.line.poll():
                return self.line.recv()
        return None

    def end(self):
        """End it; an answer's process ends with it."""
        self.process.kill()
        self.process.join()
        self.line.close()


def _work(line):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the work
    warnings.simplefilter("ignore")
    sandbox.limit(MEMORY)
    with contextlib.suppress(EOFError, OSError):
        while True:
            given = line.recv()
            try:
                line.send(mark(*given))
            except apart.NotStarted as error:
                line.send(str(error))


def verdicts(answers, seed):
    """Mark answers, several at a time; yield (place in the list, Verdict) as they are ready."""
    todo = list(enumerate(answers))[::-1]
    markers = [_Marker() for _ in range(min(len(todo), os.cpu_count() or 1))]
    at = {}  # marker: place in the list of what it marks
    try:
        while todo or at:
            for marker in markers:
                if marker not in at and todo:
                    at[marker], answer = todo.pop()
                    marker.give(answer, seed)
            left = min(marker.until for marker in at) - time.monotonic()
            ready = wait([marker.line for marker in at], max(0, left))
            for marker in list(at):
                late = time.monotonic() > marker.until
                if marker.line not in ready and not late:
                    continue
                verdict = marker.taken()
                if isinstance(verdict, str):
                    raise TinyalexError(f"class mark: no process could be started and locked in: {verdict}")
                if verdict is None:
                    verdict = Verdict(WRONG, GAVE_UP, "bare error")
                    marker.end()
                    markers[markers.index(marker)] = _Marker()
                yield at.pop(marker), verdict
    finally:
        for marker in markers:
            marker.end()


GAVE_UP = (
    "what it gives back could not be compared in some minutes and 4 GiB: are the arrays too large?  "
    "A small case is enough."
)
