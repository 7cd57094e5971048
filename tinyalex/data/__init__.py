"""Data sets, augmentation and loading."""

from typing import NamedTuple

import numpy as np


class Images(NamedTuple):
    """Labelled pictures of one size, as every data set here returns them.

    images: uint8 (C, H, W, N), C-contiguous, 0-255.  labels: int64 (N,), each in [0, len(classes)).
    classes: the name of each label.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
