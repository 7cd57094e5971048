"""Layers that were written elsewhere, called as ours are.

`find` looks through a module for the common forms, and gives each a plain signature on arrays (N,C,H,W):

    conv_forward_naive(x, w, b, conv_param) → out, cache   with   conv_backward_naive(dout, cache)
    class Convolution: __init__(W, b, stride, pad), forward(x), backward(dout), dW and db among its attributes
    class Conv(torch.autograd.Function): forward(ctx, x, w, b, stride, pad), backward(ctx, grad_output)

What an argument means is read from its name.
"""

import inspect
import itertools
import re
import sys
from typing import NamedTuple

import numpy as np

from tinyalex.errors import DataError

KINDS = {  # kind: what its names contain
    "convolution": r"conv",
    "max pooling": r"pool",
    "ReLU": r"relu",
    "linear": r"affine|linear|dense|fully|fc(?![a-z])",
    "dropout": r"drop",
}
OTHER = (  # what is not known here, or helps a layer only
    r"^im2col|^col2im|(batch|layer|group|spatial)_?norm|avg|average|mean|transpose|depthwise|separable|leaky"
)
ROLES = {  # role: names of an argument that has it, in lower case
    "dy": "dout dy dz dl grad grad_out grad_output grad_y upstream delta dh dnext da",
    "cache": "cache ctx saved",
    "x": "x a_prev a input inputs inp images image data",
    "w": "w weight weights kernel kernels filters filter",
    "b": "b bias biases",
    "param": "conv_param pool_param dropout_param hparameters hparams params param config",
    "stride": "stride strides s",
    "pad": "pad padding p_pad pads",
    "size": "z_size pool_size kernel_size size k f pool window filter_size ksize",
    "height": "pool_h pool_height kh hh kernel_h",
    "width": "pool_w pool_width kw ww kernel_w",
    "train": "train training train_flg is_train is_training",
    "mode": "mode",
    "rate": "p keep keep_prob rate ratio dropout_ratio drop drop_prob dropout keep_p prob",
    "in": "in_channels c_in in_features d_in input_size in_dim n_in input_dim channels num_channels",
    "out": "out_channels c_out out_features d_out output_size out_dim n_out num_filters n_filters filters",
}
LAYOUTS = {  # of maps, and of the weights that go with them: where our axes N, C, H, W and F, C, KH, KW are
    "N,C,H,W": ((0, 1, 2, 3), (0, 1, 2, 3)),
    "C,H,W,N": ((1, 2, 3, 0), (0, 1, 2, 3)),
    "N,H,W,C": ((0, 2, 3, 1), (2, 3, 1, 0)),
}
PLAIN = LAYOUTS["N,C,H,W"]


class Layer(NamedTuple):
    """A layer that was found: forward(**arguments) → y, and backward(dy, **arguments) → gradients.

    The arguments of both are x, and w, b, stride, pad, size, train and rate as the kind has them; backward is
    None where there is none.  gradients: a tuple dx, dw, db, or dx.
    """

    name: str
    kind: str
    form: str
    forward: callable
    backward: callable


def kind_of(name):
    """Return the kind of a layer by its name; None for none, several, or one that is not known here."""
    name = name.lower()
    kinds = [kind for kind, pattern in KINDS.items() if re.search(pattern, name)]
    return kinds[0] if len(kinds) == 1 and not re.search(OTHER, name) else None


def _own(module):
    return [(n, v) for n, v in vars(module).items() if getattr(v, "__module__", None) == module.__name__]


def unknown(module):
    """Return the names of what looks like a layer, and is of no kind that is known here."""
    found = {}
    for name, value in _own(module):
        layer = re.sub("_?(forward|backward)", "", name)
        both = inspect.isclass(value) and hasattr(value, "forward") and hasattr(value, "backward")
        if (both or (inspect.isfunction(value) and layer != name)) and not kind_of(name):
            found[layer] = True
    return list(found)


def find(module):
    """Return the layers of a module: [Layer], in the order of its text."""
    found = []
    for name, value in _own(module):
        if not (kind := kind_of(name)):
            continue
        if inspect.isclass(value):
            if _is_torch(value):
                found.append(_torch(name, kind, value))
            elif hasattr(value, "forward") and hasattr(value, "backward"):
                found.append(_class(name, kind, value))
        elif inspect.isfunction(value) and "forward" in name.lower():
            other = re.sub("forward", "backward", name)
            backward = vars(module).get(other)
            found.append(_pair(name.replace("_forward", ""), kind, value, backward))
    return found


def role(name):
    """Return what an argument of this name is, or None."""
    name = name.lower()
    return next((role for role, names in ROLES.items() if name in names.split()), None)


def _arguments(function, given, layout, positional=()):
    """Return the arguments by which a function is called: what it asks for, out of what is given."""
    values = []
    for i, parameter in enumerate(inspect.signature(function).parameters.values()):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        what = role(parameter.name)
        if what not in given and what != "param" and i < len(positional):
            what = positional[i]
        if what == "rate" and "rate" not in given:
            what = "pad"  # p
        if what == "param":
            values.append(_parameters(given))
        elif what in ("height", "width"):
            values.append(given["size"])
        elif what == "mode":
            values.append("train" if given.get("train", True) else "test")
        elif what in given:
            values.append(_laid_out(what, given[what], layout))
        elif parameter.default is parameter.empty:
            raise DataError(f"{function.__qualname__}: what is its argument {parameter.name}?")
        else:
            values.append(parameter.default)
    return values


def _parameters(given):
    size = given.get("size")
    found = {"stride": given.get("stride"), "pad": given.get("pad"), "padding": given.get("pad")}
    found |= {"pool_height": size, "pool_width": size, "f": size, "size": size, "kernel_size": size}
    found |= {"p": given.get("rate"), "keep_prob": given.get("rate"), "seed": 2012}
    found["mode"] = "train" if given.get("train", True) else "test"
    return {name: value for name, value in found.items() if value is not None}


def _laid_out(what, value, layout):
    if not isinstance(value, np.ndarray):
        return value
    if what == "b" and layout is LAYOUTS["N,H,W,C"]:
        return value.reshape(1, 1, 1, -1).copy()
    axes = layout[1] if what == "w" else layout[0]
    return value.transpose(axes).copy(order="C") if value.ndim == 4 else value.copy()  # it may write there


def _back(value, layout, weights=False):
    """Return a result in our order of axes."""
    value = np.asarray(value)
    if value.ndim != 4:
        return value
    return value.transpose(np.argsort(layout[1] if weights else layout[0]))


def _gradients(result, given, layout):
    """Return dx, dw, db of what backward returned, in our order; a plain dx where there is no w."""
    parts = list(result) if isinstance(result, tuple | list) else [result]
    if "w" not in given:
        return _back(parts[0], layout)
    shapes = [_laid_out(k, given[k], layout).shape for k in "xwb"]
    sizes = [int(np.prod(shape)) for shape in shapes]
    if len(parts) == 3:
        for order in itertools.permutations(range(3)):
            if [np.size(parts[i]) for i in order] == sizes:
                parts = [parts[i] for i in order]
                break
    if len(parts) != 3:
        raise DataError(f"backward: expected dx, dw, db, found {len(parts)} value(s)")
    dx, dw, db = parts
    db = np.asarray(db)
    return _back(dx, layout), _back(dw, layout, True), db.reshape(-1) if db.size == given["b"].size else db


def _first(result):
    return result[0] if isinstance(result, tuple | list) else result


def _order(kind):
    return ("x", "w", "b", "param") if kind in ("convolution", "linear") else ("x", "param")


def _pair(name, kind, forward, backward):
    """Two functions; forward returns (y, cache), or y alone."""
    layout, turned = _layout(
        kind, lambda given, layout: _first(forward(*_arguments(forward, given, layout, _order(kind))))
    )

    def ahead(**given):
        given = _turned(given, turned)
        return _back(_first(forward(*_arguments(forward, given, layout, _order(kind)))), layout)

    def back(dy, **given):
        given = _turned(given, turned)
        result = forward(*_arguments(forward, given, layout, _order(kind)))
        cache = result[1] if isinstance(result, tuple | list) and len(result) == 2 else result
        everything = {**given, "dy": dy, "cache": cache}
        asked = inspect.signature(backward).parameters
        if len(asked) == 2:
            found = backward(_laid_out("dy", dy, layout), cache)
        else:
            found = backward(*_arguments(backward, everything, layout, ("dy",)))
        return _turned_back(_gradients(found, given, layout), turned)

    return Layer(name, kind, _form("functions", layout, kind), ahead, back if backward else None)


def _class(name, kind, made):
    """A class with forward and backward, its parameters given to it or set afterwards."""

    def build(given, layout):
        roles = {role(p) for p in inspect.signature(made).parameters}
        more = dict(given)
        if "w" in given:
            more |= {"in": given["x"].shape[1], "out": given["b"].size}
        if kind == "convolution":
            more["size"] = given["w"].shape[2]
        layer = made(*_arguments(made, more, layout))
        for what in ("w", "b"):
            if what in given and what not in roles:
                _set(layer, what, _laid_out(what, given[what], layout))
        return layer

    def call(layer, given, layout):
        asked = [role(p) for p in inspect.signature(layer.forward).parameters]
        if "train" in asked or "mode" in asked or len(asked) > 1:
            return layer.forward(*_arguments(layer.forward, given, layout, ("x",)))
        for attribute in ("training", "train_flg", "mode"):
            if "train" in given and hasattr(layer, attribute):
                setattr(
                    layer,
                    attribute,
                    ("test", "train")[given["train"]] if attribute == "mode" else given["train"],
                )
        return layer.forward(_laid_out("x", given["x"], layout))

    layout, turned = _layout(kind, lambda given, layout: _first(call(build(given, layout), given, layout)))

    def ahead(**given):
        given = _turned(given, turned)
        return _back(_first(call(build(given, layout), given, layout)), layout)

    def back(dy, **given):
        given = _turned(given, turned)
        layer = build(given, layout)
        call(layer, given, layout)
        result = layer.backward(_laid_out("dy", dy, layout))
        if "w" in given and not (isinstance(result, tuple | list) and len(result) == 3):
            result = _first(result), _get(layer, "w"), _get(layer, "b")
        return _turned_back(_gradients(result, given, layout), turned)

    return Layer(name, kind, _form("class", layout, kind), ahead, back)


def _set(layer, what, value):
    names = [name for name in vars(layer) if role(name) == what]
    if not names:
        raise DataError(
            f"{type(layer).__name__}: where does it keep its {'weights' if what == 'w' else 'bias'}?"
        )
    old = getattr(layer, names[0])
    same = isinstance(old, np.ndarray) and old.size == value.size and what == "b"
    setattr(layer, names[0], value.reshape(old.shape) if same else value)


def _get(layer, what):
    """Return a gradient from where layers keep them: dW, grad_w, grads["W"], ..."""
    for name, value in vars(layer).items():
        bare = re.sub(r"^(d|grad|g)_?|_?grad(ient)?s?$", "", name, flags=re.IGNORECASE)
        if bare != name and bare and role(bare) == what and isinstance(value, np.ndarray):
            return value
    grads = next((v for n, v in vars(layer).items() if n.lower() in ("grads", "gradients", "grad")), None)
    if isinstance(grads, dict):
        for name, value in grads.items():
            if role(re.sub(r"^d_?(?=\w)", "", name, flags=re.IGNORECASE)) == what or role(name) == what:
                return value
    if isinstance(grads, list | tuple) and len(grads) == 2:
        return grads["wb".index(what)]
    raise DataError(f"{type(layer).__name__}: where does it keep the gradient of its {what}?")


def _is_torch(made):
    torch = sys.modules.get("torch")
    return bool(torch) and issubclass(made, torch.autograd.Function)


def _torch(name, kind, made):
    """A torch.autograd.Function; PyTorch calls its backward."""
    import torch

    def apply(given, layout, grad=False):
        signature = inspect.signature(made.forward)
        names = list(signature.parameters)[0 if hasattr(made, "setup_context") and _separate(made) else 1 :]
        tensors, values = {}, []
        for i, parameter in enumerate(names):
            what = role(parameter)
            if what not in given and i < 3:
                what = ("x", "w", "b")[i]
            if what in ("height", "width"):
                what = "size"
            if what not in given:
                if signature.parameters[parameter].default is inspect.Parameter.empty:
                    raise DataError(f"{name}: what is its argument {parameter}?")
                values.append(signature.parameters[parameter].default)
                continue
            value = _laid_out(what, given[what], layout)
            if isinstance(value, np.ndarray):
                value = tensors[what] = torch.tensor(value, requires_grad=grad)
            values.append(value)
        return _first(made.apply(*values)), tensors

    layout, turned = _layout(kind, lambda given, layout: apply(given, layout)[0].numpy())

    def ahead(**given):
        return _back(apply(_turned(given, turned), layout)[0].detach().numpy(), layout)

    def back(dy, **given):
        given = _turned(given, turned)
        y, tensors = apply(given, layout, grad=True)
        wanted = [tensors[k] for k in "xwb" if k in tensors]
        found = torch.autograd.grad(y, wanted, torch.tensor(_laid_out("dy", dy, layout)), allow_unused=True)
        parts = tuple(
            np.zeros(t.shape) if g is None else g.numpy() for g, t in zip(found, wanted, strict=True)
        )
        return _turned_back(_gradients(parts, given, layout), turned)

    return Layer(name, kind, _form("autograd.Function", layout, kind), ahead, back)


def _separate(made):
    """Does it have a setup_context of its own, and so a forward without ctx?"""
    return "setup_context" in vars(made)


def _layout(kind, call):
    """Find the order of axes that a layer expects: the first in which its output has the right shape.

    Returns (layout, are the weights of a linear layer the other way round).
    """
    rng = np.random.default_rng(0)
    if kind == "linear":
        given = {"x": rng.standard_normal((3, 5)), "w": rng.standard_normal((5, 4)), "b": np.zeros(4)}
        for turned in (False, True):
            try:
                if np.shape(call(_turned(given, turned), PLAIN)) == (3, 4):
                    return PLAIN, turned
            except Exception:
                continue
        return PLAIN, False
    given, shape = {"x": rng.standard_normal((2, 3, 6, 6))}, (2, 3, 6, 6)
    if kind == "convolution":
        given |= {"w": rng.standard_normal((5, 3, 3, 3)), "b": np.zeros(5), "stride": 1, "pad": 1}
        shape = (2, 5, 6, 6)
    elif kind == "max pooling":
        given |= {"size": 2, "stride": 2, "pad": 0}
        shape = (2, 3, 3, 3)
    else:
        return PLAIN, False
    for layout in LAYOUTS.values():
        try:
            if _back(call(given, layout), layout).shape == shape:
                return layout, False
        except Exception:
            continue
    return PLAIN, False


def _turned(given, turned):
    return {**given, "w": np.ascontiguousarray(given["w"].T)} if turned else given


def _turned_back(gradients, turned):
    return (gradients[0], gradients[1].T, gradients[2]) if turned else gradients


def _form(form, layout, kind):
    if kind not in ("convolution", "max pooling"):
        return form
    return f"{form}, {next(name for name, value in LAYOUTS.items() if value is layout)}"
