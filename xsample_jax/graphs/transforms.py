"""Changes of a similarity before it is normalised: `f(similarity [A, K], valid [A, K], **options) -> [A, K]`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from xsample_jax.choice import Choice, name_of, resolve
from xsample_jax.graphs.normalise import MASKED


def affine(similarity: jax.Array, valid: jax.Array, *, scale: float = 0.5, offset: float = 0.5) -> jax.Array:
    """scale * G + offset; the defaults map cosines to [0, 1] (CWCL, arXiv 2309.14580)."""
    del valid
    return scale * similarity + offset


def power(similarity: jax.Array, valid: jax.Array, *, exponent: float) -> jax.Array:
    """max(G, 0) ** exponent: a larger exponent keeps only close neighbours."""
    del valid
    return jnp.maximum(similarity, 0.0) ** exponent


def threshold(similarity: jax.Array, valid: jax.Array, *, at: float, binary: bool = False) -> jax.Array:
    """Similarities below `at` become 0; with `binary` the others become 1."""
    del valid
    kept = similarity >= at
    return kept.astype(similarity.dtype) if binary else jnp.where(kept, similarity, 0.0)


def top_k(similarity: jax.Array, valid: jax.Array, *, k: int, masked: bool = True) -> jax.Array:
    """Keeps the k most similar valid keys of every row (more on ties); the others become -1e9, or 0 if not `masked`."""
    among = jnp.where(valid, similarity, -jnp.inf)
    lowest = jax.lax.top_k(among, min(k, similarity.shape[-1]))[0][:, -1:]
    return jnp.where(among >= lowest, similarity, MASKED if masked else 0.0)


TRANSFORMS = {"affine": affine, "power": power, "threshold": threshold, "top_k": top_k}
LOCAL = ("affine", "power", "threshold")  # what a tile can do without seeing the whole row


def bounds_after(transforms: Sequence[Choice], lowest: float = -1.0, highest: float = 1.0) -> tuple[float, float]:
    """Between which values similarities within [lowest, highest] lie after some of the LOCAL transforms."""
    for transform in transforms:
        change = resolve(TRANSFORMS, transform, "graph.transforms")
        with jax.ensure_compile_time_eval():
            ends = [float(change(jnp.asarray(end), None)) for end in (lowest, highest)]
        # affine may turn them around; the others put what is small to 0, and may keep what is below it.
        if name_of(transform) != "affine":
            ends += [0.0, lowest]
        lowest, highest = min(ends), max(ends)
    return lowest, highest
