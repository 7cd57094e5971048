"""What tinyalex does on one GPU, measured by one command: python measured/gpu_measure.py FOLDER

Each stage is a process of its own with a time limit, the most telling first: one that fails, hangs or spoils
the context ends alone, and what it found until then stays.  FOLDER gets summary.json, kernels.csv (every
kernel of every layer; copy_ms: what copies of as many bytes take), table.md of these, sweep.csv, rivals.json
(PyTorch: gpu_rivals.py), train.json (gpu_train.py), tests.txt and log.txt.

    --stages step,small    only these, in this order: env works doctor step small filtering sweep rivals, and,
                           if named, train, tests (of CuPy) and sanitize.  works: does minimal filtering give
                           the implicit GEMM's numbers?  Where it does not, or does not compile, the stages
                           that follow go on without it, for that size of filters
    --seconds 200          of all stages together.  All stages but doctor and sweep, in ten minutes:
                           --stages env,works,step,filtering,small,rivals,train,tests,sanitize --seconds 560
    --standin              a dry run without a GPU: narrow networks on the tests' stand-in for CuPy
"""

import argparse
import contextlib
import csv
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
STAGES = {"env": 20, "works": 60, "doctor": 40, "step": 50, "small": 60, "filtering": 60}  # seconds at most
STAGES |= {"sweep": 45, "rivals": 150, "train": 80, "tests": 150, "sanitize": 200}
USUAL = "env,works,doctor,step,small,filtering,sweep,rivals"
LOG = 4 << 20  # bytes of log.txt that are kept
DRY = False  # without a GPU
TESTS = (
    "alexnet",
    "comm",
    "cuda",
    "cuda_conv",
    "cuda_graph",
    "cuda_run",
    "cuda_winograd",
    "feed",
    "nn",
    "ops",
    "optim",
    "train",
)


def main():
    """Run the stages that are asked for, or in the child process the one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stages", default=USUAL)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--standin", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the child's stage: "step"
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True, parents=True)
    if args.only:
        if args.standin:
            stand_in()
        (stage, *rest), found = args.only.split(":"), Found(args.folder, args.standin)
        leave_out(found.failed())
        globals()[stage](found, *rest)
        return
    deadline, found = time.monotonic() + args.seconds, Found(args.folder, args.standin)
    with open(args.folder / "log.txt", "a") as log:
        for name in args.stages.split(","):
            start, left = time.monotonic(), deadline - time.monotonic()
            command = [sys.executable, "-u", __file__, str(args.folder), "--only", name]
            command += ["--standin"] * args.standin
            print(f"== {name}", file=log, flush=True)
            code = finished(command, max(1, min(STAGES[name], left - 2)), stdout=log, stderr=log, cwd=ROOT)
            seconds = round(time.monotonic() - start, 1)
            found.put("stages", **{name: {"exit": code, "seconds": seconds}})
            print(f"{name}: {code}, {seconds} s", flush=True)
            if name == "works" and (failed := found.failed()):
                print(f"from here on without minimal filtering of filters {', '.join(failed)}", flush=True)
    log = args.folder / "log.txt"
    log.write_bytes(log.read_bytes()[-LOG:])
    print((args.folder / "summary.json").read_text()[-8000:])


def finished(command, seconds, **options):
    """Run a command; return its exit code, or "out of time", and then nothing that it started runs on."""
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return "out of time"


def stand_in():
    """Put the tests' stand-in in CuPy's place; little is repeated then."""
    global DRY
    DRY = True
    import tempfile

    sys.path.insert(0, str(ROOT / "tests"))
    import cuda_machine
    import cupy_standin

    cuda_machine.machine.cache = tempfile.mkdtemp()
    cupy_standin.install()


class Found:
    """The folder's files; `put` and `row` write at once."""

    def __init__(self, folder, small):
        self.folder, self.small = folder, small

    def read(self):
        """What summary.json has."""
        path = self.folder / "summary.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def put(self, section, **values):
        """Merge values into a section of summary.json."""
        found = self.read()
        found.setdefault(section, {}).update(values)
        (self.folder / "summary.json").write_text(json.dumps(found, indent=1, default=float))

    def failed(self):
        """The sizes of filters ("3x3") for which the stage `works` has found that it does not."""
        return [k for k, result in self.read().get("works", {}).items() if not result["right"]]

    def row(self, table, **values):
        """Append a row to a CSV file."""
        path = self.folder / f"{table}.csv"
        first = not path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, values)
            if first:
                writer.writeheader()
            writer.writerow(values)


# ---- what is measured ----------------------------------------------------------------------------------


def on_gpu(fn):
    """Return fn(comm) on the first GPU."""
    from tinyalex.comm import launch
    from tinyalex.devices import Device

    return launch(fn, [Device("cuda:0")])[0]


class Step:
    """A network and a batch on the GPU; called, it queues a step and reads nothing."""

    def __init__(self, comm, name, batch, small, **options):
        from tinyalex.models import make
        from tinyalex.optim import SGD

        if small:
            batch = min(batch, 4)
            options |= {} if name.startswith("cifar") else {"width": 1 / 16, "size": 67, "classes": 10}
        network = make(name, **options)
        rng = np.random.default_rng(1)
        self.net, self.batch = network.build(comm, np.random.default_rng(0)), batch
        self.optimizer = SGD(self.net, 1e-4, decay=5e-4)
        self.x = comm.device.put(rng.standard_normal((*network.input, batch), np.float32))
        self.labels = comm.device.put(rng.integers(0, network.outputs[0], batch))

    def work(self, x, labels):
        """Forward, loss, backward, update; return the loss and the number of errors."""
        from tinyalex.ops import softmax_loss_backward, softmax_loss_forward, topk_error

        logits = self.net.forward(x, train=True)
        loss, cache = softmax_loss_forward(logits, labels)
        self.net.backward(softmax_loss_backward(cache))
        self.optimizer.step(loss)
        return loss, topk_error(logits, labels)

    def __call__(self):
        return self.work(self.x, self.labels)


def timed(device, work, repeats=20, warm=3):
    """Milliseconds of work() by the device's clock ("ms": the median, "min", "max") and by the host's."""
    repeats, warm = (2, 2) if DRY else (repeats, warm)
    cuda, found, host = device.xp.cuda, [], []
    for _ in range(warm + repeats):
        start, end = cuda.Event(), cuda.Event()
        before = time.perf_counter()
        start.record()
        work()
        end.record()
        host.append(1e3 * (time.perf_counter() - before))
        device.finish()
        found.append(cuda.get_elapsed_time(start, end))
    found, host = found[warm:], host[warm:]
    middle = statistics.median(found)
    return {"ms": middle, "min": min(found), "max": max(found), "host_ms": statistics.median(host)}


def copies(device, sizes):
    """Milliseconds, between two events, of copies that read and write so many bytes together: {bytes: ms}."""
    xp, cuda, found = device.xp, device.xp.cuda, {}
    ahead = xp.zeros((1 << 16 if DRY else 1 << 26,), np.uint8)
    for size in sorted(sizes):
        source, pairs = xp.zeros((max(1, size // 8),), np.float32), []
        target = xp.zeros_like(source)
        for _ in range(8):  # the host queues what follows meanwhile
            ahead[: len(ahead) // 2] = ahead[len(ahead) // 2 :]
        for _ in range(12):
            pairs.append((cuda.Event(), cuda.Event()))
            pairs[-1][0].record()
            target[...] = source
            pairs[-1][1].record()
        device.finish()
        found[size] = statistics.median(cuda.get_elapsed_time(*pair) for pair in pairs[2:])
    return found


def captured(device, step):
    """The step as a graph, with the arrays that it works on."""
    from tinyalex.ops.cuda.graph import Captured

    graph = Captured(step.work, device)
    return lambda: graph(step.x, step.labels)


def leave_out(failed):
    """Do convolutions with these sizes of filters without minimal filtering."""
    from tinyalex.ops.cuda import winograd

    pays = winograd.pays
    winograd.pays = lambda w, *rest: f"{w[2]}x{w[3]}" not in failed and pays(w, *rest)


# ---- stages --------------------------------------------------------------------------------------------


def env(found):
    """The card, and the versions of everything."""
    query = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv"]
    shown = "" if found.small else subprocess.run(command, capture_output=True, text=True).stdout
    import cupy

    from tinyalex import __version__

    found.put(
        "env", smi=shown, python=sys.version.split()[0], numpy=np.__version__, cupy=cupy.__version__,
        tinyalex=__version__, cores=len(os.sched_getaffinity(0)),
        runtime=cupy.cuda.runtime.runtimeGetVersion(),
    )  # fmt: skip


SIZES = {  # by size of filters: C, H, F and groups of AlexNet's layers, from the last
    "3x3": ((384, 13, 256, 2), (384, 13, 384, 2), (256, 13, 384, 1)),
    "5x5": ((96, 27, 256, 2),),
}


def works(found):
    """Minimal filtering beside the implicit GEMM, a process for each size of filters: it may fail."""
    found.put("works", **{k: {"right": False} for k in SIZES})  # until it is seen to be
    for k in SIZES:
        command = [sys.executable, __file__, found.folder, "--only", f"works_of:{k}"]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([*command, *["--standin"] * found.small], timeout=STAGES["works"] / len(SIZES) - 1)


def works_of(found, k):
    """The largest differences in AlexNet's layers: of y, dx and dw, by each one's largest number."""
    from tinyalex.ops.cuda import implicit_gemm, winograd

    def rank(comm):
        rng, errors, size = np.random.default_rng(0), {}, int(k[0])
        for C, H, F, groups in SIZES[k]:
            C, F, N = (C // 8, F // 8, 4) if found.small else (C, F, 128)
            shapes = (C, H, H, N), (F, C // groups, size, size), (F,), (F, H, H, N)
            x, w, b, g = (comm.device.put(rng.standard_normal(shape, np.float32)) for shape in shapes)
            pads, y, expected = [size // 2] * 4, comm.device.xp.zeros_like(g), comm.device.xp.zeros_like(g)
            winograd.forward(x, w, b, y, pads, groups, True)
            implicit_gemm.forward(x, w, b, expected, 1, pads, groups, True)
            ours = y, *winograd.backward(g, x, w, pads, groups)
            dx = implicit_gemm.backward_x(g, w, x.shape, 1, pads, groups)
            theirs = expected, dx, implicit_gemm.backward_w(g, x, w.shape, 1, pads, groups)[0]
            for name, *pair in zip(("y", "dx", "dw"), ours, theirs, strict=True):
                a, b = map(comm.device.get, pair)
                errors[f"{name}, {F} filters, {groups} groups"] = np.abs(a - b).max() / np.abs(b).max()
            found.put("works", **{k: {"right": False, "errors": errors}})
        right = all(error < 1e-4 for error in errors.values())  # of a NaN it is not
        found.put("works", **{k: {"right": right, "errors": errors}})

    on_gpu(rank)


def doctor(found):
    """The operations against NumPy, cold."""
    from tinyalex.measure import doctor

    start = time.perf_counter()
    found.put("doctor", exit=doctor.print_report(), seconds=round(time.perf_counter() - start, 1))


def step(found):
    """AlexNet, 128 images: the step, its kernels by layer, forward alone, and the step as a graph."""
    from tinyalex.measure import bench_cuda

    if found.small:
        bench_cuda.COPY, bench_cuda.SIDE, bench_cuda.REPEATS = 2**18, 128, 2

    def rank(comm):
        start = time.perf_counter()
        one = Step(comm, "paper", 128, found.small)
        one()
        comm.device.finish()
        found.put("step", cold_seconds=round(time.perf_counter() - start, 1))
        ms = timed(comm.device, one)
        found.put("step", **ms, images_a_second=1e3 * one.batch / ms["ms"])
        found.put("step", forward=timed(comm.device, lambda: one.net.forward(one.x)))
        result = bench_cuda.measure(comm.device, one, lambda: comm.label)
        rows = result.pop("launches")
        each = [row["bytes"] // max(1, row["launches"]) for row in rows]
        copied = copies(comm.device, set(each))
        for row, nbytes in zip(rows, each, strict=True):
            row["copy_ms"] = row["launches"] * copied[nbytes]
            done = 1e-6 / row["ms"] if row["ms"] > 0 else 0
            found.row("kernels", **row, GBs=row["bytes"] * done, TFLOPs=row["flop"] * done / 1e3)
        found.put("step", **result)
        table(found)
        found.put("step", captured=timed(comm.device, captured(comm.device, one)))

    on_gpu(rank)


def table(found):
    """Write table.md: each kernel of the step beside the card's rates, then each launch below 70% of them."""
    copy, product = found.read()["step"]["rates"]
    with open(found.folder / "kernels.csv", newline="") as file:
        rows, kernels = [row for row in csv.DictReader(file) if row["launches"] != "0"], {}
    for row in rows:
        row["name"] = f"{row['place']}, {row['kernel']}"
        total = kernels.setdefault(row["kernel"], {"name": row["kernel"]})
        for key in ("launches", "ms", "bytes", "flop", "copy_ms"):
            row[key] = float(row[key])
            total[key] = total.get(key, 0) + row[key]

    def of_rate(row):
        return 1e3 * max(row["bytes"] / copy, row["flop"] / product) / row["ms"]

    below = [row for row in rows if of_rate(row) < 0.7]
    with open(found.folder / "table.md", "w") as file:
        for some in (kernels.values(), below):
            print(
                "| kernel | launches | MB | ms | GB/s | TFLOP/s | of the card's rate | of a copy |", file=file
            )
            print("|---|---|---|---|---|---|---|---|", file=file)
            for row in sorted(some, key=lambda row: -row["ms"]):
                speed = f"{row['bytes'] / row['ms'] / 1e6:,.0f}" if row["bytes"] else ""
                products = f"{row['flop'] / row['ms'] / 1e9:.1f}" if row["flop"] else ""
                of_copy = "" if row["flop"] else f"{row['copy_ms'] / row['ms']:.0%}"
                print(
                    f"| {row['name']} | {row['launches']:.0f} | {row['bytes'] / 1e6:,.1f} | {row['ms']:.3f} "
                    f"| {speed} | {products} | {of_rate(row):.0%} | {of_copy} |",
                    file=file,
                )
            print(file=file)


def small(found):
    """Figure 1's network and small batches of AlexNet, a process each: one that fails ends alone."""
    for name, batch in (("cifar4", 128), ("cifar4-tanh", 128), ("paper", 32), ("paper", 16)):
        command = [sys.executable, __file__, found.folder, "--only", f"small_of:{name}:{batch}"]
        if done := subprocess.run([*command, *["--standin"] * found.small]).returncode:
            found.put("small", **{f"{name}, {batch} images, exit": done})


def small_of(found, name, batch):
    """The times of its steps launched one by one, and as a graph."""

    def rank(comm):
        ms = {}
        for way in ("launched", "captured"):
            one = Step(comm, name, int(batch), found.small)
            ms[way] = timed(comm.device, one if way == "launched" else captured(comm.device, one), 30)
            found.put("small", **{f"{name}, {batch} images": ms})

    on_gpu(rank)


def filtering(found):
    """AlexNet's step and forward pass, as graphs: without minimal filtering and with it, in turns."""
    from tinyalex.ops.cuda import winograd
    from tinyalex.ops.cuda.graph import Captured

    ways = {"implicit GEMM alone": lambda *shapes: False, "minimal filtering": winograd.pays}

    def rank(comm):
        for batch in (128, 32):
            one = Step(comm, "paper", batch, found.small)
            for turn, (way, winograd.pays) in itertools.product((1, 2), ways.items()):
                forward = Captured(lambda x, one=one: one.net.forward(x), comm.device)
                ms = {
                    "step": timed(comm.device, captured(comm.device, one)),
                    "forward": timed(comm.device, lambda forward=forward, one=one: forward(one.x)),
                    "loss": float(one.work(one.x, one.labels)[0]),
                }
                found.put("filtering", **{f"{batch} images, {way}, turn {turn}": ms})

    on_gpu(rank)


def sweep(found):
    """AlexNet's step by batch."""

    def rank(comm):
        pool = comm.device.xp.get_default_memory_pool()
        for batch in (32, 64, 128, 256, 512, 1024):
            one = Step(comm, "paper", batch, found.small)
            ms = timed(comm.device, one, 5, 2)
            found.row(
                "sweep", batch=one.batch, **ms, images_a_second=1e3 * one.batch / ms["ms"],
                used_bytes=pool.used_bytes(), pool_bytes=pool.total_bytes(),
            )  # fmt: skip
            del one

    on_gpu(rank)


def rivals(found):
    """PyTorch's best variants on the same card."""
    if not found.small:
        subprocess.run([sys.executable, Path(__file__).with_name("gpu_rivals.py"), found.folder], check=True)


def train(found):
    """Training from prepared pictures, beside the step on one batch."""
    import gpu_train

    with open(found.folder / "train.json", "w") as file, contextlib.redirect_stdout(file):
        gpu_train.measure(found.small)


def tests(found):
    """The CuPy part of the suite, a process a file: an illegal address spoils only its own."""
    files = [path for name in (*TESTS, "cupy") if (path := ROOT / f"tests/test_{name}.py").exists()]
    if found.small:
        files = files[-1:]
    command = [sys.executable, "-m", "pytest", "-o", "addopts=-q -rs -m 'not slow' --dist loadfile -n 8"]
    command += ["-p", "no:cacheprovider", "-p", "no:benchmark", "--continue-on-collection-errors"]
    command += ["-k", "cupy", "--durations=10", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    with open(found.folder / "tests.txt", "a") as file:
        file.write(done.stdout[-60_000:] + done.stderr[-5000:])
    found.put("tests", exit=done.returncode, line=done.stdout.strip().split("\n")[-1])


def sanitize(found):
    """compute-sanitizer's tools at once, around steps of narrow networks; each array has its own memory."""
    running = {}
    for tool in ("memcheck", "racecheck", "synccheck", "initcheck"):
        command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
        command += [sys.executable, __file__, found.folder, "--only", "few_steps"]
        shown = found.folder / f"{tool}.txt"
        with open(shown, "w") as file:
            running[tool] = subprocess.Popen(command, stdout=file, stderr=file), shown
    end = time.monotonic() + STAGES["sanitize"] - 5
    for tool, (process, shown) in running.items():
        try:
            code = process.wait(max(1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            code = "out of time"
        with open(found.folder / "tests.txt", "a") as file:
            file.write(f"==== {tool}\n{shown.read_text()[-20_000:]}\n")
        found.put("sanitize", **{tool: [code, shown.read_text().strip().split("\n")[-1]]})
        shown.unlink()


def few_steps(found):
    """What the sanitizer watches."""
    import cupy

    from tinyalex.ops.cuda import winograd

    if not found.small:
        cupy.cuda.set_allocator(None)

    def wherever(w, y, stride, groups):
        return stride == 1 and w[2] == w[3] and w[2] in winograd.POINTS

    def rank(comm):
        for name, pays in (("paper", winograd.pays), ("code2012", wherever), ("cifar4-tanh", winograd.pays)):
            winograd.pays = pays
            one = Step(comm, name, 3, True)
            graph = captured(comm.device, one)
            for work in (one, one, graph, graph, graph):
                work()

    on_gpu(rank)


if __name__ == "__main__":
    main()
