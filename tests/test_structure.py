"""The shape of the house: what may import what, and how large the core is."""

import ast
import io
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tinyalex

ROOT = Path(tinyalex.__file__).parent
FLOORS = [  # each imports from its own floor and those above it in this list
    {"errors"},
    {"fields", "files", "memory"},
    {"devices"},
    {"ops", "comm"},
    {"nn"},
    {
        "models",
        "optim",
        "evaluate",
        "gradcheck",
        "accumulate",
        "finite",
        "parallel",
        "train",
    },  # the core's end
    {"data"},
    {"exchange", "runs"},
    {"look"},
    {"measure"},
    {"lessons"},
    {"cli"},
    {"__init__", "__main__"},
]
# What a reader of AlexNet on the CPU reads: the operations with their plain, looped and fast forms, layers,
# ranks, networks, training, the gradient checker.  Beside it: the GPU's side, MPI, the tests' table; what
# `train` calls for more than the paper's two towers and one batch at a time (`parallel`, `accumulate`), or
# when a step has failed (`finite`); and what AlexNet does not have, but later networks and files of others
# do.
CORE = {"ops", "comm", "memory", "devices", "nn", "models", "optim", "train", "gradcheck"}
BESIDE = {"cuda", "cuda.py", "mpi.py", "processes.py", "nccl.py", "cases.py", "later", "later.py"}
ALEXNET = {"__init__.py", "network.py", "alexnet.py", "cifar.py"}  # of models; all others are later networks
MOST_LINES = 2500  # of code: without docstrings, comments and blank lines


def room(path):
    """The file or folder of the package's top level that a file lies in."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def sources():
    return sorted(path for path in ROOT.rglob("*.py"))


def floor_of(name):
    return next(i for i, floor in enumerate(FLOORS) if name in floor)


def imports(path):
    """(line, room) of each import of the package's own modules, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "tinyalex":
            parts = node.module.split(".")[1:]
            for alias in node.names:
                yield node.lineno, (*parts, alias.name)[0]


def module(path):
    """Its name within the package: "ops.conv" of ops/conv.py, "ops" of ops/__init__.py, "" of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


def modules_imported(path, known):
    """The package's modules that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("tinyalex."):
            base = node.module.removeprefix("tinyalex").lstrip(".")
            named = {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
            yield from (name if name in known else base for name in named)


def test_every_file_has_its_floor():
    assert {room(path) for path in sources()} == set().union(*FLOORS)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_arrows_go_one_way(path):
    """A module imports from its own floor or a lower one; `__version__` is everybody's."""
    mine = floor_of(room(path))
    upward = [
        f"line {line}: {other}"
        for line, other in imports(path)
        if other != "__version__" and floor_of(other) > mine
    ]
    assert not upward


def test_no_files_import_one_another_in_a_circle():
    known = {module(path): path for path in sources()}
    graph = {name: {*modules_imported(path, known)} - {name, ""} for name, path in known.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_core_is_small():
    assert sum(code_lines(path) for path in sources() if in_core(path)) <= MOST_LINES


def in_core(path):
    """Whether a reader of AlexNet reads it."""
    later = room(path) == "models" and path.name not in ALEXNET
    return room(path) in CORE and not later and not BESIDE & set(path.relative_to(ROOT).parts)


def code_lines(path):
    """Lines with code on them: no docstrings, comments or blank lines."""
    text = path.read_text(encoding="utf-8")
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (
            tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
            tokenize.ENDMARKER,
        ):  # fmt: skip
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node, False):
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)
