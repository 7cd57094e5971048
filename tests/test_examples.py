"""The examples run and assert what they claim; so does the README's Python; the pages have every name."""

import contextlib
import importlib
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import tinyalex
from tinyalex import cli
from tinyalex.cli import learn
from tinyalex.comm import Comm
from tinyalex.devices import Device
from tinyalex.errors import ArgumentError
from tinyalex.gradcheck import check_layer
from tinyalex.lessons import lesson, trace
from tinyalex.lessons.checks import holes_of
from tinyalex.measure import bench
from tinyalex.measure.describe import describe
from tinyalex.nn.layers import KINDS
from tinyalex.optim import SGD
from tinyalex.runs import checkpoint
from tinyalex.runs.saved import find_network, load_network, open_network
from tinyalex.train import train_step

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PYTHON = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out


def test_there_are_five():
    assert len(EXAMPLES) >= 5


SCALE = """
from dataclasses import dataclass
import numpy as np
from tinyalex.models import Network
from tinyalex.nn import Conv2d, Layer, Linear

def scale_forward(x, w):
    return w.reshape(-1, 1, 1, 1) * x, (x, w)

def scale_backward(dy, cache):
    x, w = cache
    return w.reshape(-1, 1, 1, 1) * dy, (dy * x).sum(axis=(1, 2, 3))

@dataclass(repr=False)
class Scale(Layer):
    start: float = 1.0

    prefix = "scale"
    pair = scale_forward, scale_backward
    weights = ("w",)
    arguments = {}

    def sizes(self, shape):
        return {"w": shape[:1]}

    def draw(self, key, size, rng):
        return np.full(size, self.start)

network = Network([Conv2d(4, 5, 4), Scale(0.5), Linear(10)], (3, 12, 12))
"""


def test_a_kind_of_ones_own_in_one_file_is_like_any_other(tmp_path, capsys):
    """Trained, its gradient checked, described, saved and opened again, as `train FILE.py` would find it."""
    (tmp_path / "scale.py").write_text(SCALE, encoding="utf-8")
    network, rng = find_network(tmp_path / "scale.py"), np.random.default_rng(0)
    net, right = (network.build(rng=np.random.default_rng(1), dtype=t) for t in (np.float32, np.float64))
    assert check_layer(right, rng.standard_normal((3, 12, 12, 2)), rng).errors.keys() > {"scale1.w"}

    x, labels = rng.standard_normal((3, 12, 12, 8)).astype(np.float32), np.arange(8)
    for layer in ("conv1", "fc1"):
        net.layers[layer].params["w"] *= 10
    losses = [train_step(net, SGD(net, 0.5), x, labels).loss for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    assert len(set(net.layers["scale1"].params["w"])) == 4
    row = {row.layer: row for row in describe(network).rows}["scale1"]
    assert (row.output, row.parameters) == ((4, 2, 2, 128), 4)
    assert "scale1  Scale(start=0.5)" in repr(net)

    metadata = {"network": network.to_json(), "classes": [str(n) for n in range(10)]}
    path = tmp_path / "own.safetensors"
    checkpoint.save(path, checkpoint.state(net, None), metadata)
    saved = open_network(path)
    opened = load_network(Comm("cpu:0"), path, saved, checkpoint.load(path)[0])
    assert saved.network == network.named()
    assert (opened.forward(x) == net.forward(x)).all()


def test_files_of_a_kind_of_ones_own_are_opened_once_its_file_was_run(tmp_path, capsys, monkeypatch):
    """And what knows only tinyalex's kinds says so: ONNX, PyTorch's side of `bench`."""
    (tmp_path / "scale.py").write_text(SCALE, encoding="utf-8")
    network, path = find_network(tmp_path / "scale.py"), tmp_path / "own.safetensors"
    net = network.build(rng=np.random.default_rng(0))
    checkpoint.save(path, checkpoint.state(net, None), {"network": network.to_json(), "classes": list("abc")})

    def says(*args):
        KINDS.pop("Scale", None)
        monkeypatch.setattr("sys.argv", ["tinyalex", *map(str, args)])
        with contextlib.suppress(SystemExit):
            cli.main()
        return " ".join("".join(capsys.readouterr()).split())

    own = "--layers", tmp_path / "scale.py"
    assert "run the file that declares it first: tinyalex --layers FILE.py" in says("describe", path)
    assert "scale1 4×2×2 4" in says(*own, "describe", path)
    onnx = tmp_path / "own.onnx"
    said = says(*own, "export", path, onnx)
    assert "error: scale1: ONNX has no word for a Scale, a kind of layer of your own: put kinds of " in said
    assert said.endswith("in its place, or write its nodes into tinyalex/exchange/onnx_export.py")
    assert not onnx.exists()
    assert says("--layers", tmp_path / "no.py", "describe", path).startswith(f"error: {tmp_path / 'no.py'}: ")
    with pytest.raises(
        ArgumentError, match="--vs torch: Scale, a kind of layer of your own, has no twin there"
    ):
        bench.check(network, "torch", Device("cpu:0"))


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_in_the_readme_runs(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(PYTHON[number], f"README.md, block {number + 1}", "exec"), {})


def test_the_readme_shows_an_operation_as_it_stands():
    plain = (ROOT / "tinyalex" / "ops" / "plain.py").read_text(encoding="utf-8")
    assert PYTHON[0].startswith("def max_pool_backward")
    assert PYTHON[0] in plain


def test_the_readme_shows_a_verdict_as_it_is_given(capsys):
    hole = holes_of(5)["add_back"]
    check, *_ = lesson(5)
    check(trace.compiled(hole, hole.source.replace("+=", "=")))
    said = " ".join(capsys.readouterr().out.split())
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert said[: said.index("tutor(")].strip() in readme


@pytest.mark.parametrize("name", tinyalex.PUBLIC)
def test_what_is_public_is_there_and_told_of(name):
    module = importlib.import_module(f"tinyalex.{name}")
    assert module.__doc__
    assert f"tinyalex.{name} " in tinyalex.__doc__
    for exported in getattr(module, "__all__", []):
        assert hasattr(module, exported)


def test_pages_of_the_library(tmp_path):
    pytest.importorskip("pdoc")
    learn.docs(tmp_path / "pages")
    pages = {
        path.stem: path.read_text(encoding="utf-8")
        for path in (tmp_path / "pages" / "tinyalex").glob("*.html")
    }
    assert set(tinyalex.PUBLIC) <= pages.keys()
    for name, words in {
        "ops": "conv2d_backward",
        "nn": "Conv2d",
        "models": "alexnet",
        "train": "fit",
    }.items():
        assert f'id="{words}"' in pages[name]
