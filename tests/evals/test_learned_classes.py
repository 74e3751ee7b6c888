"""The evaluators that ask learned classes, and few-shot episodes, on features small enough to count by hand."""

import types

import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.evals.classifier import classifier, episode_accuracies, episodes, with_forgetting
from xsample_jax.evals.context import EvalContext
from xsample_jax.evals.features import Features
from xsample_jax.evals.metrics import Collector
from xsample_jax.objectives.learned_state import CLASSES

ROWS = np.float32([[2, 0], [0, 1], [-3, 0]])  # of three classes, of any length


def features(places, labels):
    """Embeddings at angles given in quarter turns."""
    angle = np.pi / 2 * np.asarray(places)
    z = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    return Features(z, z, np.arange(len(z)), np.asarray(labels))


SPLITS = {
    "train": features([0.1, 0.2, 0.9, 1.9, 1.1], [0, 0, 1, 2, 2]),
    "test": features([0.1, 1.1, 1.2, 2.1, 0.0], [0, 1, 0, 2, -1]),
}


def measured(evaluate=classifier, step=0, learned=(), names=None, **changes):
    state = types.SimpleNamespace(params={CLASSES: ROWS}, step=step)
    state.averaged = lambda: state

    class Store:
        def __init__(self):
            self.state, self.parts = state, types.SimpleNamespace(facts=types.SimpleNamespace(class_names=learned))

        def __call__(self, split, background=None):
            return SPLITS[split]

    config = tiny_config(objective__preset="classifier", eval__suite="none", **changes)
    out, bench = Collector(), EvalContext(Store(), config)
    if names is not None:
        bench.source = lambda split: types.SimpleNamespace(manifest=types.SimpleNamespace(class_names=names))
    evaluate(bench, out)
    return out.metrics


def test_classes_are_those_of_the_run_by_name_whatever_their_order_in_the_set():
    """faults D: labels were compared with the rows by their numbers, so the same images gave another accuracy."""
    learned = ("a", "b", "c")
    assert measured(learned=learned, names=learned) == {"classifier/test": 0.75}
    SPLITS["other"] = features([0.1, 1.1, 1.2, 2.1, 0.0], [2, 0, 2, 1, -1])
    assert measured(learned=learned, names=("b", "c", "a"), eval__split="other") == {"classifier/test": 0.75}
    SPLITS["other"] = features([0.1, 1.1, 1.2, 2.1], [0, 3, 0, 2])  # one is of a class that was not learned
    assert measured(learned=learned, names=("a", "b", "c", "d"), eval__split="other") == {"classifier/test": 2 / 3}
    found = measured(learned=learned, names=("b", "a", "c"), data__forget__classes=(2,), data__label="group")
    assert found["classifier/test"] == pytest.approx(1 / 3)  # "a" and "b" change places, and "c" is forgotten as before
    with pytest.raises(DataError, match="labels of split other = 3: expected below 3"):
        measured(names=(), eval__split="other")
    with pytest.raises(DataError, match="some of those that the run has learned"):
        measured(learned=learned, names=("x", "y", "z", "w"), eval__split="other")


def test_accuracy_by_learned_classes_and_what_is_forgotten_of_it():
    assert measured() == {"classifier/test": 0.75}  # 1.2 is nearest to class 1; a row without a class is left out
    found = measured(data__forget__classes=(2,), data__label="group")
    expected = {"forget": 0.5, "retain": 1.0, "test": 2 / 3, "test_forgotten": 1.0, "forget_excess": 0.5 - 1 / 3}
    assert found == pytest.approx({f"classifier/{name}": value for name, value in expected.items()})


def test_records_are_forgotten_down_to_the_level_of_the_test_images(tmp_path):
    (tmp_path / "ids.txt").write_text("0\n4\n")
    found = measured(data__forget__ids=str(tmp_path / "ids.txt"))
    expected = {"forget": 0.5, "retain": 1.0, "test": 0.75, "forget_excess": -0.25}
    assert found == pytest.approx({f"classifier/{name}": value for name, value in expected.items()})


def test_a_task_is_asked_for_among_the_classes_so_far_and_forgetting_is_from_its_best():
    tasks = {"data__tasks__count": 3, "data__tasks__steps": 2, "steps": 6}
    after = [measured(step=step, **tasks) for step in (2, 4, 6)]
    assert [sum("task_" in name for name in found) for found in after] == [1, 2, 3]
    assert after[0]["classifier/task_1"] == 1.0  # there is one class to choose from
    assert after[2]["classifier/seen"] == pytest.approx(np.mean([after[2][f"classifier/task_{t}"] for t in (1, 2, 3)]))
    best = {}
    history = ([0.9], [0.5, 0.8], [0.6, 0.7, 0.4])
    found = [with_forgetting({f"classifier/task_{n + 1}": a for n, a in enumerate(row)}, best) for row in history]
    assert ["classifier/forgetting" in row for row in found] == [False, True, True]
    assert found[1]["classifier/forgetting"] == pytest.approx(0.4)
    assert found[2]["classifier/forgetting"] == pytest.approx((0.3 + 0.1) / 2)


def test_episodes_are_exact_for_classes_apart_and_a_guess_for_features_that_say_nothing():
    options = types.SimpleNamespace(way=4, shot=2, query=3, count=300)
    rng, labels = np.random.default_rng(0), np.arange(120) % 10
    apart = 10 * np.eye(10)[labels] + rng.normal(size=(120, 10))
    assert (episode_accuracies(apart, labels, options) == 1).all()
    guessed = episode_accuracies(rng.normal(size=(120, 3)), labels, options)
    assert guessed.mean() == pytest.approx(0.25, abs=4 * guessed.std() / np.sqrt(300))


def test_episodes_have_an_interval_and_refuse_too_few_classes():
    SPLITS["many"] = features(np.arange(40) / 10, np.arange(40) // 8)
    found = measured(episodes, eval__split="many", eval__episodes__way=3, eval__episodes__count=50)
    assert list(found) == ["episodes/3way_1shot"]
    with pytest.raises(ConfigError, match=r"eval.episodes.way = 6: expected at most 5"):
        measured(episodes, eval__split="many", eval__episodes__way=6)
