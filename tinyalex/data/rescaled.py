"""Whole pictures, rescaled and cut as for VGG  (Simonyan and Zisserman, 2014, section 3)."""

import numpy as np
from PIL import Image

from tinyalex.data import augment
from tinyalex.data.loader import Batch, Loader, epoch_order
from tinyalex.errors import ArgumentError
from tinyalex.ops.cuda.pictures import Raw


class RescaledLoader(Loader):
    """A `Loader` of pictures whose shorter side is first rescaled to S; of any shape, if the source has such.

    train=True: S is the augmentation's scale, or drawn from its range for each picture; the crop may lie
    anywhere in the picture.  Each picture has a crop and a flip of its own.  S, crops, flips and noise are
    drawn for each batch as `Loader` draws: the same whatever the number of threads.

    train=False: `scale` is Q, by default the augmentation's test_scale.  views: 1, 9, 10 or 50, the windows
    of augment.view_windows, a list of images where there is more than one.  dense=True: whole pictures
    (C, H, W, N), views=2: and their mirror images; a batch then holds neighbours of one size.

    mean: of the mean picture (C, S, S) the mean colour is subtracted, or, where the augmentation has no
    scale, the picture itself, rescaled with what it is subtracted from.  The other arguments are `Loader`'s.
    """

    def __init__(self, source, *args, scale=None, dense=False, **kwargs):
        self._scale, self._dense = scale, dense
        self._sizes = getattr(source, "sizes", None)  # (N, 2), of pictures of any shape
        super().__init__(source, *args, **kwargs)

    def _count(self):
        self._spans = None
        if not self._dense or self._sizes is None:
            return super()._count()
        new = np.flatnonzero(np.any(np.diff(self._sizes, axis=0), axis=1)) + 1
        runs = zip([0, *new], [*new, len(self.labels)], strict=True)
        B = self.batch_size
        self._spans = [(i, min(i + B, stop)) for start, stop in runs for i in range(start, stop, B)]
        return len(self._spans)

    def _lay_out(self, mean):
        augmentation, self._channels = self.augmentation, len(self._pictures[0])
        views = (1, 2) if self._dense else (1, 9, 10, 50)
        if self._views not in views[: 1 if self.train else None]:
            raise ArgumentError(f"views={self._views}: expected one of {views}, 1 with train=True")
        if self._run:
            raise ArgumentError(
                f"scale: pictures that are rescaled are shuffled, expected no data_batch, found {self._run}"
            )
        self._scale = self._scale or augmentation.test_scale
        if self._scale is None or (self.train and augmentation.scale is None):
            raise ArgumentError("scale: expected the shorter side to which pictures are rescaled, found None")
        self._crop = augmentation.crop or self._scale
        least = augmentation.scales[0] if self.train else self._scale
        if self._crop > least:
            raise ArgumentError(
                f"scale: pictures of {least} pixels are smaller than the {self._crop} that the network sees"
            )
        self._whole_mean = np.zeros(self._channels) if mean is None else np.asarray(mean, np.float32)
        if self._whole_mean.ndim == 3 and augmentation.scale is not None:
            self._whole_mean = self._whole_mean.mean((1, 2), dtype=float)
        self._means = {}

    def _prepare(self, epoch, batch):
        if self.train:
            return self._training(epoch, batch)
        first = batch * self.batch_size
        span = self._spans[batch] if self._spans else (first, min(first + self.batch_size, len(self.labels)))
        mine, filled = self._share(span[1] - span[0])
        chosen, views = span[0] + mine, []
        for i in chosen:
            picture = augment.rescaled(self._pictures[i], self._scale)
            _, H, W = picture.shape
            if self._dense:
                views.append([picture, picture[:, :, ::-1]][: self._views])
            else:
                windows = augment.view_windows(self._views, H, W, self._crop)
                views.append([augment.cut(picture, y, x, self._crop, flip) for y, x, flip in windows])
        images = [
            augment.to_batch(np.stack(view), self._mean_of(*view[0].shape[1:]))
            for view in zip(*views, strict=True)
        ]
        return Batch(images if self._views > 1 else images[0], self._labels(chosen, filled))

    def _training(self, epoch, batch):
        rng, crop, N = self._generator(epoch, batch), self._crop, self.batch_size
        chosen = epoch_order(self.seed, epoch, len(self.labels))[batch * N : (batch + 1) * N]
        scales = augment.random_scales(rng, N, *self.augmentation.scales)
        corners = rng.random((N, 2))  # of the way from the first place to the last
        flips = augment.random_flips(rng, N) if self.augmentation.flip else np.zeros(N, bool)
        noise = np.zeros((self._channels, N), np.float32)
        sigma, reading = self.augmentation.noise, self.augmentation.reading
        if sigma:
            noise = augment.colour_noise(rng, N, *self._eigen, sigma, reading)
        mine, filled = self._share(N)
        shape = (len(mine), self._channels, crop, crop)
        pixels = self._device.pinned(shape, np.uint8) if self._device else np.empty(shape, np.uint8)
        for target, n in zip(pixels, mine, strict=True):
            picture = self._pictures[chosen[n]]
            places = np.array(augment.rescaled_size(*picture.shape[1:], int(scales[n]))) - crop + 1
            y, x = (corners[n] * places).astype(int).tolist()
            found = augment.rescaled(picture, int(scales[n]), (y, x, crop, crop))
            target[:] = found[:, :, ::-1] if flips[n] else found
        mean, divisor, noise = self._mean_of(crop, crop), self.augmentation.divisor, noise.take(mine, axis=1)
        labels = self._labels(chosen[mine], filled)
        if self._device:
            return Raw(pixels, np.zeros((len(mine), 3), np.int32), mean, noise, divisor, labels)
        return Batch(augment.to_batch(pixels, mean, noise if sigma else None, divisor), labels)

    def _mean_of(self, height, width):
        """What is subtracted from pictures of this size, float32 (C, height, width)."""
        if (height, width) not in self._means:
            self._means[height, width] = self._make_mean(height, width)
        return self._means[height, width]

    def _make_mean(self, height, width):
        mean = self._whole_mean
        if mean.ndim == 1:
            return np.tile(mean.astype(np.float32)[:, None, None], (1, height, width))
        if self._dense:
            return _resized(mean, height, width)
        return np.ascontiguousarray(augment.centre_view(_resized(mean, self._scale, self._scale), height))


def _resized(mean, height, width):
    if mean.shape[1:] == (height, width):
        return mean
    planes = [Image.fromarray(plane) for plane in mean]
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BICUBIC)) for p in planes])
