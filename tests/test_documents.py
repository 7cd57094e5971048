"""The documentation and the notebooks: links lead to files and headings, counts are those of the sources."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import typer

from tinyalex import cli
from tinyalex.lessons.checks import LESSONS
from tinyalex.lessons.live.check import answers
from tinyalex.lessons.notebook import asked

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "lessons/*.md", "lessons/*.ipynb", "measured/**/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\]\(\s*([^)\s]+)\s*\)|(?:href|src)=\"([^\"]+)\"")


def text_of(path):
    """The Markdown of a document, or of a notebook's cells, without blocks of code."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    return re.sub(r"(?s)```.*?```", "", text)


def headings(path):
    """The names that GitHub gives a document's headings."""
    found = [
        re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"(?m)^#+ (.*)$", text_of(path))
    ]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_the_live_course_was_measured_with_the_answers_that_there_are():
    holes = [hole for number in LESSONS for hole in asked(number).values()]
    wrong = sum(text != hole.source for hole in holes for text in answers(hole))  # as the command counts
    assert f"{len(holes)} solutions pass, {wrong} wrong answers are told" in text_of(
        Path("measured/README.md")
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_links_lead_somewhere(document):
    for link in map("".join, LINK.findall(text_of(document))):
        target, _, heading = link.partition("#")
        there = (ROOT / document.parent / target).resolve() if target else ROOT / document
        if not re.match("[a-z]+:", link) and target != "touch/index.html":  # it is made with the copies
            assert there.exists(), f"{link}: no such file"
            if heading and there.suffix in (".md", ".ipynb"):
                assert heading in headings(there.relative_to(ROOT)), f"{link}: no such heading"


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if "touch/" in text_of(path)], ids=str)
def test_where_the_page_to_touch_is_missing_is_said_beside_the_first_link_to_it(document):
    """On GitHub, which shows the lessons as they lie there."""
    beside = text_of(document).split("touch/index.html", 1)[1][:400]
    assert re.search(r"GitHub\s+does not show", beside)


# ---- scripts and commands ----------------------------------------------------------------------------

SCRIPTS = sorted(
    path.relative_to(ROOT) for folder in ("examples", "measured") for path in ROOT.glob(f"{folder}/**/*.py")
)
CODE = re.compile(r"(?ms)^```\w*\n(.*?)^```|`((?:[^`\n]|\n(?!\n))+)`|(?<=\n\n)((?: {4}[^\n]*\n)+)")
COMMANDS = typer.main.get_command(cli.app)


def code_of(path):
    """Each line or span of code that a document shows."""
    for fenced, span, indented in CODE.findall((ROOT / path).read_text(encoding="utf-8")):
        yield from [" ".join(span.split())] if span else (fenced or indented).splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_every_script_is_named_by_a_document_or_used_by_one_that_is(script):
    named = [
        path
        for path in DOCUMENTS
        if path.name != "CHANGELOG.md" and script.name in (ROOT / path).read_text("utf-8")
    ]
    used = [
        path
        for path in SCRIPTS
        if re.search(rf"(?m)^(from|import) {script.stem}\b", (ROOT / path).read_text("utf-8"))
    ]
    assert named or used


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.suffix == ".md"], ids=str)
def test_every_command_that_is_shown_exists(document):
    for line in code_of(document):
        for shown in re.findall(r"(?:^|[\s/])tinyalex ([^|&#;]+)", line):
            assert not unknown(shown.split()), f"tinyalex {shown}"
        for script in re.findall(r"python3? ((?:measured|examples)/\S+\.py)", line):
            assert (ROOT / script).exists(), script
        for module in re.findall(r"python3? -m (tinyalex[\w.]*)", line):
            assert importlib.util.find_spec(module), module


def unknown(words):
    """The first word of a command line that names no command or option of tinyalex; None if all do."""
    command = COMMANDS
    for word in words:
        if word.startswith("--"):
            options = {
                name for c in (COMMANDS, command) for p in c.params for name in (*p.opts, *p.secondary_opts)
            }
            if word.partition("=")[0] not in {*options, "--help"}:
                return word
        elif hasattr(command, "commands"):
            if word in command.commands:
                command = command.commands[word]
            elif re.fullmatch("[a-z-]+", word):
                return word
    return None
