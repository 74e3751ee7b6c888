"""A learned number of every pair of rows: the temperatures of AMCL, the negative weights of AdaMEOW.

An MLP of a pair, a(W1 x + W2 y + b) . w + c, needs its first layer once for every row: blocks carry the two halves of
it, and what reads them adds them up for the pairs that it looks at.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

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
