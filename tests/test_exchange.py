"""Networks that others trained, on the command line: import, predict, export."""

import base64
import contextlib
import io
import json
import os
import re
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tinyalex import cli, files
from tinyalex.comm import Comm
from tinyalex.data import Images, imagenet
from tinyalex.data import preprocessing as pictures
from tinyalex.data.augment import PLAIN
from tinyalex.devices import Device
from tinyalex.errors import DataError
from tinyalex.exchange import state_dict
from tinyalex.look import figures
from tinyalex.models import Network, figure1
from tinyalex.models.alexnet import PRESETS, alexnet, narrow
from tinyalex.nn import Activate, Conv2d, Dropout, Flatten, Linear
from tinyalex.runs import checkpoint
from tinyalex.runs import trained as reading
from tinyalex.runs.recipe import Recipe
from tinyalex.runs.saved import load_network, open_network
from tinyalex.runs.settings import Settings

ONE = Comm(Device("cpu:0"))
needs_onnx = pytest.mark.skipif(not find_spec("onnx"), reason="onnx is not installed")


def tinyalex(*args):
    """Run a command in this process: exit code, and what it printed on both streams."""
    out, argv = io.StringIO(), sys.argv
    sys.argv = ["tinyalex", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            cli.main()
        return 0, out.getvalue()
    except SystemExit as end:
        return end.code or 0, out.getvalue()
    finally:
        sys.argv = argv


def done(*args):
    code, printed = tinyalex(*args)
    assert code == 0, printed
    return printed


CAFFE = "import", "--network", "bvlc_alexnet"  # whose names are CaffeNet's too


def refused(*args):
    code, printed = tinyalex(*args)
    assert code == 1
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1, printed
    return printed


# ---- state dicts ---------------------------------------------------------------------------------------


def torchvision_like(kind):
    """A narrow network with torchvision's modules, under torchvision's names."""
    nn = pytest.importorskip("torch", reason="PyTorch is not installed").nn

    def relu():
        return nn.ReLU()

    if kind == "alexnet":
        features = nn.Sequential(
            nn.Conv2d(3, 8, 11, stride=4, padding=2), relu(), nn.MaxPool2d(3, 2),
            nn.Conv2d(8, 12, 5, padding=2), relu(), nn.MaxPool2d(3, 2), nn.Conv2d(12, 16, 3, padding=1),
            relu(), nn.Conv2d(16, 12, 3, padding=1), relu(), nn.Conv2d(12, 8, 3, padding=1), relu(),
            nn.MaxPool2d(3, 2),
        )  # fmt: skip
        classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(8 * 36, 16), relu(), nn.Dropout(), nn.Linear(16, 16), relu(),
            nn.Linear(16, 6),
        )  # fmt: skip
    else:
        layers, C = [], 3
        for F in (4, "M", 6, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M"):
            if F == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                norm = [nn.BatchNorm2d(F)] if kind == "vgg11_bn" else []
                layers += [nn.Conv2d(C, F, 3, padding=1), *norm, relu()]
                C = F
        features = nn.Sequential(*layers)
        classifier = nn.Sequential(
            nn.Linear(8 * 49, 16), relu(), nn.Dropout(), nn.Linear(16, 16), relu(), nn.Dropout(),
            nn.Linear(16, 6),
        )  # fmt: skip
    module = nn.Module()
    module.features, module.classifier = features, classifier
    module.forward = lambda x: classifier(features(x).flatten(1))
    return module.eval()


@pytest.mark.parametrize("kind", ["alexnet", "vgg11", "vgg11_bn"])
def test_torchvision_s_state_dicts(kind, tmp_path):
    module = torchvision_like(kind)
    import torch

    torch.manual_seed(0)
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.2)
    for name, b in module.named_buffers():
        if "running" in name:
            torch.nn.init.uniform_(b, 0.5, 2)
    arrays = {name: p.detach().numpy() for name, p in module.state_dict().items()}
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors")
    done(
        "import", tmp_path / "theirs.safetensors", tmp_path / "ours.safetensors", "--pictures", "torchvision"
    )
    trained = reading.load(ONE, tmp_path / "ours.safetensors")
    x = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    found = trained.net.forward(np.ascontiguousarray(x.transpose(1, 2, 3, 0))).T
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def caffe_arrays(classes=6):
    """A narrow bvlc_alexnet's weights under the names that its layers have in PyTorch."""
    rng = np.random.default_rng(0)
    shapes = {
        "conv1": (8, 3, 11, 11), "conv2": (8, 4, 5, 5), "conv3": (8, 8, 3, 3), "conv4": (8, 4, 3, 3),
        "conv5": (8, 4, 3, 3), "fc6": (16, 8 * 36), "fc7": (16, 16), "fc8": (classes, 16),
    }  # fmt: skip
    arrays = {}
    for name, shape in shapes.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        arrays[f"{name}.weight"] = (scale * rng.standard_normal(shape)).astype(np.float32)
        arrays[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    arrays["fc8.weight"] *= 0.01  # so that no class is certain
    return arrays


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("bvlc_alexnet", ["conv1", "lrn1", "pool1", "conv2"]),
        ("caffenet", ["conv1", "pool1", "lrn1", "conv2"]),
    ],
)
def test_a_state_dict_with_caffe_s_names_fits_two_networks_and_one_must_be_asked_for(asked, names, tmp_path):
    path = tmp_path / "theirs.safetensors"
    safetensors.numpy.save_file(caffe_arrays(), path)
    network = state_dict.read(path, asked).network
    assert [layer.name for layer in network.layers][:4] == names
    assert network.most_ranks == 2
    with pytest.raises(DataError, match=r"choose with --network bvlc_alexnet .* or caffenet"):
        state_dict.read(path)
    with pytest.raises(DataError, match="expected the names of vgg, found conv1, conv2"):
        state_dict.read(path, "vgg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("fc7.bias"), r"fc7\.bias is missing"),
        (
            lambda a: a.update(
                {"conv1.weight": np.ones((9, 3, 11, 11), np.float32), "conv1.bias": np.ones(9, np.float32)}
            ),
            r"conv2\.weight: .*9",
        ),
        (
            lambda a: a.update({"bn1.running_mean": a["conv1.bias"]}),
            r"expected the names of bvlc_alexnet, found bn1, conv1",
        ),
        (lambda a: a.update({"fc8.weight": a["fc8.weight"].astype(np.int32)}), r"fc8\.weight: .*found I32"),
        (
            lambda a: a.update({"conv2.weight": a["conv3.weight"]}),
            r"conv2\.weight: expected \(8, 4, 5, 5\) in bvlc_alexnet, found \(8, 8, 3, 3\)",
        ),
        (
            lambda a: a.update({"fc8.bias": a["fc7.bias"]}),
            r"fc8\.weight: expected weights of 2 axes and a bias for each row",
        ),
        (
            lambda a: [a.pop(n) for n in list(a) if n.startswith("conv1")],
            "the names of bvlc_alexnet, found conv2",
        ),
    ],
)
def test_other_state_dicts_are_refused_by_name(change, message, tmp_path):
    arrays = caffe_arrays()
    change(arrays)
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors")
    with pytest.raises(DataError, match=r"theirs\.safetensors: .*" + message):
        state_dict.read(tmp_path / "theirs.safetensors", "bvlc_alexnet")


def as_bfloat16(array):
    """Numbers that bfloat16 has, as float32."""
    return (array.view(np.uint32) & 0xFFFF0000).view(np.float32)


def test_a_normalization_after_some_of_the_convolutions_is_refused(tmp_path):
    sizes = {f"features.{n}": (4, C, 3, 3) for n, C in ((0, 3), (3, 4))}
    sizes |= {f"classifier.{n}": (4, C) for n, C in ((0, 4 * 49), (3, 4), (6, 4))}
    arrays = {f"{name}.weight": np.ones(size, np.float32) for name, size in sizes.items()}
    arrays |= {f"{name}.bias": np.ones(4, np.float32) for name in sizes}
    norm = ("weight", "bias", "running_mean", "running_var")
    arrays |= {f"features.1.{key}": np.ones(4, np.float32) for key in norm}
    safetensors.numpy.save_file(arrays, tmp_path / "theirs.safetensors")
    with pytest.raises(DataError, match="batch normalization after every convolution, or none, found 1"):
        state_dict.read(tmp_path / "theirs.safetensors")


@pytest.mark.parametrize(
    "named",
    ["module.{}", "_orig_mod.{}", "model.{}", "net.module.{}", "state_dict.model.{}"],
)
def test_prefixes_that_wrappers_leave_are_taken_off(named, tmp_path):
    """DataParallel, torch.compile, and the names that people's own modules have."""
    arrays, path = caffe_arrays(), tmp_path / "theirs.safetensors"
    more = {"conv1.num_batches_tracked": np.array(7)}
    safetensors.numpy.save_file({named.format(k): v for k, v in (arrays | more).items()}, path)
    found = state_dict.read(path, "bvlc_alexnet").arrays
    assert found.keys() == {k.replace("weight", "w").replace("bias", "b") for k in arrays}
    np.testing.assert_array_equal(found["conv2.w"], arrays["conv2.weight"])


def test_two_names_that_are_one_without_their_prefixes_are_refused(tmp_path):
    arrays, path = caffe_arrays(), tmp_path / "theirs.safetensors"
    safetensors.numpy.save_file(arrays | {"module.conv1.bias": arrays["conv1.bias"]}, path)
    with pytest.raises(DataError, match=r"conv1\.bias and module\.conv1\.bias: expected names that differ"):
        state_dict.read(path, "bvlc_alexnet")


@pytest.mark.parametrize(
    ("dtype", "kind", "rounded"),
    [
        (np.float16, "F16", lambda a: a.astype(np.float16).astype(np.float32)),
        (np.float64, "F64", lambda a: a),
        (None, "BF16", as_bfloat16),
    ],
    ids=["float16", "float64", "bfloat16"],
)
def test_weights_of_other_floats_become_float32_and_it_is_said(dtype, kind, rounded, tmp_path):
    arrays, path = caffe_arrays(), tmp_path / "theirs.safetensors"
    if dtype is not None:
        safetensors.numpy.save_file({k: v.astype(dtype) for k, v in arrays.items()}, path)
    else:
        data = [(v.view(np.uint32) >> 16).astype("<u2").tobytes() for v in arrays.values()]
        ends = np.cumsum([0, *map(len, data)]).tolist()
        header = {
            name: {"dtype": kind, "shape": array.shape, "data_offsets": ends[i : i + 2]}
            for i, (name, array) in enumerate(arrays.items())
        }
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(data))
    found = state_dict.read(path, "bvlc_alexnet")
    assert f"weights of {kind} are float32 from here on" in found.notes
    for ours, theirs in (("conv1.w", "conv1.weight"), ("fc8.b", "fc8.bias")):
        assert found.arrays[ours].dtype == np.float32
        np.testing.assert_array_equal(found.arrays[ours], rounded(arrays[theirs]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "alexnet.pth",
            b"PK\x03\x04 archive/data.pkl",
            "a zip, as torch.save writes it: pickles are not read; this line makes",
        ),
        (
            "alexnet.pth",
            b"\x80\x02}q\x00.",
            "a pickle, as torch.save wrote it: pickles are not read; this line",
        ),
        (
            "alexnet.pth",
            b"\x00damaged",
            "by its name a pickle of PyTorch's: pickles are not read; this line makes",
        ),
        ("alexnet.pkl", b"(dp0\nS'fc8'\np1\n", "by its name a pickle of PyTorch's"),  # of protocol 0: a text
        ("alexnet.safetensors", b"PK\x03\x04 archive/data.pkl", "a zip, as torch.save writes it"),
        (
            "net.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS pointer, not the file its",
        ),
        (
            "net.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer, not the file",
        ),
        ("net.onnx", b"<!DOCTYPE html><html>404</html>", "an HTML page, not the file itself"),
        ("net.caffemodel", b"\x0a\x07AlexNet\xa2\x06\x00", "a file of Caffe: expected ONNX"),
        (
            "README.md",
            b"# A network\n\nIt was trained on shapes.\n",
            "a text file: expected ONNX or safetensors",
        ),
        ("net.h5", b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file, as Keras writes it: expected ONNX"),
        ("net.onnx", b"\x1f\x8b\x08", "packed by gzip"),
        ("net.onnx", b"", "an empty file"),
        ("net.safetensors", b"", "an empty file"),
    ],
)
def test_files_of_other_kinds_are_told_by_what_they_are(name, content, message, tmp_path):
    if not name.endswith(".safetensors"):
        pytest.importorskip("onnx", reason="onnx is not installed")
    (tmp_path / name).write_bytes(content)
    assert f"{name}: {message}" in refused("import", tmp_path / name, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_line_for_a_pickle_makes_a_file_that_is_read(tmp_path):
    """What `import vgg.pth` answers is run as it stands; what it makes becomes the network."""
    module = torchvision_like("vgg11")
    import torch

    torch.save(module.state_dict(), tmp_path / "vgg.pth")
    said = refused("import", tmp_path / "vgg.pth", tmp_path / "ours.safetensors")
    [line] = re.findall(r'python -c "(.*)"', said)
    exec(line, {})
    done("import", tmp_path / "vgg.safetensors", tmp_path / "ours.safetensors", "--pictures", "torchvision")
    arrays, _ = checkpoint.load(tmp_path / "ours.safetensors")
    np.testing.assert_array_equal(arrays["fc8.b"], module.classifier[-1].bias.detach())


# ---- predict -------------------------------------------------------------------------------------------


@pytest.fixture
def imported(tmp_path):
    """A state dict on disk, class names, and a picture."""
    safetensors.numpy.save_file(caffe_arrays(), tmp_path / "theirs.safetensors")
    (tmp_path / "names.txt").write_text("tench, Tinca tinca\ngoldfish\n\nhai\nray\ncock\nhen\n", "utf-8")
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (300, 350, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return tmp_path


def test_predict_with_an_imported_network_prepares_pictures_as_stated(imported):
    out = imported / "net.safetensors"
    printed = done(
        *CAFFE, imported / "theirs.safetensors", out, "--pictures", "caffe",
        "--classes", imported / "names.txt",
    )  # fmt: skip
    assert "6 classes, 2 towers" in printed
    found = {}
    for devices in ("cpu:0", "cpu:0,cpu:1"):
        lines = done("predict", out, imported / "picture.png", "--views", 1, "--top", 6, "--devices", devices)
        rows = [line.split(None, 1) for line in lines.splitlines()[1:]]
        found[devices] = {name: float(p.rstrip("%")) / 100 for p, name in rows}
    assert found["cpu:0"] == found["cpu:0,cpu:1"]

    # by hand: shorter side to 256, middle 227, blue first, minus (104, 117, 123)
    side = Image.open(imported / "picture.png").resize(
        (256, 256), Image.Resampling.BICUBIC, (25, 0, 325, 300)
    )
    x = np.asarray(side, np.float32)[14 : 14 + 227, 14 : 14 + 227, ::-1] - np.float32([104, 117, 123])
    arrays, metadata = checkpoint.load(out)
    net = Network.from_json(metadata["network"]).build()
    checkpoint.adopt(net, arrays, out)
    logits = net.forward(np.ascontiguousarray(x.transpose(2, 0, 1)[..., None]))[:, 0].astype(float)
    p = np.exp(logits - logits.max())
    names = ["tench, Tinca tinca", "goldfish", "hai", "ray", "cock", "hen"]
    assert found["cpu:0"] == pytest.approx(dict(zip(names, p / p.sum(), strict=True)), abs=6e-4)
    assert p.max() / p.sum() < 0.99  # or the comparison would say little


def test_pictures_must_be_stated_before_predict(imported):
    out = imported / "net.safetensors"
    assert "how pictures are prepared is not stated" in done(*CAFFE, imported / "theirs.safetensors", out)
    assert "import it again with --pictures" in refused("predict", out, imported / "picture.png")


def test_pictures_from_a_file(imported):
    stated = pictures.Pictures("BGR", (1.0, 2.0, 3.0), (0.5, 0.25, 2.0), 300, 227)
    (imported / "pictures.json").write_text(json.dumps(stated._asdict()))
    out = imported / "net.safetensors"
    done(*CAFFE, imported / "theirs.safetensors", out, "--pictures", imported / "pictures.json")
    trained = reading.load(ONE, out)
    assert trained.pictures == stated
    assert trained.classes == ("0", "1", "2", "3", "4", "5")
    x = np.random.default_rng(0).uniform(0, 255, (3, 2, 2, 1)).astype(np.float32)
    by_hand = (x[::-1] - np.float32([1, 2, 3]).reshape(3, 1, 1, 1)) * np.float32([0.5, 0.25, 2]).reshape(
        3, 1, 1, 1
    )
    np.testing.assert_allclose(stated.adapt(x - stated.rgb_mean[:, None, None, None]), by_hand, rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"order": "GBR"}, "order: expected RGB or BGR"),
        ({"mean": [1, 2]}, "mean: expected three finite numbers"),
        ({"scale": [1, 2, float("nan")]}, "scale: expected a list, each of it a finite number, found"),
        ({"mean": [1, 2, "3"]}, "mean: expected a list, each of it a finite number, found"),
        ({"crop": 224}, "crop: this network sees 227 pixels, found 224"),
        ({"resize": 100}, "expected 0 < crop ≤ resize"),
        ({"upscale": 255}, "upscale ≥ resize, ≤ 4096 pixels, found crop 227, resize 256, upscale 255"),
        ({"upscale": 4097}, "found crop 227, resize 256, upscale 4097"),
        ({"upscale": 300, "resize": 0}, "found crop 227, resize 0, upscale 300"),
        ({"gamma": 2}, "expected the fields order, mean, scale, resize, crop, upscale, found gamma besides"),
    ],
)
def test_pictures_that_cannot_be_are_refused(fields, message, imported):
    stated = pictures.KNOWN["caffe"]._asdict() | fields
    (imported / "pictures.json").write_text(json.dumps(stated))
    printed = refused(
        *CAFFE, imported / "theirs.safetensors", imported / "net.safetensors",
        "--pictures", imported / "pictures.json",
    )  # fmt: skip
    assert message in printed
    assert not (imported / "net.safetensors").exists()


def test_a_byte_order_mark_is_no_part_of_the_first_class_s_name(imported):
    (imported / "names.txt").write_text("tench\ngoldfish\nhai\nray\ncock\nhen\n", "utf-8-sig")
    out = imported / "net.safetensors"
    done(
        *CAFFE,
        imported / "theirs.safetensors",
        out,
        "--pictures",
        "caffe",
        "--classes",
        imported / "names.txt",
    )
    assert reading.load(ONE, out).classes[0] == "tench"


@pytest.mark.parametrize(
    ("name", "red", "green", "blue"),
    [
        ("pixels", 200, 100, 50),
        ("unit", 200 / 255, 100 / 255, 50 / 255),
        ("caffe", 77, -17, -54),
        ("vgg", 76.32, -16.779, -53.939),
        (  # transforms.ToTensor and Normalize
            "torchvision",
            (200 / 255 - 0.485) / 0.229, (100 / 255 - 0.456) / 0.224, (50 / 255 - 0.406) / 0.225,
        ),
    ],
)  # fmt: skip
def test_the_known_preparations_of_a_picture_are_their_authors(name, red, green, blue):
    """Of the colour (200, 100, 50); Caffe's and VGG's channels come blue first."""
    known, colour = pictures.KNOWN[name], np.array([200, 100, 50], np.float32)
    found = known.adapt((colour - known.rgb_mean).reshape(3, 1, 1, 1)).ravel()
    wanted = [blue, green, red] if name in ("caffe", "vgg") else [red, green, blue]
    assert found == pytest.approx(wanted, abs=1e-4)


def test_class_names_of_another_number_are_refused(imported):
    (imported / "names.txt").write_text("one\ntwo\n")
    arguments = *CAFFE, imported / "theirs.safetensors", imported / "net.safetensors"
    assert "expected 6 names of classes, found 2" in refused(*arguments, "--classes", imported / "names.txt")
    assert "none.txt: expected a text file" in refused(*arguments, "--classes", imported / "none.txt")


# ---- features and figures ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def caffe_and_data(tmp_path_factory):
    """An imported network, and prepared pictures of its classes, smaller than its own."""
    root, rng = tmp_path_factory.mktemp("caffe"), np.random.default_rng(0)
    safetensors.numpy.save_file(caffe_arrays(), root / "theirs.safetensors")
    (root / "names.txt").write_text("".join(f"n0{k} fish {k}\n" for k in range(6)))
    for k in range(6):
        for i, split in enumerate(("train", "train", "val")):
            (root / "src" / split / f"n0{k}").mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "src" / split / f"n0{k}" / f"{i}.png")
    imagenet.prepare(root / "src", root / "data", size=40, workers=1, progress=False)
    net = root / "net.safetensors"
    done(*CAFFE, root / "theirs.safetensors", net, "--pictures", "caffe", "--classes", root / "names.txt")
    return net, root / "data"


def test_features_of_an_imported_network(caffe_and_data, tmp_path):
    """By default what its last layer reads, under whatever name, on any number of devices."""
    net, data = caffe_and_data
    for out, options in {
        "one": ("--devices", "cpu:0"), "two": ("--devices", "cpu:0,cpu:1"),
        "named": ("--devices", "cpu:0", "--layer", "dropout7"),
    }.items():  # fmt: skip
        assert "16 features of 6 pictures" in done("features", net, data, tmp_path / f"{out}.npy", *options)
    one, two, named = (np.load(tmp_path / f"{out}.npy") for out in ("one", "two", "named"))
    np.testing.assert_array_equal(one, named)
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5 * one.max())
    assert np.ptp(one, axis=1).max() > 0


def test_figures_of_an_imported_network(caffe_and_data, tmp_path):
    for name in ("predictions", "neighbours"):
        done("figure", name, *caffe_and_data, "--count", 3, "--out", tmp_path / f"{name}.png")


def test_the_errors_of_an_imported_network(caffe_and_data):
    """Its names begin with the data's; views of 227 pixels, of pictures enlarged to 256."""
    net, data = caffe_and_data
    assert "(6 pictures, 10 views)" in done("evaluate", data, net, "--views", 10)


def as_imported(path, layers, shape, pictures=None):
    """A checkpoint as `import` writes it; returns its arrays."""
    network = Network(layers, shape)
    arrays = checkpoint.state(network.build(rng=np.random.default_rng(0)), None)
    metadata = {"network": network.to_json(), "classes": ["a", "b"]}
    checkpoint.save(path, arrays, metadata | {"pictures": pictures and pictures._asdict()})
    return arrays


SIGMOIDS = {  # the layers after the last product, and the name in the message
    "in it": ([Linear(2, "logistic")], "fc1"),
    "after it": ([Linear(2), Activate("logistic")], "act1"),
    "before others": ([Linear(2, "logistic"), Dropout(0.5), Flatten()], "fc1"),
}


@pytest.mark.parametrize("end", SIGMOIDS)
def test_no_softmax_is_taken_of_an_imported_network_that_ends_in_a_sigmoid(end, caffe_and_data, tmp_path):
    layers, name = SIGMOIDS[end]
    net, picture = tmp_path / "net.safetensors", tmp_path / "x.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(picture)
    stated = pictures.Pictures("RGB", (0.0,) * 3, (1.0,) * 3, 9, 8)
    as_imported(net, [Conv2d(2, 3), *layers], (3, 8, 8), stated)
    message = refused("predict", net, picture)
    assert f"{name}: expected logits, of which softmax makes probabilities" in message
    assert "ends in a sigmoid" in message
    assert "ends in a sigmoid" in refused("evaluate", caffe_and_data[1], net)


def test_a_sigmoid_inside_an_imported_network_is_none_at_its_end(tmp_path):
    net, picture = tmp_path / "net.safetensors", tmp_path / "x.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(picture)
    stated = pictures.Pictures("RGB", (0.0,) * 3, (1.0,) * 3, 9, 8)
    as_imported(net, [Conv2d(2, 3, activation="logistic"), Linear(2)], (3, 8, 8), stated)
    assert "%" in done("predict", net, picture)


@needs_onnx
@pytest.mark.parametrize("stated", ["pixels", "unit", "blue first"])
def test_what_an_onnx_file_does_to_its_input_becomes_a_part_of_the_pictures(stated, tmp_path):
    """The network without it sees pictures that went through it; both compute the same."""
    from onnx_graphs import Graph

    g, text = Graph((3, 8, 8)), stated
    g.array("m", np.reshape([0.1, 0.2, 0.4], (3, 1, 1)))
    g.array("s", np.reshape([2, 3, 5], (3, 1, 1)))
    g.weight("w", 4, 3, 3, 3)
    g.weight("v", 2, 4 * 36)
    g.node("Sub", "data m", "centred")
    g.node("Mul", "centred s", "scaled")
    g.node("Conv", "scaled w", "maps", kernel_shape=[3, 3])
    g.node("Flatten", "maps", "flat")
    g.node("Gemm", "flat v", "out", transB=1)
    source = g.write(tmp_path / "net.onnx")
    if stated == "blue first":
        text = tmp_path / "pictures.json"
        fields = pictures.Pictures("BGR", (90.0, 100.0, 110.0), (0.01, 0.02, 0.03), 9, 8)._asdict()
        text.write_text(json.dumps(fields))
    assert "--pictures pixels (0-255) or unit (0-1)" in done("import", source, tmp_path / "bare.safetensors")
    bare = open_network(tmp_path / "bare.safetensors")
    whole = load_network(ONE, "bare", bare, checkpoint.load(tmp_path / "bare.safetensors")[0])
    printed = done("import", source, tmp_path / "out.safetensors", "--pictures", text)
    assert "2 classes\n" in printed  # and not one tower
    assert "not stated" not in printed
    trained = reading.load(ONE, tmp_path / "out.safetensors")
    assert next(iter(trained.net.layers)) == list(whole.layers)[1]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 5)).astype(np.float32)

    def seen(prepared):
        return prepared.adapt(pixels - prepared.rgb_mean[:, None, None, None])

    wanted = whole.forward(np.ascontiguousarray(seen(pictures.parse(str(text), 8))))
    found = trained.net.forward(np.ascontiguousarray(seen(trained.pictures)))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    message = refused("import", source, tmp_path / "no.safetensors", "--pictures", "caffe")
    assert "this file scales and shifts its input itself" in message


@needs_onnx
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 6)])
def test_pictures_are_three_square_maps(shape, tmp_path):
    from onnx_graphs import Graph

    g = Graph(shape)
    g.weight("w", 2, shape[0], *shape[1:])
    g.node("Conv", "data w", "maps", kernel_shape=shape[1:])
    g.node("Flatten", "maps", "out")
    source = g.write(tmp_path / "net.onnx")
    done("import", source, tmp_path / "bare.safetensors")
    message = refused("import", source, tmp_path / "net.safetensors", "--pictures", "pixels")
    assert f"--pictures: expected an input of three square maps, found {shape}" in message


@pytest.mark.parametrize("command", ["export", "import"])
def test_the_file_that_is_read_is_not_written(command, caffe_and_data, tmp_path):
    net = tmp_path / "net.safetensors"
    safetensors.numpy.save_file(caffe_arrays(), net)
    if command == "export":
        net.write_bytes(caffe_and_data[0].read_bytes())
    link = tmp_path / "link.onnx"
    link.symlink_to(net)
    before = net.read_bytes()
    for out in (net, link):
        assert "expected another file than the one that is read" in refused(command, net, out)
    assert net.read_bytes() == before
    assert "expected the name of a file in a folder that exists" in refused(command, net, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_regular_file_is_not_replaced(caffe_and_data, tmp_path):
    """Else export to /dev/null, as root, would leave a file there, for every program."""
    os.mkfifo(tmp_path / "fifo.onnx")
    for command, out in (("export", "fifo.onnx"), ("import", "link.onnx")):
        (tmp_path / "link.onnx").unlink(missing_ok=True)
        (tmp_path / "link.onnx").symlink_to("fifo.onnx")
        assert "found no regular file" in refused(command, caffe_and_data[0], tmp_path / out)
        with pytest.raises(
            OSError, match="expected a regular file, found another kind; the file was not written"
        ):
            files.write_text(tmp_path / out, "text")
        assert (tmp_path / "fifo.onnx").is_fifo()
        assert (tmp_path / "link.onnx").is_symlink()
        assert {path.name for path in tmp_path.iterdir()} == {"fifo.onnx", "link.onnx"}


def test_kernels_are_shown_in_their_colours_and_towers(tmp_path, monkeypatch):
    """Of the first convolution, whatever its name; Caffe's blue comes first."""
    layers = [
        Conv2d(4, 3, name="first"),
        Conv2d(4, 3, groups=2, name="second"),
        Linear(2, name="last"),
    ]
    drawn, draw = [], figures.kernels_figure
    monkeypatch.setattr(figures, "kernels_figure", lambda *args: drawn.append(args) or draw(*args))
    for order in ("RGB", "BGR"):
        stated = pictures.KNOWN["caffe"]._replace(order=order, crop=8)
        kernels = as_imported(tmp_path / "net.safetensors", layers, (3, 8, 8), stated)["first.w"]
        done("figure", "kernels", tmp_path / "net.safetensors", "--out", tmp_path / "kernels.png")
        np.testing.assert_array_equal(drawn[-1][0], kernels if order == "RGB" else kernels[:, [2, 1, 0]])
        assert drawn[-1][1] == 2


def test_networks_that_have_no_such_layer_are_named(tmp_path):
    net, out = tmp_path / "net.safetensors", ("--out", tmp_path / "kernels.png")
    message = "net.safetensors: expected a first convolution of three channels, found "
    as_imported(net, [Linear(2)], (3, 2, 2))
    assert message + "none" in refused("figure", "kernels", net, *out)
    as_imported(net, [Conv2d(2, 2), Linear(2)], (1, 2, 2))
    assert message + "one of 1" in refused("figure", "kernels", net, *out)


def test_features_without_a_hidden_layer_are_refused(caffe_and_data, tmp_path):
    net, stated = tmp_path / "net.safetensors", pictures.KNOWN["caffe"]._replace(crop=8)
    as_imported(net, [Linear(2)], (3, 8, 8), stated)
    message = "net.safetensors: expected a fully connected layer after another layer, found none"
    assert message in refused("features", net, caffe_and_data[1], tmp_path / "f.npy")


# ---- export and back -----------------------------------------------------------------------------------


def run_checkpoint(path, scale=None, upscale=None, mean=None):
    """A checkpoint as a run writes it, of a narrow code2012."""
    network = alexnet(narrow(PRESETS["code2012"], 0.02)._replace(size=67, classes=4))
    recipe = Recipe(augmentation=PLAIN._replace(crop=67, scale=scale))
    settings = Settings("", network, recipe, upscale=upscale).to_json()
    net = network.build(rng=np.random.default_rng(0))
    if mean is None:
        mean = np.random.default_rng(1).uniform(80, 160, (3, 72, 72)).astype(np.float32)
    arrays = checkpoint.state(net, None) | {"data.mean": mean}
    checkpoint.save(
        path, arrays, {"network": settings.pop("network"), "settings": settings, "classes": list("abcd")}
    )
    return net, mean


@needs_onnx
def test_a_run_goes_out_and_comes_back_with_its_classes_and_pictures(tmp_path):
    net, mean = run_checkpoint(tmp_path / "run.safetensors")
    printed = done("export", tmp_path / "run.safetensors", tmp_path / "net.onnx")
    assert "opset 13, input (batch, 3, 67, 67)" in printed
    assert "up to 41 of 255 from the one colour that is stated beside it" in printed
    assert "4 classes, 2 towers" in done("import", tmp_path / "net.onnx", tmp_path / "back.safetensors")
    trained = reading.load(ONE, tmp_path / "back.safetensors")
    assert trained.classes == ("a", "b", "c", "d")
    np.testing.assert_array_equal(trained.mean, mean)
    np.testing.assert_allclose(trained.pictures.mean, mean.mean((1, 2)), rtol=1e-5)
    assert trained.pictures[3:] == (72, 67, None)
    x = np.random.default_rng(2).uniform(-100, 100, (3, 67, 67, 5)).astype(np.float32)
    np.testing.assert_array_equal(trained.net.forward(x), net.forward(x))

    # an imported network goes out as well
    done("export", tmp_path / "back.safetensors", tmp_path / "again.onnx")
    done("import", tmp_path / "again.onnx", tmp_path / "again.safetensors")
    again = reading.load(ONE, tmp_path / "again.safetensors")
    np.testing.assert_array_equal(again.net.forward(x), net.forward(x))
    np.testing.assert_array_equal(again.mean, mean)
    # and what it needs is stated, where the file's own word is not taken
    done("import", tmp_path / "again.onnx", tmp_path / "other.safetensors", "--pictures", "pixels")
    np.testing.assert_array_equal(reading.load(ONE, tmp_path / "other.safetensors").mean, [0, 0, 0])


@needs_onnx
@pytest.mark.parametrize(
    ("scale", "upscale", "stored", "views", "dense"),
    [
        (None, None, 72, 1, False),
        (None, None, 72, 10, False),
        (None, None, 72, 1, True),
        (None, 80, 72, 10, False),
        (68, None, 68, 10, False),
        ((67, 71), None, 69, 1, True),
    ],
)
def test_what_came_back_sees_what_the_run_saw(tmp_path, scale, upscale, stored, views, dense):
    """The same bits, mean picture included, in every kind of test."""
    run_checkpoint(tmp_path / "run.safetensors", scale, upscale)
    done("export", tmp_path / "run.safetensors", tmp_path / "net.onnx")
    done("import", tmp_path / "net.onnx", tmp_path / "back.safetensors")
    shape = (3, stored, stored, 5)
    source = Images(np.random.default_rng(5).integers(0, 256, shape, np.uint8), np.arange(5) % 4, "abcd")

    def seen(name):
        trained = reading.load(ONE, tmp_path / name)
        with reading.view_loader(ONE, trained, source, views, dense=dense) as loader:
            return np.concatenate([np.stack(images) for images, _ in loader], axis=-1)

    np.testing.assert_array_equal(seen("back.safetensors"), seen("run.safetensors"))


@needs_onnx
@pytest.mark.parametrize(
    ("scale", "upscale", "side"), [(None, None, 72), (None, 80, 72), (68, None, 68), ((67, 71), None, 69)]
)
def test_a_photograph_becomes_what_the_run_made_of_it(tmp_path, scale, upscale, side):
    run_checkpoint(tmp_path / "run.safetensors", scale, upscale)
    done("export", tmp_path / "run.safetensors", tmp_path / "net.onnx")
    done("import", tmp_path / "net.onnx", tmp_path / "back.safetensors")
    assert open_network(tmp_path / "back.safetensors").pictures[3:] == (side, 67, upscale)
    pixels = np.random.default_rng(6).integers(0, 256, (150, 200, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    run, back = (
        done("predict", tmp_path / name, tmp_path / "photograph.png", "--devices", "cpu:0")
        for name in ("run.safetensors", "back.safetensors")
    )
    assert back == run


@needs_onnx
def test_a_run_without_its_mean_picture_is_named(tmp_path):
    run_checkpoint(tmp_path / "run.safetensors")
    arrays, metadata = checkpoint.load(tmp_path / "run.safetensors")
    for mean, found in (
        (None, "expected a mean picture.*, found none"),
        (np.zeros((3, 4, 5), np.float32), r"expected a mean picture.*, found float32 \(3, 4, 5\)"),
        (np.full((3, 4, 4), np.nan, np.float32), "expected finite numbers, found 48 of 48"),
    ):
        damaged = {name: a for name, a in arrays.items() if name != "data.mean"}
        damaged |= {} if mean is None else {"data.mean": mean}
        checkpoint.save(tmp_path / "damaged.safetensors", damaged, metadata)
        message = rf"damaged\.safetensors: data\.mean: {found}"
        assert re.search(message, refused("export", tmp_path / "damaged.safetensors", tmp_path / "net.onnx"))
        with pytest.raises(DataError, match=message):
            reading.load(ONE, tmp_path / "damaged.safetensors")


@needs_onnx
def test_a_file_that_states_what_cannot_be_is_named(tmp_path):
    run_checkpoint(tmp_path / "run.safetensors")
    done("export", tmp_path / "run.safetensors", tmp_path / "net.onnx")
    data = (tmp_path / "net.onnx").read_bytes()
    assert data.count(b'"RGB"') == 1
    (tmp_path / "net.onnx").write_bytes(data.replace(b'"RGB"', b'"GRB"'))
    line = refused("import", tmp_path / "net.onnx", tmp_path / "net.safetensors")
    assert f"{tmp_path / 'net.onnx'}: metadata tinyalex: not as tinyalex writes it: pictures: order" in line


def nan_in(packed):
    return base64.b64encode(np.float32(np.nan).tobytes() + base64.b64decode(packed)[4:]).decode()


@needs_onnx
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda packed: packed[:-16], "mean_picture: expected 15,552 numbers for 72 pixels, found 15,549"),
        (lambda packed: "?" + packed[1:], "base64"),
        (lambda packed: packed[:-4], "buffer size must be a multiple"),
        (lambda packed: [1.5], "list"),
        (nan_in, "mean_picture: expected finite numbers, found 1 of 15,552"),
    ],
)
def test_a_mean_picture_that_cannot_be_is_named(tmp_path, change, told):
    import onnx

    run_checkpoint(tmp_path / "run.safetensors")
    done("export", tmp_path / "run.safetensors", tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    fields = json.loads(model.metadata_props[0].value)
    fields["mean_picture"] = change(fields["mean_picture"])
    onnx.helper.set_model_props(model, {"tinyalex": json.dumps(fields)})
    onnx.save(model, tmp_path / "net.onnx")
    line = refused("import", tmp_path / "net.onnx", tmp_path / "net.safetensors")
    assert f"{tmp_path / 'net.onnx'}: metadata tinyalex: not as tinyalex writes it: " in line
    assert told in line
    assert not (tmp_path / "net.safetensors").exists()


@needs_onnx
def test_a_mean_picture_without_pictures_is_named(tmp_path):
    import onnx

    run_checkpoint(tmp_path / "run.safetensors")
    done("export", tmp_path / "run.safetensors", tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    fields = json.loads(model.metadata_props[0].value)
    onnx.helper.set_model_props(model, {"tinyalex": json.dumps(fields | {"pictures": None})})
    onnx.save(model, tmp_path / "net.onnx")
    line = refused("import", tmp_path / "net.onnx", tmp_path / "net.safetensors")
    assert "mean_picture: expected pictures beside it, found none" in line


@needs_onnx
def test_a_mean_picture_of_another_size_than_stated_is_named(tmp_path):
    run_checkpoint(tmp_path / "run.safetensors")
    done("export", tmp_path / "run.safetensors", tmp_path / "net.onnx")
    done("import", tmp_path / "net.onnx", tmp_path / "back.safetensors")
    arrays, metadata = checkpoint.load(tmp_path / "back.safetensors")
    arrays["data.mean"] = np.zeros((3, 70, 70), np.float32)
    checkpoint.save(tmp_path / "back.safetensors", arrays, metadata)
    with pytest.raises(DataError, match=r"data\.mean: expected a picture of 72 pixels, found \(3, 70, 70\)"):
        reading.load(ONE, tmp_path / "back.safetensors")


@needs_onnx
def test_figure_1_s_network_goes_out(tmp_path):
    network = figure1("tanh")
    arrays = checkpoint.state(network.build(rng=np.random.default_rng(0)), None)
    checkpoint.save(tmp_path / "tanh.safetensors", arrays, {"network": network.to_json()})
    done("export", tmp_path / "tanh.safetensors", tmp_path / "tanh.onnx")
    assert "89,578 parameters, 10 classes" in done(
        "import", tmp_path / "tanh.onnx", tmp_path / "b.safetensors"
    )


@needs_onnx
def test_export_says_what_it_cannot_write(tmp_path):
    checkpoint.save(tmp_path / "other.safetensors", {"w": np.zeros(2, np.float32)}, {"curve": []})
    assert "expected a checkpoint of a network, found one without" in refused(
        "export", tmp_path / "other.safetensors", tmp_path / "net.onnx"
    )
    run_checkpoint(tmp_path / "run.safetensors")
    printed = refused("export", tmp_path / "run.safetensors", tmp_path / "no" / "folder" / "net.onnx")
    assert "net.onnx: expected the name of a file in a folder that exists" in printed


def test_without_onnx_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'tinyalex[onnx]'" in refused(
        "import", tmp_path / "a.onnx", tmp_path / "b.safetensors"
    )
