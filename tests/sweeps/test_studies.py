"""configs/studies: every point is right, a smoke point trains with its probes, and the page says what the runs say."""

import ast
import json
import pathlib
import re

import numpy as np
import pytest
from scipy import stats

from scripts import feature_suppression as page
from xsample_jax.config import load_config
from xsample_jax.errors import DataError
from xsample_jax.loop import train
from xsample_jax.sweeps.grid import read_grid
from xsample_jax.sweeps.launch import check_points

ROOT = pathlib.Path(__file__).parent.parent.parent
STUDY = ROOT / "configs" / "studies" / "feature_suppression.py"


def test_every_point_is_right_and_counted():
    header = ast.get_docstring(ast.parse(STUDY.read_text()))
    for argument in ("", ":short", ":smoke"):
        name, points = read_grid(f"{STUDY}{argument}")
        check_points(points, name, data=argument == ":smoke")
        if argument == "":
            assert int(re.search(r"^Runs: +(\d+) of", header, re.MULTILINE)[1]) == len(points)
        if argument != ":smoke":
            assert {point.values["seed"] for point in points} == {0, 1, 2}
        parts = {point.tag.partition("-")[0] for point in points}
        assert parts == set(page.PARTS)
        if argument == ":short":  # the ends of every knob at least
            assert int(re.search(r":short \((\d+) runs", header)[1]) == len(points)
            assert {page.knob_of("bits", p.values) for p in points if "augment.bits" in p.values} == {0, 8, 16}


def test_parts_ask_what_they_say():
    _, points = read_grid(str(STUDY))
    configs = {
        point.name: load_config(point.config, point.overrides("s")) for point in points if point.values["seed"] == 0
    }
    captions = {}
    for name, config in configs.items():
        captions.setdefault(name.partition("-")[0], set()).add((config.data.caption, config.eval.suite))
    # Of shapes: the object. Of digits on shapes: the same caption, after the two with the digit. Of sizes: the first.
    assert captions == {part: {(caption, "shapes")} for part, caption in zip(page.PARTS, "1311", strict=True)}
    heads = {tuple(config.model.head.hidden) for name, config in configs.items() if name.startswith("heads")}
    assert {len(hidden) + 1 for hidden in heads} == {1, 2, 3, 4}


@pytest.mark.usefixtures("shallow_resnet18", "no_report")
def test_a_smoke_point_becomes_a_page(tmp_path):
    """A point of the smoke grid trains with its probes, and the page is made of its folder."""
    name, points = read_grid(f"{STUDY}:smoke")
    (point,) = (point for point in points if point.tag == "bits-simclr")
    train(load_config(point.config, point.overrides(name)), tmp_path / "runs" / point.name)
    (found,) = page.collect([point], tmp_path / "runs")
    assert [found[name] for name in ("part", "objective", "value", "seed")] == ["bits", "simclr", 16, 0]
    assert all(kept <= 1 for kept in found["kept"].values())
    assert {"group", "subgroup"} <= set(found["kept"])
    # What is stored of other runs stays; what is stored of this one is replaced.
    other = found | {"seed": 7}
    stored = {"grid": "", "whole": 9, "note": "", "runs": [other, found | {"kept": {}}]}
    (tmp_path / "feature_suppression.json").write_text(json.dumps(stored))
    assert page.make_page([f"--grid={STUDY}:smoke", f"--runs={tmp_path / 'runs'}", f"--out={tmp_path}"]) == 0
    assert json.loads((tmp_path / "feature_suppression.json").read_text())["runs"] == [found, other]
    text = page.page([found], 204)
    assert "The page rests on one run" in " ".join(text.split())
    assert text.count("Not run.") == 3
    assert "No interval excludes zero" in text


def results(**kept):
    """Runs of the part bits: kept[objective] = {value: what seeds 0, 1, 2 keep of the shape}."""
    return [
        {"part": "bits", "objective": objective, "value": value, "seed": seed, "steps": 9, "batch_size": 4}
        | {"model.width": 8, "images": 50, "kept": {"shape": share}}
        for objective, of_value in kept.items()
        for value, shares in of_value.items()
        for seed, share in enumerate(shares)
    ]


def test_intervals_are_those_of_student():
    values = [0.5, 0.6, 0.8]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    mean, low, high = page.interval(values)
    assert (mean, low, high) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert np.isnan(page.interval([0.5])[1:]).all()
    assert not page.separates(page.interval([0.5]))
    assert not page.separates(None)


def test_differences_are_paired_by_seed_and_conclusions_need_them_to_separate():
    # Seeds differ much more than the effect: only the pairing shows it.
    runs = results(simclr={0: (0.2, 0.5, 0.8), 16: (0.1, 0.41, 0.7)}, xclr={0: (0.3, 0.2, 0.9), 16: (0.2, 0.5, 0.7)})
    text = page.page(runs, 204)
    assert "- simclr: 16 against 0 bits: shape -10 points" in text
    assert "- xclr" not in text
    assert "**-9.7** [" in text
    assert "50.0 [-24.5, 124.5]" in text
    assert "The page rests on 12 runs; not run: a digit pasted" in " ".join(text.split())


def test_missing_seeds_are_no_difference():
    assert page.difference({0: 0.5}, {1: 0.4}) is None
    assert page.difference({0: 0.5, 1: 0.6, 2: 0.9}, {1: 0.4, 2: 0.5}) == pytest.approx(page.interval([0.2, 0.4]))


def test_the_committed_page_is_that_of_the_committed_results(tmp_path):
    stored = json.loads((page.NOTES / "feature_suppression.json").read_text())
    expected = page.page(stored["runs"], stored["whole"], stored["grid"], stored["note"])
    assert (page.NOTES / "feature_suppression.md").read_text() == expected
    for part in {one["part"] for one in stored["runs"]}:
        assert (page.NOTES / f"feature_suppression-{part}.png").is_file()
    (tmp_path / "feature_suppression.json").write_text((page.NOTES / "feature_suppression.json").read_text())
    assert page.make_page([f"--out={tmp_path}"]) == 0
    assert (tmp_path / "feature_suppression.md").read_text() == expected


def test_without_results_there_is_no_page(tmp_path):
    with pytest.raises(DataError, match="Give --runs"):
        page.make_page([f"--out={tmp_path}"])
