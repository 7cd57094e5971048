"""`tinyalex judge`: layers written elsewhere, right ones and each known mistake, a process with limits."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

from tinyalex import cli
from tinyalex.errors import DataError
from tinyalex.lessons import adapters, judge

LAYERS = (Path(__file__).parent / "layers.py").read_text(encoding="utf-8")
AHEAD = 'conv_param["pad"]\n    N, _, H, W = x.shape'  # in the convolution's forward
BACK = 'conv_param["pad"]\n    F, _, KH, KW = w.shape'


def _verdicts(text, only=""):
    module = types.ModuleType("judged")
    exec(compile(text, "judged.py", "exec"), vars(module))
    for value in vars(module).values():
        if isinstance(value, types.FunctionType):
            value.__module__ = "judged"
    return {
        f"{layer.name} {part}": judge.judge(layer, part)
        for layer in adapters.find(module)
        for part in ("forward", "backward")
        if getattr(layer, part) and only in f"{layer.name} {part}"
    }


def test_right_layers_pass():
    found = _verdicts(LAYERS)
    assert len(found) == 10
    assert {verdict.state for verdict in found.values()} == {judge.RIGHT}


@pytest.mark.parametrize(
    ("old", "new", "where", "named"),
    [
        (f'conv_param["stride"], {AHEAD}', f"1, {AHEAD}", "conv_im2col forward", "stride ignored"),
        (f'conv_param["stride"], {BACK}', f"1, {BACK}", "conv_im2col backward", "stride ignored"),
        (AHEAD, AHEAD.replace('conv_param["pad"]', "1"), "conv_im2col forward", "pad fixed at 1"),
        (BACK, BACK.replace('conv_param["pad"]', "1"), "conv_im2col backward", "pad fixed at 1"),
        ("out = cols @", "OW = OH\n    out = cols @", "conv_im2col forward", "square maps assumed"),
        ("W + 2 * pad))\n    for", "H + 2 * pad))\n    for", "conv_im2col backward", "square maps assumed"),
        ("stride] += cols", "stride] = cols", "conv_im2col backward", "dx: `=` for `+=`"),
        ("] += dout[n, c, i, j]", "] = dout[n, c, i, j]", "max_pool_naive backward", "`=` for `+=`"),
        ("g = dout.", "g = np.ones_like(dout).", "conv_im2col backward", "dx, dw: upstream ignored"),
        ("+= dout[n, c, i, j]", "+= 1", "max_pool_naive backward", "upstream ignored"),
        ("return dout * (cache", "return 1.0 * (cache", "relu backward", "upstream ignored"),
        ("(cache > 0)", "(dout > 0)", "relu backward", "the gates are set by dy"),
        ("dout.sum(axis=(0, 2, 3))", "dout.mean((0, 2, 3))", "conv_im2col backward", "gradient averaged"),
        ("db = dout.sum(axis=0)", "db = dout.mean(axis=0)", "affine backward", "bias gradient averaged"),
        ("out = x\n", "out = x * p\n", "dropout forward", "dropout scaled twice"),
        ("out = x * mask", "out = x * mask / p", "dropout forward", "dropout scaled twice in training"),
        ("dout * mask if", "dout * mask**2 if", "dropout backward", "dropout scaled twice going back"),
        ("< p) / p", "< p)", "dropout forward", "dropout scaled nowhere"),
        ("pad : H + pad, pad : W + pad", "pad:-pad, pad:-pad", "conv_im2col backward", "no padding not"),
        (".reshape(F, -1).T + b", ".reshape(F, -1).T", "conv_im2col forward", "the bias is missing"),
    ],
)  # fmt: skip
def test_each_mistake_is_named(old, new, where, named):
    assert LAYERS.count(old) == 1
    found = _verdicts(LAYERS.replace(old, new), where)[where]
    assert found.state == judge.WRONG
    assert found.message.startswith(named) or named in found.message[:60], found.message


def test_two_mistakes_at_once_are_both_named():
    text = LAYERS.replace(f'conv_param["stride"], {AHEAD}', f"1, {AHEAD}")
    text = text.replace("out = cols @", "OW = OH\n    out = cols @")
    found = _verdicts(text, "conv_im2col forward")["conv_im2col forward"]
    assert found.message.startswith("stride ignored, and square maps assumed: right in the 7 cases")


CLASSES = """
class Convolution:
    def __init__(self, W, b, stride=1, pad=0):
        self.W, self.b, self.param = W, b, {"stride": stride, "pad": pad}

    def forward(self, x):
        y, self.cache = conv_forward_im2col(x, self.W, self.b, self.param)
        return y

    def backward(self, dout):
        dx, self.dW, self.db = conv_backward_im2col(dout, self.cache)
        return dx


class Linear:
    def __init__(self, in_features, out_features):
        self.weight = np.zeros((out_features, in_features))
        self.bias = np.zeros(out_features)

    def forward(self, x):
        self.x = x
        return x @ self.weight.T + self.bias

    def backward(self, grad):
        self.grads = {"weight": grad.T @ self.x, "bias": grad.sum(axis=0)}
        return grad @ self.weight


class Relu:
    def forward(self, x):
        self.mask = x <= 0
        return np.where(self.mask, 0, x)

    def backward(self, dout):
        dout[self.mask] = 0
        return dout


class Dropout:
    def __init__(self, dropout_ratio=0.5):
        self.ratio = dropout_ratio

    def forward(self, x, train_flg=True):
        if not train_flg:
            return x * (1 - self.ratio)
        self.mask = np.random.rand(*x.shape) > self.ratio
        return x * self.mask

    def backward(self, dout):
        return dout * self.mask
"""
CHANNELS_LAST = """
def conv_forward(A_prev, W, b, hparameters):
    x, w = A_prev.transpose(0, 3, 1, 2), W.transpose(3, 2, 0, 1)
    y, cache = conv_forward_im2col(x, w, b.ravel(), hparameters)
    return y.transpose(0, 2, 3, 1), cache


def conv_backward(dZ, cache):
    dx, dw, db = conv_backward_im2col(dZ.transpose(0, 3, 1, 2), cache)
    return dx.transpose(0, 2, 3, 1), dw.transpose(2, 3, 1, 0), db.reshape(1, 1, 1, -1)
"""


def test_classes_and_channels_last_are_understood():
    module = types.ModuleType("judged")
    exec(LAYERS + CLASSES + CHANNELS_LAST, vars(module))
    for value in vars(module).values():
        if isinstance(value, types.FunctionType | type):
            value.__module__ = "judged"
    layers = {layer.name: layer for layer in adapters.find(module)}
    assert layers["conv"].form == "functions, N,H,W,C"
    for name in ("Convolution", "Linear", "Relu", "Dropout", "conv"):
        for part in ("forward", "backward"):
            found = judge.judge(layers[name], part)
            assert found.state == judge.RIGHT, found


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="needs PyTorch")
def test_an_autograd_function_is_understood():
    import torch

    class Relu(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(ctx, grad):
            return torch.where(ctx.saved_tensors[0] > 0, 1.0, 0.0)

    module = types.ModuleType(__name__)
    module.Relu = Relu
    (layer,) = adapters.find(module)
    assert judge.judge(layer, "forward").state == judge.RIGHT
    assert judge.judge(layer, "backward").message.startswith("upstream ignored")


def _command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tinyalex", "judge", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


def test_an_endless_loop_a_huge_array_and_an_exit_end_with_a_clear_word(tmp_path, monkeypatch, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def relu_forward(x):\n    return np.maximum(x, 0)\n"
        "def big_relu_forward(x):\n    return np.ones(10_000_000_000 // 8)\n"
        "def quick_relu_forward(x):\n    __import__('os')._exit(3)\n"
    )
    assert _command(monkeypatch, file) == 1
    assert judge.RIGHT in capsys.readouterr().out
    said = {found.layer: found.message for found in judge.verdicts(file)}
    assert said["relu"] == ""
    assert "its process ended with status 3" in said["quick_relu"]
    if sys.platform == "linux":
        assert "more memory than the limit of 2 GiB (Unable to allocate 9.31 GiB)" in said["big_relu"]

    file.write_text("def relu_forward(x):\n    while x is x:\n        pass\n")
    (found,) = judge.verdicts(file, seconds=1)
    assert found.message == "it did not end within 1 seconds: an endless loop?"


def test_layers_that_are_not_known_are_said_to_be(tmp_path, monkeypatch, capsys):
    """A batch normalization was passed over without a word, as if it had been right."""
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def relu_forward(x):\n    return np.maximum(x, 0), x\n"
        "def batchnorm_forward(x, gamma, beta, bn_param):\n    return x, None\n"
        "def batchnorm_backward(dout, cache):\n    return dout\n"
        "def rel_error(x, y):\n    return 0\n"
        "class Sigmoid:\n    def forward(self, x):\n        return x\n    backward = forward\n"
    )
    states = {found.layer: found.state for found in judge.verdicts(file)}
    assert states == {"relu": judge.RIGHT, "batchnorm": judge.UNKNOWN, "Sigmoid": judge.UNKNOWN}
    assert _command(monkeypatch, file) == 0
    assert "its name says none" in " ".join(capsys.readouterr().out.split())


def test_a_file_that_is_none(tmp_path, monkeypatch, capsys):
    with pytest.raises(DataError, match="expected a Python file, found nothing"):
        next(judge.verdicts(tmp_path / "no.py"))
    file = tmp_path / "empty.py"
    file.write_text("import this_is_not_here\n")
    with pytest.raises(DataError, match=r"cannot be imported: ModuleNotFoundError"):
        next(judge.verdicts(file))
    file.write_text("def batchnorm_forward(x):\n    return x\n")
    assert _command(monkeypatch, file) == 1
    assert "found none" in " ".join(capsys.readouterr().err.split())
