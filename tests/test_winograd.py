"""Minimal filtering gives the numbers of the reference: here it is done for every size that it knows."""

from fractions import Fraction
from unittest import mock

import numpy as np
import pytest
from hypothesis import strategies as st
from test_ops import NEURONS, assert_close, dtypes, examples, normal, other, seeds

from tinyalex.ops import conv2d_backward, conv2d_forward, reference, winograd


@st.composite
def convolutions(draw):
    """(x shape, w shape, conv2d's keywords): 3×3 and 5×5 kernels, maps of some tiles, four different pads."""
    k = draw(st.sampled_from([3, 5]))
    groups, CG = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    FG = other(draw, range(1, 4), CG)
    H = draw(st.integers(k, 10))
    W = other(draw, range(k, 12), H)
    N = draw(st.integers(1, 3))
    pad = tuple(draw(st.integers(0, k - 1)) for _ in range(4))
    return (groups * CG, H, W, N), (groups * FG, CG, k, k), {"stride": 1, "pad": pad, "groups": groups}


def always(tiles=1 << 20):
    """Within the block all that is known is done by minimal filtering, in blocks of so many bytes."""
    sizes = {"LEAST": 0, "PRODUCTS_BYTES": tiles, "TRANSFORM_BYTES": tiles // 8}
    return mock.patch.multiple(winograd, **sizes)


@examples(
    100,
    dtypes,
    convolutions(),
    st.sampled_from(["none", "relu"]),
    st.sampled_from([1, 40_000, 1 << 20]),
    seeds,
)
def test_equals_the_reference(dtype, case, neuron, tiles, rng):
    x_shape, w_shape, how = case
    x, w, b = (normal(rng, shape, dtype) for shape in (x_shape, w_shape, w_shape[:1]))
    fast, neuron_forward, neuron_backward = NEURONS[neuron]
    with always(tiles):
        y, cache = conv2d_forward(x, w, b, **how, activation=fast)
        dy = normal(rng, y.shape, dtype)
        dx, dw, db = conv2d_backward(dy, cache)
    before = reference.conv2d(x, w, b, **how)
    # A sum's error is measured by its terms, whose squares are summed here: few sums may all cancel.
    terms = np.sqrt(reference.conv2d(x**2, w**2, b**2, **how)).max()
    assert_close(y, neuron_forward(before), dtype, "y", terms=terms)
    # The neuron's slope is taken where the fast sum saw it: rounding may put a sum on either side of 0.
    g = neuron_backward(dy, np.where(y > 0, 1.0, -1.0)) if neuron == "relu" else dy
    expected = reference.conv2d_backward(np.asarray(g, np.float64), x, w, **how)
    squares = reference.conv2d_backward(np.asarray(g, np.float64) ** 2, x**2, w**2, **how)
    for name, found, e, s in zip(("dx", "dw", "db"), (dx, dw, db), expected, squares, strict=True):
        assert_close(found, e, dtype, name, terms=np.sqrt(s).max())


@pytest.mark.parametrize(("matrix", "row"), [("A", 1), ("A", 5), ("B", 0), ("B", 4), ("G", 14)])
def test_a_wrong_transform_is_seen(matrix, row):
    """Scale one row of one transform by 1.001: the comparison above must fail."""
    wrong = dict(zip("ABG", (m.copy() for m in winograd._matrices(3, np.dtype(np.float32))), strict=True))
    wrong[matrix][row] *= 1.001
    rng = np.random.default_rng(0)
    x, w, b = (normal(rng, shape) for shape in ((2, 9, 11, 3), (3, 2, 3, 3), (3,)))
    with always(), mock.patch.object(winograd, "_matrices", return_value=tuple(wrong.values())):
        y, cache = conv2d_forward(x, w, b, 1, 1)
        dy = normal(rng, y.shape)
        dx, dw, _ = conv2d_backward(dy, cache)
    expected = [reference.conv2d(x, w, b, 1, 1), *reference.conv2d_backward(dy, x, w, 1, 1)[:2]]
    errors = [np.abs(a - e).max() / np.abs(e).max() for a, e in zip((y, dx, dw), expected, strict=True)]
    assert max(errors) > 1e-5


@pytest.mark.parametrize("k", [3, 5])
def test_the_transforms_are_an_identity_of_polynomials(k):
    """Σ_a A[a,i] G[a,p] B[a,r] is 1 where r = i + p, else 0: exactly, in fractions."""
    points = [Fraction(0), *(s * Fraction(a) for a in winograd.POINTS[k] for s in (1, -1))]
    n = k + 3

    A, B, GG = winograd._matrices(k, np.dtype(float))
    G = GG.reshape(n, n, k, k)[:, -1, :, -1]  # of G ⊗ G; the last row and column, of ∞, meet in a 1
    np.testing.assert_array_equal(A[:-1], [[float(a**i) for i in range(4)] for a in points])
    whole = np.einsum("ai,ap,ar->ipr", A, G, B)
    expected = [[[float(r == i + p) for r in range(n)] for p in range(k)] for i in range(4)]
    np.testing.assert_allclose(whole, expected, atol=1e-14)


@pytest.mark.parametrize(("k", "C", "bound"), [(3, 192, 5e-6), (5, 48, 1e-5)])
def test_rounding_in_float32(k, C, bound):
    """AlexNet's sizes: the largest error, as a part of the largest output, against float64."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((C, 13, 13, 4)), 0)
    w, b = rng.standard_normal((64, C, k, k)) * 0.03, np.zeros(64)
    exact = conv2d_forward(x, w, b, 1, k // 2)[0]
    single = [a.astype(np.float32) for a in (x, w, b)]
    assert winograd.pays(single[1], (1, 1), 1)
    found = conv2d_forward(*single, 1, k // 2)[0]
    assert np.abs(found - exact).max() < bound * np.abs(exact).max()


def test_what_is_left_to_im2col():
    w = np.empty((64, 64, 3, 3))
    assert winograd.pays(w, (1, 1), 1)
    assert not winograd.pays(w, (2, 2), 1)
    assert not winograd.pays(w[:, :, :, :2], (1, 1), 1)  # not square
    assert not winograd.pays(np.empty((64, 64, 7, 7)), (1, 1), 1)  # points for 3 and 5 only
    assert not winograd.pays(w[:, :8], (1, 1), 1)  # too few channels
    assert winograd.pays(w[:, :12], (1, 1), 1)
    assert not winograd.pays(w[:, :12], (1, 1), 4)  # too few filters in each of four groups
