# %% [markdown]
# # 5 · Backward through convolution: col2im, and why it adds
#
# In [lesson 4](04_convolution.ipynb) a convolution became one matrix product: `im2col` copied every window
# into a column, and $Y = W\,\mathrm{cols} + b$.  Now the loss sends its gradient back through it.
#
# The idea fits in one sentence.  **Forward, a pixel is copied into every window that covers it; so
# backward, its gradient is the sum of what those windows send back.**  A copy turns into a sum.  All of
# this lesson is that sentence, first for one pixel, then for a row of pixels, then for pictures.
#
# The paper needs it in every step and spends half a line on it.  Its update rule (section 5) uses
#
# > "the average over the $i$th batch $D_i$ of the derivative of the objective with respect to $w$,
# > evaluated at $w_i$".
#
# Here is where that derivative comes from, for the five layers that are convolutions.
#
# **You bring:** `im2col` and the sizes (lesson 4), the gradient of $Wx+b$ (lesson 2), the checker (lesson
# 3).
#
# **You take away:** `dx`, `dw` and `db` of a convolution, derived, written and checked; the bug that most
# first attempts have, and the test that sees it.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(5)
rng = np.random.default_rng(5)

# %% [markdown]
# ## One pixel, two windows
#
# Let one number $x$ be used twice: $y_1 = a\,x$ in one window, $y_2 = b\,x$ in another, and let the loss
# $L$ depend on both.  Move $x$ by a little $\varepsilon$: then $y_1$ moves by $a\varepsilon$ *and* $y_2$ by
# $b\varepsilon$, and the loss feels both.
#
# $$\frac{dL}{dx} \;=\; \frac{\partial L}{\partial y_1}\,a \;+\; \frac{\partial L}{\partial y_2}\,b$$
#
# Two paths from $x$ to $L$, two terms, one plus sign.  That plus is the `+=` that this lesson is about.
# With $a = 2$, $b = 5$ and a loss $L = 3y_1 - y_2$, the slope is $3\cdot 2 - 1\cdot 5 = 1$:


# %%
def loss(x):
    y1, y2 = 2 * x, 5 * x
    return 3 * y1 - y2


slope = (loss(1 + 1e-3) - loss(1 - 1e-3)) / 2e-3
assert abs(slope - (3 * 2 - 1 * 5)) < 1e-9
print(f"slope measured: {slope:.6f}")

# %% [markdown]
# ## A row of pixels
#
# Take a row of $W = 9$ pixels, windows of $K = 3$, stride $s = 2$.  There are $OW = (9-3)/2+1 = 4$ windows,
# and `im2col` is
#
# $$\mathrm{cols}[p, o] = x[o\,s + p], \quad 0 \le p < K,\; 0 \le o < OW .$$

# %%
W, K, s = 9, 3, 2
OW = (W - K) // s + 1
x = np.array([4.0, 1, 7, 2, 8, 3, 6, 5, 9])
cols = np.stack([x[o * s : o * s + K] for o in range(OW)], axis=1)
assert OW == 4
assert cols.shape == (K, OW)

# %% drawing
row, columns = draw.panels(9, 4, height=2.2)
draw.array(row, x, "x")
draw.array(columns, cols, "cols")
for o in range(OW):
    draw.frame(row, 0, o * s, 1, K, draw.INK[o], inset=0.07 * (o % 2))
    draw.frame(columns, 0, o, K, 1, draw.INK[o], inset=0.07)

# %% [markdown]
# Neighbouring frames share a pixel: $x[2] = 7$ is the last of window 0 and the first of window 1, and
# stands in `cols` twice.  So do $x[4]$ and $x[6]$; every other pixel stands there once.  That makes the
# $3\cdot4 = 12$ numbers of `cols` out of 9 pixels.

# %%
times = np.array([(cols == value).sum() for value in x])  # each pixel has its own value
assert list(times) == [1, 1, 2, 1, 2, 1, 2, 1, 1]
assert cols.size == times.sum() == 12

# %% [markdown]
# Backward, somebody hands us `dcols`: how much the loss rises for each number *in cols*.  We want `dx`: how
# much it rises for each *pixel*.  By the argument above, a pixel collects from all its copies:
#
# $$dx[u] \;=\; \sum_{(p,o)\,:\;o\,s+p\,=\,u} d\mathrm{cols}[p, o]$$
#
# Step through it: one window at a time goes back to where it came from.  Watch pixel 2 when window 1
# arrives.

# %%
dcols = np.array([[1.0, 4, -2, 3], [2, -1, 5, 2], [3, 2, 1, -4]])


# %% drawing
def add_window(k):
    """Step k: windows 0 … k−1 are back in place, window k arrives."""
    dx = np.zeros(W)
    for o in range(k + 1):
        dx[o * s : o * s + K] += dcols[:, o]
    back = paint.array(dx, f"dx after window {k}", limit=5).frame(0, k * s, 1, K, k)
    if k:
        back.note(f"pixel {k * s}: what was there, plus {dcols[0, k]:g}")
    return paint.row(paint.array(dcols, "dcols", limit=5).frame(0, k, K, 1, k), back)


step_through(add_window, OW)

# %% [markdown]
# **Your turn.**  Write it for any $W$ and stride.  Replace the line with `...`.


# %%
def add_back(dcols, W, stride):
    """Transpose of im2col in one dimension.  dcols (K, OW) → dx (W,)."""
    K, OW = dcols.shape
    dx = np.zeros(W)
    ...  # put every column of dcols back where its window was
    return dx


# %%
add_back = check(add_back)  # yours once it is right, until then the book's
# hint("add_back")          remove the first # for a hint, run again for the next
# solution("add_back")

# %%
assert list(add_back(dcols, W, s)) == [1, 2, 7, -1, 0, 5, 4, 2, -4]

# %% [markdown]
# ## Why the sum is a transpose
#
# `im2col` only copies, so it is linear: there is a matrix $P$ of zeros and ones with $\mathrm{cols} = P x$
# (`cols` written as one long vector).  Row $(p,o)$ of $P$ has its single one at pixel $o\,s+p$.  For any
# linear map $c = P x$ the chain rule reads
#
# $$\begin{aligned}
# dx[u] &= \sum_k dc[k]\,\frac{\partial c[k]}{\partial x[u]} = \sum_k dc[k]\,P[k,u] \\
# dx &= P^{\mathsf T} dc .
# \end{aligned}$$
#
# **col2im is $P^{\mathsf T}$.**  $P$ has a single one in each *row* (a number in `cols` is a copy of one
# pixel), but up to two in each *column* (a pixel has up to two copies).  A row with two ones adds: that is
# where `+=` lives.

# %%
P = np.zeros((K * OW, W))
for k, (p, o) in enumerate(np.ndindex(K, OW)):
    P[k, o * s + p] = 1

assert (P @ x == cols.reshape(-1)).all()
assert (P.T @ dcols.reshape(-1) == add_back(dcols, W, s)).all()
assert set(P.sum(axis=1)) == {1}
assert P.sum(axis=0).max() == 2

# %% drawing
forward, backward = draw.panels(9, 12, height=3.3)
draw.array(forward, P, "P: forward, pixels to columns", fmt="{:.0f}")
draw.array(backward, P.T, "its transpose: backward, columns to pixels", fmt="{:.0f}")
for u in (2, 4, 6):
    draw.frame(backward, u, 0, 1, 12, draw.INK[0])

# %% [markdown]
# Being a transpose is something that can be tested without any calculus: for *any* two vectors,
#
# $$\langle P x,\; d \rangle = \langle x,\; P^{\mathsf T} d \rangle .$$
#
# It is the quickest test of a col2im there is, whatever the loss.  And it says what col2im is *not*: it
# does not undo im2col.  Going there and back multiplies each pixel by the number of windows that cover it.

# %%
d = rng.standard_normal((K, OW))
assert np.isclose((cols * d).sum(), (x * add_back(d, W, s)).sum())
assert (add_back(cols, W, s) == times * x).all()
print("there and back:", add_back(cols, W, s), "= times", times, "· x")

# %% [markdown]
# ## Pictures: three gradients from three products
#
# Now all the indices.  $N$ pictures of $C$ channels, $H\times W$; $F$ filters of $KH\times KW$; output
# $OH\times OW$:
#
# $$y[f,i,j,n] = b[f] + \sum_{c,p,q} w[f,c,p,q]\; x[c,\; i\,s+p,\; j\,s+q,\; n]$$
#
# Write $k = (c,p,q)$ for a place in the window and $m = (i,j,n)$ for a window, and the sum is
# $y[f,m] = b[f] + \sum_k w[f,k]\,\mathrm{cols}[k,m]$.  With $g = dL/dy$, the three gradients are lesson
# 2's:
#
# $$\begin{aligned}
# db[f] &= \sum_m g[f,m] \\
# dw[f,k] &= \sum_m g[f,m]\,\mathrm{cols}[k,m] \\
# d\mathrm{cols}[k,m] &= \sum_f w[f,k]\,g[f,m]
# \end{aligned}$$
#
# As matrices: $dW = g\,\mathrm{cols}^{\mathsf T}$ and $d\mathrm{cols} = W^{\mathsf T} g$.  Here are shapes
# in which no two sizes are the same, so that whatever is transposed by mistake cannot fit.

# %%
from tinyalex.ops import im2col  # lesson 4 derived it

N, C, KH, KW, F, H, W = 2, 3, 4, 5, 6, 10, 13
x = rng.standard_normal((C, H, W, N))
w = rng.standard_normal((F, C, KH, KW))
b = rng.standard_normal(F)

cols = im2col(x, KH, KW)  # (C·KH·KW, OH·OW·N)
OH, OW = H - KH + 1, W - KW + 1
y = (w.reshape(F, -1) @ cols + b[:, None]).reshape(F, OH, OW, N)
dy = rng.standard_normal(y.shape)  # what the layers above send back: anything

print("cols", cols.shape, "   y", y.shape)
assert (OH, OW) == (7, 9)
assert cols.shape == (60, 126) == (C * KH * KW, OH * OW * N)

# %% [markdown]
# **Your turn.**  Three lines; let the shapes lead you.


# %%
def three_products(dy, cols, w):
    """Gradients of y = W cols + b.  dy (F,OH,OW,N), cols (C·KH·KW, OH·OW·N), w (F,C,KH,KW)."""
    g = dy.reshape(len(w), -1)
    dw = ...  # (F, C, KH, KW)
    db = ...  # (F,)
    dcols = ...  # shaped like cols
    return dw, db, dcols


# %%
three_products = check(three_products)
# hint("three_products")
# solution("three_products")

# %%
dw, db, dcols = three_products(dy, cols, w)
for name, array in {"dw": dw, "db": db, "dcols": dcols}.items():
    print(f"{name:5}", array.shape)

# %% [markdown]
# ## col2im for pictures
#
# `dcols` has $60\cdot126 = 7560$ numbers, `x` has $3\cdot10\cdot13\cdot2 = 780$: on average nearly ten
# copies of each number go back to one place.  In two dimensions it pays to loop over the $KH\cdot KW$
# places *in* the window rather than over the windows: for one place $(p,q)$, all windows at once are a
# strided slice of the picture,
#
# $$\mathrm{cols}[:, p, q] = x[:,\; p : p + OH\,s : s,\;\; q : q + OW\,s : s]$$
#
# and no two windows touch the same pixel *within* one $(p,q)$.  Backward exchanges the two sides.

# %%
assert dcols.size == 60 * 126 == 7560
assert x.size == 3 * 10 * 13 * 2 == 780
assert 9 < dcols.size / x.size < 10

height, width, window, stride = 7, 9, 3, 2
places = [(p, q) for p in range(window) for q in range(window)]
windows_down, windows_across = 3, 4


# %% drawing
def add_place(k):
    """Step k: places 0 … k of the window have gone back; dcols is all ones, so dx counts copies."""
    inside = np.full((window, window), np.nan)
    count = np.zeros((height, width))
    for i, (p, q) in enumerate(places[: k + 1]):
        inside[p, q] = i
        count[p::stride, q::stride][:windows_down, :windows_across] += 1
    p, q = places[k]
    times = paint.array(count, "times added so far", "{:.0f}", 4)
    for i in range(windows_down):
        for j in range(windows_across):
            times.frame(i * stride + p, j * stride + q)
    place = paint.array(inside, "place in the window", "{:.0f}", 9).frame(p, q)
    return paint.row(place, times)


step_through(add_place, len(places))

# %% [markdown]
# At the end the corner has 1, an edge pixel between two windows 2, and a pixel between four windows 4.
# **Your turn:** one line is missing.


# %%
def col2im(dcols, x_shape, KH, KW, stride, pad):
    """Transpose of im2col.  dcols (C·KH·KW, OH·OW·N) → dx, shaped (C,H,W,N) = x_shape."""
    C, H, W, N = x_shape
    OH, OW = (H + 2 * pad - KH) // stride + 1, (W + 2 * pad - KW) // stride + 1
    dcols = dcols.reshape(C, KH, KW, OH, OW, N)
    dx = np.zeros((C, H + 2 * pad, W + 2 * pad, N))  # of the padded picture
    for p in range(KH):
        for q in range(KW):
            ...  # place (p, q) of all windows goes back at once
    dx = ...  # dx without the padding
    return dx


# %%
col2im = check(col2im)
# hint("col2im")
# solution("col2im")

# %% [markdown]
# ## Does it hold?
#
# Three judges.  First the checker of lesson 3: central differences with a *random* upstream gradient.

# %%
from tinyalex import gradcheck


def forward(x, w, b):
    cols = im2col(x, KH, KW)
    y = (w.reshape(F, -1) @ cols + b[:, None]).reshape(F, OH, OW, N)
    return y, (cols, x.shape, w)


def backward(dy, cache):
    cols, x_shape, w = cache
    dw, db, dcols = three_products(dy, cols, w)
    return {"x": col2im(dcols, x_shape, KH, KW, 1, 0), "w": dw, "b": db}


variables = {"x": x, "w": w, "b": b}
report = gradcheck.check(forward, backward, variables, rng=rng, linear=("x", "w", "b"))
print(f"largest relative error: {max(report.errors.values()):.1e}")
assert max(report.errors.values()) < 1e-10

# %% [markdown]
# Then the library, which has each of its operations three times: as **loops** over single numbers
# (`tinyalex.ops.reference`, lesson 4's), **plain**, whole arrays at a time as the formula reads
# (`tinyalex.ops.plain`), and **fast**.  Its tests hold all three to the same numbers.  Read the plain one:
# you have just written it.  What it has besides is a stride, padding, groups (the paper's two towers) and
# an activation after the sum.

# %%
import inspect

from tinyalex.ops import conv2d_backward, conv2d_forward, plain

print(inspect.getsource(plain.conv2d_backward))

ours = col2im(dcols, x.shape, KH, KW, 1, 0), dw, db
for forward_pass, backward_pass in (
    (plain.conv2d_forward, plain.conv2d_backward),
    (conv2d_forward, conv2d_backward),
):
    _, cache = forward_pass(x, w, b)
    for mine, theirs in zip(ours, backward_pass(dy, cache), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10)
print("dx, dw, db: ours, the plain and the fast ones agree")

# %% [markdown]
# The fast one computes the same sums in blocks that fit the cache; how, is the subject of lesson 15.  Until
# then the plain ones will do: within `with plain_ops():` a whole network runs on them, and so does
# `tinyalex train --plain`, for you to step through with a debugger.

# %% [markdown]
# ## Seeing the gradient flow back
#
# Let one filter look like a stroke, and let the loss care about a few outputs only: `dy` is 0 but for three
# numbers.  Then `dcols` $= W^{\mathsf T} g$ is the kernel itself, times that number, in the column of that
# window; and col2im **stamps the kernel** into the picture at that window.  Where stamps overlap, they add;
# a negative `dy` stamps the negative.
# ([Stamp this kernel yourself](
# touch/index.html#op=conv&H=8&W=10&K=5&w=0,0,0,0,2,0,0,1,2,1,0,1,2,1,0,1,2,1,0,0,2,0,0,0,0&stamps=1,8),
# one click at a time.  The page to touch comes with the course, GitHub does not show it.)

# %%
kernel = np.array(
    [
        [0, 0, 0, 0, 2],
        [0, 0, 1, 2, 1],
        [0, 1, 2, 1, 0],
        [1, 2, 1, 0, 0],
        [2, 0, 0, 0, 0.0],
    ]
)
wanted = np.zeros((1, 10, 14, 1))
wanted[0, 1, 3, 0] = 1
wanted[0, 3, 2, 0] = 1
wanted[0, 4, 12, 0] = -1

dcols = kernel.reshape(-1, 1) @ wanted.reshape(1, -1)
stamps = col2im(dcols, (1, 14, 18, 1), 5, 5, 1, 0)[0, :, :, 0]
assert stamps[1, 7] == kernel[0, 4] == 2  # the first stamp alone
assert stamps[3, 6] == kernel[2, 3] + kernel[0, 4] == 1 + 2  # here both

# %% drawing
axes = draw.panels(5, 14, 18, height=3.1)
draw.array(axes[0], kernel, "w")
draw.array(axes[1], wanted[0, :, :, 0], "dy", numbers=False)
draw.array(axes[2], stamps, "dx", numbers=False)
for (i, j), colour in zip([(1, 3), (3, 2), (4, 12)], draw.INK, strict=False):
    draw.frame(axes[1], i, j, colour=colour)
    draw.frame(axes[2], i, j, 5, 5, colour)

# %% [markdown]
# Stamping a kernel at every output has a name: for stride 1 it is convolution in the mathematician's sense,
# with the kernel flipped, "full" (it begins before the picture and ends after it).  So the backward of the
# thing that we call convolution (and which is a correlation) *is* convolution.  On the CPU the library uses
# that: where the stride is 1 and there are no more filters than channels, it computes `dx` as a forward pass
# over `dy`, with a kernel turned by 180°, and scatters nothing (in `ops.strips`).  Where the channels
# are many it does the same with fewer multiplications (lesson 15).

# %%
dy_row, w_row = rng.standard_normal(7), rng.standard_normal(3)
dcols_row = np.outer(w_row, dy_row)
np.testing.assert_allclose(
    add_back(dcols_row, 9, 1), np.convolve(dy_row, w_row, mode="full")
)
print("col2im of one row, stride 1, is np.convolve(dy, w, 'full')")

# %% [markdown]
# ## How often AlexNet's first layer looks at a pixel
#
# conv1 has windows of 11×11 every 4 pixels.  Along one axis a pixel inside the picture is under
# $11/4 = 2.75$ windows on average: 3, or 2.  Over both axes that makes 9, 6 or 4 windows, in a pattern that
# repeats every 4 pixels.  All pixels have the same right to be seen; the gradients of some have 2.25 times
# as many terms as those of others (if the terms' signs are independent, that makes them 1.5 times as large).

# %%
ones = np.ones((11 * 11, 7 * 7))  # a picture of 35×35: 7 windows along each axis
cover = col2im(ones, (1, 35, 35, 1), 11, 11, 4, 0)[0, :, :, 0]
middle = cover[10:25, 10:25]
assert set(middle.ravel()) == {4, 6, 9}
assert 9 / 4 == 2.25 == 1.5**2
assert np.isclose(middle[:12, :12].mean(), 2.75**2)

# %% drawing
axes = draw.panels(1, 1, height=3.6)
axes[0].imshow(cover, cmap="viridis")
axes[0].set_title("windows over each pixel, 35×35", size=9)
draw.array(axes[1], middle[:12, :12], "from its middle", fmt="{:.0f}", limit=14)

# %% [markdown]
# conv1 does not need this `dx` (before it come only pixels, and nobody learns those: `need_dx=False` saves
# the work). But whoever draws a picture *from* gradients sees this grid in it.
#
# ## Break it on purpose
#
# Take the most common bug, `=` for `+=`, and hand it to the tests that people write first.  **Guess before
# you run the cell:** windows of 3, and strides 3, 2, 1.  Which strides notice?


# %%
def broken(dcols, W, stride):
    K, OW = dcols.shape
    dx = np.zeros(W)
    for o in range(OW):
        dx[o * stride : o * stride + K] = dcols[:, o]
    return dx


for stride, OW_ in ((3, 4), (2, 5), (1, 6)):
    W_ = (OW_ - 1) * stride + 3
    d = rng.standard_normal((3, OW_))
    wrong = np.abs(broken(d, W_, stride) - add_back(d, W_, stride)) > 1e-12
    print(f"stride {stride}: {wrong.sum()} of {W_} pixels are wrong")
    assert wrong.any() == (stride < 3)

# %% [markdown]
# With stride 3 the windows do not overlap, no pixel has two copies, and the bug is invisible: **a test must
# have overlap in it.**  The same will be true of pooling in lesson 7.
# ([See what `=` throws away](touch/index.html#op=conv&H=5&W=9&S=2&stamps=all&rule=set): set the stride to
# 3, and nothing is lost.)
#
# A subtler one.  NumPy can add at a list of indices, so why not without a loop?


# %%
def tempting(dcols, W, stride):
    K, OW = dcols.shape
    dx = np.zeros(W)
    index = np.arange(OW) * stride + np.arange(K)[:, None]  # (K, OW): the pixel of each
    dx[index] += dcols
    return dx


index = np.array([0, 0, 0])
ten = np.zeros(2)
ten[index] += 10
print("adding 10 at indices 0, 0, 0 gives", ten[0])
assert ten[0] == 10  # and not 30

d = rng.standard_normal((3, 6))
wrong = np.abs(tempting(d, 8, 1) - add_back(d, 8, 1)) > 1e-12
print(f"pixels wrong: {wrong.sum()} of 8")
assert wrong.any()

# %% [markdown]
# `dx[index] += v` reads all of `dx[index]`, adds, and writes back: an index that occurs three times is
# *written* three times, and the last one stays.  `np.add.at(dx, index, v)` adds every time.  On a GPU the
# same trap is called a race, and the answer an atomic addition; lesson 16 meets it again.
#
# ## Kill the mutant
#
# Three more of the other direction: `=` for `+=`; a margin that is cut off with `pad:-pad`; and five versions
# of the three products, of which one is broken.  **Write the inputs that expose the first two, and say which
# of the five it is, and in which line.**

# %%
from tinyalex.lessons.kill import THREE, cuts_to_minus_pad, keeps_the_last, show, suspects

show(keeps_the_last, cuts_to_minus_pad)


# %%
def expose_overwriting():
    """Return (dcols, W, stride), dcols (3, OW), on which `keeps_the_last` is found out."""
    dcols = ...
    W, stride = ...
    return dcols, W, stride


# %%
expose_overwriting = check(expose_overwriting)
# hint("expose_overwriting")
# solution("expose_overwriting")


# %%
def expose_minus_pad():
    """Return (dcols, x_shape, KH, KW, stride, pad), one picture of 3×3, that exposes `cuts_to_minus_pad`."""
    x_shape = ...
    KH, KW, stride, pad = ...
    dcols = ...
    return dcols, x_shape, KH, KW, stride, pad


# %%
expose_minus_pad = check(expose_minus_pad)
# hint("expose_minus_pad")
# solution("expose_minus_pad")

# %%
print(THREE)
five = suspects(THREE)  # the functions, to be called


# %%
def which_of_five_products():
    """Return (which, line): the broken one of `THREE`, 0 to 4, and its line, counted from 1 at its `def`."""
    which, line = ...
    return which, line


# %%
which_of_five_products = check(which_of_five_products)
# hint("which_of_five_products")
# solution("which_of_five_products")

# %% [markdown]
# ## Think about it
#
# 1. `dw[f, c, p, q]` is a sum over $OH\cdot OW\cdot N$ terms.  conv2 has $27\cdot 27$ positions, fc7 has
#    one.  What does that say about the size of their gradients, and about using one learning rate for both?
# 2. conv1's windows overlap by 7 pixels of 11.  What would `col2im` cost, and what would be lost, if the
#    stride were 11?
# 3. Zeros were padded around the picture.  Where does the gradient of those zeros go, and is anything lost
#    when we throw it away?
#
# <details><summary>What we would answer</summary>
#
# 1. It grows with the number of positions if they agree, and like its square root if they are independent.
#    Nothing guarantees that one rate suits both; the paper used one, and it worked.  Look at the ratio of
#    update to weight (`tinyalex figure sizes RUN`): in our run on CIFAR-10 (`measured/README.md`) it lay
#    between 0.0008 and 0.011 for all layers' weights.
# 2. Each pixel would be in one window: no additions, a plain copy.  But an edge that lies across two
#    windows would be seen whole by none.
# 3. Into the margin of the padded `dx`, which we cut off.  Nothing is lost: the zeros are constants, no
#    parameter depends on them.
#
# </details>
#
# ## What comes next
#
# The gradient now reaches every weight of a convolution.  Between two of them stands a neuron, and whether
# anything comes through it is the subject of [lesson 6: ReLU or tanh](06_relu_or_tanh.ipynb).
