"""tinyalex: AlexNet written out by hand, forward and backward, on NumPy or CuPy arrays."""


def __getattr__(name):
    if name == "__version__":  # only when it is read: the package also runs where it is not installed
        from importlib.metadata import version

        return version("tinyalex")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
