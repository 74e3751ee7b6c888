"""metrics.jsonl, the record of a run: one line of numbers a step, every step once."""

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from xsample_jax.errors import DataError
from xsample_jax.io.console import say
from xsample_jax.io.files import append_whole, atomic_write, set_aside, stop_if_out_of_reach
from xsample_jax.io.paths import as_path
from xsample_jax.io.run_dir import first_step, log_event


class JsonlWriter:
    """Appends one line {"step": ..., name: value, ...} per write; every line is on the disk when `write` returns.

    A resumed run continues the file: lines after `resume_step` (the last step the restored state has done) and a line
    torn by a kill are removed first, so that the file has every step once. For it to have no gap either, the caller
    writes all lines up to a step before the checkpoint of that step is committed. `evaluated` = False removes the
    evaluation of `resume_step` too, which is done again. nan and infinity become null. A damaged file is set aside, and
    what of it can be read is kept. `due`: the last step that had a line, to notice lines that are gone.
    """

    def __init__(self, path: str | Path, resume_step: int = 0, evaluated: bool = True, due: int = 0):
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A run that continued from another one (checkpoint.resume_from) has lines from there on.
        last = max(self._truncate(resume_step, evaluated), first_step(self._path.parent))
        if last < due:
            say(f"warning: {self._path} lacks the steps {last + 1} to {due}: its lines were lost", error=True)
            log_event(self._path.parent, "metrics were lost", after=last, until=due)
        self._file = self._path.open("ab", buffering=0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        line = {"step": int(step)} | {name: plain_number(value) for name, value in values.items()}
        append_whole(self._file, (json.dumps(line, allow_nan=False) + "\n").encode())
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _truncate(self, step: int, evaluated: bool) -> int:
        """Keeps the lines up to `step`; returns the last step that has one."""
        if not os.path.lexists(self._path):
            return 0
        try:
            text = self._path.read_text(encoding="utf-8", errors="strict")
            lines = _lines(text)
        except (OSError, ValueError) as error:
            stop_if_out_of_reach(self._path, error)
            text, lines = "", _readable_lines(self._path)
            aside = set_aside(self._path)
            say(f"warning: {self._path} is damaged ({str(error)[:100]}); it is {aside} now", error=True)
            log_event(self._path.parent, "damaged metrics were set aside", moved=str(aside), kept=len(lines))
        old = [line for line in lines if line["step"] <= step]
        if not evaluated:
            old = [line for line in old if line["step"] < step or not any(name.startswith("eval/") for name in line)]
        kept, last = "".join(json.dumps(line) + "\n" for line in old), max((line["step"] for line in old), default=0)
        if kept == text:
            return last
        atomic_write(self._path, lambda partial: partial.write_text(kept, encoding="utf-8"))
        return last


def read_jsonl(path: str | Path) -> list[dict]:
    """Returns the lines of a metrics file in order, null as nan; a torn last line is left out.

    Raises DataError for a file that is missing or damaged, RunError for one that cannot be read for now.
    """
    try:
        lines = _lines(as_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        stop_if_out_of_reach(Path(path), error)
        fix = "Restore it, or move it away: a resumed run starts a new one."
        raise DataError(str(path), str(error)[:100], "lines of metrics", fix) from error
    return [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]


def _readable_lines(path: Path) -> list[dict]:
    """The lines of a damaged file that can be read, in order of their steps; [] for a folder in its place."""
    found = []
    with contextlib.suppress(OSError):
        for row in path.read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(row)
                if isinstance(line, dict) and isinstance(line.get("step"), int):
                    found.append({name: value for name, value in line.items() if _is_number(value)})
    return found


def _is_number(value: object) -> bool:
    """Whether a value of a line is a number that a float can hold, or null."""
    try:
        return value is None or (isinstance(value, int | float) and float(value) is not None)
    except OverflowError:
        return False


def _lines(text: str) -> list[dict]:
    rows = text.split("\n")
    lines = []
    for number, row in enumerate(rows):
        if not row.strip():
            continue
        try:
            line = json.loads(row)
        except json.JSONDecodeError:
            # Only the line after the last newline can be torn; anything else is a damaged file.
            if number == len(rows) - 1:
                break
            raise
        if not isinstance(line, dict) or not isinstance(line.get("step"), int):
            raise ValueError(f"line {number + 1} has no step")
        if odd := [name for name, value in line.items() if not _is_number(value)]:
            raise ValueError(f"line {number + 1}: {odd[0][:40]} is no number")
        lines.append(line)
    return lines


def plain_number(value):
    """Turns a numpy or JAX scalar into a Python number; nan and infinity into None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
