"""Every config trains: its :smoke variant runs end to end on the embedded set."""

import math
import pathlib

import pytest

from xsample_jax.config import load_config
from xsample_jax.metrics.writers import read_jsonl
from xsample_jax.train import train

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").rglob("*.py"))
OBJECTIVES = [path for path in CONFIGS if "objectives" in path]


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in OBJECTIVES])
def test_smoke_variant_runs(path, tmp_path):
    check_smoke_run(path, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow_resnet18")
@pytest.mark.parametrize("path", OBJECTIVES)
def test_every_objective_trains(path, tmp_path):
    """With one block per stage instead of two: what is on trial is the objective, and there are many."""
    check_smoke_run(path, tmp_path)


def check_smoke_run(path, workdir):
    config = load_config(f"{ROOT / path}:smoke")
    train(config, workdir)
    lines = read_jsonl(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, config.steps + 1))
    assert all(math.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in lines)
    assert all(line["kl"] > 0 for line in lines if "kl" in line)
