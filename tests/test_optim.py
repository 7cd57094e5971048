"""The update rule, by hand: on NumPy, on the stand-in for CuPy and on a GPU."""

import re

import backends
import numpy as np
import pytest

from tinyalex.comm import Comm
from tinyalex.errors import ArgumentError
from tinyalex.nn import Linear, Sequential
from tinyalex.optim import SGD

pytestmark = pytest.mark.usefixtures("backend")


def model(dtype=np.float64, seed=0):
    layers = [Linear(3, std=1, bias=0.5), Linear(3, std=1, bias=0.5)]  # fc1, fc2
    return Sequential(layers, (4,), Comm(backends.device()), np.random.default_rng(seed), dtype)


def put_grads(net, rng):
    """Give every parameter a random gradient; return them by name."""
    grads = {}
    for name, layer, key in net.parameters():
        w = layer.params[key]
        grads[name] = rng.standard_normal(w.shape).astype(w.dtype)
        layer.grads[key] = backends.freeze(backends.put(grads[name]))
    return grads


def params(net):
    return {name: backends.get(layer.params[key]).copy() for name, layer, key in net.parameters()}


def velocities(optimizer):
    return {name: backends.get(v).copy() for name, v in optimizer.velocity.items()}


@pytest.mark.parametrize(
    ("settings", "weight_rate", "bias_rate", "bias_decay"),
    [
        ({}, 0.1, 0.1, 0.0),
        ({"momentum": 0.0}, 0.1, 0.1, 0.0),
        ({"decay": 0.03}, 0.1, 0.1, 0.03),
        ({"decay": 0.03, "bias_rate": 0.2}, 0.1, 0.2, 0.03),
        ({"decay": 0.03, "decay_biases": False}, 0.1, 0.1, 0.0),
        ({"decay": 0.03, "bias_rate": 0.2, "decay_biases": False, "momentum": 0.5}, 0.1, 0.2, 0.0),
        ({"decay": 0.03, "bias_rate": 0.0}, 0.1, 0.0, 0.03),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [None, {"fc2": 0.25}, {"fc2": 0.0}], ids=str)
def test_four_steps_by_hand(settings, weight_rate, bias_rate, bias_decay, scale):
    net, rng = model(), np.random.default_rng(1)
    optimizer = SGD(net, 0.1, scale=scale, **settings)
    momentum, decay = settings.get("momentum", 0.9), settings.get("decay", 0.0)
    w, v = params(net), {name: 0.0 for name, *_ in net.parameters()}
    for _ in range(4):
        grads = put_grads(net, rng)
        optimizer.step()
        for name in w:
            layer, key = name.split(".")
            rate = (weight_rate if key == "w" else bias_rate) * (scale or {}).get(layer, 1)
            v[name] = (
                momentum * v[name]
                - (decay if key == "w" else bias_decay) * rate * w[name]
                - rate * grads[name]
            )
            w[name] = w[name] + v[name]
    for name, found in params(net).items():
        np.testing.assert_allclose(found, w[name], rtol=1e-13, atol=1e-15)
        v_found = velocities(optimizer)[name]
        np.testing.assert_allclose(v_found, v[name] + 0 * w[name], rtol=1e-13, atol=1e-15)


def test_a_worked_example_with_plain_numbers():
    """w 1, gradient 2, rate 0.1, momentum 0.9, decay 0.5: v = −0.05 − 0.2, then −0.225 − 0.0375 − 0.2."""
    net = model()
    optimizer = SGD(net, 0.1, momentum=0.9, decay=0.5)
    for _, layer, key in net.parameters():
        layer.params[key].fill(1)
        layer.grads[key] = layer.params[key] * 2
    for v, w in ((-0.25, 0.75), (-0.4625, 0.2875)):
        optimizer.step()
        assert np.allclose(velocities(optimizer)["fc1.w"], v, rtol=1e-14)
        assert np.allclose(params(net)["fc2.b"], w, rtol=1e-14)


@pytest.mark.parametrize("scale", [{"fc1": 0.0}, {"fc1.w": 0.0, "fc1.b": 0.0}], ids=str)
def test_scale_0_freezes_a_layer_that_is_moving(scale):
    """It stops at once, and the velocity waits."""
    net = model()
    optimizer = SGD(net, 0.1, decay=0.1)
    put_grads(net, np.random.default_rng(0))
    optimizer.step()
    optimizer.scale = scale
    before, velocity = params(net), velocities(optimizer)
    optimizer.step()
    for name, after in params(net).items():
        frozen = name.startswith("fc1.")
        assert (before[name].tobytes() == after.tobytes()) == frozen
        assert (velocity[name].tobytes() == velocities(optimizer)[name].tobytes()) == frozen


def test_factors_of_a_layer_and_of_its_parameter_multiply():
    net = model()
    optimizer = SGD(net, 1.0, bias_rate=2.0, scale={"fc1": 0.5, "fc1.w": 0.1, "fc2.b": 0.0})
    grads = put_grads(net, np.random.default_rng(0))
    optimizer.step()
    for name, rate in {"fc1.w": 0.05, "fc1.b": 1.0, "fc2.w": 1.0, "fc2.b": 0.0}.items():
        np.testing.assert_allclose(velocities(optimizer)[name], -rate * grads[name], rtol=1e-13)


@pytest.mark.parametrize("name", ["fc3", "fc1.c", "fc3.w"])
def test_a_factor_of_what_is_not_there_is_refused(name):
    with pytest.raises(ArgumentError, match=rf"scale: the model has no weights in {name}$"):
        SGD(model(), 0.1, scale={"fc1": 0.5, "fc2.w": 0.5, name: 0.5})


def test_a_decay_of_what_is_no_layer_is_refused():
    with pytest.raises(ArgumentError, match=r"decays: the model has no weights in fc1\.w, fc3$"):
        SGD(model(), 0.1, decays={"fc1": 0.5, "fc1.w": 0.5, "fc3": 0.5})


WRONG = [-0.1, np.nan, np.inf, np.float32("nan"), "0.1", True, None, 1j]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_what_is_no_finite_number_from_0_on_is_refused_by_its_name(wrong):
    """When the optimizer is made, and in the next step where it is set later, as a schedule does."""
    numbers = {"rate": wrong, "momentum": wrong, "decay": wrong}
    if wrong is not None:
        numbers["bias_rate"] = wrong
    for name, number in numbers.items():
        with pytest.raises(
            ArgumentError, match=rf"^{name}: expected a finite number ≥ 0, found {re.escape(repr(wrong))}$"
        ):
            SGD(model(), **{"rate": 0.1, name: number})
    for name, word in {"scale": "scale", "decays": "decay"}.items():
        with pytest.raises(ArgumentError, match=f"^{word} of fc2: expected a finite number ≥ 0, found"):
            SGD(model(), 0.1, **{name: {"fc1": 0.5, "fc2": wrong}})
    net = model()
    optimizer = SGD(net, 0.1)
    put_grads(net, np.random.default_rng(0))
    before, optimizer.rate = params(net), wrong
    with pytest.raises(ArgumentError, match=r"^rate: expected"):
        optimizer.step()
    assert all((after == before[name]).all() for name, after in params(net).items())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": None}, "model: expected a network, such as a Sequential, found None"),
        ({"model": Sequential([Linear(3)], (4,))}, "fc1.w: expected weights: build it with rng, or load a"),
        ({"decay_biases": "no"}, "decay_biases: expected true or false, found 'no'"),
        ({"decay_biases": 0}, "decay_biases: expected true or false, found 0"),
        ({"scale": [0.5]}, "scale: expected a dict, found [0.5]"),
        ({"decays": "fc1"}, "decays: expected a dict, found 'fc1'"),
    ],
)
def test_what_is_no_network_with_weights_and_no_choice_about_it_is_named(change, says):
    with pytest.raises(ArgumentError, match=f"^{re.escape(says)}"):
        SGD(**{"model": model(), "rate": 0.1} | change)
    assert not SGD(model(), 0.1, decay_biases=np.False_).decay_biases


def test_a_step_wants_gradients():
    net = model()
    with pytest.raises(ArgumentError, match=r"^fc1\.w: expected a gradient, of a backward pass, found None"):
        SGD(net, 0.1).step()


def test_after_a_change_of_rate_the_old_velocity_fades():
    """The rate is inside the velocity: at next to none, momentum alone carries the weights on."""
    net = model()
    optimizer = SGD(net, 0.1, momentum=0.5)
    put_grads(net, np.random.default_rng(0))
    optimizer.step()
    w, v = params(net), velocities(optimizer)
    optimizer.rate = 1e-30
    optimizer.step()
    optimizer.step()
    for name, found in params(net).items():
        np.testing.assert_allclose(found, w[name] + 0.75 * v[name], rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(velocities(optimizer)[name], 0.25 * v[name], rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_updates_in_place_and_keeps_the_dtype(dtype):
    net = model(dtype)
    optimizer = SGD(net, np.float64(0.1), momentum=np.float64(0.9), decay=np.float64(0.01), bias_rate=0.2)
    arrays = {name: layer.params[key] for name, layer, key in net.parameters()}
    velocity, before = dict(optimizer.velocity), params(net)
    for _ in range(2):
        grads = put_grads(net, np.random.default_rng(2))
        optimizer.step()
        for name, layer, key in net.parameters():  # gradients are only read
            assert backends.get(layer.grads[key]).tobytes() == grads[name].tobytes()
    for name, layer, key in net.parameters():
        assert layer.params[key] is arrays[name]
        assert optimizer.velocity[name] is velocity[name]
        assert layer.params[key].dtype == optimizer.velocity[name].dtype == dtype
        assert (params(net)[name] != before[name]).all()
