"""The plain operations beside the fast ones: every preset narrow, every layer of AlexNet at full size."""

import numpy as np
import pytest

from tinyalex.models import NETWORKS, make
from tinyalex.nn import LRN, Conv2d, Linear, MaxPool, SameMapNorm, Sequential
from tinyalex.ops import chosen, plain, plain_ops, softmax_loss_backward, softmax_loss_forward
from tinyalex.optim import SGD
from tinyalex.train import train_step


def step(network, x, labels):
    """Forward and backward; return logits, loss and every gradient by name."""
    net = network.build(rng=np.random.default_rng(0), dtype=np.float64)
    logits = net.forward(x, train=True)
    loss, cache = chosen(softmax_loss_forward)(logits, labels)
    net.backward(chosen(softmax_loss_backward)(cache))
    grads = {name: layer.grads[key] for name, layer, key in net.parameters()}
    return {"logits": logits, "loss": np.asarray(loss), **grads}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_of_every_preset(name):
    small = {} if name.startswith("cifar") else {"width": 1 / 8, "size": 67, "classes": 10}
    network = make(name, **small)
    rng = np.random.default_rng(1)
    x, labels = 60 * rng.standard_normal((*network.input, 4)), rng.integers(0, *network.outputs, 4)
    fast = step(network, x, labels)
    with plain_ops():
        found = step(network, x, labels)
    assert found.keys() == fast.keys()
    for key, expected in fast.items():
        scale = np.abs(expected).max()
        assert scale > 0, key
        np.testing.assert_allclose(found[key], expected, rtol=0, atol=1e-11 * scale, err_msg=key)
    assert any((found[key] != fast[key]).any() for key in fast)  # it was another way


def test_a_step_of_training_takes_the_loss_by_the_plain_operations_too(monkeypatch):
    calls = []

    def counted(name):
        right = getattr(plain, name)
        monkeypatch.setattr(plain, name, lambda *args, **how: calls.append(name) or right(*args, **how))

    counted("softmax_loss_forward")
    counted("softmax_loss_backward")
    net = Sequential([Linear(3)], (5,), rng=np.random.default_rng(0))
    x, labels = np.ones((5, 2), np.float32), np.array([0, 2])
    train_step(net, SGD(net, 0.1), x, labels)
    assert not calls
    with plain_ops():
        train_step(net, SGD(net, 0.1), x, labels)
    assert calls == ["softmax_loss_forward", "softmax_loss_backward"]


MAPS = (Conv2d, MaxPool, LRN, SameMapNorm)
PLACES = {place.layer.name: place for place in make("code2012").plan() if isinstance(place.layer, MAPS)}


@pytest.mark.parametrize("name", PLACES)
def test_a_layer_of_alexnet_at_full_size(name):
    """In float32, which rounds: minimal filtering by up to 1e-5 of the largest number (`ops.winograd`)."""
    rng = np.random.default_rng(0)
    layer = PLACES[name].layer.build(PLACES[name].x, rng=rng)
    x = np.maximum(rng.standard_normal((*PLACES[name].x, 2), np.float32), 0)
    y = layer.forward(x)
    dy, cache = rng.standard_normal(y.shape, np.float32), layer.cache
    fast = {"y": y, "dx": layer.backward(dy), **layer.grads}
    with plain_ops():
        y = layer.forward(x)
    layer.cache = cache  # for ReLU's gradient jumps where rounding puts a sum on the other side of 0
    found = {"y": y, "dx": layer.backward(dy), **layer.grads}
    assert (found["dx"] is None) == (name == "conv1") == (fast["dx"] is None)  # no gradient to the pixels
    for key, expected in fast.items():
        if expected is not None:
            scale = np.abs(expected).max()
            np.testing.assert_allclose(found[key], expected, rtol=0, atol=3e-5 * scale, err_msg=key)
            assert found[key].shape == expected.shape
