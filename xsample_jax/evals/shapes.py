"""Suite "shapes": one linear probe per factor, for sets whose factors are known and independent.

A factor with n equally frequent values is guessed right by 1 / n; "kept" is the accuracy on the scale where that is 0
and no error is 1, so that factors with few and with many values can be compared.
"""

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.evaluators.geometry import add_caption_correlation
from xsample_jax.evals.features import Features
from xsample_jax.evals.probe import fit_probes
from xsample_jax.evals.result import Collector, FeaturesOf, SuiteResult

CORRELATED = 500  # images whose pairs are ranked: their matrix is held in memory


def shapes_suite(features_of: FeaturesOf, config) -> SuiteResult:
    """Probes for every attribute, fitted on config.eval.train_split and measured on config.eval.split."""
    return evaluate_factors(features_of(config.eval.train_split), features_of(config.eval.split))


def evaluate_factors(train: Features, test: Features) -> SuiteResult:
    """ "factor/<name>/probe" and "factor/<name>/kept" of each attribute, and the rank correlation with the captions.

    Images are the unit of the bootstrap. Raises DataError where there are no attributes, or one with a single value.
    """
    if not test.attributes:
        expected = "a record set with attributes, one for each factor"
        raise DataError("attributes", "none", expected, "Set --config.eval.suite=probe.")
    out, unit = Collector(), np.arange(len(test))
    targets = {name: train.attribute(name) for name in test.attributes}
    probes = fit_probes(train.features, targets, groups=np.arange(len(train)))
    for name, probe in probes.items():
        values = len(np.unique(targets[name]))
        if values < 2:
            raise DataError(f"attribute {name}", f"{values} value", "at least two, to tell apart")
        correct = (probe.predict(test.features) == test.attribute(name)).astype(np.float32)
        out.examples_of(f"factor/{name}/probe", correct, unit)
        out.examples_of(f"factor/{name}/kept", (correct - 1 / values) / (1 - 1 / values), unit)
    if test.caption_embedding is not None:
        some = test.rows(slice(CORRELATED))
        add_caption_correlation(out, some, np.arange(len(some)))
    return out.result()
