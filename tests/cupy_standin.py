"""A strict stand-in for the parts of CuPy that tinyalex uses, so that the GPU path runs without a GPU.

`install()` puts it into sys.modules as "cupy".  Its arrays are NumPy's inside, and its kernels are the real
.cu sources, compiled by g++ and run one thread after the other.  It is stricter than a GPU:

- an array belongs to a device; work on it while another is current is refused, as is an array of NumPy's;
- nothing turns an array into NumPy's but `asnumpy`;
- fresh memory is full of NaNs and freed memory is given out again, as from CuPy's pool;
- kernels' arguments must have exactly the declared types; writing outside an array is seen by guard zones
  around it, writing to a read-only array (`freeze`) by its declaration without const;
- every stream has a vector clock: reading what another stream wrote, or writing what another still reads,
  with neither an event nor a synchronization in between, raises `Unordered`;
- what is not in `API` does not exist.

What it cannot show: races between the threads of one kernel, coalescing, speed, and the rounding of cuBLAS
and of fused multiply-adds.
"""

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import sys
import types
import weakref
from collections import Counter
from importlib.machinery import ModuleSpec
from pathlib import Path

import nccl_standin
import numpy as np
from cuda_machine import (
    GUARD,
    CUDARuntimeError,
    Device,
    Event,
    Memory,
    MemoryPool,
    OutOfMemoryError,
    PinnedMemory,
    RawMemory,
    RawPointer,
    Stream,
    alloc_pinned_memory,
    current_device,
    get_current_stream,
    get_elapsed_time,
    in_use,
    lock,
    machine,
    touch,
    transfers,
    using_allocator,
    work,
)

CXX = shutil.which("g++")
launches = Counter()  # kernel → how often it ran


class MemoryPointer:
    def __init__(self, array):
        self.array = array

    ptr = property(lambda self: self.array._data.ctypes.data)
    device_id = property(lambda self: self.array._memory.device)

    def copy_from_device_async(self, src, size, stream=None):
        ours, theirs = self.array, src.array
        assert size == ours.nbytes == theirs.nbytes
        assert ours.flags.c_contiguous and theirs.flags.c_contiguous  # noqa: PT018
        peers = (theirs._memory.device, ours._memory.device) in machine.peers
        transfers["peer" if peers else "staged"] += size
        target, source = ours._data.reshape(-1), theirs._data.reshape(-1)
        work([theirs._memory], [ours._memory], lambda: copy(target, source), [theirs._memory])


def copy(target, source):
    target[...] = source


# ---- arrays --------------------------------------------------------------------------------------------


class ndarray:
    """CuPy's array, with what tinyalex uses of it."""

    __module__ = "cupy"
    __array_ufunc__ = None
    __hash__ = None

    def __init__(self, data, memory):
        self._data, self._memory = data, memory

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    shape = property(lambda self: self._data.shape)
    dtype = property(lambda self: self._data.dtype)
    ndim = property(lambda self: self._data.ndim)
    size = property(lambda self: self._data.size)
    nbytes = property(lambda self: self._data.nbytes)
    itemsize = property(lambda self: self._data.itemsize)
    flags = property(lambda self: types.SimpleNamespace(c_contiguous=self._data.flags.c_contiguous))
    data = property(MemoryPointer)
    device = property(lambda self: Device(self._memory.device))
    T = property(lambda self: self._view(self._data.T))

    def _view(self, data):
        return ndarray(data, self._memory)

    def _view_or_new(self, compute):
        data = compute()
        same = not data.size or np.may_share_memory(data, self._memory.bytes)
        return self._view(data) if same else new(compute, [self])

    def __len__(self):
        return len(self._data)

    def reshape(self, *shape):
        return self._view_or_new(lambda: self._data.reshape(*shape))

    def ravel(self):
        return self._view_or_new(lambda: self._data.ravel())

    def swapaxes(self, axis1, axis2):
        return self._view(self._data.swapaxes(axis1, axis2))

    def transpose(self, *axes):
        return self._view(self._data.transpose(*axes))

    def copy(self):
        data = self._data
        return new(lambda: data, [self])

    def astype(self, dtype, copy=True):
        data = self._data
        return self if not copy and self.dtype == dtype else new(lambda: data.astype(dtype), [self])

    def fill(self, value):
        data = self._data
        work([], [self._memory], lambda: data.fill(value))

    def set(self, arr, stream=None):
        assert self.flags.c_contiguous
        assert arr.flags.c_contiguous
        if (self.dtype, self.shape) != (arr.dtype, arr.shape):
            raise TypeError(f"{arr.dtype} {arr.shape} cannot be set to {self.dtype} {self.shape}")
        stream = stream or get_current_stream()
        stream._not_recorded()
        touch([], [self._memory], stream=stream)
        PinnedMemory.read(arr, stream)
        self._data[...] = arr

    def __getitem__(self, index):
        if list(arrays_in(index)):
            data, place = self._data, plain(index)
            return new(lambda: data[place], [self, index])
        index = index if isinstance(index, tuple) else (index,)
        return self._view(self._data[index if Ellipsis in index else (*index, Ellipsis)])

    def __setitem__(self, index, value):
        data, place, source = self._data, plain(index), plain(value)

        def assign():
            data[place] = source

        work(memories([value, index]), [self._memory], assign)

    def __bool__(self):
        return bool(asnumpy(self))

    def __int__(self):
        return int(asnumpy(self))

    def __float__(self):
        return float(asnumpy(self))

    def tolist(self):
        return asnumpy(self).tolist()


def arrays_in(value):
    if isinstance(value, ndarray):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from arrays_in(part)


def memories(values):
    return [a._memory for a in arrays_in(values)]


def plain(value):
    """The value with NumPy's arrays in place of ours; NumPy's own arrays are refused, as by CuPy."""
    if isinstance(value, ndarray):
        return value._data
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}")
    if isinstance(value, (list, tuple)):
        return type(value)(plain(part) for part in value)
    return value


def fresh(shape, dtype):
    """An array of unwritten memory."""
    shape = tuple(shape) if isinstance(shape, (list, tuple)) else (shape,)
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    memory = Memory(nbytes)
    return ndarray(memory.bytes[GUARD : GUARD + nbytes].view(dtype).reshape(shape), memory)


def new(compute, read=()):
    """An array with the numbers that compute() returns, from those that were read."""
    data = np.asarray(compute())  # where it is recorded: for the shape
    out = fresh(data.shape, data.dtype)
    target = out._data
    if get_current_stream()._graph is None:
        work(memories(read), [out._memory], lambda: copy(target, data))
    else:
        copy(target, data)
        work(memories(read), [out._memory], lambda: copy(target, compute()))
    return out


def computed(fn):
    """fn of NumPy's, on our arrays; an argument ``out`` is written to.

    As on a GPU, no number is warned of: BLAS also looks at what lies behind an array, whatever that is.
    """
    quietly = np.errstate(all="ignore")(fn)

    def call(*args, out=None, **kwargs):
        values = plain([*args, *kwargs.values()])
        if out is None:
            return new(lambda: quietly(*values[: len(args)], **kwargs), args)
        target = out._data
        work(memories(args), [out._memory], lambda: quietly(*values[: len(args)], out=target, **kwargs))
        return out

    return call


def method(fn, reflected=False, in_place=False):
    def call(self, other):
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        args = (other, self) if reflected else (self, other)
        return computed(fn)(*args, out=self if in_place else None)

    return call


for _name, _fn in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "pow": np.power,
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", method(_fn))
    setattr(ndarray, f"__r{_name}__", method(_fn, reflected=True))
    setattr(ndarray, f"__i{_name}__", method(_fn, in_place=True))
for _name, _fn in {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
    "ne": np.not_equal,
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", method(_fn))
ndarray.__matmul__ = lambda self, other: matmul(self, other)
ndarray.__neg__ = lambda self: computed(np.negative)(self)


def reduction(fn):
    return lambda self, axis=None, keepdims=False: computed(fn)(self, axis=axis, keepdims=keepdims)


for _fn in (np.sum, np.max, np.min, np.mean, np.all, np.any, np.argmax):
    setattr(ndarray, _fn.__name__, reduction(_fn))


def freeze(array):
    """Make an array read-only, as no array of CuPy's can be: for tests of what is written to."""
    array._data.flags.writeable = False
    return array


# ---- functions -----------------------------------------------------------------------------------------


def asnumpy(a, stream=None):
    get_current_stream()._not_recorded()
    touch([a._memory], [])
    (stream or get_current_stream()).synchronize()
    transfers["to host"] += a.nbytes
    return a._data.copy()


def asarray(a, dtype=None):
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    get_current_stream()._not_recorded()  # what was copied from would be gone when it is replayed
    return new(lambda: np.asarray(plain(a) if isinstance(a, (list, tuple)) else a, dtype))


def array(obj, dtype=None):
    return asarray(obj, dtype).copy()


def ascontiguousarray(a, dtype=None):
    a = a.astype(dtype, copy=False) if dtype else a
    data = a._data
    return a if a.flags.c_contiguous and a.ndim else new(lambda: np.ascontiguousarray(data), [a])


def empty(shape, dtype=np.float64):
    return fresh(shape, dtype)


def zeros(shape, dtype=np.float64):
    return new(lambda: np.zeros(shape, dtype))


def ones(shape, dtype=np.float64):
    return new(lambda: np.ones(shape, dtype))


def zeros_like(a):
    shape, dtype = a.shape, a.dtype
    return new(lambda: np.zeros(shape, dtype))


def arange(stop):
    return new(lambda: np.arange(stop))


def moveaxis(a, source, destination):
    return a._view(np.moveaxis(a._data, source, destination))


def matmul(x1, x2, /, *, out=None):
    if out is not None and not out.flags.c_contiguous:
        raise ValueError("Output array must be C-contiguous")
    if get_current_stream()._graph is not None:
        raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
    return computed(np.matmul)(x1, x2, out=out)


def pad(array, pad_width, mode="constant", **kwargs):
    data = array._data
    return new(lambda: np.pad(data, pad_width, mode, **kwargs), [array])


def concatenate(tup, axis=0, out=None):
    return computed(lambda *parts, out=None: np.concatenate(parts, axis, out=out))(*tup, out=out)


def stack(tup, axis=0):
    return computed(lambda *parts: np.stack(parts, axis))(*tup)


def where(condition, x, y):
    return computed(np.where)(condition, x, y)


def clip(a, a_min, a_max):
    return computed(np.clip)(a, a_min, a_max)


# ---- kernels -------------------------------------------------------------------------------------------

KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\([^)]*\) )?(\w+)\(([^)]*)\)')
TYPES = {
    "int": np.int32, "unsigned int": np.uint32, "u64": np.uint64, "long long": np.int64, "bool": np.bool_,
    "double": np.float64,
    "unsigned short": np.uint16, "unsigned char": np.uint8,
}  # fmt: skip


class RawModule:
    def __init__(self, code=None, options=()):
        [real] = re.findall("-DREAL=(float|double)", " ".join(options))
        self._types = TYPES | {"REAL": {"float": np.float32, "double": np.float64}[real]}
        self._code = re.sub("//.*", "", code)
        self._library = compiled(code, options)
        self._device = current_device()

    def get_function(self, name):
        [parameters] = [p for n, p in KERNEL.findall(self._code) if n == name]
        return Kernel(name, parameters, self)


def compiled(code, options):
    """Compile a .cu source with g++; the library is kept in machine.cache."""
    shim = Path(__file__).with_name("cuda_shim.h")
    runners = []
    for name, parameters in KERNEL.findall(re.sub("//.*", "", code)):
        names = ", ".join(re.findall(r"\w+", p)[-1] for p in parameters.split(","))
        runners.append(
            f'extern "C" int run_{name}(Index _grid, Index _block, int _order, {parameters})\n'
            f"{{ return run_grid(_grid, _block, _order, [&] {{ {name}({names}); }}); }}\n"
        )
    barriers = "#define BARRIERS\n" * ("__shared__" in code)
    source = f'{barriers}#include "{shim}"\n#line 1 "kernel.cu"\n{code}\n' + "".join(runners)
    digest = hashlib.sha256((source + shim.read_text() + " ".join(options)).encode()).hexdigest()[:16]
    library = Path(machine.cache) / f"{digest}.so"
    with lock:
        if not library.exists():
            made = library.with_suffix(f".{os.getpid()}")  # another process may be compiling the same
            # -O1: most of the time goes into compiling; -ftree-vrp: the warnings of an array's bounds want it
            command = f"{CXX} -O1 -ftree-vrp -std=c++14 -Wall -Wextra -Werror -Wno-unused-function"
            command += f" -Wno-unused-variable -Wno-unknown-pragmas -shared -fPIC -x c++ - -o {made}"
            done = subprocess.run([*command.split(), *options], input=source, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"g++ cannot compile the kernel:\n{done.stderr}")
            made.replace(library)
    return ctypes.PyDLL(str(library))  # keeps the GIL: the shim's indices are global


class Index(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


class Kernel:
    def __init__(self, name, parameters, module):
        self.name, self.device = name, module._device
        self.run = getattr(module._library, f"run_{name}")
        self.parameters = []
        for parameter in parameters.split(","):
            const, kind, star = re.fullmatch(
                r"\s*(const )?((?:unsigned |long )?\w+) (\*?)\w+\s*", parameter
            ).groups()
            self.parameters.append((module._types[kind], bool(star), not const))
        self.count = 0

    def __call__(self, grid, block, args):
        if self.device != current_device():
            raise ValueError(f"{self.name} was loaded on device {self.device}, {current_device()} is current")
        grid, block = Index(*grid, *(1,) * (3 - len(grid))), Index(*block, *(1,) * (3 - len(block)))
        if not (0 < block.x <= 1024 and 0 < grid.x < 2**31 and 0 < grid.y < 2**16 and 0 < grid.z < 2**16):
            raise ValueError(f"{self.name}: CUDA_ERROR_INVALID_VALUE for grid {grid}, block {block}")
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name}: {len(self.parameters)} parameters, {len(args)} arguments")
        passed, reads, writes, tables = [], [], [], []
        for place, (arg, (dtype, is_array, written)) in enumerate(zip(args, self.parameters, strict=True)):
            if is_array != isinstance(arg, ndarray) or getattr(arg, "dtype", None) != dtype:
                found = f"{type(arg).__name__} {getattr(arg, 'dtype', '')}"
                raise TypeError(f"{self.name}, argument {place}: expected {dtype.__name__}, found {found}")
            if not is_array:
                passed.append(np.ctypeslib.as_ctypes_type(dtype)(arg.item()))
                continue
            if not arg.flags.c_contiguous:
                raise ValueError(f"{self.name}, argument {place}: the array is not contiguous")
            if written and not arg._data.flags.writeable:
                raise ValueError(f"{self.name}, argument {place}: the array is read-only")
            (writes if written else reads).append(arg._memory)
            passed.append(ctypes.c_void_p(arg._data.ctypes.data))
            tables += [arg._data] * (dtype == np.uint64 and arg.ndim == 2)  # of one axis: a key

        def run():
            addresses = [
                n for table in tables for n in table.ravel().tolist() if n >> 32
            ]  # else it is a size
            if not all(map(RawMemory._has, addresses)):
                raise IndexError(f"{self.name}: a table names an address of no memory")
            named = [memory for address in addresses if (memory := Memory.at(address))]
            touch([], named)  # a table of addresses: of what the kernel writes, as far as we can know
            with lock:
                launches[self.name] += 1
            self.count += 1
            if self.run(grid, block, ctypes.c_int(self.count % 3), *passed):
                raise RuntimeError(f"{self.name}: a barrier that not all threads of a block come to")
            for memory in (*named, *checked()):
                memory.check_guards(self.name)

        refs = [weakref.ref(memory) for memory in writes]

        def checked():
            return [memory for ref in refs if (memory := ref())]

        work(reads, writes, run)


# ---- the module ----------------------------------------------------------------------------------------


def memGetInfo():
    free = machine.memory - in_use[current_device()]
    return free, machine.memory


def getDeviceProperties(device):
    return {"name": b"Stand-in", "major": 9, "minor": 0, "multiProcessorCount": 132}


API = {
    "array": array, "asarray": asarray, "asnumpy": asnumpy, "ascontiguousarray": ascontiguousarray,
    "empty": empty, "zeros": zeros, "zeros_like": zeros_like, "arange": arange, "moveaxis": moveaxis,
    "matmul": matmul, "pad": pad, "concatenate": concatenate, "stack": stack, "where": where, "clip": clip,
    "ones": ones, "ndarray": ndarray, "RawModule": RawModule,
    **{fn.__name__: computed(fn) for fn in (
        np.add, np.subtract, np.multiply, np.maximum, np.minimum, np.tanh, np.exp, np.log, np.isfinite,
    )},
    "get_default_memory_pool": lambda: MemoryPool(),
    "cuda.MemoryPool": MemoryPool, "cuda.Memory": RawMemory, "cuda.MemoryPointer": RawPointer,
    "cuda.using_allocator": using_allocator, "cuda.alloc_pinned_memory": alloc_pinned_memory,
    "cuda.Device": Device, "cuda.Stream": Stream, "cuda.Event": Event,
    "cuda.get_current_stream": get_current_stream, "cuda.get_elapsed_time": get_elapsed_time,
    "cuda.memory.OutOfMemoryError": OutOfMemoryError,
    "cuda.runtime.CUDARuntimeError": CUDARuntimeError,
    "cuda.runtime.getDevice": current_device,
    "cuda.runtime.getDeviceCount": lambda: machine.devices,
    "cuda.runtime.memGetInfo": memGetInfo,
    "cuda.runtime.runtimeGetVersion": lambda: 12090,
    "cuda.runtime.getDeviceProperties": getDeviceProperties,
    "cuda.runtime.deviceCanAccessPeer": lambda device, peerDevice: (device, peerDevice) in machine.peers,
    "__version__": "14.2.0",
}  # fmt: skip


MODULES = ("cupy", "cupy.cuda.nccl")  # the second has to be imported by its name


def install():
    """Put the stand-in's `MODULES` into sys.modules; the caller takes them out again."""
    root = types.ModuleType("cupy")
    root.__spec__ = ModuleSpec("cupy", None)
    for path, value in API.items():
        *parents, name = path.split(".")
        place = root
        for parent in parents:
            if not hasattr(place, parent):
                setattr(place, parent, types.SimpleNamespace())
            place = getattr(place, parent)
        setattr(place, name, value)
    sys.modules.update(zip(MODULES, (root, nccl_standin), strict=True))
    return root
