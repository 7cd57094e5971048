"""What the commands share: options, consoles, devices, networks, and how results are shown."""

from itertools import permutations
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tinyalex import devices as device_names
from tinyalex.comm import launch
from tinyalex.errors import ArgumentError, DataError

console = Console(markup=False, highlight=False, soft_wrap=True)
error_console = Console(stderr=True, markup=False, highlight=False)

Devices = Annotated[
    str | None,
    typer.Option(
        help="One rank each: cpu:0,cpu:1 or cuda:0,cuda:1; cpu: cores; under mpiexec: mpi, mpi:cuda.",
        show_default="cpu",
    ),
]
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint, or a run folder: its newest checkpoint.")]
DataSet = Annotated[Path, typer.Argument(help="A folder made by `tinyalex prepare`, or CIFAR-10.")]
Split = Annotated[str, typer.Option(help="train or val.")]
Views = Annotated[int, typer.Option(help="Views of each picture: 1 (centre) or 10 (paper, section 4.1).")]
Preset = Annotated[str, typer.Option(help="paper, code2012, half or caffe.")]
Width = Annotated[float, typer.Option(help="Factor on the numbers of filters and hidden units.")]


def devices_for_network(devices, network):
    """Return the devices asked for, or a CPU core for each rank that AlexNet's towers allow."""
    from tinyalex.models.alexnet import most_ranks

    return or_cores(devices, most_ranks(network))


def devices_for_checkpoint(devices, path):
    """As `devices_for_network`, for the network of a checkpoint."""
    from tinyalex.models.saved import open_network

    return or_cores(devices, open_network(path).ranks)


def or_cores(devices, ranks):
    if devices in (None, "cpu"):
        devices = ",".join(f"cpu:{k}" for k in range(min(ranks, device_names.cpu_count())))
    return devices


def run_on(fn, devices):
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


def network_of(preset, width, size, classes):
    from tinyalex.models.alexnet import PRESETS, narrow

    if preset not in PRESETS:
        raise DataError(f"--preset: expected one of {', '.join(PRESETS)}, found {preset!r}")
    network = PRESETS[preset] if width == 1 else narrow(PRESETS[preset], width)
    return network._replace(size=size or network.size, classes=classes or network.classes)


def metrics_of(path):
    """Read a run's records; DataError if there are none yet."""
    from tinyalex.run import metrics

    records = metrics(path)
    if not records:
        raise DataError(f"{path}: expected a run folder with records in metrics.jsonl, found none")
    return records


def open_split(data, split):
    from tinyalex.settings import open_data

    opened = open_data(data)
    if split not in ("train", "val") or getattr(opened, split) is None:
        raise DataError(f"{data}: expected --split train, or val where there is one; found {split!r}")
    return opened


def same_classes(path, trained, data):
    if trained.classes != data.classes:
        only = [
            ", ".join(sorted(a - b)[:5]) or "none"
            for a, b in permutations(map(set, (trained.classes, data.classes)))
        ]
        raise DataError(
            f"{path}: was trained on {len(trained.classes)} classes, the data have {len(data.classes)}; "
            f"only in the checkpoint: {only[0]}; only in the data: {only[1]}"
        )


def loader_for(comm, trained, data, split, views):
    from tinyalex import evaluate as testing

    return testing.view_loader(comm, trained, getattr(data, split), views)


def weights_of(text, count):
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


def print_errors(name, errors, pictures, views):
    loss, top1, top5 = errors
    console.print(
        f"{name}: top-1 error {top1:.2%}, top-5 error {top5:.2%}, loss {loss:.4f}  "
        f"({pictures:,} pictures, {views} view{'s' if views > 1 else ''})",
    )


def save_figure(figure, out):
    try:
        figure.savefig(out, dpi=figure.dpi)
    except ValueError as error:  # a file type that matplotlib cannot write
        raise ArgumentError(f"--out {out}: {error}") from error
    console.print(str(out))
