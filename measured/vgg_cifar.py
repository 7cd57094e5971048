"""VGG's tables 3 to 5 on CIFAR-10, narrow: A and D, D from scratch and started from A, two seeds.

    python measured/vgg_cifar.py CIFAR RUNS

trains (and, called again, goes on), tests, and writes measured/vgg_cifar/: the page, the runs' metrics and
their curves.

Widths are a sixteenth of the paper's, pictures about a seventh: crops have 32 pixels (the paper: 224), S is
37 (256) or drawn from [37, 73] ([256, 512]); the pictures of 32 pixels are enlarged to that.  As many epochs,
in batches of 64, as a core trains and tests in three quarters of an hour.

Whether a claim of the paper is found again is decided by a rule that stands here before the runs: see
`verdict`.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from tinyalex import runs
from tinyalex.comm import Comm
from tinyalex.devices import Device
from tinyalex.evaluate import Dense
from tinyalex.measure.machine import cpu
from tinyalex.ops import topk_error
from tinyalex.runs import trained
from tinyalex.runs.checkpoint import newest
from tinyalex.runs.recipe import Change
from tinyalex.runs.run import metrics
from tinyalex.runs.settings import open_data
from tinyalex.runs.trained import Test

HERE = Path(__file__).parent / "vgg_cifar"
SEEDS = 0, 1
WIDTH = 1 / 16
EPOCHS, DROP = 8, 6  # ÷10 before the last two
RUNS = {  # name: (network, S, run it starts from)
    "A": ("vgg-a", 37, None),
    "D": ("vgg-d", 37, None),
    "D from A": ("vgg-d", 37, "A"),
    "D from A, jittered": ("vgg-d", (37, 73), "A"),
}
ALL, SOME = 5_000, 2_000  # of the test pictures, the first
FIXED, JITTERED = (32, 37, 42), (37, 55, 73)
PLACES = (64,)  # Q of the dense test: the one of [37, 73] that five poolings divide, two by two places
ONE = [(name, Test(10, scales=(37,))) for name in ("A", "D", "D from A")]
SEVERAL = [(name, Test(10, scales=FIXED)) for name in ("A", "D", "D from A")]
TABLES = {  # title: rows (run, `Test`), pictures
    "One scale (the paper's Table 3)": ([*ONE, ("D from A, jittered", Test(10, scales=(55,)))], ALL),
    "Several scales (Table 4)": ([*SEVERAL, ("D from A, jittered", Test(10, scales=JITTERED))], ALL),
    "Dense and multi-crop (Table 5)": (
        [("D from A, jittered", how) for how in (Test(0, True, True, PLACES), Test(50, scales=PLACES), None)],
        SOME,
    ),
}
CLAIMS = [  # what, (table, row) that should have the lower error, (table, row) with which it is compared
    ("deeper is better: D, A", (0, 1), (0, 0)),
    ("deeper is better: D started from A, A", (0, 2), (0, 0)),
    ("jittered training helps: Q = 55, fixed S at Q = 37", (0, 3), (0, 2)),
    ("several scales help: A", (1, 0), (0, 0)),
    ("several scales help: D", (1, 1), (0, 1)),
    ("several scales help: D from A", (1, 2), (0, 2)),
    ("several scales help: jittered", (1, 3), (0, 3)),
    ("both are better than dense", (2, 2), (2, 0)),
    ("both are better than 50 crops", (2, 2), (2, 1)),
]
WORDS = f"""`python measured/vgg_cifar.py CIFAR RUNS`: A and D of a sixteenth of the paper's widths, crops of
32 pixels, S = 37 or drawn from [37, 73]; {EPOCHS} epochs of all 50,000 pictures in batches of 64, {DROP} at a
rate of 0.01 and the rest at 0.001; two seeds.  One core of {{cpu}}.
Top-1 / top-3 error in percent of the test pictures; 10 views: corners and centre, mirrored; 50 crops: five by
five, mirrored; dense: whole pictures and their mirror images.  The runs' records are beside this file.

The paper's Tables 3 and 4 are of dense tests.  Here the window of 32 pixels is the stride of five poolings,
and what does not fill it is left out: dense at Q = 37 or 55 is one place, the upper left 32 pixels (a first
test of the first seed said so: 77% of errors at Q = 55).  So views stand for it there, which see all of a
picture, and dense is tested where it does, too, at Q = 64."""
PADDING = """![Training loss and test error of every epoch](curves.png)

Eight epochs are a beginning, above all for jittered training, which sees pictures of up to twice the size.

Why dense is so far behind: padding.  Of the first 500 pictures at Q = 64, without mirror images, the
dense test tells {dense}% wrongly (the two seeds), its four windows, one by one and averaged in the same
way, {alone}%.  A window alone has zeros around it in each of thirteen convolutions, in the last ones
around 2 × 2 pixels; slid, it has its neighbours there, which training never showed.  The rest, to the 50
crops, is that a corner of a picture says less than its middle.  At the paper's sizes the last maps have
14 × 14 pixels."""
RULE = """A difference is of top-1 errors, in percent, with its standard error over the pictures, which both
tests saw.  Reproduced: the paper's sign in both seeds, and their mean beyond two standard errors; not
reproduced: the other sign, in the same way; else within noise.  The rule is older than the runs."""


def folder(out, name, seed):
    return out / f"{name.replace(',', '').replace(' ', '-')}-{seed}"


def train(data, out, name, seed):
    """Train a run, or go on with it."""
    network, scale, start = RUNS[name]
    path = folder(out, name, seed)
    if (path / "run.json").exists():
        runs.resume(path, devices="cpu:0", on_event=say(path.name))
        return
    start = start and folder(out, start, seed)
    runs.train(
        path, data, network, width=WIDTH, size=32, scale=scale, start_from=start, batch=64, epochs=EPOCHS,
        schedule=(Change(DROP, rate=1e-3),), seed=seed, save_every=1000, keep=1, devices="cpu:0",
        on_event=say(path.name),
    )  # fmt: skip


def say(name):
    def on_event(record):
        if record["kind"] in ("train", "validation", "chance"):
            print(name, record, flush=True)

    return on_event


def tested(comm, path, val, how, count):
    """Return a run's probabilities for the first test pictures."""
    pictures = val._replace(images=np.ascontiguousarray(val.images[..., :count]), labels=val.labels[:count])
    loaded = trained.load(comm, newest(path))
    return trained.probabilities_of(comm, loaded, pictures, how, lambda done, of: None)[0]


def wrong(val, p):
    """Return which pictures are told wrongly, in one guess and in three."""
    return [topk_error(p, val.labels[: p.shape[-1]], k) for k in (1, 3)]


def test(data, out):
    """Test every run; return for each table, row and seed what `wrong` does, as (2, pictures)."""
    comm, val, found = Comm(Device("cpu:0")), open_data(data).val, []
    for title, (rows, count) in TABLES.items():
        found.append(np.empty((len(rows), len(SEEDS), 2, count)))
        for seed in SEEDS:
            done = []
            for row, (name, how) in enumerate(rows):  # the row without a test averages those above it
                p = tested(comm, folder(out, name, seed), val, how, count) if how else np.mean(done, axis=0)
                done.append(p)
                found[-1][row, seed] = wrong(val, p)
                print(title, name, how, seed, found[-1][row, seed].mean(axis=-1), flush=True)
    return found


def windows(data, out, count=500):
    """Return, for each seed, the errors of a dense test without mirror images, and of its windows one by one.

    The windows are the four of 32 pixels in pictures of 64; their scores are averaged as the dense test does.
    """
    comm, val, found = Comm(Device("cpu:0")), open_data(data).val, []
    pictures = val._replace(images=np.ascontiguousarray(val.images[..., :count]), labels=val.labels[:count])
    for seed in SEEDS:
        loaded = trained.load(comm, newest(folder(out, "D from A, jittered", seed)))
        slid, wrong = Dense(loaded.net), np.zeros(2)
        with trained.view_loader(comm, loaded, pictures, 1, *PLACES, dense=True) as loader:
            for x, labels in loader:
                apart = [x[:, i : i + 32, j : j + 32] for i in (0, 32) for j in (0, 32)]
                alone = np.mean([loaded.net.forward(w.copy()) for w in apart], axis=0)
                wrong += [(scores.argmax(axis=0) != labels).sum() for scores in (slid.forward(x), alone)]
        found.append(wrong / count)
    return np.array(found)


def described(how):
    """Return what a table says of a test."""
    if how is None:
        return "both"
    kind = {0: "dense", 10: "10 views", 50: "50 crops"}[how.views]
    return f"{kind}, Q = {', '.join(map(str, how.scales))}"


def verdict(differences, error):
    """Return the word for a claim; differences: of two seeds, negative where the claim holds."""
    mean = np.mean(differences)
    if abs(mean) <= 2 * error or min(differences) < 0 < max(differences):
        return "within noise"
    return "reproduced" if mean < 0 else "not reproduced"


def page(found, beside):
    """Return the lines of the page: three tables, and what becomes of the paper's claims.

    found: of `test`; beside: of `windows`.
    """
    seeds = " | ".join(f"seed {seed}" for seed in SEEDS)
    yield from ("# VGG on CIFAR-10, narrow", "", WORDS.format(cpu=cpu()), "")
    for (title, (rows, count)), errors in zip(TABLES.items(), found, strict=True):
        yield from (f"**{title}**, {count:,} pictures", "", f"| network | test | {seeds} | mean |")
        yield "|---" * (3 + len(SEEDS)) + "|"
        for (name, how), of_row in zip(rows, 100 * errors.mean(axis=-1), strict=True):
            cells = [f"{top1:.1f} / {top3:.1f}" for top1, top3 in [*of_row, of_row.mean(axis=0)]]
            yield f"| {name} | {described(how)} | {' | '.join(cells)} |"
        yield ""
    dense, alone = (" and ".join(f"{e:.1f}" for e in errors) for errors in 100 * beside.T)
    yield from (PADDING.format(dense=dense, alone=alone), "")
    yield from (
        "**The paper's claims**",
        "",
        f"| claim | {seeds} | mean | |",
        "|---" * (3 + len(SEEDS)) + "|",
    )
    for claim, (table, row), (other_table, other) in CLAIMS:
        pairs = 100 * (found[table][row, :, 0] - found[other_table][other, :, 0])  # seeds × pictures
        of_seeds, error = pairs.mean(axis=1), pairs.mean(axis=0).std() / pairs.shape[1] ** 0.5
        cells = [*(f"{d:+.2f}" for d in of_seeds), f"{of_seeds.mean():+.2f} ± {error:.2f}"]
        yield f"| {claim} | {' | '.join(cells)} | {verdict(of_seeds, error)} |"
    yield from ("", RULE, "")


def curves(out):
    """Draw the training loss of every epoch against steps, and the validation error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained", dpi=120)
    for axes, kind, key, label in zip(
        figure.subplots(1, 2), ("train", "validation"), ("loss", "top1"),
        ("training loss of the epoch", "test error, centre crop"), strict=True,
    ):  # fmt: skip
        for k, name in enumerate(RUNS):
            for seed in SEEDS:
                records = metrics(folder(out, name, seed))
                points = [(r["step"], r[key]) for r in records if r["kind"] == kind]
                axes.plot(*zip(*points, strict=True), "o-", ms=3, color=f"C{k}", label=None if seed else name)
        axes.set_xlabel("step")
        axes.set_ylabel(label)
    axes.legend(frameon=False)
    figure.savefig(HERE / "curves.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cifar", type=Path)
    parser.add_argument("runs", type=Path)
    given = parser.parse_args()
    for seed in SEEDS:
        for name in RUNS:
            train(given.cifar, given.runs, name, seed)
    found = test(given.cifar, given.runs), windows(given.cifar, given.runs)
    (HERE / "README.md").write_text("\n".join(page(*found)))
    for seed in SEEDS:
        for name in RUNS:
            path = folder(given.runs, name, seed)
            shutil.copy(path / "metrics.jsonl", HERE / f"{path.name}.jsonl")
    curves(given.runs)


if __name__ == "__main__":
    main()
