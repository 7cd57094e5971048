"""Pictures of arrays as SVG: rectangles and text, which can be selected, read aloud, and need no library.

    paint.array(x, "x").frame(0, 2, 1, 3)       cells with their numbers, and a frame around some of them
    paint.picture(image, "a star")              pixels
    paint.plot("loss", (0, 9), (0, 1)).line(xs, ys)
    paint.row(panel, panel, caption="...")      side by side; on a narrow screen one below the other

Orange is positive, blue negative, no colour is 0; fuller is larger.  Nothing is said by colour alone: a
number has its sign, each ink has its own dashes and its own dots.  The colours follow the theme of the page
or of JupyterLab.
"""

import base64
import html
import io

import numpy as np

# ink: (colour on white, colour on black, dashes, dot)
INKS = [
    ("#c2410c", "#fb923c", "", "circle"),
    ("#1d4ed8", "#7ab2ff", "6 3", "square"),
    ("#15803d", "#4ade80", "2 2", "triangle"),
    ("#7e22ce", "#d0a5ff", "9 3 2 3", "diamond"),
    ("#8a5a00", "#fbbf24", "4 4", "circle"),
    ("#0f766e", "#2dd4bf", "1 3", "square"),
]
SOFT = len(INKS)  # the ink of axes and of what only serves to compare
MOST_NUMBERS = 260  # an array with more cells is painted without its numbers, and described by its shape
WIDE = 340  # pixels: the width of a phone's page; up to it numbers keep their size


def _themes():
    light = ["--tx-pos:#f5a54a;--tx-neg:#82b1ff;--tx-line:#c3c9d0;--tx-6:#6b7480"]
    dark = ["--tx-pos:#b4570a;--tx-neg:#2456c4;--tx-line:#4a525c;--tx-6:#99a2ad"]
    light += [f"--tx-{k}:{on_white}" for k, (on_white, _, _, _) in enumerate(INKS)]
    dark += [f"--tx-{k}:{on_black}" for k, (_, on_black, _, _) in enumerate(INKS)]
    return ";".join(light), ";".join(dark)


def _style():
    light, dark = _themes()
    inks = "".join(
        f".tx .i{k}{{stroke:var(--tx-{k});stroke-dasharray:{dashes or 'none'}}}"
        f".tx .d{k}{{fill:var(--tx-{k})}}"
        for k, (_, _, dashes, _) in enumerate([*INKS, (None, None, "", "circle")])
    )
    return (
        f".tx{{{light};font:14px/1.35 system-ui,'DejaVu Sans',sans-serif}}"
        f"@media (prefers-color-scheme:dark){{.tx{{{dark}}}}}"
        # JupyterLab has a theme of its own, whatever the system's
        f"[data-jp-theme-light=true] .tx{{{light}}}[data-jp-theme-light=false] .tx{{{dark}}}"
        ".tx-row{display:flex;flex-wrap:wrap;gap:.4rem 1.2rem;align-items:flex-start}"
        ".tx figure{margin:0;max-width:100%;overflow-x:auto}"
        ".tx .tx-code{display:flex;gap:.4rem;overflow-x:auto;margin-bottom:.3rem}"
        ".tx .tx-code pre{margin:0;padding:0;font:12.5px/1.45 ui-monospace,'DejaVu Sans Mono',monospace;"
        "background:none;color:inherit;overflow:visible;white-space:pre;border:0}"
        ".tx figcaption{font-size:13px;color:inherit;margin-bottom:3px}"
        ".tx small,.tx .tx-soft{color:var(--tx-6);font-size:12px}"
        ".tx p{margin:.3rem 0;font-size:14px}"
        ".tx svg{display:block;max-width:100%;height:auto;overflow:visible}"
        ".tx text{fill:currentColor;font:12px system-ui,'DejaVu Sans',sans-serif;text-anchor:middle}"
        ".tx .b{font-weight:700}.tx .s{text-anchor:start}.tx .e{text-anchor:end}"
        ".tx .p{fill:var(--tx-pos)}.tx .n{fill:var(--tx-neg)}"
        ".tx .g{stroke:var(--tx-line);fill:none}.tx .f{fill:none;stroke-width:2.2}" + inks
    )


STYLE = _style()


class Panel:
    """One picture under its title, and a note below; `unit`: the width and height of a cell or pixel."""

    def __init__(self, title, size, unit, about, origin=(3, 3)):
        self.title, self.size, self.unit, self.origin = title, size, unit, origin
        self.about, self.notes, self.parts = [about], [], []

    def frame(self, row, column, height=1, width=1, ink=0, inset=0.0):
        """Frame cells or pixels; inset, in cells: different ones keep overlapping frames apart."""
        (w, h), (left, top) = self.unit, self.origin
        self.parts.append(
            f'<rect class="f i{ink}" x="{left + (column + inset) * w:.4g}" y="{top + (row + inset) * h:.4g}" '
            f'width="{(width - 2 * inset) * w:.4g}" height="{(height - 2 * inset) * h:.4g}"/>'
        )
        rows = f"row {row}" if height == 1 else f"rows {row} to {row + height - 1}"
        columns = f"column {column}" if width == 1 else f"columns {column} to {column + width - 1}"
        self.about.append(f"Framed: {rows}, {columns}.")
        return self

    def note(self, text):
        """Write a line below."""
        self.notes.append(html.escape(text))
        return self

    def html(self):
        """Return the panel as a <figure>."""
        width, height = self.size
        notes = "".join(f'<div class="tx-soft">{note}</div>' for note in self.notes)
        name = html.escape(self.title)
        return (
            f'<figure><figcaption>{name}</figcaption><svg role="img" width="{width:.0f}" '
            f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
            f'style="min-width:{min(width, 0.8 * WIDE):.0f}px">'
            f"<title>{name or 'picture'}</title><desc>{html.escape(' '.join(self.about))}</desc>"
            f"{''.join(self.parts)}</svg>{notes}</figure>"
        )


def array(
    values,
    title="",
    fmt=None,
    limit=None,
    numbers=True,
    rows=(),
    columns=(),
    changed=None,
    other=None,
    digits=0,
):
    """Paint a vector or matrix: a cell for each number, the shape behind the title.  NaN: an empty cell.

    limit: the size of number that gets full colour, by default the largest.  rows, columns: labels.
    changed, other: masks; a changed number is bold in a solid frame, one that is other than it should be
    underlined in a dashed one.  digits: as wide as so many are the cells at least.
    """
    values = np.asarray(values)
    cells = np.atleast_2d(values)
    numbers = numbers and cells.size <= MOST_NUMBERS
    if fmt is None:
        fmt = "{:d}" if cells.dtype.kind in "iu" else "{:.2g}" if cells.dtype.kind == "f" else "{}"
    flat = cells.ravel().tolist()
    texts = ["" if number != number else fmt.format(number) for number in flat]
    if limit is None:
        limit = max((abs(number) for number in flat if abs(number) < np.inf), default=0)
    high, wide = cells.shape
    w, h = _cell(max([digits, *map(len, texts)]), high, wide, numbers)
    w = max([w, *(7 * len(label) + 6 for label in columns)])
    left, top = 3 + 7 * max(map(len, rows), default=0), 3 + 16 * bool(columns)
    about = f"{'×'.join(map(str, values.shape)) or 'one'} numbers"
    if numbers:
        lines = (", ".join(texts[i * wide : (i + 1) * wide]) for i in range(high))
        about += f": {'; '.join(lines)}"
    shape = "×".join(map(str, values.shape))
    panel = Panel(
        f"{title} ({shape})" if shape else title,
        (left + wide * w + 3, top + high * h + 3),
        (w, h),
        f"{about}.",
        (left, top),
    )
    panel.parts = [*_shades(flat, wide, limit or 1, panel), _grid(high, wide, panel)]
    if numbers:
        bold = np.zeros(cells.size, bool) if changed is None else np.atleast_2d(changed).ravel()
        for k, text in enumerate(texts):
            if text:
                x, y = left + (k % wide + 0.5) * w, top + (k // wide + 0.5) * h + 4
                strong = ' class="b"' if bold[k] else ""
                panel.parts.append(f'<text{strong} x="{x:.4g}" y="{y:.4g}">{text}</text>')
    for i, label in enumerate(rows):
        panel.parts.append(f'<text class="e" x="{left - 5}" y="{top + (i + 0.5) * h + 4:.4g}">{label}</text>')
    for j, label in enumerate(columns):
        panel.parts.append(f'<text x="{left + (j + 0.5) * w:.4g}" y="13">{label}</text>')
    _marks(panel, changed, 0, "changed")
    _marks(panel, other, 1, "other than it should be")
    return panel


def _cell(longest, high, wide, numbers):
    if not numbers:
        side = min(18, max(3, WIDE // max(wide, 1)), max(3, WIDE // max(high, 1)))
        return side, side
    return max(6.7 * longest + 2.5, min(6.7 * longest + 9, WIDE / max(wide, 1)), 15), 22


def _shades(flat, wide, limit, panel):
    (w, h), (left, top) = panel.unit, panel.origin
    size = f'width="{w:.4g}" height="{h:.4g}"'
    for k, number in enumerate(flat):
        share = 1 if abs(number) > limit else abs(number) / limit
        if share >= 0.005:  # neither 0 nor NaN
            yield (
                f'<rect class="{"p" if number > 0 else "n"}" x="{left + k % wide * w:.4g}" '
                f'y="{top + k // wide * h:.4g}" {size} fill-opacity="{share:.2f}"/>'
            )


def _grid(high, wide, panel):
    (w, h), (left, top) = panel.unit, panel.origin
    across = "".join(f"M{left} {top + i * h:.4g}h{wide * w:.4g}" for i in range(high + 1))
    down = "".join(f"M{left + j * w:.4g} {top}v{high * h:.4g}" for j in range(wide + 1))
    return f'<path class="g" d="{across}{down}"/>'


def _marks(panel, mask, ink, what):
    if mask is None:
        return
    (w, h), (left, top) = panel.unit, panel.origin
    places = np.argwhere(np.atleast_2d(mask)).tolist()
    for i, j in places:
        x, y = left + j * w, top + i * h
        panel.parts.append(
            f'<rect class="f i{ink}" x="{x + 1.5:.4g}" y="{y + 1.5:.4g}" width="{w - 3:.4g}" '
            f'height="{h - 3:.4g}"/>'
        )
        if ink:  # a second sign beside the dashes
            panel.parts.append(
                f'<path class="i{ink}" style="stroke-dasharray:none" d="M{x + 5:.4g} '
                f'{y + h - 4:.4g}h{w - 10:.4g}"/>'
            )
    if places:
        panel.about.append(f"{what}: {'; '.join(f'row {i}, column {j}' for i, j in places)}.")


def picture(image, title="", side=None):
    """Paint a picture (3,H,W) or (H,W): uint8, or floats that are scaled to what there is.

    side: the width of a pixel, by default so that the picture is about 150 wide.
    """
    from PIL import Image

    image = np.asarray(image)
    if image.dtype != np.uint8:
        low, high = image.min(), image.max()
        image = (255 * (image - low) / (high - low or 1)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0) if image.ndim == 3 else image).save(file, "png")
    height, width = image.shape[-2:]
    side = side or max(1, 150 // max(height, width))
    panel = Panel(title, (width * side + 6, height * side + 6), (side, side), f"{height}×{width} pixels.")
    data = base64.b64encode(file.getvalue()).decode()
    panel.parts.append(
        f'<image x="3" y="3" width="{width * side}" height="{height * side}" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )
    return panel


class Plot(Panel):
    """A plot between the limits of its axes; what is outside is cut off."""

    def __init__(self, title, xlim, ylim, xlabel="", ylabel="", size=(280, 170)):
        width, height = size
        self.xlim, self.ylim = xlim, ylim
        limits = [f"{y:.3g}" for y in ylim]
        left, bottom = max(34, 10 + 7 * max(map(len, limits))), 20
        super().__init__(title, size, None, f"A plot of {ylabel or 'y'} over {xlabel or 'x'}.", (left, 6))
        self.inner = width - left - 6, height - bottom - 6
        self.inside, self.names = [], []
        w, h = self.inner
        for y, text in zip(ylim, limits, strict=True):
            self.parts.append(f'<text class="e" x="{left - 4}" y="{self._y(y) + 10}">{text}</text>')
        self.below = [
            f'<text class="{anchor}" x="{left + self._x(x):.4g}" y="{height - 5}">{x:g}</text>'
            for x, anchor in zip(xlim, "se", strict=True)
        ]
        self.below.append(f'<text x="{left + w / 2}" y="{height - 5}">{html.escape(xlabel)}</text>')
        if ylabel:
            self.parts.append(f'<text class="s" x="2" y="{h / 2 + 6}">{html.escape(ylabel)}</text>')
        self.parts.append(f'<path class="g" d="M{left} 6v{h}h{w}"/>')

    def _x(self, x):
        return (x - self.xlim[0]) / (self.xlim[1] - self.xlim[0]) * self.inner[0]

    def _y(self, y):
        return (self.ylim[1] - y) / (self.ylim[1] - self.ylim[0]) * self.inner[1]

    def line(self, xs, ys, ink=SOFT, name="", width=1.6):
        """Join the points; name: what the legend calls the line."""
        points = " ".join(f"{self._x(x):.4g},{self._y(y):.4g}" for x, y in zip(xs, ys, strict=True))
        self.inside.append(f'<polyline class="i{ink}" fill="none" stroke-width="{width}" points="{points}"/>')
        if name:
            self.names.append((ink, name))
        return self

    def level(self, y, ink=SOFT, name=""):
        """Draw a horizontal line."""
        return self.line(self.xlim, (y, y), ink, name, 1)

    def dots(self, xs, ys, ink=0, size=4):
        """Draw a dot at each point, of the ink's own form."""
        form = INKS[ink][3]
        for x, y in zip(xs, ys, strict=True):
            self.inside.append(_dot(form, self._x(x), self._y(y), size, ink))
        return self

    def bars(self, values, inks, names=None, fmt=""):
        """Draw bars from 0, side by side; fmt: also write their values; names: under the bars."""
        each, self.below = self.inner[0] / len(values), []
        for k, (value, ink) in enumerate(zip(values, inks, strict=True)):
            top, zero = sorted((self._y(value), self._y(0)))
            self.inside.append(
                f'<rect class="d{ink}" x="{(k + 0.15) * each:.4g}" y="{top:.4g}" width="{0.7 * each:.4g}" '
                f'height="{max(zero - top, 0.5):.4g}"/>'
            )
            if fmt:
                text = fmt.format(value)
                self.inside.append(f'<text x="{(k + 0.5) * each:.4g}" y="{top - 4:.4g}">{text}</text>')
                self.about.append(f"Bar {k}: {text}.")
            if names:
                x = self.origin[0] + (k + 0.5) * each
                self.parts.append(f'<text x="{x:.4g}" y="{self.size[1] - 5}">{html.escape(names[k])}</text>')
        return self

    def html(self):
        """Return the plot as a <figure>, its legend below."""
        (left, top), (w, h) = self.origin, self.inner
        self.parts += self.below
        self.parts.append(
            f'<svg x="{left}" y="{top}" width="{w}" height="{h}" style="overflow:hidden">'
            f"{''.join(self.inside)}</svg>"
        )
        for ink, name in self.names:
            line = f'<path class="i{ink}" d="M0 4h26" stroke-width="2"/>'
            line = f'<svg width="26" height="8" style="display:inline" aria-hidden="true">{line}</svg>'
            self.notes.append(f"{line} {html.escape(name)}")
            self.about.append(f"Line: {name}.")
        self.inside, self.names, self.below = [], [], []
        return super().html()


def _dot(form, x, y, size, ink):
    if form == "circle":
        return f'<circle class="d{ink}" cx="{x:.4g}" cy="{y:.4g}" r="{size}"/>'
    corners = {
        "square": [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        "triangle": [(0, -1.2), (1.2, 1), (-1.2, 1)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    }[form]
    points = " ".join(f"{x + size * dx:.4g},{y + size * dy:.4g}" for dx, dy in corners)
    return f'<polygon class="d{ink}" points="{points}"/>'


def plot(title, xlim, ylim, xlabel="", ylabel="", size=(280, 170)):
    """Return an empty plot; line, level, dots and bars draw into it."""
    return Plot(title, xlim, ylim, xlabel, ylabel, size)


def row(*panels, caption=""):
    """Return HTML: panels side by side, below each other where the screen is narrow."""
    below = f"<p>{html.escape(caption)}</p>" if caption else ""
    return f'<div class="tx-row">{"".join(panel.html() for panel in panels)}</div>{below}'


def page(*parts):
    """Return HTML that can be shown as it is: rows and text, with their style."""
    return f'<style>{STYLE}</style><div class="tx">{"".join(parts)}</div>'
