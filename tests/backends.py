"""NumPy, the stand-in for CuPy, and CuPy itself where there is a GPU: the same tests run on each.

A module that asks for the fixture `backend` (conftest.py) runs once on each.  Its tests hold NumPy's arrays;
what is here takes them to the backend's device and brings the results back.
"""

import contextlib
import functools
import sys

import cuda_machine
import cupy_standin
import numpy as np

from tinyalex.devices import Device
from tinyalex.ops import chosen
from tinyalex.ops.cuda import launch as cuda_launch

name, kind = "numpy", "cpu"  # the current backend and its devices' kind


def _no_gpu():
    """Why the tests cannot run on a GPU, or None."""
    try:
        import cupy

        return None if cupy.cuda.runtime.getDeviceCount() else "no GPU"
    except ImportError:
        return "CuPy is not installed"
    except Exception as error:  # what CuPy raises without a driver differs between versions
        return f"no GPU: {error}"


NO_CXX = "g++ is not installed: the stand-in compiles the kernels with it"
MISSING = {"standin": None if cupy_standin.CXX else NO_CXX, "cupy": _no_gpu()}  # why one cannot be used here
BACKENDS = [name for name in ("numpy", "standin", "cupy") if not MISSING.get(name)]


@contextlib.contextmanager
def use(backend, cache):
    """Run what follows on a backend; cache: a folder for the stand-in's compiled kernels."""
    global name, kind
    real = {module: sys.modules[module] for module in cupy_standin.MODULES if module in sys.modules}
    if backend == "standin":
        cuda_machine.machine.cache = cache
        cupy_standin.install()
    name, kind = backend, "cpu" if backend == "numpy" else "cuda"
    try:
        yield
    finally:
        name, kind = "numpy", "cpu"
        if backend == "standin":
            for module in cupy_standin.MODULES:
                del sys.modules[module]
        sys.modules.update(real)


def count():
    """How many GPUs the current backend has."""
    return sys.modules["cupy"].cuda.runtime.getDeviceCount()


def names(ranks):
    """The devices of so many ranks: "cuda:0,cuda:1"; where there are fewer GPUs, some have several ranks."""
    return ",".join(f"{kind}:{k % count() if kind == 'cuda' else k}" for k in range(ranks))


def device():
    """The first device."""
    return Device(f"{kind}:0")


def put(array):
    """Copy an array of NumPy's to the current device: strided if it is, read-only if it is."""
    if kind == "cpu" or not isinstance(array, np.ndarray):
        return array
    cupy = sys.modules["cupy"]
    there = cupy.asarray(array.copy())
    if not array.flags.c_contiguous:
        wide = cupy.empty([2 * size for size in array.shape[::-1]], array.dtype).T
        view = wide[(slice(None, None, 2),) * array.ndim]
        view[...] = there
        there = view
    return there if array.flags.writeable else freeze(there)


def get(value):
    """Bring an array, or those of a tuple or a dict, back to NumPy; anything else stays as it is."""
    if type(value) is tuple:
        return tuple(get(part) for part in value)
    if type(value) is dict:
        return {name: get(part) for name, part in value.items()}
    return sys.modules["cupy"].asnumpy(value) if type(value).__module__.startswith("cupy") else value


def freeze(array):
    """Make a device's array read-only, where that can be: on NumPy and the stand-in."""
    if hasattr(array, "_memory"):
        cupy_standin.freeze(array)
    elif kind == "cpu":
        array.flags.writeable = False
    return array


def through(by_name):
    """The operation, fast or plain, on the current device: arguments are copied there, results back."""

    @functools.wraps(by_name)
    def run(*args, out=None, **kwargs):
        operation = chosen(by_name)
        if kind == "cpu":
            return operation(*args, **kwargs, **({} if out is None else {"out": out}))
        sent = {id(a): put(a) for a in (*args, out)}
        if out is None:
            return get(operation(*(sent[id(a)] for a in args), **kwargs))
        found = operation(*(sent[id(a)] for a in args), out=sent[id(out)], **kwargs)
        written = found[0] if isinstance(found, tuple) else found
        assert written is sent[id(out)]
        out[...] = get(written)
        return (out, out) if isinstance(found, tuple) else out

    return run


def in_source(file, old, new, count=1):
    """A fault in a .cu file: `old` stands there `count` times and becomes `new`."""

    def plant(patch):
        def source(name):
            text = right(name)
            if name == file:
                assert text.count(old) == count
                text = text.replace(old, new)
            return text

        right = cuda_launch.source
        patch.setattr(cuda_launch, "source", source)

    return plant


class Hosted:
    """A layer that is given and gives arrays of NumPy's."""

    def __init__(self, layer):
        self.layer = layer

    def forward(self, x, *args, **kwargs):
        return get(self.layer.forward(put(x), *args, **kwargs))

    def backward(self, dy):
        return get(self.layer.backward(put(dy)))

    def __getattr__(self, name):
        return getattr(self.layer, name)
