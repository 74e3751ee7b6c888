"""The class-table form of the loss against the general one, which compares every pair of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.streamed_rows import class_table_rows, streaming_rows
from xsample_jax.graphs.sources import SOURCES


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("source", "normalizer", "tau_s", "views"),
    [("class_text", "softmax", 0.1, 2), ("class_text", "softmax", 0.005, 1), ("label", "row_sum", 1.0, 1)],
)
def test_equals_the_general_form(source, normalizer, tau_s, views):
    rng = np.random.default_rng(0)
    label = np.array([0, 0, 1, 2, 4, 4, 4, 1, 2, 6, 0])  # classes 3 and 5 are absent, class 6 has one image
    classes, z = unit(rng.normal(size=(7, 5))), unit(rng.normal(size=(11 * views, 8)))
    table = classes @ classes.T if source == "class_text" else np.eye(7)
    side = {"id": np.arange(11), "label": label, "class_embedding": classes[label]}
    row_weight = rng.uniform(size=len(z))
    options = {"normalizer": normalizer, "target_temperature": tau_s, "views": views, "block_size": 8}

    def general(z, tau):
        return streaming_rows(z, None, side, None, source=SOURCES[source], temperature=tau, **options)

    def by_class(z, tau):
        return class_table_rows(z, jnp.asarray(label), jnp.asarray(table), temperature=tau, **options)

    def program(rows):
        def weighted(z, tau):
            values = rows(z, tau)
            return jnp.sum(row_weight * values["loss"]), values

        options = {"xla_backend_optimization_level": 0}  # quicker to compile
        return jax.jit(jax.value_and_grad(weighted, (0, 1), has_aux=True), compiler_options=options)(
            jnp.asarray(z), jnp.asarray(0.1)
        )

    with jax.enable_x64(True):
        (_, expected), expected_gradient = program(general)
        (_, got), gradient = program(by_class)
    assert set(got) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    for one, other in zip(gradient, expected_gradient):
        np.testing.assert_allclose(one, other, atol=1e-9 * np.abs(other).max())
    if source == "label":
        assert not got["counted"][9]  # alone in its class


def test_images_without_a_class_are_in_no_target():
    rng = np.random.default_rng(1)
    z, label = unit(rng.normal(size=(5, 4))), jnp.array([0, 0, -1, 1, 1])
    options = {"normalizer": "row_sum", "temperature": 0.5}
    rows = class_table_rows(jnp.asarray(z, jnp.float32), label, jnp.eye(2), **options)
    logits = z @ z.T / 0.5
    expected = np.log(np.exp(logits[0, 1:]).sum()) - logits[0, 1]
    assert rows["loss"][0] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(rows["counted"], [True, True, False, True, True])
    np.testing.assert_allclose(rows["same_class_mass"], [1, 1, 0, 1, 1])
