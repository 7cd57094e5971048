# %% [markdown]
# # 10 · Momentum, weight decay, and how to begin
#
# [Lesson 9](09_dropout.ipynb) finished the gradients. This lesson spends them: what exactly is added to a
# weight in a step, what the two constants 0.9 and 0.0005 do, and with which numbers a network of eight
# layers begins.
#
# **The gradient does not move the weight, it pushes a velocity, and the velocity moves the weight. Decay is
# one more push, towards zero. And the first weights decide whether there is anything to push at all.**
#
# Section 5 of the paper gives the rule in full ($\epsilon$ is the learning rate):
#
# $$\begin{aligned}
# v_{i+1} &:= 0.9\cdot v_i \;-\; 0.0005\cdot\epsilon\cdot w_i \;-\;
# \epsilon\cdot\left\langle\frac{\partial L}{\partial w}\Big|_{w_i}\right\rangle_{D_i} \\
# w_{i+1} &:= w_i + v_{i+1}
# \end{aligned}$$
#
# and says of the middle term:
#
# > "We found that this small amount of weight decay was important for the model to learn. In other words,
# > weight decay here is not merely a regularizer: it reduces the model's training error."
#
# **You bring:** what a gradient is (lessons 2 and 5), ReLU (lesson 6).
#
# **You take away:** the rule, written and equal to the library's; what momentum does to the rate and to a
# narrow valley; a first guess for the size of weights; why some biases begin at one; and when to lower the
# rate.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(10)
rng = np.random.default_rng(10)

# %% [markdown]
# ## Three steps by hand
#
# One weight, $w = 1$, velocity 0, and a gradient that is always 2. Rate $\epsilon = 0.1$, no decay. Each
# push is $-0.1\cdot 2 = -0.2$, and nine tenths of the old velocity stay:
#
# $$v_1 = -0.2 \qquad v_2 = 0.9\cdot(-0.2) - 0.2 = -0.38 \qquad v_3 = 0.9\cdot(-0.38) - 0.2 = -0.542$$
#
# The weight goes to 0.8, 0.42, −0.122. If the gradient stays the same for ever, the velocity approaches a
# limit, where what is lost equals what is added: $v = 0.9\,v - 0.2$, so $v = -2$. **Momentum 0.9 makes a
# steady push ten times as strong,** $1/(1-0.9)$, but only after some ten steps.

# %%
w, v = 1.0, 0.0
weights = []
for _ in range(60):
    v = 0.9 * v - 0.1 * 2
    w = w + v
    weights.append(w)
np.testing.assert_allclose(weights[:3], [0.8, 0.42, -0.122])
assert np.isclose(v, -2, rtol=0.01)

# %% [markdown]
# ## The rule
#
# **Your turn.** One parameter, one step. Mind where $\epsilon$ stands: inside the velocity, with the
# gradient *and* with the decay.


# %%
def sgd_step(w, v, grad, rate, momentum, decay):
    """The paper's rule for one array.  → (w, v), both new.  float32 stays float32."""
    v = ...
    w = ...
    return w, v


# %%
sgd_step = check(sgd_step)
# hint("sgd_step")
# solution("sgd_step")

# %% [markdown]
# The library's `SGD` does this for every parameter of a model, in place and in cache-sized blocks. Five
# steps of a linear layer:

# %%
from tinyalex.nn import Linear, Sequential
from tinyalex.optim import SGD

model = Sequential(
    [Linear(3, std=1.0)], (4,), rng=np.random.default_rng(1), dtype=np.float64
)
layer = model.layers["fc1"]
optimizer = SGD(model, rate=0.1, momentum=0.9, decay=0.01)

w = layer.params["w"].copy()
v = np.zeros_like(w)
for _ in range(5):
    layer.grads = {"w": rng.standard_normal((3, 4)), "b": np.zeros(3)}
    optimizer.step()
    w, v = sgd_step(w, v, layer.grads["w"], 0.1, 0.9, 0.01)
np.testing.assert_allclose(layer.params["w"], w)
print("five steps: ours and the library's agree")

# %% [markdown]
# ## What momentum is for
#
# Losses are narrow valleys: steep across, flat along. Take $L(a, b) = \frac12(20\,a^2 + b^2)$, with
# gradient $(20a, b)$. Across, in direction $a$, a plain step multiplies $a$ by $1 - 20\epsilon$: beyond
# $\epsilon = 0.1$ it grows without end. So the steep direction limits the rate, and the flat one pays: at
# $\epsilon = 0.04$ each step only removes 4 percent of $b$.
#
# With momentum the pushes across change sign and cancel, the pushes along agree and add up. Step through
# both, from the same start, with the same rate.

# %%
steep = np.array([20.0, 1])  # of (a, b)
start = np.array([1.0, 10])


def descend(momentum, rate, steps=40):
    w, v = start, np.zeros(2)
    path = [w]
    for _ in range(steps):
        w, v = sgd_step(w, v, steep * w, rate, momentum, 0.0)
        path.append(w)
    return np.array(path)


plain, heavy = descend(0.0, 0.04), descend(0.8, 0.04)
shown = [1, 2, 3, 5, 8, 12, 20, 40]
loss = [(steep * path**2).sum(axis=1) / 2 for path in (plain, heavy)]
print(f"loss after 40 steps: plain {loss[0][-1]:.4f}, with momentum {loss[1][-1]:.4f}")
assert loss[1][-1] < loss[0][-1] / 20
assert np.isclose(1 - 0.04 * 1, 0.96)


# %% drawing
def downhill(k):
    """Step k: both paths so far."""
    plot = paint.plot(
        f"after {shown[k]} steps", (-6, 11), (-1.7, 1.7), "b (flat)", "a", (440, 220)
    )
    turn = np.linspace(0, 2 * np.pi, 60)
    for level in (1, 5, 15, 30, 50):  # where the loss is the same: an ellipse
        a, b = np.sqrt(2 * level / steep)
        plot.line(b * np.cos(turn), a * np.sin(turn), width=0.5)
    for ink, path, name in ((1, plain, "plain"), (0, heavy, "momentum 0.8")):
        now = path[: shown[k] + 1]
        plot.line(now[:, 1], now[:, 0], ink, name).dots(now[:, 1], now[:, 0], ink, 2)
        plot.dots(now[-1:, 1], now[-1:, 0], ink, 5)
    return paint.row(plot)


step_through(downhill, len(shown))

# %% [markdown]
# The price is that it overshoots: a ball, not a snail.
#
# ## Weight decay
#
# Leave out the gradient, and only the middle term is left. At $v = 0$ a weight shrinks by
# $0.0005\,\epsilon$ of itself; with momentum ten times that, in the long run. At $\epsilon = 0.01$ that is
# a factor $1 - 5\cdot 10^{-5}$ a step. An epoch of 1.2 million pictures in batches of 128 has about 9400
# steps, so in one epoch a weight that nothing pushes loses more than a third of its size.

# %%
steps = 1_200_000 // 128
assert 9300 < steps < 9400
w, v = 1.0, 0.0
for _ in range(steps):
    w, v = sgd_step(w, v, 0.0, 0.01, 0.9, 0.0005)
print(f"left of a weight after one epoch without a push: {w:.3f}")
assert np.isclose(w, (1 - 5e-5) ** steps, rtol=1e-3)
assert 0.62 < w < 0.63
assert round(1 / 5e-5 / steps, 1) == 2.1

# %% [markdown]
# In the other direction: a weight that is pushed by $g$ in every step stops growing where decay balances
# it, at $w = -g/0.0005 = -2000\,g$. Decay is a memory of about two epochs ($1/(5\cdot10^{-5}) = 20{,}000$
# steps; after each division of the rate by 10, ten times as long): weights that the data do not keep asking
# for fade.
#
# Decay stands with $\epsilon$ inside the velocity, so it is the gradient of $\frac{0.0005}{2}w^2$ added to
# the loss. The text has one rule for all; the 2012 code decayed weights only, let biases learn twice as fast,
# and kept their rate when the weights' was divided. `SGD(bias_rate=, decay_biases=)` can do all of that.
#
# ## How to begin: the size of weights
#
# All weights equal would make all kernels equal for ever: each would get the same gradient. So they are
# random, $N(0, \sigma^2)$. How large? A unit adds up $D$ products of inputs $x$ with weights. If the inputs
# have a mean square $\overline{x^2}$, the sum has
#
# $$\mathrm{var}(z) = D\,\sigma^2\,\overline{x^2}, \qquad
# \text{and half of it survives a ReLU:}\quad \overline{y^2} = \tfrac12 D\,\sigma^2\,\overline{x^2} .$$
#
# If that factor $\frac12 D\sigma^2$ is 1 the signal keeps its size through the layers; that is
# $\sigma = \sqrt{2/D}$, published three years later by He and others. The paper has $\sigma = 0.01$
# everywhere. So for conv3, $D = 256\cdot 9 = 2304$, the factor is $\frac12\cdot 2304\cdot 10^{-4} = 0.115$
# in squares, 0.34 in size. For conv1, $D = 363$, it is 0.135 in size. fc6, with $D = 9216$, has 0.68.
#
# **Your turn:** the factor, in size, for a layer with `D` inputs, and the $\sigma$ that makes it 1.


# %%
def relu_gain(D, std):
    """How a ReLU layer of D inputs, w ~ N(0, std²), b = 0, scales the rms.  → (gain, std for 1)."""
    gain = ...
    std_for_one = ...
    return gain, std_for_one


# %%
relu_gain = check(relu_gain)
# hint("relu_gain")
# solution("relu_gain")

# %%
inputs = {
    "conv1": 3 * 11 * 11,
    "conv2": 48 * 5 * 5,
    "conv3": 256 * 9,
    "conv4": 192 * 9,
    "conv5": 192 * 9,
    "fc6": 256 * 6 * 6,
    "fc7": 4096,
}
for name, D in inputs.items():
    gain, std = relu_gain(D, 0.01)
    print(f"{name}: D {D:5}   gain at 0.01: {gain:.3f}   std for gain 1: {std:.3f}")
assert round(relu_gain(363, 0.01)[0], 3) == 0.135
assert round(relu_gain(2304, 0.01)[0], 2) == 0.34
assert round(relu_gain(9216, 0.01)[0], 2) == 0.68

x = np.abs(rng.standard_normal((2304, 200)))
measured = np.maximum(0.01 * rng.standard_normal((400, 2304)) @ x, 0)
rms = np.sqrt((measured**2).mean() / (x**2).mean())
assert np.isclose(rms, relu_gain(2304, 0.01)[0], rtol=0.05)

# %% [markdown]
# All are below 1. Seven layers of this, and a signal of raw pixels (rms about 70) arrives as a whisper:

# %%
gains = [relu_gain(D, 0.01)[0] for D in inputs.values()]
arrives = 70 * np.prod(gains)
print(f"rms after seven layers, biases 0: {arrives:.3f}")
assert arrives < 0.1

# %% [markdown]
# ## Biases of one
#
# The paper has another answer than larger weights:
#
# > "We initialized the neuron biases in the second, fourth, and fifth convolutional layers, as well as in
# > the fully-connected hidden layers, with the constant 1. This initialization accelerates the early stages
# > of learning by providing the ReLUs with positive inputs."
#
# Let a stack of layers run with biases 0, with biases 1, and with He's weights, and look at two things at
# each layer: the share of units that are on (their gradient passes), and how much of a unit's output
# *depends on the picture*.

# %%
widths = [363, 1200, 2304, 1728, 1728, 4096]  # as many inputs as conv1 … conv5, fc7 have
N, units = 64, 150


def run(std, bias):
    """→ (share of units that are on, rms of what differs between pictures), layer by layer."""
    draws = np.random.default_rng(3)
    y = 70 * draws.standard_normal((widths[0], N))
    on, varies = [], []
    for i, D in enumerate(widths):
        x = y[draws.integers(0, len(y), D)]  # D inputs, taken from the units below
        w = draws.standard_normal((units, D)) * (std or np.sqrt(2 / D))
        y = np.maximum(w @ x + (bias if i in (1, 3, 4, 5) else 0), 0)
        on.append((y > 0).mean())
        varies.append(np.sqrt(y.var(axis=1).mean()))
    return on, varies


results = {
    "0.01, biases 0": run(0.01, 0),
    "0.01, biases 1": run(0.01, 1),
    "He, biases 0": run(None, 0),
}
assert results["0.01, biases 1"][0][-1] > 0.9 > 0.7 > results["0.01, biases 0"][0][-1]
assert results["0.01, biases 1"][1][-1] < 0.1 < 10 < results["He, biases 0"][1][-1]

# %% drawing
left, right = draw.panels(1, 1, height=2.9)
names = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc"]
for colour, (label, (on, varies)) in zip(draw.INK, results.items(), strict=False):
    left.plot(names, on, "o-", color=colour, label=label)
    right.semilogy(names, varies, "o-", color=colour)
left.set_ylim(0, 1.05)
left.legend(frameon=False, fontsize=8)
draw.plain(left, title="share of units that are on")
draw.plain(right, title="rms that differs between pictures")

# %% [markdown]
# (On the left, the first line lies under the third: whether a unit is on does not depend on the size.) With
# biases of one nearly all units of the upper layers are on, whatever the picture. Nothing is cut off: the
# upper half of the network begins as a *linear* one, and every weight gets a gradient from every picture.
# That is what "by providing the ReLUs with positive inputs" means. But look at the right side: what differs
# between pictures is still tiny, the outputs are nearly the same for all. It fits what many have met who
# train AlexNet anew: a loss that stands at $\log 1000 = 6.9$ for a long while. Caffe's authors noted
# "initialization to 1 gave flat loss", and took 0.1. He's weights carry the picture to the top at its full
# size. AlexNet did not have them; with patience, it learned without.

# %%
assert round(np.log(1000), 1) == 6.9

# %% [markdown]
# ## The rate, and when to lower it
#
# The paper began with $\epsilon = 0.01$ for all layers, and divided by 10 when the validation error stopped
# improving, three times, in about 90 epochs. Why does lowering help at all? A gradient from 128 pictures is
# the true one plus noise. Near the bottom the noise is all there is, and the weight is thrown about in a
# range that is proportional to $\sqrt{\epsilon}$. Lower the rate, and it settles deeper, at once. Lower it
# too early, and the way is not yet gone.


# %%
def noisy(schedule, steps=400):
    """Loss ½ w² of 200 weights with noisy gradients, from w = 100."""
    draws = np.random.default_rng(4)
    w, v = np.full(200, 100.0), np.zeros(200)
    losses = []
    for i in range(steps):
        grad = w + 5 * draws.standard_normal(200)
        w, v = sgd_step(w, v, grad, schedule(i), 0.9, 0.0)
        losses.append((w**2).mean() / 2)
    return losses


curves = {
    "0.01": noisy(lambda i: 0.01),
    "0.01, ÷10 at 150": noisy(lambda i: 0.01 if i < 150 else 0.001),
    "0.001": noisy(lambda i: 0.001),
}
settled = {label: np.mean(values[-50:]) for label, values in curves.items()}
assert settled["0.01, ÷10 at 150"] < settled["0.01"] / 4
assert settled["0.01"] < settled["0.001"]  # too early: it has not arrived yet

# %% drawing
axes = draw.panels(1, height=2.8)
for colour, (label, values) in zip(draw.INK, curves.items(), strict=False):
    axes.semilogy(values, color=colour, lw=1, label=label)
axes.legend(frameon=False, fontsize=8)
draw.plain(axes, "step", "loss", "a noisy gradient, three schedules")

# %% [markdown]
# Every learning curve with stairs in it is this picture.
#
# ## Break it on purpose
#
# Many libraries, PyTorch among them, keep the rate *outside* the velocity: $v \leftarrow 0.9\,v + g$,
# $w \leftarrow w - \epsilon v$. With a constant rate the two are the same, step by step. **Guess before you
# run:** divide the rate by 10 in the middle. In which of the two does the weight react at once?


# %%
def outside(w, v, grad, rate):
    v = 0.9 * v + grad
    return w - rate * v, v


moves = {"inside": [], "outside": []}
w_in = w_out = 0.0
v_in = v_out = 0.0
for i in range(60):
    rate = 0.01 if i < 30 else 0.001
    before = w_in, w_out
    w_in, v_in = sgd_step(w_in, v_in, 1.0, rate, 0.9, 0.0)
    w_out, v_out = outside(w_out, v_out, 1.0, rate)
    moves["inside"].append(before[0] - w_in)
    moves["outside"].append(before[1] - w_out)

np.testing.assert_allclose(moves["inside"][:30], moves["outside"][:30])
assert moves["outside"][30] < 0.2 * moves["outside"][29]
assert moves["inside"][30] > 0.9 * moves["inside"][29]

# %% drawing
axes = draw.panels(1, height=2.4)
axes.plot(moves["inside"], color=draw.INK[0], label="ε inside (the paper)")
axes.plot(moves["outside"], "--", color=draw.INK[1], label="ε outside")
axes.legend(frameon=False)
draw.plain(axes, "step", "how far w moves", "the rate falls at step 30")

# %% [markdown]
# Outside, at once. Inside, the old velocity was made with the old rate and fades over some ten steps.
# Nobody's result hangs on ten steps; but whoever compares two implementations number by number finds them
# equal until the first drop, and different after it.
#
# ## Kill the mutant
#
# An update that forgets the weight decay.  **Write the input that exposes it** to a check with a tolerance of
# a thousandth.

# %%
from tinyalex.lessons.kill import forgets_decay, show

show(forgets_decay)


# %%
def expose_forgotten_decay():
    """Return (w, v, grad, rate, momentum, decay), arrays (2,), on which `forgets_decay` is found out."""
    w = ...
    v = ...
    grad = ...
    rate, momentum, decay = ...
    return w, v, grad, rate, momentum, decay


# %%
expose_forgotten_decay = check(expose_forgotten_decay)
# hint("expose_forgotten_decay")
# solution("expose_forgotten_decay")

# %% [markdown]
# ## Think about it
#
# 1. The loss is a mean over the batch. Somebody sums instead and keeps $\epsilon = 0.01$. What rate is that
#    in our units, and what has become of the decay?
# 2. Momentum 0.99 instead of 0.9: what should happen to the rate, and after how many steps does a change of
#    the data show?
# 3. Decay pulls all weights towards 0. Why does the paper not decay into a network that computes nothing?
#
# <details><summary>What we would answer</summary>
#
# 1. 1.28: 128 times as large for the gradient, but not for the decay, which does not pass through the loss:
#    relative to the gradient it is 128 times too weak.
# 2. A steady push becomes 100 times as strong instead of 10, so the rate should fall by 10; and it takes
#    about $1/(1-0.99) = 100$ steps to turn round.
# 3. A weight that matters has a gradient that grows when the weight shrinks: the loss pushes back. They
#    balance at a size where both are equal. Only what the data do not ask for goes to 0.
#
# </details>
#
# ## What comes next
#
# The update is as good as the gradients, and those as good as the pictures. There are never enough
# pictures: [lesson 11: augmentation](11_augmentation.ipynb).
