"""Networks to and from other programs: ONNX, and PyTorch's state dicts in safetensors files."""

from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.models.network import Network


class Imported(NamedTuple):
    """A network that another program wrote."""

    network: Network
    arrays: dict  # "conv1.w" → float32
    properties: dict  # what else the file says, strings by name
    prepares: str | None = None  # its first layer, where that is the file's own preparation of pictures
    notes: tuple = ()  # what the reader decided, sentences


def preparation(found):
    """Return (a, c, the rest): the file prepares its pictures as a · x + c, then `Imported` as it is without.

    found: an `Imported` with `prepares`.
    """
    first, *layers = found.network.layers
    w, b, mean, var = (found.arrays[f"{first.name}.{key}"].astype(float) for key in ("w", "b", "mean", "var"))
    a = w / np.sqrt(var + first.eps)
    arrays = {name: array for name, array in found.arrays.items() if name.rpartition(".")[0] != first.name}
    rest = found._replace(network=Network(layers, found.network.input), arrays=arrays, prepares=None)
    return a, b - a * mean, rest


CONVERT = """import torch, safetensors.torch as s; s.save_file(torch.load({0!r}, weights_only=True), {1!r})"""
FIRST_BYTES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself: `git lfs pull` fetches it",
    b"\x89HDF": "an HDF5 file, as Keras writes it: expected ONNX (tf2onnx makes it)",
    b"\x1f\x8b": "packed by gzip: expected the file in it",
}
TEXT = bytes(range(32, 127)) + b"\t\r\n"


def other_kind(path, data):
    """Say what a file is that is not read here, from its first bytes or its name; None if unknown."""
    if not data:
        return "an empty file"
    for first, what in FIRST_BYTES.items():
        if data.startswith(first):
            return what
    if data[:200].lstrip().lower().startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, not the file itself: was the address the one of the download?"
    if path.suffix in (".caffemodel", ".prototxt", ".binaryproto"):
        return "a file of Caffe: expected ONNX; the ONNX model zoo has Caffe's networks"
    pickle = _pickle(path, data)
    if pickle:
        line = CONVERT.format(str(path), str(path.with_suffix(".safetensors")))
        return f'{pickle}: pickles are not read; this line makes a file that is: python -c "{line}"'
    if not data[:200].translate(None, TEXT):
        return "a text file: expected ONNX or safetensors"
    return None


def _pickle(path, data):
    """Say which pickle of PyTorch's a file is, or None."""
    if data.startswith(b"PK\x03\x04"):
        return "a zip, as torch.save writes it"
    if data.startswith(b"\x80"):
        return "a pickle, as torch.save wrote it"
    if path.suffix in (".pth", ".pt", ".ckpt", ".pkl", ".pickle"):
        return "by its name a pickle of PyTorch's"
    return None


def onnx_module():
    """Return the package onnx with what is used of it here; ArgumentError if it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.defs
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ArgumentError(
            f"ONNX: expected the package onnx, found none ({error}): pip install 'tinyalex[onnx]'"
        ) from error
    return onnx
