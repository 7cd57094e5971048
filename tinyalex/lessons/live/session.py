"""A lesson's cells and checks in the browser: Python's side of the live course.

It runs in Pyodide, in a worker, and speaks to the page in JSON; `answer` is all that the worker calls.
"""

import ast
import base64
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import linecache
import os
import sys
import time
import traceback
import types

from tinyalex import comm
from tinyalex.lessons.checks import NOT_YET, PASSED, WRONG, judge
from tinyalex.lessons.notebook import asked

MOST_TEXT = 50_000  # characters that one run may print


class Session:
    """The names of one notebook, and what its learner has answered.

    lock: text of Pyodide's lock file.  fetch(file name) → the bytes of a package; unpack(bytes): install it.
    """

    def __init__(self, number, lock, fetch, unpack):
        self.holes = asked(number)
        self.names = {"__name__": "__main__"}
        self.answers = {}
        os.environ["MPLBACKEND"] = "agg"
        sys.meta_path.append(_Packages(json.loads(lock)["packages"], fetch, unpack))
        _stand_in_for_ipython(self)
        for ranks in ("threads", "processes"):  # neither can be started
            comm.TRANSPORTS[ranks] = "tinyalex.lessons.live.turns"

    def answer(self, message, emit):
        """Do what a message of the page asks: run, check or tutor; return the answer, as JSON."""
        asked = json.loads(message)
        self.out = _Out(emit)
        before = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self.out
        try:
            for what in ("run", "check", "tutor"):
                if what in asked:
                    return json.dumps(getattr(self, what)(**asked[what]))
        finally:
            sys.stdout, sys.stderr = before
            self.out.flush()

    def run(self, cell, source):
        """Run a cell, show what it shows; {error} where it raised one."""
        try:
            value = self._execute(cell, source)
            if value is not None:
                self.display(value)
        except BaseException as error:
            return {"error": _told(error)}
        finally:
            self._figures()
        return {}

    def check(self, cell, name, source):
        """Judge a hole's function: {state, message}.  Later cells use it if it is right, else the book's."""
        hole = self.holes[name]
        self.answers.pop(name, None)
        self.names.pop(name, None)
        try:
            self._lend(hole, source)
            self._execute(cell, source)
            if not isinstance(self.names.get(name), types.FunctionType):
                raise NameError(f"this cell defines no function {name}")
            function = self.answers[name] = self.names[name]
            state, message = judge(hole, function)
        except BaseException as error:
            state, message = WRONG, _told(error)
        if state != PASSED:
            self.names[name] = hole.solution
        return {"state": {PASSED: "passed", NOT_YET: "open", WRONG: "wrong"}[state], "message": message}

    def tutor(self, cell, name, source):
        """Step through a hole's function: {html}."""
        from tinyalex.lessons.tutor import explain

        verdict = self.check(cell, name, source)
        if name not in self.answers:
            return verdict
        return {**verdict, "html": explain(self.holes[name], self.answers[name])}

    def _lend(self, hole, source):
        """Give the hole the names that earlier cells would have made, had they been run."""
        theirs = hole.solution.__globals__
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name) and node.id in theirs:
                self.names.setdefault(node.id, theirs[node.id])

    def _execute(self, cell, source):
        """Run a text among the lesson's names; return the value of its last line if that is an expression."""
        file = f"<cell {cell}>"
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
        tree = ast.parse(source, file)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, file, "exec"), self.names)
        if last and not source.rstrip().endswith(";"):
            return eval(compile(ast.Expression(last.value), file, "eval"), self.names)
        return last and exec(compile(ast.Module([last], []), file, "exec"), self.names)

    def display(self, *things):
        """Show things as a notebook does: HTML, a figure, or else their text."""
        for thing in things:
            if hasattr(thing, "_repr_html_"):
                self.out.emit("html", thing._repr_html_())
            elif hasattr(thing, "savefig"):
                self._figure(thing)
            else:
                self.out.write(f"{thing!r}\n")

    def _figures(self):
        """Show what pyplot has open, and close it."""
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            for number in pyplot.get_fignums():
                self._figure(pyplot.figure(number))
            pyplot.close("all")

    def _figure(self, figure):
        file = io.BytesIO()
        figure.savefig(file, format="png", bbox_inches="tight")
        self.out.emit("png", base64.b64encode(file.getvalue()).decode())


class _Out(io.TextIOBase):
    """What is printed, sent to the page a few times a second."""

    def __init__(self, emit):
        self.send, self.text, self.sent, self.last = emit, [], 0, time.monotonic()

    def write(self, text):
        """Take a piece of text."""
        if self.sent <= MOST_TEXT:
            self.sent += len(text)
            cut = "\n… there was more: it is not shown\n"
            self.text.append(text if self.sent <= MOST_TEXT else cut)
            if time.monotonic() - self.last > 0.2:
                self.flush()
        return len(text)

    def flush(self):
        """Send what has been taken."""
        if self.text:
            self.send("text", "".join(self.text))
        self.text, self.last = [], time.monotonic()

    def emit(self, kind, text):
        """Send something else, behind the text before it."""
        self.flush()
        self.send(kind, text)


class _Packages(importlib.abc.MetaPathFinder):
    """Installs one of the lock file's packages when it is imported, and not before."""

    def __init__(self, packages, fetch, unpack):
        self.packages, self.fetch, self.unpack = packages, fetch, unpack
        self.owner = {name: key for key, package in packages.items() for name in package["imports"]}
        self.here = {"numpy"}

    def find_spec(self, name, path=None, target=None):
        """Return the spec of a package's module, now that it is installed."""
        key = self.owner.get(name)
        if not key or key in self.here:
            return None
        self.install(key)
        importlib.invalidate_caches()
        return importlib.machinery.PathFinder.find_spec(name, path, target)

    def install(self, key):
        """Fetch, verify and unpack a package and what it depends on."""
        if key in self.here:
            return
        self.here.add(key)
        package = self.packages[key]
        for other in package["depends"]:
            self.install(other)
        data = self.fetch(package["file_name"])
        found = hashlib.sha256(data.to_bytes()).hexdigest()
        if found != package["sha256"]:
            raise ImportError(f"{package['file_name']}: expected SHA-256 {package['sha256']}, found {found}")
        self.unpack(data)


def _told(error):
    """The traceback, from the learner's own cell on."""
    trace = error.__traceback__
    while trace and not trace.tb_frame.f_code.co_filename.startswith("<cell "):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


class _Html:
    """What IPython.display.HTML is to the lessons."""

    def __init__(self, data):
        self.data = data

    def _repr_html_(self):
        return self.data


def _stand_in_for_ipython(session):
    """Put the two names of IPython that the lessons use where they look for them."""
    display = types.ModuleType("IPython.display")
    display.HTML, display.display = _Html, session.display
    ipython = types.ModuleType("IPython")
    ipython.display, ipython.get_ipython = display, lambda: None
    ipython.version_info = (9, 0)  # Matplotlib asks
    sys.modules.update({"IPython": ipython, "IPython.display": display})
