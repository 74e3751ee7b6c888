"""Terms on small batches against loops: what a row is, which rows count, and what is reported about the graph."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.quick import quick_jit
from xsample_jax.graphs.targets import Graph, Mixture
from xsample_jax.objectives.blocks import TEXT, Rows, image_block, key_block
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import FeatureTerm, Term, pairs_of, term_rows

HERE = pathlib.Path(__file__).parent
COMMON = json.loads((HERE / "goldens.json").read_text())["common"]
MEASURED = json.loads((HERE.parent / "evals" / "goldens.json").read_text())["cases"]

RNG = np.random.default_rng(10)
B, V, D, TAU = 5, 2, 6, 0.3
N = B * V
LABEL = np.array([0, 1, 0, 2, 2])
IMAGE_OF = np.arange(N) // V


def unit(rows):
    x = RNG.normal(size=(rows, D))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


Z, CAPTIONS, WORDS, QUEUED = unit(N), unit(B), unit(B), unit(4)
S = Z @ Z.T / TAU


def blocks(**side):
    side = {"id": np.arange(B), "label": LABEL, "caption_embedding": CAPTIONS, **side}
    side = {name: jnp.asarray(value) for name, value in side.items()}
    return {
        "image": image_block(jnp.asarray(Z), side, V),
        "text": image_block(jnp.asarray(WORDS), side, 1, N),
        "queue": key_block(jnp.asarray(QUEUED), filled=jnp.asarray([True, True, False, False])),
    }


def value(*terms, tau=TAU, side=None, **fields):
    """(loss, metrics) in float64."""
    objective = Objective(terms, tau, **fields)
    with jax.enable_x64(True):
        loss, metrics = quick_jit(lambda b: objective_loss(objective, b, B, tau))(blocks(**(side or {})))
    return float(loss), {name: float(metric) for name, metric in metrics.items()}


def others(i):
    return [k for k in range(N) if k != i]


def nt_xent(i, k, keys):
    return np.log(sum(np.exp(S[i, j]) for j in keys)) - S[i, k]


def test_cross_entropy_over_other_rows_and_over_all_rows():
    expected = np.mean([nt_xent(i, i ^ 1, others(i)) for i in range(N)])
    assert value(Term())[0] == pytest.approx(expected, rel=1e-6)
    # A row may be its own key: in the denominator only, or its own positive too.
    expected = np.mean([nt_xent(i, i ^ 1, range(N)) for i in range(N)])
    assert value(Term(self_pairs=True))[0] == pytest.approx(expected, rel=1e-6)
    expected = np.mean([np.mean([nt_xent(i, k, range(N)) for k in (i, i ^ 1)]) for i in range(N)])
    assert value(Term(self_pairs=True, self_targets=True))[0] == pytest.approx(expected, rel=1e-6)


def test_terms_are_weighted_and_a_number_replaces_the_temperature():
    both, _ = value(Term(weight=2.0), Term(Graph("label"), temperature=0.7, weight=0.5))
    first, _ = value(Term())
    second, _ = value(Term(Graph("label")), tau=0.7)
    assert both == pytest.approx(2 * first + 0.5 * second, rel=1e-9)


def test_keys_of_several_blocks_and_what_is_not_filled():
    logits = Z[::2] @ np.concatenate([WORDS, QUEUED[:2]]).T / TAU
    expected = np.mean([np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(logits)])
    got, _ = value(Term(anchors=Rows("image", 0), keys=(TEXT, Rows("queue"))))
    assert got == pytest.approx(expected, rel=1e-6)


def test_merged_views_are_one_anchor():
    """The sum of all positive pairs of an image over all pairs of its rows with any other."""
    rows = []
    for image in range(B):
        pairs = [(i, k) for i in (2 * image, 2 * image + 1) for k in others(i)]
        positive = sum(np.exp(S[i, k]) for i, k in pairs if IMAGE_OF[k] == image)
        rows.append(np.log(sum(np.exp(S[i, k]) for i, k in pairs)) - np.log(positive))
    got, metrics = value(Term(Graph("identity", "none"), merge_views=True, aggregate="in"))
    assert got == pytest.approx(np.mean(rows), rel=1e-6)
    assert metrics["own_view_mass"] == pytest.approx(1)


def test_mean_over_pairs_instead_of_rows():
    pairs = [(i, k) for i in range(N) for k in others(i) if LABEL[IMAGE_OF[i]] == LABEL[IMAGE_OF[k]]]
    negative = {i: [k for k in range(N) if LABEL[IMAGE_OF[i]] != LABEL[IMAGE_OF[k]]] for i in range(N)}
    expected = np.mean([nt_xent(i, k, [k, *negative[i]]) for i, k in pairs])
    term = Term(Graph("label", "none"), denominator="own", negatives="not_positive", reduce="pairs")
    assert value(term)[0] == pytest.approx(expected, rel=1e-6)
    by_rows = Term(Graph("label"), denominator="own", negatives="not_positive")
    assert value(by_rows)[0] != pytest.approx(expected, rel=1e-3)  # classes of two sizes


def test_anchors_without_positive_are_left_out_and_counted():
    alone = Term(Graph("other_label"), anchors=Rows("image", 0), keys=Rows("image", 0))
    got, metrics = value(alone, side={"label": np.array([0, 1, -1, 0, 0])})
    s = S[::2, ::2]
    rows = [np.mean([np.log(sum(np.exp(s[i, j]) for j in range(B) if j != i)) - s[i, k] for k in positives])
            for i, positives in ((0, [1]), (1, [0, 3, 4]), (3, [1]), (4, [1]))]  # fmt: skip
    assert got == pytest.approx(np.mean(rows), rel=1e-6)
    assert metrics["rows_without_positive"] == pytest.approx(1 / 5)


def test_metrics_of_the_graph():
    """Entropy, own-view and same-class mass by loops; they are reported for rows scaled to one."""
    tau_s = 0.2
    cosine = CAPTIONS @ CAPTIONS.T
    graph = np.array(
        [[np.exp(cosine[IMAGE_OF[i], IMAGE_OF[k]] / tau_s) * (i != k) for k in range(N)] for i in range(N)]
    )
    graph /= graph.sum(axis=1, keepdims=True)
    entropy = np.mean([-sum(p * np.log(p) for p in row if p > 0) for row in graph])
    same_image = IMAGE_OF[:, None] == IMAGE_OF[None]
    same_class = LABEL[IMAGE_OF][:, None] == LABEL[IMAGE_OF][None]
    loss, metrics = value(Term(Graph("caption", "softmax")), target_temperature=tau_s)
    assert metrics["target_entropy"] == pytest.approx(entropy, rel=1e-6)
    assert metrics["own_view_mass"] == pytest.approx(np.mean((graph * same_image).sum(axis=1)), rel=1e-6)
    assert metrics["same_class_mass"] == pytest.approx(np.mean((graph * same_class).sum(axis=1)), rel=1e-6)
    p = np.exp(S) * ~np.eye(N, dtype=bool)
    p /= p.sum(axis=1, keepdims=True)
    kl = np.mean([sum(t * np.log(t / q) for t, q in zip(ts, qs) if t > 0) for ts, qs in zip(graph, p)])
    assert metrics["kl"] == pytest.approx(kl, rel=1e-6)
    assert loss == pytest.approx(kl + entropy, rel=1e-6)


@pytest.mark.parametrize("link", ["softmax", "sigmoid"])
def test_the_weights_of_the_gradient_are_the_published_ones(link):
    """Golden (transcribed from arXiv 2510.14824): image i against text k, z1 and z3, tau 0.1."""
    case = next(case for case in MEASURED if case["name"].startswith("weight and direction"))
    z1, z3 = (jnp.asarray(COMMON[name]) for name in ("z1", "z3"))
    both = {"image": image_block(z1, {"id": jnp.arange(12)}, 1), "text": image_block(z3, {"id": jnp.arange(12)}, 1, 12)}
    term = Term(anchors=Rows("image"), keys=TEXT, link=link)
    _, metrics = objective_loss(Objective((term,), 0.1), both, 12, 0.1)
    expected = case["also"] | {"positive_weight_infonce": case["expected"]}
    of = "infonce" if link == "softmax" else link
    assert metrics["weight_positive"] == pytest.approx(expected[f"positive_weight_{of}"], rel=1e-5)
    assert metrics["weight_negative"] == pytest.approx(expected[f"negative_weight_{of}"], rel=1e-5)


@pytest.mark.parametrize(
    "term",
    [Term(Graph("caption", "softmax")), Term(keys=(Rows("text"), Rows("queue")), self_pairs=True),
     Term(link="sigmoid", graph=Graph("label", "none"))],
)  # fmt: skip
def test_the_weights_are_those_of_automatic_differentiation(term):
    with jax.enable_x64(True):
        pairs = pairs_of(term, blocks(), B, TAU, 0.2)
        of_logits = lambda logits: term_rows(term, dataclasses.replace(pairs, logits=logits), B)  # noqa: E731
        slope, counted = jax.grad(lambda s: of_logits(s)[0].sum())(pairs.logits), of_logits(pairs.logits)[1]
        slope, counted = np.asarray(slope), np.asarray(counted)
    _, metrics = value(term, target_temperature=0.2)
    push = np.maximum(slope, 0)
    mean = push.sum(axis=1) / np.maximum((push > 0).sum(axis=1), 1)
    assert metrics["weight_positive"] == pytest.approx(np.maximum(-slope, 0).sum(axis=1)[counted].mean(), rel=1e-6)
    assert metrics["weight_negative"] == pytest.approx(mean[counted].mean(), rel=1e-6)
    assert metrics["weight_top_negative"] == pytest.approx(push.max(axis=1)[counted].mean(), rel=1e-6)
    if term.link == "softmax":  # what competes sums to zero
        np.testing.assert_allclose(slope[counted].sum(axis=1), 0, atol=1e-9)


def test_a_small_temperature_silences_the_gradient_of_what_is_right_and_weights_need_every_term():
    right = {"image": image_block(jnp.asarray(unit(4)).repeat(2, axis=0), {"id": jnp.arange(4)}, 2)}
    pulled = [float(objective_loss(Objective((Term(),), tau), right, 4, tau)[1]["weight_positive"])
              for tau in (1.0, 0.1, 0.01)]  # fmt: skip
    assert pulled[0] > 0.5
    assert pulled == sorted(pulled, reverse=True)
    assert pulled[2] < 1e-6
    both = Objective((Term(), Term(link="robust")), TAU)
    _, metrics = jax.eval_shape(lambda b: objective_loss(both, b, B, TAU), blocks())
    assert "weight_positive" not in metrics


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"graph": Mixture((Graph(), Graph("uniform")), (0.9, 0.1))}, True),
        ({"graph": Graph("label", "none")}, False),
        ({"link": "sigmoid"}, False),
        ({"denominator": "own"}, False),
        ({"negatives": "other_images"}, False),
        ({"aggregate": "in"}, False),
        ({"row_weight": "focal"}, False),
        ({"attraction": 0.5}, False),
        ({"reduce": "pairs"}, False),
    ],
)
def test_only_a_cross_entropy_has_a_divergence(changes, expected):
    term = Term(**changes)
    assert term.is_cross_entropy == expected
    _, metrics = jax.eval_shape(lambda b: objective_loss(Objective((term,), TAU), b, B, TAU), blocks())
    assert ("kl" in metrics) == expected


def test_a_divergence_needs_all_of_the_loss():
    objective = Objective((Term(),), TAU, feature_terms=(FeatureTerm("align"),))
    _, metrics = jax.eval_shape(lambda b: objective_loss(objective, b, B, TAU), blocks())
    assert "kl" not in metrics


def test_feature_terms_are_weighted():
    term = FeatureTerm("align", Rows("image", 0), TEXT, 3.0)
    expected = 3 * np.mean(np.sum((Z[::2] - WORDS) ** 2, axis=1))
    assert value(feature_terms=(term,))[0] == pytest.approx(expected, rel=1e-6)


# Identities between objectives.


def of_preset(name, given, images=B, tau=TAU):
    objective = PRESETS[name].objective
    with jax.enable_x64(True):
        return float(quick_jit(lambda b: objective_loss(objective, b, images, tau)[0])(given))


def image_and_text(z, text, **side):
    with jax.enable_x64(True):
        side = {"id": jnp.arange(len(z)), **{name: jnp.asarray(value) for name, value in side.items()}}
        return {"image": image_block(jnp.asarray(z), side, 1), "text": image_block(jnp.asarray(text), side, 1, len(z))}


def test_cwcl_with_opposite_captions_is_clip():
    """(1 + cos) / 2 of two opposite captions is the identity; CWCL is the sum of both directions, CLIP their mean."""
    caption = np.stack([CAPTIONS[0], -CAPTIONS[0]])
    given = image_and_text(Z[:2], WORDS[:2], caption_embedding=caption)
    assert of_preset("cwcl", given, 2) == pytest.approx(2 * of_preset("clip", given, 2), rel=1e-6)
    given = image_and_text(Z[:2], WORDS[:2], caption_embedding=caption[:1].repeat(2, axis=0))
    assert of_preset("cwcl", given, 2) != pytest.approx(2 * of_preset("clip", given, 2), rel=1e-3)


def test_symile_of_two_modalities_is_clip():
    """With ones for the third modality every key is there B times: CLIP + log B for each of the other two."""
    view_0, view_1 = Rows("image", 0), Rows("image", 1)
    terms = (
        Term(anchors=view_0, keys=Rows("image", 1, times=TEXT), weight=0.5),
        Term(anchors=view_1, keys=Rows("image", 0, times=TEXT), weight=0.5),
    )
    with jax.enable_x64(True):
        ones = {"text": image_block(jnp.ones((B, D)), {"id": jnp.arange(B)}, 1, N)}
        got = float(quick_jit(lambda b: objective_loss(Objective(terms, TAU), b, B, TAU)[0])(blocks() | ones))
    assert got == pytest.approx(of_preset("clip", image_and_text(Z[::2], Z[1::2])) + np.log(B), rel=1e-6)


def test_meow_with_single_clusters_is_dcl_plus_log_of_their_number():
    cluster = np.stack([np.arange(B), np.arange(B)[::-1], RNG.permutation(B)], axis=1)
    meow, _ = value(Term(negatives="clusters_apart"), side={"cluster": cluster})
    dcl, _ = value(Term(negatives="other_images"))
    assert meow == pytest.approx(dcl + np.log(3), rel=1e-6)


def test_a_hierarchy_graph_becomes_the_label_graph_when_cold():
    leaves = np.stack([np.array([0, 0, 0, 1, 1]), LABEL], axis=1)
    cold, _ = value(Term(Graph("hierarchy", "softmax")), target_temperature=1e-3, side={"path": leaves})
    supcon, _ = value(Term(Graph("label")))
    assert cold == pytest.approx(supcon, rel=1e-6)
    warm, _ = value(Term(Graph("hierarchy", "softmax")), target_temperature=0.2, side={"path": leaves})
    assert warm > supcon + 0.01


def test_uniformity_is_the_repulsion_of_a_distance():
    """log mean_ik e^{-t d^2}: what a term without attraction says, with one log for all rows instead of one each."""
    term = Term(Graph("uniform"), similarity="negative_distance", attraction=0.0)
    rows = [np.log(sum(np.exp(-2 * np.sum((Z[i] - Z[k]) ** 2)) for k in others(i))) for i in range(N)]
    got, _ = value(term, tau=0.5)
    assert got == pytest.approx(np.mean(rows), rel=1e-6)
    uniform, _ = value(feature_terms=(FeatureTerm("uniform", Rows("image"), Rows("image")),))
    assert uniform == pytest.approx(np.log(np.sum(np.exp(rows)) / (N * (N - 1))), rel=1e-6)


@pytest.mark.parametrize("denominator", ["shared", "own", "views", {"name": "rank", "by": "caption"}])
def test_order_of_the_images_does_not_matter(denominator):
    term = Term(Graph("label"), denominator=denominator, negatives="everything")
    order = RNG.permutation(B)
    side = {"id": np.arange(B)[order], "label": LABEL[order], "caption_embedding": CAPTIONS[order]}
    z = Z.reshape(B, V, D)[order].reshape(N, D)
    with jax.enable_x64(True):
        moved = {"image": image_block(jnp.asarray(z), {name: jnp.asarray(x) for name, x in side.items()}, V)}
        loss = quick_jit(lambda b: objective_loss(Objective((term,), TAU), b, B, TAU)[0])
        assert float(loss(moved)) == pytest.approx(float(loss({"image": blocks()["image"]})), rel=1e-9)
