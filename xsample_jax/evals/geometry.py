"""Geometry of the representation: alignment, uniformity, effective rank, and agreement with the captions."""

import numpy as np

from xsample_jax.evals.knn import unit_rows


def alignment(z: np.ndarray, concepts: np.ndarray) -> float:
    """Mean squared distance over all pairs of different rows of one concept (Wang & Isola 2020, eq. 1, alpha = 2).

    z: [n, D], made unit length here; concepts: int [n]. nan where no concept has two rows. Smaller is better.
    """
    z = unit_rows(z).astype(np.float64)
    _, position, count = np.unique(concepts, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), z.shape[1]))
    np.add.at(sums, position, z)
    # sum over ordered pairs of z_i.z_j = |sum z|^2 - n, for unit rows.
    dots = np.sum(np.sum(sums**2, axis=1) - count)
    pairs = np.sum(count * (count - 1))
    return float(2 - 2 * dots / pairs) if pairs else float("nan")


def uniformity(z: np.ndarray, t: float = 2.0, rows: int = 4096, seed: int = 0) -> float:
    """log mean exp(-t |z_i - z_j|^2) over pairs i < j (Wang & Isola 2020, eq. 2), on at most `rows` random rows."""
    z = unit_rows(z)
    if len(z) > rows:
        z = z[np.random.default_rng(seed).choice(len(z), rows, replace=False)]
    upper = np.triu_indices(len(z), 1)
    return float(np.log(np.mean(np.exp(t * (2 * (z @ z.T)[upper].astype(np.float64) - 2)))))


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
        return covariance / np.sqrt((s["aa"] - s["a"] ** 2 / n) * (s["bb"] - s["b"] ** 2 / n))

    rho = pearson(total, pairs)
    without = pearson({name: total[name] - own[name] for name in total}, pairs - (count - 1))
    pseudo = count * rho - (count - 1) * without
    return float(rho), pseudo - pseudo.mean() + rho, names
