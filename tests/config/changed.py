"""Configs that differ from a right one in a few keys."""

from xsample_jax.config import default_config, find_problems


def changed(**changes):
    """A right config with some keys changed; a double underscore stands for a dot."""
    config = default_config()
    config.steps = 10
    for name, value in changes.items():
        *sections, leaf = name.split("__")
        section = config
        for part in sections:
            section = section[part]
        section[leaf] = value
    return config


def fields(config):
    return [problem.field for problem in find_problems(config)]
