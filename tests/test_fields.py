"""NamedTuples from JSON: each value is of its field's annotation, the elements of tuples too."""

from typing import NamedTuple

import pytest

from tinyalex.errors import DataError
from tinyalex.fields import checked


class Thing(NamedTuple):
    """One field of each sort that is used."""

    sizes: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    rows: tuple = ()
    side: int | None = None
    rate: float = 0.0
    flip: bool = False


def test_what_fits_is_taken():
    fields = {"sizes": [1, 2], "mean": [0.5, 2], "rows": [["relu"], [1]], "side": 3, "rate": 1, "flip": True}
    assert checked(Thing, fields, "thing") == Thing((1, 2), (0.5, 2), (("relu",), (1,)), 3, 1, True)
    assert checked(Thing, {"side": None}, "thing") == Thing()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sizes": [1, "2"]}, r"sizes: expected a list, each of it a whole number, found \[1, '2'\]"),
        ({"sizes": [1, 2.0]}, r"sizes: expected a list, each of it a whole number"),
        ({"sizes": [True]}, r"sizes: expected a list, each of it a whole number"),
        ({"sizes": [[1]]}, r"sizes: expected a list, each of it a whole number"),
        ({"sizes": 1}, r"sizes: expected a list, each of it a whole number"),
        ({"sizes": [1 << 63]}, r"sizes: expected a list, each of it a whole number"),
        ({"mean": [0.5, "a"]}, r"mean: expected a list, each of it a finite number"),
        ({"mean": [0.5, None]}, r"mean: expected a list, each of it a finite number"),
        ({"mean": [float("nan")]}, r"mean: expected a list, each of it a finite number"),
        ({"rows": [[0.5, [float("inf")]]]}, "rows: expected a list, found"),
        ({"side": True}, r"side: expected a whole number or null, found True"),
        ({"rate": True}, "rate: expected a finite number, found True"),
        ({"flip": 1}, "flip: expected true or false, found 1"),
    ],
    ids=str,
)
def test_what_does_not_is_named(fields, message):
    with pytest.raises(DataError, match="thing: " + message):
        checked(Thing, fields, "thing")


def test_fields_too_many_or_too_few_are_named():
    class Pair(NamedTuple):
        a: int
        b: int

    with pytest.raises(DataError, match="pair: expected the fields a, b, found c besides, b missing"):
        checked(Pair, {"a": 1, "c": 2}, "pair")
