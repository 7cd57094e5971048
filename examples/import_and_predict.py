"""A network that another program wrote: read from ONNX, and the same numbers come out.

It wants `pip install ".[onnx]"`.
"""

import tempfile
from pathlib import Path

import numpy as np

from tinyalex.exchange import onnx_export, onnx_import
from tinyalex.models import AlexNet, alexnet
from tinyalex.ops import softmax
from tinyalex.runs import checkpoint

# A file to read: a narrow AlexNet of two towers, with random weights, as ONNX.
network = alexnet(AlexNet(filters=(8, 16, 16, 16, 8), hidden=32, classes=10, size=67, conv_std=0.1))
ours = network.build(rng=np.random.default_rng(0))
folder = Path(tempfile.mkdtemp())
onnx_export.write(folder / "net.onnx", network, checkpoint.state(ours, None), {"classes": list("abcdefghij")})

found = onnx_import.read(folder / "net.onnx")
print(
    f"{len(found.network.layers)} layers, {found.network.most_ranks} towers, {found.properties['tinyalex']}"
)
net = found.network.build()
checkpoint.adopt(net, found.arrays, folder / "net.onnx")

x = np.random.default_rng(1).normal(0, 50, (3, 67, 67, 4)).astype(np.float32)
probabilities = softmax(net.forward(x))
np.testing.assert_allclose(probabilities, softmax(ours.forward(x)), rtol=1e-5)
print("most probable classes:", ["abcdefghij"[k] for k in probabilities.argmax(axis=0)])
