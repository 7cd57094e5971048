"""What lesson 0 looks into: a small network that has learned the ten shapes, and pictures for it.

net = trained()                             with its weights, zero.npz: python lessons/train.py wrote them
net.forward(seen(pictures))                 scores (10, N) of pictures (3, 32, 32, N)
photograph("photograph.jpg")                a picture (3, 32, 32) of one's own
"""

from pathlib import Path

import numpy as np

from tinyalex.data import shapes
from tinyalex.models import Network
from tinyalex.nn import Conv2d, Linear, MaxPool

WEIGHTS = Path(__file__).with_name("zero.npz")
NETWORK = Network(
    [
        Conv2d(24, 5, stride=2, pad=2, activation="relu", std=0.16, name="conv1"),
        MaxPool(3, 2, name="pool1"),
        Conv2d(48, 3, pad=1, activation="relu", std=0.1, name="conv2"),
        MaxPool(3, 2, name="pool2"),
        Linear(64, activation="relu", std=0.05, name="fc3"),
        Linear(10, std=0.05, name="fc4"),
    ],
    (3, 32, 32),
)


def trained():
    """Return the network with the weights that it has learned, a `tinyalex.nn.Sequential`."""
    net = NETWORK.build(rng=np.random.default_rng(0))
    with np.load(WEIGHTS, allow_pickle=False) as weights:
        for name, layer, key in net.parameters():
            layer.params[key][...] = weights[name]
    return net


def seen(pictures):
    """What the network is given of pictures (3, H, W, N): each minus its mean, over its standard deviation.

    So it does not matter how light a picture is, nor how strong its contrast.  float32.
    """
    x = pictures.astype(np.float32)
    x -= x.mean(axis=(0, 1, 2))
    return x / np.maximum(x.std(axis=(0, 1, 2)), 1e-3)


def photograph(file):
    """Return a picture of one's own, the middle square of a file made small: uint8 (3, 32, 32).

    Where there is no such file it says so, and a star is drawn in its place.  DataError for a file that is no
    picture.
    """
    if not Path(file).exists():
        print(f"There is no {file} yet: a star that was drawn stands in its place.")
        found = shapes.make(10, np.random.default_rng(1))
        return found.images[..., found.labels == found.classes.index("star")][..., 0]
    from tinyalex.data.pictures import read_file  # with Pillow, which a browser has to load

    return read_file(file, shapes.SIDE)
