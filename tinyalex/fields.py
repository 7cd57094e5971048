"""NamedTuples from JSON that is not trusted."""

import math
from typing import get_args, get_origin

from tinyalex.errors import DataError, few

LARGEST = 1 << 63
WORDS = {
    int: "a whole number", float: "a finite number", bool: "true or false", str: "text", tuple: "a list",
    dict: "named fields", type(None): "null",
}  # fmt: skip


def checked(kind, fields, what):
    """Build a NamedTuple from a dict of JSON's types, lists as tuples; DataError, naming what and the field.

    Every value must be of its field's annotation, and so each element of a tuple[int, ...]; a whole number is
    a float as well; floats are finite.
    """
    if not isinstance(fields, dict):
        raise DataError(f"{what}: expected named fields, found {type(fields).__name__}")
    unknown = fields.keys() - set(kind._fields)
    missing = set(kind._fields) - fields.keys() - kind._field_defaults.keys()
    if unknown or missing:
        found = [f"{few(sorted(unknown))} besides"] * bool(unknown)
        found += [f"{few(sorted(missing))} missing"] * bool(missing)
        raise DataError(f"{what}: expected the fields {', '.join(kind._fields)}, found {', '.join(found)}")
    made = kind(**{name: _tuples(value) for name, value in fields.items()})
    for name, value in made._asdict().items():
        wanted = kind.__annotations__[name]
        if not _fits(value, wanted) or not _sound(value):
            found = repr(fields.get(name, value))[:80]
            raise DataError(f"{what}: {name}: expected {_words(wanted)}, found {found}")
    return made


def _words(wanted):
    """An annotation in words."""
    if get_origin(wanted) is tuple:
        return f"a list, each of it {_words(get_args(wanted)[0])}"
    if get_args(wanted):
        return " or ".join(map(_words, get_args(wanted)))
    return WORDS.get(wanted, wanted.__name__)


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
