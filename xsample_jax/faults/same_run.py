"""A run folder belongs to one config. Another one is refused, or taken over and written down.

Keys that say how a machine works, and change no number of the run, may differ.
"""

import pathlib

from xsample_jax.config import config_from_json, config_to_json, diff_configs
from xsample_jax.data.whole_file import write_whole
from xsample_jax.errors import CheckpointError
from xsample_jax.faults.history import note
from xsample_jax.run_files import CONFIG

OF_THE_MACHINE = (
    "data.cache",
    "data.threads",
    "data.prefetch",
    "log.profile",
    "log.wandb",
    "faults.data_timeout",
    "faults.grace",
)


def save_config(config, folder: pathlib.Path, changes: dict) -> None:
    """Writes config.json, the whole or, when killed, not at all, and the changes into the history."""
    if changes:
        note(folder, "the config changed", keys={key: list(pair) for key, pair in changes.items()})
    write_whole(folder / CONFIG, lambda partial: partial.write_text(config_to_json(config)))


def changed_keys(config, folder: pathlib.Path, allow: bool) -> dict[str, tuple[object, object]]:
    """Returns {dotted key: (then, now)} for the keys that differ from the config of the run in `folder`, if any.

    Those in OF_THE_MACHINE are left out. Raises CheckpointError that lists them unless `allow`.
    """
    path = folder / CONFIG
    if not path.exists():
        return {}
    differing = diff_configs(config_from_json(path.read_text()), config)
    differing = {key: pair for key, pair in differing.items() if key not in OF_THE_MACHINE}
    if differing and not allow:
        changes = "; ".join(f"{key} was {old!r}, is now {new!r}" for key, (old, new) in differing.items())
        raise CheckpointError(
            "--workdir",
            str(folder),
            f"the folder of a run with this very config ({changes})",
            "Use another folder, or the config that the run was started with; --allow_config_change goes on with this "
            "one.",
        )
    return differing
