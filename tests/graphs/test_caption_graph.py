"""Numbers of a caption graph against double loops and dense targets, and the advice that follows from them."""

import numpy as np
import pytest

from xsample_jax.reports import caption_graph
from xsample_jax.reports.caption_advice import advise, advise_on_confused, choice_at, choices, softest
from xsample_jax.reports.caption_graph import target_against_temperature

TEMPERATURES = np.geomspace(0.01, 1.0, 40)


@pytest.fixture
def embedding():
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(300, 8)), 2, axis=0)  # every caption twice
    rows[0:2] += 5 * rows[2:4]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def captions():
    return [f"caption {row // 2}" for row in range(600)]


def all_pairs(embedding):
    i, k = np.triu_indices(len(embedding), 1)
    return i, k, np.sum(embedding[i] * embedding[k], axis=1)


def test_histogram_quantiles_and_duplicates_are_those_of_all_pairs(embedding, monkeypatch):
    monkeypatch.setattr(caption_graph, "TILE", 128)  # several tiles, the last one smaller
    _, _, cosine = all_pairs(embedding)
    counts = caption_graph.histogram(embedding)
    assert counts.sum() == len(cosine) == 600 * 599 // 2
    expected, _ = np.histogram(cosine, bins=caption_graph.BINS, range=(-1, 1))
    assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 40  # a rounding at the edge of a bin
    for share in (0.05, 0.5, 0.95, 0.999):
        assert caption_graph.quantile(counts, share) == pytest.approx(np.quantile(cosine, share), abs=2e-3)
    assert caption_graph.same_caption_share(embedding) == pytest.approx(300 / len(cosine))


def test_closest_pairs_are_different_captions_each_twice_at_most(embedding, captions, monkeypatch):
    monkeypatch.setattr(caption_graph, "TILE", 128)
    pairs = caption_graph.closest_pairs(embedding, captions, count=10)
    _, _, cosine = all_pairs(embedding)
    best = cosine[cosine < 0.999].max()
    assert pairs[0][2] == pytest.approx(best, abs=1e-6)
    assert [c for _, _, c in pairs] == sorted((c for _, _, c in pairs), reverse=True)
    words = [captions[row] for a, b, _ in pairs for row in (a, b)]
    assert all(captions[a] != captions[b] for a, b, _ in pairs)
    assert max(words.count(word) for word in words) <= 2
    for a, b, c in pairs:
        assert embedding[a] @ embedding[b] == pytest.approx(c, abs=1e-6)


def test_ladder_steps_are_at_their_quantiles(embedding, captions):
    _, _, cosine = all_pairs(embedding)
    steps = caption_graph.ladder(embedding, captions, (0.99, 0.5), pairs=50_000)
    assert [share for share, _ in steps] == [0.99, 0.5]
    for share, pairs in steps:
        assert len({frozenset((captions[i], captions[k])) for i, k, _ in pairs}) == len(pairs) == 3
        for i, k, found in pairs:
            assert i != k
            assert found == pytest.approx(embedding[i] @ embedding[k], abs=1e-6)
            assert np.mean(cosine < found) == pytest.approx(share, abs=0.01)


def test_curves_are_the_dense_target_with_its_masses(embedding, monkeypatch):
    monkeypatch.setattr(caption_graph, "ANCHORS", 600)
    curves = caption_graph.target_curves(embedding, 600, np.array([0.1, 0.3]), views=2, ordinary=0.4)
    similarity = np.kron(embedding @ embedding.T, np.ones((2, 2))).astype(np.float64)
    image = np.arange(1200) // 2
    caption = image // 2
    for place, tau in enumerate((0.1, 0.3)):
        logits = similarity / tau
        np.fill_diagonal(logits, -np.inf)
        target = np.exp(logits - logits.max(axis=1, keepdims=True))
        target /= target.sum(axis=1, keepdims=True)
        own = image[:, None] == image
        same = (caption[:, None] == caption) & ~own
        ordinary = (similarity <= 0.4) & ~own
        entropy = -np.sum(target * np.log(np.where(target > 0, target, 1)), axis=1).mean()
        assert curves["entropy"][place] == pytest.approx(entropy, abs=1e-4)
        assert curves["effective_neighbors"][place] == pytest.approx(np.exp(entropy), rel=1e-4)
        for name, pairs in {"own_view": own, "same_caption": same, "ordinary": ordinary}.items():
            assert curves[f"{name}_mass"][place] == pytest.approx(np.sum(target * pairs, axis=1).mean(), abs=1e-4), name
        masses = [curves[f"{name}_mass"][place] for name in ("own_view", "same_caption", "ordinary", "alike")]
        assert sum(masses) == pytest.approx(1)


def test_rows_against_a_batch_are_rows_of_the_square(embedding):
    similarity = embedding[:40] @ embedding[:40].T
    whole = target_against_temperature(similarity, [0.2], 3)
    some = np.array([3, 17, 30])
    part = target_against_temperature(similarity[some], [0.2], 3, own=some)
    each = [target_against_temperature(similarity[[row]], [0.2], 3, own=np.array([row])) for row in range(40)]
    assert np.mean([one["entropy"] for one in each]) == pytest.approx(whole["entropy"][0])
    assert part["own_view_mass"][0] == pytest.approx(np.mean([each[row]["own_view_mass"] for row in some]))


def test_choices_have_the_neighbors_they_promise(embedding):
    curves = caption_graph.target_curves(embedding, 256, TEMPERATURES, 2, 0.5)
    found = choices(curves, TEMPERATURES, 512)
    assert {4, 8, 16} <= {choice.neighbors for choice in found}
    assert all(choice.neighbors <= 64 for choice in found)
    for choice in found:
        again = caption_graph.target_curves(embedding, 256, np.array([choice.tau_s]), 2, 0.5)
        assert again["effective_neighbors"][0] == pytest.approx(choice.neighbors, rel=0.03)
        assert sum(choice.masses.values()) == pytest.approx(1, abs=1e-6)
    limit = softest(curves, TEMPERATURES)
    assert limit.masses["ordinary_mass"] == pytest.approx(0.2, abs=1e-6)


def level_of(embedding, tau_s, ordinary=0.5, words=""):
    curves = caption_graph.target_curves(embedding, 256, TEMPERATURES, 2, ordinary)
    now = choice_at(curves, TEMPERATURES, tau_s)
    found = advise(now, softest(curves, TEMPERATURES), 0.5, 1.0, 256, 0)
    return {item.level for item in found if words in item.text}


def test_advice_warns_of_each_way_a_graph_goes_wrong(embedding):
    distinct = embedding[::2]
    assert level_of(distinct, 0.01, words="nearly SimCLR's") == {"warning"}
    assert level_of(distinct, 0.9, words="ordinary pairs") >= {"warning"}
    assert level_of(embedding, 0.02, words="nearly that of") == set()  # half own views, half the same caption
    copies = np.repeat(embedding[:60:2], 10, axis=0)
    assert level_of(copies, 0.02, words="SupCon with the captions") == {"warning"}
    fine = choice_at(caption_graph.target_curves(distinct, 256, TEMPERATURES, 2, 0.5), TEMPERATURES, 0.08)
    assert [item.level for item in advise(fine, None, 0.5, 0.0, 256, 0)] == ["good"]
    narrow = advise(fine, None, 0.01, 0.0, 256, 3)
    assert [item.level for item in narrow] == ["good", "warning", "warning"]
    assert "3 of the records" in narrow[-1].text


def test_captions_that_share_an_embedding(embedding, captions):
    """faults.md C8: the same vector for another text; case and white space are no other text."""
    assert len(caption_graph.one_vector(embedding, captions)) == 0
    captions[1] = f" {captions[0].upper()}  "
    assert len(caption_graph.one_vector(embedding, captions)) == 0
    captions[599] = "แมว"
    assert caption_graph.one_vector(embedding, captions).tolist() == [598, 599]
    assert advise_on_confused(0) == ()
    (warning,) = advise_on_confused(2)
    assert warning.level == "warning"
    assert warning.text.startswith("2 of the records")


def test_chain_brings_equal_rows_together():
    rows = np.eye(4)[[0, 2, 1, 0, 3, 1, 2, 3]]
    order = caption_graph.chain(rows @ rows.T)
    assert sorted(order) == list(range(8))
    groups = rows[order].argmax(axis=1)
    assert np.sum(groups[1:] != groups[:-1]) == 3
