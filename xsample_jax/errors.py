"""Errors that a user can act on: each names the field, the value found, what was expected and the fix."""

import difflib
import numbers
from collections.abc import Iterable, Sequence

# Exit codes of python -m xsample_jax.main, for launchers: whether to start the same command again.


FINISHED = 0  # the run is done
FAILED = 1  # the run broke though its input was fine: diverged, disk full at the end, data stalled
BAD_INPUT = 2  # config, data, folder or checkpoint: the same command fails again until it is mended
INCOMPLETE = 69  # a process of the run was missing or late: start it again, but not for ever (EX_UNAVAILABLE)
REQUEUE = 75  # stopped from outside and saved: start the same command again (EX_TEMPFAIL of sysexits.h)


SMALLEST_FLOAT32, LARGEST_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127
LONGEST = 500  # characters of a message
LONGEST_VALUE = 160
SHORTEST_PART = 80  # what is left of a part, at least, where the message is too long
MOST_PROBLEMS = 20
CONTROLS = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0))}


def shorten(text: str, length: int) -> str:
    """`text`, with the middle left out where it is longer than `length`."""
    tail = length // 3
    return text if len(text) <= length else f"{text[: length - tail - 5]} ... {text[-tail:]}"


def show(value: object) -> str:
    """A value as it is shown in a message: on one line, whatever it is, at most LONGEST_VALUE characters."""
    try:
        text = repr(value)
    except Exception:  # a whole number of more digits than Python prints, an object of the user's
        text = f"a {type(value).__name__} that cannot be printed"
    return shorten(text, LONGEST_VALUE)


class UserError(ValueError):
    """User error. Entry points print the message only, without a traceback.

    The message has at most LONGEST characters: the value is always shortened, the other parts where they must be.
    """

    exit_code = BAD_INPUT

    def __init__(self, field: str, value: object, expected: str, fix: str = ""):
        self.field, self.value, self.expected, self.fix = field, value, expected, fix
        parts = [str(field), show(value), str(expected), str(fix)]
        for _ in parts:
            over = sum(map(len, parts)) - (LONGEST - 20)
            if over > 0:
                longest = max(range(len(parts)), key=lambda place: len(parts[place]))
                parts[longest] = shorten(parts[longest], max(SHORTEST_PART, len(parts[longest]) - over))
        message = "{} = {}: expected {}.".format(*parts) + f" {parts[3]}" * bool(fix)
        super().__init__(message.translate(CONTROLS))

    def __reduce__(self):  # exceptions are rebuilt from their message otherwise, and could not come back from a process
        return type(self), (self.field, self.value, self.expected, self.fix)


class ConfigError(UserError):
    """A config key is unknown, has the wrong type, or does not go with another key."""


class DataError(UserError):
    """A dataset, a manifest, a shard or one record is not what it should be."""


class CheckpointError(UserError):
    """A checkpoint cannot be written, found or restored into this model."""


class RunError(UserError):
    """A run broke though its input was fine."""

    exit_code = FAILED


class DivergedError(RunError):
    """Loss, gradient or parameters of a run are not finite any more."""


class SaveError(RunError):
    """A checkpoint could not be written."""


class StalledError(RunError):
    """The data did not come within the time limit."""


class ProcessError(UserError):
    """A process of a run on several hosts is missing, late or cannot be reached: it may be there at the next start."""

    exit_code = INCOMPLETE


class Problems(ConfigError):
    """Several problems reported at once. `problems` holds the single errors."""

    def __init__(self, problems: Iterable[UserError], where: str):
        self.problems, self.where = tuple(problems), where
        shown = self.problems[:MOST_PROBLEMS]
        lines = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(shown, 1))
        if len(self.problems) > len(shown):
            lines += f"\n  and {len(self.problems) - len(shown)} more"
        ValueError.__init__(self, f"{len(self.problems)} problem(s) in {where}:\n{lines}")

    def __reduce__(self):
        return type(self), (self.problems, self.where)


def fits_float32(value: numbers.Real) -> bool:
    """Whether float32 holds a number, not as infinity or 0; Python itself raises for an integer beyond its floats."""
    try:
        return value == 0 or SMALLEST_FLOAT32 <= abs(float(value)) <= LARGEST_FLOAT32
    except OverflowError:
        return False


def raise_all(problems: Sequence[UserError], where: str) -> None:
    """Raises the one problem, or several as Problems in `where`; returns where there is none."""
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems, where)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns a sentence that names the closest known words, or lists them all when none is close; "" without any."""
    known = sorted(known)
    if not known:
        return ""
    close = difflib.get_close_matches(str(name)[:100], known, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {shorten(', '.join(known), 200)}."


def lookup(registry: dict, name: str, field: str):
    """Returns `registry[name]`; raises ConfigError that lists the right names when there is no such entry."""
    if not isinstance(name, str) or name not in registry:
        raise ConfigError(field, name, f"one of {', '.join(sorted(registry))}", did_you_mean(name, registry))
    return registry[name]
