"""Testing a network: views, errors and ensembles against numbers worked out by hand, and what is read."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tinyalex import evaluate
from tinyalex.comm import Comm, launch
from tinyalex.data import Images, augment
from tinyalex.data.loader import Batch, Loader
from tinyalex.data.pictures import read_picture
from tinyalex.data.preprocessing import Pictures
from tinyalex.devices import Device, parse
from tinyalex.errors import ArgumentError, DataError
from tinyalex.models import Network
from tinyalex.models.alexnet import AlexNet, alexnet, narrow
from tinyalex.nn import LRN, Conv2d, Linear, MaxPool, ZeroPad
from tinyalex.runs import checkpoint
from tinyalex.runs import trained as reading
from tinyalex.runs.recipe import Recipe
from tinyalex.runs.settings import Settings

SIDE, CROP, CLASSES = 72, 67, ("a", "b", "c", "d", "e", "f")
OPTIONS = narrow(AlexNet(size=CROP, classes=6, conv345_std=0.3, fc_std=0.3, bias=0.1), 0.02)  # lively
NETWORK = alexnet(OPTIONS)
SETTINGS = Settings("", NETWORK, Recipe(batch=4, augmentation=augment.PAPER._replace(crop=CROP)))
RNG = np.random.default_rng(0)
PICTURES = Images(RNG.integers(0, 256, (3, SIDE, SIDE, 10), dtype=np.uint8), RNG.integers(0, 6, 10), CLASSES)
MEAN = RNG.uniform(100, 150, (3, SIDE, SIDE)).astype(np.float32)
ONE = Comm(Device("cpu:0"))


def logs(*probabilities):
    """Logits of these probabilities, one picture a column: (K, N)."""
    return np.log(np.array(probabilities, np.float64).T)


class Fake:
    """A network whose pictures are logits; it remembers what it was shown."""

    def __init__(self):
        self.comm = self.row = self.data = ONE
        self.placed, self.seen = {"fc": SimpleNamespace(parts=1)}, []

    def forward(self, x):
        self.seen.append(x)
        return x


# ---- probabilities -----------------------------------------------------------------------------------


def test_one_view_gives_the_softmax_of_each_batch_in_order():
    """Three pictures in batches of two and one."""
    p = [[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]]
    loader = iter([Batch(logs(*p[:2]) + 7, np.array([0, 2])), Batch(logs(p[2]), np.array([1]))])
    done = []
    found, labels = evaluate.probabilities(Fake(), loader, done.append)
    np.testing.assert_allclose(found, np.array(p).T, rtol=1e-12)
    assert labels.tolist() == [0, 2, 1]
    assert done == [2, 3]


def test_of_ten_views_the_softmax_is_averaged_and_not_the_logits():
    """Nine views say 0.9 : 0.1, the tenth 0.001 : 0.999.

    The mean of the probabilities is (9 · 0.9 + 0.001)/10 = 0.8101; the softmax of the mean logits would be
    1/(1 + exp(−(9 ln 9 − ln 999)/10)) = 0.784, and the logits' constant of 5 a view changes nothing.
    """
    views = [logs([0.9, 0.1]) + 5 * v for v in range(9)] + [logs([0.001, 0.999])]
    found, _ = evaluate.probabilities(Fake(), iter([Batch(views, np.array([0]))]))
    np.testing.assert_allclose(found, [[0.8101], [0.1899]], rtol=1e-12)


def test_the_network_sees_the_ten_views_in_the_paper_s_order():
    """Corners and centre, then their mirror images, side by side; of the mean, each loses the centre."""
    net, trained = Fake(), SimpleNamespace(settings=settings_of(20), mean=MEAN, pictures=None)
    net.forward = lambda x: Fake.forward(net, x).mean((1, 2))
    with reading.view_loader(ONE, trained, PICTURES, 10) as loader:
        found, labels = evaluate.probabilities(net, loader)
    assert found.shape == (3, 10)
    assert labels.tolist() == PICTURES.labels.tolist()
    assert len(net.seen) == 5  # two pictures each, whose views are a batch of training
    b = (SIDE - CROP) // 2
    corners = [(0, 0), (0, 2 * b), (b, b), (2 * b, 0), (2 * b, 2 * b)]
    centre = MEAN[:, b : b + CROP, b : b + CROP, None]
    for k, (y, x) in enumerate(corners * 2):
        expected = PICTURES.images[:, y : y + CROP, x : x + CROP, :2]
        expected = (expected[:, :, ::-1] if k >= len(corners) else expected) - centre
        np.testing.assert_array_equal(net.seen[0][..., 2 * k : 2 * k + 2], expected)


def settings_of(batch):
    return SETTINGS._replace(recipe=SETTINGS.recipe._replace(batch=batch))


def test_one_view_is_the_third_of_the_ten():
    net, trained = Fake(), SimpleNamespace(settings=SETTINGS, mean=MEAN, pictures=None)
    net.forward = lambda x: Fake.forward(net, x).mean((1, 2))
    for views in (1, 10):
        with reading.view_loader(ONE, trained, PICTURES, views) as loader:
            evaluate.probabilities(net, loader)
    np.testing.assert_array_equal(net.seen[0][..., 0], net.seen[3][..., 2])


@pytest.mark.parametrize("views", [1, 10])
def test_a_batch_of_views_is_no_larger_than_one_of_training_and_changes_nothing(saved, views):
    trained, found = reading.load(ONE, saved[0]), []
    for batch in (8, 35, 100):
        trained = trained._replace(settings=settings_of(batch))
        with reading.view_loader(ONE, trained, PICTURES, views) as loader:
            found.append(evaluate.probabilities(trained.net, loader)[0])
        with reading.view_loader(ONE, trained, PICTURES, views) as loader:
            images = next(loader).images
        assert views * np.shape(images)[-1] <= max(batch, views)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-5)


# ---- errors ------------------------------------------------------------------------------------------


def test_errors_by_hand():
    """Right with 1/2; second with 1/4; last of eight with 1/64: 1, 2 and 6 ln 2 in the mean are 3 ln 2."""
    rest = (1 - 1 / 64) / 7
    p = np.array(
        [
            [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 128],
            [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 128],
            [rest] * 7 + [1 / 64],
        ]
    ).T
    loss, top1, top5 = evaluate.errors(p, np.array([0, 1, 7]))
    assert loss == pytest.approx(3 * np.log(2))
    assert (top1, top5) == pytest.approx((2 / 3, 1 / 3))
    assert evaluate.errors(p, np.array([0, 1, 7]), k=1)[2] == top1


def test_ties_count_by_chance():
    """Ten equal classes: right with 1/10 at first guess, 5/10 with five.

    The other picture: one class ahead, the label with three others, so that four share the places 2 to 5,
    all of which count among five; at first guess it is wrong.
    """
    p = np.full((10, 2), 0.1)
    p[:, 1] = [0.3, 0.15, 0.15, 0.15, 0.15, 0.02, 0.02, 0.02, 0.02, 0.02]
    assert evaluate.errors(p[:, :1], np.array([3]))[1:] == pytest.approx((0.9, 0.5))
    assert evaluate.errors(p[:, 1:], np.array([4]))[1:] == pytest.approx((1, 0))
    assert evaluate.errors(p[:, 1:], np.array([4]), k=2)[2] == pytest.approx(0.75)  # one place for four
    assert evaluate.errors(p, np.array([3, 4]))[1:] == pytest.approx((0.95, 0.25))


def test_labels_that_are_none_of_the_classes_are_named():
    p = np.full((3, 2), 1 / 3)
    for labels, says in ((np.array([0, 3]), "expected labels 0 … 2"), ([0, 1], "expected labels, an array")):
        with pytest.raises(ArgumentError, match=f"^topk_error: {says}"):
            evaluate.errors(p, labels)


def test_few_classes_leave_top_5_a_meaning():
    """Among four it is top-3, wrong for the last alone."""
    p = np.array([[0.4, 0.3, 0.2, 0.1]] * 4).T
    assert evaluate.errors(p, np.arange(4))[1:] == pytest.approx((0.75, 0.25))


def test_of_one_class_no_guess_is_wrong():
    assert evaluate.errors(np.ones((1, 3)), np.zeros(3, int)) == (0, 0, 0)
    assert [evaluate.guesses(classes) for classes in (1, 2, 4, 6, 1000)] == [1, 1, 3, 5, 5]


def test_a_probability_of_0_has_a_finite_loss():
    loss, top1, _ = evaluate.errors(np.array([[1.0], [0.0], [0.0]], np.float32), np.array([1]))
    assert loss == pytest.approx(-np.log(np.finfo(np.float32).tiny))
    assert top1 == 1


# ---- ensembles ---------------------------------------------------------------------------------------


def test_an_ensemble_by_hand():
    """Equal by default; weights count by their ratio."""
    a, b = np.array([[0.8, 0.4], [0.2, 0.6]]), np.array([[0.0, 0.6], [1.0, 0.4]])
    np.testing.assert_allclose(evaluate.ensemble([a, b]), [[0.4, 0.5], [0.6, 0.5]])
    np.testing.assert_allclose(evaluate.ensemble([a, b], [3, 1]), [[0.6, 0.45], [0.4, 0.55]])
    np.testing.assert_allclose(evaluate.ensemble([a, b], [0, 2]), b)
    np.testing.assert_allclose(evaluate.ensemble([a]), a)


@pytest.mark.parametrize(
    "weights",
    [[1], [1, 2, 3], [1, -1], [2, -1], [0, 0], [1, np.nan], [np.inf, 1], [1j, 1], ["1", 1], 2],
    ids=str,
)
def test_weights_that_make_no_average_are_refused(weights):
    a = np.array([[0.8], [0.2]])
    with pytest.raises(ValueError, match="weights: expected 2 numbers"):
        evaluate.ensemble([a, a], weights)


def _half(*shape):
    return np.full(shape, 0.5)


LABEL = np.array([0])


@pytest.mark.parametrize(
    ("says", "call"),
    [
        ("net: expected a Sequential, found None", lambda: evaluate.probabilities(None, iter(()))),
        ("net: expected a Sequential, found 3", lambda: evaluate.Dense(3)),
        ("net: expected a Sequential, found Network", lambda: evaluate.features(NETWORK, iter(()), "fc8")),
        ("loader: expected an iterator, such as a Loader, fo", lambda: evaluate.probabilities(Fake(), [1])),
        ("loader: expected a batch or more, found []", lambda: evaluate.probabilities(Fake(), iter(()))),
        ("loader: expected a batch or more, found []", lambda: evaluate.probabilities(Fake(), None)),
        ("on_batch: expected a function, found 3", lambda: evaluate.probabilities(Fake(), iter(()), 3)),
        ("loader: expected a Loader, found ", lambda: evaluate.features(Fake(), iter(()), "fc")),
        ("errors: expected probabilities, an array, found list", lambda: evaluate.errors([1.0], LABEL)),
        ("errors: expected probabilities (K,N), found (3,)", lambda: evaluate.errors(_half(3), LABEL)),
        ("k: expected a whole number ≥ 1, found 0", lambda: evaluate.guesses(10, 0)),
        ("classes: expected a whole number ≥ 1, found '10'", lambda: evaluate.guesses("10")),
        ("k: expected a whole number ≥ 1, found 1.5", lambda: evaluate.errors(_half(3, 1), LABEL, 1.5)),
        ("predictions: expected a list of arrays (K, N), found 1", lambda: evaluate.ensemble(1)),
        ("ensemble: expected predictions[1], an array", lambda: evaluate.ensemble([_half(2, 1), [0.5]])),
        (
            "ensemble: expected predictions of one shape, (K, N), found [(2, 1), (2, 3)]",
            lambda: evaluate.ensemble([_half(2, 3), _half(2, 1)]),
        ),
    ],
)
def test_what_a_test_is_given_is_named(says, call):
    with pytest.raises(ArgumentError, match=f"^{re.escape(says)}"):
        call()


# ---- a network from a checkpoint ---------------------------------------------------------------------


def metadata_of(network=NETWORK):
    """What a run writes into its checkpoints, but for its place."""
    settings = SETTINGS._replace(network=network).to_json()
    return {"network": settings.pop("network"), "classes": list(CLASSES), "settings": settings}


def save(path, **metadata):
    """A checkpoint of a network as its seed makes it, as a run writes it."""
    net = NETWORK.build(ONE, np.random.default_rng(3))
    arrays = checkpoint.state(net, None) | {"data.mean": MEAN}
    checkpoint.save(path, arrays, metadata_of() | metadata)
    return net


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoints") / "one.safetensors"
    return path, save(path)


def test_load_gives_back_the_network_and_what_it_needs(saved):
    path, net = saved
    trained = reading.load(ONE, path)
    assert (trained.settings, trained.classes) == (SETTINGS, CLASSES)
    np.testing.assert_array_equal(trained.mean, MEAN)
    for (name, layer, key), (_, other, _) in zip(trained.net.parameters(), net.parameters(), strict=True):
        np.testing.assert_array_equal(layer.params[key], other.params[key], err_msg=name)


def test_ranks_that_name_different_files_read_rank_0s(saved, tmp_path):
    """A run that goes on has another newest checkpoint when the next rank looks."""
    later = tmp_path / "later.safetensors"
    arrays, metadata = checkpoint.load(saved[0])
    checkpoint.save(later, {name: array + 1 for name, array in arrays.items()}, metadata)

    def rank(comm):
        return np.sum(reading.load(comm, (saved[0], later)[comm.rank]).net.layers["conv1"].params["w"])

    both = launch(rank, parse("cpu:0,cpu:1"))
    assert sum(both) == pytest.approx(np.sum(saved[1].layers["conv1"].params["w"]), abs=1e-3)


@pytest.mark.parametrize(
    ("other", "array"),
    [({"hidden": 72}, "fc6"), ({"classes": 8}, "fc8"), ({"filters": (16, 8, 8, 8, 8)}, "conv1")],
)
def test_a_checkpoint_whose_arrays_are_another_model_s_is_refused(tmp_path, other, array):
    """The settings say one thing, the arrays are of another."""
    path = tmp_path / "other.safetensors"
    save(path, **metadata_of(alexnet(OPTIONS._replace(**other))))
    with pytest.raises(DataError, match=rf"other\.safetensors: {array}\.[wb]: this model has .*, the checkp"):
        reading.load(ONE, path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_checkpoint_whose_parameters_are_not_finite_is_refused(saved, value, tmp_path):
    """Its probabilities would be nan in each command that asks for them."""
    arrays, metadata = checkpoint.load(saved[0])
    arrays["conv3.w"] = arrays["conv3.w"].copy()
    arrays["conv3.w"].flat[5] = value
    path = tmp_path / "broken.safetensors"
    checkpoint.save(path, arrays, metadata)
    with pytest.raises(
        DataError, match=r"broken\.safetensors: conv3\.w: expected finite numbers, found 1 of"
    ):
        reading.load(ONE, path)


def test_a_checkpoint_without_a_network_is_refused(tmp_path):
    path = tmp_path / "curve.safetensors"
    checkpoint.save(path, {"conv1.w": np.zeros((2, 2), np.float32)}, {"curve": []})
    with pytest.raises(DataError, match=r"curve\.safetensors: expected a checkpoint of a network, found"):
        reading.load(ONE, path)


def test_a_network_whose_pictures_are_not_stated_is_refused(tmp_path):
    """As Figure 1's is: it says nothing of its mean picture."""
    save(tmp_path / "figure1.safetensors", settings=None)
    with pytest.raises(DataError, match=r"figure1\.safetensors: expected a run, or an imported network"):
        reading.load(ONE, tmp_path / "figure1.safetensors")


def test_a_checkpoint_with_what_is_not_known_is_refused_by_name(tmp_path):
    fields = metadata_of()
    fields["network"]["layers"][0]["norm"] = True
    save(tmp_path / "newer.safetensors", **fields)
    with pytest.raises(
        DataError, match=r"newer\.safetensors: layers: conv1: expected .* fields, .*, found norm"
    ):
        reading.load(ONE, tmp_path / "newer.safetensors")


def test_a_checkpoint_with_another_number_of_names_is_refused(tmp_path):
    save(tmp_path / "two.safetensors", classes=["a", "b"])
    with pytest.raises(DataError, match=r"two\.safetensors: classes: expected 6 names, found \['a', 'b'\]"):
        reading.load(ONE, tmp_path / "two.safetensors")


def test_a_checkpoint_of_a_later_version_is_refused_by_name(tmp_path):
    save(tmp_path / "newer.safetensors", version=3)
    with pytest.raises(DataError, match=r"newer\.safetensors: expected format 2 or earlier, found 3: wr"):
        reading.load(ONE, tmp_path / "newer.safetensors")


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("hello")
    for name, message in (("text", "not a whole safetensors file"), ("missing", "found no such file")):
        with pytest.raises(DataError, match=rf"{name}\.safetensors: .*{message}"):
            reading.load(ONE, tmp_path / f"{name}.safetensors")


def on(devices, path, look):
    """What look(trained, loader's maker) gives on rank 0 of these devices."""

    def rank(comm):
        trained = reading.load(comm, path)
        return look(trained, lambda views: reading.view_loader(comm, trained, PICTURES, views))

    return launch(rank, parse(devices))


def look_at_all(trained, loader):
    with loader(1) as one, loader(10) as ten, loader(1) as again:
        p, labels = evaluate.probabilities(trained.net, one)
        return (
            p,
            evaluate.probabilities(trained.net, ten)[0],
            evaluate.features(trained.net, again, "gather8"),
            labels,
        )


def test_one_and_two_ranks_agree(saved):
    """One rank and two differ by roundings of float32, 1e-5 of a value; rank 0 alone keeps features."""
    one, (first, second) = on("cpu:0", saved[0], look_at_all)[0], on("cpu:0,cpu:1", saved[0], look_at_all)
    for a, b, c in zip(one, first, second, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        if c is not None:
            np.testing.assert_array_equal(b, c)
    assert [c is None for c in second] == [False, False, True, False]
    p, ten, features, labels = one
    assert (p.shape, ten.shape, features.shape) == ((6, 10), (6, 10), (OPTIONS.hidden, 10))
    np.testing.assert_allclose(p.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(ten.sum(axis=0), 1, rtol=1e-6)
    assert abs(p - ten).max() > 1e-4  # the views are not alike
    assert labels.tolist() == PICTURES.labels.tolist()


@pytest.mark.parametrize("layer", ["conv1", "pool5", "fc6", "gather8", "fc8"])
def test_features_are_the_outputs_of_the_layer(saved, layer):
    """Without dropout, at test: its units are halved instead (section 4.2)."""
    path, net = saved
    trained = reading.load(ONE, path)
    with reading.view_loader(ONE, trained, PICTURES, 1) as loader:
        found = evaluate.features(trained.net, loader, layer)
    x = augment.centre_view(PICTURES.images, CROP) - augment.centre_view(MEAN, CROP)[..., None]
    for part in (slice(0, 4), slice(4, 8), slice(8, 10)):  # the loader's batches
        y = x[..., part]
        for other in list(net.layers.values())[: list(net.layers).index(layer) + 1]:
            y = other.forward(y, train=False)
        np.testing.assert_array_equal(found[:, part], y.reshape(-1, y.shape[-1]))
    assert found.dtype == np.float32
    assert np.ptp(found, axis=1).max() > 0.01


def test_features_of_a_layer_that_is_not_there_are_refused(saved):
    trained = reading.load(ONE, saved[0])
    with (
        reading.view_loader(ONE, trained, PICTURES, 1) as loader,
        pytest.raises(ArgumentError, match=r"layer: expected one of conv1, .*, found 'conv9'"),
    ):
        evaluate.features(trained.net, loader, "conv9")


def test_features_of_a_loader_that_gave_some_batches_already_are_refused(saved):
    """Their places would hold whatever was in the memory."""
    trained = reading.load(ONE, saved[0])
    with reading.view_loader(ONE, trained, PICTURES, 1) as loader:
        seen = len(next(loader).labels)
        says = f"^loader: expected all its pictures, from the first on, found {len(PICTURES.labels) - seen}$"
        with pytest.raises(ArgumentError, match=says):
            evaluate.features(trained.net, loader, "fc8")


@pytest.mark.parametrize("wrong", [None, np.ones((3, 80, 80))], ids=["none", "one picture"])
def test_what_is_no_batch_of_pictures_is_not_slid_over(saved, wrong):
    dense = evaluate.Dense(Network([Conv2d(2, 3), Linear(4)], (3, 8, 8)).build(ONE, 0))
    with pytest.raises(ArgumentError, match=r"^dense: expected x"):
        dense.forward(wrong)


@pytest.mark.parametrize("layer", ["conv1", "lrn2", "gather3", "pool5", "fc6", "dropout7", "gather8", "fc8"])
def test_features_are_the_whole_network_s_on_any_number_of_ranks(saved, layer):
    """Those of both towers, in the order that one rank gives."""

    def look(trained, loader):
        with loader(1) as views:
            return evaluate.features(trained.net, views, layer)

    (one,), (two, _) = on("cpu:0", saved[0], look), on("cpu:0,cpu:1", saved[0], look)
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)


LAYERS = [  # whole on every rank until conv1, and in lrn1, whose windows cross the towers
    ZeroPad(1, name="pad0"), Conv2d(8, 5, 4, activation="relu", name="conv1"),
    LRN(5, 1.0, 1e-4, 0.75, name="lrn1"), MaxPool(3, 2, name="pool1"),
    Conv2d(8, 3, groups=2, activation="relu", name="conv2"), Linear(6, name="fc3"),
]  # fmt: skip
STATED = Pictures("BGR", (104.0, 117.0, 123.0), (0.02, 0.01, 0.03), SIDE, CROP)


def save_imported(path, pictures=STATED):
    """A checkpoint as `tinyalex import` writes it."""
    network = Network(LAYERS, (3, CROP, CROP))
    metadata = {"network": network.to_json(), "classes": CLASSES, "pictures": pictures._asdict()}
    checkpoint.save(path, checkpoint.state(network.build(ONE, np.random.default_rng(0)), None), metadata)


@pytest.mark.parametrize("layer", [layer.name for layer in LAYERS])
def test_features_of_an_imported_network_come_once_on_any_number_of_ranks(tmp_path, layer):
    save_imported(tmp_path / "net.safetensors")

    def look(trained, loader):
        with loader(1) as views:
            return evaluate.features(trained.net, views, layer)

    one, two = (on(devices, tmp_path / "net.safetensors", look)[0] for devices in ("cpu:0", "cpu:0,cpu:1"))
    np.testing.assert_allclose(two, one, rtol=1e-5, atol=1e-5)


def test_small_pictures_are_enlarged_as_in_training(saved):
    """Pictures of 36 pixels, and their mean, become 72."""
    trained = reading.load(ONE, saved[0])
    trained = trained._replace(settings=SETTINGS._replace(upscale=SIDE), mean=MEAN[:, ::2, ::2])
    small = PICTURES._replace(images=np.ascontiguousarray(PICTURES.images[:, ::2, ::2]))
    with reading.view_loader(ONE, trained, small, 1) as loader:
        assert next(loader).images.shape == (3, CROP, CROP, 4)
        assert evaluate.probabilities(trained.net, loader)[0].shape == (6, 6)


def test_an_imported_network_sees_pictures_of_the_size_that_it_states(tmp_path):
    """Smaller ones are enlarged, as `predict` does; of larger ones the crop would show too little."""
    save_imported(tmp_path / "net.safetensors", STATED._replace(resize=2 * SIDE))
    trained = reading.load(ONE, tmp_path / "net.safetensors")
    enlarged = [np.rint(augment.upscale(p, 2 * SIDE)) for p in PICTURES.images.transpose(3, 0, 1, 2)]
    large, found = PICTURES._replace(images=np.stack(enlarged, axis=-1).astype(np.uint8)), []
    for source in (PICTURES, large):
        with reading.view_loader(ONE, trained, source, 1) as loader:
            found.append(next(loader).images)
    np.testing.assert_array_equal(*found)
    trained = trained._replace(pictures=STATED)
    message = f"pictures of {2 * SIDE} pixels, the network was trained on {SIDE}: prepare with --size {SIDE}"
    with pytest.raises(DataError, match=message), reading.view_loader(ONE, trained, large, 1):
        pass


def test_a_run_sees_pictures_of_its_own_size(saved):
    trained = reading.load(ONE, saved[0])
    for images, side in ((PICTURES.images[:, ::2, ::2], SIDE // 2), (PICTURES.images.repeat(2, 1), 2 * SIDE)):
        message = f"pictures of {side} pixels, the network was trained on {SIDE}"
        source = PICTURES._replace(images=images)
        with pytest.raises(DataError, match=message), reading.view_loader(ONE, trained, source, 1):
            pass


# ---- pictures ----------------------------------------------------------------------------------------


def files(folder):
    """Picture files of many kinds."""
    rng, made = np.random.default_rng(1), {}
    for name, mode, size in (
        ("colour.jpg", "RGB", (90, 80)),
        ("grey.png", "L", (100, 72)),
        ("glass.png", "RGBA", (80, 80)),
        ("palette.gif", "P", (75, 90)),
        ("small.png", "RGB", (5, 3)),
        ("pixel.png", "L", (1, 1)),
        ("wide.png", "RGB", (300, 2)),
    ):
        pixels = rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / name)
        made[name] = folder / name
    return list(made.values())


def test_pictures_are_read_as_the_training_data_were(saved, tmp_path):
    """Grey, transparent, tiny: each becomes its middle square of the training data's side."""
    trained, paths = reading.load(ONE, saved[0]), files(tmp_path)
    with reading.picture_loader(ONE, trained, paths, 1) as loader:
        found = np.concatenate([batch.images for batch in loader], axis=3)
    expected = np.stack([read_picture(p.read_bytes(), SIDE) for p in paths], axis=-1)
    expected = augment.centre_view(expected, CROP) - augment.centre_view(MEAN, CROP)[..., None]
    np.testing.assert_array_equal(found, expected)
    grey = (found + augment.centre_view(MEAN, CROP)[..., None])[..., 1]
    np.testing.assert_allclose(grey[0], grey[2], atol=1e-4)
    with reading.picture_loader(ONE, trained, paths, 10) as loader:
        p, _ = evaluate.probabilities(trained.net, loader)
    assert p.shape == (6, len(paths))
    assert np.isfinite(p).all()


def not_pictures():
    """Name: what the file holds."""
    picture = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(picture, "PNG")
    return {
        "empty.jpg": b"",
        "text.jpg": b"not a picture",
        "cut.png": picture.getvalue()[:600],
        "zeros.png": bytes(1000),
    }


@pytest.mark.parametrize(("name", "content"), not_pictures().items())
def test_what_is_no_picture_is_named(saved, tmp_path, name, content):
    (good := tmp_path / "good.png").write_bytes(b"")
    Image.new("RGB", (80, 80)).save(good)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{re.escape(name)}: expected a picture"):
        reading.picture_loader(ONE, reading.load(ONE, saved[0]), [good, tmp_path / name], 1)


def test_a_missing_picture_and_a_folder_are_named(saved, tmp_path):
    (tmp_path / "folder").mkdir()
    for name in ("missing.jpg", "folder"):
        with pytest.raises(DataError, match=f"{name}: expected a picture"):
            reading.picture_loader(ONE, reading.load(ONE, saved[0]), [tmp_path / name], 1)


def test_some_pictures_are_drawn_by_the_seed():
    """No picture twice; the same from pictures in memory and one by one."""
    pictures, labels = reading.some_pictures(PICTURES, 6, seed=4)
    again, _ = reading.some_pictures(PICTURES, 6, seed=4)
    other, _ = reading.some_pictures(PICTURES, 6, seed=5)
    assert pictures.shape == (3, SIDE, SIDE, 6)
    np.testing.assert_array_equal(pictures, again)
    assert (pictures != other).any()
    chosen = [
        np.flatnonzero((PICTURES.images[0, 0] == p[0, 0, :, None]).all(axis=0))
        for p in pictures.T.swapaxes(1, 3)
    ]
    assert len({int(c[0]) for c in chosen}) == 6
    np.testing.assert_array_equal(PICTURES.labels[[int(c[0]) for c in chosen]], labels)
    assert reading.some_pictures(PICTURES, 99)[0].shape[-1] == 10

    class OneByOne(list):
        labels = PICTURES.labels

    source = OneByOne(PICTURES.images.transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(reading.some_pictures(source, 6, seed=4)[0], pictures)
    np.testing.assert_array_equal(reading.pictures_at(source, [2, 7]), PICTURES.images[..., [2, 7]])


def test_arrays_are_looked_at_without_labels(saved):
    trained = reading.load(ONE, saved[0])
    with reading.array_loader(ONE, trained, PICTURES.images, 1) as loader:
        p, labels = evaluate.probabilities(trained.net, loader)
    with Loader(PICTURES, 10, SETTINGS.recipe.augmentation, train=False, mean=MEAN) as loader:
        np.testing.assert_allclose(p, evaluate.probabilities(trained.net, loader)[0], rtol=1e-5)
    assert labels.tolist() == [0] * 10
