"""What AlexNet's training step must move and multiply on a GPU, and the time that follows: a forecast.

    python measured/gpu_forecast.py [--batch 128] [--preset paper] [--bandwidth 3e12]

Nothing is measured here.  Each kernel is given the time that the least bytes it must move take at the card's
bandwidth, and the matrix products the time of their arithmetic.  A real step is longer: launches, products
that do not reach their rate, caches that do not hold what is read again.
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
    print(f"| **step, {args.batch} images** | | | **{kernels + arithmetic:.2f}** |")


def saved(place, batch, direction):
    """By how much fewer the products are than those of a convolution's formula."""
    if not traffic.by_winograd(place, batch):
        return 1
    _, H, W = place.y if direction == "forward" else place.x
    k = place.layer.sizes(place.x)["w"][-1]
    return k * k * math.prod(place.y[1:]) / ((k + SIDE - 1) ** 2 * -(-H // SIDE) * -(-W // SIDE))


if __name__ == "__main__":
    main()
