"""The fast operations against PyTorch in float64: someone else's code, someone else's derivation.

PyTorch keeps (N, C, H, W); we keep (C, H, W, N). Gradients come from autograd with a random dy.
"""

import numpy as np
import pytest

from tinyalex.nn import BatchNorm
from tinyalex.ops import (
    ACTIVATIONS,
    avg_pool_backward,
    avg_pool_forward,
    conv2d_backward,
    conv2d_forward,
    linear_backward,
    linear_forward,
    local2d_backward,
    local2d_forward,
    lrn_backward,
    lrn_forward,
    max_pool_backward,
    max_pool_forward,
    softmax,
    softmax_loss_backward,
    softmax_loss_forward,
    tanh,
)

torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install 'tinyalex[oracle]'")
F = torch.nn.functional

TOLERANCE = 1e-12  # of the largest number: float64 sums of at most a few thousand terms


def leaf(array, maps_last=False):
    """A tensor that autograd follows; (C,H,W,N) becomes (N,C,H,W)."""
    array = array.transpose(3, 0, 1, 2) if maps_last else array
    return torch.tensor(np.ascontiguousarray(array), requires_grad=True)


def ours(tensor, maps_last=False):
    array = tensor.detach().numpy()
    return array.transpose(1, 2, 3, 0) if maps_last else array


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def check_maps(forward, backward, oracle, x, rng):
    """One map in, one map out: y and dx equal the oracle's."""
    x_torch = leaf(x, maps_last=True)
    y_torch = oracle(x_torch)
    y, cache = forward(x)
    assert_close(y, ours(y_torch, maps_last=True))
    dy = rng.standard_normal(y.shape)
    y_torch.backward(leaf(dy, maps_last=True).detach())
    assert_close(backward(dy, cache), ours(x_torch.grad, maps_last=True))


def spread(rng, shape):
    """Different numbers, none positive: no ties, and a padding of 0 would win."""
    return -rng.permutation(np.prod(shape)).reshape(shape).astype(np.float64)


CONVOLUTIONS = [  # x, (F, KH, KW), stride, (top, bottom, left, right), groups
    ((3, 30, 27, 5), (8, 11, 11), 4, (0, 3, 0, 3), 1),  # conv1, with the ceil of 2012
    ((8, 13, 11, 6), (12, 5, 5), 1, (2, 2, 2, 2), 2),  # conv2
    ((8, 9, 10, 7), (6, 3, 3), 1, (1, 1, 1, 1), 1),  # conv3
    ((6, 9, 10, 7), (12, 3, 4), 1, (0, 2, 1, 3), 2),
    ((6, 9, 10, 7), (12, 3, 2), 2, (0, 1, 2, 1), 3),
    ((4, 7, 8, 3), (5, 4, 3), 3, (1, 2, 0, 3), 1),
    ((4, 7, 8, 3), (5, 2, 3), 1, (3, 0, 1, 4), 1),  # padding beyond the kernel
    ((16, 28, 25, 32), (20, 5, 5), 1, (2, 2, 2, 2), 2),  # several blocks of columns
    ((16, 28, 25, 32), (20, 5, 5), 2, (2, 1, 0, 2), 2),
]


@pytest.mark.parametrize(("x_shape", "filters", "stride", "pad", "groups"), CONVOLUTIONS)
@pytest.mark.parametrize("neuron", [None, "relu"])
def test_conv2d(x_shape, filters, stride, pad, groups, neuron):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(x_shape)
    w = rng.standard_normal((filters[0], x_shape[0] // groups, *filters[1:]))
    b = rng.standard_normal(filters[0])
    y, cache = conv2d_forward(x, w, b, stride, pad, groups, ACTIVATIONS[neuron] if neuron else None)

    x_torch, w_torch, b_torch = leaf(x, maps_last=True), leaf(w), leaf(b)
    top, bottom, left, right = pad
    padded = F.pad(x_torch, (left, right, top, bottom))
    y_torch = F.conv2d(padded, w_torch, b_torch, stride=stride, groups=groups)
    if neuron:
        y_torch = F.relu(y_torch)
    assert_close(y, ours(y_torch, maps_last=True))

    dy = rng.standard_normal(y.shape)
    y_torch.backward(leaf(dy, maps_last=True).detach())
    dx, dw, db = conv2d_backward(dy, cache)
    assert_close(dx, ours(x_torch.grad, maps_last=True))
    assert_close(dw, ours(w_torch.grad))
    assert_close(db, ours(b_torch.grad))


def test_local2d_is_unfold_and_a_product_at_each_place():
    rng = np.random.default_rng(0)
    x, w, b = (rng.standard_normal(s) for s in ((4, 9, 8, 5), (6, 5, 5, 4, 3, 2), (6, 5, 5)))
    y, cache = local2d_forward(x, w, b, (2, 2), (1, 1, 1, 1), ACTIVATIONS["relu"])
    x_torch, w_torch, b_torch = leaf(x, maps_last=True), leaf(w), leaf(b)
    cols = F.unfold(x_torch, (3, 2), padding=1, stride=2)
    by_place = torch.einsum("fpk,nkp->nfp", w_torch.reshape(6, 25, -1), cols)
    y_torch = F.relu(by_place.reshape(5, 6, 5, 5) + b_torch)
    assert_close(y, ours(y_torch, maps_last=True))

    dy = rng.standard_normal(y.shape)
    y_torch.backward(leaf(dy, maps_last=True).detach())
    dx, dw, db = local2d_backward(dy, cache)
    assert_close(dx, ours(x_torch.grad, maps_last=True))
    assert_close(dw, ours(w_torch.grad))
    assert_close(db, ours(b_torch.grad))


POOLINGS = [  # (H, W), z, s, pad
    ((13, 11), 3, 2, 0),  # overlapping: the paper's
    ((12, 10), 3, 2, 0),  # ceil and floor differ
    ((12, 10), 2, 2, 0),
    ((11, 14), 3, 2, 1),
    ((9, 10), 4, 3, 2),
    ((7, 9), 2, 3, 1),  # gaps; the last window of ceil would hold padding alone
    ((6, 7), 3, 1, 1),
]


@pytest.mark.parametrize(("size", "z", "s", "pad"), POOLINGS)
@pytest.mark.parametrize("ceil", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_max_pool(size, z, s, pad, ceil, tied):
    rng = np.random.default_rng(0)
    shape = (4, *size, 3)
    x = rng.integers(-3, 0, shape).astype(np.float64) if tied else spread(rng, shape)
    check_maps(
        lambda x: max_pool_forward(x, z, s, pad, ceil),
        max_pool_backward,
        lambda x: F.max_pool2d(x, z, s, padding=pad, ceil_mode=ceil),
        x,
        rng,
    )


@pytest.mark.parametrize(("size", "z", "s", "pad"), POOLINGS)
@pytest.mark.parametrize("ceil", [True, False])
def test_avg_pool(size, z, s, pad, ceil):
    rng = np.random.default_rng(0)
    check_maps(
        lambda x: avg_pool_forward(x, z, s, pad, ceil),
        avg_pool_backward,
        lambda x: F.avg_pool2d(x, z, s, padding=pad, ceil_mode=ceil, count_include_pad=False),
        rng.standard_normal((4, *size, 3)),
        rng,
    )


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 11])
@pytest.mark.parametrize("alpha_over_n", [True, False])
def test_lrn(n, alpha_over_n):
    """PyTorch divides alpha by n, and for even n looks further down than up, as kFCNorm does."""
    rng = np.random.default_rng(0)
    how = {"k": 2.0, "alpha": 0.9, "beta": 0.75}
    check_maps(
        lambda x: lrn_forward(x, n, alpha_over_n=alpha_over_n, **how),
        lrn_backward,
        lambda x: F.local_response_norm(x, n, **(how if alpha_over_n else {**how, "alpha": 0.9 * n})),
        3 * rng.standard_normal((8, 4, 5, 3)),
        rng,
    )


def test_lrn_in_groups_is_one_lrn_a_tower():
    rng = np.random.default_rng(0)
    check_maps(
        lambda x: lrn_forward(x, 5, 1.0, 0.9, 0.75, alpha_over_n=True, groups=2),
        lrn_backward,
        lambda x: torch.cat([F.local_response_norm(half, 5, 0.9, 0.75, 1.0) for half in x.chunk(2, 1)], 1),
        3 * rng.standard_normal((8, 4, 5, 3)),
        rng,
    )


@pytest.mark.parametrize(
    ("neuron", "oracle"),
    [
        (ACTIVATIONS["relu"], torch.relu),
        (ACTIVATIONS["tanh"], torch.tanh),
        (tanh(1.7159, 2 / 3), lambda x: 1.7159 * torch.tanh(2 / 3 * x)),
        (ACTIVATIONS["logistic"], torch.sigmoid),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_activations(neuron, oracle):
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((4, 5, 6, 3))
    check_maps(neuron.forward, neuron.backward, oracle, x, rng)


def test_linear():
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((7, 5)), rng.standard_normal((6, 7)), rng.standard_normal(6)
    dy = rng.standard_normal((6, 5))
    x_torch, w_torch, b_torch = leaf(x.T), leaf(w), leaf(b)
    y_torch = F.linear(x_torch, w_torch, b_torch)
    y_torch.backward(torch.tensor(dy.T))
    y, cache = linear_forward(x, w, b)
    assert_close(y, ours(y_torch).T)
    dx, dw, db = linear_backward(dy, cache)
    assert_close(dx, ours(x_torch.grad).T)
    assert_close(dw, ours(w_torch.grad))
    assert_close(db, ours(b_torch.grad))


@pytest.mark.parametrize("maps", [True, False], ids=["maps", "features"])
def test_batch_normalization_in_training_and_at_test(maps):
    """Three steps of training with their running statistics, then one with these, and all gradients."""
    rng = np.random.default_rng(0)
    shape = (5, 3, 4, 6) if maps else (5, 6)
    layer = BatchNorm(eps=0.01, momentum=0.3).build(shape[:-1], rng=rng, dtype=np.float64)
    oracle = (torch.nn.BatchNorm2d if maps else torch.nn.BatchNorm1d)(5, eps=0.01, momentum=0.3).double()
    with torch.no_grad():
        for key, parameter in (("w", oracle.weight), ("b", oracle.bias)):
            layer.params[key][...] = rng.standard_normal(5)
            parameter.copy_(torch.from_numpy(layer.params[key]))
    for train in (True, True, True, False):
        oracle.train(train)
        oracle.zero_grad()
        x, dy = (10 * rng.random() + rng.standard_normal(shape) for _ in range(2))
        x_torch = leaf(x if maps else x.T, maps)
        y_torch = oracle(x_torch)
        y_torch.backward(leaf(dy if maps else dy.T, maps).detach())
        y, dx = layer.forward(x, train), layer.backward(dy)
        for found, expected in ((y, y_torch), (dx, x_torch.grad)):
            assert_close(found, ours(expected, maps) if maps else ours(expected).T)
        assert_close(layer.grads["w"], ours(oracle.weight.grad))
        assert_close(layer.grads["b"], ours(oracle.bias.grad))
        assert_close(layer.params["mean"], ours(oracle.running_mean))
        assert_close(layer.params["var"], ours(oracle.running_var))


def test_softmax_loss():
    rng = np.random.default_rng(0)
    logits, labels = 5 * rng.standard_normal((9, 6)), rng.integers(0, 9, 6)
    logits_torch = leaf(logits.T)
    loss_torch = F.cross_entropy(logits_torch, torch.tensor(labels))
    loss_torch.backward()
    assert_close(softmax(logits), ours(torch.softmax(logits_torch, dim=1)).T)
    loss, cache = softmax_loss_forward(logits, labels)
    assert loss == pytest.approx(loss_torch.item(), rel=TOLERANCE)
    assert_close(softmax_loss_backward(cache), ours(logits_torch.grad).T)
