"""configs/studies/evidence.py: every point is right, a smoke point becomes a result, those that stay can be read."""

import ast
import json
import re
from pathlib import Path

import pytest

from tests.objectives.synthetic import LinearEncoder
from xsample_jax import loop
from xsample_jax.config import load_config
from xsample_jax.evals.catalog import OTHER, describe
from xsample_jax.evals.evaluate import check_names
from xsample_jax.models import towers
from xsample_jax.reports.runs import Run, runs_of_results
from xsample_jax.reports.study_page import changes_of, main_settings
from xsample_jax.sweeps.grid import read_grid, read_protocol
from xsample_jax.sweeps.kept import Keep, keep_result, result_file
from xsample_jax.sweeps.launch import check_points

ROOT = Path(__file__).parent.parent.parent
FILE = ROOT / "configs" / "studies" / "evidence.py"
RESULTS = ROOT / "results"


def test_every_point_is_right():
    header = ast.get_docstring(ast.parse(FILE.read_text()))
    _, points = read_grid(str(FILE))
    assert int(re.search(r"^Runs: +(\d+) of", header, re.MULTILINE)[1]) == len(points)
    for argument in ("", ":10k,short", ":search", ":smoke"):
        name, points = read_grid(f"{FILE}{argument}")
        first = [point for point in points if point.values["seed"] == points[0].values["seed"]]
        configs = check_points(first, name, data=argument == ":smoke")
        if argument == "":
            assert len(main_settings(points)) == 4
            # Objectives are compared at equal images seen.
            seen = {config.steps * config.batch_size for config in configs.values()}
            assert max(seen) - min(seen) <= 512
        if argument == ":10k,short":
            assert len({point.tag for point in points}) == len(first) == 9
    both = read_grid(f"{FILE}:both")[1]
    assert len(main_settings(both)) == 8
    assert len(read_grid(f"{FILE}:shapes")[1]) == 27


def test_changes_are_compared_with_runs_of_as_many_images():
    points = read_grid(f"{FILE}:both")[1]
    runs = {
        point.name: Run(point.name, Path(point.name), dict(point.values) | {"tag": point.tag}, [], [], {}, None)
        for point in points
    }
    found = [
        (one.config["steps"], one.config["batch_size"], level.config["steps"], level.config["batch_size"])
        for one, level in changes_of(points, runs)
    ]
    # 19 x 4096 is 300 x 256 to the nearest step; 4000 x 256 has more in common with it, and 13 times the images.
    assert {(4000, 256, 2000, 512), (250, 4096, 2000, 512), (75, 1024, 300, 256), (19, 4096, 300, 256)} < set(found)
    assert {level[2:] for level in found} == {(2000, 512), (300, 256)}
    assert all(abs(a * b - c * d) <= 2048 for a, b, c, d in found)
    assert all(one.config["tag"] == level.config["tag"] for one, level in changes_of(points, runs))
    # Without a level of as many images a change is left out.
    long = {name: run for name, run in runs.items() if run.config["steps"] not in (2000, 4000)}
    assert {one.config["steps"] for one, _ in changes_of(points, long)} == {300, 75, 19}


def test_the_protocol_names_metrics_and_evaluations_that_there_are():
    for argument in ("", ":search", ":shapes", ":smoke"):
        protocol = read_protocol(f"{FILE}{argument}")
        assert protocol.headlines
        assert all(describe(name).section != OTHER for name in protocol.headlines)
        assert all(check_names(one.evals) == [] for one in protocol.evaluations)
    # The search sees icons only: the emoji set is for the test.
    assert [one.name for one in read_protocol(f"{FILE}:search").evaluations] == ["icons"]


@pytest.mark.slow
def test_a_smoke_point_becomes_a_result(tmp_path, monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)
    grid = f"{FILE}:smoke"
    name, points = read_grid(grid)
    (point,) = [one for one in points if one.tag == "xclr_and_clip" and one.values["data.fraction"] == 0.035]
    config = load_config(point.config, point.overrides(name))
    loop.train(config, tmp_path / "runs" / point.name)
    keep = Keep(grid, tmp_path / "runs", tmp_path / "results", {point.name: config})
    assert not keep.done(point)
    assert keep_result(keep, point, read_protocol(grid)) == result_file(tmp_path / "results", grid, point)
    assert keep.done(point)
    run = runs_of_results(tmp_path / "results", grid, points)[point.name]
    assert 0 <= run.metrics["retrieval/image_to_image/R@1"] <= 1
    assert run.examples["retrieval/image_to_image/R@1"].mean() == pytest.approx(
        run.metrics["retrieval/image_to_image/R@1"], abs=1e-5
    )
    assert run.training[-1]["step"] == config.steps
    assert run.config["objective.terms"]


def test_results_that_stay_are_of_points_of_the_grid_and_small():
    files = [path for path in RESULTS.rglob("*.json") if path.parent.name != "units"]
    assert sum(path.stat().st_size for path in RESULTS.rglob("*")) < 30 * 2**20
    names = {point.name for argument in (":both", ":search") for point in read_grid(f"{FILE}{argument}")[1]}
    for path in (path for path in files if path.parent.name == FILE.stem):
        found = json.loads(path.read_text())
        assert found["point"] == path.stem
        assert found["point"] in names
        assert found["code"]["commit"]
