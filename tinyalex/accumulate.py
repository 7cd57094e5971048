"""A batch larger than the memory: it goes through the network in parts, whose gradients are added up."""

import functools

from tinyalex.errors import ArgumentError
from tinyalex.ops.cuda.graph import host


def add(before, then, layer):
    """After a layer's backward: add the gradients of the parts before; in the last part, hand them on."""
    if then is None or before:
        for key, gradient in layer.grads.items():
            place = layer.name, key
            before[place] = layer.grads[key] = before[place] + gradient if place in before else gradient
    if then:
        then(layer)


def parts_of(net, parts, images, labels):
    """Count the parts of a batch; in each, dropout takes this part's images of one mask, drawn again."""
    N = images.shape[-1]
    if labels.shape != (N,) or N % parts:
        equal = f", in {parts} equal parts" if parts > 1 else ""
        raise ArgumentError(f"train_step: expected {N} labels{equal}, one an image; found {labels.shape}")
    states, layers = [], list(net.layers.values())
    whole = [layer.images for layer in layers]

    def draw_again(part):
        if part == 0:
            states[:] = [net.rng.bit_generator.state]
        net.rng.bit_generator.state = states[0]

    for part in range(parts):
        if parts > 1 and net.rng:
            host(functools.partial(draw_again, part))
        for layer, (first, of) in zip(layers, whole, strict=True):
            layer.images = first * parts + part, of * parts
        yield part
    for layer, images in zip(layers, whole, strict=True):
        layer.images = images
