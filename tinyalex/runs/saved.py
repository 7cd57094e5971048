"""Which network a checkpoint holds, of those that this program writes: AlexNet, imported, or Figure 1's."""

import math
from functools import partial
from typing import NamedTuple

import numpy as np

from tinyalex.comm import Comm
from tinyalex.data.preprocessing import Pictures
from tinyalex.devices import Device
from tinyalex.errors import ArgumentError, DataError
from tinyalex.models import sequential
from tinyalex.models.alexnet import alexnet, most_ranks
from tinyalex.models.cifar import figure1_net
from tinyalex.nn import BlankWeights
from tinyalex.ops.activation import ACTIVATIONS
from tinyalex.runs import checkpoint
from tinyalex.runs.settings import Settings


class Saved(NamedTuple):
    """A checkpoint's network, without its arrays."""

    build: callable  # (comm, rng) → the Sequential
    shape: tuple  # (C, H, W) of its input
    ranks: int  # that can share it, at most
    classes: object  # the names as the checkpoint has them
    settings: Settings | None = None  # of an AlexNet run
    pictures: Pictures | None = None  # of an imported network, None where it was not stated

    def layers(self):
        """Return the network as a list of `tinyalex.models.sequential`."""
        return sequential.layers_of(self.build(Comm(Device("cpu:0")), BlankWeights()))

    def outputs(self):
        """Return how many classes the network tells apart."""
        return sequential.shapes(self.layers(), self.shape)[-1][0]


def open_network(path):
    """Look into a checkpoint: return its `Saved`.

    Raises DataError for a file that is none of this program's, or whose network does not fit its arrays'
    shapes: nothing of the size that the metadata claim is made before that.
    """
    metadata, shapes = checkpoint.outline(path)
    try:
        saved = _saved(metadata)
        wanted = saved.build(Comm(Device("cpu:0")), BlankWeights()).parameters()
        for name, layer, key in wanted:
            if shapes.get(name) != layer.params[key].shape:
                raise DataError(
                    f"{name}: this model has {layer.params[key].shape}, "
                    f"the checkpoint {shapes.get(name, 'no such array')}"
                )
    except (DataError, ArgumentError) as error:
        raise DataError(f"{path}: {error}") from error
    return saved


def _saved(metadata):
    if not isinstance(metadata, dict):
        raise DataError(f"expected metadata of a network, found {type(metadata).__name__}")
    if "settings" in metadata:
        settings = Settings.from_json(metadata["settings"])
        network = settings.network
        shape, classes = (3, network.size, network.size), metadata.get("classes")
        return Saved(partial(alexnet, network), shape, most_ranks(network), classes, settings)
    if "layers" in metadata:
        shape = _sizes(metadata.get("input"))
        layers = sequential.from_json(metadata["layers"], shape)
        pictures = metadata.get("pictures")
        if pictures is not None:
            pictures = Pictures.from_json(pictures)
            if shape != (3, pictures.crop, pictures.crop):
                raise DataError(f"pictures: crop {pictures.crop} does not fit an input {shape}")
        build, ranks = partial(sequential.build, layers), sequential.most_ranks(layers)
        return Saved(build, shape, ranks, metadata.get("classes"), pictures=pictures)
    if "neuron" in metadata:
        if metadata["neuron"] not in list(ACTIVATIONS):
            raise DataError(f"neuron: expected one of {', '.join(ACTIVATIONS)}, found {metadata['neuron']!r}")
        return Saved(partial(figure1_net, metadata["neuron"]), (3, 32, 32), 1, None)
    raise DataError("a checkpoint, but not of an AlexNet run, nor of another network that this version knows")


def _sizes(shape):
    fits = isinstance(shape, list) and len(shape) == 3 and all(type(n) is int and n > 0 for n in shape)
    if not fits or math.prod(shape) > sequential.MOST_NUMBERS:
        raise DataError(f"input: expected three sizes (C, H, W), found {str(shape)[:80]}")
    return tuple(shape)


def mean_picture(path, arrays):
    """Return the mean of a run's training pictures, float32 (3, S, S); DataError if it is not there."""
    mean = arrays.get("data.mean")
    if mean is None or mean.dtype != np.float32 or mean.shape != (3, *2 * mean.shape[-1:]):
        found = "none" if mean is None else f"{mean.dtype} {mean.shape}"
        raise DataError(f"{path}: data.mean: expected a mean picture, float32 (3, S, S), found {found}")
    return mean


def load_network(comm, path, saved, arrays):
    """Build the network of `open_network` on this rank of comm, with the file's arrays."""
    net = saved.build(comm, BlankWeights())
    checkpoint.adopt(net, arrays, path)
    return net
