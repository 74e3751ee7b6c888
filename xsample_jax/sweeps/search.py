"""A search: runs whose values are proposed by a sampler, each by what the ones before it have reached.

The file of a grid says what may be proposed, in place of get_grid (or beside it):

    def get_space(arg=""):
        return Space("configs/quickstart.py", {"optimizer.learning_rate": Uniform(1e-4, 1e-1, log=True),
                                               "objective.target_temperature": Choice((0.05, 0.1, 0.2))})

optuna (extra `search`) proposes, by its tree-structured Parzen estimator (Bergstra et al. 2011). What it knows is in
OUT/search.log: the same command continues, and trials that were stopped resume in their run folders.
"""

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from xsample_jax.config.load import file_error, find_config, import_file
from xsample_jax.errors import ConfigError, DataError, UserError, did_you_mean
from xsample_jax.evals.catalog import describe
from xsample_jax.evals.registry import EVALUATORS, SUITES
from xsample_jax.io.console import say
from xsample_jax.sweeps.grid import Point, from_here
from xsample_jax.sweeps.local import FINISHED, ONE_AT_A_TIME, Workers, run_points, state_of

LOG = "search.log"
DIGITS = 4  # of a proposed number: it is in the name of the run


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number from `low` to `high`, float; log: its logarithm is uniform."""

    low: float
    high: float
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Integer:
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values: numbers, texts, true and false, or None."""

    values: tuple


@dataclasses.dataclass(frozen=True)
class Space:
    """A config and {dotted key: Uniform, Integer or Choice} of what is searched; read_space names it by its file."""

    config: str
    keys: Mapping[str, Uniform | Integer | Choice]
    name: str = "search"


def read_space(file: str) -> Space:
    """The space of `path.py`, or `path.py:argument`.

    Raises ConfigError: no such file, no get_space, an exception in it, or a space that is empty or has wrong bounds.
    """
    path, argument = find_config(file, "--grid")
    get_space = getattr(import_file(path, "--grid"), "get_space", None)
    example = "See xsample_jax/sweeps/search.py."
    if not callable(get_space):
        raise ConfigError(str(path), "no get_space", "a function get_space(arg) that returns a Space", example)
    try:
        space = get_space(argument) if inspect.signature(get_space).parameters else get_space()
    except UserError:
        raise
    except Exception as error:
        raise file_error(path, error) from error
    if not isinstance(space, Space) or not space.keys:
        raise ConfigError(f"get_space of {path}", space, "a Space with a key that is searched", example)
    for key, values in space.keys.items():
        if not _is_sound(values):
            expected = (
                "Uniform or Integer with low < high (above 0 with log), or a Choice of numbers, texts, bools, None"
            )
            raise ConfigError(f"{key} in get_space of {path}", values, expected, example)
    name = "-".join([path.stem, *filter(None, argument.split(","))])
    return dataclasses.replace(space, config=from_here(space.config), name=name)


def _is_sound(values) -> bool:
    if isinstance(values, Choice):
        plain = None | bool | int | float | str  # all that the log of the study gives back as it was
        return (
            isinstance(values.values, tuple | list)
            and bool(values.values)
            and all(isinstance(value, plain) for value in values.values)
        )
    return isinstance(values, Uniform | Integer) and values.low < values.high and not (values.log and values.low <= 0)


def edge_points(space: Space) -> list[Point]:
    """The runs at the lowest and at the highest values (first and last choices): checked before anything is trained."""
    ends = []
    for place in (0, -1):
        values = {
            key: of.values[place] if isinstance(of, Choice) else (of.low, of.high)[place]
            for key, of in space.keys.items()
        }
        ends.append(Point(space.config, values))
    return ends if ends[0].name != ends[1].name else ends[:1]


def open_study(out: Path, metric: str, space: Space):
    """The study that OUT/search.log holds, made where there is none.

    Raises ImportError without optuna, ConfigError for a metric that has no better or worse, or another one than the
    study has, DataError for a damaged log. A last line that was torn is cut off: its trial runs again.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
    except ImportError as error:
        raise ImportError(f"--sampler=optuna needs optuna: pip install 'xsample_jax[search]' ({error})") from error
    better = describe(metric).direction
    if not better:
        raise ConfigError("--metric", metric, "a metric of the evaluation that is better when larger, or when smaller")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = JournalFileSymlinkLock(str(out / LOG))
        _cut_torn(out / LOG, lock)
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(out / LOG), lock)),
            study_name="search",
            direction="maximize" if better > 0 else "minimize",
            load_if_exists=True,
        )
    except Exception as error:  # of every family: optuna takes what a line says for granted
        fix = "Restore it, or give another --out."
        found = f"{type(error).__name__}: {error}"[:100]
        raise DataError("search", str(out / LOG), f"the log of a search ({found})", fix) from error
    asked = {
        "metric": metric,
        "space": {key: repr(of) for key, of in sorted(space.keys.items())},
        "config": space.config,
    }
    had = study.user_attrs.get("asked", asked)
    if had != asked:
        differs = [name for name in asked if had[name] != asked[name]]
        fix = "Give another --out, or the same command as before."
        raise ConfigError(f"{', '.join(differs)} of {out / LOG}", [asked[d] for d in differs], "as it began", fix)
    study.set_user_attr("asked", asked)
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))  # others after a restart, but no chance
    return study


def _cut_torn(log: Path, lock) -> None:
    """Cuts off a last line that is not whole: a write that a kill or a full disk has ended. lock: of those who write.

    Raises ValueError for another line that is no JSON object.
    """
    if not log.exists() or _torn(log.read_bytes()) is None:
        return
    lock.acquire()
    try:
        with log.open("r+b") as file:
            cut = _torn(file.read())
            if cut is not None:
                file.truncate(cut)
                say(f"warning: the last line of {log} was torn, and is cut off", error=True)
    finally:
        lock.release()


def _torn(data: bytes) -> int | None:
    """Where the last line begins, where it is not whole; None where it is. ValueError for damage before it."""
    start, lines = 0, data.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        try:
            whole = line.endswith(b"\n") and isinstance(json.loads(line), dict)
        except ValueError:
            whole = False
        if not whole:
            if number < len(lines):
                raise ValueError(f"line {number} is damaged")
            return start
        start += len(line)
    return None


def search(
    study, space: Space, out: Path, trials: int, workers: Workers = ONE_AT_A_TIME, say: Callable = print
) -> dict[str, int]:
    """Runs trials until `trials` have an end, as many at once as `workers` has; {name: exit code} of those that failed.

    Trials of earlier calls count; those that failed then are in count_failed alone.

    Raises Stopped as run_points: the next call continues the trials that it leaves. ConfigError for a metric that the
    runs do not have.
    """
    import optuna

    over = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL)
    failed: dict[str, int] = {}
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if not _is_whole(trial, space):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    while True:
        going = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        left = trials - sum(_is_whole(trial, space) for trial in study.get_trials(deepcopy=False, states=over))
        numbers = [trial.number for trial in going][: max(left, 0)]
        at_once = len(workers.gpus) or workers.jobs
        while len(numbers) < min(left, at_once):
            numbers.append(study.ask(_distributions(space)).number)
        if not numbers:
            return failed
        points = {number: _point(space, study.trials[number].params) for number in numbers}
        failed |= run_points(
            list({point.name: point for point in points.values()}.values()), space.name, out, workers, say
        )
        for number, point in points.items():
            _tell(study, number, state_of(out / point.name), say, point)


def _is_whole(trial, space: Space) -> bool:
    """Whether a trial has all its values: one that was proposed while the search was killed never became a run."""
    return trial.params.keys() == space.keys.keys()


def count_failed(study, space: Space) -> int:
    """Runs of the whole search, earlier calls included, that ended without a value."""
    return sum(trial.state.name == "FAIL" and _is_whole(trial, space) for trial in study.get_trials(deepcopy=False))


def check_metric(metric: str, config) -> None:
    """Raises ConfigError for a metric that no evaluator of eval.suite gives, as far as their tables tell: by kind."""
    suite = config.eval.suite
    names = [name for evaluator in SUITES.get(suite, ()) for name in EVALUATORS[evaluator].metrics]
    kinds = sorted({"label" if name[0] == "<" else name.partition("/")[0] for name in names if "/" in name})
    if metric.partition("/")[0] not in kinds:
        expected = f"a metric of eval.suite = {suite!r}" + (
            f": {', '.join(f'{kind}/...' for kind in kinds)}" * bool(kinds)
        )
        raise ConfigError(
            "--metric", metric, expected, "Give one of those, or set eval.suite in the config of the space."
        )


def _tell(study, number: int, state, say: Callable, point: Point) -> None:
    import optuna

    metric = study.user_attrs["asked"]["metric"]
    if state.status != FINISHED:
        study.tell(number, state=optuna.trial.TrialState.FAIL)
        return
    if metric not in state.evaluation:
        study.tell(number, state=optuna.trial.TrialState.FAIL)
        raise ConfigError("--metric", metric, f"a metric of {point.name}", did_you_mean(metric, state.evaluation))
    if not math.isfinite(state.evaluation[metric]):
        study.tell(number, state=optuna.trial.TrialState.FAIL)
        return
    study.tell(number, state.evaluation[metric])
    best = study.best_trial
    say(f"trial {number}: {metric} {state.evaluation[metric]:.4g}; best {best.value:.4g} of trial {best.number}")


def _distributions(space: Space) -> dict[str, object]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    kinds = {Uniform: FloatDistribution, Integer: IntDistribution}
    return {
        key: CategoricalDistribution(of.values)
        if isinstance(of, Choice)
        else kinds[type(of)](of.low, of.high, log=of.log)
        for key, of in space.keys.items()
    }


def _point(space: Space, values: Mapping[str, object]) -> Point:
    """The run of a trial; numbers have few digits, and stay within their bounds."""

    def short(key: str, value):
        of = space.keys[key]
        if not isinstance(of, Uniform):
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), of.low), of.high)

    return Point(space.config, {key: short(key, values[key]) for key in space.keys})


def points_of(study, space: Space) -> Sequence[Point]:
    """The runs of all trials, each once, in their order."""
    points = (_point(space, trial.params) for trial in study.trials if _is_whole(trial, space))
    return list({point.name: point for point in points}.values())
