"""Presets that read what data.side gives of every record, against plain numpy loops in float64."""

import numpy as np
import pytest

from tests.objectives.test_goldens import Z1, Z2, preset_value, two_views

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
