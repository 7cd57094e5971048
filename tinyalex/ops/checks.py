"""What every operation asks of its arrays: their module, one dtype, a gradient that fits."""

import sys

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.fields import expect

REALS = {np.float32, np.float64}


def xp_of(*arrays):
    """Return the module, numpy or cupy, whose arrays these are; mixing the two raises TypeError."""
    modules = {type(a).__module__.partition(".")[0] for a in arrays if a is not None}
    if modules in ({"numpy"}, {"cupy"}):
        return sys.modules[modules.pop()]
    raise TypeError(f"expected arrays of numpy or of cupy, all of one kind, found {sorted(modules)}")


def check_arrays(operation, /, **arrays):
    """Return the arrays' module; ArgumentError, naming it, for an argument that is no array."""
    for name, a in arrays.items():
        if not hasattr(a, "dtype") or type(a).__module__.partition(".")[0] not in ("numpy", "cupy"):
            raise ArgumentError(f"{operation}: expected {name}, an array, found {type(a).__name__}")
    return xp_of(*arrays.values())


def same_dtype(operation, **arrays):
    """As `check_arrays`; and TypeError, naming each, unless all are of one float dtype."""
    xp, dtypes = check_arrays(operation, **arrays), {a.dtype.type for a in arrays.values()}
    if len(dtypes) > 1 or not dtypes <= REALS:
        found = ", ".join(f"{name} is {a.dtype.name}" for name, a in arrays.items())
        raise TypeError(f"{operation}: expected arguments all float32 or all float64, found: {found}")
    return xp


def check_weighted(operation, x, w, b, activation):
    """As `same_dtype` of x, w and b; and ArgumentError for an activation that is neither None nor a pair."""
    right = activation is None or hasattr(activation, "forward")
    expect(right, f"{operation}: activation", "ops.relu or its like", activation)
    return same_dtype(operation, x=x, w=w, b=b)


def check_axes(operation, name, array, axes):
    """Raise unless an array, an argument of this name, has so many axes as these: "C,H,W,N"."""
    expect(array.ndim == len(axes.split(",")), operation, f"{name} ({axes})", array.shape)


def check_dy(operation, dy, shape, dtype, *others, name="dy"):
    """Return the module of dy and the others, which backward computes with.

    Raises unless the gradient dy that comes back has the shape and dtype of the output that went out.
    """
    found = getattr(dy, "shape", type(dy))
    expect(found == tuple(shape), operation, f"{name} of shape {tuple(shape)}", found)
    if dy.dtype != dtype:
        raise TypeError(f"{operation}: expected {name} of {dtype}, found {dy.dtype}")
    return xp_of(dy, *others)


def check_out(operation, out, **source):
    """As `same_dtype` of the one source; and raise unless out, the result's place, is None or like it."""
    xp, [x] = same_dtype(operation, **source), source.values()
    return xp if out is None else check_dy(operation, out, x.shape, x.dtype, x, name="out")


def check_slope(operation, dy, y, out):
    """As `check_dy` and `check_out`, of an operation whose slope is known from its output y."""
    check_out(operation, out, y=y)
    return check_dy(operation, dy, y.shape, y.dtype, y)
