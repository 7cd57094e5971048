"""Convolution with stride 1 in fewer multiplications: minimal filtering, on the CPU.

(S. Winograd, *Arithmetic Complexity of Computations*, 1980; A. Lavin and S. Gray, *Fast Algorithms for
Convolutional Neural Networks*, CVPR 2016.)  The result is the same sum as im2col's, in another order.

**One dimension.**  A filter w of k taps makes four outputs of n = k + 3 inputs d:

    y_i = Σ_p w_p d_{i+p}               i = 0 … 3,  p = 0 … k−1:   4k multiplications

Its transpose, z_{i+p} = Σ y_i w_p, is a product of two polynomials, of degree n − 1.  Such a polynomial is
known from its values at n points, and the value of a product is the product of the values: with

    A[a,i] = aⁱ    G[a,p] = aᵖ    V[a,j] = aʲ        at a = 0, ±a₁, ±a₂, …, and ∞ (the last coefficient)

z = V⁻¹ [(A y) ⊙ (G w)]: n multiplications.  The filter is the transpose of this map, as backward
is of forward:

    y = Aᵀ [(G w) ⊙ (B d)]               B = V⁻ᵀ

Row a of V⁻ᵀ holds the coefficients of the polynomial that is 0 at all other points, divided by its value at
a; we leave the division to G, so that B's leading coefficients are 1.

**Two dimensions.**  Rows, then columns: with the n×n inputs D of one tile and a k×k filter w

    Y = Aᵀ [(G w Gᵀ) ⊙ (B D Bᵀ)] A

4×4 outputs for n² multiplications, 36 in place of 144 (k = 3), 64 in place of 400 (k = 5).  The channels
are summed before going back, so ⊙ becomes n² matrix products: M[ab] = U[ab] V[ab], with U[ab] (F, C) and
V[ab] (C, tiles·N).  No columns are written: V has n²/16 numbers for each of x's; im2col's strips have k.

**Backward** is the same map transposed: from Y's gradient g, A g Aᵀ takes M's place:

    dU[ab] = (A g Aᵀ)[ab] V[ab]ᵀ                    dw = Gᵀ dU G
    dx     = the same convolution of padded g with the turned filter (see `strips`): so V is made of g, and
             dU of A x Aᵀ, and both products read one V

The transforms are products too, of the rows and then of the columns, each one call for all tiles of some
channels, so many that they stay in cache.  The first knows nothing of tiles that lie beside each other; the
second reads the columns that they share in each of them, so no tile is copied.  Transforms cost in proportion
to C + F, the products to C·F: see `pays`.
"""

import functools
import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tinyalex.memory import empty, zeros
from tinyalex.ops.products import product, product_of_transposed
from tinyalex.ops.windows import in_parts, real_windows

SIDE = 4  # outputs of a tile, in each direction: with 5, float32's rounding is three times as large
# The positive points, for k = 3 and 5: simple numbers chosen for small rounding errors.  Measured in float32,
# of the largest output: 2.2e-6 (k = 3, 96 channels to 64, 13×13), 7.1e-6 (k = 5, 48 channels to 64, 27×27).
POINTS = {3: (0.75, 1.5), 5: (0.5, 1.0, 2.0)}
LEAST = 8  # C·F / (C + F): the smallest ratio at which the products saved outweigh the transforms
PRODUCTS_BYTES = 64 << 20  # of the operands and results of one block of tiles: long products
TRANSFORM_BYTES = 1 << 20  # of what lies between rows and columns: it stays in a core's second-level cache


def pays(w, stride, groups):
    """Whether the convolution is done here: stride 1, a kernel that has points, and channels enough."""
    F, C, KH, KW = w.shape
    F //= groups
    return stride == (1, 1) and KH == KW and KH in POINTS and C * F >= LEAST * (C + F)


def convolve(x, w, pads, y, finish):
    """Write x ∗ w, stride 1, into y.

    x: (C,H,W,N).  w: (F,C,k,k).  pads: (top, bottom, left, right).  y: (F,OH,OW,N).  finish(filters, part)
    is called with each part of y, some outputs of some filters (filters, …, …, …), while it is in cache.
    """
    A, B, _ = _matrices(w.shape[-1], w.dtype)
    U = _filters(w)
    for block, V, M in _blocks(len(x), y, w.shape[-1]):
        _into(B, x, block, pads, V)
        product(U, V, M)
        _out_of(A, M, block, y, finish)


def convolve_backward(g, x, w, pads, dx):
    """Write dx, and return dw, of y = x ∗ w with stride 1 and these pads.  g: y's gradient."""
    k = w.shape[-1]
    A, B, G = _matrices(k, w.dtype)
    U = _filters(w.swapaxes(0, 1)[..., ::-1, ::-1])
    dU = zeros(np, U.shape, U.dtype)
    for block, V, M in _blocks(len(g), dx, k):
        _into(B, g, block, [k - 1 - p for p in pads], V)
        _into(A, x, block, (0, 0, 0, 0), M)
        dU += product_of_transposed(M, V)
        product(U, V, M)  # what it held is used
        _out_of(A, M, block, dx)
    dw = np.matmul(dU.reshape(len(U), -1).T, G).reshape(*w.shape[1::-1], k, k)  # Gᵀ dU G
    return dw.swapaxes(0, 1)[..., ::-1, ::-1]


def _filters(w):
    """U = G w Gᵀ: (F,C,k,k) → (n², F, C)."""
    F, C, k, _ = w.shape
    G = _matrices(k, w.dtype)[2]
    U = empty(np, (len(G), F, C), w.dtype)
    np.matmul(G, w.reshape(F * C, k * k).T, out=U.reshape(-1, F * C))
    return U


@functools.cache
def axis(k):
    """A (n, 4), B (n, n) and G (n, k) of one axis: see the module's docstring."""
    points = [0.0, *(sign * a for a in POINTS[k] for sign in (1, -1))]
    V = np.array([[a**j for j in range(k + SIDE - 1)] for a in points] + [[0.0] * (k + SIDE - 2) + [1]])
    values = np.array([math.prod(a - b for b in points if b != a) for a in points] + [1.0])[:, None]
    A, G = np.vstack([V[:-1, :SIDE], V[-1, -SIDE:]]), np.vstack([V[:-1, :k], V[-1, -k:]]) / values
    B = [[*np.poly([b for b in points if b != a])[::-1], 0] for a in points] + [np.poly(points)[::-1]]
    return A, np.array(B), G


@functools.cache
def _matrices(k, dtype):
    """A, B and G ⊗ G (n², k²)."""
    A, B, G = axis(k)
    return A.astype(dtype), B.astype(dtype), np.kron(G, G).astype(dtype)


def _blocks(C, y, k):
    """Yield the tiles of y block by block, with room for their V (n², C, tiles·N) and M (n², F, tiles·N).

    A block is a row of tiles: (the row of its first outputs, how many tiles, the images).  C: channels that y
    is made of.  The room is the same for every block.
    """
    F, OH, OW, N = y.shape
    n2, tiles = (k + SIDE - 1) ** 2, -(-OW // SIDE)
    image = n2 * (C + F) * tiles  # numbers in V and M
    parts = max(1, min(N, -(-N * image * y.itemsize // PRODUCTS_BYTES)))
    room = empty(np, (-(-N // parts) * image,), y.dtype)
    for part in range(parts):
        images = slice(N * part // parts, N * (part + 1) // parts)
        columns = tiles * (images.stop - images.start)
        V, M, _ = np.split(room, [n2 * C * columns, n2 * (C + F) * columns])
        for row in range(0, OH, SIDE):
            yield (row, tiles, images), V.reshape(n2, C, columns), M.reshape(n2, F, columns)


def _into(matrix, x, block, pads, out):
    """out = matrix · D · matrixᵀ, (n², C, tiles·N), for the m×m pixels D of each tile of x, with padding."""
    (row, tiles, images), (C, H, W, _), (n, m) = block, x.shape, matrix.shape
    N, top, left, width = images.stop - images.start, row - pads[0], pads[2], SIDE * (tiles - 1) + m
    chunks = in_parts(C, TRANSFORM_BYTES // max(1, n * width * N * x.itemsize))
    padded = zeros(np, (chunks[0].stop, m, width, N), x.dtype)
    by_row = empty(np, (chunks[0].stop, n, width, N), x.dtype)
    channel, down, across, image = by_row.strides
    by_tile = as_strided(by_row, (len(by_row), n, tiles, m, N), (channel, down, SIDE * across, across, image))
    out = out.reshape(n, n, C, tiles, N).transpose(2, 0, 3, 1, 4)
    rows, there_rows = real_windows(H, m, top, 1)
    columns, there_columns = real_windows(W, width, -left, 1)
    for cs in chunks:
        size = cs.stop - cs.start
        padded[:size, rows, columns] = x[cs, there_rows, there_columns, images]
        np.matmul(matrix, padded[:size].reshape(size, m, -1), out=by_row[:size].reshape(size, n, -1))
        np.matmul(matrix, by_tile[:size], out=out[cs])


def _out_of(A, M, block, y, finish=None):
    """Write Aᵀ · M · A of each tile into y."""
    (row, tiles, images), (F, _, OW, _), n = block, y.shape, len(A)
    N, full = images.stop - images.start, OW // SIDE
    M = M.reshape(n, n, F, tiles * N).transpose(2, 1, 0, 3)  # (filter, column, row, …)
    by_filter = y[:, row : row + SIDE, :, images]
    height = by_filter.shape[1]
    chunks = in_parts(F, TRANSFORM_BYTES // max(1, n * height * tiles * N * M.itemsize))
    Y = empty(np, (chunks[0].stop, height, n, tiles * N), y.dtype)
    by_tile = Y.reshape(len(Y), height, n, tiles, N).swapaxes(2, 3)
    for fs in chunks:
        size = fs.stop - fs.start
        np.matmul(A.T[:height], M[fs], out=Y[:size].swapaxes(1, 2))
        part = by_filter[fs]
        whole = part[:, :, : full * SIDE].reshape(size, height, full, SIDE, N)
        np.matmul(A.T, by_tile[:size, :, :full], out=whole)
        if full < tiles:
            np.matmul(A.T[: OW - full * SIDE], by_tile[:size, :, full], out=part[:, :, full * SIDE :])
        if finish:
            finish(fs, part)
