"""Figure 1 in small: the whole run, its interruption, what it writes, and the commands."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tinyalex import cli
from tinyalex import devices as device_names
from tinyalex import train as training
from tinyalex.data import shapes
from tinyalex.devices import parse
from tinyalex.errors import DataError
from tinyalex.look.figures import relu_vs_tanh_figure
from tinyalex.measure import gradtable, relu_vs_tanh
from tinyalex.measure.relu_vs_tanh import Curve, Plan, first, ratio, run, search_rate, train
from tinyalex.runs import checkpoint
from tinyalex.train import StepResult

# 32 pictures in batches of 16.  A whole run takes 12 steps: for each activation 2 to find the rate, then 2
# epochs of 2.
PLAN = Plan("shapes", 32, (0.001, 0.004), search_epochs=1, search_pictures=16, most_epochs=2)
ONE, TWO = parse("cpu:0"), parse("cpu:0,cpu:1")


@pytest.fixture(scope="module", autouse=True)
def _small_batches():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relu_vs_tanh, "BATCH", 16)
        yield


@pytest.fixture(scope="module")
def pictures():
    return shapes.make(32, np.random.default_rng(0))


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """A run on two ranks that nothing interrupted: (its folder, its summary)."""
    out = tmp_path_factory.mktemp("finished") / "run"
    return out, run(pictures, PLAN, TWO, out)


def rows_of(out):
    with open(out / "curves.csv", newline="") as file:
        return list(csv.DictReader(file))


# ---- what a run leaves ---------------------------------------------------------------------------------


def test_a_run_leaves_these_files_and_no_others(finished):
    out, _ = finished
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.csv",
        "plan.json",
        "relu-search.json",
        "relu-seed0.safetensors",
        "relu_vs_tanh.png",
        "summary.json",
        "tanh-search.json",
        "tanh-seed0.safetensors",
    ]


def test_summary_says_what_was_done_and_found(finished):
    out, returned = finished
    summary = json.loads((out / "summary.json").read_text())
    assert summary == json.loads(json.dumps(returned))
    assert summary.keys() == {
        *PLAN._fields, "devices", "target_training_error", "search", "runs", "ratio_of_epochs",
    }  # fmt: skip
    assert {name: summary[name] for name in PLAN._fields} == json.loads(json.dumps(PLAN._asdict()))
    assert summary["devices"] == ["cpu:0", "cpu:1"]
    assert summary["target_training_error"] == 0.25
    assert summary["search"].keys() == {"relu", "tanh"}
    for activation, entry in zip(("relu", "tanh"), summary["runs"], strict=True):
        found = summary["search"][activation]
        assert {"0.001", "0.004"} <= found.keys()
        assert entry["activation"] == activation
        assert entry["seed"] == 0
        assert entry["rate"] == float(min(found, key=found.get))
        assert entry["epochs_run"] == 2
        assert entry["epochs_to_target"] is None
        assert 0.25 < entry["last_training_error"] <= 1
        assert 0 < entry["median_seconds_an_epoch"] < 100
    assert summary["ratio_of_epochs"] == {"0": None}


def curve_in(path):
    """The curve in a checkpoint's metadata."""
    return Curve(**checkpoint.load(path)[1]["curve"])


def test_curves_agree_with_summary_and_checkpoints(finished):
    out, summary = finished
    rows = rows_of(out)
    assert list(rows[0]) == ["activation", "seed", "rate", "epoch", "training_error", "loss", "seconds"]
    assert [(r["activation"], r["epoch"]) for r in rows] == [
        ("relu", "1"), ("relu", "2"), ("tanh", "1"), ("tanh", "2"),
    ]  # fmt: skip
    for entry in summary["runs"]:
        mine = [r for r in rows if r["activation"] == entry["activation"]]
        assert float(mine[-1]["training_error"]) == entry["last_training_error"]
        assert {float(r["rate"]) for r in mine} == {entry["rate"]}
        curve = curve_in(out / f"{entry['activation']}-seed0.safetensors")
        assert curve.errors == [float(r["training_error"]) for r in mine]
        assert curve.losses == [float(r["loss"]) for r in mine]
        assert curve.seconds == [float(r["seconds"]) for r in mine]
        for r in mine:
            assert float(r["training_error"]) * 32 == pytest.approx(round(float(r["training_error"]) * 32))
            assert 1.5 < float(r["loss"]) < 4  # nats: ln 10 is guessing


def has_colour(picture, colour):
    return (np.abs(np.asarray(picture.convert("RGB"), int) - colour).max(axis=-1) < 8).sum() > 20


BLUE, ORANGE = (31, 119, 180), (255, 127, 14)


def test_the_figure_shows_both_curves(finished):
    with Image.open(finished[0] / "relu_vs_tanh.png") as picture:
        assert picture.size == (900, 630)  # 6 × 4.2 inches at 150 dots
        assert has_colour(picture, BLUE)
        assert has_colour(picture, ORANGE)


def test_the_figure_is_drawn_as_the_papers(tmp_path):
    curves = [
        Curve("relu", 0, 0.01, [0.6, 0.3, 0.2], [1] * 3, [1] * 3),
        Curve("relu", 1, 0.01, [0.6, 0.4], [1] * 2, [1] * 2),
        Curve("tanh", 0, 0.002, [0.7, 0.6], [1] * 2, [1] * 2),
    ]
    [axes] = relu_vs_tanh_figure(curves, "CIFAR-10", 0.25).axes
    lines = [line for line in axes.lines if len(line.get_xdata()) > 1 and line.get_marker() == "."]
    assert [list(line.get_xdata()) for line in lines] == [[1, 2, 3], [1, 2], [1, 2]]
    assert [list(line.get_ydata()) for line in lines] == [curve.errors for curve in curves]
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]  # the paper: tanh dashed
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["ReLU (rate 0.01)", "tanh (rate 0.002)"]
    [arrived] = [line for line in axes.lines if line.get_marker() == "o"]
    assert (list(arrived.get_xdata()), list(arrived.get_ydata())) == ([2.5], [0.25])
    assert "epochs" in axes.get_xlabel()
    assert "training error" in axes.get_ylabel()
    assert "CIFAR-10" in axes.get_title()


# ---- interrupted and continued -------------------------------------------------------------------------


def counted(patch, stop_at=None):
    """Count rank 0's steps; the one numbered stop_at (from 1) is interrupted before it is made."""
    steps, step = [], training.Step.begin

    def wrapped(self, images, labels, number):
        if self.net.data.rank == 0:
            steps.append(self.optimizer.rate)
            if len(steps) == stop_at:
                raise KeyboardInterrupt
        return step(self, images, labels, number)

    patch.setattr(training.Step, "begin", wrapped)
    return steps


def assert_same_run(out, finished):
    """Equal to the last bit but for the seconds."""
    for file in ("plan.json", "relu-search.json", "tanh-search.json"):
        assert (out / file).read_bytes() == (finished / file).read_bytes()
    without = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in rows_of(o)] for o in (out, finished)
    ]
    assert without[0] == without[1]
    for activation in ("relu", "tanh"):
        found, _ = checkpoint.load(out / f"{activation}-seed0.safetensors")
        expected, _ = checkpoint.load(finished / f"{activation}-seed0.safetensors")
        assert found.keys() == expected.keys()
        assert all(found[name].tobytes() == a.tobytes() for name, a in expected.items())


@pytest.mark.parametrize(
    ("stop_at", "remaining"),
    [(2, 13), (6, 9), (7, 9), (9, 6), (13, 2)],
    ids=["in_the_search", "after_an_epoch", "within_an_epoch", "in_the_second_search", "in_the_second_run"],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(stop_at, remaining, pictures, finished, tmp_path):
    """remaining: steps still to make; an epoch or a trial of a rate that was not finished is begun anew."""
    with pytest.MonkeyPatch.context() as patch:
        counted(patch, stop_at)
        with pytest.raises(KeyboardInterrupt):
            run(pictures, PLAN, TWO, tmp_path)
    partial = json.loads((tmp_path / "summary.json").read_text())
    assert len(partial["runs"]) == len(list(tmp_path.glob("*.safetensors")))
    assert (tmp_path / "relu_vs_tanh.png").exists()
    with pytest.MonkeyPatch.context() as patch:
        steps = counted(patch)
        summary = run(pictures, PLAN, TWO, tmp_path)
    assert len(steps) == remaining
    assert_same_run(tmp_path, finished[0])
    assert summary["search"] == finished[1]["search"]


def test_a_run_tells_how_far_it_is(pictures, tmp_path):
    """Once a batch: of the search's batches, and at most so many of each training; what was found is said."""
    told, said = [], []
    run(pictures, PLAN, TWO, tmp_path, lambda *now, **how: told.append((*now, how)), said.append)
    search = [t for t in told if t[0] == "relu, which rate? batch"]
    assert [t[1:3] for t in search[:2]] == [(1, 2), (2, 2)]
    trained = [t for t in told if t[0].startswith("tanh, rate ")]
    assert [t[1:3] for t in trained] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(t[4] == {"at_most": True} and "until it is 25%" in t[3] for t in trained)
    assert [line.split(":")[0].split(",")[0] for line in said] == ["relu", "relu", "tanh", "tanh"]


def test_a_finished_run_is_not_run_again(pictures, finished):
    out, summary = finished
    before = (out / "curves.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        steps = counted(patch)
        assert run(pictures, PLAN, TWO, out) == summary
    assert steps == []
    assert (out / "curves.csv").read_bytes() == before


def test_train_stopped_from_on_step_continues_from_its_checkpoint(pictures, tmp_path):
    """On one rank and without the rest of the run; then on two from there."""
    path = tmp_path / "net.safetensors"
    heard = []

    def on_step(epoch, fraction, error):
        heard.append((epoch, fraction))
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pictures, ONE, "relu", 0.004, 3, 2, path, on_step=on_step)
    assert heard == [(0, 0.5), (0, 1.0), (1, 0.5)]
    first_epoch = curve_in(path)
    whole = train(pictures, ONE, "relu", 0.004, 3, 2, tmp_path / "whole.safetensors")
    saved = path.read_bytes()
    for devices in (ONE, TWO):
        path.write_bytes(saved)
        curve = train(pictures, devices, "relu", 0.004, 3, 2, path)
        assert curve[:3] == ("relu", 3, 0.004)
        assert curve.seconds[:1] == first_epoch.seconds
        if devices is ONE:
            assert (curve.errors, curve.losses) == (whole.errors, whole.losses)
            found, expected = checkpoint.load(path)[0], checkpoint.load(tmp_path / "whole.safetensors")[0]
            assert all(found[name].tobytes() == a.tobytes() for name, a in expected.items())
        else:
            np.testing.assert_allclose(curve.losses, whole.losses, rtol=1e-5)


def test_a_folder_with_another_plan_is_refused_and_left_alone(pictures, finished):
    out, _ = finished
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for other in (
        PLAN._replace(rates=(0.001,)),
        PLAN._replace(seeds=(0, 1)),
        PLAN._replace(data="CIFAR-10"),
        PLAN._replace(most_epochs=3),
    ):
        with pytest.raises(DataError, match=r"holds a run with other settings.*--out") as caught:
            run(pictures, other, TWO, out)
        assert str(out) in str(caught.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_train_stops_at_the_target(pictures):
    curve = train(pictures, ONE, "tanh", 0.001, 0, epochs=5, target=1.0)
    assert len(curve.errors) == len(curve.losses) == len(curve.seconds) == 1


def test_every_epoch_and_seed_has_an_order_of_its_own(pictures, monkeypatch):
    shown = []

    def step(self, x, labels, number):
        shown.append((number, labels.tolist()))
        return lambda: StepResult(2.0, 0.5)

    monkeypatch.setattr(training.Step, "begin", step)
    for seed in (0, 1, 0):
        train(pictures, ONE, "relu", 0.001, seed, epochs=2)
    assert [number for number, _ in shown] == [0, 1, 2, 3] * 3
    epochs = [shown[i][1] + shown[i + 1][1] for i in range(0, 12, 2)]
    assert all(sorted(labels) == sorted(pictures.labels) for labels in epochs)
    assert epochs[:2] == epochs[4:]
    assert len({tuple(labels) for labels in epochs[:4]}) == 4


def test_a_rate_that_diverges_loses_the_search(pictures):
    told, trials, found = [], [], {}
    plan = PLAN._replace(rates=(0.001, 1e20), search_epochs=3, search_pictures=32)
    search_rate(
        pictures,
        TWO,
        "relu",
        plan,
        found,
        lambda: trials.append(dict(found)),
        lambda *step: told.append(step),
    )
    assert found[1e20] == 1.0
    assert found[0.001] < 1.0
    assert [len(known) for known in trials] == list(range(1, len(found) + 1))
    assert [step[:3] for step in told[:3]] == [(0.001, 0, 0.5), (0.001, 0, 1.0), (0.001, 1, 0.5)]
    assert all(0 <= error <= 1 for *_, error in told)


@pytest.mark.parametrize(
    ("errors", "tried"),
    [
        ({1: 0.5, 2: 0.4, 4: 0.6}, []),
        ({1: 0.5, 2: 0.6, 4: 0.7, 0.5: 0.4, 0.25: 0.45}, [0.5, 0.25]),
        ({1: 0.9, 2: 0.8, 4: 0.7, 8: 0.6, 16: 1.0}, [8, 16]),
    ],
    ids=["inside", "at_the_lower_end", "at_the_upper_end"],
)
def test_the_search_goes_on_while_the_best_rate_is_at_an_end(errors, tried, pictures, monkeypatch):
    def trial(data, devices, activation, rate, *args, **kwargs):
        return Curve(activation, 0, rate, [errors[rate]], [], [])

    monkeypatch.setattr(relu_vs_tanh, "train", trial)
    found = {1: errors[1]}  # known from before the interruption
    search_rate(pictures, TWO, "relu", PLAN._replace(rates=(1, 2, 4)), found, lambda: None, None)
    assert list(found) == [1, 2, 4, *tried]
    assert found == {rate: errors[rate] for rate in found}


# ---- numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "target", "expected"),
    [
        ([0.5, 0.25], 0.25, 2.0),
        ([0.5, 0.2], 0.25, 2 - 0.05 / 0.3),
        ([0.5, 0.0], 0.25, 1.5),
        ([0.6, 0.5, 0.3, 0.1, 0.05], 0.25, 3.25),
        ([0.1], 0.25, 1 - 0.15 / 0.8),  # from 0.9, ten classes guessed
        ([0.25], 0.25, 1.0),
        ([0.4, 0.2, 0.4, 0.1], 0.25, 1.75),  # the first time
        ([0.6, 0.4], 0.5, 1.5),
        ([0.5, 0.26], 0.25, None),
        ([], 0.25, None),
    ],
)
def test_epochs_to_interpolates(errors, target, expected):
    curve = Curve("relu", 0, 0.01, errors, errors, errors)
    found = curve.epochs_to(target)
    assert found is None if expected is None else found == pytest.approx(expected, rel=1e-12)
    if target == 0.25:
        assert curve.epochs_to() == found


def test_ratio_is_tanhs_epochs_to_relus():
    def curve(activation, seed, *errors):
        return Curve(activation, seed, 0.01, list(errors), [], [])

    curves = [
        curve("relu", 0, 0.5, 0.25), curve("tanh", 0, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25),
        curve("relu", 1, 0.25), curve("tanh", 1, 0.7, 0.6),
    ]  # fmt: skip
    assert ratio(curves, 0) == 3.0
    assert ratio(curves, 1) is None


def test_first_takes_the_first_pictures(pictures):
    few = first(pictures, 10)
    assert (few.images == pictures.images[..., :10]).all()
    assert (few.labels == pictures.labels[:10]).all()
    assert len(first(pictures, 1000).labels) == 32


# ---- the commands --------------------------------------------------------------------------------------


def command(*arguments):
    """Run the command line in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["tinyalex", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0
        return 0


@pytest.fixture
def small(monkeypatch, pictures):
    """The command's own plan and pictures, in small."""
    monkeypatch.setattr(relu_vs_tanh, "QUICK", PLAN)
    monkeypatch.setattr(shapes, "load", lambda: pictures)


def one_line(capsys):
    """The single line on stderr."""
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    return printed


def test_relu_vs_tanh_from_the_command_line(small, finished, tmp_path, capsys):
    out = tmp_path / "figure"
    arguments = ("relu-vs-tanh", "--data", "shapes", "--devices", "cpu:0,cpu:1", "--out", out)
    for _ in range(2):  # and once more, where all is done
        assert command(*arguments) == 0
        printed = capsys.readouterr().out
        assert "seed 0: to 25% training error tanh needs no ratio: one did not arrive" in printed
        assert printed.endswith(
            "with 32 pictures, about 2; all 50,000 (--full) gave 5.8 and 6.5, the paper: about six\n"
        )
        assert str(out / "relu_vs_tanh.png") in printed
        assert_same_run(out, finished[0])
    assert command(*arguments, "--seeds", 2) == 1
    assert "other settings" in one_line(capsys)


def test_a_missing_data_set_in_a_process_of_its_own():
    run = subprocess.run(
        [sys.executable, "-m", "tinyalex", "relu-vs-tanh", "--data", "/nonexistent"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.startswith("error: /nonexistent: ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["plain", "[red] rose", "a[b]c", "[", "[/red]", "back\\[slash]"])
def test_an_error_spells_the_file_as_it_is(name, tmp_path, capsys):
    path = tmp_path / name
    assert command("relu-vs-tanh", "--data", path, "--out", tmp_path / "out") == 1
    assert str(path) in one_line(capsys)


def test_the_place_of_the_figure_is_spelled_as_it_is(small, tmp_path, capsys):
    out = tmp_path / "a[b]c"
    assert command("relu-vs-tanh", "--data", "shapes", "--devices", "cpu:0", "--out", out) == 0
    assert str(out / "relu_vs_tanh.png") in capsys.readouterr().out


def test_full_wants_cifar10(tmp_path, capsys):
    assert command("relu-vs-tanh", "--data", "shapes", "--full", "--out", tmp_path) == 1
    assert "--full: expected CIFAR-10, found --data shapes" in one_line(capsys)


def test_a_bad_device_is_told(small, tmp_path, capsys):
    assert command("relu-vs-tanh", "--data", "shapes", "--devices", "gpu:0", "--out", tmp_path) == 1
    assert "device 'gpu:0': expected 'cpu:K' or 'cuda:K'" in one_line(capsys)
    assert command("relu-vs-tanh", "--data", "shapes", "--devices", "cpu:0,cpu:0", "--out", tmp_path) == 1
    assert "expected different ones of one kind, found cpu:0, cpu:0" in one_line(capsys)


def test_cuda_without_cupy_says_what_to_install(small, tmp_path, capsys):
    try:
        import cupy  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("CuPy is installed")
    assert command("relu-vs-tanh", "--data", "shapes", "--devices", "cuda:0", "--out", tmp_path) == 1
    assert "pip install 'tinyalex[cuda12]' or 'tinyalex[cuda13]'" in one_line(capsys)


def test_devices_that_cannot_share_a_batch_are_refused_in_a_line(small, tmp_path, capsys):
    devices = ",".join(f"cpu:{k}" for k in range(3))  # 16 pictures on 3 ranks
    assert command("relu-vs-tanh", "--data", "shapes", "--devices", devices, "--out", tmp_path) == 1
    assert "3" in one_line(capsys)


def test_the_plain_command_works_on_any_number_of_cores(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(device_names, "cpu_count", lambda: 3)
    assert command("relu-vs-tanh", "--data", "shapes", "--out", tmp_path) == 0


def test_check_grads_exits_with_the_verdict(capsys, monkeypatch):
    assert command("check-grads") == 0
    printed = capsys.readouterr().out
    assert "FAIL" not in printed
    assert "[green]" not in printed  # a colour, not its name
    [relu] = [case for case in gradtable.CASES if case.title == "relu"]

    class Wrong(type(relu)):
        def backward(self, dy, cache):
            return (dy,)

    monkeypatch.setattr(gradtable, "CASES", [relu, Wrong(*relu)])
    assert command("check-grads", "--seed", 3) == 1
    assert "1 of 2 gradients agree" in capsys.readouterr().out
