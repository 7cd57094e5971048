"""Where the pictures are: class folders, ILSVRC's folders and its tars, and the class of each picture."""

import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from tinyalex.data.imagenet.shards import same_classes
from tinyalex.errors import DataError, few

SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


class Entry(NamedTuple):
    """A picture: size bytes at offset of the file path (a picture's own file, or the tar that it lies in)."""

    name: str
    label: str
    path: str
    offset: int
    size: int

    def read(self):
        """Return the bytes of the picture's file; DataError if they cannot be read or are too few."""
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise DataError(f"{self.path}: {self.name} cannot be read: {error.strerror}") from error
        if len(data) != self.size:
            raise DataError(
                f"{self.path}: expected {self.size:,} bytes of {self.name}, as when the pictures were "
                f"listed, found {len(data):,}"
            )
        return data


def find_pictures(src):
    """{"train": [Entry], "val": [Entry]} of a source: what there is of the two, ordered by name.

    Understood are, in the folder src:
      train/<class>/ and val/<class>/ with pictures anywhere below (SUFFIXES; other files are passed over);
      pictures straight in val/, with their classes from val.txt or the devkit, see _flat_classes;
      <class>/ alone: a train split;
      the tars as distributed: one whose name holds "train", a tar of one tar a class, and one whose name
      holds "val", a tar of pictures. src may also be such a tar itself. Tars are read in place.
    Raises DataError if there is nothing of the kind, if a tar is damaged, or if classes disagree.
    """
    src = Path(src)
    if not src.exists():
        raise DataError(f"{src}: no such file or folder")
    found, tars = {}, [src] if src.is_file() else sorted(src.glob("*.tar"))
    for split in ("train", "val"):
        tar = next((t for t in tars if split in t.name), None)
        if (src / split).is_dir():
            found[split] = _class_folders(src / split)
        elif tar:
            try:
                found[split] = list(_tar_of_tars(tar) if split == "train" else _tar_of_pictures(tar))
            except tarfile.TarError as error:
                raise DataError(f"{tar}: expected a whole, uncompressed tar file, found: {error}") from error
    if not found and src.is_dir():
        found["train"] = _class_folders(src)
    if "val" in found and not any(e.label for e in found["val"]):
        pictures = found["val"] or _files(src / "val", "")
        found["val"] = _flat_classes(src if src.is_dir() else src.parent, pictures)
    for split, entries in found.items():
        if not entries:
            raise DataError(
                f"{src}: expected class folders (or a tar of class tars) with pictures "
                f"({' '.join(sorted(SUFFIXES))}) for {split}, found none"
            )
    if not found:
        raise DataError(f"{src}: expected a folder of class folders or an ImageNet tar, found neither")
    if len(found) == 2:
        same_classes(src, classes_of(found["train"]), classes_of(found["val"]))
    return {split: sorted(entries) for split, entries in found.items()}


def classes_of(entries):
    return sorted({e.label for e in entries})


def _is_picture(name):
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in SUFFIXES and not base.startswith(".")


def _class_folders(root):
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [entry for folder in folders for entry in _files(folder, folder.name, deep=True)]


def _files(folder, label, deep=False):
    for at, folders, names in os.walk(folder):
        for name in filter(_is_picture, names):
            path = Path(at, name)
            inside = Path(label) / path.relative_to(folder)
            yield Entry(inside.as_posix(), label, str(path), 0, path.stat().st_size)
        if not deep:
            folders.clear()


def _tar_of_tars(path):
    """An inner tar n01440764.tar holds the pictures of the class n01440764."""
    with tarfile.open(path, "r:") as outer:
        for member in outer:
            if member.isfile() and member.name.endswith(".tar"):
                label = os.path.basename(member.name)[:-4]
                with outer.extractfile(member) as file, tarfile.open(fileobj=file, mode="r:") as inner:
                    for name, offset, size in _members(inner):
                        yield Entry(f"{label}/{name}", label, str(path), member.offset_data + offset, size)


def _tar_of_pictures(path):
    with tarfile.open(path, "r:") as tar:
        for name, offset, size in _members(tar):
            yield Entry(name, "", str(path), offset, size)


def _members(tar):
    return [(m.name, m.offset_data, m.size) for m in tar if m.isfile() and _is_picture(m.name)]


def _flat_classes(src, entries):
    """The entries of val with their classes, from one of two text files in src (or in val/ or a devkit below
    it).

    val.txt: lines "ILSVRC2012_val_00000001.JPEG n01751748".
    ILSVRC2012_validation_ground_truth.txt: the ILSVRC id of each picture in the order of names. Which class
    an id means stands in the devkit's meta.mat, which is not read here; synsets.txt beside it or in src gives
    it instead: one class (wnid) a line, id 1 first (n02119789 in 2012), the rest of the line is ignored.
    """
    entries = sorted(entries)
    mapping = next((p for p in (src / "val.txt", src / "val" / "val.txt") if p.exists()), None)
    if mapping:
        pairs = [line.split() for line in _text(mapping).splitlines() if line.strip()]
        bad = next((i for i, pair in enumerate(pairs, 1) if len(pair) != 2 or pair[1].isdigit()), None)
        if bad:
            raise DataError(
                f'{mapping}: line {bad}: expected "picture.JPEG class", the class a name such as n01751748, '
                f"not a number, found {' '.join(pairs[bad - 1])!r}"
            )
        labels = {name: label for name, label in pairs}
        missing = [e.name for e in entries if os.path.basename(e.name) not in labels]
        if missing:
            raise DataError(f"{mapping}: no class for {few(missing)}")
        return [e._replace(label=labels[os.path.basename(e.name)]) for e in entries]

    truth = next((p for pattern in (TRUTH, f"*/{TRUTH}", f"*/data/{TRUTH}") for p in src.glob(pattern)), None)
    if not truth:
        raise DataError(f"{src}: val has no class folders; expected val.txt or {TRUTH} to give the classes")
    synsets = next((p for p in (truth.parent / "synsets.txt", src / "synsets.txt") if p.exists()), None)
    if not synsets:
        raise DataError(
            f"{truth}: its ids need synsets.txt beside it, one class a line in the order of the devkit's "
            "meta.mat (which cannot be read here); or give val.txt with lines 'picture.JPEG class'"
        )
    wnids = [line.split()[0] for line in _text(synsets).splitlines() if line.strip()]
    if len(wnids) == 1000 and wnids == sorted(wnids):
        raise DataError(
            f"{synsets}: is in alphabetical order, expected the order of meta.mat, in which {wnids[0]} "
            "is not the first: every validation label would be wrong"
        )
    ids = _text(truth).split()
    if len(ids) != len(entries):
        raise DataError(f"{truth}: expected {len(entries)} ids, one a picture of val, found {len(ids)}")
    wrong = next((i for i, x in enumerate(ids, 1) if not x.isdigit() or not 1 <= int(x) <= len(wnids)), None)
    if wrong:
        raise DataError(
            f"{truth}: line {wrong}: expected an id from 1 to {len(wnids)}, found {ids[wrong - 1]!r}"
        )
    return [e._replace(label=wnids[int(i) - 1]) for e, i in zip(entries, ids, strict=True)]


def _text(path):
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected a text file: {error}") from error
