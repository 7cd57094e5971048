"""tinyalex: AlexNet written out by hand, forward and backward, on NumPy or CuPy arrays."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tinyalex")
except PackageNotFoundError:  # imported from its source, where nothing was installed
    __version__ = "0+source"
