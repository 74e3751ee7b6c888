"""Naive Bayes against logistic regression: which of two linear classifiers needs fewer labels (arXiv 2302.02334).

A generative classifier may need O(log F) labels where a discriminative one needs O(F), and is overtaken by it where its
assumption, that features are independent within a class, is wrong (Ng and Jordan 2001). Both are fitted to the same m
random training rows; the crossing is the m from which on logistic regression is ahead.
"""

import numpy as np

from xsample_jax.evals.context import EvalContext, Evaluator
from xsample_jax.evals.labels import add_accuracy, add_calibration, check_target, guess
from xsample_jax.evals.linear_probes import fit_naive_bayes, logistic_path
from xsample_jax.evals.metrics import LEVEL, Collector, Interval, Scores, resampled

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
