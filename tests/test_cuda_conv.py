"""The GPU's convolution: every edge of its tiles against NumPy, and the faults that it is prone to."""

import backends
import numpy as np
import pytest

from tinyalex.ops.activation import ACTIVATIONS, relu
from tinyalex.ops.conv import conv2d_backward, conv2d_forward
from tinyalex.ops.cuda import implicit_gemm as cuda_conv
from tinyalex.ops.cuda import launch as cuda_launch

TOLERANCE = {"float32": 2e-6, "float64": 1e-14}  # of the largest number


def compare(x, w, dtype, stride=1, pad=0, groups=1, activation=relu, tolerance=None):
    """Forward and both gradients on the device are NumPy's; x, w: shapes."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in (x, w, w[:1]))
    how = stride, pad, groups, activation
    y, cache = conv2d_forward(*(a.astype(float) for a in (x, w, b)), *how)
    dy = rng.standard_normal(y.shape).astype(dtype)
    there, cache_there = conv2d_forward(*map(backends.put, (x, w, b)), *how)
    found = there, *conv2d_backward(backends.put(dy), cache_there)
    if activation:  # ReLU's backward looks at the device's own signs
        cache = cache._replace(y=backends.get(there).astype(float))
    expected = y, *conv2d_backward(dy.astype(float), cache)
    for name, got, wanted in zip(("y", "dx", "dw", "db"), map(backends.get, found), expected, strict=True):
        assert (got.shape, got.dtype) == (wanted.shape, np.dtype(dtype))
        error = abs(got - wanted).max() / abs(wanted).max()
        assert error < (tolerance or TOLERANCE[dtype]), f"{name}: {error:.1e}"


def check_edges(dtype="float32"):
    """Filters, columns and terms that fill no tile; 1 image at a time and several; strides; towers."""
    for N in (3, 8):
        for stride, pad in ((1, (1, 0, 2, 1)), (2, 1), (3, (0, 2, 1, 0)), (4, 0)):
            compare((4, 11, 9, N), (6, 2, 3, 2), dtype, stride, pad, 2)


def check_tiles():
    """Several tiles of filters, of columns and of taps in each of two towers, and several chunks."""
    compare((40, 9, 8, 20), (280, 20, 3, 3), "float32", 1, 1, 2)


def check_few():
    """Enough for a fault to show, in little time."""
    for _ in range(3):  # the stand-in's three orders
        compare((6, 7, 6, 8), (10, 3, 3, 3), "float32", 1, 1, 2)
    # a pixel reaches its windows and no other, although tiles have terms and columns of zeros
    x = np.zeros((6, 7, 6, 8), np.float32)
    x[4, 3, 3, 5] = np.nan
    y, _ = conv2d_forward(*map(backends.put, (x, drawn(10, 3, 3, 3), drawn(10))), 1, 0, 2)
    reached = np.zeros((10, 5, 4, 8), bool)
    reached[5:, 1:4, 1:4, 5] = True
    assert (np.isnan(backends.get(y)) == reached).all()


def check_few_with_chunks(monkeypatch):
    """`check_few` with its terms cut, and whole."""
    for chunks in (3, 1):
        monkeypatch.setattr(cuda_conv, "_chunks", lambda *args, chunks=chunks: chunks)
        check_few()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_edge(dtype, gpu):
    check_edges(dtype)


@pytest.mark.parametrize("chunks", [1, 3])
def test_many_tiles(chunks, gpu, monkeypatch):
    monkeypatch.setattr(cuda_conv, "_chunks", lambda *args: chunks)
    check_tiles()


@pytest.mark.parametrize("v", [1, 2, 4])
@pytest.mark.parametrize("filters", [1, 10, 32, 48, 64, 96, 128, 192, 256, 384, 512])
def test_the_threads_reach_every_column_of_a_stage(filters, v):
    """Else none would copy, for ever: tiles of 48 filters have too few threads for images one by one."""
    tile = cuda_conv.choose_tile(filters, 4, v)
    assert tile.threads * v >= tile.TN
    tile = cuda_conv.choose_tile_w(filters, 9 * filters, 4)
    assert tile.threads * v >= tile.TK


def test_few_images_of_many_filters(gpu):
    """Where `choose_tile` may not take the tile of 48 filters."""
    compare((10, 5, 4, 3), (48, 5, 3, 3), "float32", 1, 1, 2)


def test_only_the_last_wave_is_cut(gpu, monkeypatch):
    monkeypatch.setattr(cuda_conv, "wave", lambda *args: 5)
    monkeypatch.setattr(cuda_conv, "_chunks", lambda *args: 3)
    check_tiles()
    for stride in (1, 2):
        compare((4, 11, 9, 40), (6, 2, 3, 2), "float32", stride, 1, 2)


class TestTensorCores:
    """With CuPy's own switch, CUPY_TF32, factors are rounded to 10 bits and sums are float32."""

    @pytest.fixture(autouse=True)
    def switched_on(self, gpu, monkeypatch):
        monkeypatch.setenv("CUPY_TF32", "1")

    @pytest.mark.parametrize("filters", [6, 40, 64, 96, 128])
    def test_small_whole_numbers_are_exact(self, filters, monkeypatch):
        """So no product is left out, taken twice or put in another's place, in any tile."""
        monkeypatch.setattr(cuda_conv, "_chunks", lambda *args: 3)
        whole = lambda *shape: drawn(*shape).round()  # noqa: E731
        x, w, b = whole(4, 7, 6, 8), whole(2 * filters, 2, 3, 2), whole(2 * filters)
        y, cache = conv2d_forward(x, w, b, 2, 1, 2)
        dy = whole(*y.shape)
        there, cache_there = conv2d_forward(*map(backends.put, (x, w, b)), 2, 1, 2)
        found = there, *conv2d_backward(backends.put(dy), cache_there)
        for a, exact in zip(map(backends.get, found), (y, *conv2d_backward(dy, cache)), strict=True):
            np.testing.assert_array_equal(a, exact)

    def test_others_are_rounded_and_float64_is_not(self):
        compare((6, 7, 6, 8), (10, 3, 3, 3), "float32", 1, 1, 2, None, tolerance=2e-3)
        with pytest.raises(AssertionError):
            compare((6, 7, 6, 8), (10, 3, 3, 3), "float32", 1, 1, 2, None, tolerance=1e-5)
        compare((6, 7, 6, 8), (10, 3, 3, 3), "float64", 1, 1, 2, None)

    def test_cards_without_them(self, monkeypatch):
        monkeypatch.setattr(cuda_conv, "_properties", lambda *card: {"major": 7, "multiProcessorCount": 40})
        compare((6, 7, 6, 8), (10, 3, 3, 3), "float32", 1, 1, 2, None)


@pytest.mark.parametrize("activation", [None, ACTIVATIONS["tanh"]])
def test_other_neurons(activation, gpu):
    compare((4, 6, 5, 3), (6, 2, 3, 2), "float32", 1, 1, 2, activation)


def test_the_same_bits_in_every_run(gpu):
    x, w, b, dy = map(backends.put, (drawn(4, 8, 8, 32), drawn(6, 4, 3, 3), drawn(6), drawn(6, 8, 8, 32)))
    runs = []
    for _ in range(3):
        y, cache = conv2d_forward(x, w, b, 1, 1, 1, relu)
        runs.append([backends.get(a).tobytes() for a in (y, *conv2d_backward(dy, cache))])
    assert runs[0] == runs[1] == runs[2]


def drawn(*shape):
    return np.random.default_rng(1).standard_normal(shape, np.float32)


FAULTS = {  # name: (file, what stands there, what stands there instead, what is raised)
    "a barrier left out": (
        "conv", "        __syncthreads();        // all", "        // all", AssertionError),
    "a barrier left out in dW": (
        "conv_weights", "        __syncthreads(); // all", "        // all", AssertionError),
    "a barrier left out in db": (
        "conv_weights", "    __syncthreads(); // what", "    // what", AssertionError),
    "db over a stage that is still read": ("conv_weights", "    __syncthreads(); // nobody", "    // nobody",
                                           AssertionError),
    "a barrier that some threads do not come to": (
        "conv", "        __syncthreads();        // all", "        if (row) __syncthreads(); // all",
        RuntimeError),
    "copies not waited for": ("conv", "wait_for<STAGES - 2>", "wait_for<STAGES - 1>", AssertionError),
    "the terms' edge": ("conv", "there = k.a < KH && ", "there = ", AssertionError),
    "the filters' edge": (
        "conv", "if (work.f + f >= F)", "if (work.f + f > F)", (AssertionError, IndexError)),
    "the edges of tiles that were cut": ("conv", "if (f >= F || column >= M)", "if (f >= F)",
                                         (AssertionError, IndexError)),
    "the columns' edge": (
        "conv", "if (work.column + column >= columns)", "if (work.column + column > columns)",
                          (AssertionError, IndexError)),
    "the group's maps": ("conv", "group = work.group * C * map", "group = 0 * C * map", AssertionError),
    "the group's filters": (
        "conv", "out.place(work.group * F + work.f,", "out.place(work.f,", AssertionError),
    "the group's weights": ("conv", "tiles_before = (long long)work.group", "tiles_before = (long long)0",
                            AssertionError),
    "the chunk's terms": ("conv", "digits(work.first * TK + row, ", "digits(row, ", AssertionError),
    "the chunk's weights": ("conv", "+ work.first * TK) * TF", ") * TF", AssertionError),
    "a chunk that is not added": (
        "conv", "chunk < chunks; chunk++", "chunk < chunks - 1; chunk++", AssertionError),
    "the taps' edge in dW": ("conv_weights", "if (f < F && k < K)", "if (f < F)", IndexError),
    "the chunk's edge in dW": (
        "conv_weights", "chunk * per + per < M ? chunk * per + per : M", "M", AssertionError),
    "the group's channels in dW": (
        "conv_weights", "    x += (long long)group * C * H * W * N;\n", "", AssertionError),
    "the last chunk not added": ("conv_weights", "chunk < chunks; chunk++", "chunk < chunks - 1; chunk++",
                                 AssertionError),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault, standin, monkeypatch):
    file, right, wrong, error = FAULTS[fault]
    caches = cuda_launch._function, cuda_launch._module
    for cache in caches:
        cache.cache_clear()
    backends.in_source(file, right, wrong)(monkeypatch)
    try:
        with pytest.raises(error):
            check_few_with_chunks(monkeypatch)
    finally:
        for cache in caches:
            cache.cache_clear()
