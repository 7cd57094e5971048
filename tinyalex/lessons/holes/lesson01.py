"""Lesson 1: pictures as arrays."""

import numpy as np

from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole


def _pixels(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


def _to_batch_cases(rng):
    shapes = [(*sizes(rng, *[(4, 6)] * 3), 3), sizes(rng, *[(2, 5)] * 4), (1, *sizes(rng, *[(2, 5)] * 3))]
    return [(_pixels(rng, *shape),) for shape in shapes]


def _place_cases(rng):
    cases = []
    for _ in range(4):
        shape = sizes(rng, *[(2, 7)] * 4)
        cases.append((*(int(rng.integers(1, size)) for size in shape), tuple(shape)))
    C, H, W, N = sizes(rng, *[(2, 7)] * 4)
    return [*cases, (C - 1, 0, W - 1, 0, (C, H, W, N)), (0, H - 1, 0, N - 1, (C, H, W, N))]


def _centred_cases(rng):
    """Of three pictures or more, the mean and the median are two things."""
    shapes = [sizes(rng, *[(2, 6)] * 3, (3, 6)), sizes(rng, *[(2, 5)] * 4), (*sizes(rng, *[(2, 5)] * 3), 1)]
    return [(_pixels(rng, *shape),) for shape in shapes]


@hole(
    cases=_to_batch_cases,
    hints=[
        """pictures[n] is (H, W, C) and its place in the batch is (C, H, W).  Which of NumPy's functions
        gives axes another order and lets every number keep its indices?""",
        """`transpose` takes the old axes in their new order.  Of (H, W, C) these are axis 0, axis 1,
        axis 2; which of them has to come first?""",
        """pictures[n].transpose(2, 0, 1): old axis 2, the channels, then rows, then columns.""",
    ],
    wrong=[
        (
            "pictures[n].transpose(2, 0, 1)",
            "pictures[n].reshape(C, H, W)",
            """the shape is right and the numbers are scrambled: reshape deals the numbers out in the order
            in which they lie in memory (red, green, blue, red, …), it does not exchange axes.  Use
            transpose.""",
        ),
        (
            "pictures[n].transpose(2, 0, 1)",
            "pictures[n].transpose(2, 0, 1)[::-1]",
            """the channels are in reverse order: blue first.  The batch keeps red, green, blue.""",
        ),
        (
            "pictures[n].transpose(2, 0, 1)",
            "pictures[n][::-1].transpose(2, 0, 1)",
            """the pictures are upside down.  Row 0 is the top one before and after.""",
        ),
        (
            "pictures[n].transpose(2, 0, 1)",
            "pictures[0].transpose(2, 0, 1)",
            """picture 0 is there N times: in the loop, take pictures[n].""",
        ),
    ],
)
def to_batch(pictures):
    """pictures (N,H,W,C), as files hold them → batch (C,H,W,N)."""
    N, H, W, C = pictures.shape
    batch = np.empty((C, H, W, N), pictures.dtype)
    for n in range(N):
        batch[:, :, :, n] = pictures[n].transpose(2, 0, 1)
    return batch


@hole(
    cases=_place_cases,
    hints=[
        """Count what lies before the element: whole channels, then whole rows of its channel, then whole
        runs of its row, then single numbers of its run.""",
        """A run has N numbers, a row W runs, a channel H rows.  One step along h jumps over W·N numbers.""",
        """c * H * W * N + h * W * N + w * N + n; or, nested, ((c * H + h) * W + w) * N + n.""",
    ],
    wrong=[
        (
            "((c * H + h) * W + w) * N + n",
            "((n * shape[0] + c) * H + h) * W + w",
            """that is the place in an array (N, C, H, W), picture after picture.  Here n is the last index,
            and runs fastest.""",
        ),
        (
            "((c * H + h) * W + w) * N + n",
            "c + shape[0] * (h + H * (w + W * n))",
            """in your order the *first* index runs fastest (Fortran's rule).  In NumPy the last one does:
            n has the factor 1, c the largest.""",
        ),
        (
            "((c * H + h) * W + w) * N + n",
            "((c * shape[0] + h) * H + w) * W + n",
            """each factor is one axis off: a step along an axis jumps over everything *inside* it.  A step
            in c skips H·W·N numbers; C itself does not occur.""",
        ),
        (
            "((c * H + h) * W + w) * N + n",
            "(c * H + h) * W + w + n",
            """the runs are N numbers long: a step in w skips N numbers, not one.""",
        ),
    ],
)
def place(c, h, w, n, shape):
    """Place in memory, counted from 0, of element [c, h, w, n] of an array (C,H,W,N)."""
    _, H, W, N = shape
    where = ((c * H + h) * W + w) * N + n
    return where


@hole(
    cases=_centred_cases,
    hints=[
        """The mean is taken over the pictures, and only over them: what is left is a picture.""",
        """The pictures are axis 3.  `keepdims=True` leaves that axis in place with size 1, so that the mean
        can be subtracted from all pictures at once.""",
        """mean = pixels.mean(axis=3, keepdims=True), and x = pixels - mean.""",
    ],
    wrong=[
        (
            "axis=3,",
            "axis=(1, 2),",
            """you average over the rows and columns of each picture: that takes away every picture's own
            colour.  The mean picture is the average over the *pictures*, axis 3.""",
        ),
        (
            "axis=3,",
            "axis=(1, 2, 3),",
            """that is one number a channel.  Many networks do it so; the paper subtracts "from each pixel"
            its own mean, so average over axis 3 only.""",
        ),
        (
            "pixels - mean",
            "images - mean.astype(np.uint8)",
            """the difference is computed in uint8, where 100 − 120 is 236: subtract from pixels, which are
            float32.""",
        ),
        (
            "pixels - mean",
            "(pixels - mean) / pixels.std()",
            """you also divide by the standard deviation.  Other networks do; the paper only subtracts.""",
        ),
    ],
)
def centred(images):
    """images (C,H,W,N), uint8 → x (C,H,W,N), float32, less the mean picture; mean (C,H,W,1)."""
    pixels = images.astype(np.float32)
    mean = pixels.mean(axis=3, keepdims=True)
    x = pixels - mean
    return x, mean
