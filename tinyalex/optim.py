"""The paper's update rule (section 5; 2012: src/weights.cu:152,193,195).

    v ← momentum · v − decay · ε · w − ε · ∂L/∂w
    w ← w + v

L is the mean over the batch.  The rate ε is inside the velocity, as the paper prints it: after a change
of ε the old velocity fades with the old rate.
"""

import numpy as np

from tinyalex.errors import ArgumentError
from tinyalex.fields import check_numbers, expect, fits, of_kind, plain_data
from tinyalex.memory import zeros
from tinyalex.ops.checks import xp_of
from tinyalex.ops.cuda.sgd import Update

BLOCK = 1 << 18  # numbers: their arrays stay in cache; with fewer, two ranks often wait for Python's lock


class SGD:
    """Stochastic gradient descent with momentum over a model's parameters.

    rate: ε for the weights.  bias_rate: ε for the biases; defaults to rate (2012 began with twice that).
    decay: on weights and biases, as the text reads; decay_biases=False leaves biases alone, as 2012 did.
    decays: of single layers, by name, in place of decay.
    scale: factors on ε by the names of layers and parameters: {"conv1": 0.0} freezes conv1, {"conv1.w": 0.1}
    slows its weights alone.  A parameter whose rate is 0 is not updated; its velocity is kept (2012:
    Weights::update, src/weights.cu).

    Raises ArgumentError for a number that is negative or not finite, here or, where it was set later, in a
    step; and for a name that the model does not have.
    """

    def __init__(
        self,
        model,
        rate: float,
        momentum: float = 0.9,
        decay: float = 0.0,
        bias_rate: float | None = None,
        decay_biases: bool = True,
        scale: dict[str, float] | None = None,
        decays: dict[str, float] | None = None,
    ):
        self.model, self.rate, self.bias_rate, self.decay_biases = model, rate, bias_rate, decay_biases
        self.momentum, self.decay, self.decays, self.scale = momentum, decay, decays or {}, scale or {}
        expect(fits(plain_data(decay_biases), bool), "decay_biases", "true or false", decay_biases)
        expect(hasattr(model, "learned"), "model", "a network, such as a Sequential", model)
        self.velocity, self._on_gpu = {}, {}  # of a GPU's arrays the `Update`, by the name of the first
        for name, layer, key in model.learned():
            expect(key in layer.params, name, "weights: build it with rng, or load a checkpoint", None)
            self.velocity[name] = zeros(xp_of(w := layer.params[key]), w.shape, w.dtype)
        layers = {name.rpartition(".")[0] for name in self.velocity}
        known = {"scale": (self.scale, layers | self.velocity.keys()), "decays": (self.decays, layers)}
        for argument, (given, names) in known.items():
            if unknown := of_kind(dict, given, argument).keys() - names:
                raise ArgumentError(f"{argument}: the model has no weights in {', '.join(sorted(unknown))}")
        self._check()

    def _check(self):
        """Raise unless all rates, factors and decays are finite and ≥ 0; a schedule may set them anew."""
        bias_rate = self.rate if self.bias_rate is None else self.bias_rate
        numbers = {"rate": self.rate, "bias_rate": bias_rate, "momentum": self.momentum, "decay": self.decay}
        numbers |= {f"scale of {name}": factor for name, factor in self.scale.items()}
        numbers |= {f"decay of {name}": decay for name, decay in self.decays.items()}
        check_numbers("", 0, **numbers)

    def rate_of(self, name: str) -> float:
        """Return ε for a parameter, by its name."""
        layer, _, key = name.rpartition(".")
        rate = self.bias_rate if key == "b" and self.bias_rate is not None else self.rate
        return rate * self.scale.get(name, 1.0) * self.scale.get(layer, 1.0)

    def step(self, loss=None, model=None) -> None:
        """Update every parameter in place from the layers' ``grads``.

        loss: a scalar array; where it is not finite nothing is updated.  (So the loss need not be read
        before: on a GPU the host goes on at once.)  model: a part of the model, to update no other layers.
        """
        learned = list((model or self.model).learned())
        for name, layer, key in learned:
            expect(key in layer.grads, name, "a gradient, of a backward pass", None)
        arrays = [(layer.params[key], self.velocity[name], layer.grads[key]) for name, layer, key in learned]
        if self.model.comm.device.xp is not np:
            first = learned[0][0]
            self._on_gpu[first] = self._on_gpu.get(first) or Update([w for w, _, _ in arrays])
            self._on_gpu[first](arrays, lambda: self._rates(learned), loss)
        elif loss is None or np.isfinite(loss):
            for three, rates in zip(arrays, self._rates(learned), strict=True):
                _update(*(a.reshape(-1) for a in three), *rates)

    def _rates(self, learned):
        """Return (momentum, ε, decay · ε) of each parameter."""
        self._check()
        found = []
        for name, _, key in learned:
            rate = self.rate_of(name)
            decay = self.decays.get(name.rpartition(".")[0], self.decay)
            decay = decay if key != "b" or self.decay_biases else 0.0
            found.append((self.momentum, rate, decay * rate))
        return found


def _update(w, v, g, momentum, rate, decay_rate):
    # In blocks: for the whole of fc6 each product would take 151 MB more, and each of six passes would fetch
    # its arrays anew.
    if not rate:
        return
    number = w.dtype.type
    for start in range(0, w.size, BLOCK):
        wb, vb, gb = (a[start : start + BLOCK] for a in (w, v, g))
        vb *= number(momentum)
        if decay_rate:
            vb -= wb * number(decay_rate)
        vb -= gb * number(rate)
        wb += vb
