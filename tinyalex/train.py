"""The training loop: one step on any number of ranks, and `fit`, which repeats it.

net = Sequential([Conv2d(16, 5, activation="relu"), MaxPool(3, 2), Linear(10)], (3, 32, 32), rng=rng)
batches = InMemory(shapes.load(), batch=100)
fit(net, SGD(net, 1e-3), lambda epoch, start: batches.epoch(rng), batches.steps, epochs=5)
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tinyalex.comm import Comm
from tinyalex.errors import NonFiniteError
from tinyalex.nn import Sequential
from tinyalex.ops import softmax_loss_backward, softmax_loss_forward, topk_error
from tinyalex.optim import SGD

Array = np.ndarray  # or CuPy's


class StepResult(NamedTuple):
    """One step's training loss (nats an image) and top-1 error (0–1), over the whole batch."""

    loss: float
    error: float


def train_step(
    net: Sequential, optimizer: SGD, images: Array, labels: Array, step: int = 0, data: Comm | None = None
) -> StepResult:
    """One step of SGD on a batch.

    images: (C,H,W,N) on this rank's device, labels: (N,).  Every rank that shares the network, those of
    net.comm, is given the same images; each computes the same loss for itself.

    data: ranks that hold the whole network each, and are given a part of the batch each, 1/data.size of it
    (data parallelism).  The gradients of the parts are summed over them, so that every rank, dividing by the
    whole batch, makes the update that one rank would make.

    step: its number, for messages.  Raises NonFiniteError, before the update, on every rank.
    """
    ranks = data.size if data else 1
    logits = net.forward(images, train=True)
    loss, cache = softmax_loss_forward(logits, labels, total=labels.size * ranks)
    errors = topk_error(logits, labels).sum()
    net.backward(softmax_loss_backward(cache))
    if ranks > 1:
        loss, errors = _sum_gradients(net, data, loss, errors)
    stacked = net.comm.device.xp.stack([loss, errors])
    loss, errors = (float(v) for v in net.comm.device.get(stacked))  # only here is a GPU waited for
    _check_finite(loss, net, data or net.comm, optimizer, images, step)
    optimizer.step()
    return StepResult(loss, errors / (labels.size * ranks))


def _sum_gradients(net, data, loss, errors):
    """Sum the layers' gradients over the ranks, in place; return the sums of the other two.

    One message for all: the gradients laid end to end, then the loss and the number of errors.
    """
    xp = data.device.xp
    parameters = list(net.parameters())
    pieces = [layer.grads[key].ravel() for _, layer, key in parameters]
    tail = xp.stack([loss, errors]).astype(loss.dtype)
    with data.on_behalf_of("gradients"):
        summed = data.all_reduce(xp.concatenate([*pieces, tail]))
    start = 0
    for _, layer, key in parameters:
        shape, size = layer.grads[key].shape, layer.grads[key].size
        layer.grads[key] = summed[start : start + size].reshape(shape)
        start += size
    return summed[start:]


def _check_finite(loss, net, comm, optimizer, images, step):
    if np.isfinite(loss):
        return
    xp = comm.device.xp
    found = [(place, bool(xp.isfinite(array).all())) for place, array in _trace(net, images)]
    places, finite = zip(*found, ("the loss", False), strict=True)
    # Some rank may have seen what the others did not.
    first = int(comm.all_gather(xp.asarray([finite.index(False)])).min())
    raise NonFiniteError(
        f"step {step}: the loss is {loss} (learning rate {optimizer.rate:g}); "
        f"first not finite: {places[first]}"
    )


def _trace(net, x):
    """Yield (name, array) of all that a forward pass computes with, in its order."""
    yield "the input", x
    for name, layer in net.layers.items():
        for key, array in layer.params.items():
            yield f"parameter {name}.{key}", array
        x = layer.forward(x)
        yield f"the output of {name}", x


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
        """Count a step."""
        self.batch, self.step = self.batch + 1, self.step + 1
        self.loss, self.error = self.loss + result.loss, self.error + result.error

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
    data: Comm | None = None,
    place: Place | None = None,
    begin_epoch: Callable[[Place], object] | None = None,
    on_step: Callable[[Place, StepResult], object] | None = None,
    end_epoch: Callable[[Place], object] | None = None,
) -> Place:
    """Train until `epochs` epochs have ended; every rank runs this.  Returns the `Place` that was reached.

    batches(epoch, start): yields the (images, labels) of an epoch from batch number `start` on, on this
    rank's device, as `train_step` wants them; steps: how many an epoch has.  data: as of `train_step`.
    place: where to begin, what an earlier call returned, or a checkpoint.

    begin_epoch(place) is called before an epoch, on_step(place, result) after each step, and end_epoch(place)
    after the last, before the epoch is counted: what it returns, if true, ends the training.  Any of them
    may raise `Stopped`; the place then says what was done.
    """
    place = place or Place()
    while place.epoch < epochs:
        if begin_epoch:
            begin_epoch(place)
        if place.batch < steps:
            for images, labels in batches(place.epoch, place.batch):
                result = train_step(net, optimizer, images, labels, place.step, data)
                place.take(result)
                if on_step:
                    on_step(place, result)
        ended = end_epoch and end_epoch(place)
        place.epoch, place.batch, place.loss, place.error = place.epoch + 1, 0, 0.0, 0.0
        if ended:
            break
    return place
