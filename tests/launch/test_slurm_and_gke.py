"""Slurm queues a stopped run again, and only such a run; kubectl and XPK get what the dry run shows."""

import json

import pytest
import yaml

from xsample_jax.errors import BAD_INPUT, FAILED, FINISHED, INCOMPLETE, REQUEUE

COUNTING = "tests.launch.counting_trainer"


def slurm(cloud, folder, code):
    """Runs the job whose trainer ends with `code`."""
    folder.mkdir(exist_ok=True)
    (folder / "codes-0.json").write_text(json.dumps([code]))
    words = ("--config=c.py", f"--workdir={folder}")
    answer = cloud.launch("slurm.sbatch", *words, trainer=COUNTING, SLURM_JOB_ID="17")
    assert answer.returncode == code, answer.stderr


@pytest.mark.parametrize(
    ("code", "job", "requeued"),
    [(FINISHED, "RUNNING", 0), (FAILED, "RUNNING", 0), (BAD_INPUT, "RUNNING", 0), (REQUEUE, "RUNNING", 1),
     (REQUEUE, "CANCELED", 0), (INCOMPLETE, "RUNNING", 1), (INCOMPLETE, "CANCELED", 0)],
)  # fmt: skip
def test_slurm_queues_again_what_was_stopped_from_outside_or_lacked_a_process(cloud, tmp_path, code, job, requeued):
    cloud.plan(job=job)
    slurm(cloud, tmp_path / "run", code)
    assert cloud.calls("scontrol requeue 17") == requeued
    assert cloud.calls("srun") == 1
    assert (tmp_path / "run" / "logs").is_dir()


def test_slurm_does_not_wait_for_ever_for_a_process_that_never_comes(cloud, tmp_path):
    cloud.plan()
    missed = tmp_path / "run" / "logs" / "17.missed"
    missed.parent.mkdir(parents=True)
    missed.write_text("\n" * 5)
    slurm(cloud, tmp_path / "run", INCOMPLETE)
    assert cloud.calls("scontrol requeue 17") == 0
    slurm(cloud, tmp_path / "run", REQUEUE)
    assert not missed.exists()  # only starts in a row count
    slurm(cloud, tmp_path / "run", INCOMPLETE)
    assert cloud.calls("scontrol requeue 17") == 2


@pytest.mark.parametrize("code", [0, 1])
def test_kubectl_gets_the_manifest_and_its_failure_is_told(cloud, code):
    cloud.plan(answer=code)
    words = ("run", "--name=x", "--image=i", "--", "--config=c.py", "--workdir=gs://lab/run")
    assert cloud.launch("gke.sh", *words, trainer=COUNTING).returncode == code
    assert cloud.calls("kubectl apply --filename=-") == 1
    assert yaml.safe_load((cloud.folder / "stdin").read_text())["kind"] == "JobSet"


def test_xpk_starts_again_what_the_trainer_calls_requeue(cloud):
    cloud.plan()
    words = ("run", "--cluster=c", "--zone=z", "--project=p", "--name=x", "--type=t", "--image=i")
    trainer = ("--", "--config=c.py", "--workdir=gs://lab/run")
    assert cloud.launch("xpk.sh", *words, *trainer, trainer=COUNTING).returncode == 0
    (call,) = (cloud.folder / "calls.log").read_text().splitlines()
    assert f"--restart-on-exit-codes={INCOMPLETE},{REQUEUE}" in call
    assert "'--command=launch/worker.sh run --config=c.py --workdir=/gcs/lab/run'" in call
