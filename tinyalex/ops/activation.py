"""Activations: elementwise nonlinearities whose derivative is known from their output alone.

Because dy/dx can be written in terms of y, backward needs only the output, which the next layer
keeps anyway, and a convolution can apply its activation in place while a block is in cache.

    ReLU      y = max(0, x)           dy/dx = 1 if y > 0 else 0          (paper, section 3.1)
    tanh      y = a tanh(b x)         dy/dx = a b (1 - tanh²(b x)) = b (a - y²/a)
    logistic  y = 1 / (1 + exp(-x))   dy/dx = y (1 - y)

``out``, where the result goes, may be an argument itself.  2012's names and forms: cuda-convnet's neurons
relu, tanh[a,b], logistic.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from tinyalex.fields import check_numbers, expect
from tinyalex.memory import empty, zeros
from tinyalex.ops.checks import check_out, check_slope
from tinyalex.ops.cuda import activation as cuda

__all__ = [
    "ACTIVATIONS", "Activation", "logistic", "logistic_backward", "logistic_forward", "relu", "relu_backward",
    "relu_forward", "tanh", "tanh_backward", "tanh_forward",
]  # fmt: skip


def relu_forward(x, out=None):
    """y = max(0, x)  (paper, section 3.1).

    x: any shape, float32 or float64.  Returns (y, cache), y shaped like x; the cache is y, as y > 0
    exactly where x > 0.
    """
    if check_out("relu", out, x=x) is not np:
        return cuda.activate(cuda.RELU, x, out)
    y = np.maximum(x, zeros(np, x.shape[1:], x.dtype), out=out)  # an array: with a number, four times as slow
    return y, y


def relu_backward(dy, y, out=None):
    """dx = dy where y > 0, else 0 (at the kink, x = 0, the derivative is taken as 0)."""
    if check_slope("relu backward", dy, y, out) is not np:
        return cuda.activate_backward(cuda.RELU, dy, y, out)
    slope = np.greater(y, 0, out=empty(np, y.shape, y.dtype))  # 1 or 0: bool times float is slower
    return np.multiply(dy, slope, out=slope if out is None else out)


def tanh_forward(x, a=1.0, b=1.0, out=None):
    """y = a tanh(b x).  Returns (y, cache); the cache is y."""
    check_numbers("tanh: ", a=a, b=b)
    if check_out("tanh", out, x=x) is not np:
        return cuda.activate(cuda.TANH, x, out, a, b)
    y = empty(np, x.shape, x.dtype) if out is None else out
    if b != 1:
        x = np.multiply(x, x.dtype.type(b), out=y)
    np.tanh(x, out=y)
    if a != 1:
        y *= y.dtype.type(a)
    return y, y


def tanh_backward(dy, y, a=1.0, b=1.0, out=None):
    """dx = dy b (a - y²/a).

    Derivation: tanh' = 1 - tanh², so dy/dx = a b (1 - (y/a)²) = b (a - y²/a).
    """
    if check_slope("tanh backward", dy, y, out) is not np:
        return cuda.activate_backward(cuda.TANH, dy, y, out, a, b)
    slope = np.multiply(y, y, out=empty(np, y.shape, y.dtype))
    slope *= y.dtype.type(-b / a)
    slope += y.dtype.type(a * b)
    return np.multiply(dy, slope, out=out if out is not None else slope)


def logistic_forward(x, out=None):
    """y = 1 / (1 + exp(-x)) = (1 + tanh(x/2)) / 2, which overflows for no x.  The cache is y."""
    if check_out("logistic", out, x=x) is not np:
        return cuda.activate(cuda.LOGISTIC, x, out)
    y, _ = tanh_forward(x, 0.5, 0.5, out)
    y += y.dtype.type(0.5)
    return y, y


def logistic_backward(dy, y, out=None):
    """dx = dy y (1 - y)."""
    if check_slope("logistic backward", dy, y, out) is not np:
        return cuda.activate_backward(cuda.LOGISTIC, dy, y, out)
    slope = np.multiply(y, y, out=empty(np, y.shape, y.dtype))
    np.subtract(y, slope, out=slope)
    return np.multiply(dy, slope, out=out if out is not None else slope)


class Activation(NamedTuple):
    """What a layer can apply to its outputs: a name and a pair of functions above."""

    name: str
    forward: Callable  # (x, out=None) -> (y, y)
    backward: Callable  # (dy, y, out=None) -> dx


relu = Activation("relu", relu_forward, relu_backward)
logistic = Activation("logistic", logistic_forward, logistic_backward)


def tanh(a=1.0, b=1.0):
    """Return the activation y = a tanh(b x); 2012 writes it tanh[a,b]."""
    check_numbers("tanh: ", a=a, b=b)
    expect(a, "tanh: a", "a number that is not 0", a)  # y, 0 everywhere, would not tell the slope
    name = "tanh" if a == b == 1 else f"tanh[{a:g},{b:g}]"
    return Activation(name, partial(tanh_forward, a=a, b=b), partial(tanh_backward, a=a, b=b))


ACTIVATIONS = {"relu": relu, "tanh": tanh(), "logistic": logistic}  # and those of `later`
