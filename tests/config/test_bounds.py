"""Every value of every key is accepted or refused with a ConfigError (faults A8, A9)."""

import math
import os

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, tiny_parts
from xsample_jax.config import default_config
from xsample_jax.config.check import find_problems
from xsample_jax.config.key import find_value_problem
from xsample_jax.config.load import apply_overrides
from xsample_jax.config.schema import flat_keys
from xsample_jax.errors import ConfigError
from xsample_jax.setup import check_device_memory

HUGE = 10**400
VALUES = (math.nan, math.inf, -math.inf, 1e-46, 1e39, HUGE, -HUGE, 2**32, 2**70, -1, 0, 0.0, True, "x", "", None)
VALUES += ([], [1], (HUGE,), (math.nan, 1.0), [None], {}, ({},), ("x",), 5, b"x", np.float32(1e-40), 1j)
TEXTS = (
    "nan",
    "inf",
    "-inf",
    "1e-46",
    "1e39",
    "1e400",
    "9" * 400,
    "9" * 5000,
    "-1",
    "0",
    "5",
    "x",
    "",
    "None",
    "[" * 300,
)
TEXTS += ("(1,", "{}", "({},)", "{[]: 1}", "'", "1e-400", "0x10", "\x00", "1,2,3")


def with_value(name, value):
    config = default_config()
    config.steps = 5
    values = config.to_dict()
    *path, leaf = name.split(".")
    section = values
    for part in path:
        section = section[part]
    section[leaf] = value
    return values


@pytest.mark.parametrize("name", flat_keys())
def test_any_value_is_right_or_a_config_error(name):
    """faults A8, A9."""
    key = flat_keys()[name]
    bounds = [bound for bound in (key.minimum, key.maximum, key.above, key.below) if bound is not None]
    edges = [type(bound)(bound + step) for bound in bounds for step in (-1, 0, 1)]
    for value in (*VALUES, *edges, *([edge] for edge in edges)):
        alone = find_value_problem(name, key, value)
        for problem in [alone] if alone else find_problems(with_value(name, value)):
            assert isinstance(problem, ConfigError)
            assert len(str(problem)) <= 500
    config = default_config()
    for text in TEXTS:
        for problem in apply_overrides(config, [f"--config.{name}={text}"]):
            assert isinstance(problem, ConfigError)


@pytest.mark.parametrize("name", [name for name, key in flat_keys().items() if key.type in (int, float)])
def test_numbers_that_the_device_cannot_hold_are_refused(name):
    """faults A8, A9: beyond int32 or float32, and positive numbers that float32 rounds to 0."""
    beyond = (2**32, 2**70, HUGE) if flat_keys()[name].type is int else (1e39, HUGE, 1e-46, math.nan, math.inf)
    for value in beyond:
        assert find_value_problem(name, flat_keys()[name], value) is not None, value


def test_seeds_are_those_that_jax_tells_apart():
    """faults A8: jax keeps the low 32 bits."""
    assert not find_problems(with_value("seed", 2**32 - 1))
    (problem,) = find_problems(with_value("seed", 2**32))
    assert "<= 4294967295" in str(problem)


def test_what_no_memory_holds_is_refused_before_it_is_allocated(monkeypatch):
    """faults A9."""

    def check(**changes):
        check_device_memory(tiny_parts(tiny_config(**changes), jax.devices()[:1]))

    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**18}.get)  # 1 GiB
    check()
    for changes in ({"batch_size": 2**22}, {"objective__preset": "moco", "objective__queue": 2**26}):
        with pytest.raises(ConfigError, match=r"device memory.*GiB.*batch_size"):
            check(**changes)
