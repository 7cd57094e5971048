"""A batch made on the GPU from whole pictures: three bytes a pixel are sent there, in place of twelve."""

import numpy as np

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import launch

RUN = 32  # pixels of a row that a thread makes: as many bytes as are read from memory at once


def to_batch(pixels, windows, mean, noise, divisor):
    """Return (x − mean + noise) / divisor of the windows of pictures, float32 (C, crop, crop, M).

    pixels: uint8 (N, C, S, S); windows: int32 (M, 3), the y, x and mirroring of each image, the m-th of
    picture m mod N; mean: float32 (C, crop, crop); noise: float32 (C, M).  All on the GPU.
    """
    xp, (N, C, S, _), (crop, M) = xp_of(pixels), pixels.shape, (mean.shape[-1], len(windows))
    images = empty(xp, (C, crop, crop, M), np.float32)
    launch(
        "pictures.to_batch", (M * -(-crop // RUN), crop, C), images, pixels, windows, mean, noise, M, N, S, crop,
        float(divisor), nbytes=5 * images.size, RUN=RUN,
    )  # fmt: skip
    return images
