"""Geometry of the representation: alignment, uniformity, effective rank, and agreement with the captions."""

import numpy as np

from xsample_jax.data.records import unit_rows
from xsample_jax.evals.context import EvalContext, Evaluator
from xsample_jax.evals.features import Features
from xsample_jax.evals.linear_probes import hold_out, logistic_path
from xsample_jax.evals.metrics import Collector, ranks


def alignment(z: np.ndarray, concepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared distance over all pairs of different rows of one concept (Wang & Isola 2020, eq. 1, alpha = 2).

    z: [n, D], made unit length here (a row of zeros stays at the origin); concepts: int [n]. Smaller is better.

    Returns:
      (contributions float64 [m], row numbers int [m]) of the rows that have a partner; the mean of the contributions
      is the metric (a ratio of two sums over rows, to first order), their bootstrap its interval.
    """
    z = unit_rows(z).astype(np.float64)
    _, position, count = np.unique(concepts, return_inverse=True, return_counts=True)
    square = np.sum(z * z, axis=1)
    sums, squares = np.zeros((len(count), z.shape[1])), np.bincount(position, square)
    np.add.at(sums, position, z)
    partners = count[position] - 1
    rows = np.flatnonzero(partners)
    if not len(rows):
        return np.zeros(0), rows
    # Sums over the partners j of |z_i|^2 + |z_j|^2 - 2 z_i . z_j.
    dots = np.sum(z * sums[position], axis=1) - square
    distances = partners * square + squares[position] - square - 2 * dots
    distances, partners = distances[rows], partners[rows]
    mean = distances.sum() / partners.sum()
    return mean + (distances - mean * partners) / partners.mean(), rows


def uniformity(z: np.ndarray, t: float = 2.0, rows: int = 4096, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """log mean exp(-t |z_i - z_j|^2) over pairs i < j (Wang & Isola 2020, eq. 2), on at most `rows` random rows.

    Returns:
      (contributions float64 [m], row numbers int [m]), whose mean is the metric (its first-order jackknife).
    """
    chosen = np.arange(len(z))
    if len(z) > rows:
        chosen = np.random.default_rng(seed).choice(len(z), rows, replace=False)
    of_row = _kernel_of_others(z[chosen], z[chosen], t).sum(axis=1) / max(len(chosen) - 1, 1)
    mean = of_row.mean()
    return np.log(mean) + 2 * (of_row / mean - 1), chosen


def _kernel_of_others(x: np.ndarray, y: np.ndarray, t: float) -> np.ndarray:
    """exp(-t |x_i - y_k|^2) of the unit rows, float64 [n, n], and 0 where i = k; a row of zeros is at the origin."""
    x, y = unit_rows(x), unit_rows(y)
    square = (np.sum(np.square(rows, dtype=np.float64), axis=1) for rows in (x, y))
    kernel = np.exp(t * (2 * (x @ y.T).astype(np.float64) - np.add.outer(*square)))
    np.fill_diagonal(kernel, 0.0)
    return kernel


def modality_gap(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Distance between the mean image and the mean text embedding (Liang et al. 2022, arXiv 2203.02053, section 2).

    images, texts: [n, D], row i of both from one example; made unit length here.

    Returns:
      contributions float64 [n]: (image - text) along the direction of the gap; their mean is the metric.
    """
    difference = unit_rows(images).astype(np.float64) - unit_rows(texts)
    gap = difference.mean(axis=0)
    return difference @ gap / max(np.linalg.norm(gap), 1e-30)


# The contrastive gap (Fahim et al. 2024, arXiv 2405.18570, section 3): how far images and texts keep apart.
#
# images, texts: [n, D], row i of both from one example; made unit length here. Contributions are float64 [n].


def centroid_cosine(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Cosine of the mean image and the mean text embedding, as contributions to first order."""
    x, y = (unit_rows(rows).astype(np.float64) for rows in (images, texts))
    lengths = [max(np.linalg.norm(rows.mean(axis=0)), 1e-30) for rows in (x, y)]
    a, b = x.mean(axis=0) / lengths[0], y.mean(axis=0) / lengths[1]
    cosine = a @ b
    along = (x @ (b - cosine * a)) / lengths[0] + (y @ (a - cosine * b)) / lengths[1]
    return cosine + along - along.mean()


def cross_uniformity(images: np.ndarray, texts: np.ndarray, t: float = 2.0) -> np.ndarray:
    """log mean exp(-t |x_i - y_k|^2) over pairs i != k of different examples, as contributions to first order."""
    kernel = _kernel_of_others(images, texts, t)
    rows, columns = (kernel.sum(axis=axis) / max(len(kernel) - 1, 1) for axis in (1, 0))
    mean = rows.mean()
    return np.log(mean) + (rows + columns) / mean - 2


def separability(
    images: np.ndarray, texts: np.ndarray, groups: np.ndarray, share: float = 0.2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """How well a linear classifier tells images from texts: logistic regression on 80% of the groups, C = 1.

    Args:
      groups: int [n]; examples of one group, as those of one caption, are held out together.

    Returns:
      (share of the two that is right, float32 [m], row numbers int [m]) of the examples held out; 0.5 is a guess.
    """
    kept, held = hold_out(groups, share, seed)
    rows = [np.concatenate([unit_rows(images[keep]), unit_rows(texts[keep])]) for keep in (kept, held)]
    fitted, asked = (np.repeat([0, 1], len(x) // 2) for x in rows)
    probe = logistic_path(rows[0], fitted, [2 / len(fitted)])[0]
    return (probe.predict(rows[1]) == asked).reshape(2, -1).mean(axis=0, dtype=np.float32), np.flatnonzero(held)


def singular_above_one(rows: np.ndarray) -> int:
    """How many singular values of the unit rows [n, D] are above 1: directions that more than one row is worth."""
    rows = unit_rows(rows).astype(np.float64)
    return int(np.sum(np.linalg.eigvalsh(rows.T @ rows) > 1))


def isotropy(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 - mean cosine over pairs of different rows of z [n, D] (arXiv 2210.14140).

    It is 0 where all rows are alike and about 1 where they point in all directions.

    Returns:
      (contributions float64 [m], row numbers int [m]), whose mean is the metric, of the rows that have a direction.
    """
    rows = np.flatnonzero(z.any(axis=1))
    z = unit_rows(z[rows]).astype(np.float64)
    of_row = (z @ z.sum(axis=0) - 1) / max(len(z) - 1, 1)
    return 1 - (2 * of_row - of_row.mean()) if len(rows) else of_row, rows


def effective_rank(features: np.ndarray) -> float:
    """exp of the entropy of the normalized singular values of the centered features [n, F] (Roy & Vetterli 2007)."""
    centered = features - features.mean(axis=0, dtype=np.float64)
    share = np.sqrt(np.maximum(np.linalg.eigvalsh(centered.T @ centered), 0))
    share = share / max(share.sum(), 1e-30)
    share = share[share > 0]
    return float(np.exp(-np.sum(share * np.log(share))))


def concept_means(rows: np.ndarray, concepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (unit means of the unit rows [c, F], concepts int [c])."""
    names, position = np.unique(concepts, return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]), np.float32)
    np.add.at(sums, position, unit_rows(rows))
    return unit_rows(sums), names


def caption_correlation(
    features: np.ndarray, captions: np.ndarray, concepts: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Spearman correlation, over pairs of concepts, of the cosine of their images with the cosine of their captions.

    Args:
      features: [n, F]; captions: [n, E]; concepts: int [n]. Both are averaged per concept first.

    Returns:
      (rho, contributions float64 [c], concepts int [c]). The contributions are jackknife pseudo-values with the ranks
      held fixed, shifted so that their mean is rho: their bootstrap over concepts gives the interval of rho.
    """
    images, names = concept_means(features, concepts)
    texts, _ = concept_means(captions, concepts)
    count = len(names)
    upper = np.triu_indices(count, 1)
    table = np.zeros((2, count, count))
    for of, rows in zip(table, (images, texts), strict=True):
        of[upper] = ranks((rows @ rows.T)[upper])
        of += of.T
    pairs = count * (count - 1) / 2
    a, b = table
    # Sums over all pairs, and over the pairs that one concept takes part in.
    sums = {"a": a, "b": b, "aa": a * a, "bb": b * b, "ab": a * b}
    own = {name: matrix.sum(axis=1) for name, matrix in sums.items()}
    total = {name: rows.sum() / 2 for name, rows in own.items()}

    def pearson(s, n):
        covariance = s["ab"] - s["a"] * s["b"] / n
        with np.errstate(invalid="ignore", divide="ignore"):  # NaN where all are alike
            return covariance / np.sqrt((s["aa"] - s["a"] ** 2 / n) * (s["bb"] - s["b"] ** 2 / n))

    rho = pearson(total, pairs)
    without = pearson({name: total[name] - own[name] for name in total}, pairs - (count - 1))
    pseudo = count * rho - (count - 1) * without
    return float(rho), pseudo - pseudo.mean() + rho, names


# Shape of the embedding: alignment, tolerance, uniformity, effective rank, modality gap, agreement with captions.


MOST_CAPTIONS = 2000  # of the rank correlation, which compares every two
MOST_PAIRS = 4096  # of the gap, as of uniformity


def add_geometry(out: Collector, of: Features, concepts: np.ndarray, units: np.ndarray, kinds: np.ndarray) -> None:
    """Adds what needs images alone, of the embedding (of the features where there is none).

    Args:
      concepts, kinds: int [n]. Alignment is over pairs of one concept, tolerance over pairs of one kind (a class, which
        may hold many concepts).
      units: int [n], what the bootstrap resamples.
    """
    z = of.features if of.embedding is None else of.embedding
    values, rows = alignment(z, concepts)
    if len(rows):
        out.add_per_example("geometry/alignment", values, units[rows])
    directed = np.flatnonzero(z.any(axis=1))  # a cosine needs two directions
    if len(directed) < len(z):
        left_out = f"{len(z) - len(directed)} of {len(z)} rows are zero and were left out"
        out.note(f"geometry/tolerance, geometry/isotropy: {left_out}")
    values, rows = alignment(z[directed], kinds[directed])
    if len(rows):
        out.add_per_example("geometry/tolerance", 1 - values / 2, units[directed[rows]])
    if len(z) > 1:
        values, rows = uniformity(z)
        out.add_per_example("geometry/uniformity", values, units[rows])
    values, rows = isotropy(z)
    if len(rows) > 1:
        out.add_per_example("geometry/isotropy", values, units[rows])
    out.scalar("geometry/effective_rank", effective_rank(of.features))


def add_caption_correlation(out: Collector, of: Features, concepts: np.ndarray | None = None) -> None:
    """Adds the rank correlation of the images' cosines with their captions', over pairs of concepts.

    of: rows without a caption are left out; nothing is added where the captions are too few or too alike to be ranked.
    concepts: int [n], whose rows are averaged first; None: rows of one caption are one concept.
    """
    there = of.has_caption
    of = of.rows(there)
    if concepts is None:
        _, concepts = np.unique(of.caption_embedding, axis=0, return_inverse=True)
        concepts = concepts.reshape(-1)
    else:
        concepts = concepts[there]
    known = np.unique(concepts)
    if len(known) > MOST_CAPTIONS:
        keep = np.isin(concepts, np.random.default_rng(0).permutation(known)[:MOST_CAPTIONS])
        of, concepts = of.rows(keep), concepts[keep]
    if len(known) < 4:  # without one of three, one pair is left
        return
    rho, contributions, names = caption_correlation(of.features, of.caption_embedding, concepts)
    if np.isfinite(contributions).all():
        out.add_per_example("spearman/captions", contributions, names, chance=0.0)
        out.scalar("spearman/captions", rho)


def geometry(bench: EvalContext, out: Collector) -> None:
    test = bench.test
    alone = -1 - np.arange(len(test))  # a row without a label is like no other
    concepts = np.where(test.label >= 0, test.label, alone)
    kinds = concepts
    if bench.target != "label":
        kinds = test.attribute(bench.target)
        kinds = np.where(kinds >= 0, kinds, alone)
    add_geometry(out, test, concepts, bench.units(test), kinds)


def captions(bench: EvalContext, out: Collector) -> None:
    """The rank correlation, and the modality gap of a model that embeds texts."""
    test = bench.test
    if test.caption_embedding is not None:
        add_caption_correlation(out, test)
    if bench.text_side is not None:
        rows, texts, ids = bench.text_side.of_split(bench.config.eval.split)
        units = bench.units(test)[rows]
        out.add_per_example("geometry/modality_gap", modality_gap(test.embedding[rows], texts), units)
        add_gap(out, test.embedding[rows], texts, ids, units)


def add_gap(out: Collector, images: np.ndarray, texts: np.ndarray, ids: np.ndarray, units: np.ndarray) -> None:
    """Adds the metrics of the contrastive gap. images, texts: [n, D]; ids: of the captions; units: of the bootstrap."""
    if len(images) > MOST_PAIRS:
        keep = np.random.default_rng(0).choice(len(images), MOST_PAIRS, replace=False)
        images, texts, ids, units = images[keep], texts[keep], ids[keep], units[keep]
    out.add_per_example("gap/centroid_cosine", centroid_cosine(images, texts), units)
    out.add_per_example("gap/pair_alignment", np.sum((unit_rows(images) - unit_rows(texts)) ** 2, axis=1), units)
    for name, rows in (("images", images), ("texts", texts)):
        out.scalar(f"gap/singular_above_one/{name}", singular_above_one(rows))
    if len(np.unique(ids)) < 2:
        out.note("gap/separability, gap/cross_uniformity: not measured, the split has a single caption")
        return
    out.add_per_example("gap/cross_uniformity", cross_uniformity(images, texts), units)
    right, rows = separability(images, texts, ids)
    out.add_per_example("gap/separability", right, units[rows], classes=2, chance=0.5)


def all_geometry(bench: EvalContext, out: Collector) -> None:
    geometry(bench, out)
    captions(bench, out)


GEOMETRY = Evaluator(
    all_geometry,
    "alignment, tolerance, uniformity, isotropy, effective rank; agreement with captions; gap of images and texts",
    metrics=("geometry/...", "spearman/captions", "gap/..."),
)
