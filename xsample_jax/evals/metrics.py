"""Bootstrap over concepts: images of one concept are not independent, so whole concepts are resampled, not images.

Of fewer than FEW concepts images are resampled all the same: intervals over so few concepts are too narrow even for
independent images (of 2, 4, 6, 8, 10, 15 concepts of 20 images they cover the truth in 67, 85, 86, 89, 90, 93% of 500).

With several runs (seeds) of one objective the seeds are resampled too (crossed bootstrap). With few seeds (three,
say) the share of the seeds in the interval is underestimated; print the number of seeds beside it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.features import Features
from xsample_jax.io.files import load_arrays, write_arrays
from xsample_jax.io.paths import as_path

RESAMPLES = 2000
LEVEL = 0.95
MOST_UNITS = 10_000
FEW = 10  # concepts


@dataclasses.dataclass(frozen=True)
class Scores:
    """One metric of one run, example by example: the metric is the mean of `values` [n]; `concepts` int [n]."""

    values: np.ndarray
    concepts: np.ndarray

    def mean(self) -> float:
        return float(np.mean(self.values, dtype=np.float64)) if len(self.values) else float("nan")


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval; seeds: of the side that has fewer."""

    mean: float
    low: float
    high: float
    seeds: int = 1

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def clear(self) -> bool:
        """Whether a difference may be printed bold: over seeds and examples it excludes zero.

        With one seed the spread between seeds is not in the interval, so nothing is clear.
        """
        return self.seeds > 1 and self.excludes_zero


@functools.lru_cache(maxsize=8)
def _weights(resamples: int, count: int, seed: int) -> np.ndarray:
    """Returns float32 [resamples, count]: how often each of `count` units is drawn when `count` are drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float32)


def _means(runs: Sequence[Scores], concepts: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Returns float64 [resamples, runs]: the metric of every run under every resample of the concepts.

    More than MOST_UNITS concepts (the images of ImageNet) are resampled in that many random groups: groups of
    independent concepts are independent too, so the interval is the same and the table of weights stays small.
    """
    units = min(len(concepts), MOST_UNITS)
    group = np.random.default_rng(seed).permutation(len(concepts)) % units if units < len(concepts) else None
    weights = _weights(resamples, units, seed)
    result = np.empty((resamples, len(runs)))
    for column, run in enumerate(runs):
        position = np.searchsorted(concepts, run.concepts)
        position = position if group is None else group[position]
        sums = np.bincount(position, weights=run.values, minlength=units)
        counts = np.bincount(position, minlength=units)
        # A resample without a single example of this run (tiny sets only) says nothing: nan, left out below.
        with np.errstate(invalid="ignore"):
            result[:, column] = (weights @ sums) / (weights @ counts)
    return result


def _resample_runs(means: np.ndarray, seed: int) -> np.ndarray:
    """Averages [resamples, runs] over resampled runs; one run is simply itself."""
    runs = means.shape[1]
    if runs == 1:
        return means[:, 0]
    weights = np.random.default_rng(seed).multinomial(runs, np.full(runs, 1 / runs), size=len(means))
    return np.sum(means * weights, axis=1) / runs


def _all_concepts(runs: Sequence[Scores]) -> np.ndarray:
    if not runs or any(not len(run.values) for run in runs):
        raise DataError("examples", "none", "at least one example per run to bootstrap")
    return np.unique(np.concatenate([run.concepts for run in runs]))


def are_few(concepts: np.ndarray) -> bool:
    """Whether int [n] are so few concepts, of several images each, that images are resampled."""
    return len(np.unique(concepts)) < min(FEW, len(concepts))


def _units_of(*sides: Sequence[Scores]) -> tuple[tuple[Sequence[Scores], ...], np.ndarray]:
    """(the sides, with what is resampled as concepts; all of these): rows by their place where concepts are few."""
    runs = [run for side in sides for run in side]
    if not are_few(np.concatenate([run.concepts for run in runs])):
        return sides, _all_concepts(runs)
    numbered = tuple([Scores(run.values, np.arange(len(run.values))) for run in side] for side in sides)
    return numbered, np.arange(max(len(run.values) for run in runs))


def _interval(mean: float, draws: np.ndarray, level: float, seeds: int) -> Interval:
    if draws is None:  # a single image says nothing of others
        return Interval(mean, float("nan"), float("nan"), seeds)
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), seeds)


def resampled(runs: Sequence[Scores], resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """The mean over runs of one metric under every resample of concepts and runs, float64 [resamples].

    Metrics of the same concepts and of as many runs are resampled alike: functions of several of them get an interval.
    """
    _all_concepts(runs)
    (runs,), units = _units_of(runs)
    return _resample_runs(_means(runs, units, resamples, seed), seed + 1)


def bootstrap(runs: Sequence[Scores], resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0) -> Interval:
    """Mean over runs (seeds) of one metric with its percentile interval, over concepts and runs."""
    mean = float(np.mean([run.mean() for run in runs]))
    draws = resampled(runs, resamples, seed)
    single = max(len(run.values) for run in runs) == 1
    return _interval(mean, None if single else draws, level, len(runs))


def paired_difference(
    runs: Sequence[Scores],
    baseline: Sequence[Scores],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Interval of metric(runs) - metric(baseline): the same concepts are drawn on both sides, seeds independently.

    Raises:
      DataError: the two sides were not evaluated on the same concepts.
    """
    concepts = _all_concepts(runs)
    if not np.array_equal(concepts, _all_concepts(baseline)):
        raise DataError(
            "evaluation.npz",
            "other concepts",
            "both runs evaluated on the same concepts",
            "Evaluate both on one split.",
        )
    mean = np.mean([run.mean() for run in runs]) - np.mean([run.mean() for run in baseline])
    (runs, baseline), units = _units_of(runs, baseline)
    ours = _resample_runs(_means(runs, units, resamples, seed), seed + 1)
    theirs = _resample_runs(_means(baseline, units, resamples, seed), seed + 2)
    return _interval(float(mean), ours - theirs if len(units) > 1 else None, level, min(len(runs), len(baseline)))


def difference_of_means(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """mean(first) - mean(second) of two unpaired samples, as contributions float64 [n + m] whose mean it is."""
    count, difference = len(first) + len(second), first.mean(dtype=np.float64) - second.mean(dtype=np.float64)
    return difference + np.concatenate(
        [
            count / len(first) * (first - first.mean(dtype=np.float64)),
            count / len(second) * (second.mean(dtype=np.float64) - second),
        ]
    )


def save_examples(path: str | Path, examples: Mapping[str, Scores]) -> None:
    """Writes evaluation.npz: for every metric "values/<metric>" float32 [n] and "concepts/<metric>" int32 [n]."""
    arrays = {}
    for name, scores in examples.items():
        arrays[f"values/{name}"] = np.asarray(scores.values, np.float32)
        arrays[f"concepts/{name}"] = np.asarray(scores.concepts, np.int32)
    write_arrays(as_path(path), arrays)


def load_examples(path: str | Path) -> dict[str, Scores]:
    """Reads what `save_examples` wrote; DataError for a damaged file."""
    fix = "Evaluate the run again, or move the file away."
    try:
        arrays = load_arrays(as_path(path))
    except OSError as error:
        raise DataError("examples", str(path), f"a file that can be read ({error.strerror})", fix) from error
    names = [name.removeprefix("values/") for name in arrays if name.startswith("values/")]
    found = {name: Scores(arrays[f"values/{name}"], arrays.get(f"concepts/{name}")) for name in names}
    for name, scores in found.items():
        if scores.concepts is None or not scores.values.shape == scores.concepts.shape == (scores.values.size,):
            raise DataError("examples", str(path), f"as many numbers in concepts/{name} as in values/{name}", fix)
        if scores.values.dtype.kind not in "buif" or scores.concepts.dtype.kind not in "iu" or not scores.values.size:
            raise DataError("examples", str(path), f"numbers in values/{name}, whole ones in concepts/{name}", fix)
    return found


# What an evaluation takes and what it returns.


# features_of(split, background=None | "mixed_same" | "mixed_rand" | "random_color") -> Features
FeaturesOf = Callable[..., Features]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a metric has to be read with.

    Attributes:
      n: images (or queries, concepts) that it is a mean over; None for a number about the whole set.
      classes: how many the answer is chosen from, None where it is not a choice.
      chance: its value without looking at an image; None where there is no such value.
    """

    n: int | None = None
    classes: int | None = None
    chance: float | None = None


@dataclasses.dataclass(frozen=True)
class SuiteResult:
    """Metrics by name.

    Attributes:
      metrics: name -> value.
      examples: for those that are means over examples the examples themselves (for the bootstrap).
      intervals: intervals that the examples do not give (those over draws of shots).
      notes: what a reader has to know, as about a set that is missing.
      facts: for every metric.
    """

    metrics: Mapping[str, float]
    examples: Mapping[str, Scores]
    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Facts] = dataclasses.field(default_factory=dict)

    def interval(self, name: str) -> Interval | None:
        """The 95% bootstrap interval of a metric; None for one that is not a mean over examples."""
        if name in self.intervals:
            return self.intervals[name]
        scores = self.examples.get(name)
        return bootstrap([scores]) if scores is not None and len(scores.values) > 1 else None


class Collector:
    """Gathers metrics while a suite runs; a metric given by its examples is their mean by construction."""

    def __init__(self):
        self.metrics: dict[str, float] = {}
        self.examples: dict[str, Scores] = {}
        self.intervals: dict[str, Interval] = {}
        self.notes: list[str] = []
        self.facts: dict[str, Facts] = {}

    def add_per_example(
        self, name: str, values, concepts, classes: int | None = None, chance: float | None = None
    ) -> None:
        """A metric that is the mean of values [n]; classes and chance as in Facts."""
        self.examples[name] = Scores(values, concepts)
        self.metrics[name] = self.examples[name].mean()
        self.facts[name] = Facts(len(values), classes, chance)
        if are_few(concepts):
            self.note(
                f"intervals over fewer than {FEW} concepts (labels) are of images: they are too narrow where the "
                "images of a concept are alike"
            )

    def draws_of(self, name: str, values: np.ndarray, concepts: np.ndarray, **facts) -> None:
        """A metric of several draws, values [draws, n]: its interval is over draws and concepts."""
        self.add_per_example(name, values.mean(axis=0), concepts, **facts)
        self.intervals[name] = bootstrap([Scores(of_draw, concepts) for of_draw in values])

    def scalar(self, name: str, value: float) -> None:
        self.metrics[name] = float(value)
        self.facts.setdefault(name, Facts())

    def note(self, text: str) -> None:
        self.notes.append(text)

    def include(self, result: SuiteResult) -> None:
        """Takes over everything of another result."""
        self.metrics |= result.metrics
        self.examples |= result.examples
        self.intervals |= result.intervals
        self.notes += result.notes
        self.facts |= result.facts

    def result(self) -> SuiteResult:
        notes = tuple(dict.fromkeys(self.notes))
        return SuiteResult(self.metrics, self.examples, self.intervals, notes, self.facts)


# Calibration and ranking of a probe's scores: expected calibration error, area under the ROC curve.
#
# Both come as one number per example whose mean is the metric: its bootstrap over examples gives the interval.


BINS = 15


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of probabilities, float64 [n, K]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return shifted / shifted.sum(axis=1, keepdims=True)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3) as contributions, float64 [n].

    ECE = sum over bins of n_b / n |accuracy_b - confidence_b|, bins of equal width, closed on the right. The part of
    an example is (correct - confidence) with the sign of its bin, held fixed when examples are resampled.

    Args:
      confidence: [n], probability of the predicted class; correct: [n], 0 or 1.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    difference = correct.astype(np.float64) - confidence
    sign = np.sign(np.bincount(place, weights=difference, minlength=bins))
    return sign[place] * difference


def auc_contributions(scores: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, one class against the rest, mean over classes, as contributions, float64 [n].

    The mean of the contributions is the metric; they are its jackknife pseudo-values to first order (the structural
    components of DeLong et al. 1988). A class without examples, or that all examples have, is left out.

    Args:
      scores: [n, K], column j for classes[j]; labels: int [n]. Equal scores count one half.
    """
    count, found, total = len(labels), 0, np.zeros(len(labels))
    for column, label in enumerate(classes):
        positive = labels == label
        if not positive.any() or positive.all():
            continue
        found += 1
        everyone, score = ranks(scores[:, column]), scores[:, column]
        # Share of the other side that an example is ranked above (or, for a negative, below).
        above = (everyone[positive] - ranks(score[positive])) / (~positive).sum()
        below = 1 - (everyone[~positive] - ranks(score[~positive])) / positive.sum()
        area = above.mean()
        total += area
        total[positive] += count / positive.sum() * (above - area)
        total[~positive] += count / (~positive).sum() * (below - area)
    return total / found if found else np.full(count, np.nan)


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns float64 ranks from 1; equal values share the mean of their ranks."""
    _, position, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[position]


# What is reached without looking at an image: the level that a metric has to be compared with.


def majority(labels: np.ndarray, k: int = 1, among: np.ndarray | None = None) -> float:
    """Accuracy of always naming the k most frequent of the labels, int [n]; top-k for k above 1.

    among: the labels that can be named, such as those of the training images; None: all.
    """
    _, count = np.unique(labels if among is None else labels[np.isin(labels, among)], return_counts=True)
    return float(np.sort(count)[-k:].sum() / len(labels)) if len(labels) else float("nan")


def random_order(partners: np.ndarray, gallery: int, k: int) -> float:
    """Recall at k of a gallery in random order, mean over queries that have `partners` int [q] rows among `gallery`.

    1 - C(gallery - partners, k) / C(gallery, k): one minus the chance that all of the first k rows are others.
    """
    k = min(k, gallery)
    place = np.arange(k)
    others = np.maximum(gallery - np.asarray(partners)[:, None] - place, 0)
    return float(np.mean(1 - np.prod(others / (gallery - place), axis=1))) if len(partners) else float("nan")


def partners_of(query_ids: np.ndarray, gallery_ids: np.ndarray, same_rows: bool = False) -> np.ndarray:
    """How many rows of the gallery, int [n], have the id of each query, int [q]; without itself for the same rows."""
    known, count = np.unique(gallery_ids, return_counts=True)
    place = np.minimum(np.searchsorted(known, query_ids), len(known) - 1)
    return np.where(known[place] == query_ids, count[place], 0) - same_rows


def unreached(labels: np.ndarray, shots: Sequence[int], name: str) -> list[str]:
    """A note on every number of shots that some class of the training labels, int [n], does not have."""
    known, count = np.unique(labels, return_counts=True)
    notes = []
    for k in shots:
        few = int(np.sum(count < k))
        if few:
            whom = f"{'all' if few == len(known) else few} of {len(known)} classes have"
            notes.append(
                f"few_shot/{k}/{name}: {k} per class was not reached, {whom} fewer training images (the smallest "
                f"{count.min()}); all images of such a class are used"
            )
    return notes
