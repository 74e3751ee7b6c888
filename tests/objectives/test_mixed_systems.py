"""Systems with synthetic keys (Metrix, SupReMix, KaLM-Embedding) and CACR with an EMA encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, LABELS, QUEUE, Z1, Z2, Z3, images, preset_value, queue
from tests.objectives.mixed_inputs import DEGLA, SUPREMIX, TCL, degla, metrix, supremix, tcl
from tests.objectives.test_build import problems
from tests.quick import quick_jit
from xsample_jax.models.heads import unit_rows
from xsample_jax.models.layers import pool_windows
from xsample_jax.objectives.links import contrastive, multi_similarity
from xsample_jax.objectives.mixers import (
    MixerInputs,
    anchor_and_negative,
    between_targets,
    own_mixtures,
    positive_and_negative,
    spread,
)
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.step_blocks import exchange_words

METRIX, SIMILARITY = CASES[PRESETS["metrix"].golden], CASES["Metrix, multi-similarity, mixed part"]
FAR = CASES["CACR at ImageNet scale: InfoNCE of several views, far ones weigh more"]
SAME = LABELS[:, None] == LABELS[None, :]
POSITIVE = SAME & ~np.eye(12, dtype=bool)
KEYS = jax.random.split(jax.random.key(1), 12)
X, Y, Z = (jnp.float32(z) for z in (Z1, Z2, Z3))


def norms(*slopes):
    return [float(np.linalg.norm(slope)) for slope in slopes]


def test_metrix_has_the_parts_and_the_gradient_of_the_published_code():
    value, slope = quick_jit(jax.value_and_grad(lambda z: metrix(unit_rows(z))))(X)  # its distances scale rows, too
    assert value == pytest.approx(METRIX["expected"], rel=1e-5)
    assert norms(slope) == pytest.approx([METRIX["extra"]["grad_norm"]["z1"]], rel=1e-4)
    clean = metrix(X, terms=PRESETS["metrix"].objective.terms[:1])
    assert clean == pytest.approx(METRIX["extra"]["also"]["clean"], rel=1e-5)


def with_anchors(z, ratio=0.3):
    """0.15 times the contrastive loss of mixtures of every anchor with each of its negatives, in loops in float64."""
    pull, push = [], []
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    for i in range(12):
        for n in np.flatnonzero(~SAME[i]):
            mixed = ratio * z[i] + (1 - ratio) * z[n]
            apart = np.linalg.norm(z[i] - mixed / np.linalg.norm(mixed))
            pull.append(ratio * apart)
            push.append((1 - ratio) * max(0.5 - apart, 0))
    return 0.15 * sum(sum(part) / max(np.count_nonzero(part), 1) for part in (pull, push))


def test_metrix_with_anchors_has_half_of_the_mixtures_of_metrix_and_its_own_with_its_gradient():
    near = Z1[LABELS] + 0.4 * Z2  # classes that overlap, so that mixtures are nearer than the margin
    near = np.float64(near / np.linalg.norm(near, axis=1, keepdims=True))
    terms = PRESETS["metrix_anchors"].objective.terms
    both = (METRIX["extra"]["also"]["clean"] + METRIX["expected"]) / 2  # 0.2 of the mixtures of a positive
    assert metrix(X, "metrix_anchors") == pytest.approx(both + with_anchors(Z1), rel=1e-5)
    alone = lambda z: metrix(unit_rows(z), "metrix_anchors", terms=terms[2:])  # noqa: E731
    for z in (np.float64(Z1), near):
        value, slope = quick_jit(jax.value_and_grad(alone))(jnp.float32(z))
        assert value == pytest.approx(with_anchors(z), rel=2e-5)
        along = np.random.default_rng(1).normal(size=z.shape)
        ends = [with_anchors(z + step * along) for step in (1e-6, -1e-6)]
        assert np.sum(slope * along) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3)


def test_mixtures_of_an_anchor_and_a_negative():
    """A share of 1 is the anchor; all negatives count once; `lone` leaves anchors with a positive out."""
    given = (jnp.asarray(POSITIVE, jnp.float32), jnp.asarray(~SAME), {}, {})

    def mix(shares, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("xsample_jax.objectives.mixers.draw_ratios", lambda key, at, a, b: jnp.full(at.shape, shares))
            return anchor_and_negative(MixerInputs(X, Y, *given, KEYS), **options)

    for mixed in (3, 64):
        made = mix(1.0, mixed=mixed)
        np.testing.assert_allclose(made.rows, np.broadcast_to(X[:, None], made.rows.shape), atol=1e-6)
        np.testing.assert_allclose(made.weight.sum(axis=1), (~SAME).sum(1), rtol=1e-6)
    others = mix(0.0, mixed=12)
    for i in range(12):
        counted = others.rows[i][others.weight[i] > 0]
        np.testing.assert_allclose(np.sort(counted, axis=0), np.sort(Y[~SAME[i]], axis=0), atol=1e-6)
    lone = mix(0.5, lone=True).weight.sum(axis=1)
    np.testing.assert_allclose(lone, np.where(POSITIVE.any(1), 0, (~SAME).sum(1)))


def test_multi_similarity_of_all_mixtures_is_that_of_its_golden():
    """All pairs of a positive and a negative of every anchor, and the clean loss where every share is 0 or 1."""
    pairs = [[(p, n) for p in np.flatnonzero(POSITIVE[i]) for n in np.flatnonzero(~SAME[i])] for i in range(12)]
    most = max(map(len, pairs))
    place = np.array([of + [(0, 0)] * (most - len(of)) for of in pairs])
    count = np.array([[1.0] * len(of) + [0.0] * (most - len(of)) for of in pairs])
    rows = unit_rows(0.3 * X[place[..., 0]] + 0.7 * X[place[..., 1]])
    loss = multi_similarity(jnp.einsum("ad,amd->am", X, rows), jnp.full(count.shape, 0.3), jnp.asarray(count))
    assert loss[POSITIVE.any(1)].mean() == pytest.approx(SIMILARITY["expected"], rel=1e-5)


def test_the_contrastive_link_is_its_sum_over_pairs():
    """Double loops over distances, with margins; a share of 1 is a positive, of 0 a negative."""
    rng = np.random.default_rng(0)
    d, t = rng.uniform(0, 1, (5, 7)), rng.choice([0.0, 0.3, 1.0], (5, 7))
    count = rng.integers(0, 3, (5, 7)).astype(float)
    pull = [(count[i, k], t[i, k] * max(d[i, k] - 0.1, 0)) for i in range(5) for k in range(7)]
    push = [(count[i, k], (1 - t[i, k]) * max(0.6 - d[i, k], 0)) for i in range(5) for k in range(7)]
    mean = sum(sum(c * x for c, x in part) / sum(c for c, x in part if x > 0) for part in (pull, push))
    loss = contrastive(jnp.asarray(-d), jnp.asarray(t), jnp.asarray(count), near=0.1, far=0.6)
    assert loss.mean() == pytest.approx(mean, rel=1e-5)


def test_mixtures_of_a_positive_and_a_negative():
    """Every row is lam p + (1 - lam) n of its own anchor; a share of 1 is p; those drawn stand for all pairs."""
    given = (jnp.asarray(POSITIVE, jnp.float32), jnp.asarray(~SAME), {}, {})
    mix = quick_jit(
        lambda keys, mixed: positive_and_negative(MixerInputs(X, Y, *given, keys), mixed=mixed), static_argnums=1
    )
    made = mix(KEYS, 3)
    assert made.alone
    assert made.rows.shape == (12, 3, 16)
    pairs = POSITIVE.sum(1) * (~SAME).sum(1)
    np.testing.assert_allclose(made.weight.sum(axis=1), pairs, rtol=1e-6)
    np.testing.assert_allclose(mix(KEYS, 64).weight.sum(axis=1), pairs, rtol=1e-6)
    for i, m in ((0, 0), (5, 1), (11, 2)):
        lam, row = float(made.target[i, m]), np.asarray(made.rows[i, m])
        fits = [lam * Z2[p] + (1 - lam) * Z2[n] for p in np.flatnonzero(POSITIVE[i]) for n in np.flatnonzero(~SAME[i])]
        assert min(np.linalg.norm(fit / np.linalg.norm(fit) - row) for fit in fits) < 1e-5
    slope = quick_jit(jax.grad(lambda y: positive_and_negative(MixerInputs(X, y, *given, KEYS), mixed=3).rows.sum()))(Y)
    assert np.abs(slope).max() > 0


def test_supremix_has_the_gradients_of_its_golden_and_its_positives_alone():
    def rows(first, second, **changes):
        return supremix(first, second, **changes)

    value, slopes = quick_jit(jax.value_and_grad(rows, (0, 1)))(X, Y)
    assert value == pytest.approx(CASES[SUPREMIX]["expected"], rel=1e-5)
    assert norms(*slopes) == pytest.approx(list(CASES[SUPREMIX]["extra"]["grad_norm"].values()), rel=1e-4)
    (term,) = PRESETS["supremix"].objective.terms
    alone = {**term.mixer, "negatives": 1, "window": 5.0}
    plain = dataclasses.replace(term, negatives="everything", mixer=alone)
    case = CASES["SupReMix, mixed positives only, no weights"]
    with pytest.MonkeyPatch.context() as patch:  # no negative is mixed
        patch.setattr("xsample_jax.objectives.mixers.spread", lambda key, s, among, most: no_mixtures(s))
        assert supremix(terms=(plain,)) == pytest.approx(case["expected"], rel=1e-5)


def no_mixtures(similarity):
    shape = (len(similarity), 1)
    return jnp.zeros(shape, int), jnp.zeros(shape)


def test_mixed_positives_have_the_target_of_their_anchor():
    """On a line y = t every mixed positive is the anchor itself, few or many; a mixed negative lies between."""
    t = np.array([0.0, 1.0, 2.0, 3.5, 5.0, 9.0], np.float32)
    line = jnp.stack([jnp.asarray(t), jnp.ones(6)], axis=1)
    side = {"target": jnp.asarray(t)[:, None]}
    apart = ~np.eye(6, dtype=bool)
    given = (jnp.zeros((6, 6)), jnp.asarray(apart), side, side)
    keys = jax.random.split(jax.random.key(0), 6)
    below, above = ((t[:, None] - t[None, :]) * sign for sign in (1, -1))
    pairs = ((below > 0) & (below < 4)).sum(1) * ((above > 0) & (above < 4)).sum(1)
    for most in (2, 100):
        made = between_targets(MixerInputs(line, line, *given, keys), window=4.0, positives=most, negatives=3)
        easy = made.rows.shape[1] - 3
        weight = np.asarray(made.weight[:, :easy])
        np.testing.assert_allclose(weight.sum(1), pairs, rtol=1e-6)
        apart = np.abs(np.asarray(made.rows[:, :easy, 0]) - t[:, None])
        assert apart[weight > 0].max() < 1e-5
        np.testing.assert_allclose(made.kept[:, 0], 0)  # no real positive has any target left to keep
        hard = np.asarray(made.rows[:, easy:, 0])
        stands_for = np.asarray(made.weight[:, easy:]) / (1 + np.abs(hard - t[:, None]))
        np.testing.assert_allclose(stands_for, 5 / 3, rtol=1e-5)


def test_a_spread_of_pairs_has_each_with_the_same_chance():
    similarity = jnp.asarray(np.random.default_rng(0).normal(size=(1, 7)))
    among = jnp.asarray([[True] * 5 + [False] * 2])
    draw = jax.vmap(lambda key: spread(key[None], similarity, among, 2)[0][0])
    places = np.asarray(quick_jit(draw)(jax.random.split(jax.random.key(0), 4000)))
    assert (places[:, 0] != places[:, 1]).all() or np.mean(places[:, 0] == places[:, 1]) < 0.25
    share = np.bincount(places.reshape(-1), minlength=7) / 4000
    np.testing.assert_allclose(share[:5], 0.4, atol=0.03)
    assert not share[5:].any()


def test_mixtures_of_an_anchors_own_negatives():
    """Pairs of two different ones of the nearest; the list has weights that fall with the distance; no gradient."""
    given = (jnp.asarray(POSITIVE, jnp.float32), jnp.asarray(~SAME), {}, {})
    options = {"hardest": 3, "pairs": 40, "lists": 2, "sharpness": 4.0}
    made = quick_jit(lambda x, y: own_mixtures(MixerInputs(x, y, *given, KEYS), **options))(X, Y)
    assert made.rows.shape == (12, 42, 16)
    for i in (0, 4):
        near = np.flatnonzero(~SAME[i])[np.argsort(-(Z2[~SAME[i]] @ Z1[i]))][:3]
        used = set()
        for row in np.asarray(made.rows[i, :40]):
            found = np.linalg.lstsq(Z2[near].T, row, rcond=None)[0]
            assert np.linalg.norm(found @ Z2[near] - row) < 1e-4
            assert (np.abs(found) > 1e-4).sum() == 2
            used |= set(np.flatnonzero(np.abs(found) > 1e-4))
        assert used == {0, 1, 2}
        for number, row in enumerate(np.asarray(made.rows[i, 40:])):
            weight = np.exp(4.0 * Z2[near[number:]] @ Z1[i])
            mean = weight @ Z2[near[number:]]
            np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    options = {"hardest": 3, "pairs": 2}
    slopes = quick_jit(
        jax.grad(lambda x, y: own_mixtures(MixerInputs(x, y, *given, KEYS), **options).rows.sum(), (0, 1))
    )(X, Y)
    assert not any(np.abs(slope).any() for slope in slopes)


def test_cacr_at_the_scale_of_imagenet_has_the_value_and_gradients_of_its_golden():
    """The golden is of one of three views as the key: the third term, times three."""
    objective = PRESETS["cacr_moco_v3"].objective
    term = dataclasses.replace(objective.terms[2], weight=0.4)

    def loss(first, second):
        blocks = {"predicted": images(first, second, Z), "teacher": images(Z, Z, Z, first_row=90)}
        return preset_value("cacr_moco_v3", blocks, terms=(term,))

    value, slopes = quick_jit(jax.value_and_grad(loss, (0, 1)))(X, Y)
    assert value == pytest.approx(FAR["expected"], rel=1e-5)
    assert norms(*slopes) == pytest.approx(list(FAR["extra"]["grad_norm"].values()), rel=1e-4)
    assert sum(term.weight for term in objective.terms) == pytest.approx(0.4)


def test_cacr_with_a_queue_is_its_formula():
    """Positive weights and those of the queue are constants; those of the batch have a gradient."""

    def by_hand(first, second, third, still):
        views, keys, total = (first, second, third), (Z2, Z3, Z1), 0.0
        for v, q in enumerate(views):
            far = jnp.stack([jnp.sum((q - keys[w]) ** 2, axis=1) for w in range(3) if w != v], axis=1)
            total += jnp.sum(jax.nn.softmax(still(far), axis=1) * far, axis=1).mean()
            own = jnp.sum((q[:, None] - q[None]) ** 2, axis=2) + 1e9 * jnp.eye(12)
            old = 1 + jnp.sum(q * q, axis=1, keepdims=True) - 2 * q @ QUEUE.T
            weight = jax.nn.softmax(-jnp.concatenate([own, still(old)], axis=1), axis=1)
            total -= jnp.sum(weight[:, :12] * jnp.where(own > 1e8, 0, own) + 0.0, axis=1).mean()
            total -= jnp.sum(weight[:, 12:] * old, axis=1).mean()
        return total / 3

    def ours(*views):
        blocks = {"image": images(*views), "teacher": images(Z2, Z3, Z1, first_row=90), "queue": queue()}
        return preset_value("cacr_moco", blocks)

    value, slopes = quick_jit(jax.value_and_grad(ours, (0, 1, 2)))(X, Y, Z)
    wanted, theirs = jax.value_and_grad(lambda *v: by_hand(*v, jax.lax.stop_gradient), (0, 1, 2))(X, Y, Z)
    assert value == pytest.approx(float(wanted), rel=1e-5)
    for slope, other in zip(slopes, theirs, strict=True):
        np.testing.assert_allclose(slope, other, atol=1e-5)


@pytest.mark.parametrize(
    ("term", "field", "words"),
    [
        ({"graph": "label", "mixer": "positive_and_negative"}, "mixer", "contrastive or multi_similarity"),
        (
            {"graph": {"source": "label", "normalizer": "none"}, "mixer": "hard_mixtures", "link": "multi_similarity"},
            "mixer",
            "only with one",
        ),
        ({"link": "contrastive", "graph": "label"}, "similarity", "negative_distance"),
        ({"graph": {"source": "same_target", "normalizer": "none"}, "mixer": "between_targets"}, "mixer", "row"),
        ({"keys": {"block": "image", "view": 0, "without": 1}}, "without", "None with a view"),
    ],
)
def test_what_makes_no_sense_is_refused(term, field, words):
    (problem,) = problems(terms=(term,))
    assert problem.field.endswith(field)
    assert words in str(problem)


def test_tcl_has_the_parts_and_the_gradient_of_the_published_code():
    case = CASES[TCL]
    value, slope = quick_jit(jax.value_and_grad(tcl))(X)
    assert value == pytest.approx(case["expected"], rel=1e-5)
    assert norms(slope) == pytest.approx([case["also"]["gradient_norm_z1"]], rel=1e-4)
    parts = ("i2t", "t2i", "i2i", "t2t", "g2l_image", "g2l_text")
    for term, part in zip(PRESETS["tcl_contrastive"].objective.terms, parts, strict=True):
        alone = tcl(terms=(dataclasses.replace(term, weight=1.0),))
        assert alone == pytest.approx(case["also"][part], rel=1e-5, abs=1e-6), part


def test_windows_of_a_map_are_those_of_the_published_code():
    case = CASES["TCL: patch pooling"]
    pooled = pool_windows(jnp.asarray(case["extra"]["x"]).reshape(2, 4, 4, 3))
    np.testing.assert_allclose(pooled, case["also"]["pooled"], rtol=1e-6)
    assert np.sum(np.square(pooled)) == pytest.approx(case["expected"], rel=1e-5)
    assert pool_windows(jnp.ones((1, 1, 1, 2))).shape == (1, 1, 2)


def test_degla_has_the_gradients_of_the_published_code():
    case, hard = CASES[DEGLA], jnp.float32(CASES[DEGLA]["extra"]["neg_text"])
    value, slopes = quick_jit(jax.value_and_grad(degla, (0, 1, 2)))(X, Z, hard)
    assert value == pytest.approx(case["expected"], rel=1e-5)
    assert norms(slopes[0]) == pytest.approx([case["also"]["gradient_norm_image"]], rel=1e-4)
    of_texts = float(np.linalg.norm(np.concatenate(slopes[1:])))
    assert of_texts == pytest.approx(case["also"]["gradient_norm_texts"], rel=1e-4)


def test_wrong_captions_have_two_words_exchanged():
    """The same words in another order, start and end in their places; a caption of one word has none."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((40, 12), np.int32)
    for row, length in zip(tokens, rng.integers(1, 10, 40), strict=True):
        row[: length + 2] = [1, *rng.integers(3, 9, length), 2]
    tokens[0, :5] = [1, 7, 7, 2, 0]
    tokens[0, 5:] = 0
    ids, key = jnp.arange(40), jax.random.key(0)
    found, there = map(np.asarray, exchange_words(jnp.asarray(tokens), ids, key, 3))
    found, there = found.reshape(40, 3, 12), there.reshape(40, 3)
    for row, wrong, is_there in zip(tokens, found, there, strict=True):
        words = row[row > 2]
        assert (is_there == (len(set(words.tolist())) > 1)).all()
        for one in wrong:
            assert sorted(one) == sorted(row)
            assert (one != row).sum() == (2 if is_there[0] else 0)
            np.testing.assert_array_equal(one[row <= 2], row[row <= 2])
    assert (found[:, 0] != found[:, 1]).any()
    turned, _ = exchange_words(jnp.asarray(tokens[::-1]), ids[::-1], key, 3)
    np.testing.assert_array_equal(np.asarray(turned).reshape(40, 3, 12)[::-1], found)
