"""The encoder out of the checkpoints of a run: no data set, no optimiser state, on any number of devices."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from xsample_jax.checkpoint import CHECKPOINTS, FORMAT
from xsample_jax.config import config_from_json
from xsample_jax.errors import CheckpointError
from xsample_jax.faults.checksums import checksums
from xsample_jax.storage.paths import absolute
from xsample_jax.weights.pretrained import ENCODER


def read_encoder(folder: str | Path, step: int | None = None) -> tuple[object, int, dict[str, np.ndarray]]:
    """Returns (config of the run, step, {path below encoder/: array}), of the moving average where there is one.

    `step`: which checkpoint; None: the newest.

    Raises CheckpointError: no run, no such checkpoint, or one that is damaged.
    """
    folder = absolute(folder)
    there = sorted(int(path.name) for path in (folder / CHECKPOINTS).glob("*") if path.name.isdigit())
    if not there:
        raise CheckpointError(
            "run", str(folder), f"a run folder with {CHECKPOINTS}/ in it", "Give the --workdir of it."
        )
    if step is not None and step not in there:
        raise CheckpointError("step", step, f"one of the checkpoints of {folder}: {', '.join(map(str, there))}")
    step = there[-1] if step is None else step
    path = folder / CHECKPOINTS / str(step)
    try:
        meta = json.loads((path / "meta" / "metadata").read_text())
        state = _restore(path / "state")
    except Exception as error:  # orbax and tensorstore raise of every family when a file is not what it was
        fix = f"Others: --step of {', '.join(map(str, there))}."
        raise CheckpointError("checkpoint", str(path), f"one that can be read ({str(error)[:300]})", fix) from error
    if meta.get("format") != FORMAT:
        raise CheckpointError("checkpoint format", meta.get("format"), f"{FORMAT}", "Use a matching version.")
    wrong = [name for name, value in checksums(state).items() if meta["checksums"][name] != value]
    if wrong:
        raise CheckpointError(f"checksum in {path}", wrong[:3], "that of the arrays when saved", "It is damaged.")
    latest = state["params"] | state["statistics"]
    arrays = {name.removeprefix(ENCODER): state["ema"].get(name, value) for name, value in latest.items()}
    return config_from_json(meta["config"]), step, arrays


def _restore(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """What the state has of the encoder, as numpy arrays: {"params", "statistics", "ema": {name: array}}."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        saved = checkpointer.metadata(path).item_metadata.tree
        wanted = {
            part: {
                name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
                for name, leaf in (saved.get(part) or {}).items()
                if name.startswith(ENCODER)
            }
            for part in ("params", "statistics", "ema")
        }
        found = {part: names for part, names in wanted.items() if names}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), found)
        arguments = ocp.args.PyTreeRestore(found, restore_args=as_numpy, partial_restore=True)
        return {part: {} for part in wanted} | checkpointer.restore(path, arguments)
