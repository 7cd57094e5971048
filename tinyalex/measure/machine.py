"""What a figure was measured on: the CPU's model and caches, NumPy's BLAS; and what the process has used."""

import platform
import re
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

try:
    import resource  # of POSIX
except ImportError:
    resource = None

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def cpu():
    """Return the CPU's model and the sizes of the caches that its first core uses, as far as Linux tells."""
    try:
        names = re.findall(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.M)
    except OSError:
        names = []
    model = names[0] if names else platform.processor() or platform.machine()
    sizes = ", ".join(f"L{level} {size}iB" for level, size in sorted(_caches()))
    return f"{model}; caches {sizes}" if sizes else model


def _caches():
    """Return (level, size) of each that holds data, the size as the system writes it: 1024K."""
    found = []
    for cache in CACHES.glob("index*"):
        kind, level, size = ((cache / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            found.append((level, size))
    return found


def blas():
    """Return NumPy's version and its BLAS, with the kind of CPU that the BLAS takes this one for."""
    libraries = [
        f"{b['internal_api']} {b['version']}{f' for {kind}' if (kind := b.get('architecture')) else ''}"
        for b in threadpool_info()
        if b["user_api"] == "blas"
    ]
    return f"{np.__version__}, BLAS: {', '.join(libraries) or 'unknown'}"


def faults():
    """Return the page faults of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt if resource else 0


def peak_bytes():
    """Return the largest resident set that this process has had; None where the system does not tell."""
    return resource and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
