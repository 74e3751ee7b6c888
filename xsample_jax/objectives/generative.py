"""What generates: captions of images (CoCa, COSMO), and images of latents (A-MIM, cMIM), as terms of an objective.

A decoder of the model (models/decoder.py) makes one number per row of the block "image", and feature terms take means:

    token_loss, token_count     sum of the cross-entropies of the tokens of its caption, and how many they are
    latent                      -1/2 (log N(z; 0, 1) + log N(z; mu, sigma^2)) of the latent z that was drawn for it
    reconstruction              -log p(view | z) of a normal distribution of variance 1, without its constant
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.augment.ids import copies_of, fold_in_id, words_of
from xsample_jax.models.decoder import PADDING

# Captions.


def captioning(x: jax.Array, y: jax.Array, side: dict) -> jax.Array:
    """CoCa's captioning loss (arXiv 2205.01917): the mean cross-entropy over all tokens that are no padding.

    x and y are not read. side: token_loss [A], token_count [A].
    """
    del x, y
    return jnp.sum(side["token_loss"]) / jnp.maximum(jnp.sum(side["token_count"]), 1)


def caption_entries(
    decoder: nnx.Module, batch: Mapping[str, jax.Array], states: jax.Array, image: jax.Array
) -> dict[str, jax.Array]:
    """token_loss and token_count [B * V] of the captions of a batch, given its views.

    Args:
      decoder: CaptionDecoder. batch: with caption_tokens int [B, L].
      states: of the causal text tower [B, L, width].
      image: what the decoder reads of the views [B * V, queries, width].
    """
    tokens = batch["caption_tokens"]
    views = len(image) // len(tokens)
    tokens, states = (jnp.repeat(value, views, axis=0) for value in (tokens, states))
    losses = decoder.token_losses(states, tokens, image)
    return {"token_loss": losses.sum(axis=1), "token_count": jnp.sum(tokens[:, 1:] != PADDING, axis=1)}


def caption_numbers(tokens: jax.Array) -> jax.Array:
    """A number for every caption of a batch, the same for equal ones: int [B, L] -> int32 [B]."""
    same = jnp.all(tokens[:, None] == tokens[None, :], axis=-1)
    return jnp.argmax(same, axis=1).astype(jnp.int32)


# Latents: a row is drawn from the normal distribution whose mean and log variance two heads give.


DRAWS = 2**20 + 7  # folded into the key of the step
NARROWEST, WIDEST = -10.0, 10.0  # bounds of a log variance, far from where training ends up


def noise(key: jax.Array, batch: Mapping[str, jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """Standard normal numbers [B * V, D]: those of the image, its copy and the view, wherever in the batch it is."""
    copies, views = copies_of(batch["id"]), shape[0] // len(batch["id"])
    key = jax.random.fold_in(key, DRAWS)

    def of_image(image, copy):
        return jax.random.normal(jax.random.fold_in(fold_in_id(key, image), copy), (views, shape[1]))

    return jax.vmap(of_image)(words_of(batch), copies).reshape(shape)


def latent_values(mean: jax.Array, log_variance: jax.Array, z: jax.Array) -> jax.Array:
    """-1/2 (log N(z; 0, 1) + log N(z; mean, e^log_variance)) of every row, summed over dimensions: [n, D] -> [n].

    The terms of A-MIM, as public code has them, that do not read the image.
    """
    of_prior = jnp.sum(jnp.square(z), axis=-1)
    of_own = jnp.sum(log_variance + jnp.square(z - mean) * jnp.exp(-log_variance), axis=-1)
    return 0.25 * (of_prior + of_own) + 0.5 * z.shape[-1] * jnp.log(2 * jnp.pi)


def draw_latents(
    decoder: nnx.Module, mean: jax.Array, log_variance: jax.Array, given
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(latents z [B * V, D], the entries latent and reconstruction [B * V] of the block "image").

    Args:
      decoder: ImageDecoder. mean, log_variance: outputs of the two heads on the views.
      given: the StepInputs, of which images, batch and key are read.
    """
    log_variance = jnp.clip(log_variance, NARROWEST, WIDEST)
    z = mean + jnp.exp(0.5 * log_variance) * noise(given.key, given.batch, mean.shape)
    apart = decoder(z) - given.images.astype(jnp.float32)
    found = {"latent": latent_values(mean, log_variance, z)}
    return z, found | {"reconstruction": 0.5 * jnp.sum(jnp.square(apart), axis=tuple(range(1, apart.ndim)))}


def latent_code(x: jax.Array, y: jax.Array, side: dict) -> jax.Array:
    """A-MIM: the mean over rows of -1/2 (log N(z; 0, 1) + log q(z | view)). x and y are not read; side: latent [A]."""
    del x, y
    return jnp.mean(side["latent"])


def reconstruction(x: jax.Array, y: jax.Array, side: dict) -> jax.Array:
    """A-MIM: the mean over rows of -log p(view | z). x and y are not read; side: reconstruction [A]."""
    del x, y
    return jnp.mean(side["reconstruction"])


def generative_metrics(image: Mapping[str, jax.Array], metrics: Mapping[str, jax.Array], numbers: int) -> dict:
    """What is logged of the decoders of a step, from the block "image" and the metrics of the loss.

    caption_loss in nats a token, perplexity, contrastive_loss (what of the loss is not captioning); and of latents the
    mean squared reconstruction_error. numbers: of an image, height times width times channels.
    """
    found = {}
    if "token_loss" in image:
        loss = captioning(None, None, image)
        found |= {"caption_loss": loss, "perplexity": jnp.exp(jnp.minimum(loss, 80.0))}  # e^80 is a float32 number
        found["contrastive_loss"] = metrics["loss"] - metrics.get("feature_captioning", 0.0)
    if "reconstruction" in image:
        found["reconstruction_error"] = 2 * jnp.mean(image["reconstruction"]) / numbers
    return found
