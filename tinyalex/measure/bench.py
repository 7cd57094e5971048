"""How fast: seconds per step, where they go, and how far from the limit of the matrix products.

    tinyalex bench alexnet --vs torch

**Step**: forward, loss, backward, update, on one batch of random pictures; `forward` alone on request.  A
round is one step, or as many as take half a second.  Rounds of tinyalex and of PyTorch alternate, so that
both see the same load on a shared machine; the figures are medians of the rounds.  PyTorch has a process of
its own: its memory is counted apart, and it meets no limits that were set for our ranks.

**Limit**: the matrix products of im2col alone, one for each output row of a convolution, on all ranks at
once, one BLAS thread each.  What is above it went into everything else: columns, biases, neurons, pooling,
normalization, the exchange, the update.  Most convolutions take fewer multiplications than im2col
(`ops.winograd`), so a step can reach more than 1 of the limit, and a layer more GFLOP/s than the processor
has: both count im2col's arithmetic.

**Memory** is the largest resident set, those of all processes that are ranks added up, so that what they
share counts more than once; **page faults** are those of a step: each is 4 KiB of memory that the system had
to find and clear.
"""

import json
import math
import os
import socket
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, nullcontext, suppress
from importlib.util import find_spec
from time import perf_counter

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from tinyalex.comm import launch
from tinyalex.errors import ArgumentError, DeviceError
from tinyalex.measure import bench_cuda, print_whole
from tinyalex.measure.alone import alone
from tinyalex.measure.machine import blas, cpu, faults, peak_bytes
from tinyalex.nn import Conv2d, Linear
from tinyalex.optim import SGD
from tinyalex.parallel import usual
from tinyalex.train import Step

ROUND = 0.5  # seconds that a round takes at the least
RATE = 1e-4


def check(network, against, device):
    """Raise the error of PyTorch that is not here, or cannot do what the network does."""
    if against not in (None, "torch", "torch-tuned"):
        raise ArgumentError(f"--vs: expected torch or torch-tuned, found {against!r}")
    own = [layer for layer in network.layers if not type(layer).__module__.startswith("tinyalex.")]
    if against and own:
        kind = type(own[0]).__name__
        raise ArgumentError(f"--vs {against}: {kind}, a kind of layer of your own, has no twin there")
    if against and not find_spec("torch"):
        raise ArgumentError(f"--vs {against}: PyTorch is not installed; pip install 'tinyalex[oracle]'")
    if against and device.kind == "cuda":
        from tinyalex.measure import bench_torch

        bench_torch.check(device)


class _Work:
    """What one rank repeats: a step of the network, or its forward pass; of one layer, both passes."""

    def __init__(self, comm, network, layer, batch, forward, parallel):
        self.comm, self.forward, self.single = comm, forward, layer is not None
        if layer:
            network, parts = alone(network, layer, comm.size, parallel)
        rng = np.random.default_rng(1)
        self.net = network.build(comm.alone() if layer else comm, np.random.default_rng(0), parallel=parallel)
        parts = parts if layer else self.net.data.size
        if batch % parts:
            raise ArgumentError(f"batch: {batch} images cannot be shared evenly by {parts} ranks")
        batch //= parts
        if layer:
            self.net.layers[layer].need_dx = getattr(network.layers[0], "need_dx", True)
        self.x = comm.device.put(rng.standard_normal((*network.input, batch), np.float32))
        y = network.outputs
        self.dy = comm.device.put(rng.standard_normal((*y, batch), np.float32))
        self.labels = comm.device.put(rng.integers(0, y[0], batch))
        self.optimizer = SGD(self.net, RATE, decay=0.0005)
        self.step = Step(self.net, self.optimizer)

    def __call__(self):
        if self.forward:
            self.net.forward(self.x)
        elif self.single:
            self.net.forward(self.x, train=True)
            self.net.backward(self.dy)
        else:
            self.step(self.x, self.labels)


def measure(
    network, devices, batch, rounds, *, layer=None, against=None, forward=False, parallel=None, what="",
    on_round=None,
):  # fmt: skip
    """Time the work on the devices; return a dict of what was found (numbers, strings, lists of them).

    Under MPI the processes but the first get None.

    network: a `models.Network`.  parallel: how the devices share it, see `tinyalex.parallel`.  layer: the
    name of one, to time it alone.  against: "torch" or "torch-tuned", see `bench_torch`.  what: the network's
    name, for the result.
    on_round(round) is called by rank 0 before the first round, with -1, and after each.
    """

    parallel = parallel or usual(network)

    def rank(comm):
        work = _Work(comm, network, layer, batch, forward, parallel)
        for _ in range(2):  # buffers are made in the first step
            start = perf_counter()
            work()
            comm.device.finish()
        steps = comm.share(max(1, math.ceil(ROUND / (perf_counter() - start))))
        found = {"ranks": comm.size, "steps_a_round": steps, "seconds": [], "faults": []}
        found["flop"] = 0 if layer or forward else _flop(work)
        found["peak_bytes"] = _of_all(comm, peak_bytes())
        if on_round and comm.rank == 0:
            on_round(-1)
        rival = nullcontext()
        if against and comm.rank == 0:
            rival = _rival(network, layer, batch, forward, against == "torch-tuned", comm)
        with rival as other, _timed(work) as layers:
            for number in range(rounds):
                comm.share(None)  # the ranks begin together
                start, before = perf_counter(), faults()
                for _ in range(steps):
                    work()
                comm.device.finish()
                comm.share(None)
                found["seconds"].append((perf_counter() - start) / steps)
                found["faults"].append(_of_all(comm, faults() - before) / steps)
                for key, value in (other(steps) if other else {}).items():
                    found.setdefault(f"other_{key}", []).append(value)
                if on_round and comm.rank == 0:
                    on_round(number)
        if comm.device.kind == "cuda":  # the host's clock sees only that layers are queued
            found["limit"], found["layers"] = None, []
            found["gpu"] = bench_cuda.measure(comm.device, work, lambda: work.net.comm.label)
        else:
            found["limit"] = _limit(work) if not forward else None
            found["layers"] = _layer_rows(work, layers, steps * rounds)
        return None if comm.rank else found

    [found, *_] = launch(rank, devices, processes=True)
    names = devices.split(",") if isinstance(devices, str) else [d.name for d in devices]
    return found and {
        "what": layer or what, "devices": names, "parallel": parallel, "batch": batch, "rounds": rounds,
        "forward_only": forward, "against": against, "cpu": cpu(), "numpy": blas(), **found,
    }  # fmt: skip


def _of_all(comm, count):
    """Sum what this process counts (None: it cannot) over those that the ranks are; on a GPU, this one's."""
    if count is None or comm.device.kind != "cpu":
        return count
    process = hash((os.getpid(), socket.gethostname()))
    return sum(dict(comm.all_gather(np.array([[process, count]])).tolist()).values())


@contextmanager
def _rival(network, layer, batch, forward, tuned, comm):
    """Within the block, a process with the same work in PyTorch (`bench_torch.serve`).

    Yields a function of a number of steps: it has them done, and returns their mean seconds and page faults,
    the process's largest resident set so far, and its threads.
    """
    order = {
        "network": network.to_json(), "layer": layer, "batch": batch, "forward": forward, "tuned": tuned,
        "threads": comm.size,
        "device": comm.device.name if comm.device.kind == "cuda" else "cpu",
    }  # fmt: skip
    command = [sys.executable, "-m", "tinyalex.measure.bench_torch"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def ask(question):
            answer = ""
            with suppress(BrokenPipeError):
                print(json.dumps(question), file=process.stdin, flush=True)
                answer = process.stdout.readline()
            if not answer:
                raise DeviceError(f"PyTorch's process ended with exit code {process.wait()}")
            return json.loads(answer)

        try:
            ask(order)
            yield ask
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()  # it ends


@contextmanager
def _timed(work):
    """Within the block, add up the seconds of every layer's forward and backward, and of the update."""
    seconds = Counter()

    def timed(owner, method, key):
        plain = getattr(owner, method)

        def call(*args, **kwargs):
            start = perf_counter()
            result = plain(*args, **kwargs)
            seconds[key] += perf_counter() - start
            return result

        setattr(owner, method, call)
        return owner, method

    wrapped = [timed(work.optimizer, "step", ("update", "forward"))]
    for name, layer in work.net.layers.items():
        wrapped += [timed(layer, direction, (name, direction)) for direction in ("forward", "backward")]
    try:
        yield seconds
    finally:
        for owner, method in wrapped:
            delattr(owner, method)


def products(place, batch):
    """Return one rank's matrix products of a `tinyalex.nn.Placed` in a step, by "forward" and "backward".

    batch: images of all ranks.  Each is (count, m, k, n): m×k times k×n.  The gradient to the pixels is not
    computed.
    """
    layer, batch, ranks = place.layer, batch // place.parts, place.ranks
    if isinstance(layer, Linear):
        F, D = layer.sizes(place.x)["w"]
        F //= ranks
        return {"forward": [(1, F, D, batch)], "backward": [(1, D, F, batch), (1, F, batch, D)]}
    if not isinstance(layer, Conv2d):
        return {"forward": [], "backward": []}
    F, CG, KH, KW = layer.sizes(place.x)["w"]
    F //= ranks
    groups = max(1, layer.groups // ranks)
    _, OH, OW = place.y
    m, k, n = F // groups, CG * KH * KW, OW * batch
    back = [(groups * OH, m, n, k)] + [(groups * OH, k, m, n)] * layer.need_dx
    return {"forward": [(groups * OH, m, k, n)], "backward": back}


def _limit(work):
    """Seconds of the step's matrix products alone: see the module's docstring."""
    batch = work.x.shape[-1] * work.net.data.size
    rng = np.random.default_rng(0)
    total = 0.0
    for place in work.net.placed.values():
        both = products(place, batch)
        for count, m, k, n in both["forward"] + both["backward"]:
            a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
            out = np.empty((m, n), np.float32)
            times = []
            work.comm.share(None)
            while len(times) < 5 or (sum(times) < 0.2 and len(times) < count):
                start = perf_counter()
                np.matmul(a, b, out=out)
                times.append(perf_counter() - start)
            total += count * float(np.median(times))
    return total


def _flop(work):
    """FLOP of one rank's matrix products in a step."""
    batch = work.x.shape[-1] * work.net.data.size
    made = [products(place, batch) for place in work.net.placed.values()]
    return 2 * sum(math.prod(one) for both in made for one in both["forward"] + both["backward"])


def _layer_rows(work, seconds, steps):
    """One dict per layer and direction: milliseconds per step, GFLOP/s of the products (0 without)."""
    rows = []
    for (name, direction), total in seconds.items():
        made = []
        if name in work.net.placed:
            batch = work.x.shape[-1] * work.net.data.size
            made = products(work.net.placed[name], batch)[direction]
        flop = sum(2 * count * m * k * n for count, m, k, n in made)
        rows.append(
            {"layer": name, "direction": direction, "ms": 1e3 * total / steps,
             "gflops": flop * steps / total / 1e9}
        )  # fmt: skip
    return rows


# ---- what is printed ---------------------------------------------------------------------------------


def spread(seconds):
    """Median and range of the rounds, in words."""
    unit, factor = ("s", 1) if np.median(seconds) >= 1 else ("ms", 1e3)
    low, middle, high = (factor * f(seconds) for f in (min, np.median, max))
    return f"{middle:.3g} {unit} ({low:.3g} to {high:.3g})"


def print_result(found, console, layers=False):
    """Print the medians, the share of the limit, the ratio, and on request the table of layers."""
    step = float(np.median(found["seconds"]))
    work = "forward pass" if found["forward_only"] else "step"
    console.print(
        f"{found['what']}, batch {found['batch']}, {_on(found)}: a {work} takes "
        f"{spread(found['seconds'])}, {found['batch'] / step:,.0f} images/s; "
        f"median of {found['rounds']} rounds of {found['steps_a_round']}"
    )
    if "gpu" in found:
        print_whole(console, bench_cuda.table(found["gpu"], layers))
        console.print(bench_cuda.summary(found["gpu"]))
    else:
        console.print(f"{found['cpu']}; NumPy {found['numpy']}")
        if layers:
            print_whole(console, _table(found, step))
    if found["limit"]:
        console.print(
            f"its matrix products alone take {spread([found['limit']]).partition(' (')[0]}: "
            f"{found['limit'] / step:.2f} of the limit is reached"
        )
    if found["peak_bytes"] and "gpu" not in found:
        console.print(
            f"peak memory {found['peak_bytes'] / 1e9:.2f} GB; "
            f"{np.median(found['faults']):,.0f} page faults per {work}"
        )
    if found["flop"]:
        console.print(
            f"each device computes {found['flop'] / step / 1e9:.1f} GF a second (--flops of describe)"
        )
    if found["against"]:
        other = np.median(found["other_seconds"])
        name = {"torch": "PyTorch", "torch-tuned": "PyTorch, tuned by an expert"}[found["against"]]
        console.print(
            f"{name} takes {spread(found['other_seconds'])}: tinyalex is {other / step:.2f} times as fast"
        )
        if found["other_peak_bytes"][0]:
            console.print(
                f"its peak memory {found['other_peak_bytes'][-1] / 1e9:.2f} GB; "
                f"{np.median(found['other_faults']):,.0f} page faults per {work}"
            )


def _on(found):
    devices = ", ".join(found["devices"])
    if found["devices"][0].startswith("mpi"):
        devices += f" ({found['ranks']} ranks)"
    return devices if found["ranks"] == 1 else f"{devices}, {found['parallel']} parallel"


def _table(found, step):
    by_layer = {}
    for row in found["layers"]:
        by_layer.setdefault(row["layer"], {})[row["direction"]] = row
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="")
    directions = ("forward", "backward")[: 1 if found["forward_only"] else 2]
    for head in ("layer", *(h for d in directions for h in (f"{d} ms", "GFLOP/s", "share"))):
        table.add_column(head, justify="left" if head == "layer" else "right")
    for name, rows in by_layer.items():
        cells = []
        for direction in directions:
            row = rows.get(direction, {"ms": 0, "gflops": 0})
            share = row["ms"] / 1e3 / step
            cells += [f"{row['ms']:.1f}", f"{row['gflops']:.0f}" if row["gflops"] else "", f"{share:.1%}"]
        table.add_row(name, *cells)
    rest = 1e3 * step - sum(row["ms"] for row in found["layers"])
    table.add_row("loss and rest", f"{rest:.1f}", "", f"{rest / 1e3 / step:.1%}")
    return table


def to_json(found):
    """The dict as JSON text."""
    return json.dumps(found, indent=1)
