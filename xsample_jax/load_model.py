"""The model of a checkpoint, without its training set, optimiser or objective: for evaluation on any data."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp
from etils import epath

from xsample_jax.assemble import DataFacts, Parts
from xsample_jax.checkpoint import CHECKPOINTS, FORMAT
from xsample_jax.config import config_from_json
from xsample_jax.config.check import find_problems
from xsample_jax.config.load import resolve
from xsample_jax.config.overrides import apply_overrides
from xsample_jax.errors import CheckpointError, ConfigError, Problems, did_you_mean
from xsample_jax.faults.checksums import checksums, text_checksum
from xsample_jax.mesh import make_mesh, replicated
from xsample_jax.state import ModelDef, TrainState, to_flat
from xsample_jax.storage.paths import absolute

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


def find_checkpoint(path: str | Path) -> tuple[Path, int]:
    """(run folder, step) of RUN, RUN/checkpoints or RUN/checkpoints/STEP; of a run, its newest checkpoint.

    Raises CheckpointError that names the steps there are.
    """
    path = absolute(path)
    if path.name.isdigit() and path.parent.name == CHECKPOINTS:
        run, step = path.parent.parent, path.name
    else:
        run, step = (path.parent if path.name == CHECKPOINTS else path), None
    folder = run / CHECKPOINTS
    steps = sorted(int(place.name) for place in folder.iterdir() if place.name.isdigit()) if folder.is_dir() else []
    if not steps:
        raise CheckpointError("--checkpoint", str(path), "a run folder, or RUN/checkpoints/STEP", f"None in {folder}.")
    if step is not None and int(step) not in steps:
        raise CheckpointError("--checkpoint", str(path), "a checkpoint", did_you_mean(step, map(str, steps)))
    return run, steps[-1] if step is None else int(step)


def read_config(run: Path, step: int, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """The config that a checkpoint was trained with, resolved, with `--config.KEY=VALUE` overrides of CHANGEABLE keys.

    Raises CheckpointError for a damaged or foreign file, Problems for overrides that are wrong.
    """
    meta = _read_meta(run, step)
    trained = config_from_json(meta["config"])
    config = ml_collections.ConfigDict(trained.to_dict(), type_safe=False)
    # What it was trained on, its own evaluation and the ranking of its checkpoints are over.
    config.data.update(mix=(), balance=0.0)
    config.eval.suite, config.checkpoint.metric = "none", None
    config.mesh.update(data=-1, fsdp=1, tensor=1, rules=({"parameters": ".*", "split": "largest"},))
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
    place, meta = epath.Path(run / CHECKPOINTS / str(step) / "state"), _read_meta(run, step)
    reader = ocp.PyTreeCheckpointHandler()
    try:
        saved = reader.metadata(place).tree
    except Exception as error:  # orbax raises of every family when a file is not what it was
        raise _damaged(run, step, error) from error
    mesh = make_mesh(config.mesh, jax.device_count())
    width = lambda name: saved["params"][name].shape[0] if name in saved["params"] else None  # noqa: E731
    facts = DataFacts(1, 3, caption_dim=width("text/out/kernel"), vocab_size=width("text/tokens/embedding"))
    parts = Parts(config, facts, mesh)
    _compare(parts.model, saved, run, step)

    everywhere = replicated(mesh)
    target = {
        part: {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)
            for name, leaf in saved[part].items()
        }
        for part in ("params", "statistics", "ema")
        if saved.get(part)
    }
    arguments = ocp.args.PyTreeRestore(
        item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    try:
        arrays = reader.restore(place, args=arguments)
    except Exception as error:
        raise _damaged(run, step, error) from error
    sums = checksums(arrays)
    wrong = [name for name, value in sums.items() if meta["checksums"][name] != value]
    if wrong:
        raise _damaged(run, step, f"other checksums of {', '.join(wrong[:3])}")
    state = TrainState(
        step=jnp.asarray(step, jnp.int32),
        params=arrays["params"],
        statistics=arrays.get("statistics", {}),
        opt_state=(),
        memory={},
        ema=arrays.get("ema", {}),
    )
    return LoadedModel(parts, state, run, step)


def _read_meta(run: Path, step: int) -> dict:
    path = run / CHECKPOINTS / str(step) / "meta" / "metadata"
    try:
        meta = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _damaged(run, step, error) from error
    if meta.get("format") != FORMAT:
        raise CheckpointError("checkpoint format", meta.get("format"), f"{FORMAT}", "Use a matching version.")
    if meta.pop("checksum") != text_checksum(meta):
        raise _damaged(run, step, "meta is not what its checksum was made of")
    return meta


def _compare(model: ModelDef, saved: dict, run: Path, step: int) -> None:
    """CheckpointError when the arrays of a checkpoint are not those of the model (its objective may have more)."""
    expected = to_flat(model.params) | to_flat(model.statistics)
    there = saved["params"] | (saved.get("statistics") or {})
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


def _damaged(run: Path, step: int, error) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {step} of {run}", str(error)[:600], "files as they were written", "Name another checkpoint."
    )
