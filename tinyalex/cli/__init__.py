"""The command line: one thin command for each capability, in the files of this folder."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tinyalex import __version__
from tinyalex.cli import exchange, judge, learn, look, prepare, train
from tinyalex.errors import TinyalexError

app = typer.Typer(
    help="AlexNet written out by hand, on NumPy or CuPy arrays.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked):
    if asked:
        print(f"tinyalex {__version__}")
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
):
    """AlexNet written out by hand, on NumPy or CuPy arrays."""


app.command("check-grads")(learn.check_grads)
app.command("doctor")(learn.doctor)
app.command("relu-vs-tanh")(learn.relu_vs_tanh)
app.command("lessons")(learn.lessons)
app.command("judge")(judge.judge)
app.command("docs")(learn.docs)
app.command("describe")(learn.describe)
app.command("bench")(learn.bench)

prepare_app = typer.Typer(
    cls=prepare.Kinds, help="Turn pictures into the form that training reads.", no_args_is_help=True
)
prepare_app.command("pictures")(prepare.pictures)
prepare_app.command("imagenet", help="The same as pictures: ILSVRC is one form of them.")(prepare.pictures)
app.add_typer(prepare_app, name="prepare")
app.command("train")(train.train)
app.command("resume")(train.resume)

app.command("evaluate")(look.evaluate)
app.command("predict")(look.predict)
app.command("features")(look.features)
figure_app = typer.Typer(help="Draw a picture from a run or a checkpoint.", no_args_is_help=True)
figure_app.command("kernels")(look.figure_kernels)
figure_app.command("predictions")(look.figure_predictions)
figure_app.command("neighbours")(look.figure_neighbours)
figure_app.command("curves")(look.figure_curves)
figure_app.command("sizes")(look.figure_sizes)
app.add_typer(figure_app, name="figure")

app.command("export")(exchange.export)
app.command("import")(exchange.import_network)


def main():
    """Run the command line; an error that a user can mend is printed without a traceback."""
    try:
        app()
    except (TinyalexError, OSError) as error:
        message = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True, highlight=False).print(message, soft_wrap=True)
        sys.exit(1)
