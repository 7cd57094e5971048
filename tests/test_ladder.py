"""cuda-convnet's networks of 2011 for CIFAR-10: their sizes, their recipes, and a run that folds data in."""

import threading

import numpy as np
import pytest

from tinyalex.comm import launch
from tinyalex.data import Images, augment
from tinyalex.measure.describe import describe
from tinyalex.models import Network, make, with_local
from tinyalex.nn import LRN, Conv2d, Linear, Local2d, Sequential
from tinyalex.optim import SGD
from tinyalex.runs import run
from tinyalex.runs.recipe import LADDER, Change, Recipe, Schedule, from_json, steps_of, to_json
from tinyalex.runs.settings import Data, Settings

SIZES = {  # parameters and multiply-adds of an image
    ("cifar-80sec", 32): (145_578, 12_354_176),
    ("cifar-19pct", 32): (89_578, 12_298_240),
    ("cifar-18pct", 32): (89_578, 12_298_240),
    ("cifar-19pct", 24): (85_098, 6_917_760),
    ("cifar-18pct", 24): (85_098, 6_917_760),
    ("cifar-13pct", 24): (1_116_490, 18_517_248),
    ("cifar-11pct", 24): (2_112_970, 19_512_576),
}


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_parameters_and_multiply_adds(name, size):
    total = describe(make(name, size=size)).total
    assert (total.parameters, total.multiply_adds) == SIZES[name, size]
    assert Network.from_json(make(name).to_json()).to_json() == make(name).to_json()


def test_11pct_without_lrn_lacks_nothing_else():
    whole, without = make("cifar-11pct"), with_local(64, lrn=False)
    norms = [layer for layer in whole.layers if isinstance(layer, LRN)]
    assert [str(x) for x in without.layers] == [str(x) for x in whole.layers if x not in norms]
    assert [x.name for x in norms] == ["rnorm1", "rnorm2"]


def test_towers_of_local_layers_are_one_network_on_two_ranks():
    """Filters are the ranks' rows; a local layer reads all channels."""
    layers = [Conv2d(4, 3, groups=2, std=0.3), Local2d(6, 2, std=0.3, activation="relu"), Linear(4, std=0.3)]
    x = np.random.default_rng(0).standard_normal((2, 6, 5, 3))

    def rank(comm):
        net = Sequential(layers, (2, 6, 5), comm, np.random.default_rng(1), np.float64)
        y = net.forward(x)
        net.backward(np.cos(y))
        parts = [comm.all_gather(net.layers["local1"].grads[key], axis=0) for key in "wb"]
        return [y, *parts]

    [alone] = launch(rank, "cpu:0")
    for found in launch(rank, "cpu:0,cpu:1"):
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(b).max())


# ---- recipes -------------------------------------------------------------------------------------------


def rates(name, epoch):
    """ε of weights and of biases in an epoch, and how many pictures it trains on."""
    net = make(name).build(rng=np.random.default_rng(0))
    recipe = LADDER[name]
    optimizer = SGD(net, recipe.rate, decays=recipe.decays)
    Schedule(recipe).begin_epoch(epoch, optimizer)
    return optimizer.rate_of("conv1.w"), optimizer.rate_of("conv1.b"), steps_of(recipe, epoch, 50_000)


WHOLE, FOUR = 5 * 79, 4 * 79  # a data batch of 10,000 is 78 minibatches of 128, and one of 16
SCHEDULES = [
    ("cifar-80sec", 7, 1e-3, 2e-3, WHOLE), ("cifar-80sec", 8, 1e-4, 2e-4, WHOLE),
    ("cifar-18pct", 119, 1e-3, 2e-3, WHOLE), ("cifar-18pct", 120, 1e-4, 2e-4, WHOLE),
    ("cifar-18pct", 130, 1e-5, 2e-5, WHOLE),
    ("cifar-13pct", 99, 1e-3, 2e-3, FOUR), ("cifar-13pct", 100, 1e-3, 2e-3, WHOLE),
    ("cifar-13pct", 140, 1e-4, 2e-3, WHOLE), ("cifar-13pct", 159, 1e-5, 2e-3, WHOLE),
    ("cifar-11pct", 349, 1e-3, 2e-3, FOUR), ("cifar-11pct", 350, 1e-3, 2e-3, WHOLE),
    ("cifar-11pct", 500, 1e-4, 2e-3, WHOLE), ("cifar-11pct", 510, 1e-5, 2e-3, WHOLE),
]  # fmt: skip


@pytest.mark.parametrize(("name", "epoch", "weights", "biases", "steps"), SCHEDULES)
def test_schedules_are_those_of_2011(name, epoch, weights, biases, steps):
    assert rates(name, epoch) == (pytest.approx(weights), pytest.approx(biases), steps)


@pytest.mark.parametrize("name", LADDER)
def test_no_colour_is_noisy_and_two_see_crops_and_mirror_images(name):
    crops = name in ("cifar-13pct", "cifar-11pct")
    side = 24 if crops else 32
    assert LADDER[name].augmentation == augment.Augmentation(crop=side, flip=crops, noise=0.0)


def test_each_layer_decays_by_its_own_and_no_bias_does():
    decays = {
        "cifar-80sec": {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc64": 0.03, "fc10": 0.03},
        "cifar-19pct": {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc10": 3.0},
        "cifar-18pct": {"conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc10": 1.0},
        "cifar-13pct": {"conv1": 0.0, "conv2": 0.0, "local3": 0.004, "local4": 0.004, "fc10": 0.004},
        "cifar-11pct": {"conv1": 0.0, "conv2": 0.0, "local3": 0.004, "local4": 0.004, "fc10": 0.01},
    }
    for name, wanted in decays.items():
        recipe, net = LADDER[name], make(name).build(rng=np.random.default_rng(0))
        for layer in net.layers.values():
            layer.grads = {key: np.zeros_like(array) for key, array in layer.params.items()}
        before = {n: layer.params[key].copy() for n, layer, key in net.parameters()}
        SGD(net, 0.1, decay=recipe.decay, decays=recipe.decays, decay_biases=recipe.decay_biases).step()
        for n, layer, key in net.parameters():
            decay = wanted[layer.name] if key == "w" else 0.0
            np.testing.assert_allclose(layer.params[key], before[n] * (1 - 0.1 * decay), rtol=1e-6)
        assert from_json(to_json(recipe)) == recipe


# ---- a run -----------------------------------------------------------------------------------------------


def test_a_run_that_folds_pictures_in_goes_on_with_the_bits_of_one_that_nothing_stopped(tmp_path):
    """Two epochs on the first 20 pictures, two on all 30; stopped within the second epoch."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 10, 10, 30), dtype=np.uint8)
    train = Images(images, rng.integers(0, 2, 30), ("a", "b"))
    data = Data(train, train, *augment.statistics(images), train.classes)
    network = Network([Local2d(3, 3, std=0.01, name="local"), Linear(2, name="fc")], (3, 8, 8))
    recipe = Recipe(
        batch=8, epochs=4, rate=1e-3, schedule=(Change(0, pictures=20), Change(2, pictures=30)),
        decays={"local": 0.1}, data_batch=10, augmentation=augment.Augmentation(crop=8, noise=0.0),
    )  # fmt: skip
    made = Settings("", network, recipe, save_every=2)
    ends = {}
    for name, stops in (("one", ()), ("two", (3, 9))):
        new, steps = True, []
        for at in (*stops, None):
            stop = threading.Event()

            def note(record, stop=stop, at=at, steps=steps):
                if record["kind"] == "step":
                    steps.append((record["epoch"], record["step"]))
                    if record["step"] == at:
                        stop.set()

            [done] = launch(run.job(tmp_path / name, made, data, new, stop=stop, on_event=note), "cpu:0")
            new = False
        assert done
        assert [epoch for epoch, _ in steps] == [0] * 4 + [1] * 4 + [2] * 6 + [3] * 6
        assert [step for _, step in steps] == list(range(1, 21))
        ends[name] = run.checkpoints(tmp_path / name)[-1].read_bytes()
    assert ends["one"] == ends["two"]
