"""Files that are not trusted: only documented errors come out, nothing runs, nothing takes the memory.

`measured/fuzz.py` reads many thousands of damaged files of every format; here are a few of each, what
hypothesis thinks of, and the attacks that have names.
"""

import io
import json
import os
import pickle
import resource
import struct
import subprocess
import sys
import time
import warnings
import zlib
from dataclasses import MISSING, fields
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tinyalex.data import cifar10, imagenet
from tinyalex.data import preprocessing as pictures
from tinyalex.data.pictures import read_picture
from tinyalex.errors import DataError, TinyalexError
from tinyalex.models import Network
from tinyalex.nn import Conv2d, Linear
from tinyalex.nn.layers import KINDS
from tinyalex.runs import checkpoint, run, saved, version1
from tinyalex.runs import trained as reading
from tinyalex.runs.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[1] / "measured"))
import fuzz
import fuzz_formats

MANY = {"CifarBinary": 4, "Onnx": 100, "Checkpoints": 60}


@pytest.mark.filterwarnings("ignore")  # of Pillow, about what it is asked to read
@pytest.mark.parametrize("kind", fuzz_formats.FORMATS, ids=lambda kind: kind.__name__)
def test_damaged_files_raise_documented_errors_only(kind, tmp_path, capfd):
    if kind.__name__ == "Onnx" and not find_spec("onnx"):
        pytest.skip("onnx is not installed")
    outcomes = []

    def found(number, outcome, trace):
        assert outcome in ("begun", "accepted", "refused"), f"input {number}: {trace}"
        outcomes.append(outcome)

    fuzz.try_inputs(kind, tmp_path / "format", 7, 0, MANY.get(kind.__name__, 40), found)
    assert "refused" in outcomes


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda part: st.lists(part, max_size=4) | st.dictionaries(st.text(max_size=8), part, max_size=4),
    max_leaves=12,
)
NUMBERS, REALS = st.integers(-1, 9), st.floats()
VALUES = {
    "kernel": NUMBERS | st.lists(NUMBERS | REALS, max_size=3),
    "pad": NUMBERS | st.lists(st.integers(-1, 5000) | REALS, min_size=3, max_size=5),
    "activation": st.sampled_from(
        [
            None,
            "relu",
            "relu6",
            "rel",
            ["tanh", 1, 2],
            ["tanh", 0, 1],
            ["leaky", 0.1],
            ["leaky", 0],
            ["relu"],
            [],
        ]
    ),
    **dict.fromkeys(("window", "stride"), NUMBERS | st.lists(NUMBERS | REALS, max_size=3)),
    **dict.fromkeys(("filters", "features", "groups", "n"), NUMBERS),
    **dict.fromkeys(("k", "alpha", "beta", "keep", "std", "bias", "eps", "momentum"), REALS),
    **dict.fromkeys(("ceil", "inverted", "alpha_over_n", "replicated"), st.booleans()),
}


def entry(kind):
    """A layer of this kind in JSON: what it must be told, and some of the rest, which may be anything."""
    told = {f.name: f.default is MISSING for f in fields(KINDS[kind]) if f.name != "name"}
    named = {"kind": st.just(kind), "name": st.sampled_from("abcdefg")}
    return st.fixed_dictionaries(
        named | {name: VALUES[name] for name, must in told.items() if must},
        optional={name: VALUES[name] for name, must in told.items() if not must},
    )


LAYERS = st.lists(st.sampled_from(sorted(KINDS)).flatmap(entry), min_size=1, max_size=4)
OLD_LAYERS = st.lists(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["Conv", *KINDS, "Other"]), "name": st.sampled_from("abcd")},
        optional={"shape": st.lists(st.integers(-1, 6) | REALS, max_size=4), **VALUES},
    ),
    max_size=5,
)


def is_built_or_refused(value):
    """Read a network from JSON; if it is one, it runs, and its plan told what comes out."""
    try:
        network = Network.from_json(value)
    except DataError:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constants that overflow
        net = network.build(fuzz_formats.ONE, np.random.default_rng(0))
        y = net.forward(np.ones((*network.input, 2), np.float32))
    assert y.shape == (*network.outputs, 2)
    assert Network.from_json(json.loads(json.dumps(network.to_json()))) == network.named()
    assert network.most_ranks >= 1


SHAPES = st.lists(st.integers(1, 12), min_size=3, max_size=3)


@given(layers=JSON | LAYERS, shape=SHAPES)
@settings(deadline=None)
def test_networks_from_any_json_can_be_built_or_are_refused(layers, shape):
    is_built_or_refused({"input": shape, "layers": layers})


@given(JSON | st.fixed_dictionaries({"input": JSON, "layers": LAYERS}))
@settings(deadline=None)
def test_any_json_is_a_network_or_refused(value):
    is_built_or_refused(value)


@given(layers=JSON | OLD_LAYERS, shape=SHAPES | JSON)
@settings(deadline=None)
def test_networks_of_format_1_can_be_built_or_are_refused(layers, shape):
    try:
        found = version1.metadata({"layers": layers, "input": shape})
    except DataError:
        return
    is_built_or_refused(found["network"])


@given(JSON)
@settings(deadline=None)
def test_settings_and_pictures_from_any_json_are_refused(value):
    for read in (
        Settings.from_json, pictures.Pictures.from_json, version1.metadata, version1.settings,
        lambda metadata: saved._saved(checkpoint.of_this_version(metadata, version1.metadata)),
        lambda part: version1.metadata({"settings": part}),
        lambda part: version1.metadata({"neuron": part}),
    ):  # fmt: skip
        with pytest.raises(TinyalexError):
            read(value)


@given(st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused(tmp_path, data):
    path = tmp_path / "run" / "file"
    path.parent.mkdir(exist_ok=True)
    for name in ("run.json", "metrics.jsonl", "index.json"):
        path.with_name(name).write_bytes(data)
    path.write_bytes(data)
    for read in (
        checkpoint.load,
        saved.open_network,
        pictures_of(path),
        imagenet.open_all,
        run.settings_of,
        cifar10.load,
    ):
        with pytest.raises(TinyalexError):
            read(path if read in (checkpoint.load, saved.open_network, cifar10.load) else path.parent)


def pictures_of(path):
    return lambda folder: pictures.parse(str(path), 224)


# ---- attacks with names --------------------------------------------------------------------------------


class Run:
    """A pickle that runs a program."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def deep_tuple():
    """Tuples within tuples as the key of a dictionary: hashing them ends CPython's own unpickler."""
    return b"\x80\x02})" + b"\x85" * 3_000_000 + b"K\x01s."


def long_memo():
    """An index of the memo that makes CPython's own unpickler take 16 GB and more."""
    return b"\x80\x02}r\xff\xff\xff\x7f."


def copies():
    """A short pickle that copies a text of a megabyte many times."""
    text = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20)
    call = b"c_codecs\nencode\nq\x00" + text + b"q\x01U\x06latin1q\x02\x86R"
    return b"\x80\x02(" + call + b"h\x00h\x01h\x02\x86R" * 5_000 + b"l."


def test_pickles_that_would_take_stack_or_memory(tmp_path):
    """In a process of its own: at worst it dies."""
    made = [deep_tuple, long_memo, copies]
    for make in made:
        (tmp_path / make.__name__).write_bytes(make())
    code = (
        "import re, sys\n"
        "from tinyalex.data import cifar10\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        cifar10._python_batch(open(path, 'rb').read(), 'batch')\n"
        "    except cifar10.DataError as error:\n"
        "        status = open('/proc/self/status').read()\n"  # ru_maxrss would begin with this process's
        "        print('refused', re.search(r'VmHWM:\\s*(\\d+) kB', status)[1])\n"
    )
    limit = 4 << 30
    process = subprocess.run(
        [sys.executable, "-c", code, *(tmp_path / make.__name__ for make in made)],
        capture_output=True, text=True, timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert process.stdout.split()[::2] == ["refused"] * 3, process.stderr[-500:]
    assert int(process.stdout.split()[-1]) < 1_000_000  # kB


def test_a_pickle_that_runs_a_program_is_refused(tmp_path):
    evil = pickle.dumps({"label_names": Run(tmp_path / "ran")})
    with pytest.raises(DataError, match=r"asks for (posix|nt)\.system: refused, nothing was run"):
        cifar10._python_classes(evil, "batches.meta")
    assert not (tmp_path / "ran").exists()
    np.save(tmp_path / "objects.npy", np.array([Run(tmp_path / "ran")]), allow_pickle=True)
    with pytest.raises(DataError):  # an array of objects is a pickle within the .npy file
        imagenet.shards._map(tmp_path / "objects.npy", (1,), np.uint8)
    assert not (tmp_path / "ran").exists()


def test_a_postscript_picture_is_not_run(tmp_path):
    """Pillow would hand it to Ghostscript, whatever it is called."""
    image = Image.new("RGB", (30, 30))
    image.save(tmp_path / "a.eps")
    with pytest.raises(OSError, match="cannot identify image file"):
        read_picture((tmp_path / "a.eps").read_bytes())


def bomb(side):
    """A PNG of a few bytes that says it has side² pixels."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_a_decompression_bomb_is_refused_at_once(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb(16_000))
    start = time.perf_counter()
    with (
        pytest.raises(DataError, match=r"bomb\.png: expected a picture: .*decompression bomb"),
        reading.picture_loader(fuzz_formats.ONE, trained(), [tmp_path / "bomb.png"], 1),
    ):
        pass
    assert time.perf_counter() - start < 1


def trained():
    stated = pictures.KNOWN["caffe"]._replace(crop=20, resize=24)
    return SimpleNamespace(settings=None, mean=np.zeros(3, np.float32), classes=("a",), pictures=stated)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return fuzz_formats.Shards(tmp_path_factory.mktemp("shards") / "format")


@pytest.mark.parametrize("name", ["../secret.npy", "/etc/passwd", "sub/train-000.npy", "..", ""])
def test_a_shard_outside_its_folder_is_refused(name, shards):
    index = json.loads(shards.good["index.json"])
    index["splits"]["train"]["shards"][0]["file"] = name
    (shards.data / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="expected the name of a shard in its folder"):
        imagenet.open(shards.data)


@pytest.mark.parametrize("version", [1, 2])
def test_sizes_that_metadata_claim_are_not_believed(tmp_path, version):
    """A checkpoint of 100 kB that says it has a million hidden units."""
    made = fuzz_formats.Checkpoints(tmp_path / "format")
    arrays, metadata = made.good[0 if version == 2 else 3]
    metadata = json.loads(json.dumps(metadata))
    if version == 1:
        metadata["settings"]["network"] |= {"hidden": 1 << 20, "filters": [1 << 14] + [1 << 20] * 4}
    else:
        for layer in metadata["network"]["layers"]:
            layer |= {name: 1 << 14 for name in ("filters", "features") if name in layer}
    checkpoint.save(tmp_path / "large.safetensors", arrays, metadata)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"large\.safetensors: conv1\.[wb]: this model has"):
        saved.open_network(tmp_path / "large.safetensors")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filters": 1 << 40}, r"conv1: its output \(1099511627776, 16, 16\) is larger than 268,435,456"),
        ({"pad": 5000}, "conv1: expected padding ≤ 4096, found 5000"),
        ({"filters": 10**400}, "conv1: filters: expected a whole number, found"),
    ],
)
def test_sizes_beyond_reason_are_refused(change, message):
    entry = Network([Conv2d(4, 5, 4, 2), Linear(10)], (3, 64, 64)).to_json()
    entry["layers"][0] |= change
    with pytest.raises(DataError, match=message):
        Network.from_json(entry)
