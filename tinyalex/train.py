"""The training loop."""

from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError, NonFiniteError
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward, topk_error


class StepResult(NamedTuple):
    """One step's training loss (nats an image) and top-1 error (0–1), over the whole batch."""

    loss: float
    error: float


def data_parallel_step(model, optimizer, comm, images, labels, step=0):
    """One step of SGD on a batch, each rank working on its part of the images.

    images: (C,H,W,N) on this rank's device, labels: (N,): the rank's part, 1/comm.size of the batch.
    Gradients of the parts are summed over the ranks, so that every rank, dividing by the whole batch,
    makes the update that one rank would make.  Raises NonFiniteError, before the update, on every rank.
    """
    xp = comm.device.xp
    logits = model.forward(images, train=True)
    loss, cache = softmax_loss_forward(logits, labels, total=labels.size * comm.size)
    errors = topk_error(logits, labels).sum()
    model.backward(softmax_loss_backward(cache))

    # One message for all: the gradients laid end to end, then the loss and the number of errors.
    parameters = list(model.parameters())
    pieces = [layer.grads[key].ravel() for _, layer, key in parameters]
    tail = xp.stack([loss, errors]).astype(loss.dtype)
    with comm.on_behalf_of("gradients"):
        summed = comm.all_reduce(xp.concatenate([*pieces, tail]))
    start = 0
    for _, layer, key in parameters:
        shape, size = layer.grads[key].shape, layer.grads[key].size
        layer.grads[key] = summed[start : start + size].reshape(shape)
        start += size
    loss, errors = (float(v) for v in comm.device.get(summed[start:]))
    _check_finite(loss, model, comm, optimizer, images, step)
    optimizer.step()
    return StepResult(loss, errors / (labels.size * comm.size))


def model_parallel_step(model, optimizer, images, labels, step=0):
    """One step of SGD on a batch that every rank of the model's comm is given whole.

    The logits come out the same on every rank, so each computes the same loss for itself.  Raises
    NonFiniteError, before the update, on every rank.
    """
    logits = model.forward(images, train=True)
    loss, cache = softmax_loss_forward(logits, labels)
    model.backward(softmax_loss_backward(cache))
    both = model.comm.device.xp.stack([loss, topk_error(logits, labels).mean()])
    loss, error = (float(v) for v in model.comm.device.get(both))  # only here is a GPU waited for
    _check_finite(loss, model, model.comm, optimizer, images, step)
    optimizer.step()
    return StepResult(loss, error)


def _check_finite(loss, model, comm, optimizer, images, step):
    if np.isfinite(loss):
        return
    xp = comm.device.xp
    found = [(place, bool(xp.isfinite(array).all())) for place, array in _trace(model, images)]
    places, finite = zip(*found, ("the loss", False), strict=True)
    # Some rank may have seen what the others did not.
    first = int(comm.all_gather(xp.asarray([finite.index(False)])).min())
    raise NonFiniteError(
        f"step {step}: the loss is {loss} (learning rate {optimizer.rate:g}); "
        f"first not finite: {places[first]}"
    )


def _trace(model, x):
    """Yield (name, array) of all that a forward pass computes with, in its order."""
    yield "the input", x
    for name, layer in model.layers.items():
        for key, array in layer.params.items():
            yield f"parameter {name}.{key}", array
        x = layer.forward(x)
        yield f"the output of {name}", x


class InMemory:
    """Batches of a small picture set that is held in memory, each rank taking its part of each batch.

    images: an `Images` of pixels 0–255.  The mean image of the set is subtracted.
    """

    def __init__(self, images, comm, batch=128, dtype=np.float32):
        if len(images.labels) < batch:
            raise ArgumentError(
                f"expected at least one batch of {batch} pictures, found {len(images.labels)}"
            )
        self.images, self.comm, self.batch, self.dtype = images, comm, batch, dtype
        self.mean = images.images.mean(axis=3, keepdims=True).astype(dtype)

    def epoch(self, rng):
        """Yield (images, labels) in a random order; pictures that fill no whole batch are left out."""
        order = rng.permutation(len(self.images.labels))
        part = self.comm.part(self.batch)
        for start in range(0, len(order) - self.batch + 1, self.batch):
            chosen = order[start : start + self.batch][part]
            pixels = self.images.images.take(chosen, axis=3) - self.mean
            labels = self.images.labels[chosen]
            yield self.comm.device.put(pixels), self.comm.device.put(labels)
