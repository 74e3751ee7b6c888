"""What the report needs to draw one run without its data or model: graphs of one batch, nearest neighbours."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.whole_file import load_arrays, write_arrays
from xsample_jax.errors import DataError
from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import neighbours
from xsample_jax.graphs.inspect import fold_views
from xsample_jax.storage.paths import as_path

SAME_LABEL, SAME_GROUP, OTHER = 2, 1, 0


@dataclasses.dataclass(frozen=True)
class NeighbourTable:
    """Nearest rows of some query rows, all numbered as in the Features they come from.

    Attributes:
      query: int [q]; row: int [q, k], best first; cosine: float32 [q, k];
      relation: int8 [q, k], SAME_LABEL, SAME_GROUP (same subgroup or, failing that attribute, group) or OTHER.
    """

    query: np.ndarray
    row: np.ndarray
    cosine: np.ndarray
    relation: np.ndarray


def find_neighbours(features: Features, queries: int = 12, k: int = 6, seed: int = 0) -> NeighbourTable:
    """Picks queries spread over the groups and finds their k nearest other rows by cosine of the features.

    The choice of queries looks at ids and attributes only, so runs on one split share their queries.
    """
    group = features.attributes.get("group", features.label)
    rng = np.random.default_rng(seed)
    order = np.argsort(features.id, kind="stable")
    order = order[rng.permutation(len(order))]
    # The n-th member of each group comes before the (n+1)-th member of any.
    turn = np.zeros(len(order), int)
    seen: dict[int, int] = {}
    for place, row in enumerate(order):
        turn[place] = seen[group[row]] = seen.get(group[row], -1) + 1
    query = order[np.argsort(turn, kind="stable")][: min(queries, len(order))]

    index, cosine = neighbours(features.features, features.features[query], k + 1)
    row = np.empty((len(query), min(k, len(features) - 1)), np.int64)
    kept = np.empty(row.shape, np.float32)
    for place, own in enumerate(query):
        others = index[place] != own
        row[place] = index[place][others][: row.shape[1]]
        kept[place] = cosine[place][others][: row.shape[1]]
    kin = features.attributes.get("subgroup", group)
    relation = np.where(kin[row] == kin[query][:, None], SAME_GROUP, OTHER)
    relation[(features.label[row] == features.label[query][:, None]) & (features.label[row] >= 0)] = SAME_LABEL
    return NeighbourTable(query, row, kept, relation.astype(np.int8))


def save_snapshot(
    path: str | Path,
    *,
    images: np.ndarray,
    captions: Sequence[str],
    groups: Sequence[str],
    target: np.ndarray,
    student: np.ndarray,
    views: int,
    stand_in: bool = False,
    similarity: np.ndarray | None = None,
    neighbours: NeighbourTable | None = None,
    picture_of: Callable[[int], tuple[np.ndarray, str]] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes report_data.npz.

    Args:
      images: uint8 [n, h, w, 3 or 4], the images of one batch before augmentation (alpha goes on white).
      captions, groups: n words each.
      target, student: float [N, N] with N = views * n and row = image * views + view: the target graph T and the
        student's softmax P of that batch; rows sum to 1, the diagonal is 0. Stored folded to [n, n] (`fold_views`).
      stand_in: the target is not the objective's own, which cannot be drawn (evals/batch_graphs.py).
      similarity: float [n, n], cosine of the captions, for the curves against tau_s. Optional.
      neighbours: of `find_neighbours`, with `picture_of(row) -> (uint8 image [h, w, 3 or 4], caption)`.
      more: arrays of other parts of the report, by names with the part in front (map/xy, errors/images).

    Raises:
      DataError: sizes that do not go together.
    """
    count = len(images)
    for name, graph in (("target", target), ("student", student)):
        if np.shape(graph) != (count * views, count * views):
            raise DataError(f"{name} graph", np.shape(graph), f"a square of {views} views * {count} images")
    if len(captions) != count or len(groups) != count:
        raise DataError("captions, groups", (len(captions), len(groups)), f"one for each of the {count} images")
    arrays = {
        "images": _on_white(images),
        "captions": np.asarray(list(captions), dtype=np.str_),
        "groups": np.asarray([str(group) for group in groups], dtype=np.str_),
        "target": fold_views(target, views),
        "student": fold_views(student, views),
        "stand_in": np.asarray(stand_in),
    }
    if similarity is not None:
        arrays["similarity"] = np.asarray(similarity, np.float32)
        arrays["views"] = np.asarray(views)
    if neighbours is not None:
        if picture_of is None:
            raise DataError("picture_of", None, "a function from a row to its picture and caption")
        rows = np.unique(np.concatenate([neighbours.query, neighbours.row.ravel()]))
        pictures, words = zip(*(picture_of(int(row)) for row in rows), strict=True)
        arrays |= {
            "gallery_images": _on_white(np.stack(pictures)),
            "gallery_captions": np.asarray(words, dtype=np.str_),
            "gallery_rows": rows,
            "query": np.searchsorted(rows, neighbours.query),
            "neighbour": np.searchsorted(rows, neighbours.row),
            "cosine": neighbours.cosine,
            "relation": neighbours.relation,
        }
    for name, values in (more or {}).items():
        arrays[name] = _on_white(values) if name.endswith("/images") else values
    write_arrays(as_path(path), arrays)


def load_snapshot(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays that `save_snapshot` wrote; `query` and `neighbour` index `gallery_images`."""
    with load_arrays(as_path(path)) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _on_white(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.shape[-1] == 3:
        return images.astype(np.uint8)
    alpha = images[..., 3:].astype(np.float32) / 255
    return np.round(images[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
