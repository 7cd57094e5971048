"""The checks of the course for layers that were written elsewhere.

`verdicts` tries every layer that `adapters.find` finds, forward and backward, on cases of all kinds: strides,
paddings, maps and kernels that are not square, batches of one, windows that overlap.  Where some cases pass
and some fail, what the failing ones have in common names the mistake; where all fail, `checks.examine`
compares with the known mistakes and says what is wrong with the numbers.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyalex.errors import DataError
from tinyalex.lessons import adapters, checks, sandbox
from tinyalex.ops import plain

RIGHT, WRONG, SKIPPED, UNKNOWN = "✓ right", "✗ wrong", "– not judged", "– not known"
SECONDS, MEMORY = 20, 2 << 30  # of one layer, forward or backward; bytes beside what Python itself takes


class Verdict(NamedTuple):
    """One line of the table."""

    layer: str
    form: str
    operation: str
    state: str
    message: str


# ---- what is right, on arrays (N,C,H,W)


def _in(x):
    return np.ascontiguousarray(x.transpose(1, 2, 3, 0))


def _out(y):
    return np.ascontiguousarray(y.transpose(3, 0, 1, 2))


def convolution(x, w, b, stride, pad):
    """y[n,f,i,j] = b[f] + Σ w[f,c,p,q] x[n,c,i·stride+p−pad,j·stride+q−pad]."""
    y = _out(plain.conv2d_forward(_in(x), w, b, stride, pad)[0])
    return y


def convolution_backward(dy, x, w, b, stride, pad):
    """Gradients of `convolution`: dx, dw, db."""
    dx, dw, db = plain.conv2d_backward(_in(dy), plain.conv2d_forward(_in(x), w, b, stride, pad)[1])
    dx = _out(dx)
    return dx, dw, db


def max_pooling(x, size, stride):
    """y[n,c,i,j] = max x[n,c,i·stride+p,j·stride+q] over p, q < size."""
    y = _out(plain.max_pool_forward(_in(x), size, stride, ceil=False)[0])
    return y


def max_pooling_backward(dy, x, size, stride):
    """Gradient of `max_pooling`: the winner of each window gets its dy."""
    dx = _out(plain.max_pool_backward(_in(dy), plain.max_pool_forward(_in(x), size, stride, ceil=False)[1]))
    return dx


def relu(x):
    """y = max(0, x)."""
    y = np.maximum(x, 0)
    return y


def relu_backward(dy, x):
    """dx = dy where x > 0, else 0."""
    dx = dy * (x > 0)
    return dx


def linear(x, w, b):
    """y = x w + b; x (N,D), w (D,M)."""
    y = x @ w + b
    return y


def linear_backward(dy, x, w, b):
    """Gradients of `linear`: dx, dw, db."""
    dx, dw, db = dy @ w.T, x.T @ dy, dy.sum(axis=0)
    return dx, dw, db


# ---- the cases: (what is special about them, arguments)


def _form(H, W):
    return "square" if H == W else "wider than high" if W > H else "higher than wide"


def _maps(rng, *shape):
    return rng.standard_normal(shape)


def convolution_cases(rng):
    """Every stride with every padding, on square maps and others; other kernels, one picture, one channel."""
    geometries = [
        (2, 3, (7, W), 4, (3, 3), stride, pad)
        for stride, pad, W in itertools.product((1, 2), (0, 1, 2), (7, 9))
    ]
    geometries += [
        (2, 3, (6, 8), 4, (3, 2), 1, 0), (2, 3, (5, 7), 4, (2, 3), 1, 1), (2, 3, (8, 6), 4, (1, 3), 1, 2),
        (2, 3, (6, 6), 4, (2, 2), 2, 0), (2, 3, (8, 6), 4, (2, 2), 2, 0), (2, 3, (7, 7), 4, (1, 1), 1, 0),
        (1, 3, (7, 7), 4, (3, 3), 1, 1), (2, 1, (7, 7), 4, (3, 3), 1, 1), (3, 2, (7, 7), 1, (3, 3), 1, 1),
    ]  # fmt: skip
    cases = []
    for N, C, (H, W), F, (KH, KW), stride, pad in geometries:
        facts = {
            "stride": stride, "padding": pad, "maps": _form(H, W),
            "kernels": "square" if KH == KW else "not square",
            "windows": "overlapping" if stride < max(KH, KW) else "side by side", "pictures": N,
        }  # fmt: skip
        x, w, b = _maps(rng, N, C, H, W), _maps(rng, F, C, KH, KW), _maps(rng, F)
        cases.append((facts, (x, w, b, stride, pad)))
    return cases


def pooling_cases(rng):
    """Windows that overlap and that do not, square maps and others, one picture."""
    cases = []
    for N, C, (H, W), size, stride in (
        (2, 3, (6, 6), 2, 2), (2, 3, (6, 8), 2, 2), (2, 3, (9, 9), 3, 3), (2, 3, (9, 6), 3, 3),
        (2, 3, (7, 7), 3, 2), (2, 3, (7, 9), 3, 2), (2, 3, (5, 5), 2, 1), (2, 3, (6, 5), 3, 1),
        (1, 3, (6, 6), 2, 2), (1, 2, (7, 7), 3, 2),
    ):  # fmt: skip
        facts = {
            "windows": "overlapping" if stride < size else "side by side",
            "maps": _form(H, W), "size": size, "pictures": N,
        }  # fmt: skip
        x = rng.permutation(N * C * H * W).reshape(N, C, H, W) - N * C * H * W / 2.0  # no ties
        cases.append((facts, (x, size, stride)))
    return cases


def flat_cases(rng):
    """Arrays of two axes and of four."""
    return [({"axes": len(shape)}, (_maps(rng, *shape),)) for shape in ((3, 5), (2, 3, 4, 5))]


def linear_cases(rng):
    """Batches of several and of one."""
    return [
        ({"pictures": N}, (_maps(rng, N, D), _maps(rng, D, M), _maps(rng, M)))
        for N, D, M in ((3, 5, 4), (1, 4, 6), (6, 2, 3))
    ]


# ---- the known mistakes: (the same function with it, its name)


def _with(backward, part, change, text):
    """A mistake in one of the gradients: change(dy, gradient, blind gradient) stands in its place."""

    def mistake(dy, *args):
        right, blind = backward(dy, *args), backward(np.ones_like(dy), *args)
        if not isinstance(right, tuple):
            return change(dy, right, blind)
        return tuple(
            change(dy, mine, other) if i == part else mine
            for i, (mine, other) in enumerate(zip(right, blind, strict=True))
        )

    return mistake, text


def _blind(backward, parts=3):
    return [_with(backward, part, lambda dy, right, blind: blind, UPSTREAM) for part in range(parts)]


def _overwritten(dy, x, w, b, stride, pad):
    """dx of a convolution whose col2im, by places of the window, has = for +=."""
    dx, dw, db = convolution_backward(dy, x, w, b, stride, pad)
    dcols = np.einsum("fcpq,nfij->ncpqij", w, dy)
    padded = np.zeros([*x.shape[:2], x.shape[2] + 2 * pad, x.shape[3] + 2 * pad])
    for p, q in np.ndindex(*w.shape[2:]):
        down, across = slice(p, p + stride * dy.shape[2], stride), slice(q, q + stride * dy.shape[3], stride)
        padded[:, :, down, across] = dcols[:, :, p, q]
    dx = padded[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]]
    return dx, dw, db


UPSTREAM = (
    "upstream ignored: the gradient that arrives, dy, has no effect; this is what comes back when it is 1 "
    "everywhere"
)
AVERAGED = "bias gradient averaged: the bias stands in every output, and the contributions are added"
ADDS = "`=` for `+=`: where windows overlap a pixel gets a gradient from each of them, and they add up"
MISTAKES = {
    convolution: [
        (lambda x, w, b, *s: convolution(x, w, 0 * b, *s), "the bias is missing"),
        (
            lambda x, w, b, *s: convolution(x, w[:, :, ::-1, ::-1], b, *s),
            "the kernel is turned by 180°: the mathematician's convolution",
        ),
        (
            lambda x, w, b, *s: convolution(x, np.swapaxes(w, 2, 3), b, *s),
            "the kernel's rows and columns are exchanged",
        ),
    ],
    convolution_backward: [
        *_blind(convolution_backward),
        (_overwritten, ADDS),
        _with(convolution_backward, 2, lambda dy, db, _: db / len(dy), f"{AVERAGED}; yours is divided by N"),
        _with(
            convolution_backward,
            2,
            lambda dy, db, _: db / (dy.size / dy.shape[1]),
            f"{AVERAGED}; yours is a mean over pictures and places",
        ),
        _with(
            convolution_backward,
            2,
            lambda dy, db, _: db / (dy.shape[2] * dy.shape[3]),
            f"{AVERAGED}; yours is a mean over the places",
        ),
    ],
    max_pooling: [
        (lambda x, *s: -max_pooling(-x, *s), "the smallest number of each window, not the largest")
    ],
    max_pooling_backward: _blind(max_pooling_backward, 1),
    relu: [(lambda x: np.abs(x), "the absolute value: negative numbers must become 0")],
    relu_backward: [
        ((lambda dy, x: (x > 0).astype(float)), UPSTREAM),
        (
            (lambda dy, x: dy * (dy > 0)),
            "the gates are set by dy: what counts is whether the input was above 0, not the gradient",
        ),
    ],
    linear: [(lambda x, w, b: x @ w, "the bias is missing")],
    linear_backward: [
        *_blind(linear_backward),
        _with(linear_backward, 2, lambda dy, db, _: db / len(dy), f"{AVERAGED}; yours is divided by N"),
    ],
}
CASES = {
    "convolution": (convolution, convolution_backward, convolution_cases, ("x", "w", "b", "stride", "pad")),
    "max pooling": (max_pooling, max_pooling_backward, pooling_cases, ("x", "size", "stride")),
    "ReLU": (relu, relu_backward, flat_cases, ("x",)),
    "linear": (linear, linear_backward, linear_cases, ("x", "w", "b")),
}
ONLY = {  # (fact, the one value it has where all is right): what is wrong
    ("stride", 1): "stride ignored",
    ("padding", 0): "padding ignored",
    ("padding", 1): "pad fixed at 1",
    ("padding", 2): "pad fixed at 2",
    ("maps", "square"): "square maps assumed",
    ("kernels", "square"): "square kernels assumed",
    ("windows", "side by side"): "overlapping windows not provided for",
    ("pictures", 1): "only one picture of a batch is looked at",
}
NEVER = {  # (fact, the one value it has where all is wrong): what is wrong
    ("padding", 0): "no padding not provided for: a[pad:-pad] is empty where pad is 0",
    ("pictures", 1): "a batch of one not provided for",
    ("maps", "wider than high"): "square maps assumed",
    ("maps", "higher than wide"): "square maps assumed",
    ("windows", "overlapping"): "overlapping windows not provided for",
}


# ---- judging


def judge(layer, operation):
    """Return a Verdict on a layer's forward or backward."""
    try:
        if layer.kind == "dropout":
            state, message = _dropout(layer, operation)
        else:
            state, message = _cases(layer, operation)
    except DataError as error:
        state, message = SKIPPED, str(error)
    return Verdict(layer.name, layer.form, f"{layer.kind}, {operation}", state, message)


def _cases(layer, operation):
    right, backward, cases, names = CASES[layer.kind]
    solution = right if operation == "forward" else backward
    cases = cases(np.random.default_rng(2012))
    if operation == "backward":
        rng = np.random.default_rng(3)
        cases = [(facts, (rng.standard_normal(right(*args).shape), *args)) for facts, args in cases]
    found = {}  # {what is wrong: in which of the gradients}
    for part, name in enumerate(_returned(solution)):
        results = [(facts, *_one(layer, solution, part, names, args)) for facts, args in cases]
        if not all(passed for _, passed, _ in results):
            known = [text for _, text in MISTAKES[solution]]
            found.setdefault(_explain(results, known, operation), []).append(name)
    if not found:
        return RIGHT, ""
    if len(found) == 1 and len(_returned(solution)) == 1:
        return WRONG, next(iter(found))
    return WRONG, "  ".join(f"{', '.join(names)}: {text}" for text, names in found.items())


def _returned(solution):
    return ["dx", "dw", "db"] if solution in (convolution_backward, linear_backward) else ["the result"]


def _one(layer, solution, part, names, args):
    """Try a layer on one case; its other gradients count as right.  Return (is it right?, message)."""
    place = ""

    def theirs(*given):
        nonlocal place
        try:
            if solution.__name__.endswith("_backward"):
                result = layer.backward(given[0], **_named(given[1:], names))
            else:
                result = layer.forward(**_named(given, names))
        except Exception as error:
            place = _place(error)
            raise
        if isinstance(result, tuple):
            result = tuple(
                mine if i == part else right
                for i, (mine, right) in enumerate(zip(result, solution(*given), strict=True))
            )
        return result

    hole = checks.Hole(
        solution=solution,
        cases=lambda rng: [args],
        hints=(),
        wrong=tuple((mistake, text) for mistake, text in MISTAKES[solution]),
    )
    state, message, _ = checks.examine(hole, theirs, look_up=False)
    if place:
        message = re.sub(r"\n  in: .*", "", message) + place
    return state == checks.PASSED, re.sub(r"^d[xwb]: ", "", message)


def _place(error):
    """Where in the file an error came up."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in lines if "tinyalex" not in frame.filename and "numpy" not in frame.filename]
    return f" in line {own[-1].lineno}: {own[-1].line}" if own else ""


def _named(args, names):
    given = dict(zip(names, args, strict=True))
    return {**given, "pad": given.get("pad", 0)} if "stride" in given else given


def _explain(results, known, operation):
    """Name the mistake: by what the failing cases have in common, else by what is said of the first."""
    failed = [(facts, message) for facts, passed, message in results if not passed]
    passed = [facts for facts, ok, _ in results if ok]
    said = {message for _, message in failed}
    named = [message for message in known if message in said]
    if named and said <= set(known):
        return named[0]
    for count in (1, 2):
        for names in itertools.combinations(failed[0][0], count):
            if text := _separates(names, passed, [facts for facts, _ in failed], operation):
                return f"{text}  ({_short(failed[0][1])})"
    return named[0] if named else _short(failed[0][1])


def _separates(names, passed, failed, operation):
    """Say what is wrong if these facts tell the cases that pass from those that fail."""
    values = [(name, {facts[name] for facts in passed}) for name in names]
    if all(len(found) == 1 for _, found in values):
        values = [(name, *found) for name, found in values]
        if not any(all(facts[name] == value for name, value in values) for facts in failed):
            texts = [ONLY.get(pair, f"only {pair[0]} {pair[1]} is provided for") for pair in values]
            if values == [("windows", "side by side")] and operation == "backward":
                texts = [ADDS]
            where = " and ".join(f"{name} {value}" for name, value in values)
            counts = f"right in the {len(passed)} cases with {where}, wrong in the {len(failed)} others."
            return f"{', and '.join(texts)}: {counts}"
    bad = {(names[0], facts[names[0]]) for facts in failed}
    if len(names) == 1 and len(bad) == 1 and not bad & {(names[0], facts[names[0]]) for facts in passed}:
        (pair,) = bad
        if pair in NEVER:
            where = f"{pair[0]} {pair[1]}"
            return f"{NEVER[pair]}: wrong in the {len(failed)} cases with {where}, right in the others."
    return ""


def _short(message):
    message = " ".join(message.split())
    return message if len(message) < 230 else f"{message[:227]}..."


KEEP = 0.25  # far from one half: which of the two probabilities is meant shows in what is kept


def _dropout(layer, operation):
    """Dropout draws its own mask: what is kept, and by what it is multiplied, must fit together."""
    rng = np.random.default_rng(2012)
    x = 1 + rng.random((200, 300))
    np.random.seed(2012)  # noqa: NPY002  # layers written elsewhere draw from it
    training = np.asarray(layer.forward(x=x, rate=KEEP, train=True)) / x
    test = np.asarray(layer.forward(x=x, rate=KEEP, train=False)) / x
    kept = training != 0
    share, factors = kept.mean(), np.unique(training[kept].round(6))
    if min(abs(share - KEEP), abs(share - 1 + KEEP)) > 0.02:
        return WRONG, f"with p = {KEEP} a share of {share:.2f} is kept: neither p nor 1 − p"
    keep = KEEP if abs(share - KEEP) < 0.02 else 1 - KEEP
    if len(factors) > 1 or np.ptp(test) > 1e-6:
        return WRONG, "what is kept is not multiplied by one number for all"
    up, down = float(factors[0]), float(test.mean())
    if operation == "forward":
        if abs(up * keep - down) < 1e-3:
            return RIGHT, ""
        facts = f"training multiplies by {up:.3g}, test by {down:.3g}, and a share of {keep:g} is kept"
        if abs(up * keep - 1) < 1e-3 and abs(down - keep) < 1e-3:
            return WRONG, f"dropout scaled twice: {facts}.  One of the two is enough"
        if abs(up * keep * keep - 1) < 1e-3:
            return WRONG, f"dropout scaled twice in training: {facts}"
        if abs(up - 1) < 1e-3 and abs(down - 1) < 1e-3:
            return (
                WRONG,
                f"dropout scaled nowhere: {facts}; on average test gives {1 / keep:.3g} times as much",
            )
        return WRONG, f"training and test do not fit: {facts}"
    dy = rng.standard_normal(x.shape)
    backward = []
    for upstream in (dy, 2 * dy):
        np.random.seed(2012)  # noqa: NPY002
        backward.append(np.asarray(layer.backward(upstream, x=x, rate=KEEP, train=True)))
    factor = backward[0] / dy
    if np.allclose(*backward):
        return WRONG, "upstream ignored: the gradient that arrives, dy, has no effect"
    if ((factor != 0) == kept).mean() < 1:
        return WRONG, "another mask than going forward"
    if np.allclose(factor, training):
        return RIGHT, ""
    back = float(np.median(factor[kept]))
    if abs(back - up * up) < 1e-3 or (up == 1 and abs(back * keep - 1) < 1e-3):
        return WRONG, f"dropout scaled twice going back: by {back:.3g}, where forward multiplied by {up:.3g}"
    return WRONG, f"going back it multiplies by {back:.3g}, where forward multiplied by {up:.3g}"


# ---- in a process of its own


def verdicts(file, seconds=SECONDS, memory=MEMORY):
    """Judge the layers of a Python file: yield a Verdict of each, forward and backward; then of the unknown.

    The file is run, in a process of its own for each: it has `seconds` of time and `memory` bytes.  That is a
    limit, not a prison: judge only files that you would run.  Raises DataError where the file cannot be
    imported or holds no layer that is known here.
    """
    file = Path(file)
    if not file.is_file():
        raise DataError(f"{file}: expected a Python file, found {'a folder' if file.is_dir() else 'nothing'}")
    found = _apart(file, None, max(seconds, SECONDS), memory)
    if isinstance(found, str):
        raise DataError(f"{file}: cannot be imported: {found}")
    kinds = ", ".join(adapters.KINDS)
    if not any(operation for *_, operation in found):
        raise DataError(
            f"{file}: expected layers ({kinds}) as functions name_forward and name_backward, classes with "
            "forward and backward, or torch.autograd.Function; found none"
        )
    for name, form, kind, operation in found:
        if not operation:
            yield Verdict(name, form, "", UNKNOWN, f"its name says none, or several, of {kinds}")
            continue
        answer = _apart(file, f"{name} {operation}", seconds, memory)
        if isinstance(answer, str):
            yield Verdict(name, form, f"{kind}, {operation}", WRONG, answer)
        else:
            yield Verdict(*answer)


def limited():
    """Say what limits this system has not; '' where it has all."""
    return "" if sys.platform == "linux" else f"on {sys.platform} memory is not limited, time is"


def _apart(file, what, seconds, memory):
    """Run this file as a program; return what it found, or in words why it did not."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [
            sys.executable,
            "-m",
            "tinyalex.lessons.judge",
            str(file),
            what or "",
            str(memory),
            str(answer),
        ]
        process = sandbox.start(command, {**os.environ, "CUDA_VISIBLE_DEVICES": ""})
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            sandbox.end(process)
            return f"it did not end within {seconds:g} seconds: an endless loop?"
        except BaseException:
            sandbox.end(process)
            raise
        if answer.exists():
            return json.loads(answer.read_text(encoding="utf-8"))
        if code < 0:
            return f"its process was ended by signal {-code}"
        return f"its process ended with status {code} and said nothing"


def _imported(file):
    import importlib.util

    spec = importlib.util.spec_from_file_location("judged", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["judged"] = module
    sys.path.insert(0, str(file.resolve().parent))
    spec.loader.exec_module(module)
    return module


def main(file, what, memory, answer):
    """What the process of its own does: list the layers of the file, or judge one."""
    file, memory = Path(file), int(memory)
    if re.search(r"^\s*(import|from) torch\b", file.read_text(encoding="utf-8"), re.MULTILINE):
        import torch  # noqa: F401  # it takes much memory that is not the file's own
    sandbox.limit(memory)
    try:
        module = _imported(file)
        layers = adapters.find(module)
        parts = [
            (layer, part) for layer in layers for part in ("forward", "backward") if getattr(layer, part)
        ]
        if what:
            (found,) = [judge(*part) for part in parts if f"{part[0].name} {part[1]}" == what]
        else:
            found = [(layer.name, layer.form, layer.kind, part) for layer, part in parts]
            found += [(name, "", "", "") for name in adapters.unknown(module)]
    except MemoryError as error:
        found = _memory(error, memory)
    except BaseException as error:  # whatever a file does
        found = f"{type(error).__name__}: {error}"
    if what and not isinstance(found, str) and "MemoryError" in found.message:
        found = found._replace(message=_memory(found.message, memory))
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


def _memory(error, memory):
    asked = re.search(r"[Uu]nable to allocate [\d.]+ \w+", str(error))
    more = f" ({asked[0]})" if asked else ""
    return f"it asks for more memory than the limit of {memory / 2**30:.3g} GiB{more}"


if __name__ == "__main__":
    main(*sys.argv[1:])
