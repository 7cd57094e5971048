"""Checkpoints: named arrays and JSON metadata in one safetensors file, written whole or not at all."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from tinyalex.errors import DataError


def save(path, arrays, metadata):
    """Write host arrays (a dict by name) and metadata (anything JSON can hold) to path.

    The file is written beside its place, flushed to the disk and then renamed: whatever happens, path
    holds the old checkpoint or the new one.  Raises OSError (disk full, no permission), naming the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # safetensors writes an array's memory as it lies, whatever its strides: so C order first.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    data = safetensors.numpy.save(arrays, {"tinyalex": json.dumps(metadata)})
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(error.errno, f"{error.strerror}; the checkpoint was not written", str(path)) from error


def write_text(path, text):
    """Write a small text file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def write_array(path, array):
    """Write a .npy file, whole or not at all."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        np.save(file, array)
    os.replace(part, path)


def load(path):
    """Read a checkpoint: (arrays by name, metadata).  Raises DataError if it is not a whole one."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _metadata(path, file)  # noqa: SIM118


def metadata(path):
    """Read a checkpoint's metadata alone, without its arrays."""
    with _opened(path) as file:
        return _metadata(path, file)


@contextlib.contextmanager
def _opened(path):
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a checkpoint (.safetensors), found no such file")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            yield file
    except (safetensors.SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise DataError(f"{path}: not a whole safetensors file ({size:,} bytes): {error}") from error


def _metadata(path, file):
    text = (file.metadata() or {}).get("tinyalex")
    if text is None:
        raise DataError(f"{path}: a safetensors file, but without tinyalex's metadata")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: its metadata are damaged: {error}") from error


def state(model, optimizer):
    """Return the whole network's parameters and velocities, on the host: what a later `restore` needs.

    Every rank must call this: where the ranks share the network, each has some rows (axis 0).
    """
    comm = model.comm
    with comm.on_behalf_of("checkpoint"):
        return {name: comm.device.get(comm.all_gather(a)) for name, a in _arrays(model, optimizer).items()}


def _arrays(model, optimizer):
    arrays = {name: layer.params[key] for name, layer, key in model.parameters()}
    if optimizer:
        arrays |= {f"velocity.{name}": v for name, v in optimizer.velocity.items()}
    return arrays


def restore(model, optimizer, arrays, path):
    """Write a state into the model and the optimizer (None: the parameters alone).

    The number of ranks need not be the one that saved it.  Raises DataError, naming the first array that
    differs, if the state is of another model.
    """
    comm = model.comm
    targets = _arrays(model, optimizer)
    wanted = {n: ((a.shape[0] * comm.size, *a.shape[1:]), a.dtype.name) for n, a in targets.items()}
    found = {n: (a.shape, a.dtype.name) for n, a in arrays.items()}
    for name in sorted(wanted.keys() | found.keys() if optimizer else wanted.keys()):
        if wanted.get(name) != found.get(name):
            raise DataError(
                f"{path}: {name}: this model has {wanted.get(name, 'no such array')}, "
                f"the checkpoint {found.get(name, 'no such array')}"
            )
    for name, target in targets.items():
        target[...] = comm.device.put(arrays[name][comm.part(len(arrays[name]))])
