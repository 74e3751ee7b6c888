"""The suite of the emoji set as an evaluator."""

from collections.abc import Iterator

from xsample_jax.config.rules_data import EMOJI as EMOJI_SOURCES
from xsample_jax.errors import ConfigError, UserError
from xsample_jax.evals.bench import Bench
from xsample_jax.evals.emoji import emoji_suite
from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.result import Collector


def check(bench: Bench) -> Iterator[UserError]:
    if bench.config.data.source not in EMOJI_SOURCES:
        fix = "Leave it out of --evals, or set --config.data.source=emoji --config.data.path=None."
        yield ConfigError("data.source", bench.config.data.source, "emoji for the evaluation emoji", fix)


def emoji(bench: Bench, out: Collector) -> None:
    out.include(emoji_suite(bench.features_of, bench.config))


EMOJI = Evaluator(emoji, "held-out concepts, unseen styles and swapped grounds of the emoji set", check)
