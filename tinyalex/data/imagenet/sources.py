"""Where the pictures are: class folders, ILSVRC's folders and its tars, and the class of each picture."""

import os
import re
import stat
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyalex.data import cifar10
from tinyalex.data.imagenet.shards import same_classes
from tinyalex.data.pictures import formats
from tinyalex.errors import ArgumentError, DataError, few
from tinyalex.files import printable, read_text

LABELS = "val.txt", "val_annotations.txt", "LOC_val_solution.csv"
TRUTH, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "synsets.txt"
SPLITS = {
    "train": "train|training|trn",
    "val": "val|valid|validation|dev|eval|evaluation",
    "test": "test|testing|tst",
}
BESIDE = "[ _-]?(set|split|data|images|pictures|[0-9]{0,4})"  # training_set, val2017
INNER = {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "jpeg", "jpegs"}
# What systems and programs put beside pictures; what begins with a dot is passed over too.
SYSTEM = {"@eadir", "__macosx", "#recycle", "$recycle.bin", "lost+found", "thumbs.db", "desktop.ini"}
HEIC = {".heic", ".heif", ".hif"}
DEEPEST = 100  # folders within folders


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


class Found(NamedTuple):
    """What a source holds.

    splits: {"train": [Entry], "val": [Entry]}, or one of them, each ordered by name. places: what each split
    was read from: the name of a folder or tar in the source, "" for the source itself, or None for what was
    held out. passed: {reason: [names]}, what was passed over. ilsvrc: whether it is ILSVRC, by its tars or by
    its classes' names (n01440764): its pictures are not turned upright, as in 2012.
    """

    splits: dict
    places: dict
    passed: dict
    ilsvrc: bool

    @property
    def classes(self):
        """The names of the classes, in order."""
        return classes_of(next(iter(self.splits.values())))

    def lines(self):
        """What was found, and what was passed over and why, in lines for people."""
        for split, entries in self.splits.items():
            place = self.places[split]
            held = " (held out)" if place is None else ""
            within = f" (in {printable(place)})" if place not in (None, "", split) else ""
            names, counts = np.unique([e.label for e in entries], return_counts=True)
            most = "" if counts.min() == counts.max() else f" to {counts.max():,}"
            each = f", {counts.min():,}{most} of each"
            if len(names) <= 10:
                each = ": " + ", ".join(f"{printable(n)} {c:,}" for n, c in zip(names, counts, strict=True))
            numbers = f"{_number(len(entries), 'picture')} of {_number(len(names), 'class', 'classes')}"
            yield f"{split}{held}{within}: {numbers}{each}"
        if len(self.classes) == 1:
            yield "with one class there is nothing to tell apart: expected a folder for each class"
        yield from _said(self.passed)


def _said(passed):
    for why, names in passed.items():
        yield f"passed over, {why}: {printable(few(names))}"


def _number(count, one, several=None):
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def find_pictures(src, on_folder=None):
    """Find the pictures of a source and their classes: Found.

    Understood are, in the folder src:
      train/<class>/ and val/<class>/ with pictures in and below them, where train and val may have any of
      their usual names, in any case (SPLITS; test pictures count as val where there are no others);
      pictures straight in val/ or val/images/, with their classes from a text file, see _flat_classes;
      <class>/ alone: a train split;
      the tars as distributed: one whose name holds "train", a tar of one tar a class, and one whose name
      holds "val", a tar of pictures. src may also be such a tar itself. Tars are read in place.
    Pictures are the files whose suffix Pillow knows (pictures.formats). A link counts as what it leads to,
    unless it leads nowhere or to what is listed already. on_folder is called with the number of pictures
    listed so far.

    Raises DataError if there is nothing of the kind, if a tar is damaged, if the classes of train and val
    differ, or where what looks like classes could be splits: train and val must not be mixed.
    """
    src, passed = Path(src), {}
    if str(src) == "cifar10" or (src.is_dir() and cifar10.find(src)):
        raise DataError(f"{src}: CIFAR-10 needs no preparing: tinyalex train {src} RUN")
    if not src.exists():
        raise DataError(f"{src}: no such file or folder")
    if not src.is_dir() and not src.is_file():
        raise DataError(f"{src}: expected a folder or a tar, found neither")
    root, tars = Folder(src), [src]
    if src.is_dir():
        root = _Listing(src, passed, on_folder).root
        tars = sorted(p for p in src.glob("*.tar") if p.is_file())
    roles, found, places = _splits(root, passed), {}, {}
    tar_of = {split: next((t for t in tars if split in t.name), None) for split in ("train", "val")}
    for split, tar in tar_of.items():
        if split in roles:
            places[split] = roles[split].name
            found[split] = _split_folder(roles[split], passed, split)
        elif tar:
            places[split] = tar.name
            try:
                found[split] = list(_tar_of_tars(tar) if split == "train" else _tar_of_pictures(tar))
            except tarfile.TarError as error:
                raise DataError(f"{tar}: expected a whole, uncompressed tar file, found: {error}") from error
            if not found[split]:
                within = "tars, each with the pictures of a class" if split == "train" else "pictures"
                raise DataError(f"{tar}: expected a tar of {within}, found none")
    if not found and src.is_dir():
        places["train"], found["train"] = "", _class_folders(root, passed)
    if not found:
        raise DataError(f"{src}: expected a folder of class folders or an ImageNet tar, found neither")
    if "val" in found and not any(e.label for e in found["val"]):
        found["val"] = _flat_classes(src if src.is_dir() else src.parent, places["val"], found["val"])
    if len(found) == 2:
        same_classes(src, classes_of(found["train"]), classes_of(found["val"]))
    if not roles and "" not in places.values():
        for folder in root.filled():
            _leave(passed, "folders beside the tars", folder)
    wnids = all(re.fullmatch("n[0-9]{8}", e.label) for entries in found.values() for e in entries)
    tarred = any(split not in roles and tar_of[split] for split in found)
    used = {*places.values(), *LABELS, TRUTH, SYNSETS}
    passed = {
        why: kept
        for why, names in sorted(passed.items())
        if (kept := sorted(name for name in names if os.path.basename(name) not in used))
    }
    return Found(
        {split: sorted(entries) for split, entries in found.items()}, places, passed, tarred or wnids
    )


def hold_out(found, share, seed=0):
    """Found with a share of each class's train pictures as its val: at least one of two, drawn from the seed.

    Raises ArgumentError for a share that is not between 0 and 1, DataError where there is a val split already
    or no class of two pictures.
    """
    if not 0 < share < 1:
        raise ArgumentError(f"val={share}: expected a share between 0 and 1, such as 0.1")
    if "val" in found.splits:
        where = found.places["val"]
        raise DataError(f"val={share:g}: there are validation pictures already, in {where}: leave val out")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    of_class, held = {}, set()
    for entry in found.splits["train"]:
        of_class.setdefault(entry.label, []).append(entry)
    for _, entries in sorted(of_class.items()):
        count = min(max(round(share * len(entries)), 1), len(entries) - 1)
        held.update(entries[i] for i in rng.permutation(len(entries))[:count])
    if not held:
        raise DataError(f"val={share:g}: expected a class of two pictures or more, found none")
    splits = {"train": [e for e in found.splits["train"] if e not in held], "val": sorted(held)}
    return found._replace(splits=splits, places=found.places | {"val": None})


def classes_of(entries):
    """The names of the classes of some entries, in order."""
    return sorted({e.label for e in entries})


# Folders --------------------------------------------------------------------------------------------------


class Folder:
    """A folder of the source: its own pictures, (name, bytes), and the folders in it, each in order.

    name: its path within the source, "" for the source itself.
    """

    def __init__(self, path, name=""):
        self.path, self.name, self.pictures, self.folders = path, name, [], []

    @property
    def role(self):
        """Which split its name says it is: train, val or test; None for any other name."""
        last = self.path.name.casefold()
        return next((r for r, names in SPLITS.items() if re.fullmatch(f"({names}){BESIDE}", last)), None)

    @property
    def is_inner(self):
        """Whether its name says no more than that there are pictures in it."""
        return self.path.name.casefold() in INNER

    def all(self):
        """Yield this folder and every one below it."""
        yield self
        for folder in self.folders:
            yield from folder.all()

    def count(self):
        """How many pictures there are in it and below."""
        return sum(len(folder.pictures) for folder in self.all())

    def filled(self):
        """The folders in it with pictures somewhere below."""
        return [folder for folder in self.folders if folder.count()]

    def entries(self, label):
        """The pictures in it and below, of one class."""
        for folder in self.all():
            inside = Path(label, folder.path.relative_to(self.path)).as_posix()
            inside = "" if inside == "." else inside + "/"
            at = os.path.abspath(folder.path)
            for name, size in folder.pictures:
                yield Entry(inside + name, label, os.path.join(at, name), 0, size)


class _Listing:
    """The folders below a source; `passed` gets what is no picture."""

    def __init__(self, src, passed, on_folder):
        self.passed, self.on_folder, self.count = passed, on_folder, 0
        self.links, self.known = [], {_key(parent.stat()) for parent in src.resolve().parents}
        self.root = Folder(src)
        self._list(self.root, src.stat())
        self._follow()

    def _list(self, folder, found):
        if len(Path(folder.name).parts) > DEEPEST:
            raise DataError(f"{folder.path}: more than {DEEPEST} folders within each other")
        self.known.add(_key(found))
        with os.scandir(folder.path) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith(".") or entry.name.casefold() in SYSTEM:
                self._pass("hidden or a system's own", folder, entry.name)
            elif entry.is_dir(follow_symlinks=False):
                folder.folders.append(Folder(folder.path / entry.name, os.path.join(folder.name, entry.name)))
            elif entry.is_symlink() or entry.stat().st_nlink > 1:
                self.links.append((folder, entry.name))
            else:
                self._picture(folder, entry.name, entry.stat())
        self.count += len(folder.pictures)
        if self.on_folder:
            self.on_folder(self.count)
        for below in folder.folders:
            self._list(below, below.path.stat())

    def _follow(self):
        """Take links for what they lead to, once all else is listed, first to folders, then to files."""
        files = []
        for folder, name in self.links:  # a linked folder adds its own
            path = folder.path / name
            try:
                found = path.stat()
            except OSError:
                self._pass("links that lead nowhere", folder, name)
                continue
            if not stat.S_ISDIR(found.st_mode):
                files.append((folder, name, found))
            elif _key(found) in self.known:
                self._pass("links to what is listed already", folder, name)
            else:
                below = Folder(path, os.path.join(folder.name, name))
                folder.folders = sorted([*folder.folders, below], key=lambda f: f.name)
                self._list(below, found)
        if not files:
            return
        listed = {_key((f.path / name).stat()) for f in self.root.all() for name, _ in f.pictures}
        for folder, name, found in files:
            if _key(found) in listed:
                self._pass("links to what is listed already", folder, name)
            elif self._picture(folder, name, found):
                listed.add(_key(found))
        for folder in {id(folder): folder for folder, *_ in files}.values():
            folder.pictures.sort()

    def _picture(self, folder, name, found):
        suffix = os.path.splitext(name)[1].lower()
        if not stat.S_ISREG(found.st_mode):
            self._pass("no regular files", folder, name)
        elif suffix in formats()[1]:
            folder.pictures.append((name, found.st_size))
            return True
        elif suffix in HEIC:
            self._pass("HEIC, read where the package pillow-heif is installed", folder, name)
        else:
            self._pass(f"not a picture that Pillow reads, {suffix or 'no suffix'}", folder, name)
        return False

    def _pass(self, why, folder, name):
        self.passed.setdefault(why, []).append(os.path.join(folder.name, name))


def _key(found):
    return found.st_dev, found.st_ino


def _splits(root, passed):
    """{"train": Folder, "val": Folder}, or one of them, or {}: the folders of a source that are splits."""
    named, others = {}, []
    for folder in root.filled():
        if folder.role:
            named.setdefault(folder.role, []).append(folder)
        else:
            others.append(folder)
    with_classes = [f for some in named.values() for f in some if f.filled()]
    if others and named:
        if list(named) == ["train"] and not with_classes:
            return {}  # a class, of things that run on rails
        if not any(f.filled() for f in named.get("train", [])):
            names = few([f.path.name for some in named.values() for f in some])
            raise DataError(
                f"{root.path}: {names} beside {few([f.path.name for f in others])}: splits or classes? "
                f"Put the class folders of the train split into {root.path / 'train'}, or rename a class"
            )
    for role, folders in named.items():
        if len(folders) > 1:
            raise DataError(
                f"{root.path}: expected one folder for {role}, found {few([f.path.name for f in folders])}"
            )
    roles = {role: folders[0] for role, folders in named.items()}
    if "test" in roles:
        test = roles.pop("test")
        if "val" in roles:
            _leave(passed, "not used, as there is another validation split", test)
        elif not _is_flat(test) or _label_file(root.path, test.name) or "train" not in roles:
            roles["val"] = test
        else:
            _leave(passed, "not used, without classes", test)
    for folder in others if roles else ():
        _leave(passed, f"folders beside {few([f.path.name for f in roles.values()])}", folder)
    if roles:
        _leave_empty(root, passed)
    return roles


def _leave(passed, why, folder):
    passed.setdefault(why, []).append(f"{folder.name} ({_number(folder.count(), 'picture')})")


def _leave_empty(folder, passed):
    """Note the folders of classes, or splits, in which there is no picture, and pictures beside them."""
    empty = [below.name for below in folder.folders if not below.count()]
    beside = [os.path.join(folder.name, name) for name, _ in folder.pictures]
    for why, names in (("folders without pictures", empty), ("pictures beside the folders", beside)):
        if names:
            passed.setdefault(why, []).extend(names)


def _is_flat(split):
    """Whether a split's pictures lie straight in it, or in one folder "images"."""
    filled = split.filled()
    return not filled or (len(filled) == 1 and filled[0].is_inner and not split.pictures)


def _split_folder(split, passed, role):
    """The entries of a split's folder; with no label where the pictures are in no class folders."""
    filled = split.filled()
    if role == "val" and _is_flat(split):
        return list((filled[0] if filled else split).entries(""))
    if len(filled) == 1 and filled[0].role == split.role and filled[0].filled():
        return _class_folders(filled[0], passed)  # training_set/training_set/<class>
    return _class_folders(split, passed)


def _class_folders(root, passed):
    """The entries of a folder of class folders; DataError if its folders cannot be the classes."""
    classes = root.filled()
    if not classes:
        found = f"found {_number(len(root.pictures), 'picture')} straight in it"
        if not root.pictures:
            found = "; ".join(["found none that Pillow reads", *_said(passed)])
        raise DataError(f"{root.path}: expected pictures in a folder for each class, {found}")
    names = few([c.path.name for c in classes])
    mixed = next((b for c in classes for b in c.all() if b is not c and b.role and b.count()), None)
    if mixed and any(b.filled() for c in classes for b in c.all() if b.role and b is not c):
        raise DataError(f"{root.path}: expected class folders or splits, found {names}{_instead(root)}")
    if mixed:
        raise DataError(
            f"{root.path}: in the class folders are splits ({mixed.name}): expected "
            f"{root.path / 'train'}/CLASS and {root.path / 'val'}/CLASS"
        )
    if len(classes) == 1 and classes[0].is_inner:
        raise DataError(f"{classes[0].path}: expected a folder for each class, found pictures of no class")
    inside = [{below.path.name for below in c.filled()} for c in classes]
    inner = len(set.union(*inside)) == 1 and all(b.is_inner for c in classes for b in c.filled())
    if not any(c.pictures for c in classes) and not inner:
        raise DataError(
            f"{root.path}: expected pictures in its class folders, found only folders in {names}: "
            f"{few(sorted(set.union(*inside)))}{_instead(root)}"
        )
    siblings = {c.path.name for c in classes}
    copies = (c for c, names in zip(classes, inside, strict=True) if names & siblings and not c.pictures)
    copy = next(copies, None)
    if copy:
        raise DataError(
            f"{copy.path}: its folders are called as the classes beside it: is it a class? "
            "Take it out of the source"
        )
    _leave_empty(root, passed)
    return [entry for c in classes for entry in c.entries(c.path.name)]


def _instead(root):
    """Which path to give: the nearest folders below root whose folders are splits, or classes."""
    below = [f for f in root.all() if f is not root]
    splits = [f for f in below if any(s.role and s.filled() for s in f.folders)]
    classes = [f for f in below if sum(bool(c.pictures) for c in f.folders) > 1]
    for found in (splits, classes):
        if found:
            highest = min(len(f.path.parts) for f in found)
            paths = [str(f.path) for f in found if len(f.path.parts) == highest]
            return f"; give {'one of ' if len(paths) > 1 else ''}{few(paths)}"
    return "; put each class's pictures straight into its folder"


# Tars -----------------------------------------------------------------------------------------------------


def _tar_of_tars(path):
    """An inner tar n01440764.tar holds the pictures of the class n01440764."""
    with tarfile.open(path, "r:") as outer:
        for member in outer:
            if member.isfile() and member.name.endswith(".tar"):
                label = os.path.basename(member.name)[:-4]
                with outer.extractfile(member) as file, tarfile.open(fileobj=file, mode="r:") as inner:
                    for name, offset, size in _members(inner):
                        at = member.offset_data + offset
                        yield Entry(f"{label}/{name}", label, os.path.abspath(path), at, size)


def _tar_of_pictures(path):
    with tarfile.open(path, "r:") as tar:
        for name, offset, size in _members(tar):
            yield Entry(name, "", os.path.abspath(path), offset, size)


def _members(tar):
    return [(m.name, m.offset_data, m.size) for m in tar if m.isfile() and _is_picture(m.name)]


def _is_picture(name):
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in formats()[1] and not base.startswith(".")


# Text files that name the classes -------------------------------------------------------------------------


def _label_file(src, place):
    """The text file in src, or in the split's folder, that gives a class to each of its pictures; or None."""
    paths = (folder / name for folder in (src, src / place) for name in (f"{place}.txt", *LABELS))
    return next((path for path in paths if path.is_file()), None)


def _flat_classes(src, place, entries):
    """The entries of val with their classes, from a text file in src (or in val/, or a devkit below it).

    val.txt: lines "ILSVRC2012_val_00000001.JPEG n01751748", or "val/ILSVRC…"; with a tab between them where
    there are blanks in names.
    val_annotations.txt, as tiny-imagenet has it: the same, and more after them.
    LOC_val_solution.csv, as Kaggle has it: "ILSVRC2012_val_00000001,n01751748 …" below a line of names.
    ILSVRC2012_validation_ground_truth.txt: the ILSVRC id of each picture in the order of names. Which class
    an id means stands in the devkit's meta.mat, which is not read here; synsets.txt beside it or in src gives
    it instead: one class (wnid) a line, id 1 first (n02119789 in 2012), the rest of the line is ignored.
    """
    entries = sorted(entries)
    mapping = _label_file(src, place)
    if mapping:
        labels = _pairs(mapping)
        names = [os.path.basename(e.name) for e in entries]
        names = [name if name in labels else os.path.splitext(name)[0] for name in names]
        missing = [e.name for e, name in zip(entries, names, strict=True) if name not in labels]
        if missing:
            raise DataError(f"{mapping}: no class for {few(missing)}")
        return [e._replace(label=labels[name]) for e, name in zip(entries, names, strict=True)]

    truth = next((p for pattern in (TRUTH, f"*/{TRUTH}", f"*/data/{TRUTH}") for p in src.glob(pattern)), None)
    if not truth:
        raise DataError(
            f"{src / place}: has no class folders; expected val.txt or {TRUTH} in {src} to give the classes"
        )
    synsets = next((p for p in (truth.parent / SYNSETS, src / SYNSETS) if p.is_file()), None)
    if not synsets:
        raise DataError(
            f"{truth}: its ids need {SYNSETS} beside it, one class a line in the order of the devkit's "
            "meta.mat (which cannot be read here); or give val.txt with lines 'picture.JPEG class'"
        )
    wnids = [line.split()[0] for line in read_text(synsets).splitlines() if line.strip()]
    if len(wnids) == 1000 and wnids == sorted(wnids):
        raise DataError(
            f"{synsets}: is in alphabetical order, expected the order of meta.mat, in which {wnids[0]} "
            "is not the first: every validation label would be wrong"
        )
    ids = read_text(truth).split()
    if len(ids) != len(entries):
        raise DataError(f"{truth}: expected {len(entries)} ids, one a picture of val, found {len(ids)}")
    known = {str(i) for i in range(1, len(wnids) + 1)}
    wrong = next((i for i, x in enumerate(ids, 1) if x not in known), None)
    if wrong:
        raise DataError(
            f"{truth}: line {wrong}: expected an id from 1 to {len(wnids)}, found {ids[wrong - 1]!r}"
        )
    return [e._replace(label=wnids[int(i) - 1]) for e, i in zip(entries, ids, strict=True)]


def _pairs(mapping):
    """{name of a picture's file: class}, from the lines of a text file."""
    csv, labels = mapping.suffix == ".csv", {}
    for i, line in enumerate(read_text(mapping).splitlines(), 1):
        if not line.strip() or (csv and i == 1):
            continue
        pair = line.replace(",", "\t", 1).split("\t") if csv or "\t" in line else line.split()
        if csv or mapping.name == "val_annotations.txt":  # more words follow, the place in the picture
            pair = [pair[0], *pair[1].split()[:1]] if len(pair) > 1 else pair
        name, label = (part.strip() for part in pair) if len(pair) == 2 else ("", "")
        if not name or not label or label.isdecimal():
            raise DataError(
                f'{mapping}: line {i}: expected "picture.JPEG class", the class a name such as n01751748, '
                f"not a number, found {' '.join(pair)!r}"
            )
        name = name.replace("\\", "/").rpartition("/")[2]
        if labels.setdefault(name, label) != label:
            raise DataError(f"{mapping}: line {i}: another class for {name}, {label!r}, than before")
    return labels
