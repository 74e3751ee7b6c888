"""Several processes over loopback are one run, whatever their number: its rows, losses, scores; and they resume it."""

import json
import pathlib
import shutil

import numpy as np
import pytest

from tests.io.test_roll_call import free_address
from tests.xla_flags import UNOPTIMIZED
from xsample_jax.errors import BAD_INPUT, INCOMPLETE
from xsample_jax.io.run_dir import read_history
from xsample_jax.metrics.jsonl import read_jsonl

pytestmark = pytest.mark.slow

RUN = (
    "--config=configs/quickstart.py:smoke", "--config.steps=6", "--config.checkpoint.every=2",
    "--config.checkpoint.keep_latest=3", "--config.eval.suite=probe", "--config.eval.train_split=val",
    "--config.eval.split=val_styles", "--config.eval.batch_size=90", "--config.augment.jitter=0.0",
    "--config.augment.gray=0.0", "--config.augment.crop_scale=()",
    # Parameters and optimizer state split over processes, an EMA encoder, a queue whose order matters, batch norms.
    "--config.objective.preset=moco", "--config.objective.queue=32", "--config.mesh.fsdp=4",
    "--config.model.head.hidden=(128,128)",
    # Adam makes steps of rounding errors where a gradient is zero, as that of a bias before a batch norm.
    "--config.optimizer.name=sgd",
)  # fmt: skip
NO_SCORES = "--config.eval.suite=none"


@pytest.fixture(scope="module")
def launch(forks):
    """(module, [arguments of a process], devices of each) -> [(exit code, stdout, stderr)]"""

    def launch(module, argument_lists, devices):
        flags = f"--xla_force_host_platform_device_count={devices} {UNOPTIMIZED}"
        return forks.run(module, argument_lists, {"XLA_FLAGS": flags})

    return launch


def place(address, processes, index):
    return [f"--coordinator_address={address}", f"--num_processes={processes}", f"--process_id={index}"]


@pytest.fixture(scope="module")
def train(launch):
    def train(folder, processes, devices, *flags, module="tests.recorded_run"):
        """Trains in `folder`; returns the (stdout, stderr) of each process."""
        address = free_address()
        arguments = [
            [f"{folder}.{index}.ids", f"--workdir={folder}", *RUN, *flags]
            + (place(address, processes, index) if processes > 1 else [])
            for index in range(processes)
        ]
        ended = launch(module, arguments, devices)
        assert [code for code, _, _ in ended] == [0] * processes, "\n".join(stderr for _, _, stderr in ended)
        return [(stdout, stderr) for _, stdout, stderr in ended]

    return train


@pytest.fixture(scope="module")
def two(train, tmp_path_factory):
    """(folder, [(stdout, stderr)]) of a run of two processes that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("two") / "run"
    return folder, train(folder, 2, 2)


def records(folder):
    """[steps] of the lines that each process has recorded, processes in order."""
    files = sorted(folder.parent.glob(f"{folder.name}.*.ids"))
    return list(zip(*([json.loads(line) for line in file.read_text().splitlines()] for file in files), strict=True))


def global_ids(folder):
    """The ids of every step, in the order of the rows of the global batch."""
    return [[identity for process in step for identity in process["id"]] for step in records(folder)]


def losses(folder):
    lines = [line for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    return np.array([line["loss"] for line in lines])


def scores(folder):
    return json.loads((folder / "evaluation.json").read_text())


def assert_same_scores(a, b):
    assert scores(a).keys() == scores(b).keys() >= {"label/knn", "label/probe", "geometry/alignment"}
    for name, value in scores(a).items():
        # Accuracies are shares of 291 images, all counted once; one of them may lie on a boundary.
        tolerance = 1.5 / 291 if name.startswith("label") else 1e-3 * abs(value)
        assert abs(value - scores(b)[name]) <= tolerance, name


def continued(source, target, step):
    """A copy of a run folder as it was when it had got to `step`."""
    shutil.copytree(source, target)
    (target / "evaluation.json").unlink(missing_ok=True)
    for path in (target / "checkpoints").iterdir():
        if path.name.isdigit() and int(path.name) > step:
            shutil.rmtree(path)
    return target


def test_two_processes_are_one_process(train, two, tmp_path):
    """Four are in the next test."""
    one, (two, printed) = tmp_path / "one", two
    train(one, 1, 4)
    assert global_ids(two) == global_ids(one)
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    assert_same_scores(one, two)
    assert (two / "report_data.npz").exists()  # graphs of a state that is on both

    # Each process reads its half and nothing else (with what it has prefetched of steps to come).
    first, second = records(two)[-1]
    assert len(first["read"]) >= 6 * 8
    assert len(set(first["read"]) & set(second["read"])) <= 1  # the first record of the split, for the shapes

    # The first process says what there is and how it ended; the other is silent.
    # Gloo's ranks print at once, so that some of their lines are in two pieces.
    of_gloo = ("[Gloo]", "peer ranks")
    said = [
        "\n".join(line for line in text.splitlines() if not any(word in line for word in of_gloo))
        for text, _ in printed
    ]
    assert said[0].startswith("2 processes on 1 host(s), 4 cpu devices (flags, process 0 is 127.0.0.1")
    assert "finished at step 6" in said[0]
    assert said[1] == ""


def test_resumed_on_two_then_one_then_four_processes(train, two, tmp_path):
    whole, _ = two
    one = continued(whole, tmp_path / "one", 2)
    assert "resumed at step 2 of 6" in train(one, 1, 4, "--allow_config_change", NO_SCORES)[0][0]
    four = continued(one, tmp_path / "four", 4)
    assert "resumed at step 4 of 6" in train(four, 4, 2, "--allow_config_change", NO_SCORES)[0][0]
    assert global_ids(one) == global_ids(whole)[2:]
    assert global_ids(four) == global_ids(whole)[4:]
    for other in (one, four):
        np.testing.assert_allclose(losses(other), losses(whole), rtol=1e-5)


def test_a_process_that_cannot_write_its_part_costs_one_checkpoint(train, tmp_path):
    folder = tmp_path / "run"
    for _, stderr in train(folder, 2, 1, NO_SCORES, "--config.mesh.fsdp=2", module="tests.failing_write"):
        assert "error at step 4, the run continues" in stderr
        assert "No space left on device" in stderr
        assert "of process 1" in stderr
    assert [event["step"] for event in read_history(folder) if event["event"] == "a checkpoint was not written"] == [4]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["4", "6"]
    assert len(losses(folder)) == 6


def test_another_config_and_a_missing_process_are_named(launch, tmp_path):
    address = free_address()
    arguments = [
        [str(tmp_path / "ids"), f"--workdir={tmp_path / 'run'}", *RUN, *place(address, 3, index),
         f"--config.seed={index}", "--start_timeout=60"]
        for index in range(2)
    ]  # fmt: skip
    for code, _, stderr in launch("tests.recorded_run", arguments, 1):
        assert code == BAD_INPUT
        assert "config of process 1" in stderr
        assert "seed is 1, not 0" in stderr
        assert "Traceback" not in stderr
    for arguments_of in arguments:
        arguments_of[-2:] = ["--config.seed=0", "--start_timeout=5"]
    for code, _, stderr in launch("tests.recorded_run", arguments, 1):
        assert code == INCOMPLETE
        assert "missing: process 2" in stderr
        assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def test_meeting_points(launch, tmp_path):
    address, shared = free_address(), tmp_path / "shared"
    owns = [tmp_path / "own0", tmp_path / "own1"]
    arguments = [[address, str(index), str(shared), str(own)] for index, own in enumerate(owns)]
    ended = launch("tests.meeting_points", arguments, 2)
    assert [code for code, _, _ in ended] == [0, 0], "\n".join(stderr for _, _, stderr in ended)
    zero, one = (json.loads(pathlib.Path(f"{own}.json").read_text()) for own in owns)
    for seen in (zero, one):
        assert seen["exchanged"] == ["word 0", "word 1"]
        assert seen["gathered"]["doubled"] == (2 * np.arange(16).reshape(8, 2)).tolist()
        assert seen["gathered"]["row"] == list(range(8))
        assert "not seen by process 1 (host" in seen["not_shared"]
    assert (zero["rows"], one["rows"]) == ([0, 1, 4, 5], [2, 3, 6, 7])
    assert "missing: process 1." in zero["missing"]
    assert "processes at a meeting" in zero["missing"]
