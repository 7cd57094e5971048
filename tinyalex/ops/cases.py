"""Every operation with arguments to try it on: one table for the gradient table, the doctor and the tests.

A case names its operation once: the fast pair is `tinyalex.ops.NAME_forward` and `NAME_backward`, the plain
pair has the same names in `ops.plain`, and the loops are `NAME` and `NAME_backward` in `ops.later.reference`.

H and W, C and F, KH and KW differ, so that exchanged axes show even in the shapes; only minimal filtering
(`ops.winograd`) wants square kernels, and many channels.  LRN has alpha = 1: at the paper's 1e-4 its gradient
is dy·k^−beta to four digits, whatever the rest of the formula says.  So batch normalization has eps = 0.1.
"""

import inspect
from functools import partial
from typing import NamedTuple

import numpy as np

from tinyalex import ops
from tinyalex.ops.later import reference


class Case(NamedTuple):
    """An operation, what it is given, and in what it is linear."""

    title: str  # as a table shows it
    name: str  # of the operation: "conv2d"
    inputs: dict  # name → (rng → array)
    settings: dict  # the other arguments of forward
    linear: str = ""  # names of the inputs in which y is linear

    def draw(self, rng, dtype=np.float64):
        """Return the inputs by name: floats of this dtype; a mask or labels as they are."""
        drawn = {name: draw(rng) for name, draw in self.inputs.items()}
        return {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in drawn.items()}

    def forward(self, **inputs):
        """Return (y, cache) of the operation: the fast one, or within `plain_ops` the plain one."""
        return ops.chosen(getattr(ops, f"{self.name}_forward"))(**inputs, **self.settings)

    def backward(self, dy, cache):
        """Return the gradients of the inputs that have one, in their order, as a tuple."""
        backward = ops.chosen(getattr(ops, f"{self.name}_backward"))
        return _tuple(_backward(backward, dy, [cache], self.settings))

    def reference(self, **inputs):
        """Return y by the loops."""
        activation, settings = self._activation()
        y = getattr(reference, self.name)(**inputs, **settings)
        return np.asarray(getattr(reference, activation)(y) if activation else y)

    def reference_backward(self, dy, **inputs):
        """Return the gradients by the loops."""
        activation, settings = self._activation()
        if activation:
            before = getattr(reference, self.name)(**inputs, **settings)
            dy = getattr(reference, f"{activation}_backward")(dy, before)
        return _tuple(_backward(getattr(reference, f"{self.name}_backward"), dy, [], {**inputs, **settings}))

    def _activation(self):
        settings = dict(self.settings)
        activation = settings.pop("activation", None)
        return activation and activation.name, settings


def _backward(function, dy, args, known):
    """Call a backward with those of the known arguments that it takes; a loss's is multiplied by its dy."""
    takes = inspect.signature(function).parameters
    known = {name: value for name, value in known.items() if name in takes}
    return function(dy, *args, **known) if "dy" in takes else dy * function(*args, **known)


def _tuple(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


def spread(*shape, largest=2):
    """Return rng → array of distinct values evenly spread over ± largest, in random order: no two tie."""
    size = np.prod(shape)
    return lambda rng: rng.permutation(np.linspace(-largest, largest, size)).reshape(shape)


def _conv(what, linear="xwb", x=(4, 9, 13, 3), w=(6, 4, 3, 2), groups=1, **settings):
    F, C, *kernel = w
    inputs = {"x": spread(*x), "w": spread(F, C // groups, *kernel), "b": spread(F)}
    return Case(f"conv2d{what}", "conv2d", inputs, {"groups": groups, **settings}, linear)


def _local(what, w, linear="xwb", **settings):
    inputs = {"x": spread(4, 7, 9, 3), "w": spread(*w), "b": spread(*w[:3])}
    return Case(f"local2d{what}", "local2d", inputs, {"stride": 2, **settings}, linear)


def _linear(what, linear="xwb", **settings):
    inputs = {"x": spread(5, 3), "w": spread(4, 5), "b": spread(4)}
    return Case(f"linear{what}", "linear", inputs, settings, linear)


def _map(title, name, shape=(3, 7, 9, 2), linear="", largest=2, **settings):
    return Case(title, name, {"x": spread(*shape, largest=largest)}, settings, linear)


def _batch_norm(what, shape):
    inputs = {"x": spread(*shape), "w": spread(shape[0]), "b": spread(shape[0])}
    return Case(f"batch norm{what}", "batch_norm", inputs, {"eps": 0.1}, "wb")


def _dropout(what, **settings):
    inputs = {"x": spread(6, 5), "mask": lambda rng: ops.dropout_mask(rng, (6, 5), 0.7)}
    return Case(f"dropout{what}", "dropout", inputs, {"keep": 0.7, **settings}, "x")


def _softmax_loss(what, **settings):
    inputs = {"logits": spread(7, 5), "labels": lambda rng: rng.integers(0, 7, 5)}
    return Case(f"softmax loss{what}", "softmax_loss", inputs, settings)


_lrn = partial(_map, name="lrn", shape=(6, 3, 4, 2), alpha=1.0)
_max_pool = partial(_map, name="max_pool", z=3, s=2)
_avg_pool = partial(_map, name="avg_pool", linear="x", z=3, s=2)

CASES = [
    _conv(""),
    _conv(", pad 1", pad=1),
    _conv(", pad 3 (a whole kernel)", pad=3),
    _conv(", stride 2, pad (1,2,0,1)", stride=2, pad=(1, 2, 0, 1)),
    _conv(", stride 4 (gaps)", stride=4),
    _conv(", strides 2 and 3", stride=(2, 3), pad=(1, 0, 2, 1)),
    _conv(", groups 2", groups=2),
    _conv(", groups 2, stride 2", groups=2, stride=2),
    _conv(" + relu", "", activation=ops.relu),
    _conv(" + relu6", "", activation=ops.relu6),
    _conv(" + tanh, stride 2", "", activation=ops.tanh(), stride=2),
    _conv(" 3×3, minimal filtering", x=(30, 6, 5, 1), w=(32, 30, 3, 3), pad=(1, 0, 2, 1)),
    _conv(" 5×5, minimal filtering", x=(30, 5, 6, 1), w=(32, 30, 5, 5), pad=2),
    _local(", stride 2, pad (1,2,0,0)", (5, 4, 4, 4, 3, 2), pad=(1, 2, 0, 0)),
    _local(", strides 2 and 3 + relu", (5, 3, 3, 4, 3, 2), "", stride=(2, 3), activation=ops.relu),
    _max_pool("max pool 3×3, stride 2"),
    _max_pool("max pool, partial windows", shape=(3, 6, 8, 2)),
    _max_pool("max pool, pad (1,0,1,1)", pad=(1, 0, 1, 1)),
    _max_pool("max pool 2×4, strides 3 and 2", shape=(3, 8, 9, 2), z=(2, 4), s=(3, 2), pad=(0, 1, 3, 0)),
    _avg_pool("avg pool 3×3, stride 2"),
    _avg_pool("avg pool, partial windows", shape=(3, 6, 8, 2)),
    _avg_pool("avg pool, pad (1,0,1,1)", pad=(1, 0, 1, 1)),
    _avg_pool("avg pool 2×4, strides 3 and 2", shape=(3, 8, 9, 2), z=(2, 4), s=(3, 2), pad=(0, 1, 3, 0)),
    _map("global avg pool", "global_avg_pool", linear="x"),
    _lrn("lrn, n 5"),
    _lrn("lrn, n 4", n=4),
    _lrn("lrn, n 15 > C", n=15),
    _lrn("lrn, n 3, groups 2", n=3, groups=2),
    _lrn("lrn, n 5, alpha/n", alpha_over_n=True),
    _map("same-map norm, n 5", "same_map_norm", alpha=1.0),
    _map("same-map norm, n 4", "same_map_norm", alpha=1.0, n=4),
    _batch_norm("", (4, 3, 5, 2)),
    _batch_norm(" of features", (4, 7)),
    _map("relu", "relu"),
    _map("relu6", "relu6", largest=9),
    _map("leaky relu", "leaky_relu", slope=0.2),
    _map("tanh", "tanh"),
    _map("tanh[1.7,0.6]", "tanh", a=1.7, b=0.6),
    _map("logistic", "logistic"),
    _dropout(", 2012"),
    _dropout(", inverted", inverted=True),
    _linear(""),
    _linear(" + relu", "", activation=ops.relu),
    _softmax_loss(""),
    _softmax_loss(", total 20", total=20),
]
