# %% [markdown]
# # 15 · Fast: layout, blocks, cache, threads
#
# [Lesson 14](14_looking_inside.ipynb) closed the book on what AlexNet computes.  The formulas of these
# lessons, written down as they stand, are slow.  The library computes the same sums many times as fast.
#
# **A processor multiplies far faster than it fetches what is to be multiplied.  So be fast in two ways:
# fetch less, and fetch it in long runs; and where the multiplications themselves are the limit, find a way
# to do fewer.**
#
# The abstract of the paper:
#
# > "To make training faster, we used non-saturating neurons and a very efficient GPU implementation of the
# > convolution operation."
#
# Lesson 6 was about the first half of that sentence.  This is the second half, on a CPU.  All times below
# are **those of the machine that ran this notebook**; yours will differ, and if it is busy, they will
# differ from run to run.  What is *asserted* are counts: operations, bytes, runs, fetches.
#
# **You bring:** strides (lesson 1), im2col (lesson 4), "backward is the transpose" (lesson 5), the update
# (lesson 10), ranks (lesson 12).
#
# **You take away:** how to find out what limits a computation, four ways to fetch less, a convolution with
# a quarter of the multiplications, and what threads can and cannot do.

# %%
from time import perf_counter

import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(15)
rng = np.random.default_rng(15)


def best(work, *args, times=5):
    """Seconds of the fastest of some runs: the one that was disturbed least."""
    seconds = []
    for _ in range(times):
        start = perf_counter()
        work(*args)
        seconds.append(perf_counter() - start)
    return min(seconds)


# %% [markdown]
# ## Plain and fast
#
# Lesson 5 ended with a convolution that reads like its formula.  The library has it as `ops.plain`: im2col,
# one product, and back.  Beside it stands the fast one, with the same name, the same arguments and, but for
# rounding, the same numbers.  Here are both, forward and backward, on conv2 of one tower: 48 channels, 128
# filters of 5×5, 4 pictures.

# %%
from tinyalex.ops import conv2d_backward, conv2d_forward, plain

conv2_x = rng.standard_normal((48, 27, 27, 4), np.float32)
conv2_w = 0.03 * rng.standard_normal((128, 48, 5, 5), np.float32)
conv2_b = np.zeros(128, np.float32)


def there_and_back(forward, backward):
    y, cache = forward(conv2_x, conv2_w, conv2_b, pad=2)
    return y, *backward(y, cache)


pairs = {
    "plain": (plain.conv2d_forward, plain.conv2d_backward),
    "fast": (conv2d_forward, conv2d_backward),
}
for found, expected in zip(
    there_and_back(*pairs["fast"]), there_and_back(*pairs["plain"]), strict=True
):
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
for name, pair in pairs.items():
    print(f"{name:6}{1e3 * best(there_and_back, *pair, times=3):6.0f} ms")

# %% [markdown]
# Where does the plain one lose its time?  Its columns hold every pixel 25 times, once for each place in the
# window: 3.5 million numbers that are written, read by the product, written again as gradients and added
# back.  Of those the fast one writes a fifth, or none; and of the multiplications, for this layer, it does
# 16 of 100.  The rest of this lesson takes the way from the one to the other, a step at a time.

# %%
cols = plain.im2col(conv2_x, 5, 5, pad=2)
assert cols.size == 25 * conv2_x.size == 3_499_200
assert 64 / 400 == 16 / 100

# %% [markdown]
# ## How much is there to compute?
#
# A matrix $2\times3$ times a matrix $3\times4$ has $2\cdot4 = 8$ results.  Each is a sum of 3 products: 3
# multiplications and, counting the first onto zero, 3 additions.  Together 48 operations.  In general,
# $m\times k$ times $k\times n$:
#
# $$\text{operations} = 2\,m\,k\,n$$
#
# AlexNet is almost nothing but such products.  `tinyalex describe` counts them: 724 million multiply-adds
# for one picture, forward.  Backward costs two products of the same size for each layer ($dW$ and $dx$),
# but conv1 has no $dx$.  So one step with 128 pictures takes
#
# $$2\cdot128\cdot\left(3\cdot 724.4 - 105.4\right)\cdot10^6 \approx 529\cdot10^9 \text{ operations.}$$

# %%
from tinyalex.measure.describe import describe
from tinyalex.models import alexnet

assert 2 * 2 * 3 * 4 == 48
description = describe(alexnet())
macs = {row.layer: row.multiply_adds for row in description.rows if row.multiply_adds}
forward = sum(macs.values())
assert forward == description.total.multiply_adds == 724_406_816
assert macs["conv1"] == 105_415_200
step = 2 * 128 * (3 * forward - macs["conv1"])
assert round(step / 1e9) == 529

# %% drawing
axes = draw.panels(1, height=2.3)
axes.bar(list(macs), [count / 1e6 for count in macs.values()], color=draw.INK[1])
draw.plain(axes, "", "millions", "multiply-adds of one picture, forward")

# %% [markdown]
# And how fast is one core at that?  Measure it, with the BLAS library (which does NumPy's matrix products)
# kept to one thread.  Beside it, the same for an addition of two large arrays.

# %%
from tinyalex.devices import blas_limits

n = 512
a, b = rng.standard_normal((2, n, n), np.float32)
product = np.empty((n, n), np.float32)
long1, long2 = np.ones((2, 1 << 22), np.float32)

with blas_limits().limit(limits=1):
    seconds = best(np.matmul, a, b, product)
    rate = 2 * n**3 / seconds
    add_rate = long1.size / best(np.add, long1, long2, long1)

print(f"matrix product: {rate / 1e9:6.1f} thousand million operations a second")
print(f"addition:       {add_rate / 1e9:6.1f}")
print(f"a step of AlexNet on this core: {step / rate:.1f} s, if there were only products")

# %% [markdown]
# Both are floating-point operations.  Why is the product so much faster?  **Count what each has to fetch
# and store.**  For matrices of $n\times n$ both touch $3n^2$ numbers.  The product does $2n^3$ operations
# with them, the addition $n^2$:
#
# $$\frac{2n^3}{3n^2} = \frac{2n}{3} \qquad\text{against}\qquad \frac{n^2}{3n^2} = \frac13$$
#
# operations for each number.  With $n = 512$ that is 341 against a third.  A product can use each number
# again and again while it is near (BLAS arranges that); an addition uses it once, and waits for the next.
# So: **products are limited by the arithmetic, everything else by the memory.**  Bias, ReLU, normalization,
# pooling, the update, and the copies of im2col are all "everything else".

# %%
assert int(2 * 512 / 3) == 341
assert np.isclose((2 * n**3 / (3 * n**2)) / (n**2 / (3 * n**2)), 2 * n)

# %% [markdown]
# ## Long runs
#
# Memory comes in **lines** of 64 bytes, 16 numbers of float32.  Whoever reads one number gets its line, and
# the processor guesses that the next line is wanted too.  So what counts is how long the **runs** of
# neighbours are.
#
# Three pictures, each a row of 8 pixels.  conv1 wants every 4th pixel.  In the layout $(W, N)$, images
# innermost, those are 2 runs of 3 numbers.  In the layout $(N, W)$ they are 6 runs of 1.


# %%
def runs(positions):
    """Count the runs of neighbours in the places in memory that are read."""
    return 1 + np.count_nonzero(np.diff(np.sort(positions.ravel())) != 1)


innermost = np.arange(24).reshape(8, 3)[::4]  # (W, N): each number is its own place
outermost = np.arange(24).reshape(3, 8)[:, ::4]  # (N, W)
assert runs(innermost) == 2
assert runs(outermost) == 6
assert innermost.size == outermost.size == 6

# %% drawing
from matplotlib.pyplot import figure

upper, lower = figure(figsize=(7, 1.7), layout="constrained").subplots(2, 1)
for axes, places, title in (
    (upper, innermost, "(W, N): every 4th pixel of all images, in memory"),
    (lower, outermost, "(N, W): the same pixels"),
):
    read = np.zeros(24)
    read[places.ravel()] = 1
    draw.array(axes, read, title, fmt="{:.0f}", limit=2)

# %% [markdown]
# In AlexNet: one row of one channel, 55 windows, 128 images.  With $(C,H,W,N)$ one place in the window is
# 55 runs of 128 numbers, each 8 whole lines.  With images outermost it is 7040 runs of a single number, and
# of every line fetched 16 bytes of 64 are used, every fourth number.  Time the copy, some rows of it:

# %%
row = np.arange(224 * 128).reshape(224, 128)[: 55 * 4 : 4]
assert runs(row) == 55
assert row.shape[1] * 4 == 8 * 64
row = np.arange(128 * 224).reshape(128, 224)[:, : 55 * 4 : 4]
assert runs(row) == 55 * 128 == 7040
assert len(np.unique(row * 4 // 64)) == 128 * 14  # lines: 16 of 64 bytes used

x = rng.standard_normal((3, 16, 224, 128), np.float32)  # (C, H, W, N)
x_outer = np.ascontiguousarray(x.transpose(3, 0, 1, 2))  # (N, C, H, W)
inner, outer = x[:, :, : 55 * 4 : 4], x_outer[:, :, :, : 55 * 4 : 4]
inner_out, outer_out = np.empty(inner.shape, "f4"), np.empty(outer.shape, "f4")
inner_ms = 1e3 * best(np.copyto, inner_out, inner)
outer_ms = 1e3 * best(np.copyto, outer_out, outer)
assert (inner_out == outer_out.transpose(1, 2, 3, 0)).all()
print(f"images innermost {inner_ms:.2f} ms, outermost {outer_ms:.2f} ms")

# %% [markdown]
# ## Copy less: columns that are a view
#
# im2col writes each pixel into every window that covers it, $KH\cdot KW$ copies: 25 for conv2.  But the
# windows of output row $i$ and those of row $i+1$ look at almost the same input rows.  So write out only
# the repetition *along* a row:
#
# $$\mathrm{strips}[h, c, q, j, n] = x[c,\; h,\; j\,s+q,\; n]$$
#
# $KW$ copies, 5 for conv2.  The window row $p$ is not copied at all: output row $i$ needs the input rows
# $i\,s, \dots, i\,s+KH-1$, and **their strips lie one after the other.**  As a matrix they *are* the
# columns of that output row.  Here is one picture of 5×6, windows of 3×3, stride 1: the frames are the
# columns of output rows 0, 1 and 2.


# %%
def strips_of(x, KW, stride):
    """Write out the repetition along the rows.  x (C,H,W,N) → (H, C, KW, OW, N)."""
    C, H, W, N = x.shape
    OW = (W - KW) // stride + 1
    strips = np.empty((H, C, KW, OW, N), x.dtype)
    for q in range(KW):
        strips[:, :, q] = x[:, :, q : q + OW * stride : stride].swapaxes(0, 1)
    return strips


small = np.arange(30.0).reshape(1, 5, 6, 1)
strips = strips_of(small, 3, 1)
assert strips.shape == (5, 1, 3, 4, 1)
assert strips.size == 3 * 5 * 4  # im2col: 9 · 3 · 4

# %% drawing
left, right = draw.panels(3, 4, height=4.2)
draw.array(left, small[0, :, :, 0], "x", fmt="{:.0f}", limit=60)
draw.array(right, strips.reshape(15, 4), "strips", fmt="{:.0f}", limit=60)
for i in range(3):
    draw.frame(right, 3 * i, 0, 9, 4, draw.INK[i], inset=0.09 * i)

# %% [markdown]
# **Your turn.**  Cut out the columns of output row $i$.  The check looks at the numbers, and at whether
# anything was copied.


# %%
def row_columns(strips, i, KH, stride):
    """Columns of output row i, a view.  strips (H,C,KW,OW,N) → (KH·C·KW, OW·N)."""
    _, C, KW, OW, N = strips.shape
    cols = ...  # the strips of KH input rows, as a matrix
    copied = not np.shares_memory(cols, strips)
    return cols, copied


# %%
row_columns = check(row_columns)
# hint("row_columns")
# solution("row_columns")

# %% [markdown]
# The rows of that matrix are in the order $p, c, q$ where im2col has $c, p, q$.  That costs nothing: put
# the *weights* into this order, once.  One product for each output row, and the result equals the
# library's, which does exactly this (`tinyalex.ops.strips`).

# %%
C, H, W, N, F, KH, KW, s = 3, 11, 13, 2, 4, 5, 3, 2
x = rng.standard_normal((C, H, W, N))
w = rng.standard_normal((F, C, KH, KW))
strips = strips_of(x, KW, s)
OH, OW = (H - KH) // s + 1, strips.shape[3]
W_rows = w.transpose(0, 2, 1, 3).reshape(F, -1)  # p, c, q
y = np.empty((F, OH, OW * N))
for i in range(OH):
    cols, copied = row_columns(strips, i, KH, s)
    assert not copied
    y[:, i] = W_rows @ cols

theirs, _ = conv2d_forward(x, w, np.zeros(F), stride=s)
np.testing.assert_allclose(y.reshape(theirs.shape), theirs, rtol=1e-10, atol=1e-10)
print(f"one product a row, nothing copied: the library's {theirs.shape}")

# %% [markdown]
# ## Blocks that stay in the cache
#
# Between the core and the memory lie **caches**: small, fast, holding what was used last.  Take a cache of
# 4 numbers, an array of 8, and three passes over it: say, subtract a mean, scale, take the maximum with 0.
# Whole array first: when the second pass comes to number 0, the first pass has just pushed it out.  Every
# pass fetches everything, $3\cdot8 = 24$.  Now do **all three passes over the first half, then all three
# over the second**: $8$ fetches.  The arithmetic is the same, and so is the result.

# %%
from collections import OrderedDict

halves = [range(0, 4), range(4, 8)]
whole_order = [(p, half) for p in range(3) for half in halves]
block_order = [(p, half) for half in halves for p in range(3)]


def fetches(order, room=4):
    """Numbers fetched so far, after each piece of work."""
    cache, count, trace = OrderedDict(), 0, []
    for _, numbers in order:
        for number in numbers:
            if number in cache:
                cache.move_to_end(number)
            else:
                count += 1
                cache[number] = True
                if len(cache) > room:
                    cache.popitem(last=False)  # the one that was used longest ago
        trace.append(count)
    return trace


TITLES = "whole array, three times", "three times each half"
traces = [fetches(whole_order), fetches(block_order)]
assert traces[0][-1] == 3 * 8 == 24
assert traces[1][-1] == 8


# %% drawing
def work_on(k):
    """Step k: the k-th piece of four numbers, in both orders."""
    orders, panels = (whole_order, block_order), []
    for order, trace, title in zip(orders, traces, TITLES, strict=True):
        done = np.full((3, 8), np.nan)
        for p, numbers in order[: k + 1]:
            done[p, list(numbers)] = 1
        p, numbers = order[k]
        panel = paint.array(done, title, "{:.0f}", 2, rows=["pass 1", "pass 2", "pass 3"])
        panel.frame(p, numbers[0], 1, 4)
        panels.append(panel.note(f"fetched from memory so far: {trace[k]}"))
    return paint.row(*panels)


step_through(work_on, 6)

# %% [markdown]
# The same on the machine: the update of lesson 10, six passes, over arrays of different lengths; the time
# is for one number.  The other curve goes over the same arrays in blocks of $2^{18}$ numbers, as the
# library does.  At the left you see what a call costs, at the right where arrays outgrow a cache, if they
# do: on a machine with a large one the two curves may lie close together, or cross later.  AlexNet is at
# the far right: fc6 alone has 37,748,736 weights, 151 MB, and as many gradients and velocities, and two
# ranks share the way to memory.


# %%
from tinyalex.optim import BLOCK


def passes(w, g, v, term):
    """Six passes, in place: v ← 0.9 v − 1e-5 w − 1e-2 g;  w ← w + v."""
    v *= np.float32(0.9)
    v -= np.multiply(w, np.float32(1e-5), out=term)
    v -= np.multiply(g, np.float32(1e-2), out=term)
    w += v


def in_blocks(w, g, v, term, size):
    for start in range(0, len(w), size):
        part = slice(start, start + size)
        passes(w[part], g[part], v[part], term[: len(w[part])])


assert BLOCK == 2**18
first = rng.standard_normal((3, 600_000), np.float32)  # the last block is not full
again, term = first.copy(), np.empty(600_000, np.float32)
passes(*first, term)
in_blocks(*again, term, BLOCK)
assert (first == again).all()  # to the last bit
assert macs["fc6"] == 37_748_736
assert round(4 * macs["fc6"] / 1e6) == 151

lengths = [1 << k for k in range(12, 23)]
room = np.ones((4, lengths[-1] + 1040), np.float32)  # a little apart: see below
whole, blocked = [], []
for length in lengths:
    arrays = room[:, :length]
    whole.append(1e9 * best(passes, *arrays, times=3) / length)
    blocked.append(1e9 * best(in_blocks, *arrays, BLOCK, times=3) / length)

# %% drawing
axes = draw.panels(1, height=2.6)
axes.semilogx(lengths, whole, "o-", color=draw.INK[0], base=2, label="whole passes")
axes.semilogx(lengths, blocked, "s-", color=draw.INK[1], base=2, label="in blocks")
axes.set_ylim(bottom=0)
axes.legend(frameon=False)
draw.plain(axes, "numbers in each array", "ns for one number", "on this machine")

# %% [markdown]
# Why the 1040 in `room`?  A cache keeps a line in one of a few places that follow from its address, and
# addresses that differ by a large power of two share those places.  Number $i$ of four arrays exactly 16
# MiB apart would push each other out of a cache that is nearly empty.
#
# Blocks have a price: each operation on a block costs NumPy about a microsecond before it begins.  Too
# small, and you pay mostly that; too large, and they fall out of the cache.  The library's sizes (`BLOCK`
# in `tinyalex.optim`, `BLOCK_BYTES` in `ops.lrn`, `ops.pool` and `ops.strips`) were found by measuring.  And
# a block need not be a pass over a *flat* array: bias and ReLU are applied to some rows of outputs right
# after their products, while they are hot.
#
# ## Fresh memory is not free
#
# `np.empty` of 40 MiB returns at once, because it has got nothing yet.  The system hands out a page (often
# 4 KiB, sometimes 2 MiB) when it is *first touched*, and clears it first: a **page fault**.  And when the
# array is deleted, a block this large goes straight back.  A training step that makes fresh arrays pays for
# that in every step.

# %%
try:
    import resource  # of Linux and macOS
except ImportError:
    resource = None


def faults():
    return (
        resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0
    )  # Windows counts none


def fill(array):
    before, start = faults(), perf_counter()
    array.fill(1)
    return faults() - before, 1e3 * (perf_counter() - start)


fresh = np.empty(10 << 20, np.float32)
assert fresh.nbytes == 40 << 20
fills = {"first": fill(fresh), "second": fill(fresh)}
assert fills["first"][0] > fills["second"][0] or resource is None
for name, (count, ms) in fills.items():
    print(f"{name} fill: {count:6} page faults, {ms:6.1f} ms")

# %% [markdown]
# So the library keeps its large buffers.  `tinyalex.memory.empty` looks whether a buffer of about this
# size is no longer used by anybody, and gives it out again: same address, no fault.

# %%
from tinyalex.memory import empty

address = empty(np, (3_000_000,), np.float32).ctypes.data  # used, and let go
kept = empty(np, (3_000_000,), np.float32)
assert kept.ctypes.data == address  # the same memory again
other = empty(np, (3_000_000,), np.float32)
assert other.ctypes.data != address  # but not while somebody has it
print("let go, asked for again: the same", kept.nbytes, "bytes")
del fresh, kept, other

# %% [markdown]
# ## Fewer multiplications
#
# Now the products themselves.  A kernel of three weights makes two outputs from four pixels:
#
# $$\begin{aligned} y_0 &= w_0 d_0 + w_1 d_1 + w_2 d_2 \\ y_1 &= w_0 d_1 + w_1 d_2 + w_2 d_3 \end{aligned}$$
#
# Six multiplications.  **Four are enough**, and lesson 5 has the key: look at the transpose.  For fixed
# $w$, $y = T d$ with a matrix $T$ of $2\times4$.  Its transpose takes two numbers to four,
# $z_{i+p} = \sum y_i\,w_p$, and that is something from school: the product of two polynomials.
#
# $$(y_0 + y_1 x)\,(w_0 + w_1 x + w_2 x^2) = z_0 + z_1 x + z_2 x^2 + z_3 x^3$$
#
# A polynomial with four coefficients is known from four values, and **the value of a product is the product
# of the values.**  Take the points $0$, $1$, $-1$, and, as a fourth value, the leading coefficient ("the
# point $\infty$").  By hand, $(1 + 2x)(3 + x + 2x^2)$:
#
# * at $0$: $1\cdot 3 = 3$; at $1$: $3\cdot 6 = 18$; at $-1$: $-1\cdot 4 = -4$; at $\infty$: $2\cdot 2 = 4$.
# * $z_0 = 3$ and $z_3 = 4$ are there already.  Half the sum at $\pm1$ is $z_0 + z_2 = 7$, so $z_2 = 4$.
#   Half the difference is $z_1 + z_3 = 11$, so $z_1 = 7$.
#
# Four multiplications: $3 + 7x + 4x^2 + 4x^3$.

# %%
assert list(np.polymul([2, 1], [2, 1, 3])) == [4, 4, 7, 3]  # leading coefficient first
values = [1 * 3, 3 * 6, -1 * 4, 2 * 2]
assert values == [3, 18, -4, 4]
assert ((18 - 4) / 2 - 3, (18 + 4) / 2 - 4) == (4, 7)  # z2, z1

# %% [markdown]
# With matrices: let $A$ and $\hat G$ take $y$ and $w$ to their values, and $V$ take the coefficients $z$ to
# theirs.  Then $V z = (A y)\odot(\hat G w)$, where $\odot$ multiplies number by number, and
#
# $$\begin{aligned}
# z &= T^{\mathsf T} y = V^{-1}\left[(A y)\odot(\hat G w)\right] \\
# y &= T d = A^{\mathsf T}\left[(\hat G w)\odot(V^{-\mathsf T} d)\right]
# \end{aligned}$$
#
# The second line is the first transposed: a chain of matrices turns around, and the $\odot$ in the middle
# is a diagonal matrix, which is its own transpose.  The halves in $V^{-\mathsf T}$ can move to the weights,
# which are transformed once for all pictures.  Then $B = V^{-\mathsf T}$ without its halves, $G = \hat G$
# with them, and
#
# $$y = A^{\mathsf T}\left[(G w)\odot(B d)\right]$$
#
# This is **minimal filtering** (Winograd 1980; for convolutional networks Lavin and Gray, CVPR 2016), and
# $F(2,3)$ their name for two outputs of three weights.

# %%
A = np.array([[1, 0], [1, 1], [1, -1], [0, 1]])  # rows: at 0, 1, −1, ∞
V = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [0, 0, 0, 1]])
G_hat = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]])
halves = np.array([1, 0.5, 0.5, 1])
G = halves[:, None] * G_hat
B = np.linalg.inv(V).T / halves[:, None]
assert (np.rint(B) == [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]).all()
assert np.allclose(B, np.rint(B))
B = np.rint(B)

# %% drawing
axes = draw.panels(3, 4, 2, height=2.3)
draw.array(axes[0], G, "G: weights")
draw.array(axes[1], B, "B: pixels", fmt="{:.0f}")
draw.array(axes[2], A, "A: turned, outputs", fmt="{:.0f}")

# %% [markdown]
# Written out, the four products are `m0` to `m3` below: $B$ only adds and subtracts pixels.  **Your turn:**
# the way out, $A^{\mathsf T} m$.


# %%
def four_products(d, w):
    """F(2,3): y_i = Σ_p w_p d_{i+p} for i = 0, 1.  d (4,N), w (3,) → y (2,N)."""
    m0 = w[0] * (d[0] - d[2])
    m1 = (w[0] + w[1] + w[2]) / 2 * (d[1] + d[2])
    m2 = (w[0] - w[1] + w[2]) / 2 * (d[2] - d[1])
    m3 = w[2] * (d[3] - d[1])
    y = ...  # (2, N)
    return y


# %%
four_products = check(four_products)
# hint("four_products")
# solution("four_products")

# %% [markdown]
# Is that *equal*, or only close?  Compute with fractions: nothing is rounded, and `==` means it.

# %%
from fractions import Fraction

d = np.array([[Fraction(v, 7)] for v in (3, -1, 4, 5)])
w = np.array([Fraction(v, 3) for v in (2, 7, -1)])
direct = np.array([[sum(w[p] * d[i + p, 0] for p in range(3))] for i in range(2)])
assert (four_products(d, w) == direct).all()
print("exactly:", *four_products(d, w)[:, 0])

# %% [markdown]
# **Two dimensions** are rows, then columns.  With a tile $D$ of $4\times4$ pixels and a kernel $w$ of
# $3\times3$:
#
# $$Y = A^{\mathsf T}\left[(G\,w\,G^{\mathsf T})\odot(B\,D\,B^{\mathsf T})\right]A$$
#
# $4\cdot4 = 16$ multiplications for $2\times2$ outputs, in place of $4\cdot9 = 36$.  Larger tiles save
# more.  In general $t\times t$ outputs of a $k\times k$ kernel take $(t+k-1)^2$ in place of $t^2k^2$; the
# library has $t = 4$: 36 in place of 144 for $k = 3$, and 64 in place of 400 for $k = 5$.

# %%
D, w = rng.standard_normal((4, 4)), rng.standard_normal((3, 3))
Y = A.T @ ((G @ w @ G.T) * (B @ D @ B.T)) @ A
direct = [[(w * D[i : i + 3, j : j + 3]).sum() for j in range(2)] for i in range(2)]
np.testing.assert_allclose(Y, direct, rtol=1e-12, atol=1e-12)
assert (4 * 4, 2 * 2 * 3 * 3) == (16, 36)


def per_tile(t, k):
    return (t + k - 1) ** 2, t**2 * k**2


assert per_tile(2, 3) == (16, 36)
assert per_tile(4, 3) == (36, 144)
assert per_tile(4, 5) == (64, 400)

# %% [markdown]
# Going in and coming back costs additions, for every channel and every filter, but only once each; the
# products cost (channels × filters).  So it pays for layers with many of both and with stride 1: conv2 to
# conv5.  13×13 outputs need $4\times4$ tiles of $4\times4$, so some of it is wasted at the edge.  Still,
# the products of a forward pass fall from 724 to 330 million multiplications.

# %%
from tinyalex.ops import winograd

shapes = {"conv1": (96, 3, 11, 55), "conv2": (256, 48, 5, 27), "conv3": (384, 256, 3, 13)}
shapes |= {"conv4": (384, 192, 3, 13), "conv5": (256, 192, 3, 13)}
fewer = dict(macs)
for name, (F, C, k, size) in shapes.items():
    assert macs[name] == F * C * k * k * size**2
    stride = (4, 4) if name == "conv1" else (1, 1)
    groups = 2 if C in (48, 192) else 1
    if winograd.pays(np.broadcast_to(np.float32(0), (F, C, k, k)), stride, groups):
        tiles = (-(-size // 4)) ** 2
        fewer[name] = F * C * tiles * per_tile(4, k)[0]
assert [name for name in macs if fewer[name] < macs[name]] == [*shapes][1:]
assert round(sum(fewer.values()) / 1e6) == 330

# %% drawing
left, right = draw.panels(1, 1, height=2.4)
for axes, counts, title in ((left, macs, "as written"), (right, fewer, "with 4×4 tiles")):
    names = [name.replace("conv", "c").replace("fc", "f") for name in counts]
    axes.bar(names, [count / 1e6 for count in counts.values()], color=draw.INK[1])
    axes.set_ylim(0, 240)
    draw.plain(axes, "", "millions", f"{title}: {sum(counts.values()) / 1e6:.0f} million")

# %% [markdown]
# The library's `ops.winograd` is this, with tiles of 4×4, and points chosen with care.  Its transforms are
# two small products for each tile, of its rows and then of its columns, and NumPy does those of many tiles in
# one call.  In float64 its numbers are those of lesson 4.  In float32 there is a price: the transforms
# subtract numbers of like size, and what was rounded away before does not come back.  The error is larger
# than that of the plain sum.  Both are far below what a gradient from 128 random pictures is worth.

# %%
x = rng.standard_normal((32, 13, 13, 4))
w = rng.standard_normal((48, 32, 3, 3)) / 17  # 17 ≈ √(32·9)
assert winograd.pays(w, (1, 1), 1)
exact, _ = plain.conv2d_forward(x, w, np.zeros(48), pad=1)
y, _ = conv2d_forward(x, w, np.zeros(48), pad=1)
np.testing.assert_allclose(y, exact, rtol=1e-10, atol=1e-10)
by_rows = B @ D
np.testing.assert_allclose((B @ by_rows.T).T, B @ D @ B.T, atol=1e-12)

x32, w32 = x.astype("f4"), w.astype("f4")
exact, _ = plain.conv2d_forward(x32.astype(float), w32.astype(float), np.zeros(48), pad=1)
plain32, _ = plain.conv2d_forward(x32, w32, np.zeros(48, "f4"), pad=1)
fast32, _ = conv2d_forward(x32, w32, np.zeros(48, "f4"), pad=1)
errors = [
    np.abs(found - exact).max() / np.abs(exact).max() for found in (plain32, fast32)
]
print(
    f"float32, of the largest output: plain {errors[0]:.1e}, with tiles {errors[1]:.1e}"
)
assert errors[0] < errors[1] < 2e-5

# %% [markdown]
# ## Threads
#
# Two cores can do twice as much, if they do not wait for each other.  The library's CPU ranks (lesson 12)
# are threads, **each with one BLAS thread**: if each of two ranks let BLAS start two threads, four would
# share two cores, and a product would wait for the part that is not running.
#
# Python itself runs one thread at a time: whoever executes Python holds a lock, the **GIL**.  NumPy lets go
# of it *inside* an operation.  So two threads run side by side as long as the operations are long; between
# them they queue.  Cut the same work into smaller and smaller pieces: $2^{20}$ numbers in pieces of $2^8$
# are 4096 calls, in pieces of $2^{16}$ they are 16.

# %%
import sys
from threading import Thread

half = 1 << 20
numbers = rng.random((2, half), np.float32)
roots = np.empty_like(numbers)


def by_pieces(r, size):
    for start in range(0, half, size):
        part = slice(start, start + size)
        np.cbrt(numbers[r, part], out=roots[r, part])


def alone(size):
    by_pieces(0, size)
    by_pieces(1, size)


def together(size):
    threads = [Thread(target=by_pieces, args=(r, size)) for r in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


sizes = [1 << k for k in range(8, 21, 2)]
assert len(range(0, half, 1 << 8)) == 4096
assert len(range(0, half, 1 << 16)) == 16
ways = {"one thread": alone, "two threads": together}
if sys.platform == "emscripten":
    del ways["two threads"]
    print("Python in a browser has one thread: two cannot be measured here.")
times = {name: [1e3 * best(way, size) for size in sizes] for name, way in ways.items()}
assert (roots == np.cbrt(numbers)).all()

# %% drawing
axes = draw.panels(1, height=2.6)
for (name, ms), colour in zip(times.items(), draw.INK, strict=False):
    axes.loglog(sizes, ms, "o-", color=colour, base=2, label=name)
axes.legend(frameon=False)
draw.plain(axes, "numbers in a piece", "ms for all", "on this machine")

# %% [markdown]
# With large pieces two threads come near half the time, if a second core is free (on a busy machine they
# may never win).  With small pieces the gain melts, and two threads can be *slower* than one: for a few
# hundred numbers NumPy does not even let go of the lock, and above that each thread waits for it once a
# piece.  That is why the library's blocks are not as small as the cache alone would like, and why a comment
# in `ops/pool.py` says "smaller, and the ranks wait for the GIL".
#
# You can see what each of these does for the real network: `tinyalex bench alexnet --layers` shows where a
# step's time goes, and `python measured/levers.py` in the repository takes one lever away at a time.
# Neither is needed to go on; both take minutes.
#
# ## Break it on purpose
#
# Local response normalization sums over windows of 5 channels: 4 additions for each.  A **running sum**
# needs two: add the one that enters, subtract the one that leaves.  Half the work, for the same formula.
# One channel has a large value, $2^{24}$; all others are 1.  **Guess before you run:** what is the sum of
# five ones, some channels further on?

# %%
p = np.ones(16, np.float32)
p[3] = 2**24


def running(p, n=5):
    total = p[:n].sum()
    sums = [total]
    for enters, leaves in zip(p[n:], p[:-n], strict=True):
        total = total + enters - leaves
        sums.append(total)
    return np.array(sums)


plainly = np.array([p[i : i + 5].sum() for i in range(12)])
print("window by window:", *plainly[4:].astype(int))
print("running sum:     ", *running(p)[4:].astype(int))
assert (plainly[4:] == 5).all()
assert (running(p)[4:] != 5).all()
assert (running(p.astype(np.float64))[4:] == 5).all()

# %% [markdown]
# In float32, $2^{24} + 1$ is $2^{24}$: the ones that entered beside the large number were lost, and when it
# left, what stayed was their rounding, for good.  The formulas are equal, the computations are not.  So the
# library takes pairs, and pairs of pairs, and one more: three additions, and nothing is ever subtracted.
#
# **Fast is worth something only beside a test that says it is still the same.**  Every trick in this lesson
# stood next to an assert.

# %%
assert np.float32(2**24) + np.float32(1) == np.float32(2**24)
pairs = p[1:] + p[:-1]
assert ((pairs[:-3] + pairs[2:-1] + p[4:])[4:] == 5).all()

# %% [markdown]
# ## Think about it
#
# 1. fc6 multiplies a matrix of $4096\times9216$ with 128 columns.  With a batch of one picture, what limits
#    it, and why do servers collect pictures into batches?
# 2. Tiles of 4×4 saved more than tiles of 2×2.  Why not tiles of 16×16?
# 3. You made one layer ten times as fast, and it took a tenth of the step.  By how much is the step faster?
#
# <details><summary>What we would answer</summary>
#
# 1. With one picture each weight is fetched for one multiplication and one addition: two operations for
#    four bytes, so the memory.  With 128 pictures the same fetch serves 128 of them.
# 2. Eighteen points are needed for $k = 3$.  Their powers up to the 17th differ by many orders of
#    magnitude, and float32 has seven digits.  Also the edge: 13×13 outputs would be padded to 16×16.
# 3. It takes 9 percent less time: 0.91 of it is left.  So it is 10 percent faster, $1/0.91 = 1.10$.  First
#    measure where the time goes, then work there.
#
# </details>

# %%
assert 16 + 3 - 1 == 18
assert np.isclose(0.9 + 0.1 / 10, 0.91)

# %% [markdown]
# ## What comes next
#
# All this was arranging work for a few cores.  A GPU has thousands of small ones, its own memory and its
# own rules for runs and caches; the questions stay the same.  [Lesson 16: CUDA kernels by
# hand](16_cuda_kernels.ipynb).
