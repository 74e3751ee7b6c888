"""MIT-States: names of folders to labels, the halves, and both probes on planted colors."""

import types

import numpy as np
import pytest

from tests.evals.color_world import ColorStore, image
from xsample_jax.errors import DataError
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.metrics import Collector
from xsample_jax.evals.robustness import MIT_STATES, halves, listed

# An attribute-object pair is a color: the probes can be right.
PAIRS = {"ancient building": 0, "ancient clock": 6, "broken clock": 11, "broken banana": 47, "ripe banana": 151}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    for pair, color in PAIRS.items():
        for number in range(9):
            image(folder / "release_dataset" / "images" / pair / f"{number}.jpg", color)
    image(folder / "release_dataset" / "images" / "adj banana" / "0.jpg", 300)
    return folder


def test_folders_are_attribute_and_object(root):
    paths, labels, names = listed(root / "release_dataset" / "images")
    assert len(paths) == 45  # without "adj banana"
    assert names == {"objects": ["banana", "building", "clock"], "attributes": ["ancient", "broken", "ripe"]}
    for path, thing, attribute in zip(paths, labels["objects"], labels["attributes"], strict=True):
        assert path.parent.name == f"{names['attributes'][attribute]} {names['objects'][thing]}"


def test_halves_are_equal_disjoint_and_always_the_same():
    first, second = halves(101)
    assert (len(first), len(second)) == (51, 50)
    assert sorted([*first, *second]) == list(range(101))
    np.testing.assert_array_equal(first, halves(101)[0])
    assert not np.array_equal(first, np.arange(51))
    assert not np.array_equal(first, halves(101, seed=1)[0])


def test_objects_and_attributes_by_a_linear_layer(root):
    config = types.SimpleNamespace(eval=types.SimpleNamespace(split="val", train_split="train"))
    bench, out = EvalContext(ColorStore(), config, Options(sets=root)), Collector()
    assert list(MIT_STATES.check(bench)) == []
    MIT_STATES.run(bench, out)
    assert out.metrics == {"mit_states/objects": 1.0, "mit_states/attributes": 1.0}
    assert len(out.examples["mit_states/objects"].values) == 22
    assert any("3 objects are here, the official set has 245" in note for note in out.notes)


def test_a_set_that_is_not_there_and_an_odd_folder_are_named(tmp_path):
    (problem,) = MIT_STATES.check(EvalContext(None, None, Options(sets=tmp_path)))
    assert "Get MIT-States from http" in str(problem)
    (tmp_path / "images" / "building").mkdir(parents=True)
    with pytest.raises(DataError, match="an attribute, a space and an object"):
        listed(tmp_path / "images")


def evaluated(root):
    config = types.SimpleNamespace(eval=types.SimpleNamespace(split="val", train_split="train"))
    out = Collector()
    MIT_STATES.run(EvalContext(ColorStore(), config, Options(sets=root)), out)
    return out


def test_a_set_with_no_images_to_learn_from_is_said(tmp_path):
    """faults B11: "need at least one array to concatenate"."""
    (tmp_path / "release_dataset" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=r"= 0: expected at least two"):
        evaluated(tmp_path)
    image(tmp_path / "release_dataset" / "images" / "adj banana" / "0.jpg", 0)
    with pytest.raises(DataError, match=r"= 0: expected at least two"):
        evaluated(tmp_path)


def test_a_class_without_a_training_image_is_no_guess(tmp_path):
    """Chance was 1.0: that of always naming a class that the probe has never seen."""
    for pair, color in (("ripe banana", 0), ("raw clock", 6)):
        image(tmp_path / "release_dataset" / "images" / pair / "0.jpg", color)
    out = evaluated(tmp_path)
    assert out.metrics == {"mit_states/objects": 0.0, "mit_states/attributes": 0.0}
    assert {name: fact.chance for name, fact in out.facts.items()} == dict.fromkeys(out.metrics, 0.0)
