# %% [markdown]
# # 8 · Local response normalization: who is loud, and next to whom
#
# [Lesson 7](07_overlapping_pooling.ipynb) compared a pixel with its neighbours in the picture. This lesson
# compares a map with its neighbours among the maps, at one and the same pixel.
#
# **Every number is divided by something that grows with how loud its neighbouring maps are at this place. A
# loud unit turns down those beside it, and itself.** One line forward; backward, an input reaches an output
# in two ways at once, and many hand-written versions forget one of them.
#
# Section 3.3 of the paper:
#
# > "This sort of response normalization implements a form of lateral inhibition inspired by the type found
# > in real neurons, creating competition for big activities amongst neuron outputs computed using different
# > kernels."
#
# **You bring:** the chain rule and the checker (lesson 3), the maps of a convolution (lesson 4).
#
# **You take away:** the sum and its two gradients, derived, written and checked; whether it is $\alpha$ or
# $\alpha/n$; and why a float32 test at $\alpha = 10^{-4}$ sees nothing.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(8)
rng = np.random.default_rng(8)

# %% [markdown]
# ## One pixel, seven maps
#
# At one pixel seven maps have the activities $x = (1, 0, 2, 9, 2, 0, 1)$. A window of $n = 3$ maps moves
# over them, cut off at the ends. In each window the squares are added, and a constant $k = 2$ keeps the sum
# away from 0:
#
# $$s_i = k + \alpha \sum_{j \in \mathrm{win}(i)} x_j^2 \qquad y_i = \frac{x_i}{s_i^{\beta}}$$
#
# With $\alpha = 1$ the first is $s_0 = 2 + 1 + 0 = 3$, and the loudest map has $s_3 = 2 + 4 + 81 + 4 = 91$.
# The power is $\beta = 0.75$. Step through it.

# %%
x = np.array([1.0, 0, 2, 9, 2, 0, 1])
n, k, alpha, beta = 3, 2.0, 1.0, 0.75
C = len(x)


def window(i):
    return slice(max(0, i - n // 2), min(C, i - n // 2 + n))


s = np.array([k + alpha * (x[window(i)] ** 2).sum() for i in range(C)])
y = x / s**beta
assert list(s) == [3, 7, 87, 91, 87, 7, 3]


# %% drawing
def one_map(i):
    """Step i: the window of map i."""
    w = window(i)
    seen = np.arange(C) <= i
    squares = " + ".join(f"{v:.0f}²" for v in x[w])
    sums = f"s = 2 + {squares} = {s[i]:.0f}     y = {x[i]:.0f} / {s[i]:.0f}^¾"
    heard = paint.array(np.where(seen, s, np.nan), "s", "{:.0f}", 91).frame(0, i)
    left = paint.array(np.where(seen, y, np.nan), "y", "{:.2f}", 0.5).frame(0, i, ink=1)
    shown = paint.array(x, "x", "{:.0f}").frame(0, w.start, 1, w.stop - w.start)
    return paint.row(shown) + paint.row(heard) + paint.row(left, caption=sums)


step_through(one_map, C)

# %% [markdown]
# Look at who won. The 9 is now 0.31. Each 2 beside it has become 0.07; each 1 that stands alone at the ends
# kept 0.44. Before, a 2 was twice a 1; now it is six times *smaller*, because of its neighbour. That is the
# competition of the quoted sentence: to be heard, a unit must be loud where its neighbours are not.
# ([Touch these seven maps](touch/index.html#op=lrn&x=1,0,2,9,2,0,1): make the 9 louder, and see who is
# turned down. The page to touch comes with the course, GitHub does not show it.)

# %%
assert [round(v, 2) for v in y] == [0.44, 0, 0.07, 0.31, 0.07, 0, 0.44]
assert 6 < y[0] / y[2] < 7

# %% [markdown]
# Which maps are neighbours? Those with neighbouring numbers, and the numbers mean nothing before training:
# the kernels arrange themselves around it.
#
# ## For pictures
#
# The same at every pixel of every picture: the window runs along axis 0 only. The paper's constants are
# $k = 2$, $n = 5$, $\alpha = 10^{-4}$, $\beta = 0.75$. **Your turn.**


# %%
def lrn(x, n, k, alpha, beta):
    """y = x / s^β, s = k + α Σ x² over n channels (n odd).  x (C,H,W,N) → y, s."""
    C = len(x)
    s = np.full_like(x, k)
    for i in range(C):
        first = ...  # the window's first channel
        last = ...  # one beyond its last
        s[i] += alpha * (x[first:last] ** 2).sum(axis=0)
    y = ...
    return y, s


# %%
lrn = check(lrn)
# hint("lrn")
# solution("lrn")

# %% [markdown]
# The library's `lrn_forward` gives the same, in blocks that fit the cache, with three additions for five
# channels.

# %%
from tinyalex.ops.lrn import lrn_backward as library_backward
from tinyalex.ops.lrn import lrn_forward

x = rng.standard_normal((7, 3, 4, 2))
y, s = lrn(x, 5, 2.0, 0.9, 0.75)
theirs, cache = lrn_forward(x, n=5, k=2.0, alpha=0.9, beta=0.75)
np.testing.assert_allclose(y, theirs)
print("forward: ours and the library's agree")

# %% [markdown]
# ## α, or α divided by n?
#
# The paper's formula has $\alpha\sum x_j^2$. The 2012 code that made the published numbers divides:
# `scale /= size`, so it is $\frac{\alpha}{n}\sum x_j^2$, a *mean* of squares. Caffe, PyTorch and ONNX
# followed the code, and so does Paddle, whose docstring has the text's formula; Chainer and TensorFlow follow
# the text. The same name, five times apart, and a steady source of bug reports on all sides.
#
# So in PyTorch, $\alpha = 5\cdot 10^{-4}$ is the paper's text, and $10^{-4}$ is the 2012 code. Here the
# argument `alpha_over_n` says which is meant.

# %%
divided, _ = lrn_forward(x, n=5, alpha=5e-4, alpha_over_n=True)
paper, _ = lrn_forward(x, n=5, alpha=1e-4)
np.testing.assert_allclose(divided, paper)

# %% [markdown]
# Does a factor of 5 matter? That depends on how large the activities are, and here is a trap. Let all five
# maps of a window have the same activity $a$: $s = 2 + 5\alpha a^2$. The two terms are equal when
# $a = \sqrt{2/(5\alpha)} \approx 63$. AlexNet's inputs are raw pixels, about −128 to 127, and its first
# weights are small: conv1 begins with an rms of about 9 (lesson 10), and $s$ is 2% above 2. But the weights
# grow. In our run on CIFAR-10 (`measured/README.md`) the rms of what the layer gets is 12 before training
# and 116 after eight epochs: it wakes up. Feed pixels between 0 and 1, as is common today, and the same
# weights give 255 times less, below 1: then $s \approx 2$, and all that is left of this layer is a division
# by $2^{0.75} \approx 1.68$.

# %%
assert round((2 / 5e-4) ** 0.5) == 63
begin = 0.135 * 70  # lesson 10: the gain of the first weights, and the rms of pixels
assert round(begin) == 9
assert round(5e-4 * begin**2 / 2, 2) == 0.02
assert 116 / 255 < 1
assert round(2**0.75, 2) == 1.68

a = np.linspace(0, 300, 200)
assert 300 / (2 + 5e-4 * 300**2) ** 0.75 < 150 / (2 + 5e-4 * 150**2) ** 0.75

# %% drawing
left, right = draw.panels(1, 1, height=2.8)
left.plot(a, a / (2 + 5e-4 * a**2) ** 0.75, color=draw.INK[0], label="paper: α Σ")
left.plot(a, a / (2 + 1e-4 * a**2) ** 0.75, "--", color=draw.INK[1], label="2012: α/n Σ")
left.plot(a, a / 2**0.75, color="0.6", lw=1, label="a / 1.68")
left.set_ylim(0, 60)
left.legend(frameon=False, fontsize=8)
draw.plain(left, "activity a of all five maps", "y", "raw pixels")
small = a / 300
right.plot(small, small / (2 + 5e-4 * small**2) ** 0.75, color=draw.INK[0])
right.plot(small, small / (2 + 1e-4 * small**2) ** 0.75, color=draw.INK[1], ls="--")
right.plot(small, small / 2**0.75, color="0.6", lw=1)
draw.plain(right, "activity a", "", "pixels between 0 and 1: a straight line")

# %% [markdown]
# On the left the curve bends *down*: five maps that are all loud leave less than five that are half as
# loud. On the right three lines lie on top of each other.
#
# ## Backward: two ways from x to y
#
# How does $x_i$ reach the loss? It stands in the numerator of $y_i$. And it stands in the sum $s_j$ of
# *every* window $j$ that holds $i$, its own included. One pixel, one derivative at a time:
#
# $$\frac{\partial y_j}{\partial x_i}
# = \underbrace{[i = j]\; s_i^{-\beta}}_{\text{numerator}}
# \;-\; \underbrace{\beta\, x_j\, s_j^{-\beta-1}}_{\partial y_j/\partial s_j}\cdot
# \underbrace{2\alpha\, x_i}_{\partial s_j/\partial x_i} \qquad i \in \mathrm{win}(j)$$
#
# ($[i = j]$ is 1 where $i = j$, else 0.)
# Multiply by the upstream gradient $g_j = dL/dy_j$ and sum over all $j$, as always:
#
# $$dx_i \;=\; g_i\, s_i^{-\beta} \;-\; 2\alpha\beta\, x_i
# \sum_{j\,:\; i \in \mathrm{win}(j)} g_j\, x_j\, s_j^{-\beta-1}$$
#
# For odd $n$, "the windows that hold $i$" are the windows around the channels in $i$'s own window: if $i$
# is near $j$, then $j$ is near $i$. So backward has the same window as forward.
#
# Here are all derivatives of our seven maps as one matrix: row $j$ is output $y_j$, column $i$ input $x_i$.

# %%
x7 = np.array([1.0, 0, 2, 9, 2, 0, 1])
s7 = np.array([3.0, 7, 87, 91, 87, 7, 3])
near = np.abs(np.arange(7)[:, None] - np.arange(7)) <= 1  # [j, i]: i in win(j)
numerator = np.diag(s7**-0.75)
through_s = -0.75 * (x7 * s7**-1.75)[:, None] * 2 * x7 * near

slopes = np.zeros((7, 7))
for i in range(7):
    step = 1e-5 * np.eye(7)[i]
    up, down = (
        lrn((x7 + e).reshape(7, 1, 1, 1), 3, 2.0, 1.0, 0.75)[0] for e in (step, -step)
    )
    slopes[:, i] = (up - down).ravel() / 2e-5
np.testing.assert_allclose(numerator + through_s, slopes, atol=1e-7)

# %% drawing
axes = draw.panels(1, 1, 1, height=2.7)
for a, part, title in zip(
    axes,
    (numerator, through_s, numerator + through_s),
    ("numerator", "through the sums", "∂y/∂x"),
    strict=True,
):
    shown = np.where(near & (part.round(2) != 0), part, np.nan)  # empty: 0.00
    draw.array(a, shown, title, fmt="{:.2f}", limit=0.5)
    a.set_xlabel("input i", size=8)
axes[0].set_ylabel("output j", size=8)

# %% [markdown]
# The column of the loud map 3 is negative all over: make the 9 louder, and its neighbours' outputs fall,
# *and its own falls too*, −0.01. Here at $\alpha = 1$ the loudest unit is past the bend of the curve above.
# ([Touch the backward](touch/index.html#op=lrn&x=1,0,2,9,2,0,1&stamps=3): click one `dy` after the other,
# and watch the matrix's rows add up in `dx`.)

# %%
assert ((numerator + through_s)[2:5, 3] < 0).all()
assert round((numerator + through_s)[3, 3], 2) == -0.01

# %% [markdown]
# **Your turn.** `ratio` is what the sum runs over, one number for each window.


# %%
def lrn_backward(dy, x, s, n, alpha, beta):
    """dx of y = x / s^β, s = k + α Σ x² over n channels (n odd).  All arrays (C,H,W,N)."""
    direct = ...  # through the numerator
    ratio = ...  # what stands under the sum
    dx = np.empty_like(x)
    for i in range(len(x)):
        windows = slice(max(0, i - n // 2), i + n // 2 + 1)  # those that hold channel i
        dx[i] = ...
    return dx


# %%
lrn_backward = check(lrn_backward)
# hint("lrn_backward")
# solution("lrn_backward")

# %% [markdown]
# The checker of lesson 3, with $\alpha$ near 1, and the library:

# %%
from tinyalex import gradcheck

constants = {"n": 5, "k": 2.0, "alpha": 0.9, "beta": 0.75}


def forward(x):
    y, s = lrn(x, **constants)
    return y, (x, s)


def backward(dy, cache):
    return {"x": lrn_backward(dy, *cache, 5, 0.9, 0.75)}


report = gradcheck.check(forward, backward, {"x": x}, rng=rng)
print(f"relative error: {report.errors['x']:.1e}")

dy = rng.standard_normal(x.shape)
np.testing.assert_allclose(
    lrn_backward(dy, x, s, 5, 0.9, 0.75), library_backward(dy, cache)
)
print("backward: ours and the library's agree")

# %% [markdown]
# ## Break it on purpose
#
# Leave out the sum: `dx = direct`, as if $s$ were a constant. It is a popular mistake. **Guess before you
# run:** inputs drawn from $N(0,1)$, as in every test; how wrong is `dx` at the paper's $\alpha = 10^{-4}$?
# And for activities of 100, as conv1 has after training?


# %%
def forgetful(dy, x, s, n, alpha, beta):
    return dy * s**-beta


def how_wrong(alpha, size):
    x = size * rng.standard_normal((16, 5, 6, 3))
    dy = rng.standard_normal(x.shape)
    _, s = lrn(x, 5, 2.0, alpha, 0.75)
    right, wrong = (f(dy, x, s, 5, alpha, 0.75) for f in (lrn_backward, forgetful))
    return np.linalg.norm(wrong - right) / np.linalg.norm(right)


alphas = np.logspace(-6, 0, 7)

print("at 1e-4, activities near 1:  ", how_wrong(1e-4, 1))
print("at 1e-4, activities near 100:", how_wrong(1e-4, 100))
assert 1e-4 < how_wrong(1e-4, 1) < 3e-4
assert how_wrong(1e-4, 100) > 0.25
assert how_wrong(0.9, 1) > 0.2

# %% drawing
axes = draw.panels(1, height=3)
for size, colour in ((1, draw.INK[0]), (100, draw.INK[1])):
    errors = [how_wrong(alpha, size) for alpha in alphas]
    axes.loglog(alphas, errors, "o-", color=colour, label=f"activities near {size}")
axes.axhline(1e-3, color="0.5", lw=1)
axes.text(1.1e-6, 1.3e-3, "tolerance of a usual float32 check", size=8, color="0.35")
axes.axvline(1e-4, color="0.8", lw=1, ls="--")
axes.legend(frameon=False, loc="lower right")
draw.plain(axes, "α", "relative error of dx", "backward without its sum")

# %% [markdown]
# With $N(0,1)$ inputs and the paper's $\alpha$ the forgotten term is two parts in ten thousand: below the
# tolerance of a check in float32, and only a careful one in float64 sees it. But only $\alpha x^2$ counts:
# with activities of 100 it is more than a quarter of the gradient. **The bug hides in the test and wakes up
# in training.** So test where the term is large: $\alpha$ near 1. It costs nothing, and the constants
# are not what is being tested.
#
# ## Where the window ends
#
# On the paper's two GPUs each had only its own maps, and could not see its neighbour's. So a window ends at
# the border between the towers ([lesson 12](12_two_gpus.ipynb)): with `groups=2` the library treats each
# half as if it were alone.

# %%
x = rng.standard_normal((8, 2, 3, 4))
together, _ = lrn_forward(x, n=5, alpha=0.9)
towers, _ = lrn_forward(x, n=5, alpha=0.9, groups=2)
halves = [lrn(half, 5, 2.0, 0.9, 0.75)[0] for half in np.split(x, 2)]
np.testing.assert_allclose(towers, np.concatenate(halves))
different = [c for c in range(8) if not np.allclose(together[c], towers[c])]
print("maps for which the border matters:", different)
assert different == [2, 3, 4, 5]

# %% [markdown]
# ## What it was worth
#
# The paper reports 1.4 points of top-1 and 1.2 of top-5 error (section 3.3), and the 2012 logs confirm it:
# 42.0 percent without any normalization against 40.7 with it. Two years later the VGG networks, deeper and
# with small kernels, tried it in one of their variants, found no gain, and left it out; it has been rare
# since. It is here because it is AlexNet, and because its gradient is the best small exercise in the chain
# rule that the network has.
#
# ## Kill the mutant
#
# The backward without its sum, and a usual check in float32, which lets a thousandth pass.  **Write the input
# that exposes it.**  Then five backwards, of which one is broken: **which, and in which line?**

# %%
from tinyalex.lessons.kill import LRN, forgets_the_sum, show, suspects

show(forgets_the_sum)


# %%
def expose_forgotten_sum():
    """Return (dy, x, alpha), dy and x (6,1,1,1), that exposes `forgets_the_sum` in float32."""
    dy = ...
    x = ...
    alpha = ...
    return dy, x, alpha


# %%
expose_forgotten_sum = check(expose_forgotten_sum)
# hint("expose_forgotten_sum")
# solution("expose_forgotten_sum")

# %%
print(LRN)
five = suspects(LRN)  # the functions, to be called


# %%
def which_of_five_lrn():
    """Return (which, line): the broken one of `LRN`, 0 to 4, and its line, counted from 1 at its `def`."""
    which, line = ...
    return which, line


# %%
which_of_five_lrn = check(which_of_five_lrn)
# hint("which_of_five_lrn")
# solution("which_of_five_lrn")

# %% [markdown]
# ## Think about it
#
# 1. Let $k = 0$ and let all maps of a window be equal. What does $y$ do when $x$ doubles? And with
#    $\beta = \frac12$?
# 2. The paper normalizes after ReLU; the 2012 code normalized conv1's output before it (the ReLU stood
#    behind the pooling). What is different for a unit whose neighbours are strongly *negative*?
# 3. Could the sum be kept as a running sum over the channels: add the map that enters the window, subtract
#    the one that leaves? It needs two operations whatever $n$. Why does the library not do it?
#
# <details><summary>What we would answer</summary>
#
# 1. $y = x / (\alpha n x^2)^{0.75}$, in proportion to $x^{-0.5}$: doubling the input makes the output
#    *smaller*, by $\sqrt 2$. With $\beta = \frac12$ the output does not depend on the size of the input at
#    all.
# 2. After ReLU they are 0 and do not inhibit. Before it, their squares count: a neighbour that is strongly
#    against something inhibits as much as one that is strongly for it.
# 3. It subtracts large numbers that it added before. In float32 what is left of a small sum is the rounding
#    of the large ones; after a loud map, quiet ones would be normalized by noise.
#
# </details>
#
# ## What comes next
#
# The maps are ready. Above them stand the two large fully connected layers with almost all of the
# parameters, and the danger that they learn the training pictures by heart. [Lesson 9:
# dropout](09_dropout.ipynb).
