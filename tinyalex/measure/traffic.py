"""The least bytes that each kernel must move in a training step, in float32: its bound, whatever the code.

The rule is that of the headers in the .cu files: what a kernel reads counts once (what neighbouring threads
read again comes from the cache), what it writes counts once; the gradient of a convolution's weights is
counted as one sum, not as the partial sums that are added in the end.  Convolutions and matrix products are
bound by arithmetic, and counted in multiply-adds elsewhere.
"""

import math
from typing import NamedTuple

from tinyalex.nn import LRN, Activate, AvgPool, BatchNorm, Conv2d, Dropout, Linear, MaxPool, SameMapNorm
from tinyalex.ops.cuda import winograd
from tinyalex.ops.cuda.batch_norm import CHUNK
from tinyalex.ops.windows import two_of
from tinyalex.ops.winograd import SIDE


class Launch(NamedTuple):
    """A kernel's work for one layer in one direction, over the whole batch."""

    layer: str
    direction: str  # forward, backward, loss or update
    kernel: str
    bytes: int


def of_layer(place, batch):
    """Return the `Launch`es of a layer of `tinyalex.nn.plan` on one rank, which has so many images."""
    x, y = (place.own(*side) for side in _sides(place))
    kernels = _kernels(place, batch, math.prod(x) * batch, math.prod(y) * batch)
    return [Launch(place.layer.name, direction, kernel, nbytes) for direction, kernel, nbytes in kernels]


def by_winograd(place, batch):
    """Whether the layer is a convolution that is done by minimal filtering, for so many images."""
    layer = place.layer
    if not isinstance(layer, Conv2d):
        return False
    w, (F, OH, OW) = layer.sizes(place.x)["w"], place.y
    F, groups = F // place.ranks, max(1, layer.groups // place.ranks)
    vertical, horizontal = two_of(layer.stride, "stride")
    return vertical == horizontal and winograd.pays((F, *w[1:]), (F, OH, OW, batch), vertical, groups)


def _winograd(place, batch, x, y, w):
    """The same of a convolution by minimal filtering, with w weights; in one block of tiles each way."""
    layer, (C, F) = place.layer, (place.own(*side)[0] for side in _sides(place))
    k = two_of(layer.kernel, "kernel")[0]
    places = (k + SIDE - 1) ** 2
    tiles, tiles_back = (-(-H // SIDE) * -(-W // SIDE) * batch * places for _, H, W in (place.y, place.x))
    u = w // k**2 * places
    return [
        ("forward", "winograd_filters", 4 * (w + u)),
        ("forward", "winograd_tiles", 4 * (x + C * tiles)),
        ("forward", "winograd_products", 4 * ((C + F) * tiles + u)),
        ("forward", "winograd_outputs", 4 * (F * tiles + F + y)),
        ("backward", "winograd_filters", 4 * (w + u)),
        ("backward", "winograd_tiles", 4 * (y + F * tiles_back)),
        ("backward", "winograd_tiles_back", 4 * (x + C * tiles_back)),
        ("backward", "winograd_products_back", 4 * ((C + F) * tiles_back + u)),
        ("backward", "winograd_filters_back", 4 * (u + w)),
        ("backward", "winograd_products", 4 * ((C + F) * tiles_back + u)),
        ("backward", "winograd_outputs", 4 * (C * tiles_back + x)),
        *_backward_and_sum(layer, y, F),
    ]


def _backward_and_sum(layer, y, F):
    """The same of ReLU' and the gradient of the biases, which is one kernel, or of another activation's."""
    if layer.activation == "relu":
        return [("backward", "relu_backward_and_sum", 4 * (3 * y + F))]
    return [*_activation(layer, y), ("backward", "sum_rows", 4 * (y + F))]


def _activation(layer, y):
    """The same of an activation's gradient, where it is a kernel of its own."""
    return [("backward", "activate_backward", 12 * y)] if layer.activation else []


def _sides(place):
    """What a layer reads and what it makes: (shape, whether a rank holds only its part)."""
    return (place.x, place.split_x), (place.y, place.split_y)


def _kernels(place, batch, x, y):
    """(direction, kernel, bytes) of a layer that reads x numbers and makes y."""
    layer = place.layer
    if isinstance(layer, Conv2d):
        F, CG, KH, KW = layer.sizes(place.x)["w"]
        F //= place.ranks
        w = F * CG * KH * KW
        if by_winograd(place, batch):
            return _winograd(place, batch, x, y, w)
        return [
            ("forward", "lay_out_weights", 4 * 2 * w),
            ("forward", "conv_forward", 4 * (x + w + F + y)),
            *_activation(layer, y),
            ("backward", "conv_backward_w", 4 * (y + x + w + F)),
            ("backward", "add_chunks", 4 * 2 * (w + F)),
        ] + [
            ("backward", "lay_out_weights", 4 * 2 * w),
            ("backward", "conv_backward_x", 4 * (y + w + x)),
        ] * layer.need_dx
    if isinstance(layer, Linear):
        F = layer.features // place.ranks
        return [("forward", "bias_relu", 4 * (2 * y + F)), *_backward_and_sum(layer, y, F)]
    if isinstance(layer, Activate):
        return [("forward", "activate", 8 * x), ("backward", "activate_backward", 12 * x)]
    if isinstance(layer, AvgPool):
        return [("forward", "avg_pool_forward", 4 * (x + y)), ("backward", "avg_pool_backward", 4 * (x + y))]
    if isinstance(layer, MaxPool):
        return [
            ("forward", "max_pool_forward", 4 * x + 6 * y),
            ("backward", "max_pool_backward", 4 * x + 6 * y),
        ]
    if isinstance(layer, LRN):
        return [("forward", "lrn_forward", 8 * x), ("backward", "lrn_backward", 12 * x)]
    if isinstance(layer, SameMapNorm):
        return [
            ("forward", "same_map_forward", 12 * x),
            ("backward", "same_map_ratio", 16 * x),
            ("backward", "same_map_backward", 20 * x),
        ]
    if isinstance(layer, BatchNorm):
        C = layer.sizes(place.x)["w"][0] // place.ranks
        chunks = C * -(-x // C // CHUNK)
        return [
            ("forward", "batch_norm_chunks", 4 * (x + 2 * chunks)),
            ("forward", "batch_norm_join", 4 * (2 * chunks + 2 * C)),
            ("forward", "batch_norm_forward", 4 * (2 * x + 4 * C)),
            ("backward", "batch_norm_sums", 4 * (2 * x + 2 * C + 2 * chunks)),
            ("backward", "sum_rows", 4 * (2 * chunks + 2 * C)),
            ("backward", "batch_norm_backward", 4 * (3 * x + 5 * C)),
        ]
    if isinstance(layer, Dropout):
        return [
            ("forward", "dropout_mask", x + 8),
            ("forward", "dropout_apply", 9 * x),
            ("backward", "dropout_apply", 9 * x),
        ]
    return []


def of_loss(classes, images):
    """Return the `Launch`es of the softmax loss."""
    numbers = classes * images
    return [
        Launch("loss", "loss", "softmax_loss", 4 * (2 * numbers + images) + 8 * images),
        Launch("loss", "loss", "sum_rows", 4 * (images + 1)),
        Launch("loss", "loss", "topk_error", 4 * numbers + 16 * images),
        Launch("loss", "loss", "softmax_backward", 4 * 2 * numbers + 8 * images),
    ]


def of_update(parameters):
    """Return the `Launch` of the update of so many parameters."""
    return Launch("update", "update", "sgd", 4 * 5 * parameters)
