"""Whatever happens to a process, its files, its disk or its clock: no work is lost, and nothing hangs.

`pytest -m faults` tries everything many times and prints a table; the ordinary run tries each fault once.
Runs are processes, `tinyalex …` as a user starts them, and "survived" means that the work, gone on with,
ended with the very bits of a process that nothing happened to.
"""

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_mpi import ENVIRONMENT, MPIEXEC, needs_mpi

from tinyalex.comm import launch
from tinyalex.devices import parse
from tinyalex.errors import DataError
from tinyalex.models import AlexNet, alexnet
from tinyalex.optim import SGD
from tinyalex.runs import checkpoint, run
from tinyalex.train import train_step

pytestmark = pytest.mark.faults
needs_onnx = pytest.mark.skipif(not find_spec("onnx"), reason="onnx is not installed")
FAKETIMES = (path for at in ("", "*/") for path in Path("/usr/lib").glob(f"{at}faketime/libfaketime.so.1"))
FAKETIME = next(FAKETIMES, None)
OPTIONS = ["--width=0.02", "--size=67", "--batch=4", "--epochs=3", "--save-every=5", "--seed=3"]
COLOURS = {"blue": (0, 0, 90), "green": (0, 90, 0), "grey": (30, 30, 30), "red": (90, 0, 0)}


def seeds(few, many):
    """Seeds of a fault's moments: a few, and more for `pytest -m faults`."""
    return [*range(few), *(pytest.param(k, marks=pytest.mark.slow) for k in range(few, many))]


# ---- processes -----------------------------------------------------------------------------------------


def tinyalex(*args, launcher=(), **environment):
    """Start a command."""
    return subprocess.Popen(
        [*launcher, sys.executable, "-m", "tinyalex", *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT | environment,
    )  # fmt: skip


def finished(process, code=0):
    """What a command printed, which must end with this code and without a traceback."""
    printed, _ = process.communicate(timeout=180)
    assert process.returncode == code, printed
    assert "Traceback" not in printed, printed
    return " ".join(printed.split())


def train(data, out, *more, **options):
    return tinyalex("train", data, out, *OPTIONS, "--devices", "cpu:0", *more, **options)


def resume(out, *more, **options):
    return tinyalex("resume", out, *(more or ("--devices", "cpu:0")), **options)


def until(process, ready):
    """Wait until ready() holds, or the process has ended."""
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.002)


def newer(out, than):
    return lambda: [p.name for p in run.checkpoints(out)][-1:] > than


def last(out):
    return [p.name for p in run.checkpoints(out)][-1:]


def assert_same(out, other):
    """The last checkpoints and the records of two runs are the same bits."""
    (x, x_data), (y, y_data) = (checkpoint.load(run.checkpoints(folder)[-1]) for folder in (out, other))
    assert x_data == y_data
    assert x.keys() == y.keys()
    assert all(x[name].tobytes() == y[name].tobytes() for name in x)
    assert (out / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert not list(out.glob("*.part"))


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Pictures, what prepare makes of them, and a run that nothing happened to."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 3)):
        for name, colour in COLOURS.items():
            (root / "src" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 160, (72, 72, 3)) + np.array(colour)
                Image.fromarray(pixels.astype(np.uint8)).save(root / "src" / split / name / f"{i}.png")
    finished(tinyalex("prepare", "imagenet", root / "src", root / "data", "--size", 72, "--workers", 1))
    finished(train(root / "data", root / "whole"))
    return root


# ---- killed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(1, 12))
def test_killed_in_training(seed, world, tmp_path, fault):
    rng, out, kills = random.Random(seed), tmp_path / "run", 3
    with fault("kill -9 in training", kills):
        process = train(world / "data", out)
        for _ in range(kills):
            before = last(out)
            until(process, newer(out, before) if rng.random() < 0.8 else (out / "run.json").exists)
            time.sleep(rng.uniform(0, 0.05))
            process.kill()
            process.communicate()
            if not (out / "run.json").exists():
                process = train(world / "data", out)
                continue
            process = resume(out)
        finished(process)
        assert_same(out, world / "whole")


@pytest.mark.parametrize("seed", seeds(1, 12))
def test_killed_in_preparing(seed, world, tmp_path, fault):
    rng, dst = random.Random(seed), tmp_path / "data"
    command = "prepare", "imagenet", world / "src", dst, "--size", 72, "--workers", 2
    with fault("kill -9 in preparing", 2):
        for _ in range(2):
            process = tinyalex(*command)
            until(process, (dst / "plan.json").exists)
            time.sleep(rng.uniform(0, 1.5))
            process.kill()
            process.communicate()
        finished(tinyalex(*command))
        assert contents(dst) == contents(world / "data")


WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
from tinyalex import files
from tinyalex.runs import checkpoint
from tinyalex.cli import exchange
kind, folder = sys.argv[1], Path(sys.argv[2])
for k in itertools.count():
    if kind == "export":
        exchange.export(folder / f"{k % 2}.safetensors", folder / "out")
    elif kind == "checkpoint":
        checkpoint.save(folder / "out", {"w": np.full(300_000, k % 2)}, {})
    else:
        files.write_array(folder / "out", np.full(300_000, k % 2))
    print(k, flush=True)
"""


@pytest.mark.parametrize("seed", seeds(1, 20))
@pytest.mark.parametrize("kind", [pytest.param("export", marks=needs_onnx), "checkpoint", "array"])
def test_killed_in_writing_a_file(kind, seed, world, tmp_path, fault):
    """A process writes one of two contents into the same file, again and again."""
    rng = random.Random(seed)
    source, metadata = checkpoint.load(run.checkpoints(world / "whole")[-1])
    for k in (0, 1):
        arrays = source | {"fc8.b": source["fc8.b"] + k}
        checkpoint.save(tmp_path / f"{k}.safetensors", arrays, metadata)
    command = [sys.executable, "-c", WRITER, kind, tmp_path]
    with fault(f"kill -9 in writing: {kind}"):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        whole = set()
        while len(whole) < 2:  # both contents, as a writer that is not killed leaves them
            assert process.stdout.readline()
            with contextlib.suppress(FileNotFoundError):
                whole.add((tmp_path / "out").read_bytes())
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        assert (tmp_path / "out").read_bytes() in whole


@pytest.mark.parametrize("seed", seeds(1, 12))
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_in_a_step(number, seed, world, tmp_path, fault):
    """The step is finished, a checkpoint written, the exit code 130."""
    rng, out = random.Random(seed), tmp_path / "run"
    with fault(f"{number.name} in a step"):
        process = train(world / "data", out)
        until(process, lambda: run.checkpoints(out))
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(number)
        assert f"go on with: tinyalex resume {out}" in finished(process, 130)
        finished(resume(out))
        assert_same(out, world / "whole")


# ---- the disk ------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A function that mounts a small disk of so many bytes, and one that changes it."""
    mounted = tmp_path / "disk"
    mounted.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tinyalex-test", mounted]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"a small disk needs the right to mount one: {made.stderr.strip()}")
        return mounted

    if not shutil.which("mount"):
        pytest.skip("a small disk needs the command mount")
    yield mount
    subprocess.run(["umount", "-l", mounted], capture_output=True)


def fill(folder, room):
    """Leave only so many bytes of a disk free."""
    free = shutil.disk_usage(folder).free
    (folder / "other-things").write_bytes(bytes(max(0, free - room)))


@pytest.mark.parametrize("seed", seeds(1, 6))
def test_the_disk_is_full_in_training(seed, world, disk, fault):
    size = run.checkpoints(world / "whole")[-1].stat().st_size
    rng, out = random.Random(seed), disk("size=4m") / "run"
    with fault("disk full in training"):
        process = train(world / "data", out)
        until(process, lambda: run.checkpoints(out))
        fill(out.parent, rng.randrange(size))
        printed = finished(process, 1)
        assert "No space left on device" in printed
        for path in run.checkpoints(out):
            checkpoint.load(path)
        assert not list(out.glob("*.part"))
        (out.parent / "other-things").unlink()
        finished(resume(out))
        assert_same(out, world / "whole")


@pytest.mark.parametrize("room", [0, pytest.param(4096, marks=pytest.mark.slow)])
def test_the_disk_is_full_in_preparing(room, world, disk, fault):
    """Room for the pictures, which is looked for first, and none for the rest."""
    pictures = (48 + 12) * 3 * 72 * 72
    folder = disk(f"size={pictures + 16384 + room}")
    command = "prepare", "imagenet", world / "src", folder / "data", "--size", 72, "--workers", 1
    with fault("disk full in preparing"):
        assert "No space left on device" in finished(tinyalex(*command), 1)
        subprocess.run(["mount", "-o", "remount,size=4m", folder], check=True)
        finished(tinyalex(*command))
        assert contents(folder / "data") == contents(world / "data")


@needs_onnx
def test_the_disk_is_full_in_exporting_importing_and_features(world, disk, fault, tmp_path):
    folder, source = disk("size=1m"), run.checkpoints(world / "whole")[-1]
    finished(tinyalex("export", source, tmp_path / "good.onnx"))
    for name in ("net.onnx", "net.safetensors", "features.npy"):
        (folder / name).write_text("what was there before")
    fill(folder, 100)
    commands = {
        "disk full in exporting": ("export", source, folder / "net.onnx"),
        "disk full in importing": ("import", tmp_path / "good.onnx", folder / "net.safetensors"),
        "disk full in features": ("features", source, world / "data", folder / "features.npy"),
    }
    for name, command in commands.items():
        with fault(name):
            printed = finished(tinyalex(*command), 1)
            assert "not written" in printed
            assert command[-1].name in printed
            assert command[-1].read_text() == "what was there before"
    assert not list(folder.glob("*.part"))


@needs_onnx
def test_a_disk_that_is_read_only(world, disk, fault, tmp_path):
    folder, source = disk("size=4m"), run.checkpoints(world / "whole")[-1]
    shutil.copytree(world / "whole", folder / "run")
    finished(tinyalex("export", source, tmp_path / "good.onnx"))
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    before = contents(folder)
    commands = {
        "train": ("train", world / "data", folder / "new", *OPTIONS),
        "resume": ("resume", folder / "run"),
        "prepare": ("prepare", "imagenet", world / "src", folder / "data"),
        "export": ("export", source, folder / "net.onnx"),
        "import": ("import", tmp_path / "good.onnx", folder / "net.safetensors"),
        "figure": ("figure", "kernels", source, "--out", folder / "kernels.png"),
    }
    for name, command in commands.items():
        with fault(f"read-only disk: {name}"):
            printed = finished(tinyalex(*command), 1)
            assert "error: " in printed
            assert str(folder) in printed
            assert "Read-only file system" in printed
    assert contents(folder) == before


# ---- files that change, and the clock ------------------------------------------------------------------


@pytest.mark.parametrize("seed", seeds(1, 6))
def test_a_shard_shrinks_while_it_is_read(seed, world, tmp_path, fault):
    """An error that names it, not a signal (SIGBUS); with the shard back, the run goes on."""
    rng, out, data = random.Random(seed), tmp_path / "run", tmp_path / "data"
    shutil.copytree(world / "data", data)
    shard = data / "train-000.npy"
    whole = shard.read_bytes()
    with fault("a shard shrinks while it is read"):
        process = train(data, out, "--epochs", 1000)
        until(process, lambda: run.checkpoints(out))
        os.truncate(shard, rng.randrange(len(whole) // 2))
        printed = finished(process, 1)
        assert f"{shard}: expected" in printed
        stopped_at = last(out)
        shard.write_bytes(whole)
        process = resume(out)
        until(process, newer(out, stopped_at))
        process.send_signal(signal.SIGINT)
        finished(process, 130)


@pytest.mark.parametrize("seed", seeds(1, 6))
def test_a_checkpoint_shrinks_while_it_is_read(seed, tmp_path, fault):
    """In a process of its own, which reads again and again while this one cuts."""
    rng, path = random.Random(seed), tmp_path / "a.safetensors"
    code = (
        "import sys\n"
        "from tinyalex.runs import checkpoint\n"
        "from tinyalex.errors import DataError\n"
        "print('ready', flush=True)\n"
        "for _ in range(60):\n"
        "    try:\n"
        "        checkpoint.load(sys.argv[1])\n"
        "    except DataError:\n"
        "        pass\n"
    )
    checkpoint.save(path, {"w": np.zeros(2_000_000, np.float32)}, {})
    whole = path.read_bytes()
    with fault("a checkpoint shrinks while it is read"):
        process = subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE)
        with process.stdout:
            process.stdout.readline()
        while process.poll() is None:
            os.truncate(path, rng.randrange(len(whole)))
            time.sleep(0.001)
            path.write_bytes(whole)
            time.sleep(0.005)
        assert process.returncode == 0


def test_the_clock_was_wrong_when_the_checkpoints_were_written(world, tmp_path, fault):
    """The newest is the one of the highest step, whatever the files' times say."""
    out = tmp_path / "run"
    with fault("clock jumps: times of files"):
        process = train(world / "data", out)
        until(process, lambda: len(run.checkpoints(out)) >= 2)
        process.send_signal(signal.SIGINT)
        finished(process, 130)
        for k, path in enumerate(run.checkpoints(out)):
            os.utime(path, (2_000_000_000 - 10_000_000 * k,) * 2)
        finished(resume(out))
        assert_same(out, world / "whole")


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("seed", seeds(1, 6))
def test_the_clock_jumps(seed, world, tmp_path, fault):
    """Years forwards and back, again and again, while the run goes on."""
    rng, out, clock = random.Random(seed), tmp_path / "run", tmp_path / "clock"
    clock.write_text("+0")
    settings = {
        "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }  # fmt: skip
    with fault("clock jumps in training"):
        process = train(world / "data", out, **settings)
        while process.poll() is None:
            clock.write_text(f"{rng.choice('+-')}{rng.randrange(4000)}d")
            time.sleep(0.01)
        finished(process)
        assert_same(out, world / "whole")


# ---- two of them ---------------------------------------------------------------------------------------


def test_two_runs_in_one_folder(world, tmp_path, fault):
    """The second is refused while the first lives, and not a moment longer, however it died."""
    out = tmp_path / "run"
    with fault("two runs in one folder", 3):
        process = train(world / "data", out, "--epochs", 100_000)
        until(process, lambda: run.checkpoints(out))
        assert f"{out}: another process is training in this folder" in finished(resume(out), 1)
        assert f"{out}: expected a new or empty folder" in finished(train(world / "data", out), 1)
        process.kill()
        process.communicate()
        process, before = resume(out), last(out)
        until(process, newer(out, before))
        process.send_signal(signal.SIGINT)
        finished(process, 130)


@pytest.mark.parametrize("seed", seeds(1, 6))
def test_two_runs_begin_at_once(seed, world, tmp_path, fault):
    """One of them trains, with its own settings; the other is refused."""
    out = tmp_path / "run"
    with fault("two runs begin at once"):
        both = [train(world / "data", out, "--epochs", 1 + k) for k in (0, 1)]
        printed = [process.communicate(timeout=180)[0] for process in both]
        assert sorted(process.returncode for process in both) == [0, 1], printed
        winner = [process.returncode for process in both].index(0)
        assert run.settings_of(out).recipe.epochs == 1 + winner
        assert checkpoint.metadata(run.checkpoints(out)[-1])["epoch"] == 1 + winner


# ---- a rank that dies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [MemoryError("no memory left on this rank"), OSError(errno.EIO, "I/O error")]
)
@pytest.mark.parametrize("moment", ["fc7 forward", "gather7 forward", "conv3 backward"])
def test_a_rank_that_raises_stops_the_others(moment, error, fault):
    """In the middle of a step, at a layer of its own or where the ranks meet."""
    network = alexnet(AlexNet(filters=(8, 8, 8, 8, 8), hidden=16, classes=4, size=67))

    def rank(comm):
        net = network.build(comm, np.random.default_rng(0))
        optimizer = SGD(net, 0.01)
        x, labels = np.ones((3, 67, 67, 4), np.float32), np.arange(4)
        train_step(net, optimizer, x, labels)
        name, way = moment.split()

        def die(*args):
            raise error

        if comm.rank == 1:
            setattr(net.layers[name], way, die)
        while True:
            train_step(net, optimizer, x, labels)

    with fault("a rank (thread) dies"):
        threads, start = threading.active_count(), time.monotonic()
        with pytest.raises(type(error)) as caught:
            launch(rank, parse("cpu:0,cpu:1"))
        assert caught.value is error
        assert time.monotonic() - start < 5
        assert threading.active_count() == threads


def rank_process(out, rank):
    """The process of an MPI rank that trains in this folder; None if there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
            ranks = {b"PMI_RANK=%d" % rank, b"OMPI_COMM_WORLD_RANK=%d" % rank}
            if os.fsencode(out) in arguments and ranks & set(environment):
                return int(folder.name)
    return None


@needs_mpi
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.slow)])
def test_an_mpi_rank_is_killed(number, rank, world, tmp_path, fault):
    """The job ends within 5 seconds; what was saved goes on, on threads as well."""
    out, launcher = tmp_path / "run", (MPIEXEC, "-n", "2")
    with fault("an MPI rank is killed"):
        command = "train", world / "data", out, *OPTIONS, "--devices", "mpi"
        job = tinyalex(*command, launcher=launcher)
        until(job, lambda: run.checkpoints(out))
        os.kill(rank_process(out, rank), number)
        start = time.monotonic()
        printed, _ = job.communicate(timeout=60)
        assert time.monotonic() - start < 5
        assert job.returncode != 0
        assert "devices:" not in printed  # which each process would say
        finished(resume(out, "--devices", "cpu:0,cpu:1"))
        with pytest.raises(DataError):
            run.begin(out, run.settings_of(out))
        whole, other = (checkpoint.load(run.checkpoints(folder)[-1])[0] for folder in (world / "whole", out))
        for name, array in whole.items():  # one device and two: the same but for rounding
            np.testing.assert_allclose(other[name], array, rtol=0, atol=1e-4 * np.abs(array).max())
