"""The device, as a CPU core is one: see `tinyalex.devices`."""

import contextlib
import re

import numpy as np

from tinyalex.errors import DeviceError

KINDS = {}  # kind → its class, of the devices that are no CPU cores


class Device:
    """One device: ``name``, array module ``xp``, ``put`` (host → here) and ``get`` (here → host).

    A GPU's is a `tinyalex.devices.cuda.GPU`: work on it is queued on the rank's own stream, and the host does
    not wait for it; only ``get`` (and float() of an array) does.  Devices exchange arrays in three steps: the
    giver calls ``record`` when it has queued what writes the array, the taker ``wait``, then ``fetch``.
    """

    def __init_subclass__(cls, kind):
        KINDS[kind] = cls

    def __new__(cls, name=""):
        """Make one of the class of its kind."""
        return super().__new__(KINDS.get(str(name).partition(":")[0], cls))

    def __init__(self, name):
        self.name, (self.kind, self.index) = name, kind_and_index(name)
        self.xp = np

    def __repr__(self):
        return f"Device({self.name!r})"

    @contextlib.contextmanager
    def context(self):
        """Return a context manager in which arrays are made on this device."""
        yield

    def finish(self):
        """Wait until all that this device has been given to do is done."""

    def record(self):
        """Return an event: what this device has been given to do so far (on the CPU it is done: None)."""

    def wait(self, event):
        """Let what this device is given to do from now on wait for another's event; the host goes on."""

    def fetch(self, array):
        """Return the array, or a copy of it here if it is another GPU's."""
        return array

    def pinned(self, shape, dtype):
        """Return an array of the host's that this device can copy by itself; any thread may ask for one."""
        return np.empty(shape, dtype)

    def put(self, array):
        """Copy a host array to this device (on the CPU: the array itself)."""
        return self.xp.asarray(array)

    def get(self, array):
        """Copy an array of this device to the host (on the CPU: the array itself)."""
        return array


def kind_and_index(name):
    """Return ("cpu", k) or ("cuda", k), whether or not the machine has it; DeviceError for another name."""
    match = re.fullmatch(r"(cpu|cuda):(\d+)", str(name))
    if not match:
        raise DeviceError(f"device {name!r}: expected 'cpu:K' or 'cuda:K' with K = 0, 1, 2, …")
    return match[1], int(match[2])
