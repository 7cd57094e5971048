# %% [markdown]
# # 2 · A linear classifier: softmax, loss, and their gradient by hand
#
# [Lesson 1](01_pictures_as_arrays.ipynb) put pictures into an array.  Now a machine shall say what is on
# them.
#
# The smallest one that can learn: **give each class a score, a weighted sum of the pixels; turn the scores
# into probabilities; and change the weights a little, so that the right class becomes more probable.  Do it
# again.** AlexNet's last layer is exactly this, and it is trained in exactly this way.  The other seven
# only prepare what it looks at.
#
# The paper (section 3.5):
#
# > "The output of the last fully-connected layer is fed to a 1000-way softmax which produces a distribution
# > over the 1000 class labels.  Our network maximizes the multinomial logistic regression objective, which
# > is equivalent to maximizing the average across training cases of the log-probability of the correct
# > label under the prediction distribution."
#
# **You bring:** a batch of centred pictures (lesson 1); the derivatives of exp and log.
#
# **You take away:** the softmax that does not overflow, the loss, its gradient $p - \mathrm{onehot}$, the
# three gradients of $Wx + b$, and a trained classifier whose weights you can look at.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(2)
rng = np.random.default_rng(2)

# %% [markdown]
# ## From scores to probabilities
#
# A picture is a column $x$ of $D$ numbers, and $W$ has a row for each of $K$ classes.  The scores, which
# the field calls **logits**, are $z = W x + b$.  They can be any numbers.  Probabilities must be positive
# and add up to 1: make them positive with exp, and divide by the sum.
#
# $$p_c \;=\; \frac{e^{z_c}}{\sum_k e^{z_k}}$$
#
# Three classes with logits 2, 1, 0: the exponentials are 7.389, 2.718 and 1, together 11.107, and the
# probabilities 0.665, 0.245 and 0.090.  One logit more is a factor $e$ in the odds, always.

# %%
z = np.array([2.0, 1, 0])
e = np.exp(z)
p = e / e.sum()
assert list(e.round(3)) == [7.389, 2.718, 1]
assert e.sum().round(3) == 11.107
assert list(p.round(3)) == [0.665, 0.245, 0.09]
assert np.isclose(p[0] / p[1], np.e)

# %% [markdown]
# Only differences count: add the same number $a$ to all logits, and $e^a$ cancels.
#
# $$\frac{e^{z_c + a}}{\sum_k e^{z_k + a}} = \frac{e^a\,e^{z_c}}{e^a \sum_k e^{z_k}} = p_c$$
#
# That is more than a curiosity.  $e^{710}$ is too large for a float64, $e^{89}$ for a float32.  Logits of
# that size are nothing special with inputs of ±128.  The way out: choose $a$ yourself, before exp sees the
# numbers.
#
# **Your turn.**  Pictures are columns, as always here: $z$ is $(K, N)$.  Your function has to survive
# logits of 1000 and of −1000.


# %%
def softmax(z):
    """Probabilities over the classes, axis 0.  z (K,N) → p (K,N)."""
    e = ...  # positive numbers, none of them infinite
    p = ...  # each column adds up to 1
    return p


# %%
softmax = check(softmax)
# hint("softmax")
# solution("softmax")

# %%
assert np.allclose(softmax(z[:, None])[:, 0], p)
assert np.allclose(softmax(np.array([[1000.0], [999]])), softmax(np.array([[1.0], [0]])))

# %% [markdown]
# ## The loss: how surprised are you by the label?
#
# The paper maximizes the average log-probability of the correct label.  We minimize its negative, which is
# called cross-entropy or **loss**:
#
# $$L = -\frac1N \sum_n \log\,p_{\ell_n,\,n}
# \qquad\text{and}\qquad -\log\,p_\ell = \log \sum_k e^{z_k} - z_\ell$$
#
# With logits 2, 1, 0 the log of the sum is 2.408.  If class 0 is right, the loss is 0.408; if class 1,
# 1.408; if class 2, 2.408.  A classifier that knows nothing gives each class $1/K$: its loss is $\log\,K$,
# 2.303 for ten classes and 6.908 for a thousand.  Remember 6.9.  Whoever trains AlexNet and sees the loss
# stand there for hours is looking at a network that knows nothing yet.

# %%
assert np.log(e.sum()).round(3) == 2.408
assert list(-np.log(p).round(3)) == [0.408, 1.408, 2.408]
assert np.log(10).round(3) == 2.303
assert np.log(1000).round(3) == 6.908

# %% [markdown]
# ## The gradient: what you said, minus what was true
#
# Which way should each logit move?  Take one picture with label $\ell$.  The second formula above is easy
# to differentiate.  The log of the sum gives
#
# $$\frac{\partial}{\partial z_c} \log \sum_k e^{z_k} = \frac{e^{z_c}}{\sum_k e^{z_k}} = p_c ,$$
#
# the softmax comes out by itself; and $-z_\ell$ gives $-1$ for $c = \ell$ and 0 for the others.  Together,
# with the $1/N$ of the average:
#
# $$dz[c,n] = \frac{\partial L}{\partial z_{c,n}} = \frac{p_{c,n} - [c = \ell_n]}{N}$$
#
# (A bracket with a statement in it, $[c = \ell_n]$, is 1 where the statement is true, else 0.)
#
# For logits 2, 1, 0 and label 1 it is 0.665, $0.245 - 1 = -0.755$ and 0.090.  It adds up to 0: what the
# right class gains, the others lose, each in proportion to how wrongly it was believed in.
#
# **Your turn.**  Two things are given: `onehot`, $(K, N)$ with a 1 at each label; and `log_p`, the
# logarithm of $p$ by the second formula, which stays finite where $p$ itself is rounded to 0.


# %%
def loss_and_gradient(z, labels):
    """Mean loss, and dz = dL/dz shaped like z.  z (K,N), labels (N,) integers."""
    N = len(labels)
    p = softmax(z)
    shifted = z - z.max(axis=0)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=0))
    onehot = np.eye(len(z))[:, labels]
    loss = ...  # one number
    dz = ...  # (K, N)
    return loss, dz


# %%
loss_and_gradient = check(loss_and_gradient)
# hint("loss_and_gradient")
# solution("loss_and_gradient")

# %%
loss, dz = loss_and_gradient(z[:, None], np.array([1]))
assert round(float(loss), 3) == 1.408
assert list(dz[:, 0].round(3)) == [0.665, -0.755, 0.09]
assert np.isclose(dz.sum(), 0)

# %% [markdown]
# ## Back to the weights
#
# $z[c,n] = b[c] + \sum_d W[c,d]\,x[d,n]$.  A weight $W[c,d]$ acts on logit $c$ of *every* picture, so its
# gradient is a sum over pictures.  A pixel $x[d,n]$ acts on *every* logit of its picture, so its gradient
# is a sum over classes.
#
# $$\begin{aligned}
# dW[c,d] &= \sum_n dz[c,n]\,x[d,n] & dW &= dz\,x^{\mathsf T} \\
# db[c] &= \sum_n dz[c,n] \\
# dx[d,n] &= \sum_c W[c,d]\,dz[c,n] & dx &= W^{\mathsf T} dz
# \end{aligned}$$
#
# You need not remember which one is transposed.  $dW$ has $W$'s shape $(K, D)$, $dx$ has $x$'s shape
# $(D, N)$, and only one product fits.
#
# **Your turn.**


# %%
def linear_gradients(dz, x, w):
    """Gradients of z = w x + b.  dz (K,N), x (D,N), w (K,D) → dw (K,D), db (K,), dx (D,N)."""
    dw = ...
    db = ...
    dx = ...
    return dw, db, dx


# %%
linear_gradients = check(linear_gradients)
# hint("linear_gradients")
# solution("linear_gradients")

# %% [markdown]
# With a rate $\varepsilon$, one step of gradient descent is $W \leftarrow W - \varepsilon\,dW$.  Step
# through five of them, for one picture of four pixels, $x = (1, 2, 0, -1)$, whose label is 1, from $W = 0$.
# First all classes have $\frac13$, so $dz = (\frac13, -\frac23, \frac13)$, and row 1 of $W$ becomes a small
# copy of the picture; the other rows its negative, half as large.

# %%
one, label, rate = np.array([[1.0], [2], [0], [-1]]), np.array([1]), 0.1
states = []
w = np.zeros((3, 4))
for _ in range(6):
    logits = w @ one
    loss, dz = loss_and_gradient(logits, label)
    states.append((w, softmax(logits)[:, 0], dz, float(loss)))
    w = w - rate * linear_gradients(dz, one, w)[0]
assert np.allclose(states[0][2][:, 0], [1 / 3, -2 / 3, 1 / 3])
assert np.allclose(states[1][0][1], rate * 2 / 3 * one[:, 0])
assert np.allclose(states[1][0][0], -states[1][0][1] / 2)


# %% drawing
def show_update(k):
    """Step k: the weights after k updates, and what they say."""
    w, p, dz, loss = states[k]
    says = paint.plot(f"p, loss {loss:.3f}", (0, 3), (0, 1), size=(210, 150))
    return paint.row(
        paint.array(w, f"W after {k} updates", "{:.2f}", 0.8),
        says.bars(p, (paint.SOFT, 2, paint.SOFT), ["class 0", "1, the label", "2"]),
        paint.array(dz, "dz", "{:.2f}", 0.7),
    )


step_through(show_update, 6)

# %% [markdown]
# The updates become smaller by themselves as $p_1$ nears 1: a surprise that is no longer one teaches
# little.
#
# Each row of $dW$ is the picture times one number, $dz[c]$.  Where all pixels are positive, all its weights
# move the same way: that is what centring avoids (lesson 1).
#
# ## Is it the same as the library's?

# %%
from tinyalex.ops.linear import linear_backward, linear_forward
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward

K, D, N = 4, 6, 5
x, w, b = rng.standard_normal((D, N)), rng.standard_normal((K, D)), rng.standard_normal(K)
labels = rng.integers(0, K, N)

logits, cache = linear_forward(x, w, b)
theirs, loss_cache = softmax_loss_forward(logits, labels)
dx_theirs, dw_theirs, db_theirs = linear_backward(
    softmax_loss_backward(loss_cache), cache
)

loss, dz = loss_and_gradient(w @ x + b[:, None], labels)
dw, db, dx = linear_gradients(dz, x, w)
assert np.isclose(loss, theirs)
for mine, library in ((dw, dw_theirs), (db, db_theirs), (dx, dx_theirs)):
    np.testing.assert_allclose(mine, library, rtol=1e-12, atol=1e-15)
print("loss, dw, db, dx: ours and the library's agree")

# %% [markdown]
# ## Learning to see shapes
#
# Now 500 pictures of ten shapes, and 500 others to test on.  A picture is a column of
# $3\cdot32\cdot32 = 3072$ numbers, so $W$ is $10\times3072$.  The loss starts at $\log\,10$, because with
# $W = 0$ every class is as good as any other.

# %%
from tinyalex.data import shapes


def columns(made, mean):
    """Centred pictures as columns (3072, N)."""
    return (made.images - mean).reshape(-1, len(made.labels))


def learn(rate, steps):
    w, b = np.zeros((10, 3072), np.float32), np.zeros(10, np.float32)
    losses = []
    for _ in range(steps):
        loss, dz = loss_and_gradient(w @ x + b[:, None], train.labels)
        dw, db, _ = linear_gradients(dz.astype(np.float32), x, w)
        w -= rate * dw
        b -= rate * db
        losses.append(float(loss))
    return w, b, losses


train, test = shapes.make(500, rng), shapes.make(500, rng)
mean = train.images.mean(axis=3, keepdims=True).astype(np.float32)
x, x_test = columns(train, mean), columns(test, mean)
w, b, losses = learn(rate=1e-5, steps=100)


def error(x, labels):
    return ((w @ x + b[:, None]).argmax(axis=0) != labels).mean()


assert x.shape == (3072, 500)
assert round(losses[0], 3) == 2.303
print(f"loss {losses[0]:.3f} → {losses[-1]:.3f}")
print(f"training error {error(x, train.labels):.1%}")
print(f"test error     {error(x_test, test.labels):.1%}   (a guess: 90%)")
assert error(x, train.labels) < 0.05
assert 0.5 < error(x_test, test.labels) < 0.9

# %% [markdown]
# It learned its 500 pictures nearly by heart, and is still wrong about most new ones.  The weights show
# why.  A row of $W$ has a number for each pixel, so it is a picture too: the **template** that it
# multiplies a picture with.

# %% drawing
for row in (0, 5):
    for k, axes in enumerate(draw.panels(*[1] * 5, height=1.6), start=row):
        draw.picture(axes, w[k].reshape(3, 32, 32), train.classes[k])

# %% [markdown]
# Noise, with an idea of the shape in the middle where you know what to look for.  One template would have
# to be all stars at once: large, small, turned, moved, red on green and green on red.  A sum of pixels
# cannot say "a corner here, and another beside it, wherever they are".  Something has to look for corners
# first, everywhere alike: that is lesson 4.
#
# ## Break it on purpose
#
# First the overflow.  **Guess before you run the cell:** the plain formula $e^{z}/\sum e^{z}$, in float32,
# for the logits 100, 10 and 0.  What does it say?

# %%
with np.errstate(all="ignore"):
    big = np.array([100, 10, 0], np.float32)
    plain = np.exp(big) / np.exp(big).sum()
print("plain: ", plain)
print("shifted:", softmax(big[:, None])[:, 0])
assert np.isnan(plain[0])
assert list(plain[1:]) == [0, 0]

# %% [markdown]
# Not 1, not 0, but *nan*; and after one update every weight is nan.
#
# Then the rate.  Above it was $10^{-5}$, which looks tiny.  But an update moves the picture's own logits by
# $\varepsilon\,|x|^2$ times its $dz$, and $|x|^2$, the sum of 3072 squares, is between five and six
# million.  **Guess:** what will the loss do with a tenth of the rate, and with a hundred times?

# %%
assert w.size // len(train.labels) == 61
assert 5e6 < (x**2).sum(axis=0).mean() < 6e6

# %% drawing
axes = draw.panels(1, height=2.7)
for rate, colour in ((1e-6, draw.INK[1]), (1e-5, draw.INK[2]), (1e-3, draw.INK[0])):
    final = learn(rate, steps=40)[2]
    axes.semilogy(final, color=colour, label=f"rate {rate:g}")
axes.axhline(np.log(10), color="0.7", linewidth=1)
axes.legend(frameon=False)
draw.plain(axes, "update", "", "loss, for three rates; the line is log 10")

# %%
assert max(final) > 5 * np.log(10)  # of the last one

# %% [markdown]
# Too small is slow, and harmless.  Too large jumps over the valley and lands higher up.  Knowing nothing
# costs 2.3; this one costs many times that, because it is *certain* of what is wrong.  Here it recovers:
# $W$ has sixty times as many numbers as there are pictures, so some $W$ has all of them right, and it
# stumbles upon one.  Seven layers that lean on each other do not forgive so easily.
#
# ## Think about it
#
# 1. The gradient is 0 only where $p$ is 1 at the label.  Can that be reached?  What do the weights do if
#    you go on for very long, when all training pictures are right already?
# 2. The templates of two classes are added the same picture.  Does any prediction change?  Does any
#    gradient?
# 3. The loss divides by $N$.  Why is that convenient when you change the batch size from 128 to 256?
#
# <details><summary>What we would answer</summary>
#
# 1. Not with finite logits.  They grow without end, ever more slowly: the direction is found, and only the
#    length still pays.  Weight decay (lesson 10) puts a stop to it.
# 2. If the same picture is added to *all* templates, nothing changes at all, since only differences of
#    logits count.  If only to two of them, these two are compared as before, but both of them differently
#    with the rest.
# 3. The gradient is an average, so it has the same size for both, and the same rate means the same.  It is
#    only less noisy.
#
# </details>
#
# ## What comes next
#
# You derived a gradient, and it agreed with the library's.  But who checks the library, and who checks you
# when there is no library?  [Lesson 3: checking a gradient](03_checking_a_gradient.ipynb).
