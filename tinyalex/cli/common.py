"""What the commands share: options, consoles, devices, networks, and how results are shown."""

import contextlib
import math
import re
import warnings
from itertools import permutations
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from tinyalex import devices as device_names
from tinyalex.cli import terminal
from tinyalex.comm import launch
from tinyalex.errors import DataError, few, reason

terminal.settle()
console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
error_console = Console(stderr=True, markup=False, emoji=False, highlight=False)

_RANKS = (
    "Devices, one rank each: cpu:0,cpu:1 or cuda:0,cuda:1; cpu, cuda: as many as can share the work evenly"
)
ThreadDevices = Annotated[str, typer.Option(help=f"{_RANKS}.")]
Devices = Annotated[str, typer.Option(help=f"{_RANKS}; mpi, mpi:cuda (mpiexec).")]
Checkpoint = Annotated[
    Path, typer.Argument(metavar="RUN", help="A checkpoint, or a run folder: its newest checkpoint.")
]
DataSet = Annotated[
    Path,
    typer.Argument(
        help="A folder made by `tinyalex prepare`, CIFAR-10's, cifar10: found or fetched, or shapes."
    ),
]
Names = Annotated[
    Path | None,
    typer.Option(
        help="A text file whose lines begin with the classes' names and go on in words: n02123045 cat."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="Pictures: train or val.", show_default="val, or train where there is no other"),
]


def _views(number):
    if number not in (1, 10):
        raise DataError(f"--views: expected 1 or 10, found {number}")
    return number


def testing_of(views, dense, flips, scales):
    """Return the `Test` that evaluate's options mean, and its words."""
    from tinyalex.runs.trained import Test

    if views not in (None, 1, 9, 10, 50, 150):
        raise DataError(f"--views: expected 1, 9, 10, 50 or 150, found {views}")
    if flips and not dense:
        raise DataError("--flips: belongs to --dense; 10, 50 and 150 views have their mirror images")
    views = (0 if dense else 1) if views is None else views
    sides = None if scales is None else scales_of("--scales", scales)
    words = ["dense" + " with mirror images" * flips] * dense
    words += [f"{views} view{'s' if views > 1 else ''}"] * bool(views)
    at = f" at {', '.join(map(str, sides))} pixels" if sides else ""
    return Test(views, dense, flips, sides), " and ".join(words) + at


Views = Annotated[
    int,
    typer.Option(help="Views of each picture: 1 (centre) or 10 (paper, section 4.1).", callback=_views),
]
_NETWORK = (
    "A network: paper, code2012, half, caffe, small, cifar4, cifar-18pct, vgg-d …; a checkpoint or run; "
    "FILE.py or FILE.json"
)
NetworkArgument = Annotated[str, typer.Argument(metavar="NETWORK", help=f"{_NETWORK}.")]
NetworkOption = Annotated[str | None, typer.Option(help=f"{_NETWORK}.", show_default="paper")]
OldNetworkOption = Annotated[
    str | None, typer.Option("--preset", hidden=True, help="The old name of --network.")
]
Plain = Annotated[
    bool, typer.Option("--plain", help="Run the plain operations, to step through: the same, but slower.")
]
Width = Annotated[float, typer.Option(help="Factor on the numbers of filters and hidden units.", min=0.001)]


Parallel = Annotated[
    str | None,
    typer.Option(
        help="How devices share the work: model (layers), data (the batch), hybrid, hybrid:b or "
        "hybrid:variable; by default model for a network of towers, else data."
    ),
]


def devices_for_network(devices, network, parallel=None, batch=1):
    """Return the devices asked for, spelled out; "cpu": a core for each rank that can share a step."""
    from tinyalex.parallel import most_ranks, usual

    return _spelled(devices, most_ranks(network, parallel or usual(network), batch))


def devices_for_checkpoints(devices, *paths):
    """As `devices_for_network`, for the networks of checkpoints, one after the other."""
    from tinyalex.runs.saved import open_network

    return _spelled(devices, math.gcd(*(open_network(path).network.most_ranks for path in paths)))


def operations(plain):
    """Return the context in which the operations are those asked for."""
    from tinyalex.ops import plain_ops

    return plain_ops() if plain else contextlib.nullcontext()


def _spelled(devices, parts):
    transport, names = device_names.read(devices, parts)
    return ",".join(names) if transport == "threads" else devices


def run_on(fn, devices, processes=False):
    """Run fn(comm) on every device (see `tinyalex.comm.launch`); return what rank 0 returned.

    Under MPI the other ranks' processes end here: what a command does with the result, one of them does.
    """
    rank, result = launch(lambda comm: (comm.rank, fn(comm)), devices, processes=processes)[0]
    if rank:
        console.quiet = True
        raise typer.Exit
    return result


def metrics_of(path):
    """Read a run's records; DataError if there are none yet."""
    from tinyalex.runs.run import metrics

    records = metrics(path)
    if not records:
        raise DataError(f"{path}: expected a run folder with records in metrics.jsonl, found none")
    return records


def data_among(paths):
    """Tell apart the data set and the checkpoints or runs that a command was given, in whichever order.

    Returns (the data set's path, the others as they came).  Where none is a data set, it is the last that is
    no run either: what opens it says what is wrong.
    """
    from tinyalex.data import cifar10

    def is_run(path):
        return path.suffix == ".safetensors" or (path / "run.json").exists()

    def is_data(path):
        marked = any((path / name).exists() for name in ("index.json", "plan.json"))
        archive = path.is_file() and path.suffix in (".gz", ".tgz", ".tar")
        return (
            path in (Path("cifar10"), Path("shapes"))
            or marked
            or archive
            or (path.is_dir() and cifar10.find(path))
        )

    places = range(len(paths))
    found = [i for i in places if is_data(paths[i])] or [i for i in places if not is_run(paths[i])] or places
    return paths[found[-1]], [path for i, path in enumerate(paths) if i != found[-1]]


def open_split(data, split=None):
    """Open a data set and one of its splits: return both.

    split: "train" or "val"; None: "val", or "train" where there is no other, which is said.
    """
    from tinyalex.runs.settings import open_data

    opened = open_data(data)
    there = [name for name in ("train", "val") if getattr(opened, name) is not None]
    if split is None:
        split = there[-1]
        if split == "train":
            console.print(
                f"{data}: no validation pictures (prepare with --val 0.1 to hold some out): these are the "
                "ones that are trained on"
            )
    if split not in there:
        raise DataError(f"{data}: expected a split {split!r}, found {' and '.join(there)}")
    return opened, getattr(opened, split)


def same_classes(path, trained, data):
    """DataError unless a network tells the data's classes apart, in their order.

    A name's first word is enough: "n01440764 tench, Tinca tinca" is the data's "n01440764".
    """
    names, first_words = trained.classes, tuple(name.partition(" ")[0] for name in trained.classes)
    if data.classes in (names, first_words):
        return
    for found in (names, first_words):
        if sorted(found) == sorted(data.classes):
            i = next(i for i, (a, b) in enumerate(zip(found, data.classes, strict=True)) if a != b)
            raise DataError(
                f"{path}: has the data's classes in another order: "
                f"class {i} is {names[i]!r}, in the data {data.classes[i]!r}"
            )
    nearer = max((names, first_words), key=lambda found: len(set(found) & set(data.classes)))
    only = [few(sorted(a - b)) for a, b in permutations(map(set, (nearer, data.classes)))]
    unnamed = names == tuple(map(str, range(len(names))))
    raise DataError(
        f"{path}: was trained on {len(names)} classes, the data have {len(data.classes)}; "
        f"only in the checkpoint: {only[0]}; only in the data: {only[1]}"
        + ("; name them with `tinyalex import --classes`" if unnamed and trained.pictures else "")
    )


def weights_of(text, count):
    """Read comma-separated weights of an ensemble; None stays None."""
    from tinyalex.evaluate import shares

    if text is None:
        return None
    try:
        weights = [float(part) for part in text.split(",")]
        shares(weights, count)
        return weights
    except ValueError as error:
        raise DataError(
            f"--weights: expected {count} comma-separated numbers ≥ 0, not all 0, found {text!r}"
        ) from error


def scales_of(option, text, counts=None):
    """Read comma-separated sides of pictures, in pixels.  counts: how many there may be."""
    parts = text.split(",")
    good = all(part.strip().isdecimal() and 0 < int(part) < 1 << 15 for part in parts)
    if not good or (counts and len(parts) not in counts):
        raise DataError(f"{option}: expected sides in pixels, as 256 or 256,512, found {text!r}")
    return tuple(map(int, parts))


def print_error(error):
    """Print an error that a user can mend, without a traceback, in one line whatever names are in it."""
    from tinyalex.files import printable

    if isinstance(error, OSError):
        error = f"{error.filename}: {reason(error)}" if error.filename else reason(error)
    error_console.print(Text.assemble(("error: ", "bold red"), printable(str(error))), soft_wrap=True)


def named(classes, path):
    """Return the classes, each as the line of a file that begins with it, as in Caffe's synset_words.txt.

    Of two classes that a line begins with, it is the longer one's.  DataError where it names none of them.
    """
    from tinyalex.files import read_text

    if path is None:
        return list(classes)
    lines, known = {}, set(classes)
    for line in read_text(path).splitlines():
        words = line.split()
        starts = [" ".join(words[:n]) for n in range(len(words), 0, -1)]
        if name := next((start for start in starts if start in known), None):
            lines[name] = starts[0]
    if not lines:
        raise DataError(
            f"{path}: expected lines that begin with the names of classes, such as {classes[0]!r}, found none"
        )
    return [lines.get(name, name) for name in classes]


def print_scores(name, probabilities, labels, how):
    """Print a network's errors and its loss.  how: in words, what it was shown of each picture."""
    from tinyalex.evaluate import errors, guesses

    loss, top1, topk = errors(probabilities, labels)
    k = guesses(len(probabilities))
    more = f", top-{k} error {topk:.2%}" if k > 1 else ""
    console.print(
        f"{name}: top-1 error {top1:.2%}{more}, loss {loss:.4f}  ({len(labels):,} pictures, {how})",
    )


def new_file(path, *read):
    """Refuse a file that could not be written, before the work whose result it is to hold; return it.

    read: the files (None: none) that the work reads, which it must not replace.
    """
    if not path.name or not path.parent.is_dir() or (path.exists() and not path.is_file()):
        found = "a folder" if path.is_dir() else "no regular file"
        if not path.exists():
            found = f"no folder {path.parent}"
        raise DataError(f"{path}: expected the name of a file in a folder that exists, found {found}")
    if path.exists() and any(other.exists() and path.samefile(other) for other in read if other):
        raise DataError(f"{path}: expected another file than the one that is read")
    return path


def _new_figure(path):
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise DataError(f"--out: expected a name that ends in .{', .'.join(kinds)}, found {str(path)!r}")
    return new_file(path)


Out = Annotated[Path, typer.Option(help="The picture's file.", callback=_new_figure)]


def save_figure(figure, out):
    """Write a figure; print where it is, and what letters of its names no font here has."""
    with warnings.catch_warnings(record=True) as told:
        warnings.filterwarnings("always", r"Glyph \d+ ")
        figure.savefig(out, dpi=figure.dpi)
    console.print(str(out))
    letters = set()
    for warning in told:
        if glyph := re.match(r"Glyph (\d+) ", str(warning.message)):
            letters.add(chr(int(glyph[1])))
        else:
            warnings.warn(warning.message, stacklevel=2)
    if letters:
        error_console.print(f"boxes stand for letters that no font here has: {''.join(sorted(letters))}")
