"""The live course: Python's side of it here, and its pages in Chromium (`-m slow` for all of that)."""

import ast
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from tinyalex import cli, comm
from tinyalex.devices import Device
from tinyalex.errors import ArgumentError, DataError
from tinyalex.lessons import checks, course, live, notebook
from tinyalex.lessons.live import turns

for needed in ("latex2mathml", "mdit_py_plugins", "pygments"):
    pytest.importorskip(needed, reason="the pages need their extra: pip install 'tinyalex[pages]'")
nbformat = pytest.importorskip("nbformat")

STEM = "05_backward_convolution"
PYODIDE = os.environ.get("TINYALEX_PYODIDE")  # a folder of Pyodide's files
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def _books():
    return {STEM: nbformat.read(course.folder() / f"{STEM}.ipynb", 4)}


# ---- Python's side -------------------------------------------------------------------------------------

SESSION = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tinyalex.lessons.live.session import Session
import tinyalex
assert tinyalex.__file__.startswith(sys.argv[1])
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"matplotlib", "PIL", "rich", "IPython", "nbformat", "typer"}, loaded

session = Session(5, '{"packages": {}}', None, None)
for line in sys.stdin:
    shown = []
    answer = session.answer(line, lambda kind, text: shown.append((kind, text)))
    print(json.dumps([json.loads(answer), shown]))
"""


IMPORTS = """
import json, sys
sys.path.insert(0, sys.argv[1])
sys.modules.update(dict.fromkeys(json.loads(sys.argv[2])))  # what is None cannot be imported
for line in json.loads(sys.argv[3]):
    exec(line)
assert sys.modules["tinyalex"].__file__.startswith(sys.argv[1])
"""


def test_what_the_lessons_import_needs_nothing_that_a_browser_lacks(tmp_path):
    """Of the program's dependencies Pyodide's files have some; the cells' imports do with those."""
    for lesson in (None, *live.OF_ONE_LESSON):
        with zipfile.ZipFile(io.BytesIO(live.package(lesson))) as archive:
            archive.extractall(tmp_path)
    needed = {re.match(r"\w+", line)[0] for line in metadata.requires("tinyalex") if "extra ==" not in line}
    lacks = [name for name in needed if not any(file.startswith(name) for file in live.python_files())]
    assert {"filelock", "rich", "typer"} <= {*lacks} < needed
    cells = "\n".join(path.read_text(encoding="utf-8") for path in sorted(course.folder().glob("[0-9]*.py")))
    lines = {
        ast.unparse(node)
        for node in ast.walk(ast.parse(cells))
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tinyalex")
    }
    assert len(lines) > 50
    command = [sys.executable, "-c", IMPORTS, tmp_path, json.dumps(lacks), json.dumps(sorted(lines))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """A session with what the browser has of tinyalex: ask(run={…}) → (answer, what it showed)."""
    folder = tmp_path_factory.mktemp("live")
    with zipfile.ZipFile(io.BytesIO(live.package())) as archive:
        archive.extractall(folder)
    with subprocess.Popen(
        [sys.executable, "-c", SESSION, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, encoding="utf-8", env={**os.environ, "PYTHONUTF8": "1"}, cwd=folder,
    ) as process:  # fmt: skip

        def ask(**message):
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            answer, shown = json.loads(process.stdout.readline())
            return answer, shown

        yield ask


def _check(name, text):
    return {"check": {"cell": "5-9", "name": name, "source": text}}


def test_a_hole_is_judged_though_no_cell_above_has_run(ask):
    hole = checks.holes_of(5)["col2im"]
    assert ask(**_check("col2im", hole.source))[0] == {"state": "passed", "message": ""}
    for (function, message), (old, new, _) in zip(hole.mistakes(), hole.wrong, strict=True):
        assert checks.judge(hole, function) == (checks.WRONG, message)
        found, _ = ask(**_check("col2im", hole.source.replace(old, new)))
        assert found == {"state": "wrong", "message": message}


@pytest.mark.parametrize(
    ("text", "state", "said"),
    [
        ("def add_back(dcols, W, stride):\n    ...", "open", "still to do: ..."),
        ("def add_back(dcols, W, stride)\n    ...", "wrong", "SyntaxError: expected ':'"),
        ("def another(): pass", "wrong", "this cell defines no function add_back"),
        ("raise SystemExit", "wrong", "SystemExit"),
    ],
)
def test_what_is_no_answer_is_told_so_and_the_book_s_stands_in(ask, text, state, said):
    found, _ = ask(**_check("add_back", text))
    assert found["state"] == state
    assert said in found["message"]
    found, shown = ask(run={"cell": "5-10", "source": "import numpy\nadd_back(numpy.ones((3, 2)), 5, 2)"})
    assert (found, shown) == ({}, [["text", "array([1., 1., 2., 1., 1.])\n"]])


def test_cells_show_what_a_notebook_shows(ask):
    source = "from IPython.display import HTML, display\nprint('a')\ndisplay(HTML('<b>'))\nprint('b')\n'c'"
    found, shown = ask(run={"cell": "5-1", "source": source})
    assert found == {}
    assert shown == [["text", "a\n"], ["html", "<b>"], ["text", "b\n'c'\n"]]
    assert ask(run={"cell": "5-1", "source": "x = 3\nx;"}) == ({}, [])
    found, _ = ask(run={"cell": "5-2", "source": "def f():\n    return 1 / 0\nf()"})
    assert "    return 1 / 0\n" in found["error"]  # the learner's line
    assert "session.py" not in found["error"]
    assert found["error"].endswith("ZeroDivisionError: division by zero")
    _, shown = ask(run={"cell": "5-3", "source": "for k in range(10**5): print(k)"})
    text = "".join(piece for _, piece in shown)
    assert len(text) < 51_000
    assert text.endswith("… there was more: it is not shown\n")


def test_the_tutor_steps_through_the_answer_as_it_stands(ask):
    hole = checks.holes_of(5)["add_back"]
    found, _ = ask(tutor={"cell": "5-9", "name": "add_back", "source": hole.source.replace("+=", "=")})
    assert found["state"] == "wrong"
    assert "dx[o * stride : o * stride + K] = dcols[:, o]" in found["html"]
    assert "is the first after which something departs" in found["html"]


def _all_collectives(comm):
    x = np.random.default_rng(comm.rank).standard_normal((6, 12))
    first = comm.all_reduce(x)
    x *= 2  # what was given before stays as it was
    part = comm.split(comm.rank % 2)
    arrays = first, comm.all_gather(x, 1), comm.reduce_scatter(x), comm.broadcast(x, 1), part.all_reduce(x)
    return [a.tobytes() for a in arrays], comm.share([comm.rank]), sorted(comm.ledger.items())


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_that_take_turns_get_what_threads_get(size):
    devices = [Device(f"cpu:{k}") for k in range(size)]
    fn = _all_collectives if size > 1 else lambda comm: comm.all_reduce(np.ones(2)).tolist()
    assert turns.launch(fn, devices) == comm.launch(fn, devices)


def test_ranks_that_take_turns_say_what_is_wrong():
    devices = [Device("cpu:0"), Device("cpu:1")]
    with pytest.raises(ArgumentError, match="each waits for another"):
        turns.launch(lambda comm: comm.rank or comm.all_reduce(np.ones(2)), devices)
    with pytest.raises(ArgumentError, match="the ranks' arrays differ"):
        turns.launch(lambda comm: comm.all_reduce(np.ones(2 + comm.rank)), devices)
    with pytest.raises(ZeroDivisionError):
        turns.launch(lambda comm: 1 / comm.rank, devices)


# ---- The files -----------------------------------------------------------------------------------------


def test_the_package_is_the_same_each_time():
    assert live.package() == live.package()


def test_python_comes_from_its_network_by_version_and_hash(tmp_path):
    live.write(_books(), tmp_path)
    page = (tmp_path / f"{STEM}.html").read_text(encoding="utf-8")
    data = json.loads(page.partition('id="lesson">')[2].partition("</script>")[0])
    assert data["base"] == f"{live.NETWORK}" == "https://cdn.jsdelivr.net/pyodide/v314.0.3/full/"
    assert set(data["hashes"]) == set(live.CORE)
    names = {cell["name"] for cell in data["cells"] if "name" in cell}
    assert names == set(notebook.asked(5))
    front = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "nothing has to be installed" in front
    assert "pip install" not in front
    worker = (tmp_path / "sw.js").read_text(encoding="utf-8")
    for name in live.python_files():
        assert f'"{live.NETWORK}{name}": "sha256-' in worker
    kept = json.loads(worker.partition('"files": ')[2].partition("}")[0])
    assert sorted(kept) == sorted(
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.name != "sw.js"
    )


def test_a_folder_of_other_files_is_refused_before_anything_is_run(tmp_path, monkeypatch, capsys):
    with pytest.raises(DataError, match=r"expected the file .*pyodide.mjs of Pyodide 314\.0\.3, found none"):
        live.build(tmp_path / "course", tmp_path)
    (tmp_path / "pyodide.mjs").write_text("other")
    with pytest.raises(DataError, match=r"pyodide.mjs: expected Pyodide 314\.0\.3's, SHA-256 5cfc46"):
        live.build(tmp_path / "course", tmp_path)
    assert not (tmp_path / "course").exists()
    monkeypatch.setattr(sys, "argv", ["tinyalex", "lessons", "--pyodide", str(tmp_path)])
    with pytest.raises(SystemExit):
        cli.main()
    assert "expected --html FOLDER, or --live FOLDER" in " ".join(capsys.readouterr().err.split())


# ---- In Chromium ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _serving(folder):
    check = pytest.importorskip("tinyalex.lessons.live.check")
    server = check.Server(folder)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def chromium():
    pytest.importorskip("selenium")
    if not (BROWSER and shutil.which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed")
    if not PYODIDE:
        pytest.skip("TINYALEX_PYODIDE names no folder of Pyodide's files")


@pytest.fixture
def driver(chromium):
    from tinyalex.lessons.live import check

    with check.browser() as driver:
        yield driver


def test_a_first_verdict_in_a_browser(driver, tmp_path):
    from tinyalex.lessons.live import check

    live.write(_books(), tmp_path, Path(PYODIDE))
    with _serving(tmp_path) as server:
        check.first_verdict(driver, server)


@pytest.mark.slow
def test_nothing_typed_is_lost_and_what_lacks_is_told(chromium, tmp_path):
    from tinyalex.lessons.live import check

    course_, downloads = tmp_path / "course", tmp_path / "downloads"
    downloads.mkdir()
    live.write(_books(), course_, Path(PYODIDE))
    with _serving(course_) as server:
        with check.browser(downloads) as driver:
            check.keeping(driver, server.address, downloads)
            check.stopping(driver, server.address)
        with check.browser() as driver:
            check.refused(driver, server)


@pytest.mark.slow
def test_a_photograph_is_recognised_and_another_file_is_told(driver, tmp_path):
    from tinyalex.lessons.live import check

    stem = "00_ten_minutes"
    book = nbformat.read(course.folder() / f"{stem}.ipynb", 4)
    live.write({stem: book}, tmp_path / "course", Path(PYODIDE))
    with _serving(tmp_path / "course") as server:
        check.photographing(driver, server.address, tmp_path)


@pytest.mark.slow
def test_the_course_goes_on_without_a_network(chromium, tmp_path):
    from tinyalex.lessons.live import check

    books = {path.stem: nbformat.read(path, 4) for path in course.notebooks() if path.stem[1] in "57"}
    live.write(books, tmp_path, Path(PYODIDE))
    with _serving(tmp_path) as server, check.browser() as driver:
        check.offline(driver, server)


@pytest.mark.slow
def test_python_from_another_address_must_have_its_hashes(driver, tmp_path):
    from tinyalex.lessons.live import check

    files = tmp_path / "pyodide"
    shutil.copytree(PYODIDE, files)
    # nothing is kept in the browser, from where it would come the next time
    unkept = "Object.defineProperty(navigator, 'serviceWorker', { value: undefined })"
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": unkept})
    with _serving(files) as network, _serving(tmp_path / "course") as server:
        live.write(_books(), tmp_path / "course", base=network.address)
        check.first_verdict(driver, server)
        page = check.Page(driver, server.address, STEM)
        for name in (
            "pyodide.mjs",
            "pyodide.asm.wasm",
            "numpy-2.4.3-cp314-cp314-pyemscripten_2026_0_wasm32.whl",
        ):
            right = (files / name).read_bytes()
            (files / name).chmod(0o644)
            (files / name).write_bytes(right[:-20] + b" " * 20)
            driver.execute_cdp_cmd("Network.clearBrowserCache", {})
            page.open()
            page.wait(lambda: "has ended" in page.text("python-status"), f"a word about {name}")
            (files / name).write_bytes(right)


@pytest.mark.slow
def test_a_new_version_of_the_course_loses_no_text(driver, tmp_path):
    from tinyalex.lessons.live import check

    books = _books()
    live.write(books, tmp_path, Path(PYODIDE))
    with _serving(tmp_path) as server:
        page = check.Page(driver, server.address, STEM)
        page.put("add_back", "def add_back(): return 'mine'")
        page.put("col2im", "def col2im(): return 'mine too'")
        page.wait(lambda: "without a network" in page.text("offline"), "the course to be kept")
        book = books[STEM]
        book.cells = [
            c for c in book.cells if "def col2im(" not in c.source and "check(col2im)" not in c.source
        ]
        book.cells[0].source += "\n\nA newer text."
        live.write(books, tmp_path, Path(PYODIDE))
        page.open()
        page.wait(lambda: "newer course" in page.text("offline"), "the newer course")
        driver.get("about:blank")
        page.open()
        page.wait(lambda: "A newer text." in driver.page_source, "the newer page")
        assert page.answer("add_back") == "def add_back(): return 'mine'"
        page.click("#earlier summary")
        assert "def col2im(): return 'mine too'" in page.text("earlier")
