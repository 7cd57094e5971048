"""Testing: probabilities over one view or ten, top-1 and top-5 error, ensembles, features.

Paper, section 4.1: the prediction for a picture is the average of the network's softmax outputs on ten
views, the four corners and the centre, and their mirror images.
"""

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyalex.data import Images, augment
from tinyalex.data.loader import Batch, Loader
from tinyalex.data.pictures import read_picture
from tinyalex.data.preprocessing import KNOWN, Pictures
from tinyalex.errors import ArgumentError, DataError
from tinyalex.nn import AllGather, Conv2d, Linear, Part
from tinyalex.ops.softmax import softmax, topk_error
from tinyalex.runs import checkpoint
from tinyalex.runs.saved import load_network, mean_picture, open_network

BATCH = 32  # pictures at a time through an imported network


def probabilities(net, loader):
    """Return the class probabilities (K, N) of every picture of a Loader, and the labels (N,).

    With ten views a batch's images are a list of ten; they go through the network side by side, and the ten
    softmax outputs are averaged.  Every rank of the net must call this; the loader is rank 0's (None on the
    others).
    """
    comm = net.comm
    found, labels = [], []
    while (batch := comm.share(next(loader, None) if loader else None)) is not None:
        images, N = batch.images, len(batch.labels)
        x = np.concatenate(images, axis=-1) if isinstance(images, list) else images
        p = softmax(net.forward(comm.device.put(x)))
        found.append(comm.device.get(p.reshape(len(p), -1, N).mean(axis=1)))
        labels.append(batch.labels)
    return np.concatenate(found, axis=1), np.concatenate(labels)


def errors(probabilities, labels, k=5):
    """Return (mean −log p of the right class, top-1 error, top-k error), each over all pictures.

    k is cut to `guesses`.  Ties count as in 2012 (`topk_error`).
    """
    k = guesses(len(probabilities), k)
    right = probabilities[labels, np.arange(len(labels))]
    loss = -np.log(np.maximum(right, np.finfo(right.dtype).tiny)).mean()
    top1, topk = (topk_error(probabilities, labels, j).mean() for j in (1, k))
    return float(loss), float(top1), float(topk)


def guesses(classes, k=5):
    """Return k, or as many guesses as can still be wrong where there are few classes; at least one."""
    return max(1, min(k, classes - 1))


def ensemble(predictions, weights=None):
    """Weighted average of several networks' probabilities (2012: avg-test.py); equal weights by default."""
    weights = shares([1] * len(predictions) if weights is None else weights, len(predictions))
    return sum(w * p for w, p in zip(weights, predictions, strict=True))


def shares(weights, count):
    """Return the weights of `count` networks as parts of 1; ArgumentError for what makes no average."""
    weights = np.asarray(weights, float)
    if len(weights) != count or weights.min() < 0 or not 0 < weights.sum() < np.inf:
        raise ArgumentError(f"weights: expected {count} numbers ≥ 0, not all 0, found {weights}")
    return weights / weights.sum()


def features(net, loader, layer):
    """Return the outputs (D, N) of a layer, of all ranks, for every picture of a Loader, on rank 0.

    As for `probabilities`, every rank must call this; the others get None.  Raises ArgumentError for an
    unknown layer.
    """
    comm, found, first = net.comm, None, 0
    while (batch := comm.share(next(loader, None) if loader else None)) is not None:
        y = net.forward(comm.device.put(batch.images), last=layer)
        if _is_split(net, layer):
            y = comm.all_gather(y)
        if comm.rank:
            continue
        y = comm.device.get(y.reshape(-1, y.shape[-1]))
        if found is None:
            found = np.empty((len(y), len(loader.labels)), y.dtype)
        found[:, first : first + y.shape[1]] = y
        first += y.shape[1]
    return found


def _is_split(net, layer):
    """Whether each rank holds only its channels of a layer's output: an imported network begins whole."""
    split = False
    for name, made in net.layers.items():
        if isinstance(made, (Conv2d, Linear, Part)):
            split = True
        elif isinstance(made, AllGather):
            split = False
        if name == layer:
            return split


class Trained(NamedTuple):
    """A network read from a checkpoint, with what it needs to look at pictures."""

    net: object
    settings: object  # of the run, None for an imported network
    mean: np.ndarray  # (3, S, S) for pictures of side S, or (3,)
    classes: tuple
    pictures: Pictures | None = None  # of an imported network


def load(comm, path):
    """Read a network, of a run or imported, on this rank of comm.  Raises DataError if the file has none."""
    saved = open_network(path)
    if saved.settings is None and saved.pictures is None:
        raise DataError(
            f"{path}: expected an AlexNet run, or an imported network whose pictures are stated: "
            f"import it again with --pictures, one of {', '.join(KNOWN)}, or a file"
        )
    arrays, _ = checkpoint.load(path)
    net = load_network(comm, path, saved, arrays)
    classes, count = saved.classes, saved.outputs()
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes) or len(classes) != count:
        raise DataError(f"{path}: classes: expected {count} names, found {str(classes)[:80]}")
    if saved.pictures:
        return Trained(net, None, saved.pictures.rgb_mean, tuple(classes), saved.pictures)
    return Trained(net, saved.settings, mean_picture(path, arrays), tuple(classes))


@contextlib.contextmanager
def view_loader(comm, trained, source, views):
    """Yield the batches of a source's test views on rank 0, None on the other ranks.

    All views of a batch together are no more pictures than a batch of training, or those of one picture.
    For an imported network smaller pictures are enlarged.  Raises DataError for pictures of another side.
    """
    if comm.rank:
        yield None
        return
    settings, pictures, wanted = trained.settings, trained.pictures, _side(trained)
    side = source.images.shape[1] if isinstance(source, Images) else source.size
    if side > wanted or (side < wanted and not pictures):
        raise DataError(
            f"pictures of {side} pixels, the network was trained on {wanted}: prepare with --size {wanted}"
        )
    if pictures:
        batch, recipe = BATCH, augment.PLAIN._replace(crop=pictures.crop)
        upscale = wanted if side < wanted else None
    else:
        batch, recipe, upscale = settings.recipe.batch, settings.recipe.pictures, settings.upscale
    batch = max(1, batch // 10) if views == 10 else batch
    with Loader(
        source, batch, recipe, train=False, mean=trained.mean, views=views, upscale=upscale
    ) as loader:
        yield _Adapted(loader, pictures) if pictures else loader


def _side(trained):
    """Of the pictures, before a crop is cut, that a network was trained on."""
    return trained.pictures.resize if trained.pictures else trained.mean.shape[-1]


class _Adapted:
    """A Loader's batches as an imported network wants to see them."""

    def __init__(self, loader, pictures):
        self.loader, self.pictures, self.labels = loader, pictures, loader.labels

    def __iter__(self):
        return self

    def __next__(self):
        images, labels = next(self.loader)
        adapt = self.pictures.adapt
        return Batch([adapt(view) for view in images] if isinstance(images, list) else adapt(images), labels)


def array_loader(comm, trained, pictures, views):
    """As `view_loader`, for pictures uint8 (3, S, S, N) without labels (they read 0)."""
    labels = np.zeros(pictures.shape[-1], np.int64)
    return view_loader(comm, trained, Images(pictures, labels, trained.classes), views)


def picture_loader(comm, trained, paths, views):
    """As `view_loader`, for picture files: shorter side to S, middle S × S, S as in the training data.

    Raises DataError for a file that cannot be read.
    """
    pictures = []
    for path in paths:
        try:
            pictures.append(read_picture(Path(path).read_bytes(), _side(trained)))
        except MemoryError:
            raise
        except Exception as error:  # whatever a decoder makes of a damaged file
            raise DataError(f"{path}: expected a picture: {error}") from error
    return array_loader(comm, trained, np.stack(pictures, axis=-1), views)


def some_pictures(source, count, seed=0):
    """Choose pictures of a source at random: (uint8 (3, S, S, count), labels (count,))."""
    chosen = np.random.default_rng(seed).permutation(len(source.labels))[:count]
    return pictures_at(source, chosen), np.asarray(source.labels)[chosen]


def pictures_at(source, indices):
    """Return some pictures of a source (Shards or Images), uint8 (3, S, S, len(indices))."""
    if isinstance(source, Images):
        return source.images[..., indices]
    return np.stack([source[i] for i in indices], axis=-1)
