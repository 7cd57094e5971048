"""Crops, flips, colour noise and the ten views, against counts and cases worked by hand."""

import numpy as np
import pytest

from tinyalex.data import augment


def rng(seed=0):
    """A fresh generator."""
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("augmentation", "variants"), [(augment.PAPER, 2048), (augment.CODE2012, 2178)])
def test_the_variants_of_a_picture_are_as_many_as_the_source_says(augmentation, variants):
    """Paper: "a factor of 2048" = 32 * 32 * 2; the code's randint(0, 33) gives 33 * 33 * 2 = 2178."""
    n = 40_000
    corners = augment.random_crop_offsets(rng(), n, offsets=augmentation.offsets)
    flips = augment.random_flips(rng(1), n)
    seen = {(y, x, f) for (y, x), f in zip(corners.tolist(), flips.tolist(), strict=True)}
    assert len(seen) == variants
    assert corners.min() == 0
    assert corners.max() == augmentation.offsets - 1


def test_every_corner_and_side_is_equally_likely():
    """40,000 draws over 33 rows: each count within five standard deviations of the mean."""
    n = 40_000
    counts = np.bincount(augment.random_crop_offsets(rng(), n)[:, 0], minlength=33)
    assert abs(counts - n / 33).max() < 5 * np.sqrt(n / 33)
    assert abs(augment.random_flips(rng(), n).sum() - n / 2) < 5 * np.sqrt(n) / 2


def test_a_group_shares_one_crop_and_one_flip():
    """2012: 32 neighbours; the last group of 100 is cut short at 4."""
    corners = augment.random_crop_offsets(rng(), 100, group=32)
    flips = augment.random_flips(rng(3), 100, group=32)
    assert corners.shape == (100, 2)
    assert flips.shape == (100,)
    for i in (0, 32, 64, 96):
        assert (corners[i : i + 32] == corners[i]).all()
        assert (flips[i : i + 32] == flips[i]).all()
    assert len(np.unique(corners, axis=0)) == 4


@pytest.mark.parametrize(("crop", "offsets"), [(257, None), (224, 34), (224, -1)])
def test_a_crop_that_leaves_the_picture_is_refused(crop, offsets):
    """The message says what would fit."""
    with pytest.raises(ValueError, match=rf"crop of {crop} pixels in 256 has 1 to {257 - crop} positions"):
        augment.random_crop_offsets(rng(), 4, crop=crop, offsets=offsets)


def test_no_offsets_are_the_crop_in_the_middle():
    assert augment.random_crop_offsets(rng(), 3, full=256, crop=224, offsets=0).tolist() == [[16, 16]] * 3


def test_cut_is_a_window_and_its_mirror():
    """Worked by hand on a 1 x 3 x 3 picture 0..8."""
    picture = np.arange(9).reshape(1, 3, 3)
    assert augment.cut(picture, 1, 0, 2).tolist() == [[[3, 4], [6, 7]]]
    assert augment.cut(picture, 1, 0, 2, flip=True).tolist() == [[[4, 3], [7, 6]]]
    assert np.shares_memory(augment.cut(picture, 1, 0, 2, flip=True), picture)


def test_the_ten_views_are_in_the_order_of_2012():
    """A 5 x 5 picture whose pixel (y, x) is 10 y + x, crop 3: b = 1. The first pixel of each view."""
    picture = (10 * np.arange(5)[:, None] + np.arange(5))[None, :, :, None]  # (1, 5, 5, 1)
    views = augment.ten_views(picture, crop=3)
    assert [v[0, 0, 0, 0] for v in views[:5]] == [0, 2, 11, 20, 22]
    assert [v[0, 0, 0, 0] for v in views[5:]] == [2, 4, 13, 22, 24]  # the top right corners of the five
    for plain, mirrored in zip(views[:5], views[5:], strict=True):
        assert plain.shape == (1, 3, 3, 1)
        np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])
    np.testing.assert_array_equal(augment.centre_view(picture, 3), picture[:, 1:4, 1:4])


def test_the_ten_views_of_256_start_at_0_16_and_32():
    """(0, 0), (0, 2b), (b, b), (2b, 0), (2b, 2b) with b = (256 - 224) / 2 = 16."""
    five = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]
    assert augment.ten_view_windows() == [(y, x, f) for f in (False, True) for y, x in five]
    with pytest.raises(ValueError, match="crop=224 is larger than the picture, 32 pixels"):
        augment.ten_view_windows(32)


def test_pca_turns_the_covariance_diagonal_largest_first():
    """P^T S P = diag(lambda)."""
    a = rng().normal(size=(3, 3))
    values, vectors = augment.pca(a @ a.T)
    np.testing.assert_allclose(vectors.T @ (a @ a.T) @ vectors, np.diag(values), atol=1e-12)
    assert (np.diff(values) < 0).all()


@pytest.mark.parametrize("reading", ["paper", "code2012"])
def test_colour_noise_has_the_covariance_of_its_formula(reading):
    """sigma^2 P diag(s^2) P^T with s = lambda / 255 (paper, pixels in [0, 1]) or sqrt(lambda) (2012)."""
    stdevs = np.array([121.78006099, 37.09388853, 19.72083305])  # Krizhevsky's own, largest first
    vectors = np.array(
        [
            [-0.56351045, -0.71257945, 0.41795513],
            [-0.5761844, -0.02354167, -0.81698062],
            [-0.59200296, 0.70119634, 0.39731118],
        ]
    )
    n = 200_000
    noise = augment.colour_noise(rng(), n, stdevs**2, vectors, 0.1, reading)
    assert noise.shape == (3, n)
    assert noise.dtype == np.float32
    s = stdevs**2 / 255 if reading == "paper" else stdevs
    expected = 0.01 * vectors @ np.diag(s**2) @ vectors.T
    np.testing.assert_allclose(np.cov(noise), expected, rtol=0.02, atol=0.02 * expected.max())
    assert abs(noise.mean(1)).max() < 5 * np.sqrt(expected.max() / n)
    # by hand, the largest axis in grey levels: 0.1 * 121.78 = 12.2, and 0.1 * 121.78^2 / 255 = 5.8
    along = (vectors[:, 0] @ noise).std()
    assert along == pytest.approx({"paper": 5.816, "code2012": 12.178}[reading], rel=0.01)


def test_colour_noise_moves_a_whole_picture_by_one_colour_and_no_noise_by_none():
    """One draw a picture: with one axis of variance the noise is a multiple of it."""
    noise = augment.colour_noise(rng(), 50, [100.0, 0, 0], np.eye(3), reading="code2012")
    assert (noise[1:] == 0).all()
    assert len(np.unique(noise[0])) == 50
    assert (augment.colour_noise(rng(), 5, [9.0, 4, 1], np.eye(3), sigma=0) == 0).all()
    with pytest.raises(ValueError, match="reading='text': expected"):
        augment.colour_noise(rng(), 5, [9.0, 4, 1], np.eye(3), reading="text")


def test_statistics_are_those_of_numpy():
    """Mean picture and covariance of pixels, over chunks that do not divide the count."""
    images = rng().integers(0, 256, (3, 5, 4, 23), dtype=np.uint8)
    mean, covariance = augment.statistics(images, chunk=7)
    np.testing.assert_allclose(mean, images.mean(axis=3), rtol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(images.reshape(3, -1), bias=True), rtol=1e-12)
    assert (mean.dtype, covariance.dtype) == (np.float32, np.float64)


def test_to_batch_is_the_formula():
    """(x - mean + noise) / divisor, with every axis of another length; the argument is untouched."""
    pixels = rng().integers(0, 256, (5, 3, 4, 7), dtype=np.uint8)
    pixels.flags.writeable = False
    mean, noise = rng(1).normal(size=(3, 4, 7)), rng(2).normal(size=(3, 5))
    batch = augment.to_batch(pixels, mean, noise, 1.1)
    assert batch.shape == (3, 4, 7, 5)
    assert batch.dtype == np.float32
    expected = (pixels.transpose(1, 2, 3, 0) - mean[..., None] + noise[:, None, None]) / 1.1
    np.testing.assert_allclose(batch, expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(augment.to_batch(pixels), pixels.transpose(1, 2, 3, 0))


def test_upscaling_matches_hand_worked_rows():
    """2 to 4 pixels: s = -1/4 -> 0 (clipped), 1/4, 3/4, 1."""
    picture = np.array([[[0, 40], [80, 120]]], np.uint8)
    columns, rows = np.array([0, 10, 30, 40]), np.array([0, 20, 60, 80])
    got = augment.upscale(picture, 4)
    np.testing.assert_array_equal(got, [rows[:, None] + columns])
    assert got.dtype == np.float32
    picture = rng().integers(0, 256, (3, 32, 32), dtype=np.uint8)
    np.testing.assert_array_equal(augment.upscale(picture, 32), picture)
    with pytest.raises(ValueError, match="16 pixels are fewer than the 32"):
        augment.upscale(picture, 16)


def test_bilinear_upscaling_agrees_with_pytorch():
    """interpolate(align_corners=False) is the same convention."""
    torch = pytest.importorskip("torch")
    picture = rng().random((1, 3, 9, 7), dtype=np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(picture), (25, 25), mode="bilinear").numpy()
    np.testing.assert_allclose(augment.upscale(picture[0], 25), theirs[0], atol=1e-6)


def test_the_divisor_belongs_to_the_code_alone():
    """1 + sigma in 2012, and 1 once the noise is off; never in the paper."""
    assert augment.CODE2012.divisor == 1.1
    assert augment.CODE2012._replace(noise=0.0).divisor == 1
    assert augment.PAPER.divisor == 1
