"""Where numbers go while a run trains: metrics.jsonl (the record), TensorBoard event files, the screen."""

import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from xsample_jax.metrics.event_file import EventFile, append_whole
from xsample_jax.metrics.patient import PatientWriter
from xsample_jax.run_files import JSONL
from xsample_jax.storage.paths import as_path


class Writer(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """Appends one line {"step": ..., name: value, ...} per write; every line is on the disk when `write` returns.

    A resumed run continues the file: lines after `resume_step` (the last step the restored state has done) and a line
    torn by a kill are removed first, so that the file has every step once. For it to have no gap either, the caller
    writes all lines up to a step before the checkpoint of that step is committed. `evaluated` = False removes the
    evaluation of `resume_step` too, which is done again. nan and infinity become null.
    """

    def __init__(self, path: str | Path, resume_step: int = 0, evaluated: bool = True):
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._truncate(resume_step, evaluated)
        self._file = self._path.open("ab", buffering=0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        line = {"step": int(step)} | {name: _plain(value) for name, value in values.items()}
        append_whole(self._file, (json.dumps(line, allow_nan=False) + "\n").encode())
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _truncate(self, step: int, evaluated: bool) -> None:
        if not self._path.exists():
            return
        text = self._path.read_text(encoding="utf-8")
        old = [line for line in _lines(text) if line["step"] <= step]
        if not evaluated:
            old = [line for line in old if line["step"] < step or not any(name.startswith("eval/") for name in line)]
        kept = "".join(json.dumps(line) + "\n" for line in old)
        if kept == text:
            return
        # A kill in here leaves the old file or the new one, never half of one.
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            file.write(kept)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._path)


def read_jsonl(path: str | Path) -> list[dict]:
    """Returns the lines of a metrics file in order, null as nan; a torn last line is left out."""
    lines = _lines(as_path(path).read_text(encoding="utf-8"))
    return [{name: math.nan if value is None else value for name, value in line.items()} for line in lines]


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
        lines.append(line)
    return lines


def _plain(value):
    """Turns a numpy or JAX scalar into a Python number; nan and infinity into None."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TensorBoardWriter:
    """Writes TensorBoard scalars; TensorBoard itself hides what earlier event files hold after `resume_step`."""

    def __init__(self, folder: str | Path, resume_step: int = 0):
        self._events = EventFile(folder, purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        plain = {name: _plain(value) for name, value in values.items()}
        self._events.write(step, {name: value for name, value in plain.items() if isinstance(value, int | float)})

    def close(self) -> None:
        self._events.close()


class ProgressLine:
    """One line: step/total, loss, KL, images/s, time left. On a terminal it rewrites itself, elsewhere lines follow.

    Args:
      total_steps: of the whole run.
      seconds_left: called with the step, gives the estimate in seconds or None while there is none.
      stream: default stderr.
    """

    def __init__(self, total_steps: int, seconds_left: Callable[[int], float | None] | None = None, stream=None):
        self._total, self._seconds_left = total_steps, seconds_left or (lambda step: None)
        self._stream = sys.stderr if stream is None else stream
        self._rewrite = bool(getattr(self._stream, "isatty", lambda: False)())
        self._open_line = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        values = {name: _plain(value) for name, value in values.items()}
        if "loss" not in values:
            self._evaluation(step, values)
            return
        parts = [f"step {step:>{len(str(self._total))}}/{self._total}"]
        for name, title in (("loss", "loss"), ("kl", "KL")):
            if name in values:
                value = values[name]
                parts.append(f"{title} {math.nan if value is None else value:.4f}")
        if values.get("images_per_second"):
            parts.append(f"{values['images_per_second']:,.0f} images/s")
        left = self._seconds_left(step)
        if left is not None:
            parts.append(f"ETA {clock(left)}")
        self._print("  ".join(parts))

    def close(self) -> None:
        if self._open_line:
            self._stream.write("\n")
            self._stream.flush()
            self._open_line = False

    def _evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """A short line of its own for an evaluation: it must not be overwritten by the next step."""
        shown = [f"{name.removeprefix('eval/')} {value:.3f}" for name, value in values.items() if value is not None][:4]
        self.close()
        self._stream.write(f"step {step}: " + "  ".join(shown) + "\n")
        self._stream.flush()

    def _print(self, text: str) -> None:
        # "\x1b[K" clears what a longer line before has left.
        self._stream.write(f"\r{text}\x1b[K" if self._rewrite else text + "\n")
        self._stream.flush()
        self._open_line = self._rewrite


def clock(seconds: float) -> str:
    """Formats seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class FanOut:
    """Hands every write to several writers, and keeps what one of them cannot write for a later time."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = tuple(PatientWriter(writer) for writer in writers)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write(step, values)

    def flush(self) -> bool:
        """Whether all that was written is where it belongs; tries again what could not be written before."""
        return all([writer.flush() for writer in self._writers])

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def open_writers(
    folder: str | Path,
    *,
    total_steps: int,
    resume_step: int = 0,
    evaluated: bool = True,
    seconds_left: Callable[[int], float | None] | None = None,
    enabled: bool = True,
    stream=None,
    wandb: Callable[[], Writer] | None = None,
) -> FanOut:
    """Opens metrics.jsonl, TensorBoard's events and the progress line, in the run folder.

    enabled: False on all processes but the first; the result then writes nothing. wandb: makes one more writer.
    """
    if not enabled:
        return FanOut(())
    more = [wandb()] if wandb is not None else []  # first: where it cannot be, nothing is written at all
    writers = (
        JsonlWriter(Path(folder) / JSONL, resume_step, evaluated),
        TensorBoardWriter(Path(folder) / "tensorboard", resume_step),
        ProgressLine(total_steps, seconds_left, stream),
        *more,
    )
    return FanOut(writers)
