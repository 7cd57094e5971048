"""Batches prepared ahead of the training step, the same for a seed whatever the number of threads.

Paper, section 4.1: pictures are varied on the CPU while the previous batch trains, so this costs no time.
"""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tinyalex.comm import Comm
from tinyalex.data import Images, augment
from tinyalex.devices import cpu_count
from tinyalex.errors import ArgumentError
from tinyalex.fields import check_fields, check_numbers, check_rng, expect, fits, of_kind, plain_data
from tinyalex.ops.checks import check_arrays, check_axes
from tinyalex.ops.cuda.pictures import Raw

THREADS = 2  # that prepare batches for a GPU: more keep the training loop from Python's lock


class Batch(NamedTuple):
    """images float32 (C, H, W, N), grey levels minus the mean; labels int64 (N,); the caller's own."""

    images: np.ndarray
    labels: np.ndarray


class Loader:
    """An iterator over batches (images, labels) of a source, prepared by background threads.

    source: imagenet.Shards, or data.Images (uint8 images (C, H, W, N), labels); square pictures.
    train=True: each epoch in its own random order, varied as augmentation says; the last, partial batch of
    an epoch is dropped (2012 trained on full minibatches only), so that every step has the same size.
    data_batch: instead, in the source's order, the same in every epoch, each run of so many pictures cut into
    batches of its own, the last of which may be smaller (2011; see runs.recipe.Recipe).
    train=False: in the source's order, centre crop, no flip, no noise; the partial batch is kept. views=10
    (or 9) gives a list of ten images (C, crop, crop, N), the test views of augment.view_windows.
    pictures: how many of the source's there are to be, the first; by default all.

    augmentation: an augment.Augmentation. mean: what is subtracted, (C, S, S) for a picture of side S, of
    which every crop, wherever it was taken, loses the centre (as in 2012), or one value per channel (C,), or
    None. covariance: (C, C) of the pixels, needed for colour noise. upscale: side to which pictures (and the
    mean) are first enlarged (see augment.upscale).

    part: (number, of how many equal parts) of each batch that is prepared: the same pictures, varied the
    same, whatever the number of parts.  A partial batch is filled up with its last picture, labelled -1.

    device: where the batches are wanted. For a GPU they are Raw, from which ops.cuda.pictures.feed makes the
    same bits there: the host only copies pictures.

    start: (epoch, batch) of the first batch; epochs: the epoch at which iteration ends, None for never.
    threads: how many prepare batches (0: the caller's own, nothing ahead; by default 1, for a GPU as many as
    there are cores, up to THREADS); depth: how many batches are ready or in work besides the one that the
    caller holds, by default 2 or a batch per thread (memory: C * crop^2 * N * 4 bytes each, 77 MB for AlexNet
    at 128, and ten times as much with views=10; Raw 25 MB). Batches are fresh arrays and stay valid for ever.

    The order of epoch e is drawn from SeedSequence(seed, spawn_key=(e,)), the crops, flips and noise of its
    batch b from SeedSequence(seed, spawn_key=(e, b)). Ranks of one process share a batch; processes that
    build the same Loader get the same batches.

    Raises ValueError for arguments that do not fit the source. An error while a batch is prepared is raised
    by the next() that asks for that batch. Use as a context manager, or call close(), to end the threads.
    """

    def __init__(
        self,
        source,
        batch_size=128,
        augmentation=augment.PAPER,
        *,
        train,
        seed=0,
        mean=None,
        covariance=None,
        upscale=None,
        data_batch=None,
        pictures=None,
        views=1,
        part=(0, 1),
        start=(0, 0),
        epochs=1,
        device=None,
        threads=None,
        depth=None,
    ):
        expect(hasattr(source, "labels"), "source", "pictures with labels, such as an Images", source)
        source = _checked(source, "source", np.uint8) if isinstance(source, Images) else source
        augmentation = check_fields(augmentation, augment.Augmentation, "augmentation")
        check_numbers("", 1, int, batch_size=batch_size, group=augmentation.group)
        expect(isinstance(seed, int | np.integer) and seed >= 0, "seed", "a whole number ≥ 0", seed)
        check_numbers("", 0, noise=augmentation.noise)
        expect(device is None or hasattr(device, "kind"), "device", "a Device", device)
        most = {"data_batch": data_batch, "pictures": pictures, "upscale": upscale, "crop": augmentation.crop}
        for least, options in (1, most | {"depth": depth}), (0, {"epochs": epochs, "threads": threads}):
            check_numbers("", least, int, **{name: n for name, n in options.items() if n is not None})
        for name, pair in {"part": part, "start": start}.items():
            right = fits(plain_data(pair), tuple[int, ...]) and len(pair) == 2 and min(pair) >= 0
            expect(right, name, "two whole numbers ≥ 0", pair)
        expect(part[0] < part[1], "part", "a number, and of how many", part)
        self.labels = np.asarray(source.labels)[:pictures]
        self._pictures = source.images.transpose(3, 0, 1, 2) if isinstance(source, Images) else source
        self.batch_size, self.augmentation, self.train, self.seed = batch_size, augmentation, train, seed
        self._views, self._epochs, self._upscale = views, epochs, upscale
        self._run = data_batch if train else None
        self._device = device if device and device.kind == "cuda" else None
        if train and augmentation.noise and covariance is None:
            raise ArgumentError(
                f"augmentation: colour noise of {augmentation.noise} needs the covariance of the pixels"
            )
        if covariance is not None and len(self.labels):
            C = len(self._pictures[0])
            expect(np.shape(covariance) == (C, C), "covariance", f"one of {(C, C)}", covariance)
        self._eigen = None if covariance is None else augment.pca(covariance)
        self.batches_per_epoch, self._part = self._count(), part
        if not self.batches_per_epoch:
            raise ArgumentError(f"batch_size={batch_size}: the source has only {len(self.labels)} pictures")
        if start[1] >= self.batches_per_epoch:
            raise ArgumentError(f"start={start}: an epoch has the batches 0 to {self.batches_per_epoch - 1}")
        self._lay_out(mean)

        self._asked = self._given = tuple(start)  # the next position to prepare, and to hand out
        if threads is None:
            threads = min(THREADS, cpu_count()) if self._device else 1
        depth = max(2, threads) if depth is None else depth
        self._depth = depth if threads else 0
        self._ahead = deque()
        self._pool = ThreadPoolExecutor(threads, "tinyalex-loader") if threads else None

    def state(self):
        """(epoch, batch) of the batch that next() will return: pass it as start to go on from here."""
        return self._given

    def __iter__(self):
        return self

    def __next__(self):
        self._ask(max(self._depth, 1))
        if not self._ahead:
            self.close()
            raise StopIteration
        try:
            batch = self._ahead.popleft()()
        except BaseException:
            self.close()  # the batches behind it must not pass for this one
            raise
        self._given = self._after(self._given)
        self._ask(self._depth)
        return batch

    def close(self):
        """End the threads: waiting work is dropped, a batch in work is finished (tenths of a second)."""
        self._epochs = self._asked[0]
        self._ahead.clear()
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ask(self, depth):
        """Have the next batches prepared until depth of them are under way."""
        while len(self._ahead) < depth and (self._epochs is None or self._asked[0] < self._epochs):
            position = self._asked
            if self._pool:
                self._ahead.append(self._pool.submit(self._prepare, *position).result)
            else:
                self._ahead.append(lambda position=position: self._prepare(*position))
            self._asked = self._after(position)

    def _count(self):
        """How many batches an epoch has."""
        return minibatches(len(self.labels), self.batch_size, self.train, self._run)

    def _lay_out(self, mean):
        """Check that crops and views fit the pictures; cut the mean as the crops."""
        C, side, width = self._pictures[0].shape
        if side != width:
            raise ArgumentError(f"source: pictures must be square, found {side} x {width}")
        if self._views not in (1, 9, 10) or (self.train and self._views > 1):
            raise ArgumentError(f"views={self._views}: expected 1, or 9 or 10 with train=False")
        if self._upscale is not None:
            augment.upscale(np.zeros((C, side, side)), self._upscale)  # raises what does not fit
        self._channels, self._side = C, self._upscale or side
        self._crop = self.augmentation.crop or self._side
        augment.ten_view_windows(self._side, self._crop)  # here and in the next line: raises if no crop fits
        if self.train:
            rng = np.random.default_rng(0)
            augment.random_crop_offsets(rng, 0, self._side, self._crop, 1, self.augmentation.offsets)
        if mean is None and self._device:
            mean = np.zeros(C)
        self._mean = None if mean is None else self._centre_of_mean(np.asarray(mean, np.float32), C, side)

    def _after(self, position):
        epoch, batch = position
        return (epoch, batch + 1) if batch + 1 < self.batches_per_epoch else (epoch + 1, 0)

    def _prepare(self, epoch, batch):
        """The batch at a position, a function of (seed, epoch, batch) alone."""
        chosen = self._places(batch)
        mine, filled = self._share(len(chosen))
        N, noise, divisor = len(mine), None, 1.0
        if self.train:
            if not self._run:
                chosen = epoch_order(self.seed, epoch, len(self.labels))[chosen]
            windows, noise = self._drawn(epoch, batch, len(chosen))
            windows, noise = windows[mine], None if noise is None else noise.take(mine, axis=1)
            divisor = self.augmentation.divisor
        else:
            views = augment.view_windows(self._views, self._side, self._side, self._crop)
            windows = np.repeat(np.array(views), N, axis=0)
        chosen = chosen[mine]
        labels = self._labels(chosen, filled)
        if self._device:
            return self._raw(chosen, windows, noise, divisor, labels)
        views = [
            self._batch(chosen, windows[first : first + N], noise, divisor)
            for first in range(0, len(windows), N)
        ]
        return Batch(views if self._views > 1 else views[0], labels)

    def _share(self, count):
        """The places in a batch of so many that are this part's, and which of them only fill it."""
        part, parts = self._part
        N = -(-count // parts)
        places = np.arange(part * N, (part + 1) * N)
        return np.minimum(places, count - 1), places >= count

    def _labels(self, chosen, filled):
        return np.where(filled, -1, self.labels[chosen]).astype(np.int64)

    def _generator(self, epoch, batch):
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, batch)))

    def _places(self, batch):
        """The pictures of a batch, by their places in the epoch's order."""
        run = self._run or len(self.labels)
        number, batch = divmod(batch, -(-run // self.batch_size))
        first = number * run + batch * self.batch_size
        return np.arange(first, min(first + self.batch_size, (number + 1) * run, len(self.labels)))

    def _drawn(self, epoch, batch, N):
        """The windows (N, 3) and the noise (C, N) or None of a training batch."""
        rng, augmentation, noise = self._generator(epoch, batch), self.augmentation, None
        corners = augment.random_crop_offsets(
            rng, N, self._side, self._crop, augmentation.group, augmentation.offsets
        )
        flips = augment.random_flips(rng, N, augmentation.group) if augmentation.flip else np.zeros(N, bool)
        if augmentation.noise:
            noise = augment.colour_noise(rng, N, *self._eigen, augmentation.noise, augmentation.reading)
        return np.column_stack([corners, flips]), noise

    def _batch(self, chosen, windows, noise, divisor):
        crop = self._crop
        pixels = np.empty((len(chosen), self._channels, crop, crop), np.uint8)
        for target, i, (y, x, flip) in zip(pixels, chosen, windows.tolist(), strict=True):
            target[:] = augment.cut(self._enlarged(self._pictures[i]), y, x, crop, flip)
        return augment.to_batch(pixels, self._mean, noise, divisor)

    def _raw(self, chosen, windows, noise, divisor, labels):
        pixels = self._device.pinned((len(chosen), self._channels, self._side, self._side), np.uint8)
        straight = self._upscale is None and hasattr(self._pictures, "read")
        for target, i in zip(pixels, chosen, strict=True):
            if straight:
                self._pictures.read(i, target)
            else:
                target[:] = self._enlarged(self._pictures[i])
        if noise is None:
            noise = np.zeros((self._channels, len(windows)), np.float32)
        return Raw(pixels, windows.astype(np.int32), self._mean, noise, divisor, labels)

    def _enlarged(self, picture):
        if self._upscale is None:
            return picture
        return np.rint(augment.upscale(picture, self._upscale)).astype(np.uint8)

    def _centre_of_mean(self, mean, C, side):
        if mean.shape == (C,):
            return np.ascontiguousarray(np.broadcast_to(mean[:, None, None], (C, self._crop, self._crop)))
        if mean.shape != (C, side, side):
            raise ArgumentError(f"mean: expected the shape {(C,)} or {(C, side, side)}, found {mean.shape}")
        if self._upscale is not None:
            mean = augment.upscale(mean, self._upscale)
        return np.ascontiguousarray(augment.centre_view(mean, self._crop))


def minibatches(count, size, train, data_batch=None):
    """Return how many batches of `size` the `Loader` makes of so many pictures."""
    if train and data_batch:
        runs, rest = divmod(count, data_batch)
        return runs * -(-data_batch // size) + -(-rest // size)
    return count // size if train else -(-count // size)


@lru_cache(maxsize=2)  # 1.3 million pictures: 20 ms to draw, 10 MB to keep
def epoch_order(seed, epoch, n):
    """The permutation of n pictures in which an epoch sees them."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,))).permutation(n)


def _checked(given, what, dtype=None):
    """Return an `Images`, its labels int64; ArgumentError unless they fit, and pixels are of this dtype."""
    pixels, labels = given.images, np.asarray(given.labels)
    check_arrays(what, images=pixels)
    check_axes(what, "images", pixels, "C,H,W,N")
    expect(dtype in (None, pixels.dtype), what, f"pixels of {np.dtype(dtype)}", pixels)
    right = labels.shape == pixels.shape[3:] and labels.dtype.kind in "biuf" and (labels % 1 == 0).all()
    expect(right, what, f"{pixels.shape[3]} whole numbers as labels", labels)
    return given._replace(labels=labels.astype(np.int64))


class InMemory:
    """Batches of a small picture set that is held in memory, for a rank, or each rank's part of each batch.

    images: an `Images` of pixels 0–255; the mean image of the set is subtracted.  comm: the ranks that share
    a batch, by default one CPU core alone.
    """

    def __init__(self, images, comm=None, batch=128, dtype=np.float32):
        images = _checked(of_kind(Images, images, "images"), "images")
        check_numbers("", 1, int, batch=batch)
        if len(images.labels) < batch:
            raise ArgumentError(
                f"expected at least one batch of {batch} pictures, found {len(images.labels)}"
            )
        self.images, self.batch, self.dtype = images, batch, dtype
        self.comm = of_kind(Comm, comm or Comm("cpu:0"), "comm")
        self.mean = images.images.mean(axis=3, keepdims=True).astype(dtype)
        self.steps = len(images.labels) // batch  # in an epoch

    def epoch(self, rng):
        """Yield (images, labels) in a random order; pictures that fill no whole batch are left out."""
        check_rng(rng)
        order = rng.permutation(len(self.images.labels))
        part = self.comm.part(self.batch)
        for start in range(0, len(order) - self.batch + 1, self.batch):
            chosen = order[start : start + self.batch][part]
            pixels = self.images.images.take(chosen, axis=3) - self.mean
            labels = self.images.labels[chosen]
            yield self.comm.device.put(pixels), self.comm.device.put(labels)
