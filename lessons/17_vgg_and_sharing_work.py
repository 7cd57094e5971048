# %% [markdown]
# # 17 · VGG, and three ways to share work
#
# [Lesson 12](12_two_gpus.ipynb) cut AlexNet's layers between two devices. Two years later came a network
# that is nothing but small convolutions, and with it another way to share work: everybody has the whole
# network, and a part of the pictures. This lesson has both, and the trick that joins them.
#
# **Three windows of 3×3, one above the other, see what one of 7×7 sees, with fewer weights.  And a sum over
# pictures may be cut anywhere: between parts of a batch, or between devices; what must not be lost is the
# sum.**
#
# Simonyan and Zisserman (2014), section 2.3:
#
# > "It is easy to see that a stack of two 3×3 conv. layers (without spatial pooling in between) has an
# > effective receptive field of 5×5; three such layers have a 7×7 effective receptive field."
#
# **You bring:** convolution (lesson 4), the update (lesson 10), ranks and their collectives (lesson 12).
#
# **You take away:** receptive fields, a fully connected layer that slides, batches in parts, and data,
# model and hybrid parallelism, each written in a few lines and checked against one device.

# %%
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinyalex.comm import launch
from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(17)
devices = "cpu:0,cpu:1"  # two cores of this computer
rng = np.random.default_rng(17)

# %% [markdown]
# ## What one output sees
#
# An output of a 3×3 convolution sees 3 pixels along each axis. An output of the next one sees 3 of *those*,
# which together see 5 pixels; after a third it is 7. Step through it, from the output down:

# %%
stages = [
    "one output of the third layer",
    "it sees 3×3 outputs of the second",
    "these see 5×5 outputs of the first",
    "and these 7×7 pixels of the picture",
]


# %% drawing
def down(k):
    """Step k: what the output in the middle has seen so far."""
    panel = paint.array(np.zeros((7, 7)), stages[k], numbers=False, limit=1)
    for j in range(k + 1):
        panel.frame(3 - j, 3 - j, 2 * j + 1, 2 * j + 1, j, 0.05)
    return paint.row(panel)


step_through(down, len(stages))

# %% [markdown]
# In general a layer with kernel $k$ widens the window by $k - 1$ **steps**, and a step is the distance, in
# pixels of the picture, between neighbours of the layer's input: 1 at first, and multiplied by each stride
# on the way.
#
# **Your turn.**


# %%
def receptive_field(kernels, strides):
    """Side, in pixels of the picture, of what one output of the last layer sees."""
    side, step = 1, 1  # of one pixel, and how far apart neighbours are
    for k, s in zip(kernels, strides, strict=True):
        side = ...
        step = ...
    return side


# %%
receptive_field = check(receptive_field)
# hint("receptive_field")
# solution("receptive_field")

# %%
assert receptive_field([3, 3], [1, 1]) == 5
assert receptive_field([3, 3, 3], [1, 1, 1]) == 7
assert 3 * 3**2 == 27  # weights of three 3×3 layers, in units of C²
assert 7**2 == 49  # of one 7×7: 81% more
assert round(100 * (49 / 27 - 1)) == 81

# %% [markdown]
# And three layers have three ReLUs, where one has one. That is the whole idea of VGG. Its Table 1, a column
# a row here: a number is a convolution of so many filters, M a pooling 2×2 with stride 2.

# %%
from tinyalex.models import make
from tinyalex.models.vgg import TABLE

for letter, words in TABLE.items():
    network = make(f"vgg-{letter.lower()}")
    count = sum(place.layer.count(place.x) for place in network.plan())
    print(f"{letter}  {' '.join(words.split()):86} {count:,} parameters")


def stack(letter):
    """(kernels, strides) of all convolutions and poolings."""
    pairs = {"M": (2, 2)}
    words = TABLE[letter].split()
    pairs |= {w: (1, 1) if w.endswith("/1") else (3, 1) for w in words if w != "M"}
    return zip(*(pairs[w] for w in words), strict=True)


assert receptive_field(*stack("A")) == 150
assert receptive_field(*stack("D")) == 212
assert receptive_field(*stack("E")) == 268

# %% [markdown]
# Before the first fully connected layer one of E's units has seen all of a picture of 224 pixels, one of
# A's not yet.
#
# Depth has a price. With weights of one and the same spread, each layer multiplies the size of what passes
# through by about the same factor, and eleven factors of 2 are 2048. The paper's section 3.1 prints the
# weights' *variance* as $10^{-2}$; AlexNet's *standard deviation* was that. Here is A at an eighth of its
# width, with both readings, and with Glorot's, whose spread fits each layer: $2/(\text{inputs} +
# \text{outputs})$.

# %%
x = rng.normal(0, 60, (3, 32, 32, 4)).astype(np.float32)
spread = {}
for weights in ("variance", "deviation", "glorot"):
    net = make("vgg-a", width=1 / 8, size=32, weights=weights).build(rng=rng)
    y, spread[weights] = x, []
    for layer in net.layers.values():
        y = layer.forward(y)
        if layer.params:
            spread[weights].append(y.std())
assert spread["deviation"][-1] < 1e-5
assert 0.01 < spread["glorot"][-1] < 100

# %% drawing
axes = draw.panels(1, height=2.6)
names = [name for name, layer in net.layers.items() if layer.params]
for k, (weights, values) in enumerate(spread.items()):
    axes.plot(names, values, color=draw.INK[k], label=weights)
axes.set_yscale("log")
axes.tick_params(axis="x", rotation=45)
axes.legend(frameon=False)
draw.plain(axes, ylabel="standard deviation", title="what comes out of each layer")

# %% [markdown]
# At the full width the first reading makes logits of the order of $10^7$. The authors trained A first, and
# copied its first four convolutions and its three fully connected layers into the deeper networks: `train
# --start-from`. After the submission they found that Glorot's weights make that unnecessary.
#
# ## A fully connected layer that slides
#
# VGG is tested on whole pictures, larger than those it was trained on. A convolution does not mind. And a
# fully connected layer above maps $C\times h\times v$ is a product with $C\,h\,v$ numbers: the same
# product as a kernel $h\times v$ makes at *one* place. So let it make it at all places. What comes out is a
# map of scores, and its mean is the answer (section 3.2).
#
# **Your turn:** not a number of `w` has to move.


# %%
def slide(maps, w, window):
    """A fully connected layer at every place.  maps (C,H,W), w (K, C·h·v) → scores (K, H−h+1, W−v+1)."""
    C, _, _ = maps.shape
    h, v = window
    windows = sliding_window_view(maps, window, axis=(1, 2))  # (C, H−h+1, W−v+1, h, v)
    kernels = ...  # (K, C, h, v)
    scores = ...  # (K, H−h+1, W−v+1)
    return scores


# %%
slide = check(slide)
# hint("slide")
# solution("slide")

# %%
maps, w = rng.standard_normal((4, 6, 7)), rng.standard_normal((3, 4 * 2 * 5))
scores = slide(maps, w, (2, 5))
np.testing.assert_allclose(scores[:, 1, 2], w @ maps[:, 1:3, 2:7].reshape(-1))

from tinyalex.evaluate import Dense

net = make("vgg-a", width=1 / 32, size=32, classes=5).build(rng=np.random.default_rng(0))
small = rng.normal(0, 60, (3, 32, 32, 2)).astype(np.float32)
np.testing.assert_allclose(
    Dense(net).forward(small), net.forward(small), rtol=1e-4, atol=1e-5
)
print(
    "whole pictures of 64 × 96:",
    Dense(net).forward(np.zeros((3, 64, 96, 1), np.float32)).shape,
)

# %% [markdown]
# On a picture of one window the two are the same network. On a larger one the map holds what many windows
# would say, for a fraction of the work; not exactly, since a window cut out has zeros around it where the
# whole picture has pixels. `tinyalex evaluate RUN DATA --dense --scales 256,384,512 --flips` does all that.
#
# ## The first way to share: with yourself, later
#
# VGG's batch is 256 pictures. The maps of so many do not fit where those of 64 fit. But the gradient is a
# sum over pictures,
#
# $$\frac{\partial L}{\partial W} = \frac1N \sum_{n=1}^{N} \frac{\partial L_n}{\partial W},$$
#
# so take a part of the pictures, keep the sum, take the next part, and update at the end. Nothing is
# approximate about it. **Your turn**, for a linear layer and $L_n = \tfrac12 |W x_n - t_n|^2$, with $dy_n =
# (W x_n - t_n)/N$:


# %%
def in_parts(x, t, w, parts):
    """The gradient of mean over n of ½ |w x − t|², part by part.  x (D,N), t (F,N), w (F,D) → dw (F,D)."""
    N, dw = x.shape[1], np.zeros_like(w)
    for xs, ts in zip(
        np.split(x, parts, axis=1), np.split(t, parts, axis=1), strict=True
    ):
        dy = ...  # (F, N/parts)
        dw = ...  # (F, D): with this part's
    return dw


# %%
in_parts = check(in_parts)
# hint("in_parts")
# solution("in_parts")

# %%
x, t, w = (rng.standard_normal(shape) for shape in ((5, 12), (3, 12), (3, 5)))
whole = (w @ x - t) @ x.T / 12
for parts in (1, 2, 3, 4):
    np.testing.assert_allclose(in_parts(x, t, w, parts), whole)

# %% [markdown]
# In the library: `tinyalex train … --accumulate 4`. Dropout takes each part's columns of the mask that the
# whole batch would have drawn, so that these too are the same numbers.
#
# ## The second way: with others, at once
#
# Give each part to another device instead. Every rank has the whole network, and sees $N/R$ pictures. Now
# the sum runs over the ranks, and each must end up with all of it, or the copies of the network drift
# apart. A sum that everybody receives is an **all-reduce** (`comm.all_reduce`), lesson 12's reduce-scatter
# followed by its all-gather. This is **data parallelism**, and VGG's four GPUs worked so: 3.75 times as fast
# as one.
#
# **Your turn.**


# %%
def data_parallel(x, t, w):
    """The same gradient, each rank with its part of the pictures; what each rank has, (2, F, D)."""
    N = x.shape[1]

    def program(comm):
        mine = comm.part(N)  # of the pictures
        dy = ...  # (F, N/2)
        dw = ...  # (F, D): what everybody's pictures say
        return dw

    return np.stack(launch(program, devices))


# %%
data_parallel = check(data_parallel)
# hint("data_parallel")
# solution("data_parallel")

# %%
for dw in data_parallel(x, t, w):
    np.testing.assert_allclose(dw, whole)

# %% [markdown]
# What crosses? Not one activation, but the gradient of *every* weight, in every step, however large the
# batch. Of AlexNet's 61 million weights 58 lie in three fully connected layers, and of VGG-A's 133 million
# 124, in which a picture spends little time. For these, lesson 12's way is the cheap one: cut the layer,
# let the activations cross. For convolutions, few weights and large maps, it is the dear one.
#
# ## The third way: each where it is cheap
#
# So let convolutions share the batch and fully connected layers the features (Krizhevsky, 2014: *One weird
# trick for parallelizing convolutional neural networks*). Between the two stands a meeting of a new kind.
# Below it a rank has *all features of its own images*; above it a rank's rows want *all images*. What is
# joined is the axis of the images:
#
# $$\text{rank } r:\ h^{(r)}\ (H \times N/R)
# \qquad\longrightarrow\qquad \begin{pmatrix} h^{(0)} & h^{(1)} \end{pmatrix}\ (H \times N)$$
#
# Backward each rank holds its rows' word about all images, and lesson 12's rule holds as it stands: the
# gather copied, so a sum comes back, and each rank receives its own images. Then, below, the convolutions'
# weights are on every rank, and want the sum of data parallelism.
#
# **Your turn.** Three meetings, a layer $h = \max(0, W_1 x)$ for the convolutions and $y = W_2 h$ for the
# rest. (`comm.all_gather` and `comm.reduce_scatter` join and share rows; with `axis=1` columns.)


# %%
def hybrid(x, w1, w2, dy):
    """h = max(0, w1 x) data-parallel, y = w2 h model-parallel.  x (D,N), dy (F,N) → y, dw1, dw2."""
    N = x.shape[1]

    def program(comm):
        images, rows = comm.part(N), comm.part(len(w2))
        h = np.maximum(
            w1 @ x[:, images], 0
        )  # (H, N/2): all features, of this rank's images
        whole = ...  # (H, N): of all images
        y = w2[rows] @ whole  # (F/2, N): this rank's features, of all images

        dw2 = dy[rows] @ whole.T  # (F/2, H)
        partial = (
            w2[rows].T @ dy[rows]
        )  # (H, N): what this rank's rows say about all images
        dh = ...  # (H, N/2): what all rows say about this rank's images
        dw1 = ...  # (H, D): what all images say
        return y, dw1, dw2

    (y0, dw1, dw2_0), (y1, _, dw2_1) = launch(program, devices)
    return np.concatenate([y0, y1]), dw1, np.concatenate([dw2_0, dw2_1])


# %%
hybrid = check(hybrid)
# hint("hybrid")
# solution("hybrid")

# %%
x, dy = rng.standard_normal((3, 8)), rng.standard_normal((6, 8))
w1, w2 = rng.standard_normal((4, 3)), rng.standard_normal((6, 4))
h = np.maximum(w1 @ x, 0)
alone = w2 @ h, ((w2.T @ dy) * (h > 0)) @ x.T, dy @ h.T
for ours, theirs in zip(hybrid(x, w1, w2, dy), alone, strict=True):
    np.testing.assert_allclose(ours, theirs)
print("y, dw1, dw2: one rank and two agree")

# %% [markdown]
# That was his scheme **(a)**: all images are joined at once, and nothing can be computed meanwhile. In
# scheme **(b)** the ranks take turns: the first broadcasts its images' features, and while all work on
# these, the second's are on their way. The bytes are the same, the waiting is not, and the memory for
# `whole` is a part's. It is the first way and the third together: the fully connected layers see the batch
# in parts, and add up.


# %%
def in_turn(x, w1, w2, dy):
    """As `hybrid`, one rank's images after the other's."""

    def program(comm):
        N, rows = x.shape[1], comm.part(len(w2))
        n = N // comm.size
        images = comm.part(N)
        h = np.maximum(w1 @ x[:, images], 0)
        dw2, partial = 0, []
        for turn in range(comm.size):
            now = slice(turn * n, (turn + 1) * n)
            seen = comm.broadcast(
                h, turn
            )  # (H, N/2): the images of the rank whose turn it is
            dw2 = dw2 + dy[rows, now] @ seen.T
            partial.append(w2[rows].T @ dy[rows, now])
        dh = comm.reduce_scatter(np.concatenate(partial, axis=1), axis=1)
        return comm.all_reduce((dh * (h > 0)) @ x[:, images].T), dw2

    (dw1, upper), (_, lower) = launch(program, devices)
    return dw1, np.concatenate([upper, lower])


for ours, theirs in zip(in_turn(x, w1, w2, dy), alone[1:], strict=True):
    np.testing.assert_allclose(ours, theirs)

# %% [markdown]
# ## What crosses, for VGG
#
# `tinyalex.measure.describe` counts it for any network and any of the three. VGG-A, batches of 256 on four
# devices; what one of them receives in a step:

# %%
from tinyalex.measure.describe import describe

vgg = make("vgg-a")
MB = 1e6
received = {}
for parallel in ("data", "model", "hybrid"):
    total = describe(vgg, 4, 256, parallel).total
    received[parallel] = (
        (total.received_forward + total.received_backward) / MB,
        total.received_gradients / MB,
    )
    crossing, gradients = received[parallel]
    print(f"{parallel:7} maps {crossing:8.0f} MB, gradients {gradients:5.0f} MB")
weights = sum(place.layer.count(place.x) for place in vgg.plan())
assert round(received["data"][1]) == round(4 * weights * 2 * 3 / 4 / MB) == 797
assert sum(received["hybrid"]) < sum(received["data"]) < sum(received["model"])

# %% drawing
axes = draw.panels(1, height=2.4)
places = np.arange(3)
axes.bar(
    places - 0.2,
    [r[0] for r in received.values()],
    0.38,
    color=draw.INK[2],
    label="maps, features",
)
axes.bar(
    places + 0.2,
    [r[1] for r in received.values()],
    0.38,
    color=draw.INK[3],
    label="gradients",
)
axes.set_xticks(places, received)
axes.set_yscale("symlog", linthresh=10)
axes.legend(frameon=False)
draw.plain(axes, ylabel="MB received", title="VGG-A, batch 256, one of four devices")

# %% [markdown]
# ## Break it on purpose
#
# Let each rank take the mean over *its own* pictures, and sum over the ranks. **Guess:** what does the run
# look like?


# %%
def own_means(comm):
    """Data parallelism with a mean too many."""
    mine = comm.part(12)
    x, t, w = example
    dy = (w @ x[:, mine] - t[:, mine]) / x[:, mine].shape[1]
    return comm.all_reduce(dy @ x[:, mine].T)


example = [rng.standard_normal(shape) for shape in ((5, 12), (3, 12), (3, 5))]
x, t, w = example
right = (w @ x - t) @ x.T / 12
for ranks in (1, 2, 3, 4):
    some = ",".join(f"cpu:{r}" for r in range(ranks))
    np.testing.assert_allclose(launch(own_means, some)[0], ranks * right)
print("each gradient is as many times too large as there are ranks")

# %% [markdown]
# On one device the mistake cannot be seen, and on four the rate has quietly become four times as large.
# (Who wants that says so: Krizhevsky's note multiplies the rate by $k$ or by $\sqrt k$ where the *batch* is
# $k$ times as large, which is another matter.)
#
# ## Think about it
#
# 1. Batch normalization takes a mean over the batch. Is a batch in parts still the batch in one piece?
# 2. Four ranks, data parallel: what crosses if the batch is doubled? In lesson 12's way?
# 3. Why does the dense test of a network with padding not equal the mean of its windows?
#
# <details><summary>What we would answer</summary>
#
# 1. No: each part has a mean of its own, as each rank has in data parallelism. It is the one layer of this
#    library that can tell the difference, and it says so.
# 2. Data parallel: the same bytes, the weights' gradients. In lesson 12's way twice as many, the maps.
# 3. A window cut out has zeros beyond its border, and so have its maps at every layer; in the whole picture
#    there are pixels. Without padding the two agree to the last digit.
#
# </details>
#
# ## What comes next
#
# This was the last lesson. `tinyalex describe vgg-d --devices 8 --parallel hybrid` plans what no device here
# could train, and `measured/vgg_cifar` shows what a narrow A and D came to, from scratch and from A. Or
# begin again at [lesson 1](01_pictures_as_arrays.ipynb), and find what you would now explain better than we
# did.
