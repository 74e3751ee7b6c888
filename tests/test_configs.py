"""Every config trains: its :smoke variant runs end to end on the embedded set."""

import math
import pathlib

import pytest

from xsample_jax.config import load_config
from xsample_jax.metrics.writers import read_jsonl
from xsample_jax.train import train

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS)
def test_smoke_variant_runs(path, tmp_path):
    config = load_config(f"{ROOT / path}:smoke")
    train(config, tmp_path)
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, config.steps + 1))
    assert all(math.isfinite(line["loss"]) and line["kl"] > 0 for line in lines)
