"""kNN, linear probes and few-shot classification on labels (or an attribute) of the training and evaluation split."""

from collections.abc import Iterator

import numpy as np

from xsample_jax.data.sources import sampled_records
from xsample_jax.errors import DataError, UserError, did_you_mean
from xsample_jax.evals.context import EvalContext, Evaluator, Labeled, check_two_splits
from xsample_jax.evals.features import Features
from xsample_jax.evals.geometry import add_caption_correlation
from xsample_jax.evals.knn import few_shot, few_shot_ridge, knn_predict
from xsample_jax.evals.linear_probes import fit_probes
from xsample_jax.evals.metrics import (
    Collector,
    SuiteResult,
    auc_contributions,
    calibration_error,
    majority,
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
    arguments = (rows.train, rows.train_labels, rows.test, rows.test_labels)
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

    Images are the unit of the bootstrap. Raises DataError where there are no attributes, or one with a single value.
    """
    if not test.attributes:
        expected = "a dataset with attributes, one for each factor"
        raise DataError("attributes", "none", expected, "Set --config.eval.suite=probe.")
    out, unit = Collector(), np.arange(len(test))
    targets = {name: train.attribute(name) for name in test.attributes}
    probes = fit_probes(train.features, targets, groups=np.arange(len(train)))
    for name, probe in probes.items():
        values = len(np.unique(targets[name]))
        if values < 2:
            raise DataError(f"attribute {name}", f"{values} value", "at least two, to tell apart")
        correct = (probe.predict(test.features) == test.attribute(name)).astype(np.float32)
        guessed = majority(test.attribute(name))
        out.add_per_example(f"factor/{name}/probe", correct, unit, classes=values, chance=guessed)
        kept = lambda accuracy, values=values: (accuracy - 1 / values) / (1 - 1 / values)  # noqa: E731
        out.add_per_example(f"factor/{name}/kept", kept(correct), unit, classes=values, chance=float(kept(guessed)))
    if test.caption_embedding is not None:
        some = test.rows(slice(CORRELATED))
        add_caption_correlation(out, some, np.arange(len(some)))
    return out.result()


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
