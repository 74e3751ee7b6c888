"""Rules about evaluations, and about the checkpoints that they rank."""

from collections.abc import Iterator

from xsample_jax.config.rules_data import EMOJI
from xsample_jax.errors import ConfigError


def _evaluation(c: dict) -> Iterator[ConfigError]:
    suite, split = c["eval.suite"], c["eval.split"]
    if suite == "emoji" and c["data.source"] not in EMOJI:
        yield ConfigError(
            "eval.suite",
            suite,
            f"probe or none for data.source = {c['data.source']!r}",
            "Set --config.eval.suite=probe if the records have labels, else none.",
        )
    if suite == "emoji" and split not in ("val", "test"):
        yield ConfigError("eval.split", split, "val or test for eval.suite = 'emoji'", "Set --config.eval.split=test.")
    if suite != "none" and split == c["eval.train_split"]:
        yield ConfigError(
            "eval.split",
            split,
            "another split than eval.train_split: the probe would be tested on what it was fitted to",
        )


def _online_probe(c: dict) -> Iterator[ConfigError]:
    if c["eval.online_probe"] and c["loss.grad_cache"] > 1:
        yield ConfigError(
            "eval.online_probe",
            True,
            f"False with loss.grad_cache = {c['loss.grad_cache']}, which keeps no features",
            "Set --config.eval.online_probe=false, or --config.loss.grad_cache=1.",
        )


def _best_checkpoint(c: dict) -> Iterator[ConfigError]:
    metric = c["checkpoint.metric"]
    if metric is not None and c["eval.suite"] == "none":
        yield ConfigError(
            "checkpoint.metric",
            metric,
            "None when eval.suite = 'none': no evaluation ever measures it",
            "Set --config.eval.suite, or --config.checkpoint.metric=None.",
        )
    elif metric is not None and (not c["eval.every"] or c["checkpoint.every"] % c["eval.every"]):
        yield ConfigError(
            "eval.every",
            c["eval.every"],
            f"a divisor of checkpoint.every = {c['checkpoint.every']}: checkpoint.metric ranks what was evaluated",
            f"Set --config.eval.every={c['checkpoint.every']}, or --config.checkpoint.metric=None.",
        )
    if metric is not None and c["checkpoint.keep_best"] == 0:
        yield ConfigError(
            "checkpoint.keep_best", 0, f"at least 1 to keep the best by {metric!r}", "Set 1, or no metric."
        )


RULES = (_evaluation, _online_probe, _best_checkpoint)
