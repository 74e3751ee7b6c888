"""The evaluation of a finished or running run, once more or with another suite."""

from pathlib import Path

from xsample_jax.checkpoint_files import find_checkpoint, trained_config
from xsample_jax.config import resolve
from xsample_jax.evals.run import evaluate as evaluate_state
from xsample_jax.load_model import load_model


def evaluate(path: str | Path, **changes) -> dict[str, float]:
    """Metrics of the newest checkpoint of the run in folder `path`, or of RUN/checkpoints/STEP; nothing is written.

    `changes`: values of the config's section `eval`, as suite="probe" or split="val". The splits that it names must be
    there; the devices may be others.

    Raises CheckpointError without a checkpoint or for a damaged one, ConfigError (Problems) for wrong changes.
    """
    run, step = find_checkpoint(path)
    config = trained_config(run, step).copy_and_resolve_references().unlock()
    for name, value in changes.items():
        with config.eval.ignore_type():
            config.eval[name] = value
    loaded = load_model(run, step, resolve(config))
    return dict(evaluate_state(loaded.parts, loaded.state)[0].metrics)
