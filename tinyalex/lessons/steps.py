"""Stepping through a computation: one window, one unit, one update at a time.

The frames lie side by side in a strip of which one is seen.  Buttons, a slider (arrow keys, Home, End) and a
finger move it, in a notebook and on a page alike: nothing is needed but the HTML itself.
"""

import html

from tinyalex.lessons import paint

STYLE = """
.steps .strip{display:flex;overflow-x:auto;scroll-snap-type:x mandatory;scrollbar-width:none}
.steps .strip::-webkit-scrollbar{display:none}
.steps section{flex:0 0 100%;min-width:0;box-sizing:border-box;scroll-snap-align:start;padding:.3rem 4px}
.steps .bar{display:flex;flex-wrap:wrap;align-items:center;gap:.4rem;margin:.4rem 0}
.steps button{font-size:1rem;min-width:3.2rem;min-height:2.5rem}
.steps input{flex:1 1 9rem;max-width:22rem;min-height:2.5rem;margin:0}
@media print{.steps .strip{display:block}.steps .bar{display:none}}
"""
_OURS = 'data-lm-suppress-shortcuts="true"'  # JupyterLab would take the arrow keys for its own commands
_STRIP = "let s=this.closest('.steps').querySelector('.strip');"
_MOVE = "s.scrollLeft=({0})*s.clientWidth;"
_NOW = "Math.round(s.scrollLeft/s.clientWidth)"
_PLAY = (
    "let b=this;if(b.t){clearInterval(b.t);b.t=0;b.textContent='play'}else{"
    f"b.textContent='stop';b.t=setInterval(()=>{{if({_NOW}>=s.children.length-1)b.click();"
    f"else {_MOVE.format(_NOW + '+1')}}},900)}}"
)
_SCROLLED = (
    "let r=this.closest('.steps').querySelector('input');"
    "r.value=Math.round(this.scrollLeft/this.clientWidth);"
    "r.setAttribute('aria-valuetext',this.children[r.value].getAttribute('aria-label'))"
)


def step_through(paint_step, count):
    """Show steps 0 … count − 1 of a computation; paint_step(k) returns the HTML of step k (`paint.row`).

    All are painted at once, so that later cells may use the same names for other things.
    """
    from IPython.display import HTML, display

    display(HTML(strip([paint_step(k) for k in range(count)])))


def strip(frames):
    """Return HTML: the frames in a row of which one is seen."""
    count = len(frames)
    sections = "".join(
        f'<section aria-label="step {k + 1} of {count}">{frame}'
        f'<p class="tx-soft">step {k + 1} of {count}</p></section>'
        for k, frame in enumerate(frames)
    )
    button = f'<button type="button" {_OURS} aria-label="{{}}" onclick="{{}}">{{}}</button>'
    bar = (
        button.format("previous step", _STRIP + _MOVE.format(_NOW + "-1"), "◀")
        + button.format("next step", _STRIP + _MOVE.format(_NOW + "+1"), "▶")
        + button.format("play the steps", _STRIP + _PLAY, "play")
        + f'<input type="range" {_OURS} aria-label="step" min="0" max="{count - 1}" value="0" '
        f'oninput="{html.escape(_STRIP + _MOVE.format("this.value"))}">'
    )
    return paint.page(
        f"<style>{STYLE}</style>"
        f'<div class="steps" role="group" aria-label="{count} steps">'
        f'<div class="bar">{bar}</div>'
        f'<div class="strip" tabindex="0" {_OURS} onscroll="{_SCROLLED}">{sections}</div></div>'
    )
