"""The array tutor: a learner's own function, line by line, with its arrays painted.

After a wrong answer it names the first line whose array departs from what a right answer has at that place,
and shows that array before it, after it, and as it should be.
"""

import html
import inspect
import re

import numpy as np

from tinyalex.lessons import paint, steps, trace

MOST_FRAMES = 200
MOST_PANELS = 4
MOST_CELLS = 120  # of an array that is painted whole; of a larger one a part is shown


def show(hole, function):
    """Display the function, line by line, in a notebook."""
    from IPython.display import HTML, display

    try:
        inspect.getsource(function)
    except (OSError, TypeError):
        print(f"{hole.name}: its text is not to be had; write it in a cell with `def`")
        return
    display(HTML(explain(hole, function)))


def explain(hole, function, walk=True):
    """Return HTML: the first line of a wrong answer that departs, on a small case that it gets wrong.

    walk: and how the function came there, step by step.
    """
    mine, right = small_case(hole, function)
    found = trace.departure(mine, right) if right else None
    painter = _Painter(mine, hole.solution.__doc__ or "")
    last = found.step if found else min(len(mine.steps), MOST_FRAMES) - 1
    if found:
        head = _verdict(mine, found) + painter.departure(found)
    elif right:
        head = "<p>Every line has what a right answer has there; what is wrong is in what check says.</p>"
    else:
        head = "<p>It gets this case right.</p>"
    values = ((name, html.escape(_short(value))) for name, value in mine.start.items())
    called = ", ".join(f"{name} {value}" for name, value in values)
    parts = [f'<div class="tutor">{head}<p class="tx-soft">called with {called}</p></div>']
    if walk and mine.steps:
        first = max(0, last + 1 - MOST_FRAMES)
        parts.append("<p>Line by line; the last step is the one above:</p>" if found else "")
        parts.append(steps.strip([painter.frame(k, found) for k in range(first, last + 1)]))
    return paint.page(*parts)


def small_case(hole, function):
    """Return the traces of a function and of the solution on the smallest case that goes wrong.

    Where none does: its trace on the smallest case, and None.
    """
    cases = sorted(hole.cases(np.random.default_rng(2012)), key=_size)
    for args in cases:
        mine, right = trace.run(function, args), trace.run(hole.solution, args)
        if mine.error is not None or _result(mine) != _result(right):
            return mine, right
    return trace.run(function, cases[0]), None


def _size(args):
    return sum(a.size for a in args if isinstance(a, np.ndarray))


def _result(run):
    return trace.key(run.steps[-1].state.get(trace.RETURNED)) if run.steps else None


def marked(hole, function):
    """Return the line (from 1, of the function's text) at which the tutor stops; None if it finds none."""
    mine, right = small_case(hole, function)
    found = trace.departure(mine, right) if right else None
    return mine.steps[found.step].line if found else None


def _verdict(mine, found):
    """Say in words which line departs, and how."""
    step = mine.steps[found.step]
    code = mine.text[step.line - 1].strip()
    if found.name == "" and mine.error is None:
        return (
            f"<p>✗ <b>line {step.line}</b> <code>{html.escape(code)}</code> is where the run goes another "
            "way than a right answer's.  Up to it everything agrees.</p>"
        )
    if found.name == "":
        return (
            f"<p>✗ <b>line {step.line}</b> <code>{html.escape(code)}</code> raises "
            f"{html.escape(f'{type(mine.error).__name__}: {mine.error}')}.  Up to it everything agrees with "
            "a right answer.</p>"
        )
    value = step.state.get(found.name)
    return (
        f"<p>✗ <b>line {step.line}</b> <code>{html.escape(code)}</code> is the first after which something "
        f"departs from a right answer: {html.escape(_gap(found.name, value, found.expected))}</p>"
    )


def _gap(name, value, expected):
    """Say how a value differs from the expected one."""
    value, expected, name = _part(value, expected, name)
    if expected is None:
        return f"{name} is an array that a right answer does not have; up to here yours agrees with it."
    a, b = np.asarray(value), np.asarray(expected)
    if trace.key(value) == trace.key(expected):
        return f"{name} is {value} for the last time; a right answer goes on."
    if a.shape != b.shape:
        return f"{name} has the shape {a.shape}, a right answer's has {b.shape}."
    if a.ndim == 0:
        return f"{name} is {a[()]:.6g}, a right answer has {b[()]:.6g}."
    wrong = _unlike(a, b)
    where = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{wrong.sum()} of {a.size} numbers of {name} differ; the first at {list(where)}: "
        f"{a[where]:.6g}, where {b[where]:.6g} belongs."
    )


def _part(value, expected, name):
    """Of two tuples the first part that differs."""
    if isinstance(value, tuple) and isinstance(expected, tuple) and len(value) == len(expected):
        for i, (mine, right) in enumerate(zip(value, expected, strict=True)):
            if trace.key(mine) != trace.key(right):
                return mine, right, f"{name}[{i}]"
    return value, expected, name


def _unlike(a, b):
    """Mask of the numbers that differ by more than rounding."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    scale = np.abs(b[np.isfinite(b)]).max(initial=0) or 1
    with np.errstate(invalid="ignore"):
        return ~((np.abs(a - b) <= 1e-5 * scale) | (a == b) | (np.isnan(a) & np.isnan(b)))


class _Painter:
    """Paints the steps of a trace; an array that is shown twice is painted once."""

    def __init__(self, mine, doc):
        self.mine, self.axes, self.painted = mine, _axes(doc), {}
        self.code = [html.escape(line) or " " for line in mine.text]
        self.words = [set(re.findall(r"\w+", line)) for line in mine.text]

    def frame(self, k, found):
        """Return HTML of step k: the code with its line marked, what changed, what the line reads."""
        step = self.mine.steps[k]
        before = step.before
        named = [
            name for name in step.state if name in self.words[step.line - 1] and name not in step.changed
        ]
        arrays, numbers = [], []
        for name in [*step.changed, *named]:
            value = step.state[name]
            if isinstance(value, np.ndarray) and value.ndim:
                if len(arrays) < MOST_PANELS:
                    expected = found.expected if found and k == found.step and name == found.name else None
                    arrays.append(self.panel(name, value, before.get(name), name in step.changed, expected))
            else:
                bold = "b" if name in step.changed else "span"
                numbers.append(f"<{bold}>{name} = {html.escape(_short(value))}</{bold}>")
        text = f"<p>{',  '.join(numbers)}</p>" if numbers else ""
        return f'{self.listing(step.line)}<div class="tx-row">{"".join(arrays)}</div>{text}'

    def listing(self, line):
        """Return the code with one line marked."""
        lines = self.code.copy()
        lines[line - 1] = f"<b>{lines[line - 1]}</b>"
        marks = "\n".join("▶" if k == line else " " for k in range(1, len(lines) + 1))
        code = "\n".join(lines)
        return (
            f'<div class="tx-code" tabindex="0"><pre aria-hidden="true">{marks}</pre><pre>{code}</pre></div>'
        )

    def departure(self, found):
        """Return HTML: the array before the line that departs, after it, and as a right answer has it."""
        if found.name == "":
            return self.frame(found.step, None)
        step = self.mine.steps[found.step]
        before = step.before
        value, expected, name = _part(step.state.get(found.name), found.expected, found.name)
        shown = []
        if isinstance(before.get(name), np.ndarray):
            at = self.place(name, before[name], value, expected)
            shown.append(self.paint(f"{name} before: agrees", name, before[name], at))
        for title, now, mask in (
            (f"{name} after line {step.line}", value, expected),
            ("a right answer there", expected, value),
        ):
            if isinstance(now, np.ndarray) and now.ndim:
                at = self.place(name, now, value, expected)
                same = isinstance(mask, np.ndarray) and mask.shape == now.shape
                shown.append(self.paint(title, name, now, at, other=_unlike(now, mask) if same else None))
        note = "<p class='tx-soft'>dashed and underlined: where the two differ</p>" if shown else ""
        return f'<div class="tx-row">{"".join(shown)}</div>{note}'

    def place(self, name, shown, value, expected):
        """Where to look in an array of more than two axes: at the first difference."""
        same = (
            isinstance(value, np.ndarray)
            and isinstance(expected, np.ndarray)
            and value.shape == expected.shape
        )
        if same and shown.shape == value.shape:
            return np.unravel_index(_unlike(value, expected).argmax(), value.shape)
        return (0,) * shown.ndim

    def panel(self, name, value, before, changed, expected):
        """Paint an array of a step: what changed is bold and framed, what departs dashed and underlined."""
        old = before if changed else value
        known = (name, id(value), id(old), expected is not None)
        if known not in self.painted:
            same = isinstance(old, np.ndarray) and old.shape == value.shape
            moved = value != old if changed and same else None
            other = None
            if isinstance(expected, np.ndarray) and expected.shape == value.shape:
                other = _unlike(value, expected)
            mask = next((m for m in (other, moved) if m is not None and m.any()), None)
            at = (0,) * value.ndim if mask is None else np.unravel_index(mask.argmax(), mask.shape)
            self.painted[known] = self.paint(name, name, value, at, moved, other)
        return self.painted[known]

    def paint(self, title, name, value, at, changed=None, other=None):
        """Paint an array, or the part of it around the place `at`."""
        part = self.part(name, value.shape, at)
        if any(s != slice(None) for s in part):
            inside = ", ".join(_slice(s) for s in part)
            title = f"{title}, [{inside}] of {'×'.join(map(str, value.shape))}"
        changed, other = (None if mask is None else mask[part] for mask in (changed, other))
        if other is not None and other.all() and other.size > 1:
            other = None  # marks on every number say nothing
        limit = float(np.abs(value[np.isfinite(value)]).max(initial=0))
        digits = 5 if value.dtype.kind == "f" else 0  # so that a picture keeps its size from step to step
        shown = paint.array(value[part], title, limit=limit, changed=changed, other=other, digits=digits)
        return shown.html()

    def part(self, name, shape, at):
        """Return the index of a matrix out of an array: two axes whole, or as much of them as can be read."""
        if len(shape) > 2:
            rows, columns = self.plane(name, len(shape))
        else:
            rows, columns = (None, 0) if len(shape) == 1 else (0, 1)
        index = [int(i) for i in at]
        room = {columns: 15, rows: 8} if rows is not None else {columns: 24}
        whole = np.prod([shape[axis] for axis in room]) <= MOST_CELLS and shape[columns] <= 24
        for axis, most in room.items():
            if whole or shape[axis] <= most:
                index[axis] = slice(None)
            else:
                begin = max(0, min(int(at[axis]) - most // 2, shape[axis] - most))
                index[axis] = slice(begin, begin + most)
        return tuple(index)

    def plane(self, name, ndim):
        """Return the axes of rows and columns: the docstring's H and W, else what is usual here."""
        letters = self.axes.get(name, [])
        if len(letters) == ndim:
            rows = [i for i, letter in enumerate(letters) if letter in ("H", "OH", "KH")]
            columns = [i for i, letter in enumerate(letters) if letter in ("W", "OW", "KW")]
            if len(rows) == len(columns) == 1:
                return rows[0], columns[0]
        return (1, 2) if ndim == 3 else (ndim - 3, ndim - 2)


def _slice(index):
    if not isinstance(index, slice):
        return str(index)
    return ":" if index == slice(None) else f"{index.start}:{index.stop}"


def _axes(doc):
    """{name: letters} of the arrays whose axes a docstring gives, as in `x (C,H,W,N)`."""
    found = re.findall(r"(\w+) \(([A-Z0-9·,\s]+)\)", doc)
    return {name: re.split(r",\s*", axes.strip().rstrip(",")) for name, axes in found}


def _short(value):
    if isinstance(value, tuple):
        return f"({', '.join(_short(v) for v in value)})"
    if isinstance(value, np.ndarray):
        return f"array {'×'.join(map(str, value.shape))}" if value.ndim else f"{value[()]:.6g}"
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value)
