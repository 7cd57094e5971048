"""cuda-convnet's networks of 2011 and 2012 for CIFAR-10, on which the authors found what AlexNet is made of.

Source: cuda-convnet 1, example-layers/layers-*.cfg; rates, decay, schedules: `tinyalex.runs.recipe.LADDER`.
The names are the test errors that were claimed: 26% (in 80 seconds on a GPU of 2011), 19%, 18%, 13%, 11%.

    80sec  conv32 max · relu   conv32 avg          conv64 avg           fc64  fc10       32×32
    19pct  conv32 max · relu   conv32 avg          conv64 avg                 fc10       32×32
    18pct  conv32 max · relu · norm3   conv32 avg · norm3   conv64 avg        fc10       32×32
    13pct  conv64 max          conv64 max          local32 local32            fc10       24×24 crops
    11pct  conv64 max · LRN9   conv64 LRN9 · max   local64 local32            fc10       24×24 crops

All convolutions are 5×5 with a relu (conv1's in the first three stands after the pool), all pools 3×3 with
stride 2, the local layers 3×3.  The paper's footnote on LRN, 13% without and 11% with it, points at the last
two; they differ in more than that: `lrn=False` is 11pct without its normalizations, and nothing else.
"""

from tinyalex.models.network import Network
from tinyalex.nn import LRN, Activate, AvgPool, Conv2d, Linear, Local2d, MaxPool, SameMapNorm

CROP = 24  # of the 32 pixels, what 13pct and 11pct see


def three_convolutions(hidden: int = 0, norm: bool = False, size: int = 32, classes: int = 10) -> Network:
    """Return the `Network` of 80sec (hidden 64), 19pct, or 18pct (norm).

    Input: pixels 0–255 minus the mean image, (3, size, size).  Output: logits (classes,).
    norm: normalization within a map after the first two pools: size 3, α 5e-5, divided by the 9 pixels.
    """
    norms = [SameMapNorm(3, k=1.0, alpha=5e-5, beta=0.75, name=f"rnorm{i}") for i in (1, 2) if norm]
    layers = [
        Conv2d(32, 5, pad=2, std=1e-4, name="conv1"),
        MaxPool(3, 2, name="pool1"),
        Activate("relu", name="relu1"),
        *norms[:1],
        Conv2d(32, 5, pad=2, activation="relu", name="conv2"),
        AvgPool(3, 2, name="pool2"),
        *norms[1:],
        Conv2d(64, 5, pad=2, activation="relu", name="conv3"),
        AvgPool(3, 2, name="pool3"),
        *([Linear(hidden, activation="relu", std=0.1, name="fc64")] if hidden else []),
        Linear(classes, std=0.1 if hidden else 0.01, name="fc10"),
    ]
    return Network(layers, (3, size, size))


def with_local(local3: int, lrn: bool, size: int = CROP, classes: int = 10) -> Network:
    """Return the `Network` of 13pct (local3 32, no LRN) or 11pct (64, LRN).

    lrn: across 9 maps with k 1 and α 0.001/9: after the first pool, and before the second.
    """

    def norm(name):
        return [LRN(9, k=1.0, alpha=1e-3, beta=0.75, alpha_over_n=True, name=name)] if lrn else []

    layers = [
        Conv2d(64, 5, pad=2, activation="relu", std=1e-4, name="conv1"),
        MaxPool(3, 2, name="pool1"),
        *norm("rnorm1"),
        Conv2d(64, 5, pad=2, activation="relu", name="conv2"),
        *norm("rnorm2"),
        MaxPool(3, 2, name="pool2"),
        Local2d(local3, 3, pad=1, activation="relu", std=0.04, name="local3"),
        Local2d(32, 3, pad=1, activation="relu", std=0.04, name="local4"),
        Linear(classes, name="fc10"),
    ]
    return Network(layers, (3, size, size))
