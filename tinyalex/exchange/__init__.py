"""Networks to and from other programs: ONNX, and PyTorch's state dicts in safetensors files."""

from typing import NamedTuple

from tinyalex.errors import ArgumentError
from tinyalex.models.network import Network


class Imported(NamedTuple):
    """A network that another program wrote."""

    network: Network
    arrays: dict  # "conv1.w" → float32
    properties: dict  # what else the file says, strings by name


def onnx_module():
    """Return the package onnx with what is used of it here; ArgumentError if it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ArgumentError(
            f"ONNX: expected the package onnx, found none ({error}): pip install 'tinyalex[onnx]'"
        ) from error
    return onnx
