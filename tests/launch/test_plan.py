"""The estimates of benchmarks/plan.py by hand, and docs/scaling.md shows what its command prints."""

import json
import re
import shlex
import subprocess

import pytest

from benchmarks.plan import RECORD, main, plan
from tests.launch.cases import ROOT

ROW = {"batch_size": 100, "ms_at_peak": 10.0, "ms_estimate": None, "chips": 4, "tflop": 1.0, "gib": 1.0}


def test_hours_and_money_by_hand():
    made = plan(ROW, images=1010, epochs=10, mfu=0.5, price=2.0, lost=0.5)
    assert made.steps == 101
    assert made.step_seconds == pytest.approx(0.02)
    assert made.hours == pytest.approx(101 * 0.02 / 3600 * 2)
    assert made.price == pytest.approx(made.hours * 4 * 2)


@pytest.mark.parametrize("wrong", [{"mfu": 0}, {"mfu": 20}, {"lost": 1}, {"images": 0}, {"price": -1}])
def test_impossible_assumptions_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        plan(ROW, **({"images": 1, "epochs": 1, "mfu": 0.2, "price": 1, "lost": 0} | wrong))


def test_time_at_the_peak_of_the_record_is_flops_over_the_data_sheet():
    row = json.loads(RECORD.read_text())["cc12m on v5e-64"]
    assert row["ms_at_peak"] == pytest.approx(1e3 * row["tflop"] * 1e12 / 197e12)


def test_the_page_shows_what_its_command_prints(capsys):
    page = (ROOT / "docs" / "scaling.md").read_text()
    command = re.search(r"^    python -m benchmarks.plan (.+)$", page, re.MULTILINE)[1]
    main(shlex.split(command))
    shown = re.search(r"<!-- plan -->\n```\n(.*?)```", page, re.DOTALL)[1]
    assert shown == capsys.readouterr().out


def test_the_launch_commands_of_the_page_run_dry():
    page = (ROOT / "docs" / "scaling.md").read_text().replace("\\\n", " ")
    commands = [line.strip() for line in page.splitlines() if line.startswith("    launch/")]
    assert len(commands) >= 4
    for command in commands:
        script, *words = command.split()
        words.insert(words.index("--") if "--" in words else len(words), "--dry-run")
        answer = subprocess.run(["bash", script, *words], cwd=ROOT, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        assert "gcloud compute tpus" in answer.stdout
