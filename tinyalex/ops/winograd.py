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

The transforms are additions and multiplications by a few numbers, done for some channels at a time so that
they stay in cache.  They cost in proportion to C + F, the products to C·F: see `pays`.
"""

import math

import numpy as np

from tinyalex.memory import empty, zeros
from tinyalex.ops.windows import real_windows

SIDE = 4  # outputs of a tile, in each direction
# The positive points, for k = 3 and 5: simple numbers chosen for small rounding errors.  Measured in float32,
# of the largest output: 2.2e-6 (k = 3, 96 channels to 64, 13×13), 7.1e-6 (k = 5, 48 channels to 64, 27×27).
POINTS = {3: (0.75, 1.5), 5: (0.5, 1.0, 2.0)}
LEAST = 15  # C·F / (C + F): the smallest ratio at which the products saved outweigh the transforms
PRODUCTS_BYTES = 32 << 20  # of the operands and results of one block of tiles
TRANSFORM_BYTES = 1 << 19  # of one of the arrays that a transform reads or writes


def pays(w, stride, groups):
    """Whether the convolution is done here: stride 1, a kernel that has points, and channels enough."""
    F, C, KH, KW = w.shape
    F //= groups
    return stride == (1, 1) and KH == KW and KH in POINTS and C * F >= LEAST * (C + F)


def convolve(x, w, pads, y, finish):
    """Write x ∗ w, stride 1, into y.

    x: (C,H,W,N).  w: (F,C,k,k).  pads: (top, bottom, left, right).  y: (F,OH,OW,N).  finish(filters, part)
    is called with each part of y (some filters, rows and columns) while it is in cache.
    """
    U = _filters_forward(w)
    for tiles, V, M in _blocks_of_tiles(len(x), y, w.shape[-1], pads):
        tiles.inputs(x, V)
        np.matmul(U, V, out=M)
        tiles.outputs(M, y, finish)


def convolve_backward(g, x, w, pads, dx):
    """Write dx, and return dw, of y = x ∗ w with stride 1 and these pads.  g: y's gradient."""
    k = w.shape[-1]
    turned = w.swapaxes(0, 1)[..., ::-1, ::-1]
    U = _filters_forward(turned)
    dU = zeros(np, U.shape, U.dtype)
    part = empty(np, U.shape, U.dtype)
    for tiles, V, M in _blocks_of_tiles(len(g), dx, k, [k - 1 - p for p in pads]):
        tiles.inputs(g, V)
        tiles.gradients(x, M)
        dU += np.matmul(M, V.swapaxes(1, 2), out=part)
        np.matmul(U, V, out=M)  # what it held is used
        tiles.outputs(M, dx)
    return _filters_backward(dU, k).swapaxes(0, 1)[..., ::-1, ::-1]


def _filters_forward(w):
    """U = G w Gᵀ: (F,C,k,k) → (n², F, C).  One product: G ⊗ G times the filters as columns."""
    F, C, k, _ = w.shape
    G = _g(k, w.dtype)
    out = empty(np, (len(G), F * C), w.dtype)
    return np.matmul(G, w.reshape(F * C, k * k).T, out=out).reshape(-1, F, C)


def _filters_backward(dU, k):
    """dw = Gᵀ dU G: (n², F, C) → (F,C,k,k)."""
    _, F, C = dU.shape
    out = empty(np, (F * C, k * k), dU.dtype)
    return np.matmul(dU.reshape(-1, F * C).T, _g(k, dU.dtype), out=out).reshape(F, C, k, k)


def _g(k, dtype):
    """G ⊗ G: (n², k²)."""
    points = [0, *(sign * a for a in POINTS[k] for sign in (1, -1))]
    rows = [[a**p / math.prod(a - b for b in points if b != a) for p in range(k)] for a in points]
    G = np.array([*rows, [0] * (k - 1) + [1]])
    return np.kron(G, G).astype(dtype)


def _blocks_of_tiles(C, y, k, pads):
    """Yield the tiles of y block by block, with room for their V (n², C, tiles·N) and M (n², F, tiles·N).

    C: channels that y is made of.  The room is the same for every block, and for every layer.
    """
    F, OH, OW, N = y.shape
    n2 = (k + 3) ** 2
    tile = n2 * (C + F) * N  # numbers in a tile's V and M
    most = max(1, PRODUCTS_BYTES // (tile * y.itemsize))
    columns = _evenly(-(-OW // SIDE), most)
    rows = _evenly(-(-OH // SIDE), max(1, most // columns[0]))
    room = empty(np, (max(rows[0] * columns[0] * tile, PRODUCTS_BYTES // y.itemsize),), y.dtype)
    row = 0
    for height in rows:
        column = 0
        for width in columns:
            count = height * width
            V, M, _ = np.split(room, [n2 * C * count * N, count * tile])
            block = _Tiles(row, column, height, width, k, pads)
            yield block, V.reshape(n2, C, count * N), M.reshape(n2, F, count * N)
            column += SIDE * width
        row += SIDE * height


def _evenly(count, most):
    """Cut `count` into parts of at most `most`, of nearly one size, the largest first."""
    parts = -(-count // most)
    return [-(-(count - i) // parts) for i in range(parts)]


class _Tiles:
    """A block of tiles, height × width of them; its first output is at (row, column)."""

    def __init__(self, row, column, height, width, k, pads):
        self.row, self.column, self.height, self.width = row, column, height, width
        self.n, self.points = k + 3, POINTS[k]
        self.top, self.left = pads[0], pads[2]

    def inputs(self, x, V):
        """V = B D Bᵀ of the n×n inputs of each tile: (n², C, tiles·N)."""
        C, _, _, N = x.shape
        n, height, width = self.n, self.height, self.width
        V = V.reshape(n, n, C, height, width, N)
        chunks = _chunks(C, height * SIDE * (width + 1) * N * x.itemsize)
        some = chunks[0].stop
        patch = empty(np, (some, SIDE, height + 1, SIDE, width + 1, N), x.dtype)
        t = empty(np, (n, some, height, SIDE, width + 1, N), x.dtype)
        work = empty(np, (3, n * t[0].size), x.dtype)
        for cs in chunks:
            size = cs.stop - cs.start
            pc, tc = patch[:size], t[:, :size]
            _copy_patch(x[cs], self.row - self.top, self.column - self.left, pc)
            rows = [pc[:, r % SIDE, r // SIDE : r // SIDE + height] for r in range(n)]
            _b(rows, tc, self.points, work)
            columns = [tc[:, :, :, c % SIDE, c // SIDE : c // SIDE + width] for c in range(n)]
            _b(columns, V[:, :, cs].swapaxes(0, 1), self.points, work)

    def gradients(self, g, M):
        """M = A g Aᵀ of the 4×4 outputs of each tile, those beyond the map taken as 0: (n², F, tiles·N)."""
        F, _, _, N = g.shape
        n, height, width = self.n, self.height, self.width
        M = M.reshape(n, n, F, height, width, N)
        chunks = _chunks(F, height * SIDE * width * N * g.itemsize)
        some = chunks[0].stop
        patch = empty(np, (some, SIDE, height, SIDE, width, N), g.dtype)
        t = empty(np, (n, some, height, SIDE, width, N), g.dtype)
        work = empty(np, (2, n * t[0].size), g.dtype)
        for fs in chunks:
            size = fs.stop - fs.start
            pf, tf = patch[:size], t[:, :size]
            _copy_patch(g[fs], self.row, self.column, pf)
            _a([pf[:, i] for i in range(SIDE)], tf, self.points, work)
            _a([tf[:, :, :, j] for j in range(SIDE)], M[:, :, fs].swapaxes(0, 1), self.points, work)

    def outputs(self, M, y, finish=None):
        """Y = Aᵀ M A, into y as far as the map reaches.  M: (n², F, tiles·N)."""
        F, OH, _, N = y.shape
        n, height, width = self.n, self.height, self.width
        M = M.reshape(n, n, F, height, width, N)
        rows = min(SIDE, OH - self.row)
        bottom, right = self.row + SIDE * height, self.column + SIDE * width
        chunks = _chunks(F, n * height * width * N * M.itemsize)
        some = chunks[0].stop
        t = empty(np, (SIDE, n, some, height, width, N), M.dtype)
        tile = empty(np, (SIDE, rows, some, height, width, N), M.dtype)  # columns first
        work = empty(np, (2, t[0].size), M.dtype)
        for fs in chunks:
            size = fs.stop - fs.start
            tf, tilef = t[:, :, :size], tile[:, :, :size]
            _a_transposed(M[:, :, fs], tf, self.points, work)
            _a_transposed(tf[:rows].swapaxes(0, 1), tilef, self.points, work)
            for i in range(rows):
                for j in range(SIDE):
                    target = y[fs, self.row + i : bottom : SIDE, self.column + j : right : SIDE]
                    target[...] = tilef[j, i, :, : target.shape[1], : target.shape[2]]
            if finish:
                finish(fs, y[fs, self.row : bottom, self.column : right])


def _copy_patch(x, row, column, patch):
    """Copy x's pixels from (row, column) on, and zeros where there are none.

    patch: (C, 4, height, 4, width, N).  Rows and columns are sorted by their place in a tile, 4 apart, so
    that what a transform reads lies together.
    """
    _, H, W, _ = x.shape
    _, _, height, _, width, _ = patch.shape
    for i in range(SIDE):
        rows, there_rows = real_windows(H, height, row + i, SIDE)
        for j in range(SIDE):
            columns, there_columns = real_windows(W, width, column + j, SIDE)
            part = patch[:, i, :, j]
            part[:, : rows.start] = 0
            part[:, rows.stop :] = 0
            part[:, rows, : columns.start] = 0
            part[:, rows, columns.stop :] = 0
            part[:, rows, columns] = x[:, there_rows, there_columns]


def _chunks(count, nbytes):
    """Slices of `count` channels, of nbytes each: so many that a transform stays in cache."""
    step = max(1, TRANSFORM_BYTES // nbytes)
    return [slice(c, min(c + step, count)) for c in range(0, count, step)]


# ---- the transforms along one axis: arrays or lists of arrays in, out[0], out[1], … written ----------------


def _shaped(work, shape):
    """The rows of the work space, cut and shaped like an operand."""
    return work[:, : math.prod(shape)].reshape(len(work), *shape)


def _sum(arrays, factors, out, term):
    """out = arrays[-1] + Σ factors[j] · arrays[j] over the others."""
    np.multiply(arrays[0], out.dtype.type(factors[0]), out=out)
    out += arrays[-1]
    for array, factor in zip(arrays[1:-1], factors[1:], strict=False):
        out += np.multiply(array, term.dtype.type(factor), out=term)


def _b(d, out, points, work):
    """B d.

    With t = x², the polynomial that is 0 at all points but a (and ∞) is (x² + a x) Π (t − b²), b ≠ ±a;
    at all but 0, Π (t − b²); at all but ∞, x Π (t − b²).
    """
    even, odd, term = _shaped(work, d[0].shape)
    for i, a in enumerate(points):
        factors = _polynomial(b * b for b in points if b != a)
        _sum(d[2:-1:2], factors, even, term)
        _sum(d[1:-2:2], factors, odd, term)
        if a != 1:
            odd *= out.dtype.type(a)
        np.add(even, odd, out=out[2 * i + 1])
        np.subtract(even, odd, out=out[2 * i + 2])
    factors = _polynomial(b * b for b in points)
    _sum(d[0::2], factors, out[0], term)
    _sum(d[1::2], factors, out[-1], term)


def _polynomial(roots):
    """Coefficients of Π (t − root), the constant first."""
    factors = [1.0]
    for root in roots:
        factors = [b - root * a for a, b in zip([*factors, 0.0], [0.0, *factors], strict=True)]
    return factors


def _a(g, out, points, work):
    """A g: the values of the polynomial g at 0, ±a, …, ∞."""
    out[0] = g[0]
    out[-1] = g[3]
    even, odd = _shaped(work, g[0].shape)
    for i, a in enumerate(points):
        _sum([g[2], g[0]], [a * a], even, None)
        _sum([g[3], g[1]], [a * a], odd, None)
        if a != 1:
            odd *= out.dtype.type(a)
        np.add(even, odd, out=out[2 * i + 1])
        np.subtract(even, odd, out=out[2 * i + 2])


def _a_transposed(M, out, points, work):
    """Aᵀ M: y_i = Σ aⁱ M_a over the points, and M_∞ in y_3."""
    even, odd = _shaped(work, M[0].shape)
    y0, y1, y2, y3 = out
    for i, a in enumerate(points):
        square = y0.dtype.type(a * a)
        np.add(M[2 * i + 1], M[2 * i + 2], out=even)
        np.subtract(M[2 * i + 1], M[2 * i + 2], out=odd)
        if a != 1:
            odd *= y0.dtype.type(a)
        if i == 0:
            np.add(M[0], even, out=y0)
            y1[...] = odd
            np.multiply(even, square, out=y2)
            np.multiply(odd, square, out=y3)
        else:
            y0 += even
            y1 += odd
            if a != 1:
                even *= square
                odd *= square
            y2 += even
            y3 += odd
    y3 += M[-1]
