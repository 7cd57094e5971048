"""The notebooks: where they are, a working copy for the learner, and running them."""

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from tinyalex.errors import DataError, TinyalexError


def folder():
    """Return the folder of the notebooks: a checkout's own, else where the installation put them."""
    root = Path(__file__).parents[2]
    if (root / "pyproject.toml").exists():
        return root / "lessons"
    for file in metadata.files("tinyalex"):
        if file.match("tinyalex/lessons/README.md"):
            return Path(file.locate()).resolve().parent
    raise TinyalexError("lessons: the installation has no notebooks; install tinyalex again")


def notebooks():
    """Return the notebooks' paths, in order."""
    return sorted(folder().glob("[0-9][0-9]_*.ipynb"))


def copy(target):
    """Copy notebooks and map into the folder `target`; return ([copied], [left as they were]) by name.

    A file that is there already is the learner's work: it is never written to.
    """
    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: expected a folder for the lessons, found a file")
    target.mkdir(parents=True, exist_ok=True)
    copied, left = [], []
    for source in [*notebooks(), folder() / "README.md"]:
        try:
            with open(source, "rb") as original, open(target / source.name, "xb") as mine:
                shutil.copyfileobj(original, mine)
            copied.append(source.name)
        except FileExistsError:
            left.append(source.name)
    return copied, left


def need(*modules):
    """TinyalexError if a module of the `lessons` extra is missing."""
    if missing := [name for name in modules if not importlib.util.find_spec(name)]:
        raise TinyalexError(f'{", ".join(missing)}: not installed; run  pip install "tinyalex[lessons]"')


def open_lab(target):
    """Open JupyterLab in the folder and wait until it ends; return its exit code."""
    need("jupyterlab")
    return subprocess.run([sys.executable, "-m", "jupyterlab", str(target)]).returncode


def execute(books, stop=True):
    """Run notebooks (nbformat) to their ends, each in a fresh kernel, one a core at a time.

    Their outputs are filled in.  stop: raise nbclient's CellExecutionError for a cell that fails; else the
    error is left among the cell's outputs.
    Returns the list of seconds that each took.
    """
    need("nbclient", "ipykernel")
    from nbclient import NotebookClient

    settings = {
        "kernel_name": "python3",
        "timeout": 120,  # seconds a cell
        "allow_errors": not stop,
        "extra_arguments": ["--log-level=40"],  # errors only
    }

    async def run(book, slots):
        async with slots:
            start = time.perf_counter()
            await NotebookClient(book, **settings).async_execute()
            return time.perf_counter() - start

    async def run_all():
        slots = asyncio.Semaphore(os.cpu_count() or 1)
        return await asyncio.gather(*(run(book, slots) for book in books))

    return asyncio.run(run_all())
