"""Lines for a person, printed so that a run survives losing its output: a closed pipe, a full disk, no terminal."""

import contextlib
import os
import sys


def say(text: str, error: bool = False) -> None:
    """Prints a line to standard output, or to standard error; what cannot be written is dropped.

    A run started as `python ... | head` or with its log on a full disk continues, and saves.
    """
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # started with it closed
        return
    try:
        try:
            print(text, file=stream, flush=True)
        except UnicodeEncodeError:  # a file name that is not UTF-8, or a terminal with few letters
            print(text.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)
    except (OSError, ValueError):
        # Python flushes once more at the end, which would turn a finished run into exit code 120.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
