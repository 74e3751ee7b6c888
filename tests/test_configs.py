"""Every config trains: its :smoke variant runs end to end on the embedded set."""

import math
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx

from xsample_jax import loop
from xsample_jax import setup as build_run
from xsample_jax.config import load_config
from xsample_jax.data.side import write_side
from xsample_jax.data.sources import open_source
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


def on_one_device(monkeypatch):
    """And without a report."""
    monkeypatch.setattr(build_run, "make_mesh", lambda mesh, batch: make_mesh(mesh, batch, jax.devices()[:1]))
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)


@pytest.mark.slow
def test_the_quickstart_runs_as_it_is(tmp_path):
    check_smoke_run("configs/quickstart.py", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in OF_PRESETS and "quickstart" not in path])
def test_smoke_variant_runs(path, tmp_path, monkeypatch, shallow_resnet18, shallow_vit):
    on_one_device(monkeypatch)
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

    def with_map(self, images):
        turned = (images, images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1])
        cells = jax.numpy.stack([self(one) for one in turned], axis=1)
        return cells[:, 0], cells.reshape(len(images), 2, 2, self.features)


@pytest.fixture
def objective_only(monkeypatch):
    """One device, hardly an encoder and no report: what is on trial is the objective, and there are many."""
    monkeypatch.setitem(towers.ENCODERS, "resnet18", PooledPixels)
    on_one_device(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_objective_trains(preset, tmp_path, objective_only, monkeypatch):
    """And its step keeps the shapes of the state, reads what the objective says, and its metrics are scalars."""
    setups, build = [], loop.build_run
    monkeypatch.setattr(loop, "build_run", lambda config: setups.append(built := build(config)) or built)
    config = load_config(f"{ROOT}/configs/objective.py:{preset},smoke")
    config.eval.suite, config.steps = "none", 6 if config.data.tasks.count else 3  # into the second task
    config.augment.update(crop_scale=(), jitter=0.0, gray=0.0)  # flips are left: two views differ
    config.model.text.layers = min(1, config.model.text.layers)
    config.checkpoint.every = 10  # one at the end
    reads = PRESETS[preset].objective.requires
    config.data.side = (*config.data.side, *of_files(reads & {"class_temperature", "weight"}, config, tmp_path))
    if PRESETS[preset].objective.frozen:
        like = "clip" if PRESETS[preset].objective.text else "simclr"
        teacher = load_config(f"{ROOT}/configs/objective.py:{like},smoke")
        teacher.eval.suite, teacher.steps = "none", 1
        loop.train(teacher, tmp_path / "teacher")
        config.objective.frozen, config.model.head.dim = str(tmp_path / "teacher"), 32  # the width of its features
    check_run(config, tmp_path / "run")
    check_shapes(setups[-1][0])


def check_shapes(setup):
    state, metrics = jax.eval_shape(setup.train_step, setup.abstract_state, setup.abstract_batch)
    shapes = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)  # noqa: E731
    assert shapes(state) == shapes(setup.abstract_state)
    assert {"loss", "temperature", "learning_rate", "gradient_norm"} <= set(metrics)
    vectors = {name: leaf.shape for name, leaf in metrics.items() if leaf.shape}
    assert vectors == {"gradient_norms": (len(state.params),), "embeddings": (3,)}  # of a fault's dump
    read = setup.objective.requires - {"class_embedding"}  # looked up by label
    assert set(setup.abstract_batch) == {"image", "id", "label"} | read


def of_files(names, config, folder):
    """Entries of data.side for numbers by record that no attribute gives."""
    for name in names:
        source = open_source(config.data, "train")
        write_side(folder / f"{name}.npz", 0.5 + np.arange(len(source)) % 3, source)
        yield {"name": name, "file": str(folder / f"{name}.npz")}


def check_smoke_run(path, workdir):
    check_run(load_config(f"{ROOT / path}:smoke"), workdir)


def check_run(config, workdir):
    loop.train(config, workdir)
    lines = read_jsonl(workdir / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, config.steps + 1))
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert all(line["gradient_norm"] > 0 for line in lines[1:])  # at first a queue is empty
    assert all(line["kl"] > 0 for line in lines[1:] if "kl" in line)
