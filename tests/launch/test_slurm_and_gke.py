"""Slurm queues a stopped run again, and only such a run; kubectl and XPK get what the dry run shows."""

import json

import pytest
import yaml

from xsample_jax.exit_codes import BAD_INPUT, FAILED, FINISHED, REQUEUE

COUNTING = "tests.launch.counting_trainer"


@pytest.mark.parametrize(
    ("code", "job", "requeued"),
    [(FINISHED, "RUNNING", 0), (FAILED, "RUNNING", 0), (BAD_INPUT, "RUNNING", 0), (REQUEUE, "RUNNING", 1),
     (REQUEUE, "CANCELLED", 0)],
)  # fmt: skip
def test_slurm_queues_again_what_was_stopped_from_outside(cloud, tmp_path, code, job, requeued):
    cloud.plan(job=job)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "codes-0.json").write_text(json.dumps([code]))
    words = ("--config=c.py", f"--workdir={tmp_path / 'run'}")
    answer = cloud.launch("slurm.sbatch", *words, trainer=COUNTING, SLURM_JOB_ID="17")
    assert answer.returncode == code, answer.stderr
    assert cloud.calls("scontrol requeue 17") == requeued
    assert cloud.calls("srun") == 1
    assert (tmp_path / "run" / "logs").is_dir()


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
    assert f"--restart-on-exit-codes={REQUEUE}" in call
    assert "'--command=launch/worker.sh run --config=c.py --workdir=/gcs/lab/run'" in call
