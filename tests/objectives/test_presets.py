import pytest
from ml_collections import ConfigDict

from xsample_jax.errors import ConfigError
from xsample_jax.objectives.presets import build_objective
from xsample_jax.objectives.temperature import initial_log_scale, learned_temperature

EMPTY = {
    "preset": "xclr", "graph": None, "temperature": None, "learn_temperature": None,
    "target_temperature": None, "centre": False,
}  # fmt: skip


def build(**changes):
    return build_objective(ConfigDict({**EMPTY, **changes}))


def test_config_values_replace_the_presets():
    objective = build(graph="class_text", temperature=0.2, target_temperature=0.05, centre=True)
    assert objective.terms[0].graph == "class_text"
    assert (objective.temperature, objective.target_temperature, objective.centre) == (0.2, 0.05, True)
    assert objective.requires == {"class_embedding"}
    assert build().temperature == 0.1
    assert build(preset="clip").learn_temperature
    assert not build(preset="clip", learn_temperature=False).learn_temperature


def test_what_a_preset_reads():
    assert build(preset="simclr").requires == set()
    assert build(preset="supcon").requires == {"label"}
    assert build(preset="clip").requires == {"caption_tokens"}
    assert build(preset="clip_frozen_text").requires == {"caption_embedding"}


def test_bad_names_are_explained():
    with pytest.raises(ConfigError, match="Did you mean supcon"):
        build(preset="supkon")
    with pytest.raises(ConfigError, match="Did you mean caption"):
        build(graph="captions")
    with pytest.raises(ConfigError, match="image-text"):
        build(preset="clip", graph="label")
    with pytest.raises(ConfigError, match="negative"):
        build(preset="supcon", graph="caption")


def test_learned_temperature_starts_at_its_value_and_is_clamped():
    assert learned_temperature(initial_log_scale(0.07)) == pytest.approx(0.07, rel=1e-5)
    assert learned_temperature(initial_log_scale(0.001)) == pytest.approx(0.01, rel=1e-5)
    assert learned_temperature(initial_log_scale(5.0)) == pytest.approx(1.0, rel=1e-5)
