"""The evaluators, by name. A new one is a function and a check in the file of its subject, its test, and a line here.

`tools.evaluate` runs those that --evals names; a run evaluates itself by a suite, which is a choice of them.
"""

from xsample_jax.errors import lookup
from xsample_jax.evals.captioning import CAPTIONING
from xsample_jax.evals.classifier import CLASSIFIER, EPISODES
from xsample_jax.evals.context import EvalContext, Evaluator, Options
from xsample_jax.evals.emoji import EMOJI
from xsample_jax.evals.encoding import ENCODING
from xsample_jax.evals.geometry import GEOMETRY
from xsample_jax.evals.labels import FACTORS, FEW_SHOT, KNN, LOGISTIC, NAIVE_BAYES, RIDGE, SGD
from xsample_jax.evals.metrics import Collector, FeaturesOf, SuiteResult
from xsample_jax.evals.retrieval import RETRIEVAL
from xsample_jax.evals.robustness import MIT_STATES, ROBUSTNESS
from xsample_jax.evals.swapped_captions import SWAPPED_CAPTIONS
from xsample_jax.evals.widths import WIDTHS
from xsample_jax.evals.zero_shot import ZERO_SHOT

EVALUATORS: dict[str, Evaluator] = {
    "knn": KNN,
    "probe": RIDGE,
    "logistic": LOGISTIC,
    "sgd": SGD,
    "naive_bayes": NAIVE_BAYES,
    "few_shot": FEW_SHOT,
    "episodes": EPISODES,
    "classifier": CLASSIFIER,
    "widths": WIDTHS,
    "zero_shot": ZERO_SHOT,
    "retrieval": RETRIEVAL,
    "swapped_captions": SWAPPED_CAPTIONS,
    "captioning": CAPTIONING,
    "geometry": GEOMETRY,
    "factors": FACTORS,
    "encoding": ENCODING,
    "emoji": EMOJI,
    "robustness": ROBUSTNESS,
    "mit_states": MIT_STATES,
}

# What a config can name in eval.suite -> the evaluators that it runs. Rows without a label (-1) are left out.
SUITES: dict[str, tuple[str, ...]] = {
    "emoji": ("emoji",),
    "probe": ("knn", "probe", "geometry"),
    "shapes": ("factors",),
    "classifier": ("classifier",),
    "episodes": ("episodes",),
}


def run_suite(name: str, features_of: FeaturesOf, config) -> SuiteResult:
    """Runs the evaluators of a suite on features; images are the unit of the bootstrap where nothing groups them."""
    bench, out = EvalContext(features_of, config, Options(target="label")), Collector()
    for evaluator in lookup(SUITES, name, "eval.suite"):
        EVALUATORS[evaluator].run(bench, out)
    return out.result()
