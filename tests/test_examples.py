"""The examples run and assert what they claim; so does the README's Python; the pages have every name."""

import importlib
import re
import runpy
from pathlib import Path

import pytest

import tinyalex
from tinyalex.cli import learn
from tinyalex.lessons import lesson, trace
from tinyalex.lessons.checks import holes_of

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PYTHON = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_there_are_five():
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_in_the_readme_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[number], f"README.md, block {number + 1}", "exec"), {})


def test_the_readme_shows_an_operation_as_it_stands():
    plain = (ROOT / "tinyalex" / "ops" / "plain.py").read_text(encoding="utf-8")
    assert PYTHON[0].startswith("def max_pool_backward")
    assert PYTHON[0] in plain


def test_the_readme_shows_a_verdict_as_it_is_given(capsys):
    hole = holes_of(5)["add_back"]
    check, *_ = lesson(5)
    check(trace.compiled(hole, hole.source.replace("+=", "=")))
    said = " ".join(capsys.readouterr().out.split())
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert said[: said.index("tutor(")].strip() in readme


@pytest.mark.parametrize("name", tinyalex.PUBLIC)
def test_what_is_public_is_there_and_told_of(name):
    module = importlib.import_module(f"tinyalex.{name}")
    assert module.__doc__
    assert f"tinyalex.{name} " in tinyalex.__doc__
    for exported in getattr(module, "__all__", []):
        assert hasattr(module, exported)


def test_pages_of_the_library(tmp_path):
    pytest.importorskip("pdoc")
    learn.docs(tmp_path / "pages")
    pages = {
        path.stem: path.read_text(encoding="utf-8")
        for path in (tmp_path / "pages" / "tinyalex").glob("*.html")
    }
    assert set(tinyalex.PUBLIC) <= pages.keys()
    for name, words in {
        "ops": "conv2d_backward",
        "nn": "Conv2d",
        "models": "alexnet",
        "train": "fit",
    }.items():
        assert f'id="{words}"' in pages[name]
