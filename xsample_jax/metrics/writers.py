"""Where metrics go while a run trains: metrics.jsonl (the record), TensorBoard, the screen, and writers of the user."""

import collections
import contextlib
import importlib
import struct
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from xsample_jax.errors import ConfigError
from xsample_jax.io.console import say
from xsample_jax.io.files import JSONL, append_whole, atomic_write, make_folder
from xsample_jax.metrics.jsonl import JsonlWriter, plain_number
from xsample_jax.metrics.progress_bar import ProgressLine


class Writer(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


# A full disk must not end a run because a log line cannot be written.


class RetryingWriter:
    """A writer whose lines wait, in order, while it raises OSError. The first failure of a series is logged."""

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

    A resumed run continues the same W&B run, whose id is kept in the run folder. Steps that were logged before a kill
    and are done again are ignored by W&B; their numbers are the same.

    Args:
      project: W&B project.
      folder: run folder.
      name: of the run.
      config: what W&B shows as the config of the run.

    """

    def __init__(self, project: str, folder: str | Path, name: str, config: Mapping[str, object]):
        import wandb

        folder = Path(folder)
        make_folder(folder)
        path = folder / RUN_ID
        if not path.exists():
            atomic_write(path, lambda partial: partial.write_text(uuid.uuid4().hex))
        self._run = wandb.init(
            project=project, name=name, dir=str(folder), id=path.read_text(), resume="allow", config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({name: float(value) for name, value in values.items()}, step=int(step))

    def close(self) -> None:
        self._run.finish()


# A writer of the user's own (`log.to`), or a function (`on_log` of `train`).


class CallbackWriter:
    """Calls `on_log(step, values)`."""

    def __init__(self, on_log: Callable[[int, dict[str, float]], None]):
        self._on_log = on_log

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._on_log(step, dict(values))

    def close(self) -> None:
        pass


def find_writer(name: str) -> Callable[[object, Path], Writer]:
    """What "module:Class" names: called with (config, run folder) it makes a Writer. Raises ConfigError."""
    module, _, attribute = name.partition(":")
    expected = "module:Class, a class whose objects have write(step, values) and close()"
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("log.to", name, f"{expected} ({error})", "Is its folder in PYTHONPATH?") from error
    if not all(callable(getattr(found, method, None)) for method in ("write", "close")):
        raise ConfigError("log.to", name, expected)
    return found


def check_writers(config) -> None:
    """Raises ConfigError for a writer that a config asks for and that is not installed."""
    if config.log.to is not None:
        find_writer(config.log.to)
    if config.log.wandb is not None:
        try:
            importlib.import_module("wandb")
        except ImportError as error:
            fix = "Install it with pip install 'xsample_jax[wandb]', or set --config.log.wandb=None."
            raise ConfigError("log.wandb", config.log.wandb, "the package wandb, or None", fix) from error


def more_writers(config, folder: str | Path, on_log: Callable | None = None) -> list[Callable[[], Writer]]:
    """What opens the writers that a config and the caller of `train` ask for."""
    found: list[Callable[[], Writer]] = []
    if config.log.wandb is not None:
        found.append(lambda: WandbWriter(config.log.wandb, folder, config.name, config.to_dict()))
    if config.log.to is not None:
        found.append(lambda: find_writer(config.log.to)(config, Path(folder)))
    if on_log is not None:
        found.append(lambda: CallbackWriter(on_log))
    return found


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
    line: ProgressLine,
    *,
    resume_step: int = 0,
    evaluated: bool = True,
    due: int = 0,
    more: Sequence[Callable[[], Writer]] = (),
) -> FanOut:
    """Opens metrics.jsonl and TensorBoard's events in the run folder, to be written beside the progress line.

    On the first process only; the others write to `FanOut(())`. more: each makes one more writer.
    """
    others = [make() for make in more]  # first: where one cannot be made, nothing is written at all
    writers = (
        JsonlWriter(Path(folder) / JSONL, resume_step, evaluated, due),
        TensorBoardWriter(Path(folder) / "tensorboard", resume_step),
        line,
        *others,
    )
    return FanOut(writers)


# TensorBoard's event files, written without its packages: they import torch or TensorFlow where it is installed.
#
# A file is a row of TFRecords (length, checksum of the length, data, checksum of the data), each holding one protocol
# buffer of type Event. Formats: tensorflow/core/lib/io/record_writer.h, core/util/event.proto, core/framework/
# summary.proto; the checksum is CRC-32C (RFC 3720, appendix B.4).


class TensorBoardWriter:
    """Writes TensorBoard scalars; TensorBoard itself hides what earlier event files hold after `resume_step`."""

    def __init__(self, folder: str | Path, resume_step: int = 0):
        self._events = EventFile(folder, purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        plain = {name: plain_number(value) for name, value in values.items()}
        self._events.write(step, {name: value for name, value in plain.items() if isinstance(value, int | float)})

    def close(self) -> None:
        self._events.close()


_LARGEST = float.fromhex("0x1.fffffep+127")  # float32
_START = b"\x08\x01"  # SessionLog.status


LAST_TIME = 1e11  # seconds since 1970: a file name with more is no time


class EventFile:
    """A new event file in `folder`; every event is with the operating system when `write` returns.

    Args:
      folder: made if missing. Files in it that are older stay.
      purge_step: TensorBoard forgets what the older files hold of this step and of later ones.
    """

    def __init__(self, folder: str | Path, purge_step: int):
        make_folder(Path(folder))
        # TensorBoard reads the files of a folder in the order of their names, also where the clock was set back.
        before = [0.0]
        for path in Path(folder).glob("events.out.tfevents.*"):
            with contextlib.suppress(ValueError):  # a file of another writer has more in its name
                before.append(float(".".join(path.name.split(".")[3:5])))
        before = [seconds for seconds in before if seconds < LAST_TIME]  # "inf" and "nan" are numbers, too
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
