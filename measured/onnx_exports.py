"""What PyTorch's exporters write of fourteen networks: is every file that should be read, read rightly?

    python measured/onnx_exports.py [--exporter NAME] [--network NAME …] [--opset N …] [--out FILE.md]

Each network goes out at opset 7 to 23, by the older exporter (TorchScript) and by the newer (torch.export),
with a fixed and with a free batch, and is read.  What is read must give PyTorch's logits within 1e-4 of the
largest, for three pictures.  Prints a line for each network and exporter, with the opsets of the files
(the newer exporter begins with 18 and converts where it can), and each reason of a refusal; exits with 1 if a
file was read wrongly or not read.  What an exporter itself does not write is counted on its own.

Needs torch, onnx and onnxscript.
"""

import argparse
import copy
import io
import logging
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional

from tinyalex.errors import TinyalexError
from tinyalex.exchange import onnx_import
from tinyalex.files import write_text

OPSETS = range(7, 24)
EXPORTERS = "TorchScript", "torch.export"
TOLERANCE = 1e-4


class Does(nn.Module):
    """A module that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def conv(*args, **kwargs):
    return nn.Conv2d(*args, **kwargs), nn.ReLU(inplace=True)


def head(hidden=32, classes=10):
    return (
        nn.Dropout(), nn.LazyLinear(hidden), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes),
    )  # fmt: skip


class TwoTowers(nn.Module):
    """The paper's: two towers that meet before conv3, each a module of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(
            *conv(3, 16, 11, stride=4), nn.LocalResponseNorm(5, 0.1), nn.MaxPool2d(3, 2)
        )
        self.towers = nn.ModuleList([nn.Sequential(*conv(8, 12, 5, padding=2)) for _ in range(2)])
        self.last = nn.Sequential(nn.MaxPool2d(3, 2), *conv(24, 16, 3, padding=1), nn.Flatten(), *head())

    def forward(self, x):
        parts = torch.chunk(self.first(x), 2, dim=1)
        parts = [tower(part) for tower, part in zip(self.towers, parts, strict=True)]
        return self.last(torch.cat(parts, 1))


class Sliced(nn.Module):
    """Two towers by indices, a classifier of convolutions, and the mean over one axis after the other."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Sequential(*conv(3, 8, 3)), nn.Conv2d(10, 5, 1)
        self.left, self.right = nn.Conv2d(4, 5, 3, bias=False), nn.Conv2d(4, 5, 3, bias=False)
        self.bias = nn.Parameter(torch.randn(10, 1, 1))

    def forward(self, x):
        x = self.first(x)
        x = torch.cat([self.left(x[:, :4]), self.right(x[:, 4:])], dim=1) + self.bias
        x = functional.avg_pool2d(torch.relu(x), 2)
        return self.last(x.clamp(0, 6)).mean(-1).mean(-1)


class LeNet(nn.Module):
    """As PyTorch's tutorials write it."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 20), nn.Linear(20, 10, bias=False)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.conv1(x)), (2, 2))
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = x.view(-1, self.features_of_each(x))
        x = functional.dropout(functional.relu(self.fc1(x)), training=self.training)
        return functional.log_softmax(self.fc2(x), dim=1)

    def features_of_each(self, x):
        size = 1
        for s in x.size()[1:]:
            size *= s
        return size


class Prepared(nn.Module):
    """Pixels of 0 to 255 are prepared inside."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[None, :, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[None, :, None, None])
        self.rest = nn.Sequential(*conv(3, 8, 3), nn.AvgPool2d(2), nn.Flatten(), nn.LazyLinear(5))

    def forward(self, x):
        return self.rest((x / 255 - self.mean) / self.std)


NETWORKS = {
    "AlexNet, torchvision's": ((3, 95, 95), lambda: nn.Sequential(
        *conv(3, 16, 11, stride=4, padding=2), nn.MaxPool2d(3, 2), *conv(16, 24, 5, padding=2),
        nn.MaxPool2d(3, 2), *conv(24, 32, 3, padding=1), *conv(32, 24, 3, padding=1),
        nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d((2, 2)), Does(lambda x: torch.flatten(x, 1)), *head(),
    )),
    "AlexNet, groups and LRN": ((3, 99, 99), lambda: nn.Sequential(
        *conv(3, 16, 11, stride=4), nn.LocalResponseNorm(5, 0.1, 0.75, 2.0), nn.MaxPool2d(3, 2),
        *conv(16, 32, 5, padding=2, groups=2), nn.LocalResponseNorm(5, 0.1), nn.MaxPool2d(3, 2),
        *conv(32, 24, 3, padding=1), *conv(24, 16, 3, padding=1, groups=2), nn.MaxPool2d(3, 2),
        Does(lambda x: x.view(x.size(0), -1)), *head(),
    )),
    "AlexNet, towers as modules": ((3, 67, 67), TwoTowers),
    "VGG with batch normalization": ((3, 32, 32), lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.MaxPool2d(2, 2), nn.AdaptiveAvgPool2d((8, 8)), Does(lambda x: torch.flatten(x, 1)), *head(),
    )),
    "towers by indices": ((3, 18, 21), Sliced),
    "LeNet": ((3, 32, 32), LeNet),
    "averages of whole maps": ((3, 17, 14), lambda: nn.Sequential(
        *conv(3, 8, 3, stride=2), nn.Dropout2d(), *conv(8, 6, 1), Does(lambda x: x.mean((2, 3))),
        nn.Softmax(dim=-1),
    )),
    "adaptive pooling to one pixel": ((3, 16, 15), lambda: nn.Sequential(
        *conv(3, 8, 3), nn.AdaptiveAvgPool2d(1), Does(lambda x: x.squeeze(-1).squeeze(-1)), *head(),
    )),
    "other activations": ((3, 20, 21), lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.LeakyReLU(0.2),
        nn.Conv2d(8, 6, 3), nn.PReLU(), nn.Conv2d(6, 6, 1), nn.Hardtanh(0, 6), nn.Conv2d(6, 6, 1), nn.Tanh(),
        nn.Flatten(), nn.LazyLinear(7), nn.Sigmoid(), nn.Linear(7, 4),
        Does(lambda x: x.clamp(min=0)), nn.Linear(4, 4),
    )),
    "normalization anywhere": ((3, 14, 15), lambda: nn.Sequential(
        nn.BatchNorm2d(3), *conv(3, 8, 3), nn.BatchNorm2d(8, 0.01, 0.2), nn.MaxPool2d(2, 1),
        nn.BatchNorm2d(8, affine=False), nn.LocalResponseNorm(4, 2.0, 0.6, 1.5), nn.Flatten(),
        nn.LazyLinear(6, bias=False), nn.BatchNorm1d(6),
        nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 4),
    )),
    "pictures prepared inside": ((3, 18, 18), Prepared),
    "pooling of every kind": ((3, 27, 24), lambda: nn.Sequential(
        nn.ZeroPad2d((1, 0, 2, 0)), *conv(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AvgPool2d(2, 2, padding=1, ceil_mode=True), nn.Sigmoid(),
        nn.AvgPool2d(3, 1, padding=1, count_include_pad=False), *conv(8, 8, 3, padding="same"),
        nn.MaxPool2d((3, 2), (2, 1), padding=(1, 0)), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )),
    "half precision": ((3, 20, 20), lambda: nn.Sequential(
        *conv(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Flatten(), *head(),
    )),
    "windows that are not square": ((3, 19, 25), lambda: nn.Sequential(
        *conv(3, 8, (3, 5), stride=(1, 2), padding=(1, 2)), nn.AvgPool2d((1, 3), (1, 2)),
        *conv(8, 8, (1, 3), padding=(0, 1), groups=4), nn.MaxPool2d((2, 1)),
        Does(lambda x: x.reshape(x.shape[0], -1)), nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 4),
    )),
}  # fmt: skip
ENDS = {"LeNet": lambda y: y - np.log(np.exp(y).sum(1, keepdims=True)),
        "averages of whole maps": lambda y: np.exp(y) / np.exp(y).sum(1, keepdims=True)}  # fmt: skip


class NotExported(Exception):
    """The exporter does not write this."""


def export(module, x, exporter, opset, is_free, path):
    """Write a network; return the opset that the file says."""
    try:
        if exporter == "TorchScript":
            made = io.BytesIO()
            axes = {"input": {0: "batch"}} if is_free else None
            torch.onnx.export(module, (x,), made, opset_version=opset, dynamo=False,
                              input_names=["input"], dynamic_axes=axes)  # fmt: skip
            path.write_bytes(made.getvalue())
        else:
            shapes = ({0: torch.export.Dim("batch")},) if is_free else None
            program = torch.onnx.export(module, (x,), opset_version=opset, dynamo=True, dynamic_shapes=shapes,
                                        verbose=False)  # fmt: skip
            program.save(str(path))
    except Exception as error:  # torch's own, of many kinds
        raise NotExported(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return onnx.load(path, load_external_data=False).opset_import[0].version


def made(name):
    """(module, pictures, PyTorch's logits), with statistics as if it had been trained."""
    torch.manual_seed(0)
    shape, make = NETWORKS[name]
    module = make()
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    x = x * 60 + 120 if name == "pictures prepared inside" else x
    with torch.no_grad():
        for _ in range(3):
            module.train()(torch.from_numpy(x))
        if name == "half precision":  # its weights and pictures, computed with in float32
            module, x = module.half().float(), x.astype(np.float16).astype(np.float32)
        return module.eval(), x, module(torch.from_numpy(x)).numpy()


def judge(name, path, x, wanted):
    """Return None if the file is read and gives PyTorch's numbers; else (refused or wrong, why)."""
    try:
        found = onnx_import.read(path)
    except TinyalexError as error:
        return "refused", str(error).removeprefix(f"{path}: ")
    net = found.network.build()
    for parameter, layer, key in net.parameters():
        layer.params[key] = found.arrays[parameter]
    y = net.forward(np.ascontiguousarray(x.transpose(1, 2, 3, 0))).T
    y = ENDS.get(name, lambda y: y)(y)
    if y.shape != wanted.shape:
        return "wrong", f"shape {y.shape}, PyTorch's {wanted.shape}"
    error = np.abs(y - wanted).max() / np.abs(wanted).max()
    return None if error <= TOLERANCE else ("wrong", f"{error:.1e} of the largest number")


def main(exporters, names, opsets, out):
    """Print the table; return whether every file that was written is read rightly."""
    console = Console(width=110, markup=False, highlight=False)
    lines = [
        "| network | exporter | files | of opset | read, PyTorch's numbers | refused | wrong | not exported |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    totals, bad = Counter(), Counter()
    logging.disable(logging.WARNING)  # the newer exporter's conversions that fail
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            module, x, wanted = made(name)
            for exporter in exporters:
                counts, versions = Counter(), set()
                for opset in opsets:
                    for is_free in (False, True):
                        path, given = Path(folder, "net.onnx"), (module, torch.from_numpy(x))
                        if name == "half precision":
                            given = copy.deepcopy(module).half(), given[1].half()
                        try:
                            written = export(*given, exporter, opset, is_free, path)
                        except NotExported as error:
                            counts["not exported"] += 1
                            bad[f"{exporter} does not write {name}, opset {opset}: {error}"[:200]] += 1
                            continue
                        versions.add(written)
                        outcome, why = judge(name, path, x, wanted) or ("right", "")
                        counts[outcome] += 1
                        if outcome != "right":
                            batch = "free" if is_free else "fixed"
                            bad[f"{outcome}: {name}, {exporter}, opset {opset} (in the file {written}), "
                                f"{batch} batch: {why}"] += 1  # fmt: skip
                totals += counts
                files = counts["right"] + counts["refused"] + counts["wrong"]
                row = [
                    name,
                    exporter,
                    files,
                    ", ".join(map(str, sorted(versions))),
                    *(counts[k] for k in ("right", "refused", "wrong", "not exported")),
                ]
                lines.append(f"| {' | '.join(map(str, row))} |")
                console.print(lines[-1])
    for text in bad:
        console.print(text)
    console.print(", ".join(f"{kind} {count}" for kind, count in totals.items()))
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")
    return not totals["wrong"] and not totals["refused"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--exporter", nargs="+", choices=EXPORTERS, default=EXPORTERS)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--opset", nargs="+", type=int, choices=OPSETS, default=OPSETS)
    parser.add_argument("--out", type=Path, help="the table, as Markdown")
    options = parser.parse_args()
    sys.exit(not main(options.exporter, options.network, options.opset, options.out))
