"""A training run in a folder: begun, interrupted, resumed, and looked at later.

    run.json                    the settings
    metrics.jsonl               one JSON record per line: kind "train", "validation", "drop" (of the rate) or
                                "sizes"
    step-00001234.safetensors   checkpoints, the last few: weights, velocities, and all that the next step
                                depends on (generator, place in the data, schedule), so that a resumed run
                                ends with the very bits of one that was never interrupted
    lock                        held by the process that is training

A checkpoint holds the whole network whatever the number of ranks that wrote it, and any number can read it.
"""

import contextlib
import json
import math
import os
import signal
import threading
import zlib
from pathlib import Path
from time import perf_counter

import numpy as np

from tinyalex import files
from tinyalex.data import Images
from tinyalex.errors import ArgumentError, DataError, reason
from tinyalex.evaluate import errors, probabilities
from tinyalex.ops.cuda.pictures import feed
from tinyalex.optim import SGD
from tinyalex.parallel import keeps_ranks, updated_in_turn
from tinyalex.runs import checkpoint, version1
from tinyalex.runs.checkpoint import checkpoints
from tinyalex.runs.recipe import Schedule, pictures_of, steps_of
from tinyalex.runs.settings import Settings
from tinyalex.train import Place, Stopped, fit

CHANCE = 3  # epochs at the loss of chance, after which a run says so
FAR = 10  # times the loss of chance: said after an epoch


def check(settings, data, ranks):
    """Raise the error of settings that the data or this number of ranks do not allow."""
    network = settings.network
    placed, batch = network.plan(ranks, settings.parallel), settings.recipe.batch
    if batch % placed[0].parts:
        raise ArgumentError(f"batch: {batch} images cannot be shared evenly by {placed[0].parts} ranks")
    if settings.ranks not in (None, ranks):
        raise ArgumentError(
            f"{settings.parallel}: what is learned depends on the number of ranks: the run was begun on "
            f"{settings.ranks}, found {ranks}"
        )
    if data.train is None:
        raise DataError(f"{settings.data}: expected pictures to train on, found a val split alone")
    if network.input[0] != 3 or network.input[1] != network.input[2]:
        raise DataError(f"network: expected an input of three square maps, found {network.input}")
    if network.outputs != (len(data.classes),):
        name = next(p.layer.name for p in reversed(placed) if p.layer.sizes(p.x))
        raise DataError(
            f"{settings.data}: has {len(data.classes)} classes; {name}, the network's last layer, makes "
            f"{' × '.join(map(str, network.outputs))} outputs"
        )
    if batch // placed[0].parts % settings.accumulate:
        raise DataError(
            f"--accumulate: expected a number of equal parts of the {batch // placed[0].parts} images that a "
            f"rank has of a batch, found {settings.accumulate}"
        )
    if settings.accumulate > 1 and settings.parallel.startswith("hybrid"):
        raise DataError("--accumulate: hybrid layouts take the whole batch, or turns (hybrid:b)")
    _check_pictures(settings, data)
    with data.loader("train", settings, augmentation=settings.recipe.augmentation, train=True):
        pass


def _check_pictures(settings, data):
    """Raise the error of too few or too small pictures, with the option of the command that helps."""
    count, side, crop = len(data.train.labels), data.mean.shape[-1], settings.network.input[-1]
    scale = settings.recipe.augmentation.scale
    if count < settings.recipe.batch:
        raise DataError(
            f"{settings.data}: has {count} pictures to train on, fewer than a batch of "
            f"{settings.recipe.batch}: --batch {count} at most"
        )
    if scale is not None:
        _check_scale(settings, data, *settings.recipe.augmentation.scales)
        return
    if hasattr(data.train, "sizes"):
        raise DataError(
            f"{settings.data}: holds whole pictures, of a shorter side of {side}: --scale {side} at most"
        )
    full = settings.upscale or side
    if crop > full:
        found = f"{side} pixels" + (f", brought to {full}" if settings.upscale else "")
        raise DataError(
            f"{settings.data}: its pictures have {found}, and the network sees {crop}: "
            f"--size {full} at most, or --upscale {crop} at least"
        )


def _check_scale(settings, data, least, most):
    """Raise the error of a scale that is smaller than the crop, or larger than what was prepared."""
    side, crop = data.mean.shape[-1], settings.network.input[-1]
    if settings.upscale is not None:
        raise DataError("--scale: rescales pictures itself, found --upscale as well")
    if least > most:
        raise DataError(f"--scale: expected LEAST,MOST, found {least},{most}")
    if crop > least:
        raise DataError(
            f"{settings.data}: its pictures are rescaled to a shorter side of {least} pixels, and the "
            f"network sees {crop}: --size {least} at most, or --scale {crop} at least"
        )
    if most > side and not isinstance(data.train, Images):
        raise DataError(
            f"{settings.data}: its pictures have a shorter side of {side} pixels, and --scale asks for "
            f"{most}: prepare them with --side {most}"
        )


def _check_same(comm, settings, data):
    """Raise the error of a rank that has opened other pictures than rank 0, on another machine perhaps."""
    mine = [data.classes, zlib.crc32(data.mean.tobytes())]
    mine += [None if split is None else sum_of(split.labels) for split in (data.train, data.val)]
    if mine != comm.share(mine):
        raise DataError(
            f"{settings.data}: expected the pictures that rank 0 found, found others on rank {comm.rank}: "
            "their classes, their mean picture or their labels, in order, are not those"
        )


def begin(out, settings):
    """Make a run folder.  DataError if it exists and is not empty, or if another process begins one there."""
    out = Path(out)
    _check_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    with lock(out):  # of two that begin at once, one finds the other's file
        _check_empty(out)
        _write_settings(out, settings)


def _write_settings(out, settings):
    files.write_text(
        out / "run.json", json.dumps({"version": checkpoint.VERSION, **settings.to_json()}) + "\n"
    )


def _check_empty(out):
    if out.exists() and any(path.name != "lock" for path in out.iterdir()):
        more = f": resume it with `tinyalex resume {out}`" if (out / "run.json").exists() else ""
        raise DataError(f"{out}: expected a new or empty folder, found files in it{more}")


def settings_of(out):
    """Read the settings of a run folder; DataError if it is none."""
    path = Path(out) / "run.json"
    try:
        found = json.loads(path.read_text())
        return Settings.from_json(checkpoint.of_this_version(found, version1.settings))
    except FileNotFoundError:
        data = (Path(out) / "index.json").exists() or (Path(out) / "plan.json").exists()
        found = "pictures that `tinyalex prepare` made" if data else "no such file"
        raise DataError(f"{path}: expected the settings of a run, found {found}") from None
    except (OSError, ValueError, RecursionError) as error:  # DataError too
        raise DataError(f"{path}: expected the settings of a run: {reason(error)}") from error


def metrics(out):
    """Read metrics.jsonl: a list of records.  A last line that was cut short is left out."""
    path = Path(out) / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON
        raise DataError(f"{path}: a line is not JSON: {error}") from error
    for record in records:
        if not _is_record(record):
            raise DataError(f"{path}: expected records of a run, found {str(record)[:80]}")
    return records


FIELDS = {"train": {"loss", "error"}, "validation": {"loss", "top1", "top5"}, "sizes": {"layers"}}


def _is_record(record):
    """Whether something from a file is what `_Run` writes: numbers, but for its kind."""
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str):
        return False
    layers = record.get("layers", {})
    sizes = layers.values() if isinstance(layers, dict) else [None]
    numbers = [v for key, v in record.items() if key not in ("kind", "layers")]
    for size in sizes:
        numbers += [size.get("weight"), size.get("update")] if isinstance(size, dict) else [None]
    wanted = FIELDS.get(record["kind"], set()) | {"step", "epoch", "rate"}
    return wanted <= record.keys() and all(map(_is_number, numbers))


def _is_number(value):
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


@contextlib.contextmanager
def lock(out):
    """Hold the run folder while training; DataError if another process does.  It ends with the process."""
    with files.lock(out, "training"):
        files.sweep(out)
        yield


@contextlib.contextmanager
def stop_at_signal():
    """Yield an Event that the first Ctrl-C (or SIGTERM) sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handler(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def job(out, settings, data, new=False, longer=False, stop=None, on_event=None):
    """Return what each rank runs, a function of its comm, to train in the run folder `out`.

    settings, data: a `Settings` and an opened data set.  new: the folder is made, and must be new or empty.
    stop, on_event, longer: as of `train`.  The errors of invalid settings are raised before the folder
    is touched.
    """
    stop = stop or threading.Event()

    def rank(comm):
        with contextlib.ExitStack() as stack:
            chosen = settings
            if new and keeps_ranks(settings.network, settings.parallel):
                chosen = settings._replace(ranks=comm.size)
            if comm.rank == 0:
                check(chosen, data, comm.size)
                if new:
                    if settings.start_from:
                        checkpoint.inherited(settings.network, settings.start_from)
                    begin(out, chosen)
                stack.enter_context(lock(out))
            # Nobody looks into the folder before; and what each process read for itself may be another state.
            chosen = Settings.from_json(comm.share(chosen.to_json()))
            _check_same(comm, chosen, data)
            return train(comm, out, chosen, data, stop, on_event, longer)

    return rank


def train(comm, out, settings, data, stop, on_event=None, longer=False):
    """Train (or go on training) in the run folder; every rank runs this.

    stop: an Event; when it is set, the step is finished, a checkpoint written, and False returned.  A
    validation that it interrupts begins anew when the run goes on.
    on_event(record) is called by rank 0 with every record, once a step with kind "step", once a batch of
    validation with kind "validating", and with kind "chance" where the network does no better than guessing.
    longer: a run that came to its end by its patience goes on at its last rate.  ArgumentError for one that
    has as many epochs behind it as the settings say, or more.
    Returns True when the recipe has come to its end.
    """
    run = _Run(comm, Path(out), settings, data, stop, on_event, longer)
    if longer:
        run.schedule.go_on()
    return run.go()


class _Run:
    def __init__(self, comm, out, settings, data, stop, on_event, longer=False):
        self.comm, self.out, self.settings, self.data = comm, out, settings, data
        self.stop, self.on_event = stop, on_event
        self.rng = np.random.default_rng(settings.seed)  # starting weights, then dropout
        self.net = settings.network.build(comm, self.rng, parallel=settings.parallel)
        r = settings.recipe
        self.optimizer = SGD(
            self.net, r.rate, r.momentum, r.decay, decay_biases=r.decay_biases, decays=r.decays
        )
        smaller = r.growth(r.batch / comm.size) / r.growth(r.batch)  # of a turn's batch
        self.schedule = Schedule(r, dict.fromkeys(updated_in_turn(self.net), smaller))
        self.place = Place()
        self.saved = None  # (step, epoch) of the newest checkpoint
        self.sized = None  # step of the newest record of sizes
        self.at_chance = self.far_above = 0  # epochs in a row
        self.noise = 0.0
        newest = comm.share(checkpoints(out)[-1:])  # another machine may see the folder as it was before
        if newest:
            self._restore(newest[0])
            if longer and self.place.epoch >= r.epochs:
                raise ArgumentError(
                    f"epochs: {out} has {self.place.epoch} behind it: expected more, found {r.epochs}"
                )
        elif settings.start_from:
            checkpoint.inherit(self.net, settings.network, settings.start_from)
        if comm.rank == 0:
            _write_settings(out, settings)  # the pictures may have been moved
            # What was recorded after this checkpoint will be recorded again: where it stopped in its
            # validation, the last step too.
            recorded = self.place.step - (self.place.batch == self.steps)
            kept = [record for record in metrics(out) if record["step"] <= recorded]
            text = "".join(json.dumps(record) + "\n" for record in kept)
            files.write_text(out / "metrics.jsonl", text)
        if settings.start_from and not self.saved:
            self._save(planned=False)  # the other run may be gone when this one goes on

    @property
    def steps(self):
        """Of the epoch in which the run is."""
        return steps_of(self.settings.recipe, self.place.epoch, len(self.data.train.labels))

    def go(self):
        recipe = self.settings.recipe
        epochs = 0 if self.schedule.ended else recipe.epochs
        changes = {change.epoch for change in recipe.schedule or () if change.pictures}
        try:
            for end in sorted({e for e in changes if e < epochs} | {epochs}):  # as many steps in each epoch
                fit(
                    self.net, self.optimizer, self._batches, self.steps, end, place=self.place,
                    parts=self.settings.accumulate, begin_epoch=self._begin_epoch,
                    on_step=self._on_step, end_epoch=self._end_epoch,
                )  # fmt: skip
        except Stopped:
            self._save(planned=False)
            return False
        self._save()
        return True

    def _begin_epoch(self, place):
        if place.batch == 0 < place.step and place.step % self.settings.save_every == 0:
            self._save()
        self.noise = self.schedule.begin_epoch(place.epoch, self.optimizer)
        self.clock = perf_counter()  # at the end of the step before
        self._stop_here()

    def _batches(self, epoch, start):
        """The epoch's batches from one on, this rank's part of each."""
        device = self.comm.device
        pictures = pictures_of(self.settings.recipe, epoch, len(self.data.train.labels))
        with self._loader(
            "train", noise=self.noise, start=(epoch, start), epochs=epoch + 1, pictures=pictures
        ) as loader:
            for images, labels in feed(device, self._shared(loader, self.steps - start)):
                yield images, device.put(labels)

    def _shared(self, loader, count):
        """So many batches of the loader that the first of the row has, on every rank of it."""
        for _ in range(count):
            yield self.net.row.share(loader and next(loader))

    def _stop_here(self):
        """Stop before the next step of the epoch, if all are to."""
        if self.place.batch < self.steps and self.comm.share(self.stop.is_set()):
            raise Stopped

    def _on_step(self, place, result):
        loss, error = place.means()
        before, self.clock = self.clock, perf_counter()
        self._emit(
            kind="step", loss=loss, error=error,
            images_a_second=self.settings.recipe.batch / (self.clock - before),
        )  # fmt: skip
        if place.step % self.settings.save_every == 0 and place.batch < self.steps:
            self._save()
        self._stop_here()

    def _end_epoch(self, place):
        """Validate, record, and tell the schedule; whether it ends here."""
        loss, error = place.means()
        self._emit("train", epoch=place.epoch + 1, loss=loss, error=error)
        self._look_for_chance(loss)
        if self.steps < self.settings.save_every:  # else one with every checkpoint
            self._record_sizes(checkpoint.state(self.net, self.optimizer))
        if self.data.val is not None:
            with self._loader("val") as loader:
                p, labels = probabilities(self.net, loader and self._until_stopped(loader))
            if self.comm.share(self.stop.is_set()):
                raise Stopped
            loss, top1, top5 = errors(p, labels)
            self._emit("validation", epoch=place.epoch + 1, loss=loss, top1=top1, top5=top5)
            error = top1
        if self.schedule.end_epoch(error):
            r = self.settings.recipe
            rate = r.growth(r.batch) * r.rate * 0.1 ** self.schedule.state["drops"]
            self._emit("drop", epoch=place.epoch + 1, rate=rate, ended=int(self.schedule.ended))
        return self.schedule.ended

    def _look_for_chance(self, loss):
        """Say once when the loss has stood at that of guessing, log K, for some epochs, or far above it."""
        chance = math.log(len(self.data.classes))
        self.at_chance = self.at_chance + 1 if chance > 0 and abs(loss / chance - 1) < 0.01 else 0
        self.far_above = self.far_above + 1 if loss > FAR * chance > 0 else 0
        if self.at_chance == CHANCE or self.far_above == 1:
            self._emit("chance", epoch=self.place.epoch + 1, loss=loss, chance=chance)

    def _until_stopped(self, loader):
        """The batches of validation, but none after the stop."""
        for done, batch in enumerate(loader, 1):
            yield batch
            self._emit("validating", done=done, of=loader.batches_per_epoch)
            if self.net.data.share(self.stop.is_set()):
                return

    @contextlib.contextmanager
    def _loader(self, split, noise=0.0, **kwargs):
        """The split's Loader on the first of each row, for its part of the batch; None on the others."""
        if self.net.row.rank:
            yield None
            return
        augmentation = self.settings.recipe.augmentation._replace(noise=noise)
        with self.data.loader(
            split, self.settings, augmentation=augmentation, train=split == "train",
            device=self.comm.device, part=(self.net.data.rank, self.net.data.size), **kwargs,
        ) as loader:  # fmt: skip
            yield loader

    def _emit(self, kind, **fields):
        if self.comm.rank:
            return
        place = {
            "kind": kind, "step": self.place.step, "epoch": self.place.epoch, "rate": self.optimizer.rate,
        }  # fmt: skip
        record = place | fields
        if kind not in ("step", "validating", "chance"):
            with open(self.out / "metrics.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a checkpoint that outlives a power cut must not be without it
        if self.on_event:
            self.on_event(record)

    def _save(self, planned=True):
        place = self.place
        if self.saved == (place.step, place.epoch):
            return
        arrays = checkpoint.state(self.net, self.optimizer)
        self.saved = place.step, place.epoch
        if planned:  # an interruption leaves no trace in the metrics
            self._record_sizes(arrays)
        if self.comm.rank:
            return
        arrays["data.mean"] = self.data.mean
        settings = self.settings.to_json()
        metadata = {
            "network": settings.pop("network"),
            "classes": list(self.data.classes),
            "pictures": None,
            "labels": sum_of(self.data.train.labels),
            "settings": settings,
            "epoch": place.epoch,
            "batch": place.batch,
            "step": place.step,
            "sums": [place.loss, place.error],
            "schedule": self.schedule.state,
            "generator": self.rng.bit_generator.state,
        }
        checkpoint.save(self.out / f"step-{place.step:08d}.safetensors", arrays, metadata)
        for old in checkpoints(self.out)[: -self.settings.keep]:
            old.unlink()

    def _record_sizes(self, arrays):
        """At most once a step, on rank 0, which has the arrays."""
        if self.comm.rank == 0 and self.sized != self.place.step:
            self.sized = self.place.step
            self._emit("sizes", layers=_sizes(arrays, self.optimizer))

    def _restore(self, path):
        arrays, metadata = checkpoint.load(path)
        try:
            mean, classes = arrays.pop("data.mean"), metadata["classes"]
            self.place = Place(*(metadata[k] for k in ("epoch", "batch", "step")), *metadata["sums"])
            self.saved = self.place.step, self.place.epoch
            self.schedule.state = metadata["schedule"]
            self.rng.bit_generator.state = metadata["generator"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: expected a checkpoint of a run: {error!r}") from error
        labels = sum_of(self.data.train.labels)
        same = classes == list(self.data.classes) and np.array_equal(mean, self.data.mean)
        if not same or metadata.get("labels", labels) != labels:
            raise DataError(
                f"{self.settings.data}: expected the pictures that the run began with, found others: "
                f"their classes, their mean picture or their labels, in order, are not those in {path}"
            )
        checkpoint.restore(self.net, self.optimizer, arrays, path)


def sum_of(labels):
    """A check sum: of the same pictures in another order, or with other labels, it is another."""
    return zlib.crc32(np.asarray(labels, "<i8").tobytes())


def _sizes(arrays, optimizer):
    """Mean |w| and mean |Δw| of every parameter: the last update is v, or 0 where the rate is 0.

    (2012 printed both for each layer.)
    """
    sizes = {}
    for name in optimizer.velocity:
        update = np.abs(arrays[f"velocity.{name}"]).mean() if optimizer.rate_of(name) else 0.0
        sizes[name] = {"weight": float(np.abs(arrays[name]).mean()), "update": float(update)}
    return sizes
