"""The evaluators, by name. A new one is a function and a check in the file of its subject, its test, and a line here.

`tools.evaluate` runs those that --evals names; a run evaluates itself by a suite, which is a choice of them.
"""

import re
from collections.abc import Iterator

from xsample_jax.errors import ConfigError, UserError, did_you_mean, lookup, raise_all
from xsample_jax.evals.captioning import CAPTIONING
from xsample_jax.evals.catalog import HEADLINES, SINGLE, better_side, is_known
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


def check_metric_names(config) -> None:
    """Raises ConfigError or Problems where the suite measures nothing called checkpoint.metric, or as eval.stop says.

    As far as that is known without data: of a name like factor/<name>/kept only the form is.
    """
    metric, suite = config.checkpoint.metric, config.eval.suite
    asked = [("checkpoint.metric", metric)] * (metric is not None)
    asked += [("eval.stop", rule["metric"]) for rule in config.eval.stop]
    problems: list[UserError] = []
    patterns = list(_patterns(suite)) if asked else []
    for field, name in asked:
        if not _fits(name, patterns):
            shown = {one for one in (*patterns, *SINGLE, *HEADLINES) if "<" not in one and _fits(one, patterns)}
            expected = f"a metric that eval.suite = {suite!r} measures"
            problems.append(ConfigError(field, name, expected, did_you_mean(name, shown or set(patterns))))
    raise_all(problems, "the metrics that the run is to look at")
    better_side(metric)


def _patterns(suite: str) -> Iterator[str]:
    """The names of the metrics of a suite; "" for an evaluator that does not say its own."""
    for evaluator in SUITES.get(suite, ()):
        names = EVALUATORS[evaluator].metrics or ("",)
        yield from ((names[0] + name if name.startswith("_") else name).replace("<target>", "label") for name in names)


def _fits(name: str, patterns: list[str]) -> bool:
    """Whether one of the patterns, with <...> for a part of a name and ... for all of its rest, can be this metric."""
    for pattern in patterns:
        form = re.sub(r"<\w+>", "[^/]+", pattern).replace("...", ".+")
        if not pattern or (re.fullmatch(form, name) and ("..." not in pattern or is_known(name))):
            return True
    return False


def run_suite(name: str, features_of: FeaturesOf, config) -> SuiteResult:
    """Runs the evaluators of a suite on features; images are the unit of the bootstrap where nothing groups them."""
    bench, out = EvalContext(features_of, config, Options(target="label")), Collector()
    for evaluator in lookup(SUITES, name, "eval.suite"):
        EVALUATORS[evaluator].run(bench, out)
    return out.result()
