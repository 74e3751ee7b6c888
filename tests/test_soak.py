"""benchmarks/soak.py for a few seconds, with the smallest encoder."""

import pytest

from benchmarks.soak import soak
from tests.lives import Lives


@pytest.mark.slow
def test_a_few_seconds_of_disturbances_loses_no_bit(tmp_path):
    overrides = ["--config.steps=20", "--config.checkpoint.every=2", "--config.log.every=1"]
    with Lives() as lives:
        result = soak(lives, tmp_path, 0.2, overrides, seed=1)
    assert result.bits == 0
    assert result.runs >= 1
    assert result.lives > result.runs
