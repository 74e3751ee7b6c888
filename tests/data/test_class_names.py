"""Names of classes: those that merge, and those that only look alike."""

import dataclasses

import pytest

from tests.tiny import tiny_config
from xsample_jax.data.class_texts import spelled_out
from xsample_jax.data.records import open_records
from xsample_jax.data.sources import Mixture
from xsample_jax.data.writer import as_read, look_alikes, write_records
from xsample_jax.errors import CheckpointError, DataError
from xsample_jax.io.checkpoint_files import classes_of
from xsample_jax.loop import _take_classes, train
from xsample_jax.setup import build_run
from xsample_jax.state import Progress


def test_a_set_whose_classes_share_a_name_is_not_mixed(tmp_path):
    """faults C6: two classes of ImageNet are called crane, and would become one."""
    for name, classes in (("a", ["crane", "dog", "crane"]), ("b", ["crane", "dog", "cat"])):
        made = [{"id": n, "image": b"x", "label": n % 3, "captions": []} for n in range(3)]
        write_records(tmp_path / name, name, {"train": made}, classes)
    a, b = (open_records(tmp_path / name, "train") for name in "ab")
    with pytest.raises(DataError, match="crane"):
        Mixture([b, a])
    assert Mixture([b, b]).manifest.class_names == ("crane", "dog", "cat")


@pytest.mark.parametrize("other", ["cafe\u0301", "Caf\u00e9", " caf\u00e9", "caf\u200b\u00e9", "caf\u00e9\u00a0"])
def test_names_that_look_alike_are_found(other):
    """faults C6: equal to the eye, but not to the program."""
    assert look_alikes(["caf\u00e9", other, "dog"]) == [tuple(sorted(("caf\u00e9", other)))]
    assert look_alikes(["caf\u00e9", "caf\u00e9", "cafe"]) == []
    assert as_read("\u200b \u00a0") == ""


def test_underscores_of_folder_names_become_spaces_in_class_texts():
    """faults C6: names of folders are words."""
    assert spelled_out(["golden_retriever", "a__b", "_"]) == ["golden retriever", "a b", "_"]


@pytest.mark.usefixtures("linear_encoder")
def test_a_run_goes_on_with_the_class_names_that_it_began_with(tmp_path):
    """faults D6: the rows learned for some classes went to others, where a set lists its classes in another order."""
    config = {"objective__preset": "classifier", "eval__suite": "none", "data__label": "group"}
    setup, _ = build_run(tiny_config(**config))
    names = setup.facts.class_names
    other = (names[1], names[0], *names[2:])
    _take_classes(setup, progress := Progress(classes=names))
    assert progress.classes == names
    for state in (setup.abstract_state, None):
        with pytest.raises(CheckpointError, match=f"name of class 0 = '{names[0]}'.*'{names[1]}'.*objective/classes"):
            _take_classes(setup, Progress(classes=other), state)
    _take_classes(setup, Progress())  # an older checkpoint does not say
    without, _ = build_run(tiny_config(**config | {"objective__preset": "supcon"}))
    _take_classes(without, progress := Progress(classes=other))  # it keeps nothing by class
    assert progress.classes == names
    probed, _ = build_run(tiny_config(**config | {"objective__preset": "supcon", "eval__online_probe": True}))
    with pytest.raises(CheckpointError, match="name of class 0"):
        _take_classes(probed, Progress(classes=other), probed.abstract_state)


@pytest.mark.usefixtures("linear_encoder")
def test_labels_of_a_queue_are_unknown_under_other_names():
    """faults A7, D6: rows of the queue kept the numbers of classes that mean others now."""
    setup, _ = build_run(tiny_config(objective__preset="moco", objective__queue=64, eval__suite="none"))
    names, state = setup.facts.class_names, setup.new_state({})
    state = dataclasses.replace(state, memory=state.memory | {"queue/label": state.memory["queue/label"] * 0 + 3})
    for classes, label in ((names, 3), (names[::-1], -1)):
        found = _take_classes(setup, Progress(classes=classes), state).memory["queue/label"]
        assert set(found.tolist()) == {label}
        assert found.sharding == state.memory["queue/label"].sharding


@pytest.mark.usefixtures("linear_encoder")
def test_class_names_are_in_the_checkpoint_and_another_order_is_refused(tmp_path, monkeypatch):
    """faults D6: with resume_from, init_whole and in the folder of the run."""
    changes = {"objective__preset": "classifier", "eval__suite": "none", "data__label": "group"}
    train(tiny_config(steps=1, **changes), tmp_path / "first")
    names = classes_of(tmp_path / "first", 1)
    assert len(names) > 2
    monkeypatch.setattr("xsample_jax.loop.build_run", _with_other_names)
    for more in (
        {"checkpoint__resume_from": str(tmp_path / "first")},
        {"model__init_from": str(tmp_path / "first"), "model__init_whole": True},
    ):
        with pytest.raises(CheckpointError, match="name of class 0"):
            train(tiny_config(steps=2, **changes, **more), tmp_path / "second")


def _with_other_names(config):
    setup, dataset = build_run(config)
    facts = dataclasses.replace(setup.facts, class_names=setup.facts.class_names[::-1])
    return dataclasses.replace(setup, facts=facts), dataset
