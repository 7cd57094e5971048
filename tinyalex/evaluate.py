"""Testing: probabilities over views or whole pictures, top-1 and top-5 error, ensembles, features.

Paper, section 4.1: the prediction for a picture is the average of the network's softmax outputs on ten
views, the four corners and the centre, and their mirror images.  VGG (Simonyan and Zisserman, 2014, section
3.2) slides the network over whole pictures: see `Dense`.
"""

import copy
import math
from collections.abc import Callable, Iterator

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.fields import check_numbers, expect, fits, one_of, plain_data
from tinyalex.nn import BatchNorm, Conv2d, Flatten, Linear, Sequential
from tinyalex.nn.later import computes_as
from tinyalex.ops import softmax, topk_error
from tinyalex.ops.checks import check_arrays, check_axes
from tinyalex.ops.cuda.pictures import feed


def probabilities(
    net: Sequential,
    loader: Iterator | None,
    on_batch: Callable[[int], object] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the class probabilities (K, N) of every picture of a Loader, and the labels (N,).

    net: a Sequential, or `Dense`.  With several views a batch's images are a list of so many; they go through
    the network side by side, and the softmax outputs are averaged.  Every rank of the net must call this; the
    loader is that of the first of net.row (None on the others), and where the ranks share the batch gives its
    part of each: as many as every other, those that are too many with a label below 0.  on_batch(done) is
    called where there is a loader after each batch: so many pictures are done.
    """
    comm, done = _checked(net, loader, on_batch), 0
    found, labels = [], []
    parts = net.data.size
    joined = parts if list(net.placed.values())[-1].parts == 1 else 1  # parts whose outputs a rank has
    for images, of_batch in feed(comm.device, _shared(net.row, loader)):
        p = softmax(net.forward(images))
        p = p.reshape(len(p), joined, -1, len(of_batch)).mean(axis=2).reshape(len(p), -1)
        if parts > 1:
            of_batch = comm.device.get(net.data.all_gather(comm.device.put(of_batch)))
        found.append(comm.device.get(p if joined == parts else net.data.all_gather(p, axis=-1)))
        labels.append(of_batch)
        done += len(of_batch)
        if loader and on_batch:
            on_batch(done)
    expect(labels, "loader", "a batch or more", labels)
    labels = np.concatenate(labels)
    return np.concatenate(found, axis=1)[:, labels >= 0], labels[labels >= 0]


class Dense:
    """A network slid over pictures of any size from its own input's on (VGG, section 3.2).

    Fully connected layers are read as convolutions: the first, of maps C × h × w, with a kernel h × w, the
    others with 1 × 1, by the same weights in the same memory.  What comes out, a map of scores for each
    class, is averaged over its places, before the softmax (the text leaves that open).  Without padding these
    are the scores of all windows as far apart as the network's strides, averaged; with padding, each window
    alone has zeros at its border, and the whole picture only at its own.
    What a stride does not fill at the right and bottom is left out: sides that all strides divide are best.

    Raises ArgumentError, naming the layer, for a network that cannot be slid, or a smaller picture.
    """

    def __init__(self, net: Sequential):
        self.net, self.comm = net, _checked(net)
        self.row, self.data, self.placed = net.row, net.data, net.placed
        self._shape, self._slid, self._layers, maps = None, None, [], None
        for place in net.placed.values():
            layer, x = place.layer, place.x  # maps: the sides of those that the next features were
            maps = tuple(x[1:]) if len(x) == 3 else maps
            if isinstance(layer, Linear):
                if computes_as(layer) is not Linear:  # it may compute something else
                    raise layer.error("a kind of layer of your own: a network with it cannot be slid")
                layer = Conv2d(layer.features, maps, activation=layer.activation, name=layer.name)
                maps = (1, 1)
            elif isinstance(layer, BatchNorm) and len(x) == 1 and maps != (1, 1):
                raise layer.error("normalizes each pixel of maps: a network with it cannot be slid")
            if not isinstance(layer, Flatten):
                self._layers.append(place._replace(layer=layer))

    def forward(self, x):
        """Pictures (C, H, W, N) → mean scores (K, N)."""
        check_arrays("dense", x=x)
        check_axes("dense", "x", x, "C,H,W,N")
        if self._shape != x.shape[:-1]:
            self._shape, self._slid = x.shape[:-1], self._for(x.shape[:-1])
        y = self._slid.forward(x)
        return y.reshape(len(y), -1, y.shape[-1]).mean(axis=1)

    def _for(self, shape):
        """Return the network for pictures of this shape, with the weights of the one that was given."""
        (_, H, W), (_, height, width) = shape, self.net.input_shape
        if height > H or width > W:
            raise ArgumentError(
                f"dense: pictures of {H} × {W} pixels are smaller than the window of {height} × {width} that "
                "the network sees"
            )
        placed, x = [], shape
        for place in self._layers:
            y = place.layer.out(x)
            placed.append(place._replace(layer=copy.copy(place.layer), x=x, y=y))
            x = y
        slid = Sequential(placed, shape, self.comm)
        for name, layer in slid.layers.items():
            sizes, own = layer.sizes(slid.placed[name].x), self.net.layers[name].params
            if any(a.size // len(a) != math.prod(sizes[key][1:]) for key, a in own.items()):
                raise layer.error("its weights are for maps of one size: a network with it cannot be slid")
            layer.params = {key: a.reshape(len(a), *sizes[key][1:]) for key, a in own.items()}
        return slid


def _checked(net, loader=None, on_batch=None):
    """Return the net's ranks; ArgumentError unless it is a network, and the loader gives batches."""
    expect(hasattr(net, "placed"), "net", "a Sequential", net)
    expect(loader is None or hasattr(loader, "__next__"), "loader", "an iterator, such as a Loader", loader)
    expect(on_batch is None or callable(on_batch), "on_batch", "a function", on_batch)
    return net.comm


def _shared(comm, loader):
    """The batches of rank 0's loader, on every rank."""
    while (batch := comm.share(next(loader, None) if loader else None)) is not None:
        yield batch


def errors(probabilities: np.ndarray, labels: np.ndarray, k: int = 5) -> tuple[float, float, float]:
    """Return (mean −log p of the right class, top-1 error, top-k error), each over all pictures.

    k is cut to `guesses`.  Ties count as in 2012 (`topk_error`).
    """
    check_arrays("errors", probabilities=probabilities)
    check_axes("errors", "probabilities", probabilities, "K,N")
    k = guesses(len(probabilities), k)
    top1, topk = (topk_error(probabilities, labels, j).mean() for j in (1, k))
    right = probabilities[labels, np.arange(len(labels))]
    loss = -np.log(np.maximum(right, np.finfo(right.dtype).tiny)).mean()
    return float(loss), float(top1), float(topk)


def guesses(classes: int, k: int = 5) -> int:
    """Return k, at most K − 1 of K classes: among all of them no guess is wrong; at least 1."""
    check_numbers("", 1, int, classes=classes, k=k)
    return max(1, min(k, classes - 1))


def ensemble(predictions: list[np.ndarray], weights: list[float] | None = None) -> np.ndarray:
    """Weighted average of several networks' probabilities (2012: avg-test.py); equal weights by default."""
    expect(hasattr(predictions, "__len__"), "predictions", "a list of arrays (K, N)", predictions)
    check_arrays("ensemble", **{f"predictions[{i}]": p for i, p in enumerate(predictions)})
    shapes = sorted({p.shape for p in predictions})
    expect(len(shapes) == 1, "ensemble", "predictions of one shape, (K, N)", shapes)
    weights = shares([1] * len(predictions) if weights is None else weights, len(predictions))
    return sum(w * p for w, p in zip(weights, predictions, strict=True))


def shares(weights: list[float], count: int) -> np.ndarray:
    """Return the weights of `count` networks as parts of 1; ArgumentError for what makes no average."""
    given = plain_data(weights)
    right = fits(given, tuple[float, ...]) and len(given) == count and min(given) >= 0
    if not right or not 0 < sum(given) < np.inf:
        raise ArgumentError(f"weights: expected {count} numbers ≥ 0, not all 0, found {weights}")
    return np.array(given, float) / sum(given)


def features(
    net: Sequential,
    loader: Iterator | None,
    layer: str,
    on_batch: Callable[[int], object] | None = None,
) -> np.ndarray | None:
    """Return the outputs (D, N) of a layer, of all ranks, for every picture of a Loader, on rank 0.

    As for `probabilities`, every rank must call this; the others get None.  Raises ArgumentError for an
    unknown layer.
    """
    comm, found, first = _checked(net, loader, on_batch), None, 0
    expect(comm.rank or hasattr(loader, "labels"), "loader", "a Loader", loader)
    one_of(net.layers, layer, "layer")
    for images, _ in feed(comm.device, _shared(comm, loader)):
        y = net.forward(images, last=layer)
        if net.placed[layer].split_y:
            y = comm.all_gather(y)
        if comm.rank:
            continue
        y = comm.device.get(y.reshape(-1, y.shape[-1]))
        if found is None:
            found = np.empty((len(y), len(loader.labels)), y.dtype)
        found[:, first : first + y.shape[1]] = y
        first += y.shape[1]
        if on_batch:
            on_batch(first)
    expect(comm.rank or first == len(loader.labels), "loader", "all its pictures, from the first on", first)
    return found
