"""A function of somebody else's, called here, computed in a locked process of its own (`sandbox`).

`Apart` is called like the function.  Its arguments go through a pipe as plain numbers, its results come back
so, and nothing of this process is there: no right answer, no check, no file but Python's and NumPy's own.
Whatever the function's text does to its own process, all that it can send is a result, which is compared
here.  What it sends is read as numbers, text, tuples and lists of bounded sizes; nothing is unpickled.

A result that lies in the memory of an argument is sent as its place there.  It is made again here, from the
argument's numbers, so that a copy cannot pass for a view.  Functions among the arguments stay where they are
and are called through the pipe, in both directions.
"""

import ast
import builtins
import collections
import contextlib
import importlib
import json
import linecache
import math
import os
import select
import signal
import struct
import subprocess
import sys
import sysconfig
import time
import types
import warnings
from pathlib import Path

import numpy as np

from tinyalex import errors
from tinyalex.devices import Device
from tinyalex.lessons import sandbox

ANSWER = "<answer>"
SECONDS, MEMORY = 10, 512 << 20  # of processor time, of bytes beside what Python and NumPy take
STARTING = 120  # seconds on the clock that a process may take to start, whatever else the machine does
PATIENCE = 3  # times as long on the clock: the machine may be busy
MOST_BYTES, MOST_TEXT = 64 << 20, 8 << 20  # of arrays, and of all else, in one message
DEEPEST = 12  # calls within calls
TYPES = {
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
    "float64", "complex64", "complex128",
}  # fmt: skip


class Broken(Exception):
    """What came through the pipe is no message."""


class NotStarted(BaseException):
    """No process could be started and locked in: no answer is to blame, and no check may catch it."""


class Gone(Exception):
    """The process at the other end has ended."""


class Late(Exception):
    """The process at the other end does not answer."""


# ---- values as messages: a head of JSON, and behind it the bytes of the arrays


class _Packed:
    """Values as JSON, and the bytes of their arrays.

    functions: a list, to which functions are added.  owners: arrays, of which results may be views.
    """

    def __init__(self, functions):
        self.functions, self.owners, self.blob, self.size = functions, (), [], 0

    def pack(self, value, depth=0):
        """Return a value as what JSON has: numbers, text, and lists that begin with a word."""
        if value is None or type(value) in (bool, float, str):
            return value
        if type(value) is int:
            return value if abs(value) < 2**53 else ["int", hex(value)]
        if isinstance(value, np.generic) and value.dtype.name in TYPES:
            return ["scalar", *self._array(np.asarray(value))]
        if isinstance(value, np.ndarray) and value.dtype.name in TYPES:
            value = value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
            return self._view(value) or ["array", *self._array(value)]
        if isinstance(value, tuple | list | range) and depth < DEEPEST:
            values = [self.pack(part, depth + 1) for part in value]
            if hasattr(value, "_fields"):
                return ["named", type(value).__name__, list(value._fields), values]
            return ["tuple" if isinstance(value, tuple) else "list", values]
        if callable(value) and not isinstance(value, type):
            self.functions.append(value)
            return ["function", len(self.functions) - 1]
        return ["other", type(value).__name__[:80]]

    def _array(self, value):
        self.size += value.nbytes
        if self.size > MOST_BYTES:
            raise MemoryError(f"results of more than {MOST_BYTES >> 20} MiB")
        self.blob.append(np.ascontiguousarray(value).tobytes())
        return value.dtype.name, list(value.shape), self.size - value.nbytes

    def _view(self, value):
        for which, owner in enumerate(self.owners):
            if isinstance(owner, np.ndarray) and value.size and np.may_share_memory(value, owner):
                start = value.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
                return ["view", which, value.dtype.name, list(value.shape), list(value.strides), start]
        return None


class _Unpacked:
    """The way back.  function(number) → what to call; owners: as above; named: whether tuples have names."""

    def __init__(self, blob, function, named, owners=()):
        self.blob, self.function, self.named, self.owners, self.size = blob, function, named, owners, 0

    def unpack(self, value, depth=0):
        """Return the value; Broken, or another error, if it is none."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if depth > DEEPEST:
            raise Broken
        match value:
            case ["int", str(text)] if len(text) < 1000:
                return int(text, 16)
            case ["scalar", str(name), [], int(start)]:
                return self._array(name, [], start)[()]
            case ["array", str(name), list(shape), int(start)]:
                return self._array(name, shape, start)
            case ["view", int(which), str(name), list(shape), list(strides), int(start)]:
                self._count(name, shape)
                owner = self.owners[which]
                steps = [step * (n - 1) for step, n in zip(strides, shape, strict=True)]
                first, last = start + sum(min(0, s) for s in steps), start + sum(max(0, s) for s in steps)
                if not (isinstance(owner, np.ndarray) and first >= 0) or 0 in shape:
                    raise Broken
                if last + np.dtype(name).itemsize > owner.nbytes or not all(type(s) is int for s in strides):
                    raise Broken
                # it checks the bounds
                return np.ndarray(tuple(shape), name, owner.data, start, tuple(strides))
            case ["tuple", list(values)]:
                return tuple(self.unpack(part, depth + 1) for part in values)
            case ["list", list(values)]:
                return [self.unpack(part, depth + 1) for part in values]
            case ["named", str(name), list(fields), list(values)]:
                values = [self.unpack(part, depth + 1) for part in values]
                return collections.namedtuple(name, fields)(*values) if self.named else tuple(values)
            case ["function", int(number)]:
                return self.function(number)
            case ["other", str(name)]:
                return type(name[:80], (), {})()
        raise Broken

    def _count(self, name, shape):
        """Return how many bytes an array has; all together must not have too many."""
        if name not in TYPES or len(shape) > 16 or not all(type(n) is int and n >= 0 for n in shape):
            raise Broken
        nbytes = math.prod(shape) * np.dtype(name).itemsize
        self.size += nbytes
        if self.size > MOST_BYTES:
            raise Broken
        return nbytes

    def _array(self, name, shape, start):
        nbytes = self._count(name, shape)
        if not 0 <= start <= len(self.blob) - nbytes:
            raise Broken
        return np.frombuffer(self.blob[start : start + nbytes], name).reshape(shape).copy()


def _told(error):
    """An error as a message: its type, its text, the line of the answer that raised it, the name it lacks."""
    line, text, trace = "", "", error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == ANSWER:
            line = linecache.getline(ANSWER, trace.tb_lineno).strip()
        trace = trace.tb_next
    with contextlib.suppress(Exception):
        text = str(error)
    if isinstance(error, SyntaxError) and not line:
        line = str(error.text or "").strip()
    name = getattr(error, "name", None)
    parts = (
        type(error).__name__,
        text,
        getattr(error, "line", "") or line,
        name if isinstance(name, str) else "",
    )
    return [part[:2000] for part in parts]


def _error(told):
    """The way back: an exception like it, of a class of that name."""
    name, text, line, missing = (str(part)[:2000] for part in told)
    known = getattr(builtins, name, None) or getattr(errors, name, None)
    if not (isinstance(known, type) and issubclass(known, Exception)) or "Group" in name:
        known = Exception
    kind = type(name, (known,), {"__str__": lambda self: text})
    error = kind.__new__(kind)
    error.line, error.theirs = line, True
    if missing and issubclass(known, NameError):
        error.name = missing
    return error


class _Line:
    """One end of the pipes: calls go out, and while one waits for its answer others come in.

    until: when to give up, by time.monotonic(); None: never.  there: whether this is the locked end, which
    is told of names and tells of views; the other end believes neither.
    """

    def __init__(self, source, sink, until=None, there=False):
        self.source, self.sink, self.until, self.there = source, sink, until, there
        self.functions, self.depth = [], 0

    def call(self, number, args):
        """Call a function of the other end; return its result.  Raises what it raised."""
        packed = _Packed(self.functions)
        self.send({"call": number, "args": [packed.pack(value) for value in args]}, packed.blob)
        self.depth += 1
        try:
            while "call" in (message := self.receive())[0]:
                self.answer(*message)
        finally:
            self.depth -= 1
        try:
            error, result = self._taken(*message, args)
        except Exception:
            raise Broken from None
        if error:
            raise error
        return result

    def _taken(self, message, blob, args):
        """(error, result) of an answer; arguments that were written into change here, too."""
        if "error" in message:
            return _error(message["error"]), None
        unpacked = _Unpacked(blob, self.remote, self.there, args)
        for which, value in message["changed"]:
            value, mine = unpacked.unpack(value), args[which]
            if type(value) is not np.ndarray or (value.shape, value.dtype) != (mine.shape, mine.dtype):
                raise Broken
            mine[...] = value
        return None, unpacked.unpack(message["result"])

    def answer(self, message, blob):
        """Do what a call of the other end asks, and send the result."""
        packed = _Packed(self.functions)
        try:
            if self.depth > DEEPEST:
                raise RecursionError("calls within calls without end")
            unpacked = _Unpacked(blob, self.remote, self.there)
            args = [unpacked.unpack(value) for value in message["args"]]
            before = [a.tobytes() if isinstance(a, np.ndarray) else None for a in args]
            result = self.functions[message["call"]](*args)
            changed = [
                (which, packed.pack(value))
                for which, value in enumerate(args)
                if isinstance(value, np.ndarray) and value.tobytes() != before[which]
            ]
            if self.there:
                packed.owners = args
            answer = {"changed": changed, "result": packed.pack(result)}
        except (Broken, Gone, Late):
            raise
        except BaseException as error:  # whatever an answer does
            packed, answer = _Packed(self.functions), {"error": _told(error)}
        self.send(answer, packed.blob)

    def remote(self, number):
        """Return what calls a function of the other end."""

        def function(*args):
            return self.call(number, args)

        return function

    def send(self, message, blob=()):
        """Send a message."""
        head, blob = json.dumps(message).encode(), b"".join(blob)
        data = memoryview(struct.pack("=II", len(head), len(blob)) + head + blob)
        while data:
            self._wait(sinks=[self.sink])
            try:
                data = data[os.write(self.sink, data[: select.PIPE_BUF]) :]
            except BrokenPipeError:
                raise Gone from None

    def receive(self):
        """Return the next message, a dictionary, and its bytes."""
        head, blob = struct.unpack("=II", self._read(8))
        if head > MOST_TEXT or blob > MOST_BYTES:
            raise Broken
        head, blob = self._read(head), self._read(blob)
        try:
            message = json.loads(head)
        except (ValueError, RecursionError):
            raise Broken from None
        if not isinstance(message, dict):
            raise Broken
        return message, blob

    def _read(self, count):
        parts = []
        while count:
            self._wait(sources=[self.source])
            part = os.read(self.source, min(count, 1 << 16))
            if not part:
                raise Gone
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _wait(self, sources=(), sinks=()):
        if self.until is not None:
            left = max(0.0, self.until - time.monotonic())
            if not any(select.select(sources, sinks, [], left)):
                raise Late


# ---- this end

_BOOT = """
import sys, types
sys.path[:] = {path}
for name, folder in {packages}:
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from tinyalex.lessons.apart import serve
serve()
"""


class Apart:
    """A function that is defined by a text and computed in a locked process.

    text, name: a text that defines the function of that name.  before: texts whose definitions come first.
    lent: {name: value} of what it finds beside Python and NumPy: numbers, text, arrays, functions of this
    process, modules, and things of the package that are not of the lessons.
    again: whether each call gets a process that knows nothing of the calls before it.
    Raises in place of its errors others like them, TimeoutError where it does not end, MemoryError, and
    ChildProcessError where its process ends otherwise; NotStarted where no answer is to blame.  Use as a
    context manager.
    """

    def __init__(self, text, name, before=(), lent=None, again=False, seconds=SECONDS, memory=MEMORY):
        self.setup = {
            "text": text,
            "name": name,
            "before": list(before),
            "seconds": seconds,
            "memory": memory,
        }
        self.lent, self.again, self.seconds = lent or {}, again, seconds
        self.process = self.line = self.failed = None
        self.__name__ = name
        if readable := _not_to_be_called(text, name):
            self.__wrapped__ = readable  # where `inspect` looks for the text

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __call__(self, *args):
        """Call the function."""
        if self.failed:
            raise self.failed
        try:
            if self.process is None or self.again:
                self._start()
            return self.line.call(0, args)
        except Exception as error:
            if getattr(error, "theirs", False):
                raise
            self.failed = self._end_of(error)
        raise self.failed

    def _start(self):
        self.close()
        packages = [(name, str(Path(module.__file__).parent)) for name, module in _packages().items()]
        boot = _BOOT.format(path=[*_python_files(), str(Path(np.__file__).parents[1])], packages=packages)
        try:
            self.process = sandbox.start(
                [sys.executable, "-s", "-S", "-c", boot], {"PYTHONHASHSEED": "0"}, cwd="/",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        except OSError as error:
            raise NotStarted(str(error)) from error
        ends = self.process.stdout.fileno(), self.process.stdin.fileno()
        self.line = _Line(*ends, until=time.monotonic() + STARTING)
        packed = _Packed(self.line.functions)
        lent = {name: _lent(value) or ["value", packed.pack(value)] for name, value in self.lent.items()}
        try:
            self.line.send({**self.setup, "lent": lent, "parent": os.getpid()}, packed.blob)
            ((problem, *_), _) = self.line.receive()
        except (Gone, Late, Broken) as error:
            raise NotStarted(f"it {'ended' if isinstance(error, Gone) else 'says nothing'}") from None
        if problem != "locked":
            raise NotStarted(problem)
        self.line.until = time.monotonic() + PATIENCE * self.seconds

    def close(self):
        """End the process."""
        if self.process:
            sandbox.end(self.process)
            self.process.stdin.close()
            self.process.stdout.close()
            self.process = None

    def _end_of(self, error):
        """The exception for a process that ended, or had to be ended."""
        if isinstance(error, Gone):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1)
        code = self.process.poll() if self.process else None
        self.close()
        if isinstance(error, Late) or code == -signal.SIGXCPU:
            return TimeoutError(f"it did not end within {self.seconds:g} seconds")
        if isinstance(error, OSError):
            return error
        if isinstance(error, Broken | MemoryError) or code is None:
            return ChildProcessError("its process sent something that is no result")
        what = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        return ChildProcessError(f"its process {what}")


def _packages():
    import tinyalex.lessons

    return {"tinyalex": tinyalex, "tinyalex.lessons": tinyalex.lessons}


def _python_files():
    """Where Python's own modules are: what a locked process may import from."""
    base = {"platbase": sys.base_exec_prefix}  # a virtual environment has none of its own
    folders = sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib", vars=base)
    return list(dict.fromkeys([*folders, str(Path(folders[1]) / "lib-dynload")]))


def _lent(value):
    """How a thing of a module is told of; None if it is a value."""
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, list) and value and all(isinstance(device, Device) for device in value):
        return ["devices", [device.name for device in value]]
    home = getattr(value, "__module__", None) or ""
    if home.startswith("tinyalex.") and not home.startswith("tinyalex.lessons"):
        return ["part", home, value.__qualname__]
    return None


def _not_to_be_called(text, name):
    """The function that the text defines, for its lines alone: nothing of it is run.  None without it."""
    linecache.cache[ANSWER] = len(text), None, text.splitlines(keepends=True), ANSWER
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            consts = compile(text, ANSWER, "exec").co_consts
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    code = [const for const in consts if isinstance(const, types.CodeType) and const.co_name == name]
    return types.FunctionType(code[-1], {}) if code and not code[-1].co_freevars else None


# ---- the other end


def serve():
    """What the locked process does: define the function, lock itself in, and answer calls."""
    source, sink, nowhere = os.dup(0), os.dup(1), os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    line = _Line(source, sink, there=True)
    setup, blob = line.receive()
    unpacked = _Unpacked(blob, line.remote, True)
    names = {"__name__": "__main__", "np": np}
    for name, (kind, *what) in setup["lent"].items():
        if kind == "module":
            names[name] = importlib.import_module(what[0])
        elif kind == "part":
            names[name] = getattr(importlib.import_module(what[0]), what[1])
            if name == "launch":
                names[name](lambda comm: None, [Device("cpu:0")])  # what it imports when it is first called
        elif kind == "devices":
            names[name] = [Device(device) for device in what[0]]
        else:
            names[name] = unpacked.unpack(what[0])
    np.linalg.svd(np.ones((2, 2)) @ np.ones((2, 2)))  # some libraries load a part when it is first called
    readable = list(_readable())
    sys.path[:] = _python_files()
    sys.meta_path.insert(0, _NotHere())
    try:
        sandbox.limit(setup["memory"], setup["seconds"])
        sandbox.lock(readable, setup["parent"])
    except Exception as error:
        line.send({f"{type(error).__name__}: {error}": True})
        raise
    line.send({"locked": True})
    line.functions.append(_defined(setup, names))
    while True:
        line.answer(*line.receive())


class _NotHere:
    """Says why the rest of the library cannot be imported."""

    def find_spec(self, name, path=None, target=None):
        """Raise ModuleNotFoundError for it."""
        if name.partition(".")[0] == "tinyalex":
            raise ModuleNotFoundError(f"{name} is not there where answers are marked", name=name)


def _readable():
    """Yield the files and folders of Python and NumPy, and nothing else of what is installed."""
    for folder in _python_files():
        with contextlib.suppress(FileNotFoundError):
            for path in Path(folder).iterdir():
                if path.name not in ("site-packages", "dist-packages"):
                    yield path
    package = Path(np.__file__).parent
    yield from (path for path in (package, package.with_name("numpy.libs")) if path.exists())


def _defined(setup, names):
    """Return the function that the texts define, or one that raises what they raised."""
    lent, text, name = dict(names), setup["text"], setup["name"]
    for code in _needed(text, setup["before"]):
        with contextlib.suppress(Exception):
            exec(code, names)
    names |= lent
    names.pop(name, None)
    linecache.cache[ANSWER] = len(text), None, text.splitlines(keepends=True), ANSWER
    error = NameError(f"this cell defines no function {name}")
    try:
        exec(compile(text, ANSWER, "exec"), names)
    except BaseException as raised:  # it counts only if there is no function: a line below may show a figure
        error = raised
    if callable(names.get(name)):
        return names[name]

    def fail(*_):
        raise error

    return fail


def _needed(text, before):
    """The statements of earlier texts that import, define or make what a text needs, compiled, in order."""
    statements, found = [], {}
    for earlier in before:
        with contextlib.suppress(Exception):
            statements += [node for node in ast.parse(earlier).body if isinstance(node, _MAKES)]
    with contextlib.suppress(Exception):
        wanted, count = _names(compile(text, ANSWER, "exec")), -1
        while len(found) > count:  # what is found needs more
            count = len(found)
            for place, node in enumerate(statements):
                if place not in found and wanted & _made(node):
                    found[place] = compile(ast.Module([node], []), "<before>", "exec")
                    wanted |= _names(found[place])
    return [found[place] for place in sorted(found)]


_IMPORTS, _DEFINES = ast.Import | ast.ImportFrom, ast.FunctionDef | ast.ClassDef
_MAKES = _IMPORTS | _DEFINES | ast.Assign | ast.AnnAssign | ast.AugAssign


def _made(statement):
    """The names that a statement gives a value to."""
    if isinstance(statement, _IMPORTS):
        return {alias.asname or alias.name.partition(".")[0] for alias in statement.names}
    if isinstance(statement, _DEFINES):
        return {statement.name}
    parts = ast.walk(statement)
    return {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _names(code):
    """The names in a piece of compiled text that are not its functions' own, attributes among them."""
    inner = [_names(const) for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*inner)
