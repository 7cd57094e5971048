# %% [markdown]
# # 6 · ReLU or tanh: what comes through a neuron
#
# [Lesson 5](05_backward_convolution.ipynb) brought the gradient back to every weight of a convolution.
# Between two convolutions stands a neuron, a curve that every number goes through, one by one.  Without it
# two layers would be no more than one: $W_2(W_1 x) = (W_2 W_1)\,x$.
#
# Which curve?  Forward, it makes little difference.  **Backward, a neuron multiplies the gradient by the
# slope of its curve.  tanh becomes flat where its input is large, and there almost nothing comes through.
# ReLU has slope 1 wherever it is on.**
#
# The paper puts it first among its novelties (section 3.1):
#
# > "In terms of training time with gradient descent, these saturating nonlinearities are much slower than
# > the non-saturating nonlinearity f(x) = max(0, x)."
#
# "These" are tanh and the logistic function.  Figure 1 of the paper shows it, and at the end of this lesson
# you will draw a small Figure 1 of your own.
#
# **You bring:** the chain rule; backward through a layer (lessons 2 and 5).
#
# **You take away:** two backward passes that need only the output, what saturation is and does, and what a
# dead ReLU is.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(6)
rng = np.random.default_rng(6)

# %% [markdown]
# ## Three curves and their slopes
#
# The slope of $\tanh$ is $1 - \tanh^2$.  At 0 it is 1.  At 2, where $\tanh$ is 0.964, it is 0.071.  At 5 it
# is 0.00018. The slope of $\max(0, x)$ is 1 at 0.1, at 2 and at 5, and 0 for every negative number.

# %%
slope_of_tanh = 1 - np.tanh(np.array([0, 2, 5])) ** 2
assert np.tanh(2).round(3) == 0.964
assert slope_of_tanh[0] == 1
assert slope_of_tanh[1].round(3) == 0.071
assert slope_of_tanh[2].round(5) == 0.00018

x = np.linspace(-5, 5, 201)
curves = {
    "ReLU": (np.maximum(x, 0), np.where(x > 0, 1.0, 0)),
    "tanh": (np.tanh(x), 1 - np.tanh(x) ** 2),
    "logistic": (1 / (1 + np.exp(-x)), 1 / (2 + np.exp(x) + np.exp(-x))),
}
assert curves["logistic"][1].max() == 0.25

# %% drawing
left, right = draw.panels(1, 1, height=2.6)
for (name, (y, slope)), colour in zip(curves.items(), draw.INK, strict=False):
    left.plot(x, y, color=colour, label=name)
    right.plot(x, slope, color=colour)
left.set(ylim=(-1.3, 3))
left.legend(frameon=False, fontsize=9)
draw.plain(left, "x", title="the neuron")
draw.plain(right, "x", title="its slope: what it lets through")

# %% [markdown]
# The logistic function never lets through more than a quarter.  Five such layers make it $4^{-5}$, less
# than a thousandth, at best; five tanh neurons at 2 make it 0.0000018.  Five ReLUs that are on: 1.

# %%
assert 0.25**5 < 1e-3
assert round(slope_of_tanh[1] ** 5, 7) == 0.0000018

# %% [markdown]
# ## Backward from the output alone
#
# By the chain rule $dx = dy \cdot f'(x)$, number by number.  For these curves the slope can be written with
# the **output** $y$, which the next layer keeps anyway (for the logistic function it is $y\,(1-y)$):
#
# $$\begin{aligned}
# y = \tanh\,x &: & dx &= dy\,(1 - y^2) \\
# y = \max(0, x) &: & dx &= \begin{cases} dy & \text{if } y > 0 \\ 0 & \text{else} \end{cases}
# \end{aligned}$$
#
# So the input can be overwritten with the output, and nothing has to be stored for backward.  (At $x = 0$
# ReLU has a kink and no slope.  We take 0, as everybody does.)
#
# **Your turn.**  Both get $dy$ and the output $y$.


# %%
def tanh_backward(dy, y):
    """dx of y = tanh(x), from the output y alone.  dy, y: one shape and dtype → dx, the same."""
    dx = ...
    return dx


# %%
tanh_backward = check(tanh_backward)
# hint("tanh_backward")
# solution("tanh_backward")


# %%
def relu_backward(dy, y):
    """dx of y = max(0, x), from the output y alone.  dy, y: one shape and dtype → dx, the same."""
    dx = ...
    return dx


# %%
relu_backward = check(relu_backward)
# hint("relu_backward")
# solution("relu_backward")

# %%
from tinyalex.ops import activation

x, dy = rng.standard_normal((2, 4, 5))
for ours, (forward, theirs) in {
    tanh_backward: (activation.tanh_forward, activation.tanh_backward),
    relu_backward: (activation.relu_forward, activation.relu_backward),
}.items():
    y, cache = forward(x)
    np.testing.assert_allclose(ours(dy, y), theirs(dy, cache), rtol=1e-12)

y, _ = activation.relu_forward(x)

# %% drawing
axes = draw.panels(5, 5, 5, 5, height=1.8)
draw.array(axes[0], x, "x", fmt="{:.1f}", limit=2.5)
draw.array(axes[1], y, "y = relu(x)", fmt="{:.1f}", limit=2.5)
draw.array(axes[2], dy, "dy", fmt="{:.1f}", limit=2.5)
draw.array(axes[3], relu_backward(dy, y), "dx", fmt="{:.1f}", limit=2.5)

# %% [markdown]
# Compare the second and the fourth: ReLU is a set of gates.  Where a number went through forward, the
# gradient goes through backward, untouched, whatever its sign.  The other places are 0.
#
# ## Saturation, step by step
#
# One neuron, $y = f(z)$, stands at $z = 2.5$.  The loss $\frac12 (y - \frac12)^2$ wants its output at one
# half.  Both are far away and have to come down.  Step through gradient descent with a rate of one half,
# $z \leftarrow z - \frac12\,dz$, and compare.

# %%
FORWARD = {"ReLU": lambda z: np.maximum(z, 0), "tanh": np.tanh}
BACKWARD = {"ReLU": relu_backward, "tanh": tanh_backward}
paths = {name: [np.array(2.5)] for name in FORWARD}
for name, path in paths.items():
    for _ in range(9):
        y = FORWARD[name](path[-1])
        path.append(path[-1] - 0.5 * BACKWARD[name](y - 0.5, y))
assert abs(paths["ReLU"][9] - 0.5) < 0.01
assert paths["tanh"][9] > 2.4


# %% drawing
def descend(k):
    """Step k: where both neurons are after k updates."""
    z = np.linspace(-1, 3.2, 80)
    panels = []
    for ink, (name, path) in enumerate(paths.items()):
        y = FORWARD[name](path[k])
        dz = BACKWARD[name](y - 0.5, y)
        plot = paint.plot(f"{name}, update {k}", (-1, 3.2), (-1, 3), "z", "y")
        plot.line(z, FORWARD[name](z), ink).level(0.5).dots([path[k]], [y], ink)
        panels.append(plot.note(f"z = {path[k]:.3f},  dz = {dz:.3f}"))
    return paint.row(*panels)


step_through(descend, 7)

# %% [markdown]
# ReLU halves its distance with every step, and is there.  tanh *knows* that it is wrong: its $dy$ is 0.49,
# large.  But it stands on the plain, and of that gradient only a fortieth comes through.  This is
# **saturation**.

# %%
y = np.tanh(2.5)
assert round(float(y - 0.5), 2) == 0.49
assert 0.02 < tanh_backward(1.0, y) < 0.03

# %% [markdown]
# ## How large may the numbers be?
#
# Whether tanh saturates depends on the size of its input, and AlexNet's inputs are raw pixels.  Take a
# layer of 50 neurons with 100 inputs, with weights of size 0.1, and inputs of size 1, 10 and 100: how much
# of a random $dy$ comes back to the weights' side, that is $|dz|/|dy|$?

# %%
w = 0.1 * rng.standard_normal((50, 100))
x, dy = rng.standard_normal((100, 64)), rng.standard_normal((50, 64))
table = np.zeros((2, 3))
for row, name in enumerate(FORWARD):
    for column, size in enumerate((1, 10, 100)):
        y = FORWARD[name](w @ (size * x))
        dz = BACKWARD[name](dy, y)
        table[row, column] = np.linalg.norm(dz) / np.linalg.norm(dy)
        print(f"{name:5} inputs of size {size:3}: {table[row, column]:.1%} comes through")
assert np.ptp(table[0]) == 0  # ReLU: the same gates, whatever the size
assert 0.65 < table[0, 0] < 0.75
assert table[1, 0] > 0.5 > 0.3 > table[1, 1] > 2 * table[1, 2]

# %% [markdown]
# For ReLU nothing changes: $\max(0, c\,x) = c\,\max(0, x)$, so the gates are the same whatever the size;
# half of them are open, and $\sqrt{1/2} = 0.71$ of the length comes through.  tanh loses more with every
# power of ten.
#
# That is what the paper means when it says that ReLUs need no normalization of their inputs to keep them
# from saturating.  With tanh, starting weights have to be chosen for the size of the inputs.  The networks
# that the same program trained on CIFAR-10 start conv1 with weights of size 0.0001.
#
# ## Figure 1 in small
#
# Now train.  400 pictures of shapes, a network of two convolutions and a linear layer, once with each
# neuron.  The paper chose the learning rate for each network on its own, "to make training as fast as
# possible", and so did we: the best of several, and the two are nearly a factor 40 apart.

# %%
from tinyalex.data import shapes
from tinyalex.data.loader import InMemory
from tinyalex.nn import Conv2d, Linear, MaxPool, Sequential
from tinyalex.optim import SGD
from tinyalex.train import train_step

pictures = shapes.make(400, rng)


def network(activation, rng):
    layers = [
        Conv2d(12, 5, stride=2, pad=2, activation=activation, std=0.003),
        MaxPool(3, 2),
        Conv2d(24, 3, pad=1, activation=activation, std=0.05),
        MaxPool(3, 2),
        Linear(10, std=0.05),
    ]
    return Sequential(layers, (3, 32, 32), rng=rng)


def train(activation, rate, epochs):
    """Training error of each epoch."""
    rng = np.random.default_rng(0)
    model = network(activation, rng)
    optimizer, batches = SGD(model, rate), InMemory(pictures, batch=20)
    errors = []
    for _ in range(epochs):
        steps = [
            train_step(model, optimizer, images, labels)
            for images, labels in batches.epoch(rng)
        ]
        errors.append(np.mean([step.error for step in steps]))
    return np.array(errors)


runs = {"ReLU": train("relu", 0.0004, 13), "tanh": train("tanh", 0.015, 13)}

first_below = {
    name: next((i for i, e in enumerate(errors, 1) if e < 0.25), len(errors) + 1)
    for name, errors in runs.items()
}
assert 37 < 0.015 / 0.0004 < 40
for name, errors in runs.items():
    print(f"{name}: training error {errors[-1]:.1%} after 13 epochs")
print("first epoch below 25%:", first_below)
assert first_below["ReLU"] < first_below["tanh"]
assert runs["ReLU"][-1] < runs["tanh"][-1]

# %% drawing
axes = draw.panels(1, height=2.8)
for (name, errors), style in zip(runs.items(), ("-", "--"), strict=True):
    axes.plot(np.arange(1, 14), errors, style, color=draw.INK[0], label=name)
axes.axhline(0.25, color="0.75", linewidth=1)
axes.set(ylim=(0, 1))
axes.legend(frameon=False)
draw.plain(axes, "epoch", title="training error")

# %% [markdown]
# At first tanh is even a little ahead; then ReLU leaves it behind.  (With four other sets of pictures it
# took 8 or 9 epochs to 25% with ReLU, 13 or 14 with tanh.)  It is no factor of six: this network is
# shallow, the pictures are few, and tanh with well-chosen starting weights and rate is not bad.  The
# paper's six is for four layers and CIFAR-10. `tinyalex relu-vs-tanh --full` repeats that experiment as it
# should be, and the project's README says how far we came.
#
# ## Break it on purpose
#
# ReLU has an illness of its own.  A neuron whose $z$ is negative for *every* picture is 0 for all of them,
# its gates are all closed, and its gradient is 0: it is **dead**, and no step will wake it.  **Guess before
# you run the cell:** the network with ReLUs, three epochs with ten times the rate of above.  How many of
# conv2's 24 filters are dead?


# %%
def dead_filters(rate, epochs=3):
    """Filters of conv2 that are 0 at every place of every picture, after training."""
    rng = np.random.default_rng(0)
    model = network("relu", rng)
    optimizer, batches = SGD(model, rate), InMemory(pictures, batch=20)
    for _ in range(epochs):
        for images, labels in batches.epoch(rng):
            train_step(model, optimizer, images, labels)
    images, labels = next(InMemory(pictures, batch=400).epoch(rng))
    x = images
    for name in ("conv1", "pool1", "conv2"):
        x = model.layers[name].forward(x)
    return int((x.max(axis=(1, 2, 3)) == 0).sum())


gentle, harsh = dead_filters(0.0004), dead_filters(0.004)
print(f"dead filters of 24: {gentle} with the rate of above, {harsh} with ten times that")
assert harsh > gentle

# %% [markdown]
# One large step early on threw their weights to where no picture reaches them.  tanh at least still crawls.
# The paper takes care of the beginning: biases of 1 in some layers, "providing the ReLUs with positive
# inputs" (section 5, and lesson 10).
#
# A mistake, last.  What if the gate is `y >= 0` instead of `y > 0`?  **Guess** how many gates are closed
# then.

# %%
y, _ = activation.relu_forward(rng.standard_normal((4, 5)))
print("gates closed with y > 0:", (~(y > 0)).sum(), "   with y >= 0:", (~(y >= 0)).sum())
assert (y >= 0).all()

# %% [markdown]
# None: the output of a ReLU is never negative.  Backward would be that of a neuron that is not there.
#
# ## Think about it
#
# 1. A maximum over a window and then ReLU, or ReLU and then the maximum: is there a difference?  And in
#    time?
# 2. Could one heal dead ReLUs with a small slope, say 0.01, on the negative side?  What is lost?
# 3. tanh is odd, so its outputs are above and below 0.  ReLU's are never below.  What does that do to the
#    gradients of the next layer's weights?  (Lesson 1 had the same with pixels.)
#
# <details><summary>What we would answer</summary>
#
# 1. None: ReLU never falls, so the largest stays the largest.  After conv1 and conv5 the 2012 code pools
#    first, and then has four times fewer numbers to put through the neuron.
# 2. Yes; it is called a leaky ReLU.  What is lost is the exact 0, which makes outputs sparse and is why
#    "off" means off. In practice the two are close.
# 3. For one picture all gradients of one neuron's weights have the same sign.  The weights have to zigzag.
#    It is the price, and Figure 1 says that it is worth paying.
#
# </details>
#
# ## What comes next
#
# After the neuron comes a layer that throws three of four numbers away, and the paper does it with overlap:
# [lesson 7: overlapping pooling](07_overlapping_pooling.ipynb).
