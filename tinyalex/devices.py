"""Where arrays live: "cpu:0", "cuda:1", their array module, memory, and copies in and out.

A device string is a kind and a number.  ``cpu:k`` is the k-th worker of the host: one thread with
one BLAS thread; all of them share the host's memory.  ``cuda:k`` is the k-th GPU, through CuPy,
which is imported only when such a device is asked for.
"""

import contextlib
import functools
import os
import re

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

        At its end all work of the stream is done.  (The stream is in order with the default one, on which
        arrays may have been made before.)  Running out of the GPU's memory raises DeviceMemoryError.
        """
        if self.kind == "cpu":
            yield
            return
        with self.xp.cuda.Device(self.index):
            try:
                with self.xp.cuda.Stream():
                    yield
                    self.finish()
            except self.xp.cuda.memory.OutOfMemoryError as error:
                free, total = self.xp.cuda.runtime.memGetInfo()
                ours = self.xp.get_default_memory_pool().total_bytes()
                raise DeviceMemoryError(self.name, str(error), free, total, free + ours) from error

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

    def put(self, array):
        """Copy a host array to this device (on the CPU: the array itself)."""
        return self.xp.asarray(array)

    def get(self, array):
        """Copy an array of this device to the host (on the CPU: the array itself)."""
        return array if self.kind == "cpu" else self.xp.asnumpy(array)


def kind_and_index(name):
    """Return ("cpu", k) or ("cuda", k), be there such a device or not; DeviceError for another name."""
    match = re.fullmatch(r"(cpu|cuda):(\d+)", name)
    if not match:
        raise DeviceError(f"device {name!r}: expected 'cpu:K' or 'cuda:K' with K = 0, 1, 2, …")
    return match[1], int(match[2])


def _cupy(device):
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


def parse(devices, batch=None):
    """Turn "cpu:0,cpu:1" into a list of Device.

    "cpu" is a worker on every core, or on as many as can share a batch of that many images evenly.
    """
    if devices == "cpu":
        count = cpu_count()
        while batch and batch % count:
            count -= 1
        devices = ",".join(f"cpu:{k}" for k in range(count))
    return [Device(name.strip()) for name in devices.split(",")]


@functools.cache
def blas_limits():
    """Return threadpoolctl's controller of the BLAS libraries that are loaded (found once)."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")
