"""Runs: whatever stops one, the resumed run ends with the bits of a run that nothing stopped."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tinyalex import runs
from tinyalex.comm import Comm, launch
from tinyalex.data import Images, augment, imagenet
from tinyalex.devices import parse
from tinyalex.errors import ArgumentError, DataError, NonFiniteError
from tinyalex.models.alexnet import AlexNet, alexnet, narrow
from tinyalex.runs import checkpoint, run, trained
from tinyalex.runs.recipe import Change, Recipe
from tinyalex.runs.saved import find_network
from tinyalex.runs.settings import Data, Settings

CLASSES = ("blue", "green", "grey", "red")
PICTURES = augment.PAPER._replace(crop=67, offsets=None)  # crops, flips and colour noise
# 8 maps a layer, 80 hidden units, dropout; weights so large that every layer learns in a few steps
NETWORK = narrow(AlexNet(size=67, classes=4, conv345_std=0.3, fc_std=0.3, bias=0.1), 0.02)
STEPS = 4  # an epoch


def blobs(n, seed):
    """Noisy pictures 72 × 72, all grey or with more of one colour."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    images = rng.integers(0, 90, (3, 72, 72, n), dtype=np.uint8)
    for i, label in enumerate(labels):
        images[:, :, :, i] += np.array([[0, 0, 90], [0, 90, 0], [30, 30, 30], [90, 0, 0]], np.uint8)[
            label, :, None, None
        ]
    return Images(images, labels, CLASSES)


TRAIN, VAL = blobs(8 * STEPS + 3, seed=0), blobs(12, seed=1)
DATA = Data(TRAIN, VAL, *augment.statistics(TRAIN.images), CLASSES)


def settings(options=NETWORK, seed=0, save_every=3, keep=3, **recipe):
    chosen = {"batch": 8, "epochs": 3, "augmentation": PICTURES} | recipe
    return Settings("", alexnet(options), Recipe(**chosen), seed, None, save_every, keep)


def train(out, devices="cpu:0", stop=None, on_event=lambda record: None, data=DATA):
    """Begin or go on with the run in this folder; whether it came to its end."""
    wanted, stop = run.settings_of(out), stop or threading.Event()
    done = launch(lambda comm: run.train(comm, out, wanted, data, stop, on_event), parse(devices))
    return done[0]


def begun(out, **chosen):
    """A run folder, begun."""
    run.begin(out, settings(**chosen))
    return out


def finished(out, devices="cpu:0", **chosen):
    """A run folder, and in it a run that nothing stopped."""
    assert train(begun(out, **chosen), devices)
    return out


def differences(a, b):
    """The names of what differs, bit for bit, between the last checkpoints of two run folders."""
    (x, x_data), (y, y_data) = (checkpoint.load(run.checkpoints(out)[-1]) for out in (a, b))
    arrays = [n for n in x.keys() | y.keys() if n not in x or n not in y or not equal_bits(x[n], y[n])]
    return sorted(arrays + [key for key in x_data.keys() | y_data.keys() if x_data[key] != y_data[key]])


def equal_bits(x, y):
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def lines(out):
    """metrics.jsonl, in words that are short enough to be compared by eye: there are no times in it."""
    return (out / "metrics.jsonl").read_text().splitlines()


def kinds(out):
    return [(r["kind"], r["step"]) for r in run.metrics(out)]


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    """After each test, ended well or badly, no loader and no rank is alive."""
    yield
    left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    assert not [name for name in left if name.startswith(("tinyalex-loader", "cpu:"))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nothing stopped, made when they are first asked for: whole(devices, **settings) -> folder."""
    made = {}

    def of(devices="cpu:0", **chosen):
        key = devices, repr(sorted(chosen.items()))
        if key not in made:
            made[key] = finished(tmp_path_factory.mktemp("whole") / "run", devices, **chosen)
        return made[key]

    return of


# ---- killed at any moment ----------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing in the library catches this."""


@pytest.fixture
def kill_at(monkeypatch):
    """kill_at(out, k): train until the k-th moment at which something has just been recorded or saved.

    The name of the moment, or None if the run ended before.
    """
    save = checkpoint.save

    def attempt(out, k):
        passed = []

        def moment(name):
            passed.append(name)
            if len(passed) > k:
                raise Killed

        def saving(path, *args):
            save(path, *args)
            moment(f"{path.name} saved")

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", saving)
            try:
                train(out, on_event=lambda r: moment(f"{r['kind']} at step {r['step']}"))
            except Killed:
                return passed[k]
        return None

    return attempt


@pytest.mark.parametrize("save_every", [3, 2])  # 3: between the ends of epochs, 2: also there
def test_killed_after_any_record_or_checkpoint_a_run_ends_with_the_same_bits(
    whole, tmp_path, kill_at, save_every
):
    """Every such moment of two epochs, one after another; weights, velocities, schedule, and metrics."""
    chosen = {"epochs": 2, "save_every": save_every}
    expected, bad, k = whole(**chosen), {}, 0
    while moment := kill_at(begun(tmp_path / str(k), **chosen), k):
        try:
            train(tmp_path / str(k))
            wrong = differences(expected, tmp_path / str(k))
            wrong += ["metrics"] if lines(expected) != lines(tmp_path / str(k)) else []
        except Exception as error:
            wrong = [repr(error)]
        bad |= {moment: wrong} if wrong else {}
        k += 1
    assert k > 2 * STEPS + 8
    assert bad == {}


def test_killed_again_and_again_a_run_ends_with_the_same_bits(whole, tmp_path, kill_at):
    """Each attempt gets a few moments further than the checkpoint that it began with."""
    out, attempts = begun(tmp_path / "run"), 0
    while kill_at(out, 8):
        attempts += 1
        assert attempts < 20
    assert attempts >= 3
    assert differences(whole(), out) == []
    assert lines(out) == lines(whole())


# ---- the same with processes -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The data as `tinyalex prepare` stores them: 24 steps an epoch with batches of 4."""
    src = tmp_path_factory.mktemp("pictures")
    for split, source in (("train", blobs(96, seed=2)), ("val", blobs(12, seed=3))):
        for i, label in enumerate(source.labels):
            folder = src / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(source.images[..., i].transpose(1, 2, 0)).save(folder / f"{i}.png")
    dst = tmp_path_factory.mktemp("shards") / "data"
    imagenet.prepare(src, dst, size=72, workers=1, progress=False)
    return dst


def command(*args):
    return subprocess.Popen(
        [sys.executable, "-m", "tinyalex", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def train_command(shards, out):
    """Two towers on two ranks; checkpoints fall within epochs and at their ends."""
    options = "--width 0.02 --size 67 --batch 4 --epochs 2 --save-every 5 --seed 3 --devices cpu:0,cpu:1"
    return command("train", shards, out, *options.split())


@pytest.fixture(scope="module")
def whole_command(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    process = train_command(shards, out)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0, printed
    assert [k for k, _ in kinds(out)].count("validation") == 2
    return out


def wait_for(process, ready):
    """Until ready() holds, or the process has ended."""
    deadline = time.monotonic() + 60
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_with_signal_9_a_run_ends_with_the_same_bits(shards, whole_command, tmp_path):
    """Four random moments, the first before anything is saved; then to the end."""
    rng, out = np.random.default_rng(5), tmp_path / "run"
    killed = 0
    for attempt in range(4):
        before = run.checkpoints(out)
        process = command("resume", out) if attempt else train_command(shards, out)
        if attempt:
            wait_for(process, lambda: run.checkpoints(out)[-1:] != before[-1:])  # noqa: B023
        else:
            wait_for(process, (out / "run.json").exists)
        time.sleep(rng.uniform(0, 0.06))
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    assert killed == 4
    last = command("resume", out)
    printed, _ = last.communicate(timeout=120)
    assert last.returncode == 0, printed
    assert differences(whole_command, out) == []
    assert lines(out) == lines(whole_command)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_after_a_checkpoint_with_code_130(shards, whole_command, tmp_path, number):
    """What it prints says how to go on, and going on ends with the same bits."""
    out = tmp_path / "run"
    process = train_command(shards, out)
    wait_for(process, lambda: run.checkpoints(out))
    time.sleep(0.03)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert f"tinyalex resume {out}" in " ".join(printed.split())
    assert "Traceback" not in printed
    last = command("resume", out)
    printed, _ = last.communicate(timeout=120)
    assert last.returncode == 0, printed
    assert differences(whole_command, out) == []


# ---- stopped -----------------------------------------------------------------------------------------

MOMENTS = {
    "the first step": ("step", 1),
    "within an epoch": ("step", 6),  # a checkpoint is due here as well
    "between two checkpoints": ("step", 7),
    "the last step of an epoch": ("step", 4),
    "before the validation": ("train", 4),
    "within the validation": ("validating", 8),
    "between two epochs": ("validation", 4),
    "the last step of an epoch and of save_every": ("step", 12),
    "the very end": ("validation", 12),
}


def stopped_and_resumed(out, moment, devices="cpu:0", **chosen):
    """A run that was stopped right after a record, and resumed; and whether it really was stopped."""
    stop = threading.Event()

    def on_event(record):
        if (record["kind"], record["step"]) == moment:
            stop.set()

    done = train(begun(out, **chosen), devices, stop, on_event)
    assert stop.is_set()
    if not done:
        assert checkpoint.load(run.checkpoints(out)[-1])[1]["step"] == moment[1]  # the step was finished
        assert train(out, devices)
    return not done


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_stopped_at_any_step_a_run_ends_with_the_same_bits(whole, tmp_path, moment):
    stopped = stopped_and_resumed(tmp_path / "run", moment)
    assert stopped or moment[1] == 12  # at the end there may be nothing to go on with
    assert differences(whole(), tmp_path / "run") == []


def test_signals_are_left_to_the_main_thread():
    """Python lets no other set a handler: there only the Event that is yielded stops a run."""

    def elsewhere():
        with run.stop_at_signal() as stop:
            return stop.is_set()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() is False


def test_a_stop_is_heard_during_validation(whole, tmp_path):
    """No more pictures are looked at; killed before the next checkpoint, the run repeats no record."""
    stop, events = threading.Event(), []

    def on_event(record):
        events.append(record["kind"])
        if record["kind"] == "validating":
            stop.set()

    out = begun(tmp_path / "run")
    assert not train(out, stop=stop, on_event=on_event)
    assert events.count("validating") == 1  # of two batches
    assert "validation" not in events

    def killed(record):
        if record["step"] == STEPS + 1:
            raise Killed

    with pytest.raises(Killed):
        train(out, on_event=killed)
    assert train(out)
    assert differences(whole(), out) == []
    assert lines(out) == lines(whole())


@pytest.mark.parametrize("moment", [("step", 7), ("train", 4), ("validating", 8)])
def test_a_stop_leaves_no_trace_in_the_metrics(whole, tmp_path, moment):
    """As the curves of the two runs are the same, so are the records, one for one."""
    stopped_and_resumed(tmp_path / "run", moment)
    assert kinds(tmp_path / "run") == kinds(whole())
    assert lines(tmp_path / "run") == lines(whole())


@pytest.mark.parametrize("moment", [("step", 7), ("validating", 8)])
def test_two_ranks_stop_together_and_end_with_the_same_bits(whole, tmp_path, moment):
    """Only rank 0 hears of the stop."""
    assert stopped_and_resumed(tmp_path / "run", moment, "cpu:0,cpu:1")
    assert differences(whole("cpu:0,cpu:1"), tmp_path / "run") == []


@pytest.mark.parametrize(("first", "then"), [("cpu:0,cpu:1", "cpu:0"), ("cpu:0", "cpu:0,cpu:1")])
def test_a_run_goes_on_with_another_number_of_ranks(whole, tmp_path, first, then):
    """Nearly the same numbers: sums over the ranks are rounded in another order, and 8 steps carry it on.

    Weights agree to 1e-5 of each array's largest, its float32 roundings a hundred times over.
    """
    out, stop = begun(tmp_path / "run"), threading.Event()
    assert not train(out, first, stop, lambda r: stop.set() if r["step"] == 4 else None)
    assert train(out, then)
    expected, found = (checkpoint.load(run.checkpoints(a)[-1])[0] for a in (whole(first), out))
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * abs(array).max(), err_msg=name)
    for a, b in zip(run.metrics(whole(first))[-3:-1], run.metrics(out)[-3:-1], strict=True):
        assert a["kind"] == b["kind"]
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)


def test_ranks_that_see_the_folder_as_it_was_go_on_from_rank_0s_checkpoint(whole, tmp_path):
    """Another machine's copy of the folder, or its listing, may lack the last checkpoint."""
    now, stop = begun(tmp_path / "now"), threading.Event()
    assert not train(now, "cpu:0,cpu:1", stop, lambda r: stop.set() if r["step"] == 7 else None)
    before = shutil.copytree(now, tmp_path / "before")
    run.checkpoints(before)[-1].unlink()

    def rank(comm):
        out = (now, before)[comm.rank]
        return run.train(comm, out, run.settings_of(out), DATA, threading.Event())

    assert all(launch(rank, "cpu:0,cpu:1"))
    assert differences(whole("cpu:0,cpu:1"), now) == []


def test_ranks_that_read_other_settings_do_what_rank_0_read(whole, tmp_path):
    """Each MPI process reads run.json for itself: before, or after, somebody else has written to it."""

    def rank(comm):
        return run.job(tmp_path / "run", settings(seed=comm.rank), DATA, new=True)(comm)

    assert all(launch(rank, "cpu:0,cpu:1"))
    assert differences(whole("cpu:0,cpu:1"), tmp_path / "run") == []


@pytest.mark.parametrize("changed", [{"val": None}, {"train": blobs(8 * STEPS, seed=2)}])
def test_a_rank_that_has_opened_other_pictures_is_told(tmp_path, changed):
    def rank(comm):
        data = DATA._replace(**changed) if comm.rank else DATA
        return run.job(tmp_path / "run", settings(), data, new=True)(comm)

    with pytest.raises(DataError, match="expected the pictures that rank 0 found, found others on rank 1"):
        launch(rank, "cpu:0,cpu:1")


@pytest.mark.parametrize("changed", ["mean", "classes", "train"])
def test_a_run_goes_on_with_its_own_pictures_only(tmp_path, changed):
    """Not with the same pictures either, where they have other labels, or come in another order."""
    out, stop = begun(tmp_path / "run"), threading.Event()
    assert not train(out, stop=stop, on_event=lambda r: stop.set())
    turned = Images(TRAIN.images[..., ::-1], TRAIN.labels[::-1], CLASSES)
    other = {"mean": DATA.mean + 1, "classes": CLASSES[::-1], "train": turned}[changed]
    with pytest.raises(DataError, match="expected the pictures that the run began with"):
        train(out, data=DATA._replace(**{changed: other}))


def test_a_checkpoint_that_is_none_of_a_run_is_named(tmp_path):
    out = begun(tmp_path / "run")
    checkpoint.save(out / "step-00000004.safetensors", {"conv1.w": np.zeros(3)}, {"neuron": "relu"})
    with pytest.raises(
        DataError, match=r"step-00000004\.safetensors: expected a checkpoint of a run: KeyError"
    ):
        train(out)


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    """Neither at the last epoch nor where the schedule has ended it: a rate of 0 never finds a new best."""
    for name, chosen in (("epochs", {"epochs": 1}), ("plateau", {"rate": 0.0, "patience": 1, "epochs": 9})):
        out = finished(tmp_path / name, **chosen)
        before, files = lines(out), run.checkpoints(out)
        assert train(out)
        assert lines(out) == before, name
        assert run.checkpoints(out) == files, name


# ---- what the recipe asks for is done ----------------------------------------------------------------


def velocities(out):
    arrays, _ = checkpoint.load(run.checkpoints(out)[-1])
    return {n.removeprefix("velocity."): a for n, a in arrays.items() if n.startswith("velocity.")}


ONE_STEP = {"batch": 32, "epochs": 1, "momentum": 0.0}


def test_biases_learn_and_decay_as_the_recipe_says(whole):
    """The first step's v = −decay·ε·w − ε·g: twice the rate doubles it, no decay leaves out the first."""
    plain = velocities(whole(**ONE_STEP, decay=0.0))
    twice = velocities(whole(**ONE_STEP, decay=0.0, bias_rate_factor=2.0))
    decayed = velocities(whole(**ONE_STEP, decay=0.5))
    not_biases = velocities(whole(**ONE_STEP, decay=0.5, decay_biases=False))
    for name, v in plain.items():
        factor = 2 if name.endswith(".b") else 1
        np.testing.assert_allclose(twice[name], factor * v, rtol=1e-6, err_msg=name)
        assert equal_bits(not_biases[name], v if name.endswith(".b") else decayed[name]), name
    # the first biases of conv2 are 0.1, so that the term is 0.5 · 0.01 · 0.1
    np.testing.assert_allclose(decayed["conv2.b"], plain["conv2.b"] - 0.0005, rtol=1e-5)


def test_the_schedule_reaches_the_optimizer_and_the_pictures(whole):
    """A change at epoch 0 is the same as another recipe; conv1 stands still with a factor of 0.

    A change after the last epoch is none.
    """
    frozen = velocities(whole(**ONE_STEP, schedule=(Change(0, scale={"conv1": 0.0}),)))
    assert not frozen["conv1.w"].any()
    assert frozen["conv2.w"].any()
    without = velocities(whole(epochs=1, augmentation=PICTURES._replace(noise=0.0)))
    changed = velocities(whole(epochs=1, schedule=(Change(0, noise=0.0),)))
    assert [n for n in without if not equal_bits(without[n], changed[n])] == []
    assert not equal_bits(velocities(whole(epochs=1))["conv1.w"], changed["conv1.w"])
    slower = whole(epochs=1, schedule=(Change(0, rate=1e-3), Change(2, pictures=20)))
    assert [r["rate"] for r in run.metrics(slower) if r["kind"] == "train"] == [1e-3]


def test_a_frozen_layer_is_recorded_as_standing_still(whole):
    """Though it keeps its velocity."""
    out = whole(epochs=2, schedule=(Change(1, scale={"conv1": 0.0}),))
    first, *_, last = [r["layers"] for r in run.metrics(out) if r["kind"] == "sizes"]
    assert first["conv1.w"]["update"] > 0
    assert velocities(out)["conv1.w"].any()
    assert (last["conv1.w"]["update"], last["conv1.b"]["update"]) == (0, 0)
    assert last["conv2.w"]["update"] > 0


def test_sizes_are_recorded_every_epoch_where_checkpoints_are_rarer(whole):
    """Else with each checkpoint; never twice."""
    often, seldom = (
        [r["step"] for r in run.metrics(whole(epochs=3, save_every=n)) if r["kind"] == "sizes"]
        for n in (1, 500)
    )
    assert often == list(range(1, often[-1] + 1))
    assert seldom == [often[-1] // 3 * i for i in (1, 2, 3)]


def test_another_seed_is_another_run(whole):
    assert "conv1.w" in differences(whole(epochs=1), whole(epochs=1, seed=1))


def test_a_run_without_validation_pictures_is_judged_by_its_training_error(tmp_path):
    """The plateau still comes."""
    out = begun(tmp_path / "run", rate=0.0, patience=9, epochs=2)
    assert train(out, data=DATA._replace(val=None))
    assert [k for k, _ in kinds(out) if k != "sizes"] == ["train", "train"]
    _, metadata = checkpoint.load(run.checkpoints(out)[-1])
    errors = [r["error"] for r in run.metrics(out) if r["kind"] == "train"]
    assert metadata["schedule"]["best"] == min(errors)


def test_the_records_are_those_of_the_files(tmp_path):
    """Loss and error of an epoch are the means of its steps; sizes are mean |w| and mean |v|."""
    events = []
    train(begun(tmp_path / "run", epochs=1), on_event=events.append)
    steps = [e for e in events if e["kind"] == "step"]
    assert [e["step"] for e in steps] == [1, 2, 3, 4]
    assert all(e["images_a_second"] > 0 for e in steps)
    written = run.metrics(tmp_path / "run")
    assert written == [e for e in events if e["kind"] not in ("step", "validating")]
    assert [(e["done"], e["of"]) for e in events if e["kind"] == "validating"] == [(1, 2), (2, 2)]
    train_record, validation = (next(r for r in written if r["kind"] == k) for k in ("train", "validation"))
    assert train_record["epoch"] == validation["epoch"] == 1
    assert train_record["loss"] == pytest.approx(steps[-1]["loss"])
    assert train_record["error"] == pytest.approx(steps[-1]["error"])
    assert 0 <= validation["top5"] <= validation["top1"] <= 1
    arrays, _ = checkpoint.load(run.checkpoints(tmp_path / "run")[-1])
    last = written[-1]["layers"]["conv3.w"]
    assert last["weight"] == pytest.approx(abs(arrays["conv3.w"]).mean())
    assert last["update"] == pytest.approx(abs(arrays["velocity.conv3.w"]).mean())
    np.testing.assert_array_equal(arrays["data.mean"], DATA.mean)


# ---- the folder --------------------------------------------------------------------------------------


def test_begin_takes_a_new_or_an_empty_folder_only(tmp_path):
    begun(tmp_path / "new" / "deep")
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"other: expected a new or empty folder, found files in it$"):
        begun(tmp_path / "other")
    with pytest.raises(DataError, match=r"empty: expected a new .*tinyalex resume .*empty"):
        begun(tmp_path / "empty", seed=9)
    assert run.settings_of(tmp_path / "empty").seed == 0


def test_settings_come_back_as_they_were(tmp_path):
    wanted = settings(schedule=(Change(1, rate=0.1, scale={"fc6": 0.5}),), seed=7, keep=9)
    run.begin(tmp_path / "run", wanted)
    assert run.settings_of(tmp_path / "run") == wanted


def changed_settings(change):
    fields = {"version": 2, **settings().to_json()}
    change(fields)
    return json.dumps(fields)


def test_settings_that_nothing_spoilt_are_read(tmp_path):
    """So that those below are refused for what spoilt them."""
    (tmp_path / "run.json").write_text(changed_settings(lambda f: None))
    assert run.settings_of(tmp_path) == settings()


SPOILT = {
    "an unknown field of a layer": changed_settings(lambda f: f["network"]["layers"][0].update(norm=True)),
    "an unknown layer": changed_settings(lambda f: f["network"]["layers"][0].update(kind="BatchNorm")),
    "an unknown field": changed_settings(lambda f: f.update(adam=True)),
    "a field too few": changed_settings(lambda f: f.pop("network")),
    "an unknown field of the recipe": changed_settings(lambda f: f["recipe"].update(adam=True)),
    "a recipe too short": changed_settings(lambda f: f["recipe"].pop("augmentation")),
    "an augmentation too long": changed_settings(lambda f: f["recipe"]["augmentation"].update(cutout=1)),
    "an augmentation that is a list": changed_settings(lambda f: f["recipe"].update(augmentation=[1])),
    "a schedule that is a number": changed_settings(lambda f: f["recipe"].update(schedule=1)),
    "no batch": changed_settings(lambda f: f["recipe"].update(batch=0)),
    "a later version": changed_settings(lambda f: f.update(version=3)),
    "a version that is a word": changed_settings(lambda f: f.update(version="new")),
    "a list": "[]",
    "a network that is a word": changed_settings(lambda f: f.update(network="paper")),
    "cut off": changed_settings(lambda f: None)[:-40],
    "empty": "",
    "not text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("text", SPOILT.values(), ids=SPOILT)
def test_settings_of_another_version_are_refused_by_name(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=r"run\.json"):
        run.settings_of(tmp_path)


def test_a_folder_that_is_no_run_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"run\.json: expected the settings of a run"):
        run.settings_of(tmp_path / "nowhere")


HOLD = """
import sys, time
from tinyalex.runs import run

with run.lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_network_is_found_in_a_run_in_json_and_in_python(whole, tmp_path):
    network = settings().network
    (tmp_path / "net.json").write_text(json.dumps(network.to_json()))
    assert find_network(whole(epochs=1)) == find_network(tmp_path / "net.json", width=None) == network
    (tmp_path / "none.py").write_text("net = 1\n")
    with pytest.raises(DataError, match=r"none\.py: expected it to define network = .* found NoneType"):
        find_network(tmp_path / "none.py")
    with pytest.raises(DataError, match=r"net\.json: --width: only a network that is asked for by name"):
        find_network(tmp_path / "net.json", width=0.5)
    with pytest.raises(DataError, match=r"net\.json: --no-lrn: only a network that is asked for by name"):
        find_network(tmp_path / "net.json", lrn=False)


def test_a_run_s_folder_means_its_newest_checkpoint_in_python_too(whole):
    """It was "expected a checkpoint or a run folder, found no such file"."""
    folder = whole(epochs=1)
    newest = checkpoint.newest(folder)
    assert checkpoint.load(folder)[1] == checkpoint.load(newest)[1]
    from_folder, from_file = (trained.load(Comm("cpu:0"), path) for path in (folder, newest))
    x = np.ones((*from_file.net.input_shape, 2), np.float32)
    assert (from_folder.net.forward(x) == from_file.net.forward(x)).all()


def test_no_epochs_are_no_end_for_a_run(tmp_path):
    with pytest.raises(ArgumentError, match="epochs: expected at least 1, found 0"):
        runs.resume(begun(tmp_path / "run"), epochs=0)
    assert run.settings_of(tmp_path / "run").recipe.epochs == 3


def test_one_process_trains_in_a_folder_and_its_death_frees_it(tmp_path):
    """Refused while it lives, whatever way; kill -9 leaves nothing to clear up."""
    out = begun(tmp_path / "run")
    owner = subprocess.Popen([sys.executable, "-c", HOLD, out], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(DataError, match="run: another process is training in this folder"), run.lock(out):
        pass
    owner.kill()
    owner.communicate()
    with run.lock(out), pytest.raises(DataError), run.lock(out):
        pass
    with run.lock(out):
        assert train(out)


@pytest.mark.parametrize("keep", [1, 2])
def test_the_newest_checkpoints_are_kept(tmp_path, keep):
    """Of those at steps 3, 6, 9, 12; at no moment fewer than keep."""
    fewest = []
    begun(tmp_path / "run", keep=keep)

    def on_event(record):
        if record["step"] > 6:
            fewest.append(len(run.checkpoints(tmp_path / "run")))

    train(tmp_path / "run", on_event=on_event)
    names = [p.stem for p in run.checkpoints(tmp_path / "run")]
    assert names == ["step-00000009", "step-00000012"][-keep:]
    assert min(fewest) >= keep
    assert (
        sorted(p.suffix for p in (tmp_path / "run").iterdir() if p.name.startswith("step"))
        == [".safetensors"] * keep
    )


# ---- damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_truncated_checkpoint_is_named(tmp_path, cut):
    """The newest one counts; it is not passed over in silence."""
    out = finished(tmp_path / "run", epochs=1)
    newest = run.checkpoints(out)[-1]
    newest.write_bytes(newest.read_bytes()[:cut])
    with pytest.raises(DataError, match=f"{newest.name}: not a whole safetensors file"):
        train(out)
    newest.unlink()
    assert train(out)


def test_a_checkpoint_of_another_network_is_named(tmp_path):
    out = finished(tmp_path / "run", epochs=1)
    other = begun(tmp_path / "other", options=NETWORK._replace(hidden=72))
    os.replace(run.checkpoints(out)[-1], other / "step-00000004.safetensors")
    with pytest.raises(DataError, match=r"step-00000004\.safetensors: fc6\.b: .*72.*80"):
        train(other)


def with_full_disk(out, patch, save):
    """Train until the save-th checkpoint, which does not fit; the error."""
    count = 0

    def on_event(record):
        nonlocal count
        count += record["kind"] == "sizes"
        if record["kind"] == "sizes" and count == save:
            patch()

    with pytest.raises(OSError, match="the checkpoint was not written") as caught:
        train(out, on_event=on_event)
    return caught.value


@pytest.fixture
def limit_of_file_size():
    """A function that limits this process to files of 20 kB: a checkpoint takes 100."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("save", [1, 3])
def test_on_a_full_disk_the_checkpoint_before_survives(whole, tmp_path, limit_of_file_size, save):
    """The error names the file, half of which is not left lying about; with room again the run goes on."""
    out = begun(tmp_path / "run")
    error = with_full_disk(out, limit_of_file_size, save)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert error.errno == errno.EFBIG
    assert error.filename == str(out / f"step-0000000{3 * save}.safetensors")
    assert list(out.glob("*.part")) == []
    assert [p.stem[-1] for p in run.checkpoints(out)] == ([] if save == 1 else ["3", "6"])
    for path in run.checkpoints(out):
        checkpoint.load(path)
    assert train(out)
    assert differences(whole(), out) == []
    assert kinds(out) == kinds(whole())
    assert lines(out) == lines(whole())


def test_an_error_of_the_disk_when_it_is_flushed_is_as_good_as_none_written(tmp_path, monkeypatch):
    out = begun(tmp_path / "run")

    def fsync(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    error = with_full_disk(out, lambda: monkeypatch.setattr(os, "fsync", fsync), 2)
    assert (error.errno, error.filename) == (errno.ENOSPC, str(out / "step-00000006.safetensors"))
    assert [p.name for p in out.glob("step-*")] == ["step-00000003.safetensors"]


def test_a_last_line_that_was_cut_short_is_left_out(whole, tmp_path):
    """A process can die while it writes; the run goes on with whole lines only."""
    out, stop = begun(tmp_path / "run"), threading.Event()
    train(out, stop=stop, on_event=lambda r: stop.set() if r["kind"] == "validation" else None)
    before = run.metrics(out)
    with open(out / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 8, "lo')
    assert run.metrics(out) == before
    assert train(out)
    assert lines(out) == lines(whole())


def test_what_was_recorded_before_the_first_checkpoint_is_recorded_once(whole, tmp_path):
    """Killed in the validation after the first epoch: nothing is saved yet, so all is done again."""
    out = begun(tmp_path / "run", save_every=100)
    (out / "metrics.jsonl").write_text(lines(whole(save_every=100))[0] + '\n{"kind": "valid')
    assert train(out)
    assert lines(out) == lines(whole(save_every=100))


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train"}\n{"kind"\n{"kind": "train"}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl: a line is not JSON"):
        run.metrics(tmp_path)
    record = {"kind": "train", "step": 1, "epoch": 1, "rate": 0.1, "loss": 2.0, "error": 0.5}
    for wrong in ({"kind": []}, {"kind": None}, {"step": 1 << 63}, {"rate": "0.1"}, {"kind": "validation"}):
        (tmp_path / "metrics.jsonl").write_text(json.dumps(record | wrong) + "\n")
        with pytest.raises(DataError, match=r"metrics\.jsonl: expected records of a run, found"):
            run.metrics(tmp_path)
    assert run.metrics(tmp_path / "nowhere") == []


@pytest.mark.parametrize("devices", ["cpu:0", "cpu:0,cpu:1"])
@pytest.mark.parametrize("moment", [("step", 2), ("train", 4), ("sizes", 3)])
def test_an_error_ends_every_rank_and_every_loader(tmp_path, devices, moment):
    """Raised from within; the fixture above looks for threads."""
    before = threading.active_count()

    def on_event(record):
        if (record["kind"], record["step"]) == moment:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        train(begun(tmp_path / "run"), devices, on_event=on_event)
    assert threading.active_count() == before


def test_an_error_of_the_loader_ends_the_run(tmp_path):
    """A picture that cannot be read is an error of the step that needs it."""

    class Broken:
        labels = TRAIN.labels

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, i):
            if i == 5:
                raise DataError("picture 5 is damaged")
            return TRAIN.images[..., i]

    with pytest.raises(DataError, match="picture 5"):
        train(begun(tmp_path / "run"), "cpu:0,cpu:1", data=DATA._replace(train=Broken()))


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    """Named, on both ranks, with the checkpoints before it left alone."""
    out = begun(tmp_path / "run", rate=1e20, save_every=1)
    with pytest.raises(NonFiniteError, match=r"step \d+: the loss is"):
        train(out, "cpu:0,cpu:1")
    checkpoint.load(run.checkpoints(out)[-1])
