"""The commands that take networks out of this program and into it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tinyalex.cli.common import Checkpoint, console, new_file
from tinyalex.errors import ArgumentError, DataError
from tinyalex.files import read_text


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
    pictures = saved.pictures or _pictures_of(path, saved, arrays)
    metadata = {"classes": saved.classes, "pictures": pictures and pictures._asdict()}
    onnx_export.write(out, saved.network, arrays, metadata)
    shape = ", ".join(map(str, saved.network.input))
    console.print(f"{out}: opset {onnx_export.OPSET}, input (batch, {shape}), logits out")


def _pictures_of(path, saved, arrays):
    """What a run's network wants to see, the mean picture as one colour: None for Figure 1's network.

    How far that picture is from one colour is printed.  Where it is far, as with shapes in the middle of a
    background, the one colour costs accuracy: a network that had learned 480 of them, and made 54% errors,
    made 82% when it had gone out and come back.
    """
    from tinyalex.data.preprocessing import Pictures
    from tinyalex.runs.saved import mean_picture

    if saved.settings is None:
        return None
    mean = mean_picture(path, arrays)
    scale = saved.settings.recipe.augmentation.test_scale
    side = scale or saved.settings.upscale or mean.shape[-1]
    colour = mean.mean((1, 2), dtype=float)
    apart = abs(mean - colour[:, None, None]).max()
    if apart >= 1:
        console.print(
            f"the file states the run's mean picture as one colour, from which it is up to {apart:.0f} of "
            f"255 away: to lose nothing by that, subtract the picture, data.mean in {path}"
        )
    return Pictures("RGB", tuple(colour.tolist()), (1.0, 1.0, 1.0), side, saved.network.input[-1])


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
    files.save(out, found.arrays, metadata)
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
    """The classes and pictures that an ONNX file of this program states; {} where it states none."""
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
        return {"classes": names, "pictures": pictures}
    except (ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{source}: metadata tinyalex: not as tinyalex writes it: {error}") from error


def _names(path):
    return [name for line in read_text(path).splitlines() if (name := line.strip())]
