"""Model soups (Wortsman et al. 2022, arXiv 2203.05482): the average of the weights of several runs, as a run folder."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from xsample_jax.checkpoint import Checkpoints
from xsample_jax.checkpoint_files import CHECKPOINTS, find_checkpoint, read_arrays, saved_arrays, trained_config
from xsample_jax.config import config_to_json
from xsample_jax.errors import CheckpointError, ConfigError
from xsample_jax.io.files import CONFIG, atomic_write
from xsample_jax.io.run_dir import log_event
from xsample_jax.state import Progress, TrainState

PARTS = ("params", "statistics")
# Keys of which another value makes another function of the same arrays.
MEANING = ("model.encoder", "model.stem", "augment.size", "augment.mean", "augment.std", "augment.bits")


def average_weights(models: Sequence[Mapping[str, Mapping[str, np.ndarray]]]) -> dict[str, dict[str, np.ndarray]]:
    """The plain average of models {"params" and "statistics": {path: array}} with the same paths, shapes and types."""
    first = models[0]
    return {
        part: {
            name: np.mean([model[part][name] for model in models], axis=0, dtype=np.float64).astype(array.dtype)
            for name, array in first[part].items()
        }
        for part in PARTS
    }


def write_soup(runs: Sequence[str | Path], out: Path) -> list[str]:
    """Writes the average of the weights of runs (RUN or RUN/checkpoints/STEP) as the checkpoint of a new run folder.

    Of a run with a moving average that one is taken, as evaluation does. Config and step are those of the first run;
    there is no state of an optimizer, so the folder can be evaluated, exported and started from, but not resumed.
    Returns lines of text. Raises ConfigError for fewer than two runs or an `out` that is a run, CheckpointError for
    runs whose models differ.
    """
    if len(runs) < 2:
        raise ConfigError("RUN", len(runs), "two runs or more, whose weights are averaged")
    if (out / CHECKPOINTS).exists():
        raise ConfigError("--out", str(out), "a folder that is not a run yet", "Choose another.")
    places = [find_checkpoint(run) for run in runs]
    _check_same(places)
    soup = average_weights([_model_of(*place) for place in places])
    run, step = places[0]
    config = trained_config(run, step).copy_and_resolve_references().unlock()
    config.name = f"soup of {len(places)}, {config.name}"[:100]
    arrays = {part: {name: jnp.asarray(array) for name, array in soup[part].items()} for part in PARTS}
    state = TrainState(step=jnp.asarray(step, jnp.int32), **arrays, opt_state=(), memory={}, ema={})
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / CONFIG, lambda partial: partial.write_text(config_to_json(config), encoding="utf-8"))
    log_event(out, "weights were averaged", runs=[f"{run}, step {step}" for run, step in places])
    checkpoints = Checkpoints(out, config.checkpoint)
    try:
        checkpoints.save(state, Progress(step, 0), config_to_json(config))
        checkpoints.wait()
    finally:
        checkpoints.close()
    size = sum(math.prod(array.shape) for array in arrays["params"].values())
    lines = [f"{size:,} parameters averaged over {len(places)} runs, step {step}: {out}"]
    if arrays["statistics"]:
        lines.append("note: running statistics of batch norms are averaged too; they are not those of the new weights")
    return lines


def _model_of(run: Path, step: int) -> dict[str, dict[str, np.ndarray]]:
    found = read_arrays(run, step, saved_arrays(run, step), sharding=None)
    return {part: {name: found["ema"].get(name, array) for name, array in found[part].items()} for part in PARTS}


def _check_same(places: Sequence[tuple[Path, int]]) -> None:
    """One CheckpointError with all in which a model differs from the first; the files of the arrays are not read."""
    shapes, configs = [saved_arrays(*place) for place in places], [trained_config(*place) for place in places]
    for place, saved, config in zip(places[1:], shapes[1:], configs[1:], strict=True):
        keys = [f"{key} = {_value(config, key)}, not {_value(configs[0], key)}" for key in MEANING
                if _value(config, key) != _value(configs[0], key)]  # fmt: skip
        names = sorted({name for part in PARTS for of in (saved, shapes[0]) for name in of[part]})
        differing = [name for name in names if _shape(saved, name) != _shape(shapes[0], name)]
        arrays = [f"{name} {_shape(saved, name)}, not {_shape(shapes[0], name)}" for name in differing]
        if keys or arrays:
            more = f" ({len(arrays)} arrays differ)" if arrays else ""
            raise CheckpointError(
                f"model of {place[0]}",
                "; ".join([*keys, *arrays[:2]]) + more,
                f"that of {places[0][0]}, to be averaged",
            )


def _shape(saved: dict, name: str) -> tuple[int, ...] | str:
    return next((tuple(saved[part][name].shape) for part in PARTS if name in saved[part]), "missing")


def _value(config, key: str):
    section, name = key.split(".")
    return config[section][name]
