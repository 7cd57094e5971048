"""The README's statement: same seed, devices and NumPy, same bits; other numbers of devices, a tolerance."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tinyalex.runs import checkpoint, run

STEPS = 12
ACROSS = 1e-5  # of an array's largest value, after STEPS steps: between one device and two


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise in two class folders, prepared."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for k in range(4 * STEPS):
        folder = root / "src" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (72, 72, 3), dtype=np.uint8) // (1 + k % 2)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    tinyalex("prepare", "imagenet", root / "src", root / "data", "--size", 72, "--workers", 1)
    return root / "data"


def tinyalex(*args, hash_seed=0):
    """Run a command in a process of its own, whose sets and dictionaries are in an order of their own."""
    environment = os.environ | {"PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-m", "tinyalex", *map(str, args)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)


def trained(data, out, devices, seed=0, **options):
    """The last checkpoint of a run: the bytes of the file, and its arrays."""
    small = "--width", 0.02, "--size", 67, "--batch", 4, "--epochs", 1, "--recipe", "code2012", "--bias", 0.1
    tinyalex("train", data, out, *small, "--seed", seed, "--devices", devices, **options)
    path = run.checkpoints(out)[-1]
    arrays, metadata = checkpoint.load(path)
    assert metadata["step"] == STEPS
    return path.read_bytes(), arrays


def test_same_seed_and_devices_same_bits_and_across_devices_a_tolerance(data, tmp_path):
    one, arrays = trained(data, tmp_path / "one", "cpu:0", hash_seed=1)
    again, _ = trained(data, tmp_path / "again", "cpu:0", hash_seed=2)
    assert one == again  # every byte of the file: weights, velocities, generator, settings

    two, shared = trained(data, tmp_path / "two", "cpu:0,cpu:1", hash_seed=3)
    assert two == trained(data, tmp_path / "two again", "cpu:0,cpu:1", hash_seed=4)[0]
    for name, array in arrays.items():
        np.testing.assert_allclose(
            shared[name], array, rtol=0, atol=ACROSS * np.abs(array).max(), err_msg=name
        )

    _, other = trained(data, tmp_path / "other", "cpu:0", seed=1)
    assert not np.allclose(other["conv1.w"], arrays["conv1.w"])
