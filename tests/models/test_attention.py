import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.filled import normal
from xsample_jax.models.layers import attention

N, T, S, HEADS, D = 2, 5, 6, 3, 4


def _inputs(dtype):
    query, value_gradient = normal(0, (N, T, HEADS, D)), normal(3, (N, T, HEADS, D))
    key, value = normal(1, (N, S, HEADS, D)), normal(2, (N, S, HEADS, D))
    return [array.astype(dtype) for array in (2 * query, key, value, value_gradient)]


def _keep(masked):
    """None, or keys that each element may see: the second sees nothing."""
    return jnp.arange(S) < jnp.array([4, 0])[:, None, None, None] if masked else None


def _definition(query, key, value, g, keep):
    """Result and gradients by loops over elements and heads, float64."""
    query, key, value, g = (np.asarray(array, np.float64) for array in (query, key, value, g))
    results = [np.zeros_like(array) for array in (query, query, key, value)]
    for n, head in np.ndindex(N, HEADS):
        q, k, v, dy = (array[n, :, head] for array in (query, key, value, g))
        seen = np.ones((T, S), bool) if keep is None else np.broadcast_to(np.asarray(keep)[n, 0], (T, S))
        logits = np.where(seen, q @ k.T / np.sqrt(D), -1e30)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        of_weights = dy @ v.T
        of_logits = weights * (of_weights - (weights * of_weights).sum(1, keepdims=True)) / np.sqrt(D) * seen
        for result, found in zip(results, (weights @ v, of_logits @ k, of_logits.T @ q, weights.T @ dy), strict=True):
            result[n, :, head] = found
    return results


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.015)])
def test_values_and_gradients_are_the_definition(masked, dtype, error):
    inputs, keep = _inputs(dtype), _keep(masked)

    @jax.jit
    def found(query, key, value, g):
        result, pull = jax.vjp(lambda *inputs: attention(*inputs, keep), query, key, value)
        return result, *pull(g)

    for ours, exact in zip(found(*inputs), _definition(*inputs, keep), strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(np.asarray(ours, np.float64), exact, atol=error * np.abs(exact).max())


def test_no_weights_are_kept_in_float32():
    inputs = [jax.ShapeDtypeStruct((1, 64, 2, 8), jnp.bfloat16)] * 3
    _, pull = jax.eval_shape(lambda *inputs: jax.vjp(attention, *inputs, None), *inputs)
    kept = [(leaf.dtype, leaf.shape) for leaf in jax.tree.leaves(pull) if leaf.size >= 2 * 64 * 64]
    assert kept == [(jnp.dtype("bfloat16"), (1, 2, 64, 64))]


def test_a_tpu_moves_fewer_bytes_than_with_the_gradient_derived():
    pytest.importorskip("libtpu")
    from xsample_jax.topology import topology_devices

    device = jax.sharding.SingleDeviceSharding(topology_devices("v5e:2x2")[0])
    inputs = [jax.ShapeDtypeStruct((16, 196, 4, 64), jnp.bfloat16)] * 3

    def bytes_accessed(attend):
        def loss(*inputs):
            return jnp.sum(attend(*inputs).astype(jnp.float32) ** 2)

        program = jax.jit(jax.grad(loss, (0, 1, 2)), in_shardings=device, out_shardings=device).lower(*inputs)
        options = {"exec_time_optimization_effort": -1.0}
        return program.compile(compiler_options=options).cost_analysis()["bytes accessed"]

    ours, peer = bytes_accessed(attention), bytes_accessed(jax.nn.dot_product_attention)
    assert ours < 0.8 * peer, (ours, peer)
