"""Commands that make a network: train, resume."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from tinyalex.cli.common import (
    DataSet,
    Devices,
    NetworkOption,
    OldNetworkOption,
    Parallel,
    Plain,
    Width,
    console,
    devices_for_network,
    operations,
    run_on,
    scales_of,
)
from tinyalex.cli.progress import Progress
from tinyalex.devices import sharing
from tinyalex.errors import DeviceError, DeviceMemoryError


def train(
    data: DataSet,
    out: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder: new or empty.")],
    network: NetworkOption = None,
    preset: OldNetworkOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="How it is trained: paper, code2012, caffe, or small (100 to 5,000 pictures, with a network "
            "for them); by default as the network's authors did."
        ),
    ] = None,
    devices: Devices = "cpu",
    parallel: Parallel = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs, instead of the recipe's.", min=1)] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images per step, instead of the recipe's.", min=1)
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="First learning rate, instead of the recipe's; later ones change alike.", min=0),
    ] = None,
    rate_by: Annotated[
        str | None,
        typer.Option(help="Multiply the rate by k, or sqrt-k, for batches of k times 128 images."),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            help="Epochs without a better error before the rate drops, where no list says when.", min=1
        ),
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Colour noise, instead of the recipe's.", min=0)] = None,
    bias: Annotated[
        float | None,
        typer.Option(
            help="Initial bias of conv2, conv4, conv5, fc6, fc7 (with the paper's 1 a narrow network may not "
            "learn)."
        ),
    ] = None,
    no_dropout: Annotated[
        bool, typer.Option("--no-dropout", help="Keep all hidden units in training.")
    ] = False,
    width: Width = 1.0,
    size: Annotated[int | None, typer.Option(help="Side of the crop that the network sees.", min=1)] = None,
    upscale: Annotated[int | None, typer.Option(help="Enlarge pictures to this side first.", min=1)] = None,
    scale: Annotated[
        str | None,
        typer.Option(
            help="VGG's S: the shorter side to which pictures are rescaled before the crop: 384; or 256,512: "
            "each picture draws its own in between."
        ),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(help="Parts of a batch, one after the other: less memory, the same update.", min=1)
    ] = 1,
    start_from: Annotated[
        Path | None,
        typer.Option(
            help="A run or checkpoint whose weights it begins with: of the same network, or of vgg-a, for "
            "the seven layers of a deeper vgg that its authors copied."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="How vgg's weights start: glorot, deviation (0.01) or variance (0.01).",
            show_default="glorot",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0)] = 0,
    save_every: Annotated[
        int, typer.Option(help="Steps between checkpoints; one is written at the end too.", min=1)
    ] = 500,
    keep: Annotated[int, typer.Option(help="Checkpoints kept.", min=1)] = 3,
    plain: Plain = False,
):
    """Train a network.  Ctrl-C finishes the step, writes a checkpoint and ends; `tinyalex resume` goes on."""
    from tinyalex.runs import new_run

    made, opened = new_run(
        data, network or preset, recipe, upscale=upscale, seed=seed, save_every=save_every, keep=keep,
        width=None if width == 1 else width, size=size, bias=bias, dropout=False if no_dropout else None,
        parallel=parallel, epochs=epochs, batch=batch, rate=rate, rate_by=rate_by, patience=patience,
        noise=noise, accumulate=accumulate, start_from=start_from, weights=weights,
        scale=scale and scales_of("--scale", scale, (1, 2)),
    )  # fmt: skip
    _go(out, made, opened, devices, plain, new=True)


def resume(
    out: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    data: Annotated[Path | None, typer.Option(help="Where the run's pictures are now, if moved.")] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Go on until so many epochs have ended, also after the run's end.", min=1),
    ] = None,
    devices: Devices = "cpu",
    parallel: Annotated[
        str | None, typer.Option(help="The run's own layout: another is refused.", hidden=True)
    ] = None,
    plain: Plain = False,
):
    """Go on with a run from its newest checkpoint, on any number of devices that its layout allows."""
    from tinyalex.runs import reopen

    made, opened = reopen(out, epochs, data, parallel)
    _go(out, made, opened, devices, plain, longer=epochs is not None)


def _go(out, settings, data, devices, plain, **how):
    """Train in the run folder, with a live display; exit code 130 if it was stopped."""
    from tinyalex.runs import run

    chosen = devices_for_network(devices, settings.network, settings.parallel, settings.recipe.batch)
    with run.stop_at_signal() as stop, Progress() as progress:
        display = _Display(progress, settings, data, chosen)
        rank = run.job(out, settings, data, stop=stop, on_event=display, **how)
        try:
            with operations(plain):
                done = run_on(rank, chosen, processes=True)
        except DeviceMemoryError as error:
            raise DeviceError(f"{error}; {_batch_that_fits(settings, chosen, error.available)}") from error
    where = shlex.quote(str(out))
    if not done:
        console.print(f"stopped after a checkpoint; go on with: tinyalex resume {where}")
        raise typer.Exit(130)
    console.print(f"done: {run.checkpoints(out)[-1]}")
    if not display.has_begun:
        more = settings.recipe.epochs + 10
        console.print(f"nothing was left to do; for longer: tinyalex resume {where} --epochs {more}")


class _Display:
    """Shows the records of a run."""

    def __init__(self, progress, settings, data, devices):
        from tinyalex.runs.recipe import steps_of

        if not devices.startswith("mpi"):  # of which every process would say so
            progress.print(f"devices: {devices}{sharing(devices.split(','))}")
        self.progress, self.recipe, self.classes = progress, settings.recipe, len(data.classes)
        self.has_begun = False
        count = len(data.train.labels) if data.train is not None else 0
        self.steps = sum(steps_of(self.recipe, epoch, count) for epoch in range(self.recipe.epochs))

    def __call__(self, record):
        from tinyalex.evaluate import guesses

        say = self.progress.print
        match record["kind"]:
            case "step":
                self.has_begun = True
                state = (
                    f"loss {record['loss']:.3f}  error {record['error']:.1%}  rate {record['rate']:g}  "
                    f"{record['images_a_second']:.0f} images/s"
                )
                self._show(record, state)
            case "validating":
                self._show(record, f"validation {record['done']:,}/{record['of']:,}")
            case "train":
                loss, error = record["loss"], record["error"]
                say(f"epoch {record['epoch']}: training loss {loss:.3f}, error {error:.1%}")
            case "validation":
                k = guesses(self.classes)
                topk = f", top-{k} error {record['top5']:.1%}" if k > 1 else ""
                say(f"  validation top-1 error {record['top1']:.1%}{topk}")
            case "drop":
                waited = self.recipe.patience
                epochs = f"{waited} epochs" if waited > 1 else "an epoch"
                reason = f"epoch {record['epoch']}: no better error for {epochs}"
                if record["ended"]:
                    say(f"{reason}, at the last rate: the end, of {self.recipe.epochs} (--patience)")
                else:
                    say(f"{reason}: rate {record['rate']:g}")
            case "chance" if record["loss"] > 2 * record["chance"]:
                say(
                    f"epoch {record['epoch']}: the loss is far above that of guessing, log {self.classes} = "
                    f"{record['chance']:.2f}: try a smaller --rate than {record['rate']:g}"
                )
            case "chance":
                say(
                    f"epoch {record['epoch']}: the loss stands at that of guessing, log {self.classes} = "
                    f"{record['chance']:.2f}: nothing is learned; try --recipe small, or --bias 0.1 --noise 0"
                )

    def _show(self, record, state):
        """Of all steps, so that the time left is the run's; its patience may end it before."""
        epochs = self.recipe.epochs
        self.progress.update(
            f"epoch {record['epoch'] + 1}/{epochs}, step", record["step"], self.steps, state,
            at_most=self.recipe.schedule is None,
        )  # fmt: skip


def _batch_that_fits(settings, devices, memory):
    from tinyalex.measure.describe import largest_batch
    from tinyalex.measure.traffic import by_winograd
    from tinyalex.ops.cuda import implicit_gemm, winograd

    network, ranks = settings.network, len(devices.split(","))
    batch = settings.recipe.batch // settings.accumulate
    memory -= implicit_gemm.SCRATCH_BYTES  # what describe does not count: a layer's partial sums,
    if any(by_winograd(place, batch) for place in network.plan(ranks)):
        memory -= winograd.SCRATCH_BYTES  # and its tiles
    fits = largest_batch(network, ranks, memory)
    if fits >= batch:
        return f"a batch of {batch} should just fit by `tinyalex describe`: try a smaller one"
    if not fits:
        return "not one image would fit"
    parts = next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= fits)
    return f"in place of {batch}, a batch of {fits} images would fit, or --accumulate {parts}"
