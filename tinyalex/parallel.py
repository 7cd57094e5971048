"""How ranks share a network and a batch: model, data and hybrid parallelism, and the steps that they make.

    model            The layers are shared: each rank has its part of the filters and features, the paper's
                     towers.  More ranks than towers: every group of them has all towers, and a part of the
                     batch (towers × data).
    data             The batch is shared: each rank has the whole network.  The gradients are summed.
    hybrid           Convolutions share the batch, fully connected layers the features  (Krizhevsky, 2014: One
                     weird trick for parallelizing convolutional neural networks).  Between them the ranks
                     exchange images: all have their last maps joined at once (his scheme a).
    hybrid:b         The same, but the ranks take turns: the first gives its images to all, and while the
                     fully connected layers work on them the second's travel (his scheme b).
    hybrid:variable  As hybrid:b, but the fully connected layers are updated after each turn, and learn from
                     batches as much smaller as there are ranks.  Not the step that one rank makes.

All others make the step that one rank makes, to rounding, dropout included.
"""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tinyalex.errors import ArgumentError
from tinyalex.fields import check_numbers
from tinyalex.memory import empty
from tinyalex.nn import Layer, Linear, Placed, plan
from tinyalex.nn.sequential import named

LAYOUTS = "model", "data", "hybrid", "hybrid:b", "hybrid:variable"
BUCKET = 1 << 18  # numbers of gradients that travel together, at least


@dataclass(repr=False)
class AllImages(Layer, is_kind=False):
    """Join the ranks' parts of the batch: from here on every rank sees all images.

    What follows differs between the ranks, so backward sums the gradients and hands each rank its own images.
    in_turn: the step gives the ranks' images one after the other; update: and updates after each.
    """

    in_turn: bool = False
    update: bool = False

    keeps = ()

    def forward(self, x, train=False):
        """x (C, …, N/ranks) → (C, …, N)."""
        return self.comm.all_gather(x, axis=-1)

    def backward(self, dy):
        """dy (C, …, N) → dx (C, …, N/ranks)."""
        return self.comm.reduce_scatter(dy, axis=-1)


def lay_out(network, ranks: int, parallel: str = "model") -> list[Placed]:
    """Lay a `Network` out on so many ranks in one of the `LAYOUTS`: return a list of `Placed`.

    Raises ArgumentError, naming the layer, where the ranks cannot share it evenly.
    """
    check_numbers("", 1, int, ranks=ranks)
    layers, shape = network.layers, network.input
    if parallel not in LAYOUTS:
        raise ArgumentError(f"parallel: expected one of {', '.join(LAYOUTS)}, found {parallel!r}")
    if parallel == "data" or ranks == 1:
        return plan(layers, shape, 1, ranks)
    if parallel == "model":
        towers = network.most_ranks
        if ranks % towers:
            raise ArgumentError(
                f"{ranks} ranks cannot share {towers} towers evenly: 1, or a multiple of {towers}"
            )
        rows = towers if towers > 1 else ranks
        return plan(layers, shape, rows, ranks // rows)
    layers = named(layers)
    first = next((i for i, layer in enumerate(layers) if isinstance(layer, Linear)), 0)
    if not first:
        raise ArgumentError(f"parallel: {parallel} wants convolutions and then fully connected layers")
    front = plan(layers[:first], shape, 1, ranks)
    meeting = AllImages(parallel != "hybrid", parallel == "hybrid:variable", name="gather_images")
    maps = front[-1].y
    return [*front, Placed(meeting, maps, maps, False, False, ranks), *plan(layers[first:], maps, ranks)]


def usual(network) -> str:
    """Return the layout that a network gets where none is asked for: "model" if it has towers, else "data".

    With batch normalization "model" too: its statistics are those of a rank's part of the batch.
    """
    normalized = any(layer.statistics for layer in network.layers)
    return "model" if network.most_ranks > 1 or normalized else "data"


def most_ranks(network, parallel: str, batch: int) -> int:
    """Return into how many equal parts a step can be cut, for as many devices as there are."""
    if parallel == "model":
        return network.most_ranks
    features = [layer.features for layer in network.layers if isinstance(layer, Linear)]
    return batch if parallel == "data" else math.gcd(batch, *features)


def keeps_ranks(network, parallel: str) -> bool:
    """Whether what is learned depends on the number of ranks, beyond rounding."""
    normalized = any(layer.statistics for layer in network.layers)
    return parallel == "hybrid:variable" or (parallel != "model" and normalized)


def buckets(placed: list[Placed]) -> list[list[Placed]]:
    """Return the layers whose gradients are summed over the ranks, by message, in the order of backward."""
    found, numbers = [], BUCKET
    for place in reversed(placed):
        sizes = place.layer.sizes(place.x)
        if place.parts > 1 and sizes:
            if numbers >= BUCKET:
                found.append([])
                numbers = 0
            found[-1].append(place)
            numbers += sum(map(math.prod, sizes.values())) // place.ranks
    return found


class Background:
    """Collectives that go on, in their order, while the ranks compute: in a thread, on a GPU's own stream."""

    def __init__(self, comm):
        self.comm, self._thread = comm, ThreadPoolExecutor(1, "tinyalex-comm")
        comm._labels = [""]  # the thread's own

    def start(self, collective, x, *args, label):
        """Begin comm.collective(x, *args); return a function that waits for what it returns.

        x must not be written to before that.  label: see `Comm.on_behalf_of`.
        """
        device, event = self.comm.device, self.comm.device.record()

        def run():
            with device.context(), self.comm.on_behalf_of(label):
                device.wait(event)
                return getattr(self.comm, collective)(x, *args)

        return self._thread.submit(run).result


def behind(net) -> Background:
    """Return the `Background` of the ranks that share a network's batch, who ask for it together."""
    if net.behind is None:
        net.behind = Background(net.data.split(None))
    return net.behind


class Sums:
    """The sums of one step's gradients over the ranks that share the batch, and the averages of statistics.

    `add` is called after each layer's backward; a message travels while backward goes on.
    """

    def __init__(self, net):
        self.net, self.sent = net, []
        self.by_last = {bucket[-1].layer.name: bucket for bucket in buckets(list(net.placed.values()))}

    def start(self, what, x):
        """Begin to sum x over the ranks; return a function that waits for it."""
        return behind(self.net).start("all_reduce", x, label=what)

    def now(self, what, x):
        """Do so where nothing is left to compute meanwhile: on a CPU a thread takes longer than the sum."""
        if self.net.comm.device.kind != "cpu":
            return self.start(what, x)
        with self.net.comm.on_behalf_of(what):
            found = self.net.data.all_reduce(x)
        return lambda: found

    def labels(self, labels):
        """Return those of the whole batch."""
        with self.net.comm.on_behalf_of("labels"):
            return self.net.data.all_gather(labels)

    def add(self, layer):
        """Send the gradients of a bucket whose last layer this is."""
        layers = [place.layer for place in self.by_last.get(layer.name, ())]
        if layers:
            arrays = [(one, key) for one in layers for key in one.params]
            xp, parts = self.net.comm.device.xp, [_summed(*array).ravel() for array in arrays]
            flat = empty(xp, (sum(part.size for part in parts),), parts[0].dtype)
            xp.concatenate(parts, out=flat)
            label = " ".join([*(one.name for one in layers), "gradients"])
            begin = self.now if layer.name == next(reversed(self.by_last)) else self.start
            self.sent.append((arrays, begin(label, flat)))

    def take(self):
        """Wait for the sums, and put them where the gradients and statistics were."""
        for arrays, wait in self.sent:
            summed, start = wait(), 0
            for layer, key in arrays:
                old = _summed(layer, key)
                found = summed[start : start + old.size].reshape(old.shape)
                start += old.size
                if key in layer.statistics:
                    old[...] = found / self.net.data.size
                else:
                    layer.grads[key] = found


def _summed(layer, key):
    return layer.params[key] if key in layer.statistics else layer.grads[key]


def turns(net):
    """Return the layer before which the ranks take turns, or None."""
    return next((a for a in net.layers.values() if isinstance(a, AllImages) and a.in_turn), None)


def updated_in_turn(net) -> list[str]:
    """Return the names of the layers that are updated after each turn."""
    meeting = turns(net)
    back = _halves(net, meeting)[1] if meeting and meeting.update else None
    return [name for name, layer in back.layers.items() if layer.weights] if back else []


def in_turn(net, optimizer, loss_of, images, labels):
    """One step of hybrid:b or hybrid:variable; return the loss and the number of errors as one array.

    loss_of(logits, labels, total): the loss, the number of errors and the gradient.
    """
    sums, meeting, ranks, each = Sums(net), turns(net), net.data.size, labels.size
    front, back = _halves(net, meeting)
    forward, backward = (f"{meeting.name} {direction}" for direction in ("forward", "backward"))
    labels = sums.labels(labels)
    x = front.forward(images, train=True)
    loss, errors, slopes, gradients = 0, 0, [], {}
    generator = net.rng.bit_generator.state
    coming = behind(net).start("broadcast", x, 0, label=forward)
    for turn in range(ranks):
        x_turn = coming()
        if turn + 1 < ranks:
            coming = behind(net).start("broadcast", x, turn + 1, label=forward)
        net.rng.bit_generator.state = generator  # the masks are those of the whole batch
        for layer in back.layers.values():
            layer.images = turn, ranks
        logits = back.forward(x_turn, train=True)
        total = each if meeting.update else each * ranks
        of_turn, wrong, slope = loss_of(logits, labels[turn * each :][:each], total)
        slopes.append(back.backward(slope))
        if meeting.update:
            optimizer.step(of_turn, back)
        else:
            for name, layer, key in back.learned():
                layer.grads[key] = gradients[name] = gradients.get(name, 0) + layer.grads[key]
        loss, errors = loss + of_turn, errors + wrong
    if meeting.update:
        loss, slopes = loss / ranks, [slope / ranks for slope in slopes]
    with net.comm.on_behalf_of(backward):
        slope = net.data.reduce_scatter(net.comm.device.xp.concatenate(slopes, axis=-1), axis=-1)
    front.backward(slope, sums.add)
    sums.take()
    optimizer.step(loss, front if meeting.update else None)
    return net.comm.device.xp.stack([loss, errors])


def _halves(net, meeting):
    """Return the layers before the ranks exchange images, and those after, as two networks."""
    names = list(net.layers)
    at = names.index(meeting.name)
    front, back = copy.copy(net), copy.copy(net)
    front.layers = {name: net.layers[name] for name in names[:at]}
    back.layers = {name: net.layers[name] for name in names[at + 1 :]}
    back.input_shape = net.placed[meeting.name].y
    return front, back
