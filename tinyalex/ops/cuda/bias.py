"""Bias and ReLU after a matrix product."""

import math

from tinyalex.ops.activation import relu
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import images, launch


def bias(block, b, maps, start, activation):
    """maps[f, start:] = block[f] + b[f], through ReLU if that is the activation; block (F,columns)."""
    F, columns = block.shape
    b, pitch = xp_of(b).ascontiguousarray(b), maps.size // F
    v = images(math.gcd(columns, pitch, start), block, maps)
    launch(
        "bias.bias_relu", (columns // v, F), block, b, maps,
        columns // v, pitch // v, start // v, activation is relu, nbytes=2 * block.nbytes + b.nbytes, V=v,
    )  # fmt: skip
