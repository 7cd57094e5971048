"""What AlexNet's training step must move and multiply on a GPU, and the time that follows: a forecast.

    python measured/gpu_forecast.py [--launches] [--batch 128] [--preset paper] [--bandwidth 3e12]

Nothing is measured here.  Each kernel is given the time that the least bytes it must move take at the card's
bandwidth, and the matrix products the time of their arithmetic.  A real step is longer: launches, products
that do not reach their rate, caches that do not hold what is read again.

A second table has the convolutions that are done by minimal filtering, each with what it would take by the
implicit GEMM.  There the rates are those that kernels of the same kinds reached on an H100: products 42
TFLOP/s (39 for the gradient of the weights), others 2.2 TB/s, and 4 us for each launch more; and the products
of minimal filtering are given the time of their bytes, at 2.86 TB/s, after that of their arithmetic,
as if nothing overlapped.

--launches: a third table, of the launches that the code makes, listed by the tests' stand-in for CuPy, on
which they are not run.  Each kernel beside what an H100 copies and multiplies, 2.857 TB/s and 51.4 TFLOP/s:
"least" at these rates; "at most" the part of them that is left when each launch takes 2.5 us more, in which
nothing moves.  A launch that was measured (measured/gpu/kernels-h100.csv) and has not changed has that time;
the others 2.5 us and 2.2 TB/s, or, where they multiply, what fits those that were measured best: so much for
each FLOP and so much for each byte that is not moved meanwhile, of the convolutions and of the gradients of
weights (said below the table).  Minimal filtering's products move more bytes for a FLOP than any measured.
"""

import argparse
import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np

from tinyalex.measure import traffic
from tinyalex.measure.bench import products
from tinyalex.models.alexnet import PRESETS, alexnet
from tinyalex.ops.winograd import SIDE


def main():
    """Print the forecast as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--bandwidth", type=float, default=3e12, help="bytes/s")
    parser.add_argument("--flops", type=float, default=50e12, help="of the matrix products, in float32")
    parser.add_argument("--launches", action="store_true", help="the launches of a step, one by one")
    args = parser.parse_args()

    network = alexnet(PRESETS[args.preset])
    launches, flop, parameters = [], 0, 0
    for place in network.plan():
        launches += traffic.of_layer(place, args.batch)
        for direction, made in products(place, args.batch).items():
            done = sum(2 * count * m * k * n for count, m, k, n in made)
            flop += done / saved(place, args.batch, direction)
        parameters += sum(map(math.prod, place.layer.sizes(place.x).values()))
    launches += [*traffic.of_loss(*network.outputs, args.batch), traffic.of_update(parameters)]

    by_kernel = defaultdict(lambda: [0, 0])
    for launch in launches:
        by_kernel[launch.kernel][0] += launch.bytes
        by_kernel[launch.kernel][1] += 1
    print("| kernel | layers and directions | MB | ms |")
    print("|---|---|---|---|")
    for kernel, (nbytes, count) in sorted(by_kernel.items(), key=lambda item: -item[1][0]):
        print(f"| {kernel} | {count} | {nbytes / 1e6:,.1f} | {1e3 * nbytes / args.bandwidth:.3f} |")
    total = sum(launch.bytes for launch in launches)
    kernels, arithmetic = 1e3 * total / args.bandwidth, 1e3 * flop / args.flops
    print(f"| all kernels | {len(launches)} | {total / 1e6:,.1f} | {kernels:.2f} |")
    print(f"| matrix products: {flop / 1e9:,.1f} GFLOP | | | {arithmetic:.2f} |")
    print(f"| **step, {args.batch} images** | | | **{kernels + arithmetic:.2f}** |\n")
    print("| layer | direction | implicit GEMM, ms | minimal filtering, ms |")
    print("|---|---|---|---|")
    both = [0, 0]
    for place in network.plan():
        for direction, times in foreseen(place, args.batch):
            print(f"| {place.layer.name} | {direction} | {times[0]:.2f} | {times[1]:.2f} |")
            both = [sum(pair) for pair in zip(both, times, strict=True)]
    print(f"| all | | {both[0]:.2f} | {both[1]:.2f} |")
    if args.launches:
        by_launch(launched(args.preset, args.batch))


COPY, PRODUCTS, LATENCY = 2.857e12, 51.4e12, 2.5e-6  # measured; the last: between two kernels, at least
SPLIT = "lrn2"  # whose channels several threads share since it was measured


def by_launch(launches):
    """Print a row for each kernel of these (place, kernel, bytes, FLOP)."""
    with open(Path(__file__).parent / "gpu/kernels-h100.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["place"].startswith(SPLIT)]
    measured = {}
    for row in rows:  # of one launch, or of two equal ones
        count, *numbers = (int(row[name]) for name in ("launches", "bytes", "flop"))
        key = row["place"], row["kernel"], *(n / max(1, count) for n in numbers)
        measured[key] = float(row["ms"]) / 1e3 / max(1, count)
    products = "conv_forward", "conv_backward_x"
    fits = [fitted(rows, kinds) for kinds in (products, ["conv_backward_w"])]
    kernels = defaultdict(lambda: [0, 0, 0, 0, 0, 0])
    for place, kernel, nbytes, flop in launches:
        seconds = measured.get((place or "loss and update", kernel, nbytes, flop))
        known = seconds is not None
        if not known:
            flops, moved = fits[kernel == "conv_backward_w"] if flop else (1, 2.2e12)
            seconds = flop / flops + nbytes / moved + LATENCY
        least = max(nbytes / COPY, flop / PRODUCTS)
        row = kernels[kernel]
        row[:] = [a + b for a, b in zip(row, (1, nbytes, flop, least, seconds, known), strict=True)]
    print("\n| kernel | launches | MB | GFLOP | least, ms | ms | of the card's rate | at most | measured |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kernel, row in sorted(kernels.items(), key=lambda item: -item[1][4]):
        count, nbytes, flop, least, seconds, known = row
        most = least / (least + count * LATENCY)
        print(
            f"| {kernel} | {count} | {nbytes / 1e6:,.1f} | {flop / 1e9:,.1f} | {1e3 * least:.3f} "
            f"| {1e3 * seconds:.3f} | {least / seconds:.0%} | {most:.0%} | {known or ''} |"
        )
    count, _, _, least, seconds, _ = map(sum, zip(*kernels.values(), strict=True))
    print(f"| all | {count} | | | {1e3 * least:.2f} | {1e3 * seconds:.2f} | {least / seconds:.0%} | | |\n")
    for what, (flops, moved) in zip(("convolutions", "weights' gradients"), fits, strict=True):
        print(f"{what}, fitted: {flops / 1e12:.1f} TFLOP/s, and {moved / 1e12:.1f} TB/s after that")


def fitted(rows, kinds):
    """Return the (FLOP/s, bytes/s) whose times, one after the other, fit those of these kernels best."""
    of = [[float(row[name]) for name in ("flop", "bytes", "ms")] for row in rows if row["kernel"] in kinds]
    work, ms = np.array(of)[:, :2], np.array(of)[:, 2:]
    seconds = np.linalg.lstsq(work / ms, np.full(len(ms), 1e-3), rcond=None)[0]  # a relative error's least
    return 1 / seconds


def launched(name, batch):
    """Return (place, kernel, bytes, FLOP) of each launch of a training step."""
    import gpu_measure

    gpu_measure.stand_in()
    import cupy
    import cupy_standin

    from tinyalex.ops.cuda.launch import timed

    class Unwritten:
        """Memory that nobody looks at."""

        def __init__(self, nbytes):
            self.bytes = np.empty(nbytes + 2 * cupy_standin.GUARD, np.uint8)
            self.device, self.writer, self.readers = 0, None, {}

    class NotRun:
        """A kernel's source, which is not compiled."""

        def __init__(self, code, options):
            pass

        def get_function(self, name):
            return lambda grid, block, args: None

    cupy_standin.Memory, cupy.RawModule, cupy.matmul = Unwritten, NotRun, lambda a, b, out: out

    def rank(comm):
        step = gpu_measure.Step(comm, name, batch, small=False)
        with timed(lambda: comm.label) as launches:
            step()
        return [(one.place, one.kernel, one.bytes, one.flop) for one in launches]

    return gpu_measure.on_gpu(rank)


SAME = "activate_backward", "relu_backward_and_sum"  # whichever way


def foreseen(place, batch):
    """Yield (direction, milliseconds by both ways) of a convolution that is done by minimal filtering."""
    if not traffic.by_winograd(place, batch):
        return
    launches = traffic.of_layer(place, batch)
    for direction, made in products(place, batch).items():
        done = [2 * count * m * k * n for count, m, k, n in made]  # backward: dW, then dx
        rates = [42e12] if direction == "forward" else [39e12, 42e12]
        seconds = [d / rate for d, rate in zip(done, rates, strict=True)]
        less = saved(place, batch, direction)
        direct, by_winograd = sum(seconds), sum(seconds) / less
        for one in launches:
            if one.direction == direction and one.kernel not in SAME:
                by_products = one.kernel in ("winograd_products", "conv_backward_w")
                by_winograd += one.bytes / (2.86e12 if by_products else 2.2e12) + 4e-6
        yield direction, (1e3 * direct, 1e3 * by_winograd)


def saved(place, batch, direction):
    """By how much fewer the products are than those of a convolution's formula."""
    if not traffic.by_winograd(place, batch):
        return 1
    _, H, W = place.y if direction == "forward" else place.x
    k = place.layer.sizes(place.x)["w"][-1]
    return k * k * math.prod(place.y[1:]) / ((k + SIDE - 1) ** 2 * -(-H // SIDE) * -(-W // SIDE))


if __name__ == "__main__":
    main()
