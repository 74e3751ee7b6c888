"""What happens around a train step: save and stop, log, evaluate. loop.py lists the hooks in order."""

import dataclasses
import json
from collections.abc import Callable, Mapping

import jax
import numpy as np

from xsample_jax.checkpoint import FULL, Checkpoints
from xsample_jax.config import config_to_json
from xsample_jax.distributed import allgather_text, log_info
from xsample_jax.errors import ConfigError, SaveError, did_you_mean
from xsample_jax.evals.catalog import better_side
from xsample_jax.evals.classifier import with_forgetting
from xsample_jax.evals.evaluate import evaluate_state
from xsample_jax.faults.non_finite import Pending, apply_policy
from xsample_jax.faults.preemption import Notice, Preempted
from xsample_jax.faults.watchdog import log_save_errors
from xsample_jax.io.console import say
from xsample_jax.io.files import JSONL
from xsample_jax.io.run_dir import RunFolder, log_event
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.metrics.profiling import Timers, count_compilations, memory_in_use
from xsample_jax.metrics.writers import FanOut
from xsample_jax.setup import RunSetup
from xsample_jax.sharding import fetch_scalars
from xsample_jax.state import Progress, TrainState


@dataclasses.dataclass(frozen=True)
class Training:
    """What the hooks of one training share.

    Attributes:
      setup, run, checkpoints, notice, writers, timers: made once.
      progress: updated in place, by the loop and by the non-finite policy.
    """

    setup: RunSetup
    run: RunFolder
    checkpoints: Checkpoints
    notice: Notice
    writers: FanOut
    timers: Timers
    progress: Progress

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes the metrics of a step with those of the machine, and reports failed background saves."""
        skipped = {"skipped_updates": self.progress.skipped} if self.progress.skipped else {}
        machine = memory_in_use(jax.local_devices()) | {"compilations": count_compilations()}
        self.progress.logged = step
        self.writers.write(step, values | skipped | self.timers.read() | machine)
        with log_save_errors(self.run.files, step):
            self.checkpoints.check()


class DeferredMetrics:
    """Holds one step. `settle` fetches the flag of each step, and the metrics of those that are logged.

    Args:
      write: called with (step, scalars) of steps that are logged, and of those that are not finite.
      judge: called with the step held and its metrics, fetched, when they are not finite; may raise.
    """

    def __init__(self, write: Callable[[int, dict], None], judge: Callable[[Pending, dict], None]):
        self._write, self._judge = write, judge
        self._held: Pending | None = None

    def defer(self, late: Pending) -> None:
        self.settle()
        self._held = late

    def settle(self) -> bool:
        """Looks at the step that is held. Returns False when there was none or it was not finite."""
        late, self._held = self._held, None
        if late is None:
            return False
        finite = bool(jax.device_get(late.metrics["finite"]))
        if late.log or not finite:
            self._write(late.step, fetch_scalars(late.metrics))
        if not finite:
            self._judge(late, jax.device_get(dict(late.metrics)))
        return finite


class LogMetrics:
    """Writes metrics one step late, so that the host never waits for the step that runs.

    A step that is not finite meets the policy of `faults.non_finite` when it is read; before a checkpoint or an
    evaluation `flush` reads the last one.
    """

    def __init__(self, training: Training):
        self._training = training
        self._names = sorted(training.setup.abstract_state.params)
        self._deferred = DeferredMetrics(self._write, self._on_non_finite)
        self._learns = True

    def before_step(self, state: TrainState) -> None:
        """Nothing: the metrics of the last step are read while the next one runs."""

    def after_step(self, state: TrainState, metrics: Mapping, batch: Mapping[str, np.ndarray]) -> None:
        """Defers the metrics of the step that was just started. batch: this process's share, for the diagnosis."""
        setup, progress = self._training.setup, self._training.progress
        step, started_at = progress.step, progress.data_position - setup.config.batch_size
        due = step % setup.config.log.every == 0 or step == setup.steps
        self.flush()
        self._deferred.defer(Pending(step, started_at, metrics, batch, due))

    def flush(self) -> None:
        """Reads the deferred step; raises DivergedError or RollBack where the policy says so."""
        if self._deferred.settle():
            self._training.progress.skipped_in_a_row = 0

    def _write(self, step: int, values: dict[str, float]) -> None:
        """Writes a line, and warns at the first step with a zero gradient: its loss of 0 looks like success."""
        if self._learns and values.get("gradient_norm") == 0 and jax.process_index() == 0:
            self._learns = False
            why = "Nothing in its batch was compared: check data.label, data.batches_of and batch_size."
            say(f"warning: the gradient of step {step} is 0, so it learned nothing. {why}", error=True)
        self._training.write(step, values)

    def _on_non_finite(self, pending: Pending, metrics: dict) -> None:
        training = self._training
        apply_policy(training.setup.config, training.progress, pending, metrics, self._names, training.run.files)


class Evaluate:
    """Evaluates every `eval.every` steps, and first of all where a preemption cut an evaluation off.

    scores: metrics of the evaluation at the current step, else empty. A checkpoint of that step is ranked by them.
    """

    def __init__(self, training: Training, log: LogMetrics):
        self._training, self._log = training, log
        self.scores: dict[str, float] = {}
        self._ranks = self._earlier_ranks() if training.setup.config.eval.patience else []

    def _earlier_ranks(self) -> list[float]:
        """checkpoint.metric in every evaluation of the run so far, from its log: a resumed run stops where it would."""
        path, name = self._training.run.files / JSONL, f"eval/{self._training.setup.config.checkpoint.metric}"
        lines = read_jsonl(path) if jax.process_index() == 0 and path.exists() else []
        found = json.dumps([line[name] for line in lines if name in line])
        return json.loads(allgather_text("earlier evaluations", found)[0])

    @property
    def out_of_patience(self) -> bool:
        """Whether the best evaluation by checkpoint.metric is `eval.patience` evaluations ago, or more."""
        patience = self._training.setup.config.eval.patience
        if not patience or not self._ranks:
            return False
        better = better_side(self._training.setup.config.checkpoint.metric)
        best = int(np.argmax([better * value if np.isfinite(value) else -np.inf for value in self._ranks]))
        return len(self._ranks) - 1 - best >= patience

    def before_step(self, state: TrainState) -> None:
        """Forgets the scores: they describe the state before this step."""
        self.scores = {}

    def after_step(self, state: TrainState, metrics: Mapping, batch: Mapping[str, np.ndarray]) -> None:
        """Evaluates if it is due after this step; the last step's evaluation is the final one, in loop.py."""
        options, setup, step = self._training.setup.config.eval, self._training.setup, self._training.progress.step
        if options.suite != "none" and options.every and step % options.every == 0 and step < setup.steps:
            self._log.flush()
            self._training.progress.evaluated = False
            self.run(state)

    def run(self, state: TrainState) -> None:
        """Evaluates now; raises Preempted when the run is asked to stop meanwhile."""
        training, ranked_by = self._training, self._training.setup.config.checkpoint.metric
        with training.timers.measure("evaluation"), training.notice.interrupts():
            found = with_forgetting(evaluate_state(training.setup, state)[0].metrics, training.progress.best)
        if ranked_by is not None and ranked_by not in found:
            fix = did_you_mean(ranked_by, found)
            raise ConfigError("checkpoint.metric", ranked_by, "a metric of the evaluation", fix)
        training.writers.write(training.progress.step, {f"eval/{name}": value for name, value in found.items()})
        self.scores, training.progress.evaluated = found, True
        self._ranks.append(found.get(ranked_by, np.nan))
        self._stop_by_rule(found)

    def _stop_by_rule(self, found: Mapping[str, float]) -> None:
        """Marks the run as stopped where a rule of eval.stop holds."""
        training = self._training
        for rule in training.setup.config.eval.stop:
            name, limit = rule["metric"], rule["at_most"]
            if name not in found:
                expected = "a metric of the evaluation"
                raise ConfigError("eval.stop", name, expected, did_you_mean(name, found))
            if found[name] <= limit:
                training.progress.stopped = True
                if jax.process_index() == 0:
                    step = training.progress.step
                    log_event(training.run.files, "stopped by a rule", step=step, metric=name, value=found[name])
                log_info(f"{training.setup.config.name}: stopped, as {name} = {found[name]:.4g} is at most {limit:g}")
                return


class SaveAndStop:
    """Saves every `checkpoint.every` steps, and saves and stops when the run is asked to."""

    def __init__(self, training: Training, log: LogMetrics, evaluate: Evaluate):
        self._training, self._log, self._evaluate = training, log, evaluate
        self._start = training.progress.step
        self._config = config_to_json(training.setup.config)

    def before_step(self, state: TrainState) -> None:
        """Saves the state that the next step starts from; raises Preempted after a notice, once it is on the disk."""
        training, step = self._training, self._training.progress.step
        stop = training.notice.reached(step, training.checkpoints.reached_preemption)
        if step > self._start and (stop or step % training.setup.config.checkpoint.every == 0):
            with log_save_errors(training.run.files, step):
                self.save(state)
        if stop:
            self._stop()

    def after_step(self, state: TrainState, metrics: Mapping, batch: Mapping[str, np.ndarray]) -> None:
        """Nothing: a checkpoint is due before the next step."""

    def save(self, state: TrainState) -> None:
        """Starts a checkpoint of the current step; raises SaveError."""
        training = self._training
        self._log.flush()
        # Lines up to here reach the disk before the checkpoint does, so a resumed file has no gap.
        on_disk = training.writers.flush() and training.run.push()
        if any(allgather_text(JSONL, "" if on_disk else FULL)):
            raise SaveError(JSONL, "lines that wait", "all lines on the disk before a checkpoint is", FULL)
        with training.timers.measure("checkpoint"):
            training.checkpoints.save(state, training.progress, self._config, self._evaluate.scores)

    def save_and_stop(self, state: TrainState) -> None:
        """Saves the state in the middle of a step's hooks, and raises Preempted."""
        with log_save_errors(self._training.run.files, self._training.progress.step):
            self.save(state)
        self._stop()

    def _stop(self) -> None:
        training, step = self._training, self._training.progress.step
        with log_save_errors(training.run.files, step):
            training.checkpoints.wait()
        log_event(training.run.files, "stopped from outside", step=step)
        raise Preempted
