"""Bias and ReLU after a matrix product."""

from tinyalex.ops.activation import relu
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.launch import images, launch


def bias(maps, b, activation):
    """maps[f] += b[f], through ReLU if that is the activation; maps (F,columns)."""
    F, columns = maps.shape
    b = xp_of(b).ascontiguousarray(b)
    v = images(columns, maps)
    launch(
        "bias.bias_relu", (columns // v, F), maps, b, columns // v, activation is relu,
        nbytes=2 * maps.nbytes + b.nbytes, V=v,
    )  # fmt: skip
