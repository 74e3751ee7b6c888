"""Any evaluators on any checkpoint: what can be refused is refused first, then features are computed once."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.checkpoint_files import find_checkpoint
from xsample_jax.errors import ConfigError, Problems, UserError, did_you_mean
from xsample_jax.evals.bench import Bench, Options
from xsample_jax.evals.intervals import Interval
from xsample_jax.evals.registry import EVALUATORS
from xsample_jax.evals.result import Collector, SuiteResult
from xsample_jax.evals.run import FeatureStore
from xsample_jax.evals.text_side import TextSide
from xsample_jax.load_model import load_model, read_config
from xsample_jax.mesh import connect
from xsample_jax.processes import say

DEFAULT = Options()


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came of it. intervals: 95% bootstrap, for the metrics that have one; config: that it ran with."""

    run: Path
    step: int
    config: object
    target: str
    result: SuiteResult
    intervals: dict[str, Interval]


def check_names(evals: Sequence[str]) -> list[ConfigError]:
    """One error for every name that is no evaluator; an empty list is wrong too."""
    if not evals:
        return [ConfigError("--evals", "", f"some of {', '.join(EVALUATORS)}")]
    return [
        ConfigError("--evals", name, f"some of {', '.join(EVALUATORS)}", did_you_mean(name, EVALUATORS))
        for name in evals
        if name not in EVALUATORS
    ]


def evaluate_checkpoint(
    checkpoint: str | Path,
    evals: Sequence[str],
    overrides: Sequence[str] = (),
    options: Options = DEFAULT,
    crop: float = 1.0,
) -> Evaluation:
    """Runs evaluators (names of EVALUATORS) on a checkpoint.

    Args:
      checkpoint: run folder, or RUN/checkpoints/STEP.
      overrides: `--config.KEY=VALUE` for the data that is evaluated on.
      options: of the evaluators.
      crop: share of the side of every picture that is seen (FeatureStore).

    Raises:
      Problems: all that is wrong with names, overrides, data and options, before anything is computed.
      CheckpointError: no such checkpoint, or a damaged one.
    """
    run, step = find_checkpoint(checkpoint)
    problems: list[UserError] = check_names(evals)
    if not 0 < crop <= 1:
        problems.append(ConfigError("--crop", crop, "a share of the side, above 0 and at most 1", "Use 0.875 or 1."))
    config = read_config(run, step, overrides)
    if problems:
        raise Problems(problems, "the evaluation")
    loaded = load_model(run, step, config)  # seconds; it says whether there is a text side
    store = FeatureStore(loaded.parts, loaded.state, crop)
    text = TextSide(loaded.parts, loaded.state, store) if loaded.parts.objective.text is not None else None
    bench = Bench(store, config, options, text)
    for name in evals:
        problems += _problems_of(name, bench)
    if problems:
        raise Problems(list({str(problem): problem for problem in problems}.values()), "the evaluation")
    connect(loaded.parts.mesh)

    out = Collector()
    for name in dict.fromkeys(evals):
        say(f"{config.name}, step {step}: {name} ({EVALUATORS[name].says})")
        EVALUATORS[name].run(bench, out)
    result = out.result()
    intervals = {name: interval for name in result.metrics if (interval := result.interval(name)) is not None}
    return Evaluation(run, step, config, bench.target, result, intervals)


def _problems_of(name: str, bench: Bench) -> list[UserError]:
    found = []
    try:
        found.extend(EVALUATORS[name].check(bench))
    except Problems as several:
        found.extend(several.problems)
    except UserError as error:
        found.append(error)
    return found
