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
        ({"sizes": [1, "2"]}, r"sizes: expected tuple\[int, \.\.\.\], found \(1, '2'\)"),
        ({"sizes": [1, 2.0]}, r"sizes: expected tuple\[int"),
        ({"sizes": [True]}, r"sizes: expected tuple\[int"),
        ({"sizes": [[1]]}, r"sizes: expected tuple\[int"),
        ({"sizes": 1}, r"sizes: expected tuple\[int"),
        ({"sizes": [1 << 63]}, r"sizes: expected tuple\[int"),
        ({"mean": [0.5, "a"]}, r"mean: expected tuple\[float"),
        ({"mean": [0.5, None]}, r"mean: expected tuple\[float"),
        ({"mean": [float("nan")]}, r"mean: expected tuple\[float"),
        ({"rows": [[0.5, [float("inf")]]]}, "rows: expected tuple, found"),
        ({"side": True}, r"side: expected int \| None, found True"),
        ({"rate": True}, "rate: expected float, found True"),
        ({"flip": 1}, "flip: expected bool, found 1"),
    ],
    ids=str,
)
def test_what_does_not_is_named(fields, message):
    with pytest.raises(DataError, match="thing: " + message):
        checked(Thing, fields, "thing")
