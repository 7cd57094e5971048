"""VGG: AlexNet's successor, of nothing but 3×3 convolutions  (Simonyan and Zisserman, 2014, Table 1).

    A  64       M 128      M 256 256             M 512 512             M 512 512             M
    B  64 64    M 128 128  M 256 256             M 512 512             M 512 512             M
    C  64 64    M 128 128  M 256 256 256/1       M 512 512 512/1       M 512 512 512/1       M
    D  64 64    M 128 128  M 256 256 256         M 512 512 512         M 512 512 512         M
    E  64 64    M 128 128  M 256 256 256 256     M 512 512 512 512     M 512 512 512 512     M

A number is a convolution of so many filters, 3×3 with padding 1 (/1: 1×1), with a ReLU; M a max pooling 2×2
with stride 2.  Two 3×3 convolutions see 5×5 pixels, three 7×7, with fewer weights and more nonlinearities
(section 2.3).  Then fully connected layers of 4096, 4096 and the classes.
"""

from tinyalex.models.network import Network
from tinyalex.nn import LRN, Conv2d, Dropout, Linear, MaxPool

TABLE = dict(line.split(None, 1) for line in __doc__.splitlines() if line.startswith("    "))


def vgg(configuration, classes=1000, size=224, width=1.0, std=0.1, lrn=False):
    """Return the `Network` of a configuration, "A" to "E".

    Input: pixels 0–255 minus the mean, (3, size, size), size from 32 on.  Output: logits (classes,).
    width: factor on filters and hidden units.  lrn: after the first convolution (A-LRN, with AlexNet's
    constants).  std: of the starting weights; the text says N(0, variance 1e-2) (section 3.1), while
    AlexNet's were of standard deviation 1e-2.
    """

    def scaled(n):
        return max(1, round(n * width))

    layers, convolutions, pools = [], 0, 0
    for word in TABLE[configuration].split():
        if word == "M":
            pools += 1
            layers.append(MaxPool(2, 2, ceil=False, name=f"pool{pools}"))
            continue
        convolutions += 1
        filters, _, one = word.partition("/")
        kernel, pad = (1, 0) if one else (3, 1)
        name = f"conv{convolutions}"
        layers.append(Conv2d(scaled(int(filters)), kernel, pad=pad, activation="relu", std=std, name=name))
        if lrn and convolutions == 1:
            layers.append(LRN(name="lrn1"))
    for number in (1, 2):
        layers.append(Linear(scaled(4096), "relu", std=std, name=f"fc{convolutions + number}"))
        layers.append(Dropout(0.5, name=f"dropout{convolutions + number}"))
    layers.append(Linear(classes, std=std, name=f"fc{convolutions + 3}"))
    network = Network(layers, (3, size, size))
    network.plan()
    return network
