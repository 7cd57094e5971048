/* Backward that one can touch: the mathematics, on nested arrays, one picture at a time.

   Each operation is an object of four functions.  o: its sizes and constants, a: its arrays, index: of one output.

       shapes(o)            the shape of each array {x, …, y}; a RangeError where the sizes do not fit
       window(o, index)     the places that this output reads: [{at: index of x, w: index of w}, …]
       forward(o, a)        {y, …}
       stamp(o, a, index)   [{at: index of x, slope: ∂y[index]/∂x[at]}, …]

   There is one backward for all of them: each output's stamp, times its dy, is added to dx.  A place outside
   of the picture is padding: it has an index too (below 0, or beyond the end), and what falls there is cut off.

   The formulas are those of tinyalex.ops, and so are the numbers: tests compare them. */

export const at = (array, index) => index.reduce((part, i) => part?.[i], array);

export function build(shape, value, index = []) {
  if (index.length === shape.length) return value(index);
  return Array.from({ length: shape[index.length] }, (_, i) => build(shape, value, [...index, i]));
}

export function indices(shape) {
  const all = [];
  build(shape, index => all.push(index));
  return all;
}

export const inside = (shape, index) => index.every((i, axis) => i >= 0 && i < shape[axis]);

/* ---- sizes ---- */

const mod = (a, b) => ((a % b) + b) % b;

/** floor((size + before + after − window) / stride) + 1: the windows that fit into the padded length. */
export function outputSize(size, window, stride, before, after) {
  if (window > size + before + after)
    throw new RangeError(`a window of ${window} is larger than the map: ${size}, with ${before} + ${after} of padding`);
  return Math.floor((size + before + after - window) / stride) + 1;
}

/** As outputSize, or rounded up; but a last window that would start outside of the map is left out. */
export function pooledSize(size, window, stride, pad, ceil) {
  const fit = outputSize(size, window, stride, pad, pad);
  if (pad >= window) throw new RangeError(`padding of ${pad} has to be smaller than the window of ${window}`);
  const hangsOver = ceil && (size + 2 * pad - window) % stride > 0 && fit * stride < size + pad;
  return fit + (hangsOver ? 1 : 0);
}

/** The padding of a convolution, [top, bottom, left, right].  Rounding up is zeros at the bottom and right. */
export function pads({ H, W, K, S, P, round, pads }) {
  if (pads) return pads;
  const more = size => (round === "ceil" ? mod(K - size - 2 * P, S) : 0);
  return [P, P + more(H), P, P + more(W)];
}

function cut(count, groups, what) {
  if (count % groups) throw new RangeError(`${count} ${what} cannot be cut into ${groups} equal groups`);
  return count / groups;
}

const places = (c, i, j, K, S, top, left) =>
  indices([K, K]).map(([p, q]) => [c, i * S + p - top, j * S + q - left]);

/* ---- the operations ---- */

/** y[f,i,j] = b[f] + Σ w[f,c,p,q] · x[c', i·S + p − top, j·S + q − left],  c' = the c-th channel of f's group */
export const conv = {
  shapes(o) {
    const { C, H, W, F, K, S, G } = o;
    const [top, bottom, left, right] = pads(o);
    const CG = cut(C, G, "channels");
    cut(F, G, "filters");
    const y = [F, outputSize(H, K, S, top, bottom), outputSize(W, K, S, left, right)];
    return { x: [C, H, W], w: [F, CG, K, K], b: [F], y };
  },
  window(o, [f, i, j]) {
    const { C, F, K, S, G } = o;
    const [top, , left] = pads(o);
    const CG = C / G;
    const first = Math.floor(f / (F / G)) * CG;
    return indices([CG, K, K]).map(([c, p, q]) => ({
      at: [first + c, i * S + p - top, j * S + q - left],
      w: [f, c, p, q],
    }));
  },
  forward(o, { x, w, b }) {
    const sum = index =>
      this.window(o, index).reduce((total, t) => total + at(w, t.w) * (at(x, t.at) ?? 0), b[index[0]]);
    return { y: build(this.shapes(o).y, sum) };
  },
  stamp(o, { w }, index) {
    return this.window(o, index).map(t => ({ at: t.at, slope: at(w, t.w) }));
  },
};

const pooling = {
  shapes({ C, H, W, K, S, P, round }) {
    const size = side => pooledSize(side, K, S, P, round === "ceil");
    return { x: [C, H, W], y: [C, size(H), size(W)] };
  },
  window({ K, S, P }, [c, i, j]) {
    return places(c, i, j, K, S, P, P).map(place => ({ at: place }));
  },
};

/** The pixels of a window that are in the picture. */
export const real = (op, o, index) => op.window(o, index).filter(t => inside(op.shapes(o).x, t.at));

/** y = the largest pixel of its window; the first in reading order wins among equals. */
export const max = {
  ...pooling,
  winner(o, { x }, index) {
    return real(this, o, index).reduce((best, t) => (at(x, t.at) > at(x, best.at) ? t : best)).at;
  },
  forward(o, a) {
    return { y: build(this.shapes(o).y, index => at(a.x, this.winner(o, a, index))) };
  },
  stamp(o, a, index) {
    return [{ at: this.winner(o, a, index), slope: 1 }];
  },
};

/** y = the mean of the pixels of its window that are in the picture. */
export const avg = {
  ...pooling,
  forward(o, { x }) {
    const mean = index => {
      const pixels = real(this, o, index);
      return pixels.reduce((total, t) => total + at(x, t.at), 0) / pixels.length;
    };
    return { y: build(this.shapes(o).y, mean) };
  },
  stamp(o, a, index) {
    const pixels = real(this, o, index);
    return pixels.map(t => ({ at: t.at, slope: 1 / pixels.length }));
  },
};

/** y[i] = x[i] / s[i]^beta,  s[i] = k + a Σ x[j]² over n maps around i; a = alpha, or alpha / n. */
export const lrn = {
  shapes({ C, G }) {
    cut(C, G, "maps");
    return { x: [C], y: [C] };
  },
  window({ C, n, G }, [i]) {
    const first = i - Math.floor(n / 2);
    const tower = j => Math.floor(j / (C / G));
    const near = Array.from({ length: n }, (_, d) => first + d);
    return near.filter(j => j >= 0 && j < C && tower(j) === tower(i)).map(j => ({ at: [j] }));
  },
  factor: ({ alpha, n, over }) => (over === "n" ? alpha / n : alpha),
  forward(o, { x }) {
    const squares = i => this.window(o, [i]).reduce((total, t) => total + x[t.at[0]] ** 2, 0);
    const s = x.map((_, i) => o.k + this.factor(o) * squares(i));
    return { y: x.map((v, i) => v / s[i] ** o.beta), s };
  },
  stamp(o, { x, s }, [j]) {
    return this.window(o, [j]).map(({ at: [i] }) => {
      const numerator = i === j ? s[j] ** -o.beta : 0;
      const throughSum = 2 * this.factor(o) * o.beta * x[i] * x[j] * s[j] ** (-o.beta - 1);
      return { at: [i], slope: numerator - throughSum };
    });
  },
};

/** y = x · mask · scale.  2012: scale 1, at test x · keep.  Inverted: scale 1/keep, at test x. */
export const dropout = {
  shapes: ({ C }) => ({ x: [C], mask: [C], y: [C] }),
  window: (o, index) => [{ at: index }],
  scale({ keep, mode, scaling }) {
    if (mode === "test") return scaling === "2012" ? keep : 1;
    return scaling === "2012" ? 1 : 1 / keep;
  },
  forward(o, a) {
    return { y: a.x.map((v, i) => v * this.stamp(o, a, [i])[0].slope) };
  },
  stamp(o, { mask }, [i]) {
    return [{ at: [i], slope: (o.mode === "test" ? 1 : mask[i]) * this.scale(o) }];
  },
};

/** Two towers of C units and F kernels each: y = W x.  stay: a kernel reads its own tower's units; meet: all. */
export const towers = {
  shapes({ C, F, read }) {
    return { x: [2 * C], w: [2 * F, read === "meet" ? 2 * C : C], y: [2 * F] };
  },
  tower: (size, i) => Math.floor(i / size),
  window(o, [f]) {
    const first = o.read === "meet" ? 0 : this.tower(o.F, f) * o.C;
    return Array.from({ length: this.shapes(o).w[1] }, (_, d) => ({ at: [first + d], w: [f, d] }));
  },
  forward(o, { x, w }) {
    const sum = index => this.window(o, index).reduce((total, t) => total + at(w, t.w) * at(x, t.at), 0);
    return { y: build(this.shapes(o).y, sum) };
  },
  stamp: conv.stamp,
};

/* ---- backward ---- */

/** Put the stamps of these outputs into dx, in this order; return a Map "c,u,v" → number.
    rule "set" is the famous bug: dx[at] = what comes, where it should be dx[at] += what comes. */
export function stamped(op, o, a, dy, outputs, rule = "add") {
  const dx = new Map();
  for (const index of outputs)
    for (const { at: place, slope } of op.stamp(o, a, index)) {
      const key = place.join();
      const before = rule === "add" ? dx.get(key) ?? 0 : 0;
      dx.set(key, before + slope * at(dy, index));
    }
  return dx;
}

/** dw = Σ dy · x over the outputs, each with what the weight met there; db = Σ dy. */
export function weightGradients(op, o, a, dy, outputs) {
  const dw = build(op.shapes(o).w, () => 0);
  const db = build([op.shapes(o).y[0]], () => 0);
  for (const index of outputs) {
    db[index[0]] += at(dy, index);
    for (const t of op.window(o, index)) {
      const row = at(dw, t.w.slice(0, -1));
      row[t.w.at(-1)] += at(dy, index) * (at(a.x, t.at) ?? 0);
    }
  }
  return { dw, db };
}

/** Which outputs own each place: a Map "c,u,v" → [index of y, …]. */
export function owners(op, o) {
  const found = new Map();
  for (const index of indices(op.shapes(o).y))
    for (const { at: place } of op.window(o, index)) {
      const key = place.join();
      if (!found.has(key)) found.set(key, []);
      found.get(key).push(index);
    }
  return found;
}

/* ---- AlexNet, as section 3.5 of the paper has it (conv1 rounds up, as the 2012 code did) ---- */

const layer = (C, H, F, K, S, P, G, round = "floor") => ({ C, H, W: H, F, K, S, P, G, round });

/** A fully connected layer is a convolution whose window is the whole map. */
export const ALEXNET = {
  conv1: layer(3, 224, 96, 11, 4, 0, 1, "ceil"),
  conv2: layer(96, 27, 256, 5, 1, 2, 2),
  conv3: layer(256, 13, 384, 3, 1, 1, 1),
  conv4: layer(384, 13, 384, 3, 1, 1, 2),
  conv5: layer(384, 13, 256, 3, 1, 1, 2),
  fc6: layer(256, 6, 4096, 6, 1, 0, 1),
  fc7: layer(4096, 1, 4096, 1, 1, 0, 1),
  fc8: layer(4096, 1, 1000, 1, 1, 0, 1),
};

/** One multiplication of a layer, of output [f,i,j] and place [c,p,q] in its window: where its two factors
    stand, its number among those of the output and of the layer, and who else reads the same x and w. */
export function multiplication(o, [f, i, j], [c, p, q]) {
  const { x, w, y } = conv.shapes(o);
  const [top, , left] = pads(o);
  const [F, OH, OW] = y;
  const channel = Math.floor(f / (F / o.G)) * w[1] + c;
  const place = [channel, i * o.S + p - top, j * o.S + q - left];
  const perOutput = w[1] * o.K * o.K;
  const number = (c * o.K + p) * o.K + q;
  const meets = (start, windows, size) => windowsWith(k => k * o.S + start >= 0 && k * o.S + start < size, windows);
  const covers = (u, before, windows) => windowsWith(k => inside([o.K], [u + before - k * o.S]), windows);
  const padding = !inside(x, place);
  return {
    x: place, w: [f, c, p, q], padding, number, perOutput,
    numberInLayer: ((f * OH + i) * OW + j) * perOutput + number,
    perLayer: F * OH * OW * perOutput,
    windowsOfX: padding ? 0 : covers(place[1], top, OH) * covers(place[2], left, OW),
    filtersOfX: F / o.G,
    windowsOfW: meets(p - top, OH, o.H) * meets(q - left, OW, o.W), // those in which it meets no padding
  };
}

function windowsWith(condition, windows) {
  let count = 0;
  for (let k = 0; k < windows; k++) count += condition(k);
  return count;
}
