# %% [markdown]
# # 0 · Ten minutes: a network that recognises shapes, a photograph of yours, and a broken kernel
#
# **You need nothing before this lesson.**  Run the cells from the top: with Shift+Enter in a notebook, with
# *Run* on a page.  You will see a network at work, give it a photograph, and break it.
#
# It is a small relative of AlexNet.  It has learned one thing: to tell ten shapes apart, whatever their
# colour, size and place.
#
# **You bring:** nothing but curiosity.
#
# **You take away:** what goes into such a network, what comes out, and what a *kernel* is.

# %%
import numpy as np

from tinyalex.data import shapes
from tinyalex.lessons import lesson, paint, step_through
from tinyalex.lessons.zero import photograph, seen, trained

check, hint, solution, tutor = lesson(0)
net = trained()
test = shapes.make(500, np.random.default_rng(100))
names = test.classes
print("It knows:", ", ".join(names))

# %% [markdown]
# ## It recognises pictures
#
# Here are pictures that it has never seen, 32 pixels wide, drawn a moment ago.  A picture is nothing but
# numbers: at each pixel how much red, green and blue there is.  The network answers with ten numbers, one
# **score** for each shape. The highest score is its answer.

# %% drawing
scores = net.forward(seen(test.images))  # (10, 500)
answers = scores.argmax(axis=0)


def looked_at(n):
    """A picture and the scores that it gets; of the bars the highest is orange."""
    inks = [0 if k == answers[n] else paint.SOFT for k in range(10)]
    low, high = float(scores[:, n].min()), float(scores[:, n].max())
    bars = paint.plot("scores", (0, 10), (min(low, 0), high), size=(330, 150))
    verdict = (
        "right"
        if answers[n] == test.labels[n]
        else f"wrong, it is a {names[test.labels[n]]}"
    )
    bars.bars(scores[:, n], inks, [name[:3] for name in names])
    return paint.row(
        paint.picture(test.images[..., n], f"picture {n + 1}"),
        bars.note(f"answer: {names[answers[n]]} ({verdict})"),
    )


step_through(looked_at, 12)

# %%
right = (answers == test.labels).sum()
print(f"{right} of 500 pictures are named right.  Guessing would name about 50.")
assert right > 430

# %% [markdown]
# ## Your turn
#
# The scores of several pictures are a table: ten rows, one for each shape, and a column for each picture.
# Which row is highest in each column?  NumPy finds it with `scores.argmax(axis=…)`: axis 0 runs down the
# rows, axis 1 along the columns.
#
# Write it in place of the `...`, run the cell, then ask for the check.  Try a wrong one as well: the check
# says what is wrong with it.


# %%
def best(scores):
    """Number of the highest score of each picture.  (10, N) → (N,)"""
    answer = ...
    return answer


# %%
best = check(best)
# hint("best")
# solution("best")

# %%
assert (best(scores) == answers).all()

# %% [markdown]
# ## Inside
#
# How do pixels become scores?  The first layer has 24 **kernels**: little windows of $5\times5$ pixels,
# full of weights. A kernel is laid on the picture, each pixel is multiplied by the weight on it, and all of
# that is added up:
#
# $$\text{answer} = \sum \text{weight} \cdot \text{pixel}$$
#
# Then it is moved on, over the whole picture.  All its answers together are its **map**.  Where the picture
# looks like the kernel, the map is large.  Nobody chose the weights: they were changed a little after each
# of 240,000 pictures, so that the scores came out better.
#
# Step through one picture, from the pixels to the scores.

# %% drawing
star = int(
    np.flatnonzero((test.labels == names.index("star")) & (answers == test.labels))[0]
)
x = seen(test.images[..., star : star + 1])
first, second, hidden = (
    net.forward(x, last=name)[..., 0] for name in ("conv1", "conv2", "fc3")
)
kernels = net.layers["conv1"].params["w"]
strongest = np.argsort(-first.sum(axis=(1, 2)))[:3]


def inside(k):
    """One stage of the way from the picture to the scores."""
    if k == 0:
        return paint.row(
            paint.picture(test.images[..., star], "the picture: 3×32×32 numbers"),
            caption="This goes in.",
        )
    if k in (1, 2, 3):
        f = strongest[k - 1]
        return paint.row(
            paint.picture(kernels[f], f"kernel {f}: its 3×5×5 weights as a picture", 20),
            paint.array(
                first[f], f"its map of the {names[test.labels[star]]}", numbers=False
            ),
            caption="One of three kernels with large maps.  Orange: here the picture looks like it.",
        )
    if k == 4:
        maps = second[np.argsort(-second.sum(axis=(1, 2)))[:6]]
        return paint.row(
            *(paint.array(one, "a map", numbers=False) for one in maps),
            caption="The second layer looks at those maps as the first at the picture: six of its 48.",
        )
    if k == 5:
        return paint.row(
            paint.array(
                hidden.reshape(4, 16),
                "64 units, each of which sees all of it",
                numbers=False,
            ),
            caption="The third layer.  Most of its units are silent, a few speak up.",
        )
    bars = paint.plot(
        "scores",
        (0, 10),
        (float(scores[:, star].min()), float(scores.max())),
        size=(330, 150),
    )
    inks = [0 if c == answers[star] else paint.SOFT for c in range(10)]
    return paint.row(
        bars.bars(scores[:, star], inks, [name[:3] for name in names]),
        caption=f"Ten scores.  The answer: {names[answers[star]]}.",
    )


step_through(inside, 7)

# %% [markdown]
# ## A photograph of yours
#
# Draw one of the ten shapes on paper, as large as your hand and filled in with a thick pen.  Photograph it
# from above, so that it fills the middle of the picture.  (A plate is a disc, a cup seen from above a
# ring.)
#
# On a page, choose the photograph below.  Beside a notebook, save it as `photograph.jpg` in the folder of
# the notebook. It stays on your device.  Then run the cell.

# %%
mine = photograph("photograph.jpg")
my_scores = net.forward(seen(mine[..., None]))[:, 0]

# %% drawing
from IPython.display import HTML, display

bars = paint.plot(
    "scores",
    (0, 10),
    (min(0, float(my_scores.min())), float(my_scores.max())),
    size=(330, 150),
)
bars.bars(
    my_scores,
    [0 if s == my_scores.max() else paint.SOFT for s in my_scores],
    [n[:3] for n in names],
)
bars.note(f"answer: {names[my_scores.argmax()]}")
display(
    HTML(
        paint.page(
            paint.row(
                paint.picture(mine, "what the network is given: 32×32 pixels"), bars
            )
        )
    )
)

# %% [markdown]
# Now give it your face, or a cat.  It answers all the same, with one of ten shapes: it knows nothing else,
# and it cannot say "none of them".  Ask of every network what it was shown, before you believe its answers.
#
# ## Break it on purpose
#
# One of the 24 kernels of the first layer shall be broken, in three ways: switched off (all its weights 0),
# turned round (each weight with the other sign), and ten times too loud.
#
# **Guess before you run the cell:** about 450 of 500 pictures are named right.  How many are left in each
# case?


# %%
def broken(k, factor):
    """A network whose kernel k is multiplied by a factor."""
    other = trained()
    other.layers["conv1"].params["w"][k] *= factor
    return other


def named(network):
    """Its answers to the 500 pictures."""
    return best(network.forward(seen(test.images)))


k = 16
print(f"whole: {right}")
for factor, how in (
    (0, "switched off"),
    (-1, "turned round"),
    (10, "ten times too loud"),
):
    count = (named(broken(k, factor)) == test.labels).sum()
    print(f"kernel {k} {how}: {count}")
assert (named(broken(k, 0)) == test.labels).sum() > 380
assert (named(broken(k, 10)) == test.labels).sum() < 150

# %% [markdown]
# Without the kernel the network goes on nearly as before: 23 others have seen the same edges.  Too loud,
# one kernel in 24 ruins it, for all that comes after has to listen to it.  What does the broken network
# answer?

# %%
loud = named(broken(k, 10))
for name, count in sorted(
    zip(names, np.bincount(loud, minlength=10), strict=True), key=lambda pair: -pair[1]
):
    print(f"{name:10} {count}")
assert np.bincount(loud).max() > 200

# %% [markdown]
# It sees the same shape nearly everywhere.  Change `k` and the factors above, and run these cells again: no
# two kernels break it in the same way.  That one part may be *missing* but must not *shout* is the idea of
# [dropout](09_dropout.ipynb), and a reason for [normalizing what neighbours
# say](08_local_response_normalization.ipynb).
#
# ## Think about it
#
# 1. The pictures are drawn with any colour.  Could the network do as well if it saw them in grey?
# 2. Each of its first 24 kernels sees only $5\times5$ pixels.  How can it tell a star from a triangle?
# 3. It was never told what an edge is.  Why do several of its kernels look for edges?
#
# <details><summary>What we would answer</summary>
#
# 1. Nearly: the colours say nothing about the shape.  But a shape can differ from the ground in colour and
#    not in lightness, and these it would lose.
# 2. The second layer sees the maps of the first, and each of its answers rests on a larger part of the
#    picture; the third layer sees everything.  Many small views in a row make a large one.
# 3. Whatever made the scores better was strengthened, picture by picture.  Colour, place and size tell
#    nothing here, and the outline tells all: so kernels that find pieces of an outline were strengthened.
#
# </details>
#
# ## What comes next
#
# You have used the parts; the course builds each of them, from the pixel on.  [Lesson 1: pictures as
# arrays](01_pictures_as_arrays.ipynb) begins.  If you want to see how a kernel *learns*, [touch the
# backward pass](touch/index.html) (a page of the course, which GitHub does not show).
