"""Textured shapes on cluttered backgrounds: ten classes of 32x32 colour pictures, drawn here.

A data set that needs no download. Colour, place, size, direction, texture and clutter say nothing about
the class, so a linear classifier stays well above 50% error, while a small convolutional net learns it
in a few epochs: hard enough to compare activations and rates, small enough for a minute of CPU time.

Every shape is a signed distance in its own coordinates (u, v): the picture's grid moved to the shape's
centre, turned, and divided by its size; u points up, v to the right. Negative is inside, and the square
|u|, |v| <= 1 holds each shape.
"""

import numpy as np

from tinyalex.data import Images
from tinyalex.errors import DataError
from tinyalex.fields import check_rng, fits, plain_data

SIDE = 32  # pixels
CHUNK = 250  # pictures drawn at a time, so that a chunk stays in cache; changes no pixel
STROKES = 4  # pieces of clutter in each background
SIZES = {"train": 10_000, "test": 2_000}
KNOBS = {  # what varies: lowest, highest (drawn uniformly), how many in each picture
    "ground": (40, 130, (3,)),  # the background's colour
    "step": (30, 100, (3,)),  # how much lighter the shape is, channel by channel
    "wave_turn": (-np.pi, np.pi, (2,)),  # a sine texture for the background, one for the shape: direction,
    "wave_period": (3, 12, (2,)),  # pixels,
    "wave_phase": (-np.pi, np.pi, (2,)),
    "wave_height": (0, 40, (2,)),
    "stroke_centre": (-16, 16, (STROKES, 2)),  # pixels up and right of the middle
    "stroke_turn": (-np.pi, np.pi, (STROKES,)),
    "stroke_size": (0.5, 7, (STROKES, 2)),  # half length, and three times the half width
    "stroke_colour": (0, 255, (STROKES, 3)),
    "centre": (-4, 4, (2,)),
    "turn": (-0.6, 0.6, ()),  # radians from upright
    "size": (8, 13, ()),  # pixels in a unit of (u, v)
    "noise": (5, 25, ()),  # standard deviation of each pixel
}


def _fold(u, v, k):
    """(x, y) of each point after the plane is folded k-fold onto one half sector around the axis y = 0."""
    angle = np.arctan2(v, u)
    angle -= np.round(angle * (k / (2 * np.pi))) * (2 * np.pi / k)
    radius = np.hypot(u, v)
    return radius * np.cos(angle), radius * np.abs(np.sin(angle))


def _box(u, v, width, height):
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _arrow(u, v):
    head = np.maximum(0.75 * u + 0.66 * np.abs(v) - 0.72, 0.1 - u)
    return np.minimum(head, _box(u + 0.4, v, 0.55, 0.2))


def _bars(u, v):
    return np.maximum(_box(u, v, 0.8, 0.8), 0.17 - np.abs((v + 1.2) % 0.63 - 0.315))


def _crescent(u, v):
    return np.maximum(np.hypot(u, v) - 0.95, 0.75 - np.hypot(u, v - 0.5))


def _cross(u, v):
    return np.minimum(_box(u, v, 0.95, 0.27), _box(u, v, 0.27, 0.95))


def _disc(u, v):
    return np.hypot(u, v) - 0.8


def _hourglass(u, v):
    return np.maximum(0.7 * (np.abs(v) - np.abs(u)) - 0.06, np.abs(u) - 0.8)


def _ring(u, v):
    return np.abs(np.hypot(u, v) - 0.7) - 0.2


def _square(u, v):
    return _box(u, v, 0.72, 0.72)


def _star(u, v):
    x, y = _fold(u, v, 5)  # edge from the tip (1, 0) to the notch at radius 0.42, 36 degrees on
    return 0.35 * (x - 1) + 0.94 * y


def _triangle(u, v):
    return _fold(-u, v, 3)[0] - 0.5


SHAPES = {
    "arrow": _arrow,
    "bars": _bars,
    "crescent": _crescent,
    "cross": _cross,
    "disc": _disc,
    "hourglass": _hourglass,
    "ring": _ring,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
}


def _each(values):
    """One value per picture, (N, ...), shaped to broadcast over pixels: (N, ..., 1, 1)."""
    return values[..., None, None]


def _frame(turn, centre=None):
    """(u, v), each (N, SIDE, SIDE): pixels up and right of centre (N, 2), turned by turn (N,) radians."""
    line = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
    up, right = -line[:, None], line  # rows are counted downwards
    if centre is not None:
        up, right = up - _each(centre[:, 0]), right - _each(centre[:, 1])
    cos, sin = _each(np.cos(turn)), _each(np.sin(turn))
    return cos * up + sin * right, cos * right - sin * up


def _paint(canvas, distance, colour):
    """Cover canvas (N, 3, SIDE, SIDE) with colour where distance (N, SIDE, SIDE), in pixels, is negative."""
    cover = np.clip(0.5 - distance, 0, 1)[:, None]  # one pixel of soft edge
    canvas += cover * (colour - canvas)


def _draw(labels, knobs, rng):
    """Pictures (N, 3, SIDE, SIDE), uint8, of the labelled shapes; rng adds the noise."""
    waves = []
    for i in range(2):
        u, _ = _frame(knobs["wave_turn"][:, i])
        phase = u * _each(2 * np.pi / knobs["wave_period"][:, i]) + _each(knobs["wave_phase"][:, i])
        waves.append((_each(knobs["wave_height"][:, i]) * np.sin(phase))[:, None])

    canvas = _each(knobs["ground"]) + waves[0]
    for i in range(STROKES):
        u, v = _frame(knobs["stroke_turn"][:, i], knobs["stroke_centre"][:, i])
        length, width = _each(knobs["stroke_size"][:, i].T)
        _paint(canvas, _box(u, v, length, width / 3), _each(knobs["stroke_colour"][:, i]))

    size = _each(knobs["size"])
    u, v = np.stack(_frame(knobs["turn"], knobs["centre"])) / size
    distance = np.empty_like(u)
    for k, shape in enumerate(SHAPES.values()):
        mine = labels == k
        distance[mine] = shape(u[mine], v[mine])
    colour = knobs["ground"] + knobs["step"]
    _paint(canvas, distance * size, _each(colour) + waves[1])

    canvas += rng.standard_normal(canvas.shape, np.float32) * _each(knobs["noise"])[:, None]
    return np.clip(canvas, 0, 255).astype(np.uint8)


def make(n, rng):
    """Draw n labelled pictures, the ten classes in random order and balanced to within one.

    n: at least 1.  rng: a numpy.random.Generator.
    Returns Images: images uint8 (3, 32, 32, n), labels int64 (n,), classes the names in SHAPES.
    Raises DataError when n is not a positive whole number.
    """
    if not fits(plain_data(n), int) or n < 1:
        raise DataError(f"shapes: n is the number of pictures, a whole number from 1 up; found {n!r}")
    check_rng(rng)
    labels = rng.permutation(np.arange(n, dtype=np.int64) % len(SHAPES))
    knobs = {}
    for name, (low, high, shape) in KNOBS.items():
        knobs[name] = rng.uniform(low, high, (n, *shape)).astype(np.float32)
    images = np.empty((3, SIDE, SIDE, n), np.uint8)
    for i in range(0, n, CHUNK):
        chunk = slice(i, i + CHUNK)
        mine = {name: values[chunk] for name, values in knobs.items()}
        images[..., chunk] = _draw(labels[chunk], mine, rng).transpose(1, 2, 3, 0)
    return Images(images, labels, tuple(SHAPES))


def load(split="train"):
    """The fixed data set: split "train" has 10,000 pictures, "test" 2,000, from streams of their own.

    Returns Images, the same on every run.  Raises DataError for any other split.
    """
    if split not in [*SIZES]:
        raise DataError(f"shapes: split is one of {', '.join(SIZES)}; found {split!r}")
    return make(SIZES[split], np.random.default_rng([2012, list(SIZES).index(split)]))
