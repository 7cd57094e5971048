"""What is wrong with numbers: facts about an answer, found by comparing it with the right one.

Nothing here knows a particular hole.  Each fact was seen in the numbers, in every case in which it could be
seen: of the elements (all of them off by a factor, right but elsewhere, wrong only at the border), of the
results in relation to the arguments (one without effect, one added that should not be), and of what moves
when an argument does (a row of x on which y[0, 1] should depend, and does not).
"""

import ast
import contextlib
import functools
import inspect
import itertools
import re
import sys
from typing import NamedTuple

import numpy as np

TOLERANCES = {"float32": 1e-4, "float64": 1e-8}  # of the largest number that is expected
WORDS = {
    "N": "picture", "M": "picture", "C": "channel", "F": "filter", "H": "row", "W": "column", "OH": "row",
    "OW": "column", "KH": "kernel row", "KW": "kernel column", "D": "feature", "R": "rank",
}  # fmt: skip


class Trial(NamedTuple):
    """A case: the arguments, and what the solution and the learner's function make of them."""

    args: list
    expected: tuple
    found: tuple


def codes(function):
    """Return the code objects of a function and of those defined in it."""
    found = {function.__code__}
    todo = [function.__code__]
    while todo:
        inner = [const for const in todo.pop().co_consts if inspect.iscode(const)]
        found.update(inner)
        todo.extend(inner)
    return found


def copies(args):
    """Return the arguments with arrays of their own."""
    return [a.copy() if isinstance(a, np.ndarray) else a for a in args]


def parts(value):
    """Return what a function returned as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def close(a, b):
    """Which elements of a are those of b, but for rounding."""
    tolerance = TOLERANCES.get(b.dtype.name, 1e-8)
    a, b = a.astype(np.float64), b.astype(np.float64)
    scale = np.abs(b[np.isfinite(b)]).max(initial=1e-30)
    return (np.abs(a - b) <= tolerance * scale) | (a == b) | (np.isnan(a) & np.isnan(b))


def same(a, b):
    """Are all elements of a those of b, but for rounding?"""
    return a.shape == b.shape and bool(close(a, b).all())


@functools.cache
def axes_of(hole):
    """{name: letters of its axes}, as the docstring says: x (C,H,W,N) → ("C", "H", "W", "N").

    What the arrow points at without a name is called "the result".
    """
    text = " ".join((hole.solution.__doc__ or "").split())
    found = {}
    for match in re.finditer(r"(→ )?((?:\b\w+(?: and |, ))*\w*) ?\(((?:[\w/·]+,? ?)+)\)", text):
        letters = tuple(part.strip() for part in match[3].split(",") if part.strip())
        names = [name for name in re.split(r" and |, ", match[2]) if name]
        for name in names or (["the result"] if match[1] else []):
            found.setdefault(name, letters)
    return found


class Look:
    """What the facts are told from: the hole, the learner's function, its trials, the result in question."""

    def __init__(self, hole, function, trials, part=None):
        self.hole, self.function = hole, function
        self.names = hole.results
        self.axes = axes_of(hole)
        self.parameters = list(inspect.signature(hole.solution).parameters)
        self.all = trials
        self.part = self.wrong_parts(trials)[0] if part is None else part
        self.name = self.names[self.part]
        self.trials = [t for t in trials if not _alike(t.found[self.part], t.expected[self.part])]

    @staticmethod
    def wrong_parts(trials):
        """Return which of several results are wrong in some trial."""
        count = range(len(trials[0].expected))
        return [k for k in count if any(not _alike(t.found[k], t.expected[k]) for t in trials)]

    def pairs(self):
        """[(found, expected)] of the result in question, as float64, in every trial that went wrong."""
        return [(_float(t.found[self.part]), _float(t.expected[self.part])) for t in self.trials]

    def letter(self, name, axis, ndim):
        """The letter of an axis, "" if the docstring does not tell."""
        letters = self.axes.get(name) or self.axes.get("arrays", ())  # "All arrays (C,H,W,N)"
        return letters[axis] if len(letters) == ndim and not letters[axis].isdigit() else ""

    def axis(self, axis, ndim, name=None):
        """How an axis is called: "axis 3 (N)"."""
        letter = self.letter(name or self.name, axis, ndim)
        return f"axis {axis} ({letter})" if letter else f"axis {axis}"

    def places(self, which, axis, ndim, size, name=None):
        """How indices along an axis are called: "rows 1–3", "picture 0", "axis 2 at 1"."""
        which = sorted(which)
        word = WORDS.get(self.letter(name or self.name, axis, ndim))
        many = "s" if len(which) > 1 else ""
        text = ranges(which)
        if not word:
            return f"{'indices' if many else 'index'} {text} on {self.axis(axis, ndim, name)}"
        return f"{word}{many} {text}"


def ranges(which):
    """0, 1, 2, 5 → "0–2, 5"; every second → "0, 2, 4"."""
    groups = []
    for k in sorted(which):
        if groups and k == groups[-1][-1] + 1:
            groups[-1].append(k)
        else:
            groups.append([k])
    return ", ".join(str(g[0]) if len(g) == 1 else f"{g[0]}–{g[-1]}" for g in groups) or "none"


def _float(value):
    """As float64; float32 stays, for it is compared more loosely."""
    array = np.asarray(value)
    return array if array.dtype == np.float32 else array.astype(np.float64)


def _alike(found, expected):
    a, b = np.asarray(found), np.asarray(expected)
    return a.dtype.kind in "fiub" and a.shape == b.shape and bool(close(a, b).all())


def tell(hole, function, trials):
    """Return what is wrong with a function's numbers, in one to three sentences; "" if nothing is seen."""
    wrong = Look.wrong_parts(trials)
    for part in wrong:  # of several results the first about which there is something to say
        look = Look(hole, function, trials, part)
        texts = _first(look, _drawn_anew, _whole, _elsewhere, _one_function, _no_effect, _related)
        if texts:
            texts += _first(look, _switched)
        else:
            texts = [
                *_first(look, _where, _symmetric, _conditions, _separated),
                *_first(look, _heard, _responses, _special),
            ]
            if len(texts) < 2:
                texts += _first(look, _on_the_way) or ([] if texts else _first(look, _shares))
        if texts:
            return _named(look, "  ".join([texts[0], *map(_sentence, texts[1:])]))
    return ""


def on_the_way(hole, function, trials):
    """Return the first local variable with another shape or other numbers than the solution's; "" if none."""
    return "".join(_first(Look(hole, function, trials), _on_the_way))


def _first(look, *facts):
    """Return [text] of the first fact that holds, [] if none does."""
    for fact in facts:
        with contextlib.suppress(Exception):  # the learner's function may raise anything with other arguments
            if text := fact(look):
                return [text]
    return []


def _sentence(text):
    """Begin with a capital, where the first word is not a name."""
    word = text.split()[0]
    return text[0].upper() + text[1:] if word in ("in", "it", "on", "one", "the", "when", "where") else text


def _named(look, text):
    named = len(look.names) > 1 or look.name != "the result"
    return f"{look.name}: {text}" if named else text


def worst(hole, trials):
    """Return where a result that is wrong in no way known is furthest off."""
    look = Look(hole, None, trials)
    a, b = look.pairs()[0]
    if b.ndim == 0:
        return _named(look, f"expected {b[()]:.6g}, found {a[()]:.6g}.")
    right = close(a, b).sum()
    return _named(look, f"{_share(right, b.size)}; the furthest off is {_example(a, b)}")


def _share(right, size):
    return f"{right} of {size} numbers {'is' if right == 1 else 'are'} right"


def _example(a, b):
    """Return the element that is furthest off, in words."""
    gap = np.abs(a - b)
    at = np.unravel_index(np.where(np.isnan(gap), np.inf, gap).argmax(), gap.shape)
    return f"at [{', '.join(map(str, at))}]: expected {b[at]:.6g}, found {a[at]:.6g}."


def _drawn_anew(look):
    trial = look.trials[0]
    if any(map(callable, trial.args)):  # lesson 16's start threads in an order of chance
        return ""
    twice = [_calls(look, trial, 0, trial.args[0])[0] for _ in range(2)]
    if np.shape(twice[0]) == np.shape(twice[1]) and not same(*twice):
        return "called twice with the same arguments it gives other numbers: something in it is drawn anew."
    return ""


# --- all elements alike


def _everywhere(look, test):
    """The text that test(found, expected) gives in every trial, if it is the same one."""
    texts = {test(a, b) for a, b in look.pairs()}
    return texts.pop() if len(texts) == 1 else ""


def _whole(look):
    pairs = look.pairs()
    if not all(np.isfinite(a).all() for a, _ in pairs):
        return _not_finite(look)
    if all(not a.any() for a, _ in pairs):
        return "everything is 0."
    if all(same(a, -b) for a, b in pairs):
        return "the sign is the other way round, everywhere."
    factors = [_factor(a, b) for a, b in pairs]
    several = len(pairs) > 1 or pairs[0][1].size > 1  # a single number is always some multiple of another
    if several and all(factors) and (text := _named_factor(look, factors)):
        return text
    if any(b.ndim and b.size > 1 for _, b in pairs):
        if text := _everywhere(look, _flipped):
            return text
        shifts = [(a - b).flat[0] for a, b in pairs]
        if all(same(a - s, b) for (a, b), s in zip(pairs, shifts, strict=True)):
            return _named_shift(look, shifts)
        return ""
    return _named_shift(look, [float(a - b) for a, b in pairs])


def _factor(a, b):
    squares = (b * b).sum()
    factor = (a * b).sum() / squares if squares else 0
    return factor if factor and same(a, factor * b) else 0


def _sizes(look, trial):
    """{how it is called: number}: the scalar arguments, and the sizes of arrays by their letters."""
    found = {}
    for name, value in zip(look.parameters, trial.args, strict=True):
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
        elif isinstance(value, np.ndarray):
            for k, size in enumerate(value.shape):
                letter = look.letter(name, k, value.ndim)
                found.setdefault(letter or f"{name}.shape[{k}]", size)
            found.setdefault(f"{name}.size", value.size)
    letters = [k for k in found if k.isupper()]
    for one, other in itertools.combinations(letters, 2):
        found.setdefault(f"{one}·{other}", found[one] * found[other])
    return found


def _common(look, values, functions):
    """Say of which size or scalar argument `values` are a function in all trials, of (text, f).

    A product of two sizes stands in brackets, where the text does more with it.
    """
    if len(values) < 2:
        return ""
    every = [_sizes(look, t) for t in look.trials]
    for name in every[0]:
        sizes = [s.get(name) for s in every]
        if None in sizes or len(set(sizes)) < 2:
            continue
        for text, f in functions:
            with contextlib.suppress(ZeroDivisionError):
                wanted = [f(size) for size in sizes]
                if all(w and abs(w - v) <= 1e-6 * abs(v) for w, v in zip(wanted, values, strict=True)):
                    return text.format(f"({name})" if "·" in name and text != "{0}" else name)
    return ""


def _named_factor(look, factors):
    named = _common(look, factors, [
        ("{0}", lambda n: n), ("1/{0}", lambda n: 1 / n), ("{0}²", lambda n: n * n),
        ("1/{0}²", lambda n: n**-2.0),
        ("√{0}", lambda n: n**0.5), ("1/√{0}", lambda n: n**-0.5), ("2·{0}", lambda n: 2 * n),
        ("{0}/({0} − 1)", lambda n: n / (n - 1)), ("({0} − 1)/{0}", lambda n: (n - 1) / n),
        ("({0} + 1)/{0}", lambda n: (n + 1) / n), ("1 − {0}", lambda n: 1 - n),
        ("{0}/(1 − {0})", lambda n: n / (1 - n)), ("(1 − {0})/{0}", lambda n: (1 - n) / n),
    ])  # fmt: skip
    if named:
        return f"everything is {named} times as large as it should be: a factor is missing or too many."
    if max(factors) - min(factors) <= 1e-6 * abs(max(factors)):
        small = round(1 / factors[0])
        times = f"1/{small}" if small > 2 and abs(factors[0] * small - 1) < 1e-5 else f"{factors[0]:.6g}"
        return f"everything is {times} times as large as it should be: a factor is missing or too many."
    several = f"{factors[0]:.6g} and {max(factors, key=lambda f: abs(f - factors[0])):.6g}"
    if (
        look.trials[0].expected[look.part].size > 1
        if isinstance(look.trials[0].expected[look.part], np.ndarray)
        else False
    ):
        return (
            f"everything is a multiple of what it should be, {several} times in two cases: a factor that "
            "depends on the case is missing or too many."
        )
    return ""


def _named_shift(look, shifts):
    named = _common(look, shifts, [
        ("{0} too much", lambda n: n), ("{0} too little", lambda n: -n),
        ("2·{0} too much", lambda n: 2 * n), ("2·{0} too little", lambda n: -2 * n),
        ("{0} − 1 too much", lambda n: n - 1),
        ("{0} − 1 too little", lambda n: 1 - n),
    ])  # fmt: skip
    thing = "everything is" if np.ndim(look.trials[0].expected[look.part]) else "it is"
    if named:
        return f"{thing} {named}: a term is missing or too many."
    if max(shifts) - min(shifts) <= 1e-9 * max(map(abs, shifts)) and (len(shifts) > 1 or thing[0] == "e"):
        way = "large" if shifts[0] > 0 else "small"
        return f"{thing} too {way} by {abs(shifts[0]):.6g}."
    return ""


def _not_finite(look):
    a = next(a for a, _ in look.pairs() if not np.isfinite(a).all())
    bad = ~np.isfinite(a)
    kinds = " and ".join(word for word, f in (("NaN", np.isnan), ("an infinity", np.isinf)) if f(a).any())
    where = "" if bad.all() else _strict_axes(look, bad) or f", {bad.sum()} of {bad.size} numbers"
    return f"it is not finite: there is {kinds} in it{where}."


def _flipped(a, b):
    for n in range(1, b.ndim + 1):
        for axes in itertools.combinations(range(b.ndim), n):
            if same(np.flip(a, axes), b) and not same(np.flip(b, axes), b):
                return f"the right numbers, flipped along axis {' and '.join(map(str, axes))}."
    return ""


# --- the right numbers elsewhere


def _elsewhere(look):
    return _everywhere(look, lambda a, b: _moved(look, a, b))


def _moved(look, a, b):
    if b.ndim == 0 or b.size < 2:
        return ""
    for axes in itertools.permutations(range(b.ndim)):
        if axes != tuple(range(b.ndim)) and a.transpose(axes).shape == b.shape and same(a.transpose(axes), b):
            return "the right numbers, transposed."
    for axis, size in enumerate(b.shape):
        for by in (1, 2, 3):
            if by < size and size > 2:
                for sign, word in ((1, "further on"), (-1, "too early")):
                    mine, right = (a, b) if sign > 0 else (b, a)
                    cut = (slice(None),) * axis
                    one, other = mine[(*cut, slice(by, None))], right[(*cut, slice(None, -by))]
                    if same(one, other) and one.any():
                        return f"the right numbers, {by} {word} along {look.axis(axis, b.ndim)}."
        if size > 1 and _reordered(a, b, axis):
            return f"the right numbers, in another order along {look.axis(axis, b.ndim)}."
    for axis, size in enumerate(b.shape):
        first = np.take(a, [0], axis)
        if (
            size > 1
            and same(np.broadcast_to(first, a.shape), a)
            and not same(np.broadcast_to(np.take(b, [0], axis), b.shape), b)
        ):
            return f"the same numbers all along {look.axis(axis, b.ndim)}: its index is without effect."
    if len(np.unique(b)) > 3 and same(np.sort(a.ravel()), np.sort(b.ravel())):
        return "the right numbers in the wrong places: the same ones, dealt out in another order."
    return ""


def _reordered(a, b, axis):
    a, b = np.moveaxis(a, axis, 0), np.moveaxis(b, axis, 0)
    left = list(range(len(b)))
    for mine in a:
        hit = next((k for k in left if same(mine, b[k])), None)
        if hit is None:
            return False
        left.remove(hit)
    return True


_FUNCTIONS = [
    ("the absolute values of the right numbers: the signs are lost", np.abs),
    ("the squares of the right numbers", np.square),
    ("the roots of the right numbers", np.sqrt),
    ("the exponentials of the right numbers", np.exp),
    ("the logarithms of the right numbers", np.log),
    ("one divided by the right numbers", lambda b: 1 / b),
    ("one minus the right numbers", lambda b: 1 - b),
    ("the right numbers without their fractions: rounded down", np.floor),
    ("the right numbers without their fractions", np.trunc),
    ("the right numbers, rounded", np.rint),
    ("the right numbers, rounded up", np.ceil),
    ("the right numbers where they are positive, and 0 where they are negative", lambda b: np.maximum(b, 0)),
    ("the right numbers where they are negative, and 0 where they are positive", lambda b: np.minimum(b, 0)),
    ("only the signs of the right numbers", np.sign),
]


def _one_function(look):
    pairs = look.pairs()
    if sum(b.size for _, b in pairs) < 3:
        return ""
    for text, f in _FUNCTIONS:
        if all(same(a, f(b)) for a, b in pairs):
            return f"these are {text}."
    bytes_in = any(_dtype(a) == "uint8" for t in look.trials for a in t.args)
    whole = all(same(np.rint(b), b) for _, b in pairs)
    if bytes_in and whole and all(same(a % 256, b % 256) for a, b in pairs):
        return "the numbers are off by multiples of 256: they were computed in uint8, which wraps round."
    if all(b.ndim and b.size > 3 and same(np.abs(a), np.abs(b)) for a, b in pairs):
        wrong = np.concatenate([(~close(a, b)).ravel() for a, b in pairs])
        return f"the sizes are right, the sign is wrong in {wrong.sum()} of {wrong.size} numbers."
    return ""


# --- what depends on what


def _calls(look, trial, k, value):
    """Both functions' result in question with another value for argument k."""
    out = []
    for f in (look.function, look.hole.solution):
        args = copies(trial.args)
        args[k] = value.copy() if isinstance(value, np.ndarray) else value
        out.append(_float(parts(f(*args))[look.part]))
    return out


def _smallest(look):
    def cost(trial):
        return sum(a.size for a in trial.args if isinstance(a, np.ndarray))

    double = [t for t in look.trials if not any(_dtype(a) == "float32" for a in t.args)]
    usable = [
        t for t in double or look.trials if np.shape(t.found[look.part]) == np.shape(t.expected[look.part])
    ]
    telling = [t for t in usable if np.any(t.expected[look.part])]  # what is 0 throughout says little
    return min(telling or usable, key=cost)


def _dtype(value):
    return value.dtype.name if isinstance(value, np.ndarray) else type(value).__name__


def _other(value, rng, at=slice(None)):
    """An argument with other numbers, or with other ones in a slice; None if there are none like it."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fub":
        new = value.copy()
        if value.dtype.kind == "f":
            large = 1 + 2 * np.abs(value).max()  # so that it becomes the maximum of its window
            new[at] += (large * (1 + rng.random(new[at].shape))).astype(value.dtype)
        elif value.dtype.kind == "u":
            new[at] += rng.integers(20, 200, new[at].shape, dtype=value.dtype)
        else:
            new[at] = ~new[at]
        return new
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * 1.25
    if isinstance(value, tuple) and value and all(isinstance(v, int) for v in value):
        return (*value[:-1], 2 * value[-1])
    return None


def _no_effect(look):
    dead = [name for k, name in enumerate(look.parameters) if _is_dead(look, k)]
    if "dy" in dead:
        return (
            "the upstream gradient dy has no effect: another dy gives the same numbers.  By the chain rule "
            "every gradient is linear in dy."
        )
    if dead and (len(dead) == 1 or any(np.any(t.found[look.part]) for t in look.trials)):
        has = "has" if len(dead) == 1 else "have"
        return f"{' and '.join(dead)} {has} no effect on it: with other numbers there the result is the same."
    return ""


def _is_dead(look, k):
    """Does no trial's result move when argument k does, while a right one does in some of them?"""
    felt = False
    for trial in look.trials:
        with contextlib.suppress(Exception):
            if (other := _other(trial.args[k], np.random.default_rng(0))) is None:
                continue
            mine, right = _calls(look, trial, k, other)
            was = [_float(x[look.part]) for x in (trial.found, trial.expected)]
            if not same(mine, was[0]) or not np.isfinite(mine).all():
                return False
            felt |= not same(right, was[1])
    return felt


def _heard(look):
    """Compare which numbers move when a slice of an argument does."""
    trial = _smallest(look)
    was = [_float(x[look.part]) for x in (trial.found, trial.expected)]
    if not np.isfinite(was[0]).all():
        return ""
    for k, (name, value) in enumerate(zip(look.parameters, trial.args, strict=True)):
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fub":
            continue
        for axis, size in sorted(enumerate(value.shape), key=lambda item: -item[1]):
            if size < 2 or size > 40:
                continue
            if text := _heard_along(look, trial, was, k, name, axis, size):
                return text
    return ""


def _heard_along(look, trial, was, k, name, axis, size):
    value, moved = trial.args[k], []
    for i in range(size):
        other = _other(value, np.random.default_rng(i), (slice(None),) * axis + (i,))
        with contextlib.suppress(Exception):
            now = _calls(look, trial, k, other)
            moved.append([~close(n, w) & ~(np.isnan(n) & np.isnan(w)) for n, w in zip(now, was, strict=True)])
    if len(moved) < size:
        return ""
    mine, right = (np.array(m) for m in zip(*moved, strict=True))  # (size, *result)
    differ = (mine != right).any(axis=0)
    if 4 * differ.sum() < (~close(*was)).sum() or not differ.any():  # not what is wrong with most of them
        return ""
    clear = differ & mine.any(axis=0) & right.any(axis=0)
    at = tuple(int(i[0]) for i in np.nonzero(clear if clear.any() else differ)) if differ.ndim else ()
    has, should = (np.flatnonzero(m[(slice(None), *at)]).tolist() for m in (mine, right))
    thing = f"{look.name if look.name != 'the result' else 'the result'}{list(at) if at else ''}"
    ndim = value.ndim

    def on(which):
        return (
            look.places(which, axis, ndim, size, name) + f" of {name}"
            if which
            else f"no {WORDS.get(look.letter(name, axis, ndim), 'part')} of {name}"
        )

    count = "" if differ.all() or not differ.ndim else f"  (So with {differ.sum()} of {differ.size} numbers.)"
    return f"{thing} depends on {on(has)}; it should depend on {on(should)}.{count}"


def _responses(look):
    """Compare how far the result moves when one argument does, for each argument."""
    trial = _smallest(look)
    was = [_float(x[look.part]) for x in (trial.found, trial.expected)]
    good, wrong, texts = [], [], []
    for k, (name, value) in enumerate(zip(look.parameters, trial.args, strict=True)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        other = value + 1 if whole else _other(value, np.random.default_rng(k))
        if other is None or isinstance(value, bool):
            continue
        try:
            now = _calls(look, trial, k, other)
        except Exception:
            continue
        if now[0].shape != now[1].shape or not all(n.shape == w.shape for n, w in zip(now, was, strict=True)):
            continue
        mine, right = (n - w for n, w in zip(now, was, strict=True))
        if same(mine, right) or same(now[0] * was[1], now[1] * was[0]):
            good.append(name)
            continue
        wrong.append(name)
        factor = _factor(mine, right)
        if factor and mine.size == 1 and not whole:  # one number is always some multiple: the same again?
            other = _other(value, np.random.default_rng(k + 100))
            mine, right = (n - w for n, w in zip(_calls(look, trial, k, other), was, strict=True))
            factor = factor if same(mine, factor * right) else 0
        if whole and mine.ndim == 0:
            steps = [f"{step:+.6g}" if step else "nothing" for step in (float(mine), float(right))]
            texts.append(f"one more in {name} changes it by {steps[0]}; it should change by {steps[1]}.")
        elif factor and abs(factor + 1) < 1e-6:
            texts.append(f"when {name} changes, it moves the wrong way.")
        elif 1e-4 < abs(factor) < 1e4:
            texts.append(f"when {name} changes, it moves {factor:.6g} times as far as it should.")
        elif same(right, 0 * right) and not _matters(look, k):
            texts.append(f"it must not depend on {name}, and it does.")
    if texts and len(wrong) == 1:
        return texts[0]
    if good and wrong:
        return f"it depends on {', '.join(good)} as it should, and not so on {', '.join(wrong)}."
    return texts[0] if texts else ""


def _matters(look, k):
    """Does a right result move with argument k in some trial?"""
    for trial in look.all:
        value = trial.args[k]
        whole = isinstance(value, int) and not isinstance(value, bool)
        other = value + 1 if whole else _other(value, np.random.default_rng(k))
        with contextlib.suppress(Exception):
            if not same(_calls(look, trial, k, other)[1], _float(trial.expected[look.part])):
                return True
    return False


def _special(look):
    """What comes out where an argument is 0, or 1, everywhere."""
    trial = _smallest(look)
    for k, (name, value) in enumerate(zip(look.parameters, trial.args, strict=True)):
        if inspect.isfunction(value) and isinstance(value(*copies(trial.args)[1:2]), float):
            mine, right = _calls(look, trial, k, lambda x: 1.0)
            if not right.any() and mine.any():
                return f"where {name} is constant it must be 0, and it is not."
            mine, right = _calls(look, trial, k, lambda x: float(2 * x.sum()))
            if not same(mine, right):
                return (
                    f"where {name}(x) is 2·x.sum() it must be {right.flat[0]:.6g} everywhere, and it is not."
                )
    told = [_where_it_is(look, trial, k, number) for number in (0, 1) for k in range(len(trial.args))]
    told.sort(key=lambda text: "itself" not in text and "must be 0," not in text)  # the telling ones first
    return next(filter(None, told), "")


def _where_it_is(look, trial, k, number):
    """Say what must come out where argument k is that number, if it does not, and is simple to say."""
    name, value = look.parameters[k], trial.args[k]
    if _dtype(value) not in ("float64", "float"):
        return ""
    try:
        special = np.full_like(value, number) if isinstance(value, np.ndarray) else float(number)
        mine, right = _calls(look, trial, k, special)
    except Exception:
        return ""
    if not np.isfinite(right).all() or same(mine, right):
        return ""
    where = f"where {name} is {number}{' everywhere' if np.ndim(value) else ''}"
    if not right.any():
        return f"{where}, it must be 0, and it is not."
    for other, a in zip(look.parameters, trial.args, strict=True):
        if other != name and isinstance(a, np.ndarray) and a.dtype.kind == "f" and same(right, a):
            return f"{where}, it must be {other} itself, and it is not."
    if same(right, np.full_like(right, right.flat[0])):
        return f"{where}, it must be {right.flat[0]:.6g}, and it is not."
    return ""


# --- relations to the arguments and to what the solution makes on the way


def made(function, args):
    """{name: value}: the local variables of a function at its end, and of functions inside it."""
    found, wanted = {}, codes(function)

    def look(frame, event, arg):
        if event == "return" and frame.f_code in wanted:
            for name, value in frame.f_locals.items():
                if frame.f_code is function.__code__ or name not in found:
                    found[name] = value.copy() if isinstance(value, np.ndarray) else value

    before = sys.getprofile()
    sys.setprofile(look)
    try:
        function(*copies(args))
    finally:
        sys.setprofile(before)
    return found


def made_twice(hole):
    """Return the names that the solution makes more than once: in the end they are not what they were."""
    tree = ast.parse(hole.source)
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    names += [n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)]
    return {name for name in names if names.count(name) > 1}


def _related(look):
    relations = [_relations(look, t, a, b) for t, (a, b) in zip(look.trials, look.pairs(), strict=True)]
    common = [text for text in relations[0] if all(text in other for other in relations[1:])]
    return common[0] if common else ""


_POWERS = {1: "multiplied by {0}", -1: "divided by {0}", 2: "multiplied by {0}²", -2: "divided by {0}²"}


def _relations(look, trial, a, b):
    """Texts that are true of a against b in a trial."""
    found = []
    if b.ndim == 0 or b.size < 3:
        return found
    gap = a - b
    local = {**made(look.hole.solution, trial.args), **dict(zip(look.parameters, trial.args, strict=True))}
    arrays = {
        n: v.astype(np.float64)
        for n, v in local.items()
        if isinstance(v, np.ndarray) and v.dtype.kind in "fiub"
    }
    arrays = {n: v for n, v in arrays.items() if v.size > 1 and n != look.name}
    for name, value in arrays.items():
        for shaped in _fitted(value, b):
            squares = (shaped * shaped).sum()
            c = (gap * shaped).sum() / squares if squares else 0
            if c and same(gap, c * shaped):
                much = "" if abs(abs(c) - 1) < 1e-6 else f"{abs(c):.6g} · "
                found.append(f"{much}{name} is {'too much in it' if c > 0 else 'missing in it'}.")
            with np.errstate(all="ignore"):
                for power, text in _POWERS.items():
                    other = b * shaped**power
                    if np.isfinite(other).all() and same(a, other):
                        found.append(f"these are the right numbers {text.format(name)}.")
                if (
                    (squares := (shaped * shaped).sum())
                    and (c := (a * shaped).sum() / squares)
                    and same(a, c * shaped)
                ):
                    much = "" if abs(c - 1) < 1e-6 else f"{c:.6g} times "
                    found.append(f"it is just {much}{name}.")
    for (one, x), (other, y) in itertools.combinations(arrays.items(), 2):
        if x.shape == y.shape == b.shape:
            c = (gap * x * y).sum() / max((x * x * y * y).sum(), 1e-300)
            if c and same(gap, c * x * y):
                much = "" if abs(abs(c) - 1) < 1e-6 else f"{abs(c):.6g} · "
                found.append(f"{much}{one} · {other} is {'too much in it' if c > 0 else 'missing in it'}.")
    with np.errstate(all="ignore"):
        for what, ratio in (("a factor", a / b), ("a term", gap)):
            if np.isfinite(ratio).all():
                for axis in range(b.ndim):
                    rest = tuple(k for k in range(b.ndim) if k != axis)
                    if not rest or b.size == b.shape[axis] or b.shape[axis] < 2:
                        continue
                    if same(np.broadcast_to(ratio.max(rest, keepdims=True), b.shape), ratio):
                        found.append(
                            f"{what} is wrong that depends on the index of {look.axis(axis, b.ndim)} alone."
                        )
                        break
                for axis in range(b.ndim):
                    if 1 < b.shape[axis] < b.size and same(
                        np.broadcast_to(ratio.max(axis, keepdims=True), b.shape), ratio
                    ):
                        found.append(f"{what} is wrong that is the same all along {look.axis(axis, b.ndim)}.")
    return found


def _fitted(value, b):
    """The array in every way in which it can lie along b."""
    out = []
    if value.shape == b.shape:
        return [value]
    if value.ndim < b.ndim or value.size == 1:
        for axes in itertools.combinations(range(b.ndim), value.ndim):
            if tuple(b.shape[k] for k in axes) == value.shape:
                shape = [b.shape[k] if k in axes else 1 for k in range(b.ndim)]
                out.append(np.broadcast_to(value.reshape(shape), b.shape))
    elif value.ndim == b.ndim and all(v in (1, n) for v, n in zip(value.shape, b.shape, strict=True)):
        out.append(np.broadcast_to(value, b.shape))
    return out


# --- where it is wrong


def _switched(look):
    """Is it an argument that is True or False, or a name, that sets the right cases apart?"""
    return _separated(look, (True, False))


def _separated(look, numbers=(0, 1, True, False)):
    """Is it right in some cases and wrong in others, and what sets these apart: a name, or one of these?"""
    part = look.part
    right = [t for t in look.all if _alike(t.found[part], t.expected[part]) and np.any(t.expected[part])]
    wrong = look.trials
    if not right or len(right) + len(wrong) < 3:
        return ""
    tests = []
    for t in (*right, *wrong):
        sizes = {k: v for k, v in _sizes(look, t).items() if "·" not in k and ".size" not in k}
        for name, value in zip(look.parameters, t.args, strict=True):
            if isinstance(value, bool | str):
                sizes[name] = value
        tests.append(sizes)
    good, bad = tests[: len(right)], tests[len(right) :]
    only = {"wrong": [], "right": []}
    for name in good[0]:
        values = [[s.get(name) for s in group] for group in (good, bad)]
        for special in (*numbers, *dict.fromkeys(v for v in values[0] if isinstance(v, str))):
            hits = [
                [v == special and isinstance(v, bool) == isinstance(special, bool) for v in group]
                for group in values
            ]
            for state, (these, others) in zip(only, (hits[::-1], hits), strict=True):
                if all(these) and not any(others):
                    only[state].append(f"{name} is {special}")
    for state, where in only.items():
        if where:
            return f"in the cases tried it is {state} only where {' and '.join(where)}."
    if any(_dtype(a) == "float32" for a in wrong[0].args) and len(wrong) == 1:
        return "in the cases tried it is wrong only in float32."
    return ""


def _strict_axes(look, wrong):
    """Along which axes only some indices hold wrong elements, as text to go on with; "" if there are none."""
    texts, filled = [], np.ones_like(wrong)
    for axis, size in enumerate(wrong.shape):
        rest = tuple(k for k in range(wrong.ndim) if k != axis)
        hit = np.flatnonzero(wrong.any(axis=rest))
        if len(hit) < size:
            texts.append(_which(look, hit, axis, size, wrong.ndim))
            filled &= np.isin(np.arange(size), hit).reshape(
                [-1 if k == axis else 1 for k in range(wrong.ndim)]
            )
    if not texts:
        return ""
    return f", {'' if filled.sum() == wrong.sum() else 'only in '}{', '.join(texts)}"


def _which(look, hit, axis, size, ndim):
    word = WORDS.get(look.letter(look.name, axis, ndim), "")
    places = look.places(hit.tolist(), axis, ndim, size)
    first = f"the first {word}".strip() + ("" if word else f" along {look.axis(axis, ndim)}")
    last = first.replace("first", "last")
    if size > 2 and hit.tolist() == [0]:
        return first
    if size > 2 and hit.tolist() == [size - 1]:
        return last
    if size > 2 and hit.tolist() == list(range(1, size)):
        return f"all but {first}"
    if size > 2 and hit.tolist() == list(range(size - 1)):
        return f"all but {last}"
    return places


def _where(look):
    pairs = [(a, b) for a, b in look.pairs() if b.ndim and b.size > 1]
    masks = [~close(a, b) for a, b in pairs]
    places = [_strict_axes(look, wrong) for wrong in masks]
    if places and all(places):  # in one of several cases it may be chance
        text = places[0].removeprefix(", ").removeprefix("only in ")
        share = f"{_share(masks[0].size - masks[0].sum(), masks[0].size)}; wrong are those in "
        return f"{share}{text}.  The largest error is {_example(*pairs[0])}"
    for wrong in masks:
        share = _share(wrong.size - wrong.sum(), wrong.size)
        for k, m in itertools.combinations(range(wrong.ndim), 2):
            sizes = wrong.shape[k], wrong.shape[m]
            plane = wrong.any(axis=tuple(i for i in range(wrong.ndim) if i not in (k, m)))
            both = f"{look.axis(k, wrong.ndim)} and {look.axis(m, wrong.ndim)}"
            for width in (1, 2):
                if min(sizes) > 2 * width and not plane[width:-width, width:-width].any():
                    return f"{share}; wrong are only the outermost {width} along {both}: the border."
                edge = plane.copy()
                edge[width:-width, width:-width] = False
                if min(sizes) > 2 * width and not edge.any():
                    return f"{share}; right is only the border along {both}."
            if sizes[0] == sizes[1] and sizes[0] > 2:
                sides = np.triu(plane, 1), np.tril(plane, -1), np.diag(np.diag(plane))
                for text, hidden in zip(("above", "below", "on"), sides, strict=True):
                    if (hidden == plane).all():
                        return f"{share}; wrong are only those {text} the diagonal."
                if not np.diag(plane).any():
                    return f"{share}; right is only the diagonal."
    return ""


def _symmetric(look):
    square = [(a, b) for a, b in look.pairs() if b.ndim == 2 and b.shape[0] == b.shape[1] > 1]
    if square and all(same(b, b.T) and not same(a, a.T) for a, b in square):
        return "it must be symmetric, and is not."
    return ""


def _conditions(look):
    """Is it wrong just where an array of that shape is positive, negative, 0, True?"""
    texts = []
    for trial, (a, b) in zip(look.trials, look.pairs(), strict=True):
        wrong = ~close(a, b)
        if b.size < 4 or wrong.all():
            return ""
        local = {
            **dict(zip(look.parameters, trial.args, strict=True)),
            **made(look.hole.solution, trial.args),
        }
        true = []
        for name, value in {**local, "the right number": b}.items():
            if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
                continue
            for shaped in _fitted(value.astype(np.float64), b):
                signs = shaped > 0, shaped < 0, shaped == 0, shaped != 0
                for text, where in zip(
                    ("is positive", "is negative", "is 0", "is not 0"), signs, strict=True
                ):
                    if value.dtype.kind == "b":
                        text = {"is positive": "is True", "is 0": "is False"}.get(text, "")
                    inside = not (wrong & ~where).any()
                    if (
                        text
                        and inside
                        and not where.all()
                        and (wrong.sum() == where.sum() or wrong.sum() >= 6)
                    ):
                        true.append(f"it is wrong only where {name} {text}.")
        texts.append(true)
    common = [text for text in texts[0] if all(text in other for other in texts[1:])]
    return common[0] if common else ""


def _shares(look):
    """Is the sum right, so that it is only shared out wrongly?"""

    def test(a, b):
        if b.ndim == 0 or b.size < 4:
            return ""
        for n in range(1, b.ndim + 1):
            for axes in itertools.combinations(range(b.ndim), n):
                mine, right = a.sum(axes), b.sum(axes)
                if all(b.shape[k] > 1 for k in axes) and np.abs(right).max() > 1e-6 and same(mine, right):
                    along = " and ".join(look.axis(k, b.ndim) for k in axes)
                    if n == b.ndim:
                        return "the sum of all numbers is right: nothing is lost, it lies in wrong places."
                    return f"the sums along {along} are right: what is there is shared out wrongly along it."
        return ""

    return _everywhere(look, test)


def _on_the_way(look):
    """Compare local variables of the same name: the first that differs."""
    trial = _smallest(look)
    try:
        mine = made(look.function, trial.args)
    except Exception:
        return ""
    right, again = made(look.hole.solution, trial.args), made_twice(look.hole)
    for name, value in right.items():
        if name in look.parameters or name in look.names or name not in mine or name in again:
            continue
        other = mine[name]
        a, b = np.asarray(other), np.asarray(value)
        if b.dtype.kind not in "fiub" or a.dtype.kind not in "fiub":
            continue
        if a.shape != b.shape:
            return f"on the way `{name}` has the shape {a.shape}; in the book's solution it has {b.shape}."
        if not close(a, b).all():
            text = ""
            if b.ndim:
                factor = _factor(a.astype(float), b.astype(float))
                text = f" ({factor:.6g} times the book's)" if factor else ""
            else:
                text = f" (it ends as {a[()]:.6g}, the book's as {b[()]:.6g})"
            return f"on the way `{name}` already has other numbers than in the book's solution{text}."
    return ""
