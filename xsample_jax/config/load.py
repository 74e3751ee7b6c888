"""From a python file and command-line overrides to one checked, locked config."""

import importlib.util
import inspect
import pathlib
import traceback

import ml_collections

from xsample_jax.config.check import as_declared, check_config, find_problems, plain_dict
from xsample_jax.config.overrides import apply_overrides
from xsample_jax.config.schema import SCHEMA, flat_keys
from xsample_jax.errors import ConfigError, Problems, UserError, did_you_mean


def default_config() -> ml_collections.ConfigDict:
    """Returns every key of the schema with its default, for a config file to change.

    It takes any value under any name: mistakes are collected by `check_config` and reported together, not raised
    at the first one.
    """
    return ml_collections.ConfigDict(_defaults(SCHEMA), type_safe=False)


def load_config(file: str, overrides: list[str] | tuple[str, ...] = ()) -> ml_collections.ConfigDict:
    """Reads a config file, applies overrides, checks the result and locks it.

    Args:
      file: `path.py` or `path.py:argument`; the argument is handed to the file's `get_config`.
      overrides: `--config.a.b=value`, see `apply_overrides`.

    Returns:
      The resolved config: locked, type-safe, every value in exactly its declared type.

    Raises:
      ConfigError: the file is missing or fails.
      Problems: a ConfigError that lists all wrong keys, values, combinations and overrides at once.
    """
    config = read_config_file(file)
    problems = apply_overrides(config, list(overrides))
    problems += find_problems(config)
    if problems:
        raise Problems(problems, file)
    return resolve(config)


def resolve(config: ml_collections.ConfigDict | dict) -> ml_collections.ConfigDict:
    """Returns a locked, type-safe copy of `config` with every value in its declared type; raises Problems."""
    check_config(config)
    resolved = ml_collections.ConfigDict(_converted(plain_dict(config), SCHEMA), type_safe=True)
    return resolved.lock()


def read_config_file(file: str | pathlib.Path, argument: str | None = None) -> ml_collections.ConfigDict:
    """Returns what `get_config(argument)` of a config file returns: permissive, not yet checked.

    Config files use this to build on one another (`read_config_file(Path(__file__).parent / "imagenet.py")`).

    Args:
      file: path, or `path.py:argument`.
      argument: the argument when it is not a part of `file`.

    Raises:
      ConfigError: no such file, no `get_config`, an exception inside it (named with its line), or no config returned.
    """
    path, colon, suffix = str(file).partition(".py:")
    path = pathlib.Path(path + ".py" if colon else path)
    argument = suffix if argument is None else argument
    module = import_file(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise ConfigError(str(path), "no get_config", "a function get_config(arg) that returns a config", _EXAMPLE)
    if argument and not inspect.signature(get_config).parameters:
        raise ConfigError(str(path), argument, "no argument: get_config of this file takes none", f"Use {path} alone.")
    try:
        config = get_config(argument) if inspect.signature(get_config).parameters else get_config()
    except UserError:
        raise
    except Exception as error:
        raise file_error(path, error) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"get_config of {path}", config, "the ConfigDict made by default_config()", _EXAMPLE)
    return config


_EXAMPLE = (
    "Start the function with: from xsample_jax.config import default_config; config = default_config(); end it with: "
    "return config."
)


def import_file(path: pathlib.Path):
    """Returns a python file as a module; ConfigError where there is none or it fails, naming its line."""
    if not path.is_file():
        siblings = [str(sibling) for sibling in path.parent.glob("**/*.py")] if path.parent.is_dir() else []
        hint = did_you_mean(str(path), siblings) if siblings else f"There is no config file in {path.parent}."
        raise ConfigError("--config", str(path), "an existing python file", hint)
    spec = importlib.util.spec_from_file_location(f"config_file_{path.stem}", path)
    if spec is None:
        raise ConfigError("--config", str(path), "a python file (its name ends in .py)")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise file_error(path, error) from error
    return module


def file_error(path: pathlib.Path, error: Exception) -> ConfigError:
    """The error of a user's python file that failed, naming its line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    where = f"{path}, line {line}" if line else str(path)
    return ConfigError(where, f"{type(error).__name__}: {error}", "a config file that runs", f"Mend {where}.")


def _defaults(schema: dict) -> dict:
    return {name: _defaults(entry) if isinstance(entry, dict) else entry.default for name, entry in schema.items()}


def _converted(values: dict, schema: dict, prefix: str = "") -> dict:
    """Returns `values` in the order of the schema and in the declared types."""
    keys = flat_keys()
    return {
        name: _converted(values[name], entry, f"{prefix}{name}.")
        if isinstance(entry, dict)
        else as_declared(keys[prefix + name], values[name])
        for name, entry in schema.items()
    }
