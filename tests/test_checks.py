"""The lessons' checks: what they accept, what they refuse, and what they say."""

import inspect
import subprocess
import sys
import time

import numpy as np
import pytest
import right_answers

from tinyalex.lessons import checks, facts, mutants, variants

HOLES = mutants.holes()
RIGHT = {name: f for name, f in vars(right_answers).items() if "__" in name.strip("_")}
EACH_HOLE = pytest.mark.parametrize("name", HOLES)


def _instead(name, old, new):
    """The solution of a hole with another text at one place."""
    hole = HOLES[name]
    assert hole.source.count(old) == 1
    return checks.examine(hole, hole.compiled(hole.source.replace(old, new)))


# --- right answers


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_in_another_style_passes(name):
    assert checks.judge(HOLES[name.split("__")[0]], RIGHT[name]) == (checks.PASSED, "")


def test_there_are_three_other_styles_for_each_hole():
    assert all(sum(name.startswith(f"{hole}__") for name in RIGHT) >= 3 for hole in HOLES)


def test_a_list_of_results_is_as_good_as_a_tuple_and_a_list_of_numbers_no_array():
    hole = HOLES["relu_gain"]
    assert checks.judge(hole, lambda D, std: list(hole.solution(D, std)))[0] == checks.PASSED
    softmax = HOLES["softmax"]
    found = checks.judge(softmax, lambda z: softmax.solution(z).tolist())
    assert found[0] == checks.WRONG
    assert "found list" in found[1]


# --- wrong answers that once passed

_DROPOUT = "x * mask / keep if inverted else x * mask"
_IM2COL = "(H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1"
_CANVAS = "np.zeros((C, H + 2 * pad, W + 2 * pad, N))"
_VIEWS = "logits - logits.max(axis=1, keepdims=True)"
_POOL = "(H - z) // s + 1, (W - z) // s + 1"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("dropout", _DROPOUT, "x * mask / keep if inverted else x"),  # nothing is dropped
        ("softmax", "z - z.max(axis=0)", "z - z.min(axis=0)"),
        ("softmax", "z - z.max(axis=0)", "z - z[0]"),
        ("softmax", "z - z.max(axis=0)", "z - z.mean(axis=0)"),
        ("loss_and_gradient", "z - z.max(axis=0)", "z"),
        ("loss_and_gradient", "z - z.max(axis=0)", "z - z.max()"),
        ("loss_and_gradient", "z - z.max(axis=0)", "z - z.min(axis=0)"),
        ("ten_view_prediction", _VIEWS, "logits"),
        ("ten_view_prediction", _VIEWS, "logits - logits.max()"),
        ("ten_view_prediction", _VIEWS, "logits - logits.min(axis=1, keepdims=True)"),
        ("ten_view_prediction", _VIEWS, "logits + logits.max(axis=1, keepdims=True)"),
        ("col2im", _IM2COL, _IM2COL.replace("2 * pad - KH", "pad - KH")),
        ("col2im", _IM2COL, _IM2COL.replace("2 * pad - KW", "pad - KW")),
        ("col2im", _CANVAS, _CANVAS.replace("H + 2 * pad", "H + pad")),
        ("col2im", _CANVAS, _CANVAS.replace("W + 2 * pad", "W + pad")),
        ("col2im", _CANVAS, _CANVAS.replace("H + 2 * pad", "H + 2 * stride")),
        ("col2im", _CANVAS, _CANVAS.replace("W + 2 * pad", "W + 2")),
        ("max_pool", _POOL, "H // s, " + _POOL.split(", ")[1]),
        ("give_to_winners", "o * s + z].argmax()", "o * s + z + 1].argmax()"),
        ("give_to_winners", "x[o * s : o * s + z].argmax()", "x[o * s :].argmax()"),
        ("row_columns", "return cols, copied", "return cols.copy(), copied"),  # what it says is not so
        ("centred", "pixels.mean(", "np.median(pixels, "),  # of two pictures they are one
        ("nearest", "np.argsort(squares,", "np.argpartition(squares, k - 1,"),  # in no order that is promised
        ("cut", "window[:, :, ::-1]", "image[:, y : y + crop, x + crop - 1 : x - 1 : -1]"),  # at x = 0 empty
        (
            "max_pool_backward",
            "divmod(window.argmax(), z)",
            "window.max(axis=1).argmax(), window.max(axis=0).argmax()",  # of two that tie it may meet neither
        ),
    ],
)
def test_what_once_passed_is_refused(name, old, new):
    found = _instead(name, old, new)
    assert found.state == checks.WRONG
    assert found.how not in mutants.PLAIN


def test_an_answer_that_writes_nothing_does_not_pass_by_what_memory_held_before():
    name = "max_pool"
    assert checks.judge(HOLES[name], HOLES[name].solution)[0] == checks.PASSED  # leaves right numbers behind
    for _ in range(3):
        found = _instead(
            name, "y[:, i, j] = x[:, i * s : i * s + z, j * s : j * s + z].max(axis=(1, 2))", "pass"
        )
        assert found.state == checks.WRONG


# --- cases


def _same(one, other):
    return repr(one) == repr(other)


@EACH_HOLE
def test_cases_are_drawn_a_handful_and_distinct(name):
    hole = HOLES[name]
    cases = hole.cases(np.random.default_rng(1))
    assert 2 <= len(cases) <= 9
    assert not any(_same(a, b) for k, a in enumerate(cases) for b in cases[:k])
    others = hole.cases(np.random.default_rng(2))
    assert len(others) == len(cases)
    assert not all(map(_same, cases, others))
    assert all(map(_same, cases, hole.cases(np.random.default_rng(1))))


@EACH_HOLE
def test_other_draws_tell_right_from_wrong_as_well(name):
    hole = HOLES[name]
    for seed in range(4):
        cases = hole.cases(np.random.default_rng(seed))
        for mistake, _ in hole.mistakes():
            with np.errstate(all="ignore"):
                assert any(_differ(hole, mistake, args) for args in cases)


def _differ(hole, mistake, args):
    try:
        found = mistake(*facts.copies(args))
    except Exception:
        return True
    wrong = checks._difference(found, hole.solution(*facts.copies(args)), hole.results)
    return bool(wrong) or (hole.view and not np.shares_memory(found[0], args[0]))


@EACH_HOLE
def test_a_verdict_is_quick(name):
    hole = HOLES[name]
    again = hole.compiled(hole.source)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        checks.judge(hole, again)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05


@pytest.mark.parametrize("name", ["conv_loops", "im2col", "col2im", "max_pool"])
def test_sizes_are_all_different_and_a_batch_of_one_is_among_them(name):
    hole, batches = HOLES[name], set()
    for args in hole.cases(np.random.default_rng(3)):
        C, H, W, N = args[1] if name == "col2im" else args[0].shape
        kernel = {"conv_loops": lambda a: a[1].shape[2:], "max_pool": lambda a: ()}.get(
            name, lambda a: a[2:4] if name == "col2im" else a[1:3]
        )(args)
        assert H != W
        assert len({C, H, W}) == 3
        assert len(set(kernel)) == len(kernel)
        batches.add(N)
    assert 1 in batches
    assert len(batches) > 1


# --- what is said


@pytest.mark.parametrize(
    ("name", "old", "new", "texts"),
    [
        # numbers
        (
            "lrn_backward",
            "ratio[windows].sum(axis=0)",
            "ratio[windows][:1].sum(axis=0)",
            ["dx", "depends on channel"],
        ),
        (
            "conv_loops",
            "(w[f] * window)",
            "(w[f] * np.abs(window))",
            ["depends on b as it should, and not so on x, w"],
        ),
        (
            "max_pool",
            "j * s : j * s + z].max",
            "j * s : j * s + 1].max",
            ["depends on column", "it should depend on"],
        ),
        ("sgd_step", "- rate * grad", "- 0 * grad", ["grad has no effect"]),
        (
            "centred",
            "mean(axis=3, keepdims=True)",
            "mean()",
            ["it should depend on channel 0 of images"],
        ),
        ("centred", "astype(np.float32)", "astype(np.float32) / 255", ["everything is 1/255 times as large"]),
        (
            "dropout",
            "mask / keep",
            "mask / (1 - keep)",
            ["everything is keep/(1 − keep) times"],
        ),
        (
            "dropout",
            "    if train:\n",
            "    if train:\n        mask = np.random.random(x.shape) < keep\n",
            ["called twice with the same arguments it gives other numbers"],
        ),
        (
            "dropout_backward",
            "dy * mask / keep if inverted else dy * mask",
            "2 * dy * mask / keep if inverted else dy * mask",
            [
                "dx: everything is 2 times as large",
                "In the cases tried it is wrong only where inverted is True.",
            ],
        ),
        ("three_products", "cols.T)", "cols.T / g.shape[1])", ["dw: everything is 1/(OH·OW·N) times"]),
        ("max_pool_bytes", "4 * math.prod(x_shape)", "36 * math.prod(x_shape)", ["it moves 9 times as far"]),
        (
            "bias_relu",
            "blockIdx.x * blockDim.x + threadIdx.x",
            "blockIdx * blockDim + threadIdx",
            ["along x it is .x"],
        ),
        ("tanh_backward", "1 - y**2", "2 - y**2", ["where y is 0 everywhere, it must be dy itself"]),
        ("count", "weights + F", "weights - F", ["2·F too little"]),
        (
            "four_products",
            "m1 - m2 + m3",
            "m1 - m2 + 2 * m3",
            ["6 of 12 numbers are right; wrong are those in index 1 on axis 0."],
        ),
        ("softmax", "e / e.sum(axis=0)", "(e / e.sum(axis=0))[::-1]", ["flipped along axis 0"]),
        (
            "to_batch",
            "pictures[n].transpose(2, 0, 1)",
            "pictures[n].transpose(2, 0, 1)[:, :, ::-1]",
            ["flipped"],
        ),
        ("reduce_scatter", "dy.sum(axis=0)", "np.roll(dy.sum(axis=0), 1, axis=0)", ["dx"]),
        ("nearest", "order[:k]", "order[-k:]", ["depends on"]),
        (
            "three_products",
            "g.sum(axis=1)",
            "g.sum(axis=1, keepdims=True) + 1",
            ["db: ", "axis 1 is too many"],
        ),
        # errors
        (
            "conv_loops",
            "x[:, i * stride : i * stride + KH, j * stride : j * stride + KW, n]",
            "x[:, j * stride : j * stride + KW, i * stride : i * stride + KH, n]",
            [
                "`w[f]` is (4, 5, 3), `window` is (4, 3, 5)",
                "rows and columns",
                "in the book's solution it is (4, 5, 3)",
            ],
        ),
        ("conv_loops", "i * stride + KH,", "i * stride + KH - 1,", ["one too few", "along axis 1"]),
        (
            "conv_loops",
            "x[:, i * stride : i * stride + KH, j * stride : j * stride + KW, n]",
            "x[n, :, i * stride : i * stride + KH, j * stride : j * stride + KW]",
            ["`window` is (12, 5, 2)", "(4, 5, 3)"],
        ),
        (
            "linear_gradients",
            "dz @ x.T",
            "dz @ x",
            ["`dz` is", "`x` is", "as long as the first of the right"],
        ),
        ("softmax", "z.max(axis=0)", "z.maximum(axis=0)", ["did you mean `.max`", "in: e = np.exp"]),
        ("output_size", "size + 2", "sise + 2", ["did you mean `size`"]),
        ("on_two_ranks", "launch(program", "lanch(program", ["no `lanch`"]),
        ("add_back", "    dx = np.zeros(W)\n", "", ["the line that makes it is missing"]),
        ("im2col", "(H - KH) // stride", "(H - KH) / stride", ["`//` does not", "`OH` is the number"]),
        ("centred", "axis=3, keepdims=True", "axis=3", ["Was axis 3 summed away?  keepdims=True keeps it."]),
        ("max_pool_bytes", "math.prod(x_shape)", "math.sqrt(np.ones(2))", ["np.exp takes an array"]),
        (
            "covariance",
            "x = x - x.mean(axis=1, keepdims=True)",
            "x -= x.mean(axis=1, keepdims=True)",
            ["x = x - … makes a new array"],
        ),
        ("tanh_backward", "y**2", "y^2", ["a power is written **"]),
        ("give_to_winners", "].argmax()", "].max()", ["`winner` is the number", "argmax its place"]),
        (
            "max_pool_backward",
            "divmod(window.argmax(), z)",
            "window.argmax()",
            ["and one number on the right"],
        ),
        ("slopes", "dy * (forward(x + h * u)", "dy @ (forward(x + h * u)", ["(a * b).sum()"]),
        ("on_two_ranks", "comm.all_gather(h)", "all_gather(h)", ["a rank asks comm"]),
        ("hybrid", "reduce_scatter(partial, axis=1)", "reduce_scatter(partial)", ["axis=1 joins, adds up"]),
        # results of another kind
        (
            "dropout_backward",
            "dy * mask / keep if inverted else dy * mask",
            "(dy / keep if inverted else dy)[mask]",
            ["a[mask] picks numbers out"],
        ),
        (
            "dropout",
            "x if inverted else x * keep",
            "x if inverted else None",
            ["it returns nothing: mask None, keep 0.8, train False, inverted False"],
        ),
        (
            "centred",
            "return x, mean",
            "return x",
            ["expected 2 values, x, mean; found 1, an array (5, 3, 6, 4)."],
        ),
        ("col2im_row", "p, j = p + stride, j - 1", "j = j - 1", ["the loop never ends"]),
    ],
)
def test_what_is_said_of_a_wrong_answer(name, old, new, texts):
    hole = HOLES[name]
    assert hole.source.count(old) == 1
    variant = variants.Variant("", "", hole.source.replace(old, new))
    found = mutants.verdict(hole, variant)  # not compared with variants of the solution
    assert found.state == checks.WRONG
    assert found.how not in mutants.PLAIN
    for text in texts:
        assert text in found.message, found.message


@pytest.mark.parametrize(
    ("name", "old", "new", "text"),
    [
        # true in one case, where there is little to see, and not in others
        ("softmax", "e.sum(axis=0)", "(2 * e).sum(axis=1, keepdims=True)", "no effect"),  # of one picture
        ("give_to_winners", "+= dy[o]", "+= dy[o] * x[winner]", "no effect"),  # where the winners are 0
        ("lrn", "x[first:last] ** 2", "x[range(i - 1, i - 1 + min(n, C))] ** 2", "must not depend on n"),
        # of a single number, which is always a multiple of another
        (
            "output_size",
            "(size + 2 * pad - kernel) // stride",
            "round((size + 2 * pad - kernel) / stride)",
            "times",
        ),
        ("tanh_backward", "1 - y**2", "(1 - y) ** 2", "times as far"),
        ("loss_and_gradient", "(onehot * log_p)", "(p * log_p)", "times as far"),
        # of factors that differ two that are alike
        (
            "dropout",
            "x * mask / keep if inverted else x * mask",
            "2 * x * mask / (1 + inverted * keep)",
            "2 and 2",
        ),
        # by chance somewhere
        ("softmax", "np.exp(z - ", "2 ** (z - ", "wrong are those in"),
        ("kernel_pictures", "127.5 + 127.5 * w", "128 + 127 * w", "So with 1 of"),
        # what comes in is bytes
        ("centred", "pixels - mean", "images - mean.astype(float)", "What comes in as float32"),
    ],
)
def test_what_is_not_said_of_a_wrong_answer(name, old, new, text):
    found = _instead(name, old, new)
    assert found.state == checks.WRONG
    assert text not in found.message, found.message


def test_all_that_sets_the_right_cases_apart_is_named():
    pieces = (
        ("i * stride : i * stride + KH", "i : i + KH * stride : stride"),
        ("j * stride : j * stride + KW", "j : j + KW * stride : stride"),
    )
    source = HOLES["conv_loops"].source
    for old, new in pieces:
        source = source.replace(old, new)
    found = checks.judge(HOLES["conv_loops"], HOLES["conv_loops"].compiled(source))
    assert "it is right only where N is 1 and stride is 1." in found[1]


def test_a_name_of_a_cell_that_was_not_run():
    found = checks.judge(HOLES["softmax"], eval("lambda z: np.exp(z)", {}))
    assert found[0] == checks.WRONG
    assert "`np` comes from a cell further up: run the cells above this one first." in found[1]


def test_a_variant_of_the_solution_is_told_by_the_line_that_it_is_in():
    found = checks.examine(HOLES["lrn"], lambda x, n, k, alpha, beta: _lrn_of_cubes(x, n, k, alpha, beta))
    assert "if, in the line that makes `s[i]`, 2 is 3." in found.message


def _lrn_of_cubes(x, n, k, alpha, beta):
    total = np.full_like(x, k)
    for i in range(len(x)):
        total[i] += alpha * (x[max(0, i - n // 2) : i + n // 2 + 1] ** 3).sum(axis=0)
    return x / total**beta, total


def test_a_mistake_is_told_only_if_it_gives_the_numbers_of_every_case():
    # pad for 2·pad and one too few: with pad 1 and stride 1 the numbers are the same
    found = _instead("output_size", "size + 2 * pad - kernel", "size + pad - kernel")
    assert found.message == "the padding is on both sides: 2·pad."


def test_a_mistake_is_told_where_only_one_of_several_results_is_its():
    found = _instead(
        "three_products", "dcols = w.reshape(len(w), -1).T @ g", "dcols = 3 * w.reshape(len(w), -1).T @ g"
    )
    assert found.how == "fact"
    assert found.message.startswith("dcols: everything is 3 times as large")
    source = (
        HOLES["three_products"]
        .source.replace("g.sum(axis=1)", "g.mean(axis=1)")
        .replace(".T @ g", ".T @ (g + 1)")
    )
    found = checks.judge(HOLES["three_products"], HOLES["three_products"].compiled(source))
    assert found[1].startswith("db is a mean")


def test_axes_are_read_from_the_docstring():
    assert facts.axes_of(HOLES["conv_loops"])["y"] == ("F", "OH", "OW", "N")
    assert facts.axes_of(HOLES["three_products"])["cols"] == ("C·KH·KW", "OH·OW·N")
    assert facts.axes_of(HOLES["nearest"])["the result"] == ("k", "N")


# --- variants and the mutation test


def test_variants_are_distinct_functions_of_the_same_name():
    hole = HOLES["col2im"]
    found = list(variants.variants(hole.source, ["dcols"], ["float32"]))
    assert len({v.source for v in found}) == len(found) > 200
    whats = {v.what for v in found}
    for what in (
        "`=` stands for `+=`",
        "2 is 3",
        "`dcols` is written into at the end",
        "the result is float32",
    ):
        assert what in whats
    assert all(hole.name in v.source for v in found)


def test_a_sample_of_the_mutants_is_refused_and_explained():
    rows = [mutants.row(name, share=0.04) for name in HOLES]
    assert sum(r.mutants for r in rows) > 90
    for r in rows:
        assert set(r.survivors) <= mutants.EQUIVALENT.get(r.name, {}).keys()
    assert sum(r.explained for r in rows) >= 0.9 * sum(r.rejected for r in rows)


def test_the_command_fails_for_a_survivor_that_is_not_listed(monkeypatch, capsys):
    assert mutants.main(["relu_backward"]) == 0
    monkeypatch.delitem(mutants.EQUIVALENT, "three_products")
    assert mutants.main(["three_products"]) == 1
    assert "survives: g: 1 is 2" in capsys.readouterr().out
    monkeypatch.setitem(mutants.EQUIVALENT, "relu_backward", {("dx", "nothing"): "never there"})
    assert mutants.main(["relu_backward"]) == 1
    assert "does not survive: dx: nothing" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such hole"):
        mutants.main(["colour"])


def test_equivalents_have_reasons():
    assert all(len(reason) > 15 for listed in mutants.EQUIVALENT.values() for reason in listed.values())
    assert set(mutants.EQUIVALENT) <= set(HOLES)


# --- imports


def test_a_check_needs_neither_matplotlib_nor_ipython_nor_an_installation():
    code = """
import sys
for name in ("matplotlib", "IPython", "ipywidgets", "rich", "typer", "PIL"):
    sys.modules[name] = None
from tinyalex.lessons import checks, lesson
for number in checks.LESSONS:
    for name, hole in checks.holes_of(number).items():
        if name != "on_two_ranks":  # the BLAS threads of its ranks need threadpoolctl
            assert checks.judge(hole, hole.solution)[0] == checks.PASSED, name
lesson(5).hint("add_back")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "hint 1 of 3" in done.stdout


def test_every_way_of_telling_is_listed():
    assert {*mutants.PLAIN} < set(checks.HOW)
    source = inspect.getsource(checks)
    assert all(f'"{how}"' in source for how in checks.HOW)
