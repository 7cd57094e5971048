"""Two machines that are network namespaces of this one (Linux, root), with a link whose rate `tc` limits.

    python measured/two_machines.py

Each has a core and an address, and MPI speaks TCP between them.  Steps are compared with their predictions
(`measured/parallel.py`) on links of 1 Gbit/s and 100 Mbit/s, and where something else computes on the second
machine's core; then a training run loses the second machine, whose link is cut, and is resumed.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
ADDRESSES = {"tinyalex-a": "10.77.0.1", "tinyalex-b": "10.77.0.2"}
LAUNCHER = """#!/bin/sh
# As ssh: HOST COMMAND.  Each host is a namespace with a core of its own.
[ "$1" = -x ] && shift
case $1 in 10.77.0.1) name=tinyalex-a core=0;; *) name=tinyalex-b core=1;; esac
shift
exec ip netns exec $name taskset -c $core unshare --uts sh -c "hostname $name; $*"
"""


def ip(words, space=None):
    """Run an ip or tc command, in a namespace; return what it prints."""
    inside = ["ip", "netns", "exec", space] if space else []
    return subprocess.run([*inside, *words.split()], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def machines(folder):
    """Make both; yield the start of a command line that runs a program on each."""
    try:
        for space in ADDRESSES:
            ip(f"ip netns add {space}")
        ip("ip link add ta0 netns tinyalex-a type veth peer name ta0 netns tinyalex-b")
        for space, address in ADDRESSES.items():
            ip("ip link set lo up", space)
            ip(f"ip addr add {address}/24 dev ta0", space)
        connect()
        launcher = folder / "launcher"
        launcher.write_text(LAUNCHER)
        launcher.chmod(0o755)
        mpiexec = ["mpiexec", "-launcher", "ssh", "-launcher-exec", str(launcher), "-localhost", "10.77.0.1"]
        yield ["ip", "netns", "exec", "tinyalex-a", *mpiexec, "-hosts", ",".join(ADDRESSES.values())]
    finally:
        for space in ADDRESSES:
            subprocess.run(["ip", "netns", "del", space], capture_output=True)


def connect():
    """Set the link up, and wait until it is: before, MPI finds no device but the loopback."""
    for space in ADDRESSES:
        ip("ip link set ta0 up", space)
    while any("state UP" not in ip("ip link show ta0", space) for space in ADDRESSES):
        time.sleep(0.1)


def limit(mbit):
    """Limit what either machine sends: what it may send at once is 2 ms of the rate."""
    for space in ADDRESSES:
        ip(f"tc qdisc replace dev ta0 root tbf rate {mbit}mbit burst {mbit // 4}kb latency 100ms", space)


def compare(mpiexec):
    """Print the predictions beside the measurements."""
    command = [sys.executable, str(HERE / "parallel.py"), "--batch", "16", "--layouts", "data,hybrid"]
    command += ["--rounds", "9"]
    subprocess.run([*mpiexec, "-n", "2", *command], check=True)


def pythons():
    """Return the processes of ranks on both machines."""
    found = []
    for space in ADDRESSES:
        for pid in subprocess.run(
            ["ip", "netns", "pids", space], capture_output=True, text=True
        ).stdout.split():
            with contextlib.suppress(OSError):
                found += [pid] * ("python" in Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0])
    return found


def lose(mpiexec, folder):
    """Train, cut the link, see how soon the first machine's rank ends and what it says; resume."""
    from PIL import Image

    from tinyalex.data import imagenet, shapes

    made = shapes.make(400, np.random.default_rng(0))
    for number, label in enumerate(made.labels):
        place = folder / "pictures" / "train" / f"c{label}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(made.images[..., number].transpose(1, 2, 0)).save(place / f"{number}.png")
    imagenet.prepare(folder / "pictures", folder / "data", size=72, workers=1, progress=False)
    run, tinyalex = folder / "run", [sys.executable, "-m", "tinyalex"]
    options = ["--recipe", "small", "--parallel", "data", "--devices", "mpi", "--save-every", "5"]
    options += ["--network", "small", "--size", "64", "--epochs", "3"]
    train = subprocess.Popen(
        [*mpiexec, "-n", "2", *tinyalex, "train", str(folder / "data"), str(run), *options],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    while not list(run.glob("step-*")):
        time.sleep(0.1)
        if train.poll() is not None:
            raise SystemExit(train.stderr.read())
    ip("ip link set ta0 down", "tinyalex-b")
    cut = time.monotonic()
    line = next((line for line in train.stderr if "rank 0 of 2" in line), "rank 0 said nothing\n")
    print(f"{time.monotonic() - cut:.1f} s after the link was cut: {line}", end="", flush=True)
    while pythons() and time.monotonic() - cut < 60:
        time.sleep(0.1)
    print(f"{time.monotonic() - cut:.1f} s after it {len(pythons())} ranks are left")
    train.kill()  # mpiexec may wait for the other machine's part of it
    connect()
    resumed = subprocess.run([*mpiexec, "-n", "2", *tinyalex, "resume", str(run), "--devices", "mpi"])
    print(f"resumed on both: exit code {resumed.returncode}")


if __name__ == "__main__":
    if os.geteuid():
        raise SystemExit("expected root: namespaces and tc want it")
    os.environ |= {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp"}  # MPICH: TCP, not shared memory
    with tempfile.TemporaryDirectory() as name, machines(Path(name)) as mpiexec:
        for mbit in (1000, 100):
            print(f"link {mbit} Mbit/s:", flush=True)
            limit(mbit)
            compare(mpiexec)
        limit(1000)
        print("link 1000 Mbit/s, the second machine's core shared with another program:", flush=True)
        hog = subprocess.Popen(["taskset", "-c", "1", sys.executable, "-c", "while True: pass"])
        try:
            compare(mpiexec)
        finally:
            hog.kill()
        lose(mpiexec, Path(name))
