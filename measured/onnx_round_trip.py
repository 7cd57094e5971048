"""Every network, full size, out to ONNX, through onnxruntime, and back: how far are the numbers apart?

    python measured/onnx_round_trip.py [--folder FOLDER]

Each preset of AlexNet with 1,000 classes and Figure 1's network with each neuron, weights as large as learned
ones, random pictures.  Prints a table; exits with 1 if onnxruntime differs by more than 1e-5 of the largest
logit, or if a logit of the network that comes back differs in any bit.  Needs onnx and onnxruntime; one
minute, 2 GB of memory.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from tinyalex.comm import Comm
from tinyalex.devices import Device
from tinyalex.exchange import onnx_export, onnx_import
from tinyalex.models import sequential
from tinyalex.models.alexnet import PRESETS, alexnet
from tinyalex.models.cifar import figure1_net
from tinyalex.nn import BlankWeights

ONE = Comm(Device("cpu:0"))
BATCH = 2


def networks():
    """Yield (name, the network without weights, the side of its pictures)."""
    for name, network in PRESETS.items():
        yield name, alexnet(network, ONE, BlankWeights()), network.size
    for neuron in ("relu", "tanh", "logistic"):
        yield f"Figure 1, {neuron}", figure1_net(neuron, ONE, BlankWeights()), 32


def compare(net, size, path, rng):
    """Return (the largest logit, the largest difference in onnxruntime, logits that differ after import)."""
    arrays = {}
    for name, layer, key in net.parameters():
        shape = layer.params[key].shape
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])) if key == "w" else 0.1)
        arrays[name] = layer.params[key] = scale * rng.standard_normal(shape, dtype=np.float32)
    x = rng.uniform(-120, 120, (BATCH, 3, size, size)).astype(np.float32)
    ours = net.forward(np.ascontiguousarray(x.transpose(1, 2, 3, 0))).T
    onnx_export.write(path, sequential.layers_of(net), arrays, x.shape[1:], {})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"input": x})[0]
    found = onnx_import.read(path)
    back = sequential.build(found.layers, ONE, BlankWeights())
    for name, layer, key in back.parameters():
        layer.params[key] = found.arrays[name]
    returned = back.forward(np.ascontiguousarray(x.transpose(1, 2, 3, 0))).T
    return np.abs(ours).max(), np.abs(theirs - ours).max(), int((returned != ours).sum())


def main(folder):
    """Print the table; return whether all is as it should be."""
    table = Table("network", "largest logit", "onnxruntime differs by", "of it", "differ after import")
    good = True
    for k, (name, net, size) in enumerate(networks()):
        path = folder / "net.onnx"
        largest, apart, differ = compare(net, size, path, np.random.default_rng(k))
        table.add_row(name, f"{largest:.3g}", f"{apart:.2g}", f"{apart / largest:.1e}", str(differ))
        good = good and apart <= 1e-5 * largest and not differ
        path.unlink()
    Console(width=110).print(table)
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the ONNX files are written, one after the other")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(not main(options.folder or Path(temporary)))
