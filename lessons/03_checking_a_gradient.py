# %% [markdown]
# # 3 · Checking a gradient
#
# In [lesson 2](02_linear_classifier.ipynb) you derived a gradient and found the same numbers in the
# library.  Soon there will be gradients that are harder to derive, and easier to get wrong.
#
# **A gradient claims to know how the loss changes when a number moves.  So move the number, and look.**  It
# takes ten lines, works for everything, and is the only friend you have when a network learns, but not as
# well as it should: a wrong gradient seldom stops a network.  It only makes it worse, and never says why.
#
# The paper's authors stood before the same task (section 1):
#
# > "We wrote a highly-optimized GPU implementation of 2D convolution and all the other operations inherent
# > in training convolutional neural networks, which we make available publicly."
#
# Each of these operations has a backward pass, written by hand.  Their program could check itself: a
# command compared the gradient of every weight with a difference quotient.  This lesson builds such a
# checker, a sharper one, and then fools it.
#
# **You bring:** what a derivative is; the gradients of lesson 2.
#
# **You take away:** central differences and the right step for them, checking a million numbers with two
# forward passes, and why the upstream gradient must be random.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(3)
rng = np.random.default_rng(3)

# %% [markdown]
# ## Two ways to measure a slope
#
# Take $f(x) = x^3$ at $x = 2$.  Its slope there is $3x^2 = 12$.  Go a little to the right, by $h = 0.1$,
# and divide: $(2.1^3 - 2^3)/0.1 = 12.61$.  Go to both sides: $(2.1^3 - 1.9^3)/0.2 = 12.01$.  Sixty times as
# near, for one evaluation more.


# %%
def cube(x):
    return x**3


h = 0.1
one_sided = (cube(2 + h) - cube(2)) / h
central = (cube(2 + h) - cube(2 - h)) / (2 * h)
assert np.isclose(one_sided, 12.61)
assert np.isclose(central, 12.01)
assert round((one_sided - 12) / (central - 12)) == 61

# %% [markdown]
# Taylor's series says why.  In
# $f(x \pm h) = f \pm h f' + \frac{h^2}{2} f^{(2)} \pm \frac{h^3}{6} f^{(3)} + \dots$ where $f^{(k)}$ is the
# $k$-th derivative, the even terms have the same sign on both sides, so they cancel in the difference:
#
# $$\begin{aligned}
# \frac{f(x+h) - f(x)}{h} &= f' + \frac{h}{2} f^{(2)} + \dots \\
# \frac{f(x+h) - f(x-h)}{2h} &= f' + \frac{h^2}{6} f^{(3)} + \dots
# \end{aligned}$$
#
# The first error shrinks with $h$, the second with $h^2$.  Halve $h$ and watch: the secants turn into the
# tangent, the central one four times as near with each step, the one-sided one only about twice.

# %%
widths = [1 / 2**k for k in range(6)]


# %% drawing
def halve(k):
    """Step k: both secants for h = 1/2^k."""
    h = widths[k]
    xs = np.linspace(0.7, 3.2, 80)
    curve = paint.plot(f"h = {h:g}", (0.7, 3.2), (-3, 31), "x").line(xs, cube(xs))
    errors = []
    for ink, start, name in ((1, 2, "one-sided"), (0, 2 - h, "central")):
        slope = (cube(2 + h) - cube(start)) / (2 + h - start)
        errors.append(slope - 12)
        curve.line(xs, cube(start) + slope * (xs - start), ink, name)
        curve.dots([start, 2 + h], [cube(start), cube(2 + h)], ink)
    gaps = paint.plot("slope − 12", (0, 2), (0, 8), size=(200, 170))
    return paint.row(curve, gaps.bars(errors, (1, 0), ["one-sided", "central"], "{:.3g}"))


step_through(halve, 6)

# %% [markdown]
# **Your turn.**  The slope of a function in *each* element of an array.  Move one element at a time, to
# both sides.


# %%
def numeric_gradient(f, x, h):
    """Slope of f, array → number, in each element of x, by central differences."""
    slope = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        slope[index] = ...
    return slope


# %%
numeric_gradient = check(numeric_gradient)
# hint("numeric_gradient")
# solution("numeric_gradient")

# %% [markdown]
# Lesson 2's formula, $dz = (p - \mathrm{onehot})/N$, against it:

# %%
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward

z, labels = rng.standard_normal((4, 3)), np.array([2, 0, 3])


def loss(z):
    return softmax_loss_forward(z, labels)[0]


claimed = softmax_loss_backward(softmax_loss_forward(z, labels)[1])
measured = numeric_gradient(loss, z, 1e-5)
assert np.abs(claimed - measured).max() < 1e-9

# %% drawing
axes = draw.panels(3, 3, 3, height=2.4)
draw.array(axes[0], claimed, "claimed")
draw.array(axes[1], measured, "measured", fmt="{:.2g}")
draw.array(axes[2], np.abs(claimed - measured), "difference", fmt="{:.0e}", limit=1e-9)

# %% [markdown]
# ## How small a step?
#
# If small is good, is tiny better?  A float64 carries about 16 digits: $f(x+h)$ is known up to
# $\epsilon = 2.2\cdot10^{-16}$ of its size.  The difference of two such numbers is divided by $2h$, and so
# is their error.  The total is about
#
# $$\text{error}(h) \;\approx\; \frac{h^2}{6}\,|f^{(3)}| \;+\; \frac{\epsilon\,|f|}{h}$$
#
# The first term falls with $h$, the second rises.  They meet where $h^3 \approx \epsilon$: at
# $h = \epsilon^{1/3} = 6\cdot10^{-6}$ for numbers of size 1.

# %%
steps = 10.0 ** np.arange(-13, 0.5, 0.25)
truth = np.cos(1)


def errors(dtype):
    x = dtype(1)
    h = (x + steps.astype(dtype)) - x  # the step that is really made
    with np.errstate(all="ignore"):
        both = (np.sin(x + h) - np.sin(x - h)) / (2 * h)
        one = (np.sin(x + h) - np.sin(x)) / h
    return np.abs(one - truth), np.abs(both - truth)


one, both = errors(np.float64)
single = errors(np.float32)[1]

third = np.finfo(np.float64).eps ** (1 / 3)
assert np.isclose(third, 6e-6, rtol=0.02)
best = steps[both.argmin()]
print(f"best central step here: {best:.0e}, error {both.min():.0e}")
assert third / 30 < best < third * 30
at = np.abs(steps - third).argmin()
for name, value in (("central", both), ("one-sided", one), ("float32", single)):
    print(f"at a step of {steps[at]:.0e}, {name:9} {value[at]:.0e}")
assert both[at] < 1e-9 < 1e-7 < one[at]
assert np.nanmedian(single) > 1e-5

# %% drawing
axes = draw.panels(1, height=3)
axes.loglog(steps, one, color=draw.INK[1], label="one-sided, float64")
axes.loglog(steps, both, color=draw.INK[0], label="central, float64")
axes.loglog(steps, single, color="0.6", label="central, float32")
axes.legend(frameon=False, fontsize=9)
draw.plain(axes, "step h", title="error of the measured slope of sin at 1")

# %% [markdown]
# Left of the valley rounding rules, right of it Taylor.  And the grey line says why gradients are checked
# in float64 even if the network runs in float32: in float32 no step is good.
#
# ## A million numbers, two passes
#
# Element by element, AlexNet's 60,965,224 parameters would take twice as many forward passes.  There is a
# shortcut. Move *all* elements at once, in a random direction $u$.  The slope along $u$ is
# $\langle g, u\rangle$, the sum of all $g_i u_i$.  If $g$ is wrong by $e$ anywhere, then it is off by
# $\langle e, u \rangle$, and for random $u$ that is 0 only by a miracle.
#
# One thing is missing.  An operation in the middle of a network has an array $y$ as its result, not a loss.
# The layers above turn it into a loss, and all that comes back from them is $dy = \partial L/\partial y$.
# So take any array for $dy$, and let the loss be the simplest one that has this gradient:
#
# $$L(x) = \langle dy,\, y(x) \rangle = \sum_i dy_i\, y_i(x)$$
#
# Now everything fits: for $y = f(x)$, backward claims $g = \text{backward}(dy)$, and
#
# $$\langle g, u\rangle \;=\; \frac{L(x + hu) - L(x - hu)}{2h} .$$
#
# **Your turn.**  Both sides of this equation.


# %%
def slopes(forward, backward, x, dy, u, h):
    """Slope of L = <dy, forward(x)> along u, measured, and as backward(dy, x) claims."""
    measured = ...  # two forward passes
    claimed = ...  # one backward pass
    return measured, claimed


# %%
slopes = check(slopes)
# hint("slopes")
# solution("slopes")

# %% [markdown]
# As a test, a layer that is small and not trivial: $y = \tanh(Wx)$, with
# $dx = W^{\mathsf T}\,(dy\,(1 - y^2))$.  The error is measured against the length of $g$, since
# $\langle g,u\rangle$ itself may happen to be near 0.

# %%
w, x = rng.standard_normal((5, 4)), rng.standard_normal((4, 3))


def forward(x):
    return np.tanh(w @ x)


def backward(dy, x):
    return w.T @ (dy * (1 - forward(x) ** 2))


def relative_error(backward, dy):
    u = rng.standard_normal(x.shape)
    measured, claimed = slopes(forward, backward, x, dy, u, third)
    return abs(measured - claimed) / np.linalg.norm(backward(dy, x))


random_dy = rng.standard_normal((5, 3))
error = relative_error(backward, random_dy)
print(f"relative error: {error:.0e}")
assert error < 1e-8

# %% [markdown]
# ## Break it on purpose
#
# Now fool it.  Some checkers take the sum of the outputs as the loss: that is $dy = 1$ everywhere.  Here are
# four wrong backwards.  **Guess before you run the cell:** which of them pass with a $dy$ of ones?


# %%
def ignores(dy, x):
    return w.T @ (1 - forward(x) ** 2)


def rolls(dy, x):
    return backward(np.roll(dy, 1, axis=1), x)


def flips(dy, x):
    return backward(dy[::-1], x)


def forgets(dy, x):
    return w.T @ dy  # no derivative of tanh


wrong = (ignores, rolls, flips, forgets)
table = np.zeros((2, 4))
for column, candidate in enumerate(wrong):
    for row, dy in enumerate((np.ones((5, 3)), random_dy)):
        table[row, column] = relative_error(candidate, dy) < 1e-6
        verdict = "passes" if table[row, column] else "rejected"
        print(f"{candidate.__name__:8} dy {('ones', 'random')[row]:7} {verdict}")
assert table.tolist() == [[1, 1, 1, 0], [0, 0, 0, 0]]

# %% [markdown]
# Three of four pass.  An array of ones does not change when it is rolled, or flipped, or left out; so
# whoever tests with ones never learns whether $dy$ arrives where it should.  **The upstream gradient must
# be random.**  It costs nothing.
#
# A checker can also be wrong the other way, and reject what is right.  ReLU, $\max(0, x)$, has a kink at 0
# (lesson 6). At $x = 10^{-6}$ its slope is 1.  But with $h = 10^{-5}$ the left point is on the other side,
# where nothing happens: $(1.1\cdot10^{-5} - 0)\,/\,2\cdot10^{-5} = 0.55$.


# %%
def relu(x):
    return np.maximum(x, 0)


near = np.array([1e-6])
false_alarm = (relu(near + 1e-5) - relu(near - 1e-5)) / 2e-5
assert np.isclose(false_alarm, 0.55)

# %% drawing
axes = draw.panels(1, height=2.2)
xs = np.linspace(-2e-5, 2e-5, 5)
axes.plot(xs, relu(xs), color="0.6")
ends = near[0] + np.array([-1e-5, 1e-5])
axes.plot(ends, relu(ends), "o-", color=draw.INK[0])
axes.plot(near, relu(near), "o", color=draw.INK[1])
axes.set(xticks=[-1e-5, 0, 1e-5], yticks=[0, 1e-5, 2e-5])
draw.plain(axes, title="a secant across a kink")

# %% [markdown]
# Nobody is wrong here; the question was.  The cure is to ask elsewhere: move $x$ a little and try again. To
# loosen the tolerance is no cure: it would let wrong gradients through as well.
#
# ## The library's checker
#
# `tinyalex.gradcheck.check` is what you have just written, with these precautions: random $dy$, random
# directions, the step $\epsilon^{1/3}$, kinks noticed and avoided.  And when something is wrong, it goes
# through the elements to say where.  It takes `backward(dy, cache)`, where the cache is what forward kept.

# %%
from tinyalex import gradcheck


def verdict(candidate):
    """Does the library accept this backward?"""
    try:
        gradcheck.check(
            lambda x: (forward(x), x),
            lambda dy, x: {"x": candidate(dy, x)},
            {"x": x},
            rng=rng,
        )
    except gradcheck.GradientError as error:
        print(f"{candidate.__name__:9} {error}\n")
        return False
    print(f"{candidate.__name__:9} accepted\n")
    return True


assert verdict(backward)
for candidate in wrong:
    assert not verdict(candidate)
print("ours, with a random dy, and the library's agree on all five")

# %% [markdown]
# `tinyalex check-grads` runs it over every operation of the library.
#
# ## Kill the mutant
#
# Now the other direction.  A backward of $y = x^2$ is given that forgets $dy$.  **Write the input that
# exposes it**: one that the broken one fails and the right one passes.

# %%
from tinyalex.lessons.kill import forgets_dy, show

show(forgets_dy)


# %%
def expose_forgotten_dy():
    """Return (dy, x), both (3,), on which `forgets_dy` is found out."""
    dy = ...
    x = ...
    return dy, x


# %%
expose_forgotten_dy = check(expose_forgotten_dy)
# hint("expose_forgotten_dy")
# solution("expose_forgotten_dy")

# %% [markdown]
# ## Think about it
#
# 1. A backward is wrong in a single element out of a million, and there by 100%.  All elements are about
#    equally large. What relative error does a random direction show?  With which tolerance do you notice
#    it?
# 2. You check with one random $dy$ and one random $u$, and it passes.  How sure are you?  What does a
#    second draw add?
# 3. An operation has a term in its gradient that is $10^{-4}$ of the whole, and somebody forgot it.  With
#    which tolerance is that seen?  What could one change about the *operation* to make it easy to see?
#
# <details><summary>What we would answer</summary>
#
# 1. About $|e|/|g| = 1/\sqrt{10^6} = 10^{-3}$.  A tolerance of $10^{-6}$, which float64 allows, sees it;
#    one of $10^{-2}$, which people choose to make a float32 check pass, does not.
# 2. Very sure: $\langle e, u\rangle$ is a normal number of size $|e|$, and that it is a million times
#    smaller than its size has a chance of about one in a million.  The second draw guards against the
#    special: a kink that was not met, an $x$ for which the wrong and the right formula agree.
# 3. Below $10^{-4}$, so float64 and the right step are needed.  Or choose constants for the test which make
#    the term large.  Local response normalization is such an operation: with the paper's $\alpha = 10^{-4}$
#    one of the two terms of its gradient is about $2\cdot10^{-4}$ of the whole, too small for a check in
#    float32, and several libraries shipped it wrong (lesson 8).
#
# </details>

# %%
assert 1 / np.sqrt(10**6) == 1e-3

# %% [markdown]
# ## What comes next
#
# You can trust your gradients now.  Time for an operation that deserves it: [lesson 4:
# convolution](04_convolution.ipynb).
