"""The page on which backward can be touched, asked in a browser: its numbers, its keys, its looks.

Every number that the page shows is compared with `tinyalex.ops` in float64, for 500 random settings; for
20,000 with  pytest -m slow tests/test_touch.py.  With AXE_CORE=…/axe.min.js (from  npm install axe-core)
its accessibility is checked as well.
"""

import json
import os
import re
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest

from tinyalex import ops
from tinyalex.comm import launch
from tinyalex.lessons import course
from tinyalex.models import alexnet
from tinyalex.nn import Conv2d, Linear

OPERATIONS = ("conv", "max", "avg", "lrn", "dropout", "towers")
RANKS = ("cpu:0", "cpu:1")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("course") / "index.html"
    path.write_text(course.touch_page(), encoding="utf-8")
    return path


@pytest.fixture
def opened(page, browser):
    """The browser with the page, from a file, at the width of a desktop."""
    browser.get("about:blank")
    browser.get(page.as_uri())
    look(browser, 1280)
    yield browser
    assert browser.get_log("browser") == []


def look(browser, width, scheme="light"):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    theme = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", theme)


def show(browser, **setting):
    browser.execute_script("touch.show(arguments[0])", urlencode(setting, safe=","))


def shown(browser, array):
    """{index as text: number} of the cells of an array."""
    return browser.execute_script("return touch.read()[arguments[0]]", array)


# ---- random settings, and what tinyalex makes of them ----


def settings(rng, count):
    """Yield (what the address says, {array: what the page has to show}) for so many random settings."""
    towers = []
    for k in range(count):
        name = OPERATIONS[k % len(OPERATIONS)]
        made = globals()[f"_{name}"](rng)
        if name == "towers":
            towers.append(made)
        else:
            yield {"op": name, **made[0]}, made[1]
    found = launch(lambda comm: [_tower(comm, *made) for made in towers], RANKS)
    for (setting, _), *parts in zip(towers, *found, strict=True):
        y, dx, dw, *words = ([part[i] for part in parts] for i in range(4))
        arrays = {"y": np.concatenate(y), "dx": np.concatenate(dx)}
        arrays |= {"word0": words[0][0], "word1": words[0][1]}
        if setting["read"] == "meet":
            arrays["dw"] = np.concatenate(dw)
        yield {"op": "towers", **setting}, arrays


def _numbers(rng, *shape):
    """With three decimals, as the address will have them; sometimes whole, so that there are ties."""
    return np.round(3 * rng.standard_normal(shape), 3 * rng.integers(2))


def _listed(values):
    return ",".join(f"{value:.3f}" for value in np.ravel(values))


def _stamped(rng, dy):
    """(The outputs that are stamped, as the address says it; dy with zeros for the others.)"""
    if rng.random() < 0.5:
        return "all", dy
    some = rng.permutation(dy.size)[: rng.integers(1, dy.size + 1)]
    chosen = np.zeros(dy.size, bool)
    chosen[some] = True
    return ",".join(map(str, some)), dy * chosen.reshape(dy.shape)


def _windows(forward, backward, H, W):
    """How many outputs own each pixel, (1, H, W): a picture for each output, its dy alone is 1."""
    shape = forward(np.zeros((1, H, W, 1)))[0].shape
    each = np.prod(shape)
    _, cache = forward(np.zeros((1, H, W, each)))
    return (backward(np.eye(each).reshape(*shape[:3], each), cache) != 0).sum(axis=3)


def _picture(rng):
    """(Sizes that fit together, the settings of the address that say them)."""
    while True:
        H, W, K, S, P = rng.integers((1, 1, 1, 1, 0), (9, 9, 6, 5, 4)).tolist()
        if min(H, W) + 2 * P >= K and P < K:
            ceil = bool(rng.integers(2))
            say = {"H": H, "W": W, "K": K, "S": S, "P": P, "round": "ceil" if ceil else "floor"}
            return (H, W, K, S, P, ceil), say


def _conv(rng):
    (H, W, K, S, P, ceil), say = _picture(rng)
    G = int(rng.integers(1, 3))
    C, F = (G * int(rng.integers(1, 4 // G + 1)) for _ in range(2))
    pads = (P, P + -(H + 2 * P - K) % S * ceil, P, P + -(W + 2 * P - K) % S * ceil)
    x, w, b = _numbers(rng, C, H, W, 1), _numbers(rng, F, C // G, K, K), _numbers(rng, F)
    y, cache = ops.conv2d_forward(x, w, b, S, pads, G)
    dy = _numbers(rng, *y.shape)
    stamps, sent = _stamped(rng, dy)
    dx, dw, db = ops.conv2d_backward(sent, cache)
    ones = np.ones((1, 1, K, K)), np.zeros(1), S, pads
    windows = _windows(
        lambda x: ops.conv2d_forward(x, *ones), lambda dy, cache: ops.conv2d_backward(dy, cache)[0], H, W
    )
    say |= {"C": C, "F": F, "G": G, "stamps": stamps}
    say |= {name: _listed(v) for name, v in {"x": x, "w": w, "b": b, "dy": dy}.items()}
    return say, {"y": y[..., 0], "dx": dx[..., 0], "dw": dw, "db": db, "windows": windows}


def _pool(rng, forward, backward):
    (H, W, K, S, P, ceil), say = _picture(rng)
    C = int(rng.integers(1, 4))
    x = _numbers(rng, C, H, W, 1)
    y, cache = forward(x, K, S, P, ceil)
    dy = _numbers(rng, *y.shape)
    stamps, sent = _stamped(rng, dy)
    say |= {"C": C, "x": _listed(x), "dy": _listed(dy), "stamps": stamps}
    windows = _windows(lambda x: ops.avg_pool_forward(x, K, S, P, ceil), ops.avg_pool_backward, H, W)
    return say, {"y": y[..., 0], "dx": backward(sent, cache)[..., 0], "windows": windows}, cache


def _max(rng):
    say, arrays, cache = _pool(rng, ops.max_pool_forward, ops.max_pool_backward)
    won = ops.max_pool_backward(np.ones((*arrays["y"].shape, 1)), cache)
    return say, {**arrays, "won": won[..., 0]}


def _avg(rng):
    return _pool(rng, ops.avg_pool_forward, ops.avg_pool_backward)[:2]


def _lrn(rng):
    G = int(rng.integers(1, 3))
    C, n = G * int(rng.integers(1, 6)), int(rng.integers(1, 9))
    k, alpha, beta = (round(float(v), 3) for v in rng.uniform((0.5, 0, 0.1), (3, 1, 1.5)))
    over = bool(rng.integers(2))
    x = _numbers(rng, C, 1, 1, 1)
    constants = {"n": n, "k": k, "alpha": alpha, "beta": beta, "alpha_over_n": over, "groups": G}
    y, cache = ops.lrn_forward(x, **constants)
    dy = _numbers(rng, *y.shape)
    stamps, sent = _stamped(rng, dy)
    say = {"C": C, "G": G, "n": n, "k": k, "alpha": alpha, "beta": beta, "over": "n" if over else "one"}
    say |= {"x": _listed(x), "dy": _listed(dy), "stamps": stamps}
    arrays = {"y": y, "s": cache.s, "dx": ops.lrn_backward(sent, cache)}
    return say, {name: np.ravel(v) for name, v in arrays.items()}


def _dropout(rng):
    C, keep = int(rng.integers(1, 25)), round(float(rng.uniform(0.05, 1)), 3)
    train, inverted = rng.integers(2, size=2).astype(bool)
    x, mask = _numbers(rng, C), rng.random(C) < keep
    y, cache = ops.dropout_forward(x, mask if train else None, keep, train, inverted)
    dy = _numbers(rng, C)
    stamps, sent = _stamped(rng, dy)
    say = {"C": C, "keep": keep, "mode": "train" if train else "test"}
    say |= {"scaling": "inverted" if inverted else "2012", "stamps": stamps}
    say |= {"x": _listed(x), "dy": _listed(dy), "mask": _listed(mask)}
    return say, {"y": y, "dx": ops.dropout_backward(sent, cache)}


def _towers(rng):
    C, F = (int(v) for v in rng.integers(1, 7, 2))
    read = ("stay", "meet")[rng.integers(2)]
    x, w = _numbers(rng, 2 * C), _numbers(rng, 2 * F, 2 * C if read == "meet" else C)
    dy = _numbers(rng, 2 * F)
    stamps, sent = _stamped(rng, dy)
    say = {"C": C, "F": F, "read": read, "stamps": stamps}
    return say | {name: _listed(v) for name, v in {"x": x, "w": w, "dy": dy}.items()}, (x, w, sent)


def _tower(comm, say, arrays):
    """One rank of two towers: y, dx, dw of its own, and what its kernels say about all units."""
    own, w, dy = (np.split(v, 2)[comm.rank] for v in arrays)
    meet = say["read"] == "meet"
    x = comm.all_gather(own[:, None]) if meet else own[:, None]
    y, cache = ops.linear_forward(x, w, np.zeros(len(w)))
    dx, dw, _ = ops.linear_backward(dy[:, None], cache)
    word = dx if meet else np.concatenate([dx * (comm.rank == r) for r in range(2)])
    return y[:, 0], (comm.reduce_scatter(dx) if meet else dx)[:, 0], dw, word[:, 0]


# What the page shows, array by array in reading order, without the padding around it; and the number of cells
# whose text is not their number, rounded.
ASK = """
const rounded = td => {
    const shown = Number(td.textContent.replaceAll('−', '-')), v = Number(td.dataset.v);
    return !Number.isFinite(v) || Math.abs(shown - v) <= Math.min(0.00501, 0.0501 * Math.abs(v));
};
return arguments[0].map(([hash, shapes]) => {
    touch.show(hash);
    if (document.getElementById('trouble').textContent) return document.getElementById('trouble').textContent;
    const numbers = touch.read();
    const wrong = [...document.querySelectorAll('#work td[data-a]')].filter(td => !rounded(td)).length;
    const read = ([name, shape]) => {
        let places = [[]];
        for (const length of shape)
            places = places.flatMap(place => Array.from({length}, (_, i) => [...place, i]));
        return places.map(place => numbers[name][place]);
    };
    return [shapes.map(read), wrong];
});
"""


def compare(browser, count, seed):
    """Return the largest difference, relative to the numbers where they are above 1, of so many settings."""
    worst, made = 0.0, list(settings(np.random.default_rng(seed), count))
    for start in range(0, count, 250):
        batch = made[start : start + 250]
        asked = [
            [urlencode(say, safe=","), [[name, v.shape] for name, v in arrays.items()]]
            for say, arrays in batch
        ]
        answers = browser.execute_script(ASK, asked)
        for (say, arrays), answer in zip(batch, answers, strict=True):
            assert not isinstance(answer, str), f"{say}: {answer}"
            numbers, wrong_texts = answer
            assert not wrong_texts, say
            for (name, expected), found in zip(arrays.items(), numbers, strict=True):
                expected = expected.ravel()
                gap = np.abs(np.array(found, float) - expected) / np.maximum(1, np.abs(expected))
                assert gap.max() <= 1e-6, f"{name}: {say}"
                worst = max(worst, gap.max())
    return worst


def test_every_number_is_that_of_the_library(opened):
    assert compare(opened, 500, seed=17) < 1e-9


@pytest.mark.slow
def test_twenty_thousand_settings(opened, capsys):
    worst = max(compare(opened, 1000, seed) for seed in range(20))
    with capsys.disabled():
        print(f"\n20,000 settings: the largest difference is {worst:.1e}")


def test_an_address_brings_back_what_was_seen(opened):
    made = list(settings(np.random.default_rng(5), 60))
    same = """
    return arguments[0].filter(hash => {
        touch.show(hash);
        const before = JSON.stringify(touch.read()), address = touch.address();
        touch.show('');
        touch.show(address);
        return JSON.stringify(touch.read()) != before;
    })"""
    assert opened.execute_script(same, [urlencode(say, safe=",") for say, _ in made]) == []


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"op": "matmul"}, "op: expected one of conv, max, avg, lrn, dropout, towers, alexnet, found matmul"),
        ({"K": "two"}, "window: expected a whole number from 1 to 11, found two"),
        ({"H": 25}, "height: expected a whole number from 1 to 24, found 25"),
        ({"K": 9}, "a window of 9 is larger than the map: 6, with 0 + 0 of padding"),
        ({"C": 3, "F": 2, "G": 2}, "3 channels cannot be cut into 2 equal groups"),
        ({"op": "max", "P": 3}, "padding of 3 has to be smaller than the window of 3"),
        ({"round": "nearest"}, "sizes are rounded: expected floor or ceil, found nearest"),
        ({"x": "1,2,3"}, "x: expected 36 numbers, found 1,2,3"),
        ({"b": "one"}, "b: expected 1 numbers, found one"),
        ({"op": "alexnet", "layer": "conv9"}, "layer: expected conv1 or conv2"),
        ({"op": "alexnet", "i": 55}, "row i: expected a whole number from 0 to 54, found 55"),
    ],
    ids=str,
)
def test_a_bad_address_is_told_so_and_something_is_shown(setting, words, opened):
    show(opened, **setting)
    assert words in opened.find_element("id", "trouble").text
    assert opened.find_element("id", "work").text


def _links():
    """(lesson, the address that it links to), of all lessons."""
    for path in sorted((Path(__file__).parents[1] / "lessons").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for source in ("".join(cell["source"]) for cell in cells):
            for link in re.findall(r"\]\(\s*touch/index\.html#([^\s)]*)\s*\)", source):
                yield path.name[:2], link


def test_the_lessons_links_show_what_they_promise(opened):
    dx = {}
    for lesson, link in _links():
        opened.execute_script("touch.show(arguments[0])", link)
        assert opened.find_element("id", "trouble").text == "", link
        if "alexnet" not in link:
            opened.find_element("id", "all").click()
            dx[lesson] = shown(opened, "dx")
    assert list(dx) == ["04", "05", "07", "08", "09", "12"]
    assert list(dx["12"].values())[:2] == [4, 1]  # the lesson's numbers


# ---- AlexNet ----


def test_alexnet_is_the_library_s(opened):
    table = opened.execute_script("return touch.ALEXNET")
    layers = [place for place in alexnet().plan() if isinstance(place.layer, Conv2d | Linear)]
    assert [place.layer.name for place in layers] == list(table)
    rng = np.random.default_rng(2)
    for place, (name, o) in zip(layers, table.items(), strict=True):
        layer = place.layer
        x, y = (tuple(shape) + (1,) * (3 - len(shape)) for shape in (place.x, place.y))
        if name == "fc6":
            x = (o["C"], o["H"], o["W"])
            assert np.prod(x) == np.prod(place.x)
        w = layer.sizes(place.x)["w"]
        G = getattr(layer, "groups", 1)
        w = (*w[:1], o["C"] // G, o["K"], o["K"])
        assert np.prod(w) == np.prod(layer.sizes(place.x)["w"])
        pads, stride = getattr(layer, "pad", 0), getattr(layer, "stride", 1)
        for _ in range(3):
            at, where = rng.integers(y), rng.integers(w[1:])
            found = opened.execute_script(
                "return touch.multiplication(touch.ALEXNET[arguments[0]], arguments[1], arguments[2])",
                name, at.tolist(), where.tolist(),
            )  # fmt: skip
            f, i, j = at
            group = slice(f // (w[0] // G) * w[1], (f // (w[0] // G) + 1) * w[1])
            number = 1 + np.arange(np.prod(x), dtype=np.int32).reshape(*x, 1)[group]  # of each x; 0: padding
            cols = ops.im2col(number, *w[2:], stride, pads)
            k = np.ravel_multi_index(where, w[1:])
            read = cols[k].reshape(y[1:])[i, j]
            assert found["padding"] == (read == 0)
            if read:
                assert np.ravel_multi_index(found["x"], x) == read - 1
                assert found["windowsOfX"] == (cols == read).sum()
            assert found["w"] == [f, *where]
            assert (found["number"], found["perOutput"]) == (k, len(cols))
            assert found["perLayer"] == np.prod(y) * len(cols)
            assert found["numberInLayer"] == np.ravel_multi_index(at, y) * len(cols) + k
            assert found["windowsOfW"] == np.count_nonzero(cols[k])
            assert found["filtersOfX"] == w[0] // G


def test_alexnet_opens_down_to_one_multiplication(opened):
    show(opened, op="alexnet", layer="conv2", f=3, i=10, j=4, c=24, p=2, q=2)
    text = opened.find_element("id", "work").text
    assert "y[3, 10, 4] = b[3] + … + w[3, 24, 2, 2] · x[24, 10, 4] + …" in text
    assert "1,200 products are summed for this output; this is number 613" in text
    assert "223,948,800" in text
    show(opened, op="alexnet", layer="conv1", i=54, p=10)
    assert "That place is padding" in opened.find_element("id", "work").text
    opened.find_element("link text", "Touch this window, stride and padding in small").click()
    assert "op=conv&C=1&F=1&H=16&W=16&K=11&S=4&P=0&G=1&round=ceil" in opened.current_url


# ---- pointing, stamping, editing ----


def test_a_picture_of_one_s_own(opened, tmp_path):
    from PIL import Image

    pixels = np.zeros((60, 90), np.uint8)
    pixels[:, 45:] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    (tmp_path / "notes.png").write_text("no picture")
    opened.find_element("id", "file").send_keys(str(tmp_path / "half.png"))
    _until(opened, "return Object.keys(touch.read().x).length == 144")
    x = shown(opened, "x")
    assert (x["0,5,0"], x["0,5,4"], x["0,5,7"], x["0,5,11"]) == (0, 0, 9, 9)
    opened.find_element("id", "file").send_keys(str(tmp_path / "notes.png"))
    _until(opened, "return document.getElementById('trouble').textContent != ''")
    assert "notes.png: expected a picture" in opened.find_element("id", "trouble").text
    assert len(shown(opened, "x")) == 144


def _until(browser, script):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 10).until(lambda b: b.execute_script(script))


def test_the_famous_bug_is_marked(opened):
    show(opened, op="conv", H=1, W=4, K=1, stamps="0")  # windows that do not overlap: nobody notices
    opened.execute_script("touch.show(touch.address() + '&rule=set')")
    wrong = "return [...document.querySelectorAll('td.wrong')].map(td => td.dataset.i)"
    assert opened.execute_script(wrong) == []
    show(opened, op="max", H=1, W=5, K=1, S=1, stamps="all", rule="set")
    assert opened.execute_script(wrong) == []
    overlap = {"H": 3, "W": 5, "K": 3, "S": 2, "w": ",".join("1" * 9), "dy": "2,3", "stamps": "all"}
    show(opened, op="conv", **overlap)
    assert shown(opened, "dx")["0,0,2"] == 5
    show(opened, op="conv", **overlap, rule="set")
    assert shown(opened, "dx")["0,0,2"] == 3
    assert opened.execute_script(wrong) == ["0,0,2", "0,1,2", "0,2,2"]


def test_by_keyboard_alone(opened):
    from selenium.webdriver import ActionChains, Keys

    def press(*keys):
        ActionChains(opened).send_keys(*keys).perform()

    def here():
        return opened.execute_script(
            "const e = document.activeElement; "
            "return [e.dataset.a ?? (e.id || e.localName), e.dataset.i ?? '']"
        )

    def tab_to(name):
        for _ in range(60):
            if here()[0] == name:
                return
            press(Keys.TAB)
        raise AssertionError(f"Tab does not reach {name}")

    if not opened.execute_script("return document.getElementById('settings').open"):
        tab_to("summary")
        press(Keys.ENTER)
    tab_to("knob-S")
    press(Keys.ARROW_UP)  # the stride: 2
    tab_to("x")
    assert here() == ["x", "0,0,0"]
    press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert here() == ["x", "0,1,1"]
    press("-", "7", Keys.ENTER)
    assert here() == ["x", "0,1,1"]
    assert shown(opened, "x")["0,1,1"] == -7
    tab_to("dy")
    press(Keys.END)
    assert here() == ["dy", "0,0,1"]
    assert "dy[0, 0, 1]" in opened.find_element("id", "say").text
    press(Keys.HOME, Keys.ARROW_DOWN, Keys.ENTER)  # stamps the third of four outputs
    assert here() == ["dy", "0,1,0"]
    x, w, b, dy = (shown(opened, name) for name in ("x", "w", "b", "dy"))
    x, w, b, dy = (np.array(list(v.values()), float) for v in (x, w, b, dy))
    y, cache = ops.conv2d_forward(x.reshape(1, 6, 6, 1), w.reshape(1, 1, 3, 3), b, 2)
    assert list(shown(opened, "y").values()) == y.ravel().tolist()
    dx, _, _ = ops.conv2d_backward((dy * [1, 1, 1, 0]).reshape(y.shape), cache)
    assert list(shown(opened, "dx").values()) == dx.ravel().tolist()
    tab_to("dx")
    assert f"dx[0, 0, 0] = {dx[0, 0, 0, 0]:g}".replace("-", "−") in opened.find_element("id", "say").text


def test_pointing_frames_the_window_and_spells_the_sum(opened):
    arrays = {"x": "1,2,3,4,5,6,7,8,9", "w": "1,0,-1,2", "b": 10, "dy": "1,1,1,1"}
    show(opened, op="conv", H=3, W=3, K=2, stamps="0", **arrays)
    framed = "return [...document.querySelectorAll('td.win[data-a=x]')].map(td => td.dataset.i)"
    hover = """document.querySelector(`td[data-a="${arguments[0]}"][data-i="${arguments[1]}"]`)
        .dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))"""
    opened.execute_script(hover, "y", "0,1,1")
    assert opened.execute_script(framed) == ["0,1,1", "0,1,2", "0,2,1", "0,2,2"]
    text = opened.find_element("id", "say").text
    assert "y[0, 1, 1] = 25 = b + Σ w·x" in text
    assert "10 + 1·5 + 0·6" in text
    assert "(−1)·8 + 2·9" in text
    opened.execute_script(hover, "dx", "0,1,1")
    text = opened.find_element("id", "say").text
    assert "dx[0, 1, 1] = 2 = 1·2" in text
    assert "4 outputs read this number; 3 of them are not stamped yet" in text


# ---- size, speed, looks ----


def test_size_and_first_paint(page, opened):
    assert page.stat().st_size <= 300_000
    assert "http" not in page.read_text(encoding="utf-8")  # nothing is fetched
    _until(opened, "return performance.getEntriesByName('first-contentful-paint').length")
    painted = "return performance.getEntriesByName('first-contentful-paint')[0].startTime"
    assert opened.execute_script(painted) <= 1000


LOOKS = [
    {"op": "conv", "C": 2, "F": 2, "H": 24, "W": 24, "P": 1, "S": 3},
    *({"op": name} for name in OPERATIONS),
    {"op": "alexnet", "layer": "conv2"},
]


def test_nothing_is_wider_than_the_screen(opened):
    for width in (390, 820, 1280):
        look(opened, width)
        for setting in LOOKS:
            show(opened, **setting)
            found = opened.execute_script("return document.documentElement.scrollWidth")
            assert found == width, (setting, found)


def test_axe_core_finds_nothing(opened):
    if "AXE_CORE" not in os.environ:
        pytest.skip("AXE_CORE does not name axe.min.js: npm install axe-core")
    opened.execute_script("eval.call(window, arguments[0])", Path(os.environ["AXE_CORE"]).read_text("utf-8"))
    run = """
    const done = arguments[0];
    axe.run().then(r => done([r.passes.length, r.violations.map(v => [v.id, v.nodes[0].html])]))"""
    for scheme in ("light", "dark"):
        look(opened, 390, scheme)
        for setting in LOOKS[1:]:
            show(opened, **setting)
            passed, violations = opened.execute_async_script(run)
            assert not violations, (setting, scheme, json.dumps(violations))
            assert passed > 20
