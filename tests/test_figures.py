"""Figures: what is drawn is what was given, in its place; and nearest neighbours equal brute force."""

import io
import subprocess
import sys
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from tinyalex.look import figures, retrieval
from tinyalex.look.figures import (
    curves_figure,
    kernels_figure,
    magnitudes_figure,
    neighbours_figure,
    predictions_figure,
)
from tinyalex.look.retrieval import nearest


def drawn(figure, dpi):
    """The figure's pixels (rows, columns, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def test_figures_need_no_pyplot():
    code = "import sys, tinyalex.look.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- Figure 3


def shown(kernel):
    """The docstring's scale, written another way: −max |w| → 0, 0 → 128 (mid-grey), max |w| → 255."""
    low, high = -np.abs(kernel).max(), np.abs(kernel).max()
    return np.rint(np.interp(kernel, (low, high), (0, 255))).astype(int).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("F", "size", "towers", "dpi", "pixel"),
    [
        (96, (11, 11), 2, 128, 4),  # the paper's
        (96, (11, 11), 2, 256, 8),
        (38, (5, 7), 2, 128, 6),  # 19 a tower: a second row of 3
        (6, (3, 3), 1, 128, 34),
    ],
)
def test_every_kernel_stands_pixel_by_pixel_in_its_tower(F, size, towers, dpi, pixel):
    weights = np.random.default_rng(1).standard_normal((F, 3, *size)) * 0.01
    pixels = drawn(kernels_figure(weights, towers), dpi)
    each = F // towers
    down = -(-each // 16) * (size[0] + 1) - 1
    strip = -(-28 * dpi // 128 // pixel) * pixel if towers > 1 else 0  # for the tower's name
    for i, kernel in enumerate(weights):
        tower, place = divmod(i, each)
        row, column = divmod(place, 16)
        top = pixel + tower * (strip + down * pixel) + strip + row * (size[0] + 1) * pixel
        left = pixel + column * (size[1] + 1) * pixel
        want = shown(kernel).repeat(pixel, 0).repeat(pixel, 1)
        found = pixels[top : top + size[0] * pixel, left : left + size[1] * pixel]
        np.testing.assert_array_equal(found, want, err_msg=f"kernel {i}")
        assert (pixels[top : top + size[0] * pixel, left - 1] == 255).all()  # the gap


def test_kernels_are_scaled_one_by_one_about_grey():
    weights = np.zeros((4, 3, 2, 2), np.float32)
    weights[1, :, 0, 0] = 1e-4  # blind to colour
    weights[2, 0, 1, 1] = -7.0  # less red
    weights[3, 1] = 2.0  # green
    tiles = kernels_figure(weights, 1).axes[0].images[0].get_array()[1:-1, 1:-1]  # within the margin
    assert tiles.shape == (2, 11, 3)
    assert (tiles[:, 0:2] == 128).all()
    assert tiles[0, 3].tolist() == [255, 255, 255]
    assert tiles[1, 7].tolist() == [0, 128, 128]
    assert (tiles[:, 9:] == [128, 255, 128]).all()


@pytest.mark.parametrize(
    ("weights", "towers", "message"),
    [
        (np.zeros((4, 1, 3, 3)), 2, r"weights \(F, 3, KH, KW\), found \(4, 1, 3, 3\)"),
        (np.zeros((4, 27)), 2, r"weights .*found \(4, 27\)"),
        (np.array(1.0), 2, r"weights .*found \(\)"),
        (np.zeros((5, 3, 3, 3)), 2, "towers must divide the 5 kernels, found 2"),
        (np.zeros((4, 3, 3, 3)), 0, "towers must divide"),
        (np.full((4, 3, 3, 3), np.nan), 2, "finite weights"),
    ],
)
def test_kernels_refused(weights, towers, message):
    with pytest.raises(ValueError, match=message):
        kernels_figure(weights, towers)


# ---- Figure 4, left

CLASSES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


def some_pictures(*shape, seed=2):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def bars(axes):
    """[(class, percent, width, colour)] from the top bar to the lowest."""
    names, percents = axes.texts[0::2], axes.texts[1::2]
    order = np.argsort([axes.transData.transform((0, t.get_position()[1]))[1] for t in names])[::-1]
    for bar, name in zip(axes.patches, names, strict=True):
        assert bar.get_y() + bar.get_height() / 2 == pytest.approx(name.get_position()[1])
    return [
        (names[i].get_text(), percents[i].get_text(), axes.patches[i].get_width(),
         to_hex(axes.patches[i].get_facecolor()))
        for i in order
    ]  # fmt: skip


def test_five_bars_in_order_and_the_correct_one_marked():
    pictures = some_pictures(3, 4, 6, 2)
    probabilities = np.array([[0.05, 0.1, 0.4, 0.1, 0.1, 0.2, 0.05], [0.9, 0, 0, 0.02, 0.05, 0.03, 0]]).T
    figure = predictions_figure(pictures, probabilities, np.array([3, 2]), CLASSES)
    first, first_bars, second, second_bars = figure.axes
    for i, axes in enumerate((first, second)):
        np.testing.assert_array_equal(axes.images[0].get_array(), pictures[..., i].transpose(1, 2, 0))
    assert first.get_position().x1 <= second.get_position().x0
    other, correct = figures.OTHER, figures.CORRECT
    assert bars(first_bars) == [
        ("cat", "40 %", 0.4, other),
        ("fox", "20 %", 0.2, other),
        ("bee", "10 %", 0.1, other),  # of three equals the lower numbers stand first
        ("dog", "10 %", 0.1, correct),
        ("eel", "10 %", 0.1, other),
    ]
    assert [name for name, *_ in bars(second_bars)] == ["ant", "eel", "fox", "dog", "bee"]
    assert {colour for *_, colour in bars(second_bars)} == {other}  # "cat" is not among the five
    assert first_bars.get_xlim() == (0, 1)
    for text, name, axes in zip(figure.texts, ["dog", "cat"], (first, second), strict=True):
        assert text.get_text() == name
        x, y = text.get_position()
        assert axes.get_position().x0 < x < axes.get_position().x1
        assert y < axes.get_position().y0


def test_without_labels_nothing_is_marked():
    figure = predictions_figure(some_pictures(1, 5, 5, 3), np.full((2, 3), 0.5), None, CLASSES[:2])
    assert not figure.texts
    assert {colour for axes in figure.axes[1::2] for *_, colour in bars(axes)} == {figures.OTHER}
    assert figure.axes[0].images[0].get_array().shape == (5, 5, 3)  # grey as three equal channels


def test_long_names_collide_with_nothing():
    names = [
        "great white shark, white shark, man-eater",
        "W" * 60,
        r"$\frac$ and $5$",
        "mite",
        "lily, little Illyrian hillside lily, Lilium",
    ]
    probabilities = np.array([[1, 0, 0, 0, 0], [0.2] * 5, [0.2] * 5]).T
    figure = predictions_figure(some_pictures(3, 8, 8, 3), probabilities, np.array([0, 1, 4]), names)
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes[1::2]:
        for name, percent in zip(axes.texts[0::2], axes.texts[1::2], strict=True):
            assert name.get_window_extent(renderer).x1 < percent.get_window_extent(renderer).x0
        assert [t.get_text() for t in axes.texts[4:8:2]] == [r"$\frac$ and $5$", "mite"]
        assert axes.texts[0].get_text().startswith("great white shark")
    for i, text in enumerate(figure.texts):
        place, picture = text.get_window_extent(renderer), figure.axes[2 * i].get_window_extent(renderer)
        assert picture.x0 - 1 < place.x0 < place.x1 < picture.x1 + 1
        assert text.get_text().endswith("…")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pictures": np.zeros((3, 4, 4, 2))}, r"pictures: expected uint8 \(C, H, W, N\).*found float64"),
        ({"pictures": some_pictures(2, 4, 4, 2)}, "pictures: .*C 1 or 3"),
        ({"pictures": some_pictures(3, 4, 4, 0)}, "pictures: .*0"),
        ({"probabilities": np.zeros((2, 7))}, r"probabilities \(7 classes, 2 pictures\), found \(2, 7\)"),
        ({"probabilities": np.full((7, 2), 1.5)}, "probabilities 0–1, found 1.5"),
        ({"probabilities": np.full((7, 2), np.nan)}, "probabilities 0–1, found nan"),
        ({"labels": np.array([0])}, r"labels \(2,\)"),
        ({"labels": np.array([0, 7])}, r"labels \(2,\) in 0 … 6"),
    ],
)
def test_predictions_refused(changed, message):
    good = {
        "pictures": some_pictures(3, 4, 4, 2), "probabilities": np.full((7, 2), 1 / 7),
        "labels": np.array([0, 6]), "classes": CLASSES,
    }  # fmt: skip
    predictions_figure(**good)
    with pytest.raises(ValueError, match=message):
        predictions_figure(**good | changed)


# ---- Figure 4, right


def test_neighbours_stand_beside_their_query():
    queries, database = some_pictures(3, 4, 5, 3), some_pictures(3, 4, 5, 20, seed=3)
    indices = np.array([[4, 7, 19], [0, 3, 4]])  # (k, N)
    figure = neighbours_figure(queries, database[..., indices])
    by_row = {}
    for axes in figure.axes:
        by_row.setdefault(round(axes.get_position().y0, 6), []).append(axes)
    assert len(by_row) == 3
    for i, y in enumerate(sorted(by_row, reverse=True)):
        row = sorted(by_row[y], key=lambda axes: axes.get_position().x0)
        want = [queries[..., i], database[..., indices[0, i]], database[..., indices[1, i]]]
        for axes, picture in zip(row, want, strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), picture.transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("queries", "found", "message"),
    [
        ((3, 4, 4), (3, 4, 4, 6, 2), r"queries: expected uint8 \(C, H, W, N\)"),
        ((3, 4, 4, 2), (3, 4, 4, 6), r"found: expected uint8 \(C, H, W, k, N\)"),
        ((3, 4, 4, 2), (3, 4, 4, 2, 6), "for each of 2 queries, found pictures of 4×4 for 6"),
        ((3, 4, 4, 2), (3, 5, 4, 6, 2), "found pictures of 5×4 for 2"),
    ],
)
def test_neighbours_refused(queries, found, message):
    with pytest.raises(ValueError, match=message):
        neighbours_figure(some_pictures(*queries), some_pictures(*found))


def brute_force(queries, database, k):
    """Σ (a − b)² over every pair, in float64; sorted by distance, then index."""
    a, b = queries.T[:, None].astype(np.float64), database.T[None].astype(np.float64)
    squares = ((a - b) ** 2).sum(-1)
    order = np.argsort(squares, axis=1, kind="stable")[:, :k]
    return order.T, np.sqrt(np.take_along_axis(squares, order, 1)).T


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 5), st.integers(1, 30), st.data(), st.sampled_from([1, 20, 100]),
    st.sampled_from(["ties", "close", "float32"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_nearest_equals_brute_force(D, N, M, data, block, kind, seed):
    k = data.draw(st.integers(1, M))
    rng = np.random.default_rng(seed)
    queries, database = rng.integers(0, 3, (D, N)), rng.integers(0, 3, (D, M))  # many ties
    if kind == "close":  # differences that ‖a‖² − 2ab + ‖b‖² cannot see
        queries, database = (1e6 + 1e-5 * x.astype(np.float64) for x in (queries, database))
    elif kind == "float32":
        queries, database = (rng.standard_normal(x.shape, np.float32) for x in (queries, database))
    before = queries.copy(), database.copy()
    with mock.patch.object(retrieval, "BLOCK", block):
        indices, distances = nearest(queries, database, k)
    want_indices, want_distances = brute_force(queries, database, k)
    np.testing.assert_array_equal(indices, want_indices)
    np.testing.assert_array_equal(distances, want_distances)
    assert indices.shape == distances.shape == (k, N)
    np.testing.assert_array_equal(queries, before[0])
    np.testing.assert_array_equal(database, before[1])


def test_a_picture_is_its_own_nearest_and_six_are_found():
    features = np.random.default_rng(5).standard_normal((64, 300), np.float32)
    indices, distances = nearest(features[:, 40:45], features)
    assert indices.shape == (6, 5)
    assert indices[0].tolist() == [40, 41, 42, 43, 44]
    assert (distances[0] == 0).all()
    assert (np.diff(distances, axis=0) >= 0).all()


def test_memory_does_not_grow_with_the_database():
    rng = np.random.default_rng(6)
    queries, database = rng.random((64, 8), np.float32), rng.random((64, 40_000), np.float32)  # 10 MB
    with mock.patch.object(retrieval, "BLOCK", 2**15):  # 0.25 MiB
        tracemalloc.start()
        nearest(queries, database)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8 * 8 * 2**15


@pytest.mark.parametrize(
    ("queries", "database", "k", "message"),
    [
        (np.zeros((3, 2)), np.zeros((4, 9)), 6, r"queries \(D, N\).*found \(3, 2\) and \(4, 9\)"),
        (np.zeros(3), np.zeros((3, 9)), 6, r"found \(3,\)"),
        (np.zeros((3, 2)), np.zeros((3, 5)), 6, "k is 1 … 5.*found 6"),
        (np.zeros((3, 2)), np.zeros((3, 5)), 0, "k is 1 … 5.*found 0"),
        (np.full((3, 2), np.nan), np.zeros((3, 9)), 6, "finite queries"),
        (np.zeros((3, 2)), np.full((3, 9), np.inf), 6, "finite database"),
    ],
)
def test_nearest_refuses(queries, database, k, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, database, k)


# ---- curves


def metrics(rates):
    """Two training records an epoch, the rate of each given; a validation record after every second."""
    rng, records = np.random.default_rng(7), []
    for i, rate in enumerate(rates):
        records.append({
            "kind": "train", "step": 10 * i, "epoch": i / 2, "loss": rng.random(), "error": rng.random(),
            "rate": rate,
        })  # fmt: skip
        if i % 4 == 3:
            records.append({
                "kind": "validation", "step": 10 * i, "epoch": i / 2, "loss": rng.random(),
                "top1": rng.random(), "top5": rng.random(),
            })  # fmt: skip
    return [*records, {"kind": "sizes", "step": 0, "layers": {}}]


def curves(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines if line.get_label()[0] != "_"}


def verticals(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.get_label()[0] == "_"]


def test_curves_are_the_records():
    records = metrics([0.01] * 5 + [0.001] * 4 + [0.01] * 3)
    figure = curves_figure(records)
    of = {kind: [r for r in records if r["kind"] == kind] for kind in ("train", "validation")}

    def points(kind, key):
        return [[r["epoch"], r[key]] for r in of[kind]]

    loss, error = figure.axes[:2]
    assert curves(loss) == {"training": points("train", "loss"), "validation": points("validation", "loss")}
    assert curves(error) == {
        "training": points("train", "error"),
        "validation, top 1": points("validation", "top1"),
        "validation, top 5": points("validation", "top5"),
    }
    assert verticals(loss) == verticals(error) == [2.5, 4.5]
    (rates,) = loss.child_axes
    assert rates.get_xticks().tolist() == [0, 2.5, 4.5]
    assert [t.get_text() for t in rates.get_xticklabels()] == ["0.01", "0.001", "0.01"]


def test_a_curve_that_hardly_falls_does_not_run_along_the_frame():
    records = metrics([0.01] * 3)
    for k, record in enumerate(records):
        record["loss"] = 1.1 - 0.001 * k
    assert curves_figure(records).axes[0].get_ylim() == pytest.approx((0, 1.05 * 1.1))


def test_a_gliding_rate_is_not_drawn_as_steps():
    for changes, lines in ((12, 12), (13, 0)):
        figure = curves_figure(metrics([0.01 * 0.9**i for i in range(changes + 1)]))
        assert len(verticals(figure.axes[0])) == lines


@pytest.mark.parametrize("kind", ["train", "validation"])
@pytest.mark.parametrize("count", [1, 3])
def test_runs_that_have_only_begun_are_drawn(kind, count):
    records = [r for r in metrics([0.1] * 12) if r["kind"] == kind][:count]
    figure = curves_figure(records)
    figure.savefig(io.BytesIO())
    assert sum(len(curves(axes)) for axes in figure.axes) == {"train": 2, "validation": 3}[kind]


def test_curves_refused():
    with pytest.raises(ValueError, match="no train or validation record in metrics"):
        curves_figure([{"kind": "sizes", "step": 0, "layers": {}}])
    records = metrics([0.1] * 4)
    del records[2]["rate"]
    with pytest.raises(ValueError, match="metrics: record 2 has no 'rate'"):
        curves_figure(records)


# ---- magnitudes


def test_sizes_and_their_ratio():
    values = {"conv1.w": ([0.01, 0.02], [2e-5, 1e-5]), "conv1.b": ([0.0, 0.5], [0.0, 1e-3]),
              "fc6.w": ([0.03, 0.03], [3e-5, 3e-6])}  # fmt: skip
    records = [
        {"kind": "sizes", "step": 100 * i,
         "layers": {name: {"weight": w[i], "update": u[i]} for name, (w, u) in values.items()}}
        for i in range(2)
    ]  # fmt: skip
    figure = magnitudes_figure([{"kind": "train"}, *records])
    figure.savefig(io.BytesIO())
    nan = np.nan
    want = [
        {"conv1.w": [0.01, 0.02], "conv1.b": [nan, 0.5], "fc6.w": [0.03, 0.03]},
        {"conv1.w": [2e-5, 1e-5], "conv1.b": [nan, 1e-3], "fc6.w": [3e-5, 3e-6]},
        {"conv1.w": [2e-3, 5e-4], "conv1.b": [nan, 2e-3], "fc6.w": [1e-3, 1e-4]},
    ]
    for axes, lines in zip(figure.axes, want, strict=True):
        found = curves(axes)
        assert list(found) == list(lines)
        assert axes.get_yscale() == "log"
        for name, sizes in lines.items():
            np.testing.assert_allclose(found[name], np.column_stack([[0, 100], sizes]), rtol=1e-12)
    weight, bias, fc = figure.axes[0].lines
    assert weight.get_color().tolist() == bias.get_color().tolist() != fc.get_color().tolist()
    assert (weight.get_linestyle(), bias.get_linestyle()) == ("-", "--")
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "conv1", "fc6", "weights", "biases", "10⁻³: a healthy ratio"
    ]  # fmt: skip
    assert weight.get_marker() == bias.get_marker() != fc.get_marker()  # not by the colour alone


def test_a_network_before_its_first_update_is_drawn():
    layers = {"conv1.w": {"weight": 0.0, "update": 0.0}}
    magnitudes_figure([{"kind": "sizes", "step": 0, "layers": layers}]).savefig(io.BytesIO())


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"kind": "train"}], "no record of kind 'sizes'"),
        ([{"kind": "sizes", "layers": {}}], "record 0 has no 'step'"),
        (
            [{"kind": "sizes", "step": 0, "layers": {"fc6.w": {"weight": 1, "update": 1}}},
             {"kind": "sizes", "step": 1, "layers": {}}],
            "layers in records: record 1 has no 'fc6.w'",
        ),
        ([{"kind": "sizes", "step": 0, "layers": {"fc6.w": {"weight": 1}}}], "fc6.w .*0 has no 'update'"),
    ],
)  # fmt: skip
def test_magnitudes_refused(records, message):
    with pytest.raises(ValueError, match=message):
        magnitudes_figure(records)
