"""The evaluators that `tools.evaluate` can run. A new one is a file in evaluators/, its test, and a line here."""

from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.evaluators.emoji import EMOJI
from xsample_jax.evals.evaluators.geometry import GEOMETRY
from xsample_jax.evals.evaluators.labels import FEW_SHOT, KNN, LOGISTIC, RIDGE, SGD
from xsample_jax.evals.evaluators.mit_states import MIT_STATES
from xsample_jax.evals.evaluators.retrieval import RETRIEVAL
from xsample_jax.evals.evaluators.robustness import ROBUSTNESS
from xsample_jax.evals.evaluators.zero_shot import ZERO_SHOT

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
