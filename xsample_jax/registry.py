"""A choice is data: the name of a registered function, or {"name": ..., option: value, ...} with its options."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial

from xsample_jax.errors import ConfigError, did_you_mean, lookup

Choice = str | Mapping


def name_of(choice: Choice) -> str:
    """The registered name of a choice."""
    return choice if isinstance(choice, str) else choice.get("name", "")


def options_of(choice: Choice) -> dict:
    """The options of a choice; {} for a bare name."""
    return {} if isinstance(choice, str) else {key: value for key, value in choice.items() if key != "name"}


def resolve(registry: dict[str, Callable], choice: Choice, field: str) -> Callable:
    """The registered function with its options bound.

    Options are the keyword-only parameters of the function. Raises ConfigError for an unknown name or option and for a
    missing option, naming `field` and what would be right.
    """
    function = lookup(registry, name_of(choice), field)
    options = options_of(choice)
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    for name in options:
        if name not in known:
            expected = f"an option of {name_of(choice)!r}"
            fix = did_you_mean(name, known) if known else f"{name_of(choice)!r} has no options."
            raise ConfigError(f"{field}.{name}", options[name], expected, fix)
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in options:
            raise ConfigError(f"{field}.{name}", None, f"a value: {name_of(choice)!r} needs it")
    return partial(function, **options) if options else function
