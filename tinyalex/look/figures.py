"""The paper's figures, and two of our own, drawn from plain arrays and records.

Each function returns a matplotlib Figure and touches neither files nor pyplot's state.  The colours are
ones that colour-blind readers tell apart, by lightness where not by hue.
"""

import itertools
import warnings

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path
from matplotlib.ticker import PercentFormatter

from tinyalex.errors import ArgumentError
from tinyalex.files import printable

STYLES = {"relu": ("-", "tab:blue", "ReLU"), "tanh": ("--", "tab:orange", "tanh")}
TRAINING, VALIDATION, TOP5 = "tab:blue", "tab:orange", "#8c4a00"
CORRECT, OTHER = "#f5a65b", "#bcd3ea"  # bars: light enough for black names on them
RIGHT, WRONG = "#00509e", "#b3400b"  # names of neighbours
DPI = 128  # of the kernels: a power of two, so that a number of dots is exact in inches
MARGIN = 0.08  # inches, around figures that are placed to the inch
MANY = 12  # changes of the rate that are still drawn as steps
MARKERS = "os^DvPX*"  # of layers, one after the other
HEALTHY = 1e-3  # update / weight: the rule of thumb in the CS231n course notes


def relu_vs_tanh_figure(curves, data, target):
    """Figure 1: training error against epochs, ReLU solid, tanh dashed, a line at the target error."""
    figure = Figure(figsize=(6, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    named = set()
    for curve in curves:
        line, colour, name = STYLES[curve.activation]
        label = None if name in named else f"{name} (rate {curve.rate:g})"
        named.add(name)
        epochs = range(1, len(curve.errors) + 1)
        axes.plot(epochs, curve.errors, line, color=colour, label=label, marker=".", markersize=3)
        arrived = curve.epochs_to(target)
        if arrived:
            axes.plot(arrived, target, "o", color=colour, markersize=5)
    axes.axhline(target, color="0.6", linewidth=0.8)
    axes.set(xlabel="epochs", ylabel="training error rate", title=f"four-layer network, {data}")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 0.9)
    if named:
        axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def ablation_figure(rows, data):
    """What each change costs: the difference in error with its 95% interval, and the paper's figure.

    rows: of `tinyalex.measure.ablate.Found`.  The paper's figures are of ImageNet.
    """
    shown = [row for row in rows if row.difference is not None][::-1]
    figure = Figure(figsize=(6.4, 1.4 + 0.3 * len(shown)), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="0.6", linewidth=0.8)
    for place, row in enumerate(shown):
        if row.low is not None:
            axes.plot((row.low, row.high), (place, place), color=TRAINING, linewidth=1.5)
        axes.plot(row.difference, place, "o", color=TRAINING, markersize=5)
        words = row.paper.split()
        if words and words[-1].replace(".", "").lstrip("-").isdigit():
            axes.plot(float(words[-1]), place, "D", color=VALIDATION, markersize=5, fillstyle="none")
    axes.set_yticks(range(len(shown)), [row.what for row in shown])
    title = f"one change at a time, {data}"
    if any(row.verdict == "nothing learned" for row in rows):
        title += "\nnothing learned: the whole network guesses"
    axes.set(xlabel="difference in error, points (to the right: worse)", title=title)
    spread = "95% interval" if any(row.low is not None for row in shown) else "one seed"
    ours = Line2D([], [], color=TRAINING, marker="o", markersize=5, label=f"here, {spread}")
    paper = Line2D(
        [], [], color=VALIDATION, marker="D", fillstyle="none", linewidth=0, label="paper, ImageNet"
    )
    axes.legend(handles=[ours, paper], frameon=False, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def kernels_figure(weights, towers=2):
    """Figure 3: the first layer's kernels, a block of rows for each tower, 16 kernels to a row.

    weights: (F, 3, KH, KW), RGB; tower t has kernels t·F/towers … (t+1)·F/towers − 1, in reading order
    (the paper's 96 of 11×11: GPU 1 learned the upper 48, GPU 2 the lower 48).  Each kernel is scaled by
    its own largest |w|: that is black or full colour, 0 is mid-grey, so that a kernel blind to colour is
    grey.  A weight is a square of whole pixels at 128 dots an inch (the figure's own) and its multiples, a
    gap is one weight wide.
    Raises ValueError for another shape, weights that are not finite, or towers that do not divide F.
    """
    if weights.ndim != 4 or weights.shape[1] != 3 or 0 in weights.shape:
        raise ArgumentError(f"kernels_figure: expected weights (F, 3, KH, KW), found {weights.shape}")
    F = weights.shape[0]
    if towers < 1 or F % towers:
        raise ArgumentError(f"kernels_figure: towers must divide the {F} kernels, found {towers}")
    if not np.isfinite(weights).all():
        raise ArgumentError("kernels_figure: expected finite weights, found NaN or infinity")

    blocks = [_tiled(block) for block in np.split(weights, towers)]
    rows, columns = blocks[0].shape[:2]
    pixel = max(1, 800 // columns)  # dots
    strip = -(-28 // pixel) if towers > 1 else 0  # in weights: room for the tower's name
    page = np.vstack([_framed(block, strip, 0) for block in blocks])
    page = _framed(page, 1, 1)

    down, across = page.shape[:2]
    figure = Figure(figsize=(across * pixel / DPI, down * pixel / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.imshow(page, interpolation="nearest", aspect="auto")
    for t in range(towers if towers > 1 else 0):
        top = 0.5 + t * (strip + rows) + strip  # of its first kernels
        axes.text(0.5, top - 8 / pixel, f"tower {t + 1}", size=8)
    return figure


def _tiled(kernels):
    """One picture (rows, columns, 3) uint8 of kernels (F, 3, KH, KW), white gaps between them."""
    F, _, KH, KW = kernels.shape
    across = min(16, F)
    down = -(-F // across)
    tiles = np.full((down * (KH + 1) - 1, across * (KW + 1) - 1, 3), 255, np.uint8)
    for i, kernel in enumerate(kernels):
        y, x = i // across * (KH + 1), i % across * (KW + 1)
        scale = np.abs(kernel).max() or 1
        tiles[y : y + KH, x : x + KW] = np.rint(127.5 + 127.5 * (kernel / scale)).transpose(1, 2, 0)
    return tiles


def _framed(tiles, top, around):
    return np.pad(tiles, ((top, around), (around, around), (0, 0)), constant_values=255)


def predictions_figure(pictures, probabilities, labels, classes):
    """Figure 4, left: pictures, the correct class under each, and bars of the 5 most probable classes.

    pictures: uint8 (C, H, W, N), C 1 or 3.  probabilities: (K, N), 0–1.  labels: integers (N,), or None
    where nobody knows: then no class is written and no bar is marked.  classes: the K names; one that is
    too long is cut.  The most probable class comes first, among equals the lower number; a bar as long as
    the picture is wide is 100 %, and the correct class's has a colour of its own.
    Raises ValueError for shapes, probabilities or labels that do not fit.
    """
    pictures = _rgb("predictions_figure: pictures", pictures, "CHWN")
    H, W, _, N = pictures.shape
    K = len(classes)
    if probabilities.shape != (K, N):
        raise ArgumentError(
            f"predictions_figure: expected probabilities ({K} classes, {N} pictures), "
            f"found {probabilities.shape}"
        )
    if not ((probabilities >= 0) & (probabilities <= 1 + 1e-5)).all():
        raise ArgumentError(
            "predictions_figure: expected probabilities 0–1, "
            f"found {probabilities.min()} … {probabilities.max()}"
        )
    if labels is not None and (labels.shape != (N,) or not 0 <= labels.min() <= labels.max() < K):
        raise ArgumentError(f"predictions_figure: expected labels ({N},) in 0 … {K - 1}, found {labels}")

    across = min(4, N)
    bars = min(5, K)
    width, gap, line = 1.9, 0.2, 0.18  # inches: a picture and its bars, between them, a line of text
    shown = width * H / W
    below = (0.4 if labels is None else 1.5) * line
    height = shown + below + bars * line
    down = -(-N // across)
    figure = _sheet(across * (width + gap) - gap, down * (height + gap) - gap)
    for i in range(N):
        left, top = i % across * (width + gap), i // across * (height + gap)
        _place(figure, left, top, width, shown).imshow(pictures[..., i], aspect="auto")
        if labels is not None:
            name = _cut(classes[labels[i]], width, 9)
            _write(figure, left + width / 2, top + shown + line, name, size=9, ha="center")
        best = np.argsort(-probabilities[:, i], kind="stable")[:bars]
        axes = _place(figure, left, top + shown + below, width, bars * line)
        correct = [labels is not None and c == labels[i] for c in best]
        axes.barh(
            range(bars), probabilities[best, i], height=0.86, color=[CORRECT if c else OTHER for c in correct]
        )
        axes.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5))
        for j, c in enumerate(best):
            middle = {"size": 8, "va": "center_baseline", "parse_math": False}
            axes.text(0.02, j, _cut(classes[c], width - 0.45, 8), **middle)
            axes.text(1, j, _percent(probabilities[c, i]), ha="right", color="0.35", **middle)
    return figure


def _percent(p):
    return "<1 %" if 0 < p < 0.005 else f"{100 * p:.0f} %"


def neighbours_figure(queries, found, names=None, found_names=None):
    """Figure 4, right: test pictures in the first column, the training pictures like them beside each.

    queries: uint8 (C, H, W, N), C 1 or 3.  found: uint8 (C, H, W, k, N), nearest first: with the indices
    (k, N) of `tinyalex.look.retrieval.nearest`, images[..., indices].  names (N,), found_names (k, N): of
    their classes; they are written under the pictures, with ✓ where a neighbour's is the query's, else ✗.
    Raises ValueError for other shapes.
    """
    name = "neighbours_figure: "
    queries, found = _rgb(name + "queries", queries, "CHWN"), _rgb(name + "found", found, "CHWkN")
    H, W, _, N = queries.shape
    k = found.shape[3]
    if found.shape != (H, W, 3, k, N):
        raise ArgumentError(
            f"neighbours_figure: expected found {k} pictures of {H}×{W} for each of {N} queries, "
            f"found pictures of {found.shape[0]}×{found.shape[1]} for {found.shape[4]}"
        )
    if names is not None and (np.shape(names), np.shape(found_names)) != ((N,), (k, N)):
        raise ArgumentError(
            f"neighbours_figure: expected names ({N},) and found_names ({k}, {N}), "
            f"found {np.shape(names)} and {np.shape(found_names)}"
        )
    width, gap, apart, above = 1.0, 0.05, 0.3, 0.25  # inches; apart: from a query to what was found
    shown = width * H / W
    height = shown if names is None else shown + 0.2  # with its name
    figure = _sheet(width + apart + k * (width + gap) - gap, above + N * (height + gap) - gap)
    _write(figure, 0, above - 0.08, "test picture", size=9)
    _write(figure, width + apart, above - 0.08, "nearest training pictures, nearest first", size=9)
    for i in range(N):
        top = above + i * (height + gap)
        _place(figure, 0, top, width, shown).imshow(queries[..., i], aspect="auto")
        if names is not None:
            _write(figure, width / 2, top + shown + 0.14, _cut(names[i], width, 8), size=8, ha="center")
        for j in range(k):
            left = width + apart + j * (width + gap)
            _place(figure, left, top, width, shown).imshow(found[..., j, i], aspect="auto")
            if names is not None:
                mark, colour = ("✓", RIGHT) if found_names[j, i] == names[i] else ("✗", WRONG)
                text = _cut(f"{mark} {found_names[j, i]}", width, 8)
                _write(figure, left + width / 2, top + shown + 0.14, text, size=8, ha="center", color=colour)
    return figure


def curves_figure(metrics, k=5):
    """Loss, and under it error rates, against epochs; a line wherever the learning rate changes.

    metrics: records as a run writes them to metrics.jsonl, in order; epoch counts passes over the training
    set, with fractions; loss is in nats per image, errors are 0–1; records of another kind are passed over.

        {"kind": "train", "step", "epoch", "loss", "error", "rate"}
        {"kind": "validation", "step", "epoch", "loss", "top1", "top5"}

    k: of the error that stands under "top5": 5, or fewer where there are fewer than 6 classes (1: it is the
    same as top1, and not drawn).
    The rates stand over the first panel; a rate that changes more than 12 times glides, and is not drawn.
    The paper (section 5) divides its rate by 10 three times, when the validation error stops improving.
    Raises ValueError where there is no such record, or one lacks an entry.
    """
    of = {kind: [r for r in metrics if r["kind"] == kind] for kind in ("train", "validation")}
    if not any(of.values()):
        raise ArgumentError(
            f"curves_figure: no train or validation record in metrics ({len(metrics)} records)"
        )
    train = _columns("curves_figure: metrics", of["train"], ("epoch", "loss", "error", "rate"))
    validation = _columns("curves_figure: metrics", of["validation"], ("epoch", "loss", "top1", "top5"))

    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    loss, error = figure.subplots(2, sharex=True)
    lines = [
        (loss, train, "loss", TRAINING, "training"),
        (loss, validation, "loss", VALIDATION, "validation"),
        (error, train, "error", TRAINING, "training"),
        (error, validation, "top1", VALIDATION, "validation, top 1"),
        (error, validation, "top5", TOP5, f"validation, top {k}"),
    ]
    for axes, columns, key, colour, label in lines if k > 1 else lines[:-1]:
        width, dot = (0.9, 1.5) if columns is train else (1.5, 5)
        if columns["epoch"]:
            style = {"color": colour, "label": label, "linewidth": width, "markersize": dot}
            axes.plot(columns["epoch"], columns[key], marker=".", **style)

    steps = list(zip(train["epoch"], train["rate"], strict=True))
    changes = [now for before, now in itertools.pairwise(steps) if now[1] != before[1]]
    if steps and len(changes) <= MANY:
        for axes in (loss, error):
            for epoch, _ in changes:
                axes.axvline(epoch, color="0.6", linewidth=0.8, zorder=0)
        rates = loss.secondary_xaxis("top")
        epochs, values = zip(steps[0], *changes, strict=True)
        upwards = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"}  # close ones do not collide
        rates.set_xticks(epochs, [f"{rate:.3g}" for rate in values], size=8, **upwards)
        rates.set_xlabel("learning rate", size=9)
    loss.set(ylabel="loss (nats per image)")
    error.set(xlabel="epochs", ylabel="error rate")
    for axes in (loss, error):
        axes.update_datalim([(0, 0)])  # or a curve that hardly falls would run along the frame
        axes.autoscale_view()
        axes.set_ylim(bottom=0)
        # beside the panel, where no line runs
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    error.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    loss.set_xlim(left=0)
    return figure


def magnitudes_figure(records):
    """Mean |w|, mean |Δw| and their ratio for each parameter against steps, on logarithmic axes.

    cuda-convnet's convnet.py prints the first two for each layer at each test, cuda-convnet2's the ratio
    too.  Near 1e-3 (dotted) it is healthy; far above, the rate is too high, far below, too low.  A colour and
    a marker for each layer, from dark (the first) to light; biases are dashed.  A size of 0 has no point.

    records: {"kind": "sizes", "step", "layers": {"conv1.w": {"weight": mean |w|, "update": mean |Δw|}, …}}
    in order, with the same parameters; records of another kind are passed over.
    Raises ValueError where there is none, or one lacks an entry.
    """
    records = [r for r in records if r["kind"] == "sizes"]
    if not records:
        raise ArgumentError("magnitudes_figure: no record of kind 'sizes' in records")
    columns = _columns("magnitudes_figure: records", records, ("step", "layers"))
    names = list(columns["layers"][0])
    sizes = {
        name: _columns(f"magnitudes_figure: {name} in records", rows, ("weight", "update"))
        for name, rows in _columns("magnitudes_figure: layers in records", columns["layers"], names).items()
    }
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    shades = colormaps["viridis"](np.linspace(0, 0.88, len(layers)))
    every = max(1, len(records) // 10)
    styles = {
        layer: {"color": shade, "marker": marker, "markersize": 4.5, "markevery": every, "linewidth": 1.2}
        for layer, shade, marker in zip(layers, shades, itertools.cycle(MARKERS), strict=False)
    }

    figure = Figure(figsize=(8, 7.5), dpi=150, layout="constrained")
    panels = figure.subplots(3, sharex=True, subplot_kw={"yscale": "log"})
    for name, size in sizes.items():
        layer, _, key = name.rpartition(".")
        weight, update = (np.array(size[which], float) for which in ("weight", "update"))
        ratio = np.divide(update, weight, out=np.zeros_like(weight), where=weight > 0)
        for axes, values in zip(panels, (weight, update, ratio), strict=True):
            axes.plot(
                columns["step"], np.where(values > 0, values, np.nan), "--" if key == "b" else "-",
                label=name, **styles[layer],
            )  # fmt: skip
    panels[2].axhline(HEALTHY, color="0.3", linewidth=0.9, linestyle=":")
    panels[2].update_datalim([(0, HEALTHY / 10), (0, HEALTHY * 10)])
    for axes, title in zip(panels, ("mean |w|", "mean |Δw|", "mean |Δw| / mean |w|"), strict=True):
        axes.set_ylabel(title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[2].set_xlabel("steps")
    keys = [Line2D([], [], label=layer, **style) for layer, style in styles.items()]
    for line, label in (("-", "weights"), ("--", "biases"), (":", "10⁻³: a healthy ratio")):
        keys.append(Line2D([], [], linestyle=line, color="0.3", linewidth=1.2, label=label))
    figure.legend(handles=keys, loc="outside right upper", frameon=False)
    return figure


def _columns(argument, records, keys):
    """{key: [its value in each record]}; ValueError for a record without it."""
    for i, record in enumerate(records):
        for key in keys:
            if key not in record:
                raise ArgumentError(f"{argument}: record {i} has no {key!r}, found {', '.join(record)}")
    return {key: [record[key] for record in records] for key in keys}


def _rgb(argument, pictures, axes):
    """Pictures (C, H, W, …) as (H, W, 3, …); ValueError unless uint8 with these axes, C 1 or 3."""
    shape = pictures.shape
    if pictures.dtype != np.uint8 or len(shape) != len(axes) or 0 in shape or shape[0] not in (1, 3):
        raise ArgumentError(
            f"{argument}: expected uint8 ({', '.join(axes)}) with C 1 or 3, found {pictures.dtype} {shape}"
        )
    return np.moveaxis(np.broadcast_to(pictures, (3, *shape[1:])), 0, 2)


def _sheet(width, height):
    """A figure for `_place` and `_write`: that many inches, and a margin around them."""
    return Figure(figsize=(width + 2 * MARGIN, height + 2 * MARGIN), dpi=150)


def _place(figure, left, top, width, height):
    """Axes without ticks or frame; inches from the left and upper margin."""
    across, down = figure.get_size_inches()
    left, bottom = left + MARGIN, down - (top + MARGIN + height)
    axes = figure.add_axes((left / across, bottom / down, width / across, height / down))
    axes.set_axis_off()
    return axes


def _write(figure, left, baseline, text, **style):
    """Text whose baseline is that many inches under the upper margin; a $ in it is a $."""
    across, down = figure.get_size_inches()
    x, y = (left + MARGIN) / across, 1 - (baseline + MARGIN) / down
    figure.text(x, y, text, parse_math=False, **style)


def _cut(text, width, size):
    """The text, or as much of its beginning, with …, as width (inches) holds at size (points)."""
    text, font = printable(text), FontProperties(size=size)

    def fits(text):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that no font has: drawing tells of them
            points = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
        return 1.05 * points <= 72 * width  # drawn letters are rounded to whole dots

    if fits(text):
        return text
    return next(cut for n in range(len(text), -1, -1) if fits(cut := text[:n].rstrip(" ,") + "…"))
