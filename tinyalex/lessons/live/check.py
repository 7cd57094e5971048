"""Try a live course in headless Chromium: python -m tinyalex.lessons.live.check DIR [lesson …]

DIR was written by `tinyalex lessons --live DIR --pyodide FOLDER`; only this machine is reached.  Tried are
the first verdict (seconds, and bytes as a server would compress them), every solution and every typical wrong
answer of the lessons (all of them by default), whose message must be the one that Python gives here, all
cells, one lesson by keyboard alone, the stop button, what is kept, other tabs, notebooks out and in, what a
browser may lack, and the course without a network.  It prints a line for each and ends with exit code 1 if
one failed.
"""

import argparse
import functools
import gzip
import http.server
import inspect
import json
import shutil
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from tinyalex.lessons import course, live
from tinyalex.lessons.checks import NOT_YET, PASSED, WRONG, judge

STATES = {"passed": PASSED, "open": NOT_YET, "wrong": WRONG}
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
        super().__init__(("localhost", port), functools.partial(_Handler, directory=str(folder)))
        self.address = f"http://localhost:{self.server_port}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Say nothing of a page that was left before it had all."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

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
        else:
            super().do_GET()

    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")  # as a public network has it
        super().end_headers()


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
        lines = self.all(f"#cell-{self.holes[name]} .cm-line")
        script = "return arguments[0].map(line => line.textContent)"
        return "\n".join(self.driver.execute_script(script, lines)).rstrip()

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
    holes = live.asked(stem)
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
    hole = live.asked(stem)[name]
    page.put(name, answers(hole)[0])
    page.check(name)
    seconds = time.monotonic() - start
    size = sum(len(gzip.compress((folder / file).read_bytes(), 6)) for file in set(server.asked))
    if size > 10e6:
        raise Failed(f"first verdict: expected at most 10 MB, found {size / 1e6:.1f} MB: {set(server.asked)}")
    return f"first verdict after {seconds:.1f} s, {size / 1e6:.1f} MB compressed"


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

    for name, hole in live.asked(stem).items():
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
    page, hole = Page(driver, address, stem), live.asked(stem)[name]
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
    page, holes = Page(driver, address, stem), live.asked(stem)
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

    def full():
        page = Page(driver, address, stem)
        page.put(name, "def typed(): ...")
        page.wait(lambda: "storage is full" in page.text("notice"), "the word about a full storage")
        if page.answer(name) != "def typed(): ...":
            raise Failed("storage full: the text is lost")

    server.refused = ["pyodide/"]
    page = Page(driver, address, stem)
    page.put(name, live.asked(stem)[name].source)
    page.wait(lambda: "could not be loaded" in page.text("python-status"), "the word about Python's files")
    server.refused = []
    if page.check(name)[0] != "passed":
        raise Failed(f"after Python's files are there again: {page.verdict(name)}")
    driver.get((folder / f"{stem}.html").resolve().as_uri())
    if "opened from the disk" not in driver.find_element("css selector", ".notice").text:
        raise Failed("from the disk the page says nothing")
    without("delete self.WebAssembly", no_wasm)
    without(
        "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); };"
        "const add = addEventListener;"
        "self.addEventListener = (what, act) => what === 'beforeunload' || add(what, act);",
        full,
    )
    return "a page from the disk, no WebAssembly, a full storage, no Python: each has its word"


def offline(driver, server, stem="07_overlapping_pooling"):
    """Go on without the server; return a line about it."""
    page = Page(driver, server.address, "05_backward_convolution")
    page.wait(lambda: "without a network" in page.text("offline"), "the course to be kept")
    server.stop()
    page = Page(driver, server.address, stem)  # another lesson, never opened before
    for name, hole in live.asked(stem).items():
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
    asked = parser.parse_args()
    course.need("selenium")
    stems = [path.stem for path in course.notebooks()]
    stems = [stem for stem in stems if not asked.lessons or int(stem[:2]) in asked.lessons]
    failed = 0

    def report(trial, *args):
        nonlocal failed
        try:
            print(f"✓ {trial(*args)}", flush=True)
        except Failed as error:
            failed += 1
            print(f"✗ {error}", flush=True)

    with tempfile.TemporaryDirectory() as downloads:
        server = Server(asked.folder)
        with browser() as driver:
            report(first_verdict, driver, server)
            for stem in stems:
                report(lesson, driver, server.address, stem)
        with browser(downloads) as driver:
            report(keeping, driver, server.address, Path(downloads))
            report(stopping, driver, server.address)
        with browser() as driver:
            report(by_keyboard, driver, server.address)
        with browser() as driver:
            report(refused, driver, server)
        with browser() as driver:
            report(offline, driver, server)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
