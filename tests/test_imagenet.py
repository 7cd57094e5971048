"""prepare() and the shards it writes: every kind of source and picture, kills, damage, and the messages."""

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps

from tinyalex.data import augment, imagenet, pictures
from tinyalex.data.imagenet import preparing, sources
from tinyalex.data.loader import Loader
from tinyalex.data.pictures import read_picture
from tinyalex.errors import ArgumentError, DataError
from tinyalex.files import lock

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet-sample"
CLASSES = ["n01", "n02", "n03"]
LOSSLESS = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}


def photo(seed, width=60, height=44):
    """A smooth RGB picture with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def folders(root, per_class=4, **size):
    """per_class JPEGs in each of three class folders."""
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            photo(100 * k + i, **size).save(root / name / f"{name}_{i}.JPEG", quality=95)
    return root


def prepare(src, dst, **changes):
    """A quick prepare: 32 pixels, one worker, silent.  Pictures, classes, and how many were unreadable."""
    return imagenet.prepare(src, dst, **({"size": 32, "workers": 1} | changes))[:3]


def hashes(folder):
    """The content of every file below a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def tar(path, members):
    """An uncompressed tar of (name, bytes)."""
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Train and val folders of three classes, 7 and 2 pictures each, with one damaged picture in train."""
    root = tmp_path_factory.mktemp("source")
    folders(root / "train", 7)
    folders(root / "val", 2)
    (root / "train" / "n02" / "broken.JPEG").write_bytes(b"not a picture")
    (root / "train" / "n02" / "notes.txt").write_text("passed over")
    return root


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    """The source above in shards of five. Not to be written to."""
    dst = tmp_path_factory.mktemp("prepared") / "made" / "here"
    assert prepare(source, dst, shard_size=5) == ({"train": 21, "val": 6}, 3, 1)
    return dst


@pytest.fixture
def copy(prepared, tmp_path):
    """A copy of the prepared folder to be damaged."""
    for path in prepared.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


# --- what is written ------------------------------------------------------------------------------------


def test_shards_hold_each_picture_once_with_its_label(source, prepared):
    """Every stored picture is the middle of exactly one source picture of its class."""
    for split in ("train", "val"):
        shards = imagenet.open(prepared, split)
        assert shards.classes == tuple(CLASSES)
        assert shards.labels.dtype == np.int64
        expected = {
            read_picture(p.read_bytes(), 32).tobytes(): CLASSES.index(p.parent.name)
            for p in (source / split).glob("*/n*.JPEG")
        }
        got = {shards[i].tobytes(): shards.labels[i] for i in range(len(shards))}
        assert len(got) == len(shards)
        assert got == expected
        assert shards[0].shape == (3, 32, 32)
        assert not shards[0].flags.writeable
        shards.verify()
        for i in (len(shards), -1):
            with pytest.raises(IndexError, match=f"picture {i} of {len(shards)}"):
                shards[i]


def test_pictures_of_all_classes_are_mixed(prepared):
    """No shard of five holds a single class, and another seed gives another order."""
    labels = imagenet.open(prepared).labels
    assert all(len(set(labels[i : i + 5])) > 1 for i in range(0, 20, 5))


def test_mean_and_covariance_are_those_of_the_train_split(prepared):
    """Exact sums from the shards: the same as NumPy's over all pictures at once."""
    shards = imagenet.open(prepared)
    pixels = np.stack([shards[i] for i in range(len(shards))])
    np.testing.assert_allclose(shards.mean, pixels.mean(0), rtol=1e-6)
    expected = np.cov(pixels.transpose(1, 0, 2, 3).reshape(3, -1), bias=True)
    np.testing.assert_allclose(shards.covariance, expected, rtol=1e-12)
    np.testing.assert_array_equal(imagenet.open(prepared, "val").mean, shards.mean)


def test_unreadable_pictures_are_listed_with_the_reason(prepared):
    """One line: split, picture, what the decoder said. Files that are no pictures are not mentioned."""
    expected = "train/n02/broken.JPEG\tUnidentifiedImageError: cannot identify image file\n"
    assert (prepared / "unreadable.txt").read_text() == expected


def test_the_result_does_not_depend_on_the_workers_and_nothing_is_left_over(source, prepared, tmp_path):
    """Three processes write the bytes that one wrote; a second call changes nothing; a third seed does."""
    prepare(source, tmp_path / "three", shard_size=5, workers=3)
    assert hashes(tmp_path / "three") == hashes(prepared)
    shards = [f"train-00{k}.npy" for k in range(5)] + ["val-000.npy", "val-001.npy"]
    others = ["index.json", "lock", "mean.npy", "train-labels.npy", "unreadable.txt", "val-labels.npy"]
    assert sorted(hashes(prepared)) == sorted(shards + others)
    assert prepare(source, tmp_path / "three", shard_size=5) == ({"train": 21, "val": 6}, 3, 1)
    assert hashes(tmp_path / "three") == hashes(prepared)
    prepare(source, tmp_path / "seed", shard_size=5, seed=1)
    assert (imagenet.open(tmp_path / "seed").labels != imagenet.open(prepared).labels).any()


def test_shards_feed_the_loader(prepared):
    """Crop, flip, noise and mean from what open() gives."""
    shards = imagenet.open(prepared)
    augmentation = augment.Augmentation(crop=28)
    with Loader(
        shards, 8, augmentation, train=True, mean=shards.mean, covariance=shards.covariance, epochs=3
    ) as loader:
        got = list(loader)
    assert [b.images.shape for b in got] == [(3, 28, 28, 8)] * 6
    assert abs(np.mean([b.images.mean() for b in got])) < 15
    ((images, _),) = Loader(shards, 32, augment.PLAIN, train=False, mean=shards.mean, threads=0)
    assert abs(images.mean(axis=3)).max() < 1e-3


# --- pictures -------------------------------------------------------------------------------------------


def encode(image, kind, **options):
    """The bytes of an image file."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def test_the_middle_of_a_picture_is_taken():
    """A 300 x 100 picture with a white middle third, and its turn: only white remains."""
    stripes = np.zeros((100, 300), np.uint8)
    stripes[:, 100:200] = 255
    for pixels in (stripes, stripes.T):
        got = read_picture(encode(Image.fromarray(pixels), "PNG"), 64)
        assert got.shape == (3, 64, 64)
        assert got.dtype == np.uint8
        assert (got[:, 8:-8, 8:-8] == 255).all()


@pytest.mark.parametrize(("width", "height"), [(500, 375), (75, 56), (256, 256), (1200, 900), (1, 1)])
def test_shorter_side_to_256_then_centre_crop(width, height):
    """The paper's two steps done one after the other give the same picture, to the rounding of the sides.

    1200 x 900 is decoded at half its size: still the same picture, to a few grey levels.
    """
    image = photo(1, width, height)
    got = read_picture(encode(image, "JPEG", quality=98))
    scale = 256 / min(width, height)
    steps = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    left, top = (steps.width - 256) // 2, (steps.height - 256) // 2
    steps = np.asarray(steps.crop((left, top, left + 256, top + 256)), int).transpose(2, 0, 1)
    assert abs(got - steps).mean() < 2


def test_grey_cmyk_palette_alpha_and_16_bit_pictures_become_rgb():
    """One colour in each kind of file comes out as that colour."""
    size = (40, 30)
    rgb = Image.new("RGB", size, (200, 100, 50))
    deep = Image.fromarray(np.full(size[::-1], 200 * 257, np.uint16))
    clear = Image.new("RGBA", size, (200, 100, 50, 0))
    half = Image.new("LA", size, (0, 127))
    palette = clear.convert("P")
    palette.info["transparency"] = 0
    cases = [
        (encode(rgb, "PNG"), (200, 100, 50)),
        (encode(Image.new("L", size, 77), "JPEG"), (77, 77, 77)),
        (encode(Image.new("1", size, 1), "PNG"), (255, 255, 255)),
        (encode(rgb.convert("CMYK"), "JPEG", quality=95), (200, 100, 50)),
        (encode(rgb.quantize(4), "PNG"), (200, 100, 50)),
        (encode(rgb.quantize(4), "GIF"), (200, 100, 50)),
        (encode(deep, "PNG"), (200, 200, 200)),
        (encode(deep, "TIFF"), (200, 200, 200)),
        (encode(rgb.convert("RGBA"), "PNG"), (200, 100, 50)),
        (encode(clear, "PNG"), (255, 255, 255)),
        (encode(half, "PNG"), (128, 128, 128)),
        (encode(Image.new("P", size, 0), "PNG", transparency=0), (255, 255, 255)),
        (encode(rgb, "BMP"), (200, 100, 50)),
    ]
    for data, colour in cases:
        got = read_picture(data, 16)
        assert got.shape == (3, 16, 16)
        np.testing.assert_allclose(got, np.broadcast_to(np.reshape(colour, (3, 1, 1)), got.shape), atol=3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_photographs_are_turned_upright_unless_asked_not_to(kind):
    """All eight orientations: the picture that Pillow's exif_transpose makes, or the pixels as stored."""
    image = photo(2, 60, 32)  # nothing is scaled: not a pixel may differ
    stored = read_picture(encode(image, kind, **LOSSLESS.get(kind, {})), 32)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(image, kind, exif=exif, **LOSSLESS.get(kind, {}))
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        expected = read_picture(encode(upright, "PNG"), 32, exif=False)
        np.testing.assert_array_equal(read_picture(data, 32), expected)
        np.testing.assert_array_equal(read_picture(data, 32, exif=False), stored)


def test_a_damaged_exif_block_does_not_spoil_a_picture():
    data = encode(photo(2), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read_picture(data, 32), read_picture(data, 32, exif=False))


def test_what_pillow_reads_is_read():
    """By the suffixes that its registry knows, without those whose files run programs or have no decoder."""
    suffixes = pictures.formats()[1]
    assert {".jpg", ".jfif", ".ppm", ".pgm", ".jp2", ".webp", ".tif", ".tga", ".mpo", ".bmp"} <= suffixes
    assert not {".eps", ".ps", ".wmf", ".pdf", ".mpg", ".h5", ".heic", ".txt"} & suffixes
    for kind in ("PPM", "TGA", "PCX", "SGI", "ICO"):
        got = read_picture(encode(Image.new("RGB", (64, 64), (200, 100, 50)), kind), 16)
        np.testing.assert_array_equal(got[:, 8, 8], (200, 100, 50))
    if ".avif" in suffixes:
        got = read_picture(encode(Image.new("RGB", (64, 64), (200, 100, 50)), "AVIF"), 16)
        np.testing.assert_allclose(got[:, 8, 8], (200, 100, 50), atol=4)


def tiff(levels, bits, sample_format, photometric=1):
    """A grey TIFF, written out by hand: its pixels little-endian, behind one directory."""
    height, width = levels.shape
    tags = [
        (256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1),
        (278, height), (279, levels.nbytes), (339, sample_format),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    pixels = levels.tobytes()
    head = struct.pack("<2sHI", b"II", 42, 8 + len(pixels))
    return head + pixels + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def test_grey_levels_count_to_the_largest_that_their_bits_allow():
    """16 bits to 65535, also where white is 0; what has no known range is refused, never guessed."""
    ramp = np.linspace(0, 65535, 32, dtype=np.uint16)[None].repeat(32, 0)
    expected = (ramp // 257).astype(int)
    for data in (
        tiff(ramp, 16, 1),
        tiff(65535 - ramp, 16, 1, photometric=0),
        encode(Image.fromarray(ramp), "PNG"),
        b"P5 32 32 65535\n" + ramp.astype(">u2").tobytes(),  # PGM: big-endian
    ):
        np.testing.assert_array_equal(read_picture(data, 32)[0], expected)
    deep = ramp.astype("<i4")
    for levels, kind in ((deep, 2), (deep // 257, 2), (deep.view("<u4"), 1), (ramp.view("<i2"), 2)):
        with pytest.raises(ValueError, match="signed or 32-bit integers, whose range is not known"):
            read_picture(tiff(levels, 8 * levels.itemsize, kind), 32)


def test_one_clear_line_says_what_is_wrong_with_a_file(tmp_path):
    """No object's address, no errno: what predict prints."""
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    os.mkfifo(tmp_path / "pipe.png")
    for name, why in (
        ("bad.png", "cannot identify image file"),
        ("none.png", "No such file or directory"),
        ("", "found a folder"),
        ("pipe.png", "found no regular file"),
    ):
        with pytest.raises(DataError) as error:
            pictures.read_file(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: expected a picture: {why}"


def test_damaged_pictures_and_decompression_bombs_raise(monkeypatch):
    """Cut short, no picture at all, too many pixels, or pixels without a range."""
    data = encode(photo(3, 300, 200), "JPEG")
    with pytest.raises(OSError, match="truncated"):
        read_picture(data[: len(data) // 2])
    with pytest.raises(PIL.UnidentifiedImageError):
        read_picture(data[200:])
    with pytest.raises(ValueError, match="floating-point pixels"):
        read_picture(encode(Image.new("F", (9, 9)), "TIFF"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 59_999)  # a warning of Pillow's: it refuses twice as many
    with pytest.raises(Image.DecompressionBombWarning, match="60000 pixels"):
        read_picture(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29_999)
    with pytest.raises(Image.DecompressionBombError, match="60000 pixels"):
        read_picture(data)


# --- sources --------------------------------------------------------------------------------------------


def labels_of(entries):
    """{name of the file: class}."""
    return {os.path.basename(e.name): e.label for e in entries}


def source_of(root, *names):
    """Files of one byte; a name that ends in / is an empty folder."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).mkdir(parents=True) if name.endswith("/") else (root / name).write_bytes(b"x")
    return root


def splits_of(*splits, classes=("cat", "dog")):
    return [f"{split}/{name}/{split}-{name}.jpg" for split in splits for name in classes]


def names_of(found):
    """{split: [names of the pictures' files]}."""
    return {split: [os.path.basename(e.name) for e in entries] for split, entries in found.splits.items()}


def test_any_folder_of_class_folders_is_a_train_split(tmp_path):
    """Pictures of any kind and depth; all that is passed over is told, each kind with its reason."""
    source_of(
        tmp_path, "cats/a.png", "cats/deep/b.JPG", "dogs/c.webp", "dogs/d.jfif", "dogs/.hidden.png", "e.jpg",
        "dogs/readme.md", "dogs/IMG_1.HEIC", "dogs/noext", "@eaDir/x.jpg", "cats/Thumbs.db", "empty/",
    )  # fmt: skip
    os.mkfifo(tmp_path / "cats" / "pipe.jpg")
    found = imagenet.find_pictures(tmp_path)
    assert list(found.splits) == ["train"]
    assert labels_of(found.splits["train"]) == {
        "a.png": "cats", "b.JPG": "cats", "c.webp": "dogs", "d.jfif": "dogs"
    }  # fmt: skip
    assert [e.name for e in found.splits["train"]] == [
        "cats/a.png", "cats/deep/b.JPG", "dogs/c.webp", "dogs/d.jfif"
    ]  # fmt: skip
    assert list(found.lines()) == [
        "train: 4 pictures of 2 classes: cats 2, dogs 2",
        "passed over, HEIC, read where the package pillow-heif is installed: dogs/IMG_1.HEIC",
        "passed over, folders without pictures: empty",
        "passed over, hidden or a system's own: @eaDir, cats/Thumbs.db, dogs/.hidden.png",
        "passed over, no regular files: cats/pipe.jpg",
        "passed over, not a picture that Pillow reads, .md: dogs/readme.md",
        "passed over, not a picture that Pillow reads, no suffix: dogs/noext",
        "passed over, pictures beside the folders: e.jpg",
    ]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train", "val"), ("Train", "Val"), ("training", "testing"), ("TRAIN", "valid"),
        ("train", "Validation"), ("train", "dev"), ("training_set", "test_set"),
        ("train2017", "val2017"), ("train", "test"),
    ],
)  # fmt: skip
def test_splits_are_known_by_their_usual_names(train, val, tmp_path):
    source_of(tmp_path, *splits_of(train, val))
    found = imagenet.find_pictures(tmp_path)
    assert found.places == {"train": train, "val": val}
    assert names_of(found) == {
        "train": [f"{train}-cat.jpg", f"{train}-dog.jpg"], "val": [f"{val}-cat.jpg", f"{val}-dog.jpg"]
    }  # fmt: skip
    assert not found.passed


def test_many_classes_are_counted_not_named(tmp_path):
    root = source_of(tmp_path, *(f"{name}/1.jpg" for name in "abcdefghijk"))
    assert list(imagenet.find_pictures(root).lines()) == ["train: 11 pictures of 11 classes, 1 of each"]
    source_of(root, "a/2.jpg", "a/3.jpg")
    assert list(imagenet.find_pictures(root).lines()) == ["train: 13 pictures of 11 classes, 1 to 3 of each"]


def test_what_is_beside_the_splits_is_told(tmp_path):
    """A third split, test pictures without classes, and folders of another name."""
    source_of(tmp_path / "a", *splits_of("train", "valid", "Test"), "other/1.jpg")
    assert list(imagenet.find_pictures(tmp_path / "a").lines()) == [
        "train: 2 pictures of 2 classes: cat 1, dog 1",
        "val (in valid): 2 pictures of 2 classes: cat 1, dog 1",
        "passed over, folders beside train, valid: other (1 picture)",
        "passed over, not used, as there is another validation split: Test (2 pictures)",
    ]
    source_of(tmp_path / "b", *splits_of("train"), "test/1.jpg", "test/2.jpg")
    found = imagenet.find_pictures(tmp_path / "b")
    assert list(found.splits) == ["train"]
    assert found.passed == {"not used, without classes": ["test (2 pictures)"]}
    source_of(tmp_path / "c", "training_set/training_set/cat/1.jpg", "training_set/training_set/dog/1.jpg")
    assert imagenet.find_pictures(tmp_path / "c").classes == ["cat", "dog"]
    source_of(tmp_path / "d", "bus/1.jpg", "car/1.jpg", "train/1.jpg")
    assert imagenet.find_pictures(tmp_path / "d").classes == ["bus", "car", "train"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (splits_of("ILSVRC2012/train", "ILSVRC2012/val"), "found ILSVRC2012; give {}/ILSVRC2012"),
        (splits_of("a/b/Training", "a/b/Test"), "give {}/a/b"),
        (splits_of("all"), "found only folders in all: cat, dog; give {}/all"),
        (
            splits_of("fold1", "fold2"),
            "only folders in fold1, fold2: cat, dog; give one of {}/fold1, {}/fold2",
        ),
        (
            splits_of("cat", "dog", classes=("train", "test")),
            "are splits (cat/test): expected {}/train/CLASS",
        ),
        ([*splits_of("val"), "cat/1.jpg", "dog/1.jpg"], "val beside cat, dog: splits or classes?"),
        (["cat/1.jpg", "dog/1.jpg", "test/1.jpg"], "test beside cat, dog: splits or classes?"),
        (
            [*splits_of("backup"), "cat/1.jpg", "dog/1.jpg"],
            "backup: its folders are called as the classes beside",
        ),
        ([*splits_of("train", "val"), "dev/cat/1.jpg"], "expected one folder for val, found dev, val"),
        (
            ["train/1.jpg", "val/2.jpg"],
            "/train: expected pictures in a folder for each class, found 1 picture str",
        ),
        (["train/images/1.jpg", "train/labels/1.txt"], "/train/images: expected a folder for each class"),
        (["1.jpg", "2.jpg"], "expected pictures in a folder for each class, found 2 pictures straight in it"),
        (["a/1.heic", "b/1.txt"], "found none that Pillow reads; passed over, HEIC, read where the package"),
    ],
)
def test_folders_that_are_no_classes_are_refused_with_the_path_to_give(files, message, tmp_path):
    """No split becomes a class, and train and validation pictures are never mixed."""
    source_of(tmp_path, *files)
    with pytest.raises(DataError) as error:
        imagenet.find_pictures(tmp_path)
    assert message.replace("{}", str(tmp_path)) in str(error.value)


def test_links_count_as_what_they_lead_to_but_only_once(tmp_path):
    """A folder and a file elsewhere count; what leads nowhere, up, into a class or to its picture is told."""
    root = source_of(tmp_path / "src", "cat/1.jpg", "dog/1.jpg", "dog/sub/2.jpg")
    source_of(tmp_path / "more", "3.jpg", "deep/4.jpg")
    source_of(tmp_path, "5.jpg")
    links = {
        "cat/more": tmp_path / "more", "cat/five.jpg": tmp_path / "5.jpg", "cat/gone.jpg": "nowhere.jpg",
        "cat/dog": "../dog", "cat/sub": "../dog/sub", "dog/up": "../..", "dog/loop": "loop", "val": "cat",
        "dog/same.jpg": "../cat/1.jpg",
    }  # fmt: skip
    for path, target in links.items():
        (root / path).symlink_to(target)
    os.link(root / "cat" / "1.jpg", root / "dog" / "hard.jpg")
    found = imagenet.find_pictures(root)
    assert [e.name for e in found.splits["train"]] == [
        "cat/1.jpg", "cat/five.jpg", "cat/more/3.jpg", "cat/more/deep/4.jpg", "dog/1.jpg", "dog/sub/2.jpg"
    ]  # fmt: skip
    assert found.passed == {
        "links that lead nowhere": ["cat/gone.jpg", "dog/loop"],
        "links to what is listed already": [
            "cat/dog", "cat/sub", "dog/hard.jpg", "dog/same.jpg", "dog/up", "val"
        ],
    }  # fmt: skip


def test_a_part_of_each_class_is_held_out(tmp_path):
    """Drawn from the seed, a tenth of each class but at least one; never all; each picture in one split."""
    counts = {"cat": 40, "dog": 3, "owl": 1}
    source_of(tmp_path, *(f"{name}/{i}.jpg" for name, n in counts.items() for i in range(n)))
    found = imagenet.find_pictures(tmp_path)
    first, again, other = (sources.hold_out(found, 0.1, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.splits["val"] != other.splits["val"]
    held = [e.label for e in first.splits["val"]]
    assert {name: held.count(name) for name in counts} == {"cat": 4, "dog": 1, "owl": 0}
    assert sorted(first.splits["train"] + first.splits["val"]) == found.splits["train"]
    assert "val (held out): 5 pictures of 2 classes: cat 4, dog 1" in first.lines()
    with pytest.raises(ValueError, match=r"val=0\.1: there are validation pictures already"):
        sources.hold_out(first, 0.1)
    for share in (0, 1, -1, 2, float("nan")):
        with pytest.raises(ValueError, match="expected a share between 0 and 1"):
            sources.hold_out(found, share)
    alone = imagenet.find_pictures(source_of(tmp_path / "x", "a/1.jpg", "b/1.jpg"))
    with pytest.raises(DataError, match="expected a class of two pictures or more"):
        sources.hold_out(alone, 0.5)


def test_held_out_pictures_are_val_with_the_classes_of_train(tmp_path):
    src = folders(tmp_path / "src", 4)
    (src / "n03" / "n03_0.JPEG").replace(tmp_path / "one.JPEG")
    shutil.rmtree(src / "n03")
    (src / "n03").mkdir()
    (tmp_path / "one.JPEG").replace(src / "n03" / "one.JPEG")
    assert prepare(src, tmp_path / "dst", val=0.25) == ({"train": 7, "val": 2}, 3, 0)
    train, val = imagenet.open_all(tmp_path / "dst").values()
    assert train.classes == val.classes == tuple(CLASSES)
    assert sorted(val.labels) == [0, 1]
    with pytest.raises(DataError, match=r"was begun with val 0\.25, now 0\.5"):
        prepare(src, tmp_path / "dst", val=0.5)


def test_names_of_every_kind_come_through(tmp_path):
    """Emoji, a line's end, and bytes that are no text: as classes, and printable wherever they are listed."""
    src = folders(tmp_path / "src", 2)
    names = ["\U0001f600", "a\nb", os.fsdecode(b"\xff")]
    for old, new in zip(CLASSES, names, strict=True):
        (src / old).rename(src / new)
        (src / new / f"{new}\t.png").write_bytes(b"no")
    said = []
    prepare(src, tmp_path / "dst", report=lambda found: said.extend(found.lines()))
    assert imagenet.open(tmp_path / "dst").classes == tuple(sorted(names))
    assert said[0] == "train: 9 pictures of 3 classes: a\\nb 3, \\udcff 3, \U0001f600 3"
    listed = (tmp_path / "dst" / "unreadable.txt").read_text(encoding="utf-8").splitlines()
    shown = ["\\udcff", "a\\nb", "\U0001f600"]
    assert [line.split("\t")[0] for line in listed] == [f"train/{name}/{name}\\t.png" for name in shown]


def test_pictures_of_ilsvrc_are_not_turned_and_others_are(tmp_path):
    """By the names of the classes, or as asked."""
    stripes = Image.fromarray(np.repeat(np.arange(0, 256, 8, np.uint8), 32).reshape(32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, turned, asked in (("cat", True, None), ("n01440764", False, None), ("n01440764", True, True)):
        src = tmp_path / f"{name}{asked}"
        (src / name).mkdir(parents=True)
        stripes.save(src / name / "1.jpg", exif=exif)
        prepare(src, tmp_path / "out" / src.name, exif=asked)
        picture = imagenet.open(tmp_path / "out" / src.name)[0][0].astype(int)
        assert (abs(picture[0] - picture[-1]).max() < 30) == turned


def flat_val(root, n=4):
    """ILSVRC2012_val_0000000i.JPEG straight in val/."""
    (root / "val").mkdir(parents=True)
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, n + 1)]
    for i, name in enumerate(names):
        photo(500 + i).save(root / "val" / name)
    return names


def test_flat_val_takes_its_classes_from_val_txt(tmp_path):
    """One line a picture, in any order."""
    names = flat_val(tmp_path)
    lines = [f"{name} {wnid}\n" for name, wnid in zip(names, ["n02", "n01", "n03", "n01"], strict=True)]
    (tmp_path / "val.txt").write_text("".join(reversed(lines)))
    assert list(labels_of(imagenet.find_pictures(tmp_path).splits["val"]).values()) == [
        "n02",
        "n01",
        "n03",
        "n01",
    ]
    (tmp_path / "val.txt").write_text("".join(lines[:2]))
    with pytest.raises(DataError, match=rf"val.txt: no class for {names[2]}, {names[3]}"):
        imagenet.find_pictures(tmp_path)
    (tmp_path / "val.txt").write_text(f"{names[0]} 65\n")
    with pytest.raises(
        DataError, match=rf"val.txt: line 1: .* class a name such as .*, not a number, found '{names[0]} 65'"
    ):
        imagenet.find_pictures(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("val.txt", "{0} n01\n{1} n02\n"),
        ("val.txt", "val/{0} n01\r\nval\\{1} n02\r\n"),
        ("val.txt", "{0}\tn01\n\n{1}\tn02"),
        ("val/val_annotations.txt", "{0}\tn01\t0\t32\t44\t62\n{1}\tn02\t0\t32\t44\t62\n"),
        (
            "LOC_val_solution.csv",
            "ImageId,PredictionString\n{2},n01 85 1 499 272 n01 1 2 3 4\n{3},n02 1 2 3 4\n",
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_files_of_classes_as_editors_and_other_programs_write_them(name, text, encoding, tmp_path):
    names = flat_val(tmp_path, 2)
    text = text.format(*names, *(os.path.splitext(name)[0] for name in names))
    (tmp_path / name).write_bytes(text.encode(encoding))
    found = imagenet.find_pictures(tmp_path)
    assert labels_of(found.splits["val"]) == dict(zip(names, ["n01", "n02"], strict=True))
    assert not found.passed


def test_two_classes_for_a_picture_are_refused(tmp_path):
    names = flat_val(tmp_path, 1)
    (tmp_path / "val.txt").write_text(f"{names[0]} n01\nval/{names[0]} n02\n")
    with pytest.raises(DataError, match=r"val\.txt: line 2: another class for ILSVRC.*, 'n02', than before"):
        imagenet.find_pictures(tmp_path)
    (tmp_path / "val.txt").rename(tmp_path / "val_annotations.txt").write_text(names[0])
    with pytest.raises(DataError, match=r"val_annotations\.txt: line 1: expected \"picture\.JPEG class\""):
        imagenet.find_pictures(tmp_path)


def test_tiny_imagenet_is_read_as_it_comes(tmp_path):
    """train/<wnid>/images, val/images with val_annotations.txt; test has no classes."""
    wnids = ["n01443537", "n01629819"]
    source_of(
        tmp_path, *(f"train/{w}/images/{w}_{i}.JPEG" for w in wnids for i in range(3)),
        "test/images/t.JPEG", *(f"train/{w}/{w}_boxes.txt" for w in wnids), "wnids.txt",
        *(f"val/images/val_{i}.JPEG" for i in (0, 1)),
    )  # fmt: skip
    lines = "".join(f"val_{i}.JPEG\t{w}\t0\t32\t44\t62\n" for i, w in enumerate(wnids))
    (tmp_path / "val" / "val_annotations.txt").write_text(lines)
    found = imagenet.find_pictures(tmp_path)
    assert found.ilsvrc
    assert found.classes == wnids
    assert [len(entries) for entries in found.splits.values()] == [6, 2]
    assert labels_of(found.splits["val"]) == {"val_0.JPEG": wnids[0], "val_1.JPEG": wnids[1]}
    assert found.passed["not used, as there is another validation split"] == ["test (1 picture)"]


def test_flat_val_takes_its_classes_from_the_devkit_and_a_list_of_synsets(tmp_path):
    """Ids count from 1 in the order of the list, which is not the alphabetical one."""
    flat_val(tmp_path)
    with pytest.raises(
        DataError, match=r"no class folders; expected val\.txt or ILSVRC2012_validation_ground"
    ):
        imagenet.find_pictures(tmp_path)
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    truth = data / sources.TRUTH
    truth.write_text("3\n1\n2\n3\n")
    with pytest.raises(DataError, match=r"its ids need synsets\.txt beside it"):
        imagenet.find_pictures(tmp_path)
    synsets = "n03 kit fox, Vulpes macrotis\nn01 setter\nn02 husky\n"
    (tmp_path / "synsets.txt").write_text(synsets, encoding="utf-8-sig")
    assert list(labels_of(imagenet.find_pictures(tmp_path).splits["val"]).values()) == [
        "n02",
        "n03",
        "n01",
        "n02",
    ]
    truth.write_text("3\n1\n2\n")
    with pytest.raises(DataError, match="expected 4 ids, one a picture of val, found 3"):
        imagenet.find_pictures(tmp_path)
    truth.write_text("3\n1\n2\n4\n")
    with pytest.raises(DataError, match="line 4: expected an id from 1 to 3, found '4'"):
        imagenet.find_pictures(tmp_path)
    (tmp_path / "synsets.txt").write_text("".join(f"n{i:08d}\n" for i in range(1000)))
    with pytest.raises(DataError, match=r"is in alphabetical order, expected the order of meta\.mat"):
        imagenet.find_pictures(tmp_path)


def test_the_tars_as_distributed_are_read_in_place(tmp_path):
    """A tar of one tar a class and a flat tar of val give the shards that folders give."""
    (tmp_path / "folders").mkdir()
    train = folders(tmp_path / "folders" / "train")
    val = folders(tmp_path / "folders" / "val", 1)
    tars = tmp_path / "tars"
    tars.mkdir()
    members = []
    for c in CLASSES:
        path = tar(tmp_path / "x.tar", [(p.name, p.read_bytes()) for p in sorted((train / c).iterdir())])
        members.append((f"{c}.tar", path.read_bytes()))
    tar(tars / "ILSVRC2012_img_train.tar", [("README", b"of the classes"), *members])
    pictures = sorted(val.glob("*/*.JPEG"))
    beside = [("README.txt", b"of the pictures"), ("._1.JPEG", b"another system's")]
    tar(tars / "ILSVRC2012_img_val.tar", [*beside, *((p.name, p.read_bytes()) for p in pictures)])
    (tars / "val.txt").write_text("".join(f"{p.name} {p.parent.name}\n" for p in pictures))
    assert prepare(tars, tmp_path / "a") == prepare(tmp_path / "folders", tmp_path / "b")
    for split in ("train", "val"):
        a, b = imagenet.open(tmp_path / "a", split), imagenet.open(tmp_path / "b", split)
        assert a.classes == b.classes
        assert all((a[i] == b[i]).all() for i in range(len(a)))
        np.testing.assert_array_equal(a.labels, b.labels)
    alone = imagenet.find_pictures(tars / "ILSVRC2012_img_train.tar")
    assert {split: len(entries) for split, entries in alone.splits.items()} == {"train": 12}
    alone = imagenet.find_pictures(tars / "ILSVRC2012_img_val.tar")  # with the classes beside it
    assert {split: len(entries) for split, entries in alone.splits.items()} == {"val": 3}
    whole = (tars / "ILSVRC2012_img_train.tar").read_bytes()
    (tars / "ILSVRC2012_img_train.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"img_train\.tar: expected a whole, uncompressed tar file"):
        imagenet.find_pictures(tars)


def test_what_is_a_picture_in_a_tar_and_where_it_lies(tmp_path, monkeypatch):
    """Folders, links, hidden and other files are none, nor is a folder a tar; names may have folders.

    Of two tars of train, as ILSVRC has them, the first is read.
    """

    def beside(path, members, **others):
        """A tar, and in it what is no file, by its type."""
        with tarfile.open(tar(path, members), "a") as archive:
            for name, kind in others.items():
                info = tarfile.TarInfo(name.replace("_", "."))
                info.type, info.linkname = kind, members[0][0]
                archive.addfile(info)
        return path

    pictures = [("a/2.jpg", b"two"), ("a/1.JPEG", b"first"), ("a/._1.JPEG", b"not"), ("a/1.txt", b"one")]
    inner = beside(tmp_path / "x", pictures, dir_JPEG=tarfile.DIRTYPE, link_JPEG=tarfile.SYMTYPE)
    src = tmp_path / "train and val"
    (src / "a train folder.tar").mkdir(parents=True)
    (src / "more").mkdir()
    (src / "more" / "1.JPEG").touch()
    classes = [(f"train/{name}.tar", inner.read_bytes()) for name in ("dog", "cat")]
    tar(src / "img_train_t3.tar", [("dogs.tar", inner.read_bytes())])
    beside(src / "img_train.tar", classes, cow_tar=tarfile.DIRTYPE)
    tar(src / "img_val.tar", [("val/1.JPEG", b"val"), ("val/2.JPEG", b"2")])
    (src / "val.txt").write_text("1.JPEG cat\n2.JPEG dog\n")
    monkeypatch.chdir(tmp_path)
    found = imagenet.find_pictures(src.name)
    monkeypatch.chdir("/")
    assert [(e.name, e.label, e.read()) for split in ("train", "val") for e in found.splits[split]] == [
        ("cat/a/1.JPEG", "cat", b"first"), ("cat/a/2.jpg", "cat", b"two"),
        ("dog/a/1.JPEG", "dog", b"first"), ("dog/a/2.jpg", "dog", b"two"),
        ("val/1.JPEG", "cat", b"val"), ("val/2.JPEG", "dog", b"2"),
    ]  # fmt: skip
    assert found.ilsvrc  # by its tars
    assert found.passed["folders beside the tars"] == ["more (1 picture)"]
    assert found.passed["not a picture that Pillow reads, .tar"] == ["img_train_t3.tar"]


@pytest.mark.parametrize("name", ["train.tar", "val.tar"])
def test_a_compressed_tar_is_refused(name, tmp_path):
    """Its pictures lie nowhere in it."""
    path = tar(tmp_path / "x.tar", [("n00000001.tar", tar(tmp_path / "y", [("1.JPEG", b"x")]).read_bytes())])
    (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{name}: expected a whole, uncompressed tar file, found"):
        imagenet.find_pictures(tmp_path / name)
    inner = tar(tmp_path / "train.tar", [("n00000001.tar", gzip.compress(path.read_bytes()))])
    with pytest.raises(DataError, match=r"train\.tar: expected a whole, uncompressed tar file, found"):
        imagenet.find_pictures(inner)


def test_paths_hold_wherever_the_program_goes(tmp_path, monkeypatch):
    """Relative ones, of a source and of shards."""
    folders(tmp_path / "src", 2)
    monkeypatch.chdir(tmp_path)
    found, _ = imagenet.find_pictures("src"), prepare("src", "dst")
    shards = imagenet.open("dst")
    monkeypatch.chdir("/")
    assert shards[0].shape == (3, 32, 32)
    assert found.splits["train"][0].read()


def test_what_was_found_is_reported_first_and_progress_to_the_end(source, tmp_path):
    seen = []
    prepare(
        source, tmp_path / "dst", shard_size=5,
        report=lambda found: seen.append((tmp_path / "dst").exists()),
        progress=lambda *now: seen.append(now),
    )  # fmt: skip
    listed = seen.index(False)
    assert seen[listed - 1] == ("listing the pictures", 28, None)
    assert seen[listed + 1 :] == sorted(seen[listed + 1 :])
    assert (seen[listed + 1], seen[-1]) == (("preparing", 0, 28), ("preparing", 28, 28))


def test_more_shards_than_files_may_be_open(tmp_path):
    """One picture a shard: 30 shards, and room for 20 more open files."""
    resource = pytest.importorskip("resource")
    src = folders(tmp_path / "src", 10)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, before[1]))
    try:
        assert prepare(src, tmp_path / "dst", shard_size=1) == ({"train": 30}, 3, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_by_default_as_many_processes_as_this_one_may_use_cores(source, tmp_path, monkeypatch):
    """A process that is bound to one core starts one, whatever the machine has."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    started = []

    class Pool(preparing.ProcessPoolExecutor):
        def __init__(self, workers, *args):
            started.append(workers)
            super().__init__(workers, *args)

    monkeypatch.setattr(preparing, "ProcessPoolExecutor", Pool)
    prepare(source, tmp_path / "dst", shard_size=5, workers=None)
    assert started == [1]


def test_a_source_with_val_alone_is_its_own_mean(tmp_path):
    """Enough to evaluate weights made elsewhere."""
    folders(tmp_path / "src" / "val", 2)
    assert prepare(tmp_path / "src", tmp_path / "dst") == ({"val": 6}, 3, 0)
    shards = imagenet.open(tmp_path / "dst", "val")
    np.testing.assert_allclose(shards.mean, np.mean([shards[i] for i in range(6)], axis=0), rtol=1e-6)
    with pytest.raises(DataError, match="expected a split 'train', found val"):
        imagenet.open(tmp_path / "dst")


def test_what_is_no_source_is_refused(tmp_path):
    """Missing, an archive, CIFAR-10, and classes of val that train does not have."""
    with pytest.raises(DataError, match="no such file or folder"):
        imagenet.find_pictures(tmp_path / "nowhere")
    (tmp_path / "data.zip").write_bytes(b"PK")
    with pytest.raises(
        DataError, match="expected a folder of class folders or an ImageNet tar, found neither"
    ):
        imagenet.find_pictures(tmp_path / "data.zip")
    (tmp_path / "train.tar").write_bytes(bytes(10240))
    with pytest.raises(DataError, match=r"train\.tar: expected a tar of tars, .*, found none"):
        imagenet.find_pictures(tmp_path)
    with pytest.raises(DataError, match="CIFAR-10 needs no preparing: tinyalex train cifar10 RUN"):
        imagenet.find_pictures("cifar10")
    (tmp_path / "train.tar").unlink()
    folders(tmp_path / "train", 1)
    folders(tmp_path / "val", 1)
    (tmp_path / "val" / "n03").rename(tmp_path / "val" / "n04")
    with pytest.raises(DataError, match="same classes, but val lacks n03 and adds n04"):
        imagenet.find_pictures(tmp_path)


# --- destinations ---------------------------------------------------------------------------------------


def test_a_destination_begun_otherwise_is_refused(source, prepared, tmp_path):
    """Other arguments, other pictures, other files: the message says what differs, and nothing is written."""
    before = hashes(prepared)
    with pytest.raises(DataError, match=r"was begun with size 32, now 48; seed 0, now 3; .*\. Delete it"):
        prepare(source, prepared, shard_size=5, size=48, seed=3)
    other = folders(tmp_path / "other", 3)
    with pytest.raises(DataError, match=r"pictures \{'train': 22, 'val': 6\}, now \{'train': 9\}; listing"):
        prepare(other, prepared, shard_size=5)
    assert hashes(prepared) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tmp").write_text("mine")
    with pytest.raises(
        DataError, match=r"expected an empty folder or one begun by prepare, found thesis\.tmp"
    ):
        prepare(other, tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tmp"]
    with pytest.raises(DataError, match=r"thesis\.tmp: expected a folder, found a file"):
        prepare(other, tmp_path / "full" / "thesis.tmp")
    for inside in (other, other / "n01" / "new"):
        with pytest.raises(
            DataError, match=r"expected a folder outside of .*other, in which the pictures are"
        ):
            prepare(other, inside)
    assert not (other / "n01" / "new").exists()
    with pytest.raises(ValueError, match="size=0, shard_size=None: expected at least 1"):
        prepare(other, tmp_path / "new", size=0)


def test_a_shard_of_mostly_unreadable_pictures_stops_the_run(tmp_path):
    """A disk that went away must not look like a finished data set; when it is back the run goes on."""
    src, dst = folders(tmp_path / "src", 2), tmp_path / "dst"
    good = {p: p.read_bytes() for p in src.glob("*/*.JPEG")}
    for path, data in good.items():
        path.write_bytes(bytes(len(data)))
    with pytest.raises(DataError, match=r"6 of 6 pictures of train-000\.npy are unreadable, first n0"):
        prepare(src, dst)
    with pytest.raises(
        DataError, match=r"index\.json: no such file.*begun but not finished: run prepare again"
    ):
        imagenet.open(dst)
    for path, data in good.items():
        path.write_bytes(data)
    assert prepare(src, dst) == ({"train": 6}, 3, 0)


def test_a_file_that_cannot_be_read_stops_the_run_and_is_not_called_unreadable(tmp_path, monkeypatch):
    """Gone or cut short since the pictures were listed; when it is back, the same call goes on."""
    src, dst = folders(tmp_path / "src", 2), tmp_path / "dst"
    listed = imagenet.find_pictures(src)
    monkeypatch.setattr(preparing, "find_pictures", lambda *_: listed)
    path = src / "n02" / "n02_1.JPEG"
    whole = path.read_bytes()
    path.unlink()
    on = r"\. The same command will go on from here"
    gone = r"dst: .*n02_1\.JPEG: n02/n02_1\.JPEG cannot be read: No such file or directory"
    with pytest.raises(DataError, match=gone + on):
        prepare(src, dst)
    path.write_bytes(whole[:-1])
    short = rf"n02_1\.JPEG: expected {len(whole):,} bytes of .*, found {len(whole) - 1:,}"
    with pytest.raises(DataError, match=short + on):
        prepare(src, dst)
    path.write_bytes(whole)
    assert prepare(src, dst) == ({"train": 6}, 3, 0)


def test_a_disk_that_is_too_small_is_noticed_first(source, tmp_path, monkeypatch):
    """27 pictures of 3 * 1000 * 1000 bytes."""
    usage = type("Usage", (), {"free": 1e6})
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"needs 0\.1 GB more, found 0\.0 GB free"):
        prepare(source, tmp_path / "dst", size=1000)


KILLED = """
import sys
from tinyalex.data import imagenet
imagenet.prepare(sys.argv[1], sys.argv[2], size=96, shard_size=4, workers=2)
"""


def running(group):
    """Processes of a group that still run, from /proc (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def test_a_script_needs_no_guard_not_even_on_standard_input(tmp_path):
    """Its workers do not run it again."""
    src, dst = folders(tmp_path / "src", 1), tmp_path / "dst"
    command = [sys.executable, "-", str(src), str(dst)]
    subprocess.run(command, input=KILLED, text=True, check=True)
    assert len(imagenet.open(dst)) == 3


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path):
    """kill -9 of the command after times drawn at random; its workers end too; the last run completes it."""
    src = folders(tmp_path / "src", 20, width=1000, height=700)
    (src / "n01" / "broken.png").write_bytes(b"no")
    script = tmp_path / "script.py"
    script.write_text(KILLED)

    def start(dst):
        command = [sys.executable, str(script), str(src), str(dst)]
        return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)

    def finished():
        return len(list((tmp_path / "dst").glob("train-*.npy")))

    assert start(tmp_path / "whole").wait() == 0
    rng, partial = np.random.default_rng(0), []
    for shards in (0, 1, 5, 10):  # of 16
        process = start(tmp_path / "dst")
        while not ((tmp_path / "dst" / "plan.json").exists() and finished() >= shards):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 5
        while Path("/proc/self/stat").exists() and running(process.pid):
            assert time.monotonic() < deadline, "workers outlive the command"
            time.sleep(0.02)
        partial.append(finished())
    assert set(partial) - {0, 16}  # some kill fell between the first shard and the last
    assert start(tmp_path / "dst").wait() == 0
    assert hashes(tmp_path / "dst") == hashes(tmp_path / "whole")


PLAN = {"size": 32, "shard_size": 5, "seed": 0, "val": None, "exif": True}


def test_finished_shards_are_not_made_again(source, prepared, tmp_path):
    """A run that ended before the finish goes on with what there is: an old shard keeps its time."""
    dst = tmp_path / "dst"
    splits = preparing._shuffled(imagenet.find_pictures(source).splits, 0)
    dst.mkdir()
    assert preparing._begin(dst, preparing._plan(splits, **PLAN))
    for job in preparing._jobs(dst, "train", splits["train"], CLASSES, 32, 5, True)[:2]:
        preparing._write_shard(job)
    (dst / "train-002.npy.77.part").write_bytes(b"half")
    (dst / "plan.json.77.part").write_bytes(b"half")
    times = {p: p.stat().st_mtime_ns for p in dst.glob("train-*.npy")}
    assert len(times) == 2
    prepare(source, dst, shard_size=5)
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert hashes(dst) == hashes(prepared)


def test_one_process_prepares_in_a_folder(source, prepared, tmp_path):
    """A second one is refused while the first is at work, and leaves the first one's files alone."""
    dst, at_work = tmp_path / "dst", tmp_path / "dst" / "plan.json.77.part"
    dst.mkdir()
    with lock(dst, "preparing pictures"):
        at_work.write_bytes(b"half")
        with pytest.raises(DataError, match="dst: another process is preparing pictures in this folder"):
            prepare(source, dst, shard_size=5)
        assert at_work.exists()
    prepare(source, dst, shard_size=5)
    assert hashes(dst) == hashes(prepared)


# --- damage ---------------------------------------------------------------------------------------------


def edit(folder, change):
    """Change the index of a prepared folder."""
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def test_damaged_shards_are_refused(copy):
    """Cut short, lengthened, no header, gone: at open. Changed pixels: by verify()."""
    shard = copy / "train-001.npy"
    whole = shard.read_bytes()
    for data, message in [
        (whole[:-1], r"train-001\.npy: expected uint8 \(5, 3, 32, 32\), found "),
        (whole + b"x", r"found 15361 bytes of data for 15360"),
        (b"", r"found 0 bytes: "),
        (b"\0" * len(whole), r"found \d+ bytes: the magic string is not correct"),
        ((copy / "val-001.npy").read_bytes(), r"found uint8 \(1, 3, 32, 32\)"),
    ]:
        shard.write_bytes(data)
        with pytest.raises(DataError, match=message):
            imagenet.open(copy)
        imagenet.open(copy, "val")
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        DataError, match=r"train-001\.npy: damaged, its SHA-256 is not the one in index\.json"
    ):
        imagenet.open(copy).verify()
    shard.unlink()
    with pytest.raises(DataError, match=r"train-001\.npy: no such file; expected a folder made by prepare$"):
        imagenet.open(copy)


class Slow:
    """A file that gives at most a thousand bytes at once, as one on another machine may."""

    def __init__(self, path):
        self.path = path

    def open(self, *how, **kwargs):
        file = self.path.open(*how, **kwargs)
        file.readinto, right = lambda room: right(room[:1000]), file.readinto
        return file


def test_a_picture_is_read_to_its_last_byte_or_refused(copy):
    """By a file that gives it in pieces, and by one that was cut short meanwhile; only to where it fits."""
    shards = imagenet.open(copy)
    last, k = len(shards) - 1, len(shards._paths) - 1
    expected, path = shards[last], shards._paths[k]
    shards._paths[k] = Slow(path)
    np.testing.assert_array_equal(shards[last], expected)
    shards._paths[k] = path
    for room in (np.empty((3, 32, 31), np.uint8), np.empty((3, 32, 32), np.uint8).swapaxes(1, 2)):
        with pytest.raises((ArgumentError, TypeError)):
            shards.read(last, room)
    os.truncate(path, path.stat().st_size - 10)
    message = rf"{path.name}: expected 3,072 bytes of picture {last}, found 3,062"
    with pytest.raises(DataError, match=message):
        shards[last]


def test_prepare_again_verifies_what_is_complete(source, copy):
    """Also in a folder whose index has more in it, as an earlier version wrote it."""
    arguments = {"size": 32, "shard_size": 5}
    edit(copy, lambda index: index.update(eigenvalues=[1.0, 1.0, 1.0]))
    assert imagenet.prepare(source, copy, **arguments) == ({"train": 21, "val": 6}, 3, 1, True, 0)
    for name in ("train-004.npy", "val-000.npy"):
        shard = copy / name
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(DataError, match=f"{name}: damaged"):
            imagenet.prepare(source, copy, **arguments)
        shard.write_bytes(whole)


def test_another_pillow_verifies_what_is_complete_but_does_not_go_on(source, copy, tmp_path, monkeypatch):
    """Its decoder may differ by a grey level: half of the shards must not come from it."""
    begun = tmp_path / "begun"
    begun.mkdir()
    splits = preparing._shuffled(imagenet.find_pictures(source).splits, 0)
    preparing._begin(begun, preparing._plan(splits, **PLAN))
    monkeypatch.setattr(PIL, "__version__", "99.0")
    (copy / "plan.json").write_bytes((begun / "plan.json").read_bytes())  # killed before it took this away
    assert imagenet.prepare(source, copy, size=32, shard_size=5).verified
    with pytest.raises(DataError, match=r"was begun with pillow .*, now 99\.0\. Delete it"):
        prepare(source, begun, shard_size=5)


def test_a_damaged_index_is_refused(copy):
    """Another version, other classes in val, no such split, labels out of range, no index at all."""
    with pytest.raises(DataError, match="expected a split 'test', found train, val"):
        imagenet.open(copy, "test")
    edit(copy, lambda index: index["splits"]["val"]["classes"].append("n04"))
    with pytest.raises(DataError, match="same classes, but val lacks none and adds n04"):
        imagenet.open(copy)
    edit(copy, lambda index: [s.update(classes=["n01", "n02"]) for s in index["splits"].values()])
    with pytest.raises(DataError, match=r"train-labels\.npy: expected labels in 0\.\.1, found 0\.\.2"):
        imagenet.open(copy)
    edit(copy, lambda index: index["splits"]["train"]["shards"].pop())
    edit(copy, lambda index: [s.update(classes=CLASSES) for s in index["splits"].values()])
    with pytest.raises(DataError, match="should hold 21 pictures, its shards hold"):
        imagenet.open(copy)
    edit(copy, lambda index: index.update(version=3))
    with pytest.raises(DataError, match=r'expected "tinyalex pictures" version 1 or 2, found .* version 3'):
        imagenet.open(copy)
    for text in ("{}", "[1]", '{"format', "\N{SNOWMAN}"):
        (copy / "index.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"index\.json: not an index written by prepare"):
            imagenet.open(copy)
    with pytest.raises(DataError, match=r"index\.json: no such file"):
        imagenet.open(copy / "index.json")


@pytest.mark.skipif(not SAMPLE.exists(), reason="the sample of ImageNet photographs is not here")
def test_real_photographs(tmp_path):
    """A tenth of 200 photographs in ILSVRC folders, among them grey and tiny ones; every one is readable."""
    src = tmp_path / "src"
    src.mkdir()
    small = ["n01871265", "n03866082"]  # 56 and 68 pixels
    chosen = [p for i, p in enumerate(sorted(SAMPLE.iterdir())) if i % 10 == 0 or p.name in small]
    for folder in chosen:
        (src / folder.name).symlink_to(folder)
    counts, classes, unreadable = prepare(src, tmp_path / "dst", size=256, workers=2)
    assert (counts, classes, unreadable) == ({"train": len(chosen)}, len(chosen), 0)
    shards = imagenet.open(tmp_path / "dst")
    assert (shards.mean.mean((1, 2)) > 80).all()
    deviations = np.sqrt(augment.pca(shards.covariance)[0])
    assert deviations[0] > 2.5 * deviations[1] > 2.5 * deviations[2]  # natural pictures vary in brightness
