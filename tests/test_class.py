"""`tinyalex class`: answers in a locked process, marked; notebooks handed out, collected, told of.

`measured/class_of_200.py` is the whole class with every trick; here are some of them.
"""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from tinyalex import cli
from tinyalex.errors import DataError
from tinyalex.lessons import apart, checks, classroom, course, marking, notebook, sandbox

sys.path.insert(0, str(Path(__file__).parents[1] / "measured"))

import class_of_200 as made

HOLE = checks.holes_of(5)["add_back"]
LOCKED = pytest.mark.skipif(bool(sandbox.missing()), reason=sandbox.missing())


def _marked(text, name="add_back", lesson=5, before=()):
    return marking.mark(marking.Answer(lesson, name, text, tuple(before)), seed=7)


@LOCKED
@pytest.mark.parametrize(
    "trick",
    [
        "NumPy exchanged",
        "bytes into every file that is open",
        "views from beyond the arguments",
        "the solutions imported",
        "the solutions read",
        "another process's memory",
        "an object equal to everything",
        "forks by system call",
        "results known by heart",
        "writes into others' files",
        "calls out",
    ],
)
def test_a_trick_changes_no_mark_and_no_file(trick, tmp_path):
    canary = tmp_path / "canary"
    canary.write_text(HOLE.source)
    places = {"HOLES": str(Path(checks.__file__).with_name("holes") / "lesson05.py"), "VICTIM": str(canary),
              "CANARY": str(canary), "PORT": 9, "LESSON": 5, "TABLE": made.known_by_heart(HOLE)}  # fmt: skip
    verdict = _marked(made.tricked(HOLE, trick, places))
    assert verdict.state == (checks.PASSED if trick in made.HARMLESS else checks.WRONG), verdict
    assert canary.read_text() == HOLE.source
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]


@LOCKED
def test_what_stands_in_a_locked_process_is_marked_as_elsewhere():
    for lesson, name in ((3, "slopes"), (12, "on_two_ranks"), (15, "row_columns"), (16, "bias_relu")):
        hole = notebook.asked(lesson)[name]
        assert _marked(hole.source, name, lesson).state == checks.PASSED
    old, new, message = next(entry for entry in hole.wrong if len(entry) == 3)
    assert _marked(hole.source.replace(old, new), name, lesson)[:2] == (checks.WRONG, message)


@LOCKED
def test_a_copy_cannot_pass_for_a_view():
    text = checks.holes_of(15)["row_columns"].source.replace(
        "    copied", "    cols = cols.copy()\n    copied"
    )
    text = text.replace("copied = not np.shares_memory(cols, strips)", "copied = False")
    assert "a view is asked for" in _marked(text, "row_columns", 15).message


@LOCKED
def test_a_check_cannot_count_its_calls():
    text = "calls = []\ndef mixed_up(dropout):\n    calls.append(1)\n    return len(calls) > 2\n"
    assert _marked(text, "mixed_up", 9).state == checks.WRONG


@LOCKED
def test_an_answer_finds_what_earlier_cells_make_and_no_more():
    text = "def add_back(dcols, W, stride):\n    return inner(dcols, W, stride) + ZERO\n"
    before = ["%matplotlib inline", "ZERO = np.zeros(1)", HOLE.source.replace("add_back", "inner"), "1 / 0"]
    assert _marked(text, before=before).state == checks.PASSED
    verdict = _marked("def add_back(dcols, W, stride):\n    from tinyalex.lessons.holes import lesson05")
    assert "tinyalex.lessons.holes is not there where answers are marked" in verdict.message
    assert "still to do" in _marked("def add_back(dcols, W, stride):\n    dx = ...\n    return dx\n").message


@LOCKED
def test_an_earlier_function_is_lent_and_the_one_asked_for_is_not():
    hole = checks.holes_of(2)["loss_and_gradient"]
    assert _marked(hole.source, "loss_and_gradient", 2).state == checks.PASSED  # it calls softmax
    answer = marking.Answer(2, "softmax", "softmax loss_and_gradient linear_gradients suspects exercises_of")
    assert marking.lent(checks.holes_of(2)["softmax"], answer) == {}
    for lesson in checks.LESSONS:
        for hole in notebook.asked(lesson).values():
            words = " ".join(vars(sys.modules[hole.solution.__module__]))
            lent = marking.lent(hole, marking.Answer(lesson, hole.name, words))
            functions = [value for value in lent.values() if hasattr(value, "__globals__")]
            assert hole.solution not in functions
            assert not {"suspects", "exercises_of", "kill", "hole"} & lent.keys()


@LOCKED
@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("while True: pass", TimeoutError, "it did not end within 1 seconds"),
        ("import os; os._exit(3)", ChildProcessError, "ended with status 3"),
        ("raise KeyError('x')", KeyError, "'x'"),
        ("return np.zeros(2**24)", MemoryError, "more than 64 MiB"),
        ("x[...] = 5; return x[1:, ::-1]", None, ""),
    ],
)
def test_what_comes_back(body, kind, text):
    x = np.arange(12.0).reshape(3, 4)
    with apart.Apart(f"def f(x):\n    {body}\n", "f", seconds=1) as function:
        if kind:
            with pytest.raises(kind, match=text):
                function(x)
        else:
            found = function(x)
            assert np.shares_memory(found, x)
            assert (x == 5).all()
            assert found.shape == (2, 4)


def test_views_from_beyond_are_refused():
    x = np.zeros(10)
    for shape, strides, start in (
        ([10], [8], 8), ([2], [-8], 0), ([5], [2**62], 0), ([9], [2**61], 0), ([3], [0], -8), ([-1], [8], 0),
    ):  # fmt: skip
        unpacked = apart._Unpacked(b"", None, False, [x])
        with pytest.raises((apart.Broken, ValueError, TypeError)):
            unpacked.unpack(["view", 0, "float64", shape, strides, start])
    with pytest.raises(apart.Broken):
        apart._Unpacked(b"12345678", None, False).unpack(["array", "float64", [2], 0])
    with pytest.raises(apart.Broken):
        apart._Unpacked(b"12345678", None, False).unpack(["array", "object", [1], 0])


@LOCKED
def test_where_no_process_can_be_locked_in_no_answer_is_to_blame(monkeypatch):
    unlocked = apart._BOOT.replace(
        "serve()", "from tinyalex.lessons import sandbox; del sandbox.lock; serve()"
    )
    monkeypatch.setattr(apart, "_BOOT", unlocked)
    with pytest.raises(apart.NotStarted, match="no attribute 'lock'"):
        _marked(HOLE.source)


# ---- a class


@pytest.fixture
def school(tmp_path):
    """A class with lessons 2 and 5, and the folder of what came back."""
    classroom.new(tmp_path / "class", [5, 2])
    (tmp_path / "back").mkdir()
    return tmp_path


def _book(school, stem="02_linear_classifier", **answers):
    book = json.loads((school / "class" / "hand-out" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    for cell in book["cells"]:
        for name, text in answers.items():
            if cell["cell_type"] == "code" and f"def {name}(" in "".join(cell["source"]):
                cell["source"] = text  # one string, as the live course's notebooks have
    return book


def _hand_in(school, student, book, name="02_linear_classifier.ipynb"):
    path = school / "back" / student / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book), encoding="utf-8")


def test_what_is_handed_out_shows_no_solution(school):
    out = school / "class" / "hand-out"
    assert sorted(path.name for path in out.glob("*.ipynb")) == [
        "02_linear_classifier.ipynb", "05_backward_convolution.ipynb",
    ]  # fmt: skip
    for path in out.glob("*.ipynb"):
        text, source = path.read_text(encoding="utf-8"), (course.folder() / path.name).read_text("utf-8")
        assert "# solution(" in source
        assert "solution(" not in text
        assert text.count("= check(") == source.count("= check(")
    for path in (*out.glob("*.ipynb"), out / "README.md"):
        links = re.findall(r"\]\(([^)#\\]+)", path.read_text(encoding="utf-8"))
        assert all((out / link).exists() for link in links)
    readme = (out / "README.md").read_text(encoding="utf-8")
    assert "[A linear classifier](02_linear_classifier.ipynb)" in readme
    assert "3. Checking a gradient." in readme  # not handed out
    assert "For teachers" not in readme
    with pytest.raises(DataError, match="expected a folder that is empty"):
        classroom.new(school / "class")
    with pytest.raises(DataError, match="expected lessons 0 to 17, found 99"):
        classroom.new(school / "other", [99])


@LOCKED
def test_a_class_from_the_hand_out_to_the_report(school):
    holes = checks.holes_of(2)
    right = {name: hole.source for name, hole in holes.items()}
    old, new, message = holes["softmax"].wrong[1]
    wrong = right["softmax"].replace(old, new)
    _hand_in(school, "Zoë", _book(school, **right))
    _hand_in(school, "=Bob", _book(school, **{**right, "softmax": wrong}))
    claims = _book(school, softmax=wrong)
    for cell in claims["cells"]:
        if "= check(softmax)" in "".join(cell["source"]):
            cell["source"] = "print('✓ passed: softmax')"
            cell["outputs"] = [{"output_type": "stream", "text": "✓ passed: softmax\n"}]
    claims["cells"] = [c for c in claims["cells"] if "def linear_gradients" not in "".join(c["source"])]
    _hand_in(school, "Mallory", claims)
    folder = school / "class"
    classroom.collect(folder, [school / "back"])
    with pytest.raises(DataError, match="not all is marked"):
        classroom.report(folder)

    def interrupt(doing, done, of):
        if done == of - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classroom.mark(folder, interrupt)
    kept = {path: path.read_bytes() for path in (folder / "marks").iterdir()}
    assert 1 <= len(kept) < 3
    now, before = classroom.mark(folder)
    assert (now + before, before) == (8, 3 * len(kept) - any("Mallory" in str(path) for path in kept))
    assert kept.items() <= {path: path.read_bytes() for path in (folder / "marks").iterdir()}.items()
    assert classroom.mark(folder) == (0, 8)

    classroom.report(folder)
    with open(folder / "marks.csv", encoding="utf-8-sig", newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    points = {name: (row["02 softmax"], row["points"], row["of"]) for name, row in rows.items()}
    assert points == {"Zoë": ("1", "3", "9"), "'=Bob": ("0", "2", "9"), "Mallory": ("0", "0", "9")}
    assert "shows a ✓ for softmax, which is not right" in rows["Mallory"]["remarks"]
    assert "the cell that checks softmax was changed" in rows["Mallory"]["remarks"]
    assert rows["Zoë"]["remarks"] == ""
    with open(folder / "answers.csv", encoding="utf-8-sig", newline="") as file:
        verdicts = {(row["student"], row["function"]): row for row in csv.DictReader(file)}
    assert verdicts["'=Bob", "softmax"]["what to say"] == message
    assert verdicts["Mallory", "linear_gradients"]["verdict"] == "missing"
    assert verdicts["Mallory", "loss_and_gradient"]["verdict"] == "open"
    page = (folder / "report.html").read_text(encoding="utf-8")
    said = classroom.as_html(f"`softmax`: {message}")
    assert f"<blockquote><p>{said}</p></blockquote>\n" in page
    assert "2 students.</p>" in page
    assert "3 of 3 students handed it in" in page
    assert "0 of 3 students handed it in" in page  # lesson 5


def test_what_cannot_be_taken_is_said_and_stops_nothing(school, monkeypatch, capsys):
    book = _book(school)
    _hand_in(school, "a good one", book)
    odd = made.odd_files(school / "back", _Some(book))
    flat = school / "back" / "anna_02_linear_classifier (1).ipynb"
    flat.write_text(json.dumps(book), encoding="utf-8")
    (school / "back" / "02_linear_classifier.ipynb").write_text(json.dumps(book), encoding="utf-8")
    other = json.loads((course.folder() / "03_checking_a_gradient.ipynb").read_text(encoding="utf-8"))
    _hand_in(school, "not given", other)
    monkeypatch.setattr(
        sys, "argv", ["tinyalex", "class", "collect", str(school / "class"), str(school / "back")]
    )
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    said = classroom.collect(school / "class", [school / "back"])
    told = {student: text for path, student, text in said}
    assert told.pop("a good one") == told.pop("anna") == "lesson 2: 3 answers"
    assert told.pop("").startswith("whose is it?")
    assert "lesson 3, which this class has not been given" in told.pop("not given")
    for student, text in odd.items():
        assert text in told.pop(student), student
    assert not told
    out = capsys.readouterr().out
    assert f"2 notebooks taken, {len(said) - 2} not" in out


class _Some:
    """As much of a made student as `odd_files` asks for."""

    name, lesson = "a good one", 2

    def __init__(self, book):
        self.book = book


def test_a_later_file_takes_the_place_of_an_earlier_one(school):
    _hand_in(school, "ann", {"cells": []})
    classroom.collect(school / "class", [school / "back"])
    assert classroom.rows(school / "class")[0].remarks
    _hand_in(school, "ann", _book(school))
    assert [text for *_, text in classroom.collect(school / "class", [school / "back"])] == [
        "lesson 2: 3 answers"
    ]
    files = json.loads((school / "class" / "collected" / "collected.json").read_text(encoding="utf-8"))
    assert files["refused"] == []
    assert list(files["files"]) == ["ann"]


def test_a_student_whose_folder_is_empty_stands_in_the_report(school):
    (school / "back" / "bob" / "lesson 2").mkdir(parents=True)
    (school / "back" / "eve.d").mkdir()
    (school / "back" / "link").symlink_to(school / "class")
    classroom.collect(school / "class", [school / "back"])
    found = {row.student: row.remarks for row in classroom.rows(school / "class")}
    told = "expected notebooks, found"
    empty = {name: [f"{name}: {told} an empty folder"] for name in ("bob", "eve.d")}
    assert found == {**empty, "link": [f"link: {told} a link"]}
    _hand_in(school, "bob", _book(school))
    classroom.collect(school / "class", [school / "back"])
    files = json.loads((school / "class" / "collected" / "collected.json").read_text(encoding="utf-8"))
    assert list(files["files"]) == ["bob"]
    assert [student for _, student, _ in files["refused"]] == ["eve.d", "link"]


def test_where_answers_cannot_be_locked_in_none_is_run(school, monkeypatch):
    _hand_in(school, "ann", _book(school))
    classroom.collect(school / "class", [school / "back"])
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(DataError, match="only run where they can be locked in: expected Linux, found darwin"):
        classroom.mark(school / "class")
    with pytest.raises(DataError, match="expected a class's folder"):
        classroom.mark(school)
