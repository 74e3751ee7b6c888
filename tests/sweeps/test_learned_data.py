"""Every grid of configs/studies: what it says it is, and all of its points right."""

import ast
import re
from pathlib import Path

import pytest

from xsample_jax.sweeps.grid import read_grid
from xsample_jax.sweeps.launch import check_points

FILE = Path(__file__).parent.parent.parent / "configs" / "studies" / "learned_data.py"


@pytest.mark.parametrize("argument", ["", ":emoji", ":short", ":smoke"])
def test_the_study_of_learned_data(argument):
    name, points = read_grid(f"{FILE}{argument}")
    check_points(points, name, data=argument == ":smoke")  # the set of shapes is made first
    cells = {(point.tag, point.values["data.fraction"], point.values["objective.generator.kind"]) for point in points}
    seeds = {point.values["seed"] for point in points}
    assert len(points) == len(cells) * len(seeds)
    assert {kind for _, _, kind in cells} == {None, "augmented", "hard", "pair"}
    assert {fraction for _, fraction, _ in cells} == ({0.1} if argument == ":short" else {0.1, 0.3, 1.0})
    assert len(seeds) == (1 if argument == ":smoke" else 3)
    assert {tag for tag, _, _ in cells} == ({"emoji", "shapes"} if not argument else {"emoji"})
    if not argument:
        header = ast.get_docstring(ast.parse(FILE.read_text()))
        assert f"--grid=configs/studies/{FILE.name}" in header
        assert int(re.search(r"^Runs: +(\d+) of", header, re.MULTILINE)[1]) == len(points)
    # A study that is stopped early has all methods of what it has finished.
    methods = [point.values["objective.generator.kind"] for point in points[:4]]
    assert methods == [None, "augmented", "hard", "pair"]
