"""Reading what prepare() wrote."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from tinyalex.errors import ArgumentError, DataError, few

FORMAT, VERSION = "tinyalex pictures", 1  # and 2, of whole pictures


class Shards:
    """The pictures of one split: len(shards), shards[i] -> uint8 (3, size, size), read from the disk.

    Whole pictures are (3, H, W), the shorter of which is size; only then there is sizes: int (N, 2), (H, W).

    labels int64 (N,); classes: the name of each label; mean float32 (3, size, size) and covariance float64
    (3, 3), in grey levels, of the train split (of val where there is no train). Made by open().
    """

    def __init__(self, folder, split, index):
        entry = index["splits"][split]
        self.folder, self.split, self.size = folder, split, index["size"]
        self.classes = tuple(entry["classes"])
        self.covariance = np.array(index["covariance"])
        picture = (3, self.size, self.size)
        self.mean = np.array(_map(folder / "mean.npy", picture, np.float32))
        labels = _map(folder / f"{split}-labels.npy", (entry["count"],), np.int32)
        self.labels = labels.astype(np.int64)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            raise DataError(
                f"{folder / f'{split}-labels.npy'}: expected labels in 0..{len(self.classes) - 1}, "
                f"found {labels.min()}..{labels.max()}"
            )
        self._digests = [str(s["sha256"]) for s in entry["shards"]]
        self._paths = [folder / _plain(s["file"]) for s in entry["shards"]]
        counts, self._first = [s["count"] for s in entry["shards"]], None
        self._ends = np.cumsum(counts)
        if index["version"] > VERSION:
            self.sizes = np.array(
                _map(folder / f"{split}-sizes.npy", (entry["count"], 2), np.int32), np.int64
            )
            lengths = 3 * self.sizes.prod(axis=1)
            # the first byte of each picture, through all shards
            self._first = np.concatenate([[0], np.cumsum(lengths)])
        self._offsets = []
        for path, end, count in zip(self._paths, self._ends, counts, strict=True):
            shape = (count, *picture)
            if self._first is not None:
                shape = (int(self._first[min(end, entry["count"])] - self._first[end - count]),)
            self._offsets.append(path.stat().st_size - _map(path, shape, np.uint8).nbytes)
        if self._ends[-1] != entry["count"]:
            raise DataError(
                f"{folder / 'index.json'}: {split} should hold {entry['count']} pictures, "
                f"its shards hold {self._ends[-1]}"
            )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(f"picture {i} of {len(self)}")
        found = np.empty(self._shape(i), np.uint8)
        self.read(i, found)
        found.flags.writeable = False
        return found

    def _shape(self, i):
        return (3, self.size, self.size) if self._first is None else (3, *map(int, self.sizes[i]))

    def read(self, i, out):
        """Read picture i to where it is wanted, a contiguous uint8 array of its shape; threads go on."""
        if out.shape != self._shape(i):
            raise ArgumentError(f"picture {i}: expected room of {self._shape(i)}, found {out.shape}")
        k = int(np.searchsorted(self._ends, i, side="right"))
        first = self._ends[k - 1] if k else 0
        start = (i - first) * out.size if self._first is None else self._first[i] - self._first[first]
        rest = memoryview(out).cast("B")
        # Read, not mapped: a shard that shrinks meanwhile is an error, not a signal that ends the process.
        with self._paths[k].open("rb", buffering=0) as file:
            file.seek(int(self._offsets[k] + start))
            while count := file.readinto(rest):  # 0 too where there is no more room
                rest = rest[count:]
        if len(rest):
            found = f"found {out.size - len(rest):,}"
            raise DataError(f"{self._paths[k]}: expected {out.size:,} bytes of picture {i}, {found}")

    def verify(self, on_shard=None):
        """Read every shard and compare its SHA-256 with the index: DataError names the first that differs.

        on_shard is called with the number of pictures of each shard that is whole.
        """
        counts = np.diff(self._ends, prepend=0)
        of_each = zip(self._digests, self._paths, self._offsets, counts, strict=True)
        for wanted, path, offset, count in of_each:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                file.seek(offset)
                while block := file.read(1 << 20):
                    digest.update(block)
            if digest.hexdigest() != wanted:
                raise DataError(
                    f"{path}: damaged, its SHA-256 is not the one in index.json: prepare into a new folder"
                )
            if on_shard:
                on_shard(int(count))


def open(folder, split="train"):  # the module's own: imagenet.open
    """The Shards of a split ("train" or "val") of a folder made by prepare().

    The files' sizes and headers are compared with the index, not the pixels (Shards.verify does that).
    Raises DataError for a file that is missing, truncated or of another version, for a split that is not
    there, and if train and val do not have the same classes.
    """
    return _open(folder, lambda splits: [split])[split]


def open_all(folder):
    """As `open`, every split that there is: {"train": Shards, "val": Shards}, or one of them."""
    return _open(folder, lambda splits: [s for s in ("train", "val") if s in splits] or ["train"])


def _open(folder, choose):
    folder = Path(os.path.abspath(folder))  # for good, wherever the program goes
    path = folder / "index.json"
    try:
        index = json.loads(path.read_text())
        if index["format"] != FORMAT or index["version"] not in (VERSION, VERSION + 1):
            raise DataError(
                f'{path}: expected "{FORMAT}" version {VERSION} or {VERSION + 1}, '
                f'found "{index["format"]}" version {index["version"]}'
            )
        splits = index["splits"]
        for split in choose(splits):
            if split not in splits:
                raise DataError(f"{folder}: expected a split {split!r}, found {', '.join(splits)}")
        if len(splits) == 2:
            same_classes(folder, splits["train"]["classes"], splits["val"]["classes"])
        return {split: Shards(folder, split, index) for split in choose(splits)}
    except (FileNotFoundError, NotADirectoryError) as error:
        begun = " (begun but not finished: run prepare again)" if (folder / "plan.json").exists() else ""
        raise DataError(
            f"{error.filename}: no such file; expected a folder made by prepare{begun}"
        ) from error
    except DataError:
        raise
    except Exception as error:  # JSON can hold nearly anything
        raise DataError(f"{path}: not an index written by prepare ({error!r})") from error


def same_classes(where, train, val):
    """DataError unless two splits have the same classes, given in order."""
    missing, unknown = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    if train != val:
        raise DataError(
            f"{where}: train and val should have the same classes, but val lacks {few(missing)} "
            f"and adds {few(unknown)}"
        )


def _map(path, shape, dtype):
    """A .npy file mapped read-only, if it has this shape, type and no byte more or less."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        found = f"{array.dtype} {array.shape}"
        ok = (
            array.shape == shape
            and array.dtype == dtype
            and path.stat().st_size == array.offset + array.nbytes
        )
        if ok:
            return array.view(np.ndarray)  # without memmap's cost for each picture
        if (array.shape, array.dtype) == (shape, dtype):
            found = f"{path.stat().st_size - array.offset} bytes of data for {array.nbytes}"
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError) as error:
        found = f"{path.stat().st_size} bytes: {error}"
    raise DataError(f"{path}: expected {np.dtype(dtype)} {shape}, found {found}")


def _plain(name):
    """A file's name as index.json has it; DataError for a path, which would lead out of the folder."""
    if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
        raise DataError(f"index.json: expected the name of a shard in its folder, found {str(name)[:80]!r}")
    return name
