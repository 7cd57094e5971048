"""Registers, spills and shared memory of every kernel, by nvcc: python measured/gpu_registers.py [--sm 90]

No GPU is needed.  Each source is compiled as for batches whose images fit by fours (LRN: by twos, too), with
every warning an error: convolutions with each of their tiles (TF TN TK STAGES PF PN BLOCKS of tiles.cuh), the
tensor cores' too, minimal filtering for filters of 3x3 and of 5x5, sums with few threads and with many.  The
numbers are ptxas's.  --sm all: for each card that nvcc knows from sm_75 on (the tensor cores' tiles from
sm_80 on); said is only what spills.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from tinyalex.ops.cuda import implicit_gemm, launch, sums, winograd

FIRST, FIRST_TF32 = 75, 80  # the oldest cards


def main():
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sm", default="90")
    parser.add_argument("--real", choices=["float", "double"], default="float")
    args = parser.parse_args()
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    cards = sorted({int(sm) for sm in re.findall(r"compute_(\d+)$", known, re.MULTILINE)})
    cards = [sm for sm in cards if sm >= FIRST] if args.sm == "all" else [int(args.sm)]
    print("| sm | kernel | as | registers | bytes of stack | spilled | shared |")
    print("|---|---|---|---|---|---|---|")
    count = 0
    for path in launch.SOURCES:
        for what, threads, defines in variants(path.stem, args.real):
            able = [sm for sm in cards if sm >= FIRST_TF32 or not defines.get("TF32")]
            for sm, name, registers, stack, spilled, shared in able and compiled(path.stem, defines, able):
                if threads * -(-registers // 8) * 8 > 1 << 16:
                    raise SystemExit(f"{name}, {what}: {threads} threads of {registers} registers, too many")
                count += 1
                if stack or len(cards) == 1:
                    print(f"| {sm} | {name} | {what} | {registers} | {stack} | {spilled} | {shared} |")
    print(f"\n{count} kernels for sm_{', sm_'.join(map(str, cards))}: every warning an error, none seen")


def variants(file, real):
    """Yield (what a source is compiled for, threads of a block at most, its defines)."""
    both = {"REAL": real, "V": {"float": 4, "double": 2}[real]}
    if file in ("conv", "conv_weights"):
        tiles = {
            "conv": implicit_gemm.TILES + winograd.TILES + implicit_gemm.TILES_TF32,
            "conv_weights": implicit_gemm.TILES_W + winograd.TILES_W + implicit_gemm.TILES_W_TF32,
        }[file]
        for tile in dict.fromkeys(tiles) if real == "float" else [implicit_gemm.choose_tile(64, 8, 2)]:
            what = " ".join(map(str, tile[:7])) + ", TF32" * tile.TF32
            yield what, launch.BLOCK, both | tile._asdict()
    elif file == "winograd":
        for k in winograd.POINTS:
            yield f"{k} × {k}", launch.BLOCK, both | winograd.matrices(k)
    elif file == "lrn":
        for v in {2, both["V"]}:
            yield f"{v} images", launch.BLOCK, both | {"V": v}
    elif file == "sums":
        for team in (sums.WARP, sums.TEAM, sums.MOST):
            yield "", team, both | {"TEAM": team}
    else:
        yield "", 1024 if file == "softmax" else launch.BLOCK, both


def compiled(file, defines, cards):
    """Yield (sm, kernel, registers, bytes of stack, bytes spilled, bytes shared) of a source's kernels."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{file}.cu"
        lines = [f"#define {name} {value}\n" for name, value in defines.items()]  # nvcc's -D ends at a comma
        source.write_text("".join(lines) + launch.source(file))
        command = ["nvcc", "-c", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror", "-Xptxas=-v"]
        command += [source, "-o", Path(folder) / "out.o", "--threads", "2"]
        command += [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in cards]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    for part in done.stderr.split("Compiling entry function '")[1:]:
        name, sm = re.match(r"(\w+)' for 'sm_(\d+)", part).groups()
        patterns = r"Used (\d+) reg", r"(\d+) bytes stack", r"(\d+) bytes spill stores", r"(\d+) bytes smem"
        used = [re.search(pattern, part) for pattern in patterns]
        yield (sm, name, *(int(found[1]) if found else 0 for found in used))


if __name__ == "__main__":
    main()
