"""Networks as lists of layers, and their names.

`NETWORKS` says which networks can be asked for by name; `make` makes one for some data.  A new network is
a file here, a row in the table, and, if it is to be trained as its authors did, a recipe.
"""

from functools import partial

from tinyalex.errors import ArgumentError
from tinyalex.fields import one_of
from tinyalex.models.alexnet import PRESETS, AlexNet, alexnet, narrow
from tinyalex.models.cifar import figure1
from tinyalex.models.ladder import three_convolutions, with_local
from tinyalex.models.network import Network
from tinyalex.models.vgg import vgg

__all__ = ["NETWORKS", "AlexNet", "Network", "alexnet", "figure1", "make", "vgg"]


def _alexnet(preset, width=1.0, **options):
    return alexnet(narrow(PRESETS[preset], width)._replace(**options))


# name → function of what can be chosen about the network, by keyword
NETWORKS = {name: partial(_alexnet, name) for name in PRESETS} | {
    "cifar4": partial(figure1, "relu"),
    "cifar4-tanh": partial(figure1, "tanh"),
    "cifar4-logistic": partial(figure1, "logistic"),
    "cifar-80sec": partial(three_convolutions, hidden=64),
    "cifar-19pct": three_convolutions,
    "cifar-18pct": partial(three_convolutions, norm=True),
    "cifar-13pct": partial(with_local, local3=32, lrn=False),
    "cifar-11pct": partial(with_local, local3=64, lrn=True),
    **{f"vgg-{letter.lower()}": partial(vgg, letter) for letter in "ABCDE"},
    "vgg-a-lrn": partial(vgg, "A", lrn=True),
}


def make(name: str, **options) -> Network:
    """Return the `Network` of this name; options: what can be chosen about it, None for its own.

    For AlexNet's presets these are width (a factor on filters and hidden units) and the fields of `AlexNet`:
    classes, size, …  Raises ArgumentError for an unknown name, or an option that the network does not have.
    """
    one_of(NETWORKS, name, "network")
    options = {key: value for key, value in options.items() if value is not None}
    try:
        return NETWORKS[name](**options)
    except (TypeError, ValueError) as error:
        if isinstance(error, ArgumentError):
            raise
        raise ArgumentError(f"{name}: it has no choice of {', '.join(options)}: {error}") from error
