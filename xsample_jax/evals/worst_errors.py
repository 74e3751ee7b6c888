"""The worst errors: evaluated images whose training neighbours agree most on a wrong class, and these neighbours."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import neighbours, vote

NEIGHBOURS, TEMPERATURE = 20, 0.07  # of the vote, as in the suites
LOOKED_AT = 4096


@dataclasses.dataclass(frozen=True)
class ErrorTable:
    """Errors of a kNN vote, worst first.

    Attributes:
      target: what was to be told: "label" or an attribute.
      row: int [q], of the evaluated split; evidence: int [q, k], rows of the training split among the neighbours: those
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
    index, cosine = neighbours(train.features[known], test.features[rows], NEIGHBOURS)
    predicted = vote(labels, index, cosine, TEMPERATURE)
    weights = np.exp((cosine - cosine.max(axis=1, keepdims=True)) / TEMPERATURE)
    weights /= weights.sum(axis=1, keepdims=True)
    share_of = lambda which: np.sum(weights * (labels[index] == which[:, None]), axis=1)  # noqa: E731
    share, truth_share = share_of(predicted), share_of(truth[rows])

    wrong = np.flatnonzero(predicted != truth[rows])
    wrong = wrong[np.argsort(truth_share[wrong] - share[wrong], kind="stable")]
    if target != "label":  # several pictures of one concept make the same error
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
    picture_of: Callable[[int], tuple[np.ndarray, str]],
    train_picture_of: Callable[[int], tuple[np.ndarray, str]],
    names: Sequence[str] | None,
) -> Mapping[str, np.ndarray]:
    """Arrays for the snapshot; `names` are the words of the target's values.

    errors/images uint8 [q, 1 + k, h, w, 3 or 4] (the error, then its neighbours), errors/captions [q, 1 + k],
    errors/truth, errors/predicted (words) [q], errors/share, errors/truth_share [q], errors/target.
    """
    if table is None or not len(table.row):
        return {}
    word = lambda value: str(names[value]) if names else str(value)  # noqa: E731
    rows = [
        [picture_of(int(row)), *(train_picture_of(int(near)) for near in nearest)]
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
