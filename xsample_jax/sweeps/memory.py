"""Whether one more process fits into the memory of the host, by what the others took (Linux; elsewhere unknown)."""

import re
from pathlib import Path

MARGIN = 1.15  # of what was measured: runs of one grid differ a little


def available() -> int | None:
    """Bytes that can be taken without swapping."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def peak(pid: int) -> int | None:
    """The most bytes that a process has held at once; None when it is gone."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM")


def held(pid: int) -> int | None:
    """Bytes that a process holds now."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS")


def fits(needed: int | None, growing: int = 0) -> bool:
    """Whether `needed` bytes are there, besides those that running processes may still ask for."""
    there = available()
    return needed is None or there is None or there > MARGIN * needed + growing


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None
