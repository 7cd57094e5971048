"""Does mpiexec's exit code say that a rank was killed?

    python measured/killed_rank.py [--tries 40] [--all]

Starts three ranks with the mpiexec beside this Python, or the system's, and kills rank 1 with signal 9.
--all: all three, while the parent that mpiexec gave them stands still, so that it finds them dead at once.
Prints how often mpiexec ended with which exit code.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

RANK = """
import os, signal
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
os.write(1, f"ready {MPI.COMM_WORLD.Get_rank()} {os.getpid()};\\n".encode())
signal.pause()
"""
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")


def code_of_mpiexec(all_at_once):
    command = [MPIEXEC, "-n", "3", sys.executable, "-c", RANK]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    text = ""
    while len(process := dict(re.findall(r"ready (\d) (\d+);", text))) < 3:
        text += job.stdout.readline()
    ranks = {int(rank): int(number) for rank, number in process.items()}
    if all_at_once:
        parent = int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{ranks[1]}/status").read_text())[1])
        os.kill(parent, signal.SIGSTOP)
        for number in ranks.values():
            os.kill(number, signal.SIGKILL)
        time.sleep(0.1)
        os.kill(parent, signal.SIGCONT)
    else:
        os.kill(ranks[1], signal.SIGKILL)
    job.communicate(timeout=30)
    return job.returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--all", action="store_true")
    args = parser.parse_args()
    codes = Counter(code_of_mpiexec(args.all) for _ in range(args.tries))
    version = subprocess.run([MPIEXEC, "--version"], capture_output=True, text=True).stdout
    print(re.search(r"Version:\s+(\S+)|(Open MPI\S* \S+)|$", version)[0])
    for code, count in codes.most_common():
        print(f"exit code {code}: {count} of {args.tries}")
