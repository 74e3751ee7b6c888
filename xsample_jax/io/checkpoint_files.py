"""The checkpoints of a run as files: which exist, what one contains, and whether it is undamaged.

    RUN/checkpoints/STEP/meta    format, config, progress and checksums, JSON
    RUN/checkpoints/STEP/state   the arrays, by orbax

`Checkpoints` (checkpoint.py) writes them, and restores the whole training state; evaluation and export read
them here, without a state to restore into.
"""

import contextlib
import hashlib
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from xsample_jax.errors import CheckpointError, did_you_mean
from xsample_jax.io.files import CHECKPOINTS
from xsample_jax.io.paths import absolute, as_path, check_run_path

FORMAT = 2
MODEL = ("params", "statistics", "ema")  # what of a state is the model's; the average comes last, as it is preferred


def find_checkpoint(path: str | Path, step: int | None = None) -> tuple[Path, int]:
    """(run folder, step) of RUN, RUN/checkpoints or RUN/checkpoints/STEP; of a run, `step` or its newest checkpoint.

    A folder with checkpoints is a run whatever its name. Raises CheckpointError that names the steps there are.
    """
    path = absolute(path)
    check_run_path(path, "checkpoint")
    run = path
    if path.name == CHECKPOINTS and not has_checkpoints(path):
        run = path.parent
    elif path.parent.name == CHECKPOINTS and is_step(path.name) and not has_checkpoints(path):
        run, step = path.parent.parent, int(path.name)
    steps = steps_of(run)
    if not steps:
        fix = f"None in {run / CHECKPOINTS}."
        raise CheckpointError("checkpoint", str(path), f"a run folder, or RUN/{CHECKPOINTS}/STEP", fix)
    if step is not None and step not in steps:
        raise CheckpointError("step", step, f"a checkpoint of {run}", did_you_mean(str(step), map(str, steps)))
    return run, steps[-1] if step is None else step


def saved_arrays(run: Path, step: int, parts: tuple[str, ...] = MODEL) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """{part: {name: shape and dtype}} of a checkpoint's contents, for some parts of it; {} for a part that it lacks."""
    with open_reader() as reader, _report_damage(run, step):
        tree = reader.metadata(checkpoint_place(run, step) / "state").tree
    return {
        part: {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in (tree.get(part) or {}).items()}
        for part in parts
    }


def read_arrays(
    run: Path, step: int, wanted: dict[str, dict[str, jax.ShapeDtypeStruct]], sharding: jax.sharding.Sharding | None
) -> dict[str, dict[str, np.ndarray | jax.Array]]:
    """The arrays of `wanted`, which is `saved_arrays` or a part of it: on `sharding`, or numpy's without one.

    Raises CheckpointError when files are damaged: checksums are compared with those of the training.
    """
    meta, asked = read_meta(run, step), {part: names for part, names in wanted.items() if names}
    as_array = (
        ocp.RestoreArgs(restore_type=np.ndarray)
        if sharding is None
        else ocp.ArrayRestoreArgs(sharding=sharding, restore_type=jax.Array)
    )
    arguments = ocp.args.PyTreeRestore(asked, jax.tree.map(lambda _: as_array, asked), partial_restore=True)
    with open_reader() as reader, _report_damage(run, step):
        arrays = reader.restore(checkpoint_place(run, step) / "state", args=arguments)
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


def steps_of(run: Path) -> list[int]:
    """The steps of the checkpoints of a run, ascending."""
    names = [place.name for place in (run / CHECKPOINTS).iterdir()] if has_checkpoints(run) else []
    return sorted(int(name) for name in names if is_step(name))


def has_checkpoints(path: str | Path) -> bool:
    """Whether a folder is that of a run."""
    return (as_path(path) / CHECKPOINTS).is_dir()


def is_step(name: str) -> bool:
    """Whether the folder of a checkpoint has this name: ² and 007 are others' folders."""
    return name.isascii() and name.isdecimal() and name == str(int(name))


def checkpoint_place(run: Path, step: int) -> epath.Path:
    return epath.Path(run / CHECKPOINTS / str(step))


def read_meta(run: Path, step: int) -> dict:
    """What a checkpoint says of itself: format, config, progress and checksums. CheckpointError for a damaged one."""
    with _report_damage(run, step):
        meta = json.loads((checkpoint_place(run, step) / "meta" / "metadata").read_text())
    check_meta(meta, f"checkpoint {step} of {run}")
    return meta


def images_of(run: Path) -> str:
    """Which images the newest checkpoint of a run has learned from (data.sources.identify_images); "": not known."""
    steps = steps_of(run)
    return read_meta(run, steps[-1])["progress"].get("images", "") if steps else ""


def classes_of(run: Path, step: int) -> tuple[str, ...]:
    """The names of the classes that a checkpoint has learned from, by their numbers; () where it does not say them."""
    return tuple(read_meta(run, step)["progress"].get("classes", ()))


def open_reader() -> contextlib.AbstractContextManager[ocp.PyTreeCheckpointHandler]:
    return contextlib.closing(ocp.PyTreeCheckpointHandler())


@contextlib.contextmanager
def _report_damage(run: Path, step: int):
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise many exception types for damaged files
        raise CheckpointError(
            f"checkpoint {step} of {run}",
            str(error)[:600],
            "files as they were written",
            f"Name another one of {', '.join(map(str, steps_of(run)))}.",
        ) from error


# A checksum of every array of a state: what orbax reads back is compared with what was there when it was saved.
#
# Needed since orbax' format has no checksum over the values: a flipped bit in a data file comes back as another number.
# The sum is computed on the devices, over the global array, so it is the same for any sharding, and costs one pass.
# Where one process has all arrays on a CPU, numpy computes it: compiling a program would take longer than the pass.


def checksums(tree) -> dict[str, int]:
    """Returns {path: checksum} of the arrays of a tree, on all processes alike.

    It is sum_i (2 i + 1) bits_i mod 2^32 over the elements i in row-major order. The weights are odd, so a change of
    any one element is always seen; other changes go unseen with a probability of about 2^-32.
    """
    leaves, _ = jax.tree.flatten_with_path(tree)
    arrays = [leaf for _, leaf in leaves]
    if jax.default_backend() == "cpu" and jax.process_count() == 1:
        values = [sum_on_host(jax.device_get(array)) for array in arrays]
    else:
        values = jax.device_get(_sums(arrays))
    return {jax.tree_util.keystr(path): int(value) for (path, _), value in zip(leaves, values, strict=True)}


def text_checksum(content) -> str:
    """SHA-256 (hex) of JSON content, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sum_on_host(array: np.ndarray) -> int:
    """The checksum of an array in the memory of the host."""
    values = np.ascontiguousarray(array).reshape(-1)
    if values.dtype == np.bool_:
        values = values.astype(np.uint8)
    bits = values.view(f"uint{8 * min(values.dtype.itemsize, 4)}").astype(np.uint32)
    return int(np.sum(bits * (2 * np.arange(len(bits), dtype=np.uint32) + 1), dtype=np.uint32))


@jax.jit
def _sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([sum_on_devices(leaf) for leaf in leaves])


def sum_on_devices(array: jax.Array) -> jax.Array:
    """The checksum of a global array, as part of a program."""
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    width = array.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(width, 4)}")).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis in range(bits.ndim):
        stride = math.prod(bits.shape[axis + 1 :]) % 2**32
        place = place + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
