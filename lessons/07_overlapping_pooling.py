# %% [markdown]
# # 7 · Overlapping pooling, and winners that are shared
#
# A map after convolution and neuron ([lesson 6](06_relu_or_tanh.ipynb)) says at each place how much of a
# thing there is.  The next layer need not know it to the pixel.
#
# **Max pooling keeps the largest number of each window and drops the rest.  Backward, the winner gets the
# whole gradient of its window, and the others nothing.  Where windows overlap, one pixel can win several of
# them, and then it gets the sum.**  It is lesson 5's sentence once more, with a choice in it.
#
# The paper (section 3.4):
#
# > "Traditionally, the neighborhoods summarized by adjacent pooling units do not overlap ...  If we set s <
# > z, we obtain overlapping pooling.  This is what we use throughout our network, with s = 2 and z = 3.
# > This scheme reduces the top-1 and top-5 error rates by 0.4% and 0.3%, respectively, as compared with the
# > non-overlapping scheme s = 2, z = 2, which produces output of equivalent dimensions."
#
# Here $z$ is the window's side and $s$ the stride.
#
# **You bring:** windows and strides (lesson 4), why a gradient adds (lesson 5).
#
# **You take away:** max pooling and its backward, a rule for ties, and a bug that nearly every first
# attempt has.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(7)
rng = np.random.default_rng(7)

# %% [markdown]
# ## A row of seven
#
# Windows of $z = 3$, $s = 2$ apart, over 1, 3, 9, 2, 5, 4, 7: the windows are (1, 3, 9), (9, 2, 5), (5, 4,
# 7), and the largest are 9, 9 and 7.  The 9 at place 2 wins twice.  Now the loss sends back
# $dy = (2, 3, 1)$.  Raise the 9 a little: both first outputs rise as much, so its gradient is $2 + 3 = 5$.
# The 7 at place 6 gets 1.  Raise any other pixel a little, and no output changes: 0.

# %%
x = np.array([1.0, 3, 9, 2, 5, 4, 7])
y = np.array([x[o : o + 3].max() for o in (0, 2, 4)])
dy = np.array([2.0, 3, 1])
assert list(y) == [9, 9, 7]


def loss(x):
    return (dy * [x[o : o + 3].max() for o in (0, 2, 4)]).sum()


h = 1e-3
dx = [(loss(x + h * e) - loss(x - h * e)) / (2 * h) for e in np.eye(7)]
assert np.allclose(dx, [0, 0, 5, 0, 0, 0, 1])

# %% drawing
axes = draw.panels(7, 3, 7, height=1.2)
draw.array(axes[0], x, "x")
for o in range(3):
    draw.frame(axes[0], 0, 2 * o, 1, 3, draw.INK[o], inset=0.07 * (o % 2))
draw.array(axes[1], y, "y")
draw.array(axes[2], np.array(dx), "dx", fmt="{:.0f}")

# %% [markdown]
# ## Forward
#
# $$y[c,i,j,n] = \max_{0 \le p,\,q < z}\; x[c,\; i\,s+p,\; j\,s+q,\; n]$$
#
# Each channel for itself, each picture for itself.  The sizes follow lesson 4's formula: with $z = 3$ and
# $s = 2$, AlexNet's maps go from 55 to 27, from 27 to 13, and from 13 to 6.
#
# **Your turn.**


# %%
def max_pool(x, z, s):
    """Largest number of each z×z window, s apart.  x (C,H,W,N) → y (C,OH,OW,N)."""
    C, H, W, N = x.shape
    OH, OW = (H - z) // s + 1, (W - z) // s + 1
    y = np.empty((C, OH, OW, N))
    for i in range(OH):
        for j in range(OW):
            y[:, i, j] = ...  # (C, N): of all channels and pictures at once
    return y


# %%
max_pool = check(max_pool)
# hint("max_pool")
# solution("max_pool")

# %%
from tinyalex.ops import pool

sizes = [55]
for _ in range(3):
    sizes.append(pool.pooled_size(sizes[-1], z=3, s=2, before=0, after=0))
assert sizes == [55, 27, 13, 6]

x = rng.standard_normal((3, 7, 9, 4))
theirs, _ = pool.max_pool_forward(x, z=3, s=2)
assert (max_pool(x, 3, 2) == theirs).all()
print("y", theirs.shape, "  ours and the library's agree")

# %% [markdown]
# Where the division has a remainder, the 2012 code rounds up once more, as in lesson 4: the last window
# hangs over the edge and sees only real pixels.  The library does so unless told otherwise.  In AlexNet it
# makes no difference: 55, 27 and 13 leave no remainder.
#
# How does it look?  A map of edges, from a picture of lesson 1, and two poolings of it.  Both halve the
# size.

# %%
from tinyalex.data import shapes
from tinyalex.ops.activation import relu_forward
from tinyalex.ops.conv import conv2d_forward

made = shapes.make(10, rng)
photo = made.images[..., list(made.labels).index(made.classes.index("ring"))]
grey = photo.mean(axis=0)[None, :, :, None] - photo.mean()
edge = np.outer(np.ones(3), [-1.0, 0, 1])[None, None]
edges, _ = relu_forward(conv2d_forward(grey, edge, np.zeros(1), pad=1)[0])
edges = edges[:, :31, :31]  # 31: both poolings fit, or nearly
plain, overlapping = max_pool(edges, 2, 2), max_pool(edges, 3, 2)
assert plain.shape == overlapping.shape == (1, 15, 15, 1)

# %% drawing
axes = draw.panels(1, 1, 1, 1, height=1.9)
draw.picture(axes[0], photo, "a ring")
for axis, values, title in zip(
    axes[1:],
    (edges, plain, overlapping),
    ("edges", "z = 2, s = 2", "z = 3, s = 2"),
    strict=True,
):
    draw.picture(axis, values[0, :, :, 0], title)

# %% [markdown]
# ## Backward: who won?
#
# Moving a pixel moves $y$ only if the pixel is its window's largest: $\partial y_o / \partial x_u$ is 1 for
# the winner $u$ of window $o$ and 0 for the others.  So
#
# $$dx[u] \;=\; \sum_{o\,:\;\text{u wins window } o} dy[o] .$$
#
# Step through it.  Six windows of $3\times3$ over a picture of $5\times7$.  The dashed blue frame is the
# window, the orange one its winner.  One pixel wins four of them.

# %%
picture = np.array(
    [
        [1, 0, 2, 1, 0, 3, 1],
        [0, 4, 1, 2, 5, 1, 0],
        [3, 1, 9, 0, 1, 2, 1],
        [0, 2, 1, 3, 8, 1, 2],
        [6, 1, 0, 2, 1, 0, 4.0],
    ]
)
upstream = np.array([[1, 2, -3], [4, 1, 2.0]])
windows = list(np.ndindex(2, 3))
winners = []
for i, j in windows:
    p, q = divmod(picture[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].argmax(), 3)
    winners.append((2 * i + int(p), 2 * j + int(q)))
assert winners == [(2, 2), (2, 2), (1, 4), (2, 2), (2, 2), (3, 4)]


# %% drawing
def give_back(k):
    """Step k: windows 0 … k have given their gradient to their winners."""
    i, j = windows[k]
    dx = np.zeros((5, 7))
    for (a, b), winner in zip(windows[: k + 1], winners, strict=False):
        dx[winner] += upstream[a, b]
    seen = paint.array(picture, "x", "{:.0f}", 12).frame(2 * i, 2 * j, 3, 3, 1)
    return paint.row(
        seen.frame(*winners[k]),
        paint.array(upstream, "dy", "{:.0f}").frame(i, j, ink=1),
        paint.array(dx, "dx so far", "{:.0f}", 8).frame(*winners[k]),
    )


step_through(give_back, 6)

# %% [markdown]
# ([Touch the same picture](
# touch/index.html#op=max&x=1,0,2,1,0,3,1,0,4,1,2,5,1,0,3,1,9,0,1,2,1,0,2,1,3,8,1,2,6,1,0,2,1,0,4):
# change a number, and another pixel wins.  The page to touch comes with the course, GitHub does not show it.)
#
# The 9 won four windows and has $1 + 2 + 4 + 1 = 8$.  It stands where four windows meet.  Of four
# neighbouring pixels in the middle of a large picture, one is in four windows, two are in two, and one is
# in one: 2.25 windows a pixel, on average.
#
# **Your turn**, first for a row.  Among equal pixels the first wins (that is what `argmax` gives).


# %%
def give_to_winners(dy, x, z, s):
    """Backward of max pooling along a row.  dy (OW,), x (W,) → dx (W,)."""
    dx = np.zeros(len(x))
    for o in range(len(dy)):
        winner = ...  # its place in x
        ...  # what it gets
    return dx


# %%
give_to_winners = check(give_to_winners)
# hint("give_to_winners")
# solution("give_to_winners")

# %%
assert (4 + 2 + 2 + 1) / 4 == 2.25
row = np.array([1.0, 3, 9, 2, 5, 4, 7])
assert list(give_to_winners(np.array([2.0, 3, 1]), row, 3, 2)) == [0, 0, 5, 0, 0, 0, 1]

# %% [markdown]
# And for pictures.  `argmax` of a window counts its pixels in reading order, 0 … $z^2-1$; the row and the
# column have to be taken out of that.


# %%
def max_pool_backward(dy, x, z, s):
    """Backward of max_pool.  dy (C,OH,OW,N), x (C,H,W,N) → dx, shaped like x."""
    dx = np.zeros(x.shape)
    for c, i, j, n in np.ndindex(dy.shape):
        window = x[c, i * s : i * s + z, j * s : j * s + z, n]
        p, q = ...  # row and column of the winner in its window
        ...  # what it gets
    return dx


# %%
max_pool_backward = check(max_pool_backward)
# hint("max_pool_backward")
# solution("max_pool_backward")

# %%
from tinyalex import gradcheck

x = rng.standard_normal((3, 7, 9, 4))
y, cache = pool.max_pool_forward(x, z=3, s=2)
dy = rng.standard_normal(y.shape)
dx = max_pool_backward(dy, x, 3, 2)
np.testing.assert_allclose(dx, pool.max_pool_backward(dy, cache), rtol=1e-12)
assert np.isclose(dx.sum(), dy.sum())  # nothing is lost on the way, nothing is added

report = gradcheck.check(
    lambda x: (max_pool(x, 3, 2), x),
    lambda dy, x: {"x": max_pool_backward(dy, x, 3, 2)},
    {"x": x},
    rng=rng,
)
print(f"largest relative error: {max(report.errors.values()):.0e}")
print("dx: ours and the library's agree")

# %% [markdown]
# The library does the same without a loop over windows.  A maximum over a square is a maximum over its
# rows' maxima, so it pools along one axis and then along the other, each time for all windows at once, and
# goes back in the reverse order (`tinyalex/ops/pool.py`).
#
# ## Ties
#
# Two equal pixels in a window: who wins?  The function has a kink there, and every answer between is right
# in its way. PyTorch, and this library, take the first in reading order.  The 2012 code gives the whole
# gradient to *each* of them, so the sum grows on the way.  Is that bad?  After a ReLU many windows hold
# nothing but zeros, nine pixels tie, and nine of them get what one should.
#
# But look where it goes next: back into the ReLU, whose gates are closed exactly where the output is 0
# (lesson 6).  All of it is stopped there.


# %%
def all_winners(dy, x, z, s):
    """As in 2012: each of several equal pixels gets the whole gradient."""
    dx = np.zeros(x.shape)
    for c, i, j, n in np.ndindex(dy.shape):
        window = x[c, i * s : i * s + z, j * s : j * s + z, n]
        target = dx[c, i * s : i * s + z, j * s : j * s + z, n]
        target += dy[c, i, j, n] * (window == window.max())
    return dx


after_relu = np.maximum(rng.standard_normal((1, 9, 9, 2)) - 1, 0)
dy = rng.standard_normal((1, 4, 4, 2))
first, every = max_pool_backward(dy, after_relu, 3, 2), all_winners(dy, after_relu, 3, 2)
assert not np.allclose(first, every)
assert np.allclose(first * (after_relu > 0), every * (after_relu > 0))

# %% drawing
axes = draw.panels(1, 1, 1, height=2.4)
draw.array(axes[0], after_relu[0, :, :, 0], "after ReLU", numbers=False)
draw.array(axes[1], first[0, :, :, 0], "dx, the first wins", numbers=False, limit=3)
draw.array(axes[2], every[0, :, :, 0], "dx, all of them win", numbers=False, limit=3)

# %% [markdown]
# ## Break it on purpose
#
# `=` in place of `+=`, again, as in lesson 5.  **Guess before you run the cell:** four tests, windows of 2
# every 2, 3 every 3, 3 every 2, 3 every 1.  Which of them notice, and in how many of 100 random rows?


# %%
def broken(dy, x, z, s):
    dx = np.zeros(len(x))
    for o in range(len(dy)):
        dx[o * s + x[o * s : o * s + z].argmax()] = dy[o]
    return dx


noticed = {}
for z, s in ((2, 2), (3, 3), (3, 2), (3, 1)):
    noticed[z, s] = 0
    for _ in range(100):
        row, dy = rng.standard_normal(z + 3 * s), rng.standard_normal(4)
        right = give_to_winners(dy, row, z, s)
        noticed[z, s] += not np.allclose(broken(dy, row, z, s), right)
    print(f"z = {z}, s = {s}: noticed in {noticed[z, s]} of 100 rows")
assert noticed[2, 2] == noticed[3, 3] == 0
assert 30 < noticed[3, 2] < noticed[3, 1]

# %% [markdown]
# Without overlap: never.  With it, a test needs a row in which two windows *share their winner*; one random
# row of four windows may happen to have none.  So the library's tests contain such a row by hand, like the
# one at the top of this lesson.
#
# Such a bug stops nobody: most of the gradient is right.  Even less will do.  In a network written from
# scratch the backward of pooling returned after the first window, so that nearly all of its gradient was 0,
# and the report remarks that "the model as-is still converges" (GitHub, riccardoandreoni0/CNN-from-scratch,
# issue 1).  That is the trouble with gradients.
#
# ## What does the overlap buy?
#
# The paper says 0.4% and 0.3%, and that it makes overfitting slightly more difficult.  (Whoever looks into
# the code finds that the network it was compared with also had other paddings in conv2 and conv5: windows
# of $2\times2$ turn 55 into 28, and the sizes had to come out right.)
#
# One thing can be measured here.  Move a picture by a pixel, and a pooled map should not change much: that
# is what pooling is for.  How much does it change, relative to its size?

# %%
grey = made.images.mean(axis=0)[None] - made.images.mean()
maps, _ = relu_forward(conv2d_forward(grey, edge, np.zeros(1), pad=1)[0])
change = {}
for z in (1, 2, 3):
    here, moved = max_pool(maps[:, :, :-1], z, 2), max_pool(maps[:, :, 1:], z, 2)
    change[z] = np.linalg.norm(here - moved) / np.linalg.norm(here)
    print(f"z = {z}, s = 2: changes by {change[z]:.0%}")
assert change[1] > change[2] > change[3]

# %% [markdown]
# ($z = 1$ only drops three of four pixels.)  The larger the window, the less it matters where exactly a
# thing is.
#
# ## Kill the mutant
#
# Two broken poolings: `=` for `+=` going back, and zeros around the map going forward.  **Write the inputs
# that expose them**, and that right ones pass, whatever their rule for ties.

# %%
from tinyalex.lessons.kill import pads_with_zeros, pays_one_window, show

show(pays_one_window, pads_with_zeros)


# %%
def expose_shared_winner():
    """Return (dy, x, z, s), dy (2,), x (5,), on which `pays_one_window` is found out."""
    x = ...
    dy = ...
    z, s = ...
    return dy, x, z, s


# %%
expose_shared_winner = check(expose_shared_winner)
# hint("expose_shared_winner")
# solution("expose_shared_winner")


# %%
def expose_zero_padding():
    """Return (x, z, s, pad), x (5,), on which `pads_with_zeros` is found out."""
    x = ...
    z, s, pad = ...
    return x, z, s, pad


# %%
expose_zero_padding = check(expose_zero_padding)
# hint("expose_zero_padding")
# solution("expose_zero_padding")

# %% [markdown]
# ## Think about it
#
# 1. *Average* pooling: what is its backward, and does the sum of the gradient stay the same?
#    (cuda-convnet's CIFAR-10 network uses it in two of three places.)
# 2. Zeros are padded around a map, and the largest number of a window at the edge is wanted.  What goes
#    wrong where all pixels are negative?
# 3. Backward needs the winners.  One can store their places, or find them again from $x$ and $y$.  What
#    speaks for which?
#
# <details><summary>What we would answer</summary>
#
# 1. Each pixel of a window gets $dy$ over the number of its pixels; where windows overlap it adds up.  The
#    shares of a window add up to its $dy$, so yes.
# 2. A zero that is not in the picture wins, and takes the gradient with it.  Padding for a maximum has to
#    be $-\infty$.
# 3. Places cost memory, one whole number for each output, and save a pass over the data.  On the CPU the
#    library finds them again: $x$ and $y$ are kept by the neighbours anyway, and a comparison is cheap.  Its
#    GPU kernels store the places (lesson 16).
#
# </details>
#
# ## What comes next
#
# Pooling looks at neighbours in the plane.  The next layer looks at neighbours across the channels, and has
# a constant about which people have argued for ten years: [lesson 8: local response
# normalization](08_local_response_normalization.ipynb).
