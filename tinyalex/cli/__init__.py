"""The command line: one thin command for each capability, in the files of this folder."""

import sys
from pathlib import Path
from typing import Annotated, get_args, get_type_hints

import typer
from rich.console import Console
from typer.core import TyperGroup
from typer.models import ArgumentInfo, OptionInfo

from tinyalex.cli import classroom, exchange, judge, learn, look, prepare, train
from tinyalex.cli.common import print_error
from tinyalex.errors import TinyalexError


class Commands(TyperGroup):
    """All commands; Ctrl-C ends any of them with one line and exit code 130."""

    def invoke(self, ctx):
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            Console(stderr=True).print("stopped")
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Commands,
    help="AlexNet written out by hand, on NumPy or CuPy arrays.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked):
    if asked:
        from tinyalex import __version__

        print(f"tinyalex {__version__}")
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
    layers: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.py",
            help="A Python file with kinds of layers of your own: run first, to open what was made of them.",
        ),
    ] = None,
):
    """AlexNet written out by hand, on NumPy or CuPy arrays."""
    if layers:
        from tinyalex.runs.saved import run_python  # with it comes much that other commands do without

        for path in layers:
            run_python(path)


LETTERS = {int: "N", int | None: "N", float: "X", float | None: "X", bool: ""}


def _terse(function):
    """Return the command; its help calls numbers N and X: at 80 columns the words need the room.

    Arguments are written large, as in README.md.
    """
    for name, hint in get_type_hints(function, include_extras=True).items():
        kind, *about = get_args(hint)
        for word in about:
            if isinstance(word, OptionInfo) and word.metavar is None:
                word.metavar = LETTERS.get(kind)
            elif isinstance(word, ArgumentInfo) and word.metavar is None:
                word.metavar = name.upper()
    return function


def _add(panel, **commands):
    for name, function in commands.items():
        app.command(name.rstrip("_").replace("_", "-"), rich_help_panel=panel)(_terse(function))


_add("Learn", lessons=learn.lessons, check_grads=learn.check_grads, judge=judge.judge, docs=learn.docs)

class_app = typer.Typer(
    help="Hand lessons out to a class; collect, mark and report what comes back.", no_args_is_help=True
)
for step in (classroom.new, classroom.collect, classroom.mark, classroom.report):
    class_app.command(step.__name__)(_terse(step))
app.add_typer(class_app, name="class", rich_help_panel="Learn")

prepare_app = typer.Typer(
    cls=prepare.Kinds, help="Turn pictures into the form that training reads.", no_args_is_help=True
)
prepare_app.command("pictures")(_terse(prepare.pictures))
prepare_app.command("imagenet", help="The same as pictures: ILSVRC is one form of them.")(prepare.pictures)
app.add_typer(prepare_app, name="prepare", rich_help_panel="Train")
_add("Train", train=train.train, resume=train.resume, evaluate=look.evaluate, predict=look.predict)

figure_app = typer.Typer(help="Draw a picture from a run or a checkpoint.", no_args_is_help=True)
for figure in (
    look.figure_kernels,
    look.figure_predictions,
    look.figure_neighbours,
    look.figure_curves,
    look.figure_sizes,
):
    figure_app.command(figure.__name__.removeprefix("figure_"))(_terse(figure))
app.add_typer(figure_app, name="figure", rich_help_panel="Look inside")
_add("Look inside", describe=learn.describe, features=look.features, metrics=look.metrics)

_add("Exchange", export=exchange.export, import_=exchange.import_network)
_add("Measure", relu_vs_tanh=learn.relu_vs_tanh, ablate=learn.ablate, bench=learn.bench, doctor=learn.doctor)


def main():
    """Run the command line; an error that a user can mend is printed without a traceback."""
    try:
        app()
    except (TinyalexError, OSError) as error:
        print_error(error)
        sys.exit(1)
