"""Checkpoints: named arrays and JSON metadata in one safetensors file, written whole or not at all."""

import contextlib
import json
import os
from pathlib import Path

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
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(safetensors.numpy.save(arrays, {"tinyalex": json.dumps(metadata)}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OSError(error.errno, f"{error.strerror}; the checkpoint was not written", str(path)) from error


def load(path):
    """Read a checkpoint: (arrays by name, metadata).  Raises DataError if it is not a whole one."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: expected a checkpoint (.safetensors), found no such file")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = (file.metadata() or {}).get("tinyalex")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise DataError(f"{path}: not a whole safetensors file ({size:,} bytes): {error}") from error
    if metadata is None:
        raise DataError(f"{path}: a safetensors file, but without tinyalex's metadata")
    return arrays, json.loads(metadata)


def state(model, optimizer):
    """Return the arrays (on the host) that a later `restore` needs: parameters and velocities."""
    get = model.comm.device.get
    arrays = {name: get(layer.params[key]) for name, layer, key in model.parameters()}
    return arrays | {f"velocity.{name}": get(v) for name, v in optimizer.velocity.items()}


def restore(model, optimizer, arrays, path):
    """Write a state into the model and the optimizer; DataError if it is of another model."""
    targets = {name: layer.params[key] for name, layer, key in model.parameters()}
    targets |= {f"velocity.{name}": v for name, v in optimizer.velocity.items()}
    wanted = {name: (a.shape, a.dtype.name) for name, a in targets.items()}
    found = {name: (a.shape, a.dtype.name) for name, a in arrays.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise DataError(
                f"{path}: {name}: this model has {wanted.get(name, 'no such array')}, "
                f"the checkpoint {found.get(name, 'no such array')}"
            )
    for name, target in targets.items():
        target[...] = model.comm.device.put(arrays[name])
