"""Choosing tau_s: what the target softmax says depends on the batch size and on how a text encoder spreads its cosines.

Instead of a number the target temperature may be a rule on the batch at hand, solved by bisection on log tau_s:

    neighbours   exp(mean entropy of the rows of T) = count            how many keys a row points at
    same_mass    mean target mass on keys with the anchor's own text (similarity 1) = mass
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from xsample_jax.choice import Choice, resolve
from xsample_jax.graphs.normalise import softmax

LOWEST, HIGHEST, STEPS, ROWS = 1e-3, 1e2, 40, 256
SAME = 1 - 1e-3  # float16 embeddings of one text have a cosine of 1 to about this


def neighbours(similarity: jax.Array, valid: jax.Array, *, count: float) -> jax.Array:
    """tau_s at which a row of T has `count` effective neighbours."""

    def effective(tau_s):
        graph = softmax(similarity, valid, tau_s)
        entropy = -jnp.sum(jnp.where(graph > 0, graph * jnp.log(jnp.where(graph > 0, graph, 1.0)), 0.0), axis=-1)
        return jnp.exp(jnp.mean(entropy))

    return _rising(effective, count)


def same_mass(similarity: jax.Array, valid: jax.Array, *, mass: float) -> jax.Array:
    """tau_s at which rows that have a key with their own text put the mass `mass` on such keys."""
    same = valid & (similarity >= SAME)
    has_one = jnp.any(same, axis=-1)

    def elsewhere(tau_s):
        on_same = jnp.sum(jnp.where(same, softmax(similarity, valid, tau_s), 0.0), axis=-1)
        return 1 - jnp.sum(jnp.where(has_one, on_same, 0.0)) / jnp.maximum(jnp.sum(has_one), 1)

    return _rising(elsewhere, 1 - mass)


RULES = {"neighbours": neighbours, "same_mass": same_mass}


def solved(rule: Choice | float, similarity: jax.Array, valid: jax.Array) -> jax.Array | float:
    """tau_s from a number (itself) or a rule on the first 256 rows of a batch. No gradient."""
    if isinstance(rule, float | int):
        return rule
    solve = resolve(RULES, rule, "target_temperature")
    return jax.lax.stop_gradient(solve(similarity[:ROWS], valid[:ROWS]))


def _rising(value: Callable[[jax.Array], jax.Array], wanted: float) -> jax.Array:
    """The tau_s in [1e-3, 1e2] at which a rising function is `wanted`; an end of the range if it never is."""

    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        below = value(jnp.exp(middle)) < wanted
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, STEPS, halve, (jnp.log(LOWEST), jnp.log(HIGHEST)))
    return jnp.exp((low + high) / 2)
