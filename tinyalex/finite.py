"""Where a step's numbers first ceased to be finite: what its error says."""

from tinyalex.errors import NonFiniteError


def not_finite(loss, net, optimizer, images, step):
    """Return a step's NonFiniteError, which names the first of its forward pass's numbers that is not."""
    xp = net.comm.device.xp
    found = [(place, bool(xp.isfinite(array).all())) for place, array in _trace(net, images)]
    places, finite = zip(*found, ("the loss", False), strict=True)
    # Some rank may have seen what the others did not.
    first = int(net.comm.all_gather(xp.asarray([finite.index(False)])).min())
    return NonFiniteError(
        f"step {step}: the loss is {loss} (learning rate {optimizer.rate:g}); "
        f"first not finite: {places[first]}"
    )


def _trace(net, x):
    """Yield (name, array) of all that a forward pass computes with, in its order."""
    yield "the input", x
    for name, layer in net.layers.items():
        for key, array in layer.params.items():
            yield f"parameter {name}.{key}", array
        x = layer.forward(x)
        yield f"the output of {name}", x
