"""A real run of two processes whose slice is taken away and whose workers are stopped ends as if nothing had been."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.io.test_roll_call import free_address
from tests.launch.cases import ROOT
from tests.lives import SAME
from tests.xla_flags import QUICK
from xsample_jax.errors import FINISHED
from xsample_jax.io.run_dir import read_history
from xsample_jax.metrics.jsonl import read_jsonl

pytestmark = pytest.mark.slow
SLICE = ("--name=xclr", "--zone=z", "--type=v5litepod-8", "--seconds=0.5", "--patience=60")


RUN = (f"--config={ROOT / 'tests' / 'lives_config.py'}", "--config.steps=20")


def train(cloud):
    return cloud.launch(
        "babysit.sh", *SLICE, "--", *RUN, "--workdir=gs://lab/run",
        trainer="tests.launch.linear_trainer", JAX_PLATFORMS="cpu", XLA_FLAGS=QUICK,
        JAX_COMPILATION_CACHE_DIR=str(cloud.folder / "cache"),
    )  # fmt: skip


def arrays(folder):
    """The arrays of the last checkpoint by name, read on one device though two processes have written them."""
    state = folder / "checkpoints" / "20" / "state"
    with ocp.PyTreeCheckpointer() as reader:
        tree = reader.metadata(state).item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        saved = reader.restore(state, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(keys): np.asarray(value) for keys, value in jax.tree.flatten_with_path(saved)[0]}


def same_end(one, other):
    expected, found = arrays(one), arrays(other)
    assert found.keys() == expected.keys()
    assert any(np.abs(value).max() > 0 for name, value in expected.items() if "params" in name)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    lines = [[{key: line[key] for key in SAME if key in line} | {"step": line["step"]}
              for line in read_jsonl(folder / "metrics.jsonl")] for folder in (one, other)]  # fmt: skip
    assert json.dumps(lines[0]) == json.dumps(lines[1])
    assert [line["step"] for line in lines[0]] == list(range(1, 21))


@pytest.fixture
def whole(forks, tmp_path):
    """The folder of a run of the same two processes without a cloud."""
    place = (f"--coordinator_address={free_address()}", "--num_processes=2")
    lists = [[*RUN, *place, f"--process_id={number}", f"--workdir={tmp_path / 'whole'}"] for number in range(2)]
    ended = forks.run("tests.launch.linear_trainer", lists, {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK})
    assert [code for code, *_ in ended] == [FINISHED] * 2, ended
    return tmp_path / "whole"


def test_the_parameters_are_those_of_an_undisturbed_run(tmp_path, make_cloud, whole):
    disturbed = make_cloud(tmp_path / "disturbed")
    log = str(disturbed.bucket("lab/run/metrics.jsonl"))
    disturb = [{"at": 5, "how": "gone"}, {"at": 9, "how": "term"}]
    disturbed.plan(workers=2, create_failures=1, slow={"1": 2}, log=log, disturb=disturb)
    answer = train(disturbed)
    assert answer.returncode == FINISHED, answer.stderr
    assert disturbed.calls("gcloud compute tpus queued-resources create") == 3
    assert "starting the trainer (75)" in answer.stderr
    events = [event["event"] for event in read_history(disturbed.bucket("lab/run"))]
    assert "stopped from outside" in events
    same_end(whole, disturbed.bucket("lab/run"))
