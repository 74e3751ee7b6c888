"""Tables and figures of a grid, from invented runs."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.tools.synthetic_runs import write_run
from xsample_jax.config.load import load_config
from xsample_jax.errors import DataError
from xsample_jax.evals.metrics import load_examples, paired_difference
from xsample_jax.reports import results_page
from xsample_jax.reports.runs import Series, load_runs
from xsample_jax.sweeps.grid import read_grid, unchanged
from xsample_jax.tools.results_page import main as main_results_page

GRID = """
from xsample_jax.sweeps.grid import grid

def get_grid():
    configs = {"xclr": "configs/objective.py:xclr", "simclr": "configs/objective.py:simclr"}
    points = grid(configs, {"seed": (0, 1)})
    points += grid({"xclr": configs["xclr"]}, {"data.caption_noise": (0.5, 1.0), "seed": (0, 1)})
    return points + grid({"xclr": configs["xclr"]}, {"objective.graph": ("label", "random"), "seed": (0,)})
"""
STRENGTH = {0.5: 0.6, 1.0: 0.3, "label": 0.8, "random": 0.1}
UNFINISHED = "xclr,graph=random,seed=0"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    file = root / "small.py"
    file.write_text(GRID)
    for point in read_grid(str(file))[1]:
        (change,) = {value for key, value in point.values.items() if key != "seed"} or {None}
        strength = STRENGTH.get(change, {"xclr": 0.9, "simclr": 0.45}[point.tag])
        folder = write_run(root / point.name, point.name, point.tag, strength=strength, seed=point.values["seed"])
        config = load_config(point.config, point.overrides("small"))
        (folder / "config.json").write_text(config.to_json_best_effort())
        if point.name != UNFINISHED:
            (folder / "evaluation.json").write_text("{}")
    return file, root


@pytest.fixture(scope="module")
def page(sweep):
    file, root = sweep
    (root / "README.md").write_text("# Title\n<!-- results -->\n<!-- /results -->\nafter\n")
    call = [f"--grid={file}", f"--runs={root}", f"--out={root}/docs/notes/results.md", f"--summary={root}/README.md"]
    assert main_results_page(call) == 0
    return root


def rows(text, start):
    return [line for line in text.splitlines() if line.startswith(f"| {start}")]


def test_what_is_not_finished_is_left_out_and_counted(page):
    text = (page / "docs" / "notes" / "results.md").read_text()
    assert "9 of 10 runs of the grid are finished" in text
    assert rows(text, "xclr, label")
    assert not rows(text, "xclr, random")


def test_cells_are_the_mean_and_the_paired_difference_to_the_level(page):
    text = (page / "docs" / "notes" / "results.md").read_text()
    noisy, level = (
        [load_examples(page / f"xclr,{change}seed={seed}" / "evaluation.npz")["subgroup/knn"] for seed in (0, 1)]
        for change in ("caption_noise=0.5,", "")
    )
    (row,) = rows(text, "xclr, 0.5")
    cell = row.split("|")[3]
    mean, difference, low, high = (float(x.replace("−", "-")) for x in re.findall(r"[+−]?[\d.]+", cell))
    expected = paired_difference(noisy, level)
    assert mean == pytest.approx(100 * np.mean([scores.mean() for scores in noisy]), abs=0.051)
    for shown, value in ((difference, expected.mean), (low, expected.low), (high, expected.high)):
        assert shown == pytest.approx(100 * value, abs=0.051)
    assert ("**" in cell) == expected.excludes_zero
    (first,) = rows(text, "xclr, 0 ")
    assert "[" not in first  # nothing to compare with


@pytest.mark.parametrize(
    ("preset", "key", "expected"),
    [
        ("xclr", "objective.target_temperature", 0.1),
        ("xclr", "objective.graph", "caption"),
        ("xclr_class_text", "objective.graph", "class_text"),
        ("simclr", "objective.graph", "identity"),
        ("xclr", "data.samples_per_class", None),
        ("xclr", "data.caption_noise", 0.0),
    ],
)
def test_runs_without_a_change_stand_at_the_value_that_they_have(tmp_path, preset, key, expected):
    folder = write_run(tmp_path / "run", "run", preset, strength=0.5)
    config = json.loads((folder / "config.json").read_text()) | {"data": {"caption_noise": 0.0}}
    (folder / "config.json").write_text(json.dumps(config))
    assert results_page.level_value(Series(preset, tuple(load_runs([folder]))), key) == expected


def test_every_metric_of_the_objectives_is_there(page):
    text = (page / "docs" / "notes" / "results.md").read_text()
    names = load_examples(page / "xclr,seed=0" / "evaluation.npz")
    table = text.partition("| xclr (2 seeds) | simclr (2 seeds) |")[2].partition("\n\n")[0]
    assert len(table.strip().splitlines()) == 1 + len(names)
    assert re.search(r"xclr against simclr: better on \d+ of \d+ metrics", text)


def test_the_panels_are_there_and_linked(page):
    text, readme = (page / "docs" / "notes" / "results.md").read_text(), (page / "README.md").read_text()
    for name in ("results", "results-caption_noise", "results-graph"):
        assert f"({name}.png)" in text
        for theme in ("", "-dark"):
            assert Image.open(page / "docs" / "notes" / f"{name}{theme}.png").width > 1000
    assert "(docs/notes/results.png)" in readme
    assert readme.startswith("# Title\n<!-- results -->")
    assert readme.endswith("after\n")


def test_a_grid_that_changes_two_things_is_refused(tmp_path, capsys):
    file = tmp_path / "two.py"
    file.write_text(
        "from xsample_jax.sweeps.grid import grid\n"
        "def get_grid():\n"
        '    return grid("configs/quickstart.py", {"objective.temperature": (0.1, 0.2), "steps": (1, 2)})\n'
    )
    assert main_results_page([f"--grid={file}", f"--runs={tmp_path}", f"--out={tmp_path}/x.md"]) == 2
    assert "one change at a time" in capsys.readouterr().err
    assert not (tmp_path / "x.md").exists()


def test_nothing_finished_or_no_baseline_is_said(sweep, tmp_path, capsys):
    file, root = sweep
    call = [f"--grid={file}", f"--out={tmp_path}/x.md"]
    assert main_results_page([*call, f"--runs={tmp_path}"]) == 2
    assert "at least one finished run" in capsys.readouterr().err
    assert main_results_page([*call, f"--runs={root}", "--baseline=clip"]) == 2
    assert "xclr, simclr" in capsys.readouterr().err
    assert main_results_page([*call, f"--runs={root}", "--metrics", "group/prob"]) == 2
    assert "group/probe" in capsys.readouterr().err
    assert not (tmp_path / "x.md").exists()


def test_many_objectives_have_a_row_each(sweep, tmp_path, monkeypatch):
    """Best first, with the difference to the baseline; keys that all points share are no change."""
    monkeypatch.setattr(results_page, "MOST_COLUMNS", 1)
    file, root = sweep
    points = [point for point in read_grid(str(file))[1] if set(point.values) == {"seed"}]
    shared = [dataclasses.replace(point, values={**point.values, "steps": 5}) for point in points]
    assert unchanged(shared) == {name: [p for p in shared if p.tag == name] for name in ("xclr", "simclr")}
    text = results_page.page_markdown(points, results_page.runs_of(points, root), "simclr", tmp_path / "page")
    (best,), (level,) = rows(text, "xclr "), rows(text, "simclr ")
    assert text.index(best) < text.index(level)
    assert len(re.findall(r"\(.*?\[", best)) == len(results_page.SUMMARY)
    assert "[" not in level


def test_a_run_of_another_config_is_left_out_and_said(sweep, tmp_path, capsys):
    """faults D6: a folder that was copied under the name of another point was shown under its values."""
    file, root = sweep
    for source, target in (("xclr,seed=0", "xclr,seed=0"), ("simclr,seed=0", "simclr,seed=0")):
        shutil.copytree(root / source, tmp_path / "runs" / target)
    shutil.copytree(root / "xclr,seed=0", tmp_path / "runs" / "xclr,caption_noise=0.5,seed=0")
    points = read_grid(str(file))[1]
    assert list(results_page.runs_of(points, tmp_path / "runs")) == ["xclr,seed=0", "simclr,seed=0"]
    error = capsys.readouterr().err
    assert "runs of another config than the grid's, left out: 1 (xclr,caption_noise=0.5,seed=0)" in error
    (tmp_path / "runs" / "xclr,seed=0" / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json"):
        results_page.runs_of(points, tmp_path / "runs")


def test_a_single_metric_has_figures(sweep, tmp_path):
    """faults D9: subplots of one panel are no row."""
    file, root = sweep
    call = [f"--grid={file}", f"--runs={root}", f"--out={tmp_path}/page.md", "--metrics", "group/probe"]
    assert main_results_page(call) == 0
    for name in ("page", "page-caption_noise", "page-graph"):
        assert (tmp_path / f"{name}.png").is_file()


def test_keys_that_end_in_the_same_word_have_figures_of_their_own():
    """faults D9: the second one took the place of the first."""
    keys = ("model.width", "model.text.width", "objective.graph")
    assert [results_page.word_of(key, keys) for key in keys] == ["model.width", "model.text.width", "graph"]


def test_a_figure_of_something_else_is_not_replaced(sweep, tmp_path, capsys):
    """faults C3: a picture beside the page that had the name of one of its figures was gone, without a word."""
    file, root = sweep
    call = [f"--grid={file}", f"--runs={root}", "--metrics", "group/probe", f"--out={tmp_path}/page.md"]
    for name in ("page", "page-graph", "page-caption_noise-dark"):
        other = tmp_path / f"{name}.png"
        Image.new("RGB", (2, 2)).save(other)
        before = other.read_bytes()
        assert main_results_page(call) == 2
        assert f"--out = '{other}'" in capsys.readouterr().err
        assert other.read_bytes() == before
        assert not (tmp_path / "page.md").exists()
        other.unlink()
    assert main_results_page(call) == 0
    (tmp_path / "page.md").unlink()  # figures of ours say so
    assert main_results_page(call) == 0
    Image.new("RGB", (2, 2)).save(tmp_path / "page.png")  # as of 0.1, which did not say so: the page shows it
    assert main_results_page(call) == 0
    with Image.open(tmp_path / "page.png") as drawn:
        assert drawn.size > (2, 2)


def test_figures_of_a_page_with_any_name_are_found(sweep, tmp_path):
    """faults D9: the files had names without spaces, which the page asked for with them."""
    file, root = sweep
    call = [f"--grid={file}", f"--runs={root}", f"--out={tmp_path}/my page.md", "--metrics", "group/probe"]
    assert main_results_page(call) == 0
    shown = re.findall(r"!\[[^]]*\]\((.*?)\)", (tmp_path / "my page.md").read_text())
    assert len(shown) == 3
    assert all((tmp_path / name).is_file() for name in shown)
