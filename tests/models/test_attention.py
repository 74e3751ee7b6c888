"""Attention by products and by the TPU kernel: values, gradients, and what a compiled program keeps of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tests.models.filled import normal
from xsample_jax.models.attention import attention, attention_by_kernel, has_kernel, with_kernels
from xsample_jax.models.layers import SelfAttention
from xsample_jax.sharding import AXES

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


def _mesh(devices, shape):
    return Mesh(np.array(devices[: np.prod(shape)]).reshape(shape), AXES, axis_types=(AxisType.Auto,) * 3)


def _packed():
    """Queries, keys and values of four heads side by side in bfloat16, an odd number of tokens; a gradient."""
    packed, g = normal(0, (8, 13, 4, 3 * 16)), normal(1, (8, 13, 4 * 16))
    return packed.reshape(8, 13, -1).astype(jnp.bfloat16), g.astype(jnp.bfloat16)


def _by_products(packed, heads=4):
    n, t, width = packed.shape
    query, key, value = jnp.moveaxis(packed.reshape(n, t, heads, 3, -1), 3, 0)
    return attention(query, key, value).reshape(n, t, width // 3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (8, 1, 1)])
def test_the_kernel_is_the_same_attention_on_any_mesh(shape):
    mesh, (packed, g) = _mesh(jax.devices(), shape), _packed()

    def found(attend):
        result, pull = jax.vjp(attend, packed)
        return result, pull(g)[0]

    def by_kernel():
        return found(lambda packed: attention_by_kernel(packed, 4, interpret=True))

    on_mesh = jax.jit(with_kernels(by_kernel, mesh), out_shardings=NamedSharding(mesh, PartitionSpec()))
    exact = found(lambda packed: _by_products(packed.astype(jnp.float32)).astype(packed.dtype))
    for ours, wanted in zip(on_mesh(), exact, strict=True):
        assert ours.dtype == jnp.bfloat16
        wanted = np.asarray(wanted, np.float32)
        np.testing.assert_allclose(np.asarray(ours, np.float32), wanted, atol=0.015 * np.abs(wanted).max())


@pytest.fixture
def slice_of_tpus():
    pytest.importorskip("libtpu")
    from xsample_jax.topology import topology_devices

    return topology_devices("v5e:2x2")


def _compiled(devices, shape, **changes):
    """The text of a layer's gradient for a TPU slice; its attention weights would be [4, 4, 52, 52]."""
    options = {"dtype": jnp.bfloat16, "keep": None, "switch": "auto"} | changes
    mesh = _mesh(devices, shape)
    make = lambda: SelfAttention(256, 4, dtype=options["dtype"], rngs=nnx.Rngs(0))  # noqa: E731
    graph, params = nnx.split(nnx.eval_shape(make))

    def loss(params, x):
        keep = None if options["keep"] is None else jnp.ones(x.shape[:2], bool)
        return jnp.sum(nnx.merge(graph, params)(x, keep).astype(jnp.float32) ** 2)

    whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), (("data", "fsdp"),)))
    step = with_kernels(jax.grad(loss, (0, 1)), mesh if options["switch"] == "auto" else None)
    given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole), params)
    x = jax.ShapeDtypeStruct((4, 52, 256), options["dtype"], sharding=split)
    lowered = jax.jit(step).lower(given, x)
    return lowered.compile(compiler_options={"exec_time_optimization_effort": -1.0}).as_text()


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 2)])
def test_a_step_on_tpus_has_the_kernels_and_no_weights(slice_of_tpus, shape):
    text = _compiled(slice_of_tpus, shape)
    assert text.count('custom_call_target="tpu_custom_call"') == 2
    assert "attention_forward" in text
    assert "attention_backward" in text
    assert "52,52" not in text


@pytest.mark.parametrize("changes", [{"switch": "xla"}, {"dtype": jnp.float32}, {"keep": "all"}], ids=str)
def test_other_attention_is_made_of_products(slice_of_tpus, changes):
    text = _compiled(slice_of_tpus, (1, 1, 1), **changes)
    assert "tpu_custom_call" not in text
    assert "52,52" in text


def test_only_whole_images_and_heads_that_fit_have_the_kernel(slice_of_tpus):
    def has(n, t, heads, width=256):
        with jax.sharding.use_abstract_mesh(_mesh(slice_of_tpus, (2, 1, 2)).abstract_mesh):
            return has_kernel(jax.ShapeDtypeStruct((n, t, 3 * width), jnp.bfloat16), heads)

    assert has(4, 52, 4)
    assert not has(3, 52, 4)
    assert not has(4, 52, 3, 3 * 64)
    assert has(4, 577, 16, 1024)
    assert not has(4, 4096, 16, 1024)
    assert not has_kernel(jax.ShapeDtypeStruct((4, 52, 768), jnp.bfloat16), 4)  # no mesh is set
