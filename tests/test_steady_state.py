"""The loop in its steady state: nothing is compiled, nothing moves between host and device unasked."""

import jax
import numpy as np
import pytest

import xsample_jax.loop
from tests.host_reads import HostReads
from tests.tiny import tiny_config
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.hooks import DeferredMetrics
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import resnet

pytestmark = pytest.mark.usefixtures("no_report")


def test_steps_log_and_save_without_hidden_transfers_or_compilations(tmp_path, monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    reads, steps_seen = HostReads(monkeypatch), []
    # What may read: the metrics of an earlier step, in one explicit transfer, and the checkpoint.
    monkeypatch.setattr(DeferredMetrics, "settle", reads.allow_in(DeferredMetrics.settle))
    monkeypatch.setattr(Checkpoints, "save", reads.allow_in(Checkpoints.save))

    class Timers(xsample_jax.loop.Timers):
        def step(self):
            super().step()
            steps_seen.append(reads.count)

    monkeypatch.setattr(xsample_jax.loop, "Timers", Timers)
    config = tiny_config(steps=8, log__every=1, checkpoint__every=2, optimizer__ema=0.9, objective__preset="moco",
                         objective__queue=32, log__profile=(6, 2))  # fmt: skip
    # The guard is on for the whole of it: explicit device_put and device_get are all that is allowed.
    with jax.transfer_guard("disallow"):
        xsample_jax.loop.train(config, tmp_path)
    assert len(steps_seen) == 8
    assert len(set(steps_seen)) == 1, f"values read by the host up to each step: {steps_seen}"

    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1  # a profile reads nothing either

    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 9))
    compiled = [line["compilations"] for line in lines]
    assert compiled[0] > 0
    # Step 1 compiles the step and the first checkpoint, before step 3, the copies that it makes.
    assert len(set(compiled[3:])) == 1, compiled


def test_the_guards_of_this_test_see_what_they_should(monkeypatch):
    reads = HostReads(monkeypatch)
    double = jax.jit(lambda x: 2 * x)
    number = double(jax.device_put(np.float32(1)))
    with jax.transfer_guard("disallow"):
        with pytest.raises(Exception, match="transfer"):
            double(np.ones(3, np.float32))
        assert reads.count == 0
        assert float(number) == 2
        assert reads.count == 1
        with reads.allowed():
            assert jax.device_get(double(number)) == 4
    assert reads.count == 1
