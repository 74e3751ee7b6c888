import json

import pytest

from tests.tiny import tiny_config
from xsample_jax.config import config_from_json, config_to_json, default_config, diff_configs, resolve
from xsample_jax.config.saved import changed_keys
from xsample_jax.config.schema import flat_keys
from xsample_jax.errors import CheckpointError, ConfigError, Problems


@pytest.fixture
def config():
    config = default_config()
    config.steps = 10
    config.model.head.hidden = (7, 5)
    config.optimizer.learning_rate = 1 / 3
    config.data.fingerprint = 'quote " and é'
    return resolve(config)


def test_round_trip_is_exact(config):
    again = config_from_json(config_to_json(config))
    assert again.to_dict() == config.to_dict()
    assert again.is_locked
    assert type(again.model.head.hidden) is tuple
    assert again.optimizer.learning_rate == 1 / 3  # every bit
    assert config_to_json(again) == config_to_json(config)


def test_one_key_a_line(config):
    lines = config_to_json(config).splitlines()
    assert lines[1] == '  "name": "run",'  # the order of the schema, not of the alphabet
    assert '    "head": {' in lines
    assert '      "hidden": [7, 5],' in lines


def test_key_that_an_older_run_lacks_takes_its_default(config):
    values = json.loads(config_to_json(config))
    del values["optimizer"]["b2"]
    del values["eval"]
    assert diff_configs(config, config_from_json(json.dumps(values))) == {}


def test_key_that_no_longer_exists_is_named(config):
    values = json.loads(config_to_json(config))
    values["optimizer"]["old"] = 1
    with pytest.raises(Problems, match=r"optimizer\.old = 1: expected a known key"):
        config_from_json(json.dumps(values))


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_not_a_config(text):
    with pytest.raises(ConfigError, match=r"config\.json"):
        config_from_json(text)


def test_diff(config):
    other = config.copy_and_resolve_references().unlock()
    assert diff_configs(config, other) == {}
    other.optimizer.b1 = 0.5
    other.model.head.hidden = (7,)
    other.new = 1
    del other.log.every
    assert diff_configs(config, other) == {
        "model.head.hidden": ((7, 5), (7,)),
        "optimizer.b1": (0.9, 0.5),
        "log.every": (10, None),
        "new": (None, 1),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"mesh": {"rules": ({"parameters": "kernel", "split": ("fsdp", "tensor")},)}},
        {
            "objective": {
                "terms": (
                    {
                        "graph": {
                            "source": "caption",
                            "normalizer": "softmax",
                            "transforms": ({"name": "top_k", "k": 5},),
                        },
                        "keys": ["image"],
                    },
                )
            }
        },
    ],
    ids=["rules", "terms"],
)
def test_tuples_within_dicts_come_back_as_they_were(changes):
    config = default_config()
    config.steps = 10
    for section, keys in changes.items():
        config[section].update(keys)
    config = resolve(config)
    assert diff_configs(config_from_json(config_to_json(config)), config) == {}


@pytest.mark.parametrize(
    ("preset", "start"), [("simclr", False), ("clip_frozen_text", True), ("sogclr", False), ("isogclr", True)]
)
def test_start_values_are_refused_all_at_once(tmp_path, preset, start):
    """faults A10: a learned temperature and the like were taken over, written down as changed, and not read."""
    config = tiny_config(objective__preset=preset)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    changes = {"objective__preset": preset, "steps": 50, "objective__temperature": 0.5}
    both = {"steps", "objective.temperature"}
    if not start:
        assert set(changed_keys(tiny_config(**changes), config, tmp_path, allow=True)) == both
    other = tiny_config(**changes, checkpoint__resume_from="runs/b")
    with pytest.raises(CheckpointError, match=r"resume_from was None, is now 'runs/b'") as caught:
        changed_keys(other, config, tmp_path, allow=True)
    assert ("temperature was None, is now 0.5" in str(caught.value)) == start
    assert "steps" not in str(caught.value)
    with pytest.raises(Problems, match=r"(?s)resume_from.*steps was .* is now 50.*--allow_config_change"):
        changed_keys(other, config, tmp_path, allow=False)


def test_every_key_that_only_a_new_state_reads_is_known():
    """faults A10: names of the schema alone; the temperature depends on the objective."""
    assert {name for name, key in flat_keys().items() if key.start} == {
        "checkpoint.resume_from",
        "model.init_from",
        "model.init_whole",
        "model.init_family",
    }
