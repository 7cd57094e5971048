"""Commands that make a network: prepare, train, resume."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tinyalex.cli.common import (
    DataSet,
    Devices,
    Preset,
    Width,
    console,
    devices_for_network,
    network_of,
    run_on,
)
from tinyalex.devices import sharing
from tinyalex.errors import DataError, DeviceError, DeviceMemoryError


def prepare_imagenet(
    src: Annotated[Path, typer.Argument(help="ILSVRC folders or tars, or any folder of class folders.")],
    dst: Annotated[Path, typer.Argument(help="Where the shards go.")],
    size: Annotated[int, typer.Option(help="Side of the stored pictures in pixels.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the order of the pictures.", min=0)] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; every core by default.", min=1)] = None,
):
    """Cut every picture to its middle square and write shards; again: go on, or verify what is complete."""
    from tinyalex.data import imagenet

    done = imagenet.prepare(src, dst, size=size, seed=seed, workers=workers)
    counts = ", ".join(f"{n:,} {split}" for split, n in done.counts.items())
    whole = ", whole: every shard has its SHA-256" if done.verified else ""
    console.print(f"{counts} pictures of {done.classes:,} classes in {dst}{whole}")
    if done.unreadable:
        console.print(f"{done.unreadable} unreadable, skipped: {dst / 'unreadable.txt'}")


def train(
    data: DataSet,
    out: Annotated[Path, typer.Argument(help="The run's folder: new or empty.")],
    preset: Preset = "paper",
    recipe: Annotated[
        str | None,
        typer.Option(help="How it is trained: paper, code2012 or caffe; by default as the preset."),
    ] = None,
    devices: Devices = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the preset's.", min=1)] = None,
    batch: Annotated[int | None, typer.Option(help="Images a step, instead of the preset's.", min=1)] = None,
    rate: Annotated[
        float | None, typer.Option(help="First learning rate, instead of the preset's.", min=0)
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better error before the rate drops.", min=1)
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Colour noise, instead of the preset's.", min=0)] = None,
    bias: Annotated[float | None, typer.Option(help="First biases, instead of the preset's 1.")] = None,
    dropout: Annotated[bool, typer.Option(help="Drop half of the hidden units in training.")] = True,
    width: Width = 1.0,
    size: Annotated[int | None, typer.Option(help="Side of the crop that the network sees.", min=1)] = None,
    upscale: Annotated[int | None, typer.Option(help="Enlarge pictures to this side first.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    save_every: Annotated[
        int, typer.Option(help="Steps between checkpoints; one is written at the end too.", min=1)
    ] = 500,
    keep: Annotated[int, typer.Option(help="Checkpoints kept.", min=1)] = 3,
):
    """Train AlexNet.  Ctrl-C finishes the step, writes a checkpoint and ends; `tinyalex resume` goes on."""
    from tinyalex.runs.recipe import PRESETS
    from tinyalex.runs.settings import Settings, locate, open_data

    data = locate(data)
    opened = open_data(data)
    network = network_of(preset, width, size, len(opened.classes))
    if bias is not None:
        network = network._replace(bias=bias)
    if (recipe or preset) not in PRESETS:
        raise DataError(f"--recipe: expected one of {', '.join(PRESETS)}, found {recipe!r}")
    r = PRESETS[recipe or preset]
    chosen = {"epochs": epochs, "batch": batch, "rate": rate, "patience": patience}
    r = r._replace(**{name: value for name, value in chosen.items() if value is not None})
    pictures = r.pictures._replace(crop=network.size)
    if (upscale or opened.mean.shape[-1], network.size) != (256, r.pictures.crop):
        pictures = pictures._replace(offsets=None)  # the recipe counts those of its own crop in 256 pixels
    r = r._replace(pictures=pictures if noise is None else pictures._replace(noise=noise))
    network = network._replace(dropout=dropout)
    settings = Settings(str(data), preset, network, r, seed, upscale, save_every, keep)
    _go(out, settings, opened, devices, new=True)


def resume(
    out: Annotated[Path, typer.Argument(help="The run's folder.")],
    data: Annotated[Path | None, typer.Option(help="Where the run's pictures are now, if moved.")] = None,
    devices: Devices = None,
):
    """Go on with a run from its newest checkpoint, on any number of devices that its towers allow."""
    from tinyalex.runs import run
    from tinyalex.runs.settings import locate, open_data

    settings = run.settings_of(out)
    if data:
        settings = settings._replace(data=str(locate(data)))
    try:
        opened = open_data(settings.data)
    except DataError as error:
        if data:
            raise
        raise DataError(f"{error}; {out / 'run.json'} names the data, --data others") from error
    _go(out, settings, opened, devices)


def _go(out, settings, data, devices, new=False):
    """Train in the run folder, with a live display; exit code 130 if it was stopped."""
    from tinyalex.evaluate import guesses
    from tinyalex.runs import run

    if data.train is None:
        raise DataError(f"{settings.data}: expected pictures to train on, found a val split alone")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    state = TextColumn("{task.fields[state]}")
    with run.stop_at_signal() as stop, Progress(*columns, state, console=console) as progress:
        steps = len(data.train.labels) // settings.recipe.batch
        task = progress.add_task("", total=steps, state="")

        def on_event(record):
            if record["kind"] == "step":
                state = (
                    f"loss {record['loss']:.3f}  error {record['error']:.1%}  rate {record['rate']:g}  "
                    f"{record['images_a_second']:.0f} images/s"
                )
                done = record["step"] - record["epoch"] * steps
                name = f"epoch {record['epoch'] + 1}"
                progress.update(task, completed=done, total=steps, description=name, state=state)
            elif record["kind"] == "validating":
                progress.update(task, completed=record["done"], total=record["of"], description="validation")
            elif record["kind"] == "train":
                result = f"training loss {record['loss']:.3f}, error {record['error']:.1%}"
                progress.print(f"epoch {record['epoch']}: {result}")
            elif record["kind"] == "validation":
                topk = f"top-{guesses(settings.network.classes)} {record['top5']:.1%}"
                progress.print(f"  validation top-1 {record['top1']:.1%}, {topk}")

        chosen = devices_for_network(devices, settings.network)

        def rank(comm):
            with contextlib.ExitStack() as stack:
                if comm.rank == 0:
                    progress.print(f"devices: {chosen}{sharing(chosen.split(','))}")
                    run.check(settings, data, comm.size)
                    if new:
                        run.begin(out, settings)
                    stack.enter_context(run.lock(out))
                comm.share(None)  # nobody looks into the folder before
                return run.train(comm, out, settings, data, stop, on_event)

        try:
            done = run_on(rank, chosen)
        except DeviceMemoryError as error:
            raise DeviceError(f"{error}; {_batch_that_fits(settings, chosen, error.available)}") from error
    if not done:
        console.print(f"stopped after a checkpoint; go on with: tinyalex resume {out}")
        raise typer.Exit(130)
    console.print(f"done: {run.checkpoints(out)[-1]}")


def _batch_that_fits(settings, devices, memory):
    from tinyalex.measure.describe import largest_batch
    from tinyalex.ops.cuda.conv import BLOCK_BYTES

    memory -= 2 * BLOCK_BYTES  # what describe does not count: columns, and a block of their product
    batch = settings.recipe.batch
    fits = largest_batch(settings.network, len(devices.split(",")), memory)
    if fits >= batch:
        return f"a batch of {batch} should just fit by `tinyalex describe`: try a smaller one"
    return f"in place of {batch}, a batch of {fits} images would fit" if fits else "not one image would fit"
