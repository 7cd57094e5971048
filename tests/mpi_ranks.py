"""What the ranks of test_mpi.py run: mpiexec -n 2 python mpi_ranks.py PROGRAM."""

import os
import sys
import threading
import time
from types import SimpleNamespace

import cuda_machine
import cupy_standin
import numpy as np

from tinyalex.comm import launch, mpi
from tinyalex.comm.mpi import MPIComm
from tinyalex.devices import Device
from tinyalex.models import AlexNet, alexnet, figure1
from tinyalex.models.alexnet import narrow
from tinyalex.ops.softmax import softmax_loss_backward, softmax_loss_forward
from tinyalex.optim import SGD
from tinyalex.runs import checkpoint
from tinyalex.train import train_step


def array(rank, shape, dtype):
    """A rank's array, its values of many magnitudes: adding them in another order gives other bits."""
    rng = np.random.default_rng([rank, *shape])
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 5, shape)).astype(dtype)


def add_up(arrays):
    """The sum in the order of the ranks."""
    total = arrays[0]
    for a in arrays[1:]:
        total = total + a
    return total


def collectives(comm):
    """Check every collective against what it says; return all results and the ledger."""
    results = []
    for dtype in ("float32", "float64"):
        for shape in ((6, 12, 18), (12, 18, 6)):
            everyone = [array(r, shape, dtype) for r in range(comm.size)]
            for view in (lambda a: a, lambda a: a.transpose(2, 0, 1), lambda a: a[::-1, ::2]):
                arrays = [view(a) for a in everyone]
                x, before = arrays[comm.rank], arrays[comm.rank].copy()
                checks = [
                    (comm.all_reduce(x), add_up(arrays)),
                    (comm.all_reduce(x[:5, 1:2, :1]), add_up([a[:5, 1:2, :1] for a in arrays])),
                    (comm.broadcast(x if comm.rank == 1 else None, root=1), arrays[1]),
                ]
                for axis in (0, -1):
                    with comm.on_behalf_of(f"axis {axis}"):
                        checks.append((comm.all_gather(x, axis), np.concatenate(arrays, axis)))
                        parts = np.split(add_up(arrays), comm.size, axis)
                        checks.append((comm.reduce_scatter(x, axis), parts[comm.rank]))
                assert np.array_equal(x, before)
                for found, expected in checks:
                    assert found.dtype == dtype
                    assert np.array_equal(found, expected)
                results += [found for found, _ in checks]
    return results, comm.ledger, comm.calls


def parts(comm):
    """Meet in parts of the ranks, on behalf of a layer; return what was given and the ledger."""
    results = []
    with comm.on_behalf_of("fc6"):
        for colour in ("ab"[comm.rank % 2], comm.rank < 1, comm.rank, None):
            part = comm.split(colour)
            x = array(comm.rank, (6, 4), "float32")
            results += [part.all_reduce(x), part.all_gather(x, 1), part.broadcast(x, part.size - 1)]
            results += [np.array([part.rank, part.size]), part.share(x if part.rank == 0 else None)]
    return results, comm.ledger, comm.calls


def mismatch(comm):
    """The message every rank gets when their arrays differ."""
    messages = []
    for x in (np.zeros((2, 3 + comm.rank % 2)), np.zeros((2, 3), f"float{32 << comm.rank % 2}")):
        for collective in (comm.all_gather, comm.reduce_scatter, comm.all_reduce):
            try:
                collective(x)
            except ValueError as error:
                messages.append(str(error))
    return messages


def train(comm):
    """Ten data-parallel steps in float64 on random pictures; return losses, weights and the ledger."""
    rng = np.random.default_rng(3)
    net = figure1().build(comm, rng, np.float64, parallel="data")
    optimizer = SGD(net, 0.001)
    results = []
    for step in range(10):
        pictures, labels = rng.uniform(-128, 128, (3, 32, 32, 6)), rng.integers(0, 10, 6)
        part = comm.part(6)
        x = np.ascontiguousarray(pictures[..., part])
        results.append(train_step(net, optimizer, x, labels[part], step))
    return [results, *(layer.params[key] for _, layer, key in net.parameters())], comm.ledger, comm.calls


def same_as_threads(comm, program):
    """Assert that the program gives every rank the bits, and the ledger, that it gives a thread."""
    comm.ledger.clear(), comm.calls.clear()
    mine = program(comm)
    threads = None
    if comm.rank == 0:
        threads = launch(program, [Device(f"cpu:{k}") for k in range(comm.size)])
    (expected, *books) = comm.share(threads)[comm.rank]
    assert len(mine[0]) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(mine[0], expected, strict=True))
    assert list(mine[1:]) == books


class Elsewhere(np.ndarray):
    """Memory that this test's MPI may not touch."""


class ElsewhereDevice(Device, kind="elsewhere"):
    """A device whose arrays must be copied to the host: as a GPU under an MPI that is not CUDA-aware."""

    def __init__(self):
        super().__init__("cpu:0")
        self.kind = "cuda"

    def put(self, array):
        """Host → here."""
        assert type(array) is np.ndarray
        return array.copy().view(Elsewhere)

    def get(self, array):
        """Here → host."""
        assert type(array) is Elsewhere
        return array.copy().view(np.ndarray)


class AwareDevice(Device, kind="aware"):
    """A device whose arrays MPI reads itself, when the device has done its work: CUDA-aware."""

    def __init__(self):
        super().__init__("cpu:0")
        self.kind, self.waits = "cuda", 0
        stream = SimpleNamespace(synchronize=self.wait)
        cuda = SimpleNamespace(get_current_stream=lambda: stream)
        self.xp = SimpleNamespace(**vars(np) | {"cuda": cuda})
        self.put = self.get = None  # nothing may be copied

    def wait(self):
        """Count the calls."""
        self.waits += 1


class Aware:
    """The communicator of an MPI that says it can read these kinds of memory."""

    def __init__(self, mpi, kinds):
        self.mpi, self.kinds = mpi, kinds

    def __getattr__(self, name):
        return getattr(self.mpi, name)

    def Get_info(self):
        """What MPI 4.1 says of itself."""
        return {"mpi_memory_alloc_kinds": f"mpi,system,{self.kinds}"}


def on_device(comm, put, kind):
    """Assert that the collectives take a device's arrays and return arrays of the device."""
    arrays = [array(r, (6, 4, 6), "float32") for r in range(comm.size)]
    x = put(arrays[comm.rank])
    for found, expected in (
        (comm.all_reduce(x), add_up(arrays)),
        (comm.all_gather(x, -1), np.concatenate(arrays, -1)),
        (comm.reduce_scatter(x, -1), np.split(add_up(arrays), comm.size, -1)[comm.rank]),
        (comm.broadcast(x), arrays[0]),
    ):
        assert type(found) is kind
        assert np.array_equal(found, expected)


def check(comm):
    """All that must hold for any number of ranks."""
    from mpi4py import MPI

    assert comm.device.name == f"cpu:{comm.rank}"
    same_as_threads(comm, collectives)
    same_as_threads(comm, parts)
    messages = mismatch(comm)
    assert len(messages) == 6
    assert "the ranks' arrays differ: [((2, 3), 'float64'), ((2, 4), 'float64')]" in messages[0]
    staged = ElsewhereDevice()
    for world in MPI.COMM_WORLD, Aware(MPI.COMM_WORLD, "cuda:host"):
        on_device(MPIComm(staged, world), staged.put, Elsewhere)
    for kinds in "cuda", "cuda:device":
        aware = AwareDevice()
        on_device(MPIComm(aware, Aware(MPI.COMM_WORLD, kinds)), np.asarray, np.ndarray)
        assert aware.waits == 5  # one before each message; all_reduce sends two
    shared = comm.share(
        {"mean": np.arange(12.0).reshape(3, 4), "names": ("a", 1)} if comm.rank == 0 else None
    )
    assert np.array_equal(shared["mean"], np.arange(12.0).reshape(3, 4))
    assert shared["names"] == ("a", 1)
    shared["mean"] += 1  # each process has its own


def towers(comm):
    """AlexNet on two processes against both towers on one rank: logits, gradients, and ten steps later."""
    network = alexnet(narrow(AlexNet(size=67, classes=10), 0.1))
    rng = np.random.default_rng(3)
    images, labels = rng.standard_normal((3, 67, 67, 5)) * 60, rng.integers(0, 10, 5)

    def run(comm):
        net = network.build(comm, np.random.default_rng(0), np.float64)
        optimizer = SGD(net, 0.01, decay=0.0005)
        logits = net.forward(images)
        _, cache = softmax_loss_forward(logits, labels)
        net.backward(softmax_loss_backward(cache))
        found = {name: comm.all_gather(layer.grads[key]) for name, layer, key in net.parameters()}
        found["logits"] = logits
        for step in range(10):
            train_step(net, optimizer, images, labels, step)
        return found | {f"later {name}": array for name, array in checkpoint.state(net, optimizer).items()}

    found, expected = run(comm), run(comm.alone())
    assert found.keys() == expected.keys()
    for name, array in found.items():
        scale = np.abs(expected[name]).max()
        assert np.abs(array - expected[name]).max() <= 1e-10 * scale, name


def layouts(comm):
    """Each layout on four processes against one rank: gradients, and ten steps later."""
    network = alexnet(narrow(AlexNet(size=67, classes=12), 0.05))
    rng = np.random.default_rng(3)
    images, labels = rng.standard_normal((3, 67, 67, 8)) * 60, rng.integers(0, 12, 8)

    def run(comm, parallel):
        net = network.build(comm, np.random.default_rng(0), np.float64, parallel)
        optimizer, part, found = SGD(net, 0.01, decay=0.0005), net.data.part(8), {}
        for step in range(10):
            train_step(net, optimizer, np.ascontiguousarray(images[..., part]), labels[part], step)
            if not step:
                found = {n: layer.comm.all_gather(layer.grads[key]) for n, layer, key in net.learned()}
        return found | {f"later {name}": array for name, array in checkpoint.state(net, optimizer).items()}

    expected = run(comm.alone(), "model")
    for parallel in ("model", "data", "hybrid", "hybrid:b"):
        found = run(comm, parallel)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            scale = np.abs(expected[name]).max()
            assert np.abs(array - expected[name]).max() <= 1e-10 * scale, (parallel, name)


def cards(comm):
    """Two ranks or more on two cards of the stand-in for CuPy, whose arrays MPI cannot read."""
    assert comm.device.name == f"cuda:{comm.rank % 2}"
    assert comm.device.xp.cuda.runtime.getDevice() == comm.rank % 2
    arrays = [array(r, (6, 4, 6), "float32") for r in range(comm.size)]
    x, get = comm.device.put(arrays[comm.rank]), comm.device.get
    assert np.array_equal(get(comm.all_reduce(x)), add_up(arrays))
    assert np.array_equal(get(comm.all_gather(x, 1)), np.concatenate(arrays, 1))
    mine = np.split(add_up(arrays), comm.size, -1)[comm.rank]
    assert np.array_equal(get(comm.reduce_scatter(x, -1)), mine)
    assert np.array_equal(get(comm.broadcast(x, 1)), arrays[1])


def fail(comm):
    """Raise on the last rank while the others wait for it."""
    if comm.rank == comm.size - 1:
        raise ValueError("this rank has failed")
    comm.all_reduce(np.ones(3))


def wait(comm):
    """Meet until interrupted."""
    print(f"ready {comm.rank} {os.getpid()};", flush=True)
    while True:
        comm.all_reduce(np.ones(3))


def late(comm):
    """Come to the end one after the other."""
    time.sleep(0.7 * comm.rank)
    print(f"ended {time.monotonic()}", flush=True)


class Sent:
    """A message on its way: it has arrived when it has been asked three times, or never."""

    def __init__(self, request):
        self.request, self.asked = request, 0

    def Test(self):
        """Whether it has arrived."""
        self.asked += 1
        return self.asked >= 3 and self.request is not None and self.request.Test()


class Both:
    """The communicator of rank `rank` of two, both in this process; alone, nothing comes or arrives."""

    def __init__(self, rank, world, alone=False):
        self.rank, self.world, self.alone, self.said = rank, world, alone, []

    def Get_rank(self):
        """Of two."""
        return self.rank

    def Get_size(self):
        """Both."""
        return 2

    def Dup(self):
        """It has no other use."""
        return self

    def allgather(self, name):
        """The machines."""
        return [name, name]

    def Isend(self, word, to):
        """Through MPI, to this process; kept, to be looked at later."""
        self.said.append(Sent(None if self.alone else self.world.Isend(word, 0, to)))
        return self.said[-1]

    def Irecv(self, word, source):
        """What the other rank has sent to this one."""
        return Sent(None) if self.alone else self.world.Irecv(word, 0, self.rank)


class ShortSeconds(threading.Event):
    """Of 5 ms; waits: how often somebody has waited."""

    waits = 0

    def wait(self, timeout=None):
        """Wait so many of them."""
        self.waits += 1
        return super().wait(timeout and timeout / 200)


def watches():
    """Of two watches each hears the other; one whose end has come waits for the other's; a third is alone."""
    from mpi4py import MPI

    lost = []

    def lose(watch, rank):
        lost.append(rank)
        raise SystemExit  # of the thread

    mpi.threading = SimpleNamespace(Thread=threading.Thread, Event=ShortSeconds)
    mpi._Watch._lost = lose
    a, b = (mpi._Watch(Both(rank, MPI.COMM_SELF)) for rank in range(2))

    def until_said(count):
        while len(a.mpi.said) < count:
            assert a.thread.is_alive()
            time.sleep(0.005)

    until_said(3 * mpi.LOST)
    b.done.set()
    until_said(6 * mpi.LOST)  # nor is one lost that has come to its end
    assert b.thread.is_alive()
    a.stop()
    b.stop()
    assert not lost
    assert all(sent.asked >= 3 for watch in (a, b) for sent in watch.mpi.said)  # also the last words
    alone = mpi._Watch(Both(0, MPI.COMM_SELF, alone=True))
    alone.thread.join()
    assert lost == [1]
    assert alone.done.waits == mpi.LOST + 1
    assert len(alone.mpi.said) == mpi.LOST  # more are not on their way at once


PROGRAMS = {
    "check": check,
    "train": lambda comm: same_as_threads(comm, train),
    "towers": towers,
    "layouts": layouts,
    "fail": fail,
    "wait": wait,
    "size": lambda comm: print(f"{comm.size} ranks, {comm.device}"),
}

if __name__ == "__main__":
    if sys.argv[1] == "cuda":
        launch(PROGRAMS["size"], "mpi:cuda")
    elif sys.argv[1] == "cards":
        cupy_standin.install()
        cuda_machine.machine.devices = 2
        launch(cards, "mpi:cuda")
    elif sys.argv[1] == "watches":
        watches()
    elif sys.argv[1] == "late":
        launch(late, "mpi")
        print(f"left {time.monotonic()}")
    else:
        launch(PROGRAMS[sys.argv[1]], "mpi")
    print("finished")
