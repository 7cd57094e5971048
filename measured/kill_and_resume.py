"""Kill a training run five times, resume it, and compare it bit for bit with one that nobody touched.

    python measured/kill_and_resume.py [--seed 0] [--kills 5] [--folder FOLDER]

A narrow AlexNet, its two towers on cpu:0 and cpu:1, learns to tell six colours in noise: crops, flips,
colour noise and dropout on, so that a resumed run has much to get wrong.  The runs are processes,
`tinyalex resume` of a run that is begun here, and the signal is SIGKILL (kill -9): the process learns
nothing of it.  It comes at random moments, the first of which may be before anything is saved.

Prints a table and exits with 1 if any bit differs.  One to two minutes on two cores.
"""

import argparse
import random
import shutil
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


def tinyalex(*args):
    """Start a command of tinyalex as a process of its own."""
    command = [sys.executable, "-m", "tinyalex", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    """Wait for the process, which must succeed; return how long it took in seconds."""
    start = time.monotonic()
    printed, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(process.args)} ended with {process.returncode}:\n{printed}")
    return time.monotonic() - start


def resume(out):
    """Start training where the run in this folder stands."""
    return tinyalex("resume", out, "--devices", "cpu:0,cpu:1")


def step(out):
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(path.stem.removeprefix("step-")) for path in run.checkpoints(out)), default=0)


def kill(process, out, until, delay):
    """Kill the process `delay` seconds after the checkpoint at step `until`; whether it was still running."""
    while process.poll() is None and step(out) < until:
        time.sleep(0.005)
    time.sleep(delay)
    process.kill()
    process.communicate()
    return process.returncode == -9


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


def main(folder, seed, kills):
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
    moments = [0, *sorted(draw.sample(range(1, last - 10), kills - 1))]
    table = Table("kill", "not before step", "seconds after", "resumed from step", "was running")
    process, struck = resume(killed), 0
    for number, until in enumerate(moments, 1):
        delay = draw.uniform(0, 0.5)
        alive = kill(process, killed, until, delay)
        struck += alive
        row = number, until, f"{delay:.2f}", step(killed), "yes" if alive else "no: it had ended"
        table.add_row(*map(str, row))
        process = resume(killed)
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
    console.print(
        f"killed {struck} times: "
        + ("the same bits" if alike else "[bold red]the resumed run is another one[/]")
    )
    return alike and struck == kills


def parameters(out):
    """How many parameters the run's network has."""
    arrays, _ = checkpoint.load(run.checkpoints(out)[-1])
    return sum(a.size for name, a in arrays.items() if not name.startswith(("velocity.", "data.")))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the training and of the moments")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="kept; by default one that is removed at the end")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        alike = main(folder, options.seed, options.kills)
    finally:
        if not options.folder:
            shutil.rmtree(folder)
    sys.exit(not alike)
