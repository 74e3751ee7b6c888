"""Single keys: types, bounds, unknown and missing names, and how problems are reported."""

import numpy as np
import pytest

from tests.config.changed import changed, fields
from xsample_jax.config import check_config, find_problems
from xsample_jax.config.schema import SCHEMA
from xsample_jax.errors import ConfigError, Problems


@pytest.mark.parametrize("preset", ["moco", "ressl", "mochi"])
def test_a_memory_of_another_size(preset):
    assert fields(changed(objective__preset=preset, objective__queue=512, objective__teacher=0.999)) == []


def test_prototypes_of_another_number():
    assert fields(changed(objective__preset="swav", objective__prototypes=1000)) == []


def test_defaults_with_a_length_are_right():
    assert check_config(changed()) is None


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("seed", [0, np.int64(3)], [-1, 1.0, True, "1", None]),
        ("epochs", [], [0, -1.0, float("nan"), float("inf"), "3"]),
        ("batch_size", [2, 1024], [1, 2.5]),
        ("name", ["x"], [3, None]),
        ("data__split", ["val"], [None, 3]),
        ("data__on_error", ["skip"], ["ignore"]),
        ("model__head__hidden", [(), (8,), [8, 4]], [8, (0,), (8.5,), ("8",), None]),
        ("model__head__batch_norm", [False, np.bool_(True)], [1, "true", None]),
        ("augment__crop_scale", [(), (0.2, 1), (1, 1)], [(0.2,), (0, 1), (0.2, 1.1), (0.9, 0.2)]),
        ("augment__mean", [(0, 0.0, 0.0)], [(0.5, 0.5), (0.5,) * 4]),
        ("augment__std", [(1, 1, 1)], [(0, 1, 1)]),
        ("augment__rand_augment", [(), (1, 0), (4, 30)], [(2,), (0, 9), (5, 9), (2, 31), (2, -1)]),
        ("augment__jitter_strength", [(0, 0, 0, 0), (1, 1, 1, 0.5)], [(0.4, 0.4, 0.4), (0.4, 0.4, 0.4, 0.6)]),
        ("optimizer__learning_rate", [1, 1e-9], [0, -0.1, "1e-3"]),
        ("optimizer__b1", [0, 0.99], [1.0, -0.1]),
        ("optimizer__momentum", [0], [1]),
        ("optimizer__clip_norm", [None, 1], [0]),
        ("optimizer__warmup", [0, 0.9], [0.95, -0.1]),
        ("objective__preset", ["moco", "swav", "xclr_hierarchy"], ["simclrr", None]),
        ("objective__temperature", [None, 0.05], [0, -0.1, float("nan")]),
        ("objective__target_temperature", [None, 1], [0, -1.0]),
        ("objective__target_neighbors", [None, 1.5, 64], [1, 0, "4"]),
        ("objective__target_same_mass", [None, 0.5], [0, 1.0]),
        ("objective__teacher", [None, 0], [1.0, -0.1]),
        ("objective__queue", [None, 0], [-1, 2.5]),
        ("objective__prototypes", [None, 0], [-1]),
        ("objective__terms", [None, ({},), [{"graph": "label"}]], ["label", {"graph": "label"}, ("label",)]),
        ("data__hierarchy", [(), ("group",), ["group", "subgroup"]], ["group", (1,), None]),
        ("augment__local_size", [8, 24], [7, None]),
        ("augment__local_crop_scale", [(0.05, 0.3), (0.1, 1)], [(), (0, 0.3), (0.3, 0.1), (0.1, 1.1)]),
        ("objective__graph", [None, "label", "class_text"], ["text"]),
        ("mesh__data", [-1, 8], [0, -2]),
        ("mesh__topology", [None, "v5e:4x4", "v5p:2x2x4", "h100x8", "4xb200x8"], ["4x4", "v5e", "v5e-16", "x100x8"]),
    ],
)
def test_values(name, right, wrong):
    field = name.replace("__", ".")
    for value in right:
        assert fields(changed(**{name: value})) == [], value
    extra = {"steps": None} if name == "epochs" else {}
    for value in wrong:
        assert fields(changed(**{name: value}, **extra)) == [field], value


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("lr", "optimizer.learning_rate"),
        ("tau_s", "objective.target_temperature"),
        ("learning_rate", "optimizer.learning_rate"),
        ("batchsize", "batch_size"),
        ("schedul", "optimizer.schedule"),
    ],
)
def test_suggestions_for_unknown_keys(name, suggestion):
    (problem,) = find_problems(changed(**{name: 1}))
    assert problem.field == name
    assert f"Did you mean {suggestion}?" in str(problem)


def test_a_name_like_no_other_gets_the_list():
    assert "Known: optimizer.name, optimizer.learning_rate" in str(find_problems(changed(optimizer__zzz=1))[0])
    assert "Known: name, seed, steps" in str(find_problems(changed(zzzzzz=1))[0])


def test_a_batch_of_one_image_is_refused():
    (problem,) = find_problems(changed(batch_size=1))
    assert "batch_size = 1: expected an integer >= 2" in str(problem)


def test_missing_key_and_replaced_section():
    config = changed()
    config.mesh = {"data": -1}
    assert sorted(fields(config)) == sorted(f"mesh.{name}" for name in SCHEMA["mesh"] if name != "data")
    del config.optimizer
    assert "optimizer" in fields(config)


def test_problems_is_one_config_error_with_all_inside():
    with pytest.raises(Problems, match=r"2 problem\(s\) in my.py") as caught:
        check_config(changed(seed=-1, batch_size=0), "my.py")
    assert isinstance(caught.value, ConfigError)
    assert [problem.field for problem in caught.value.problems] == ["seed", "batch_size"]
