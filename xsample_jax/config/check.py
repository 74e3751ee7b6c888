"""What makes a config valid: known keys, types, bounds, then rules.py. Every problem is reported at once."""

import difflib
from collections.abc import Mapping

from xsample_jax.config.key import as_declared, find_value_problem
from xsample_jax.config.renamed import rename
from xsample_jax.config.rules import RULES
from xsample_jax.config.schema import SCHEMA, flat_keys
from xsample_jax.errors import ConfigError, Problems

# Names that people use for a key in other projects and in the papers, where spelling alone would not find it.
ALIASES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "warmup_steps": "optimizer.warmup",
    "warmup_epochs": "optimizer.warmup",
    "tau": "objective.temperature",
    "tau_s": "objective.target_temperature",
    "loss": "objective.preset",
    "arch": "model.encoder",
    "backbone": "model.encoder",
    "dataset": "data.source",
    "dtype": "precision.compute",
    "bf16": "precision.compute",
    "workers": "data.threads",
    "microbatches": "loss.grad_cache",
    "num_steps": "steps",
    "num_epochs": "epochs",
}


def check_config(config: Mapping, where: str = "the config") -> None:
    """Raises Problems (a ConfigError) that lists everything wrong with `config`; returns None when all is right."""
    problems = find_problems(config)
    if problems:
        raise Problems(problems, where)


def find_problems(config: Mapping) -> list[ConfigError]:
    """Returns one ConfigError for each unknown or missing key, wrong value and impossible combination."""
    values, problems = _walk(plain_dict(config), SCHEMA)
    right = {}
    for name, key in flat_keys().items():
        if name not in values:
            continue
        problem = find_value_problem(name, key, values[name])
        if problem is None:
            right[name] = as_declared(key, values[name])
        else:
            problems.append(problem)
    for rule in RULES:
        try:
            problems += rule(right)
        except KeyError:  # A value that this rule compares is itself wrong or missing, which is reported already.
            continue
    return problems


def plain_dict(config: Mapping) -> dict:
    """Returns `config` as new nested dicts: field references replaced by their values, old names by present ones."""
    plain = config.to_dict() if hasattr(config, "to_dict") else _copied(config)
    rename(plain)
    return plain


def _copied(config: Mapping) -> dict:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in config.items()}


def suggest_key(name: str) -> str:
    """Returns a sentence that names the keys an unknown dotted `name` may have meant."""
    known = list(flat_keys())
    section, _, leaf = name.rpartition(".")
    if "accum" in leaf:
        return (
            "A contrastive loss couples all rows of its batch: averaging gradients of small batches is another loss, "
            "so it is not offered. Did you mean loss.grad_cache? It gives the gradient of the whole batch."
        )
    if leaf in ALIASES:
        return f"Did you mean {ALIASES[leaf]}?"
    siblings = {_leaf(key): key for key in known if key.rpartition(".")[0] == section and section}
    elsewhere = {_leaf(key): key for key in reversed(known)}
    close = (
        difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        or [key for key in known if _leaf(key) == leaf]
        or [siblings[match] for match in difflib.get_close_matches(leaf, siblings, n=3, cutoff=0.6)]
        or [elsewhere[match] for match in difflib.get_close_matches(leaf, elsewhere, n=3, cutoff=0.75)]
    )
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(siblings.values() or SCHEMA)}."


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def unknown_key(name: str, value: object) -> ConfigError:
    """Returns the error for a dotted `name` that the schema does not have."""
    return ConfigError(name, value, "a known key", suggest_key(name))


def _walk(values: Mapping, schema: dict, prefix: str = "") -> tuple[dict, list[ConfigError]]:
    """Returns (flat values of known keys, problems with the tree itself: unknown, missing, section or not)."""
    flat, problems = {}, []
    for name, value in values.items():
        if name not in schema:
            problems.append(unknown_key(f"{prefix}{name}", value))
        elif not isinstance(schema[name], dict):
            flat[prefix + name] = value
        elif isinstance(value, Mapping):
            inner_flat, inner_problems = _walk(value, schema[name], f"{prefix}{name}.")
            flat |= inner_flat
            problems += inner_problems
        else:
            keys = ", ".join(schema[name])
            problems.append(ConfigError(prefix + name, value, f"a section with the keys {keys}"))
    for name in schema:
        if name not in values:
            fix = "Change single keys of default_config(); a section that is replaced must keep all of its keys."
            problems.append(ConfigError(prefix + name, None, "a value (the key is missing)", fix))
    return flat, problems
