"""The four-layer CIFAR-10 network of Figure 1.

The paper names it only as "a four-layer convolutional neural network"; the nearest network that was
published is cuda-convnet's layers-19pct.cfg, whose shapes and starting weights these are: three 5×5
convolutions, each with overlapping 3/2 pooling (the first of maxima, then of averages), and one fully
connected layer.  89,578 parameters.

    3×32×32 → conv1 32 → pool1 16×16 → conv2 32 → pool2 8×8 → conv3 64 → pool3 4×4 → fc 10
"""

import numpy as np

from tinyalex.nn import Activate, AvgPool, Conv2d, Linear, MaxPool, Sequential
from tinyalex.ops.activation import ACTIVATIONS


def figure1_net(activation, comm, rng, dtype=np.float32):
    """Build the network with "relu", "tanh" or "logistic" neurons.

    Input: pixels 0–255 minus the mean image, (3,32,32,N).  Output: logits (10,N).  Every rank holds the
    whole network: it is for data parallelism, each rank seeing its part of the batch.
    conv1's neuron stands after pool1, as in 2012: a maximum commutes with a rising function, and there
    are four times fewer numbers to put through it.
    """
    neuron = ACTIVATIONS[activation]
    whole = comm.alone()
    common = {"comm": whole, "rng": rng, "dtype": dtype}
    return Sequential(
        {
            "conv1": Conv2d((32, 3, 5, 5), std=1e-4, pad=2, need_dx=False, **common),
            "pool1": MaxPool(3, 2),
            "neuron1": Activate(neuron),
            "conv2": Conv2d((32, 32, 5, 5), std=0.01, pad=2, activation=neuron, **common),
            "pool2": AvgPool(3, 2),
            "conv3": Conv2d((64, 32, 5, 5), std=0.01, pad=2, activation=neuron, **common),
            "pool3": AvgPool(3, 2),
            "fc10": Linear((10, 1024), std=0.01, **common),
        },
        whole,
    )
