"""What TF32 costs in accuracy on one GPU: python measured/gpu_tf32.py

Each kind of product is a process of its own, since CuPy reads CUPY_TF32 once.  Printed as Markdown:

gradients   of AlexNet, 32 images of random numbers: |g - g64| / |g64| of each layer's weights in Euclidean
            norms, g64 in float64 on the same card
curves      Figure 1's two networks on 5,000 shapes, 10 epochs, two seeds: training error after each epoch
    --standin    a dry run without a GPU, on the tests' stand-in
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gpu_measure import on_gpu, stand_in

RATES = {"relu": 0.002, "tanh": 0.01}
KINDS = ("float64", "float32", "TF32")


def main():
    """Run the processes and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--standin", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # a child's kind
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        if args.standin:
            stand_in()
        gradients(args.folder / f"{args.only}.npz", args.only, args.standin)
        if args.only != "float64":
            (args.folder / f"{args.only}.json").write_text(json.dumps(curves(args.standin)))
        return
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            command = [sys.executable, __file__, "--only", kind, "--folder", folder]
            where = os.environ | {"CUPY_TF32": str(int(kind == "TF32"))}
            subprocess.run(command + ["--standin"] * args.standin, check=True, env=where)
        table(Path(folder))


def gradients(path, kind, small):
    """Write the gradients of AlexNet's weights after one backward pass."""
    from tinyalex.models import make
    from tinyalex.ops import softmax_loss_backward, softmax_loss_forward

    how = {"width": 1 / 16, "size": 67, "classes": 10} if small else {}
    network, images = make("paper", **how), 3 if small else 32
    rng = np.random.default_rng(1)
    x = rng.standard_normal((*network.input, images), np.float32)
    labels = rng.integers(0, network.outputs[0], images)
    dtype = np.float64 if kind == "float64" else np.float32

    def rank(comm):
        net = network.build(comm, np.random.default_rng(0), dtype)
        for _, layer, key in net.parameters():
            if key == "w":  # weights through which a signal passes undiminished: 2012's are too small
                w = layer.params[key]
                w *= (2 / w[0].size) ** 0.5 / 0.01
        logits = net.forward(comm.device.put(x.astype(dtype)), train=True)
        _, cache = softmax_loss_forward(logits, comm.device.put(labels))
        net.backward(softmax_loss_backward(cache))
        found = {name: comm.device.get(layer.grads[k]) for name, layer, k in net.parameters() if k == "w"}
        np.savez(path, **found)

    on_gpu(rank)


def curves(small):
    """Training errors of Figure 1's networks: {"relu, seed 0": [of each epoch]}."""
    from tinyalex.data import shapes
    from tinyalex.data.loader import InMemory
    from tinyalex.models.cifar import figure1
    from tinyalex.optim import SGD
    from tinyalex.train import fit

    data = shapes.make(128 if small else 5000, np.random.default_rng(0))

    def errors(comm, activation, seed):
        net = figure1(activation).build(comm, np.random.default_rng(seed))
        batches, found = InMemory(data, comm, 128), []
        fit(
            net, SGD(net, RATES[activation], momentum=0.9, decay=0.0),
            lambda number, start: batches.epoch(np.random.default_rng([seed, number])),
            batches.steps, 1 if small else 10, end_epoch=lambda place: found.append(place.means().error),
        )  # fmt: skip
        return found

    return {
        f"{activation}, seed {seed}": on_gpu(lambda comm, which=(activation, seed): errors(comm, *which))
        for activation in RATES
        for seed in (0, 1)
    }


def table(folder):
    """Print both tables."""
    of = {kind: np.load(folder / f"{kind}.npz") for kind in KINDS}
    print("| gradient of | float32 | TF32 |\n|---|---|---|")
    for name in of["float64"].files:
        exact = of["float64"][name]
        cells = (np.linalg.norm(of[kind][name] - exact) / np.linalg.norm(exact) for kind in KINDS[1:])
        print(f"| {name} | " + " | ".join(f"{cell:.1e}" for cell in cells) + " |")
    of = {kind: json.loads((folder / f"{kind}.json").read_text()) for kind in KINDS[1:]}
    print("\n| training error after each epoch, % | float32 | TF32 |\n|---|---|---|")
    for name in of["TF32"]:
        cells = (" ".join(f"{100 * error:.1f}" for error in of[kind][name]) for kind in KINDS[1:])
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
