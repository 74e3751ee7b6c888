"""Presets that no published number is known of, in loops in float64: SCE, HCL, DEXML, MoCHi, KaLM-Embedding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import LABELS, QUEUE, Z1, Z2, Z3, images, preset_value, queue, two_views
from xsample_jax.objectives.blocks import other_view
from xsample_jax.objectives.mixers import MIXERS
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import StepValues

ROWS = np.stack([Z1, Z2], axis=1).reshape(24, -1)  # row = image * 2 + view
TEACHER = np.stack([Z3, Z2], axis=1)


def with_queue():
    """Two views, their keys by an EMA encoder, and a queue."""
    teacher = jnp.float32(TEACHER.reshape(24, -1))
    return {
        "image": images(Z1, Z2) | {"teacher": other_view(teacher, 2)},
        "teacher": images(Z3, Z2, first_row=90) | {"teacher": teacher},
        "queue": queue(teacher=jnp.float32(QUEUE)),
    }


def test_sce_has_half_of_its_target_on_the_own_key_and_half_on_the_queue():
    rows = []
    for view in (0, 1):
        for i in range(12):
            x, key = ROWS[2 * i + view], TEACHER[i, 1 - view]
            logits = np.concatenate([[x @ key], QUEUE @ x]) / 0.1
            target = np.exp(QUEUE @ key / 0.05)
            target = np.concatenate([[0.5], 0.5 * target / target.sum()])
            rows.append(-np.sum(target * (logits - np.log(np.exp(logits).sum()))))
    assert float(preset_value("sce", with_queue())) == pytest.approx(np.mean(rows), rel=1e-5)


@pytest.mark.parametrize("tau_plus", [0.1, 0.3])
def test_hcl_weighs_near_negatives_and_takes_off_those_of_the_anchors_class(tau_plus):
    """The equation of the paper; at 0.3 some anchors reach the bound below, which no negative's cosine passes."""
    rows, bounded = [], 0
    for i in range(24):
        near = np.exp(ROWS @ ROWS[i] / 0.5)
        own = near[i ^ 1]
        others = np.array([near[k] for k in range(24) if k not in (i, i ^ 1)])
        weighed = np.sum(others * others) / np.mean(others)  # weights e^(s / tau) of mean 1
        corrected, least = (weighed - tau_plus * 22 * own) / (1 - tau_plus), 22 * np.exp(-1 / 0.5)
        bounded += corrected < least
        rows.append(-np.log(own / (own + max(corrected, least))))
    (term,) = PRESETS["hcl"].objective.terms
    term = dataclasses.replace(term, denominator={"name": "debiased", "tau_plus": tau_plus})
    changes = {} if tau_plus == 0.1 else {"terms": (term,)}
    assert float(preset_value("hcl", two_views(), **changes)) == pytest.approx(np.mean(rows), rel=1e-5)
    assert (bounded > 0) == (tau_plus == 0.3)


def test_dexml_lets_positives_not_compete_or_asks_them_among_the_k_best():
    decoupled, best = [], []
    label = np.repeat(LABELS, 2)
    for i in range(24):
        s = ROWS @ ROWS[i]
        positive = [k for k in range(24) if k != i and label[k] == label[i]]
        near = np.exp(s / 0.1)
        pushed = sum(near[k] for k in range(24) if label[k] != label[i])
        decoupled.append(np.mean([-np.log(near[k] / (near[k] + pushed)) for k in positive]))
        others, low, high = np.array([s[k] / 0.05 for k in range(24) if k != i]), -99.0, 99.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if np.sum(1 / (1 + np.exp(-others - middle))) < len(positive) else (low, middle)
        best.append(np.mean([np.log1p(np.exp(-s[k] / 0.05 - low)) for k in positive]))
    for preset, rows in (("decoupled_softmax", decoupled), ("soft_top_k", best)):
        assert float(preset_value(preset, two_views())) == pytest.approx(np.mean(rows), rel=2e-5), preset


def with_mixtures(preset, blocks, monkeypatch):
    """(the loss of a preset, what its mixer made for each of its terms)."""
    (name,) = {term.mixer["name"] for term in PRESETS[preset].objective.terms}
    slot, made = MIXERS[name], []

    @functools.wraps(slot.function)
    def recorded(given, **options):
        made.append(slot.function(given, **options))
        return made[-1]

    monkeypatch.setitem(MIXERS, name, dataclasses.replace(slot, function=recorded))
    objective = PRESETS[preset].objective
    at = StepValues(0.0, 0.0, jax.random.key(4))
    return float(objective_loss(objective, blocks, 12, objective.temperature, at)[0]), made


def test_mochi_and_kalm_have_their_mixtures_as_further_negatives(monkeypatch):
    value, made = with_mixtures("mochi", with_queue(), monkeypatch)
    rows = []
    for view, mixtures in enumerate(made):
        for i in range(12):
            x, key = ROWS[2 * i + view], TEACHER[i, 1 - view]
            logits = np.concatenate([[x @ key], QUEUE @ x, np.float64(mixtures.rows[i]) @ x]) / 0.2
            rows.append(np.log(np.exp(logits).sum()) - logits[0])
    assert made[0].rows.shape[1] == 128 + 64
    assert value == pytest.approx(np.mean(rows), rel=1e-5)

    value, (mixtures,) = with_mixtures("kalm", two_views(), monkeypatch)
    rows = []
    for i in range(24):
        others = [k for k in range(24) if k != i]
        near = np.concatenate([ROWS[others] @ ROWS[i], np.float64(mixtures.rows[i]) @ ROWS[i]]) / 0.05
        log_p = ROWS[i ^ 1] @ ROWS[i] / 0.05 - np.log(np.exp(near).sum())
        rows.append(-((1 - np.exp(log_p)) ** 0.5) * log_p)
    assert mixtures.rows.shape[1] == 4 + 1
    assert value == pytest.approx(np.mean(rows), rel=1e-5)
