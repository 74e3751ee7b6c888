"""The notebooks run from top to bottom, with small settings, as scripts."""

import io
import json
import math
import pathlib
import re
import runpy

import jax
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from tests.captions.tiny_models import write_model
from xsample_jax import loop
from xsample_jax import setup as build_run
from xsample_jax.sharding import make_mesh

FOLDER = pathlib.Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


@pytest.fixture
def run(monkeypatch, tmp_path, linear_encoder):
    """Runs a notebook and returns its variables; one device, hardly an encoder, and no report for every single run."""
    plt.switch_backend("agg")
    monkeypatch.setenv("NOTEBOOK_QUICK", "1")
    monkeypatch.setenv("NOTEBOOK_RUNS", str(tmp_path))
    monkeypatch.setenv("NOTEBOOK_TEXT_MODEL", str(write_model(tmp_path / "model", "bert")))
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(build_run, "make_mesh", lambda mesh, batch: make_mesh(mesh, batch, jax.devices()[:1]))
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)

    def run(name):
        variables = runpy.run_path(str(FOLDER / f"{name}.py"))
        for figure in (value for value in variables.values() if isinstance(value, Figure)):
            figure.savefig(io.BytesIO(), format="png")
        return variables

    yield run
    plt.close("all")


def test_01_similarity_graph(run):
    found = run("01_similarity_graph")
    assert 0.01 < found["limit"].tau_s < 1
    assert found["limit"].masses["ordinary_mass"] == pytest.approx(0.2, abs=1e-6)
    assert isinstance(found["figure"], Figure)


@pytest.mark.slow
def test_02_objectives(run, tmp_path):
    found = run("02_objectives")
    assert set(found["examples"]) == {"xclr", "simclr"}
    assert len(found["axes"].lines) == 2 * 2 * 4
    assert (tmp_path / "objectives" / "report.html").exists()


@pytest.mark.slow
def test_03_data_efficiency(run):
    scores = run("03_data_efficiency")["scores"]
    assert set(scores) == {("xclr", 1), ("xclr", None)}
    assert all(one.low <= one.mean <= one.high for one in scores.values())


@pytest.mark.slow
def test_04_noise(run):
    found = run("04_noise")
    assert set(found["scores"]) == {("supcon", 0.5)}
    assert math.isfinite(found["untold"].mean)


@pytest.mark.slow
def test_05_your_own_data(run, tmp_path):
    found = run("05_your_own_data")
    assert found["features"].shape == (64, found["encoder"].features)
    assert (tmp_path / "own" / "inspect.html").exists()
    assert "<title>" in (tmp_path / "own" / "inspect.html").read_text()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_source_is_a_notebook_with_a_title_and_no_machine_in_it(path):
    text = path.read_text()
    assert text.startswith("# ---\n# jupyter:")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)[1:]
    assert cells[0].startswith(f" [markdown]\n# # {int(path.stem[:2])}. ")
    assert any(not cell.startswith(" [markdown]") for cell in cells)
    assert f"test_{path.stem}" in globals()


EXECUTED = sorted((FOLDER / "ipynb").glob("01_*.ipynb"))  # what the repository has; make notebooks executes all
MOST_BYTES = 2**20


@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.stem)
def test_an_executed_notebook_is_its_source_with_outputs_and_no_machine_in_it(path):
    assert path.stat().st_size < MOST_BYTES
    cells = json.loads(path.read_text())["cells"]
    source = (FOLDER / f"{path.stem}.py").read_text()
    expected = [cell.strip() for cell in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]]
    expected = [cell for cell in expected if not cell.startswith("[markdown]")]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert ["".join(cell["source"]).strip() for cell in code] == expected
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert not any(output["output_type"] == "error" for output in outputs)
    assert not re.search(r"/(tmp|root|home|work|Users)/", path.read_text())
