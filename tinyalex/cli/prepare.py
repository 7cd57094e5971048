"""The command that makes pictures into what training reads: prepare."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from tinyalex.cli.common import console
from tinyalex.cli.progress import Progress
from tinyalex.errors import DataError


class Kinds(TyperGroup):
    """The kinds of data that can be prepared; another word gets the line to type instead."""

    def resolve_command(self, ctx, args):
        """Find the command that args begin with, or say what was meant."""
        if args[0] in self.commands or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        if args[0].casefold().replace("-", "") == "cifar10":
            raise DataError("CIFAR-10 needs no preparing: tinyalex train cifar10 RUN")
        line = shlex.join(args if len(args) > 1 else [*args, "DST"])
        raise DataError(
            f"prepare: expected {' or '.join(self.commands)}, found {args[0]!r}; "
            f"for a folder of pictures: tinyalex prepare pictures {line}"
        )


def pictures(
    src: Annotated[
        Path,
        typer.Argument(
            help="A folder of class folders (SRC/cat/1.jpg, …) or of splits of them (SRC/train/cat/1.jpg, …, "
            "SRC/val/cat/9.jpg, …; also training, valid, test and so on), or ILSVRC's tars."
        ),
    ],
    dst: Annotated[Path, typer.Argument(help="Where the shards go: a folder, new or empty, outside of SRC.")],
    val: Annotated[
        float | None,
        typer.Option(
            help="Hold out this share of each class for validation, such as 0.1.", show_default=False
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the stored pictures in pixels: squares.", min=1, show_default="256"),
    ] = None,
    side: Annotated[
        int | None,
        typer.Option(
            help="Keep whole pictures, their shorter side of so many pixels: for VGG's --scale, and --dense. "
            "512: about 1 MB each.",
            min=1,
        ),
    ] = None,
    exif: Annotated[
        bool | None,
        typer.Option(
            help="Turn photographs upright, as the camera noted.", show_default="all but ILSVRC's, as in 2012"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order, and of what is held out.", min=0)] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Processes that read and write.", show_default="every core", min=1)
    ] = None,
):
    """Cut every picture to its middle square and write shards; run again, it goes on, or verifies them."""
    from tinyalex.data import imagenet
    from tinyalex.files import printable

    if size and side:
        raise DataError("--side: keeps whole pictures, --size cuts squares: expected one of them, found both")
    with Progress() as progress:

        def report(found):
            for line in found.lines():
                progress.print(line)

        done = imagenet.prepare(
            src, dst, size=side or size or 256, whole=side is not None, seed=seed, val=val, exif=exif,
            workers=workers, report=report, progress=progress.update,
        )  # fmt: skip
    counts = ", ".join(f"{n:,} {split}" for split, n in done.counts.items())
    classes = "1 class" if done.classes == 1 else f"{done.classes:,} classes"
    whole = ", whole: every shard has its SHA-256" if done.verified else ""
    console.print(f"{counts} pictures of {classes} in {printable(str(dst))}{whole}")
    if done.unreadable:
        console.print(f"{done.unreadable:,} unreadable, skipped: {printable(str(dst / 'unreadable.txt'))}")
    if done.enlarged:
        of = f"{done.enlarged:,} of {sum(done.counts.values()):,} pictures"
        console.print(
            f"{of} were smaller than {side or size or 256} pixels, and are enlarged: --size, --side"
        )
    if "val" not in done.counts:
        console.print(f"no validation pictures: put some in {printable(str(src / 'val'))}, or --val 0.1")
