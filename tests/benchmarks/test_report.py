"""Lines, verdicts and exit statuses of benchmarks; the two clocks."""

import json
import time

import pytest

from benchmarks import report
from benchmarks.report import LOOSE, at_most, faster, finish, lacking, less_is_better
from benchmarks.timing import Times, interleaved, once


def test_ratio_is_how_many_times_ours_is_better():
    found = less_is_better("bytes", 2.0, 9.0, 4.0)
    assert (found.gain, found.passed, found.acceptable) == (4.5, True, True)
    assert str(found).split()[-5:] == ["2", "9", "4.50", "4.00", "PASS"]
    assert not less_is_better("bytes", 2.0, 7.9, 4.0).acceptable  # not a time: close is not enough


def test_a_time_shows_both_clocks_and_may_be_a_little_late():
    ours, peer = Times(cpu=1.0, wall=2.0), Times(cpu=3.0, wall=1.0)
    by_cpu, by_wall = faster("t", ours, peer, 4.0), faster("t", ours, peer, 0.5, clock="wall")
    assert (by_cpu.gain, by_cpu.other, by_cpu.passed, by_cpu.acceptable) == (3.0, 0.5, False, 4 * LOOSE <= 3.0)
    assert str(by_cpu).endswith("FAIL  wall 0.50")
    assert (by_wall.gain, by_wall.other, by_wall.passed) == (0.5, 3.0, True)
    assert not faster("t", ours, peer, 4.5).acceptable


@pytest.mark.parametrize(
    ("ours", "limit", "passed"), [(0, 0, True), (1, 0, False), (0, 5, True), (6, 5, False), (5, 5, True)]
)
def test_limits_and_the_limit_of_nothing(ours, limit, passed):
    assert at_most("x", ours, limit).passed == passed


def test_finish_prints_json_last_and_says_what_is_missing(capsys):
    good, bad = at_most("a", 1, 2), at_most("b", 2, 1)
    assert finish("x", [good], unit="MiB", rows=3) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["benchmark"], found["unit"], found["rows"], found["missing"]) == ("x", "MiB", 3, [])
    assert [row["passed"] for row in found["comparisons"]] == [True]
    assert finish("x", [good, bad], unit="MiB") == 1
    assert finish("x", [good], ["torch"], unit="MiB") == 1
    out = capsys.readouterr().out
    assert "torch is not installed" in out
    assert "installed-bench" in out
    assert json.loads(out.splitlines()[-1])["missing"] == ["torch"]


def test_lacking():
    assert lacking("json", "no_such_module") == ["no_such_module"]
    assert "[bench]" in report.INSTALL


def test_forms_are_called_in_turn_and_the_least_counts():
    calls, naps = [], {"a": iter([0.03, 0.002, 0.03]), "b": iter([0.03, 0.03, 0.03])}

    def form(name):
        calls.append(name)
        time.sleep(next(naps[name]))

    times = interleaved({name: lambda n=name: form(n) for name in naps}, 3)
    assert calls == ["a", "b"] * 3
    assert times["a"].wall < 0.03 <= times["b"].wall
    assert once(lambda: time.sleep(0.02)).cpu < 0.02  # a sleeping thread costs no CPU time
    assert Times(1.0, 2.0).scaled(2) == (2.0, 4.0)
