"""The evaluations a config can name in eval.suite. A suite is a function (features_of, config) -> SuiteResult."""

from xsample_jax.evals.emoji import emoji_suite
from xsample_jax.evals.probe_suite import probe_suite
from xsample_jax.evals.result import FeaturesOf, SuiteResult
from xsample_jax.evals.shapes import shapes_suite

SUITES = {"emoji": emoji_suite, "probe": probe_suite, "shapes": shapes_suite}

__all__ = ["SUITES", "FeaturesOf", "SuiteResult"]
