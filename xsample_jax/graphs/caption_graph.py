"""The graph that captions ask for, before any training: from unit embeddings [n, E] of a sample of a set.

Pairs are looked at a tile at a time, so memory is that of the embeddings and a tile.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from xsample_jax.graphs.inspect import target_against_temperature
from xsample_jax.graphs.temperature import SAME

TILE = 512
BINS = 2000  # of cosines -1 to 1
ANCHORS, DRAWS = 64, 4  # rows of a batch that are looked at, and batches
ORDINARY = 0.95  # share of all pairs, the least alike ones, that count as saying nothing


def pair_tiles(embedding: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (first row, cosines [t, n - first]) so that every pair is above the diagonal of one tile."""
    for start in range(0, len(embedding), TILE):
        yield start, embedding[start : start + TILE] @ embedding[start:].T


def histogram(embedding: np.ndarray) -> np.ndarray:
    """Counts int64 [BINS] of the cosines of all pairs, bins of equal width from -1 to 1."""
    counts = np.zeros(BINS, np.int64)
    for _, cosines in pair_tiles(embedding):
        pairs = cosines[np.triu_indices(*cosines.shape[:1], 1, cosines.shape[1])]
        bins = np.clip((pairs + 1) * (BINS / 2), 0, BINS - 1).astype(np.int32)
        counts += np.bincount(bins, minlength=BINS)
    return counts


def quantile(counts: np.ndarray, share: float) -> float:
    """The cosine below which `share` of the pairs of a histogram are, to the width of a bin."""
    place = np.searchsorted(np.cumsum(counts), share * counts.sum())
    return float(2 * min(place + 1, BINS) / BINS - 1)


def same_caption_share(embedding: np.ndarray) -> float:
    """Share of the pairs that have the same embedding; unbiased for the set that the sample is from."""
    same = sum(np.count_nonzero(np.triu(cosines >= SAME, 1)) for _, cosines in pair_tiles(embedding))
    return same / max(len(embedding) * (len(embedding) - 1) / 2, 1)


def closest_pairs(embedding: np.ndarray, captions: Sequence[str], count: int = 12) -> list[tuple[int, int, float]]:
    """The pairs (i, k, cosine) with the largest cosines below that of equal captions; a caption is in two at most."""
    found = []
    for start, cosines in pair_tiles(embedding):
        cosines = np.where(np.triu(np.ones(cosines.shape, bool), 1) & (cosines < SAME), cosines, -2)
        best = np.argpartition(cosines, -min(50 * count, cosines.size), axis=None)[-50 * count :]
        rows, columns = np.unravel_index(best, cosines.shape)
        found += zip(cosines[rows, columns], rows + start, columns + start)
    pairs, used, seen = [], {}, set()
    for cosine, i, k in sorted(found, key=lambda pair: -pair[0]):
        words = frozenset((captions[i], captions[k]))
        if cosine <= -2 or words in seen or any(used.get(word, 0) >= 2 for word in words):
            continue
        seen.add(words)
        for word in words:
            used[word] = used.get(word, 0) + 1
        pairs.append((int(i), int(k), float(cosine)))
        if len(pairs) == count:
            break
    return pairs


def ladder(
    embedding: np.ndarray,
    captions: Sequence[str],
    shares: Sequence[float],
    each: int = 3,
    pairs: int = 200_000,
    seed: int = 0,
) -> list[tuple[float, list[tuple[int, int, float]]]]:
    """For each share, (share, `each` pairs (i, k, cosine) than which that share of random pairs is less alike).

    The pairs of a step have different captions, as far as there are such.
    """
    rng = np.random.default_rng(seed)
    i = rng.integers(0, len(embedding), pairs)
    k = (i + rng.integers(1, len(embedding), pairs)) % len(embedding)
    cosine = np.concatenate(
        [np.sum(embedding[i[s : s + 8192]] * embedding[k[s : s + 8192]], axis=1) for s in range(0, pairs, 8192)]
    )
    order = np.argsort(cosine, kind="stable")
    steps = []
    for share in shares:
        middle = int(share * (pairs - 1))
        near = order[np.argsort(np.abs(np.arange(pairs) - middle), kind="stable")[: 20 * each]]
        of_words: dict[frozenset, int] = {}
        for place in near:
            of_words.setdefault(frozenset((captions[i[place]], captions[k[place]])), place)
        chosen = [*of_words.values(), *near][:each]
        steps.append((share, [(int(i[p]), int(k[p]), float(cosine[p])) for p in chosen]))
    return steps


def target_curves(
    embedding: np.ndarray, batch_size: int, temperatures: np.ndarray, views: int, ordinary: float, seed: int = 0
) -> dict[str, np.ndarray]:
    """Means over rows of random batches, float64 [t] each, of the target softmax(cosine / tau_s) of B images.

    "entropy", "effective_neighbours" (its exp, which objective.target_neighbours sets), "own_view_mass",
    "same_caption_mass" (of other images), "ordinary_mass" (pairs with a cosine of at most `ordinary`) and "alike_mass",
    the rest.
    """
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(DRAWS):
        batch = rng.choice(len(embedding), batch_size, replace=False)
        own = rng.choice(batch_size, min(ANCHORS, batch_size), replace=False)
        cosines = embedding[batch[own]] @ embedding[batch].T
        other = np.ones(cosines.shape, bool)
        other[np.arange(len(own)), own] = False
        kinds = {
            "same_caption_mass": other & (cosines >= SAME),
            "ordinary_mass": other & (cosines <= ordinary) & (cosines < SAME),
        }
        draws.append(target_against_temperature(cosines, temperatures, views, own, kinds))
    curves = {name: np.mean([draw[name] for draw in draws], axis=0) for name in draws[0]}
    curves["effective_neighbours"] = np.exp(curves["entropy"])
    masses = ("own_view_mass", "same_caption_mass", "ordinary_mass")
    return curves | {"alike_mass": np.clip(1 - sum(curves[name] for name in masses), 0, 1)}


def temperature_for(curve: np.ndarray, temperatures: np.ndarray, value: float) -> float | None:
    """The tau_s at which a rising curve has a value, interpolated in log tau_s; None outside of its range."""
    curve = np.maximum.accumulate(curve)  # means of a few batches may dip by their last digits
    if not curve[0] <= value <= curve[-1]:
        return None
    return float(np.exp(np.interp(value, curve, np.log(temperatures))))


def at(curve: np.ndarray, temperatures: np.ndarray, tau_s: float) -> float:
    """The value of a curve at one tau_s, interpolated in log tau_s."""
    return float(np.interp(np.log(tau_s), np.log(temperatures), curve))


def chain(similarity: np.ndarray) -> np.ndarray:
    """An order int [n] in which neighbours are alike: from the row most alike to all, always on to the nearest."""
    left = np.array(similarity, np.float64)
    order = [int(left.sum(axis=1).argmax())]
    while len(order) < len(left):
        left[:, order[-1]] = -np.inf
        order.append(int(left[order[-1]].argmax()))
    return np.array(order)
