"""Kill a training run ten times, resume it, and compare it bit for bit with one that nobody touched.

    python measured/kill_and_resume.py [--devices mpi] [--seed 0] [--kills 10] [--folder FOLDER]

A narrow AlexNet, its two towers on cpu:0 and cpu:1, learns to tell six colours in noise: crops, flips,
colour noise and dropout on, so that a resumed run has much to get wrong.  The runs are
`tinyalex resume` of a run that is begun here, the towers two processes (on macOS one), and one of them gets
SIGKILL (kill -9): it learns nothing of that, and the other must end within 5 seconds.  It comes at random
moments, the first of which may be before anything is saved.  With `--devices mpi` the two are processes under
mpiexec; the run that nobody touched is the same.

Prints a table and exits with 1 if any bit differs, a rank outlives the other, or shared memory is left
behind.  Some minutes on two cores.  Linux and macOS; shared memory is looked at on Linux.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from tinyalex.data import augment
from tinyalex.models.alexnet import AlexNet, alexnet, narrow
from tinyalex.runs import checkpoint, run
from tinyalex.runs.recipe import Recipe
from tinyalex.runs.settings import Settings

COLOURS = {
    "blue": (0, 0, 1),
    "cyan": (0, 1, 1),
    "green": (0, 1, 0),
    "purple": (1, 0, 1),
    "red": (1, 0, 0),
    "yellow": (1, 1, 0),
}
TRAIN, VAL, SIDE = 1600, 300, 72  # pictures, and pixels
# 10 to 40 filters a layer; from so small a network little comes out unless its first weights are larger
NETWORK = alexnet(narrow(AlexNet(size=67, classes=6, conv345_std=0.2, fc_std=0.2, bias=0.1), 0.1))
RECIPE = Recipe(batch=32, epochs=10, rate=0.003, augmentation=augment.PAPER._replace(crop=67, offsets=None))
console = Console(highlight=False)


def prepare(folder, rng):
    """Draw the pictures as JPEG files and have `tinyalex prepare` make shards of them."""
    for split, count in (("train", TRAIN), ("val", VAL)):
        for name in COLOURS:
            (folder / "pictures" / split / name).mkdir(parents=True)
        for i, name in enumerate(rng.choice(list(COLOURS), count)):
            pixels = rng.integers(0, 200, (SIDE, SIDE, 3)) + 20 * np.array(COLOURS[name])
            picture = Image.fromarray(pixels.astype(np.uint8))
            picture.save(folder / "pictures" / split / name / f"{i}.jpg")
    finish(tinyalex("prepare", "imagenet", folder / "pictures", folder / "data", "--size", SIDE))
    return folder / "data"


def tinyalex(*args, before=()):
    """Start a command of tinyalex as a process of its own."""
    command = [*before, sys.executable, "-m", "tinyalex", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    """Wait for the process, which must succeed; return how long it took in seconds."""
    start = time.monotonic()
    printed, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(process.args)} ended with {process.returncode}:\n{printed}")
    return time.monotonic() - start


def resume(out, devices="cpu:0,cpu:1"):
    """Start training where the run in this folder stands."""
    before = ("mpiexec", "-n", "2") if devices == "mpi" else ()
    return tinyalex("resume", out, "--devices", devices, before=before)


def step(out):
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in run.checkpoints(out)), default=0)


def ranks(process):
    """Return the numbers of the processes that compute: this and its child, or two that mpiexec started."""
    printed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True)
    table = [line.split(None, 2) for line in printed.stdout.splitlines()]
    below = {process.pid}
    for _ in range(4):  # mpiexec, its proxy, the ranks
        below |= {int(pid) for pid, parent, *_ in table if int(parent) in below}
    return [int(pid) for pid, _, *args in table if int(pid) in below and "-m tinyalex" in args[0][:200]][-2:]


def kill(process, out, until, delay, draw):
    """Kill a rank `delay` seconds after the checkpoint at step `until`.

    Returns the seconds until all had ended, None if they had by themselves, whether signal 9 was told, and
    the shared memory that is left.
    """
    while process.poll() is None and step(out) < until:
        time.sleep(0.005)
    time.sleep(delay)
    while process.poll() is None and not ranks(process):  # mpiexec has not started them yet
        time.sleep(0.05)
    found = ranks(process)
    if process.poll() is not None:
        return None, False, set()
    mapped = shared_memory(found)
    os.kill(draw.choice(found), signal.SIGKILL)
    start = time.monotonic()
    printed, _ = process.communicate()
    while any(alive(pid) for pid in found):
        time.sleep(0.02)
    said = process.returncode == -9 or "signal 9" in printed.lower() or "signal: 9" in printed.lower()
    return time.monotonic() - start, said, {path for path in mapped if path.exists()}


def alive(pid):
    """Whether there is a process of this number, a zombie not counted."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def shared_memory(pids):
    """Return the files of shared memory that these processes have mapped (Linux)."""
    maps = [Path(f"/proc/{pid}/maps") for pid in pids]
    lines = [line for path in maps if path.exists() for line in path.read_text().splitlines()]
    return {Path(line.split(None, 5)[5]) for line in lines if "/dev/shm/" in line}


def compare(a, b):
    """Rows (what, number of values, those that differ) of two run folders' last checkpoints and metrics."""
    (x, x_data), (y, y_data) = (checkpoint.load(run.checkpoints(out)[-1]) for out in (a, b))
    rows = []
    for what in ("weights", "velocities"):
        names = [n for n in sorted(x | y) if n.startswith("velocity.") == (what == "velocities")]
        names = [n for n in names if not n.startswith("data.")]
        size = sum(x[n].size for n in names)
        rows.append((what, size, sum(differing(x[n], y[n]) for n in names)))
    keys = sorted(x_data | y_data)
    rows.append(("other state", len(keys), sum(x_data.get(k) != y_data.get(k) for k in keys)))
    x, y = ((out / "metrics.jsonl").read_text().splitlines() for out in (a, b))
    differ = sum(p != q for p, q in zip(x, y, strict=False)) + abs(len(x) - len(y))
    return [*rows, ("lines of metrics.jsonl", len(x), differ)]


def differing(x, y):
    """How many of two arrays' values differ in any bit."""
    return int((x.view(np.uint32) != y.view(np.uint32)).sum())


def main(folder, seed, kills, devices):
    """Run the experiment in an empty folder; return whether the two runs ended alike."""
    data = prepare(folder, np.random.default_rng(seed))
    whole, killed = folder / "whole", folder / "killed"
    for out in (whole, killed):
        run.begin(out, Settings(str(data), NETWORK, RECIPE, seed, save_every=20))
    seconds = finish(resume(whole))
    last = step(whole)
    console.print(f"uninterrupted: {last} steps in {seconds:.0f} s, {parameters(whole):,} parameters\n")

    # The moments: steps spread at random over the run, and up to half a second after the checkpoint there.
    draw = random.Random(seed)
    moments = [0, *sorted(draw.sample(range(1, last * 3 // 4), kills - 1))]
    table = Table("kill", "not before step", "seconds after", "resumed from step", "all ended within", "said")
    process, struck, orphans = resume(killed, devices), 0, set()
    for number, until in enumerate(moments, 1):
        delay = draw.uniform(0, 0.5)
        seconds, said, left = kill(process, killed, until, delay, draw)
        orphans |= left
        struck += said and seconds < 5
        ended = "it had ended" if seconds is None else f"{seconds:.2f} s"
        row = number, until, f"{delay:.2f}", step(killed), ended, "signal 9" if said else "nothing"
        table.add_row(*map(str, row))
        process = resume(killed, devices)
    finish(process)
    console.print(table)

    table = Table("compared at the end", "values", "that differ")
    rows = compare(whole, killed)
    for what, count, differ in rows:
        table.add_row(what, f"{count:,}", f"{differ:,}")
    console.print(table)
    validation = [r for r in run.metrics(killed) if r["kind"] == "validation"][-1]
    console.print(f"validation top-1 error at the end: {validation['top1']:.1%}")
    alike = not any(differ for _, _, differ in rows)
    console.print(f"shared memory left behind: {', '.join(map(str, orphans)) or 'none'}")
    console.print(
        f"killed {struck} times: "
        + ("the same bits" if alike else "[bold red]the resumed run is another one[/]")
    )
    return alike and struck == kills and not orphans


def parameters(out):
    """How many parameters the run's network has."""
    arrays, _ = checkpoint.load(run.checkpoints(out)[-1])
    return sum(a.size for name, a in arrays.items() if not name.startswith(("velocity.", "data.")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the training and of the moments")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--devices", default="cpu:0,cpu:1", choices=["cpu:0,cpu:1", "mpi"])
    parser.add_argument("--folder", type=Path, help="kept; by default one that is removed at the end")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        alike = main(folder, options.seed, options.kills, options.devices)
    finally:
        if not options.folder:
            shutil.rmtree(folder)
    sys.exit(not alike)
