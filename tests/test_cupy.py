"""What the real CuPy has of what is used of it, and what nvcc says of the kernels: neither needs a GPU."""

import contextlib
import importlib
import inspect
import re
import shutil
import subprocess
import sys

import cupy_standin
import nccl_standin
import pytest

from tinyalex.ops.cuda import launch as cuda_launch
from tinyalex.ops.cuda import winograd


def real_cupy():
    """CuPy as it is installed: it imports without a GPU."""
    if "cupy" in sys.modules and not hasattr(sys.modules["cupy"], "__version__"):
        pytest.fail("the stand-in is still there")
    return pytest.importorskip("cupy", reason="CuPy is not installed: its names are not checked")


def arguments(function):
    """The names by which arguments can be passed, from the signature."""
    found = inspect.signature(function).parameters.values()
    return {p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def documented(function):
    """The same of one of CuPy's: many are compiled, and show theirs in the docstring's first line alone."""
    head = (function.__doc__ or "").strip().split("\n")[0]
    shown = set(re.findall(r"(\w+)(?:=[^,)]*)?(?=[,)])", head))
    with contextlib.suppress(TypeError, ValueError):
        shown |= arguments(function)
    return shown


@pytest.mark.parametrize("name", cupy_standin.API)
def test_cupy_has_what_is_used_of_it(name):
    """Every name of the stand-in is CuPy's, with the same arguments, methods and attributes."""
    ours, found = cupy_standin.API[name], real_cupy()
    for part in name.split("."):
        found = getattr(found, part)
    if not callable(ours):
        assert type(found) is type(ours)
    elif not inspect.isclass(ours):
        assert arguments(ours) <= documented(found)
    elif issubclass(ours, Exception):
        assert issubclass(found, Exception)
    else:
        assert name == "ndarray" or arguments(ours) <= documented(found)
        used = {n: member for n, member in vars(ours).items() if n in OPERATORS or not n.startswith("_")}
        for n, member in used.items():
            assert hasattr(found, n), n
            if n not in OPERATORS and inspect.isfunction(member):
                assert arguments(member) - {"self"} <= documented(getattr(found, n)), n


OPERATORS = {f"__{way}{op}__" for way in ("", "r", "i") for op in ("add", "sub", "mul", "truediv")}
OPERATORS |= {f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne", "neg", "matmul", "len", "bool")}
OPERATORS |= {f"__{name}__" for name in ("int", "float", "getitem", "setitem", "enter", "exit")}


def test_cupys_memory_is_what_is_used_of_it():
    pointer = real_cupy().cuda.MemoryPointer
    assert documented(pointer.copy_from_device_async) >= {"src", "size", "stream"}
    assert "possibly different" in pointer.copy_from_device_async.__doc__
    assert hasattr(real_cupy().cuda.MemoryPool, "total_bytes")


def test_cupys_nccl_is_what_is_used_of_it():
    """Where the library is there, too: without it CuPy has the module, and says that it is not available."""
    real_cupy()
    nccl = importlib.import_module("cupy.cuda.nccl")
    assert isinstance(nccl.available, bool)
    if nccl.available:
        assert {"get_unique_id", "groupStart", "groupEnd", "NCCL_UINT8"} <= vars(nccl).keys()
        for name in ("send", "recv"):
            used = arguments(getattr(nccl_standin.NcclCommunicator, name)) - {"self"}
            assert used <= documented(getattr(nccl.NcclCommunicator, name))


def test_the_standin_has_nothing_else(standin):
    import cupy

    with pytest.raises(AttributeError):
        cupy.einsum  # noqa: B018
    with pytest.raises(AttributeError):
        cupy.cuda.cudnn  # noqa: B018


NVCC = shutil.which("nvcc")


def filters(k):
    """What winograd.cu wants to be told, not by -D: there nvcc takes a comma for the next one."""
    return "".join(f"#define {name} {value}\n" for name, value in winograd.matrices(k).items())


@pytest.mark.skipif(NVCC is None, reason="nvcc is not installed: the kernels are compiled by g++ alone")
@pytest.mark.parametrize(
    ("real", "images"), [("float", 4), pytest.param("double", 1, marks=pytest.mark.slow)]
)
def test_nvcc_compiles_every_kernel(real, images, tmp_path):
    """For sm_75 (not with tensor cores), 80 and 90, with every warning an error."""
    everything = tmp_path / "all.cu"  # one file: each start of nvcc costs seconds
    everything.write_text(filters(3) + "".join(cuda_launch.source(path.stem) for path in cuda_launch.SOURCES))
    targets = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (75, 80, 90)]
    command = [NVCC, "-c", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror", everything]
    command += ["-Xcicc=-O0", "-Xptxas=-O0"]  # it is not run; what they warn of is the same
    command += [f"-DREAL={real}", f"-DV={images}", "-o", tmp_path / "all.o"]
    done = subprocess.run([*command, *targets], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(cuda_launch.SOURCES) == 13
    if real == "float":
        files = "conv", "conv_weights", "winograd"
        everything.write_text(filters(5) + "".join(map(cuda_launch.source, files)))
        done = subprocess.run([*command, "-DTF32=1", *targets[1:]], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
