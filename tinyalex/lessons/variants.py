"""Variants of a function: each with one thing written otherwise, as a tired programmer might.

`variants(source, arrays)` gives them one by one, from the text of the function alone.  The checks compare a
learner's numbers with theirs, and `tinyalex.lessons.mutants` tries whether the checks reject them.
"""

import ast
import copy
from typing import NamedTuple

OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
             ast.Pow: "**", ast.MatMult: "@"}  # fmt: skip
COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
OTHER_OPERATORS = {
    "+": "-*", "-": "+/", "*": "/+", "/": ["*", "//", "-"], "//": ["/", "*"], "%": ["//"], "**": ["*"],
    "@": ["*"],
}  # fmt: skip
OTHER_COMPARISONS = {"<": ["<=", ">"], "<=": ["<", ">="], ">": [">=", "<"], ">=": [">", "<="], "==": ["!="],
                     "!=": ["=="]}  # fmt: skip
OTHER_NAMES = {
    "sum": ["mean", "max", "prod"], "mean": ["sum", "max"], "max": ["min", "sum"], "min": ["max"],
    "argmax": ["argmin"], "argsort": ["sort"], "maximum": ["minimum"], "minimum": ["maximum"],
    "prod": ["sum"], "zeros": ["ones"], "zeros_like": ["ones_like"], "concatenate": ["stack"],
    "stack": ["concatenate"], "rint": ["floor", "ceil"], "all_gather": ["all_reduce", "broadcast"],
    "reduce_scatter": ["all_reduce"], "vstack": ["hstack"], "exp": ["log", "sqrt"], "float32": ["float64"],
}  # fmt: skip
ROUNDS = 10_000  # of a `while`, from which on it is taken to be endless


class Variant(NamedTuple):
    """One of the variants."""

    what: str  # what is otherwise, to go on after "in the line that makes …"
    line: str  # the line's target, or its text where it has none
    source: str
    statement: str = ""  # the line as it stands in the function


def variants(source, arrays=(), dtypes=()):
    """Yield every Variant of the function that the text `source` defines.

    arrays: names of those of its arguments that are arrays, for the variants that write into them.
    dtypes: which the array that it returns must not have, for the variants that lose its own.
    """
    tree = ast.parse(source)
    function = tree.body[0]
    seen = {ast.unparse(tree)}
    neighbours = _neighbours(function)
    for statement, parent, field, index in list(_slots(function)):
        before = ast.unparse(statement)
        node = getattr(parent, field) if index is None else getattr(parent, field)[index]
        for new, what in _others(node, parent, field, neighbours):
            _put(parent, field, index, new)
            text = ast.unparse(ast.fix_missing_locations(tree))
            _put(parent, field, index, node)
            if text not in seen:
                seen.add(text)
                yield Variant(what, _target(statement), text, before)
    for what, line, text in _inserted(function, arrays, dtypes):
        if text not in seen:
            seen.add(text)
            yield Variant(what, line, text)


def guarded(source, file="<variant>"):
    """Compile a function's text so that a `while` without an end raises TimeoutError."""
    tree = ast.parse(source)
    whiles = [node for node in ast.walk(tree) if isinstance(node, ast.While)]
    for node in whiles:
        node.test = (
            ast.parse(f"(__count__() < {ROUNDS} or __endless__()) and ({ast.unparse(node.test)})")
            .body[0]
            .value
        )
    return compile(ast.fix_missing_locations(tree), file, "exec")


def counters():
    """Return the names that a guarded function needs."""
    count = iter(range(ROUNDS * 100)).__next__

    def endless():
        raise TimeoutError("the loop does not end")

    return {"__count__": count, "__endless__": endless}


def _put(parent, field, index, value):
    if index is None:
        setattr(parent, field, value)
    else:
        getattr(parent, field)[index] = value


def _slots(function):
    """Yield (statement, parent, field, index) for every node of the function's body, docstring left out."""

    def visit(node, statement):
        for field, value in ast.iter_fields(node):
            for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if not isinstance(child, ast.AST) or isinstance(child, ast.expr_context | ast.operator):
                    continue
                if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                    continue  # a docstring
                if isinstance(child, ast.arguments):
                    continue
                inside = child if isinstance(child, ast.stmt) else statement
                yield inside, node, field, index
                yield from visit(child, inside)

    yield from visit(function, None)


def _target(statement):
    """Name what a statement makes."""
    if isinstance(statement, ast.Assign):
        return ast.unparse(statement.targets[0])
    if isinstance(statement, ast.AugAssign):
        return ast.unparse(statement.target)
    return ast.unparse(statement).splitlines()[0]


def _neighbours(function):
    """{name: names bound beside it}: in one tuple, or as an argument."""
    groups = [[a.arg for a in function.args.args]]
    for node in ast.walk(function):
        if isinstance(node, ast.Tuple) and isinstance(node.ctx, ast.Store):
            groups.append([e.id for e in node.elts if isinstance(e, ast.Name)])
        if isinstance(node, ast.FunctionDef):
            groups.append([a.arg for a in node.args.args])
    loops = [
        n.target.id for n in ast.walk(function) if isinstance(n, ast.For) and isinstance(n.target, ast.Name)
    ]
    found = {}
    for group in [*groups, loops]:
        for k, name in enumerate(group):
            beside = [g for g in (group[k - 1] if k else "", *group[k + 1 : k + 2]) if g and g != name]
            found.setdefault(name, []).extend(b for b in beside if b not in found.get(name, []))
    return found


def _others(node, parent, field, neighbours):
    """Yield (node to stand in its place, what that is)."""
    match node:
        case ast.BinOp():
            yield from _binary(node)
        case ast.UnaryOp(op=ast.USub()) if not isinstance(parent, ast.Slice):
            yield node.operand, "a minus is missing"
        case ast.UnaryOp(op=ast.USub()):
            yield node.operand, "a step of a slice has no minus"
        case ast.UnaryOp():
            yield node.operand, "a `not` is missing"
        case ast.Constant(value=bool()) if not isinstance(parent, ast.keyword):
            yield ast.Constant(not node.value), f"{node.value} is {not node.value}"
        case ast.Constant(value=int() | float()) if not isinstance(node.value, bool):
            for other in (node.value + 1, node.value - 1) if abs(node.value) < 1e6 else (node.value * 10,):
                yield ast.Constant(other), f"{node.value} is {other}"
        case ast.Constant(value=str()) if not isinstance(parent, ast.Expr):
            yield ast.Constant(node.value + "?"), "a text is another"
        case ast.Name(ctx=ast.Load()):
            yield from _name(node, parent, field, neighbours)
        case ast.Compare(ops=[op]) if type(op) in COMPARISONS:
            sign = COMPARISONS[type(op)]
            for other in OTHER_COMPARISONS[sign]:
                kind = next(k for k, v in COMPARISONS.items() if v == other)
                yield _with(node, ops=[kind()]), f"`{other}` stands for `{sign}`"
        case ast.Compare():
            yield (
                _with(node, ops=node.ops[1:], left=node.comparators[0], comparators=node.comparators[1:]),
                ("the lower bound is missing"),
            )
            yield (
                _with(node, ops=node.ops[:1], comparators=node.comparators[:1]),
                "the upper bound is missing",
            )
        case ast.IfExp():
            yield _with(node, body=node.orelse, orelse=node.body), "the two cases are exchanged"
            yield node.body, "the second case is missing"
            yield node.orelse, "the first case is missing"
        case ast.Attribute(attr="T"):
            yield node.value, "a transpose is missing"
        case ast.Attribute(attr=name) if name in OTHER_NAMES:
            for other in OTHER_NAMES[name]:
                yield _with(node, attr=other), f"`{other}` stands for `{name}`"
        case ast.Call():
            yield from _call(node)
        case ast.Subscript(ctx=ast.Load()):
            yield from _subscript(node)
        case ast.Slice():
            yield from _slice(node)
        case ast.Tuple(ctx=ast.Store(), elts=[first, second]):
            yield _with(node, elts=[second, first]), "the two results are exchanged"
        case ast.Tuple(elts=elts) if isinstance(parent, ast.Return) and len(elts) > 1:
            for k in range(len(elts) - 1):
                swapped = [*elts[:k], elts[k + 1], elts[k], *elts[k + 2 :]]
                yield _with(node, elts=swapped), "two results are exchanged"
        case ast.AugAssign():
            yield ast.Assign([node.target], node.value, lineno=1), "`=` stands for `+=`"
            other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            yield (
                _with(node, op=other),
                f"`{OPERATORS[type(other)]}=` stands for `{OPERATORS[type(node.op)]}=`",
            )
            yield ast.Pass(), "the line is missing"
        case ast.Assign(targets=[ast.Name() | ast.Subscript()]):
            yield ast.Pass(), "the line is missing"
            if isinstance(node.targets[0], ast.Subscript):
                yield ast.AugAssign(node.targets[0], ast.Add(), node.value), "`+=` stands for `=`"
        case ast.Expr(value=ast.Call()):
            yield ast.Pass(), "the line is missing"
        case ast.If():
            yield ast.Pass(), "the `if` is missing"
            yield (
                node.body if len(node.body) > 1 else node.body[0],
                "what stands under the `if` is always done",
            )
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test)), "the `if` is the other way round"
        case ast.For():
            yield _with(node, body=[*node.body, ast.Break()]), "only the first round of the loop is done"
            later = ast.parse(f"list({ast.unparse(node.iter)})[1:]").body[0].value
            yield _with(node, iter=later), "the first round of the loop is left out"
            early = ast.parse(f"list({ast.unparse(node.iter)})[:-1]").body[0].value
            yield _with(node, iter=early), "the last round of the loop is left out"


def _with(node, **fields):
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other


def _binary(node):
    sign = OPERATORS[type(node.op)]
    for other in OTHER_OPERATORS[sign]:
        kind = next(k for k, v in OPERATORS.items() if v == other)
        yield _with(node, op=kind()), f"`{other}` stands for `{sign}`"
    kind = "term" if sign in "+-" else "power" if sign == "**" else "factor"
    yield node.left, f"the {kind} `{_short(node.right)}` is missing"
    if sign not in ("**",):
        yield node.right, f"the {kind} `{_short(node.left)}` is missing"
    if sign in ("-", "/", "//", "@", "**", "%"):
        yield _with(node, left=node.right, right=node.left), f"the two sides of `{sign}` are exchanged"
    if sign == "@":
        for side in ("left", "right"):
            turned = ast.Attribute(getattr(node, side), "T", ast.Load())
            yield _with(node, **{side: turned}), "a transpose is too many"


def _short(node):
    text = ast.unparse(node)
    return text if len(text) < 24 else text[:20] + " …"


def _name(node, parent, field, neighbours):
    if isinstance(parent, ast.Attribute) and node.id == "np":
        return
    if isinstance(parent, ast.Call) and field == "func":
        return
    for other in neighbours.get(node.id, []):
        yield ast.Name(other, ast.Load()), f"`{other}` stands for `{node.id}`"
    if isinstance(parent, ast.Subscript | ast.Tuple) and field in ("slice", "elts") and node.id in neighbours:
        for sign, op in (("+", ast.Add()), ("-", ast.Sub())):
            yield (
                ast.BinOp(ast.Name(node.id, ast.Load()), op, ast.Constant(1)),
                f"`{node.id}` is {node.id} {sign} 1",
            )
        yield ast.Constant(0), f"`{node.id}` is 0"


_KEPT = "range", "slice", "copy", "ndindex"  # calls without which nothing is left


def _call(node):
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if isinstance(node.func, ast.Name) and name in ("max", "min"):
        other = {"max": "min", "min": "max"}[name]
        yield _with(node, func=ast.Name(other, ast.Load())), f"`{other}` stands for `{name}`"
        for arg in node.args:
            yield arg, f"`{name}` is missing"
    elif name in ("maximum", "minimum") or (len(node.args) == 1 and not node.keywords and name not in _KEPT):
        yield node.args[0], f"`{name}` is missing"
    if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) not in ("np", "comm"):
        yield node.func.value, f"`{name}` is missing"
    for k in range(len(node.args) - 1):
        swapped = [*node.args[:k], node.args[k + 1], node.args[k], *node.args[k + 2 :]]
        yield _with(node, args=swapped), f"two arguments of `{name}` are exchanged"
    for k, keyword in enumerate(node.keywords):
        if keyword.arg == "strict":
            continue
        rest = node.keywords[:k] + node.keywords[k + 1 :]
        yield _with(node, keywords=rest), f"`{keyword.arg}` is missing"
        value = keyword.value
        if keyword.arg == "axis" and isinstance(value, ast.Constant):
            others = [ast.Constant(a) for a in range(4) if a != value.value]
        elif keyword.arg == "axis" and isinstance(value, ast.Tuple):
            others = [_with(value, elts=value.elts[:j] + value.elts[j + 1 :]) for j in range(len(value.elts))]
            others.append(_with(value, elts=[ast.Constant(0), *value.elts]))
        else:
            continue
        for other in others:
            changed = ast.keyword("axis", other)
            yield (
                _with(node, keywords=[*node.keywords[:k], changed, *node.keywords[k + 1 :]]),
                (f"`{name}` goes over axis {ast.unparse(other)} and not {ast.unparse(value)}"),
            )


def _subscript(node):
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    for k in range(len(parts) - 1):
        swapped = [*parts[:k], parts[k + 1], parts[k], *parts[k + 2 :]]
        yield _with(node, slice=ast.Tuple(swapped, ast.Load())), "two indices are exchanged"
    if not isinstance(node.value, ast.Attribute):  # a.shape[0] without its index is no number
        yield node.value, f"the index of `{_short(node.value)}` is missing"
    if all(isinstance(p, ast.Slice) for p in parts):
        flipped = ast.Slice(step=ast.UnaryOp(ast.USub(), ast.Constant(1)))
        yield ast.Subscript(node, flipped, ast.Load()), f"`{_short(node.value)}` is reversed along axis 0"


def _slice(node):
    for end in ("lower", "upper"):
        if (at := getattr(node, end)) is not None:
            for op, sign in ((ast.Add(), "later"), (ast.Sub(), "earlier")):
                moved = ast.BinOp(at, op, ast.Constant(1))
                yield (
                    _with(node, **{end: moved}),
                    f"a slice {'begins' if end == 'lower' else 'ends'} one {sign}",
                )
            yield _with(node, **{end: None}), f"a slice has no {'beginning' if end == 'lower' else 'end'}"
    if node.lower is not None and node.upper is not None:
        later = {e: ast.BinOp(getattr(node, e), ast.Add(), ast.Constant(1)) for e in ("lower", "upper")}
        yield _with(node, **later), "a slice lies one further on"
    if node.step is not None:
        yield _with(node, step=None), "a slice has no step"


def _inserted(function, arrays, dtypes):
    """Yield (what, line, text): what writes into an argument, and what gives another type of number back."""
    for name in arrays:
        for node in [n for n in ast.walk(function) if isinstance(n, ast.Assign)]:
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id == name:
                node.targets[0] = ast.parse(f"{name}[...] = 0").body[0].targets[0]
                yield f"`{name}` is written into", name, ast.unparse(ast.fix_missing_locations(function))
                node.targets[0] = target
    returns = [n for n in function.body if isinstance(n, ast.Return)]
    for node in returns:
        value, at = node.value, function.body.index(node)
        for name in arrays:
            function.body.insert(at, ast.parse(f"{name}.flat[0] = {name}.flat[0] == 0").body[0])
            yield (
                f"`{name}` is written into at the end",
                "return",
                ast.unparse(ast.fix_missing_locations(function)),
            )
            del function.body[at]
        if not isinstance(value, ast.Tuple):
            for dtype in dtypes:
                node.value = ast.parse(f"np.asarray({ast.unparse(value)}, np.{dtype})").body[0].value
                yield f"the result is {dtype}", "return", ast.unparse(ast.fix_missing_locations(function))
            node.value = ast.parse(f"({ast.unparse(value)})[..., :1]").body[0].value
            yield (
                "only the first of the last axis is returned",
                "return",
                ast.unparse(ast.fix_missing_locations(function)),
            )
        node.value = value
