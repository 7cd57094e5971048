"""`tinyalex class`: lessons handed out to a class, and what comes back collected, marked and told of."""

from pathlib import Path
from typing import Annotated

import typer

from tinyalex.cli.common import console
from tinyalex.cli.progress import Progress
from tinyalex.errors import DataError

Folder = Annotated[Path, typer.Argument(help="The class's folder.")]


def new(
    folder: Annotated[Path, typer.Argument(help="A folder for the class: empty, or not there yet.")],
    lessons: Annotated[
        str | None, typer.Option(help="Their numbers, such as 2,4,5.", show_default="all")
    ] = None,
):
    """Begin a class: write the notebooks for the students, without the ways to the solutions."""
    from tinyalex.lessons import classroom

    try:
        numbers = [int(number) for number in lessons.split(",")] if lessons else None
    except ValueError:
        raise DataError(f"--lessons: expected numbers with commas between them, found {lessons!r}") from None
    hand_out = classroom.new(folder, numbers)
    console.print(f"{hand_out}: for the students; the rest of {folder} is for you")


def collect(
    folder: Folder,
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="What came back: folders in which each student has a folder, or files STUDENT_05_….ipynb."
        ),
    ],
):
    """Take notebooks that came back, from JupyterLab or saved by the live course, into the class."""
    from tinyalex.lessons import classroom

    taken, refused = 0, 0
    for path, student, what in classroom.collect(folder, paths):
        if what.startswith("lesson "):
            taken += 1
        else:
            refused += 1
            console.print(f"{path}{f' ({student})' if student else ''}: {what}")
    console.print(f"{taken} notebooks taken, {refused} not")


def mark(folder: Folder):
    """Mark every answer that was collected, each in a locked process; interrupted, it goes on later."""
    from tinyalex.lessons import classroom

    with Progress() as progress:
        now, before = classroom.mark(folder, progress.update)
    console.print(f"{now} answers marked" + (f", {before} were marked before" if before else ""))


def report(folder: Folder):
    """Write marks.csv, answers.csv and report.html: which mistake how often, and what to say next."""
    from tinyalex.lessons import classroom

    for path in classroom.report(folder):
        console.print(str(path))
