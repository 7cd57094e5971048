"""`tinyalex ablate` is killed five times, at random moments: its table is that of a run that nothing killed.

    python measured/ablate_kill.py [SEED]

Three rows, two seeds, one epoch of 1,280 of the shapes, on one core; compared are table.csv, table.json,
ablation.png and every run's probabilities, bit for bit.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tinyalex.measure.ablate import WHOLE, Plan

PLAN = Plan("shapes", (WHOLE, "no-lrn", "half"), 2, 1_280, 1)


def command(out):
    """Start `tinyalex ablate` in a folder that holds the plan."""
    out.mkdir(exist_ok=True)
    if not (out / "plan.json").exists():
        (out / "plan.json").write_text(json.dumps(PLAN._asdict()))
    words = [sys.executable, "-m", "tinyalex", "ablate", "--out", str(out), "--devices", "cpu:0"]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def results(out):
    """The bytes of all that a run leaves."""
    kept = [*(out / "runs").iterdir(), *(out / name for name in ("table.csv", "table.json", "ablation.png"))]
    return {path.name: path.read_bytes() for path in kept}


def main(seed=0):
    """Run once to the end, once with five kills, compare."""
    drawn = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        start = time.monotonic()
        assert command(one).wait() == 0
        a_run = (time.monotonic() - start) / len(PLAN.runs)
        for kill, (row, seed) in enumerate(PLAN.runs[:5]):
            work, moment = command(two), a_run * drawn.random()
            begun = two / "runs" / f"{row}-{seed}" / "run.json"
            while not (begun.exists() or begun.parent.with_suffix(".npy").exists()):
                time.sleep(0.01)
            time.sleep(moment)
            ended = work.poll() is not None
            work.send_signal(signal.SIGKILL)
            work.wait()
            done = sorted(path.name for path in (two / "runs").glob("*")) if (two / "runs").exists() else []
            late = " (too late)" if ended else ""
            when = f"kill {kill + 1}, {moment:.1f} s after {row}-{seed} began{late}"
            print(f"{when}: {', '.join(done)}", flush=True)
        assert command(two).wait() == 0
        same = results(one) == results(two)
        print(f"{len(results(one))} files, " + ("no bit differs" if same else "they differ"))
        return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
