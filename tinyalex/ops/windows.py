"""Windows placed every s pixels along one side of a picture: how many there are, and where they meet it."""

from tinyalex.errors import ArgumentError
from tinyalex.fields import plain_data

__all__ = ["four_pads", "output_size", "pooled_size", "two_of"]


def four_pads(pad):
    """Return (top, bottom, left, right) for a pad given as one number or as all four."""
    if (pads := whole_numbers(pad, 4, least=0)) is None:
        raise ArgumentError(f"pad: expected a number ≥ 0 or (top, bottom, left, right), found {pad!r}")
    return pads


def two_of(value, what):
    """Return (vertical, horizontal) for a stride or window given as one number or as both."""
    if (two := whole_numbers(value, 2)) is None:
        raise ArgumentError(f"{what}: expected a number ≥ 1, or two (vertical, horizontal), found {value!r}")
    return two


def whole_numbers(value, count=1, least=1):
    """Return so many ints ≥ least, given as one of them or as all, Python's or NumPy's; None for others."""
    value = plain_data(value)
    numbers = value if isinstance(value, tuple) else (value,) * count
    fine = len(numbers) == count and {*map(type, numbers)} == {int} and min(numbers) >= least
    return numbers if fine else None


def output_size(size, window, stride, before, after, what="conv2d"):
    """floor((size + before + after − window)/stride) + 1: windows that fit into the padded length."""
    if stride < 1 or window < 1:
        raise ArgumentError(f"{what}: expected window and stride ≥ 1, found window {window}, stride {stride}")
    if window > size + before + after:
        raise ArgumentError(
            f"{what}: window of {window} is larger than the map: {size} with {before}+{after} of padding"
        )
    return (size + before + after - window) // stride + 1


def pooled_size(size, z, s, before, after, ceil=True, what="pool"):
    """Floor or ceil((size + before + after − z)/s) + 1, less a last window that starts outside."""
    floor_size = output_size(size, z, s, before, after, what)
    if max(before, after) >= z:
        raise ArgumentError(f"{what}: padding {before}+{after} must be smaller than the window of {z}")
    overhang = (size + before + after - z) % s
    starts_inside = floor_size * s < size + before
    return floor_size + 1 if ceil and overhang and starts_inside else floor_size


def real_windows(size, windows, offset, stride):
    """Return (the windows j whose pixel j·stride + offset is inside 0 … size−1, those pixels), as slices."""
    first = max(0, -(offset // stride))
    last = max(first, min(windows, (size - 1 - offset) // stride + 1))
    start = first * stride + offset
    return slice(first, last), slice(start, start + (last - first) * stride, stride)


def in_parts(count, most):
    """Cut `count` things into equal parts, but for the last, of at most so many: return a list of slices."""
    step = -(-count // -(-count // max(1, most)))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
