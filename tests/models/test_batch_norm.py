import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.filled import normal, run
from xsample_jax.models.layers import BatchNorm, conv2d


def _norm(scale=1.001, bias=0.3, mean=5.02, var=2.005):
    """Three channels; bfloat16 holds none of the numbers."""
    norm = BatchNorm(3, rngs=nnx.Rngs(0))
    for variable, value in ((norm.scale, scale), (norm.bias, bias), (norm.mean, mean), (norm.var, var)):
        variable[...] = jnp.full(3, value)
    return norm


def _definition(x, mean, var):
    return (np.asarray(x, np.float64) - mean) / np.sqrt(var + 1e-5) * 1.001 + 0.3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
def test_the_definition_rounded_once(training, dtype, error):
    x = (5 + 2 * normal(0, (7, 4, 4, 3))).astype(dtype)
    norm = _norm()
    exact = np.asarray(x, np.float64)
    mean, var = (exact.mean((0, 1, 2)), exact.var((0, 1, 2))) if training else (5.02, 2.005)
    if not training:
        norm.eval()
    y = run(norm, x)
    assert y.dtype == dtype
    expected = _definition(x, mean, var)
    # Half a unit in the last place of the result, and what float32 loses against the size of the input.
    np.testing.assert_array_less(np.abs(np.asarray(y, np.float64) - expected), error * np.abs(expected) + 5e-6)


def test_running_averages_move_a_tenth_of_the_way_and_state_is_float32():
    x = (5 + 2 * normal(0, (64, 3))).astype(jnp.bfloat16)
    norm = _norm()
    mean, var = run(norm, x, call=lambda norm, x: (norm(x), norm.mean[...], norm.var[...])[1:])
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(mean, 0.9 * 5.02 + 0.1 * exact.mean(0), rtol=1e-6)
    np.testing.assert_allclose(var, 0.9 * 2.005 + 0.1 * exact.var(0), rtol=1e-5)
    state = {path[-1]: leaf.dtype for path, leaf in nnx.to_flat_state(nnx.state(norm))}
    assert state == dict.fromkeys(("bias", "mean", "scale", "var"), jnp.float32)


def test_gradients_of_scale_and_bias_are_float32_sums():
    """4,097 ones: in bfloat16 they are 4,096."""
    x = normal(0, (4097, 3)).astype(jnp.bfloat16)
    graph, parameters, rest = nnx.split(_norm(), nnx.Param, ...)

    @jax.jit
    def gradient(parameters, x):
        return jax.grad(lambda p: jnp.sum(nnx.merge(graph, p, rest, copy=True)(x), dtype=jnp.float32))(parameters)

    found = gradient(parameters, x)
    np.testing.assert_array_equal(found["bias"][...], np.full(3, 4097.0))
    np.testing.assert_allclose(found["scale"][...], 0, atol=1e-2)  # normalized channels have sum 0


def test_a_tpu_reads_activations_less_often_than_with_flax():
    """A residual 1x1 convolution: flax sums the gradient of the bias in bfloat16, in a pass of its own."""
    pytest.importorskip("libtpu")
    from xsample_jax.topology import topology_devices

    device = jax.sharding.SingleDeviceSharding(topology_devices("v5e:2x2")[0])

    def bytes_accessed(norm):
        graph, state = nnx.split(norm)

        def loss(state, kernel, x):
            y = jax.nn.relu(x + nnx.merge(graph, state, copy=True)(conv2d(x, kernel))).astype(jnp.float32)
            return jnp.sum(y * y)

        shapes = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((1, 1, 256, 256), (64, 28, 28, 256))]
        program = jax.jit(jax.grad(loss, (0, 1, 2)), in_shardings=device, out_shardings=device).lower(state, *shapes)
        options = {"exec_time_optimization_effort": -1.0}
        return program.compile(compiler_options=options).cost_analysis()["bytes accessed"]

    flax = nnx.BatchNorm(256, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    ours, peer = bytes_accessed(BatchNorm(256, rngs=nnx.Rngs(0))), bytes_accessed(flax)
    assert ours < 0.9 * peer, (ours, peer)
