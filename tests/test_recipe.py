"""Recipes: the schedules against tables, and each difference between the paper and the code by name."""

import json
import re
from types import SimpleNamespace

import pytest

from tinyalex.data import augment
from tinyalex.errors import ArgumentError, DataError
from tinyalex.models import make
from tinyalex.models.alexnet import PRESETS as NETWORKS
from tinyalex.models.alexnet import AlexNet
from tinyalex.nn import Dropout
from tinyalex.runs.recipe import CODE2012, RECIPES, Change, Recipe, Schedule, from_json, recipe_of, to_json
from tinyalex.runs.settings import Settings


def goes_on(schedule, error):
    """End an epoch with this validation error; whether training goes on."""
    schedule.end_epoch(error)
    return not schedule.ended


def begin(schedule, epoch):
    """(rate, rate of the biases, factors of layers, noise) in this epoch."""
    optimizer = SimpleNamespace()
    noise = schedule.begin_epoch(epoch, optimizer)
    return optimizer.rate, optimizer.bias_rate, optimizer.scale, noise


# ---- the plateau (section 5) -------------------------------------------------------------------------

ERRORS = [0.9, 0.8, 0.8, 0.85, 0.79, 0.7, 0.7, 0.7, 0.7, 0.71, 0.7, 0.69, 0.7, 0.7]
RATES = [1e-2] * 4 + [1e-3] * 4 + [1e-4] * 2 + [1e-5] * 4  # patience 2: drops after epochs 3, 7, 9, and 13


def test_the_plateau_divides_the_rate_by_ten_three_times_and_then_ends_the_training():
    """An error equal to the best is no new best; a new best begins the waiting anew, a drop does too."""
    schedule, seen = Schedule(Recipe(patience=2)), []
    for epoch, error in enumerate(ERRORS):
        rate, bias_rate, scale, noise = begin(schedule, epoch)
        seen.append(rate)
        assert (bias_rate, scale, noise) == (rate, {}, 0.1)
        assert goes_on(schedule, error) == (epoch < len(ERRORS) - 1)
    assert seen == pytest.approx(RATES)


@pytest.mark.parametrize("drop", [True, False])
def test_the_plateau_drops_the_rate_of_the_biases_where_it_should(drop):
    schedule = Schedule(Recipe(patience=1, bias_rate_factor=2.0, drop_bias_rate=drop))
    for _ in range(2):
        schedule.end_epoch(0.5)
    assert begin(schedule, 2)[:2] == pytest.approx((1e-3, 2e-3 if drop else 2e-2))


def test_a_falling_error_never_drops_the_rate():
    schedule = Schedule(Recipe(patience=1))
    assert all(goes_on(schedule, 1 / (epoch + 1)) for epoch in range(90))
    assert begin(schedule, 90)[0] == 0.01


@pytest.mark.parametrize("patience", [1, 3])
def test_the_plateau_waits_for_as_many_epochs_as_it_is_told(patience):
    """The best comes first; then four times patience."""
    schedule, epochs = Schedule(Recipe(patience=patience)), 1
    while goes_on(schedule, 0.5):
        epochs += 1
    assert epochs == 1 + 4 * patience


@pytest.mark.parametrize("taken", [1, 3, 8])
def test_the_state_is_all_that_a_resumed_schedule_needs(taken):
    """Through JSON, as in a checkpoint, at any epoch."""
    schedule = Schedule(Recipe(patience=2))
    for error in ERRORS[:taken]:
        schedule.end_epoch(error)
    resumed = Schedule(Recipe(patience=2))
    resumed.state = json.loads(json.dumps(schedule.state))
    for epoch, error in enumerate(ERRORS[taken:], taken):
        assert begin(resumed, epoch)[0] == pytest.approx(RATES[epoch])
        assert goes_on(resumed, error) == (epoch < len(ERRORS) - 1)


# ---- lists of changes --------------------------------------------------------------------------------

LOG_145 = [  # layer-params-145-2010.cfg: epoch, epsW, conv1's epsW, conv1's epsB, colour noise
    (0, 1e-2, 1e-2, 0.02, 0.1), (22, 1e-2, 1e-2, 0.02, 0.1),
    (23, 1e-3, 1e-3, 0.02, 0.1), (50, 1e-3, 1e-3, 0.02, 0.1),
    (51, 1e-4, 1e-4, 0.02, 0.1), (67, 1e-4, 1e-4, 0.02, 0.1),
    (68, 1e-4, 1e-5, 0.02, 0), (71, 1e-4, 1e-5, 0.02, 0),
    (72, 1e-4, 0, 0, 0), (77, 1e-4, 0, 0, 0),
    (78, 1e-5, 0, 0, 0), (92, 1e-5, 0, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize(("epoch", "rate", "conv1_w", "conv1_b", "noise"), LOG_145)
@pytest.mark.parametrize("preset", ["code2012", "half"])
def test_the_code_follows_its_log(preset, epoch, rate, conv1_w, conv1_b, noise):
    """At any epoch, whether the run came to it or begins there; the biases' rate stays where it began."""
    *rates, scale, found_noise = begin(Schedule(RECIPES[preset]), epoch)
    assert rates == pytest.approx([rate, 0.02])
    for epsilon, key, expected in zip(rates, "wb", (conv1_w, conv1_b), strict=True):
        assert epsilon * scale.get("conv1", 1) * scale.get(f"conv1.{key}", 1) == pytest.approx(expected)
    assert not scale.keys() - {"conv1", "conv1.w"}
    assert found_noise == noise


def test_a_list_of_changes_does_not_look_at_the_error():
    schedule = Schedule(CODE2012)
    assert all(goes_on(schedule, 0.5) for _ in range(93))
    assert begin(schedule, 0)[0] == 0.01
    assert CODE2012.epochs == 93


def test_changes_of_single_layers_add_up():
    changes = (
        Change(1, scale={"conv1": 0.1}),
        Change(2, scale={"fc8": 10.0}),
        Change(3, scale={"conv1": 1.0}),
    )
    schedule = Schedule(Recipe(schedule=changes))
    found = [begin(schedule, epoch)[2] for epoch in (0, 1, 2, 3)]
    assert found == [{}, {"conv1": 0.1}, {"conv1": 0.1, "fc8": 10.0}, {"conv1": 1.0, "fc8": 10.0}]
    assert changes[0].scale == {"conv1": 0.1}  # the recipe itself is not written to


def test_the_solver_of_caffe_drops_the_rate_every_20_epochs():
    """100,000 steps of 256 are 19.98 epochs of 1,281,167 pictures; 450,000 are 89.9."""
    schedule = Schedule(RECIPES["caffe"])
    rates = {0: 1e-2, 19: 1e-2, 20: 1e-3, 40: 1e-4, 60: 1e-5, 79: 1e-5, 80: 1e-6, 89: 1e-6}
    for epoch, rate in rates.items():
        assert begin(schedule, epoch) == (pytest.approx(rate), pytest.approx(2 * rate), {}, 0.0)


# ---- presets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_settings_survive_json(name):
    """Equal and of the same types, tuples within tuples."""
    before = Settings("data", make(name), RECIPES[name], seed=3, upscale=256)
    after = Settings.from_json(json.loads(json.dumps(before.to_json())))
    assert after == before
    assert repr(after) == repr(before)
    assert all(type(a) is type(b) for a, b in zip(after.network.layers, before.network.layers, strict=True))


@pytest.mark.parametrize(
    ("size", "side", "scale"),
    [(224, 256, 256), (224, 300, 256), (112, 300, 300), (224, 200, 200), (112, 128, 128)],
)
def test_vgg_s_scale_is_of_its_own_crop_and_of_pictures_that_large(size, side, scale):
    """Pictures as they are stored, where either is another: enlarged they would be no sharper."""
    made = Settings.of("data", make("vgg-a", size=size, width=1 / 64), RECIPES["vgg-a"], side)
    assert (made.recipe.augmentation.scale, made.recipe.augmentation.crop) == (scale, size)


def test_pictures_that_are_enlarged_first_keep_their_scale_out_of_it():
    made = Settings.of("data", make("vgg-a", width=1 / 64), RECIPES["vgg-a"], 200, upscale=256)
    assert made.recipe.augmentation.scale is None


@pytest.mark.parametrize(
    ("size", "side", "others", "offsets"),
    [
        (224, 256, {}, (33, 32)),
        (224, 200, {"upscale": 256}, (33, 32)),
        (224, 300, {}, (None, 32)),
        (112, 256, {}, (None, 32)),
        (224, 256, {"upscale": 300}, (None, 32)),
        (224, 256, {"scale": 256}, (None, 1)),
    ],
)
def test_a_recipe_s_positions_of_the_crop_are_in_pictures_of_256_pixels(size, side, others, offsets):
    """In others every crop that fits may be drawn, and where each picture is rescaled, each has its own."""
    made = Settings.of("data", make("code2012", size=size), RECIPES["code2012"], side, **others)
    assert (made.recipe.augmentation.offsets, made.recipe.augmentation.group) == offsets


def test_small_drops_its_rate_after_70_and_90_percent_of_the_epochs():
    pictures = augment.Augmentation(crop=112, noise=0.0)
    drops = (Change(21, rate=1e-3), Change(27, rate=1e-4))
    assert RECIPES["small"] == Recipe(batch=32, epochs=30, schedule=drops, augmentation=pictures)
    ten = recipe_of("small", epochs=10)
    assert (ten.epochs, [change.epoch for change in ten.schedule]) == (10, [7, 9])
    assert recipe_of("paper", epochs=10) == Recipe(epochs=10)


def test_another_rate_changes_the_later_ones_alike():
    """With --rate 0.0003 the recipe `small` went *up* to 0.001 after 70% of the epochs."""
    slower = recipe_of("small", epochs=10, rate=0.0005)
    assert [slower.rate, *(change.rate for change in slower.schedule)] == pytest.approx([5e-4, 5e-5, 5e-6])
    last = recipe_of("code2012", rate=0.02).schedule
    assert [c.rate and round(c.rate, 12) for c in last] == [2e-3, 2e-4, None, None, 2e-5]
    own = (Change(3, rate=0.1),)
    assert recipe_of("small", rate=0.5, schedule=own).schedule == own
    assert recipe_of("small", rate=0.01) == RECIPES["small"]


def test_patience_is_refused_where_a_list_says_when_the_rate_drops():
    with pytest.raises(ArgumentError, match="patience: this recipe's rate does not wait, it changes after"):
        recipe_of("small", patience=3)


def test_unknown_names_in_a_recipe_are_named():
    with pytest.raises(ArgumentError, match=r"recipe: expected one of batch, epochs, .*, found 'batches'"):
        recipe_of("paper", batches=64)
    with pytest.raises(DataError, match="rate_by: expected k, sqrt-k or null, found 'log'"):
        from_json(to_json(Recipe(rate_by="log")))


def test_every_network_has_a_recipe():
    assert RECIPES.keys() >= NETWORKS.keys()


PAPER_NETWORK, CODE_NETWORK = NETWORKS["paper"], NETWORKS["code2012"]
PAPER = RECIPES["paper"]


def test_difference_1_alpha_is_divided_by_the_window():
    assert (PAPER_NETWORK.lrn_alpha_over_n, CODE_NETWORK.lrn_alpha_over_n) == (False, True)


def test_difference_2_the_first_lrn_comes_before_the_neuron():
    assert (PAPER_NETWORK.lrn1_before_relu, CODE_NETWORK.lrn1_before_relu) == (False, True)


def test_difference_3_a_normalization_within_maps():
    assert (PAPER_NETWORK.same_map_norm, CODE_NETWORK.same_map_norm) == (False, True)


def test_difference_4_the_first_weights_of_conv3_to_conv5():
    assert (PAPER_NETWORK.conv345_std, CODE_NETWORK.conv345_std) == (0.01, 0.03)


def test_difference_5_biases_learn_twice_as_fast_and_neither_decay_nor_slow_down():
    assert (PAPER.bias_rate_factor, PAPER.drop_bias_rate, PAPER.decay_biases) == (1.0, True, True)
    assert (CODE2012.bias_rate_factor, CODE2012.drop_bias_rate, CODE2012.decay_biases) == (2.0, False, False)


def test_difference_6_conv1_is_slowed_and_frozen_and_the_noise_ends():
    assert PAPER.schedule is None
    assert [c.epoch for c in CODE2012.schedule if c.scale] == [68, 72]
    assert [c.epoch for c in CODE2012.schedule if c.noise == 0] == [68]


def test_difference_7_how_the_colour_noise_is_read():
    assert (PAPER.augmentation.reading, CODE2012.augmentation.reading) == ("paper", "code2012")
    assert (PAPER.augmentation.divisor, CODE2012.augmentation.divisor) == (1, pytest.approx(1.1))


def test_difference_8_how_many_crops_and_who_shares_one():
    assert (PAPER.augmentation.offsets, CODE2012.augmentation.offsets) == (32, 33)
    assert (PAPER.augmentation.group, CODE2012.augmentation.group) == (1, 32)


def test_difference_9_how_224_becomes_55():
    """The paper does not say; both presets do as the code, and 55 comes out."""
    assert (PAPER_NETWORK.conv1_ceil, CODE_NETWORK.conv1_ceil) == (True, True)
    assert (PAPER_NETWORK.size, CODE_NETWORK.size) == (224, 224)


def test_difference_10_windows_of_the_lrn_end_with_the_tower():
    """So it is on two GPUs, whichever text one reads; the other way is Caffe's."""
    assert (PAPER_NETWORK.lrn_within_towers, CODE_NETWORK.lrn_within_towers) == (True, True)
    assert not NETWORKS["caffe"].lrn_within_towers


def test_difference_11_the_rate_drops_by_hand():
    assert PAPER.schedule is None
    assert [(c.epoch, c.rate) for c in CODE2012.schedule if c.rate] == [(23, 1e-3), (51, 1e-4), (78, 1e-5)]


def changed(a, b):
    """{field: its value in b} where two tuples of fields differ."""
    return {name: value for name, value in b._asdict().items() if getattr(a, name) != value}


def test_paper_and_code_differ_in_nothing_else():
    """The logged run was killed at epoch 93, and the paper says roughly 90."""
    differences_1_to_4 = {"lrn_alpha_over_n", "lrn1_before_relu", "same_map_norm", "conv345_std"}
    assert changed(PAPER_NETWORK, CODE_NETWORK).keys() == differences_1_to_4
    expected = {"bias_rate_factor", "drop_bias_rate", "decay_biases", "schedule", "augmentation", "epochs"}
    assert changed(PAPER, CODE2012).keys() == expected
    assert changed(PAPER.augmentation, CODE2012.augmentation).keys() == {"reading", "offsets", "group"}


def test_what_paper_and_code_agree_on():
    """Section 3.5 and section 5, number by number."""
    assert AlexNet() == PAPER_NETWORK
    assert PAPER_NETWORK.filters == (96, 256, 384, 384, 256)
    assert (PAPER_NETWORK.hidden, PAPER_NETWORK.classes, PAPER_NETWORK.towers) == (4096, 1000, 2)
    assert (PAPER_NETWORK.lrn_k, PAPER_NETWORK.lrn_alpha) == (2, 1e-4)
    assert (PAPER_NETWORK.conv_std, PAPER_NETWORK.fc_std, PAPER_NETWORK.bias) == (0.01, 0.01, 1)
    assert (PAPER_NETWORK.pool, PAPER_NETWORK.lrn, PAPER_NETWORK.dropout) == (3, True, True)
    assert not PAPER_NETWORK.inverted_dropout
    assert Recipe() == PAPER
    assert (PAPER.batch, PAPER.epochs, PAPER.rate, PAPER.momentum, PAPER.decay) == (128, 90, 0.01, 0.9, 5e-4)
    assert (PAPER.augmentation.crop, PAPER.augmentation.flip, PAPER.augmentation.noise) == (224, True, 0.1)


def test_half_is_one_tower_of_the_code():
    """145-half: conv5 and the fully connected layers keep their size."""
    assert changed(CODE_NETWORK, NETWORKS["half"]) == {
        "filters": (48, 128, 192, 192, 256),
        "towers": 1,
    }
    assert RECIPES["half"] == CODE2012


def test_caffe_is_bvlc_alexnet():
    """train_val.prototxt and solver.prototxt, against the paper."""
    assert changed(PAPER_NETWORK, NETWORKS["caffe"]) == {
        "size": 227, "lrn_k": 1, "lrn_alpha_over_n": True, "lrn_within_towers": False, "bias": 0.1,
        "fc_std": 0.005, "inverted_dropout": True,
    }  # fmt: skip
    for name, inverted in (("caffe", [True, True]), ("paper", [False, False])):
        assert [x.inverted for x in make(name).layers if isinstance(x, Dropout)] == inverted
    recipe = changed(PAPER, RECIPES["caffe"])
    assert recipe.keys() == {"batch", "bias_rate_factor", "decay_biases", "schedule", "augmentation"}
    assert (recipe["batch"], recipe["bias_rate_factor"], recipe["decay_biases"]) == (256, 2, False)
    assert recipe["augmentation"] == augment.Augmentation(crop=227, noise=0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rate": float("nan")}, "rate: expected a finite number ≥ 0, found nan"),
        ({"rate": -0.1}, "rate: expected a finite number ≥ 0, found -0.1"),
        ({"momentum": float("inf")}, "momentum: expected a finite number ≥ 0, found inf"),
        ({"decay": "0.1"}, "decay: expected a finite number ≥ 0, found '0.1'"),
        ({"bias_rate_factor": -2.0}, "bias_rate_factor: expected a finite number ≥ 0, found -2.0"),
        ({"decays": {"fc8": -1.0}}, "decay of fc8: expected a finite number ≥ 0, found -1.0"),
        ({"noise": float("nan")}, "noise: expected a finite number ≥ 0, found nan"),
        ({"schedule": (Change(2, rate=-1.0),)}, "schedule: epoch 2: rate: expected a finite number ≥ 0"),
        ({"schedule": (Change(2, pictures=0),)}, "schedule: epoch 2: pictures: expected a whole number ≥ 1"),
        ({"schedule": (Change(-1, rate=0.1),)}, "schedule: expected an epoch, 0, 1, 2, …, found -1"),
        ({"data_batch": 0}, "data_batch: expected a whole number ≥ 1, found 0"),
        ({"batch": 2.0}, "batch: expected a whole number ≥ 1, found 2.0"),
        ({"schedule": (Change(2, noise=-1.0),)}, "schedule: epoch 2: noise: expected a finite number ≥ 0"),
        (
            {"schedule": (Change(2, scale={"fc8": float("nan")}),)},
            "schedule: epoch 2: scale of fc8: expected a finite number ≥ 0, found nan",
        ),
    ],
    ids=repr,
)
def test_numbers_that_nothing_can_be_trained_by_are_named(changes, said):
    """By `recipe_of`, by `Schedule`, and in a file of settings."""
    with pytest.raises(ArgumentError, match=f"^{re.escape(said)}"):
        recipe_of("paper", **changes)
    noise = changes.pop("noise", None)
    wrong = Recipe(**changes)
    if noise is not None:
        wrong = wrong._replace(augmentation=wrong.augmentation._replace(noise=noise))
    with pytest.raises(ArgumentError, match=f"^{re.escape(said)}"):
        Schedule(wrong)
    with pytest.raises(DataError):
        from_json(json.loads(json.dumps(to_json(wrong))))
