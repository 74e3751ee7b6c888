"""The evaluation of a finished or running run, once more or with another suite."""

import contextlib
from pathlib import Path

import jax

from xsample_jax.assemble import assemble
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import config_from_json, default_config, resolve
from xsample_jax.errors import CheckpointError
from xsample_jax.evals.run import evaluate as evaluate_state
from xsample_jax.faults.same_run import CONFIG
from xsample_jax.mesh import make_mesh
from xsample_jax.storage.paths import as_path


def evaluate(path: str | Path, **changes) -> dict[str, float]:
    """Metrics of the newest checkpoint of the run in folder `path`, which is not changed.

    `changes`: values of the config's section `eval`, as suite="probe" or split="val". The data of the run must be
    there; the devices may be others.

    Raises CheckpointError without a run or checkpoint, ConfigError (Problems) for wrong changes.
    """
    path = as_path(path)
    if not (path / CONFIG).exists():
        raise CheckpointError("run", str(path), f"a run folder with {CONFIG}", "Give the --workdir of a training run.")
    config = config_from_json((path / CONFIG).read_text()).copy_and_resolve_references().unlock()
    for name, value in changes.items():
        with config.eval.ignore_type():
            config.eval[name] = value
    config = resolve(config)
    parts, _ = assemble(config, make_mesh(default_config().mesh, len(jax.devices())))
    with contextlib.closing(Checkpoints(path, config.checkpoint, own=False)) as checkpoints:
        state, _ = checkpoints.restore(parts.abstract_state)
    return dict(evaluate_state(parts, state)[0].metrics)
