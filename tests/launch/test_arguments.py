"""Missing, unknown and dangerous arguments: exit code 2, one line that says which, and nothing is run."""

import subprocess

import pytest

from tests.launch.cases import ROOT
from xsample_jax.errors import BAD_INPUT

SLICE = "--name=n --zone=z"
TRAINER = "-- --config=c.py --workdir=gs://b/r"
WRONG = {
    "tpu_vm.sh": "unknown action ''",
    "tpu_vm.sh destroy": "unknown action 'destroy'. Known: create setup run",
    "tpu_vm.sh create --zone=z --type=t": "--name is missing",
    f"tpu_vm.sh create {SLICE}": "--type is missing",
    f"tpu_vm.sh create {SLICE} --type=": "--type is missing",
    f"tpu_vm.sh create {SLICE} --tpye=t": "unknown option --tpye. Known: --name --zone",
    f"tpu_vm.sh create {SLICE} --type --spot": "--type needs a value",
    f"tpu_vm.sh create {SLICE} --type=t --spot=yes": "--spot takes no value",
    f"tpu_vm.sh create {SLICE} t": "unexpected argument 't'",
    f"tpu_vm.sh run {SLICE}": "--config=configs/NAME.py is missing after --",
    f"tpu_vm.sh run {SLICE} -- --config=c.py": "--workdir=FOLDER is missing after --",
    f"tpu_vm.sh run {SLICE} -- --config=c.py --workdir=/tmp/r": "expected gs://BUCKET/FOLDER",
    f"tpu_vm.sh run {SLICE} {TRAINER} --wandb_api_key=x": "--wandb_api_key: no secrets on a command line",
    f"queued.sh create {SLICE} {TRAINER}": "--type is missing",
    f"tpu_vm.sh run {SLICE} --wandb-secret=a/key= {TRAINER}": "expected the name of a secret",
    f"babysit.sh {SLICE} --type=t --via=magic {TRAINER}": "--via=magic: expected queued or tpu_vm",
    f"babysit.sh {SLICE} --type=t --seconds=soon {TRAINER}": "--seconds=soon: expected a number",
    "xpk.sh run --cluster=c --zone=z --project=p --name=n --type=t": "--image is missing",
    f"gke.sh run --name=n --image=i --topology=8 {TRAINER}": "--topology=8: expected 8x8",
    f"gke.sh run --name=n --image=i --topology=3x3 {TRAINER}": "cannot be cut into hosts of 4 chips",
    f"gke.sh run --name=n --image=i {TRAINER} --config.data.path=gs://c/d": "several buckets (b c)",
    f"gke.sh run --name=n --image=i --wandb-secret=A1b2C3 {TRAINER}": "name of a Kubernetes secret, not a key",
    f"xpk.sh run --cluster=c --zone=z --project=p --name=n --type=t --image=i --wandb-secret=s {TRAINER}": "plain text",
    f"gpu_host.sh run {TRAINER}": "mount the bucket",
    "gpu_host.sh run --gpus=all -- --config=c --workdir=r": "--gpus=all: expected numbers",
    "slurm.sbatch --workdir=r": "--config=configs/NAME.py is missing",
    "slurm.sbatch --config=c --workdir=r": "not in a job",
    "worker.sh run --config=c": "--workdir=FOLDER is missing",
}


@pytest.mark.parametrize("line", WRONG)
def test_it_says_what_is_wrong(line, tmp_path):
    script, *words = line.split()
    environment = {"PATH": "/usr/bin:/bin", "XSAMPLE_STATE": str(tmp_path)}
    command = ["bash", f"launch/{script}", *words]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert answer.returncode == BAD_INPUT
    assert answer.stderr.startswith("error: ")
    assert WRONG[line] in answer.stderr
    assert answer.stdout == ""


def test_help_is_the_comment_at_the_top():
    answer = subprocess.run(["bash", "launch/babysit.sh", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0
    assert answer.stdout.startswith("Keeps a run going until it is finished")
    assert "--patience=10" in answer.stdout
