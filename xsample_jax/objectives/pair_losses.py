"""Losses with a learned number of every pair (pair_network.py), through which gradient flows: AMCL and AdaMEOW.

Feature terms: row i of x and row i of y are views of one image; of_x, of_y carry the halves of the network.
"""

import jax
import jax.numpy as jnp

from xsample_jax.objectives.pair_network import read_out
from xsample_jax.ops import products


def adaptive_contrast(
    x: jax.Array,
    y: jax.Array,
    of_x: dict,
    of_y: dict,
    *,
    beta: float = 0.1,
    coldest: float = 1e-5,
    warmest: float = 2.0,
) -> jax.Array:
    """AMCL (arXiv 2310.05615) for one head: mean over i of -s+/tau+ + s*/tau* + beta (O(tau+) - O(tau*)).

    s+ is the cosine with the own row of y, s* the largest with another; tau = coldest + (warmest - coldest) sigmoid of
    the network of that pair; O(tau) = D/2 log tau + 1/tau. With the sign of the published table the last part has no
    bound but those of tau: they are what keeps it finite.
    """
    similarity, own = products(x, y), jnp.arange(len(x))
    nearest = jnp.argmax(jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, similarity), axis=1)

    def of_pairs(other):
        hidden = jax.nn.relu(of_x["pair_first"] + of_y["pair_second"][other])
        tau = coldest + (warmest - coldest) * jax.nn.sigmoid(read_out(hidden, of_x["pair_out"][0]))
        weighed = jnp.take_along_axis(similarity, other[:, None], axis=1)[:, 0] / tau
        return weighed, x.shape[1] / 2 * jnp.log(tau) + 1 / tau

    (pull, of_pull), (push, of_push) = of_pairs(own), of_pairs(nearest)
    return jnp.mean(push - pull + beta * (of_pull - of_push))


def learned_negatives(
    x: jax.Array, y: jax.Array, of_x: dict, of_y: dict, *, temperature: float = 0.9, floor: float = 1e-4
) -> jax.Array:
    """AdaMEOW (arXiv 2212.13847): mean over i of -s_ii/tau + log sum over k of w_ik e^{s_ik/tau}.

    w = sigmoid of the network of the pair, tanh in its hidden layer; the own pair has one too. w = 0 would be the
    trivial minimum, which only the length of training holds off in the published code; here w is at least `floor`.
    """
    hidden = jnp.tanh(of_x["pair_first"][:, None] + of_y["pair_second"][None])
    weight = jnp.maximum(jax.nn.sigmoid(read_out(hidden, of_x["pair_out"][0])), floor)
    logits = products(x, y) / temperature
    return jnp.mean(jax.nn.logsumexp(logits + jnp.log(weight), axis=1) - jnp.diagonal(logits))
