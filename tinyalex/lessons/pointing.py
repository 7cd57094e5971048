"""Does the tutor point at the right line?

    python -m tinyalex.lessons.pointing

Each solution is changed in one place: an operator, a number, an index, a sign, a transpose, a reduction.  Of
the mutants that run to their end and give other numbers, the tutor should mark the line that was changed, or
the next that uses what it sets.
"""

import ast
import signal
import sys
from contextlib import contextmanager, suppress

import numpy as np

from tinyalex.lessons import checks, trace, tutor

OPERATORS = {ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Pow: "*"}
SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Pow: "**"}
COMPARISONS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">")}
COMPARISONS |= {ast.Eq: ("==", "!="), ast.NotEq: ("!=", "==")}
OTHERS = {"sum": "mean", "mean": "sum", "max": "min", "min": "max", "argmax": "argmin", "zeros": "ones"}
OTHERS |= {"maximum": "minimum", "minimum": "maximum", "floor": "ceil", "ceil": "floor"}
WANTED = 0.9
SECONDS = 5  # a mutant that takes longer does not run to its end


def mutants(source):
    """Yield (line, text): the source with one thing changed, in the line `line`."""
    tree = ast.parse(source)
    starts = np.cumsum([0, *(len(line.encode()) + 1 for line in source.split("\n"))])
    code = source.encode()

    def at(line, column):
        return int(starts[line - 1]) + column

    def span(node):
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    def changed(begin, end, new):
        return (code[:begin] + new.encode() + code[end:]).decode()

    def between(left, right, sign, new):
        begin, end = span(left)[1], span(right)[0]
        place = code.index(sign.encode(), begin, end)
        return changed(place, place + len(sign), new)

    loops = [n.target for n in ast.walk(tree) if isinstance(n, ast.For)]
    indices = sorted({n.id for target in loops for n in ast.walk(target) if isinstance(n, ast.Name)})
    for node in ast.walk(tree.body[0]):
        line = getattr(node, "lineno", None)
        with suppress(ValueError):  # brackets between: leave it
            if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
                yield line, between(node.left, node.right, SIGNS[type(node.op)], OPERATORS[type(node.op)])
            elif isinstance(node, ast.AugAssign):
                sign = SIGNS[type(node.op)] + "="
                yield line, between(node.target, node.value, sign, "=")
                yield line, between(node.target, node.value, sign, "-=" if sign == "+=" else "+=")
            elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
                begin, _ = span(node)
                yield line, changed(begin, begin + 1, "")
            elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
                yield line, between(node.left, node.comparators[0], *COMPARISONS[type(node.ops[0])])
            elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
                for step in (1, -1):
                    yield line, changed(*span(node), repr(node.value + step))
            elif isinstance(node, ast.Attribute):
                _, end = span(node)
                if node.attr == "T":
                    yield line, changed(end - 2, end, "")
                elif node.attr in OTHERS:
                    yield line, changed(end - len(node.attr), end, OTHERS[node.attr])
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in indices[1:]:
                yield line, changed(*span(node), indices[indices.index(node.id) - 1])


def allowed(source, line):
    """Return where a mutation of this line may be marked: it, and the next that uses its value."""
    begins = trace.statements(source)
    line = begins.get(line, line)
    statements = [node for node in ast.walk(ast.parse(source).body[0]) if isinstance(node, ast.stmt)][1:]
    lines = sorted({node.lineno for node in statements})
    names = trace.stores(source).get(line, set())
    text = source.split("\n")
    users = [
        n for n in lines if n > line
        and any(isinstance(node, ast.Name) and node.id in names for node in _nodes(text, n, begins))
    ]  # fmt: skip
    return {line, *(users[:1] if names else [n for n in lines if n > line][:1])}


def _nodes(text, line, begins):
    """Return the syntax nodes of the statement that begins at a line."""
    statement = "\n".join(t for n, t in enumerate(text, 1) if begins.get(n) == line).strip()
    for source in (statement, statement + "\n    pass", "if 1:\n    pass\n" + statement + "\n    pass"):
        with suppress(SyntaxError):
            return list(ast.walk(ast.parse(source)))
    return []


@contextmanager
def _limit(seconds):
    def stop(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def disguised(source):
    """Return the source with a name of its own for everything that it sets."""
    tree = ast.parse(source)
    own = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in own:
            node.id = f"my_{node.id}"
    lines = ast.unparse(tree).split("\n")
    return "\n".join(lines)


def score(hole, source):
    """Return (number of mutants that are wrong, [(line changed, line marked, its text)] of the misses)."""
    wrong, missed = 0, []
    for line, text in mutants(source):
        with suppress(Exception), _limit(SECONDS):
            function = trace.compiled(hole, text)
            mine, right = tutor.small_case(hole, function)
            if right is None or mine.error is not None:
                continue
            found = trace.departure(mine, right)
            wrong += 1
            at = mine.steps[found.step].line if found else None
            if at not in allowed(text, line):
                missed.append((line, at, text.split("\n")[line - 1].strip()))
    return wrong, missed


def main(lessons=range(1, 17)):
    """Print the table; return 0 if the tutor points well enough."""
    total = missing = 0
    print(f"{'hole':28} {'mutants':>8} {'missed':>7}   with names of their own: mutants, missed")
    for number in lessons:
        for name, hole in checks.holes_of(number).items():
            wrong, missed = score(hole, hole.source)
            other_wrong, other_missed = score(hole, disguised(hole.source))
            total += wrong + other_wrong
            missing += len(missed) + len(other_missed)
            print(f"{number:2} {name:25} {wrong:8} {len(missed):7} {other_wrong:12} {len(other_missed):7}")
            for line, at, text in missed + other_missed:
                print(f"     changed line {line}, marked {at}: {text}")
    share = 1 - missing / max(total, 1)
    print(f"\n{total} mutants run to their end and are wrong; marked at their line or the next: {share:.1%}")
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main([int(n) for n in sys.argv[1:]] or range(1, 17)))
