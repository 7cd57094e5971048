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

LESSONS = range(1, 17)
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
    return {name: hole for number in LESSONS for name, hole in checks.holes_of(number).items()}


def mutants(hole, rng):
    """Return the variants of a hole's solution: all with one change, and of a short one some with two."""
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
    changed = [v for v in once if (v.line, v.what) not in equivalent]
    twice = {}
    for k in rng.permutation(len(changed))[:PAIRS]:
        first = changed[k]
        further = list(variants(first.source, arrays))
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
    every = [v for v in mutants(hole, rng) if rng.random() < share]
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


EQUIVALENT = {}


def main(names):
    """Print the table of some holes, by default all; return the exit status."""
    names = names or list(holes())
    if unknown := set(names) - set(holes()):
        raise SystemExit(f"{', '.join(sorted(unknown))}: no such hole; there are {', '.join(holes())}")
    print(f"{'hole':20} {'mutants':>7} {'rejected':>8} {'explained':>9} {'survivors':>9}")
    rows, bad = [], 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(row, names):
            rows.append(found)
            known = EQUIVALENT.get(found.name, {})
            print(
                f"{found.name:20} {found.mutants:7} {found.rejected:8} {found.explained:9} {len(found.survivors):9}"
            )
            for line, what in found.survivors:
                if (line, what) not in known:
                    bad += 1
                    print(f"    survives: {line}: {what}")
            for line, what in known.keys() - set(found.survivors):
                bad += 1
                print(f"    does not survive: {line}: {what}")
    count, rejected, explained = (sum(r[k] for r in rows) for k in (1, 2, 3))
    survivors = count - rejected
    print(f"{'all':20} {count:7} {rejected:8} {explained:9} {survivors:9}")
    print(f"{rejected / count:.1%} rejected; of these {explained / rejected:.1%} explained")
    return bool(bad)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m tinyalex.lessons.mutants", description=__doc__.split("\n")[0]
    )
    parser.add_argument("hole", nargs="*", help="names of holes; by default all")
    sys.exit(main(parser.parse_args().hole))
