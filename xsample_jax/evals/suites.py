"""The evaluations a config can name in eval.suite. A suite is a function (features_of, config) -> SuiteResult."""

from xsample_jax.evals.bench import Bench, Options
from xsample_jax.evals.emoji import emoji_suite
from xsample_jax.evals.evaluators.geometry import geometry
from xsample_jax.evals.evaluators.labels import knn, ridge
from xsample_jax.evals.result import Collector, FeaturesOf, SuiteResult
from xsample_jax.evals.shapes import shapes_suite


def probe_suite(features_of: FeaturesOf, config) -> SuiteResult:
    """kNN and closed-form probe on the labels of any record set with a training and an evaluation split, and geometry.

    Rows without a label (-1) are left out. Images are the unit of the bootstrap: nothing groups them here.
    """
    bench, out = Bench(features_of, config, Options(target="label")), Collector()
    for run in (knn, ridge, geometry):
        run(bench, out)
    return out.result()


SUITES = {"emoji": emoji_suite, "probe": probe_suite, "shapes": shapes_suite}

__all__ = ["SUITES", "FeaturesOf", "SuiteResult"]
