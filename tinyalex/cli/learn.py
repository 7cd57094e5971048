"""Commands to learn with: gradient checks, Figure 1, lessons, what a network costs, how fast it is."""

import shlex
import time
from pathlib import Path
from typing import Annotated

import typer

from tinyalex import devices as device_names
from tinyalex.cli.common import (
    Devices,
    NetworkArgument,
    Parallel,
    Plain,
    ThreadDevices,
    Width,
    console,
    devices_for_network,
    operations,
)
from tinyalex.cli.progress import Progress
from tinyalex.devices import Device
from tinyalex.errors import DataError


def check_grads(seed: Annotated[int, typer.Option(help="Seed of all random draws.", min=0)] = 0):
    """Compare every operation's gradient with its difference quotient; exit code 1 if one fails."""
    from tinyalex.measure.gradtable import print_table, run

    raise typer.Exit(print_table(run(seed), console))


def doctor():
    """Say what devices and libraries are here, test every operation on each; exit code 1 if one is wrong."""
    from tinyalex.measure.doctor import print_report

    raise typer.Exit(print_report(console))


def relu_vs_tanh(
    data: Annotated[
        str,
        typer.Option(
            help="Pictures: auto (CIFAR-10 where it is on disk, else shapes), shapes, cifar10 or its PATH."
        ),
    ] = "auto",
    devices: ThreadDevices = "cpu",
    out: Annotated[Path, typer.Option(help="Where the figure, curves and summary go.")] = Path(
        "relu-vs-tanh"
    ),
    full: Annotated[
        bool, typer.Option("--full", help="Train on all 50,000 CIFAR-10 pictures, until both reach 25%.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="How many times each network is trained.", min=1)] = 1,
):
    """Figure 1 of the paper: train a four-layer network with ReLU and with tanh, draw the error curves.

    An interrupted run continues where it stopped when the same command is given again.
    """
    from tinyalex.measure import relu_vs_tanh as figure1

    name, images = _pictures(data, full)
    plan = figure1.FULL if full else figure1.QUICK
    images = figure1.first(images, plan.pictures)
    plan = plan._replace(data=name, seeds=tuple(range(seeds)))
    chosen = device_names.parse(devices, figure1.BATCH)
    with Progress() as progress:
        summary = figure1.run(images, plan, chosen, out, progress.update, progress.print)
    for seed, ratio in summary["ratio_of_epochs"].items():
        times = f"{ratio:.1f} times the epochs that ReLU needs" if ratio else "no ratio: one did not arrive"
        console.print(f"seed {seed}: to 25% training error tanh needs {times}")
    console.print(f"{out / 'relu_vs_tanh.png'}")
    if not full:
        console.print(
            f"with {plan.pictures:,} pictures, about 2; all 50,000 (--full) gave 5.8 and 6.5, ", end=""
        )
    console.print("the paper: about six")


def ablate(
    data: Annotated[
        str,
        typer.Option(
            help="Pictures: shapes, drawn here; cifar10 or its PATH; a folder made by `tinyalex prepare`."
        ),
    ] = "shapes",
    out: Annotated[Path, typer.Option(help="Where the table, the picture and the runs go.")] = Path(
        "ablation"
    ),
    rows: Annotated[
        str | None, typer.Option(help="Some rows, by name: no-lrn,pool-2.", show_default="all")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Runs of each row.", min=1, show_default="3; of few minutes, fewer")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Minutes to plan for; it stops then.", min=0.1, show_default="30 epochs a run"),
    ] = None,
    devices: ThreadDevices = "cpu",
):
    """The paper's comparisons as runs: AlexNet, narrow, with one thing changed at a time.

    An interrupted run continues where it stopped when the same command is given again.
    """
    from tinyalex.measure import ablate as ablation
    from tinyalex.runs.run import stop_at_signal
    from tinyalex.runs.settings import locate, open_data

    end = minutes and time.monotonic() + 60 * minutes - ablation.KEPT
    where = locate(data)
    opened = open_data(where)
    if opened.train is None or opened.val is None:
        raise DataError(f"{data}: expected pictures to train on and to validate with, found one split alone")
    with Progress() as progress, stop_at_signal() as stop:
        asked = rows.split(",") if rows else None
        plan = ablation.begin(out, where, opened, devices, asked, seeds, minutes, progress.update)
        of_each = f"{plan.epochs} epochs of {plan.pictures:,} pictures"
        console.print(f"{plan.seeds} seed{'s' * (plan.seeds > 1)}, {of_each}: {len(plan.runs)} runs")
        done = ablation.ablate(out, opened, devices, plan, stop, end, progress.update, progress.print)
    found = ablation.table(out, plan, opened.val.labels)
    ablation.print_table(found, console)
    if any(row.verdict == "nothing learned" for row in found):
        console.print("the whole network guesses: more minutes, or fewer --rows, teach it more")
    console.print(f"{out / 'table.csv'}, table.json, ablation.png")
    if not done:
        console.print("some runs are not done: the same command goes on")
        raise typer.Exit(130 if not minutes else 0)


def _pictures(data, full):
    from tinyalex.data import cifar10, shapes
    from tinyalex.runs.settings import locate

    if data == "auto":
        data = cifar10.find() or ("cifar10" if full else "shapes")
    if data == "shapes":
        if full:
            raise DataError("--full: expected CIFAR-10, found --data shapes")
        return "shapes", shapes.load()
    return "CIFAR-10", cifar10.load(locate(data))


def lessons(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FOLDER -- OPTIONS",
            help="Where your copies go, tinyalex-lessons by default; JupyterLab's own options, such as "
            "-- --no-browser --port 8889.",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the course as static pages into this folder instead.")
    ] = None,
    live: Annotated[
        Path | None,
        typer.Option(
            help="Write pages in which the lessons are worked through in a browser: serve this folder."
        ),
    ] = None,
    pyodide: Annotated[
        Path | None,
        typer.Option(
            help="With --live: a folder of Pyodide's files, copied into the course.  [default: its CDN]"
        ),
    ] = None,
):
    """Copy the lessons to a folder and open the first in JupyterLab; files that are there are left alone."""
    from tinyalex.lessons import course, site

    words = words or []
    folder = Path(words.pop(0) if words and not words[0].startswith("-") else "tinyalex-lessons")
    if (html and live) or (pyodide and not live):
        raise DataError("lessons: expected --html FOLDER, or --live FOLDER with or without --pyodide FOLDER")
    if words and (html or live or not words[0].startswith("-")):
        raise DataError(f"lessons: expected a folder and, after --, JupyterLab's options, found {words[0]!r}")
    if html:
        with Progress() as progress:
            pages = site.build(html, progress.update)
        console.print(f"{len(pages)} pages: open {pages[0]}")
        return
    if live:
        from tinyalex.lessons import live as live_course

        with Progress() as progress:
            pages = live_course.build(live, pyodide, progress.update)
        console.print(f"{len(pages)} pages; to try them:  python -m http.server --directory {live}")
        return
    copied, left = course.copy(folder)
    console.print(f"{folder}: {len(copied)} files copied")
    if left:
        console.print(f"there already, and left as they are: {', '.join(left)}")
    command = course.lab_command(folder, words)
    console.print(shlex.join(command))
    raise typer.Exit(course.open_lab(command))


def docs(out: Annotated[Path, typer.Argument(help="A folder for the pages.")]):
    """Write the library's pages, made from its docstrings: open index.html there."""
    from importlib.util import find_spec

    import tinyalex

    if not find_spec("pdoc"):
        raise DataError("docs: expected the package pdoc, found none: pip install 'tinyalex[docs]'")
    import pdoc

    pdoc.pdoc(*(f"tinyalex.{name}" for name in tinyalex.PUBLIC), output_directory=out)
    console.print(f"{out / 'index.html'}")


def describe(
    network: NetworkArgument = "paper",
    devices: Annotated[
        str,
        typer.Option(
            help="How many, or their names: cpu:0,cpu:1; cpu: as many cores as can share the work evenly."
        ),
    ] = "cpu",
    parallel: Parallel = None,
    link: Annotated[
        str | None, typer.Option(help="What a device receives, 12GB/s or 1Gbit/s: predicts a step's seconds.")
    ] = None,
    flops: Annotated[
        str | None, typer.Option(help="What a device computes in a step, 100GF or 5TF (`bench` says it).")
    ] = None,
    latency: Annotated[
        str | None, typer.Option(help="What a collective takes besides, 50us or 2ms, with --link.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Images per training step.", min=1)] = 128,
    size: Annotated[int | None, typer.Option(help="Side of the picture in pixels.", min=1)] = None,
    width: Width = 1.0,
    towers: Annotated[
        int | None, typer.Option(help="Number of towers; 1: every kernel sees all maps below it.", min=1)
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Say whether a device with so much memory, as 3GiB, holds it.")
    ] = None,
):
    """Print a network layer by layer: shapes, parameters, multiply-adds, memory, bytes that cross."""
    from tinyalex.measure import describe as description
    from tinyalex.parallel import usual
    from tinyalex.runs.saved import find_network

    held = description.parse_memory(memory) if memory else None
    if bool(link) != bool(flops):
        raise DataError("--link and --flops: expected both or none, found one")
    if latency and not link:
        raise DataError("--latency: expected --link and --flops beside it, found neither")
    rates = link and (
        description.parse_rate(link, "--link", description.LINKS),
        description.parse_rate(flops, "--flops", description.FLOPS),
        description.parse_rate(latency, "--latency", description.LATENCIES) if latency else 0,
    )
    width = None if width == 1 else width
    found = find_network(network, width=width, size=size, towers=towers)
    parallel = parallel or usual(found)
    if devices.isdigit():
        ranks = int(devices)
    else:
        ranks = len(device_names.names(devices_for_network(devices, found, parallel, batch)))
    described = description.describe(found, ranks, batch, parallel)
    predicted = rates and description.predict(described, *rates)
    description.print_description(described, console, held, predicted)


def bench(
    network: NetworkArgument = "paper",
    layer: Annotated[str | None, typer.Option(help="One layer alone, by its name: conv2, lrn1 …")] = None,
    no_lrn: Annotated[
        bool, typer.Option("--no-lrn", help="AlexNet without local response normalization.")
    ] = False,
    width: Width = 1.0,
    devices: Devices = "cpu",
    parallel: Parallel = None,
    batch: Annotated[int, typer.Option(help="Images per step.", min=1)] = 128,
    rounds: Annotated[int, typer.Option(help="Rounds measured.", min=1)] = 5,
    forward: Annotated[bool, typer.Option("--forward", help="The forward pass only.")] = False,
    layers: Annotated[bool, typer.Option("--layers", help="Print a table of layers.")] = False,
    vs: Annotated[
        str | None, typer.Option(help="Time PyTorch too: torch (as people write it) or torch-tuned.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    plain: Plain = False,
):
    """Time training: images/s, time by layer, share of the matrix products' limit, PyTorch beside it."""
    from tinyalex.measure import bench as benchmark
    from tinyalex.parallel import usual
    from tinyalex.runs.saved import find_network

    width = None if width == 1 else width
    found = find_network(network, lrn=False if no_lrn else None, width=width)
    if layer:
        benchmark.alone(found, layer)
    parallel = parallel or usual(found)
    chosen = devices_for_network(devices, found, parallel, batch)
    one_process = not chosen.startswith("mpi")
    if vs and not one_process:
        raise DataError(f"--vs {vs}: expected devices of one process, found {devices}")
    benchmark.check(found, vs, Device(chosen.split(",")[0] if one_process else "cpu:0"))
    with Progress() as progress, operations(plain):
        result = benchmark.measure(
            found, chosen, batch, rounds, layer=layer, against=vs, forward=forward, parallel=parallel,
            what=network, on_round=lambda number: progress.update("round", number + 1, rounds),
        )  # fmt: skip
    if not result:
        return  # another process has it
    if as_json:
        print(benchmark.to_json(result))
    else:
        benchmark.print_result(result, console, layers)
