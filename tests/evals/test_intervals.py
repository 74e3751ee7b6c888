"""The bootstrap over concepts: coverage, pairing, seeds, and its file."""

import numpy as np
import pytest

from xsample_jax.errors import DataError
from xsample_jax.evals import metrics as intervals
from xsample_jax.evals.metrics import (
    Collector,
    Scores,
    bootstrap,
    difference_of_means,
    load_examples,
    paired_difference,
    save_examples,
)


def draw(rng, concepts=60, per_concept=5, shift=0.0):
    """Images of a concept share most of their fate; true mean 0.5 + shift."""
    level = rng.beta(1, 1, concepts)
    names = np.repeat(np.arange(concepts), per_concept)
    return Scores((rng.random(len(names)) < np.clip(level[names] + shift, 0, 1)).astype(np.float32), names)


def test_interval_covers_the_truth_nineteen_times_in_twenty():
    rng = np.random.default_rng(0)
    hits, image_hits, trials = 0, 0, 300
    for _ in range(trials):
        scores = draw(rng)
        interval = bootstrap([scores], resamples=400)
        hits += interval.low <= 0.5 <= interval.high
        alone = bootstrap([Scores(scores.values, np.arange(len(scores.values)))], resamples=400)
        image_hits += alone.low <= 0.5 <= alone.high
    assert 0.90 <= hits / trials <= 0.98
    assert image_hits / trials < 0.85  # Resampling images instead is too sure of itself.


def test_interval_matches_the_standard_error_of_concept_means():
    scores = draw(np.random.default_rng(1), concepts=400)
    interval = bootstrap([scores])
    means = scores.values.reshape(400, 5).mean(axis=1)
    width = 1.96 * means.std(ddof=1) / 20
    assert interval.mean == pytest.approx(means.mean(), abs=1e-6)
    assert interval.high - interval.low == pytest.approx(2 * width, rel=0.08)


def test_many_concepts_are_resampled_in_groups_with_the_same_interval(monkeypatch):
    scores = draw(np.random.default_rng(3), concepts=3000, per_concept=2)
    other = Scores(np.roll(scores.values, 2), scores.concepts)
    whole, difference = bootstrap([scores]), paired_difference([scores], [other])
    monkeypatch.setattr(intervals, "MOST_UNITS", 500)
    grouped = bootstrap([scores])
    assert grouped.mean == whole.mean
    assert grouped.high - grouped.low == pytest.approx(whole.high - whole.low, rel=0.12)
    again = paired_difference([scores], [other])
    assert again.high - again.low == pytest.approx(difference.high - difference.low, rel=0.12)


def test_difference_of_unpaired_samples_has_the_textbook_interval():
    rng = np.random.default_rng(4)
    first, second = (rng.random(800) < 0.7).astype(float), (rng.random(300) < 0.4).astype(float)
    values = difference_of_means(first, second)
    assert values.mean() == pytest.approx(first.mean() - second.mean())
    interval = bootstrap([Scores(values, np.arange(1100))])
    width = 3.92 * np.sqrt(first.var() / 800 + second.var() / 300)
    assert interval.high - interval.low == pytest.approx(width, rel=0.08)


def test_pairing_removes_what_both_runs_share():
    rng = np.random.default_rng(2)
    a = draw(rng)
    flip = rng.random(len(a.values)) < 0.15
    b = Scores(np.where(flip, 0, a.values).astype(np.float32), a.concepts)
    difference = paired_difference([a], [b])
    assert difference.mean == pytest.approx(a.mean() - b.mean())
    assert difference.excludes_zero
    assert difference.low > 0
    assert difference.high - difference.low < 0.5 * (bootstrap([a]).high - bootstrap([a]).low)
    same = paired_difference([a], [a])
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert not same.excludes_zero


@pytest.mark.parametrize("concepts", [1, 2, 4, 9])
def test_few_concepts_do_not_make_an_interval_too_narrow(concepts):
    """faults D: with an attribute as the target, labels were resampled: one label gave an interval of no width."""
    rng, hits, trials, names = np.random.default_rng(5), 0, 200, np.arange(200) % concepts
    for _ in range(trials):
        interval = bootstrap([Scores((rng.random(200) < 0.7).astype(np.float32), names)], resamples=400)
        hits += interval.low <= 0.7 <= interval.high
    assert 0.90 <= hits / trials <= 0.99
    first, second = ((rng.random(200) < 0.5).astype(np.float32) for _ in range(2))
    difference = paired_difference([Scores(first, names)], [Scores(second, names)])
    images = paired_difference([Scores(first, np.arange(200))], [Scores(second, np.arange(200))])
    assert difference == images
    out = Collector()
    out.add_per_example("few", first, names)
    out.add_per_example("many", first, np.arange(200))
    (note,) = out.result().notes
    assert "fewer than 10 concepts" in note


def test_a_single_image_has_no_interval():
    one = Scores(np.ones(1, np.float32), np.zeros(1, int))
    out = Collector()
    out.add_per_example("one", one.values, one.concepts)
    assert out.result().interval("one") is None
    assert np.isnan(bootstrap([one]).low)
    assert not paired_difference([one], [Scores(np.zeros(1, np.float32), np.zeros(1, int))]).excludes_zero


def test_examples_may_come_in_another_order_but_not_of_other_concepts():
    a = draw(np.random.default_rng(3))
    back = Scores(a.values[::-1], a.concepts[::-1])
    assert paired_difference([a], [back]).high == pytest.approx(0, abs=1e-7)
    with pytest.raises(DataError, match="same concepts"):
        paired_difference([a], [Scores(a.values, a.concepts + 1)])
    with pytest.raises(DataError, match="at least one example"):
        bootstrap([Scores(np.zeros(0), np.zeros(0, int))])


def test_seeds_add_their_own_spread():
    base = draw(np.random.default_rng(4))
    shifted = [Scores(base.values + s, base.concepts) for s in (-0.3, 0.0, 0.3)]
    one, three = bootstrap([base]), bootstrap(shifted)
    assert three.mean == pytest.approx(one.mean)
    assert three.high - three.low > 1.5 * (one.high - one.low)
    assert bootstrap([base] * 3).high == pytest.approx(one.high, abs=1e-6)


def test_file_round_trip(tmp_path):
    examples = {"group/knn": draw(np.random.default_rng(5)), "style/openmoji/group/knn": draw(np.random.default_rng(6))}
    save_examples(tmp_path / "evaluation.npz", examples)
    again = load_examples(tmp_path / "evaluation.npz")
    assert list(again) == list(examples)
    for name, scores in examples.items():
        np.testing.assert_array_equal(again[name].values, scores.values)
        np.testing.assert_array_equal(again[name].concepts, scores.concepts)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.npz"]
