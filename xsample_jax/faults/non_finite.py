"""A step whose loss, gradient or new parameters are not finite: stop with a dump, skip the update, or roll back.

The step returns a flag (`is_finite`), read one step later with the other metrics, so that the host never waits for it.
Nothing is saved before the flags of all steps up to it were read, so every checkpoint is good.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax

from xsample_jax.augment.ids import ids_of
from xsample_jax.errors import DivergedError
from xsample_jax.io.console import say
from xsample_jax.io.files import make_folder
from xsample_jax.io.run_dir import log_event
from xsample_jax.state import Progress, float32

FOLDER = "faults"


class RollBack(Exception):
    """Go back to the last checkpoint, and on with the data at `data_position`."""

    def __init__(self, step: int, data_position: int):
        self.step, self.data_position = step, data_position
        super().__init__(f"step {step} was not finite")


# On the device: what the train step adds.


def finite_diagnostics(
    gradient: Mapping[str, jax.Array], params: Mapping[str, jax.Array], loss: jax.Array, z: jax.Array
) -> dict:
    """Metrics of a step that say whether it is finite, and if not, where it began.

    Returns:
      finite: bool scalar, over loss, gradient and the new parameters `params`. gradient_norm, parameter_norm: float32
      scalars. gradient_norms: float32 [P], of every parameter in the order of the names. embeddings: float32 [3], rows
      of z [N, D] that are not finite, largest absolute value, norm of the mean row (1: all the same).
    """
    norms = jnp.stack([optax.tree.norm(gradient[name].astype(jnp.float32)) for name in sorted(gradient)])
    # The norm of the updates would say as much, but the compiler would have to keep or repeat them (1 % of a CPU step).
    parameter_norm = optax.tree.norm(float32(params))
    z = jax.lax.stop_gradient(z).astype(jnp.float32)
    rows = jnp.sum(~jnp.isfinite(z).all(axis=-1)).astype(jnp.float32)
    embeddings = jnp.stack([rows, jnp.abs(z).max(), jnp.linalg.norm(z.mean(axis=0))])
    finite = jnp.isfinite(loss) & jnp.isfinite(norms).all() & jnp.isfinite(parameter_norm)
    return {
        "finite": finite,
        "gradient_norm": jnp.linalg.norm(norms),
        "parameter_norm": parameter_norm,
        "gradient_norms": norms,
        "embeddings": embeddings,
    }


def keep_if(finite: jax.Array, new, old):
    """`new`, or `old` where the step is not finite; `step` and the counts of the optimizer go on in any case, so that
    the learning rate stays a function of the step."""
    choose = lambda a, b: jnp.where(finite, a, b)  # noqa: E731
    count = lambda a, b: a if jnp.issubdtype(a.dtype, jnp.integer) else choose(a, b)  # noqa: E731
    kept = jax.tree.map(choose, new, old)
    return dataclasses.replace(kept, step=new.step, opt_state=jax.tree.map(count, new.opt_state, old.opt_state))


# On the host: what happens then.


@dataclasses.dataclass(frozen=True)
class Pending:
    """What is kept of a step until it is looked at.

    Attributes:
      step: its number, from 1. data_position: where its batch began.
      metrics: on the device. batch: this process's share, on the host. log: whether its metrics are written.
    """

    step: int
    data_position: int
    metrics: Mapping[str, jax.Array]
    batch: Mapping[str, np.ndarray]
    log: bool


def apply_policy(
    config,
    progress: Progress,
    pending: Pending,
    metrics: Mapping[str, np.ndarray],
    names: list[str],
    folder: pathlib.Path,
) -> None:
    """Does what `faults.non_finite` says about a step that is not finite.

    Args:
      progress: counts skipped updates and roll-backs; changed in place.
      metrics: of the step, fetched. names: of the parameters.

    Raises:
      DivergedError: the policy is stop, or the limit of the other policies is reached.
      RollBack: the policy is rollback.
    """
    faults, policy, step = config.faults, config.faults.non_finite, pending.step
    path = _dump(pending, metrics, names, folder)
    known = ("loss", "gradient_norm", "parameter_norm", "adversary_norm", "style_mean_norm", "style_deviation_norm")
    scalars = [name for name in known if name in metrics]
    what = next((name for name in scalars if not math.isfinite(metrics[name])), "gradient_norms")
    value = float(np.max(metrics[what]))

    def tell(event: str, **facts) -> None:
        say(f"\nwarning: {what} at step {step} is {value}: {event}. {path}", error=True)
        log_event(folder, event, step=step, what=what, dump=str(path), **facts)

    if policy == "skip" and progress.skipped_in_a_row < faults.skips:
        progress.skipped, progress.skipped_in_a_row = progress.skipped + 1, progress.skipped_in_a_row + 1
        tell("the update is skipped", skipped=progress.skipped)
        return
    if policy == "rollback" and progress.rollbacks < faults.rollbacks:
        tell("the run rolls back", rollbacks=progress.rollbacks + 1)
        raise RollBack(step, pending.data_position + config.batch_size)
    tell("the run stops")
    after, other = {
        "stop": ("", " or pass over such steps with --config.faults.non_finite=skip"),
        "skip": (f" after {progress.skipped_in_a_row} skipped in a row", ""),
        "rollback": (f" after {progress.rollbacks} roll-backs", ""),
    }[policy]
    raise DivergedError(
        f"{what} at step {step}",
        value,
        "a finite number" + after,
        f"Batch ids, gradient of every parameter and embeddings: {path}. Lower --config.optimizer.learning_rate (it "
        f"was {float(metrics['learning_rate']):.3g}), set --config.optimizer.clip_norm=1{other}. Checkpoints up to "
        f"here are kept in {folder}.",
    )


def _dump(pending: Pending, metrics, names, folder) -> pathlib.Path:
    """Writes what is known about the step, one file per process; numbers that are not finite become text."""
    norms = dict(zip(names, metrics["gradient_norms"].tolist(), strict=True))
    rows, largest, mean = metrics["embeddings"].tolist()
    batch, entries = pending.batch, {}
    ids = ids_of(batch["id"])
    for name, value in batch.items():
        if np.issubdtype(value.dtype, np.floating):
            wrong = ~np.isfinite(value.reshape(len(value), -1)).all(axis=1)
            entries[name] = {"ids_not_finite": ids[wrong].tolist(), "largest": float(np.nanmax(np.abs(value)))}
    scalars = {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}
    report = {
        "step": pending.step,
        "data_position": pending.data_position,
        "ids": ids.tolist(),
        "metrics": scalars,
        "embeddings": {"rows_not_finite": int(rows), "largest": largest, "norm_of_mean": mean},
        "batch": entries,
        "gradient_norms": dict(sorted(norms.items(), key=lambda item: (math.isfinite(item[1]), -abs(item[1])))),
    }
    path = folder / FOLDER / f"step-{pending.step}-process-{jax.process_index()}.json"
    text = json.dumps(_plain(report), indent=1)
    try:
        make_folder(path.parent)
        path.write_text(text)
    except OSError as error:
        say(f"error: no dump in {path} ({error}): {text}", error=True)
    return path


def _plain(value):
    """JSON has no nan and no infinity: as text, they stay to be told apart."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else str(value)
