/* Backward that one can touch: the page.  What is seen is one object, `state`; every change makes a new one,
   puts it into the address, and paints the page from it.  The mathematics is in maths.js. */

import { ALEXNET, at, avg, build, conv, dropout, indices, inside, lrn, max, multiplication } from "./maths.js";
import { owners, pads, real, stamped, towers, weightGradients } from "./maths.js";

/* ---- the operations, their knobs, and the words about them ---- */

const whole = (key, label, low, high) => ({ key, label, low, high, step: 1 });
const decimal = (key, label, low, high) => ({ key, label, low, high, step: "any" });
const choice = (key, label, options) => ({ key, label, options });

const PICTURE = [whole("C", "channels", 1, 4), whole("H", "height", 1, 24), whole("W", "width", 1, 24)];
const WINDOW = [whole("K", "window", 1, 11), whole("S", "stride", 1, 11), whole("P", "padding", 0, 5)];
const ROUND = choice("round", "sizes are rounded", { floor: "down (floor)", ceil: "up (ceil)" });
const TOWERS = whole("G", "groups", 1, 4);
const POOLED = { C: 1, H: 5, W: 7, K: 3, S: 2, P: 0, round: "ceil" };

const OPERATIONS = {
  conv: {
    title: "Convolution", op: conv,
    knobs: [...PICTURE, whole("F", "filters", 1, 4), ...WINDOW, TOWERS, ROUND],
    start: { C: 1, H: 6, W: 6, F: 1, K: 3, S: 1, P: 0, G: 1, round: "floor" },
    lead: "Each output is a weighted sum of its window.  Backward, each dy stamps the kernel, times itself, where its window was.",
    slope: "w", outside: 0,
  },
  max: {
    title: "Max pooling", op: max, knobs: [...PICTURE, ...WINDOW, ROUND], start: POOLED,
    lead: "The largest pixel of each window wins.  Backward, the winner gets the whole dy of its window; one pixel can win several.",
    slope: "1 where the pixel wins", outside: -Infinity,
  },
  avg: {
    title: "Average pooling", op: avg, knobs: [...PICTURE, ...WINDOW, ROUND], start: POOLED,
    lead: "Each output is the mean of the real pixels of its window.  Backward, each of them gets an equal share of dy.",
    slope: "1 / number of real pixels", outside: NaN,
  },
  lrn: {
    title: "LRN", op: lrn,
    knobs: [
      whole("C", "maps", 1, 16), whole("n", "window n", 1, 16), decimal("k", "k", 0.001, 100),
      decimal("alpha", "α", 0, 100), decimal("beta", "β", 0, 10), TOWERS,
      choice("over", "in the sum", { one: "α (paper)", n: "α/n (2012 code)" }),
    ],
    start: { C: 7, n: 3, k: 2, alpha: 1, beta: 0.75, G: 1, over: "one" },
    lead: "At one pixel, each map is divided by how loud the maps around it are: y = x / s^β, s = k + α Σ x².  Backward, dy reaches the maps of its window in two ways: through the numerator, and through the sum.",
    slope: "∂y/∂x",
  },
  dropout: {
    title: "Dropout", op: dropout,
    knobs: [
      whole("C", "units", 1, 24), decimal("keep", "keep", 0.01, 1),
      choice("mode", "mode", { train: "training", test: "test" }),
      choice("scaling", "scaling", { 2012: "2012", inverted: "inverted" }),
    ],
    start: { C: 8, keep: 0.5, mode: "train", scaling: "2012" },
    lead: "In training a mask silences units.  Backward, the same mask, and the same factor, silence their gradients.",
    slope: "mask · scale",
  },
  towers: {
    title: "Two towers", op: towers,
    knobs: [
      whole("C", "units of a tower", 1, 6), whole("F", "kernels of a tower", 1, 6),
      choice("read", "kernels", { meet: "meet: read all units", stay: "stay in their tower" }),
    ],
    start: { C: 2, F: 3, read: "meet" },
    lead: "Two devices, each with its own units and kernels.  Where they meet, each is sent the other's units (all-gather); backward, each is sent what the other's kernels say about its units, and adds (reduce-scatter).",
    slope: "w",
  },
};
const ALEXNET_TITLE = "AlexNet";

const DRAW = {
  x: u => Math.floor(10 * u),
  w: u => Math.floor(5 * u) - 2,
  b: u => Math.floor(3 * u) - 1,
  dy: u => [-3, -2, -1, 1, 2, 3][Math.floor(6 * u)],
  mask: (u, o) => (u < o.keep ? 1 : 0),
};

/** A number in [0, 1) that depends on the seed, the array and the place alone, so that a resized array keeps its own. */
function drawn(seed, name, index) {
  let hash = 2166136261;
  for (const sign of `${seed} ${name} ${index}`) hash = Math.imul(hash ^ sign.charCodeAt(0), 16777619);
  hash = Math.imul(hash ^ (hash >>> 15), 2246822519);
  hash = Math.imul(hash ^ (hash >>> 13), 3266489917);
  return ((hash ^ (hash >>> 16)) >>> 0) / 2 ** 32;
}

/* ---- the state, and its address ---- */

let state; // { name, o, seed, a: arrays that can be edited, outputs: those of dy that are stamped, rule }

/** The arrays that are given; kept: of an earlier state, whose numbers stay where their place still exists. */
function given(name, o, seed, kept = {}) {
  const { y, ...shapes } = OPERATIONS[name].op.shapes(o);
  const arrays = {};
  for (const [array, shape] of Object.entries({ ...shapes, dy: y }))
    arrays[array] = build(shape, index => at(kept[array], index) ?? DRAW[array](drawn(seed, array, index), o));
  return arrays;
}

const shapesOf = s => {
  const { y, ...shapes } = OPERATIONS[s.name].op.shapes(s.o);
  return { ...shapes, y, dy: y };
};
const first = outputs => outputs.slice(0, 2);

function address(s) {
  const parts = [`op=${s.name}`];
  const start = s.name === "alexnet" ? ALEXNET_START : OPERATIONS[s.name].start;
  for (const [key, value] of Object.entries(s.o)) if (value !== start[key]) parts.push(`${key}=${value}`);
  if (s.name === "alexnet") return `#${parts.join("&")}`;
  if (s.seed !== 1) parts.push(`seed=${s.seed}`);
  if (s.rule === "set") parts.push("rule=set");
  const fresh = given(s.name, s.o, s.seed);
  for (const [array, values] of Object.entries(s.a))
    if (String(values) !== String(fresh[array])) parts.push(`${array}=${values}`);
  const all = indices(shapesOf(s).y);
  const stamps = s.outputs.map(index => all.findIndex(i => String(i) === String(index)));
  if (String(stamps) !== String(first(all.map((_, i) => i)))) parts.push(`stamps=${stamps}`);
  return `#${parts.join("&")}`;
}

/** Read an address; return [state, what was wrong with it]. */
function parse(hash) {
  const asked = new URLSearchParams(hash.replace(/^#/, ""));
  const troubles = [];
  let name = asked.get("op") ?? "conv";
  if (name === "alexnet") return [{ name, o: parseAlexNet(asked, troubles) }, troubles];
  if (!(name in OPERATIONS)) {
    troubles.push(`op: expected one of ${Object.keys(OPERATIONS).join(", ")}, alexnet, found ${name}`);
    name = "conv";
  }
  const { knobs, start, op } = OPERATIONS[name];
  let o = { ...start };
  for (const knob of knobs)
    if (asked.has(knob.key)) take(() => (o[knob.key] = checked(knob, asked.get(knob.key))), troubles);
  const seed = Number.parseInt(asked.get("seed") ?? "1", 10) || 1;
  if (take(() => op.shapes(o), troubles) === undefined) o = { ...start };
  const a = given(name, o, seed);
  const shapes = shapesOf({ name, o });
  for (const array of Object.keys(a)) {
    if (!asked.has(array)) continue;
    const numbers = asked.get(array).split(",").map(toNumber);
    const size = shapes[array].reduce((product, length) => product * length, 1);
    if (numbers.length !== size || !numbers.every(Number.isFinite))
      troubles.push(`${array}: expected ${size} numbers, found ${asked.get(array).slice(0, 30)}`);
    else a[array] = build(shapes[array], () => numbers.shift());
  }
  const all = indices(shapes.y);
  let outputs = first(all);
  if (asked.get("stamps") === "all") outputs = all;
  else if (asked.has("stamps"))
    outputs = asked.get("stamps").split(",").map(i => all[i]).filter((index, i, list) => index && list.indexOf(index) === i);
  return [{ name, o, seed, a, outputs, rule: asked.get("rule") === "set" ? "set" : "add" }, troubles];
}

function take(action, troubles) {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    troubles.push(error.message);
  }
}

const toNumber = text => (String(text).trim() === "" ? NaN : Number(String(text).replace(",", ".").replace("−", "-")));

function checked({ key, label, low, high, step, options }, text) {
  if (options) {
    if (text in options) return text;
    throw new RangeError(`${label}: expected ${Object.keys(options).join(" or ")}, found ${text}`);
  }
  const number = toNumber(text);
  if (number >= low && number <= high && (step !== 1 || Number.isInteger(number))) return number;
  throw new RangeError(
    `${label ?? key}: expected a ${step === 1 ? "whole number" : "number"} from ${low} to ${high}, found ${text || "nothing"}`,
  );
}

/** Show another state; a RangeError leaves the old one and says why. */
function change(next) {
  const troubles = [];
  take(() => {
    if (next.name !== "alexnet") OPERATIONS[next.name].op.shapes(next.o);
    state = next;
    history.replaceState(null, "", address(state));
  }, troubles);
  paint(troubles);
}

function turn(key, text) {
  const troubles = [];
  const knobs = state.name === "alexnet" ? alexNetKnobs(state.o) : OPERATIONS[state.name].knobs;
  take(() => {
    const o = { ...state.o, [key]: checked(knobs.find(knob => knob.key === key), text) };
    if (state.name === "alexnet") return change({ name: "alexnet", o: withinLayer(o) });
    const kept = key === "keep" ? { ...state.a, mask: undefined } : state.a;
    const a = given(state.name, o, state.seed, kept);
    const y = shapesOf({ name: state.name, o }).y;
    const outputs = state.outputs.filter(index => inside(y, index));
    change({ ...state, o, a, outputs: outputs.length ? outputs : first(indices(y)) });
  }, troubles);
  if (troubles.length) paint(troubles);
}

/* ---- all numbers of a state ---- */

function compute({ name, o, a, outputs, rule }) {
  const { op } = OPERATIONS[name];
  const shapes = op.shapes(o);
  const arrays = { ...a, ...op.forward(o, a) };
  const all = { op, o, shapes, arrays, own: owners(op, o) };
  all.dx = stamped(op, o, arrays, a.dy, outputs, rule);
  all.right = rule === "set" ? stamped(op, o, arrays, a.dy, outputs) : all.dx;
  if (shapes.w) Object.assign(arrays, weightGradients(op, o, arrays, a.dy, outputs));
  if (op === max) all.wins = stamped(op, o, arrays, build(shapes.y, () => 1), indices(shapes.y));
  if (op === towers)
    all.words = [0, 1].map(r => stamped(op, o, arrays, a.dy, outputs.filter(([f]) => op.tower(o.F, f) === r)));
  return all;
}

/* ---- numbers as text ---- */

function text(value) {
  if (Number.isNaN(value)) return "·";
  if (!Number.isFinite(value)) return value < 0 ? "−∞" : "∞";
  const rounded = Number.isInteger(value) ? value : Math.abs(value) < 0.1 ? value.toPrecision(2) : value.toFixed(2);
  return String(Number(rounded)).replaceAll("-", "−");
}
const factor = value => (value < 0 ? `(${text(value)})` : text(value));
const named = (array, index) => `${array}[${index.map(text).join(",\u00a0")}]`;
const escaped = string => String(string).replace(/[&<>"]/g, sign => `&#${sign.charCodeAt(0)};`);

/* ---- painting: arrays as tables of numbers ---- */

const byId = id => document.getElementById(id);
let numbers; // what `compute` returned for the state on the page

/** One table.  index(row, column) is that of the array's element, or null where there is none. */
function grid({ array, caption, rows, cols, index, value, can = false, limit, edge = {}, from = [0, 0], outside }) {
  let html = `<div class="grid"><table role="grid"><caption>${escaped(caption)}</caption><tbody>`;
  let first = true;
  for (let r = from[0]; r < from[0] + rows; r++) {
    html += edge.row === r ? '<tr class="edge">' : "<tr>";
    for (let c = from[1]; c < from[1] + cols; c++) {
      const place = index(r, c);
      if (!place) {
        html += '<td class="none"></td>';
        continue;
      }
      const pad = outside?.(place);
      const v = value(place);
      const share = Math.min(1, Math.abs(v) / limit) || 0;
      const classes = [pad && "pad", can && !pad && "can", edge.column === c && "edge", classOf(array, place)];
      const shade = share > 0.01 ? ` style="--shade:var(--${v > 0 ? "pos" : "neg"});--a:${share.toFixed(2)}"` : "";
      const chosen = array === "dy" ? ` aria-selected="${isStamped(place)}"` : "";
      html += `<td class="${classes.filter(Boolean).join(" ")}" data-a="${array}" data-i="${place}" data-v="${v}" tabindex="${first ? 0 : -1}"${chosen}${shade}>${text(v)}</td>`;
      first = false;
    }
    html += "</tr>";
  }
  return `${html}</tbody></table></div>`;
}

const isStamped = index => state.outputs.some(other => String(other) === String(index));

function classOf(array, place) {
  if (array === "dy") return isStamped(place) && "on";
  if (array !== "dx") return false;
  const key = place.join();
  return Math.abs((numbers.dx.get(key) ?? 0) - (numbers.right.get(key) ?? 0)) > 1e-12 && "wrong";
}

const largest = values => Math.max(1e-9, ...[...values].flat(Infinity).filter(Number.isFinite).map(Math.abs));

/** The maps of a (C,H,W) array, each a table; with the places around it that windows reach. */
function maps(array, shape, value, captions, options = {}) {
  const [C, H, W] = shape;
  let [top, left, bottom, right] = [0, 0, H - 1, W - 1];
  if (options.outside)
    for (const key of numbers.own.keys()) {
      const [, u, v] = key.split(",").map(Number);
      [top, left] = [Math.min(top, u), Math.min(left, v)];
      [bottom, right] = [Math.max(bottom, u), Math.max(right, v)];
    }
  return Array.from({ length: C }, (_, c) =>
    grid({
      array, caption: captions(c), rows: bottom - top + 1, cols: right - left + 1, from: [top, left],
      index: (u, v) => [c, u, v], value, ...options,
    }),
  ).join("");
}

const section = (title, ...tables) => `<h2>${title}</h2><div class="row">${tables.join("")}</div>`;
const backward = (...tables) => `<h2>Backward: click the numbers of dy</h2>${tools()}<div class="row">${tables.join("")}</div>`;

function tools() {
  const [add, set] = ["add", "set"].map(rule => `value="${rule}"${state.rule === rule ? " selected" : ""}`);
  return `<div class="tools"><button type="button" id="next">stamp the next</button>
    <button type="button" id="all">stamp all</button><button type="button" id="none">take all back</button>
    <label>a stamp is put in by<select id="rule"><option ${add}>dx += (right)</option><option ${set}>dx = (the famous bug)</option></select></label></div>`;
}

function paintPictures() {
  const { arrays, shapes, own, dx, wins, op, o } = numbers;
  const { outside: filler } = OPERATIONS[state.name];
  const outside = place => !inside(shapes.x, place);
  const several = shapes.x[0] > 1 ? c => `, channel ${c}` : () => "";
  const severalY = shapes.y[0] > 1 ? f => `, ${op === conv ? "filter" : "channel"} ${f}` : () => "";
  const read = array => index => at(arrays[array], index);
  const x = maps("x", shapes.x, index => at(arrays.x, index) ?? filler, c => `x${several(c)}`, {
    can: true, limit: 1.3 * largest(arrays.x), outside,
  });
  const y = maps("y", shapes.y, read("y"), f => `y${severalY(f)}`, { limit: 1.3 * largest(arrays.y) });
  const dy = maps("dy", shapes.y, read("dy"), f => `dy${severalY(f)}`, { can: true, limit: 1.3 * largest(arrays.dy) });
  const sums = maps("dx", shapes.x, index => dx.get(index.join()) ?? 0, c => `dx${several(c)}`, {
    limit: 1.3 * largest(dx.values()), outside,
  });
  const perWindow = op === conv ? o.F / o.G : 1;
  const times = index => (own.get(index.join())?.length ?? 0) / perWindow;
  const count = maps("windows", [1, ...shapes.x.slice(1)], times, () => "windows that own each pixel", { limit: 20 });
  const won = wins ? maps("won", shapes.x, index => wins.get(index.join()) ?? 0, c => `windows won${several(c)}`, { limit: 8 }) : "";
  const weights = kind => (op === conv ? kernels(kind) + biases(kind) : "");
  return section("Forward", x, weights(""), y) + backward(dy, sums, weights("d"), count, won);
}

function kernels(kind) {
  const { arrays, shapes, o } = numbers;
  const values = arrays[`${kind}w`];
  return indices(shapes.w.slice(0, 2)).map(([f, c]) =>
    grid({
      array: `${kind}w`, caption: `${kind}w[${f}, ${c}]`, rows: o.K, cols: o.K, can: !kind, limit: 1.3 * largest(values),
      index: (p, q) => [f, c, p, q], value: index => at(values, index),
    }),
  ).join("");
}

function biases(kind) {
  const values = numbers.arrays[`${kind}b`];
  return grid({
    array: `${kind}b`, caption: `${kind}b`, rows: values.length, cols: 1, can: !kind, limit: 1.3 * largest(values),
    index: f => [f], value: index => at(values, index),
  });
}

/** A vector as a row; groups are kept apart by a double line. */
function row(array, values, caption, can = false) {
  const size = numbers.shapes.x[0] / (state.o.G ?? 1);
  return grid({
    array, caption, rows: 1, cols: values.length, can, limit: 1.3 * largest(values),
    edge: { column: size < values.length ? size : -1 }, index: (_, i) => [i], value: ([i]) => values[i],
  });
}

const vector = (sums, length) => Array.from({ length }, (_, i) => sums.get(String(i)) ?? 0);

function paintLrn() {
  const { arrays, shapes, dx, own, o } = numbers;
  const C = shapes.x[0];
  const slopes = arrays.x.map((_, j) => new Map(lrn.stamp(o, arrays, [j]).map(t => [t.at[0], t.slope])));
  const matrix = grid({
    array: "slopes", caption: "∂y/∂x: row j is y[j], column i is x[i]", rows: C, cols: C, limit: 1.3 * largest(slopes.map(m => [...m.values()])),
    index: (j, i) => slopes[j].has(i) && [j, i], value: ([j, i]) => slopes[j].get(i),
  });
  const windows = arrays.x.map((_, i) => own.get(String(i)).length);
  return (
    section("Forward", row("x", arrays.x, "x, one number of each map", true), row("s", arrays.s, "s"), row("y", arrays.y, "y")) +
    backward(row("dy", arrays.dy, "dy", true), row("dx", vector(dx, C), "dx"), row("windows", windows, "windows that own each map"), matrix)
  );
}

function paintDropout() {
  const { arrays, shapes, dx } = numbers;
  return (
    section("Forward", row("x", arrays.x, "x", true), row("mask", arrays.mask, "mask: click to change it", true), row("y", arrays.y, "y")) +
    backward(row("dy", arrays.dy, "dy", true), row("dx", vector(dx, shapes.x[0]), "dx"))
  );
}

function paintTowers() {
  const { arrays, shapes, dx, words, o } = numbers;
  const column = (array, values, caption, can, border) =>
    grid({
      array, caption, rows: values.length, cols: 1, can, limit: 1.3 * largest(values), edge: { row: border },
      index: i => [i], value: ([i]) => values[i],
    });
  const matrix = (array, values, caption, can) =>
    grid({
      array, caption, rows: 2 * o.F, cols: 2 * o.C, can, limit: 1.3 * largest(values), edge: { row: o.F, column: o.C },
      index: (f, d) => {
        const own = o.read === "meet" ? d : d - towers.tower(o.F, f) * o.C;
        return own >= 0 && own < shapes.w[1] && [f, own];
      },
      value: index => at(values, index),
    });
  const said = words.map((word, r) => column(`word${r}`, vector(word, shapes.x[0]), `g${r}`, false, o.C));
  const crossing = o.read === "meet" ? o.C : 0;
  return (
    section("Forward", column("x", arrays.x, "x", true, o.C), matrix("w", arrays.w, "w", true), column("y", arrays.y, "y", false, o.F)) +
    backward(column("dy", arrays.dy, "dy", true, o.F), ...said, column("dx", vector(dx, shapes.x[0]), "dx", false, o.C), matrix("dw", arrays.dw, "dw")) +
    `<p>Above the double line is device 0, below it device 1; g0 and g1 are what the kernels of each say about all units, and dx their sum.  Each device receives ${crossing} numbers forward and ${crossing} backward.</p>`
  );
}

const PAINTERS = { lrn: paintLrn, dropout: paintDropout, towers: paintTowers };

/* ---- the sum of the number that is pointed at ---- */

const lines = (...parts) => parts.map(part => `<p>${part}</p>`).join("");
const bold = (name, value) => `<strong>${name} = ${text(value)}</strong>`;
const summed = terms => (terms.length ? terms.join(" + ") : "0");
const products = terms => summed(terms.map(([a, b]) => `${factor(a)}·${factor(b)}`));

function spellOutput(index) {
  const { op, o, arrays, shapes } = numbers;
  const y = bold(named("y", index), at(arrays.y, index));
  const window = op.window(o, index);
  const x = place => at(arrays.x, place) ?? 0;
  if (op === conv) {
    const rows = new Map();
    for (const t of window) {
      const key = t.w.slice(0, 3).join();
      rows.set(key, [...(rows.get(key) ?? []), [at(arrays.w, t.w), x(t.at)]]);
    }
    const outside = window.filter(t => !inside(shapes.x, t.at)).length;
    return lines(
      `${y} = b + Σ w·x, ${window.length} products${outside ? `, ${outside} of them with padding` : ""}`,
      `= ${text(arrays.b[index[0]])} + ${[...rows.values()].map(products).join("<br>+ ")}`,
    );
  }
  if (op === towers) return lines(`${y} = Σ w·x = ${products(window.map(t => [at(arrays.w, t.w), x(t.at)]))}`);
  if (op === dropout) {
    const [{ slope }] = op.stamp(o, arrays, index);
    const mask = o.mode === "train" ? `mask ${arrays.mask[index[0]]} · ` : "";
    return lines(`${y} = x · ${mask}scale ${text(op.scale(o))} = ${factor(x(index))}·${factor(slope)}`);
  }
  if (op === lrn) {
    const [i] = index;
    const squares = summed(window.map(t => `${factor(x(t.at))}²`));
    return lines(
      `${y} = x / s^β = ${text(x(index))} / ${text(arrays.s[i])}^${o.beta}`,
      `${bold(named("s", index), arrays.s[i])} = k + a Σ x² = ${text(o.k)} + ${text(op.factor(o))}·(${squares})`,
    );
  }
  const pixels = real(op, o, index);
  const list = pixels.map(t => text(x(t.at))).join(op === max ? ", " : " + ");
  if (op === avg) return lines(`${y} = the mean of ${pixels.length} real pixels = (${list}) / ${pixels.length}`);
  const winner = op.winner(o, arrays, index);
  const ties = pixels.filter(t => x(t.at) === x(winner)).length - 1;
  return lines(`${y} = the largest of ${list}`, `The winner is ${named("x", winner)}${ties ? `, the first of ${ties + 1} equals` : ""}.`);
}

function spellStamp(index) {
  const { op, o, arrays } = numbers;
  const dy = at(arrays.dy, index);
  const stamps = op.stamp(o, arrays, index);
  const parts = stamps.map(t => `${named("dx", t.at)}\u00a0${state.rule === "add" ? "+=" : "="}\u00a0${factor(dy)}·${factor(t.slope)}`);
  const shown = parts.length > 12 ? [...parts.slice(0, 12), `… ${parts.length} in all`] : parts;
  const click = isStamped(index) ? "It is stamped: click to take it back." : "It is not stamped yet: click.";
  return lines(`${bold(named("dy", index), dy)}, and its stamp is dy times ${OPERATIONS[state.name].slope}.  ${click}`, shown.join("&ensp; "));
}

function spellGradient(index) {
  const { op, o, arrays, own, dx, right, shapes } = numbers;
  const key = index.join();
  const reading = own.get(key) ?? [];
  const terms = state.outputs.flatMap(output =>
    op.stamp(o, arrays, output).filter(t => t.at.join() === key).map(t => [at(arrays.dy, output), t.slope]),
  );
  const waiting = reading.filter(output => !isStamped(output)).length;
  const value = dx.get(key) ?? 0;
  const rightly = right.get(key) ?? 0;
  const outside = inside(shapes.x, index) ? "" : "  This is padding: nobody learns it, and what falls here is cut off.";
  const sum =
    state.rule === "add"
      ? ` = ${products(terms)}`
      : `: only the last of ${products(terms)} has stayed.  Right is ${text(rightly)}.`;
  return lines(
    `${bold(named("dx", index), value)}${sum}`,
    `Σ dy · ${OPERATIONS[state.name].slope}.  ${reading.length} outputs read this number${waiting ? `; ${waiting} of them are not stamped yet` : ""}.${outside}`,
  );
}

function spellInput(index) {
  const x = at(numbers.arrays.x, index);
  const what = x === undefined ? "" : lines(bold(named("x", index), x));
  return what + spellGradient(index);
}

function spellWeight(index) {
  const { op, o, arrays } = numbers;
  const key = index.join();
  const terms = state.outputs.flatMap(output =>
    op.window(o, output).filter(t => t.w.join() === key).map(t => [at(arrays.dy, output), at(arrays.x, t.at) ?? 0]),
  );
  return lines(
    bold(named("w", index), at(arrays.w, index)),
    `${bold(named("dw", index), at(arrays.dw, index))} = Σ dy·x = ${products(terms)}`,
    "One term for each stamped output that this weight has helped to make: what the output sends back, times what the weight saw there.",
  );
}

function spellBias(index) {
  const terms = state.outputs.filter(([f]) => f === index[0]).map(output => factor(at(numbers.arrays.dy, output)));
  const { b, db } = numbers.arrays;
  return lines(bold(named("b", index), at(b, index)), `${bold(named("db", index), at(db, index))} = Σ dy = ${summed(terms)}`);
}

const SPELL = {
  y: spellOutput, s: spellOutput, dy: spellStamp, x: spellInput, dx: spellGradient, w: spellWeight, dw: spellWeight,
  b: spellBias, db: spellBias,
  windows: index => lines(`<strong>${numbers.own.get(index.join())?.length ?? 0} outputs read this number.</strong>`) + spellGradient(index),
  won: index => lines(`<strong>It wins ${numbers.wins.get(index.join()) ?? 0} of the ${numbers.own.get(index.join())?.length ?? 0} windows that it is in.</strong>`),
  mask: ([i]) => lines(`${bold(named("mask", [i]), numbers.arrays.mask[i])}: ${numbers.arrays.mask[i] ? "kept" : "silenced"}.  Click to change it.`),
  slopes: ([j, i]) => {
    const { slope } = lrn.stamp(numbers.o, numbers.arrays, [j]).find(t => t.at[0] === i);
    const own = i === j ? "x stands in the numerator of y and in its sum" : "x stands only in the sum";
    return lines(`<strong>∂y[${j}]/∂x[${i}] = ${text(slope)}</strong>: ${own}.`);
  },
  word0: index => spellWord(0, index),
  word1: index => spellWord(1, index),
};

function spellWord(r, index) {
  const { o, arrays, words } = numbers;
  const terms = state.outputs.filter(([f]) => towers.tower(o.F, f) === r).flatMap(output =>
    towers.stamp(o, arrays, output).filter(t => t.at[0] === index[0]).map(t => [at(arrays.dy, output), t.slope]),
  );
  const travels = towers.tower(o.C, index[0]) !== r && o.read === "meet" ? "  It is sent to the other device, which adds it to its own." : "";
  return lines(`${bold(named(`g${r}`, index), words[r].get(index.join()) ?? 0)} = Σ dy·w over device ${r}'s kernels = ${products(terms)}.${travels}`);
}

/* ---- pointing, stamping, editing ---- */

let selected = null; // the cell that has or had the focus: { array, index }
let byPlace = new Map(); // "x 0,1,2" → td

const cellOf = ({ array, index }) => byPlace.get(`${array} ${index}`);
const cellAt = target => target.closest?.("td[data-a]");
const placeOf = td => ({ array: td.dataset.a, index: td.dataset.i.split(",").map(Number) });

function mark(kind, arrays, index) {
  for (const array of arrays) byPlace.get(`${array} ${index}`)?.classList.add(kind);
}

/** Frame what belongs to a cell, and spell out its number. */
function point({ array, index }) {
  for (const td of byPlace.values()) td.classList.remove("win", "here", "top");
  const { op, o, arrays, own } = numbers;
  const same = [["y", "dy", "s"], ["x", "dx", "won", "mask"], ["w", "dw"], ["b", "db"]].find(group => group.includes(array)) ?? [array];
  mark("here", op === dropout ? ["x", "dx", "mask", "y", "dy"] : same, index);
  if (same.includes("y")) {
    for (const t of op.window(o, index)) {
      mark("win", ["x", "dx"], t.at);
      if (t.w) mark("win", ["w", "dw"], t.w);
    }
    if (op === lrn) for (const t of op.window(o, index)) mark("win", ["slopes"], [index[0], t.at[0]]);
    if (op === max) mark("top", ["x", "dx"], op.winner(o, arrays, index));
  } else if (["x", "dx", "windows", "won", "word0", "word1"].includes(array)) {
    if (array !== "x" && array !== "dx") mark("here", ["x", "dx"], index);
    for (const output of own.get(index.join()) ?? []) mark("win", ["y", "dy"], output);
  } else if (same.includes("w")) {
    for (const output of indices(numbers.shapes.y))
      for (const t of op.window(o, output)) if (String(t.w) === String(index)) mark("win", ["x"], t.at);
  }
  byId("say").innerHTML = SPELL[array](index);
}

/** Choose a cell: it is pointed at, and if it can be edited, the field below holds its number. */
function select(place) {
  selected = place;
  point(place);
  const td = cellOf(place);
  for (const other of td.closest("table").querySelectorAll('td[tabindex="0"]')) other.tabIndex = -1;
  td.tabIndex = 0;
  const can = td.classList.contains("can") && place.array !== "mask";
  byId("edit").hidden = !can;
  byId("edited").textContent = `${named(place.array, place.index)} =`;
  byId("value").value = can ? td.dataset.v : "";
}

function toggle(index) {
  const others = state.outputs.filter(other => String(other) !== String(index));
  change({ ...state, outputs: others.length < state.outputs.length ? others : [...state.outputs, index] });
}

function set({ array, index }, value) {
  const shape = shapesOf(state)[array];
  const old = state.a[array];
  const a = { ...state.a, [array]: build(shape, i => (String(i) === String(index) ? value : at(old, i))) };
  change({ ...state, a });
}

function act(td) {
  const place = placeOf(td);
  if (place.array === "dy") toggle(place.index);
  else if (place.array === "mask") set(place, 1 - at(state.a.mask, place.index));
}

function move(td, key) {
  const line = td.parentElement;
  const rows = [...line.parentElement.children];
  const cells = [...line.children];
  const column = cells.indexOf(td);
  const row = rows.indexOf(line);
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key] ?? [0, 0];
  let next = rows[row + down]?.children[column + right];
  if (key === "Home") next = cells.find(cell => cell.dataset.a);
  if (key === "End") next = cells.findLast(cell => cell.dataset.a);
  while (next && !next.dataset.a) next = down ? null : right > 0 ? next.nextElementSibling : next.previousElementSibling;
  next?.focus();
}

function startEditing(text) {
  const field = byId("value");
  if (byId("edit").hidden) return;
  field.focus();
  if (text) field.value = text;
  else field.select();
}

/* ---- AlexNet's real shapes ---- */

const ALEXNET_START = { layer: "conv1", f: 0, i: 0, j: 0, c: 0, p: 0, q: 0 };

function alexNetKnobs({ layer }) {
  const { y, w } = conv.shapes(ALEXNET[layer]);
  const names = { f: "filter f", i: "row i", j: "column j", c: "channel c", p: "row p", q: "column q" };
  const sizes = [...y, ...w.slice(1)];
  const knobs = Object.entries(names).map(([key, label], k) => whole(key, label, 0, sizes[k] - 1));
  return [choice("layer", "layer", Object.fromEntries(Object.keys(ALEXNET).map(name => [name, name]))), ...knobs];
}

const withinLayer = o => {
  const inner = { ...o };
  for (const { key, high } of alexNetKnobs(o)) if (high !== undefined) inner[key] = Math.min(inner[key], high);
  return inner;
};

function parseAlexNet(asked, troubles) {
  let o = { ...ALEXNET_START };
  for (const key of Object.keys(o)) {
    const knob = alexNetKnobs(o).find(k => k.key === key);
    if (asked.has(key)) take(() => (o[key] = checked(knob, asked.get(key))), troubles);
  }
  return withinLayer(o);
}

const counted = number => number.toLocaleString("en-US");

function paintAlexNet(at) {
  const o = ALEXNET[at.layer];
  const { x, w, y } = conv.shapes(o);
  const m = multiplication(o, [at.f, at.i, at.j], [at.c, at.p, at.q]);
  const total = Object.values(ALEXNET).reduce((sum, each) => sum + multiplication(each, [0, 0, 0], [0, 0, 0]).perLayer, 0);
  const fully = at.layer.startsWith("fc");
  const shape = s => `(${s.join(", ")})`;
  const [top, bottom, left, right] = pads(o);
  const size = Math.max(o.H + top + bottom, o.W + left + right);
  const unit = size / 150;
  const window = [at.j * o.S - left, at.i * o.S - top];
  const dot = (u, v, side) => `<rect class="here" x="${v}" y="${u}" width="${Math.max(1, side)}" height="${Math.max(1, side)}"/>`;
  const input = `<figure><figcaption>x, channel ${m.x[0]}: the window, and its pixel</figcaption><svg role="img" width="260" height="260" viewBox="${-left - unit} ${-top - unit} ${size + 2 * unit} ${size + 2 * unit}"><title>A window of ${o.K} by ${o.K} at row ${window[1]}, column ${window[0]} of a map of ${o.H} by ${o.W}</title><rect class="zeros" x="${-left}" y="${-top}" width="${o.W + left + right}" height="${o.H + top + bottom}"/><rect class="map" width="${o.W}" height="${o.H}"/><rect class="win" x="${window[0]}" y="${window[1]}" width="${o.K}" height="${o.K}"/>${dot(m.x[1], m.x[2], 1)}</svg></figure>`;
  const output = `<figure><figcaption>y, filter ${at.f}: the output</figcaption><svg role="img" width="160" height="160" viewBox="-0.5 -0.5 ${y[2] + 1} ${y[1] + 1}"><title>Row ${at.i}, column ${at.j} of a map of ${y[1]} by ${y[2]}</title><rect class="map" width="${y[2]}" height="${y[1]}"/>${dot(at.i, at.j, 1)}</svg></figure>`;
  const flat = fully ? `  Flat, as the library keeps it: w[${at.f}, ${m.number}] · x[${m.number}].` : "";
  const pixel = m.padding
    ? "That place is padding: the factor is 0."
    : `That x is in ${counted(m.windowsOfX)} window${m.windowsOfX === 1 ? "" : "s"} of each of ${counted(m.filtersOfX)} filters: its dx is a sum of ${counted(m.windowsOfX * m.filtersOfX)} products dy·w.`;
  const small = `#op=conv&C=${o.G}&F=${o.G}&H=${Math.min(o.H, 16)}&W=${Math.min(o.H, 16)}&K=${o.K}&S=${o.S}&P=${o.P}&G=${o.G}&round=${o.round}`;
  return (
    `<div class="tools"><label>multiplication ${counted(m.number + 1)} of ${counted(m.perOutput)} of this output
    <input type="range" id="product" min="0" max="${m.perOutput - 1}" value="${m.number}"></label></div>
    <p>${at.layer}: x ${shape(x)}, w ${shape(w)}, y ${shape(y)}, stride ${o.S}, padding ${shape(pads(o))} at top, bottom, left, right${o.G > 1 ? `, ${o.G} towers of ${o.F / o.G} filters that read ${w[1]} maps each` : ""}${fully ? ".  A fully connected layer is a convolution whose window is the whole map" : ""}.</p>
    <p class="big"><strong>y[${at.f}, ${at.i}, ${at.j}] = b[${at.f}] + … + ${named("w", m.w)} · ${named("x", m.x)} + …</strong></p>
    <p>${counted(m.perOutput)} products are summed for this output; this is number ${counted(m.number + 1)}.${flat}  Of the layer's ${counted(m.perLayer)} multiplications for one picture it is number ${counted(m.numberInLayer + 1)}; conv1 to fc8 have ${counted(total)}.</p>
    <p>Backward: ${pixel}  That w is used for ${counted(y[1] * y[2])} output${y[1] * y[2] === 1 ? "" : "s"} of its filter${m.windowsOfW < y[1] * y[2] ? `, in ${counted(m.windowsOfW)} of them on a real pixel` : ""}: its dw is a sum of ${counted(m.windowsOfW)} product${m.windowsOfW === 1 ? "" : "s"} dy·x for each picture.</p>` +
    `<div class="row">${input}${output}</div>` +
    (fully ? "" : `<p><a href="${small}">Touch this window, stride and padding in small</a>.</p>`)
  );
}

/* ---- the page ---- */

function paintKnobs(knobs, o) {
  const field = ({ key, label, low, high, step, options }) => {
    if (!options) return `<label>${label}<input type="number" id="knob-${key}" name="${key}" min="${low}" max="${high}" step="${step}" value="${o[key]}"></label>`;
    const choices = Object.entries(options).map(([value, words]) => `<option value="${value}"${o[key] === value ? " selected" : ""}>${words}</option>`);
    return `<label>${label}<select id="knob-${key}" name="${key}">${choices.join("")}</select></label>`;
  };
  byId("knobs").innerHTML = knobs.map(field).join("");
}

function paint(troubles = []) {
  const focus = document.activeElement?.closest("main") && (cellAt(document.activeElement) ? selected : document.activeElement.id);
  for (const link of byId("ops").children) {
    if (link.hash === `#op=${state.name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("trouble").textContent = troubles.join("; ");
  const alexnet = state.name === "alexnet";
  byId("panel").hidden = byId("fresh").hidden = alexnet;
  byId("main").classList.toggle("split", !alexnet);
  if (alexnet) {
    byId("settings").open = true;
    byId("lead").textContent = "The network at its real size, down to one multiplication: choose a layer, one of its outputs, and one place in its window.";
    paintKnobs(alexNetKnobs(state.o), state.o);
    byId("work").innerHTML = paintAlexNet(state.o);
    byPlace = new Map();
  } else {
    numbers = compute(state);
    byId("lead").textContent = OPERATIONS[state.name].lead;
    paintKnobs(OPERATIONS[state.name].knobs, state.o);
    byId("work").innerHTML = (PAINTERS[state.name] ?? paintPictures)();
    byPlace = new Map([...byId("work").querySelectorAll("td[data-a]")].map(td => [`${td.dataset.a} ${td.dataset.i}`, td]));
    if (!selected || !cellOf(selected)) selected = { array: "dy", index: state.outputs.at(-1) ?? indices(numbers.shapes.y)[0] };
    select(selected);
  }
  for (const field of document.querySelectorAll(".picture")) field.hidden = !droppable();
  if (focus) (typeof focus === "string" ? byId(focus) : cellOf(focus))?.focus();
}

const droppable = () => state.name !== "alexnet" && numbers.shapes.x.length === 3;

/** Show what an address describes: the door for links, for tests, and for the console. */
function show(hash) {
  const [next, troubles] = parse(hash);
  state = next;
  paint(troubles);
}

/** The numbers on the page: {array: {"index": number}}, read from its cells. */
function read() {
  const found = {};
  for (const td of byPlace.values()) (found[td.dataset.a] ??= {})[td.dataset.i] = Number(td.dataset.v);
  return found;
}

async function open(file) {
  const side = Number(byId("side").value);
  try {
    const image = await createImageBitmap(file);
    const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
    const part = Math.min(image.width, image.height);
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.fillStyle = "white";
    pen.fillRect(0, 0, side, side);
    pen.drawImage(image, (image.width - part) / 2, (image.height - part) / 2, part, part, 0, 0, side, side);
    const { data } = pen.getImageData(0, 0, side, side);
    const grey = k => 0.299 * data[k] + 0.587 * data[k + 1] + 0.114 * data[k + 2];
    const x = [build([side, side], ([u, v]) => Math.round((grey(4 * (u * side + v)) * 9) / 255))];
    const o = { ...state.o, C: 1, H: side, W: side, ...(state.o.G ? { G: 1 } : {}) };
    const a = given(state.name, o, state.seed, { ...state.a, x });
    change({ ...state, o, a, outputs: indices(OPERATIONS[state.name].op.shapes(o).y) });
  } catch (error) {
    paint([`${file.name}: expected a picture that this browser can read (${error.message})`]);
  }
}

const CLICKS = {
  all: () => change({ ...state, outputs: indices(numbers.shapes.y) }),
  none: () => change({ ...state, outputs: [] }),
  next: () => {
    const next = indices(numbers.shapes.y).find(index => !isStamped(index));
    if (!next) return;
    selected = { array: "dy", index: next };
    toggle(next);
  },
  fresh: () => {
    const seed = state.seed + 1;
    change({ ...state, seed, a: given(state.name, state.o, seed) });
  },
};

function start() {
  const titles = { ...Object.fromEntries(Object.entries(OPERATIONS).map(([key, { title }]) => [key, title])), alexnet: ALEXNET_TITLE };
  byId("ops").innerHTML = Object.entries(titles).map(([key, title]) => `<a href="#op=${key}">${title}</a>`).join("");
  const work = byId("work");
  work.addEventListener("pointerover", event => {
    const td = cellAt(event.target);
    if (td) point(placeOf(td));
  });
  work.addEventListener("pointerleave", () => byPlace.size && point(selected));
  work.addEventListener("focusin", event => {
    const td = cellAt(event.target);
    if (td) select(placeOf(td));
  });
  work.addEventListener("click", event => {
    const td = cellAt(event.target);
    if (td) act(td);
    else CLICKS[event.target.id]?.();
  });
  work.addEventListener("keydown", event => {
    const td = cellAt(event.target);
    if (!td || event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event;
    if (/^(Arrow|Home|End)/.test(key)) move(td, key);
    else if (key === "Enter" || key === " ") ["dy", "mask"].includes(td.dataset.a) ? act(td) : startEditing();
    else if (key === "F2") startEditing();
    else if (/^[-−\d.]$/.test(key)) startEditing(key);
    else return;
    event.preventDefault();
  });
  work.addEventListener("change", event => {
    if (event.target.id === "rule") change({ ...state, rule: event.target.value });
  });
  byId("fresh").addEventListener("click", CLICKS.fresh);
  for (const id of ["file", "side"])
    byId(id).addEventListener("change", () => byId("file").files[0] && open(byId("file").files[0]));
  work.addEventListener("input", event => {
    if (event.target.id !== "product") return;
    const { K } = ALEXNET[state.o.layer];
    const k = Number(event.target.value);
    change({ ...state, o: { ...state.o, c: Math.floor(k / K ** 2), p: Math.floor(k / K) % K, q: k % K } });
  });
  byId("knobs").addEventListener("change", event => turn(event.target.name, event.target.value));
  byId("knobs").addEventListener("submit", event => event.preventDefault());
  byId("edit").addEventListener("submit", event => {
    event.preventDefault();
    const value = toNumber(byId("value").value);
    if (!Number.isFinite(value)) return paint([`${named(selected.array, selected.index)}: expected a number, found ${byId("value").value || "nothing"}`]);
    set(selected, value);
    cellOf(selected).focus();
  });
  byId("value").addEventListener("keydown", event => event.key === "Escape" && cellOf(selected).focus());
  addEventListener("dragover", event => {
    event.preventDefault();
    byId("main").classList.toggle("dropping", droppable());
  });
  addEventListener("dragleave", () => byId("main").classList.remove("dropping"));
  addEventListener("drop", event => {
    event.preventDefault();
    byId("main").classList.remove("dropping");
    if (droppable() && event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
  byId("settings").open = innerWidth > 900; // on a phone the arrays come first
  addEventListener("hashchange", () => show(location.hash));
  show(location.hash);
}

start();
globalThis.touch = { show, read, address: () => address(state), conv, max, avg, lrn, dropout, towers, ALEXNET, multiplication };
