"""Every gradient in tinyalex against its difference quotient: the rows of ``tinyalex check-grads``.

One row is one operation, as it is configured there, and one variable of it.  H and W, C and F, KH and KW
differ, so that exchanged axes show even in the shapes; only minimal filtering (`ops.winograd`) wants square
kernels, and many channels.  LRN is checked with alpha = 1: at the paper's 1e-4 its gradient is dy·k^−beta
to four digits, whatever the rest of the formula says.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinyalex.gradcheck import TOLERANCES, GradientError, check
from tinyalex.ops.activation import logistic, relu, tanh
from tinyalex.ops.conv import conv2d_backward, conv2d_forward
from tinyalex.ops.dropout import dropout_backward, dropout_forward, dropout_mask
from tinyalex.ops.linear import linear_backward, linear_forward
from tinyalex.ops.lrn import lrn_backward, lrn_forward, same_map_norm_backward, same_map_norm_forward
from tinyalex.ops.pool import avg_pool_backward, avg_pool_forward, max_pool_backward, max_pool_forward
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward


class Case(NamedTuple):
    """An operation as it is configured for its rows."""

    operation: str
    forward: Callable  # (**inputs) → (y, cache)
    backward: Callable  # (dy, cache) → the gradient, or the gradients of the first inputs in their order
    inputs: dict  # name → (rng → array)
    linear: str = ""  # names of the variables in which y is linear


class Row(NamedTuple):
    """What one check found; ``failure`` is its text if it failed, and then ``error`` is nan."""

    operation: str
    variable: str
    error: float  # relative, the largest of all directions
    tolerance: float
    reason: str  # why the tolerance is what it is
    failure: str = ""


def spread(*shape):
    """Return rng → array of distinct values evenly spread over −2…2, in random order: no two tie."""
    size = np.prod(shape)
    return lambda rng: rng.permutation(np.linspace(-2, 2, size)).reshape(shape)


def _conv(what, linear="xwb", x=(4, 9, 13, 3), w=(6, 4, 3, 2), groups=1, **settings):
    F, C, *kernel = w
    inputs = {"x": spread(*x), "w": spread(F, C // groups, *kernel), "b": spread(F)}
    forward = partial(conv2d_forward, groups=groups, **settings)
    return Case(f"conv2d{what}", forward, conv2d_backward, inputs, linear)


def _linear(what, linear="xwb", **settings):
    inputs = {"x": spread(5, 3), "w": spread(4, 5), "b": spread(4)}
    return Case(f"linear{what}", partial(linear_forward, **settings), linear_backward, inputs, linear)


def _map(operation, forward, backward, shape=(3, 7, 9, 2), linear="", **settings):
    return Case(operation, partial(forward, **settings), backward, {"x": spread(*shape)}, linear)


def _dropout(what, **settings):
    inputs = {"x": spread(6, 5), "mask": lambda rng: dropout_mask(rng, (6, 5), 0.7)}
    return Case(f"dropout{what}", partial(dropout_forward, **settings), dropout_backward, inputs, "x")


def _softmax_loss(what, **settings):
    inputs = {"logits": spread(7, 5), "labels": lambda rng: rng.integers(0, 7, 5)}
    return Case(
        f"softmax loss{what}",
        partial(softmax_loss_forward, **settings),
        lambda dloss, cache: dloss * softmax_loss_backward(cache),
        inputs,
    )


_lrn = partial(_map, forward=lrn_forward, backward=lrn_backward, shape=(6, 3, 4, 2), alpha=1.0)
_max_pool = partial(_map, forward=max_pool_forward, backward=max_pool_backward, z=3, s=2)
_avg_pool = partial(_map, forward=avg_pool_forward, backward=avg_pool_backward, linear="x", z=3, s=2)

CASES = [
    _conv(""),
    _conv(", pad 1", pad=1),
    _conv(", pad 3 (a whole kernel)", pad=3),
    _conv(", stride 2, pad (1,2,0,1)", stride=2, pad=(1, 2, 0, 1)),
    _conv(", stride 4 (gaps)", stride=4),
    _conv(", groups 2", groups=2),
    _conv(", groups 2, stride 2", groups=2, stride=2),
    _conv(" + relu", "", activation=relu),
    _conv(" + tanh, stride 2", "", activation=tanh(), stride=2),
    _conv(" 3×3, minimal filtering", x=(30, 6, 9, 1), w=(32, 30, 3, 3), pad=(1, 0, 2, 1)),
    _conv(" 5×5, minimal filtering", x=(30, 6, 9, 1), w=(32, 30, 5, 5), pad=2),
    _max_pool("max pool 3×3, stride 2"),
    _max_pool("max pool, partial windows", shape=(3, 6, 8, 2)),
    _max_pool("max pool, pad (1,0,1,1)", pad=(1, 0, 1, 1)),
    _avg_pool("avg pool 3×3, stride 2"),
    _avg_pool("avg pool, partial windows", shape=(3, 6, 8, 2)),
    _avg_pool("avg pool, pad (1,0,1,1)", pad=(1, 0, 1, 1)),
    _lrn("lrn, n 5"),
    _lrn("lrn, n 4", n=4),
    _lrn("lrn, n 15 > C", n=15),
    _lrn("lrn, n 3, groups 2", n=3, groups=2),
    _lrn("lrn, n 5, alpha/n", alpha_over_n=True),
    _map("same-map norm, n 5", same_map_norm_forward, same_map_norm_backward, alpha=1.0),
    _map("same-map norm, n 4", same_map_norm_forward, same_map_norm_backward, alpha=1.0, n=4),
    *(_map(*neuron) for neuron in (relu, tanh(), tanh(1.7, 0.6), logistic)),
    _dropout(", 2012", keep=0.7),
    _dropout(", inverted", keep=0.7, inverted=True),
    _linear(""),
    _linear(" + relu", "", activation=relu),
    _softmax_loss(""),
    _softmax_loss(", total 20", total=20),
]


def run(seed=0):
    """Yield a `Row` for each variable of each of `CASES`, with inputs and directions drawn from ``seed``."""
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([seed, number])
        inputs = {name: draw(rng) for name, draw in case.inputs.items()}
        for name in _gradients(inputs):
            yield _row(case, inputs, name, rng)


def _gradients(inputs):
    """Return the names of the inputs that have a gradient: the floats, not a mask or labels."""
    return [name for name, x in inputs.items() if x.dtype.kind == "f"]


def _row(case, inputs, name, rng):
    """Check one variable of a case."""

    def backward(dy, cache):
        gradients = case.backward(dy, cache)
        gradients = gradients if isinstance(gradients, tuple) else (gradients,)
        return {name: dict(zip(inputs, gradients, strict=False))[name]}

    linear = name in case.linear
    tolerance, reason = TOLERANCES["float64", linear]
    error, failure = float("nan"), ""
    try:
        error = check(case.forward, backward, inputs, rng=rng, linear=case.linear).errors[name]
    except GradientError as wrong:
        failure = str(wrong)
    return Row(case.operation, name, error, tolerance, reason, failure)


def print_table(rows, console=None):
    """Print a table of rows and a verdict; return the exit code: 0, or 1 if a row failed."""
    console = console or Console()
    rows = list(rows)
    table = Table("operation", "variable", "relative error", "tolerance", "", box=SIMPLE_HEAD)
    shown = None
    for row in rows:
        operation = "" if row.operation == shown else row.operation
        verdict = Text("FAIL", "red") if row.failure else Text("ok", "green")
        table.add_row(operation, row.variable, f"{row.error:.1e}", f"{row.tolerance:.0e}", verdict)
        shown = row.operation
    console.print(table)
    for tolerance, reason in sorted({(row.tolerance, row.reason) for row in rows}):
        console.print(f"tolerance {tolerance:.0e}: {reason}", highlight=False)
    failures = [row for row in rows if row.failure]
    for row in failures:
        console.print(f"{row.operation}: {row.failure}", style="red", markup=False, highlight=False)
    console.print(
        f"{len(rows) - len(failures)} of {len(rows)} gradients agree with the slope of their forward."
    )
    return 1 if failures else 0
