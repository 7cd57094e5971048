"""How good the checks are: variants of every solution, and what the checks say of them.

    python -m tinyalex.lessons.mutants [HOLE …]

Every solution is changed in one place after another (`variants`), short ones in two places at once as well.
A check has to reject what gives other numbers, and to say why.  The table counts for each hole

    mutants    how many there are
    rejected   how many of them the check refuses
    explained  of the rejected, how many are told more than an error, two shapes or the number furthest off.
               The answers are not compared with variants of the solution here, as a check does besides: it
               would find them all
    survivors  how many pass.  They must be those of `EQUIVALENT`, which give the same numbers

The exit status is 1 if another one survives, or if one of EQUIVALENT does not exist any more.
"""

import argparse
import ast
import inspect
import linecache
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import NamedTuple

import numpy as np

from tinyalex.lessons import checks
from tinyalex.lessons.variants import Variant, counters, guarded, variants

SHORT = 4  # lines of a solution that is changed in two places at once, too
PAIRS = 40  # of them, drawn
PLAIN = "shape", "bare error", "worst"  # verdicts that explain nothing


class Row(NamedTuple):
    """What was found at one hole."""

    name: str
    mutants: int
    rejected: int
    explained: int
    survivors: list  # (line, what)


def holes():
    """{name: Hole} of all lessons."""
    return {name: hole for number in checks.LESSONS for name, hole in checks.holes_of(number).items()}


def mutants(hole, rng, pairs=PAIRS):
    """Return the variants of a hole's solution: all with one change, and of a short one `pairs` with two."""
    cases = hole.cases(np.random.default_rng(0))
    names = list(inspect.signature(hole.solution).parameters)
    arrays = [n for k, n in enumerate(names) if all(isinstance(case[k], np.ndarray) for case in cases)]
    results = [hole.solution(*case) for case in cases]
    kinds = {r.dtype.name for r in results if isinstance(r, np.ndarray)}
    others = [kind for kind in ("float32", "float64") if kinds and kinds != {kind}]
    once = list(variants(hole.source, arrays, others))
    if len(hole.source.splitlines()) > SHORT + 2:  # its first line and its docstring
        return once
    equivalent = EQUIVALENT.get(hole.name, {})
    changed = [v for v in variants(hole.source) if (v.line, v.what) not in equivalent]
    twice = {}
    for k in rng.permutation(len(changed))[:pairs]:
        first = changed[k]
        further = list(variants(first.source))
        second = further[rng.integers(len(further))]
        if second.source not in {v.source for v in once} and second.source != _plain(hole):
            what = f"{first.what}; {second.line}: {second.what}"
            twice[second.source] = Variant(what, first.line, second.source, "")
    return [*once, *twice.values()]


def _plain(hole):
    return ast.unparse(ast.parse(hole.source))


def verdict(hole, variant, look_up=False):
    """Return the check's Verdict on a variant."""
    scope = {**hole.solution.__globals__, **counters()}
    file = "<mutant>"
    linecache.cache[file] = len(variant.source), None, variant.source.splitlines(keepends=True), file
    exec(guarded(variant.source, file), scope)
    return checks.examine(hole, scope[hole.name], look_up)


def row(name, share=1.0):
    """Return the Row of a hole; share: of its mutants, drawn."""
    hole, rng = holes()[name], np.random.default_rng(2012)
    every = [v for v in mutants(hole, rng, round(share * PAIRS)) if rng.random() < share or "; " in v.what]
    found = [(v, verdict(hole, v)) for v in every]
    rejected = [verdict for _, verdict in found if verdict.state == checks.WRONG]
    survivors = [(v.line, v.what) for v, verdict in found if verdict.state == checks.PASSED]
    explained = sum(verdict.how not in PLAIN for verdict in rejected)
    return Row(
        name,
        len(every),
        len(every) - len(survivors),
        explained + len(every) - len(survivors) - len(rejected),
        survivors,
    )


_ALL_WRITTEN = "every element is written once, so what stood there before, 1 or 0, is overwritten"
_ZERO_BEFORE = "every element is written once, and was 0 before"
_FREE = "a matrix of one row a filter has as many columns as are left over, whatever negative number says so"
_MARGIN = "a larger margin at the bottom and right stays 0 and is cut off"
_SYMMETRIC = "the two may be exchanged"
_PAST_THE_END = "a slice that ends behind the last channel ends at the last channel"
_ONE_SHAPE = "dy, x and s have one shape, and only the shape or the length is used"
_UNDONE = "the second change undoes the first"
_PER_QUERY = "the same number for all pictures of the database: it does not change their order"
EQUIVALENT = {
    "numeric_gradient": {
        ("slope", "`ones_like` stands for `zeros_like`"): _ALL_WRITTEN,
        ("step[index]", "`+=` stands for `=`"): _ZERO_BEFORE,
        ("slope[index]", "`+=` stands for `=`"): _ZERO_BEFORE,
    },
    "conv_loops": {
        ("y", "`ones` stands for `zeros`"): _ALL_WRITTEN,
        ("y[f, i, j, n]", "`+=` stands for `=`"): _ZERO_BEFORE,
    },
    "im2col": {
        ("cols", "`ones` stands for `zeros`"): _ALL_WRITTEN,
        ("cols[:, p, q]", "`+=` stands for `=`"): _ZERO_BEFORE,
    },
    "three_products": {("g", "1 is 2"): _FREE, ("dcols", "1 is 2"): _FREE},
    "col2im": {("dx", "`+` stands for `*`"): _MARGIN, ("dx", "2 is 3"): _MARGIN},
    "lrn": {
        ("first", "two arguments of `max` are exchanged"): _SYMMETRIC,
        ("last", "`min` is missing"): _PAST_THE_END,
        ("last", "two arguments of `min` are exchanged"): _SYMMETRIC,
        ("s[i]", "`x` is reversed along axis 0"): "a sum does not depend on its order",
    },
    "lrn_backward": {
        ("dx", "`dy` stands for `x`"): _ONE_SHAPE,
        ("dx", "`s` stands for `x`"): _ONE_SHAPE,
        ("for i in range(len(x)):", "`dy` stands for `x`"): _ONE_SHAPE,
        ("for i in range(len(x)):", "`s` stands for `x`"): _ONE_SHAPE,
        ("windows", "two arguments of `max` are exchanged"): _SYMMETRIC,
    },
    "covariance": {
        ("x", "1 is 2"): _FREE,
        ("x", "the two sides of `-` are exchanged"): "the sign of x comes in twice",
    },
    "best": {
        (
            "return",
            "only the first of the last axis is returned; return answer[..., :1]: a slice has no end",
        ): _UNDONE
    },
    "linear_gradients": {("dx", "a transpose is too many; dx: a transpose is too many"): _UNDONE},
    "cut": {("window", "a slice begins one earlier; window: a slice begins one later"): _UNDONE},
    "on_two_ranks": {
        ("(mine1, mine2)", "`dy` stands for `w2`"): "dy and w2 have the same number of rows",
        ("h", "two arguments of `maximum` are exchanged"): _SYMMETRIC,
    },
    "count": {
        ("weights", "`/` stands for `//`"): "C is a multiple of groups; a whole number as a float is right"
    },
    "nearest": {
        ("squares", what): _PER_QUERY
        for what in (
            "`-` stands for `+`",
            "`*` stands for `+`",
            "the term `(queries ** 2).sum(a …` is missing",
            "`axis` is missing",
            "`mean` stands for `sum`",
            "`max` stands for `sum`",
            "`prod` stands for `sum`",
            "`*` stands for `**`",
            "the power `2` is missing",
            "the two sides of `**` are exchanged",
            "2 is 3",
            "2 is 1",
        )
    },
    "row_columns": {
        ("copied", "two arguments of `shares_memory` are exchanged"): _SYMMETRIC,
        ("cols", "a slice ends one earlier; cols: a slice ends one later"): _UNDONE,
    },
    "bias_relu": {("memory[place]", "two arguments of `max` are exchanged"): _SYMMETRIC},
    "receptive_field": {("(side, step)", "the two results are exchanged"): "both begin with 1"},
    "in_parts": {
        ("(N, dw)", "`t` stands for `x`"): "x and t have a column for each picture",
        ("(N, dw)", "`parts` stands for `w`"): "the number 0 plus an array is the array",
    },
    "data_parallel": {("N", "`t` stands for `x`"): "x and t have a column for each picture"},
    "hybrid": {
        ("(images, rows)", "`dy` stands for `w2`"): "dy and w2 have the same number of rows",
        ("h", "two arguments of `maximum` are exchanged"): _SYMMETRIC,
    },
}


def _line(name, *numbers):
    return f"{name:20}" + "".join(f"{number:>10}" for number in numbers)


def main(names):
    """Print the table of some holes, by default all; return the exit status."""
    names = names or list(holes())
    if unknown := set(names) - set(holes()):
        raise SystemExit(f"{', '.join(sorted(unknown))}: no such hole; there are {', '.join(holes())}")
    print(_line("hole", "mutants", "rejected", "explained", "survivors"))
    rows, bad = [], 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(row, names):
            rows.append(found)
            known = EQUIVALENT.get(found.name, {})
            print(_line(found.name, *found[1:4], len(found.survivors)))
            for line, what in found.survivors:
                if (line, what) not in known:
                    bad += 1
                    print(f"    survives: {line}: {what}")
            for line, what in known.keys() - set(found.survivors):
                bad += 1
                print(f"    does not survive: {line}: {what}")
    count, rejected, explained = (sum(r[k] for r in rows) for k in (1, 2, 3))
    survivors = count - rejected
    print(_line("all", count, rejected, explained, survivors))
    print(f"{rejected / count:.1%} rejected; of these {explained / rejected:.1%} explained")
    return bool(bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tinyalex.lessons.mutants", description=__doc__.split("\n")[0]
    )
    parser.add_argument("hole", nargs="*", help="names of holes; by default all")
    sys.exit(main(parser.parse_args().hole))
