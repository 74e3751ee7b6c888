"""history.jsonl of a run folder: one line for every stop, fault and change of a run, with date and time."""

import datetime
import json
import pathlib
import sys

import jax

HISTORY = "history.jsonl"


def note(folder: pathlib.Path, event: str, **facts) -> None:
    """Appends a line {"time", "event", ...}, from the first process; one that cannot be written is said, no more."""
    if jax.process_index() != 0:
        return
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = json.dumps({"time": time, "event": event} | facts, default=str) + "\n"
    try:
        with (folder / HISTORY).open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        print(f"warning: no line in {folder / HISTORY} ({error}): {line.strip()}", file=sys.stderr)


def read_history(folder: pathlib.Path) -> list[dict]:
    """Returns the events in order; a torn last line is left out."""
    events = []
    for line in (folder / HISTORY).read_text(encoding="utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
