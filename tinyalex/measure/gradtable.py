"""Every gradient in tinyalex against its difference quotient: the rows of ``tinyalex check-grads``.

One row is one operation, as it is configured in `tinyalex.ops.cases`, and one variable of it.
"""

from typing import NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinyalex.gradcheck import TOLERANCES, GradientError, check
from tinyalex.measure import print_whole
from tinyalex.ops.cases import CASES


class Row(NamedTuple):
    """What one check found; ``failure`` is its text if it failed, and then ``error`` is nan."""

    operation: str
    variable: str
    error: float  # relative, the largest of all directions
    tolerance: float
    reason: str  # why the tolerance is what it is
    failure: str = ""


def run(seed=0):
    """Yield a `Row` for each variable of each of `CASES`, with inputs and directions drawn from ``seed``."""
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([seed, number])
        inputs = case.draw(rng)
        for name in _gradients(inputs):
            yield _row(case, inputs, name, rng)


def _gradients(inputs):
    """Return the names of the inputs that have a gradient: the floats, not a mask or labels."""
    return [name for name, x in inputs.items() if x.dtype.kind == "f"]


def _row(case, inputs, name, rng):
    """Check one variable of a case."""

    def backward(dy, cache):
        return {name: dict(zip(inputs, case.backward(dy, cache), strict=False))[name]}

    linear = name in case.linear
    tolerance, reason = TOLERANCES["float64", linear]
    error, failure = float("nan"), ""
    try:
        error = check(case.forward, backward, inputs, rng=rng, linear=case.linear).errors[name]
    except GradientError as wrong:
        failure = str(wrong)
    return Row(case.title, name, error, tolerance, reason, failure)


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
    print_whole(console, table)
    for tolerance, reason in sorted({(row.tolerance, row.reason) for row in rows}):
        console.print(f"tolerance {tolerance:.0e}: {reason}", highlight=False)
    failures = [row for row in rows if row.failure]
    for row in failures:
        console.print(f"{row.operation}: {row.failure}", style="red", markup=False, highlight=False)
    console.print(
        f"{len(rows) - len(failures)} of {len(rows)} gradients agree with the slope of their forward."
    )
    return 1 if failures else 0
