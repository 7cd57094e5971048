"""Checkpoints: what was saved comes back bit for bit, whole or not at all, and into the same model only."""

import errno
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from tinyalex.comm import launch
from tinyalex.devices import parse
from tinyalex.errors import DataError
from tinyalex.files import write_array, write_text
from tinyalex.models import figure1
from tinyalex.nn import BatchNorm, Linear, Sequential
from tinyalex.optim import SGD
from tinyalex.runs.checkpoint import load, restore, save, state
from tinyalex.train import train_step

RNG = np.random.default_rng(0)
BASE = RNG.standard_normal((6, 5, 4))
ARRAYS = {
    "float32": BASE.astype(np.float32),
    "float64": BASE,
    "special": np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324, np.finfo(np.float64).max]),
    "int64": np.arange(-3, 3),
    "uint8": np.arange(256, dtype=np.uint8),
    "bool": BASE > 0,
    "no numbers": np.zeros((0, 3), np.float32),
    "one number": np.array(1.5),
    "ärger/名": BASE[0, 0],
}
METADATA = {"curve": {"errors": [0.1 + 0.2, 1e-300], "neuron": "relu"}, "none": None, "text": "ä\n\"'"}


def same_bits(found, expected):
    return found.keys() == expected.keys() and all(
        (found[name].shape, found[name].dtype) == (a.shape, a.dtype) and found[name].tobytes() == a.tobytes()
        for name, a in expected.items()
    )


# ---- there and back ------------------------------------------------------------------------------------


def test_round_trip_is_exact(tmp_path):
    path = tmp_path / "run" / "new" / "a.safetensors"  # folders are made
    save(path, ARRAYS, METADATA)
    arrays, metadata = load(str(path))
    assert same_bits(arrays, ARRAYS)
    assert metadata == METADATA
    assert os.listdir(path.parent) == ["a.safetensors"]
    arrays["float64"][...] = 0  # the caller's own
    assert same_bits(load(path)[0], ARRAYS)


@pytest.mark.parametrize(
    "view",
    [lambda a: a.T, np.asfortranarray, lambda a: a[::2], lambda a: a[:, 1:3], lambda a: a[..., :3]],
    ids=["transposed", "fortran", "every_second", "rows", "columns"],
)
def test_views_in_any_order_are_saved_as_they_read(tmp_path, view):
    save(tmp_path / "a.safetensors", {"w": view(BASE)}, {})
    assert same_bits(load(tmp_path / "a.safetensors")[0], {"w": view(BASE)})


def test_a_new_checkpoint_replaces_the_old(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, ARRAYS, {"epoch": 1})
    save(path, {"w": BASE}, {"epoch": 2})
    arrays, metadata = load(path)
    assert same_bits(arrays, {"w": BASE})
    assert metadata == {"epoch": 2}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_any_safetensors_reader_can_open_it(tmp_path):
    save(tmp_path / "a.safetensors", ARRAYS, METADATA)
    assert same_bits(safetensors.numpy.load_file(tmp_path / "a.safetensors"), ARRAYS)


# ---- whole or not at all -------------------------------------------------------------------------------


def fail(error):
    def function(*arguments):
        raise error

    return function


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch, call):
    path = tmp_path / "a.safetensors"
    save(path, ARRAYS, {"epoch": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(
            OSError, match="No space left on device; the checkpoint was not written"
        ) as caught:
            save(path, {"w": BASE}, {"epoch": 2})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert load(path)[1] == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.safetensors"]
    save(path, {"w": BASE}, {"epoch": 2})
    assert load(path)[1] == {"epoch": 2}


def test_a_write_that_the_system_cuts_short_leaves_the_old_one(tmp_path):
    """The real thing: a process whose files may not grow beyond 4,000 bytes writes 80,000."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.safetensors"
    save(path, {"w": BASE}, {"epoch": 1})
    code = (
        "import resource, sys, numpy\n"
        "from tinyalex.runs.checkpoint import save\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (4000, {resource.getrlimit(resource.RLIMIT_FSIZE)[1]}))\n"
        "try:\n"
        "    save(sys.argv[1], {'w': numpy.ones(10_000)}, {'epoch': 2})\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "the checkpoint was not written" in run.stdout
    assert str(path) in run.stdout
    assert load(path)[1] == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize(
    ("arrays", "metadata", "error"),
    [({"w": BASE}, {"rng": object()}, TypeError), ({"w": BASE.astype("datetime64[s]")}, {}, Exception)],
    ids=["metadata", "dtype"],
)
def test_what_cannot_be_saved_leaves_the_old_one(tmp_path, arrays, metadata, error):
    path = tmp_path / "a.safetensors"
    save(path, {"w": BASE}, {"epoch": 1})
    with pytest.raises(error):
        save(path, arrays, metadata)
    assert load(path)[1] == {"epoch": 1}
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_an_interrupt_while_writing_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save(path, {"w": BASE}, {"epoch": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            save(path, {"w": BASE}, {"epoch": 2})
    assert load(path)[1] == {"epoch": 1}
    save(path, {"w": BASE}, {"epoch": 3})  # whatever was left beside it is in nobody's way
    assert load(path)[1] == {"epoch": 3}
    assert os.listdir(tmp_path) == ["a.safetensors"]


# ---- what is no checkpoint -----------------------------------------------------------------------------


def assert_refused(path, *words):
    with pytest.raises(DataError) as caught:
        load(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    assert_refused(tmp_path / "none.safetensors", "expected a checkpoint", "found no such file")
    assert_refused(tmp_path, "expected a run folder with checkpoints, found none")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    path = tmp_path / "a.safetensors"
    save(path, ARRAYS, METADATA)
    whole = path.read_bytes()
    for size in [0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 8, len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert_refused(path, "not a whole safetensors file", f"{size:,} bytes")
    path.write_bytes(whole + b"\0" * 8)
    assert_refused(path, "not a whole safetensors file")
    onnx = path.with_suffix(".onnx")
    path.replace(onnx)
    assert_refused(onnx, "not a whole safetensors file", "comes in by `tinyalex import`")


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n" + bytes(1000),
        b"\x80\x05K\x01.",
        b"PK\x03\x04" + bytes(100),
        b"{}",
        RNG.bytes(5000),
    ],
    ids=["png", "pickle", "zip", "json", "noise"],
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert_refused(path, "not a whole safetensors file", f"{len(content):,} bytes")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_others_are_refused(tmp_path, metadata):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": BASE}, metadata))
    assert_refused(path, "without tinyalex's metadata", "by `tinyalex import`")


def test_metadata_that_is_damaged_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors.numpy.save({"w": BASE}, {"tinyalex": '{"epoch": '}))
    assert_refused(path)


# ---- into a model --------------------------------------------------------------------------------------


def model(outputs=3, dtype=np.float32, layers=("fc1", "fc2"), comm=None):
    layers = [Linear(outputs, std=1, name=name) for name in layers]
    net = Sequential(layers, (4,), comm, np.random.default_rng(1), dtype)
    return net, SGD(net, 0.1, momentum=0.9, decay=0.01)


def train(net, optimizer, steps):
    for step in range(steps):
        rng = np.random.default_rng(step)
        for _, layer, key in net.parameters():
            layer.grads[key] = rng.standard_normal(layer.params[key].shape, np.float32)
        optimizer.step()


def test_a_restored_run_goes_on_bit_for_bit(tmp_path):
    path = tmp_path / "a.safetensors"
    net, optimizer = model()
    train(net, optimizer, 3)
    save(path, state(net, optimizer), {})
    train(net, optimizer, 2)
    other, other_optimizer = model()
    for name, layer, key in other.parameters():
        layer.params[key] += 1
        other_optimizer.velocity[name] += 1
    arrays = {name: layer.params[key] for name, layer, key in other.parameters()}
    restore(other, other_optimizer, load(path)[0], path)
    assert all(layer.params[key] is arrays[name] for name, layer, key in other.parameters())  # in place
    train(other, other_optimizer, 2)
    assert same_bits(state(other, other_optimizer), state(net, optimizer))
    assert set(state(net, optimizer)) == {
        *(
            f"{prefix}{layer}.{key}"
            for prefix in ("", "velocity.")
            for layer in ("fc1", "fc2")
            for key in "wb"
        )
    }


def test_statistics_are_kept_without_velocities(tmp_path):
    def trained(steps, restored=None):
        layers = [Linear(6, std=1, name="fc1"), BatchNorm(name="bn"), Linear(3, std=1, name="fc2")]
        net = Sequential(layers, (4,), rng=np.random.default_rng(1))
        optimizer = SGD(net, 0.1, momentum=0.9, decay=0.01)
        if restored:
            restore(net, optimizer, load(restored)[0], restored)
        for step in steps:
            rng = np.random.default_rng(step)
            train_step(net, optimizer, rng.standard_normal((4, 5), np.float32), rng.integers(0, 3, 5))
        return state(net, optimizer)

    first = trained(range(3))
    save(tmp_path / "a.safetensors", first, {})
    assert same_bits(trained(range(3, 5), tmp_path / "a.safetensors"), trained(range(5)))
    assert {name for name in first if "bn" in name} == {
        "bn.w", "bn.b", "bn.mean", "bn.var", "velocity.bn.w", "velocity.bn.b",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"outputs": 5}, ["fc1.b", "(5,)", "(3,)"]),
        ({"dtype": np.float64}, ["fc1.b", "float64", "float32"]),
        ({"layers": ("fc1",)}, ["fc2.b", "this model has no such array", "(3,)"]),
        ({"layers": ("fc1", "fc2", "fc3")}, ["fc3.b", "the checkpoint no such array", "(3,)"]),
    ],
    ids=["shape", "dtype", "fewer layers", "more layers"],
)
def test_another_model_is_refused_and_left_as_it_was(settings, words):
    arrays = state(*model())
    net, optimizer = model(**settings)
    before = {name: a.copy() for name, a in state(net, optimizer).items()}
    with pytest.raises(DataError) as caught:
        restore(net, optimizer, arrays, "old.safetensors")
    for word in ["old.safetensors", *words]:
        assert word in str(caught.value)
    assert same_bits(state(net, optimizer), before)


def test_a_single_wrong_shape_is_named_with_both():
    arrays = state(*model())
    arrays["velocity.fc1.w"] = arrays["velocity.fc1.w"].T
    with pytest.raises(
        DataError,
        match=re.escape("x: velocity.fc1.w: this model has ((3, 4), 'float32'), the checkpoint ((4, 3),"),
    ):
        restore(*model(), arrays, "x")


def test_parameters_alone_for_a_model_that_is_not_trained():
    arrays = state(*model())
    net, _ = model()
    net.layers["fc1"].params["w"] += 1
    restore(net, None, arrays, "x")  # the velocities in the file are passed over
    assert same_bits(state(net, None), {name: a for name, a in arrays.items() if "velocity" not in name})
    with pytest.raises(DataError, match=r"x: fc2\.b: this model has .*the checkpoint no such array"):
        restore(net, None, {name: a for name, a in arrays.items() if name != "fc2.b"}, "x")


def test_a_shared_network_goes_from_two_ranks_to_one_and_three(tmp_path):
    """Each rank has its rows; the file has them all, in the order of one rank."""
    path = tmp_path / "a.safetensors"

    def write(comm):
        net, optimizer = model(outputs=6, comm=comm)
        train(net, optimizer, 1)
        arrays = state(net, optimizer)
        if comm.rank == 0:
            save(path, arrays, {})
        return arrays

    def read(comm):
        net, optimizer = model(outputs=6, comm=comm)
        restore(net, optimizer, load(path)[0], path)
        rows = len(net.layers["fc1"].params["w"])
        return rows, state(net, optimizer)

    saved = launch(write, parse("cpu:0,cpu:1"))[0]
    assert saved["fc1.w"].shape == saved["velocity.fc1.w"].shape == (6, 4)
    for devices, rows in (("cpu:0", 6), ("cpu:0,cpu:1", 3), ("cpu:0,cpu:1,cpu:2", 2)):
        for found_rows, found in launch(read, parse(devices)):
            assert found_rows == rows
            assert same_bits(found, saved)


def test_small_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_text(tmp_path / "a.json", "old")
    write_array(tmp_path / "a.npy", BASE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail(OSError(errno.ENOSPC, "No space left on device")))
        for write, name in ((write_text, "a.json"), (write_array, "a.npy")):
            with pytest.raises(OSError, match="No space left"):
                write(tmp_path / name, "new" if name == "a.json" else -BASE)
    assert (tmp_path / "a.json").read_text() == "old"
    assert same_bits({"": np.load(tmp_path / "a.npy")}, {"": BASE})


def test_a_data_parallel_network_goes_from_two_ranks_to_one_and_three(tmp_path):
    """Every rank holds the whole network, so its checkpoint knows nothing of ranks."""
    path = tmp_path / "a.safetensors"

    def write(comm):
        net = figure1().build(comm, np.random.default_rng(0), parallel="data")
        optimizer = SGD(net, 0.1)
        optimizer.velocity["fc10.w"] += 2
        if comm.rank == 0:
            save(path, state(net, optimizer), {"ranks": comm.size})
        return state(net, optimizer)

    def read(comm):
        net = figure1().build(comm, np.random.default_rng(1), parallel="data")
        optimizer = SGD(net, 0.1)
        arrays, metadata = load(path)
        restore(net, optimizer, arrays, path)
        assert metadata == {"ranks": 2}
        return state(net, optimizer)

    saved = launch(write, parse("cpu:0,cpu:1"))[0]
    for devices in ("cpu:0", "cpu:0,cpu:1,cpu:2"):
        assert all(same_bits(found, saved) for found in launch(read, parse(devices)))
