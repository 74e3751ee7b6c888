import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from xsample_jax.errors import ConfigError
from xsample_jax.models.conv import conv2d, max_pool, resolve_implementation

# (size, stride, channels, features, side): all that the ResNets use, with odd and even sides.
CASES = [
    (1, 1, 16, 24, 6),
    (1, 2, 16, 24, 6),
    (1, 2, 16, 24, 7),
    (3, 1, 3, 16, 8),
    (3, 1, 16, 16, 7),
    (3, 2, 16, 24, 8),
    (3, 2, 16, 24, 7),
    (3, 2, 9, 8, 1),
    (7, 2, 3, 8, 16),
    (7, 2, 3, 8, 15),
]


def _case(size, channels, features, side):
    x = jax.random.normal(jax.random.key(0), (3, side, side, channels))
    kernel = jax.random.normal(jax.random.key(1), (size, size, channels, features)) / np.sqrt(size * size * channels)
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


@pytest.mark.parametrize("implementation", ["conv", "dot"])
@pytest.mark.parametrize(("size", "stride", "channels", "features", "side"), CASES)
def test_conv_is_the_padded_window_sum(size, stride, channels, features, side, implementation):
    x, kernel = _case(size, channels, features, side)
    y = conv2d(x, kernel, stride, implementation)
    assert y.shape == (3, -(-side // stride), -(-side // stride), features)
    np.testing.assert_allclose(y, _by_loops(x, kernel, stride), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "stride", "channels", "features", "side"), CASES)
def test_dot_has_the_gradients_of_the_convolution(size, stride, channels, features, side):
    x, kernel = _case(size, channels, features, side)

    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), [(size // 2,) * 2] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    expected, pull = jax.vjp(convolve, x, kernel)
    y, pull_dot = jax.vjp(lambda x, kernel: conv2d(x, kernel, stride, "dot"), x, kernel)
    g = jax.random.normal(jax.random.key(2), y.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(pull_dot(g), pull(g), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_bfloat16_and_its_kernel_gradient_is_summed_in_float32():
    x, kernel = (a.astype(jnp.bfloat16) for a in _case(3, 8, 8, 32))
    y, pull = jax.vjp(lambda x, kernel: conv2d(x, kernel, 1, "dot"), x, kernel)
    g = jnp.ones_like(y)
    image, weights = pull(g)
    assert y.dtype == image.dtype == weights.dtype == jnp.bfloat16
    # The centre of the kernel sees every pixel: 3072 terms, of which a bfloat16 sum would lose most.
    exact = np.asarray(x, np.float64).sum((0, 1, 2))
    np.testing.assert_allclose(np.asarray(weights[1, 1, :, 0], np.float64), exact, rtol=2**-8)


@pytest.mark.parametrize("side", [7, 8])
def test_max_pool_and_its_gradient(side):
    x = jax.random.normal(jax.random.key(0), (2, side, side, 3)) - 5.0  # all negative: a zero padding would win
    expected = -np.inf * np.ones((2, (side + 1) // 2, (side + 1) // 2, 3))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    for r in range(expected.shape[1]):
        for c in range(expected.shape[2]):
            expected[:, r, c] = padded[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max((1, 2))
    gradients = []
    for implementation in ("conv", "dot"):
        np.testing.assert_array_equal(max_pool(x, 3, 2, implementation), expected.astype(np.float32))
        gradients.append(jax.grad(lambda x, i=implementation: jnp.sum(jnp.square(max_pool(x, 3, 2, i))))(x))
    np.testing.assert_allclose(*gradients, rtol=1e-6)


def test_auto_is_dot_on_cpu_and_conv_elsewhere(monkeypatch):
    assert resolve_implementation("auto") == "dot"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert resolve_implementation("auto") == "conv"
    assert resolve_implementation("dot") == "dot"
    with pytest.raises(ConfigError, match=r"model\.conv_impl"):
        resolve_implementation("im2col")
