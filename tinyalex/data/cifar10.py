"""CIFAR-10: 60,000 colour pictures of 32x32, ten classes, read from either official layout.

Source: https://www.cs.toronto.edu/~kriz/cifar.html. Six files of 10,000 pictures, five to train on and one
to test on. In the binary layout a record is one label byte and 3,072 pixel bytes (1,024 red, 1,024 green,
1,024 blue, rows first); in the Python layout a file is a pickled dictionary. Either may be a folder or the
.tar.gz archive as downloaded. Nothing is unpacked to disk, and no pickle can run code here.
"""

import gzip
import io
import os
import pickle
import reprlib
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from tinyalex.data import Images
from tinyalex.errors import ArgumentError, DataError, few

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDS = 10_000  # pictures in a file
PIXELS = 3 * 32 * 32
SIGNATURES = {  # how other kinds of file begin, to tell the user what was found
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"<": "an HTML or XML page",
    b"\x80": "a Python pickle",
}


class _Layout(NamedTuple):
    folder: str
    archive: str
    meta: str  # the file with the class names
    suffix: str  # of the six batches
    batch_bytes: tuple[int, int]  # smallest and largest batch
    batch: Callable  # (raw, shown) -> (labels (RECORDS,), pixels (RECORDS, PIXELS))
    classes: Callable  # (raw, shown) -> names

    def batches(self, split):
        stems = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        return [stem + self.suffix for stem in stems]

    def limits(self, name):
        """Smallest and largest size of a file, in bytes."""
        return (1, 10_000) if name == self.meta else self.batch_bytes


# The binary layout --------------------------------------------------------------------------------------


def _binary_batch(raw, shown):
    records = np.frombuffer(raw, np.uint8).reshape(RECORDS, 1 + PIXELS)
    return records[:, 0], records[:, 1:]


def _binary_classes(raw, shown):
    return raw.decode("ascii", "replace").split()


# The Python layout: the real files were pickled by Python 2. Each global they name is replaced by a stand-in
# from this module, so unpickling calls nothing of NumPy's and nothing that a hostile file could choose. ----


class _PickledArray:
    """Stands in for numpy's _reconstruct(ndarray, (0,), "b"): keeps what the array's state says."""

    def __init__(self, *_):
        self.state = None

    def __setstate__(self, state):
        self.state = state  # version, shape, dtype, is Fortran order, raw bytes


class _PickledType:
    """Stands in for numpy.dtype: keeps the name."""

    def __init__(self, name, *_):
        self.name = name

    def __setstate__(self, state):
        pass  # byte order and the like: one byte has none


class _Unpickler(pickle._Unpickler):
    """Python's unpickler that is written in Python, without what a hostile pickle could use.

    Left out are all opcodes but those for numbers, text, lists, dictionaries and tuples, and for the arrays
    below.  Keys must be text: a key of tuples within tuples would be hashed by a recursion that ends the
    process.  What is copied may not be more than the file is long, twice.
    """

    # fmt: off
    dispatch: ClassVar = {
        opcode[0]: pickle._Unpickler.dispatch[opcode[0]]
        for opcode in (
            pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.NONE, pickle.NEWTRUE,
            pickle.NEWFALSE,
            pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1,
            pickle.STRING, pickle.BINSTRING, pickle.SHORT_BINSTRING, pickle.BINBYTES, pickle.SHORT_BINBYTES,
            pickle.BINBYTES8, pickle.UNICODE, pickle.BINUNICODE, pickle.SHORT_BINUNICODE,
            pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3,
            pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT,
            pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT,
            pickle.MEMOIZE, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE,
        )
    }
    # fmt: on

    def __init__(self, raw, shown):
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self.shown, self.left = shown, 2 * len(raw)

    def find_class(self, module, name):
        """Return the stand-in of a global; DataError, and nothing run, for any other."""
        stand_ins = {
            ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
            ("numpy", "ndarray"): None,
            ("numpy", "dtype"): _PickledType,
            ("_codecs", "encode"): self._latin1,
        }
        if (module, name) not in stand_ins:
            raise DataError(
                f"{self.shown}: expected a pickle of numbers and names only, found one that asks for "
                f"{module}.{name}: refused, nothing was run"
            )
        return stand_ins[module, name]

    def _latin1(self, text, encoding):
        """Stands in for _codecs.encode, with which Python 3 writes bytes under protocol 2."""
        self.left -= len(text)
        if encoding not in ("latin1", b"latin1") or self.left < 0:
            raise ArgumentError(f"_codecs.encode to {encoding!r}")
        return text.encode("latin1")

    def _set(self, items):
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(target) is not dict or type(key) not in (bytes, str):
                raise ArgumentError(
                    f"an entry of a {type(target).__name__} with a {type(key).__name__} as key"
                )
            target[key] = value

    def _load_setitem(self):
        items = self.stack[-2:]
        del self.stack[-2:]
        self._set(items)

    def _load_setitems(self):
        self._set(self.pop_mark())

    def _load_dict(self):
        items = self.pop_mark()
        self.stack.append({})
        self._set(items)

    def _load_build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, (_PickledArray, _PickledType)):
            raise ArgumentError(f"a state for a {type(target).__name__}")
        target.__setstate__(state)

    dispatch |= {
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
        pickle.DICT[0]: _load_dict,
        pickle.BUILD[0]: _load_build,
    }


def _unpickle(raw, shown):
    """The dictionary in a pickle, its keys as str."""
    try:
        value = _Unpickler(raw, shown).load()
    except DataError:
        raise
    except Exception as error:  # broken pickles raise nearly anything
        raise DataError(
            f"{shown}: expected a whole Python pickle, found {_kind(raw)} that does not load "
            f"({type(error).__name__}: {' '.join(str(error).split())})"
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{shown}: expected a pickled dictionary, found {type(value).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else key: item for key, item in value.items()}


def _python_batch(raw, shown):
    batch = _unpickle(raw, shown)
    labels, data = batch.get("labels"), batch.get("data")
    if not (isinstance(labels, list) and len(labels) == RECORDS and all(type(i) is int for i in labels)):
        found = f"{len(labels)} items" if isinstance(labels, list) else type(labels).__name__
        raise DataError(f"{shown}: 'labels': expected a list of {RECORDS} whole numbers, found {found}")
    want = f"{shown}: 'data': expected a uint8 array of shape ({RECORDS}, {PIXELS})"
    if not (isinstance(data, _PickledArray) and isinstance(data.state, tuple) and len(data.state) == 5):
        raise DataError(f"{want}, found {type(data).__name__}")
    _, shape, dtype, fortran, pixels = data.state
    name = getattr(dtype, "name", dtype)
    name = name.decode("latin1") if isinstance(name, bytes) else name
    if shape != (RECORDS, PIXELS) or name not in ("u1", "|u1"):
        raise DataError(f"{want}, found {reprlib.repr(name)} of shape {reprlib.repr(shape)}")
    if not isinstance(pixels, bytes) or len(pixels) != RECORDS * PIXELS:
        raise DataError(f"{want}, found other than its {RECORDS * PIXELS} bytes")
    order = "F" if fortran else "C"
    return np.array(labels, object), np.frombuffer(pixels, np.uint8).reshape(shape, order=order)


def _python_classes(raw, shown):
    names = _unpickle(raw, shown).get("label_names")
    if not isinstance(names, list):
        raise DataError(f"{shown}: 'label_names': expected a list, found {type(names).__name__}")
    return [name.decode("latin1") if isinstance(name, bytes) else str(name) for name in names]


_LAYOUTS = (
    _Layout(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        meta="batches.meta.txt",
        suffix=".bin",
        batch_bytes=(RECORDS * (1 + PIXELS),) * 2,
        batch=_binary_batch,
        classes=_binary_classes,
    ),
    _Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        meta="batches.meta",
        suffix="",
        batch_bytes=(RECORDS * PIXELS, 2 * RECORDS * PIXELS + 1_000_000),  # protocol 2 may double a byte
        batch=_python_batch,
        classes=_python_classes,
    ),
)


# Reading files, from a folder or an archive --------------------------------------------------------------


def _kind(head):
    """In words, what a file that begins with these bytes is."""
    known = [what for magic, what in SIGNATURES.items() if head.startswith(magic)]
    return known[0] if known else f"bytes that begin {head[:4].hex(' ')}" if head else "an empty file"


def _check_size(layout, name, size, shown, note):
    low, high = layout.limits(name)
    if not low <= size <= high:
        expected = f"{low:,} bytes" if low == high else f"{low:,} to {high:,} bytes"
        raise DataError(f"{shown}: expected {expected}, found {size:,} ({note})")


def _missing(shown, layout, split, seen):
    gone = [name for name in layout.batches(split) if name not in seen]
    if gone:
        raise DataError(
            f"{shown}: {', '.join(gone)} missing; expected {', '.join(layout.batches(split))}, "
            f"found {', '.join(sorted(seen)) or 'none of them'}"
        )


def _folder_files(folder, layout, split):
    """Yield (layout, name, bytes, what to call it) for each file of a split that is in the folder."""
    paths = {name: folder / name for name in (*layout.batches(split), layout.meta)}
    _missing(folder, layout, split, {name for name, path in paths.items() if path.is_file()})
    for name, path in paths.items():
        if not path.is_file():
            continue
        with path.open("rb") as file:
            _check_size(layout, name, path.stat().st_size, path, _kind(file.peek(8)))
            yield layout, name, file.read(), path


class _Bounded:
    """A stream that refuses to grow without end: no archive of CIFAR-10 unpacks to more than `left` bytes."""

    left = 7 * _LAYOUTS[1].batch_bytes[1]

    def __init__(self, file):
        self.file = file

    def read(self, size):
        raw = self.file.read(size)
        self.left -= len(raw)
        if self.left < 0:
            raise tarfile.ReadError("it unpacks to far more than CIFAR-10 holds")
        return raw


def _archive_files(path, split):
    """[(layout, name, bytes, what to call it)] for each file of a split, in one pass over the archive.

    The pass goes to the end, where gzip keeps its checksum, before anyone looks at the bytes.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if not head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path}: expected a folder or a .tar.gz archive of CIFAR-10, found {_kind(head)}")
    wanted = {
        f"{layout.folder}/{name}": (layout, name)
        for layout in _LAYOUTS
        for name in (*layout.batches(split), layout.meta)
    }
    files, others = [], []
    try:
        with gzip.open(path) as stream:
            bounded = _Bounded(stream)
            with tarfile.open(fileobj=bounded, mode="r|") as tar:
                for member in tar:
                    if member.name not in wanted:
                        others.append(member.name)
                        continue
                    shown = f"{path}: {member.name}"
                    if not member.isreg():
                        raise DataError(f"{shown}: expected a plain file, found a link or a folder")
                    layout, name = wanted[member.name]
                    _check_size(layout, name, member.size, shown, "refused before reading it")
                    files.append((layout, name, tar.extractfile(member).read(), shown))
            while bounded.read(1 << 20):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise DataError(
            f"{path}: expected a whole .tar.gz archive, found one that is cut short or damaged ({error})"
        ) from error
    if len({layout for layout, *_ in files}) != 1:
        expected = " or ".join(f"{layout.folder}/{layout.batches(split)[0]}" for layout in _LAYOUTS)
        found = "both" if files else few(others)
        raise DataError(f"{path}: expected {expected} in the archive, found {found}")
    return files


# Finding, fetching, loading -------------------------------------------------------------------------------


def _cache():
    """The folder downloads are kept in, chosen by pooch for the operating system."""
    try:
        import pooch
    except ImportError:  # nothing can be fetched, but it may lie there
        return Path.home() / ".cache" / "tinyalex"
    return Path(pooch.os_cache("tinyalex"))


def _places(folder):
    """Where in a folder the data may be, best first: (path, layout)."""
    for layout in _LAYOUTS:
        if folder.name == layout.folder or any(
            (folder / name).is_file() for split in ("train", "test") for name in layout.batches(split)
        ):
            yield folder, layout
        yield folder / layout.folder, layout
    for layout in _LAYOUTS:
        yield folder / layout.archive, layout


def _inside(folder):
    """The first of the places that exists, or None."""
    return next((path for path, _ in _places(folder) if path.exists()), None)


def find(path=None):
    """Where CIFAR-10 is on disk, or None: the first that exists of the layouts' folders and archives.

    path: a folder or archive to look at, and no other. None looks in the folder that the environment
    variable TINYALEX_DATA names, in ./data, in the current folder, and in the cache folder of `fetch`.
    """
    if path is not None:
        path = Path(path)
        return path if path.is_file() else _inside(path)
    named = os.environ.get("TINYALEX_DATA")
    folders = [*([Path(named)] if named else []), Path("data"), Path(), _cache()]
    return next((found for found in map(_inside, folders) if found), None)


class _Bar:
    """Pooch's view of a progress bar (total, update, reset, close), drawn by rich."""

    total = None

    def __init__(self, progress):
        self.progress, self.task = progress, progress.add_task("CIFAR-10", total=None)

    def update(self, size):
        self.progress.update(self.task, total=self.total, advance=size)

    def reset(self):
        self.progress.reset(self.task)

    def close(self):
        self.progress.stop()


def fetch():
    """Download the official binary archive (170 MB) into the cache folder, once, and return its path.

    The MD5 checksum is the one on the CIFAR-10 page. Raises DataError when the file cannot be downloaded,
    or when one in the cache folder has another checksum.
    """
    cache = _cache()
    path = cache / _LAYOUTS[0].archive
    by_hand = f"put {path.name} into {cache} by hand, or use the `shapes` data, which needs no download"
    try:
        import pooch  # here, so that whoever fetches nothing can do without it
    except ImportError as error:
        raise DataError(f"CIFAR-10 is fetched by pooch, which is not here ({error}): {by_hand}") from error
    if path.exists():
        found = pooch.file_hash(str(path), alg="md5")
        if found != MD5:
            raise DataError(
                f"{path}: expected MD5 checksum {MD5}, found {found}: remove it and fetch again, or {by_hand}"
            )
        return path
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            downloader = pooch.HTTPDownloader(progressbar=_Bar(progress), chunk_size=1 << 16)
            pooch.retrieve(URL, known_hash=f"md5:{MD5}", fname=path.name, path=cache, downloader=downloader)
    except (OSError, ValueError) as error:  # no network, no room; or not the checksum
        raise DataError(f"CIFAR-10 could not be downloaded from {URL}: {by_hand} ({error})") from error
    return path


def _files(where, split):
    """(layout, name, bytes, what to call it) of each file in a folder or archive that `find` has named."""
    if where.is_file():
        return _archive_files(where, split)
    return _folder_files(where, next(layout for path, layout in _places(where) if path == where), split)


def _located(path):
    """`find`, with what is wrong in words."""
    where = find(path)
    if where is not None:
        return where
    wanted = " or ".join(f"{layout.folder}/ or {layout.archive}" for layout in _LAYOUTS)
    if path is None:
        raise DataError(
            f"CIFAR-10: expected {wanted} in the folder that TINYALEX_DATA names, in ./data, in the current "
            f"folder or in {_cache()}; found none: fetch it, or use the `shapes` data instead"
        )
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; expected {wanted}")
    inside = sorted(entry.name for entry in path.iterdir())
    raise DataError(f"{path}: expected {wanted}, found {few(inside) if inside else 'an empty folder'}")


def load(path=None, split="train"):
    """Read CIFAR-10: split "train" (50,000 pictures) or "test" (10,000).

    path: a folder that holds cifar-10-batches-bin/ or cifar-10-batches-py/ or is one of them, or a .tar.gz
    archive of either; None looks where `find` does.
    Returns Images: images uint8 (3, 32, 32, N) in RGB, labels int64 (N,), classes the names in the data's
    own meta file (the official ten where it has none), in the files' order.
    Raises DataError, naming the file, what was expected and what was found, when the path or a file is
    missing, has another size or form, or holds a label outside 0-9. Sizes are checked before reading.
    """
    if split not in ("train", "test"):
        raise DataError(f"CIFAR-10: split is train or test; found {split!r}")
    where = _located(path)
    count = 5 if split == "train" else 1
    images, labels = np.empty((PIXELS, count * RECORDS), np.uint8), np.empty(count * RECORDS, np.int64)
    classes, seen = CLASSES, set()
    for layout, name, raw, shown in _files(where, split):
        if name == layout.meta:
            classes = tuple(layout.classes(raw, shown))
            if len(classes) != len(CLASSES):
                raise DataError(f"{shown}: expected {len(CLASSES)} class names, found {len(classes)}")
            continue
        its_labels, pixels = layout.batch(raw, shown)
        wrong = np.flatnonzero((its_labels < 0) | (its_labels >= len(CLASSES)))
        if len(wrong):
            raise DataError(
                f"{shown}: expected labels 0 to 9, found {its_labels[wrong[0]]} "
                f"in record {wrong[0]} (counted from 0; {len(wrong):,} of {RECORDS:,} are out of range)"
            )
        start = layout.batches(split).index(name) * RECORDS
        labels[start : start + RECORDS] = its_labels
        for i in range(0, RECORDS, 500):  # transposed in blocks that fit the cache
            images[:, start + i : start + i + 500] = pixels[i : i + 500].T
        seen.add(name)
    _missing(where, layout, split, seen)
    return Images(images.reshape(3, 32, 32, -1), labels, classes)
