"""The same network in PyTorch, for `tinyalex bench --vs`: as people write it, or tuned by an expert.

As people write it: nn.Sequential, the default layout (N,C,H,W), autograd, torch.optim.SGD.  Tuned: memory in
channels_last order, the optimizer's fused kernel, ReLU in place, local response normalization by a 1×1
convolution and with a hand-written backward in place of nn.LocalResponseNorm, and a C library that keeps
freed memory (`mallopt`) in place of returning it to the system.  Same sizes, groups, batch and optimizer; as
many threads as tinyalex has devices.  It works in the main thread of a process of its own (`serve`): in
another thread the C library has another heap, which gives memory back all the same.  Two
differences, at the same cost: PyTorch's window of the normalization runs over all maps, ours stops at a
tower's end; PyTorch's dropout is inverted, it scales what it keeps in training, ours scales at test.
"""

import ctypes
import json
import sys
from functools import cache, singledispatch
from time import perf_counter

import torch
from torch import nn
from torch.nn import functional

from tinyalex.errors import ArgumentError, DeviceError
from tinyalex.measure.alone import alone
from tinyalex.measure.machine import faults, peak_bytes
from tinyalex.models import Network
from tinyalex.nn import (
    LRN,
    Activate,
    AllGather,
    AvgPool,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    Local2d,
    MaxPool,
    SameMapNorm,
    ZeroPad,
)
from tinyalex.ops import four_pads


def check(device):
    """Raise DeviceError if PyTorch cannot work on this `Device`."""
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {device.name}: PyTorch {torch.__version__}, as installed, finds no GPU")


def twin(network, batch, forward, tuned, threads, device="cpu"):
    """Return a function that does a step (or a forward pass) in PyTorch, to its end; it is warmed up.

    network: a `tinyalex.models.Network`; of one layer alone a step has no loss and no update, a gradient is
    only sent back through it.  threads: of the CPU.  device: PyTorch's name of one.  On a GPU, products and
    convolutions are in float32 throughout, as here.
    """
    torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False
    if tuned and device == "cpu":
        keep_heap()
    placed, whole = network.plan(), len(network.layers) > 1
    net = nn.Sequential(*(part for place in placed for part in module(place.layer, place, tuned))).to(device)
    x = torch.randn((batch, *network.input), device=device)
    if tuned and x.ndim == 4:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        y = net(x)
    labels = torch.randint(0, y.shape[1], (batch,), device=device)
    dy = torch.randn_like(y)
    if whole:
        optimizer = torch.optim.SGD(
            net.parameters(), 1e-4, momentum=0.9, weight_decay=0.0005, fused=tuned or None
        )
    x.requires_grad_(not whole and getattr(network.layers[0], "need_dx", True))

    def step():
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    def through():
        net.zero_grad()
        net(x).backward(dy)

    def look():
        with torch.no_grad():
            net.eval()(x)

    work = look if forward else step if whole else through

    def run():
        work()
        if device != "cpu":
            torch.cuda.synchronize(device)

    for _ in range(2):
        run()
    return run


def serve():
    """Read an order and numbers of steps from standard input, a line of JSON each; answer each with a line.

    See `tinyalex.measure.bench`, which starts this process; it ends with its standard input.
    """
    order = json.loads(sys.stdin.readline())
    network, layer = Network.from_json(order.pop("network")), order.pop("layer")
    work = twin(alone(network, layer)[0] if layer else network, **order)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        steps, start, before = json.loads(line), perf_counter(), faults()
        for _ in range(steps):
            work()
        found = {"seconds": (perf_counter() - start) / steps, "faults": (faults() - before) / steps}
        found |= {"peak_bytes": peak_bytes(), "threads": torch.get_num_threads()}
        print(json.dumps(found), flush=True)


def keep_heap():
    """Tell the C library (glibc) to serve large blocks from its heap and to keep what is freed."""
    trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, -1)


@singledispatch
def module(layer, place, tuned):
    """Return the list of PyTorch modules that do what a layer does at its `tinyalex.nn.Placed`."""
    raise ArgumentError(f"bench: {type(layer).__name__} has no twin in PyTorch")


def _activation(layer, tuned=False):
    """The activation as a list of modules: none, one, or tanh between two factors; tuned, ReLU in place."""
    match layer.activation:
        case None:
            return []
        case "relu":
            return [nn.ReLU(inplace=tuned)]
        case "logistic":
            return [nn.Sigmoid()]
        case "tanh":
            return [nn.Tanh()]
        case ("tanh", a, b):
            return [_Tanh(a, b)]


class _Tanh(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x):
        return self.a * torch.tanh(self.b * x)


@module.register
def _(layer: Conv2d, place, tuned):
    top, bottom, left, right = four_pads(layer.pad)
    even = (top, left) == (bottom, right)
    before = [] if even else [nn.ZeroPad2d((left, right, top, bottom))]
    around = (top, left) if even else 0
    conv = nn.Conv2d(place.x[0], layer.filters, layer.kernel, layer.stride, around, groups=layer.groups)
    return [*before, conv, *_activation(layer, tuned)]


class _Local(nn.Module):
    """Unshared convolution as it is written with PyTorch: `unfold`, then a product at each place."""

    def __init__(self, layer, place):
        super().__init__()
        (F, OH, OW, *kernel), self.layer = layer.sizes(place.x)["w"], layer
        self.weight = nn.Parameter(layer.std * torch.randn(F, OH, OW, *kernel))
        self.bias = nn.Parameter(torch.full((F, OH, OW), float(layer.bias)))

    def forward(self, x):
        F, OH, OW = self.bias.shape
        top, _, left, _ = four_pads(self.layer.pad)
        cols = functional.unfold(x, self.layer.kernel, padding=(top, left), stride=self.layer.stride)
        y = torch.einsum("fpk,nkp->nfp", self.weight.reshape(F, OH * OW, -1), cols)
        return y.reshape(-1, F, OH, OW) + self.bias


@module.register
def _(layer: Local2d, place, tuned):
    _even(layer)
    return [_Local(layer, place), *_activation(layer)]


class _SameMapNorm(nn.Module):
    """x / (k + α · mean of x² over the window, zeros beyond the border)^β."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        n, k, alpha, beta = (getattr(self.layer, name) for name in ("n", "k", "alpha", "beta"))
        before, after = n // 2, n - 1 - n // 2
        squares = functional.pad(x * x, (before, after, before, after))
        return x / (k + alpha * functional.avg_pool2d(squares, n, 1)) ** beta


@module.register
def _(layer: SameMapNorm, place, tuned):
    return [_SameMapNorm(layer)]


@module.register
def _(layer: Linear, place, tuned):
    F, D = layer.sizes(place.x)["w"]
    return [nn.Flatten(), nn.Linear(D, F), *_activation(layer, tuned)]


@module.register
def _(layer: MaxPool, place, tuned):
    return [nn.MaxPool2d(layer.window, layer.stride, _even(layer), ceil_mode=layer.ceil)]


@module.register
def _(layer: AvgPool, place, tuned):
    return [
        nn.AvgPool2d(layer.window, layer.stride, _even(layer), ceil_mode=layer.ceil, count_include_pad=False)
    ]


@module.register
def _(layer: GlobalAvgPool, place, tuned):
    return [nn.AdaptiveAvgPool2d(1)]


def _even(layer):
    """The padding, where it is the same above and below, left and right."""
    top, bottom, left, right = four_pads(layer.pad)
    if (top, left) != (bottom, right):
        raise ArgumentError(f"bench: {layer.name}: PyTorch pads both sides of a window alike")
    return top, left


@module.register
def _(layer: BatchNorm, place, tuned):
    kind = nn.BatchNorm2d if len(place.x) == 3 else nn.BatchNorm1d
    return [kind(place.x[0], layer.eps, layer.momentum)]


@module.register
def _(layer: Activate, place, tuned):
    return _activation(layer)


@module.register
def _(layer: Dropout, place, tuned):
    return [nn.Dropout(1 - layer.keep)]


@module.register
def _(layer: Flatten, place, tuned):
    return [nn.Flatten()]


@module.register
def _(layer: ZeroPad, place, tuned):
    top, bottom, left, right = four_pads(layer.pad)
    return [nn.ZeroPad2d((left, right, top, bottom))]


@module.register
def _(layer: AllGather, place, tuned):
    return []


@module.register
def _(layer: LRN, place, tuned):
    alpha = layer.alpha if layer.alpha_over_n else layer.alpha * layer.n  # PyTorch divides by n
    return [(TunedLRN if tuned else nn.LocalResponseNorm)(layer.n, alpha, layer.beta, layer.k)]


class _LRNFunction(torch.autograd.Function):
    """y = x s^-3/4 and its gradient (derived in `ops.lrn`)."""

    @staticmethod
    @cache
    def band(C, n, dtype, device):
        """1×1 filters that sum the window of each channel; the transposed window is the same, n being odd."""
        i = torch.arange(C, device=device)
        return ((i[:, None] - i).abs() <= n // 2).to(dtype)[:, :, None, None]

    @staticmethod
    def window_sum(p, n):
        return functional.conv2d(p, _LRNFunction.band(p.shape[1], n, p.dtype, p.device))

    @staticmethod
    def forward(ctx, x, n, a, k):
        s = _LRNFunction.window_sum(x * x, n).mul_(a).add_(k)
        power = s.rsqrt()
        power.mul_(power.sqrt())  # s^-1/2 · s^-1/4
        ctx.save_for_backward(x, s, power)
        ctx.n, ctx.a = n, a
        return x * power

    @staticmethod
    def backward(ctx, dy):
        x, s, power = ctx.saved_tensors
        direct = dy * power
        total = _LRNFunction.window_sum((direct * x).div_(s), ctx.n)
        return direct.addcmul_(x, total, value=-1.5 * ctx.a), None, None, None


class TunedLRN(nn.Module):
    """Local response normalization as an expert writes it: a convolution, square roots, own backward."""

    def __init__(self, n, alpha, beta, k):
        super().__init__()
        if beta != 0.75 or n % 2 == 0:
            raise ArgumentError(f"bench: the tuned LRN knows beta 0.75 and odd n only, found {beta} and {n}")
        self.constants = n, alpha / n, k

    def forward(self, x):
        """x (N,C,H,W) → y."""
        return _LRNFunction.apply(x, *self.constants)


if __name__ == "__main__":
    serve()
