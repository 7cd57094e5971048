"""The lessons: sources and notebooks in step, run with and without solutions, wrong answers, the pages."""

import ast
import html
import importlib.util
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tinyalex.data import shapes
from tinyalex.errors import DataError
from tinyalex.lessons import checks, course, notebook, site, zero

for name in ("nbclient", "ipykernel", "jupytext", "latex2mathml", "mdit_py_plugins"):
    pytest.importorskip(name, reason="the lessons need their extra: pip install 'tinyalex[lessons]'")
nbformat = pytest.importorskip("nbformat")

LESSONS = Path(__file__).parents[1] / "lessons"
STEMS = [path.stem for path in sorted(LESSONS.glob("[0-9][0-9]_*.py"))]
HOLES = [(stem, hole) for stem in STEMS for hole in checks.holes_of(int(stem[:2])).values()]
EACH_LESSON = pytest.mark.parametrize("stem", STEMS)
EACH_HOLE = pytest.mark.parametrize(
    ("stem", "hole"), HOLES, ids=[f"{stem[:2]}-{hole.name}" for stem, hole in HOLES]
)


def _asked(stem):
    """{name: hole or exercise} of a lesson: what its learner completes."""
    return notebook.asked(int(stem[:2]))


def _book(stem):
    return nbformat.read(LESSONS / f"{stem}.ipynb", 4)


def _with_solutions(stem):
    book, holes = _book(stem), _asked(stem)
    for cell in book.cells:
        if cell.cell_type == "code" and (name := site.hole_in(cell.source)) in holes:
            cell.source = holes[name].source
    return book


def _texts(book):
    outputs = [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    errors = ["\n".join(o.traceback) for o in outputs if o.output_type == "error"]
    assert not errors, errors[0]
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")


def _kernels_seconds():
    """CPU time of all kernels that have ended."""
    times = os.times()
    return times.children_user + times.children_system


# With the solutions nobody looks at the pictures: they are drawn, lest that fail, but not laid out.
WITH_SOLUTIONS = """
%reset -f
from unittest import mock
mock.patch("matplotlib.figure.Figure.set_layout_engine").start()
%config InlineBackend.print_figure_kwargs = {"bbox_inches": None}
del mock
"""

# Nothing that an earlier lesson imported of tinyalex, and no name of its own, is there in the next.
NEXT_LESSON = """
import sys
from unittest import mock
mock.patch.stopall()
%config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight"}
for name in [name for name in sys.modules if name.partition(".")[0] == "tinyalex"]:
    del sys.modules[name]
%reset -f
"""


@pytest.fixture(scope="module")
def ran(request):
    """{stem: (the lesson as shipped, with solutions)}, of the lessons that the selected tests ask for.

    One kernel a core runs them one after the other: to start one, and to import NumPy and Matplotlib, costs
    seconds.
    """
    wanted = {item.callspec.params.get("stem") for item in request.session.items if hasattr(item, "callspec")}
    pairs = {stem: (_book(stem), _with_solutions(stem)) for stem in STEMS if stem in wanted}
    cores = min(len(pairs), os.cpu_count() or 1)
    whole = [nbformat.v4.new_notebook() for _ in range(cores)]
    for k, (shipped, solved) in enumerate(pairs.values()):
        again, after = map(nbformat.v4.new_code_cell, (WITH_SOLUTIONS, NEXT_LESSON))
        whole[k % cores].cells += [*shipped.cells, again, *solved.cells, after]
    start = _kernels_seconds()
    course.execute(whole, stop=False)  # into the cells, which the pairs share
    cpu = _kernels_seconds() - start
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\nlessons as shipped, then with solutions: {cpu:.0f} seconds of CPU time")
    assert cpu < 30 * len(pairs)  # not the seconds on the clock: the machine may be busy
    return pairs


@pytest.fixture(scope="module")
def shipped(ran):
    return {stem: pair[0] for stem, pair in ran.items()}


@pytest.fixture(scope="module")
def solved(ran):
    return {stem: pair[1] for stem, pair in ran.items()}


@EACH_LESSON
def test_notebook_is_built_from_its_source(stem):
    spec = importlib.util.spec_from_file_location("build", LESSONS / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    text = (LESSONS / f"{stem}.ipynb").read_text(encoding="utf-8")
    assert text == build.notebook(LESSONS / f"{stem}.py"), "run: python lessons/build.py"


@EACH_LESSON
def test_every_hole_has_its_cell_and_its_check(stem):
    code = [cell.source for cell in _book(stem).cells if cell.cell_type == "code"]
    for name, hole in _asked(stem).items():
        (source,) = [text for text in code if site.hole_in(text) == name]
        (shown,) = ast.parse(source).body  # the cell holds nothing else
        (solution,) = ast.parse(hole.source).body
        assert ast.unparse(shown.args) == ast.unparse(solution.args)
        assert ast.get_docstring(shown) == ast.get_docstring(solution)
        (helped,) = [text for text in code if f"check({name})" in text]
        assert f'# hint("{name}")' in helped
        assert f'# solution("{name}")' in helped
        assert len(hole.hints) >= 2


@EACH_LESSON
def test_as_shipped_every_check_answers_not_yet(stem, shipped):
    text = _texts(shipped[stem])
    for name in _asked(stem):
        assert f"{checks.NOT_YET}: {name}\n" in text
    assert checks.PASSED not in text
    assert checks.WRONG not in text


@EACH_LESSON
def test_with_the_solutions_every_check_passes(stem, solved):
    text = _texts(solved[stem])
    for name in _asked(stem):
        assert f"{checks.PASSED}: {name}\n" in text
    assert checks.NOT_YET not in text
    assert checks.WRONG not in text


@EACH_HOLE
def test_each_typical_wrong_answer_is_told_what_is_wrong_with_it(stem, hole):
    mistakes = hole.mistakes()
    assert len({message for _, message in mistakes}) == len(mistakes) >= 3
    for function, message in mistakes:
        assert checks.judge(hole, function) == (checks.WRONG, message)


@EACH_HOLE
def test_each_solution_passes_and_leaves_its_arguments_alone(stem, hole):
    again = hole.compiled(hole.source)
    assert checks.judge(hole, again) == (checks.PASSED, "")
    for args in hole.cases(np.random.default_rng(1)):
        kept = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
        hole.solution(*args)
        for a, b in zip(args, kept, strict=True):
            np.testing.assert_array_equal(a, b)


class _Page(HTMLParser):
    """What a page points to, and what it has."""

    def __init__(self, path):
        super().__init__()
        self.links, self.sources, self.tags = [], [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag == "a":
            self.links.append(attrs["href"])
        if tag == "img":
            assert attrs["alt"]
        if tag in ("img", "script", "link", "iframe"):
            self.sources.append(attrs.get("src") or attrs.get("href"))


@pytest.fixture(scope="module")
def pages(shipped, tmp_path_factory):
    out = tmp_path_factory.mktemp("pages") / "course"
    return {path.stem: path for path in site.write(shipped, out)}


@EACH_LESSON
def test_page_is_whole(stem, pages):
    page = _Page(pages[stem])
    for link in page.links:
        assert (pages[stem].parent / link.partition("#")[0]).exists(), link
    assert all(source.startswith("data:") for source in page.sources)  # nothing is fetched
    assert {"img", "svg"} & set(page.tags)
    assert "math" in page.tags
    text = pages[stem].read_text(encoding="utf-8")
    assert len(re.findall("<summary>Solution</summary>", text)) == len(_asked(stem))
    visible = re.sub(r"<(pre|style|details)\b.*?</\1>|<[^>]*>", "", text, flags=re.DOTALL)
    assert "$" not in visible  # every formula was set
    assert "\\" not in visible


@EACH_LESSON
def test_the_teacher_s_page_has_minutes_mistakes_and_questions(stem, pages):
    page = pages[f"teacher_{stem[:2]}"]
    assert all((page.parent / link).exists() for link in _Page(page).links if ":" not in link)
    text = re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", "", page.read_text(encoding="utf-8"))))
    assert re.search(r"About \d+ minutes", text)
    for hole in _asked(stem).values():
        for *_, message in hole.wrong:
            said = re.sub(r"<[^>]*>", "", site._markdown().render(message))
            assert re.sub(r"\s+", " ", html.unescape(said)).strip() in text
    asked, answered = text.split(" Questions ")[1].split(" Solutions ")[0].split("What we would answer")
    assert len(asked) > 100
    assert len(answered) > 100
    assert len(text.split("Ask before they run it ")[1].split("Let them write")[0]) > 100
    assert f'href="teacher_{stem[:2]}.html"' in pages[stem].read_text(encoding="utf-8")
    assert f'href="teacher_{stem[:2]}.html"' in pages["teachers"].read_text(encoding="utf-8")


def test_the_library_s_pages_are_linked_where_they_are(tmp_path):
    for folder, linked in ((tmp_path / "without", False), (tmp_path / "with", True)):
        if linked:
            (folder / "library").mkdir(parents=True)
        (index, *_) = site.write({}, folder)
        assert ("library/index.html" in index.read_text(encoding="utf-8")) == linked


def test_a_shape_drawn_on_paper_is_named(tmp_path, capsys):
    net = zero.trained()
    up = np.linspace(1.3, -1.3, 300)[:, None]
    for k, shape in enumerate(shapes.SHAPES.values()):
        paper = np.where(shape(up, -up.T) < 0, 45, 225 - 20 * up).astype(np.uint8)
        Image.fromarray(paper).save(tmp_path / "photograph.jpg")
        picture = zero.photograph(tmp_path / "photograph.jpg")
        assert net.forward(zero.seen(picture[..., None]))[:, 0].argmax() == k
    assert capsys.readouterr().out == ""
    star = zero.photograph(tmp_path / "none.jpg")
    assert net.forward(zero.seen(star[..., None]))[:, 0].argmax() == list(shapes.SHAPES).index("star")
    assert "There is no" in capsys.readouterr().out
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.jpg: expected a picture"):
        zero.photograph(tmp_path / "text.jpg")


LOOK = """
await document.fonts.ready;
const bad = (all, good) => [...all].filter(e => !good(e)).length;
const size = e => e.getBoundingClientRect();
return {
    pictures: bad(document.images, e => e.complete && e.naturalWidth > 0),
    formulas: bad(document.querySelectorAll('math'), e => size(e).width > 0 && size(e).height > 0),
    font: [...document.fonts].every(f => f.status == 'loaded'),
    width: document.documentElement.scrollWidth,
}
"""


@EACH_LESSON
def test_page_in_a_browser_on_a_phone(stem, pages, browser):
    browser.get(pages[stem].as_uri())
    found = browser.execute_script(f"return (async () => {{{LOOK}}})()")
    assert found == {"pictures": 0, "formulas": 0, "font": True, "width": 390}
    buttons = browser.find_elements("css selector", ".steps button[aria-label='next step']")
    assert buttons
    browser.execute_script("arguments[0].click()", buttons[0])
    moved = "return document.querySelector('.steps').lastElementChild.scrollLeft"
    for _ in range(50):
        if browser.execute_script(moved) > 0:
            break
        time.sleep(0.1)
    assert browser.execute_script(moved) > 0
    assert browser.get_log("browser") == []
