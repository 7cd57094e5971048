"""The convolutions of AlexNet on a GPU, one by one: milliseconds, TFLOP/s, and which tile is the fastest.

    python measured/gpu_conv.py [--out FILE.json] [--seconds 110] [--batch 128] [--only conv2] [--tiny]

For each layer and direction every tile in question is compiled, compared with the first one's result and
timed (the median of 5 times 3 launches, after warming up).  The rate is that of the direct convolution's
arithmetic; "of cuBLAS" is its share of the rate of CuPy's product of two 4096 x 4096 matrices of random
numbers, measured in the same run.  Before that, all three directions are compared with NumPy in float64 for a
few images.  "products", "products dx" and "products dW" are minimal filtering's, with the rate of their own
arithmetic, and beside them the same by cuBLAS: CuPy's matmul of many matrices.  Every line is printed, and
the file written, as soon as it is known; after --seconds no more is begun.  --tiny: small layers, to see
that the program runs.
"""

import argparse
import functools
import itertools
import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from tinyalex.devices import Device
from tinyalex.memory import empty
from tinyalex.ops import conv as host
from tinyalex.ops.activation import relu
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda import implicit_gemm as conv
from tinyalex.ops.cuda import launch, winograd
from tinyalex.ops.cuda.implicit_gemm import Tile
from tinyalex.ops.winograd import POINTS, SIDE

LAYERS = {  # C, H, F, kernel, stride, pad, groups: one rank has both towers
    "conv1": (3, 224, 96, 11, 4, (1, 2, 1, 2), 1),
    "conv2": (96, 27, 256, 5, 1, 2, 2),
    "conv3": (256, 13, 384, 3, 1, 1, 1),
    "conv4": (384, 13, 384, 3, 1, 1, 2),
    "conv5": (384, 13, 256, 3, 1, 1, 2),
    "fc6": (9216, 1, 4096, 1, 1, 0, 1),  # the fully connected layer as a convolution of one pixel
}
TINY = {
    "conv1": (3, 23, 12, 5, 2, (1, 2, 1, 2), 1),
    "conv2": (12, 7, 24, 3, 1, 1, 2),
}

#          TF  TN  TK STAGES PF PN BLOCKS
SQUARE = [
    Tile(128, 128, 8, 3, 2, 2, 2),
    Tile(128, 128, 16, 2, 2, 2, 2),
    Tile(128, 128, 8, 3, 4, 2, 2),
    Tile(128, 128, 16, 2, 4, 2, 2),
    Tile(128, 128, 8, 3, 4, 2, 3),
    Tile(128, 256, 8, 2, 4, 2, 1),
]
OBLONG = [
    Tile(128, 64, 8, 3, 2, 2, 4),
    Tile(64, 128, 8, 3, 2, 2, 4),
    Tile(64, 128, 16, 2, 2, 2, 4),
    Tile(64, 64, 8, 3, 2, 2, 8),
    Tile(64, 128, 8, 3, 4, 2, 4),
    Tile(64, 256, 8, 3, 4, 2, 2),
]
NINETY_SIX = [
    Tile(96, 128, 8, 3, 3, 2, 3),
    Tile(96, 128, 16, 2, 3, 2, 3),
    Tile(96, 64, 8, 3, 3, 2, 6),
    Tile(96, 256, 8, 2, 3, 2, 1),
    Tile(96, 256, 8, 2, 6, 2, 2),
]
FORTY_EIGHT = [
    Tile(48, 128, 8, 3, 3, 2, 6),
    Tile(48, 256, 8, 2, 3, 2, 3),
    Tile(48, 256, 8, 3, 3, 2, 3),
    Tile(48, 64, 8, 3, 3, 2, 12),
    Tile(48, 256, 8, 3, 3, 4, 2),
]
W_TILES = [
    Tile(128, 128, 16, 2, 2, 2, 2),
    Tile(128, 128, 16, 2, 4, 2, 2),
    Tile(64, 64, 16, 2, 2, 2, 6),
    Tile(64, 64, 16, 3, 2, 2, 6),
    Tile(64, 64, 16, 3, 2, 2, 5),
    Tile(64, 64, 32, 2, 2, 2, 6),
    Tile(64, 128, 16, 2, 2, 2, 3),
    Tile(64, 128, 16, 3, 2, 2, 3),
    Tile(64, 128, 16, 3, 4, 2, 4),
    Tile(128, 64, 16, 3, 2, 2, 3),
    Tile(128, 128, 8, 3, 4, 2, 2),
]
W_TILES += [tile._replace(UNROLL=4) for tile in W_TILES[:5] + W_TILES[6:7]]
W_TILES += [tile._replace(UNROLL=2) for tile in W_TILES[:3] + W_TILES[6:7]]
W_NINETY_SIX = [
    Tile(96, 128, 16, 2, 3, 2, 3),
    Tile(96, 128, 16, 2, 3, 2, 2),
    Tile(96, 128, 16, 2, 2, 2, 2),
    Tile(96, 192, 16, 2, 3, 2, 2),
    Tile(96, 64, 16, 3, 3, 2, 5),
    Tile(96, 64, 16, 3, 2, 2, 4),
]
W_NINETY_SIX += [tile._replace(UNROLL=4) for tile in W_NINETY_SIX[:3]]
TENSOR = [  # with the tensor cores
    Tile(128, 128, 8, 3, 4, 2, 2, TF32=1),
    Tile(128, 128, 16, 2, 4, 2, 2, TF32=1),
    Tile(128, 128, 16, 2, 2, 2, 2, TF32=1),
    Tile(128, 256, 8, 3, 4, 2, 1, TF32=1),
    Tile(128, 64, 16, 3, 4, 2, 4, TF32=1),
]
TENSOR_64 = [
    Tile(64, 128, 16, 2, 4, 2, 4, TF32=1),
    Tile(64, 128, 16, 3, 2, 2, 3, TF32=1),
    Tile(64, 256, 16, 2, 4, 2, 2, TF32=1),
]
TENSOR_96 = [
    Tile(96, 128, 8, 3, 3, 2, 3, TF32=1),
    Tile(96, 128, 16, 2, 3, 2, 3, TF32=1),
    Tile(96, 256, 8, 3, 3, 2, 1, TF32=1),
    Tile(96, 128, 16, 3, 6, 2, 4, TF32=1),
]
TENSOR_48 = [
    Tile(48, 128, 8, 3, 3, 2, 6, TF32=1),
    Tile(48, 256, 8, 3, 3, 2, 3, TF32=1),
    Tile(48, 128, 16, 3, 3, 2, 5, TF32=1),
    Tile(48, 256, 16, 2, 3, 2, 3, TF32=1),
]
TENSOR_W = [
    Tile(128, 128, 16, 2, 4, 2, 2, TF32=1),
    Tile(128, 128, 16, 2, 2, 2, 2, TF32=1),
    Tile(128, 128, 8, 3, 4, 2, 2, TF32=1),
    Tile(64, 128, 16, 3, 4, 2, 4, TF32=1),
    Tile(64, 128, 16, 3, 2, 2, 3, TF32=1),
    Tile(64, 64, 32, 2, 2, 2, 6, TF32=1),
    Tile(128, 64, 16, 3, 4, 2, 4, TF32=1),
]
TENSOR_W_96 = [
    Tile(96, 128, 16, 2, 3, 2, 3, TF32=1),
    Tile(96, 128, 16, 2, 6, 2, 4, TF32=1),
    Tile(96, 192, 16, 2, 3, 2, 2, TF32=1),
    Tile(96, 64, 32, 2, 3, 2, 4, TF32=1),
]

#          of minimal filtering, where none is cut into chunks of terms
P_128 = [
    Tile(128, 128, 8, 3, 4, 2, 3),
    Tile(128, 128, 8, 3, 2, 2, 2),
    Tile(128, 128, 16, 2, 2, 2, 2),
    Tile(128, 128, 16, 2, 4, 2, 3),
    Tile(128, 64, 8, 3, 2, 2, 4),
    Tile(128, 64, 16, 2, 2, 2, 4),
    Tile(128, 64, 16, 2, 4, 2, 5),
    Tile(128, 32, 16, 2, 2, 1, 7),
    Tile(64, 128, 16, 2, 2, 2, 4),
    Tile(64, 64, 16, 3, 2, 2, 7),
]
P_192 = [
    Tile(192, 64, 16, 2, 3, 2, 3),
    Tile(192, 64, 8, 3, 3, 2, 3),
    Tile(96, 64, 16, 2, 3, 2, 5),
    Tile(96, 64, 16, 2, 3, 2, 6),
    Tile(96, 64, 8, 3, 3, 2, 6),
    Tile(96, 128, 8, 3, 3, 2, 3),
    Tile(96, 128, 16, 2, 3, 2, 3),
]
P_48 = [
    Tile(48, 128, 8, 3, 3, 2, 6),
    Tile(48, 128, 16, 2, 3, 2, 5),
    Tile(48, 64, 8, 3, 3, 2, 12),
]
P_W = [
    Tile(64, 48, 32, 2, 2, 1.5, 6),
    Tile(64, 64, 16, 2, 2, 2, 6),
    Tile(96, 64, 16, 2, 3, 2, 5),
    Tile(96, 64, 16, 2, 3, 2, 5, UNROLL=2),
    Tile(64, 64, 16, 2, 2, 2, 5, UNROLL=4),
    Tile(64, 64, 16, 2, 4, 2, 7, UNROLL=2),
    Tile(128, 128, 16, 2, 4, 2, 2),
]

WHICH = {  # the tiles in question; the first is the one that the others' results are compared with
    "forward": {
        "conv1": NINETY_SIX + TENSOR_96,
        "conv2": SQUARE + OBLONG + TENSOR,
        "conv3": SQUARE + OBLONG + TENSOR,
        "conv4": NINETY_SIX + OBLONG[1:] + TENSOR_96 + TENSOR_64,
        "conv5": SQUARE + OBLONG + TENSOR + TENSOR_64,
        "fc6": SQUARE[:2] + OBLONG[:4],
    },
    "dx": {
        "conv2": FORTY_EIGHT + OBLONG[1:2] + TENSOR_48,
        "conv3": SQUARE + OBLONG[:4] + TENSOR + TENSOR_64,
        "conv4": NINETY_SIX + OBLONG[1:] + TENSOR_96 + TENSOR_64,
        "conv5": NINETY_SIX + OBLONG[1:] + TENSOR_96 + TENSOR_64,
        "fc6": SQUARE[:2] + OBLONG[:4],
    },
    "dW": {
        "conv1": W_NINETY_SIX + TENSOR_W_96,
        "conv2": W_TILES + TENSOR_W,
        "conv3": W_TILES + TENSOR_W,
        "conv4": W_NINETY_SIX + W_TILES + TENSOR_W_96 + TENSOR_W,
        "conv5": W_TILES + TENSOR_W,
        "fc6": W_TILES[:3],
    },
    "products": {"conv2": P_128, "conv3": P_192 + P_128[:3], "conv4": P_192, "conv5": P_128},
    "products dx": {"conv2": P_48, "conv3": P_128, "conv4": P_192, "conv5": P_192},
    "products dW": dict.fromkeys(("conv2", "conv3", "conv4", "conv5"), P_W),
}
KERNELS = {
    "dW": ("conv_weights.conv_backward_w", "conv_weights.add_chunks"),
    "products": ("conv.winograd_products",),
    "products dx": ("conv.winograd_products",),
    "products dW": ("conv_weights.winograd_products_back",),
}
CHUNKS = {  # of dW's terms, which are tried
    "dW": (4, 9, 13, 19, 26, 39, 66, 88, 132),
    "products dW": (1, 2, 3, 4, 6, 9),
}


def milliseconds(xp, fn, times=5, launches=3):
    """The median time of one call, by the device's own clock."""
    fn()
    found = []
    for _ in range(times):
        start, end = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        for _ in range(launches):
            fn()
        end.record()
        xp.cuda.get_current_stream().synchronize()
        found.append(xp.cuda.get_elapsed_time(start, end) / launches)
    return median(found)


def geometry(layer, batch):
    """The shapes of x, w and y, and (stride, pads, groups)."""
    C, H, F, K, stride, pad, groups = layer
    pads = host.four_pads(pad)
    size = host.output_size(H, K, stride, *pads[:2])
    return (C, H, H, batch), (F, C // groups, K, K), (F, size, size, batch), (stride, pads, groups)


def drawn(shape, seed):
    """Normal random numbers in float32."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def apart(a, b):
    """|a - b| / |b| in the Euclidean norm, on the device."""
    d = a - b
    return (float((d * d).sum()) / max(1e-30, float((b * b).sum()))) ** 0.5


def check(name, layer, note, images=4):
    """All directions against NumPy in float64, few images, with and without the vector copies."""
    for batch in (images, images - 1):
        xs, ws, ys, (stride, pads, groups) = geometry(layer, batch)
        x, w, b = drawn(xs, 1), drawn(ws, 2) / np.prod(ws[1:]) ** 0.5, drawn(ws[:1], 3)
        w = w.astype(np.float32)
        dy = drawn(ys, 4)
        device = Device("cuda:0")
        put, get = device.put, device.get
        y, cache = host.conv2d_forward(put(x), put(w), put(b), stride, pads, groups, relu)
        found = (y, *host.conv2d_backward(put(dy), cache))
        # the sign that ReLU's backward looks at is the device's own: near 0 the two may differ
        y64, cache64 = host.conv2d_forward(*(a.astype(float) for a in (x, w, b)), stride, pads, groups, relu)
        cache64 = cache64._replace(y=get(y).astype(float))
        expected = (y64, *host.conv2d_backward(dy.astype(float), cache64))
        errors = {
            key: float(np.linalg.norm(get(a) - e) / np.linalg.norm(e))
            for key, a, e in zip(("y", "dx", "dw", "db"), found, expected, strict=True)
        }
        note(stage="check", layer=name, batch=batch, **errors)


def runs(name, layer, batch, put):
    """direction -> (function of a tile that makes the result, FLOP)."""
    xs, ws, ys, (stride, pads, groups) = geometry(layer, batch)
    x, w, b = put(drawn(xs, 1)), put(drawn(ws, 2) / np.float32(np.prod(ws[1:]) ** 0.5)), put(drawn(ws[:1], 3))
    dy = put(drawn(ys, 4))
    flop = 2 * int(np.prod(ys)) * int(np.prod(ws[1:]))

    def forward(tile):
        out = empty(xp_of(x), ys, x.dtype)
        conv.forward(x, w, b, out, stride, pads, groups, True, tile=tile)
        return out

    how = stride, pads, groups
    directions = {
        "forward": forward,
        "dW": lambda tile, chunks=None: conv.backward_w(dy, x, ws, *how, tile=tile, chunks=chunks)[0],
    }
    if name != "conv1":
        directions["dx"] = lambda tile: conv.backward_x(dy, w, xs, *how, tile=tile)
    if xs[1] == 1:  # the same by cuBLAS, below the layer's own rows
        matrix = [a.reshape(len(a), -1) for a in (x, w, dy)]
        directions["cublas forward"] = lambda tile: matrix[1] @ matrix[0]
        directions["cublas dW"] = lambda tile: matrix[2] @ matrix[0].T
        directions["cublas dx"] = lambda tile: matrix[1].T @ matrix[2]
    return {direction: (run, flop) for direction, run in directions.items()} | filtering(layer, batch, put)


def filtering(layer, batch, put):
    """direction -> (function of a tile, FLOP) of minimal filtering's products, of random V and U."""
    C, H, F, k, stride, _, groups = layer
    if stride > 1 or k not in POINTS:
        return {}
    n2, tiles = (k + SIDE - 1) ** 2, -(-H // SIDE)
    columns, own = tiles * tiles * batch, (F // groups, C // groups)
    flop = 2 * n2 * columns * groups * math.prod(own)

    def random(*shape):  # a million numbers, again and again
        return put(np.resize(drawn((min(1 << 20, math.prod(shape)),), 5), shape))

    x, y = (random(n2, maps, tiles, tiles, batch) for maps in (C, F))
    matrices = [a.reshape(n2 * groups, -1, columns) for a in (x, y)]

    def there(V, M, maps):  # M = U V
        F, C = maps
        laid = functools.cache(
            functools.partial(winograd._filters, random(groups * F, C, k, k), groups, False)
        )

        def products(tile):
            out = empty(xp_of(V), M.shape, M.dtype)
            winograd._products(laid(tile), V, out, groups, tile, launch.images(columns, V, out))
            return out

        return products

    def back(tile, chunks=None):
        return winograd._products_back(y, x, *own, tile, chunks).sum(axis=0)

    def by_cublas(a, b):
        return lambda tile: xp_of(a).matmul(a, b)

    u, (v, m) = random(n2 * groups, *own), matrices
    directions = {
        "products": there(x, y, own),
        "products dx": there(y, x, own[::-1]),
        "products dW": back,
        "cublas products": by_cublas(u, v),
        "cublas products dx": by_cublas(u.transpose(0, 2, 1), m),
        "cublas products dW": by_cublas(m, v.transpose(0, 2, 1)),
    }
    return {direction: (run, flop) for direction, run in directions.items()}


def main():
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu_conv.json"))
    parser.add_argument("--seconds", type=float, default=110)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", action="append", help="a layer; may be given again")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    begin = time.perf_counter()
    layers = TINY if args.tiny else LAYERS
    names = [name for name in layers if not args.only or name in args.only]
    device = Device("cuda:0")
    found = []

    def note(**entry):
        entry["at"] = round(time.perf_counter() - begin, 1)
        found.append(entry)
        print(
            " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in entry.items()),
            flush=True,
        )
        args.out.write_text(json.dumps(found, indent=1))

    with device.context():
        xp = device.xp
        size = 64 if args.tiny else 4096
        a, b = device.put(drawn((size, size), 6)), device.put(drawn((size, size), 7))

        def cublas():
            ms = milliseconds(xp, lambda: xp.matmul(a, b))
            note(stage="cublas", ms=ms, tflops=2 * size**3 / ms / 1e9)
            return 2 * size**3 / ms / 1e9

        properties = xp.cuda.runtime.getDeviceProperties(0)
        note(
            stage="card", name=properties["name"].decode(), multiprocessors=properties["multiProcessorCount"]
        )
        ceiling = cublas()
        compile_all(xp, names, note)
        for name in names:
            if name.startswith("conv"):
                check(name, layers[name], note)

        def timed(name, direction, tile, flop, run, first, **more):
            """Note the time of one tile; returns what later ones are compared with."""
            if time.perf_counter() - begin > args.seconds:
                note(stage="out of time", layer=name, direction=direction, tile=tuple(tile))
                return first
            try:
                result = run()
                first = result if first is None else first
                error, ms = apart(result, first), milliseconds(xp, run)
            except Exception as problem:  # a tile that cannot be launched must not end the rest
                note(
                    stage="failed",
                    layer=name,
                    direction=direction,
                    tile=tuple(tile),
                    error=repr(problem)[:300],
                )
                return first
            rate = flop / ms / 1e9
            note(stage="time", layer=name, direction=direction, tile=tuple(tile), ms=ms, tflops=rate,
                 of_cublas=rate / ceiling, apart=error, **more)  # fmt: skip
            return first

        for name in names:
            directions = runs(name, layers[name], args.batch, device.put)
            for direction, (run, flop) in directions.items():
                tiles = WHICH[direction.removeprefix("cublas ")][name]
                first = None
                for tile in tiles[:1] if "cublas" in direction else tiles:
                    first = timed(name, direction, tile, flop, partial(run, tile), first)
                if direction in ("forward", "dx"):  # without cutting the last wave's tiles
                    cut, conv._chunks = conv._chunks, lambda *args: 1
                    for tile in tiles[:3]:
                        first = timed(name, direction, tile, flop, partial(run, tile), first, chunks=1)
                    conv._chunks = cut
                some = tiles[1:3] if direction == "dW" else tiles
                for tile, chunks in itertools.product(some, CHUNKS.get(direction, ())):
                    first = timed(
                        name, direction, tile, flop, partial(run, tile, chunks), first, chunks=chunks
                    )
            del directions, first
        cublas()
        table(found)


def compile_all(xp, names, note):
    """Compile every tile's kernels at once, on all cores."""
    start = time.perf_counter()
    forward = "conv.conv_forward", "conv.conv_backward_x", "conv.lay_out_weights"
    wanted = {
        (KERNELS.get(direction, forward), tile)
        for direction in WHICH for name in names for tile in WHICH[direction].get(name, ())
    }  # fmt: skip

    def one(kernels, tile):
        with xp.cuda.Device(0):
            for kernel in kernels:
                launch._function(xp, 0, kernel, np.float32, tuple({"V": 4, **tile._asdict()}.items()))

    with ThreadPoolExecutor(12) as pool:
        problems = [f.exception() for f in [pool.submit(one, *each) for each in wanted]]
    for problem in filter(None, problems):
        note(stage="failed to compile", error=repr(problem)[:300])
    note(stage="compiled", tiles=len(wanted), seconds=time.perf_counter() - start)


def table(found):
    """Print the fastest tile of each layer and direction as a Markdown table."""
    print("| layer | direction | products | tile | ms | TFLOP/s | of cuBLAS |\n|---|---|---|---|---|---|---|")
    best = {}
    for e in found:
        if e["stage"] == "time":
            key = e["layer"], e["direction"], "TF32" if e["tile"][-2] else "float32"
            if key not in best or e["ms"] < best[key]["ms"]:
                best[key] = e
    for (layer, direction, kind), e in best.items():
        tile = " ".join(map(str, [*e["tile"][:-2], e["tile"][-1]])) + (
            f" / {e['chunks']}" if "chunks" in e else ""
        )
        print(
            f"| {layer} | {direction} | {kind} | {tile} | {e['ms']:.3f} | {e['tflops']:.1f} "
            f"| {e['of_cublas']:.0%} |"
        )
    for kind in ("float32", "TF32"):
        of_layers = [e for (layer, _, k), e in best.items() if k == kind and layer.startswith("conv")]
        total = sum(e["ms"] for e in of_layers if e["direction"] in ("forward", "dx", "dW"))
        print(f"all layers and directions, {kind}: {total:.2f} ms")


if __name__ == "__main__":
    sys.exit(main())
