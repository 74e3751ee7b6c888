"""Presets that read what data.side gives of every record, against plain numpy loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, LABELS, Z1, Z2, Z3, preset_value, two_views
from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.blocks import VIEW_0, VIEW_1, image_block
from xsample_jax.objectives.from_config import find_problems
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.terms import Term

RNG = np.random.default_rng(3)
TARGET = RNG.normal(size=(12, 2))
SETS = RNG.integers(0, 2, (12, 4))
SETS[5] = 0  # an image without any label has its own views alone


def soft_cross_entropy(similarity, tau=0.1):
    """Mean over all views i of -sum over k != i of T_ik log p_ik, T_ik = similarity(image of i, of k) / row sum."""
    z = np.stack([Z1, Z2], axis=1).reshape(24, -1)
    total = 0.0
    for i in range(24):
        keys = [k for k in range(24) if k != i]
        weights = np.array([similarity(i // 2, k // 2) for k in keys])
        logits = np.array([z[i] @ z[k] / tau for k in keys])
        total -= weights @ (logits - np.log(np.exp(logits).sum())) / weights.sum() / 24
    return total


def test_y_aware_weighs_keys_by_a_gaussian_of_the_targets():
    expected = soft_cross_entropy(lambda i, k: np.exp(-((TARGET[i] - TARGET[k]) ** 2).sum() / 2))
    assert float(preset_value("y_aware", two_views(target=TARGET))) == pytest.approx(expected, rel=1e-5)


def test_multi_label_weighs_keys_by_the_jaccard_index():
    def jaccard(i, k):
        either, both = np.sum(SETS[i] | SETS[k]), np.sum(SETS[i] & SETS[k])
        return 1.0 if i == k else both / either if either else 0.0

    expected = soft_cross_entropy(jaccard)
    assert float(preset_value("multi_label", two_views(labels=SETS))) == pytest.approx(expected, rel=1e-5)


def test_what_does_not_tell_images_apart_is_a_known_objective():
    """One target for all: every other row alike. Labels of one class each: SupCon. No label: SimCLR."""
    uniform = soft_cross_entropy(lambda i, k: 1.0)
    assert float(preset_value("y_aware", two_views(target=np.zeros((12, 1))))) == pytest.approx(uniform, rel=1e-5)
    classes = np.arange(12) % 3
    one_hot = preset_value("multi_label", two_views(labels=np.eye(3, dtype=int)[classes]))
    assert float(one_hot) == pytest.approx(float(preset_value("supcon", two_views(label=classes))), rel=1e-6)
    none = preset_value("multi_label", two_views(labels=np.zeros((12, 3), int)))
    assert float(none) == pytest.approx(float(preset_value("simclr", two_views())), rel=1e-6)


def test_clusters_that_tell_all_images_apart_are_dcl():
    """N_ik = M on other images: MEOW's first term is DCL + log M (and no pair is in it where all share a cluster)."""
    apart = preset_value("cluster_dcl", two_views(cluster=np.stack([np.arange(12)] * 3, axis=1)))
    logits = Z1 @ Z2.T / 0.4
    others = np.where(np.eye(12), 0, np.exp(logits)).sum(axis=1)
    assert float(apart) == pytest.approx(np.mean(np.log(3 * others) - np.diag(logits)), rel=1e-5)
    together = preset_value("cluster_dcl", two_views(cluster=np.zeros((12, 3), int)))
    assert float(together) == pytest.approx(-np.mean(np.diag(logits)), rel=1e-5)


def test_subclasses_that_are_the_classes_are_supcon():
    classes, ones = np.arange(12) % 3, np.ones(12)
    of = {"label": classes, "cluster": classes[:, None]}
    supcon = float(preset_value("supcon", two_views(label=classes)))
    assert float(preset_value("sbcl", two_views(class_temperature=ones, **of))) == pytest.approx(
        1.25 * supcon, rel=1e-6
    )
    unknown = {"label": classes, "cluster": np.full((12, 1), -1), "class_temperature": ones}
    expected = float(preset_value("simclr", two_views())) + 0.25 * supcon
    assert float(preset_value("sbcl", two_views(**unknown))) == pytest.approx(expected, rel=1e-6)


def test_the_temperature_of_a_class_is_that_of_its_anchors():
    """The second term in loops, where every class has another temperature."""
    classes, factor = np.arange(12) % 3, np.array([0.5, 1.0, 2.0])
    blocks = two_views(label=classes, cluster=np.arange(12)[:, None], class_temperature=factor[classes])
    z, total = np.stack([Z1, Z2], axis=1).reshape(24, -1), 0.0
    for i in range(24):
        keys = [k for k in range(24) if k != i]
        logits = np.array([z[i] @ z[k] for k in keys]) / (0.1 * factor[classes[i // 2]])
        positive = np.array([classes[i // 2] == classes[k // 2] for k in keys])
        total += (np.log(np.exp(logits).sum()) - logits[positive].mean()) / 24
    expected = float(preset_value("simclr", two_views())) + 0.25 * total
    assert float(preset_value("sbcl", blocks)) == pytest.approx(expected, rel=1e-5)


def test_rows_that_are_drawn_more_often_weigh_less():
    weights = np.linspace(0.5, 2, 12)
    z, rows = np.stack([Z1, Z2], axis=1).reshape(24, -1), []
    for i in range(24):
        keys = [k for k in range(24) if k != i]
        rows.append(np.log(np.exp([z[i] @ z[k] / 0.1 for k in keys]).sum()) - z[i] @ z[i ^ 1] / 0.1)
    value = float(preset_value("weighted_draws", two_views(weight=weights)))
    assert value == pytest.approx(np.mean(np.array(rows) / np.repeat(weights, 2)), rel=1e-5)
    term = Term(Graph("identity", "none"), merge_views=True, aggregate="in", row_weight="recorded")
    (problem,) = find_problems(Objective((term,), 0.1))
    assert problem.field == "objective.terms[0].row_weight"


def test_batches_of_one_pseudo_label_have_the_gradient_of_the_published_loss():
    """CLIP whose negatives are of one group, as a batch of that group has them (MCL)."""
    case = CASES["MCL: batches of one pseudo-label"]
    ends = ((VIEW_0, VIEW_1), (VIEW_1, VIEW_0))
    terms = tuple(Term(anchors=x, keys=y, negatives="same_group", weight=0.5) for x, y in ends)

    def loss(z):
        rows = jnp.stack([z, jnp.asarray(Z3, jnp.float32)], axis=1).reshape(24, -1)
        block = image_block(rows, {"id": jnp.arange(12), "group": jnp.asarray(LABELS)}, 2)
        return objective_loss(Objective(terms, 0.2), {"image": block}, 12, 0.2)[0]

    value, slope = jax.jit(jax.value_and_grad(loss))(jnp.asarray(Z1, jnp.float32))
    assert float(value) == pytest.approx(case["expected"], rel=1e-5)
    assert np.linalg.norm(slope) == pytest.approx(case["also"]["gradient_norm_z1"], rel=1e-5)
