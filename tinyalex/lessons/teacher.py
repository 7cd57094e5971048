"""A page for the teacher of each lesson: minutes, what students get wrong and what to say then, questions.

All of it is read from the notebook and from its holes, so that it is never behind them.
"""

import html
import inspect
import re
import textwrap

# Reckoned, not timed: words of text in a minute, formulas among them; minutes for each thing to fill in, and
# for a cell whose output is looked at.
WORDS, FILL, CELL = 120, 4, 0.5
MINUTES = (
    "About {} minutes, reckoned from the lesson's length: "
    f"{WORDS} words a minute, {FILL} minutes for each thing to fill in.  No class has been timed."
)


def minutes(book):
    """Return about how long a lesson takes, in steps of five minutes."""
    texts = [cell.source for cell in book.cells if cell.cell_type == "markdown"]
    words = sum(len(re.sub(r"(?s)<details>.*?</details>", "", text).split()) for text in texts)
    code = [cell.source for cell in book.cells if cell.cell_type == "code"]
    fill = sum(text.count("...") for text in code if text.lstrip("# ").startswith("def "))
    return max(5, 5 * round((words / WORDS + FILL * fill + CELL * len(code)) / 5))


def title(book):
    """Return a lesson's title, "5 · Backward through convolution: …"."""
    return re.match("# (.*)", book.cells[0].source)[1]


def page(stem, book, holes, markdown, listing):
    """Return the HTML of a lesson's page for teachers; listing(code) returns Python in its colours."""
    text = markdown.render
    bring, take = (_paragraph(book.cells[0].source, f"**You {what}:**") for what in ("bring", "take away"))
    parts = [
        f"<h1>For teachers: {html.escape(title(book))}</h1>",
        f'<p>The lesson: <a href="{stem}.html">{html.escape(title(book))}</a>.  '
        f"{MINUTES.format(minutes(book))}</p>",
        text(bring.replace("You bring", "They bring")),
        text(take.replace("You take away", "They take away")),
        "<h2>Ask before they run it</h2>",
        text(_section(book, "Break it on purpose")),
        "<p>Let them write a guess down, and only then run the cells below it in the lesson.</p>",
        "<h2>What students get wrong</h2>",
        "<p>Wrong answers that the checks know by name: the line as they write it, and below it what the "
        "check says, which can be said in front of the class as it stands.</p>",
    ]
    parts += [_mistakes(hole, text, listing) for hole in holes.values()]
    questions = _section(book, "Think about it").replace("<details>", "<details open>")
    parts += ["<h2>Questions</h2>", text(questions), "<h2>Solutions</h2>"]
    parts += [
        f"<details><summary>{name}</summary>{listing(hole.source)}</details>" for name, hole in holes.items()
    ]
    return "\n".join(parts)


def contents(books, holes):
    """Return the HTML of the list of these pages, with each lesson's minutes and holes."""
    rows = "".join(
        f'<tr><td><a href="teacher_{stem[:2]}.html">{html.escape(title(book))}</a></td>'
        f"<td>{minutes(book)}</td><td>{len(holes[stem])}</td></tr>"
        for stem, book in books.items()
    )
    return (
        "<h1>For teachers</h1>"
        "<p>A page for each lesson: how long it takes, what to ask before a cell is run, what students get "
        "wrong and the sentence that helps, questions with answers, the solutions.  The minutes are reckoned "
        "from the lessons' lengths; no class has been timed.</p>"
        f"<table><thead><tr><th>lesson</th><th>minutes</th><th>holes</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _mistakes(hole, text, listing):
    """Return a hole's typical wrong answers: what is written, and what to say."""
    parts = [f"<h3><code>{hole.name}</code></h3>", text(inspect.getdoc(hole.solution).partition("\n\n")[0])]
    for *given, message in hole.wrong:
        if len(given) == 1:
            written = inspect.getsource(given[0])
        else:
            written = textwrap.dedent(_line(hole.source.replace(*given), hole.source))
        parts.append(f"{listing(written)}<blockquote>{text(message)}</blockquote>")
    return "\n".join(parts)


def _line(wrong, right):
    """Return the lines of a wrong text that the right one does not have, or those that were left out."""
    lines = right.splitlines()
    changed = [line for line in wrong.splitlines() if line not in lines]
    left = wrong.splitlines()
    return "\n".join(changed or [f"{line}  # left out" for line in lines if line not in left])


def _paragraph(text, start):
    """Return the paragraph that begins so, or nothing."""
    return next((part for part in text.split("\n\n") if part.startswith(start)), "")


def _section(book, heading):
    """Return the text of a lesson under a heading, up to the next cell of code or heading."""
    for cell in book.cells:
        if cell.cell_type == "markdown" and (found := re.search(rf"(?m)^## {heading}\n", cell.source)):
            return re.split(r"(?m)^## ", cell.source[found.end() :])[0]
    return ""
