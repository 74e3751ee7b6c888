"""Batches by plan: a function of seed and place alone, on any hosts and from any position; and what each is made of."""

import types

import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.config.check import find_problems
from xsample_jax.data.dataset import open_dataset, train_batches
from xsample_jax.data.plans import (
    episode_plan,
    forget_plan,
    read_plan,
    rehearsed,
    task_of_classes,
    task_plan,
)
from xsample_jax.data.sources import Relabeled, open_source
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError

LABELS = np.random.default_rng(0).integers(-1, 9, 400)
TASKS = {"count": 3, "steps": 4, "keep": 5, "share": 0.25}
EPISODES = {"way": 4, "shot": 2, "query": 2}
FORGET = LABELS == 3
PLANS = {
    "forget": lambda seed: forget_plan(FORGET, seed, 16, 6, 4),
    "tasks": lambda seed: task_plan(LABELS, TASKS, 9, seed, 16),
    "episodes": lambda seed: episode_plan(LABELS, EPISODES, seed),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_a_function_of_seed_and_place(name):
    places = list(range(320))
    first, again = PLANS[name](1), PLANS[name](1)
    found = [first(place) for place in places]
    shuffled = np.random.default_rng(2).permutation(places)
    assert [again(int(place)) for place in shuffled] == [found[place] for place in shuffled]
    assert found != [PLANS[name](2)(place) for place in places]


def test_images_to_forget_meet_several_batches_of_what_is_kept():
    batches = [[PLANS["forget"](0)(16 * n + row) for row in range(16)] for n in range(40)]
    for number, batch in enumerate(batches):
        assert [place.part for place in batch] == [1] * 6 + [0] * 10
        assert all(FORGET[place.index] == place.part for place in batch)
        assert [place.index for place in batch[:6]] == [place.index for place in batches[number // 4 * 4][:6]]
    kept = [place.index for batch in batches for place in batch[6:]]
    assert sorted(kept[: int((~FORGET).sum())]) == np.flatnonzero(~FORGET).tolist()  # a pass has each once
    without = forget_plan(FORGET, 0, 16, 0, 4)
    assert not any(FORGET[without(place).index] or without(place).part for place in range(500))


def test_tasks_have_their_own_classes_and_rehearse_a_few_images_of_earlier_ones():
    of_class = task_of_classes(9, 3, 0)
    assert np.bincount(of_class).tolist() == [3, 3, 3]
    at = PLANS["tasks"](0)
    for number in range(14):
        batch, task = [at(16 * number + row) for row in range(16)], min(number // 4, 2)
        assert {place.task for place in batch} == {task}
        assert [place.part for place in batch] == ([1] * 4 + [0] * 12 if task else [0] * 16)
        for place in batch:
            own = of_class[LABELS[place.index]]
            assert LABELS[place.index] >= 0
            assert own < task if place.part else own == task
    task = np.where(LABELS >= 0, of_class[LABELS], -1)
    buffers = [rehearsed(LABELS, task, before, 5, 0) for before in range(3)]
    assert [len(buffer) for buffer in buffers] == [0, 15, 30]
    assert set(buffers[1]) <= set(buffers[2])
    drawn = {at(16 * number + row).index for number in range(8, 20) for row in range(4)}
    assert drawn == set(buffers[2].tolist())


def test_an_episode_has_other_images_as_queries_than_as_support():
    at, classes = PLANS["episodes"](0), set()
    for number in range(20):
        batch = [at(16 * number + row) for row in range(16)]
        labels = LABELS[[place.index for place in batch]]
        assert len({place.index for place in batch}) == 16
        for part in (0, 1):
            counts = np.unique(labels[[place.part == part for place in batch]], return_counts=True)[1]
            assert counts.tolist() == [2] * 4
        classes |= set(labels.tolist())
    assert classes == set(range(9))


def planned(**changes):
    return tiny_config(**{"eval__suite": "none", "objective__preset": "classifier", "data__label": "group"} | changes)


def test_batches_are_the_same_for_any_number_of_hosts_and_after_a_resume():
    config = planned(data__tasks__count=2, data__tasks__steps=2, data__tasks__keep=3, data__tasks__share=0.25)
    examples = open_dataset(config, "train", frozenset({"part", "task"}))
    examples.plan = read_plan(config, examples.source)

    def read(start, rows=None, count=4):
        batches = train_batches(examples, config, start, rows)
        found = [next(batches) for _ in range(count)]
        batches.close()
        return [{name: batch[name] for name in ("id", "label", "part", "task")} for batch in found]

    whole = read(0)
    assert [int(batch["task"].max()) for batch in whole] == [0, 0, 1, 1]
    for hosts in (2, 4):
        share = config.batch_size // hosts
        parts = [read(0, range(host * share, (host + 1) * share)) for host in range(hosts)]
        for number, batch in enumerate(whole):
            for name in batch:
                np.testing.assert_array_equal(np.concatenate([part[number][name] for part in parts]), batch[name])
    np.testing.assert_equal(read(3 * config.batch_size, count=1)[0], whole[3])


def test_an_attribute_can_be_the_class():
    config = tiny_config(data__label="group", eval__suite="none")
    source = open_source(config.data, "test")
    assert len(source.manifest.class_names) == 8
    assert all(source[n]["label"] == source[n]["attributes"]["group"] for n in (0, 50, 600))
    with pytest.raises(ConfigError, match=r"an attribute of .*Did you mean group"):
        Relabeled(source, "groop")


def test_labels_without_names_are_classes_too(tmp_path):
    """faults C9: their tasks were an exception, and classes to forget "numbers from 0 to -1"."""
    image = open_source(planned().data, "test")[0]["image"]
    records = ({"id": number, "image": image, "label": number % 3, "attributes": {}} for number in range(48))
    write_records(tmp_path / "set", "set", {"train": records}, [], {})
    changes = {"data__source": "records", "data__path": str(tmp_path / "set"), "data__label": None}
    config = planned(data__tasks__count=2, data__tasks__steps=2, **changes)
    source = open_source(config.data, "train")
    assert read_plan(config, source) is not None
    wrong = planned(data__forget__classes=(7,), **changes)
    with pytest.raises(ConfigError, match=r"7: expected classes of split train, numbers from 0 to 2"):
        read_plan(wrong, source)


WRONG = {
    "two plans": ({"data__tasks__count": 2, "data__forget__classes": (1,)}, "each says what is drawn"),
    "an episode of another size": ({"data__episodes__way": 3}, "batch_size = 16: expected 15"),
    "a share without images": ({"data__forget__classes": (1,), "data__forget__share": 0.01}, "images of both kinds"),
    "a task that never comes": ({"data__tasks__count": 4, "steps": 300}, "the last of 4 tasks begins"),
    "records drawn otherwise": ({"data__tasks__count": 2, "data__balance": 0.5, "steps": 200}, "data.balance = 0.5"),
    "learned classes": ({"eval__suite": "classifier", "objective__preset": "simclr"}, "learns no classes"),
    "a rule without evaluations": ({"eval__stop": ({"metric": "x", "at_most": 1.0},)}, "not evaluated on its way"),
    "tasks for episodes": (
        {"objective__preset": "coconut", "data__episodes__way": 2, "batch_size": 10},
        "parts of batches by data.tasks.count",
    ),
    "forgetting for tasks": (
        {"objective__preset": "unlearning", "data__tasks__count": 2, "steps": 200},
        "parts of batches by data.forget.classes or .ids",
    ),
    "episodes for tasks": (
        {"objective__preset": "prototypical", "data__tasks__count": 2, "steps": 200},
        "parts of batches by data.episodes.way",
    ),
    "a step back": (
        {"data__tasks__count": 2, "steps": 200, "faults__non_finite": "rollback"},
        "would part the tasks from the steps",
    ),
    "concepts": ({"data__label": "group", "eval__suite": "emoji"}, "takes the class for the concept"),
    "a whole run": ({"model__init_whole": True}, "the folder of a run"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_plan_is_refused_by_the_check_of_the_config(case):
    changes, expected = WRONG[case]
    config = tiny_config().copy_and_resolve_references().unlock()
    config.eval.suite = "none"
    for name, value in changes.items():
        *sections, leaf = name.split("__")
        node = config
        for section in sections:
            node = node[section]
        with node.ignore_type():
            node[leaf] = value
    assert expected in " ".join(map(str, find_problems(config)))


def test_what_the_records_do_not_give_is_refused(tmp_path):
    (tmp_path / "ids.txt").write_text("1\nx\n")
    (tmp_path / "large.txt").write_text(f"{2**63}\n")
    source = open_source(planned().data, "test")
    some, others = source[0]["id"], [10**9 + number for number in range(7)]
    (tmp_path / "others.txt").write_text("\n".join(map(str, [some, *others])))
    cases = [
        ({"data__forget__ids": str(tmp_path / "large.txt")}, "below 2.63"),
        ({"data__forget__ids": str(tmp_path / "others.txt")}, r"7 of its ids are none: 1000000000, .*4, \.\.\."),
        ({"data__forget__classes": (9,)}, "numbers from 0 to 7"),
        ({"data__forget__classes": tuple(range(8))}, "not all"),
        ({"data__forget__ids": str(tmp_path / "none.txt")}, "an existing text file"),
        ({"data__forget__ids": str(tmp_path / "ids.txt")}, "whole numbers"),
        ({"data__episodes__way": 9, "batch_size": 45}, "at most 8"),
        ({"data__tasks__count": 9, "steps": 900}, "at most 8"),
        ({"data__tasks__count": 4, "steps": None, "epochs": 1.0}, "the last of 4 tasks begins; these are"),
    ]
    for changes, expected in cases:
        with pytest.raises(ConfigError, match=expected):
            read_plan(planned(**changes), source)
    preset = types.SimpleNamespace(fields=frozenset({"part"}))
    with pytest.raises(DataError, match="batches by plan"):
        open_dataset(planned(), "test", preset.fields, source)
    with pytest.raises(DataError, match=r"which data\.tasks makes"):
        open_dataset(planned(data__episodes__way=3, batch_size=15), "test", frozenset({"task"}), source)
