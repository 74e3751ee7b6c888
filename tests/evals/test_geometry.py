"""Geometry and retrieval against loops and scipy."""

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from xsample_jax.evals.geometry import alignment, caption_correlation, effective_rank, ranks, uniformity
from xsample_jax.evals.retrieval import recall_at_1


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
    assert alignment(z, concepts) == pytest.approx(np.mean(same), rel=1e-5)
    everyone = [np.exp(-2 * np.sum((u[i] - u[j]) ** 2)) for i, j in pairs]
    assert uniformity(z) == pytest.approx(np.log(np.mean(everyone)), rel=1e-5)
    assert np.isnan(alignment(z, np.arange(30)))


def test_effective_rank(rng):
    basis = np.linalg.qr(rng.normal(size=(400, 6)))[0]
    basis = np.linalg.qr(basis - basis.mean(0))[0]  # orthonormal and centred
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


def test_recall_at_1_against_a_loop_and_without_hopeless_queries(rng):
    gallery, query = rng.normal(size=(25, 4)), rng.normal(size=(30, 4))
    gallery_concepts, query_concepts = rng.permutation(25), np.arange(30)
    query[:25] = gallery[np.argsort(gallery_concepts)] + 0.6 * rng.normal(size=(25, 4))
    correct, concepts = recall_at_1(query, query_concepts, gallery, gallery_concepts)
    expected = [gallery_concepts[np.argmax(unit(gallery) @ unit(q))] == c for q, c in zip(query[:25], range(25))]
    np.testing.assert_array_equal(correct, expected)
    np.testing.assert_array_equal(concepts, np.arange(25))
    assert 0 < np.mean(correct) < 1
