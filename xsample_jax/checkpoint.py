"""Checkpoints: state, position in the data, config and metrics in one orbax composite, written in the background."""

import contextlib
import dataclasses
import errno
import itertools
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import ml_collections
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from xsample_jax import __version__
from xsample_jax.config import config_from_json, diff_configs
from xsample_jax.config.renamed import rename_metrics
from xsample_jax.data.side import side_checksums
from xsample_jax.data.sources import fingerprints_of, identify_images
from xsample_jax.distributed import WAIT_LIMIT, allgather_text, name_of_process
from xsample_jax.errors import CheckpointError, ConfigError, RunError, SaveError, UserError, shorten, show
from xsample_jax.io.checkpoint_files import (
    CHECKPOINTS,
    FORMAT,
    OtherVersion,
    check_arrays,
    check_meta,
    checkpoint_place,
    checksums,
    images_of,
    open_reader,
    other_version,
    read_meta,
    steps_of,
    text_checksum,
)
from xsample_jax.io.console import say
from xsample_jax.io.files import CONFIG, EVALUATION, make_folder, set_aside, stop_if_out_of_reach
from xsample_jax.io.paths import absolute, check_run_path, in_bucket, move_tree
from xsample_jax.io.run_dir import RunFolder, log_event, read_history
from xsample_jax.state import Progress, TrainState

FULL = "Is the disk full?"
# Checkpoints that a message names when none can be read; it has room for the reasons of so many.
SHOWN = 3
# Keys of which another value gives the state other arrays, or the same ones in another place.
STRUCTURE = ("precision.", "optimizer.", "model.", "objective.", "eval.online_probe")
DAMAGED = "damaged"


class _Manager(ocp.CheckpointManager):
    """Orbax' manager, but a checkpoint with damaged metrics has none: orbax would not open the folder.

    lose_rank: called with its step and what was raised.
    """

    def __init__(self, lose_rank: Callable[[int, Exception], None], *arguments, **options):
        self._lose_rank = lose_rank
        super().__init__(*arguments, **options)

    def metrics(self, step: int) -> dict:
        try:
            found = super().metrics(step)
            if isinstance(found, dict | None):
                return found or {}
            raise ValueError("no JSON object")
        except (OSError, ValueError, RecursionError) as error:
            self._lose_rank(step, error)
            return {}


class Checkpoints:
    """The checkpoints of one run folder. Keeps the newest `keep_latest` and, with a metric, the best `keep_best`.

    Args:
      folder: the run folder.
      options: config section `checkpoint`.
      own: False for the folder of another run, which is only read.
      history: where history.jsonl is, if not in `folder`.
      better: 1 where a larger value of the metric is better, -1 where a smaller one is.
    """

    def __init__(self, folder: str | Path, options, own: bool = True, history: Path | None = None, better: int = 1):
        self._folder, self._options, self._own, self._better = absolute(folder), options, own, better
        check_run_path(self._folder, "--workdir" if own else "checkpoint.resume_from")
        if not own and not (self._folder / CHECKPOINTS).is_dir():  # opening it would make the folders
            expected = "a run folder with a checkpoint in it"
            raise CheckpointError("checkpoint.resume_from", str(self._folder), expected)
        self._verified = not own
        self._history = self._folder if history is None else history
        self._unranked: set[int] = set()  # checkpoints whose metrics are damaged, once that was said
        self._manager = self._open()

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def check_new(self) -> None:
        """Raises CheckpointError where a run would begin although checkpoints of it were set aside."""
        damaged = self._folder / DAMAGED
        names = sorted(path.name for path in damaged.iterdir()) if self._own and damaged.is_dir() else []
        if names:
            fix = f"Mend one and move it back as {CHECKPOINTS}/STEP, or use another --workdir to begin again."
            expected = f"one checkpoint at least: those of {damaged} ({shorten(', '.join(names), 60)}) were damaged"
            raise CheckpointError(CHECKPOINTS, "none", expected, fix)

    def reached_preemption(self, step: int) -> bool:
        """jax's preemption service: whether all processes are to save before `step`; False where it does not run."""
        return self._manager.reached_preemption(step)

    def save(self, state: TrainState, progress: Progress, config_json: str, metrics: dict | None = None) -> None:
        """Starts writing in the background; the arrays are copied first, so the state may be donated at once.

        Raises SaveError when this write cannot start, or an earlier one failed (then this one is started all the same).
        """
        earlier = self._failure(self._manager.wait_until_finished)
        arrays = _as_dict(state)
        meta = {"format": FORMAT, "config": config_json, "progress": dataclasses.asdict(progress)}
        meta |= {"checksums": checksums(arrays), "version": __version__}
        meta |= {"checksum": text_checksum(meta)}
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), meta=ocp.args.JsonSave(meta))
        now = self._failure(lambda: self._manager.save(progress.step, args=args, metrics=metrics or {}))
        if earlier or now:
            raise earlier or now

    def restore(self, abstract_state: TrainState, config=None) -> tuple[TrainState, Progress]:
        """(state, progress) of the newest checkpoint that is whole, onto the shardings that `abstract_state` carries.

        Newer ones that are damaged are reported and (in a folder of our own) moved to damaged/ beside the checkpoints,
        as the run will write those steps again.

        Raises CheckpointError, naming each, when there is none.
        """
        self._manager.wait_until_finished()
        problems: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            # orbax and tensorstore raise of every family when a file is not what it was.
            found, problem = _tried(lambda step=step: self._restore(abstract_state, step), "reading a checkpoint")
            if not problem:
                if problems:
                    self._report(problems, step)
                return found
            self._check_access(step)
            self._check_version(step)
            self._check_structure(step, abstract_state, config)
            problems[step] = problem
        newest = list(problems.items())[:SHOWN]
        reasons = [f"step {step}: {shorten(problem.rstrip('.'), 160 // len(newest))}" for step, problem in newest]
        raise CheckpointError(
            "checkpoints",
            str(self._manager.directory),
            "; ".join([f"a whole one of this config, but of {len(problems)} none can be read", *reasons]),
            "Use the config of the run (its config.json) or another folder.",
        )

    def check(self) -> None:
        """Raises SaveError when a write in the background has failed since the last call. Does not wait for one.

        With several processes it does nothing: they agree on a failure when they next save or wait.
        """
        # orbax' own check_for_errors says nothing once the thread that finishes a checkpoint has seen the error.
        if jax.process_count() == 1 and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits for the write in the background; SaveError when it failed, or the first checkpoint cannot be read."""
        self._raise(self._failure(self._wait_and_verify))

    def _wait_and_verify(self) -> None:
        self._manager.wait_until_finished()
        step = self._manager.latest_step()
        if step is not None and not self._verified:
            with (
                open_reader() as reader
            ):  # what is saved and not readable is lost: find out at the first, not at the last
                reader.metadata(checkpoint_place(self._folder, step) / "state")
            self._verified = True

    def close(self) -> None:
        with contextlib.suppress(Exception):  # callers that need the checkpoint have called wait()
            self._manager.wait_until_finished()
        with contextlib.suppress(Exception):
            self._manager.close()

    def _open(self) -> ocp.CheckpointManager:
        metric, worst = self._options.metric if self._own else None, float("-inf")

        def rank(metrics: dict) -> float:
            value = rename_metrics(metrics, {}).get(metric)
            # nan compares with nothing: it would displace the best
            return self._better * value if type(value) in (int, float) and math.isfinite(value) else worst

        policies = [checkpoint_managers.LatestN(self._options.keep_latest)]
        if metric and self._options.keep_best:
            best = checkpoint_managers.BestN(get_metric_fn=rank, n=self._options.keep_best)
            policies.append(best)
        # LatestN must be among the policies: orbax' own max_to_keep with a best_fn deletes the newest checkpoint.
        return _Manager(
            self._lose_rank,
            self._folder / CHECKPOINTS,
            item_names=("state", "meta"),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                best_fn=rank if metric else None,
                cleanup_tmp_directories=self._own,  # what a kill or a full disk has left half written
                # How long the others wait for a process that cannot write its part.
                async_options=ocp.options.AsyncOptions(timeout_secs=int(WAIT_LIMIT)),
            ),
        )

    def _restore(self, abstract_state: TrainState, step: int) -> tuple[TrainState, Progress]:
        target = ocp.args.StandardRestore(_as_dict(abstract_state))
        saved = self._manager.restore(step, args=ocp.args.Composite(state=target, meta=ocp.args.JsonRestore()))
        meta = saved["meta"]
        check_meta(meta, f"checkpoint {step}")
        check_arrays(saved["state"], meta, f"checkpoint {step}")
        return TrainState(**saved["state"]), _progress_of(meta, f"checkpoint {step}")

    def _check_access(self, step: int) -> None:
        """Raises RunError where files of a checkpoint cannot be read for now: they are then not damaged, and stay."""
        for path in (
            sorted(Path(os.fspath(checkpoint_place(self._folder, step))).rglob("*")) if self._is_local() else ()
        ):
            try:
                if path.is_file():
                    with path.open("rb") as file:
                        file.read(1)
            except OSError as error:
                stop_if_out_of_reach(path, error)

    def _check_version(self, step: int) -> None:
        """Raises OtherVersion where another version of the code wrote the checkpoint: it is not damaged, and stays."""
        try:
            _progress_of(read_meta(self._folder, step), f"checkpoint {step} of {self._folder}")
        except OtherVersion:
            raise
        except Exception:  # it is damaged
            return

    def _check_structure(self, step: int, abstract_state: TrainState, config) -> None:
        """Raises CheckpointError where a whole checkpoint has other arrays than the state: another config wrote it."""
        try:
            with open_reader() as reader:
                saved = reader.metadata(checkpoint_place(self._folder, step) / "state").tree
            before = trained_config(self._folder, step)
        except Exception:  # it is damaged
            return

        def arrays(tree) -> list[tuple]:
            leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
            return sorted((tuple(leaf.shape), str(leaf.dtype)) for leaf in leaves if hasattr(leaf, "shape"))

        wanted = _as_dict(abstract_state)
        other = [part for part in wanted if arrays(wanted[part]) != arrays(saved.get(part) or {})]
        changed = {} if config is None else diff_configs(before, config)
        if not other and not any(key.startswith(STRUCTURE) for key in changed):
            return
        keys = "; ".join(f"{key} was {show(old)}, is now {show(new)}" for key, (old, new) in changed.items())
        found = f"other arrays in {', '.join(other) or 'opt_state'}"
        expected = f"those of this config ({shorten(keys, 200) or 'another model'})"
        fix = "Go back to the values the run was started with, or use another --workdir."
        raise CheckpointError(f"checkpoint {step} of {self._folder}", found, expected, fix)

    def _is_local(self) -> bool:
        return not in_bucket(self._folder)

    def _report(self, problems: dict[int, str], good: int) -> None:
        for step, problem in problems.items():
            say(f"warning: checkpoint {step} is damaged, going back to {good}: {problem[:500]}", error=True)
        self._set_aside(problems)
        self._manager.reload()

    def _set_aside(self, problems: dict[int, str]) -> None:
        """Moves damaged checkpoints of our own out of orbax' sight, so that the run can write those steps again."""
        if not self._own:
            return
        # All processes wait here: none reads the folder before the files have moved.
        _, problem = _tried(lambda: self._move(problems), "moving a damaged checkpoint")
        if problem:
            expected = f"a folder {self._folder / DAMAGED} that it can be moved to"
            raise RunError("moving a damaged checkpoint", problem, expected, "Make room, or grant the right to write.")

    def _move(self, problems: dict[int, str]) -> None:
        damaged = self._folder / DAMAGED
        for step, problem in problems.items() if jax.process_index() == 0 else ():
            taken = {path.name for path in damaged.glob("*")}  # (a folder of a bucket is there with its first file)
            target = next(damaged / f"{step}-{n}" for n in itertools.count() if f"{step}-{n}" not in taken)
            if self._is_local():
                make_folder(damaged)
            move_tree(self._folder / CHECKPOINTS / str(step), target)
            log_event(
                self._history, "a damaged checkpoint was set aside", step=step, moved=target, problem=problem[:500]
            )

    def _lose_rank(self, step: int, error: Exception) -> None:
        """Says that the metrics of a checkpoint are damaged; RunError where they cannot be read for now."""
        if self._own:
            stop_if_out_of_reach(checkpoint_place(self._folder, step) / "metrics", error)
        if self._own and step not in self._unranked:
            self._unranked.add(step)
            found = str(error)[:200]
            say(f"warning: the metrics of checkpoint {step} are damaged ({found}): it has no rank now", error=True)
            log_event(self._history, "metrics of a checkpoint are damaged", step=step, problem=found)

    def _failure(self, write: Callable[[], object]) -> SaveError | None:
        """The error of a write in any process. All then replace their managers: one that has failed keeps failing."""
        _, problem = _tried(write, "writing a checkpoint")
        if not problem:
            return None
        with contextlib.suppress(Exception):
            self._manager.close()
        self._manager = self._open()
        return SaveError("checkpoint write", problem[:1000], "a write that succeeds", FULL)

    @staticmethod
    def _raise(error: SaveError | None) -> None:
        if error:
            raise error


def _cause(text: str) -> str:
    """What a library says of an error, with the operating system's words for it first: they are in its middle."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE)
    found = next((words for words in map(os.strerror, codes) if words in text), "")
    return f"{found}: {text}" if found else text


def _tried(work: Callable[[], object], what: str) -> tuple[object, str]:
    """(what `work` returns, "") where it succeeds in all processes; else (None, what was raised, and where)."""
    found, problem = None, ""
    try:
        found = work()
    except Exception as error:
        while isinstance(error, jax.errors.JaxRuntimeError) and error.__context__ is not None:
            error = error.__context__  # that the processes have not met is what follows from it
        problem = _cause(str(error) or type(error).__name__)[:400] + name_of_process()
    problems = [text for text in allgather_text(what, problem) if text]
    return (None, "; ".join(problems)) if problems else (found, "")


def _progress_of(meta: Mapping, where: str) -> Progress:
    """The progress that a checkpoint was saved with; OtherVersion where it has fields that are not known here."""
    unknown = meta["progress"].keys() - {field.name for field in dataclasses.fields(Progress)}
    if unknown:
        raise other_version(f"progress with {', '.join(sorted(unknown))}", meta, where)
    return Progress(**meta["progress"])


def _as_dict(state: TrainState) -> dict:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def with_shardings(abstract_state: TrainState, shardings) -> TrainState:
    """Shapes and dtypes that also say where each array goes."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract_state,
        shardings,
    )


# The config and the data that belong to a checkpoint and to a run folder.


def trained_config(run: Path, step: int) -> ml_collections.ConfigDict:
    """The config that the run had when it wrote the checkpoint; CheckpointError for a damaged or foreign file."""
    return config_from_json(read_meta(run, step)["config"])


def started_config(run: RunFolder) -> ml_collections.ConfigDict | None:
    """The config that a run folder belongs to; None where nothing was trained in it yet.

    config.json says so, or the newest checkpoint where that file is gone or damaged (then it is set aside).
    """
    path, steps = run.files / CONFIG, steps_of(run.place)
    if not steps and not (run.files / EVALUATION).exists():
        return None  # a first start that failed before a checkpoint does not count
    if os.path.lexists(path):
        try:
            return config_from_json(path.read_text())
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            stop_if_out_of_reach(path, error)
            if not steps:
                raise CheckpointError(str(path), str(error)[:100], "the config of the run", "Restore it.") from error
            if jax.process_index() == 0:
                aside = set_aside(path)
                say(f"warning: {path} is damaged ({str(error)[:100]}); it is {aside.name} now", error=True)
    for step in reversed(steps):
        with contextlib.suppress(CheckpointError):
            return trained_config(run.place, step)
    return None


def check_side_files(config, folder: Path, allow_change: bool) -> None:
    """Records the checksums of the files of data.side; CheckpointError where one was replaced since the run began."""
    found, before = side_checksums(config.data.side), recorded_side_files(folder)
    changed = other_files(found, before)
    if changed and not allow_change:
        fix = "Put them back, or allow the others with --allow_config_change."
        raise CheckpointError(
            "data.side", f"other files for {', '.join(changed)}", "those that the run began with", fix
        )
    if found != before:
        log_event(folder, "side files", files=found)


def recorded_side_files(folder: Path) -> dict[str, str]:
    """{entry: checksum} of the files of data.side that a run has been told of last, by its history in `folder`."""
    recorded = (event.get("files") for event in reversed(read_history(folder)) if event["event"] == "side files")
    return next((files for files in recorded if isinstance(files, dict)), {})


def recorded_images(folder: Path) -> tuple[object, object, object] | None:
    """(step, images before, images after) of the last change of images that was allowed, by the history in `folder`."""
    found = [event for event in read_history(folder) if event["event"] == "other images"]
    return tuple(found[-1].get(name) for name in ("step", "before", "now")) if found else None


def other_files(found: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """The entries of data.side whose files have another checksum than before."""
    return sorted(name for name in found.keys() & before.keys() if found[name] != before[name])


def other_data(config, run: RunFolder) -> str:
    """What differs between the data that a run has learned from and that of today, in words; "" for nothing.

    Data that can no longer be read differs in nothing: a finished run does not need it. All processes call it, and have
    the answer of the first.
    """
    found = ""
    with contextlib.suppress(UserError, OSError):
        before, now = images_of(run.place), identify_images(config, fingerprints_of(config.data))
        if before not in ("", now):
            found = f"images {before}, today {now}"
        elif files := other_files(side_checksums(config.data.side), recorded_side_files(run.files)):
            found = f"other files for {', '.join(files)} of data.side"
    return allgather_text("data of the run", found)[0]
