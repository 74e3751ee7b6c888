"""Entries of rows as captions and labels, in all the types that tables, JSON and TFDS have for them."""

import decimal
import math

import numpy as np
import pytest

from xsample_jax.errors import DataError
from xsample_jax.prepare.example import attribute_value, read_captions, read_label


@pytest.mark.parametrize(
    "value",
    [["one", None, "two"], ("one", "two"), np.array(["one", "two"]), np.array([b"one", b"two"], object),
     np.array([["one"], ["two"]])],
)  # fmt: skip
def test_several_texts_in_one_entry(value):
    assert read_captions({"a": value, "b": "three"}, ("b", "a"), ()) == ("three", "one", "two")
    assert read_captions({"a": value, "b": "three"}, (), ("a",)) == ("one", "two")


@pytest.mark.parametrize("name", ["caption", "captions", "text", "txt"])
def test_the_usual_names_are_the_same_in_every_source(name):
    assert read_captions({name: "a dog"}, ()) == ("a dog",)


@pytest.mark.parametrize("value", [None, math.nan, "nan", " NaN", "<NA>", ""])
def test_no_value_of_an_attribute(value):
    assert attribute_value({"a": value}, "a") == ""
    assert attribute_value({"a": "none"}, "a") == "none"  # which is a value of many


@pytest.mark.parametrize("value", [None, math.nan, np.array([]), np.float32("nan")])
def test_no_caption(value):
    assert read_captions({"a": value}, ("a", "b"), ()) == read_captions({"a": value}, (), ("a",)) == ()


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (2.5, "2.5"), (decimal.Decimal("1.10"), "1.10"), ([7], "7")])
def test_numbers_are_captions(value, text):
    assert read_captions({"a": value}, ("a",), ()) == (text,)


@pytest.mark.parametrize("value", [{"raw": "a dog"}, False, [{"raw": "a dog"}], [["a", "b"]]])
def test_what_is_no_text_is_an_error_where_it_was_asked_for(value):
    with pytest.raises(DataError, match=r"^a = .*: expected a text"):
        read_captions({"a": value}, ("a",), ())
    assert read_captions({"a": value}, (), ("a",)) == ()


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (3, 3),
        ("3", "3"),
        (3.0, 3),
        (np.int64(3), 3),
        (np.array(3), 3),
        (b"3", "3"),
        (decimal.Decimal(3), 3),
        (-1, -1),
        ("cat", "cat"),
        (b"cat", "cat"),
        (np.str_("cat"), "cat"),
        ("2.7", "2.7"),
        ("3.0", "3.0"),
        (" 3 ", "3"),
        ("1_0", "1_0"),
        ("n01440764", "n01440764"),
        ("9" * 5000, "9" * 5000),
        ("  ", None),
        ("inf", "inf"),
        (None, None),
        ("", None),
        (math.nan, None),
        (np.float32("nan"), None),
    ],
)
def test_numbers_names_and_nothing(value, label):
    for row, name in (({"k": value}, "k"), ({"label": value}, "")):
        found = read_label(row, name)
        assert found == label
        assert type(found) is type(label)


@pytest.mark.parametrize("value", [[1], {"a": 1}, [], math.inf, 2.7, np.array([1, 2]), np.array([3]), np.float32(2.5)])
def test_what_is_no_label_is_an_error_where_it_was_asked_for(value):
    with pytest.raises(DataError, match=r"^k = .*: expected a whole number or a text"):
        read_label({"k": value}, "k")
    assert read_label({"label": value}, "") is None
