# %% [markdown]
# # 13 · AlexNet: all of it
#
# [Lesson 12](12_two_gpus.ipynb) ended with all parts on the table. Here they are put together.
#
# **There is nothing new in AlexNet: it is a list of the layers you have written.** New are only the sizes,
# and what follows from them: where the parameters are, where the work is, what the memory is full of. We
# count them, let a narrow AlexNet take real steps, and test it with ten views.
#
# Section 3.5 of the paper:
#
# > "As depicted in Figure 2, the net contains eight layers with weights; the first five are convolutional
# > and the remaining three are fully-connected."
#
# **You bring:** everything.
#
# **You take away:** the network from 150,528 numbers in to 1000 out, counted and understood; a training
# loop of four lines; ten views; and the two settings without which it does not move.

# %%
import numpy as np

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(13)
rng = np.random.default_rng(13)
assert 3 * 224 * 224 == 150_528

# %% [markdown]
# ## Counting one layer
#
# A convolution of $F$ kernels $K\times K$ over $C$ maps, in $g$ groups, has an output of $OH\times OW$
# numbers for each kernel. By hand for a small one: $F = 4$, $K = 3$, $C = 6$, $g = 2$, output 5×5. A kernel
# reads the 3 maps of its group: $3\cdot 9 = 27$ weights. Four kernels have 108, and 4 biases: 112
# **parameters**. The output has $4\cdot 25 = 100$ numbers, the paper's **neurons**. Each of them costs 27
# multiplications and additions: 2700 **multiply-adds**.
#
# A fully connected layer is the same with $K = 1$ and an output of 1×1. **Your turn.**


# %%
def count(F, C, K, side, groups):
    """A convolution, side×side outputs → (parameters, neurons, multiply_adds)."""
    weights = ...
    parameters = ...
    neurons = ...
    multiply_adds = ...
    return parameters, neurons, multiply_adds


# %%
count = check(count)
# hint("count")
# solution("count")

# %%
assert count(4, 6, 3, 5, 2) == (112, 100, 2700)

# %% [markdown]
# ## Counting all
#
# | layer | kernels | over | size | output | groups |
# |---|---|---|---|---|---|
# | conv1 | 96 | 3 | 11×11, stride 4 | 55×55 | 1 |
# | conv2 | 256 | 96 | 5×5 | 27×27 | 2 |
# | conv3 | 384 | 256 | 3×3 | 13×13 | 1 |
# | conv4 | 384 | 384 | 3×3 | 13×13 | 2 |
# | conv5 | 256 | 384 | 3×3 | 13×13 | 2 |
# | fc6 | 4096 | 256·6·6 | | | |
# | fc7 | 4096 | 4096 | | | |
# | fc8 | 1000 | 4096 | | | |
#
# A 3×3 pooling with stride 2 after conv1, conv2 and conv5 makes 27 of 55, 13 of 27, and 6 of 13. Your
# function must get the library's numbers, which it reads off the layers' declarations:

# %%
from tinyalex.measure.describe import describe
from tinyalex.models import AlexNet, alexnet

layers = {
    "conv1": (96, 3, 11, 55, 1),
    "conv2": (256, 96, 5, 27, 2),
    "conv3": (384, 256, 3, 13, 1),
    "conv4": (384, 384, 3, 13, 2),
    "conv5": (256, 384, 3, 13, 2),
    "fc6": (4096, 256 * 6 * 6, 1, 1, 1),
    "fc7": (4096, 4096, 1, 1, 1),
    "fc8": (1000, 4096, 1, 1, 1),
}
full = describe(alexnet(), ranks=1, batch=128)
rows = {row.layer: row for row in full.rows}
for name, sizes in layers.items():
    counted = count(*sizes)
    assert counted == (
        rows[name].parameters,
        rows[name].neurons,
        rows[name].multiply_adds,
    )
    print(
        f"{name}  {counted[0]:>10,} parameters {counted[1]:>7,} neurons {counted[2]:>11,}"
    )

total = np.sum([count(*sizes) for sizes in layers.values()], axis=0)
assert list(total) == [60_965_224, 659_272, 724_406_816]

# %% [markdown]
# "60 million parameters and 650,000 neurons", says the abstract, and so it is: 60,965,224 and 659,272.
# (Figure 2 of the paper gives 253,440 for conv1's output. It is $55\cdot 55\cdot 96 = 290{,}400$; the other
# is $55\cdot 48\cdot 96$, a slip of the pen.) One picture costs 724 million multiply-adds forward.

# %%
assert 55 * 55 * 96 == 290_400
assert 55 * 48 * 96 == 253_440

names = list(layers)
conv = np.sum([count(*layers[n]) for n in names[:5]], axis=0) / total
assert round(100 * conv[0], 1) == 3.8
assert round(100 * conv[2]) == 92

# %% drawing
axes = draw.panels(1, 1, 1, height=2.6)
for a, column, title in zip(
    axes, range(3), ("parameters", "neurons", "multiply-adds"), strict=True
):
    shares = np.array([count(*layers[n])[column] for n in names]) / total[column]
    colours = [draw.INK[0] if n.startswith("conv") else draw.INK[1] for n in names]
    a.barh(names, 100 * shares, color=colours)
    a.invert_yaxis()
    draw.plain(a, "percent", "", title)

# %% [markdown]
# Two networks in one. The convolutions (orange) have 3.8 percent of the parameters and do 92 percent of the
# work; the fully connected layers (blue) the other way round. Much of what came in the following years
# attacks one of the two ends.
#
# ## 224 or 227?
#
# $(224 - 11)/4 + 1$ is 54.25. The 2012 code rounded **up**, to 55: its last window hung three pixels over
# the edge, and those counted as zero. So 224 with three rows and columns of zeros at the bottom and right,
# or a picture of 227: the sizes are the same, and lesson 4 has the story.

# %%
assert (224 - 11) / 4 + 1 == 54.25
for size in (224, 227):
    assert describe(alexnet(AlexNet(size=size))).rows[0].output == (96, 55, 55, 128)

# %% [markdown]
# ## What the memory is full of
#
# Training keeps what backward will read. For a batch of 128:

# %%
parts = {
    "parameters, gradients, velocities": full.total.parameter_bytes,
    "kept for backward": full.total.kept_bytes,
    "largest temporary": full.total.temporary_bytes,
}
for what, nbytes in parts.items():
    print(f"{nbytes / 1e6:7.0f} MB  {what}")
assert round(full.total.parameter_bytes / 1e6) == 732 == round(3 * 4 * 60_965_224 / 1e6)
assert full.total.kept_bytes > full.total.parameter_bytes

early = full.rows[: [row.layer for row in full.rows].index("pool2") + 1]
assert sum(row.kept_bytes for row in early) > 0.8 * full.total.kept_bytes

kept = [row for row in full.rows if row.kept_bytes > 5e6]

# %% drawing
axes = draw.panels(1, height=2.3)
axes.bar(
    [row.layer for row in kept], [row.kept_bytes / 1e6 for row in kept], color=draw.INK[3]
)
draw.plain(axes, "", "MB", "kept for backward, batch of 128")

# %% [markdown]
# Three numbers of four bytes for each parameter, 732 MB, whatever the batch; and more than that in
# activations, four fifths of it and more in the first two stages, where maps are large. A larger batch
# costs only there.
#
# ## A narrow one, and its first steps
#
# The same list of layers with fewer kernels, for pictures of 67 pixels and ten classes. The pictures are
# the library's shapes, enlarged to 75 pixels. The middle 67 are cut out, and the mean image is subtracted.

# %%
from tinyalex.data import augment, shapes
from tinyalex.ops.softmax import softmax, softmax_loss_backward, softmax_loss_forward
from tinyalex.optim import SGD

narrow = AlexNet(
    filters=(16, 24, 40, 32, 48), hidden=56, classes=10, size=67, dropout=False
)


def enlarged(data):
    return np.stack(
        [augment.upscale(image, 75) for image in data.images.transpose(3, 0, 1, 2)], -1
    )


train = shapes.make(60, np.random.default_rng(0))
large = enlarged(train)  # (3, 75, 75, 60), 0–255
mean = large.mean(axis=3, keepdims=True)
x = np.ascontiguousarray(augment.centre_view(large - mean, 67))
assert x.shape == (3, 67, 67, 60)


def learn(options, pictures, steps):
    """Losses of some steps on one and the same batch; the model."""
    model = alexnet(options).build(rng=np.random.default_rng(1))
    optimizer = SGD(model, rate=0.003, momentum=0.9, decay=0.0005)
    losses = []
    for _ in range(steps):
        logits = model.forward(pictures, train=True)
        loss, cache = softmax_loss_forward(logits, train.labels)
        model.backward(softmax_loss_backward(cache))
        optimizer.step()
        losses.append(float(loss))
    return losses, model


# %% [markdown]
# Four lines make a step: forward, loss, backward, update. (The library's `train_step` is these
# four, and a look whether the loss is still finite.)
#
# The first question to a new network is whether it can learn **one batch** by heart. If it cannot, no
# amount of data helps. Let 60 pictures be that batch. But before you run it, look at what differs between
# the three runs, and use lessons 8 and 10. **Which of them will learn, in 30 steps?**
#
# 1. As the paper begins: weights of 0.01, raw pixels.
# 2. Weights so large that a layer keeps its signal ($\sqrt{2/D}$, lesson 10), raw pixels.
# 3. The same weights as 2, and pixels divided by 255, as is usual today.

# %%
strong = narrow._replace(conv_std=0.08, conv345_std=0.1, fc_std=0.2)
curves = {
    "1: weights 0.01": learn(narrow, x, 30)[0],
    "3: pixels / 255": learn(strong, x / np.float32(255), 30)[0],
}
curves["2: weights √(2/D)"], model = learn(strong, x, 30)
print({label: round(losses[-1], 3) for label, losses in curves.items()})
assert curves["2: weights √(2/D)"][-1] < 0.3
assert curves["1: weights 0.01"][-1] > 2.25
assert curves["3: pixels / 255"][-1] > 2.0

# %% drawing
axes = draw.panels(1, height=2.8)
for colour, (label, losses) in zip(draw.INK, sorted(curves.items()), strict=False):
    axes.plot(losses, "--" if label[0] == "3" else "-", color=colour, label=label)
axes.axhline(np.log(10), color="0.7", lw=1)
axes.legend(frameon=False)
draw.plain(axes, "step", "loss", "one batch by heart (grey: log 10, a guess)")

# %% [markdown]
# The paper's weights are so small that this narrow network, whose layers have few inputs, passes nothing on
# in the first steps. (From conv2 on the real one's units have six times as many inputs and more, and it had
# days.) Divided pixels are the same mistake at the bottom:
# the signal enters 255 times weaker, and 2012's constants are meant for raw pixels.
#
# ## One picture on its way up
#
# Step through the trained network with one picture: eight maps of each layer, then the units.

# %%
stages = [
    "conv1",
    "pool1",
    "conv2",
    "pool2",
    "conv3",
    "conv5",
    "fc6",
    "fc8",
]
one = x[..., :1]
outputs = {name: model.forward(one, last=name)[..., 0] for name in stages}
assert outputs["fc8"].argmax() == train.labels[0]


# %% drawing
def passing(k):
    """Step k: the picture, and what a layer makes of it."""
    y = outputs[stages[k]]
    title = f"{stages[k]}   {'×'.join(map(str, y.shape))}"
    if y.ndim == 3 and y.shape[1] > 1:
        strongest = y[np.argsort(-y.max(axis=(1, 2)))[:8]]
        tiles = np.pad(strongest, ((0, 0), (1, 1), (1, 1)), constant_values=y.max())
        tiles = np.vstack([np.hstack(tiles[:4]), np.hstack(tiles[4:])])
        made = paint.picture(tiles, title, max(1, 330 // tiles.shape[1]))
    else:
        low, high = min(y.min(), 0), y.max()
        made = paint.plot(title, (0, y.size), (low, high)).bars(y.ravel(), [1] * y.size)
    name = train.classes[train.labels[0]]
    return paint.row(paint.picture(large[..., 0], name, 2), made)


step_through(passing, len(stages))

# %% [markdown]
# ## Ten views
#
# At test the paper asks ten times: the four corners and the centre of the 256-pixel picture, and their
# mirror images, and
#
# > "averaging the predictions made by the network's softmax layer on the ten patches."
#
# Averaged are the *probabilities*. **Your turn.**


# %%
def ten_view_prediction(logits):
    """Mean of the softmax outputs.  logits (views, K, N) → probabilities (K, N)."""
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    ...  # make each view's e sum to 1 over the classes
    p = ...
    return p


# %%
ten_view_prediction = check(ten_view_prediction)
# hint("ten_view_prediction")
# solution("ten_view_prediction")

# %% [markdown]
# For pictures that the network has not seen. Its mean image's middle is subtracted from each view, as in
# 2012.

# %%
test = shapes.make(80, np.random.default_rng(7))
middle = augment.centre_view(mean, 67)
views = [
    np.ascontiguousarray(view - middle) for view in augment.ten_views(enlarged(test), 67)
]
logits = np.stack([model.forward(view) for view in views])
assert logits.shape == (10, 10, 80)

averaged = ten_view_prediction(logits)
single = [ten_view_prediction(z[None]) for z in logits]
right = test.labels, np.arange(80)
losses = [-np.log(p[right]).mean() for p in single]
together = -np.log(averaged[right]).mean()
errors = [(p.argmax(axis=0) != test.labels).mean() for p in single]
print(
    f"loss of one view, on average: {np.mean(losses):.2f}; of the ten together: {together:.2f}"
)
print(
    f"top-1 error of one view, on average: {np.mean(errors):.3f}; "
    f"of the ten together: {(averaged.argmax(axis=0) != test.labels).mean():.3f}"
)
assert together < np.mean(losses)

np.testing.assert_allclose(
    averaged, np.mean([softmax(z) for z in logits], axis=0), rtol=1e-4
)

# %% drawing
axes = draw.panels(3, 10, height=2.6)
n = int(np.argmax(logits.std(axis=0).sum(axis=0)))  # the picture whose views differ most
draw.picture(axes[0], test.images[..., n], test.classes[test.labels[n]])
axes[1].plot(np.array([p[:, n] for p in single]).T, color="0.75", lw=1)
axes[1].plot(averaged[:, n], "o-", color=draw.INK[0])
axes[1].set_xticks(range(10), test.classes, rotation=40, ha="right", size=8)
draw.plain(axes[1], "", "probability", "ten views (grey) and their mean")

# %% [markdown]
# The error is poor, of course: the network has learned 60 pictures by heart. But the averaged prediction
# has a smaller loss than the views have on average, and that is no accident: $-\log$ is a convex function,
# and by Jensen's inequality
#
# $$-\log\frac{1}{10}\sum_v p_v \;\le\; \frac{1}{10}\sum_v \left(-\log p_v\right)$$
#
# for every picture. It cannot be otherwise. For the real network ten views were worth 1.5 points of top-1
# error: 39.0 to 37.5 percent, and 18.3 to 17.0 of top-5.

# %%
assert round(39.0 - 37.5, 1) == 1.5
per_picture = -np.log(np.array([p[right] for p in single])).mean(axis=0)
assert (-np.log(averaged[right]) <= per_picture + 1e-5).all()

# %% [markdown]
# ## Break it on purpose
#
# **Leave the network in training mode while testing.** It is one argument, `train=True`, and the most
# common mistake with dropout. **Guess:** what happens if the same picture is asked twice?

# %%
with_dropout = alexnet(strong._replace(dropout=True)).build(rng=np.random.default_rng(1))
for name, layer, key in model.parameters():
    with_dropout.layers[name.rpartition(".")[0]].params[key] = layer.params[key]

first, second = (softmax(with_dropout.forward(x, train=True)) for _ in range(2))
changed = (first.argmax(axis=0) != second.argmax(axis=0)).mean()
print(f"classes that change between two askings: {100 * changed:.0f} %")
assert changed > 0.02
tests = [with_dropout.forward(x) for _ in range(2)]
np.testing.assert_array_equal(*tests)

# %% [markdown]
# It answers differently each time, since it draws other masks. A test that is not repeatable is a test in
# training mode: ask twice and compare, it is the cheapest check there is.
#
# ## The whole of it
#
# Everything above, for pictures of your own, is three commands: `tinyalex prepare imagenet SRC DST`,
# `tinyalex train DST RUN`, `tinyalex evaluate DST RUN --views 10`. And the network itself is one page to
# read now: `tinyalex/models/alexnet.py`. There is hardly a line in it that you have not derived.
#
# ## Think about it
#
# 1. fc6 has 38 million parameters because it reads 256 maps of 6×6. What happens to this number if the
#    picture has 300 pixels? And to conv5's?
# 2. The batch is doubled. Which of the three parts of the memory doubles? Which of the bytes of lesson 12
#    that cross?
# 3. Is it a good sign if a network learns one batch by heart?
#
# <details><summary>What we would answer</summary>
#
# 1. The last maps become 9×9 instead of 6×6, and fc6 has 85 million weights instead of 38. conv5 does not
#    change: a kernel is the same at every place. That is why AlexNet is bound to one size of picture, and
#    its convolutional part is not.
# 2. What is kept, and the temporary; not the parameters. Activations cross between the towers, so that
#    doubles too; the gradients that data parallel ranks exchange would not.
# 3. A necessary one. It shows that signal and gradient get through, that loss, labels and update are wired
#    right. It says nothing about pictures that the network has not seen.
#
# </details>
#
# ## What comes next
#
# A network that has learned can be looked at: what do its kernels look like, what does it confuse, and
# which pictures are alike to it? [Lesson 14: looking inside](14_looking_inside.ipynb).
