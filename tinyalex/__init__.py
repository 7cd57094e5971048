"""tinyalex: AlexNet written out by hand, forward and backward, on NumPy or CuPy arrays."""

from importlib.metadata import version

__version__ = version("tinyalex")
