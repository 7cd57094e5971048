"""Networks that lie in files: checkpoints, JSON, and Python files of one's own."""

import difflib
import json
import runpy
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinyalex.data.preprocessing import Pictures
from tinyalex.errors import ArgumentError, DataError, reason
from tinyalex.fields import finite
from tinyalex.models import NETWORKS, Network, make
from tinyalex.runs import checkpoint
from tinyalex.runs.settings import Settings


class Saved(NamedTuple):
    """A checkpoint's network, without its arrays."""

    network: Network
    classes: object  # the names as the checkpoint has them
    settings: Settings | None = None  # of a run
    pictures: Pictures | None = None  # of an imported network, None where it was not stated


def open_network(path: str | Path) -> Saved:
    """Look into a checkpoint: return its `Saved`.

    Raises DataError for a file that is none of this program's, or whose network does not fit its arrays'
    shapes: nothing of the size that the metadata claim is made before that.
    """
    metadata, shapes = checkpoint.outline(path)
    try:
        saved = _saved(metadata)
        for name, size in saved.network.sizes().items():
            if shapes.get(name) != size:
                raise DataError(
                    f"{name}: this model has {size}, the checkpoint {shapes.get(name, 'no such array')}"
                )
    except (DataError, ArgumentError) as error:
        raise DataError(f"{path}: {error}") from error
    return saved


def _saved(metadata):
    if "network" not in metadata:
        raise DataError("expected a checkpoint of a network, found one without")
    made = Network.from_json(metadata["network"])
    settings, pictures = metadata.get("settings"), metadata.get("pictures")
    if settings is not None:
        if not isinstance(settings, dict):
            raise DataError(f"settings: expected named fields, found {type(settings).__name__}")
        settings = Settings.from_json({**settings, "network": metadata["network"]})
    if pictures is not None:
        pictures = Pictures.from_json(pictures)
        if made.input != (3, pictures.crop, pictures.crop):
            raise DataError(f"pictures: crop {pictures.crop} does not fit an input {made.input}")
    return Saved(made, metadata.get("classes"), settings, pictures)


def mean_picture(path, arrays):
    """Return the mean of a run's training pictures, float32 (3, S, S); DataError without a sound one."""
    mean = arrays.get("data.mean")
    if mean is None or mean.dtype != np.float32 or mean.shape != (3, *2 * mean.shape[-1:]):
        found = "none" if mean is None else f"{mean.dtype} {mean.shape}"
        raise DataError(f"{path}: data.mean: expected a mean picture, float32 (3, S, S), found {found}")
    finite({f"{path}: data.mean": mean})
    return mean


def load_network(comm, path, saved, arrays):
    """Build the network of `open_network` on this rank of comm, with the file's arrays."""
    net = saved.network.build(comm)
    checkpoint.adopt(net, arrays, path)
    return net


# ---- what the word NETWORK means on the command line -----------------------------------------------------


def find_network(what: str | Path, classes: int | None = None, **options) -> Network:
    """Return the `Network` that a word means.

    what: a name of `tinyalex.models.NETWORKS`, "alexnet" for the preset "paper"; a checkpoint, or a run
    folder; FILE.json, as `Network.to_json` makes it; or FILE.py, a Python file of one's own, which is run and
    must give the name `network` to a `Network`.
    classes: how many a network that is asked for by name tells apart; a file says so itself.
    options: of a name, see `tinyalex.models.make`; None where not asked for.  Raises DataError, naming
    what was looked for, for anything else.
    """
    what = "paper" if what == "alexnet" else str(what)
    if what in NETWORKS:
        return make(what, classes=classes, **options)
    path = Path(what)
    if not path.exists():
        names = ["alexnet", *NETWORKS]
        near = difflib.get_close_matches(what, names, 1)
        raise DataError(
            f"{what}: expected a network: {', '.join(names)}, a checkpoint, a run folder, FILE.json or "
            f"FILE.py; found no such name or file{f': did you mean {near[0]}?' if near else ''}"
        )
    if given := [name for name, value in options.items() if value is not None]:
        option = "no-" * (options[given[0]] is False) + given[0]
        raise DataError(f"{what}: --{option}: only a network that is asked for by name has this choice")
    if path.suffix == ".py":
        return _from_python(path)
    if path.suffix == ".json":
        return _from_json(path)
    return open_network(checkpoint.newest(path)).network


def run_python(path: str | Path) -> dict:
    """Run a Python file of one's own, which may declare kinds of layers; return its names.

    Raises DataError, naming the file, for whatever goes wrong in it.
    """
    try:
        return runpy.run_path(str(path))
    except Exception as error:
        raise DataError(f"{path}: {type(error).__name__}: {error}") from error


def _from_python(path):
    found = run_python(path).get("network")
    if not isinstance(found, Network):
        raise DataError(
            f"{path}: expected it to define network = Network([…], (3, 32, 32)), found {type(found).__name__}"
        )
    try:
        found.plan()
    except ArgumentError as error:
        raise DataError(f"{path}: {error}") from error
    return found


def _from_json(path):
    try:
        return Network.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:  # DataError too
        raise DataError(f"{path}: expected a network as JSON: {reason(error)}") from error
