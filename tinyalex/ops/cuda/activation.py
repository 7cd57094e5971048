"""Neurons on the GPU: one pass each way."""

from tinyalex.memory import empty
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import images, launch

RELU, TANH, LOGISTIC = range(3)  # as activation.cu counts them


def activate(which, x, out=None, a=1.0, b=1.0):
    """Return (y, cache), y in out if there is one; the cache is y."""
    y = _run("activate", which, (x,), out, a, b)
    return y, y


def activate_backward(which, dy, y, out=None, a=1.0, b=1.0):
    """Return dx, in out if there is one."""
    return _run("activate_backward", which, (dy, y), out, a, b)


def _run(kernel, which, arrays, out, a, b):
    xp = xp_of(*arrays)
    arrays = [xp.ascontiguousarray(array) for array in arrays]
    whole = out is not None and out.flags.c_contiguous and not any(_astride(out, array) for array in arrays)
    y = out if whole else empty(xp, arrays[0].shape, arrays[0].dtype)
    v = images(y.size, y, *arrays)
    launch(f"activation.{kernel}", (y.size // v,), *arrays, y, y.size // v, which, float(a), float(b), V=v)
    if out is None or y is out:
        return y
    out[...] = y
    return out


def _astride(out, array):
    """Whether one thread would write what another is to read: they share memory, but begin elsewhere."""
    return 0 < abs(out.data.ptr - array.data.ptr) < out.nbytes
