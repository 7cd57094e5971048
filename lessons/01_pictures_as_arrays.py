# %% [markdown]
# # 1 · Pictures as arrays: what a batch is, and why (C, H, W, N)
#
# This is where the building begins.  In seventeen lessons you derive, write, break and rebuild every part of
# AlexNet.  You need Python, a little NumPy, and what a derivative is.
#
# **How a lesson works.**  Run the cells from the top, with Shift+Enter.  Some functions have a hole, a line
# with `...`: write it, run the cell, and run the one below it.  It says whether you are right, and if not,
# what is wrong.  There are hints, and a solution; and the lesson goes on even where you leave a hole open,
# with the book's function in place of yours.
#
# Now the first idea.  **A picture is numbers, a batch of pictures is one array with four axes, and the
# order of the axes says which numbers lie side by side in memory.**  That order looks like bookkeeping.  It
# decides how fast everything after it is.
#
# The paper puts nothing between the camera and the network (section 2):
#
# > "So we trained our network on the (centered) raw RGB values of the pixels."
#
# **You bring:** Python, `import numpy as np`, slices.
#
# **You take away:** a batch in the layout that this library and the 2012 code use, the rule by which four
# indices become one place in memory, and the one thing the paper does to its pixels.

# %%
import numpy as np

from tinyalex.data import shapes
from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(1)
rng = np.random.default_rng(1)

# %% [markdown]
# ## Six pixels
#
# A screen mixes a colour of three lights: red, green, blue.  Each is a whole number from 0 (off) to 255
# (full), which fits one byte: NumPy's `uint8`.  A picture is three arrays of such numbers, one for each
# light.  They are called **channels**.
#
# Here is a picture of two rows and three columns.  Its shape is $(C, H, W) = (3, 2, 3)$: channels, height,
# width.

# %%
tiny = np.array(
    [
        [[255, 255, 0], [0, 128, 255]],  # red
        [[0, 200, 160], [0, 128, 255]],  # green
        [[0, 0, 80], [255, 128, 255]],  # blue
    ],
    dtype=np.uint8,
)
assert tiny.shape == (3, 2, 3)

# %% drawing
whole, *channels = draw.panels(3, 3, 3, 3, height=1.7)
draw.picture(whole, tiny, "the picture")
for axes, values, name in zip(channels, tiny, ("red", "green", "blue"), strict=True):
    draw.array(axes, values, name, limit=255)

# %% [markdown]
# Row 1, column 0 is $(0, 0, 255)$: blue.  In the middle below, all three are 128: grey.  Rows are counted
# from the top, as lines of text are.

# %%
assert tuple(tiny[:, 1, 0]) == (0, 0, 255)
assert set(tiny[:, 1, 1]) == {128}

# %% [markdown]
# ## Twelve pictures, one array
#
# A network never looks at one picture at a time.  It takes a **batch**: $N$ pictures of one size, in one
# array, so that one NumPy call (or one call on a GPU) handles all of them.  Here are twelve, drawn by the
# library's `shapes.make`: ten kinds of shapes on a cluttered ground.  We will learn to tell them apart in
# lesson 2.

# %%
made = shapes.make(12, rng)
print(made.images.shape, made.images.dtype)
assert made.images.shape == (3, 32, 32, 12)  # (C, H, W, N)

# %% drawing
for row in (0, 6):
    for n, axes in enumerate(draw.panels(*[1] * 6, height=1.4), start=row):
        draw.picture(axes, made.images[..., n], made.classes[made.labels[n]])

# %% [markdown]
# The picture's number is the *last* index: `images[..., n]` is picture n, and `images[0, 5, 7]` is the red
# of row 5, column 7 in all twelve pictures.
#
# That is not how pictures arrive.  Files, cameras, Pillow and matplotlib hold a picture as $(H, W, 3)$: the
# three numbers of a pixel together.  A list of such pictures is an array $(N, H, W, 3)$.
#
# **Your turn.**  Make a batch of it.  Every number has to keep its meaning: what was the blue of row $h$,
# column $w$ in picture $n$ must be found at `batch[2, h, w, n]`.


# %%
def to_batch(pictures):
    """pictures (N,H,W,C), as files hold them → batch (C,H,W,N)."""
    N, H, W, C = pictures.shape
    batch = np.empty((C, H, W, N), pictures.dtype)
    for n in range(N):
        batch[:, :, :, n] = ...  # picture n, channels first
    return batch


# %%
to_batch = check(to_batch)  # yours once it is right, until then the book's
# hint("to_batch")          remove the first # for a hint, run again for the next
# solution("to_batch")

# %%
from_files = np.ascontiguousarray(made.images.transpose(3, 1, 2, 0))  # as if read
assert from_files.shape == (12, 32, 32, 3)
assert (to_batch(from_files) == made.images).all()

# %% [markdown]
# ## Memory is one long row
#
# A computer's memory has no rows and columns: it is one row of numbers.  An array of shape $(C, H, W, N)$
# is such a row, and a rule that says where element $[c, h, w, n]$ lies in it.  NumPy's rule (and C's) is
# that **the last index runs fastest**: first all $n$, then the next $w$, and when a row is through the next
# $h$, and last the next $c$.
#
# Take four pictures of a single channel, of two rows and three columns.  Number 23 below is pixel 3 of
# picture 2. Step through the six pixels, and see where the memory holds them: once with the pictures last,
# as here, and once with the pictures first, $(N, C, H, W)$, as PyTorch has it.

# %%
little = np.array(
    [[[[10 * n + 3 * h + w for n in range(4)] for w in range(3)] for h in (0, 1)]]
)
assert little.shape == (1, 2, 3, 4)
last = little.reshape(-1)  # as it lies in memory
first = little.transpose(3, 0, 1, 2).reshape(-1)


# %% drawing
def find_pixel(k):
    """Step k: where the memory holds pixel k of all four pictures."""
    pictures = [
        paint.array(little[0, :, :, n], f"picture {n}", "{:02d}", 40).frame(k // 3, k % 3)
        for n in range(4)
    ]
    rows = [paint.row(*pictures)]
    for name, memory in (("last", last), ("first", first)):
        panel = paint.array(memory, f"memory, pictures {name}", "{:02d}", 40)
        for place in np.flatnonzero(memory % 10 == k):
            panel.frame(0, place)
        rows.append(paint.row(panel))
    return "".join(rows)


step_through(find_pixel, 6)

# %% [markdown]
# With the pictures last, one pixel of all pictures is one run of four numbers.  With the pictures first,
# the same four are six places apart.
#
# Where does $[c, h, w, n]$ lie?  Before it come $n$ numbers of its own run.  Before the run come $w$ runs
# of $N$. Before the row come $h$ rows of $W$ runs, and before the channel $c$ channels of $H$ rows:
#
# $$\text{place} \;=\; c\,(H\,W\,N) + h\,(W\,N) + w\,N + n$$
#
# The factors $HWN$, $WN$, $N$, $1$ are the **strides**: how far one step along each axis leads in memory.
# With $N = 4$, $W = 3$, $H = 2$ they are 24, 12, 4 and 1.  NumPy keeps them with the array, in bytes.
#
# **Your turn.**


# %%
def place(c, h, w, n, shape):
    """Place in memory, counted from 0, of element [c, h, w, n] of an array (C,H,W,N)."""
    C, H, W, N = shape
    where = ...
    return where


# %%
place = check(place)
# hint("place")
# solution("place")

# %%
for index in np.ndindex(little.shape):
    assert last[place(*index, little.shape)] == little[index]
assert tuple(s // little.itemsize for s in little.strides) == (24, 12, 4, 1)
assert place(0, 1, 0, 2, little.shape) == 14
assert last[14] == 23

# %% [markdown]
# A transpose does not move a single number: `little.transpose(3, 0, 1, 2)` is the same memory with its
# strides in another order.  A `reshape` is the opposite: the memory's order stays, and other indices are
# written on it.  That is why a reshape is never a transpose, and why it is free where the layout fits, and
# a copy where it does not.

# %%
turned = little.transpose(3, 0, 1, 2)
assert turned.base is not None  # a view: it owns no memory
assert np.shares_memory(turned, little)
assert np.shares_memory(little.reshape(6, 4), little)
assert not np.shares_memory(turned.reshape(-1), little)  # had to copy

# %% [markdown]
# ## Why the pictures are last
#
# A processor fetches memory in runs: 16 floats that lie side by side cost as much as one.  A GPU's 32
# threads read 32 numbers in one go if they are neighbours, and in up to 32 if they are not.  So the
# question is how long the runs are that a network reads.  Let us count, for a batch of the size that the
# paper trains on, $N = 128$:


# %%
def run(view):
    """How many numbers, from the first on, lie side by side in memory."""
    length, step = 1, view.itemsize
    for size, stride in zip(view.shape[::-1], view.strides[::-1], strict=True):
        if stride != step:
            break
        length, step = length * size, step * size
    return length


C, H, W, N = 4, 12, 16, 128
a = np.zeros((C, H, W, N), np.float32)  # pictures last
b = np.zeros((N, C, H, W), np.float32)  # pictures first

runs = {
    "a row's every 4th pixel": (run(a[0, 0, ::4]), run(b[:, 0, 0, ::4])),
    "half of the channels": (run(a[: C // 2]), run(b[:, : C // 2])),
    "one pixel of each picture": (run(a[0, 0, 0]), run(b[:, 0, 0, 0])),
    "one picture": (run(a[..., 0]), run(b[0])),
}
print(f"{'pictures':26}  last first")
for what, (in_a, in_b) in runs.items():
    print(f"{what:26} {in_a:5} {in_b:5}")

assert runs["a row's every 4th pixel"] == (N, 1)
assert runs["half of the channels"] == (C // 2 * H * W * N, C // 2 * H * W)
assert runs["one pixel of each picture"] == (N, 1)
assert runs["one picture"] == (1, C * H * W)

# %% [markdown]
# - **Every fourth pixel** is how AlexNet's first layer walks over a picture (lesson 4).  Pictures last:
#   runs of 128, whatever the stride.  Pictures first: single numbers.
# - **Half of the channels** is what one of the paper's two GPUs holds (lesson 12).  Pictures last: one
#   piece.
# - **All numbers of a picture as one column**, which the layers at the end want, is `x.reshape(-1, N)`:
#   free.
# - **One picture** is scattered: the price.  Nobody in the network asks for one picture; only people who
#   look at it do.
#
# That is why the 2012 code put the pictures last, and why we do.  Does it matter on your machine?  Measure:

# %%
from time import perf_counter


def milliseconds(copy):
    times = []
    for _ in range(5):
        start = perf_counter()
        copy()
        times.append(perf_counter() - start)
    return 1000 * min(times)


a = np.zeros((16, 56, 56, N), np.float32)
b = np.zeros((N, 16, 56, 56), np.float32)
every_a, every_b = a[:, ::4, ::4], b[:, :, ::4, ::4]
assert every_a.size == every_b.size
print(f"every 4th pixel, pictures last:  {milliseconds(every_a.copy):.2f} ms")
print(f"every 4th pixel, pictures first: {milliseconds(every_b.copy):.2f} ms")

# %% [markdown]
# ## The one thing the paper does to pixels
#
# > "We did not pre-process the images in any other way, except for subtracting the mean activity over the
# > training set from each pixel."  (section 2)
#
# "From each pixel" is meant literally: the mean is a picture of its own,
# $m[c,h,w] = \frac1N \sum_n x[c,h,w,n]$, and it is taken away from every picture.  Raw pixels are all
# positive, and then the gradients of all weights of a neuron have one sign in every picture (lesson 2);
# centred ones are above and below 0.
#
# Nothing is divided.  AlexNet's inputs are numbers from about −128 to 127, not from 0 to 1.  Remember it:
# in lesson 8 it explains a constant.
#
# **Your turn.**  Two lines.  (A mean over 12 pictures stands in for the mean over 1.2 million.)


# %%
def centred(images):
    """images (C,H,W,N), uint8 → x (C,H,W,N), float32, less the mean picture; mean (C,H,W,1)."""
    pixels = images.astype(np.float32)
    mean = ...  # (C, H, W, 1)
    x = ...  # shaped like pixels
    return x, mean


# %%
centred = check(centred)
# hint("centred")
# solution("centred")

# %%
x, mean = centred(made.images)
assert x.dtype == np.float32
assert mean.shape == (3, 32, 32, 1)
assert np.abs(x.mean(axis=3)).max() < 1e-3
assert -256 < x.min() < 0 < x.max() < 256

# %% drawing
axes = draw.panels(1, 1, 1, 1.2, height=1.9)
draw.picture(axes[0], made.images[..., 0], "a picture")
draw.picture(axes[1], mean[..., 0], "the mean of 12")
draw.picture(axes[2], x[..., 0], "centred")
axes[3].hist(made.images.reshape(-1), 32, color=draw.INK[1], alpha=0.6)
axes[3].hist(x.reshape(-1), 32, color=draw.INK[0], alpha=0.6)
axes[3].set_yticks([])
draw.plain(axes[3], title="before and after")

# %% [markdown]
# The library does exactly this when it trains, with the mean over all pictures that it has:

# %%
from tinyalex.data.loader import InMemory

library = InMemory(made, batch=12)
np.testing.assert_allclose(library.mean, mean, rtol=1e-6)
print("the mean picture: ours and the library's agree")

# %% [markdown]
# ## Break it on purpose
#
# Two mistakes that almost everybody makes once.  **Guess before you run the cell:** a picture $(H, W, 3)$
# is made $(3, H, W)$ with `reshape` instead of `transpose`.  The shape is right.  What will the picture
# look like?

# %%
star = from_files[list(made.labels).index(made.classes.index("star"))]
right, wrong = star.transpose(2, 0, 1), star.reshape(3, 32, 32)
assert right.shape == wrong.shape
assert not (right == wrong).all()
assert sorted(right.reshape(-1)) == sorted(wrong.reshape(-1))  # the same numbers
assert (wrong[0, 0] == star[0].reshape(-1)[:32]).all()  # a third of a row

# %% drawing
axes = draw.panels(1, 1, 1, 1, 1, height=1.7)
draw.picture(axes[0], right, "transpose")
draw.picture(axes[1], wrong, "reshape")
for axis, channel, name in zip(axes[2:], wrong, ("red", "green", "blue"), strict=True):
    draw.picture(axis, channel, f"its {name}")

# %% [markdown]
# `reshape` deals the numbers out in the order of memory.  So the new "red" is the upper third of the
# picture and the new "blue" the lower; each old row of 96 numbers is broken into three lines of 32, and
# along a line red, green and blue take turns.  A network still learns *something* from such pictures.  That
# makes the mistake so long-lived.
#
# The second: leave the pixels in one byte.  `uint8` counts modulo 256, and says nothing.

# %%
hundred, mean_120 = np.array([100], np.uint8), np.array([120], np.uint8)
print("100 − 120 in uint8:", (hundred - mean_120)[0])
assert hundred - mean_120 == 236

bytes_only = made.images - mean.astype(np.uint8)

# %% drawing
axes = draw.panels(1, 1, 0.6, height=2.4)
axes[2].remove()
draw.picture(axes[0], x[..., 0], "centred in float32")
draw.picture(axes[1], bytes_only[..., 0], "centred in uint8")

# %% [markdown]
# Everything that is a little darker than the mean comes out nearly white.
#
# ## Think about it
#
# 1. The paper's batch is 128 pictures of $3\times224\times224$, in float32.  How many bytes is that?  And
#    how many as `uint8`, on the way to the GPU?
# 2. Pictures last is fast because a batch is large.  What happens to the runs when you want the answer for
#    a single photograph, $N = 1$?
# 3. The mean picture of a million photographs looks like a grey fog, a little lighter above.  What would it
#    look like for passport photos, and what would subtracting it do there?
#
# <details><summary>What we would answer</summary>
#
# 1. $128 \cdot 150{,}528 \cdot 4 = 77{,}070{,}336$ bytes, 73.5 MiB; a quarter of it as bytes.  That is why
#    pictures travel as `uint8` and become floats where they are needed.
# 2. They are one number long along a row with a stride, and with stride 1 as long as the row.  For single
#    pictures the other layout is as good or better.  Libraries that serve both kinds of users choose
#    differently.
# 3. A blurred face: what all photos have in common.  Subtracting it leaves what tells people apart.
#
# </details>

# %%
assert 128 * 3 * 224 * 224 * 4 == 128 * 150_528 * 4 == 77_070_336
assert round(77_070_336 / 2**20, 1) == 73.5

# %% [markdown]
# ## What comes next
#
# We have twelve pictures in an array, and a label for each.  The simplest thing that could tell the labels
# from the pixels is one matrix: [lesson 2: a linear classifier](02_linear_classifier.ipynb).
