"""VGG: AlexNet's successor, of nothing but 3×3 convolutions  (Simonyan and Zisserman, 2014, Table 1).

    A  64       M 128      M 256 256             M 512 512             M 512 512             M
    B  64 64    M 128 128  M 256 256             M 512 512             M 512 512             M
    C  64 64    M 128 128  M 256 256 256/1       M 512 512 512/1       M 512 512 512/1       M
    D  64 64    M 128 128  M 256 256 256         M 512 512 512         M 512 512 512         M
    E  64 64    M 128 128  M 256 256 256 256     M 512 512 512 512     M 512 512 512 512     M

A number is a convolution of so many filters, 3×3 with padding 1 (/1: 1×1), with a ReLU; M a max pooling 2×2
with stride 2.  Two 3×3 convolutions see 5×5 pixels, three 7×7, with fewer weights and more nonlinearities
(section 2.3).  Then fully connected layers of 4096, 4096 and the classes.

Layers are named as in the released weights: conv3_2 is the second convolution of the third column.
"""

import re
from dataclasses import replace

from tinyalex.errors import ArgumentError, few
from tinyalex.fields import expect, fits, one_of, plain_data
from tinyalex.models.network import Network
from tinyalex.nn import LRN, Conv2d, Dropout, Linear, MaxPool, Weighted, plan

TABLE = dict(line.split(None, 1) for line in __doc__.splitlines() if line.startswith("    "))
# what the deeper configurations begin with of a trained A: its first four convolutions and three fully
# connected layers (section 3.1)
FROM_A = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8")
WEIGHTS = {"variance": 0.1, "deviation": 0.01, "glorot": None}


def vgg(configuration, classes=1000, size=224, width=1.0, weights="glorot", lrn=False):
    """Return the `Network` of a configuration, "A" to "E".

    Input: pixels 0–255 minus the mean colour, (3, size, size), size from 32 on.  Output: logits (classes,).
    width: factor on filters and hidden units.  lrn: after the first convolution (A-LRN, with AlexNet's
    constants).

    weights: how they start, biases at 0.  "variance": N(0, 0.01), a standard deviation of 0.1, as section 3.1
    prints it: A's first logits are then of the order of 10⁷; "deviation": a standard deviation of 0.01, as
    AlexNet's: they are of the order of 10⁻⁴; "glorot": N(0, 2/(inputs + outputs)) of each layer (Glorot and
    Bengio, 2010): they are of the order of 1, and no network needs another to start from, says the same
    section.
    """
    one_of(TABLE, configuration, "configuration")
    expect(fits(plain_data(lrn), bool), "lrn", "true or false", lrn)
    expect(fits(plain_data(width), float) and width > 0, "width", "a factor > 0", width)

    def scaled(filters):
        return max(1, round(int(filters) * width))

    words = re.sub(r"(?<!/)\b\d+", lambda found: str(scaled(found[0])), TABLE[configuration])
    layers = layers_of(words.split(), [scaled(4096)] * 2, classes)
    if lrn:
        layers.insert(1, LRN(name="lrn1"))
    return Network(_started(layers, (3, size, size), weights), (3, size, size))


def layers_of(words, hidden, classes):
    """Return the layers that words such as "64", "256/1" and "M" stand for, and the fully connected ones."""
    layers, column, row = [], 1, 0
    for word in words:
        if word == "M":
            layers.append(MaxPool(2, 2, ceil=False, name=f"pool{column}"))
            column, row = column + 1, 0
            continue
        row += 1
        filters, _, one = word.partition("/")
        kernel, pad = (1, 0) if one else (3, 1)
        name = f"conv{column}_{row}"
        layers.append(Conv2d(int(filters), kernel, pad=pad, activation="relu", name=name))
    for number, features in enumerate(hidden, 6):
        layers.append(Linear(features, "relu", name=f"fc{number}"))
        layers.append(Dropout(0.5, inverted=True, name=f"dropout{number}"))  # Caffe's: VGG was made in it
    return [*layers, Linear(classes, name="fc8")]


def _started(layers, shape, weights):
    """Return the layers with the standard deviations of their starting weights."""
    one_of(WEIGHTS, weights, "weights")
    found = []
    for layer, x, *_ in plan(layers, shape):
        if isinstance(layer, Weighted):
            outputs, inputs, *window = layer.sizes(x)["w"]
            places = window[0] * window[1] if window else 1
            std = WEIGHTS[weights] or (2 / ((inputs + outputs) * places)) ** 0.5
            layer = replace(layer, std=std)
        found.append(layer)
    return found


def inherited(theirs, ours):
    """Return the layers that a network begins with of a trained one; both are given as `Network.sizes`.

    All, where the two are the same network; `FROM_A`, where theirs is A and ours a deeper configuration.
    Raises ArgumentError for any other pair, naming the array that differs, if it is of these layers.
    """
    names, a = _layers(theirs), _layers(vgg("A", size=32).sizes())
    deeper = names == a and a < _layers(ours)
    if not deeper and names != _layers(ours):
        raise ArgumentError(
            "expected the weights of this network, or of vgg-a for a deeper one, found layers "
            + few(sorted(names))
        )
    copied = set(FROM_A) if deeper else names
    for key, size in theirs.items():
        if key.rpartition(".")[0] in copied and size != ours[key]:
            raise ArgumentError(f"{key}: this network has {ours[key]}, the trained one {size}")
    return copied


def _layers(sizes):
    return {key.rpartition(".")[0] for key in sizes}
