"""Training: ranks change nothing, seeds decide everything, and a step that cannot be is refused.

All run on NumPy, on the stand-in for CuPy and on GPUs.
"""

import re

import backends
import numpy as np
import pytest

from tinyalex.comm import Comm, launch
from tinyalex.data import Images, shapes
from tinyalex.data.loader import InMemory
from tinyalex.devices import parse
from tinyalex.errors import ArgumentError, DataError, NonFiniteError
from tinyalex.models import Network, figure1
from tinyalex.nn import Activate, AllGather, BatchNorm, Conv2d, Linear, Sequential
from tinyalex.ops.softmax import softmax_loss_forward, topk_error
from tinyalex.optim import SGD
from tinyalex.train import Place, Step, StepResult, fit, train_step

pytestmark = pytest.mark.usefixtures("backend")

BATCH = 12


@pytest.fixture(scope="module")
def pictures():
    return shapes.make(30, np.random.default_rng(0))


def on(size, fn):
    return launch(fn, parse(backends.names(size)))


def arrays_of(net):
    return {name: backends.get(layer.params[key]).copy() for name, layer, key in net.parameters()}


# Two convolutions and a product: enough for what does not depend on the network.
SMALL = [
    Conv2d(4, 5, stride=4, activation="relu"),
    Conv2d(4, 3, stride=2, activation="relu", std=0.1),
    Linear(10, std=0.1, name="fc"),
]


def small_net(comm, seed, dtype=np.float64):
    return Network(SMALL, (3, 32, 32)).build(comm, np.random.default_rng(seed), dtype, parallel="data")


def trained(size, pictures, make, steps, seed=0, dtype=np.float64, rate=1e-3):
    """Train on so many ranks; return each rank's (weights, velocities, results)."""

    def rank(comm):
        net = make(comm, seed, dtype)
        optimizer = SGD(net, rate, momentum=0.9, decay=0.004, bias_rate=2 * rate)
        batches = InMemory(pictures, comm, BATCH, dtype)
        results, epoch = [], 0
        while len(results) < steps:
            for x, labels in batches.epoch(np.random.default_rng([seed, epoch])):
                results.append(train_step(net, optimizer, x, labels, len(results)))
            epoch += 1
        return arrays_of(net), backends.get(dict(optimizer.velocity)), results

    return on(size, rank)


# ---- any number of ranks -------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_ranks_train_to_the_same_weights(activation, pictures):
    """Ten steps of Figure 1's network on one rank, on two and on three; on the stand-in two steps, on two."""
    if backends.name == "standin" and activation == "tanh":
        pytest.skip("slow: on the stand-in, ReLU alone")
    steps, sizes = (2, [2]) if backends.name == "standin" else (10, [2, 3])

    def make(comm, seed, dtype):
        return figure1(activation).build(comm, np.random.default_rng(seed), dtype, parallel="data")

    [(weights, velocities, results)] = trained(1, pictures, make, steps)
    start = arrays_of(make(Comm(backends.device()), 0, np.float64))
    assert len(results) == steps
    for size in sizes:
        ranks = trained(size, pictures, make, steps)
        for found_weights, found_velocities, found_results in ranks:
            for name, w in weights.items():
                assert (w != start[name]).any()
                np.testing.assert_allclose(found_weights[name], w, rtol=0, atol=1e-12 * abs(w).max())
                v = velocities[name]
                np.testing.assert_allclose(found_velocities[name], v, rtol=0, atol=1e-12 * abs(v).max())
                assert found_weights[name].tobytes() == ranks[0][0][name].tobytes()  # all ranks, bit for bit
            np.testing.assert_allclose(found_results, results, rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_seed_decides_every_bit(size, dtype, pictures):
    first, again, other = (trained(size, pictures, small_net, 4, seed, dtype)[0] for seed in (5, 5, 6))
    assert first[2] == again[2] != other[2]
    for name in first[0]:
        assert first[0][name].dtype == dtype
        assert first[0][name].tobytes() == again[0][name].tobytes()
        assert first[0][name].tobytes() != other[0][name].tobytes()


@pytest.mark.parametrize("size", [2, 3])
def test_what_crosses_is_gradients(size, pictures):
    def rank(comm):
        net = small_net(comm, seed=3)
        x, labels = next(InMemory(pictures, comm, BATCH, np.float64).epoch(np.random.default_rng(0)))
        train_step(net, SGD(net, 0.1), x, labels)
        return comm.calls

    crossed = [("loss", "all_reduce"), ("fc conv2 conv1 gradients", "all_reduce")]
    assert on(size, rank) == [dict.fromkeys(crossed, 1)] * size


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_share_the_batch_have_the_same_statistics(size, pictures):
    """The average of what each would have found in its part; it crosses with the gradients."""

    def rank(comm):
        layers = [Conv2d(4, 5, stride=4), BatchNorm(name="bn"), Activate("relu"), Linear(10, std=0.1)]
        network = Network(layers, (3, 32, 32))
        net = network.build(comm, np.random.default_rng(0), np.float64, parallel="data")
        x, labels = next(InMemory(pictures, comm, BATCH, np.float64).epoch(np.random.default_rng(0)))
        bn = net.layers["bn"]
        net.forward(x, train=True)
        alone = {key: backends.get(bn.params[key]).copy() for key in bn.statistics}
        for key, start in (("mean", 0), ("var", 1)):
            bn.params[key].fill(start)
        train_step(net, SGD(net, 0.1), x, labels)
        return arrays_of(net), alone, dict(comm.calls)

    ranks = on(size, rank)
    for found, _, calls in ranks:
        crossed = [("loss", "all_reduce"), ("fc1 bn conv1 gradients", "all_reduce")]
        assert calls == dict.fromkeys(crossed, 1)
        assert {name: a.tobytes() for name, a in found.items()} == {
            name: a.tobytes() for name, a in ranks[0][0].items()
        }
        for key in ("mean", "var"):
            apart = [alone[key] for _, alone, _ in ranks]
            assert (apart[0] != apart[1]).any()
            np.testing.assert_allclose(found[f"bn.{key}"], np.mean(apart, axis=0), rtol=1e-12)


def test_training_lowers_the_loss(pictures):
    [(_, _, results)] = trained(1, pictures, small_net, 60, rate=3e-3)
    assert np.mean([r.loss for r in results[-5:]]) < 0.7 * results[0].loss


def test_fit_goes_on_from_the_place_that_it_returned(pictures):
    """It ends after the epochs that it is told, or after the one whose end asks for it; no call is lost."""
    net = small_net(Comm("cpu:0"), 0)
    batches, done = InMemory(pictures, net.comm, BATCH, np.float64), []
    calls = {name: lambda place, *_, name=name: done.append((name, place.epoch, place.batch))
             for name in ("begin_epoch", "on_step", "end_epoch")}  # fmt: skip

    def go_on(place, epochs, **kwargs):
        epoch = lambda epoch, start: list(batches.epoch(np.random.default_rng(epoch)))[start:]  # noqa: E731
        return fit(net, SGD(net, 1e-3), epoch, 2, epochs, place=place, **calls | kwargs)

    assert go_on(None, 1) == Place(1, 0, 2)
    assert done == [("begin_epoch", 0, 0), ("on_step", 0, 1), ("on_step", 0, 2), ("end_epoch", 0, 2)]
    ended = go_on(go_on(Place(), 1), 9, end_epoch=lambda place: place.epoch == 2)
    assert ended == Place(3, 0, 6)
    results = []
    go_on(ended, 4, on_step=lambda place, result: results.append(result),
          end_epoch=lambda place: results.append(place.means()))  # fmt: skip
    first, second, mean = results
    assert mean == StepResult((first.loss + second.loss) / 2, (first.error + second.error) / 2)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_result_is_of_the_whole_batch_before_the_update(size, pictures):
    def rank(comm):
        net = small_net(comm, seed=3)
        x, labels = next(InMemory(pictures, comm, BATCH, np.float64).epoch(np.random.default_rng(0)))
        return train_step(net, SGD(net, 0.1), x, labels)

    alone = Comm(backends.device())
    x, labels = next(InMemory(pictures, alone, BATCH, np.float64).epoch(np.random.default_rng(0)))
    logits = small_net(alone, seed=3).forward(x)
    loss, error = float(softmax_loss_forward(logits, labels)[0]), float(topk_error(logits, labels).mean())
    for result in on(size, rank):
        assert type(result) is StepResult
        np.testing.assert_allclose(result, (loss, error), rtol=1e-12)


def shared_net(comm, seed=0, dtype=np.float64):
    """Two towers and a product whose rows the ranks share."""
    layers = [
        Conv2d(4, 5, stride=4, activation="relu"),
        Conv2d(4, 3, stride=2, groups=2, activation="relu", std=0.1),
        AllGather(),
        Linear(10, std=0.1),
        AllGather(replicated=True),
    ]
    return Sequential(layers, (3, 32, 32), comm, np.random.default_rng(seed), dtype)


def test_ranks_that_share_a_network_train_it_to_the_same_weights(pictures):
    def rank(comm):
        net = shared_net(comm)
        optimizer = SGD(net, 1e-3, momentum=0.9, decay=0.004)
        batches = InMemory(pictures, comm.alone(), 15, np.float64)
        results = [
            train_step(net, optimizer, x, labels)
            for epoch in range(5)
            for x, labels in batches.epoch(np.random.default_rng(epoch))
        ]
        return arrays_of(net), results

    [(weights, results)] = on(1, rank)
    two = on(2, rank)
    assert len(results) == 10
    for name, w in weights.items():
        joined = np.concatenate([found[name] for found, _ in two])
        np.testing.assert_allclose(joined, w, rtol=0, atol=1e-12 * abs(w).max())
    for _, found in two:
        np.testing.assert_allclose(found, results, rtol=1e-12)


# ---- refused -------------------------------------------------------------------------------------------


def spoil(name, key, value):
    def change(net, x):
        net.layers[name].params[key].reshape(-1)[0] = value

    return change


def spoil_input(net, x):
    x[0, 0, 0, 0] = np.nan


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    ("change", "where"),
    [
        (spoil("conv1", "w", np.nan), "parameter conv1.w"),
        (spoil("conv2", "b", np.nan), "parameter conv2.b"),
        (spoil("conv2", "w", np.inf), "parameter conv2.w"),
        (spoil("fc", "w", -np.inf), "parameter fc.w"),
        (spoil("fc", "b", 1e39), "parameter fc.b"),  # in float32: infinity
        (spoil("conv2", "b", 3e38), "the output of fc"),
        (spoil_input, "the input"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_not_finite_is_named_before_any_update(size, change, where, pictures):
    kept = []

    def rank(comm):
        net = small_net(comm, seed=0, dtype=np.float32)
        net.layers["fc"].params["w"][:5] *= 100
        optimizer = SGD(net, 0.125)
        x, labels = next(InMemory(pictures, comm, BATCH).epoch(np.random.default_rng(0)))
        train_step(net, optimizer, x, labels, 6)
        with np.errstate(all="ignore"):
            change(net, x)
        state = (net, optimizer.velocity, x)
        before = pickled(*state)
        try:
            train_step(net, optimizer, x, labels, 7)
        finally:
            kept.append(before == pickled(*state))

    with pytest.raises(NonFiniteError, match=rf"^step 7: the loss is (nan|inf) .*rate 0.125.*: {where}$"):
        on(size, rank)
    assert kept == [True] * size


def pickled(net, velocity, x):
    """The bytes of all that a step might change."""
    return [backends.get(a).tobytes() for a in (*arrays_of(net).values(), *velocity.values(), x)]


@pytest.mark.parametrize("size", [1, 2])
def test_what_is_not_finite_in_a_shared_network_is_named(size, pictures):
    kept = []

    def rank(comm):
        net = shared_net(comm)
        optimizer = SGD(net, 0.1)
        x, labels = next(InMemory(pictures, comm.alone(), BATCH, np.float64).epoch(np.random.default_rng(0)))
        net.layers["conv2"].params["b"][...] = np.nan
        before = pickled(net, optimizer.velocity, x)
        try:
            train_step(net, optimizer, x, labels, 7)
        finally:
            kept.append(before == pickled(net, optimizer.velocity, x))

    with pytest.raises(NonFiniteError, match=r"^step 7: the loss is nan .*rate 0.1.*: parameter conv2.b$"):
        on(size, rank)
    assert kept == [True] * size


@pytest.mark.parametrize("size", [1, 2])
def test_a_huge_rate_ends_in_an_error_that_names_step_and_rate(size, pictures):
    with pytest.raises(
        NonFiniteError, match=r"^step [1-9]: the loss is .* \(learning rate 1e\+20\); first not finite: "
    ):
        trained(size, pictures, small_net, 10, dtype=np.float32, rate=1e20)


@pytest.mark.parametrize("guilty", [0, 1, 2])
def test_a_picture_that_only_one_rank_saw_is_named_all_the_same(guilty, pictures):
    """Whichever rank is first to speak, the message is of the rank that knows."""

    def rank(comm):
        net = small_net(comm, seed=0)
        x, labels = next(InMemory(pictures, comm, BATCH, np.float64).epoch(np.random.default_rng(0)))
        if comm.rank == guilty:
            x[0, 0, 0, 0] = np.nan
        train_step(net, SGD(net, 0.1), x, labels)

    for _ in range(5):
        with pytest.raises(NonFiniteError, match="first not finite: the input"):
            on(3, rank)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(("net_dtype", "data_dtype"), [(np.float32, np.float64), (np.float64, np.float32)])
def test_mixed_dtypes_are_refused(size, net_dtype, data_dtype, pictures):
    def rank(comm):
        net = small_net(comm, 0, net_dtype)
        x, labels = next(InMemory(pictures, comm, BATCH, data_dtype).epoch(np.random.default_rng(0)))
        train_step(net, SGD(net, 0.1), x, labels)

    data, weights = np.dtype(data_dtype).name, np.dtype(net_dtype).name
    with pytest.raises(TypeError, match=f"x is {data}, w is {weights}"):
        on(size, rank)


# ---- batches -------------------------------------------------------------------------------------------


def epoch_of(batches, seed):
    """The epoch's (images, labels), as arrays of NumPy's."""
    return [backends.get(batch) for batch in batches.epoch(np.random.default_rng(seed))]


def numbered(n):
    """Pictures that are told apart by their first pixel and their label."""
    images = np.random.default_rng(1).integers(0, 256, (3, 4, 5, n)).astype(np.uint8)
    images[0, 0, 0] = np.arange(n)
    return Images(images, np.arange(n), tuple(map(str, range(n))))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_epoch_shows_each_picture_once_with_the_mean_taken_off(size, dtype):
    data = numbered(36)

    def rank(comm):
        batches = InMemory(data, comm, BATCH, dtype)
        return [epoch_of(batches, [2, epoch]) for epoch in (0, 0, 1)]

    ranks = on(size, rank)
    mean = data.images.astype(np.float64).mean(axis=3, keepdims=True)
    orders = []
    for epoch in range(3):
        order = []
        for parts in zip(*(r[epoch] for r in ranks), strict=True):
            for x, labels in parts:
                assert x.shape == (3, 4, 5, BATCH // size)
                assert x.dtype == dtype
                assert labels.shape == (BATCH // size,)
                np.testing.assert_allclose(x, data.images[..., labels] - mean, atol=1e-4, rtol=0)
                order.extend(labels)
        assert sorted(order) == list(range(36))  # once each, so the parts are disjoint
        orders.append(order)
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])


def test_the_ranks_share_the_very_batches_of_one_rank():
    def rank(comm):
        return [labels for _, labels in epoch_of(InMemory(numbered(30), comm, BATCH), 0)]

    [one] = on(1, rank)
    for size in (2, 3):
        assert [np.concatenate(parts).tolist() for parts in zip(*on(size, rank), strict=True)] == [
            labels.tolist() for labels in one
        ]


def test_pictures_that_fill_no_batch_are_left_out():
    batches = InMemory(numbered(29), Comm(backends.device()), BATCH)
    shown = [labels for _, labels in epoch_of(batches, 0)]
    assert [len(labels) for labels in shown] == [12, 12]
    assert batches.steps == 2
    assert len(set(np.concatenate(shown))) == 24


@pytest.mark.parametrize("batch", [0, -1, 2.5, None, "8"], ids=repr)
def test_a_batch_that_is_no_number_of_pictures_is_refused(batch):
    with pytest.raises(ArgumentError, match="batch: expected a whole number ≥ 1, found"):
        InMemory(numbered(20), batch=batch)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"images": None}, "images: expected an Images, found None"),
        ({"images": np.zeros((3, 8, 8, 20))}, "images: expected an Images, found float64 (3, 8, 8, 20)"),
        ({"images": numbered(20)._replace(images=[1])}, "images: expected images, an array, found list"),
        (
            {"images": numbered(20)._replace(images=np.ones(20))},
            "images: expected images (C,H,W,N), found (20,",
        ),
        ({"images": numbered(20)._replace(labels=[0] * 19)}, "images: expected 20 whole numbers as labels"),
        ({"images": numbered(20)._replace(labels=[0.5] * 20)}, "images: expected 20 whole numbers as labels"),
        ({"images": numbered(20)._replace(labels=["a"] * 20)}, "images: expected 20 whole numbers as labels"),
        ({"comm": "cpu:0"}, "comm: expected a Comm, found 'cpu:0'"),
    ],
)
def test_pictures_that_are_none_and_labels_that_do_not_fit_are_refused(change, says):
    with pytest.raises(ArgumentError, match=f"^{re.escape(says)}"):
        InMemory(**{"images": numbered(20), "batch": 10} | change)


def test_labels_may_be_a_list_and_an_order_wants_a_generator():
    batches = InMemory(numbered(20)._replace(labels=[float(n) for n in range(20)]), batch=20)
    _, labels = next(batches.epoch(np.random.default_rng(0)))
    assert (sorted(labels), labels.dtype) == ([*range(20)], np.int64)
    with pytest.raises(ArgumentError, match=r"^rng: expected a generator, such as np\..*, found 0$"):
        next(batches.epoch(0))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="10 cannot be shared evenly by 3 ranks"):
        on(3, lambda comm: list(InMemory(numbered(20), comm, batch=10).epoch(np.random.default_rng(0))))


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_is_asked_for_during_the_step_before(size, pictures, monkeypatch):
    """One rank alone does so.  What cannot be had is an error of the step that wants it: the others count."""
    begin = Step.begin

    def told(step, *batch):
        end = begin(step, *batch)
        step.net.seen.append("begun")
        return lambda: step.net.seen.append("ended") or end()

    monkeypatch.setattr(Step, "begin", told)

    def rank(comm):
        net, seen, place = small_net(comm, 0), [], Place()
        net.seen = seen
        batch = next(InMemory(pictures, comm, BATCH, np.float64).epoch(np.random.default_rng(0)))

        def batches(epoch, start):
            for n in range(2):
                seen.append(f"asked for {n}")
                yield batch
            raise DataError("no third one")

        with pytest.raises(DataError, match="no third one"):
            fit(net, SGD(net, 0.01), batches, 3, 1, place=place, on_step=lambda *_: seen.append("step"))
        return seen, place.step

    seen, steps = on(size, rank)[0]
    first = ["asked for 1", "ended", "step"] if size == 1 else ["ended", "step", "asked for 1"]
    assert seen == ["asked for 0", "begun", *first, "begun", "ended", "step"]
    assert steps == 2


def test_an_epoch_may_be_a_sequence_without_iter(pictures):
    class Epoch:
        def __init__(self, batches):
            self.batches = list(batches)

        def __getitem__(self, i):
            return self.batches[i]

    net = Network([Linear(10)], (3, 32, 32)).build(rng=0)
    batches, rng = InMemory(pictures, batch=15), np.random.default_rng(0)
    place = fit(net, SGD(net, 1e-4), lambda epoch, start: Epoch(batches.epoch(rng)), batches.steps, 1)
    assert (place.epoch, place.step) == (1, batches.steps)


def test_what_fit_calls_may_be_none(pictures):
    """As by default; a function of any of the three is called all the same."""

    def on_one(comm):
        net = Network([Linear(10)], (3, 32, 32)).build(comm, np.random.default_rng(0))
        batches, rng, called = InMemory(pictures, comm, 15), np.random.default_rng(0), []

        def go(place=None, epochs=1, **hooks):
            epoch = lambda epoch, start: batches.epoch(rng)  # noqa: E731
            return fit(net, SGD(net, 1e-4), epoch, batches.steps, epochs, place=place, **hooks)

        place = go(begin_epoch=None, on_step=None, end_epoch=None)
        assert (place.epoch, place.step) == (1, 2)
        hooks = {
            name: lambda *args, name=name: called.append(name)
            for name in ("begin_epoch", "on_step", "end_epoch")
        }
        for name in hooks:
            go(place, place.epoch + 1, **{**dict.fromkeys(hooks), name: hooks[name]})
        return called

    assert on(1, on_one)[0] == ["begin_epoch", "on_step", "on_step", "end_epoch"]


def test_images_and_labels_that_are_no_arrays_are_named(pictures):
    def on_one(comm):
        net = small_net(comm, 0)
        images, labels = next(InMemory(pictures, comm, BATCH, np.float64).epoch(np.random.default_rng(0)))
        for name in ("images", "labels"):
            for wrong in (None, [1, 2]):
                given = {"images": images, "labels": labels} | {name: wrong}
                says = f"^train_step: expected {name}, an array, found {type(wrong).__name__}$"
                with pytest.raises(ArgumentError, match=says):
                    train_step(net, SGD(net, 1e-4), **given)
        for wrong in (None, [[1.0]], "pictures"):
            says = rf"^conv1: expected an input \(3, 32, 32, N\), found {type(wrong).__name__}$"
            with pytest.raises(ArgumentError, match=says):
                net.forward(wrong)

    on(1, on_one)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"epochs": "3"}, "fit: epochs: expected a whole number ≥ 0, found '3'"),
        ({"epochs": 1.5}, "fit: epochs: expected a whole number ≥ 0, found 1.5"),
        ({"steps": "2"}, "fit: steps: expected a whole number ≥ 0, found '2'"),
        ({"steps": 0}, "fit: batches: expected 1 an epoch, found 0"),
        ({"parts": 0}, "parts: expected a whole number ≥ 1, found 0"),
        ({"parts": 2}, "expected 15 labels, in 2 equal parts, one an image; found (15,)"),
        ({"steps": 3}, "fit: batches: expected 3 an epoch, found 2"),
        ({"steps": 1}, "fit: batches: expected 1 an epoch, found 2"),
        ({"optimizer": None}, "expected an optimizer of this network, found None"),
        ({"optimizer": "another's"}, "expected an optimizer of this network, found SGD"),
        ({"labels": 14}, "expected 15 labels, one an image; found (14,)"),
        ({"labels": 16}, "expected 15 labels, one an image; found (16,)"),
        ({"batches": None}, "fit: batches: expected a function, found None"),
        ({"batches": [1]}, "fit: batches: expected a function, found [1]"),
        ({"yields": None}, "fit: batches: expected what yields (images, labels), found None"),
        ({"yields": [3]}, "fit: batches: expected pairs, found 3"),
        ({"yields": [np.ones((2, 3))]}, "batches: expected pairs, found float64 (2, 3)"),
        ({"yields": [(1, 2, 3)]}, "fit: batches: expected pairs, found (1, 2, 3)"),
        ({"yields": [(np.ones(()), np.ones(2))]}, "expected 0 labels, one an image; found (2,)"),
        ({"on_step": "print"}, "fit: on_step: expected a function, found 'print'"),
        ({"end_epoch": 1}, "fit: end_epoch: expected a function, found 1"),
        ({"begin_epoch": [1]}, "fit: begin_epoch: expected a function, found [1]"),
        ({"place": 3}, "fit: place: expected a Place, found 3"),
    ],
    ids=str,
)
def test_what_would_train_on_something_else_is_refused(change, text, pictures):
    """Not on fewer pictures or batches than were given, and not another network's weights."""

    def on_one(comm):
        made = Network([Linear(10)], (3, 32, 32))
        net, other = (made.build(comm, np.random.default_rng(0)) for _ in range(2))
        given = {"optimizer": SGD(net, 1e-4), "steps": 2, "epochs": 1} | change
        if given["optimizer"] == "another's":
            given["optimizer"] = SGD(other, 1e-4)
        count, loader = given.pop("labels", 15), InMemory(pictures, comm, 15)

        def batches(epoch, start):
            for images, labels in loader.epoch(np.random.default_rng(0)):
                yield images, backends.put(np.resize(backends.get(labels), count))

        yields = given.pop("yields", ...)
        call = batches if yields is ... else lambda epoch, start: yields
        with pytest.raises(ArgumentError, match=re.escape(text)):
            fit(net, **{"batches": call} | given)

    on(1, on_one)


def test_the_pictures_stay_as_they_are():
    data = numbered(24)
    before = data.images.tobytes(), data.labels.tobytes()
    for x, labels in InMemory(data, Comm(backends.device()), BATCH).epoch(np.random.default_rng(0)):
        x[...] = 0
        labels[...] = 0
    assert (data.images.tobytes(), data.labels.tobytes()) == before
