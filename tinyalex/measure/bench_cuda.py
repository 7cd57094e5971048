"""What a step's kernels achieve on a GPU, by the device's own clock, beside what the card can do.

Every launch of one more step stands between two events on the rank's stream.  A kernel's bandwidth is the
least bytes it must move (`measure.traffic`) over its time; the products' rate is their arithmetic
over theirs.  The card's rates are measured in the same process: a copy of 256 MiB, reading and writing, and a
product of 4096×4096 matrices in float32.
"""

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tinyalex.memory import empty
from tinyalex.ops.cuda.launch import timed


def kernels(device, step):
    """Run step() once; return one dict a kernel: launches, ms, least bytes to be moved, FLOP of products."""
    with timed() as events:
        step()
    device.finish()
    rows = {}
    for kernel, nbytes, flop, start, end in events:
        name = kernel.rpartition(".")[2]
        row = rows.setdefault(name, {"kernel": name, "launches": 0, "ms": 0.0, "bytes": 0, "flop": 0})
        row["launches"] += 1
        row["ms"] += device.xp.cuda.get_elapsed_time(start, end)
        row["bytes"] += nbytes
        row["flop"] += flop
    return sorted(rows.values(), key=lambda row: -row["ms"])


def rates(device, nbytes=2**28, side=4096, repeats=10):
    """Return the card's (bytes/s of a copy, FLOP/s of a float32 product), the fastest of some repeats."""
    xp = device.xp
    source, target = (empty(xp, (nbytes // 4,), np.float32) for _ in range(2))
    a, b, c = (xp.zeros((side, side), np.float32) for _ in range(3))

    def fill():
        target[...] = source

    def fastest(work):
        times = []
        for _ in range(repeats):
            start, end = xp.cuda.Event(), xp.cuda.Event()
            start.record()
            work()
            end.record()
            device.finish()
            times.append(xp.cuda.get_elapsed_time(start, end) / 1e3)
        return min(times)

    return 2 * nbytes / fastest(fill), 2 * side**3 / fastest(lambda: xp.matmul(a, b, out=c))


def table(rows, copy, product):
    """Return the table of `kernels`, with shares of the card's `rates`."""
    out = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="")
    for head in ("kernel", "launches", "ms", "GB/s", "of copy", "TFLOP/s", "of GEMM"):
        out.add_column(head, justify="left" if head == "kernel" else "right")
    for row in rows:
        seconds = row["ms"] / 1e3 or np.inf
        cells = [row["kernel"], str(row["launches"]), f"{row['ms']:.3f}"]
        for done, unit, limit in ((row["bytes"], 1e9, copy), (row["flop"], 1e12, product)):
            rate = done / seconds
            cells += [f"{rate / unit:.1f}", f"{rate / limit:.0%}"] if done else ["", ""]
        out.add_row(*cells)
    return out
