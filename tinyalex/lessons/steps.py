"""Stepping through a computation: one window, one unit, one update at a time.

In a notebook with a kernel and ipywidgets there is a slider; everywhere else (a page of the course, a
frontend without widgets) the same frames lie side by side in a strip that is swiped or clicked through.
"""

import base64
import importlib.util
import io
import os

from matplotlib.figure import Figure

STATIC = "TINYALEX_STATIC"  # set in the environment where nobody is there to move a slider
DPI = 100


def step_through(draw, count, size=(7, 2.6)):
    """Show steps 0 … count − 1 of a computation; draw(k, figure) draws step k into an empty figure.

    size: inches.  All frames are drawn at once, so that later cells may use the same names for other things.
    """
    from IPython.display import HTML, display

    frames = [_png(draw, k, size) for k in range(count)]
    if os.environ.get(STATIC) or not importlib.util.find_spec("ipywidgets"):
        display(HTML(_strip(frames)))
    else:
        display(_slider(frames))


def _png(draw, k, size):
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    draw(k, figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _slider(frames):
    import ipywidgets as widgets

    last = len(frames) - 1
    image = widgets.Image(value=frames[0], format="png", layout={"max_width": "100%"})
    play = widgets.Play(min=0, max=last, interval=900)
    slider = widgets.IntSlider(min=0, max=last, description="step", layout={"width": "26em"})
    widgets.jslink((play, "value"), (slider, "value"))
    slider.observe(lambda change: setattr(image, "value", frames[change["new"]]), names="value")
    return widgets.VBox([widgets.HBox([play, slider]), image])


def _strip(frames):
    """Return HTML: the frames in a row of which one is seen; swipe, scroll or press the buttons."""
    button = (
        '<button aria-label="{name} step" '
        "onclick=\"let s=this.closest('.steps').lastElementChild;"
        "s.scrollBy({{left:{sign}s.clientWidth,behavior:'smooth'}})\">{text}</button>"
    )
    buttons = button.format(name="previous", sign="-", text="◀") + button.format(
        name="next", sign="", text="▶"
    )
    images = "".join(
        '<figure style="flex:0 0 100%;scroll-snap-align:start;margin:0;text-align:center">'
        f'<img alt="step {k + 1} of {len(frames)}" style="max-width:100%;height:auto" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>step {k + 1} of {len(frames)}</figcaption></figure>"
        for k, png in enumerate(frames)
    )
    return (
        f'<div class="steps"><div>{buttons}</div>'
        f'<div style="display:flex;overflow-x:auto;scroll-snap-type:x mandatory">{images}</div></div>'
    )
