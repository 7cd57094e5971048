"""`tinyalex lessons` and the checks behind the notebooks."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest

from tinyalex import cli
from tinyalex.errors import DataError
from tinyalex.lessons import checks, course, notebook

LESSONS = Path(__file__).parents[1] / "lessons"
NAMES = sorted(path.name for path in LESSONS.glob("[0-9][0-9]_*.ipynb"))


def _cases(rng):
    return [(rng.standard_normal((3, 4)), rng.standard_normal((3, 4)))]


@checks.hole(
    cases=_cases,
    hints=["a thought", "nearly the line"],
    wrong=[("dy * x", "dy + x", "a sum: the product is wanted.")],
)
def product(dy, x):
    """dx = dy·x."""
    dx = dy * x
    return dx


def _open(dy, x):
    dx = ...  # a product
    return dx


def _writes(dy, x):
    x *= dy
    return x


def _raises(dy, x):
    y = dy @ x
    return y


def _one_wrong(dy, x):
    dx = dy * x
    dx[1, 2] = 7
    return dx


def _indexes(dy, x):
    return dy[..., :] * x[...]  # an Ellipsis that is no hole


@pytest.mark.parametrize(
    ("answer", "state", "texts"),
    [
        (lambda dy, x: dy * x, checks.PASSED, []),
        (_indexes, checks.PASSED, []),
        (_open, checks.NOT_YET, ["still to do: dx = ...  # a product"]),
        (lambda dy, x: None, checks.NOT_YET, ["it returns nothing"]),
        (lambda dy, x: dy + x, checks.WRONG, ["a sum: the product is wanted."]),
        (_raises, checks.WRONG, ["called with (3, 4), (3, 4) it raised ValueError", "in: y = dy @ x"]),
        (_writes, checks.WRONG, ["wrote into its argument x"]),
        (lambda dy, x: (dy * x).T, checks.WRONG, ["expected shape (3, 4), found (4, 3)", "transposed"]),
        (lambda dy, x: (dy * x).ravel(), checks.WRONG, ["found (12,)", "to be reshaped"]),
        (lambda dy, x: dy[0], checks.WRONG, ["expected shape (3, 4), found (4,): axis 0 is missing"]),
        (lambda dy, x: (dy * x).astype("f"), checks.WRONG, ["expected float64", "found float32"]),
        (lambda dy, x: (dy * x).tolist(), checks.WRONG, ["expected an array (3, 4), found list"]),
        (lambda dy, x: (dy, x), checks.WRONG, ["expected 1 value, dx; found 2."]),
        (lambda dy, x: x.sum, checks.WRONG, ["found the function sum: round brackets behind it call it"]),
        (lambda dy, x: -dy * x, checks.WRONG, ["the sign is the other way round"]),
        (lambda dy, x: 3 * dy * x, checks.WRONG, ["everything is 3 times as large"]),
        (lambda dy, x: (dy * x)[:, ::-1], checks.WRONG, ["flipped along axis 1"]),
        (lambda dy, x: (dy * x)[::-1, ::-1], checks.WRONG, ["flipped along axis 0 and 1"]),
        (lambda dy, x: dy * x + 2, checks.WRONG, ["too large by 2"]),
        (lambda dy, x: x + 0, checks.WRONG, ["dy has no effect"]),
        (lambda dy, x: 0 * x, checks.WRONG, ["everything is 0"]),
        (lambda dy, x: np.log(-(dy**2)), checks.WRONG, ["not finite"]),
        (_one_wrong, checks.WRONG, ["11 of 12 numbers are right", "at [1, 2]", "found 7."]),
    ],
)
def test_general_diagnoses(answer, state, texts):
    found, message = checks.judge(product.hole, answer)
    assert found == state
    assert all(text in message for text in texts), message
    assert bool(message) == (state != checks.PASSED)


@pytest.mark.parametrize("line", ["y = dy @ x; z = x.T", "z = x.T; y = dy @ x", "if 1: y = dy @ x; z = x.T"])
def test_of_the_statements_in_a_line_the_one_that_raised_is_told(line):
    """Before Python 3.11, which does not say where in a line an error was raised, none of them."""
    answer = product.hole.compiled(f"def product(dy, x):\n    {line}\n    return y * z")
    found, message = checks.judge(product.hole, answer)
    assert found == checks.WRONG
    assert f"in: {line}\n" in message
    assert "`x.T`" not in message
    known = sys.version_info >= (3, 11)
    assert ("there `dy` is (3, 4), `x` is (3, 4).  The last axis of the left" in message) == known


def test_check_wants_the_function_and_not_its_name():
    with pytest.raises(ValueError, match=r"without quotes: check\(softmax\)"):
        notebook.lesson(2).check("softmax")


def test_an_answer_without_an_end_is_told_so(monkeypatch, capsys):
    monkeypatch.setattr(notebook, "LONGEST", 0.2)
    book = checks.holes_of(16)["col2im_row"]
    check = notebook.lesson(16).check
    endless = book.compiled(book.source.replace("p, j = p + stride, j - 1", "j = j - 1"))
    before = signal.getsignal(signal.SIGALRM)
    assert check(endless) is book.solution
    assert "the loop never ends" in capsys.readouterr().out
    right = book.compiled(book.source)
    assert check(right) is right
    time.sleep(0.3)  # no alarm is left
    assert signal.getsignal(signal.SIGALRM) is before


def test_check_gives_the_right_function_back_and_the_book_s_for_a_wrong_one(capsys):
    check, hint, solution, _ = notebook.lesson(5)
    book = checks.holes_of(5)["add_back"].solution
    mine = checks.holes_of(5)["add_back"].compiled(checks.holes_of(5)["add_back"].source)
    assert check(mine) is mine
    assert capsys.readouterr().out == f"{checks.PASSED}: add_back\n"

    def add_back(dcols, W, stride):
        return np.zeros(W)

    assert check(add_back) is book
    assert capsys.readouterr().out.startswith(f"{checks.WRONG}: add_back\ndx: everything is 0")
    assert check(book) is book  # the cell was run twice
    assert "run the cell with your function first" in capsys.readouterr().out

    for k in (1, 2, 3, 3):
        hint("add_back")
        assert capsys.readouterr().out.startswith(f"hint {k} of 3: ")
    solution("add_back")
    assert "dx[o * stride : o * stride + K] += dcols[:, o]" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"lesson 5: expected one of add_back, .*, found colour"):
        hint("colour")


def test_copying_never_overwrites(tmp_path):
    target = tmp_path / "mine"
    copied, left = course.copy(target)
    assert copied == [*NAMES, "README.md", "touch/index.html"]
    assert left == []
    assert (target / NAMES[0]).read_bytes() == (LESSONS / NAMES[0]).read_bytes()

    (target / NAMES[0]).write_text("my work")
    (target / NAMES[-1]).unlink()
    assert course.copy(target) == ([NAMES[-1]], [*NAMES[:-1], "README.md", "touch/index.html"])
    assert (target / NAMES[0]).read_text() == "my work"

    with pytest.raises(DataError, match="expected a folder for the lessons, found a file"):
        course.copy(target / NAMES[0])


def test_without_jupyterlab_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "jupyterlab", None)  # as if it were not installed
    monkeypatch.setattr(sys, "argv", ["tinyalex", "lessons", str(tmp_path / "mine")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert 'jupyterlab: not installed; run  pip install "tinyalex[lessons]"' in capsys.readouterr().err
    assert (tmp_path / "mine" / NAMES[0]).exists()


def _lessons(monkeypatch, *words):
    """`tinyalex lessons` with these words; the command that it would run, and its exit code."""
    ran = []
    monkeypatch.setattr(course, "need", lambda *modules: None)
    monkeypatch.setattr(course, "open_lab", lambda command: ran.append(command) or 3)
    monkeypatch.setattr(sys, "argv", ["tinyalex", "lessons", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return *ran, end.value.code


def test_lessons_open_at_the_first_with_jupyterlab_s_own_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(course.os, "geteuid", lambda: 0)  # root, as in a container
    first, root = f"--LabApp.default_url=/lab/tree/{NAMES[0]}", "--allow-root"
    options = ["--no-browser", "--port", "8889"]
    start = [sys.executable, "-m", "jupyterlab"]
    assert _lessons(monkeypatch, "mine", "--", *options) == ([*start, "mine", first, root, *options], 3)
    assert f"-m jupyterlab mine {first} {root} --no-browser --port 8889\n" in capsys.readouterr().out
    monkeypatch.setattr(course.os, "geteuid", lambda: 1000)
    assert _lessons(monkeypatch, "--", *options) == ([*start, "tinyalex-lessons", first, *options], 3)
    assert _lessons(monkeypatch, "mine", "other") == (1,)
    assert "expected a folder and, after --, JupyterLab's options, found 'other'" in capsys.readouterr().err


def test_ctrl_c_ends_jupyterlab_and_not_the_command_before_it(tmp_path):
    """What it does when it is interrupted is its own: here it takes its time and ends with 5."""
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.3), os._exit(5)))\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(0.2)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    assert course.open_lab([sys.executable, "-c", script]) == 5


def test_ctrl_c_ends_running_notebooks_after_their_cell():
    """The interruption comes through as such, and no kernel is left."""
    new = nbformat.v4
    books = [new.new_notebook(cells=[new.new_code_cell("1 + 1") for _ in range(3)]) for _ in range(9)]
    seen = []

    def on_cell(done, of):
        seen.append((done, of))
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    with pytest.raises(KeyboardInterrupt):
        course.execute(books, on_cell=on_cell)
    assert seen[0] == (1, 27)
    assert len(seen) <= 2 * (os.cpu_count() or 1)
    assert not books[0].cells[2].outputs
    assert not books[-1].cells[0].outputs or (os.cpu_count() or 1) > 8


def test_the_installed_package_has_the_notebooks(tmp_path):
    code = "from tinyalex.lessons import course; print(*(p.name for p in course.notebooks()))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,  # not the checkout: what is imported is what was installed
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == NAMES, found.stderr


def test_the_map_links_to_every_lesson_once():
    links = re.findall(r"\]\((\S+\.ipynb)\)", (LESSONS / "README.md").read_text(encoding="utf-8"))
    assert links == [NAMES[0], *NAMES]  # the first one at the top, too
