"""Every network, full size, out to ONNX, through onnxruntime, and back: how far are the numbers apart?

    python measured/onnx_round_trip.py [--folder FOLDER]

Every network that has a name, AlexNet's with 1,000 classes; weights as large as learned ones, random
pictures.  Prints a table; exits with 1 if onnxruntime differs by more than 1e-5 of the largest logit, or if a
logit of the network that comes back differs in any bit.  Needs onnx and onnxruntime; one minute, 2 GB of
memory.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from tinyalex.exchange import onnx_export, onnx_import
from tinyalex.models import NETWORKS, make
from tinyalex.nn import Local2d
from tinyalex.runs import checkpoint

BATCH = 2


def compare(network, path, rng):
    """Return (the largest logit, the largest difference in onnxruntime, logits that differ after import)."""
    arrays = {}
    for name, shape in network.sizes().items():
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])) if name.endswith(".w") else 0.1)
        arrays[name] = scale * rng.standard_normal(shape, dtype=np.float32)
    x = rng.uniform(-120, 120, (BATCH, *network.input)).astype(np.float32)
    ours = logits(network, arrays, x)
    onnx_export.write(path, network, arrays, {})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"input": x})[0]
    found = onnx_import.read(path)
    returned = logits(found.network, found.arrays, x)
    return np.abs(ours).max(), np.abs(theirs - ours).max(), int((returned != ours).sum())


def logits(network, arrays, x):
    """What a network of these weights makes of pictures (N, C, H, W)."""
    net = network.build()
    checkpoint.adopt(net, arrays, "the weights drawn here")
    return net.forward(np.ascontiguousarray(x.transpose(1, 2, 3, 0))).T


def main(folder):
    """Print the table; return whether all is as it should be."""
    table = Table("network", "largest logit", "onnxruntime differs by", "of it", "differ after import")
    good = True
    for k, name in enumerate(NETWORKS):
        path, network = folder / "net.onnx", make(name)
        if any(isinstance(layer, Local2d) for layer in network.layers):
            continue  # ONNX has no unshared convolution: the export refuses it
        largest, apart, differ = compare(network, path, np.random.default_rng(k))
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
