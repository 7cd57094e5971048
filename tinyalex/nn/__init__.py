"""Layers: each kind is declared once, as a dataclass, and a network is a list of them.

    net = Sequential(
        [Conv2d(16, 5, pad=2, activation="relu"), MaxPool(3, 2), Linear(10)],
        (3, 32, 32), rng=np.random.default_rng(0),
    )

The fields of a layer are plain data, what JSON holds of it; they speak of the whole network, whatever the
number of ranks that share it.  A kind knows the shape that it makes of an input's (`out`), its parameters
(`sizes`), what backward reads (`keeps`), and its pair of `tinyalex.ops`.  Shapes are those of one image,
(C, H, W) or (D,); arrays have the images last, (C, H, W, N) or (D, N).

Built, a layer has ``params`` and ``grads`` (dicts of arrays by name; after backward each gradient is shaped
like its parameter), ``forward(x, train=False) -> y`` and ``backward(dy) -> dx``.  Backward may be called
again with another dy; nothing that is passed in is written to.

**Ranks.**  `plan` lays a list out on any number of ranks.  A parameter belongs to the network, not to a rank:
it is drawn whole from the generator, the same on every rank, and each rank keeps the rows (axis 0: filters,
features) that are its share.  So the same seed gives the same network on any number of ranks.  After a
convolution or a fully connected layer each rank holds its part of the channels, until an `AllGather`; a
convolution in groups reads such parts, every other layer with weights reads all channels.

`layers` has the kinds of AlexNet and of its time, `later` what later networks and files of others need,
`sequential` a list of them.
"""

from tinyalex.nn import later, layers, sequential
from tinyalex.nn.later import *
from tinyalex.nn.layers import *
from tinyalex.nn.sequential import *

__all__ = [*layers.__all__, *later.__all__, *sequential.__all__]
