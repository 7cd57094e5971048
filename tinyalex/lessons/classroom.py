"""A class in a folder: lessons handed out, answers collected, marked, and told of in tables and on a page.

    new(folder, lessons)     folder/hand-out: the notebooks, without the ways to the solutions
    collect(folder, paths)   folder/collected: what came back
    mark(folder)             folder/marks: a verdict on every answer (`marking`)
    report(folder)           marks.csv, answers.csv, report.html

Only class.json and the folder hand-out are needed to go on; only hand-out is for students.  class.json holds
the seed of the cases that decide a mark beside those that every `check` tries: whoever knows neither cannot
write down results instead of computing them.
"""

import csv
import functools
import hashlib
import html
import io
import json
import os
import re
import secrets
import stat
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tinyalex import __version__, files
from tinyalex.errors import DataError, reason
from tinyalex.lessons import course, marking, notebook, sandbox
from tinyalex.lessons.checks import NOT_YET, PASSED, WRONG, Verdict
from tinyalex.lessons.page import page

MOST_BYTES, MOST_TEXT = 32 << 20, 500_000  # of a file; characters of all its code
OF_THE_SYSTEM = {".ipynb_checkpoints", "__MACOSX", ".DS_Store", "desktop.ini", "Thumbs.db", ".git"}
MISSING = "– not there"
MARK = {PASSED: "right", WRONG: "wrong", NOT_YET: "open", MISSING: "missing"}


class Book(NamedTuple):
    """What a notebook that came back holds."""

    lesson: int
    answers: tuple  # marking.Answer
    remarks: tuple  # what the teacher should know of it


# ---- new


def new(folder, lessons=None):
    """Begin a class with these lessons (their numbers; None: all) in a folder; return hand-out's path."""
    known = {int(path.name[:2]): path for path in course.notebooks()}
    lessons = sorted(set(lessons or known))
    if unknown := [number for number in lessons if number not in known]:
        raise DataError(f"class new: expected lessons {min(known)} to {max(known)}, found {unknown[0]}")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: expected a folder that is empty or not there yet")
    hand_out = folder / "hand-out"
    (hand_out / "touch").mkdir(parents=True)
    (hand_out / "touch" / "index.html").write_text(course.touch_page(), encoding="utf-8")
    for number in lessons:
        book = json.loads(known[number].read_text(encoding="utf-8"))
        for cell in book["cells"]:
            text = _given(_without_solution("".join(cell["source"])), lessons)
            cell["source"] = text.splitlines(keepends=True)
        book["metadata"]["tinyalex"] = {"lesson": number, "version": __version__}
        text = json.dumps(book, ensure_ascii=False, indent=1) + "\n"
        (hand_out / known[number].name).write_text(text, encoding="utf-8")
    for_all, _, _ = (course.folder() / "README.md").read_text(encoding="utf-8").partition("## For teachers")
    (hand_out / "README.md").write_text(_given(for_all, lessons).rstrip() + "\n", encoding="utf-8")
    about = {"lessons": lessons, "seed": secrets.randbits(62), "version": __version__}
    files.write_text(folder / "class.json", json.dumps(about) + "\n")
    return hand_out


def _without_solution(text):
    text = re.sub(r'\n# solution\("\w+"\)', "", text)
    text = text.replace("check, hint, solution, tutor = lesson(", "check, hint, _, tutor = lesson(")
    return text.replace("There are hints, and a solution; and the lesson", "There are hints; and the lesson")


def _given(text, lessons):
    """Leave of links to notebooks those to lessons that are handed out, of the others the words."""
    return re.sub(
        r"\[([^][]*)\]\((\d\d)_\w+\.ipynb\)",
        lambda link: link[0] if int(link[2]) in lessons else link[1],
        text,
    )


def _class(folder):
    """What class.json says."""
    path = Path(folder) / "class.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return {"lessons": [int(n) for n in about["lessons"]], "seed": int(about["seed"])}
    except FileNotFoundError:
        raise DataError(
            f"{folder}: expected a class's folder, made by  tinyalex class new {folder}"
        ) from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise DataError(f"{path}: expected what `tinyalex class new` writes: {reason(error)}") from error


# ---- collect


def collect(folder, paths):
    """Take the notebooks in these files and folders into the class; return [(file, student, what to say)].

    In a folder whatever lies in FOLDER/STUDENT/ is that student's; a file elsewhere says in its name whose it
    is, as in anna_05_backward_convolution.ipynb.  What cannot be taken stands in the list and in the report.
    Of two different files of a student for one lesson none is taken.  A later `collect` takes the place of an
    earlier one.
    """
    about, said, found = _class(folder), [], {}
    for path in paths:
        if not os.path.lexists(path):
            raise DataError(f"{path}: expected a file or folder that came back, found nothing")
    for path, student in _files(paths):
        shown = files.printable(str(path))
        try:
            if not student:
                raise DataError(
                    "whose is it?  Expected STUDENT_05_name.ipynb, or a folder with the student's name"
                )
            data = _contents(path)
            book = read(data, about["lessons"])
        except DataError as error:
            said.append((shown, student, str(error)))
            continue
        found.setdefault((student, book.lesson), {}).setdefault(data, []).append((shown, book))
    taken, before = _collected(folder), {}
    for (student, lesson), versions in sorted(found.items()):
        shown = [shown for same in versions.values() for shown, _ in same]
        if len(versions) > 1:
            text = (
                f"{len(shown)} different files for lesson {lesson}, none is taken: leave one, collect again"
            )
            said += [(name, student, text) for name in shown]
            continue
        ((data, same),) = versions.items()
        name = f"{_safe(student)}/{lesson:02d}.ipynb"
        target = Path(folder) / "collected" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(target, data)
        taken["files"].setdefault(student, {})[f"{lesson:02d}"] = name
        said.append((shown[0], student, f"lesson {lesson}: {len(same[0][1].answers)} answers"))
        before.update(dict.fromkeys(shown))
    settled = {student for student, _ in found}  # what was said before of their files is out of date
    refused = {entry[0]: tuple(entry) for entry in taken["refused"] if entry[1] not in settled}
    refused |= {entry[0]: entry for entry in said}
    taken["refused"] = sorted(entry for shown, entry in refused.items() if shown not in before)
    files.write_text(_list(folder), json.dumps(taken, ensure_ascii=False, indent=1) + "\n")
    return sorted(said)


def _list(folder):
    return Path(folder) / "collected" / "collected.json"


def _collected(folder):
    """{files: {student: {lesson: file}}, refused: [[file, student, why]]}."""
    try:
        return json.loads(_list(folder).read_text(encoding="utf-8"))
    except FileNotFoundError:
        _list(folder).parent.mkdir(exist_ok=True)
        return {"files": {}, "refused": []}


def _files(paths):
    """Yield (path, student, or "" where nothing says whose it is) of all that came back, in order."""
    stems = "|".join(path.stem for path in course.notebooks())
    for given in map(Path, paths):
        inside = [given]
        if given.is_dir() and not given.is_symlink():
            inside = sorted(Path(at) / name for at, _, names in os.walk(given) for name in names)
            students = {path.relative_to(given).parts[0] for path in inside}
            inside += sorted(path for path in given.iterdir() if path.is_dir() and path.name not in students)
        for path in inside:
            parts = path.relative_to(given).parts if path != given else (path.name,)
            if OF_THE_SYSTEM & set(parts) or path.name.startswith("._"):
                continue
            whole = len(parts) > 1 or path.is_dir()
            name = parts[0] if whole else re.sub(rf"({stems}|\(\d+\)|\.ipynb$)", "", path.name)
            yield path, named(name if whole else name.strip(" _-."))


def named(student):
    """A student's name as it is shown: one form of each letter, and nothing that cannot be printed."""
    return unicodedata.normalize("NFC", files.printable(student))


def _contents(path):
    """The bytes of a file that somebody sent.  DataError if it is none, or too large."""
    if path.is_dir():
        raise DataError(f"expected notebooks, found {'a link' if path.is_symlink() else 'an empty folder'}")
    if path.suffix != ".ipynb":
        more = ": unpack it first" if path.suffix in (".zip", ".gz", ".tar", ".7z", ".rar") else ""
        raise DataError(f"expected a notebook, .ipynb, found {path.suffix or 'a file without ending'}{more}")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        if path.is_symlink():
            raise DataError("expected a file, found a link to one")
        with open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DataError("expected a file, found something else")
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise DataError(f"expected at most {MOST_BYTES >> 20} MiB: its outputs should be cleared")
    return data


def _safe(student):
    """The name of a student's folder: another for each student, whatever characters the name has."""
    digest = hashlib.sha256(student.encode()).hexdigest()[:10]
    return f"{re.sub('[^A-Za-z0-9]+', '-', student)[:30].strip('-')}-{digest}"


def read(data, lessons):
    """Return the Book that a notebook's bytes hold.  DataError, in words, if it is none of these lessons."""
    cells = _cells(data)
    if (length := sum(len(text) for text, _ in cells)) > MOST_TEXT:
        raise DataError(f"expected at most {MOST_TEXT:,} characters of code, found {length:,}")
    names = [re.findall(r"^def +(\w+) *\(", text, re.MULTILINE) for text, _ in cells]
    defined = Counter(name for found in names for name in set(found))
    every = {int(path.name[:2]): notebook.asked(int(path.name[:2])) for path in course.notebooks()}
    best = max(every, key=lambda number: len(defined.keys() & every[number].keys()))
    if not defined.keys() & every[best].keys():
        raise DataError("expected a notebook of the course, found none of its functions")
    if best not in lessons:
        raise DataError(f"it is lesson {best}, which this class has not been given")
    answers, remarks = [], []
    printed = "".join(output for _, output in cells)
    for name in every[best]:
        places = [place for place, found in enumerate(names) if name in found]
        if places:
            *before, text = (text for text, _ in cells[: places[-1] + 1])
            answers.append(marking.Answer(best, name, text, tuple(before)))
        if len(places) > 1:
            remarks.append(f"{name} is defined in {len(places)} cells: the last one counts")
        checked = any(re.search(rf"^{name} = check\({name}\)", text, re.MULTILINE) for text, _ in cells)
        if places and not checked:
            remarks.append(f"the cell that checks {name} was changed: it plays no part in marking")
        if f"{PASSED}: {name}\n" in printed:
            remarks.append(f"{CLAIMS}{name}")
    return Book(best, tuple(answers), tuple(remarks))


CLAIMS = "shows a ✓ for "


def _cells(data):
    """[(text, what it has printed)] of a notebook's cells of code."""
    try:
        book = json.loads(data)
    except (ValueError, RecursionError):
        raise DataError("expected a notebook, found something that is no JSON") from None
    cells = book.get("cells") if isinstance(book, dict) else None
    if not isinstance(cells, list):
        raise DataError("expected a notebook of format 4, found JSON without cells")
    found = []
    for cell in cells:
        if isinstance(cell, dict) and cell.get("cell_type") == "code":
            outputs = cell.get("outputs")
            printed = (
                [o.get("text") for o in outputs if isinstance(o, dict)] if isinstance(outputs, list) else []
            )
            found.append((_commented(_text(cell.get("source"))), "".join(map(_text, printed))))
    return found


def _text(value):
    """A cell's text: a string, or a list of its lines."""
    value = "".join(filter(lambda part: isinstance(part, str), value)) if isinstance(value, list) else value
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _commented(text):
    """The text with IPython's own commands (%matplotlib inline, !pip) as comments."""
    return re.sub(r"(?m)^([%!])", r"# \1", text)


# ---- mark


def mark(folder, progress=lambda doing, done, of: None):
    """Mark all that was collected; return how many answers were marked, and how many were marked before.

    Each file's verdicts are kept as soon as they are all there: an interrupted `mark` goes on where it was.
    Raises DataError where this system cannot lock an answer in.
    """
    about, todo, before = _class(folder), [], 0
    if problem := sandbox.missing():
        raise DataError(
            f"class mark: answers are only run where they can be locked in: {problem}.  A virtual machine "
            "with such a Linux will do"
        )
    for student, number, path in _books(folder):
        book = read(path.read_bytes(), about["lessons"])
        kept = _kept(folder, student, number, _key(path, about))
        if kept is None:
            todo.append((student, number, path, book))
        else:
            before += len(book.answers)
    answers = [answer for *_, book in todo for answer in book.answers]
    owner = [k for k, (*_, book) in enumerate(todo) for _ in book.answers]
    found, left = [{} for _ in todo], Counter(owner)
    for student, number, path, book in todo:
        if not book.answers:
            _keep(folder, student, number, _key(path, about), {})
    for done, (place, verdict) in enumerate(marking.verdicts(answers, about["seed"])):
        which = owner[place]
        found[which][answers[place].name] = verdict
        left[which] -= 1
        if not left[which]:
            student, number, path, _ = todo[which]
            _keep(folder, student, number, _key(path, about), found[which])
        progress("marking", done + 1, len(answers))
    return len(answers), before


def _books(folder):
    """Yield (student, lesson, path) of all that was collected, in order."""
    for student, lessons in sorted(_collected(folder)["files"].items()):
        for number, name in sorted(lessons.items()):
            yield student, int(number), Path(folder) / "collected" / name


def _key(path, about):
    """What a file's verdicts depend on."""
    return hashlib.sha256(path.read_bytes() + f"{about['seed']} {_checks()}".encode()).hexdigest()


@functools.cache
def _checks():
    """A digest of the checks and of all that they need."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()


def _place(folder, student, number):
    return Path(folder) / "marks" / f"{_safe(student)}-{number:02d}.json"


def _kept(folder, student, number, key):
    """{name: Verdict} that was kept under this key; None if there is none."""
    try:
        kept = json.loads(_place(folder, student, number).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return {name: Verdict(*v) for name, v in kept["verdicts"].items()} if kept["key"] == key else None


def _keep(folder, student, number, key, verdicts):
    path = _place(folder, student, number)
    path.parent.mkdir(exist_ok=True)
    text = json.dumps({"key": key, "verdicts": dict(sorted(verdicts.items()))}, ensure_ascii=False, indent=1)
    files.write_text(path, text + "\n")


# ---- report


class Row(NamedTuple):
    """A student: verdicts by (lesson, function), and remarks."""

    student: str
    verdicts: dict
    remarks: list


def rows(folder):
    """Return a Row for each student, by name.  DataError where something has not been marked."""
    about, found = _class(folder), {}
    for student, number, path in _books(folder):
        kept = _kept(folder, student, number, _key(path, about))
        if kept is None:
            raise DataError(f"class report: not all is marked; first  tinyalex class mark {folder}")
        row = found.setdefault(student, Row(student, {}, []))
        for name in notebook.asked(number):
            row.verdicts[number, name] = kept.get(name, Verdict(MISSING, "the notebook does not define it"))
        for remark in read(path.read_bytes(), about["lessons"]).remarks:
            name = remark.removeprefix(CLAIMS)
            if remark == name:
                row.remarks.append(f"lesson {number}: {remark}")
            elif kept.get(name, (WRONG,))[0] != PASSED:
                row.remarks.append(f"lesson {number}: {remark}, which is not right")
    for shown, student, why in _collected(folder)["refused"]:
        if student:
            found.setdefault(student, Row(student, {}, [])).remarks.append(f"{Path(shown).name}: {why}")
    return [found[student] for student in sorted(found)]


def report(folder):
    """Write marks.csv, answers.csv and report.html into the class's folder; return their paths."""
    folder, about, found = Path(folder), _class(folder), rows(folder)
    wanted = [(number, name) for number in about["lessons"] for name in notebook.asked(number)]
    table = [["student", *(f"{number:02d} {name}" for number, name in wanted), "points", "of", "remarks"]]
    long = [["student", "lesson", "function", "verdict", "what to say"]]
    for row in found:
        states = [row.verdicts.get(which, Verdict(MISSING, "")).state for which in wanted]
        points = [int(state == PASSED) for state in states]
        table.append([row.student, *points, sum(points), len(points), "; ".join(row.remarks)])
        for (number, name), verdict in row.verdicts.items():
            long.append([row.student, number, name, MARK[verdict.state], verdict.message])
    unknown = [(shown, why) for shown, student, why in _collected(folder)["refused"] if not student]
    written = folder / "marks.csv", folder / "answers.csv", folder / "report.html"
    for path, text in zip(written, (_csv(table), _csv(long), _page(about, found, unknown)), strict=True):
        files.write_text(path, text)
    return written


def _csv(table):
    """A table as CSV, as spreadsheets read it; no cell of it is taken for a formula."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerows([cell(value) for value in row] for row in table)
    return "\ufeff" + out.getvalue()


def cell(value):
    """A value of a table such that no spreadsheet takes it for a formula."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[\s]*[-=+@\t\r|%]", value) else value


def mistakes(found, number, name):
    """[(how many, message)] of the answers to a function that are wrong, the most frequent first."""
    verdicts = [row.verdicts[number, name] for row in found if (number, name) in row.verdicts]
    wrong = Counter(v.message.split("\n")[0] for v in verdicts if v.state == WRONG)
    return sorted(((count, text) for text, count in wrong.items()), key=lambda pair: (-pair[0], pair[1]))


STYLE = """
:root { color-scheme: light dark; --line: #767676; --bar: #0b57a4; --soft: #59636e; }
@media (prefers-color-scheme: dark) { :root { --bar: #8ab8ff; --soft: #9aa4af; } }
body { max-width: 60rem; margin: 0 auto; padding: 1rem; font: 1.02rem/1.55 system-ui, sans-serif;
  overflow-wrap: break-word; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid var(--line); }
td.n, th.n { text-align: right; white-space: nowrap; }
.wide { overflow-x: auto; }
blockquote { margin: 1rem 0; padding: .2rem 1rem; border-left: 4px solid var(--bar); font-size: 1.1rem; }
.soft { color: var(--soft); }
"""


def _page(about, found, unknown):
    title = "What the class has learned"
    body = [f"<h1>{title}</h1>"]
    body.append(f"<p>{_count(len(found), 'student')}.  An answer counts if it is right in every case that "
                "was tried; what is said of a wrong one is what its writer was told.</p>")  # fmt: skip
    for number in about["lessons"]:
        body += _lesson(found, number)
    body.append("<h2>Students</h2>")
    body.append(_students(about, found))
    remarks = [(row.student, text) for row in found for text in row.remarks]
    if remarks or unknown:
        body.append("<h2>Remarks</h2>")
        body.append(_table(("whose", "remark"), [*remarks, *unknown]))
    return page(title, STYLE, "\n".join(body))


def _lesson(found, number):
    """The part of a page that is about a lesson."""
    (title,) = (
        path.stem[3:].replace("_", " ") for path in course.notebooks() if int(path.name[:2]) == number
    )
    parts = [f"<h2>Lesson {number}: {title}</h2>"]
    handed_in = sum(any(lesson == number for lesson, _ in row.verdicts) for row in found)
    parts.append(f"<p>{handed_in} of {_count(len(found), 'student')} handed it in.</p>")
    table, wrong = [], []
    for name in notebook.asked(number):
        states = Counter(row.verdicts[number, name].state for row in found if (number, name) in row.verdicts)
        table.append((f"`{name}`", *(states[state] for state in MARK)))
        wrong += [(count, name, text) for count, text in mistakes(found, number, name)]
    wrong.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    if wrong:
        count, name, text = wrong[0]
        parts.append("<p>To say in the next lecture:</p>")
        parts.append(f"<blockquote><p>{as_html(f'`{name}`: {text}')}</p></blockquote>")
        parts.append(f'<p class="soft">The most frequent mistake: {_count(count, "student")}.</p>')
    parts.append(_table(("function", *MARK.values()), table))
    if wrong:
        parts.append("<h3>Which mistake how often</h3>")
        lines = [(f"`{name}`", count, text) for count, name, text in wrong]
        parts.append(_table(("function", "students", "what to say"), lines))
    return parts


def _students(about, found):
    table = []
    for row in found:
        points = []
        for number in about["lessons"]:
            states = [v.state for (lesson, _), v in row.verdicts.items() if lesson == number]
            points.append(f"{states.count(PASSED)} of {len(states)}" if states else "–")
        table.append((row.student, *points))
    return _table(("student", *(f"lesson {number}" for number in about["lessons"])), table)


def _table(head, lines):
    """An HTML table; columns of numbers stand to the right."""
    right = [bool(lines) and all(isinstance(cells[k], int) for cells in lines) for k in range(len(head))]

    def row(tag, cells):
        styles = [' class="n"' if is_right else "" for is_right in right]
        return "".join(
            f"<{tag}{style}>{as_html(cell)}</{tag.split()[0]}>"
            for cell, style in zip(cells, styles, strict=True)
        )

    body = "\n".join(f"<tr>{row('td', cells)}</tr>" for cells in lines)
    table = f"<table>\n<tr>{row('th scope=col', head)}</tr>\n{body}\n</table>"
    return f'<div class="wide" tabindex="0">{table}</div>'


def as_html(text):
    """Return text as HTML, what stands between backticks as code, and between stars stressed."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(text)))
    return re.sub(r"(?<![\w*])\*(\w+)\*(?![\w*])", r"<em>\1</em>", text)


def _count(number, noun):
    return f"{number} {noun}{'' if number == 1 else 's'}"
