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

import functools
import os
from collections import Counter

from tinyalex.devices.cuda import GPU
from tinyalex.devices.device import Device, kind_and_index
from tinyalex.errors import DeviceError

__all__ = [
    "GPU", "Device", "blas_limits", "count", "cpu_count", "kind_and_index", "names", "parse", "read",
    "sharing",
]  # fmt: skip


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
    transport, _, kind = (devices := str(devices)).partition(":")
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
    """Return the names of the devices in a text, for ranks of this process.

    Whether the machine has them is not asked.
    """
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
