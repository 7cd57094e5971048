"""The command line: one thin command for each capability."""

import contextlib
import sys
from itertools import permutations
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from tinyalex import cli_exchange
from tinyalex import devices as device_names
from tinyalex.comm import launch
from tinyalex.errors import ArgumentError, DataError, DeviceError, DeviceMemoryError, TinyalexError

app = typer.Typer(
    help="AlexNet written out by hand, on NumPy or CuPy arrays.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(markup=False, highlight=False, soft_wrap=True)
error_console = Console(stderr=True, markup=False, highlight=False)
LAST_HIDDEN = "gather8"  # its output are the 4096 features that the last layer reads

Devices = Annotated[
    str | None,
    typer.Option(
        help="One rank each: cpu:0,cpu:1 or cuda:0,cuda:1; cpu: cores; under mpiexec: mpi, mpi:cuda.",
        show_default="cpu",
    ),
]


@app.callback()
def _commands():
    """AlexNet written out by hand, on NumPy or CuPy arrays."""


@app.command("check-grads")
def check_grads(seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0):
    """Compare every operation's gradient with its difference quotient; exit code 1 if one fails."""
    from tinyalex.gradtable import print_table, run

    raise typer.Exit(print_table(run(seed), console))


@app.command()
def doctor():
    """Say what devices and libraries are here, test every operation on each; exit code 1 if one is wrong."""
    from tinyalex.doctor import print_report

    raise typer.Exit(print_report(console))


@app.command("relu-vs-tanh")
def relu_vs_tanh(
    data: Annotated[
        str,
        typer.Option(help="auto (CIFAR-10 where it is on disk, else shapes), shapes, cifar10 or its PATH."),
    ] = "auto",
    devices: Devices = None,
    out: Annotated[Path, typer.Option(help="Where the figure, curves and summary go.")] = Path(
        "relu-vs-tanh"
    ),
    full: Annotated[
        bool, typer.Option("--full", help="All 50,000 CIFAR-10 pictures, until both networks arrive.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="How many times each network is trained.", min=1)] = 1,
):
    """Figure 1 of the paper: train a four-layer network with ReLU and with tanh, draw the error curves.

    An interrupted run continues where it stopped when the same command is given again.
    """
    from tinyalex import relu_vs_tanh as figure1

    name, images = _pictures(data, full)
    plan = figure1.FULL if full else figure1.QUICK
    images = figure1.first(images, plan.pictures)
    plan = plan._replace(data=name, seeds=tuple(range(seeds)))
    summary = figure1.run(images, plan, device_names.parse(devices or "cpu", figure1.BATCH), out, console)
    for seed, ratio in summary["ratio_of_epochs"].items():
        times = f"{ratio:.1f} times the epochs that ReLU needs" if ratio else "no ratio: one did not arrive"
        console.print(f"seed {seed}: to 25% training error tanh needs {times} (the paper: about six)")
    console.print(f"{out / 'relu_vs_tanh.png'}")


def _pictures(data, full):
    from tinyalex.data import cifar10, shapes

    if data == "auto":
        path = cifar10.find()
        data = str(path) if path or full else "shapes"
    if data == "shapes":
        if full:
            raise DataError("--full: expected CIFAR-10, found --data shapes")
        return "shapes", shapes.load()
    path = cifar10.find() or cifar10.fetch() if data == "cifar10" else Path(data)
    return "CIFAR-10", cifar10.load(path)


@app.command()
def lessons(
    folder: Annotated[Path, typer.Argument(help="Where your copies go.")] = Path("tinyalex-lessons"),
    html: Annotated[
        Path | None, typer.Option(help="Write the course as static pages into this folder instead.")
    ] = None,
):
    """Copy the lessons to a folder and open them in JupyterLab; what is there already is left alone."""
    from tinyalex.lessons import course, site

    if html:
        pages = site.build(html)
        console.print(f"{len(pages)} pages: open {pages[0]}")
        return
    copied, left = course.copy(folder)
    console.print(f"{folder}: {len(copied)} files copied")
    if left:
        console.print(f"there already, and left as they are: {', '.join(left)}")
    raise typer.Exit(course.open_lab(folder))


prepare_app = typer.Typer(help="Turn a data set into the form that training reads.", no_args_is_help=True)
app.add_typer(prepare_app, name="prepare")
figure_app = typer.Typer(help="Draw a picture from a run or a checkpoint.", no_args_is_help=True)
app.add_typer(figure_app, name="figure")

Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint, or a run folder: its newest checkpoint.")]
DataSet = Annotated[Path, typer.Argument(help="A folder made by `tinyalex prepare`, or CIFAR-10.")]
Split = Annotated[str, typer.Option(help="train or val.")]
Views = Annotated[int, typer.Option(help="Views of each picture: 1 (centre) or 10 (paper, section 4.1).")]
Preset = Annotated[str, typer.Option(help="paper, code2012, half or caffe.")]
Width = Annotated[float, typer.Option(help="Factor on the numbers of filters and hidden units.")]


@app.command()
def describe(
    model: Annotated[str, typer.Argument(help="alexnet.")] = "alexnet",
    preset: Preset = "paper",
    devices: Devices = None,
    batch: Annotated[int, typer.Option(help="Images in a training step.", min=1)] = 128,
    size: Annotated[int | None, typer.Option(help="Side of the picture in pixels.")] = None,
    width: Width = 1.0,
    towers: Annotated[
        int | None, typer.Option(help="1: no towers, every kernel sees all maps below it.", min=1)
    ] = None,
    memory: Annotated[str | None, typer.Option(help="Does a device of, say, 3GiB hold it?")] = None,
):
    """Print the network layer by layer: shapes, parameters, multiply-adds, memory, bytes that cross."""
    from tinyalex import describe as description

    if model != "alexnet":
        raise DataError(f"describe: expected alexnet, found {model!r}")
    held = description.parse_memory(memory) if memory else None
    network = _network(preset, width, size, None)
    network = network._replace(towers=towers or network.towers)
    ranks = len(_devices(devices, network).split(","))
    description.print_description(description.describe(network, ranks, batch), console, held)


@app.command()
def bench(
    what: Annotated[
        str, typer.Argument(help="alexnet, cifar4 (Figure 1), or a layer of AlexNet.")
    ] = "alexnet",
    preset: Preset = "paper",
    lrn: Annotated[bool, typer.Option(help="AlexNet with local response normalization.")] = True,
    neuron: Annotated[str, typer.Option(help="Of cifar4: relu, tanh or logistic.")] = "relu",
    devices: Devices = None,
    batch: Annotated[int, typer.Option(help="Images in a step.", min=1)] = 128,
    rounds: Annotated[int, typer.Option(help="Rounds measured.", min=1)] = 5,
    forward: Annotated[bool, typer.Option("--forward", help="The forward pass only.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="A table of layers.")] = False,
    vs: Annotated[str | None, typer.Option(help="torch (as people write it) or torch-tuned.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
):
    """Time training: images/s, time by layer, share of the matrix products' limit, PyTorch beside it."""
    from tinyalex import bench as benchmark

    if vs not in (None, "torch", "torch-tuned"):
        raise DataError(f"--vs: expected torch or torch-tuned, found {vs!r}")
    network = _network(preset, 1.0, None, None)._replace(lrn=lrn)
    benchmark.check(what, network)
    if what == "cifar4":
        chosen = device_names.parse(devices or "cpu", batch)
    else:
        chosen = device_names.parse(_devices(devices, network))
    if vs and chosen[0].kind == "cuda":
        raise DataError(f"--vs {vs}: PyTorch is timed on the CPU only; leave it out with --devices {devices}")
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=error_console
    ) as bar:
        task = bar.add_task("rounds", total=rounds)
        found = benchmark.measure(
            what, network, neuron, chosen, batch, rounds, vs, forward, lambda _: bar.advance(task)
        )
    if as_json:
        print(benchmark.to_json(found))
    else:
        benchmark.print_result(found, console, layers)


@prepare_app.command("imagenet")
def prepare_imagenet(
    src: Annotated[Path, typer.Argument(help="ILSVRC folders or tars, or any folder of class folders.")],
    dst: Annotated[Path, typer.Argument(help="Where the shards go.")],
    size: Annotated[int, typer.Option(help="Side of the stored pictures in pixels.", min=1)] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the order of the pictures.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Processes; every core by default.", min=1)] = None,
):
    """Cut every picture to its middle square and write shards; a killed run continues."""
    from tinyalex.data import imagenet

    done = imagenet.prepare(src, dst, size=size, seed=seed, workers=workers)
    counts = ", ".join(f"{n:,} {split}" for split, n in done.counts.items())
    console.print(f"{counts} pictures of {done.classes:,} classes in {dst}")
    if done.unreadable:
        console.print(f"{done.unreadable} unreadable, skipped: {dst / 'unreadable.txt'}")


@app.command()
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
    rate: Annotated[float | None, typer.Option(help="First learning rate, instead of the preset's.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better error before the rate drops.", min=1)
    ] = None,
    noise: Annotated[float | None, typer.Option(help="Colour noise, instead of the preset's.")] = None,
    bias: Annotated[float | None, typer.Option(help="First biases, instead of the preset's 1.")] = None,
    dropout: Annotated[bool, typer.Option(help="Drop half of the hidden units in training.")] = True,
    width: Width = 1.0,
    size: Annotated[int | None, typer.Option(help="Side of the crop that the network sees.")] = None,
    upscale: Annotated[int | None, typer.Option(help="Enlarge pictures to this side first.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    save_every: Annotated[
        int, typer.Option(help="Steps between checkpoints; one is written at the end too.", min=1)
    ] = 500,
    keep: Annotated[int, typer.Option(help="Checkpoints kept.", min=1)] = 3,
):
    """Train AlexNet.  Ctrl-C finishes the step, writes a checkpoint and ends; `tinyalex resume` goes on."""
    from tinyalex.recipe import PRESETS
    from tinyalex.settings import Settings, open_data

    opened = open_data(data)
    network = _network(preset, width, size, len(opened.classes))
    if bias is not None:
        network = network._replace(bias=bias)
    if (recipe or preset) not in PRESETS:
        raise DataError(f"--recipe: expected one of {', '.join(PRESETS)}, found {recipe!r}")
    r = PRESETS[recipe or preset]
    chosen = {"epochs": epochs, "batch": batch, "rate": rate, "patience": patience}
    r = r._replace(**{name: value for name, value in chosen.items() if value is not None})
    offsets = r.pictures.offsets if size is None else None
    pictures = r.pictures._replace(crop=network.size, offsets=offsets)
    r = r._replace(pictures=pictures if noise is None else pictures._replace(noise=noise))
    network = network._replace(dropout=dropout)
    settings = Settings(str(data.resolve()), preset, network, r, seed, upscale, save_every, keep)
    _go(out, settings, opened, devices, new=True)


@app.command()
def resume(out: Annotated[Path, typer.Argument(help="The run's folder.")], devices: Devices = None):
    """Go on with a run from its newest checkpoint, on any number of devices that its towers allow."""
    from tinyalex import run
    from tinyalex.settings import open_data

    settings = run.settings_of(out)
    _go(out, settings, open_data(settings.data), devices)


def _go(out, settings, data, devices, new=False):
    """Train in the run folder, with a live display; exit code 130 if it was stopped."""
    from tinyalex import run

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
                progress.update(task, completed=done, description=f"epoch {record['epoch'] + 1}", state=state)
            elif record["kind"] == "train":
                result = f"training loss {record['loss']:.3f}, error {record['error']:.1%}"
                progress.print(f"epoch {record['epoch']}: {result}")
            elif record["kind"] == "validation":
                progress.print(f"  validation top-1 {record['top1']:.1%}, top-5 {record['top5']:.1%}")

        def rank(comm):
            with contextlib.ExitStack() as stack:
                if comm.rank == 0:
                    if new:
                        run.check(settings, data, comm.size)
                        run.begin(out, settings)
                    stack.enter_context(run.lock(out))
                comm.share(None)  # nobody looks into the folder before
                return run.train(comm, out, settings, data, stop, on_event)

        try:
            done = _launch(rank, _devices(devices, settings.network))
        except DeviceMemoryError as error:
            raise DeviceError(f"{error}; {_batch_that_fits(settings, devices, error.available)}") from error
    if not done:
        console.print(f"stopped after a checkpoint; go on with: tinyalex resume {out}")
        raise typer.Exit(130)
    console.print(f"done: {run.checkpoints(out)[-1]}")


def _batch_that_fits(settings, devices, memory):
    from tinyalex.describe import largest_batch
    from tinyalex.ops.cuda.conv import BLOCK_BYTES

    memory -= 2 * BLOCK_BYTES  # what describe does not count: columns, and a block of their product
    batch, ranks = settings.recipe.batch, len(_devices(devices, settings.network).split(","))
    fits = largest_batch(settings.network, ranks, memory)
    if fits >= batch:
        return f"a batch of {batch} should just fit by `tinyalex describe`: try a smaller one"
    return f"in place of {batch}, a batch of {fits} images would fit" if fits else "not one image would fit"


@app.command()
def evaluate(
    data: DataSet,
    checkpoints: Annotated[
        list[Path], typer.Argument(help="One checkpoint or run, or several: an ensemble.")
    ],
    views: Views = 1,
    split: Split = "val",
    weights: Annotated[
        str | None, typer.Option(help="Of an ensemble: comma-separated, equal by default.")
    ] = None,
    devices: Devices = None,
):
    """Print the top-1 and top-5 error of a checkpoint, or of the average of several networks' predictions."""
    from tinyalex import evaluate as testing
    from tinyalex.run import newest

    opened = _open_split(data, split)
    numbers = _numbers(weights, len(checkpoints))
    paths = [newest(path) for path in checkpoints]

    def rank(comm):
        found = []
        for path in paths:
            trained = testing.load(comm, path)
            _same_classes(path, trained, opened)
            with _loader_for(comm, trained, opened, split, views) as loader:
                found.append(testing.probabilities(trained.net, loader))
        return found

    found = _launch(rank, _devices_for(devices, paths[0]))
    labels = found[0][1]
    for path, (p, _) in zip(paths, found, strict=True):
        _print_errors(path, testing.errors(p, labels), len(labels), views)
    if len(found) > 1:
        p = testing.ensemble([p for p, _ in found], numbers)
        _print_errors(f"{len(found)} networks averaged", testing.errors(p, labels), len(labels), views)


@app.command()
def predict(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(help="Pictures: JPEG, PNG, …")],
    views: Views = 10,
    top: Annotated[int, typer.Option(help="How many classes to print.", min=1)] = 5,
    devices: Devices = None,
):
    """Print the most probable classes of pictures."""
    from tinyalex import evaluate as testing
    from tinyalex.run import newest

    path = newest(checkpoint)

    def rank(comm):
        trained = testing.load(comm, path)
        with testing.picture_loader(comm, trained, images, views) as loader:
            return testing.probabilities(trained.net, loader)[0], trained.classes

    probabilities, classes = _launch(rank, _devices_for(devices, path))
    for picture, p in zip(images, probabilities.T, strict=True):
        console.print(str(picture))
        for k in p.argsort()[::-1][:top]:
            console.print(f"  {p[k]:6.1%}  {classes[k]}")


@app.command()
def features(
    checkpoint: Checkpoint,
    data: DataSet,
    out: Annotated[Path, typer.Argument(help="A .npy file: float32 (features, pictures).")],
    split: Split = "val",
    layer: Annotated[str, typer.Option(help="Whose outputs.")] = LAST_HIDDEN,
    devices: Devices = None,
):
    """Write a hidden layer's outputs for every picture of a split, in the order of the split."""
    from tinyalex import evaluate as testing
    from tinyalex.checkpoint import write_array
    from tinyalex.run import newest

    path, opened = newest(checkpoint), _open_split(data, split)

    def rank(comm):
        trained = testing.load(comm, path)
        if layer not in trained.net.layers:
            raise DataError(f"--layer: expected one of {', '.join(trained.net.layers)}, found {layer!r}")
        with _loader_for(comm, trained, opened, split, 1) as loader:
            return testing.features(trained.net, loader, layer)

    found = _launch(rank, _devices_for(devices, path))
    write_array(out, found)
    console.print(f"{out}: {found.shape[0]} features of {found.shape[1]} pictures")


@figure_app.command("kernels")
def figure_kernels(checkpoint: Checkpoint, out: Path = Path("kernels.png")):
    """Figure 3: the kernels of the first layer, one block for each tower."""
    from tinyalex import checkpoint as files
    from tinyalex.figures import kernels_figure
    from tinyalex.models.saved import open_network
    from tinyalex.run import newest

    path = newest(checkpoint)
    settings = open_network(path)[0].settings
    towers = settings.network.towers if settings else 1
    _save(kernels_figure(files.load(path)[0]["conv1.w"], towers), out)


@figure_app.command("predictions")
def figure_predictions(
    checkpoint: Checkpoint,
    data: DataSet,
    out: Path = Path("predictions.png"),
    count: Annotated[int, typer.Option(help="Pictures shown.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Seed of their choice.")] = 0,
    devices: Devices = None,
):
    """Figure 4, left: validation pictures with the five most probable classes."""
    from tinyalex import evaluate as testing
    from tinyalex.figures import predictions_figure
    from tinyalex.run import newest

    source = _open_split(data, "val").val
    path, (pictures, labels) = newest(checkpoint), testing.some_pictures(source, count, seed)

    def rank(comm):
        trained = testing.load(comm, path)
        with testing.array_loader(comm, trained, pictures, 10) as loader:
            return testing.probabilities(trained.net, loader)[0], trained.classes

    probabilities, classes = _launch(rank, _devices_for(devices, path))
    _save(predictions_figure(pictures, probabilities, labels, classes), out)


@figure_app.command("neighbours")
def figure_neighbours(
    checkpoint: Checkpoint,
    data: DataSet,
    out: Path = Path("neighbours.png"),
    count: Annotated[int, typer.Option(help="Validation pictures shown.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Seed of their choice.")] = 0,
    devices: Devices = None,
):
    """Figure 4, right: validation pictures and the training pictures with the nearest features."""
    import numpy as np

    from tinyalex import evaluate as testing
    from tinyalex.figures import neighbours_figure
    from tinyalex.retrieval import nearest
    from tinyalex.run import newest

    opened, path = _open_split(data, "val"), newest(checkpoint)
    pictures, _ = testing.some_pictures(opened.val, count, seed)

    def rank(comm):
        trained = testing.load(comm, path)
        with _loader_for(comm, trained, opened, "train", 1) as loader:
            database = testing.features(trained.net, loader, LAST_HIDDEN)
        with testing.array_loader(comm, trained, pictures, 1) as loader:
            return testing.features(trained.net, loader, LAST_HIDDEN), database

    indices, _ = nearest(*_launch(rank, _devices_for(devices, path)), k=6)
    found = np.stack([testing.pictures_at(opened.train, row) for row in indices.T], axis=-1)
    _save(neighbours_figure(pictures, found), out)


@figure_app.command("curves")
def figure_curves(run: Annotated[Path, typer.Argument(help="A run folder.")], out: Path = Path("curves.png")):
    """Training loss and errors against epochs."""
    from tinyalex.figures import curves_figure

    _save(curves_figure(_metrics(run)), out)


@figure_app.command("sizes")
def figure_sizes(run: Annotated[Path, typer.Argument(help="A run folder.")], out: Path = Path("sizes.png")):
    """Sizes of weights and updates, layer by layer, against steps (the 2012 code's check)."""
    from tinyalex.figures import magnitudes_figure

    _save(magnitudes_figure([r for r in _metrics(run) if r["kind"] == "sizes"]), out)


app.command("export")(cli_exchange.export)
app.command("import")(cli_exchange.import_network)


# ---- what the commands share -------------------------------------------------------------------------


def _devices(devices, network):
    """Return the devices asked for, or a CPU core for each rank that AlexNet's towers allow."""
    from tinyalex.models.alexnet import most_ranks

    return _or_cores(devices, most_ranks(network))


def _devices_for(devices, path):
    """As `_devices`, for the network of a checkpoint."""
    from tinyalex.models.saved import open_network

    return _or_cores(devices, open_network(path)[0].ranks)


def _or_cores(devices, ranks):
    if devices in (None, "cpu"):
        devices = ",".join(f"cpu:{k}" for k in range(min(ranks, device_names.cpu_count())))
    return devices


def _launch(fn, devices):
    """Run fn(comm) on every device; return what rank 0 returned.

    Under MPI the other ranks' processes end here: what a command does with the result, one of them does.
    """
    if devices.startswith("mpi"):
        from tinyalex.mpi import launch_mpi

        rank, result = launch_mpi(lambda comm: (comm.rank, fn(comm)), devices)
        if rank:
            console.quiet = True
            raise typer.Exit
        return result
    return launch(fn, device_names.parse(devices))[0]


def _network(preset, width, size, classes):
    from tinyalex.models.alexnet import PRESETS, narrow

    if preset not in PRESETS:
        raise DataError(f"--preset: expected one of {', '.join(PRESETS)}, found {preset!r}")
    network = PRESETS[preset] if width == 1 else narrow(PRESETS[preset], width)
    return network._replace(size=size or network.size, classes=classes or network.classes)


def _metrics(path):
    """Read a run's records; DataError if there are none yet."""
    from tinyalex.run import metrics

    records = metrics(path)
    if not records:
        raise DataError(f"{path}: expected a run folder with records in metrics.jsonl, found none")
    return records


def _open_split(data, split):
    from tinyalex.settings import open_data

    opened = open_data(data)
    if split not in ("train", "val") or getattr(opened, split) is None:
        raise DataError(f"{data}: expected --split train, or val where there is one; found {split!r}")
    return opened


def _same_classes(path, trained, data):
    if trained.classes != data.classes:
        only = [
            ", ".join(sorted(a - b)[:5]) or "none"
            for a, b in permutations(map(set, (trained.classes, data.classes)))
        ]
        raise DataError(
            f"{path}: was trained on {len(trained.classes)} classes, the data have {len(data.classes)}; "
            f"only in the checkpoint: {only[0]}; only in the data: {only[1]}"
        )


def _loader_for(comm, trained, data, split, views):
    from tinyalex import evaluate as testing

    return testing.view_loader(comm, trained, getattr(data, split), views)


def _numbers(text, count):
    """Read comma-separated weights of an ensemble; None stays None."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise DataError(f"--weights: expected {count} comma-separated numbers, found {text!r}")
    return numbers


def _print_errors(name, errors, pictures, views):
    loss, top1, top5 = errors
    console.print(
        f"{name}: top-1 error {top1:.2%}, top-5 error {top5:.2%}, loss {loss:.4f}  "
        f"({pictures:,} pictures, {views} view{'s' if views > 1 else ''})",
    )


def _save(figure, out):
    try:
        figure.savefig(out, dpi=figure.dpi)
    except ValueError as error:  # a file type that matplotlib cannot write
        raise ArgumentError(f"--out {out}: {error}") from error
    console.print(str(out))


def main():
    """Run the command line; an error that a user can mend is printed without a traceback."""
    try:
        app()
    except (TinyalexError, OSError) as error:
        message = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True, highlight=False).print(message, soft_wrap=True)
        sys.exit(1)
