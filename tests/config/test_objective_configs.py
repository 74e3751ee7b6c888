"""configs/objectives/: one file per preset, which is quickstart with another objective and says where it comes from."""

import ast

import pytest

from tests.config.goldens import ROOT
from xsample_jax.config import diff_configs, load_config
from xsample_jax.objectives.presets import PRESETS

FOLDER = ROOT / "configs" / "objectives"


def test_every_preset_has_a_config():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_config_is_quickstart_with_this_objective(name):
    config, quickstart = load_config(f"{FOLDER / name}.py"), load_config(f"{ROOT / 'configs' / 'quickstart.py'}")
    changed = set(diff_configs(quickstart, config))
    allowed = {"name", "objective.preset", "optimizer.learning_rate"}
    if PRESETS[name].objective.text == "transformer":
        allowed |= {"model.text.layers", "model.text.width"}
    assert config.objective.preset == name
    assert changed <= allowed


@pytest.mark.parametrize("name", PRESETS)
def test_header_tells_formula_and_source(name):
    header = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    words = " ".join(header.split())
    assert words.startswith(PRESETS[name].source)
    assert " ".join(PRESETS[name].formula.split()) in words
    assert f"--config=configs/objectives/{name}.py" in words
