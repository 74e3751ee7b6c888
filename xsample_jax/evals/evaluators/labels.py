"""kNN, linear probes and few-shot classification on labels (or an attribute) of the training and evaluation split."""

from collections.abc import Iterator

import numpy as np

from xsample_jax.errors import DataError, UserError, did_you_mean
from xsample_jax.evals.bench import Bench
from xsample_jax.evals.calibration import auc_contributions, calibration_error, softmax
from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.fewshot import few_shot, few_shot_ridge
from xsample_jax.evals.knn import knn_predict
from xsample_jax.evals.result import Collector

NEIGHBOURS, TEMPERATURE = 20, 0.07
SHOTS = (1, 2, 5, 10)


def check_target(bench: Bench) -> Iterator[UserError]:
    """Whether both splits are there, are two, and their first records have what is to be predicted."""
    split = bench.config.eval.split
    if split == bench.config.eval.train_split:
        expected = "another split than eval.train_split: a probe would be tested on what it was fitted to"
        yield DataError("eval.split", split, expected, "Set --config.eval.train_split or --config.eval.split.")
    for split in (bench.config.eval.train_split, bench.config.eval.split):
        source = bench.source(split)
        first = source[0]
        if bench.target == "label":
            if first["label"] < 0 and not source.manifest.class_names:
                fix = "Name an attribute with --target, or evaluate on another set: --config.data.path=FOLDER."
                yield DataError(f"labels of split {split}", "none", "labelled records", fix)
        elif bench.target not in first["attributes"]:
            known = ("label", *sorted(first["attributes"]))
            expected = f"label, or an attribute of split {split} ({', '.join(known[1:]) or 'it has none'})"
            yield DataError("--target", bench.target, expected, did_you_mean(bench.target, known))


def knn(bench: Bench, out: Collector) -> None:
    rows = bench.labelled
    predicted = knn_predict(rows.train, rows.train_labels, rows.test, NEIGHBOURS, TEMPERATURE)
    out.examples_of(f"{bench.target}/knn", (predicted == rows.test_labels).astype(np.float32), rows.units)


def ridge(bench: Bench, out: Collector) -> None:
    _accuracy(bench, out, "ridge", "probe")


def logistic(bench: Bench, out: Collector) -> None:
    _calibration(bench, out, "logistic", _accuracy(bench, out, "logistic", "logistic"))


def sgd(bench: Bench, out: Collector) -> None:
    _calibration(bench, out, "sgd", _accuracy(bench, out, "sgd", "sgd"))


def _accuracy(bench: Bench, out: Collector, kind: str, name: str) -> np.ndarray:
    """Adds top-1 and, of more than five classes, top-5 accuracy; returns the scores [m, K]."""
    rows, probe = bench.labelled, bench.probe(kind)
    scores = probe.scores(rows.test)
    order = probe.classes[np.argsort(-scores, axis=1, kind="stable")[:, :5]]
    right = order == rows.test_labels[:, None]
    out.examples_of(f"{bench.target}/{name}", right[:, 0].astype(np.float32), rows.units)
    if len(probe.classes) > 5:
        out.examples_of(f"{bench.target}/{name}_top5", right.any(axis=1).astype(np.float32), rows.units)
    return scores


def _calibration(bench: Bench, out: Collector, name: str, scores: np.ndarray) -> None:
    rows, classes = bench.labelled, bench.probe(name).classes
    probabilities = softmax(scores)
    correct = classes[scores.argmax(axis=1)] == rows.test_labels
    out.examples_of(f"{bench.target}/{name}_ece", calibration_error(probabilities.max(axis=1), correct), rows.units)
    area = auc_contributions(probabilities, rows.test_labels, classes)
    if np.isfinite(area).all():
        out.examples_of(f"{bench.target}/{name}_auc", area, rows.units)


def few_shots(bench: Bench, out: Collector) -> None:
    rows = bench.labelled
    arguments = (rows.train, rows.train_labels, rows.test, rows.test_labels)
    for shots in SHOTS:
        out.draws_of(f"few_shot/{shots}/{bench.target}", few_shot(*arguments, shots).hits, rows.units)
        result, _ = few_shot_ridge(*arguments, shots)
        out.draws_of(f"few_shot/{shots}/{bench.target}_ridge", result.hits, rows.units)


KNN = Evaluator(knn, "weighted kNN, 20 neighbours", check_target)
RIDGE = Evaluator(ridge, "linear probe in closed form", check_target)
LOGISTIC = Evaluator(logistic, "linear probe by L-BFGS, L2 sweep; calibration error, AUC", check_target)
SGD = Evaluator(sgd, "linear probe by SGD, rate sweep; calibration error, AUC", check_target)
FEW_SHOT = Evaluator(few_shots, "1, 2, 5, 10 examples per class, 20 draws", check_target)
