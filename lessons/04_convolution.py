# %% [markdown]
# # 4 · Convolution: loops, im2col, one product; and 224 or 227
#
# The templates of [lesson 2](02_linear_classifier.ipynb) were as large as the picture.  A star that is
# moved by five pixels needs another template.
#
# So make the template small, and look through it everywhere.  **A convolution slides one small set of
# weights over the picture; at each place it is a weighted sum of the pixels in a window.  Lay the windows
# out as columns, and all of it is one matrix product.**  That is the trick by which convolutions became
# fast, and the reason that lesson 2's gradients are nearly all you need for lesson 5.
#
# The paper (section 3.5):
#
# > "The first convolutional layer filters the 224 × 224 × 3 input image with 96 kernels of size 11 × 11 × 3
# > with a stride of 4 pixels (this is the distance between the receptive field centers of neighboring
# > neurons in a kernel map)."
#
# Take that sentence literally and compute the size of the result: it is no whole number.  People have
# wondered about it ever since.  At the end of this lesson you will know.
#
# **You bring:** a batch $(C, H, W, N)$ and its strides (lesson 1), $Wx + b$ (lesson 2).
#
# **You take away:** a convolution in loops and as one product, the formula for its size, and what AlexNet
# does at the right edge of a picture.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(4)
rng = np.random.default_rng(4)

# %% [markdown]
# ## A row of pixels
#
# Take seven pixels and a **kernel** of three weights, $w = (1, 0, -1)$.  Lay it over the first three
# pixels, multiply, add: $4 - 7 = -3$.  Move it by one pixel, again: $1 - 2 = -1$.  There are five places
# where it fits:
#
# $$y[o] = \sum_{p=0}^{K-1} w[p]\; x[o + p]$$

# %%
x = np.array([4.0, 1, 7, 2, 8, 3, 6])
w = np.array([1.0, 0, -1])
y = np.array([(w * x[o : o + 3]).sum() for o in range(5)])
assert list(y) == [-3, -1, -1, -1, 2]

# %% drawing
left, right = draw.panels(7, 5, height=1.3)
draw.array(left, x, "x")
draw.frame(left, 0, 0, 1, 3, draw.INK[0])
draw.frame(left, 0, 1, 1, 3, draw.INK[1], inset=0.08)
draw.array(right, y, "y")
draw.frame(right, 0, 0, 1, 1, draw.INK[0])
draw.frame(right, 0, 1, 1, 1, draw.INK[1])

# %% [markdown]
# This kernel answers one question, "how much brighter is it on the left than on the right?", and asks it
# everywhere. Three weights are enough for a row of any length.
#
# (In mathematics a convolution turns the kernel round first, and what we do is a correlation.  In neural
# networks everybody calls it a convolution, as the paper does.  Since the kernel is learned, it does not
# matter which way round it is written down.)
#
# ## All the indices
#
# A picture has $C$ channels, and the window goes through all of them; there are $F$ kernels, called
# **filters**, and each gives a map of its own; and windows may be $s$ pixels apart, the **stride**.
#
# $$y[f,i,j,n] = b[f] + \sum_{c,p,q} w[f,c,p,q]\; x[c,\; i\,s+p,\; j\,s+q,\; n]$$
#
# [Touch it](touch/index.html#op=conv&C=2&F=2&H=7&W=7&S=2): point at an output, and see its window and its
# sum.  The page to touch comes with the course, GitHub does not show it.
#
# **Your turn.**  Four loops are given, and the other three sums are one product of two small arrays.


# %%
def conv_loops(x, w, b, stride):
    """Convolution, one output at a time.  x (C,H,W,N), w (F,C,KH,KW), b (F,) → y (F,OH,OW,N)."""
    (C, H, W, N), (F, C, KH, KW) = x.shape, w.shape
    OH, OW = (H - KH) // stride + 1, (W - KW) // stride + 1
    y = np.zeros((F, OH, OW, N))
    for f, i, j, n in np.ndindex(y.shape):
        window = ...  # what filter f sees at place (i, j) of picture n: (C, KH, KW)
        y[f, i, j, n] = ...
    return y


# %%
conv_loops = check(conv_loops)
# hint("conv_loops")
# solution("conv_loops")

# %% [markdown]
# ## How large is the result?
#
# Put $P$ zeros around the picture on each side (**padding**; $P$ may be 0).  Along an axis of $H$ pixels a
# window of $K$ can then start at 0, and at last at $H + 2P - K$.  In steps of $s$ that makes
#
# $$OH = \left\lfloor \frac{H + 2P - K}{s} \right\rfloor + 1$$
#
# windows.  Where the division leaves a remainder, the last pixels are under no window.  AlexNet's conv2 has
# $K = 5$, $s = 1$, $P = 2$: then $OH = H + 4 - 5 + 1 = H$, and the map keeps its size.
#
# **Your turn.**


# %%
def output_size(size, kernel, stride, pad):
    """Windows along one axis of `size` pixels, with `pad` zeros on each side."""
    windows = ...
    return windows


# %%
output_size = check(output_size)
# hint("output_size")
# solution("output_size")

# %%
from tinyalex import ops

assert output_size(27, kernel=5, stride=1, pad=2) == 27  # conv2
assert output_size(13, kernel=3, stride=1, pad=1) == 13  # conv3, conv4, conv5
for size, kernel, stride, pad in ((7, 3, 1, 0), (27, 5, 1, 2), (32, 5, 3, 1)):
    ours = output_size(size, kernel, stride, pad)
    assert ours == ops.output_size(size, kernel, stride, pad, pad)

# %% [markdown]
# ## Every window a column
#
# Loops over single numbers are slow in Python, and a window's product with a filter is a dot product.  Many
# dot products at once are a matrix product.  So write each window as a column of $C\cdot KH\cdot KW$
# numbers, and put the columns side by side; and each filter as a row of as many:
#
# $$\begin{aligned}
# \mathrm{cols}[(c,p,q),\,(i,j,n)] &= x[c,\; i\,s+p,\; j\,s+q,\; n] \\
# Y &= W\,\mathrm{cols} + b
# \end{aligned}$$
#
# Step through it: a picture of $4\times6$, a window of $3\times3$, and a filter that looks for light above
# dark.

# %%
picture = np.array(
    [
        [1, 1, 1, 1, 1, 1],
        [1, 2, 5, 5, 2, 1],
        [1, 2, 5, 5, 2, 1],
        [1, 1, 1, 1, 1, 1.0],
    ]
)
kernel = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1.0]])
places = list(np.ndindex(2, 4))
every = np.stack([picture[i : i + 3, j : j + 3].ravel() for i, j in places], axis=1)
sums = (kernel.ravel() @ every).reshape(2, 4)
assert every.shape == (9, 8)
assert (picture.size, every.size) == (24, 72)
assert sums.tolist() == [[-6, -13, -13, -6], [6, 13, 13, 6]]


# %% drawing
def lay_out(k):
    """Step k: windows 0 … k are columns, and their products are there."""
    done = np.arange(8) <= k
    i, j = places[k]
    found = np.where(done.reshape(2, 4), sums, np.nan)
    columns = np.where(done, every, np.nan)
    return paint.row(
        paint.array(picture, "x", limit=6).frame(i, j, 3, 3),
        paint.array(columns, "cols", "{:.0f}", 6).frame(0, k, 9, 1),
        paint.array(found, "y", "{:.0f}", 13).frame(i, j),
    )


step_through(lay_out, 8)

# %% [markdown]
# Most numbers of `cols` stand there many times: 24 pixels became 72.  That is the price, memory for speed.
#
# Now for pictures.  Copy window by window?  There are few places $(p, q)$ *in* a window and many windows,
# so the other order is better: for one $(p, q)$, take that pixel of **all** windows at once.  They lie
# `stride` apart, from row $p$ and column $q$ on: a slice with a step.
#
# **Your turn.**  One line.


# %%
def im2col(x, KH, KW, stride):
    """Every window as a column.  x (C,H,W,N) → (C·KH·KW, OH·OW·N)."""
    C, H, W, N = x.shape
    OH, OW = (H - KH) // stride + 1, (W - KW) // stride + 1
    cols = np.zeros((C, KH, KW, OH, OW, N))
    for p in range(KH):
        for q in range(KW):
            cols[:, p, q] = ...  # pixel (p, q) of all windows: (C, OH, OW, N)
    cols = cols.reshape(C * KH * KW, OH * OW * N)
    return cols


# %%
im2col = check(im2col)
# hint("im2col")
# solution("im2col")

# %% [markdown]
# And that is all.  With all sizes different, so that nothing fits by accident:

# %%
F, C, KH, KW, H, W, N, stride = 4, 3, 2, 5, 9, 11, 6, 2
x = rng.standard_normal((C, H, W, N))
w = rng.standard_normal((F, C, KH, KW))
b = rng.standard_normal(F)

OH, OW = output_size(H, KH, stride, 0), output_size(W, KW, stride, 0)
cols = im2col(x, KH, KW, stride)  # (C·KH·KW, OH·OW·N)
product = w.reshape(F, -1) @ cols + b[:, None]  # (F, OH·OW·N)
y = product.reshape(F, OH, OW, N)

print("W", w.reshape(F, -1).shape, "  cols", cols.shape, "  y", y.shape)
np.testing.assert_allclose(y, conv_loops(x, w, b, stride), rtol=1e-12, atol=1e-12)

theirs, _ = ops.conv2d_forward(x, w, b, stride)
np.testing.assert_allclose(y, theirs, rtol=1e-12, atol=1e-12)
assert (cols == ops.im2col(x, KH, KW, stride)).all()
print("loops, one product, and the library: the same numbers")

# %% [markdown]
# Look at the line where the product becomes maps: the columns are in the order $i, j, n$, so `reshape` is
# all it takes.  No number moves, because the pictures are innermost (lesson 1).  `cols` itself is filled by
# copies of $N$ neighbours.
#
# The library's own `conv2d_forward` does not write out all of `cols`.  For conv1 and a batch of 128 they
# would be $363 \times 387{,}200$ numbers, 562 million bytes, seven times the pictures.  It makes them for
# some rows at a time, so that they stay in the cache.

# %%
columns, windows = 3 * 11 * 11, 55 * 55 * 128
assert (columns, windows) == (363, 387_200)
assert columns * windows * 4 == 562_214_400
assert 7 < columns * windows / (128 * 3 * 224 * 224) < 8

# %% [markdown]
# ## What a filter sees
#
# Four filters of $5\times5$, made by hand, first on a plain bright square, then on a picture of lesson 1.
# Orange is where the filter agrees, blue where it sees the opposite.  On the plain one each filter finds its
# own: the left edge in orange and the right one, its opposite, in blue; the upper and the lower; the corners;
# and the rim.  The second one's ground is full of stripes, and the filters answer to those as well.

# %%
from tinyalex.data import shapes

made = shapes.make(10, rng)
photo = made.images[..., list(made.labels).index(made.classes.index("square"))]
grey = photo.mean(axis=0)[None, :, :, None] - photo.mean()

u = np.arange(-2, 3.0)
bump = np.exp(-(u**2) / 2)
filters = {
    "left edge": np.outer(bump, u * bump),
    "upper edge": np.outer(u * bump, bump),
    "diagonal": np.outer(u * bump, u * bump),
    "blob": np.outer(bump, bump) - np.outer(bump, bump).mean(),
}
bank = np.stack(list(filters.values()))[:, None]
plain = np.zeros((1, 32, 32, 1))
plain[0, 9:23, 9:23] = 100
maps_of_plain, _ = ops.conv2d_forward(plain, bank, np.zeros(4), pad=2)
maps, _ = ops.conv2d_forward(grey, bank, np.zeros(4), pad=2)
assert maps.shape == (4, 32, 32, 1)
left, upper, diagonal, _ = maps_of_plain[..., 0]
assert left[16, 9] > 0 > left[16, 22]
assert upper[9, 16] > 0 > upper[22, 16]
assert np.abs(diagonal[16, 9]) < 1e-9 < np.abs(diagonal[9, 9])

# %% drawing
axes = draw.panels(*[1] * 5, height=1.6)
axes[0].set_axis_off()
for axis, kernel, name in zip(axes[1:], bank[:, 0], filters, strict=True):
    draw.array(axis, kernel, name, numbers=False)
for image, found in ((plain[0, :, :, 0], maps_of_plain), (photo, maps)):
    axes = draw.panels(*[1] * 5, height=1.6)
    draw.picture(axes[0], image, "a square")
    for axis, values in zip(axes[1:], found[..., 0], strict=True):
        limit = np.abs(values).max()
        axis.imshow(values, cmap=draw.colours(), vmin=-limit, vmax=limit)
        axis.set_axis_off()

# %% [markdown]
# AlexNet's 96 filters are of this kind, but nobody makes them by hand.  They come out of training (lesson
# 14).
#
# How few numbers that takes!  conv1 has $96\cdot 363 + 96 = 34{,}944$ parameters and makes
# $55\cdot55\cdot96 = 290{,}400$ numbers out of $150{,}528$.  A full matrix between the two would have 43.7
# billion.

# %%
assert 96 * 363 + 96 == 34_944
assert 55 * 55 * 96 == 290_400
assert 3 * 224 * 224 == 150_528
assert round(290_400 * 150_528 / 1e9, 1) == 43.7

# %% [markdown]
# ## 224 or 227?
#
# Now the riddle.  $H = 224$, $K = 11$, $s = 4$, and no word of padding: $(224 - 11)/4 = 53.25$.  Rounded
# down and plus 1 it is 54.  But the paper's Figure 2 says 55, and the rest of the network only fits with
# 55.
#
# The answer is in the 2012 code: it rounds **up**.  $\lceil 53.25 \rceil + 1 = 55$.  The last window starts
# at pixel $54\cdot4 = 216$ and would end at 226, but the picture ends at 223.  What is outside counts as
# zero.  So the code puts three zeros at the right and three at the bottom, none at the left and none on
# top: $224 + 3 = 227$.  ([Touch that last window](touch/index.html#op=alexnet&layer=conv1&i=54&j=54&p=10).)
#
# Those who re-implemented the paper met the same riddle and solved it otherwise.  Caffe feeds crops of
# $227\times227$: $(227 - 11)/4 + 1 = 55$.  torchvision pads 2 on all sides:
# $\lfloor (224 + 4 - 11)/4 \rfloor + 1 = 55$.  All have 55, and all look at other pixels.

# %%
assert (224 - 11) / 4 == 53.25
assert output_size(224, 11, 4, pad=0) == 54
assert int(np.ceil(53.25)) + 1 == 55
assert 54 * 4 == 216
assert 216 + 11 - 1 == 226
assert output_size(227, 11, 4, pad=0) == 55
assert output_size(224, 11, 4, pad=2) == 55

pixels = np.where(np.arange(208, 227) < 224, 1, 0)

# %% drawing
axes = draw.panels(1, height=1.5)
draw.array(axes, pixels, "pixels 208 … 226; 0: not in the picture", limit=4)
for o, colour in ((52, draw.INK[1]), (53, draw.INK[2]), (54, draw.INK[0])):
    draw.frame(axes, 0, o * 4 - 208, 1, 11, colour, inset=0.12 * (54 - o))

# %% [markdown]
# In numbers: the library's convolution with the padding $(0, 3, 0, 3)$ (top, bottom, left, right), and the
# last column of its result, computed from the eight real pixels that the window has left.

# %%
x = rng.standard_normal((3, 224, 224, 1))
w, b = rng.standard_normal((2, 3, 11, 11)), np.zeros(2)
y, _ = ops.conv2d_forward(x, w, b, stride=4, pad=(0, 3, 0, 3))
assert y.shape == (2, 55, 55, 1)

window = x[:, :11, 216:, 0]
assert window.shape == (3, 11, 8)
assert np.allclose(y[:, 0, 54, 0], (w[..., :8] * window).sum(axis=(1, 2, 3)))

# %% [markdown]
# (Figure 2 has a slip, too: it gives conv1 253,440 neurons.  That is $55\cdot48\cdot96$; it should be
# $55\cdot55\cdot96 = 290{,}400$.)

# %%
assert 55 * 48 * 96 == 253_440

# %% [markdown]
# ## Break it on purpose
#
# Turn the kernels by 180°, as the mathematician's convolution does, and forget that you did.  **Guess
# before you run the cell:** for which of the four filters above does the map change, and how?

# %%
turned, _ = ops.conv2d_forward(grey, bank[:, :, ::-1, ::-1].copy(), np.zeros(4), pad=2)
for name, before, after in zip(filters, maps, turned, strict=True):
    if np.allclose(before, after):
        print(f"{name:10} the same")
    elif np.allclose(before, -after):
        print(f"{name:10} the opposite sign")
assert np.allclose(maps[:2], -turned[:2])
assert np.allclose(maps[2:], turned[2:])

# %% [markdown]
# Two of four do not notice: a test of a convolution with a symmetric kernel, or one of ones, cannot tell.
# The kernels in a test must be random, and their sizes all different.
#
# A convolution is said not to care where a thing is: **move the picture by a pixel, and the map moves by a
# pixel**. Guess: does that hold with a stride of 4?

# %%
row = rng.standard_normal((1, 1, 60, 1))
w = rng.standard_normal((1, 1, 1, 11))
zero = np.zeros(1)
for stride, shift in ((1, 1), (4, 4), (4, 1)):
    before = ops.conv2d_forward(row[:, :, :-shift], w, zero, stride)[0][0, 0, :, 0]
    after = ops.conv2d_forward(row[:, :, shift:], w, zero, stride)[0][0, 0, :, 0]
    places = max(1, shift // stride)
    moved = np.allclose(before[places:], after[:-places])
    print(f"stride {stride}, moved by {shift}: map moved along: {moved}")
    assert moved == (shift % stride == 0)

# %% [markdown]
# Only for whole strides.  Between them, conv1 sees a picture that it has not seen, and the network has to
# learn all four positions in each direction: a reason to show it moved crops (lesson 11).
#
# ## Kill the mutant
#
# Two broken convolutions: one turns the kernel, the other takes the map's height for its width.  Both pass
# many tests.  **For each, write the input that exposes it**, and that a right convolution passes.

# %%
from tinyalex.lessons.kill import assumes_squares, show, turns_the_kernel

show(turns_the_kernel, assumes_squares)


# %%
def expose_turned_kernel():
    """Return (x, w, b, stride), x (1,3,4,1), w (1,1,2,2), b (1,), that exposes `turns_the_kernel`."""
    x = ...
    w = ...
    b = ...
    stride = ...
    return x, w, b, stride


# %%
expose_turned_kernel = check(expose_turned_kernel)
# hint("expose_turned_kernel")
# solution("expose_turned_kernel")


# %%
def expose_square_maps():
    """Return (x, w, b, stride), w (1,1,3,3), stride 2, on which `assumes_squares` is found out."""
    x = ...
    w = ...
    b, stride = ...
    return x, w, b, stride


# %%
expose_square_maps = check(expose_square_maps)
# hint("expose_square_maps")
# solution("expose_square_maps")

# %% [markdown]
# ## Think about it
#
# 1. A window of $1\times1$, stride 1: what does such a convolution compute, and what is `cols`?
# 2. And a window as large as the picture?
# 3. Two layers of $3\times3$ on top of each other see $5\times5$ pixels.  How many weights do they have for
#    $C$ channels, compared to one layer of $5\times5$?  What else is different?
#
# <details><summary>What we would answer</summary>
#
# 1. At each pixel the same $Wx + b$ of its channels: lesson 2's layer at every place.  `cols` is $x$
#    itself, as a matrix $(C, H\cdot W\cdot N)$; nothing is copied.
# 2. There is one window, `cols` is $(C\cdot H\cdot W, N)$, and the convolution *is* lesson 2's layer.  fc6,
#    the first fully connected layer of AlexNet, can be read as a convolution of $6\times6$.
# 3. $18\,C^2$ against $25\,C^2$ (with as many filters as channels), and there is a neuron between them, so
#    they can say more.  Two years after AlexNet, VGG was built from that observation.
#
# </details>

# %%
assert (2 * 3 * 3, 5 * 5) == (18, 25)

# %% [markdown]
# ## What comes next
#
# Forward, the convolution copies windows and multiplies.  How does a gradient come back through a copy?
# [Lesson 5: backward through convolution](05_backward_convolution.ipynb).
