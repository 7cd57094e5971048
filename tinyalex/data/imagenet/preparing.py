"""Pictures to shards: work that may be killed at any moment."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import PIL
from threadpoolctl import threadpool_limits

from tinyalex.data import augment
from tinyalex.data.imagenet import shards
from tinyalex.data.imagenet.shards import FORMAT, VERSION
from tinyalex.data.imagenet.sources import Entry, find_pictures, hold_out
from tinyalex.data.pictures import read_picture, shorter_side
from tinyalex.devices import cpu_count
from tinyalex.errors import ArgumentError, DataError, few, reason
from tinyalex.files import lock, printable, replacing, sweep, write_array, write_bytes, write_text


class Prepared(NamedTuple):
    """What prepare() made: pictures of each split, classes, and how many pictures were unreadable.

    verified: whether the shards were there before, and were compared with their SHA-256.  enlarged: how many
    pictures had fewer pixels than they have now; 0 where the shards were there before.
    """

    counts: dict[str, int]
    classes: int
    unreadable: int
    verified: bool
    enlarged: int = 0


class Job(NamedTuple):
    """One shard to write: the file without its suffix, the pictures, their labels, the side, EXIF, whole."""

    stem: str
    entries: list[Entry]
    labels: np.ndarray
    size: int
    exif: bool
    whole: bool

    def done(self):
        """Whether its shard is written."""
        return Path(self.stem + ".npz").exists() and _shard_path(self).exists()


def prepare(
    src, dst, *, size=256, whole=False, shard_size=None, seed=0, val=None, exif=None, workers=None,
    report=None, progress=None,
):  # fmt: skip
    """Write the pictures of src (see find_pictures) as shards into the folder dst (see this package's text).

    size: side of the squares, the middles of the pictures; whole: the shorter side of pictures that are kept
    whole. shard_size: pictures per shard; by default a hundredth of the split and at least 64, so that even
    all of ImageNet makes few files. seed: of the permutation that mixes the classes, and of what is held out.
    val: the share of each class's train pictures that is held out as val (see hold_out). exif: turn pictures
    upright by their EXIF orientation; by default all but ILSVRC's. workers: processes, by default one per
    core; they do not change a byte of the result. report: called with what was found (Found) before anything
    is written. progress: called with (what is done, pictures done, of how many or None) while it is.

    May be killed at any moment: the same call goes on from the shards that are whole, and the result is that
    of a call that was never interrupted. A picture that cannot be decoded is skipped and listed in
    unreadable.txt. Where the result is there already, it is verified. Returns Prepared.

    Raises DataError if dst was begun from other pictures or with other arguments, if it holds something else
    or lies in src, if another process is at work there, if the disk is too small, if a file cannot be read or
    is shorter than when it was listed, if more than half of a shard's pictures cannot be decoded, and as
    find_pictures, hold_out and Shards.verify do.
    """
    if size < 1 or (shard_size is not None and shard_size < 1):
        raise ArgumentError(f"size={size}, shard_size={shard_size}: expected at least 1")
    src, dst, progress, enlarged = Path(src), Path(os.path.abspath(dst)), progress or _silent, 0
    if dst.resolve().is_relative_to(src.resolve()):
        raise DataError(f"{dst}: expected a folder outside of {src}, in which the pictures are")
    found = find_pictures(src, lambda count: progress("listing the pictures", count, None))
    if val is not None:
        found = hold_out(found, val, seed)
    exif = not found.ilsvrc if exif is None else exif
    if report:
        report(found)
    splits, classes = _shuffled(found.splits, seed), found.classes
    plan = _plan(splits, size=size, whole=whole, shard_size=shard_size, seed=seed, val=val, exif=exif)
    _check(dst)
    dst.mkdir(parents=True, exist_ok=True)
    with lock(dst, "preparing pictures"):
        new = _begin(dst, plan)
        if new:
            jobs = {
                split: _jobs(dst, split, entries, classes, size, shard_size, exif, whole)
                for split, entries in splits.items()
            }
            _run(dst, [job for some in jobs.values() for job in some], workers or cpu_count(), progress)
            enlarged = _finish(dst, plan, jobs, classes)
        shutil.rmtree(dst / "parts", ignore_errors=True)
        (dst / "plan.json").unlink(missing_ok=True)
        made = {split: shards.open(dst, split) for split in splits}
        counts = {split: len(pictures) for split, pictures in made.items()}
        if not new:
            _verify(made.values(), progress)
    unreadable = sum(plan["pictures"].values()) - sum(counts.values())
    return Prepared(counts, len(classes), unreadable, not new, enlarged)


def _silent(doing, done, total):
    pass


def _verify(made, progress):
    done, total = 0, sum(map(len, made))

    def on_shard(count):
        nonlocal done
        done += count
        progress("verifying", done, total)

    for pictures in made:
        pictures.verify(on_shard)


def _shuffled(found, seed):
    """Each split's pictures in the order in which they will be stored, drawn from the seed."""
    splits = {}
    for k, (split, entries) in enumerate(found.items()):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(k,)))
        splits[split] = [entries[i] for i in rng.permutation(len(entries))]
    return splits


def _plan(splits, **arguments):
    """All that determines the result. Decoders may differ by a grey level: Pillow's version belongs to it."""
    listing = hashlib.sha256()
    for split, entries in splits.items():
        for e in entries:
            listing.update(f"{split}\0{e.name}\0{e.label}\0{e.size}\n".encode("utf-8", "surrogateescape"))
    return {
        "version": VERSION,
        **arguments,
        "pillow": PIL.__version__,
        "pictures": {split: len(entries) for split, entries in splits.items()},
        "listing": listing.hexdigest()[:16],
    }


def _check(dst):
    """DataError if dst is a file, or a folder with files in it that prepare did not begin."""
    if not dst.exists():
        return
    if not dst.is_dir():
        raise DataError(f"{dst}: expected a folder, found a file")
    found = sorted(p.name for p in dst.iterdir() if p.name != "lock" and not p.match("plan.json.*.part"))
    if found and not (dst / "plan.json").exists() and not (dst / "index.json").exists():
        raise DataError(f"{dst}: expected an empty folder or one begun by prepare, found {few(found)}")


def _begin(dst, plan):
    """Whether there is work to do in dst; DataError if it was begun with another plan."""
    begun, made = dst / "plan.json", dst / "index.json"
    complete = made.exists()
    if not complete and not begun.exists():
        write_text(begun, json.dumps(plan, indent=1))
    try:
        if complete:
            earlier = json.loads(made.read_text())["plan"]
            plan = plan | {"pillow": earlier.get("pillow")}  # nothing is left to decode
        else:
            earlier = json.loads(begun.read_text())
        earlier = {"val": None, "exif": False, "whole": False} | earlier  # what all earlier versions did
        differ = [
            f"{key} {earlier.get(key)}, now {plan[key]}" for key in plan if earlier.get(key) != plan[key]
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{made if complete else begun}: not written by prepare ({error!r})") from error
    if differ:
        raise DataError(
            f"{dst}: was begun with {'; '.join(differ)}. Delete it or give another folder "
            "(listing: the order, names, classes and sizes of the pictures)"
        )
    (dst / "parts").mkdir(exist_ok=True)
    sweep(dst)
    return not complete


def _jobs(dst, split, entries, classes, size, shard_size, exif, whole=False):
    n = shard_size or max(64, -(-len(entries) // 100))
    numbers = {name: k for k, name in enumerate(classes)}
    labels = np.array([numbers[e.label] for e in entries], np.int32)
    return [
        Job(str(dst / "parts" / f"{split}-{k:03d}"), entries[i : i + n], labels[i : i + n], size, exif, whole)
        for k, i in enumerate(range(0, len(entries), n))
    ]


def _run(dst, jobs, workers, progress):
    """Write the shards that are not there yet, in processes of their own."""
    pending = [job for job in jobs if not job.done()]
    total, left = (sum(len(job.entries) for job in some) for some in (jobs, pending))
    picture = 3 * jobs[0].size ** 2 * (4 if jobs[0].whole else 3) // 3  # most photographs are 4 : 3
    free = shutil.disk_usage(dst).free
    if left * picture > free:
        raise DataError(f"{dst}: needs {left * picture / 1e9:.1f} GB more, found {free / 1e9:.1f} GB free")
    if not pending:
        return
    context = get_context("spawn")
    alive, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(min(workers, len(pending)), context, _start_worker, (alive,))
    try:
        running = {}
        progress("preparing", total - left, total)
        while pending or running:
            while pending and len(running) < workers:
                job = pending.pop(0)
                with _no_script(), _no_interrupt():
                    running[pool.submit(_write_shard, job)] = job
            done, _ = wait(running, timeout=0.5, return_when="FIRST_COMPLETED")
            for future in done:
                future.result()
                left -= len(running.pop(future).entries)
            progress("preparing", total - left + _bytes_in_work(dst) // picture, total)
    except BaseException as error:
        ours.close()  # ends the workers that are still at it
        if isinstance(error, (BrokenProcessPool, OSError, DataError)):
            why = str(error).rstrip(".")
            raise DataError(f"{dst}: {why}. The same command will go on from here") from error
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()


@contextlib.contextmanager
def _no_script():
    """Start workers that do not run this program's script again, which may call prepare() unguarded."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _no_interrupt():
    """Start workers to whom Ctrl-C means nothing from the first: they inherit what is blocked."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _bytes_in_work(dst):
    """The size of all unfinished shards."""
    try:
        return sum(path.stat().st_size for path in dst.glob("*.npy.*.part"))
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

    Nothing but one picture and the sums is held in memory.
    """
    shard = _shard_path(job)
    total, cross = np.zeros((3, job.size, job.size), np.int64), np.zeros((3, 3), np.int64)
    if job.whole:
        total = np.zeros((3, 1, 1), np.int64)
    labels, sizes, unreadable, digest, enlarged = [], [], [], hashlib.sha256(), 0
    with replacing(shard) as file:
        _write_header(file, job, len(job.entries), 0)
        for entry, label in zip(job.entries, job.labels, strict=True):
            data = entry.read()  # an error of the disk ends the run: it may be gone when the run goes on
            try:
                picture = np.ascontiguousarray(read_picture(data, job.size, job.exif, job.whole))
            except MemoryError:
                raise
            except Exception as error:  # whatever a decoder makes of a damaged file
                unreadable.append(f"{printable(entry.name)}\t{type(error).__name__}: {reason(error)}")
                continue
            file.write(picture)
            digest.update(picture)
            total += picture.sum((1, 2), keepdims=True, dtype=np.int64) if job.whole else picture
            sizes.append(picture.shape[1:])
            cross += augment.gram(picture)
            labels.append(label)
            enlarged += shorter_side(data) < job.size
        if 2 * len(unreadable) > len(job.entries):
            raise DataError(
                f"{len(unreadable)} of {len(job.entries)} pictures of {shard.name} are unreadable, first "
                + unreadable[0].replace("\t", ": ")
            )
        file.seek(0)
        # As long as before: NumPy leaves room for the count.
        _write_header(file, job, len(labels), 3 * sum(h * w for h, w in sizes))
    with replacing(job.stem + ".npz") as file:
        np.savez(
            file,
            labels=np.array(labels, np.int32),
            sizes=np.array(sizes, np.int32).reshape(-1, 2),
            total=total,
            cross=cross,
            unreadable=np.array(unreadable, str),
            enlarged=np.array(enlarged),
            sha256=np.array(digest.hexdigest()),
        )


def _write_header(file, job, count, nbytes):
    shape = (nbytes,) if job.whole else (count, 3, job.size, job.size)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def _shard_path(job):
    stem = Path(job.stem)
    return stem.parents[1] / f"{stem.name}.npy"


def _finish(dst, plan, jobs, classes):
    """From the shards' sums: labels, mean, covariance, the unreadable pictures, and last the index.

    Returns how many pictures were enlarged.
    """
    splits, unreadable, sums, counts, enlarged = {}, [], {}, {}, 0
    keys = ("labels", "unreadable", "sha256") + ("sizes",) * plan["whole"]
    for split, some in jobs.items():
        parts, total, cross = [], 0, 0
        for job in some:
            with np.load(job.stem + ".npz", allow_pickle=False) as part:
                total, cross = total + part["total"], cross + part["cross"]
                enlarged += int(part["enlarged"]) if "enlarged" in part else 0  # of an earlier version's
                parts.append({key: part[key] for key in keys})
        labels = np.concatenate([part["labels"] for part in parts])
        if plan["whole"]:
            sizes = np.concatenate([part["sizes"] for part in parts])
            write_array(dst / f"{split}-sizes.npy", sizes)
            counts[split] = int(sizes.prod(axis=1, dtype=np.int64).sum())  # of pixels
        bad = [line for part in parts for line in part["unreadable"].tolist()]
        unreadable += [f"{split}/{line}" for line in bad]
        sums[split] = counts.get(split, len(labels)), total, cross
        splits[split] = {
            "count": len(labels),
            "classes": classes,
            "shards": [
                {"file": _shard_path(job).name, "count": len(part["labels"]), "sha256": part["sha256"].item()}
                for job, part in zip(some, parts, strict=True)
            ],
        }
        write_array(dst / f"{split}-labels.npy", labels)
    mean, covariance = augment.mean_and_covariance(*(sums.get("train") or sums["val"]))
    write_array(
        dst / "mean.npy", np.ascontiguousarray(np.broadcast_to(mean, (3, plan["size"], plan["size"])))
    )
    if unreadable:
        lines = "".join(f"{line}\n" for line in sorted(unreadable))
        write_bytes(dst / "unreadable.txt", lines.encode("utf-8", "replace"))
    index = {
        "format": FORMAT,
        "version": VERSION + plan["whole"],
        "size": plan["size"],
        "covariance": covariance.tolist(),
        "splits": splits,
        "plan": plan,
    }
    write_text(dst / "index.json", json.dumps(index, indent=1))
    return enlarged
