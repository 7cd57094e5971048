"""What a network costs before it runs: sizes, arithmetic, memory, and the bytes that cross between devices.

The layers are only laid out (`tinyalex.nn.plan`), not built: each declares its shapes and what it keeps.
Every device is alike, so one rank stands for all.

**Memory of a device**, in float32, while it trains:

    parameters    3 × 4 bytes each: the value, its gradient, its velocity; 4 for the means and variances of
                  batch normalization, which are counted here alone
    kept          the arrays in the layers' caches, which backward reads: each once, at the first layer that
                  keeps it (a convolution's output is also the next layer's input), and the pictures
    temporary     the most that one layer's backward holds besides: the gradients of its output and its input,
                  and the one between (through the neuron)

Beside them, and told by themselves, for a CPU and a GPU take blocks of different sizes: the tiles V and M of
a convolution by minimal filtering (`tinyalex.ops.winograd`), of which one layer's are there at once.

Not counted: what else an operation needs within itself (blocks, masks), the loss, what a forward pass still
holds of the step before, buffers that lie idle in the memory pool, and what a GPU's driver takes for itself.

**As the 2012 code allocated it** (src/layer.cu, src/weights.cu, layers-145.cfg), the paper's reason for two
GPUs of 3 GB: it kept every layer's output and its gradient at once (neurons work in place), the brackets of
the normalizations, dropout's masks as floats, two batches of pictures (one on its way), weights with their
increments, gradients of convolutions only, and the partial sums of these: one for every `partialSum` (5, 3,
13, 13, 13) places of a map, each the size of the weights (in conv3, which reads each tower with weights of
their own, the size of one tower's).

**Bytes that cross** are those a device receives from the others, as `Comm.ledger` counts them: an all-gather
brings it the other ranks' arrays, and in backward a reduce-scatter their partial sums for its own part.
"""

import math
import re
from typing import NamedTuple

import numpy as np

from tinyalex.errors import ArgumentError, DataError
from tinyalex.measure import print_whole
from tinyalex.measure.traffic import by_winograd
from tinyalex.models import Network
from tinyalex.nn import LRN, Activate, AllGather, Conv2d, Dropout, Linear, SameMapNorm, Weighted
from tinyalex.ops import winograd
from tinyalex.ops.cuda import winograd as cuda_winograd
from tinyalex.ops.windows import two_of
from tinyalex.ops.winograd import SIDE
from tinyalex.parallel import AllImages, buckets

UNITS = {"MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}


class Row(NamedTuple):
    """One layer, or the total of all.  Parameters, neurons and multiply-adds are the whole network's."""

    layer: str
    output: tuple  # on one device: (C,H,W,N) or (D,N)
    parameters: int
    neurons: int  # outputs of convolutions and fully connected layers, one image (the paper's figure 2)
    multiply_adds: int  # forward, one image
    parameter_bytes: int  # on one device, with gradients and velocities
    kept_bytes: int  # on one device, whole batch
    temporary_bytes: int  # on one device, whole batch; total: the largest, since they are not there at once
    received_forward: int  # bytes that one device receives, whole batch
    received_backward: int
    received_gradients: int  # on the average of the devices, which own nearly equal parts of the sums
    bytes_2012: int  # on one device, whole batch

    @property
    def memory(self):
        """Bytes on one device, as the module's docstring counts them."""
        return self.parameter_bytes + self.kept_bytes + self.temporary_bytes


class Description(NamedTuple):
    """A network on some devices, training on batches of some size.  placed: as `Network.plan` has it."""

    ranks: int
    parallel: str
    placed: list
    batch: int
    rows: list  # of Row, one a layer
    total: Row


def describe(network: Network, ranks: int = 1, batch: int = 128, parallel: str = "model") -> Description:
    """Return the `Description` of a network on ``ranks`` devices, training on batches of ``batch`` images.

    network: a `tinyalex.models.Network`.  parallel: see `tinyalex.parallel`.  Nothing is run, and no memory
    of any size is taken.  Raises ArgumentError for a network or a batch that so many ranks cannot share, or a
    batch below 1.
    """
    if batch < 1:
        raise ArgumentError(f"batch: expected at least 1 image, found {batch}")
    placed = network.plan(ranks, parallel)
    if batch % placed[0].parts:
        raise ArgumentError(f"batch: {batch} images cannot be shared evenly by {placed[0].parts} ranks")
    towers = max((p.layer.groups for p in placed if isinstance(p.layer, Conv2d)), default=1)
    rows = []
    x_array, counted = object(), set()  # what stands for the memory of an array
    for place in placed:
        y_array = x_array if place.layer.is_view(place.ranks) else object()
        x, y = _numbers(place, batch)
        kept = 0
        for what in place.layer.keeps:
            array, nbytes = {"x": (x_array, 4 * x), "y": (y_array, 4 * y)}.get(what) or (object(), what * x)
            kept += 0 if array in counted else nbytes
            counted.add(array)
        rows.append(_row(place, batch, kept, towers))
        x_array = y_array
    if placed[0].parts > 1:
        rows.append(_loss_row(placed, batch))
    sums = [sum(column) for column in list(zip(*rows, strict=True))[2:]]
    shape = (*placed[-1].y, batch // placed[-1].parts)
    total = Row("total", shape, *sums)._replace(temporary_bytes=max(r.temporary_bytes for r in rows))
    pictures, logits = 4 * math.prod(network.input) * batch // placed[0].parts, 4 * math.prod(shape)
    total = total._replace(bytes_2012=total.bytes_2012 + 2 * pictures + 2 * logits)  # and the softmax
    return Description(ranks, parallel, placed, batch, rows, total)


def tiles_bytes(description: Description) -> tuple[int, int]:
    """Return the bytes of V and M on one device, a CPU and a GPU: the most that one layer has at once."""
    found = [(0, 0)]
    for place in description.placed:
        layer, images = place.layer, description.batch // place.parts
        if isinstance(layer, Conv2d):
            F, CG, *kernel = layer.sizes(place.x)["w"]
            F, groups, n2 = F // place.ranks, max(1, layer.groups // place.ranks), (kernel[0] + SIDE - 1) ** 2
            strides, w = two_of(layer.stride, "stride"), np.broadcast_to(np.float32(0), (F, CG, *kernel))
            on_cpu, on_gpu = winograd.pays(w, strides, groups), by_winograd(place, images)
            for _, H, W in (place.y, place.x)[: 1 + layer.need_dx]:
                down, image = -(-H // SIDE), 4 * n2 * -(-W // SIDE)  # bytes of a map's row of tiles
                some = images * image * (CG + F // groups)
                parts = max(1, min(images, -(-some // winograd.PRODUCTS_BYTES)))
                row = images * image * (CG * groups + F)
                rows = -(-down // -(-down // max(1, cuda_winograd.SCRATCH_BYTES // row)))
                found.append((on_cpu * some // images * -(-images // parts), on_gpu * rows * row))
    return tuple(map(max, zip(*found, strict=True)))


def largest_batch(network: Network, ranks: int, memory: int) -> int:
    """Return how many images a step can have in so many bytes on each device, as `describe` counts; or 0."""
    fits, too_many = 0, 1
    while describe(network, ranks, too_many).total.memory <= memory:
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if describe(network, ranks, middle).total.memory <= memory:
            fits = middle
        else:
            too_many = middle
    return fits


def _numbers(place, batch):
    """How many numbers one rank's input and output are."""
    x, y = (place.own(*side) for side in ((place.x, place.split_x), (place.y, place.split_y)))
    return math.prod(x) * batch // place.parts, math.prod(y) * batch // place.parts


def _row(place, batch, kept_bytes, towers):
    layer, ranks = place.layer, place.ranks
    x, y = _numbers(place, batch)
    learned, values = layer.count(place.x), sum(map(math.prod, layer.sizes(place.x).values()))
    weighted = isinstance(layer, Weighted)
    between = y if weighted and layer.activation else 0
    crossing = 4 * (ranks - 1) * x if isinstance(layer, AllGather) else 0
    if isinstance(layer, AllImages):
        crossing = 4 * (ranks - 1) * x // ranks
    return Row(
        layer=layer.name,
        output=(*place.own(place.y, place.split_y), batch // place.parts),
        parameters=learned,
        neurons=math.prod(place.y) if weighted else 0,
        multiply_adds=layer.multiply_adds(place.x),
        parameter_bytes=4 * (values + 2 * learned) // ranks,
        kept_bytes=kept_bytes,
        temporary_bytes=4 * (y + between + getattr(layer, "need_dx", True) * x),
        received_forward=crossing,
        received_backward=0 if getattr(layer, "replicated", False) else crossing,
        received_gradients=_summed(values // ranks, place.parts),
        bytes_2012=_bytes_2012(place, batch, towers),
    )


def _summed(numbers, ranks):
    """The bytes that a rank receives in an all-reduce of so many numbers of 4 bytes."""
    return 2 * 4 * numbers * (ranks - 1) // ranks


def _loss_row(placed, batch):
    """What crosses for the loss: its parts and the errors' number, or the labels of all images."""
    parts, joined = placed[0].parts, placed[-1].parts == 1
    row = Row("loss", (), *[0] * (len(Row._fields) - 2))
    if joined:
        return row._replace(received_forward=8 * batch * (parts - 1) // parts)
    return row._replace(received_gradients=_summed(2, parts))


PARTIAL_SUM = {"conv1": 5, "conv2": 3}  # layers-145.cfg; 13 in conv3, conv4, conv5


def _bytes_2012(place, batch, towers):
    """A layer's share of what the 2012 code allocated on a device: see the module's docstring."""
    layer, ranks = place.layer, place.ranks
    x, y = _numbers(place, batch)
    if isinstance(layer, Activate):
        return 0
    if isinstance(layer, AllGather):  # a copy of what the others have, and of its gradient
        return 4 * 2 * (ranks - 1) * x
    numbers = 2 * y
    if isinstance(layer, LRN | SameMapNorm | Dropout):
        numbers += y
    sizes = {key: math.prod(size) // ranks for key, size in layer.sizes(place.x).items()}
    if isinstance(layer, Linear):
        numbers += 2 * sum(sizes.values()) + sizes["b"]
    if isinstance(layer, Conv2d):
        places, inputs = math.prod(place.y[1:]), towers if layer.groups < towers and place.x[0] > 3 else 1
        numbers += 3 * sum(sizes.values())
        numbers += -(-places // PARTIAL_SUM.get(layer.name, 13)) * sizes["w"] // inputs
    return 4 * numbers


class Prediction(NamedTuple):
    """Seconds of a step: of arithmetic, of bytes that come in, and until the last gradients are summed."""

    computing: float
    receiving: float
    step: float  # gradients travel while backward goes on, by a link that leaves the processor alone


def predict(description: Description, link: float, flops: float, latency: float = 0.0) -> Prediction:
    """Predict a step of a `Description` from what one device can do.

    link: bytes per second that a device receives in a collective.  flops: FLOP per second of a whole step on
    one device, two for a multiply-add of im2col.  latency: seconds that any collective takes besides.

    Forward costs the layers' multiply-adds, backward twice that (once where no gradient of the pixels is
    needed).  Exchanges of activations are waited for, unless the ranks take turns: then the next images
    travel while the fully connected layers work.  Messages of gradients travel one after the other, each from
    the end of the backward pass of its last layer on.
    """
    ranks, _, placed, batch, rows, total = description
    by_name = {row.layer: row for row in rows}
    last = {bucket[-1].layer.name: bucket for bucket in buckets(placed)}
    turns = ranks if any(isinstance(p.layer, AllImages) and p.layer.in_turn for p in placed) else 1
    forward, waiting, meeting = {}, 0.0, None
    for place in placed:
        row, share = by_name[place.layer.name], place.ranks * place.parts
        forward[row.layer] = 2 * row.multiply_adds * batch / share / flops
        waiting += (row.received_forward + row.received_backward) / link
        meetings = bool(row.received_forward) + bool(row.received_backward)
        if isinstance(place.layer, AllImages):
            meeting, meetings = row, turns + 1
        elif place.parts == 1:  # behind it
            meetings *= turns
        waiting += meetings * latency
    backward = {p.layer.name: forward[p.layer.name] * (1 + getattr(p.layer, "need_dx", True)) for p in placed}
    after = [p.layer.name for p in placed if p.parts == 1]
    computing = sum(forward.values()) + sum(backward.values())
    hidden = 0.0
    if turns > 1:  # all but the first rank's images travel behind the work on those before
        work = sum(forward[name] + backward[name] for name in after) / turns
        hidden = (turns - 1) * min(work, meeting.received_forward / link / turns + latency)
    clock = free = sum(forward.values()) + waiting - hidden
    for place in reversed(placed):
        name = place.layer.name
        clock += backward[name]
        if name in last:
            arrived = sum(by_name[p.layer.name].received_gradients for p in last[name])
            free = max(free, clock) + arrived / link + latency
    messages = len(last) + (placed[0].parts > 1)  # and the loss, or the labels
    receiving = waiting + total.received_gradients / link + messages * latency
    return Prediction(computing, receiving, max(clock, free))


# ---- the printed table -------------------------------------------------------------------------------


def parse_memory(text):
    """Return the bytes of "3GB" (10⁹ each), "3GiB" (2³⁰ each; a graphics card's "GB"), "800MB" or "800MiB".

    Raises DataError for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(MB|MiB|GB|GiB)", text.strip())
    if not match:
        raise DataError(f"--memory: expected a number and MB, MiB, GB or GiB, as in 3GiB, found {text!r}")
    return round(float(match[1]) * UNITS[match[2]])


def parse_rate(text, option, units):
    """Return the number of "12GB/s" or "50us"; units: {"GB/s": 10⁹, …}.  Raises DataError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\D+)", text.strip())
    if not match or match[2] not in units or not float(match[1]):
        raise DataError(f"{option}: expected a number and {', '.join(units)}, found {text!r}")
    return float(match[1]) * units[match[2]]


LINKS = {"Mbit/s": 125e3, "Gbit/s": 125e6, "MB/s": 1e6, "GB/s": 1e9}
FLOPS = {"GF": 1e9, "TF": 1e12}
LATENCIES = {"us": 1e-6, "ms": 1e-3}


def print_description(description, console=None, memory=None, prediction=None):
    """Print the layers as a table, the memory by its parts, and whether it fits ``memory`` bytes.

    prediction: the `Prediction` of its step, to be printed too.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    ranks, parallel, placed, batch, rows, total = description
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=0, header_style="")  # 80 columns wide
    numbers = ("parameters", "neurons", "multiply-\nadds", "param.\nMB", "kept\nMB")
    summed = ["MB of\ngradients"] * (placed[0].parts > 1)
    for head in ("layer", "output", *numbers, "MB in\nforward", "MB in\nbackward", *summed):
        table.add_column(head, justify="left" if head in ("layer", "output") else "right", vertical="bottom")
    for row in rows:
        table.add_row(*_cells(row, summed))
    table.add_section()
    table.add_row(*_cells(total._replace(output=()), summed), style="bold")
    print_whole(console, table)

    def say(text):
        console.print(text, highlight=False, soft_wrap=True)

    shared = f" ({parallel} parallel, {placed[0].parts} parts of the batch)" if summed else ""
    say(f"\nDevices: {ranks}{shared}.  Of each, for a batch of {batch}: output, MB (10⁶ bytes), MB received.")
    say("Of the whole network: parameters, neurons, multiply-adds (forward, one image).")
    say("\nMemory of one device in training, float32:")
    parts = {
        "parameters, their gradients and velocities": total.parameter_bytes,
        "activations and pictures kept for backward, each array once": total.kept_bytes,
        "largest temporary: one layer's gradients in, between and out": total.temporary_bytes,
        "in all; not counted: an operation's own blocks, idle buffers, the driver": total.memory,
    }
    for what, nbytes in parts.items():
        say(f"{nbytes / 1e6:8.1f} MB  {what}")
    for device, nbytes in zip(("CPU", "GPU"), tiles_bytes(description), strict=True):
        if nbytes:
            say(f"{nbytes / 1e6:8.1f} MB  besides, on a {device}: the tiles of one convolution at a time")
    say(f"{total.bytes_2012 / 1e6:8.1f} MB  as the 2012 code would allocate it; not counted: the driver")
    if memory is not None:
        said = [
            f"{name} {'fits' if nbytes <= memory else 'does not fit'}"
            for name, nbytes in (("this", total.memory), ("what the 2012 code allocates", total.bytes_2012))
        ]
        say(f"In {memory / 1e6:.1f} MB ({memory / 2**30:.2f} GiB) {', '.join(said)}.")
    if prediction is not None:
        computing, receiving, step = prediction
        say(
            f"\nA step of {batch} images: {step:.3g} s predicted; {computing:.3g} s of arithmetic and "
            f"{receiving:.3g} s of messages, {computing + receiving:.3g} s where nothing overlaps."
        )


def _cells(row, summed):
    """A row as the table's strings; a number that is 0 is left blank."""
    shape = "×".join(map(str, row.output[:-1]))
    numbers = (row.parameters, row.neurons, row.multiply_adds)
    nbytes = [row.parameter_bytes, row.kept_bytes, row.received_forward, row.received_backward]
    nbytes += [row.received_gradients] * len(summed)
    counts = [f"{n:,}" if n else "" for n in numbers]
    return row.layer, shape, *counts, *(f"{b / 1e6:.1f}" if b else "" for b in nbytes)
