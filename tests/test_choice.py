"""A choice is a name, or a name with options; whatever is wrong with it is said."""

from functools import partial

import pytest

from xsample_jax.errors import ConfigError
from xsample_jax.registry import name_of, options_of, resolve


def plain(x):
    return x


def scaled(x, *, by, offset=1.0):
    return by * x + offset


REGISTRY = {"plain": plain, "scaled": scaled}


def test_names_and_options():
    assert name_of("plain") == "plain"
    assert name_of({"name": "scaled", "by": 2}) == "scaled"
    assert name_of({"by": 2}) == ""
    assert options_of("plain") == {}
    assert options_of({"name": "scaled", "by": 2, "offset": 0}) == {"by": 2, "offset": 0}


def test_resolve_binds_options():
    assert resolve(REGISTRY, "plain", "f") is plain
    assert resolve(REGISTRY, {"name": "scaled", "by": 3.0}, "f")(2.0) == 7.0
    bound = resolve(REGISTRY, {"name": "scaled", "by": 3.0, "offset": 0.0}, "f")
    assert isinstance(bound, partial)
    assert bound(2.0) == 6.0


@pytest.mark.parametrize(
    ("choice", "field", "words"),
    [
        ("skaled", "terms", "Did you mean scaled?"),
        ({"by": 2}, "terms", "one of plain, scaled"),
        ({"name": "scaled", "by": 2, "ofset": 1}, "terms.ofset", "Did you mean offset?"),
        ({"name": "plain", "by": 2}, "terms.by", "'plain' has no options"),
        ("scaled", "terms.by", "'scaled' needs it"),
    ],
)
def test_what_is_wrong_is_said(choice, field, words):
    with pytest.raises(ConfigError, match="expected") as caught:
        resolve(REGISTRY, choice, "terms")
    assert caught.value.field == field
    assert words in str(caught.value)
