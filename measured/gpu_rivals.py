"""PyTorch on one GPU, as fast as its own means make it: python measured/gpu_rivals.py FOLDER

The networks are tinyalex's, built by `tinyalex.measure.bench_torch`.  A step is forward, loss, backward,
update and the reading of the loss; milliseconds are medians of 30 by the device's clock.  cudnn.benchmark is
on, the optimizer's kernel is fused.  TF32 is on or off for products and convolutions alike, and said in each
row: figures are to be compared with ours of the same setting.  FOLDER gets rivals.json.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from tinyalex.measure.bench_torch import module
from tinyalex.models import make

# network, batch, TF32, how torch.compile goes about it (None: not at all), channels_last
RUNS = [
    ("paper", 128, False, "reduce-overhead", False),  # with CUDA graphs: the best in float32
    ("paper", 128, True, "reduce-overhead", True),  # the best in TF32
    ("cifar4", 128, False, "reduce-overhead", False),
    ("cifar4-tanh", 128, False, "reduce-overhead", False),
    ("paper", 32, False, "reduce-overhead", False),
    ("cifar4", 128, True, "reduce-overhead", False),
    ("paper", 128, False, None, False),  # as people write it
    ("paper", 128, True, None, False),
    ("cifar4", 128, False, None, False),
    ("paper", 128, False, "default", False),
]


def main():
    """Run the list; write after each run, so that a time limit costs only what is left."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", type=int, default=len(RUNS), help="only so many of the list")
    args = parser.parse_args()
    folder = args.folder
    torch.backends.cudnn.benchmark = True
    rows = []
    for network, batch, tf32, mode, channels_last in RUNS[: args.first]:
        row = {
            "network": network,
            "batch": batch,
            "tf32": tf32,
            "compile": mode,
            "channels_last": channels_last,
        }
        try:
            row |= measured(network, batch, tf32, mode, channels_last)
        except Exception as error:
            row["error"] = repr(error)[:300]
        rows.append(row)
        print(row, flush=True)
        (folder / "rivals.json").write_text(json.dumps(rows, indent=1))


def measured(name, batch, tf32, mode, channels_last, repeats=30):
    """Return the milliseconds of a step, of a forward pass alone, and how long the first steps took."""
    torch._dynamo.reset()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    network = make(name)
    parts = (part for place in network.plan() for part in module(place.layer, place, False))
    net = nn.Sequential(*parts).cuda()
    x = torch.randn(batch, *network.input, device="cuda")
    labels = torch.randint(0, network.outputs[0], (batch,), device="cuda")
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9, weight_decay=5e-4, fused=True)

    def loss_of(x, labels):
        return functional.cross_entropy(net(x), labels)

    loss_of = torch.compile(loss_of, mode=None if mode == "default" else mode) if mode else loss_of

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    start = time.perf_counter()
    for _ in range(6):
        step()
    torch.cuda.synchronize()
    found = {"cold_seconds": round(time.perf_counter() - start, 1), **clocked(step, repeats)}
    forward = torch.compile(net.eval(), mode=None if mode == "default" else mode) if mode else net.eval()
    with torch.no_grad():
        for _ in range(6):
            forward(x)
        found["forward_ms"] = clocked(lambda: forward(x), repeats)["ms"]
    return found | {"peak_bytes": torch.cuda.max_memory_allocated()}


def clocked(work, repeats):
    """{"ms": the median, "min": the least} of work() by the device's clock."""
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return {"ms": round(statistics.median(times), 3), "min": round(min(times), 3)}


if __name__ == "__main__":
    main()
