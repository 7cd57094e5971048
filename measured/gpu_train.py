"""Training from prepared pictures on one GPU, beside `bench`'s step in the same run, in about 40 seconds.

    python measured/gpu_train.py              prints a line of JSON for each of these as soon as it is found;
                                              a temporary folder gets 400 MB of made-up pictures, and a run
    python measured/gpu_train.py --standin    a dry run without a GPU, on the tests' stand-in

bits        whether the GPU's batch is the host's, bit for bit
loader      images/s of the loader alone, by threads: pictures for the GPU, and batches that the host makes
bench       the step on one batch that stays on the card, before and after the rest
fed         the same step on batches of the loader, by threads: its images/s, and the milliseconds that the
            host takes to begin a step, while the card has nothing to do; "host": of images that the host made
copy, to_batch   milliseconds of sending a batch, and of the kernel that makes the images
train       `tinyalex train` itself, and what 90 epochs of ILSVRC-2012 would take at that rate
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from gpu_measure import stand_in

ILSVRC = 1_281_167  # pictures to train on
BATCH, STEPS, SIDE = 128, 112, 256


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--standin", action="store_true")
    args = parser.parse_args()
    if args.standin:
        stand_in()
    measure(args.standin)


def measure(small):
    """Measure everything, in a temporary folder; small: of a narrow network."""
    global BATCH, STEPS, SIDE
    how = {}
    if small:
        BATCH, STEPS, SIDE, how = 4, 42, 80, {"width": 1 / 16, "size": 67}

    from tinyalex.comm import launch
    from tinyalex.devices import Device
    from tinyalex.models import make
    from tinyalex.runs import run
    from tinyalex.runs.recipe import recipe_of
    from tinyalex.runs.settings import Settings, open_data

    at = []

    def note(record):
        if record["kind"] == "step":
            at.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        network = make("paper", **how)
        made_up(folder / "pictures", network.outputs[0])
        data = open_data(folder / "pictures")
        recipe = recipe_of("paper", batch=BATCH, epochs=1, rate=1e-4)
        settings = Settings.of(folder / "pictures", network, recipe, SIDE)
        [bench] = launch(lambda comm: parts(comm, settings, data), [Device("cuda:0")])
        launch(run.job(folder / "run", settings, data, new=True, on_event=note), [Device("cuda:0")])
    warm = STEPS // 5
    rate = BATCH * (len(at) - 1 - warm) / (at[-1] - at[warm])
    show(
        "train", images_a_second=rate, of_bench=rate / bench, hours_of_90_epochs=90 * ILSVRC / rate / 3600,
        slowest_step_ms=1e3 * max(np.diff(at[warm:])),
    )  # fmt: skip


def show(name, **values):
    """Print a line."""
    print(json.dumps({name: values}, default=float), flush=True)


def made_up(folder, classes):
    """Write random pictures as `tinyalex prepare` would: one file, which the index names seven times."""
    from tinyalex.data.imagenet.shards import FORMAT, VERSION

    folder.mkdir(parents=True)
    rng, count, times = np.random.default_rng(0), BATCH * STEPS // 7, 7
    np.save(folder / "train-0.npy", rng.integers(0, 256, (count, 3, SIDE, SIDE), np.uint8))
    np.save(folder / "train-labels.npy", rng.integers(0, classes, count * times, np.int32))
    np.save(folder / "mean.npy", np.full((3, SIDE, SIDE), 127.3, np.float32))
    split = {
        "count": count * times,
        "classes": [str(k) for k in range(classes)],
        "shards": [{"file": "train-0.npy", "count": count, "sha256": ""}] * times,
    }
    index = {
        "format": FORMAT, "version": VERSION, "size": SIDE, "splits": {"train": split},
        "covariance": [[4700, 4300, 3900], [4300, 4500, 4300], [3900, 4300, 4900]],
    }  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))


def parts(comm, settings, data):
    """All but `train`; return the images a second of `bench`."""
    from tinyalex.ops.cuda.pictures import feed, to_batch
    from tinyalex.optim import SGD
    from tinyalex.train import Step

    device, xp = comm.device, comm.device.xp
    steps = STEPS // 3
    net = settings.network.build(comm, np.random.default_rng(0))
    step = Step(net, SGD(net, 1e-4, decay=5e-4))

    def loader(where, threads):
        return data.loader(
            "train", settings, augmentation=settings.recipe.augmentation, train=True, device=where,
            threads=threads,
        )  # fmt: skip

    with loader(device, 1) as ours, loader(None, 1) as host:
        raw, expected = next(ours), next(host).images
        [(images, labels)] = feed(device, [raw])
        labels = device.put(labels)
        here = device.get(images)
        show("bits", equal=bool((here == expected).all()), largest_difference=abs(here - expected).max())

    def bench():
        for _ in range(3):
            step(images, labels)
        start = time.perf_counter()
        for _ in range(steps):
            step(images, labels)
        seconds = (time.perf_counter() - start) / steps
        show("bench", ms=1e3 * seconds, images_a_second=BATCH / seconds)
        return BATCH / seconds

    before = bench()
    for name, where, some in (("loader", device, (1, 2, 4, 8)), ("loader, host", None, (1, 4))):
        for threads in some:
            with loader(where, threads) as batches:
                for _ in range(threads + 2):
                    next(batches)
                start = time.perf_counter()
                for _ in range(steps):
                    next(batches)
                rate = BATCH * steps / (time.perf_counter() - start)
            show(name, threads=threads, images_a_second=rate)
    for name, where, some in (("fed", device, (1, 2, 4, 8)), ("fed, host", None, (1, 4))):
        for threads in some:
            with loader(where, threads) as batches:
                show(name, threads=threads, **fed(device, feed(device, batches), step, steps))
    after = bench()

    pixels = xp.empty(raw.pixels.shape, np.uint8)
    there = [device.put(a) for a in (raw.windows, raw.mean, raw.noise)]
    stream = xp.cuda.get_current_stream()
    for name, work, nbytes in (
        ("copy", lambda: pixels.set(raw.pixels, stream), raw.pixels.nbytes),
        ("to_batch", lambda: to_batch(pixels, *there, raw.divisor), images.nbytes * 5 / 4),
    ):
        times = []
        for _ in range(10):
            start, end = xp.cuda.Event(), xp.cuda.Event()
            start.record()
            work()
            end.record()
            device.finish()
            times.append(xp.cuda.get_elapsed_time(start, end))
        show(name, ms=statistics.median(times), MB=nbytes / 1e6)
    return (before + after) / 2


def fed(device, batches, step, steps):
    """Images a second of steps on fed batches, as `fit` does them, and the host's ms between two steps."""
    from tinyalex.ops.cuda.pictures import asked

    there, between = ((images, device.put(labels)) for images, labels in batches), []
    coming = asked(there)
    for _ in range(steps + 3):
        if len(between) == 3:
            start = time.perf_counter()
        before = time.perf_counter()
        end = step.begin(*coming.result())
        between.append(1e3 * (time.perf_counter() - before))
        coming = asked(there)
        end()
    rate = BATCH * steps / (time.perf_counter() - start)
    batches.close()
    return {"images_a_second": rate, "between_ms": statistics.median(between[3:])}


if __name__ == "__main__":
    main()
