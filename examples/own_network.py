"""A network of your own: declared, trained, described, timed, exported, reopened.

`tinyalex train --network`, `describe` and `bench` take this file, too:

    tinyalex train cifar10 RUN --network own_network.py --rate 0.0003 --epochs 8

AlexNet's rate, 0.01, is too high for it: pixels are not divided by 255, and conv1's gradient grows with them.
The example exports, for which it wants `pip install ".[onnx]"`; the commands above do not.
"""

import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from tinyalex.data import shapes
from tinyalex.data.loader import InMemory
from tinyalex.exchange import onnx_export, onnx_import
from tinyalex.measure import bench
from tinyalex.measure.describe import describe
from tinyalex.models import Network
from tinyalex.nn import Conv2d, Linear, MaxPool
from tinyalex.optim import SGD
from tinyalex.runs import checkpoint
from tinyalex.train import fit

network = Network(
    [
        Conv2d(16, 5, stride=2, pad=2, activation="relu", std=0.004),
        MaxPool(3, 2),
        Conv2d(32, 3, pad=1, activation="relu", std=0.12),
        MaxPool(3, 2),
        Linear(10, std=0.05),
    ],
    input=(3, 32, 32),
)


def main():
    """Train it on shapes for four epochs, time a step, and take it to ONNX and back."""
    rng, errors = np.random.default_rng(0), []
    net, batches = network.build(rng=rng), InMemory(shapes.make(1000, rng), batch=20)
    print(net)
    fit(
        net, SGD(net, rate=0.0003), lambda epoch, start: batches.epoch(rng), batches.steps, epochs=4,
        end_epoch=lambda place: errors.append(place.means().error),
    )  # fmt: skip
    print("training error of each epoch:", np.round(errors, 2))
    assert errors[-1] < 0.8 < 0.85 < errors[0]

    print(f"{describe(network).total.multiply_adds:,} multiply-adds for a picture")
    assert describe(network).total.parameters == sum(w.params[k].size for _, w, k in net.parameters())
    bench.print_result(bench.measure(network, "cpu:0", batch=20, rounds=2, what="my network"), Console())

    file = Path(tempfile.mkdtemp()) / "mine.onnx"
    onnx_export.write(file, network, checkpoint.state(net, None), {})
    found = onnx_import.read(file)
    again = found.network.build()
    checkpoint.adopt(again, found.arrays, file)
    x = rng.uniform(-128, 128, (3, 32, 32, 8)).astype(np.float32)
    assert (again.forward(x) == net.forward(x)).all()
    print(f"{file}: {file.stat().st_size:,} bytes; reopened, it answers with the same bits")


if __name__ == "__main__":
    main()
