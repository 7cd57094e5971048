"""`ablate`: what each row changes, what the table says, and that an interruption leaves no trace."""

import csv
import json
import threading

import numpy as np
import pytest
from PIL import Image

from tinyalex.data import Images, augment, imagenet
from tinyalex.errors import ArgumentError, DataError
from tinyalex.look.figures import ablation_figure
from tinyalex.measure import ablate
from tinyalex.measure.ablate import FIVE, ROWS, WHOLE, Plan, settings
from tinyalex.nn import LRN, MaxPool
from tinyalex.runs.settings import Data, open_data


def pictures(count, seed, side=72):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, side, side, count), dtype=np.uint8)
    return Images(images, rng.integers(0, 3, count), ("a", "b", "c"))


TRAIN = pictures(130, 0)
DATA = Data(TRAIN, pictures(40, 1), *augment.statistics(TRAIN.images), TRAIN.classes)
PLAN = Plan("made", (WHOLE, "no-lrn"), 2, 128, 1)


def made(row, data=DATA):
    return settings(PLAN, row, 0, data)


# ---- rows ----------------------------------------------------------------------------------------------


def fields_of(row):
    """What a row's settings are made of, layer by layer."""
    found = made(row)
    layers = {layer.name: layer.data() for layer in found.network.layers}
    return layers, found.recipe.augmentation._asdict(), found._replace(network=None, recipe=None)


CHANGES = {  # row → what differs from the whole: layers taken away, fields of layers, fields of the pictures
    "no-lrn": ({"lrn1", "lrn2"}, {}, {}),
    "lrn-across": (set(), {"lrn1.groups": 1, "lrn2.groups": 1}, {}),
    "pool-2": (
        {"pool5"}, {"pool1.window": 2, "pool2.window": 2, "conv2.pad": 1, "conv5.pad": 0}, {},
    ),
    "half": (
        set(),
        {"conv1.filters": 12, "conv2.filters": 32, "conv3.filters": 48, "conv4.filters": 48}
        | {f"{name}.groups": 1 for name in ("conv2", "conv4", "conv5", "lrn1", "lrn2")},
        {},
    ),
    "no-conv3": ({"conv3"}, {}, {}),
    "no-conv4": ({"conv4"}, {}, {}),
    "no-conv5": ({"conv5"}, {}, {}),
    "no-dropout": ({"dropout6", "dropout7"}, {}, {}),
    "no-crops": (set(), {}, {"offsets": 0, "flip": False}),
    "no-noise": (set(), {}, {"noise": 0.0}),
    "tanh": (
        set(),
        {f"{name}.activation": "tanh" for name in (*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7")},
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", CHANGES)
def test_a_row_differs_from_the_whole_by_its_change_alone(row):
    (whole, its_pictures, others), (layers, seen, same) = fields_of(WHOLE), fields_of(row)
    gone, changed, varied = CHANGES[row]
    assert whole.keys() - layers.keys() == gone
    differ = {
        f"{name}.{key}": value
        for name, layer in layers.items()
        for key, value in layer.items()
        if value != whole[name][key]
    }
    assert differ == changed
    assert {key: value for key, value in seen.items() if value != its_pictures[key]} == varied
    assert same == others
    assert made(row).network.outputs == (3,)


def test_every_row_is_tested_above():
    assert CHANGES.keys() | {WHOLE, FIVE} == ROWS.keys()


@pytest.mark.parametrize("side", [32, 72, 112, 256])
def test_pools_that_do_not_overlap_end_with_maps_of_the_same_size(side):
    """What fc6 reads has as many numbers."""
    data = DATA._replace(mean=np.zeros((3, side, side), np.float32))
    read = [
        next(place.x for place in made(row, data).network.plan() if place.layer.name == "fc6")
        for row in (WHOLE, "pool-2")
    ]
    assert read[0] == read[1]


def test_towers_run_on_two_ranks_but_where_windows_cross_them():
    four = DATA._replace(classes=("a", "b", "c", "d"))
    assert made(WHOLE, four).network.most_ranks == 2
    layers = made("lrn-across").network.layers
    assert all(x.groups == 1 for x in layers if isinstance(x, LRN))
    assert {x.window for x in made(WHOLE).network.layers if isinstance(x, MaxPool)} == {3}


# ---- the table -----------------------------------------------------------------------------------------


def test_the_interval_is_students():
    assert ablate.interval([]) == (None, None, None)
    assert ablate.interval([1.5]) == (1.5, None, None)
    mean, low, high = ablate.interval([1.0, 2.0, 4.5])
    half = 4.303 * np.std([1.0, 2.0, 4.5], ddof=1) / np.sqrt(3)  # of two degrees of freedom
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))


@pytest.mark.parametrize(
    ("row", "low", "high", "verdict"),
    [
        ("no-lrn", 0.1, 2.0, "reproduced"),
        ("no-lrn", -0.1, 2.0, "within noise"),
        ("no-lrn", -2.0, -0.1, "not reproduced"),
        ("no-lrn", None, None, "one seed"),  # no interval
        (FIVE, -2.0, -0.1, "reproduced"),
        (FIVE, 0.1, 2.0, "not reproduced"),
        ("lrn-across", 0.1, 2.0, ""),  # of this the paper claims nothing
    ],
)
def test_the_verdict_is_the_intervals(row, low, high, verdict):
    assert ablate._judged(row, 3, 50.0, 1.0, low, high).verdict == verdict


def write_result(out, row, seed, wrong):
    """Probabilities of which the first `wrong` pictures' are of another class."""
    labels = DATA.val.labels
    guessed = (labels + (np.arange(len(labels)) < wrong)) % 3
    path = ablate._result(out, row, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.eye(3, dtype=np.float32)[:, guessed] * 0.8 + 0.1)


def test_differences_are_paired_by_the_seed_and_of_runs_that_are_done(tmp_path):
    plan = Plan("made", (WHOLE, "no-lrn", FIVE), 3, 128, 1)
    for seed, wrong in enumerate((4, 8, 12)):
        write_result(tmp_path, WHOLE, seed, wrong)
    for seed, wrong in enumerate((6, 12)):  # the third is still to come
        write_result(tmp_path, "no-lrn", seed, wrong)
    whole, no_lrn, five = ablate.write(tmp_path, plan, DATA.val.labels)
    assert (whole.error, whole.difference) == (20.0, None)
    assert (no_lrn.seeds, no_lrn.error, no_lrn.difference) == (2, 22.5, 7.5)  # 5 and 10 points
    assert (five.seeds, five.difference) == (3, None)
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["difference"] for row in rows] == ["", "7.5", ""]
    assert json.loads((tmp_path / "table.json").read_text())["rows"][1]["seeds"] == 2
    assert (tmp_path / "ablation.png").stat().st_size > 1000


def test_where_the_whole_network_stands_at_chance_nothing_is_judged(tmp_path):
    plan, labels = Plan("made", (WHOLE, "no-lrn", "lrn-across"), 2, 128, 1), DATA.val.labels
    guess = np.eye(3, dtype=np.float32)[:, np.full(len(labels), np.bincount(labels).argmax())]
    for row, seed in plan.runs:
        write_result(tmp_path, row, seed, 0)
        if row == WHOLE:
            np.save(ablate._result(tmp_path, row, seed), guess)
    found = ablate.table(tmp_path, plan, labels)
    assert [row.verdict for row in found] == ["", "nothing learned", ""]
    assert "nothing learned" in ablation_figure(found, "made").axes[0].get_title()


def test_five_networks_are_averaged_against_the_mean_of_the_five(tmp_path):
    """Four are right in the first pictures, where the fifth is wrong."""
    plan = Plan("made", (WHOLE, FIVE), 1, 128, 1)
    assert plan.runs == [(WHOLE, seed) for seed in range(5)]
    for seed in range(5):
        write_result(tmp_path, WHOLE, seed, 10 if seed == 4 else 0)
    _, five = ablate.table(tmp_path, plan, DATA.val.labels)
    assert (five.error, five.difference, five.verdict) == (0.0, -5.0, "reproduced")


# ---- plans and runs ------------------------------------------------------------------------------------


def test_a_folder_goes_on_with_its_own_plan_and_no_other(tmp_path):
    plan = ablate.begin(tmp_path, "made", DATA, "cpu:0", ["tanh"], 2)
    assert plan == Plan("made", (WHOLE, "tanh"), 2, 130, 30)
    assert ablate.begin(tmp_path, "made", DATA, "cpu:0", minutes=1) == plan
    with pytest.raises(DataError, match="holds an ablation of made, rows whole,tanh, 2 seeds"):
        ablate.begin(tmp_path, "made", DATA, "cpu:0", ["no-lrn"])
    with pytest.raises(ArgumentError, match="--rows: expected some of whole, no-lrn"):
        ablate.begin(tmp_path / "new", "made", DATA, "cpu:0", ["lrn"])
    assert not (tmp_path / "new").exists()
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(DataError, match=r"plan\.json: expected the plan of an ablation"):
        ablate.begin(tmp_path, "made", DATA, "cpu:0")


def test_a_run_of_few_minutes_gives_up_seeds_then_pictures(monkeypatch):
    monkeypatch.setattr(ablate, "_seconds_a_picture", lambda *args: 1e-3)
    data = DATA._replace(train=TRAIN._replace(labels=np.zeros(50_000, int)))

    def planned(minutes, seeds=None):
        plan = ablate.plan_of("made", data, "cpu:0", ["tanh"], seeds, minutes)
        return plan.seeds, plan.pictures, plan.epochs

    assert planned(None) == (3, 50_000, 30)
    assert planned(2000) == (3, 50_000, 30)
    assert planned(100) == (3, 50_000, 13)  # 0.7 · 6000 s / 6 runs / 1 ms
    assert planned(2) == (2, 2_600, 8)  # three seeds would see 14,000 pictures a run, two see 21,000
    assert planned(0.5) == (1, 1_300, 8)
    assert planned(0.5, seeds=5) == (5, 200, 8)
    data = DATA._replace(train=TRAIN._replace(labels=np.zeros(70, int)))
    assert planned(0.01) == (1, 70, 8)  # no more than there are


def test_a_plans_pictures_are_those_of_prepared_folders_too(tmp_path):
    """The first 64 of 137: one step an epoch, where all make two."""
    images, labels, _ = pictures(140, 0)
    for n, label in enumerate(labels):
        folder = tmp_path / "src" / "abc"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[..., n].transpose(1, 2, 0)).save(folder / f"{n}.png")
    imagenet.prepare(tmp_path / "src", tmp_path / "data", size=72, val=0.01)
    data, plan = open_data(tmp_path / "data"), PLAN._replace(rows=(WHOLE,), seeds=1, pictures=64, epochs=2)
    seen = []
    assert ablate.ablate(tmp_path, data, "cpu:0", plan, progress=lambda *now: seen.append(now[1:3]))
    assert seen == [(1, 2), (2, 2)]


def test_an_interruption_leaves_the_same_table_bit_for_bit(tmp_path):
    """Stopped within the first run, and at the beginning of the third."""
    tables = []
    for name, stops in (("one", []), ("two", [1, 5])):
        out = tmp_path / name
        for at in (*stops, None):
            stop, said = threading.Event(), []

            def progress(doing, done, total, state, stop=stop, at=at):
                if done == at:
                    stop.set()

            done = ablate.ablate(out, DATA, "cpu:0", PLAN, stop, None, progress, said.append)
            assert done == (at is None)
        assert sorted(path.name for path in (out / "runs").iterdir()) == [
            "no-lrn-0.npy", "no-lrn-1.npy", "whole-0.npy", "whole-1.npy",
        ]  # fmt: skip
        tables.append([(out / f).read_bytes() for f in ("table.csv", "table.json", "ablation.png")])
        tables[-1] += [path.read_bytes() for path in sorted((out / "runs").iterdir())]
    assert tables[0] == tables[1]


def test_shapes_are_data_by_their_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tinyalex.runs.settings.shapes.load", lambda split: TRAIN)
    data = open_data("shapes")
    assert data.val is TRAIN
    assert data.mean.shape == (3, 72, 72)
