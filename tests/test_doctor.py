"""``tinyalex doctor``: useful words on any machine, and an exit code that follows the self-test."""

import io
import sys

import cuda_machine
import cupy_standin
import pytest
from rich.console import Console

from tinyalex.measure import doctor, machine
from tinyalex.ops import winograd
from tinyalex.ops.cuda import launch as cuda_launch


def told():
    """The exit code and what is printed."""
    text = io.StringIO()
    code = doctor.print_report(Console(file=text, width=200))
    return code, text.getvalue()


def test_without_cupy_and_without_a_driver(monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    real = doctor.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "cupy" else real(name))
    monkeypatch.setattr(doctor, "_driver", lambda: 0)
    code, text = told()
    assert code == 0
    for words in (
        "Python",
        "NumPy",
        "BLAS",
        "NVIDIA driver  none",
        "CuPy           not installed",
        "cpu:0  ok",
    ):
        assert words in text
    assert "- no NVIDIA driver: everything runs on the CPU" in text


@pytest.mark.parametrize(("driver", "extra"), [(12040, "cuda12"), (13000, "cuda13")])
def test_a_driver_without_cupy_is_told_what_to_install(driver, extra, monkeypatch):
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "_driver", lambda: driver)
    code, text = told()
    assert code == 0
    assert f"pip install 'tinyalex[{extra}]'" in text
    assert "for ranks that are MPI processes: pip install 'tinyalex[mpi]'" in text


def test_a_driver_too_old_for_cupy(standin, monkeypatch):
    import cupy

    def refuse():
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver: too old")

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", refuse)
    monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", lambda: 13000)
    monkeypatch.setattr(doctor, "_driver", lambda: 12040)
    code, text = told()
    assert code == 0
    assert "none: cudaErrorInsufficientDriver" in text
    assert "CuPy wants CUDA 13.0, the driver has 12.4" in text
    assert "'tinyalex[cuda12]'" in text


def test_gpus_are_listed_and_tested(standin, monkeypatch):
    monkeypatch.setattr(doctor, "_driver", lambda: 12090)
    before = cupy_standin.launches.copy()
    code, text = told()
    assert code == 0
    assert text.count("Stand-in, compute capability 9.0") == 3
    assert "cuda:0 reads cuda:1" in text
    assert "cuda:2 reads no other" in text
    assert all(f"cuda:{k}  ok  {len(doctor.CASES) + 2} operations" in text for k in range(3))
    assert "cuda:0 … cuda:2  ok  exchange" in text
    assert len(cupy_standin.launches - before) >= 15  # so many kernels were used


def test_one_gpu_exchanges_with_itself(standin, monkeypatch):
    monkeypatch.setattr(doctor, "_driver", lambda: 12090)
    monkeypatch.setattr(doctor, "self_test", lambda device: [])
    monkeypatch.setattr(cuda_machine.machine, "devices", 1)
    code, text = told()
    assert code == 0
    assert "cuda:0 … cuda:0  ok  exchange (2 ranks on cuda:0)" in text


@pytest.mark.parametrize(
    ("text", "wrong", "operation"),
    [("k + a * sum", "k - a * sum", "lrn, n 5"), ("*w += velocity", "*w -= velocity", "update")],
)
def test_a_wrong_kernel_is_named_and_the_exit_code_is_1(text, wrong, operation, standin, monkeypatch):
    right = cuda_launch.source
    monkeypatch.setattr(cuda_launch, "source", lambda file: right(file).replace(text, wrong))
    for cache in (cuda_launch._function, cuda_launch._module):
        cache.cache_clear()
    try:
        code, told_text = told()
    finally:
        for cache in (cuda_launch._function, cuda_launch._module):
            cache.cache_clear()
    assert code == 1
    assert "cuda:1  FAIL" in told_text
    assert f"{operation}: relative error" in told_text
    assert "cpu:0  ok" in told_text


def test_the_cpus_own_algorithm_is_tested(monkeypatch):
    """Minimal filtering, which AlexNet's convolutions use."""
    right = winograd.convolve_backward
    monkeypatch.setattr(winograd, "convolve_backward", lambda *args: 1.01 * right(*args))
    code, text = told()
    assert code == 1
    assert "conv2d 3×3, minimal filtering: relative error" in text


def test_an_exchange_that_breaks_is_reported(standin, monkeypatch):
    """With whatever error: doctor is for installations that are broken."""

    def broken(comm):
        raise RuntimeError("cudaErrorPeerAccess")

    monkeypatch.setattr(doctor, "_exchange", broken)
    code, text = told()
    assert code == 1
    assert "cuda:0 … cuda:2  FAIL  exchange" in text
    assert "RuntimeError: cudaErrorPeerAccess" in text


def test_the_cpu_is_told_with_its_caches(tmp_path, monkeypatch):
    """As Linux describes them: those of instructions are left out, levels are in order."""
    caches = {
        "index0": ("Data", 1, "32K"),
        "index1": ("Instruction", 1, "64K"),
        "index2": ("Unified", 2, "1024K"),
    }
    for name, (kind, level, size) in reversed(caches.items()):
        (tmp_path / name).mkdir()
        for file, text in (("type", kind), ("level", level), ("size", size)):
            (tmp_path / name / file).write_text(f"{text}\n")
    monkeypatch.setattr(machine, "CACHES", tmp_path)
    assert machine.cpu().endswith("; caches L1 32KiB, L2 1024KiB")
    monkeypatch.setattr(machine, "CACHES", tmp_path / "none")
    assert "caches" not in machine.cpu()
