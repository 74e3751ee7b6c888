"""What the report needs to draw one run without its data or model: graphs of one batch, nearest neighbors."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.ids import VECTOR_CHANNELS, with_numbers, words_of
from xsample_jax.augment.views import make_views
from xsample_jax.config.renamed import warn_renamed
from xsample_jax.data.records import unit_rows
from xsample_jax.data.vectors import draw_vectors
from xsample_jax.errors import DataError
from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import diverse, neighbors, vote
from xsample_jax.graphs.targets import MASKED, fold_views, requires
from xsample_jax.io.files import load_arrays, write_arrays
from xsample_jax.io.paths import as_path
from xsample_jax.objectives.blocks import IMAGE, image_block
from xsample_jax.objectives.learned_state import temperature_of
from xsample_jax.objectives.objective import Objective, center_texts
from xsample_jax.objectives.side_information import BY_RECORD
from xsample_jax.objectives.terms import Term, pairs_of
from xsample_jax.registry import name_of
from xsample_jax.setup import RunSetup
from xsample_jax.sharding import replicated
from xsample_jax.state import TrainState

SAME_LABEL, SAME_GROUP, OTHER = 2, 1, 0
RENAMED = {"neighbour": "neighbor"}  # arrays of report_data.npz


@dataclasses.dataclass(frozen=True)
class NeighborTable:
    """Nearest rows of some query rows, all numbered as in the Features they come from.

    Attributes:
      query: int [q]; row: int [q, k], best first; cosine: float32 [q, k];
      relation: int8 [q, k], SAME_LABEL, SAME_GROUP (same subgroup or, failing that attribute, group) or OTHER.
      diverse: a choice of near rows that differ from each other, of the same queries.
    """

    query: np.ndarray
    row: np.ndarray
    cosine: np.ndarray
    relation: np.ndarray
    diverse: "NeighborTable | None" = None


AMONG = 64  # nearest rows of which those that differ are chosen


def find_neighbors(features: Features, queries: int = 12, k: int = 6, seed: int = 0) -> NeighborTable:
    """Picks queries spread over the groups and finds their k nearest other rows by cosine of the features, and k of the
    64 nearest that differ from each other (knn.diverse).

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

    index, cosine = neighbors(features.features, features.features[query], max(AMONG, k) + 1)
    shape = (len(query), min(k, len(features) - 1))
    tables = [(np.empty(shape, np.int64), np.empty(shape, np.float32)) for _ in range(2)]
    for place, own in enumerate(query):
        others = index[place] != own
        near, found = index[place][others], cosine[place][others]
        rows = unit_rows(features.features[near])
        chosen = (np.arange(shape[1]), diverse(found, rows @ rows.T, shape[1]))
        for (row, kept), which in zip(tables, chosen, strict=True):
            row[place], kept[place] = near[which], found[which]
    nearest, different = (
        NeighborTable(query, row, kept, _relations(features, query, row, group)) for row, kept in tables
    )
    return dataclasses.replace(nearest, diverse=different)


def _relations(features: Features, query: np.ndarray, row: np.ndarray, group: np.ndarray) -> np.ndarray:
    kin = features.attributes.get("subgroup", group)
    relation = np.where((kin[row] == kin[query][:, None]) & (kin[row] >= 0), SAME_GROUP, OTHER)
    relation[(features.label[row] == features.label[query][:, None]) & (features.label[row] >= 0)] = SAME_LABEL
    return relation.astype(np.int8)


@dataclasses.dataclass(frozen=True)
class BatchPanel:
    """One batch of images with its graphs, as the report draws it.

    Attributes:
      images: uint8 [n, h, w, 3 or 4], before augmentation (alpha is composited on white).
      captions, groups: n words each.
      target, student: float [N, N] with N = views * n and row = image * views + view: the target graph T and the
        student's softmax P of that batch; rows sum to 1, the diagonal is 0. Stored folded to [n, n] (`fold_views`).
      stand_in: the target is not the objective's own, which cannot be drawn (`BatchGraphs`).
      similarity: float [n, n], cosine of the captions, for the curves against tau_s. Optional.

    Raises:
      DataError: sizes that do not go together.
    """

    images: np.ndarray
    captions: Sequence[str]
    groups: Sequence[str]
    target: np.ndarray
    student: np.ndarray
    views: int
    stand_in: bool = False
    similarity: np.ndarray | None = None

    def __post_init__(self):
        count, views = len(self.images), self.views
        for name, graph in (("target", self.target), ("student", self.student)):
            if np.shape(graph) != (count * views, count * views):
                raise DataError(f"{name} graph", np.shape(graph), f"a square of {views} views * {count} images")
        found = len(self.captions), len(self.groups)
        if found != (count, count):
            raise DataError("captions, groups", found, f"one for each of the {count} images")

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored of it."""
        arrays = {
            "images": _on_white(self.images),
            "captions": np.asarray(list(self.captions), dtype=np.str_),
            "groups": np.asarray([str(group) for group in self.groups], dtype=np.str_),
            "target": fold_views(self.target, self.views),
            "student": fold_views(self.student, self.views),
            "stand_in": np.asarray(self.stand_in),
        }
        if self.similarity is not None:
            arrays["similarity"] = np.asarray(self.similarity, np.float32)
            arrays["views"] = np.asarray(self.views)
        return arrays


def save_snapshot(
    path: str | Path,
    batch: BatchPanel,
    neighbors: NeighborTable | None = None,
    image_of: Callable[[int], tuple[np.ndarray, str]] | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes report_data.npz.

    Args:
      neighbors: of `find_neighbors`, with `image_of(row) -> (uint8 image [h, w, 3 or 4], caption)`.
      more: arrays of other parts of the report, by names with the part in front (map/xy, errors/images).

    Raises:
      DataError: neighbors without their images.
    """
    arrays = batch.arrays()
    if neighbors is not None:
        if image_of is None:
            raise DataError("image_of", None, "a function from a row to its image and caption")
        tables = {"": neighbors} | ({"diverse/": neighbors.diverse} if neighbors.diverse is not None else {})
        rows = np.unique(np.concatenate([neighbors.query, *(table.row.ravel() for table in tables.values())]))
        images, words = zip(*(image_of(int(row)) for row in rows), strict=True)
        arrays |= {
            "gallery_images": _on_white(np.stack(images)),
            "gallery_captions": np.asarray(words, dtype=np.str_),
            "gallery_rows": rows,
            "query": np.searchsorted(rows, neighbors.query),
        }
        for part, table in tables.items():
            arrays[f"{part}neighbor"] = np.searchsorted(rows, table.row)
            arrays |= {f"{part}cosine": table.cosine, f"{part}relation": table.relation}
    for name, values in (more or {}).items():
        arrays[name] = _on_white(values) if name.endswith("/images") else values
    write_arrays(as_path(path), arrays)


def load_snapshot(path: str | Path) -> dict[str, np.ndarray]:
    """Returns the arrays that `save_snapshot` wrote; `query` and `neighbor` index `gallery_images`."""
    arrays = load_arrays(as_path(path))
    old = {name: RENAMED[name] for name in arrays if name in RENAMED}
    warn_renamed(old)
    return {old.get(name, name): values for name, values in arrays.items()}


def _on_white(images: np.ndarray) -> np.ndarray:
    images = np.asarray(images)
    if images.shape[-1] == VECTOR_CHANNELS:
        drawn = draw_vectors(images.reshape(-1, *images.shape[-3:]))
        return drawn.reshape(*images.shape[:-3], *drawn.shape[1:])
    if images.shape[-1] == 3:
        return images.astype(np.uint8)
    alpha = images[..., 3:].astype(np.float32) / 255
    return np.round(images[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


# Target and student graph of a batch of held-out images, as the objective of a run sees them: two of the report's
# images.


@dataclasses.dataclass(frozen=True)
class BatchGraphs:
    """target, student: float32 [N, N], row = image * views + view; rows sum to 1, the diagonal is 0.

    stand_in: the objective has no graph among images that can be drawn (image-text, a teacher's keys): the target is
    the graph of an image's own views instead.
    """

    target: np.ndarray
    student: np.ndarray
    stand_in: bool


def graphs_of(parts: RunSetup, state: TrainState, images: np.ndarray, side: Mapping[str, np.ndarray]) -> BatchGraphs:
    """The graphs of the views of some images; side: of `side_of`. All processes call it."""
    config, objective = parts.config, parts.objective
    term = drawable_term(objective, side)

    def graphs(state, images, side):
        state = state.averaged()
        network = parts.model.merge(state.params, state.statistics, training=False)
        side = with_numbers(side)
        _, z = network.embed(make_views(images, words_of(side), config.seed, 0, config.augment, config.views))
        block = image_block(z, side, config.views)
        block = center_texts(block) if objective.center else block
        tau = temperature_of(objective, state.params)
        pairs = pairs_of(term or Term(), {"image": block}, len(images), tau, objective.target_temperature)
        logits = jnp.where(pairs.valid, pairs.logits, MASKED)
        return pairs.target, jnp.where(pairs.valid, jax.nn.softmax(logits, axis=-1), 0.0)

    everywhere = jax.jit(graphs, out_shardings=replicated(parts.mesh))
    return BatchGraphs(*jax.device_get(everywhere(state, images, dict(side))), stand_in=term is None)


def side_of(parts: RunSetup, examples: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """What the graphs of an objective read of some examples, one row each, as far as the set has it."""
    names = [name for name in ("id", "label", "caption_embedding", *BY_RECORD) if name in examples[0]]
    side = {name: np.stack([example[name] for example in examples]) for name in names}
    inner = [f"attribute/{name}" for name in parts.config.data.hierarchy]
    if inner and all(name in example for name in inner for example in examples):
        side["path"] = np.array([[example[name] for name in (*inner, "label")] for example in examples], np.int32)
    if parts.class_embeddings is not None and np.all(side["label"] >= 0):
        texts = np.asarray(parts.class_embeddings)[side["label"]]
        if texts.any(axis=1).all():  # a class that training has not seen may have no text: zeros
            side["class_embedding"] = texts
    return side


def drawable_term(objective: Objective, known: Collection[str]) -> Term | None:
    """The first term of an objective, if its graph is one among images that needs no more than `known`; else None."""
    first = objective.terms[0] if objective.terms else None
    if first is None or not (first.anchors == first.keys == IMAGE) or name_of(first.similarity) == "gated":
        return None
    if not requires(first.graph) <= {*known, "embedding"}:
        return None
    return dataclasses.replace(first, mixer=None, temperature="base")


# The worst errors: evaluated images whose training neighbors agree most on a wrong class, and these neighbors.


NEIGHBORS, TEMPERATURE = 20, 0.07  # of the vote, as in the suites
LOOKED_AT = 4096


@dataclasses.dataclass(frozen=True)
class ErrorTable:
    """Errors of a kNN vote, worst first.

    Attributes:
      target: what was to be told: "label" or an attribute.
      row: int [q], of the evaluated split; evidence: int [q, k], rows of the training split among the neighbors: those
        that voted for the wrong class, nearest first, then the others.
      truth, predicted: int [q]; share, truth_share: float [q], their shares of the vote.
    """

    target: str
    row: np.ndarray
    evidence: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    share: np.ndarray
    truth_share: np.ndarray


def target_of(train: Features, test: Features) -> str | None:
    """What errors can be made in: the label where the evaluated ones occur in training, else a coarser attribute."""
    known = test.label[test.label >= 0]
    if len(known) and np.isin(known, train.label).mean() > 0.5:
        return "label"
    return next((name for name in ("subgroup", "group") if name in test.attributes and name in train.attributes), None)


def find_errors(train: Features, test: Features, count: int = 12, k: int = 6, seed: int = 0) -> ErrorTable | None:
    """Looks at (at most 4,096 random rows of) test and returns its worst errors; None without a target.

    An error is as bad as the vote for the wrong class exceeds the vote for the right one; classes that training has
    never seen are left out, as they can only be missed. Where the target is coarser than the label, one per label.
    """
    target = target_of(train, test)
    if target is None:
        return None
    values = lambda of: of.label if target == "label" else of.attribute(target)  # noqa: E731
    labels, truth = values(train), values(test)
    rows = np.flatnonzero(np.isin(truth, labels) & (truth >= 0))
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:LOOKED_AT])
    known = np.flatnonzero(labels >= 0)  # what has no class does not vote
    labels = labels[known]
    index, cosine = neighbors(train.features[known], test.features[rows], NEIGHBORS)
    predicted = vote(labels, index, cosine, TEMPERATURE)
    weights = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / TEMPERATURE)
    weights /= weights.sum(axis=1, keepdims=True)
    share_of = lambda which: np.sum(weights * (labels[index] == which[:, None]), axis=1)  # noqa: E731
    share, truth_share = share_of(predicted), share_of(truth[rows])

    wrong = np.flatnonzero(predicted != truth[rows])
    wrong = wrong[np.argsort(truth_share[wrong] - share[wrong], kind="stable")]
    if target != "label":  # several images of one concept make the same error
        _, first = np.unique(test.label[rows[wrong]], return_index=True)
        wrong = wrong[np.sort(first)]
    worst = wrong[:count]
    guilty = labels[index[worst]] == predicted[worst][:, None]
    evidence = known[np.take_along_axis(index[worst], np.argsort(~guilty, axis=1, kind="stable"), axis=1)[:, :k]]
    return ErrorTable(
        target, rows[worst], evidence, truth[rows][worst], predicted[worst], share[worst], truth_share[worst]
    )


def error_arrays(
    table: ErrorTable | None,
    image_of: Callable[[int], tuple[np.ndarray, str]],
    train_image_of: Callable[[int], tuple[np.ndarray, str]],
    names: Sequence[str] | None,
) -> Mapping[str, np.ndarray]:
    """Arrays for the snapshot; `names` are the words of the target's values.

    errors/images uint8 [q, 1 + k, h, w, 3 or 4] (the error, then its neighbors), errors/captions [q, 1 + k],
    errors/truth, errors/predicted (words) [q], errors/share, errors/truth_share [q], errors/target.
    """
    if table is None or not len(table.row):
        return {}
    word = lambda value: str(names[value]) if names else str(value)  # noqa: E731
    rows = [
        [image_of(int(row)), *(train_image_of(int(near)) for near in nearest)]
        for row, nearest in zip(table.row, table.evidence, strict=True)
    ]
    return {
        "errors/images": np.stack([[image for image, _ in row] for row in rows]),
        "errors/captions": np.asarray([[text for _, text in row] for row in rows], dtype=np.str_),
        "errors/truth": np.asarray([word(value) for value in table.truth], dtype=np.str_),
        "errors/predicted": np.asarray([word(value) for value in table.predicted], dtype=np.str_),
        "errors/share": table.share.astype(np.float32),
        "errors/truth_share": table.truth_share.astype(np.float32),
        "errors/target": np.asarray(table.target),
    }


# A flat map of the evaluated images: their features on the two axes of largest variance (PCA), or by UMAP (McInnes et
# al., arXiv 1802.03426), which keeps neighbors together (extra umap).


POINTS = 2000  # more than this cannot be told apart in an image
VALUES = 24  # an attribute with more values than this has no colors
MOST_COMMON = 11


def principal_plane(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centers the unit rows of features [n, F] and projects them on their two principal axes.

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


def neighbor_plane(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Places float32 [n, 2] by UMAP of the unit rows of features [n, F], n at least 3; it begins with their PCA."""
    from umap import UMAP

    near = min(15, len(features) - 1)  # its default, and all others of a few
    model = UMAP(n_neighbors=near, init="pca", random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(unit_rows(features)), np.float32)


def colorings(of: Features, class_names: Sequence[str] = ()) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Name -> (codes int [n], words): the attributes and labels that have few enough values to be told by color.

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


def map_arrays(
    of: Features, class_names: Sequence[str] = (), kind: str = "pca", seed: int = 0
) -> Mapping[str, np.ndarray]:
    """Arrays for the snapshot: map/xy [n, 2], and per coloring map/codes/<name>, map/words/<name>.

    kind: eval.map, "pca" or "umap"; of "pca" there is map/share [2], too.
    """
    if len(of) < 3:
        return {}
    if len(of) > POINTS:
        of = of.rows(np.sort(np.random.default_rng(seed).choice(len(of), POINTS, replace=False)))
    if kind == "umap":
        arrays = {"map/xy": neighbor_plane(of.features, seed)}
    else:
        xy, share = principal_plane(of.features)
        arrays = {"map/xy": xy, "map/share": share}
    for name, (codes, words) in colorings(of, class_names).items():
        arrays[f"map/codes/{name}"] = codes.astype(np.int16)
        arrays[f"map/words/{name}"] = np.asarray(words, dtype=np.str_)
    return arrays


def _word(value: int, names: Sequence[str] | None) -> str:
    if value < 0:
        return "none"
    return str(names[value]) if names is not None and value < len(names) else str(value)
