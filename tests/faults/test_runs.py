"""Faults in the loop itself: steps that are not finite, a disk that is full, an evaluation that is cut off."""

import json
import os
import resource
import signal
import time
import types

import jax
import numpy as np
import pytest

import xsample_jax.hooks
import xsample_jax.loop
from tests.objectives.synthetic import LinearEncoder
from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.errors import DivergedError, SaveError
from xsample_jax.faults.preemption import Preempted
from xsample_jax.io.run_dir import read_history
from xsample_jax.loop import train
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import towers
from xsample_jax.sharding import to_global


@pytest.fixture(autouse=True)
def _cheap(monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    monkeypatch.setattr(xsample_jax.loop, "write_report", lambda runs, path: None)


def a_config(**changes):
    return tiny_config(**{"steps": 8, "checkpoint__every": 2, "log__every": 1} | changes)


def steps_of(folder):
    return [line["step"] for line in read_jsonl(folder / "metrics.jsonl")]


def last_progress(config, folder):
    checkpoints = Checkpoints(folder, config.checkpoint, own=False)
    parts, _ = xsample_jax.loop.build_run(config)
    progress = checkpoints.restore(parts.abstract_state)[1]
    checkpoints.close()
    return progress


@pytest.fixture
def poison(monkeypatch):
    """poison(is_bad): batches whose position in the data is_bad have one caption embedding that is infinite.

    The list it returns fills with the positions of the batches that are trained on.
    """

    def install(is_bad):
        inner, seen = xsample_jax.loop.train_batches, []

        class Poisoned:
            def __init__(self, examples, config, start, *processes):
                self._batches, self._position, self._size = inner(examples, config, start, *processes), start, 16

            def __next__(self):
                batch = dict(next(self._batches))
                if is_bad(self._position):
                    batch["caption_embedding"] = batch["caption_embedding"].copy()
                    batch["caption_embedding"][3, 0] = np.inf
                batch["position"] = np.full(len(batch["id"]), self._position)
                self._position += self._size
                return batch

            def close(self):
                self._batches.close()

        hold = xsample_jax.hooks.DeferredMetrics.defer

        def recording(self, late):
            assert (late.batch["position"] == late.data_position).all()
            seen.append(late.data_position)
            hold(self, late)

        monkeypatch.setattr(xsample_jax.loop, "train_batches", Poisoned)
        monkeypatch.setattr(xsample_jax.hooks.DeferredMetrics, "defer", recording)
        return seen

    return install


def test_stop_names_the_batch_and_saves_nothing_of_it(tmp_path, poison):
    poison(lambda position: position == 3 * 16)  # step 4, after which a checkpoint would be due
    config = a_config()
    with pytest.raises(DivergedError, match=r"gradient_norm at step 4 = nan.*step-4-process-0\.json"):
        train(config, tmp_path)
    dump = json.loads((tmp_path / "faults" / "step-4-process-0.json").read_text())
    assert len(dump["ids"]) == 16
    assert dump["batch"]["caption_embedding"]["ids_not_finite"] == [dump["ids"][3]]
    assert dump["data_position"] == 48
    assert dump["metrics"]["gradient_norm"] == "nan"  # (the loss itself is finite here: it never was a sure sign)
    assert dump["embeddings"]["rows_not_finite"] == 0  # the images were fine, so the fault is on the caption's side
    assert next(iter(dump["gradient_norms"].values())) == "nan"
    assert last_progress(config, tmp_path).step == 2  # the checkpoint of step 4 would hold the fault
    assert steps_of(tmp_path) == [1, 2, 3, 4]
    assert read_history(tmp_path)[-1]["event"] == "the run stops"
    with pytest.raises(DivergedError, match="step 4"):  # again the same
        train(config, tmp_path)


def test_skip_leaves_the_state_as_it_was_but_for_the_counts():
    config = a_config(faults__non_finite="skip", objective__preset="moco", objective__queue=32)
    parts = tiny_parts(config, jax.devices()[:2])

    def batch(seed, poisoned):
        values = {name: value for name, value in random_batch(config, seed).items() if name in parts.abstract_batch}
        return to_global(values, parts.mesh)

    state, metrics = parts.train_step(parts.new_state(), batch(0, False))
    assert bool(metrics["finite"])
    before = jax.device_get(state)
    spoilt = jax.tree.map(lambda x: x, before)
    name = next(name for name in spoilt.memory if name.startswith("queue/z"))
    spoilt.memory[name] = np.full_like(spoilt.memory[name], np.nan)
    placed = jax.device_put(spoilt, jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state))
    state, metrics = parts.train_step(placed, batch(1, True))
    assert not bool(metrics["finite"])
    after = jax.device_get(state)
    assert after.step == before.step + 1
    for old, new in ((before.params, after.params), (before.statistics, after.statistics)):
        for key in old:
            np.testing.assert_array_equal(new[key], old[key], err_msg=key)
    for key in before.memory:
        if key != name:
            np.testing.assert_array_equal(after.memory[key], before.memory[key], err_msg=key)
    for old, new in zip(jax.tree.leaves(before.opt_state), jax.tree.leaves(after.opt_state), strict=True):
        counts = np.issubdtype(np.asarray(old).dtype, np.integer)
        np.testing.assert_array_equal(new, old + 1 if counts else old)


def test_skip_goes_on_counts_and_has_a_limit(tmp_path, poison):
    seen = poison(lambda position: position == 3 * 16)
    config = a_config(faults__non_finite="skip", faults__skips=2)
    train(config, tmp_path / "once")
    assert seen == [16 * k for k in range(8)]
    progress = last_progress(config, tmp_path / "once")
    assert (progress.step, progress.skipped, progress.skipped_in_a_row) == (8, 1, 0)
    lines = read_jsonl(tmp_path / "once" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert lines[-1]["skipped_updates"] == 1
    assert np.isfinite([line["loss"] for line in lines[4:]]).all()

    poison(lambda position: position >= 3 * 16)
    with pytest.raises(DivergedError, match=r"step 6 .* after 2 skipped in a row"):
        train(config, tmp_path / "ever")


def test_rollback_goes_back_once_and_on_behind_the_bad_batch(tmp_path, poison):
    seen = poison(lambda position: position == 4 * 16)
    config = a_config(faults__non_finite="rollback")
    train(config, tmp_path / "once")
    # Steps 1 to 5, and 6 before anyone had looked at 5; then, from the checkpoint of step 4, what comes after batch 5.
    assert [position // 16 for position in seen] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    progress = last_progress(config, tmp_path / "once")
    assert (progress.step, progress.data_position, progress.rollbacks) == (8, 9 * 16, 1)
    assert steps_of(tmp_path / "once") == [1, 2, 3, 4, 5, 6, 7, 8]
    assert np.isfinite([line["loss"] for line in read_jsonl(tmp_path / "once" / "metrics.jsonl")]).all()

    poison(lambda position: position >= 4 * 16)
    with pytest.raises(DivergedError, match="after 3 roll-backs"):
        train(config, tmp_path / "ever")
    assert len([e for e in read_history(tmp_path / "ever") if e["event"] == "the run rolls back"]) == 3


def test_a_full_disk_in_the_middle_loses_nothing(tmp_path, monkeypatch, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    place, number = xsample_jax.loop.to_global, iter(range(100))

    def full_from_3_to_5(batch, mesh):
        if (now := next(number)) in (2, 5):
            checkpoints_at_rest.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (10 if now == 2 else soft, hard))
        return place(batch, mesh)

    made = xsample_jax.loop.Checkpoints

    def remember(*args, **kwargs):
        nonlocal checkpoints_at_rest
        checkpoints_at_rest = made(*args, **kwargs)
        return checkpoints_at_rest

    checkpoints_at_rest = None
    monkeypatch.setattr(xsample_jax.loop, "Checkpoints", remember)
    monkeypatch.setattr(xsample_jax.loop, "to_global", full_from_3_to_5)
    try:
        train(a_config(), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert error.count("error at step 4, the run continues") == 1
    assert "wait in memory" in error
    assert steps_of(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [6, 8]


def test_a_last_checkpoint_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    def fails(self, step, **kwargs):
        if step == 8:
            raise OSError(28, "No space left on device")
        return save(self, step, **kwargs)

    import orbax.checkpoint as ocp

    save = ocp.CheckpointManager.save
    with monkeypatch.context() as broken:
        broken.setattr(ocp.CheckpointManager, "save", fails)
        with pytest.raises(SaveError, match="No space left"):
            train(a_config(), tmp_path)
    assert not (tmp_path / "evaluation.json").exists()
    assert last_progress(a_config(), tmp_path).step == 6


def test_an_evaluation_that_is_cut_off_is_made_up_for(tmp_path, monkeypatch):
    calls = []

    def slow(parts, state):
        calls.append(int(state.step))
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)  # the signal ends it
        return types.SimpleNamespace(metrics={"probe": 0.5}), None

    monkeypatch.setattr(xsample_jax.hooks, "evaluate_state", slow)
    config = a_config(steps=5, eval__suite="emoji", eval__split="val", eval__every=3, checkpoint__every=100)
    monkeypatch.setattr(xsample_jax.loop, "_finish", lambda *args: {})
    with pytest.raises(Preempted):
        train(config, tmp_path)
    assert last_progress(config, tmp_path).evaluated is False
    train(config, tmp_path)
    assert calls == [3, 3]
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "eval/probe" in line] == [3]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5]
