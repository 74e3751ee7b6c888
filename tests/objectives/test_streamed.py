"""The streaming loss inside an objective: loss, metrics and gradient of the dense one, on one device and on eight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.blocks import Rows, image_block, key_block, other_view
from xsample_jax.objectives.cross_entropy import PULLS
from xsample_jax.objectives.mixtures import block_of_mixed
from xsample_jax.objectives.objective import Objective, find_unstreamable, objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.streaming.loss import Streaming
from xsample_jax.objectives.terms import Term

IMAGES, VIEWS, WIDTH = 16, 2, 8
STREAMABLE = [
    name
    for name, preset in PRESETS.items()
    if preset.objective.terms and not find_unstreamable(preset.objective) and not preset.objective.memory
]


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


def inputs():
    rng = np.random.default_rng(0)
    return {
        "z": unit(rng, IMAGES * VIEWS, WIDTH),
        "text": unit(rng, IMAGES, WIDTH),
        "teacher": unit(rng, IMAGES * VIEWS, WIDTH),
        "predicted": unit(rng, IMAGES * VIEWS, WIDTH),
        "queue": unit(rng, 32, WIDTH),
        "captions": jnp.asarray(unit(rng, IMAGES, 12), jnp.float16),
        "label": jnp.arange(IMAGES) // 3,
        "share": jnp.linspace(0.5, 1, IMAGES),
    }


def blocks_of(x):
    per_image = {
        "id": jnp.arange(IMAGES),
        "label": x["label"],
        "path": jnp.stack([x["label"] // 2, x["label"], jnp.arange(IMAGES)], axis=1),
        "caption_embedding": x["captions"],
        "target": jnp.stack([x["label"] / 2, jnp.arange(IMAGES) % 4], axis=1),
        "labels": (jnp.arange(5) < x["label"][:, None]).astype(jnp.int32),
        "class_embedding": x["captions"][x["label"]],
        "text": jax.lax.stop_gradient(x["text"]),
        "image": jax.lax.stop_gradient(x["z"].reshape(IMAGES, VIEWS, WIDTH).mean(1)),
    }
    rows = IMAGES * VIEWS
    of_teacher = {"teacher": other_view(x["teacher"], VIEWS), "same_view_teacher": x["teacher"]}
    of_teacher |= {"frozen": x["teacher"][:, ::-1], "frozen_pair": x["teacher"]}
    of_decoder = {"token_loss": jnp.sum(x["z"] ** 2 * jnp.arange(WIDTH), axis=1), "token_count": jnp.arange(rows) % 5}
    image = image_block(x["z"], per_image, VIEWS, 0, **of_teacher, **of_decoder)
    mixed = {name: image[name][::2] for name in ("id", "id_words", "label")}
    teacher = image_block(x["teacher"], per_image, VIEWS, 2 * rows, teacher=x["teacher"])
    return {
        "image": image,
        "text": image_block(x["text"], per_image, 1, rows, teacher=x["text"], frozen_pair=x["queue"][:IMAGES]),
        "predicted": image_block(x["predicted"], per_image, VIEWS, 4 * rows),
        "teacher": teacher,
        "frozen": image_block(x["teacher"][:, ::-1], per_image, VIEWS, 9 * rows, frozen=x["teacher"][:, ::-1]),
        "frozen_queue": key_block(x["queue"], frozen=x["queue"], filled=jnp.arange(32) < 20),
        # Two wrong captions of each image, of which some are not there.
        "hard_text": key_block(x["teacher"][:, ::-1], owner=jnp.arange(rows) // 2, filled=jnp.arange(rows) % 3 > 0),
        "neighbors": image_block(x["teacher"], per_image, VIEWS, 5 * rows),
        "mixed_images": block_of_mixed(x["z"][::2], mixed, jnp.roll(mixed["id"], 3), x["share"], 11 * rows),
        "queue": key_block(
            x["queue"],
            teacher=x["queue"],
            label=jnp.arange(32) % 7 - 1,
            caption_embedding=jnp.asarray(x["queue"][:, ::-1] @ jnp.eye(WIDTH, 12), jnp.float16),
            filled=jnp.arange(32) < 20,
        ),
    }


def evaluate(objective, how, devices):
    mesh = Mesh(
        np.array(jax.devices()[:devices]).reshape(devices, 1), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2
    )
    classes = np.asarray(inputs()["captions"])  # those of blocks_of, by label
    how = how and dataclasses.replace(
        how, mesh=mesh, lowest_temperature=objective.temperature, class_embeddings=classes
    )

    def loss(trained, rest):
        value, metrics = objective_loss(objective, blocks_of(trained | rest), IMAGES, objective.temperature, how=how)
        return value, metrics

    given = jax.device_put(inputs(), NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
    trained = {key: given.pop(key) for key in ("z", "text", "predicted")}
    (_, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(trained, given)
    return jax.device_get((metrics, gradient))


def metrics_on(devices, dense):
    return set(dense) - (set(PULLS) if devices > 1 else set())


def assert_streamed_is_dense(objective, block_size, devices, tolerance):
    """The metrics of the dense form (PULLS on one device only), and gradients with an error below `tolerance`."""
    dense, dense_slopes = evaluate(objective, None, 1)
    streamed, slopes = evaluate(objective, Streaming("streaming", block_size=block_size), devices)
    assert set(streamed) == metrics_on(devices, dense)
    for name, value in streamed.items():
        assert value == pytest.approx(float(dense[name]), rel=1e-5, abs=1e-5), name
    for name, slope in dense_slopes.items():
        np.testing.assert_allclose(slopes[name], slope, atol=tolerance * np.abs(dense_slopes["z"]).max(), err_msg=name)


@functools.cache
def dense_of(name):
    return evaluate(PRESETS[name].objective, None, 1)


@pytest.mark.parametrize(("name", "devices"), [*((name, n) for n in (1, 8) for name in STREAMABLE), ("xclr", 2)])
def test_streamed_is_dense(name, devices):
    objective = PRESETS[name].objective
    dense, dense_gradient = dense_of(name)
    exchange = "ring" if name in ("ressl", "clip") else "gather"
    streamed, gradient = evaluate(objective, Streaming("streaming", block_size=16, collective=exchange), devices)
    assert set(streamed) == metrics_on(devices, dense)
    for metric, value in streamed.items():
        assert value == pytest.approx(float(dense[metric]), rel=1e-5, abs=1e-5), metric
    for key, value in dense_gradient.items():
        scale = np.abs(np.concatenate([g.ravel() for g in dense_gradient.values()])).max()
        np.testing.assert_allclose(gradient[key], value, atol=2e-5 * scale, err_msg=key)


def test_centered_captions_are_streamed_too():
    """`how` names the type in which captions travel, which centered ones need in full."""
    assert_streamed_is_dense(dataclasses.replace(PRESETS["xclr"].objective, center=True), 16, 2, 2e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_wrong_captions_that_are_not_there_are_no_keys(devices):
    term = PRESETS["degla"].objective.terms[0]
    assert [rows.block for rows in term.key_rows] == ["text", "hard_text"]
    assert_streamed_is_dense(Objective((term,), 0.1), 8, devices, 1e-5)


@pytest.mark.parametrize("block", ["classes", "centers"])
def test_rows_of_classes_are_not_streamed(block):
    """There are as many as classes, which devices need not divide, and they have no images to lie beside."""
    term = Term(graph=Graph("label", normalizer="row_sum"), keys=Rows(block))
    ((number, reason),) = find_unstreamable(Objective((term,), 0.1))
    assert (number, "rows of classes" in reason) == (0, True)


FIRST_VIEW = Rows("image", 0)
CAPTIONS, LABELS = Graph("caption", "softmax"), Graph("label", "row_sum")
STEEP = dataclasses.replace(CAPTIONS, transforms=({"name": "affine", "scale": 20.0, "offset": 0.0},))


@pytest.mark.parametrize(
    ("term", "tau_s"),
    [
        (Term(CAPTIONS, FIRST_VIEW, Rows("queue")), 0.1),
        (Term(LABELS, FIRST_VIEW, Rows("queue")), 0.1),
        (Term(CAPTIONS, FIRST_VIEW, (Rows("teacher", 1), Rows("queue"))), 0.1),
        (Term(STEEP), 0.2),  # exponents up to 100, which float32 cannot hold unless the largest is taken off
    ],
    ids=["captions of a queue", "labels of a queue", "keys and a queue", "similarities above one"],
)
def test_streamed_is_dense_for_terms_that_no_preset_has(term, tau_s):
    objective = Objective((term,), temperature=0.2, target_temperature=tau_s)
    dense, _ = evaluate(objective, None, 1)
    streamed, _ = evaluate(objective, Streaming("streaming", block_size=16), 1)
    assert set(streamed) == set(dense)
    for metric, value in streamed.items():
        assert value == pytest.approx(float(dense[metric]), rel=1e-5, abs=1e-5), metric


def test_an_objective_reaches_the_kernels():
    """With tiles = pallas what they cannot do is an error, so a value says that they did it."""
    objective = PRESETS["xclr"].objective
    dense, _ = evaluate(objective, None, 1)
    streamed, _ = evaluate(objective, Streaming("streaming", block_size=64, kernel="pallas"), 1)
    assert streamed["loss"] == pytest.approx(float(dense["loss"]), rel=1e-5)


def test_the_presets_of_the_paper_can_be_streamed():
    assert {"xclr", "xclr_class_text", "xclr_hierarchy", "simclr", "supcon", "clip", "cwcl", "siglip"} <= set(
        STREAMABLE
    )
    assert {"y_aware", "multi_label"} <= set(STREAMABLE)


def test_auto_streams_all_that_can_be_streamed():
    assert Streaming().wants(None)
    assert not Streaming("dense").wants(None)
    ((_, reason),) = find_unstreamable(PRESETS["dcl"].objective)
    assert not Streaming().wants(reason)


def test_a_tau_s_that_is_a_rule_is_dense_under_auto():
    ruled = dataclasses.replace(PRESETS["xclr"].objective, target_temperature={"name": "neighbors", "count": 4.0})
    dense, _ = evaluate(ruled, None, 1)
    auto, _ = evaluate(ruled, Streaming(), 8)
    assert auto["loss"] == pytest.approx(float(dense["loss"]), rel=1e-5)
