"""Crops, flips and colour noise: one picture made into many (paper, section 4.1).

Every function is pure and draws only from the generator that it is given. Pictures are uint8, 0-255,
channel first: one picture (C, H, W), a batch (C, H, W, N). "2012" is the code of the published numbers
(convdata_jpeg.py of the Computer History Museum's release).
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from tinyalex.errors import ArgumentError


class Augmentation(NamedTuple):
    """How a training picture is varied. PAPER and CODE2012 below name what differs between the two.

    crop: side of the square that the network sees; None takes the whole picture.
    offsets: how many positions a crop may have along each axis; None for all of them, full - crop + 1; 0 for
        the centre alone.
    group: this many neighbours in a batch share one crop and one flip.
    flip: mirror half of the pictures.
    noise: sigma of the colour noise, 0 for none (2012 switched it off for the last 20 epochs or so).
    reading: how the noise is read, see colour_noise.
    scale: VGG's S (Simonyan and Zisserman, 2014, section 3.1), the shorter side to which the whole picture is
        rescaled before the crop: one number, or [least, most], of which each picture draws its own, evenly.
        What is subtracted is then the mean colour.  None: square pictures as they are, less the mean picture.
    """

    crop: int | None = 224
    offsets: int | None = None
    group: int = 1
    flip: bool = True
    noise: float = 0.1
    reading: str = "paper"
    scale: int | tuple[int, ...] | None = None

    @property
    def scales(self):
        """(least, most) of S."""
        return (self.scale[0], self.scale[-1]) if isinstance(self.scale, tuple) else (self.scale,) * 2

    @property
    def test_scale(self):
        """VGG's Q for a test at one scale: S, or the middle of its range (section 4.1); None as scale."""
        return None if self.scale is None else sum(self.scales) // 2

    @property
    def test_scales(self):
        """VGG's three Q (section 4.2): S − 32, S, S + 32 for crops of 224, in proportion for others; or the
        ends and the middle of the range.
        """
        least, most = self.scales
        step = round((self.crop or least) / 7) if least == most else 0
        return least - step, self.test_scale, most + step

    @property
    def divisor(self):
        """What the noisy, mean-free picture is divided by: 1 + sigma in 2012 (convdata_jpeg.py:169-179), else
        1.

        The noise adds variance; the division keeps training pictures at the scale of test pictures.
        """
        return 1 + self.noise if self.reading == "code2012" else 1.0


PAPER = Augmentation(offsets=32)
"""Section 4.1: 32 * 32 offsets and a flip, "a factor of 2048"; one crop per picture; alpha times lambda."""

CODE2012 = Augmentation(offsets=33, group=32, reading="code2012")
"""convdata_jpeg.py:77,238-247: randint(0, 33), so 33 * 33 * 2 = 2178 variants; 32 pictures share one crop."""

PLAIN = Augmentation(crop=None, flip=False, noise=0.0)
"""The picture as it is."""


def random_crop_offsets(rng, n, full=256, crop=224, group=1, offsets=None):
    """The top left corners (y, x) of n random crops: integers (n, 2), each axis uniform in [0, offsets).

    With the default, offsets = full - crop + 1 = 33, every crop that fits can be drawn (2012); the paper
    counts 32 per axis; offsets=0 is the middle alone. Pictures i*group to (i+1)*group - 1 share one corner.
    Raises ValueError when a crop would leave the picture.
    """
    most = full - crop + 1
    offsets = most if offsets is None else offsets
    if offsets == 0 < most:
        return np.full((n, 2), (full - crop) // 2)
    if not 1 <= offsets <= most:
        raise ArgumentError(
            f"offsets={offsets}: a crop of {crop} pixels in {full} has 1 to {most} positions per axis"
        )
    return _shared(rng.integers(0, offsets, (-(-n // group), 2)), n, group)


def random_flips(rng, n, group=1):
    """n fair coins, bool (n,): True mirrors the picture left to right. Neighbours share one as in crops."""
    return _shared(rng.integers(0, 2, -(-n // group), dtype=np.uint8).astype(bool), n, group)


def _shared(draws, n, group):
    return np.repeat(draws, group, axis=0)[:n]


def cut(images, y, x, crop, flip=False):
    """The crop x crop window at (y, x) of images (C, H, W, ...), mirrored left to right if flip: a view."""
    window = images[:, y : y + crop, x : x + crop]
    return window[:, :, ::-1] if flip else window


def middle(picture):
    """The middle square of a picture (C, H, W), a view."""
    _, H, W = picture.shape
    side = min(H, W)
    return cut(picture, (H - side) // 2, (W - side) // 2, side)


def ten_view_windows(full=256, crop=224):
    """The ten (y, x, flip) of the test, in the order of 2012: five plain, then the same five mirrored.

    With b = (full - crop) // 2 the five are (0, 0), (0, 2b), (b, b), (2b, 0), (2b, 2b): corners and centre
    (paper, section 4.1; convdata_jpeg.py, multiview_test).
    """
    if crop > full:
        raise ArgumentError(f"crop={crop} is larger than the picture, {full} pixels")
    b = (full - crop) // 2
    corners = [(0, 0), (0, 2 * b), (b, b), (2 * b, 0), (2 * b, 2 * b)]
    return [(y, x, flip) for flip in (False, True) for y, x in corners]


def ten_views(images, crop=224):
    """The ten views of square images (C, S, S, ...), each (C, crop, crop, ...), ordered as ten_view_windows.

    No pixel is copied. The prediction is the mean of the ten softmax outputs (paper, section 4.1).
    """
    return [cut(images, y, x, crop, flip) for y, x, flip in ten_view_windows(images.shape[1], crop)]


def view_windows(views, height, width, crop):
    """The (y, x, flip) of 1, 9, 10 or 50 views of a picture: of its middle square but for VGG's 50.

    9: three per axis, at the edges and the middle, none mirrored (cuda-convnet, convdata.py, until 3/2012:
    the error of its conv-local-13pct is by these).
    50: a regular grid of 5 × 5 windows over the whole picture, from corner to corner, and its mirror images
    (Simonyan and Zisserman, 2014, section 3.2, which gives no coordinates).
    """
    if crop > min(height, width):
        raise ArgumentError(f"crop={crop} is larger than the picture, {height} × {width} pixels")
    if views == 50:
        ys, xs = ([round(i * (full - crop) / 4) for i in range(5)] for full in (height, width))
        return [(y, x, flip) for flip in (False, True) for y in ys for x in xs]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    windows, b = ten_view_windows(side, crop), (side - crop) // 2
    if views == 9:
        windows = [(y, x, False) for y in (0, b, 2 * b) for x in (0, b, 2 * b)]
    windows = [(top + y, left + x, flip) for y, x, flip in windows]
    return windows[2:3] if views == 1 else windows


def rescaled_size(height, width, scale):
    """(height, width) of a picture whose shorter side is rescaled to `scale`: the longer in proportion."""
    short = min(height, width)
    return tuple(
        scale if side == short else max(scale, round(side * scale / short)) for side in (height, width)
    )


def rescaled(picture, scale, window=None):
    """A picture uint8 (C, H, W) with its shorter side rescaled to `scale`; or a window of that.

    window: (y, x, height, width) in pixels of the result, the only ones that are computed.  Bicubic,
    averaging over the pixels that fall together, as in prepare.
    """
    _, H, W = picture.shape
    h, w = rescaled_size(H, W, scale)
    y, x, height, width = window or (0, 0, h, w)
    if (h, w) == (H, W):
        return picture[:, y : y + height, x : x + width]
    box = (x * W / w, y * H / h, min(W, (x + width) * W / w), min(H, (y + height) * H / h))
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in picture]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BICUBIC, box)) for p in planes])


def random_scales(rng, n, least, most):
    """n shorter sides S, each evenly from [least, most]: integers (n,)."""
    return rng.integers(least, most + 1, n)


def centre_view(images, crop=224):
    """The middle crop of images (C, S, S, ...): the third of the ten views. Also crops the mean image."""
    return ten_views(images, crop)[2]


def gram(pixels):
    """The (C, C) sums of products of channels, sum_p x_p x_p^T, of uint8 pixels (C, ...), as int64.

    Exact: products are at most 255^2, so up to 2^53 / 255^2 (10^11) pixels keep every partial sum whole in
    float64.
    """
    x = pixels.reshape(len(pixels), -1).astype(np.float64)
    return (x @ x.T).astype(np.int64)


def mean_and_covariance(count, total, cross):
    """The mean image (C, H, W) float32 and the covariance (C, C) float64 of pixels from exact integer sums.

    count pictures; total: their sum, int64 (C, H, W); cross: gram over all of them. With P = count * H * W
    pixels and m the mean colour, covariance = cross / P - m m^T, in squared grey levels.
    """
    pixels = count * total[0].size
    colour = total.sum((1, 2)) / pixels
    return (total / count).astype(np.float32), cross / pixels - np.outer(colour, colour)


def statistics(images, chunk=1024):
    """mean_and_covariance of uint8 images (C, H, W, N), a chunk of pictures at a time."""
    total = images.sum(axis=3, dtype=np.int64)
    cross = sum(gram(images[..., i : i + chunk]) for i in range(0, images.shape[3], chunk))
    return mean_and_covariance(images.shape[3], total, cross)


def pca(covariance):
    """(eigenvalues (C,), eigenvectors (C, C) in columns) of a symmetric covariance, largest first."""
    values, vectors = np.linalg.eigh(covariance)
    return values[::-1], vectors[:, ::-1]


def colour_noise(rng, n, eigvals, eigvecs, sigma=0.1, reading="paper"):
    """One random colour per picture, (C, n) float32 in grey levels, to be added to each of its pixels.

    With lambda_j, p_j the eigenvalues and eigenvectors of the covariance of 0-255 pixels, alpha_j ~ N(0,
    sigma^2):

    "paper"     sum_j p_j alpha_j lambda_j / 255      section 4.1: [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T
    "code2012"  sum_j p_j alpha_j sqrt(lambda_j)      convdata_jpeg.py:65,169-179; Recipe.divisor comes after

    The paper's formula depends on the unit of a pixel and gives none. With pixels in [0, 1] it is the line
    above (about 6 grey levels along the first axis on ImageNet); with pixels in 0-255 the noise would be 1483
    grey levels, which cannot be meant. The code's is 12 whatever the unit.
    """
    if reading not in ("paper", "code2012"):
        raise ArgumentError(f'reading={reading!r}: expected "paper" or "code2012"')
    scale = np.asarray(eigvals) / 255 if reading == "paper" else np.sqrt(np.maximum(eigvals, 0))
    alpha = rng.normal(0.0, sigma, (len(scale), n))
    return (eigvecs @ (alpha * scale[:, None])).astype(np.float32)


def upscale(image, side):
    """A picture (C, H, W) enlarged to (C, side, side), float32.

    Pixel i of a new axis lies at s = (i + 1/2) old/new - 1/2 of the old one, clipped to the picture, and is
    (1 - t) x[j] + t x[j + 1] with j = floor(s), t = s - j, first along H, then along W (bilinear).
    Raises ValueError for a smaller side (pixels would be skipped without an average).
    """
    image = image.astype(np.float32)
    for axis in (1, 2):
        old = image.shape[axis]
        if side < old:
            raise ArgumentError(f"upscale: {side} pixels are fewer than the {old} of the picture")
        s = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
        j = np.floor(s).astype(int)
        low, high = image.take(j, axis), image.take(np.minimum(j + 1, old - 1), axis)
        t = (s - j).astype(np.float32)
        image = low + (t[:, None] if axis == 1 else t) * (high - low)
    return image


def to_batch(pixels, mean=None, noise=None, divisor=1.0):
    """(x - mean + noise) / divisor of uint8 pixels (N, C, H, W), as float32 (C, H, W, N): a new array.

    mean: (C, H, W), of the size of the crop, or None; noise: (C, N) or None. One row of all pictures at a
    time: it is transposed, converted and shifted while it sits in the cache, and NumPy lets other threads
    run.
    """
    N, C, H, W = pixels.shape
    out = np.empty((C, H, W, N), np.float32)
    for c in range(C):
        for h in range(H):
            row = out[c, h]  # (W, N)
            row[:] = pixels[:, c, h].T
            if mean is not None:
                row -= mean[c, h, :, None]
            if noise is not None:
                row += noise[c]
            if divisor != 1:
                row /= divisor
    return out
