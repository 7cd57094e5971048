"""The command line: each command end to end on small pictures, and one clear line for each mistake."""

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from PIL import Image

from tinyalex import cli, evaluate, runs
from tinyalex.cli import common, progress, terminal
from tinyalex.comm import Comm
from tinyalex.data import Images, augment, imagenet
from tinyalex.devices import Device
from tinyalex.errors import DataError
from tinyalex.look import figures
from tinyalex.models.alexnet import PRESETS, alexnet, narrow
from tinyalex.runs import checkpoint, run
from tinyalex.runs import trained as reading
from tinyalex.runs.settings import Data, open_data

CLASSES = ("ant", "bee", "cow", "dog")
COLOURS = np.array([[150, 40, 40], [40, 150, 40], [40, 40, 150], [90, 90, 90]])
SMALL = ("--width", 0.02, "--size", 67, "--batch", 8)


def tinyalex(*args):
    """Run the command in this process, as its entry point does: exit code, stdout, stderr.

    An error that would be a traceback is raised here.
    """
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["tinyalex", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    return code, out.getvalue(), err.getvalue()


def done(*args):
    """Stdout of a command that must succeed (prepare's bar is on stderr)."""
    code, out, err = tinyalex(*args)
    assert code == 0, err
    return out


def refused(*args):
    """The one line that a command prints when it refuses."""
    code, _, err = tinyalex(*args)
    assert code == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    return err


def picture(rng, label, size=(80, 90)):
    """A noisy picture of its class's colour."""
    pixels = COLOURS[label] + rng.integers(-30, 60, (*size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def class_folders(folder, classes, train=9, val=4, seed=0):
    """JPEGs in train/<class>/ and val/<class>/."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        for label, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                picture(rng, label).save(folder / split / name / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures, what prepare makes of them, and two networks trained on that for an epoch."""
    root = tmp_path_factory.mktemp("world")
    src, data = class_folders(root / "src", CLASSES), root / "data"
    prepared = done("prepare", "imagenet", src, data, "--size", 72, "--workers", 1)
    printed = [
        done("train", data, root / name, *SMALL, "--epochs", 1, "--save-every", 2, "--seed", seed)
        for seed, name in enumerate("ab")
    ]
    return SimpleNamespace(src=src, data=data, a=root / "a", b=root / "b", prepared=prepared, printed=printed)


@pytest.fixture(scope="module")
def valonly(world, tmp_path_factory):
    """The world's validation pictures, prepared alone."""
    root = tmp_path_factory.mktemp("valonly")
    shutil.copytree(world.src / "val", root / "src" / "val")
    imagenet.prepare(root / "src", root / "data", size=72, workers=1, progress=False)
    return root / "data"


# ---- what works --------------------------------------------------------------------------------------


def test_prepare_says_what_it_made(world):
    assert "36 train, 16 val pictures of 4 classes" in world.prepared
    assert "whole" not in world.prepared


def test_prepare_again_says_whether_the_shards_are_whole(world):
    """And nothing on stderr, where no terminal shows a bar and little time passes."""
    code, out, err = tinyalex("prepare", "imagenet", world.src, world.data, "--size", 72)
    assert (code, err) == (0, "")
    assert f"36 train, 16 val pictures of 4 classes in {world.data}, whole" in out
    assert open_data(world.data).classes == CLASSES


def test_train_prints_the_epoch_and_where_it_ended(world):
    assert "epoch 1: training loss" in world.printed[0]
    assert "validation top-1" in world.printed[0]
    assert f"done: {world.a / 'step-00000004.safetensors'}" in world.printed[0]
    assert "nothing was left to do" not in world.printed[0]
    assert [p.stem[-1] for p in run.checkpoints(world.a)] == ["2", "4"]


def test_train_takes_its_options_to_heart(world, tmp_path):
    """Each of them reaches run.json."""
    options = "--preset code2012 --rate 0.002 --noise 0.05 --bias 0.1 --no-dropout --upscale 80 --seed 5"
    more = ("--save-every", 7, "--keep", 1, "--devices", "cpu:0", "--epochs", 1, *SMALL)
    done("train", world.data, tmp_path / "run", *options.split(), *more)
    s = run.settings_of(tmp_path / "run")
    expected = narrow(PRESETS["code2012"], 0.02)._replace(size=67, classes=4, bias=0.1, dropout=False)
    assert s.network == alexnet(expected)
    assert (s.seed, s.upscale, s.save_every, s.keep) == (5, 80, 7, 1)
    assert (s.recipe.rate, s.recipe.batch, s.recipe.epochs) == (0.002, 8, 1)
    assert (s.recipe.augmentation.noise, s.recipe.augmentation.crop, s.recipe.augmentation.group) == (
        0.05,
        67,
        32,
    )
    assert s.recipe.decay_biases is False


def test_the_version_is_that_of_the_package():
    assert done("--version") == f"tinyalex {metadata.version('tinyalex')}\n"


def test_resume_of_a_finished_run_has_nothing_to_do(world):
    before = (world.a / "metrics.jsonl").read_text()
    printed = done("resume", world.a)
    assert "done: " in printed
    assert f"nothing was left to do; for longer: tinyalex resume {world.a} --epochs 11" in printed
    assert (world.a / "metrics.jsonl").read_text() == before


def test_epochs_that_have_ended_already_are_refused(world, tmp_path):
    """Nor is the run shortened: what its folder says stays."""
    shutil.copytree(world.a, tmp_path / "a")
    done("resume", tmp_path / "a", "--epochs", 3)
    before = {path: path.read_bytes() for path in sorted((tmp_path / "a").iterdir())}
    for epochs in (1, 3):
        message = f"a has 3 behind it: expected more, found {epochs}"
        assert message in refused("resume", tmp_path / "a", "--epochs", epochs)
    assert {path: path.read_bytes() for path in sorted((tmp_path / "a").iterdir())} == before


def test_a_run_may_be_resumed_from_another_folder(world, tmp_path, monkeypatch):
    """The data were named by a relative path."""
    monkeypatch.chdir(world.data.parent)
    done("train", "data", tmp_path / "run", *SMALL, "--epochs", 1)
    monkeypatch.chdir(tmp_path)
    assert "done: " in done("resume", "run")


def test_a_run_goes_on_where_its_pictures_are_now(world, tmp_path):
    """Once told where they are, the run remembers."""
    for name in ("data", "a"):
        shutil.copytree(getattr(world, name), tmp_path / name)
    moved = (tmp_path / "data").rename(tmp_path / "moved")
    settings = run.settings_of(tmp_path / "a")._replace(data=str(tmp_path / "data"))
    (tmp_path / "a" / "run.json").write_text(json.dumps({"version": 2, **settings.to_json()}))
    assert "run.json names the data, --data others" in refused("resume", tmp_path / "a")
    done("resume", tmp_path / "a", "--data", moved)
    done("resume", tmp_path / "a")


def test_a_folder_of_validation_pictures_alone_is_evaluated(world, valonly):
    assert done("evaluate", valonly, world.a) == done("evaluate", world.data, world.a)


def test_cifar10_is_found_by_its_name(tmp_path, monkeypatch):
    """Where relu-vs-tanh finds it: in ./data, here empty but for a damaged file."""
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    (folder / "data_batch_1.bin").write_bytes(b"damaged")
    monkeypatch.chdir(tmp_path)
    assert "data_batch_1.bin" in refused("train", "cifar10", tmp_path / "run")


@pytest.mark.parametrize(
    ("size", "options", "offsets"),
    [(256, "", 32), (256, "--size 224", 32), (256, "--size 160", None), (240, "", None),
     (240, "--upscale 256", 32), (256, "--preset caffe --recipe paper", None),
     (256, "--preset caffe --recipe code2012", None), (256, "--preset code2012", 33)],
)  # fmt: skip
def test_the_recipe_counts_the_positions_of_its_own_crop_only(tmp_path, monkeypatch, size, options, offsets):
    """224 of 256 pixels; any other crop, and any other picture, has all positions that there are."""
    images = Images(np.zeros((3, size, size, 2), np.uint8), np.arange(2), ("ant", "bee"))
    data = Data(images, None, *augment.statistics(images.images), images.classes)
    monkeypatch.setattr("tinyalex.runs.settings.open_data", lambda path: data)
    begun = []
    monkeypatch.setattr("tinyalex.cli.train._go", lambda out, settings, *_, **__: begun.append(settings))
    done("train", tmp_path, tmp_path / "run", "--batch", 2, *options.split())
    assert begun[0].recipe.augmentation.offsets == offsets
    with data.loader("train", begun[0], augmentation=begun[0].recipe.augmentation, train=True):
        pass  # the crop fits


def test_the_folder_of_a_command_that_could_not_begin_is_free_for_the_next(world, tmp_path):
    """A slip in an option is mended by giving the command again."""
    command = ("train", world.data, tmp_path / "run", *SMALL, "--epochs", 1)
    for wrong in (("--devices", "cpu:0,gpu:1"), ("--devices", "cpu:0,cpu:1,cpu:2"), ("--upscale", 10)):
        refused(*command, *wrong)
    done(*command)


def percentages(line):
    return [float(number) for number in re.findall(r"([\d.]+)%", line)]


@pytest.mark.parametrize("views", [1, 10])
def test_evaluate_prints_the_errors(world, views):
    """Those of tinyalex.evaluate, of each network and of their weighted average."""
    printed = done(
        "evaluate", world.data, world.a, world.b, "--views", views, "--weights", "3,1"
    ).splitlines()
    comm, found = Comm(Device("cpu:0")), []
    for out in (world.a, world.b):
        trained = reading.load(comm, run.checkpoints(out)[-1])
        with reading.view_loader(comm, trained, open_data(world.data).val, views) as loader:
            p, labels = evaluate.probabilities(trained.net, loader)
        found.append(p)
    found.append(evaluate.ensemble(found, [3, 1]))
    assert len(printed) == 3
    for line, name, p in zip(printed, (world.a, world.b, "2 networks averaged"), found, strict=True):
        assert line.startswith(str(name))
        loss, top1, top5 = evaluate.errors(p, labels)
        assert percentages(line) == pytest.approx([100 * top1, 100 * top5], abs=0.0051)
        assert ": top-1 error " in line
        assert ", top-3 error " in line  # of four classes
        assert f"loss {loss:.4f} " in line
        assert f"(16 pictures, {views} view{'s' if views > 1 else ''})" in line


def test_evaluate_takes_a_checkpoint_a_split_and_one_device(world):
    path = run.checkpoints(world.a)[0]
    (line,) = done("evaluate", world.data, path, "--split", "train", "--devices", "cpu:0").splitlines()
    assert line.startswith(f"{path}: top-1 error ")
    assert "(36 pictures, 1 view)" in line


def test_a_run_and_its_data_may_be_named_in_either_order(world, tmp_path):
    """They are told apart by what they are; several runs too."""
    assert done("evaluate", world.data, world.a) == done("evaluate", world.a, world.data)
    several = done("evaluate", world.a, world.b, world.data)
    assert several == done("evaluate", world.a, world.data, world.b)
    assert "2 networks averaged" in several
    done("features", world.a, world.data, tmp_path / "one.npy")
    done("features", world.data, world.a, tmp_path / "two.npy")
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    for figure in ("predictions", "neighbours"):
        done("figure", figure, world.data, world.a, "--count", 1, "--out", tmp_path / f"{figure}.png")


def test_without_validation_pictures_the_way_goes_on_with_the_training_pictures(world, tmp_path):
    """From the pictures to the figures; what is evaluated is said, and no picture is its own neighbour."""
    prepared = done("prepare", "pictures", world.src / "train", tmp_path / "data", "--size", 72)
    assert "no validation pictures: put some in" in prepared
    done("train", tmp_path / "data", tmp_path / "run", *SMALL, "--epochs", 1)
    run_and_data = tmp_path / "run", tmp_path / "data"
    printed = done("evaluate", *run_and_data)
    assert "no validation pictures (prepare with --val 0.1 to hold some out)" in printed
    assert "(36 pictures, 1 view)" in printed
    assert "36 pictures" in done("features", *run_and_data, tmp_path / "f.npy")
    done("figure", "predictions", *run_and_data, "--out", tmp_path / "p.png")
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "neighbours_figure", lambda *args: drawn.append(args) or figures.Figure())
        done("figure", "neighbours", *run_and_data, "--out", tmp_path / "n.png")
    ((queries, found, names, found_names),) = drawn
    assert found.shape == (3, 72, 72, 6, 5)
    assert set(names) <= set(CLASSES)
    assert found_names.shape == (6, 5)
    assert not (found == queries[:, :, :, None]).all(axis=(0, 1, 2)).any()
    assert "expected a split 'val', found train" in refused("evaluate", *run_and_data, "--split", "val")


def test_metrics_are_written_as_csv(world, tmp_path):
    """A row an epoch: what metrics.jsonl has."""
    assert "metrics.csv: 8 columns, 1 epoch\n" in done("metrics", world.a)
    with open(world.a / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    train, validation = (r for r in run.metrics(world.a) if r["kind"] in ("train", "validation"))
    want = {
        "epoch": 1, "step": 4, "rate": train["rate"], "training_loss": train["loss"],
        "training_error": train["error"], "validation_loss": validation["loss"],
        "validation_error": validation["top1"], "validation_topk_error": validation["top5"],
    }  # fmt: skip
    assert {key: float(value) for key, value in row.items()} == want
    done("metrics", world.a, tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_bytes() == (world.a / "metrics.csv").read_bytes()
    (world.a / "metrics.csv").unlink()


def test_predict_prints_the_most_probable_classes(world, tmp_path):
    """All four, the largest first; a name with brackets, colons or a line's end is a name."""
    odd = tmp_path / "bee[ant] [bold] :smile:\n.png"
    Image.open(world.src / "val" / "bee" / "0.jpg").save(odd)
    printed = done("predict", world.a, odd, world.src / "val" / "ant" / "1.jpg").splitlines()
    assert printed[0] == str(odd).replace("\n", r"\n")
    assert len(printed) == 10
    p = [percentages(line)[0] for line in printed[1:5]]
    assert p == sorted(p, reverse=True)
    assert sum(p) == pytest.approx(100, abs=0.21)
    assert sorted(line.split()[1] for line in printed[1:5]) == list(CLASSES)
    assert len(done("predict", world.a, odd, "--top", 2, "--views", 1).splitlines()) == 3


def test_a_broken_picture_among_good_ones_is_named_and_the_others_are_classified(world, tmp_path):
    (tmp_path / "bad\n.png").write_bytes(b"not a picture")
    good = world.src / "val" / "ant" / "1.jpg", world.src / "val" / "bee" / "0.jpg"
    code, printed, said = tinyalex("predict", world.a, good[0], tmp_path / "bad\n.png", good[1])
    assert code == 1
    bad = tmp_path / r"bad\n.png"
    assert said == f"error: {bad}: expected a picture: cannot identify image file\n"
    assert [line for line in printed.splitlines() if "%" not in line] == [str(path) for path in good]


def test_classes_with_brackets_are_printed_whole(tmp_path):
    """They are text, not colours; nor need a folder's name be text for a figure."""
    rng, classes = np.random.default_rng(0), ("bat [animal]", "bat [/sport]")
    pictures = Images(rng.integers(0, 256, (3, 72, 72, 16), dtype=np.uint8), np.arange(16) % 2, classes)
    src = tmp_path / "src"
    for i, name in enumerate(("one", os.fsdecode(b"tw\xff"))):
        (src / name).mkdir(parents=True)
        for k in range(8):
            Image.fromarray(pictures.images[..., 2 * k + i].transpose(1, 2, 0)).save(src / name / f"{k}.png")
    imagenet.prepare(src, tmp_path / "data", size=72, workers=1, progress=False)
    done("train", tmp_path / "data", tmp_path / "run", *SMALL, "--epochs", 1)
    for name in ("predictions", "neighbours"):
        done("figure", name, tmp_path / "run", tmp_path / "data", "--out", tmp_path / "figure.png")
    path = run.checkpoints(tmp_path / "run")[-1]
    arrays, metadata = checkpoint.load(path)
    checkpoint.save(path, arrays, metadata | {"classes": list(classes)})
    printed = done("predict", path, src / "one" / "0.png")
    assert "bat [animal]" in printed
    assert "bat [/sport]" in printed


def test_letters_that_no_font_has_are_told_in_a_sentence(tmp_path, capsys):
    """Not in warnings of matplotlib's, one for each time that a name is measured or drawn."""
    probabilities, pictures = np.full((2, 2), 0.5), np.zeros((3, 8, 8, 2), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = figures.predictions_figure(pictures, probabilities, np.arange(2), ("Vögel \u9ce5", "\u9ce5"))
        common.save_figure(figure, tmp_path / "p.png")
    assert capsys.readouterr().err == "boxes stand for letters that no font here has: \u9ce5\n"


def test_ctrl_c_while_the_commands_are_imported_is_one_line_too():
    """For most of a second it was a traceback."""
    code = (
        "import sys\n"
        "class Impatient:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Impatient())\n"
        "from tinyalex.__main__ import main\n"
        "main()\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped\n")


def test_an_error_of_the_system_is_told_without_its_number(capsys):
    """As where the output goes to a disk that is full, and no file has a name."""
    for error in (OSError(errno.ENOSPC, "No space left"), OSError(errno.ENOSPC, "No space left", "a.csv")):
        common.print_error(error)
    assert capsys.readouterr().err == "error: No space left\nerror: a.csv: No space left\n"


def test_features_are_written_for_every_picture(world, tmp_path):
    """80 hidden units of the narrow network, whatever the number of devices."""
    printed = done("features", world.a, world.data, tmp_path / "two.npy")
    assert "80 features of 16 pictures" in printed
    done("features", world.a, world.data, tmp_path / "one.npy", "--devices", "cpu:0")
    one, two = (np.load(tmp_path / f"{name}.npy") for name in ("one", "two"))
    assert (two.shape, two.dtype) == ((80, 16), np.float32)
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    done("features", world.a, world.data, tmp_path / "maps.npy", "--layer", "pool5", "--split", "train")
    assert np.load(tmp_path / "maps.npy").shape == (8, 36)


@pytest.mark.parametrize("name", ["kernels", "predictions", "neighbours", "curves", "sizes"])
def test_figures_are_pictures(world, tmp_path, name):
    """PNG files of some thousand pixels at most that show something."""
    args = {"predictions": (world.a, world.data), "neighbours": (world.a, world.data, "--count", 3)}
    out = tmp_path / f"{name}.png"
    assert str(out) in done("figure", name, *args.get(name, (world.a,)), "--out", out)
    with Image.open(out) as image:
        assert image.format == "PNG"
        assert all(100 < side < 4000 for side in image.size)
        assert len(np.unique(np.asarray(image.convert("L")))) > 5


def test_describe_prints_the_published_sizes():
    printed = done("describe")
    assert "60,965,224" in printed
    assert "conv1" in printed
    assert "fits" in done("describe", "--memory", "3GiB", "--batch", 1, "--devices", "cpu:0")
    assert "does not fit" in done("describe", "--memory", "10MB", "--devices", "cpu:0", *SMALL[:4])


def test_as_a_program_it_ends_with_the_same_codes(tmp_path):
    """python -m tinyalex; the error is on stderr, without a traceback."""
    command = [sys.executable, "-m", "tinyalex", "resume", str(tmp_path / "nowhere")]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (1, "")
    assert re.fullmatch(r"error: .*nowhere.run\.json: .*\n", process.stderr)


def help_of(command, name):
    """(name, its help) of a command, of all below it, and of their options."""
    yield name, command.help or ""
    for parameter in command.params:
        yield f"{name} {parameter.name}", parameter.help or ""
    for below in getattr(command, "commands", {}).values():
        yield from help_of(below, f"{name} {below.name}")


def test_help_is_in_groups_and_short():
    """-h too; every option says something, and begins with what it is."""
    printed = done("-h")
    assert [re.search(f"─ {panel} ─", printed) for panel in ("Learn", "Train", "Look inside")]
    for panel, command in {
        "Learn": "lessons",
        "Train": "resume",
        "Exchange": "import",
        "Measure": "bench",
    }.items():
        assert re.search(f"─ {panel} ─[^╰]*│ {command} ", printed), panel
    assert "--install-completion" in printed
    assert "RUN... DATA" in done("evaluate", "-h")
    for name, text in help_of(typer.main.get_command(cli.app), "tinyalex"):
        assert text or "completion" in name, name
        assert not text.startswith("Of "), name


def test_ctrl_c_ends_any_command_with_one_line(world, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "probabilities_of", interrupted)
    assert tinyalex("evaluate", world.a, world.data) == (130, "", "stopped\n")
    monkeypatch.setattr("tinyalex.lessons.site.build", interrupted)
    assert tinyalex("lessons", "--html", "pages") == (130, "", "stopped\n")


def test_long_commands_say_how_far_they_are_also_in_a_file(world, tmp_path, monkeypatch):
    """A line on stderr now and then with the time left; here at each batch, since the clock runs."""
    now = iter(range(0, 10**6, 12))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    pictures = sorted((world.src / "val" / "ant").iterdir())
    for doing, *command in (
        ("evaluating 8/16", "evaluate", world.a, world.data),
        ("evaluating 24/32", "evaluate", world.a, world.b, world.data),
        ("classifying 4/4", "predict", world.a, *pictures),
        ("features 16/16", "features", world.a, world.data, tmp_path / "f.npy"),
        ("features 32/36", "figure", "neighbours", world.a, world.data, "--out", tmp_path / "n.png"),
        ("classifying 8/8", "figure", "predictions", world.a, world.data, "--out", tmp_path / "p.png"),
        ("epoch 2/2, step 6/8", "train", world.data, tmp_path / "run", *SMALL, "--epochs", 2),
        ("round 2/3", "bench", "cifar4", "--layer", "pool3", "--batch", 2, "--rounds", 3),
    ):
        code, _, err = tinyalex(*command)
        assert code == 0, err
        assert re.search(rf"^{doing}(, |$)", err, re.MULTILINE), (doing, err)
        assert " left" in err or doing.endswith(("4/4", "8/8"))


def test_a_run_that_was_ended_by_its_patience_or_its_epochs_can_go_on(world, tmp_path):
    """Drops, the end and the loss of chance are told; here nothing can be learned, at a rate of 1e-9."""
    out = tmp_path / "run"
    printed = done("train", world.data, out, *SMALL, "--epochs", 20, "--patience", 1, "--rate", 1e-9)
    for epoch, rate in ((2, 1e-10), (3, 1e-11), (4, 1e-12)):
        assert f"epoch {epoch}: no better error for an epoch: rate {rate:g}\n" in printed
    assert "epoch 5: no better error for an epoch, at the last rate: the end, of 20 (--patience)" in printed
    assert printed.count("the loss stands at that of guessing, log 4 = 1.39") == 1
    assert "epoch 3: the loss stands" in printed
    assert "try --recipe small" in printed
    assert "epoch " not in done("resume", out)
    assert "epoch 7: training loss" in done("resume", out, "--epochs", 7)
    for kind in ("train", "validation"):
        assert [r["epoch"] for r in run.metrics(out) if r["kind"] == kind] == list(range(1, 8))
    rates = [r["rate"] for r in run.metrics(out) if r["kind"] == "train"]
    assert rates == pytest.approx([1e-9, 1e-9, 1e-10, 1e-11, 1e-12, 1e-12, 1e-12])
    shutil.copytree(world.a, tmp_path / "a")  # ended by its epochs
    assert "epoch 2: training loss" in done("resume", tmp_path / "a", "--epochs", 2)
    assert run.settings_of(tmp_path / "a").recipe.epochs == 2


def test_small_sees_seven_eighths_of_the_pictures_unless_it_is_told(world):
    for options, side in (({}, 63), ({"upscale": 128}, 112), ({"size": 67}, 67)):
        made, _ = runs.new_run(world.data, recipe="small", **options)
        assert made.network.input == (3, side, side)
        assert (made.network.outputs, made.recipe.augmentation.crop, made.recipe.batch) == ((4,), side, 32)


def test_a_loss_far_above_that_of_guessing_is_told_once(world, tmp_path):
    (tmp_path / "wild.py").write_text(
        "from tinyalex.models import Network\n"
        "from tinyalex.nn import Linear\n"
        "network = Network([Linear(4, std=1.0)], (3, 67, 67))\n"
    )
    command = ("train", world.data, tmp_path / "run", "--network", tmp_path / "wild.py", "--batch", 8)
    printed = done(*command, "--epochs", 2, "--rate", 1e-8)
    assert printed.count("far above that of guessing, log 4 = 1.39: try a smaller --rate than 1e-08") == 1
    assert "epoch 1: the loss is far above" in printed


def test_classes_are_printed_in_words_where_a_file_has_them(world, tmp_path):
    (tmp_path / "words.txt").write_text("ant\tan insect, small\nbee that stings\n")
    command = ("predict", world.a, world.src / "val" / "ant" / "1.jpg", "--names", tmp_path / "words.txt")
    assert sorted(line.split("%")[1].strip() for line in done(*command).splitlines()[1:]) == [
        "ant an insect, small", "bee that stings", "cow", "dog"
    ]  # fmt: skip
    (tmp_path / "words.txt").write_text("aunt a relative\n")
    assert "words.txt: expected lines that begin with the names of classes, such as 'ant'" in refused(
        *command
    )


def test_classes_with_blanks_have_their_lines_too(tmp_path):
    (tmp_path / "words.txt").write_text("great white shark, a fish\ngreat\tof size\n\ncat\n")
    assert common.named(("great white", "great", "cow", "cat"), tmp_path / "words.txt") == [
        "great white shark, a fish", "great of size", "cow", "cat"
    ]  # fmt: skip


# ---- what is refused ---------------------------------------------------------------------------------


def test_options_outside_their_range_are_errors_of_usage(world, tmp_path):
    """Typer's own: exit code 2, and what the option wants."""
    for wrong in (("--epochs", 0), ("--batch", -1), ("--rate", "fast"), ("--no-such-option",)):
        code, _, err = tinyalex("train", world.data, tmp_path / "run", *wrong)
        assert code == 2
        assert wrong[0] in err
    assert not (tmp_path / "run").exists()


MISTAKES = {  # options of train: what is wrong with them
    ("--preset", "vgg"): "vgg: expected a network: alexnet, paper, code2012, half, caffe, small, ",
    ("--network", "vgg"): "vgg: expected a network: alexnet, paper, code2012, half, caffe, small, ",
    ("--recipe", "vgg"): "recipe: expected one of small, paper, code2012, half, caffe, ",
    ("--devices", "gpu:0"): "device 'gpu:0': expected 'cpu:K' or 'cuda:K'",
    ("--devices", ""): "device '': expected 'cpu:K' or 'cuda:K'",
    ("--devices", "cpu:0,cpu:0"): "devices: expected different ones of one kind, found cpu:0, cpu:0",
    ("--devices", "cpu:0,cpu:1,cpu:2"): "3 ranks cannot share 2 towers evenly",
    ("--preset", "half", "--devices", "cpu:0,cpu:1", "--parallel", "model"): "each of 2 ranks holds its part",
    ("--preset", "caffe", "--size", 67, "--devices", "cpu:0,cpu:1", "--parallel", "model"): "each of 2 ranks",
    ("--devices", "cpu:0,cpu:1", "--parallel", "data", "--batch", 9): "9 images cannot be shared evenly by 2",
    (
        "--parallel",
        "pipeline",
    ): "parallel: expected one of model, data, hybrid, hybrid:b, hybrid:variable",
    ("--rate-by", "log"): "rate_by: expected k or sqrt-k, found 'log'",
    (
        "--size",
        20,
    ): "the map: 2 with 0+0 of padding, for pictures of 20 pixels: see size, upscale",
    ("--size", 100): "its pictures have 72 pixels, and the network sees 100: --size 72 at most, or --upscale",
    ("--batch", 1000): "has 36 pictures to train on, fewer than a batch of 1000: --batch 36 at most",
    ("--upscale", 10): "have 72 pixels, brought to 10, and the network sees 67: --size 10 at most, or",
}


@pytest.mark.parametrize("options", MISTAKES, ids=lambda options: " ".join(map(str, options)))
def test_train_refuses(world, tmp_path, options):
    """One line that names what was expected and what was found."""
    common = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    given = common | dict(zip(options[::2], options[1::2], strict=True))
    args = [a for pair in given.items() for a in pair]
    assert MISTAKES[options] in refused("train", world.data, tmp_path / "run", "--epochs", 1, *args)


def test_a_picture_size_that_was_forgotten_is_an_error_of_one_line(world, tmp_path):
    """The paper's 224 of pictures that have 72: the commonest slip."""
    line = refused("train", world.data, tmp_path / "run", "--width", 0.02, "--batch", 8, "--epochs", 1)
    assert "224" in line
    assert "72" in line


def test_an_odd_number_of_classes_runs_on_one_device(world, tmp_path):
    """Two ranks share the last layer's rows: three classes want one device, by default or by the line."""
    src = class_folders(tmp_path / "src", CLASSES[:3])
    imagenet.prepare(src, tmp_path / "data", size=72, workers=1, progress=False)
    two = "--devices", "cpu:0,cpu:1", "--parallel", "model"
    command = ("train", tmp_path / "data", tmp_path / "run", *SMALL, "--epochs", 1)
    assert "fc8: 3 filters or features cannot be shared evenly by 2 ranks" in refused(*command, *two)
    done(*command)


def test_a_gpu_without_cupy_is_refused_with_what_to_install(world, monkeypatch):
    """The extras' brackets are printed."""
    monkeypatch.setitem(sys.modules, "cupy", None)  # as where it is not installed
    line = refused("evaluate", world.data, world.a, "--devices", "cuda:0")
    assert "device cuda:0: CuPy is not installed" in line
    assert "pip install 'tinyalex[cuda12]' or 'tinyalex[cuda13]'" in line


REFUSED = [  # the command, and a part of the line
    (("train", "{nowhere}", "{new}"), "nowhere: expected a folder made by `tinyalex prepare`, or CIFAR-10"),
    (
        ("train", "{src}", "{new}"),
        "found in it train, val; to prepare pictures: tinyalex prepare pictures {src} DST",
    ),
    (("train", "{index}", "{new}"), "index.json: "),
    (("train", "{valonly}", "{new}"), "expected pictures to train on, found a val split alone"),
    (("train", "{a}", "{new}"), "found the folder of a run"),
    (("evaluate", "{data}"), "evaluate: expected RUN... DATA, found {data} alone"),
    (("features", "{src}", "{a}", "{new}"), "found in it train, val; to prepare pictures: tinyalex prepare"),
    (("resume", "{a}", "--data", "{nowhere}"), "nowhere: expected a folder made by `tinyalex prepare`"),
    (("describe", "--devices", "gpu0,gpu1"), "device 'gpu0': expected 'cpu:K' or 'cuda:K'"),
    (("train", "{data}", "{a}", *SMALL), "expected a new or empty folder"),
    (("resume", "{nowhere}"), "run.json: expected the settings of a run, found no such file"),
    (("resume", "{data}"), "expected the settings of a run, found pictures that `tinyalex prepare` made"),
    (("prepare", "imagenet", "{nowhere}", "{new}"), "nowhere: no such file or folder"),
    (("prepare", "imagenet", "{src}", "{a}"), "expected an empty folder"),
    (("evaluate", "{data}", "{nowhere}"), "nowhere: expected a checkpoint"),
    (("evaluate", "{data}", "{data}"), "expected a run folder with checkpoints"),
    (("evaluate", "{nowhere}", "{a}"), "nowhere"),
    (("evaluate", "{data}", "{a}", "--split", "test"), "expected a split 'test', found train and val"),
    (("figure", "neighbours", "{a}", "{valonly}"), "expected a split 'train', found val"),
    (("evaluate", "{data}", "{a}", "--views", "5"), "--views: expected 1, 9, 10, 50 or 150, found 5"),
    (("evaluate", "{data}", "{a}", "--views", "0"), "--views: expected 1, 9, 10, 50 or 150, found 0"),
    (("evaluate", "{data}", "{a}", "{b}", "--weights", "1"), "--weights: expected 2"),
    (("evaluate", "{data}", "{a}", "{b}", "--weights", "1,2,3"), "--weights: expected 2"),
    (("evaluate", "{data}", "{a}", "{b}", "--weights", "1,one"), "--weights: expected 2"),
    (("evaluate", "{data}", "{a}", "{b}", "--weights", ""), "--weights: expected 2"),
    (("evaluate", "{data}", "{a}", "{b}", "--weights", "-1,2"), "--weights: expected 2"),
    (("evaluate", "{data}", "{a}", "{b}", "--weights", "0,0"), "--weights: expected 2"),
    (("evaluate", "{data}", "{a}", "{b}", "--weights", "1,nan"), "--weights: expected 2"),
    # before anything else is looked at
    (("evaluate", "{data}", "{nowhere}", "{nowhere}", "--weights", "1,-1"), "--weights: expected 2"),
    (
        ("features", "{nowhere}", "{nowhere}", "{nowhere}/f.npy"),
        "f.npy: expected the name of a file in a fol",
    ),
    (("features", "{nowhere}", "{nowhere}", "{src}"), "src: expected the name of a file in a folder that"),
    (
        ("figure", "predictions", "{nowhere}", "{nowhere}", "--out", "{new}.xyz"),
        "--out: expected a name that",
    ),
    (
        ("figure", "neighbours", "{nowhere}", "{nowhere}", "--out", "{nowhere}/n.png"),
        "n.png: expected the na",
    ),
    (("evaluate", "{data}", "{a}", "--devices", "cpu:0,cpu:1,cpu:2"), "3 ranks cannot share 2 towers evenly"),
    (("evaluate", "{data}", "{index}"), "index.json: not a whole safetensors file"),
    (("predict", "{a}", "{index}"), "index.json: expected a picture"),
    (("predict", "{a}", "{nowhere}"), "nowhere: expected a picture: No such file or directory\n"),
    (("predict", "{a}", "{src}"), "src: expected a picture: found a folder\n"),
    (
        ("figure", "predictions", "{a}", "{data}", "--names", "{nowhere}", "--out", "{new}.png"),
        "nowhere: expected a text file: No such file or directory\n",
    ),
    (("resume", "{index}"), "index.json/run.json: expected the settings of a run: Not a directory\n"),
    (("docs", "{index}"), "index.json/tinyalex: Not a directory\n"),
    # before the work
    (("lessons", "--html", "{index}/pages"), "index.json/pages: Not a directory\n"),
    (("lessons", "--live", "{index}/pages"), "index.json/pages: Not a directory\n"),
    (
        ("ablate", "--data", "{data}", "--minutes", "1", "--out", "{index}/out"),
        "index.json/out: Not a directory\n",
    ),
    (
        ("ablate", "--data", "{data}", "--rows", "no-lnr", "--out", "{new}"),
        "--rows: expected some of whole, no-lrn,",
    ),
    (("features", "{a}", "{data}", "{new}.npy", "--layer", "conv9"), "--layer: expected one of conv1"),
    (("features", "{a}", "{data}", "{nowhere}/f.npy"), "nowhere"),
    (("figure", "kernels", "{nowhere}"), "nowhere: expected a checkpoint"),
    (("figure", "kernels", "{foreign}"), "foreign.safetensors"),
    (("figure", "curves", "{nowhere}"), "nowhere"),
    (("figure", "sizes", "{data}"), "data"),
    (("figure", "kernels", "{a}", "--out", "{new}.xyz"), "xyz"),
    (("describe", "vgg"), "vgg: expected a network: alexnet, paper, code2012,"),
    (("describe", "alxenet"), "found no such name or file: did you mean alexnet?"),
    (("describe", "--memory", "much"), "--memory: expected a number"),
    (("describe", "--devices", "cpu:0,cpu:1,cpu:2"), "3 ranks cannot share 2 towers evenly"),
    (("describe", "--size", "20"), "pool2: window of 3 is larger than the map: 2 "),
    (("relu-vs-tanh", "--data", "shapes", "--full"), "--full"),
    (("bench", "cifar4-sine"), "cifar4-sine: expected a network: alexnet, paper, code2012,"),
    (("bench", "cifar4", "--layer", "conv9"), "bench: expected one of conv1, pool1, "),
]


@pytest.mark.parametrize(
    ("command", "message"), REFUSED, ids=[" ".join(map(str, command)) for command, _ in REFUSED]
)
def test_other_mistakes_are_refused_in_one_line(world, valonly, tmp_path, command, message):
    names = {
        "nowhere": tmp_path / "nowhere", "new": tmp_path / "new", "src": world.src, "data": world.data,
        "valonly": valonly, "a": world.a, "b": world.b, "index": world.data / "index.json",
        "foreign": tmp_path / "foreign.safetensors",
    }  # fmt: skip
    checkpoint.save(names["foreign"], {"conv1.w": np.zeros((4, 3, 2, 2), np.float32)}, {})
    assert message.format(**names) in refused(*(str(part).format(**names) for part in command))


def test_classes_that_differ_are_refused(world, tmp_path):
    """Same number, other names: the errors would mean nothing."""
    src = class_folders(tmp_path / "src", ("ape", "bee", "cow", "dog"), seed=1)
    imagenet.prepare(src, tmp_path / "data", size=72, workers=1, progress=False)
    for command in (
        ("evaluate", tmp_path / "data", world.a),
        ("figure", "predictions", world.a, tmp_path / "data", "--out", tmp_path / "p.png"),
    ):
        message = (
            "was trained on 4 classes, the data have 4; only in the checkpoint: ant; only in the data: ape"
        )
        assert message in refused(*command)


def test_classes_that_differ_in_the_middle_are_named(world, tmp_path):
    """The first of both lists are the same, so naming those would not help."""
    src = class_folders(tmp_path / "src", ("ant", "bee", "cat", "dog"), seed=1)
    imagenet.prepare(src, tmp_path / "data", size=72, workers=1, progress=False)
    line = refused("evaluate", tmp_path / "data", world.a)
    assert "cow" in line
    assert "cat" in line


def compare_classes(names, classes):
    """As the commands do, for an imported network."""
    trained = SimpleNamespace(classes=tuple(names), pictures=True)
    common.same_classes("net", trained, SimpleNamespace(classes=tuple(classes)))


def test_names_that_go_on_after_the_data_s_are_theirs():
    """The lines of Caffe's synset_words.txt begin with the folders' names."""
    compare_classes(["n01440764 tench, Tinca tinca", "n01443537 goldfish"], ["n01440764", "n01443537"])
    compare_classes(["two words", "one"], ["two words", "one"])
    with pytest.raises(DataError, match="only in the data: n014"):
        compare_classes(["n01440764 tench, Tinca tinca", "n01443537 goldfish"], ["n014", "n01443537"])


@pytest.mark.parametrize("more", ["", " of two words"])
def test_classes_in_another_order_are_said_to_be(more):
    message = f"net: has the data's classes in another order: class 1 is 'cat{more}', in the data 'bee'"
    with pytest.raises(DataError, match=message):
        compare_classes([name + more for name in ("ant", "cat", "bee")], ["ant", "bee", "cat"])


def test_of_numbers_in_place_of_names_the_remedy_is_said():
    with pytest.raises(DataError, match=r"only in the data: ant, bee; .*`tinyalex import --classes`"):
        compare_classes("01", ["ant", "bee"])


def test_an_ensemble_runs_on_as_many_devices_as_each_network_can(world, tmp_path):
    """`half` has one tower: in the second place too."""
    done("train", world.data, tmp_path / "half", *SMALL, "--epochs", 1, "--preset", "half")
    assert "2 networks averaged" in done("evaluate", world.data, world.a, tmp_path / "half")


def test_names_that_go_on_after_the_datas_are_compared_by_their_first_word(world, tmp_path):
    """What is missing is named, not what only goes on."""
    trained = reading.load(Comm(Device("cpu:0")), run.checkpoints(world.a)[-1])
    trained = trained._replace(classes=("ant x", "bee y", "cow z", "dog"))
    common.same_classes("a", trained, open_data(world.data))
    data = open_data(world.data)._replace(classes=("ant", "bee", "cow"))
    with pytest.raises(DataError, match="only in the checkpoint: dog; only in the data: none"):
        common.same_classes("a", trained, data)


def test_a_run_without_a_checkpoint_goes_on_with_as_many_classes_only(world, tmp_path):
    """Else it would end with a network that nothing can evaluate."""
    src = class_folders(tmp_path / "src", ("ape", "bee"), seed=1)
    imagenet.prepare(src, tmp_path / "data", size=72, workers=1, progress=False)
    run.begin(tmp_path / "run", run.settings_of(world.a))
    line = refused("resume", tmp_path / "run", "--data", tmp_path / "data")
    assert "data: has 2 classes; fc8, the network's last layer, makes 4 outputs" in line


def test_an_index_that_is_damaged_is_named(world, tmp_path):
    """A folder that prepare made, whose index was cut short."""
    folder = tmp_path / "data"
    folder.mkdir()
    for file in world.data.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "index.json").unlink()
    (folder / "index.json").write_text((world.data / "index.json").read_text()[:50])
    assert "index.json" in refused("evaluate", folder, world.a)
    index = json.loads((world.data / "index.json").read_text())
    for splits in ({}, []):
        (folder / "index.json").write_text(json.dumps(index | {"splits": splits}))
        assert "expected a split 'train', found" in refused("evaluate", folder, world.a)


def test_paths_with_brackets_are_printed_whole(tmp_path):
    """The path is text, not a colour."""
    assert str(tmp_path / "[run]") in refused("resume", tmp_path / "[run]")
    assert "[/b]" in refused("evaluate", tmp_path / "run.safetensors", Path("[/b]"))


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "cp932", "ascii", "utf-8"])
def test_every_character_is_printed_somehow_in_any_encoding(encoding, monkeypatch):
    """Windows' pipes and files are cp1252: a table must not end in a UnicodeEncodeError."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    terminal.settle()
    text = "".join(terminal.SAID) + "⁶ ε 55×55 │ ─ ☃"
    print(text, end="")
    stream.flush()
    said = stream.buffer.getvalue().decode(encoding)
    if encoding == "utf-8":
        assert said == text
    if encoding == "ascii":
        assert said.endswith("^6 eps 55x55 ? ? ?")


def test_a_table_in_an_encoding_of_ascii_alone(tmp_path):
    """Also where no columns are said to be there."""
    command = [sys.executable, "-m", "tinyalex", "describe", "alexnet"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "COLUMNS": "0"}
    said = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=100).stdout
    assert b"48x55x55" in said
    assert b"10^6 bytes" in said
    said.decode("ascii")
