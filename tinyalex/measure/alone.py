"""One layer of a network by itself, as `bench` times it."""

from dataclasses import replace

from tinyalex.errors import ArgumentError
from tinyalex.models import Network
from tinyalex.nn import LRN, Conv2d, Linear, Local2d


def alone(network, name, ranks=1, parallel="model"):
    """Return (the network of one layer alone, as one of so many ranks holds it; the parts of a batch).

    Raises ArgumentError for a name that the network does not have.
    """
    placed = {place.layer.name: place for place in network.plan(ranks, parallel)}
    if name not in placed:
        raise ArgumentError(f"bench: expected one of {', '.join(placed)}; found {name!r}")
    place = placed[name]
    layer, own, ranks = place.layer, place.own(place.x, place.split_x), place.ranks
    if isinstance(layer, Local2d):
        layer = replace(layer, filters=layer.filters // ranks)
    elif isinstance(layer, Conv2d):
        layer = replace(layer, filters=layer.filters // ranks, groups=max(1, layer.groups // ranks))
    elif isinstance(layer, Linear):
        layer = replace(layer, features=layer.features // ranks)
    elif isinstance(layer, LRN) and place.split_x:
        layer = replace(layer, groups=layer.groups // ranks)
    layer.need_dx = getattr(place.layer, "need_dx", True)
    return Network([layer], own), place.parts
