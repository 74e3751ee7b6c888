"""A resolved config as JSON (the run folder keeps it) and the difference of two configs (a resumed run checks it)."""

import json
import pathlib
import secrets
import socket
import time
from collections.abc import Mapping

import jax
import ml_collections
from jax._src import distributed

from xsample_jax.config.check import plain_dict
from xsample_jax.config.load import default_config, resolve
from xsample_jax.config.schema import SCHEMA, flat_keys
from xsample_jax.distributed import WAIT_LIMIT, allgather_text, barrier
from xsample_jax.errors import CheckpointError, ConfigError, raise_all, shorten, show
from xsample_jax.io.files import CONFIG, atomic_write
from xsample_jax.io.run_dir import log_event
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.learned_state import own_temperatures
from xsample_jax.registry import name_of


def config_to_json(config: Mapping) -> str:
    """Returns `config` as JSON text: one key per line, in the order of the schema, tuples as lists."""
    return _format(_in_order(plain_dict(config), SCHEMA)) + "\n"


def config_from_json(text: str) -> ml_collections.ConfigDict:
    """Returns the resolved config that `config_to_json` wrote.

    A key that the text does not have takes its default, so a run that is older than the key still opens.

    Raises:
      ConfigError: not a JSON object, or (as Problems) keys and values that are not right today.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError("config.json", str(error), "JSON text", "Restore the file, or start a new run.") from error
    if not isinstance(values, dict):
        raise ConfigError("config.json", values, "a JSON object", "Restore the file, or start a new run.")
    return resolve(_merged(plain_dict(default_config()), plain_dict(values)))


def diff_configs(a: Mapping, b: Mapping) -> dict[str, tuple[object, object]]:
    """Returns {dotted key: (value in a, value in b)} for the keys whose values differ; a missing key counts as None."""
    flat_a, flat_b = _flat(plain_dict(a)), _flat(plain_dict(b))
    pairs = {name: (flat_a.get(name), flat_b.get(name)) for name in flat_a | flat_b}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def describe_difference(ours: str, theirs: str) -> str:
    """How a config, as JSON, differs from ours, in words: the keys with both values; other text is quoted."""
    try:
        differing = diff_configs(json.loads(ours), json.loads(theirs))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{shorten(theirs, 80)!r}, which is not a config"
    words = "; ".join(f"{key} is {show(there)}, not {show(here)}" for key, (here, there) in differing.items())
    return words or "the same values, written in another way"


def _flat(values: Mapping, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _merged(base: dict, changes: dict) -> dict:
    merged = base | changes
    for name in base.keys() & changes.keys():
        if isinstance(base[name], dict) and isinstance(changes[name], dict):
            merged[name] = _merged(base[name], changes[name])
    return merged


def _in_order(values: dict, schema: dict) -> dict:
    """Returns `values` in the order of the schema (ConfigDict sorts by name), unknown keys last."""
    names = [name for name in schema if name in values] + [name for name in values if name not in schema]
    return {
        name: _in_order(values[name], schema.get(name, {})) if isinstance(values[name], dict) else values[name]
        for name in names
    }


def _format(value: object, indent: str = "") -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    inner = indent + "  "
    lines = [f"{inner}{json.dumps(name)}: {_format(item, inner)}" for name, item in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


# A run folder belongs to one config. Another one is refused, or taken over and written down.
#
# Keys that say how a machine works, and change no number of the run, may differ.


OF_THE_MACHINE = (
    "data.cache",
    "data.threads",
    "data.prefetch",
    "log.profile",
    "log.wandb",
    "log.to",
    "faults.data_timeout",
    "faults.grace",
)


def save_config(config, folder: pathlib.Path, changes: dict) -> None:
    """Writes config.json, the whole or, when killed, not at all, and the changes into the history."""
    if changes:
        log_event(folder, "the config changed", keys={key: list(pair) for key, pair in changes.items()})
    atomic_write(folder / CONFIG, lambda partial: partial.write_text(config_to_json(config)))


def changed_keys(config, before, run: pathlib.Path, allow: bool) -> dict[str, tuple[object, object]]:
    """Returns {dotted key: (then, now)} for the keys that differ from `before`, the config of the folder `run`.

    Those in OF_THE_MACHINE are left out. Raises CheckpointError (or Problems) that lists them unless `allow`, and in
    any case for start values where there is a checkpoint: the run would go on without them, under a config that says
    otherwise.
    """
    from xsample_jax.io.checkpoint_files import steps_of  # orbax takes seconds, which reading a config should not cost

    differing, where = differing_keys(config, before), str(run)
    starts = start_values(config) if differing and steps_of(run) else ()
    words = {key: f"{key} was {show(old)}, is now {show(new)}" for key, (old, new) in differing.items()}
    start = shorten("; ".join(words[key] for key in words if key in starts), 200)
    others = shorten("; ".join(words[key] for key in words if key not in starts), 200)
    problems = []
    if start:
        expected = f"the start values of its run ({start}): those in the checkpoint stay, whatever the config says"
        problems.append(CheckpointError("--workdir", where, expected, "Leave them alone, or use another folder."))
    if others and not allow:
        expected = f"the folder of a run with this very config ({others})"
        fix = "Use another folder, or the config of the run; --allow_config_change continues with this one."
        problems.append(CheckpointError("--workdir", where, expected, fix))
    raise_all(problems, "the config of a run that has begun")
    return differing


def differing_keys(config, before) -> dict[str, tuple[object, object]]:
    """As `changed_keys`, whatever they are; {} where `before` is None."""
    pairs = {} if before is None else diff_configs(before, config)
    return {key: pair for key, pair in pairs.items() if key not in OF_THE_MACHINE}


def start_values(config) -> set[str]:
    """The dotted keys that a run with a checkpoint does not read: those of a `Key` with `start`, and the temperature
    where it is learned, for all images or for each of them."""
    objective = build_objective(config.objective)
    of_images = own_temperatures(objective) and all(name_of(t.temperature) == "per_anchor" for t in objective.terms)
    learned = {"objective.temperature"} if objective.learn_temperature or of_images else set()
    return {name for name, key in flat_keys().items() if key.start} | learned


def check_shared(folder: pathlib.Path, seconds: float = 60.0) -> None:
    """Raises CheckpointError in every process when some process does not see the files that process 0 writes.

    Checkpoints are written by all processes into one folder, and resuming reads them everywhere.
    """
    if distributed.global_state.client is None:
        return
    first = jax.process_index() == 0
    mark = folder / f".shared-{allgather_text('the run folder', secrets.token_hex(8) if first else '')[0]}"
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    barrier("the run folder")
    deadline = time.monotonic() + seconds  # network file systems show a new file late
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.5)
    seen = allgather_text("the run folder", "" if mark.exists() else socket.gethostname(), seconds + WAIT_LIMIT)
    if first:
        mark.unlink()
    blind = [f"process {index} (host {host})" for index, host in enumerate(seen) if host]
    if blind:
        raise CheckpointError(
            "--workdir",
            str(folder),
            f"a folder that all hosts share; not seen by {', '.join(blind)}",
            "Use a network file system or a mounted bucket.",
        )
