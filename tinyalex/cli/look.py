"""Commands that look at a trained network: evaluate, predict, features, and the figures."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from tinyalex.cli.common import (
    Checkpoint,
    DataSet,
    Devices,
    Names,
    Out,
    Split,
    Views,
    console,
    data_among,
    devices_for_checkpoints,
    metrics_of,
    named,
    new_file,
    open_split,
    print_error,
    print_scores,
    run_on,
    same_classes,
    save_figure,
    testing_of,
    weights_of,
)
from tinyalex.cli.progress import Progress
from tinyalex.errors import DataError

METRICS = (  # columns of the CSV file
    "epoch", "step", "rate", "training_loss", "training_error", "validation_loss", "validation_error",
    "validation_topk_error",
)  # fmt: skip


def _last_hidden(path, net):
    """Name the layer whose outputs the last fully connected layer reads: the paper's 4096 features."""
    from tinyalex.nn import Linear

    before = [name for name, after in pairwise(net.layers) if isinstance(net.layers[after], Linear)]
    if not before:
        raise DataError(f"{path}: expected a fully connected layer after another layer, found none")
    return before[-1]


def evaluate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN... DATA",
            help="A run or checkpoint, or several: an ensemble; and a folder made by `tinyalex prepare`, or "
            "CIFAR-10.",
        ),
    ],
    views: Annotated[
        int | None,
        typer.Option(
            help="Views of each picture: 1 (centre), 10 (paper, section 4.1), 2011's 9, 50; 150: 50 at three "
            "scales.",
            show_default="1, with --dense none",
        ),
    ] = None,
    dense: Annotated[
        bool,
        typer.Option("--dense", help="Slide the network over whole pictures; with --views, average both."),
    ] = False,
    flips: Annotated[bool, typer.Option("--flips", help="With --dense: mirror images too.")] = False,
    scales: Annotated[
        str | None,
        typer.Option(
            help="Shorter sides to which pictures are rescaled, averaged: 256,384,512.",
            show_default="as it was trained",
        ),
    ] = None,
    split: Split = None,
    weights: Annotated[
        str | None, typer.Option(help="Comma-separated weights of an ensemble's networks; equal by default.")
    ] = None,
    devices: Devices = "cpu",
):
    """Print the top-1 and top-5 error of a checkpoint, or of the average of several networks' predictions."""
    from tinyalex import evaluate as testing
    from tinyalex.runs import trained as reading
    from tinyalex.runs.checkpoint import newest

    test, how = testing_of(views, dense, flips, scales)
    data, checkpoints = data_among(paths)
    if not checkpoints:
        raise DataError(f"evaluate: expected RUN... DATA, found {data} alone")
    numbers = weights_of(weights, len(checkpoints))
    paths = [newest(path) for path in checkpoints]
    opened, pictures = open_split(data, split)

    def rank(comm):
        found = []
        for i, path in enumerate(paths):
            trained = reading.load_classifier(comm, path)
            same_classes(path, trained, opened)

            def on_batch(done, of, i=i, path=path):
                progress.update("evaluating", i * of + done, len(paths) * of, str(path))

            found.append(reading.probabilities_of(comm, trained, pictures, test, on_batch))
        return found

    with Progress() as progress:
        found = run_on(rank, devices_for_checkpoints(devices, *paths))
    labels = found[0][1]
    for path, (p, _) in zip(paths, found, strict=True):
        print_scores(path, p, labels, how)
    if len(found) > 1:
        p = testing.ensemble([p for p, _ in found], numbers)
        print_scores(f"{len(found)} networks averaged", p, labels, how)


def predict(
    checkpoint: Checkpoint,
    images: Annotated[list[Path], typer.Argument(help="Pictures: JPEG, PNG, …")],
    views: Views = 10,
    top: Annotated[int, typer.Option(help="How many classes to print.", min=1)] = 5,
    names: Names = None,
    devices: Devices = "cpu",
):
    """Print the most probable classes of pictures; exit code 1 if one of them cannot be read."""
    from tinyalex import evaluate as testing
    from tinyalex.files import printable
    from tinyalex.runs import trained as reading
    from tinyalex.runs.checkpoint import newest

    path = newest(checkpoint)

    def on_batch(done):
        progress.update("classifying", done, len(images))

    def rank(comm):
        trained, unreadable = reading.load_classifier(comm, path), {}
        with reading.picture_loader(comm, trained, images, views, unreadable) as loader:
            return testing.probabilities(trained.net, loader, on_batch)[0], trained.classes, unreadable

    with Progress() as progress:
        probabilities, classes, unreadable = run_on(rank, devices_for_checkpoints(devices, path))
    classes = named(classes, names)
    readable = [picture for picture in images if picture not in unreadable]
    for picture, p in zip(readable, probabilities.T, strict=True):
        console.print(printable(str(picture)))
        for k in p.argsort()[::-1][:top]:
            console.print(f"  {p[k]:6.1%}  {printable(classes[k])}")
    for error in unreadable.values():
        print_error(error)
    if unreadable:
        raise typer.Exit(1)


def features(
    checkpoint: Checkpoint,
    data: DataSet,
    out: Annotated[Path, typer.Argument(help="A .npy file: float32 (features, pictures).")],
    split: Split = None,
    layer: Annotated[
        str | None,
        typer.Option(
            help="Layer whose outputs are written.", show_default="the input of the last fully connected one"
        ),
    ] = None,
    devices: Devices = "cpu",
):
    """Write a hidden layer's outputs for every picture of a split, in the order of the split."""
    from tinyalex import evaluate as testing
    from tinyalex.files import write_array
    from tinyalex.runs import trained as reading
    from tinyalex.runs.checkpoint import newest

    new_file(out)
    data, (checkpoint,) = data_among([checkpoint, data])
    path = newest(checkpoint)
    new_file(out, path)
    _, pictures = open_split(data, split)

    def on_batch(done):
        progress.update("features", done, len(pictures.labels))

    def rank(comm):
        trained = reading.load(comm, path)
        chosen = layer or _last_hidden(path, trained.net)
        if chosen not in trained.net.layers:
            raise DataError(f"--layer: expected one of {', '.join(trained.net.layers)}, found {chosen!r}")
        with reading.view_loader(comm, trained, pictures, 1) as loader:
            return testing.features(trained.net, loader, chosen, on_batch)

    with Progress() as progress:
        found = run_on(rank, devices_for_checkpoints(devices, path))
    write_array(out, found)
    console.print(f"{out}: {found.shape[0]} features of {found.shape[1]:,} pictures")


def figure_kernels(checkpoint: Checkpoint, out: Out = Path("kernels.png")):
    """Figure 3: the kernels of the first layer, one block for each tower."""
    from tinyalex.look.figures import kernels_figure
    from tinyalex.nn import Conv2d
    from tinyalex.runs import checkpoint as files
    from tinyalex.runs.saved import open_network

    path = files.newest(checkpoint)
    saved = open_network(path)
    placed = [place for place in saved.network.plan() if isinstance(place.layer, Conv2d)]
    if not placed or placed[0].x[0] != 3:
        found = f"one of {placed[0].x[0]}" if placed else "none"
        raise DataError(f"{path}: expected a first convolution of three channels, found {found}")
    weights = files.load(path)[0][f"{placed[0].layer.name}.w"]
    if saved.pictures and saved.pictures.order == "BGR":
        weights = weights[:, ::-1]
    towers = placed[1].layer.groups if len(placed) > 1 else 1  # in which its maps are read
    save_figure(kernels_figure(weights, towers), out)


def figure_predictions(
    checkpoint: Checkpoint,
    data: DataSet,
    out: Out = Path("predictions.png"),
    count: Annotated[int, typer.Option(help="Pictures shown.", min=1)] = 8,
    seed: Annotated[int, typer.Option(help="Seed of the choice of pictures.", min=0)] = 0,
    names: Names = None,
    devices: Devices = "cpu",
):
    """Figure 4, left: validation pictures with the five most probable classes."""
    from tinyalex import evaluate as testing
    from tinyalex.look.figures import predictions_figure
    from tinyalex.runs import trained as reading
    from tinyalex.runs.checkpoint import newest

    data, (checkpoint,) = data_among([checkpoint, data])
    path = newest(checkpoint)
    opened, source = open_split(data)
    pictures, labels = reading.some_pictures(source, count, seed)

    def on_batch(done):
        progress.update("classifying", done, len(labels))

    def rank(comm):
        trained = reading.load_classifier(comm, path)
        same_classes(path, trained, opened)
        with reading.array_loader(comm, trained, pictures, 10) as loader:
            return testing.probabilities(trained.net, loader, on_batch)[0], trained.classes

    with Progress() as progress:
        probabilities, classes = run_on(rank, devices_for_checkpoints(devices, path))
    save_figure(predictions_figure(pictures, probabilities, labels, named(classes, names)), out)


def figure_neighbours(
    checkpoint: Checkpoint,
    data: DataSet,
    out: Out = Path("neighbours.png"),
    count: Annotated[int, typer.Option(help="Validation pictures shown.", min=1)] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the choice of pictures.", min=0)] = 0,
    devices: Devices = "cpu",
):
    """Figure 4, right: validation pictures and the training pictures with the nearest features."""
    import numpy as np

    from tinyalex import evaluate as testing
    from tinyalex.look.figures import neighbours_figure
    from tinyalex.look.retrieval import nearest
    from tinyalex.runs import trained as reading
    from tinyalex.runs.checkpoint import newest

    data, (checkpoint,) = data_among([checkpoint, data])
    path = newest(checkpoint)
    opened, source = open_split(data)
    if opened.train is None:
        raise DataError(f"{data}: expected a split 'train', found val")
    pictures, labels = reading.some_pictures(source, count, seed)

    def on_batch(done):
        progress.update("features", done, len(opened.train.labels))

    def rank(comm):
        trained = reading.load(comm, path)
        hidden = _last_hidden(path, trained.net)
        with reading.view_loader(comm, trained, opened.train, 1) as loader:
            database = testing.features(trained.net, loader, hidden, on_batch)
        with reading.array_loader(comm, trained, pictures, 1) as loader:
            return testing.features(trained.net, loader, hidden), database

    with Progress() as progress:
        queries, database = run_on(rank, devices_for_checkpoints(devices, path))
    own = int(source is opened.train)  # the nearest is the picture itself
    indices = nearest(queries, database, min(6 + own, database.shape[1]))[0][own:]
    found = np.stack([reading.pictures_at(opened.train, row) for row in indices.T], axis=-1)
    names = np.array(opened.classes)
    found_names = names[np.asarray(opened.train.labels)[indices]]
    save_figure(neighbours_figure(pictures, found, names[labels], found_names), out)


def figure_curves(run: Annotated[Path, typer.Argument(help="A run folder.")], out: Out = Path("curves.png")):
    """Training loss and errors against epochs."""
    from tinyalex.evaluate import guesses
    from tinyalex.look.figures import curves_figure
    from tinyalex.runs.run import settings_of

    records = metrics_of(run)
    save_figure(curves_figure(records, guesses(*settings_of(run).network.outputs)), out)


def metrics(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Argument(help="The CSV file.", show_default="RUN/metrics.csv")] = None,
):
    """Write a run's losses, errors and rates as CSV, one row per epoch, from its metrics.jsonl."""
    import csv
    import io

    from tinyalex.files import write_text

    rows = {}
    for record in metrics_of(run):
        row = rows.setdefault(record["epoch"], {"epoch": record["epoch"]})
        match record["kind"]:
            case "train":
                row |= {"step": record["step"], "rate": record["rate"]}
                row |= {"training_loss": record["loss"], "training_error": record["error"]}
            case "validation":
                row |= {"validation_loss": record["loss"], "validation_error": record["top1"]}
                row |= {"validation_topk_error": record["top5"]}
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, METRICS, restval="", lineterminator="\n")
    writer.writeheader()
    epochs = [row for row in rows.values() if len(row) > 1]
    writer.writerows(epochs)
    out = new_file(out or run / "metrics.csv")
    write_text(out, text.getvalue())
    console.print(f"{out}: {len(METRICS)} columns, {len(epochs)} epoch{'s' * (len(epochs) != 1)}")


def figure_sizes(run: Annotated[Path, typer.Argument(help="A run folder.")], out: Out = Path("sizes.png")):
    """Sizes of weights and updates, layer by layer, against steps (the 2012 code's check)."""
    from tinyalex.look.figures import magnitudes_figure

    save_figure(magnitudes_figure(metrics_of(run)), out)
