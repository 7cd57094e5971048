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
import os
import re
from collections import Counter

import numpy as np

from tinyalex.errors import DeviceError


class Device:
    """One device: ``name``, array module ``xp``, ``put`` (host → here) and ``get`` (here → host).

    A GPU's is a `tinyalex.devices.cuda.GPU`: work on it is queued on the rank's own stream, and the host does
    not wait for it; only ``get`` (and float() of an array) does.  Devices exchange arrays in three steps: the
    giver calls ``record`` when it has queued what writes the array, the taker ``wait``, then ``fetch``.
    """

    def __new__(cls, name=""):
        if cls is Device and name.startswith("cuda"):
            from tinyalex.devices.cuda import GPU

            cls = GPU
        return super().__new__(cls)

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
    match = re.fullmatch(r"(cpu|cuda):(\d+)", name)
    if not match:
        raise DeviceError(f"device {name!r}: expected 'cpu:K' or 'cuda:K' with K = 0, 1, 2, …")
    return match[1], int(match[2])


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
