"""LRN alone: 11pct with and without its two normalizations, everything else the same.

    python measured/ladder_lrn.py CIFAR OUT [--epochs 520] [--seeds 3] [--device cpu:0]

The paper's 13% without and 11% with LRN are of two networks that differ in more (width, decay, schedule,
views).  Each run has the schedule of 11pct, its 520 epochs shortened in proportion to those asked for, and is
tested with the ten views; OUT/lrn.csv gets a line a run.  Seed by seed, so that what is done can be compared;
the same command goes on after an interruption.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from tinyalex import runs
from tinyalex.comm import launch
from tinyalex.evaluate import errors, probabilities
from tinyalex.models import with_local
from tinyalex.runs import run, trained
from tinyalex.runs.recipe import LADDER
from tinyalex.runs.settings import open_data

WHOLE = 520


def main():
    """Train and test all runs that are not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--epochs", type=int, default=WHOLE)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu:0")
    args = parser.parse_args()
    recipe = LADDER["cifar-11pct"]
    changes = [c._replace(epoch=round(c.epoch * args.epochs / WHOLE)) for c in recipe.schedule]
    recipe = recipe._replace(epochs=args.epochs, schedule=tuple(changes))
    for seed in range(args.seeds):
        for lrn in (True, False):
            found = one(args, recipe, seed, lrn)
            print(
                "LRN" if lrn else "no LRN",
                "seed",
                seed,
                "10 views {:.2%}, 1 view {:.2%}".format(*found),
                flush=True,
            )


def one(args, recipe, seed, lrn):
    """Return the test error with ten views and with one, of one run."""
    out, table = args.out / f"{'lrn' if lrn else 'none'}-{seed}", args.out / "lrn.csv"
    if table.exists():
        for row in csv.DictReader(table.open()):
            if (row["seed"], row["lrn"]) == (str(seed), str(int(lrn))):
                return float(row["ten_views"]), float(row["one_view"])
    if (out / "run.json").exists():
        runs.resume(out, devices=args.device)
    else:
        network = with_local(64, lrn)
        runs.train(out, args.data, network, recipe, seed=seed, keep=1, save_every=200, devices=args.device)
    data = open_data(args.data)

    def rank(comm):
        net = trained.load(comm, run.checkpoints(out)[-1])
        found = []
        for views in (10, 1):
            with trained.view_loader(comm, net, data.val, views) as loader:
                found.append(errors(*probabilities(net.net, loader))[1])
        return found

    [found] = launch(rank, args.device)
    new = not table.exists()
    with table.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(("seed", "lrn", "epochs", "ten_views", "one_view"))
        writer.writerow((seed, int(lrn), args.epochs, *np.round(found, 4)))
    return found


if __name__ == "__main__":
    main()
