"""From a python file and command-line overrides to one checked, locked config."""

import ast
import contextlib
import inspect
import pathlib
import traceback
import types
import typing
from collections.abc import Sequence

import ml_collections

from xsample_jax.config.check import check_config, find_problems, plain_dict, unknown_key
from xsample_jax.config.key import Key, as_declared, describe
from xsample_jax.config.renamed import current_name, rename
from xsample_jax.config.schema import SCHEMA, flat_keys
from xsample_jax.errors import ConfigError, Problems, UserError, did_you_mean
from xsample_jax.io.paths import expanded
from xsample_jax.models.towers import kind_of, smallest_of_kind

# Command-line overrides: `--config.optimizer.learning_rate=1e-3` for every key of the schema.


PREFIX = "config."
# What Python raises for text that is not a literal, or is nested too deeply.
SYNTAX = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


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
        name = current_name(name.removeprefix(PREFIX))
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
    except SYNTAX as error:
        raise ValueError(text) from error
    if isinstance(value, str):  # quoted once more than the shell takes off
        return _parse_dicts(value)
    if not isinstance(value, dict | list | tuple):
        raise ValueError(text)
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
        value = {bool: "true", int: 100, float: 0.5, str: "TEXT", tuple[float, ...]: (0.5, 1.0)}[key.type]
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
        if not set(text) & set(".eE"):
            return int(text)
        number = float(text)
        if not number.is_integer():
            raise ValueError(text)
        return int(number)
    if declared is float:
        return float(text)
    if text[:1] in ("'", '"'):
        try:
            return str(ast.literal_eval(text))
        except SYNTAX as error:
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
    values = plain_dict(config)
    check_config(values)
    resolved = ml_collections.ConfigDict(_converted(values, SCHEMA), type_safe=True)
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
    path, suffix = find_config(str(file))
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
    rename(config)
    return config


PACKAGE = pathlib.Path(__file__).parents[1]
CONFIG_FOLDERS = (PACKAGE.parent / "configs", PACKAGE / "configs")  # of a checkout, of a wheel


def find_config(file: str, flag: str = "--config") -> tuple[pathlib.Path, str]:
    """Returns (the path of a config file, its argument) for `path.py:argument` or `name:argument`, the value of a flag.

    A name without .py, as quickstart or baselines/clip, is a config of this package, wherever it is called from.
    """
    path, colon, argument = file.partition(".py:")
    if colon or file.endswith(".py"):
        return pathlib.Path(path + ".py" if colon else file), argument
    name, _, argument = file.partition(":")
    for folder in CONFIG_FOLDERS:
        if name in names_of_configs(folder):
            return folder / f"{name}.py", argument
    if "." in pathlib.PurePath(name).name or pathlib.Path(name).is_file():
        return pathlib.Path(file), ""
    known = [known for folder in CONFIG_FOLDERS for known in names_of_configs(folder)]
    raise ConfigError(flag, name, "a python file, or the name of a config", did_you_mean(name, known))


def names_of_configs(folder: pathlib.Path) -> list[str]:
    """The names of the configs in a folder of configs, as quickstart and baselines/clip."""
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.py"))


_EXAMPLE = (
    "Start the function with: from xsample_jax.config import default_config; config = default_config(); end it with: "
    "return config."
)


def import_file(path: pathlib.Path, flag: str = "--config"):
    """Returns a python file as a module; ConfigError where there is none or it fails, naming its line."""
    path = expanded(str(path), flag)
    if not path.is_file():
        raise missing_file(path, flag)
    if path.suffix != ".py":
        raise ConfigError(flag, str(path), "a python file (its name ends in .py)")
    module = types.ModuleType(f"config_file_{path.stem}")
    module.__file__ = str(path)
    try:
        # Not by python's own loader: it takes the bytecode of a file of the same size and second, edited since or not.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        raise file_error(path, error) from error
    return module


def missing_file(path: pathlib.Path, flag: str = "--config") -> ConfigError:
    """The error for a config file that does not exist, with close names from its own folder."""
    family = path.parent.parent / f"{path.parent.name.removesuffix('s')}.py"
    if path.parent.name == "objectives" and family.is_file():
        return ConfigError(flag, str(path), "an existing python file", f"Use {family}:{path.stem}.")
    with contextlib.suppress(OSError):
        near = [*path.parent.glob("*.py"), *(path.parent / "configs").glob("*.py")]
        if near:
            return ConfigError(flag, str(path), "an existing python file", did_you_mean(str(path), map(str, near)))
    folder = "this folder" if path.parent == pathlib.Path() else path.parent
    return ConfigError(flag, str(path), "an existing python file", f"There is no config file in {folder}.")


def file_error(path: pathlib.Path, error: Exception) -> ConfigError:
    """The error of a user's python file that failed, naming its line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
    where = f"{path}, line {line}" if line else str(path)
    return ConfigError(where, f"{type(error).__name__}: {error}", "a python file that runs", f"Mend {where}.")


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


# The words after the colon of `--config=file.py:word,smoke`.


def parse_variants(argument: str, choices: tuple[str, ...] = ()) -> tuple[str | None, bool]:
    """Returns (the one word of `choices` in the comma-separated `argument` or None, whether `smoke` is in it).

    Raises ConfigError for an unknown word and for two choices at once.
    """
    (chosen,), small = parse_variant_groups(argument, (choices,))
    return chosen, small


def parse_variant_groups(argument: str, groups: Sequence[tuple[str, ...]]) -> tuple[list[str | None], bool]:
    """As `parse_variants`, for questions that are answered one by one: at most one word of each group."""
    words = [word.strip() for word in argument.split(",") if word.strip()]
    known = (*(word for group in groups for word in group), "smoke")
    for word in words:
        if word not in known:
            raise ConfigError("config variant", word, f"one of {', '.join(known)}", did_you_mean(word, known))
    answers = []
    for group in groups:
        chosen = sorted({word for word in words if word in group})
        if len(chosen) > 1:
            raise ConfigError("config variant", argument, f"only one of {', '.join(chosen)}", "Start one run for each.")
        answers.append(chosen[0] if chosen else None)
    return answers, "smoke" in words


# `:smoke` of every config: the same code path on the embedded data, small enough for seconds on a laptop.


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Shrinks `config` in place and returns it.

    Kept: objective, graph, views, augmentation, encoder family, stem, head kind, optimizer, schedule and precision,
    for these are what a smoke run should execute. Changed: the data (embedded emoji), every size, the run's length,
    and evaluation, which is off.
    """
    config.name = f"{config.name}_smoke"
    config.steps, config.epochs = 5, None
    config.batch_size = 16
    config.data.update(source="emoji", path=None, split="train", fingerprint=None, mix=(), cache="none")
    config.data.update(image_size=32, threads=2, prefetch=2)
    config.data.forget.ids = None
    if config.data.tasks.count:
        config.data.tasks.update(count=2, steps=3, keep=2)
    if config.data.episodes.way:
        config.data.episodes.update(way=4, shot=1, query=3)
    config.augment.size = 32
    config.model.encoder = smallest_of_kind(config.model.encoder)
    config.model.width = 8
    config.model.patch_size = 8
    config.model.update(init_from=None, init_family=None, init_whole=False)
    fixed_head = config.model.head.kappa is not None  # as wide as the features
    dim = (
        {"resnet": 64, "vit": 192, "convnext": 320}.get(kind_of(config.model.encoder), config.model.head.dim)
        if fixed_head
        else 16
    )
    config.model.head.update(hidden=(32,) * len(config.model.head.hidden), dim=dim)
    widths = tuple(16 >> number for number in range(min(len(config.objective.widths), 3)))
    config.objective.widths = widths
    if config.objective.width_weights is not None:
        config.objective.width_weights = tuple(config.objective.width_weights)[: len(widths)]
    config.model.text.update(layers=min(config.model.text.layers, 1), width=32, heads=2, length=16)
    config.model.text.update(multimodal=min(config.model.text.multimodal, 1), queries=min(config.model.text.queries, 8))
    config.model.decoder_width = min(config.model.decoder_width, 8)
    config.mesh.topology = None
    config.checkpoint.update(every=2, metric=None, resume_from=None)
    config.eval.update(
        suite="none", split="test", train_split="train", every=None, batch_size=64, baselines=(), stop=(), patience=None
    )
    config.eval.map = "pca"
    config.log.update(every=1, profile=(), wandb=None, to=None)
    return config
