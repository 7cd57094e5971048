"""Shapes: what is promised of the drawn data set (form, balance, determinism, difficulty, speed)."""

import re
import time

import numpy as np
import pytest

from tinyalex.data import shapes
from tinyalex.errors import ArgumentError, DataError


@pytest.fixture(scope="module")
def train():
    return shapes.load("train")


def test_form_and_balance(train):
    assert train.images.shape == (3, 32, 32, 10_000)
    assert train.images.dtype == np.uint8
    assert train.images.flags.c_contiguous
    assert train.labels.dtype == np.int64
    assert train.classes == tuple(shapes.SHAPES)
    assert len(train.classes) == 10
    assert (np.bincount(train.labels) == 1000).all()


@pytest.mark.parametrize("n", [1, 7, 10, 263])
def test_any_number_balanced_to_within_one(n):
    made = shapes.make(n, np.random.default_rng(3))
    counts = np.bincount(made.labels, minlength=10)
    assert made.images.shape[3] == counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_classes_come_in_random_order(train):
    same = np.mean(train.labels[1:] == train.labels[:-1])
    assert 0.08 < same < 0.12  # one in ten by chance; 0 or 1 if they came in turn or in blocks


@pytest.mark.parametrize("chunk", [1, 37, 1000])
def test_same_seed_same_pictures_whatever_the_chunk(monkeypatch, chunk):
    want = shapes.make(300, np.random.default_rng(5))
    monkeypatch.setattr(shapes, "CHUNK", chunk)
    got = shapes.make(300, np.random.default_rng(5))
    np.testing.assert_array_equal(got.labels, want.labels)
    np.testing.assert_array_equal(got.images, want.images)


def test_other_seeds_and_splits_give_other_pictures(train):
    one, two = (shapes.make(20, np.random.default_rng(seed)).images for seed in (0, 1))
    assert (one != two).mean() > 0.9
    test = shapes.load("test")
    assert test.images.shape[3] == 2000
    pictures = {image.tobytes() for d in (train, test) for image in d.images.transpose(3, 0, 1, 2)}
    assert len(pictures) == 12_000


def test_every_shape_fits_its_square_and_differs_from_the_others():
    v, u = np.meshgrid(np.linspace(-1.3, 1.3, 131), np.linspace(1.3, -1.3, 131))
    names = list(shapes.SHAPES)
    masks = np.array([shape(u, v) < 0 for shape in shapes.SHAPES.values()])
    assert not masks[:, np.maximum(np.abs(u), np.abs(v)) > 1.02].any()
    areas = masks.mean((1, 2))
    assert (areas > 0.08).all()
    for i in range(10):
        for j in range(i):
            both, either = (masks[i] & masks[j]).sum(), (masks[i] | masks[j]).sum()
            assert both < 0.85 * either, (names[i], names[j])


def test_a_linear_classifier_stays_above_half_error(train):
    pixels, labels = train.images[..., :5000].reshape(3072, 5000).astype(np.float32) / 127.5 - 1, train.labels
    x = np.vstack([pixels, np.ones((1, 5000), np.float32)])
    seen, held_out = x[:, :4000], x[:, 4000:]
    targets = np.eye(10, dtype=np.float32)[labels[:4000]] - 0.1
    weights = np.linalg.solve(seen @ seen.T + 10_000 * np.eye(3073, dtype=np.float32), seen @ targets)
    error = np.mean(np.argmax(weights.T @ held_out, 0) != labels[4000:5000])
    assert error > 0.5  # 0.86 measured, no lower with a ridge of 10, 100 or 1,000


def test_ten_thousand_pictures_take_seconds():
    start = time.process_time()
    shapes.make(2000, np.random.default_rng(0))
    assert time.process_time() - start < 2  # 0.3 s measured, 1.3 s for ten thousand


@pytest.mark.parametrize("n", [0, -3, 2.5, "10", True, None])
def test_bad_number_of_pictures(n):
    with pytest.raises(DataError, match=r"n is the number of pictures.*found") as caught:
        shapes.make(n, np.random.default_rng(0))
    assert repr(n) in str(caught.value)


@pytest.mark.parametrize("rng", [0, None, np.random], ids=["a seed", "none", "a module"])
def test_bad_generator(rng):
    with pytest.raises(ArgumentError, match=r"^rng: expected a generator, such as np\.random\.default_rng"):
        shapes.make(3, rng)


@pytest.mark.parametrize("split", ["valid", None, ["train"]], ids=repr)
def test_bad_split(split):
    with pytest.raises(DataError, match=f"split is one of train, test; found {re.escape(repr(split))}"):
        shapes.load(split)
