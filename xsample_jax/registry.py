"""Slots and choices.

A choice is data: the name of a registered function, or {"name": ..., option: value, ...} with its options.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

from xsample_jax.errors import ConfigError, did_you_mean, fits_float32, lookup

Choice = str | Mapping


@dataclasses.dataclass(frozen=True)
class Slot:
    """A registered function that a config may choose, with everything that it needs. Calling it calls the function.

    Attributes:
      function: its keyword-only parameters are the options of the choice.
      reads: side information that it reads of anchors and of keys alike (objectives/side_information.py).
      of_anchors, of_keys: side information that it reads of one of them only.
      learns: state that the objective must have: fields of Objective, as "gate" or "teacher".
      raw: it reads head outputs before they are scaled to unit length.
      maps: it compares outputs of heads on the cells of a map, which no other slot does.
      table: a block of rows of no image that a feature term gets after its side information, as "prototypes".
      draws: it draws random numbers, from a key of the step that it gets after its arrays.
      plan: the key of the plan of batches whose parts it reads, as "data.tasks"; None: those of any.
      views: fewest views of an image.
      limits: option -> (lowest, highest) of a number, None for no bound, or a tuple of the words that are allowed.
      chosen: f(**options) -> fields of the slot that depend on its options.
    """

    function: Callable
    reads: tuple[str, ...] = ()
    of_anchors: tuple[str, ...] = ()
    of_keys: tuple[str, ...] = ()
    learns: tuple[str, ...] = ()
    raw: bool = False
    maps: bool = False
    table: str | None = None
    draws: bool = False
    plan: str | None = None
    views: int = 1
    limits: Mapping[str, tuple] = dataclasses.field(default_factory=dict, hash=False)
    chosen: Callable[..., dict] | None = None

    def __call__(self, *arguments, **options):
        return self.function(*arguments, **options)

    @property
    def anchor_reads(self) -> frozenset[str]:
        """All side information that is read of anchors."""
        return frozenset(self.reads + self.of_anchors)

    @property
    def key_reads(self) -> frozenset[str]:
        """All side information that is read of keys."""
        return frozenset(self.reads + self.of_keys)


def slot_of(registry: Mapping[str, Slot], choice: Choice, field: str) -> Slot:
    """The registered slot of a choice, with what its options change; raises ConfigError as `resolve` does."""
    slot, options = lookup(registry, name_of(choice), field), options_of(choice)
    resolve(registry, choice, field)
    return dataclasses.replace(slot, **slot.chosen(**options)) if slot.chosen else slot


def wrong_options(registry: Mapping[str, Slot], choice: Choice, field: str) -> Iterator[ConfigError]:
    """Yields one ConfigError for every option whose value has the wrong type or is outside its limits."""
    slot = registry[name_of(choice)]
    hints = _hints(slot.function)
    for name, value in options_of(choice).items():
        hint, limit = hints[name], slot.limits.get(name)
        if not is_of(hint, value):
            yield ConfigError(f"{field}.{name}", value, in_words(hint))
        elif isinstance(value, int | float) and not fits_float32(value):
            yield ConfigError(f"{field}.{name}", value, "a finite number that float32 holds")
        elif limit is not None and isinstance(limit[0], str):
            if value not in limit:
                yield ConfigError(f"{field}.{name}", value, f"one of {', '.join(limit)}", did_you_mean(value, limit))
        elif limit is not None and value is not None:
            low, high = limit
            if (low is not None and value < low) or (high is not None and value > high):
                ends = [f"{words} {end:g}" for words, end in (("at least", low), ("at most", high)) if end is not None]
                yield ConfigError(f"{field}.{name}", value, f"a number of {' and '.join(ends)}")


def is_of(hint, value) -> bool:
    """Whether a value is of an annotated type: a union, tuple[X, ...], or a class."""
    if isinstance(hint, types.UnionType):
        return any(is_of(one, value) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(is_of(typing.get_args(hint)[0], one) for one in value)
    if hint is not bool and isinstance(value, bool):
        return False
    return isinstance(value, int | float if hint is float else hint)


def in_words(hint) -> str:
    """An annotated type as a message names it."""
    if isinstance(hint, types.UnionType):
        return " or ".join(in_words(one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a tuple, each {in_words(typing.get_args(hint)[0])}"
    words = {str: "a name", Mapping: "a dict with a name and options", bool: "true or false", types.NoneType: "None"}
    return words.get(hint) or {int: "an integer", float: "a number"}.get(hint, hint.__name__)


def name_of(choice: Choice) -> str:
    """The registered name of a choice."""
    return str(choice.get("name", "") if isinstance(choice, Mapping) else choice)


def options_of(choice: Choice) -> dict:
    """The options of a choice; {} for a bare name."""
    return {} if not isinstance(choice, Mapping) else {key: value for key, value in choice.items() if key != "name"}


def resolve(registry: Mapping[str, Slot], choice: Choice, field: str) -> Callable:
    """The registered function with its options bound.

    Options are the keyword-only parameters of the function. Raises ConfigError for an unknown name or option and for a
    missing option, naming `field` and what would be right.
    """
    function = lookup(registry, name_of(choice), field)
    function = function.function if isinstance(function, Slot) else function
    options, known = options_of(choice), _known_options(function)
    for name in options:
        if name not in known:
            expected = f"an option of {name_of(choice)!r}"
            fix = did_you_mean(name, known) if known else f"{name_of(choice)!r} has no options."
            raise ConfigError(f"{field}.{name}", options[name], expected, fix)
    for name, default in known.items():
        if default is inspect.Parameter.empty and name not in options:
            raise ConfigError(f"{field}.{name}", None, f"a value: {name_of(choice)!r} needs it")
    return partial(function, **_as_declared(function, options)) if options else function


def _as_declared(function: Callable, options: dict) -> dict:
    """The options with whole numbers as floats where a float is declared: as int32 a large one would overflow."""
    floats = {name for name, hint in _hints(function).items() if float in (hint, *typing.get_args(hint))}
    whole = {name for name in floats & options.keys() if type(options[name]) is int}
    return options | {name: float(options[name]) for name in whole}


@cache
def _hints(function: Callable) -> dict:
    return typing.get_type_hints(function)


@cache
def _known_options(function: Callable) -> dict:
    """{name: default} of the options of a function: a trace asks thousands of times."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
