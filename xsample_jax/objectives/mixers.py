"""Synthetic keys of one anchor each, made of real rows: MoCHi, KaLM-Embedding, Metrix, SupReMix.

Every mixer is `f(given: MixerInputs, **options) -> Mixtures`. What is drawn depends on neither the order of the anchors
nor that of the keys.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from xsample_jax.models.heads import products, unit_rows
from xsample_jax.registry import Slot


class MixerInputs(NamedTuple):
    """What a mixer makes keys of.

    x [A, D] and y [K, D]: rows of anchors and keys, with u and v their side information; target T [A, K]; negative:
    bool [A, K]; key: a random key for every anchor [A], or one for all.
    """

    x: jax.Array
    y: jax.Array
    target: jax.Array
    negative: jax.Array
    u: dict
    v: dict
    key: jax.Array


class Mixtures(NamedTuple):
    """Synthetic keys of every anchor.

    rows [A, M, D]; target [A, M]: T of them; weight [A, M]: N of them, or how often a link counts them (0: not there).
    kept: factor of the targets of the real keys, a scalar or [A, 1]; alone: the real keys are not compared at all;
    offset: added to their similarities, a scalar or [A, M].
    """

    rows: jax.Array
    target: jax.Array
    weight: jax.Array
    kept: jax.Array | float = 1.0
    alone: bool = False
    offset: jax.Array | float = 0.0


def hard_mixtures(
    given: MixerInputs,
    *,
    hardest: int = 64,
    mixed: int = 16,
    with_anchor: int = 8,
) -> Mixtures:
    """Mixtures of the `hardest` negatives of every anchor: `mixed` of two of them, `with_anchor` of one and the anchor.

    alpha n_i + (1 - alpha) n_j with alpha ~ U(0, 1), and beta x + (1 - beta) n_j with beta ~ U(0, 0.5), scaled to
    unit length (MoCHi, arXiv 2010.01028, eqs. 4, 5): harder than what is there, yet never more anchor than negative. An
    anchor with fewer negatives mixes those that it has. No gradient flows into them.
    """
    x, y = jax.lax.stop_gradient((given.x, given.y))
    hard, count = _nearest(x, y, given.negative, hardest)
    draw = iter(jax.vmap(lambda of_row: jax.random.split(of_row, 5), out_axes=1)(_of_rows(given.key, x)))

    def some(number):
        return y[_drawn(next(draw), hard, jnp.clip(count, 1, hard.shape[1]), number)]

    first, second, third = some(mixed), some(mixed), some(with_anchor)
    alpha = jax.vmap(lambda of_row: jax.random.uniform(of_row, (mixed, 1)))(next(draw))
    beta = 0.5 * jax.vmap(lambda of_row: jax.random.uniform(of_row, (with_anchor, 1)))(next(draw))
    rows = jnp.concatenate([alpha * first + (1 - alpha) * second, beta * x[:, None] + (1 - beta) * third], axis=1)
    return _negatives(unit_rows(rows), count)


def own_mixtures(
    given: MixerInputs,
    *,
    hardest: int = 7,
    pairs: int = 4,
    lists: int = 1,
    sharpness: float = 10.0,
) -> Mixtures:
    """Mixtures of the `hardest` negatives of every anchor alone (KaLM-Embedding-V2, arXiv 2506.20923).

    `pairs` of lam n_i + (1 - lam) n_j, lam ~ Beta(2, 2), i != j; `lists` of all of them with the weights softmax of
    `sharpness` times their cosines with the anchor, the m-th without its m - 1 nearest. Unit rows without gradient.
    The paper states neither that temperature nor the gradient, nor how many lists there are.
    """
    x, y = jax.lax.stop_gradient((given.x, given.y))
    hard, count = _nearest(x, y, given.negative, hardest)
    known = jnp.clip(count, 1, hard.shape[1])
    draw = jax.vmap(lambda of_row: jax.random.split(of_row, 3), out_axes=1)(_of_rows(given.key, x))
    first = _places(draw[0], known, pairs)
    step = 1 + _places(draw[1], jnp.maximum(known - 1, 1), pairs)
    second = jnp.take_along_axis(hard, (first + step) % known, axis=1)
    first = jnp.take_along_axis(hard, first, axis=1)
    lam = draw_ratios(draw[2], first, 2.0, 2.0)[..., None]
    of_pairs = lam * y[first] + (1 - lam) * y[second]
    near = jnp.einsum("ad,akd->ak", x, y[hard], precision=jax.lax.Precision.HIGHEST)
    place = jnp.arange(hard.shape[1])
    later = [(place[None] < known) & (place[None] >= jnp.minimum(number, known - 1)) for number in range(lists)]
    share = jax.nn.softmax(jnp.where(jnp.stack(later, axis=1), sharpness * near[:, None], -1e9), axis=-1)
    of_lists = jnp.einsum("amk,akd->amd", share, y[hard], precision=jax.lax.Precision.HIGHEST)
    return _negatives(unit_rows(jnp.concatenate([of_pairs, of_lists], axis=1)), count)


def positive_and_negative(given: MixerInputs, *, mixed: int = 64, concentration: float = 2.0) -> Mixtures:
    """Metrix (arXiv 2106.04990): lam p + (1 - lam) n of a positive and a negative of the anchor, T = lam, alone.

    lam ~ Beta(concentration, concentration). One mixture for each of `mixed` negatives, of all where there are fewer,
    with a positive drawn for it: it represents those with all positives of the anchor, and counts as many times. Unit
    rows; gradient flows into both.
    """

    def positives(key, still, number):
        return given.y[draw_positives(key, still, given.target > 0, number)]

    return _with_negative(given, positives, jnp.sum(given.target > 0, axis=1, keepdims=True), mixed, concentration)


def anchor_and_negative(
    given: MixerInputs, *, mixed: int = 64, concentration: float = 2.0, lone: bool = False
) -> Mixtures:
    """Metrix (arXiv 2106.04990): lam x + (1 - lam) n of the anchor itself and a negative of it, T = lam, alone.

    As positive_and_negative, with the anchor as its positive. lone: only for anchors without a positive, as in the
    public code.
    """
    counted = ~jnp.any(given.target > 0, axis=1, keepdims=True) if lone else jnp.ones((len(given.x), 1), bool)
    return _with_negative(given, lambda key, still, number: given.x[:, None], counted, mixed, concentration)


def _with_negative(given: MixerInputs, positives, count: jax.Array, mixed: int, concentration: float) -> Mixtures:
    """Mixtures of every anchor's positives(key, similarity, number) with negatives, each counted `count` times."""
    x, y = given.x, given.y
    still = products(jax.lax.stop_gradient(x), jax.lax.stop_gradient(y))
    for_negative, for_positive, for_ratio = jnp.moveaxis(
        jax.vmap(lambda of_row: jax.random.split(of_row, 3))(_of_rows(given.key, x)), 1, 0
    )
    negative, times = spread(for_negative, still, given.negative, mixed)
    lam = draw_ratios(for_ratio, negative, concentration, concentration)
    share = lam[..., None]
    rows = unit_rows(share * positives(for_positive, still, negative.shape[1]) + (1 - share) * y[negative])
    return Mixtures(rows, lam, times * count, alone=True)


def between_targets(
    given: MixerInputs,
    *,
    window: float = 5.0,
    positives: int = 144,
    negatives: int = 64,
) -> Mixtures:
    """SupReMix (arXiv 2309.16633): mixtures labeled like the anchor, and mixtures of the anchor with others.

    w y_j + (1 - w) y_k with t_j < t_i < t_k nearer than `window`, w = (t_k - t_i) / (t_k - t_j), is one more positive;
    a x_i + (1 - a) y_k with t_k != t_i and a ~ Beta(2, 8) a negative of the target a t_i + (1 - a) t_k, whose N is
    1 + its distance from t_i. `positives` and `negatives` at most: where there are more, those drawn stand for all.
    t is the first column of the side information target. Rows are not scaled; no gradient flows into them.
    """
    x, y = jax.lax.stop_gradient((given.x, given.y))
    own, of_keys = given.u["target"][:, :1], given.v["target"][None, :, 0]
    for_negative, for_ratio, for_pair = jnp.moveaxis(
        jax.vmap(lambda of_row: jax.random.split(of_row, 3))(_of_rows(given.key, x)), 1, 0
    )
    still = products(x, y)
    other, times = spread(for_negative, still, given.negative & (of_keys != own), negatives)
    ratio = draw_ratios(for_ratio, other, 2.0, 8.0)
    apart = jnp.abs(jnp.take_along_axis(jnp.broadcast_to(of_keys, still.shape), other, axis=1) - own)
    hard = ratio[..., None] * x[:, None] + (1 - ratio[..., None]) * y[other]
    there = given.negative | (given.target > 0)
    sides = [there & (gap > 0) & (gap < window) for gap in (own - of_keys, of_keys - own)]
    (below, above), stands_for = draw_pairs(for_pair, still, sides, positives)
    low, high = (jnp.take_along_axis(jnp.broadcast_to(of_keys, still.shape), place, axis=1) for place in (below, above))
    share = ((high - own) / jnp.where(high > low, high - low, 1.0))[..., None]
    easy = share * y[below] + (1 - share) * y[above]
    real, made = (jnp.sum(one, axis=1, keepdims=True) for one in (given.target > 0, stands_for))
    return Mixtures(
        jnp.concatenate([easy, hard], axis=1),
        jnp.concatenate([stands_for / jnp.maximum(real + made, 1), jnp.zeros_like(times)], axis=1),
        jnp.concatenate([stands_for, times * (1 + (1 - ratio) * apart)], axis=1),
        kept=real / jnp.maximum(real + made, 1),
    )


def semi_hard(
    given: MixerInputs,
    *,
    pool: int = 1024,
    number: int = 256,
    margin: float = -0.5,
) -> Mixtures:
    """InterCLR (arXiv 2008.11702): a drawn key of T > 0, and `number` drawn among the `pool` nearest negatives, alone.

    The cosine with the positive is less `margin`: below 0 it is taken for nearer than it is. An anchor without a
    positive has no negatives either. Gradient flows into the keys where they have one.
    """
    x, y = given.x, given.y
    still = products(jax.lax.stop_gradient(x), jax.lax.stop_gradient(y))
    for_positive, for_negative = jnp.moveaxis(jax.vmap(jax.random.split)(_of_rows(given.key, x)), 1, 0)
    positive = draw_positives(for_positive, still, given.target > 0, 1)
    hard, count = _nearest(x, y, given.negative, pool)
    near = jnp.zeros(still.shape, bool).at[jnp.arange(len(x))[:, None], hard].set(jnp.arange(hard.shape[1]) < count)
    negative, _ = spread(for_negative, still, near, number)
    there = jnp.take_along_axis(near, negative, axis=1) & (jnp.arange(negative.shape[1]) < count)
    has = jnp.any(given.target > 0, axis=1, keepdims=True)
    own = jnp.concatenate([has, has & there], axis=1).astype(x.dtype)
    first = (jnp.arange(own.shape[1]) == 0).astype(x.dtype)
    rows = jnp.concatenate([y[positive], y[negative]], axis=1)
    return Mixtures(rows, own * first, own, alone=True, offset=-margin * first)


OF_MIXTURE = {"mixed": (1, 2**20), "concentration": (1e-2, 1e3)}
MIXERS = {
    "semi_hard": Slot(semi_hard, limits={"pool": (1, 2**20), "number": (1, 2**20), "margin": (-2, 2)}),
    "hard_mixtures": Slot(hard_mixtures, limits=dict.fromkeys(("hardest", "mixed", "with_anchor"), (1, 2**20))),
    "own_mixtures": Slot(
        own_mixtures, limits=dict.fromkeys(("hardest", "pairs", "lists"), (1, 2**20)) | {"sharpness": (0, 1e3)}
    ),
    "positive_and_negative": Slot(positive_and_negative, limits=OF_MIXTURE),
    "anchor_and_negative": Slot(anchor_and_negative, limits=OF_MIXTURE),
    "between_targets": Slot(
        between_targets,
        reads=("target",),
        limits={"window": (1e-6, None), "positives": (1, 2**20), "negatives": (1, 2**20)},
    ),
}
OF_LINKS = ("positive_and_negative", "anchor_and_negative")  # mixers whose keys are a positive and a negative at once


def _negatives(rows: jax.Array, count: jax.Array) -> Mixtures:
    """Rows that are negatives of anchors which have some; count [A, 1]."""
    weight = jnp.broadcast_to((count > 0).astype(rows.dtype), rows.shape[:2])
    return Mixtures(rows, jnp.zeros_like(weight), weight)


def _of_rows(key: jax.Array, x: jax.Array) -> jax.Array:
    return key if key.ndim else jax.random.split(key, len(x))


def _nearest(x: jax.Array, y: jax.Array, negative: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """(places of the nearest negatives [A, at most `most`], nearest first; how many negatives there are [A, 1])."""
    _, hard = jax.lax.top_k(jnp.where(negative, products(x, y), -jnp.inf), min(most, y.shape[0]))
    return hard, jnp.sum(negative, axis=1, keepdims=True)


def _places(key: jax.Array, count: jax.Array, number: int) -> jax.Array:
    """`number` integers below count [A, 1] for every anchor, [A, number]."""
    return jax.vmap(lambda of_row, most: jax.random.randint(of_row, (number,), 0, most[0]))(key, count)


def _drawn(key: jax.Array, places: jax.Array, count: jax.Array, number: int) -> jax.Array:
    """`number` of the first `count` [A, 1] places [A, n] of every anchor, with replacement."""
    return jnp.take_along_axis(places, _places(key, count, number), axis=1)


def draw_ratios(key: jax.Array, places: jax.Array, a: float, b: float) -> jax.Array:
    """Shares from Beta(a, b) for mixtures with the keys at `places` [A, M]."""
    return jax.vmap(lambda of_row: jax.random.beta(of_row, a, b, (places.shape[1],)))(key)


def draw_positives(key: jax.Array, similarity: jax.Array, positive: jax.Array, number: int) -> jax.Array:
    """Places of `number` positives of every anchor, each drawn among all; place 0 where there is none. [A, number]."""
    order = jnp.argsort(jnp.where(positive, -similarity, jnp.inf), axis=1)
    return _drawn(key, order, jnp.maximum(jnp.sum(positive, axis=1, keepdims=True), 1), number)


def spread(key: jax.Array, similarity: jax.Array, among: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """(places [A, M], how many pairs each represents [A, M]) of the pairs `among` of every anchor.

    All of them where there are at most `most`; else one from each of `most` equal stretches of their order by
    similarity, so that every pair has the same chance; one at the edge of two may be drawn twice.
    """
    order = jnp.argsort(jnp.where(among, -similarity, jnp.inf), axis=1)
    count, number = jnp.sum(among, axis=1, keepdims=True), min(most, among.shape[1])
    return _stretched(key, order, count, number)


def _stretched(key, order, count, number) -> tuple[jax.Array, jax.Array]:
    within, times = _stretches(key, count, number)
    return jnp.take_along_axis(order, within, axis=1), times


def _stretches(key: jax.Array, count: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """(integers below count [A, 1], how many each represents), all of them or one from each of `number` stretches."""
    place = jnp.arange(number)[None]
    offset = jax.vmap(lambda of_row: jax.random.uniform(of_row, (number,)))(key)
    drawn = jnp.floor((place + offset) * (count / number)).astype(jnp.int32)
    within = jnp.where(count > number, drawn, place)
    times = jnp.where(count > number, count / number, (place < count).astype(jnp.float32))
    return jnp.clip(within, 0, jnp.maximum(count - 1, 0)), times


def draw_pairs(key: jax.Array, similarity: jax.Array, sides: list[jax.Array], most: int):
    """((places [A, M] of one side, of the other), how many pairs each represents): of all pairs of the two sides."""
    orders = [jnp.argsort(jnp.where(side, -similarity, jnp.inf), axis=1) for side in sides]
    first, second = (jnp.sum(side, axis=1, keepdims=True) for side in sides)
    place, times = _stretches(key, first * second, min(most, (similarity.shape[1] // 2) ** 2 or 1))
    width = jnp.maximum(second, 1)
    return tuple(
        jnp.take_along_axis(order, within, axis=1)
        for order, within in zip(orders, (place // width, place % width), strict=True)
    ), times
