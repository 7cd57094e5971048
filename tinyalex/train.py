"""The training loop: one step on any number of ranks, and `fit`, which repeats it.

net = Sequential([Conv2d(16, 5, activation="relu"), MaxPool(3, 2), Linear(10)], (3, 32, 32), rng=rng)
batches = InMemory(shapes.load(), batch=100)
fit(net, SGD(net, 1e-3), lambda epoch, start: batches.epoch(rng), batches.steps, epochs=5)
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyalex.accumulate import add, parts_of
from tinyalex.fields import check_functions, check_numbers, expect, of_kind
from tinyalex.finite import not_finite
from tinyalex.nn import Sequential
from tinyalex.ops import chosen, softmax_loss_backward, softmax_loss_forward, topk_error
from tinyalex.ops.checks import check_arrays
from tinyalex.ops.cuda.graph import Captured
from tinyalex.ops.cuda.pictures import asked
from tinyalex.optim import SGD
from tinyalex.parallel import Sums, in_turn, turns

Array = np.ndarray  # or CuPy's


class StepResult(NamedTuple):
    """One step's training loss (nats per image) and top-1 error (0–1), over the whole batch."""

    loss: float
    error: float


class Step:
    """Steps of SGD, one a call: see `train_step`.

    On one GPU the launches of a step are recorded in the second call and replayed from then on
    (`tinyalex.ops.cuda.graph`): parameters must stay in their arrays.

    parts: the batch goes through the network in so many equal parts, whose gradients are added up: the memory
    of a part, and the update of the whole, dropout's masks included.  (Batch normalization sees its part.)
    Not for hybrid layouts.
    """

    def __init__(self, net: Sequential, optimizer: SGD, parts: int = 1):
        check_numbers("train: ", 1, int, parts=parts)
        expect(getattr(optimizer, "model", None) is net, "train", "an optimizer of this network", optimizer)
        self.net, self.optimizer = net, optimizer
        way = in_turn if parts == 1 and turns(net) else functools.partial(_at_once, parts=parts)
        work = functools.partial(way, net, optimizer, _loss)
        self._work = Captured(work, net.comm.device) if net.comm.size == 1 else work

    def __call__(self, images: Array, labels: Array, number: int = 0) -> StepResult:
        """Do the step of this number."""
        return self.begin(images, labels, number)()

    def begin(self, images: Array, labels: Array, number: int = 0) -> Callable[[], StepResult]:
        """Begin the step of this number, which a GPU does meanwhile; what is returned waits for its end."""
        check_arrays("train_step", images=images, labels=labels)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is told of in words
            queued = self._work(images, labels)

        def end():
            loss, errors = map(float, self.net.comm.device.get(queued))  # only here is a GPU waited for
            if not np.isfinite(loss):
                with np.errstate(over="ignore", invalid="ignore"):
                    raise not_finite(loss, self.net, self.optimizer, images, number)
            return StepResult(loss, errors / (labels.size * self.net.data.size))

        return end


def _loss(logits, labels, total):
    """Return the loss, the number of errors, and the loss's gradient."""
    loss, cache = chosen(softmax_loss_forward)(logits, labels, total=total)
    return loss, topk_error(logits, labels).sum(), chosen(softmax_loss_backward)(cache)


def _at_once(net, optimizer, loss_of, images, labels, parts=1):
    """Forward, loss, backward, update; return the loss and the number of errors as one array."""
    xp, sums, total = net.comm.device.xp, Sums(net), labels.size * net.data.size
    loss, errors, before, N = 0, 0, {}, labels.size // parts
    for part in parts_of(net, parts, images, labels):
        mine = slice(part * N, (part + 1) * N)
        logits, of_part = net.forward(xp.ascontiguousarray(images[..., mine]), train=True), labels[mine]
        if logits.shape[-1] > N:  # of all ranks' images
            of_part = sums.labels(of_part)
        more, wrong, slope = loss_of(logits, of_part, total)
        loss, errors = (loss + more, errors + wrong) if part else (more, wrong)
        net.backward(slope, functools.partial(add, before, sums.add if part == parts - 1 else None))
    if parts * of_part.size < total:
        loss, errors = sums.now("loss", xp.stack([loss, errors]).astype(loss.dtype))()
    sums.take()
    optimizer.step(loss)  # nothing where the loss is not finite
    return xp.stack([loss, errors])


def train_step(net: Sequential, optimizer: SGD, images: Array, labels: Array, step: int = 0) -> StepResult:
    """One step of SGD on a batch.

    images: (C,H,W,N) on this rank's device, labels: (N,).  Every rank of net.row is given the same ones, and
    those of net.data each a part of the batch, 1/net.data.size of it (`tinyalex.parallel`).

    step: its number, for messages.  Raises NonFiniteError on every rank, and updates no weight, where the
    loss is not finite (hybrid:variable: no weight from that turn on); ArgumentError for another network's
    optimizer, and unless each image has a label.
    """
    return Step(net, optimizer)(images, labels, step)


# ---- the loop ----------------------------------------------------------------------------------------


@dataclass
class Place:
    """How far training has come: epochs ended, batches of this one, steps in all; sums since it began."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss: float = 0.0
    error: float = 0.0

    def take(self, result):
        """Count a step; return its result."""
        self.batch, self.step = self.batch + 1, self.step + 1
        self.loss, self.error = self.loss + result.loss, self.error + result.error
        return result

    def means(self):
        """Return the `StepResult` of the mean step since the epoch began."""
        return StepResult(self.loss / self.batch, self.error / self.batch)


class Stopped(Exception):
    """Raised by what `fit` calls, to end training where it stands."""


def fit(
    net: Sequential,
    optimizer: SGD,
    batches: Callable[[int, int], Iterable],
    steps: int,
    epochs: int,
    *,
    parts: int = 1,
    place: Place | None = None,
    begin_epoch: Callable[[Place], object] | None = None,
    on_step: Callable[[Place, StepResult], object] | None = None,
    end_epoch: Callable[[Place], object] | None = None,
) -> Place:
    """Train until `epochs` epochs have ended; every rank runs this.  Returns the `Place` that was reached.

    batches(epoch, start): yields the (images, labels) of an epoch from batch number `start` on, on this
    rank's device, as `train_step` wants them; steps: how many an epoch has.  One rank alone asks for a batch
    before on_step is called for the one before.  place: where to begin, what an earlier call returned, or a
    checkpoint.

    Raises ArgumentError for an epoch of more or fewer batches, and as `train_step`.

    begin_epoch(place) is called before an epoch, on_step(place, result) after each step, and end_epoch(place)
    after the last, before the epoch is counted: what it returns, if true, ends the training.  Any of them
    may raise `Stopped`; the place then says what was done.
    """
    check_numbers("fit: ", 0, int, steps=steps, epochs=epochs)
    begin_epoch, on_step, end_epoch = (f or (lambda *args: None) for f in (begin_epoch, on_step, end_epoch))
    check_functions("fit: ", batches=batches, begin_epoch=begin_epoch, on_step=on_step, end_epoch=end_epoch)
    place, step = of_kind(Place, place or Place(), "fit: place"), Step(net, optimizer, parts)
    while place.epoch < epochs:
        begin_epoch(place)
        if place.batch < steps:
            _epoch(step, batches(place.epoch, place.batch), place, on_step)
        expect(0 < place.batch == steps, "fit: batches", f"{max(1, steps)} an epoch", place.batch)
        ended = end_epoch(place)
        place.epoch, place.batch, place.loss, place.error = place.epoch + 1, 0, 0.0, 0.0
        if ended:
            break
    return place


def _epoch(step, batches, place, on_step):
    """Do the steps of an epoch.  While a GPU is at one, alone, the next batch is made ready for it."""
    try:
        right = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
        expect(right, "fit: batches", "what yields (images, labels)", batches)
        coming = asked(batches := iter(batches))
        while (batch := coming.result()) is not None:
            expect(isinstance(batch, tuple | list) and len(batch) == 2, "fit: batches", "pairs", batch)
            end = step.begin(*batch, place.step)
            coming = asked(batches) if step.net.comm.size == 1 else None
            on_step(place, place.take(end()))
            coming = coming or asked(batches)
    finally:
        del batches  # a generator ends here, and not with the last who looks at an error's frames
