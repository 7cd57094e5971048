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

from importlib.metadata import PackageNotFoundError, version

PUBLIC = (
    "ops", "nn", "models", "optim", "train", "evaluate", "gradcheck", "comm", "devices", "data", "runs",
    "exchange", "errors",
)  # fmt: skip

try:
    __version__ = version("tinyalex")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+checkout"
