"""Predicted and measured: what crosses between ranks, and how long a step takes.

    mpiexec -n 4 python measured/parallel.py --batch 64 --layouts data,hybrid

What a prediction is made of is measured by the same processes: what any collective takes (all-reduces of one
number), the link (all-reduces of 16 MB, with their sums), and the arithmetic (steps of each rank alone on
its part of the batch, all ranks at once: with more ranks than cores they share the cores then, too).  Rounds
of these and of the step that is predicted take turns, and the median of each counts.  The bytes of a step
and its collectives are compared with the ledger's, the bytes layer by layer.

A row of Markdown: layout, ranks, latency, link, arithmetic, bytes of all ranks and collectives, as predicted
and found; seconds predicted where nothing overlaps, and where gradients travel behind the backward pass; the
median found, its quartiles; the median over each prediction.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from time import perf_counter

import numpy as np

from tinyalex.comm import launch
from tinyalex.measure.bench import products
from tinyalex.measure.describe import describe, predict
from tinyalex.models import make
from tinyalex.optim import SGD
from tinyalex.train import Step


def seconds(comm, work):
    """Return the seconds that a call takes, the slowest rank's."""
    comm.all_reduce(np.zeros(1))  # begin together
    start = perf_counter()
    work()
    return float(comm.all_gather(np.array([perf_counter() - start])).max())


def stepper(network, comm, batch, parallel="model"):
    """Return the built network, and a function that makes one step."""
    rng = np.random.default_rng(1)
    net = network.build(comm, np.random.default_rng(0), parallel=parallel)
    batch //= net.data.size
    x = rng.standard_normal((*network.input, batch), np.float32)
    labels, step = rng.integers(0, *network.outputs, batch), Step(net, SGD(net, 1e-4, decay=5e-4))
    return net, lambda: step(x, labels)


def crossed(comm):
    """Return the bytes of all ranks together, by label."""
    labels = sorted(label for label, _ in comm.ledger)
    nbytes = np.array([sum(v for (name, _), v in comm.ledger.items() if name == label) for label in labels])
    return dict(zip(labels, comm.all_reduce(nbytes).tolist(), strict=True))


def compare(comm, name, network, batch, layout, rounds):
    """Return a dict of rates, bytes and seconds, predicted and found."""
    message, number = np.ones(1 << 22, np.float32), np.ones(1, np.float32)
    received = 2 * message.nbytes * (comm.size - 1) / comm.size
    net, alone = stepper(network, comm.alone(), batch // comm.size)
    made = [both for place in net.placed.values() for both in products(place, batch // comm.size).values()]
    flop = 2 * sum(int(np.prod(one)) for both in made for one in both)
    description = describe(network, comm.size, batch, layout)
    _, step = stepper(network, comm, batch, layout)
    step(), alone()
    comm.ledger.clear()
    comm.calls.clear()
    step()
    collectives = sum(comm.calls.values())
    found, rows = crossed(comm), {row.layer: row for row in description.rows}
    wrong = []
    for label, nbytes in found.items():
        *layers, direction = label.split()
        if layers:  # else the loss, or the labels
            expected = comm.size * sum(getattr(rows[layer], f"received_{direction}") for layer in layers)
            wrong += [label] * (nbytes != expected)
    if collectives != (expected := predict(description, math.inf, math.inf, 1).receiving):
        wrong.append(f"{collectives} collectives, {expected:.0f} predicted")
    table = []
    for _ in range(rounds):  # by turns, so that all see the same load
        latency = seconds(comm, lambda: [comm.all_reduce(number) for _ in range(20)]) / 20
        link = seconds(comm, lambda: comm.all_reduce(message))
        table.append((latency, link, seconds(comm, alone), seconds(comm, step)))
    (*_, took), columns = zip(*table, strict=True), [statistics.median(c) for c in zip(*table, strict=True)]
    latency, link, one, median = columns
    link, flops = received / (link - latency), flop / one
    computing, receiving, overlapped = predict(description, link, flops, latency)
    total = description.total
    predicted = total.received_forward + total.received_backward + total.received_gradients
    low, _, high = statistics.quantiles(took, n=4)
    return {
        "network": name, "layout": layout, "ranks": comm.size, "batch": batch,
        "latency": latency, "link": link, "flops": flops, "collectives": collectives,
        "bytes_predicted": predicted * comm.size, "bytes_found": sum(found.values()), "wrong": wrong,
        "added": computing + receiving, "overlapped": overlapped, "seconds": median, "quartiles": [low, high],
    }  # fmt: skip


def print_row(row):
    """Print a comparison as a row of Markdown."""
    right = row["bytes_predicted"] == row["bytes_found"] and not row["wrong"]
    low, high = row["quartiles"]
    cells = (
        row["layout"], row["ranks"], f"{1e6 * row['latency']:.0f} µs", f"{row['link'] / 1e6:.0f} MB/s",
        f"{row['flops'] / 1e9:.1f} GF/s", f"{row['bytes_predicted']:,}", row["collectives"],
        "the same" if right else f"{row['bytes_found']:,} {row['wrong']}",
        *(f"{row[key]:.3f}" for key in ("added", "overlapped", "seconds")), f"{low:.3f} to {high:.3f}",
        *(f"{row['seconds'] / row[key]:.2f}" for key in ("added", "overlapped")),
    )  # fmt: skip
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def ranks(options):
    """What each process of mpiexec runs."""
    network = make(options.network, width=options.width, size=options.size, classes=options.classes)

    def rank(comm):
        for layout in options.layouts.split(","):
            row = compare(comm, options.network, network, options.batch, layout, options.rounds)
            if comm.rank == 0:
                print_row(row)
                if options.out:
                    with open(options.out, "a") as file:
                        file.write(json.dumps(row) + "\n")

    launch(rank, "mpi")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--network", default="paper")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--layouts", default="model,data,hybrid,hybrid:b")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path)
    ranks(parser.parse_args())
