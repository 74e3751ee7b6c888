"""How far the run of a point is, read off its folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from xsample_jax.metrics.writers import read_jsonl
from xsample_jax.run_files import EVALUATION, JSONL
from xsample_jax.storage.paths import as_path

FINISHED, STARTED, ABSENT = "finished", "started", "absent"
TAIL = 65_536  # bytes, more than any line has


@dataclasses.dataclass(frozen=True)
class State:
    """status: finished, started or absent. step: the last that was logged. training, evaluation: newest values."""

    status: str
    step: int
    training: Mapping[str, float]
    evaluation: Mapping[str, float]


def state_of(folder: str | Path) -> State:
    """The state of the run in `folder`."""
    folder = as_path(folder)
    log = folder / JSONL
    lines = read_jsonl(log) if log.exists() else []
    training = next((line for line in reversed(lines) if "loss" in line), {})
    evaluation = {}
    status = STARTED if folder.exists() else ABSENT
    if (folder / EVALUATION).exists():
        status, evaluation = FINISHED, json.loads((folder / EVALUATION).read_text())
    step = max((line["step"] for line in lines), default=0)
    return State(status, step, training, evaluation)


def last_step(folder: str | Path) -> int:
    """The last step that was logged, 0 without any; reads the end of the log only, so it may be asked often."""
    log = Path(folder) / JSONL
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - TAIL, 0))
        lines = file.read().split(b"\n")[:-1]  # what comes after the last newline is not whole
    return json.loads(lines[-1])["step"] if lines else 0


def log_file(out: Path, name: str) -> Path:
    """Where the output of a point's run goes."""
    return out / "logs" / f"{name}.txt"
