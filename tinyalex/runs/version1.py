"""Checkpoints and run folders of format 1, in which a network was told of in three ways.

    settings    an AlexNet run: the choices of the preset, and a recipe whose parts stand in order, unnamed
    layers      an imported network: a list whose convolutions and products give the shapes of their weights
    neuron      Figure 1's network, with the curve of its training

Each becomes what format 2 holds of it (`tinyalex.runs.checkpoint`); the arrays are the same in both.
"""

from tinyalex.data import augment
from tinyalex.errors import ArgumentError, DataError
from tinyalex.fields import checked, plain_data
from tinyalex.models.alexnet import AlexNet, alexnet
from tinyalex.models.cifar import figure1
from tinyalex.runs.recipe import Change

LARGEST_SIZE = 1 << 20  # filters, hidden units, classes, pixels
DEFAULTS = {  # others than those of tinyalex.nn
    "MaxPool": {"ceil": False}, "AvgPool": {"ceil": False}, "LRN": {"alpha_over_n": True},
    "Dropout": {"inverted": True},
}  # fmt: skip


def metadata(old):
    """Return the metadata of a checkpoint as format 2 has them; DataError for what is none of format 1."""
    if not isinstance(old, dict):
        raise DataError(f"expected metadata of a network, found {type(old).__name__}")
    if "settings" in old:
        new = settings(old["settings"])
        return {**old, "settings": new, "network": new["network"], "pictures": None}
    if "layers" in old:
        layers = old["layers"]
        if not isinstance(layers, list):
            raise DataError(f"layers: expected a list of layers, found {type(layers).__name__}")
        network = {"input": old.get("input"), "layers": [_layer(entry) for entry in layers]}
        return {"network": network, "classes": old.get("classes"), "pictures": old.get("pictures")}
    if "neuron" in old:
        try:
            network = figure1(old["neuron"])
        except (ArgumentError, TypeError) as error:
            raise DataError(f"neuron: {error}") from error
        curve = {("activation" if key == "neuron" else key): value for key, value in old.items()}
        return {"network": network.to_json(), "classes": None, "pictures": None, "curve": curve}
    raise DataError("a checkpoint, but not of an AlexNet run, nor of another network that this version knows")


def settings(old):
    """Return the settings of a run as format 2 has them."""
    if not isinstance(old, dict) or not {"network", "recipe", "preset"} <= old.keys():
        raise DataError("settings of another version of tinyalex: expected a network and a recipe")
    try:
        options = checked(AlexNet, old["network"], "network")
        sizes = *options.filters, options.hidden, options.classes, options.size, options.towers, options.pool
        if len(options.filters) != 5 or not all(0 < n <= LARGEST_SIZE for n in sizes):
            raise DataError(f"network: expected sizes from 1 to {LARGEST_SIZE:,}, found {sizes}")
        network = alexnet(options).to_json()
        kept = {key: value for key, value in old.items() if key != "preset"}
        return {**kept, "network": network, "recipe": _recipe(old["recipe"])}
    except (DataError, ArgumentError) as error:
        raise DataError(f"settings of another version of tinyalex: {error}") from error


def _recipe(old):
    try:
        new = {key: value for key, value in old.items() if key != "pictures"}
        names = augment.Augmentation._fields
        new["augmentation"] = dict(zip(names, old["pictures"], strict=True))
        if old["schedule"] is not None:
            new["schedule"] = [dict(zip(Change._fields, change, strict=True)) for change in old["schedule"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"recipe: {error!r}") from error
    return new


def _layer(old):
    """A layer's entry: shape → filters and kernel, or features; a tuple of the activation → its name."""
    if not isinstance(old, dict):
        raise DataError(f"layers: expected named fields, found {str(old)[:80]}")
    new, shape = DEFAULTS.get(str(old.get("kind")), {}) | old, old.get("shape")
    if old.get("kind") in ("Conv", "Linear"):
        new.pop("shape", None)
        length = 4 if old["kind"] == "Conv" else 2
        fits = isinstance(shape, list) and len(shape) == length and all(type(n) is int for n in shape)
        if not fits:
            raise DataError(
                f"layers: {str(old.get('name'))[:40]}: expected {length} sizes, found {shape!r:.80}"
            )
        if length == 4:
            new |= {"kind": "Conv2d", "filters": shape[0], "kernel": shape[2:]}
        else:
            new |= {"features": shape[0]}
    if "activation" in old:
        match plain_data(old["activation"]):
            case ():
                new["activation"] = None
            case ("relu" | "logistic" as name,) | ("tanh" as name, 1, 1):
                new["activation"] = name
    return new
