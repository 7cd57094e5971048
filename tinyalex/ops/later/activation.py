"""Activations that AlexNet does not have: ReLU6 and the leaky ReLU; see `tinyalex.ops.activation`.

ReLU6     y = min(max(0, x), 6)                 dy/dx = 1 if 0 < y < 6 else 0
leaky     y = max(0, x) + slope · min(0, x)     dy/dx = 1 if y > 0 else slope
"""

from functools import partial

from tinyalex.fields import check_numbers
from tinyalex.ops.activation import ACTIVATIONS, Activation
from tinyalex.ops.checks import check_out, check_slope

__all__ = [
    "leaky_relu", "leaky_relu_backward", "leaky_relu_forward", "relu6", "relu6_backward", "relu6_forward",
]  # fmt: skip


def relu6_forward(x, out=None):
    """y = min(max(0, x), 6)  (Krizhevsky, Convolutional deep belief networks on CIFAR-10, 2010).

    Returns (y, cache); the cache is y.
    """
    xp = check_out("relu6", out, x=x)
    y = xp.minimum(xp.maximum(x, 0, out=out), 6, out=out)
    return y, y


def relu6_backward(dy, y, out=None):
    """dx = dy where 0 < y < 6, else 0 (at both kinks too)."""
    xp = check_slope("relu6 backward", dy, y, out)
    return xp.multiply(dy, (y > 0) * (y < 6), out=out)


def leaky_relu_forward(x, slope=0.01, out=None):
    """y = x where x > 0, else slope · x, slope ≥ 0  (Maas et al. 2013).  Returns (y, cache), the cache y."""
    check_numbers("leaky relu: ", 0, slope=slope)
    xp = check_out("leaky relu", out, x=x)
    steeper = xp.maximum if slope <= 1 else xp.minimum
    y = steeper(x, x * x.dtype.type(slope), out=out)
    return y, y


def leaky_relu_backward(dy, y, slope=0.01, out=None):
    """dx = dy where y > 0, else slope · dy (at the kink, x = 0, the derivative is taken as the slope)."""
    check_numbers("leaky relu: ", 0, slope=slope)
    xp = check_slope("leaky relu backward", dy, y, out)
    factor = xp.where(y > 0, y.dtype.type(1), y.dtype.type(slope))
    return xp.multiply(dy, factor, out=out if out is not None else factor)


relu6 = ACTIVATIONS["relu6"] = Activation("relu6", relu6_forward, relu6_backward)


def leaky_relu(slope=0.01):
    """Return the activation y = x where x > 0, else slope · x; slope ≥ 0."""
    check_numbers("leaky relu: ", 0, slope=slope)
    forward, backward = partial(leaky_relu_forward, slope=slope), partial(leaky_relu_backward, slope=slope)
    return Activation(f"leaky_relu[{slope:g}]", forward, backward)
