"""Whole commands on GPUs: the same run as on the CPU, and memory that does not suffice."""

import backends
import cuda_machine
import numpy as np
import pytest
from test_cli import CLASSES, SMALL, class_folders, done, refused

from tinyalex import checkpoint, run
from tinyalex.ops.cuda import conv as cuda_conv


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    source = class_folders(root / "src", CLASSES)
    done("prepare", "imagenet", source, root / "data", "--size", 72, "--workers", 1)
    return root / "data"


def trained(data, out, devices, epochs=2):
    done("train", data, out, *SMALL, "--epochs", epochs, "--save-every", 4, "--devices", devices)
    return run.checkpoints(out)[-1]


def test_a_run_on_two_gpus_is_that_of_two_cpus(data, gpu, tmp_path):
    """Eight steps in float32: the weights and the errors agree, to rounding."""
    backends.need(2)
    cpu, gpu = (trained(data, tmp_path / kind, f"{kind}:0,{kind}:1") for kind in ("cpu", "cuda"))
    (expected, _), (found, metadata) = checkpoint.load(cpu), checkpoint.load(gpu)
    assert metadata["step"] == 8
    assert found.keys() == expected.keys()
    for name, w in expected.items():
        assert (found[name].shape, found[name].dtype) == (w.shape, w.dtype)
        assert np.abs(found[name] - w).max() <= 1e-4 * np.abs(w).max(), name
    assert (
        done("evaluate", data, cpu, "--devices", "cuda:0").split()[1:5]
        == (done("evaluate", data, cpu, "--devices", "cpu:0").split()[1:5])
    )


def test_a_resumed_run_on_gpus_has_the_same_bits(data, gpu, tmp_path):
    backends.need(2)
    once = trained(data, tmp_path / "once", "cuda:0,cuda:1")
    begun = tmp_path / "begun"
    trained(data, begun, "cuda:0,cuda:1")
    for newer in run.checkpoints(begun)[1:]:
        newer.unlink()
    first = run.checkpoints(begun)[0]
    assert first.name != once.name
    done("resume", begun, "--devices", "cuda:0,cuda:1")
    assert run.checkpoints(begun)[-1].read_bytes() == once.read_bytes()


def test_a_batch_that_is_too_large_is_told_what_would_fit(data, tmp_path, standin, monkeypatch):
    monkeypatch.setattr(cuda_machine.machine, "memory", 900_000)
    monkeypatch.setattr(cuda_conv, "BLOCK_BYTES", 2**16)
    line = refused("train", data, tmp_path / "run", *SMALL, "--epochs", 1, "--devices", "cuda:0")
    assert "cuda:0: Out of memory allocating" in line
    assert "of 0.00 GB are free" in line
    assert "in place of 8, a batch of 6 images would fit" in line
