"""What a function does line by line, and where it parts from a right answer.

`run` calls a function and keeps its arrays and numbers after every line.  `departure` compares two such
traces by meaning, shape and values, and finds the first line after which the one has what the other has not.
"""

import ast
import contextlib
import functools
import inspect
import itertools
import linecache
import re
import sys
import textwrap
import threading
from collections import Counter
from typing import NamedTuple

import numpy as np

MOST_STEPS = 4000  # a longer run goes on to its end unseen
RETURNED = "returned"
_texts = itertools.count(1)


class Step(NamedTuple):
    """A line that was executed, and what is there after it."""

    line: int  # of the function's text, from 1: where its statement begins
    before: dict  # {name: array or number} before the line
    state: dict  # after it
    changed: tuple  # names
    in_place: frozenset  # those of them whose array is the same object as before


class Trace(NamedTuple):
    """A call, step by step; error: what it raised, if it did."""

    text: list  # the function's lines
    start: dict  # the arguments
    steps: list
    error: Exception | None
    threaded: bool  # did several threads run it?  Their order is one of chance


class Departure(NamedTuple):
    """The first step that departs: its number, the name of what is wrong, and what a right answer has there.

    expected: None where a right answer has nothing to put beside it.
    """

    step: int
    name: str
    expected: object


def compiled(hole, source):
    """Return the function that a text defines among a hole's names; inspect finds the text again."""
    file = f"<answer {next(_texts)}>"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    scope = dict(hole.solution.__globals__)
    exec(compile(source, file, "exec"), scope)
    return scope[hole.name]


def run(function, args):
    """Call the function on copies of the arguments and return its Trace; functions inside it are seen."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    text = textwrap.dedent("".join(lines))
    begins = statements(text)
    codes = set(_codes(function.__code__))
    steps, start, threads = [], {}, set()

    def enter(frame, event, arg):
        if frame.f_code not in codes:
            return None
        threads.add(threading.get_ident())
        outer = frame.f_code is function.__code__
        at, (state, _, _), owners = None, _look(frame, {}, {}), dict(frame.f_locals)
        if outer:
            start.update(state)

        def watch(frame, event, arg):
            nonlocal at, state, owners
            if event == "exception":
                return watch
            if at is not None and (len(steps) < MOST_STEPS or (outer and event == "return")):
                before = state
                state, changed, in_place = _look(frame, before, owners)
                owners = dict(frame.f_locals)
                if event == "return" and arg is not None:
                    state[RETURNED] = _frozen(arg, None)
                    changed = (*changed, RETURNED)
                steps.append(Step(at, before, state, changed, in_place))
            at = begins.get(frame.f_lineno - first + 1, 1)
            return watch

        return watch

    args = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    error = None
    with np.errstate(all="ignore"), _seen(enter):
        try:
            function(*args)
        except Exception as raised:
            error = raised
    return Trace(text.splitlines(), start, steps, error, len(threads) > 1)


def _codes(code):
    yield code
    for inner in code.co_consts:
        if inspect.iscode(inner) and not inner.co_name.startswith("<"):
            yield from _codes(inner)


@contextlib.contextmanager
def _seen(enter):
    """Trace all threads; memory that nobody has written yet is NaN, not what happens to be there."""

    def unwritten(make):
        @functools.wraps(make)
        def made(*args, **kwargs):
            found = make(*args, **kwargs)
            found.fill(np.nan if found.dtype.kind == "f" else 0)
            return found

        return made

    before, empty, empty_like = sys.gettrace(), np.empty, np.empty_like
    np.empty, np.empty_like = unwritten(empty), unwritten(empty_like)
    threading.settrace(enter)
    sys.settrace(enter)
    try:
        yield
    finally:
        sys.settrace(before)
        threading.settrace(before)
        np.empty, np.empty_like = empty, empty_like


def _look(frame, before, owners):
    """Return what a frame holds: {name: value}, the names that changed, those changed in place."""
    state, changed, in_place = {}, [], set()
    for name, value in frame.f_locals.items():
        frozen = _frozen(value, before.get(name))
        if frozen is None:
            continue
        state[name] = frozen
        if frozen is not before.get(name):
            changed.append(name)
            if owners.get(name) is value:
                in_place.add(name)
    return state, tuple(changed), frozenset(in_place)


def statements(text):
    """{line: the line where the statement begins that it belongs to}."""
    begins = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno
            for line in range(node.lineno, max(last, node.lineno) + 1):
                begins[line] = max(node.lineno, begins.get(line, 0))
    return begins


def _frozen(value, before):
    """Return a copy, `before` itself if nothing has changed, None for what is no number or array."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiub":
            return None
        if (
            isinstance(before, np.ndarray)
            and before.shape == value.shape
            and before.dtype == value.dtype
            and before.tobytes() == value.tobytes()
        ):
            return before
        return value.copy()
    if isinstance(value, bool | int | float | np.generic):
        same = type(before) is type(value) and (before == value or (before != before and value != value))
        return before if same else value
    if isinstance(value, tuple | list) and value:
        if isinstance(before, tuple) and len(before) == len(value):
            parts = tuple(_frozen(v, b) for v, b in zip(value, before, strict=True))
            return before if all(p is b for p, b in zip(parts, before, strict=True)) else parts
        return tuple(_frozen(v, None) for v in value)
    return None


def key(value):
    """Return what a value means: equal for equal shapes and numbers that differ by rounding only."""
    if isinstance(value, tuple):
        return tuple(map(key, value))
    if value is None:
        return None
    a = np.asarray(value, np.float64)
    finite = np.isfinite(a)
    scale = np.abs(a[finite]).max(initial=0) or 1
    # the odd factor: round numbers must not lie on the border between two roundings
    near = np.round(np.where(finite, a, 0) / scale * 731_058.6) + 0.0
    odd = np.where(finite, 0, np.where(np.isnan(a), 3, np.sign(a)))
    return a.shape, float(f"{scale:.6g}"), near.tobytes(), odd.tobytes()


class _Events(NamedTuple):
    """The values that one name takes."""

    steps: list
    keys: list
    values: list
    in_place: list  # is it the array that it was before, with other numbers?

    def fills(self):
        """Return the numbers of the events, put together where one array is changed again and again."""
        found = []
        for i, same in enumerate(self.in_place):
            if same and found:
                found[-1].append(i)
            else:
                found.append([i])
        return found


def _events(trace):
    found, known = {}, {}
    for k, step in enumerate(trace.steps):
        for name in step.changed:
            value = step.state[name]
            events = found.setdefault(name, _Events([], [], [], []))
            events.in_place.append(name in step.in_place)
            if (mark := known.get(id(value))) is None:  # a frozen value is shared by all states that have it
                mark = known[id(value)] = key(value)
            events.steps.append(k)
            events.keys.append(mark)
            events.values.append(value)
    return found


def _loop_names(trace):
    """Names that a `for` sets: the order in which they run is the learner's own business."""
    nodes = ast.walk(ast.parse("\n".join(trace.text)))
    targets = [node.target for node in nodes if isinstance(node, ast.For)]
    return {node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)}


def stores(text):
    """{line: names that its statements set, in order}, those that they write into among them."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.For):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bases = [_base(leaf) for target in targets for leaf in _leaves(target)]
            found[node.lineno] = tuple(dict.fromkeys([*found.get(node.lineno, ()), *filter(None, bases)]))
    return found


def _leaves(target):
    if isinstance(target, ast.Tuple | ast.List):
        return [leaf for part in target.elts for leaf in _leaves(part)]
    return [target]


def _base(target):
    while isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
        target = target.value
    return target.id if isinstance(target, ast.Name) else ""


def departure(mine, right):
    """Return the Departure of a trace from a right answer's on the same arguments, None if there is none."""
    pairs = None if mine.threaded or right.threaded else _alike(mine, right)
    if pairs and (found := _side_by_side(mine, right, *pairs)):
        return found
    ours, theirs = _events(mine), _events(right)
    loops = _loop_names(mine) & _loop_names(right)
    stored = stores("\n".join(mine.text))
    found = [
        _parts(name, events, theirs[name], name in loops, mine, stored)
        for name, events in ours.items()
        if name in theirs
    ]
    found = [one for one in found if one]
    if mine.error is not None and mine.steps:
        found.append(Departure(len(mine.steps) - 1, "", None))
    if not found:
        return None
    first = min(found, key=lambda d: d.step)
    if first.name in (
        RETURNED,
        "",
    ):  # the names are the learner's own: look for an array that nobody else has
        first = _unknown(mine, ours, theirs, first) or first
    return first


def _alike(mine, right):
    """({my line: their line}, {my name: their name}) if both texts are built alike, whatever their names.

    Built alike: the same kinds of statements in the same order, each setting the same number of names.
    """
    texts = ["\n".join(trace.text) for trace in (mine, right)]
    nodes = [sorted(_lines(text), key=lambda node: node.lineno) for text in texts]
    ours, theirs = map(stores, texts)
    shared = _names(ours) & _names(theirs)
    lines, names = {}, {}
    if len(nodes[0]) != len(nodes[1]):
        return None
    for a, b in zip(*nodes, strict=True):
        set_here, set_there = ours.get(a.lineno, ()), theirs.get(b.lineno, ())
        if _kind(a) != _kind(b) or len(set_here) != len(set_there):
            return None
        for name, other in zip(set_here, set_there, strict=True):
            if names.setdefault(name, other) != other or (name != other and {name, other} & shared):
                return None
        lines[a.lineno] = b.lineno
    return lines, names


def _names(stored):
    return {name for names in stored.values() for name in names}


def _lines(text):
    (function,) = ast.parse(text).body[-1:]
    nodes = [node for node in ast.walk(function) if isinstance(node, ast.stmt) and node is not function]
    return [
        node for node in nodes if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]


def _kind(node):
    return "assignment" if isinstance(node, ast.Assign | ast.AugAssign) else type(node).__name__


def _side_by_side(mine, right, lines, names):
    """Compare two runs of the same structure step by step; None where they agree or do not fit together."""
    theirs = _events(right)
    for k, (a, b) in enumerate(zip(mine.steps, right.steps, strict=False)):
        if mine.error is not None and k == len(mine.steps) - 1:
            break
        if lines.get(a.line) != b.line:  # the line before decided where to go
            return Departure(max(k - 1, 0), "", None)
        for name in a.state:
            other = names.get(name, name)
            new = other in b.state and (name in a.changed or other in b.changed)
            if new and (mark := key(a.state[name])) != key(b.state[other]):
                others = [events for title, events in theirs.items() if title not in (name, other)]
                if name != other and np.size(a.state[name]) > 1 and any(mark in o.keys for o in others):
                    return None  # that name is not the other's counterpart
                return Departure(k, name, b.state[other])
    if mine.error is not None or len(mine.steps) < len(right.steps):
        return Departure(len(mine.steps) - 1, "", None)
    return None


def _parts(name, ours, theirs, loop, mine, stored):
    """Where the values of a name part from those that a right answer gives it."""
    a, b = ours.keys, theirs.keys
    if a == b or Counter(a) == Counter(b) or (loop and set(a) == set(b)):
        return None
    fills = ours.fills(), theirs.fills()
    if len(fills[0]) == len(fills[1]) < len(a):  # arrays that are filled or summed up: the order is free
        for mine_at, right_at in zip(*fills, strict=True):
            if a[mine_at[-1]] != b[right_at[-1]]:
                here = {b[i] for i in right_at}
                first = next((i for i in mine_at if a[i] not in here), mine_at[-1])
                return Departure(ours.steps[first], name, theirs.values[right_at[-1]])
        return None
    left = Counter(b)
    for i, mark in enumerate(a):
        if not left[mark]:
            return Departure(ours.steps[i], name, theirs.values[min(i, len(b) - 1)])
        left[mark] -= 1
    if loop and set(a) > set(b):
        return None
    # nothing wrong is there, something is missing: at the next line that could have set it
    later = [
        k for k, step in enumerate(mine.steps) if k > ours.steps[-1] and name in stored.get(step.line, ())
    ]
    return Departure((later or ours.steps[-1:])[0], name, theirs.values[min(len(a), len(b) - 1)])


def _unknown(mine, ours, theirs, first):
    """Return the first array of a learner's own that a right answer has not, and nothing right comes from."""
    known = {mark for events in theirs.values() for mark in events.keys}
    read = [set(re.findall(r"\w+", line)) for line in mine.text]
    good = {name for name, events in ours.items() if events.keys[-1] in known}
    for step in reversed(mine.steps):
        if good & set(step.changed):
            good |= read[step.line - 1]
    arrays = sorted(
        (step, name)
        for name, events in ours.items()
        if name not in good and name not in theirs
        for step, mark, value in zip(events.steps, events.keys, events.values, strict=True)
        if isinstance(value, np.ndarray) and value.size > 1 and mark not in known and step <= first.step
    )
    return Departure(*arrays[0], None) if arrays else None
