"""Kinds of layers that AlexNet does not have: of later networks, and of files of others."""

import math
from dataclasses import dataclass

import numpy as np

from tinyalex import ops
from tinyalex.memory import zeros
from tinyalex.nn.layers import Layer, maps
from tinyalex.ops.checks import xp_of

__all__ = ["BatchNorm", "Flatten", "GlobalAvgPool", "ZeroPad"]


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
        self.cache = x.shape
        return x.reshape(-1, x.shape[-1])

    def backward(self, dy):
        """dy → dx, shaped like x."""
        return dy.reshape(self.kept())


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
        top, _, left, _ = ops.four_pads(self.pad)
        _, H, W, N = self.cache = x.shape
        y = zeros(xp_of(x), (*self.out(x.shape[:-1]), N), x.dtype)
        y[:, top : top + H, left : left + W] = x
        return y

    def backward(self, dy):
        """dy → dx, its part without the frame."""
        (top, _, left, _), (_, H, W, _) = ops.four_pads(self.pad), self.kept()
        return dy[:, top : top + H, left : left + W].copy()
