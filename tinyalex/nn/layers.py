"""The layer, and the kinds of which AlexNet and its time's networks are made; see `tinyalex.nn`."""

import math
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import ClassVar

import numpy as np

from tinyalex import ops
from tinyalex.comm import Comm
from tinyalex.errors import ArgumentError
from tinyalex.fields import at_least, expect, fits, generator, in_words, of_kind, plain_data, returned

__all__ = [
    "LRN", "Activate", "AllGather", "AvgPool", "Conv2d", "Dropout", "Layer", "Linear", "MaxPool",
    "SameMapNorm", "Weighted",
]  # fmt: skip

KINDS = {}  # every kind of layer, by its name


def activation_of(value):
    """Return the pair that a field `activation` means, None of None.

    value: "relu", "relu6", "tanh", "logistic", ("tanh", a, b) for a tanh(b x), ("leaky", s) with a slope
    s > 0 for x < 0, or None.  Raises ArgumentError for anything else.
    """
    match value:
        case None:
            return None
        case str() if value in ops.ACTIVATIONS:
            return ops.ACTIVATIONS[value]
        case ("tanh", int() | float() as a, int() | float() as b) if math.isfinite(a * b) and a * b:
            return ops.tanh(a, b)
        case ("leaky", int() | float() as slope) if slope > 0:
            return ops.leaky_relu(slope)
    known = ", ".join(map(repr, [None, *ops.ACTIVATIONS]))
    raise ArgumentError(f"activation: expected {known}, ('tanh', a, b) or ('leaky', s > 0), found {value!r}")


@dataclass(repr=False)
class Layer:
    """The base of every layer: no parameters, a shape that stays, and a pair of ops with fixed arguments.

    name: within the network; `Sequential` finds one where none is given.  Raises ArgumentError, naming the
    field, for a value of the wrong type.

    A kind of one's own is a dataclass, @dataclass(repr=False), whose fields are the keyword arguments of its
    pair's forward (or `arguments` says which they are).  It declares ``pair``; with parameters also
    ``weights``, their names as the pair takes them, `sizes` and `draw`; where the shape changes, `out`; where
    backward reads other arrays than x, ``keeps``, for `describe`.  See examples/own_layer.py.
    """

    name: str = field(default="", kw_only=True)

    prefix = "layer"  # of the names that Sequential finds
    pair = None  # (forward(x, *weights, **arguments) → (y, cache), backward(dy, cache) → dx or (dx, *grads))
    weights = ()  # those of its parameters that have a gradient, as the pair takes and returns them
    statistics = ()  # those that follow what is seen in training, and have none
    leaves = None  # what a rank holds after it: "part" of the channels, "all", or None: as before it
    keeps = ("x",)  # what backward reads: "x", "y", or the bytes per number of x of an array of its own
    checks: ClassVar[dict] = {  # of the values of fields, by their names, when the layer is made
        "activation": activation_of, "pad": ops.four_pads, "kernel": partial(ops.two_of, what="kernel"),
        "window": partial(ops.two_of, what="window"), "stride": partial(ops.two_of, what="stride"),
    }  # fmt: skip

    def __init_subclass__(cls, is_kind=True):
        ours = KINDS.get(cls.__name__, cls).__module__
        if ours.startswith("tinyalex.") and ours != cls.__module__:
            raise ArgumentError(f"{cls.__name__}: tinyalex has a kind of layer of this name, choose another")
        if is_kind:
            KINDS[cls.__name__] = cls

    def __post_init__(self):
        for f in fields(self):
            setattr(self, f.name, value := plain_data(getattr(self, f.name)))
            if not fits(value, f.type):
                raise self.error(f"{f.name}: expected {in_words(f.type)}, found {repr(value)[:80]}")
            try:
                self.checks.get(f.name, bool)(value)
            except ArgumentError as error:
                raise self.error(str(error)) from None
        self.params, self.grads, self.cache = {}, {}, ...  # none yet: that of a pair may be None

    def __repr__(self):
        """The call that makes this layer: the fields that are not at their defaults."""
        values = [(f, getattr(self, f.name)) for f in sorted(fields(self), key=lambda f: f.kw_only)]
        shown = [(f.name + "=") * (f.default is not MISSING) + repr(v) for f, v in values if v != f.default]
        return f"{type(self).__name__}({', '.join(shown)})"

    def error(self, message):
        """Return an ArgumentError that names this layer."""
        return ArgumentError(f"{self.name or type(self).__name__}: {message}")

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
        return sum(math.prod(self.sizes(shape)[key]) for key in self.weights)

    def is_view(self, ranks):
        """Whether its output is its input's memory, on so many ranks."""
        return False

    def multiply_adds(self, shape):
        """Return the products of numbers in the forward pass, for one image."""
        return 0

    def reads(self, ranks):
        """Return what each of so many ranks must hold before it: "part" of the channels, "all", or None."""
        return None

    def place(self, shape, split, ranks):
        """Return the shape that it makes of an input's, on so many ranks.

        split: whether each rank holds only its part of the input's channels.  Raises ArgumentError where the
        layer cannot read that, or its parameters cannot be shared.
        """
        sound = fits(shape, tuple[int, ...]) and min(shape, default=0) >= 1
        expect(sound, f"{self.name or type(self).__name__}: input", "sizes ≥ 1, (C, H, W) or (D,)", shape)
        wanted = self.reads(ranks)
        if ranks > 1 and wanted and split != (wanted == "part"):
            held, put = ("its part of them", "AllGather()") if split else ("them all", "Part()")
            raise self.error(
                f"reads {wanted} of the channels, and each of {ranks} ranks holds {held}: put {put} before it"
            )
        made, sizes = self.out(shape), self.sizes(shape)
        if sizes.keys() != {*self.weights, *self.statistics} or () in sizes.values():
            raise self.error(f"sizes: expected those of weights and statistics, (D,) or more, found {sizes}")
        for size in sizes.values():
            if size[0] % ranks:
                raise self.error(f"{size[0]} filters or features cannot be shared evenly by {ranks} ranks")
        return plain_data(tuple(made))

    def splits(self, split, ranks):
        """Whether each of so many ranks holds only its part of the channels after it, if so before it."""
        return ranks > 1 and (split if self.leaves is None else self.leaves == "part")

    # ---- arrays --------------------------------------------------------------------------------------

    images = 0, 1  # which part of the batch it is given, of how many equal ones

    def build(self, shape, comm=None, rng=None, dtype=np.float32, split=False):
        """Lay it out on this rank of comm, and draw its parameters; return itself.

        shape: of its input, of all ranks together.  split: whether each rank holds only its part of that.
        comm: by default one CPU core.  rng: draws parameters, and in training the dropout masks; without it
        there are no parameters until `params` is filled from a checkpoint.
        """
        self.comm, self.rng, self.split = of_kind(Comm, comm or Comm("cpu:0"), "comm"), generator(rng), split
        self.place(plain_data(shape), split, self.comm.size)
        self.params, self.grads, self.cache = {}, {}, ...
        if rng is not None:
            for key, size in self.sizes(shape).items():
                whole = self.draw(key, size, self.rng)
                self.params[key] = self.comm.device.put(whole[self.comm.part(size[0])].astype(dtype))
        return self

    def draw(self, key, size, rng):
        """Return a starting value of the whole parameter."""
        raise self.error(f"expected a method draw(key, size, rng), which makes its {key}, found none")

    @property
    def arguments(self):
        """The keyword arguments of the pair's forward function."""
        return self.data()

    def forward(self, x, train=False):
        """x → y; keep what backward needs."""
        return self.run(x, **self.arguments)

    def run(self, x, *args, **kwargs):
        """Call the pair's forward function with the learned parameters; keep its cache, and its backward."""
        if self.weights and not self.params:
            raise self.error("has no weights: build the network with rng, or load a checkpoint")
        forward, self._backward = map(ops.chosen, returned(self.pair, ("forward", "backward"), "pair"))
        made = forward(x, *(self.params[key] for key in self.weights), *args, **kwargs)
        y, self.cache = returned(made, ("y", "cache"), "forward")
        return y

    def backward(self, dy, **kwargs):
        """dy → dx; put the parameters' gradients into ``grads``."""
        cache = self.kept()
        self.grads.clear()  # the last step's memory is free for this one's
        dx = self._backward(dy, cache, **kwargs)
        if self.weights:
            dx, *grads = returned(dx, ("dx", *(f"d{key}" for key in self.weights)), "backward")
            self.grads.update(zip(self.weights, grads, strict=True))
        return dx

    def kept(self):
        """Return the cache of the last forward pass; ArgumentError if there was none."""
        if self.cache is ...:
            raise self.error("backward wants a forward pass before it, found none")
        return self.cache


@dataclass(repr=False)
class Weighted(Layer, is_kind=False):
    """A layer with weights w ~ N(0, std²) and biases b = bias, one row for each filter or feature."""

    weights = "w", "b"
    leaves = "part"

    def draw(self, key, size, rng):
        """Draw w; fill b."""
        if key == "b":
            return np.full(size, self.bias)
        return rng.standard_normal(size, dtype=np.float32) * np.float32(self.std)

    @property
    def keeps(self):
        """Its input, and its output where that went through an activation."""
        return ("x", "y") if self.activation else ("x",)

    def multiply_adds(self, shape):
        """Of the forward pass, for one image: every weight once at each place of the output."""
        return math.prod(self.sizes(shape)["w"]) * math.prod(self.out(shape)[1:])


@dataclass(repr=False)
class Conv2d(Weighted):
    """Convolution and activation: y = activation(w ∗ x + b)  (paper, section 3.5).

    filters: F.  kernel: its side, or (KH, KW).  stride: one number, or (vertical, horizontal).  pad: zeros
    around the maps, one number or (top, bottom, left, right).  groups: filters and channels are cut into so
    many equal parts, and a filter sees only its own part (the paper's towers).  activation: "relu", "tanh",
    "logistic", ("tanh", a, b) for a tanh(b x), "relu6", ("leaky", slope) or None.  std: standard deviation of
    the starting weights, by default the paper's 0.01; bias: of the starting biases.
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
    pair = ops.conv2d_forward, ops.conv2d_backward
    need_dx = True  # False for the layer that reads the pictures

    def out(self, shape):
        """(C, H, W) → (F, OH, OW)."""
        C, F, groups = maps(self, shape)[0], self.filters, self.groups
        if groups < 1 or F < 1 or F % groups or C % groups:
            raise self.error(f"{C} channels and {F} filters cannot be cut into {groups} equal groups")
        return F, *windows(self, shape, self.kernel, ops.output_size)

    def sizes(self, shape):
        """w (F, C/groups, KH, KW), b (F,)."""
        window = ops.two_of(self.kernel, "kernel")
        return {"w": (self.filters, shape[0] // self.groups, *window), "b": (self.filters,)}

    def reads(self, ranks):
        """Its part of the channels where its groups are those of the ranks, else all."""
        return "all" if self.groups % ranks else "part"

    @property
    def arguments(self):
        """Stride, padding, activation, and the groups of one rank."""
        groups, activation = max(1, self.groups // self.comm.size), activation_of(self.activation)
        return {"stride": self.stride, "pad": self.pad, "groups": groups, "activation": activation}

    def backward(self, dy):
        """dy → dx, or None where need_dx is False."""
        return super().backward(dy, need_dx=self.need_dx)


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
    pair = ops.linear_forward, ops.linear_backward

    def out(self, shape):
        """(D,) or (C, H, W) → (F,)."""
        if self.features < 1:
            raise self.error(f"features: expected at least 1, found {self.features}")
        return (self.features,)

    def sizes(self, shape):
        """w (F, D), b (F,)."""
        return {"w": (self.features, math.prod(shape)), "b": (self.features,)}

    def reads(self, ranks):
        """All features."""
        return "all"

    def forward(self, x, train=False):
        """x (D, N) or (C, H, W, N) → y (F/ranks, N)."""
        ops.checks.check_arrays(self.name or "linear", x=x)
        self.x_shape = x.shape
        x = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        return self.run(x, activation=activation_of(self.activation))

    def backward(self, dy):
        """dy → dx, shaped like x."""
        return super().backward(dy).reshape(self.x_shape)


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
    keeps = "x", "y"

    def out(self, shape):
        """(C, H, W) → (C, OH, OW)."""
        return shape[0], *windows(self, shape, self.window, ops.pooled_size, ceil=self.ceil)

    @property
    def arguments(self):
        """z and s are the paper's names."""
        return {"z": self.window, "s": self.stride, "pad": self.pad, "ceil": self.ceil}


@dataclass(repr=False)
class AvgPool(MaxPool):
    """The average of each window's real pixels; the fields are those of `MaxPool`."""

    pair = ops.avg_pool_forward, ops.avg_pool_backward
    keeps = ()


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
    keeps = "x", 4  # the bracket s
    checks = at_least(0, "k", "alpha", "beta") | at_least(1, "n", "groups")

    def out(self, shape):
        """(C, H, W) as it is."""
        if maps(self, shape)[0] % self.groups:
            raise self.error(f"{self.groups} groups do not fit {shape[0]} channels")
        return shape

    def reads(self, ranks):
        """All channels where windows reach from one rank's to another's."""
        return "all" if self.groups % ranks else None

    @property
    def arguments(self):
        """The groups of one rank."""
        return super().arguments | {"groups": self.groups // (self.comm.size if self.split else 1)}


@dataclass(repr=False)
class SameMapNorm(Layer):
    """2012's normalization within a map (layers-145.cfg: cnorm2); fields as `same_map_norm_forward`'s."""

    n: int = 5
    k: float = 1.0
    alpha: float = 1e-3
    beta: float = 0.75

    prefix = "cnorm"
    pair = ops.same_map_norm_forward, ops.same_map_norm_backward
    keeps = "x", 4  # the bracket s
    checks = at_least(0, "k", "alpha", "beta") | at_least(1, "n")

    def out(self, shape):
        """(C, H, W) as it is."""
        return maps(self, shape)


@dataclass(repr=False)
class Activate(Layer):
    """An activation as a layer of its own, where it does not follow a convolution or product directly."""

    activation: str | tuple

    prefix = "act"
    keeps = ("y",)

    @property
    def pair(self):
        """The activation's."""
        return activation_of(self.activation)[1:]

    def forward(self, x, train=False):
        """x → activation(x)."""
        return self.run(x)


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
    keeps = (1,)  # the mask
    checks: ClassVar[dict] = Layer.checks | {"keep": ops.dropout.check_keep}

    def forward(self, x, train=False):
        """x → y; a fresh mask each time in training."""
        mask = None
        if train:
            if self.rng is None:
                raise self.error("training draws masks: build the network with rng")
            (part, parts), N, xp = self.images, x.shape[-1], self.comm.device.xp
            first = self.comm.rank * x.size * parts if self.split else 0
            mask = ops.dropout_mask(self.rng, (*x.shape[:-1], parts * N), self.keep, xp, first)
            mask = xp.ascontiguousarray(mask[..., part * N : part * N + N])
        return self.run(x, mask, self.keep, train, self.inverted)


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
    keeps = ()

    def reads(self, ranks):
        """There must be parts to join."""
        return "part"

    def is_view(self, ranks):
        """On one rank it does nothing."""
        return ranks == 1

    def forward(self, x, train=False):
        """x (C/ranks, …) → (C, …)."""
        return self.comm.all_gather(x, axis=0)

    def backward(self, dy):
        """dy (C, …) → dx (C/ranks, …)."""
        if self.replicated:
            return dy[self.comm.part(dy.shape[0])]
        return self.comm.reduce_scatter(dy, axis=0)


def maps(layer, shape):
    """Return (C, H, W); ArgumentError, naming the layer, for the shape of features."""
    if len(shape) != 3:
        raise layer.error(f"expected maps (C, H, W), found {tuple(shape)}")
    return shape


def windows(layer, shape, window, count, **how):
    """Return how many windows lie on maps, (down, across): count is the function of ops for one side."""
    (_, H, W), (top, bottom, left, right) = maps(layer, shape), ops.four_pads(layer.pad)
    (ZH, ZW), (SH, SW) = ops.two_of(window, "window"), ops.two_of(layer.stride, "stride")
    OH = count(H, ZH, SH, top, bottom, what=layer.name, **how)
    return OH, count(W, ZW, SW, left, right, what=layer.name, **how)
