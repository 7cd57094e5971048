"""Steps that are recorded and replayed: the same bits as steps that are launched one by one."""

import contextlib
import functools
import gc

import backends
import cuda_machine
import numpy as np
import pytest

from tinyalex import memory
from tinyalex.comm import Comm, launch
from tinyalex.devices import Device
from tinyalex.models import Network
from tinyalex.models.alexnet import PRESETS, alexnet, narrow
from tinyalex.models.cifar import figure1 as figure1_network
from tinyalex.nn import Activate, BatchNorm, Conv2d, Dropout, Linear, Sequential
from tinyalex.ops.cuda import graph
from tinyalex.ops.cuda.graph import Captured
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward, topk_error
from tinyalex.optim import SGD
from tinyalex.train import Step


def figure1(neuron):
    return lambda: figure1_network(neuron)


def small_alexnet():
    return alexnet(narrow(PRESETS["paper"], 1 / 16)._replace(size=67, classes=10))


def normalized():
    layers = [Conv2d(4, 5, stride=4), BatchNorm(), Activate("relu"), Linear(8), BatchNorm(), Linear(10)]
    return Network(layers, (3, 32, 32))


def trained(make, captured, steps=5, batches=(4,)):
    """Train with a rate that changes; return all losses and errors, and the weights and velocities."""

    def rank(comm):
        network = make()
        net = network.build(comm, np.random.default_rng(7))
        optimizer = SGD(net, 0.01, decay=5e-4, bias_rate=0.02)

        def work(x, labels):
            logits = net.forward(x, train=True)
            loss, cache = softmax_loss_forward(logits, labels)
            net.backward(softmax_loss_backward(cache))
            optimizer.step(loss)
            return comm.device.xp.stack([loss, topk_error(logits, labels).mean()])

        step = Captured(work, comm.device) if captured else work
        rng, results = np.random.default_rng(8), []
        for number in range(steps):
            if number == 3:
                optimizer.rate /= 10
            size = batches[number % len(batches)]
            x = comm.device.put(rng.standard_normal((*network.input, size), np.float32))
            labels = comm.device.put(rng.integers(0, 10, size))
            results.append(comm.device.get(step(x, labels)).tolist())
            if number == 3:  # between two steps somebody looks at the network, and keeps what comes out
                kept = net.forward(x)
                seen = comm.device.get(kept).copy()
        assert (comm.device.get(kept) == seen).all()
        weights = [comm.device.get(layer.params[key]) for _, layer, key in net.parameters()]
        velocities = [comm.device.get(v) for v in optimizer.velocity.values()]
        return results, weights + velocities

    return launch(rank, [backends.device()])[0]


@pytest.mark.parametrize(
    ("make", "batches"), [(figure1("relu"), (2,)), (figure1("tanh"), (1,)), (small_alexnet, (4, 3)),
     (normalized, (4,))],
    ids=["figure 1, relu", "figure 1, tanh", "alexnet, two batch sizes", "batch normalization"],
)  # fmt: skip
def test_a_captured_step_has_the_same_bits(make, batches, gpu):
    expected, weights = trained(make, False, 5 * len(batches), batches)
    found, found_weights = trained(make, True, 5 * len(batches), batches)
    assert found == expected
    assert len({loss for loss, _ in found}) == len(found)  # each step was another
    assert all((a == b).all() for a, b in zip(found_weights, weights, strict=True))


def without_its_own_memory(patch):
    import cupy

    patch.setattr(cupy.cuda, "using_allocator", lambda allocator: contextlib.nullcontext())


def shared_with_others(patch):
    """What the host writes before a replay lies where earlier kernels of it write again."""
    patch.setattr(graph, "own", memory.empty)


def rates_sent_once(patch):
    patch.setattr(graph, "host", lambda fn: right(functools.cache(fn)))


def an_input_left_out(patch):
    patch.setattr(graph._Recording, "replay", lambda self, arrays: replay(self, self.inputs))


right, replay = graph.host, graph._Recording.replay


@pytest.mark.parametrize(
    ("fault", "make"),
    [(without_its_own_memory, small_alexnet), (shared_with_others, figure1("relu")),
     (rates_sent_once, small_alexnet), (an_input_left_out, small_alexnet)],
)  # fmt: skip
def test_a_planted_fault_is_caught(fault, make, standin, monkeypatch):
    fault(monkeypatch)
    with pytest.raises((AssertionError, IndexError, cuda_machine.Unordered)):
        test_a_captured_step_has_the_same_bits(make, (2,), standin)


def test_a_loss_that_is_not_finite_updates_nothing(each_backend):
    device = backends.device()
    net = Sequential([Linear(5, name="fc")], (7,), Comm(device), np.random.default_rng(1))
    optimizer = SGD(net, 0.1)
    before = backends.get(net.layers["fc"].params["w"].copy())
    x = backends.put(np.ones((7, 2), np.float32))
    for loss in (np.nan, np.inf, -np.inf, 1.0):
        net.forward(x, train=True)
        net.backward(backends.put(np.ones((5, 2), np.float32)))
        optimizer.step(backends.put(np.array(loss, np.float32)))
        same = (backends.get(net.layers["fc"].params["w"]) == before).all()
        assert same == (loss != 1)


def test_what_a_recording_may_not_do_is_refused(standin):
    """The host cannot wait in it, and what is copied from the host would be read again in each replay."""

    def rank(comm):
        xp, x = comm.device.xp, comm.device.put(np.ones(3))
        for wrong in (
            lambda a: float(a.sum()),
            lambda a: a + xp.asarray(np.ones(3)),
            lambda a: a.fill(int(a[0])),
        ):
            step = Captured(wrong, comm.device)
            step(x)
            with pytest.raises(cuda_machine.CUDARuntimeError, match="stream is capturing"):
                step(x)
        assert float((Captured(lambda a: 2 * a, comm.device)(x)).sum()) == 6  # the stream is as before

    launch(rank, [Device("cuda:0")])


def test_the_host_draws_a_key_in_each_replay(gpu):
    def rank(comm):
        drop = Dropout().build((8,), comm, np.random.default_rng(2))
        step = Captured(lambda x: drop.forward(x, train=True), comm.device)
        x = comm.device.put(np.ones((8, 8), np.float32))
        return [comm.device.get(step(x)).tolist() for _ in range(4)]

    masks = launch(rank, [backends.device()])[0]
    assert len({str(mask) for mask in masks}) == 4


def test_a_recording_that_is_let_go_gives_its_memory_back(standin):
    """At once, not when Python next looks for cycles."""
    import cupy

    def rank(comm):
        net = Sequential([Linear(5)], (1000,), comm, np.random.default_rng(1))
        x = comm.device.put(np.ones((1000, 8), np.float32))
        labels = comm.device.put(np.zeros(8, np.int64))
        step = Step(net, SGD(net, 0.1))
        step(x, labels)
        before, _ = cupy.cuda.runtime.memGetInfo()
        step(x, labels)
        during, _ = cupy.cuda.runtime.memGetInfo()
        del step, net
        after, _ = cupy.cuda.runtime.memGetInfo()
        assert after > before > during

    gc.collect()
    gc.disable()
    try:
        launch(rank, [Device("cuda:0")])
    finally:
        gc.enable()
