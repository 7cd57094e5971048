"""AlexNet, section 3.5 of the paper, written once for any number of ranks.

Two towers, each with half of the kernels, meet only where the paper lets its two GPUs meet: before
conv3 and before each fully connected layer.  On two ranks each holds a tower and AllGather is the
meeting; on one rank the towers are groups of the convolutions and AllGather does nothing.

What the paper says and what the 2012 code did (config 145, whose logged errors are the paper's) differ in
eleven places; each is a field of `Network` or of `tinyalex.runs.recipe.Recipe`.
"""

from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.nn import LRN, Activate, AllGather, Conv2d, Dropout, Linear, MaxPool, SameMapNorm, Sequential
from tinyalex.ops.activation import relu
from tinyalex.ops.conv import output_size
from tinyalex.ops.pool import pooled_size


class Network(NamedTuple):
    """What can be chosen about the network.  The defaults are the paper's text, but for numbers 9 and 10.

    The differences between paper and 2012 code, numbered as they are found there:

    lrn_alpha_over_n (1): α is divided by the window n.  Paper, section 3.3: α Σ; code: layer.py:1183.
    lrn1_before_relu (2): conv1 → LRN → pool → ReLU (layers-145.cfg: the neuron stands at pool1); paper,
        section 3.3: LRN is applied "after applying the ReLU nonlinearity".
    same_map_norm (3): a 5×5 normalization within each map after LRN2 (layers-145.cfg: cnorm2, scale 1e-3).
    conv345_std (4): spread of the starting weights of conv3, conv4, conv5: 0.03 in layers-145.cfg, 0.01 in
        section 5.
    conv1_ceil (9): conv1 counts its windows by 1 + ceil((224 − 11)/4) = 55 (layer.py:1004), which is 3 rows
        and columns of zeros at bottom and right.  The text does not say how 224 becomes 55; 227 needs none.
    lrn_within_towers (10): LRN windows end at a tower's last map, as in the code, whose GPUs had only their
        own maps (layers-145.cfg).  `paper` does so too, so that it can run on two devices: the text's N, the
        maps of the layer, would make windows cross the towers.  False: they do, as in the re-implementations
        for one GPU (one rank only).
    """

    filters: tuple[int, ...] = (96, 256, 384, 384, 256)  # conv1 … conv5 (section 3.5), both towers together
    hidden: int = 4096  # fc6, fc7
    classes: int = 1000
    size: int = 224  # of the picture, in pixels
    towers: int = 2
    lrn: bool = True  # section 3.3 measures the network without it
    pool: int = 3  # window of the poolings; 2: they do not overlap (section 3.4)
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    lrn_alpha_over_n: bool = False
    lrn1_before_relu: bool = False
    same_map_norm: bool = False
    conv_std: float = 0.01
    conv345_std: float = 0.01
    fc_std: float = 0.01
    bias: float = 1.0  # of conv2, conv4, conv5 and the hidden fully connected layers (section 5)
    conv1_ceil: bool = True
    lrn_within_towers: bool = True
    dropout: bool = True  # section 4.2
    inverted_dropout: bool = False


PRESETS = {
    "paper": Network(),
    # layers-145.cfg and layer-params-145.cfg: the network that was trained for the published numbers
    "code2012": Network(lrn_alpha_over_n=True, lrn1_before_relu=True, same_map_norm=True, conv345_std=0.03),
    # 145-half: one GPU's network, against which section 3.2 measures two: conv5 and the fully connected
    # layers keep their size, half of the kernels elsewhere
    "half": Network(
        filters=(48, 128, 192, 192, 256), towers=1, lrn_alpha_over_n=True, lrn1_before_relu=True,
        same_map_norm=True, conv345_std=0.03,
    ),
    # bvlc_alexnet's train_val.prototxt: the weights that people have on disk
    "caffe": Network(
        size=227, lrn_k=1.0, lrn_alpha_over_n=True, lrn_within_towers=False, bias=0.1, fc_std=0.005,
        inverted_dropout=True,
    ),
}  # fmt: skip


def narrow(network, width):
    """Return the network with `width` times the filters and hidden units (each tower's a multiple of 4)."""

    def scaled(n):
        return max(1, round(n * width / (4 * network.towers))) * 4 * network.towers

    return network._replace(filters=tuple(scaled(f) for f in network.filters), hidden=scaled(network.hidden))


def most_ranks(network):
    """Return how many ranks can share the network: one a tower, or 1 where something spans the towers."""
    spans = network.lrn and not network.lrn_within_towers
    return 1 if spans or network.classes % network.towers else network.towers


def alexnet(network, comm, rng, dtype=np.float32):
    """Build the network on this rank of comm.

    Input: pixels 0–255 minus the mean, (3, size, size, N), the same on every rank.  Output: logits
    (classes, N), the same on every rank.  rng draws the starting weights and then, in training, the dropout
    masks: ranks that are given equal generators build one network.  Raises ValueError for a number of ranks
    that the towers cannot be laid out on, or a picture too small.
    """
    n = network
    if comm.size not in (1, n.towers):
        raise ArgumentError(f"alexnet: {n.towers} tower(s) run on 1 rank or {n.towers}, not on {comm.size}")
    if comm.size > 1 and n.lrn and not n.lrn_within_towers:
        raise ArgumentError("alexnet: LRN windows across the towers (lrn_within_towers=False) need one rank")
    if n.classes % comm.size:
        raise ArgumentError(f"alexnet: {n.classes} classes cannot be shared by {comm.size} ranks: use one")
    c1, c2, c3, c4, c5 = n.filters
    g = n.towers
    pad1, pad2, pad5 = _pads(n)
    common = {"comm": comm, "rng": rng, "dtype": dtype}
    lrn = {
        "n": 5, "k": n.lrn_k, "alpha": n.lrn_alpha, "beta": 0.75, "alpha_over_n": n.lrn_alpha_over_n,
        "groups": g // comm.size if n.lrn_within_towers else 1,
    }  # fmt: skip

    side = _last_side(n)
    layers = {
        "conv1": Conv2d(
            (c1, 3, 11, 11), std=n.conv_std, stride=4, pad=pad1, need_dx=False,
            activation=None if n.lrn1_before_relu else relu, **common,
        ),
        "lrn1": LRN(**lrn),
        "pool1": MaxPool(n.pool, 2),
        "relu1": Activate(relu),
        "conv2": Conv2d(
            (c2, c1 // g, 5, 5), std=n.conv_std, bias=n.bias, pad=pad2, groups=g, activation=relu, **common
        ),
        "lrn2": LRN(**lrn),
        "cnorm2": SameMapNorm(5, k=1.0, alpha=1e-3, beta=0.75),
        "pool2": MaxPool(n.pool, 2),
        "gather3": AllGather(comm),
        "conv3": Conv2d((c3, c2, 3, 3), std=n.conv345_std, pad=1, activation=relu, **common),
        "conv4": Conv2d(
            (c4, c3 // g, 3, 3), std=n.conv345_std, bias=n.bias, pad=1, groups=g, activation=relu, **common
        ),
        "conv5": Conv2d(
            (c5, c4 // g, 3, 3), std=n.conv345_std, bias=n.bias, pad=pad5, groups=g, activation=relu,
            **common,
        ),
        "pool5": MaxPool(n.pool, 2),
        "gather6": AllGather(comm),
        "fc6": Linear((n.hidden, c5 * side * side), std=n.fc_std, bias=n.bias, activation=relu, **common),
        "dropout6": Dropout(comm, rng, 0.5, n.inverted_dropout),
        "gather7": AllGather(comm),
        "fc7": Linear((n.hidden, n.hidden), std=n.fc_std, bias=n.bias, activation=relu, **common),
        "dropout7": Dropout(comm, rng, 0.5, n.inverted_dropout),
        "gather8": AllGather(comm),
        "fc8": Linear((n.classes, n.hidden), std=0.01, **common),
        "gather": AllGather(comm, replicated=True),
    }  # fmt: skip
    left_out = set()
    left_out |= set() if n.lrn else {"lrn1", "lrn2"}
    left_out |= set() if n.lrn1_before_relu else {"relu1"}
    left_out |= set() if n.same_map_norm else {"cnorm2"}
    left_out |= set() if n.dropout else {"dropout6", "dropout7"}
    return Sequential({name: layer for name, layer in layers.items() if name not in left_out}, comm)


def _pads(n):
    """Padding of conv1 (top, bottom, left, right), conv2 and conv5.

    Where the poolings do not overlap (config 147), conv2 and conv5 lose one of theirs, so that the maps
    still end 6 pixels wide.
    """
    more = -(n.size - 11) % 4 if n.conv1_ceil else 0
    return (0, more, 0, more), n.pool - 1, n.pool - 2


def _last_side(n):
    """Width of pool5's maps; ArgumentError, naming the layer, if the picture is too small for one."""
    pad1, pad2, pad5 = _pads(n)
    of = f"of a picture of {n.size}"
    side = output_size(n.size, 11, 4, *pad1[:2], f"conv1 {of}")
    side = pooled_size(side, n.pool, 2, 0, 0, what=f"pool1 {of}")
    side = output_size(side, 5, 1, pad2, pad2, f"conv2 {of}")
    side = pooled_size(side, n.pool, 2, 0, 0, what=f"pool2 {of}")
    side = output_size(side, 3, 1, pad5, pad5, f"conv5 {of}")
    return pooled_size(side, n.pool, 2, 0, 0, what=f"pool5 {of}")
