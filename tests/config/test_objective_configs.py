"""configs/objective.py: every preset as a variant of the quickstart that differs in nothing but its objective."""

import pytest

from tests.config.goldens import read_spec
from xsample_jax.config import diff_configs
from xsample_jax.objectives.from_config import needed_views
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.side_information import BY_RECORD


@pytest.mark.parametrize("name", PRESETS)
def test_config_is_quickstart_with_this_objective(name):
    config, quickstart = read_spec(f"objective.py:{name}"), read_spec("quickstart.py")
    allowed, changed = {"name", "objective.preset"}, set(diff_configs(quickstart, config))
    text = PRESETS[name].objective.text
    if text in ("transformer", "causal"):
        allowed |= {"model.text.layers", "model.text.width"}
    if text == "causal":
        allowed |= {"model.text.multimodal", "model.text.queries"}
    if needed_views(PRESETS[name].objective) > quickstart.views:
        allowed |= {"views"}
    if PRESETS[name].objective.requires & set(BY_RECORD):
        allowed |= {"data.side"}
        assert {entry["name"] for entry in config.data.side} <= PRESETS[name].objective.requires
    if PRESETS[name].objective.requires & {"part", "task"}:
        plans = {"unlearning": "data.forget.", "coconut": "data.tasks.", "coconut_ntpt": "data.tasks."}
        plan = plans.get(name, "data.episodes.")
        allowed |= {"data.label", "eval.suite"} | {key for key in changed if key.startswith(plan)}
    assert config.objective.preset == name
    assert changed <= allowed


def test_no_name_is_xclr_and_smoke_is_small():
    assert read_spec("objective.py").objective.preset == "xclr"
    assert read_spec("objective.py:clip,smoke").steps <= 6
