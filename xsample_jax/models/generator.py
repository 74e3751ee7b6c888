"""A small generator of images and the discriminator that trains it, for training images made during a run.

Of "Synthetic Data Can Also Teach" (arXiv 2202.06464) only the abstract and the introduction could be read: the networks
here are ours. They follow what is common for small images: plain convolutions, pixel norm in the generator (Karras et
al., arXiv 1710.10196), a discriminator whose layers are bounded (spectral normalization, Miyato et al., arXiv
1802.05957) and that reads side information by projection (arXiv 1802.05637). No layer looks at a second image, so a
row does not depend on its batch or on the number of devices.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.models.layers import Conv

STAGES = 3  # of a factor 2 between the smallest maps and the image
SMALLEST = 2**STAGES
LEAK = 0.2
CHANNELS = (3, 4)


class Generator(nnx.Module):
    """Latents (and side information) to images: [n, L] and [n, E] or None -> float32 [n, S, S, C] in 0..255.

    Args:
      latent: L, width of the latents.
      condition: E, width of the side information; 0: none.
      shape: (S, a multiple of 8; C, 3 or 4 with straight alpha last).
      width: channels of the largest maps; the smallest have four times as many.
      implementation: of the convolutions (models/layers.py).
      rngs: source of the initial parameters.
    """

    def __init__(
        self, latent: int, condition: int, shape: tuple[int, int], width: int, implementation: str, *, rngs: nnx.Rngs
    ):
        size, channels = shape
        self.side, widths = size // SMALLEST, _widths(width)
        self.condition = nnx.Linear(condition, latent, use_bias=False, rngs=rngs) if condition else None
        wide = 2 * latent if condition else latent
        self.stem = nnx.Linear(wide, self.side**2 * widths[0], rngs=rngs)
        options = {"size": 3, "stride": 1, "implementation": implementation, "dtype": jnp.float32, "rngs": rngs}
        self.convs = nnx.List([Conv(a, b, **options) for a, b in zip(widths, (*widths[1:], width), strict=True)])
        self.shifts = nnx.List([nnx.Param(jnp.zeros(b)) for b in (*widths[1:], width)])
        self.last = Conv(width, channels, **options)
        self.last_shift = nnx.Param(jnp.zeros(channels))

    def __call__(self, latents: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        x = pixel_norm(latents)
        if self.condition is not None:
            x = jnp.concatenate([x, pixel_norm(self.condition(condition))], axis=-1)
        x = pixel_norm(jax.nn.leaky_relu(self.stem(x).reshape(x.shape[0], self.side, self.side, -1), LEAK))
        for conv, shift in zip(self.convs, self.shifts, strict=True):
            x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
            x = pixel_norm(jax.nn.leaky_relu(conv(x) + shift[...], LEAK))
        return 255.0 * jax.nn.sigmoid(self.last(x) + self.last_shift[...])


class Discriminator(nnx.Module):
    """How real images look: `planes_of` images [n, S, S, C], and side information [n, E] or None -> float32 [n].

    Args as of `Generator`. Every layer is divided by a bound of its largest singular value (`spectral_bound`).
    """

    def __init__(self, condition: int, shape: tuple[int, int], width: int, implementation: str, *, rngs: nnx.Rngs):
        (size, channels), widths = shape, tuple(reversed(_widths(width)))
        options = {"size": 3, "stride": 2, "implementation": implementation, "dtype": jnp.float32, "rngs": rngs}
        self.convs = nnx.List([Conv(a, b, **options) for a, b in zip((channels, *widths[:-1]), widths, strict=True)])
        self.shifts = nnx.List([nnx.Param(jnp.zeros(b)) for b in widths])
        self.score = nnx.Linear((size // SMALLEST) ** 2 * widths[-1], 1, rngs=rngs)
        self.condition = nnx.Linear(condition, widths[-1], use_bias=False, rngs=rngs) if condition else None

    def __call__(self, planes: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        x = planes
        for conv, shift in zip(self.convs, self.shifts, strict=True):
            kernel = conv.kernel[...]
            bound = spectral_bound(kernel.reshape(-1, kernel.shape[-1]))
            x = jax.nn.leaky_relu(conv(x) / bound + shift[...], LEAK)
        flat = x.reshape(x.shape[0], -1)
        kernel = self.score.kernel[...]
        score = flat @ kernel[:, 0] / spectral_bound(kernel) + self.score.bias[0]
        if self.condition is not None:
            kernel = self.condition.kernel[...]
            score += jnp.sum(x.mean(axis=(1, 2)) * (condition @ kernel), axis=-1) / spectral_bound(kernel)
        return score


def pixel_norm(x: jax.Array) -> jax.Array:
    """x [..., C] divided by the root mean square of its channels (arXiv 1710.10196, section 4.2)."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def spectral_bound(matrix: jax.Array) -> jax.Array:
    """The Schatten 16-norm of a matrix [n, m], (sum of singular values^16)^(1/16): a bound of the largest one.

    It is at most min(n, m)^(1/16) times too large (1.3 for 64 channels). Unlike a power iteration it keeps no vector
    between steps and depends on nothing but the matrix.
    """
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    scale = jnp.trace(gram) + 1e-12  # keeps the powers away from overflow and underflow
    power = gram / scale
    for _ in range(3):
        power = power @ power
    return jnp.sqrt(scale) * jnp.maximum(jnp.trace(power), 1e-30) ** (1 / 16)


def _widths(width: int) -> tuple[int, ...]:
    """Channels of the maps between the smallest and the largest."""
    return tuple(width * 2 ** (STAGES - 1 - stage) for stage in range(STAGES))
