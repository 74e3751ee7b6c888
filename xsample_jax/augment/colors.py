"""What changes the colors of a view and not its geometry: color jitter, gray, blur, solarization.

Color jitter is one affine map of the colors per view, blur is two matrix products as a resize is. Views are laid out
[B, y, channel, x], float32, values 0..1; every function takes the `draws` [B, width] of its choices, uniform in [0, 1).
"""

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.crops import resize

# Rec. 601 luma, the weights of PIL's and torchvision's conversion to gray.
LUMA = np.array([0.299, 0.587, 0.114])
# Rows Y, I, Q of the NTSC color space: the axis of gray and a plane of chroma in which hue is an angle.
_YIQ = np.stack([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])

# Projection of a color on its chroma, and the same after a quarter turn.
_CHROMA = np.eye(3) - np.linalg.inv(_YIQ) @ np.diag([1, 0, 0]) @ _YIQ
_TURN = np.linalg.inv(_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _YIQ

_BLUR_SIDE = 224  # augment.blur_sigma is given for images of this side


def jitter(view: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Shifts brightness, contrast, saturation and hue of a random `config.jitter` of the views; cut off to 0..1."""
    strength = np.asarray(config.jitter_strength, np.float32)
    neutral = np.array([1, 1, 1, 0], np.float32)
    low, high = np.maximum(neutral - strength, [0, 0, 0, -np.inf]).astype(np.float32), neutral + strength
    factors = low + (high - low) * draws["jitter_factors"]
    apply = draws["jitter"] < config.jitter
    matrix, offset = jitter_map(view.mean(axis=(1, 3)), jnp.where(apply, factors, neutral))
    mixed = sum(matrix[:, None, :, k, None] * view[:, :, k, None, :] for k in range(3)) + offset[:, None, :, None]
    return jnp.where(apply[:, :, None, None], jnp.clip(mixed, 0.0, 1.0), view)


def to_gray(view: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Replaces the colors of a random `config.gray` of the views by their luma."""
    luma = sum(float(LUMA[k]) * view[:, :, k, None, :] for k in range(3))
    return jnp.where((draws["gray"] < config.gray)[:, :, None, None], luma, view)


def blur(view: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Blurs a random `config.blur` of the views with a Gaussian of random width."""
    low, high = config.blur_sigma
    sigma = (low + (high - low) * draws["blur_sigma"][:, 0]) * (config.size / _BLUR_SIDE)
    weights = blur_weights(sigma, config.size)
    apply = (draws["blur"] < config.blur)[:, :, None]
    weights = jnp.where(apply, weights, jnp.eye(config.size))
    return resize(view, weights, weights)


def solarize(view: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Inverts the values from one half on, of a random `config.solarize` of the views."""
    inverted = jnp.where(view >= 0.5, 1.0 - view, view)
    return jnp.where((draws["solarize"] < config.solarize)[:, :, None, None], inverted, view)


def jitter_map(mean: jax.Array, factors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the affine map of the colors that is brightness, contrast, saturation and hue in any order.

    Split a color into luma (a gray) and chroma: brightness scales both, contrast scales both about the gray of the
    mean color, saturation scales the chroma alone, hue turns it. These commute, the mean being moved along with the
    colors, so that the random order of torchvision makes no difference and is not drawn.

    Differences from torchvision: values are cut off to 0..1 after all four and not after each, the only way in which
    its order is seen; and hue turns the chroma of YIQ at constant luma (a linear map), where torchvision shifts the hue
    of HSV at constant maximum.

    Args:
      mean: float [B, 3], mean color of each view.
      factors: float [B, 4]: brightness, contrast and saturation (1 = unchanged) and hue in turns (0 = unchanged).

    Returns:
      (matrix [B, 3, 3], offset [B, 3]): color -> matrix @ color + offset.
    """
    brightness, contrast, saturation, hue = (factors[:, k, None, None] for k in range(4))
    angle = 2 * np.pi * hue
    # Written about the identity, so that unchanged is unchanged to the last bit.
    chroma = (saturation * jnp.cos(angle) - 1.0) * jnp.asarray(_CHROMA, jnp.float32)
    chroma += saturation * jnp.sin(angle) * jnp.asarray(_TURN, jnp.float32)
    matrix = brightness * contrast * (jnp.eye(3) + chroma)
    gray = (mean * LUMA.astype(np.float32)).sum(axis=1, keepdims=True)
    offset = factors[:, :1] * (1.0 - factors[:, 1:2]) * gray
    return matrix, jnp.broadcast_to(offset, mean.shape)


def blur_weights(sigma: jax.Array, size: int) -> jax.Array:
    """Returns the matrices of a Gaussian blur along a line with reflected ends (the end pixel is not repeated).

    Args:
      sigma: float [B], in pixels; close to 0 is the identity.
      size: pixels of the line.

    Returns:
      float32 [B, size, size], rows sum to one.
    """
    place = np.arange(size)
    # Images of the line in mirrors at both ends; two mirrors are enough, as sigma is far below the size.
    mirrored = np.stack([place, -place, 2 * (size - 1) - place])
    counted = np.stack([place >= 0, place > 0, place < size - 1])
    distance = (place[:, None, None] - mirrored).astype(np.float32)
    kernel = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)[:, None, None, None]) ** 2) * counted
    weights = kernel.sum(axis=2)
    return weights / weights.sum(axis=-1, keepdims=True)
