"""The operations that layers are made of: pure functions, forward and backward in pairs.

`f_forward(x, …)` returns (y, cache), and `f_backward(dy, cache)` the gradient by each float that went in.
Maps are (C,H,W,N), features (D,N), images last.  An argument is never written to.  NumPy's arrays are
computed on the CPU, CuPy's on their GPU, in float32 or float64.

Each pair has three versions, which the same tests hold to one another: loops (`reference`), whole arrays at a
time as the formula reads (`plain`), and the fast one, which is exported here.
"""

import contextlib

from tinyalex.ops import plain
from tinyalex.ops.activation import (
    ACTIVATIONS,
    Activation,
    leaky_relu,
    leaky_relu_backward,
    leaky_relu_forward,
    logistic,
    logistic_backward,
    logistic_forward,
    relu,
    relu6,
    relu6_backward,
    relu6_forward,
    relu_backward,
    relu_forward,
    tanh,
    tanh_backward,
    tanh_forward,
)
from tinyalex.ops.batch_norm import batch_norm_backward, batch_norm_forward
from tinyalex.ops.conv import conv2d_backward, conv2d_forward
from tinyalex.ops.dropout import dropout_backward, dropout_forward, dropout_mask
from tinyalex.ops.linear import linear_backward, linear_forward
from tinyalex.ops.lrn import lrn_backward, lrn_forward, same_map_norm_backward, same_map_norm_forward
from tinyalex.ops.plain import col2im, im2col
from tinyalex.ops.pool import (
    avg_pool_backward,
    avg_pool_forward,
    global_avg_pool_backward,
    global_avg_pool_forward,
    max_pool_backward,
    max_pool_forward,
)
from tinyalex.ops.softmax import softmax, softmax_loss_backward, softmax_loss_forward, topk_error
from tinyalex.ops.windows import four_pads, output_size, pooled_size, two_of

__all__ = [
    "ACTIVATIONS", "Activation", "avg_pool_backward", "avg_pool_forward", "batch_norm_backward",
    "batch_norm_forward", "chosen", "col2im", "conv2d_backward", "conv2d_forward", "dropout_backward",
    "dropout_forward", "dropout_mask", "four_pads", "global_avg_pool_backward", "global_avg_pool_forward",
    "im2col", "leaky_relu",
    "leaky_relu_backward", "leaky_relu_forward", "linear_backward", "linear_forward", "logistic",
    "logistic_backward", "logistic_forward", "lrn_backward", "lrn_forward", "max_pool_backward",
    "max_pool_forward", "output_size", "plain_ops", "pooled_size", "relu", "relu6", "relu6_backward",
    "relu6_forward", "relu_backward", "relu_forward", "same_map_norm_backward", "same_map_norm_forward",
    "softmax", "softmax_loss_backward", "softmax_loss_forward", "tanh", "tanh_backward", "tanh_forward",
    "topk_error", "two_of",
]  # fmt: skip

_use_plain = False  # of the module, not of a thread: ranks are threads, and run what their starter chose


def chosen(operation):
    """Return the plain operation of the same name within `plain_ops`, else the operation itself.

    A layer asks before its forward, for both of its pair, and keeps the backward: that of a plain forward is
    the plain one, even after the block has ended.
    """
    return getattr(plain, getattr(operation, "__name__", ""), operation) if _use_plain else operation


@contextlib.contextmanager
def plain_ops():
    """Within the block layers run the plain operations, on every thread of this process.

    with plain_ops():
        y = net.forward(x)
    """
    global _use_plain
    before, _use_plain = _use_plain, True
    try:
        yield
    finally:
        _use_plain = before
