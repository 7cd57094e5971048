"""Layers: they hold parameters and a cache, and call one pair of ops each.

A layer has ``params`` and ``grads`` (dicts of arrays by name; after backward each gradient is shaped like
its parameter), ``forward(x, train=False) -> y`` and ``backward(dy) -> dx``.  Backward may be called again
with another dy; nothing that is passed in is written to.

A parameter belongs to the network, not to a rank: it is drawn whole from the generator, the same on
every rank, and each rank keeps the rows (axis 0: filters, features) that are its share.  So the same seed
gives the same network on any number of ranks.
"""

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.memory import zeros
from tinyalex.ops.activation import Activation
from tinyalex.ops.checks import xp_of
from tinyalex.ops.conv import conv2d_backward, conv2d_forward
from tinyalex.ops.dropout import dropout_backward, dropout_forward, dropout_mask
from tinyalex.ops.linear import linear_backward, linear_forward
from tinyalex.ops.lrn import lrn_backward, lrn_forward, same_map_norm_backward, same_map_norm_forward
from tinyalex.ops.pool import avg_pool_backward, avg_pool_forward, max_pool_backward, max_pool_forward


class Layer:
    """The least a layer is: no parameters, and a pair of ops with fixed arguments."""

    def __init__(self):
        self.params, self.grads = {}, {}
        self.cache = None

    def forward(self, x, train=False):
        """Return y; keep what backward needs."""
        raise NotImplementedError

    def backward(self, dy):
        """Return dx; put the parameters' gradients into ``grads``."""
        raise NotImplementedError


class _Weighted(Layer):
    """A layer with weights w and biases b: w ~ N(0, std²), b = bias."""

    def __init__(self, shape, comm, rng, std, bias, dtype):
        super().__init__()
        rows = comm.part(shape[0])
        w = rng.standard_normal(shape, dtype=np.float32)[rows] * np.float32(std)
        b = np.full(shape[0], bias)[rows]
        self.params = {"w": comm.device.put(w.astype(dtype)), "b": comm.device.put(b.astype(dtype))}


class Conv2d(_Weighted):
    """Convolution and neuron: y = activation(w ∗ x + b).

    shape: (F, C/groups, KH, KW) of the whole network; this rank has F/ranks filters, and groups/ranks
    groups (at least one).  need_dx=False for the layer that reads the pictures.
    """

    def __init__(
        self, shape, comm, rng, *, std=0.01, bias=0.0, stride=1, pad=0, groups=1,
        activation: Activation | None = None, need_dx=True, dtype=np.float32,
    ):  # fmt: skip
        super().__init__(shape, comm, rng, std, bias, dtype)
        self.geometry = (stride, pad, max(1, groups // comm.size), activation)
        self.need_dx = need_dx

    def forward(self, x, train=False):
        """x (C,H,W,N) → y (F/ranks, OH, OW, N)."""
        y, self.cache = conv2d_forward(x, self.params["w"], self.params["b"], *self.geometry)
        return y

    def backward(self, dy):
        """dy → dx, or None where need_dx is False."""
        self.grads.clear()  # the last step's memory is free for this one's
        dx, self.grads["w"], self.grads["b"] = conv2d_backward(dy, self.cache, self.need_dx)
        return dx


class Linear(_Weighted):
    """Fully connected: y = activation(w x + b).  x may be maps (C,H,W,N): they are read as (C·H·W, N).

    shape: (F, D) of the whole network; this rank has F/ranks features.
    """

    def __init__(
        self, shape, comm, rng, *, std=0.01, bias=0.0,
        activation: Activation | None = None, dtype=np.float32,
    ):  # fmt: skip
        super().__init__(shape, comm, rng, std, bias, dtype)
        self.activation = activation

    def forward(self, x, train=False):
        """x (D,N) or (C,H,W,N) → y (F/ranks, N)."""
        self.x_shape = x.shape
        x = x.reshape(-1, x.shape[-1])
        y, self.cache = linear_forward(x, self.params["w"], self.params["b"], self.activation)
        return y

    def backward(self, dy):
        """dy → dx, shaped like x."""
        self.grads.clear()
        dx, self.grads["w"], self.grads["b"] = linear_backward(dy, self.cache)
        return dx.reshape(self.x_shape)


class _Op(Layer):
    """A layer without parameters: a pair of ops and their arguments."""

    pair = None

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.args, self.kwargs = args, kwargs

    def forward(self, x, train=False):
        """x → y."""
        y, self.cache = self.pair[0](x, *self.args, **self.kwargs)
        return y

    def backward(self, dy):
        """dy → dx."""
        return self.pair[1](dy, self.cache)


class MaxPool(_Op):
    """Max pooling; arguments as `max_pool_forward`."""

    pair = (max_pool_forward, max_pool_backward)


class AvgPool(_Op):
    """Average pooling; arguments as `avg_pool_forward`."""

    pair = (avg_pool_forward, avg_pool_backward)


class LRN(_Op):
    """Local response normalization across channels; arguments as `lrn_forward`."""

    pair = (lrn_forward, lrn_backward)


class SameMapNorm(_Op):
    """2012's normalization within a map; arguments as `same_map_norm_forward`."""

    pair = (same_map_norm_forward, same_map_norm_backward)


class Activate(Layer):
    """A neuron as a layer of its own, where it does not follow a convolution or product directly."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, x, train=False):
        """x → activation(x)."""
        y, self.cache = self.activation.forward(x)
        return y

    def backward(self, dy):
        """dy → dx."""
        return self.activation.backward(dy, self.cache)


class Dropout(Layer):
    """Dropout of features shared by the ranks (paper, section 4.2).

    The ranks' generators are equal, and each makes its own rows of the whole layer's mask: the same units
    drop on any number of ranks and on any device.  Without training nothing is drawn.
    """

    def __init__(self, comm, rng, keep=0.5, inverted=False):
        super().__init__()
        self.comm, self.rng, self.keep, self.inverted = comm, rng, keep, inverted

    def forward(self, x, train=False):
        """x → y; a fresh mask each time in training."""
        mask = None
        if train:
            first = self.comm.rank * x.size
            mask = dropout_mask(self.rng, x.shape, self.keep, self.comm.device.xp, first)
        y, self.cache = dropout_forward(x, mask, self.keep, train, self.inverted)
        return y

    def backward(self, dy):
        """dy → dx."""
        return dropout_backward(dy, self.cache)


class Flatten(Layer):
    """Maps (C,H,W,N) read as features (C·H·W, N); Linear does so by itself."""

    def forward(self, x, train=False):
        """x (C,H,W,N) → y (C·H·W, N)."""
        self.cache = x.shape
        return x.reshape(-1, x.shape[-1])

    def backward(self, dy):
        """dy → dx, shaped like x."""
        return dy.reshape(self.cache)


class ZeroPad(Layer):
    """Zeros around the maps: pad = (top, bottom, left, right).  Convolutions pad by themselves."""

    def __init__(self, pad):
        super().__init__()
        self.pad = pad

    def forward(self, x, train=False):
        """x (C,H,W,N) → y (C, top+H+bottom, left+W+right, N)."""
        top, bottom, left, right = self.pad
        C, H, W, N = self.cache = x.shape
        y = zeros(xp_of(x), (C, top + H + bottom, left + W + right, N), x.dtype)
        y[:, top : top + H, left : left + W] = x
        return y

    def backward(self, dy):
        """dy → dx, its part without the frame."""
        (top, _, left, _), (_, H, W, _) = self.pad, self.cache
        return dy[:, top : top + H, left : left + W].copy()


class AllGather(Layer):
    """Join what the ranks hold along the channels: here the devices communicate (paper, section 3.2).

    What follows differs between the ranks (each has its own filters), so the gradients that come back are
    partial sums: backward adds them up and hands each rank its own channels.  With replicated=True what
    follows is the same on every rank (the loss), each already holds the whole gradient, and backward only
    takes its channels.
    """

    def __init__(self, comm, replicated=False):
        super().__init__()
        self.comm, self.replicated = comm, replicated

    def forward(self, x, train=False):
        """x (C/ranks, …) → (C, …)."""
        return self.comm.all_gather(x, axis=0)

    def backward(self, dy):
        """dy (C, …) → dx (C/ranks, …)."""
        if self.replicated:
            return dy[self.comm.part(dy.shape[0])]
        return self.comm.reduce_scatter(dy, axis=0)


class Part(Layer):
    """Keep this rank's channels of what every rank holds whole: AllGather's opposite.

    The other channels get no gradient from this rank: what backward returns is its part of a sum over the
    ranks, which the AllGather before adds up.
    """

    def __init__(self, comm):
        super().__init__()
        self.comm = comm

    def forward(self, x, train=False):
        """x (C, …) → (C/ranks, …)."""
        self.cache = x.shape
        return x[self.comm.part(len(x))]

    def backward(self, dy):
        """dy (C/ranks, …) → dx (C, …), 0 outside this rank's channels."""
        dx = zeros(xp_of(dy), self.cache, dy.dtype)
        dx[self.comm.part(len(dx))] = dy
        return dx


class Sequential(Layer):
    """Named layers, one after the other; backward is the same list reversed."""

    def __init__(self, layers, comm):
        super().__init__()
        self.layers = dict(layers)
        self.comm = comm

    def forward(self, x, train=False, last=None):
        """x → the output of the last layer, or of the one named `last`."""
        if last is not None and last not in self.layers:
            raise ArgumentError(f"expected a layer, one of {', '.join(self.layers)}; found {last!r}")
        for layer in self.layers.values():
            layer.cache = None  # the last step's memory is free for this one
        for name, layer in self.layers.items():
            with self.comm.on_behalf_of(f"{name} forward"):
                x = layer.forward(x, train)
            if name == last:
                break
        return x

    def backward(self, dy):
        """dy → dx (None where the first layer needs none); every layer's ``grads`` are filled."""
        for name, layer in reversed(self.layers.items()):
            with self.comm.on_behalf_of(f"{name} backward"):
                dy = layer.backward(dy)
        return dy

    def parameters(self):
        """Yield (name, layer, key) of every parameter array: ("conv1.w", layer, "w"), …"""
        for name, layer in self.layers.items():
            for key in layer.params:
                yield f"{name}.{key}", layer, key


class BlankWeights:
    """Stands for the random generator where a network's own weights are never used: shapes without memory.

    That is on the CPU: a GPU's `put` makes an array of the shape, for as long as it is not replaced.
    """

    def standard_normal(self, shape, dtype):
        """One number that every element of the shape refers to."""
        return blank(shape, dtype)


class _Blank(np.ndarray):
    def __mul__(self, factor):
        return self

    def astype(self, dtype):
        return self


def blank(shape, dtype=np.float32):
    """An array of this shape that takes no memory; not to be written to."""
    return np.broadcast_to(np.zeros((), dtype), shape).view(_Blank)
