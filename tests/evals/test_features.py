"""Extraction: exact counts with padding, side information beside its rows, backgrounds."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.errors import DataError
from xsample_jax.evals.evaluate import side_by_side
from xsample_jax.evals.features import FeatureStore, check_finite, extract_features
from xsample_jax.evals.linear_probes import fit_probes
from xsample_jax.setup import build_run


def batches(count=21, size=8):
    """The last batch is padded by repeating record 0, as a pipeline may do: only the mask tells."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    for start in range(0, count, size):
        rows = np.arange(start, start + size)
        mask, rows = rows < count, rows % count * (rows < count)
        yield {
            "image": images[rows],
            "id": (1000 + rows).astype(np.int32),
            "label": (rows // 3).astype(np.int32),
            "caption_embedding": np.repeat(rows[:, None], 5, axis=1).astype(np.float16),
            "attribute/style": (rows % 4).astype(np.int32),
            "mask": mask,
        }


@jax.jit
def encode(images, background=None):
    x = images.astype(jnp.bfloat16).reshape(len(images), -1)
    features = x[:, :6] if background is None else x[:, :6] + background[:, 0, 0, :1]
    return features, x[:, :2].astype(jnp.float32)


def test_padding_is_not_counted():
    features = extract_features(encode, batches(), attribute_names={"style": ["a", "b", "c", "d"]})
    assert len(features) == 21
    np.testing.assert_array_equal(features.id, 1000 + np.arange(21))
    np.testing.assert_array_equal(features.label, np.arange(21) // 3)
    np.testing.assert_array_equal(features.attributes["style"], np.arange(21) % 4)
    np.testing.assert_array_equal(features.caption_embedding[:, 2], np.arange(21))
    images = np.concatenate([batch["image"][batch["mask"]] for batch in batches()])
    np.testing.assert_array_equal(features.features, images.reshape(21, -1)[:, :6])
    assert features.features.dtype == features.embedding.dtype == features.caption_embedding.dtype == np.float32
    style = features.where("style", "c")
    np.testing.assert_array_equal(style.id, 1000 + np.arange(2, 21, 4))
    np.testing.assert_array_equal(style.features, features.features[2::4])


def test_background_is_made_per_batch():
    ground = lambda batch: np.broadcast_to(batch["id"][:, None, None, None] * 1.0, (len(batch["id"]), 4, 4, 3))  # noqa: E731
    plain = extract_features(encode, batches())
    grounded = extract_features(encode, batches(), background=ground)
    np.testing.assert_allclose(grounded.features, plain.features + grounded.id[:, None])


def test_errors_name_what_there_is():
    features = extract_features(lambda images: (jnp.zeros((len(images), 2)), None), batches())
    assert features.embedding is None
    with pytest.raises(DataError, match="style"):
        features.attribute("subgroup")
    with pytest.raises(DataError, match="noto"):
        features.where("style", "noto")
    with pytest.raises(DataError, match="at least one batch"):
        extract_features(encode, [])


def test_rows_that_are_not_finite_are_named():
    """faults D: one row of NaN gave every query other neighbors, without a word."""
    rows = np.ones((30, 4), np.float32)
    check_finite(rows, "test", range(30))
    rows[[7, 9], [0, 3]] = np.nan, np.inf
    with pytest.raises(DataError, match=r"features of test = '2 of 30 rows with NaN or infinity, the first is 107'"):
        check_finite(rows, "test", range(100, 130))


@pytest.mark.usefixtures("linear_encoder")
def test_a_split_with_such_a_row_is_not_evaluated(monkeypatch):
    """faults D: kNN, recall and k-means went on with it."""
    setup, _ = build_run(tiny_config(data__samples_per_class=1))

    def poisoned(state, images, background=None, ids=None):
        features, z = setup.encode(state, images, background, ids)
        return features.at[2, 0].set(jnp.nan), z

    store = FeatureStore(setup, setup.new_state(), encode=poisoned)
    with pytest.raises(DataError, match=r"features of test = .* of .* rows with NaN"):
        store("test")


def test_sharded_results_come_in_order():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    sharded = jax.jit(lambda images: encode(images), out_shardings=sharding)
    np.testing.assert_array_equal(
        extract_features(sharded, batches()).features, extract_features(encode, batches()).features
    )


def test_features_of_several_models_stand_side_by_side_and_keep_what_each_of_them_knows():
    """The last step of MCL on a set whose two factors suppress each other: a stage knows the one or the other."""
    rng = np.random.default_rng(3)
    factors = {"color": rng.integers(0, 4, 400), "shape": rng.integers(0, 4, 400)}
    images = np.stack(list(factors.values()), axis=1)

    def model(knows):
        def encode(state, images, background=None, ids=None):
            of_factor = np.eye(4, dtype=np.float32)[images[:, knows]]
            return jnp.asarray(of_factor + 0.05 * state), jnp.full((len(images), 2), knows)

        noise = rng.normal(size=(400, 4)).astype(np.float32)
        return types.SimpleNamespace(parts=types.SimpleNamespace(encode=encode), state=noise)

    first, second = model(0), model(1)
    assert side_by_side([first]) is None
    features, z = side_by_side([first, second])(first.state, images)
    np.testing.assert_array_equal(features[:, :4], first.parts.encode(first.state, images)[0])
    np.testing.assert_array_equal(features[:, 4:], second.parts.encode(second.state, images)[0])
    np.testing.assert_array_equal(z, 0)
    accuracy = {}
    for name, rows in (("first", features[:, :4]), ("second", features[:, 4:]), ("both", features)):
        probes = fit_probes(np.asarray(rows)[:200], {k: v[:200] for k, v in factors.items()}, np.arange(200))
        predicted = {k: probes[k].predict(np.asarray(rows)[200:]) for k in factors}
        accuracy[name] = {k: np.mean(predicted[k] == factors[k][200:]) for k in factors}
    assert accuracy["first"]["shape"] < 0.5 < 0.95 < accuracy["first"]["color"]
    assert accuracy["second"]["color"] < 0.5 < 0.95 < accuracy["second"]["shape"]
    assert min(accuracy["both"].values()) > 0.95
