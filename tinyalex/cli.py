"""The command line: one thin command for each capability."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tinyalex import devices as device_names
from tinyalex.errors import DataError, TinyalexError

app = typer.Typer(
    help="AlexNet written out by hand, on NumPy or CuPy arrays.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Devices = Annotated[
    str, typer.Option(help="Comma-separated devices, one rank each; 'cpu' is every core: cpu:0,cpu:1,…")
]


@app.callback()
def _commands():
    """AlexNet written out by hand, on NumPy or CuPy arrays."""


@app.command("check-grads")
def check_grads(seed: Annotated[int, typer.Option(help="Seed of all random draws.")] = 0):
    """Compare every operation's gradient with its difference quotient; exit code 1 if one fails."""
    from tinyalex.gradtable import print_table, run

    raise typer.Exit(print_table(run(seed), console))


@app.command("relu-vs-tanh")
def relu_vs_tanh(
    data: Annotated[
        str,
        typer.Option(help="auto (CIFAR-10 where it is on disk, else shapes), shapes, cifar10 or its PATH."),
    ] = "auto",
    devices: Devices = "cpu",
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
    summary = figure1.run(images, plan, device_names.parse(devices), out, console)
    for seed, ratio in summary["ratio_of_epochs"].items():
        times = f"{ratio:.1f} times the epochs that ReLU needs" if ratio else "no ratio: one did not arrive"
        console.print(f"seed {seed}: to 25% training error tanh needs {times} (the paper: about six)")
    console.print(f"{out / 'relu_vs_tanh.png'}", soft_wrap=True)


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


def main():
    """Run the command line; an error that a user can mend is printed without a traceback."""
    try:
        app()
    except (TinyalexError, OSError) as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {error}", soft_wrap=True)
        sys.exit(1)
