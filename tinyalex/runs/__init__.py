"""A training run in a folder: settings, recipe, checkpoints, and networks read back from them.

    from tinyalex import runs
    runs.train("RUN", "cifar10", "paper", recipe="paper", width=0.5, size=72, upscale=80, epochs=8)
    runs.resume("RUN")

do what `tinyalex train` and `tinyalex resume` do.
"""

from collections.abc import Callable
from pathlib import Path

from tinyalex.comm import launch
from tinyalex.errors import ArgumentError, DataError

__all__ = ["new_run", "reopen", "resume", "train"]


def new_run(
    data, network=None, recipe=None, *, upscale=None, seed=0, save_every=500, keep=3,
    parallel=None, accumulate=1, start_from=None, scale=None, width=None, size=None, bias=None, dropout=None,
    weights=None, **changes,
):  # fmt: skip
    """Return (`Settings`, opened data) of a run that is to begin.

    data: a folder made by `tinyalex prepare`, CIFAR-10's, or "cifar10".  network: a `Network`, or a word that
    means one, see `tinyalex.runs.saved.find_network`; by default "paper", for the recipe "small" the network
    of that name.  parallel: how the devices share the work, see `tinyalex.parallel`.  width, size, bias,
    dropout, weights: choices about a network that is asked for by name.  recipe: a `Recipe` or the name of
    one; by default that of the network's authors.
    accumulate: parts of a batch.  start_from: a run or checkpoint whose weights it begins with.  scale: S, or
    (least, most), see `tinyalex.data.augment.Augmentation`.
    changes: of the recipe: epochs, batch, rate, patience, noise, …
    """
    from tinyalex.models import Network
    from tinyalex.parallel import usual
    from tinyalex.runs.checkpoint import newest
    from tinyalex.runs.recipe import recipe_of
    from tinyalex.runs.saved import find_network
    from tinyalex.runs.settings import Settings, locate, open_data

    data = locate(data)
    opened = open_data(data)
    side = opened.mean.shape[-1]
    network = network or ("small" if recipe == "small" else "paper")
    if network == "small":
        size = size or 7 * (upscale or side) // 8
    chosen = recipe_of(recipe, network, **changes)
    if not isinstance(network, Network):
        options = {"width": width, "size": size, "bias": bias, "dropout": dropout, "weights": weights}
        network = find_network(network, len(opened.classes), **options)
    if start_from is not None:
        start_from = str(newest(start_from).resolve())
    others = {
        "seed": seed, "upscale": upscale, "save_every": save_every, "keep": keep, "scale": scale,
        "accumulate": accumulate, "start_from": start_from, "parallel": parallel or usual(network),
    }  # fmt: skip
    return Settings.of(data, network, chosen, side, **others), opened


def train(
    out: str | Path,
    data: str | Path,
    network=None,
    recipe=None,
    *,
    devices: str = "cpu",
    on_event: Callable[[dict], object] | None = None,
    **others,
) -> None:
    """Train a network into the new folder `out`, on some devices; see `new_run` for the rest.

    on_event(record) is called with the records of metrics.jsonl and once a step, see `runs.run.train`.
    """
    from tinyalex.runs.run import job

    made, opened = new_run(data, network, recipe, **others)
    launch(job(out, made, opened, new=True, on_event=on_event), devices, made.most_ranks, processes=True)


def resume(
    out: str | Path,
    *,
    epochs: int | None = None,
    data: str | Path | None = None,
    devices: str = "cpu",
    on_event: Callable[[dict], object] | None = None,
) -> None:
    """Go on with the run in the folder `out`; epochs: longer than it was to go.  data: where it lies now."""
    from tinyalex.runs.run import job

    made, opened = reopen(out, epochs, data)
    rank = job(out, made, opened, longer=epochs is not None, on_event=on_event)
    launch(rank, devices, made.most_ranks, processes=True)


def reopen(out, epochs=None, data=None, parallel=None):
    """Return (`Settings`, opened data) of the run in the folder `out`.

    Raises ArgumentError for a layout that is not the run's.
    """
    from tinyalex.runs.run import settings_of
    from tinyalex.runs.settings import locate, open_data

    made = settings_of(out)
    if parallel not in (None, made.parallel):
        raise ArgumentError(
            f"parallel: {out} was begun with {made.parallel}, found {parallel}: a run keeps its layout"
        )
    if data is not None:
        made = made._replace(data=str(locate(data)))
    if epochs is not None:
        if epochs < 1:
            raise ArgumentError(f"epochs: expected at least 1, found {epochs}")
        made = made._replace(recipe=made.recipe._replace(epochs=epochs))
    try:
        return made, open_data(made.data)
    except DataError as error:
        if data is not None:
            raise
        raise DataError(f"{error}; {out}/run.json names the data, --data others") from error
