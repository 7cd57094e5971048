"""Fields that come from JSON or from a user: of their annotation's type, plain, finite."""

import math
from dataclasses import MISSING, fields
from types import UnionType
from typing import get_args, get_origin

import numpy as np

from tinyalex.errors import ArgumentError, DataError, few

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
    try:
        return check_fields(kind(**fields), kind, what)
    except ArgumentError as error:
        raise DataError(str(error)) from None


def check_fields(made, kind, what):
    """Return a NamedTuple of this kind as plain data; ArgumentError unless each is of its annotation."""
    of_kind(kind, made, what)
    for name, value in made._asdict().items():
        wanted = kind.__annotations__[name]
        expect(fits(plain_data(value), wanted), f"{what}: {name}", in_words(wanted), value)
    return made._make(map(plain_data, made))


def exactly(names, entry, what):
    """Return a dict's values in the order of these names; DataError unless it has just these."""
    if not isinstance(entry, dict) or set(entry) != set(names):
        found = sorted(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise DataError(f"{what}: expected {' and '.join(sorted(names))}, found {str(found)[:80]}")
    return [entry[name] for name in names]


def each_of_a_kind(kinds, entries, what):
    """Make what a list of dicts describes: of each entry's "kind", a name in kinds, with its other fields."""
    if not isinstance(entries, list) or not entries:
        found = "an empty one" if entries == [] else type(entries).__name__
        raise DataError(f"{what}: expected a list of {what}, found {found}")
    return [_of_a_kind(kinds, entry, what) for entry in entries]


def _of_a_kind(kinds, entry, what):
    kind = kinds.get(str(entry.get("kind"))) if isinstance(entry, dict) else None
    if kind is None:
        named = isinstance(entry, dict) and isinstance(entry.get("kind"), str)
        own = "; is it your own?  Then run the file that declares it first: tinyalex --layers FILE.py …"
        raise DataError(
            f"{what}: expected one of the kinds {', '.join(kinds)}, found {str(entry)[:80]}{own * named}"
        )
    given = {key: value for key, value in entry.items() if key != "kind"}
    known = {f.name: f.default is f.default_factory is MISSING for f in fields(kind) if f.init}
    missing = [name for name, needed in known.items() if needed and name not in given]
    unknown = sorted(given.keys() - known.keys())
    if missing or unknown:
        found = f"{few(missing)} missing" if missing else few(unknown)
        wanted = f"{str(entry.get('name'))[:40]}: expected a {entry['kind']}'s fields, {', '.join(known)}"
        raise DataError(f"{what}: {wanted}, found {found}")
    try:
        return kind(**given)
    except ArgumentError as error:
        raise DataError(f"{what}: {error}") from error
    except TypeError as error:
        raise DataError(f"{what}: {str(entry.get('name'))[:40]}: {error}") from error


def expect(right, what, wanted, found):
    """Raise ArgumentError, naming what was expected of what argument, and what was found, unless right."""
    if not right:
        raise ArgumentError(f"{what}: expected {wanted}, found {told(found)}")


def one_of(names, value, what):
    """Raise ArgumentError unless the value is one of these names; it may be anything, unhashable too."""
    expect(value in [*names], what, f"one of {', '.join(names)}", value)


def returned(found, names, what):
    """Return what a function returned; ArgumentError unless it is a tuple or list, one for each name."""
    right = isinstance(found, tuple | list) and len(found) == len(names)
    expect(right, what, f"({', '.join(names)})", found)
    return found


def batch_of(shape, x, what, kind):
    """Return x; ArgumentError unless it is an array (*shape, N)."""
    dims = getattr(x, "shape", ())
    if dims[:-1] != shape:
        expect(False, what, f"{kind} ({', '.join(map(str, (*shape, 'N')))})", dims or type(x))
    return x


def of_kind(kind, value, what):
    """Return the value; ArgumentError unless it is of this kind."""
    article = "an" if kind.__name__[0] in "AEIOUaeiou" else "a"
    expect(isinstance(value, kind), what, f"{article} {kind.__name__}", value)
    return value


def told(value):
    """Return a value for a message: of an array dtype and shape, of what is no plain data its kind."""
    if isinstance(value, type):
        return value.__name__
    if hasattr(value, "dtype"):
        return f"{value.dtype} {value.shape}" if value.shape else repr(value.item())
    plain = isinstance(value, str | int | float | dict | None) or type(value) in (tuple, list)
    return " ".join(f"{value!r:.80}".split()) if plain else type(value).__name__


def check_functions(whose, /, **functions):
    """Raise ArgumentError, naming it, unless each can be called."""
    for name, function in functions.items():
        expect(callable(function), f"{whose}{name}", "a function", function)


def check_rng(rng):
    """Raise ArgumentError unless it is a generator of NumPy's."""
    expect(isinstance(rng, np.random.Generator), "rng", "a generator, such as np.random.default_rng(0)", rng)


def generator(rng):
    """Return the generator rng, or that of the seed rng, None for None; ArgumentError for anything else."""
    try:
        return None if rng is None else np.random.default_rng(rng)
    except (TypeError, ValueError):
        raise ArgumentError(f"rng: expected a generator of NumPy's or a seed, found {told(rng)}") from None


def check_numbers(whose, least=None, kind=float, /, **numbers):
    """Raise ArgumentError, naming it, unless each number is finite and ≥ least, Python's or NumPy's.

    whose: what stands before the name: "lrn: ".  kind: int for whole numbers alone.
    """
    for name, number in numbers.items():
        if not fits(plain_data(number), kind) or (least is not None and number < least):
            wanted = "a whole number" if kind is int else "a finite number"
            wanted += "" if least is None else f" ≥ {least}"
            raise ArgumentError(f"{whose}{name}: expected {wanted}, found {number!r}")


def finite(arrays):
    """Return the arrays, a dict by name; DataError, naming the first, if one holds a NaN or an infinity."""
    for name, array in arrays.items():
        good = np.isfinite(array)
        if not good.all():
            bad = array.size - np.count_nonzero(good)
            raise DataError(f"{name}: expected finite numbers, found {bad:,} of {array.size:,} that are not")
    return arrays


def at_least(least, *names):
    """Return the checks of fields, as `tinyalex.nn.Layer` has them, whose numbers are finite and ≥ least."""
    return {name: lambda value, name=name: check_numbers("", least, **{name: value}) for name in names}


def fits(value, wanted):
    """Whether a value is of an annotation (a class, a tuple[…, ...] or a union of such), and sound."""
    return _is_a(value, wanted) and _sound(value)


def in_words(wanted):
    """Return an annotation in words, for a message: "a whole number or null"."""
    if get_origin(wanted) is tuple:
        return f"a list, each of it {in_words(get_args(wanted)[0])}"
    if get_args(wanted):
        return " or ".join(map(in_words, get_args(wanted)))
    return WORDS.get(wanted, wanted.__name__)


def plain_data(value):
    """Return the value with lists as tuples, and NumPy's numbers and arrays as Python's."""
    if hasattr(value, "dtype"):
        value = value.tolist()
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return tuple(map(plain_data, value))
    return value


def _is_a(value, wanted):
    if isinstance(wanted, UnionType):
        return any(_is_a(value, one) for one in get_args(wanted))
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_is_a(element, get_args(wanted)[0]) for element in value)
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, wanted) or (type(value) is int and wanted is float)


def _sound(value):
    if isinstance(value, tuple):
        return all(map(_sound, value))
    if isinstance(value, int):
        return abs(value) < LARGEST
    return not isinstance(value, float) or math.isfinite(value)
