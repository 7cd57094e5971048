"""Try a live course in headless Chromium: python -m tinyalex.lessons.live.check DIR [lesson …] [--times]

DIR was written by `tinyalex lessons --live DIR --pyodide FOLDER`; only this machine is reached.  Tried are
the first verdict (seconds, and bytes as a server would compress them), every solution and every typical wrong
answer of the lessons (all of them by default), whose message must be the one that Python gives here, all
cells, one lesson by keyboard alone, the stop button, what is kept, other tabs, notebooks out and in, what a
browser may lack, and the course without a network.  With AXE_CORE=…/axe.min.js (from  npm install axe-core)
the accessibility of every page is checked too.  It prints a line for each and ends with exit code 1 if one
failed.

--times tries only how long a browser that knows nothing yet takes to its first verdict, over three lines.
It wants a machine with nothing else to do.
"""

import argparse
import functools
import gzip
import http.server
import inspect
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from tinyalex.data.shapes import SHAPES
from tinyalex.lessons import course
from tinyalex.lessons.checks import PASSED, judge
from tinyalex.lessons.notebook import asked

PUT = """
const editor = document.querySelector(`#cell-${arguments[0]} .cm-content`);
editor.focus();
const all = {key: 'a', code: 'KeyA', keyCode: 65, ctrlKey: true, bubbles: true, cancelable: true};
editor.dispatchEvent(new KeyboardEvent('keydown', all));
const data = new DataTransfer();
data.setData('text/plain', arguments[1]);
editor.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true}));
"""
PRESS = "document.querySelector(`#cell-${arguments[0]} .bar button`).click()"
JUDGE = """
const [id, done] = arguments;
const verdict = document.querySelector(`#cell-${id} .judged`);
verdict.textContent = '';
const start = performance.now();
new MutationObserver((_, seen) => {
    if (!verdict.textContent) return;
    seen.disconnect();
    done([verdict.dataset.state, verdict.textContent, performance.now() - start]);
}).observe(verdict, {childList: true});
document.querySelector(`#cell-${id} .bar button`).click();
"""


class Failed(Exception):
    """Something that should hold does not."""


class Server(http.server.ThreadingHTTPServer):
    """A plain file server that remembers what it was asked for."""

    daemon_threads = True

    def __init__(self, folder, port=0):
        self.asked, self.refused = [], ()  # beginnings of paths that are answered with an error
        self.rate, self.free, self.turn = None, 0.0, threading.Lock()  # bytes/s, on one line for all
        super().__init__(("localhost", port), functools.partial(_Handler, directory=str(folder)))
        self.address = f"http://localhost:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Say nothing of a page that was left before it had all."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def send(self, size):
        """Wait until the line has carried so many bytes."""
        with self.turn:
            self.free = max(self.free, time.monotonic()) + size / self.rate
            until = self.free
        time.sleep(max(0, until - time.monotonic()))

    def stop(self):
        """Serve no more."""
        self.shutdown()
        self.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
    }

    def log_message(self, *args):
        self.server.asked.append(self.path.split("?")[0].lstrip("/") or "index.html")

    def do_GET(self):
        if self.path.lstrip("/").startswith(tuple(self.server.refused)):
            self.send_error(403)
        elif self.server.rate and Path(self.translate_path(self.path)).is_file():
            self._compressed(Path(self.translate_path(self.path)))
        else:
            super().do_GET()

    def _compressed(self, path):
        """Send a file as public servers do, at the server's rate."""
        data = compressed(path)
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for start in range(0, len(data), 1 << 14):
            self.server.send(len(data[start : start + (1 << 14)]))
            self.wfile.write(data[start : start + (1 << 14)])

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")  # as a public network has it
        super().end_headers()


@functools.cache
def compressed(path):
    """Return a file's bytes as a server sends them."""
    return gzip.compress(path.read_bytes(), 6)


@contextmanager
def slowed(driver, times):
    """Let the browser run for one part in so many of the time.

    (DevTools' own brake slows the page alone, not the worker that Python runs in.)
    """
    end = threading.Event()

    def brake(seconds=0.02):
        while not end.is_set():
            family = _family(driver.service.process.pid)
            for _ in range(20):
                for what, part in ((signal.SIGSTOP, 1 - 1 / times), (signal.SIGCONT, 1 / times)):
                    for process in family:
                        with suppress(ProcessLookupError):
                            os.kill(process, what)
                    time.sleep(part * seconds)

    thread = threading.Thread(target=brake, daemon=True)
    if times > 1:
        thread.start()
    try:
        yield
    finally:
        end.set()
        if times > 1:
            thread.join()


def _family(ancestor):
    """Return the processes that descend from one (Linux)."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = {ancestor}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {ancestor}


@contextmanager
def browser(downloads=None):
    """Start a headless Chromium that reaches this machine alone."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost",
    ):  # fmt: skip
        options.add_argument(argument)
    if downloads:
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    started.set_script_timeout(180)
    try:
        yield started
    finally:
        started.quit()


class Page:
    """A lesson's page in the browser, as its learner uses it."""

    def __init__(self, driver, address, stem):
        self.driver, self.address, self.stem = driver, f"{address}{stem}.html", stem
        self.asked = asked(int(stem[:2]))
        self.open()

    def open(self):
        """Load the page and wait until its editors are there."""
        self.driver.get(self.address)
        self.wait(lambda: self.all(".cm-content"), "editors")
        lesson = json.loads(self.driver.find_element("id", "lesson").get_attribute("textContent"))
        self.holes = {cell["name"]: cell["id"] for cell in lesson["cells"] if "name" in cell}

    def all(self, selector):
        """Return the elements."""
        return self.driver.find_elements("css selector", selector)

    def text(self, name):
        """Return an element's visible text, by id."""
        return self.driver.find_element("id", name).text

    def wait(self, ready, what, seconds=120):
        """Wait until ready() is true, and return what it returns."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := ready():
                return found
            time.sleep(0.02)
        raise Failed(f"{self.stem}: waited in vain for {what}; {self.state()}")

    def state(self):
        """What the page says."""
        said = [e.text for e in self.all("#python-status, #notice, .error") if e.text]
        return f"the page says {said}, the console {self.driver.get_log('browser')}"

    def put(self, name, text):
        """Put a text in the place of an answer, as pasting does."""
        self.driver.execute_script(PUT, self.holes[name], text)
        if self.answer(name) != text.rstrip():
            raise Failed(f"{name}: the editor holds {self.answer(name)!r} after {text!r} was pasted")

    def answer(self, name):
        """Return the text of an answer."""
        script = "return Array.from(document.querySelectorAll(arguments[0]), line => line.textContent)"
        lines = self.driver.execute_script(script, f"#cell-{self.holes[name]} .cm-line")
        return "\n".join(lines).rstrip()

    def click(self, selector):
        """Press a button."""
        self.driver.execute_script("document.querySelector(arguments[0]).click()", selector)

    def check(self, name):
        """Press check; return (state, what it says, milliseconds)."""
        return self.driver.execute_async_script(JUDGE, self.holes[name])

    def verdict(self, name):
        """Return what is said of an answer."""
        return self.driver.find_element("css selector", f"#cell-{self.holes[name]} .judged").text

    def run_all(self, seconds=240):
        """Run all cells to the last; Failed if one raises an error."""
        self.click("#run-all")
        time.sleep(0.1)
        self.wait(lambda: not self.driver.find_element("id", "stop").is_displayed(), "the last cell", seconds)
        if errors := self.all(".error"):
            raise Failed(f"{self.stem}: a cell raised an error: {errors[0].text}")

    def console(self):
        """Failed if the browser's console has an error."""
        if said := [e["message"] for e in self.driver.get_log("browser") if e["level"] == "SEVERE"]:
            raise Failed(f"{self.stem}: the browser's console says {said}")


def answers(hole):
    """Return [text]: the typical wrong answers to a hole or exercise."""
    found = []
    for entry in hole.wrong:
        if len(entry) == 3:
            found.append(hole.source.replace(*entry[:2]))
        else:
            found.append(f"{inspect.getsource(entry[0])}\n\n{hole.name} = {entry[0].__name__}")
    return found


def here(hole, text):
    """Return the verdict that Python gives here."""
    state, message = judge(hole, hole.compiled(text))
    return f"{state}: {hole.name}{message and chr(10)}{message}"


def lesson(driver, address, stem):
    """Try all answers and all cells of a lesson; return a line about it."""
    page, times, wrong = Page(driver, address, stem), [], 0
    holes = page.asked
    for name, hole in holes.items():
        for text in [*answers(hole), hole.source]:
            page.put(name, text)
            _, said, ms = page.check(name)
            if said.split() != here(hole, text).split():
                raise Failed(f"{stem}, {name}: expected {here(hole, text)!r}, found {said!r} for\n{text}")
            times.append(ms)
            wrong += text != hole.source
    start = time.monotonic()
    page.run_all()
    seconds = time.monotonic() - start
    for name in holes:
        if not page.verdict(name).startswith(PASSED):
            raise Failed(f"{stem}, {name}: after all cells it says {page.verdict(name)!r}")
    page.console()
    later = sorted(times[1:])
    return (
        f"{stem}: {len(holes)} solutions pass, {wrong} wrong answers are told as here "
        f"(median {later[len(later) // 2]:.0f} ms, at most {later[-1]:.0f}), all cells run in {seconds:.1f} s"
    )


def first_verdict(driver, server, stem="05_backward_convolution", name="add_back"):
    """Return a line about the time and the bytes to the first verdict of a browser that knows nothing yet."""
    folder = Path(server.RequestHandlerClass.keywords["directory"])
    server.asked.clear()
    start = time.monotonic()
    page = Page(driver, server.address, stem)
    hole = page.asked[name]
    page.put(name, answers(hole)[0])
    state, said, _ = page.check(name)
    seconds = time.monotonic() - start
    if state != "wrong":
        raise Failed(f"first verdict: of a wrong answer it says {said!r}")
    size = sum(len(compressed(folder / file)) for file in set(server.asked))
    if size > 10e6:
        raise Failed(f"first verdict: expected at most 10 MB, found {size / 1e6:.1f} MB: {set(server.asked)}")
    return f"first verdict after {seconds:.1f} s, {size / 1e6:.1f} MB compressed"


def in_time(driver, server, mbit, times, most):
    """Return a line about the first verdict over a line of so many Mbit/s, on a CPU so many times slower."""
    server.rate = mbit and mbit * 1e6 / 8
    if mbit:  # it is the line that is tried, not our compressing
        for path in Path(server.RequestHandlerClass.keywords["directory"]).rglob("*"):
            if path.suffix in (".html", ".js", ".css", ".json", ".zip", ".mjs", ".wasm", ".whl"):
                compressed(path)
    with slowed(driver, times):
        found = first_verdict(driver, server)
    line = f"{mbit or 'no end of'} Mbit/s, CPU {times} times slower: {found}, wanted {most}"
    if float(found.split()[3]) > most:
        raise Failed(line)
    return line


def access(driver, address, pages, axe):
    """Ask axe-core about pages, narrow and light, wide and dark; return a line about it."""
    views = 0
    for name in pages:
        for width, scheme in ((390, "light"), (1280, "dark")):
            metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 1000}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            theme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)
            driver.get(f"{address}{name}")
            time.sleep(0.5)
            driver.execute_script(axe)
            found = driver.execute_async_script(
                "const done = arguments[0]; axe.run().then(r => done("
                "r.violations.map(v => [v.id, v.nodes.length, v.nodes[0].html.slice(0, 200)])))"
            )
            if found:
                raise Failed(f"{name}, {width} pixels, {scheme}: axe-core finds {found}")
            if driver.execute_script("return document.documentElement.scrollWidth") > width:
                raise Failed(f"{name}: wider than {width} pixels")
            views += 1
    return f"axe-core finds nothing in {views} views of {len(pages)} pages"


def by_keyboard(driver, address, stem="05_backward_convolution"):
    """Do a lesson with keys alone; return a line about it."""
    from selenium.webdriver import ActionChains, Keys

    page = Page(driver, address, stem)
    keys = lambda *what: ActionChains(driver, duration=0).send_keys(*what).perform()  # noqa: E731
    focused = "return document.activeElement.closest('.cell')?.id + ' ' + document.activeElement.className"
    count = 0

    def walk(there):
        nonlocal count
        for _ in range(400):
            keys(Keys.ESCAPE, Keys.TAB)
            count += 1
            if there(driver.execute_script(focused)):
                return
        raise Failed(f"{stem}: 400 times Tab, and not there")

    for name, hole in page.asked.items():
        walk(lambda at, name=name: f"cell-{page.holes[name]} " in at and "cm-content" in at)
        ActionChains(driver).key_down(Keys.CONTROL).send_keys("a").key_up(Keys.CONTROL).perform()
        keys(Keys.DELETE)
        for k, line in enumerate(hole.source.splitlines()):
            if k:
                keys(Keys.ENTER)
                ActionChains(driver).key_down(Keys.SHIFT).send_keys(Keys.HOME).key_up(Keys.SHIFT).perform()
                keys(Keys.DELETE if page.answer(name) != "" else "")
            keys(line)
        if page.answer(name) != hole.source:
            raise Failed(f"{name}: typed {hole.source!r}, the editor has {page.answer(name)!r}")
        ActionChains(driver).key_down(Keys.CONTROL).send_keys(Keys.ENTER).key_up(Keys.CONTROL).perform()
        page.wait(lambda name=name: page.verdict(name).startswith(PASSED), f"{name} to pass")
    walk(lambda at: driver.execute_script("return document.activeElement.id") == "run-all")
    keys(Keys.ENTER)
    time.sleep(0.1)
    page.wait(lambda: not driver.find_element("id", "stop").is_displayed(), "the last cell")
    if errors := page.all(".error"):
        raise Failed(f"{stem}: {errors[0].text}")
    return f"{stem} by keyboard: {len(page.holes)} holes, all cells, {count} times Tab"


def stopping(driver, address, stem="05_backward_convolution", name="add_back"):
    """Stop an endless loop; return a line about it."""
    page = Page(driver, address, stem)
    hole = page.asked[name]
    endless = hole.source.replace("    return", "    while True:\n        pass\n    return")
    page.put(name, hole.source)
    page.check(name)  # Python is there
    page.put(name, endless)
    driver.execute_script(PRESS, page.holes[name])
    time.sleep(1)
    start = time.monotonic()
    page.click("#stop")
    page.wait(lambda: "stopped" in driver.find_element("id", f"cell-{page.holes[name]}").text, "the stop")
    seconds = time.monotonic() - start
    if page.answer(name) != endless or seconds > 2:
        raise Failed(f"stop: {seconds:.1f} s, and the text is {page.answer(name)!r}")
    page.put(name, hole.source)
    state, said, _ = page.check(name)
    if state != "passed":
        raise Failed(f"after a stop: {said}")
    return f"an endless loop is stopped in {seconds:.2f} s, its text kept, and Python is there again"


def keeping(driver, address, downloads, stem="05_backward_convolution"):
    """Reload, take a notebook out and in, open two tabs; return a line about it."""
    page = Page(driver, address, stem)
    holes = page.asked
    (first, hole), (second, _) = list(holes.items())[:2]
    mine = f"{hole.source}  # ü «mine»"
    page.put(first, mine)
    page.check(first)
    page.put(second, "def half(")
    page.open()  # at once
    if (page.answer(first), page.answer(second)) != (mine, "def half("):
        raise Failed(f"after a reload: {page.answer(first)!r}, {page.answer(second)!r}")
    driver.get(f"{address}index.html")
    page.wait(lambda: f"1 of {len(holes)} done" in driver.page_source, "the map's mark")

    page.open()
    page.click("#export")
    file = downloads / f"{stem}.ipynb"
    page.wait(file.exists, "the notebook")
    page.wait(lambda: file.stat().st_size > 0, "the notebook's text")
    sources = ["".join(cell["source"]) for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]]
    if mine not in sources or "def half(" not in sources:
        raise Failed("export: an answer is not in the notebook")
    driver.execute_script("localStorage.clear()")
    page.open()
    driver.find_element("id", "import").send_keys(str(file))
    page.wait(lambda: "answers read" in page.text("notice"), "the notebook to be read")
    if page.answer(first) != mine:
        raise Failed(f"import: {page.answer(first)!r}")

    other = course.folder() / "04_convolution.ipynb"
    driver.find_element("id", "import").send_keys(str(other))
    page.wait(
        lambda: "found none of its functions" in page.text("notice"), "the word about a foreign notebook"
    )
    (downloads / "x.ipynb").write_text("{")
    driver.find_element("id", "import").send_keys(str(downloads / "x.ipynb"))
    page.wait(lambda: "found something else" in page.text("notice"), "the word about a damaged notebook")

    before = driver.current_window_handle
    driver.switch_to.new_window("tab")
    twin = Page(driver, address, stem)
    twin.put(first, f"{mine} twice")
    time.sleep(0.5)
    driver.switch_to.window(before)
    page.wait(lambda: page.all(".other-tab"), "the word about the other tab")
    if page.answer(first) != mine:
        raise Failed(f"another tab changed this one's text: {page.answer(first)!r}")
    page.click(".other-tab button")
    if page.answer(first) != f"{mine} twice":
        raise Failed("the other tab's text was not taken")
    return "a reload, a notebook out and in, a foreign one and two tabs lose nothing"


def photographing(driver, address, folder, stem="00_ten_minutes"):
    """Choose a photograph of a star, made of one, and a file that is none; return a line about it."""
    from PIL import Image

    up = np.linspace(1.3, -1.3, 600)[:, None]
    star = SHAPES["star"](up, -up.T) < 0
    paper = np.where(star, 45, 225 - 20 * up).clip(0, 255).astype(np.uint8)
    Image.fromarray(paper).save(folder / "star.jpg")
    (folder / "none.jpg").write_text("no picture")
    page = Page(driver, address, stem)
    cell = "#cell-" + driver.execute_script(
        "return JSON.parse(document.getElementById('lesson').textContent).cells.find(c => c.photograph).id"
    )

    def choose(name):
        driver.find_element("css selector", f"{cell} input[type=file]").send_keys(str(folder / name))

    choose("star.jpg")
    page.wait(lambda: "answer: star" in page.all(f"{cell} ~ .cell .outputs")[0].text, "the star's name")
    choose("none.jpg")
    page.wait(
        lambda: "expected a picture" in page.all(f"{cell} .outputs")[0].text, "the word about no picture"
    )
    return "a photograph of a star is named, and a file that is none is told"


def refused(driver, server, stem="05_backward_convolution", name="add_back"):
    """Open pages from the disk, without WebAssembly, storage or Python's files; return a line about it."""
    address = server.address
    folder = Path(server.RequestHandlerClass.keywords["directory"])

    def without(script, look):
        added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        try:
            driver.get(f"{address}{stem}.html")
            look()
        finally:
            driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    def no_wasm():
        if "no WebAssembly" not in driver.find_element("css selector", ".notice").text:
            raise Failed("without WebAssembly the page says nothing")

    def keeps_nothing(word):
        page = Page(driver, address, stem)
        page.put(name, "def typed(): ...")
        page.wait(lambda: word in page.text("notice"), f"the words: {word}")
        if page.answer(name) != "def typed(): ...":
            raise Failed(f"{word}: the text is lost")

    server.refused = ["pyodide/"]
    page = Page(driver, address, stem)
    page.put(name, page.asked[name].source)
    page.wait(lambda: "could not be loaded" in page.text("python-status"), "the word about Python's files")
    server.refused = []
    if page.check(name)[0] != "passed":
        raise Failed(f"after Python's files are there again: {page.verdict(name)}")
    driver.get((folder / f"{stem}.html").resolve().as_uri())
    if "opened from the disk" not in driver.find_element("css selector", ".notice").text:
        raise Failed("from the disk the page says nothing")
    without("delete self.WebAssembly", no_wasm)
    leave = (  # without being asked whether to
        "const add = addEventListener;"
        "self.addEventListener = (what, act) => what === 'beforeunload' || add(what, act);"
    )
    without(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"
        + leave,
        lambda: keeps_nothing("its storage is full"),
    )
    without(
        "Object.defineProperty(self, 'localStorage', "
        "{ get() { throw new DOMException('no', 'SecurityError'); } });" + leave,
        lambda: keeps_nothing("storage is refused"),
    )
    return "a page from the disk, no WebAssembly, a full or refused storage, no Python: each has its word"


def offline(driver, server, stem="07_overlapping_pooling"):
    """Go on without the server; return a line about it."""
    page = Page(driver, server.address, "05_backward_convolution")
    page.wait(lambda: "without a network" in page.text("offline"), "the course to be kept")
    server.stop()
    page = Page(driver, server.address, stem)  # another lesson, never opened before
    for name, hole in page.asked.items():
        page.put(name, hole.source)
        state, said, _ = page.check(name)
        if state != "passed":
            raise Failed(f"offline, {name}: {said}")
    page.run_all()
    driver.get(server.address)
    page.wait(lambda: "lesson" in driver.title.lower(), "the map")
    return f"without a network: the map, {stem}, all its cells and its pictures"


def main():
    """Try a course; exit code 1 if something failed."""
    parser = argparse.ArgumentParser(description="Try a live course in headless Chromium.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("lessons", type=int, nargs="*", help="their numbers; all by default")
    parser.add_argument("--times", action="store_true")
    options = parser.parse_args()
    course.need("selenium")
    stems = [path.stem for path in course.notebooks()]
    stems = [stem for stem in stems if not options.lessons or int(stem[:2]) in options.lessons]
    failed = 0

    def report(trial, *args):
        nonlocal failed
        try:
            print(f"✓ {trial(*args)}", flush=True)
        except Failed as error:
            failed += 1
            print(f"✗ {error}", flush=True)

    server = Server(options.folder)
    if options.times:
        for case in ((None, 1, 5), (20, 1, 15), (9, 4, 30)):
            with browser() as driver:
                report(in_time, driver, server, *case)
        return bool(failed)
    with tempfile.TemporaryDirectory() as downloads:
        with browser() as driver:
            report(first_verdict, driver, server)
            for stem in stems:
                report(lesson, driver, server.address, stem)
        with browser(downloads) as driver:
            report(keeping, driver, server.address, Path(downloads))
            report(stopping, driver, server.address)
            report(photographing, driver, server.address, Path(downloads))
        with browser() as driver:
            report(by_keyboard, driver, server.address)
        if "AXE_CORE" in os.environ:
            pages = [path.relative_to(options.folder).as_posix() for path in options.folder.rglob("*.html")]
            axe = Path(os.environ["AXE_CORE"]).read_text(encoding="utf-8")
            with browser() as driver:
                report(access, driver, server.address, sorted(pages), axe)
        with browser() as driver:
            report(refused, driver, server)
        with browser() as driver:
            report(offline, driver, server)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
