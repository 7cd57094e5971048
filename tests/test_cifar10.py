"""CIFAR-10: both layouts, as folders and archives, and the words for every way they can be wrong."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from tinyalex.data import cifar10
from tinyalex.errors import DataError

BIN, PY = "cifar-10-batches-bin", "cifar-10-batches-py"
BATCHES = [f"data_batch_{i}" for i in range(1, 6)]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(5000)


def random_records(seed):
    records = np.random.default_rng(seed).integers(0, 256, (10_000, 3073), np.uint8)
    records[:, 0] %= 10
    return records


def assert_same(images, records):
    """Every pixel in its place; compared in blocks, since a transposed comparison is slow."""
    assert images.shape == (3, 32, 32, len(records))
    for i in range(0, len(records), 500):
        assert np.array_equal(images[..., i : i + 500].reshape(3072, -1).T, records[i : i + 500, 1:])


def python2_pickle(records):
    """The bytes that Python 2 wrote for {'labels': [...], 'data': uint8 array}, opcode by opcode."""
    labels = b"(" + b"".join(b"K%c" % label for label in records[:, 0]) + b"e"
    raw = records[:, 1:].tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01M\x10'M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", len(raw))
        + raw
        + b"tb"
    )
    return b"\x80\x02}(U\x06labels]" + labels + b"U\x04data" + array + b"u."


def tar_gz(path, members):
    """An archive of (name, bytes or TarInfo)."""
    with gzip.open(path, "wb", compresslevel=1) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for name, raw in members:
            if isinstance(raw, tarfile.TarInfo):
                tar.addfile(raw)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return path


def message(path, split="test"):
    with pytest.raises(DataError) as caught:
        cifar10.load(path, split)
    print(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No test finds this machine's own data: an empty current folder and cache."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    monkeypatch.delenv("TINYALEX_DATA", raising=False)
    monkeypatch.setattr(cifar10, "_cache", lambda: tmp_path / "cache")


@pytest.fixture(scope="module")
def plain():
    """Records that compress well: 0, 1, ... 9 in turn on flat pictures."""
    records = np.empty((10_000, 3073), np.uint8)
    records[:] = (np.arange(10_000) % 251)[:, None]
    records[:, 0] = np.arange(10_000) % 10
    return records


@pytest.fixture(scope="module")
def binary(tmp_path_factory):
    root = tmp_path_factory.mktemp("binary")
    (root / BIN).mkdir()
    for seed, stem in enumerate([*BATCHES, "test_batch"]):
        random_records(seed).tofile(root / BIN / f"{stem}.bin")
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory, plain):
    members = [(f"{BIN}/test_batch.bin", plain.tobytes()), (f"{BIN}/readme.html", b"<html>")]
    return tar_gz(tmp_path_factory.mktemp("archive") / "cifar-10-binary.tar.gz", members)


@pytest.fixture
def one(tmp_path):
    """Write one test batch of the given bytes into a folder of the given layout, and return the folder."""

    def write(raw, layout=BIN):
        folder = tmp_path / layout
        folder.mkdir()
        (folder / ("test_batch.bin" if layout == BIN else "test_batch")).write_bytes(raw)
        return folder

    return write


# What is read -------------------------------------------------------------------------------------------


def test_binary_folder_every_byte_in_its_place(binary):
    got = cifar10.load(binary, "train")
    assert got.images.shape == (3, 32, 32, 50_000)
    assert got.images.dtype == np.uint8
    assert got.images.flags.c_contiguous
    assert got.labels.dtype == np.int64
    assert got.classes == cifar10.CLASSES  # no meta file
    for i in range(5):
        records = random_records(i)
        np.testing.assert_array_equal(got.labels[i * 10_000 : (i + 1) * 10_000], records[:, 0])
        assert_same(got.images[..., i * 10_000 : (i + 1) * 10_000], records)


def test_the_folder_itself_and_the_test_split(binary):
    got = cifar10.load(str(binary / BIN), "test")
    assert_same(got.images, random_records(5))


def test_names_come_from_the_meta_file(one, plain):
    folder = one(plain.tobytes())
    names = [f"class{i}" for i in range(10)]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    assert cifar10.load(folder, "test").classes == tuple(names)
    (folder / "batches.meta.txt").write_text("cat\ndog\n")
    assert "batches.meta.txt: expected 10 class names, found 2" in message(folder)
    (folder / "batches.meta.txt").write_bytes(PNG * 3)
    assert "batches.meta.txt: expected 1 to 10,000 bytes, found 15,024 (a PNG picture)" in message(folder)


def test_python_2_pickles(one):
    records = random_records(9)
    folder = one(python2_pickle(records), PY)
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a%d" % i for i in range(10)]}, 2))
    got = cifar10.load(folder.parent, "test")
    assert_same(got.images, records)
    np.testing.assert_array_equal(got.labels, records[:, 0])
    assert got.classes == tuple(f"a{i}" for i in range(10))


@pytest.mark.parametrize(("protocol", "order"), [(2, "C"), (4, "F")])
def test_pickles_written_again_by_python_3(one, protocol, order):
    records = random_records(10)
    data = np.array(records[:, 1:], order=order)
    folder = one(pickle.dumps({"labels": records[:, 0].tolist(), "data": data}, protocol), PY)
    assert_same(cifar10.load(folder, "test").images, records)


def test_archives_of_both_layouts(archive, tmp_path, plain):
    got = cifar10.load(archive, "test")
    assert_same(got.images, plain)
    assert_same(cifar10.load(archive.parent, "test").images, plain)
    python = tar_gz(tmp_path / "any name.tgz", [(f"{PY}/test_batch", python2_pickle(plain))])
    assert_same(cifar10.load(python, "test").images, plain)


@pytest.mark.slow
def test_real_pictures(tmp_path):
    root = Path(__file__).resolve().parents[1]
    if not (root / "../shared/data/cifar10-jpeg.zip").exists():
        pytest.skip("the real pictures, ../shared/data/cifar10-jpeg.zip, are not here")
    tool = root / "../shared/tools/cifar10_binary.py"
    subprocess.run([sys.executable, str(tool), str(tmp_path)], check=True, capture_output=True)
    for split, each in (("train", 5000), ("test", 1000)):
        got = cifar10.load(tmp_path, split)
        assert got.images.shape == (3, 32, 32, 10 * each)
        assert np.bincount(got.labels).tolist() == [each] * 10
        assert got.classes == cifar10.CLASSES
        means = got.images.mean((1, 2, 3))
        assert np.abs(means - (125.3, 123.0, 113.9)).max() < 2  # the known means of R, G and B
        step = np.abs(np.diff(got.images[..., :1000].astype(int), axis=1)).mean()
        assert step < 20  # neighbours are alike; two pixels at random are some 70 apart


# Where it is looked for ---------------------------------------------------------------------------------


def test_find_looks_in_its_places_in_order(monkeypatch, tmp_path):
    def folder(*parts):
        path = Path(*parts)
        path.mkdir(parents=True)
        return path

    assert cifar10.find() is None
    assert cifar10.find(tmp_path) is None
    cached = folder(tmp_path, "cache") / "cifar-10-binary.tar.gz"
    cached.write_bytes(b"")
    assert cifar10.find() == cached
    assert cifar10.find("no such folder") is None
    here = folder(PY)
    assert cifar10.find() == here
    data = folder("data", BIN)
    assert cifar10.find() == data
    named = folder(tmp_path, "named", PY)
    monkeypatch.setenv("TINYALEX_DATA", str(tmp_path / "named"))
    assert cifar10.find() == named
    assert cifar10.find(".") == here
    assert cifar10.find(named) == named
    assert cifar10.find(cached) == cached


# What is wrong, in words ----------------------------------------------------------------------------------


def test_nothing_to_find():
    said = message(None)
    for word in (BIN, PY, "cifar-10-binary.tar.gz", "TINYALEX_DATA", "./data", "cache", "shapes"):
        assert word in said


def test_paths_that_hold_no_data(tmp_path):
    assert f"{tmp_path / 'gone'}: no such file or folder; expected {BIN}/" in message(tmp_path / "gone")
    assert "found an empty folder" in message(tmp_path / "empty")
    for name in "abcdefg":
        (tmp_path / "empty" / name).touch()
    said = message(tmp_path / "empty")
    assert f"expected {BIN}/" in said
    assert PY in said
    assert said.endswith("found a, b, c, d, e and 2 more")


def test_bad_split():
    with pytest.raises(DataError, match="split is train or test; found 'valid'"):
        cifar10.load(None, "valid")


def test_some_batches_missing(binary, tmp_path):
    (tmp_path / BIN).mkdir()
    for i in (1, 3):
        os.link(binary / BIN / f"data_batch_{i}.bin", tmp_path / BIN / f"data_batch_{i}.bin")
    said = message(tmp_path, "train")
    assert f"{BIN}: data_batch_2.bin, data_batch_4.bin, data_batch_5.bin missing" in said
    assert said.endswith("found data_batch_1.bin, data_batch_3.bin")
    assert "test_batch.bin missing; expected test_batch.bin, found none of them" in message(tmp_path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda raw: raw[:1_000_000], "1,000,000 (bytes that begin"),
        (lambda raw: raw + b"\0", "30,730,001 (bytes that begin"),
        (lambda raw: b"", "0 (an empty file)"),
        (lambda raw: PNG, "5,008 (a PNG picture)"),
        (lambda raw: b"<html>404", "9 (an HTML or XML page)"),
    ],
)
def test_binary_batch_of_another_size(one, plain, change, found):
    folder = one(change(plain.tobytes()))
    assert f"{folder / 'test_batch.bin'}: expected 30,730,000 bytes, found {found}" in message(folder)


def test_label_out_of_range(one, plain):
    wrong = plain.copy()
    wrong[[1234, 5678], 0] = 10, 77
    said = message(one(wrong.tobytes()))
    assert "test_batch.bin: expected labels 0 to 9, found 10 in record 1234" in said
    assert "2 of 10,000 are out of range" in said


def test_python_batch_of_another_size(one):
    assert "test_batch: expected 30,720,000 to 62,440,000 bytes, found 5,008 (a PNG picture)" in message(
        one(PNG, PY)
    )


def test_truncated_pickle(one):
    said = message(one(python2_pickle(random_records(0))[:30_725_000], PY))
    assert "test_batch: expected a whole Python pickle, found a Python pickle that does not load" in said
    assert "truncated" in said


def test_foreign_file_of_the_right_size(one):
    said = message(one(PNG + bytes(30_800_000), PY))
    assert "test_batch: expected a whole Python pickle, found a PNG picture" in said


PADDING = bytes(30_720_000)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([PADDING], "expected a pickled dictionary, found list"),
        ({"data": PADDING}, "'labels': expected a list of 10000 whole numbers, found NoneType"),
        (
            {"labels": [1] * 9, "data": PADDING},
            "'labels': expected a list of 10000 whole numbers, found 9 items",
        ),
        ({"labels": [0] * 9999 + ["a"], "data": PADDING}, "'labels': expected a list of 10000 whole numbers"),
        (
            {"labels": [0] * 9999 + [-1], "data": np.zeros((10_000, 3072), np.uint8)},
            "found -1 in record 9999",
        ),
        (
            {"labels": [2**70] * 10_000, "data": np.zeros((10_000, 3072), np.uint8)},
            "in record 0 (counted from 0",
        ),
        (
            {"labels": [0] * 10_000, "data": PADDING},
            "'data': expected a uint8 array of shape (10000, 3072), found bytes",
        ),
        (
            {"labels": [0] * 10_000, "data": np.zeros((3072, 10_000), np.uint8)},
            "found 'u1' of shape (3072, 10000)",
        ),
        (
            {"labels": [0] * 10_000, "data": np.zeros((10_000, 1536), np.int16)},
            "found 'i2' of shape (10000, 1536)",
        ),
    ],
)
def test_pickles_of_something_else(one, value, said):
    found = message(one(pickle.dumps(value, 4), PY))
    assert "test_batch: " in found
    assert said in found


@pytest.mark.parametrize("name", ["posix.mkdir", "builtins.eval", "numpy.load", "numpy.ndarray.tofile"])
def test_a_hostile_pickle_is_refused_by_name(one, tmp_path, name):
    module, _, attribute = name.partition(".")
    raw = b"\x80\x02c%b\n%b\n" % (module.encode(), attribute.encode())
    raw += b"X%b%b\x85R." % (struct.pack("<i", len(str(tmp_path / "made"))), str(tmp_path / "made").encode())
    said = message(one(raw + PADDING, PY))
    assert f"test_batch: expected a pickle of numbers and names only, found one that asks for {name}" in said
    assert not (tmp_path / "made").exists()


def test_archive_that_is_not_one(tmp_path):
    file = tmp_path / "cifar-10-binary.tar.gz"
    file.write_bytes(PNG)
    assert f"{file}: expected a folder or a .tar.gz archive of CIFAR-10, found a PNG picture" in message(file)
    file.write_bytes(b"")
    assert message(tmp_path).endswith("found an empty file")
    file.write_bytes(gzip.compress(b"not a tar file" * 1000))
    assert "cut short or damaged" in message(file)


def test_archive_cut_short_or_changed(archive, tmp_path):
    raw, file = archive.read_bytes(), tmp_path / "archive.tar.gz"
    file.write_bytes(raw[: len(raw) // 2])
    assert f"{file}: expected a whole .tar.gz archive, found one that is cut short or damaged" in message(
        file
    )
    middle = len(raw) // 2
    file.write_bytes(raw[:middle] + bytes(100) + raw[middle + 100 :])
    assert "cut short or damaged" in message(file)
    file.write_bytes(raw[:-8] + bytes(4) + raw[-4:])  # gzip's checksum, the last thing in it
    assert "CRC check failed" in message(file)


def test_archive_of_other_files(tmp_path):
    inside = [("photos/cat.png", PNG), (f"../{BIN}/test_batch.bin", PNG), (f"/{BIN}/test_batch.bin", PNG)]
    said = message(tar_gz(tmp_path / "a.tar.gz", inside))
    assert f"a.tar.gz: expected {BIN}/test_batch.bin or {PY}/test_batch in the archive, found photos" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "empty"]


def test_archive_members_of_another_kind(tmp_path, plain):
    link = tarfile.TarInfo(f"{BIN}/test_batch.bin")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    said = message(tar_gz(tmp_path / "a.tar.gz", [(link.name, link)]))
    assert f"a.tar.gz: {BIN}/test_batch.bin: expected a plain file, found a link or a folder" in said

    said = message(tar_gz(tmp_path / "b.tar.gz", [(f"{BIN}/test_batch.bin", PNG)]))
    assert "test_batch.bin: expected 30,730,000 bytes, found 5,008 (refused before reading it)" in said

    both = [(f"{BIN}/test_batch.bin", plain.tobytes()), (f"{PY}/test_batch", python2_pickle(plain))]
    assert "in the archive, found both" in message(tar_gz(tmp_path / "c.tar.gz", both))


def test_archive_with_some_of_the_batches(tmp_path, archive, plain):
    said = message(archive, "train")
    assert f"{archive}: expected {BIN}/data_batch_1.bin or {PY}/data_batch_1 in the archive" in said
    assert said.endswith(f"found {BIN}/test_batch.bin, {BIN}/readme.html")
    one = tar_gz(tmp_path / "one.tar.gz", [(f"{BIN}/data_batch_3.bin", plain.tobytes())])
    assert "one.tar.gz: data_batch_1.bin, data_batch_2.bin, data_batch_4.bin, data" in message(one, "train")


def test_archive_that_unpacks_without_end(monkeypatch, archive):
    monkeypatch.setattr(cifar10._Bounded, "left", 20_000_000)
    assert "it unpacks to far more than CIFAR-10 holds" in message(archive)


# Fetching --------------------------------------------------------------------------------------------------


@pytest.fixture
def served(monkeypatch):
    """A web server on this machine that gives some bytes in place of the official archive."""
    body = np.random.default_rng(0).bytes(300_000)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.server_port}/a.tar.gz")
        yield body
        server.shutdown()
        thread.join()


def test_fetch_downloads_once_and_shows_progress(served, monkeypatch, capsys):
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(served).hexdigest())
    path = cifar10.fetch()
    assert path.read_bytes() == served
    assert "300.0/300.0 kB" in capsys.readouterr().err
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/not.asked.again")
    assert cifar10.fetch() == path == cifar10.find()


def test_fetch_of_other_bytes_leaves_nothing(served, tmp_path):
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        cifar10.fetch()
    print(caught.value)
    assert cifar10.MD5 in str(caught.value)
    assert list((tmp_path / "cache").iterdir()) == []


def test_fetch_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(cifar10, "URL", "http://127.0.0.1:9/a.tar.gz")
    with pytest.raises(DataError) as caught:
        cifar10.fetch()
    print(caught.value)
    for word in (cifar10.URL, str(tmp_path / "cache"), "cifar-10-binary.tar.gz", "by hand", "shapes"):
        assert word in str(caught.value)


def test_fetch_refuses_a_damaged_file_in_the_cache(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cifar-10-binary.tar.gz").write_bytes(PNG)
    with pytest.raises(DataError) as caught:
        cifar10.fetch()
    print(caught.value)
    found = hashlib.md5(PNG).hexdigest()
    assert f"expected MD5 checksum {cifar10.MD5}, found {found}: remove it" in str(caught.value)


def test_fetch_without_pooch(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(
        DataError, match=r"fetched by pooch, which is not here .*: put cifar-10-binary\.tar\.gz into"
    ):
        cifar10.fetch()
