"""GPUs as devices, through CuPy."""

import contextlib
import math

import numpy as np

from tinyalex.devices.device import Device
from tinyalex.errors import DeviceError, DeviceMemoryError
from tinyalex.memory import empty


class GPU(Device, kind="cuda"):
    """The GPU ``cuda:k``; DeviceError unless CuPy is installed and the GPU is here."""

    def __init__(self, name):
        super().__init__(name)
        self.xp = _cupy(self)

    @contextlib.contextmanager
    def context(self):
        """Return a context manager in which arrays are made on this GPU, which gets a stream of its own.

        At its end, by an error too, all work of the stream is done.  (The stream is in order with the default
        one, on which arrays may have been made before.)  Running out of the GPU's memory raises
        DeviceMemoryError, whether CuPy, cuBLAS or the driver asked for it.
        """
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
        self.xp.cuda.get_current_stream().synchronize()

    def record(self):
        """Return an event: what this device has been given to do so far."""
        event = self.xp.cuda.Event(disable_timing=True)
        event.record()
        return event

    def wait(self, event):
        """Let what this device is given to do from now on wait for another's event; the host goes on."""
        self.xp.cuda.get_current_stream().wait_event(event)

    def fetch(self, array):
        """Return the array, or a copy of it here if it is another GPU's (and then it must be C-contiguous).

        GPUs read each other directly where the pair can; elsewhere the driver goes through the host.
        """
        if array.device.id == self.index:
            return array
        out = empty(self.xp, array.shape, array.dtype)
        out.data.copy_from_device_async(array.data, array.nbytes)
        return out

    def pinned(self, shape, dtype):
        """Return an array of the host's that this device can copy by itself; any thread may ask for one."""
        count = math.prod(shape)
        with self.xp.cuda.Device(self.index):
            memory = self.xp.cuda.alloc_pinned_memory(count * np.dtype(dtype).itemsize)
        return np.frombuffer(memory, dtype, count).reshape(shape)

    def get(self, array):
        """Copy an array of this device to the host."""
        return self.xp.asnumpy(array)


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
