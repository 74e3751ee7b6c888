"""Geometry and retrieval against loops and scipy."""

import itertools
import json
import pathlib

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from xsample_jax.config import default_config
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.features import Features
from xsample_jax.evals.geometry import (
    add_caption_correlation,
    add_gap,
    add_geometry,
    alignment,
    caption_correlation,
    centroid_cosine,
    cross_uniformity,
    effective_rank,
    geometry,
    isotropy,
    modality_gap,
    separability,
    singular_above_one,
    uniformity,
)
from xsample_jax.evals.metrics import Collector, Scores, bootstrap, ranks


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_alignment_and_uniformity_are_their_definitions(rng):
    z, concepts = rng.normal(size=(30, 5)), rng.integers(0, 8, 30)
    u = unit(z)
    pairs = list(itertools.combinations(range(30), 2))
    same = [np.sum((u[i] - u[j]) ** 2) for i, j in pairs if concepts[i] == concepts[j]]
    values, rows = alignment(z, concepts)
    assert values.mean() == pytest.approx(np.mean(same), rel=1e-5)
    assert set(concepts[rows]) == {c for c in concepts if np.sum(concepts == c) > 1}
    everyone = [np.exp(-2 * np.sum((u[i] - u[j]) ** 2)) for i, j in pairs]
    values, rows = uniformity(z)
    assert values.mean() == pytest.approx(np.log(np.mean(everyone)), rel=1e-5)
    assert sorted(rows) == list(range(30))
    assert not len(alignment(z, np.arange(30))[0])


@pytest.mark.parametrize("zeros", [1, 5, 20, 39, 40])
def test_rows_of_zeros_are_at_the_origin_and_have_no_direction(rng, zeros):
    """faults D: the formulas for rows of length one were used where unit_rows leaves zeros."""
    z, y, concepts = rng.normal(size=(40, 6)), rng.normal(size=(40, 6)), rng.integers(0, 6, 40)
    z[:zeros], y[::7] = 0, 0
    u, v = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in (z, y))
    pairs = list(itertools.combinations(range(40), 2))
    apart = {(i, k): np.sum((u[i] - u[k]) ** 2) for i, k in pairs}
    same = np.mean([apart[pair] for pair in pairs if concepts[pair[0]] == concepts[pair[1]]])
    assert alignment(z, concepts)[0].mean() == pytest.approx(same, rel=1e-5, abs=1e-7)
    expected = np.log(np.mean([np.exp(-2 * of) for of in apart.values()]))
    assert uniformity(z)[0].mean() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    kernel = [np.exp(-2 * np.sum((u[i] - v[k]) ** 2)) for i, k in itertools.permutations(range(40), 2)]
    assert cross_uniformity(z, y).mean() == pytest.approx(np.log(np.mean(kernel)), rel=1e-5)
    out = Collector()
    add_geometry(out, Features(z, z, np.arange(40), concepts), concepts, np.arange(40), concepts)
    cosines = {(i, k): u[i] @ u[k] for i, k in pairs if i >= zeros}
    assert ("geometry/isotropy" in out.metrics) == bool(cosines)
    if cosines:
        assert out.metrics["geometry/isotropy"] == pytest.approx(1 - np.mean(list(cosines.values())), rel=1e-5)
        np.testing.assert_array_equal(isotropy(z)[1], np.arange(zeros, 40))
    within = [cosine for (i, k), cosine in cosines.items() if concepts[i] == concepts[k]]
    if within:
        assert out.metrics["geometry/tolerance"] == pytest.approx(np.mean(within), rel=1e-5, abs=1e-6)
    assert any(f"{zeros} of 40 rows are zero" in note for note in out.notes)


def test_uniformity_looks_at_a_bounded_number_of_rows(rng):
    z = rng.normal(size=(500, 3))
    values, rows = uniformity(z, rows=200)
    assert len(set(rows.tolist())) == len(values) == 200
    assert values.mean() == pytest.approx(uniformity(z[rows])[0].mean())


def test_interval_of_alignment_and_uniformity_is_that_of_recomputing(rng):
    z, concepts = rng.normal(size=(240, 4)), np.repeat(np.arange(80), 3)
    for measure in (lambda x, c: alignment(x, c), lambda x, c: uniformity(x)):
        values, rows = measure(z, concepts)
        interval = bootstrap([Scores(values, concepts[rows])])
        drawn = []
        for _ in range(150):
            chosen = rng.permutation(80)[:40]  # half of the concepts without return: the same spread, no twins
            keep = np.isin(concepts, chosen)
            drawn.append(measure(z[keep], concepts[keep])[0].mean())
        assert interval.high - interval.low == pytest.approx(3.92 * np.std(drawn), rel=0.25)


def test_modality_gap_is_the_distance_of_the_means(rng):
    images, texts = rng.normal(size=(50, 6)) + 0.4, rng.normal(size=(50, 6))
    expected = np.linalg.norm(unit(images).mean(0) - unit(texts).mean(0))
    assert modality_gap(images, texts).mean() == pytest.approx(expected, rel=1e-6)


def test_the_gap_is_the_published_one():
    """Golden: abrar-fahim/contrastive-gap, transcribed."""
    here = pathlib.Path(__file__).parent
    cases = json.loads((here / "goldens.json").read_text())["cases"]
    case = next(case for case in cases if case["name"].startswith("contrastive gap metrics"))
    common = json.loads((here.parent / "objectives" / "goldens.json").read_text())["common"]
    images, texts = np.asarray(common["z1"]), np.asarray(common["z3"])
    assert modality_gap(images, texts).mean() == pytest.approx(case["expected"], rel=1e-5)
    assert centroid_cosine(images, texts).mean() == pytest.approx(case["also"]["centroid_cosine"], rel=1e-5)
    assert singular_above_one(images) == case["also"]["singular_above_1"]


def test_pairs_of_the_gap_are_their_definitions(rng):
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 5))
    u, v = unit(x), unit(y)
    kernel = [np.exp(-2 * np.sum((u[i] - v[k]) ** 2)) for i, k in itertools.permutations(range(30), 2)]
    assert cross_uniformity(x, y).mean() == pytest.approx(np.log(np.mean(kernel)), rel=1e-6)
    cosines = [u[i] @ u[k] for i, k in itertools.combinations(range(30), 2)]
    assert isotropy(x)[0].mean() == pytest.approx(1 - np.mean(cosines), rel=1e-6)
    assert isotropy(np.tile([3.0, 4.0], (9, 1)))[0].mean() == pytest.approx(0, abs=1e-6)
    assert isotropy(np.concatenate([np.eye(4), -np.eye(4)]))[0].mean() == pytest.approx(1 + 1 / 7)


def test_the_interval_of_the_gap_is_that_of_recomputing(rng):
    x, y = rng.normal(size=(400, 4)) + [0.6, 0, 0.3, 0], rng.normal(size=(400, 4)) + [0, 0.8, 0.2, 0]
    measures = (centroid_cosine, cross_uniformity, lambda a, b: isotropy(a)[0])
    for measure in measures:
        interval = bootstrap([Scores(measure(x, y), np.arange(400))])
        halves = [rng.permutation(400)[:200] for _ in range(150)]  # half without return: the same spread
        drawn = [measure(x[half], y[half]).mean() for half in halves]
        assert interval.high - interval.low == pytest.approx(3.92 * np.std(drawn), rel=0.25)


def test_modalities_that_are_one_cannot_be_told_apart_and_shifted_ones_can(rng):
    x = rng.normal(size=(200, 6)) + [0, 3, 0, 0, 0, 0]
    apart = x + [9, 0, 0, 0, 0, 0]
    for texts, expected in ((x, 0.5), (apart, 1.0)):
        out = Collector()
        add_gap(out, x, texts, np.arange(200), np.arange(200))
        assert out.metrics["gap/separability"] == pytest.approx(expected, abs=0.02)
        assert out.facts["gap/separability"].n == 40  # held out
        assert (out.metrics["gap/pair_alignment"] == 0) == (texts is x)
        assert (out.metrics["gap/centroid_cosine"] > 0.9999) == (texts is x)
    # An independent draw of one distribution: at chance within what 80 answers can say.
    right, rows = separability(x, rng.normal(size=(200, 6)) + [0, 3, 0, 0, 0, 0], np.arange(200) // 4)
    assert abs(right.mean() - 0.5) < 0.2
    assert len(np.unique(rows // 4)) == 10  # whole captions
    out = Collector()
    add_gap(out, x, np.tile(apart[:1], (200, 1)), np.zeros(200, int), np.arange(200))
    assert "gap/separability" not in out.metrics
    assert "single caption" in out.notes[0]


def test_effective_rank(rng):
    basis = np.linalg.qr(rng.normal(size=(400, 6)))[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]  # orthonormal and centered
    assert effective_rank(basis @ rng.normal(size=(6, 1))) == pytest.approx(1, abs=1e-4)
    assert effective_rank(np.pad(basis, ((0, 0), (0, 4))) + 3) == pytest.approx(6, rel=1e-4)
    singular = np.linalg.svd(basis * [1, 2, 3, 4, 5, 6], compute_uv=False)
    share = singular / singular.sum()
    expected = np.exp(-np.sum(share * np.log(share)))
    assert effective_rank(basis * [1, 2, 3, 4, 5, 6]) == pytest.approx(expected, rel=1e-4)


def test_ranks_share_ties(rng):
    values = rng.integers(0, 20, 100)
    np.testing.assert_array_equal(ranks(values), rankdata(values))


def test_caption_correlation_is_scipys_spearman_of_concept_means(rng):
    concepts = np.repeat(np.arange(40), 3)
    truth = rng.normal(size=(40, 6))
    features = truth[concepts] + 0.7 * rng.normal(size=(120, 6))
    captions = truth[concepts] @ rng.normal(size=(6, 9)) + 0.2
    rho, contributions, names = caption_correlation(features, captions, concepts)

    def spearman(keep):
        image, text = [], []
        mean = {c: unit(unit(features[concepts == c]).mean(0)) for c in keep}
        words = {c: unit(captions[concepts == c][0]) for c in keep}
        for a, b in itertools.combinations(keep, 2):
            image.append(mean[a] @ mean[b])
            text.append(words[a] @ words[b])
        return spearmanr(image, text).statistic

    assert rho == pytest.approx(spearman(range(40)), abs=2e-4)
    assert contributions.mean() == pytest.approx(rho)
    np.testing.assert_array_equal(names, np.arange(40))
    # The jackknife with fixed ranks stays close to the one that ranks again for every concept left out.
    exact = np.array([40 * rho - 39 * spearman([c for c in range(40) if c != out]) for out in range(40)])
    assert np.corrcoef(exact, contributions)[0, 1] > 0.98
    assert contributions.std() == pytest.approx(exact.std(), rel=0.1)


def test_captions_that_cannot_be_ranked_add_nothing(rng):
    def added(captions, concepts=None):
        count, out = len(captions), Collector()
        rows = Features(rng.normal(size=(count, 4)), None, np.arange(count), np.zeros(count, int),
                        caption_embedding=captions)  # fmt: skip
        add_caption_correlation(out, rows, concepts)
        return out.metrics

    captions = rng.normal(size=(12, 5))
    assert np.isfinite(added(captions)["spearman/captions"])
    captions[:3] = 0  # images without a caption
    assert np.isfinite(added(captions)["spearman/captions"])
    assert added(captions[:6]) == {}  # three captions
    assert added(np.ones((12, 5)), np.arange(12)) == {}
    assert added(np.zeros((12, 5))) == {}


def test_rows_without_the_target_are_alone_in_the_tolerance(rng):
    """faults D: images without a value were one kind."""
    z, label = unit(rng.normal(size=(12, 4)).astype(np.float32)), np.arange(12)
    style = np.array([0, 0, 0, 1, 1, 1] + [-1] * 6)
    of = Features(z, z, np.arange(12), label, {"style": style})
    out = Collector()
    geometry(EvalContext(lambda split: of, default_config(), Options(target="style")), out)
    values, rows = alignment(z[:6], style[:6])
    assert len(rows) == len(out.examples["geometry/tolerance"].values) == 6
    assert out.metrics["geometry/tolerance"] == pytest.approx(1 - values.mean() / 2)
