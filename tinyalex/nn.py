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
"""

import copy
import math
from dataclasses import MISSING, dataclass, field, fields
from typing import NamedTuple

import numpy as np

from tinyalex import ops
from tinyalex.comm import Comm
from tinyalex.devices import Device
from tinyalex.errors import ArgumentError
from tinyalex.fields import fits, in_words, plain_data
from tinyalex.memory import zeros
from tinyalex.ops.checks import xp_of

__all__ = [
    "LRN", "Activate", "AllGather", "AvgPool", "BatchNorm", "Conv2d", "Dropout", "Flatten", "GlobalAvgPool",
    "Layer", "Linear", "MaxPool", "Part", "Placed", "SameMapNorm", "Sequential", "Weighted", "ZeroPad",
    "on_towers", "plan",
]  # fmt: skip

KINDS = {}  # every kind of layer, by its name


def activation_of(value):
    """Return the pair that a field `activation` means, None of None.

    value: "relu", "relu6", "tanh", "logistic", ("tanh", a, b) for a tanh(b x), ("leaky", slope) with a
    slope > 0 for x < 0, or None.  Raises ArgumentError for anything else.
    """
    match value:
        case None:
            return None
        case str() if value in ops.ACTIVATIONS:
            return ops.ACTIVATIONS[value]
        case ("tanh", int() | float() as a, int() | float() as b) if math.isfinite(a * b) and a * b:
            return ops.tanh(a, b)
        case ("leaky", int() | float() as slope) if slope > 0 and math.isfinite(slope):
            return ops.leaky_relu(slope)
    known = ", ".join(map(repr, ops.ACTIVATIONS))
    raise ArgumentError(
        f"activation: expected None, {known}, ('tanh', a, b) or ('leaky', slope > 0), found {value!r}"
    )


@dataclass(repr=False)
class Layer:
    """The base of every layer: no parameters, a shape that stays, and a pair of ops with fixed arguments.

    name: within the network; `Sequential` finds one where none is given.  Raises ArgumentError, naming the
    field, for a value of the wrong type.
    """

    name: str = field(default="", kw_only=True)

    prefix = "layer"  # of the names that Sequential finds
    pair = None  # (forward(x, **arguments) → (y, cache), backward(dy, cache) → dx)
    leaves = None  # what a rank holds after it: "part" of the channels, "all", or None: as before it
    statistics = ()  # those of its parameters that follow what is seen in training, and have no gradient

    def __init_subclass__(cls, is_kind=True):
        if is_kind:
            KINDS[cls.__name__] = cls

    def __post_init__(self):
        for f in fields(self):
            value = plain_data(getattr(self, f.name))
            setattr(self, f.name, value)
            if not fits(value, f.type):
                raise self.error(f"{f.name}: expected {in_words(f.type)}, found {str(value)[:80]!r}")
            if f.name == "activation":
                try:
                    activation_of(value)
                except ArgumentError as error:
                    raise self.error(str(error)) from None
        self.params, self.grads, self.cache, self._backward = {}, {}, None, None

    def __repr__(self):
        """The call that makes this layer: the fields that are not at their defaults."""
        shown = []
        for f in fields(self):
            value = getattr(self, f.name)
            if f.default is MISSING and not f.kw_only:
                shown.append(repr(value))
            elif value != f.default:
                shown.append(f"{f.name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def error(self, message):
        """Return an ArgumentError that names this layer."""
        kind = type(self).__name__
        return ArgumentError(f"{self.name or kind}: {message}")

    def data(self):
        """Return its fields by name, but for its own name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}

    # ---- what is known before there are arrays -------------------------------------------------------

    def out(self, shape):
        """Return the shape that it makes of an input's; ArgumentError, naming the layer, where it cannot."""
        return shape

    def sizes(self, shape):
        """Return the shapes of its parameters by name, for an input of this shape."""
        return {}

    def count(self, shape):
        """Return how many numbers it learns by their gradients, for an input of this shape."""
        sizes = self.sizes(shape).items()
        return sum(math.prod(size) for key, size in sizes if key not in self.statistics)

    def keeps(self, shape):
        """Return what backward reads: "x", "y", or the bytes a number of x of an array of its own.

        Arrays of a number for each channel are not counted.
        """
        return ["x"]

    def is_view(self, ranks):
        """Whether its output is its input's memory."""
        return False

    def multiply_adds(self, shape):
        """Return the products of numbers in the forward pass, for one image."""
        return 0

    def check_split(self, split, ranks):
        """Raise ArgumentError where it cannot read what ranks hold: split, their part of the channels."""

    # ---- arrays --------------------------------------------------------------------------------------

    images = 0, 1  # which part of the batch it is given, of how many equal ones

    def build(self, shape, comm=None, rng=None, dtype=np.float32, split=False):
        """Lay it out on this rank of comm, and draw its parameters; return itself.

        shape: of its input, of all ranks together.  split: whether each rank holds only its part of that.
        comm: by default one CPU core.  rng: draws parameters, and in training the dropout masks; without it
        there are no parameters until `params` is filled from a checkpoint.
        """
        self.comm, self.rng, self.split = comm or Comm(Device("cpu:0")), rng, split
        self.check_split(split, self.comm.size)
        self.out(shape)
        sizes = self.sizes(shape)
        for key, size in sizes.items():
            if size[0] % self.comm.size:
                raise self.error(f"{key}: {size[0]} rows cannot be shared evenly by {self.comm.size} ranks")
        self.params, self.grads, self.cache = {}, {}, None
        if rng is not None:
            for key, size in sizes.items():
                whole = self.draw(key, size, rng)
                self.params[key] = self.comm.device.put(whole[self.comm.part(size[0])].astype(dtype))
        return self

    def draw(self, key, size, rng):
        """Return a starting value of the whole parameter."""
        raise NotImplementedError

    @property
    def arguments(self):
        """The keyword arguments of the pair's forward function."""
        return self.data()

    def forward(self, x, train=False):
        """x → y; keep what backward needs."""
        y, cache = self.run(self.pair, x, **self.arguments)
        self.cache = cache
        return y

    def backward(self, dy):
        """dy → dx; put the parameters' gradients into ``grads``."""
        return self.undo(dy)

    def run(self, pair, *args, **kwargs):
        """Call the pair's forward function, and keep the backward function that belongs to it."""
        forward, self._backward = ops.chosen(pair[0]), ops.chosen(pair[1])
        return forward(*args, **kwargs)

    def undo(self, dy, *args):
        """Call the backward function that belongs to the last forward pass, with its cache."""
        return self._backward(dy, self.kept(), *args)

    def weights(self):
        """Return (w, b); ArgumentError where there are none yet."""
        if not self.params:
            raise self.error("has no weights: build the network with rng, or load a checkpoint")
        return self.params["w"], self.params["b"]

    def kept(self):
        """Return the cache of the last forward pass; ArgumentError if there was none."""
        if self.cache is None:
            raise self.error("backward wants a forward pass before it, found none")
        return self.cache


@dataclass(repr=False)
class Weighted(Layer, is_kind=False):
    """A layer with weights w ~ N(0, std²) and biases b = bias, one row for each filter or feature."""

    leaves = "part"

    def draw(self, key, size, rng):
        """Draw w; fill b."""
        if key == "b":
            return np.full(size, self.bias)
        return rng.standard_normal(size, dtype=np.float32) * np.float32(self.std)

    def keeps(self, shape):
        """Its input, and its output where that went through an activation."""
        return ["x", "y"] if self.activation else ["x"]

    def multiply_adds(self, shape):
        """Of the forward pass, for one image: every weight once at each place of the output."""
        return math.prod(self.sizes(shape)["w"]) * math.prod(self.out(shape)[1:])


@dataclass(repr=False)
class Conv2d(Weighted):
    """Convolution and activation: y = activation(w ∗ x + b)  (paper, section 3.5).

    filters: F.  kernel: its side, or (KH, KW).  stride: one number, or (vertical, horizontal).  pad: zeros
    around the maps, one number or (top, bottom, left, right).  groups: filters and channels are cut into so
    many equal parts, and a filter sees only its own part (the paper's towers).  activation: see
    `activation_of`.  std: standard deviation of the starting weights, by default the paper's 0.01; bias: of
    the starting biases.
    """

    filters: int
    kernel: int | tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    pad: int | tuple[int, ...] = 0
    groups: int = 1
    activation: str | tuple | None = None
    std: float = 0.01
    bias: float = 0.0

    prefix = "conv"
    need_dx = True  # False for the layer that reads the pictures

    @property
    def window(self):
        """(KH, KW)."""
        return pair_of(self, "kernel")

    def out(self, shape):
        """(C, H, W) → (F, OH, OW)."""
        (C, H, W), (KH, KW) = maps(self, shape), self.window
        (SH, SW), (top, bottom, left, right) = pair_of(self, "stride"), pads(self)
        g = self.groups
        if g < 1 or self.filters < 1 or self.filters % g or C % g:
            raise self.error(f"{C} channels and {self.filters} filters cannot be cut into {g} equal groups")
        H = ops.output_size(H, KH, SH, top, bottom, self.name)
        return self.filters, H, ops.output_size(W, KW, SW, left, right, self.name)

    def sizes(self, shape):
        """w (F, C/groups, KH, KW), b (F,)."""
        return {"w": (self.filters, shape[0] // self.groups, *self.window), "b": (self.filters,)}

    def check_split(self, split, ranks):
        """Its groups must be those of the ranks, or it must read all channels."""
        own = ranks > 1 and self.groups % ranks == 0
        if ranks > 1 and own != split:
            wanted = "its part of the channels: put Part()" if own else "all channels: put AllGather()"
            raise self.error(f"on {ranks} ranks each must hold {wanted} before it")

    def forward(self, x, train=False):
        """x (C, H, W, N) → y (F/ranks, OH, OW, N)."""
        w, b = self.weights()
        groups, activation = max(1, self.groups // self.comm.size), activation_of(self.activation)
        pair = ops.conv2d_forward, ops.conv2d_backward
        y, self.cache = self.run(pair, x, w, b, self.stride, self.pad, groups, activation)
        return y

    def backward(self, dy):
        """dy → dx, or None where need_dx is False."""
        self.grads.clear()  # the last step's memory is free for this one's
        dx, self.grads["w"], self.grads["b"] = self.undo(dy, self.need_dx)
        return dx


@dataclass(repr=False)
class Linear(Weighted):
    """Fully connected: y = activation(w x + b).  x may be maps: they are read as C·H·W features.

    features: F, of the output.  The other fields are those of `Conv2d`.
    """

    features: int
    activation: str | tuple | None = None
    std: float = 0.01
    bias: float = 0.0

    prefix = "fc"

    def out(self, shape):
        """(D,) or (C, H, W) → (F,)."""
        if self.features < 1:
            raise self.error(f"features: expected at least 1, found {self.features}")
        return (self.features,)

    def sizes(self, shape):
        """w (F, D), b (F,)."""
        return {"w": (self.features, math.prod(shape)), "b": (self.features,)}

    def check_split(self, split, ranks):
        """It reads all features."""
        if ranks > 1 and split:
            raise self.error(f"on {ranks} ranks each must hold all channels: put AllGather() before it")

    def forward(self, x, train=False):
        """x (D, N) or (C, H, W, N) → y (F/ranks, N)."""
        self.x_shape = x.shape
        w, b = self.weights()
        pair = ops.linear_forward, ops.linear_backward
        y, self.cache = self.run(pair, x.reshape(-1, x.shape[-1]), w, b, activation_of(self.activation))
        return y

    def backward(self, dy):
        """dy → dx, shaped like x."""
        self.grads.clear()
        dx, self.grads["w"], self.grads["b"] = self.undo(dy)
        return dx.reshape(self.x_shape)


@dataclass(repr=False)
class MaxPool(Layer):
    """The largest pixel of each window  (paper, section 3.4).

    window, stride: the paper's z and s; 3 and 2 overlap.  Each one number or (vertical, horizontal).  ceil:
    the last windows may hang over the edge, as in 2012.  pad: see `Conv2d`.
    """

    window: int | tuple[int, ...]
    stride: int | tuple[int, ...]
    pad: int | tuple[int, ...] = 0
    ceil: bool = True

    prefix = "pool"
    pair = ops.max_pool_forward, ops.max_pool_backward

    def out(self, shape):
        """(C, H, W) → (C, OH, OW)."""
        (C, H, W), (top, bottom, left, right) = maps(self, shape), pads(self)
        (ZH, ZW), (SH, SW) = pair_of(self, "window"), pair_of(self, "stride")
        H = ops.pooled_size(H, ZH, SH, top, bottom, self.ceil, self.name)
        return C, H, ops.pooled_size(W, ZW, SW, left, right, self.ceil, self.name)

    def keeps(self, shape):
        """Its input and its output."""
        return ["x", "y"]

    @property
    def arguments(self):
        """z and s are the paper's names."""
        return {"z": self.window, "s": self.stride, "pad": self.pad, "ceil": self.ceil}


@dataclass(repr=False)
class AvgPool(MaxPool):
    """The average of each window's real pixels; the fields are those of `MaxPool`."""

    pair = ops.avg_pool_forward, ops.avg_pool_backward

    def keeps(self, shape):
        """Nothing."""
        return []


@dataclass(repr=False)
class GlobalAvgPool(Layer):
    """The average of each map: one number for a channel  (Lin, Chen and Yan, 2013)."""

    prefix = "pool"
    pair = ops.global_avg_pool_forward, ops.global_avg_pool_backward

    def out(self, shape):
        """(C, H, W) → (C, 1, 1)."""
        C, _, _ = maps(self, shape)
        return C, 1, 1

    def keeps(self, shape):
        """Nothing."""
        return []


@dataclass(repr=False)
class LRN(Layer):
    """Local response normalization across channels  (paper, section 3.3); the fields are `lrn_forward`'s.

    groups: windows end at the last channel of each of so many parts (the towers).
    """

    n: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    alpha_over_n: bool = False
    groups: int = 1

    prefix = "lrn"
    pair = ops.lrn_forward, ops.lrn_backward

    def out(self, shape):
        """(C, H, W) as it is."""
        C, _, _ = maps(self, shape)
        if self.n < 1 or self.groups < 1 or C % self.groups:
            raise self.error(f"a window of {self.n} in {self.groups} groups does not fit {C} channels")
        return shape

    def keeps(self, shape):
        """Its input and the bracket s."""
        return ["x", 4]

    def check_split(self, split, ranks):
        """No window may reach from one rank's channels to another's."""
        if split and self.groups % ranks:
            raise self.error(f"windows in {self.groups} groups reach across the channels of {ranks} ranks")

    @property
    def arguments(self):
        """The groups of one rank."""
        ranks = self.comm.size if self.split else 1
        return super().arguments | {"groups": self.groups // ranks}


@dataclass(repr=False)
class SameMapNorm(Layer):
    """2012's normalization within a map (layers-145.cfg: cnorm2); fields as `same_map_norm_forward`'s."""

    n: int = 5
    k: float = 1.0
    alpha: float = 1e-3
    beta: float = 0.75

    prefix = "cnorm"
    pair = ops.same_map_norm_forward, ops.same_map_norm_backward

    def out(self, shape):
        """(C, H, W) as it is."""
        maps(self, shape)
        if self.n < 1:
            raise self.error(f"n: expected a window of at least 1, found {self.n}")
        return shape

    def keeps(self, shape):
        """Its input and the bracket s."""
        return ["x", 4]


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
    statistics = ("mean", "var")

    def out(self, shape):
        """(C, H, W) or (D,) as it is."""
        if not (self.eps > 0 and 0 <= self.momentum <= 1):
            raise self.error(f"expected eps > 0 and 0 ≤ momentum ≤ 1, found {self.eps}, {self.momentum}")
        return shape

    def sizes(self, shape):
        """w, b, mean, var: (C,) or (D,)."""
        return dict.fromkeys(("w", "b", "mean", "var"), shape[:1])

    def check_split(self, split, ranks):
        """Each rank has the parameters of its own channels."""
        if ranks > 1 and not split:
            raise self.error(
                f"on {ranks} ranks each must hold its part of the channels: put Part() before it"
            )

    def draw(self, key, size, rng):
        """1 for w and var, 0 for b and mean."""
        return np.full(size, float(key in ("w", "var")))

    def forward(self, x, train=False):
        """x (C, …, N) → y, shaped like x."""
        w, b = self.weights()
        if not train:
            y, self.cache = self.run(self.pair, x, w, b, self.params["mean"], self.params["var"], self.eps)
            return y
        n = x.size // len(x)
        if n == 1:
            raise self.error("training wants more than one number for each channel, found one")
        y, self.cache = self.run(self.pair, x, w, b, eps=self.eps)
        for key, of_batch in (("mean", self.cache.mean), ("var", self.cache.var * (n / (n - 1)))):
            own = self.params[key]  # written to in place: a recorded step finds it there again
            own *= 1 - self.momentum
            own += self.momentum * of_batch
        return y

    def backward(self, dy):
        """dy → dx, shaped like x."""
        self.grads.clear()
        dx, self.grads["w"], self.grads["b"] = self.undo(dy)
        return dx


@dataclass(repr=False)
class Activate(Layer):
    """An activation as a layer of its own, where it does not follow a convolution or product directly."""

    activation: str | tuple

    prefix = "act"

    def keeps(self, shape):
        """Its output."""
        return ["y"]

    def forward(self, x, train=False):
        """x → activation(x)."""
        y, self.cache = activation_of(self.activation).forward(x)
        return y

    def backward(self, dy):
        """dy → dx."""
        return activation_of(self.activation).backward(dy, self.kept())


@dataclass(repr=False)
class Dropout(Layer):
    """Dropout of features that the ranks may share  (paper, section 4.2).

    keep: the probability of a unit to stay.  inverted: what stays is divided by keep in training; else, as in
    2012, everything is multiplied by keep at test.

    The ranks' generators are equal, and each takes its own rows and images of one mask, that of the whole
    layer and the whole batch: the same units drop on any number of ranks and on any device.  Without training
    nothing is drawn.
    """

    keep: float = 0.5
    inverted: bool = False

    prefix = "dropout"
    pair = ops.dropout_forward, ops.dropout_backward

    def out(self, shape):
        """The shape as it is."""
        if not 0 < self.keep <= 1:
            raise self.error(f"expected 0 < keep ≤ 1, found {self.keep}")
        return shape

    def keeps(self, shape):
        """The mask, a byte a number."""
        return [1]

    def forward(self, x, train=False):
        """x → y; a fresh mask each time in training."""
        mask = None
        if train:
            if self.rng is None:
                raise self.error("training draws masks: build the network with rng")
            (part, parts), xp = self.images, self.comm.device.xp
            first = self.comm.rank * x.size * parts if self.split else 0
            mask = ops.dropout_mask(self.rng, (*x.shape[:-1], parts * x.shape[-1]), self.keep, xp, first)
            if parts > 1:
                mask = xp.ascontiguousarray(mask[..., part * x.shape[-1] :][..., : x.shape[-1]])
        y, self.cache = self.run(self.pair, x, mask, self.keep, train, self.inverted)
        return y


@dataclass(repr=False)
class Flatten(Layer):
    """Maps read as features, in the order C, H, W; Linear does so by itself."""

    prefix = "flat"

    def out(self, shape):
        """(C, H, W) → (C·H·W,)."""
        return (math.prod(shape),)

    def keeps(self, shape):
        """Nothing."""
        return []

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

    def out(self, shape):
        """(C, H, W) → (C, top+H+bottom, left+W+right)."""
        (C, H, W), (top, bottom, left, right) = maps(self, shape), pads(self)
        return C, top + H + bottom, left + W + right

    def keeps(self, shape):
        """Nothing."""
        return []

    def forward(self, x, train=False):
        """x (C, H, W, N) → y (C, top+H+bottom, left+W+right, N)."""
        top, bottom, left, right = pads(self)
        C, H, W, N = self.cache = x.shape
        y = zeros(xp_of(x), (C, top + H + bottom, left + W + right, N), x.dtype)
        y[:, top : top + H, left : left + W] = x
        return y

    def backward(self, dy):
        """dy → dx, its part without the frame."""
        (top, _, left, _), (_, H, W, _) = pads(self), self.kept()
        return dy[:, top : top + H, left : left + W].copy()


@dataclass(repr=False)
class AllGather(Layer):
    """Join what the ranks hold along the channels: here the devices communicate (paper, section 3.2).

    What follows differs between the ranks (each has its own filters), so the gradients that come back are
    partial sums: backward adds them up and hands each rank its own channels.  With replicated=True what
    follows is the same on every rank (the loss), each already holds the whole gradient, and backward only
    takes its channels.
    """

    replicated: bool = False

    prefix = "gather"
    leaves = "all"

    def keeps(self, shape):
        """Nothing."""
        return []

    def is_view(self, ranks):
        """On one rank it does nothing."""
        return ranks == 1

    def check_split(self, split, ranks):
        """There must be parts to join."""
        if ranks > 1 and not split:
            raise self.error("the ranks hold all channels already")

    def forward(self, x, train=False):
        """x (C/ranks, …) → (C, …)."""
        return self.comm.all_gather(x, axis=0)

    def backward(self, dy):
        """dy (C, …) → dx (C/ranks, …)."""
        if self.replicated:
            return dy[self.comm.part(dy.shape[0])]
        return self.comm.reduce_scatter(dy, axis=0)


@dataclass(repr=False)
class Part(Layer):
    """Keep this rank's channels of what every rank holds whole: AllGather's opposite.

    The other channels get no gradient from this rank: what backward returns is its part of a sum over the
    ranks, which the AllGather before adds up.
    """

    prefix = "part"
    leaves = "part"

    def keeps(self, shape):
        """Nothing."""
        return []

    def is_view(self, ranks):
        """Always."""
        return True

    def forward(self, x, train=False):
        """x (C, …) → (C/ranks, …)."""
        self.cache = x.shape
        return x[self.comm.part(len(x))]

    def backward(self, dy):
        """dy (C/ranks, …) → dx (C, …), 0 outside this rank's channels."""
        dx = zeros(xp_of(dy), self.kept(), dy.dtype)
        dx[self.comm.part(len(dx))] = dy
        return dx


def maps(layer, shape):
    """Return (C, H, W); ArgumentError, naming the layer, for the shape of features."""
    if len(shape) != 3:
        raise layer.error(f"expected maps (C, H, W), found {tuple(shape)}")
    return shape


def pads(layer):
    """Return a layer's (top, bottom, left, right)."""
    try:
        return ops.four_pads(layer.pad)
    except ArgumentError as error:
        raise layer.error(str(error)) from None


def pair_of(layer, name):
    """Return a field that is one number or two, vertical and horizontal, as two."""
    try:
        return ops.two_of(getattr(layer, name), name)
    except ArgumentError as error:
        raise layer.error(str(error)) from None


# ---- a list of layers ----------------------------------------------------------------------------------


class Placed(NamedTuple):
    """A layer's place in a network, before there are arrays; shapes are of all ranks together."""

    layer: Layer
    x: tuple  # shape of its input
    y: tuple  # shape of its output
    split_x: bool  # each rank holds only its part of the channels
    split_y: bool

    def own(self, shape, split, ranks):
        """Return a shape as one rank holds it."""
        return (shape[0] // ranks, *shape[1:]) if split else tuple(shape)


def named(layers):
    """Return copies of the layers, each with a name: its own, or its kind and number, as conv2.

    Raises ArgumentError for what is no list of layers, or a name that stands twice.
    """
    if isinstance(layers, (str, dict)) or not hasattr(layers, "__iter__"):
        raise ArgumentError(f"layers: expected a list of layers, found {type(layers).__name__}")
    copies, counts, names = [], {}, set()
    for place, layer in enumerate(layers, 1):
        if not isinstance(layer, Layer):
            raise ArgumentError(f"layer {place}: expected one such as MaxPool(3, 2), found {layer!r:.80}")
        layer = copy.copy(layer)
        counts[layer.prefix] = counts.get(layer.prefix, 0) + 1
        layer.name = layer.name or f"{layer.prefix}{counts[layer.prefix]}"
        if layer.name in names:
            raise ArgumentError(f"layer {place}: the name {layer.name!r} stands twice")
        copies.append(layer)
        names.add(layer.name)
    if not copies:
        raise ArgumentError("layers: expected at least one, found none")
    return copies


def plan(layers: list[Layer], shape: tuple[int, ...], ranks: int = 1) -> list[Placed]:
    """Lay a list of layers out on so many ranks: return a list of `Placed`.

    shape: (C, H, W) or (D,) of the input, which every rank holds whole.  Where the list has no `AllGather`,
    the places at which the ranks meet are found, see `on_towers`.  Raises ArgumentError, naming the layer,
    where a layer cannot follow the one before, or cannot be shared by so many ranks.
    """
    layers = named(layers)
    if ranks > 1 and not any(isinstance(layer, AllGather) for layer in layers):
        layers = on_towers(layers, ranks)
    placed, split = [], False
    for layer in layers:
        if isinstance(layer, Conv2d):
            layer.need_dx = layer is not layers[0]
        layer.check_split(split, ranks)
        y = layer.out(shape)
        rows = {size[0] for size in layer.sizes(shape).values()}
        if any(n % ranks for n in rows):
            raise layer.error(f"{max(rows)} filters or features cannot be shared evenly by {ranks} ranks")
        after = split if layer.leaves is None else ranks > 1 and layer.leaves == "part"
        placed.append(Placed(layer, tuple(shape), tuple(y), split, after))
        shape, split = y, after
    if split:
        raise layer.error(
            f"is the last, and {ranks} ranks hold parts of it: AllGather(replicated=True) joins them"
        )
    return placed


def on_towers(layers: list[Layer], ranks: int) -> list[Layer]:
    """Return the list with the layers by which towers, convolutions in groups, run a tower a rank.

    The ranks meet (AllGather) before each layer that reads all channels, and part again (Part) before a layer
    in groups.  A normalization whose windows cross the towers sees all channels, between the two.
    """
    found, split = [], False
    for layer in layers:
        in_groups = getattr(layer, "groups", 1) % ranks == 0
        meet, part = AllGather(name=f"gather_{layer.name}"), Part(name=f"part_{layer.name}")
        if isinstance(layer, Weighted):
            if in_groups != split:
                found.append(part if in_groups else meet)
            found.append(layer)
            split = True
        elif split and isinstance(layer, LRN) and not in_groups:
            found += [meet, layer, part]
        else:
            found.append(layer)
    return [*found, AllGather(True, name="gather")] if split else found


class Sequential:
    """Layers, one after the other, on this rank; backward is the same list reversed.

    layers: a list of layers, which are copied.  input_shape: (C, H, W) or (D,) of one image.  comm: the ranks
    that share the network, by default one CPU core.  rng: draws the starting weights, and in training the
    dropout masks; without it there are no weights until a checkpoint's are loaded.
    Raises ArgumentError, naming the layer, for a list that does not fit together.

    ``layers``: the built layers by name.  ``placed``: the `Placed` of each.
    """

    def __init__(
        self,
        layers: list[Layer],
        input_shape: tuple[int, ...],
        comm: Comm | None = None,
        rng: np.random.Generator | None = None,
        dtype=np.float32,
    ):
        self.comm = comm or Comm(Device("cpu:0"))
        self.input_shape, self.rng = tuple(input_shape), rng
        placed = plan(layers, self.input_shape, self.comm.size)
        self.placed = {place.layer.name: place for place in placed}
        self.layers = {name: place.layer for name, place in self.placed.items()}
        for layer, shape, _, split, _ in placed:
            layer.build(shape, self.comm, rng, dtype, split)

    def forward(self, x, train=False, last=None):
        """x → the output of the last layer, or of the one named `last`."""
        if last is not None and last not in self.layers:
            raise ArgumentError(f"expected a layer, one of {', '.join(self.layers)}; found {last!r}")
        if x.shape[:-1] != self.input_shape:
            wanted = ", ".join(map(str, (*self.input_shape, "N")))
            raise ArgumentError(f"{next(iter(self.layers))}: expected an input ({wanted}), found {x.shape}")
        for layer in self.layers.values():
            layer.cache = None  # the last step's memory is free for this one
        for name, layer in self.layers.items():
            with self.comm.on_behalf_of(f"{name} forward"):
                x = layer.forward(x, train)
            if name == last:
                break
        return x

    def backward(self, dy):
        """dy → dx (None where the first layer is a convolution); every layer's ``grads`` are filled."""
        for name, layer in reversed(self.layers.items()):
            with self.comm.on_behalf_of(f"{name} backward"):
                dy = layer.backward(dy)
        return dy

    def parameters(self):
        """Yield (name, layer, key) of every parameter array: ("conv1.w", layer, "w"), …"""
        for name, layer in self.layers.items():
            for key in layer.sizes(self.placed[name].x):
                yield f"{name}.{key}", layer, key

    def learned(self):
        """Yield those of `parameters` that have a gradient: all but the layers' statistics."""
        for name, layer, key in self.parameters():
            if key not in layer.statistics:
                yield name, layer, key

    def sizes(self):
        """Return the shape of every parameter by name, of all ranks together."""
        return {
            f"{name}.{key}": size
            for name, place in self.placed.items()
            for key, size in place.layer.sizes(place.x).items()
        }

    def __repr__(self):
        """A line a layer: its name, the call that makes it, what comes out, and its parameters."""
        rows = [("", "input", "×".join(map(str, self.input_shape)), "")]
        total = 0
        for name, (layer, x, y, _, _) in self.placed.items():
            count = layer.count(x)
            total += count
            call = repr(layer).replace(f"name={name!r}", "").replace("(, ", "(").replace(", )", ")")
            rows.append((name, call, "×".join(map(str, y)), f"{count:,}" if count else ""))
        rows.append(("", "", "", f"{total:,} parameters"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
            for row in rows
        )
