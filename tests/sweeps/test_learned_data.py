"""Every grid of configs/studies: what it says it is, and all of its points right."""

import ast
import math
import re
from pathlib import Path

import pytest

from scripts import learned_data_page
from tests.objectives.synthetic import LinearEncoder
from xsample_jax import loop
from xsample_jax.config import load_config
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import towers
from xsample_jax.sweeps.grid import read_grid
from xsample_jax.sweeps.launch import check_points

FILE = Path(__file__).parent.parent.parent / "configs" / "studies" / "learned_data.py"


@pytest.mark.parametrize("argument", ["", ":emoji", ":short", ":emoji,short", ":smoke"])
def test_the_study_of_learned_data(argument):
    name, points = read_grid(f"{FILE}{argument}")
    check_points(points, name, data=argument == ":smoke")  # the set of shapes is made first
    cells = {(point.tag, point.values["data.fraction"], point.values["objective.generator.kind"]) for point in points}
    seeds = {point.values["seed"] for point in points}
    assert len(points) == len(cells) * len(seeds)
    assert {kind for _, _, kind in cells} == {None, "augmented", "hard", "pair"}
    assert {fraction for _, fraction, _ in cells} == {0.1, 0.3, 1.0}
    assert {point.values.get("steps") for point in points} == ({60} if "short" in argument else {None})
    assert len(seeds) == (1 if argument == ":smoke" else 3)
    assert {tag for tag, _, _ in cells} == ({"emoji", "shapes"} if argument in ("", ":short") else {"emoji"})
    if not argument:
        header = ast.get_docstring(ast.parse(FILE.read_text()))
        assert f"--grid=configs/studies/{FILE.name}" in header
        assert int(re.search(r"^Runs: +(\d+) of", header, re.MULTILINE)[1]) == len(points)
    # A study that is stopped early has every method for each setting it has finished.
    methods = [point.values["objective.generator.kind"] for point in points[:4]]
    assert methods == [None, "augmented", "hard", "pair"]


@pytest.mark.slow
def test_a_smoke_point_with_a_generator_trains_and_is_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)
    name, points = read_grid(f"{FILE}:smoke")
    (point,) = [
        point
        for point in points
        if (point.values["objective.generator.kind"], point.values["data.fraction"]) == ("pair", 0.1)
    ]
    config = load_config(point.config, point.overrides(name))
    loop.train(config, tmp_path / "runs" / point.name)
    lines = [line for line in read_jsonl(tmp_path / "runs" / point.name / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == list(range(1, config.steps + 1))
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["pair_cosine"]) for line in lines)
    page = tmp_path / "page.md"
    assert learned_data_page.main([f"--runs={tmp_path / 'runs'}", f"--out={page}"]) == 0
    text = page.read_text()
    assert "**1 finished runs**, of which 0 have the length of the grid, which is 72 runs" in text
    assert "| pair |" in text
    assert f"{lines[-1]['pair_cosine']:.2f}" in text
