"""Looking at a similarity graph: its entropy and mass against tau_s, and figures of target beside student."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from xsample_jax.data.captions import select_caption
from xsample_jax.data.records import RecordSource, unit_rows
from xsample_jax.errors import DataError
from xsample_jax.graphs.targets import SAME
from xsample_jax.metrics.progress_bar import progress


def target_against_temperature(
    similarity: np.ndarray,
    temperatures: np.ndarray,
    views: int = 2,
    own: np.ndarray | None = None,
    kinds: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Describes T = softmax(similarity / tau_s), self left out, for each tau_s; V views of an image share its row.

    Args:
      similarity: float [A, B], e.g. cosines of captions, anchors against the images of a batch.
      temperatures: float [t].
      views: V.
      own: int [A], the column that is the anchor itself; None: A = B and the diagonal.
      kinds: name -> bool [A, B], pairs whose part in the target is wanted.

    Returns:
      float64 [t] each, means over anchors: "entropy" H(s) in nats, "effective_neighbors" exp(H(s)), "own_view_mass",
      and the mass on each of the kinds (an anchor's own other views count where its own pair is in the kind).
    """
    similarity = np.asarray(similarity, np.float64)
    anchors = np.arange(len(similarity))
    own = anchors if own is None else own
    # How many of the N - 1 columns of a row belong to image k: V, or V - 1 for the image itself.
    copies = np.full(similarity.shape, float(views))
    copies[anchors, own] = views - 1
    kinds = kinds or {}
    result = {name: [] for name in ("entropy", "effective_neighbors", "own_view_mass", *kinds)}
    for tau in temperatures:
        logits = similarity / tau
        logits = logits - np.where(copies > 0, logits, -np.inf).max(axis=1, keepdims=True)
        weights = np.where(copies > 0, np.exp(np.minimum(logits, 0)), 0)
        total = np.sum(copies * weights, axis=1)
        entropy = np.log(total) - np.sum(copies * weights * logits, axis=1) / total
        target = copies * weights / total[:, None]
        result["entropy"].append(entropy.mean())
        result["effective_neighbors"].append(np.exp(entropy).mean())
        result["own_view_mass"].append(target[anchors, own].mean())
        for name, pairs in kinds.items():
            result[name].append(np.sum(target * pairs, axis=1).mean())
    return {name: np.asarray(values) for name, values in result.items()}


def by_group(groups: np.ndarray) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """Returns (order int [n] that brings equal groups together, list of (group, first place, end place))."""
    groups = np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    names, start, count = np.unique(groups[order], return_index=True, return_counts=True)
    return order, [(str(name), int(s), int(s + c)) for name, s, c in zip(names, start, count, strict=True)]


def draw_graph(axes, graph: np.ndarray, groups: np.ndarray, *, signed: bool = False, floor: float = 1e-4, ink="black"):
    """Draws a graph [n, n] as a heat map, rows and columns sorted by group; returns the image for a color bar.

    Color is logarithmic (a target spreads over four decades), symmetric about zero where `signed` (a difference).
    Groups with room for it are named along the left edge; thin lines part them.
    """
    from matplotlib import colors

    order, spans = by_group(groups)
    shown = np.asarray(graph)[np.ix_(order, order)]
    if signed:
        norm, palette = colors.SymLogNorm(linthresh=10 * floor, vmin=-1, vmax=1), "RdBu_r"
    else:
        norm, palette, shown = colors.LogNorm(floor, 1), "magma", np.maximum(shown, floor)
    image = axes.imshow(shown, cmap=palette, norm=norm, interpolation="nearest")
    for _, _, end in spans[:-1]:
        axes.axhline(end - 0.5, color=ink, linewidth=0.5, alpha=0.35)
        axes.axvline(end - 0.5, color=ink, linewidth=0.5, alpha=0.35)
    named = [span for span in spans if span[2] - span[1] >= len(order) / 24]
    axes.set_yticks([(start + end - 1) / 2 for _, start, end in named], [name for name, _, _ in named])
    axes.set_xticks([])
    axes.tick_params(length=0)
    return image


# The graph that captions ask for, before any training: from unit embeddings [n, E] of a sample of a set.
#
# Pairs are looked at a tile at a time, so memory is that of the embeddings and a tile.


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


def one_vector(embedding: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Indices of the rows whose embedding is that of another caption, int [m].

    Captions that differ in case or white space only count as one.
    """
    _, words = np.unique([" ".join(caption.casefold().split()) for caption in captions], return_inverse=True)
    found = np.zeros(len(embedding), bool)
    for start, cosines in pair_tiles(embedding):
        rows = slice(start, start + len(cosines))
        alike = (cosines >= SAME) & (words[rows, None] != words[None, start:])
        found[rows] |= alike.any(axis=1)
        found[start:] |= alike.any(axis=0)
    return np.flatnonzero(found)


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

    "entropy", "effective_neighbors" (its exp, which objective.target_neighbors sets), "own_view_mass",
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
    curves["effective_neighbors"] = np.exp(curves["entropy"])
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
    """An order int [n] in which neighbors are alike: from the row most alike to all, always on to the nearest."""
    left = np.array(similarity, np.float64)
    order = [int(left.sum(axis=1).argmax())]
    while len(order) < len(left):
        left[:, order[-1]] = -np.inf
        order.append(int(left[order[-1]].argmax()))
    return np.array(order)


# A random sample of a split's captions and their embeddings: what looking at a caption graph reads of a large set.


@dataclasses.dataclass(frozen=True)
class CaptionSample:
    """n records of a split.

    Attributes:
      index: int [n], places in the split, rising.
      embedding: float32 [n, E], unit rows.
      captions: n texts.
      label: int [n], -1 where a record has none.
      total: records in the split; without: records looked at that have no embedding.
    """

    index: np.ndarray
    embedding: np.ndarray
    captions: Sequence[str]
    label: np.ndarray
    total: int
    without: int

    def __len__(self) -> int:
        return len(self.index)


def read_sample(
    source: RecordSource,
    which: str = "first",
    count: int = 8192,
    seed: int = 0,
    class_embeddings: np.ndarray | None = None,
) -> CaptionSample:
    """Reads at most `count` random records of a split, all of a smaller one; `which` caption as `data.caption` says.

    With `class_embeddings` [classes, E] the text of a record is that of its class. Memory: count * (E * 4 bytes and a
    caption), however large the split is.

    Raises:
      DataError: no record has an embedding.
    """
    total = len(source)
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(total, count, replace=False, shuffle=False)) if count < total else np.arange(total)
    kept, rows, captions, labels = [], [], [], []
    for place in progress(places, "captions", len(places)):
        record = source[int(place)]
        text, row = _text_of(record, which, source, class_embeddings)
        if row is None:
            continue
        kept.append(place)
        rows.append(row)
        captions.append(text)
        labels.append(record["label"])
    if not kept:
        fix = f"Embed its captions: python -m xsample_jax.tools.embed --data={source.folder}"
        expected = "embeddings in the records" if class_embeddings is None else "records with a label"
        raise DataError(f"caption embeddings of {source.folder}", "none", expected, fix)
    embedding = unit_rows(np.stack(rows))
    return CaptionSample(np.array(kept), embedding, captions, np.array(labels), total, len(places) - len(kept))


def _text_of(record: dict, which: str, source: RecordSource, class_embeddings) -> tuple[str, np.ndarray | None]:
    if class_embeddings is not None:
        label, names = record["label"], source.manifest.class_names
        if label < 0:
            return "", None
        return names[label] if names else str(label), class_embeddings[label]
    if record["caption_embeddings"] is None:
        return "", None
    text, row = select_caption(record, which, where=str(source.folder))
    return " | ".join(record["captions"]) if text is None else text, row
