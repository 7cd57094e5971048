"""The command prepare: what it says of a source before it works and at the end, and how progress is shown."""

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_cli import done, refused

from tinyalex.cli import progress
from tinyalex.data import imagenet


def photographs(root, *folders, count=4):
    rng = np.random.default_rng(0)
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{k}.png")
    return root


def test_it_says_what_it_found_and_then_what_it_made(tmp_path):
    src, dst = photographs(tmp_path / "src", "cat", "dog"), tmp_path / "dst"
    (src / "cat" / "1.heic").touch()
    (src / "cat" / "0.png").write_bytes(b"not a picture")
    assert done("prepare", "pictures", src, dst, "--size", 32).splitlines() == [
        "train: 8 pictures of 2 classes: cat 4, dog 4",
        "passed over, HEIC, read where the package pillow-heif is installed: cat/1.heic",
        f"7 train pictures of 2 classes in {dst}",
        f"1 unreadable, skipped: {dst / 'unreadable.txt'}",
        "7 of 7 pictures were smaller than 32 pixels, and are enlarged: --size, --side",
        f"no validation pictures: put some in {src / 'val'}, or --val 0.1",
    ]


def test_a_part_is_held_out_and_imagenet_is_the_same_command(tmp_path):
    src = photographs(tmp_path / "src", "Training/cat", "Training/dog")
    for name in ("imagenet", "pictures"):
        said = done("prepare", name, src, tmp_path / name, "--size", 32, "--val", 0.25, "--seed", 3)
        assert said.splitlines() == [
            "train (in Training): 6 pictures of 2 classes: cat 3, dog 3",
            "val (held out): 2 pictures of 2 classes: cat 1, dog 1",
            f"6 train, 2 val pictures of 2 classes in {tmp_path / name}",
            "8 of 8 pictures were smaller than 32 pixels, and are enlarged: --size, --side",
        ]
    a, b = (imagenet.open(tmp_path / name, "val") for name in ("pictures", "imagenet"))
    assert [a[i].tobytes() for i in range(2)] == [b[i].tobytes() for i in range(2)]


def test_pictures_that_are_large_enough_are_not_called_enlarged(tmp_path):
    """Of 30 × 40 pixels: 30 is the side that counts, turned upright or not."""
    src = photographs(tmp_path / "src", "cat", "dog")
    assert imagenet.prepare(src, tmp_path / "a", size=30, workers=1).enlarged == 0
    assert "enlarged" not in done("prepare", "pictures", src, tmp_path / "b", "--size", 30)
    assert imagenet.prepare(src, tmp_path / "c", size=31, workers=1, whole=True).enlarged == 8


def test_one_class_is_told(tmp_path):
    said = done("prepare", "pictures", photographs(tmp_path / "src", "cat"), tmp_path / "dst", "--size", 32)
    assert "with one class there is nothing to tell apart" in said
    assert "pictures of 1 class in" in said


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("cifar10", "OUT"), "CIFAR-10 needs no preparing: tinyalex train cifar10 RUN"),
        (("pictures", "cifar10", "OUT"), "CIFAR-10 needs no preparing: tinyalex train cifar10 RUN"),
        (
            ("my photos", "OUT"),
            "found 'my photos'; for a folder of pictures: tinyalex prepare pictures 'my photos' OUT",
        ),
        (("folders", "OUT", "--val", "0.2"), "tinyalex prepare pictures folders OUT --val 0.2"),
        (("pictures", "{src}", "{src}/out"), "src/out: expected a folder outside of"),
        (
            ("pictures", "{src}", "OUT", "--val", "1.5"),
            "val=1.5: expected a share between 0 and 1, such as 0.1",
        ),
    ],
)
def test_one_line_says_what_to_type_instead(args, message, tmp_path):
    src = photographs(tmp_path / "src", "cat", "dog", count=1)
    assert message in refused("prepare", *(arg.format(src=src) for arg in args))


# ---- progress ----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("width", [120, 60, 44, 34])
def test_a_narrow_terminal_cuts_neither_the_count_nor_the_time_left(width, clock, monkeypatch):
    """The bar gives way, then the state goes to a line of its own; no line is longer than the terminal."""
    screen = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    monkeypatch.setattr(progress, "console", screen)
    with progress.Progress() as shown:
        shown.update("preparing", 1_000, 10_000)
        clock[0] += 60
        shown.update("preparing", 2_500, 10_000, "loss 0.693")
        (first, *rest), drawn = str(shown._drawn()).split("\n"), shown._drawn()
        assert first.startswith("preparing 2,500/10,000 ")
        assert "5:00 left" in first
        assert ("loss 0.693" in first) == (width >= 60)
        assert all(len(line) <= width for line in (first, *rest))
        assert ("─" in first) == (width >= 44)
        shown.print("above the bar")
        screen.print(drawn)
    assert "above the bar" in screen.file.getvalue()


def test_without_a_terminal_a_line_is_written_now_and_then(clock, capsys):
    """The first after five seconds, the next ones after ten each: with the time left, and on stderr alone."""
    with progress.Progress() as shown:
        for second in range(26):
            shown.update("listing", second)
            clock[0] += 1
        shown.update("training", 0, 100)
        clock[0] += 10
        shown.update("training", 1, 100, "loss 2.303")
        shown.update("training", 2, 100)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "listing 5", "listing 15", "listing 25", "training 1/100, 16:30 left, loss 2.303"
    ]  # fmt: skip


def test_durations_are_written_as_clocks_show_them():
    assert [progress.duration(s) for s in (7.4, 750, 11_100)] == ["0:07", "12:30", "3:05:00"]
