"""Views of vectors, where a record holds no image (data.source=vectors): features are lost, and noise is added.

A vector reaches the device as the bytes of its float16 numbers, uint8 [1, E, 2]: an image of one row whose two channels
no image has, so that whatever carries images carries it. There is no other invariance to be had in general: what
changes a vector and not its meaning, only the one who made it can say.
"""

import jax
import jax.numpy as jnp

CHANNELS = 2  # bytes of a float16; images have 3 or 4


def as_vectors(images: jax.Array) -> jax.Array:
    """uint8 [B, 1, E, 2] -> float32 [B, E]."""
    return jax.lax.bitcast_convert_type(images[:, 0], jnp.float16).astype(jnp.float32)


def change(vectors: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """One random view of every vector, float32 [B, E].

    A feature is lost with probability `config.dropout`: it gets its mean over the batch. Then Gaussian noise is added,
    of `config.noise` standard deviations of each feature over the batch.

    Args:
      vectors: float32 [B, E].
      draws: of draw_numbers, for one view; two of the numbers of each vector, its own, are the key of its noise.
      config: the `augment` section.
    """
    data = jax.lax.bitcast_convert_type(draws["crop_area"][:, :2], jnp.uint32)

    def one(data):
        losing, adding = jax.random.split(jax.random.wrap_key_data(data, impl="threefry2x32"))
        shape = vectors.shape[1:]
        return jax.random.uniform(losing, shape), jax.random.normal(adding, shape)

    uniform, normal = jax.vmap(one)(data)
    mean, spread = vectors.mean(axis=0), vectors.std(axis=0)
    kept = jnp.where(uniform < config.dropout, mean, vectors)
    return kept + config.noise * spread * normal
