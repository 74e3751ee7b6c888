"""Rows of two images (M3CoL), an EMA encoder on the same views (MESA), and BarLIP: goldens and what each claims."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import synthetic
from tests.objectives.test_build import problems
from tests.objectives.test_goldens import (
    CASES,
    QUEUE,
    Z1,
    Z2,
    Z3,
    images,
    m3col_blocks,
    m3col_first_phase,
    preset_value,
    texts,
)
from tests.quick import quick_jit
from tests.tiny import run_steps, tiny_config
from xsample_jax.errors import ConfigError
from xsample_jax.graphs.targets import target
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.blocks import Rows, image_block, key_block
from xsample_jax.objectives.mixtures import block_of_mixed, cutmix, draw_mixtures, hard_partners, mixup
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.step_blocks import StepInputs, step_blocks
from xsample_jax.objectives.terms import StepValues

M3COL = PRESETS["m3col"].objective


def value_and_slope(loss):
    """(value, norm of the gradient in the rows z1)."""
    value, slope = quick_jit(jax.value_and_grad(loss))(jnp.float32(Z1))
    return float(value), float(np.linalg.norm(slope))


def test_the_first_phase_of_m3col_has_the_parts_and_gradient_of_its_golden():
    also = CASES[PRESETS["m3col"].golden]["also"]

    def loss(z):
        blocks = m3col_first_phase(z)
        # In the published code rows that are not mixed pass the scaling to unit length, and those to mix do not.
        return preset_value("m3col", {**blocks, "image": blocks["image"] | {"z": unit_rows(z)}})

    _, slope = value_and_slope(loss)
    assert slope == pytest.approx(also["gradient_norm_z1"], rel=1e-4)
    for part, terms in (("image", M3COL.terms[:2]), ("text", M3COL.terms[2:4])):
        value = preset_value("m3col", m3col_first_phase(jnp.float32(Z1)), terms=terms)
        assert value == pytest.approx(also[part], rel=2e-5)


def test_after_a_third_of_the_run_m3col_is_soft_clip():
    blocks = m3col_first_phase(jnp.float32(Z1))
    assert preset_value("m3col", blocks, progress=0.5) == pytest.approx(
        float(preset_value("soft_clip", blocks)), rel=1e-6
    )


def test_unmixed_rows_are_clip_and_an_image_that_is_its_own_partner_keeps_its_target():
    """beta = 1: both parts are CLIP at tau = 0.1; rows of T sum to one also where the partner is the image."""
    unmixed = (jnp.roll(jnp.arange(12), 1), jnp.ones(12))
    first = preset_value("m3col", m3col_blocks(jnp.float32(Z1), jnp.float32(Z3), [unmixed, unmixed]))
    clip = preset_value("clip", {"image": images(Z1), "text": texts(Z3)}, temperature=0.1)
    assert first == pytest.approx(2 * float(clip), rel=1e-5)
    odd = (jnp.arange(12).at[:2].set(jnp.array([1, 0])), jnp.linspace(0.1, 0.9, 12))
    blocks = m3col_blocks(jnp.float32(Z1), jnp.float32(Z3), [odd, odd])
    graph = target(M3COL.terms[0].graph, blocks["mixed"], blocks["text"], jnp.ones((12, 12), bool), 0.1)
    np.testing.assert_allclose(graph.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.diagonal(graph)[2:], 1, rtol=1e-6)
    np.testing.assert_allclose(graph[:2, :2], [[0.1, 0.9], [1 - odd[1][1], odd[1][1]]], rtol=1e-5)
    back = target(M3COL.terms[1].graph, blocks["text"], blocks["mixed"], jnp.ones((12, 12), bool), 0.1)
    np.testing.assert_array_equal(back, graph.T)


def test_mixtures_do_not_depend_on_the_order_of_the_batch():
    """Every image is the partner of one other; about half are mixed, mostly with a beta near 0 or 1."""
    ids, key = jnp.arange(400) * 7 + 1, jax.random.key(0)
    partner, beta = quick_jit(draw_mixtures)(key, ids)
    assert sorted(partner.tolist()) == list(range(400))
    assert not np.any(np.asarray(partner) == np.arange(400))
    mixed = np.asarray(beta)[np.asarray(beta) < 1]
    assert 0.4 < len(mixed) / 400 < 0.55
    assert np.mean((mixed < 0.1) | (mixed > 0.9)) > 0.5
    shuffle = np.random.default_rng(0).permutation(400)
    other, other_beta = quick_jit(draw_mixtures)(key, ids[shuffle])
    np.testing.assert_array_equal(ids[shuffle][other], ids[partner][shuffle])
    np.testing.assert_array_equal(other_beta, beta[shuffle])


def test_mesa_adds_the_published_trajectory_term_from_its_start_on():
    """SAF's golden has rows of logits 4 z.q against ten fixed columns; MESA's past is the EMA encoder."""
    golden, (_, term) = CASES["SAF trajectory loss"], PRESETS["mesa"].objective.terms
    graph = dataclasses.replace(term.graph, target_temperature=5 / 4)
    past = dataclasses.replace(term, graph=graph, temperature=5 / 4, keys=Rows("prototypes"))
    assert past.weight["weight"] == pytest.approx(25 * 0.8)

    def kl(z, progress):
        columns = jnp.float32(QUEUE[:10])
        blocks = {"image": images(z, same_view_teacher=Z2), "prototypes": key_block(columns, same_view_teacher=columns)}
        objective = dataclasses.replace(PRESETS["mesa"].objective, terms=(past,))
        return objective_loss(objective, blocks, 12, 0.1, StepValues(progress=progress))[1]["kl"]

    value, slope = value_and_slope(lambda z: kl(z, 0.5) / 0.8)
    assert value == pytest.approx(golden["expected"], rel=1e-4)
    assert slope == pytest.approx(golden["also"]["gradient_norm_z1"], rel=1e-4)
    assert kl(jnp.float32(Z1), 0.01) == 0
    assert kl(jnp.float32(Z2), 0.5) == pytest.approx(0, abs=1e-4)  # the past is now


def test_mesa_compares_the_same_views_by_the_steps_own_blocks():
    """With a teacher that is the student the term has no gradient; with the next views of it, it has one."""
    objective = PRESETS["mesa"].objective
    inputs = synthetic.inputs_of(objective)
    inputs["batch"]["teacher_image"] = inputs["trained"]["images"]
    term = objective.terms[1]
    for same, close in ((True, True), (False, False)):
        graph = dataclasses.replace(term.graph, source={"name": "teacher", "same_view": same})
        alone = dataclasses.replace(objective, terms=(dataclasses.replace(term, graph=graph),))
        slope = quick_jit(lambda given, of=alone: synthetic.loss_and_gradient(of, given)[1]["images"])(inputs)
        assert bool(np.abs(slope).max() < 1e-5) == close


def test_the_correlation_term_of_barlip_gives_the_golden():
    """The golden has two texts per image: a pair of the clean image and text, and four of two views and two texts."""
    golden = CASES["BarLIP term (clip-rocket)"]
    feature = PRESETS["barlip"].objective.feature_terms

    def term(views, text):
        blocks = {"image": images(*views), "text": texts(text)}
        return preset_value("barlip", blocks, terms=(), feature_terms=feature)

    def loss(rows):
        first, second, text = rows
        other = jnp.float32(golden["extra"]["text2"])
        return (term((first,), text) + 2 * term((first, second), text) + 2 * term((first, second), other)) / 5

    value, slopes = quick_jit(jax.value_and_grad(loss))(tuple(map(jnp.float32, (Z1, Z2, Z3))))
    assert value == pytest.approx(golden["expected"], rel=1e-5)
    for slope, norm in zip(slopes, golden["extra"]["grad_norm"].values(), strict=True):
        assert np.linalg.norm(slope) == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize(
    ("term", "field", "words"),
    [
        ({"anchors": "mixed", "keys": "text", "graph": "identity"}, "graph.source", "'id'"),
        ({"anchors": "mixed", "keys": "text", "graph": "label"}, "graph.source", "'label'"),
        ({"anchors": "image", "keys": "text", "graph": "mixed"}, "graph.source", "'beta'"),
        ({"anchors": "text", "keys": "mixed", "graph": "mixed"}, "graph.source", "'beta'"),
        ({"graph": {"source": {"name": "teacher", "same_view": True}, "normalizer": "softmax"}}, "source", "a teacher"),
    ],
)
def test_what_makes_no_sense_is_refused(term, field, words):
    found = problems(preset="clip_frozen_text", terms=(term,))
    assert any(problem.field.endswith(field) and words in str(problem) for problem in found)


# Images mixed before the encoder: Metrix on inputs.


def one_of_each(label):
    """One row of every image with the classes `label`."""
    z = np.asarray(unit_rows(jnp.asarray(np.random.default_rng(4).normal(size=(len(label), 6)), jnp.float32)))
    return image_block(jnp.asarray(z), {"id": jnp.arange(len(label)), "label": jnp.asarray(label)}, 1)


def test_the_partner_is_the_nearest_image_of_another_class():
    label = np.array([0, 1, 0, -1, 2, -1, 1, 0])
    one = one_of_each(label)
    mix = quick_jit(lambda key, one: hard_partners(key, one, one["z"]))
    pixels, place, beta = mix(jax.random.key(3), one)
    z = np.asarray(one["z"])
    for i in range(8):
        others = [j for j in range(8) if j != i and (label[i] != label[j] or label[i] < 0)]
        assert place[i] == max(others, key=lambda j: z[i] @ z[j])
    assert ((beta > 0) & (beta < 1)).all()
    np.testing.assert_allclose(pixels, beta[:, None] * z + (1 - beta)[:, None] * z[place], rtol=1e-5, atol=1e-7)
    back = one_of_each(label[::-1])  # what is drawn is the image's, wherever in the batch
    back |= {name: one[name][::-1] for name in ("id", "id_words")}
    np.testing.assert_array_equal(mix(jax.random.key(3), back)[2], beta[::-1])
    *_, alone = mix(jax.random.key(3), one_of_each(np.zeros(5, int)))
    assert (alone == 1).all()  # without another class nothing is mixed


@pytest.mark.parametrize(("preset", "name"), [("metrix_input", "mixed_images"), ("metrix_features", "mixed_features")])
def test_metrix_on_inputs_in_plain_numpy(preset, name):
    """Clean pairs of one class pulled and others pushed below 0.5; mixtures pulled by lam and pushed by 1 - lam."""
    rng, label = np.random.default_rng(2), np.array([0, 1, 0, 2, 1, 2])
    rows = rng.normal(size=(12, 5))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    mixed = 0.4 * rows[::2] + 0.6 * rows[[2, 4, 6, 8, 10, 0]] + 0.02 * rng.normal(size=(6, 5))
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    partner, beta = np.array([1, 2, 3, 4, 5, 0]), rng.uniform(0.2, 0.8, 6)

    def loss(pairs):
        """pairs: (distance, share) of all; the means over those that are not 0."""
        pull = [share * d for d, share in pairs if share * d > 0]
        push = [(1 - share) * (0.5 - d) for d, share in pairs if share < 1 and d < 0.5]
        return np.mean(pull) + (np.mean(push) if push else 0)

    def apart(x, y):
        return np.linalg.norm(x - y)

    of = np.repeat(label, 2)
    clean = [(apart(rows[i], rows[k]), float(of[i] == of[k])) for i in range(12) for k in range(12) if i != k]
    shares = [
        (apart(rows[i], mixed[m]), beta[m] if of[i] == label[m] else 1 - beta[m])
        for i in range(12)
        for m in range(6)
        if of[i] in (label[m], label[partner[m]])
    ]
    ids = jnp.arange(6)
    image = image_block(jnp.asarray(rows, jnp.float32), {"id": ids, "label": jnp.asarray(label)}, 2)
    one = {name: image[name][::2] for name in ("id", "id_words", "label")}
    block = block_of_mixed(jnp.asarray(mixed, jnp.float32), one, jnp.asarray(partner), jnp.asarray(beta), 99)
    objective = PRESETS[preset].objective
    value, _ = quick_jit(lambda blocks: objective_loss(objective, blocks, 6, 1.0))({"image": image, name: block})
    assert float(value) == pytest.approx(loss(clean) + 0.4 * loss(shares), rel=1e-5)


def test_images_are_mixed_before_the_encoder():
    """The step encodes lam x_i + (1 - lam) x_j of the last views; gradient reaches the encoder through both."""
    objective = PRESETS["metrix_input"].objective
    inputs = synthetic.inputs_of(objective)
    seen = []

    class Watched(synthetic.Network):
        def project(self, images):
            seen.append(images)
            return images, images**3  # no linear map, so that mixed rows are not mixed embeddings

    images, batch = jnp.asarray(inputs["trained"]["images"]), inputs["batch"]
    step = StepInputs(images, None, batch, {}, 0.0, jax.random.key(5))
    network = Watched(None, {}, objective)
    blocks = step_blocks(objective, network, {}, step, images**3, {})
    (mixed,) = seen
    block, last = blocks["mixed_images"], np.asarray(images)[1::2]
    place = [list(batch["id"]).index(one) for one in np.asarray(block["partner"])]
    beta = np.asarray(block["beta"])[:, None]
    np.testing.assert_allclose(mixed, beta * last + (1 - beta) * last[place], rtol=1e-5)
    np.testing.assert_allclose(block["z"], unit_rows(mixed**3), rtol=1e-5)
    np.testing.assert_array_equal(block["first_label"], batch["label"])
    np.testing.assert_array_equal(block["partner_label"], batch["label"][place])
    with pytest.raises(ConfigError, match=r"loss\.grad_cache.*mixed images"):
        tiny_config(objective__preset="metrix_input", loss__grad_cache=2)


def test_features_are_mixed_before_the_head_with_the_draws_of_mixed_images():
    """The head sees lam h_i + (1 - lam) h_j of the last views, with gradient through both; nothing is encoded again."""
    objective = PRESETS["metrix_features"].objective
    inputs = synthetic.inputs_of(objective)
    images, batch = jnp.asarray(inputs["trained"]["images"]), inputs["batch"]

    class Curved(synthetic.Network):
        project = None

        def head(self, features):
            return features**3

    def block_of(features):
        step = StepInputs(images, None, batch, {}, 0.0, jax.random.key(5), features=features)
        return step_blocks(objective, Curved(None, {}, objective), {}, step, images**3, {})["mixed_features"]

    features = jnp.asarray(np.random.default_rng(1).normal(size=images.shape), jnp.float32)
    block = block_of(features)
    place = [list(batch["id"]).index(one) for one in np.asarray(block["partner"])]
    beta, last = np.asarray(block["beta"])[:, None], np.asarray(features)[1::2]
    np.testing.assert_allclose(block["z"], unit_rows((beta * last + (1 - beta) * last[place]) ** 3), rtol=1e-5)
    slope = jax.grad(lambda h: block_of(h)["z"][0, 0])(features)
    assert set(np.flatnonzero(np.abs(slope).max(axis=1))) == {1, 2 * place[0] + 1}
    with pytest.raises(ConfigError, match=r"loss\.grad_cache.*mixed images"):
        tiny_config(objective__preset="metrix_features", loss__grad_cache=2)
    keys = {"block": "mixed_features"}
    mixed = {"graph": {"source": "mixed_labels", "normalizer": "none"}, "keys": keys, "negatives": "positives"}
    changes = {"objective__preset": "coca", "objective__terms": (mixed,), "model__encoder": "resnet18"}
    with pytest.raises(ConfigError, match="decoder of captions"):
        tiny_config(**changes)


def test_running_statistics_are_of_images_that_are_not_mixed():
    """metrix has the same views and encoder, and mixes nothing before its loss."""

    def statistics(preset):
        config = tiny_config(objective__preset=preset, model__encoder="mlp1", model__width=8)
        return run_steps(config, steps=1)[1].statistics

    plain, *mixing = map(statistics, ("metrix", "metrix_input", "metrix_features"))
    assert any("mean" in name for name in plain)
    for name, value in plain.items():
        for other in mixing:
            np.testing.assert_allclose(other[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


def test_mixup_blends_random_pairs_and_keeps_the_larger_share():
    one, pixels = one_of_each(np.zeros(64, int)), np.random.default_rng(0).normal(size=(64, 3, 4, 2)).astype(np.float32)
    for concentration, (low, high) in {1.0: (0.7, 0.8), 50.0: (0.5, 0.6)}.items():  # means of max(lam, 1 - lam)
        mix = quick_jit(lambda key, one, pixels, a=concentration: mixup(key, one, pixels, concentration=a))
        mixed, partner, share = mix(jax.random.key(1), one, pixels)
        assert sorted(partner) == list(range(64))
        assert (partner != np.arange(64)).all()
        assert (share >= 0.5).all()
        assert low < share.mean() < high
        part = share[:, None, None, None]
        np.testing.assert_allclose(mixed, part * pixels + (1 - part) * pixels[partner], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(20, 30, 3), (40,)])
def test_cutmix_pastes_one_box_and_its_share_is_counted(shape):
    one, images = one_of_each(np.zeros(64, int)), 64
    own = np.arange(images, dtype=np.float32).reshape(-1, *[1] * len(shape))
    pixels = np.broadcast_to(own, (images, *shape))  # every pixel says whose it is
    mixed, partner, share = map(np.asarray, quick_jit(cutmix)(jax.random.key(2), one, jnp.asarray(pixels)))
    assert len({round(float(value), 3) for value in share}) > 12  # a box for every image
    for i in range(images):
        pasted = mixed[i] == partner[i]
        assert (pasted | (mixed[i] == i)).all()
        assert share[i] == pytest.approx(1 - pasted.mean(), abs=1e-6)
        assert share[i] >= 0.49
        sides = [
            np.flatnonzero(pasted.any(axis=tuple(a for a in range(pasted.ndim) if a != axis)))
            for axis in (0, 1)[: pasted.ndim]
        ]
        box = pasted[np.ix_(*sides)] if all(map(len, sides)) else np.ones(1)
        assert box.all()
        assert all((np.diff(side) == 1).all() for side in sides)


@pytest.mark.parametrize("preset", ["imix", "classifier_mixup"])
def test_mixed_images_in_plain_numpy(preset):
    """lam times the cross-entropy of the own image or class + (1 - lam) times that of the partner's."""
    rng, label = np.random.default_rng(4), np.array([0, 1, 0, 2, 1, 2])
    rows, mixed, table = (rng.normal(size=(n, 5)) for n in (12, 6, 3))
    rows, mixed, table = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, mixed, table))
    partner, lam = np.array([3, 0, 5, 1, 2, 4]), rng.uniform(0.5, 1, 6)
    objective = PRESETS[preset].objective
    keys, of = (rows[::2], np.arange(6)) if preset == "imix" else (table, label)
    logits = mixed @ keys.T / objective.temperature
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean([lam[i] * log_p[i, of[i]] + (1 - lam[i]) * log_p[i, of[partner[i]]] for i in range(6)])

    image = image_block(jnp.float32(rows), {"id": jnp.arange(6), "label": jnp.asarray(label)}, 2)
    one = {name: image[name][::2] for name in ("id", "id_words", "label")}
    blocks = {
        "image": image,
        "mixed_images": block_of_mixed(jnp.float32(mixed), one, jnp.asarray(partner), jnp.float32(lam), 99),
        "classes": key_block(jnp.float32(table), label=jnp.arange(3)),
    }
    value, _ = quick_jit(lambda blocks: objective_loss(objective, blocks, 6, objective.temperature))(blocks)
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_an_image_without_a_class_gives_its_share_to_none():
    """faults A7: a fifth of class 2 and four fifths of no class was trained as class 2 with weight 1."""
    lam, label = 0.8, jnp.array([-1, 2, -1, 1])
    objective = PRESETS["classifier_mixup"].objective
    z = jnp.asarray(np.eye(4, 5), jnp.float32)
    one = {"id": jnp.arange(4), "label": label} | {"id_words": image_block(z, {"id": jnp.arange(4)}, 1)["id_words"]}
    block = block_of_mixed(z, one, jnp.array([1, 0, 0, 1]), jnp.full(4, lam), 99)
    classes = key_block(jnp.asarray(np.eye(3, 5), jnp.float32), label=jnp.arange(3))
    term = objective.terms[0]
    found = target(term.graph, block, classes, jnp.ones((4, 3), bool), 0.1)
    np.testing.assert_allclose(found, [[0, 0, 0.2], [0, 0, 0.8], [0, 0, 0], [0, 0.8, 0.2]], atol=1e-6)
