"""tinyalex: AlexNet written out by hand, forward and backward, on NumPy or CuPy arrays."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tinyalex")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+checkout"
