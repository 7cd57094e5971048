"""NamedTuples from JSON that is not trusted."""

import math

from tinyalex.errors import DataError

LARGEST = 1 << 63


def checked(kind, fields, what):
    """Build a NamedTuple from a dict of JSON's types, lists as tuples; DataError, naming what and the field.

    Every value must be of its field's annotation (a whole number is a float as well); floats are finite.
    """
    if not isinstance(fields, dict):
        raise DataError(f"{what}: expected named fields, found {type(fields).__name__}")
    try:
        made = kind(**{name: _tuples(value) for name, value in fields.items()})
    except TypeError as error:
        raise DataError(f"{what}: {error}") from error
    for name, value in made._asdict().items():
        wanted = kind.__annotations__[name]
        fits = isinstance(value, wanted) or (type(value) is int and isinstance(0.5, wanted))
        if isinstance(value, bool):
            fits = isinstance(True, wanted) and wanted is not int
        numbers = value if isinstance(value, tuple) else (value,)
        if not fits or not all(map(_sound, numbers)):
            name_of = getattr(wanted, "__name__", str(wanted))
            raise DataError(f"{what}: {name}: expected {name_of}, found {str(value)[:80]}")
    return made


def _sound(value):
    if isinstance(value, int):
        return abs(value) < LARGEST
    return not isinstance(value, float) or math.isfinite(value)


def _tuples(value):
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
