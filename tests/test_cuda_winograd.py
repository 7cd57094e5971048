"""The GPU's minimal filtering: every edge of its tiles against NumPy, where it pays, and planted faults."""

import sys
from collections import Counter

import backends
import numpy as np
import pytest
from test_cuda_conv import compare, drawn

from tinyalex.comm import Comm
from tinyalex.devices import Device
from tinyalex.measure import traffic
from tinyalex.nn import Conv2d, Sequential
from tinyalex.ops.activation import relu
from tinyalex.ops.conv import conv2d_forward
from tinyalex.ops.cuda import implicit_gemm, winograd
from tinyalex.ops.cuda import launch as cuda_launch
from tinyalex.ops.cuda.launch import timed
from tinyalex.ops.cuda.sums import backward_and_sum, sum_rows

# of the largest number; the CPU's, which test_winograd measures with more channels, are 5e-6 and 1e-5
TOLERANCE = {("float32", 3): 5e-6, ("float32", 5): 1e-5, ("float64", 3): 1e-13}
CASES = [pytest.param(*case, marks=pytest.mark.slow if "float64" in case else ()) for case in TOLERANCE]


@pytest.fixture
def always(monkeypatch):
    """All that is known is done by minimal filtering."""
    monkeypatch.setattr(winograd, "pays", lambda w, y, stride, groups: True)


def check(dtype="float32", kernels=(3, 5), many=False):
    """Maps that fill no tile, four different pads, towers, filters and channels that fill no stage.

    many: several tiles of filters too, forward and backward.
    """
    for k in kernels:
        for N, pad in ((3, (1, 0, 2, 1)), (8, 0)):
            compare((6, 9, 7, N), (10, 3, k, k), dtype, 1, pad, 2, tolerance=TOLERANCE[dtype, k])
        if many:
            compare((130, 5, 4, 4), (130, 130, k, k), dtype, 1, 1, tolerance=TOLERANCE[dtype, k])


@pytest.mark.parametrize(("dtype", "k"), CASES)
def test_equals_numpy(dtype, k, gpu, always):
    check(dtype, (k,), many=k == 3)


def test_in_several_blocks(gpu, always, monkeypatch):
    """Whose room holds one row of tiles; the sums of dw in three chunks, the last of them shorter."""
    monkeypatch.setattr(winograd, "SCRATCH_BYTES", 1)
    monkeypatch.setattr(winograd, "LEAST_STEPS", 1)
    check("float32", (3,))
    V, X = backends.put(drawn(2, 3, 5, 1, 16)), backends.put(drawn(2, 4, 5, 1, 16))
    for blocks, room, chunks in ((10, 5, 5), (10, 2, 2), (9, 5, 3)):  # by the card, by the memory
        monkeypatch.setattr(implicit_gemm, "wave", lambda *args, blocks=blocks: blocks)
        monkeypatch.setattr(implicit_gemm, "SCRATCH_BYTES", room * 2 * 3 * 4 * 4)
        assert len(winograd._products_back(V, X, 3, 4, winograd.TILES_W[-1])) == chunks
    monkeypatch.setattr(implicit_gemm, "wave", lambda *args: 1)
    part = backends.get(winograd._products_back(V, X, 3, 4, winograd.TILES_W[-1]))
    assert part.shape == (3, 6, 5)  # the last column: of nothing
    V, X = (backends.get(a).reshape(2, -1, 80) for a in (V, X))
    for own, columns in zip(part, (slice(32), slice(32, 64), slice(64, 80)), strict=True):
        expected = np.einsum("pfm,pcm->pfc", V[..., columns], X[..., columns])
        np.testing.assert_allclose(own[:, :4], expected.reshape(6, 4), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [600, 610, 1000, 1820])
def test_the_sums_of_many_groups_are_cut_into_chunks_that_a_grid_can_count(groups, standin, monkeypatch):
    """36 places of each group, and three chunks of each: from 607 groups on those were too many."""
    grids = []
    monkeypatch.setattr(winograd, "launch", lambda kernel, threads, *args, **how: grids.append(threads))
    monkeypatch.setattr(winograd, "LEAST_STEPS", 1)
    V = sys.modules["cupy"].empty((36, groups, 5, 1, 16), np.float32)
    part = winograd._products_back(V, V, 1, 1, winograd.TILES_W[-1])
    assert grids[0][2] == 36 * groups * len(part) <= cuda_launch.MOST
    assert len(part) == {600: 3, 610: 2}.get(groups, 1)


@pytest.mark.parametrize("tile", winograd.TILES_W, ids=lambda tile: f"{tile.TF}x{tile.TN}")
def test_each_tile_of_the_sums_of_dw(tile, gpu):
    """With filters and channels that fill none, in two groups; AlexNet's layers get those that they fill."""
    V, X = drawn(2, 2 * 70, 5, 1, 8), drawn(2, 2 * 50, 5, 1, 8)
    found = winograd._products_back(*map(backends.put, (V, X)), 70, 50, tile, 2)
    V, X = (a.reshape(4, -1, 40) for a in (V, X))
    expected = np.einsum("pfm,pcm->pfc", V, X).reshape(-1, 50)
    np.testing.assert_allclose(backends.get(found).sum(axis=0)[:, :50], expected, rtol=1e-4, atol=1e-4)
    layers = {(128, 48): 48, (384, 256): 64, (192, 192): 64, (128, 192): 64}
    for (F, C), taps in layers.items():
        assert taps == implicit_gemm.choose_tile_w(F, C, 4, winograd.TILES_W).TN


@pytest.mark.parametrize("size", [9000, 9001, 500, 128, 12])
def test_sums_of_rows(size, gpu):
    """A block for each row: of 32 threads if it is short, 1,024 if long; after ReLU', with the same bits."""
    dy, y = drawn(3, size), np.maximum(drawn(size, 3), 0).T  # not contiguous
    found = backends.get(sum_rows(backends.put(dy), backends.put(np.zeros(3, np.float32))))
    np.testing.assert_allclose(found, dy.astype(float).sum(axis=1), rtol=0, atol=1e-3)
    dy[1, 5] = np.nan
    dx, db = map(backends.get, backward_and_sum(relu, *map(backends.put, (dy, y))))
    np.testing.assert_array_equal(dx, relu.backward(dy, y))
    np.testing.assert_allclose(db, dx.astype(float).sum(axis=1), rtol=0, atol=1e-3)


def test_where_it_pays(monkeypatch):
    def pays(images, name):
        C, H, F, k, stride, groups = {
            "conv1": (3, 224, 96, 11, 4, 1), "conv2": (96, 27, 256, 5, 1, 2),
            "conv3": (256, 13, 384, 3, 1, 1), "conv5": (384, 13, 256, 3, 1, 2),
            "figure 1's": (32, 16, 32, 5, 1, 1),
        }[name]  # fmt: skip
        OH = Conv2d(F, k, stride, k // 2).out((C, H, H))[1]
        return winograd.pays((F, C // groups, k, k), (F, OH, OH, images), stride, groups)

    assert [pays(128, name) for name in ("conv2", "conv3", "conv5")] == [True] * 3
    assert not pays(128, "conv1")  # stride 4
    assert not pays(128, "figure 1's")  # the transforms move more than the products save
    assert not pays(1, "conv3")  # nothing is long enough
    monkeypatch.setattr(implicit_gemm, "tf32", lambda: True)
    assert not pays(128, "conv3")


FAULTS = {  # name: (file, what stands there, what stands there instead)
    "a tile's edge": ("winograd", "if (i + p < OH && j + q < OW)", "if (i + p < OH)"),
    "no padding": ("winograd", "&& (unsigned int)(v + q) < (unsigned int)W", ""),
    "tiles three apart": ("winograd", "v = t / N * 4 - left", "v = t / N * 3 - left"),
    "the filter not turned": ("winograd", "dw + TAPS * TAPS - 1 - p * TAPS - q", "dw + p * TAPS + q"),
    "the next group's filters": ("winograd", "(long long)blockIdx.z * by_group", "(long long)0 * by_group"),
    "channels that there are not": ("winograd", "f < F && c < C;", "f < F && c < C + 1;"),
    "every tile the first one's filters": ("winograd", "f = blockIdx.y * wide + t % wide", "f = t % wide"),
    "a tile of filters in another's place": (
        "winograd", "(long long)blockIdx.z * gridDim.y + blockIdx.y) * terms",
        "(long long)blockIdx.z * gridDim.y + gridDim.y - 1 - blockIdx.y) * terms"),
    "the first row of tiles": (
        "winograd", "u = (first + blockIdx.y) * 4 - top", "u = (0 * first + blockIdx.y) * 4 - top"),
    "a matrix's entry": ("winograd", "MATRIX_B;\n        return m[row][column]",
                         "MATRIX_B;\n        return row == 5 && column == 1 ? 0 : m[row][column]"),
    "the next filter's bias": ("winograd", "forward ? b[f]", "forward ? b[f ? f - 1 : 0]"),
    "a block that does not add": ("winograd", "(more ? *turned : (REAL)0)", "(more ? 0 : (REAL)0)"),
    "a chunk left out": ("winograd", "chunk < chunks; chunk++", "chunk < chunks - 1; chunk++"),
    "biases: what ReLU holds back": (
        "sums", "sum += gradient.of[k] *=", "sum += gradient.of[k], gradient.of[k] *="),
    "biases: a thread's first numbers": ("sums", "sum += gradient.of[k] *=", "sum = gradient.of[k] *="),
}  # fmt: skip
QUICK = ("a block that does not add",)  # the others compile for a second each, too


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAULTS]
)
def test_a_planted_fault_is_caught(fault, standin, always, monkeypatch):
    monkeypatch.setattr(winograd, "SCRATCH_BYTES", 1)
    caches = cuda_launch._function, cuda_launch._module
    for cache in caches:
        cache.cache_clear()
    backends.in_source(*FAULTS[fault])(monkeypatch)
    try:
        with pytest.raises((AssertionError, IndexError)):
            check("float32", (3,), many=True)
    finally:
        for cache in caches:
            cache.cache_clear()


def test_the_forecast_counts_the_launches(standin, always):
    """What `traffic` counts from shapes is what the launches count, as test_cuda has it for the other way."""
    net = Sequential([Conv2d(6, 3), Conv2d(8, 3, pad=1, groups=2, activation="relu")], (4, 9, 7),
                     Comm(Device("cuda:0")), np.random.default_rng(0))  # fmt: skip
    moved, expected = Counter(), Counter()
    with timed(lambda: net.comm.label) as events:
        y = net.forward(backends.put(drawn(4, 9, 7, 3)), train=True)
        net.layers["conv2"].backward(y)
    for one in events:
        if one.place.startswith("conv2") or not one.place:
            moved[one.kernel] += one.bytes
    for one in traffic.of_layer(net.placed["conv2"], 3):
        expected[one.kernel] += one.bytes
    assert moved == expected


def test_rounding_as_on_the_cpu(standin, always):
    """conv4's tower, as test_winograd has it: at most 5e-6 of the largest output."""
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((192, 13, 13, 2)), 0)
    w, b = rng.standard_normal((32, 192, 3, 3)) * 0.03, np.zeros(32)
    exact = conv2d_forward(x, w, b, 1, 1)[0]
    found = backends.get(conv2d_forward(*(backends.put(a.astype(np.float32)) for a in (x, w, b)), 1, 1)[0])
    assert np.abs(found - exact).max() < 5e-6 * np.abs(exact).max()
