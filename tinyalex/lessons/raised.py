"""Help with an error: the arrays in the line that raised it, beside what they are in the book's solution."""

import ast
import contextlib
import difflib
import inspect
import itertools
import linecache
import re

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.lessons.facts import axes_of, codes, made, made_twice

_FUNCTIONS = {
    "len",
    "max",
    "min",
    "sum",
    "abs",
    "range",
    "slice",
    "divmod",
    "sorted",
    "list",
    "tuple",
    "zip",
    "sqrt",
}


def help_with(hole, function, error, args):
    """Return what to say about an error that a function raised: its line, its arrays, and what to do."""
    shapes = ", ".join(str(a.shape) if isinstance(a, np.ndarray) else repr(a) for a in args)
    text = f"called with {shapes} it raised {type(error).__name__}: {error}"
    frame, number, column = None, 0, None
    if hasattr(function, "__code__"):
        frame, number, column = _innermost(error, codes(function))
    if frame is None:
        return text, _advice(hole, error, None, args)
    line = linecache.getline(frame.f_code.co_filename, number).strip()
    if line:
        text += f"\n  in: {line}"
    statement = _statement(frame, number, column)
    arrays, advice = _arrays(hole, error, frame, statement, args), _advice(hole, error, frame, args)
    if "comm" in frame.f_locals and re.search(r"(?<![.\w])(all_gather|reduce_scatter)\(", line):
        advice = "that is the lesson's function, which has all ranks' arrays; a rank asks comm: `comm.…`."
    elif arrays and ("broadcast" in str(error) or ("matmul" in str(error) and "\n" in arrays)):
        advice = ""  # the shapes say it better
    return text, "\n".join(filter(None, (arrays, advice)))


def _innermost(error, wanted):
    """(frame, line number, column) of the learner's own code, as deep as it goes; no column before 3.11."""
    found, trace = (None, 0, None), error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        if code in wanted:
            places = getattr(code, "co_positions", tuple)()
            place = next(itertools.islice(places, trace.tb_lasti // 2, None), (None,) * 4)
            found = trace.tb_frame, trace.tb_lineno, place[2] if place[0] == trace.tb_lineno else None
        trace = trace.tb_next
    return found


def _statement(frame, number, column):
    """The smallest statement at that place, parsed; None without the source, or if it may be another's.

    column: None where it is not known, and of several statements in the line any may be meant.
    """
    try:
        lines, start = inspect.getsourcelines(frame.f_code)
        indent = len(lines[0]) - len(lines[0].lstrip())
        tree = ast.parse("".join(line[indent:] if line.strip() else line for line in lines))
    except (OSError, SyntaxError, TypeError):
        return None
    at = number - max(start, 1) + 1
    inside = [n for n in ast.walk(tree) if isinstance(n, ast.stmt) and n.lineno <= at <= n.end_lineno]
    if column is not None:
        place = at, column - indent
        inside = [
            n for n in inside
            if (n.lineno, n.col_offset) <= place < (n.end_lineno, n.end_col_offset)
        ]  # fmt: skip
    last = max((n.lineno for n in inside), default=0)
    inside = [n for n in inside if n.lineno == last]
    beside = [n for n in inside if not hasattr(n, "body")]
    return inside[-1] if inside and len(beside) < 2 else None


def _value(node, frame):
    """The value of an expression that has no side effects; ValueError if it might have some."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call):
            name = part.func.attr if isinstance(part.func, ast.Attribute) else getattr(part.func, "id", "")
            owner = part.func.value if isinstance(part.func, ast.Attribute) else None
            if owner is None and name not in _FUNCTIONS:
                raise LookupError
            if owner is not None and not isinstance(_value(owner, frame), np.ndarray | np.generic | type(np)):
                raise LookupError
        elif isinstance(
            part, ast.NamedExpr | ast.Await | ast.Yield | ast.Lambda | ast.GeneratorExp | ast.ListComp
        ):
            raise LookupError
    return eval(compile(ast.Expression(node), "<part>", "eval"), frame.f_globals, frame.f_locals)


def _expressions(node):
    """Every expression within a node, the innermost first."""
    for child in ast.iter_child_nodes(node):
        yield from _expressions(child)
    if isinstance(node, ast.expr):
        yield node


def _culprit(error, frame, statement):
    """The innermost expression that raises the error by itself."""
    for node in _expressions(statement):
        if isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
            try:
                _value(node, frame)
            except type(error) as again:
                if str(again) == str(error):
                    return node
            except Exception:
                continue
    return None


def _shape(node, frame):
    """How an expression and its shape are told: "`w[f]` is (2, 4, 3)"; "" if it is no array."""
    with contextlib.suppress(Exception):
        value = _value(node, frame)
        if isinstance(value, np.ndarray):
            return f"`{ast.unparse(node)}` is {value.shape}", value.shape
        if isinstance(value, np.generic | int | float) and not isinstance(node, ast.Constant):
            return f"`{ast.unparse(node)}` is the number {value}", ()
    return "", None


def _arrays(hole, error, frame, statement, args):
    """Name the arrays that do not fit, and what the book's solution has under these names."""
    if statement is None:
        return ""
    node, told, shapes = _culprit(error, frame, statement), [], []
    sides = []
    if isinstance(node, ast.BinOp):
        sides = [node.left, node.right]
    elif isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
    elif isinstance(node, ast.Subscript):
        sides = [node.value]
    elif isinstance(node, ast.Call):
        owner = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        sides = [*owner, *node.args]
    elif node is None and isinstance(statement, ast.Assign | ast.AugAssign):
        target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
        if isinstance(target, ast.Subscript) and _culprit(error, frame, ast.Expr(_loaded(target))):
            node = _loaded(target)  # there is no such place
            sides = [node.value]
        elif isinstance(target, ast.Subscript | ast.Name):
            sides = [_loaded(target), statement.value]
    for side in sides:
        text, shape = _shape(side, frame)
        if text:
            told.append(text)
            shapes.append(shape)
    if isinstance(node, ast.Subscript):
        told += [
            t for n in ast.walk(node.slice) if isinstance(n, ast.Name) for t in [_shape(n, frame)[0]] if t
        ]
    if not told:  # what the names of the line are
        told = [_shape(n, frame)[0] for n in ast.walk(statement) if isinstance(n, ast.Name)]
    told = list(filter(None, dict.fromkeys(told)))
    text = "there " + ", ".join(told) + "." if told else ""
    fitting = node is None or isinstance(node, ast.BinOp | ast.Compare)
    if fitting and len(shapes) > 1:
        text += "  " + _unequal(*shapes[-2:], isinstance(getattr(node, "op", None), ast.MatMult))
    others = _in_the_book(hole, frame, node or statement, args, text)
    letters = axes_of(hole)
    parameters = inspect.signature(hole.solution).parameters
    for name in dict.fromkeys(n.id for n in ast.walk(node or statement) if isinstance(n, ast.Name)):
        value, known = frame.f_locals.get(name), letters.get(name, ())
        if name in parameters and isinstance(value, np.ndarray) and len(known) == value.ndim:
            others.setdefault(name, f"{name} is ({', '.join(known)}) = {value.shape}.")
    return "\n".join(line for line in (text, *others.values()) if line)


def _loaded(target):
    return ast.parse(ast.unparse(target)).body[0].value


def _in_the_book(hole, frame, part, args, text):
    """{name: text}: names of a part of the line whose arrays have other shapes in the book's solution."""
    found, right, again = {}, made(hole.solution, args), made_twice(hole)
    for name in dict.fromkeys(n.id for n in ast.walk(part) if isinstance(n, ast.Name)):
        mine, theirs = frame.f_locals.get(name), right.get(name)
        arrays = isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray)
        if arrays and name not in again and mine.shape != theirs.shape:
            found[name] = f"`{name}` is {mine.shape}; in the book's solution it is {theirs.shape}."
            hint = _unequal(mine.shape, theirs.shape, False)
            found[name] += f"  {hint}" if hint and hint not in text else ""
    return found


def _unequal(one, other, product):
    """What stands out between two shapes that should fit."""
    if product and one and other:
        inner = one[-1], other[-2] if len(other) > 1 else other[0]
        return "The last axis of the left must be as long as the first of the right: {} and {}.".format(
            *inner
        )
    if 0 in one or 0 in other:
        return (
            "An empty array: a slice ends where it begins, or before.  (Where pad is 0, pad:-pad is 0:0, "
            "which is empty: count from the front, pad : pad + H.)"
        )
    if len(one) != len(other):
        short, long = sorted((one, other), key=len)
        axis = len(short) and next((k for k in range(len(long)) if long[:k] + long[k + 1 :] == short), 0)
        kept = f"  Was axis {axis} summed away?  keepdims=True keeps it." if axis else ""
        return f"Their numbers of axes differ: {len(one)} and {len(other)}.{kept}"
    if sorted(one) == sorted(other) and one != other:
        return "The same sizes in another order: axes are exchanged, rows and columns perhaps."
    apart = [k for k, (m, n) in enumerate(zip(one, other, strict=True)) if m != n and 1 not in (m, n)]
    if len(apart) == 1:
        by = abs(one[apart[0]] - other[apart[0]])
        return f"They differ along axis {apart[0]}, by {by}" + (
            ": one too few or too many." if by == 1 else "."
        )
    return f"They differ along the axes {', '.join(map(str, apart))}." if apart else ""


def _advice(hole, error, frame, args):
    """What this kind of error usually comes from."""
    text = str(error)
    match error:
        case UnboundLocalError():
            return "a name is used before it has been given a value in this function."
        case NameError():
            return _name_error(hole, error, frame, args)
        case AttributeError() if (name := getattr(error, "name", None)) is not None:
            near = difflib.get_close_matches(name, dir(error.obj), 1)
            return (
                f"did you mean `.{near[0]}`?" if near else f"a {type(error.obj).__name__} has no `.{name}`."
            )
        case RecursionError():
            return "the function calls itself without an end."
        case TimeoutError():
            return (
                "the loop never ends: does what its condition looks at change in every round, the right way?"
            )
        case ZeroDivisionError():
            return "something is divided by 0: a size or a stride that is 0 in this case."
        case OverflowError():
            return "a number is too large: something grows that should not."
        case ArgumentError() if "shared evenly" in text:
            return "shared is axis 0, if no other is named: axis=1 joins, adds up and shares columns."
        case ArgumentError():
            return "the ranks must meet in the same collectives, with arrays of the same shape."
    return next((advice for pattern, advice in _ADVICE if re.search(pattern, text)), "")


_ADVICE = [
    ("matmul|not aligned",
     "in a @ b the last axis of a must be as long as the last but one of b.  To multiply number by number "
     "and add up: (a * b).sum()."),
    ("only (length|0-dim|size-1)",
     "an array stands where one number belongs: something has not been summed, or indexed, to one number.  "
     "(math.exp and its like take one number; np.exp takes an array.)"),
    ("Cannot cast ufunc",
     "what is changed in place (`-=` and its like) keeps its type, and whole numbers hold no fractions: "
     "x = x - … makes a new array."),
    ("bitwise_xor|for \\^", "a power is written **; ^ is something else in Python."),
    ("non-iterable", "there are several names on the left, and one number on the right."),
    ("'Index'", "blockIdx, blockDim and threadIdx hold three numbers each: along x it is .x."),
    ("too many indices|out of bounds|out of range",
     "indices go from 0 to size − 1, and the axes are in the order that the docstring says."),
    ("boolean index", "a mask must be shaped like the array that it picks from."),
    ("used as indices|integers, slices|valid ind|slice indices|as an integer|scalar index",
     "an index, a size or a bound must be a whole number: `/` gives a fraction, `//` does not; max gives a "
     "value, argmax its place."),
    ("NoneType", "one of the values is None: an argument that is not there in this case, or a function that "
                 "returns nothing."),
    ("ellipsis", "a `...` is still to be filled in."),
    ("not callable", "round brackets stand behind something that is no function: [ ] for an index, or a "
                     "forgotten operator."),
    ("has no len|not subscriptable|invalid index to scalar|unsized|iterable|item assignment",
     "a single number, or something else, stands where an array is expected."),
    ("positional argument|keyword|argument", "look at what the function expects: how many arguments, and "
                                             "which by name (axis=…)."),
    ("unsupported operand|not supported|did not contain a loop|boolean|concatenate|as a \"sequence\"",
     "these things have no such operation: look at what each of them is."),
    ("reshape", "a reshape keeps the number of numbers: multiply the sizes on both sides."),
    ("zero-size|step cannot be zero|need at least one array",
     "something is empty: a window begins behind the edge, or a size or step is 0."),
    ("same shape|must match exactly", "all of them must have the same shape."),
    ("axes don't match|axis", "the array has other axes than that: count them from 0, by its shape."),
    ("unpack", "the number of names on the left is not the number of values on the right."),
    ("truth value",
     "`if`, `max(a, b)` and `and` want one yes or no: for arrays take np.where, np.maximum or &."),
    ("broadcast|mismatch|dimension",
     "from the last axis backwards, sizes must be equal or 1: keepdims=True or [:, None] makes one of 1."),
    ("sequence|inhomogeneous",
     "an array stands where one number belongs: something has not been summed, or indexed, to one number."),
    ("equal division|evenly", "it is to be split into equal parts, and does not divide evenly."),
]  # fmt: skip


def _name_error(hole, error, frame, args):
    said = re.search(r"'(\w+)'", str(error))
    name = getattr(error, "name", None) or (said[1] if said else "")
    if not name:
        return ""
    known = {*(frame.f_locals if frame else ()), *inspect.signature(hole.solution).parameters}
    if name in hole.solution.__globals__ or name == "np":
        return f"`{name}` comes from a cell further up: run the cells above this one first."
    if name in made(hole.solution, args):
        return f"`{name}` has no value yet: the line that makes it is missing, or comes later."
    if near := difflib.get_close_matches(name, known, 1):
        return f"there is no `{name}` here: did you mean `{near[0]}`?"
    return f"there is no `{name}` here.  If a cell further up makes it, run the cells above first."
