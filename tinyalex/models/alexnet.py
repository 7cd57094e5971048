"""AlexNet, section 3.5 of the paper, written once for any number of ranks.

Two towers, each with half of the kernels, meet only where the paper lets its two GPUs meet: before
conv3 and before each fully connected layer.  On two ranks each holds a tower and AllGather is the
meeting; on one rank the towers are groups of the convolutions and AllGather does nothing.

What the paper says and what the 2012 code did (config 145, whose logged errors are the paper's) differ in
eleven places; each is a field of `AlexNet` or of `tinyalex.runs.recipe.Recipe`.
"""

from typing import NamedTuple

from tinyalex.errors import ArgumentError
from tinyalex.fields import check_fields, expect, fits, plain_data
from tinyalex.models.network import Network
from tinyalex.nn import LRN, Activate, AllGather, Conv2d, Dropout, Linear, MaxPool, SameMapNorm


class AlexNet(NamedTuple):
    """What can be chosen about AlexNet.  The defaults are the paper's text, but for numbers 9 and 10.

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
    "paper": AlexNet(),
    # layers-145.cfg and layer-params-145.cfg: the network that was trained for the published numbers
    "code2012": AlexNet(lrn_alpha_over_n=True, lrn1_before_relu=True, same_map_norm=True, conv345_std=0.03),
    # 145-half: one GPU's network, against which section 3.2 measures two: conv5 and the fully connected
    # layers keep their size, half of the kernels elsewhere
    "half": AlexNet(
        filters=(48, 128, 192, 192, 256), towers=1, lrn_alpha_over_n=True, lrn1_before_relu=True,
        same_map_norm=True, conv345_std=0.03,
    ),
    # bvlc_alexnet's train_val.prototxt: the weights that people have on disk
    "caffe": AlexNet(
        size=227, lrn_k=1.0, lrn_alpha_over_n=True, lrn_within_towers=False, bias=0.1, fc_std=0.005,
        inverted_dropout=True,
    ),
    # for some hundred to some thousand pictures: a quarter of the paper's kernels, whose fewer inputs want
    # larger starting weights, and biases that do not drown them; see measured/README.md
    "small": AlexNet(
        filters=(24, 64, 96, 96, 64), hidden=1024, size=112, bias=0.1, conv_std=0.03, conv345_std=0.05,
        fc_std=0.03,
    ),
}  # fmt: skip


def alexnet(options: AlexNet = PRESETS["paper"]) -> Network:
    """Return the `Network` that the options describe, as section 3.5 tells it.

    Input: pixels 0–255 minus the mean, (3, size, size).  Output: logits (classes,).  Raises ArgumentError,
    naming the layer, for a picture that is too small.
    """
    n = check_fields(options, AlexNet, "alexnet")
    expect(len(n.filters) == 5, "alexnet: filters", "those of conv1 … conv5", n.filters)
    g, (c1, c2, c3, c4, c5) = n.towers, n.filters
    pad1, pad2, pad5 = _pads(n)
    lrn = {
        "n": 5, "k": n.lrn_k, "alpha": n.lrn_alpha, "beta": 0.75, "alpha_over_n": n.lrn_alpha_over_n,
        "groups": g if n.lrn_within_towers else 1,
    }  # fmt: skip
    first_activation = None if n.lrn1_before_relu else "relu"
    small = {"activation": "relu", "std": n.conv345_std}
    hidden = {"activation": "relu", "std": n.fc_std, "bias": n.bias}

    layers = [
        Conv2d(c1, 11, stride=4, pad=pad1, activation=first_activation, std=n.conv_std, name="conv1"),
        n.lrn and LRN(**lrn, name="lrn1"),
        MaxPool(n.pool, 2, name="pool1"),
        n.lrn1_before_relu and Activate("relu", name="relu1"),
        Conv2d(c2, 5, pad=pad2, groups=g, activation="relu", std=n.conv_std, bias=n.bias, name="conv2"),
        n.lrn and LRN(**lrn, name="lrn2"),
        n.same_map_norm and SameMapNorm(5, k=1.0, alpha=1e-3, beta=0.75, name="cnorm2"),
        MaxPool(n.pool, 2, name="pool2"),
        AllGather(name="gather3"),  # the one place where convolutions of the two devices meet
        Conv2d(c3, 3, pad=1, **small, name="conv3"),
        Conv2d(c4, 3, pad=1, groups=g, **small, bias=n.bias, name="conv4"),
        Conv2d(c5, 3, pad=pad5, groups=g, **small, bias=n.bias, name="conv5"),
        MaxPool(n.pool, 2, name="pool5"),
        AllGather(name="gather6"),
        Linear(n.hidden, **hidden, name="fc6"),
        n.dropout and Dropout(0.5, n.inverted_dropout, name="dropout6"),
        AllGather(name="gather7"),
        Linear(n.hidden, **hidden, name="fc7"),
        n.dropout and Dropout(0.5, n.inverted_dropout, name="dropout7"),
        AllGather(name="gather8"),
        Linear(n.classes, name="fc8"),
        AllGather(replicated=True, name="gather"),
    ]
    network = Network([layer for layer in layers if layer], (3, n.size, n.size))
    try:
        network.plan()
    except ArgumentError as error:
        raise ArgumentError(f"{error}, for pictures of {n.size} pixels: see size, upscale") from error
    return network


def narrow(options: AlexNet, width: float) -> AlexNet:
    """Return the options with `width` times the filters and hidden units (each tower's a multiple of 4)."""
    expect(fits(plain_data(width), float) and width > 0, "width", "a factor > 0", width)

    def scaled(n):
        return max(1, round(n * width / (4 * options.towers))) * 4 * options.towers

    return options._replace(filters=tuple(scaled(f) for f in options.filters), hidden=scaled(options.hidden))


def _pads(n):
    """Padding of conv1 (top, bottom, left, right), conv2 and conv5.

    Where the poolings do not overlap (config 147), conv2 and conv5 lose one of theirs, so that the maps
    still end 6 pixels wide.
    """
    more = -(n.size - 11) % 4 if n.conv1_ceil else 0
    return (0, more, 0, more), n.pool - 1, n.pool - 2
