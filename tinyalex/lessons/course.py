"""The notebooks: where they are, a working copy for the learner, and running them; the page to touch."""

import asyncio
import importlib.util
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata, resources
from pathlib import Path

from tinyalex.errors import DataError, TinyalexError
from tinyalex.lessons.sandbox import ONE_THREAD


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


def touch_page():
    """Return the page on which backward can be touched, its two modules inside: it opens from a disk as well.

    Its links are those of the learner's copies, beside whose folder `touch` the notebooks lie.
    """
    folder = resources.files("tinyalex.lessons").joinpath("touch")
    page, touch, maths = (
        folder.joinpath(name).read_text(encoding="utf-8") for name in ("index.html", "touch.js", "maths.js")
    )
    maths, touch = re.sub("(?m)^export ", "", maths), re.sub("(?m)^import .*\n", "", touch)
    return page.replace('<script type="module" src="touch.js">', f'<script type="module">\n{maths}\n{touch}')


def copy(target):
    """Copy notebooks, map and the page to touch into the folder `target`; return their names.

    Two lists: those copied, and those left as they were.
    A file that is there already is the learner's work: it is never written to.
    """
    if target.exists() and not target.is_dir():
        raise DataError(f"{target}: expected a folder for the lessons, found a file")
    (target / "touch").mkdir(parents=True, exist_ok=True)
    files = {path.name: path.read_bytes() for path in [*notebooks(), folder() / "README.md"]}
    files["touch/index.html"] = touch_page().encode()
    copied, left = [], []
    for name, content in files.items():
        try:
            with open(target / name, "xb") as mine:
                mine.write(content)
            copied.append(name)
        except FileExistsError:
            left.append(name)
    return copied, left


def need(*modules):
    """TinyalexError if a module of the `lessons` extra is missing."""
    if missing := [name for name in modules if not importlib.util.find_spec(name)]:
        raise TinyalexError(f'{", ".join(missing)}: not installed; run  pip install "tinyalex[lessons]"')


def lab_command(target, options=()):
    """Return the command that opens the first lesson in JupyterLab, in the folder of the copies.

    options: JupyterLab's own.  TinyalexError if it is not installed.
    """
    need("jupyterlab")
    command = [sys.executable, "-m", "jupyterlab", str(target)]
    command.append(f"--LabApp.default_url=/lab/tree/{notebooks()[0].name}")
    if hasattr(os, "geteuid") and os.geteuid() == 0 and "--allow-root" not in options:
        command.append("--allow-root")  # in a container; JupyterLab wants to be told
    return [*command, *options]


def open_lab(command):
    """Run JupyterLab and wait until it ends; return its exit code.  Ctrl-C is for it alone."""
    process = subprocess.Popen(command)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            pass


class _Stopped(Exception):
    """Raised before a cell that is not to be run any more."""


def execute(books, stop=True, on_cell=lambda done, of: None):
    """Run notebooks (nbformat) to their ends, each in a fresh kernel, one a core at a time.

    Their outputs are filled in.  stop: raise nbclient's CellExecutionError for a cell that fails; else the
    error is left among the cell's outputs.  on_cell(done, of) is called after each cell of code.
    Returns the list of seconds that each took.
    """
    need("nbclient", "ipykernel")
    from nbclient import NotebookClient

    books = list(books)
    done, of = itertools.count(1), sum(cell.cell_type == "code" for book in books for cell in book.cells)
    stop_now = threading.Event()

    def before(cell, cell_index):
        if stop_now.is_set():
            raise _Stopped

    def after(cell, cell_index):
        if cell.cell_type == "code":
            on_cell(next(done), of)

    # as many kernels as cores: more threads in each would only wait for one another
    environment = os.environ | ONE_THREAD
    settings = {
        "on_cell_start": before,
        "on_cell_complete": after,
        "kernel_name": "python3",
        "timeout": 600,  # seconds a cell: the machine may be busy
        "allow_errors": not stop,
        "extra_arguments": ["--log-level=40"],  # errors only
    }

    async def run(book, slots):
        async with slots:
            start = time.perf_counter()
            try:
                if not stop_now.is_set():
                    await NotebookClient(book, **settings).async_execute(env=environment)
            except BaseException:
                stop_now.set()
                raise
            return time.perf_counter() - start

    async def run_all():
        slots = asyncio.Semaphore(os.cpu_count() or 1)
        found = await asyncio.gather(*(run(book, slots) for book in books), return_exceptions=True)
        for error in found:
            if isinstance(error, BaseException) and not isinstance(error, _Stopped):
                raise error
        return found

    # In a thread: in the main one nbclient would answer Ctrl-C by itself, and leave kernels and tracebacks.
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(asyncio.run, run_all())
        try:
            return running.result()
        except KeyboardInterrupt:
            stop_now.set()  # each kernel ends after its cell
            running.exception()
            raise
