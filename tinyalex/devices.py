"""Where arrays live: "cpu:0", "cuda:1", their array module, memory, and copies in and out.

A device's name is a kind and a number.  ``cpu:k`` is the k-th worker of the host: one thread with
one BLAS thread; all of them share the host's memory.  ``cuda:k`` is the k-th GPU, through CuPy,
which is imported only when such a device is asked for.

Which devices a program runs on is said in one way everywhere (`--devices`, `tinyalex.comm.launch`):

    cpu:0,cpu:1     a rank on each of these, in this order; cuda:0,cuda:1 likewise
    cuda:0,cuda:0   two ranks on one GPU
    cpu             as many cores as the work can be shared evenly by, of those that are here
    cuda            as many GPUs, likewise
    mpi             each process that mpiexec started is a rank, on a core of its own
    mpi:cuda        each is a rank on a GPU, in turn
"""

import contextlib
import functools
import math
import os
import re
from collections import Counter

import numpy as np

from tinyalex.errors import DeviceError, DeviceMemoryError
from tinyalex.memory import empty


class Device:
    """One device: ``name``, array module ``xp``, ``put`` (host → here) and ``get`` (here → host).

    Work on a GPU is queued on the rank's own stream, and the host does not wait for it: only ``get`` (and
    float() of an array) does.  Devices exchange arrays in three steps: the giver calls ``record`` when it has
    queued what writes the array, the taker ``wait``, then ``fetch``.
    """

    def __init__(self, name):
        self.name, (self.kind, self.index) = name, kind_and_index(name)
        self.xp = np if self.kind == "cpu" else _cupy(self)

    def __repr__(self):
        return f"Device({self.name!r})"

    @contextlib.contextmanager
    def context(self):
        """Return a context manager in which arrays are made on this device; a GPU gets a stream of its own.

        At its end, by an error too, all work of the stream is done.  (The stream is in order with the default
        one, on which arrays may have been made before.)  Running out of the GPU's memory raises
        DeviceMemoryError, whether CuPy, cuBLAS or the driver asked for it.
        """
        if self.kind == "cpu":
            yield
            return
        with self.xp.cuda.Device(self.index):
            try:
                with self.xp.cuda.Stream():
                    try:
                        yield
                    finally:  # or the stream's memory might be given away while the GPU still works on it
                        self.finish()
            except (MemoryError, RuntimeError) as error:
                free, total = self.xp.cuda.runtime.memGetInfo()
                if not self._is_full(error, free):
                    raise
                ours = self.xp.get_default_memory_pool().total_bytes()
                raise DeviceMemoryError(self.name, str(error), free, total, free + ours) from error

    def _is_full(self, error, free):
        """Whether the error, raised with so many bytes free, says that this GPU's memory is full."""
        if isinstance(error, self.xp.cuda.memory.OutOfMemoryError):
            return True
        codes = ["CUBLAS_STATUS_ALLOC_FAILED", "CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation"]
        if free < 2**28:  # cuBLAS, when it begins, wants memory for itself, and does not name the reason
            codes.append("CUBLAS_STATUS_NOT_INITIALIZED")
        return str(error).startswith(tuple(codes))

    def finish(self):
        """Wait until all that this device has been given to do is done."""
        if self.kind == "cuda":
            self.xp.cuda.get_current_stream().synchronize()

    def record(self):
        """Return an event: what this device has been given to do so far (on the CPU it is done: None)."""
        if self.kind == "cpu":
            return None
        event = self.xp.cuda.Event(disable_timing=True)
        event.record()
        return event

    def wait(self, event):
        """Let what this device is given to do from now on wait for another's event; the host goes on."""
        if event is not None:
            self.xp.cuda.get_current_stream().wait_event(event)

    def fetch(self, array):
        """Return the array, or a copy of it here if it is another GPU's (and then it must be C-contiguous).

        GPUs read each other directly where the pair can; elsewhere the driver goes through the host.
        """
        if self.kind == "cpu" or array.device.id == self.index:
            return array
        out = empty(self.xp, array.shape, array.dtype)
        out.data.copy_from_device_async(array.data, array.nbytes)
        return out

    def pinned(self, shape, dtype):
        """Return an array of the host's that a GPU can copy by itself; any thread may ask for one."""
        if self.kind == "cpu":
            return np.empty(shape, dtype)
        count = math.prod(shape)
        with self.xp.cuda.Device(self.index):
            memory = self.xp.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def put(self, array):
        """Copy a host array to this device (on the CPU: the array itself)."""
        return self.xp.asarray(array)

    def get(self, array):
        """Copy an array of this device to the host (on the CPU: the array itself)."""
        return array if self.kind == "cpu" else self.xp.asnumpy(array)


def kind_and_index(name):
    """Return ("cpu", k) or ("cuda", k), whether or not the machine has it; DeviceError for another name."""
    match = re.fullmatch(r"(cpu|cuda):(\d+)", name)
    if not match:
        raise DeviceError(f"device {name!r}: expected 'cpu:K' or 'cuda:K' with K = 0, 1, 2, …")
    return match[1], int(match[2])


def _cupy(device):
    """Return CuPy; DeviceError unless it is installed and the device is here."""
    try:
        import cupy
    except ImportError as error:
        raise DeviceError(
            f"device {device.name}: CuPy is not installed ({error}); "
            "pip install 'tinyalex[cuda12]' or 'tinyalex[cuda13]', whichever the driver supports"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"device {device.name}: the CUDA driver answered: {error}; `tinyalex doctor` says what is here"
        ) from error
    if device.index >= count:
        found = {0: "no GPU", 1: "1 GPU (cuda:0)"}.get(count, f"{count} GPUs (cuda:0 … cuda:{count - 1})")
        raise DeviceError(f"device {device.name}: this machine has {found}")
    return cupy


def cpu_count():
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def count(kind):
    """Return how many devices of this kind are here: "cpu" or "cuda"; DeviceError if there is no GPU."""
    return cpu_count() if kind == "cpu" else Device("cuda:0").xp.cuda.runtime.getDeviceCount()


def read(devices, parts=None):
    """Read a text of the grammar above; return how the ranks are started and on what.

    parts: into how many equal parts the work can be cut, such as images or towers (None: into any number).
    "cpu" is the largest number of cores that are here and divides it.
    Returns ("threads", their devices' names) or ("mpi", [the kind of each process's device]).
    """
    transport, _, kind = devices.partition(":")
    if transport == "mpi":
        if devices not in ("mpi", "mpi:cuda"):
            raise DeviceError(f"devices {devices!r}: expected 'mpi' or 'mpi:cuda'")
        return "mpi", [kind or "cpu"]
    if devices in ("cpu", "cuda"):
        ranks = count(devices)
        while parts and parts % ranks:
            ranks -= 1
        return "threads", [f"{devices}:{k}" for k in range(ranks)]
    names = [name.strip() for name in devices.split(",")]
    for name in names:
        kind_and_index(name)
    return "threads", names


def names(devices, parts=None):
    """Return the names of the devices in a text, for ranks of this process, be there such devices or not."""
    transport, found = read(devices, parts)
    if transport != "threads":
        raise DeviceError(f"devices {devices!r}: expected ranks of one process, such as 'cpu:0,cpu:1'")
    return found


def parse(devices, parts=None):
    """Return the list of `Device` that a text names, for ranks of this process."""
    return [Device(name) for name in names(devices, parts)]


def sharing(names):
    """Say which devices have more than one rank: " (2 ranks on cuda:0)", or ""."""
    return "".join(f" ({n} ranks on {name})" for name, n in Counter(names).items() if n > 1)


@functools.cache
def blas_limits():
    """Return threadpoolctl's controller of the BLAS libraries that are loaded (found once)."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
