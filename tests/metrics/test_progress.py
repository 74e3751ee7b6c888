"""The line of a long loop: on a terminal it rewrites itself and goes, elsewhere a line every half minute."""

import io
import os

from xsample_jax.metrics.progress_bar import ProgressLine, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def walk(stream, seconds, **options):
    """Goes through 100 items that take `seconds` each."""
    time = [0.0]
    items = []
    for item in progress(range(100), "features of test", 100, stream=stream, now=lambda: time[0], **options):
        items.append(item)
        time[0] += seconds
    assert items == list(range(100))
    return stream.getvalue()


def test_a_pipe_gets_a_line_every_half_minute_with_the_time_left():
    lines = walk(io.StringIO(), 1.0).splitlines()
    assert lines[0] == "features of test  30/100  ETA 1:10"
    assert [line.split("/")[0].split()[-1] for line in lines] == ["30", "60", "90"]
    assert walk(io.StringIO(), 0.1) == ""  # short loops say nothing


def test_a_terminal_shows_one_line_that_is_cleared_at_the_end():
    text = walk(Terminal(), 0.1)
    assert 30 < text.count("\r") < 60  # at most five a second
    assert "\n" not in text
    assert text.endswith("\r\x1b[K")


def test_other_processes_and_early_ends():
    assert walk(Terminal(), 1.0, enabled=False) == ""
    stream, time = Terminal(), iter(range(10))
    for item in progress(range(5), "x", 5, stream=stream, now=lambda: next(time)):
        if item == 3:
            break
    assert "3/5" in stream.getvalue()


def test_a_narrow_terminal_gets_a_line_that_it_can_rewrite(monkeypatch):
    """A line that the terminal breaks would leave its first part behind at every step."""
    stream = Terminal()
    monkeypatch.setattr(stream, "fileno", lambda: 1, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size((20, 5)))
    line = ProgressLine(100, stream=stream)
    line.write(3, {"loss": 1.25, "kl": 0.5, "images_per_second": 1000.0})
    assert stream.getvalue() == "\r" + "step   3/100  loss 1.2500"[:19] + "\x1b[K"
