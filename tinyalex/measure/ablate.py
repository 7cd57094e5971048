"""The paper's comparisons, run: an AlexNet, and the same with one thing changed, on the same seeds.

The network is the narrow one with two towers (`models.alexnet.PRESETS["small"]`) with 512 hidden units,
trained by the recipe of that name in batches of 64 with the paper's colour noise; only what a row names is
changed.  A row's figure is its difference
from the whole network in points of validation error (one view), seed by seed: the mean over the seeds, and
Student's 95% interval of that mean.  A positive difference says that what was changed had helped.

The pictures that the network sees have sides of 64, 96, …, so that `pool-2`, whose paddings are those of the
2012 code's ablation (config 147), ends with maps of the same size.  Pictures below 72 pixels are enlarged to
72.
"""

import csv
import io
import json
import math
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyalex import files
from tinyalex.comm import launch
from tinyalex.data.augment import Augmentation
from tinyalex.errors import ArgumentError, DataError
from tinyalex.evaluate import ensemble, errors, probabilities
from tinyalex.fields import checked
from tinyalex.look.figures import ablation_figure
from tinyalex.measure import print_whole
from tinyalex.models.alexnet import PRESETS, alexnet
from tinyalex.nn import AllGather, MaxPool
from tinyalex.runs import recipe, run, trained
from tinyalex.runs.settings import Settings

WHOLE, FIVE = "whole", "five"  # the rows of the network itself, and of five of them together
EPOCHS, FEWEST = 30, 8
ENOUGH = 15_000  # pictures seen in a run: below that a seed is given up, where nobody asked for it
SHARE = 0.7  # of the minutes: what is planned for; machines are not always as fast as when they are tried
TRIED = 12  # steps of a row that are timed
LEARNED = 0.95  # of a guess's error: above it, the whole network has learned nothing to compare
KEPT = 5  # seconds of the minutes: for the last test, the table and the picture
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip  # Student's t for 95%, of 1 … 30 degrees of freedom


class Row(NamedTuple):
    """One change: options of `AlexNet`, a layer taken away, an activation, pools, fields of `Augmentation`.

    paper: what the change costs there, in points of top-1 error on ImageNet, or in a word.  sign: of the
    difference that the paper claims, 0 where it claims none.
    """

    what: str
    options: dict | None = None
    without: str = ""
    activation: str = "relu"
    overlap: bool = True
    pictures: dict | None = None
    section: str = ""
    paper: str = ""
    sign: int = 1


HALF = {"towers": 1, "filters": (12, 32, 48, 48, 64)}  # conv5 keeps its size, as in config 145-half
ROWS = {
    WHOLE: Row("the network as it is", sign=0),
    "no-lrn": Row("without LRN", {"lrn": False}, section="3.3", paper="1.4"),
    "lrn-across": Row("LRN across the towers", {"lrn_within_towers": False}, section="3.3", sign=0),
    "pool-2": Row("pooling 2/2 in place of 3/2", overlap=False, section="3.4", paper="0.4"),
    "half": Row("half of the kernels, on one tower", HALF, section="3.2", paper="1.7"),
    "no-conv3": Row("without conv3", without="conv3", section="7", paper="about 2"),
    "no-conv4": Row("without conv4", without="conv4", section="7", paper="about 2"),
    "no-conv5": Row("without conv5", without="conv5", section="7", paper="about 2"),
    "no-dropout": Row("without dropout", {"dropout": False}, section="4.2", paper="overfits"),
    "no-crops": Row(
        "centre crops, no mirror images", pictures={"offsets": 0, "flip": False}, section="4.1",
        paper="overfits",
    ),
    "no-noise": Row("without colour noise", pictures={"noise": 0.0}, section="4.1", paper="over 1"),
    "tanh": Row("tanh in place of ReLU", activation="tanh", section="3.1", paper="slower"),
    FIVE: Row("five networks, averaged", section="6", paper="-2.6", sign=-1),
}  # fmt: skip


class Plan(NamedTuple):
    """What a folder holds: it is not continued with another plan."""

    data: str
    rows: tuple[str, ...]
    seeds: int
    pictures: int  # trained on, the first
    epochs: int

    @property
    def runs(self):
        """(row, seed) of every run, in their order: all rows with the first seed, then with the next."""
        made = [(row, seed) for seed in range(self.seeds) for row in self.rows if row != FIVE]
        return made + [(WHOLE, seed) for seed in range(self.seeds, 5 if FIVE in self.rows else 0)]


def settings(plan, row, seed, data):
    """Return the `Settings` of a row's run; data: `tinyalex.runs.settings.Data`."""
    change, side = ROWS[row], data.mean.shape[-1]
    size = max(64, 7 * side // 8 // 32 * 32)
    options = PRESETS["small"]._replace(
        size=size, hidden=512, classes=len(data.classes), **change.options or {}
    )
    network = alexnet(options)
    layers = [x for x in network.layers if not isinstance(x, AllGather) and x.name != change.without]
    for layer in layers:
        if getattr(layer, "activation", None):
            layer.activation = change.activation
    if not change.overlap:
        layers = _without_overlap(layers, size)
    pictures = Augmentation(noise=0.1)._replace(**change.pictures or {})
    chosen = recipe.small(plan.epochs)
    drops = (recipe.Change(0, pictures=plan.pictures), *chosen.schedule)
    chosen = chosen._replace(batch=64, augmentation=pictures, schedule=drops)
    upscale = 72 if side < 72 else None
    return Settings.of(
        plan.data, network._replace(layers=layers), chosen, side, upscale=upscale, seed=seed, keep=1
    )


def _without_overlap(layers, size):
    """Pools of 2 with paddings of 2012's config 147: maps keep their sizes."""
    for layer in layers:
        if isinstance(layer, MaxPool):
            layer.window = 2
        elif layer.name in ("conv2", "conv5"):
            layer.pad -= 1
    return [x for x in layers if x.name != "pool5" or size > 64]  # of 64, conv5 leaves one pixel to be pooled


def begin(out, name, data, devices, rows=None, seeds=None, minutes=None, progress=lambda *now: None):
    """Return the `Plan` of the folder `out`; where it has none, make one by `plan_of`.

    Raises DataError where the folder's is not of these data, rows and seeds.
    """
    path = Path(out) / "plan.json"
    rows = _rows(rows) if rows else None
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        plan = plan_of(name, data, devices, rows, seeds, minutes, progress)
        files.write_text(path, json.dumps(plan._asdict(), indent=1) + "\n")
        return plan
    try:
        plan = checked(Plan, json.loads(path.read_text()), str(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: expected the plan of an ablation: {error}") from error
    asked = plan._replace(data=str(name), rows=rows or plan.rows, seeds=seeds or plan.seeds)
    if asked != plan:
        raise DataError(
            f"{path}: {out} holds an ablation of {plan.data}, rows {','.join(plan.rows)}, {plan.seeds} "
            "seeds; give another --out, or remove that folder to start anew"
        )
    return plan


def _rows(names):
    rows = tuple(dict.fromkeys((WHOLE, *names)))
    if unknown := [row for row in rows if row not in ROWS]:
        raise ArgumentError(f"--rows: expected some of {', '.join(ROWS)}, found {', '.join(unknown)}")
    return rows


def plan_of(name, data, devices, rows=None, seeds=None, minutes=None, progress=lambda *now: None):
    """Return the `Plan` of so many minutes; minutes None: 30 epochs over all pictures.

    name: of the data.  devices: as for `launch`, on which some steps of every row are timed.  rows: of
    `ROWS`, by default all.  seeds: by default three; of few minutes, fewer.  Raises ArgumentError for an
    unknown row.
    """
    rows = _rows(rows or ROWS)
    plan = Plan(str(name), rows, seeds or 3, len(data.train.labels), EPOCHS)
    if minutes is None:
        return plan
    began, seconds = time.perf_counter(), {}
    for number, row in enumerate(rows, 1):
        seconds[row] = 0.0 if row == FIVE else _seconds_a_picture(settings(plan, row, 0, data), data, devices)
        progress("timing steps of row", number, len(rows))
    left = SHARE * (60 * minutes - (time.perf_counter() - began))
    for tried in [seeds] if seeds else [3, 2, 1]:
        plan = plan._replace(seeds=tried)
        seen = max(0.0, left) / sum(seconds[row] for row, _ in plan.runs)
        if seen >= ENOUGH:
            break
    seen -= len(data.val.labels) / 2  # a picture is tested in less than half of the time of training
    if seen >= FEWEST * plan.pictures:
        return plan._replace(epochs=int(min(EPOCHS, seen / plan.pictures)))
    fewer = max(100, int(seen / FEWEST) // 100 * 100)
    return plan._replace(epochs=FEWEST, pictures=min(plan.pictures, fewer))


def _seconds_a_picture(made, data, devices):
    """Time some steps of a run that is begun for it alone."""
    stop, at = threading.Event(), []

    def note(record):
        if record["kind"] == "step":
            at.append(time.perf_counter())
            if len(at) >= TRIED:
                stop.set()

    with tempfile.TemporaryDirectory() as folder:
        rank = run.job(Path(folder) / "run", made, data, new=True, stop=stop, on_event=note)
        launch(rank, devices, made.most_ranks, processes=True)
    return float(np.median(np.diff(at))) / made.recipe.batch if len(at) > 1 else 0.1


def ablate(out, data, devices, plan, stop=None, end=None, progress=lambda *now: None, say=lambda line: None):
    """Run a plan in the folder `out`, going on where an earlier call stopped; return whether it is done.

    Every run that has ended is a file of its class probabilities in out/runs; one that has not is a run
    folder.  When the Event stop is set, or at the time `end` of `time.monotonic`, the run is stopped after a
    checkpoint.
    Writes table.csv, table.json and ablation.png of the runs that have ended.
    """
    stop = stop or threading.Event()
    (Path(out) / "runs").mkdir(parents=True, exist_ok=True)
    train = data._replace(val=None)  # tested at their ends alone
    steps = [
        plan.epochs * recipe.steps_of(settings(plan, *one, train).recipe, 0, plan.pictures)
        for one in plan.runs
    ]
    total = sum(steps)
    for number, (row, seed) in enumerate(plan.runs):
        before, name = sum(steps[:number]), f"{row}, seed {seed}"

        def note(record, before=before, name=name):
            if end is not None and time.monotonic() >= end:
                stop.set()
            if record["kind"] == "step":
                progress(f"{name}: step", before + record["step"], total, f"loss {record['loss']:.3f}")

        path = _result(out, row, seed)
        if path.exists() or stop.is_set():
            continue
        if _run(path, settings(plan, row, seed, train), train, data.val, devices, stop, note):
            say(f"{name}: {_error(np.load(path), data.val.labels):.2f}% of the validation pictures wrong")
    write(out, plan, data.val.labels)
    return all(_result(out, *one).exists() for one in plan.runs)


def _result(out, row, seed):
    return Path(out) / "runs" / f"{row}-{seed}.npy"


def _run(path, made, data, val, devices, stop, note):
    """Train, and test the network; whether that came to its end."""
    folder = path.with_suffix("")
    begun = (folder / "run.json").exists()
    if not begun:
        shutil.rmtree(folder, ignore_errors=True)  # killed before it held anything
    parts = made.most_ranks
    job = run.job(folder, made, data, new=not begun, stop=stop, on_event=note)
    if not all(launch(job, devices, parts, processes=True)):
        return False

    def rank(comm):
        network = trained.load(comm, run.checkpoints(folder)[-1])
        with trained.view_loader(comm, network, val, views=1) as loader:
            return probabilities(network.net, loader)[0]

    files.write_array(path, launch(rank, devices, parts)[0])
    shutil.rmtree(folder)
    return True


# ---- the table ---------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A row of the table; differences in points of error, None where there are too few runs."""

    row: str
    what: str
    section: str
    paper: str
    seeds: int
    error: float | None  # the mean, in percent
    difference: float | None
    low: float | None  # 95% interval
    high: float | None
    verdict: str


def table(out, plan, labels):
    """Return a `Found` for every row of the plan, of the runs that have ended."""
    wrong = {
        (row, seed): _error(np.load(_result(out, row, seed)), labels)
        for row, seed in plan.runs
        if _result(out, row, seed).exists()
    }
    rows = [_averaged(out, labels) if row == FIVE else _found(row, plan, wrong) for row in plan.rows]
    learned = rows[0].error is None or rows[0].error < LEARNED * _error_of_a_guess(labels)
    return rows if learned else [x._replace(verdict=x.verdict and "nothing learned") for x in rows]


def _error_of_a_guess(labels):
    """Percent of the pictures that are not of the largest class."""
    return 100 * (1 - np.bincount(labels).max() / len(labels))


def _found(row, plan, wrong):
    seeds = [seed for seed in range(plan.seeds) if (row, seed) in wrong and (WHOLE, seed) in wrong]
    mean = float(np.mean([wrong[row, seed] for seed in seeds])) if seeds else None
    pairs = [wrong[row, seed] - wrong[WHOLE, seed] for seed in seeds] if row != WHOLE else []
    difference, low, high = interval(pairs)
    return _judged(row, len(seeds), mean, difference, low, high)


def _averaged(out, labels):
    """Five networks' average against the mean of the five: the interval is over the pictures."""
    paths = [_result(out, WHOLE, seed) for seed in range(5)]
    found = [np.load(path) for path in paths if path.exists()]
    if len(found) < 5:
        return _judged(FIVE, len(found), None, None, None, None)
    one = np.mean([p.argmax(axis=0) != labels for p in found], axis=0)
    together = ensemble(found)
    gain = 100 * ((together.argmax(axis=0) != labels) - one)
    half = 1.96 * gain.std(ddof=1) / math.sqrt(len(gain))
    return _judged(FIVE, 5, _error(together, labels), gain.mean(), gain.mean() - half, gain.mean() + half)


def interval(pairs):
    """Return the mean of differences and Student's 95% interval of it; None for what they cannot tell."""
    if not pairs:
        return None, None, None
    mean = float(np.mean(pairs))
    if len(pairs) == 1:
        return mean, None, None
    half = T95[min(len(pairs) - 1, len(T95)) - 1] * float(np.std(pairs, ddof=1)) / math.sqrt(len(pairs))
    return mean, mean - half, mean + half


def _judged(row, seeds, error, difference, low, high):
    change = ROWS[row]
    verdict = ""
    if difference is not None and change.sign:
        verdict = "one seed"
        if low is not None:
            sides = {(change.sign,): "reproduced", (-change.sign,): "not reproduced"}
            verdict = sides.get(tuple({np.sign(low), np.sign(high)}), "within noise")
    numbers = (None if x is None else round(float(x), 3) for x in (error, difference, low, high))
    return Found(row, change.what, change.section, change.paper, seeds, *numbers, verdict)


def _error(probabilities, labels):
    """Percent of the pictures that are wrong."""
    return 100 * errors(probabilities, labels)[1]


def write(out, plan, labels):
    """Write table.csv, table.json and ablation.png."""
    rows = table(out, plan, labels)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([Found._fields, *rows])
    files.write_text(Path(out) / "table.csv", text.getvalue())
    whole = {"plan": plan._asdict(), "rows": [row._asdict() for row in rows]}
    files.write_text(Path(out) / "table.json", json.dumps(whole, indent=1) + "\n")
    ablation_figure(rows, Path(plan.data).name).savefig(
        Path(out) / "ablation.png", metadata={"Software": None}
    )
    return rows


def print_table(rows, console):
    """Print the table: differences in points of error."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="")
    for head in ("row", "", "section", "paper", "seeds", "error %", "difference", "95% interval", ""):
        shown.add_column(head, justify="right" if head in ("seeds", "error %", "difference") else "left")
    for row in rows:
        numbers = ["" if x is None else f"{x:.2f}" for x in (row.error, row.difference)]
        spread = "" if row.low is None else f"{row.low:.2f} to {row.high:.2f}"
        cells = (row.row, row.what, row.section, row.paper, str(row.seeds), *numbers, spread, row.verdict)
        shown.add_row(*cells)
    print_whole(console, shown)
