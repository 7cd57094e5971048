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
import functools
import importlib
import inspect
import itertools
import linecache
import re
from typing import NamedTuple

import numpy as np

from tinyalex.lessons.facts import Trial, axes_of, close, copies, made, on_the_way, parts, tell, worst
from tinyalex.lessons.raised import help_with
from tinyalex.lessons.variants import counters, guarded, variants

PASSED, NOT_YET, WRONG = "✓ passed", "… not yet", "✗ not right"


@functools.cache  # to find it anew takes longer than to judge an answer
def source_of(function):
    """Return a function's text, without its decorator."""
    lines, _ = inspect.getsourcelines(function)
    start = next(i for i, line in enumerate(lines) if line.startswith("def "))
    return "".join(lines[start:]).rstrip()


class Hole(NamedTuple):
    """A function to complete: its solution, and what is needed to judge an answer and to help."""

    solution: callable
    cases: callable  # (rng) → list of argument tuples
    hints: tuple
    wrong: tuple
    view: bool = False  # whether the result has to lie in the memory of the first argument

    @property
    def name(self):
        """The function's name."""
        return self.solution.__name__

    @property
    def source(self):
        """The solution's text, without its decorator."""
        return source_of(self.solution)

    def mistakes(self):
        """[(function, message)]: the typical wrong answers."""
        return [entry if len(entry) == 2 else (self._instead(*entry[:2]), entry[2]) for entry in self.wrong]

    def _instead(self, old, new):
        if (found := self.source.count(old)) != 1:
            raise ValueError(f"{self.name}: expected {old!r} once in the solution, found {found}")
        return self.compiled(self.source.replace(old, new))

    def compiled(self, source):
        """Return the function that a text of it defines, among the names of the solution's file.

        Tracebacks and `inspect` find its lines.
        """
        scope = dict(self.solution.__globals__)
        file = f"<{self.name}>"
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        exec(compile(source, file, "exec"), scope)
        return scope[self.name]

    @property
    def results(self):
        """Names of what the solution returns: of `return dx, dw` dx and dw."""
        value = [node for node in ast.walk(ast.parse(self.source)) if isinstance(node, ast.Return)][-1].value
        values = value.elts if isinstance(value, ast.Tuple) else [value]
        return [value.id if isinstance(value, ast.Name) else "the result" for value in values]


def _line(text):
    return " ".join(text.split())


def hole(cases, hints, wrong, view=False):
    """Mark a function as the solution of a hole; the texts may be broken into lines at will."""

    def mark(solution):
        answers = tuple((*given, _line(message)) for *given, message in wrong)
        solution.hole = Hole(solution, cases, tuple(map(_line, hints)), answers, view)
        return solution

    return mark


LESSONS = range(18)  # their numbers


def holes_of(number):
    """{name: Hole} of a lesson, in the order of its file."""
    module = importlib.import_module(f"tinyalex.lessons.holes.lesson{number:02d}")
    return {value.hole.name: value.hole for value in vars(module).values() if hasattr(value, "hole")}


class Verdict(NamedTuple):
    """What is thought of an answer."""

    state: str  # PASSED, NOT_YET or WRONG
    message: str
    how: str = ""  # what a wrong one is told from, one of HOW


HOW = {
    "mistake": "a typical wrong answer gives these numbers",
    "rule": "a shape, a type, an argument written into, with what it may come from",
    "fact": "something seen in the numbers: `facts`",
    "error": "an error, and help with it: `raised`",
    "variant": "nothing else, but the book's solution with one thing otherwise gives these numbers",
    "shape": "two shapes and nothing more",
    "bare error": "an error and nothing more",
    "worst": "the number that is furthest off and nothing more",
}


def judge(hole, function):
    """Return (PASSED, NOT_YET or WRONG, what to say about the function as an answer to the hole)."""
    return examine(hole, function)[:2]


@np.errstate(all="ignore")  # a NaN is told of in words
def examine(hole, function, look_up=True):
    """Return the Verdict on a function as an answer to the hole.

    look_up: whether an answer that is wrong in no way foreseen is compared with variants of the solution.
    """
    if todo := _todo(function):
        return Verdict(NOT_YET, f"still to do: {todo}")
    if hasattr(hole, "judge"):  # an exercise of `kill` judges for itself
        return Verdict(*hole.judge(function))
    trials, failed = [], None
    for args in hole.cases(np.random.default_rng(2012)):
        used, kept = copies(args), copies(args)
        expected = hole.solution(*kept)
        _spoil(expected)
        try:
            found = function(*used)
        except Exception as error:
            if failed is None and all(_difference(t.found, t.expected, hole.results) == "" for t in trials):
                return _error(hole, function, error, args)
            continue
        if found is None and not trials:
            return Verdict(NOT_YET, "it returns nothing.")
        if found is None:
            given = ", ".join(
                f"{name} {value!r}"
                for name, value in zip(inspect.signature(hole.solution).parameters, args, strict=True)
                if not isinstance(value, np.ndarray)
            )
            return Verdict(WRONG, f"in one of the cases it returns nothing: {given}.", "rule")
        if problem := _written_to(hole, used, kept):
            return Verdict(WRONG, problem, "rule")
        if isinstance(found, list) and isinstance(expected, tuple):
            found = tuple(found)
        trials.append(Trial(args, parts(expected), parts(found)))
        if failed is None and (problem := _difference(found, expected, hole.results)):
            failed = problem
            if "expected float32" in problem and any(getattr(a, "dtype", "") == np.float32 for a in args):
                failed += "  What comes in as float32 goes out as float32."
        if failed is None and hole.view and not np.shares_memory(parts(found)[0], used[0]):
            failed = (
                "the right numbers, but copied: a view is asked for, which lies in its argument's memory."
            )
    if failed is None:
        return Verdict(PASSED, "")
    if message := _known(hole, trials):
        return Verdict(WRONG, message, "mistake")
    variant = _variant(hole, function, trials) if look_up else ""
    if failed != _WORST:
        bare = re.search(r"found [(][^()]*[)][.]$", failed)  # two shapes and nothing more
        further = _shape_help(hole, function, trials) if "shape" in failed else ""
        how = "variant" if variant else "shape"
        return _wrong("rule" if further or not bare else how, failed, further, variant)
    if fact := tell(hole, function, trials):
        return _wrong("fact", fact, variant)
    return _wrong("variant", variant) if variant else _wrong("worst", worst(hole, trials))


def _shape_help(hole, function, trials):
    """Say what a result of another shape may be."""
    names, axes = hole.results, axes_of(hole)
    trial = next(t for t in trials if _difference(t.found, t.expected, names))
    k = next(k for k in range(len(names)) if np.shape(trial.found[k]) != np.shape(trial.expected[k]))
    found, expected = np.shape(trial.found[k]), np.shape(trial.expected[k])
    texts = []
    if len(axes.get(names[k], ())) == len(expected) > 0:
        texts.append(f"It should be ({', '.join(axes[names[k]])}).")
    local = made(hole.solution, trial.args)
    things = [*zip(inspect.signature(hole.solution).parameters, trial.args, strict=True),
              *zip(names, trial.expected, strict=True), *local.items()]  # fmt: skip
    alike = [n for n, v in things if isinstance(v, np.ndarray) and v.shape == found and n != names[k]]
    if not expected:
        texts.append("One number is expected: it has not been summed, or averaged, over everything.")
    elif not found:
        texts.append("That is a single number: it was summed, or averaged, over everything.  See axis=….")
    elif alike:
        texts.append(f"That is the shape of {alike[0]}.")
    else:
        arrays = [(n, v.shape) for n, v in things if isinstance(v, np.ndarray) and n != names[k]]
        for axis, size in enumerate(found):
            if size not in expected:
                sources = [
                    f"axis {j} of {n}" for n, shape in arrays for j in range(len(shape)) if shape[j] == size
                ]
                if sources:
                    texts.append(f"Its axis {axis} is as long as {sources[0]}: {size}.")
    if text := on_the_way(hole, function, trials):
        texts.append(text)
    return "  ".join(texts) if len(texts) > 1 or not texts or "should" not in texts[0] else ""


def _spoil(expected):
    """Fill free memory with NaN, so that np.empty does not by chance return what was right before."""
    del [[np.full(np.shape(part), np.nan) for part in parts(expected)] for _ in range(8)][:]


def _wrong(how, *texts):
    return Verdict(WRONG, "\n".join(filter(None, texts)), how)


_WORST = "the numbers are others"  # no rule is broken: facts are to be found


def _error(hole, function, error, args):
    text, advice = help_with(hole, function, error, args)
    return Verdict(WRONG, f"{text}\n{advice}".rstrip(), "error" if advice else "bare error")


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


def _written_to(hole, used, kept):
    for name, mine, theirs in zip(inspect.signature(hole.solution).parameters, used, kept, strict=True):
        if isinstance(mine, np.ndarray) and not np.array_equal(mine, theirs, equal_nan=True):
            return f"it wrote into its argument {name}, which the caller still needs.  Work on a copy."
    return ""


def _known(hole, trials):
    """Return the message of the typical wrong answer that gives these numbers, in all cases.

    Where none gives all of them, it may give the one result that is the first to be wrong.
    """
    partly = ""
    for mistake, message in hole.mistakes():
        with contextlib.suppress(Exception):
            theirs = [parts(mistake(*copies(t.args))) for t in trials]
            if all(not _difference(t.found, p, hole.results) for t, p in zip(trials, theirs, strict=True)):
                return message
            if not partly and len(hole.results) > 1 and _same_part(hole, trials, theirs):
                partly = message
    return partly


def _same_part(hole, trials, theirs):
    """Are the learner's numbers those of a mistake in the first result that is wrong?"""
    for k in range(len(hole.results)):
        if any(_array_difference(t.found[k], t.expected[k]) for t in trials):
            agree = all(not _array_difference(t.found[k], p[k]) for t, p in zip(trials, theirs, strict=True))
            return agree and any(
                _array_difference(t.expected[k], p[k]) for t, p in zip(trials, theirs, strict=True)
            )
    return False


def _variant(hole, function, trials):
    """Say with which small change the book's solution gives these numbers."""
    mine = _statements(function)
    for what, line, text, statement in variants(hole.source):
        if statement in mine:
            continue  # the learner has this line just so
        scope = {**hole.solution.__globals__, **counters()}
        with contextlib.suppress(Exception):
            exec(guarded(text), scope)
            other = scope[hole.name]
            if all(not _difference(t.found, other(*copies(t.args)), hole.results) for t in trials):
                return f"The book's solution gives your numbers if, in the line that makes `{line}`, {what}."
    return ""


def _statements(function):
    """Return the texts of the single statements of a function."""
    try:
        tree = ast.parse("".join(inspect.getsourcelines(function)[0]))
    except (OSError, TypeError, SyntaxError):
        return set()
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)}


def _difference(found, expected, names):
    """Say how found differs from expected; '' if it does not."""
    found, expected = parts(found), parts(expected)
    if len(found) != len(expected):
        values = "1 value" if len(expected) == 1 else f"{len(expected)} values"
        kind = f", {_article(found[0])}" if len(found) == 1 else ""
        return f"expected {values}, {', '.join(names)}; found {len(found)}{kind}."
    for name, mine, theirs in zip(names, found, expected, strict=True):
        if text := _array_difference(mine, theirs):
            return text if text == _WORST or (len(names) == 1 and name == "the result") else f"{name}: {text}"
    return ""


def _array_difference(found, expected):
    """Say what rule an array breaks, or _WORST if only its numbers are others."""
    if callable(found):
        name = getattr(found, "__name__", "it")
        return f"expected numbers, found the function {name}: round brackets behind it call it."
    if isinstance(expected, np.ndarray) and not isinstance(found, np.ndarray | np.generic):
        return f"expected an array {expected.shape}, found {type(found).__name__}."
    try:
        a, b = np.asarray(found), np.asarray(expected)
    except ValueError:  # lists of different lengths
        return f"expected {_kind(expected)}, found {found!r}."
    if b.dtype.kind not in "fiub":  # text and the like
        return "" if a.shape == b.shape and (a == b).all() else f"expected {expected!r}, found {found!r}."
    if a.dtype.kind not in "fiub":
        return f"expected numbers, found {_kind(found)}."
    if a.shape != b.shape:
        return _other_shape(a, b)
    if isinstance(expected, np.ndarray) and b.dtype.kind in "fu" and a.dtype != b.dtype:
        return f"dtype: expected {b.dtype}, found {a.dtype}."
    if isinstance(expected, np.ndarray) and b.dtype.kind == "i" and a.dtype.kind not in "iu":
        return f"dtype: expected whole numbers, {b.dtype}; found {a.dtype}."
    return "" if close(a, b).all() else _WORST


def _article(value):
    return f"an array {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _kind(value):
    return f"{type(value).__name__} {value!r}"


def _other_shape(a, b):
    text = f"expected shape {b.shape}, found {a.shape}"
    if a.ndim == b.ndim:
        for axes in itertools.permutations(range(a.ndim)):
            turned = a.transpose(axes)
            if turned.shape == b.shape and close(turned, b).all():
                return f"{text}: the right numbers, transposed."
        if sorted(a.shape) == sorted(b.shape):
            return f"{text}: the sizes in another order, axes are exchanged."
        apart = [(k, m - n) for k, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n]
        if len(apart) == 1:
            axis, by = apart[0]
            return f"{text}: {abs(by)} {'too many' if by > 0 else 'too few'} along axis {axis}."
    if a.size == b.size and close(a.reshape(b.shape), b).all():
        return f"{text}: the right numbers, to be reshaped."
    if a.ndim == 1 < b.ndim and a.size < b.size and np.isin(a, b).all():
        return (
            f"{text}: a[mask] picks numbers out, and their places are lost.  Multiply by the mask, or take "
            "np.where."
        )
    if a.ndim < b.ndim:
        missing = [k for k in range(b.ndim) if b.shape[:k] + b.shape[k + 1 :] == a.shape]
        if missing:
            return f"{text}: axis {missing[-1]} is missing; was it summed away?  (keepdims=True keeps it.)"
    if a.ndim > b.ndim:
        extra = [k for k in range(a.ndim) if a.shape[:k] + a.shape[k + 1 :] == b.shape]
        if extra:
            return f"{text}: axis {extra[-1]} is too many; should it be summed over, or indexed?"
    return f"{text}."
