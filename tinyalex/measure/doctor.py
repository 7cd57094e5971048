"""What this machine has for tinyalex, whether it works, and what to install: ``tinyalex doctor``.

Every operation is run on every device, forward and backward, in float32, and compared with the loops
of `tinyalex.ops.reference`; the update of the weights, with its formula.  Nothing that is missing is an
error; an operation that gives wrong numbers is.
"""

import ctypes
import functools
import platform
import shutil
import sys
from importlib.metadata import version
from importlib.util import find_spec
from time import perf_counter
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinyalex.comm import Comm, launch
from tinyalex.devices import Device, cpu_count, sharing
from tinyalex.measure.machine import blas, cpu
from tinyalex.nn import Linear, Sequential
from tinyalex.ops import dropout_mask
from tinyalex.ops.cases import CASES
from tinyalex.optim import SGD

TOLERANCE = 1e-4  # of the largest number: float32's rounding over the sums here is 1e-6 to 1e-5


# ---- what is here --------------------------------------------------------------------------------------


class Findings(NamedTuple):
    """What was found: (what, text) pairs, the names of the devices to test, and what to do about the rest."""

    found: list
    devices: list
    advice: list


def look():
    """Return the `Findings` about this machine."""
    found = [
        ("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        ("CPU", f"{cpu_count()} cores for this process of {cpu()}"),
        ("NumPy", blas()),
    ]
    devices, advice = ["cpu:0"], []
    found.append(("MPI", _mpi(advice)))
    driver = _driver()
    found.append(("NVIDIA driver", f"for CUDA up to {_cuda(driver)}" if driver else "none"))
    if find_spec("cupy"):
        _gpus(driver, found, devices, advice)
    else:
        found.append(("CuPy", "not installed"))
        if driver:
            advice.append(f"to use the GPU: pip install 'tinyalex[{_extra(driver)}]'")
    if not driver and len(devices) == 1:
        advice.append("no NVIDIA driver: everything runs on the CPU; a GPU would need a driver, then CuPy")
    return Findings(found, devices, advice)


def _mpi(advice):
    if not find_spec("mpi4py"):
        advice.append(
            "for ranks that are MPI processes: pip install 'tinyalex[mpi]', and an MPI such as mpich"
        )
        return "mpi4py is not installed"
    try:
        from mpi4py import MPI

        library = " ".join(MPI.Get_library_version().strip("\0").split("\n")[0].split())
    except (ImportError, RuntimeError) as error:
        advice.append("for ranks that are MPI processes: pip install mpich, or the system's MPI")
        return f"mpi4py {version('mpi4py')}, but no MPI library ({error})"
    where = shutil.which("mpiexec", path=sys.exec_prefix + "/bin") or shutil.which("mpiexec")
    return f"mpi4py {version('mpi4py')}, {library}, mpiexec: {where or 'none'}"


def _driver():
    """The newest CUDA that the driver supports, 12080 for 12.8; 0 without a driver."""
    number = ctypes.c_int(0)
    try:
        library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
        ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return 0
    return number.value


def _cuda(number):
    return f"{number // 1000}.{number % 1000 // 10}"


def _extra(driver):
    return "cuda13" if driver >= 13000 else "cuda12"


def _gpus(driver, found, devices, advice):
    """Add CuPy and each GPU to what was found."""
    try:
        import cupy
    except Exception as error:  # a library that is not there can show as any error
        found.append(("CuPy", f"installed, but cannot be imported: {error}"))
        advice.append(f"install CuPy anew: pip install 'tinyalex[{_extra(driver)}]'")
        return
    runtime = cupy.cuda.runtime
    built = runtime.runtimeGetVersion()
    found.append(("CuPy", f"{cupy.__version__}, for CUDA {_cuda(built)}"))
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        found.append(("GPUs", f"none: {error}"))
        if driver and driver // 1000 < built // 1000:
            advice.append(
                f"CuPy wants CUDA {_cuda(built)}, the driver has {_cuda(driver)}: "
                f"pip uninstall what is here and install 'tinyalex[{_extra(driver)}]', or renew the driver"
            )
        return
    for k in range(count):
        properties = runtime.getDeviceProperties(k)
        with cupy.cuda.Device(k):
            free, total = runtime.memGetInfo()
        name, major, minor = (properties[key] for key in ("name", "major", "minor"))
        memory = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        text = f"{name.decode()}, compute capability {major}.{minor}, {memory}"
        found.append((f"cuda:{k}", text))
        devices.append(f"cuda:{k}")
    for k in range(count):
        reads = [f"cuda:{j}" for j in range(count) if j != k and runtime.deviceCanAccessPeer(k, j)]
        if count > 1:
            others = ", ".join(reads) or "no other: exchanges go through the host"
            found.append(("peer access", f"cuda:{k} reads {others}"))


# ---- whether it works ----------------------------------------------------------------------------------


def self_test(device):
    """Yield (operation, what is wrong or "") for every operation on the device."""
    for number, case in enumerate(CASES):
        yield case.title, _error(number, device)
    here = device.get(dropout_mask(np.random.default_rng(1), (5, 7), 0.5, device.xp, first=3))
    host = dropout_mask(np.random.default_rng(1), (5, 7), 0.5, first=3)
    yield "dropout mask", "" if (here == host).all() else "not the host's"
    yield "update", _update_error(device)


@functools.cache
def _expected(number):
    """Draw a case's inputs and a dy, and return them with y and the gradients as the loops give them."""
    rng = np.random.default_rng(number)
    inputs = CASES[number].draw(rng, np.float32)
    y = CASES[number].reference(**inputs)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    return inputs, dy, y, CASES[number].reference_backward(dy, **inputs)


def _error(number, device):
    inputs, dy, y, gradients = _expected(number)
    found_y, cache = CASES[number].forward(**{name: device.put(a) for name, a in inputs.items()})
    found = CASES[number].backward(device.put(dy), cache)
    return _worst(device, [(found_y, y), *zip(found, gradients, strict=True)])


def _update_error(device):
    """A step of weights that are moving already, against the formula."""
    w, g, v = np.random.default_rng(0).standard_normal((3, 6, 9), np.float32)
    v_after = 0.9 * v - 0.5 * 0.1 * w - 0.1 * g
    w_after = w + v_after
    net = Sequential([Linear(6, name="fc")], (9,), Comm(device), np.random.default_rng(0))
    layer = net.layers["fc"]
    layer.params["w"][...] = device.put(w)
    layer.grads = {"w": device.put(g), "b": device.put(np.zeros(6, np.float32))}
    optimizer = SGD(net, rate=0.1, momentum=0.9, decay=0.5)
    optimizer.velocity["fc.w"][...] = device.put(v)
    optimizer.step()
    return _worst(device, [(optimizer.velocity["fc.w"], v_after), (layer.params["w"], w_after)])


def _worst(device, pairs):
    """Say what is wrong with arrays of the device beside the expected ones, "" if nothing is."""
    for got, expected in pairs:
        error = np.abs(device.get(got) - expected).max() / np.abs(expected).max()
        if not error <= TOLERANCE:
            return f"relative error {error:.1e}, expected at most {TOLERANCE:.0e}"
    return ""


def _exchange(comm):
    x = comm.device.put(np.full((2, 3), 1.0 + comm.rank, np.float32))
    return comm.device.get(comm.all_reduce(x)).tolist()


# ---- the command ---------------------------------------------------------------------------------------


def print_report(console=None):
    """Print what is here, the self-test and the advice; return the exit code: 1 if a test failed, else 0."""
    console = console or Console()
    report = look()
    table = Table(box=None, show_header=False, pad_edge=False)
    for what, text in report.found:
        table.add_row(what, Text(text))
    console.print(table)
    console.print("\nSelf-test, every operation against the loops of tinyalex.ops.reference:")
    failed = False
    for name in report.devices:
        start, wrong, count = perf_counter(), [], 0
        try:
            device = Device(name)
            for operation, error in launch(lambda comm: list(self_test(comm.device)), [device])[0]:
                count += 1
                wrong += [f"{operation}: {error}"] if error else []
        except Exception as error:  # whatever a broken installation raises belongs into the report
            wrong.append(f"{type(error).__name__}: {error}")
        _say(console, name, wrong, f"{count} operations in {perf_counter() - start:.1f} s")
        failed |= bool(wrong)
    gpus = report.devices[1:]
    if gpus:
        ranks = gpus if len(gpus) > 1 else gpus * 2
        wrong = []
        total = len(ranks) * (len(ranks) + 1) / 2
        try:
            found = launch(_exchange, ",".join(ranks))
            wrong += [] if found == [[[total] * 3] * 2] * len(ranks) else ["the sum over the ranks is wrong"]
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        _say(console, f"{ranks[0]} … {ranks[-1]}", wrong, f"exchange{sharing(ranks)}")
        failed |= bool(wrong)
    for line in report.advice:
        console.print(f"- {line}", markup=False, highlight=False, soft_wrap=True)
    return int(failed)


def _say(console, name, wrong, what):
    verdict = Text("FAIL", "red") if wrong else Text("ok", "green")
    console.print(Text.assemble(f"  {name}  ", verdict, f"  {what}"))
    for line in wrong:
        console.print(f"    {line}", style="red", highlight=False, markup=False, soft_wrap=True)
