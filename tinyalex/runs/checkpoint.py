"""Checkpoints: named arrays and JSON metadata in one safetensors file, written whole or not at all.

The metadata of format 2:

    version     2
    network     the network as data, see `tinyalex.models.network`
    classes     the names of the classes, or null
    pictures    what an imported network wants to see (`tinyalex.data.preprocessing`), or null
    labels      a check sum of those that a run was trained on, in their order
    settings    of a run (`tinyalex.runs.settings`), and its place: epoch, batch, step, sums, schedule,
                generator
    curve       of Figure 1's networks: what the training came to so far

Format 1 is read as well (`tinyalex.runs.version1`); a later one is refused.
"""

import json
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from tinyalex.errors import ArgumentError, DataError
from tinyalex.fields import finite
from tinyalex.files import write_bytes
from tinyalex.models.vgg import inherited as inherited_layers
from tinyalex.runs import version1

VERSION = 2


def save(path: str | Path, arrays: dict[str, np.ndarray], metadata: dict) -> None:
    """Write host arrays (a dict by name) and metadata (anything JSON can hold) to path.

    Raises OSError (disk full, no permission), naming the file: path then holds what it held before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors writes an array's memory as it lies, whatever its strides: so C order first.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    text = json.dumps({"version": VERSION, **metadata})
    write_bytes(path, safetensors.numpy.save(arrays, {"tinyalex": text}), "the checkpoint")


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Read a checkpoint, or a run folder's newest: (arrays by name, metadata).

    Raises DataError if it is not a whole one.  The file is read, not mapped: one that shrinks meanwhile is an
    error, not a signal that ends the process.  Memory: twice the file.
    """
    path = newest(path)
    if not path.is_file():
        raise _none(path)
    try:
        data = path.read_bytes()
        arrays = safetensors.numpy.load(data)
    except Exception as error:  # SafetensorError, OSError; for a dtype that NumPy does not have, KeyError
        raise _not_whole(path, error) from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return arrays, _metadata(path, header.get("__metadata__"))


def checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints of a run folder, oldest first."""
    return sorted(Path(folder).glob("step-*.safetensors"))


def newest(path: str | Path) -> Path:
    """Return the checkpoint that a path means: the file itself, or the newest of a run folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = checkpoints(path)
    if not found:
        raise DataError(f"{path}: expected a run folder with checkpoints, found none")
    return found[-1]


def metadata(path: str | Path) -> dict:
    """Read a checkpoint's metadata alone, without its arrays."""
    return outline(path)[0]


def outline(path: str | Path) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """Read a checkpoint's, or a run folder's newest's, metadata, and its arrays' shapes by name."""
    path = newest(path)
    if not path.is_file():
        raise _none(path)
    try:
        with safetensors.safe_open(path, "numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return _metadata(path, file.metadata()), shapes
    except (safetensors.SafetensorError, OSError) as error:
        raise _not_whole(path, error) from error


def _none(path):
    return DataError(f"{path}: expected a checkpoint (.safetensors) or a run folder, found no such file")


IMPORT = "; what another program wrote comes in by `tinyalex import`"


def _not_whole(path, error):
    size = path.stat().st_size if path.is_file() else 0
    more = "" if path.suffix == ".safetensors" else IMPORT
    return DataError(f"{path}: not a whole safetensors file ({size:,} bytes): {error}{more}")


def _metadata(path, strings):
    text = (strings or {}).get("tinyalex")
    if text is None:
        raise DataError(f"{path}: a safetensors file, but without tinyalex's metadata{IMPORT}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its metadata are damaged: {error}") from error
    try:
        return of_this_version(found, version1.metadata)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def of_this_version(found, upgrade):
    """Return what a file holds as format 2 has it; upgrade(found) makes that of format 1, without a version.

    Raises DataError for a later format.
    """
    version = found.get("version", 1) if isinstance(found, dict) else 1
    if version == 1:
        return upgrade(found)
    if version != VERSION:
        raise DataError(
            f"expected format {VERSION} or earlier, found {version!r:.20}: written by a later tinyalex"
        )
    return {key: value for key, value in found.items() if key != "version"}


def state(model, optimizer):
    """Return the whole network's parameters and velocities, on the host: what a later `restore` needs.

    Every rank must call this: where the ranks share a layer, each has some rows (axis 0).
    """
    with model.comm.on_behalf_of("checkpoint"):
        return {
            name: model.comm.device.get(comm.all_gather(a))
            for name, (comm, a) in _arrays(model, optimizer).items()
        }


def _arrays(model, optimizer):
    """Return (the ranks that share it, this rank's rows) of each array by name."""
    arrays = {name: (layer.comm, layer.params[key]) for name, layer, key in model.parameters()}
    if optimizer:
        arrays |= {f"velocity.{name}": (arrays[name][0], v) for name, v in optimizer.velocity.items()}
    return arrays


def restore(model, optimizer, arrays, path):
    """Write a state into the model and the optimizer (None: the parameters alone).

    The number of ranks need not be the one that saved it.  Raises DataError, naming the first array that
    differs, if the state is of another model.
    """
    targets = _arrays(model, optimizer)
    wanted = {n: ((a.shape[0] * c.size, *a.shape[1:]), a.dtype.name) for n, (c, a) in targets.items()}
    _compare(wanted, arrays, path, exactly=optimizer)
    for name, (comm, target) in targets.items():
        target[...] = comm.device.put(arrays[name][comm.part(len(arrays[name]))])


def adopt(model, arrays, path):
    """As `restore` without an optimizer, for a model built without rng: the arrays become its own.

    Raises DataError for parameters that are not finite as well.
    """
    sizes = model.sizes()
    _compare({name: (size, "float32") for name, size in sizes.items()}, arrays, path, exactly=False)
    try:
        finite({name: arrays[name] for name in sizes})
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    for name, layer, key in model.parameters():
        mine = arrays[name][layer.comm.part(len(arrays[name]))]
        layer.params[key] = model.comm.device.put(np.require(mine, requirements="W"))  # a file's may not be


def inherited(network, path):
    """Return the names of the arrays that a network begins with of a checkpoint (`tinyalex.models.vgg`).

    Raises DataError, naming the file, for one of another network.
    """
    _, shapes = outline(path)
    theirs = {name: size for name, size in shapes.items() if not name.startswith(("velocity.", "data."))}
    ours = network.sizes()
    try:
        layers = inherited_layers(theirs, ours)
    except ArgumentError as error:
        raise DataError(f"--start-from: {path}: {error}") from error
    return [name for name in ours if name.rpartition(".")[0] in layers]


def inherit(model, network, path):
    """Write what the network begins with of a checkpoint into the model on this rank."""
    names, (arrays, _) = inherited(network, path), load(path)
    for name, layer, key in model.parameters():
        if name in names:
            finite({name: arrays[name]})
            rows = layer.comm.part(len(arrays[name]))
            layer.params[key][...] = layer.comm.device.put(arrays[name][rows])


def _compare(wanted, arrays, path, exactly):
    found = {n: (a.shape, a.dtype.name) for n, a in arrays.items()}
    for name in sorted(wanted.keys() | found.keys() if exactly else wanted.keys()):
        if wanted.get(name) != found.get(name):
            raise DataError(
                f"{path}: {name}: this model has {wanted.get(name, 'no such array')}, "
                f"the checkpoint {found.get(name, 'no such array')}"
            )
