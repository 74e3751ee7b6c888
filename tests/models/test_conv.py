import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from tests.models.filled import normal
from tests.tiny import tiny_config, tiny_parts
from xsample_jax.errors import ConfigError
from xsample_jax.models.layers import Conv, _slices, conv2d, max_pool, resolve_implementation

# (size, stride, channels, features, side): all that the ResNets use, odd and even sides, small images (products of
# patches: fewer than 64 positions) and large ones (kernel gradient by slices).
CASES = [
    (1, 1, 8, 12, 6),
    (1, 2, 8, 12, 7),
    (1, 2, 8, 12, 8),
    (3, 1, 3, 8, 8),
    (3, 1, 8, 8, 7),
    (3, 2, 8, 12, 7),
    (3, 2, 8, 12, 8),
    (3, 2, 8, 12, 16),
    (3, 2, 8, 12, 17),
    (3, 2, 8, 8, 1),
    (7, 2, 3, 8, 15),
    (7, 2, 3, 8, 16),
    (7, 2, 3, 8, 12),
]


def _case(size, channels, features, side):
    x = normal(0, (3, side, side, channels))
    kernel = normal(1, (size, size, channels, features)) / np.sqrt(size * size * channels)
    return x, kernel


def _by_loops(x, kernel, stride):
    """The definition, in float64: out[r, c] = sum over the window of the image padded by size // 2."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    size = kernel.shape[0]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    starts = range(0, x.shape[1] + 2 * pad - size + 1, stride)
    rows = [[np.tensordot(padded[:, r : r + size, c : c + size], kernel, 3) for c in starts] for r in starts]
    return np.stack([np.stack(row, 1) for row in rows], 1)


@pytest.mark.parametrize(("size", "stride", "channels", "features", "side"), CASES)
def test_both_ways_are_the_padded_window_sum_and_have_its_gradients(size, stride, channels, features, side):
    x, kernel = _case(size, channels, features, side)
    out = -(-side // stride)
    g = normal(2, (3, out, out, features))

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [(size // 2,) * 2] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    @jax.jit
    def values_and_gradients(x, kernel, g):
        ways = [convolve] + [lambda x, kernel, i=i: conv2d(x, kernel, stride, i) for i in ("conv", "dot")]
        return [(y, *pull(g)) for y, pull in (jax.vjp(way, x, kernel) for way in ways)]

    expected, *results = values_and_gradients(x, kernel, g)
    np.testing.assert_allclose(expected[0], _by_loops(x, kernel, stride), rtol=1e-4, atol=1e-5)
    for result in results:
        for ours, theirs in zip(result, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("images", "slices"), [(10, 5), (1, 1)])
def test_kernel_gradient_over_slices_of_a_large_batch(images, slices):
    side = 60  # 3600 pixels: 2^14 hold 4.55 images
    assert _slices(images, side * side) == slices
    x = normal(0, (images, side, side, 2))
    kernel = normal(1, (3, 3, 2, 3))
    g = normal(2, (images, side // 2, side // 2, 3))
    gradient = jax.jit(jax.grad(lambda kernel: jnp.vdot(conv2d(x, kernel, 2, "dot"), g)))(kernel)
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(3):
        for j in range(3):
            seen = padded[:, i : i + side : 2, j : j + side : 2]
            np.testing.assert_allclose(gradient[i, j], np.einsum("nhwi,nhwo->io", seen, g), rtol=1e-4, atol=1e-3)


def test_slices_divide_the_batch_and_stay_few():
    for images, pixels in [(512, 1024), (509, 1024), (4096, 50176), (30, 64), (7, 10**6)]:
        assert images % _slices(images, pixels) == 0
        assert 1 <= _slices(images, pixels) <= 64
    assert _slices(512, 1024) == 32
    assert _slices(30, 64) == 1


def test_bfloat16_stays_bfloat16():
    x, kernel = (a.astype(jnp.bfloat16) for a in _case(3, 8, 8, 32))
    y, pull = jax.vjp(lambda x, kernel: conv2d(x, kernel, 1, "dot"), x, kernel)
    image, weights = pull(jnp.ones_like(y))
    assert y.dtype == image.dtype == weights.dtype == jnp.bfloat16
    # The center of the kernel sees every pixel once.
    exact = np.asarray(x, np.float64).sum((0, 1, 2))
    np.testing.assert_allclose(np.asarray(weights[1, 1, :, 0], np.float64), exact, rtol=2**-7)


@pytest.mark.parametrize("side", [7, 8])
def test_max_pool_and_its_gradient(side):
    x = normal(0, (2, side, side, 3)) - 5.0  # all negative: a zero padding would win
    expected = -np.inf * np.ones((2, (side + 1) // 2, (side + 1) // 2, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    for r in range(expected.shape[1]):
        for c in range(expected.shape[2]):
            expected[:, r, c] = padded[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((1, 2))
    gradients = []
    for implementation in ("conv", "dot"):
        np.testing.assert_array_equal(max_pool(x, implementation), expected.astype(np.float32))
        gradients.append(jax.grad(lambda x, i=implementation: jnp.sum(jnp.square(max_pool(x, i))))(x))
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_kernels_start_he_normal_over_the_fan_out():
    conv = nnx.jit(lambda: Conv(32, 64, 3, 1, implementation="conv", dtype=jnp.float32, rngs=nnx.Rngs(0)))()
    kernel = np.asarray(conv.kernel[...])
    assert kernel.shape == (3, 3, 32, 64)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.03)
    assert np.abs(kernel).max() > 2.5 * kernel.std()  # normal, not cut off at two deviations


def test_auto_is_dot_on_cpu_and_conv_elsewhere(monkeypatch):
    assert resolve_implementation("auto") == "dot"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert resolve_implementation("auto") == "conv"
    assert resolve_implementation("dot") == "dot"
    with pytest.raises(ConfigError, match=r"model\.conv_impl"):
        resolve_implementation("im2col")


@pytest.mark.parametrize(("platform", "expected"), [("cpu", "dot"), ("tpu", "conv"), ("cuda", "conv")])
def test_auto_looks_at_the_devices_of_the_mesh(platform, expected):
    """A CPU machine compiles for a slice; the default device of all three is a CPU."""
    mesh = types.SimpleNamespace(devices=np.array([types.SimpleNamespace(platform=platform)]))
    changes = {"objective__generator__kind": "hard", "objective__generator__share": 0.25}
    config = tiny_config(model__encoder="resnet18", **changes)
    parts = dataclasses.replace(tiny_parts(config, jax.devices()[:1]), mesh=mesh)
    encoder = nnx.eval_shape(lambda: parts.model.build(nnx.Rngs(0))).encoder
    assert {module.implementation for _, module in nnx.iter_graph(encoder) if isinstance(module, Conv)} == {expected}
    assert parts.adversary.implementation == expected
