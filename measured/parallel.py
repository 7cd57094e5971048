"""Predicted and measured: what crosses between ranks, and how long a step takes.

    mpiexec -n 4 python measured/parallel.py --batch 64 --layouts data,hybrid

The two rates of a prediction are measured first, by the same processes: the link by all-reduces of 16 MB, the
arithmetic by steps of each rank alone on its part of the batch, all ranks at once.  Then the bytes of a step
are compared with the ledger's, layer by layer, and its seconds with the clock's.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from tinyalex.comm import launch
from tinyalex.measure.bench import products
from tinyalex.measure.describe import describe, predict
from tinyalex.models import make
from tinyalex.optim import SGD
from tinyalex.train import Step

ROUNDS = 7


def seconds(comm, work, rounds=ROUNDS):
    """Seconds that a call takes, the slowest rank's, for each of so many rounds after two others."""
    found = []
    for _ in range(rounds + 2):
        comm.all_reduce(np.zeros(1))  # begin together
        start = perf_counter()
        work()
        found.append(float(comm.all_gather(np.array([perf_counter() - start])).max()))
    return found[2:]


def stepper(network, comm, batch, parallel="model"):
    """Return the built network, and a function that makes one step."""
    rng = np.random.default_rng(1)
    net = network.build(comm, np.random.default_rng(0), parallel=parallel)
    batch //= net.data.size
    x = rng.standard_normal((*network.input, batch), np.float32)
    labels, step = rng.integers(0, *network.outputs, batch), Step(net, SGD(net, 1e-4, decay=5e-4))
    return net, lambda: step(x, labels)


def rates(comm, network, batch):
    """Return (bytes a second that a rank receives, FLOP a second that it computes), measured."""
    x = np.ones(1 << 22, np.float32)
    link = statistics.median(seconds(comm, lambda: comm.all_reduce(x)))
    net, step = stepper(network, comm.alone(), batch // comm.size)
    made = [both for place in net.placed.values() for both in products(place, batch // comm.size).values()]
    flop = 2 * sum(int(np.prod(one)) for both in made for one in both)
    return 2 * x.nbytes * (comm.size - 1) / comm.size / link, flop / statistics.median(seconds(comm, step))


def crossed(comm):
    """Return the bytes of all ranks together, by label."""
    labels = sorted(label for label, _ in comm.ledger)
    nbytes = np.array([sum(v for (name, _), v in comm.ledger.items() if name == label) for label in labels])
    return dict(zip(labels, comm.all_reduce(nbytes).tolist(), strict=True))


def compare(comm, name, network, batch, layouts):
    """Yield a dict for each layout: rates, bytes and seconds, predicted and found."""
    link, flops = rates(comm, network, batch)
    for layout in layouts:
        description = describe(network, comm.size, batch, layout)
        _, step = stepper(network, comm, batch, layout)
        step()
        comm.ledger.clear()
        step()
        found_bytes = crossed(comm)
        found = seconds(comm, step)
        computing, receiving, overlapped = predict(description, link, flops)
        rows = {row.layer: row for row in description.rows}
        gradients = {label: n for label, n in found_bytes.items() if label.endswith("gradients")}
        same = all(
            n == comm.size * sum(rows[layer].received_gradients for layer in label.split()[:-1])
            for label, n in gradients.items()
        ) and all(
            found_bytes.get(f"{layer} {direction}", 0) == comm.size * getattr(row, f"received_{direction}")
            for layer, row in rows.items()
            for direction in ("forward", "backward")
            if layer != "loss"
        )
        total = description.total
        predicted = total.received_forward + total.received_backward + total.received_gradients
        yield {
            "network": name, "layout": layout, "ranks": comm.size, "batch": batch,
            "link": link, "flops": flops, "bytes_predicted": predicted * comm.size,
            "bytes_found": sum(found_bytes.values()), "layers_agree": same, "computing": computing,
            "receiving": receiving, "overlapped": overlapped, "seconds": found,
        }  # fmt: skip


def print_row(row):
    """Print a comparison in one line."""
    middle, added = statistics.median(row["seconds"]), row["computing"] + row["receiving"]
    agree = "in each layer" if row["layers_agree"] else "NOT in each layer"
    for text in (
        f"{row['network']} {row['layout']}, {row['ranks']} ranks, batch {row['batch']}: ",
        f"link {row['link'] / 1e6:.1f} MB/s, {row['flops'] / 1e9:.1f} GF/s; ",
        f"bytes {row['bytes_predicted']:,} predicted, {row['bytes_found']:,} found, {agree}; ",
        f"seconds {added:.3f} without overlap, {row['overlapped']:.3f} with; found {middle:.3f} ",
        f"({min(row['seconds']):.3f} to {max(row['seconds']):.3f}), ",
        f"{middle / added:.2f} and {middle / row['overlapped']:.2f} of these\n",
    ):
        sys.stdout.write(text)
    sys.stdout.flush()


def ranks(options):
    """What each process of mpiexec runs."""
    network = make(options.network, width=options.width, size=options.size, classes=options.classes)

    def rank(comm):
        for row in compare(comm, options.network, network, options.batch, options.layouts.split(",")):
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
    parser.add_argument("--out", type=Path)
    ranks(parser.parse_args())
