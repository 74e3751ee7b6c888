"""The checkpoints of a run as files: which there are, and what of the model is in one, without a state to restore into.

    RUN/checkpoints/STEP/meta    format, config, progress and checksums, JSON
    RUN/checkpoints/STEP/state   the arrays, by orbax

Checkpoints (checkpoint.py) writes them, and restores the whole state of a training; here is what evaluation and export
read.
"""

import contextlib
import json
from pathlib import Path

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from xsample_jax.config import config_from_json
from xsample_jax.errors import CheckpointError, did_you_mean
from xsample_jax.faults.checksums import checksums, text_checksum
from xsample_jax.storage.paths import absolute

FORMAT = 2
CHECKPOINTS = "checkpoints"
MODEL = ("params", "statistics", "ema")  # what of a state is the model's; the average comes last, as it is preferred


def find_checkpoint(path: str | Path, step: int | None = None) -> tuple[Path, int]:
    """(run folder, step) of RUN, RUN/checkpoints or RUN/checkpoints/STEP; of a run, `step` or its newest checkpoint.

    Raises CheckpointError that names the steps there are.
    """
    path = absolute(path)
    if path.name.isdigit() and path.parent.name == CHECKPOINTS:
        run, step = path.parent.parent, int(path.name)
    else:
        run = path.parent if path.name == CHECKPOINTS else path
    steps = _steps_of(run)
    if not steps:
        fix = f"None in {run / CHECKPOINTS}."
        raise CheckpointError("checkpoint", str(path), f"a run folder, or RUN/{CHECKPOINTS}/STEP", fix)
    if step is not None and step not in steps:
        raise CheckpointError("step", step, f"a checkpoint of {run}", did_you_mean(str(step), map(str, steps)))
    return run, steps[-1] if step is None else step


def trained_config(run: Path, step: int) -> ml_collections.ConfigDict:
    """The config that the run had when it wrote the checkpoint; CheckpointError for a damaged or foreign file."""
    return config_from_json(_read_meta(run, step)["config"])


def saved_arrays(run: Path, step: int) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """{part: {name: shape and dtype}} of what is in a checkpoint, for the parts in MODEL; {} for one that it lacks."""
    with _reader() as reader, _damage_is_said(run, step):
        tree = reader.metadata(_place(run, step) / "state").tree
    return {
        part: {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in (tree.get(part) or {}).items()}
        for part in MODEL
    }


def read_arrays(
    run: Path, step: int, wanted: dict[str, dict[str, jax.ShapeDtypeStruct]], sharding: jax.sharding.Sharding | None
) -> dict[str, dict[str, np.ndarray | jax.Array]]:
    """The arrays of `wanted`, which is `saved_arrays` or a part of it: on `sharding`, or numpy's without one.

    Raises CheckpointError when files are damaged: checksums are compared with those of the training.
    """
    meta, asked = _read_meta(run, step), {part: names for part, names in wanted.items() if names}
    as_array = (
        ocp.RestoreArgs(restore_type=np.ndarray)
        if sharding is None
        else ocp.ArrayRestoreArgs(sharding=sharding, restore_type=jax.Array)
    )
    arguments = ocp.args.PyTreeRestore(asked, jax.tree.map(lambda _: as_array, asked), partial_restore=True)
    with _reader() as reader, _damage_is_said(run, step):
        arrays = reader.restore(_place(run, step) / "state", args=arguments)
    check_arrays(arrays, meta, f"checkpoint {step} of {run}")
    return {part: arrays.get(part, {}) for part in wanted}


def check_meta(meta: dict, where: str) -> None:
    """CheckpointError unless what a checkpoint says of itself has our format and is as it was written."""
    if meta.get("format") != FORMAT:
        raise CheckpointError(f"format of {where}", meta.get("format"), f"{FORMAT}", "Use a matching version.")
    content = {name: value for name, value in meta.items() if name != "checksum"}
    if meta.get("checksum") != text_checksum(content):
        raise CheckpointError(f"meta of {where}", "other text", "what its checksum was made of", "It is damaged.")


def check_arrays(arrays: dict, meta: dict, where: str) -> None:
    """CheckpointError unless {part: {name: array}}, all or some of a checkpoint's, are those that were saved."""
    wrong = [name for name, value in checksums(arrays).items() if meta["checksums"].get(name) != value]
    if wrong:
        raise CheckpointError(f"checksum in {where}", wrong[:3], "that of the arrays when saved", "It is damaged.")


def _steps_of(run: Path) -> list[int]:
    folder = run / CHECKPOINTS
    return sorted(int(place.name) for place in folder.iterdir() if place.name.isdigit()) if folder.is_dir() else []


def _place(run: Path, step: int) -> epath.Path:
    return epath.Path(run / CHECKPOINTS / str(step))


def _read_meta(run: Path, step: int) -> dict:
    with _damage_is_said(run, step):
        meta = json.loads((_place(run, step) / "meta" / "metadata").read_text())
    check_meta(meta, f"checkpoint {step} of {run}")
    return meta


def _reader() -> contextlib.AbstractContextManager[ocp.PyTreeCheckpointHandler]:
    return contextlib.closing(ocp.PyTreeCheckpointHandler())


@contextlib.contextmanager
def _damage_is_said(run: Path, step: int):
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise of every family when a file is not what it was
        raise CheckpointError(
            f"checkpoint {step} of {run}",
            str(error)[:600],
            "files as they were written",
            f"Name another one of {', '.join(map(str, _steps_of(run)))}.",
        ) from error
