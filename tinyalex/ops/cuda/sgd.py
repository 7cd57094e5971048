"""The update of weights and velocities on the GPU, in one pass."""

from tinyalex.ops.cuda.launch import launch


def sgd(w, g, v, momentum, rate, decay_rate):
    """v ← momentum · v − decay_rate · w − rate · g, w ← w + v, in place.  All of one size, contiguous."""
    launch(
        "sgd.sgd", (w.size,), w, v, g, w.size, float(momentum), float(rate), float(decay_rate),
        nbytes=5 * w.nbytes,
    )  # fmt: skip
