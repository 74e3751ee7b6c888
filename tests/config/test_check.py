import numpy as np
import pytest

from xsample_jax.config import check_config, default_config, find_problems
from xsample_jax.errors import ConfigError, Problems


def changed(**changes):
    """A right config with some keys changed; a double underscore stands for a dot."""
    config = default_config()
    config.steps = 10
    for name, value in changes.items():
        *sections, leaf = name.split("__")
        section = config
        for part in sections:
            section = section[part]
        section[leaf] = value
    return config


def fields(config):
    return [problem.field for problem in find_problems(config)]


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
        ("augment__jitter_strength", [(0, 0, 0, 0), (1, 1, 1, 0.5)], [(0.4, 0.4, 0.4), (0.4, 0.4, 0.4, 0.6)]),
        ("optimizer__learning_rate", [1, 1e-9], [0, -0.1, "1e-3"]),
        ("optimizer__b1", [0, 0.99], [1.0, -0.1]),
        ("optimizer__momentum", [0], [1]),
        ("optimizer__clip_norm", [None, 1], [0]),
        ("optimizer__warmup", [0, 0.9], [0.95, -0.1]),
        ("objective__temperature", [None, 0.05], [0]),
        ("objective__graph", [None, "label", "class_text"], ["text"]),
        ("mesh__data", [-1, 8], [0, -2]),
        ("mesh__topology", [None, "v5e:4x4", "v5p:2x2x4"], ["4x4", "v5e", "v5e-16"]),
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
    ("changes", "field", "fix"),
    [
        ({"steps": None}, "steps", "--config.steps=1000"),
        ({"epochs": 2.0}, "steps", "--config.epochs=None"),
        ({"views": 1}, "views", "--config.views=2"),
        ({"views": 1, "objective__preset": "simclr"}, "views", "--config.views=2"),
        ({"views": 1, "objective__preset": "supcon"}, "views", "--config.views=2"),
        ({"data__source": "records", "eval__suite": "probe"}, "data.path", "--config.data.path=FOLDER"),
        ({"data__path": "somewhere"}, "data.path", "--config.data.source=records"),
        ({"data__split": "trian"}, "data.split", "Did you mean train"),
        ({"augment__size": 129}, "augment.size", "--config.data.image_size=129"),
        ({"model__encoder": "vit_ti", "model__patch_size": 5}, "model.patch_size", "2, 4, 8, 16, 32"),
        ({"objective__preset": "clip"}, "model.text.layers", "--config.model.text.layers=6"),
        (
            {"objective__preset": "clip_frozen_text", "model__text__layers": 2},
            "model.text.layers",
            "--config.model.text.layers=0",
        ),
        (
            {"objective__preset": "clip", "model__text__layers": 2, "data__caption": "mean"},
            "data.caption",
            "--config.data.caption=first",
        ),
        (
            {"objective__preset": "clip", "model__text__layers": 2, "model__text__heads": 3},
            "model.text.width",
            "Set 255",
        ),
        ({"objective__preset": "simclr", "objective__centre": True}, "objective.centre", "centre=false"),
        ({"objective__graph": "label", "objective__centre": True}, "objective.centre", "centre=false"),
        ({"objective__preset": "simclr", "objective__graph": "caption"}, "objective.graph", "preset=xclr"),
        ({"objective__preset": "clip_frozen_text", "objective__graph": "label"}, "objective.graph", "graph=None"),
        (
            {"objective__temperature": 2.0, "objective__learn_temperature": True},
            "objective.temperature",
            "temperature=0.07",
        ),
        ({"optimizer__name": "lars", "optimizer__clip_norm": 1.0}, "optimizer.clip_norm", "clip_norm=None"),
        ({"data__source": "records", "data__path": "x"}, "eval.suite", "--config.eval.suite=probe"),
        ({"eval__split": "train_styles"}, "eval.split", "--config.eval.split=test"),
        ({"eval__suite": "probe", "eval__split": "train"}, "eval.split", ""),
        ({"eval__suite": "none", "checkpoint__metric": "knn"}, "checkpoint.metric", "checkpoint.metric=None"),
        ({"checkpoint__metric": "knn", "checkpoint__keep_best": 0}, "checkpoint.keep_best", ""),
    ],
)
def test_combinations(changes, field, fix):
    (problem,) = find_problems(changed(**changes))
    assert isinstance(problem, ConfigError)
    assert problem.field == field
    assert fix in str(problem)


@pytest.mark.parametrize(
    "changes",
    [
        {"views": 1, "objective__preset": "clip_frozen_text"},
        {"objective__preset": "clip", "model__text__layers": 2},
        {"objective__centre": True},
        {"objective__graph": "class_text", "objective__centre": True},
        {"objective__preset": "simclr", "objective__graph": "label"},
        {"model__encoder": "resnet18", "model__patch_size": 5},
        {"data__source": "records", "data__path": "x", "data__split": "any", "eval__suite": "none"},
        {"augment__size": 128},
        {"optimizer__name": "lars"},
        {"checkpoint__metric": "knn"},
    ],
)
def test_combinations_that_work(changes):
    assert find_problems(changed(**changes)) == []


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


def test_missing_key_and_replaced_section():
    config = changed()
    config.mesh = {"data": -1}
    assert sorted(fields(config)) == ["mesh.fsdp", "mesh.topology"]
    del config.optimizer
    assert "optimizer" in fields(config)


def test_problems_is_one_config_error_with_all_inside():
    with pytest.raises(Problems, match=r"2 problem\(s\) in my.py") as caught:
        check_config(changed(seed=-1, batch_size=0), "my.py")
    assert isinstance(caught.value, ConfigError)
    assert [problem.field for problem in caught.value.problems] == ["seed", "batch_size"]
