"""The array tutor: its pictures, its traces, the line where it stops; and the exercises that kill mutants."""

import re
import sys
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from tinyalex.lessons import checks, kill, lesson, paint, pointing, steps, trace, tutor

HOLES = {name: hole for number in checks.LESSONS for name, hole in checks.holes_of(number).items()}
EXERCISES = [e for number in checks.LESSONS for e in kill.exercises_of(number).values()]


def _svgs(html):
    return [
        ET.fromstring(text) for text in re.findall(r"<svg role.*?</svg>(?=<div|</figure)", html, re.DOTALL)
    ]


def test_a_picture_of_an_array_is_rectangles_and_text_that_can_be_read_aloud():
    values = np.array([[1.0, -2, np.nan], [0, 4, 0.5]])
    changed = np.array([[0, 1, 0], [0, 0, 0]], bool)
    html = paint.array(values, "x <y>", changed=changed, other=changed).frame(0, 1, 2, 2, 1).html()
    (svg,) = _svgs(html)
    assert svg.get("role") == "img"
    assert svg.find("title").text == "x <y> (2×3)"
    description = svg.find("desc").text
    assert "1, -2, ; 0, 4, 0.5" in description
    assert "Framed: rows 0 to 1, columns 1 to 2." in description
    assert "changed: row 0, column 1." in description
    assert [text.text for text in svg.findall("text")] == ["1", "-2", "0", "4", "0.5"]
    shades = [
        (r.get("class"), float(r.get("fill-opacity"))) for r in svg.findall("rect") if r.get("fill-opacity")
    ]
    assert shades == [("p", 0.25), ("n", 0.5), ("p", 1.0), ("p", 0.12)]  # of the largest; 0 and nan have none
    assert {rect.get("class") for rect in svg.findall("rect")} >= {"f i0", "f i1"}


def test_inks_differ_by_more_than_their_colours():
    dashes = [ink[2] for ink in paint.INKS]
    assert len(set(dashes)) == len(dashes)
    assert "prefers-color-scheme:dark" in paint.STYLE
    assert "data-jp-theme-light=false" in paint.STYLE


def test_a_plot_and_a_picture_are_whole_svg():
    plot = (
        paint.plot("loss", (0, 9), (0, 1), "step", "L").line([0, 9], [1, 0], 1, "plain").dots([3], [0.5], 2)
    )
    bars = paint.plot("p", (0, 2), (0, 1)).bars([0.2, 0.8], [0, 1], ["a", "b"], "{:.1f}")
    picture = paint.picture(np.zeros((3, 4, 5), np.uint8), "black").frame(0, 0, 2, 2)
    for panel in (plot, bars, picture):
        (svg,) = _svgs(panel.html())
        assert svg.find("title").text
    assert "plain" in plot.html()


def test_the_steps_are_all_there_with_buttons_and_a_slider():
    html = steps.strip(["<p>one</p>", "<p>two</p>"])
    assert html.count("<section") == 2
    for name in ("previous step", "next step", "play the steps", "step"):
        assert f'aria-label="{name}"' in html
    assert html.count('data-lm-suppress-shortcuts="true"') == 5  # buttons, slider and strip have their keys


def _wrong(name, old, new):
    hole = HOLES[name]
    assert old in hole.source
    return hole, trace.compiled(hole, hole.source.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "line"),
    [
        ("add_back", "+=", "=", 6),
        ("col2im", "dx[:, pad : pad + H, pad : pad + W]", "dx", 10),
        ("three_products", "g.sum(axis=1)", "g.mean(axis=1)", 5),
        ("conv_loops", "i * stride : i * stride", "i : i", 7),
        ("max_pool", ".max(", ".min(", 8),
    ],
)
def test_it_stops_at_the_line_that_departs(name, old, new, line):
    hole, function = _wrong(name, old, new)
    assert tutor.marked(hole, function) == line
    html = tutor.explain(hole, function)
    assert f"<b>line {line}</b>" in html
    assert "a right answer there" in html or "has the shape" in html


OTHERS = {  # other names, another order of loops, another way: each with one line that is wrong
    """def add_back(dcols, W, stride):
    gradient = np.zeros(W)
    for p in range(len(dcols)):
        for o in range(dcols.shape[1]):
            gradient[o * stride + p] = dcols[p, o]
    return gradient""": 5,
    """def three_products(dy, cols, w):
    flat = dy.reshape(len(w), -1)
    bias = flat.sum(axis=1)
    grad_w = np.einsum("fm,km->fk", flat, cols).reshape(w.shape) / 2
    grad_cols = w.reshape(len(w), -1).T @ flat
    return grad_w, bias, grad_cols""": 4,
    """def col2im(dcols, x_shape, KH, KW, stride, pad):
    C, H, W, N = x_shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    dcols = dcols.reshape(C, KH, KW, OH, OW, N)
    dx = np.zeros((C, H + 2 * pad, W + 2 * pad, N))
    for q in range(KW):
        for p in range(KH):
            dx[:, p : p + OH * stride : stride, q : q + OW * stride : stride] += dcols[:, p, q]
    dx = dx[:, :H, :W]
    return dx""": 9,
}  # fmt: skip


@pytest.mark.parametrize(("text", "line"), OTHERS.items(), ids=["add_back", "three_products", "col2im"])
def test_arrays_are_compared_by_meaning_not_by_name_or_order(text, line):
    hole = HOLES[re.match(r"def (\w+)", text)[1]]
    function = trace.compiled(hole, text)
    assert tutor.marked(hole, function) == line


def test_all_statements_of_a_line_set_their_names():
    assert trace.stores("a = 1; b[0], c = d\nfor e in f: a += 1") == {1: ("a", "b", "c"), 2: ("e", "a")}


def test_a_right_answer_has_no_line_that_departs():
    for name in ("add_back", "col2im", "lrn_backward", "on_two_ranks"):
        hole = HOLES[name]
        assert tutor.marked(hole, trace.compiled(hole, hole.source)) is None
        assert "It gets this case right." in tutor.explain(hole, trace.compiled(hole, hole.source))


def test_what_raises_is_marked_where_it_raises():
    hole, function = _wrong("conv_loops", "(w[f] * window)", "(w[f] @ window.missing)")
    assert tutor.marked(hole, function) == 8
    assert "raises AttributeError" in tutor.explain(hole, function)


def test_the_trace_leaves_no_tracer_and_no_other_empty_behind():
    before, empty = sys.gettrace(), np.empty
    hole, function = _wrong("add_back", "+=", "/ 0 +")
    trace.run(function, hole.cases(np.random.default_rng(0))[0])
    assert sys.gettrace() is before
    assert np.empty is empty


def test_the_mark_is_right_for_nine_of_ten_mutants():
    wrong, missed = 0, []
    for name in ("col2im", "max_pool_backward", "sgd_step", "bias_relu"):
        for text in (HOLES[name].source, pointing.disguised(HOLES[name].source)):
            count, bad = pointing.score(HOLES[name], text, every=7)
            wrong, missed = wrong + count, missed + bad
    assert wrong > 30
    assert len(missed) <= (1 - pointing.WANTED) * wrong, missed


def test_200_steps_are_painted_in_a_tenth_of_a_second():
    def walk(x):
        y = np.zeros(x.shape)
        for i in range(12):
            for j in range(8):
                y[i % 3, j % 4] += x[i % 3, j % 4]
        return y

    hole = checks.hole(cases=lambda rng: [(rng.standard_normal((3, 4)),)], hints=[], wrong=[])(walk).hole
    times = []
    for _ in range(5):
        start = time.process_time()
        html = tutor.explain(hole, walk)
        times.append(time.process_time() - start)
    assert html.count("<section") == tutor.MOST_FRAMES == 200
    assert min(times) < 0.1, times


def test_it_is_called_by_name_after_a_wrong_answer(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda html: shown.append(html.data))
    check, _, _, show = lesson(5)
    _, function = _wrong("add_back", "+=", "=")
    assert check(function) is HOLES["add_back"].solution
    assert 'tutor("add_back")' in capsys.readouterr().out
    show("add_back")
    assert "<b>line 6</b>" in shown[0]
    with pytest.raises(ValueError, match="found expose_overwriting"):
        show("expose_overwriting")


@pytest.mark.parametrize("exercise", EXERCISES, ids=[e.name for e in EXERCISES])
def test_an_exercise_is_passed_by_what_kills_and_spares_and_by_nothing_else(exercise):
    assert checks.judge(exercise, exercise.compiled(exercise.source)) == (checks.PASSED, "")
    for answer, message in exercise.mistakes():
        assert checks.judge(exercise, answer) == (checks.WRONG, message)


def test_there_are_ten_exercises_in_eight_lessons():
    assert len(EXERCISES) >= 10
    assert {exercise.lesson for exercise in EXERCISES} == {3, 4, 5, 7, 8, 9, 10, 12}


@pytest.mark.parametrize(("text", "line"), [(kill.THREE, 5), (kill.LRN, 6)], ids=["products", "lrn"])
def test_of_the_five_suspects_four_agree(text, line):
    rng = np.random.default_rng(0)
    if text is kill.THREE:
        args = (
            rng.standard_normal((4, 2, 3, 5)),
            rng.standard_normal((6, 30)),
            rng.standard_normal((4, 3, 2, 1)),
        )
    else:
        x = rng.standard_normal((7, 2, 3, 2))
        args = rng.standard_normal(x.shape), x, HOLES["lrn"].solution(x, 5, 2.0, 0.9, 0.75)[1], 5, 0.9, 0.75
    right = HOLES["three_products" if text is kill.THREE else "lrn_backward"].solution(*args)
    agree = [kill._same(kill._flat(f(*args)), kill._flat(right)) for f in kill.suspects(text)]
    assert agree == [True, True, True, False, True]


@pytest.mark.parametrize(
    ("answer", "state", "text"),
    [
        (lambda: None, checks.NOT_YET, "returns nothing"),
        (lambda: (1, 2), checks.WRONG, "expected a tuple of 3 arguments, found 2 of them"),
        (lambda: (np.ones((3, 9)), 5, 2), checks.WRONG, "the right function cannot take it"),
        (lambda: (np.full((3, 2), np.inf), 5, 2), checks.WRONG, "NaN or an infinity"),
    ],
)
def test_a_case_must_spare_the_right_ones(answer, state, text):
    found, message = checks.judge(kill.exercises_of(5)["expose_overwriting"], answer)
    assert found == state
    assert text in message


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("expose_forgotten_dy", lambda: [[1, 2, 3], [3, 2, 1]]),  # lists
        ("expose_forgotten_sum", lambda: (np.ones((6, 1, 1, 1), int), np.ones((6, 1, 1, 1), int), 1)),
        ("expose_minus_pad", lambda: (np.ones((9, 1)), [1, 3, 3, 1], 3, 3, 1, 0)),
        ("which_of_five_products", lambda: list(kill.which_of_five_products())),
        ("which_of_five_products", lambda: np.array(kill.which_of_five_products())),
    ],
)
def test_lists_and_whole_numbers_are_as_good_as_arrays_of_floats(name, answer):
    exercise = next(e for e in EXERCISES if e.name == name)
    assert exercise.judge(answer) == (checks.PASSED, "")


@pytest.mark.parametrize(
    ("name", "answer", "text"),
    [
        ("expose_overwriting", lambda: ([[1, 2], [3]], 4, 1), "rows are of different lengths"),
        ("which_of_five_lrn", lambda: (5, 1), "counted from 0 to 4; found 5"),
        ("mixed_up", lambda dropout: np.array([True, False]), "it returns 2 numbers: one True or False"),
    ],
)
def test_what_is_no_case_and_no_verdict_is_told_so(name, answer, text):
    exercise = next(e for e in EXERCISES if e.name == name)
    state, message = exercise.judge(answer)
    assert (state, text in message) == (checks.WRONG, True)


def test_a_tie_on_which_two_right_ones_differ_is_no_case():
    tie = lambda: (np.array([2.0, 3]), np.array([9.0, 9, 9, 1, 1]), 3, 2)  # noqa: E731
    found, message = checks.judge(kill.exercises_of(7)["expose_shared_winner"], tie)
    assert (found, "is there a tie?" in message) == (checks.WRONG, True)
