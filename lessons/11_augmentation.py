# %% [markdown]
# # 11 · Augmentation: one picture made into many
#
# [Lesson 10](10_momentum_and_decay.ipynb) spends gradients; they come from pictures, and 1.2 million are
# few for 60 million parameters. So each picture is shown in many forms.
#
# **Change a picture in a way that does not change its label: shift it, mirror it, light it differently. The
# network never sees the same pixels twice, and what it cannot know by heart it has to understand.** The
# three changes are a slice, a reversed slice, and one added colour. The details are where implementations
# differ, and none of them crashes when it is wrong.
#
# Section 4.1 of the paper:
#
# > "The easiest and most common method to reduce overfitting on image data is to artificially enlarge the
# > dataset using label-preserving transformations".
#
# **You bring:** pictures as arrays (lesson 1).
#
# **You take away:** crops and mirror images, counted; the principal axes of colour, and how large the noise
# along them is meant to be; three bugs that train.

# %%
import numpy as np

from tinyalex.data import augment, shapes
from tinyalex.lessons import draw, lesson, paint, step_through

check, hint, solution, tutor = lesson(11)
rng = np.random.default_rng(11)
pictures = shapes.make(60, np.random.default_rng(4))
images = pictures.images  # uint8 (3, 32, 32, 60)

# %% [markdown]
# ## Crops and mirror images
#
# A row of 6 pixels, cut to 4: the window can begin at 0, 1 or 2, so $6 - 4 + 1 = 3$ crops, and with their
# mirror images 6 different rows. For a picture of $S$ pixels and a crop of $c$ it is
#
# $$2\,(S - c + 1)^2 .$$

# %%
row = np.arange(6)
variants = [row[x : x + 4][::step] for step in (1, -1) for x in range(3)]
assert len({tuple(v) for v in variants}) == 6
for v in variants:
    print(v)

# %% [markdown]
# AlexNet's pictures have 256 pixels and its crops 224, which makes 33 places along each axis. The paper
# counts 32 and calls it "a factor of 2048"; the code draws from 33.

# %%
assert 256 - 224 + 1 == 33
assert 2 * 32**2 == 2048
assert 2 * 33**2 == 2178

# %% [markdown]
# Here is a picture of 32 pixels, cut to 24. Step through eight random draws; every second is mirrored.

# %%
star = images[..., list(pictures.labels).index(8)]
draws = [(*rng.integers(0, 9, 2), k % 2 == 1) for k in range(8)]


# %% drawing
def one_crop(k):
    """Step k: where the crop is, and what the network sees."""
    y, x, flip = draws[k]
    seen = star[:, y : y + 24, x : x + 24]
    where = f"y {y}, x {x}{', mirrored' if flip else ''}"
    return paint.row(
        paint.picture(star, "32×32", 5).frame(y, x, 24, 24),
        paint.picture(seen[:, :, ::-1] if flip else seen, "seen: 24×24", 5).note(where),
    )


step_through(one_crop, len(draws))

# %% [markdown]
# **Your turn.** The picture is (C,H,W): channels, rows from the top, columns from the left.


# %%
def cut(image, y, x, crop, flip):
    """The crop×crop window with corner (y, x), mirrored left to right if flip.  image (C,H,W)."""
    window = ...  # (C, crop, crop)
    if flip:
        window = ...
    return window


# %%
cut = check(cut)
# hint("cut")
# solution("cut")

# %%
for y, x, flip in draws:
    np.testing.assert_array_equal(
        cut(star, y, x, 24, flip), augment.cut(star, y, x, 24, flip)
    )
print("ours and the library's crops agree")

# %% [markdown]
# ## Is that 2048 times as much data?
#
# The paper itself says no: the factor is 2048, "though the resulting training examples are, of course,
# highly interdependent". How interdependent can be measured: the correlation between a crop and its
# neighbours, further and further away, for a picture enlarged to AlexNet's 256.

# %%
correlation = np.zeros(33)
for i in range(12):
    large = augment.upscale(images[..., i], 256)
    first = large[:, 16:240, :224].ravel()
    for shift in range(0, 33, 4):
        other = large[:, 16:240, shift : shift + 224].ravel()
        correlation[shift] += np.corrcoef(first[::50], other[::50])[0, 1] / 12

shifts = np.arange(0, 33, 4)
assert correlation[4] > 0.8 > correlation[32]

# %% drawing
axes = draw.panels(1, height=2.4)
axes.plot(shifts, correlation[shifts], "o-", color=draw.INK[1])
axes.set_ylim(0, 1.05)
draw.plain(axes, "shift of the crop, pixels", "correlation", "a crop and its neighbours")

# %% [markdown]
# Four pixels further it is nearly the same picture. Yet shifts are worth it: without them, the paper says,
# the network overfits so much that a smaller one would have been needed.
#
# The crop needs a place in the program, too. On the CPU, while the GPU trains on the batch before: then it
# costs nothing. In 2012's code 32 neighbouring pictures of a batch shared one crop and one flip;
# `augment.CODE2012` does the same, with `group=32`.
#
# ## Colour: which way does light change?
#
# Make a scene brighter, and all three channels rise together. Change the colour of the light, and they move
# against each other, but less. To find how colours really vary, look at all pixels of all pictures as
# points in a space of three axes, red, green, blue. Their covariance is
#
# $$\Sigma = \frac1P\sum_p (x_p - \bar x)(x_p - \bar x)^{\mathsf T}$$
#
# over all $P$ pixels, 3×3. **Your turn.** The pictures are bytes: multiplied as they are they would count
# modulo 256 (lesson 1), so subtract the means first, which makes floats of them. Divide by $P$.


# %%
def covariance(images):
    """Mean of (x − x̄)(x − x̄)ᵀ over all pixels of all pictures.  (C,H,W,N) uint8 → (C,C)."""
    x = images.reshape(len(images), -1)  # (C, P)
    ...  # subtract each channel's mean
    sigma = ...
    return sigma


# %%
covariance = check(covariance)
# hint("covariance")
# solution("covariance")

# %% [markdown]
# Its eigenvectors $p_1, p_2, p_3$ are the **principal axes**: directions in which colours vary
# independently. The eigenvalues $\lambda$ are the variances along them.

# %%
sigma = covariance(images)
_, theirs = augment.statistics(images)
np.testing.assert_allclose(sigma, theirs)
values, vectors = augment.pca(sigma)  # largest first; axes in columns
np.testing.assert_allclose(sigma @ vectors, vectors * values)

points = images.reshape(3, -1)[:, ::23].astype(float)
assert (np.sign(vectors[:, 0]) == np.sign(vectors[0, 0])).all()

# %% drawing
left, right = draw.panels(3, 2, height=3)
left.scatter(points[0], points[1], s=3, c=points.T / 255)
mean = points.mean(axis=1)
for j in range(3):
    tip = 2 * np.sqrt(values[j]) * vectors[:, j]
    ends = np.stack([mean - tip, mean + tip])
    left.plot(ends[:, 0], ends[:, 1], color="k", lw=2)
draw.plain(left, "red", "green", "pixels, and the axes at ±2 standard deviations")
right.bar(["p1", "p2", "p3"], np.sqrt(values), color=draw.INK[:3])
draw.plain(right, "", "grey levels", "standard deviation √λ")

# %% [markdown]
# The first axis has all three channels with one sign: it is brightness. The others are shifts of hue.
#
# ## How much of each?
#
# The paper adds to every pixel of a picture the same colour,
#
# $$[p_1, p_2, p_3]\,[\alpha_1\lambda_1, \alpha_2\lambda_2, \alpha_3\lambda_3]^{\mathsf T}
# \qquad \alpha_j \sim N(0,\, 0.1^2)$$
#
# drawn once for each use of a picture. Now put in numbers. Of ImageNet's pixels (0–255) the standard
# deviation along the first axis is 121.78, so $\lambda_1 = 14830$ and $0.1\,\lambda_1 = 1483$ grey levels.
# Of 255! That cannot be meant. With pixels from 0 to 1 the same formula gives 5.8 levels. It depends on the
# unit, and the text does not say which.
#
# The 2012 code settles it: it multiplies with the standard deviations $\sqrt{\lambda_j}$, not with the
# $\lambda_j$. That is 12.2 levels in any unit. (Then it divides the picture by 1.1, since the noise has
# added variance.)

# %%
std = 121.78006099  # ImageNet, first axis, from the 2012 data
assert round(std**2, -1) == 14830
assert round(0.1 * std**2) == 1483
assert round(0.1 * (std / 255) ** 2 * 255, 1) == 5.8
assert round(0.1 * std, 1) == 12.2

# %% [markdown]
# **Your turn:** both readings. Values and vectors are those of the covariance of 0–255 pixels; "paper" is
# the formula in pixels from 0 to 1, brought back to grey levels: $\lambda_j / 255$.


# %%
def colour_shift(alpha, values, vectors, reading):
    """Σ_j p_j α_j s_j, s = √λ ("code2012") or λ/255 ("paper").  alpha (3,N) → (3,N)."""
    scale = ...  # code2012
    if reading == "paper":
        scale = values / 255
    shift = ...  # (3, N): one colour for each picture
    return shift


# %%
colour_shift = check(colour_shift)
# hint("colour_shift")
# solution("colour_shift")

# %%
for reading in ("paper", "code2012"):
    alpha = np.random.default_rng(1).normal(0, 0.1, (3, 5))
    ours = colour_shift(alpha, values, vectors, reading)
    theirs = augment.colour_noise(
        np.random.default_rng(1), 5, values, vectors, 0.1, reading
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
print("ours and the library's noise agree")


def lit(image, shift):
    return np.clip(image + shift[:, None, None], 0, 255).astype(np.uint8)


# %% drawing
axes = draw.panels(*[1] * 7, height=1.6)
draw.picture(axes[0], star, "as it is")
for j in range(3):
    for sign, a in zip((1, -1), axes[1 + 2 * j :], strict=False):
        alpha = np.zeros((3, 1))
        alpha[j] = 0.4 * sign  # four times the usual size
        shift = colour_shift(alpha, values, vectors, "code2012")[:, 0]
        draw.picture(a, lit(star, shift), f"{'+' if sign > 0 else '−'} p{j + 1}")

# %% [markdown]
# Here at four standard deviations of $\alpha$; at one the eye hardly sees it. The paper gives it over one
# point of top-1 error, and the reason: "object identity is invariant to changes in the intensity and color
# of the illumination".
#
# ## Break it on purpose
#
# Three bugs, none of which crashes. **Guess** for each what the network would learn from it.
#
# 1. Mirror the wrong axis: rows for columns, `window[:, ::-1]`.
# 2. Reverse the channels: `window[::-1]`.
# 3. Draw a colour for each *pixel* instead of for each picture.

# %%
arrow = images[..., list(pictures.labels).index(0)]
per_pixel = colour_shift(rng.normal(0, 0.4, (3, 32 * 32)), values, vectors, "code2012")
noisy = np.clip(arrow + per_pixel.reshape(3, 32, 32), 0, 255).astype(np.uint8)

assert np.abs(per_pixel.mean(axis=1)).max() < 0.1 * np.sqrt(values[0])
np.testing.assert_array_equal(np.sort(arrow[:, ::-1].ravel()), np.sort(arrow.ravel()))

# %% drawing
axes = draw.panels(*[1] * 5, height=2)
for a, image, title in zip(
    axes,
    (arrow, arrow[:, :, ::-1], arrow[:, ::-1], arrow[::-1], noisy),
    ("an arrow", "mirrored", "1: upside down", "2: channels", "3: each pixel"),
    strict=True,
):
    draw.picture(a, image, title)

# %% [markdown]
# 1. Half of the training pictures stand on their heads, and no test picture does. The network learns it, at
#    the price of what it could have learned instead. At test it has happened: of the ten views of DeCAF
#    (2013, 2012's network in NumPy) five are mirrored along *rows*. Statistics do not find it (the pixels
#    are the same ones). Looking at ten pictures does.
# 2. Blue stars for red ones: a colour that the class never has. It hurts where colour matters.
# 3. This is noise, not light. A convolution averages over a window, and the shifts of its pixels mostly
#    cancel. One draw for a whole picture does not cancel.
#
# So the test for augmentation is a picture: **look at a batch just before it goes in.**
#
# And whether a change preserves the label is a question to the data, not to the code. A mirrored car is a
# car; a mirrored letter is not a letter.
#
# ## The whole way
#
# The library's loader does all of it in other threads: crops, flips, colours, minus the mean image, and the
# transposition to (C,H,W,N). What it does is one `Recipe`.

# %%
from tinyalex.data.loader import Loader

recipe = augment.Augmentation(crop=24, noise=0.1, reading="code2012")
with Loader(
    pictures, 8, recipe, train=True, mean=images.mean(axis=3), covariance=sigma, threads=0
) as loader:
    batch = next(loader)
assert batch.images.shape == (3, 24, 24, 8)
assert recipe.divisor == 1.1

# %% drawing
axes = draw.panels(*[1] * 8, height=1.3)
for i, a in enumerate(axes):
    draw.picture(a, batch.images[..., i], pictures.classes[batch.labels[i]])

# %% [markdown]
# ## Think about it
#
# 1. The mean image is subtracted before training. Should it be the mean of the crops at each offset, or one
#    for all?
# 2. Is dropout an augmentation?
# 3. The noise along $p_1$ makes pictures brighter and darker, and LRN divides by the activities around.
#    Does the one make the other superfluous?
#
# <details><summary>What we would answer</summary>
#
# 1. The code of 2012 takes the mean image's middle, the same for every offset. The mean of a large set is
#    smooth, so it hardly matters; but one for all means that a shifted picture is a shifted input, and
#    nothing else.
# 2. In effect yes: the layer above never sees the same input twice. But it varies features, not pictures,
#    and nobody knows whether a given mask preserves the label.
# 3. Partly. LRN works per pixel and only where activities are large. A shift of all pixels by a constant is
#    removed by kernels whose weights add up to 0; the network has to learn those, and the noise is what
#    teaches it.
#
# </details>
#
# ## What comes next
#
# Pictures, layers, update: all there, for one device. In 2012 one was not enough: [lesson 12: two
# GPUs](12_two_gpus.ipynb).
