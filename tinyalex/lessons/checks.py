"""Holes in a lesson, and checks that say what is wrong with an answer.

A hole is a function that the learner completes.  Its solution stands in `tinyalex.lessons.holes`, with the
cases it is tried on, a ladder of hints, and typical wrong answers, each with what to tell who gave it:

    @hole(
        cases=lambda rng: [(rng.standard_normal((4, 3)), 2.0)],
        hints=["…", "…", "…"],
        wrong=[("a * x", "x", "a is missing: …")],
    )
    def scaled(x, a):
        '''y = a·x.'''
        y = a * x
        return y

A wrong answer is (text of the solution, what stands there instead, message), or (function, message).  A check
runs the learner's function and the solution on the same arguments.  Where they differ, it looks first for a
wrong answer that gives the learner's numbers, and then for what goes wrong everywhere: axes in another order,
another dtype, a sign, a factor, a flip, an upstream gradient that is not used.
"""

import ast
import contextlib
import importlib
import inspect
import itertools
from typing import NamedTuple

import numpy as np

PASSED, NOT_YET, WRONG = "✓ passed", "… not yet", "✗ not right"
TOLERANCES = {"float32": 1e-4, "float64": 1e-8}  # of the largest number that is expected


class Hole(NamedTuple):
    """A function to complete: its solution, and what is needed to judge an answer and to help."""

    solution: callable
    cases: callable  # (rng) → list of argument tuples
    hints: tuple
    wrong: tuple

    @property
    def name(self):
        """The function's name."""
        return self.solution.__name__

    @property
    def source(self):
        """The solution's text, without its decorator."""
        lines, _ = inspect.getsourcelines(self.solution)
        start = next(i for i, line in enumerate(lines) if line.startswith("def "))
        return "".join(lines[start:]).rstrip()

    def mistakes(self):
        """[(function, message)]: the typical wrong answers."""
        return [entry if len(entry) == 2 else (self._instead(*entry[:2]), entry[2]) for entry in self.wrong]

    def _instead(self, old, new):
        if (found := self.source.count(old)) != 1:
            raise ValueError(f"{self.name}: expected {old!r} once in the solution, found {found}")
        return self.compiled(self.source.replace(old, new))

    def compiled(self, source):
        """Return the function that a text of it defines, among the names of the solution's file."""
        scope = dict(self.solution.__globals__)
        exec(source, scope)
        return scope[self.name]


def _line(text):
    return " ".join(text.split())


def hole(cases, hints, wrong):
    """Mark a function as the solution of a hole; the texts may be broken into lines at will."""

    def mark(solution):
        answers = tuple((*given, _line(message)) for *given, message in wrong)
        solution.hole = Hole(solution, cases, tuple(map(_line, hints)), answers)
        return solution

    return mark


def holes_of(number):
    """{name: Hole} of a lesson, in the order of its file."""
    module = importlib.import_module(f"tinyalex.lessons.holes.lesson{number:02d}")
    return {value.hole.name: value.hole for value in vars(module).values() if hasattr(value, "hole")}


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
    holes = holes_of(number)
    seen = dict.fromkeys(holes, 0)
    answers = {}  # what was checked last: the notebook's name stands for the solution after a wrong answer

    def find(name):
        name = getattr(name, "__name__", name)
        if name not in holes:
            raise ValueError(f"lesson {number}: expected one of {', '.join(holes)}, found {name}")
        return holes[name]

    def check(function):
        found = find(function)
        if function is found.solution:  # the cell was run again: check has put the solution under this name
            state, message = NOT_YET, "this is the book's solution: run the cell with your function first."
        else:
            state, message = judge(found, function)
            answers[found.name] = function
        print(f"{state}: {found.name}\n{message}".rstrip())
        if state == WRONG:
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
        show(found, answers.get(found.name, found.solution))

    return Lesson(check, hint, solution, tutor)


@np.errstate(all="ignore")  # a NaN is told of in words
def judge(hole, function):
    """Return (PASSED, NOT_YET or WRONG, what to say about the function as an answer to the hole)."""
    if todo := _todo(function):
        return NOT_YET, f"still to do: {todo}"
    for args in hole.cases(np.random.default_rng(2012)):
        used, kept = _copies(args), _copies(args)
        expected = hole.solution(*kept)
        try:
            found = function(*used)
        except Exception as error:
            return WRONG, _raised(error, args)
        if found is None:
            return NOT_YET, "it returns nothing."
        problem = _written_to(hole, used, kept) or _difference(found, expected, _names(hole))
        if problem:
            return WRONG, _known(hole, args, found) or _ignored(hole, function, args) or problem
    return PASSED, ""


def _copies(args):
    return [a.copy() if isinstance(a, np.ndarray) else a for a in args]


def _names(hole):
    """Names of what the solution returns: of `return dx, dw` dx and dw."""
    value = [node for node in ast.walk(ast.parse(hole.source)) if isinstance(node, ast.Return)][-1].value
    parts = value.elts if isinstance(value, ast.Tuple) else [value]
    return [part.id if isinstance(part, ast.Name) else "the result" for part in parts]


def _parts(value):
    return value if isinstance(value, tuple) else (value,)


def _todo(function):
    """Return the first line of the function that is, assigns or returns `...`; '' if there is none."""
    try:
        lines, _ = inspect.getsourcelines(function)
        nodes = list(ast.walk(ast.parse("".join(lines))))
    except (OSError, TypeError, SyntaxError):
        return ""
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        value = getattr(node, "value", None) if isinstance(node, ast.Expr | ast.Assign | ast.Return) else None
        if isinstance(value, ast.Constant) and value.value is ...:
            return lines[node.lineno - 1].strip()
    return ""


def _raised(error, args):
    shapes = ", ".join(str(a.shape) if isinstance(a, np.ndarray) else repr(a) for a in args)
    text = f"called with {shapes} it raised {type(error).__name__}: {error}"
    inside = error.__traceback__.tb_next  # the learner's function
    with contextlib.suppress(OSError, IndexError, AttributeError):
        lines, start = inspect.getsourcelines(inside.tb_frame.f_code)
        text += f"\n  in: {lines[inside.tb_lineno - start].strip()}"
    return text


def _written_to(hole, used, kept):
    for name, mine, theirs in zip(inspect.signature(hole.solution).parameters, used, kept, strict=True):
        if isinstance(mine, np.ndarray) and not np.array_equal(mine, theirs, equal_nan=True):
            return f"it wrote into its argument {name}, which the caller still needs.  Work on a copy."
    return ""


def _known(hole, args, found):
    """Return the message of the typical wrong answer that gives these numbers."""
    for mistake, message in hole.mistakes():
        with contextlib.suppress(Exception):
            if not _difference(found, mistake(*_copies(args)), _names(hole)):
                return message
    return ""


def _ignored(hole, function, args):
    """Is the upstream gradient, the argument dy, without effect?"""
    names = list(inspect.signature(hole.solution).parameters)
    if "dy" not in names:
        return ""
    i = names.index("dy")
    first, other = _copies(args), _copies(args)
    other[i] = np.random.default_rng(0).standard_normal(args[i].shape).astype(args[i].dtype)
    with contextlib.suppress(Exception):
        found = function(*first)
        telling = all(np.isfinite(part).all() and np.any(part) for part in _parts(found))
        if telling and not _difference(found, function(*other), _names(hole)):
            return (
                "the upstream gradient dy has no effect: another dy gives the same numbers.  By the chain "
                "rule every gradient is linear in dy."
            )
    return ""


def _difference(found, expected, names):
    """Say how found differs from expected; '' if it does not."""
    found, expected = _parts(found), _parts(expected)
    if len(found) != len(expected):
        return f"expected {', '.join(names)}: {len(expected)} value(s), found {len(found)}"
    for name, mine, theirs in zip(names, found, expected, strict=True):
        if text := _array_difference(mine, theirs):
            return f"{name}: {text}" if len(names) > 1 or name != "the result" else text
    return ""


def _array_difference(found, expected):
    if isinstance(expected, np.ndarray) and not isinstance(found, np.ndarray | np.generic):
        return f"expected an array {expected.shape}, found {type(found).__name__}."
    a, b = np.asarray(found), np.asarray(expected)
    if b.dtype.kind not in "fiub":  # text and the like
        return "" if a.shape == b.shape and (a == b).all() else f"expected {expected!r}, found {found!r}."
    if a.dtype.kind not in "fiub":
        return f"expected numbers, found {found!r}."
    if a.shape != b.shape:
        return _other_shape(a, b)
    if isinstance(expected, np.ndarray) and b.dtype.kind == "f" and a.dtype != b.dtype:
        return f"dtype: expected {b.dtype}, as the arguments are; found {a.dtype}."
    if _close(a, b):
        return ""
    if not np.isfinite(a).all():
        return "it is not finite: there is a NaN or an infinity in it."
    if b.dtype.kind == "b" or a.dtype.kind == "b" or b.ndim == 0:
        return _worst(a, b)
    return _pattern(a.astype(np.float64), b.astype(np.float64)) or _worst(a, b)


def _close(a, b):
    tolerance = TOLERANCES.get(b.dtype.name, 1e-8)
    a, b = a.astype(np.float64), b.astype(np.float64)
    scale = np.abs(b[np.isfinite(b)]).max(initial=1e-30)
    near = (np.abs(a - b) <= tolerance * scale) | (a == b) | (np.isnan(a) & np.isnan(b))
    return bool(near.all())


def _other_shape(a, b):
    text = f"expected shape {b.shape}, found {a.shape}"
    if a.ndim == b.ndim:
        for axes in itertools.permutations(range(a.ndim)):
            turned = a.transpose(axes)
            if turned.shape == b.shape and _close(turned, b):
                return f"{text}: the right numbers, transposed."
    if a.size == b.size and _close(a.reshape(b.shape), b):
        return f"{text}: the right numbers, to be reshaped."
    return f"{text}."


def _pattern(a, b):
    """What is wrong with all numbers alike."""
    if not a.any():
        return "everything is 0."
    if not b.any():
        return ""
    factor = (a * b).sum() / (b * b).sum()
    if _close(a, factor * b):
        if abs(factor + 1) < 1e-6:
            return "the sign is the other way round, everywhere."
        return f"everything is {factor:.6g} times as large as it should be: a factor is missing or too many."
    for n in range(1, b.ndim + 1):
        for axes in itertools.combinations(range(b.ndim), n):
            if _close(np.flip(a, axes), b):
                return f"the right numbers, flipped along axis {' and '.join(map(str, axes))}."
    shift = (a - b).flat[0]
    if _close(a - shift, b):
        return f"everything is too large by {shift:.6g}."
    return ""


def _worst(a, b):
    if b.ndim == 0:
        return f"expected {b[()]:.6g}, found {a[()]:.6g}."
    gap = np.abs(a.astype(np.float64) - b.astype(np.float64))
    tolerance = TOLERANCES.get(b.dtype.name, 1e-8) * np.abs(b).max()
    worst = np.unravel_index(gap.argmax(), gap.shape)
    index = ", ".join(map(str, worst))
    right = int((gap <= tolerance).sum())
    return (
        f"{right} of {b.size} numbers are right; the furthest off is at [{index}]: "
        f"expected {b[worst]:.6g}, found {a[worst]:.6g}."
    )
