"""Pictures of arrays for the lessons: heat maps with their numbers, windows on them, images.

Each function draws into the matplotlib axes that it is given.  Colours: orange is positive, blue negative,
white is 0; both stay apart for colour-blind readers, and each ink has dashes of its own.  What is stepped
through is painted by `paint`, with the same colours.  Matplotlib is imported when something is drawn.
"""

import functools

import numpy as np

INK = ["#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#b45309", "#0f766e"]  # of frames; dark on white
DASHES = ["-", (0, (4, 2)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (2.5, 2.5)), (0, (1, 3))]  # of the inks
INSIDE = {"in_layout": False}  # the layout need not look at what is inside the axes: twice as fast
MOST_NUMBERS = 260  # a map with more cells is drawn without its numbers


@functools.cache
def colours():
    """Return the colour map: blue is negative, white 0, orange positive."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(
        "signed", ["#1d4ed8", "#82b1ff", "#ffffff", "#f5a54a", "#b4570a"]
    )


def panels(*widths, height=2.6):
    """Axes side by side, as wide as the given proportions; one is returned as it is, several as an array."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7, height), layout="constrained")
    plt.uninstall_repl_displayhook()  # which would draw it once more, before a notebook does to show it
    return figure.subplots(1, len(widths), width_ratios=widths)


def array(axes, values, title="", fmt=None, limit=None, numbers=True):
    """Draw a vector or matrix as a heat map with a number in each cell and the shape in the title.

    limit: the size of number that gets full colour, by default the largest.  NaN: an empty cell.
    """
    values = np.asarray(values)
    rows = np.atleast_2d(values)
    limit = limit or np.nanmax(np.abs(rows), initial=0) or 1
    axes.imshow(rows, cmap=colours(), vmin=-limit, vmax=limit, aspect="equal")
    if numbers and rows.size <= MOST_NUMBERS:
        fmt = fmt or ("{:d}" if rows.dtype.kind in "iub" else "{:.2g}")
        for (i, j), value in np.ndenumerate(rows):
            if not np.isnan(value):
                colour = "white" if abs(value) > 0.72 * limit else "0.15"
                axes.text(j, i, fmt.format(value), ha="center", va="center", color=colour, size=8, **INSIDE)
    _grid(axes, rows.shape)
    shape = "×".join(map(str, values.shape))
    axes.set_title(f"{title}  ({shape})" if title else f"({shape})", size=9)


def _grid(axes, shape):
    axes.set_xticks([])
    axes.set_yticks([])
    bottom, right = shape[0] - 0.5, shape[1] - 0.5
    style = {"color": "0.75", "linewidth": 0.6, **INSIDE}
    axes.hlines(np.arange(shape[0] + 1) - 0.5, -0.5, right, **style)
    axes.vlines(np.arange(shape[1] + 1) - 0.5, -0.5, bottom, **style)
    axes.set(xlim=(-0.5, right), ylim=(bottom, -0.5))
    axes.spines[:].set_visible(False)


def frame(axes, row, column, height=1, width=1, colour=INK[0], inset=0.0):
    """Draw a frame around cells of a heat map or pixels of a picture.

    inset: how far inside the cells' edge, in cells; different ones keep overlapping frames apart.
    """
    from matplotlib.patches import Rectangle

    corner = (column - 0.5 + inset, row - 0.5 + inset)
    style = {"fill": False, "edgecolor": colour, "linewidth": 2.2, "zorder": 3, "clip_on": False}
    style["linestyle"] = DASHES[INK.index(colour)]
    axes.add_patch(Rectangle(corner, width - 2 * inset, height - 2 * inset, **style))


def picture(axes, image, title=""):
    """Draw a picture (3,H,W) or (H,W): uint8, or floats that are scaled to what there is."""
    image = np.asarray(image)
    if image.dtype != np.uint8:
        low, high = image.min(), image.max()
        image = (255 * (image - low) / (high - low or 1)).astype(np.uint8)
    axes.imshow(image.transpose(1, 2, 0) if image.ndim == 3 else image, cmap="gray", interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, size=9)


def plain(axes, xlabel="", ylabel="", title=""):
    """Label a plot, take away the frame's upper and right line, and give the lines their inks' dashes."""
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, size=10)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.get_legend()
    for line in [*axes.lines, *(legend.get_lines() if legend else [])]:
        if line.get_color() in INK and line.get_linestyle() == "-":
            line.set_linestyle(DASHES[INK.index(line.get_color())])
