"""What AlexNet does not have: kinds of later networks, and what files of others need.

AlexNet's list says itself where its ranks meet; `on_towers` finds these places in a list that does not.
"""

import math
from dataclasses import dataclass

import numpy as np

from tinyalex import ops
from tinyalex.fields import expect
from tinyalex.memory import zeros
from tinyalex.nn.layers import AllGather, Layer, Weighted, activation_of, maps, windows
from tinyalex.ops.checks import check_arrays, check_axes, xp_of

__all__ = ["BatchNorm", "Flatten", "GlobalAvgPool", "Local2d", "Part", "ZeroPad", "on_towers"]


@dataclass(repr=False)
class BatchNorm(Layer):
    """Batch normalization of each channel of maps, or of each feature  (Ioffe and Szegedy, 2015).

    y = w (x − mean) / √(var + eps) + b.  In training mean and var are those of the batch, over all of a
    channel's n numbers, and the layer's own follow them:

        mean ← (1 − momentum) · mean + momentum · the batch's
        var  ← (1 − momentum) · var  + momentum · the batch's · n / (n − 1)

    Without training they are the layer's own, which begin at 0 and 1; w begins at 1, b at 0.

    Ranks that share the network normalize their own channels.  Ranks that share the batch (data parallelism)
    normalize their own part of it; after each step all of them hold the average of their means and variances,
    so that it does not matter whose are saved.
    """

    eps: float = 1e-5
    momentum: float = 0.1

    prefix = "bn"
    pair = ops.batch_norm_forward, ops.batch_norm_backward
    weights = "w", "b"
    statistics = "mean", "var"

    def out(self, shape):
        """(C, H, W) or (D,) as it is."""
        if not (self.eps > 0 and 0 <= self.momentum <= 1):
            raise self.error(f"expected eps > 0 and 0 ≤ momentum ≤ 1, found {self.eps}, {self.momentum}")
        return shape

    def sizes(self, shape):
        """w, b, mean, var: (C,) or (D,)."""
        return dict.fromkeys(self.weights + self.statistics, shape[:1])

    def reads(self, ranks):
        """Its part of the channels: each rank has the parameters of its own."""
        return "part"

    def draw(self, key, size, rng):
        """1 for w and var, 0 for b and mean."""
        return np.full(size, float(key in ("w", "var")))

    def forward(self, x, train=False):
        """x (C, …, N) → y, shaped like x."""
        if not train:
            return self.run(x, *(self.params.get(key) for key in self.statistics), eps=self.eps)
        n = x.size // len(x)
        if n == 1:
            raise self.error("training wants more than one number for each channel, found one")
        y = self.run(x, eps=self.eps)
        for key, of_batch in (("mean", self.cache.mean), ("var", self.cache.var * (n / (n - 1)))):
            own = self.params[key]  # written to in place: a recorded step finds it there again
            own *= 1 - self.momentum
            own += self.momentum * of_batch
        return y


@dataclass(repr=False)
class GlobalAvgPool(Layer):
    """The average of each map: one number for a channel  (Lin, Chen and Yan, 2013)."""

    prefix = "pool"
    pair = ops.global_avg_pool_forward, ops.global_avg_pool_backward
    keeps = ()

    def out(self, shape):
        """(C, H, W) → (C, 1, 1)."""
        return maps(self, shape)[0], 1, 1


@dataclass(repr=False)
class Local2d(Weighted):
    """Unshared convolution and activation: filters of their own at each place (2011's `local` layers).

    The fields are those of `Conv2d`; bias: of the starting biases, one for each filter and place.
    """

    filters: int
    kernel: int | tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    pad: int | tuple[int, ...] = 0
    activation: str | tuple | None = None
    std: float = 0.01
    bias: float = 0.0

    prefix = "local"
    pair = ops.local2d_forward, ops.local2d_backward

    def out(self, shape):
        """(C, H, W) → (F, OH, OW)."""
        if self.filters < 1:
            raise self.error(f"filters: expected at least 1, found {self.filters}")
        return self.filters, *windows(self, shape, self.kernel, ops.output_size)

    def sizes(self, shape):
        """w (F, OH, OW, C, KH, KW), b (F, OH, OW)."""
        y = self.out(shape)
        return {"w": (*y, shape[0], *ops.two_of(self.kernel, "kernel")), "b": y}

    def multiply_adds(self, shape):
        """Every weight once."""
        return math.prod(self.sizes(shape)["w"])

    def reads(self, ranks):
        """All channels."""
        return "all"

    @property
    def arguments(self):
        """Those of `local2d_forward`."""
        return {"stride": self.stride, "pad": self.pad, "activation": activation_of(self.activation)}


@dataclass(repr=False)
class Flatten(Layer):
    """Maps read as features, in the order C, H, W; Linear does so by itself."""

    prefix = "flat"
    keeps = ()

    def out(self, shape):
        """(C, H, W) → (C·H·W,)."""
        return (math.prod(shape),)

    def is_view(self, ranks):
        """Always."""
        return True

    def forward(self, x, train=False):
        """x (C, H, W, N) → y (C·H·W, N)."""
        check_arrays(self.name or self.prefix, x=x)
        self.cache = x.shape
        return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])

    def backward(self, dy):
        """dy → dx, shaped like x."""
        *sizes, N = self.kept()
        return _fitting(self, dy, (math.prod(sizes), N)).reshape(self.cache)


@dataclass(repr=False)
class ZeroPad(Layer):
    """Zeros around the maps: pad as of `Conv2d`.  Convolutions pad by themselves."""

    pad: int | tuple[int, ...]

    prefix = "pad"
    keeps = ()

    def out(self, shape):
        """(C, H, W) → (C, top+H+bottom, left+W+right)."""
        (C, H, W), (top, bottom, left, right) = maps(self, shape), ops.four_pads(self.pad)
        return C, top + H + bottom, left + W + right

    def forward(self, x, train=False):
        """x (C, H, W, N) → y (C, top+H+bottom, left+W+right, N)."""
        check_arrays(self.name or self.prefix, x=x)
        check_axes(self.name or self.prefix, "x", x, "C,H,W,N")
        top, _, left, _ = ops.four_pads(self.pad)
        _, H, W, N = self.cache = x.shape
        y = zeros(xp_of(x), (*self.out(x.shape[:-1]), N), x.dtype)
        y[:, top : top + H, left : left + W] = x
        return y

    def backward(self, dy):
        """dy → dx, its part without the frame."""
        (top, _, left, _), (_, H, W, N) = ops.four_pads(self.pad), self.kept()
        _fitting(self, dy, (*self.out(self.cache[:-1]), N))
        return dy[:, top : top + H, left : left + W].copy()


@dataclass(repr=False)
class Part(Layer):
    """Keep this rank's channels of what every rank holds whole: AllGather's opposite.

    The other channels get no gradient from this rank: what backward returns is its part of a sum over the
    ranks, which the AllGather before adds up.
    """

    prefix = "part"
    leaves = "part"
    keeps = ()

    def reads(self, ranks):
        """All channels, to take its own of."""
        return "all"

    def is_view(self, ranks):
        """Always."""
        return True

    def forward(self, x, train=False):
        """x (C, …) → (C/ranks, …)."""
        check_arrays(self.name or self.prefix, x=x)
        self.cache = x.shape
        return x[self.comm.part(len(x))]

    def backward(self, dy):
        """dy (C/ranks, …) → dx (C, …), 0 outside this rank's channels."""
        C, *rest = self.kept()
        dy = _fitting(self, dy, (C // self.comm.size, *rest))
        dx = zeros(xp_of(dy), self.cache, dy.dtype)
        dx[self.comm.part(C)] = dy
        return dx


def _fitting(layer, dy, shape):
    """Return dy; ArgumentError unless it has this shape, that of the layer's output."""
    found = getattr(dy, "shape", type(dy))
    expect(found == shape, f"{layer.name or layer.prefix} backward", f"dy of shape {shape}", found)
    return dy


def computes_as(layer):
    """Return the class whose operation a layer has: its own, or where that only draws weights, the base's."""
    return next(c for c in type(layer).__mro__ if any(_says(name) for name in vars(c)))


def _says(name):
    return not name.startswith("__") and name not in ("draw", "prefix")


def on_towers(layers: list[Layer], ranks: int) -> list[Layer]:
    """Return the list with the layers by which towers, convolutions in groups, run one per rank.

    The ranks meet (AllGather) before each layer that reads all channels, and part again (Part) before a layer
    that reads its part of them.  A normalization whose windows cross the towers sees all channels, between
    the two.
    """
    found, split = [], False
    for layer in layers:
        meet, part = AllGather(name=f"gather_{layer.name}"), Part(name=f"part_{layer.name}")
        wanted = layer.reads(ranks)
        meets = wanted == "all" and split
        found += [meet] * meets + [part] * (wanted == "part" and not split) + [layer]
        if meets and layer.leaves is None:
            found.append(part)
        split = layer.splits(split or wanted == "part", ranks)
    return [*found, AllGather(True, name="gather")] if split else found
