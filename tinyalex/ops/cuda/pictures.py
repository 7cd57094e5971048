"""Batches made on the GPU of whole pictures, which are sent while the batch before is computed with.

A byte a pixel crosses in place of four, and what crops, mirrors and colours the pictures is the GPU.
"""

from concurrent.futures import Future
from typing import NamedTuple

import numpy as np

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import launch

RUN = 32  # pixels of a row that a thread makes: as many bytes as are read from memory at once


class Raw(NamedTuple):
    """A batch as a GPU is sent it: whole pictures, and what to make of them.

    Image m is of picture m mod N: with ten views of each there are M = 10·N images, view by view.
    """

    pixels: np.ndarray  # uint8 (N, C, S, S), in page-locked memory
    windows: np.ndarray  # int32 (M, 3): y, x, and 1 where the image is mirrored
    mean: np.ndarray  # float32 (C, crop, crop)
    noise: np.ndarray  # float32 (C, M)
    divisor: float
    labels: np.ndarray  # int64 (N,)


def to_batch(pixels, windows, mean, noise, divisor):
    """Return (x − mean + noise) / divisor of the windows, float32 (C, crop, crop, M), as the host makes it.

    All are those of a `Raw`, on the GPU, but for the divisor.
    """
    xp, (N, C, S, _), (crop, M) = xp_of(pixels), pixels.shape, (mean.shape[-1], len(windows))
    images = empty(xp, (C, crop, crop, M), np.float32)
    launch(
        "pictures.to_batch", (M * -(-crop // RUN), crop, C), images, pixels, windows, mean, noise,
        M, N, S, crop, float(divisor), nbytes=5 * images.size, RUN=RUN,
    )  # fmt: skip
    return images


def feed(device, batches):
    """Yield (images, labels) of each of a Loader's batches: images on this device, (C, crop, crop, views·N).

    The labels stay with the host.  A GPU is sent each batch before the one before it is yielded, in a stream
    of its own: the copy and the step run at the same time.  On the CPU the loader has made the images.
    """
    if device.kind == "cpu":
        for batch in batches:
            yield _joined(batch.images), batch.labels
        return
    copies, before = device.xp.cuda.Stream(non_blocking=True), None
    try:
        for batch in batches:
            images = _images(device, before)  # the GPU has this to do while the host sends the next
            sent = _send(device, copies, batch, before)
            if before:
                yield images, before.batch.labels
                before.copied.synchronize()  # or the loader might be given its memory while it is still read
            before = sent
        if before:
            yield _images(device, before), before.batch.labels
    finally:
        copies.synchronize()


def asked(batches):
    """Ask an iterator for its next batch, None after the last, while a GPU is at work; return a Future.

    An error is raised where the batch is wanted: by the Future's result().
    """
    coming = Future()
    try:
        coming.set_result(next(batches, None))
    except Exception as error:
        coming.set_exception(error)
    return coming


class _Sent(NamedTuple):
    """A batch on its way to the GPU."""

    batch: object  # the host's memory, which is read until the copy is done
    arrays: tuple  # pixels, windows, mean, noise there; of a batch that is not `Raw` the images
    copied: object  # the event at the end of the copy


def _send(device, copies, batch, before):
    """Begin to copy a batch; before: what was sent before, for its mean."""
    if not isinstance(batch, Raw):
        return _Sent(batch, (device.put(_joined(batch.images)),), device.record())
    known = before and before.batch.mean is batch.mean  # as all of a Loader's
    mean = before.arrays[2] if known else device.put(batch.mean)
    pixels, windows, noise = (
        empty(device.xp, a.shape, a.dtype) for a in (batch.pixels, batch.windows, batch.noise)
    )
    copies.wait_event(device.record())  # what was in this memory before has been read
    windows.set(batch.windows, copies)
    noise.set(batch.noise, copies)
    pixels.set(batch.pixels, copies)
    copied = device.xp.cuda.Event(disable_timing=True)
    copied.record(copies)
    return _Sent(batch, (pixels, windows, mean, noise), copied)


def _images(device, sent):
    """Queue what makes a sent batch's images, and return them; None before the first."""
    if not sent or not isinstance(sent.batch, Raw):
        return sent and sent.arrays[0]
    device.wait(sent.copied)
    return to_batch(*sent.arrays, sent.batch.divisor)


def _joined(images):
    """The images of all views, side by side."""
    return np.concatenate(images, axis=-1) if isinstance(images, list) else images
