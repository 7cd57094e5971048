"""Batches made on a GPU from whole pictures: the host's bits, in memory that nobody else writes."""

import backends
import cupy_standin
import numpy as np
import pytest
from backends import in_source
from cuda_machine import Unordered
from test_loader import AUGMENTATION, COVARIANCE, pictures

from tinyalex.comm import launch
from tinyalex.data import augment
from tinyalex.data.loader import Batch, Loader
from tinyalex.data.rescaled import RescaledLoader
from tinyalex.devices import Device
from tinyalex.devices.cuda import GPU
from tinyalex.ops.cuda import launch as cuda_launch
from tinyalex.ops.cuda.pictures import Raw, feed

MEAN = np.random.default_rng(1).random((3, 12, 12), dtype=np.float32) * 255
BY_2012 = augment.Augmentation(crop=9, group=4, reading="code2012")
KINDS = {
    "training": {"train": True, "mean": MEAN, "epochs": 2},
    "training as in 2012": {"train": True, "mean": MEAN, "augmentation": BY_2012},
    "rows of more than a thread's pixels": {
        "train": True, "upscale": 75, "augmentation": AUGMENTATION._replace(crop=70), "mean": MEAN[:, 0, 0],
    },
    "whole pictures, without a mean": {"train": True, "augmentation": augment.PLAIN},
    "the centre": {"train": False, "mean": MEAN},
    "rescaled, of one's own scale": {
        "train": True, "mean": MEAN, "augmentation": AUGMENTATION._replace(scale=(12, 30)), "part": (1, 2),
    },
    "rescaled, fifty views": {
        "train": False, "mean": MEAN, "augmentation": AUGMENTATION._replace(scale=14), "views": 50,
    },
    "ten views": {"train": False, "mean": MEAN, "views": 10},
}  # fmt: skip


def loader(device=None, train=True, augmentation=AUGMENTATION, **kwargs):
    how = {"train": train, "covariance": COVARIANCE, "seed": 4, "device": device, **kwargs}
    kind = Loader if augmentation.scale is None else RescaledLoader
    return kind(pictures(23), 5, augmentation, **how)


def fed(device, **kwargs):
    """All batches of a loader, made on the device."""

    def rank(comm):
        with loader(comm.device, **kwargs) as batches:
            found = list(feed(comm.device, batches))  # nobody waits for the GPU meanwhile
        return [Batch(comm.device.get(images), labels) for images, labels in found]

    return launch(rank, [device])[0]


def check(**kwargs):
    found, expected = fed(backends.device(), **kwargs), fed(Device("cpu:0"), **kwargs)
    assert len(found) == len(expected) > 3
    for ours, wanted in zip(found, expected, strict=True):
        assert ours.images.dtype == wanted.images.dtype == np.float32
        assert ours.images.tobytes() == wanted.images.tobytes()
        np.testing.assert_array_equal(ours.labels, wanted.labels)
        assert ours.images.std() > 50


@pytest.mark.parametrize("kind", KINDS)
def test_a_gpu_makes_the_host_s_bits(kind, gpu):
    check(**KINDS[kind])


def test_raw_batches_depend_on_the_seed_and_not_on_the_threads(gpu):
    """What is sent is bytes: a quarter of the images that are made of them, where these are as large."""
    for threads in (0, 1, 3):
        check(threads=threads, epochs=2, **KINDS["training as in 2012"] | {})
    with (
        loader(backends.device(), augmentation=augment.PLAIN) as raw,
        loader(augmentation=augment.PLAIN) as host,
    ):
        sent, made = next(raw), next(host)
    assert isinstance(sent, Raw)
    assert 4 * sent.pixels.nbytes == made.images.nbytes


def test_a_batch_is_sent_before_the_one_before_it_is_used(standin, monkeypatch):
    """When batch i is yielded, i + 2 batches have been sent."""
    sent, right = [], cupy_standin.ndarray.set

    def counted(self, arr, stream):
        sent.append(arr.shape)
        right(self, arr, stream)

    monkeypatch.setattr(cupy_standin.ndarray, "set", counted)

    def rank(comm):
        with loader(comm.device) as batches:
            return [sum(len(shape) == 4 for shape in sent) for _ in feed(comm.device, batches)]

    assert launch(rank, [Device("cuda:0")]) == [[2, 3, 4, 4]]


def test_two_ranks_are_fed_from_one_loader(gpu):
    """Rank 0's host memory is read by both."""

    def rank(comm):
        def shared():
            for _ in range(4):
                yield comm.share(next(batches) if batches else None)

        batches = None if comm.rank else loader(comm.device, **KINDS["training"])
        return [comm.device.get(images) for images, _ in feed(comm.device, shared())]

    expected = [batch.images for batch in fed(Device("cpu:0"), **KINDS["training"])[:4]]
    for found in launch(rank, [Device(name) for name in backends.names(2).split(",")]):
        np.testing.assert_array_equal(found, expected)


def test_images_that_the_host_has_made_are_sent_as_they_are(gpu):
    views = [np.full((3, 2, 2, 4), v, np.float32) for v in range(3)]
    batches = [Batch(views, np.arange(4)), Batch(views[1], np.arange(2))]
    device = backends.device()
    (joined, _), (one, labels) = feed(device, batches)
    np.testing.assert_array_equal(device.get(joined), np.concatenate(views, axis=-1))
    np.testing.assert_array_equal(device.get(one), views[1])
    assert labels.tolist() == [0, 1]
    assert list(feed(device, [])) == []


# ---- planted faults --------------------------------------------------------------------------------------


def no_wait_for_the_copy(patch):
    patch.setattr(GPU, "wait", lambda self, event: None)


def a_copy_into_memory_that_is_read(patch):
    import cupy

    patch.setattr(GPU, "record", lambda self: cupy.cuda.Event())


def pinned_memory_given_back_early(patch):
    import cupy

    patch.setattr(cupy.cuda.Event, "synchronize", lambda self: None)


FAULTS = {  # name: (how it is planted, what is raised)
    "images computed before the pictures are there": (no_wait_for_the_copy, Unordered),
    "pictures copied over those before them": (a_copy_into_memory_that_is_read, Unordered),
    "host memory given out while it is copied from": (pinned_memory_given_back_early, Unordered),
    "another picture's windows": (in_source("pictures", "(m % N)", "(m / N)"), AssertionError),
    "mirrored about another pixel": (in_source("pictures", "crop - 1 - j", "crop - j"), AssertionError),
    "another channel's colour": (in_source("pictures", "(long long)c * M + m]", "m]"), AssertionError),
    "the mean after the division": (
        in_source("pictures", "- mean[place] + colour) / divisor", "+ colour) / divisor - mean[place]"),
        AssertionError,
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault, standin, monkeypatch):
    plant, error = FAULTS[fault]
    caches = cuda_launch._function, cuda_launch._module
    for cache in caches:
        cache.cache_clear()
    plant(monkeypatch)
    try:
        with pytest.raises(error):
            check(**KINDS["training as in 2012"], epochs=3)
    finally:
        for cache in caches:
            cache.cache_clear()
