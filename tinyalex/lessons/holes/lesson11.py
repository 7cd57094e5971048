"""Lesson 11: augmentation."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _cut_cases(rng):
    cases = []
    for flip, last in ((True, 4), (False, 4), (True, 0)):  # mirrored at the left edge, too
        C, y, x, crop = sizes(rng, (2, 3), (0, 4), (0, last), (4, 6))
        H, W = sizes(rng, (y + crop + 1, y + crop + 3), (x + crop + 1, x + crop + 3))
        cases.append((rng.integers(0, 256, (C, H, W), np.uint8), y, x, crop, flip))
    return cases


def _covariance_cases(rng):
    shapes = (
        (3, *sizes(rng, *[(2, 6)] * 3)),
        (3, *sizes(rng, *[(2, 4)] * 3)),
        (3, *sizes(rng, (4, 6), (4, 6)), 1),
    )
    return [
        (rng.integers(low, 256, shape, np.uint8),) for low, shape in zip((0, 100, 0), shapes, strict=True)
    ]


@hole(
    cases=_cut_cases,
    hints=[
        """A window is a slice of axis 1 (rows, from y) and of axis 2 (columns, from x); all channels
        stay.""",
        """To mirror left to right is to read the columns backwards: the last axis with the step -1.""",
        """window = image[:, y : y + crop, x : x + crop], and window = window[:, :, ::-1].""",
    ],
    wrong=[
        (
            "window[:, :, ::-1]",
            "window[:, ::-1]",
            """that is upside down: you reverse the rows, axis 1. Left and right are the columns, axis 2.""",
        ),
        (
            "window[:, :, ::-1]",
            "window[::-1]",
            """you reverse axis 0, the channels: red becomes blue, and nothing is mirrored.""",
        ),
        (
            "image[:, y : y + crop, x : x + crop]",
            "image[:, x : x + crop, y : y + crop]",
            """x and y are exchanged: y counts rows, axis 1, and x columns, axis 2.""",
        ),
        (
            "window[:, :, ::-1]",
            "image[:, :, ::-1][:, y : y + crop, x : x + crop]",
            """you mirror the whole picture and cut then, so the window lies on the other side of it. Cut
            first, and mirror what was cut.""",
        ),
        (
            "window[:, :, ::-1]",
            "window.swapaxes(1, 2)",
            """that is the transpose, a mirror along the diagonal: rows become columns.""",
        ),
    ],
)
def cut(image, y, x, crop, flip):
    """The crop×crop window with corner (y, x), mirrored left to right if flip.  image (C,H,W)."""
    window = image[:, y : y + crop, x : x + crop]
    if flip:
        window = window[:, :, ::-1]
    return window


@hole(
    cases=_covariance_cases,
    hints=[
        """x has one row a channel and one column a pixel. x.mean(axis=1, keepdims=True) is one number a
        channel.""",
        """The sum over all pixels of products of channels is one matrix product, x @ x.T.""",
        """x = x - x.mean(axis=1, keepdims=True), then sigma = x @ x.T / x.shape[1].""",
    ],
    wrong=[
        (
            "x - x.mean(axis=1, keepdims=True)",
            "x.astype(float)",
            """the mean is not subtracted: that is the mean of products, and its largest axis only points
            from black to the mean colour.""",
        ),
        (
            "x - x.mean(axis=1, keepdims=True)",
            "x - x.mean()",
            """you subtract one mean of all channels; each channel has its own.""",
        ),
        (
            "x - x.mean(axis=1, keepdims=True)",
            "x - x.mean(axis=0)",
            """you subtract from each pixel the mean of its own channels, which takes the brightness away.
            The mean of each channel goes over all pixels: axis 1.""",
        ),
        (
            "x @ x.T / x.shape[1]",
            "x @ x.T / images.shape[-1]",
            """you divide by the number of pictures; the sum runs over all their pixels.""",
        ),
        (
            "x @ x.T / x.shape[1]",
            "np.corrcoef(x)",
            """that is the correlation: each channel divided by its own standard deviation. Eigenvalues must
            be variances in grey levels.""",
        ),
        (
            "x @ x.T / x.shape[1]",
            "x @ x.T / (x.shape[1] - 1)",
            """you divide by P − 1 (so does np.cov). Here it is the mean over P pixels; for millions of them
            it is the same, for a small test not.""",
        ),
    ],
)
def covariance(images):
    """Mean of (x − x̄)(x − x̄)ᵀ over all pixels of all pictures.  (C,H,W,N) uint8 → (C,C)."""
    x = images.reshape(len(images), -1)  # (C, P)
    x = x - x.mean(axis=1, keepdims=True)
    sigma = x @ x.T / x.shape[1]
    return sigma


def _axes(rng, N, reading):
    vectors = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    return rng.standard_normal((3, N)), np.array([900.0, 200, 50]), vectors, reading


@hole(
    cases=lambda rng: [_axes(rng, 4, "code2012"), _axes(rng, 5, "paper"), _axes(rng, 1, "code2012")],
    hints=[
        """The 2012 code takes standard deviations; values are variances. And a sum of columns of a matrix,
        each with a factor, is a product of that matrix with the factors.""",
        """scale has one number an axis, alpha is (3, N): scale[:, None] * alpha has the factors. The axes
        are the *columns* of vectors.""",
        """scale = np.sqrt(values), and shift = vectors @ (scale[:, None] * alpha).""",
    ],
    wrong=[
        (
            "np.sqrt(values)",
            "values",
            """those are the eigenvalues, variances: hundreds of grey levels. The 2012 code takes their
            roots.""",
        ),
        (
            "vectors @ (",
            "vectors.T @ (",
            """the axes are the columns of vectors; your product takes its rows.""",
        ),
        (
            "vectors @ (scale[:, None] * alpha)",
            "scale[:, None] * (vectors @ alpha)",
            """you scale red, green and blue; the scales belong to the axes, before they are mixed to
            colours.""",
        ),
        (
            "vectors @ (scale[:, None] * alpha)",
            "scale[:, None] * alpha",
            """those are amounts along the axes; to make colours of them multiply with the axes
            themselves.""",
        ),
    ],
)
def colour_shift(alpha, values, vectors, reading):
    """Σ_j p_j α_j s_j, s = √λ ("code2012") or λ/255 ("paper").  alpha (3,N) → (3,N)."""
    scale = np.sqrt(values)
    if reading == "paper":
        scale = values / 255
    shift = vectors @ (scale[:, None] * alpha)
    return shift
