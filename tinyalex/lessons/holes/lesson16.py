"""Lesson 16: CUDA kernels by hand."""

import math
from typing import NamedTuple

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


class Index(NamedTuple):
    """As the lesson's."""

    x: int
    y: int = 0
    z: int = 0


class Grid:
    """run(kernel): as the lesson's launch, but the threads come in an order of chance, the same each time."""

    def __init__(self, blocks, rows, width, rng):
        at = [(Index(x, y), Index(t)) for y in range(rows) for x in range(blocks) for t in range(width)]
        self.threads, self.width = [at[k] for k in rng.permutation(len(at))], width

    def __repr__(self):
        return "run"  # in messages

    def __call__(self, kernel):
        for block, thread in self.threads:
            kernel(block, Index(self.width, 1, 1), thread)


def _bias_cases(rng):
    """Grids wider than the maps, by less than a block; behind the maps there are other numbers."""
    cases = []
    for F, blocks, width in ((2, 3, 4), (3, 2, 5), (1, 2, 3)):
        columns = blocks * width - int(rng.integers(1, width))
        memory = rng.uniform(-1, 2, F * columns + blocks * width)
        cases.append((Grid(blocks, F, width, rng), memory, rng.uniform(0.5, 2, F), columns))
    return cases


def _pool_bytes_cases(rng):
    cases = [((96, 55, 55, 128), (96, 27, 27, 128))]
    for N in (int(rng.integers(2, 9)), 1):
        C, OH, OW = sizes(rng, (2, 9), (3, 9), (3, 9))
        cases.append(((C, 2 * OH + 1, 2 * OW + 2, N), (C, OH, OW, N)))
    return cases


def _scattered(run, dcols, W, stride, pad):
    K, OW = dcols.shape
    dx = np.zeros(W)

    def kernel(blockIdx, blockDim, threadIdx):
        j = blockIdx.x * blockDim.x + threadIdx.x
        for p in range(K) if j < OW else ():
            u = j * stride + p - pad
            if 0 <= u < W:
                dx[u] += dcols[p, j]

    run(kernel)
    return dx


def _gather_cases(rng):
    """In the third there are more windows than threads: who gives a thread a window does not get through."""
    cases = []
    for K, stride, pad, OW in ((5, 2, 1, 4), (4, 3, 1, 4), (5, 1, 4, 13), (2, 3, 0, 3)):
        W = (OW - 1) * stride + K - 2 * pad + int(rng.integers(0, stride))
        width = int(rng.integers(3, 6))
        cases.append((Grid(W // width + 1, 1, width, rng), rng.standard_normal((K, OW)), W, stride, pad))
    return cases


@hole(
    cases=_bias_cases,
    hints=[
        """Think of the 8 threads of the picture. What does a thread know? Its block, its place in the
        block, and how wide a block is.""",
        """Blocks before this one hold blockIdx.x * blockDim.x threads. Rows of memory before this map
        hold blockIdx.y * columns numbers.""",
        """t = blockIdx.x * blockDim.x + threadIdx.x, then `if t >= columns: return`, and place =
        blockIdx.y * columns + t.""",
    ],
    wrong=[
        (
            "if t >= columns:",
            "if t < 0:",
            """there is no guard. The grid is a little wider than the maps; the threads past the edge add
            their bias to the first numbers of the next map, which gets two, and after the last map to an
            array that is not yours. Nothing crashes.""",
        ),
        (
            "if t >= columns:",
            "if t > columns:",
            """the guard lets one thread too many through. Columns are 0 … columns−1, so t = columns must
            leave, too: >=, not >.""",
        ),
        (
            "if t >= columns:",
            "if blockIdx.y * columns + t >= len(b) * columns:",
            """your guard is at the end of the memory, not at the end of the row: threads past the edge
            of a map work on the next map, with the wrong bias. Compare t with columns.""",
        ),
        (
            "t = blockIdx.x * blockDim.x + threadIdx.x",
            "t = threadIdx.x",
            """every block does the same columns: threadIdx.x begins at 0 in each. The blocks before this
            one have to be counted.""",
        ),
        (
            "t = blockIdx.x * blockDim.x + threadIdx.x",
            "t = blockIdx.x + threadIdx.x",
            """a block is blockDim.x threads wide, so that block 1 does not begin at column 1. As you
            have it some columns are done more than once, and the last ones not at all.""",
        ),
        (
            "place = blockIdx.y * columns + t",
            "place = t * len(b) + blockIdx.y",
            """threads run along the wrong axis: in memory the numbers of a *map* lie side by side, so
            that column t is t places further, and the next map `columns` places.""",
        ),
    ],
)
def bias_relu(run, memory, b, columns):
    """ReLU of each map plus its bias, in place, by a kernel.

    memory: maps (F, columns), row after row; behind them somebody else's numbers.
    b: (F,).  run(kernel) calls the kernel for every thread of the grid.
    """
    memory = memory.copy()

    def kernel(blockIdx, blockDim, threadIdx):
        t = blockIdx.x * blockDim.x + threadIdx.x
        if t >= columns:
            return
        place = blockIdx.y * columns + t
        memory[place] = max(memory[place] + b[blockIdx.y], 0.0)

    run(kernel)
    return memory


@hole(
    cases=_pool_bytes_cases,
    hints=[
        """Which arrays does the kernel read, which does it write? Its header in pool.cu says so.""",
        """It reads x (4 bytes a number) and writes y (4 bytes) and winner (an unsigned short: 2 bytes),
        which is shaped like y.""",
        """nbytes = 4 * math.prod(x_shape) + 6 * math.prod(y_shape); nbytes / 3e12 is in seconds.""",
    ],
    wrong=[
        (
            "4 * math.prod(x_shape)",
            "4 * 9 * math.prod(y_shape)",
            """you count every window's 9 pixels. Windows overlap, and what a neighbouring thread has
            just read comes from the cache: of the *memory*, each number of x is asked once.""",
        ),
        (
            "(4 + 2) * math.prod(y_shape)",
            "4 * math.prod(y_shape)",
            """something is written that you did not count: the winner of each window, 2 bytes.""",
        ),
        (
            "(4 + 2) * math.prod(y_shape)",
            "8 * math.prod(y_shape)",
            """winner is an array of unsigned short: 2 bytes a number, not 4.""",
        ),
        (
            " + (4 + 2) * math.prod(y_shape)",
            "",
            """that is what is read. What is written goes through the same memory: add y and winner.""",
        ),
        (
            "4 * math.prod(x_shape) + (4 + 2) * math.prod(y_shape)",
            "math.prod(x_shape) + 2 * math.prod(y_shape)",
            """those are numbers, not bytes: a float has 4 bytes, a winner 2.""",
        ),
        (
            "1e3 * nbytes / 3e12",
            "nbytes / 3e12",
            """the bytes are right; the time is in seconds. A millisecond is a thousandth of one.""",
        ),
    ],
)
def max_pool_bytes(x_shape, y_shape):
    """Least bytes that max_pool_forward moves, and its time.

    float32, windows of 3×3 → (bytes, milliseconds at 3 TB/s = 3e12 bytes a second)
    """
    nbytes = 4 * math.prod(x_shape) + (4 + 2) * math.prod(y_shape)
    milliseconds = 1e3 * nbytes / 3e12
    return nbytes, milliseconds


@hole(
    cases=_gather_cases,
    hints=[
        """Turn the question round: not "where does window j go", but "which windows cover pixel u, and
        at which place p of each". In the padded row the pixel is at u + pad.""",
        """p + j·stride = u + pad. The smallest p is the remainder of u + pad by stride, and its j the
        quotient. One window earlier, the same pixel is `stride` places further on in the window.""",
        """p = (u + pad) % stride and j = (u + pad) // stride; in the loop, if 0 <= j < OW, total +=
        dcols[p, j]; then p, j = p + stride, j - 1.""",
    ],
    wrong=[
        (
            _scattered,
            """your threads go through the windows and scatter: two of them add to one pixel at the same time,
            and on a GPU one of the two is lost.  (Nor are there threads enough here, which are as many as the
            pixels need.)  Let each thread gather for its own pixel.""",
        ),
        (
            "total += dcols[p, j]",
            "total = dcols[p, j]",
            """`=` keeps only the last window that covers the pixel. A gather still has to add: total
            +=.""",
        ),
        (
            "p, j = p + stride, j - 1",
            "p, j = p + 1, j - 1",
            """the stride is forgotten in the loop: in the window before, the pixel is `stride` places
            further on, not one.""",
        ),
        (
            "p, j = p + stride, j - 1",
            "p, j = p + stride, j + 1",
            """p grows, so j must fall: p + j·stride stays at u + pad. A pixel late in a window belongs
            to an *earlier* window.""",
        ),
        (
            "if 0 <= j < OW:",
            "if j < OW:",
            """the guard at the left edge is missing: for the first pixels j falls below 0. Python then
            reads from the array's other end; a GPU would read whatever lies before the array.""",
        ),
        (
            "p = (u + pad) % stride",
            "p = 0",
            """only places p with p + j·stride = u + pad lie on this pixel; the first of them is the
            remainder of u + pad by stride, not always 0.""",
        ),
        (
            "p = (u + pad) % stride\n        j = (u + pad) // stride",
            "p = u % stride\n        j = u // stride",
            """the padding is forgotten: windows are counted from the *padded* row's beginning, where
            this pixel is at u + pad.""",
        ),
    ],
)
def col2im_row(run, dcols, W, stride, pad):
    """col2im in one dimension as a gather: each thread adds up one pixel's windows.

    dcols (K, OW) → dx (W,).  run(kernel) calls the kernel for every thread of the grid.
    """
    K, OW = dcols.shape
    dx = np.full(W, np.nan)  # fresh memory of a GPU holds anything

    def kernel(blockIdx, blockDim, threadIdx):
        u = blockIdx.x * blockDim.x + threadIdx.x
        if u >= W:
            return
        total = 0.0
        p = (u + pad) % stride
        j = (u + pad) // stride
        while p < K:
            if 0 <= j < OW:
                total += dcols[p, j]
            p, j = p + stride, j - 1
        dx[u] = total

    run(kernel)
    return dx
