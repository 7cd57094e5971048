# %% [markdown]
# # 16 · CUDA kernels by hand
#
# [Lesson 15](15_fast.ipynb) arranged the work for a few cores and their caches. A GPU has thousands of
# small cores. The questions stay the same, who does what and which bytes must move, and the answers are
# shorter than you may expect.
#
# **A kernel is a function that says what *one* thread does; the GPU runs it for millions of threads, in an
# order that nobody promises. So every thread must find its own work from its own number, and no two threads
# may write to one place.**
#
# The paper names this work among its contributions (section 1):
#
# > "We wrote a highly-optimized GPU implementation of 2D convolution and all the other operations inherent
# > in training convolutional neural networks, which we make available publicly."
#
# You need no GPU here. You write kernels in Python and step through them; then the library's own CUDA
# source runs on your CPU, thread by thread, if there is a C++ compiler; and on your GPU, if there is one.
#
# **You bring:** strides (lesson 1), col2im (lesson 5), max pooling (lesson 7), what a byte costs (lesson 15).
#
# **You take away:** threads, blocks, grids and the guard at the edge; which layout a GPU likes and why; the
# least time of a kernel, from its shapes alone; and why the gradients of this library *gather*.

# %%
import itertools
import math
from typing import NamedTuple

import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(16)
rng = np.random.default_rng(16)

# %% [markdown]
# ## Threads, blocks, a grid
#
# Take $F = 2$ maps of 6 numbers, and add to each map its bias. On a GPU each number gets a **thread**.
# Threads come in **blocks** of one size, here 4 (in the library 256), and the blocks form a **grid**. One
# map needs 6 threads. One block is too few, so there are two, and 8 threads: **two have nothing to do.**
#
# A thread is told three things: which block it is in (`blockIdx`), its number in the block (`threadIdx`),
# and how wide a block is (`blockDim`). From these it makes its number in the grid:
#
# $$\begin{aligned}
# t &= \text{blockIdx.x} \cdot \text{blockDim.x} + \text{threadIdx.x} \\
# \text{blocks} &= \left\lceil \frac{\text{numbers of a map}}{\text{blockDim.x}} \right\rceil
# \end{aligned}$$
#
# The second thread of the second block has $t = 1\cdot4 + 1 = 5$, the last number of the row. A grid may
# have up to three axes. We take `x` for the numbers of a map and `y` for the map. Here is a whole "GPU":


# %%
class Index(NamedTuple):
    x: int
    y: int = 0
    z: int = 0


def launch(kernel, grid, width):
    """Call the kernel once for each thread; grid: blocks along x, y, z."""
    for z, y, x in np.ndindex(*grid[::-1]):
        for t in range(width):
            kernel(Index(x, y, z), Index(width, 1, 1), Index(t))


F, columns, width = 2, 6, 4
blocks = math.ceil(columns / width)
numbers = []
launch(
    lambda block, dim, thread: numbers.append(block.x * dim.x + thread.x),
    (blocks, F, 1),
    width,
)
assert blocks == 2
assert numbers == 2 * [0, 1, 2, 3, 4, 5, 6, 7]
assert numbers[5] == 1 * 4 + 1 == 5

# %% [markdown]
# Now look at the memory. It knows no rows: the second map lies right behind the first, and behind the
# second lies *somebody else's* array. Column $t$ of map $f$ is at place $f\cdot\text{columns} + t$. Step
# through the 8 threads of map 0, and ask at the last two where they would write.

# %%
maps = np.array([[1.0, -2, 3, 1, -1, 2], [2, 1, -3, 4, 1, -2]])
b = np.array([1.0, -1])
others = np.array([7.0, 7, 7])
memory = np.concatenate([maps.reshape(-1), others])


# %% drawing
def one_thread(k):
    """Step k: threads 0 … k of map 0 have run."""
    now = memory.copy()
    for t in range(min(k + 1, columns)):
        now[t] = max(now[t] + b[0], 0)
    where = f"after t = {k}: map 0, map 1, somebody else's"
    panel = paint.array(now, where, "{:g}", 8).frame(0, k, ink=k // width)
    place = f"blockIdx.x {k // width}, threadIdx.x {k % width}: t = {k}"
    if k >= columns:
        place += ", which is in map 1.  It must do nothing."
    return paint.row(panel, caption=place)


step_through(one_thread, blocks * width)

# %% [markdown]
# That is what the **guard** is for: a thread past the edge returns at once.
#
# **Your turn:** three lines of a kernel that adds the bias and applies ReLU, in place. `run(kernel)` starts
# the threads. The check starts them in an order of chance, since a GPU promises none.


# %%
def bias_relu(run, memory, b, columns):
    """ReLU of each map plus its bias, in place, by a kernel.

    memory: maps (F, columns), row after row; behind them somebody else's numbers.
    b: (F,).  run(kernel) calls the kernel for every thread of the grid.
    """
    memory = memory.copy()

    def kernel(blockIdx, blockDim, threadIdx):
        t = ...  # this thread's column
        ...  # a thread without a column returns
        place = ...  # of column t of map blockIdx.y, in memory
        memory[place] = max(memory[place] + b[blockIdx.y], 0.0)

    run(kernel)
    return memory


# %%
bias_relu = check(bias_relu)  # yours once it is right, until then the book's
# hint("bias_relu")         remove the first # for a hint, run again for the next
# solution("bias_relu")

# %%
after = bias_relu(
    lambda kernel: launch(kernel, (blocks, F, 1), width), memory, b, columns
)
expected = np.maximum(maps + b[:, None], 0)
assert (after[: maps.size].reshape(maps.shape) == expected).all()
assert (after[maps.size :] == others).all()  # not ours: left alone
print(after)

# %% [markdown]
# ## The real source
#
# This is the library's kernel, as it stands in `tinyalex/ops/cuda/bias.cu`:

# %%
from tinyalex.ops.cuda.launch import BLOCK, source

text = source("bias")
print(text[text.index("// maps[f,t]") :])
assert BLOCK == 256
assert "int t = blockIdx.x * blockDim.x + threadIdx.x;" in text
assert "if (t >= columns)\n        return;" in text

# %% [markdown]
# You can read it: `t`, the guard, `f`, the place. What is new is that a thread takes `V` columns at once
# (here 1), that `REAL` is `float` or `double`, and that places are computed in 64 bits (`long long`),
# because arrays have more than $2^{31}$ numbers some day.
#
# But for `__global__` and the three variables it is C++. So a C++ compiler can make a function of it, and
# we can call that as our GPU does: for each thread, set the variables, then call. If you have no compiler,
# the next cells say so, and nothing else is missing.

# %%
import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

SHIM = """
#define REAL float
#define __global__
#define __device__
struct Index { unsigned int x, y, z; };
extern "C" { Index gridDim, blockDim, blockIdx, threadIdx; }
"""


def compiled(code):
    """The functions of CUDA source as a library for the CPU; None without a compiler."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        return None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file, library = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        file.write_text(SHIM + code, encoding="utf-8")
        command = [compiler, "-shared", "-fPIC", file, "-o", library]
        done = subprocess.run(command, capture_output=True, check=False)
        return None if done.returncode else ctypes.CDLL(str(library))


library = compiled("".join(source(name) for name in ("bias", "pool")))
print("compiled" if library else "no C++ compiler here: Python must do")


# %%
class Three(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


def run_source(name, threads, *args, width=32):
    """Run a compiled kernel with so many threads along x, y, z, one after the other."""
    grid = (-(-threads[0] // width), *threads[1:])
    variables = {
        v: Three.in_dll(library, v) for v in ("blockIdx", "blockDim", "threadIdx")
    }
    whole = Three.in_dll(library, "gridDim")
    whole.x, whole.y, whole.z = grid
    function = getattr(library, name)
    given = [
        ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_int(a)
        for a in args
    ]

    def kernel(*indices):
        for variable, index in zip(variables.values(), indices, strict=True):
            variable.x, variable.y, variable.z = index
        function(*given)

    launch(kernel, grid, width)


block, bias = maps.astype(np.float32), b.astype(np.float32)
if library:
    out = block.copy()
    run_source("bias_relu", (columns, F, 1), out, bias, columns, 1)
    assert (out == expected).all()
    print("bias.cu on the CPU, thread by thread:", out[0], out[1])

# %% [markdown]
# With CuPy and a GPU the same text is compiled for the GPU, and all threads are started at once. That is
# the whole difference; `tinyalex.ops.cuda.launch` does it so.

# %%
from tinyalex.devices import Device
from tinyalex.errors import DeviceError

try:
    cp = Device("cuda:0").xp  # cupy, if it is here and finds a GPU
except DeviceError as error:
    print(f"Left out.  {error}")
else:
    module = cp.RawModule(code=source("bias"), options=("-DREAL=float",))
    out = cp.asarray(block)
    on_gpu = (out, cp.asarray(bias), np.int32(columns), np.int32(1))
    module.get_function("bias_relu")((blocks, F), (width,), on_gpu)
    assert (cp.asnumpy(out) == expected).all()
    print("bias.cu on the GPU:", cp.asnumpy(out))

# %% [markdown]
# ## Neighbours should read neighbours
#
# Threads do not run one by one. 32 of them, a **warp**, do each instruction together. When they read, the
# memory answers in *sectors* of 32 bytes, that is 8 floats. If the 32 threads want numbers that lie side by
# side, 4 sectors serve all of them. If every number lies in another sector, 32 are sent, and 7 of 8 numbers
# are thrown away. Reading side by side is called **coalescing**.
#
# This is why pictures are innermost in this library, $(C,H,W,N)$ ([lesson 1](01_pictures_as_arrays.ipynb)).
# The threads run along the pictures: neighbours do the *same pixel* of neighbouring pictures, and
#
# $$\text{place}(c,u,v,n) = ((c\,H + u)\,W + v)\,N + n$$
#
# grows by 1 with $n$. With the pictures outermost, $(N,C,H,W)$, it grows by $CHW$. Below, in small, 8
# threads read pixel $(0, 1)$ of 8 pictures of 2×4, and a row of the drawing is a sector. The number in a
# cell is the thread that reads it.

# %%
H, W, N = 2, 4, 8

# %% drawing
inner, outer = draw.panels(1, 1, height=3.1)
for axes, shape, pixel, title in (
    (inner, (H, W, N), (0, 1), "pictures innermost"),
    (outer, (N, H, W), (slice(None), 0, 1), "pictures outermost"),
):
    touched = np.full(shape, np.nan)
    touched[pixel] = np.arange(N)  # by thread 0 … 7
    touched = touched.reshape(8, 8)  # the memory, a sector in each row
    draw.array(axes, touched, title, fmt="{:.0f}", limit=20)
    sectors = int((~np.isnan(touched)).any(axis=1).sum())
    axes.set_xlabel(f"sectors sent: {sectors}", size=9)
    assert sectors == (1 if axes is inner else 8)

# %% [markdown]
# In numbers, for the 32 threads of a warp and conv1's input, 128 pictures of $3\times224\times224$: 4
# sectors if pictures are innermost, 32 if they are outermost. Libraries with the pictures outermost let the
# threads run along $v$ instead. Then a convolution with stride 4 reads every fourth number: 16 sectors. The
# layout and the threads' direction belong together.


# %%
def sectors_sent(places):
    """Sectors of 32 bytes that hold the floats at these places."""
    return len({4 * int(place) // 32 for place in places})


warp = np.arange(32)
innermost = np.ravel_multi_index((0, 10, 20, warp), (3, 224, 224, 128))
outermost = np.ravel_multi_index((warp, 0, 10, 20), (128, 3, 224, 224))
along_v = np.ravel_multi_index((0, 0, 10, 4 * warp), (128, 3, 224, 224))
assert sectors_sent(innermost) == 4
assert sectors_sent(outermost) == 32
assert sectors_sent(along_v) == 16

# %% [markdown]
# ## The least time of a kernel
#
# Adding a bias is one addition for 8 bytes (4 read, 4 written). A large GPU does tens of thousands of
# billions of operations in a second but moves only some 3,000 billion bytes (3 TB/s). So nearly all kernels
# here wait for the memory, and their least time follows from their shapes:
#
# $$\text{time} \;\ge\; \frac{\text{bytes read} + \text{bytes written}}{3\cdot10^{12}\ \text{bytes/s}}$$
#
# What neighbouring threads read twice comes from a cache the second time, and counts once. In each `.cu`
# file the lines *reads*, *writes* and *least* above a kernel say what must move. **Your turn:** max
# pooling, forward. It reads `x` and writes `y`, both float32, and for each window which pixel won, as an
# `unsigned short` (16 bits).


# %%
def max_pool_bytes(x_shape, y_shape):
    """Least bytes that max_pool_forward moves, and its time.

    float32, windows of 3×3 → (bytes, milliseconds at 3 TB/s = 3e12 bytes a second)
    """
    nbytes = ...  # everything that is read and written, once
    milliseconds = ...  # that this takes
    return nbytes, milliseconds


# %%
max_pool_bytes = check(max_pool_bytes)
# hint("max_pool_bytes")
# solution("max_pool_bytes")

# %% [markdown]
# `tinyalex.measure.traffic` counts so for every layer. For AlexNet's first pooling of 128 pictures, 96
# maps of 55×55 become 27×27: it must move 202.4 MB, and that takes 0.067 ms. Now the whole training step,
# from shapes alone.

# %%
import math
from unittest import mock

from tinyalex.measure import traffic
from tinyalex.models import alexnet

pool1 = max_pool_bytes((96, 55, 55, 128), (96, 27, 27, 128))
assert round(pool1[0] / 1e6, 1) == 202.4
assert round(pool1[1], 3) == 0.067

paper = alexnet()  # a list of layers: shapes only, no memory
parameters = sum(math.prod(size) for size in paper.sizes().values())


def work(batch):
    """What every kernel of a training step must move."""
    found = [piece for place in paper.plan() for piece in traffic.of_layer(place, batch)]
    return [*found, *traffic.of_loss(1000, batch), traffic.of_update(parameters)]


step = work(128)
assert pool1[0] == next(w.bytes for w in step if w.kernel == "max_pool_forward")

by_kernel = {}
for piece in step:
    by_kernel[piece.kernel] = by_kernel.get(piece.kernel, 0) + piece.bytes
largest = sorted(by_kernel, key=by_kernel.get)[-9:]

total = sum(by_kernel.values())
print(f"{total / 1e9:.1f} GB, {1e3 * total / 3e12:.2f} ms")

# %% drawing
axes = draw.panels(1, height=2.7)
axes.barh(largest, [1e3 * by_kernel[k] / 3e12 for k in largest], color=draw.INK[1])
draw.plain(
    axes,
    "ms at 3 TB/s, 128 pictures",
    "",
    "What each kernel must take at least, forward and backward",
)

# %% [markdown]
# 11.9 GB move in a step, and that takes 3.98 ms at least. The three largest kernels are the convolutions
# conv2 to conv5, by **minimal filtering** (lesson 15): 4×4 outputs at a time, and a 3×3 filter takes 36
# products for them, not 144. But what goes into these products is written and read again, and so is what
# comes out. Without that the step would move 5.7 GB.
#
# Why do it? Convolutions are the one thing here that waits for arithmetic, not for memory. By the formula a
# step has 529 GFLOP of products: 10.6 ms on a card that makes 50 TFLOP a second. Minimal filtering leaves
# 226, or 4.5 ms. So 6.3 GB more, 2.1 ms, save 6.1 ms. With few pictures or few channels it is the other way
# round, and the library asks beforehand (`pays` in `ops/cuda/winograd.py`).
#
# Where is im2col? Nowhere. It would write each pixel many times (lesson 5). The kernels of `conv.cu` never
# write the columns: a block copies a piece of `x` to the small fast memory that its threads share, and finds
# there what would stand in the columns. This is called **implicit GEMM**. On an H100 a whole step was
# measured at 27.1 ms with columns, at 15.3 with implicit GEMM alone, and at 9.2 with minimal filtering.
#
# These are forecasts from shapes, not measurements. What they are good for: a kernel that waits for memory
# and is measured at twice its least time has something to gain, one at 1.1 times has not.

# %%
assert round(total / 1e9, 1) == 11.9
assert round(1e3 * total / 3e12, 2) == 3.98
assert set(largest[-3:]) == {"winograd_products", "winograd_outputs", "winograd_tiles"}

# The same without minimal filtering: the products by the formula, three times forward's, but for conv1's dx.
with mock.patch("tinyalex.ops.cuda.winograd.pays", return_value=False):
    straight = sum(piece.bytes for piece in work(128))
assert round(straight / 1e9, 1) == 5.7
flop = fewer = 0
for place in paper.plan():
    products = 2 * 128 * place.layer.multiply_adds(place.x)
    products *= 2 if place.layer.name == "conv1" else 3
    flop, fewer = flop + products, fewer + products
    if traffic.by_winograd(place, 128):
        k, (_, height, width) = place.layer.kernel, place.y
        tiles = math.ceil(height / 4) * math.ceil(width / 4)
        fewer -= products * (1 - (k + 3) ** 2 * tiles / (k**2 * height * width))
print(f"{flop / 1e9:.0f} and {fewer / 1e9:.0f} GFLOP")
assert round(flop / 1e9) == 529
assert round(fewer / 1e9) == 226
assert round(1e3 * flop / 50e12, 1) == 10.6
assert round(1e3 * fewer / 50e12, 1) == 4.5
assert round((total - straight) / 1e9, 1) == 6.3
assert round(1e3 * (total - straight) / 3e12, 1) == 2.1
assert (3 + 3) ** 2 == 36
assert 4 * 4 * 3 * 3 == 144

# %% [markdown]
# ## Why a GPU is slow on small arrays
#
# Starting a kernel costs the host a few microseconds, however small the array. Say 5 (a usual figure; we
# measured none). In that time 15 MB could have moved at 3 TB/s. **A kernel that moves less than 15 MB takes
# less time than its own start.** And there must be enough threads: a card with 132 multiprocessors of 2,048
# threads each holds 270,336 at once, and a kernel with 1,000 threads leaves more than 99 percent of it
# idle.
#
# So count. Of the 80 pieces of work in AlexNet's step with 128 pictures, how many move less than 15 MB? And
# of the 60 with a single picture?

# %%
assert np.isclose(5e-6 * 3e12, 15e6)
assert 132 * 2048 == 270_336
assert 1000 / 270_336 < 0.01

small = {n: sum(piece.bytes < 15e6 for piece in work(n)) for n in (128, 1)}
print(
    "pieces:",
    len(step),
    "   small ones with 128 pictures:",
    small[128],
    "   with one:",
    small[1],
)
assert len(step) == 80
assert len(work(1)) == 60
assert round(step[-1].bytes / (5 * 4) / 1e6) == 61  # the update moves 5 floats a weight
assert small == {128: 27, 1: 59}

# %% [markdown]
# With 128 pictures the big pieces hide the starts of the small ones: a launch returns at once, and the host
# runs ahead. With one picture all but one are shorter than their starts (the one is the update of the 61
# million weights), and the GPU waits for the host. That is also why this library joins bias and ReLU in
# *one* kernel: one start, and the maps move once, not twice.
#
# ## Two threads, one place
#
# Backward through a convolution, `col2im` adds every number of `dcols` to the pixel that it came from
# (lesson 5). The obvious kernel **scatters**: a thread for each number of `dcols`, and each does
# `dx[u] += dcols[p, j]`. Take lesson 5's row: 9 pixels, windows of 3, stride 2. Pixel 2 gets 3 from window
# 0 and 4 from window 1: 7.
#
# But `+=` is not one act. A thread *loads* `dx[u]` into a register, adds, and *stores* the sum; in between,
# others run. A generator shows it: at `yield` another thread may have its turn.


# %%
def scatter(p, j, dcols, dx, stride):
    """One thread of a col2im that scatters."""
    register = dx[j * stride + p]  # load
    yield
    dx[j * stride + p] = register + dcols[p, j]  # add, store


def run_in_turns(threads, turns):
    """turns: the numbers of the threads, in the order in which they go one step on."""
    for k in turns:
        next(threads[k], None)


dcols = np.array([[1.0, 4, -2, 3], [2, -1, 5, 2], [3, 2, 1, -4]])
K, OW, W, s = 3, 4, 9, 2


def two_threads(turns):
    """dx[2] after the threads of window 0 and window 1 have taken these turns."""
    dx = np.zeros(W)
    run_in_turns([scatter(2, 0, dcols, dx, s), scatter(0, 1, dcols, dx, s)], turns)
    return dx[2]


# %% drawing
def a_turn(k):
    """Step k: the first k turns, in a good order and in a bad one."""
    panels, columns = [], ["register 0", "register 1", "dx[2]"]
    for turns in ((0, 0, 1, 1), (0, 1, 0, 1)):
        what, register = "start", [np.nan, np.nan]
        for i, thread in enumerate(turns[:k]):
            storing = thread in turns[:i]
            what = f"thread {thread} {'stores' if storing else 'loads'}"
            if not storing:
                register[thread] = two_threads(turns[:i])
        values = [*register, two_threads(turns[:k])]
        panel = paint.array([values], what, "{:g}", 9, columns=columns)
        if k:
            panel.frame(0, 2 if storing else thread, ink=thread)
        panels.append(panel)
    return paint.row(*panels)


step_through(a_turn, 5)

# %% [markdown]
# On the right, thread 1 loaded before thread 0 had stored. Its store writes over the 3: **an update is
# lost**. Two threads with two steps each can take turns in six ways. In two of them the sum is 7, in two it
# is 3, and in two it is 4.

# %%
results = sorted(
    two_threads(turns) for turns in set(itertools.permutations((0, 0, 1, 1)))
)
assert results == [3, 3, 4, 4, 7, 7]

# %% [markdown]
# There is an instruction that loads, adds and stores without a gap, `atomicAdd`. It is right but it queues:
# threads that want the same place wait for each other. And the *order* of the sum is left to chance, which
# floats notice. In float32, $2^{24} + 1 + 1$ is $2^{24}$ from the left (each 1 is rounded away), but
# $1 + 1 + 2^{24}$ is $2^{24} + 2$. Two runs with the same seed would differ.

# %%
big, one = np.float32(2**24), np.float32(1)
assert (big + one) + one == 2**24
assert (one + one) + big == 2**24 + 2

# %% [markdown]
# ## Gather instead
#
# Turn the loop round. **Not "a thread for each number that is sent" but "a thread for each pixel that
# receives".** The thread asks which windows cover its pixel, adds up in a register of its own, and writes
# once. No two threads write to one place, the order of the sum is always the same, and `dx` need not even
# be set to 0 before.
#
# Pixel $u$ is at $u + \text{pad}$ in the padded row. Window $j$ begins at $j\,s$, so the pixel is its place
# $p$ where $p + j\,s = u + \text{pad}$:
#
# $$dx[u] = \sum_{(p,j)\,:\;p + j s = u + \text{pad}} d\mathrm{cols}[p, j]$$
#
# with $0 \le p < K$ and $0 \le j < OW$. The smallest such $p$ is the remainder of $(u + \text{pad})$ by
# $s$. From there go $s$ places on in the window, and one window back. Pixel 4 without padding: remainder 0
# and quotient 2, so $d\mathrm{cols}[0, 2]$, then $d\mathrm{cols}[2, 1]$: $-2 + 2 = 0$.

# %%
assert dcols[0, 2] + dcols[2, 1] == -2 + 2 == 0

# %% drawing
left, right = draw.panels(4, 9, height=2.0)
draw.array(left, dcols, "dcols", limit=5)
draw.array(right, np.array([1.0, 2, 7, -1, 0, 5, 4, 2, -4]), "dx", limit=8)
for u, colour in zip((2, 4, 6), draw.INK, strict=False):
    draw.frame(right, 0, u, colour=colour, inset=0.05)
    for p in range(u % s, K, s):
        draw.frame(left, p, (u - p) // s, colour=colour, inset=0.08)

# %% [markdown]
# **Your turn.** (Mind both ends: for some pixels $j$ is not a window.)


# %%
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
        p = ...  # the first place in a window that can lie on pixel u
        j = ...  # the window whose place p does
        while p < K:
            ...  # if there is a window j, add; then the next p and its j
        dx[u] = total

    run(kernel)
    return dx


# %%
col2im_row = check(col2im_row)
# hint("col2im_row")
# solution("col2im_row")

# %%
dx = col2im_row(lambda kernel: launch(kernel, (3, 1, 1), 4), dcols, W, s, 0)
assert list(dx) == [1, 2, 7, -1, 0, 5, 4, 2, -4]  # as in lesson 5

# %% [markdown]
# The library's kernels have this loop twice, one inside the other, for rows and columns. In the gradient of
# a convolution (`conv.cu`) it is woven into the matrix product, since `dcols` is never written either.
# Where you can read it best is average pooling: each window gives its pixels equal shares of its `dy`, so
# the gather is the same, with `dy / count` for `dcols[p, j]`. Here it is; then it runs, if there was a
# compiler, against the CPU's.

# %%
from tinyalex.ops.pool import avg_pool_backward, avg_pool_forward

text = source("pool")
print(text[text.index('extern "C" __global__ void avg_pool_backward') :])

C, H, W, N, z, s = 2, 7, 9, 3, 3, 2
windows = z, z, s, s, 0, 0  # rows and columns of a window, of its steps, of padding
y, cache = avg_pool_forward(rng.standard_normal((C, H, W, N)).astype(np.float32), z, s)
_, OH, OW, _ = y.shape
dy = rng.standard_normal(y.shape).astype(np.float32)
if library:
    dx = np.full((C, H, W, N), np.nan, np.float32)
    run_source("avg_pool_backward", (W * N, H, C), dy, dx, W, N, OH, OW, *windows)
    np.testing.assert_allclose(dx, avg_pool_backward(dy, cache), atol=1e-6)
    print("average pooling: pool.cu and the CPU's agree")

# %% [markdown]
# ## Max pooling, backward
#
# The same once more. Lesson 7 had the row 1, 3, 9, 2, 5, 4, 7 with windows of 3, stride 2: the 9 wins twice
# and gets $2 + 3 = 5$. A scatter would have two threads write there. So each *pixel* looks at the windows
# that cover it and asks: **was it I who won?** The CPU finds the winners again (lesson 7); here the forward
# kernel wrote them down, as places in their windows, so neither `x` nor `y` is needed. Your loop, and one
# condition more:

# %%
row, dy_row = np.array([1.0, 3, 9, 2, 5, 4, 7]), np.array([2.0, 3, 1])
winner = [int(row[2 * j : 2 * j + 3].argmax()) for j in range(3)]
dx_row = np.full(7, np.nan)


def pool_backward(blockIdx, blockDim, threadIdx):
    u = blockIdx.x * blockDim.x + threadIdx.x
    if u >= len(row):
        return
    total, p, j = 0.0, u % 2, u // 2
    while p < 3:
        if 0 <= j < len(winner) and winner[j] == p:
            total += dy_row[j]
        p, j = p + 2, j - 1
    dx_row[u] = total


launch(pool_backward, (2, 1, 1), 4)
print("winners", winner, "   dx", dx_row)
assert winner == [2, 0, 2]
assert list(dx_row) == [0, 0, 5, 0, 0, 0, 1]

# %% [markdown]
# And the library's, forward and backward, against its CPU version.

# %%
from tinyalex.ops.pool import max_pool_backward, max_pool_forward

x = rng.standard_normal((C, H, W, N)).astype(np.float32)
y, cache = max_pool_forward(x, z, s)
if library:
    found, winner = np.empty_like(y), np.empty(y.shape, np.uint16)
    dx = np.full_like(x, np.nan)
    run_source(
        "max_pool_forward", (OW * N, OH, C), x, found, winner, H, W, N, OW, *windows
    )
    run_source("max_pool_backward", (W * N, H, C), dy, winner, dx, W, N, OH, OW, *windows)
    assert (found == y).all()
    np.testing.assert_allclose(dx, max_pool_backward(dy, cache), atol=1e-6)
    print("max pooling: pool.cu and the CPU's agree, forward and backward")

# %% [markdown]
# ## Streams and events
#
# A launch only puts work into a queue, a **stream**, and returns. Within one stream the order is kept.
# Between two streams there is none: that is what lets a copy to the other GPU run beside the arithmetic,
# and what makes it possible to read what is not yet written. An **event** is a mark in one stream for which
# another can wait. A model with invented times is enough to see it: stream A makes some maps (3 units) and
# goes on; stream B sends them away (2 units).


# %%
def schedule(queue):
    """queue: (stream, work, units, waits for) as launched → {work: (start, end)}."""
    free, times = {}, {}
    for stream, name, units, waits in queue:
        start = max([free.get(stream, 0), *(times[w][1] for w in waits)])
        times[name] = start, start + units
        free[stream] = start + units
    return times


def queue(event):
    yield "A", "make maps", 3, []
    yield "B", "send maps", 2, ["make maps"] if event else []
    yield "A", "next layer", 4, []


without, with_event = schedule(queue(False)), schedule(queue(True))
assert without["send maps"] == (0, 2)  # sent before they are made
assert with_event["send maps"] == (3, 5)
assert with_event["next layer"] == without["next layer"] == (3, 7)  # A loses nothing

# %% drawing
axes = draw.panels(1, 1, height=1.9)
for axis, event in zip(axes, (False, True), strict=True):
    times = schedule(queue(event))
    for (stream, name, units, _), colour in zip(queue(event), draw.INK, strict=False):
        axis.barh(stream, units, left=times[name][0], color=colour, alpha=0.75)
        axis.text(
            times[name][0] + units / 2,
            stream,
            name,
            ha="center",
            va="center",
            color="white",
            size=8,
        )
    if event:
        style = {"arrowstyle": "->", "linewidth": 1.8}
        axis.annotate("", (3, 0.62), (3, 0.38), arrowprops=style)
    axis.set_xlim(0, 8)
    draw.plain(
        axis,
        "units of time",
        "stream",
        "B waits for an event of A" if event else "no event",
    )

# %% [markdown]
# Without the event, half-made maps are sent. With it, B waits, and A does not: the send runs beside the
# next layer. Time is measured with events, too: one before and one after. A clock on the host would measure
# how long it takes to *queue* the work.
#
# ## Break it on purpose
#
# The library is tested without a GPU, by running its kernels as we did here: one thread after the other.
# Suppose somebody replaces the gather by a scatter without `atomicAdd`. **Guess before you run:** the tests
# run its 12 threads forwards, backwards and in 200 orders of chance, each time one *after* the other. How
# many tests fail? And what do the same threads give on a GPU, where all 12 load in one instruction and
# store in another?


# %%
dcols = np.array([[1.0, 4, -2, 3], [2, -1, 5, 2], [3, 2, 1, -4]])
expected = col2im_row(lambda kernel: launch(kernel, (3, 1, 1), 4), dcols, 9, 2, 0)
places = list(np.ndindex(3, 4))


def scattered(turns):
    """dx of the 12 threads that scatter."""
    dx = np.zeros(9)
    run_in_turns([scatter(p, j, dcols, dx, 2) for p, j in places], turns)
    return dx


one_by_one = [
    np.arange(12),
    np.arange(12)[::-1],
    *(rng.permutation(12) for _ in range(200)),
]
failed = sum((scattered(np.repeat(order, 2)) != expected).any() for order in one_by_one)
in_step = scattered([*range(12), *range(12)])  # all load, then all store
print("tests that fail, thread after thread:", failed)
print("in step: ", in_step)
print("expected:", expected)
assert failed == 0
assert list(np.flatnonzero(in_step != expected)) == [2, 4, 6]

# %% [markdown]
# Not one test fails, and on the GPU every pixel between two windows is wrong. **A test can only find what
# its machine can do.** This is why the library does not merely *happen* to be free of such kernels, but has
# a rule that can be seen in the source: each thread writes to places of its own. It is also why
# `measured/gpu.md` lists what the stand-in cannot show: races between threads, coalescing, speed.
#
# ## Think about it
#
# 1. The bias gradient is $db[f] = \sum_m g[f, m]$. A thread for each $f$ would gather without races, with
#    96 threads in conv1. What is wrong with that, and how would you do better?
# 2. The gather of col2im reads `dcols`. Do neighbouring threads read neighbouring numbers, although
#    neighbouring *pixels* are covered by different windows?
# 3. If columns were written: how many megabytes would im2col move at least in the first convolution, and
#    how many does its forward kernel move now, with the product in it?
#
# <details><summary>What we would answer</summary>
#
# 1. 96 threads leave nearly the whole card idle, and neighbours read whole maps apart. Cut each map into
#    pieces, let many threads sum a piece each, then sum the pieces: a tree. Its order is fixed, so runs can
#    be repeated. The library does so in `sums.cu` and `softmax.cu` (slices).
# 2. Yes. Threads run along $(v,n)$ with the pictures innermost: neighbours have the same $v$ and the same
#    windows, in neighbouring pictures. That is the use of the layout, backward as well.
# 3. It reads 128 pictures and writes a row of 55·55·128 numbers for each of 3·11·11 terms: 639.3 MB. Then
#    the product would have to read them again. Now 225.9 MB, and the product is done.
#
# </details>

# %%
columns = 4 * 128 * (3 * 224**2 + 3 * 11 * 11 * 55 * 55)
assert round(columns / 1e6, 1) == 639.3
forward = next(piece for piece in step if piece.kernel == "conv_forward")
assert forward.layer == "conv1"
assert round(forward.bytes / 1e6, 1) == 225.9

# %% [markdown]
# ## What comes next
#
# You have derived, written, checked and broken every part of AlexNet, from a pixel to the threads that move
# it. All of the library is open to you now; its kernels are some 1,900 lines of CUDA, most of them for
# convolution, and you have read two of them and run four (with a compiler). [Lesson
# 17](17_vgg_and_sharing_work.ipynb) takes these layers to the next network, VGG, and to any number of
# devices.
#
# Two ideas for evenings of your own:
#
# - **A deconvnet.** Send one feature back to the pixels through the backward passes of lessons 5 and 7, and
#   see what a unit of conv5 looks for, where [lesson 14](14_looking_inside.ipynb) could only show conv1.
# - **A kernel of your own.** Average pooling, forward, without looking at `pool.cu`: Python, then CUDA C,
#   checked with `run_source`.
#
# Or begin again at [lesson 1](01_pictures_as_arrays.ipynb), and find what you would now explain better than
# we did.
