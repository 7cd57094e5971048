"""The commands that take networks out of this program and into it."""

import base64
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tinyalex.cli.common import Checkpoint, console, new_file
from tinyalex.errors import ArgumentError, DataError
from tinyalex.fields import finite
from tinyalex.files import read_text

PIXELS = np.dtype("<f4")  # of a mean picture in a file's metadata, base64


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Argument(help="The ONNX file.")],
):
    """Write a checkpoint's network as ONNX (opset 13)."""
    from tinyalex.exchange import onnx_export
    from tinyalex.runs import checkpoint as files
    from tinyalex.runs.checkpoint import newest
    from tinyalex.runs.saved import open_network

    path = newest(checkpoint)
    new_file(out, path)
    saved = open_network(path)
    arrays, _ = files.load(path)
    pictures, mean = _pictures_of(path, saved, arrays)
    metadata = {
        "classes": saved.classes,
        "pictures": pictures and pictures._asdict(),
        "mean_picture": None if mean is None else base64.b64encode(mean.astype(PIXELS)).decode(),
    }
    onnx_export.write(out, saved.network, arrays, metadata)
    if mean is not None:
        apart = abs(mean - pictures.rgb_mean[:, None, None]).max()
        console.print(
            f"the file holds the mean picture that was subtracted in training, up to {apart:.0f} of 255 from "
            "the one colour that is stated beside it; docs/exchange.md says how others read it"
        )
    shape = ", ".join(map(str, saved.network.input))
    console.print(f"{out}: opset {onnx_export.OPSET}, input (batch, {shape}), logits out")


def _pictures_of(path, saved, arrays):
    """What a network wants to see, and the mean picture to be subtracted, (3, S, S), S = resize.

    None for the mean picture where one colour was subtracted, both None for Figure 1's network.
    """
    from tinyalex.data.preprocessing import Pictures
    from tinyalex.runs.saved import mean_picture

    if saved.pictures:
        return saved.pictures, mean_picture(path, arrays) if "data.mean" in arrays else None
    if saved.settings is None:
        return None, None
    settings, mean = saved.settings, mean_picture(path, arrays)
    colour, scale = mean.mean((1, 2), dtype=float), settings.recipe.augmentation.test_scale
    pictures = Pictures(
        "RGB", tuple(colour.tolist()), (1.0, 1.0, 1.0), scale or mean.shape[-1], saved.network.input[-1],
        settings.upscale,
    )  # fmt: skip
    return pictures, None if scale else mean  # from rescaled pictures the colour is subtracted (VGG)


def import_network(
    source: Annotated[
        Path, typer.Argument(help="An ONNX file, or a PyTorch state dict saved as .safetensors.")
    ],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write (.safetensors).")],
    pictures: Annotated[
        str | None,
        typer.Option(
            help="How its pictures are prepared: caffe, vgg, torchvision, pixels (0-255), unit (0-1), or a "
            "JSON file; see docs/exchange.md."
        ),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="A text file: the name of a class in each line.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="Which network a state dict is of: alexnet, vgg, vgg_released, bvlc_alexnet or caffenet."
        ),
    ] = None,
):
    """Read a network that another program wrote, into a checkpoint that `predict` takes."""
    from tinyalex.exchange import state_dict
    from tinyalex.runs import checkpoint as files

    new_file(out, source, classes)
    if source.suffix == ".safetensors":
        found = state_dict.read(source, network)
    elif network is not None:
        raise ArgumentError(f"--network: expected a state dict (.safetensors), found {source}")
    else:
        from tinyalex.exchange import onnx_import

        found = onnx_import.read(source)
    stated = _stated(source, found)
    if pictures is not None:
        stated["pictures"], found = _pictures(source, found, pictures)
        stated["mean"] = {}
    network = found.network
    count = network.outputs[0]
    names = _names(classes) if classes else stated.get("classes") or [str(i) for i in range(count)]
    if len(names) != count:
        raise DataError(f"{classes or source}: expected {count} names of classes, found {len(names)}")
    metadata = {
        "network": network.to_json(),
        "classes": names,
        "pictures": stated["pictures"]._asdict() if stated.get("pictures") else None,
    }
    files.save(out, found.arrays | stated.get("mean", {}), metadata)
    ranks = network.most_ranks
    for note in found.notes:
        console.print(note)
    console.print(
        f"{out}: {len(network.layers)} layers, {sum(a.size for a in found.arrays.values()):,} parameters, "
        f"{count:,} classes" + (f", {ranks} towers" if ranks > 1 else "")
    )
    if found.prepares:
        console.print(
            "the file scales and shifts its input itself: --pictures pixels (0-255) or unit (0-1), whichever "
            "goes into it, takes that out of the network"
        )
    elif not stated.get("pictures"):
        console.print("how pictures are prepared is not stated: predict needs it; import with --pictures")


def _pictures(source, found, text):
    """What --pictures says, with the file's own preparation after it; and the network without that."""
    from tinyalex.data.preprocessing import parse
    from tinyalex.exchange import preparation

    C, H, W = found.network.input
    if C != 3 or H != W:
        raise DataError(f"{source}: --pictures: expected an input of three square maps, found {(C, H, W)}")
    pictures = parse(text, H)
    if not found.prepares:
        return pictures, found
    if text in ("caffe", "vgg", "torchvision"):
        raise DataError(
            f"{source}: --pictures: this file scales and shifts its input itself: expected what goes in, "
            f"pixels (0-255), unit (0-1) or a JSON file, found {text}"
        )
    a, c, rest = preparation(found)
    return (pictures.then(a, c), rest) if a.all() and rest.network.layers else (pictures, found)


def _stated(source, found):
    """The classes, pictures and mean picture that an ONNX file of this program states; {} where none."""
    from tinyalex.data.preprocessing import Pictures

    if "tinyalex" not in found.properties:
        return {}
    try:
        fields = json.loads(found.properties["tinyalex"])
        names, pictures = fields.get("classes"), fields.get("pictures")
        if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
            raise DataError("classes: expected a list of names")
        pictures = None if pictures is None else Pictures.from_json(pictures)
        if pictures and found.network.input != (3, pictures.crop, pictures.crop):
            raise DataError(f"pictures: crop {pictures.crop} does not fit an input {found.network.input}")
        packed = fields.get("mean_picture")
        mean = {} if packed is None else {"data.mean": _mean_picture(packed, pictures)}
        return {"classes": names, "pictures": pictures, "mean": mean}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{source}: metadata tinyalex: not as tinyalex writes it: {error}") from error


def _mean_picture(packed, pictures):
    """The mean picture, float32 (3, resize, resize), that a file's metadata hold."""
    if pictures is None:
        raise DataError("mean_picture: expected pictures beside it, found none")
    mean, S = np.frombuffer(base64.b64decode(packed, validate=True), PIXELS), pictures.resize
    if mean.size != 3 * S * S:
        raise DataError(f"mean_picture: expected {3 * S * S:,} numbers for {S} pixels, found {mean.size:,}")
    return finite({"mean_picture": mean.astype(np.float32).reshape(3, S, S)})["mean_picture"]


def _names(path):
    return [name for line in read_text(path).splitlines() if (name := line.strip())]
