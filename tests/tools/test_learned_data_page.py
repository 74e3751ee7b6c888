"""The page of the study of learned data: intervals, pairs of seeds, conclusions, and made again from its numbers."""

import json

import numpy as np
import pytest

from scripts import learned_data_page
from scripts.learned_data_page import Trained, differences, in_percent, mean_and_interval
from xsample_jax.errors import BAD_INPUT
from xsample_jax.sweeps.grid import Point

HEAD = "# Page\n\nwords\n\n<!-- results -->\n<!-- /results -->\n\nmore words\n"


def trained(method, seed, value, fraction=0.1, steps=60):
    metrics = {"group/probe": value, "subgroup/probe": value / 2}
    return Trained("emoji", method, fraction, seed, steps, 64, metrics, {} if method == "plain" else {"hardness": 0.5})


RUNS = [
    trained(method, seed, 0.4 + 0.1 * seed + gain + wobble * (-1) ** seed)
    for method, gain, wobble in (("plain", 0, 0), ("augmented", 0.05, 0.002), ("hard", 0.01, 0.03))
    for seed in range(3)
]


def test_the_interval_is_students():
    mean, half = mean_and_interval([0.1, 0.2, 0.6])
    assert mean == pytest.approx(0.3)
    assert half == pytest.approx(4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5, rel=1e-5)
    assert np.isnan(mean_and_interval([0.1, 0.2])[1])
    assert in_percent([0.1, 0.2]) == "15.0 (2)"
    assert in_percent([0.5, 0.5, 0.5]) == "50.0 ± 0.0 (3)"
    assert in_percent([]) == "not run"


def test_differences_are_paired_by_seed():
    runs = [*RUNS, trained("augmented", 7, 0.9)]
    assert differences(runs, "augmented", 0.1, "group/probe", "plain") == pytest.approx([0.052, 0.048, 0.052])
    assert differences(runs, "pair", 0.1, "group/probe", "plain") == []


def test_only_what_separates_is_concluded(tmp_path):
    text = learned_data_page.page(RUNS, [], tmp_path, "page")
    # Levels overlap (seeds differ by 0.1), but the pairs of augmented and plain do not.
    assert "- `group/probe`, 10%: augmented minus plain is +5.1 ± 0.6 points (3 seeds)" in text
    assert "hard minus plain" not in text
    assert "**9 finished runs**, of which 0 have the length" in text
    assert "| pair | not run |" in text
    assert "| hard | 0.50 |" in text
    assert (tmp_path / "page-emoji-60.png").exists()
    assert (tmp_path / "page-emoji-60-dark.png").exists()
    nothing = learned_data_page.page([run for run in RUNS if run.method != "augmented"], [], tmp_path, "page")
    assert "none of the methods is called better" in nothing
    few = learned_data_page.page([run for run in RUNS if run.seed < 2], [], tmp_path, "page")
    assert "fewer than 3 seeds, and nothing is concluded" in few
    assert "Of 0 differences" in few


def test_runs_of_another_length_are_not_compared(tmp_path):
    longer = [trained("plain", seed, 0.9, steps=400) for seed in range(3)]
    points = [Point("configs/quickstart.py:simclr", {"seed": 0})]
    text = learned_data_page.page([*RUNS, *longer], points, tmp_path, "page")
    assert "## emoji, 60 steps of 64 images" in text
    assert "## emoji, 400 steps of 64 images" in text
    assert "augmented minus plain is +5.1" in text
    assert "which is 1 runs (emoji: 400 steps of 256 images)" in text


def run_folder(root, kind, seed, source="emoji", metrics=("group", "subgroup")):
    folder = root / f"{source},{kind},seed={seed}"
    folder.mkdir(parents=True)
    config = {"name": "x", "seed": seed, "steps": 60, "batch_size": 64, "data": {"source": source, "fraction": 0.1}}
    config["objective"] = {"generator": {"kind": kind}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"step": 30, "loss": 2.0, "hardness": 0.1}, {"step": 60, "loss": 1.0, "hardness": 0.25},
             {"step": 60, "generator/ms_ssim_real": 0.125},
             {"step": 60} | {f"eval/{name}/probe": 0.5 + 0.01 * seed for name in (*metrics, "other")}]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line | {"time": 0.0}) + "\n" for line in lines))
    (folder / "evaluation.json").write_text("{}")


def test_the_page_is_made_from_runs_and_again_from_its_numbers(tmp_path, capsys):
    for seed in range(3):
        for kind in (None, "hard"):
            run_folder(tmp_path / "runs", kind, seed)
    (tmp_path / "runs" / "unfinished").mkdir()
    out = tmp_path / "page.md"
    out.write_text(HEAD)
    assert learned_data_page.main([f"--runs={tmp_path / 'runs'}", f"--out={out}"]) == 0
    first = out.read_text()
    assert first.startswith("# Page\n\nwords")
    assert first.endswith("more words\n")
    assert "| plain | 51.0 ± 2.5 (3) |" in first
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert len(numbers) == 6
    (hard,) = [run for run in numbers if run["method"] == "hard" and run["seed"] == 2]
    assert hard["metrics"] == {"group/probe": 0.52, "subgroup/probe": 0.52}
    assert hard["logged"] == {"hardness": 0.25, "generator/ms_ssim_real": 0.125}
    out.write_text(HEAD)
    assert learned_data_page.main([f"--out={out}"]) == 0
    assert out.read_text() == first


def test_no_runs_and_no_numbers_are_one_line(tmp_path, capsys):
    for arguments in ([f"--runs={tmp_path}"], []):
        assert learned_data_page.main([*arguments, f"--out={tmp_path / 'x.md'}"]) == BAD_INPUT
        said = capsys.readouterr().err.strip()
        assert said.startswith("error: --runs")
        assert "\n" not in said


def test_metrics_of_shapes_are_those_of_its_evaluator_and_a_missing_one_is_named(tmp_path, capsys):
    """faults D1: the mean over the factors was that of no number, "nan" in every cell, after they were renamed."""
    folder = tmp_path / "runs"
    for seed in range(3):
        run_folder(folder, None, seed, "records", ["factor/shape", "factor/color", "factor/ground"])
    out = tmp_path / "page.md"
    out.write_text(HEAD)
    assert learned_data_page.main([f"--runs={folder}", f"--out={out}"]) == 0
    assert out.read_text().count("| plain | 51.0 ± 2.5 (3) |") == 3  # all factors, shape, color
    run_folder(folder, "hard", 0, "records", ["factor/shape"])
    assert learned_data_page.main([f"--runs={folder}", f"--out={out}"]) == BAD_INPUT
    assert "factor/color/probe" in capsys.readouterr().err
