"""A training run of AlexNet in a folder: begun, interrupted, resumed, and looked at later.

    run.json                    the settings
    metrics.jsonl               one JSON record a line: kind "train", "validation" or "sizes"
    step-00001234.safetensors   checkpoints, the last few: weights, velocities, and all that the next step
                                depends on (generator, place in the data, schedule), so that a resumed run
                                ends with the very bits of one that was never interrupted
    lock                        held by the process that is training

A checkpoint holds the whole network whatever the number of ranks that wrote it, and any number can read it.
"""

import contextlib
import json
import os
import signal
import threading
from pathlib import Path
from time import perf_counter

import numpy as np

from tinyalex import files
from tinyalex.errors import DataError
from tinyalex.evaluate import errors, probabilities
from tinyalex.measure.describe import describe
from tinyalex.models.alexnet import alexnet
from tinyalex.optim import SGD
from tinyalex.runs import checkpoint
from tinyalex.runs.recipe import Schedule
from tinyalex.runs.settings import Settings
from tinyalex.train import model_parallel_step


def check(settings, data, ranks):
    """Raise the ArgumentError of settings that the data or this number of ranks do not allow."""
    describe(settings.network, ranks, settings.recipe.batch)
    if len(data.classes) != settings.network.classes:
        raise DataError(
            f"{settings.data}: expected pictures of {settings.network.classes} classes, for which the "
            f"network was made, found {len(data.classes)}"
        )
    with data.loader("train", settings, recipe=settings.recipe.pictures, train=True):
        pass


def begin(out, settings):
    """Make a run folder.  DataError if it exists and is not empty, or if another process begins one there."""
    out = Path(out)
    _check_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    with lock(out):  # of two that begin at once, one finds the other's file
        _check_empty(out)
        _write_settings(out, settings)


def _write_settings(out, settings):
    files.write_text(out / "run.json", json.dumps(settings.to_json(), indent=1) + "\n")


def _check_empty(out):
    if out.exists() and any(path.name != "lock" for path in out.iterdir()):
        more = f": resume it with `tinyalex resume {out}`" if (out / "run.json").exists() else ""
        raise DataError(f"{out}: expected a new or empty folder, found files in it{more}")


def settings_of(out):
    """Read the settings of a run folder; DataError if it is none."""
    path = Path(out) / "run.json"
    try:
        return Settings.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError) as error:  # DataError too
        raise DataError(f"{path}: expected the settings of a run: {error}") from error


def checkpoints(out):
    """Return the checkpoints of a run folder, oldest first."""
    return sorted(Path(out).glob("step-*.safetensors"))


def newest(path):
    """Return the checkpoint that a path means: the file itself, or the newest of a run folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = checkpoints(path)
    if not found:
        raise DataError(f"{path}: expected a run folder with checkpoints, found none")
    return found[-1]


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


def train(comm, out, settings, data, stop, on_event=lambda record: None):
    """Train (or go on training) in the run folder; every rank runs this.

    stop: an Event; when it is set, the step is finished, a checkpoint written, and False returned.  A
    validation that it interrupts begins anew when the run goes on.
    on_event(record) is called by rank 0 with every record, once a step with kind "step", and once a batch of
    validation with kind "validating".
    Returns True when the recipe has come to its end.
    """
    return _Run(comm, Path(out), settings, data, on_event).go(stop)


class _Run:
    def __init__(self, comm, out, settings, data, on_event):
        self.comm, self.out, self.settings, self.data, self.on_event = comm, out, settings, data, on_event
        self.rng = np.random.default_rng(settings.seed)  # starting weights, then dropout
        self.net = alexnet(settings.network, comm, self.rng)
        r = settings.recipe
        self.optimizer = SGD(self.net, r.rate, r.momentum, r.decay, decay_biases=r.decay_biases)
        self.schedule = Schedule(r)
        self.epoch = self.batch = self.step = 0
        self.sums = [0.0, 0.0]  # of loss and error since the epoch began
        self.saved = None  # the step of the newest checkpoint
        self.batches = len(data.train.labels) // r.batch  # in an epoch
        if checkpoints(out):
            self._restore(checkpoints(out)[-1])
        if comm.rank == 0:
            _write_settings(out, settings)  # the pictures may have been moved
            # What was recorded after this checkpoint will be recorded again.
            recorded = self.step - (self.batch == self.batches)  # where it was stopped while it validated
            kept = [r for r in metrics(out) if r["step"] <= recorded]
            text = "".join(json.dumps(r) + "\n" for r in kept)
            files.write_text(out / "metrics.jsonl", text)

    def go(self, stop):
        while not self.ended:
            if not (self._train_epoch(stop) and self._end_epoch(stop)):
                if self.saved != self.step:
                    self._save(planned=False)
                return False
            if self.ended or self.step % self.settings.save_every == 0:
                self._save()
        return True

    @property
    def ended(self):
        return self.epoch >= self.settings.recipe.epochs or self.schedule.ended

    def _train_epoch(self, stop):
        """Take the epoch's steps that are left; False if stopped before the last."""
        noise = self.schedule.begin_epoch(self.epoch, self.optimizer)
        if self.batch == self.batches:
            return True
        start = (self.epoch, self.batch)
        self.clock = perf_counter()  # at the end of the step before
        with self._loader("train", noise=noise, start=start, epochs=self.epoch + 1) as loader:
            while self.batch < self.batches:
                batch, stopping = self.comm.share(self._next(loader, stop))
                if stopping:
                    return False
                self._train_step(batch)
                if self.step % self.settings.save_every == 0 and self.batch < self.batches:
                    self._save()
        return True

    def _next(self, loader, stop):
        """On rank 0: the next batch and False, or None and True to stop before it."""
        if loader is None:
            return None
        if stop.is_set():
            return None, True
        return next(loader), False

    def _train_step(self, batch):
        put = self.comm.device.put
        result = model_parallel_step(
            self.net, self.optimizer, put(batch.images), put(batch.labels), self.step
        )
        self.step, self.batch = self.step + 1, self.batch + 1
        self.sums = [self.sums[0] + result.loss, self.sums[1] + result.error]
        before, self.clock = self.clock, perf_counter()
        self._emit(
            kind="step", loss=self.sums[0] / self.batch, error=self.sums[1] / self.batch,
            images_a_second=len(batch.labels) / (self.clock - before),
        )  # fmt: skip

    def _end_epoch(self, stop):
        """Validate, record, and tell the schedule; False, and the epoch not ended, if stopped meanwhile."""
        loss, error = (s / self.batch for s in self.sums)
        self._emit("train", epoch=self.epoch + 1, loss=loss, error=error)
        if self.data.val is not None:
            with self._loader("val") as loader:
                p, labels = probabilities(self.net, loader and self._until(stop, loader))
            if self.comm.share(stop.is_set()):
                return False
            loss, top1, top5 = errors(p, labels)
            self._emit("validation", epoch=self.epoch + 1, loss=loss, top1=top1, top5=top5)
            error = top1
        self.epoch, self.batch, self.sums = self.epoch + 1, 0, [0.0, 0.0]
        self.schedule.end_epoch(error)
        return True

    def _until(self, stop, loader):
        """The batches of validation, but none after the stop."""
        for done, batch in enumerate(loader, 1):
            yield batch
            self._emit("validating", done=done, of=loader.batches_per_epoch)
            if stop.is_set():
                return

    @contextlib.contextmanager
    def _loader(self, split, noise=0.0, **kwargs):
        """The split's Loader on rank 0, None on the others."""
        if self.comm.rank:
            yield None
            return
        pictures = self.settings.recipe.pictures._replace(noise=noise)
        with self.data.loader(
            split, self.settings, recipe=pictures, train=split == "train", **kwargs
        ) as loader:
            yield loader

    def _emit(self, kind, **fields):
        if self.comm.rank:
            return
        place = {"kind": kind, "step": self.step, "epoch": self.epoch, "rate": self.optimizer.rate}
        record = place | fields
        if kind not in ("step", "validating"):
            with open(self.out / "metrics.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")
                file.flush()
                os.fsync(file.fileno())  # a checkpoint that outlives a power cut must not be without it
        self.on_event(record)

    def _save(self, planned=True):
        arrays = checkpoint.state(self.net, self.optimizer)
        self.saved = self.step
        if self.comm.rank:
            return
        if planned:  # an interruption leaves no trace in the metrics
            self._emit("sizes", layers=_sizes(arrays, self.optimizer))
        arrays["data.mean"] = self.data.mean
        metadata = {
            "settings": self.settings.to_json(),
            "classes": list(self.data.classes),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "sums": self.sums,
            "schedule": self.schedule.state,
            "generator": self.rng.bit_generator.state,
        }
        checkpoint.save(self.out / f"step-{self.step:08d}.safetensors", arrays, metadata)
        for old in checkpoints(self.out)[: -self.settings.keep]:
            old.unlink()

    def _restore(self, path):
        arrays, metadata = checkpoint.load(path)
        try:
            mean, classes = arrays.pop("data.mean"), metadata["classes"]
            self.epoch, self.batch, self.step = (metadata[k] for k in ("epoch", "batch", "step"))
            self.sums, self.saved = metadata["sums"], metadata["step"]
            self.schedule.state = metadata["schedule"]
            self.rng.bit_generator.state = metadata["generator"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: expected a checkpoint of a run: {error!r}") from error
        if classes != list(self.data.classes) or not np.array_equal(mean, self.data.mean):
            raise DataError(
                f"{self.settings.data}: expected the pictures that the run began with, found others: "
                f"their classes or their mean picture are not those in {path}"
            )
        checkpoint.restore(self.net, self.optimizer, arrays, path)


def _sizes(arrays, optimizer):
    """Mean |w| and mean |Δw| of every parameter: the last update is v, or 0 where the rate is 0.

    (2012 printed both for each layer.)
    """
    sizes = {}
    for name in optimizer.velocity:
        update = np.abs(arrays[f"velocity.{name}"]).mean() if optimizer.rate_of(name) else 0.0
        sizes[name] = {"weight": float(np.abs(arrays[name]).mean()), "update": float(update)}
    return sizes
