"""The loop, top to bottom: build, restore, for every step save, batch, step, log, evaluate; then a report."""

import json
import math
import pathlib

import jax

from xsample_jax.assemble import assemble
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import config_from_json, config_to_json, diff_configs
from xsample_jax.data.pipeline import train_batches
from xsample_jax.errors import CheckpointError, DivergedError
from xsample_jax.evals.intervals import save_examples
from xsample_jax.evals.run import evaluate, write_snapshot
from xsample_jax.mesh import connect, fetch_scalars, process_rows, to_global
from xsample_jax.metrics.clocks import Clocks
from xsample_jax.metrics.compilations import count_compilations
from xsample_jax.metrics.flops import model_flops
from xsample_jax.metrics.hardware import count_chips, memory_in_use, peak_flops
from xsample_jax.metrics.profile import Profiler
from xsample_jax.metrics.wandb_writer import wandb_writer
from xsample_jax.metrics.writers import JSONL, open_writers, read_jsonl
from xsample_jax.processes import barrier, check_shared, name_of_process, say
from xsample_jax.tools.report import write_report

CONFIG, EVALUATION, EXAMPLES, SNAPSHOT, REPORT, PROFILE = (
    "config.json",
    "evaluation.json",
    "evaluation.npz",
    "report_data.npz",
    "report.html",
    "profile",
)


def train(config, workdir: str | pathlib.Path) -> dict[str, float]:
    """Trains and evaluates what `config` describes and returns the final metrics of the evaluation.

    Called again with the same folder it resumes from the newest checkpoint with the very same batches, and when the
    run is finished it says so and returns its metrics.

    Raises ConfigError, DataError or CheckpointError on bad input; CheckpointError when the folder holds another run;
    DivergedError when the loss is not finite any more.
    """
    folder = pathlib.Path(workdir)
    first_process = jax.process_index() == 0

    # Build.
    check_same_run(config, folder)
    check_shared(folder)  # also: nothing is written before all processes have looked
    parts, examples = assemble(config)
    connect(parts.mesh)
    steps, batch_size = parts.steps, config.batch_size
    if first_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(config_to_json(config))
    if (folder / EVALUATION).exists():
        say(f"{config.name}: finished at step {steps}. Its report: {folder / REPORT}")
        return json.loads((folder / EVALUATION).read_text())

    # Restore: this run's own checkpoint, another run's, or a new state.
    checkpoints = Checkpoints(folder, config.checkpoint)
    start = checkpoints.latest_step() or 0
    if start:
        state, meta = checkpoints.restore(parts.abstract_state)
        say(f"{config.name}: resumed at step {start} of {steps}")
        position = meta["data_position"]
    elif config.checkpoint.resume_from:
        other = Checkpoints(config.checkpoint.resume_from, config.checkpoint)
        if other.latest_step() is None:
            raise CheckpointError(
                "checkpoint.resume_from", config.checkpoint.resume_from, "a run folder with a checkpoint in it"
            )
        state, meta = other.restore(parts.abstract_state)
        other.close()
        start, position = int(state.step), meta["data_position"]
    else:
        state, position = parts.new_state(), 0

    devices = list(parts.mesh.devices.flat)
    peak = peak_flops(devices)
    clocks = Clocks(batch_size, count_chips(devices), model_flops(parts) / peak if peak else None)
    writers = open_writers(
        folder,
        total_steps=steps,
        resume_step=start,
        seconds_left=lambda step: clocks.seconds_left(steps - step),
        enabled=first_process,
        wandb=wandb_writer(config, folder),
    )
    if config.optimizer.ema is not None and first_process:
        print(f"{config.name}: evaluations look at the moving average of the model, decay {config.optimizer.ema}")
    profiler = Profiler(folder / PROFILE, config.log.profile)
    count_compilations()
    batches = train_batches(examples, config, position, process_rows(parts.mesh, batch_size))
    text = config_to_json(config)
    pending: tuple[int, dict] | None = None  # metrics are fetched one step late, so that the device never waits
    scores: dict[str, float] = {}

    def log_pending() -> None:
        nonlocal pending
        if pending is not None:
            step, metrics = pending
            values = fetch_scalars(metrics)
            machine = memory_in_use(jax.local_devices()) | {"compilations": count_compilations()}
            writers.write(step, values | clocks.read() | machine)
            pending = None
            if not math.isfinite(values["loss"]):
                checkpoints.wait()
                raise DivergedError(
                    f"loss at step {step}",
                    values["loss"],
                    "a finite number",
                    f"Lower --config.optimizer.learning_rate (it was {float(parts.optimizer[1](step - 1)):.3g}) or set "
                    f"--config.optimizer.clip_norm=1. Checkpoints up to here are kept in {folder}.",
                )

    for step in range(start, steps):
        # Save. Lines up to here are on the disk before the checkpoint is, so a resumed file has no gap.
        if step > start and step % config.checkpoint.every == 0:
            log_pending()
            with clocks.measure("checkpoint"):
                checkpoints.save(state, step, step * batch_size, text, scores)
                scores = {}

        # Batch.
        with clocks.measure("data_wait"):
            batch = to_global(_entries(next(batches), parts), parts.mesh)

        # Step.
        with clocks.measure("compile" if step == start else "step"), profiler.step(step + 1):
            state, metrics = parts.train_step(state, batch)
            if step == start:
                jax.block_until_ready(metrics)
        clocks.step()
        profiler.end_of_step(metrics)

        # Log.
        log_pending()
        if (step + 1) % config.log.every == 0 or step + 1 == steps:
            pending = step + 1, metrics

        # Evaluate.
        if (
            config.eval.suite != "none"
            and config.eval.every
            and (step + 1) % config.eval.every == 0
            and step + 1 < steps
        ):
            log_pending()
            with clocks.measure("evaluation"):
                scores = dict(evaluate(parts, state)[0].metrics)
                writers.write(step + 1, {f"eval/{name}": value for name, value in scores.items()})

    log_pending()
    profiler.close()
    if start < steps:
        checkpoints.save(state, steps, steps * batch_size, text, scores)
    batches.close()
    checkpoints.wait()
    if examples.skipped:
        print(f"{config.name}: {examples.skipped} broken records were skipped{name_of_process()}.")
    if config.eval.suite != "none":
        scores = _final_evaluation(parts, state, folder, writers)
    if first_process:
        partial = folder / (EVALUATION + ".partial")
        partial.write_text(json.dumps(scores, indent=2))
        partial.replace(folder / EVALUATION)
    writers.close()
    checkpoints.close()
    if first_process:
        write_report([folder], folder / REPORT)
        print(f"{config.name}: finished at step {steps}. Report: {folder / REPORT}")
    barrier("the end of the run")
    return scores


def check_same_run(config, folder: pathlib.Path) -> None:
    """Raises CheckpointError when the folder holds a run with another config; it lists the keys that differ."""
    path = folder / CONFIG
    if not path.exists():
        return
    differing = diff_configs(config_from_json(path.read_text()), config)
    if differing:
        changes = "; ".join(f"{key} was {old!r}, is now {new!r}" for key, (old, new) in differing.items())
        raise CheckpointError(
            "--workdir",
            str(folder),
            f"the folder of a run with this very config ({changes})",
            "Use another folder, or the config that the run was started with.",
        )


def _entries(batch: dict, parts) -> dict:
    return {name: batch[name] for name in parts.abstract_batch}


def _final_evaluation(parts, state, folder: pathlib.Path, writers) -> dict[str, float]:
    result, store = evaluate(parts, state)
    scores = dict(result.metrics)
    write_snapshot(folder / SNAPSHOT, parts, state, store)
    if jax.process_index() == 0:
        save_examples(folder / EXAMPLES, result.examples)
        lines = read_jsonl(folder / JSONL)
        if not any(name.startswith("eval/") for line in lines if line["step"] == parts.steps for name in line):
            writers.write(parts.steps, {f"eval/{name}": value for name, value in scores.items()})
    return scores
