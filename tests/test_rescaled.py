"""Pictures rescaled as for VGG, whole pictures in shards, the dense test and 50 crops."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tinyalex import runs
from tinyalex.comm import Comm, launch
from tinyalex.data import Images, augment, imagenet
from tinyalex.data.rescaled import RescaledLoader
from tinyalex.devices import Device
from tinyalex.errors import ArgumentError, DataError, TinyalexError
from tinyalex.evaluate import Dense, probabilities
from tinyalex.models import make
from tinyalex.models.network import Network
from tinyalex.nn import BatchNorm, Conv2d, Flatten, Linear, Local2d, MaxPool
from tinyalex.ops import softmax
from tinyalex.runs import checkpoint, run, trained
from tinyalex.runs.recipe import Recipe

rng = np.random.default_rng(0)
SQUARES = Images(rng.integers(0, 256, (3, 20, 20, 12), np.uint8), np.arange(12) % 3, ("a", "b", "c"))
JITTER = augment.Augmentation(crop=16, noise=0.1, scale=(18, 40))


def batches(threads, source=SQUARES, augmentation=JITTER, **kwargs):
    mean, covariance = augment.statistics(SQUARES.images)
    with RescaledLoader(
        source, 4, augmentation, mean=mean, covariance=covariance, threads=threads, **kwargs
    ) as loader:
        return list(loader)


def test_jitter_is_the_seeds_whatever_the_threads():
    one, three = (batches(threads, train=True, seed=3, epochs=2) for threads in (0, 3))
    assert len(one) == 6
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
    other = batches(0, train=True, seed=4)
    assert not np.array_equal(one[0].images, other[0].images)
    resumed = batches(2, train=True, seed=3, start=(1, 1), epochs=2)
    np.testing.assert_array_equal(resumed[0].images, one[4].images)


def test_ranks_that_share_a_batch_have_parts_of_the_same():
    whole = batches(0, train=True, seed=3)
    halves = [batches(0, train=True, seed=3, part=(k, 2)) for k in range(2)]
    for one, *parts in zip(whole, *halves, strict=True):
        np.testing.assert_array_equal(np.concatenate([p.images for p in parts], axis=-1), one.images)
        np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), one.labels)


def test_half_of_the_pictures_are_mirrored_and_the_mean_colour_is_taken_off():
    plain = JITTER._replace(noise=0.0, flip=False)
    straight, mirrored = (
        np.concatenate([b.images for b in batches(0, augmentation=of, train=True)], axis=-1)
        for of in (plain, plain._replace(flip=True))
    )
    flipped = [not np.array_equal(straight[..., n], mirrored[..., n]) for n in range(12)]
    assert 0 < sum(flipped) < 12
    np.testing.assert_array_equal(mirrored[..., flipped], straight[:, :, ::-1, flipped])
    pixels = straight + SQUARES.images.mean(axis=(1, 2, 3))[:, None, None, None]
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)


@pytest.mark.parametrize(("dense", "side"), [(True, 28), (False, 16)])
def test_the_mean_picture_is_as_large_as_what_it_is_taken_off(dense, side):
    """Of the one picture that there is nothing is left, to rounding."""
    ys, xs = np.mgrid[0:20, 0:20]
    picture = np.stack([20 + 8 * ys, 40 + 6 * xs, 100 + 5 * ys - 2 * xs]).astype(np.uint8)
    plain = augment.Augmentation(crop=16, noise=0.0)
    source = Images(picture[..., None], np.zeros(1, int), ("a",))
    for mean, most in ((picture, 1), (np.zeros(3), 255)):
        with RescaledLoader(source, 1, plain, train=False, mean=mean, scale=28, dense=dense) as loader:
            [batch] = loader
        assert batch.images.shape == (3, side, side, 1)
        assert most // 2 < np.abs(batch.images).max() <= most


def test_each_picture_draws_its_own_scale_and_its_crops_reach_the_corners():
    """Of a picture whose pixels are their own coordinates every crop tells its scale and place."""
    ys, xs = np.mgrid[0:200, 0:100]
    picture = np.stack([ys, xs, 0 * xs]).astype(np.uint8)[..., None].repeat(64, 3)
    source = _Whole([picture[..., i] for i in range(64)])
    plain = augment.Augmentation(crop=32, noise=0.0, flip=False, scale=(40, 80))
    with RescaledLoader(source, 64, plain, train=True, epochs=8, threads=0) as loader:
        images = np.concatenate([batch.images for batch in loader], axis=-1)
    steps = (images[1, 16, 31] - images[1, 16, 0]) / 31  # pixels of the picture to one of the crop: 100 / S
    scales = 100 / steps
    assert scales.min() == pytest.approx(40, abs=1)
    assert scales.max() == pytest.approx(80, abs=2)
    assert np.mean(scales < 60) == pytest.approx(0.5, abs=0.07)
    tops = images[0, 0, 16]
    assert tops.min() < 4
    assert tops.max() > 110


class _Whole:
    """Pictures of any shape, as Shards holds them."""

    def __init__(self, pictures):
        self.pictures, self.labels = pictures, np.zeros(len(pictures), int)
        self.sizes = np.array([p.shape[1:] for p in pictures])
        self.size = min(self.sizes.ravel())

    def __getitem__(self, i):
        return self.pictures[i]


def test_a_window_of_a_rescaled_picture_is_cut_from_it():
    picture = rng.integers(0, 256, (3, 30, 47), np.uint8)
    whole = augment.rescaled(picture, 41)
    assert whole.shape == (3, 41, 64)
    window = augment.rescaled(picture, 41, (5, 20, 16, 16))
    assert np.abs(whole[:, 5:21, 20:36].astype(int) - window).max() <= 1  # a rounding of Pillow's
    np.testing.assert_array_equal(augment.rescaled(picture, 30), picture)


def test_fifty_windows_by_hand():
    windows = augment.view_windows(50, 20, 32, 16)
    assert windows[:6] == [
        (0, 0, False),
        (0, 4, False),
        (0, 8, False),
        (0, 12, False),
        (0, 16, False),
        (1, 0, False),
    ]
    assert windows[24] == (4, 16, False)
    assert windows[49] == (4, 16, True)
    assert len(set(windows)) == 50
    assert augment.view_windows(1, 20, 32, 16) == [(2, 8, False)]
    assert augment.view_windows(10, 20, 20, 16) == augment.ten_view_windows(20, 16)


def test_fifty_crops_against_each_taken_by_hand():
    mean = np.array([90.0, 100.0, 110.0], np.float32)
    plain = augment.Augmentation(crop=16, noise=0.0)
    net = _unpadded(16).build(rng=np.random.default_rng(0))
    with RescaledLoader(SQUARES, 5, plain, train=False, mean=mean, views=50, scale=24) as loader:
        p, labels = probabilities(net, loader)
    np.testing.assert_array_equal(labels, SQUARES.labels)
    picture = augment.rescaled(SQUARES.images[..., 7], 24).astype(np.float32) - mean[:, None, None]
    wanted = 0
    for y in (0, 2, 4, 6, 8):
        for x in (0, 2, 4, 6, 8):
            window = picture[:, y : y + 16, x : x + 16, None]
            wanted = wanted + softmax(net.forward(window)) + softmax(net.forward(window[:, :, ::-1].copy()))
    np.testing.assert_allclose(p[:, 7], wanted[:, 0] / 50, atol=1e-6)


def _unpadded(size):
    """Of stride 4 in all, without padding: seen from a window, the picture about it does not matter."""
    layers = [
        Conv2d(4, 3, activation="relu", std=0.1), MaxPool(2, 2, ceil=False),
        Conv2d(5, 2, activation="relu", std=0.1), MaxPool(2, 2, ceil=False),
        Flatten(), Linear(6, "relu", std=0.1), Linear(3, std=0.5),
    ]  # fmt: skip
    return Network(layers, (3, size, size))


def test_dense_is_the_average_of_all_windows_taken_one_by_one():
    net = _unpadded(16).build(rng=np.random.default_rng(0), dtype=np.float64)
    x = np.random.default_rng(1).normal(0, 60, (3, 24, 28, 2))
    windows = [net.forward(x[:, y : y + 16, x0 : x0 + 16]) for y in (0, 4, 8) for x0 in (0, 4, 8, 12)]
    np.testing.assert_allclose(Dense(net).forward(x), np.mean(windows, axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg-c", {"width": 1 / 32, "size": 64}),
        ("paper", {"width": 1 / 16, "size": 112}),
        ("caffe", {"width": 1 / 8, "size": 99}),
        ("cifar4", {}),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_dense_on_one_window_is_the_plain_test(name, options, dtype):
    net = make(name, classes=5, **options).build(rng=np.random.default_rng(0), dtype=dtype)
    x = np.random.default_rng(1).normal(0, 60, (*net.input_shape, 2)).astype(dtype)
    dense, plain = Dense(net), net.forward(x)
    tolerance = {np.float64: 1e-12, np.float32: 1e-6}[dtype]
    np.testing.assert_allclose(dense.forward(x), plain, rtol=0, atol=tolerance * np.abs(plain).max())
    for layer, slid in zip(net.layers.values(), dense._slid.layers.values(), strict=True):
        for key, array in layer.params.items():
            assert np.shares_memory(array, slid.params[key])


def test_a_picture_smaller_than_the_dense_window():
    net = make("vgg-a", width=1 / 64, size=64).build(rng=np.random.default_rng(0))
    with pytest.raises(ArgumentError, match="64 × 48 pixels are smaller than the window of 64 × 64"):
        Dense(net).forward(np.zeros((3, 64, 48, 1), np.float32))


def test_a_normalization_of_single_features_cannot_be_slid():
    layers = [Conv2d(2, 3), Flatten(), BatchNorm(), Linear(3)]
    with pytest.raises(ArgumentError, match="bn1: normalizes each pixel of maps: a network with it cannot"):
        Dense(Network(layers, (3, 8, 8)).build(rng=np.random.default_rng(0)))


def test_weights_for_maps_of_one_size_cannot_be_slid():
    """On the network's own window they are what they are there."""
    net = Network([Local2d(3, 3), Linear(4)], (3, 8, 8)).build(rng=np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((3, 9, 8, 2)).astype(np.float32)
    window = x[:, :8].copy()
    np.testing.assert_allclose(Dense(net).forward(window), net.forward(window), rtol=1e-5)
    with pytest.raises(ArgumentError, match=r"^local1: its weights are for maps of one size: a network with"):
        Dense(net).forward(x)


def test_what_is_derived_from_linear_is_not_slid_as_that():
    class Squared(Linear, is_kind=False):
        def forward(self, x, train=False):
            return super().forward(x) ** 2

    net = Network([Squared(3, name="own"), Linear(4)], (3, 8, 8)).build(rng=np.random.default_rng(0))
    with pytest.raises(
        ArgumentError, match=r"^own: a kind of layer of your own: a network with it cannot be"
    ):
        Dense(net)


def test_what_only_draws_its_weights_is_slid():
    class Uniform(Linear, is_kind=False):
        def draw(self, key, size, rng):
            return rng.uniform(-1, 1, size)

    net = Network([Uniform(3), Linear(4, std=1.0)], (3, 8, 8)).build(rng=0)
    x = np.random.default_rng(0).standard_normal((3, 8, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(Dense(net).forward(x), net.forward(x), rtol=1e-4, atol=1e-4)


def test_dense_batches_hold_neighbours_of_one_size_and_their_mirror_images():
    shapes = [(20, 30), (20, 30), (25, 20), (20, 30), (20, 30), (20, 30)]
    source = _Whole([rng.integers(0, 256, (3, *shape), np.uint8) for shape in shapes])
    plain = augment.Augmentation(crop=16, noise=0.0, scale=20)
    with RescaledLoader(source, 2, plain, train=False, mean=np.zeros(3), dense=True, views=2) as loader:
        found = list(loader)
    assert [b.images[0].shape[1:] for b in found] == [(20, 30, 2), (25, 20, 1), (20, 30, 2), (20, 30, 1)]
    np.testing.assert_array_equal(found[1].images[0][..., 0], source[2])
    np.testing.assert_array_equal(found[1].images[1], found[1].images[0][:, :, ::-1])
    with RescaledLoader(source, 2, plain, train=False, mean=np.zeros(3)) as windows:
        assert [b.images.shape for b in windows] == [(3, 16, 16, 2)] * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": True, "augmentation": JITTER._replace(scale=None)}, "scale: expected the shorter side"),
        ({"train": False, "augmentation": JITTER._replace(scale=None)}, "scale: expected the shorter side"),
        ({"train": True, "augmentation": JITTER._replace(scale=15)}, "15 pixels are smaller than the 16"),
        ({"train": False, "scale": 12}, "12 pixels are smaller than the 16"),
        ({"train": True, "views": 10}, r"views=10: expected one of \(1, 9, 10, 50\), 1 with train=True"),
    ],
)
def test_what_does_not_fit(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        batches(0, **arguments)


# ---- shards of whole pictures --------------------------------------------------------------------------

SIZES = [(60, 40), (40, 60), (40, 40), (90, 40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four pictures and a strip, in two classes; prepared whole with a shorter side of 36."""
    src, dst = tmp_path_factory.mktemp("src"), tmp_path_factory.mktemp("dst") / "whole"
    for i, (w, h) in enumerate(SIZES):
        (src / "ab"[i % 2]).mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (h, w, 3), np.uint8)
        Image.fromarray(pixels).save(src / "ab"[i % 2] / f"{i}.png")
    Image.new("RGB", (200, 20)).save(src / "a" / "strip.png")
    return src, dst, imagenet.prepare(src, dst, size=36, whole=True, workers=1, shard_size=2)


def test_whole_pictures_in_shards(folder):
    _, dst, done = folder
    shards = imagenet.open(dst)
    assert (done.counts, done.unreadable) == ({"train": 4}, 1)
    assert "200 × 20 pixels: the longer side is more than 8 times" in (dst / "unreadable.txt").read_text()
    assert sorted(map(tuple, shards.sizes.tolist())) == [(36, 36), (36, 54), (36, 81), (54, 36)]
    assert [shards[i].shape[1:] for i in range(4)] == [tuple(size) for size in shards.sizes]
    pixels = np.concatenate([shards[i].reshape(3, -1) for i in range(4)], axis=1)
    np.testing.assert_allclose(shards.mean, np.tile(pixels.mean(1)[:, None, None], (1, 36, 36)), rtol=1e-6)
    np.testing.assert_allclose(shards.covariance, np.cov(pixels, bias=True), rtol=1e-9)
    square = next(i for i in range(4) if shards.sizes[i].max() == 36)
    picture = np.random.default_rng(2).integers(0, 256, (40, 40, 3), np.uint8)
    scaled = Image.fromarray(picture).resize((36, 36), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(shards[square], np.asarray(scaled).transpose(2, 0, 1))


def test_whole_shards_are_verified_and_not_taken_for_squares(folder):
    src, dst, _ = folder
    assert imagenet.prepare(src, dst, size=36, whole=True, workers=1, shard_size=2).verified
    with pytest.raises(DataError, match="was begun with whole True, now False"):
        imagenet.prepare(src, dst, size=36, workers=1, shard_size=2)


@pytest.fixture(scope="module")
def a(folder, tmp_path_factory):
    """A run of A on them, its batches in two parts, stopped after an epoch; and one that was not stopped."""
    path = tmp_path_factory.mktemp("runs")
    options = {
        "width": 1 / 64,
        "size": 32,
        "scale": (33, 36),
        "batch": 2,
        "accumulate": 2,
        "devices": "cpu:0",
    }
    runs.train(path / "whole", folder[1], "vgg-a", epochs=2, **options)
    runs.train(path / "a", folder[1], "vgg-a", epochs=1, **options)
    runs.resume(path / "a", epochs=2, devices="cpu:0")
    return path / "a", path / "whole"


def arrays_of(run, which=-1):
    return checkpoint.load(checkpoint.checkpoints(run)[which])[0]


def test_a_run_in_parts_with_jitter_goes_on_as_if_it_had_not_stopped(a):
    found, wanted = map(arrays_of, a)
    assert found.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_a_deeper_run_starts_from_a_and_does_not_need_it_again(folder, a, tmp_path):
    """Its checkpoint of step 0 holds A's seven layers; the run goes on from that when A's is gone."""
    source = tmp_path / "a.safetensors"
    source.write_bytes(checkpoint.newest(a[0]).read_bytes())
    made, opened = runs.new_run(
        folder[1], "vgg-d", width=1 / 64, size=32, scale=36, batch=2, epochs=1, start_from=source
    )
    stop = threading.Event()
    stop.set()
    launch(run.job(tmp_path / "d", made, opened, new=True, stop=stop), "cpu:0")
    source.unlink()
    theirs, ours = arrays_of(a[0]), arrays_of(tmp_path / "d", 0)
    same = {name for name in ours if name in theirs and np.array_equal(ours[name], theirs[name])}
    seven = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")
    assert {f"{layer}.w" for layer in seven} <= same
    assert not {"conv4_1.w", "conv4_2.w", "conv5_1.w", "conv5_2.w"} & same
    runs.resume(tmp_path / "d", devices="cpu:0")
    assert checkpoint.newest(tmp_path / "d").name == "step-00000002.safetensors"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 48}, "shorter side of 36 pixels, and --scale asks for 48: prepare them with --side 48"),
        (
            {"scale": 20},
            "side of 20 pixels, and the network sees 32: --size 20 at most, or --scale 32 at least",
        ),
        (
            {"scale": 36, "accumulate": 3},
            "--accumulate: expected a number of equal parts of the 2 images .* found 3",
        ),
        ({"scale": (36, 33)}, "--scale: expected LEAST,MOST, found 36,33"),
        ({"scale": 36, "upscale": 40}, "--scale: rescales pictures itself, found --upscale"),
        ({"recipe": "paper"}, "holds whole pictures, of a shorter side of 36: --scale 36 at most"),
        ({"start_from": "a", "width": 1 / 32}, "--start-from: .*conv1_1.b: this network has"),
    ],
)
def test_runs_that_cannot_be_are_refused_before_their_folder(folder, a, tmp_path, options, message):
    options = {"width": 1 / 64, "batch": 2, "epochs": 1, "devices": "cpu:0"} | options
    if "start_from" in options:
        options["start_from"] = a[0]
    with pytest.raises(DataError, match=message):
        runs.train(tmp_path / "run", folder[1], "vgg-d", size=32, **options)
    assert not (tmp_path / "run").exists()


def test_pictures_in_the_files_order_are_not_rescaled():
    """2011's recipes; what is rescaled is shuffled, and has whole batches only."""
    with pytest.raises(ArgumentError, match=r"scale: .* shuffled, expected no data_batch, found 10"):
        batches(0, train=True, data_batch=10)


def test_tests_of_a_run_over_scales_dense_and_crops(folder, a):
    """Each is the average of its passes, computed one by one; both kinds together of both."""
    trained_a = trained.load(Comm(Device("cpu:0")), checkpoint.newest(a[0]))
    source = imagenet.open(folder[1])

    def tested(*how):
        p, labels = trained.probabilities_of(trained_a.net.comm, trained_a, source, trained.Test(*how), count)
        np.testing.assert_array_equal(labels, source.labels)
        return p

    def count(done, of):
        counted.append((done, of))

    counted = []
    dense = [tested(0, True, True, (scale,)) for scale in (32, 36)]
    crops = [tested(50, False, False, (scale,)) for scale in (33, 34, 36)]
    np.testing.assert_allclose(tested(0, True, True, (32, 36)), np.mean(dense, axis=0), atol=1e-7)
    counted.clear()
    both = tested(150, True, True, (33, 34, 36))
    assert counted[-1] == (24, 24)
    three = tested(0, True, True, (33, 34, 36))
    np.testing.assert_allclose(both, (three + np.mean(crops, axis=0)) / 2, atol=1e-7)
    np.testing.assert_array_equal(tested(150, False, False, None), tested(50, False, False, (33, 34, 36)))
    one = tested(1, False, False, None)  # at the middle of [33, 36]
    assert (
        np.abs(one - tested(1, False, False, (34,))).max()
        == 0
        < np.abs(one - tested(1, False, False, (36,))).max()
    )


@pytest.mark.parametrize(
    ("scale", "upscale", "scales"),
    [
        (None, None, (20, 22, 24)),
        (None, 28, (26, 28, 30)),
        (36, None, (34, 36, 38)),
        ((30, 40), None, (30, 35, 40)),
    ],
)
def test_150_views_are_of_three_scales_about_the_one_in_training(scale, upscale, scales):
    """That of the recipe, else the side to which pictures were enlarged, else their own."""
    pictures = augment.Augmentation(crop=16, noise=0.0, scale=scale)
    settings = SimpleNamespace(recipe=Recipe(batch=100, augmentation=pictures), upscale=upscale)
    net = SimpleNamespace(comm=Comm("cpu:0"), input_shape=(3, 16, 16))
    of_run = trained.Trained(net, settings, np.zeros((3, 22, 22), np.float32), SQUARES.classes)
    assert trained.Test(150).passes(of_run) == [[(50, False, scale) for scale in scales]]
    # as many pixels as a batch of training, to a picture
    for views, dense, batch in ((1, False, 100), (50, False, 2), (2, True, 12800 // scales[1] ** 2)):
        with trained.view_loader(net.comm, of_run, SQUARES, views, scales[1], dense) as loader:
            assert loader.batch_size == batch
    with trained.view_loader(net.comm, of_run, SQUARES, 1, dense=True) as loader:
        assert {view.shape[1:3] for images, _ in loader for view in [images]} == {(scales[1], scales[1])}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ((0, True, False, (31,)), "pictures of 31 pixels are smaller than the window of 32"),
        ((1, False, False, (40,)), "pictures of 36 pixels, to be tested at 40: prepare with --side 40"),
        ((150, False, False, (33, 36)), "--views 150: expected three scales, found 2"),
    ],
)
def test_tests_that_cannot_be(folder, a, how, message):
    trained_a = trained.load(Comm(Device("cpu:0")), checkpoint.newest(a[0]))
    with pytest.raises(TinyalexError, match=message):
        trained.probabilities_of(
            trained_a.net.comm, trained_a, imagenet.open(folder[1]), trained.Test(*how), print
        )
