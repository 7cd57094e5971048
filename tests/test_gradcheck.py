"""The gradient checker: every operation passes it, wrong gradients do not, and right ones always do."""

import doctest
import io
import re

import numpy as np
import pytest
from rich.console import Console

from tinyalex import gradcheck, ops
from tinyalex.errors import ArgumentError
from tinyalex.gradcheck import GradientError, check, check_layer
from tinyalex.measure import gradtable
from tinyalex.measure.gradtable import print_table
from tinyalex.nn import Conv2d, Linear, MaxPool, Sequential
from tinyalex.ops import (
    batch_norm_backward,
    batch_norm_forward,
    conv2d_backward,
    conv2d_forward,
    local2d_backward,
    local2d_forward,
    lrn,
    lrn_backward,
    lrn_forward,
    max_pool_backward,
    max_pool_forward,
    plain_ops,
    pool,
    relu,
    relu_forward,
    strips,
    winograd,
)
from tinyalex.ops.cases import CASES, Case, spread
from tinyalex.ops.later import batch_norm

BY_NAME = {case.title: case for case in CASES}
ROWS = list(gradtable.run(seed=0))
SEEDS = range(5)


# ---- every operation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.operation}: {row.variable}")
def test_gradient_agrees_with_slope(row):
    assert not row.failure
    assert row.error <= row.tolerance <= 1e-6


def test_table_holds_every_operation_and_variable():
    assert {case.name for case in CASES} == {
        name.removesuffix("_forward") for name in ops.__all__ if name.endswith("_forward")
    }
    assert {row.operation for row in ROWS} == BY_NAME.keys()
    assert {row.variable for row in ROWS if row.operation == "conv2d, groups 2"} == {"x", "w", "b"}
    assert {row.variable for row in ROWS if row.operation == "softmax loss"} == {"logits"}


@pytest.fixture
def few_looked_at(monkeypatch):
    """Of the elements that are tried in order to name the worst, which takes most of the time, a few."""
    monkeypatch.setattr(gradcheck, "SAMPLE", 5)


@pytest.mark.usefixtures("few_looked_at")
def test_table_holds_every_kernel_of_minimal_filtering(monkeypatch):
    """Where its backward is wrong, the weights' gradient fails in these rows and in no others."""
    right = winograd.convolve_backward
    monkeypatch.setattr(winograd, "convolve_backward", lambda *args: 1.01 * right(*args))
    wrong = [(row.operation, row.variable) for row in gradtable.run(seed=0) if row.failure]
    assert wrong == [(f"conv2d {k}×{k}, minimal filtering", "w") for k in winograd.POINTS]


def test_gradients_of_the_plain_operations_agree():
    with plain_ops():
        rows = list(gradtable.run(seed=0))
    assert [row.failure for row in rows if row.failure] == []
    assert [row.error for row in rows] != [row.error for row in ROWS]  # they were others


def test_gradients_agree_when_the_work_is_cut_into_the_smallest_blocks(monkeypatch):
    for module in (strips, lrn, pool, batch_norm):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    assert [row.failure for row in gradtable.run(seed=1) if row.failure] == []


def test_same_seed_gives_the_same_table():
    assert list(gradtable.run(seed=0)) == ROWS
    assert [row.error for row in gradtable.run(seed=1)] != [row.error for row in ROWS]


def print_to_text(rows):
    console = Console(file=io.StringIO(), width=80)
    code = print_table(rows, console)
    return code, console.file.getvalue()


def test_print_table_returns_0_when_all_pass():
    code, text = print_to_text(ROWS)
    assert code == 0
    assert f"{len(ROWS)} of {len(ROWS)} gradients agree" in text
    assert "FAIL" not in text


def test_print_table_returns_1_and_says_what_failed(monkeypatch):
    class Wrong(Case):
        def backward(self, dy, cache):
            return (dy,)

    monkeypatch.setattr(gradtable, "CASES", [BY_NAME["tanh"], Wrong(*BY_NAME["relu"])])
    code, text = print_to_text(gradtable.run(seed=0))
    assert code == 1
    assert "FAIL" in text
    assert "1 of 2 gradients agree" in text
    assert "relu: x: relative error" in " ".join(text.split())


# ---- wrong gradients are rejected ----------------------------------------------------------------------
# Each function returns a wrong answer for the named case.  v: the inputs by name; right(dy): the right
# gradients by name, for any upstream gradient.

WRONG = []


def wrong(operation):
    def register(function):
        WRONG.append(pytest.param(operation, function, id=f"{function.__name__} ({operation})"))
        return function

    return register


def as_variables(operation, backward):
    """Return forward and backward for `check`, with a wrong backward in place of the case's own."""
    case = BY_NAME[operation]

    def forward(**v):
        y, cache = case.forward(**v)
        return y, (v, cache)

    def changed(dy, cache):
        v, own = cache

        def right(dy):
            return dict(zip(v, case.backward(dy, own), strict=False))

        return backward(dy, v, right)

    return forward, changed


def inputs_of(operation, rng):
    return BY_NAME[operation].draw(rng)


@pytest.mark.usefixtures("few_looked_at")
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("operation", "backward"), WRONG)
def test_wrong_backward_is_rejected(operation, backward, seed):
    rng = np.random.default_rng(seed)
    forward, changed = as_variables(operation, backward)
    with pytest.raises(GradientError):
        check(forward, changed, inputs_of(operation, rng), rng=rng, linear=BY_NAME[operation].linear)


def test_a_right_backward_passes_through_the_same_harness():
    for operation in BY_NAME:
        rng = np.random.default_rng(0)
        forward, same = as_variables(operation, lambda dy, v, right: right(dy))
        check(forward, same, inputs_of(operation, rng), rng=rng, linear=BY_NAME[operation].linear)


PLAIN, STRIDED = "conv2d", "conv2d, stride 2, pad (1,2,0,1)"
OVERLAP, PARTIAL = "max pool 3×3, stride 2", "avg pool, partial windows"


@wrong(PLAIN)
@wrong("conv2d + relu")
@wrong("lrn, n 5")
@wrong("avg pool 3×3, stride 2")
def upstream_ignored(dy, v, right):
    return right(np.ones_like(dy))


@wrong(PLAIN)
@wrong("linear")
def upstream_averaged(dy, v, right):
    return right(np.full_like(dy, dy.mean()))


@wrong(PLAIN)
@wrong("relu")
def gradient_rolled(dy, v, right):
    return {name: np.roll(grad, 1, axis=0) for name, grad in right(dy).items()}


@wrong(PLAIN)
@wrong("conv2d, groups 2")
def kernel_flipped_in_dx(dy, v, right):
    w = v["w"][:, :, ::-1, ::-1]
    groups = v["x"].shape[0] // w.shape[1]
    _, cache = conv2d_forward(v["x"], w, v["b"], groups=groups)
    return {**right(dy), "x": conv2d_backward(dy, cache)[0]}


@wrong(PLAIN)
def kernel_flipped_in_dw(dy, v, right):
    return {"w": right(dy)["w"][:, :, ::-1, ::-1]}


@wrong(PLAIN)
def dw_off_by_a_thousandth(dy, v, right):
    return {"w": 1.001 * right(dy)["w"]}


@wrong(PLAIN)
def dw_not_divided_by_the_batch(dy, v, right):
    return {"w": right(dy)["w"] * dy.shape[-1]}


@wrong("lrn, n 5")
@wrong("tanh")
@wrong("conv2d + relu")
def off_by_a_hundred_thousandth(dy, v, right):
    return {"x": right(dy)["x"] * (1 + 1e-5)}


@wrong(PLAIN)
def one_element_of_dw_wrong(dy, v, right):
    dw = right(dy)["w"]
    dw[1, 2, 0, 1] *= 1.01
    return {"w": dw}


@wrong(PLAIN)
def db_averaged(dy, v, right):
    return {"b": dy.mean(axis=(1, 2, 3))}


@wrong(PLAIN)
def db_summed_over_the_wrong_axes(dy, v, right):
    F = dy.shape[0]  # F of the OH·OW·N sums of the filters: the right shape, the wrong sums
    return {"b": dy.sum(axis=0).ravel()[:F]}


@wrong(STRIDED)
def stride_ignored_in_col2im(dy, v, right):
    return {"x": scatter(dy, v["w"], v["x"].shape, 2, (1, 0), place_stride=1)}


@wrong(STRIDED)
def assigned_not_added_in_col2im(dy, v, right):
    return {"x": scatter(dy, v["w"], v["x"].shape, 2, (1, 0), add=False)}


def scatter(dy, w, shape, stride, before, place_stride=None, add=True):
    """Conv2d's dx as loops over (p, q): right unless told to place or to add wrongly."""
    C, H, W, N = shape
    _, OH, OW, _ = dy.shape
    step, (top, left) = place_stride or stride, before
    dx = np.zeros((C, H + 8, W + 8, N))  # more than any padding
    for p in range(w.shape[2]):
        for q in range(w.shape[3]):
            dcols = np.einsum("fc,fijn->cijn", w[:, :, p, q], dy)
            place = np.s_[:, p : p + OH * step : step, q : q + OW * step : step]
            dx[place] = dx[place] + dcols if add else dcols
    return dx[:, top : top + H, left : left + W]


@wrong("conv2d, groups 2")
def groups_mixed_up_in_dx(dy, v, right):
    dx = right(dy)["x"]
    return {"x": np.roll(dx, len(dx) // 2, axis=0)}


@wrong("conv2d, groups 2")
def groups_mixed_up_in_dw(dy, v, right):
    dw = right(dy)["w"]
    return {"w": np.roll(dw, len(dw) // 2, axis=0)}


@wrong("conv2d + relu")
def fused_relu_forgotten(dy, v, right):
    _, cache = conv2d_forward(v["x"], v["w"], v["b"])
    return dict(zip("xwb", conv2d_backward(dy, cache), strict=True))


LOCAL = "local2d, stride 2, pad (1,2,0,0)"


@wrong(LOCAL)
def weights_shared_over_the_places(dy, v, right):
    dw = right(dy)["w"]
    return {"w": np.broadcast_to(dw.sum(axis=(1, 2), keepdims=True), dw.shape)}


@wrong(LOCAL)
def a_place_takes_its_neighbours_weights_in_dx(dy, v, right):
    _, cache = local2d_forward(v["x"], np.roll(v["w"], 1, axis=2), v["b"], 2, (1, 2, 0, 0))
    return {"x": local2d_backward(dy, cache)[0]}


@wrong(LOCAL)
def rows_and_columns_of_places_exchanged_in_dw(dy, v, right):
    return {"w": right(dy)["w"].swapaxes(1, 2)}


@wrong(LOCAL)
def one_bias_for_a_filter(dy, v, right):
    db = right(dy)["b"]
    return {"b": np.broadcast_to(db.sum(axis=(1, 2), keepdims=True), db.shape)}


@wrong("linear")
def dw_with_rows_and_columns_exchanged(dy, v, right):
    dw = right(dy)["w"]
    return {"w": dw.T.reshape(dw.shape)}


@wrong(OVERLAP)
def assigned_not_added_where_windows_overlap(dy, v, right):
    return {"x": winners_take(dy, v["x"], add=False)}


@wrong("max pool, partial windows")
def partial_windows_forgotten(dy, v, right):
    dy = dy.copy()
    dy[:, -1] = 0
    return right(dy)


@wrong(OVERLAP)
def every_pixel_of_the_window_wins(dy, v, right):
    dx = np.zeros_like(v["x"])
    for i, j in np.ndindex(dy.shape[1:3]):
        dx[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += dy[:, i : i + 1, j : j + 1]
    return {"x": dx}


def winners_take(dy, x, add=True):
    """Backward of max pooling 3×3, stride 2, whole windows, distinct pixels: right if it adds."""
    dx = np.zeros_like(x)
    for i, j in np.ndindex(dy.shape[1:3]):
        place = np.s_[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        wins = x[place] == x[place].max(axis=(1, 2), keepdims=True)
        share = np.where(wins, dy[:, i : i + 1, j : j + 1], 0)
        dx[place] = dx[place] + share if add else np.where(wins, share, dx[place])
    return dx


@wrong(PARTIAL)
def partial_windows_divided_by_the_whole_window(dy, v, right):
    _, H, W, _ = v["x"].shape
    rows, columns = (
        np.array([min(3, size - 2 * i) for i in range(out)])
        for size, out in zip((H, W), dy.shape[1:3], strict=True)
    )
    return right(dy * rows[:, None, None] * columns[:, None] / 9)


@wrong("lrn, n 5")
def lrn_window_one_channel_short(dy, v, right):
    return {"x": lrn_backward(dy, lrn_forward(v["x"], n=4, alpha=1.0)[1])}


@wrong("lrn, n 4")
def lrn_window_not_mirrored_for_even_n(dy, v, right):
    flipped = {"x": lrn_backward(dy[::-1], lrn_forward(v["x"][::-1], n=4, alpha=1.0)[1])}
    return {"x": flipped["x"][::-1]}


def lrn_direct(dy, x, alpha=1.0):
    """LRN's gradient without the cross term: dy·s^−β, as y/x = s^−β."""
    return dy * (lrn_forward(x, alpha=alpha)[0] / x)


@wrong("lrn, n 5")
def lrn_cross_term_missing(dy, v, right):
    return {"x": lrn_direct(dy, v["x"])}


@wrong("lrn, n 5")
def lrn_factor_2_missing(dy, v, right):
    direct = lrn_direct(dy, v["x"])
    return {"x": direct + (right(dy)["x"] - direct) / 2}


def batch_norm_again(dy, v, change):
    """Batch normalization's gradients from a changed cache."""
    return dict(zip("xwb", batch_norm_backward(dy, change(batch_norm_forward(**v, eps=0.1)[1])), strict=True))


@wrong("batch norm")
@wrong("batch norm of features")
def batch_norm_statistics_taken_for_constants(dy, v, right):
    return batch_norm_again(dy, v, lambda cache: cache._replace(of_batch=False))


@wrong("batch norm")
def batch_norm_variance_taken_for_a_constant(dy, v, right):
    n = dy[0].size
    of_variance = batch_norm_forward(v["x"], *np.ones((2, 4)), eps=0.1)[0] - 1  # x̂
    grads = right(dy)
    s = np.sqrt(v["x"].var(axis=(1, 2, 3)) + 0.1)
    return {"x": grads["x"] + of_variance * (v["w"] * grads["w"] / s / n)[:, None, None, None]}


@wrong("batch norm")
def batch_norm_eps_left_out(dy, v, right):
    return batch_norm_again(dy, v, lambda cache: cache._replace(eps=0.0))


@wrong("batch norm")
def batch_norm_variance_divided_by_n_minus_1(dy, v, right):
    n = dy[0].size
    return batch_norm_again(dy, v, lambda cache: cache._replace(var=cache.var * n / (n - 1)))


@wrong("relu")
def relu_mask_inverted(dy, v, right):
    return {"x": dy * (v["x"] <= 0)}


@wrong("tanh")
def tanh_slope_from_x_not_y(dy, v, right):
    return {"x": dy * (1 - v["x"] ** 2)}


@wrong("dropout, inverted")
def dropout_scale_missing(dy, v, right):
    return {"x": dy * v["mask"]}


@wrong("softmax loss")
def softmax_loss_not_divided_by_n(dy, v, right):
    return {"logits": right(dy)["logits"] * len(v["labels"])}


# Contracts: what no slope can show.


@wrong(PLAIN)
def weight_decay_inside_the_gradient(dy, v, right):
    return {"w": right(dy)["w"] + 0.0005 * v["w"]}


@wrong("relu")
def dy_written_to(dy, v, right):
    dy *= v["x"] > 0
    return {"x": dy}


@wrong("relu")
def variable_written_to(dy, v, right):
    grad = right(dy)
    np.maximum(v["x"], 0, out=v["x"])
    return grad


@wrong(PLAIN)
def gradient_has_another_shape(dy, v, right):
    return {"b": right(dy)["b"][:, None]}


@wrong(PLAIN)
def gradient_has_another_dtype(dy, v, right):
    return {"w": right(dy)["w"].astype(np.float32)}


@wrong("relu")
def gradient_is_nan(dy, v, right):
    return {"x": right(dy)["x"] * np.nan}


@pytest.mark.parametrize(
    ("operation", "backward", "message"),
    [
        (PLAIN, upstream_ignored, "x: an upstream gradient of 0 gave a gradient that is not 0"),
        (
            PLAIN,
            weight_decay_inside_the_gradient,
            "w: an upstream gradient of 0 gave a gradient that is not 0",
        ),
        ("relu", dy_written_to, "forward or backward wrote to its argument dy"),
        ("relu", variable_written_to, "forward or backward wrote to its argument x"),
        (PLAIN, gradient_has_another_shape, "b: float64 (6,), but its gradient is float64 (6, 1)"),
        (
            PLAIN,
            gradient_has_another_dtype,
            "w: float64 (6, 4, 3, 2), but its gradient is float32 (6, 4, 3, 2)",
        ),
        ("relu", gradient_is_nan, "x: its gradient is not finite"),
    ],
)
def test_a_broken_contract_is_named(operation, backward, message):
    rng = np.random.default_rng(0)
    forward, changed = as_variables(operation, backward)
    with pytest.raises(GradientError) as raised:
        check(forward, changed, inputs_of(operation, rng), rng=rng)
    assert str(raised.value) == message


def test_a_backward_that_adds_to_its_last_answer_is_rejected():
    total = np.zeros(5)

    def backward(dy, y):
        total.__iadd__(dy * (y > 0))
        return {"x": total}

    rng = np.random.default_rng(0)
    with pytest.raises(GradientError, match="x: backward, called twice"):
        check(relu_forward, backward, {"x": spread(5)(rng)}, rng=rng)


@pytest.mark.parametrize("seed", SEEDS)
def test_height_and_width_exchanged_is_rejected_on_square_maps(seed):
    rng = np.random.default_rng(seed)
    v = {"x": rng.standard_normal((2, 6, 6, 3)), "w": rng.standard_normal((3, 2, 3, 3)), "b": np.zeros(3)}

    def exchanged(dy, cache):
        dx, dw, db = conv2d_backward(dy, cache)
        return {"x": dx.swapaxes(1, 2), "w": dw, "b": db}

    with pytest.raises(GradientError, match=r"^x: "):
        check(conv2d_forward, exchanged, v, rng=rng, linear="xwb")


def test_the_loops_that_wrong_answers_are_made_of_are_right_when_not_told_otherwise():
    rng = np.random.default_rng(0)
    v = inputs_of(STRIDED, rng)
    y, cache = BY_NAME[STRIDED].forward(**v)
    dy = rng.standard_normal(y.shape)
    np.testing.assert_allclose(scatter(dy, v["w"], v["x"].shape, 2, (1, 0)), conv2d_backward(dy, cache)[0])

    x = inputs_of(OVERLAP, rng)["x"]
    y, cache = max_pool_forward(x, 3, 2)
    dy = rng.standard_normal(y.shape)
    np.testing.assert_allclose(winners_take(dy, x), max_pool_backward(dy, cache))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_small_error_shows_in_a_gradient_that_is_small_beside_the_output(seed):
    rng = np.random.default_rng(seed)

    def forward(x):
        y = np.tanh(x)
        return 100 + y, y

    with pytest.raises(GradientError, match=r"^x: relative error"):
        check(forward, lambda dy, y: {"x": 1.00003 * dy * (1 - y * y)}, {"x": spread(50)(rng)}, rng=rng)


# ---- why the upstream gradient is random, and alpha is 1 -------------------------------------------------


@pytest.mark.parametrize(
    "disturb",
    [
        np.ones_like,
        lambda dy: np.roll(dy, 1, axis=1),
        lambda dy: dy[:, ::-1, ::-1],
        lambda dy: dy.swapaxes(1, 2),
    ],
    ids=["ignored", "rolled", "flipped", "height and width exchanged"],
)
def test_an_upstream_of_ones_is_blind(disturb):
    rng = np.random.default_rng(0)
    v = {"x": rng.standard_normal((2, 7, 7, 3)), "w": rng.standard_normal((4, 2, 3, 3)), "b": np.zeros(4)}

    def wrong_backward(dy, cache):
        return dict(zip("xwb", conv2d_backward(np.ascontiguousarray(disturb(dy)), cache), strict=True))

    y, cache = conv2d_forward(**v)
    grads = wrong_backward(np.ones_like(y), cache)
    for name in v:
        u = rng.standard_normal(v[name].shape)
        ahead, behind = (conv2d_forward(**{**v, name: v[name] + t * u})[0].sum() for t in (1, -1))
        assert (ahead - behind) / 2 == pytest.approx((grads[name] * u).sum(), rel=1e-9)  # "all is well"

    with pytest.raises(GradientError):
        check(conv2d_forward, wrong_backward, v, rng=rng, linear="xwb")


def lrn_without_cross_term(alpha):
    def forward(x):
        return lrn_forward(x, alpha=alpha)[0], x

    return forward, lambda dy, x: {"x": lrn_direct(dy, x, alpha)}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_wrong_lrn_passes_at_the_papers_alpha_and_not_at_1(seed):
    rng = np.random.default_rng(seed)
    x = 0.02 * spread(6, 3, 4, 2)(rng)  # activations of a network that has just been initialized
    check(*lrn_without_cross_term(1e-4), {"x": x}, rng=rng)
    with pytest.raises(GradientError):
        check(*lrn_without_cross_term(1.0), {"x": x}, rng=rng)


# ---- right gradients are never rejected ------------------------------------------------------------------


def relu_at(rng):
    x = rng.standard_normal(300)
    x[:100] = 0  # on the kink
    x[100:200] *= 1e-6  # closer to it than a step
    return relu_forward, lambda dy, y: {"x": dy * (y > 0)}, {"x": x}


def max_pool_at(rng):
    x = rng.integers(0, 3, (2, 7, 9, 2)).astype(float)  # ties everywhere
    forward = lambda x: max_pool_forward(x, 3, 2)  # noqa: E731
    return forward, lambda dy, cache: {"x": max_pool_backward(dy, cache)}, {"x": x}


def conv_relu_at(rng):
    v = {"x": rng.standard_normal((2, 5, 6, 3)), "w": rng.standard_normal((3, 2, 3, 2)), "b": np.zeros(3)}
    v["x"][..., 0] = 0  # a black picture: every y is 0 there, on the kink
    forward = lambda x, w, b: conv2d_forward(x, w, b, activation=relu)  # noqa: E731
    return forward, lambda dy, cache: dict(zip("xwb", conv2d_backward(dy, cache), strict=True)), v


@pytest.mark.parametrize("at", [relu_at, max_pool_at, conv_relu_at])
def test_no_false_alarm_at_kinks(at):
    kinks = 0
    for seed in range(50):
        rng = np.random.default_rng(seed)
        forward, backward, variables = at(rng)
        report = check(forward, backward, variables, rng=rng)
        assert max(report.errors.values()) < 1e-7
        kinks += report.kinks
    assert kinks >= 50


def test_no_false_alarm_over_many_seeds():
    for seed in range(1, 11):
        assert [row for row in gradtable.run(seed) if row.failure] == []


@pytest.mark.parametrize("tau", [*np.linspace(-0.99, 0.99, 23), 1 / 3, 0.5, 1e-3])
def test_what_a_kink_does_to_the_slope_is_never_more_than_the_doubt(tau):
    h = gradcheck.STEP * 0.01  # the step at x = 0

    def forward(x):
        return np.maximum(x - tau * h, 0), None

    probe = gradcheck._Probe(
        forward,
        lambda dy, _: {"x": dy * 0},
        {"x": np.zeros(1)},
        "x",
        np.random.default_rng(0),
        gradcheck.STEP,
    )
    numeric, doubt = probe.slope(np.ones(1))
    slope = probe.dy[0] * (tau < 0)
    assert abs(numeric - slope) <= doubt + 1e-9


def test_a_gradient_that_is_zero_everywhere_passes():
    rng = np.random.default_rng(0)
    forward, backward = relu_forward, lambda dy, y: {"x": dy * (y > 0)}
    assert check(forward, backward, {"x": -1 - rng.random(9)}, rng=rng).errors == {"x": 0}


def test_a_gradient_that_is_zero_up_to_rounding_passes():
    rng = np.random.default_rng(0)

    def forward(x, shift):  # a shift of x changes nothing
        z = x + shift
        return z - z.mean(), None

    def backward(dy, _):
        return {"x": dy - dy.mean(), "shift": np.zeros(1)}

    for _ in range(50):
        check(forward, backward, {"x": rng.standard_normal(50), "shift": rng.random(1)}, rng=rng)


@pytest.mark.usefixtures("few_looked_at")
@pytest.mark.parametrize("operation", ["conv2d", "conv2d, groups 2, stride 2", "linear", PARTIAL])
def test_float32_where_linear(operation):
    case = BY_NAME[operation]
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        v = {name: x.astype(np.float32) for name, x in inputs_of(operation, rng).items()}
        forward, same = as_variables(operation, lambda dy, v, right: right(dy))
        assert max(check(forward, same, v, rng=rng, linear=case.linear).errors.values()) < 1e-5
        forward, off = as_variables(operation, lambda dy, v, right: {"x": right(dy)["x"] * np.float32(1.001)})
        with pytest.raises(GradientError, match=r"^x: relative error"):
            check(forward, off, v, rng=rng, linear=case.linear)


# ---- what it says ----------------------------------------------------------------------------------------


def test_failure_names_the_variable_the_worst_element_and_both_values():
    def backward(dy, v, right):
        grads = right(dy)
        grads["w"][3, 1, 2, 0] *= 2
        return grads

    rng = np.random.default_rng(0)
    forward, changed = as_variables(PLAIN, backward)
    with pytest.raises(GradientError) as raised:
        check(forward, changed, inputs_of(PLAIN, rng), rng=rng, linear="xwb")
    found = re.fullmatch(
        r"w: relative error (.*) along a random direction \(tolerance 1e-10\); "
        r"worst at w\[3, 1, 2, 0\]: backward says (.*), the slope is (.*)",
        str(raised.value),
    )
    error, says, slope = map(float, found.groups())
    assert error > 1e-10
    assert says == pytest.approx(2 * slope, rel=1e-4)


def test_report_holds_every_variable_and_no_others():
    rng = np.random.default_rng(0)
    report = check(*as_variables("dropout, 2012", lambda dy, v, right: right(dy)),
                   inputs_of("dropout, 2012", rng), rng=rng, linear="x")  # fmt: skip
    assert list(report.errors) == ["x"]  # not the mask
    assert report.kinks == 0


def test_report_holds_the_largest_error_of_all_directions():
    forward, same = as_variables("tanh", lambda dy, v, right: right(dy))
    x = inputs_of("tanh", np.random.default_rng(0))
    errors = [
        check(forward, same, x, rng=np.random.default_rng(0), directions=d).errors["x"] for d in range(1, 9)
    ]
    assert errors == sorted(errors)  # the same draws and one more each time
    assert errors[0] < errors[-1]


def test_a_forward_that_draws_random_numbers_is_told_so():
    rng = np.random.default_rng(0)

    def forward(x):
        mask = rng.random(x.shape) < 0.5
        return x * mask, mask

    with pytest.raises(GradientError, match=r"x: the slope jumps at each of 20 points.*random numbers"):
        check(forward, lambda dy, mask: {"x": dy * mask}, {"x": spread(9)(rng)}, rng=rng)


def rounded_inside(x):
    return (x.astype(np.float32) ** 2).astype(np.float64), x


def square(x):
    return x**2, x


def square_backward(dy, x):
    return {"x": 2 * x * dy}


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x**2, "forward: expected two, (y, cache), found ndarray"),
        (lambda x: x[:2], "forward: expected two, (y, cache), found ndarray"),  # two rows are no pair
        (lambda x: None, "forward: expected two, (y, cache), found NoneType"),
        (lambda x: (x, x, x), "forward: expected two, (y, cache), found tuple"),
        (
            lambda x: ((x, x.sum(0)), x),
            "forward: expected one output, found tuple",
        ),
        (lambda x: ((x, x), x), "forward: expected one output, found tuple"),
        (lambda x: (None, x), "forward: expected one output, found NoneType"),
        (lambda x: (x > 0, x), "x: float64, but y is bool"),
        (lambda x: ((x**2).astype(np.float32), x), "x: float64, but y is float32"),
        (lambda x: (np.where(x > 1, np.nan, x**2), x), "forward: expected a finite y, found NaN or infinity"),
        (lambda x: (np.where(x > 1, np.inf, x**2), x), "forward: expected a finite y, found NaN or infinity"),
        (
            rounded_inside,
            "x: the slope jumps at each of 20 points tried: forward rounds (float32 inside?)",
        ),
        (lambda x: (np.where(x * 4 % 1, np.nan, x**2), x), "forward: expected a finite y"),  # beside x
    ],
)
def test_what_is_wrong_with_a_forward_is_said(forward, message):
    x = np.linspace(-1.5, 1.25, 12).reshape(4, 3)
    with pytest.raises(GradientError) as raised:
        check(forward, square_backward, {"x": x}, rng=np.random.default_rng(0))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (
            lambda dy, x: 2 * x * dy,
            "backward: expected a dict of gradients by variable, found ndarray",
        ),
        (
            lambda dy, x: (2 * x * dy,),
            "backward: expected a dict of gradients by variable, found tuple",
        ),
        (lambda dy, x: None, "backward: expected a dict of gradients by variable, found NoneType"),
        (lambda dy, x: {"x": None}, "x: expected an array as its gradient, found NoneType"),
        (lambda dy, x: {"x": [1.0, 2.0]}, "x: expected an array as its gradient, found list"),
        (lambda dy, x: {"x": np.multiply(dy, 2 * x, out=dy)}, "forward or backward wrote to its argument dy"),
    ],
)
def test_what_is_wrong_with_a_backward_is_said(backward, message):
    with pytest.raises(GradientError) as raised:
        check(square, backward, {"x": spread(4, 3)(np.random.default_rng(0))}, rng=np.random.default_rng(0))
    assert str(raised.value) == message


def test_no_number_is_no_evidence():
    """A gradient of none is never wrong: what is to be checked must have some."""
    with pytest.raises(GradientError, match="x: expected at least one number, found none"):
        check(
            lambda x: (x * x, x),
            lambda dy, x: {"x": 3 * x * dy},
            {"x": np.zeros((3, 0))},
            rng=np.random.default_rng(0),
        )


@pytest.mark.parametrize("linear", [("w",), "w", "weight", "xyz", ("x", "weight")])
def test_linear_must_name_variables(linear):
    rng = np.random.default_rng(0)
    v = {"x": spread(9)(rng)}
    with pytest.raises(ValueError, match=r"linear: expected names among \['x'\], found"):
        check(lambda x: (2 * x, None), lambda dy, _: {"x": 2 * dy}, v, rng=rng, linear=linear)


@pytest.mark.parametrize("directions", [0, -1, "2", 1.5])
def test_a_check_along_no_direction_is_refused(directions):
    """It would find nothing wrong, whatever backward does."""
    with pytest.raises(ArgumentError, match="directions: expected a whole number ≥ 1, found"):
        check(
            lambda x: (x * x, x),
            lambda dy, x: {"x": 3 * x * dy},
            {"x": np.ones(2)},
            rng=np.random.default_rng(0),
            directions=directions,
        )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"forward": None}, "forward: expected a function, found None"),
        ({"backward": 3}, "backward: expected a function, found 3"),
        ({"variables": [1.0]}, "variables: expected a dict, found [1.0]"),
        ({"variables": {}}, "variables: expected at least one array by its name, found {}"),
        ({"variables": {"x": [1.0]}}, "variables: expected x, an array, found list"),
        ({"variables": {"x": 1.0}}, "variables: expected x, an array, found float"),
        ({"rng": 0}, "rng: expected a generator, such as np.random.default_rng(0), found 0"),
        ({"rng": None}, "rng: expected a generator, such as np.random.default_rng(0), found None"),
    ],
    ids=str,
)
def test_what_is_no_pair_and_no_point_is_named(change, says):
    given = {"forward": square, "backward": square_backward, "variables": {"x": np.ones(3)}}
    with pytest.raises(ArgumentError, match=f"^{re.escape(says)}"):
        check(**{"rng": np.random.default_rng(0), **given} | change)


@pytest.mark.parametrize("layer", [None, relu, square], ids=["none", "an activation", "a function"])
def test_what_is_no_layer_is_named(layer):
    with pytest.raises(ArgumentError, match=r"^layer: expected a layer or Sequential, found"):
        check_layer(layer, np.ones((3, 2)), np.random.default_rng(0))


def test_a_variable_may_have_any_name():
    forward = lambda operation: square(operation)  # noqa: E731
    backward = lambda dy, cache: {"operation": square_backward(dy, cache)["x"]}  # noqa: E731
    report = check(forward, backward, {"operation": np.ones(3)}, rng=np.random.default_rng(0))
    assert report.errors.keys() == {"operation"}


def test_a_long_name_is_not_the_letters_that_it_has():
    rng = np.random.default_rng(0)

    def forward(w, weight):
        return w**3 * weight, (w, weight)

    def backward(dy, cache):
        w, weight = cache
        return {"w": 3 * w**2 * weight * dy, "weight": w**3 * dy}

    v = {"w": spread(9)(rng), "weight": spread(9)(rng)}
    assert check(forward, backward, v, rng=rng, linear=("weight",)).errors["weight"] < 1e-10
    with pytest.raises(GradientError, match=r"^w: .*y is not linear in it"):
        check(forward, backward, v, rng=rng, linear=("w", "weight"))


def test_a_variable_wrongly_called_linear_is_told_so():
    rng = np.random.default_rng(0)
    forward, backward = as_variables("tanh", lambda dy, v, right: right(dy))
    with pytest.raises(GradientError, match="not linear in it"):
        check(forward, backward, inputs_of("tanh", rng), rng=rng, linear="x")


def test_float32_where_not_linear_is_refused():
    rng = np.random.default_rng(0)
    x = spread(9)(rng).astype(np.float32)
    with pytest.raises(
        ValueError, match=r"x: expected float64 \(float32 only if linear in it\), found float32"
    ):
        check(relu_forward, lambda dy, y: {"x": dy * (y > 0)}, {"x": x}, rng=rng)


@pytest.mark.parametrize("name", ["dx", None])
def test_a_gradient_of_an_unknown_variable_is_refused(name):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"expected gradients among \['x'\], found"):
        check(relu_forward, lambda dy, y: {name: dy} if name else {}, {"x": spread(9)(rng)}, rng=rng)


def test_the_example_in_the_docstring_runs():
    result = doctest.testmod(gradcheck, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 5
    assert result.failed == 0


# ---- layers ------------------------------------------------------------------------------------------------


def conv_layer(rng, activation=None):
    layer = Conv2d(4, (3, 2), activation=activation, std=0.5, bias=0.1)
    return layer.build((2, 5, 6), rng=rng, dtype=np.float64)


def test_check_layer_restores_the_parameters():
    rng = np.random.default_rng(0)
    layer = conv_layer(rng, "relu")
    arrays, before = dict(layer.params), {name: w.copy() for name, w in layer.params.items()}
    report = check_layer(layer, rng.standard_normal((2, 5, 6, 3)), rng)
    assert list(report.errors) == ["x", "w", "b"]
    for name, w in layer.params.items():
        assert w is arrays[name]
        np.testing.assert_array_equal(w, before[name])


def test_check_layer_of_a_linear_layer_in_float32():
    rng = np.random.default_rng(0)
    layer = Linear(3).build((4,), rng=rng)
    x = rng.standard_normal((4, 5)).astype(np.float32)
    assert check_layer(layer, x, rng, linear=("x", "w", "b")).errors.keys() == {"x", "w", "b"}
    with pytest.raises(ArgumentError, match=r"b: expected float64 \(float32 only if linear in it\)"):
        check_layer(layer, x, rng, linear=("x", "w"))


def test_check_layer_rejects_a_wrong_layer_and_still_restores():
    rng = np.random.default_rng(0)
    layer = conv_layer(rng)
    before = layer.params["w"].copy()
    right = layer.backward

    def backward(dy):
        dx = right(dy)
        layer.grads["w"] *= 1.001
        return dx

    layer.backward = backward
    with pytest.raises(GradientError, match=r"^w: "):
        check_layer(layer, rng.standard_normal((2, 5, 6, 3)), rng)
    np.testing.assert_array_equal(layer.params["w"], before)


def test_check_layer_of_a_network_whose_first_layer_needs_no_dx():
    rng = np.random.default_rng(0)
    layers = [
        Conv2d(4, (3, 2), activation="relu", std=0.5, bias=0.1),
        MaxPool(2, 2),
        Linear(5, "tanh", std=0.3),
    ]
    net = Sequential(layers, (2, 5, 6), rng=rng, dtype=np.float64)
    report = check_layer(net, rng.standard_normal((2, 5, 6, 3)), rng)
    assert list(report.errors) == ["conv1.w", "conv1.b", "fc1.w", "fc1.b"]


class Scale:
    """A layer of someone's own, y = w x; it is no `Layer`."""

    def __init__(self):
        self.params, self.grads = {"w": np.arange(1.0, 5).reshape(4, 1)}, {}

    def forward(self, x):
        self.x = x
        return x * self.params["w"]

    def backward(self, dy):
        self.grads["w"] = (dy * self.x).sum(1, keepdims=True)
        return dy * self.params["w"]


class ForgetsDx(Scale):
    def backward(self, dy):
        super().backward(dy)


class ForgetsDw(Scale):
    def backward(self, dy):
        return dy * self.params["w"]


class ReadsPictures(ForgetsDx):
    need_dx = False


def check_scale(kind):
    rng = np.random.default_rng(0)
    return check_layer(kind(), spread(4, 3)(rng), rng, linear=("x", "w"))


def test_check_layer_of_a_layer_that_is_no_layer_of_ours():
    assert list(check_scale(Scale).errors) == ["x", "w"]
    assert list(check_scale(ReadsPictures).errors) == ["w"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (ForgetsDx, r"x: backward returned None, not dx"),
        (ForgetsDw, r"w: backward left no gradient in grads\['w'\]"),
    ],
)
def test_check_layer_names_what_a_backward_forgets(kind, message):
    with pytest.raises(GradientError, match=message):
        check_scale(kind)


def test_check_layer_of_our_layers_and_networks_misses_a_dx_that_is_forgotten():
    rng = np.random.default_rng(0)
    layer, x = conv_layer(rng), rng.standard_normal((2, 5, 6, 3))
    right, layer.backward = layer.backward, lambda dy: (right(dy), None)[1]
    with pytest.raises(GradientError, match="x: backward returned None"):
        check_layer(layer, x, rng)
    net = Sequential([Linear(5, "tanh", std=0.3)], (2, 5, 6), rng=rng, dtype=np.float64)
    first = net.layers["fc1"]
    whole, first.backward = first.backward, lambda dy: (whole(dy), None)[1]
    with pytest.raises(GradientError, match="x: backward returned None"):
        check_layer(net, x, rng)
