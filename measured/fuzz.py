"""Damaged and hostile files of every format that tinyalex reads: what comes out?

    python measured/fuzz.py [--inputs 24000] [--seed 0] [--only FORMAT]

Each input is a good file, changed: bytes flipped, cut, doubled, moved; or, where the format has a structure
(JSON, protobuf), a value in it replaced by another that a program may stumble over.  It is read as tinyalex
reads such a file, and if it is accepted, what was read is used: a network looks at a picture.  The reading is
done in a process that may take 3 GB of address space, and no input may take more than 30 seconds
of processor time.

A format's column "refused" counts inputs that raised a tinyalex error (or OSError), "undocumented" those that
raised anything else, "crashed" processes that died.  Exits with 1 unless the last three are 0.
"""

import argparse
import multiprocessing
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

from fuzz_formats import FORMATS
from rich.console import Console
from rich.table import Table

from tinyalex.errors import TinyalexError

ADDRESS_SPACE, SECONDS = 3 << 30, 30


# ---- running them --------------------------------------------------------------------------------------


class Hang(BaseException):
    """An input took too long."""


def try_inputs(kind, folder, seed, start, stop, found):
    """Read inputs start … stop − 1 of a format; found(number, outcome, traceback) after each."""

    def alarm(*_):
        raise Hang

    signal.signal(signal.SIGPROF, alarm)  # of processor time: the machine may be busy with others
    fmt = kind(folder)
    for number in range(start, stop):
        rng = random.Random(f"{seed} {kind.__name__} {number}")
        case = fmt.case(rng)
        found(number, "begun", "")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcome, trace = "accepted", ""
        try:
            fmt.read(case)
        except (TinyalexError, OSError):
            outcome = "refused"
        except Hang:
            outcome, trace = "hung", traceback.format_exc()
        except Exception:
            outcome, trace = "undocumented", traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        found(number, outcome, trace)


def _child(pipe, kind, seed, start, stop):
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        try_inputs(kind, Path(folder) / "format", seed, start, stop, lambda *what: pipe.send(what))
    pipe.send((stop, "peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def fuzz(kind, seed, inputs):
    """Read inputs of a format in processes of their own: (counts of outcomes, peak kB, tracebacks)."""
    counts, peak, traces, start = Counter(), 0, [], 0
    while start < inputs:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("spawn").Process(
            target=_child, args=(theirs, kind, seed, start, inputs)
        )
        child.start()
        theirs.close()
        outcome = "peak"
        try:
            while True:
                number, outcome, trace = ours.recv()
                if outcome == "peak":
                    peak, number = max(peak, trace), inputs - 1
                elif outcome != "begun":
                    counts[outcome] += 1
                    if trace:
                        traces.append(f"{kind.__name__} {number}: {trace}")
                start = number + 1
        except EOFError:
            child.join()
        if outcome != "peak":
            counts["crashed"] += 1
            traces.append(f"{kind.__name__} {start - 1}: ended with {child.exitcode}")
    return counts, peak, traces


def main(inputs, seed, only):
    """Print the table; return whether nothing hung, crashed or raised what is not documented."""
    kinds = [kind for kind in FORMATS if only in (None, kind.__name__)]
    total = sum(kind.weight for kind in kinds)
    columns = "inputs", "accepted", "refused", "undocumented", "hung", "crashed", "peak MB"
    table, sums, all_traces = Table("format", *columns), Counter(), []
    for kind in kinds:
        counts, peak, traces = fuzz(kind, seed, -(-inputs * kind.weight // total))
        counts["inputs"], counts["peak MB"] = sum(counts.values()), peak // 1000
        table.add_row(kind.__name__, *(f"{counts[c]:,}" for c in columns))
        sums += counts
        all_traces += traces
    table.add_section()
    table.add_row("all", *(f"{sums[c]:,}" for c in columns[:-1]))
    console = Console(width=110)
    for trace in all_traces[:20]:
        lines = trace.strip().splitlines()
        console.print("\n".join([lines[0], *lines[-3:]]) if len(lines) > 4 else trace, markup=False)
    console.print(table)
    return not sums["undocumented"] + sums["hung"] + sums["crashed"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[kind.__name__ for kind in FORMATS])
    options = parser.parse_args()
    sys.exit(not main(options.inputs, options.seed, options.only))
