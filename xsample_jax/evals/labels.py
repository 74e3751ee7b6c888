"""kNN, linear probes, few-shot classification and naive Bayes on labels (or an attribute) of the two splits."""

from collections.abc import Iterator

import numpy as np

from xsample_jax.data.sources import sampled_records
from xsample_jax.errors import DataError, UserError, did_you_mean
from xsample_jax.evals.context import EvalContext, Evaluator, Labeled, check_two_splits
from xsample_jax.evals.features import Features
from xsample_jax.evals.geometry import add_caption_correlation
from xsample_jax.evals.knn import few_shot, few_shot_ridge, knn_predict
from xsample_jax.evals.linear_probes import LinearProbe, fit_naive_bayes, fit_probes, logistic_path
from xsample_jax.evals.metrics import (
    LEVEL,
    Collector,
    Interval,
    Scores,
    SuiteResult,
    auc_contributions,
    calibration_error,
    majority,
    resampled,
    softmax,
    unreached,
)

NEIGHBORS, TEMPERATURE = 20, 0.07
SHOTS = (1, 2, 5, 10)


def check_target(bench: EvalContext) -> Iterator[UserError]:
    """Whether both splits are there, are two, and some of their records have what is to be predicted."""
    yield from check_two_splits(bench)
    for split in (bench.config.eval.train_split, bench.config.eval.split):
        source = bench.source(split)
        if bench.target == "label":
            if not any(record["label"] >= 0 for record in sampled_records(source)):
                fix = "Name an attribute with --target, or evaluate on another set: --config.data.path=FOLDER."
                yield DataError(f"labels of split {split}", "none", "labeled records", fix)
        elif not any(bench.target in record["attributes"] for record in sampled_records(source)):
            known = ("label", *sorted(source.manifest.attributes))
            expected = f"label, or an attribute of split {split} ({', '.join(known[1:]) or 'it has none'})"
            yield DataError("--target", bench.target, expected, did_you_mean(bench.target, known))


def knn(bench: EvalContext, out: Collector) -> None:
    rows = bench.labeled
    predicted = knn_predict(rows.train, rows.train_labels, rows.test, NEIGHBORS, TEMPERATURE)
    right = (predicted == rows.test_labels).astype(np.float32)
    out.add_per_example(f"{bench.target}/knn", right, rows.units, **guess(rows))


def guess(rows: Labeled, k: int = 1) -> dict:
    """The facts of an accuracy: from how many classes the answer comes, and that of the majority class."""
    return {"classes": len(np.unique(rows.train_labels)), "chance": majority(rows.test_labels, k)}


def ridge(bench: EvalContext, out: Collector) -> None:
    add_accuracy(bench, out, "ridge", "probe")


def logistic(bench: EvalContext, out: Collector) -> None:
    add_calibration(bench, out, "logistic", add_accuracy(bench, out, "logistic", "logistic"))


def sgd(bench: EvalContext, out: Collector) -> None:
    add_calibration(bench, out, "sgd", add_accuracy(bench, out, "sgd", "sgd"))


def add_accuracy(bench: EvalContext, out: Collector, kind: str, name: str) -> np.ndarray:
    """Adds top-1 and, of more than five classes, top-5 accuracy; returns the scores [m, K]."""
    rows, probe = bench.labeled, bench.probe(kind)
    scores = probe.scores(rows.test)
    order = probe.classes[np.argsort(-scores, axis=1, kind="stable")[:, :5]]
    right = order == rows.test_labels[:, None]
    out.add_per_example(f"{bench.target}/{name}", right[:, 0].astype(np.float32), rows.units, **guess(rows))
    if len(probe.classes) > 5:
        top = right.any(axis=1).astype(np.float32)
        out.add_per_example(f"{bench.target}/{name}_top5", top, rows.units, **guess(rows, 5))
    return scores


def add_calibration(bench: EvalContext, out: Collector, name: str, scores: np.ndarray) -> None:
    """Adds calibration error and area under ROC of a probe whose scores [m, K] are logits."""
    rows, classes = bench.labeled, bench.probe(name).classes
    probabilities = softmax(scores)
    correct = classes[scores.argmax(axis=1)] == rows.test_labels
    error = calibration_error(probabilities.max(axis=1), correct)
    out.add_per_example(f"{bench.target}/{name}_ece", error, rows.units, classes=len(classes))
    area = auc_contributions(probabilities, rows.test_labels, classes)
    if np.isfinite(area).all():
        out.add_per_example(f"{bench.target}/{name}_auc", area, rows.units, classes=len(classes), chance=0.5)


def few_shots(bench: EvalContext, out: Collector) -> None:
    rows = bench.labeled
    arguments = ((rows.train, rows.train_labels), (rows.test, rows.test_labels))
    for shots in SHOTS:
        out.draws_of(f"few_shot/{shots}/{bench.target}", few_shot(*arguments, shots).hits, rows.units, **guess(rows))
        result, _ = few_shot_ridge(*arguments, shots)
        out.draws_of(f"few_shot/{shots}/{bench.target}_ridge", result.hits, rows.units, **guess(rows))
    for said in unreached(rows.train_labels, SHOTS, bench.target):
        out.note(said)


def _named(classifier: str, *endings: str) -> tuple[str, ...]:
    return (f"<target>/{classifier}", *endings)


_PROBABILITIES = ("_top5", "_ece", "_auc")
KNN = Evaluator(knn, "weighted kNN, 20 neighbors", check_target, _named("knn"))
RIDGE = Evaluator(ridge, "linear probe by ridge regression, in closed form", check_target, _named("probe", "_top5"))
LOGISTIC = Evaluator(
    logistic,
    "multinomial logistic regression by L-BFGS, L2 from 7 values; calibration error, AUC",
    check_target,
    _named("logistic", *_PROBABILITIES),
)
SGD = Evaluator(
    sgd,
    "linear probe by SGD: momentum 0.9, cosine, 90 epochs, batch 4,096, 6 rates; calibration error, AUC",
    check_target,
    _named("sgd", *_PROBABILITIES),
)
FEW_SHOT = Evaluator(
    few_shots,
    "1, 2, 5, 10 examples per class, 20 draws: nearest class mean, and ridge regression",
    check_target,
    ("few_shot/<k>/<target>", "..._ridge"),
)


# One linear probe per factor, for sets whose factors are known and independent.
#
# A factor with n equally frequent values is guessed right by 1 / n; "kept" is the accuracy on the scale where that is 0
# and no error is 1, so that factors with few and with many values can be compared.


CORRELATED = 500  # images whose pairs are ranked: their matrix is held in memory


def evaluate_factors(train: Features, test: Features) -> SuiteResult:
    """ "factor/<name>/probe" and "factor/<name>/kept" of each attribute, and the rank correlation with the captions.

    Images are the unit of the bootstrap. Raises DataError where there are no attributes, or none with two values.
    """
    if not test.attributes:
        expected = "a dataset with attributes, one for each factor"
        raise DataError("attributes", "none", expected, "Set --config.eval.suite=probe.")
    out = Collector()
    targets = {name: train.attribute(name) for name in test.attributes}
    for name in [name for name, labels in targets.items() if len(np.unique(labels[labels >= 0])) < 2]:
        del targets[name]
        out.note(f"factor/{name}: not measured, its training images have not two values")
    if not targets:
        raise DataError("attributes", ", ".join(test.attributes), "one with two values among training images")
    for name, probe in _factor_probes(train.features, targets).items():
        truth, values = test.attribute(name), len(probe.classes)
        there = np.flatnonzero(truth >= 0)
        if not len(there):
            out.note(f"factor/{name}: not measured, no test image has a value")
            continue
        correct = (probe.predict(test.features[there]) == truth[there]).astype(np.float32)
        guessed = majority(truth[there])
        out.add_per_example(f"factor/{name}/probe", correct, there, classes=values, chance=guessed)
        kept = lambda accuracy, values=values: (accuracy - 1 / values) / (1 - 1 / values)  # noqa: E731
        out.add_per_example(f"factor/{name}/kept", kept(correct), there, classes=values, chance=float(kept(guessed)))
    if test.caption_embedding is not None:
        some = test.rows(slice(CORRELATED))
        add_caption_correlation(out, some, np.arange(len(some)))
    return out.result()


def _factor_probes(features: np.ndarray, targets: dict[str, np.ndarray]) -> dict[str, LinearProbe]:
    """A probe for every factor, fitted to the images that have a value; factors of the same images share the work."""
    alike: dict[bytes, list[str]] = {}
    for name, labels in targets.items():
        alike.setdefault((labels >= 0).tobytes(), []).append(name)
    probes = {}
    for names in alike.values():
        rows = np.flatnonzero(targets[names[0]] >= 0)
        probes |= fit_probes(features[rows], {name: targets[name][rows] for name in names}, groups=rows)
    return {name: probes[name] for name in targets}


def check_factors(bench: EvalContext) -> Iterator[UserError]:
    """Whether there are two splits, whose records have attributes."""
    yield from check_two_splits(bench)
    if not bench.source(bench.config.eval.split).manifest.attributes:
        fix = "Leave factors out of --evals, or evaluate on another set: --config.data.path=FOLDER."
        yield DataError(f"attributes of split {bench.config.eval.split}", "none", "one for each factor", fix)


def factors(bench: EvalContext, out: Collector) -> None:
    """Probes for every attribute, fitted on eval.train_split and measured on eval.split."""
    out.include(evaluate_factors(bench.train, bench.test))


FACTORS = Evaluator(
    factors,
    "a linear probe for every attribute, and what is kept of each above chance",
    check_factors,
    ("factor/<name>/probe", "factor/<name>/kept"),
)


# Naive Bayes against logistic regression: which of two linear classifiers needs fewer labels (arXiv 2302.02334).
#
# A generative classifier may need O(log F) labels where a discriminative one needs O(F), and is overtaken by it where
# its assumption, that features are independent within a class, is wrong (Ng and Jordan 2001). Both are fitted to the
# same m random training rows; the crossing is the m from which on logistic regression is ahead.


SIZES, MOST_ROWS, DRAWS = 8, 50_000, 5


def sizes_of(rows: int, classes: int) -> tuple[int, ...]:
    """Up to SIZES numbers of labels, evenly on a log scale from two per class to all rows (at most MOST_ROWS)."""
    most = min(rows, MOST_ROWS)
    return tuple(int(m) for m in np.unique(np.geomspace(min(2 * classes, most), most, SIZES).round()))


def curves(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, sizes: tuple[int, ...], seed: int = 0
) -> dict[str, np.ndarray]:
    """Which test rows both classifiers get right, by number of labels: name -> float32 [sizes, DRAWS, m].

    Args:
      train: float [n, F]; labels: int [n]; test: float [m, F]; truth: int [m].
      sizes: numbers of training rows. A draw is an order of the rows of which each size takes the first: sizes and
        classifiers of one draw share rows.

    Logistic regression has the L2 of scikit-learn's default, C = 1, as the paper's.
    """
    classes = np.unique(labels)
    found = {name: np.zeros((len(sizes), DRAWS, len(test)), np.float32) for name in ("naive_bayes", "logistic")}
    rng = np.random.default_rng(seed)
    for draw in range(DRAWS):
        order = rng.permutation(len(labels))
        for place, size in enumerate(sizes):
            x, y = train[order[:size]], labels[order[:size]]
            fitted = {"naive_bayes": fit_naive_bayes(x, y), "logistic": logistic_path(x, y, [1 / size], classes)[0]}
            for name, probe in fitted.items():
                found[name][place, draw] = probe.predict(test) == truth
    return found


def crossing(sizes: tuple[int, ...], ahead: np.ndarray) -> np.ndarray:
    """The number of labels from which on logistic regression stays ahead, float64 [...].

    ahead: [sizes, ...], its accuracy minus that of naive Bayes. Between two sizes it is interpolated on the log scale;
    the smallest size where it is always ahead, the largest where naive Bayes is not overtaken.
    """
    place, last = np.log(np.asarray(sizes, np.float64)), len(sizes) - 1
    behind = ahead <= 0
    before = np.where(behind.any(axis=0), last - np.argmax(behind[::-1], axis=0), 0)
    after = np.minimum(before + 1, last)
    low, high = (np.take_along_axis(ahead, at[None], axis=0)[0] for at in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where((low <= 0) & (high > 0), -low / (high - low), 0.0)
    return np.exp(place[before] + share * (place[after] - place[before]))


def naive_bayes(bench: EvalContext, out: Collector) -> None:
    add_calibration(bench, out, "naive_bayes", add_accuracy(bench, out, "naive_bayes", "naive_bayes"))
    rows = bench.labeled
    sizes = sizes_of(len(rows.train), len(np.unique(rows.train_labels)))
    hits = curves(rows.train, rows.train_labels, rows.test, rows.test_labels, sizes)
    for name, of_sizes in hits.items():
        for size, values in zip(sizes, of_sizes, strict=True):
            out.draws_of(f"curve/{size}/{bench.target}_{name}", values, rows.units, **guess(rows))
    add_crossing(out, bench.target, sizes, hits["logistic"] - hits["naive_bayes"], rows.units)


def add_crossing(out: Collector, target: str, sizes: tuple[int, ...], ahead: np.ndarray, units: np.ndarray) -> None:
    """Adds the crossing with its interval over draws and units, or a note where the curves do not cross.

    ahead: [sizes, draws, m], of every test row.
    """
    name, smallest, largest = f"curve/crossing/{target}", f"{sizes[0]:,}", f"{sizes[-1]:,}"
    means = ahead.mean(axis=(1, 2), dtype=np.float64)
    if means[-1] <= 0 or (means > 0).all():
        at = f"naive Bayes is not behind at {largest}" if means[-1] <= 0 else f"logistic is ahead at {smallest} already"
        out.note(f"{name}: the curves do not cross between {smallest} and {largest} labels, {at}")
        return
    drawn = crossing(sizes, np.stack([resampled([Scores(row, units) for row in of_size]) for of_size in ahead]))
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    out.scalar(name, float(crossing(sizes, means)))
    out.intervals[name] = Interval(out.metrics[name], float(low), float(high))
    for end, size, which, shown in ((low, sizes[0], "smallest", smallest), (high, sizes[-1], "largest", largest)):
        if np.isclose(end, size):
            out.note(f"{name}: its interval ends at the {which} number of labels looked at, {shown}")


NAIVE_BAYES = Evaluator(
    naive_bayes,
    "naive Bayes with one variance per feature; its curve over m labels, and where logistic regression overtakes it",
    check_target,
    ("<target>/naive_bayes", "_top5", "_ece", "_auc", "curve/<m>/<target>_<classifier>", "curve/crossing/<target>"),
)
