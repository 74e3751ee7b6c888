"""Command-line overrides: `--config.optimizer.learning_rate=1e-3` for every key of the schema."""

import ast
import typing

import ml_collections

from xsample_jax.config.check import describe, unknown_key
from xsample_jax.config.key import Key
from xsample_jax.config.schema import SCHEMA, flat_keys
from xsample_jax.errors import ConfigError

PREFIX = "config."


def split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns (the `--config.key=value` arguments, all the others), both in their order."""
    overrides = [argument for argument in arguments if argument.lstrip("-").startswith(PREFIX)]
    return overrides, [argument for argument in arguments if argument not in overrides]


def apply_overrides(config: ml_collections.ConfigDict, overrides: list[str]) -> list[ConfigError]:
    """Sets the values of `overrides` in `config`, in their order (the last wins).

    Args:
      config: permissive config, changed in place.
      overrides: `--config.a.b=value`, or the same without dashes or without `--config.`.

    Returns:
      One ConfigError for each override that cannot be applied: no value, unknown key, unreadable value. Whether a
      readable value is a right one is `check_config`'s business.
    """
    problems = []
    for override in overrides:
        name, has_value, text = override.lstrip("-").partition("=")
        name = name.removeprefix(PREFIX)
        key = flat_keys().get(name)
        if not has_value:
            problems.append(ConfigError(name, "", "a value", f"Write --config.{name}=VALUE, with = and no space."))
        elif key is None:
            section = _section(SCHEMA, name.split("."))
            keys = f"a single key: {name} is a section with the keys {', '.join(section)}" if section else ""
            problems.append(ConfigError(name, text, keys) if keys else unknown_key(name, text))
        else:
            try:
                value = parse_value(key, text)
            except ValueError:
                problems.append(ConfigError(name, text, describe(key), f"For example --config.{name}={example(key)}."))
            else:
                _set(config, name.split("."), value)
    return problems


def parse_value(key: Key, text: str) -> object:
    """Returns `text` as a value of the key's type; raises ValueError when it cannot be read as one.

    Tuples are written `(3,4)`, `[3,4]`, `3,4` or `3`; nothing as `None` (optional keys only); true and false in any
    case; whole numbers also as `1e5`; a text may have quotes.
    """
    text = text.strip()
    if key.optional and text.lower() in ("none", "null"):
        return None
    if typing.get_origin(key.type) is tuple:
        (element, *_) = typing.get_args(key.type)
        if element is dict:
            return _parse_dicts(text)
        inner = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
        parts = inner.removesuffix(",").split(",") if inner.strip() else []
        return tuple(_parse_scalar(element, part.strip()) for part in parts)
    return _parse_scalar(key.type, text)


def _parse_dicts(text: str) -> tuple[dict, ...]:
    """Reads dicts as they are written in Python, one or several."""
    try:
        value = ast.literal_eval(text)
    except SyntaxError as error:
        raise ValueError(text) from error
    if isinstance(value, str):  # quoted once more than the shell takes off
        return _parse_dicts(value)
    return (value,) if isinstance(value, dict) else tuple(value)


def example(key: Key) -> str:
    """Returns one value of `key` as it is typed on the command line."""
    of_dicts = key.type == tuple[dict, ...]
    if of_dicts and key.default is not None:
        return f'"{key.default}"'
    if key.default is not None:
        value = key.default
    elif of_dicts:
        return "\"({'graph': 'label'},)\""
    else:
        value = {bool: "true", int: 100, float: 0.5, str: "TEXT"}[key.type]
    return (
        ",".join(element if isinstance(element, str) else f"{element:g}" for element in value)
        if isinstance(value, tuple)
        else str(value).lower()
    )


def _parse_scalar(declared: type, text: str) -> object:
    if declared is bool:
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]
    if declared is int:
        number = float(text)
        if not number.is_integer():
            raise ValueError(text)
        return int(number) if set(text) & set(".eE") else int(text)
    if declared is float:
        return float(text)
    if text[:1] in ("'", '"'):
        try:
            return str(ast.literal_eval(text))
        except SyntaxError as error:
            raise ValueError(text) from error
    return text


def _section(tree: dict, path: list[str]) -> dict | None:
    """Returns the section of the schema at `path`, or None when there is none."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else None


def _set(config: ml_collections.ConfigDict, path: list[str], value: object) -> None:
    for name in path[:-1]:
        if not isinstance(config.get(name), ml_collections.ConfigDict):
            return  # The config file replaced the section by something else; check_config reports it.
        config = config[name]
    config[path[-1]] = value
