"""One key of the config: type, default, meaning and bounds."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
      type: bool, int, float, str, or `tuple[int, ...]`-like for tuples. An int is accepted for a float.
      default: the value when a config says nothing; None only where `optional`.
      help: one line: meaning and unit.
      choices: the only allowed values, if any.
      minimum, maximum: inclusive bounds; `above`, `below`: exclusive ones. Applied to each element of a tuple.
      optional: None is allowed (and means what `help` says).
      lengths: the allowed numbers of elements of a tuple; () = any.
      increasing: the elements of a tuple must not decrease (a range: low, high).
    """

    type: Any
    default: Any
    help: str
    choices: tuple = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    optional: bool = False
    lengths: tuple[int, ...] = ()
    increasing: bool = False
