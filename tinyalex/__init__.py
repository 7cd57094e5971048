"""tinyalex: AlexNet written out by hand, forward and backward, on NumPy or CuPy arrays.

What may be imported, and is kept from version to version:

    tinyalex.ops        the operations, in pairs: conv2d_forward, conv2d_backward, …
    tinyalex.nn         layers, and Sequential
    tinyalex.models     networks as lists of layers: alexnet, figure1, make("paper"), Network
    tinyalex.optim      SGD, the paper's update
    tinyalex.train      fit, train_step
    tinyalex.evaluate   probabilities, errors, features
    tinyalex.gradcheck  check, check_layer
    tinyalex.comm       launch, Comm: ranks and their collectives
    tinyalex.devices    Device: "cpu:0", "cuda:1"
    tinyalex.data       pictures and batches of them
    tinyalex.runs       train, resume: runs in folders, and checkpoints
    tinyalex.exchange   networks to and from ONNX and PyTorch
    tinyalex.errors     the errors that a user can mend
"""

PUBLIC = (
    "ops", "nn", "models", "optim", "train", "evaluate", "gradcheck", "comm", "devices", "data", "runs",
    "exchange", "errors",
)  # fmt: skip


def __getattr__(name):
    """`__version__`, looked up when it is asked for: few processes do, and it takes half as long as NumPy."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import metadata

    try:
        return metadata.version("tinyalex")
    except metadata.PackageNotFoundError:  # a checkout that was never installed
        return "0+checkout"
