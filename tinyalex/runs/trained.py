"""Networks that have learned: read from a checkpoint, with what they need to look at pictures."""

import contextlib
from typing import NamedTuple

import numpy as np

from tinyalex.data import Images, augment
from tinyalex.data.loader import Batch, Loader
from tinyalex.data.pictures import read_file
from tinyalex.data.preprocessing import KNOWN, Pictures
from tinyalex.data.rescaled import RescaledLoader
from tinyalex.errors import ArgumentError, DataError
from tinyalex.evaluate import Dense, probabilities
from tinyalex.nn import AllGather, Dropout, Flatten
from tinyalex.runs import checkpoint
from tinyalex.runs.saved import load_network, mean_picture, open_network

BATCH = 32  # pictures at a time through an imported network


class Trained(NamedTuple):
    """A network read from a checkpoint, with what it needs to look at pictures."""

    net: object
    settings: object  # of the run, None for an imported network
    mean: np.ndarray  # (3, S, S) for pictures of side S, or (3,)
    classes: tuple
    pictures: Pictures | None = None  # of an imported network


class Test(NamedTuple):
    """How a network is tested: the average of its probabilities over views, scales, and dense passes.

    views: 1, 9, 10 or 50 of each scale, 150: 50 of three scales; 0: none.  dense: whole pictures, see
    `tinyalex.evaluate.Dense`; with views, the average of both (VGG, section 4.3).  flips: whole pictures and
    their mirror images.  scales: shorter sides Q to which pictures are rescaled; None: the one that the
    network was trained on, or for 150 views the three about it (`augment.Augmentation.test_scales`).
    """

    views: int = 1
    dense: bool = False
    flips: bool = False
    scales: tuple[int, ...] | None = None

    def passes(self, trained):
        """Return the lists of (views, dense, scale) whose averages are averaged."""
        scales = self.scales or (None,)
        if self.views == 150 and len(scales) != 3:
            if self.scales:
                raise ArgumentError(f"--views 150: expected three scales, found {len(scales)}")
            known = _augmentation(trained)
            side = known.scale or _seen(trained)
            scales = known._replace(scale=side).test_scales
        kinds = [(1 + self.flips, True)] * self.dense + [(min(self.views, 50), False)] * bool(self.views)
        return [[(*kind, scale) for scale in scales] for kind in kinds]


def probabilities_of(comm, trained, source, how, on_batch=lambda done, of: None):
    """Return the class probabilities (K, N) of a source's pictures and the labels (N,), as `Test` says.

    on_batch(done, of): so many pictures are done, of all passes.
    """
    kinds, done = how.passes(trained), 0
    count, averages, labels = len(source.labels), [], None
    for passes in kinds:
        found = 0
        for views, dense, scale in passes:
            with view_loader(comm, trained, source, views, scale, dense) as loader:
                net = Dense(trained.net) if dense else trained.net
                before, of = done * count, sum(map(len, kinds)) * count
                p, labels = probabilities(
                    net, loader, lambda n, before=before, of=of: on_batch(before + n, of)
                )
            found, done = found + p / len(passes), done + 1
        averages.append(found)
    return sum(averages) / len(averages), labels


def load(comm, path):
    """Read a network on this rank of comm.  path: a checkpoint, of a run or imported, or a run's folder.

    All ranks read the file that rank 0 names: the newest of a run that goes on may be another by now.  Raises
    DataError if the file has no network.
    """
    path = comm.share(checkpoint.newest(path))
    saved = open_network(path)
    if saved.settings is None and saved.pictures is None:
        raise DataError(
            f"{path}: expected a run, or an imported network whose pictures are stated: "
            f"import it again with --pictures, one of {', '.join(KNOWN)}, or a file"
        )
    arrays, _ = checkpoint.load(path)
    net = load_network(comm, path, saved, arrays)
    classes, count = saved.classes, saved.network.outputs[0]
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes) or len(classes) != count:
        raise DataError(f"{path}: classes: expected {count} names, found {str(classes)[:80]}")
    if not saved.pictures:
        return Trained(net, saved.settings, mean_picture(path, arrays), tuple(classes))
    mean, side = saved.pictures.rgb_mean, saved.pictures.resize
    if "data.mean" in arrays:  # of an exported run
        mean = mean_picture(path, arrays)
        if mean.shape[-1] != side:
            raise DataError(f"{path}: data.mean: expected a picture of {side} pixels, found {mean.shape}")
    return Trained(net, None, mean, tuple(classes), saved.pictures)


def load_classifier(comm, path):
    """As `load`, for a softmax to be taken.  Raises DataError, naming the layer, for an imported network that
    ends in a sigmoid: each of its outputs is a probability of its own, and softmax would make others of them.
    """
    trained = load(comm, path)
    last = [x for x in trained.net.layers.values() if not isinstance(x, AllGather | Dropout | Flatten)][-1:]
    if trained.pictures and last and getattr(last[0], "activation", None) == "logistic":
        raise DataError(
            f"{path}: {last[0].name}: expected logits, of which softmax makes probabilities, found a network "
            "that ends in a sigmoid"
        )
    return trained


@contextlib.contextmanager
def view_loader(comm, trained, source, views, scale=None, dense=False):
    """Yield the batches of a source's test views on rank 0, None on the other ranks.

    scale, dense: as of `RescaledLoader`, which makes them where pictures are rescaled.
    All views of a batch together are no more pictures than a batch of training, or those of one picture.
    Where one colour is subtracted, smaller pictures are enlarged.  Raises DataError for pictures of another
    side.
    """
    if comm.rank:
        yield None
        return
    settings, pictures, wanted = trained.settings, trained.pictures, _side(trained)
    augmentation = _augmentation(trained)
    if scale or dense or views == 50 or augmentation.scale is not None or hasattr(source, "sizes"):
        with _rescaled(trained, source, views, scale, dense) as loader:
            yield _Adapted(loader, pictures) if pictures else loader
        return
    side = source.images.shape[1] if isinstance(source, Images) else source.size
    if side > wanted or (side < wanted and trained.mean.ndim == 3):
        raise DataError(
            f"pictures of {side} pixels, the network was trained on {wanted}: prepare with --size {wanted}"
        )
    if pictures:
        batch, upscale = BATCH, pictures.upscale or (wanted if side < wanted else None)
    else:
        batch, upscale = settings.recipe.batch, settings.upscale
    batch = max(1, batch // 10) if views > 1 else batch
    with Loader(
        source, batch, augmentation, train=False, mean=trained.mean, views=views, upscale=upscale,
        device=None if pictures else comm.device,  # what `_Adapted` does, the host does
    ) as loader:  # fmt: skip
        yield _Adapted(loader, pictures) if pictures else loader


def _rescaled(trained, source, views, scale, dense):
    settings, augmentation = trained.settings, _augmentation(trained)
    scale = scale or _seen(trained)
    if settings and not isinstance(source, Images) and scale > source.size:
        raise DataError(
            f"pictures of {source.size} pixels, to be tested at {scale}: prepare with --side {scale}"
        )
    window = trained.net.input_shape[-1]
    if scale < window:
        raise DataError(
            f"--scales: pictures of {scale} pixels are smaller than the window of {window} that the network "
            "sees"
        )
    pixels = views * (scale if dense else window) ** 2
    batch = (settings.recipe.batch if settings else BATCH) * window**2 // pixels
    return RescaledLoader(
        source, max(1, batch), augmentation, train=False, mean=trained.mean, views=views, scale=scale,
        dense=dense,
    )  # fmt: skip


def _augmentation(trained):
    """How its pictures were varied; of an imported network the crop alone."""
    if trained.pictures:
        return augment.PLAIN._replace(crop=trained.pictures.crop)
    return trained.settings.recipe.augmentation


def _side(trained):
    """Of the pictures, before a crop is cut, that a network was trained on."""
    if trained.pictures:
        return trained.pictures.resize
    return _augmentation(trained).test_scale or trained.mean.shape[-1]


def _seen(trained):
    """The side of what a crop is cut from."""
    return trained.pictures.seen if trained.pictures else trained.settings.upscale or _side(trained)


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


def picture_loader(comm, trained, paths, views, unreadable=None):
    """As `view_loader`, for picture files: shorter side to S, middle S × S, S as in the training data.

    unreadable: a dict that gets {path: DataError} of the files that cannot be read, in whose place nothing
    is yielded.  Without it, and where none can be read, the first such error is raised.
    """
    pictures, bad = [], {} if unreadable is None else unreadable
    for path in paths:
        try:
            pictures.append(read_file(path, _side(trained)))
        except DataError as error:
            bad[path] = error
    if bad and (unreadable is None or not pictures):
        raise next(iter(bad.values()))
    return array_loader(comm, trained, np.stack(pictures, axis=-1), views)


def some_pictures(source, count, seed=0):
    """Choose pictures of a source at random: (uint8 (3, S, S, count), labels (count,))."""
    chosen = np.random.default_rng(seed).permutation(len(source.labels))[:count]
    return pictures_at(source, chosen), np.asarray(source.labels)[chosen]


def pictures_at(source, indices):
    """Return some pictures of a source (Shards or Images), of whole ones the middle: uint8 (3, S, S, n)."""
    if isinstance(source, Images):
        return source.images[..., indices]
    return np.stack([augment.middle(source[i]) for i in indices], axis=-1)
