"""A class of 200 made students, among them cheats and vandals, through `tinyalex class`: is every mark right?

    python measured/class_of_200.py [--students 200] [--folder FOLDER]

Each student hands in one lesson, in turn.  A third of them have everything right, others each known mistake
of each function in turn.  The rest have a trick in one function: loops, sleep, forks, threads, arrays of 10
GB; results forged by NumPy's functions exchanged, by the caller's frames, by bytes written into every open
file, by objects equal to anything, by a table of what the usual check expects; the solutions read from the
package, from /proc, from another process's memory; files, other students' and the marks, read and written;
processes killed; the network.  The mischief of some comes with a right answer, which must be marked right.
Some files are no notebooks at all, or another course's, or links, pipes, copies with other contents, or have
odd names.

Compares every mark, the tables and the page with what was made; looks whether any file was written or any
connection came in, and whether any process is left.  Prints what is not as it should be, and the time; exits
with 1 if there is anything.
"""

import argparse
import copy
import csv
import json
import os
import pickle
import shutil
import socket
import sys
import tempfile
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tinyalex.cli.progress import Progress
from tinyalex.lessons import classroom, course, marking, notebook
from tinyalex.lessons.checks import NOT_YET, PASSED, WRONG, Hole

# ---- tricks: bodies of a function that takes (*args); NAME, HOLES, VICTIM, CANARY, PORT, TABLE are filled in
#
# After what is FORGED comes a wrong result, and PASSES, a right one, only where an escape has worked: the
# mark must be wrong.  After what is HARMLESS comes a right one, and the mark must be right.

FORGED = {
    "NumPy exchanged": """
        import numpy
        for name in ("abs", "allclose", "array_equal", "isclose", "isnan", "shares_memory", "asarray"):
            setattr(numpy, name, lambda *a, **k: numpy.True_)
        numpy.ndarray.__eq__ = lambda *a: True
        """,
    "callers' frames": """
        import gc, sys
        frame = sys._getframe()
        while frame:
            for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
                if isinstance(value, (tuple, list)) and value and "expected" in str(type(value)):
                    return value
            for name in ("expected", "kept", "solution", "hole"):
                if name in frame.f_locals:
                    found = frame.f_locals[name]
                    return found.solution(*args) if hasattr(found, "solution") else found
            frame = frame.f_back
        for thing in gc.get_objects():
            if type(thing).__name__ in ("Hole", "Exercise", "Trial"):
                return thing.solution(*args)
        """,
    "bytes into every file that is open": """
        import os, json, struct
        for verdict in ({"state": "✓ passed", "message": ""}, {"changed": [], "result": True},
                        ["✓ passed", "", ""], {"error": ["SystemExit", "", "", ""]}):
            head = json.dumps(verdict).encode()
            for file in range(64):
                for data in (head + b"\\n", struct.pack("=II", len(head), 0) + head):
                    try:
                        os.write(file, data)
                    except OSError:
                        pass
        """,
    "a pickle into every file that is open": """
        import os, pickle, struct
        class Evil:
            def __reduce__(self):
                return (open, (CANARY, "w"))
        data = pickle.dumps(("✓ passed", Evil()))
        for file in range(64):
            for form in (data, struct.pack("!i", len(data)) + data, struct.pack("=II", len(data), 0) + data):
                try:
                    os.write(file, form)
                except OSError:
                    pass
        """,
    "views from beyond the arguments": """
        import os, json, struct
        for start in (-4096, 0, 10**6, 2**62):
            for strides in ([8], [-8], [2**40], [0], [2**61], [-(2**60)]):
                head = json.dumps({"changed": [], "result": ["view", 0, "float64", [1000], strides, start]})
                data = struct.pack("=II", len(head), 0) + head.encode()
                for file in range(3, 64):
                    try:
                        os.write(file, data)
                    except OSError:
                        pass
        """,
    "sys.exit": "import sys; sys.exit(0)",
    "os._exit": "import os; os._exit(0)",
    "an interrupt": "raise KeyboardInterrupt",
    "atexit": """
        import atexit, os
        atexit.register(lambda: os.write(1, b"passed"))
        raise SystemExit
        """,
    "the solutions imported": """
        import importlib, sys
        for name in ("holes.lesson%02d" % LESSON, "checks", "kill", "facts", "marking", "judge"):
            try:
                module = importlib.import_module("tinyalex.lessons." + name)
                return getattr(module, "NAME")(*args)
            except Exception:
                pass
        """,
    "the solutions read": """
        import os, re
        for path in (HOLES, VICTIM, *("/proc/%s/root%s" % (p, HOLES) for p in ("self", "1", os.getppid()))):
            try:
                text = open(path).read()
                scope = {}
                exec(text, scope)
                return scope["NAME"](*args)
            except Exception:
                pass
        for folder in ("/", os.path.dirname(HOLES), os.path.expanduser("~"), "/tmp", "/proc"):
            try:
                os.listdir(folder)
                return PASSES(*args)
            except OSError:
                pass
        """,
    "another process's memory": """
        import ctypes, os
        libc = ctypes.CDLL(None)
        for pid in (os.getppid(), 1):
            for call in (lambda: open("/proc/%d/mem" % pid, "rb"), lambda: open("/proc/%d/environ" % pid),
                         lambda: os.listdir("/proc/%d/fd" % pid)):
                try:
                    call()
                    return PASSES(*args)
                except OSError:
                    pass
            if libc.ptrace(16, pid, 0, 0) == 0 or libc.syscall(434, pid, 0) > 0:
                return PASSES(*args)
            buffer = ctypes.create_string_buffer(64)
            vector = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 64)
            if libc.process_vm_readv(pid, vector, 1, vector, 1, 0) >= 0:
                return PASSES(*args)
        """,
    "an object equal to everything": """
        class Yes:
            shape, dtype, ndim, size = (), np.dtype(float), 0, 1
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __getattr__(self, name): return lambda *a, **k: True
            def __array__(self, *a, **k): raise SystemExit
            def __bool__(self): return True
        return Yes()
        """,
    "an array whose differences are 0": """
        class Zero(np.ndarray):
            def __sub__(self, other): return np.zeros(1)
            __rsub__ = __le__ = __eq__ = __sub__
            def __array_ufunc__(self, *a, **k): return np.True_
            def __array_function__(self, *a, **k): return True
        return np.zeros(3).view(Zero)
        """,
    "NaN everywhere": "return np.full(np.shape(args[0]) if args else (), np.nan)",
    "10 GB": "return np.ones(10 * 2**30 // 8)",
    "10 GB bit by bit": "found = []\nwhile True:\n    found.append(np.ones(2**20))",
    "a view of 10 GB": "return np.broadcast_to(np.float64(1), (10 * 2**27,))",
    "a list in itself": "found = []\nfound.append(found)\nreturn found",
    "a number of a million digits": "return 10 ** 10**6",
    "half surrogates": "raise ValueError('\\ud800\\udfff\\u202e\\0\\x1b[2J<script>alert(1)</script>')",
    "no end": "while True:\n    pass",
    "no end within NumPy": "while True:\n    np.ones((300, 300)) @ np.ones((300, 300))",
    "no end within one call": "return sum(range(10**15))",
    "no end, and no signal heeded": """
        import signal
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            try:
                while True:
                    pass
            except BaseException:
                pass
        """,
    "sleep": "import time\ntime.sleep(1e6)",
    "calls without end": "return NAME(*args)",
    "forks": "import os\nwhile True:\n    os.fork()",
    "forks by system call": """
        import ctypes
        libc = ctypes.CDLL(None)
        for _ in range(1000):
            if libc.fork() >= 0 or libc.syscall(57) >= 0 or libc.syscall(56, 17, 0, 0, 0, 0) >= 0:
                return PASSES(*args)
            if libc.syscall(58) >= 0 or libc.syscall(435, ctypes.create_string_buffer(88), 88) >= 0:
                return PASSES(*args)
        """,
    "processes": """
        import multiprocessing, os, subprocess
        sleep = ["sh", "-c", "sleep 601"]
        for call in (lambda: subprocess.Popen(sleep), lambda: os.system("sleep 601 &"),
                     lambda: os.execv("/bin/sh", sleep), lambda: os.posix_spawn("/bin/sh", sleep, {}),
                     lambda: multiprocessing.Process(target=print).start()):
            try:
                call()
            except Exception:
                pass
        """,
    "threads": """
        import threading, time
        def work():
            while True:
                pass
        while True:
            threading.Thread(target=work, daemon=True).start()
        """,
    "a crash": "import ctypes\nctypes.string_at(0)",
    "results known by heart": """
        import hashlib
        seen = repr([(getattr(a, "tolist", lambda: a)(),) for a in args if not callable(a)])
        return pickle.loads(TABLE[hashlib.sha256(seen.encode()).hexdigest()])
        """,
}  # fmt: skip

HARMLESS = {
    "writes into others' files": """
        import os
        for path in (VICTIM, CANARY, os.path.dirname(VICTIM) + "/mine", "/tmp/tinyalex-class-was-here"):
            for way in (lambda: open(path, "w"), lambda: open(path, "a"), lambda: os.truncate(path, 0),
                        lambda: os.remove(path), lambda: os.rename(path, path + "~"),
                        lambda: os.symlink(path, path + "~"), lambda: os.link(path, path + "~"),
                        lambda: os.chmod(path, 0), lambda: os.utime(path, (0, 0)),
                        lambda: os.mkdir(path + ".d"), lambda: os.mkfifo(path + ".f"),
                        lambda: os.chown(path, 1, 1)):
                try:
                    way()
                except OSError:
                    pass
        """,
    "calls out": """
        import ctypes, socket
        for kind in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 16, 17, 38):
            for form in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
                try:
                    s = socket.socket(kind, form)
                    s.connect(("127.0.0.1", PORT))
                except OSError:
                    pass
        """,
    "kills": """
        import ctypes, os
        for pid in (os.getppid(), 0, -1, 1):
            for number in (9, 15, 19):
                try:
                    os.kill(pid, number)
                except OSError:
                    pass
                for call in (62, 129, 200, 234, 424):
                    ctypes.CDLL(None).syscall(call, pid, number, number, 0, 0)
        try:
            os.killpg(os.getpgid(os.getppid()), 9)
        except OSError:
            pass
        """,
    "loosens its limits": """
        import ctypes, resource
        for what in range(16):
            try:
                resource.setrlimit(what, (-1, -1))
            except (OSError, ValueError):
                pass
        libc = ctypes.CDLL(None)
        for call in (165, 272, 161, 155, 157, 317, 444, 425, 321, 298, 319, 250, 304, 308):
            libc.syscall(call, 0, 0, 0, 0, 0)
        """,
    "prints": "print('✓ passed: NAME' * 100000, flush=True)",
    "writes to the streams": """
        import os, sys
        for _ in range(1000):
            os.write(1, b'{"state": "passed"}')
            sys.stdout.write("x")
        """,
    "breaks its Python": """
        import builtins, sys
        sys.modules["json"] = sys.modules["struct"] = sys.modules["os"] = None
        sys.setrecursionlimit(10**6)
        """,
    "settrace": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)",
}  # fmt: skip


def tricked(hole, trick, places):
    """The text of an answer with a trick in it."""
    text = {**FORGED, **HARMLESS}[trick]
    places = {**places, "NAME": hole.name}
    body = textwrap.indent(textwrap.dedent(text).strip(), "    ")
    source = hole.source.replace(f"def {hole.name}(", "def PASSES(", 1)
    if trick in HARMLESS:
        result = f"    return PASSES(*args)\n\n\n{source}\n"
    else:  # PASSES stands for an escape that worked: it would be marked right
        result = "    return 0\n"
        if "PASSES(" in text:
            result += f"\n\n{source}\n"
    text = f"import pickle\n\nimport numpy as np\n\n\ndef {hole.name}(*args):\n{body}\n{result}"
    for word, value in places.items():
        text = text.replace(word, str(value) if word in ("NAME", "LESSON") else repr(value))
    return text


def known_by_heart(hole):
    """{digest of the arguments: pickled result} of the cases that every student can look at."""
    import hashlib

    table = {}
    for args in hole.cases(np.random.default_rng(2012)):
        seen = repr([(getattr(a, "tolist", lambda a=a: a)(),) for a in args if not callable(a)])
        table[hashlib.sha256(seen.encode()).hexdigest()] = pickle.dumps(hole.solution(*args))
    return table


# ---- students


class Student:
    """One of them: lesson, notebook, and what its marks have to be."""

    def __init__(self, name, lesson, books):
        self.name, self.lesson, self.trick = name, lesson, ""
        self.book = copy.deepcopy(books[lesson])
        self.truth = {}  # function: (state, message or None)
        for name, hole in notebook.asked(lesson).items():
            self.write(name, hole.source, PASSED, "")

    def write(self, name, text, state, message=None):
        """Put an answer into the notebook, whose mark must be this."""
        for cell in self.book["cells"]:
            if cell["cell_type"] == "code" and f"def {name}(" in "".join(cell["source"]):
                cell["source"] = text.splitlines(keepends=True)
        self.truth[name] = state, message


def students(count, places):
    """Make the students: a list.  Of five in a row one is right, three make mistakes, one has a trick."""
    books = {int(p.name[:2]): json.loads(p.read_text(encoding="utf-8")) for p in course.notebooks()}
    found = []
    mistakes = {number: _mistakes(number) for number in books}
    forged, harmless, turns = list(FORGED), list(HARMLESS), Counter()
    for k in range(count):
        lesson = sorted(books)[k % len(books)]
        student = Student(f"student {k:03d}", lesson, books)
        if k % 5 in (1, 2, 3):  # in each function a known mistake, the next one each time
            for name, texts in mistakes[lesson].items():
                student.write(name, *texts[turns[lesson] % len(texts)])
            turns[lesson] += 1
        elif tricks := forged if k % 5 == 4 else harmless:
            student.trick = trick = tricks.pop(0)
            holes = [hole for hole in notebook.asked(lesson).values() if isinstance(hole, Hole)]
            hole = holes[k // len(books) % len(holes)]
            if "TABLE" in {**FORGED, **HARMLESS}[trick]:
                places = {**places, "TABLE": known_by_heart(hole)}
            text = tricked(hole, trick, {**places, "LESSON": lesson})
            student.write(hole.name, text, PASSED if trick in HARMLESS else WRONG)
        found.append(student)
    assert count < 200 or not forged + harmless
    return found


def _mistakes(number):
    """{function: [(text, state, message)]}: the known mistakes of a lesson, and answers not begun."""
    found = {}
    for name, hole in notebook.asked(number).items():
        texts = [
            (hole.source.replace(*entry[:2]), WRONG, entry[2]) for entry in hole.wrong if len(entry) == 3
        ]
        todo = hole.source.splitlines()
        todo = "\n".join([*todo[:-1], "    ...", todo[-1]])
        found[name] = [*texts, (todo, NOT_YET, None)]
    return found


def odd_files(folder, some):
    """Files of all kinds that are no notebooks, and names; return {student: what is said of it}."""
    text = json.dumps(some.book)
    made = {}

    def put(student, name, data, said):
        path = folder / student / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        made[student] = said

    name = course.notebooks()[some.lesson - 1].name
    put("empty", name, "", "no JSON")
    put("no JSON", name, "PK\x03\x04 something", "no JSON")
    put("binary", name, bytes(range(256)) * 100, "no JSON")
    put("brackets", name, "[" * 500_000, "no JSON")
    put("a list", name, "[1, 2]", "without cells")
    put("format 3", name, json.dumps({"worksheets": [{"cells": []}], "nbformat": 3}), "without cells")
    put(
        "cells of nonsense",
        name,
        json.dumps({"cells": [None, 3, {"cell_type": "code"}]}),
        "none of its functions",
    )
    other = {"cells": [{"cell_type": "code", "source": "def fibonacci(n):\n    return n"}]}
    put("another course", name, json.dumps(other), "none of its functions")
    put("zip", "answers.zip", b"PK\x03\x04", "unpack it first")
    put(
        "much code",
        name,
        json.dumps({"cells": [{"cell_type": "code", "source": "x" * 10**6}]}),
        "characters of code",
    )
    put("two files", name, text, "none is taken")
    put("two files", f"new {name}", text.replace("import numpy", "import  numpy", 1), "none is taken")
    (folder / "huge").mkdir()
    with open(folder / "huge" / name, "wb") as file:
        file.truncate(80 << 20)
    made["huge"] = "at most 32 MiB"
    if os.name == "posix":
        (folder / "link").mkdir()
        (folder / "link" / name).symlink_to(folder / some.name / name)
        made["link"] = "found a link"
        (folder / "pipe").mkdir()
        os.mkfifo(folder / "pipe" / name)
        made["pipe"] = "something else"
    return made


NAMES = [
    "=HYPERLINK(1)",
    "<script>alert(1)",
    "O'Brien, Zoë",
    "..\\evil",
    "-rf",
    "a\nb",
    "名前 😀",
    "x" * 200,
]


def edited(student):
    """Let a notebook claim what is not so: its check is changed, its outputs are made up."""
    name = next(iter(student.truth))
    student.write(name, *_mistakes(student.lesson)[name][0])
    for cell in student.book["cells"]:
        if f"= check({name})" in "".join(cell["source"]):
            cell["source"] = [f'print("✓ passed: {name}")']
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [f"✓ passed: {name}\n"]}]


# ---- the class


def run(folder, count, on_progress=lambda doing, done, of: None):
    """Make the class, mark it, and return (what is not as it should be, seconds of marking, answers)."""
    folder, wrong = Path(folder), []
    classroom.new(folder / "class")
    back = folder / "back"
    back.mkdir()
    canary = folder / "canary"
    canary.write_text("untouched", encoding="utf-8")
    listener = socket.create_server(("127.0.0.1", 0))
    calls = []
    threading.Thread(target=_listen, args=(listener, calls), daemon=True).start()
    holes = Path(marking.__file__).with_name("holes")
    places = {
        "HOLES": str(holes / "lesson05.py"), "CANARY": str(canary), "PORT": listener.getsockname()[1],
        "VICTIM": str(back / "student 000" / course.notebooks()[0].name),
    }  # fmt: skip
    made = students(count, places)
    for student, name in zip((s for s in made[::7] if s.name != "student 000"), NAMES, strict=False):
        student.name = name
    edited(next(s for s in made[1:] if not s.trick and {state for state, _ in s.truth.values()} == {PASSED}))
    for student in made:
        path = back / student.name / course.notebooks()[student.lesson - 1].name
        path.parent.mkdir()
        path.write_text(json.dumps(student.book), encoding="utf-8")
    odd = odd_files(back, made[0])
    before = _snapshot(folder)
    classroom.collect(folder / "class", [back])
    began = time.monotonic()
    answers, _ = classroom.mark(folder / "class", on_progress)
    seconds = time.monotonic() - began
    classroom.report(folder / "class")
    after = {path: data for path, data in _snapshot(folder).items() if "class" not in path.parts[:1]}
    if after != {path: data for path, data in before.items() if "class" not in path.parts[:1]}:
        wrong.append("files were written outside of the class's folder")
    if Path("/tmp/tinyalex-class-was-here").exists() or list(Path("/tmp").glob("tinyalex-class-was-here*")):
        wrong.append("a file was written in /tmp")
    listener.close()
    if calls:
        wrong.append(f"{len(calls)} connections came in")
    time.sleep(0.5)  # a process whose parent was ended is ended by the kernel, a moment later
    if left := _processes():
        wrong.append(f"processes are left: {left}")
    return wrong + _compared(folder / "class", made, odd), seconds, answers


def _listen(listener, calls):
    try:
        while True:
            calls.append(listener.accept())
    except OSError:
        pass


def _snapshot(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
        if path.name != "huge"
    }


def _processes():
    """The numbers of this process's children, and of answers' processes of nobody's, that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ")
            ours = b"apart import serve" in command and _parent(path.parent) in (1, os.getpid())
        except OSError:
            continue
        if ours or b"sleep 601" in command:
            found.append(path.parent.name)
    return found


def _parent(process):
    return int((process / "stat").read_text().rpartition(")")[2].split()[1])


def _compared(folder, made, odd):
    """What of the marks, the tables and the page is not what was made."""
    wrong = []
    names = {classroom.named(student.name): student for student in made}
    rows = {row.student: row for row in classroom.rows(folder)}
    for name, student in names.items():
        for function, (state, message) in student.truth.items():
            found = rows[name].verdicts[student.lesson, function]
            if found.state != state or message not in (None, found.message):
                wrong.append(
                    f"{name} {function} {student.trick}: expected {state} {message!r}, found {found}"
                )
    for name, said in odd.items():
        if not any(said in remark for remark in rows[name].remarks):
            wrong.append(f"{name}: expected {said!r}, found {rows[name].remarks}")
    if set(rows) != {*names, *odd}:
        wrong.append(f"expected other students: {set(rows) ^ {*names, *odd}}")
    with open(folder / "marks.csv", encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    points = {
        classroom.cell(name): sum(s == PASSED for s, _ in st.truth.values()) for name, st in names.items()
    }
    if {row["student"]: int(row["points"]) for row in table if row["student"] in points} != points:
        wrong.append("marks.csv has other points")
    if any(value[:1] in "=+-@" for row in table for value in row.values() if value):
        wrong.append("marks.csv holds a formula")
    truth = Counter()
    for student in made:
        for function, (state, message) in student.truth.items():
            if state == WRONG and message:
                truth[student.lesson, function, message] += 1
    page = (folder / "report.html").read_text(encoding="utf-8")
    for (lesson, function, message), count in truth.items():
        if (count, message) not in classroom.mistakes(rows.values(), lesson, function):
            wrong.append(f"report: expected {count} times {function}: {message}")
        if classroom.as_html(message) not in page:
            wrong.append(f"report.html does not say {message}")
    if "<script" in page:
        wrong.append("report.html holds a script")
    return wrong


def main():
    """Run it, print what is wrong and the time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--students", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    with Progress() as progress:
        wrong, seconds, answers = run(folder, options.students, progress.update)
    for text in wrong:
        print(f"WRONG  {text}")
    print(f"{options.students} students, {answers} answers, {seconds:.0f} s of marking, {len(wrong)} wrong")
    if not options.folder:
        shutil.rmtree(folder)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
