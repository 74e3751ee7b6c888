"""Every config trains: its :smoke variant runs end to end on the embedded set."""

import math
import pathlib

import jax
import pytest
from flax import nnx

from xsample_jax import loop
from xsample_jax import setup as build_run
from xsample_jax.config import load_config
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import towers
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.sharding import make_mesh

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "configs").rglob("*.py")
    if path.parent.name not in ("ablations", "studies")  # grids: tests/sweeps
)
# Their model and data are those of the quickstart, or of cc12m; what is left is the preset.
OF_PRESETS = ("configs/objective.py", "configs/baselines/simclr.py", "configs/baselines/supcon.py")


@pytest.mark.slow
def test_the_quickstart_runs_as_it_is(tmp_path):
    check_smoke_run("configs/quickstart.py", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in OF_PRESETS and "quickstart" not in path])
def test_smoke_variant_runs(path, tmp_path, shallow_resnet18, shallow_vit):
    check_smoke_run(path, tmp_path)


class PooledPixels(nnx.Module):
    """The least that can be called an encoder: a linear map of 16 mean colors."""

    def __init__(self, config, rngs):
        self.features = 32
        self.linear = nnx.Linear(48, self.features, rngs=rngs)

    def __call__(self, images):
        side = images.shape[1] // 4
        pooled = images.reshape(len(images), 4, side, 4, side, 3).mean(axis=(2, 4))
        return jax.nn.relu(self.linear(pooled.reshape(len(images), 48)))


@pytest.fixture
def objective_only(monkeypatch):
    """One device, hardly an encoder and no report: what is on trial is the objective, and there are many."""
    monkeypatch.setitem(towers.ENCODERS, "resnet18", PooledPixels)
    monkeypatch.setattr(build_run, "make_mesh", lambda mesh, batch: make_mesh(mesh, batch, jax.devices()[:1]))
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_objective_trains(preset, tmp_path, objective_only):
    check_smoke_run(f"configs/objective.py:{preset},smoke", tmp_path, suite="none", steps=3)


def check_smoke_run(path, workdir, suite=None, steps=None):
    config = load_config(str(ROOT / path) + ("" if "smoke" in path else ":smoke"))
    config.eval.suite, config.steps = suite or config.eval.suite, steps or config.steps
    loop.train(config, workdir)
    lines = read_jsonl(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, config.steps + 1))
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert all(line["gradient_norm"] > 0 for line in lines[1:])  # at first a queue is empty
    assert all(line["kl"] > 0 for line in lines[1:] if "kl" in line)
