"""What the evaluators of one state share: features of its splits, probes fitted once, and the user's options."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from xsample_jax.config.rules_data import EMOJI
from xsample_jax.data.sources import open_source
from xsample_jax.errors import DataError, UserError, lookup
from xsample_jax.evals.features import Features
from xsample_jax.evals.linear_probes import (
    SIMCLR,
    LinearProbe,
    SgdProtocol,
    fit_logistic,
    fit_naive_bayes,
    fit_probes,
    fit_sgd,
)
from xsample_jax.evals.metrics import Collector, FeaturesOf

# Name -> function of (features, labels, groups, options).
PROBES = {
    "ridge": lambda x, labels, groups, options: fit_probes(x, {"": labels}, groups)[""],
    "logistic": lambda x, labels, groups, options: fit_logistic(x, labels, groups),
    "sgd": lambda x, labels, groups, options: fit_sgd(x, labels, groups, options.sgd),
    "naive_bayes": lambda x, labels, groups, options: fit_naive_bayes(x, labels),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a config does not say.

    Attributes:
      target: what probes predict: "label" or an attribute; None: the label, of the emoji set the subgroup (the concepts
        of its splits are not the same).
      probe: which probe the robustness table uses, a name of PROBES.
      sets: folder with the test sets of the robustness table.
      prompts: templates with {caption} for class names in zero-shot; () = "a photo of a {caption}", or the class
        embeddings that come with the set.
      text_encoder: name or folder of the sentence encoder for prompts; None: the one of the set's captions.
      sgd: how the SGD probe is trained.
      responses: .npy file [records, R] that the encoding evaluator predicts, a row for each record of eval.split.
      widths: of the prefixes of the embedding that the evaluator widths cuts; (): those of the run.
    """

    target: str | None = None
    probe: str = "logistic"
    sets: Path | None = None
    prompts: tuple[str, ...] = ()
    text_encoder: str | None = None
    sgd: SgdProtocol = SIMCLR
    responses: Path | None = None
    widths: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Labeled:
    """Features and labels of the two splits; groups and units int: rows that belong together when rows are held out
    (of train) and resampled (of test)."""

    train: np.ndarray
    train_labels: np.ndarray
    groups: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray
    units: np.ndarray


class EvalContext:
    """features_of: (split, background=None) -> Features; config: resolved, reads eval.split and eval.train_split.

    text_side: of a model that embeds texts (text_side.py), else None. Evaluators that only read features run on any
    `features_of`; the others ask more of it (`FeatureStore` of run.py).
    """

    def __init__(self, features_of: FeaturesOf, config, options: Options = Options(), text_side=None):
        self.features_of, self.config, self.options, self.text_side = features_of, config, options, text_side
        self._probes: dict[str, LinearProbe] = {}

    @cached_property
    def target(self) -> str:
        """What probes predict."""
        return self.options.target or ("subgroup" if self.config.data.source in EMOJI else "label")

    @property
    def train(self) -> Features:
        return self.features_of(self.config.eval.train_split)

    @property
    def test(self) -> Features:
        return self.features_of(self.config.eval.split)

    def source(self, split: str):
        """The records of a split, opened but not read: what checks look at."""
        return open_source(self.config.data, split)

    def units(self, of: Features) -> np.ndarray:
        """What the bootstrap resamples, int [n]: images, or where attributes are predicted whole concepts (labels)."""
        image = np.arange(len(of))
        return image if self.target == "label" else np.where(of.label >= 0, of.label, -1 - image)

    @cached_property
    def labeled(self) -> Labeled:
        """Rows of both splits that have the target; DataError when there are none, or the splits share no class."""
        parts = []
        for split, of in ((self.config.eval.train_split, self.train), (self.config.eval.split, self.test)):
            labels = of.label if self.target == "label" else of.attribute(self.target)
            keep = labels >= 0
            if not keep.any():
                fix = "Set eval.suite = 'none' for a set without labels."
                raise DataError(f"labels of split {split}", "none", "labeled records", fix)
            parts += [of.features[keep], labels[keep], self.units(of)[keep]]
        train, train_labels, groups, test, test_labels, units = parts
        classes, concepts = np.unique(np.unique(np.stack([train_labels, groups]), axis=1)[0], return_counts=True)
        alone = np.isin(train_labels, classes[concepts == 1])  # held out whole, nothing of a class could be predicted
        groups = np.where(alone, groups.max() + 1 + np.arange(len(train)), groups)
        if not np.isin(test_labels, train_labels).any():
            splits = f"{self.config.eval.train_split}, {self.config.eval.split}"
            fix = "Predict what both have: tools.evaluate --target=group, or in a run --config.data.label=group."
            raise DataError(f"{self.target} in {splits}", "no class in common", "classes that both splits have", fix)
        return Labeled(train, train_labels, groups, test, test_labels, units)

    def probe(self, kind: str) -> LinearProbe:
        """The probe of this kind (PROBES), fitted once to the training rows."""
        if kind not in self._probes:
            rows = self.labeled
            fit = lookup(PROBES, kind, "--probe")
            self._probes[kind] = fit(rows.train, rows.train_labels, rows.groups, self.options)
        return self._probes[kind]


# What an evaluator is: a function of the bench that collects metrics, and a check that runs before any compute.


def check_split(bench: EvalContext) -> Iterator[UserError]:
    """Opens the split that is evaluated; raises DataError when it is not there."""
    bench.source(bench.config.eval.split)
    return iter(())


def check_two_splits(bench: EvalContext) -> Iterator[UserError]:
    """Whether what is fitted to eval.train_split is measured on another split."""
    split = bench.config.eval.split
    if split == bench.config.eval.train_split:
        expected = "another split than eval.train_split: a probe would be tested on what it was fitted to"
        yield DataError("eval.split", split, expected, "Set --config.eval.train_split or --config.eval.split.")


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Attributes:
    run: adds the metrics of a bench to a collector.
    says: one line about it, for `--help` and the table of docs/evaluation.md.
    check: yields (or raises) what is missing, from manifests and file names alone.
    metrics: the names of its metrics as that table shows them.
    """

    run: Callable[[EvalContext, Collector], None]
    says: str
    check: Callable[[EvalContext], Iterator[UserError]] = check_split
    metrics: tuple[str, ...] = ()
