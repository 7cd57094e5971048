"""Ranks that are MPI processes: the threads' bits and ledger, and no rank left waiting."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from tinyalex.comm import launch
from tinyalex.errors import DeviceError

RANKS = Path(__file__).with_name("mpi_ranks.py")
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
ENVIRONMENT = os.environ | {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # Open MPI asks; MPICH does not
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # more ranks than cores: Open MPI 5
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
}

MISSING = None if find_spec("mpi4py") else "mpi4py is not installed"
MISSING = MISSING or (None if MPIEXEC else "mpiexec is not installed")
needs_mpi = pytest.mark.skipif(bool(MISSING), reason=MISSING or "")


STARTED = []


@pytest.fixture(autouse=True)
def _none_is_left():
    """Where a test fails its ranks would wait, and compute, for ever."""
    yield
    while STARTED:
        job = STARTED.pop()
        job.terminate()
        job.communicate()


def start(size, program, **environment):
    """Start the ranks; size=0: one process without mpiexec."""
    command = [MPIEXEC, "-n", str(size)] if size else []
    job = subprocess.Popen(
        [*command, sys.executable, str(RANKS), program],
        env=ENVIRONMENT | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    STARTED.append(job)
    return job


def finish(job, seconds):
    """Wait for the job; return its exit code, output, and errors."""
    try:
        output, errors = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        job.terminate()
        pytest.fail(f"still running after {seconds} s; then: {job.communicate()}")
    return job.returncode, output, errors


@needs_mpi
@pytest.mark.parametrize("program", ["check", "train"])
@pytest.mark.parametrize("size", [2, 3])
def test_processes_give_the_bits_and_ledger_of_threads(size, program):
    code, output, errors = finish(start(size, program), seconds=60)
    assert code == 0, errors
    assert output.count("finished") == size


@needs_mpi
def test_alexnets_towers_on_two_processes_are_one_network():
    code, output, errors = finish(start(2, "towers"), seconds=60)
    assert code == 0, errors
    assert output.count("finished") == 2


@needs_mpi
def test_four_processes_in_each_layout_are_one_rank():
    code, output, errors = finish(start(4, "layouts"), seconds=100)
    assert code == 0, errors
    assert output.count("finished") == 4


def waiting(job, ranks=3):
    """Wait for ranks that wait for each other; return their processes' numbers by rank."""
    text = ""  # MPI's own words may be among it
    while len(process := dict(re.findall(r"ready (\d) (\d+);", text))) < ranks:
        line = job.stdout.readline()
        assert line, job.stderr.read()
        text += line
    return process


@needs_mpi
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux's")
def test_a_killed_rank_leaves_no_shared_memory():
    job = start(3, "wait")
    killed = int(waiting(job)["1"])
    mapped = re.findall(r"/dev/shm/\S+", Path(f"/proc/{killed}/maps").read_text())
    os.kill(killed, signal.SIGKILL)
    begun = time.monotonic()
    assert finish(job, seconds=30)[0] != 0
    assert time.monotonic() - begun < 5
    assert not [name for name in mapped if Path(name).exists()]


@needs_mpi
def test_a_rank_that_is_not_heard_of_is_named():
    """A process that stands still is to the others as a machine that has gone away."""
    job = start(3, "wait")
    process = waiting(job)
    lost = int(process["1"])
    os.kill(lost, signal.SIGSTOP)
    begun = time.monotonic()
    try:
        errors = [job.stderr.readline() for _ in range(2)]
        assert time.monotonic() - begun < 10
    finally:
        os.kill(lost, signal.SIGKILL)
    for rank in (0, 2):
        assert f"rank {rank} of 3: DeviceError: rank 1 on " in "".join(errors)
    assert all("has not been heard of for 6 seconds" in line for line in errors)
    assert finish(job, seconds=10)[0] != 0


@needs_mpi
def test_no_rank_leaves_before_all_have_come_to_their_end():
    """Their last words are on their way till then, and would be written where no memory waits for them."""
    code, output, errors = finish(start(3, "late"), seconds=30)
    assert code == 0, errors
    ended, left = (re.findall(rf"{word} ([\d.]+)", output) for word in ("ended", "left"))
    assert len(ended) == len(left) == 3
    assert min(map(float, left)) >= max(map(float, ended))


@needs_mpi
def test_a_rank_that_speaks_is_not_lost_and_one_that_never_did_is():
    code, output, errors = finish(start(0, "watches"), seconds=30)
    assert code == 0, errors
    assert output == "finished\n"


@needs_mpi
def test_an_error_on_one_rank_ends_the_job():
    begun = time.monotonic()
    code, output, errors = finish(start(2, "fail"), seconds=30)
    assert time.monotonic() - begun < 5
    assert code != 0
    assert "finished" not in output
    assert "Traceback" in errors
    assert "rank 1 of 2: ValueError: this rank has failed" in errors


@needs_mpi
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_job(name):
    job = start(2, "wait")
    waiting(job, 2)
    job.send_signal(getattr(signal, name))
    code, output, _ = finish(job, seconds=5)
    assert code != 0
    assert "finished" not in output


@needs_mpi
def test_without_mpiexec_there_is_one_rank():
    code, output, errors = finish(start(0, "size"), seconds=30)
    assert code == 0, errors
    assert output.splitlines() == ["1 ranks, Device('cpu:0')", "finished"]
    code, _, errors = finish(start(0, "fail"), seconds=30)
    assert code == 1
    assert errors.splitlines()[-1] == "ValueError: this rank has failed"  # Python's own


@needs_mpi
@pytest.mark.parametrize(
    "name",
    [
        "OMPI_COMM_WORLD_SIZE",
        pytest.param("PMI_SIZE", marks=pytest.mark.slow),
        pytest.param("SLURM_STEP_NUM_TASKS", marks=pytest.mark.slow),
    ],
)
def test_another_mpis_mpiexec_is_an_error(name):
    """Else each of its processes would do the whole work, and write over the others' files."""
    code, _, errors = finish(start(0, "size", **{name: "2"}), seconds=30)
    assert code != 0
    assert "DeviceError: mpiexec started 2 processes, but each finds itself alone" in errors


@needs_mpi
def test_more_processes_than_gpus_share_them():
    code, output, errors = finish(start(3, "cards"), seconds=30)
    assert code == 0, errors
    assert output.count("finished") == 3


@needs_mpi
def test_a_gpu_that_is_not_there_ends_the_job():
    code, _, errors = finish(start(2, "cuda", CUDA_VISIBLE_DEVICES=""), seconds=30)
    assert code != 0
    assert "Traceback" not in errors
    assert "of 2: DeviceError: device cuda:" in errors


def test_errors_before_mpi_starts(monkeypatch):
    with pytest.raises(DeviceError, match="devices 'mpi:gpu': expected 'mpi' or 'mpi:cuda'"):
        launch(print, "mpi:gpu")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(DeviceError, match=r"MPI cannot be loaded .* pip install 'tinyalex\[mpi\]'"):
        launch(print, "mpi")
