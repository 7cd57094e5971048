"""Figure 1 of the paper, measured: how many epochs ReLU and tanh need to the same training error.

The paper (section 3.1): a four-layer network with ReLUs reaches 25% training error on CIFAR-10 six times
faster than the same network with tanh neurons; "the learning rates for each network were chosen
independently to make training as fast as possible. No regularization of any kind was employed."

Here: `figure1` once with each activation, SGD with momentum 0.9 and no decay, batches of 128, pixels minus
the mean image.  A small search picks each activation's rate: every rate of a grid trains for a short while;
if the best rate is at an end, the grid is extended; the one with the lowest training error is taken.
Training error is counted on the batches as they are trained on, over the whole epoch.
"""

import csv
import json
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np

from tinyalex.comm import launch
from tinyalex.data.loader import InMemory
from tinyalex.errors import DataError, NonFiniteError
from tinyalex.files import write_text
from tinyalex.look.figures import relu_vs_tanh_figure
from tinyalex.models import figure1
from tinyalex.optim import SGD
from tinyalex.runs import checkpoint
from tinyalex.train import Place, fit

ACTIVATIONS = ("relu", "tanh")
TARGET = 0.25  # training error
LEVELS = (0.5, 0.4, 0.35, 0.3, 0.25)  # whose epochs the summary lists
BATCH = 128


class Plan(NamedTuple):
    """What a run is: a run directory that was begun with another plan is not continued."""

    data: str  # what the pictures are, for the labels
    pictures: int
    rates: tuple  # the grid of learning rates
    search_epochs: int  # how long each rate of the grid is tried, on
    search_pictures: int  # so many pictures
    most_epochs: int  # when to give up
    seeds: tuple = (0,)


RATES = (0.002, 0.005, 0.01, 0.02)
QUICK = Plan("", 5_000, RATES, search_epochs=2, search_pictures=5_000, most_epochs=40)
FULL = Plan("", 50_000, (0.0005, 0.001, *RATES), search_epochs=3, search_pictures=20_000, most_epochs=150)


def first(data, count):
    """Return the first `count` pictures of a set (all, if it has fewer)."""
    return data._replace(images=data.images[..., :count], labels=data.labels[:count])


class Curve(NamedTuple):
    """One training run: error and mean loss of every epoch, and the seconds that it took."""

    activation: str
    seed: int
    rate: float
    errors: list
    losses: list
    seconds: list

    def epochs_to(self, target=TARGET):
        """Epochs until the error falls to the target, interpolated linearly; None if it did not.

        An epoch's error is that of its middle, about: it is entered at its end all the same, for both.
        """
        for epoch, error in enumerate(self.errors, 1):
            if error <= target:
                before = self.errors[epoch - 2] if epoch > 1 else 0.9
                return epoch - (target - error) / (before - error)
        return None


def train(data, devices, activation, rate, seed, epochs, path=None, target=0.0, on_step=None):
    """Train until the target error or the last epoch; return the Curve.

    path: a checkpoint written after every epoch, from which the run continues if it is there.
    on_step(epoch, fraction, running error) is called by rank 0.  Raises NonFiniteError if it diverges.
    """
    network = figure1(activation)

    def rank(comm):
        net = network.build(comm, np.random.default_rng(seed), parallel="data")
        optimizer = SGD(net, rate, momentum=0.9, decay=0.0)
        batches = InMemory(data, comm, BATCH)
        curve = Curve(activation, seed, rate, [], [], [])
        if path and path.exists():
            arrays, metadata = checkpoint.load(path)
            checkpoint.restore(net, optimizer, arrays, path)
            curve = Curve(**metadata["curve"])
        if curve.errors and curve.errors[-1] <= target:
            return curve
        place = Place(len(curve.errors), 0, len(curve.errors) * batches.steps)
        clock = perf_counter()

        def epoch(number, start):
            nonlocal clock
            clock = perf_counter()
            return batches.epoch(np.random.default_rng([seed, number]))

        def step(place, result):
            if on_step and comm.rank == 0:
                on_step(place.epoch, place.batch / batches.steps, place.means().error)

        def ended(place):
            loss, error = place.means()
            curve.errors.append(error)
            curve.losses.append(loss)
            curve.seconds.append(perf_counter() - clock)
            if path and comm.rank == 0:
                metadata = {"network": network.to_json(), "classes": None, "curve": curve._asdict()}
                checkpoint.save(path, checkpoint.state(net, optimizer), metadata)
            return error <= target

        fit(
            net, optimizer, epoch, batches.steps, epochs, place=place, on_step=step, end_epoch=ended,
        )  # fmt: skip
        return curve

    return launch(rank, devices, processes=True)[0]


def search_rate(data, devices, activation, plan, found, on_trial, on_step):
    """Try every rate of the plan, and beyond its ends while the best is at one of them.

    found: {rate: training error of the trial's last epoch, 1.0 if it diverged}, what is already known; it is
    filled in, and on_trial() is called after each trial.
    """
    part = first(data, plan.search_pictures)
    while (rate := _next_rate(plan.rates, found)) is not None:
        try:
            found[rate] = train(
                part, devices, activation, rate, plan.seeds[0], plan.search_epochs,
                on_step=lambda *step, rate=rate: on_step(rate, *step),
            ).errors[-1]  # fmt: skip
        except NonFiniteError:
            found[rate] = 1.0
        on_trial()


def _next_rate(rates, found):
    for rate in rates:
        if rate not in found:
            return rate
    best = min(found, key=found.get)
    if best == max(found):
        return 2 * best
    return best / 2 if best == min(found) else None


def run(data, plan, devices, out, progress=lambda *now, **how: None, say=lambda line: None):
    """Run the whole experiment into the folder `out`, continuing where an earlier run stopped.

    Writes relu_vs_tanh.png (the figure), curves.csv, summary.json, and a checkpoint of each network; an
    interrupted run writes them as far as it came.
    progress(doing, done, total, state, at_most) is called once a batch, and say(line) with what was found.
    Returns the summary.  Raises DataError if the folder holds a run with another plan.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _begin(out, plan)
    try:
        _train_all(data, plan, devices, out, progress, say)
    except KeyboardInterrupt:
        _write(out, plan, devices)
        raise
    return _write(out, plan, devices)


def _train_all(data, plan, devices, out, progress, say):
    steps = _steps(data)
    for activation in ACTIVATIONS:
        rate = _search(data, plan, devices, activation, out, progress, say)
        for seed in plan.seeds:
            name = f"{activation}, rate {rate:g}, seed {seed}"

            def on_step(epoch, fraction, error, name=name):
                done = round((epoch + fraction) * steps)
                state = f"epoch {epoch + fraction:.1f}, training error {error:.1%}, until it is {TARGET:.0%}"
                progress(f"{name}: batch", done, plan.most_epochs * steps, state, at_most=True)

            path = _checkpoint(out, activation, seed)
            curve = train(data, devices, activation, rate, seed, plan.most_epochs, path, TARGET, on_step)
            say(f"{name}: {len(curve.errors)} epochs, training error {curve.errors[-1]:.1%}")


def _steps(data):
    return len(data.labels) // BATCH


def _checkpoint(out, activation, seed):
    return out / f"{activation}-seed{seed}.safetensors"


def _search_results(out, activation):
    path = out / f"{activation}-search.json"
    try:
        known = json.loads(path.read_text()) if path.exists() else {}
        return path, {float(rate): float(error) for rate, error in known.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: expected the errors that a search found: {error!r}") from error


def _search(data, plan, devices, activation, out, progress, say):
    path, found = _search_results(out, activation)
    steps = _steps(first(data, plan.search_pictures))

    def on_step(rate, epoch, fraction, error):
        trials = max(len(plan.rates), len(found) + 1)  # more where the best is at an end
        done = len(found) * plan.search_epochs + epoch + fraction
        state = f"rate {rate:g}, training error {error:.1%}"
        total = trials * plan.search_epochs * steps
        progress(f"{activation}, which rate? batch", round(done * steps), total, state)

    search_rate(data, devices, activation, plan, found, lambda: write_text(path, json.dumps(found)), on_step)
    best = min(found, key=found.get)
    say(f"{activation}: rate {best:g} is the best of {', '.join(f'{r:g}' for r in sorted(found))}")
    return best


def _begin(out, plan):
    path = out / "plan.json"
    text = json.dumps(plan._asdict(), indent=1)
    if path.exists() and path.read_text() != text:
        raise DataError(
            f"{path}: {out} holds a run with other settings than these; "
            "give another --out, or remove that folder to start anew"
        )
    write_text(path, text)


def _write(out, plan, devices):
    """Write the results of all networks that have a checkpoint, whether or not they arrived."""
    paths = [_checkpoint(out, activation, seed) for activation in ACTIVATIONS for seed in plan.seeds]
    curves = [Curve(**checkpoint.metadata(path)["curve"]) for path in paths if path.exists()]
    rows = [
        {"activation": c.activation, "seed": c.seed, "rate": c.rate, "epoch": e, "training_error": error,
         "loss": loss, "seconds": seconds}
        for c in curves
        for e, (error, loss, seconds) in enumerate(zip(c.errors, c.losses, c.seconds, strict=True), 1)
    ]  # fmt: skip
    with open(out / "curves.csv", "w", newline="") as file:
        writer = csv.DictWriter(
            file, ("activation", "seed", "rate", "epoch", "training_error", "loss", "seconds")
        )
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        **plan._asdict(),
        "devices": [d.name for d in devices],
        "target_training_error": TARGET,
        "search": {activation: _search_results(out, activation)[1] for activation in ACTIVATIONS},
        "runs": [
            {"activation": c.activation, "seed": c.seed, "rate": c.rate, "epochs_to_target": c.epochs_to(),
             "epochs_to": {level: c.epochs_to(level) for level in LEVELS}, "epochs_run": len(c.errors),
             "last_training_error": c.errors[-1],
             "median_seconds_an_epoch": float(np.median(c.seconds))}
            for c in curves
        ],
        "ratio_of_epochs": {seed: ratio(curves, seed) for seed in plan.seeds},
    }  # fmt: skip
    write_text(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    relu_vs_tanh_figure(curves, plan.data, TARGET).savefig(out / "relu_vs_tanh.png")
    return summary


def ratio(curves, seed):
    """Epochs that tanh needs to the target / epochs that ReLU needs; None if either did not arrive."""
    epochs = {c.activation: c.epochs_to() for c in curves if c.seed == seed}
    return epochs["tanh"] / epochs["relu"] if len(epochs) == 2 and all(epochs.values()) else None
