# %% [markdown]
# # 12 · Two GPUs: what each one holds, and what crosses
#
# [Lesson 11](11_augmentation.ipynb) made more pictures out of the ones there are. This lesson makes room
# for the network that is to learn them: the authors' GPUs had 3 GB each, and the network was spread over
# two.
#
# **Each device keeps half of the kernels of every layer, and the devices meet only where a layer wants the
# maps of both.  Meeting is a copy: each receives what the other has.  So backward, as in [lesson
# 5](05_backward_convolution.ipynb), it is a sum.**  That is all; the rest of the lesson is where, how much,
# and what happens when somebody gets it wrong.
#
# Section 3.2 of the paper:
#
# > "The parallelization scheme that we employ essentially puts half of the kernels (or neurons) on each
# > GPU, with one additional trick: the GPUs communicate only in certain layers.  This means that, for
# > example, the kernels of layer 3 take input from all kernel maps in layer 2.  However, kernels in layer 4
# > take input only from those kernel maps in layer 3 which reside on the same GPU."
#
# No GPU is needed here: two cores of a CPU are two devices as well, and the program is the same.
#
# **You bring:** the gradients of $Wx$ (lesson 2), the sentence "a copy turns into a sum" (lesson 5).
#
# **You take away:** towers and groups, all-gather and reduce-scatter as each other's gradient, a program
# that runs on any number of devices, and the bytes that cross between them, counted.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(12)
rng = np.random.default_rng(12)

# %% [markdown]
# ## Half of the kernels is half of the rows
#
# A layer is a product $y = W x$ (for a convolution, $x$ stands for `cols`).  Row $f$ of $W$ is kernel $f$,
# and makes output $f$ alone:
#
# $$y[f] = \sum_d W[f,d]\;x[d]$$
#
# So cut $W$ between two rows.  Device 0 takes the upper rows, device 1 the lower ones.  Each computes its
# half of $y$ from *all* of $x$, and neither asks the other for anything:
#
# $$\begin{pmatrix} y_0 \\ y_1 \end{pmatrix} = \begin{pmatrix} W_0 \\ W_1 \end{pmatrix} x
# \qquad\text{device 0: } y_0 = W_0\,x \qquad\text{device 1: } y_1 = W_1\,x$$
#
# The weights of a row never leave their device.  Nor do their gradients: $dW_0 = dy_0\,x^{\mathsf T}$ needs
# nothing that device 1 has.

# %%
x = np.array([2.0, -1, 3])
W = np.array([[1.0, 2, 0], [0, 1, 1], [2, 0, -1], [1, 1, 1]])
upper, lower = W[:2] @ x, W[2:] @ x
assert list(upper) == [0, 2]
assert list(lower) == [1, 4]
assert (np.concatenate([upper, lower]) == W @ x).all()

# %% drawing
axes = draw.panels(3, 1, 1, height=2.2)
for a, values, title in zip(axes, (W, x[:, None], (W @ x)[:, None]), "Wxy", strict=True):
    draw.array(a, values, title)
for a, width in ((axes[0], 3), (axes[2], 1)):
    draw.frame(a, 0, 0, 2, width, draw.INK[0], inset=0.04)
    draw.frame(a, 2, 0, 2, width, draw.INK[1], inset=0.04)

# %% [markdown]
# Orange is device 0, dashed blue is device 1, here and in all that follows.
#
# ## The next layer: stay, or meet
#
# After that layer each device has half of $y$, and $y$ is the next layer's input. What does a kernel of the
# next layer read? There are two answers, and AlexNet uses both.
#
# The layers of one device, one above the other, are a **tower**. **Stay in the tower:** a kernel reads only
# the maps of its own device. Nothing crosses, and half of the weights are simply not there; written as one
# matrix they would be zeros, off the diagonal.
#
# **Meet:** each device fetches the other's maps, and a kernel reads them all.
#
# conv2, conv4 and conv5 stay; conv3 and the three fully connected layers meet. Here is who reads whom, with
# 6 maps below and 8 kernels; a coloured cell is a weight (of 5×5 or 3×3 numbers), an empty one does not
# exist:

# %%
map_device = np.arange(6) // 3
kernel_device = np.arange(8) // 4
meet = np.ones((8, 6))
stay = meet * (kernel_device[:, None] == map_device)
assert np.count_nonzero(stay) == np.count_nonzero(meet) / 2

# %% drawing
axes = draw.panels(1, 1, height=2.7)
draw.array(axes[0], stay, "stay: conv2, conv4, conv5", numbers=False, limit=3)
draw.array(axes[1], meet, "meet: conv3, fc6, fc7, fc8", numbers=False, limit=3)
for a in axes:
    a.set_xlabel("maps below:  0 1 2 on device 0,  3 4 5 on device 1", size=8)
    a.set_ylabel("kernels", size=8)
for r in range(2):
    draw.frame(axes[0], 4 * r, 3 * r, 4, 3, draw.INK[r], inset=0.06)
    draw.frame(axes[1], 4 * r, 0, 4, 6, draw.INK[r], inset=0.06)

# %% [markdown]
# Both towers can also live on *one* device.  Then a layer that stays is called a convolution **in groups**,
# and that is where the `group: 2` in every later description of AlexNet comes from: not from an idea about
# pictures, but from two graphics cards.
#
# **Your turn.**  A layer in groups, on one device: cut `x` and `w` into as many groups, multiply group by
# group.


# %%
def grouped(x, w, groups):
    """Rows of w read their own group of x only.  x (D,N), w (F, D/groups) → y (F,N)."""
    xs, ws = np.split(x, groups), np.split(w, groups)
    y = ...  # (F, N): each group's product, one under the other
    return y


# %%
grouped = check(grouped)
# hint("grouped")
# solution("grouped")

# %% [markdown]
# As one product, $W$ has blocks on its diagonal and zeros elsewhere.  For conv2 it saves half of the
# weights: 256 kernels of 5×5 over 48 maps each, not 96.  The library's convolution takes `groups` and gives
# the same.

# %%
from tinyalex.ops.conv import conv2d_forward

w = rng.standard_normal((8, 3))
x = rng.standard_normal((6, 5))
blocks = np.zeros((8, 6))
blocks[:4, :3], blocks[4:, 3:] = w[:4], w[4:]
np.testing.assert_allclose(grouped(x, w, 2), blocks @ x)

pixels, kernels = x.reshape(6, 1, 1, 5), w.reshape(8, 3, 1, 1)
y, _ = conv2d_forward(pixels, kernels, np.zeros(8), groups=2)
np.testing.assert_allclose(grouped(x, w, 2), y.reshape(8, 5))
assert 256 * 5 * 5 * 48 == 307_200 == 256 * 5 * 5 * 96 // 2

# %% [markdown]
# ## Meeting: all-gather
#
# Devices that all run the same program are called **ranks**, numbered from 0.  When rank 0 holds $h_0$ and
# rank 1 holds $h_1$, an **all-gather** leaves the whole with both of them:
#
# $$\text{rank 0: } h_0 \quad\text{rank 1: } h_1
# \qquad\longrightarrow\qquad
# \text{rank 0: } \begin{pmatrix} h_0 \\ h_1 \end{pmatrix}
# \quad\text{rank 1: } \begin{pmatrix} h_0 \\ h_1 \end{pmatrix}$$
#
# Let an array's first axis be the rank, so that `h[r]` is what rank $r$ holds: $c$ channels of $N$
# pictures. There may be any number $R$ of ranks. **Your turn:**


# %%
def all_gather(h):
    """Leave all channels with every rank.  h (R, c, N) → whole (R, R·c, N)."""
    R, c, N = h.shape
    joined = ...  # (R·c, N): rank 0's channels, then rank 1's, …
    whole = ...  # (R, R·c, N): every rank gets it
    return whole


# %%
all_gather = check(all_gather)
# hint("all_gather")
# solution("all_gather")

# %% [markdown]
# ## And backward?
#
# Follow one map of rank 0 through the meeting.  Rank 0 keeps it, and rank 1 receives a copy.  Each rank
# uses its copy in its own kernels, and both reach the loss.  Two copies, two paths, one plus sign: lesson
# 5's sentence again.
#
# After the backward of the layer above, rank $r$ holds $g_r = W_r^{\mathsf T} dy_r$: what **its own**
# kernels say about **all** maps.  It is only a part of the truth, since the other rank's kernels have seen
# these maps too.  The gradient of map $c$ is
#
# $$dh[c] \;=\; g_0[c] \;+\; g_1[c] .$$
#
# And the rank that made map $c$ is the only one that wants it.  To sum what all ranks say, and leave each
# with its own channels, is a **reduce-scatter**:
#
# $$\text{rank 0: } g_0 \quad\text{rank 1: } g_1
# \qquad\longrightarrow\qquad
# \begin{pmatrix} \text{to rank 0} \\ \text{to rank 1} \end{pmatrix} = g_0 + g_1$$
#
# Numbers.  Each rank has two units and three kernels that read all four.  Step through it, and watch which
# cells come from the other side: they have the other side's colour and dashes.

# %%
h = np.array([[3.0, 1], [2, 4]])[:, :, None]
W = np.array(
    [
        [[1.0, 0, 2, -1], [0, 1, 1, 0], [2, -1, 0, 1]],
        [[-1, 1, 0, 2], [1, 2, -1, 0], [0, 0, 1, 1]],
    ]
)
dy = np.array([[1.0, -1, 2], [2, 1, -1]])[:, :, None]
whole = np.stack([h.reshape(4, 1)] * 2)
y = W @ whole
g = W.transpose(0, 2, 1) @ dy  # (2, 4, 1): what each rank's kernels say about all units
dh = g.sum(axis=0).reshape(2, 2, 1)

stages = [
    "each rank has its own two units",
    "all-gather: each receives the other's two",
    "each multiplies by its own kernels",
    "the loss sends dy back, to each for its own outputs",
    "g = Wᵀ dy: what each rank's kernels say about all four units",
    "reduce-scatter: each receives what the other says about its two, and adds",
]


# %% drawing
def meeting(k):
    """Step k of forward (0–2) and backward (3–5) on two ranks, one above the other."""
    rows = [f"<p><b>{stages[k]}</b></p>"]
    for r in range(2):
        show = [(h, "h"), (whole, "whole"), (W, "W"), (y, "y")]
        show += [(dy, "dy"), (g, "g"), (dh, "dh")]
        seen_at = [0, 1, 2, 2, 3, 4, 5]
        panels = {
            name: paint.array(values[r], name, limit=5)
            for (values, name), first in zip(show, seen_at, strict=True)
            if k >= first
        }
        panels["h"].frame(0, 0, 2, 1, r, 0.05)
        if k >= 1:
            panels["whole"].frame(0, 0, 2, 1, 0, 0.05).frame(2, 0, 2, 1, 1, 0.05)
        if k >= 5:
            panels["g"].frame(2 * (1 - r), 0, 2, 1, 1 - r, 0.05)
            panels["dh"].frame(0, 0, 2, 1, r, 0.05)
        rows.append(f"<p>rank {r}</p>{paint.row(*panels.values())}")
    return "".join(rows)


step_through(meeting, len(stages))

# %% [markdown]
# In the last step the framed cells of $g$ are the ones that travel.  Rank 0's kernels say 5 and −3 about
# rank 0's units, rank 1's say −1 and 4: together 4 and 1 ([touch these numbers, and stamp all](
# touch/index.html#op=towers&x=3,1,2,4&w=1,0,2,-1,0,1,1,0,2,-1,0,1,-1,1,0,2,1,2,-1,0,0,0,1,1&dy=1,-1,2,2,1,-1
# ), on the page that comes with the course; GitHub does not show it).  Had rank 0 asked only itself, it
# would have pushed its second unit the wrong way: −3 for 1.
#
# **Your turn.**


# %%
def reduce_scatter(dy):
    """Sum over the ranks, and leave each its channels.  dy (R, C, N) → dx (R, C/R, N)."""
    R, C, N = dy.shape
    total = ...  # (C, N): what all ranks say
    dx = ...  # (R, C/R, N): to each rank its own channels
    return dx


# %%
reduce_scatter = check(reduce_scatter)
# hint("reduce_scatter")
# solution("reduce_scatter")

# %%
assert list(g[0, :2, 0]) == [5, -3]
assert list(g[1, :2, 0]) == [-1, 4]
assert list(dh[0, :, 0]) == [4, 1]
assert (reduce_scatter(g) == dh).all()
assert (all_gather(h) == whole).all()

# %% [markdown]
# ## Each other's gradient
#
# An all-gather only copies, so it is a matrix $P$ of zeros and ones, like im2col in lesson 5.  The column
# of each channel has one 1 *per rank*.  Its transpose therefore has $R$ ones in each *row*, and adds $R$
# numbers: that is the reduce-scatter.

# %%
R, c = 2, 3
P = all_gather(np.eye(R * c).reshape(R, c, R * c)).reshape(R * R * c, R * c)
assert set(P.sum(axis=0)) == {R}
assert set(P.sum(axis=1)) == {1}

d = rng.standard_normal((R, R * c, 1))
assert np.allclose(P.T @ d.reshape(-1), reduce_scatter(d).reshape(-1))

# %% drawing
axes = draw.panels(6, 12, height=3.2)
draw.array(axes[0], P, "P: all-gather", fmt="{:.0f}")
draw.array(axes[1], P.T, "its transpose: reduce-scatter", fmt="{:.0f}")
for r in range(R):
    draw.frame(axes[0], 6 * r, 0, 6, 6, draw.INK[r], inset=0.05)
    draw.frame(axes[1], 0, 6 * r, 6, 6, draw.INK[r], inset=0.05)

# %% [markdown]
# Each coloured block is what one rank has after the gather.
#
# And a matrix is the transpose of its transpose.  So if some network *forward* needs a sum over the ranks,
# a reduce-scatter, then its *backward* is an all-gather: each rank's part of the sum has fed from all
# ranks, and each needs its gradient.  They are each other's gradient, and the test without calculus is the
# same as in lesson 5, with the sums running over all ranks:
#
# $$\langle \mathrm{gather}(h),\, d \rangle = \langle h,\, \mathrm{reduce\_scatter}(d) \rangle$$

# %%
for ranks, channels, N in ((2, 3, 5), (3, 2, 4), (4, 1, 3)):
    a = rng.standard_normal((ranks, channels, N))
    b = rng.standard_normal((ranks, ranks * channels, N))
    assert np.isclose((all_gather(a) * b).sum(), (a * reduce_scatter(b)).sum())
print("<gather(h), d> = <h, reduce_scatter(d)>, for 2, 3 and 4 ranks")

# %% [markdown]
# ## The real thing: one program, run by every rank
#
# So far one program held all ranks' arrays.  On real devices nobody does.  Each runs **the same program on
# its own arrays**, and knows of the others only through a communicator `comm`: its number `comm.rank`, how
# many there are, `comm.size`, which rows are its own, `comm.part(length)`, and the collectives
# `comm.all_gather` and `comm.reduce_scatter`, which wait until every rank has called them. (If one never
# does, the others wait for ever: all must run the same program.)
#
# `launch(program, devices)` starts one copy of the program on each device.  Here the devices are two
# workers of this computer's CPU, each a thread of its own; with `cuda:0` and `cuda:1` they would be GPUs.
#
# A hidden layer and an output layer, $h = \max(0, W_1 x)$, $y = W_2 h$, forward and backward, rows shared
# by two ranks.  **Your turn:** everything but the two meetings is there.

# %%
from tinyalex.comm import launch
from tinyalex.devices import Device

devices = [Device("cpu:0"), Device("cpu:1")]


# %%
def on_two_ranks(x, w1, w2, dy):
    """h = max(0, W1 x), y = W2 h and the gradients, each rank with half of the rows."""

    def program(comm):
        mine1, mine2 = comm.part(len(w1)), comm.part(len(w2))
        h = np.maximum(w1[mine1] @ x, 0)  # (H/2, N): this rank's units
        whole = ...  # (H, N): everybody's units
        y = w2[mine2] @ whole  # (F/2, N)

        dw2 = dy[mine2] @ whole.T  # (F/2, H)
        partial = w2[mine2].T @ dy[mine2]  # (H, N): what this rank's kernels say
        dh = ...  # (H/2, N): what everybody's say, about this rank's units
        dw1 = (dh * (h > 0)) @ x.T  # (H/2, D)
        return y, dw1, dw2

    parts = zip(*launch(program, devices), strict=True)  # y of each rank, dw1 of each, …
    y, dw1, dw2 = (np.concatenate(part) for part in parts)
    return y, dw1, dw2


# %%
on_two_ranks = check(on_two_ranks)
# hint("on_two_ranks")
# solution("on_two_ranks")

# %% [markdown]
# One device that knows nothing of ranks must get the same numbers:

# %%
x = rng.standard_normal((3, 7))
w1, w2 = rng.standard_normal((4, 3)), rng.standard_normal((6, 4))
dy = rng.standard_normal((6, 7))

h = np.maximum(w1 @ x, 0)
alone = w2 @ h, ((w2.T @ dy) * (h > 0)) @ x.T, dy @ h.T
for ours, theirs in zip(on_two_ranks(x, w1, w2, dy), alone, strict=True):
    np.testing.assert_allclose(ours, theirs)
print("y, dw1, dw2: two ranks and one agree")

# %% [markdown]
# ## AlexNet on two ranks
#
# In the library the meeting is a layer, `AllGather`, whose forward is `comm.all_gather` and whose backward
# is `comm.reduce_scatter`.  The network is one list of layers, which every rank runs.  On one rank the
# gathers do nothing and conv2, conv4, conv5 have two groups; on two ranks each holds a tower.
#
# Here is a narrow AlexNet for pictures of 67 pixels, same layers, fewer of everything.  One program,
# started once on one device and once on two.

# %%
from tinyalex.models import AlexNet, alexnet, make
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward

network = alexnet(AlexNet(filters=(16, 24, 40, 32, 48), hidden=56, classes=10, size=67))
pictures = rng.normal(0, 50, (3, 67, 67, 6))
labels = rng.integers(0, 10, 6)


def one_step(comm, mistake=None):
    """What every rank runs: build, forward, backward."""
    model = network.build(comm, np.random.default_rng(1), np.float64)
    if mistake:
        mistake(model.layers)
    logits = model.forward(pictures, train=True)
    loss, cache = softmax_loss_forward(logits, labels)
    model.backward(softmax_loss_backward(cache))
    grads = {name: layer.grads[key] for name, layer, key in model.parameters()}
    return {
        "loss": float(loss),
        "grads": grads,
        "layers": list(model.layers),
        "ledger": comm.ledger,
    }


def gradients(ranks):
    """The gradients of all ranks, put together again."""
    parts = [rank["grads"] for rank in ranks]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


one = launch(one_step, devices[:1])
two = launch(one_step, devices)
print(" · ".join(one[0]["layers"]))
print("loss on one rank", one[0]["loss"], " on two", two[0]["loss"])
assert np.isclose(one[0]["loss"], two[0]["loss"], rtol=1e-12)

right, ours = gradients(one), gradients(two)
for name in right:
    np.testing.assert_allclose(ours[name], right[name], rtol=1e-9, atol=1e-15)
print(f"all {len(right)} gradients agree")

# %% [markdown]
# Dropout included: every rank makes its own rows of one mask, from the same seed.
#
# ## What crosses
#
# The communicator keeps a ledger: who received how many bytes, on behalf of which layer.  By hand: at
# `gather3` a rank receives the other's half of pool2.  In the narrow network that is 12 maps of 3×3 for 6
# pictures, 8 bytes a number: $12\cdot 9\cdot 6\cdot 8 = 5184$ bytes forward.  Backward it receives the
# other's word about its own 12 maps: as much again.

# %%
ledger = two[0]["ledger"]
for (layer, collective), nbytes in ledger.items():
    print(f"{layer:18} {collective:15} {nbytes:6} bytes")
assert ledger["gather3 forward", "all_gather"] == 12 * 9 * 6 * 8 == 5184
assert ledger["gather3 backward", "reduce_scatter"] == 5184
assert ("gather backward", "reduce_scatter") not in ledger

# %% [markdown]
# The last gather joins the logits, and nothing comes back through it.  We break that in a minute.
#
# `tinyalex.measure.describe` works out the same table for any network without running it.  The full AlexNet,
# batches of 128, 4 bytes a number: a device receives 15.8 MB forward and 15.5 MB backward in each step.

# %%
from tinyalex.measure.describe import describe

full = describe(alexnet(), ranks=2, batch=128)
rows = {row.layer: row for row in full.rows}
MB = 1e6
assert round(full.total.received_forward / MB, 1) == 15.8
assert round(full.total.received_backward / MB, 1) == 15.5
assert rows["gather3"].received_forward == 128 * 13 * 13 * 128 * 4

crossing = {
    "before conv3": "gather3",
    "before fc6": "gather6",
    "before fc7": "gather7",
    "before fc8": "gather8",
    "logits": "gather",
}
forward = [rows[name].received_forward / MB for name in crossing.values()]

# %% drawing
axes = draw.panels(1, height=2.6)
places = np.arange(len(crossing))
backward = [rows[name].received_backward / MB for name in crossing.values()]
axes.bar(places - 0.2, forward, 0.38, color=draw.INK[2], label="forward")
axes.bar(places + 0.2, backward, 0.38, color=draw.INK[3], label="backward")
for x_, up, back in zip(places, forward, backward, strict=True):
    axes.text(x_ - 0.2, up + 0.1, f"{up:.1f}", ha="center", size=8)
    axes.text(x_ + 0.2, back + 0.1, f"{back:.1f}", ha="center", size=8)
axes.set_xticks(places, crossing)
axes.legend(frameon=False)
draw.plain(
    axes, ylabel="MB received", title="AlexNet, batch 128: what one device receives"
)

# %% [markdown]
# Now look at what does **not** cross, and the choice of places makes sense.
#
# - Had conv2 met as well, pool1's maps would have crossed: $48\cdot 27\cdot 27\cdot 128\cdot 4$ bytes, 17.9
#   MB, more than all meetings together.  The picture has been pooled twice before the devices first speak.
# - fc6 has 37.7 million weights, and its meeting costs 2.4 MB: activations cross, weights do not.
# - The other way to use two devices gives each the whole network and half of the pictures (*data
#   parallel*).  Then the gradients of all 60,965,224 parameters must be summed in each step, 243.9 MB.  For
#   a network that has most of its weights in fully connected layers, towers are the cheap way; for
#   convolutions, few weights and large maps, the other. Two years later Krizhevsky used each where it is
#   cheap.
#
# And what a device holds: alone it would need 1999 MB to train this network, as one of two 1067 MB.  That
# is more than half, because the pictures and whatever was gathered are held by both.  (Counted are the
# parameters with their gradients and velocities, the arrays that backward reads, and the largest temporary.)
#
# Why then was a GPU of 3 GB too small?  The 2012 code held each layer's output and its gradient at once, and
# partial sums of the weights' gradients besides.  As it allocated, the network of the text takes 2.7 GB on
# one device, config 145 2.95 GB (`code2012`), and that before the driver's share; 145 not cut in
# two takes 3.34 GB (`code2012 --towers 1`), the paper's one-GPU net 1.84 GB (`half`).
# `tinyalex describe code2012 --devices cpu:0 --memory 3GB`, and so on, prints both counts.

# %%
assert round(48 * 27 * 27 * 128 * 4 / MB, 1) == 17.9 > full.total.received_forward / MB
assert round(rows["gather6"].received_forward / MB, 1) == 2.4
assert round(4096 * 256 * 6 * 6 / 1e6, 1) == 37.7
assert full.total.parameters == 60_965_224
assert round(4 * full.total.parameters / MB, 1) == 243.9

whole_memory = describe(alexnet(), ranks=1, batch=128).total.memory
print(
    f"one device {whole_memory / MB:.0f} MB, each of two {full.total.memory / MB:.0f} MB"
)
assert round(whole_memory / MB) == 1999
assert round(full.total.memory / MB) == 1067


def gb_2012(network):
    return round(describe(network, ranks=1, batch=128).total.bytes_2012 / 1e9, 2)


assert (gb_2012(alexnet()), gb_2012(make("code2012"))) == (2.66, 2.95)
assert (gb_2012(make("code2012", towers=1)), gb_2012(make("half"))) == (3.34, 1.84)

# %% [markdown]
# ## Break it on purpose
#
# **First: a gather that forgets the sum.**  Let `gather3` go backward without the reduce-scatter: each rank
# just keeps its own word about its own maps.  In the library that is one word, `replicated = True`, which
# the last gather has for a reason that comes next. **Guess before you run:** which layers' gradients go
# wrong?  Will it crash?


# %%
def forget_the_sum(layers):
    layers["gather3"].replicated = True


wrong = gradients(launch(lambda comm: one_step(comm, forget_the_sum), devices))
weights = [name for name in right if name.endswith(".w")]
gap = [
    np.linalg.norm(wrong[name] - right[name]) / np.linalg.norm(right[name])
    for name in weights
]
bad = [name[:-2] for name, value in zip(weights, gap, strict=True) if value > 1e-9]
print("wrong:", *bad)
assert bad == ["conv1", "conv2"]

# %% drawing
axes = draw.panels(1, height=2.3)
axes.bar([name[:-2] for name in weights], gap, color=draw.INK[2])
draw.plain(axes, ylabel="relative error of dw", title="gather3 without its sum")

# %% [markdown]
# Everything *below* the meeting is wrong, everything above it right, and nothing crashes: all shapes fit.
# conv1 and conv2 go on learning, from half of the evidence, and nothing in such a run says so. Comparing
# with one rank shows it at once, and says where.
#
# **Second: a gather that sums too often.**  After the last gather both ranks hold the *same* logits, and
# each computes the *same* loss from them.  These are not two paths to the loss but one, computed twice.
# What comes back is the whole gradient already, on both.  **Guess:** what if it is summed over the ranks
# all the same?


# %%
def sum_once_more(layers):
    layers["gather"].replicated = False


wrong = gradients(launch(lambda comm: one_step(comm, sum_once_more), devices))
for name in right:
    np.testing.assert_allclose(wrong[name], 2 * right[name], rtol=1e-9, atol=1e-15)
print("every gradient is exactly 2 times too large")

# %% [markdown]
# Twice the gradient acts like twice the learning rate: again it trains, and whoever notices blames the
# rate. The rule for both mistakes: **sum where the ranks do different things with the copies, do not sum
# where they do the same.**
#
# ## What the paper found
#
# Section 3.2 compares with a network for one GPU, with half as many kernels in the convolutions (the last
# one excepted): the two towers lower the top-1 error by 1.7 and the top-5 error by 1.2 points. Something
# else came of it. Below conv3 the towers cannot see each other, and they specialise: "The kernels on GPU 1
# are largely color-agnostic", says section 6.1, and those on GPU 2 "largely color-specific", in every run.
# [Lesson 14](14_looking_inside.ipynb) looks at kernels. And LRN's windows end at a tower's last map, since
# a GPU had only its own: that is the argument `groups` of [lesson
# 8](08_local_response_normalization.ipynb)'s function.
#
# ## Kill the mutant
#
# A reduce-scatter that takes a short cut: each rank multiplies its own words by the number of ranks.  **Write
# the input that exposes it.**

# %%
from tinyalex.lessons.kill import multiplies_its_own, show

show(multiplies_its_own)


# %%
def expose_own_words():
    """Return (dy,), dy (ranks, 4, 1), on which `multiplies_its_own` is found out."""
    dy = ...
    return (dy,)


# %%
expose_own_words = check(expose_own_words)
# hint("expose_own_words")
# solution("expose_own_words")

# %% [markdown]
# ## Think about it
#
# 1. Both ranks are given all pictures, and conv1's gradient needs no sum over ranks.  Why not, when in data
#    parallel training it does?
# 2. With $R$ ranks, each with $1/R$ of the maps: how much does one rank receive in an all-gather of $B$
#    bytes in all?  Does doubling the number of devices halve the traffic of each?
# 3. You may reach the same numbers with an *all-reduce* of `partial` (everybody gets the whole sum) and
#    then taking your rows.  What is the difference?
#
# <details><summary>What we would answer</summary>
#
# 1. A row of conv1 belongs to one rank, which sees all pictures and all paths to the loss through its own
#    maps (the reduce-scatter has brought the other's word about them).  In data parallel training each rank
#    sees only its own pictures, and every rank holds the same row: there the parts of the mean must be
#    added.
# 2. $B\,(R-1)/R$: half of it for 2 ranks, three quarters for 4.  No: with more ranks each receives *more*,
#    while its arithmetic shrinks.  Towers do not scale for ever.
# 3. None in the result.  But every rank receives the sums for all channels, twice as much for two ranks,
#    only to throw away those that are not its own.
#
# </details>
#
# ## What comes next
#
# All parts are on the table: convolution, ReLU, normalization, pooling, dropout, the update, the pictures
# and the towers.  [Lesson 13](13_alexnet.ipynb) puts them together, counts what they weigh, and lets
# AlexNet take its first steps.
