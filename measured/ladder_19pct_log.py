"""19pct's first thirteen data batches, beside the log in cuda-convnet's documentation (TrainingNet.md).

    python measured/ladder_19pct_log.py CIFAR OUT.csv

CIFAR: as `tinyalex train` takes it.  Loss (nats) and error of each data batch of 10,000 are means over its
pictures, while it is learned; then the test set's, one view; last, the means |w| and |Δ| of each layer.  The
documentation's run is of June 2011, its settings are the cfg's as far as can be seen: a band, not digits.
"""

import csv
import sys

import numpy as np

from tinyalex.evaluate import errors, probabilities
from tinyalex.models import make
from tinyalex.optim import SGD
from tinyalex.runs.recipe import LADDER
from tinyalex.runs.settings import Settings, open_data
from tinyalex.train import Step

PUBLISHED = (  # loss and error of each data batch, then of the test set
    (2.278, 0.880), (2.145, 0.780), (1.983, 0.724), (1.913, 0.702), (1.813, 0.672), (1.759, 0.649),
    (1.736, 0.638), (1.667, 0.610), (1.660, 0.605), (1.606, 0.585), (1.562, 0.565), (1.554, 0.561),
    (1.497, 0.538), (1.538126, 0.5534),
)  # fmt: skip
SIZES = {  # mean |w| and mean |Δ| after them
    "conv1": (1.411e-2, 6.7e-5), "conv2": (8.83e-3, 2.3e-5), "conv3": (8.48e-3, 2.6e-5),
    "fc10": (1.83e-3, 1.37e-4),
}  # fmt: skip


def main(path, out):
    """Train on thirteen data batches, test, print and write the table."""
    data, recipe = open_data(path), LADDER["cifar-19pct"]
    made = Settings.of(path, make("cifar-19pct"), recipe, 32)
    net = made.network.build(rng=np.random.default_rng(0))
    optimizer = SGD(
        net, recipe.rate, recipe.momentum, recipe.decay, recipe.bias_rate_factor * recipe.rate, False,
        decays=recipe.decays,
    )  # fmt: skip
    step, rows, sums, seen = Step(net, optimizer), [], np.zeros(2), 0
    how = {"augmentation": made.recipe.augmentation, "train": True, "epochs": 3}
    with data.loader("train", made, **how) as loader:
        for images, labels in loader:
            sums += np.multiply(step(images, labels), len(labels))
            seen += len(labels)
            if seen == recipe.data_batch:
                rows.append(tuple(sums / seen))
                print(
                    len(rows),
                    "loss {:.3f} error {:.3f}, published {} {}".format(*rows[-1], *PUBLISHED[len(rows) - 1]),
                    flush=True,
                )
                sums, seen = np.zeros(2), 0
            if len(rows) == 13:
                break
    with data.loader("val", made, augmentation=made.recipe.augmentation, train=False) as loader:
        rows.append(errors(*probabilities(net, loader))[:2])
    print("test loss {:.4f} error {:.4f}, published {} {}".format(*rows[-1], *PUBLISHED[-1]))
    for name, published in SIZES.items():
        size = np.abs(net.layers[name].params["w"]).mean(), np.abs(optimizer.velocity[f"{name}.w"]).mean()
        print("{}: mean |w| {:.3e}, mean |Δ| {:.1e}, published {} {}".format(name, *size, *published))
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("data_batch", "loss", "error", "published_loss", "published_error"))
        names = [*range(1, 14), "test"]
        writer.writerows((n, *np.round(r, 4), *p) for n, r, p in zip(names, rows, PUBLISHED, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
