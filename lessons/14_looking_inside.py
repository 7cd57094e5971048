# %% [markdown]
# # 14 · Looking inside: kernels, five guesses, and pictures that are alike
#
# [Lesson 13](13_alexnet.ipynb) assembled AlexNet. This lesson asks what a trained network has become, with
# the three instruments of the paper's last section: its Figure 3, and the two halves of its Figure 4.
#
# **Look at the bottom: what does a kernel of the first layer look for? Look at the top: what else did it
# think of? And look between: two pictures are alike to the network if its last hidden units answer alike.**
# All three are a few lines, and each has a trap in its first version.
#
# Section 6.1 of the paper:
#
# > "If two images produce feature activation vectors with a small Euclidean separation, we can say that the
# > higher levels of the neural network consider them to be similar."
#
# **You bring:** a network that can be trained (lessons 4 to 10).
#
# **You take away:** pictures of kernels in which grey means 0, a top-5 error that cannot be cheated, and a
# search by pictures.

# %%
import numpy as np
from IPython.display import display

from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(14)

# %% [markdown]
# ## Something to look into
#
# A small network, trained here in two seconds on the library's shapes: two convolutions with pooling, 48
# hidden units, ten classes. It stands for AlexNet; `tinyalex figure kernels RUN`, `predictions RUN DATA` and
# `neighbours RUN DATA` draw the same figures for a run of the real one.

# %%
from tinyalex.data import shapes
from tinyalex.data.loader import InMemory
from tinyalex.nn import Conv2d, Linear, MaxPool, Sequential
from tinyalex.ops.softmax import softmax
from tinyalex.optim import SGD
from tinyalex.train import train_step

train = shapes.make(1600, np.random.default_rng(0))
test = shapes.make(300, np.random.default_rng(1))

net = Sequential(
    [
        Conv2d(16, 5, stride=2, pad=2, activation="relu", std=0.004, name="conv1"),
        MaxPool(3, 2),
        Conv2d(32, 3, pad=1, activation="relu", std=0.1, name="conv2"),
        MaxPool(3, 2),
        Linear(48, activation="relu", std=0.06, name="fc3"),
        Linear(10, std=0.05, name="fc4"),
    ],
    (3, 32, 32),
    rng=np.random.default_rng(1),
)
optimizer = SGD(net, rate=0.001, momentum=0.9, decay=0.0005)
batches, order = InMemory(train, batch=20), np.random.default_rng(3)
untrained = net.layers["conv1"].params["w"].copy()
errors = []
for epoch in range(4):
    if epoch == 3:
        optimizer.rate /= 5
    steps = [train_step(net, optimizer, x, labels) for x, labels in batches.epoch(order)]
    errors.append(round(float(np.mean([s.error for s in steps])), 2))

pixels = (test.images - batches.mean).astype(np.float32)
scores = net.forward(pixels)  # logits (10, 300)
probabilities = softmax(scores)
guesses = scores.argmax(axis=0)
print("training error, epoch by epoch:", *errors)
print(f"test error: {(guesses != test.labels).mean():.2f}")
assert (guesses != test.labels).mean() < 0.7

# %% [markdown]
# ## Kernels
#
# A kernel of the first layer is 3×5×5 numbers: a small colour picture, nearly. Weights have signs, and
# pictures run from 0 to 255. How is one turned into the other? The obvious way makes the smallest weight
# black and the largest white, and it *lies*: a kernel that looks for a bright spot and for nothing else has
# a black surround then, as if it wanted darkness there. Its zeros are black, another's are grey.
#
# Let 0 be middle grey in every kernel, and scale each by its own largest absolute weight:
#
# $$\text{pixel} = 127.5 + 127.5\;\frac{w}{\max |w|}$$
#
# A weight of $+\max$ becomes 255, one of $-\max$ 0. **Your turn.**


# %%
def kernel_pictures(w):
    """Kernels as pictures: 0 is grey, max |w| of each kernel full.  (F,3,KH,KW) → uint8."""
    scale = ...  # one number a kernel, shaped so that w / scale works
    pictures = ...
    return np.rint(pictures).astype(np.uint8)


# %%
kernel_pictures = check(kernel_pictures)
# hint("kernel_pictures")
# solution("kernel_pictures")

# %%
spot = np.zeros((1, 3, 5, 5))
spot[:, :, 1:3, 2:4] = 0.02
lie = (255 * spot / spot.max()).astype(np.uint8)

# %% drawing
axes = draw.panels(1, 1, height=1.5)
draw.picture(axes[0], lie[0], "smallest weight black: a lie")
draw.picture(axes[1], kernel_pictures(spot)[0], "0 is grey: looks for a bright spot")

# %% [markdown]
# Now the network's 16 kernels, before training and after. How coloured is a kernel? Take away what its
# three channels have in common, their mean; the share of $\sum w^2$ that remains is *difference between
# channels*. Of three directions in the space of colours one is brightness and two are differences, so
# random kernels have a share of about two thirds.


# %%
def colour_share(w):
    """Share of each kernel's Σ w² that is difference between its channels."""
    difference = w - w.mean(axis=1, keepdims=True)
    return (difference**2).sum(axis=(1, 2, 3)) / (w**2).sum(axis=(1, 2, 3))


def sheet(w):
    """Sixteen kernels, two rows of eight, the least coloured first."""
    tiles = kernel_pictures(w[np.argsort(colour_share(w))])
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=255)
    return np.hstack([np.concatenate(tiles[i : i + 8], axis=2) for i in (0, 8)])


trained = net.layers["conv1"].params["w"]
assert abs(colour_share(untrained).mean() - 2 / 3) < 0.05
assert colour_share(trained).mean() < 0.55

# %% drawing
left, right = draw.panels(1, 1, height=1.5)
draw.picture(
    left,
    sheet(untrained),
    f"before: share of colour {colour_share(untrained).mean():.2f}",
)
draw.picture(
    right, sheet(trained), f"after: share of colour {colour_share(trained).mean():.2f}"
)

# %% [markdown]
# After two seconds they are rough, but the direction shows: they have turned away from colour, towards
# light and dark. The shapes' colours say nothing about their class, their edges do. No kernel was told.
# AlexNet's kernels, of 11×11 and after five or six days, are clean: "a variety of frequency- and
# orientation-selective kernels, as well as various colored blobs" (section 6.1). And they split themselves
# between the two GPUs: "largely color-agnostic" on one, "largely color-specific" on the other, in every
# run.
#
# `tinyalex.look.figures.kernels_figure` draws the paper's Figure 3, with this scale.
#
# ## Five guesses
#
# A picture of ImageNet often shows two things, and has one label. So the paper counts two errors: the
# **top-1** error, how often the best guess is not the label, and the **top-5** error, how often the label
# is not among the best five.
#
# A sort is not needed. Count how many classes have a *higher* score than the label: the label is among the
# best $k$ exactly if that number is below $k$. With scores $(5, 9, 1, 7)$ and label 0, two are higher:
# wrong for $k = 1$ and 2, right for $k = 3$. **Your turn.**


# %%
def top_k_error(scores, labels, k):
    """Share of pictures whose label is not among the k best.  scores (K,N), labels (N,)."""
    own = scores[labels, np.arange(len(labels))]  # (N,): the label's score
    above = ...  # (N,): how many classes have a higher one
    error = ...
    return error


# %%
top_k_error = check(top_k_error)
# hint("top_k_error")
# solution("top_k_error")

# %%
example = np.array([[5.0], [9], [1], [7]])
assert [top_k_error(example, np.array([0]), k) for k in (1, 2, 3)] == [1, 1, 0]

from tinyalex.look.figures import predictions_figure
from tinyalex.ops.softmax import topk_error

for k in (1, 2, 5):
    ours = top_k_error(scores, test.labels, k)
    assert np.isclose(ours, topk_error(scores, test.labels, k).mean())
    print(f"top-{k} error: {ours:.3f}")

some = np.argsort(probabilities.max(axis=0))[[20, 110, 200, 290]]  # from unsure to sure
display(
    predictions_figure(
        test.images[..., some], probabilities[:, some], test.labels[some], test.classes
    )
)

# %% [markdown]
# That is the left half of the paper's Figure 4: bars as long as the probability, the right class in orange.
# Which classes does it take for which? Rows are the true classes, columns the guesses:

# %%
confusion = np.zeros((10, 10), int)
np.add.at(
    confusion, (test.labels, guesses), 1
)  # lesson 5 knows why not confusion[…] += 1
assert confusion.sum() == 300
assert (confusion.sum(axis=1) == 30).all()

# %% drawing
axes = draw.panels(1, height=3.6)
draw.array(axes, confusion, "guesses for 30 pictures of each class")
axes.set_yticks(range(10), test.classes, size=8)
_ = axes.set_xticks(range(10), test.classes, rotation=45, ha="right", size=8)

# %% [markdown]
# ## Pictures that are alike
#
# Now the part between. The last hidden layer has 48 numbers for each picture here, 4096 in AlexNet: its
# **features**. The paper measures how alike two pictures are by the Euclidean distance between their
# features. For all pairs at once,
#
# $$\|a - b\|^2 = \|a\|^2 - 2\,a\cdot b + \|b\|^2 ,$$
#
# and the middle term for $N$ queries and $M$ pictures is one matrix product. **Your turn.** The square root
# is not needed to sort.


# %%
def nearest(queries, database, k):
    """Indices of the k nearest columns, nearest first.  (D,N), (D,M) → (k,N)."""
    squares = ...  # (M, N): squared distances
    order = np.argsort(squares, axis=0)
    return order[:k]


# %%
nearest = check(nearest)
# hint("nearest")
# solution("nearest")

# %%
from tinyalex.look import retrieval

database = net.forward((train.images - batches.mean).astype(np.float32), last="fc3")
queries = net.forward(pixels, last="fc3")
by_features = nearest(queries.astype(float), database.astype(float), 6)
theirs, _ = retrieval.nearest(queries, database, 6)
assert (by_features == theirs).mean() > 0.999

flat = train.images.reshape(-1, 1600).astype(float)
by_pixels = nearest(test.images.reshape(-1, 300).astype(float), flat, 6)

agree = {
    "pixels": (train.labels[by_pixels] == test.labels).mean(),
    "features": (train.labels[by_features] == test.labels).mean(),
}
for name, share in agree.items():
    print(f"neighbours of the same class, by {name}: {share:.2f}")
assert 0.05 < agree["pixels"] < 0.25
assert agree["features"] > 2 * agree["pixels"]
assert 0.4 < agree["features"] < 0.55

# %% [markdown]
# By pixels, the six nearest training pictures are of the query's class not much more often than by chance
# (one in ten). By features, far more often. Step through some pictures that were recognized.

# %%
recognized = np.flatnonzero(guesses == test.labels)
walk = [
    recognized[test.labels[recognized] == c][0]
    for c in range(0, 10, 2)
    if c in guesses[recognized]
]


# %% drawing
def alike(k):
    """Step k: a test picture, its neighbours by pixels and by features."""
    i = walk[k]
    name = test.classes[test.labels[i]]
    shown = [paint.picture(test.images[..., i], f"test: {name}", 4)]
    for found, title in ((by_pixels, "pixels"), (by_features, "features")):
        near = np.moveaxis(train.images[..., found[:, i]], 3, 0)
        near = np.pad(near, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=255)
        sheet = np.concatenate(near, axis=2)
        classes = ", ".join(train.classes[c] for c in train.labels[found[:, i]])
        shown.append(paint.picture(sheet, f"nearest by {title}", 2).note(classes))
    return paint.row(*shown)


step_through(alike, len(walk))

# %% [markdown]
# By pixels: the same colours, the same light, at the same place, and of every six about one of the same
# class. By features nearly half of them are, in other colours and at other places. Not all: this small
# network still takes every second test picture for something else, and where it errs its neighbours err with
# it. Nobody told it to care less for colour and place; they say nothing about the class. That is what "the
# higher levels consider them to be similar" means, and why features of a network that has learned ImageNet
# are of use for other pictures.
#
# ## Break it on purpose
#
# A network is broken: it gives **every class the same score**, for all pictures. **Guess before you run:**
# what top-1 error does your function report?

# %%
nothing = np.zeros((10, 300))
print("ours:       ", top_k_error(nothing, test.labels, 1))
print("the library:", topk_error(nothing, test.labels, 1).mean())
assert top_k_error(nothing, test.labels, 1) == 0
assert np.isclose(topk_error(nothing, test.labels, 1).mean(), 0.9)
assert np.isclose(topk_error(nothing, test.labels, 5).mean(), 0.5)

# %% [markdown]
# No error at all! No class is *above* the label, so the label is "among the best". Counting `>=` instead
# would report 100 percent, and sorting would favour whichever class has the lower number. It happens: a
# network with a NaN, or with all ReLUs dead, or in the first step with weights of zero, has exactly such
# scores.
#
# The code of 2012 had thought of it. If $m$ classes are above the label and $e$ are equal to it (itself
# included), $k - m$ places are left for $e$ candidates, and the label gets one with probability
#
# $$\frac{k - m}{e}\quad\text{(cut to the range 0 to 1)}$$
#
# which is what the library's `topk_error` counts: 0.9 for a guess among ten, 0.5 for five guesses.
#
# ## Think about it
#
# 1. Kernels of conv2 have 16 input maps here, 48 in AlexNet. Why does nobody show *them* as pictures?
# 2. In float32, $\|a\|^2 - 2ab + \|b\|^2$ of two nearly equal vectors can come out negative. Why, and what
#    would you do?
# 3. Searching 1.2 million pictures by 4096 numbers each is slow. The paper suggests to compress the
#    features to short binary codes. Why not compress the pixels directly?
#
# <details><summary>What we would answer</summary>
#
# 1. Their inputs are not colours but answers of other kernels. One would have to follow each back to the
#    pixels, which is what later work did (deconvolution, saliency).
# 2. Two large numbers are subtracted that agree in most digits; what is left is their rounding. Measure
#    again, by $\sum (a-b)^2$, those few pairs that could be among the nearest: `tinyalex.look.retrieval` does
#    so, in float64.
# 3. A short code keeps what is *large* in what it is given. In pixels that is light and colour; in features
#    it is what the network needed to tell classes apart.
#
# </details>
#
# ## What comes next
#
# All of AlexNet is understood, and all of it was slow. Why the library's versions of the same formulas are
# many times as fast, and how to measure it, is [lesson 15](15_fast.ipynb).
