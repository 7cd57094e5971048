"""Lesson 17: VGG, and three ways to share work."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tinyalex.comm import launch
from tinyalex.lessons.cases import sizes
from tinyalex.lessons.checks import hole

devices = "cpu:0,cpu:1"


def _strides_first(kernels, strides):
    side, step = 1, 1
    for k, s in zip(kernels, strides, strict=True):
        step = step * s
        side = side + (k - 1) * step
    return side


def _from_the_picture_up(kernels, strides):
    side = 1
    for k, s in zip(kernels, strides, strict=True):
        side = (side - 1) * s + k
    return side


@hole(
    cases=lambda rng: [
        ([3, 3, 3], [1, 1, 1]),
        ([11, 3, 5], [4, 2, 1]),
        ([3, 2, 3, 2], [1, 2, 1, 2]),
        ([int(k) for k in rng.permutation([2, 3, 5, 7])], [int(s) for s in rng.permutation([1, 2, 3, 4])]),
    ],
    hints=[
        """One more layer makes the window wider by its kernel less one, counted in the steps that its input's
        pixels stand apart.""",
        """Before the first layer neighbours are 1 pixel apart; a layer of stride s makes that s times as
        much, for the layers after it.""",
        """side + (k - 1) * step, and then step * s.""",
    ],
    wrong=[
        (
            _from_the_picture_up,
            """(side − 1)·s + k is right on the way down, from the last layer to the first.  On the way up
            each layer adds its k − 1 steps.""",
        ),
        (
            _strides_first,
            """the layer's own stride is used too early: it parts the layer's outputs, so it counts for the
            layers above.""",
        ),
        (
            "side + (k - 1) * step",
            "side + k * step",
            """every layer adds one step too many: a kernel of k pixels reaches k − 1 beyond one pixel.""",
        ),
        (
            "step * s",
            "s",
            """the step is that of one layer alone.  Strides multiply: after strides of 4 and 2 neighbours are
            8 pixels apart.""",
        ),
        (
            "(k - 1) * step",
            "(k - 1)",
            """strides play no part: three windows after a stride of 2 reach twice as far.""",
        ),
        (
            "step * s",
            "step + s",
            """the steps are added, and they multiply.""",
        ),
    ],
)
def receptive_field(kernels, strides):
    """Side, in pixels of the picture, of what one output of the last layer sees."""
    side, step = 1, 1  # of one pixel, and how far apart neighbours are
    for k, s in zip(kernels, strides, strict=True):
        side = side + (k - 1) * step
        step = step * s
    return side


def _slide_cases(rng):
    cases = []
    for _ in range(2):
        C, H, W, h, v = sizes(rng, (2, 4), (6, 8), (6, 9), (1, 4), (2, 5))
        K = int(rng.integers(3, 5))
        cases.append((rng.standard_normal((C, H, W)), rng.standard_normal((K, C * h * v)), (h, v)))
    return cases


@hole(
    cases=_slide_cases,
    hints=[
        """A row of w belongs to the numbers of a window in the order C, h, v: the order in which they lie in
        memory.""",
        """So w.reshape(len(w), C, h, v) are kernels, and not a number has moved.  windows[:, y, x] is what
        they see at (y, x).""",
        """kernels = w.reshape(len(w), C, h, v), and np.einsum("kchv,cyxhv->kyx", kernels, windows).""",
    ],
    wrong=[
        (
            "w.reshape(len(w), C, h, v)",
            "w.reshape(len(w), h, v, C).transpose(0, 3, 1, 2)",
            """the weights are read with the channels last.  The maps were flattened in the order C, H, W.""",
        ),
        (
            "w.reshape(len(w), C, h, v)",
            "w.reshape(len(w), C, h, v)[:, :, ::-1, ::-1]",
            """the kernels are turned round.  A fully connected layer multiplies number by number, as our
            convolution does: nothing is flipped.""",
        ),
        (
            "w.reshape(len(w), C, h, v)",
            "w.reshape(len(w), C, v, h).swapaxes(2, 3)",
            """rows and columns of the window are exchanged.""",
        ),
        (
            'np.einsum("kchv,cyxhv->kyx", kernels, windows)',
            'np.einsum("kchv,cyxhv->kyx", kernels, windows) / (h * v)',
            """the scores are divided by the size of the window: a sum of products, not a mean.""",
        ),
    ],
)
def slide(maps, w, window):
    """A fully connected layer at every place.  maps (C,H,W), w (K, C·h·v) → scores (K, H−h+1, W−v+1)."""
    C, _, _ = maps.shape
    h, v = window
    windows = sliding_window_view(maps, window, axis=(1, 2))  # (C, H−h+1, W−v+1, h, v)
    kernels = w.reshape(len(w), C, h, v)
    scores = np.einsum("kchv,cyxhv->kyx", kernels, windows)
    return scores


def _regression(rng, F, D, N):
    return rng.standard_normal((D, N)), rng.standard_normal((F, N)), rng.standard_normal((F, D))


@hole(
    cases=lambda rng: [
        (*_regression(rng, 2, 3, 8), 4),
        (*_regression(rng, 3, 5, 6), 2),
        (*_regression(rng, 4, 2, 9), 3),
    ],
    hints=[
        """The loss is a mean over all N pictures, and such a mean is a sum of N terms, each divided by N.""",
        """Each part adds its terms to dw.  What they are divided by does not depend on how many are in the
        part.""",
        """dy = (w @ xs - ts) / N, and dw = dw + dy @ xs.T.""",
    ],
    wrong=[
        (
            "(w @ xs - ts) / N",
            "(w @ xs - ts) / xs.shape[1]",
            """each part takes its own mean, and their sum is too large by the number of parts: an update of
            as many times the rate.""",
        ),
        (
            "dw + dy @ xs.T",
            "dy @ xs.T",
            """the last part replaces those before it.""",
        ),
        (
            "(w @ xs - ts) / N",
            "(w @ xs - ts)",
            """the sum over the pictures is right; the loss is their mean.""",
        ),
        (
            "(w @ xs - ts) / N",
            "(w @ xs - ts) / (N * parts)",
            """divided once too often: each picture is in one part alone, and stands in the mean once, with
            1/N.""",
        ),
    ],
)
def in_parts(x, t, w, parts):
    """The gradient of mean over n of ½ |w x − t|², part by part.  x (D,N), t (F,N), w (F,D) → dw (F,D)."""
    N, dw = x.shape[1], np.zeros_like(w)
    for xs, ts in zip(np.split(x, parts, axis=1), np.split(t, parts, axis=1), strict=True):
        dy = (w @ xs - ts) / N
        dw = dw + dy @ xs.T
    return dw


@hole(
    cases=lambda rng: [_regression(rng, 2, 3, 8), _regression(rng, 3, 5, 6), _regression(rng, 4, 2, 2)],
    hints=[
        """Each rank finds what its own pictures say about all weights.  All ranks need the same update: the
        sum of what everybody says, on every rank.""",
        """To sum over the ranks, and leave the whole sum with each, is comm.all_reduce.""",
        """dy = (w @ x[:, mine] - t[:, mine]) / N, and dw = comm.all_reduce(dy @ x[:, mine].T).""",
    ],
    wrong=[
        (
            "comm.all_reduce(dy @ x[:, mine].T)",
            "dy @ x[:, mine].T",
            """nothing crosses: each rank updates by its own pictures, and from then on there are two
            networks.""",
        ),
        (
            "(w @ x[:, mine] - t[:, mine]) / N",
            "(w @ x[:, mine] - t[:, mine]) / x[:, mine].shape[1]",
            """each rank takes the mean over its own pictures, and the sum of means is too large by the number
            of ranks.""",
        ),
        (
            "comm.all_reduce(dy @ x[:, mine].T)",
            "comm.all_reduce(dy @ x[:, mine].T) / comm.size",
            """the sum is averaged once more: dy has been divided by all N already.""",
        ),
        (
            "comm.all_reduce(dy @ x[:, mine].T)",
            "comm.broadcast(dy @ x[:, mine].T)",
            """every rank has rank 0's gradient: the same on all, but the other pictures were not asked.""",
        ),
    ],
)
def data_parallel(x, t, w):
    """The same gradient, each rank with its part of the pictures; what each rank has, (2, F, D)."""
    N = x.shape[1]

    def program(comm):
        mine = comm.part(N)  # of the pictures
        dy = (w @ x[:, mine] - t[:, mine]) / N
        dw = comm.all_reduce(dy @ x[:, mine].T)
        return dw

    return np.stack(launch(program, devices))


def _two_halves(rng, D, H, F, N):
    shapes = (D, N), (H, D), (F, H), (F, N)
    return tuple(rng.standard_normal(shape) for shape in shapes)


@hole(
    cases=lambda rng: [
        _two_halves(rng, 3, 5, 4, 6),
        _two_halves(rng, 5, 3, 2, 8),
        _two_halves(rng, 2, 7, 6, 4),
    ],
    hints=[
        """Before the fully connected layer each rank has all features of its own images, and its rows want
        those of all images.  Which axis is joined?""",
        """h is (H, N/2): gather along axis 1.  Backward each rank has its rows' word about all images:
        reduce_scatter along the same axis leaves every rank its own images.  w1 is on both ranks, and each
        has seen half of the images: its gradient is a sum over the ranks.""",
        """whole = comm.all_gather(h, axis=1), dh = comm.reduce_scatter(partial, axis=1), and
        dw1 = comm.all_reduce((dh * (h > 0)) @ x[:, images].T).""",
    ],
    wrong=[
        (
            "comm.reduce_scatter(partial, axis=1)",
            "partial[:, images]",
            """the other rank's rows have read these images too: what they say about them belongs to the
            sum.""",
        ),
        (
            "comm.all_reduce((dh * (h > 0)) @ x[:, images].T)",
            "(dh * (h > 0)) @ x[:, images].T",
            """dw1 is what one rank's images say.  The convolutions are data-parallel: sum it over the
            ranks.""",
        ),
        (
            "comm.all_gather(h, axis=1)",
            "np.concatenate([h, h], axis=1)",
            """each rank joins its own images with themselves: nothing has crossed.""",
        ),
        (
            "comm.all_reduce((dh * (h > 0)) @ x[:, images].T)",
            "comm.all_reduce((dh * (h > 0)) @ x[:, images].T) / comm.size",
            """dw1 is averaged over the ranks.  dy holds the division by the number of images already, if
            there is one: add.""",
        ),
        (
            "comm.reduce_scatter(partial, axis=1)",
            "comm.all_gather(partial, axis=1)[:, images]",
            """a gather adds nothing: this is what rank 0's rows say, on both ranks.""",
        ),
    ],
)
def hybrid(x, w1, w2, dy):
    """h = max(0, w1 x) data-parallel, y = w2 h model-parallel.  x (D,N), dy (F,N) → y, dw1, dw2."""
    N = x.shape[1]

    def program(comm):
        images, rows = comm.part(N), comm.part(len(w2))
        h = np.maximum(w1 @ x[:, images], 0)  # (H, N/2): all features, of this rank's images
        whole = comm.all_gather(h, axis=1)
        y = w2[rows] @ whole  # (F/2, N): this rank's features, of all images

        dw2 = dy[rows] @ whole.T  # (F/2, H)
        partial = w2[rows].T @ dy[rows]  # (H, N): what this rank's rows say about all images
        dh = comm.reduce_scatter(partial, axis=1)
        dw1 = comm.all_reduce((dh * (h > 0)) @ x[:, images].T)
        return y, dw1, dw2

    (y0, dw1, dw2_0), (y1, _, dw2_1) = launch(program, devices)
    return np.concatenate([y0, y1]), dw1, np.concatenate([dw2_0, dw2_1])
