"""The course as static pages: the notebooks as run, formulas as MathML, hints and solutions folded.

A page needs nothing but itself: pictures and style are inside, and no script is loaded.
"""

import base64
import html
import re
from functools import cache, partial
from importlib import resources

import nbformat

from tinyalex.lessons import course, teacher, trace, tutor
from tinyalex.lessons.checks import Hole
from tinyalex.lessons.notebook import asked
from tinyalex.lessons.page import page

STYLE = """
@font-face { font-family: "STIX Two Math"; src: url(data:font/woff2;base64,FONT); }
:root { --ink: #1f2328; --soft: #59636e; --line: #d5dae0; --paper: #fff; --code: #f5f6f8; --mark: #b3400b;
  --link: #0b57a4; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 48rem; padding: 0 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1.06rem/1.6 Georgia, "Noto Serif", "DejaVu Serif", serif; overflow-wrap: break-word; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e2e6ea; --soft: #9aa4af; --line: #3a424c; --paper: #14171b; --code: #1e2329;
    --mark: #ff9d66; --link: #8ab8ff; color-scheme: dark; }
  .figure img { background: #fff; padding: 4px; border-radius: 5px; }
}
h1, h2, h3, nav, summary, button, figcaption, th { font-family: system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 1.2rem 0; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
nav { display: flex; justify-content: space-between; gap: 1rem; padding: .8rem 0; font-size: .92rem; }
a { color: var(--link); }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
code { font-size: .88em; background: var(--code); padding: .08em .25em; border-radius: 3px; }
pre { font-size: .84rem; line-height: 1.5; margin: .8rem 0; padding: .7rem .9rem; overflow-x: auto;
  background: var(--code); border-radius: 5px; }
pre code { background: none; padding: 0; font-size: inherit; }
pre.out { background: none; border-left: 3px solid var(--line); border-radius: 0; white-space: pre-wrap; }
pre.verdict { border-color: var(--mark); }
img { max-width: 100%; height: auto; }
.figure { overflow-x: auto; }
.figure img { display: block; margin: .6rem auto; max-width: max(100%, 33rem); }
blockquote { margin: 1rem 0; padding: 0 1rem; border-left: 3px solid var(--mark); color: var(--soft); }
div.math { overflow-x: auto; overflow-y: hidden; padding: .3rem 0; }
math { font-family: "STIX Two Math", math; font-size: 1.04em; }
mtd[columnalign="left"] { text-align: left; padding-left: 0; }
mtd[columnalign="right"] { text-align: right; padding-right: 0; }
.together { white-space: nowrap; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .94rem; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .7rem .35rem 0;
  text-align: left; vertical-align: top; }
details { margin: .5rem 0; padding: .1rem .9rem; border: 1px solid var(--line); border-radius: 5px; }
summary { cursor: pointer; padding: .45rem 0; font-size: .95rem; }
details.drawing { border: 0; padding: 0; }
details.drawing summary { color: var(--soft); font-size: .85rem; }
@media print { details > * { display: block; } }
"""

FONT = "stix-two-math.woff2"  # no device has to have a font for formulas
_TOGETHER = r'<span class="together">\1\2</span>'

FOR_TEACHERS = """
<p><a href="teachers.html">For teachers</a>: of each lesson the minutes, what students get wrong
and what to say then, questions.</p>
"""
LIBRARY = """
<p><a href="library/index.html">The library</a>: what its operations, layers and networks are called.</p>
"""


def build(out, progress=lambda doing, done, of: None):
    """Run the course and write its pages into the folder `out`; return the paths.

    progress(doing, done, of) is called after each cell that was run, and each page.
    """
    course.need("nbclient", "ipykernel", "latex2mathml", "markdown_it", "mdit_py_plugins", "pygments")
    out.mkdir(parents=True, exist_ok=True)
    books = {path.stem: nbformat.read(path, 4) for path in course.notebooks()}
    course.execute(books.values(), on_cell=partial(progress, "running cell"))
    return write(books, out, partial(progress, "writing page"))


def nothing_more(stem):
    """Return what a page has in its head and behind its text, beside what is read."""
    return "", ""


def write(books, out, on_page=lambda done, of: None, cells=None, more=nothing_more, start=None):
    """Write executed notebooks {stem: notebook} as pages, and the map as index.html; return the paths.

    Beside them a page for the teacher of each, and teachers.html, the list of these.

    cells(book, holes, markdown) yields the HTML of a lesson, by default `to_read`; more(stem) returns what
    else goes into the page's head and behind its text (stem None: the map).  start: what the map says of how
    to start, by default how the notebooks are opened.
    """
    out.mkdir(parents=True, exist_ok=True)
    cells, markdown = cells or to_read, _markdown()
    stems, holes = list(books), {}
    text = (course.folder() / "README.md").read_text(encoding="utf-8")
    if start:
        text = re.sub(r"(?s)(## How to start\n).*?(?=## )", lambda found: f"{found[1]}{start}", text)
    contents = markdown.render(text) + FOR_TEACHERS
    if (out / "library").is_dir():  # `tinyalex docs` was there before
        contents += LIBRARY
    written = [
        _write(out / "index.html", contents, _nav(None, None, stems[0] if stems else None), *more(None))
    ]
    (out / "touch").mkdir(exist_ok=True)
    touch = course.touch_page().replace("../README.md", "../index.html").replace('.ipynb"', '.html"')
    (out / "touch" / "index.html").write_text(touch, encoding="utf-8")
    for before, stem, after in zip([None, *stems], stems, [*stems[1:], None], strict=False):
        holes[stem] = asked(int(stem[:2]))
        body = "\n".join(cells(books[stem], holes[stem], markdown))
        written.append(_write(out / f"{stem}.html", body, _nav(before, stem, after), *more(stem)))
        on_page(len(written) - 1, len(books))
    nav = '<nav><a href="index.html">contents</a><a href="teachers.html">for teachers</a></nav>'
    written.append(_write(out / "teachers.html", teacher.contents(books, holes), nav))
    for stem, book in books.items():
        body = teacher.page(stem, book, holes[stem], markdown, listing)
        written.append(_write(out / f"teacher_{stem[:2]}.html", body, nav))
    return written


def _write(path, body, nav, head="", foot=""):
    from pygments.formatters import HtmlFormatter

    title = html.escape(re.sub("<[^>]*>", "", re.search(r"<h1>(.*?)</h1>", body, re.DOTALL)[1]))
    font = base64.b64encode(resources.files("tinyalex.lessons").joinpath(FONT).read_bytes()).decode()
    light, dark = (
        HtmlFormatter(style=name).get_style_defs("pre.code") for name in ("default", "github-dark")
    )
    style = f"{STYLE.replace('FONT', font)}{light}@media (prefers-color-scheme: dark) {{{dark}}}"
    body = re.sub(r'(href="[^":/]*)\.ipynb"', r'\1.html"', body)
    # a comma or full stop stays with the formula before it
    body = re.sub(r'(<span class="math inline">(?:(?!</span>).)*</span>)([.,:;)]+)', _TOGETHER, body)
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    for wide in ("table", "math block"):  # what may be wider than a phone can be scrolled by keyboard
        body = body.replace(f'<div class="{wide}">', f'<div class="{wide}" tabindex="0">')
    body = body.replace("<pre><code", '<pre tabindex="0"><code')
    above, below = (nav.replace("<nav>", f'<nav aria-label="course{more}">') for more in ("", ", below"))
    text = page(title, style, body, head, f"{above}\n", f"{below}{foot}\n")
    path.write_text(text, encoding="utf-8")
    return path


def _nav(before, stem, after):
    teachers = f"teacher_{stem[:2]}.html" if stem else "teachers.html"
    links = [
        f'<a href="{before}.html">← lesson {int(before[:2])}</a>' if before else "<span></span>",
        f'<span><a href="index.html">contents</a> · <a href="{teachers}">for teachers</a></span>',
        f'<a href="{after}.html">lesson {int(after[:2])} →</a>' if after else "<span></span>",
    ]
    return f"<nav>{''.join(links)}</nav>"


def _markdown():
    from latex2mathml.converter import convert
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def mathml(text, options):
        text = text.strip().replace("{aligned}", "{split}")  # the name that the converter knows
        return convert(text, display="block" if options["display_mode"] else "inline")

    return MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin, renderer=mathml)


def to_read(book, holes, markdown):
    """Yield the HTML of a lesson's cells: texts, code with what it showed, help under each hole."""
    heading = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            heading = heading_of(cell) or heading
            yield markdown.render(cell.source)
            continue
        yield code_of(cell)
        for output in cell.outputs:
            yield shown(output, heading)
        if (name := hole_in(cell.source)) in holes:
            yield help_of(holes[name], markdown)


def heading_of(cell):
    """Return the last heading in a cell of text, or None."""
    return next(reversed(re.findall(r"^#+ (.*)", cell.source, re.MULTILINE)), None)


def code_of(cell):
    """Return a cell's code, folded if it only draws."""
    code = listing(re.sub(r"(?m)^# (hint|solution)\(.*\n?", "", cell.source).rstrip())
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        return f'<details class="drawing"><summary>how it is drawn</summary>{code}</details>'
    return code


def hole_in(source):
    """Return the name of the function that a cell defines first, or None."""
    found = re.search(r"^def (\w+)\(", source, re.MULTILINE)
    return found and found[1]


@cache
def _html():
    """Return what writes Python in its colours: it takes as long to make as to write a cell."""
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return PythonLexer(), HtmlFormatter(nowrap=True)


def listing(source):
    """Return Python in its colours."""
    from pygments import highlight

    return f'<pre class="code" tabindex="0">{highlight(source, *_html())}</pre>'


def shown(output, heading):
    """Return what a cell showed."""
    if output.output_type == "stream":
        kind = "out verdict" if output.text.startswith(("✓", "…", "✗")) else "out"
        return f'<pre class="{kind}">{html.escape(output.text.rstrip())}</pre>'
    data = output.data
    if "text/html" in data:
        return data["text/html"]
    if "image/png" in data:
        source = f"data:image/png;base64,{data['image/png'].strip()}"
        return f'<div class="figure" tabindex="0"><img alt="{html.escape(heading)}" src="{source}"></div>'
    return f'<pre class="out">{html.escape(data["text/plain"])}</pre>'


def help_of(hole, markdown):
    """Return the hints, the typical wrong answers and the solution, one under the other, all folded."""
    folded = [(f"Hint {k}", markdown.render(text)) for k, text in enumerate(hole.hints, 1)]
    if wrong := [_wrong(hole, *answer, markdown) for answer in hole.wrong if len(answer) == 3]:
        folded.append(("Wrong answers", "".join(wrong)))
    folded.append(("Solution", listing(hole.source)))
    return "\n".join(f"<details><summary>{title}</summary>{body}</details>" for title, body in folded)


def _wrong(hole, old, new, message, markdown):
    """Return a typical wrong answer: its line, what check says, and what the tutor shows."""
    if not isinstance(hole, Hole):  # an exercise
        return f"{listing(new)}{markdown.render(message)}"
    function = trace.compiled(hole, hole.source.replace(old, new))
    return f"{markdown.render(message)}{tutor.explain(hole, function, walk=False)}"
