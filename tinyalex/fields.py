"""NamedTuples from JSON that is not trusted."""

import math
from typing import get_args, get_origin

from tinyalex.errors import DataError

LARGEST = 1 << 63


def checked(kind, fields, what):
    """Build a NamedTuple from a dict of JSON's types, lists as tuples; DataError, naming what and the field.

    Every value must be of its field's annotation, and so each element of a tuple[int, ...]; a whole number is
    a float as well; floats are finite.
    """
    if not isinstance(fields, dict):
        raise DataError(f"{what}: expected named fields, found {type(fields).__name__}")
    try:
        made = kind(**{name: _tuples(value) for name, value in fields.items()})
    except TypeError as error:
        raise DataError(f"{what}: {error}") from error
    for name, value in made._asdict().items():
        wanted = kind.__annotations__[name]
        if not _fits(value, wanted) or not _sound(value):
            name_of = str(wanted) if get_origin(wanted) else wanted.__name__
            raise DataError(f"{what}: {name}: expected {name_of}, found {str(value)[:80]}")
    return made


def _fits(value, wanted):
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_fits(element, get_args(wanted)[0]) for element in value)
    if isinstance(value, bool):
        return bool in (wanted, *get_args(wanted))
    return isinstance(value, wanted) or (type(value) is int and isinstance(0.5, wanted))


def _sound(value):
    if isinstance(value, tuple):
        return all(map(_sound, value))
    if isinstance(value, int):
        return abs(value) < LARGEST
    return not isinstance(value, float) or math.isfinite(value)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
