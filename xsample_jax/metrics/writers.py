"""Where numbers go while a run trains: metrics.jsonl (the record), TensorBoard, the screen, and where a user asks."""

import collections
import importlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from xsample_jax.errors import ConfigError
from xsample_jax.io.console import say
from xsample_jax.io.files import JSONL
from xsample_jax.metrics.jsonl import JsonlWriter
from xsample_jax.metrics.progress_bar import ProgressLine
from xsample_jax.metrics.tensorboard import TensorBoardWriter


class Writer(Protocol):
    """Takes the numbers of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


# A full disk must not end a run for want of a log line.


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
    *,
    total_steps: int,
    resume_step: int = 0,
    evaluated: bool = True,
    seconds_left: Callable[[int], float | None] | None = None,
    every: int | None = None,
    enabled: bool = True,
    stream=None,
    more: Sequence[Callable[[], Writer]] = (),
) -> FanOut:
    """Opens metrics.jsonl, TensorBoard's events and the progress line, in the run folder.

    enabled: False on all processes but the first; the result then writes nothing. more: each makes one more writer.
    """
    if not enabled:
        return FanOut(())
    others = [make() for make in more]  # first: where one cannot be made, nothing is written at all
    writers = (
        JsonlWriter(Path(folder) / JSONL, resume_step, evaluated, every),
        TensorBoardWriter(Path(folder) / "tensorboard", resume_step),
        ProgressLine(total_steps, seconds_left, stream),
        *others,
    )
    return FanOut(writers)
