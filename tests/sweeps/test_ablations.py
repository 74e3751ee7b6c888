"""Every file of configs/ablations: what it says it is, and all of its points right."""

import ast
import re
from pathlib import Path

import pytest

from xsample_jax.sweeps.grid import changes, read_grid, unchanged
from xsample_jax.sweeps.launch import check_points

FOLDER = Path(__file__).parent.parent.parent / "configs" / "ablations"
FILES = sorted(FOLDER.glob("*.py"))
KEYS = {
    "temperature": {"objective.temperature", "objective.target_temperature"},
    "graph": {"objective.graph"},
    "text_encoder": {"data.source", "data.path"},
    "batch_size": {"batch_size", "steps"},
    "label_noise": {"data.label_noise"},
    "caption_noise": {"data.caption_noise"},
    "samples_per_class": {"data.samples_per_class"},
    "objective": set(),
    "encoder": {"model.encoder", "model.patch_size"},
    "shapes": set(),
    "style_noise": {"model.style_noise.kind", "eval.split"},
    "results": {
        "objective.target_temperature",
        "objective.graph",
        "data.samples_per_class",
        "data.caption_noise",
        "data.label_noise",
    },
}
MADE_FIRST = ("text_encoder", "shapes")  # sets that a command has to make


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_point_is_right(file):
    for argument in ("", ":smoke"):
        name, points = read_grid(f"{file}{argument}")
        first = [point for point in points if point.values["seed"] == points[0].values["seed"]]
        check_points(first, name, data=bool(argument) or file.stem not in MADE_FIRST)
        assert {key for point in points for key in point.values} == KEYS[file.stem] | {"seed"}
        if not argument:
            header = ast.get_docstring(ast.parse(file.read_text()))
            assert f"--grid=configs/ablations/{file.stem}.py" in header
            assert int(re.search(r"^Runs: +(\d+) of", header, re.MULTILINE)[1]) == len(points)
            assert len({point.values["seed"] for point in points}) >= 3


def test_the_graphs_include_nothing_and_the_true_class():
    _, points = read_grid(f"{FOLDER / 'graph.py'}")
    assert {"caption", "random", "label", "identity"} <= {point.values["objective.graph"] for point in points}


def test_every_change_of_the_results_has_its_level_and_comes_after_all_objectives():
    _, points = read_grid(f"{FOLDER / 'results.py'}")
    assert len(unchanged(points)) == 9
    assert changes(points).keys() == KEYS["results"]
    first = next(place for place, point in enumerate(points) if len(point.values) > 1)
    assert all(len(point.values) > 1 for point in points[first:])
