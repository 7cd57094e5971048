"""Is a hand-written backward pass right?  Compare it with the slope of the forward pass.

For an operation y = f(x, w, …) and an upstream gradient dy ~ N(0,1), let L(x) = <dy, y(x)>.  Backward
claims g = dL/dx.  Along a random direction u ~ N(0,1), with everything in float64,

    analytic  <g, u>
    numeric   D(h/2),  where D(t) = (L(x + tu) − L(x − tu)) / 2t

must agree.  One direction tests every element of g at once: if g is wrong by e, then <e, u> ~ N(0, ‖e‖²).

**Error.**  error = |numeric − analytic| / max(‖g‖, |numeric|, floor).  <g, u> can be near 0 by chance but
‖g‖, its standard deviation, cannot: so error ≈ ‖e‖/‖g‖ times the size of one N(0,1) draw, several times
over.  The floor is for gradients that are 0: 1/1000 of ‖dy‖ rms(y)/size(x), the size a gradient of this
operation would have by its units; size(x) = max(rms(x), 0.01).

**Step.**  Where y is linear in x (name it in ``linear``) D is exact for any step: h = size(x), and only
rounding is left, so float32 can be checked too.  Otherwise h = ε^⅓ size(x), which balances D's truncation
error, of order h², against rounding, of order ε/h; this needs float64.

**Kinks.**  ReLU at 0 and a tie under a max have no derivative, so a kink between x − hu and x + hu would
raise a false alarm.  Five values of L show it, Lₖ = L(x + k·h/2·u) for k = −2…2.  A bend of the slope by J
at a distance τh, 0 ≤ τ ≤ 1, makes

    doubt = |D(h) − D(h/2)| + |L₋₂ − 4L₋₁ + 6L₀ − 4L₁ + L₂| / h = J (τ/2 + |3τ − 1|)  if τ ≤ ½
                                                                   J (1 − τ) 3/2       if τ ≥ ½

and D(h/2) wrong by J (½ − τ) or by 0: never more than the doubt, which for a smooth L is of order h².
Where the doubt exceeds half the tolerance the draw is not used: x moves by a random 1 % and all is drawn
again, at most 20 times.  Kinks are avoided, never tolerated.

**Why dy is random.**  With dy = 1 a backward that ignores dy, rolls it or flips it passes.

To check a layer of your own, say y = x·sigmoid(x), give the pair and a point:

>>> import numpy as np
>>> from tinyalex.gradcheck import check
>>> def swish_forward(x):
...     s = 1 / (1 + np.exp(-x))
...     return x * s, (x, s)
>>> def swish_backward(dy, cache):
...     x, s = cache
...     return {"x": dy * (s + x * s * (1 - s))}
>>> rng = np.random.default_rng(0)
>>> x = rng.standard_normal((2, 3))
>>> report = check(swish_forward, swish_backward, {"x": x}, rng=rng)
>>> report.errors["x"] < 1e-6
True

A wrong one is told where it is wrong:

>>> check(swish_forward, lambda dy, cache: {"x": dy * cache[1]}, {"x": x}, rng=rng)
Traceback (most recent call last):
    ...
tinyalex.gradcheck.GradientError: x: relative error ... worst at x[...]: backward says ..., the slope is ...
"""

from typing import NamedTuple

import numpy as np

from tinyalex.fields import check_functions, check_numbers, check_rng, expect, of_kind
from tinyalex.nn import Sequential
from tinyalex.ops.checks import check_arrays, xp_of

# By dtype and "is y linear in it": what rounding and truncation leave, with a wide margin on both sides.
TOLERANCES = {
    ("float64", True): (1e-10, "linear, step 1: rounding only, near 1e-15"),
    ("float64", False): (1e-6, "step ε^⅓: h² and ε/h, each near 1e-10"),
    ("float32", True): (1e-4, "linear, step 1: float32 rounding, near 1e-6"),
}
STEP = float(np.finfo(np.float64).eps) ** (1 / 3)
ATTEMPTS = 20  # draws at moved points before a direction counts as one kink after another
SAMPLE = 400  # elements looked at, at most, to name the worst one


class GradientError(AssertionError):
    """A gradient is wrong.  The text names the variable, its worst element and both values there."""


class Report(NamedTuple):
    """What `check` found: largest relative error by variable, and how many draws met a kink."""

    errors: dict
    kinks: int


def check(forward, backward, variables, *, rng, linear=(), directions=4):
    """Check ``backward`` against the slope of ``forward`` at ``variables``; return a `Report`.

    forward(**variables) → (y, cache): y an array or a number.  backward(dy, cache) → {name: gradient};
    a variable it leaves out is not differentiated (labels, a mask).  variables: {name: array},
    float64, or float32 for those in ``linear``, the names in which y is linear (or affine).
    rng: np.random.Generator for dy, the directions and the moves.  directions: draws per variable.

    Raises GradientError if a gradient is wrong, is not finite, has not its variable's shape and dtype,
    differs when backward is called twice, is not 0 for dy = 0, if forward or backward returns something
    else than this, if y is not finite or has fewer digits than the variables, if an argument was written to,
    if a variable has no number, or if every draw meets a kink.  Raises ValueError for a name or dtype that
    cannot be checked.
    """
    errors, kinks, linear = {}, 0, set(linear or ())
    check_numbers("", 1, int, directions=directions)
    check_functions("", forward=forward, backward=backward)
    check_rng(rng)
    expect(of_kind(dict, variables, "variables"), "variables", "at least one array by its name", variables)
    check_arrays("variables", **variables)
    expect(linear <= {*variables}, "linear", f"names among {sorted(variables)}", sorted(linear))
    for name in _check_contract(forward, backward, variables, rng):
        key = variables[name].dtype.name, name in linear
        expect(key in TOLERANCES, name, "float64 (float32 only if linear in it)", variables[name])
        tolerance, _ = TOLERANCES[key]
        point, step = variables, 1.0 if name in linear else STEP
        for _ in range(directions):
            for _ in range(ATTEMPTS):
                probe = _Probe(forward, backward, point, name, rng, step)
                u = _normal(rng, probe.x)
                numeric, doubt = probe.slope(u)
                scale = max(_norm(probe.grad), abs(numeric), probe.floor)
                if doubt <= tolerance / 2 * scale:
                    break
                kinks += 1
                point = {**point, name: probe.x + 0.01 * _size(probe.x) * _normal(rng, probe.x)}
            else:
                _require(name, False, f"the slope jumps at each of {ATTEMPTS} points tried: {probe.cause(u)}")
            error = abs(numeric - _dot(probe.grad, u)) / scale if scale else 0.0
            if error > tolerance:
                found = f"relative error {error:.1e} along a random direction (tolerance {tolerance:.0e})"
                raise GradientError(f"{name}: {found}; {probe.worst(rng)}")
            errors[name] = max(error, errors.get(name, 0.0))
    return Report(errors, kinks)


def check_layer(layer, x, rng, linear=()):
    """Check a `tinyalex.nn` layer, or a Sequential of them, in test mode at x; return a `Report`.

    The variables are "x" and the parameters that are learned, all float64 (or as `check` says), which are
    perturbed in place and restored, whatever happens.  A layer has ``params``, ``grads``, forward(x) and
    backward(dy) → dx; only one whose ``need_dx`` is False (in a Sequential the first) may return None for dx.
    Raises as `check`, also if ``grads`` lacks a parameter's gradient.
    """
    expect(hasattr(layer, "params") or isinstance(layer, Sequential), "layer", "a layer or Sequential", layer)
    if isinstance(layer, Sequential):
        owners = {name: (part, key) for name, part, key in layer.learned()}
    else:
        owners = {key: (layer, key) for key in layer.params if key not in getattr(layer, "statistics", ())}
    params = {name: part.params[key].copy() for name, (part, key) in owners.items()}

    def put(values):
        for name, value in values.items():
            part, key = owners[name]
            part.params[key][...] = value

    def forward(x, **values):
        put(values)
        return layer.forward(x), None

    def backward(dy, _):
        dx, grads = layer.backward(dy), {}
        forgot = dx is None and all(getattr(part, "need_dx", True) for part, _ in owners.values())
        _require("x", not forgot, "backward returned None, not dx: does it forget to return it?")
        for name, (part, key) in owners.items():
            _require(name, key in part.grads, f"backward left no gradient in grads[{key!r}]")
            grads[name] = part.grads[key]
        return grads if dx is None else {"x": dx, **grads}

    try:
        return check(forward, backward, {"x": x, **params}, rng=rng, linear=linear)
    finally:
        put(params)


class _Probe:
    """A point, a random dy there, and backward's gradient of L with respect to one variable."""

    def __init__(self, forward, backward, variables, name, rng, step):
        self.forward, self.variables, self.name, self.x = forward, variables, name, variables[name]
        self.y, cache = _output(forward, variables)
        self.dy = _normal(rng, self.y)
        self.grad = backward(self.dy, cache)[name].copy()
        self.h = step * _size(self.x)
        self.floor = 1e-3 * _norm(self.dy) * _norm(self.y) / max(1, self.y.size) ** 0.5 / _size(self.x)

    def rise(self, move):
        """Return y(x + move) − y(x)."""
        return self.forward(**{**self.variables, self.name: self.x + move})[0] - self.y

    def slope(self, u):
        """Return D(h/2) along u, and the sum that bounds what a kink can have done to it."""
        h = self.h
        # L(x + tu) − L(x): the difference before the sum, for less rounding
        left2, left, right, right2 = (_dot(self.dy, self.rise(t * u)) for t in (-h, -h / 2, h / 2, h))
        numeric, curve = (right - left) / h, left2 - 4 * left - 4 * right + right2
        return numeric, abs((right2 - left2) / (2 * h) - numeric) + abs(curve) / h

    def cause(self, u):
        """Say why the slope jumps wherever it is looked at: what can be seen first, else what is left."""
        again, little, step = ((self.rise(t * u) != 0).sum() for t in (0, 1e-11 * _size(self.x), self.h))
        if again:
            return "forward draws random numbers, for y differs when it is called again"
        if self.x.dtype == np.float64 and little < 0.01 * step:
            return "forward rounds (float32 inside?), for y stays the same when x moves by 1e-11 of its size"
        return "kinks everywhere" + ", or y is not linear in it" * (self.h == _size(self.x))

    def worst(self, rng):
        """Say at which element, of all or of SAMPLE drawn ones, the gradient is furthest from the slope."""
        differences = []
        for flat in rng.permutation(self.x.size)[:SAMPLE]:
            index = tuple(int(i) for i in np.unravel_index(flat, self.x.shape))
            u = xp_of(self.x).zeros_like(self.x)
            u[index] = 1
            numeric, analytic = self.slope(u)[0], float(self.grad[index])
            differences.append((abs(numeric - analytic), index, analytic, numeric))
        _, index, analytic, numeric = max(differences)
        where = f"{self.name}[{', '.join(map(str, index))}]"
        return f"worst at {where}: backward says {analytic:.9g}, the slope is {numeric:.9g}"


def _check_contract(forward, backward, variables, rng):
    """Return the names that backward differentiates, once its gradients keep the contract of `check`."""
    before = {name: x.copy() for name, x in variables.items()}
    y, cache = _output(forward, variables)
    dy = _normal(rng, y)

    def gradients(dy):
        now = {**variables, "dy": dy.copy()}
        grads = backward(now["dy"], cache)
        _require("backward", isinstance(grads, dict), "expected a dict of gradients by variable", grads)
        for name, grad in grads.items():
            _require(name, hasattr(grad, "dtype"), "expected an array as its gradient", grad)
        for name, was in {**before, "dy": dy}.items():
            if (now[name] != was).any():
                raise GradientError(f"forward or backward wrote to its argument {name}")
        return {name: grad.copy() for name, grad in grads.items()}

    first, again, zero = gradients(dy), gradients(dy), gradients(0 * dy)
    expect(first and {*first} <= {*variables}, "backward", f"gradients among {[*variables]}", [*first])
    for name, grad in first.items():
        x = variables[name]
        _require(name, x.size, "expected at least one number, found none")
        same = (grad.shape, grad.dtype) == (x.shape, x.dtype)
        _require(name, same, f"{x.dtype} {x.shape}, but its gradient is {grad.dtype} {grad.shape}")
        _require(name, np.result_type(y.dtype, x.dtype) == y.dtype, f"{x.dtype}, but y is {y.dtype}")
        _require(name, np.isfinite(_norm(grad)), "its gradient is not finite")
        same = _norm(again[name] - grad) <= 1e-6 * _norm(grad)
        _require(name, same, "backward, called twice, gave two different gradients")
        _require(name, not zero[name].any(), "an upstream gradient of 0 gave a gradient that is not 0")
    return list(first)


def _output(forward, variables):
    """Return forward's y, as an array, and cache; GradientError if it has not returned the two, or NaN."""
    found = forward(**variables)
    _require("forward", isinstance(found, tuple) and len(found) == 2, "expected two, (y, cache)", found)
    _require("forward", not isinstance(found[0], tuple | list | dict | None), "expected one output", found[0])
    y = xp_of(*variables.values()).array(found[0])
    _require("forward", np.isfinite(_norm(y)), "expected a finite y, found NaN or infinity")
    return y, found[1]


def _require(name, right, message, *found):
    """Raise GradientError with the message, and the kind of what was found, unless it is right."""
    if not right:
        raise GradientError(f"{name}: {message}" + "".join(f", found {type(x).__name__}" for x in found))


def _normal(rng, like):
    """Draw N(0,1) with the shape, dtype and array module of ``like``."""
    return xp_of(like).asarray(rng.standard_normal(like.shape), dtype=like.dtype)


def _dot(a, b):
    return float((a.astype(np.float64) * b.astype(np.float64)).sum())


def _norm(a):
    return _dot(a, a) ** 0.5


def _size(x):
    """Return rms(x), at least 0.01: a zero bias still needs a step."""
    return max(_norm(x) / max(1, x.size) ** 0.5, 0.01)
