"""The four-layer CIFAR-10 network of Figure 1.

The paper names it only as "a four-layer convolutional neural network"; the nearest network that was
published is cuda-convnet's layers-19pct.cfg, whose shapes and starting weights these are: three 5×5
convolutions, each with overlapping 3/2 pooling (the first of maxima, then of averages), and one fully
connected layer.  89,578 parameters.

    3×32×32 → conv1 32 → pool1 16×16 → conv2 32 → pool2 8×8 → conv3 64 → pool3 4×4 → fc 10
"""

from tinyalex.models.network import Network
from tinyalex.nn import Activate, AvgPool, Conv2d, Linear, MaxPool


def figure1(activation: str | tuple = "relu", classes: int = 10) -> Network:
    """Return the `Network` with "relu", "tanh" or "logistic" activations.

    Input: pixels 0–255 minus the mean image, (3, 32, 32).  Output: logits (classes,).
    conv1's activation stands after pool1, as in 2012: a maximum commutes with a rising function, and there
    are four times fewer numbers to put through it.
    """
    layers = [
        Conv2d(32, 5, pad=2, std=1e-4, name="conv1"),
        MaxPool(3, 2, name="pool1"),
        Activate(activation, name="act1"),
        Conv2d(32, 5, pad=2, activation=activation, name="conv2"),
        AvgPool(3, 2, name="pool2"),
        Conv2d(64, 5, pad=2, activation=activation, name="conv3"),
        AvgPool(3, 2, name="pool3"),
        Linear(classes, name="fc10"),
    ]
    return Network(layers, (3, 32, 32))
