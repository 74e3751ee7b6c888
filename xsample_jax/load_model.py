"""The model of a checkpoint, without its training set, optimiser or objective: for evaluation on any data."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections

from xsample_jax.checkpoint_files import read_arrays, saved_arrays, trained_config
from xsample_jax.config.check import find_problems
from xsample_jax.config.load import default_config, resolve
from xsample_jax.config.overrides import apply_overrides
from xsample_jax.data_facts import DataFacts
from xsample_jax.errors import CheckpointError, ConfigError, Problems
from xsample_jax.mesh import make_mesh, replicated
from xsample_jax.parts import Parts
from xsample_jax.state import ModelDef, TrainState, to_flat

# What may be changed for a trained model: the data, and how it is read.
CHANGEABLE = ("data.", "eval.", "augment.background", "model.conv_impl", "precision.compute", "name")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """Attributes:
    parts: of which config, mesh, model and encode are of use; its facts are those that the model needs.
    state: parameters, statistics and moving average, whole on every device; no optimiser state, no memory.
    run: the run folder; step: of the checkpoint.
    """

    parts: Parts
    state: TrainState
    run: Path
    step: int


def read_config(run: Path, step: int, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config that a checkpoint was trained with, resolved, with `--config.KEY=VALUE` overrides of CHANGEABLE keys.

    Raises CheckpointError for a damaged or foreign file, Problems for overrides that are wrong.
    """
    config = ml_collections.ConfigDict(trained_config(run, step).to_dict(), type_safe=False)
    # What it was trained on, its own evaluation and the ranking of its checkpoints are over.
    config.data.update(mix=(), balance=0.0)
    config.eval.suite, config.checkpoint.metric = "none", None
    problems = [
        ConfigError(name, text, f"a key that a trained model leaves open: {', '.join(CHANGEABLE)}")
        for name, _, text in (override.lstrip("-").removeprefix("config.").partition("=") for override in overrides)
        if not name.startswith(CHANGEABLE)
    ]
    problems += apply_overrides(config, list(overrides))
    problems += find_problems(config)
    if problems:
        raise Problems(problems, "the evaluation")
    return resolve(config)


def load_model(run: Path, step: int, config: ml_collections.ConfigDict) -> LoadedModel:
    """Restores parameters, statistics and moving average; their checksums are compared with those of the training.

    Raises CheckpointError when files are damaged or are not of the model that `config` describes.
    """
    saved = saved_arrays(run, step)
    mesh = make_mesh(default_config().mesh, jax.device_count())  # not that of the training
    width = lambda name: saved["params"][name].shape[0] if name in saved["params"] else None  # noqa: E731
    facts = DataFacts(1, 3, caption_dim=width("text/out/kernel"), vocab_size=width("text/tokens/embedding"))
    parts = Parts(config, facts, mesh)
    _compare(parts.model, saved, run, step)

    arrays = read_arrays(run, step, saved, replicated(mesh))
    state = TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=arrays["params"],
        statistics=arrays["statistics"],
        opt_state=(),
        memory={},
        ema=arrays["ema"],
    )
    return LoadedModel(parts, state, run, step)


def _compare(model: ModelDef, saved: dict, run: Path, step: int) -> None:
    """CheckpointError when the arrays of a checkpoint are not those of the model (its objective may have more)."""
    expected = to_flat(model.params) | to_flat(model.statistics)
    there = saved["params"] | saved["statistics"]
    differing = [
        f"{name} {tuple(there[name].shape) if name in there else 'missing'}, not {tuple(leaf.shape)}"
        for name, leaf in expected.items()
        if name not in there or tuple(there[name].shape) != tuple(leaf.shape)
    ]
    if differing:
        raise CheckpointError(
            f"checkpoint {step} of {run}",
            "; ".join(differing[:3]),
            f"the arrays of the model of its config ({len(differing)} differ)",
            "It was written by another version of the code.",
        )
