"""What AlexNet's training step must move and multiply on a GPU, and the time that follows: a forecast.

    python measured/gpu_forecast.py [--batch 128] [--preset paper] [--bandwidth 3e12] [--flops 50e12]

Nothing is measured.  Each kernel is given the time that the least bytes it must move take at the card's
bandwidth, and the matrix products the time of their arithmetic.  A real step is longer: launches, products
that do not reach their rate, caches that do not hold what is read again.

A second table has the convolutions that are done by minimal filtering, each with what it would take by the
implicit GEMM.  There the rates are those that kernels of the same kinds reached on an H100: products 42
TFLOP/s (39 for the gradient of the weights), others 2.2 TB/s, and 4 us for each launch more; and the products
of minimal filtering are given the time of their bytes, at 2.86 TB/s, after that of their arithmetic,
as if nothing overlapped.
"""

import argparse
import math
from collections import defaultdict

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
            if one.direction == direction and one.kernel != "activate_backward":
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
