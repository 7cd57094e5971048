"""What a debugger walks through in a convolution: functions, calls and lines of the package, fast and plain.

    python measured/step_through.py

conv2 of AlexNet at full size, 4 images, forward and backward, with ReLU.  The largest differences between the
two are printed as a part of the largest number.  Both go backward with the fast y: where rounding puts a sum
on the other side of 0, ReLU's gradient jumps.
"""

import sys
from pathlib import Path

import numpy as np

import tinyalex
from tinyalex.ops import conv2d_backward, conv2d_forward, plain, relu

PACKAGE = str(Path(tinyalex.__file__).parent)


def conv2(forward, backward, before=None):
    """Run conv2 forward and backward; return y, the gradients, the cache, and (functions, calls, lines).

    before: the cache to go backward with, by default that of this forward.
    """
    rng = np.random.default_rng(0)
    x = np.maximum(rng.standard_normal((96, 27, 27, 4), np.float32), 0)
    w, b = 0.01 * rng.standard_normal((256, 48, 5, 5), np.float32), np.zeros(256, np.float32)
    dy = rng.standard_normal((256, 27, 27, 4), np.float32)
    functions, calls, lines = set(), 0, 0

    def trace(frame, event, _):
        nonlocal calls, lines
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "call":
            functions.add(frame.f_code)
        calls += event == "call"
        lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        y, cache = forward(x, w, b, pad=2, groups=2, activation=relu)
        gradients = backward(dy, before or cache)
    finally:
        sys.settrace(None)
    named = [code for code in functions if not code.co_name.startswith("<")]  # a comprehension is no function
    return (y, *gradients), cache, (len(named), calls, lines)


def main():
    """Print a row for the fast convolution and one for the plain one."""
    fast, cache, counts = conv2(conv2d_forward, conv2d_backward)
    print(f"{'':6}{'functions':>10}{'calls':>8}{'lines':>8}")
    print(f"{'fast':6}{counts[0]:10}{counts[1]:8,}{counts[2]:8,}")
    simple, _, counts = conv2(plain.conv2d_forward, plain.conv2d_backward, cache)
    print(f"{'plain':6}{counts[0]:10}{counts[1]:8,}{counts[2]:8,}")
    for name, a, b in zip(("y", "dx", "dw", "db"), fast, simple, strict=True):
        print(f"{name}: largest difference {np.abs(a - b).max() / np.abs(b).max():.1e}")


if __name__ == "__main__":
    main()
