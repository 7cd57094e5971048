"""What a run is made of: its settings, which travel with every checkpoint, and its pictures."""

import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyalex.data import augment, cifar10, imagenet, shapes
from tinyalex.data.loader import Loader
from tinyalex.data.rescaled import RescaledLoader
from tinyalex.errors import DataError, few
from tinyalex.fields import checked
from tinyalex.models.network import Network
from tinyalex.parallel import LAYOUTS, most_ranks
from tinyalex.runs import recipe
from tinyalex.runs.recipe import Recipe

SHAPES = Path("shapes")  # the pictures that `tinyalex.data.shapes` draws


class Settings(NamedTuple):
    """Everything that the outcome of a run depends on, apart from the devices."""

    data: str  # a folder made by `tinyalex prepare`, or CIFAR-10
    network: Network
    recipe: Recipe
    seed: int = 0
    upscale: int | None = None  # side to which pictures are enlarged first
    save_every: int = 500  # steps
    keep: int = 3  # checkpoints
    accumulate: int = 1  # parts of a batch that go through the network one after the other
    start_from: str | None = None  # the checkpoint whose weights the run began with
    parallel: str = "model"  # how ranks share the work, see `tinyalex.parallel`
    ranks: int | None = None  # how many, where what is learned depends on it

    @classmethod
    def of(cls, data, network, recipe, side, **others):
        """Return the settings of a run whose crops are what the network sees.

        side: of the data's pictures.  A recipe counts the positions of its own crop in pictures of 256
        pixels: with others, every crop that fits may be drawn.  Its scale is of its own crop too: with
        another, or of smaller pictures, they stay as large as they are.
        scale: instead of the recipe's.
        """
        crop, pictures, scale = network.input[-1], recipe.augmentation, others.pop("scale", None)
        if scale is not None:
            pictures = pictures._replace(scale=scale, offsets=None, group=1)
        elif pictures.scale is not None and (crop != pictures.crop or side < pictures.scales[1]):
            pictures = pictures._replace(scale=None if others.get("upscale") else side)
        if pictures.offsets and (others.get("upscale") or side, crop) != (256, pictures.crop):
            pictures = pictures._replace(offsets=None)
        pictures = pictures._replace(crop=crop)
        return cls(str(data), network, recipe._replace(augmentation=pictures), **others)

    @property
    def most_ranks(self):
        """Into how many equal parts a step can be cut."""
        return most_ranks(self.network, self.parallel, self.recipe.batch)

    def to_json(self):
        """Return a dict of JSON's own types."""
        return {**self._asdict(), "network": self.network.to_json(), "recipe": recipe.to_json(self.recipe)}

    @classmethod
    def from_json(cls, fields):
        """Undo `to_json`; DataError where the fields are not those of this version."""
        if not isinstance(fields, dict) or not {"network", "recipe"} <= fields.keys():
            raise DataError("settings: expected a network and a recipe, found none")
        parts = {
            "network": Network.from_json(fields["network"]),
            "recipe": recipe.from_json(fields["recipe"]),
        }
        made = checked(cls, fields | parts, "settings")
        if made.parallel not in LAYOUTS:
            raise DataError(f"parallel: expected one of {', '.join(LAYOUTS)}, found {made.parallel!r}")
        r = made.recipe
        if min(r.batch, r.epochs, r.patience, made.save_every, made.keep, made.accumulate) < 1:
            raise DataError(
                "settings: batch, epochs, patience, save_every, keep, accumulate: expected at least 1"
            )
        return made


class Data(NamedTuple):
    """The pictures of a run: training and validation sources for the Loader, and their statistics."""

    train: object  # None where there is a validation split alone
    val: object  # None where there is no validation split
    mean: np.ndarray  # (3, S, S)
    covariance: np.ndarray  # (3, 3)
    classes: tuple

    def loader(self, split, settings, **kwargs):
        """Return a Loader over a split, "train" or "val", as the settings say."""
        source = self.train if split == "train" else self.val
        made = Loader if kwargs["augmentation"].scale is None else RescaledLoader
        return made(
            source, settings.recipe.batch, mean=self.mean, covariance=self.covariance,
            seed=settings.seed, upscale=settings.upscale, data_batch=settings.recipe.data_batch, **kwargs,
        )  # fmt: skip


def locate(data):
    """Return the whole path of a data set; "cifar10" is CIFAR-10 where it is on the disk, else fetched.

    "shapes" stays: they are drawn here.
    """
    path = Path(data)
    if path == SHAPES and not path.exists():
        return path
    if path == Path("cifar10") and not path.exists():
        path = cifar10.find() or cifar10.fetch()
    return path.resolve()


def open_data(path):
    """Open a folder made by `tinyalex prepare`, CIFAR-10 in any form that `cifar10.load` reads, or "shapes".

    path: as for `locate`.  Raises DataError for anything else.
    """
    path = locate(path)
    if path == SHAPES:
        train, val = shapes.load("train"), shapes.load("test")
        return Data(train, val, *augment.statistics(train.images), train.classes)
    if (path / "index.json").exists() or (path / "plan.json").exists():
        splits = imagenet.open_all(path)
        some = splits["train" if "train" in splits else "val"]
        return Data(splits.get("train"), splits.get("val"), some.mean, some.covariance, some.classes)
    if cifar10.find(path) is None:
        found = "no such file or folder"
        if path.is_dir():
            inside = sorted(path.iterdir())
            found = f"in it {few([p.name for p in inside])}" if inside else "an empty folder"
            if path / "run.json" in inside:
                found = "the folder of a run"
            elif any(p.is_dir() for p in inside):
                found += f"; to prepare pictures: tinyalex prepare pictures {shlex.quote(str(path))} DST"
        raise DataError(
            f"{path}: expected a folder made by `tinyalex prepare`, or CIFAR-10 (cifar-10-batches-bin, "
            f"cifar-10-batches-py, or an archive of them), found {found}"
        )
    train, val = cifar10.load(path, "train"), cifar10.load(path, "test")
    return Data(train, val, *augment.statistics(train.images), train.classes)
