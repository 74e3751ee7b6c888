"""A flat map of the evaluated images: their features on the two axes of largest variance (PCA)."""

from collections.abc import Mapping, Sequence

import numpy as np

from xsample_jax.data.embedding_rows import unit_rows
from xsample_jax.evals.features import Features

POINTS = 2000  # more than this cannot be told apart in a picture
VALUES = 24  # an attribute with more values than this has no colours
MOST_COMMON = 11


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres the unit rows of features [n, F] and projects them on their two principal axes.

    Returns:
      (xy float32 [n, 2], share float64 [2] of the whole variance that each axis has). Each axis points to where its
      largest absolute entry is positive, so that equal features give equal maps on all machines.
    """
    rows = unit_rows(features).astype(np.float64)
    rows -= rows.mean(axis=0)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    axes = vectors[:, :-3:-1]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    xy = np.zeros((len(rows), 2), np.float32)
    xy[:, : axes.shape[1]] = rows @ axes
    share = np.zeros(2)
    share[: axes.shape[1]] = np.maximum(values[:-3:-1], 0) / max(values.sum(), 1e-30)
    return xy, share


def colourings(of: Features, class_names: Sequence[str] = ()) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Name -> (codes int [n], words): the attributes and labels that have few enough values to be told by colour.

    Labels count where no attribute says the same; where nothing has few values the most common labels are kept and the
    rest is "other". Rows without a value (-1) are "none".
    """
    given = {name: (values, of.attribute_names.get(name)) for name, values in of.attributes.items()}
    if not any(np.array_equal(values, of.label) for values, _ in given.values()):
        given["label"] = (of.label, class_names)
    found = {}
    for name, (values, names) in given.items():
        kept, codes = np.unique(values, return_inverse=True)
        if 2 <= len(kept) <= VALUES:
            found[name] = (codes, [_word(value, names) for value in kept])
    if not found and (of.label >= 0).any():
        kept, count = np.unique(of.label[of.label >= 0], return_counts=True)
        common = np.sort(kept[np.argsort(-count, kind="stable")[:MOST_COMMON]])
        codes = np.where(np.isin(of.label, common), np.searchsorted(common, of.label), len(common))
        found["label"] = (codes, [*(_word(value, class_names) for value in common), "other"])
    return found


def map_arrays(of: Features, class_names: Sequence[str] = (), seed: int = 0) -> Mapping[str, np.ndarray]:
    """Arrays for the snapshot: map/xy [n, 2], map/share [2], and per colouring map/codes/<name>, map/words/<name>."""
    if len(of) < 3:
        return {}
    if len(of) > POINTS:
        of = of.rows(np.sort(np.random.default_rng(seed).choice(len(of), POINTS, replace=False)))
    xy, share = principal_plane(of.features)
    arrays = {"map/xy": xy, "map/share": share}
    for name, (codes, words) in colourings(of, class_names).items():
        arrays[f"map/codes/{name}"] = codes.astype(np.int16)
        arrays[f"map/words/{name}"] = np.asarray(words, dtype=np.str_)
    return arrays


def _word(value: int, names: Sequence[str] | None) -> str:
    if value < 0:
        return "none"
    return str(names[value]) if names is not None and value < len(names) else str(value)
