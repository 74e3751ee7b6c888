"""Messages for users: short, on one line, whatever the value is."""

import pickle

import numpy as np
import pytest

from xsample_jax.errors import (
    LARGEST_FLOAT32,
    LONGEST,
    SMALLEST_FLOAT32,
    ConfigError,
    Problems,
    UserError,
    did_you_mean,
    fits_float32,
)

VALUES = [
    "x" * 10_000,
    10**400,
    10**5000,
    list(range(10_000)),
    {"a": "b" * 5000},
    b"\0" * 9999,
    "two\nlines\x1b[31m",
    object(),
    None,
]


class Broken:
    def __repr__(self):
        raise RuntimeError


@pytest.mark.parametrize("value", [*VALUES, Broken()], ids=lambda value: type(value).__name__)
def test_a_message_is_short_and_on_one_line(value):
    """faults, bad input: UserError shortens values once for all."""
    error = UserError("some.field", value, "a number", "Set it to 1.")
    text = str(error)
    assert len(text) <= LONGEST
    assert "\n" not in text
    assert "\x1b" not in text
    assert text.startswith("some.field = ")
    assert text.endswith(": expected a number. Set it to 1.")
    assert error.value is value


def test_every_part_is_bounded_and_what_fits_is_whole():
    long = UserError("f" * 900, "v" * 900, "e" * 900, "x" * 900)
    assert len(str(long)) <= LONGEST
    whole = UserError("a.b", 1, "e" * 200, "x" * 200)
    assert "e" * 200 in str(whole)
    assert "x" * 200 in str(whole)


def test_many_problems_are_counted_and_survive_a_process():
    problems = Problems([ConfigError(f"key{n}", n, "another") for n in range(50)], "the config")
    assert "50 problem(s)" in str(problems)
    assert "and 30 more" in str(problems)
    assert str(pickle.loads(pickle.dumps(problems))) == str(problems)
    assert len(did_you_mean("zzz", [f"word{n}" for n in range(500)])) < 250


def test_float32_is_known_exactly():
    """faults A9: the bounds stood in two places, one of them rounded: the largest number of float32 did not fit."""
    largest = float(np.finfo(np.float32).max)
    assert (float(np.finfo(np.float32).tiny), largest) == (SMALLEST_FLOAT32, LARGEST_FLOAT32)
    assert fits_float32(largest)
    assert not fits_float32(float(np.nextafter(largest, np.inf)))
