"""The evaluators that `tools.evaluate` can run. A new one is a file in evaluators/, its test, and a line here."""

from xsample_jax.evals.context import EvalContext, Evaluator, Options
from xsample_jax.evals.emoji import EMOJI, emoji_suite
from xsample_jax.evals.geometry import GEOMETRY, geometry
from xsample_jax.evals.labels import FEW_SHOT, KNN, LOGISTIC, RIDGE, SGD, knn, ridge, shapes_suite
from xsample_jax.evals.metrics import Collector, FeaturesOf, SuiteResult
from xsample_jax.evals.retrieval import RETRIEVAL
from xsample_jax.evals.robustness import MIT_STATES, ROBUSTNESS
from xsample_jax.evals.zero_shot import ZERO_SHOT

EVALUATORS: dict[str, Evaluator] = {
    "knn": KNN,
    "probe": RIDGE,
    "logistic": LOGISTIC,
    "sgd": SGD,
    "few_shot": FEW_SHOT,
    "zero_shot": ZERO_SHOT,
    "retrieval": RETRIEVAL,
    "geometry": GEOMETRY,
    "emoji": EMOJI,
    "robustness": ROBUSTNESS,
    "mit_states": MIT_STATES,
}


# The evaluations a config can name in eval.suite. A suite is a function (features_of, config) -> SuiteResult.


def probe_suite(features_of: FeaturesOf, config) -> SuiteResult:
    """kNN and closed-form probe on the labels of any record set with a training and an evaluation split, and geometry.

    Rows without a label (-1) are left out. Images are the unit of the bootstrap: nothing groups them here.
    """
    bench, out = EvalContext(features_of, config, Options(target="label")), Collector()
    for run in (knn, ridge, geometry):
        run(bench, out)
    return out.result()


SUITES = {"emoji": emoji_suite, "probe": probe_suite, "shapes": shapes_suite}

__all__ = ["SUITES", "FeaturesOf", "SuiteResult"]
