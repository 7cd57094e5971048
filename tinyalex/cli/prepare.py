"""The commands that turn a data set into the form that training reads."""

from pathlib import Path
from typing import Annotated

import typer

from tinyalex.cli.common import console


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
