"""What a step's kernels achieve on a GPU, by the device's own clock, beside what the card can do.

Every launch stands between two events on the rank's stream, in several steps; figures are medians of them.  A
kernel's bandwidth is the least bytes it must move (`measure.traffic`) over its time; a product's rate is its
arithmetic over its time.  Before each step the stream is given copies to do, until the host has queued the
launches behind them: otherwise the time between two events would also hold the host's.  What is in no row
(CuPy's own sums and fills, gaps) is the row "other": the step, timed without events inside, minus all rows.

The card's rates are measured in the same process: a copy of 256 MiB, reading and writing, and a product of
8192×8192 matrices of random numbers in float32 (zeros draw less power, and are faster).
"""

from time import perf_counter

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tinyalex.memory import empty
from tinyalex.ops.cuda.bias import bias
from tinyalex.ops.cuda.implicit_gemm import tf32
from tinyalex.ops.cuda.launch import timed

COPY, SIDE, REPEATS = 2**28, 8192, 10  # bytes, rows of a matrix, steps


def measure(device, step, place):
    """Run step() some dozens of times; return what was found, as data for JSON.

    place(): on whose behalf a launch is made, "conv2 backward" (a comm's label).

    step_ms: of each step by the device's clock. launches: a dict of each layer and direction's kernels
    with their number, milliseconds, bytes and FLOP a step. launch_us: what a launch costs the host.
    memory: bytes in arrays and in the pool after a step. rates: bytes/s of a copy, FLOP/s of a product.
    tf32: whether products round their factors to 10 bits.
    """
    pool, cuda = device.xp.get_default_memory_pool(), device.xp.cuda
    step_ms = _milliseconds(device, step, REPEATS)
    memory = {"used": pool.used_bytes(), "pool": pool.total_bytes()}
    copy, rate = _copying(device)
    found = {
        "card": cuda.runtime.getDeviceProperties(device.index)["name"].decode(),
        "tf32": tf32(),
        "step_ms": step_ms,
        "launches": _launches(device, step, place, copy, step_ms),
        "launch_us": _launch_microseconds(device),
        "memory": memory,
    }
    del copy
    return found | {"rates": (rate, _product_rate(device))}


def _milliseconds(device, work, repeats):
    """Milliseconds of each call of work() by the device's clock, the first two left out."""
    cuda, found = device.xp.cuda, []
    for _ in range(repeats + 2):
        start, end = cuda.Event(), cuda.Event()
        start.record()
        work()
        end.record()
        device.finish()
        found.append(cuda.get_elapsed_time(start, end))
    return found[2:]


def _copying(device):
    """Return copy(), which only queues one, and its bytes/s, reading and writing."""
    source = device.xp.zeros((COPY // 4,), np.float32)
    target = empty(device.xp, source.shape, source.dtype)

    def copy():
        target[...] = source

    return copy, 2e3 * COPY / min(_milliseconds(device, copy, REPEATS))


def _product_rate(device):
    rng = np.random.default_rng(0)
    a, b = (device.put(rng.standard_normal((SIDE, SIDE), np.float32)) for _ in range(2))
    c = empty(device.xp, a.shape, a.dtype)
    best = min(_milliseconds(device, lambda: device.xp.matmul(a, b, out=c), REPEATS))
    return 2e3 * SIDE**3 / best


def _launches(device, step, place, copy, step_ms):
    """One dict for each place and kernel, in the order of the launches; last what is in none of them."""
    ahead = int(2 * np.median(step_ms) / min(_milliseconds(device, copy, 3)) + 1)
    runs = []
    for _ in range(REPEATS):
        for _ in range(min(ahead, 500)):
            copy()
        with timed(place) as events:
            step()
        device.finish()
        runs.append(events)
    rows = {}
    for same in zip(*runs, strict=True):
        ms = np.median([device.xp.cuda.get_elapsed_time(one.start, one.end) for one in same])
        one = same[0]
        where = one.place or "loss and update"
        row = rows.setdefault((where, one.kernel), {"place": where, "kernel": one.kernel, "launches": 0})
        for name, value in (("launches", 1), ("ms", float(ms)), ("bytes", one.bytes), ("flop", one.flop)):
            row[name] = row.get(name, 0) + value
    rest = float(np.median(step_ms)) - sum(row["ms"] for row in rows.values())
    other = {"place": "other", "kernel": "other", "launches": 0, "ms": rest, "bytes": 0, "flop": 0}
    return [*rows.values(), other]


def _launch_microseconds(device, count=300):
    """What the host needs for one launch of a kernel that has next to nothing to do."""
    maps, b = (device.xp.zeros(shape, np.float32) for shape in ((1, 32), (1,)))
    bias(maps, b, None)
    device.finish()
    start = perf_counter()
    for _ in range(count):
        bias(maps, b, None)
    seconds = perf_counter() - start
    device.finish()
    return 1e6 * seconds / count


def table(found, layers=False):
    """Return the table of what `measure` found: a row a kernel, products by layer; or all by layer."""
    copy, product = found["rates"]
    rows = {}
    for one in found["launches"]:
        name = one["kernel"]
        if one["flop"] or layers:
            name = one["place"] + (f", {name}" if name != one["place"] else "")
        row = rows.setdefault(name, {"launches": 0, "ms": 0.0, "bytes": 0, "flop": 0})
        for key in row:
            row[key] += one[key]
    if not layers:
        rows = dict(sorted(rows.items(), key=lambda item: (item[0] == "other", -item[1]["ms"])))
    out = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="")
    for head in ("kernel", "launches", "ms", "GB/s", "of copy", "TFLOP/s", "of GEMM"):
        out.add_column(head, justify="left" if head == "kernel" else "right")
    for name, row in rows.items():
        seconds = row["ms"] / 1e3 or np.inf
        cells = [name, str(row["launches"] or ""), f"{row['ms']:.3f}"]
        for done, unit, limit in ((row["bytes"], 1e9, copy), (row["flop"], 1e12, product)):
            rate = done / seconds
            cells += [f"{rate / unit:.1f}", f"{rate / limit:.0%}"] if done else ["", ""]
        out.add_row(*cells)
    return out


def summary(found):
    """Return what the table does not say, in a few lines."""
    low, middle, high = (f(found["step_ms"]) for f in (min, np.median, max))
    copy, product = found["rates"]
    launches = sum(row["launches"] for row in found["launches"])
    return (
        f"{found['card']}, products in {'TF32' if found['tf32'] else 'float32'}: "
        f"a step takes {middle:.2f} ms ({low:.2f} to {high:.2f}) by the device's clock\n"
        f"{launches} launches in the table, {found['launch_us']:.1f} µs of the host each; "
        f"the card copies {copy / 1e9:,.0f} GB/s and multiplies {product / 1e12:.1f} TFLOP/s\n"
        f"memory: {found['memory']['used'] / 1e9:.2f} GB in arrays after a step, "
        f"{found['memory']['pool'] / 1e9:.2f} GB in the pool"
    )
