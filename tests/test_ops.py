"""The operations, fast and plain, give the numbers of the reference, on shapes whose axes are all different.

Every input is read-only, so that an operation that writes to an argument fails in any test here.  All run on
NumPy, on the stand-in for CuPy with the real kernels, and on CuPy where there is a GPU.
"""

import contextlib
import inspect
import itertools
import pickle
import re
from copy import deepcopy
from functools import partial
from types import SimpleNamespace
from unittest import mock

import backends
import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from tinyalex import ops
from tinyalex.comm import launch
from tinyalex.devices import parse
from tinyalex.errors import ArgumentError
from tinyalex.ops import (
    ACTIVATIONS,
    chosen,
    dropout_mask,
    lrn,
    plain_ops,
    pool,
    products,
    strips,
    tanh,
)
from tinyalex.ops.cases import CASES
from tinyalex.ops.later import batch_norm
from tinyalex.ops.later import reference as loops


@pytest.fixture(scope="module", params=["fast", "plain"], autouse=True)
def version(request, backend):
    """Every test here runs with the fast operations, then with the plain ones of the same names."""
    with plain_ops() if request.param == "plain" else contextlib.nullcontext():
        yield request.param


class _Once:
    """The reference; what it gives is kept: every version on every backend is shown the same examples."""

    def __getattr__(self, name):
        function, kept = getattr(loops, name), {}

        def call(*args, **how):
            key = pickle.dumps((args, how))
            if key not in kept:
                kept[key] = function(*args, **how)
                for array in kept[key] if isinstance(kept[key], tuple) else [kept[key]]:
                    frozen(np.asarray(array))
            return kept[key]

        setattr(self, name, call)
        return call


reference = _Once()

PAIRED = [
    "conv2d",
    "linear",
    "max_pool",
    "avg_pool",
    "lrn",
    "same_map_norm",
    "batch_norm",
    "dropout",
    "softmax_loss",
    "relu",
    "tanh",
    "logistic",
]
(
    (conv2d_forward, conv2d_backward),
    (linear_forward, linear_backward),
    (max_pool_forward, max_pool_backward),
    (avg_pool_forward, avg_pool_backward),
    (lrn_forward, lrn_backward),
    (same_map_norm_forward, same_map_norm_backward),
    (batch_norm_forward, batch_norm_backward),
    (dropout_forward, dropout_backward),
    (softmax_loss_forward, softmax_loss_backward),
    (relu_forward, relu_backward),
    (tanh_forward, tanh_backward),
    (logistic_forward, logistic_backward),
) = ([backends.through(getattr(ops, f"{name}_{way}")) for way in ("forward", "backward")] for name in PAIRED)
im2col, col2im, softmax, topk_error = map(
    backends.through, (ops.im2col, ops.col2im, ops.softmax, ops.topk_error)
)

# Largest error allowed, relative to the largest number of the array. The longest sums here have about
# 200 terms: rounding adds up to 200 * 6e-8 = 1e-5 in float32 at worst, to 200 * 1e-16 in float64.
TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE))
dtypes = st.sampled_from(list(TOLERANCE))


def examples(number, *drawn_from):
    """So many of each dtype, the same for every version on every backend.

    Hypothesis, which takes longer over an example than the test does, draws them for the first version alone.
    It is asked again where another fails, and then shows the smallest example that does.
    """
    how = settings(deadline=None, derandomize=True, max_examples=2 * number)

    def decorate(test):
        drawn, passed = [], []

        def recorded(args):
            drawn.append(deepcopy(args))  # a generator of random numbers goes on
            test(*args)

        search = seed(0)(how(given(st.tuples(*drawn_from))(recorded)))

        def run():
            if not passed:
                drawn.clear()
                search()
                passed.extend(drawn)
                return
            try:
                for args in deepcopy(passed):
                    test(*args)
            except Exception:
                search()
                raise

        run.__doc__ = test.__doc__
        return run

    return decorate


NEURONS = {  # name: (fast, reference forward, reference backward)
    "none": (None, lambda x: x, lambda dy, x: dy),
    "relu": (ACTIVATIONS["relu"], reference.relu, reference.relu_backward),
    "tanh": (ACTIVATIONS["tanh"], reference.tanh, reference.tanh_backward),
    "tanh[1.7,0.6]": (
        tanh(1.7, 0.6),
        lambda x: reference.tanh(x, 1.7, 0.6),
        lambda dy, x: reference.tanh_backward(dy, x, 1.7, 0.6),
    ),
    "logistic": (ACTIVATIONS["logistic"], reference.logistic, reference.logistic_backward),
}

seeds = st.integers(0, 2**16).map(np.random.default_rng)


def frozen(array):
    array.flags.writeable = False
    return array


def normal(rng, shape, dtype=np.float64):
    """Read-only standard normal numbers."""
    return frozen(np.asarray(rng.standard_normal(shape), dtype))


def pixels(rng, shape, dtype, tied):
    """Read-only maps without a positive number (a padding of 0 would win), with equal ones if tied."""
    return frozen((rng.integers(-3, 0, shape) if tied else -rng.random(shape)).astype(dtype))


def assert_close(found, expected, dtype, what="", terms=0.0):
    """Found equals expected within TOLERANCE of the largest number, or of `terms` where that is more.

    terms: the size of the terms that each number is the sum of, where they may happen to cancel.
    """
    assert found.dtype == dtype, f"{what}: dtype {found.dtype}"
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    error = np.abs(found.astype(np.float64) - expected) / (np.abs(expected).max(initial=terms) or 1)
    worst = tuple(map(int, np.unravel_index(error.argmax(), error.shape)))
    assert error[worst] <= TOLERANCE[dtype], (
        f"{what}{worst}: found {found[worst]}, expected {expected[worst]}, error {error[worst]:.1e}"
    )


def other(draw, choices, *taken):
    """Draw a size that no other axis has: with two axes of one size, swapping them could pass unseen."""
    return draw(st.sampled_from([size for size in choices if size not in taken]))


def block_sizes(module):
    """One piece a block, a few, and as it is: small maps would else never need a second block."""
    return st.sampled_from([1, 1000, module.BLOCK_BYTES]).map(
        lambda size: mock.patch.object(module, "BLOCK_BYTES", size)
    )


# --- convolution ---------------------------------------------------------------------------------


@st.composite
def convolutions(draw):
    """(x shape, w shape, conv2d's keywords): a kernel that is not square, four different pads."""
    groups, CG = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    FG = other(draw, range(1, 4), CG)
    C, F = groups * CG, groups * FG
    H = other(draw, range(4, 9), C, F)
    W = other(draw, range(4, 9), C, F, H)
    N = other(draw, range(1, 6), C, F, H, W)
    KH = draw(st.integers(1, 4))
    KW = other(draw, range(1, 5), KH)
    high, wide = st.integers(0, KH), st.integers(0, KW)  # up to one window of padding alone
    pad = draw(st.one_of(st.integers(0, 2), st.tuples(high, high, wide, wide)))
    stride = draw(st.sampled_from([1, 1, 2, 3, 4]))  # 1 more often: its backward goes another way
    return (C, H, W, N), (F, CG, KH, KW), {"stride": stride, "pad": pad, "groups": groups}


@examples(250, dtypes, convolutions(), st.sampled_from(sorted(NEURONS)), block_sizes(strips), seeds)
def test_conv2d(dtype, case, neuron, blocks, rng):
    x_shape, w_shape, how = case
    fast, neuron_forward, neuron_backward = NEURONS[neuron]
    x, w, b = normal(rng, x_shape, dtype), normal(rng, w_shape, dtype), normal(rng, w_shape[:1], dtype)
    before = reference.conv2d(x, w, b, **how)
    dy = normal(rng, before.shape, dtype)
    with blocks:
        y, cache = conv2d_forward(x, w, b, **how, activation=fast)
        assert_close(y, neuron_forward(before), dtype, "y", terms=1)
        grads = conv2d_backward(frozen(dy), cache)
        _, dw, db = conv2d_backward(dy, cache, need_dx=False)
    expected = reference.conv2d_backward(neuron_backward(dy, before), x, w, **how)
    for name, found, wanted in zip(["dx", "dw", "db"], grads, expected, strict=True):
        assert_close(found, wanted, dtype, name, terms=1)
    assert_close(dw, expected[1], dtype, "dw without dx", terms=1)
    assert_close(db, expected[2], dtype, "db without dx", terms=1)


def test_conv2d_need_dx_false_gives_none():
    rng = np.random.default_rng(0)
    x, w, b = normal(rng, (2, 5, 4, 3)), normal(rng, (6, 2, 3, 3)), normal(rng, (6,))
    y, cache = conv2d_forward(x, w, b)
    assert conv2d_backward(y, cache, need_dx=False)[0] is None


def test_conv1_of_the_paper_224_to_55():
    """3 zeros at the bottom and the right: 55 windows, the last over 8 x 8 real pixels (DeCAF's remark)."""
    x, w = np.ones((1, 224, 224, 1)), np.ones((1, 1, 11, 11))
    y, _ = conv2d_forward(x, w, np.zeros(1), stride=4, pad=(0, 3, 0, 3))
    assert y.shape == (1, 55, 55, 1)
    assert [y[0, 0, 0, 0], y[0, 0, -1, 0], y[0, -1, 0, 0], y[0, -1, -1, 0]] == [121, 88, 88, 64]


@examples(50, convolutions(), seeds)
def test_im2col_and_col2im(case, rng):
    x_shape, (_, _, KH, KW), how = case
    C, H, W, N = x_shape
    stride, pad = how["stride"], how["pad"]
    top, bottom, left, right = (pad,) * 4 if isinstance(pad, int) else pad
    OH, OW = (H + top + bottom - KH) // stride + 1, (W + left + right - KW) // stride + 1
    x = normal(rng, x_shape)
    cols = im2col(x, KH, KW, stride, pad)
    assert cols.shape == (C * KH * KW, OH * OW * N)

    # im2col copies: entry [(c,kh,kw), (oh,ow,n)] is the pixel under the kernel's (kh,kw)
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    by_axis = cols.reshape(C, KH, KW, OH, OW, N)
    for c, kh, kw, oh, ow, n in np.ndindex(by_axis.shape):
        assert by_axis[c, kh, kw, oh, ow, n] == padded[c, oh * stride + kh, ow * stride + kw, n]

    # col2im is its transpose: <im2col(x), g> = <x, col2im(g)> for every g
    g = normal(rng, cols.shape)
    back = col2im(g, x_shape, KH, KW, stride, pad)
    assert back.shape == x_shape
    assert np.vdot(cols, g) == pytest.approx(np.vdot(x, back), rel=1e-12, abs=1e-12)


def test_col2im_adds_where_windows_overlap():
    """Windows of 2 on a row of 4: the inner pixels are in two of them."""
    x = np.ones((1, 1, 4, 1))
    assert col2im(im2col(x, 1, 2), x.shape, 1, 2, 1, 0).ravel().tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize("most", [(10**6, 1200), (1 << 60, 0)])
def test_products_in_pieces_and_whole(most):
    rng = np.random.default_rng(0)
    a, b, c = normal(rng, (2, 32, 75)), normal(rng, (2, 75, 2048)), normal(rng, (2, 64, 2048))
    out = np.empty((2, 32, 2048), np.float64)
    with mock.patch.object(products, "_most", return_value=most):
        products.product(a, b, out)
        found = products.product_of_transposed(c, out)
    np.testing.assert_allclose(out, a @ b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found, c @ out.swapaxes(1, 2), rtol=1e-11, atol=1e-10)


# --- pooling -------------------------------------------------------------------------------------


@st.composite
def poolings(draw):
    """(x shape, pooling's keywords): overlapping or not, gaps too, padding narrower than the window."""
    H = draw(st.integers(4, 9))
    W = other(draw, range(4, 10), H)
    C = draw(st.integers(1, 3))
    N = other(draw, range(1, 4), C)
    z = draw(st.integers(1, 4))
    side = st.integers(0, z - 1)
    pad = draw(st.one_of(side, st.tuples(side, side, side, side)))
    return (C, H, W, N), {"z": z, "s": draw(st.integers(1, 4)), "pad": pad, "ceil": draw(st.booleans())}


@examples(100, dtypes, poolings(), st.booleans(), block_sizes(pool), seeds)
def test_max_pool(dtype, case, tied, blocks, rng):
    shape, how = case
    x = pixels(rng, shape, dtype, tied)
    y = reference.max_pool(x, **how)
    dy = normal(rng, y.shape, dtype)
    with blocks:
        y_found, cache = max_pool_forward(x, **how)
        dx_found = max_pool_backward(dy, cache)
    assert_close(y_found, y, dtype, "y")
    assert_close(dx_found, reference.max_pool_backward(dy, x, **how), dtype, "dx")


@examples(100, dtypes, poolings(), block_sizes(pool), seeds)
def test_avg_pool(dtype, case, blocks, rng):
    shape, how = case
    x = normal(rng, shape, dtype)
    y = reference.avg_pool(x, **how)
    dy = normal(rng, y.shape, dtype)
    with blocks:
        y_found, cache = avg_pool_forward(x, **how)
        dx_found = avg_pool_backward(dy, cache)
    assert_close(y_found, y, dtype, "y")
    assert_close(dx_found, reference.avg_pool_backward(dy, x, **how), dtype, "dx")


@pytest.mark.parametrize("forward", [max_pool_forward, avg_pool_forward])
@pytest.mark.parametrize("sizes", [[55, 27, 13, 6], [32, 16, 8, 4]])  # the paper's; the CIFAR nets'
def test_pooled_sizes(forward, sizes):
    for size, pooled in itertools.pairwise(sizes):
        y, _ = forward(np.zeros((1, size, 2 * size, 1)), 3, 2)
        assert y.shape[1] == pooled


@pytest.mark.parametrize("forward", [max_pool_forward, avg_pool_forward])
def test_last_window_must_start_on_a_pixel(forward):
    """5 pixels, 1 of padding, windows of 2 by 3: the third would hold padding alone."""
    y, _ = forward(np.ones((1, 5, 5, 1)), 2, 3, pad=1)
    assert y.shape == (1, 2, 2, 1)
    assert (y == 1).all()


def test_max_pool_shared_winner_gets_every_gradient():
    """The middle of 5 x 5 is in all four windows of 3 x 3 by 2, and wins all of them."""
    x = -np.arange(25.0).reshape(1, 5, 5, 1)
    x[0, 2, 2, 0] = 7
    y, cache = max_pool_forward(frozen(x), 3, 2)
    dx = max_pool_backward(np.array([1.0, 10, 100, 1000]).reshape(y.shape), cache)
    assert dx[0, 2, 2, 0] == dx.sum() == 1111


def test_max_pool_first_of_equals_wins():
    _, cache = max_pool_forward(np.zeros((1, 5, 5, 1)), 3, 2)
    dx = max_pool_backward(np.array([1.0, 2, 3, 4]).reshape(1, 2, 2, 1), cache)
    expected = np.zeros((5, 5))
    expected[::2, ::2][:2, :2] = [[1, 2], [3, 4]]  # the top left pixel of each window
    assert (dx[0, :, :, 0] == expected).all()


def test_max_pool_the_first_nan_wins():
    """By hand; then in many windows: some with several, some with infinity too, most with none."""
    x = np.zeros((1, 4, 4, 1))
    x[0, 1, 1:3] = x[0, 2, 1] = np.nan
    y, cache = max_pool_forward(x, 3, 1)
    dx = max_pool_backward(np.ones(y.shape), cache)
    assert np.isnan(y).all()
    assert dx[0, :, :, 0].tolist() == [[0] * 4, [0, 4, 0, 0], [0] * 4, [0] * 4]
    rng = np.random.default_rng(0)
    kinds = rng.random((2, 8, 9, 3))
    x = frozen(np.select([kinds < 0.1, kinds < 0.2], [np.nan, np.inf], normal(rng, kinds.shape)))
    for how in ({"z": 3, "s": 2, "pad": 1}, {"z": (2, 3), "s": (3, 1)}):
        y, cache = max_pool_forward(x, **how)
        assert np.array_equal(y, reference.max_pool(x, **how), equal_nan=True)
        dy = normal(rng, y.shape)
        expected = reference.max_pool_backward(dy, x, **how)
        assert_close(max_pool_backward(dy, cache), expected, np.float64, "dx")


# --- response normalization ----------------------------------------------------------------------


# n: odd, even, more than there are maps; 5, the paper's, most often. alpha is near 1: at the paper's
# 1e-4 a wrong backward would pass.
norms = st.fixed_dictionaries(
    {
        "n": st.one_of(st.just(5), st.integers(1, 11)),
        "k": st.sampled_from([1.0, 2.0]),
        "alpha": st.floats(0.7, 1.3),
        "beta": st.sampled_from([0.5, 0.75, 1.0]),
    }
)


@st.composite
def grouped_maps(draw):
    """(groups, shape): up to eight maps a group."""
    groups = draw(st.integers(1, 3))
    C = groups * draw(st.integers(1, 8))
    H = other(draw, range(1, 5), C)
    W = other(draw, range(1, 5), C, H)
    return groups, (C, H, W, other(draw, range(1, 5), C, H, W))


@examples(100, dtypes, norms, grouped_maps(), st.booleans(), block_sizes(lrn), seeds)
def test_lrn(dtype, how, case, alpha_over_n, blocks, rng):
    groups, shape = case
    how = {**how, "alpha_over_n": alpha_over_n, "groups": groups}
    x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
    with blocks:
        y, cache = lrn_forward(x, **how)
        dx = lrn_backward(dy, cache)
    assert_close(y, reference.lrn(x, **how), dtype, "y")
    assert_close(dx, reference.lrn_backward(dy, x, **how), dtype, "dx")


@st.composite
def small_maps(draw):
    """Maps of up to 7 x 7 pixels, their shape."""
    H = draw(st.integers(1, 7))
    W = other(draw, range(1, 8), H)
    C = other(draw, range(1, 4), H, W)
    return C, H, W, other(draw, range(1, 5), C, H, W)


@examples(100, dtypes, norms, small_maps(), seeds)
def test_same_map_norm(dtype, how, shape, rng):
    how = {**how, "alpha": how["alpha"] * how["n"]}  # lest alpha/n^2 become too small to matter
    x, dy = normal(rng, shape, dtype), normal(rng, shape, dtype)
    y, cache = same_map_norm_forward(x, **how)
    assert_close(y, reference.same_map_norm(x, **how), dtype, "y")
    assert_close(
        same_map_norm_backward(dy, cache), reference.same_map_norm_backward(dy, x, **how), dtype, "dx"
    )


@pytest.mark.parametrize(
    ("how", "changed"),
    [
        ({"n": 5}, [1, 2, 3, 4, 5]),
        ({"n": 4}, [2, 3, 4, 5]),  # window of j: j-2 ... j+1, so map 3 is in those of 2 ... 5
        ({"n": 1}, [3]),
        ({"n": 20}, list(range(8))),
        ({"n": 5, "groups": 2}, [1, 2, 3]),  # not over the edge between maps 3 and 4
    ],
)
def test_lrn_one_map_reaches_these(how, changed):
    quiet = np.ones((8, 1, 1, 1))
    loud = quiet.copy()
    loud[3] = 3
    before, after = (lrn_forward(x, alpha=1.0, **how)[0].ravel() for x in (quiet, loud))
    assert np.flatnonzero(before != after).tolist() == changed


def test_lrn_by_hand():
    """n=3, k=1, alpha=beta=1 on (1, 2, 3): 1/(1+1+4), 2/(1+1+4+9), 3/(1+4+9); a = 1/3 with alpha_over_n."""
    x = np.array([1.0, 2, 3]).reshape(3, 1, 1, 1)
    y, _ = lrn_forward(x, n=3, k=1, alpha=1, beta=1)
    assert y.ravel() == pytest.approx([1 / 6, 2 / 15, 3 / 14], rel=1e-14)
    y, _ = lrn_forward(x, n=3, k=1, alpha=1, beta=1, alpha_over_n=True)
    assert y.ravel() == pytest.approx([3 / 8, 6 / 17, 9 / 16], rel=1e-14)


def test_lrn_gradient_by_hand():
    """y_0 = x_0/s, s = 1 + x_0^2 + x_1^2 = 6 at (1, 2): dy_0/dx_0 = (s - 2)/s^2, dy_0/dx_1 = -4/s^2."""
    _, cache = lrn_forward(np.array([1.0, 2]).reshape(2, 1, 1, 1), n=3, k=1, alpha=1, beta=1)
    dx = lrn_backward(np.array([1.0, 0]).reshape(2, 1, 1, 1), cache)
    assert dx.ravel() == pytest.approx([4 / 36, -4 / 36], rel=1e-14)


# --- activations, fully connected, dropout -------------------------------------------------------


@DTYPES
@pytest.mark.parametrize(
    ("forward", "backward", "plain", "plain_backward", "how"),
    [
        (relu_forward, relu_backward, reference.relu, reference.relu_backward, {}),
        (tanh_forward, tanh_backward, reference.tanh, reference.tanh_backward, {}),
        (tanh_forward, tanh_backward, reference.tanh, reference.tanh_backward, {"a": 1.7, "b": 0.6}),
        (logistic_forward, logistic_backward, reference.logistic, reference.logistic_backward, {}),
    ],
    ids=["relu", "tanh", "tanh[a,b]", "logistic"],
)
def test_activations(dtype, forward, backward, plain, plain_backward, how):
    rng = np.random.default_rng(0)
    x, dy = normal(rng, (5, 4, 3, 2), dtype), normal(rng, (5, 4, 3, 2), dtype)
    y, cache = forward(x, **how)
    assert_close(y, plain(x, **how), dtype, "y")
    dx = plain_backward(dy, x, **how)
    assert_close(backward(dy, cache, **how), dx, dtype, "dx")

    # out may be the argument itself
    x, dy = x.copy(), dy.copy()
    assert np.shares_memory(forward(x, **how, out=x)[0], x)
    assert_close(x, y, dtype, "y in place")
    assert np.shares_memory(backward(dy, x, **how, out=dy), dy)
    assert_close(dy, dx, dtype, "dx in place")


@pytest.mark.parametrize("name", ["relu", "tanh", "logistic", "relu6", "leaky_relu"])
def test_where_a_result_goes(name):
    """A place of other numbers, or of other sizes, is refused; any that overlaps the arguments will do."""
    forward, backward = (getattr(ops, f"{name}_{way}") for way in ("forward", "backward"))
    put, get = backends.put, backends.get
    x, says = put(np.linspace(-3, 8, 12).reshape(3, 4)), f"{name.replace('_', ' ')}( backward)?: expected out"
    for error, wrong in (
        (ArgumentError, np.empty((2, 3, 4))), (ArgumentError, np.empty((3, 1))), (ArgumentError, [0.0]),
        (TypeError, np.empty((3, 4), np.float32)),
    ):  # fmt: skip
        with pytest.raises(error, match=f"^{says} of "):
            forward(x, out=put(wrong))
        with pytest.raises(error, match=f"^{says} of "):
            backward(x, x, out=put(wrong))
    y, dx = get(forward(x)[0]), get(backward(x, forward(x)[0]))
    row = put(np.zeros(13))
    for source, out in ((row[1:], row[:-1]), (row[:-1], row[1:])):
        source[...] = x.reshape(12)
        forward(source, out=out)
        assert_close(get(out).reshape(3, 4), y, np.float64, "y beside x")
        source[...] = x.reshape(12)
        backward(source, put(y.reshape(12)), out=out)
        assert_close(get(out).reshape(3, 4), dx, np.float64, "dx beside dy")
    there = put(y)
    backward(x, there, out=there)
    assert_close(get(there), dx, np.float64, "dx in y's place")


@DTYPES
def test_logistic_does_not_overflow(dtype):
    y, cache = logistic_forward(np.array([-1e4, 0, 1e4], dtype))
    assert y.tolist() == [0, 0.5, 1]
    assert logistic_backward(np.ones(3, dtype), cache).tolist() == [0, 0.25, 0]


@examples(100, dtypes, st.permutations(range(1, 8)), st.sampled_from(sorted(NEURONS)), seeds)
def test_linear(dtype, sizes, neuron, rng):
    D, F, N = sizes[:3]
    fast, neuron_forward, neuron_backward = NEURONS[neuron]
    x, w, b = normal(rng, (D, N), dtype), normal(rng, (F, D), dtype), normal(rng, (F,), dtype)
    dy = normal(rng, (F, N), dtype)
    y, cache = linear_forward(x, w, b, activation=fast)
    before = reference.linear(x, w, b)
    assert_close(y, neuron_forward(before), dtype, "y", terms=1)
    expected = reference.linear_backward(neuron_backward(dy, before), x, w)
    for name, found, wanted in zip(["dx", "dw", "db"], linear_backward(dy, cache), expected, strict=True):
        assert_close(found, wanted, dtype, name, terms=1)


@DTYPES
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("keep", [0.5, 0.8, 1.0])
def test_dropout(dtype, train, inverted, keep):
    rng = np.random.default_rng(0)
    x, dy = normal(rng, (6, 5), dtype), normal(rng, (6, 5), dtype)
    mask = frozen(dropout_mask(rng, x.shape, keep)) if train else None
    y, cache = dropout_forward(x, mask, keep, train, inverted)
    assert_close(y, reference.dropout(x, mask, keep, train, inverted), dtype, "y")
    expected = reference.dropout_backward(dy, mask, keep, train, inverted)
    assert_close(dropout_backward(dy, cache), expected, dtype, "dx")


@pytest.mark.parametrize("inverted", [True, False])
@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_dropout_test_output_is_the_mean_over_masks(keep, inverted):
    x = np.array([1.0, -2.0, 5.0])
    mean = np.zeros(3)
    for mask in itertools.product([False, True], repeat=3):
        y, _ = dropout_forward(x, np.array(mask), keep, inverted=inverted)
        mean += y * keep ** sum(mask) * (1 - keep) ** (3 - sum(mask))
    assert mean == pytest.approx(dropout_forward(x, None, keep, train=False, inverted=inverted)[0])


def test_dropout_mask_is_drawn_from_the_generator():
    masks = [dropout_mask(np.random.default_rng(seed), (100, 100), 0.8) for seed in (1, 1, 2)]
    assert masks[0].dtype == bool
    assert abs(masks[0].mean() - 0.8) < 0.02  # five standard deviations of a mean of 10,000
    assert (masks[0] == masks[1]).all()
    assert (masks[0] != masks[2]).any()


# --- softmax, loss, error ------------------------------------------------------------------------


@examples(100, dtypes, st.integers(2, 7), st.integers(1, 6), st.sampled_from([None, 11]), seeds)
def test_softmax_loss(dtype, K, N, total, rng):
    logits, labels = frozen(3 * normal(rng, (K, N), dtype)), frozen(rng.integers(0, K, N))
    assert_close(softmax(logits), reference.softmax(logits), dtype, "p")
    loss, cache = softmax_loss_forward(logits, labels, total=total)
    assert (loss.shape, loss.dtype) == ((), dtype)
    expected = reference.softmax_loss(logits, labels, total)
    assert loss == pytest.approx(expected, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
    expected = reference.softmax_loss_backward(logits, labels, total)
    assert_close(softmax_loss_backward(cache), expected, dtype, "dlogits", terms=1 / (total or N))


@DTYPES
def test_softmax_is_stable(dtype):
    logits = frozen(np.array([[1e4, -1e4], [0, 0]], dtype))
    assert softmax(logits).tolist() == [[1, 0], [0, 1]]
    loss, cache = softmax_loss_forward(logits, np.array([1, 1]))  # wrong by 1e4, then right
    assert loss == 5000
    assert softmax_loss_backward(cache).tolist() == [[0.5, 0], [-0.5, 0]]


@pytest.mark.parametrize(
    ("scores", "label", "k", "error"),
    [
        ([3, 2, 1, 0], 1, 1, 1),  # second
        ([3, 2, 1, 0], 1, 2, 0),
        ([3, 1, 1, 1], 1, 2, 2 / 3),  # one place left for three equals
        ([3, 1, 1, 1], 1, 3, 1 / 3),
        ([3, 1, 1, 1], 0, 1, 0),
        ([3, 3, 1, 1], 2, 2, 1),  # the places are gone
        ([0, 0, 0, 0], 2, 1, 3 / 4),  # a net that says nothing is right once in K
        ([0, 0, 0, 0], 2, 4, 0),
    ],
)
def test_topk_error_by_hand(scores, label, k, error):
    found = topk_error(np.array(scores, float)[:, None], np.array([label]), k)
    assert found == pytest.approx([error], abs=1e-15)


@examples(
    30,
    dtypes,
    st.sampled_from([(4, 3, 5, 2), (3, 7), (5, 2, 1, 8)]),
    st.booleans(),
    block_sizes(batch_norm),
    seeds,
)
def test_batch_norm(dtype, shape, given_statistics, blocks, rng):
    """Also where the mean is large beside the deviation: Σx²/n − mean² would be left with rounding."""
    x, dy, w, b = (normal(rng, size, dtype) for size in (shape, shape, shape[:1], shape[:1]))
    offset = 0 if dtype == np.float32 else 300
    x = frozen((offset + x).astype(dtype))
    how = {}
    if given_statistics:
        how = {"mean": normal(rng, shape[:1], dtype), "var": frozen(normal(rng, shape[:1], dtype) ** 2)}
    with blocks:
        y_found, cache = batch_norm_forward(x, w, b, *how.values(), eps=0.1)
        found = batch_norm_backward(dy, cache)
    terms = 1 + offset * given_statistics
    assert_close(y_found, reference.batch_norm(x, w, b, **how, eps=0.1), dtype, "y", terms)
    expected = reference.batch_norm_backward(dy, x, w, **how, eps=0.1)
    for name, one, wanted in zip(("dx", "dw", "db"), found, expected, strict=True):
        assert_close(one, wanted, dtype, name, terms)


def test_batch_norm_of_channels_that_take_many_blocks():
    """As of a convolution's maps on a GPU, where blocks of threads sum a part of a channel each."""
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((2, 47, 31, 7)).astype(np.float32) for _ in range(2))
    x += np.float32([[[[100]]], [[[-30]]]])
    x[:, 0] = 0  # a border of zeros
    w, b = (rng.standard_normal(2).astype(np.float32) for _ in range(2))
    y, cache = batch_norm_forward(*map(frozen, (x, w, b)))
    x64, axes = x.astype(np.float64), (1, 2, 3)
    xhat = (x64 - x64.mean(axes, keepdims=True)) / np.sqrt(x64.var(axes, keepdims=True) + 1e-5)
    each = (slice(None), None, None, None)
    np.testing.assert_allclose(y, w[each] * xhat + b[each], rtol=0, atol=1e-4)
    dx, dw, db = batch_norm_backward(frozen(dy), cache)
    np.testing.assert_allclose(db, dy.sum(axes, dtype=np.float64), rtol=0, atol=1e-2)
    np.testing.assert_allclose(dw, (dy * xhat).sum(axes), rtol=0, atol=1e-2)
    flat = w[each] / np.sqrt(x64.var(axes, keepdims=True) + 1e-5)
    wanted = flat * (dy - dy.mean(axes, dtype=np.float64)[each] - xhat * (dy * xhat).mean(axes)[each])
    np.testing.assert_allclose(dx, wanted, rtol=0, atol=1e-5)


top_k = st.integers(2, 7).flatmap(lambda K: st.tuples(st.integers(1, K), st.just(K)))


@examples(100, dtypes, top_k, st.integers(1, 6), seeds)
def test_topk_error(dtype, sizes, N, rng):
    k, K = sizes
    scores, labels = frozen(rng.integers(0, 4, (K, N)).astype(dtype)), frozen(rng.integers(0, K, N))
    error = topk_error(scores, labels, k)
    assert error.shape == (N,)
    assert error == pytest.approx(reference.topk_error(scores, labels, k), abs=TOLERANCE[dtype])


# --- what every pair keeps to --------------------------------------------------------------------

_BY_TITLE = {case.title: case for case in CASES}
EVERY_CASE = pytest.mark.parametrize("case", _BY_TITLE.values(), ids=_BY_TITLE)
A_PAIR = {title: case for title, case in _BY_TITLE.items() if case.name != "softmax_loss"}  # it takes no dy


def drawn(case, seed=0, dtype=np.float64):
    """A case's inputs, read-only."""
    return {name: frozen(a) for name, a in case.draw(np.random.default_rng(seed), dtype).items()}


def forward(case, inputs):
    """y of NumPy's, and the cache as it is on the current device."""
    y, cache = case.forward(**{name: backends.put(a) for name, a in inputs.items()})
    return backends.get(y), cache


def gradients(case, dy, cache):
    return backends.get(case.backward(backends.put(dy), cache))


@DTYPES
@EVERY_CASE
def test_zero_dy_gives_zero_gradients(case, dtype):
    inputs = drawn(case, dtype=dtype)
    y, cache = forward(case, inputs)
    assert y.dtype == dtype
    floats = [a for a in inputs.values() if a.dtype == dtype]
    for a, grad in zip(floats, gradients(case, frozen(np.zeros_like(y)), cache), strict=True):
        assert (grad.shape, grad.dtype) == (a.shape, dtype)
        assert not grad.any()


@EVERY_CASE
def test_no_images_are_a_batch_too(case):
    """As a rank has them whose part of the batch is empty; an average over none is refused by name."""
    inputs = drawn(case)
    for name in {"x", "logits", "labels", "mask"} & inputs.keys():
        inputs[name] = inputs[name][..., :0]
    if case.name == "batch_norm" or (case.name == "softmax_loss" and "total" not in case.settings):
        with pytest.raises(ValueError, match="at least 1 image"):
            forward(case, inputs)
        return
    y, cache = forward(case, inputs)
    whole, _ = forward(case, drawn(case))
    assert y.shape == (*whole.shape[:-1], 0) if whole.shape else y == 0
    floats = [a for a in inputs.values() if a.dtype == y.dtype]
    for a, grad in zip(floats, gradients(case, frozen(np.zeros_like(y)), cache), strict=True):
        assert grad.shape == a.shape
        assert not grad.any()


@EVERY_CASE
def test_backward_twice_agrees(case):
    """And neither result is touched by another forward and backward in between, cache included."""
    y, cache = forward(case, drawn(case))
    dy, other = normal(np.random.default_rng(0), y.shape), normal(np.random.default_rng(1), y.shape)
    first = gradients(case, dy, cache)
    kept = [y.copy(), *(grad.copy() for grad in first)]
    gradients(case, other, forward(case, drawn(case, seed=1))[1])
    again = gradients(case, dy, cache)
    for found, expected in zip([y, *first], kept, strict=True):
        assert (found == expected).all()
    for found, expected in zip(again, first, strict=True):
        assert (found == expected).all()


@pytest.mark.parametrize("case", A_PAIR.values(), ids=A_PAIR)
def test_dy_must_fit(case):
    """A dy that would only broadcast, or of another dtype, is refused."""
    y, cache = forward(case, drawn(case))
    for shape in [(*y.shape[:-1], y.shape[-1] + 1), (y.shape[0] + 1, *y.shape[1:]), (1,) * y.ndim]:
        with pytest.raises(ValueError, match=re.escape(str(shape))):
            gradients(case, np.ones(shape), cache)
    with pytest.raises(TypeError, match="float32"):
        gradients(case, np.ones(y.shape, np.float32), cache)


@EVERY_CASE
def test_any_memory_layout(case):
    """Arguments may be views: every second number of a larger array, axes stored in another order."""

    def scattered(array):
        wide = np.zeros([2 * size for size in array.shape[::-1]], array.dtype).T
        wide[...] = np.nan if array.dtype.kind == "f" else 1
        view = wide[(*(slice(None, None, 2),) * array.ndim, ...)]
        view[...] = array
        return frozen(view)

    inputs = drawn(case)
    y, cache = forward(case, inputs)
    dy = normal(np.random.default_rng(0), y.shape)
    y_found, cache_found = forward(case, {name: scattered(a) for name, a in inputs.items()})
    assert_close(y_found, y, np.float64, "y")
    found = gradients(case, scattered(dy), cache_found)
    for grad, expected in zip(found, gradients(case, dy, cache), strict=True):
        assert_close(grad, expected, np.float64, "gradient")


def test_large_results_survive_later_calls():
    """Results of sizes that come from the buffer pool are not handed out again while in use."""
    rng = np.random.default_rng(0)
    w, b = normal(rng, (8, 4, 3, 3)), normal(rng, (8,))
    runs = []
    for _ in range(4):
        x = normal(rng, (4, 16, 15, 16))
        y, cache = conv2d_forward(x, w, b, pad=1)
        pooled, pool_cache = max_pool_forward(y, 3, 2)
        normed, lrn_cache = lrn_forward(y)
        dy = max_pool_backward(pooled, pool_cache) + lrn_backward(normed, lrn_cache)
        results = [y, pooled, normed, *conv2d_backward(dy, cache)]
        runs.append((results, [result.copy() for result in results]))
    for results, copies in runs:
        for result, copy in zip(results, copies, strict=True):
            assert (result == copy).all()


# --- bad arguments -------------------------------------------------------------------------------


def _conv(x=(4, 8, 7, 2), w=(6, 4, 3, 3), b=(6,), **how):
    return lambda: conv2d_forward(np.zeros(x), np.zeros(w), np.zeros(b), **how)


def _conv_backward(dy):
    return lambda: conv2d_backward(np.zeros(dy), _conv()()[1])


def _typed(function, *arrays):
    return lambda: function(*(np.zeros(shape, dtype) for shape, dtype in arrays))


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        pytest.param(_conv(w=(6, 4, 9, 3)), ValueError, ["9", "8"], id="kernel higher than the map"),
        pytest.param(_conv(w=(6, 4, 3, 10), pad=1), ValueError, ["10", "7"], id="kernel wider than the map"),
        pytest.param(_conv(groups=3, w=(6, 1, 3, 3)), ValueError, ["4", "3"], id="channels in groups"),
        pytest.param(_conv(groups=4, w=(6, 1, 3, 3)), ValueError, ["6", "4"], id="filters in groups"),
        pytest.param(_conv(groups=0), ValueError, ["0"], id="no groups"),
        pytest.param(
            _conv(groups=1.0), ValueError, ["1.0 equal groups"], id="groups that are no whole number"
        ),
        pytest.param(_conv(w=(0, 4, 3, 3), b=(0,)), ValueError, ["0 filters"], id="no filters"),
        pytest.param(
            lambda: conv2d_forward(np.zeros((4, 8, 7, 2)), np.zeros((6, 4, 3, 3)), None),
            ValueError,
            ["expected b,", "None"],
            id="conv2d of no bias",
        ),
        pytest.param(
            lambda: linear_forward(np.zeros((3, 2)), np.zeros((5, 3)), None),
            ValueError,
            ["expected b,", "None"],
            id="linear of no bias",
        ),
        *(
            pytest.param(
                lambda f=f: f(np.array([-3, 1])),
                TypeError,
                ["float32", "int64"],
                id=f"{f.__name__} of whole numbers",
            )
            for f in (relu_forward, tanh_forward, logistic_forward, ops.relu6_forward, ops.leaky_relu_forward)
        ),
        pytest.param(_conv(w=(6, 5, 3, 3)), ValueError, ["5", "4"], id="filters of other channels"),
        pytest.param(_conv(b=(5,)), ValueError, ["6", "5"], id="bias of other filters"),
        pytest.param(_conv(stride=0), ValueError, ["stride", "0"], id="stride 0"),
        pytest.param(_conv(stride=-2), ValueError, ["stride", "-2"], id="stride -2"),
        pytest.param(_conv(pad=-1), ValueError, ["pad", "-1"], id="negative pad"),
        pytest.param(_conv(pad=(0, 1, 2)), ValueError, ["pad", "(0, 1, 2)"], id="three pads"),
        pytest.param(_conv(x=(4, 8, 7)), ValueError, ["(4, 8, 7)"], id="no batch axis"),
        pytest.param(_conv_backward((5, 6, 5, 2)), ValueError, ["5", "6"], id="dy of other filters"),
        pytest.param(_conv_backward((6, 5, 5, 2)), ValueError, ["(6, 5, 5, 2)"], id="dy of other height"),
        pytest.param(_conv_backward((6, 6, 4, 2)), ValueError, ["(6, 6, 4, 2)"], id="dy of other width"),
        pytest.param(_conv_backward((6, 6, 5, 3)), ValueError, ["(6, 6, 5, 3)"], id="dy of other images"),
        pytest.param(
            _typed(conv2d_forward, ((1, 3, 3, 1), "f4"), ((1, 1, 2, 2), "f8"), ((1,), "f4")),
            TypeError,
            ["float32", "float64"],
            id="conv2d of mixed dtypes",
        ),
        pytest.param(
            _typed(conv2d_forward, ((1, 3, 3, 1), "u1"), ((1, 1, 2, 2), "u1"), ((1,), "u1")),
            TypeError,
            ["uint8"],
            id="conv2d of bytes",
        ),
        pytest.param(
            _typed(linear_forward, ((3, 2), "f4"), ((5, 3), "f8"), ((5,), "f4")),
            TypeError,
            ["float32", "float64"],
            id="linear of mixed dtypes",
        ),
        pytest.param(
            _typed(linear_forward, ((4, 2), "f8"), ((5, 3), "f8"), ((5,), "f8")),
            ValueError,
            ["4", "3"],
            id="linear of other features",
        ),
        pytest.param(
            _typed(linear_forward, ((3, 2), "f8"), ((5, 3), "f8"), ((6,), "f8")),
            ValueError,
            ["5", "6"],
            id="linear's bias",
        ),
        *(
            pytest.param(
                lambda f=f, how=how: f(np.zeros((2, 4, 5, 3)), **how), ValueError, said, id=name + what
            )
            for name, f in [("max_pool ", max_pool_forward), ("avg_pool ", avg_pool_forward)]
            for what, how, said in [
                ("window larger than the map", {"z": 9, "s": 2}, ["9", "4"]),
                ("stride 0", {"z": 3, "s": 0}, ["0"]),
                ("stride -1", {"z": 3, "s": -1}, ["-1"]),
                ("window 0", {"z": 0, "s": 1}, ["0"]),
                ("negative pad", {"z": 3, "s": 2, "pad": -1}, ["-1"]),
                ("window of padding alone", {"z": 2, "s": 1, "pad": 2}, ["2"]),
            ]
        ),
        pytest.param(
            lambda: lrn_forward(np.zeros((5, 1, 1, 1)), groups=2), ValueError, ["5", "2"], id="lrn groups"
        ),
        pytest.param(
            lambda: lrn_forward(np.zeros((5, 1, 1, 1)), n=0), ValueError, ["0"], id="lrn of no maps"
        ),
        pytest.param(
            lambda: same_map_norm_forward(np.zeros((5, 1, 1, 1)), n=0),
            ValueError,
            ["0"],
            id="same_map_norm n",
        ),
        pytest.param(
            lambda: batch_norm_forward(np.zeros((4, 3)), np.ones(4), np.ones(3)),
            ValueError,
            ["b: ", "(4,)", "(3,)"],
            id="batch_norm b",
        ),
        pytest.param(
            lambda: batch_norm_forward(np.zeros((4, 3)), np.ones(4), np.ones(4), np.ones(4)),
            ValueError,
            ["mean and var"],
            id="batch_norm mean alone",
        ),
        pytest.param(
            lambda: batch_norm_forward(np.zeros((4, 3, 2)), np.ones(4), np.ones(4)),
            ValueError,
            ["(4, 3, 2)"],
            id="batch_norm of three axes",
        ),
        pytest.param(
            _typed(batch_norm_forward, ((4, 3), "f4"), ((4,), "f8"), ((4,), "f4")),
            TypeError,
            ["float32", "float64"],
            id="batch_norm of mixed dtypes",
        ),
        pytest.param(
            lambda: dropout_forward(np.zeros((4, 3)), np.ones((4, 1), bool)),
            ValueError,
            ["(4, 3)", "(4, 1)"],
            id="dropout mask of another shape",
        ),
        pytest.param(
            lambda: dropout_forward(np.zeros((4, 3)), np.ones((4, 3), bool), keep=1.5),
            ValueError,
            ["1.5"],
            id="dropout keeps more than all",
        ),
        pytest.param(
            lambda: softmax_loss_forward(np.zeros((4, 2)), np.array([0, 4])), ValueError, ["4"], id="label K"
        ),
        pytest.param(
            lambda: softmax_loss_forward(np.zeros((4, 2)), np.array([0, -1])),
            ValueError,
            ["-1"],
            id="label -1",
        ),
        pytest.param(
            lambda: softmax_loss_forward(np.zeros((4, 2)), np.array([0])),
            ValueError,
            ["2", "1"],
            id="too few labels",
        ),
        pytest.param(
            lambda: topk_error(np.zeros((4, 2)), np.array([0, 4]), 1),
            ValueError,
            ["4"],
            id="top-k of label K",
        ),
        *(
            pytest.param(call, error, said, id=name)
            for name, call, error, said in [
                (
                    "mask of whole numbers",
                    lambda: dropout_forward(np.ones((4, 3)), np.ones((4, 3), int)),
                    ValueError,
                    ["bool (4, 3)", "int64 (4, 3)"],
                ),
                ("softmax of no class", lambda: softmax(np.ones((0, 3))), ValueError, ["logits", "(0, 3)"]),
                ("softmax of one number", lambda: softmax(np.ones(())), ValueError, ["logits (K, …)", "()"]),
                ("softmax of ints", lambda: softmax(np.ones((4, 3), int)), TypeError, ["logits is int64"]),
                (
                    "lrn of no channels",
                    lambda: lrn_forward(np.ones((0, 3, 4, 2))),
                    ValueError,
                    ["0 channels"],
                ),
                ("lrn of half a map", lambda: lrn_forward(np.ones((4, 3, 4, 2)), n=2.5), ValueError, ["2.5"]),
                (
                    "means of no pixels",
                    lambda: ops.global_avg_pool_forward(np.ones((4, 0, 3, 2))),
                    ValueError,
                    ["(4, 0, 3, 2)"],
                ),
                ("im2col", lambda: im2col(np.ones((4, 3, 2)), 2, 2), ValueError, ["(C,H,W,N)", "(4, 3, 2)"]),
                ("col2im of x", lambda: col2im(np.ones((8, 6)), (4, 3), 2, 2), ValueError, ["x (C,H,W,N)"]),
                (
                    "col2im of other columns",
                    lambda: col2im(np.ones((6, 8)), (2, 3, 4, 1), 2, 2),
                    ValueError,
                    ["cols of shape (8, 6)", "(6, 8)"],
                ),
            ]
        ),
        *(
            pytest.param(
                lambda total=total: softmax_loss_forward(np.ones((4, 2)), np.array([0, 3]), total),
                ValueError,
                ["total", repr(total)],
                id=f"loss of {total} images",
            )
            for total in (0, -1, 1.5, np.inf, np.nan, "all")
        ),
        *(
            pytest.param(
                lambda k=k: topk_error(np.ones((4, 2)), np.array([0, 3]), k),
                ValueError,
                ["1 ≤ k ≤ 4", repr(k)],
                id=f"the best {k}",
            )
            for k in (0, 5, 1.5, "2")
        ),
        pytest.param(
            lambda: topk_error(np.ones((4, 2, 1)), np.array([0, 3])),
            ValueError,
            ["scores (K,N)", "(4, 2, 1)"],
            id="the best of three axes",
        ),
        pytest.param(
            lambda: relu_backward(None, np.ones(3)), ValueError, ["dy", "(3,)", "NoneType"], id="no dy"
        ),
    ],
)
def test_bad_arguments_are_named(call, error, said, request, version):
    case = request.node.callspec.id
    if backends.kind == "cuda" and ("-top-k" in case or ("-label" in case and version == "fast")):
        pytest.skip("the values of labels are not looked at on a GPU")
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in said), f"{caught.value} does not say {said}"


@pytest.mark.parametrize("case", {case.name: case for case in CASES}.values(), ids=lambda case: case.name)
def test_an_axis_too_many_or_too_few_is_named(case):
    """By an ArgumentError that names the operation; an activation takes any shape, a number's too."""
    forward = backends.through(getattr(ops, f"{case.name}_forward"))
    right = case.draw(np.random.default_rng(0))
    for name, array in right.items():
        for wrong in (array[..., None], array[..., 0], array.ravel()[0].reshape(())):
            changed = {**right, name: wrong}
            if "relu" in case.name or case.name in ("tanh", "logistic"):
                whole, _ = forward(**right, **case.settings)
                y, _ = forward(**changed, **case.settings)
                assert np.shape(y) == wrong.shape
                np.testing.assert_allclose(np.ravel(y)[0], whole.ravel()[0], rtol=1e-14)
            else:
                with pytest.raises(ArgumentError, match=rf"^{case.name}: (\w: |)expected .* found"):
                    forward(**changed, **case.settings)


@pytest.mark.parametrize("case", {case.name: case for case in CASES}.values(), ids=lambda case: case.name)
def test_an_argument_that_is_no_array_is_named(case):
    """By an ArgumentError: a None, nested lists of the right numbers, a text, what looks like an array."""
    inputs = drawn(case)
    for name, array in inputs.items():
        like = SimpleNamespace(shape=array.shape, ndim=array.ndim, dtype=array.dtype)
        for wrong in (None, array.tolist(), "pixels", np.random.default_rng(0), *[like] * (name != "mask")):
            says = f": expected (a )?{name}, (an array|bool .*), found {type(wrong).__name__}$"
            with pytest.raises(ArgumentError, match=f"^{case.name.replace('_relu', '.relu')}{says}"):
                forward(case, {**inputs, name: wrong})
    if case.name != "softmax_loss":  # it takes no dy
        y, cache = forward(case, inputs)
        for wrong in (None, y.tolist(), "dy"):
            says = f"backward: expected dy of shape .*, found {type(wrong).__name__}$"
            with pytest.raises(ArgumentError, match=says):
                gradients(case, wrong, cache)


def test_scores_and_columns_that_are_no_arrays_of_floats_are_named():
    labels, columns = np.array([0, 3]), ((4, 3, 5, 2), 2, 2)
    for name, call in [
        ("softmax: expected logits", softmax),
        ("topk_error: expected scores", lambda wrong: topk_error(wrong, labels)),
        ("topk_error: expected labels", lambda wrong: topk_error(np.ones((4, 2)), wrong)),
        ("im2col: expected x", lambda wrong: im2col(wrong, 2, 2)),
        ("col2im: expected cols", lambda wrong: col2im(wrong, *columns)),
        ("batch_norm: expected var", lambda wrong: batch_norm_forward(*_maps(4), np.ones(4), wrong)),
    ]:
        for wrong in ([[1.0, 2.0]] * 4, "scores", *[None] * ("var" not in name)):
            with pytest.raises(ArgumentError, match=f"^{name}, an array, found {type(wrong).__name__}$"):
                call(wrong)
    for kind in (complex, int, np.float16, bool, *[object] * (backends.kind == "cpu")):
        with pytest.raises(TypeError, match=f"^topk_error: .*float32 .*scores is {np.dtype(kind).name}$"):
            topk_error(np.ones((4, 2), kind), labels)
    for wrong in (None, (4, 3, 5), 4):
        with pytest.raises(ArgumentError, match=re.escape(f"col2im: expected x (C,H,W,N), found {wrong!r}")):
            col2im(np.ones((16, 16)), wrong, 2, 2)
    for wrong in (None, 2.0, "2", 0):
        with pytest.raises(
            ArgumentError, match=f"^im2col: window: expected .* found {re.escape(repr((2, wrong)))}$"
        ):
            im2col(np.ones((4, 3, 5, 2)), 2, wrong)


def _maps(C):
    """Some maps, and a weight and a bias for each."""
    return np.ones((C, 3, 5, 2)), np.ones(C), np.zeros(C)


@pytest.mark.parametrize("activation", ["relu", True, relu_forward], ids=["its name", "True", "half a pair"])
def test_an_activation_that_is_no_pair_is_named(activation):
    maps, _, bias = _maps(4)
    for operation, forward, x, w, b in [
        ("conv2d", conv2d_forward, maps, np.ones((4, 4, 3, 3)), bias),
        ("linear", linear_forward, np.ones((3, 2)), np.ones((4, 3)), bias),
        (
            "local2d",
            backends.through(ops.local2d_forward),
            maps,
            np.ones((2, 1, 3, 4, 3, 3)),
            np.ones((2, 1, 3)),
        ),
    ]:
        with pytest.raises(
            ArgumentError, match=rf"^{operation}: activation: expected ops.relu or its like, found"
        ):
            forward(x, w, b, activation=activation)
        y, _ = forward(x, w, b, activation=ops.relu)  # what was wrong is the activation alone
        assert y.any()


@pytest.mark.parametrize("keep", [0, -0.5, 1.5, np.nan, np.inf, None, "0.5", True], ids=repr)
def test_what_is_no_probability_to_keep_is_named(keep):
    says = re.escape(f"keep: expected a probability, 0 < keep ≤ 1, found {keep!r}")
    for call in (
        lambda: dropout_mask(np.random.default_rng(0), (4, 3), keep),
        lambda: dropout_forward(np.ones((4, 3)), np.ones((4, 3), bool), keep=keep),
        lambda: dropout_forward(np.ones((4, 3)), None, keep=keep, train=False),
    ):
        with pytest.raises(ArgumentError, match=says):
            call()


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, None, "1", 1j, [1.0], True], ids=repr)
def test_a_constant_that_is_no_finite_number_is_named(number):
    maps, *ones = _maps(4)
    for operation, names, call in [
        ("lrn", ("k", "alpha", "beta"), partial(lrn_forward, maps)),
        ("same_map_norm", ("k", "alpha", "beta"), partial(same_map_norm_forward, maps)),
        ("batch_norm", ("eps",), partial(batch_norm_forward, maps, *ones)),
        ("tanh", ("a", "b"), partial(tanh_forward, maps)),
        ("leaky relu", ("slope",), partial(backends.through(ops.leaky_relu_forward), maps)),
    ]:
        for name in names:
            least = " ≥ 0" * (name not in ("a", "b"))
            says = f"{operation}: {name}: expected a finite number{least}, found {number!r}"
            with pytest.raises(ArgumentError, match=re.escape(says)):
                call(**{name: number})


SIZES = "expected whole numbers (size, window ≥ 1, stride ≥ 1, before, after)"


@pytest.mark.parametrize(
    ("says", "call"),
    [
        ("leaky relu: slope: expected a finite number ≥ 0, found -0.1", lambda x: ops.leaky_relu(-0.1)),
        ("leaky relu: slope: expected a finite number ≥ 0", lambda x: ops.leaky_relu_forward(x, -0.1)),
        ("leaky relu: slope: expected a finite number ≥ 0", lambda x: ops.leaky_relu_backward(x, x, -0.1)),
        ("lrn: k: expected a finite number ≥ 0, found -2", lambda x: lrn_forward(_maps(4)[0], k=-2)),
        ("lrn: alpha: expected a finite number ≥ 0", lambda x: lrn_forward(_maps(4)[0], alpha=-1e-4)),
        ("same_map_norm: beta: expected a finite", lambda x: same_map_norm_forward(_maps(4)[0], beta=-0.75)),
        ("batch_norm: eps: expected a finite number ≥ 0", lambda x: batch_norm_forward(*_maps(4), eps=-1e-5)),
        ("tanh: a: expected a number that is not 0, found 0", lambda x: ops.tanh(0)),
        ("tanh: b: expected a finite number, found None", lambda x: ops.tanh(1, None)),
        (f"conv2d: {SIZES}, found (7, 2.5, 1, 0, 0)", lambda x: ops.output_size(7, 2.5, 1, 0, 0)),
        (f"conv2d: {SIZES}, found (7, 3, 0, 0, 0)", lambda x: ops.output_size(7, 3, 0, 0, 0)),
        (f"conv2d: {SIZES}, found (7, 3, 1, -1, 0)", lambda x: ops.output_size(7, 3, 1, -1, 0)),
        (f"pool: {SIZES}, found (7, 3, 1.5, 0, 0)", lambda x: ops.pooled_size(7, 3, 1.5, 0, 0)),
        (f"pool: {SIZES}, found (-7, 3, 2, 0, 0)", lambda x: ops.pooled_size(-7, 3, 2, 0, 0)),
        ("rng: expected a generator, such as np", lambda x: dropout_mask(0, (4, 3))),
        ("relu backward: expected y, an array, found list", lambda x: relu_backward(x, [1.0])),
        ("tanh backward: expected y, an array, found tuple", lambda x: tanh_backward(x, (x, x))),
        ("leaky relu backward: expected y, an", lambda x: ops.leaky_relu_backward(x, None)),
    ],
)
def test_what_would_give_a_wrong_number_or_python_s_words_is_named(says, call):
    with pytest.raises(ArgumentError, match=f"^{re.escape(says)}"):
        call(backends.put(np.ones((4, 3))))


@pytest.mark.parametrize("case", {case.name: case for case in CASES}.values(), ids=lambda case: case.name)
def test_a_cache_of_another_operation_is_refused(case, version):
    """Of as many parts, in whatever order they may be; an activation's is y, an array.

    The plain operations, which are there to be read, take what they are given.
    """
    y, cache = forward(case, drawn(case))
    if not hasattr(cache, "_fields") or version == "plain":
        return
    for wrong in (tuple(cache), None):
        says = f"^{case.name} backward: cache: expected an? .*Cache, found "
        with pytest.raises(ArgumentError, match=says):
            gradients(case, np.ones_like(y), wrong)


@pytest.mark.parametrize(
    "two", [np.int64(2), np.uint8(2), [2, 2], (np.int32(2), 2), np.array([2, 2]), np.array(2)], ids=repr
)
def test_whole_numbers_and_pairs_are_python_s_or_numpy_s(two):
    x, w, b = (
        normal(np.random.default_rng(k), shape) for k, shape in enumerate([(3, 7, 6, 2), (4, 3, 3, 3), 4])
    )
    for found, wanted in (
        (conv2d_forward(x, w, b, stride=two), conv2d_forward(x, w, b, stride=2)),
        (max_pool_forward(x, two, two), max_pool_forward(x, 2, 2)),
        (avg_pool_forward(x, two, 1), avg_pool_forward(x, 2, 1)),
    ):
        assert (found[0] == wanted[0]).all()


@pytest.mark.parametrize(
    "two", [2.0, np.float32(2), True, np.True_, "2", None, (2,), {1, 2}, [2, 0]], ids=repr
)
def test_what_is_no_whole_number_and_no_pair_is_named(two):
    x, w, b = np.zeros((3, 7, 6, 2)), np.zeros((4, 3, 3, 3)), np.zeros(4)
    with pytest.raises(
        ValueError, match=r"stride: expected a number ≥ 1, or two \(vertical, horizontal\), found"
    ):
        conv2d_forward(x, w, b, stride=two)
    with pytest.raises(ValueError, match="window z: expected a number ≥ 1, or two"):
        max_pool_forward(x, two, 2)


# --- the three versions of a pair -----------------------------------------------------------------


OPERATIONS = [getattr(ops, name) for name in ops.__all__ if name.endswith(("_forward", "_backward"))]
MADE_FAST = (
    "conv2d", "linear", "max_pool", "avg_pool", "lrn", "same_map_norm", "batch_norm", "dropout",
    "softmax_loss",
)  # fmt: skip


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_chosen_within_plain_ops_is_the_plain_operation_with_the_same_arguments(operation, version):
    plain = getattr(ops.plain, operation.__name__, operation)
    if operation.__name__.startswith(MADE_FAST):
        assert plain is not operation  # the others read like their formulas as they are
    assert chosen(operation) is (plain if version == "plain" else operation)
    assert inspect.signature(plain) == inspect.signature(operation)


def test_plain_ops_holds_for_every_thread_and_ends_with_the_block(version):
    outside = {"fast": ops.conv2d_forward, "plain": ops.plain.conv2d_forward}[version]

    def on_a_rank():
        return launch(lambda comm: chosen(ops.conv2d_forward), parse("cpu:0,cpu:1"))

    assert on_a_rank() == [outside] * 2
    with contextlib.suppress(KeyError), plain_ops():
        with plain_ops():
            assert on_a_rank() == [ops.plain.conv2d_forward] * 2
        assert on_a_rank() == [ops.plain.conv2d_forward] * 2
        raise KeyError  # the block ends with an error, too
    assert chosen(ops.conv2d_forward) is outside
