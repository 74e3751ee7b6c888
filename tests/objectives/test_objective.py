"""Objectives on a batch: the paper's numbers and identities, a float64 numpy reference, and any number of devices."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from xsample_jax.errors import DataError
from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.blocks import image_block
from xsample_jax.objectives.objective import Objective, center_texts, objective_loss
from xsample_jax.objectives.presets import PRESETS as ALL_PRESETS
from xsample_jax.objectives.terms import Term

GOLDENS = json.loads((pathlib.Path(__file__).parent / "goldens.json").read_text())
EXPECTED = {case["name"]: case["expected"] for case in GOLDENS["cases"]}
EXTRA = {case["name"]: case["extra"] for case in GOLDENS["cases"]}
PRESETS = {name: preset.objective for name, preset in ALL_PRESETS.items()}
COMMON = {name: np.asarray(value) for name, value in GOLDENS["common"].items()}


def rows(*views):
    """Views [B, D] interleaved into rows image*V + view."""
    return jnp.asarray(np.stack(views, axis=1).reshape(-1, views[0].shape[1]))


def side(ids, views=1, **information):
    return {"views": views, "id": jnp.asarray(ids), **{name: jnp.asarray(value) for name, value in information.items()}}


def image_loss(objective, z, information):
    per_image = {name: value for name, value in information.items() if name != "views"}
    blocks = {"image": image_block(jnp.asarray(z), per_image, information["views"])}
    return objective_loss(objective, blocks, len(per_image["id"]), objective.temperature)


def image_loss_value(objective, z, information):
    return float(image_loss(objective, z, information)[0])


def class_embeddings(similarity):
    """Rows whose cosines are the given positive semi-definite matrix."""
    values, vectors = np.linalg.eigh(np.asarray(similarity))
    assert values.min() > -1e-9
    return vectors * np.sqrt(np.maximum(values, 0))


def test_goldens_of_xclr_on_class_similarities():
    labels = COMMON["labels"]
    z = rows(COMMON["z1"], COMMON["z2"])
    for name, tau_s in (("X-CLR self EXCLUDED (2nd reimplementation)", 0.1), ("X-CLR tau_s->0 == SupCon", None)):
        classes = class_embeddings(EXTRA[name]["class_sim"]) if tau_s else np.eye(4)
        information = side(np.arange(12), 2, label=labels, class_embedding=classes[labels])
        xclr = Objective((Term(Graph("class_text", "softmax")),), temperature=0.1, target_temperature=tau_s or 1e-4)
        assert image_loss(xclr, z, information)[0] == pytest.approx(EXPECTED[name], rel=1e-5)


def paper_batch():
    """The construction of golden numbers for the paper's equation: 4 images, 2 views, 3 dimensions."""

    def normalize(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    index = np.arange(12).reshape(4, 3)
    z = rows(normalize(np.sin(1.0 + index)), normalize(np.sin(1.3 + index)))
    return z, normalize(np.cos(0.7 * np.arange(20).reshape(4, 5)))


@pytest.mark.parametrize(
    ("tau_s", "loss", "target_entropy"),
    [(0.1, 1.0955280521680013, 0.6175204046116902), (1e5, 12.030831360942095, np.log(7))],
)
def test_xclr_equation(tau_s, loss, target_entropy):
    z, captions = paper_batch()
    objective = dataclasses.replace(PRESETS["xclr"], target_temperature=tau_s)
    value, metrics = image_loss(objective, z, side(np.arange(4), 2, caption_embedding=captions))
    assert value == pytest.approx(loss, rel=1e-5)
    assert metrics["target_entropy"] == pytest.approx(target_entropy, rel=1e-5)
    assert metrics["kl"] == pytest.approx(loss - target_entropy, rel=1e-4)


def test_xclr_reduces_to_nt_xent_and_supcon():
    z, _ = paper_batch()
    ids, labels = np.arange(4), np.array([0, 1, 0, 2])
    nt_xent = image_loss_value(PRESETS["simclr"], z, side(ids, 2))
    supcon = image_loss_value(PRESETS["supcon"], z, side(ids, 2, label=labels))
    sharp = dataclasses.replace(PRESETS["xclr"], target_temperature=1e-5)
    soft_identity = dataclasses.replace(PRESETS["xclr"], target_temperature=0.1)
    one_hot = side(ids, 2, caption_embedding=np.eye(4))
    assert nt_xent == pytest.approx(1.0661842407788982, rel=1e-5)
    assert supcon == pytest.approx(1.1180577749564669, rel=1e-5)
    assert image_loss_value(sharp, z, one_hot) == pytest.approx(nt_xent, rel=1e-5)
    assert image_loss_value(soft_identity, z, one_hot) == pytest.approx(1.0696678765349406, rel=1e-5)
    classes = side(ids, 2, caption_embedding=np.eye(3)[labels])
    assert image_loss_value(sharp, z, classes) == pytest.approx(supcon, rel=1e-5)


def reference_loss_and_gradient(z, similarity, tau, tau_s):
    """Float64 numpy: the loss of the paper and its gradient (p - s)(z z^T) written out."""
    n = len(z)
    off = ~np.eye(n, dtype=bool)

    def rowwise(logits):
        e = np.where(off, np.exp(logits - logits[off].max()), 0)
        return e / e.sum(1, keepdims=True)

    s, p = rowwise(similarity / tau_s), rowwise(z @ z.T / tau)
    loss = -np.sum(s[off] * np.log(p[off])) / n
    gradient_of_logits = (p - s) / n / tau
    return loss, (gradient_of_logits + gradient_of_logits.T) @ z


def random_batch(rng, images=16, views=2, width=8):
    z = rng.normal(size=(images * views, width))
    captions = rng.normal(size=(images, 5))
    captions[3] = captions[2]  # two images share a caption
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    return z / np.linalg.norm(z, axis=1, keepdims=True), captions


@pytest.mark.parametrize("tau", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("tau_s", [0.02, 0.1, 1.0])
def test_loss_and_gradient_equal_float64_reference(tau, tau_s):
    z, captions = random_batch(np.random.default_rng(0))
    u = np.repeat(captions, 2, axis=0)
    loss, gradient = reference_loss_and_gradient(z, u @ u.T, tau, tau_s)
    objective = dataclasses.replace(PRESETS["xclr"], temperature=tau, target_temperature=tau_s)
    information = side(np.arange(16), 2, caption_embedding=captions.astype(np.float32))
    value, got = jax.value_and_grad(lambda x: image_loss(objective, x, information)[0])(jnp.asarray(z, jnp.float32))
    assert value == pytest.approx(loss, rel=2e-6)
    np.testing.assert_allclose(got, gradient, atol=3e-6 * np.abs(gradient).max())


def test_batch_order_and_view_order_do_not_matter():
    rng = np.random.default_rng(1)
    z, captions = random_batch(rng)
    z = z.astype(np.float32)
    loss = image_loss(PRESETS["xclr"], jnp.asarray(z), side(np.arange(16), 2, caption_embedding=captions))[0]
    order = rng.permutation(16)
    shuffled = z.reshape(16, 2, -1)[order][:, ::-1].reshape(32, -1)
    other = image_loss(PRESETS["xclr"], jnp.asarray(shuffled), side(order, 2, caption_embedding=captions[order]))[0]
    assert other == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("preset", ["xclr", "simclr", "supcon", "clip"])
@pytest.mark.parametrize("devices", [2, 8])
def test_loss_and_gradient_do_not_depend_on_the_number_of_devices(preset, devices):
    z, captions = random_batch(np.random.default_rng(2))
    objective = PRESETS[preset]
    labels = np.arange(16) // 3
    text = np.random.default_rng(3).normal(size=(16, 8))
    inputs = {
        "z": z,
        "text": text / np.linalg.norm(text, axis=1, keepdims=True),
        "captions": captions,
        "labels": labels,
    }

    def loss(arrays):
        information = {"id": jnp.arange(16), "label": arrays["labels"], "caption_embedding": arrays["captions"]}
        blocks = {
            "image": image_block(arrays["z"], information, 2),
            "text": image_block(arrays["text"], information, 1, 32),
        }
        return objective_loss(objective, blocks, 16, objective.temperature)[0]

    def gradient(arrays):
        return jax.value_and_grad(lambda x: loss({**arrays, "z": x}))(arrays["z"])

    def on(count):
        mesh = jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        arrays = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in inputs.items()}
        return jax.jit(gradient)(jax.device_put(arrays, sharding))

    one, many = on(1), on(devices)
    assert many[0] == pytest.approx(float(one[0]), rel=1e-6)
    np.testing.assert_allclose(many[1], one[1], atol=1e-6 * np.abs(one[1]).max())


def test_centering_removes_what_all_captions_share():
    z, captions = random_batch(np.random.default_rng(4))
    narrow = captions + 20 * np.ones(5)
    with_center = dataclasses.replace(PRESETS["xclr"], center=True)
    flat = image_loss(PRESETS["xclr"], jnp.asarray(z), side(np.arange(16), 2, caption_embedding=narrow))[1]
    spread = image_loss(with_center, jnp.asarray(z), side(np.arange(16), 2, caption_embedding=narrow))[1]
    same = image_loss(with_center, jnp.asarray(z), side(np.arange(16), 2, caption_embedding=captions))[1]
    assert flat["target_entropy"] > np.log(31) - 0.05
    assert spread["target_entropy"] < 2.5
    assert spread["target_entropy"] == pytest.approx(float(same["target_entropy"]), rel=1e-3)


def test_centering_a_queue_leaves_out_what_is_not_filled():
    captions = jnp.asarray([[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]])
    queue = {"caption_embedding": captions, "filled": jnp.asarray([True, True, False])}
    np.testing.assert_allclose(center_texts(queue)["caption_embedding"][:2], [[-1, -2], [1, 2]], atol=1e-6)


def test_rows_without_positive_are_dropped_from_the_mean_and_counted():
    z, _ = random_batch(np.random.default_rng(5), images=4, views=1)
    labels = np.array([0, 0, 1, 2])  # images 2 and 3 have no second row of their class
    value, metrics = image_loss(PRESETS["supcon"], jnp.asarray(z), side(np.arange(4), 1, label=labels))
    logits = z @ z.T / 0.1
    off = ~np.eye(4, dtype=bool)
    rows_of_pair = [np.log(np.exp(logits[i][off[i]]).sum()) - logits[i, 1 - i] for i in (0, 1)]
    assert metrics["rows_without_positive"] == pytest.approx(0.5)
    assert value == pytest.approx(np.mean(rows_of_pair), rel=1e-5)


def test_gradients_are_finite_on_collapsed_embeddings():
    z = jnp.ones((8, 4)) / 2
    captions = np.ones((4, 3))
    information = side(np.arange(4), 2, caption_embedding=captions)
    gradient = jax.grad(lambda x: image_loss(PRESETS["xclr"], x, information)[0])(z)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("row", [[3.0, 4.0, 0.0, 0.0], [np.nan, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
def test_rows_that_are_no_unit_vectors_are_refused(row):
    z = np.full((8, 4), 0.5)
    z[5] = row
    with pytest.raises(DataError, match=r"block 'image'.*row 5.*unit_rows"):
        image_loss(PRESETS["simclr"], jnp.asarray(z), side(np.arange(4), 2))
