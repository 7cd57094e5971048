"""The loader's batches: determinism, position, threads, errors, and the numbers in them."""

import threading
import time

import numpy as np
import pytest

from tinyalex.data import Images, augment
from tinyalex.data.loader import Loader

AUGMENTATION = augment.Augmentation(crop=9, noise=0.1)
COVARIANCE = np.array([[9.0, 2, 1], [2, 5, 0], [1, 0, 4]])


def pictures(n=50, side=12, seed=0):
    """Images whose label is their number."""
    images = np.random.default_rng(seed).integers(0, 256, (3, side, side, n), dtype=np.uint8)
    return Images(images, np.arange(n), tuple(map(str, range(n))))


def batches(*args, **kwargs):
    """All batches of a loader."""
    with Loader(*args, **kwargs) as loader:
        return list(loader)


def same(a, b):
    """Whether two lists of batches are bit-identical."""
    return len(a) == len(b) and all(
        np.array_equal(x.images, y.images) and np.array_equal(x.labels, y.labels)
        for x, y in zip(a, b, strict=True)
    )


def train(source=None, batch_size=8, augmentation=AUGMENTATION, **kwargs):
    """Training batches."""
    return batches(
        source or pictures(), batch_size, augmentation, train=True, covariance=COVARIANCE, **kwargs
    )


def test_a_seed_may_be_of_any_length():
    """Such as np.random.SeedSequence().entropy, of 128 bits."""
    for seed in (2**127, np.uint64(2**63 + 5)):
        assert same(train(seed=seed), train(seed=int(seed)))
    assert not same(train(seed=2**127), train(seed=2**126))


def test_batches_depend_on_the_seed_and_not_on_the_threads():
    """0, 1 and 3 threads, and any depth, give the same bits; another seed gives others."""
    one = train(threads=1, epochs=2, seed=5)
    assert len(one) == 12
    assert same(one, train(threads=0, epochs=2, seed=5))
    assert same(one, train(threads=3, epochs=2, seed=5, depth=7))
    assert not same(one, train(threads=1, epochs=2, seed=6))


def test_crops_have_no_other_places_than_those_of_the_augmentation():
    """Of 12 pixels with 2 places, crops of 9 begin at 0 or 1; with none, at the centre."""
    plain, source = AUGMENTATION._replace(noise=0.0, flip=False), pictures()
    for offsets, places in ((2, {0, 1}), (0, {1})):
        seen = set()
        for batch in train(source, augmentation=plain._replace(offsets=offsets), mean=np.zeros((3, 12, 12))):
            for n, label in enumerate(batch.labels):
                picture, found = source.images[..., label], batch.images[..., n]
                seen |= {
                    (y, x) for y in range(4) for x in range(4)
                    if np.array_equal(picture[:, y : y + 9, x : x + 9], found)
                }  # fmt: skip
        assert seen == {(y, x) for y in places for x in places}


def test_an_epoch_shows_each_picture_once_in_a_new_order():
    """50 pictures in batches of 5: all of them, shuffled, and differently in each epoch."""
    seen = np.concatenate([b.labels for b in train(batch_size=5, epochs=2)]).reshape(2, 50)
    assert (np.sort(seen) == np.arange(50)).all()
    assert (seen[0] != seen[1]).any()
    assert (seen[0] != np.arange(50)).any()
    assert seen.dtype == np.int64


def test_training_drops_the_partial_batch_and_evaluation_keeps_it():
    """50 = 6 * 8 + 2."""
    assert [len(b.labels) for b in train()] == [8] * 6
    assert [len(b.labels) for b in batches(pictures(), 8, AUGMENTATION, train=False)] == [8] * 6 + [2]


def test_data_batches_come_in_the_files_order_each_cut_into_batches_of_its_own():
    """2011: nothing is shuffled, and what is left of a data batch of 20 is a smaller batch."""
    found = train(batch_size=8, data_batch=20, pictures=45, epochs=2)
    cuts = [(0, 8), (8, 16), (16, 20), (20, 28), (28, 36), (36, 40), (40, 45)]
    assert [b.labels.tolist() for b in found] == [list(range(*cut)) for cut in cuts] * 2
    assert found[2].images.shape == (3, 9, 9, 4)
    again = train(batch_size=8, data_batch=20, pictures=45, epochs=2, start=(1, 2))
    assert same(again, found[9:])
    assert not np.array_equal(found[0].images, found[7].images)  # other crops in the next epoch


def test_nine_views_are_three_an_axis_and_the_centre_alone_draws_nothing():
    source, rng = pictures(3), np.random.default_rng(0)
    ((views, _),) = batches(source, 3, AUGMENTATION, train=False, views=9)
    places = [(y, x) for y in (0, 1, 2) for x in (0, 1, 2)]  # (12 − 9) // 2 = 1
    for view, (y, x) in zip(views, places, strict=True):
        np.testing.assert_array_equal(view, source.images[:, y : y + 9, x : x + 9])
    corners = augment.random_crop_offsets(rng, 4, 12, 9, offsets=0)
    assert corners.tolist() == [[1, 1]] * 4
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_a_run_goes_on_from_a_saved_position_with_the_same_batches():
    """state() after any batch, also the last of an epoch, is the start of the rest."""
    whole = train(epochs=3)
    with Loader(pictures(), 8, AUGMENTATION, train=True, covariance=COVARIANCE, epochs=3) as loader:
        for taken in range(1, 18):
            next(loader)
            assert loader.state() == divmod(taken, 6)
            if taken in (1, 6, 11, 17):
                assert same(whole[taken:], train(epochs=3, start=loader.state()))


def test_evaluation_is_the_centre_of_each_picture_in_order_minus_the_mean():
    """No flip, no noise, no shuffling, whatever the augmentation says."""
    source = pictures()
    mean = np.random.default_rng(1).random((3, 12, 12), dtype=np.float32)
    got = batches(source, 16, AUGMENTATION, train=False, mean=mean)
    images = np.concatenate([b.images for b in got], axis=3)
    np.testing.assert_array_equal(np.concatenate([b.labels for b in got]), np.arange(50))
    np.testing.assert_array_equal(images, (source.images - mean[..., None])[:, 1:10, 1:10])
    assert images.dtype == np.float32


def test_training_pictures_are_crops_and_flips_and_one_colour_minus_the_mean_over_the_divisor():
    """Each picture is found again among its 4 * 4 * 2 variants, up to one colour, the noise."""
    source, augmentation = pictures(side=12), augment.Augmentation(crop=9, reading="code2012")
    mean = np.random.default_rng(1).random((3, 12, 12), dtype=np.float32) * 255
    colours, used = [], set()
    for images, labels in train(source, augmentation=augmentation, mean=mean, epochs=2):
        for n, label in enumerate(labels):
            for y, x, flip in np.ndindex(4, 4, 2):
                variant = augment.cut(source.images[..., label], y, x, 9, flip) - mean[:, 1:10, 1:10]
                noise = images[..., n] * 1.1 - variant
                if np.ptp(noise, axis=(1, 2)).max() < 1e-3:
                    colours.append(noise.mean((1, 2)))
                    used.add((y, x, flip))
    assert len(colours) == 96
    assert len(used) > 28  # of 32; 96 draws miss about one and a half of them
    assert np.cov(np.array(colours).T) == pytest.approx(0.01 * COVARIANCE, abs=0.05)


def test_neighbours_share_a_crop_when_the_recipe_says_so():
    """Pictures that hold their own column numbers show where they were cut."""
    images = np.broadcast_to(np.arange(12, dtype=np.uint8)[None, None, :, None], (3, 12, 12, 64)).copy()
    augmentation = augment.Augmentation(crop=9, group=8, noise=0)
    got = train(Images(images, np.arange(64), ("a",) * 64), 32, augmentation)
    lefts = np.array([b.images[0, 0, 0] for b in got]).reshape(-1, 8)
    assert (lefts == lefts[:, :1]).all()
    assert len(np.unique(lefts)) > 2


def test_the_mean_of_an_epoch_is_near_zero():
    """What the loader gives, averaged, is the data minus its mean: 0 to within the noise and the crops."""
    source = pictures(n=200)
    mean, covariance = augment.statistics(source.images)
    with Loader(source, 20, AUGMENTATION, train=True, mean=mean, covariance=covariance) as loader:
        total = np.mean([b.images.mean((1, 2, 3)) for b in loader], axis=0)
    assert abs(total).max() < 1.5  # grey levels; a pixel's deviation is 74
    scalar = batches(source, 20, augment.PLAIN, train=False, mean=mean.mean((1, 2)))
    assert abs(np.mean([b.images.mean((1, 2, 3)) for b in scalar], axis=0)).max() < 1e-3


def test_ten_views_are_those_of_the_whole_pictures():
    """The list's order is that of augment.ten_views, each minus the centre of the mean."""
    source = pictures(n=6)
    mean = np.random.default_rng(1).random((3, 12, 12), dtype=np.float32)
    ((views, labels),) = batches(source, 8, AUGMENTATION, train=False, mean=mean, views=10)
    assert len(views) == 10
    assert labels.tolist() == list(range(6))
    centre = mean[:, 1:10, 1:10, None]
    for view, expected in zip(views, augment.ten_views(source.images, 9), strict=True):
        np.testing.assert_array_equal(view, expected - centre)


def test_small_pictures_are_enlarged_with_their_mean():
    """32 to 64 and cropped; the mean is enlarged as the pictures are."""
    source = pictures(n=3, side=32)
    augmentation = augment.PLAIN._replace(crop=56)
    ((images, _),) = batches(source, 3, augmentation, train=False, upscale=64)
    large = np.stack([augment.upscale(source.images[..., i], 64) for i in range(3)], axis=-1)
    np.testing.assert_array_equal(images, np.rint(large)[:, 4:60, 4:60])
    same_picture = Images(source.images[..., :1], np.zeros(1, int), ("a",))
    mean = same_picture.images[..., 0]
    ((images, _),) = batches(same_picture, 1, augmentation, train=False, upscale=64, mean=mean)
    assert abs(images).max() <= 0.5  # rounding of the pixels, not of the mean
    ((images, _),) = train(source, 3, AUGMENTATION._replace(crop=56), upscale=64)
    assert images.shape == (3, 56, 56, 3)


def test_batches_are_the_callers_own():
    """A batch is not written again, and writing to it changes nothing else."""
    with Loader(pictures(), 8, AUGMENTATION, train=True, covariance=COVARIANCE, threads=2) as loader:
        kept = [(b, b.images.copy()) for b in loader]
    assert all(np.array_equal(b.images, copy) for b, copy in kept)
    kept[0][0].images[:] = 0
    assert same([b for b, _ in kept][1:], train()[1:])


class Slow:
    """A source that counts what was read, and fails where it is told to."""

    def __init__(self, bad=None, delay=0.0):
        self.labels, self.bad, self.delay, self.read = np.arange(40), bad, delay, []

    def __getitem__(self, i):
        """Picture i."""
        if i == self.bad:
            raise OSError(f"cannot read picture {i}")
        time.sleep(self.delay)
        self.read.append(i)
        return np.zeros((3, 8, 8), np.uint8)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_in_a_thread_reaches_the_caller_at_its_batch(threads):
    """Picture 17 is in the third batch of 8: two come out, then the error, then no more."""
    loader = Loader(Slow(bad=17), 8, augment.PLAIN, train=False, threads=threads)
    assert next(loader).labels[0] == 0
    assert next(loader).labels[0] == 8
    with pytest.raises(OSError, match="cannot read picture 17"):
        next(loader)
    assert loader.state() == (0, 2)
    with pytest.raises(StopIteration):
        next(loader)


def test_batches_are_prepared_ahead_but_no_further_than_depth():
    """With depth 2 and one batch handed out, 3 batches of 4 pictures are read while the caller computes."""
    source = Slow()
    with Loader(source, 4, augment.PLAIN, train=False, depth=2) as loader:
        next(loader)
        deadline = time.monotonic() + 5
        while len(source.read) < 13 and time.monotonic() < deadline:  # 13: one is read to learn the size
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(source.read) == 13


def test_closing_ends_the_threads_at_once():
    """A batch of 4 takes 0.4 s; eight wait in the queue and are dropped: they would take 1.6 s."""
    before = threading.active_count()
    loader = Loader(Slow(delay=0.1), 4, augment.PLAIN, train=False, depth=8, threads=2)
    next(loader)
    start = time.monotonic()
    loader.close()
    loader.close()
    assert time.monotonic() - start < 1
    assert threading.active_count() == before
    with pytest.raises(StopIteration):
        next(loader)


def given(**change):
    """Pictures with something else in place of their images or labels."""
    return pictures()._replace(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected a whole number ≥ 1, found 0"),
        ({"batch_size": 51}, "batch_size=51: the source has only 50 pictures"),
        ({"start": (0, 6)}, r"start=\(0, 6\): an epoch has the batches 0 to 5"),
        ({"views": 5, "train": False}, "views=5: expected 1, or 9 or 10"),
        ({"views": 10}, "views=10: expected 1, or 9 or 10 with train=False"),
        ({"covariance": None}, "colour noise of 0.1 needs the covariance"),
        ({"augmentation": augment.PAPER}, "crop=224 is larger than the picture, 12 pixels"),
        ({"augmentation": AUGMENTATION._replace(offsets=5)}, "crop of 9 pixels in 12 has 1 to 4 positions"),
        (
            {"mean": np.zeros((3, 9, 9))},
            r"mean: expected the shape \(3,\) or \(3, 12, 12\), found \(3, 9, 9\)",
        ),
        ({"upscale": 6}, "upscale: 6 pixels are fewer than the 12"),
        ({"source": pictures(0)}, "has only 0 pictures"),
        ({"source": Images(np.zeros((3, 8, 9, 50), np.uint8), np.zeros(50), ())}, "square, found 8 x 9"),
        ({"source": None}, "source: expected pictures with labels, such as an Images, found None"),
        (
            {"source": given(images=np.zeros((3, 8, 8, 50)))},
            "source: expected pixels of uint8, found float64",
        ),
        (
            {"source": given(images=np.zeros(50, np.uint8))},
            r"source: expected images \(C,H,W,N\), found \(50,\)",
        ),
        ({"source": given(labels=np.arange(49))}, "source: expected 50 whole numbers as labels, found int64"),
        ({"source": given(labels=np.full(50, np.nan))}, "source: expected 50 whole numbers as labels, found"),
        ({"augmentation": None}, "augmentation: expected an Augmentation, found None"),
        (
            {"augmentation": AUGMENTATION._replace(flip=2)},
            "augmentation: flip: expected true or false, found 2",
        ),
        ({"augmentation": AUGMENTATION._replace(group=0)}, "group: expected a whole number ≥ 1, found 0"),
        ({"augmentation": AUGMENTATION._replace(noise=-1)}, "noise: expected a finite number ≥ 0, found -1"),
        ({"augmentation": AUGMENTATION._replace(crop=0)}, "crop: expected a whole number ≥ 1, found 0"),
        ({"covariance": np.eye(4)}, r"covariance: expected one of \(3, 3\), found float64 \(4, 4\)"),
        ({"seed": -1}, "seed: expected a whole number ≥ 0, found -1"),
        ({"seed": 0.5}, "seed: expected a whole number ≥ 0, found 0.5"),
        ({"device": "cuda:0"}, "device: expected a Device, found 'cuda:0'"),
        ({"data_batch": 0}, "data_batch: expected a whole number ≥ 1, found 0"),
        ({"pictures": -1}, "pictures: expected a whole number ≥ 1, found -1"),
        ({"upscale": 24.0}, "upscale: expected a whole number ≥ 1, found 24.0"),
        ({"depth": 0}, "depth: expected a whole number ≥ 1, found 0"),
        ({"epochs": -1}, "epochs: expected a whole number ≥ 0, found -1"),
        ({"threads": -1}, "threads: expected a whole number ≥ 0, found -1"),
        ({"part": 1}, "part: expected two whole numbers ≥ 0, found 1"),
        ({"part": (0, 1, 2)}, r"part: expected two whole numbers ≥ 0, found \(0, 1, 2\)"),
        ({"part": (2, 2)}, r"part: expected a number, and of how many, found \(2, 2\)"),
        ({"start": (0, -1)}, r"start: expected two whole numbers ≥ 0, found \(0, -1\)"),
        ({"start": 3}, "start: expected two whole numbers ≥ 0, found 3"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_thread_starts(change, message):
    """Each message names the argument, what was expected and what was found."""
    arguments = {
        "source": pictures(),
        "batch_size": 8,
        "augmentation": AUGMENTATION,
        "covariance": COVARIANCE,
        "train": True,
    } | change
    with pytest.raises(ValueError, match=message):
        Loader(**arguments)


def test_numpy_s_numbers_lists_and_whole_floats_are_taken_as_well():
    plain = {"batch_size": 8, "augmentation": AUGMENTATION, "part": (0, 2), "start": (0, 1), "seed": 3}
    other = {
        "batch_size": np.int32(8), "part": [np.int64(0), 2], "start": np.array([0, 1]), "seed": np.uint8(3),
        "augmentation": AUGMENTATION._replace(flip=np.bool_(AUGMENTATION.flip), noise=np.float64(0.1)),
        "source": given(labels=pictures().labels.astype(float).tolist()),
    }  # fmt: skip
    one, same = (
        next(Loader(**{"source": pictures(), "covariance": COVARIANCE, "train": True} | how))
        for how in (plain, other)
    )
    assert one.images.tobytes() == same.images.tobytes()
    assert (one.labels == same.labels).all()
    assert one.labels.dtype == same.labels.dtype == np.int64
