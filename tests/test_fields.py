"""NamedTuples from JSON: each value is of its field's annotation, the elements of tuples too."""

from typing import NamedTuple

import numpy as np
import pytest

from tinyalex.data import Images
from tinyalex.errors import ArgumentError, DataError
from tinyalex.fields import check_fields, checked, of_kind, told


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


def test_a_named_tuple_of_a_user_s_is_checked_and_made_plain():
    """Lists and NumPy's numbers are taken for what they mean."""
    own = Thing([1, np.int64(2)], np.array([0.5, 2]), flip=np.True_)
    assert repr(check_fields(own, Thing, "thing")) == repr(Thing((1, 2), (0.5, 2.0), flip=True))
    with pytest.raises(ArgumentError, match="thing: flip: expected true or false, found 1"):
        check_fields(Thing(flip=1), Thing, "thing")
    with pytest.raises(ArgumentError, match="thing: expected a Thing, found None"):
        check_fields(None, Thing, "thing")


def test_an_article_fits_its_kind():
    with pytest.raises(ArgumentError, match="x: expected an int, found None"):
        of_kind(int, None, "x")
    with pytest.raises(ArgumentError, match="source: expected an Images, found None"):
        of_kind(Images, None, "source")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "None"),
        ("cpu:0", "'cpu:0'"),
        ([1, 2], "[1, 2]"),
        (np.ones((2, 3)), "float64 (2, 3)"),
        (np.float32(0.5), "0.5"),
        (Thing(), "Thing"),
        (Thing, "Thing"),
        (object(), "object"),
        ([0] * 100, repr([0] * 100)[:80]),
        ((np.eye(2), 1), "(array([[1., 0.], [0., 1.]]), 1)"),
    ],
)
def test_a_value_is_told_in_a_line(value, says):
    assert told(value) == says
