"""What AlexNet's training step must move and multiply on a GPU, and the time that follows: a forecast.

    python measured/gpu_forecast.py [--batch 128] [--preset paper] [--bandwidth 3e12] [--flops 50e12]

Nothing is measured.  Each kernel is given the time that the least bytes it must move take at the card's
bandwidth, and the matrix products the time of their arithmetic.  A real step is longer: launches, products
that do not reach their rate, caches that do not hold what is read again.
"""

import argparse
from collections import defaultdict

from tinyalex.comm import Comm
from tinyalex.devices import Device
from tinyalex.measure import traffic
from tinyalex.measure.describe import BlankWeights, blank, outline
from tinyalex.models.alexnet import PRESETS, alexnet
from tinyalex.nn import Conv2d


def main():
    """Print the forecast as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--preset", choices=PRESETS, default="paper")
    parser.add_argument("--bandwidth", type=float, default=3e12, help="bytes/s")
    parser.add_argument("--flops", type=float, default=50e12, help="of the matrix products, in float32")
    args = parser.parse_args()

    network = PRESETS[args.preset]
    net = alexnet(network, Comm(Device("cpu:0")), BlankWeights())
    x = blank((3, network.size, network.size, args.batch))
    launches, flop, parameters = [], 0, 0
    for name, layer in net.layers.items():
        y, _ = outline(layer, x)
        launches += traffic.of_layer(name, layer, x.shape, y.shape)
        if layer.params:
            positions = y[0].size  # a convolution's pixels, in all images
            passes = 3 if not isinstance(layer, Conv2d) or layer.need_dx else 2
            flop += passes * 2 * layer.params["w"].size * positions
            parameters += sum(p.size for p in layer.params.values())
        x = y
    launches += [*traffic.of_loss(network.classes, args.batch), traffic.of_update(parameters)]

    by_kernel = defaultdict(lambda: [0, 0])
    for launch in launches:
        by_kernel[launch.kernel][0] += launch.bytes
        by_kernel[launch.kernel][1] += 1
    print("| kernel | layers and directions | MB | ms |")
    print("|---|---|---|---|")
    for kernel, (nbytes, count) in sorted(by_kernel.items(), key=lambda item: -item[1][0]):
        print(f"| {kernel} | {count} | {nbytes / 1e6:,.1f} | {1e3 * nbytes / args.bandwidth:.3f} |")
    total = sum(launch.bytes for launch in launches)
    kernels, products = 1e3 * total / args.bandwidth, 1e3 * flop / args.flops
    print(f"| all kernels | {len(launches)} | {total / 1e6:,.1f} | {kernels:.2f} |")
    print(f"| matrix products: {flop / 1e9:,.1f} GFLOP | | | {products:.2f} |")
    print(f"| **step, {args.batch} images** | | | **{kernels + products:.2f}** |")


if __name__ == "__main__":
    main()
