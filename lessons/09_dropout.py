# %% [markdown]
# # 9 · Dropout: half of the units, and two ways to scale
#
# After [lesson 8](08_local_response_normalization.ipynb) the maps are ready. Above them stand two layers of
# 4096 units, and in their weights nine tenths of AlexNet's parameters: room enough to learn 1.2 million
# pictures by heart.
#
# **In training each unit is silenced with probability one half, drawn anew for each unit and each picture.
# No unit can rely on another one being there. At test all speak, each at half its strength, so that the
# layer above hears what it heard on average.** The whole operation is one multiplication. What goes wrong
# is the *scale*, and there are two conventions for it.
#
# Section 4.2 of the paper:
#
# > "At test time, we use all the neurons but multiply their outputs by 0.5, which is a reasonable
# > approximation to taking the geometric mean of the predictive distributions produced by the
# > exponentially-many dropout networks."
#
# What a geometric mean has to do with it is derived below, exactly, and "reasonable approximation" is
# measured.
#
# **You bring:** softmax and its loss (lesson 2), the checker (lesson 3).
#
# **You take away:** dropout forward and backward in both scalings, the average over all $2^n$ networks
# computed by hand, and the ways in which the two scalings get mixed.

# %%
from itertools import product

import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(9)
rng = np.random.default_rng(9)

fc6, fc7, everything = 37_752_832, 16_781_312, 60_965_224  # parameters: lesson 13 counts
assert 0.89 < (fc6 + fc7) / everything < 0.9

# %% [markdown]
# ## Five units, thirty-two networks
#
# Five hidden units are active with $h = (4, 1, 3, 0, 2)$. One unit above them computes $z = w\cdot h$ with
# $w = (1, -2, 2, 3, 1)$, which is $4 - 2 + 6 + 0 + 2 = 10$.
#
# Dropout multiplies $h$ with a **mask** $m$ of zeros and ones. There are $2^5 = 32$ masks, so 32 networks
# that share their weights, and each gives another $z$. Step through a few.

# %%
h = np.array([4.0, 1, 3, 0, 2])
w = np.array([1.0, -2, 2, 3, 1])
masks = np.array(list(product([0, 1], repeat=5)))  # all of them, (32, 5)
z = masks @ (w * h)
assert w @ h == 10
assert len(masks) == 2**5 == 32

some = rng.permutation(32)[:8]


# %% drawing
def one_mask(k):
    """Step k: the units that one mask leaves, and the z of all masks so far."""
    m, seen = masks[some[k]], z[some[: k + 1]]
    units = np.stack([h, m, m * h])
    units = paint.array(units, "five units", "{:.0f}", 6, rows=["h", "mask", "mask·h"])
    plot = paint.plot("z so far", (0, 9), (-3, 13), "mask", "z")
    plot.level(10, name="no dropout").level(5, 0, "half of it")
    plot.dots(range(1, k + 2), seen, 1)
    return paint.row(units.note(f"z = {z[some[k]]:.0f}"), plot)


step_through(one_mask, len(some))

# %% [markdown]
# Over all 32 masks each unit is present in exactly half. So the mean of $z$ is half of the full sum, 5. If
# each unit is **kept** with probability $p$, it is $p$ times the full sum ($\mathbb{E}$ is the mean over all
# masks):
#
# $$\mathbb{E}[z] = \mathbb{E}\left[\sum_i w_i\, m_i\, h_i\right]
# = \sum_i w_i\, \mathbb{E}[m_i]\, h_i = p\; w\cdot h$$

# %%
assert z.mean() == 5
assert (masks.mean(axis=0) == 0.5).all()

# %% [markdown]
# The unit above has learned with inputs that add up to about 5. If at test all units speak up, it hears 10,
# and everything above it is off. There are two repairs.
#
# $$\begin{array}{lcc}
#  & \text{in training} & \text{at test} \\
# \text{2012} & y = m\,x & y = p\,x \\
# \text{inverted} & y = \dfrac{m\,x}{p} & y = x
# \end{array}$$
#
# The paper and its code do the first. Nearly everything since does the second: the network at test then
# contains no trace of dropout. In both, *the mean in training is the value at test*. **Your turn.** Mind
# that `keep` is $p$, the probability to be kept; some libraries name the other one.


# %%
def dropout(x, mask, keep, train, inverted):
    """Both scalings.  x any shape, float32 stays so; mask like x (None at test); keep: P(kept) → y."""
    if train:
        return ...  # 2012, or inverted
    return ...  # 2012, or inverted


# %%
dropout = check(dropout)
# hint("dropout")
# solution("dropout")

# %%
for inverted in (False, True):
    trained = [dropout(h, m, 0.5, True, inverted) for m in masks]
    test = dropout(h, None, 0.5, False, inverted)
    assert (np.mean(trained, axis=0) == test).all()
print("in both scalings: the mean over all masks is the value at test")

# %% [markdown]
# ## Backward
#
# For a given mask dropout multiplies each number by a constant, so its gradient is multiplied by **the
# same** constant. A silenced unit gets no gradient: it did not contribute, nothing is to be learned from it
# now. That is the whole derivation, and the one thing to get right is "the same": the mask of the forward
# pass, not a fresh one. ([Touch five units](touch/index.html#op=dropout&C=5&x=4,1,3,0,2&stamps=all), on
# the page that comes with the course; GitHub does not show it.)


# %%
def dropout_backward(dy, mask, keep, inverted):
    """dx of dropout in training.  dy and mask (the one of forward): one shape.  float32 stays float32."""
    dx = ...
    return dx


# %%
dropout_backward = check(dropout_backward)
# hint("dropout_backward")
# solution("dropout_backward")

# %%
from tinyalex import gradcheck
from tinyalex.ops.dropout import dropout_backward as library_backward
from tinyalex.ops.dropout import dropout_forward, dropout_mask

x, dy = rng.standard_normal((2, 6, 7))
mask = dropout_mask(rng, x.shape, keep=0.7)


def compare(inverted):
    """Ours with the library's, and with the slope of the forward pass."""
    y, cache = dropout_forward(x, mask, 0.7, True, inverted)
    np.testing.assert_allclose(dropout(x, mask, 0.7, True, inverted), y)
    ours = dropout_backward(dy, mask, 0.7, inverted)
    np.testing.assert_allclose(ours, library_backward(dy, cache))
    report = gradcheck.check(
        lambda x: (dropout(x, mask, 0.7, True, inverted), None),
        lambda dy, _: {"x": dropout_backward(dy, mask, 0.7, inverted)},
        {"x": x},
        rng=rng,
        linear=("x",),
    )
    return report.errors["x"]


print(f"2012:     relative error {compare(inverted=False):.0e}")
print(f"inverted: relative error {compare(inverted=True):.0e}")

# %% [markdown]
# For the checker the mask must stand still: a forward pass that draws anew each time has no slope to
# compare with. That is why the library draws the mask outside of the operation, and the operation is pure.
#
# ## "The geometric mean of the predictive distributions"
#
# Let dropout act on the input $h$ of the last layer, with softmax above it. Under mask $m$ the logits are
# $z_c(m) = \sum_i w_{ci}\, m_i\, h_i$ and the prediction is
#
# $$\log p_c(m) = z_c(m) - \log\sum_k e^{z_k(m)} .$$
#
# The *geometric* mean over all masks is the mean of the logarithms. The second term is the same for all
# classes $c$, and is lost when the result is made to sum to 1 again. What is left is
#
# $$\frac{1}{2^n}\sum_m z_c(m) \;=\; \tfrac12 \sum_i w_{ci}\, h_i$$
#
# by the calculation above. So the geometric mean of $2^n$ predictions is **exactly** one forward pass with
# all units at half strength: no approximation at all. Let us average 32 networks by hand.

# %%
from tinyalex.ops.softmax import softmax

W = rng.standard_normal((3, 5))  # three classes
each = np.stack([softmax(W @ (m * h)) for m in masks])  # (32, 3)
geometric = np.exp(np.log(each).mean(axis=0))
geometric /= geometric.sum()
scaled = softmax(W @ (0.5 * h))
np.testing.assert_allclose(geometric, scaled)

# %% drawing
axes = draw.panels(1, height=2.6)
places = np.arange(3)
axes.plot(places, each.T, color="0.8", lw=1)
axes.plot(
    places,
    scaled,
    "s",
    color=draw.INK[0],
    ms=11,
    mfc="none",
    label="all at half strength",
)
axes.plot(places, geometric, "x", color=draw.INK[1], ms=8, label="geometric mean of 32")
axes.plot(
    places, each.mean(axis=0), "^", color=draw.INK[2], label="arithmetic mean of 32"
)
axes.set_xticks(places, ["class 0", "class 1", "class 2"])
axes.legend(frameon=False, fontsize=8)
draw.plain(axes, ylabel="probability", title="32 networks (grey) and their means")

# %% [markdown]
# So where does "approximation" come from? From dropout in a layer that has another nonlinearity above it,
# as fc6 has fc7. Half strength then gives the ReLU of a mean, where the mean of ReLUs was asked for. How
# much is lost? Six units drop below a hidden layer of nine, all 64 masks are run, and the two are compared.

# %%
six = np.abs(rng.standard_normal(6))
W1, W2 = rng.standard_normal((9, 6)), 0.5 * rng.standard_normal((3, 9))
log_p = []
for m in product([0, 1], repeat=6):
    hidden = np.maximum(W1 @ (np.array(m) * six), 0)
    log_p.append(np.log(softmax(W2 @ hidden)))
assert len(log_p) == 64
geometric = np.exp(np.mean(log_p, axis=0))
geometric /= geometric.sum()
scaled = softmax(W2 @ np.maximum(W1 @ (0.5 * six), 0))
print("geometric mean of 64 networks:", geometric.round(3))
print("one pass at half strength:    ", scaled.round(3))
assert 0.001 < np.abs(geometric - scaled).max() < 0.2
assert geometric.argmax() == scaled.argmax()

# %% [markdown]
# Not equal, not far: "reasonable" is the right word.
#
# ## Break it on purpose
#
# **First: mix the scalings.** Train with 2012's dropout and test with the other's code, so that nobody
# multiplies by 0.5, with two such layers as AlexNet has (biases 0). **Guess before you run:** how do the
# logits change? The top-1 error? The loss?

# %%
units, N = 40, 500
hidden = np.maximum(rng.standard_normal((units, N)), 0)  # into fc7
fc7, fc8 = rng.standard_normal((units, units)) / 3, rng.standard_normal((10, units)) / 3


def logits(scale):
    return fc8 @ (scale * np.maximum(fc7 @ (scale * hidden), 0))


right, mixed = logits(0.5), logits(1.0)
labels = np.array([rng.choice(10, p=p) for p in softmax(right).T])  # right's own beliefs
loss = {}
for name, values in {"scaled": right, "not scaled": mixed}.items():
    p = softmax(values)
    loss[name] = -np.log(p[labels, np.arange(N)]).mean()
    error = (p.argmax(axis=0) != labels).mean()
    print(
        f"{name:10}  loss {loss[name]:.2f}   top-1 error {error:.3f}   surest {p.max():.2f}"
    )

np.testing.assert_allclose(mixed, 4 * right)
assert (mixed.argmax(axis=0) == right.argmax(axis=0)).all()
assert loss["not scaled"] > 1.2 * loss["scaled"]

# %% [markdown]
# Twice for each layer, four times in all. The largest logit stays the largest, so **the top-1 error does
# not change at all**, and whoever watches only the error sees nothing. But the probabilities are far too
# sure of themselves, the loss is worse, and an average over ten views (lesson 13) is an average of wrong
# numbers. With biases, as in AlexNet, the classes may change too, since only the weights' part is scaled.
#
# **Second: one mask for the whole batch.** A mask of shape (units, 1) broadcasts over the pictures, and the
# code runs. **Guess:** the gradient of a weight above is a sum over the batch of masked outputs times `dy`
# (here `dy` = 1). Its mean over many batches is the same; what is not?


# %%
def gradient_noise(mask_shape):
    """Spread, over 400 batches, of Σ over the batch of a unit's masked output."""
    x = np.ones((20, 64))  # 20 units, 64 pictures
    sums = [(x * dropout_mask(rng, mask_shape(x), 0.5)).sum(axis=1) for _ in range(400)]
    return np.std(sums), np.mean(sums)


own, mean_own = gradient_noise(lambda x: x.shape)
shared, mean_shared = gradient_noise(lambda x: (len(x), 1))
print(f"a mask for each picture: {mean_own:.1f} ± {own:.1f}")
print(f"one for the batch:       {mean_shared:.1f} ± {shared:.1f}")
assert 6 < shared / own < 10

# %% [markdown]
# The noise is eight times larger, $\sqrt{64}$: 64 independent coins average out, one coin for 64 pictures
# does not. Each step then trains one network of the many with all pictures, instead of 64 of them with a
# picture each.

# %%
assert 64**0.5 == 8

# %% [markdown]
# ## What the paper found
#
# Dropout stands behind fc6 and fc7, with $p = \frac12$; without it the paper saw its network overfit
# substantially, and with it training needed about twice as many steps (section 4.2). The 2012 logs also
# hold a run with dropout over conv4: it was a little worse. In the library, `Dropout` draws the mask for
# the whole layer from the generator that it is given; on two devices each takes its rows, so that the same
# units drop whatever the number of devices.
#
# ## Kill the mutant
#
# This time write the check itself.  It is given a dropout, `dropout(x, mask, keep, train)`, and says whether
# it is broken.  **It must spare both scalings and expose the two mixtures**: scaled twice, and never.

# %%
from tinyalex.lessons.kill import never_scales, scales_twice, show

show(scales_twice, never_scales)


# %%
def mixed_up(dropout):
    """Is dropout(x, mask, keep, train) broken?  Both scalings of the lesson are right."""
    x, keep = np.array([2.0, 6.0]), 0.5
    masks = np.array([[1.0, 0], [0, 1]])
    broken = ...  # what comes out in training, and what in test?
    return broken


# %%
mixed_up = check(mixed_up)
# hint("mixed_up")
# solution("mixed_up")

# %% [markdown]
# ## Think about it
#
# 1. Why drop the units of fully connected layers and not those of conv1?
# 2. Is dropout with $p = 0.5$ and the scaling of 2012 the same as the inverted one with a halved weight
#    matrix above it? What about the learning rate that this matrix needs?
# 3. ReLU and dropout both put zeros into the same place. Does their order matter?
#
# <details><summary>What we would answer</summary>
#
# 1. conv1 has 35 thousand parameters and is trained at 3025 places of each picture: it has little to
#    overfit with. And its neighbouring outputs are nearly copies, so that a silenced one is easily
#    replaced.
# 2. Forward yes: $m x$ with $W$ and $2 m x$ with $W/2$ are the same. But the gradient of $W/2$ is twice as
#    large and the weight half as large, so the same rate moves the function four times as far. A rate found
#    in one convention does not carry over to the other.
# 3. Not for ReLU: $\max(0, m x) = m \max(0, x)$ for $m \ge 0$. For a neuron with $f(0) \ne 0$, such as the
#    logistic function, it would.
#
# </details>
#
# ## What comes next
#
# All operations have their gradients. What is done with a gradient, once it is there, is [lesson 10:
# momentum, weight decay and how to begin](10_momentum_and_decay.ipynb).
