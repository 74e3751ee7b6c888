"""A learned number for every pair of rows: the temperatures of AMCL, the negative weights of AdaMEOW.

An MLP of a pair, a(W1 x + W2 y + b) . w + c, needs its first layer once for every row: blocks carry its two
halves, and losses add them up for the pairs that they compare.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.models.heads import products

PAIR = "objective/pair/"


@dataclasses.dataclass(frozen=True)
class PairNetwork:
    """hidden: units of its hidden layer; shared: W1 = W2, so that it reads the sum of both rows."""

    hidden: int = 16
    shared: bool = False


def init_pair_network(network: PairNetwork, width: int, key: jax.Array) -> dict[str, jax.Array]:
    """Parameters of a network on rows of `width`; its result starts near 0."""
    for_first, for_second, for_out = jax.random.split(key, 3)
    shape = (width, network.hidden)
    found = {
        "first": jax.random.normal(for_first, shape) / jnp.sqrt(width),
        "second": jax.random.normal(for_second, shape) / jnp.sqrt(width),
        "bias": jnp.zeros(network.hidden),
        "out/weights": jax.random.normal(for_out, (network.hidden,)) / network.hidden,
        "out/bias": jnp.zeros(()),
    }
    return {PAIR + name: value for name, value in found.items() if not (network.shared and name == "second")}


def pair_entries(params: Mapping[str, jax.Array], z: jax.Array) -> dict[str, jax.Array]:
    """What a block of rows z [n, D] carries: pair_first, pair_second [n, H], and pair_out [n, H + 1], alike in all."""
    first, bias, out, last = (params[PAIR + name] for name in ("first", "bias", "out/weights", "out/bias"))
    ends = jnp.concatenate([out, last[None]])
    product = lambda weight: jnp.matmul(z, weight, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    return {
        "pair_first": product(first) + bias,
        "pair_second": product(params.get(PAIR + "second", first)),
        "pair_out": jnp.broadcast_to(ends, (len(z), len(ends))),
    }


def read_out(hidden: jax.Array, out: jax.Array) -> jax.Array:
    """The last layer: hidden [..., H] after its activation, out [H + 1] -> [...]."""
    return jnp.matmul(hidden, out[:-1], precision=jax.lax.Precision.HIGHEST) + out[-1]


# Losses with it, through which gradient flows. Feature terms (feature_losses.py): rows i of x and of y are views of
# one image; of_x, of_y carry the halves of the network.


def adaptive_contrast(
    x: jax.Array,
    y: jax.Array,
    of_x: dict,
    of_y: dict,
    *,
    beta: float = 0.1,
    coldest: float = 1e-5,
    warmest: float = 2.0,
    push: bool = True,
) -> jax.Array:
    """AMCL (arXiv 2310.05615) for one head: mean over i of -s+/tau+ + s*/tau* + beta (O(tau+) - O(tau*)).

    s+ is the cosine with the own row of y, s* the largest with another; tau = coldest + (warmest - coldest) sigmoid of
    the network of that pair; O(tau) = D/2 log tau + 1/tau. With the sign of the published table the last part has no
    bound but those of tau: they are what keeps it finite.
    push=False: without s* and O(tau*), the form of SimSiam.
    """
    similarity, own = products(x, y), jnp.arange(len(x))
    nearest = jnp.argmax(jnp.where(jnp.eye(len(x), dtype=bool), -jnp.inf, similarity), axis=1)

    def of_pairs(other):
        hidden = jax.nn.relu(of_x["pair_first"] + of_y["pair_second"][other])
        tau = coldest + (warmest - coldest) * jax.nn.sigmoid(read_out(hidden, of_x["pair_out"][0]))
        weighed = jnp.take_along_axis(similarity, other[:, None], axis=1)[:, 0] / tau
        return weighed, x.shape[1] / 2 * jnp.log(tau) + 1 / tau

    pull, of_pull = of_pairs(own)
    pushed, of_push = of_pairs(nearest) if push else (0.0, 0.0)
    return jnp.mean(pushed - pull + beta * (of_pull - of_push))


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
