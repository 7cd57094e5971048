"""Where windows that are placed every few pixels meet the picture, along one axis."""


def real_windows(size, windows, offset, stride):
    """Return (the windows j whose pixel j·stride + offset is inside 0 … size−1, those pixels), as slices."""
    first = max(0, -(offset // stride))
    last = max(first, min(windows, (size - 1 - offset) // stride + 1))
    start = first * stride + offset
    return slice(first, last), slice(start, start + (last - first) * stride, stride)
