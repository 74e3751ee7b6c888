"""Where numbers go while a run trains: metrics.jsonl (the record), TensorBoard event files, the screen."""

import collections
import contextlib
import dataclasses
import io
import json
import math
import os
import struct
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import jax
import numpy as np

from xsample_jax.errors import ConfigError, DataError
from xsample_jax.io.console import say
from xsample_jax.io.files import JSONL, atomic_write, set_aside
from xsample_jax.io.paths import as_path
from xsample_jax.io.run_dir import log_event
from xsample_jax.sharding import fetch_scalars

# A full disk must not end a run for want of a log line.


class RetryingWriter:
    """A writer whose lines wait, in order, while it raises OSError. The first failure of a series is said aloud."""

    def __init__(self, writer):
        self._writer = writer
        self._waiting: collections.deque[tuple[int, Mapping[str, float]]] = collections.deque()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if self._waiting:
            self._waiting.append((step, values))
            self.flush()
            return
        try:
            self._writer.write(step, values)
        except OSError as error:
            name = type(self._writer).__name__
            say(f"\nerror: {name}: {error}. Lines from step {step} on wait in memory.", error=True)
            self._waiting.append((step, values))

    def flush(self) -> bool:
        """Writes what waits. Returns whether nothing waits any more."""
        try:
            while self._waiting:
                self._writer.write(*self._waiting[0])
                self._waiting.popleft()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.flush()
        self._writer.close()


# Weights & Biases as one more place where numbers go (extra `wandb`, `log.wandb`).


RUN_ID = "wandb_id.txt"


class WandbWriter:
    """Sends the numbers of a step to a W&B run; WANDB_MODE=offline keeps them in <run folder>/wandb.

    A resumed run goes on in the same W&B run, whose id is kept in the run folder. Steps that were logged before a kill
    and are done again are ignored by W&B; their numbers are the same.

    Args:
      project: W&B project.
      folder: run folder.
      name: of the run.
      config: what W&B shows as the config of the run.

    Raises:
      ConfigError: the package wandb is not installed.
    """

    def __init__(self, project: str, folder: str | Path, name: str, config: Mapping[str, object]):
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                "log.wandb",
                project,
                "the package wandb, or None",
                "Install it with pip install 'xsample_jax[wandb]', or set --config.log.wandb=None.",
            ) from error
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RUN_ID
        if not path.exists():
            path.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project=project, name=name, dir=str(folder), id=path.read_text(), resume="allow", config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=int(step))

    def close(self) -> None:
        self._run.finish()


def wandb_writer(config, folder: str | Path) -> Callable[[], WandbWriter] | None:
    """What opens the writer that a config asks for; None where `log.wandb` is."""
    project = config.log.wandb
    return None if project is None else lambda: WandbWriter(project, folder, config.name, config.to_dict())


# Metrics one step late: those of a step are fetched when the next one is under way, so that no device waits.


@dataclasses.dataclass(frozen=True)
class Pending:
    """What is kept of a step until it is looked at.

    Attributes:
      step: its number, from 1. data_position: where its batch began.
      metrics: on the device. batch: this process's share, on the host. log: whether its metrics are written.
    """

    step: int
    data_position: int
    metrics: Mapping[str, jax.Array]
    batch: Mapping[str, np.ndarray]
    log: bool


class DeferredMetrics:
    """Holds one step. `settle` fetches the flag of each step, and the metrics of those that are logged.

    Args:
      write: called with (step, scalars) of steps that are logged, and of those that are not finite.
      judge: called with the step held and its metrics, fetched, when they are not finite; may raise.
    """

    def __init__(self, write: Callable[[int, dict], None], judge: Callable[[Pending, dict], None]):
        self._write, self._judge = write, judge
        self._held: Pending | None = None

    def defer(self, late: Pending) -> None:
        self.settle()
        self._held = late

    def settle(self) -> bool:
        """Looks at the step that is held. Returns False when there was none or it was not finite."""
        late, self._held = self._held, None
        if late is None:
            return False
        finite = bool(jax.device_get(late.metrics["finite"]))
        if late.log or not finite:
            self._write(late.step, fetch_scalars(late.metrics))
        if not finite:
            self._judge(late, jax.device_get(dict(late.metrics)))
        return finite


# TensorBoard's event files, written without its packages: they import torch or TensorFlow where it is installed.
#
# A file is a row of TFRecords (length, checksum of the length, data, checksum of the data), each holding one protocol
# buffer of type Event. Formats: tensorflow/core/lib/io/record_writer.h, core/util/event.proto, core/framework/
# summary.proto; the checksum is CRC-32C (RFC 3720, appendix B.4).


_LARGEST = float.fromhex("0x1.fffffep+127")  # float32
_START = b"\x08\x01"  # SessionLog.status


class EventFile:
    """A new event file in `folder`; every event is with the operating system when `write` returns.

    Args:
      folder: made if missing. Files in it that are older stay.
      purge_step: TensorBoard forgets what the older files hold of this step and of later ones.
    """

    def __init__(self, folder: str | Path, purge_step: int):
        Path(folder).mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, also where the clock was set back.
        before = [0.0]
        for path in Path(folder).glob("events.out.tfevents.*"):
            with contextlib.suppress(ValueError):  # a file of another writer has more in its name
                before.append(float(".".join(path.name.split(".")[3:5])))
        path = Path(folder) / f"events.out.tfevents.{max(time.time(), max(before) + 1):.6f}"
        self._file = path.open("xb", buffering=0)
        self._append(0, _field(3, b"brain.Event:2"))
        self._append(purge_step, _field(7, _START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one event with all `values`, which TensorBoard keeps as float32."""
        self._append(step, _field(5, b"".join(_scalar(name, value) for name, value in values.items())))

    def close(self) -> None:
        self._file.close()

    def _append(self, step: int, what: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + (b"\x10" + _varint(int(step)) if step else b"") + what
        length = struct.pack("<Q", len(event))
        append_whole(self._file, length + _masked_checksum(length) + event + _masked_checksum(event))


def append_whole(file: io.FileIO, data: bytes) -> None:
    """Appends `data` to an unbuffered file or, when the disk is full, nothing: half a record hides all later ones.

    Raises OSError.
    """
    end = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        raise


def _scalar(name: str, value: float) -> bytes:
    """A Summary with one Value: its tag, and its number as float32."""
    number = struct.pack("<f", min(max(float(value), -_LARGEST), _LARGEST))
    return _field(1, _field(1, name.encode()) + b"\x15" + number)


def _field(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer that holds a text or another buffer."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    """A number >= 0, seven bits in a byte, the lowest first; the eighth bit says that more follow."""
    coded = bytearray()
    while number > 127:
        coded.append(number & 127 | 128)
        number >>= 7
    return bytes([*coded, number])


def _divide(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_REMAINDERS = tuple(map(_divide, range(256)))


def checksum(data: bytes) -> int:
    """Returns the CRC-32C of `data`."""
    state = 0xFFFFFFFF
    for byte in data:
        state = state >> 8 ^ _REMAINDERS[(state ^ byte) & 255]
    return state ^ 0xFFFFFFFF


def _masked_checksum(data: bytes) -> bytes:
    """The checksum as TFRecords store it: turned by 15 bits and moved, since data may hold checksums itself."""
    crc = checksum(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


class Writer(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """Appends one line {"step": ..., name: value, ...} per write; every line is on the disk when `write` returns.

    A resumed run continues the file: lines after `resume_step` (the last step the restored state has done) and a line
    torn by a kill are removed first, so that the file has every step once. For it to have no gap either, the caller
    writes all lines up to a step before the checkpoint of that step is committed. `evaluated` = False removes the
    evaluation of `resume_step` too, which is done again. nan and infinity become null. A damaged file is set aside, and
    what of it can be read is kept. `every`: steps between lines, to notice lines that are gone.
    """

    def __init__(self, path: str | Path, resume_step: int = 0, evaluated: bool = True, every: int | None = None):
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        last = self._truncate(resume_step, evaluated)
        due = resume_step // every * every if every else 0
        if last < due:
            say(f"warning: {self._path} lacks the steps {last + 1} to {due}: its lines were lost", error=True)
            log_event(self._path.parent, "metrics were lost", after=last, until=due)
        self._file = self._path.open("ab", buffering=0)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        line = {"step": int(step)} | {name: _plain(value) for name, value in values.items()}
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

    Raises DataError for a file that is missing or damaged.
    """
    try:
        lines = _lines(as_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
                    found.append(line)
    return found


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
            self._write("\n")
            self._open_line = False

    def _evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """A short line of its own for an evaluation: it must not be overwritten by the next step."""
        shown = [f"{name.removeprefix('eval/')} {value:.3f}" for name, value in values.items() if value is not None][:4]
        self.close()
        self._write(f"step {step}: " + "  ".join(shown) + "\n")

    def _print(self, text: str) -> None:
        # "\x1b[K" clears what a longer line before has left.
        self._write(f"\r{text}\x1b[K" if self._rewrite else text + "\n")
        self._open_line = self._rewrite

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or none at all: the run goes on
            self._stream.write(text)
            self._stream.flush()


def clock(seconds: float) -> str:
    """Formats seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class FanOut:
    """Hands every write to several writers, and keeps what one of them cannot write for a later time."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = tuple(RetryingWriter(writer) for writer in writers)

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
    every: int | None = None,
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
        JsonlWriter(Path(folder) / JSONL, resume_step, evaluated, every),
        TensorBoardWriter(Path(folder) / "tensorboard", resume_step),
        ProgressLine(total_steps, seconds_left, stream),
        *more,
    )
    return FanOut(writers)
