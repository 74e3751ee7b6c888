"""Killed at random, stopped by signals, moved to other devices: a run ends in the very state it would have ended in."""

import functools
import os
import random
import signal

import jax
import numpy as np
import pytest

import xsample_jax.loop
import xsample_jax.sharding
from benchmarks.soak import soak
from tests.lives import Lives, differences
from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config
from xsample_jax.errors import BAD_INPUT, FINISHED, REQUEUE
from xsample_jax.faults.preemption import Preempted
from xsample_jax.io.code_version import TRAINS, trained_by
from xsample_jax.io.run_dir import read_history
from xsample_jax.loop import train
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import towers
from xsample_jax.setup import build_run
from xsample_jax.sharding import make_mesh


@pytest.fixture(scope="module")
def lives():
    with Lives() as server:
        yield server


@pytest.fixture(scope="module")
def whole(lives, tmp_path_factory):
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    life = lives.run(folder)
    assert life.code == FINISHED, life.err
    assert [line["step"] for line in read_jsonl(folder / "metrics.jsonl")] == list(range(1, 13))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_anywhere_the_run_ends_bit_identical(lives, whole, tmp_path, seed):
    rng = random.Random(seed)
    codes = []
    for _ in range(2):
        life = lives.run(tmp_path, signals=[(rng.randint(1, 10), rng.uniform(0, 0.1), signal.SIGKILL)])
        codes.append(life.code)
        assert life.code in (-signal.SIGKILL, FINISHED), life.err
    if codes[-1] != FINISHED:
        last = lives.run(tmp_path)
        assert last.code == FINISHED, last.err
    assert differences(whole, tmp_path) == (0, [])


@pytest.mark.slow
def test_unlearning_is_the_same_after_a_kill(lives, tmp_path):
    """Batches of kept and forgotten images by plan: killed in step 5, with a checkpoint of step 4."""
    options = ["--config.objective.preset=unlearning", "--config.data.label=group", "--config.views=1"]
    options += ["--config.steps=8"]
    options += ["--config.data.forget.classes=(5,)"]
    whole = lives.run(tmp_path / "whole", *options)
    assert whole.code == FINISHED, whole.err
    killed = lives.run(tmp_path / "killed", *options, signals=[(5, 0, signal.SIGKILL)])
    assert killed.code == -signal.SIGKILL, killed.err
    again = lives.run(tmp_path / "killed", *options)
    assert again.code == FINISHED, again.err
    assert differences(tmp_path / "whole", tmp_path / "killed") == (0, [])


@pytest.mark.slow
def test_clusters_of_a_bank_are_the_same_after_a_kill(lives, tmp_path):
    """They are renewed in steps 3, 5, 7 and 9; the run is killed in step 8, with a checkpoint of step 6."""
    section = {"k": "(4,9)", "start": "3", "every": "2"}
    options = [f"--config.objective.clusters.{name}={value}" for name, value in section.items()]
    options += ["--config.objective.preset=meow", "--config.views=2", "--config.objective.bank.momentum=0.5"]
    options += ["--config.steps=10"]
    assert lives.run(tmp_path / "whole", *options).code == FINISHED
    killed = lives.run(tmp_path / "killed", *options, signals=[(8, 0, signal.SIGKILL)])
    assert killed.code == -signal.SIGKILL, killed.err
    again = lives.run(tmp_path / "killed", *options)
    assert again.code == FINISHED, again.err
    assert "resumed at step" in again.out
    assert differences(tmp_path / "whole", tmp_path / "killed") == (0, [])


@pytest.mark.slow
def test_stopped_by_signals_it_saves_and_asks_to_be_started_again(lives, whole, tmp_path):
    # No periodic checkpoint at all: what is there is what the signal has saved.
    never = "--config.checkpoint.every=100"
    term = lives.run(tmp_path, never, signals=[(5, 0, signal.SIGTERM)])
    assert term.code == REQUEUE, term.err
    assert "SIGTERM: saving and stopping within 25 s" in term.err
    assert "Traceback" not in term.err
    interrupted = lives.run(tmp_path, never, signals=[(3, 0, signal.SIGINT)])
    assert interrupted.code == REQUEUE, interrupted.err
    assert "resumed at step 5 of 12" in interrupted.out
    assert [event["step"] for event in read_history(tmp_path) if event["event"] == "stopped from outside"] == [5, 8]
    assert lives.run(tmp_path, never).code == FINISHED
    starts = [event for event in read_history(tmp_path) if event["event"] == TRAINS]
    assert [event["step"] for event in starts] == [0, 5, 8]
    assert trained_by(tmp_path) == [starts[0]["code"]]  # the same code all along
    assert differences(whole, tmp_path) == (0, [])
    done = lives.run(tmp_path, never)
    assert done.code == FINISHED
    assert "finished" in done.out


@pytest.mark.slow
def test_a_second_signal_and_the_end_of_the_grace_both_end_at_once(lives, tmp_path):
    slow = "import xsample_jax.loop as t, time; f = t.Checkpoints.save; t.Checkpoints.save = lambda *a: time.sleep(60)"
    never = "--config.checkpoint.every=100"
    again = lives.run(tmp_path / "again", never, signals=[(3, 0, signal.SIGTERM), (3, 0.5, signal.SIGINT)], hook=slow)
    assert again.code == REQUEUE
    assert "SIGINT again: stopping at once" in again.err
    late = lives.run(tmp_path / "late", never, "--config.faults.grace=0.5", signals=[(3, 0, signal.SIGTERM)], hook=slow)
    assert late.code == REQUEUE
    assert "stopping unsaved: 0.5 s are over" in late.err


@pytest.mark.slow
def test_a_changed_config_is_listed_and_taken_over_only_when_allowed(lives, tmp_path):
    assert lives.run(tmp_path, "--config.steps=4").code == FINISHED
    refused = lives.run(tmp_path, "--config.steps=6")
    assert refused.code == BAD_INPUT
    assert "steps was 4, is now 6" in refused.err
    assert "--allow_config_change" in refused.err
    assert "Traceback" not in refused.err
    allowed = lives.run(tmp_path, "--config.steps=6", "--allow_config_change")
    assert allowed.code == FINISHED, allowed.err
    assert "resumed at step 4 of 6" in allowed.out
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    (event,) = [event for event in read_history(tmp_path) if event["event"] == "the config changed"]
    assert event["keys"] == {"steps": [4, 6]}
    assert lives.run(tmp_path, "--config.steps=6").code == FINISHED  # it is this run's config now


@pytest.mark.slow
def test_a_few_seconds_of_random_disturbances_lose_no_bit(lives, tmp_path):
    """benchmarks/soak.py: kills, signals, full disks and damage."""
    result = soak(lives, tmp_path, 0.1, ["--config.steps=20"], seed=1)
    assert result.bits == 0
    assert result.runs >= 1
    assert result.lives > result.runs


def run_on(monkeypatch, devices, config, folder, stop_after=None, **options):
    """Trains on some of the devices; SIGTERM comes with its batch number `stop_after`. Returns ids of batches."""
    seen, place = [], xsample_jax.sharding.to_global

    def to_global(batch, mesh):
        seen.append(np.sort(batch["id"]))
        if len(seen) == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)
        return place(batch, mesh)

    mesh = make_mesh(config.mesh, config.batch_size, jax.devices()[:devices])
    monkeypatch.setattr(xsample_jax.loop, "build_run", functools.partial(build_run, mesh=mesh))
    monkeypatch.setattr(xsample_jax.loop, "to_global", to_global)
    monkeypatch.setattr(xsample_jax.loop, "write_report", lambda runs, path: None)
    if stop_after is None:
        train(config, folder, **options)
    else:
        with pytest.raises(Preempted):
            train(config, folder)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["moco", "sogclr"])
def test_other_devices_see_the_same_batches_and_the_same_losses(monkeypatch, tmp_path, preset):
    """4 -> 1 -> 8 devices are 8, with all an objective may remember: queue, EMA encoder, numbers of single images."""
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    changes = {"objective__queue": 32} if preset == "moco" else {}
    config = tiny_config(steps=8, checkpoint__every=100, objective__preset=preset, **changes)
    expected = run_on(monkeypatch, 8, config, tmp_path / "whole")
    found = []
    for devices, stop_after in ((4, 2), (1, 2), (8, None)):
        found += run_on(monkeypatch, devices, config, tmp_path / "moved", stop_after)
    np.testing.assert_array_equal(found, expected)
    one, other = (read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("whole", "moved"))
    assert [line["step"] for line in other] == list(range(1, 9))
    np.testing.assert_allclose([line["loss"] for line in other], [line["loss"] for line in one], rtol=1e-5)


@pytest.mark.slow
def test_with_another_batch_size_the_data_go_on_where_they_stood(monkeypatch, tmp_path):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    expected = run_on(monkeypatch, 1, tiny_config(steps=8), tmp_path / "whole")
    assert len(run_on(monkeypatch, 1, tiny_config(steps=8), tmp_path / "changed", stop_after=4)) == 4
    doubled = tiny_config(steps=6, batch_size=32)
    found = run_on(monkeypatch, 1, doubled, tmp_path / "changed", allow_config_change=True)
    np.testing.assert_array_equal(found, [np.sort(np.concatenate(expected[i : i + 2])) for i in (4, 6)])
    assert [line["step"] for line in read_jsonl(tmp_path / "changed" / "metrics.jsonl")] == list(range(1, 7))
