"""Whole commands on GPUs: the same run as on the CPU, and memory that does not suffice."""

import json
import shutil

import backends
import cuda_machine
import numpy as np
import pytest
from test_cli import CLASSES, SMALL, class_folders, done, refused

from tinyalex.comm import launch
from tinyalex.data import augment, imagenet
from tinyalex.data.loader import Loader
from tinyalex.devices import Device
from tinyalex.measure import bench, bench_cuda, traffic
from tinyalex.models import make
from tinyalex.ops.cuda import implicit_gemm, winograd
from tinyalex.ops.cuda.pictures import feed
from tinyalex.runs import checkpoint, run


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
    cpu = trained(data, tmp_path / "cpu", "cpu:0,cpu:1")
    gpu = trained(data, tmp_path / "gpu", backends.names(2))
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
    once = trained(data, tmp_path / "once", backends.names(2))
    begun = shutil.copytree(tmp_path / "once", tmp_path / "begun")
    for newer in run.checkpoints(begun)[1:]:
        newer.unlink()
    first = run.checkpoints(begun)[0]
    assert first.name != once.name
    done("resume", begun, "--devices", backends.names(2))
    assert run.checkpoints(begun)[-1].read_bytes() == once.read_bytes()


@pytest.mark.parametrize("upscale", [None, 80])
def test_prepared_pictures_are_the_host_s_on_a_gpu(data, gpu, upscale):
    """They are read straight to where they are sent from, unless they are enlarged first."""

    def rank(comm):
        how = {"train": False, "upscale": upscale, "device": comm.device}
        with Loader(imagenet.open(data), 8, augment.PLAIN, **how) as batches:
            return [(comm.device.get(images), labels) for images, labels in feed(comm.device, batches)]

    (found,), (expected,) = (launch(rank, [device]) for device in (backends.device(), Device("cpu:0")))
    for ours, wanted in zip(found, expected, strict=True):
        assert list(map(np.ndarray.tobytes, ours)) == list(map(np.ndarray.tobytes, wanted))


@pytest.mark.parametrize(("filtered", "fits"), [(False, 6), (True, 4)])
def test_too_large_a_batch_is_told_what_would_fit(filtered, fits, data, tmp_path, standin, monkeypatch):
    """Beside what a convolution has for itself: the room for minimal filtering where it is used."""
    monkeypatch.setattr(cuda_machine.machine, "memory", 900_000)
    monkeypatch.setattr(implicit_gemm, "SCRATCH_BYTES", 2**17)
    monkeypatch.setattr(winograd, "SCRATCH_BYTES", 2**17)
    monkeypatch.setattr(winograd, "pays", lambda w, *shapes: filtered and w[-1] in (3, 5))
    line = refused("train", data, tmp_path / "run", *SMALL, "--epochs", 1, "--devices", "cuda:0")
    assert "cuda:0: Out of memory allocating" in line
    assert "of 0.00 GB are free" in line
    assert f"in place of 8, a batch of {fits} images would fit" in line


def test_bench_shows_what_each_kernel_achieves(standin, monkeypatch):
    """On the stand-in the times mean nothing; the launches and bytes are counted all the same."""
    for name, small in (("COPY", 2**16), ("SIDE", 64), ("REPEATS", 2)):
        monkeypatch.setattr(bench_cuda, name, small)
    options = "--batch", 2, "--rounds", 1, "--devices", "cuda:0,cuda:1", "--width", 0.1
    monkeypatch.setattr(bench, "ROUND", 0)
    found = json.loads(done("bench", "--layer", "conv3", *options, "--json"))["gpu"]
    assert len(found["step_ms"]) == 2
    rows = {(row["place"], row["kernel"]): row for row in found["launches"]}
    [conv3] = (place for place in make("paper", width=0.1).plan(2) if place.layer.name == "conv3")
    flop = 2 * 2 * conv3.layer.multiply_adds(conv3.x) // 2  # a multiply-add is two; two images, two ranks
    assert rows["conv3 forward", "conv_forward"]["flop"] == flop
    assert sum(row["flop"] for row in rows.values()) == 3 * flop
    for one in traffic.of_layer(conv3, 2):
        assert rows[f"conv3 {one.direction}", one.kernel]["bytes"] == one.bytes
    total = sum(row["ms"] for row in rows.values())  # the row "other" among them
    assert total == pytest.approx(np.median(found["step_ms"]))
    printed = done("bench", "--layer", "pool5", *options)
    assert "max_pool_backward" in printed
    assert "the card copies" in printed
    assert "GB in the pool" in printed
    assert "page faults" not in printed


def test_bench_beside_pytorch_needs_pytorchs_own_gpu(standin):
    torch = pytest.importorskip("torch", reason="PyTorch (the oracle extra) is not installed")
    options = "bench", "--layer", "pool5", "--batch", 2, "--rounds", 1, "--devices", "cuda:0", "--vs", "torch"
    if torch.cuda.is_available():
        assert "times as fast" in done(*options)
    else:
        assert "as installed, finds no GPU" in refused(*options)
