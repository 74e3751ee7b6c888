"""A label of -1 is an unknown class: no index of a table, and equal to nothing (faults A7)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.streamed_rows import class_table_rows
from xsample_jax.data.dataset import check_class_names, check_side_information
from xsample_jax.errors import DataError
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.learned_state import GATE_CLASSES, gate_of, init_objective_parameters, second_classes
from xsample_jax.objectives.negatives import NEGATIVES
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.step import init_online_probe, train_online_probe

LABEL = jnp.asarray([2, -1, 0, -1, 2, 1])
SIMLAP = PRESETS["simlap"].objective


def test_no_class_of_the_gate_learns_from_images_without_a_label():
    """faults A7: -1 trained the gate of the last class."""
    params = init_objective_parameters(SIMLAP, 8, 3, 0)
    of_known, unknown = jnp.asarray([0, 1]), jnp.asarray([-1, -1])

    def total(params, first, second):
        return jnp.sum(gate_of(params, first, second) ** 2)

    for first, second in ((unknown, unknown), (of_known, unknown), (unknown, of_known)):
        np.testing.assert_array_equal(gate_of(params, first, second), 1.0)
        gradient = jax.grad(total)(params, first, second)
        assert all(not np.asarray(x).any() for x in gradient.values())
    assert np.asarray(jax.grad(total)(params, of_known, of_known[::-1])[GATE_CLASSES])[:2].any(axis=1).all()


def test_the_second_class_is_that_of_another_image_whatever_their_order():
    """faults A7: an image without a class is compared in no second one; the order of the images does not matter."""
    image, key = jnp.asarray([5, 9, 2, 7, 1, 3]), jax.random.key(4)
    second = np.asarray(second_classes(key, image, LABEL))
    assert (second[np.asarray(LABEL) < 0] == -1).all()
    assert (np.sort(second) >= -1).all()
    order = np.array([4, 0, 5, 2, 1, 3])
    np.testing.assert_array_equal(second_classes(key, image[order], LABEL[order]), second[order])
    assert not np.array_equal(second_classes(jax.random.key(5), image, jnp.arange(6)), np.arange(6))


@pytest.mark.parametrize("name", ["label", "other_label", "second_label"])
def test_graphs_of_labels_say_nothing_about_unknown_ones(name):
    """faults A7"""
    u = {"id": jnp.arange(6), "label": LABEL, "second_label": LABEL}
    graph = np.asarray(SOURCES[name](u, u)) * ~np.eye(6, dtype=bool)
    unknown = np.asarray(LABEL) < 0
    assert not graph[unknown].any()
    assert not graph[:, unknown].any()
    assert graph.any()


@pytest.mark.parametrize("name", ["same_label", "neither_label", "same_group", "same_owner", "clusters_apart"])
def test_negatives_of_unknown_groups_are_none(name):
    """faults A7"""
    u = {name: LABEL for name in ("id", "label", "group", "owner")}
    u |= {"second_label": jnp.roll(LABEL, 1), "cluster": LABEL[:, None]}
    weight = NEGATIVES[name](jnp.zeros((6, 6)), jnp.zeros((6, 6)), jnp.ones((6, 6), bool), u, u)
    assert not np.asarray(weight)[:, np.asarray(LABEL) < 0].any()
    assert np.asarray(weight).any()


@pytest.mark.parametrize("normalizer", ["softmax", "row_sum"])
def test_the_class_table_leaves_unknown_images_out(normalizer):
    """faults A7: the row of the last class is no row of an unknown one; its value does not depend on its table."""
    rng = np.random.default_rng(0)
    z = unit_rows(jnp.asarray(rng.normal(size=(12, 5)), jnp.float32))
    table = jnp.asarray(np.abs(rng.normal(size=(3, 3))))
    table = table + table.T

    def loss(z, table):
        rows = class_table_rows(
            z, LABEL, table, normalizer=normalizer, temperature=0.2, target_temperature=0.5, views=2
        )
        return jnp.sum(rows["loss"]), rows["counted"]

    (_, counted), slope = jax.value_and_grad(loss, has_aux=True)(z, table)
    np.testing.assert_array_equal(counted, np.repeat(np.asarray(LABEL) >= 0, 2))
    assert np.isfinite(slope).all()
    # A class that no image has changes nothing, also as the last one.
    wider = jnp.pad(table, ((0, 1), (0, 1)), constant_values=9.0)
    np.testing.assert_allclose(loss(z, wider)[0], loss(z, table)[0], rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda z: loss(z, wider)[0])(z), slope, atol=1e-5)


def test_the_online_probe_does_not_learn_from_unknown_labels():
    """faults A7"""
    features = jnp.asarray(np.random.default_rng(1).normal(size=(4, 5)), jnp.float32)
    new, accuracy = train_online_probe(init_online_probe(5, 3), features, jnp.asarray([-1, -1, -1, -1]))
    assert accuracy == 0
    assert not any(np.asarray(x).any() for x in new.values())


class Unnamed:
    """Labels without class names."""

    class manifest:
        class_names, text_encoder = (), None

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {"label": 3, "captions": [], "attributes": {}}


def test_labels_without_class_names_are_an_error_before_training():
    """faults A7: xclr_class_text ended in an IndexError, simlap in a TypeError."""
    with pytest.raises(DataError, match="batch entry class_embedding"):
        check_side_information(PRESETS["xclr_class_text"].objective.requires, Unnamed())
    for preset in ("xclr_class_text", "simlap"):
        with pytest.raises(DataError, match="class names of the dataset"):
            check_class_names(PRESETS[preset].objective, Unnamed())
    check_class_names(PRESETS["supcon"].objective, Unnamed())
