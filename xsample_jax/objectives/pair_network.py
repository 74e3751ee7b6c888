"""A learned number for every pair of rows: the temperatures of AMCL, the negative weights of AdaMEOW.

An MLP of a pair, a(W1 x + W2 y + b) . w + c, needs its first layer once for every row: blocks carry its two
halves, and losses add them up for the pairs that they compare. A network of pairs of channels reads a column of the
batch instead: its weights belong to places of images in the batch, and every row carries those of its image.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.errors import ConfigError
from xsample_jax.models.heads import products, standardized

PAIR, CHANNEL = "objective/pair/", "objective/pair/channel/"
COLDEST, WARMEST = 1e-5, 2.0  # temperatures of AMCL


@dataclasses.dataclass(frozen=True)
class PairNetwork:
    """hidden: units of its hidden layer; shared: W1 = W2, so that it reads the sum of both rows.

    channels: of two channels [B] over the images of a batch, which has one size, in place of two rows.
    """

    hidden: int = 16
    shared: bool = False
    channels: bool = False


def init_pair_network(network: PairNetwork, width: int, images: int, key: jax.Array) -> dict[str, jax.Array]:
    """Parameters of a network on rows of `width`, or on channels of `images`; its result starts near 0."""
    if network.channels:
        for_in, for_out = (jax.random.normal(one, (images, network.hidden)) for one in jax.random.split(key))
        found = {"in": for_in, "out": for_out / jnp.sqrt(network.hidden)}
        found = {name: value / jnp.sqrt(images) for name, value in found.items()}
        found |= {"bias": jnp.zeros(network.hidden), "shift": jnp.zeros(images)}
        return {CHANNEL + name: value for name, value in found.items()}
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


def pair_entries(params: Mapping[str, jax.Array], z: jax.Array, images: int) -> dict[str, jax.Array]:
    """What a block of rows z [n, D] carries: pair_first, pair_second [n, H], and pair_out [n, H + 1], alike in all.

    Of a network of channels: pair_channel [n, 3 H + 1], what it makes of a row's image in `channel_maps`; the rows are
    views of `images`.
    """
    if CHANNEL + "in" in params:
        return {"pair_channel": _of_places(params, len(z), images)}
    first, bias, out, last = (params[PAIR + name] for name in ("first", "bias", "out/weights", "out/bias"))
    ends = jnp.concatenate([out, last[None]])
    product = lambda weight: jnp.matmul(z, weight, precision=jax.lax.Precision.HIGHEST)  # noqa: E731
    return {
        "pair_first": product(first) + bias,
        "pair_second": product(params.get(PAIR + "second", first)),
        "pair_out": jnp.broadcast_to(ends, (len(z), len(ends))),
    }


def _of_places(params: Mapping[str, jax.Array], rows: int, images: int) -> jax.Array:
    into, out, shift, bias = (params[CHANNEL + name] for name in ("in", "out", "shift", "bias"))
    if images != len(into):
        expected = (
            f"the batch_size of the run's start, {len(into)}: the network of pairs of channels reads whole columns"
        )
        raise ConfigError("batch_size", images, expected)
    own = jnp.concatenate([into, out, shift[:, None], jnp.broadcast_to(bias, into.shape)], axis=1)
    return jnp.repeat(own, rows // images, axis=0)


def channel_maps(z: jax.Array, of_rows: jax.Array) -> jax.Array:
    """W2 relu(W1 c + b) + d of every column c of z [B, D]: [D, B]. of_rows [B, 3 H + 1]: pair_channel of the rows."""
    hidden = (of_rows.shape[1] - 1) // 3
    into, out, shift, bias = jnp.split(of_rows, (hidden, 2 * hidden, 2 * hidden + 1), axis=1)
    hidden = jax.nn.relu(jnp.matmul(z.T, into, precision=jax.lax.Precision.HIGHEST) + bias[0])
    return jnp.matmul(hidden, out.T, precision=jax.lax.Precision.HIGHEST) + shift[:, 0]


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
    coldest: float = COLDEST,
    warmest: float = WARMEST,
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


def adaptive_correlation(
    x: jax.Array,
    y: jax.Array,
    of_x: dict,
    *,
    off_diagonal: float = 5e-3,
    beta: float = 1e-6,
    coldest: float = COLDEST,
) -> jax.Array:
    """AMCL (arXiv 2310.05615) for Barlow Twins and one head, with a temperature of every pair of channels l, m.

    sum over l of (1 - C_ll / tau_ll)^2 + beta O(tau_ll) + sum over m != l of off_diagonal C_lm^2 / tau_lm - beta
    O(tau_lm); C: correlation of x [B, D] and y, tau_lm = coldest + (WARMEST - coldest) sigmoid(-f(x_l) . f(y_m)), f the
    network of channels, which reads them standardized, O(tau) = D/2 log tau + 1/tau.
    """
    x, y = standardized(x), standardized(y)
    correlation = products(x.T, y.T) / len(x)
    score = products(*(channel_maps(z, of_x["pair_channel"]) for z in (x, y)))
    tau = coldest + (WARMEST - coldest) * jax.nn.sigmoid(-score)
    cost = beta * (x.shape[1] / 2 * jnp.log(tau) + 1 / tau)
    own = jnp.eye(x.shape[1], dtype=bool)
    return jnp.sum(jnp.where(own, (1 - correlation / tau) ** 2 + cost, off_diagonal * correlation**2 / tau - cost))


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
