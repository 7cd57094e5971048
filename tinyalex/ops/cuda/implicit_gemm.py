"""Convolution on the GPU as matrix products whose columns are never written: how conv.cu and conv_weights.cu
are launched.

The kernels make tiles of the result; which tile, how deep its stages are and how many there are is set for
each layer's shape.  conv.cu has the formulas, tiles.cuh what a tile is.

With CUPY_TF32=1 in the environment, CuPy's own switch, float32 products are made by the tensor cores, from
factors rounded to 10 bits: here as in cuBLAS's.
"""

import functools
import itertools
import os
import sys
from typing import NamedTuple

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import images, launch

SCRATCH_BYTES = 1 << 26  # of the partial sums of a layer's gradients


class Tile(NamedTuple):
    """What tiles.cuh lets one set, under its names."""

    TF: int  # filters of a block
    TN: int  # columns, or taps
    TK: int  # terms of a stage
    STAGES: int
    PF: int  # patches of 4 filters of a thread
    PN: float  # and of 4 columns; 1.5 for 6 taps of dW
    BLOCKS: int  # that a multiprocessor holds
    TF32: int = 0  # 1: by the tensor cores
    UNROLL: int = 1  # dW: how many fours of terms are unrolled

    @property
    def threads(self):
        """Threads of a block: 32 for 16·PF × 32·PN sums."""
        return self.TF // (16 * self.PF) * int(self.TN // (32 * self.PN)) * 32


TILES = (  # by measured/gpu_conv.py on an H100
    Tile(128, 128, 8, 3, 2, 2, 2),
    Tile(64, 128, 8, 3, 2, 2, 4),
    Tile(96, 128, 16, 2, 3, 2, 3),
    Tile(48, 128, 8, 3, 3, 2, 6),
    Tile(32, 128, 8, 3, 1, 2, 4),
)
TILES_W = (
    Tile(64, 64, 16, 2, 2, 2, 6),
    Tile(96, 128, 16, 2, 3, 2, 2, UNROLL=4),
    Tile(32, 128, 16, 2, 1, 2, 4),
)
TILES_TF32 = (
    Tile(128, 128, 16, 2, 4, 2, 2, TF32=1),
    Tile(64, 256, 16, 2, 4, 2, 2, TF32=1),
    Tile(64, 128, 16, 2, 4, 2, 4, TF32=1),
    Tile(96, 128, 16, 2, 3, 2, 3, TF32=1),
    Tile(48, 128, 16, 3, 3, 2, 5, TF32=1),
    Tile(32, 128, 8, 3, 1, 2, 4, TF32=1),
)
TILES_W_TF32 = (
    Tile(128, 128, 16, 2, 4, 2, 2, TF32=1),
    Tile(96, 192, 16, 2, 3, 2, 2, TF32=1),
    Tile(32, 128, 16, 2, 1, 2, 4, TF32=1),
)


def tf32():
    """Whether products of float32 numbers may round their factors to 10 bits: CUPY_TF32, as CuPy reads it.

    As in CuPy not on cards before compute capability 8, which have no such tensor cores.
    """
    if int(os.environ.get("CUPY_TF32", "0")) <= 0:
        return False
    xp = sys.modules.get("cupy")
    return not xp or _properties(xp, xp.cuda.runtime.getDevice())["major"] >= 8


def choose_tile(filters, itemsize, v, tiles=None):
    """The tile for so many filters (of one group): the first of those that make the fewest in vain.

    v: images that a thread copies at once; the threads together must reach all columns of a stage.  tiles: to
    choose from, by default those of forward and dx.
    """
    if itemsize == 8:
        return Tile(64, 64, 8, 2, 1, 1, 1)
    tiles = tiles or (TILES_TF32 if tf32() else TILES)
    fit = (tile for tile in tiles if tile.threads * v >= tile.TN)
    return min(fit, key=lambda tile: -(-filters // tile.TF) * tile.TF)


def choose_tile_w(filters, taps, itemsize, tiles=None):
    """The tile of the weights' gradient for so many filters (of one group) and taps, as `choose_tile`."""
    if itemsize == 8:
        return Tile(64, 64, 8, 2, 1, 1, 1)
    tiles = tiles or (TILES_W_TF32 if tf32() else TILES_W)
    return min(tiles, key=lambda tile: -(-filters // tile.TF) * tile.TF * -(-taps // tile.TN) * tile.TN)


def forward(x, w, b, y, stride, pads, groups, through_relu, tile=None):
    """Fill y with w ∗ x + b, through ReLU if asked."""
    xp = xp_of(x)
    x, w, b = map(xp.ascontiguousarray, (x, w, b))
    F, C, KH, KW = w.shape
    F //= groups
    _, H, W, N = x.shape
    _, OH, OW, _ = y.shape
    v = images(N, x, y)
    tile = tile or choose_tile(F, x.itemsize, v)
    taps = KH * KW
    defines = {"V": v, **tile._asdict()}
    weights = _laid_out(w, tile, defines, groups, F, C, KH, KW, 0, (F * C * taps, C * taps, KW, 1, taps))
    cut = Cut.of(xp, tile, OH * OW * N, F, groups, C * taps, y)
    launch(
        "conv.conv_forward", cut.threads, x, weights, b, y, cut.part,
        C, H, W, N, F, KH, KW, OH, OW, stride, pads[0], pads[2], through_relu, cut.whole, cut.chunks,
        nbytes=x.nbytes + w.nbytes + b.nbytes + y.nbytes,
        flop=2 * y.size * C * taps,
        block=tile.threads, **defines,
    )  # fmt: skip
    cut.add(b, y, OH * OW * N, N, F, OW, OH, OW, 1, 0, 0, True, through_relu, **defines)


def backward_x(g, w, x_shape, stride, pads, groups, tile=None):
    """Return dx (C,H,W,N) from g (F,OH,OW,N), the gradient before the activation."""
    xp = xp_of(g)
    g, w = map(xp.ascontiguousarray, (g, w))
    F, C, KH, KW = w.shape
    F //= groups
    _, H, W, N = x_shape
    _, OH, OW, _ = g.shape
    dx = empty(xp, x_shape, g.dtype)
    v = images(N, g, dx)
    tile = tile or choose_tile(C, g.itemsize, v)
    defines = {"V": v, **tile._asdict()}
    for a, b in itertools.product(range(stride), repeat=2):
        # the taps a, a+s, … of the kernel's rows and b, b+s, … of its columns meet these pixels:
        rows, columns = range((a - pads[0]) % stride, H, stride), range((b - pads[2]) % stride, W, stride)
        if not rows or not columns:
            continue
        TH, TW = len(range(a, KH, stride)), len(range(b, KW, stride))
        if not TH * TW:
            dx[:, rows[0] :: stride, columns[0] :: stride] = 0  # between the windows
            continue
        last = (a + stride * (TH - 1)) * KW + b + stride * (TW - 1)  # the taps are read backwards: turned
        strides = (F * C * KH * KW, KH * KW, -stride * KW, -stride, C * KH * KW)
        weights = _laid_out(w, tile, defines, groups, C, F, TH, TW, last, strides)
        top, left = TH - 1 - (rows[0] + pads[0] - a) // stride, TW - 1 - (columns[0] + pads[2] - b) // stride
        pixels = len(rows) * len(columns)
        where = H, W, stride, rows[0], columns[0]
        cut = Cut.of(xp, tile, pixels * N, C, groups, F * TH * TW, dx)
        launch(
            "conv.conv_backward_x", cut.threads, g, weights, dx, cut.part,
            F, OH, OW, N, C, TH, TW, len(rows), len(columns), top, left, *where, cut.whole, cut.chunks,
            nbytes=(g.nbytes + w.nbytes) // stride**2 + dx.nbytes // (H * W) * pixels,
            flop=2 * pixels * N * groups * C * F * TH * TW,
            block=tile.threads, **defines,
        )  # fmt: skip
        cut.add(g, dx, pixels * N, N, C, len(columns), *where, False, False, **defines)
    return dx


def backward_w(g, x, w_shape, stride, pads, groups, tile=None, chunks=None):
    """Return (dw, db) from g (F,OH,OW,N), the gradient before the activation."""
    xp = xp_of(g)
    g, x = map(xp.ascontiguousarray, (g, x))
    F, C, KH, KW = w_shape
    K = C * KH * KW
    _, H, W, N = x.shape
    _, OH, OW, _ = g.shape
    columns = OH * OW * N
    tile = tile or choose_tile_w(F // groups, K, g.itemsize)
    across, down = -(-K // tile.TN), -(-F // groups // tile.TF)
    most = SCRATCH_BYTES // (F * (K + 1) * g.itemsize)
    chunks = chunks or _chunks(wave(xp, tile), tile, across * down * groups, columns, most)
    per = -(-max(1, columns) // (chunks * tile.TK)) * tile.TK
    chunks = -(-columns // per)
    defines = {"V": images(N, g, x), **tile._asdict()}
    part = empty(xp, (chunks, F, K + 1), g.dtype)
    launch(
        "conv_weights.conv_backward_w", (across * tile.threads, down, groups * chunks),
        g, x, part, C, H, W, N, F // groups, KH, KW, OH, OW, stride, pads[0], pads[2], groups, per,
        nbytes=g.nbytes + x.nbytes + F * (K + 1) * g.itemsize,
        flop=2 * columns * F * K,
        block=tile.threads, **defines,
    )  # fmt: skip
    dw, db = empty(xp, w_shape, g.dtype), empty(xp, (F,), g.dtype)
    launch(
        "conv_weights.add_chunks", (K + 1, F), part, dw, db, F, K, chunks,
        nbytes=2 * (dw.nbytes + db.nbytes), **defines,
    )  # fmt: skip
    return dw, db


def _laid_out(w, tile, defines, groups, F, C, KH, KW, first, strides):
    """The weights as the products read them: conv.cu, lay_out_weights."""
    terms = -(-C * KH * KW // tile.TK) * tile.TK
    tiles = -(-F // tile.TF)
    out = empty(xp_of(w), (groups, tiles, terms, tile.TF), w.dtype)
    launch(
        "conv.lay_out_weights", (terms * tile.TF, tiles, groups), w, out,
        F, C, KH, KW, terms, first, *strides,
        nbytes=2 * groups * F * C * KH * KW * w.itemsize, **defines,
    )  # fmt: skip
    return out


class Cut(NamedTuple):
    """Which tiles of a product one block makes, and into how many chunks of terms the last ones are cut."""

    threads: tuple  # of the launch
    whole: int
    chunks: int
    part: object  # the chunks' sums

    @classmethod
    def of(cls, xp, tile, columns, filters, groups, terms, y):
        """For a product of so many columns and filters, with so many terms; y is the result."""
        tiles = -(-columns // tile.TN) * -(-filters // tile.TF) * groups
        last, area = tiles % wave(xp, tile), tile.TF * tile.TN
        most = SCRATCH_BYTES // (area * y.itemsize * max(1, last))
        chunks = _chunks(wave(xp, tile), tile, last, terms, most)
        if chunks == 1:
            return cls((tiles * tile.threads,), tiles, 1, y)
        part = empty(xp, (last, chunks, area), y.dtype)
        return cls(((tiles - last + last * chunks) * tile.threads,), tiles - last, chunks, part)

    def add(self, b, y, *args, **defines):
        """Finish the tiles that were cut: conv.cu, add_chunks_of_terms."""
        if self.chunks == 1:
            return
        last, _, area = self.part.shape
        launch(
            "conv.add_chunks_of_terms", (area, last), self.part, b, y, *args, self.whole, self.chunks,
            nbytes=self.part.nbytes + self.part.nbytes // self.chunks, **defines,
        )  # fmt: skip


@functools.cache
def _chunks(wave, tile, tiles, terms, most):
    """Into how many chunks of its terms to cut each of these tiles, so that all are done soonest.

    wave: how many blocks the device holds at once.  A wave takes as long as one chunk.  Writing and reading
    the sums of a whole wave takes as long as 64 terms, at 3 TB/s and 45 TFLOP/s; and so long, or longer, the
    second kernel's launch.
    """
    steps = -(-terms // tile.TK)
    most = max(1, min(most, steps, 4 * wave // max(1, tiles)))
    time = {
        n: -(-tiles * n // wave) * -(-steps // n) * tile.TK + (tiles * n / wave + 2) * 64 * (n > 1)
        for n in range(1, most + 1)
    }
    return min(time, key=time.get)


def wave(xp, tile):
    """How many blocks the device holds at once."""
    return tile.BLOCKS * _properties(xp, xp.cuda.runtime.getDevice())["multiProcessorCount"]


@functools.cache
def _properties(xp, device):
    return xp.cuda.runtime.getDeviceProperties(device)
