"""The train loop: build, restore or initialize; for every step a batch, an update and hooks; at the end a report."""

import collections
import contextlib
import dataclasses
import importlib.util
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping

import jax

from xsample_jax.checkpoint import (
    Checkpoints,
    check_side_files,
    other_data,
    recorded_images,
    started_config,
    trained_config,
)
from xsample_jax.config import load_config, resolve
from xsample_jax.config.saved import changed_keys, check_shared, differing_keys, save_config
from xsample_jax.data.dataset import Dataset, train_batches
from xsample_jax.data.plans import check_position
from xsample_jax.distributed import barrier, log_info, name_of_process
from xsample_jax.encoder import read_initial
from xsample_jax.errors import CheckpointError, ConfigError
from xsample_jax.evals.baselines import suite_baselines
from xsample_jax.evals.catalog import HEADLINES, better_side, describe, read_scores, save_facts
from xsample_jax.evals.classifier import with_forgetting
from xsample_jax.evals.evaluate import evaluate_state, write_snapshot
from xsample_jax.evals.metrics import save_examples
from xsample_jax.evals.registry import check_metric_names
from xsample_jax.faults.non_finite import RollBack
from xsample_jax.faults.preemption import Notice, Preempted, preemption_notice
from xsample_jax.faults.watchdog import TimedBatches, log_save_errors
from xsample_jax.hooks import Evaluate, LogMetrics, SaveAndStop, Training
from xsample_jax.io.checkpoint_files import classes_of, find_checkpoint
from xsample_jax.io.code_version import log_code
from xsample_jax.io.console import say
from xsample_jax.io.files import EVALUATION, EXAMPLES, FACTS, JSONL, PROFILE, REPORT, SNAPSHOT, atomic_write, set_aside
from xsample_jax.io.paths import absolute, file_size
from xsample_jax.io.run_dir import CONTINUES, RunFolder, log_event, open_run_folder
from xsample_jax.metrics.jsonl import JsonlWriter, plain_number, read_jsonl
from xsample_jax.metrics.profiling import Profiler, Timers, count_chips, count_compilations, model_flops, peak_flops
from xsample_jax.metrics.progress_bar import ProgressLine
from xsample_jax.metrics.writers import FanOut, check_writers, more_writers, open_writers
from xsample_jax.objectives.learned_state import IMAGE, without_labels
from xsample_jax.prepare.prepare import prepare_folder
from xsample_jax.reports.generated_images import WatchGenerator
from xsample_jax.reports.report import write_report
from xsample_jax.setup import RunSetup, build_run, check_device_memory
from xsample_jax.sharding import ROWS_OF_ALL, process_rows, to_global, warm_up_collectives
from xsample_jax.state import Progress, TrainState
from xsample_jax.weights.families import ENCODER


def train(
    config, workdir: str | pathlib.Path, allow_config_change: bool = False, on_log: Callable | None = None
) -> dict[str, float]:
    """Trains and evaluates what `config` describes and returns the final metrics of the evaluation.

    Args:
      config: a ConfigDict, checked or not, or the name of a config file, as "configs/quickstart.py:smoke".
      workdir: the run folder.
      allow_config_change: continue a run of another config, or on other images, in this folder.
      on_log: called with (step, {metric: value}) for every line of metrics, on the first process; those of evaluations
        are `eval/NAME`. An OSError that it raises is logged, and the line is kept for the next call.

    Called again with the same folder it resumes from the newest checkpoint with the same batches, and when the
    run is finished it says so and returns its metrics. docs/training.md says what happens when something goes wrong.

    Raises ConfigError, DataError or CheckpointError on bad input; CheckpointError when the folder holds another run
    or one on other images (unless `allow_config_change`) or is in use; DivergedError, SaveError or StalledError when
    the run breaks; Preempted when it was asked to stop and has saved.
    """
    config = prepare_folder(load_config(config) if isinstance(config, str) else resolve(config))
    _check_before(config, workdir)
    first_process = jax.process_index() == 0
    with open_run_folder(workdir, first_process) as run, preemption_notice(config.faults.grace) as notice:
        folder = run.files
        _say_start(config, run)
        changes = changed_keys(config, started_config(run), run.place, allow_config_change)
        check_shared(run.place)  # also a barrier: no process writes until all have read the folder
        finished = read_scores(folder / EVALUATION)
        if finished is not None and not changes and not other_data(config, run):
            log_info(f"{config.name}: finished. Its report: {run.place / REPORT}")
            _say_results(config, run, finished)
            return finished
        _check_before(config)
        setup, dataset = build_run(config)
        check_device_memory(setup)
        check_side_files(config, folder, allow_config_change)
        warm_up_collectives(setup.mesh)

        # Restore, and train; a roll-back restores once more.
        with contextlib.closing(_open_checkpoints(config, run)) as checkpoints:
            setup, state, progress = _restore(setup, checkpoints, allow_config_change, run)
            _say_size(setup)
            _say_per_image(setup)
            if first_process:
                _record_start(config, folder, changes, finished, progress.step)
            while progress.step < setup.steps and not progress.stopped:
                behind, training = None, _open_training(setup, run, checkpoints, notice, progress, on_log)
                try:
                    state = _run_steps(training, dataset, state)
                except RollBack as bad:
                    behind = bad.data_position
                if behind is not None:  # out of the `except`, which would keep the bad state beside the good one
                    with log_save_errors(folder, progress.step):
                        checkpoints.wait()
                    rollbacks = progress.rollbacks + 1
                    setup, state, progress = _restore(setup, checkpoints, allow_config_change, run)
                    progress.data_position, progress.rollbacks = behind, rollbacks
            checkpoints.wait()
            return _finish(setup, progress, run, notice, state, on_log)


def _check_before(config, workdir: str | pathlib.Path | None = None) -> None:
    """Raises ConfigError for what the run would stumble over later: its writers, its map, the metrics of its rules.

    Not yet where `workdir` has results: a finished run returns them, whatever was added to the rules since.
    """
    with contextlib.suppress(Exception):  # of disks and stores: said where the folder is opened
        if workdir is not None and file_size(absolute(workdir) / EVALUATION) is not None:
            return
    check_writers(config)
    check_map(config.eval.map)
    check_metric_names(config)


def _open_checkpoints(config, run: RunFolder) -> Checkpoints:
    better = better_side(config.checkpoint.metric)
    return Checkpoints(run.place, config.checkpoint, history=run.files, better=better)


def check_map(kind: str) -> None:
    """Raises ConfigError where UMAP is wanted and not installed: before a run, whose last step it is."""
    if kind == "umap" and importlib.util.find_spec("umap") is None:
        fix = "Install it with pip install 'xsample_jax[umap]', or set --config.eval.map=pca."
        raise ConfigError("eval.map", kind, "the package umap-learn, or pca", fix)


def _record_start(config, folder: pathlib.Path, changes: dict, finished: dict | None, step: int) -> None:
    """Writes what the run folder says of a run that continues from `step`; `finished`: metrics of a finished run."""
    for name in (EVALUATION, EXAMPLES, FACTS, SNAPSHOT):  # of a final evaluation, which is not that of this run now
        path = folder / name
        if os.path.lexists(path):
            damaged = path.is_dir() or (name == EVALUATION and finished is None)
            set_aside(path) if damaged else path.unlink()
    save_config(config, folder, changes)
    log_code(folder, step)


def _restore(
    setup: RunSetup, checkpoints: Checkpoints, allow_change: bool, run: RunFolder
) -> tuple[RunSetup, TrainState, Progress]:
    """This run's own newest checkpoint, else that of another run, else a new state (with a pretrained encoder).

    What differs from the config inside the checkpoint is a change, however often it was started since. With another
    batch_size the epochs that are left are counted from the position in the data, so the setup that is returned may
    have other steps. allow_change: whether the images may be others, too.
    """
    config, folder = setup.config, run.files
    if checkpoints.latest_step() is not None:
        state, progress = checkpoints.restore(setup.abstract_state, config)
        setup.check_frozen(state)
        state = _take_classes(setup, progress, state)
        _take_images(setup, progress, allow_change, folder)
        check_position(config, progress.step, progress.data_position)
        changes = differing_keys(config, trained_config(run.place, progress.step))
        progress.stopped &= not changes
        if "batch_size" in changes or "epochs" in changes:
            progress.counted_from = (progress.step, progress.data_position)
        setup = dataclasses.replace(setup, counted_from=tuple(progress.counted_from))
        if progress.step > setup.steps:
            raise ConfigError(
                "steps", setup.steps, f"at least the {progress.step} that are done", "Use another folder."
            )
        log_info(f"{config.name}: resumed at step {progress.step} of {setup.steps}")
        return setup, state, progress
    checkpoints.check_new()
    if config.checkpoint.resume_from:
        with contextlib.closing(Checkpoints(config.checkpoint.resume_from, config.checkpoint, own=False)) as other:
            if other.latest_step() is None:
                raise CheckpointError(
                    "checkpoint.resume_from", config.checkpoint.resume_from, "a run folder with a checkpoint in it"
                )
            state, progress = other.restore(setup.abstract_state, config)
            setup.check_frozen(state)
        state = _take_classes(setup, progress, state)
        _take_images(setup, progress, True, folder)  # a run that starts from another one may use other data
        check_position(config, progress.step, progress.data_position)
        progress.counted_from, progress.stopped = (progress.step, progress.data_position), False
        setup = dataclasses.replace(setup, counted_from=progress.counted_from)
        if progress.step >= setup.steps:
            done = f"more than the {progress.step} that are done in {config.checkpoint.resume_from}"
            raise ConfigError("steps", setup.steps, done, "They are counted from the start of that run.")
        log_info(f"{config.name}: continuing from step {progress.step} of {config.checkpoint.resume_from}")
        log_event(folder, CONTINUES, step=progress.step, run=str(config.checkpoint.resume_from))
        return setup, state, progress
    wanted = setup.abstract_state.params | setup.abstract_state.statistics
    initial = read_initial(config, wanted)
    progress = Progress(images=setup.facts.images, classes=setup.facts.class_names)
    if config.model.init_whole:
        _take_classes(setup, Progress(classes=classes_of(*find_checkpoint(config.model.init_from))))
    return setup, setup.new_state(initial), progress


def _take_images(setup: RunSetup, progress: Progress, allow: bool, folder: pathlib.Path) -> None:
    """Makes the images of this run those of the progress; CheckpointError for others, unless `allow`: then logged.

    What was allowed once, at the very checkpoint, stays allowed when the run is started again.
    """
    before, now = progress.images, setup.facts.images
    allowed = recorded_images(folder) == (progress.step, before, now)
    if setup.check_images(progress, allow or allowed):
        say(f"warning: trained on images {before} so far, now on {now}", error=True)
        if not allowed:
            log_event(folder, "other images", step=progress.step, before=before, now=now)
    progress.images = now


def _take_classes(setup: RunSetup, progress: Progress, state: TrainState | None = None) -> TrainState | None:
    """Makes the class names those of this run; CheckpointError for others where a part of the state is by class.

    state: that of the progress, None: only its parameters are taken. It is returned, and its queue then has no labels.
    """
    before, now = progress.classes, setup.facts.class_names
    progress.classes = now
    if not before or not now or before == now:
        return state
    more = dataclasses.replace(setup, facts=dataclasses.replace(setup.facts, classes=setup.facts.classes + 1))
    with_one_more = jax.eval_shape(more.init, pretrained=None)
    for part in ("params",) if state is None else ("params", "memory"):
        arrays, others = getattr(setup.abstract_state, part), getattr(with_one_more, part)
        by_class = next((name for name, leaf in arrays.items() if leaf.shape != others[name].shape), None)
        if by_class is not None:
            at, old, new = next(
                (at, *names) for at, names in enumerate(itertools.zip_longest(before, now)) if len(set(names)) > 1
            )
            raise CheckpointError(
                f"name of class {at}",
                new,
                f"{old!r}, as when the checkpoint was written: {by_class} has rows by the number of the class",
                "Prepare the set with the earlier class names, in their order (--class_names), or use another folder.",
            )
    return state and dataclasses.replace(state, memory=without_labels(state.memory))


# What a run tells a person, in the first process only: what it is, how large it is, what came out, and how to use that.


def _say_start(config, run: RunFolder) -> None:
    """Before anything takes time: which config, on which devices, in which folder, and where to look."""
    kinds = collections.Counter(device.device_kind for device in jax.devices())
    devices = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    log_info(f"{config.name}: {config.objective.preset}, {config.model.encoder}, on {devices}")
    log_info(f"{config.name}: folder {run.place} (to look in: tensorboard --logdir={run.place})")


def _say_size(setup: RunSetup) -> None:
    """Once the data is open and the shapes are known. The first step compiles, which is silent."""
    config, params = setup.config, setup.abstract_state.params
    encoder = _count({path: leaf for path, leaf in params.items() if path.startswith(ENCODER)})
    log_info(f"{config.name}: {encoder:,} parameters in the encoder, {_count(params):,} in all")
    log_info(
        f"{config.name}: {setup.facts.count:,} records of split {config.data.split}, {setup.steps:,} steps of "
        f"{config.batch_size:,} images; the first step compiles"
    )


LEAST_TOLD = 0.01  # GiB


def _say_per_image(setup: RunSetup) -> None:
    """What the objective keeps for every image of the split, where that is much."""
    kept = [leaf for name, leaf in setup.abstract_state.memory.items() if name.startswith((ROWS_OF_ALL, IMAGE))]
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in kept) / 2**30
    if size >= LEAST_TOLD:
        split = f", split over {setup.mesh.size} devices" if setup.mesh.size > 1 else ""
        log_info(f"{setup.config.name}: the objective keeps {size:,.2f} GiB for the images of the split{split}")


def _count(params: Mapping) -> int:
    return sum(math.prod(leaf.shape) for leaf in params.values())


def _say_results(config, run: RunFolder, scores: Mapping[str, float], most: int = 4) -> None:
    """The headline metrics of the final evaluation, or its first ones where none is a headline; how to load it."""
    names = [name for name in HEADLINES if name in scores] or list(scores)
    shown = [
        f"{metric.title} {scores[metric.name] * (100 if metric.percent else 1):.3g}{'%' * metric.percent}"
        for metric in map(describe, names[:most])
    ]
    if shown:
        log_info(f"{config.name}: {'; '.join(shown)}")
    log_info(f'{config.name}: use it: xsample_jax.load_encoder("{run.place}").encode(images)')


def _run_steps(training: Training, dataset: Dataset, state: TrainState) -> TrainState:
    """The steps from `training.progress` (updated in place) to the last one, with a checkpoint at the end."""
    setup, run, progress = training.setup, training.run, training.progress
    config, start = setup.config, progress.step
    timers, log = training.timers, LogMetrics(training)
    evaluate = Evaluate(training, log)
    save = SaveAndStop(training, log, evaluate)
    # A checkpoint is ranked by the scores of its own step, so it is saved before they are forgotten; metrics are
    # deferred before an evaluation, which flushes them.
    hooks = [save, log, evaluate]
    if setup.adversary is not None and setup.adversary.generators:
        hooks.append(WatchGenerator(training, log))

    profiler = Profiler(run.files / PROFILE, config.log.profile)
    rows = process_rows(setup.mesh, config.batch_size)
    batches = train_batches(dataset, config, progress.data_position, rows)
    batches = TimedBatches(batches, config.faults.data_timeout, run.files)
    with contextlib.closing(training.writers), contextlib.closing(batches), contextlib.closing(profiler):
        if not progress.evaluated:
            evaluate.run(state)
        for step in range(start, setup.steps):
            if evaluate.out_of_patience:
                _stop_early(training, step)
            if evaluate.out_of_patience or progress.stopped:
                break
            for hook in hooks:
                hook.before_step(state)

            with timers.measure("data_wait"):
                host_batch = next(batches)
            # Transferred while the previous step runs, so two batches are resident.
            batch = to_global({name: host_batch[name] for name in setup.abstract_batch}, setup.mesh)

            with timers.measure("compile" if step == start else "step"), profiler.step(step + 1):
                state, metrics = setup.train_step(state, batch)
                if step == start:
                    jax.block_until_ready(metrics)
            timers.step()
            profiler.end_of_step(metrics)
            progress.step, progress.data_position = step + 1, progress.data_position + config.batch_size

            try:
                for hook in hooks:
                    hook.after_step(state, metrics, host_batch)
            except Preempted:  # during an evaluation, which a resumed run repeats
                save.save_and_stop(state)

        with log_save_errors(run.files, setup.steps):
            training.checkpoints.wait()  # surface earlier asynchronous errors before the final save
        if progress.step > start:
            save.save(state)
    if dataset.skipped:
        say(f"{config.name}: {dataset.skipped} broken records were skipped{name_of_process()}.")
    return state


def _stop_early(training: Training, step: int) -> None:
    """Makes `step` the last of the run: no evaluation was the best for `eval.patience` of them (eval.patience)."""
    training.setup.end_at(step)
    log_event(training.run.files, "stopped early", step=step)
    config = training.setup.config
    say = f"no better {config.checkpoint.metric} in {config.eval.patience} evaluations: it stops at step {step}"
    log_info(f"{config.name}: {say}")


def _open_training(
    setup: RunSetup,
    run: RunFolder,
    checkpoints: Checkpoints,
    notice: Notice,
    progress: Progress,
    on_log: Callable | None,
) -> Training:
    """The clocks and writers of the steps to come, with what else their hooks share."""
    config, steps, devices = setup.config, setup.steps, list(setup.mesh.devices.flat)
    peak = peak_flops(devices)
    timers = Timers(config.batch_size, count_chips(devices), model_flops(setup) / peak if peak else None)
    writers = FanOut(())
    if jax.process_index() == 0:
        writers = open_writers(
            run.files,
            ProgressLine(steps, lambda step: timers.seconds_left(steps - step)),
            resume_step=progress.step,
            evaluated=progress.evaluated,
            due=progress.logged,
            more=more_writers(config, run.files, on_log),
        )
    if config.optimizer.ema is not None:
        log_info(f"{config.name}: evaluations use the moving average of the model, decay {config.optimizer.ema}")
    count_compilations()
    return Training(setup, run, checkpoints, notice, writers, timers, progress)


def _finish(
    setup: RunSetup, progress: Progress, run: RunFolder, notice: Notice, state: TrainState, on_log: Callable | None
) -> dict[str, float]:
    """The final evaluation and the report."""
    config, steps, first_process, folder = setup.config, progress.step, jax.process_index() == 0, run.files
    scores: dict[str, float] = {}
    if config.eval.suite != "none":
        with notice.interrupts():
            result, store = evaluate_state(setup, state)
            scores = with_forgetting(result.metrics, progress.best)
            write_snapshot(folder / SNAPSHOT, setup, state, store)
            if first_process:
                save_examples(folder / EXAMPLES, result.examples)
            measured = suite_baselines(folder, store)
            if first_process:
                save_facts(folder / FACTS, result, measured)
    if first_process:
        _log_scores(config, folder, progress, scores, on_log)
        reported = _try_to_report(folder)
        # The last file: it says that the run is finished.
        atomic_write(folder / EVALUATION, lambda partial: partial.write_text(json.dumps(scores, indent=2)))
        log_info(f"{config.name}: finished at step {steps}." + f" Report: {run.place / REPORT}" * reported)
        _say_results(config, run, scores)
    barrier("the end of the run")
    return scores


def _log_scores(
    config, folder: pathlib.Path, progress: Progress, scores: Mapping[str, float], on_log: Callable | None
) -> None:
    """Makes `scores` the evaluation of this step in metrics.jsonl, also where another evaluation of it is there."""
    step = progress.step
    JsonlWriter(folder / JSONL, step, due=progress.logged).close()  # mends what happened to it since
    lines = [line for line in read_jsonl(folder / JSONL) if line["step"] == step]
    logged = {name: plain_number(line[name]) for line in lines for name in line if name.startswith("eval/")}
    found = {f"eval/{name}": plain_number(value) for name, value in scores.items()}
    if found and found != logged:
        more = more_writers(config, folder, on_log)
        writers = open_writers(folder, ProgressLine(step), resume_step=step, evaluated=False, more=more)
        with contextlib.closing(writers):
            writers.write(step, {f"eval/{name}": value for name, value in scores.items()})


def _try_to_report(folder: pathlib.Path) -> bool:
    """Writes report.html; a report that cannot be drawn is a warning, as the run is finished without it."""
    try:
        write_report([folder], folder / REPORT)
    except Exception as error:  # of every family: fonts, images, the disk
        again = f"python -m xsample_jax.tools.report {folder} --out={folder / REPORT}"
        say(f"warning: no report ({type(error).__name__}: {str(error)[:200]}). Once mended: {again}", error=True)
        log_event(folder, "the report was not written", error=f"{type(error).__name__}: {str(error)[:500]}")
        return False
    return True
