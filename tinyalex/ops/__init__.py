"""The operations that layers are made of: pure functions, forward and backward in pairs.

`f_forward(x, …)` returns (y, cache), and `f_backward(dy, cache)` the gradient by each float that went in.
Maps are (C,H,W,N), features (D,N), images last.  An argument is never written to.  NumPy's arrays are
computed on the CPU, CuPy's on their GPU, in float32 or float64.

Each pair has three versions, which the same tests hold to one another: loops (`reference`), whole arrays at a
time as the formula reads (`plain`), and the fast one, which is exported here.
"""

import contextlib

from tinyalex.ops import activation, conv, dropout, later, linear, lrn, plain, pool, windows
from tinyalex.ops import softmax as _softmax
from tinyalex.ops.activation import *
from tinyalex.ops.conv import *
from tinyalex.ops.dropout import *
from tinyalex.ops.later import *
from tinyalex.ops.linear import *
from tinyalex.ops.lrn import *
from tinyalex.ops.plain import *
from tinyalex.ops.pool import *
from tinyalex.ops.softmax import *
from tinyalex.ops.windows import *

__all__ = [
    "chosen", "plain_ops", *activation.__all__, *conv.__all__, *dropout.__all__, *later.__all__,
    *linear.__all__, *lrn.__all__, *plain.__all__, *pool.__all__, *_softmax.__all__, *windows.__all__,
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
