"""Encoding models: how well frozen features predict any measurement of the images, such as the activity of brain areas.

A measurement is an array [records, R] in a file, a row for each record of eval.split in its order. Each of its columns
is predicted by ridge regression from the features, fitted to four fifths of the images and applied to the rest, five
times; the metric is Pearson's r of the predicted and the measured values (the method: Naselaris et al. 2011).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xsample_jax.errors import ConfigError, DataError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator
from xsample_jax.evals.linear_probes import hold_out, ridge_weights, spectrum
from xsample_jax.evals.metrics import Collector
from xsample_jax.io.files import load_arrays

FOLDS, FEWEST, MOST_COLUMNS = 5, 20, 1000
L2_VALUES = tuple(10.0**power for power in range(-4, 5))  # weak signals ask for much


def read_responses(path: Path | None, records: int) -> np.ndarray:
    """The array of a .npy file as float64 [records, R]; a row of nan alone is a record that was not measured.

    Raises ConfigError for a file that is missing, has other rows, or columns that nothing can be said about; DataError
    for a damaged one.
    """
    flag = "--responses"
    if path is None or not path.is_file():
        raise ConfigError(flag, None if path is None else str(path), "a .npy file [records, R] of values to predict")
    values = load_arrays(path)
    if isinstance(values, dict) or values.ndim not in (1, 2) or values.dtype.kind not in "fiub":
        found = "several arrays" if isinstance(values, dict) else f"{values.dtype} {list(values.shape)}"
        raise ConfigError(flag, found, "one array of numbers [records, R]", "Save it with numpy.save.")
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    if len(values) != records:
        expected = f"{records:,}: one for each record of eval.split, in its order"
        raise ConfigError(f"rows of {flag}", len(values), expected, "Fill the rows of others with nan.")
    if not 1 <= values.shape[1] <= MOST_COLUMNS:
        fix = "Choose columns, or average them by region."
        raise ConfigError(f"columns of {flag}", values.shape[1], f"1 to {MOST_COLUMNS:,}", fix)
    measured = ~np.isnan(values).all(axis=1)
    if measured.sum() < FEWEST:
        raise ConfigError(f"measured rows of {flag}", int(measured.sum()), f"at least {FEWEST}")
    wrong = ~np.isfinite(values[measured]).all(axis=0)
    if wrong.any():
        expected = "finite numbers, or a row of nan alone for a record that was not measured"
        raise ConfigError(f"column {int(np.argmax(wrong))} of {flag}", "nan or inf", expected)
    constant = np.ptp(values[measured], axis=0) == 0
    if constant.any():
        raise ConfigError(f"column {int(np.argmax(constant))} of {flag}", "one value", "values that vary")
    return values


def fingerprint(path: Path | None) -> str | None:
    """SHA-256 of the file, for what depends on its content; None without one."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()


def folds_of(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """The fold of every row, int [n], of about equal numbers of groups; a group is in one fold."""
    _, position = np.unique(groups, return_inverse=True)
    count = position.max() + 1
    return (np.random.default_rng(seed).permutation(count) % min(FOLDS, count))[position]


def predicted(features: np.ndarray, targets: np.ndarray, groups: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """What ridge regressions on the other folds predict of every row, float64 [n, R].

    Args:
      features: float [n, F]; targets: float [n, R]; groups, folds: int [n].

    Every column has its own L2, the one with the least squared error on a fifth of the groups of those other folds.
    """
    result = np.zeros(targets.shape)
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds != fold)
        kept, held = hold_out(groups[rows], 0.2, seed=0)
        inner, asked = rows[kept], rows[held]
        errors = [
            np.mean((of_rows(features[asked]) - targets[asked]) ** 2, axis=0)
            for of_rows in _regressions(features[inner], targets[inner])
        ]
        best = np.argmin(errors[::-1], axis=0)  # a tie goes to the larger
        test = folds == fold
        found = [of_rows(features[test]) for of_rows in _regressions(features[rows], targets[rows])][::-1]
        result[test] = np.take_along_axis(np.stack(found), best[None, None], axis=0)[0]
    return result


def _regressions(features: np.ndarray, targets: np.ndarray):
    """One function of features for each of L2_VALUES, all from one eigendecomposition."""
    of, center = spectrum(features), targets.mean(axis=0)
    scale = np.where(targets.std(axis=0) > 0, targets.std(axis=0), 1.0)
    scaled = ((targets - center) / scale).astype(np.float32)
    for weights in ridge_weights(of, features, lambda rows: scaled[rows], L2_VALUES):
        yield lambda x, w=weights: (of.standardize(x) @ w).astype(np.float64) * scale + center


def pearson(truth: np.ndarray, guess: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Pearson's r of every column over the rows of all folds, as contributions to first order, float64 [n, R].

    truth, guess: float [n, R]. Means are those of each fold: the means of regressions that were fitted to the rest lean
    the other way, and over all rows r of an unpredictable target would be below zero. A constant guess has an r of 0.
    """
    units = []
    for values in (truth, guess):
        values = values.copy()
        for fold in np.unique(folds):
            values[folds == fold] -= values[folds == fold].mean(axis=0)
        spread = np.sqrt(np.mean(values**2, axis=0))
        units.append(np.where(spread > 1e-12 * np.abs(truth).max(axis=0), values / np.maximum(spread, 1e-300), 0.0))
    a, b = units
    r = np.mean(a * b, axis=0)
    along = a * b - r / 2 * (a**2 + b**2)
    return r + along - along.mean(axis=0)


def encoding(bench: EvalContext, out: Collector) -> None:
    test = bench.test
    records = len(bench.source(bench.config.eval.split))
    values = read_responses(bench.options.responses, records)
    values = values if test.index is None else values[test.index]  # records that cannot be read may be left out
    measured = np.flatnonzero(~np.isnan(values).all(axis=1))
    units, values = bench.units(test)[measured], values[measured]
    if len(np.unique(units)) < 2:
        expected = "of at least two labels, as --target=ATTRIBUTE keeps the images of a label together"
        raise DataError("labels of the responses", len(np.unique(units)), expected, "Use --target=label.")
    folds = folds_of(units)
    contributions = pearson(values, predicted(test.features[measured], values, units, folds), folds)
    for column, of_column in enumerate(contributions.T):
        out.add_per_example(f"encoding/{column}", of_column, units, chance=0.0)
    if values.shape[1] > 1:
        out.add_per_example("encoding/mean", contributions.mean(axis=1), units, chance=0.0)


def check(bench: EvalContext) -> Iterator[UserError]:
    records = len(bench.source(bench.config.eval.split))
    read_responses(bench.options.responses, records)
    return iter(())


ENCODING = Evaluator(
    encoding,
    "ridge regression from features to the columns of a file (--responses), five folds: Pearson's r",
    check,
    ("encoding/<column>", "encoding/mean"),
)
