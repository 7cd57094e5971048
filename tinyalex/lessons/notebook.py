"""What a lesson's notebook calls: check, hint, solution and tutor."""

import contextlib
import signal
import threading
from typing import NamedTuple

from tinyalex.lessons.checks import NOT_YET, PASSED, WRONG, Hole, holes_of, judge
from tinyalex.lessons.kill import exercises_of

LONGEST = 30  # seconds that an answer may compute; the right ones take less than one


def asked(number):
    """{name: Hole or Exercise}: all that a lesson asks for, first its functions to complete."""
    return {**holes_of(number), **exercises_of(number)}


class Lesson(NamedTuple):
    """The four things that a notebook calls."""

    check: callable
    hint: callable
    solution: callable
    tutor: callable


def lesson(number):
    """Return check, hint, solution and tutor for the holes of a lesson.

    check(function) prints a verdict and returns the function if it is right, else the solution, so that the
    notebook can go on.  hint("name") prints one hint more at each call, solution("name") the solution;
    tutor("name") steps through the answer that was checked last, to the line where it departs.
    """
    holes = asked(number)
    seen = dict.fromkeys(holes, 0)
    answers = {}  # what was checked last: the notebook's name stands for the solution after a wrong answer

    def find(name):
        name = getattr(name, "__name__", name)
        if name not in holes:
            raise ValueError(f"lesson {number}: expected one of {', '.join(holes)}, found {name}")
        return holes[name]

    def check(function):
        found = find(function)
        if function == found.name:
            raise ValueError(f"check takes the function itself, without quotes: check({function})")
        if function is found.solution:  # the cell was run again: check has put the solution under this name
            state, message = NOT_YET, "this is the book's solution: run the cell with your function first."
        else:
            with _ends():
                state, message = judge(found, function)
            answers[found.name] = function
        print(f"{state}: {found.name}\n{message}".rstrip())
        if state == WRONG and isinstance(found, Hole):
            print(f'tutor("{found.name}") steps through it, to the line where it departs.')
        return function if state == PASSED else found.solution

    def hint(name):
        found = find(name)
        k = min(seen[found.name], len(found.hints) - 1)
        seen[found.name] += 1
        print(f"hint {k + 1} of {len(found.hints)}: {found.hints[k]}")

    def solution(name):
        print(find(name).source)

    def tutor(name):
        from tinyalex.lessons.tutor import show

        found = find(name)
        if not isinstance(found, Hole):
            raise ValueError(f"tutor: expected a function that computes something, found {found.name}")
        show(found, answers.get(found.name, found.solution))

    return Lesson(check, hint, solution, tutor)


@contextlib.contextmanager
def _ends():
    """Raise TimeoutError in an answer that computes for too long, and again; where there are such signals.

    Its processor's seconds count, not those of the clock: the machine may be busy.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def endless(*_):
        raise TimeoutError(f"it has computed for {LONGEST} seconds")

    before = signal.signal(signal.SIGVTALRM, endless)
    signal.setitimer(signal.ITIMER_VIRTUAL, LONGEST, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
