"""Batches taken to the device: to a GPU as bytes, each while the one before it is computed with."""

from typing import NamedTuple

import numpy as np

from tinyalex.data.loader import Batch, Raw
from tinyalex.memory import empty
from tinyalex.ops.cuda.pictures import to_batch


def feed(device, batches):
    """Yield each of a Loader's batches as a `Batch` with the images on this device, (C, crop, crop, views·N).

    The labels stay with the host.  A GPU is sent each batch before the one before it is yielded, in a stream
    of its own: the copy and the step run at the same time.  What is in the batches must not be written to.
    """
    if device.kind == "cpu":
        for batch in batches:
            yield Batch(_joined(batch.images), batch.labels)
        return
    copies, before = device.xp.cuda.Stream(non_blocking=True), None
    try:
        for batch in batches:
            made = before and _made(device, before)  # the GPU has this to do while the host sends the next
            sent = _send(device, copies, batch, before)
            if made:
                yield made
                before.copied.synchronize()  # or the loader might be given its memory while it is still read
            before = sent
        if before:
            yield _made(device, before)
    finally:
        copies.synchronize()


class _Sent(NamedTuple):
    """A batch on its way to the GPU."""

    batch: object  # the host's memory, which is read until the copy is done
    arrays: tuple  # pixels, windows, mean, noise there; of a `Batch` the images
    copied: object  # the event at the end of the copy


def _send(device, copies, batch, before):
    """Begin to copy a batch; before: what was sent before, for its mean."""
    if isinstance(batch, Batch):
        return _Sent(batch, (device.put(_joined(batch.images)),), device.record())
    if before and before.batch.mean is batch.mean:
        mean = before.arrays[2]
    else:
        mean = device.put(batch.mean)
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


def _made(device, sent):
    """Queue what makes a sent batch's images; return the `Batch`."""
    if isinstance(sent.batch, Batch):
        return Batch(sent.arrays[0], sent.batch.labels)
    device.wait(sent.copied)
    return Batch(to_batch(*sent.arrays, sent.batch.divisor), sent.batch.labels)


def _joined(images):
    """The images of all views, side by side."""
    return np.concatenate(images, axis=-1) if isinstance(images, list) else images
