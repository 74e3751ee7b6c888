"""The loop, top to bottom: build, restore, for every step save, batch, step, log, evaluate; then a report."""

import contextlib
import json
import pathlib

import jax

from xsample_jax.checkpoint import FULL, Checkpoints
from xsample_jax.config import config_to_json, load_config, resolve
from xsample_jax.config.saved import changed_keys, check_shared, save_config
from xsample_jax.data.dataset import Dataset, train_batches
from xsample_jax.distributed import allgather_text, barrier, log_info, name_of_process
from xsample_jax.errors import CheckpointError, ConfigError, SaveError, did_you_mean
from xsample_jax.evals.baselines import suite_baselines
from xsample_jax.evals.evaluate import evaluate_state, write_snapshot
from xsample_jax.evals.facts import save_facts
from xsample_jax.evals.metrics import save_examples
from xsample_jax.faults.non_finite import RollBack, apply_policy
from xsample_jax.faults.preemption import Notice, Preempted, preemption_notice
from xsample_jax.faults.watchdog import TimedBatches, log_save_errors
from xsample_jax.io.files import EVALUATION, EXAMPLES, FACTS, JSONL, PROFILE, REPORT, SNAPSHOT, atomic_write
from xsample_jax.io.run_dir import RunFolder, log_event, open_run_folder
from xsample_jax.metrics.profiling import (
    Profiler,
    Timers,
    count_chips,
    count_compilations,
    memory_in_use,
    model_flops,
    peak_flops,
)
from xsample_jax.metrics.writers import DeferredMetrics, Pending, open_writers, read_jsonl, wandb_writer
from xsample_jax.reports.report import write_report
from xsample_jax.setup import RunSetup, build_run
from xsample_jax.sharding import process_rows, to_global, warm_up_collectives
from xsample_jax.state import Progress, TrainState
from xsample_jax.weights.pretrained import read_pretrained


def train(config, workdir: str | pathlib.Path, allow_config_change: bool = False) -> dict[str, float]:
    """Trains and evaluates what `config` describes and returns the final metrics of the evaluation.

    config: a ConfigDict, checked or not, or the name of a config file, as "configs/quickstart.py:smoke".

    Called again with the same folder it resumes from the newest checkpoint with the very same batches, and when the
    run is finished it says so and returns its metrics. docs/resume.md says what happens when something goes wrong.

    Raises ConfigError, DataError or CheckpointError on bad input; CheckpointError when the folder holds another run
    (unless `allow_config_change`) or is in use; DivergedError, SaveError or StalledError when the run breaks; Preempted
    when it was asked to stop and has saved.
    """
    config = load_config(config) if isinstance(config, str) else resolve(config)
    first_process = jax.process_index() == 0
    with open_run_folder(workdir, first_process) as run, preemption_notice(config.faults.grace) as notice:
        folder = run.files
        # Build.
        changes = changed_keys(config, folder, allow_config_change)
        check_shared(run.place)  # also: nothing is written before all processes have looked
        if (folder / EVALUATION).exists() and not changes:
            log_info(f"{config.name}: finished. Its report: {run.place / REPORT}")
            return json.loads((folder / EVALUATION).read_text())
        parts, examples = build_run(config)
        warm_up_collectives(parts.mesh)

        # Restore, and train; a roll-back restores once more.
        with contextlib.closing(Checkpoints(run.place, config.checkpoint, history=folder)) as checkpoints:
            state, progress = _restore(parts, checkpoints)
            if first_process:
                (folder / EVALUATION).unlink(missing_ok=True)
                save_config(config, folder, changes)
            while progress.step < parts.steps:
                behind = None
                try:
                    state = _steps(parts, examples, run, checkpoints, notice, state, progress)
                except RollBack as bad:
                    behind = bad.data_position
                if behind is not None:  # out of the `except`, which would keep the bad state beside the good one
                    with log_save_errors(folder, progress.step):
                        checkpoints.wait()
                    rollbacks = progress.rollbacks + 1
                    state, progress = _restore(parts, checkpoints)
                    progress.data_position, progress.rollbacks = behind, rollbacks
            checkpoints.wait()
            return _finish(parts, examples, run, notice, state)


def _restore(parts: RunSetup, checkpoints: Checkpoints) -> tuple[TrainState, Progress]:
    """This run's own newest checkpoint, else that of another run, else a new state (with a pretrained encoder)."""
    config = parts.config
    if checkpoints.latest_step() is not None:
        state, progress = checkpoints.restore(parts.abstract_state)
        if progress.step > parts.steps:
            raise ConfigError(
                "steps", parts.steps, f"at least the {progress.step} that are done", "Use another folder."
            )
        log_info(f"{config.name}: resumed at step {progress.step} of {parts.steps}")
        return state, progress
    if config.checkpoint.resume_from:
        with contextlib.closing(Checkpoints(config.checkpoint.resume_from, config.checkpoint, own=False)) as other:
            if other.latest_step() is None:
                raise CheckpointError(
                    "checkpoint.resume_from", config.checkpoint.resume_from, "a run folder with a checkpoint in it"
                )
            state, progress = other.restore(parts.abstract_state)
        if progress.step >= parts.steps:
            done = f"more than the {progress.step} that are done in {config.checkpoint.resume_from}"
            raise ConfigError("steps", parts.steps, done, "They are counted from the start of that run.")
        log_info(f"{config.name}: goes on from step {progress.step} of {config.checkpoint.resume_from}")
        return state, progress
    return parts.new_state(read_pretrained(config)), Progress()


def _steps(
    parts: RunSetup,
    examples: Dataset,
    run: RunFolder,
    checkpoints: Checkpoints,
    notice: Notice,
    state: TrainState,
    progress: Progress,
) -> TrainState:
    """The steps from `progress` (kept up to date in place) to the last one, with a checkpoint at the end."""
    config, steps, start, folder = parts.config, parts.steps, progress.step, run.files
    names, text = sorted(parts.abstract_state.params), config_to_json(config)
    devices = list(parts.mesh.devices.flat)
    peak = peak_flops(devices)
    clocks = Timers(config.batch_size, count_chips(devices), model_flops(parts) / peak if peak else None)
    writers = open_writers(
        folder,
        total_steps=steps,
        resume_step=start,
        evaluated=progress.evaluated,
        seconds_left=lambda step: clocks.seconds_left(steps - step),
        enabled=jax.process_index() == 0,
        wandb=wandb_writer(config, folder),
    )
    if config.optimizer.ema is not None:
        log_info(f"{config.name}: evaluations look at the moving average of the model, decay {config.optimizer.ema}")
    profiler = Profiler(folder / PROFILE, config.log.profile)
    count_compilations()
    batches = train_batches(examples, config, progress.data_position, process_rows(parts.mesh, config.batch_size))
    batches = TimedBatches(batches, config.faults.data_timeout, folder)
    scores: dict[str, float] = {}

    def write(step: int, values: dict[str, float]) -> None:
        skipped = {"skipped_updates": progress.skipped} if progress.skipped else {}
        machine = memory_in_use(jax.local_devices()) | {"compilations": count_compilations()}
        writers.write(step, values | skipped | clocks.read() | machine)
        with log_save_errors(folder, step):
            checkpoints.check()

    def judge(late: Pending, metrics: dict) -> None:
        apply_policy(config, progress, late.step, late.data_position, metrics, names, late.batch, folder)

    late = DeferredMetrics(write, judge)

    def settle() -> None:
        if late.settle():
            progress.skipped_in_a_row = 0

    def save() -> None:
        settle()
        # Lines up to here are on the disk before the checkpoint is, so a resumed file has no gap.
        if any(allgather_text(JSONL, "" if writers.flush() and run.push() else FULL)):
            raise SaveError(JSONL, "lines that wait", "all lines on the disk before a checkpoint is", FULL)
        with clocks.measure("checkpoint"):
            checkpoints.save(state, progress, text, scores)

    def evaluate_now() -> dict[str, float]:
        with clocks.measure("evaluation"), notice.interrupts():
            found = dict(evaluate_state(parts, state)[0].metrics)
        ranked_by = config.checkpoint.metric
        if ranked_by is not None and ranked_by not in found:
            fix = did_you_mean(ranked_by, found)
            raise ConfigError("checkpoint.metric", ranked_by, "a metric of the evaluation", fix)
        writers.write(progress.step, {f"eval/{name}": value for name, value in found.items()})
        return found

    with contextlib.closing(writers), contextlib.closing(batches), contextlib.closing(profiler):
        if not progress.evaluated:
            scores, progress.evaluated = evaluate_now(), True

        for step in range(start, steps):
            # Save.
            stop = notice.reached(step, checkpoints.reached_preemption)
            if step > start and (stop or step % config.checkpoint.every == 0):
                with log_save_errors(folder, step):
                    save()
            scores = {}  # those of another step say nothing of the next checkpoint
            if stop:
                with log_save_errors(folder, step):
                    checkpoints.wait()
                log_event(folder, "stopped from outside", step=step)
                raise Preempted

            # Batch.
            with clocks.measure("data_wait"):
                host_batch = next(batches)
            # While the step before is still computed, so there are two batches on the devices.
            batch = to_global({name: host_batch[name] for name in parts.abstract_batch}, parts.mesh)

            # Step.
            with clocks.measure("compile" if step == start else "step"), profiler.step(step + 1):
                state, metrics = parts.train_step(state, batch)
                if step == start:
                    jax.block_until_ready(metrics)
            clocks.step()
            profiler.end_of_step(metrics)
            position = progress.data_position
            progress.step, progress.data_position = step + 1, position + config.batch_size

            # Log.
            settle()
            log = (step + 1) % config.log.every == 0 or step + 1 == steps
            late.defer(Pending(step + 1, position, metrics, host_batch, log))

            # Evaluate.
            if _evaluates(config.eval, step + 1, steps):
                settle()
                progress.evaluated = False
                try:
                    scores, progress.evaluated = evaluate_now(), True
                except Preempted:
                    with log_save_errors(folder, progress.step):
                        save()
                        checkpoints.wait()
                    log_event(folder, "stopped from outside", step=progress.step)
                    raise

        with log_save_errors(folder, steps):
            checkpoints.wait()  # an earlier failure is not this one's
        save()
    return state


def _evaluates(options, step: int, steps: int) -> bool:
    """Whether an evaluation is due after `step`; the last step's is the final one."""
    return options.suite != "none" and bool(options.every) and step % options.every == 0 and step < steps


def _finish(parts: RunSetup, examples: Dataset, run: RunFolder, notice: Notice, state: TrainState) -> dict[str, float]:
    """The final evaluation and the report."""
    config, steps, first_process, folder = parts.config, parts.steps, jax.process_index() == 0, run.files
    if examples.skipped:
        print(f"{config.name}: {examples.skipped} broken records were skipped{name_of_process()}.")
    scores: dict[str, float] = {}
    if config.eval.suite != "none":
        with notice.interrupts():
            result, store = evaluate_state(parts, state)
            scores = dict(result.metrics)
            write_snapshot(folder / SNAPSHOT, parts, state, store)
            if first_process:
                save_examples(folder / EXAMPLES, result.examples)
            measured = suite_baselines(folder, store)
            if first_process:
                save_facts(folder / FACTS, result, measured)
    if first_process:
        lines = read_jsonl(folder / JSONL)
        if not any(name.startswith("eval/") for line in lines if line["step"] == steps for name in line) and scores:
            wandb = wandb_writer(config, folder)
            with contextlib.closing(open_writers(folder, total_steps=steps, resume_step=steps, wandb=wandb)) as writers:
                writers.write(steps, {f"eval/{name}": value for name, value in scores.items()})
        write_report([folder], folder / REPORT)
        # The last file: it says that the run is finished.
        atomic_write(folder / EVALUATION, lambda partial: partial.write_text(json.dumps(scores, indent=2)))
        print(f"{config.name}: finished at step {steps}. Report: {run.place / REPORT}")
    barrier("the end of the run")
    return scores
