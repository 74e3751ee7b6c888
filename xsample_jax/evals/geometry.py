"""Geometry of the representation: alignment, uniformity, effective rank, and agreement with the captions."""

import numpy as np

from xsample_jax.data.embedding_rows import unit_rows


def alignment(z: np.ndarray, concepts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared distance over all pairs of different rows of one concept (Wang & Isola 2020, eq. 1, alpha = 2).

    z: [n, D], made unit length here; concepts: int [n]. Smaller is better.

    Returns:
      (contributions float64 [m], row numbers int [m]) of the rows that have a partner; the mean of the contributions
      is the metric (a ratio of two sums over rows, to first order), their bootstrap its interval.
    """
    z = unit_rows(z).astype(np.float64)
    _, position, count = np.unique(concepts, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), z.shape[1]))
    np.add.at(sums, position, z)
    partners = count[position] - 1
    rows = np.flatnonzero(partners)
    if not len(rows):
        return np.zeros(0), rows
    # sum over the partners j of |z_i - z_j|^2 = 2 (n - 1) - 2 z_i . (sum of them), for unit rows.
    distances = 2 * partners - 2 * (np.sum(z * sums[position], axis=1) - 1)
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
    z = unit_rows(z[chosen])
    kernel = np.exp(t * (2 * (z @ z.T).astype(np.float64) - 2))
    np.fill_diagonal(kernel, 0.0)
    of_row = kernel.sum(axis=1) / max(len(z) - 1, 1)
    mean = of_row.mean()
    return np.log(mean) + 2 * (of_row / mean - 1), chosen


def modality_gap(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Distance between the mean image and the mean text embedding (Liang et al. 2022, arXiv 2203.02053, section 2).

    images, texts: [n, D], row i of both from one example; made unit length here.

    Returns:
      contributions float64 [n]: (image - text) along the direction of the gap; their mean is the metric.
    """
    difference = unit_rows(images).astype(np.float64) - unit_rows(texts)
    gap = difference.mean(axis=0)
    return difference @ gap / max(np.linalg.norm(gap), 1e-30)


def effective_rank(features: np.ndarray) -> float:
    """exp of the entropy of the normalised singular values of the centred features [n, F] (Roy & Vetterli 2007)."""
    centred = features - features.mean(axis=0, dtype=np.float64)
    share = np.sqrt(np.maximum(np.linalg.eigvalsh(centred.T @ centred), 0))
    share = share / max(share.sum(), 1e-30)
    share = share[share > 0]
    return float(np.exp(-np.sum(share * np.log(share))))


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns float64 ranks from 1; equal values share the mean of their ranks."""
    _, position, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[position]


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
