"""The formats that `fuzz.py` damages: how a good file is made, changed, and read."""

import copy
import gzip
import io
import json
import pickle
import tarfile
from types import SimpleNamespace
from unittest import mock

import numpy as np
import safetensors.numpy
from fuzz_changes import change_bytes, change_json, change_text
from PIL import Image

from tinyalex.comm import Comm
from tinyalex.data import cifar10, imagenet
from tinyalex.data import preprocessing as pictures
from tinyalex.devices import Device
from tinyalex.exchange import onnx_export, onnx_import, state_dict
from tinyalex.models import figure1
from tinyalex.models.alexnet import PRESETS, alexnet, narrow
from tinyalex.runs import checkpoint, run, saved
from tinyalex.runs import trained as reading
from tinyalex.runs.recipe import LOG_145, Recipe
from tinyalex.runs.settings import Settings

ONE = Comm(Device("cpu:0"))
MOST_WORK = 10**8  # multiplications by a weight, in a network that is run


# ---- formats: a class each; `make` once, `case` writes an input, `read` reads it -----------------------


class Format:
    """A format: `folder` is its own."""

    weight = 1  # share of the inputs

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.make()

    def make(self):
        """Write or keep what is good."""

    def write(self, name, data):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


def use(net):
    """Let a network that was accepted look at a picture, unless it is a large one."""
    _, *pixels = net.input_shape
    work = sum(layer.params["w"].size * np.prod(pixels) for layer in net.layers.values() if layer.params)
    if work < MOST_WORK:
        net.forward(np.zeros((*net.input_shape, 1), np.float32))


SMALL = narrow(PRESETS["code2012"], 0.02)._replace(size=67, classes=4)


def arrays_of(network):
    return checkpoint.state(network.build(ONE, np.random.default_rng(0)), None)


def version_1():
    """Settings of a small run, and an imported network and its arrays, as format 1 told of them."""
    recipe = Recipe()._asdict()
    recipe |= {"pictures": list(recipe.pop("augmentation")), "schedule": [list(c) for c in LOG_145]}
    settings = Settings("", alexnet(SMALL), Recipe())._asdict()
    settings |= {"preset": "code2012", "network": SMALL._asdict(), "recipe": recipe}
    layers = [
        {"kind": "Conv", "name": "conv1", "shape": [4, 3, 5, 5], "stride": 4, "pad": [0, 1, 0, 1],
         "groups": 1, "activation": ["relu"]},
        {"kind": "LRN", "name": "lrn1", "n": 5, "k": 2.0, "alpha": 0.0001, "beta": 0.75,
         "alpha_over_n": True, "groups": 2},
        {"kind": "MaxPool", "name": "pool1", "window": 3, "stride": 2, "pad": [0, 0, 0, 0], "ceil": True},
        {"kind": "Dropout", "name": "dropout1", "keep": 0.5, "inverted": True},
        {"kind": "Linear", "name": "fc2", "shape": [4, 64], "activation": ["tanh", 1.7, 0.6]},
    ]  # fmt: skip
    shapes = {"conv1.w": (4, 3, 5, 5), "conv1.b": (4,), "fc2.w": (4, 64), "fc2.b": (4,)}
    return settings, layers, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


class Checkpoints(Format):
    """Of a run, imported, and of Figure 1: metadata and bytes."""

    weight = 5

    def make(self):
        network, figure = alexnet(SMALL), figure1("tanh")
        settings = Settings("", network, Recipe(schedule=LOG_145)).to_json()
        run_s = {"network": settings.pop("network"), "settings": settings, "classes": list("abcd")}
        arrays = arrays_of(network) | {"data.mean": np.zeros((3, 72, 72), np.float32)}
        stated = (
            pictures.KNOWN["caffe"]._replace(crop=67, resize=72)._asdict()
        )  # as large as the mean picture
        others = {"classes": list("abcd"), "pictures": stated}
        old_settings, layers, old_arrays = version_1()
        old_others = others | {"pictures": {**stated, "crop": 35}}
        self.good = [
            (arrays, run_s),
            (arrays, {"network": network.to_json(), **others}),
            (arrays_of(figure), {"network": figure.to_json(), "curve": {"activation": "tanh"}}),
            (arrays, {"version": 1, "settings": old_settings, "classes": list("abcd")}),
            (old_arrays, {"version": 1, "layers": layers, "input": [3, 35, 35], **old_others}),
            (arrays_of(figure), {"version": 1, "neuron": "tanh"}),
        ]
        self.bytes = []
        for k, (a, m) in enumerate(self.good):
            checkpoint.save(self.folder / f"{k}.safetensors", a, m)
            self.read(self.folder / f"{k}.safetensors") if k not in (2, 5) else None
            self.bytes.append((self.folder / f"{k}.safetensors").read_bytes())

    def case(self, rng):
        k = rng.choice((0, 0, 1, 1, 1, 2, 3, 4, 4, 5))
        path = self.folder / "case.safetensors"
        if rng.random() < 0.4:
            data = self.bytes[k]
            header = 8 + int.from_bytes(data[:8], "little")
            cut = header if rng.random() < 0.8 else len(data)
            return self.write(path.name, change_bytes(data[:cut], rng) + data[cut:])
        arrays, metadata = self.good[k]
        if rng.random() < 0.1:
            name = rng.choice(list(arrays))
            arrays = {n: a for n, a in arrays.items() if n != name or rng.random() < 0.5}
            arrays["x"] = np.zeros(3, rng.choice((np.float64, np.int8, np.bool_)))
        made = json.loads(json.dumps({"version": 2} | metadata))
        text = json.dumps(change_json(made, rng))
        return self.write(path.name, safetensors.numpy.save(arrays, {"tinyalex": text}))

    def read(self, path):
        found = saved.open_network(path)
        arrays, _ = checkpoint.load(path)
        use(saved.load_network(ONE, path, found, arrays))
        reading.load(ONE, path)


class Onnx(Format):
    """Bytes of the file, and fields of its graph."""

    weight = 6

    def make(self):
        import onnx

        self.onnx = onnx
        network = alexnet(SMALL)
        metadata = {"classes": list("abcd")}
        onnx_export.write(self.folder / "a.onnx", network, arrays_of(network), metadata)
        self.data = (self.folder / "a.onnx").read_bytes()
        self.model = onnx.load_model_from_string(self.data)
        for tensor in self.model.graph.initializer:  # light to copy: what a weight is does not matter
            if len(tensor.raw_data) > 1000:
                tensor.data_location = onnx.TensorProto.EXTERNAL
                tensor.external_data.add(key="location", value="weights.bin")
                tensor.ClearField("raw_data")
        self.write("weights.bin", bytes(1 << 22))

    def case(self, rng):
        if rng.random() < 0.3:
            return self.write("case.onnx", change_bytes(self.data, rng))
        model = copy.deepcopy(self.model)
        for tensor in model.graph.initializer:
            tensor.external_data.add(
                key="length", value=str(4 * int(np.prod(tensor.dims)))
            ) if rng.random() < 0.5 else 0
        for _ in range(rng.choice((1, 1, 2, 4))):
            self._change(model.graph, rng)
        data = model.SerializeToString()
        if rng.random() < 0.1:  # a text that is not UTF-8
            name = rng.choice(("conv1", "Relu", "strides", "location", "weights.bin")).encode()
            data = data.replace(name, b"\xff" * len(name))
        return self.write("case.onnx", change_bytes(data, rng) if rng.random() < 0.2 else data)

    def _change(self, graph, rng):
        node, tensor = rng.choice(graph.node), rng.choice(graph.initializer)
        names = [n for other in graph.node for n in (*other.input, *other.output)]
        numbers = (0, 1, -1, 2, 3, 5, 1 << 16, 1 << 31, 1 << 40, -(1 << 62))
        match rng.randrange(11):
            case 0 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice([*names, "", "nothing"])
            case 1:
                node.output[rng.randrange(len(node.output))] = rng.choice(names)
            case 2 if node.attribute:
                self._attribute(rng.choice(node.attribute), rng, numbers)
            case 3 if node.attribute:
                del node.attribute[rng.randrange(len(node.attribute))]
            case 4:
                node.op_type = rng.choice(
                    [*(n.op_type for n in graph.node), "Reshape", "Shape", "If", "Loop", ""]
                )
            case 5 if tensor.dims:
                tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(numbers)
            case 6:
                tensor.data_type = rng.choice((0, 1, 2, 7, 8, 9, 10, 11, 16, 99))
            case 7 if tensor.external_data:
                entry = rng.choice(tensor.external_data)
                entry.value = rng.choice(
                    ("../x", "/etc/passwd", "", "-1", "9" * 30, "\0", "weights.bin", "x" * 300)
                )
            case 8:
                graph.node.insert(rng.randrange(len(graph.node)), copy.deepcopy(node))
            case 9:
                graph.node.remove(node)
            case 10:
                graph.input[0].type.tensor_type.shape.dim[rng.randrange(4)].dim_value = rng.choice(numbers)

    def _attribute(self, attribute, rng, numbers):
        match rng.randrange(4):
            case 0:
                attribute.i = rng.choice(numbers)
            case 1 if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(numbers)
            case 2:
                attribute.f = rng.choice((0.0, -1.0, 1e30, float("inf"), float("nan"), 1e-40))
            case 3:
                attribute.type = rng.randrange(15)

    def read(self, path):
        found = onnx_import.read(path)
        net = found.network.build(ONE)
        for name, layer, key in net.parameters():
            layer.params[key] = found.arrays[name]
        use(net)


class StateDicts(Format):
    """PyTorch state dicts in safetensors."""

    def make(self):
        rng = np.random.default_rng(0)
        shapes = {
            "conv1": (8, 3, 11, 11), "conv2": (8, 4, 5, 5), "conv3": (8, 8, 3, 3), "conv4": (8, 4, 3, 3),
            "conv5": (8, 4, 3, 3), "fc6": (16, 288), "fc7": (16, 16), "fc8": (6, 16),
        }  # fmt: skip
        torchvision = {
            "features.0": (8, 3, 11, 11), "features.3": (8, 8, 5, 5), "features.6": (8, 8, 3, 3),
            "features.8": (8, 8, 3, 3), "features.10": (8, 8, 3, 3), "classifier.1": (16, 288),
            "classifier.4": (16, 16), "classifier.6": (6, 16),
        }  # fmt: skip
        self.good = []
        for table in (shapes, torchvision):
            arrays = {f"{n}.weight": rng.standard_normal(s).astype(np.float32) for n, s in table.items()}
            self.good.append(arrays | {f"{n}.bias": np.zeros(s[0], np.float32) for n, s in table.items()})

    def case(self, rng):
        arrays = dict(rng.choice(self.good))
        if rng.random() < 0.5:
            name, other = rng.choice(list(arrays)), rng.choice(list(arrays))
            match rng.randrange(5):
                case 0:
                    del arrays[name]
                case 1:
                    arrays[name] = arrays[other]
                case 2:
                    arrays[
                        name.replace(rng.choice("0136"), rng.choice("0123456789") * rng.choice((1, 4)))
                    ] = arrays[name]
                case 3:
                    arrays[name] = arrays[name].astype(rng.choice((np.float16, np.int64)))
                case 4:
                    arrays[name] = arrays[name].reshape(-1)[: rng.randrange(4)]
            return self.write("case.safetensors", safetensors.numpy.save(arrays))
        data = safetensors.numpy.save(arrays)
        header = 8 + int.from_bytes(data[:8], "little")
        return self.write("case.safetensors", change_bytes(data[:header], rng) + data[header:])

    def read(self, path):
        found = state_dict.read(path)
        checkpoint.adopt(found.network.build(ONE), found.arrays, path)


class Pictures(Format):
    """JPEG, PNG and the other picture files."""

    weight = 6

    def make(self):
        rng = np.random.default_rng(0)
        image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        self.good = []
        for kind, mode, options in (
            ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "CMYK", {}),
            ("JPEG", "L", {}), ("PNG", "RGB", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}),
            ("PNG", "I;16", {}), ("GIF", "P", {}), ("BMP", "RGB", {}),
            ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("WEBP", "RGB", {}),
        ):  # fmt: skip
            file = io.BytesIO()
            picture = (
                Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50))
                if mode == "I;16"
                else image.convert(mode)
            )
            picture.save(file, kind, **options)
            self.good.append(file.getvalue())
        self.trained = SimpleNamespace(
            settings=None, mean=np.zeros(3, np.float32), classes=("a",),
            pictures=pictures.KNOWN["caffe"]._replace(crop=20, resize=24),
        )  # fmt: skip

    def case(self, rng):
        return self.write("case.jpg", change_bytes(rng.choice(self.good), rng))

    def read(self, path):
        with reading.picture_loader(ONE, self.trained, [path], 10) as loader:
            next(loader)


class Shards(Format):
    """What `prepare` wrote: the index, the arrays, and, where it was interrupted, its plan."""

    weight = 3

    def make(self):
        source = self.folder / "source"
        rng = np.random.default_rng(0)
        for k in range(6):
            picture = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            (source / "train" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
            picture.save(source / "train" / "ab"[k % 2] / f"{k}.png")
        self.data = self.folder / "data"
        imagenet.prepare(source, self.data, size=16, workers=1, progress=False)
        self.good = {p.name: p.read_bytes() for p in self.data.iterdir() if p.name != "lock"}

    def case(self, rng):
        for name, data in self.good.items():
            self.write(f"data/{name}", data)
        name = rng.choice(["index.json"] * 4 + list(self.good))
        changed = change_text if name.endswith(".json") else change_bytes
        data = self.good[name].decode() if name.endswith(".json") else self.good[name]
        return self.write(f"data/{name}", changed(data, rng)).parent

    def read(self, path):
        for shards in imagenet.open_all(path).values():
            for i in range(min(len(shards), 8)):
                shards[i]
            shards.verify()


class Runs(Format):
    """run.json and metrics.jsonl."""

    weight = 3

    def make(self):
        settings = Settings("x", alexnet(SMALL), Recipe(schedule=LOG_145)).to_json()
        self.settings = [json.dumps({"version": 2, **settings}), json.dumps(version_1()[0])]
        place = {"step": 1, "epoch": 0, "rate": 0.1}
        records = [
            {"kind": "train", "loss": 1.5, "error": 0.5},
            {"kind": "validation", "loss": 1.5, "top1": 0.5, "top5": 0.1},
            {"kind": "sizes", "layers": {"conv1.w": {"weight": 0.1, "update": 0.01}}},
        ]
        self.records = [json.dumps(r | place) for r in records]

    def case(self, rng):
        if rng.random() < 0.5:
            self.write("metrics.jsonl", b"")
            return self.write("run.json", change_text(rng.choice(self.settings), rng)).parent
        self.write("run.json", rng.choice(self.settings).encode())
        lines = [line.encode() for line in self.records]
        k = rng.randrange(len(lines))
        lines[k] = change_text(self.records[k], rng)
        return self.write("metrics.jsonl", b"\n".join(lines) + b"\n").parent

    def read(self, path):
        from tinyalex.look.figures import curves_figure, magnitudes_figure
        from tinyalex.measure.describe import describe

        describe(run.settings_of(path).network, 1, 8)
        records = run.metrics(path)
        curves_figure(records)
        magnitudes_figure([r for r in records if r["kind"] == "sizes"])


class CifarBinary(Format):
    """The folder of .bin files, and its archive."""

    def make(self):
        rng = np.random.default_rng(0)
        records = np.zeros((cifar10.RECORDS, 1 + cifar10.PIXELS), np.uint8)
        records[:, 0] = rng.integers(0, 10, cifar10.RECORDS)
        self.batch = records.tobytes()
        self.names = "\n".join(cifar10.CLASSES).encode()
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in (("test_batch.bin", self.batch), ("batches.meta.txt", self.names)):
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        self.tar = file.getvalue()
        self.archive = gzip.compress(self.tar, 1)

    def case(self, rng):
        match rng.randrange(10):
            case 0 | 1:
                data = bytearray(self.batch)
                for _ in range(rng.randrange(1, 5)):
                    data[rng.choice((0, 3073, rng.randrange(len(data))))] ^= 1 << rng.randrange(8)
                cut = rng.choice((0, 0, 1, 3073))
                self.write("cifar-10-batches-bin/batches.meta.txt", self.names)
                return self.write(
                    "cifar-10-batches-bin/test_batch.bin", bytes(data[: len(data) - cut])
                ).parent
            case 2 | 3:
                self.write("cifar-10-batches-bin/test_batch.bin", self.batch)
                return self.write(
                    "cifar-10-batches-bin/batches.meta.txt", change_bytes(self.names, rng)
                ).parent
            case 4:
                head = change_bytes(self.tar[:512], rng)
                return self.write("a.tar.gz", gzip.compress(head + self.tar[512:], 1))
        return self.write("a.tar.gz", change_bytes(self.archive, rng))

    def read(self, path):
        cifar10.load(path, "test")


class CifarPython(Format):
    """The folder of pickles: their opcodes, and whole files."""

    weight = 2

    def make(self):
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (cifar10.RECORDS, cifar10.PIXELS), dtype=np.uint8)
        labels = rng.integers(0, 10, cifar10.RECORDS).tolist()
        batch = {b"batch_label": b"testing batch 1 of 1", b"labels": labels, b"data": pixels}
        self.whole = pickle.dumps(batch, protocol=3)
        self.names = pickle.dumps({"label_names": list(cifar10.CLASSES), "num_vis": 3072}, protocol=2)
        small = {b"labels": labels[:2], b"data": pixels[:2, :10]}
        self.small = [pickle.dumps(small, protocol=p) for p in (0, 1, 2, 3, 4, 5)] + [self.names]

    def case(self, rng):
        if rng.random() < 0.95:  # what does not get past the opcodes need not be a whole file
            return change_bytes(rng.choice(self.small), rng)
        at = self.whole.index(b"labels") if rng.random() < 0.5 else 0
        head, tail = self.whole[at : at + 300], self.whole[at + 300 :]
        self.write("cifar-10-batches-py/batches.meta", self.names)
        data = self.whole[:at] + change_bytes(head, rng) + tail
        return self.write("cifar-10-batches-py/test_batch", data).parent

    def read(self, case):
        if isinstance(case, bytes):
            with mock.patch.multiple(cifar10, RECORDS=2, PIXELS=10):
                reader = cifar10._python_classes if b"label_names" in case else cifar10._python_batch
                reader(case, "pickle")
                return
        cifar10.load(case, "test")


class ImageNetTars(Format):
    """The tars as distributed, read in place, and the text files beside them."""

    def make(self):
        file = io.BytesIO()
        Image.new("RGB", (8, 8)).save(file, "JPEG")
        picture = file.getvalue()
        inner = self._tar({"n01_1.JPEG": picture, "n01_2.JPEG": picture})
        self.good = {
            "ILSVRC2012_img_train.tar": self._tar({"n01.tar": inner, "n02.tar": inner}),
            "ILSVRC2012_img_val.tar": self._tar({"v1.JPEG": picture, "v2.JPEG": picture}),
            "val.txt": b"v1.JPEG n01\nv2.JPEG n02\n",
        }

    def _tar(self, files):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return file.getvalue()

    def case(self, rng):
        for name, data in self.good.items():
            self.write(name, data)
        name = rng.choice(list(self.good))
        return self.write(name, change_bytes(self.good[name], rng)).parent

    def read(self, path):
        for entries in imagenet.find_pictures(path).splits.values():
            for entry in entries:
                entry.read()


class PictureSettings(Format):
    """The JSON file of `import --pictures`, and the text file of `--classes`."""

    def make(self):
        self.good = json.dumps(pictures.KNOWN["torchvision"]._asdict())

    def case(self, rng):
        return self.write("case.json", change_text(self.good, rng))

    def read(self, path):
        from tinyalex.cli.exchange import _names

        pictures.parse(str(path), 224)
        _names(path)


FORMATS = (
    Checkpoints, Onnx, StateDicts, Pictures, Shards, Runs, CifarBinary, CifarPython, ImageNetTars,
    PictureSettings,
)  # fmt: skip
