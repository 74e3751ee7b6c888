import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.filled import normal, run
from xsample_jax.models.heads import ProjectionHead, unit_rows


def _paths(module):
    return {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param))}


def test_batch_norm_head_is_the_definition():
    head = ProjectionHead(6, (10, 7), 4, rngs=nnx.Rngs(0))
    assert _paths(head) == {
        "layers/0/kernel",
        "layers/1/kernel",
        "norms/0/bias",
        "norms/0/scale",
        "norms/1/bias",
        "norms/1/scale",
        "out/kernel",
    }
    x = normal(0, (5, 6))
    expected = np.asarray(x, np.float64)
    for number in range(2):
        expected = expected @ np.asarray(head.layers[number].kernel[...])
        expected = np.maximum((expected - expected.mean(0)) / np.sqrt(expected.var(0) + 1e-5), 0)
    expected = expected @ np.asarray(head.out.kernel[...])
    result = run(head, x)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_plain_head_has_biases_but_the_last_layer_has_none():
    head = ProjectionHead(6, (10,), 4, batch_norm=False, rngs=nnx.Rngs(0))
    assert _paths(head) == {"layers/0/kernel", "layers/0/bias", "out/kernel"}
    head.layers[0].bias[...] = jnp.arange(10.0) - 5
    x = normal(0, (5, 6))
    hidden = np.maximum(np.asarray(x @ head.layers[0].kernel[...]) + np.arange(10.0) - 5, 0)
    np.testing.assert_allclose(run(head, x), hidden @ np.asarray(head.out.kernel[...]), rtol=1e-4, atol=1e-5)


def test_no_hidden_layers_is_one_linear_map():
    head = ProjectionHead(6, (), 4, rngs=nnx.Rngs(0))
    assert _paths(head) == {"out/kernel"}
    x = normal(0, (5, 6))
    np.testing.assert_allclose(run(head, x), np.asarray(x) @ np.asarray(head.out.kernel[...]), rtol=1e-5, atol=1e-6)


def test_bfloat16_head_returns_float32_sums():
    head = ProjectionHead(256, (), 4, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    x = normal(0, (5, 256))
    result = run(head, x)
    assert result.dtype == jnp.float32
    x, kernel = (np.asarray(a.astype(jnp.bfloat16), np.float64) for a in (x, head.out.kernel[...]))
    np.testing.assert_allclose(result, x @ kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_unit_rows_have_unit_norm_in_float32(dtype):
    x = (normal(0, (6, 5)) * 10.0 ** jnp.arange(-4, 2)[:, None]).astype(dtype)
    z = unit_rows(x)
    assert z.dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(z, exact / np.linalg.norm(exact, axis=1, keepdims=True), rtol=1e-6, atol=1e-7)


def test_a_zero_row_stays_zero_and_passes_no_gradient():
    x = jnp.stack([jnp.zeros(3), jnp.array([3.0, 0.0, 4.0]), jnp.full(3, 1e-30)])
    weights = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(unit_rows(x), [[0, 0, 0], [0.6, 0, 0.8], [0, 0, 0]], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(unit_rows(x) @ weights))(x)
    unit = np.array([0.6, 0.0, 0.8])
    expected = (np.array(weights) - unit * (unit @ np.array(weights))) / 5  # (I - u u^T) w / |x|
    np.testing.assert_allclose(gradient, [np.zeros(3), expected, np.zeros(3)], rtol=1e-5, atol=1e-7)


def test_rows_of_any_finite_size_have_a_direction_and_others_stay_as_they_are():
    """faults D9: the square of 1e19 is infinite in float32, so the row became zero; and so did one of NaN."""
    x = jnp.array([[3e19, 0.0, -4e19], [3e38, 3e38, 0.0], [3e13, 4e13, 0.0]])
    np.testing.assert_allclose(unit_rows(x), [[0.6, 0, -0.8], [0.5**0.5, 0.5**0.5, 0], [0.6, 0.8, 0]], rtol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(unit_rows(x) @ jnp.array([1.0, 2.0, 3.0])))(x)
    unit, weights = np.array([0.6, 0.0, -0.8]), np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(gradient[0] * 5e19, weights - unit * (unit @ weights), rtol=1e-5)
    assert not jnp.isfinite(unit_rows(jnp.array([[jnp.nan, 1.0], [jnp.inf, 1.0]]))).all(axis=1).any()
