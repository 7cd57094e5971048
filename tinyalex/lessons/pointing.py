"""Does the tutor point at the right line?

    python -m tinyalex.lessons.pointing

Each solution is changed in one place (`variants`), once as it stands and once with names of its own.  Of the
mutants that run to their end and give other numbers, the tutor should mark the line that was changed, or the
next that uses what it sets.
"""

import ast
import signal
import sys
from contextlib import contextmanager, suppress

from tinyalex.lessons import checks, trace, tutor
from tinyalex.lessons.variants import variants

WANTED = 0.9
SECONDS = 5  # a mutant that takes longer does not run to its end


def mutants(source):
    """Yield (line, text): the variants of a source, and the first line in which each is another."""
    before = ast.unparse(ast.parse(source)).split("\n")
    for variant in variants("\n".join(before)):
        after = variant.source.split("\n")
        pairs = enumerate(zip(before, after, strict=False), 1)
        yield next(k for k, (old, new) in pairs if old != new), variant.source


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
    return ast.unparse(tree)


def score(hole, source, every=1):
    """Return (number of mutants that are wrong, [(line changed, line marked, its text)] of the misses).

    every: of so many mutants one is tried.
    """
    wrong, missed = 0, []
    for line, text in list(mutants(source))[::every]:
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


def main(lessons=checks.LESSONS):
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
    sys.exit(main([int(n) for n in sys.argv[1:]] or checks.LESSONS))
