"""The live course: the lessons as static files whose holes are filled, run and judged in the browser.

Python is Pyodide's, in a worker of the page; it comes from Pyodide's public network, by the version and the
hashes of the lock file beside this one, or from a folder of its files that is copied into the course.
Nothing else is fetched, nothing is sent.

    page.js      a lesson's page          worker.js    Python's thread: `session` speaks for it
    answers.js   what is kept             sw.js        the course without a network
    map.js       the map                  editor.js    CodeMirror, bundled: lessons/editor in the repository
    turns.py     ranks without threads    check.py     tries it all in Chromium
"""

import base64
import fnmatch
import hashlib
import io
import json
import re
import shutil
import zipfile
from functools import partial
from importlib import resources
from pathlib import Path

import nbformat

import tinyalex
from tinyalex.errors import DataError
from tinyalex.lessons import course, site
from tinyalex.lessons.checks import Hole
from tinyalex.lessons.notebook import asked

VERSION = "314.0.3"  # Pyodide's
NETWORK = f"https://cdn.jsdelivr.net/pyodide/v{VERSION}/full/"
CORE = {  # file: SHA-256
    "pyodide.mjs": "5cfc46f5dcbaf2a16f26e2363f441873eb424762609cc03db00d6a2ace4d00e5",
    "pyodide.asm.mjs": "1a9775427ef6e8abaa7db88ece0515422d1886915ae5c9093776410c865dfd8d",
    "pyodide.asm.wasm": "e7f8fac36f8bf11085309cbc5c829b3ec3057c18bf1d73b05a6741612d63cdbf",
    "python_stdlib.zip": "444c770dfd75a32097fc0a7d5c1413fd3140601f49c3a1f2e9af0376fcd124b4",
}
LOCK = "pyodide-lock.json"  # Pyodide's own, of the packages that the lessons use
SCRIPTS = (
    "page.js",
    "map.js",
    "answers.js",
    "offline.js",
    "worker.js",
    "editor.js",
    "editor.LICENSE",
    "live.css",
)
IN_THE_BROWSER = ("lessons/live/session.py", "lessons/live/turns.py")
NOT_IN_THE_BROWSER = (  # of the package tinyalex; no lesson uses it
    "cli/", "exchange/", "runs/", "data/imagenet/", "data/cifar10", "lessons/live/", "lessons/mutants",
    "lessons/adapters", "lessons/judge", "lessons/site", "lessons/teacher", "lessons/course", "lessons/apart",
    "lessons/classroom", "lessons/marking", "lessons/page", "lessons/pointing", "lessons/sandbox",
    "measure/ablate", "measure/bench", "measure/doctor", "measure/relu_vs_tanh", "measure/gradtable",
)  # fmt: skip
OF_ONE_LESSON = {0: "lessons/zero.npz", 16: "ops/cuda/*.cu*"}  # what no other needs: in archives of their own

START = """
Open a lesson: it runs here, in your browser, and nothing has to be installed.  In every hole is an editor.
*Check* says what is wrong with your answer.  *Step through* paints its arrays, and stops at the first line
whose array departs from what a right answer has there.  In eight lessons you also go the other way: a broken
function is given, and you write the input that exposes it.

A lesson takes an evening, and its cells a few seconds.  Your answers stay in this browser; *Save as a
notebook* takes them out, for JupyterLab or for your teacher.

"""

HEAD = """
<link rel="stylesheet" href="live/live.css">
<script type="application/json" id="{id}">{data}</script>{early}
<script>
addEventListener("DOMContentLoaded", () => {{
  const say = (text) => document.querySelector("main").insertAdjacentHTML("afterbegin",
    `<p class="notice" role="alert">${{text}}  The text, the hints and the solutions can be read.</p>`);
  if (location.protocol === "file:")
    say("This page was opened from the disk, where a browser runs no course.  " +
      "In its folder run <code>python -m http.server</code>, and open http://localhost:8000 .");
  else if (typeof WebAssembly !== "object") say("This browser has no WebAssembly, and so no Python.");
  else {{
    const script = document.createElement("script");
    script.type = "module";
    script.src = "live/{script}";
    script.onerror = () => say("The course's scripts could not be loaded.  Reload the page.");
    document.head.append(script);
  }}
}});
</script>"""

# Python's worker begins before the page below has been read; what it says until then is kept for page.js.
EARLY = """
<link rel="modulepreload" href="live/page.js">
<link rel="modulepreload" href="live/editor.js">
<script>
function startPython() {
  const { number, base, hashes, archives } = JSON.parse(document.getElementById("lesson").textContent);
  const url = (path) => new URL(path, document.baseURI).href;
  const worker = new Worker("live/worker.js", { type: "module" });
  worker.postMessage({ start: { lesson: number, base: url(base), hashes, archives, course: url("live/") } });
  return worker;
}
if (location.protocol !== "file:" && typeof WebAssembly === "object" && !navigator.connection?.saveData) {
  const said = [];
  const worker = startPython();
  worker.onmessage = ({ data }) => said.push(data);
  worker.onerror = (event) => said.push({ fatal: event.message || "its worker could not be loaded" });
  self.begun = { worker, said };
}
</script>"""

FOOT = """
<p id="notice" class="notice" role="alert" hidden></p>
<section class="keep" aria-label="your answers">
<p>Your answers stay in this browser.  <button type="button" id="export">Save as a notebook</button>
<label>Open a notebook: <input type="file" id="import" accept=".ipynb,application/json"></label></p>
<p id="editor-keys">In an editor, Ctrl-Enter checks or runs, Tab indents; Escape and then Tab leaves it.</p>
<div id="earlier" hidden><p>Other texts of yours:</p></div>
<p id="offline" role="status"></p>
</section>
<div class="python" role="region" aria-label="Python">
<span id="python-status" role="status"></span>
<button type="button" id="stop" hidden>Stop</button>
<button type="button" id="run-all">Run all cells</button>
</div>"""


def build(out, folder=None, progress=lambda doing, done, of: None):
    """Run the course, and write it with its pages live into the folder `out`; return the pages' paths.

    folder: of Pyodide's files, which are verified and copied; None: they come from Pyodide's network.
    progress: as in `site.build`.  Raises DataError for a file that is missing or other than it should be.
    """
    course.need("nbclient", "ipykernel", "latex2mathml", "markdown_it", "mdit_py_plugins", "pygments")
    if folder:
        for name, digest in python_files().items():
            verify(folder / name, digest)
    out.mkdir(parents=True, exist_ok=True)
    books = {path.stem: nbformat.read(path, 4) for path in course.notebooks()}
    course.execute(books.values(), on_cell=partial(progress, "running cell"))
    return write(books, out, folder, on_page=partial(progress, "writing page"))


def write(books, out, folder=None, base=None, on_page=lambda done, of: None):
    """Write notebooks {stem: notebook}, executed or not, as live pages; return the pages' paths.

    base: the address of Pyodide's files where there is no folder, by default Pyodide's network.
    """
    files = python_files()
    base = "pyodide/" if folder else base or NETWORK
    hashes = {} if folder else {name: integrity(digest) for name, digest in files.items()}
    archives = {"tinyalex.zip": package()}
    archives |= {f"lesson{number:02d}.zip": package(number) for number in OF_ONE_LESSON}
    version = tinyalex.__version__

    def more(stem):
        if stem is None:
            lessons = {f"{s}.html": [int(s[:2]), list(asked(int(s[:2])))] for s in books}
            head = HEAD.format(id="map", data=_json(lessons), early="", script="map.js")
            return head, '<p id="offline" role="status"></p>'
        data = {
            "number": int(stem[:2]), "stem": stem, "version": version, "base": base,
            "hashes": {name: hashes[name] for name in hashes if name in CORE},
            "archives": [name for name in archives if name in ("tinyalex.zip", f"lesson{stem[:2]}.zip")],
            "cells": list(data_of(books[stem], asked(int(stem[:2])))),
        }  # fmt: skip
        return HEAD.format(id="lesson", data=_json(data), early=EARLY, script="page.js"), FOOT

    written = site.write(books, out, on_page, cells, more, START)
    live = out / "live"
    live.mkdir(exist_ok=True)
    for name in (*SCRIPTS, LOCK):
        (live / name).write_bytes(resources.files(__name__).joinpath(name).read_bytes())
    for name, data in archives.items():
        (live / name).write_bytes(data)
    for stem in books:
        shutil.copyfile(course.folder() / f"{stem}.ipynb", out / f"{stem}.ipynb")
    if folder:
        (out / "pyodide").mkdir(exist_ok=True)
        for name, digest in files.items():
            verify(folder / name, digest)
            shutil.copyfile(folder / name, out / "pyodide" / name)
    notebooks = [out / f"{stem}.ipynb" for stem in books]
    kept = [*written, out / "touch" / "index.html", *notebooks, *sorted(live.iterdir())]
    _service_worker(out, kept, {base + name: hashes.get(name) for name in files})
    return written


def python_files():
    """Return {file: SHA-256} of all that may be fetched of Pyodide."""
    lock = json.loads(resources.files(__name__).joinpath(LOCK).read_text(encoding="utf-8"))
    return {**CORE, **{p["file_name"]: p["sha256"] for p in lock["packages"].values()}}


def integrity(digest):
    """Return a SHA-256 as browsers want it."""
    return f"sha256-{base64.b64encode(bytes.fromhex(digest)).decode()}"


def verify(path, digest):
    """DataError unless the file is there and has this SHA-256."""
    if not path.is_file():
        raise DataError(f"--pyodide: expected the file {path} of Pyodide {VERSION}, found none")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise DataError(f"{path}: expected Pyodide {VERSION}'s, SHA-256 {digest}, found {found}")


def package(lesson=None):
    """Return the package tinyalex as a zip archive, without what no lesson uses; the same bytes each time.

    lesson: only what it alone needs, which the archive for all does without.
    """
    root = Path(tinyalex.__file__).parent
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            owner = next((n for n, pattern in OF_ONE_LESSON.items() if fnmatch.fnmatch(name, pattern)), None)
            wanted = name.startswith(IN_THE_BROWSER) or not name.startswith(NOT_IN_THE_BROWSER)
            if path.suffix in (".py", ".cu", ".cuh", ".npz") and wanted and owner == lesson:
                archive.writestr(zipfile.ZipInfo(f"tinyalex/{name}"), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return file.getvalue()


def is_check(cell, holes):
    """Whether a cell is a hole's check, which the page has as a button."""
    found = re.match(r"(\w+) = check\(\1\)", cell.source)
    return bool(found) and found[1] in holes


def data_of(book, holes):
    """Yield what the page's script has to know of each cell of code."""
    for cell in book.cells:
        if cell.cell_type == "code" and not is_check(cell, holes):
            name = site.hole_in(cell.source)
            given = {"id": cell.id, "source": cell.source}
            given["key"] = hashlib.sha256(cell.source.encode()).hexdigest()[:12]
            if asks := re.search(r'\bphotograph\("(.+?)"\)', cell.source):
                given["photograph"] = asks[1]  # the file that it reads
            if name in holes:
                given |= {"name": name, "tutor": isinstance(holes[name], Hole)}
            yield given


def cells(book, holes, markdown):
    """Yield the HTML of a lesson's cells, each cell of code with a place for its editor and its outputs."""
    heading = ""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            heading = site.heading_of(cell) or heading
            yield markdown.render(cell.source)
        elif not is_check(cell, holes):
            name = site.hole_in(cell.source)
            kind = "hole" if name in holes else "code"
            shown = "".join(site.shown(output, heading) for output in cell.get("outputs", ()))
            yield (
                f'<div class="cell {kind}" id="cell-{cell.id}">{site.code_of(cell)}'
                f'<div class="outputs">{shown}</div></div>'
            )
            if name in holes:
                yield site.help_of(holes[name], markdown)


def _json(data):
    """Return data as JSON that can stand in a page."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def _service_worker(out, files, python):
    """Write sw.js: what it keeps, under the versions of these files."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    names = [path.relative_to(out).as_posix() for path in files]
    text = resources.files(__name__).joinpath("sw.js").read_text(encoding="utf-8")
    for word, data in (
        ("COURSE", {"version": digest.hexdigest()[:16], "files": names}),
        ("PYTHON", {"version": VERSION, "files": python}),
    ):
        head, found, tail = text.partition(f"/*{word}*/ ")
        assert found
        text = f"{head}{json.dumps(data)};{tail[tail.index(chr(10)) :]}"
    (out / "sw.js").write_text(text, encoding="utf-8")
