"""A resolved config as JSON (the run folder keeps it) and the difference of two configs (a resumed run checks it)."""

import json
from collections.abc import Mapping

import ml_collections

from xsample_jax.config.check import plain_dict
from xsample_jax.config.load import default_config, resolve
from xsample_jax.config.schema import SCHEMA
from xsample_jax.errors import ConfigError


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
    return resolve(_merged(plain_dict(default_config()), values))


def diff_configs(a: Mapping, b: Mapping) -> dict[str, tuple[object, object]]:
    """Returns {dotted key: (value in a, value in b)} for the keys whose values differ; a missing key counts as None."""
    flat_a, flat_b = _flat(plain_dict(a)), _flat(plain_dict(b))
    pairs = {name: (flat_a.get(name), flat_b.get(name)) for name in flat_a | flat_b}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


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
