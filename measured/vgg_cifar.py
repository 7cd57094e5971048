"""VGG's tables 3 to 5 on CIFAR-10, narrow: A and D, D from scratch and started from A, two seeds.

    python measured/vgg_cifar.py CIFAR RUNS [--seed 0]

trains (and, called again, goes on), tests, and writes measured/vgg_cifar/README.md and the runs' metrics.

Widths are a sixteenth of the paper's, pictures about a seventh: crops have 32 pixels (the paper: 224), S is
37 (256) or drawn from [37, 73] ([256, 512]); the pictures of 32 pixels are enlarged to that.  Batches of 64,
and two epochs: so small that a part of a core trains and tests everything in an hour.
"""

import argparse
from pathlib import Path

from tinyalex import runs
from tinyalex.runs.recipe import Change

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cifar", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seed", type=int, choices=SEEDS, help="train this one alone, test nothing")
    given = parser.parse_args()
    for seed in SEEDS if given.seed is None else [given.seed]:
        for name in RUNS:
            train(given.cifar, given.runs, name, seed)


if __name__ == "__main__":
    main()
