"""VGG's tables 3 to 5 on CIFAR-10, narrow: A and D, D from scratch and started from A, two seeds.

    python measured/vgg_cifar.py CIFAR RUNS [--seed 0]

trains (and, called again, goes on), tests, and writes measured/vgg_cifar/README.md and the runs' metrics.

Widths are a sixteenth of the paper's, pictures about a seventh: crops have 32 pixels (the paper: 224), S is
37 (256) or drawn from [37, 73] ([256, 512]); the pictures of 32 pixels are enlarged to that.  Batches of 64,
and two epochs: so small that a part of a core trains and tests everything in an hour.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from tinyalex import runs
from tinyalex.comm import Comm
from tinyalex.devices import Device
from tinyalex.evaluate import errors
from tinyalex.runs import trained
from tinyalex.runs.checkpoint import newest
from tinyalex.runs.recipe import Change
from tinyalex.runs.run import metrics
from tinyalex.runs.settings import open_data
from tinyalex.runs.trained import Test

HERE = Path(__file__).parent / "vgg_cifar"
SEEDS = 0, 1
WIDTH = 1 / 16
EPOCHS, TUNED = 2, 1
DROP = (Change(EPOCHS - 1, rate=3e-3),)  # before the last epoch
STEADY = (Change(0, rate=1e-3),)
RUNS = {  # name: (network, S, run it starts from, epochs, schedule)
    "A": ("vgg-a", 37, None, EPOCHS, DROP),
    "D": ("vgg-d", 37, None, EPOCHS, DROP),
    "D from A": ("vgg-d", 37, "A", EPOCHS, DROP),
    "D jittered": ("vgg-d", (37, 73), "D from A", TUNED, STEADY),
}

PICTURES = 2000  # of the test batch
WORDS = """`python measured/vgg_cifar.py CIFAR RUNS`: A and D of a sixteenth of the paper's widths, crops of
32 pixels, S = 37 or from [37, 73]; {EPOCHS} epochs in batches of 64 at rates of 0.01 and 0.003, the jittered
D {TUNED} more at 0.001 from the one before.  Top-1 / top-3 error in percent of the first {PICTURES:,} test
pictures, with mirror images; a difference of less than about 2 between two cells means nothing.  The runs'
records are beside this file, `curves.png` shows them."""


def folder(out, name, seed):
    return out / f"{name.replace(' ', '-')}-{seed}"


def train(data, out, name, seed):
    """Train a run, or go on with it."""
    network, scale, start, epochs, schedule = RUNS[name]
    path = folder(out, name, seed)
    if (path / "run.json").exists():
        runs.resume(path, devices="cpu:0", on_event=say(path.name))
        return
    start = start and folder(out, start, seed)
    runs.train(
        path, data, network, width=WIDTH, size=32, scale=scale, start_from=start, batch=64, epochs=epochs,
        schedule=schedule, seed=seed, save_every=1000, keep=1, devices="cpu:0", on_event=say(path.name),
    )  # fmt: skip


def say(name):
    def on_event(record):
        if record["kind"] in ("train", "validation", "chance"):
            print(name, record, flush=True)

    return on_event


def error_of(comm, path, pictures, how):
    """Return the top-1 and top-3 error of a run, in percent."""
    loaded = trained.load(comm, newest(path))
    p, labels = trained.probabilities_of(comm, loaded, pictures, how, lambda done, of: None)
    _, top1, top3 = errors(p, labels, 3)
    return 100 * top1, 100 * top3


def finished(path, name):
    """Whether a run has come to its end."""
    return sum(record["kind"] == "validation" for record in metrics(path)) == RUNS[name][3]


def table(title, tests, out, pictures, comm):
    """Return a table's lines: for each (network's name, what is done, run, `Test`) each seed's errors."""
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    lines = [f"**{title}**", "", f"| network | test | {seeds} | mean |"]
    lines.append("|---" * (3 + len(SEEDS)) + "|")
    for shown, what, name, how in tests:
        found = []
        for seed in SEEDS:
            path = folder(out, name, seed)
            found.append(error_of(comm, path, pictures, how) if finished(path, name) else None)
            print(title, shown, what, seed, found[-1], flush=True)
        found.append(None if None in found else np.mean(found, axis=0))
        cells = [f"{one[0]:.1f} / {one[1]:.1f}" if one is not None else "–" for one in found]
        lines.append(f"| {shown} | {what} | {' | '.join(cells)} |")
    return [*lines, ""]


def test(data, out):
    """Test every run, and write the tables and the metrics of the runs."""
    comm = Comm(Device("cpu:0"))
    val = open_data(data).val
    images = np.ascontiguousarray(val.images[..., :PICTURES])
    pictures = val._replace(images=images, labels=val.labels[:PICTURES])
    single = [
        (name, f"dense, Q = {q}", name, Test(0, True, True, (q,)))
        for name, q in (("A", 37), ("D", 37), ("D from A", 37), ("D jittered", 55))
    ]
    several = [
        (name, f"dense, Q = {', '.join(map(str, q))}", name, Test(0, True, True, q))
        for name, q in (("D", (32, 37, 42)), ("D from A", (32, 37, 42)), ("D jittered", (37, 55, 73)))
    ]
    name, scales = "D jittered", (37, 55, 73)
    crops = [
        (name, "dense", name, Test(0, True, True, scales)),
        (name, "150 crops", name, Test(150, False, False, scales)),
        (name, "both", name, Test(150, True, True, scales)),
    ]
    lines = ["# VGG on CIFAR-10, narrow", "", WORDS.format(PICTURES=PICTURES, EPOCHS=EPOCHS, TUNED=TUNED), ""]
    lines += table("One scale (the paper's Table 3)", single, out, pictures, comm)
    lines += table("Several scales (Table 4)", several, out, pictures, comm)
    lines += table("Dense and multi-crop (Table 5)", crops, out, pictures, comm)
    (HERE / "README.md").write_text("\n".join(lines))
    for seed in SEEDS:
        for name in RUNS:
            path = folder(out, name, seed)
            if finished(path, name):
                shutil.copy(path / "metrics.jsonl", HERE / f"{path.name}.jsonl")
    show_curves(out)


def show_curves(out):
    """Draw the training loss of every epoch against steps, and the validation error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained", dpi=120)
    for axes, kind, key, label in zip(
        figure.subplots(1, 2), ("train", "validation"), ("loss", "top1"),
        ("training loss of the epoch", "validation error, one view"), strict=True,
    ):  # fmt: skip
        for k, name in enumerate(RUNS):
            for seed in SEEDS:
                records = metrics(folder(out, name, seed))
                points = [(r["step"], r[key]) for r in records if r["kind"] == kind] or [(np.nan, np.nan)]
                axes.plot(*zip(*points, strict=True), "o-", color=f"C{k}", label=None if seed else name)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    axes.legend(frameon=False)
    figure.savefig(HERE / "curves.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cifar", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seed", type=int, choices=SEEDS, help="train this one alone, test nothing")
    parser.add_argument("--test", action="store_true", help="train nothing, test the runs that are finished")
    given = parser.parse_args()
    for seed in [] if given.test else SEEDS if given.seed is None else [given.seed]:
        for name in RUNS:
            train(given.cifar, given.runs, name, seed)
    if given.seed is None:
        test(given.cifar, given.runs)


if __name__ == "__main__":
    main()
