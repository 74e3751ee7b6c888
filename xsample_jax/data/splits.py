"""Whether the splits of a dataset have what the evaluation of a run needs, checked before its first step."""

from collections.abc import Iterator

import numpy as np

from xsample_jax.data.dataset import no_records, without_cache
from xsample_jax.data.records import RecordSource, read_manifest
from xsample_jax.data.sources import open_source, readable, source_folder, spread_places
from xsample_jax.errors import ConfigError, DataError, UserError, did_you_mean, raise_all

LABELS_LOOKED_AT = 256


def check_eval_splits(config) -> None:
    """Finds out before the first step what the evaluation at the end of the run would stumble over.

    Raises ConfigError, DataError or Problems: a split that is not there or is empty, a shard that is missing, or no
    labels or attributes, which the suite predicts.
    """
    if config.eval.suite == "none":
        return
    folder = source_folder(config.data)  # of mixed sets, evaluations open the first
    splits = read_manifest(folder).splits
    problems: list[UserError] = []
    looked_at: list[tuple[RecordSource, np.ndarray]] = []
    for key in ("split", "train_split"):
        name = config.eval[key]
        if name not in splits:
            expected = f"a split of the set: {', '.join(splits)}"
            fix = f"{did_you_mean(name, splits)} Set --config.eval.{key}, or --config.eval.suite=none."
            problems.append(ConfigError(f"eval.{key}", name, expected, fix))
        elif not splits[name]["count"]:
            problems.append(no_records(name, folder))
        else:
            source = open_source(without_cache(config.data), name)
            places = spread_places(len(source), LABELS_LOOKED_AT)
            labels = np.array([record["label"] for record in readable(source, places)], int)
            problems += _nothing_to_predict(config.eval.suite, source, labels[labels >= 0])
            looked_at.append((source, labels[labels >= 0]))
    if config.eval.suite == "probe" and not problems:
        problems += _nothing_in_common(*reversed(looked_at))
    raise_all(problems, "the splits of the evaluations")


def _whole(source: RecordSource) -> bool:
    return len(source) <= LABELS_LOOKED_AT


def _nothing_to_predict(suite: str, source: RecordSource, labels: np.ndarray) -> Iterator[DataError]:
    """labels: int [n], those of the records looked at that have one."""
    manifest, of_split = source.manifest, f"of split {source.split}"
    if suite == "shapes" and not manifest.attributes:
        fix = "Set --config.eval.suite=probe."
        yield DataError(f"attributes {of_split}", "none", "a dataset with attributes, one for each factor", fix)
    # A large set that names its classes may have labels for a few of its records: only reading all would tell.
    if suite == "probe" and not len(labels) and (_whole(source) or not manifest.class_names):
        fix = "Set --config.eval.suite=none for a set without labels."
        yield DataError(f"labels {of_split}", "none", "labeled records, which eval.suite = 'probe' predicts", fix)


FEWEST_ROWS = 2  # a probe holds out at least one row and is fitted to the others


MORE_LABELS = 10_000  # that are looked at where those of a few records are all different


def _more_labels(source: RecordSource, labels: np.ndarray) -> np.ndarray:
    if _whole(source):
        return labels
    places = spread_places(len(source), MORE_LABELS)
    found = np.array([record["label"] for record in readable(source, places)], int)
    return found[found >= 0]


def _nothing_in_common(train: tuple[RecordSource, np.ndarray], test: tuple[RecordSource, np.ndarray]):
    """Yields DataErrors for too few labeled rows, or for splits whose classes have none in common.

    Each is (records, labels of those looked at). A sample is taken for all classes of a split only where it is the
    whole split, or has four records of each class on average.
    """
    (fitted, labels), (source, asked) = train, test
    if _whole(fitted) and len(labels) < FEWEST_ROWS:
        fix = "Label more of them, or set --config.eval.suite=none."
        field = f"labeled records of split {fitted.split}"
        yield DataError(field, len(labels), f"at least {FEWEST_ROWS}, to fit a probe", fix)
        return
    if not np.intersect1d(labels, asked).size:  # by chance, or as with the concepts of the emoji
        labels, asked = _more_labels(fitted, labels), _more_labels(source, asked)
    known, there = np.unique(labels), np.unique(asked)
    sure = all(
        len(of) <= MORE_LABELS or 4 * len(classes) <= len(found)
        for of, found, classes in ((fitted, labels, known), (source, asked, there))
    )
    if sure and len(known) and len(there) and not np.intersect1d(known, there).size:
        attributes = sorted(fitted.manifest.attributes)
        predict = f"predict an attribute (--config.data.label={attributes[0]}), " if attributes else ""
        fix = f"Choose other splits, {predict}split by record, or set --config.eval.suite=none."
        expected = f"a class that split {fitted.split} has too, as a probe is fitted to it"
        yield DataError(f"classes of split {source.split}", f"{len(there)} others", expected, fix)
