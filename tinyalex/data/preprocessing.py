"""What a network that was trained elsewhere wants to see: the preprocessing, stated in its checkpoint."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyalex.errors import DataError
from tinyalex.fields import checked

LARGEST_SIDE = 1 << 12  # pixels, of a picture's side


class Pictures(NamedTuple):
    """x = (pixel − mean) · scale, pixels 0–255, channels in this order.

    A picture's shorter side is brought to `resize` pixels, its middle square is enlarged to `upscale` where
    that is stated, and a square of `crop` pixels, the network's input, is cut from its middle (or the ten
    views are).  mean and scale: one number per channel, in the network's order.
    """

    order: str  # RGB or BGR
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    resize: int
    crop: int
    upscale: int | None = None

    @classmethod
    def from_json(cls, fields):
        """Read what `_asdict()` became in JSON; DataError for anything else."""
        return checked(cls, fields, "pictures").sound()

    def sound(self):
        """Return this, or raise DataError naming the invalid field."""
        if self.order not in ("RGB", "BGR"):
            raise DataError(f"pictures: order: expected RGB or BGR, found {self.order!r}")
        for name in ("mean", "scale"):
            values = getattr(self, name)
            if len(values) != 3:
                raise DataError(f"pictures: {name}: expected three finite numbers, found {values!r}")
        if not (0 < self.crop <= self.seen <= LARGEST_SIDE and 0 < self.resize <= self.seen):
            raise DataError(
                f"pictures: expected 0 < crop ≤ resize, or upscale ≥ resize, ≤ {LARGEST_SIDE} pixels, found "
                f"crop {self.crop!r}, resize {self.resize!r}, upscale {self.upscale!r}"
            )
        return self

    def then(self, a, c):
        """Return what pictures go through that are then made a · x + c; a ≠ 0, c: arrays (3,)."""
        scale = a * self.scale
        mean = self.mean - c / scale
        return self._replace(mean=tuple(mean.tolist()), scale=tuple(scale.tolist()))

    @property
    def seen(self):
        """The side, in pixels, of what a crop is cut from."""
        return self.resize if self.upscale is None else self.upscale

    @property
    def rgb_mean(self):
        """The mean in the order in which pictures are read, float32 (3,)."""
        return np.array(self.mean if self.order == "RGB" else self.mean[::-1], np.float32)

    def adapt(self, x):
        """Turn a batch (3,H,W,N) of RGB pixels minus `rgb_mean` into the network's input."""
        x = x if self.order == "RGB" else x[::-1]
        return x * np.array(self.scale, np.float32)[:, None, None, None]


KNOWN = {
    # pixels as they are, and as 0 … 1: for networks that prepare their pictures themselves
    "pixels": Pictures("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 256, 224),
    "unit": Pictures("RGB", (0.0, 0.0, 0.0), (1 / 255,) * 3, 256, 224),
    # bvlc_alexnet, CaffeNet and the ONNX model zoo's alexnet: the mean of ILSVRC-2012, blue first
    "caffe": Pictures("BGR", (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), 256, 227),
    # the VGG authors' released weights
    "vgg": Pictures("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 256, 224),
    # torchvision: x/255, minus (.485, .456, .406), divided by (.229, .224, .225)
    "torchvision": Pictures(
        "RGB",
        tuple(255 * m for m in (0.485, 0.456, 0.406)),
        tuple(1 / (255 * s) for s in (0.229, 0.224, 0.225)),
        256,
        224,
    ),
}


def parse(text, size):
    """Read what the command line gives: a name of KNOWN, or a JSON file with the fields of Pictures.

    size: the side of the network's input, which is the crop.
    """
    if text in KNOWN:
        known = KNOWN[text]
        return known._replace(crop=size, resize=max(known.resize, size)).sound()
    try:
        fields = json.loads(Path(text).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"--pictures: expected {', '.join(KNOWN)} or a JSON file with the fields "
            f"{', '.join(Pictures._fields)}, found {text!r}: {error}"
        ) from error
    made = Pictures.from_json(fields)
    if made.crop != size:
        raise DataError(f"{text}: crop: this network sees {size} pixels, found {made.crop}")
    return made
