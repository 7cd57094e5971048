"""Registers, spills and shared memory of every kernel, by nvcc: python measured/gpu_registers.py [--sm 90]

No GPU is needed.  Each source is compiled as for batches whose images fit by fours (LRN: by twos), minimal
filtering for filters of 3x3 and of 5x5, with every warning an error; the numbers are ptxas's.  --sm all:
compile for each card that nvcc knows from sm_75 on, and say only what spills.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from tinyalex.ops.cuda import launch, winograd

FIRST = 75  # the oldest card


def main():
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sm", default="90")
    parser.add_argument("--real", choices=["float", "double"], default="float")
    args = parser.parse_args()
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    cards = sorted({int(sm) for sm in re.findall(r"compute_(\d+)$", known, re.MULTILINE)})
    cards = [sm for sm in cards if sm >= FIRST] if args.sm == "all" else [int(args.sm)]
    print("| sm | kernel | registers | bytes spilled | bytes shared |")
    print("|---|---|---|---|---|")
    count = 0
    for path in launch.SOURCES:
        for k in winograd.POINTS if path.stem == "winograd" else ("",):
            for sm, name, registers, spilled, shared in compiled(path.stem, args.real, cards, k):
                count += 1
                if spilled or len(cards) == 1:
                    print(f"| {sm} | {name} {k}".rstrip() + f" | {registers} | {spilled} | {shared} |")
    print(f"\n{count} kernels for sm_{', sm_'.join(map(str, cards))}: every warning an error, none seen")


def compiled(file, real, cards, k):
    """Yield (sm, kernel, registers, bytes spilled, bytes shared) of a source's kernels; k: of the filters."""
    images = {"float": 4, "double": 2}[real] if file != "lrn" else 2
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{file}.cu"
        defines = winograd.matrices(k) if k else {}  # not by -D: nvcc takes a comma for the next one
        source.write_text(
            "".join(f"#define {name} {value}\n" for name, value in defines.items()) + launch.source(file)
        )
        command = ["nvcc", "-c", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror", "-Xptxas=-v"]
        command += [f"-DREAL={real}", f"-DV={images}", source, "-o", Path(folder) / "out.o", "--threads", "2"]
        command += [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in cards]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    for part in done.stderr.split("Compiling entry function '")[1:]:
        name, sm = re.match(r"(\w+)' for 'sm_(\d+)", part).groups()
        used = [
            re.search(pattern, part)
            for pattern in (r"Used (\d+) reg", r"(\d+) bytes spill stores", r"(\d+) bytes smem")
        ]
        yield (sm, name, *(int(found[1]) if found else 0 for found in used))


if __name__ == "__main__":
    main()
