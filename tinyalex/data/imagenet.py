"""ImageNet, or any folder of class folders: pictures to shards, and the shards to read.

prepare() makes of each picture its middle 256 x 256 (paper, section 2) and writes, under one folder:

    index.json               format, classes, and per split the count and the shards with size and SHA-256
    train-000.npy ...        uint8 (n, 3, 256, 256), pictures of all classes mixed by a seeded permutation
    train-labels.npy         int32, for the pictures of all shards in order; the same for val
    mean.npy                 float32 (3, 256, 256), the mean picture of the train split
    unreadable.txt           one line for each picture that was skipped, with the reason (if there were any)

A picture takes 192 KiB: ILSVRC-2012 takes 252 GB and 10 GB. It is kept channel first because that makes a
random crop and flip three times as fast as pixel-interleaved (measured: 5 and 15 ms for 128 pictures).
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import tarfile
import threading
import warnings
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from threadpoolctl import threadpool_limits

from tinyalex.data import augment
from tinyalex.errors import ArgumentError, DataError

FORMAT, VERSION = "tinyalex pictures", 1
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")  # Pillow knows more: PostScript runs programs
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


# --- reading what prepare() wrote -----------------------------------------------------------------------


class Shards:
    """The pictures of one split: len(shards), shards[i] -> uint8 (3, size, size), read from the disk.

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
        shards = [
            _map(path, (s["count"], *picture), np.uint8)
            for path, s in zip(self._paths, entry["shards"], strict=True)
        ]
        self._offsets = [path.stat().st_size - s.nbytes for path, s in zip(self._paths, shards, strict=True)]
        self._ends = np.cumsum([len(s) for s in shards])
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
        k = int(np.searchsorted(self._ends, i, side="right"))
        start = i - (self._ends[k - 1] if k else 0)
        shape = (3, self.size, self.size)
        pixels = math.prod(shape)
        # Read, not mapped: a shard that shrinks meanwhile is an error, not a signal that ends the process.
        found = np.fromfile(self._paths[k], np.uint8, pixels, offset=int(self._offsets[k] + start * pixels))
        if found.size != pixels:
            raise DataError(
                f"{self._paths[k]}: expected {pixels:,} bytes of picture {i}, found {found.size:,}"
            )
        found.flags.writeable = False
        return found.reshape(shape)

    def verify(self):
        """Read every shard and compare its SHA-256 with the index: DataError names the first that differs."""
        for wanted, path, offset in zip(self._digests, self._paths, self._offsets, strict=True):
            digest = hashlib.sha256()
            with path.open("rb") as file:
                file.seek(offset)
                while block := file.read(1 << 20):
                    digest.update(block)
            if digest.hexdigest() != wanted:
                raise DataError(f"{path}: damaged, its SHA-256 is not the one in index.json")


def open(folder, split="train"):  # the module's own: imagenet.open
    """The Shards of a split ("train" or "val") of a folder made by prepare().

    The files' sizes and headers are compared with the index, not the pixels (Shards.verify does that).
    Raises DataError for a file that is missing, truncated or of another version, for a split that is not
    there, and if train and val do not have the same classes.
    """
    folder = Path(folder)
    path = folder / "index.json"
    try:
        index = json.loads(path.read_text())
        if (index["format"], index["version"]) != (FORMAT, VERSION):
            raise DataError(
                f'{path}: expected "{FORMAT}" version {VERSION}, '
                f'found "{index["format"]}" version {index["version"]}'
            )
        splits = index["splits"]
        if split not in splits:
            raise DataError(f"{folder}: expected a split {split!r}, found {', '.join(splits)}")
        if len(splits) == 2:
            _same_classes(folder, splits["train"]["classes"], splits["val"]["classes"])
        return Shards(folder, split, index)
    except (FileNotFoundError, NotADirectoryError) as error:
        begun = " (begun but not finished: run prepare again)" if (folder / "plan.json").exists() else ""
        raise DataError(
            f"{error.filename}: no such file; expected a folder made by prepare{begun}"
        ) from error
    except DataError:
        raise
    except Exception as error:  # JSON can hold nearly anything
        raise DataError(f"{path}: not an index written by prepare ({error!r})") from error


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


def _same_classes(where, train, val):
    missing, unknown = sorted(set(train) - set(val)), sorted(set(val) - set(train))
    if train != val:
        raise DataError(
            f"{where}: train and val should have the same classes, but val lacks {_some(missing)} "
            f"and adds {_some(unknown)}"
        )


def _some(names):
    """At most five names, in words."""
    return (
        ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
    )


# --- finding the pictures -------------------------------------------------------------------------------


class Entry(NamedTuple):
    """A picture: size bytes at offset of the file path (a picture's own file, or the tar that it lies in)."""

    name: str
    label: str
    path: str
    offset: int
    size: int


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
                f"{src}: expected pictures ({' '.join(sorted(SUFFIXES))}) for {split}, found none"
            )
    if not found:
        raise DataError(f"{src}: expected a folder of class folders or an ImageNet tar, found neither")
    if len(found) == 2:
        _same_classes(src, _classes(found["train"]), _classes(found["val"]))
    return {split: sorted(entries) for split, entries in found.items()}


def _classes(entries):
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
                f'{mapping}: line {bad}: expected "picture.JPEG class", found {" ".join(pairs[bad - 1])!r}'
            )
        labels = {name: label for name, label in pairs}
        missing = [e.name for e in entries if os.path.basename(e.name) not in labels]
        if missing:
            raise DataError(f"{mapping}: no class for {_some(missing)}")
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


# --- a picture ------------------------------------------------------------------------------------------


def read_picture(data, size=256):
    """The middle of a picture, scaled to uint8 (3, size, size), from the bytes of its file.

    Scaling the centre square to size x size is the paper's two steps, shorter side to 256 and centre crop, in
    one; smaller pictures are enlarged. Bicubic, averaging over the pixels that fall together. A JPEG of twice
    the size or more is decoded straight at 1/2, 1/4 or 1/8 (Image.draft: the decoder skips high frequencies),
    never below size.
    The EXIF orientation is ignored, as in 2012. Grey, palette, CMYK and 16-bit pictures become 8-bit RGB;
    transparent ones are laid on white; of an animation the first frame counts.
    Raises what Pillow raises for a damaged file, and for one with more than Image.MAX_IMAGE_PIXELS pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.draft(None, (size, size))
            image = _rgb(image)
    w, h = image.size
    side = min(w, h)
    box = ((w - side) / 2, (h - side) / 2, (w + side) / 2, (h + side) / 2)
    square = image.resize((size, size), Image.Resampling.BICUBIC, box)
    return np.asarray(square).transpose(2, 0, 1)


def _rgb(image):
    if image.mode.startswith("I"):  # 16 bits a pixel, 0-65535; Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ArgumentError("floating-point pixels, whose range is not known")
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


# --- preparing ------------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """What prepare() made: pictures of each split, classes, and how many pictures were unreadable."""

    counts: dict[str, int]
    classes: int
    unreadable: int


class Job(NamedTuple):
    """One shard to write: the file without its suffix, the pictures, their labels, the side."""

    stem: str
    entries: list[Entry]
    labels: np.ndarray
    size: int

    def done(self):
        return Path(self.stem + ".npz").exists() and _shard_path(self).exists()


def prepare(src, dst, *, size=256, shard_size=None, seed=0, workers=None, progress=True):
    """Write the pictures of src (see find_pictures) as shards into the folder dst (see the top of this file).

    shard_size: pictures a shard; by default a hundredth of the split and at least 64, so that even all of
    ImageNet keeps few files open. seed: of the permutation that mixes the classes. workers: processes, by
    default one a core; they do not change a byte of the result. progress: show a bar on stderr.

    May be killed at any moment: the same call goes on from the shards that are whole, and the result is that
    of a call that was never interrupted. A picture that cannot be decoded is skipped and listed in
    unreadable.txt. Returns Prepared. As workers are started afresh ("spawn"), a script needs if __name__ ==
    "__main__".

    Raises DataError if dst was begun from other pictures or with other arguments, if it holds something else,
    if the disk is too small, if more than half of a shard's pictures are unreadable, and as find_pictures
    does.
    """
    if size < 1 or (shard_size is not None and shard_size < 1):
        raise ArgumentError(f"size={size}, shard_size={shard_size}: expected at least 1")
    dst = Path(dst)
    with Console(stderr=True, quiet=not progress).status("listing the pictures"):
        splits = _shuffled(find_pictures(src), seed)
    plan = _plan(splits, size, shard_size, seed)
    if _begin(dst, plan):
        jobs = {split: _jobs(dst, split, entries, size, shard_size) for split, entries in splits.items()}
        _run(dst, [job for some in jobs.values() for job in some], workers or os.cpu_count() or 1, progress)
        _finish(dst, plan, jobs)
    shutil.rmtree(dst / "parts", ignore_errors=True)
    (dst / "plan.json").unlink(missing_ok=True)
    made = {split: open(dst, split) for split in splits}
    counts = {split: len(shards) for split, shards in made.items()}
    classes = max(len(shards.classes) for shards in made.values())
    return Prepared(counts, classes, sum(plan["pictures"].values()) - sum(counts.values()))


def _shuffled(found, seed):
    """Each split's pictures in the order in which they will be stored, drawn from the seed."""
    splits = {}
    for k, (split, entries) in enumerate(found.items()):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(k,)))
        splits[split] = [entries[i] for i in rng.permutation(len(entries))]
    return splits


def _plan(splits, size, shard_size, seed):
    """All that determines the result. Decoders may differ by a grey level: Pillow's version belongs to it."""
    listing = hashlib.sha256()
    for split, entries in splits.items():
        for e in entries:
            listing.update(f"{split}\0{e.name}\0{e.label}\0{e.size}\n".encode("utf-8", "surrogateescape"))
    return {
        "version": VERSION,
        "size": size,
        "shard_size": shard_size,
        "seed": seed,
        "pillow": PIL.__version__,
        "pictures": {split: len(entries) for split, entries in splits.items()},
        "listing": listing.hexdigest()[:16],
    }


def _begin(dst, plan):
    """Whether there is work to do in dst, where nothing, this plan or its result may be; else DataError."""
    if dst.exists() and not dst.is_dir():
        raise DataError(f"{dst}: expected a folder, found a file")
    dst.mkdir(parents=True, exist_ok=True)
    begun, made = dst / "plan.json", dst / "index.json"
    if not begun.exists() and not made.exists():
        others = sorted(p.name for p in dst.iterdir() if not p.match("plan.json.*.tmp"))
        if others:
            raise DataError(f"{dst}: expected an empty folder or one begun by prepare, found {_some(others)}")
        _write(begun, json.dumps(plan, indent=1).encode())
    try:
        earlier = json.loads(begun.read_text()) if begun.exists() else json.loads(made.read_text())["plan"]
        differ = [
            f"{key} {earlier.get(key)}, now {plan[key]}" for key in plan if earlier.get(key) != plan[key]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{begun if begun.exists() else made}: not written by prepare ({error!r})") from error
    if differ:
        raise DataError(
            f"{dst}: was begun with {'; '.join(differ)}. Delete it or give another folder "
            "(listing: the order, names, classes and sizes of the pictures)"
        )
    (dst / "parts").mkdir(exist_ok=True)
    for leftover in [*dst.glob("*.tmp"), *dst.glob("parts/*.tmp")]:  # of a killed run
        leftover.unlink()
    return not made.exists()


def _jobs(dst, split, entries, size, shard_size):
    n = shard_size or max(64, -(-len(entries) // 100))
    numbers = {name: k for k, name in enumerate(_classes(entries))}
    labels = np.array([numbers[e.label] for e in entries], np.int32)
    return [
        Job(str(dst / "parts" / f"{split}-{k:03d}"), entries[i : i + n], labels[i : i + n], size)
        for k, i in enumerate(range(0, len(entries), n))
    ]


def _run(dst, jobs, workers, progress):
    """Write the shards that are not there yet, in processes of their own."""
    pending = [job for job in jobs if not job.done()]
    total, left = (sum(len(job.entries) for job in some) for some in (jobs, pending))
    picture = 3 * jobs[0].size ** 2
    free = shutil.disk_usage(dst).free
    if left * picture > free:
        raise DataError(f"{dst}: needs {left * picture / 1e9:.1f} GB more, found {free / 1e9:.1f} GB free")
    if not pending:
        return
    bar = Progress(
        TextColumn("preparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pictures"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not progress,
    )
    context = get_context("spawn")
    alive, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(pending)), context, _start_worker, (alive,))
    try:
        with bar:
            task = bar.add_task("", total=total, completed=total - left)
            running = {}
            while pending or running:
                while pending and len(running) < workers:
                    job = pending.pop(0)
                    running[pool.submit(_write_shard, job)] = job
                done, _ = wait(running, timeout=0.5, return_when="FIRST_COMPLETED")
                for future in done:
                    future.result()
                    left -= len(running.pop(future).entries)
                bar.update(task, completed=total - left + _bytes_in_work(dst) // picture)
    except BaseException as error:
        ours.close()  # ends the workers that are still at it
        if isinstance(error, (BrokenProcessPool, OSError)):
            raise DataError(f"{dst}: {error}. The same command will go on from here") from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()


def _bytes_in_work(dst):
    """The size of all unfinished shards."""
    try:
        return sum(path.stat().st_size for path in dst.glob("parts/*.npy.*.tmp"))
    except FileNotFoundError:  # just finished
        return 0


def _start_worker(alive):
    """Let a worker end with its parent, even one that was killed: alive then reaches its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    threadpool_limits(1)  # the workers are the parallelism

    def watch():
        try:
            alive.poll(None)
        finally:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_shard(job):
    """Write a shard's pictures, then job.stem.npz with what the finish needs: with it the shard is done.

    The pixels go to a file of another name, which takes the shard's name when it is on the disk. Nothing but
    one picture and the sums is held in memory.
    """
    shard = _shard_path(job)
    total, cross = np.zeros((3, job.size, job.size), np.int64), np.zeros((3, 3), np.int64)
    labels, unreadable, digest = [], [], hashlib.sha256()
    temporary = f"{job.stem}.npy.{os.getpid()}.tmp"
    with Path(temporary).open("wb") as file:
        _write_header(file, len(job.entries), job.size)
        for entry, label in zip(job.entries, job.labels, strict=True):
            try:
                picture = np.ascontiguousarray(read_picture(_read(entry), job.size))
            except MemoryError:
                raise
            except Exception as error:  # whatever a decoder makes of a damaged file
                reason = re.sub(r" <[^<>]* at 0x\w+>", "", str(error))  # an address: another one every time
                unreadable.append(f"{entry.name}\t{type(error).__name__}: {' '.join(reason.split())}")
                continue
            file.write(picture)
            digest.update(picture)
            total += picture
            cross += augment.gram(picture)
            labels.append(label)
        if 2 * len(unreadable) > len(job.entries):
            raise DataError(
                f"{len(unreadable)} of {len(job.entries)} pictures of {shard.name} are unreadable, first "
                + unreadable[0].replace("\t", ": ")
            )
        file.seek(0)
        _write_header(file, len(labels), job.size)  # as long as before: NumPy leaves room for the count
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, shard)

    sums = io.BytesIO()
    np.savez(
        sums,
        labels=np.array(labels, np.int32),
        total=total,
        cross=cross,
        unreadable=np.array(unreadable, str),
        sha256=np.array(digest.hexdigest()),
    )
    _write(Path(job.stem + ".npz"), sums.getvalue())


def _write_header(file, count, size):
    shape = (count, 3, size, size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _shard_path(job):
    stem = Path(job.stem)
    return stem.parents[1] / f"{stem.name}.npy"


def _read(entry):
    with Path(entry.path).open("rb") as file:
        file.seek(entry.offset)
        return file.read(entry.size)


def _finish(dst, plan, jobs):
    """From the shards' sums: labels, mean, covariance, the unreadable pictures, and last the index."""
    splits, unreadable, sums = {}, [], {}
    for split, some in jobs.items():
        parts = [np.load(job.stem + ".npz", allow_pickle=False) for job in some]
        labels = np.concatenate([part["labels"] for part in parts])
        bad = [line for part in parts for line in part["unreadable"].tolist()]
        unreadable += [f"{split}/{line}" for line in bad]
        sums[split] = len(labels), sum(part["total"] for part in parts), sum(part["cross"] for part in parts)
        splits[split] = {
            "count": len(labels),
            "classes": _classes(entry for job in some for entry in job.entries),
            "shards": [
                {"file": _shard_path(job).name, "count": len(part["labels"]), "sha256": part["sha256"].item()}
                for job, part in zip(some, parts, strict=True)
            ],
        }
        _write_array(dst / f"{split}-labels.npy", labels)
    mean, covariance = augment.mean_and_covariance(*(sums.get("train") or sums["val"]))
    eigenvalues, eigenvectors = augment.pca(covariance)
    _write_array(dst / "mean.npy", mean)
    if unreadable:
        _write(
            dst / "unreadable.txt",
            "".join(f"{line}\n" for line in sorted(unreadable)).encode("utf-8", "replace"),
        )
    index = {
        "format": FORMAT,
        "version": VERSION,
        "size": plan["size"],
        "covariance": covariance.tolist(),
        "eigenvalues": eigenvalues.tolist(),
        "eigenvectors": eigenvectors.tolist(),
        "splits": splits,
        "plan": plan,
    }
    _write(dst / "index.json", json.dumps(index, indent=1).encode())


def _write_array(path, array):
    data = io.BytesIO()
    np.save(data, array)
    _write(path, data.getvalue())


def _write(path, data):
    """The bytes of a small file, all or none of them, whenever the process ends."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    with Path(temporary).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
