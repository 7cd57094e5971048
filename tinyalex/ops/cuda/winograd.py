"""Minimal filtering on the GPU: convolution with stride 1 in fewer products, see `tinyalex.ops.winograd`.

The matrices, and so the numbers up to their rounding, are those of the CPU.  What differs is the order of the
work: all tiles of a launch are transformed at once, into V; one product of matrices for each of the n² places
follows, by the implicit GEMM's kernel; and one kernel takes the results M back.  V and M cross the memory
twice each, which costs more than their arithmetic: `pays` weighs the one against the other.
"""

import functools
import math

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda import implicit_gemm
from tinyalex.ops.cuda.implicit_gemm import Tile
from tinyalex.ops.cuda.launch import MOST, images, launch
from tinyalex.ops.winograd import POINTS, SIDE, axis

SCRATCH_BYTES = 5 << 27  # of V and M; what needs more is done in several blocks of rows of tiles
TILES = (  # of the products, by measured/gpu_conv.py on an H100
    Tile(192, 64, 16, 2, 3, 2, 3),
    Tile(128, 128, 8, 3, 4, 2, 3),
    Tile(96, 64, 16, 2, 3, 2, 6),
    Tile(64, 128, 16, 2, 2, 2, 4),
    Tile(48, 128, 8, 3, 3, 2, 6),
    Tile(32, 128, 8, 3, 1, 2, 4),
)
TILES_W = (
    Tile(96, 64, 16, 2, 3, 2, 5),
    Tile(64, 64, 16, 2, 2, 2, 6),
    Tile(64, 48, 32, 2, 2, 1.5, 6),
    Tile(32, 128, 16, 2, 1, 2, 4),
)
LEAST_CHUNKS = 3  # of dw's sums: with more blocks than there is room for, not all wait at the same time
LEAST_STEPS = 32  # of a chunk
# What an H100 was measured to do: the implicit GEMM's products, kernels that wait for the memory (three
# quarters of a copy's rate), and what the two launches more cost.
FLOP_PER_SECOND, BYTES_PER_SECOND, LAUNCHES = 42e12, 2.2e12, 20e-6


def pays(w, y, stride, groups):
    """Whether a convolution of these shapes, w (F,C/groups,KH,KW) and y (F,OH,OW,N), takes less time here.

    The products that are saved, in seconds, against the bytes of V and M, of x and of y.  Never with the
    tensor cores: their products are too fast, and 10 bits too few.
    """
    (F, CG, KH, KW), (_, OH, OW, N) = w, y
    if stride != 1 or KH != KW or KH not in POINTS or implicit_gemm.tf32():
        return False
    n2, tiles = (KH + SIDE - 1) ** 2, -(-OH // SIDE) * -(-OW // SIDE) * N
    saved = 2 * F * CG * (KH * KW * OH * OW * N - n2 * tiles)
    moved = 4 * (n2 + SIDE**2) * (groups * CG + F) * tiles
    return saved / FLOP_PER_SECOND > moved / BYTES_PER_SECOND + LAUNCHES


def forward(x, w, b, y, pads, groups, through_relu):
    """Fill y (F,OH,OW,N) with w ∗ x + b, through ReLU if asked."""
    xp = xp_of(x)
    x, w, b = map(xp.ascontiguousarray, (x, w, b))
    _convolve(x, w, b, y, pads, groups, False, through_relu)


def backward(g, x, w, pads, groups):
    """Return (dx, dw) from g (F,OH,OW,N), the gradient before the activation."""
    xp = xp_of(g)
    g, x, w = map(xp.ascontiguousarray, (g, x, w))
    dx, dw = (empty(xp, a.shape, g.dtype) for a in (x, w))
    pads = [w.shape[-1] - 1 - pad for pad in pads]
    _convolve(g, w, g, dx, pads, groups, True, False, lambda *block: _add_to_dw(dw, x, groups, *block))
    return dx, dw


def _convolve(x, w, b, y, pads, groups, turned, through_relu, use=lambda *block: None):
    """y = w ∗ x (+ b and ReLU), w turned if x is a gradient.  use(V, room, row): before the products."""
    k, (F, OH, OW, N) = w.shape[-1], y.shape
    _, H, W, _ = x.shape
    across = -(-OW // SIDE)
    for V, M, row in _blocks(x, y, k):
        rows = V.shape[2]
        if not row:
            v = images(across * N, V, M)
            tile = implicit_gemm.choose_tile(F // groups, y.itemsize, v, TILES)
            U = _filters(w, groups, turned, tile)
        launch(
            "winograd.winograd_tiles", (across * N, rows, len(x)), x, V,
            H, W, N, across, row, pads[0], pads[2], nbytes=x.nbytes + V.nbytes, **matrices(k),
        )  # fmt: skip
        use(V, M, row)
        _products(U, V, M, groups, tile, v)
        launch(
            "winograd.winograd_outputs", (across * N, rows, F), M, b, y,
            OH, OW, N, across, row, not turned, through_relu,
            block=64, nbytes=M.nbytes + b.nbytes * (not turned) + y.nbytes, **matrices(k),
        )  # fmt: skip


def _blocks(x, y, k):
    """Yield (V, M, row): room for some rows of tiles, and the first row.  The room is the same for all."""
    C, (F, OH, OW, N), xp = len(x), y.shape, xp_of(y)
    n2, down, across = (k + SIDE - 1) ** 2, -(-OH // SIDE), -(-OW // SIDE)
    most = max(1, SCRATCH_BYTES // (n2 * (C + F) * across * N * y.itemsize))
    rows = -(-down // -(-down // most))
    rooms = [empty(xp, (n2 * maps * rows * across * N,), y.dtype) for maps in (C, F)]
    for row in range(0, down, rows):
        shapes = [(n2, maps, min(rows, down - row), across, N) for maps in (C, F)]
        V, M = (room[: math.prod(s)].reshape(s) for room, s in zip(rooms, shapes, strict=True))
        yield V, M, row


def _filters(w, groups, turned, tile):
    """U = G w Gᵀ as the products read it, (n², groups, tiles, terms, TF); turned: of dx's convolution."""
    F, C, k, _ = w.shape
    F, taps = F // groups, k * k
    strides = (F * C * taps, C * taps, k, 1, taps)
    if turned:
        F, C, strides = C, F, (F * C * taps, taps, -k, -1, C * taps)
    terms, tiles = -(-C // tile.TK) * tile.TK, -(-F // tile.TF)
    U = empty(xp_of(w), ((k + SIDE - 1) ** 2, groups, tiles, terms, tile.TF), w.dtype)
    launch(
        "winograd.winograd_filters", (terms * tile.TF, tiles, groups), w, U,
        F, C, terms, tile.TF, (taps - 1) * turned, *strides,
        block=64, nbytes=w.nbytes + len(U) * F * C * groups * w.itemsize, **matrices(k),
    )  # fmt: skip
    return U


def _products(U, V, M, groups, tile, v):
    """M = U V at each of the n² places, for each group; v: columns that a thread copies at once."""
    C, F, places = V.shape[1] // groups, M.shape[1] // groups, len(V) * groups
    columns = math.prod(V.shape[2:])
    tiles = -(-columns // tile.TN) * -(-F // tile.TF) * places
    launch(
        "conv.winograd_products", (tiles * tile.threads,), V, U, M, C, F, columns,
        nbytes=V.nbytes + M.nbytes + places * F * C * V.itemsize,
        flop=2 * places * F * C * columns,
        block=tile.threads, V=v, **tile._asdict(),
    )  # fmt: skip


def _add_to_dw(dw, x, groups, V, room, row):
    """dw += the part of these rows of tiles; the first row's begins it.  V: B D Bᵀ of the gradient."""
    F, C, k, _ = dw.shape
    n2, _, rows, across, N = V.shape
    _, H, W, _ = x.shape
    launch(
        "winograd.winograd_tiles_back", (across * N, rows, len(x)), x, room,
        H, W, N, across, row, nbytes=x.nbytes + room.nbytes, **matrices(k),
    )  # fmt: skip
    part = _products_back(V, room, F // groups, C)
    launch(
        "winograd.winograd_filters_back", (C, F), part, dw, C, len(part), row > 0,
        nbytes=n2 * F * C * dw.itemsize + dw.nbytes, **matrices(k),
    )  # fmt: skip


def _products_back(V, X, F, C, tile=None, chunks=None):
    """Return V Xᵀ at each of the n² places, for each group of F and C maps: a sum a chunk of columns."""
    xp, groups, columns = xp_of(V), math.prod(V.shape[:2]) // F, math.prod(V.shape[2:])
    tile = tile or implicit_gemm.choose_tile_w(F, C, V.itemsize, TILES_W)
    across, down = -(-C // tile.TN), -(-F // tile.TF)
    steps, numbers = -(-columns // tile.TK), groups * F * C
    room = implicit_gemm.SCRATCH_BYTES // (numbers * V.itemsize)
    most = min(steps // LEAST_STEPS, room, MOST // groups)
    chunks = chunks or min(
        max(LEAST_CHUNKS, implicit_gemm.wave(xp, tile) // (across * down * groups)), max(1, most)
    )
    per = -(-steps // chunks) * tile.TK
    part = empty(xp, (-(-columns // per), groups * F, C + 1), V.dtype)
    launch(
        "conv_weights.winograd_products_back", (across * tile.threads, down, groups * len(part)),
        V, X, part, C, F, columns, groups, per,
        nbytes=V.nbytes + X.nbytes + numbers * V.itemsize,
        flop=2 * numbers * columns,
        block=tile.threads, V=images(columns, V, X), **tile._asdict(),
    )  # fmt: skip
    return part


@functools.cache
def matrices(k):
    """The constants of winograd.cu for k×k kernels: the matrices as C++ writes them."""
    written = (str(m.tolist()).translate({ord("["): "{", ord("]"): "}", ord(" "): None}) for m in axis(k))
    return {"TAPS": k} | {f"MATRIX_{name}": text for name, text in zip("ABG", written, strict=True)}
